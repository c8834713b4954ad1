//! How often, and how soon, two endpoints behind NATs talk directly when ports must be guessed: many fresh
//! pairs one after the other, each of them two processes in the namespaces of `lab/two-nats`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use p2p_net::{Config, Endpoint, Identity, PathKind, PeerId, RelayState};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Lab, Nat};
use crate::process::{Watched, program};
use crate::programs::{PATIENCE, Relay, json as parse};
use crate::report::{Bar, Row};

/// Where the two run.
const SIDES: [&str; 2] = ["a", "b"];
/// The goal: direct within this after `connect()`.
const IN_TIME: Duration = Duration::from_secs(2);
/// A pair that is not direct by then is not going to be.
const PAIR_LIMIT: Duration = Duration::from_secs(8);
/// Share of pairs that must be, of a hundred.
const GOAL_PERCENT: f64 = 98.0;

/// One of two endpoints: who it is, and whether it dials.
#[derive(Debug, Clone, clap::Args)]
pub struct PeerArguments {
    /// The relay's address
    #[arg(long)]
    relay: String,
    /// A number that makes the identity
    #[arg(long)]
    own: u32,
    /// The other one's
    #[arg(long)]
    other: u32,
    /// Dial instead of waiting
    #[arg(long)]
    dial: bool,
}

fn identity(number: u32) -> Identity {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    Identity::from_secret(secret)
}

/// Lives as one of two endpoints: says when it is at the relay, and how it came to a direct path.
///
/// # Errors
/// Where there is no relay, or no connection.
pub async fn peer(arguments: PeerArguments) -> Result<Value> {
    let other: PeerId = identity(arguments.other).id();
    let endpoint = Endpoint::bind(Config {
        identity: identity(arguments.own),
        relay: Some(arguments.relay.parse().context("the relay's address")?),
        port: 0,
        sockets: None,
    })?;
    endpoint.set_accepted(other, true);
    let mut state = endpoint.watch_relay();
    timeout(
        PATIENCE,
        state.wait_for(|state| matches!(state, RelayState::Online { .. })),
    )
    .await??;
    println_flushed(&json!({"event": "ready"}));
    let mut began = Instant::now();
    let connection = if arguments.dial {
        timeout(PATIENCE, endpoint.connect(other)).await??
    } else {
        let connection = timeout(PATIENCE * 2, endpoint.accept()).await?;
        began = Instant::now();
        connection.context("the endpoint closed")?
    };
    let mut path = connection.path();
    let direct = timeout(
        PAIR_LIMIT,
        path.wait_for(|path| path.kind == PathKind::Direct),
    )
    .await;
    let took = direct
        .ok()
        .and_then(Result::ok)
        .map(|_| began.elapsed().as_millis());
    let reason = connection.path().borrow().not_direct.map(|why| why.code());
    let line = json!({"event": "over", "direct_millis": took, "reason": reason});
    println_flushed(&line);
    // The other side may not be there yet.
    tokio::time::sleep(Duration::from_millis(300)).await;
    endpoint.close().await;
    Ok(line)
}

#[expect(clippy::print_stdout, reason = "the laboratory reads these lines")]
fn println_flushed(line: &Value) {
    println!("{line}");
}

/// What became of one pair: how long it took both sides, from `connect()`.
enum Outcome {
    Direct(Duration),
    Relayed(String),
}

impl Lab {
    /// Rows of `runs` fresh pairs behind these NATs.
    ///
    /// # Errors
    /// Where the programs do not even start.
    pub fn guesses(&self, one: Nat, other: Nat, runs: u32) -> Result<Vec<Row>> {
        ensure!(runs > 0, "no runs");
        let relay = self.start_relay()?;
        let mut times = Vec::new();
        let mut reasons = Vec::new();
        for run in 0..runs {
            match self.guess(&relay, run)? {
                Outcome::Direct(took) => times.push(took),
                Outcome::Relayed(reason) => reasons.push(reason),
            }
        }
        times.sort();
        reasons.sort();
        reasons.dedup();
        let in_time = times.iter().filter(|took| **took <= IN_TIME).count();
        let percent = |count: usize| count as f64 * 100.0 / f64::from(runs);
        let at = |of: usize| times.get(times.len().saturating_sub(1) * of / 100);
        let millis =
            |took: Option<&Duration>| took.map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
        let name = |what: &str| format!("{one} × {other}: {what}");
        let beside = format!(
            "{runs} pairs, {:.1} % direct at all; p50 {:.0} ms, p99 {:.0} ms; the others: {reasons:?}",
            percent(times.len()),
            millis(at(50)),
            millis(at(99)),
        );
        let share = Row::new(
            name("direct within 2 s of connect()"),
            Bar::AtLeast(GOAL_PERCENT),
            percent(in_time),
            "%",
            beside,
        );
        Ok(vec![share])
    }

    fn guess(&self, relay: &Relay, run: u32) -> Result<Outcome> {
        let mut sides = Vec::new();
        for (side, machine) in (0..).zip(SIDES) {
            let mut command = self.machine(machine).command(&program("lab")?);
            let (own, other) = (run * 2 + side, run * 2 + 1 - side);
            command.args(["peer", "--relay", &relay.address]);
            command.args(["--own", &own.to_string(), "--other", &other.to_string()]);
            // The first one waits, so that the other finds it there.
            if side == 1 {
                command.arg("--dial");
            }
            let mut process = Watched::start(command, "lab peer")?;
            process.wait_line(PATIENCE, |line| {
                (parse(line)?["event"] == "ready").then_some(())
            })?;
            sides.push(process);
        }
        let mut took = Duration::ZERO;
        let mut reason = None;
        // The dialler's clock starts with `connect()`, the other's half a round trip later.
        for mut process in sides.into_iter().rev() {
            let line = process.wait_line(PATIENCE, |line| {
                let line = parse(line)?;
                (line["event"] == "over").then_some(line)
            })?;
            match line["direct_millis"].as_u64() {
                Some(millis) => took = took.max(Duration::from_millis(millis)),
                None => reason = Some(line["reason"].as_str().unwrap_or("none").to_owned()),
            }
            process.wait(PATIENCE)?;
        }
        Ok(reason.map_or(Outcome::Direct(took), Outcome::Relayed))
    }
}
