//! One side of the long call: its process, what it says, and what it holds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::usage::Held;
use crate::process::Watched;
use crate::programs::json;
use crate::report::{Bar, Row};

/// How often the process is looked at.
const SAMPLE: Duration = Duration::from_secs(1);
/// Lines read in one look at most.
const LINES: usize = 1_000;

/// See the module.
pub struct Side {
    /// What the rows call it.
    pub name: &'static str,
    /// What it held, once a second.
    pub held: Vec<Held>,
    /// Since when it goes through the relay (true) or not, by its own numbers.
    pub paths: Vec<(Duration, bool)>,
    /// Devices that it opened (true) or lost, by its own events.
    pub devices: Vec<(Duration, String, bool)>,
    process: Watched,
    log: PathBuf,
    ended: Option<String>,
}

impl Side {
    /// Starts it, with its log in a file.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(name: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        command.stderr(File::create(log)?);
        Ok(Self {
            name,
            held: Vec::new(),
            paths: Vec::new(),
            devices: Vec::new(),
            process: Watched::start(command, name)?,
            log: log.to_owned(),
            ended: None,
        })
    }

    /// Waits for a line that holds `part`.
    ///
    /// # Errors
    /// Where none comes.
    pub fn wait_for(&mut self, part: &str, limit: Duration) -> Result<()> {
        self.process
            .wait_line(limit, |line| line.contains(part).then_some(()))
            .with_context(|| format!("its log: {}", self.last_of_log()))
    }

    /// Takes in what it said and holds.
    ///
    /// # Errors
    /// Where the call or the process has ended.
    pub fn look(&mut self, at: Duration) -> Result<()> {
        for _ in 0..LINES {
            let Some(line) = self.process.next_line(Duration::ZERO) else {
                break;
            };
            if let Some(event) = json(&line) {
                self.take(&event["step"], at);
            }
        }
        if let Some(ended) = &self.ended {
            bail!("{}: the call ended after {at:?}: {ended}", self.name);
        }
        if self.held.last().is_none_or(|last| at >= last.at + SAMPLE) {
            let held = Held::look(self.process.id(), at);
            match held.filter(|_| self.process.is_running()) {
                Some(held) => self.held.push(held),
                None => bail!(
                    "{} died after {at:?}; its log: {}",
                    self.name,
                    self.last_of_log()
                ),
            }
        }
        Ok(())
    }

    fn take(&mut self, step: &Value, at: Duration) {
        match step["step"].as_str() {
            Some("stats") => {
                let relayed = step["stats"]["network"]["relayed"].as_bool();
                if let Some(relayed) = relayed
                    && self.paths.last().is_none_or(|(_, last)| *last != relayed)
                {
                    self.paths.push((at, relayed));
                }
            }
            Some("media") => {
                for (kind, opened) in [("deviceOpened", true), ("deviceLost", false)] {
                    if let Some(device) = step["what"][kind]["device"].as_str() {
                        self.devices.push((at, device.to_owned(), opened));
                    }
                }
            }
            Some("ended") => self.ended = Some(step["problem"].to_string()),
            _ => {}
        }
    }

    /// Asks it to end, as Ctrl-C does.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn interrupt(&self) -> Result<()> {
        self.process.signal(Signal::INT)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it does not end well, or not in time.
    pub fn ends_well(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.process.is_running() {
            if Instant::now() >= deadline {
                bail!("{} does not end", self.name);
            }
            let _ = self.process.next_line(Duration::from_millis(20));
        }
        match self.process.exit_code() {
            Some(0) => Ok(()),
            code => bail!(
                "{} ended with {code:?}; its log: {}",
                self.name,
                self.last_of_log()
            ),
        }
    }

    /// Errors and panics in its log: none may be there.
    pub fn log_row(&self) -> Row {
        let name = format!("{}: errors and panics in its log", self.name);
        match fs::read_to_string(&self.log) {
            Ok(log) => {
                let bad = |line: &&str| line.contains("ERROR") || line.contains("panicked");
                let count = log.lines().filter(bad).count();
                let warnings = log.lines().filter(|line| line.contains("WARN")).count();
                let first = log.lines().find(bad).unwrap_or("none");
                let beside = format!("{first}; {warnings} warnings");
                Row::new(name, Bar::AtMost(0.0), count as f64, "lines", beside)
            }
            Err(why) => Row::failed(name, Bar::AtMost(0.0), "lines", why),
        }
    }

    fn last_of_log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}
