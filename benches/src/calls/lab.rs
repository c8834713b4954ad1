//! Two users, their relay and the link between them, and how a call between them is begun and ended.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use p2p_net_sim::LinkConfig;

use super::Pinned;
use super::conditions::DELAY;
use super::numbers::Numbers;
use crate::emulator::{Emulator, End};
use crate::process::Watched;
use crate::programs::{Client, Machine, Relay};

/// The relay beyond the link.
const RELAY: &str = "10.77.1.2:443";
/// What a call may take to begin and to end, beyond its length.
const MARGIN: Duration = Duration::from_secs(60);
/// Seed of the link's fortunes.
const SEED: u64 = 20_261_121;

/// The namespaces of `lab/call-link` with all that runs in them.
pub(super) struct Lab {
    prefix: String,
    path: &'static str,
    pub(super) emulator: Emulator,
    caller: Client,
    callee: Client,
    _relay: Relay,
}

/// What one side gives and takes, in the words of the command line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) video: &'a str,
    pub(super) audio: &'a str,
    pub(super) speaker: &'a str,
    pub(super) measure: Option<&'a str>,
    pub(super) environment: &'a [(&'static str, OsString)],
}

impl Side<'_> {
    /// Gives and takes nothing.
    pub(super) const SILENT: Self = Self {
        video: "none",
        audio: "none",
        speaker: "none",
        measure: None,
        environment: &[],
    };
}

/// A call that runs.
pub(super) struct Running {
    pub(super) calling: Watched,
    pub(super) answering: Watched,
}

impl Lab {
    /// Starts the link, the relay and two users that know each other.
    pub(super) fn start(prefix: &str, pinned: Pinned, folder: &Path) -> Result<Self> {
        let ends = ["a", "c"].map(|name| End {
            namespace: format!("{prefix}{name}"),
            device: "ll0".to_owned(),
        });
        let emulator = Emulator::start(ends, LinkConfig::delay(DELAY), SEED)?;
        let [near, far, middle] =
            ["a", "b", "c"].map(|name| Machine::namespace(format!("{prefix}{name}")));
        let relay = Relay::start(&middle, &folder.join("relay"), RELAY, 3_478)?;
        let caller = Client::new(near, folder.join("caller"), relay.address.clone())?;
        let callee = Client::new(far, folder.join("callee"), relay.address.clone())?;
        // A stranger would be called back over the relay until somebody answers.
        callee.run(&["contacts", "add", &caller.id, "--name", "caller"])?;
        Ok(Self {
            prefix: prefix.to_owned(),
            path: match pinned {
                Pinned::Direct => "direct",
                Pinned::Relay => "relay",
            },
            emulator,
            caller,
            callee,
            _relay: relay,
        })
    }

    /// A namespace by its letter in `lab/call-link`.
    pub(super) fn namespace(&self, letter: char) -> String {
        format!("{}{letter}", self.prefix)
    }

    /// Begins a call: it finds its way over a perfect link, and goes on over `link`.
    pub(super) fn begin(
        &self,
        near: &Side<'_>,
        far: &Side<'_>,
        link: LinkConfig,
        length: Duration,
    ) -> Result<Running> {
        self.emulator.set_config(LinkConfig::delay(DELAY));
        let mut answering =
            self.start_side(&self.callee, far, &["answer", "--once", "--accept", "all"])?;
        answering.wait_line(MARGIN, |line| line.contains("ready").then_some(()))?;
        self.emulator.set_config(link);
        let seconds = length.as_secs().to_string();
        let call = ["call", &self.callee.id, "--for", &seconds, "--stats"];
        let mut calling = self.start_side(&self.caller, near, &call)?;
        calling.wait_line(MARGIN, |line| line.contains("\"began\"").then_some(()))?;
        Ok(Running { calling, answering })
    }

    fn start_side(&self, client: &Client, side: &Side<'_>, words: &[&str]) -> Result<Watched> {
        let mut arguments = words.to_vec();
        arguments.extend(["--path", self.path, "--video", side.video]);
        arguments.extend(["--audio", side.audio, "--speaker", side.speaker]);
        if let Some(folder) = side.measure {
            arguments.extend(["--measure", folder]);
        }
        let mut command = client.command(&arguments)?;
        command.envs(side.environment.iter().map(|(name, value)| (name, value)));
        Watched::start(command, &format!("landline {}", words[0]))
    }
}

impl Running {
    /// Waits for the end, and gives what the caller and the callee told.
    pub(super) fn end(self) -> Result<[Numbers; 2]> {
        let (_, called) = self.calling.wait_well(MARGIN)?;
        let (_, answered) = self.answering.wait_well(MARGIN)?;
        Ok([Numbers::of(&called), Numbers::of(&answered)])
    }
}

/// A path as a word of a command line.
pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
