//! Rows of file transfers with the real programs, each beside raw quinn in the same run.
//!
//! The time that counts is the whole of what a user waits: from the start of the sending process to the line
//! in which it says that the receiver has verified the file. Ours therefore pays for reading its identity,
//! the login at the relay, the first contact through it and the move to the direct path; the baseline pays
//! for its process and its handshake. The receivers run already.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{Usage, Watched};
use crate::programs::{Client, Machine, PATIENCE, Relay, ended_well, step};
use crate::raw_quinn::{DIGEST, LISTENING, PEAK};
use crate::report::{Bar, Row, Spread};
use crate::scenario::{Effort, md5sum, scratch, write_noise};

/// Longest time of one transfer.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;

/// What one transfer took.
#[derive(Debug, Clone, Copy)]
struct Took {
    seconds: f64,
    sender: Usage,
    receiver: Usage,
}

/// The rows of the area "first line" that compare whole transfers.
///
/// # Errors
/// Where the measurement cannot be prepared; a transfer that fails is a row that fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mebibytes = effort.pick(64, 1_024);
    let pairs = effort.pick(3, 5);
    let scratch = scratch(3 * mebibytes * MIB)?;
    let file = scratch.path().join("noise.bin");
    write_noise(&file, mebibytes * MIB, 1)?;
    let digest = md5sum(&file)?;

    let rate = format!("{mebibytes} MiB direct on loopback, MD5 at both ends, rate");
    // A small file is mostly set-up, and the smoke run's build is not optimized.
    let bar = effort.pick(Bar::Shown, Bar::AtLeast(0.75));
    let memory = "peak memory of the larger side in that run";
    let memory_bar = Bar::AtMost(128.0);
    match run_pairs(scratch.path(), &file, &digest, pairs) {
        Ok((raw, ours)) => Ok(vec![
            rate_row(rate, bar, &raw, &ours, mebibytes),
            memory_row(memory, memory_bar, &raw, &ours),
        ]),
        Err(error) => {
            let why = format!("{error:#}");
            Ok(vec![
                Row::failed(rate, bar, "of raw quinn's", &why),
                Row::failed(memory, memory_bar, "MiB", &why),
            ])
        }
    }
}

/// A B B A …: both meet the same noise of the machine.
fn run_pairs(
    scratch: &Path,
    file: &Path,
    digest: &str,
    pairs: usize,
) -> Result<(Vec<Took>, Vec<Took>)> {
    let relay_folder = scratch.join("relay");
    let relay = Relay::start(&Machine::default(), &relay_folder, "127.0.0.1:0", 0)?;
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let folder = scratch.join(format!("pair {pair}"));
        fs::create_dir(&folder)?;
        let mut run_raw = || run_raw(&folder, file, digest).map(|took| raw.push(took));
        let mut run_ours =
            || run_ours(&folder, file, digest, &relay.address).map(|took| ours.push(took));
        // Each is as often first as second.
        if pair % 2 == 0 {
            run_raw().context("raw quinn")?;
            run_ours().context("landline")?;
        } else {
            run_ours().context("landline")?;
            run_raw().context("raw quinn")?;
        }
        fs::remove_dir_all(&folder)?;
    }
    Ok((raw, ours))
}

fn run_raw(folder: &Path, file: &Path, digest: &str) -> Result<Took> {
    let into = folder.join("raw.bin");
    let certificate = folder.join("certificate.der");
    let itself = std::env::current_exe()?;
    let mut command = Command::new(&itself);
    command.arg("raw-receive").arg(&into).arg(&certificate);
    let mut receiver = Watched::start(command, "raw-receive")?;
    let address = receiver.wait_line(PATIENCE, |line| {
        Some(line.strip_prefix(LISTENING)?.to_owned())
    })?;

    let mut command = Command::new(&itself);
    command
        .arg("raw-send")
        .arg(address)
        .arg(&certificate)
        .arg(file);
    let started = Instant::now();
    let mut sender = Watched::start(command, "raw-send")?;
    sender.wait_line(LIMIT, |line| line.starts_with(DIGEST).then_some(()))?;
    let seconds = started.elapsed().as_secs_f64();
    let sender = sender.wait_well(LIMIT)?.0;
    let (mut receiver, lines) = receiver.wait_well(LIMIT)?;
    let peak = lines.iter().find_map(|line| line.strip_prefix(PEAK));
    receiver.peak_mib = peak.context("raw-receive did not tell its peak")?.parse()?;
    ensure!(md5sum(&into)? == digest, "md5sum disagrees");
    Ok(Took {
        seconds,
        sender,
        receiver,
    })
}

fn run_ours(folder: &Path, file: &Path, digest: &str, relay: &str) -> Result<Took> {
    let into = folder.join("received");
    fs::create_dir(&into)?;
    let user = |name: &str| Client::new(Machine::default(), folder.join(name), relay.to_owned());
    let (alice, bob) = (user("alice")?, user("bob")?);
    let mut receiver = bob.receive(&into)?;

    let file_text = file.to_str().context("a path that is not UTF-8")?;
    let started = Instant::now();
    let mut sender = alice.start(&["send", &bob.id, file_text])?;
    let mut last_path = String::new();
    let ended = sender.wait_line(LIMIT, |line| {
        let step = step(line)?;
        if let Some(path) = step["path"].as_str() {
            last_path = path.to_owned();
        }
        (step["step"] == "ended").then_some(step)
    })?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        ended["problem"].is_null(),
        "the transfer ended with {}",
        ended["problem"]
    );
    ensure!(
        last_path == "Direct",
        "the path at the end was {last_path:?}"
    );
    let usage = sender.wait_well(LIMIT)?.0;
    ended_well(&mut receiver, PATIENCE)?;
    let name = file.file_name().context("a file without a name")?;
    ensure!(md5sum(&into.join(name))? == digest, "md5sum disagrees");
    Ok(Took {
        seconds,
        sender: usage,
        receiver: receiver.usage(),
    })
}

fn rate_row(target: String, bar: Bar, raw: &[Took], ours: &[Took], mebibytes: u64) -> Row {
    // Each pair met the machine in the same state, so the ratio of each pair counts.
    let ratios: Vec<_> = raw
        .iter()
        .zip(ours)
        .map(|(raw, ours)| raw.seconds / ours.seconds)
        .collect();
    let side = |took: &[Took]| {
        let seconds = Spread::of(&took.iter().map(|took| took.seconds).collect::<Vec<_>>());
        let cpu = |took: &Took| took.sender.cpu_seconds + took.receiver.cpu_seconds;
        let cpu = Spread::of(&took.iter().map(cpu).collect::<Vec<_>>());
        match (seconds, cpu) {
            (Some(seconds), Some(cpu)) => {
                let rate = mebibytes as f64 / seconds.median;
                format!("{seconds} s, {rate:.0} MiB/s, {cpu} CPU s of both ends")
            }
            _ => "no run".to_owned(),
        }
    };
    let Some(ratio) = Spread::of(&ratios) else {
        return Row::failed(target, bar, "of raw quinn's", "no run");
    };
    let beside = format!(
        "{ratio}; ours {}; raw quinn + MD5 {}; {} pairs",
        side(ours),
        side(raw),
        ratios.len()
    );
    Row::new(target, bar, ratio.median, "of raw quinn's", beside)
}

fn memory_row(target: &str, bar: Bar, raw: &[Took], ours: &[Took]) -> Row {
    let peak = |took: &[Took], side: fn(&Took) -> Usage| {
        took.iter()
            .map(|took| side(took).peak_mib)
            .fold(0.0, f64::max)
    };
    let (sender, receiver) = (
        peak(ours, |took| took.sender),
        peak(ours, |took| took.receiver),
    );
    let beside = format!(
        "sender {sender:.0}, receiver {receiver:.0}; raw quinn + MD5 {:.0} and {:.0}",
        peak(raw, |took| took.sender),
        peak(raw, |took| took.receiver)
    );
    Row::new(target, bar, sender.max(receiver), "MiB", beside)
}
