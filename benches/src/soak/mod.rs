//! One long call between two real `landline` processes over a link that loses and delays, while paths, the
//! relay and the callee's devices go and come back, under clocks that are wrong. `benches/lab/soak` makes the
//! namespaces and runs this.
//!
//! The caller is alone behind the emulated link; the callee, whose wall clock is years off and in another time
//! zone, plays and captures through a sound server whose devices run 200 ppm fast.

pub mod judge;
pub mod plan;
pub mod server;
pub mod side;
pub mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use media::capture::MarkFinder;
use p2p_net_sim::{LinkConfig, Loss};

use crate::emulator::{Emulator, End};
use crate::programs::{Client, Machine, PATIENCE, Relay};
use crate::report::{Bar, Row};
use judge::{Direction, Stretch, Sync};
use plan::{Planned, Step, stretch};
use server::{SoundServer, fake_time_library};
use side::Side;

/// The relay beyond the link.
const RELAY: &str = "10.77.1.2:443";
/// Addresses of the two users, whose packets to each other are what a cut takes.
const USERS: [&str; 2] = ["10.77.0.2", "10.77.2.2"];
/// One-way delay of the link, and what is added to it at random.
const DELAY: Duration = Duration::from_millis(25);
const JITTER: Duration = Duration::from_millis(10);
/// Share of the packets that are lost, each way.
const LOSS: f64 = 0.05;
const SEED: u64 = 20_261_122;
/// The callee's wall clock and zone: off by years and by odd minutes.
const SKEW: &str = "-2500d";
const ZONE: &str = "Asia/Kathmandu";
/// What both send: the pattern with its frame stamps.
const PICTURES: &str = "pattern:640x360@30";
/// How often is looked what is due and what was said.
const LOOK: Duration = Duration::from_millis(50);
/// What a call may take to begin and to end.
const MARGIN: Duration = Duration::from_secs(60);
/// A switch of paths may hold pictures or sound up for so long, ms: longer is a break that a person sees.
const BREAK_MILLIS: f64 = 1_000.0;
/// The call may take so long to play on other devices, s.
const REOPENED_SECONDS: f64 = 5.0;
/// How far sound and picture may be apart, ms (ITU-R BT.1359 finds 45 ms of early sound just noticeable).
const APART_MILLIS: f64 = 40.0;
/// How much of the new loudspeaker's sound is recorded.
const LISTEN: Duration = Duration::from_secs(4);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long the call lasts.
    pub length: Duration,
    /// Where all that was written down stays; it goes with the run otherwise.
    pub keep: Option<PathBuf>,
}

/// The stand: namespaces, link, relay, sound server, two users.
struct Stand {
    folder: PathBuf,
    length: Duration,
    middle: Machine,
    relay: Option<Relay>,
    relay_address: String,
    server: SoundServer,
    /// Loudspeakers that there have been.
    plugged: u32,
    /// Listening to the new one waits until it had time to be found.
    listen_at: Option<Duration>,
    new_speaker_marks: Option<usize>,
    relay_starts: Vec<Duration>,
}

/// What one call left behind.
struct Run {
    plan: Vec<Planned>,
    began_micros: u64,
    sides: [Side; 2],
    lasted: Result<()>,
}

/// Runs the call and judges it; in the namespaces of `lab/call-link` only.
///
/// # Errors
/// Where the programs do not even start.
pub fn rows(config: &Config) -> Result<Vec<Row>> {
    let prefix = std::env::var("LAB_PREFIX")
        .context("run this by benches/lab/soak, which makes the namespaces")?;
    ensure!(
        config.length >= plan::SHORTEST,
        "a call of less than {} s is too short for all that is done to it",
        plan::SHORTEST.as_secs()
    );
    let scratch = tempfile::Builder::new()
        .prefix("landline-soak-")
        .tempdir()?;
    let folder = match &config.keep {
        Some(folder) => {
            fs::create_dir_all(folder)?;
            folder.clone()
        }
        None => scratch.path().to_owned(),
    };
    let ends = ["a", "c"].map(|name| End {
        namespace: format!("{prefix}{name}"),
        device: "ll0".to_owned(),
    });
    let link = LinkConfig::delay(DELAY)
        .with_jitter(JITTER)
        .with_loss(Loss::Random(LOSS));
    let _emulator = Emulator::start(ends, link, SEED)?;
    let machine = |name: &str| Machine::namespace(format!("{prefix}{name}"));
    let relay = Relay::start(&machine("c"), &folder.join("relay"), RELAY, 3_478)?;
    let mut stand = Stand {
        length: config.length,
        middle: machine("c"),
        relay_address: relay.address.clone(),
        relay: Some(relay),
        server: SoundServer::start(&machine("b"), &folder.join("sound"))?,
        plugged: 0,
        listen_at: None,
        new_speaker_marks: None,
        relay_starts: Vec::new(),
        folder,
    };
    let run = stand.run(machine("a"), machine("b"))?;
    Ok(stand.judge(&run))
}

impl Stand {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// One call from its beginning to its end.
    fn run(&mut self, near: Machine, far: Machine) -> Result<Run> {
        let relay = self.relay_address.clone();
        let caller = Client::new(near, self.path("caller"), relay.clone())?;
        let callee = Client::new(far, self.path("callee"), relay)?;
        callee.run(&["contacts", "add", &caller.id, "--name", "caller"])?;
        self.server.plug_in("one")?;
        self.plugged = 1;

        let received = self.path("callee measured");
        let mut answer = callee.command(&[
            "answer",
            "--once",
            "--accept",
            "all",
            "--video",
            PICTURES,
            "--audio",
            "microphone",
            "--speaker",
            "speaker",
            "--raw-voice",
            "--measure",
            text(&received)?,
            "-v",
        ])?;
        self.server.show_to(&mut answer);
        answer
            .env("LD_PRELOAD", fake_time_library()?)
            .env("FAKETIME", SKEW)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("TZ", ZONE);
        let mut answering = Side::start("callee", answer, &self.path("callee.log"))?;
        answering.wait_for("\"ready\"", MARGIN)?;

        let sent = self.path("caller measured");
        let seconds = (self.length + MARGIN).as_secs().to_string();
        let call = caller.command(&[
            "call",
            &callee.id,
            "--for",
            &seconds,
            "--video",
            PICTURES,
            "--audio",
            "tone",
            "--speaker",
            "none",
            "--measure",
            text(&sent)?,
            "-v",
        ])?;
        let mut calling = Side::start("caller", call, &self.path("caller.log"))?;
        calling.wait_for("\"began\"", MARGIN)?;

        let (began, began_micros) = (Instant::now(), now_micros());
        let mut run = Run {
            plan: plan::plan(self.length),
            began_micros,
            sides: [calling, answering],
            lasted: Ok(()),
        };
        run.lasted = self.watch(&mut run, began);
        if run.lasted.is_ok() {
            run.lasted = hang_up(&mut run.sides);
        }
        Ok(run)
    }

    /// Does what is due, and looks at the processes, until the call has lasted.
    fn watch(&mut self, run: &mut Run, began: Instant) -> Result<()> {
        let mut due = run.plan.clone().into_iter().peekable();
        while began.elapsed() < self.length {
            let at = began.elapsed();
            for side in &mut run.sides {
                side.look(at)?;
            }
            ensure!(self.server.is_running(), "the sound server died");
            if let Some(planned) = due.next_if(|planned| at >= planned.at) {
                tracing::info!(at = at.as_secs(), planned.name, "soak");
                self.perform(planned.step, at)
                    .with_context(|| planned.name.to_owned())?;
            }
            if self.listen_at.is_some_and(|listen_at| at >= listen_at) {
                self.listen_at = None;
                let name = format!("device-{}", self.plugged);
                let heard = self.server.listen(&name, LISTEN)?;
                self.new_speaker_marks = Some(MarkFinder::new().push(&heard).len());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn perform(&mut self, step: Step, at: Duration) -> Result<()> {
        match step {
            Step::Cut => self.cut(),
            Step::Mend => self.nft(&["delete", "table", "inet", "soak"]),
            Step::RelayDown => {
                // Killed, not asked to end.
                self.relay = None;
                Ok(())
            }
            Step::RelayUp => {
                let relay = Relay::start(&self.middle, &self.path("relay"), RELAY, 3_478)?;
                ensure!(
                    relay.address == self.relay_address,
                    "the relay came back as another one"
                );
                self.relay = Some(relay);
                self.relay_starts.push(at);
                Ok(())
            }
            Step::DevicesGone => self.server.unplug(),
            Step::DevicesBack => {
                self.plugged += 1;
                self.listen_at = Some(at + Duration::from_secs(8));
                self.server.plug_in(&format!("device-{}", self.plugged))
            }
        }
    }

    /// Drops what the users send to each other, in the middle; what they send to the relay passes.
    fn cut(&self) -> Result<()> {
        self.nft(&["add", "table", "inet", "soak"])?;
        self.nft(&[
            "add",
            "chain",
            "inet",
            "soak",
            "forward",
            "{ type filter hook forward priority 0 ; policy accept ; }",
        ])?;
        for (from, to) in [(USERS[0], USERS[1]), (USERS[1], USERS[0])] {
            self.nft(&[
                "add", "rule", "inet", "soak", "forward", "ip", "saddr", from, "ip", "daddr", to,
                "drop",
            ])?;
        }
        Ok(())
    }

    fn nft(&self, arguments: &[&str]) -> Result<()> {
        let mut command: Command = self.middle.command(Path::new("nft"));
        let said = command.args(arguments).output().context("starting nft")?;
        ensure!(
            said.status.success(),
            "nft {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&said.stderr).trim()
        );
        Ok(())
    }

    fn judge(&self, run: &Run) -> Vec<Row> {
        let minutes = self.length.as_secs_f64() / 60.0;
        let mut rows = vec![Row::holds(
            format!("the call lasts {minutes:.0} min, until it is hung up"),
            run.lasted.is_ok(),
            match &run.lasted {
                Ok(()) => format!(
                    "{:.0} % loss, {} + 0–{} ms each way; callee's clock {SKEW}, its devices {} ppm fast",
                    LOSS * 100.0,
                    DELAY.as_millis(),
                    JITTER.as_millis(),
                    ((server::DRIFT - 1.0) * 1e6).round(),
                ),
                Err(why) => format!("{why:#}"),
            },
        )];
        for side in &run.sides {
            rows.extend(usage::rows(side.name, &side.held, self.length));
            rows.push(side.log_row());
        }
        let [sent, received] = ["caller measured", "callee measured"].map(|name| self.path(name));
        let stretches = self.sync_stretches(run);
        let directions = [
            (
                "to the callee",
                Direction::read(&sent, &received, &stretches),
            ),
            (
                "to the caller",
                Direction::read(&received, &sent, &stretches),
            ),
        ];
        for (way, direction) in &directions {
            match direction {
                Ok(direction) => rows.extend(self.judge_direction(run, way, direction)),
                Err(why) => {
                    rows.push(Row::failed(format!("what came {way}"), Bar::Holds, "", why));
                }
            }
        }
        rows.extend(self.judge_paths(run));
        rows.extend(self.judge_devices(run));
        rows
    }

    /// Each step's mark on what came one way, and how far sound and picture are apart at the end.
    fn judge_direction(&self, run: &Run, way: &str, direction: &Direction) -> Vec<Row> {
        let micros = |at: Duration| run.began_micros + at.as_micros() as u64;
        let mut rows = Vec::new();
        for (index, planned) in run.plan.iter().enumerate() {
            let (from, until) = stretch(&run.plan, index, self.length);
            let (from, until) = (micros(from), micros(until));
            let devices = matches!(planned.step, Step::DevicesGone | Step::DevicesBack);
            // The relay that carries the call is away for 3 s; so are the devices.
            let waits = planned.step == Step::RelayDown
                && run.plan[..index]
                    .iter()
                    .rev()
                    .find_map(|before| match before.step {
                        Step::Cut => Some(true),
                        Step::Mend => Some(false),
                        _ => None,
                    })
                    == Some(true);
            let after = planned.step == Step::RelayUp && planned.name.contains("carry");
            for (what, hole) in [
                ("pictures", direction.picture_hole_millis(from, until)),
                ("sound", direction.sound_hole_millis(from, until)),
            ] {
                let bar = if waits || after || (devices && what == "sound") {
                    Bar::Shown
                } else {
                    Bar::AtMost(BREAK_MILLIS)
                };
                rows.push(Row::new(
                    format!("{}: longest hole of {what} {way}", planned.name),
                    bar,
                    hole,
                    "ms",
                    format!("at {} s", planned.at.as_secs()),
                ));
            }
        }
        let [beginning, end] = self.sync_stretches(run);
        rows.push(sync_row(
            format!("sound and picture apart at the end, {way}"),
            Bar::AtMost(APART_MILLIS),
            direction.sync(end),
        ));
        rows.push(sync_row(
            format!("the same at the beginning, {way}"),
            Bar::Shown,
            direction.sync(beginning),
        ));
        rows
    }

    /// Where sound is compared with picture, µs: a while before the first step, and the end.
    fn sync_stretches(&self, run: &Run) -> [Stretch; 2] {
        let micros = |at: Duration| run.began_micros + at.as_micros() as u64;
        let end = self.length - Duration::from_secs(1);
        let tail = (self.length / 10).min(Duration::from_secs(30));
        let first = self.length.mul_f64(0.14);
        [
            (micros(first - tail), micros(first)),
            (micros(end - tail), micros(end)),
        ]
    }

    /// Whether each cut and mend of the direct path was followed by a change of path, on both sides.
    fn judge_paths(&self, run: &Run) -> Vec<Row> {
        let mut rows = Vec::new();
        for side in &run.sides {
            for (index, planned) in run.plan.iter().enumerate() {
                let relayed = match planned.step {
                    Step::Cut => true,
                    Step::Mend => false,
                    _ => continue,
                };
                let next = run.plan[index + 1..]
                    .iter()
                    .find(|next| matches!(next.step, Step::Cut | Step::Mend))
                    .map_or(self.length, |next| next.at);
                let name = format!("{}: {} says so", planned.name, side.name);
                // Reported each second.
                let change = side
                    .paths
                    .iter()
                    .find(|(at, now)| (planned.at..next).contains(at) && *now == relayed);
                rows.push(match change {
                    Some((at, _)) => {
                        let after = at.saturating_sub(planned.at).as_secs_f64();
                        Row::new(name, Bar::Shown, after, "s", "in its numbers")
                    }
                    None => Row::failed(name, Bar::Holds, "s", "its path did not change"),
                });
            }
        }
        rows
    }

    /// Whether the callee lost its devices, found the new ones, and is heard on them.
    fn judge_devices(&self, run: &Run) -> Vec<Row> {
        let back = run
            .plan
            .iter()
            .find(|planned| planned.step == Step::DevicesBack)
            .map_or(Duration::ZERO, |planned| planned.at);
        let callee = &run.sides[1];
        let mut rows: Vec<Row> = ["speaker", "microphone"]
            .into_iter()
            .map(|device| {
                let name = format!("other devices come: the callee's {device} works again after");
                let bar = Bar::AtMost(REOPENED_SECONDS);
                let opened = callee
                    .devices
                    .iter()
                    .find(|(at, which, opened)| *at >= back && which == device && *opened);
                match opened {
                    Some((at, ..)) => Row::new(
                        name,
                        bar,
                        (*at - back).as_secs_f64(),
                        "s",
                        "by its own event",
                    ),
                    None => Row::failed(name, bar, "s", "it was not opened again"),
                }
            })
            .collect();
        let name = "the caller's tone is on the new loudspeaker";
        rows.push(match self.new_speaker_marks {
            Some(marks) => Row::holds(name, marks >= 4, format!("{marks} marks in {LISTEN:?}")),
            None => Row::failed(name, Bar::Holds, "", "the call did not get there"),
        });
        rows
    }
}

fn sync_row(name: String, bar: Bar, sync: Option<Sync>) -> Row {
    match sync {
        Some(sync) => Row::new(
            name,
            bar,
            sync.apart_millis().abs(),
            "ms",
            format!(
                "sound {:.0} ms, picture {:.0} ms after the source",
                sync.audio_millis, sync.video_millis
            ),
        ),
        None => Row::failed(name, bar, "ms", "too little arrived"),
    }
}

/// Ends the call from the caller's side, as a person would.
fn hang_up(sides: &mut [Side; 2]) -> Result<()> {
    let [calling, answering] = sides;
    calling.interrupt()?;
    calling.ends_well(PATIENCE)?;
    answering.ends_well(PATIENCE)
}

fn now_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
