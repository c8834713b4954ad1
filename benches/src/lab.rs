//! Rows of the real programs behind two port-restricted NATs, in the namespaces that `lab/two-nats` makes:
//! they find each other, chat, send a file and a folder directly, and lose and regain the direct path in the
//! middle of a transfer.

mod guessing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use guessing::{PeerArguments, peer};

use crate::process::Watched;
use crate::programs::{Client, Machine, PATIENCE, Relay, ended_well, json, step};
use crate::report::{Bar, Row};
use crate::scenario::{Effort, md5sum, md5sums, scratch, write_folder, write_noise};

const MIB: u64 = 1 << 20;
/// Addresses of the two NATs outside, as `lab/two-nats` gives them.
const OUTSIDE: [&str; 2] = ["198.51.100.2", "198.51.100.6"];
const RELAY: &str = "203.0.113.2:443";
/// How often the counters of an interface are read.
const WINDOW: Duration = Duration::from_millis(100);
/// Rate of the link to the receiver while the path is cut, so that the transfer lasts.
const CUT_MBIT: u64 = 80;
/// Longest time of one transfer.
const LIMIT: Duration = Duration::from_secs(300);

/// Kinds of NAT that `lab/two-nats` can make (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Nat {
    /// None.
    Open,
    /// One mapping, everybody gets in.
    FullCone,
    /// One mapping, in gets who was spoken to.
    AddressRestricted,
    /// One mapping, in gets who was spoken to at that port.
    PortRestricted,
    /// A mapping for each destination, at random.
    Symmetric,
    /// A mapping for each destination, in order.
    SymmetricSequential,
    /// A mapping for each destination, out of few ports.
    SymmetricBlock,
}

impl Nat {
    const fn maps_by_destination(self) -> bool {
        matches!(
            self,
            Self::Symmetric | Self::SymmetricSequential | Self::SymmetricBlock
        )
    }

    /// Whether two hosts behind these can talk directly without guessing ports: one side must be reachable
    /// from a port that nobody could know before.
    fn direct_without_guessing(self, other: Self) -> bool {
        let admits = |nat: Self, from: Self| {
            !from.maps_by_destination()
                || matches!(nat, Self::Open | Self::FullCone | Self::AddressRestricted)
        };
        let hard = self.maps_by_destination() && other.maps_by_destination();
        !hard && admits(self, other) && admits(other, self)
    }

    /// Whether guessing makes up for it: one side keeps its port, or both count theirs up.
    fn direct_by_guessing(self, other: Self) -> bool {
        let counts = |nat| matches!(nat, Self::SymmetricSequential);
        let hard = self.maps_by_destination() && other.maps_by_destination();
        !hard || (counts(self) && counts(other))
    }
}

impl std::fmt::Display for Nat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("?", |value| value.get_name()))
    }
}

/// How long a pair that may become direct has for it in the matrix.
const PAIR_LIMIT: Duration = Duration::from_secs(12);
/// How long one that may not is watched.
const PAIR_STAYS: Duration = Duration::from_secs(4);

/// The laboratory, as the environment describes it.
pub struct Lab {
    prefix: String,
    effort: Effort,
    scratch: tempfile::TempDir,
}

impl Lab {
    /// Takes the namespaces from `LAB_PREFIX`.
    ///
    /// # Errors
    /// Outside `lab/two-nats`.
    pub fn from_environment(effort: Effort) -> Result<Self> {
        let prefix = std::env::var("LAB_PREFIX")
            .context("run this by benches/lab/two-nats, which makes the namespaces")?;
        let scratch = scratch(2 * effort.pick(256, 2_048) * MIB)?;
        Ok(Self {
            prefix,
            effort,
            scratch,
        })
    }

    fn start_relay(&self) -> Result<Relay> {
        Relay::start(&self.machine("r"), &self.path("relay"), RELAY, 3_478)
    }

    /// A relay and two users whose engines run.
    fn start(&self) -> Result<(Relay, Users, [Watched; 2])> {
        let relay = self.start_relay()?;
        let users = Users {
            alice: Client::new(self.machine("a"), self.path("alice"), relay.address.clone())?,
            bob: Client::new(self.machine("b"), self.path("bob"), relay.address.clone())?,
            into: [self.path("for alice"), self.path("for bob")],
        };
        for folder in &users.into {
            fs::create_dir(folder)?;
        }
        let engines = [
            users.alice.receive(&users.into[0])?,
            users.bob.receive(&users.into[1])?,
        ];
        Ok((relay, users, engines))
    }

    /// Runs everything.
    ///
    /// # Errors
    /// Where the programs do not even start; what fails later is a row that fails.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let (relay, users, [_alice_engine, mut bob_engine]) = self.start()?;

        let counters = Counters {
            relay: relay.process.id(),
            bob: bob_engine.id(),
        };
        let mut rows = vec![
            row("peers list each other", self.peers(&users)),
            row("chat is delivered both ways and stored", self.chat(&users)),
            row("the path is reported direct", self.direct(&users)),
        ];
        rows.extend(self.file(&users, &counters, &mut bob_engine));
        rows.extend(self.folder(&users, &counters, &mut bob_engine));
        rows.extend(self.cut(&users, &counters, &mut bob_engine));
        Ok(rows)
    }

    /// Rows of one pair of NATs: they chat, and talk directly where mathematics allows it.
    ///
    /// # Errors
    /// Where the programs do not even start.
    pub fn pair(&self, one: Nat, other: Nat) -> Result<Vec<Row>> {
        let (_relay, users, _engines) = self.start()?;
        let expected = one.direct_by_guessing(other);
        let name = |what: &str| format!("{one} × {other}: {what}");
        let mut rows = vec![row(&name("chat is delivered"), self.chat(&users))];
        let limit = if expected { PAIR_LIMIT } else { PAIR_STAYS };
        let began = Instant::now();
        let direct = loop {
            let [near, far] = [
                path_of(&users.alice, &users.bob)?,
                path_of(&users.bob, &users.alice)?,
            ];
            let direct = near == "Direct" && far == "Direct";
            if direct || began.elapsed() > limit {
                break direct;
            }
            sleep(WINDOW);
        };
        let beside = if one.direct_without_guessing(other) {
            "landline peers, on both sides"
        } else {
            "landline peers, on both sides; ports are guessed"
        };
        rows.push(if expected {
            Row::holds(name("direct"), direct, beside)
        } else {
            Row::holds(
                name("relayed: no order of ports is visible"),
                !direct,
                beside,
            )
        });
        Ok(rows)
    }

    fn peers(&self, users: &Users) -> Result<String> {
        for (one, other) in [(&users.alice, &users.bob), (&users.bob, &users.alice)] {
            let lines = one.run(&["peers"])?;
            ensure!(
                lines.iter().any(|line| line.contains(&other.id)),
                "not in {lines:?}"
            );
        }
        Ok("landline peers, on both sides".to_owned())
    }

    fn chat(&self, users: &Users) -> Result<String> {
        let texts = ["from behind one NAT", "and back from the other — grüße"];
        let pairs = [(&users.alice, &users.bob), (&users.bob, &users.alice)];
        for ((from, to), text) in pairs.into_iter().zip(texts) {
            // Exit code 0 is: delivered.
            from.run(&["chat", &to.id, "--send", text, "--wait", "20"])?;
            let lines = to.run(&["history", &from.id])?;
            ensure!(
                lines.iter().any(|line| line.contains(text)),
                "not in {lines:?}"
            );
        }
        Ok("landline chat --send, exit code 0; landline history".to_owned())
    }

    /// Waits until both sides say that they talk directly.
    fn direct(&self, users: &Users) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [one, other] = [
                path_of(&users.alice, &users.bob)?,
                path_of(&users.bob, &users.alice)?,
            ];
            if one == "Direct" && other == "Direct" {
                return Ok("landline peers, on both sides".to_owned());
            }
            ensure!(Instant::now() < deadline, "the paths are {one} and {other}");
            sleep(WINDOW);
        }
    }

    fn file(&self, users: &Users, counters: &Counters, bob: &mut Watched) -> Vec<Row> {
        let mebibytes = self.effort.pick(32, 1_024);
        let file = self.path("one file.bin");
        let sent = (|| {
            write_noise(&file, mebibytes * MIB, 5)?;
            let passed = counters.relay_bytes()?;
            let took = self.send(users, &file, bob)?;
            let passed = counters.relay_bytes()? - passed;
            let arrived = users.into[1].join("one file.bin");
            ensure!(md5sum(&file)? == md5sum(&arrived)?, "md5sum disagrees");
            fs::remove_file(&arrived)?;
            Ok((took, passed))
        })();
        let target = format!("a file of {mebibytes} MiB arrives directly, md5sum agrees");
        self.transfer_rows(target, mebibytes * MIB, sent)
    }

    fn folder(&self, users: &Users, counters: &Counters, bob: &mut Watched) -> Vec<Row> {
        let folder = self.path("a folder");
        let mut bytes = 0;
        let sent = (|| {
            write_folder(&folder, 1_000)?;
            let passed = counters.relay_bytes()?;
            let took = self.send(users, &folder, bob)?;
            let passed = counters.relay_bytes()? - passed;
            let (here, there) = (md5sums(&folder)?, md5sums(&users.into[1].join("a folder"))?);
            ensure!(here.len() == 1_000 && here == there, "md5sum disagrees");
            for (name, _) in here {
                bytes += fs::metadata(folder.join(name))?.len();
            }
            Ok((took, passed))
        })();
        let target = "a folder of 1,000 files arrives directly, md5sum agrees".to_owned();
        self.transfer_rows(target, bytes, sent)
    }

    fn transfer_rows(&self, target: String, bytes: u64, sent: Result<(Duration, u64)>) -> Vec<Row> {
        let share = "bytes that passed the relay meanwhile";
        let bar = Bar::AtMost(2.0);
        match sent {
            Ok((took, passed)) => {
                let percent = 100.0 * passed as f64 / bytes as f64;
                let counted = format!("{passed} of {bytes} bytes, at the relay's interface");
                vec![
                    Row::holds(target, true, format!("{:.1} s", took.as_secs_f64())),
                    Row::new(share, bar, percent, "% of the content", counted),
                ]
            }
            Err(error) => vec![
                Row::holds(target, false, format!("{error:#}")),
                Row::failed(share, bar, "% of the content", "the transfer failed"),
            ],
        }
    }

    /// Sends something from Alice to Bob, to the verified end on both sides, directly all the way.
    fn send(&self, users: &Users, what: &Path, bob: &mut Watched) -> Result<Duration> {
        let what = what.to_str().context("a path that is not UTF-8")?;
        let started = Instant::now();
        let mut sender = users.alice.start(&["send", &users.bob.id, what])?;
        let mut paths = Vec::new();
        let ended = sender.wait_line(LIMIT, |line| {
            let step = step(line)?;
            paths.extend(step["path"].as_str().map(str::to_owned));
            (step["step"] == "ended").then_some(step)
        })?;
        let took = started.elapsed();
        ensure!(
            ended["problem"].is_null(),
            "the transfer ended with {}",
            ended["problem"]
        );
        ensure!(
            paths.iter().all(|path| path == "Direct"),
            "it said that its path was {paths:?}"
        );
        sender.wait_well(PATIENCE)?;
        ended_well(bob, PATIENCE)?;
        Ok(took)
    }

    /// Cuts the direct path in the middle of a transfer, and mends it.
    fn cut(&self, users: &Users, counters: &Counters, bob: &mut Watched) -> Vec<Row> {
        let moving = "direct path cut in mid-transfer: moving again through the relay";
        let back = "the direct path again after the rule is lifted";
        let whole = "that transfer goes on without restart and ends verified";
        match self.cut_and_mend(users, counters, bob) {
            Ok(Cut {
                stall,
                returned,
                started,
            }) => vec![
                Row::new(
                    moving,
                    Bar::AtMost(2.0),
                    stall.as_secs_f64(),
                    "s",
                    format!("{CUT_MBIT} Mbit/s; windows of {} ms", WINDOW.as_millis()),
                ),
                Row::new(
                    back,
                    Bar::AtMost(35.0),
                    returned.as_secs_f64(),
                    "s",
                    "the longest pause between attempts is 30 s",
                ),
                Row::holds(
                    whole,
                    started == 1,
                    format!("accepted {started} time(s), md5sum agrees"),
                ),
            ],
            Err(error) => {
                let why = format!("{error:#}");
                vec![
                    Row::failed(moving, Bar::AtMost(2.0), "s", &why),
                    Row::failed(back, Bar::AtMost(35.0), "s", &why),
                    Row::holds(whole, false, why),
                ]
            }
        }
    }

    fn cut_and_mend(&self, users: &Users, counters: &Counters, bob: &mut Watched) -> Result<Cut> {
        let file = self.path("cut.bin");
        let mebibytes = self.effort.pick(128, 512);
        write_noise(&file, mebibytes * MIB, 7)?;
        let rate = format!("{CUT_MBIT}mbit");
        let shape = [
            "root", "tbf", "rate", &rate, "burst", "256kb", "latency", "100ms",
        ];
        self.in_router(&[&["tc", "qdisc", "add", "dev", "to-b"][..], &shape].concat())?;

        let file_text = file.to_str().context("a path that is not UTF-8")?;
        let mut sender = users.alice.start(&["send", &users.bob.id, file_text])?;
        let flowing = |step: &serde_json::Value| step["done"].as_u64() > Some(4 * MIB);
        sender.wait_line(PATIENCE, |line| flowing(&step(line)?).then_some(()))?;

        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (OUTSIDE[from], OUTSIDE[to]);
            let rule = ["ip", "saddr", from, "ip", "daddr", to, "drop"];
            self.in_router(&[&["nft", "add", "rule", "ip", "lab", "cut"][..], &rule].concat())?;
        }
        let stall = counters
            .wait(PATIENCE, |moved| moved.relay > busy() && moved.bob > busy())
            .context("after the cut")?;
        // A while through the relay.
        sleep(Duration::from_secs(2));
        self.in_router(&["nft", "flush", "chain", "ip", "lab", "cut"])?;
        let returned = counters
            .wait(Duration::from_secs(60), |moved| {
                moved.relay < busy() / 5 && moved.bob > busy()
            })
            .context("after the rule was lifted")?;

        let mut started = 0;
        let ended = sender.wait_line(LIMIT, |line| {
            let step = step(line)?;
            (step["step"] == "ended").then_some(step)
        })?;
        ensure!(
            ended["problem"].is_null(),
            "the transfer ended with {}",
            ended["problem"]
        );
        let (_, lines) = sender.wait_well(PATIENCE)?;
        for step in lines.iter().filter_map(|line| step(line)) {
            started += usize::from(step["step"] == "accepted");
        }
        ended_well(bob, PATIENCE)?;
        ensure!(
            md5sum(&file)? == md5sum(&users.into[1].join("cut.bin"))?,
            "md5sum disagrees"
        );
        Ok(Cut {
            stall,
            returned,
            started,
        })
    }

    fn in_router(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &format!("{}ix", self.prefix)])
            .args(words);
        let status = command.status().context("starting ip")?;
        ensure!(status.success(), "{} fails in the router", words.join(" "));
        Ok(())
    }

    fn machine(&self, name: &str) -> Machine {
        Machine::namespace(format!("{}{name}", self.prefix))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

struct Users {
    alice: Client,
    bob: Client,
    /// Where what comes is put, Alice's and Bob's.
    into: [PathBuf; 2],
}

struct Cut {
    stall: Duration,
    returned: Duration,
    started: usize,
}

/// A quarter of what the shaped link carries in a window, bytes.
const fn busy() -> u64 {
    CUT_MBIT * 1_000_000 / 8 * (WINDOW.as_millis() as u64) / 1_000 / 4
}

/// The interfaces of relay and receiver, read through a process that lives there.
struct Counters {
    relay: u32,
    bob: u32,
}

/// Bytes of one window.
struct Moved {
    /// Out of the relay's interface.
    relay: u64,
    /// Into Bob's.
    bob: u64,
}

impl Counters {
    /// Bytes that the relay has sent so far.
    fn relay_bytes(&self) -> Result<u64> {
        Ok(interface_bytes(self.relay)?.1)
    }

    /// How long it takes until a window is as wanted; the end of that window counts.
    fn wait(&self, limit: Duration, wanted: impl Fn(&Moved) -> bool) -> Result<Duration> {
        let began = Instant::now();
        let read = || anyhow::Ok((interface_bytes(self.relay)?.1, interface_bytes(self.bob)?.0));
        let mut before = read()?;
        while began.elapsed() < limit {
            sleep(WINDOW);
            let after = read()?;
            if wanted(&Moved {
                relay: after.0 - before.0,
                bob: after.1 - before.1,
            }) {
                return Ok(began.elapsed());
            }
            before = after;
        }
        bail!("it did not happen within {limit:?}")
    }
}

/// Bytes in and out of `eth0` where a process lives.
fn interface_bytes(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("eth0:"))
        .context("no eth0 there")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // Received bytes are the first field, sent ones the ninth (proc_pid_net(5)).
    match (fields.first(), fields.get(8)) {
        (Some(received), Some(sent)) => Ok((*received, *sent)),
        _ => bail!("{line:?} is not understood"),
    }
}

/// What carries `one`'s packets to `other`, in `one`'s own words.
fn path_of(one: &Client, other: &Client) -> Result<String> {
    for line in one.run(&["peers"])? {
        if let Some(path) = json(&line)
            .as_ref()
            .and_then(|value| path_in(value, &other.id))
        {
            return Ok(path);
        }
    }
    Ok("None".to_owned())
}

/// The path in the object about a peer, wherever it stands in `value`.
fn path_in(value: &serde_json::Value, id: &str) -> Option<String> {
    if value["id"] == id {
        return value["path"].as_str().map(str::to_owned);
    }
    match value {
        serde_json::Value::Array(list) => list.iter().find_map(|value| path_in(value, id)),
        serde_json::Value::Object(map) => map.values().find_map(|value| path_in(value, id)),
        _ => None,
    }
}

fn row(target: &str, outcome: Result<String>) -> Row {
    match outcome {
        Ok(beside) => Row::holds(target, true, beside),
        Err(error) => Row::holds(target, false, format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_wherever_they_stand() {
        let value = serde_json::json!({"peers": [
            {"id": "one", "path": "Relayed"}, {"id": "other", "path": "Direct"},
        ]});
        assert_eq!(path_in(&value, "other").as_deref(), Some("Direct"));
        assert_eq!(path_in(&value, "nobody"), None);
    }

    #[test]
    fn what_mathematics_allows_is_known() {
        use Nat::{AddressRestricted, FullCone, Open, PortRestricted, Symmetric, SymmetricBlock};
        for easy in [Open, FullCone, AddressRestricted] {
            assert!(easy.direct_without_guessing(Symmetric));
            assert!(SymmetricBlock.direct_without_guessing(easy));
            assert!(easy.direct_without_guessing(PortRestricted));
        }
        assert!(PortRestricted.direct_without_guessing(PortRestricted));
        assert!(!PortRestricted.direct_without_guessing(Symmetric));
        assert!(!Symmetric.direct_without_guessing(Symmetric));
        assert!(PortRestricted.direct_by_guessing(Symmetric));
        assert!(SymmetricBlock.direct_by_guessing(PortRestricted));
        assert!(Nat::SymmetricSequential.direct_by_guessing(Nat::SymmetricSequential));
        assert!(!Symmetric.direct_by_guessing(Nat::SymmetricSequential));
        assert!(!SymmetricBlock.direct_by_guessing(SymmetricBlock));
        assert_eq!(AddressRestricted.to_string(), "address-restricted");
    }

    #[test]
    fn outside_the_laboratory_it_says_so() {
        if std::env::var_os("LAB_PREFIX").is_none() {
            let error = Lab::from_environment(Effort::Quick)
                .err()
                .expect("no laboratory");
            assert!(error.to_string().contains("two-nats"), "{error}");
        }
    }
}
