//! Mono sound from one rate to another, as it comes.

use rubato::{
    Async, FixedAsync, Resampler as _, SincInterpolationParameters, SincInterpolationType,
    WindowFunction, audioadapter_buffers::direct::InterleavedSlice,
};

/// Taps of the filter: 1.3 ms of delay at 48 kHz, and nothing audible folded over.
const TAPS: usize = 128;
/// Chunks a second: what is resampled comes 10 ms at a time.
const CHUNKS: u32 = 100;
/// The rates that devices and files have, samples a second.
const RATES: std::ops::RangeInclusive<u32> = 4_000..=768_000;

/// Changes the rate of a stream of mono samples.
pub(crate) struct Resampler {
    /// Nothing where both rates are equal.
    inner: Option<Inner>,
}

struct Inner {
    filter: Async<f32>,
    chunk: usize,
    waiting: Vec<f32>,
    out: Vec<f32>,
}

impl Resampler {
    /// From and to samples a second. Fails with a text for rates that no sound has.
    pub(crate) fn new(from: u32, to: u32) -> Result<Self, String> {
        for rate in [from, to] {
            if !RATES.contains(&rate) {
                return Err(format!("{rate} samples a second"));
            }
        }
        if from == to {
            return Ok(Self { inner: None });
        }
        let chunk = (from / CHUNKS) as usize;
        let parameters = SincInterpolationParameters::new(TAPS, WindowFunction::BlackmanHarris2)
            .oversampling_factor(128)
            .interpolation(SincInterpolationType::Linear);
        let filter = Async::new_sinc(
            f64::from(to) / f64::from(from),
            1.0,
            &parameters,
            chunk,
            1,
            FixedAsync::Input,
        )
        .map_err(|error| error.to_string())?;
        let out = vec![0.0; filter.output_frames_max()];
        Ok(Self {
            inner: Some(Inner {
                filter,
                chunk,
                waiting: Vec::with_capacity(2 * chunk),
                out,
            }),
        })
    }

    /// Samples at the old rate that went in and did not come out yet: those that wait, and the filter's delay.
    #[cfg(feature = "devices")]
    pub(crate) fn held(&self) -> usize {
        self.inner
            .as_ref()
            .map_or(0, |inner| inner.waiting.len() + TAPS / 2)
    }

    /// Takes samples at the old rate, and appends what they make at the new one; up to 10 ms are held back.
    pub(crate) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        let Some(inner) = &mut self.inner else {
            out.extend_from_slice(samples);
            return;
        };
        inner.waiting.extend_from_slice(samples);
        let mut from = 0;
        while let Some(chunk) = inner.waiting.get(from..from + inner.chunk) {
            from += inner.chunk;
            let room = inner.out.len();
            let (Ok(chunk), Ok(mut made)) = (
                InterleavedSlice::new(chunk, 1, inner.chunk),
                InterleavedSlice::new_mut(&mut inner.out, 1, room),
            ) else {
                break;
            };
            match inner.filter.process_into_buffer(&chunk, &mut made, None) {
                Ok((_, count)) => out.extend_from_slice(&inner.out[..count]),
                Err(error) => tracing::warn!(%error, "sound lost between two rates"),
            }
        }
        inner.waiting.drain(..from);
    }
}

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use super::*;

    /// The share of the power that a sine of `pitch` explains, and the length.
    fn purity(samples: &[f32], pitch: f32, rate: f32) -> f32 {
        let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
        for (n, &sample) in samples.iter().enumerate() {
            let (s, c) = (TAU * pitch * n as f32 / rate).sin_cos();
            sine += sample * s;
            cosine += sample * c;
            power += sample * sample;
        }
        2.0 * (sine * sine + cosine * cosine) / (power * samples.len() as f32)
    }

    #[test]
    fn tones_keep_their_pitch() {
        for (from, to) in [
            (44_100, 48_000),
            (48_000, 44_100),
            (8_000, 48_000),
            (192_000, 48_000),
            (47_999, 48_000),
        ] {
            let mut resampler = Resampler::new(from, to).expect("rates of sound");
            let tone: Vec<f32> = (0..from)
                .map(|n| (TAU * 1_000.0 * n as f32 / from as f32).sin())
                .collect();
            let mut out = Vec::new();
            for piece in tone.chunks(733) {
                resampler.push(piece, &mut out);
            }
            let missing = to as usize - out.len();
            assert!(missing <= to as usize / 50, "{from}: {missing} missing");
            let middle = &out[to as usize / 10..to as usize / 10 * 9];
            let pure = purity(middle, 1_000.0, to as f32);
            assert!(pure > 0.999, "{from} to {to}: {pure}");
        }
    }

    #[test]
    fn equal_rates_change_nothing() {
        let mut resampler = Resampler::new(48_000, 48_000).expect("rates of sound");
        let mut out = Vec::new();
        resampler.push(&[0.5, -0.5], &mut out);
        assert_eq!(out, [0.5, -0.5]);
    }

    #[test]
    fn rates_that_no_sound_has_are_refused() {
        for rate in [0, 1, u32::MAX] {
            assert!(Resampler::new(rate, 48_000).is_err());
        }
    }
}
