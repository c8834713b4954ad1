//! Child processes that are watched and never left behind: wall time, processor seconds and peak memory,
//! and their standard output line by line with a deadline.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Lines that may wait to be read; a child that prints more than that meanwhile waits.
const MAX_LINES: usize = 4_096;
/// How often a child's memory is looked at. The peak that the kernel keeps only rises, so what is missed is
/// the rise within the last such moment of its life.
const SAMPLE: Duration = Duration::from_millis(5);

/// What a process has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Since its start, seconds.
    pub wall_seconds: f64,
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// The most memory that it ever held, MiB.
    pub peak_mib: f64,
}

/// A running child; it is killed when dropped.
pub struct Watched {
    name: String,
    child: Child,
    started: Instant,
    lines: Receiver<String>,
    seen: Vec<String>,
    peak_mib: f64,
}

impl Watched {
    /// Starts a program with its standard output read line by line. Standard input is empty; errors go to
    /// `stderr_to`, whose end is quoted where something fails.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(mut command: Command, name: &str) -> Result<Self> {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name} ({})", show(&command)))?;
        let stdout = child
            .stdout
            .take()
            .context("a child without standard output")?;
        let (to, lines) = sync_channel(MAX_LINES);
        thread::Builder::new()
            .name(format!("{name} output"))
            .spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if to.send(line).is_err() {
                        return;
                    }
                }
            })?;
        let seen = Vec::new();
        Ok(Self {
            name: name.to_owned(),
            child,
            started,
            lines,
            seen,
            peak_mib: 0.0,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that `pick` makes something of; the lines before it are passed over. The child's
    /// memory is watched meanwhile.
    ///
    /// # Errors
    /// Where the output ends or `limit` passes first; the last lines are quoted.
    pub fn wait_line<T>(
        &mut self,
        limit: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.sample_memory();
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(SAMPLE)) {
                Ok(line) => {
                    let picked = pick(&line);
                    self.seen.push(line);
                    if let Some(picked) = picked {
                        return Ok(picked);
                    }
                }
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let said = self.tail();
                    bail!(
                        "{} did not say it within {limit:?}; it said: {said}",
                        self.name
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended its output; it said: {}", self.name, self.tail())
                }
            }
        }
    }

    /// The next line, if one is there within `limit`.
    pub fn next_line(&mut self, limit: Duration) -> Option<String> {
        let line = self.lines.recv_timeout(limit).ok()?;
        self.seen.push(line.clone());
        Some(line)
    }

    /// Waits for the end, and says how it ended, what it used, and all that it printed.
    ///
    /// # Errors
    /// Where `limit` passes first; the child is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<(ExitStatus, Usage, Vec<String>)> {
        let deadline = Instant::now() + limit;
        let pid = self.pid()?;
        let quietly = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            // Looking does not reap: what a dead process used can still be read.
            if waitid(WaitId::Pid(pid), quietly)?.is_some() {
                break;
            }
            self.sample_memory();
            if Instant::now() >= deadline {
                bail!(
                    "{} did not end within {limit:?}; it said: {}",
                    self.name,
                    self.tail()
                );
            }
            thread::sleep(SAMPLE);
            self.seen.extend(self.lines.try_iter());
        }
        let usage = self.usage();
        let status = self.child.wait()?;
        // The reading thread ends with the output; what is left comes at once.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(1)) {
            self.seen.push(line);
        }
        let seen = std::mem::take(&mut self.seen);
        Ok((status, usage, seen))
    }

    /// The same, and an error unless it ended well.
    ///
    /// # Errors
    /// As [`Watched::wait`], and where the exit code is not 0.
    pub fn wait_well(self, limit: Duration) -> Result<(Usage, Vec<String>)> {
        let name = self.name.clone();
        let (status, usage, seen) = self.wait(limit)?;
        if !status.success() {
            bail!("{name} ended with {status}; it said: {}", tail(&seen));
        }
        Ok((usage, seen))
    }

    /// What it has used so far.
    pub fn usage(&mut self) -> Usage {
        self.sample_memory();
        Usage {
            wall_seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds(self.child.id()).unwrap_or(0.0),
            peak_mib: self.peak_mib,
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The code with which it ended; `None` while it runs, and where a signal ended it.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().ok().flatten()?.code()
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id().cast_signed()).context("a child without a process id")
    }

    fn sample_memory(&mut self) {
        if let Some(peak) = peak_mib(self.child.id()) {
            self.peak_mib = self.peak_mib.max(peak);
        }
    }

    fn tail(&self) -> String {
        tail(&self.seen)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Neither fails in a way that could be mended here; a child that has ended is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Peak memory of a living process, MiB.
pub fn peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1_024.0)
}

/// User and system time of a process, seconds, in steps of the kernel's clock tick (10 ms).
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, which may hold anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    // Fields 14 and 15 of proc(5), counted from the third.
    Some((ticks(11)? + ticks(12)?) / rustix::param::clock_ticks_per_second() as f64)
}

/// A program of this workspace: beside the running one, in the same profile.
///
/// # Errors
/// Where it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built; `cargo build --workspace --bins` builds it",
            path.display()
        );
    }
    Ok(path)
}

/// Builds the programs that the measurements run, in the profile of the running one, where cargo is there
/// to do it; `cargo run -p benches` itself builds no other package's programs.
///
/// # Errors
/// Where the build fails.
pub fn build_programs() -> Result<()> {
    let (Some(cargo), Some(manifest)) = (
        std::env::var_os("CARGO"),
        std::env::var_os("CARGO_MANIFEST_DIR"),
    ) else {
        return Ok(());
    };
    let mut command = Command::new(cargo);
    command.args([
        "build", "--quiet", "--locked", "-p", "relay", "-p", "client", "--bins",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command
        .current_dir(Path::new(&manifest))
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("building landline and landline-relay failed");
    }
    Ok(())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn tail(lines: &[String]) -> String {
    if lines.is_empty() {
        return "nothing".to_owned();
    }
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Watched {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Watched::start(command, "shell").expect("there is a shell")
    }

    #[test]
    fn output_and_end_are_seen() {
        let mut child = shell("echo one; echo port 77; echo three");
        let port = child.wait_line(LIMIT, |line| {
            line.strip_prefix("port ")?.parse::<u16>().ok()
        });
        assert_eq!(port.expect("it prints a port"), 77);
        let (usage, seen) = child.wait_well(LIMIT).expect("it ends well");
        assert_eq!(seen, ["one", "port 77", "three"]);
        assert!(usage.wall_seconds > 0.0);
    }

    #[test]
    fn a_bad_end_is_an_error_that_quotes() {
        let error = shell("echo because; exit 3")
            .wait_well(LIMIT)
            .expect_err("exit 3");
        assert!(error.to_string().contains("because"), "{error}");
        let error = shell("echo x")
            .wait_line(LIMIT, |_| None::<()>)
            .expect_err("no such line");
        assert!(error.to_string().contains("ended its output"), "{error}");
    }

    #[test]
    fn a_child_that_stays_is_given_up_and_killed() {
        let child = shell("exec sleep 1000");
        let pid = child.id();
        assert!(child.wait(Duration::from_millis(50)).is_err());
        assert!(!Path::new(&format!("/proc/{pid}/status")).exists());
    }

    #[test]
    fn processor_time_and_memory_are_seen() {
        // Doubling a text 22 times holds 4 MiB; the pause lets it be looked at.
        let script =
            "x=y; i=0; while [ $i -lt 22 ]; do x=$x$x; i=$((i+1)); done; echo ${#x}; sleep 0.2";
        let (usage, _) = shell(script).wait_well(LIMIT).expect("it ends well");
        assert!(usage.peak_mib > 1.0, "{usage:?}");
        let own = std::process::id();
        assert!(peak_mib(own).is_some_and(|mib| mib > 1.0) && cpu_seconds(own).is_some());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
