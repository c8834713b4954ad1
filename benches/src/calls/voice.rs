//! Figures of the sound of a call: its latency by correlation of what went in with what came out, and PESQ.

use super::picture::percentile;
use super::records::Sound;

/// Samples a second of both recordings.
const RATE: usize = 48_000;
/// Samples of 48 kHz for one of the coarse search.
const COARSE: usize = 6;
/// Length of a window, samples.
const WINDOW: usize = RATE / 2;
/// Longest latency that is looked for, samples.
const MAX_LAG: usize = RATE * 6 / 5;
/// Windows whose best correlation is below this say nothing: silence, or lost altogether.
const SURE: f64 = 0.5;
/// Windows quieter than this are silence.
const QUIET: f64 = 1e-3;
/// Length of a piece for PESQ, samples.
const PIECE: usize = 8 * RATE;

/// How the sound of one stretch of a call fared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Voice {
    /// From the sample's entry to its exit, ms: median and 95th percentile.
    pub latency_millis: (f64, f64),
    /// Windows of half a second in which latency could be told ÷ those with speech, %.
    pub told_percent: f64,
    /// Mean of PESQ (P.862.2, wide band) over pieces of 8 s.
    pub pesq: f64,
}

/// Judges what was said from `from` to `until`, µs.
pub fn judge(said: &Sound, heard: &Sound, from: u64, until: u64) -> Option<Voice> {
    let coarse_said = coarse(&said.samples);
    let coarse_heard = coarse(&heard.samples);
    let (first, last) = (
        said.index_at(from)? as usize,
        said.index_at(until)? as usize,
    );
    let (mut latencies, mut spoken) = (Vec::new(), 0);
    let mut at = first;
    while at + WINDOW <= last.min(said.samples.len()) {
        if power(&said.samples[at..at + WINDOW]) > QUIET {
            spoken += 1;
            latencies.extend(latency(said, heard, &coarse_said, &coarse_heard, at));
        }
        at += WINDOW;
    }
    let told_percent = 100.0 * latencies.len() as f64 / f64::from(spoken.max(1));
    let latency_millis = (
        percentile(&mut latencies, 0.5)?,
        percentile(&mut latencies, 0.95)?,
    );
    let pesq = quality(said, heard, first, last, latency_millis.0);
    Some(Voice {
        latency_millis,
        told_percent,
        pesq: pesq.unwrap_or(f64::NAN),
    })
}

/// The latency of the window at `at`, ms.
fn latency(
    said: &Sound,
    heard: &Sound,
    coarse_said: &[f32],
    coarse_heard: &[f32],
    at: usize,
) -> Option<f64> {
    // The same moment in the other recording: what is heard comes after it.
    let moment = said.micros_at(at as u64)?;
    let start = heard.index_at(moment)? as usize;
    let window = coarse_said.get(at / COARSE..(at + WINDOW) / COARSE)?;
    let end = (start + MAX_LAG + WINDOW).min(heard.samples.len()) / COARSE;
    let area = coarse_heard.get(start / COARSE..end)?;
    let (rough, _) = best_lag(window, area, 0..area.len().checked_sub(window.len())?)?;
    let window = &said.samples[at..at + WINDOW];
    let area = heard.samples.get(start..)?;
    let near = (rough * COARSE).saturating_sub(2 * COARSE)..rough * COARSE + 2 * COARSE;
    let (lag, sure) = best_lag(window, area, near)?;
    (sure > SURE).then(|| {
        let out = heard.micros_at((start + lag) as u64).unwrap_or(moment);
        (out as f64 - moment as f64) / 1e3
    })
}

/// Where `window` fits `area` best, and how well (−1 to 1).
fn best_lag(window: &[f32], area: &[f32], lags: std::ops::Range<usize>) -> Option<(usize, f64)> {
    let energy: f64 = window.iter().map(|s| f64::from(*s).powi(2)).sum();
    lags.filter_map(|lag| {
        let there = area.get(lag..lag + window.len())?;
        let (mut product, mut other) = (0.0_f32, 0.0_f32);
        for (one, two) in window.iter().zip(there) {
            product += one * two;
            other += two * two;
        }
        let scale = (energy * f64::from(other)).sqrt();
        Some((
            lag,
            if scale > 1e-6 {
                f64::from(product) / scale
            } else {
                0.0
            },
        ))
    })
    .max_by(|one, two| one.1.total_cmp(&two.1))
}

/// Every sixth sample of a mean over six: speech has enough below 4 kHz to be found by.
fn coarse(samples: &[f32]) -> Vec<f32> {
    samples
        .chunks_exact(COARSE)
        .map(|chunk| chunk.iter().sum::<f32>() / COARSE as f32)
        .collect()
}

fn power(samples: &[f32]) -> f64 {
    let sum: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
    (sum / samples.len() as f64).sqrt()
}

/// The mean PESQ over pieces of 8 s.
fn quality(said: &Sound, heard: &Sound, first: usize, last: usize, lag: f64) -> Option<f64> {
    let mut scores = Vec::new();
    let mut at = first;
    while at + PIECE <= last.min(said.samples.len()) {
        let moment = said.micros_at(at as u64)? + (lag * 1e3) as u64;
        let start = heard.index_at(moment)? as usize;
        if let Some(there) = heard.samples.get(start..start + PIECE) {
            let (reference, degraded) = (wide(&said.samples[at..at + PIECE]), wide(there));
            scores.extend(pesq::pesq_wb(&reference, &degraded).ok());
        }
        at += PIECE;
    }
    let sum: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    (!scores.is_empty()).then(|| sum / scores.len() as f64)
}

/// From 48 to 16 kHz, as PESQ wants it: a low pass of 49 windowed taps, then every third sample.
fn wide(samples: &[f32]) -> Vec<i16> {
    const TAPS: isize = 24;
    let kernel: Vec<f64> = (-TAPS..=TAPS)
        .map(|tap| {
            let angle = std::f64::consts::PI * tap as f64 / 3.2;
            let sinc = if tap == 0 { 1.0 } else { angle.sin() / angle };
            let hann = 0.5 + 0.5 * (std::f64::consts::PI * tap as f64 / (TAPS + 1) as f64).cos();
            sinc * hann / 3.2
        })
        .collect();
    (0..samples.len() / 3)
        .map(|index| {
            let sum: f64 = kernel
                .iter()
                .enumerate()
                .filter_map(|(tap, weight)| {
                    let at = (3 * index + tap).checked_sub(TAPS as usize)?;
                    Some(f64::from(*samples.get(at)?) * weight)
                })
                .sum();
            (sum * 32_767.0).clamp(-32_768.0, 32_767.0) as i16
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bursts of noise through a resonance, as syllables are.
    fn speech(seconds: usize) -> Vec<f32> {
        let (mut state, mut low, mut lower) = (1_u32, 0.0_f32, 0.0_f32);
        (0..seconds * RATE)
            .map(|index| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let noise = (state >> 8) as f32 / 8_388_608.0 - 1.0;
                low += 0.1 * (noise - low);
                lower += 0.1 * (low - lower);
                let syllable = (index as f32 / RATE as f32 * 25.0).sin().max(0.0);
                2.0 * lower * syllable
            })
            .collect()
    }

    fn marks(samples: usize, offset: u64) -> Vec<(u64, u64)> {
        let piece = |at: usize| (at as u64, offset + at as u64 * 1_000_000 / RATE as u64);
        (0..samples).step_by(480).map(piece).collect()
    }

    #[test]
    fn latency_and_quality_of_a_delayed_copy_are_found() {
        let samples = speech(12);
        let said = Sound::new(samples.clone(), marks(samples.len(), 1_000_000));
        // The other recording began 0.3 s later, and has everything 60 ms after it was said.
        let shifted = samples[RATE * 3 / 10 - RATE * 6 / 100..].to_vec();
        let length = shifted.len();
        let heard = Sound::new(shifted, marks(length, 1_300_000));
        let voice = judge(&said, &heard, 2_000_000, 12_000_000).expect("figures");
        assert!((voice.latency_millis.0 - 60.0).abs() < 0.5, "{voice:?}");
        assert!((voice.latency_millis.1 - 60.0).abs() < 0.5, "{voice:?}");
        assert!(voice.told_percent > 95.0 && voice.pesq > 4.5, "{voice:?}");
    }

    #[test]
    fn what_is_not_there_is_not_told() {
        let samples = speech(6);
        let said = Sound::new(samples.clone(), marks(samples.len(), 0));
        let heard = Sound::new(vec![0.0; 6 * RATE], marks(6 * RATE, 0));
        assert_eq!(judge(&said, &heard, 500_000, 4_000_000), None);
    }
}
