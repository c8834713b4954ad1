//! Rows of calls between two real `landline` processes over an emulated link, under the conditions of
//! [`conditions`], measured from pixels and samples, beside WebRTC's stored figures. `benches/lab/call-link`
//! makes the namespaces and runs this.

pub mod conditions;
pub mod picture;
pub mod records;
pub mod scene;
pub mod voice;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use p2p_net_sim::LinkConfig;

use crate::emulator::{Emulator, End};
use crate::process::Watched;
use crate::programs::{Client, Machine, Relay};
use crate::report::{Bar, Row};
use crate::scenario::{Effort, scratch};
use conditions::{Condition, Step};
use records::{Sound, moments};

/// The relay beyond the link.
const RELAY: &str = "10.77.1.2:443";
/// How often the bytes on the link are counted.
const SAMPLE: Duration = Duration::from_millis(250);
/// What a call may take to begin and to end, beyond its length.
const MARGIN: Duration = Duration::from_secs(60);
/// Seed of the link's fortunes; one for each condition follows from it.
const SEED: u64 = 20_261_121;

/// Which path the calls are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pinned {
    /// Straight.
    Direct,
    /// Through the relay.
    Relay,
}

/// The stand: two namespaces, the link, the material.
pub struct Stand {
    prefix: String,
    effort: Effort,
    scratch: tempfile::TempDir,
    pinned: Pinned,
}

/// How the parts of one call are timed.
struct Timing {
    ramp: Duration,
    measured: Duration,
}

impl Stand {
    /// Takes the namespaces from `LAB_PREFIX`, and draws what the calls carry.
    ///
    /// # Errors
    /// Outside `lab/call-link`, or where espeak-ng or sox are missing.
    pub fn from_environment(effort: Effort, pinned: Pinned) -> Result<Self> {
        let prefix = std::env::var("LAB_PREFIX")
            .context("run this by benches/lab/call-link, which makes the namespaces")?;
        let scratch = scratch(2 << 30)?;
        let pictures = effort.pick(scene::FPS * 2, scene::LOOP);
        scene::write_pictures(&scratch.path().join("room.y4m"), pictures)?;
        scene::write_speech(&scratch.path().join("one.wav"), "en-us")?;
        scene::write_speech(&scratch.path().join("two.wav"), "en-gb")?;
        Ok(Self {
            prefix,
            effort,
            scratch,
            pinned,
        })
    }

    /// Runs the conditions whose name contains `only` (all, if it is empty).
    ///
    /// # Errors
    /// Where the programs do not even start; a call that fails is a row that fails.
    pub fn rows(&self, only: &str) -> Result<Vec<Row>> {
        let ends = ["a", "c"].map(|name| End {
            namespace: format!("{}{name}", self.prefix),
            device: "ll0".to_owned(),
        });
        let clean = LinkConfig::delay(Duration::from_millis(25));
        let emulator = Emulator::start(ends, clean, SEED)?;
        let near = Machine::namespace(format!("{}a", self.prefix));
        let far = Machine::namespace(format!("{}b", self.prefix));
        let middle = Machine::namespace(format!("{}c", self.prefix));
        let relay = Relay::start(&middle, &self.path("relay"), RELAY, 3_478)?;
        let caller = Client::new(near, self.path("caller"), relay.address.clone())?;
        let callee = Client::new(far, self.path("callee"), relay.address.clone())?;
        // A stranger would be called back over the relay until somebody answers.
        callee.run(&["contacts", "add", &caller.id, "--name", "caller"])?;
        let mut rows = Vec::new();
        for condition in conditions::all() {
            if !condition.name.contains(only) {
                continue;
            }
            emulator.set_config(clean);
            match self.call(&emulator, &caller, &callee, &condition) {
                Ok(call) => rows.extend(self.judge(&condition, &call)),
                Err(why) => rows.push(Row::failed(
                    format!("{}: a call", condition.name),
                    Bar::Holds,
                    "",
                    format!("{why:#}"),
                )),
            }
            if self.effort == Effort::Quick {
                break;
            }
        }
        Ok(rows)
    }

    /// The rows of one call; a smoke run is too short, and its build too slow, to be judged.
    fn judge(&self, condition: &Condition, call: &Call) -> Vec<Row> {
        let rows = judge(condition, call);
        match self.effort {
            Effort::Full => rows,
            Effort::Quick => rows.into_iter().map(Row::unjudged).collect(),
        }
    }

    fn timing(&self, condition: &Condition) -> Timing {
        let (ramp, measured) = match (self.effort, condition.step) {
            (Effort::Quick, _) => (3, 12),
            (Effort::Full, None) => (30, 60),
            (Effort::Full, Some(_)) => (10, 65),
        };
        Timing {
            ramp: Duration::from_secs(ramp),
            measured: Duration::from_secs(measured),
        }
    }

    /// One call from its beginning to its end.
    fn call(
        &self,
        emulator: &Emulator,
        caller: &Client,
        callee: &Client,
        condition: &Condition,
    ) -> Result<Call> {
        let timing = self.timing(condition);
        let length = timing.ramp + timing.measured;
        let folders =
            ["sent", "received"].map(|name| self.path(&format!("{} {name}", condition.name)));
        for folder in &folders {
            // Names of conditions hold slashes.
            fs::create_dir_all(folder)?;
        }
        let path = match self.pinned {
            Pinned::Direct => "direct",
            Pinned::Relay => "relay",
        };
        let [sent, received] = [text(&folders[0])?, text(&folders[1])?];
        let (room, one, two) = (
            self.path("room.y4m"),
            self.path("one.wav"),
            self.path("two.wav"),
        );
        let mut answering = callee.start(&[
            "answer",
            "--once",
            "--accept",
            "all",
            "--video",
            "none",
            "--audio",
            text(&two)?,
            "--speaker",
            "none",
            "--path",
            path,
            "--measure",
            received,
        ])?;
        answering.wait_line(MARGIN, |line| line.contains("ready").then_some(()))?;
        emulator.set_config(condition.link);
        let seconds = length.as_secs().to_string();
        let mut calling = caller.start(&[
            "call",
            &callee.id,
            "--for",
            &seconds,
            "--stats",
            "--video",
            text(&room)?,
            "--audio",
            text(&one)?,
            "--speaker",
            "none",
            "--path",
            path,
            "--measure",
            sent,
        ])?;
        calling.wait_line(MARGIN, |line| line.contains("\"began\"").then_some(()))?;
        let flow = watch(emulator, &mut calling, condition, length)?;
        calling.wait_well(MARGIN)?;
        answering.wait_well(MARGIN)?;
        Ok(Call {
            said: Sound::read(&folders[0], "said")?,
            heard: Sound::read(&folders[1], "heard")?,
            sent: moments(&folders[0].join("sent.csv"))?,
            shown: moments(&folders[1].join("shown.csv"))?,
            flow,
            timing,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

/// What one call left behind.
struct Call {
    sent: Vec<records::Moment>,
    shown: Vec<records::Moment>,
    said: Sound,
    heard: Sound,
    flow: Flow,
    timing: Timing,
}

/// Bytes that entered the link towards the callee, by time since the call began.
struct Flow(Vec<(Duration, u64)>);

impl Flow {
    /// Mean rate of a stretch, kbit/s.
    fn kbit_per_sec(&self, from: Duration, until: Duration) -> Option<f64> {
        let first = self.0.iter().find(|(at, _)| *at >= from)?;
        let last = self.0.iter().rev().find(|(at, _)| *at <= until)?;
        let seconds = last.0.checked_sub(first.0)?.as_secs_f64();
        (seconds > 0.0).then(|| (last.1 - first.1) as f64 * 8.0 / 1e3 / seconds)
    }
}

/// Waits while the call runs, counts what passes, and turns the link.
fn watch(
    emulator: &Emulator,
    calling: &mut Watched,
    condition: &Condition,
    length: Duration,
) -> Result<Flow> {
    let began = Instant::now();
    let mut flow = Vec::new();
    let mut turns = turns(condition);
    while began.elapsed() < length && calling.is_running() {
        flow.push((began.elapsed(), emulator.passed()[0].bytes));
        if let Some((_, link)) = turns.pop_if(|(at, _)| began.elapsed() >= *at) {
            emulator.set_config(link);
        }
        while calling.next_line(Duration::ZERO).is_some() {}
        sleep(SAMPLE);
    }
    Ok(Flow(flow))
}

/// Changes of the link to come, the next one last.
fn turns(condition: &Condition) -> Vec<(Duration, LinkConfig)> {
    let Some(Step {
        down_at,
        up_at,
        rate,
    }) = condition.step
    else {
        return Vec::new();
    };
    let narrow = condition.link.with_rate(rate);
    vec![(up_at, condition.link), (down_at, narrow)]
}

/// The rows of one condition.
fn judge(condition: &Condition, call: &Call) -> Vec<Row> {
    let Some(first) = call.sent.first().map(|moment| moment.micros) else {
        return vec![Row::failed(
            condition.name,
            Bar::Holds,
            "",
            "no picture was sent",
        )];
    };
    let micros = |at: Duration| first + at.as_micros() as u64;
    let Timing { ramp, measured } = call.timing;
    let (from, until) = (
        micros(ramp),
        micros(ramp + measured - Duration::from_secs(1)),
    );
    let name = |what: &str| format!("{}: {what}", condition.name);
    let anchor = &condition.anchor;
    let rate = call.flow.kbit_per_sec(ramp, ramp + measured).unwrap_or(0.0);
    let mut rows = Vec::new();
    match picture::judge(&call.sent, &call.shown, from, until) {
        Some(pictures) => {
            let (p50, p95) = pictures.latency_millis;
            rows.push(Row::new(
                name("pictures shown"),
                condition
                    .bars
                    .shown_percent
                    .map_or(Bar::Shown, Bar::AtLeast),
                pictures.shown_percent,
                "%",
                format!(
                    "WebRTC {}; {rate:.0} kbit/s on the link",
                    anchor.shown_percent
                ),
            ));
            rows.push(Row::new(
                name("video latency p50"),
                at_most(condition.bars.video_median),
                p50,
                "ms",
                format!("WebRTC {}", anchor.video.0),
            ));
            rows.push(Row::new(
                name("video latency p95"),
                at_most(condition.bars.video_p95),
                p95,
                "ms",
                format!("WebRTC {}", anchor.video.1),
            ));
            rows.push(Row::new(
                name("stall"),
                at_most(condition.bars.stall),
                pictures.stall_millis,
                "ms",
                format!("WebRTC {}", anchor.stall),
            ));
        }
        None => rows.push(Row::failed(
            name("pictures"),
            Bar::Holds,
            "",
            "none was sent",
        )),
    }
    match voice::judge(&call.said, &call.heard, from, until) {
        Some(voice) => {
            let (p50, p95) = voice.latency_millis;
            rows.push(Row::new(
                name("audio latency p95"),
                at_most(condition.bars.audio_p95),
                p95,
                "ms",
                format!(
                    "p50 {p50:.0}, told in {:.0} % of the windows; WebRTC {} / {}",
                    voice.told_percent, anchor.audio.0, anchor.audio.1
                ),
            ));
            rows.push(Row::new(
                name("PESQ"),
                condition.bars.pesq.map_or(Bar::Shown, Bar::AtLeast),
                voice.pesq,
                "MOS",
                format!("WebRTC {}", anchor.pesq),
            ));
        }
        None => rows.push(Row::failed(
            name("sound"),
            Bar::Holds,
            "",
            "nothing was heard",
        )),
    }
    if let Some(step) = condition.step {
        rows.extend(judge_step(condition, call, &step, first));
    }
    rows
}

fn at_most(bar: Option<f64>) -> Bar {
    bar.map_or(Bar::Shown, Bar::AtMost)
}

/// How the call took the link's fall and its return.
fn judge_step(condition: &Condition, call: &Call, step: &Step, first: u64) -> Vec<Row> {
    let name = |what: &str| format!("{}: {what}", condition.name);
    let down = first + step.down_at.as_micros() as u64;
    let back = picture::recovered_after(&call.sent, &call.shown, down, 200.0);
    let before = call
        .flow
        .kbit_per_sec(step.down_at - Duration::from_secs(10), step.down_at);
    let second = Duration::from_secs(1);
    let returned = before.and_then(|before| {
        (0..240).map(|n| step.up_at + n * SAMPLE / 2).find(|at| {
            let rate = call.flow.kbit_per_sec(*at, *at + second);
            rate.is_some_and(|rate| rate >= 0.9 * before)
        })
    });
    let row = |what: &str, bar: f64, seconds: Option<f64>, beside: String| match seconds {
        Some(seconds) => Row::new(name(what), Bar::AtMost(bar), seconds, "s", beside),
        None => Row::failed(name(what), Bar::AtMost(bar), "s", "never in this call"),
    };
    vec![
        row(
            "latency under 200 ms again after the drop",
            2.0,
            back,
            "for a second on end".to_owned(),
        ),
        row(
            "90 % of the old rate after the return",
            8.0,
            returned.map(|at| (at - step.up_at).as_secs_f64()),
            format!("{:.0} kbit/s before the drop", before.unwrap_or(0.0)),
        ),
    ]
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
