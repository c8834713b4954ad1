//! Opus to sound, with what hides a loss: the coarse copy in a later packet (LBRR), deep redundancy (DRED) and
//! deep concealment.

use super::backend::opus::Backend;
use crate::jitter::{SoundDecodeError, SoundDecoder};

/// Bytes of a packet at most: one frame has 1,275 (RFC 6716 §3.4), and our encoder writes no more in all.
const MAX_PACKET: usize = 1_275;
/// Samples of a packet at most, 120 ms (RFC 6716 §3.1).
const MAX_SAMPLES: usize = 5_760;
/// The step in which concealment works, 2.5 ms.
const STEP: usize = 120;
/// From 5 on libopus conceals by a neural network: 0.7 ms of processor for a second of sound.
const COMPLEXITY: i32 = 5;

/// The Opus decoder could not be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Opus decoder failed to start, code {0}")]
pub struct OpusStartError(pub i32);

/// An Opus decoder of one stream to one channel at 48 kHz; two channels are mixed.
#[derive(Debug)]
pub struct OpusDecoder {
    backend: Backend,
}

impl OpusDecoder {
    /// Sets up a decoder.
    ///
    /// # Errors
    /// [`OpusStartError`].
    pub fn new() -> Result<Self, OpusStartError> {
        let backend = Backend::new(COMPLEXITY).map_err(OpusStartError)?;
        Ok(Self { backend })
    }

    /// Lets `fill` write `samples` samples behind those in `out`; if it fails, `out` is as before.
    fn append(
        &mut self,
        samples: usize,
        out: &mut Vec<f32>,
        fill: impl FnOnce(&mut Backend, &mut [f32]) -> Result<usize, i32>,
    ) -> Result<(), SoundDecodeError> {
        let start = out.len();
        out.resize(start + samples, 0.0);
        let filled = fill(&mut self.backend, &mut out[start..]);
        if filled == Ok(samples) {
            return Ok(());
        }
        out.truncate(start);
        Err(SoundDecodeError)
    }
}

/// The length of a packet that is worth decoding.
fn samples(packet: &[u8]) -> Result<usize, SoundDecodeError> {
    if packet.len() > MAX_PACKET {
        return Err(SoundDecodeError);
    }
    Backend::samples(packet)
        .filter(|&samples| samples <= MAX_SAMPLES)
        .ok_or(SoundDecodeError)
}

impl SoundDecoder for OpusDecoder {
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), SoundDecodeError> {
        let samples = samples(packet)?;
        self.append(samples, out, |backend, into| {
            backend.decode(packet, false, into)
        })
    }

    fn decode_fec(
        &mut self,
        later: &[u8],
        samples: usize,
        out: &mut Vec<f32>,
    ) -> Result<bool, SoundDecodeError> {
        let held = self::samples(later)?;
        if samples == 0 || !samples.is_multiple_of(STEP) || samples > MAX_SAMPLES {
            return Ok(false);
        }
        // A packet of several frames has a copy of as much as the first; what is before that is concealed by
        // the library, which is better than all of it.
        if Backend::copied(later).is_some_and(|copied| (copied..=held).contains(&samples)) {
            self.append(samples, out, |backend, into| {
                backend.decode(later, true, into)
            })?;
            return Ok(true);
        }
        let mut found = false;
        let start = out.len();
        self.append(samples, out, |backend, into| {
            found = backend.decode_deep(later, into)?;
            Ok(samples)
        })?;
        if !found {
            out.truncate(start);
        }
        Ok(found)
    }

    fn conceal(&mut self, samples: usize, out: &mut Vec<f32>) {
        let end = out.len() + samples;
        // More than 120 ms at a time the library does not take.
        let (mut left, whole) = (samples, samples - samples % STEP);
        while left > samples - whole {
            let part = left.min(MAX_SAMPLES) / STEP * STEP;
            let done = self.append(part, out, |backend, into| backend.decode(&[], false, into));
            if done.is_err() {
                break;
            }
            left -= part;
        }
        // Silence where it fails, and for what is no multiple of its step.
        out.resize(end, 0.0);
    }
}
