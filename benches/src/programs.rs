//! The real programs as a user runs them: a relay and clients, each in a folder of its own, if need be in a
//! network namespace; their `--json` lines are read as any script would read them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{Watched, program};

/// Longest wait for a program to be ready or to answer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Letters of an id as text.
const ID_LEN: usize = 52;

/// The commands to run programs on one machine: this one, or a namespace that stands for another.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    namespace: Option<String>,
}

impl Machine {
    /// A network namespace of this machine, by name.
    pub fn namespace(name: String) -> Self {
        Self {
            namespace: Some(name),
        }
    }

    /// A command that runs `program` there.
    pub fn command(&self, program: &Path) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}

/// A running `landline-relay`.
pub struct Relay {
    /// The process.
    pub process: Watched,
    /// What it prints to be pasted.
    pub address: String,
}

impl Relay {
    /// Starts one that listens on `listen` (a port of 0 takes any), and waits for its address.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(machine: &Machine, folder: &Path, listen: &str, stun_port: u16) -> Result<Self> {
        let mut command = machine.command(&program("landline-relay")?);
        command.arg("--data-dir").arg(folder);
        command.args(["--listen", listen, "--stun-port", &stun_port.to_string()]);
        command.env_remove("LANDLINE_TOKEN");
        // Where output goes to a journal, the token would be left out.
        command.env_remove("JOURNAL_STREAM");
        let mut process = Watched::start(command, "landline-relay")?;
        let address = process.wait_line(PATIENCE, |line| {
            line.split_whitespace()
                .find(|word| word.contains('#'))
                .map(str::to_owned)
        })?;
        Ok(Self { process, address })
    }
}

/// One user: a data folder, and the relay that it uses.
pub struct Client {
    machine: Machine,
    folder: PathBuf,
    relay: String,
    /// The user's id.
    pub id: String,
}

impl Client {
    /// A new user with an identity of its own, kept in `folder`.
    ///
    /// # Errors
    /// Where `landline id` fails.
    pub fn new(machine: Machine, folder: PathBuf, relay: String) -> Result<Self> {
        let mut client = Self {
            machine,
            folder,
            relay,
            id: String::new(),
        };
        let lines = client.run(&["id"])?;
        client.id = lines
            .iter()
            .flat_map(|line| line.split(|letter: char| !letter.is_ascii_alphanumeric()))
            .find(|word| word.len() == ID_LEN)
            .with_context(|| format!("no id in {lines:?}"))?
            .to_owned();
        Ok(client)
    }

    /// A command with this user's folder and relay, and `--json`.
    ///
    /// # Errors
    /// Where the program has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.machine.command(&program("landline")?);
        command
            .args(arguments)
            .arg("--json")
            .arg("--data-dir")
            .arg(&self.folder);
        command.args(["--relay", &self.relay]);
        for variable in ["LANDLINE_RELAY", "LANDLINE_TOKEN", "LANDLINE_DATA_DIR"] {
            command.env_remove(variable);
        }
        Ok(command)
    }

    /// Starts a command.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Watched> {
        Watched::start(
            self.command(arguments)?,
            &format!("landline {}", arguments[0]),
        )
    }

    /// Runs a command to its end and gives its output.
    ///
    /// # Errors
    /// Where it does not end well.
    pub fn run(&self, arguments: &[&str]) -> Result<Vec<String>> {
        Ok(self.start(arguments)?.wait_well(PATIENCE)?.1)
    }

    /// Starts `receive`, which takes everything into `folder`, and waits until it is at the relay.
    ///
    /// # Errors
    /// Where it does not get there.
    pub fn receive(&self, folder: &Path) -> Result<Watched> {
        let folder = folder
            .to_str()
            .context("a folder whose name is not UTF-8")?;
        let mut process = self.start(&["receive", "--accept", "all", "--into", folder])?;
        process.wait_line(PATIENCE, |line| is_ready(&json(line)?).then_some(()))?;
        Ok(process)
    }
}

/// A line as JSON; `None` if it is something else.
pub fn json(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}

/// `receive` says so once it is at the relay.
fn is_ready(event: &Value) -> bool {
    event["event"] == "ready"
}

/// A step of a transfer, from its line.
pub fn step(line: &str) -> Option<Value> {
    let mut event = json(line)?;
    (event["event"] == "transfer").then(|| event["step"].take())
}

/// Waits until a transfer has ended well.
///
/// # Errors
/// Where it does not, or takes longer than `limit`.
pub fn ended_well(process: &mut Watched, limit: Duration) -> Result<Value> {
    let last = process.wait_line(limit, |line| {
        let step = step(line)?;
        (step["step"] == "ended").then_some(step)
    })?;
    if !last["problem"].is_null() {
        bail!("the transfer ended with a problem: {}", last["problem"]);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_matter_are_recognised() {
        let ready = r#"{"event":"ready","id":"x","into":"/tmp"}"#;
        assert!(is_ready(&json(ready).expect("JSON")));
        let line = r#"{"event":"transfer","number":1,"step":{"step":"accepted"}}"#;
        assert_eq!(step(line).expect("a step")["step"], "accepted");
        assert_eq!(step(ready), None);
        assert!(!is_ready(&json(line).expect("JSON")));
        assert_eq!(step("waiting …"), None);
    }
}
