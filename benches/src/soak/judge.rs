//! Figures of a long call, from what `--measure` left behind: holes of sound and pictures around a moment, and
//! how far sound and picture are apart at the end. Sound is read as a stream: half an hour of it is long.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use media::capture::{BLOCK, MARK_PERIOD, MarkFinder};

use crate::calls::picture::percentile;
use crate::calls::records::{Moment, moments};

/// Blocks quieter than this hold no tone, as root mean square: a seventh of the tone's.
const QUIET: f64 = 0.01;
/// Marks that can be told apart.
const NUMBERS: u64 = 16;
/// How late sound may be heard for its latency to be told, µs.
const LATEST_MICROS: u64 = 2_000_000;
/// Pictures and marks that must have been measured for a figure.
const ENOUGH: usize = 10;

/// From and until, µs.
pub type Stretch = (u64, u64);

/// What was made of the sound of one side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sound {
    /// When blocks of 10 ms that are not silent began, µs, ascending.
    pub loud: Vec<u64>,
    /// The marks of the tone, and when they began, µs.
    pub marks: Vec<(u8, u64)>,
}

impl Sound {
    /// Reads `NAME.wav` and `NAME.csv`; marks are looked for in some stretches only, µs, since that takes long.
    ///
    /// # Errors
    /// Where one is missing or not such.
    pub fn read(folder: &Path, name: &str, stretches: &[Stretch]) -> Result<Self> {
        let wav = folder.join(format!("{name}.wav"));
        let times = moments(&folder.join(format!("{name}.csv")))?;
        let mut reader =
            hound::WavReader::open(&wav).with_context(|| format!("reading {}", wav.display()))?;
        let samples = reader
            .samples::<i16>()
            .map_while(Result::ok)
            .map(|sample| f32::from(sample) / 32_768.0);
        Ok(Self::of(samples, &times, stretches))
    }

    fn of(mut samples: impl Iterator<Item = f32>, times: &[Moment], stretches: &[Stretch]) -> Self {
        let mut sound = Self::default();
        // A finder for the stretch that blocks belong to now, and the blocks it was given.
        let mut finder = (None, MarkFinder::new());
        let mut given: Vec<u64> = Vec::new();
        for moment in times {
            let block: Vec<f32> = samples.by_ref().take(BLOCK).collect();
            let power: f64 = block.iter().map(|s| f64::from(*s).powi(2)).sum();
            if (power / BLOCK as f64).sqrt() > QUIET {
                sound.loud.push(moment.micros);
            }
            let within = |stretch: &Stretch| (stretch.0..stretch.1).contains(&moment.micros);
            let stretch = stretches.iter().position(within);
            if stretch != finder.0 {
                finder = (stretch, MarkFinder::new());
                given.clear();
            }
            if stretch.is_none() {
                continue;
            }
            given.push(moment.micros);
            let found = finder.1.push(&block);
            sound.marks.extend(found.iter().filter_map(|mark| {
                let block = given.get((mark.sample / BLOCK as u64) as usize)?;
                let within = mark.sample % BLOCK as u64 * 1_000_000 / 48_000;
                Some((mark.number, block + within))
            }));
        }
        // Where blocks are told in the order of playing, their times need not be: a device has its own delay.
        sound.loud.sort_unstable();
        sound
    }
}

/// One direction of the call.
#[derive(Debug, Clone)]
pub struct Direction {
    sent: Vec<Moment>,
    shown: Vec<Moment>,
    said: Sound,
    heard: Sound,
}

/// Latencies of one direction in a stretch, ms: medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sync {
    /// From hand-over to shown.
    pub video_millis: f64,
    /// From said to heard.
    pub audio_millis: f64,
}

impl Sync {
    /// How much later the sound is than the picture, ms.
    pub fn apart_millis(self) -> f64 {
        self.audio_millis - self.video_millis
    }
}

impl Direction {
    /// Reads what one side sent and the other received, to tell [`Direction::sync`] in some stretches.
    ///
    /// # Errors
    /// Where a file is missing or not such.
    pub fn read(from: &Path, to: &Path, stretches: &[Stretch]) -> Result<Self> {
        // What is heard comes a little later.
        let later: Vec<Stretch> = stretches
            .iter()
            .map(|(from, until)| (*from, until + LATEST_MICROS))
            .collect();
        Ok(Self {
            sent: moments(&from.join("sent.csv"))?,
            shown: moments(&to.join("shown.csv"))?,
            said: Sound::read(from, "said", &later)?,
            heard: Sound::read(to, "heard", &later)?,
        })
    }

    /// The longest time without a new picture in a stretch, ms.
    pub fn picture_hole_millis(&self, from: u64, until: u64) -> f64 {
        hole(self.shown.iter().map(|shown| shown.micros), from, until)
    }

    /// The longest time without sound in a stretch, ms.
    pub fn sound_hole_millis(&self, from: u64, until: u64) -> f64 {
        hole(self.heard.loud.iter().copied(), from, until)
    }

    /// How far sound and picture were behind, of what was sent in a stretch.
    pub fn sync(&self, (from, until): Stretch) -> Option<Sync> {
        let mut shown: HashMap<u32, u64> = HashMap::new();
        for moment in &self.shown {
            shown.entry(moment.number).or_insert(moment.micros);
        }
        let within = |micros: u64| (from..until).contains(&micros);
        let millis = |later: u64, earlier: u64| later as f64 / 1e3 - earlier as f64 / 1e3;
        let mut video: Vec<f64> = self
            .sent
            .iter()
            .filter(|sent| within(sent.micros))
            .filter_map(|sent| Some(millis(*shown.get(&sent.number)?, sent.micros)))
            .collect();
        let mut audio: Vec<f64> = self
            .said
            .marks
            .iter()
            .filter(|(_, at)| within(*at))
            .filter_map(|(number, at)| Some(millis(self.heard_at(*number, *at)?, *at)))
            .collect();
        if video.len() < ENOUGH || audio.len() < ENOUGH {
            return None;
        }
        Some(Sync {
            video_millis: percentile(&mut video, 0.5)?,
            audio_millis: percentile(&mut audio, 0.5)?,
        })
    }

    /// When the mark that was said at a moment was heard: the first of its number from then on, before the
    /// number comes again.
    fn heard_at(&self, number: u8, said: u64) -> Option<u64> {
        let period = NUMBERS * MARK_PERIOD * 1_000_000 / 48_000;
        let heard = self.heard.marks.iter();
        heard
            .filter(|(other, at)| *other == number && (said..said + period / 2).contains(at))
            .map(|(_, at)| *at)
            .min()
    }
}

/// The longest distance between neighbours in a stretch, its ends included, ms.
fn hole(times: impl Iterator<Item = u64>, from: u64, until: u64) -> f64 {
    let mut times: Vec<u64> = times.filter(|at| (from..until).contains(at)).collect();
    times.extend([from, until]);
    times.sort_unstable();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    longest.unwrap_or(0) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use media::capture::Tone;

    use super::*;

    const SECONDS: usize = 30;

    fn times(from: u64, drift: f64) -> Vec<Moment> {
        (0..SECONDS * 100)
            .map(|block| Moment {
                number: (block * BLOCK) as u32,
                micros: from + (block as f64 * 10_000.0 * drift) as u64,
            })
            .collect()
    }

    fn tone(times: &[Moment], silent: std::ops::Range<usize>) -> Sound {
        let mut samples = vec![0.0; SECONDS * 48_000];
        Tone::new(440.0).fill(&mut samples);
        samples[silent].fill(0.0);
        Sound::of(samples.into_iter(), times, &[(0, u64::MAX)])
    }

    fn direction(audio_delay: u64, video_delay: u64) -> Direction {
        let pictures = |delay: u64| -> Vec<Moment> {
            (0..SECONDS as u32 * 30)
                .map(|number| Moment {
                    number,
                    micros: 1_000_000 + u64::from(number) * 33_333 + delay,
                })
                .collect()
        };
        Direction {
            sent: pictures(0),
            shown: pictures(video_delay),
            said: tone(&times(1_000_000, 1.0), 0..0),
            heard: tone(&times(1_000_000 + audio_delay, 1.0), 480_000..504_000),
        }
    }

    #[test]
    fn sound_and_picture_are_told_apart() {
        let sync = direction(95_000, 70_000)
            .sync((15_000_000, 30_000_000))
            .expect("figures");
        assert!((sync.video_millis - 70.0).abs() < 0.1, "{sync:?}");
        assert!((sync.audio_millis - 95.0).abs() < 1.0, "{sync:?}");
        assert!((sync.apart_millis() - 25.0).abs() < 1.1, "{sync:?}");
        assert_eq!(direction(0, 0).sync((60_000_000, 90_000_000)), None);
    }

    #[test]
    fn holes_are_found_where_they_are() {
        let direction = direction(0, 50_000);
        // Half a second of silence begins 10 s after the beginning.
        let silence = direction.sound_hole_millis(10_000_000, 14_000_000);
        assert!((silence - 500.0).abs() < 25.0, "{silence}");
        assert!(direction.sound_hole_millis(12_000_000, 20_000_000) < 25.0);
        assert!(direction.picture_hole_millis(12_000_000, 20_000_000) < 35.0);
        let end = direction.picture_hole_millis(30_000_000, 33_000_000);
        assert!(end > 1_800.0, "{end}");
    }
}
