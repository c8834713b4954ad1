//! Makes sound shorter or longer by whole periods of its pitch (WSOLA), without a change of pitch, and joins
//! what does not belong together. 48 kHz, mono. Pure.

use std::ops::RangeInclusive;

/// Lags that are searched, samples: 2.5 ms (a voice at 400 Hz) …
pub(super) const MIN_LAG: usize = 120;
/// … to 15 ms (67 Hz).
pub(super) const MAX_LAG: usize = 720;
/// Sound that a search wants to see: the longest lag twice.
pub(super) const WINDOW: usize = 2 * MAX_LAG;
/// The length of a joint: 5 ms.
pub(super) const JOINT: usize = 240;

/// The first search runs on every twelfth sample, 4 kHz: pitch is far below that.
const DECIMATION: usize = 12;
/// Samples compared at each lag, at most: 10 ms.
const COMPARED: usize = 480;

/// When two pieces of sound may be laid over each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Join {
    /// How alike they must be at least (1: the same but for loudness).
    pub(super) likeness: f32,
    /// Sound softer than this (RMS) is joined anywhere.
    pub(super) quiet: f32,
}

/// The end of a piece of sound.
#[derive(Debug, Clone, Copy)]
enum Side {
    Front,
    Back,
}

/// Stretches sound; holds scratch memory only.
#[derive(Debug, Clone)]
pub(super) struct Stretcher {
    low: Vec<f32>,
}

impl Stretcher {
    pub(super) fn new() -> Self {
        Self {
            low: Vec::with_capacity(WINDOW / DECIMATION + 1),
        }
    }

    /// Takes one period, of at most `most` samples, out of `line` behind `at`. The first samples there stay,
    /// so that they go on from what is before. Where the sound is softer than `quiet` (RMS), any lag will do.
    /// Returns how many samples went, 0 if nothing fits.
    pub(super) fn accelerate(
        &mut self,
        line: &mut Vec<f32>,
        at: usize,
        most: usize,
        join: Join,
    ) -> usize {
        let view = line.get(at..).unwrap_or_default();
        let view = &view[..view.len().min(WINDOW)];
        let most = most.min(MAX_LAG).min(view.len() / 2);
        if most < MIN_LAG {
            return 0;
        }
        let found = if rms(view) < join.quiet {
            Some(most)
        } else {
            self.lag(view, most, Side::Front, join.likeness)
        };
        let Some(lag) = found else { return 0 };
        for sample in 0..lag {
            let part = ramp(sample, lag);
            let (early, late) = (at + sample, at + lag + sample);
            line[late] = line[early] * (1.0 - part) + line[late] * part;
        }
        line.drain(at..at + lag);
        lag
    }

    /// Puts one period, of at most `most` samples, into `line` at `at`: what was before is repeated, and what
    /// is there follows. Returns how many samples came in, 0 if nothing fits.
    pub(super) fn expand(
        &mut self,
        line: &mut Vec<f32>,
        at: usize,
        most: usize,
        join: Join,
    ) -> usize {
        let most = most.min(MAX_LAG).min(at / 2);
        if most < MIN_LAG || line.len() <= at {
            return 0;
        }
        let recent = &line[at.saturating_sub(WINDOW)..at];
        let found = if rms(recent) < join.quiet {
            Some(most)
        } else {
            self.lag(recent, most, Side::Back, join.likeness)
        };
        let Some(lag) = found else { return 0 };
        let overlap = lag.min(line.len() - at);
        let mut period = [0.0; MAX_LAG];
        for (index, sample) in period.iter_mut().take(lag).enumerate() {
            let part = ramp(index, overlap);
            let natural = line.get(at + index).copied().unwrap_or_default();
            *sample = natural * (1.0 - part) + line[at - lag + index] * part;
        }
        line.splice(at..at, period.into_iter().take(lag));
        lag
    }

    /// Prepares `sound` to follow `line`, of which it is no continuation: for 5 ms `line` goes on with its
    /// last period and fades into `sound`. Samples of its beginning, at most `most`, are left out where that
    /// fits better; returns how many were.
    pub(super) fn join(&mut self, line: &[f32], sound: &mut Vec<f32>, most: usize) -> usize {
        let joint = JOINT.min(sound.len());
        if joint == 0 || line.len() < WINDOW {
            return 0;
        }
        let recent = &line[line.len() - WINDOW..];
        let lag = self
            .lag(recent, MAX_LAG, Side::Back, -1.0)
            .unwrap_or(MAX_LAG);
        let mut going_on = [0.0; JOINT];
        for (at, sample) in going_on.iter_mut().enumerate() {
            *sample = recent[recent.len() - lag + at % lag];
        }
        let most = most.min(sound.len() - joint);
        let mut best = (0, correlation(&going_on[..joint], &sound[..joint]));
        for skip in (2..=most).step_by(2) {
            let like = correlation(&going_on[..joint], &sound[skip..skip + joint]);
            // Leaving something out must be worth it.
            if like > best.1 + 0.01 {
                best = (skip, like);
            }
        }
        sound.drain(..best.0);
        for (at, sample) in sound.iter_mut().take(joint).enumerate() {
            let part = ramp(at, joint);
            *sample = going_on[at] * (1.0 - part) + *sample * part;
        }
        best.0
    }

    /// The lag at which `sound` repeats itself best at one of its ends, if it is alike enough.
    fn lag(&mut self, sound: &[f32], most: usize, side: Side, likeness: f32) -> Option<usize> {
        self.decimate(sound);
        let coarse = best_lag(
            &self.low,
            MIN_LAG / DECIMATION..=most / DECIMATION,
            COMPARED / DECIMATION,
            side,
        )?;
        let near = coarse.0 * DECIMATION;
        let range = near.saturating_sub(DECIMATION).max(MIN_LAG)..=(near + DECIMATION).min(most);
        let fine = best_lag(sound, range, COMPARED, side)?;
        (fine.1 >= likeness).then_some(fine.0)
    }

    /// Fills `low` with a copy at 4 kHz; each sample is the mean of twelve.
    fn decimate(&mut self, sound: &[f32]) {
        self.low.clear();
        let whole = sound.chunks_exact(DECIMATION);
        self.low
            .extend(whole.map(|twelve| twelve.iter().sum::<f32>() / DECIMATION as f32));
    }
}

/// The lag of `lags` at which `compared` samples at one end of `sound` are most like those a lag further in,
/// and how alike they are.
fn best_lag(
    sound: &[f32],
    lags: RangeInclusive<usize>,
    compared: usize,
    side: Side,
) -> Option<(usize, f32)> {
    let compared = compared.min(sound.len().checked_sub(*lags.end())?);
    let (len, mut best) = (sound.len(), None);
    for lag in lags {
        let (outer, inner) = match side {
            Side::Front => (&sound[..compared], &sound[lag..lag + compared]),
            Side::Back => (
                &sound[len - compared..],
                &sound[len - compared - lag..len - lag],
            ),
        };
        let like = correlation(outer, inner);
        if best.is_none_or(|(_, most)| like > most) {
            best = Some((lag, like));
        }
    }
    best
}

/// The way of sample `at` of `len` from 0 to 1.
fn ramp(at: usize, len: usize) -> f32 {
    ((at as f32 + 0.5) / len as f32).min(1.0)
}

/// Root of the mean square.
pub(super) fn rms(sound: &[f32]) -> f32 {
    let sum: f32 = sound.iter().map(|sample| sample * sample).sum();
    (sum / sound.len().max(1) as f32).sqrt()
}

/// From −1 (opposite) to 1 (alike but for loudness); 0 for silence.
fn correlation(first: &[f32], second: &[f32]) -> f32 {
    let (mut both, mut one, mut two) = (0.0f32, 0.0f32, 0.0f32);
    for (a, b) in first.iter().zip(second) {
        both += a * b;
        one += a * a;
        two += b * b;
    }
    let energy = one * two;
    if energy > 1e-12 {
        both / energy.sqrt()
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOIN: Join = Join {
        likeness: 0.9,
        quiet: 0.001,
    };

    fn tone(frequency: f32, from: usize, samples: usize) -> Vec<f32> {
        let turn = std::f32::consts::TAU * frequency / 48_000.0;
        (from..from + samples)
            .map(|at| 0.4 * (at as f32 * turn).sin() + 0.2 * (at as f32 * 2.0 * turn).sin())
            .collect()
    }

    fn noise(samples: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        };
        (0..samples).map(|_| next()).collect()
    }

    fn largest_step(line: &[f32]) -> f32 {
        let steps = line.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        steps.fold(0.0, f32::max)
    }

    #[test]
    fn whole_periods_go_and_come() {
        let mut stretcher = Stretcher::new();
        for frequency in [80.0, 123.4, 220.0, 390.0] {
            let period = 48_000.0 / frequency;
            let whole = tone(frequency, 0, 2 * WINDOW);
            let smooth = largest_step(&whole);
            let mut line = whole.clone();
            let gone = stretcher.accelerate(&mut line, WINDOW, MAX_LAG, JOIN);
            assert_eq!(line.len() + gone, whole.len());
            let periods = gone as f32 / period;
            assert!(
                gone > 0 && (periods - periods.round()).abs() < 0.03,
                "{frequency}: {gone}"
            );
            assert!(largest_step(&line) < smooth * 1.1, "{frequency}");
            // What is before, and the first sample behind, are as they were.
            assert_eq!(line[..WINDOW], whole[..WINDOW]);

            let mut line = whole.clone();
            let come = stretcher.expand(&mut line, WINDOW, MAX_LAG, JOIN);
            assert_eq!(line.len(), whole.len() + come);
            let periods = come as f32 / period;
            assert!(
                come > 0 && (periods - periods.round()).abs() < 0.03,
                "{frequency}: {come}"
            );
            assert!(largest_step(&line) < smooth * 1.1, "{frequency}");
            assert_eq!(line[WINDOW + come..], whole[WINDOW..]);
        }
    }

    #[test]
    fn noise_is_left_alone_and_silence_is_cut_anywhere() {
        let mut stretcher = Stretcher::new();
        let mut line = noise(2 * WINDOW);
        assert_eq!(stretcher.accelerate(&mut line, WINDOW, MAX_LAG, JOIN), 0);
        assert_eq!(stretcher.expand(&mut line, WINDOW, MAX_LAG, JOIN), 0);
        assert_eq!(line.len(), 2 * WINDOW);
        let mut line = vec![0.0; 2 * WINDOW];
        assert_eq!(stretcher.accelerate(&mut line, WINDOW, 500, JOIN), 500);
        assert_eq!(stretcher.expand(&mut line, WINDOW, 300, JOIN), 300);
    }

    #[test]
    fn too_little_sound_is_not_touched() {
        let mut stretcher = Stretcher::new();
        for samples in [0, 1, 100, 239] {
            let mut line = tone(200.0, 0, WINDOW + samples);
            assert_eq!(stretcher.accelerate(&mut line, WINDOW, MAX_LAG, JOIN), 0);
            assert_eq!(stretcher.expand(&mut line, 100, MAX_LAG, JOIN), 0);
        }
        let mut line = tone(200.0, 0, 2 * WINDOW);
        assert_eq!(
            stretcher.accelerate(&mut line, WINDOW, MIN_LAG - 1, JOIN),
            0
        );
        assert_eq!(
            stretcher.accelerate(&mut line, 9 * WINDOW, MAX_LAG, JOIN),
            0
        );
    }

    #[test]
    fn what_does_not_follow_is_joined_without_a_click() {
        let mut stretcher = Stretcher::new();
        for (jump, most) in [(0, 0), (37, 0), (90, JOINT), (150, JOINT)] {
            let line = tone(200.0, 0, WINDOW);
            let mut sound = tone(200.0, WINDOW + jump, 960);
            let smooth = largest_step(&line);
            let left_out = stretcher.join(&line, &mut sound, most);
            assert_eq!(sound.len() + left_out, 960);
            assert!(left_out <= most, "{jump}");
            let whole = [line, sound].concat();
            let step = largest_step(&whole);
            assert!(step < smooth * 1.5, "{jump} {most}: {step} of {smooth}");
            // In phase again where that may be chosen: 240 samples are a period.
            assert!(
                most == 0 || (left_out + jump).abs_diff(240) < 8,
                "{jump}: {left_out}"
            );
        }
    }
}
