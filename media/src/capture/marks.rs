//! A tone with marks to measure by: twice a second a pair of chirps, whose distance says which mark it is, so
//! that latency up to eight seconds is read from samples without doubt.
//!
//! A rising chirp begins at each whole half second; a falling one follows it by 60 ms + 20 ms × (number of the
//! mark modulo 16). Chirps are found by matched filters, which noise, codecs and a few milliseconds of time
//! stretching between both do not mislead.

use std::{
    collections::VecDeque,
    f32::consts::{PI, TAU},
};

use super::BLOCK;

/// Samples from one mark to the next: half a second at 48 kHz.
pub const MARK_PERIOD: u64 = 24_000;

/// Samples of a chirp: 40 ms, two packets of Opus, so that one lost packet does not hide it.
const CHIRP: usize = 1_920;
/// Where a chirp begins and ends, hertz: what the narrowest band of Opus keeps.
const SWEEP: [f32; 2] = [700.0, 3_600.0];
/// How loud a chirp is.
const CHIRP_LEVEL: f32 = 0.4;
/// How loud the tone is beneath.
const TONE_LEVEL: f32 = 0.1;
/// Samples from the first chirp to the second for mark 0: 60 ms.
const FIRST_GAP: u64 = 2_880;
/// Samples more for each number: 20 ms, twice what a jitter buffer stretches at once.
const GAP_STEP: u64 = 960;
/// Numbers that can be told apart.
const NUMBERS: u64 = 16;
/// Samples that the distance may be off: 8 ms.
const GAP_SLACK: u64 = 384;

/// Samples that the finder averages into one: chirps lie below 6 kHz.
const DECIMATE: usize = 4;
/// Correlation from which a chirp is one; noise of its length reaches 0.2.
const FOUND: f32 = 0.55;
/// Energy below which nothing is looked for, as a mean square: −66 dB.
const SILENCE: f32 = 2.5e-7;
/// No two chirps of a kind begin within this, samples: 30 ms.
const APART: u64 = 1_440;

/// The sample of a chirp at `n`; the second chirp of a pair falls.
fn chirp(n: usize, falling: bool) -> f32 {
    let at = if falling { CHIRP - 1 - n } else { n } as f32;
    let (length, rate) = (CHIRP as f32, 48_000.0);
    let phase = TAU * (SWEEP[0] * at + (SWEEP[1] - SWEEP[0]) * at * at / (2.0 * length)) / rate;
    // Hann's window: no clicks.
    phase.sin() * (PI * at / length).sin().powi(2)
}

/// Makes the tone with its marks.
#[derive(Debug, Clone)]
pub struct Tone {
    pitch: f64,
    position: u64,
}

impl Tone {
    /// A tone of `pitch` hertz; the first mark is its first sample.
    pub fn new(pitch: f32) -> Self {
        Self {
            pitch: f64::from(pitch),
            position: 0,
        }
    }

    /// Samples made so far.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Makes the next samples (mono, 48 kHz).
    pub fn fill(&mut self, samples: &mut [f32]) {
        for sample in samples {
            let seconds = self.position as f64 / 48_000.0;
            // In turns first, so that an hour later the sine is as exact.
            let turns = (seconds * self.pitch).fract() as f32;
            *sample = TONE_LEVEL * (TAU * turns).sin() + CHIRP_LEVEL * self.mark();
            self.position += 1;
        }
    }

    /// What the mark adds at this position.
    fn mark(&self) -> f32 {
        let at = self.position % MARK_PERIOD;
        let gap = FIRST_GAP + GAP_STEP * (self.position / MARK_PERIOD % NUMBERS);
        let length = CHIRP as u64;
        if at < length {
            chirp(at as usize, false)
        } else if (gap..gap + length).contains(&at) {
            chirp((at - gap) as usize, true)
        } else {
            0.0
        }
    }
}

/// A mark that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its number modulo 16.
    pub number: u8,
    /// The sample at which it begins, counted from the first that the finder was given; right to a fraction of a
    /// millisecond.
    pub sample: u64,
}

/// Finds marks in a stream of samples (mono, 48 kHz).
#[derive(Debug)]
pub struct MarkFinder {
    templates: [Vec<f32>; 2],
    /// Samples that are not yet a decimated one.
    sum: (f32, usize),
    recent: VecDeque<f32>,
    /// Number of the first of `recent`, decimated.
    first: u64,
    best: [Option<Peak>; 2],
    /// Where the last rising chirps began; those too old for a partner are dropped.
    rising: VecDeque<u64>,
}

/// The best place for a chirp so far.
#[derive(Debug, Clone, Copy)]
struct Peak {
    sample: u64,
    score: f32,
}

impl Default for MarkFinder {
    fn default() -> Self {
        Self::new()
    }
}

impl MarkFinder {
    /// One that has heard nothing.
    pub fn new() -> Self {
        Self {
            templates: [false, true].map(template),
            sum: (0.0, 0),
            recent: VecDeque::with_capacity(2 * CHIRP / DECIMATE),
            first: 0,
            best: [None; 2],
            rising: VecDeque::new(),
        }
    }

    /// Takes the next samples; returns the marks that are complete with them, which is half a second after they
    /// began at most.
    pub fn push(&mut self, samples: &[f32]) -> Vec<Mark> {
        let mut found = Vec::new();
        for &sample in samples {
            self.sum = (self.sum.0 + sample, self.sum.1 + 1);
            if self.sum.1 == DECIMATE {
                self.recent.push_back(self.sum.0 / DECIMATE as f32);
                self.sum = (0.0, 0);
                if self.recent.len() == CHIRP / DECIMATE {
                    self.look(&mut found);
                    self.recent.pop_front();
                    self.first += 1;
                }
            }
        }
        found
    }

    /// Compares the last 40 ms with both chirps.
    fn look(&mut self, found: &mut Vec<Mark>) {
        let here = self.first * DECIMATE as u64;
        let energy: f32 = self.recent.iter().map(|sample| sample * sample).sum();
        if energy > SILENCE * self.recent.len() as f32 {
            for (template, best) in self.templates.iter().zip(&mut self.best) {
                let product: f32 = self.recent.iter().zip(template).map(|(a, b)| a * b).sum();
                let score = product.abs() / energy.sqrt();
                if score > FOUND && best.is_none_or(|best| score > best.score) {
                    *best = Some(Peak {
                        sample: here,
                        score,
                    });
                }
            }
        }
        for kind in 0..2 {
            if let Some(peak) = self.best[kind]
                && here >= peak.sample + APART
            {
                self.best[kind] = None;
                if kind == 0 {
                    self.rising.push_back(peak.sample);
                } else {
                    found.extend(self.pair(peak.sample));
                }
            }
        }
    }

    /// The mark whose second chirp begins here.
    fn pair(&mut self, falling: u64) -> Option<Mark> {
        let longest = FIRST_GAP + GAP_STEP * NUMBERS;
        while self
            .rising
            .front()
            .is_some_and(|&rising| rising + longest < falling)
        {
            self.rising.pop_front();
        }
        let rising = self.rising.pop_front()?;
        let beyond = (falling.checked_sub(rising)? + GAP_SLACK).checked_sub(FIRST_GAP)?;
        let number = beyond / GAP_STEP;
        (beyond % GAP_STEP <= 2 * GAP_SLACK && number < NUMBERS).then_some(Mark {
            number: number as u8,
            sample: rising,
        })
    }
}

/// A chirp as the finder hears it, of unit energy.
fn template(falling: bool) -> Vec<f32> {
    let fine: Vec<f32> = (0..CHIRP).map(|n| chirp(n, falling)).collect();
    let mut template: Vec<f32> = fine
        .chunks(DECIMATE)
        .map(|group| group.iter().sum::<f32>())
        .collect();
    let energy: f32 = template.iter().map(|value| value * value).sum();
    for value in &mut template {
        *value /= energy.sqrt();
    }
    template
}

const _: () = assert!(CHIRP.is_multiple_of(DECIMATE) && BLOCK.is_multiple_of(DECIMATE));

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    fn tone(seconds: usize) -> Vec<f32> {
        let mut samples = vec![0.0; seconds * 48_000];
        Tone::new(440.0).fill(&mut samples);
        samples
    }

    fn check(found: &[Mark], delay: u64, count: usize, slack: u64) {
        assert!(found.len() >= count, "{} of {count}", found.len());
        for (index, mark) in found.iter().enumerate() {
            assert_eq!(usize::from(mark.number), index % 16);
            let truth = index as u64 * MARK_PERIOD + delay;
            assert!(
                mark.sample.abs_diff(truth) <= slack,
                "mark {index} at {} instead of {truth}",
                mark.sample
            );
        }
    }

    #[test]
    fn marks_are_found_where_they_are() {
        let mut finder = MarkFinder::new();
        let delay = 3_333;
        let mut found = finder.push(&vec![0.0; delay]);
        for piece in tone(10).chunks(480) {
            found.extend(finder.push(piece));
        }
        check(&found, delay as u64, 19, 4);
    }

    #[test]
    fn noise_gain_and_a_dull_line_do_not_hide_them() {
        let mut random = SmallRng::seed_from_u64(3);
        let mut dull = 0.0;
        let samples: Vec<f32> = tone(4)
            .into_iter()
            .map(|sample| {
                dull += 0.4 * (sample + random.random_range(-0.1..0.1) - dull);
                -0.2 * dull
            })
            .collect();
        let found = MarkFinder::new().push(&samples);
        check(&found, 0, 7, 24);
    }

    #[test]
    fn a_lost_half_is_no_mark() {
        let mut samples = tone(3);
        // The second chirp of mark 2 is gone, the first of mark 3, and all of mark 4.
        for (from, to) in [(49_000, 70_000), (72_000, 74_000), (96_000, 119_000)] {
            samples[from..to].fill(0.0);
        }
        let numbers: Vec<u8> = MarkFinder::new()
            .push(&samples)
            .iter()
            .map(|mark| mark.number)
            .collect();
        assert_eq!(numbers, [0, 1, 5]);
    }

    #[test]
    fn there_are_none_in_noise_and_silence() {
        let mut random = SmallRng::seed_from_u64(5);
        let noise: Vec<f32> = (0..96_000)
            .map(|_| random.random_range(-0.5..0.5))
            .collect();
        assert!(MarkFinder::new().push(&noise).is_empty());
        assert_eq!(MarkFinder::new().push(&[0.0; 48_000]), []);
        assert_eq!(MarkFinder::new().push(&[f32::NAN; 9_600]), []);
    }
}
