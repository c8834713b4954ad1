//! What `--measure DIR` of a call leaves behind (see `media`): when each numbered picture was handed to the
//! call and when it was shown, and all sound that went in and came out with its times, by one clock.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A numbered picture and a moment, µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The number that the picture bears.
    pub number: u32,
    /// µs of the machine's monotonic clock.
    pub micros: u64,
}

/// Reads lines of `number,micros`; pictures whose number could not be read are left out.
///
/// # Errors
/// Where the file is not there or not such.
pub fn moments(path: &Path) -> Result<Vec<Moment>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parse = |line: &str| {
        let (number, micros) = line.split_once(',')?;
        Some(Moment {
            number: number.parse().ok()?,
            micros: micros.parse().ok()?,
        })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// Sound with the times of its pieces.
#[derive(Debug, Clone, Default)]
pub struct Sound {
    /// Samples at 48 kHz, one channel.
    pub samples: Vec<f32>,
    /// Sample index and µs, ascending.
    marks: Vec<(u64, u64)>,
}

impl Sound {
    /// Reads `NAME.wav` and `NAME.csv`.
    ///
    /// # Errors
    /// Where one is missing or not such.
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        let wav = folder.join(format!("{name}.wav"));
        let mut reader =
            hound::WavReader::open(&wav).with_context(|| format!("reading {}", wav.display()))?;
        let samples = reader
            .samples::<i16>()
            .map(|sample| Ok(f32::from(sample?) / 32_768.0))
            .collect::<Result<_>>()?;
        let marks = moments(&folder.join(format!("{name}.csv")))?
            .into_iter()
            .map(|mark| (u64::from(mark.number), mark.micros))
            .collect();
        Ok(Self { samples, marks })
    }

    /// Of samples, and of sample indices with their µs, ascending.
    pub const fn new(samples: Vec<f32>, marks: Vec<(u64, u64)>) -> Self {
        Self { samples, marks }
    }

    /// When sample `index` passed, µs.
    pub fn micros_at(&self, index: u64) -> Option<u64> {
        let after = self.marks.partition_point(|(at, _)| *at <= index);
        let (at, micros) = *self.marks.get(after.checked_sub(1)?)?;
        Some(micros + (index - at) * 1_000_000 / 48_000)
    }

    /// The sample that passed at `micros`.
    pub fn index_at(&self, micros: u64) -> Option<u64> {
        let after = self.marks.partition_point(|(_, at)| *at <= micros);
        let (index, at) = *self.marks.get(after.checked_sub(1)?)?;
        Some(index + (micros - at) * 48_000 / 1_000_000)
    }
}
