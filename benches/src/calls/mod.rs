//! Rows of calls between two real `landline` processes over an emulated link: under the [`conditions`],
//! measured from pixels and samples, beside WebRTC's stored figures; with pictures both ways, for what they
//! cost; and between the devices of a sound server. `benches/lab/call-link` makes the namespaces and runs this.

mod condition_rows;
pub mod conditions;
mod cost;
mod lab;
pub mod numbers;
pub mod picture;
pub mod quality;
pub mod records;
pub mod rival;
pub mod scene;
mod sound_server;
pub mod voice;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use p2p_net_sim::LinkConfig;

use crate::emulator::{Emulator, Passed};
use crate::process::Watched;
use crate::report::{Bar, Row};
use crate::scenario::{Effort, scratch};
use condition_rows::Judge;
use conditions::{Bars, Condition, Step};
use cost::Cost;
use lab::{Lab, Side, text};
use numbers::Numbers;
use quality::Quality;
use records::{Sound, moments};
use rival::Download;

/// How often the bytes on the link are counted.
const SAMPLE: Duration = Duration::from_millis(250);

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

/// What is run for its rows.
enum Part {
    Condition(Box<Condition>),
    Cost(Cost),
    SoundServer,
}

impl Part {
    fn all() -> impl Iterator<Item = Self> {
        let conditions = conditions::all()
            .into_iter()
            .map(|condition| Self::Condition(Box::new(condition)));
        conditions
            .chain(cost::ALL.map(Self::Cost))
            .chain([Self::SoundServer])
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Condition(condition) => condition.name,
            Self::Cost(cost) => cost.name,
            Self::SoundServer => sound_server::NAME,
        }
    }
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
        let pictures = film_pictures(effort);
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

    /// Runs the parts whose name contains `only` (all, if it is empty); a smoke run ends after the first.
    ///
    /// # Errors
    /// Where the programs do not even start; a call that fails is a row that fails.
    pub fn rows(&self, only: &str) -> Result<Vec<Row>> {
        let lab = Lab::start(&self.prefix, self.pinned, self.scratch.path())?;
        let mut rows = Vec::new();
        for part in Part::all().filter(|part| part.name().contains(only)) {
            let name = part.name();
            let part = match &part {
                Part::Condition(condition) => self.condition(&lab, condition),
                Part::Cost(cost) => cost.rows(&lab, self.scratch.path()),
                Part::SoundServer => sound_server::rows(&lab, self.scratch.path()),
            };
            rows.extend(part.unwrap_or_else(|why| {
                let why = format!("{why:#}");
                vec![Row::failed(format!("{name}: a call"), Bar::Holds, "", why)]
            }));
            if self.effort == Effort::Quick {
                break;
            }
        }
        Ok(match self.effort {
            Effort::Full => rows,
            Effort::Quick => rows.into_iter().map(Row::unjudged).collect(),
        })
    }

    fn condition(&self, lab: &Lab, condition: &Condition) -> Result<Vec<Row>> {
        let condition = match self.effort {
            Effort::Full => *condition,
            // A smoke run is too short, and its build too slow, to be judged.
            Effort::Quick => Condition {
                step: None,
                rival_from: None,
                bars: Bars::default(),
                ..*condition
            },
        };
        let call = self.call(lab, &condition)?;
        Ok(Judge::rows(&condition, &call))
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
    fn call(&self, lab: &Lab, condition: &Condition) -> Result<Call> {
        let timing = self.timing(condition);
        let length = timing.ramp + timing.measured;
        let folders =
            ["sent", "received"].map(|name| self.path(&format!("{} {name}", condition.name)));
        for folder in &folders {
            // Names of conditions hold slashes.
            fs::create_dir_all(folder)?;
        }
        let [room, one, two] = ["room.y4m", "one.wav", "two.wav"].map(|name| self.path(name));
        let near = Side {
            video: text(&room)?,
            audio: text(&one)?,
            measure: Some(text(&folders[0])?),
            ..Side::SILENT
        };
        let far = Side {
            audio: text(&two)?,
            measure: Some(text(&folders[1])?),
            ..Side::SILENT
        };
        let mut running = lab.begin(&near, &far, condition.link, length)?;
        let flow = watch(lab, &mut running.calling, condition, length)?;
        let numbers = running.end()?;
        let sent = moments(&folders[0].join("sent.csv"))?;
        let quality = self.quality(&timing, &sent, &folders[1].join("pictures"));
        Ok(Call {
            said: Sound::read(&folders[0], "said")?,
            heard: Sound::read(&folders[1], "heard")?,
            shown: moments(&folders[1].join("shown.csv"))?,
            sizes: moments(&folders[1].join("sizes.csv"))?,
            sent,
            numbers,
            quality,
            flow,
            timing,
        })
    }

    /// Judges the pictures that were kept, and throws them away: they are large.
    fn quality(
        &self,
        timing: &Timing,
        sent: &[records::Moment],
        folder: &Path,
    ) -> Result<Option<Quality>> {
        let first = sent.first().map_or(0, |moment| moment.micros);
        let (from, until) = condition_rows::window(timing, first);
        let within = sent.iter().filter(|m| (from..until).contains(&m.micros));
        let numbers = within.map(|moment| moment.number).collect();
        let pictures = film_pictures(self.effort);
        let quality = quality::judge(
            &self.path("room.y4m"),
            pictures,
            folder,
            &numbers,
            self.scratch.path(),
        );
        let _ = fs::remove_dir_all(folder);
        quality
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

/// Pictures of the film that the calls carry.
fn film_pictures(effort: Effort) -> usize {
    effort.pick(2 * scene::FPS, scene::LOOP)
}

/// What one call left behind.
struct Call {
    sent: Vec<records::Moment>,
    shown: Vec<records::Moment>,
    /// Heights of the pictures shown, and since when.
    sizes: Vec<records::Moment>,
    said: Sound,
    heard: Sound,
    /// Of the caller and the callee.
    numbers: [Numbers; 2],
    quality: Result<Option<Quality>>,
    flow: Flow,
    timing: Timing,
}

/// What passed the link towards the callee, by time since the call began.
struct Flow(Vec<(Duration, Passed)>);

impl Flow {
    /// Mean rate of a stretch, kbit/s, of those bytes.
    fn kbit_per_sec(
        &self,
        from: Duration,
        until: Duration,
        of: impl Fn(&Passed) -> u64,
    ) -> Option<f64> {
        let first = self.0.iter().find(|(at, _)| *at >= from)?;
        let last = self.0.iter().rev().find(|(at, _)| *at <= until)?;
        let seconds = last.0.checked_sub(first.0)?.as_secs_f64();
        (seconds > 0.0).then(|| (of(&last.1) - of(&first.1)) as f64 * 8.0 / 1e3 / seconds)
    }
}

/// Waits while the call runs, counts what passes, turns the link, and lets the download begin.
fn watch(
    lab: &Lab,
    calling: &mut Watched,
    condition: &Condition,
    length: Duration,
) -> Result<Flow> {
    let emulator: &Emulator = &lab.emulator;
    let began = Instant::now();
    let mut flow = Vec::new();
    let mut turns = turns(condition);
    let mut rival_from = condition.rival_from;
    let mut rival = None;
    while began.elapsed() < length && calling.is_running() {
        flow.push((began.elapsed(), emulator.passed()[0]));
        if let Some((_, link)) = turns.pop_if(|(at, _)| began.elapsed() >= *at) {
            emulator.set_config(link);
        }
        if rival_from.take_if(|at| began.elapsed() >= *at).is_some() {
            rival = Some(Download::start(&lab.namespace('a'), &lab.namespace('b'))?);
        }
        while calling.next_line(Duration::ZERO).is_some() {}
        sleep(SAMPLE);
    }
    drop(rival);
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
    let narrow = LinkConfig {
        rate_bits_per_sec: Some(rate),
        ..condition.link
    };
    vec![(up_at, condition.link), (down_at, narrow)]
}
