//! Opus to sound, with what hides a loss: the coarse copy in a later packet (LBRR), deep redundancy (DRED) and
//! deep concealment.

use opus::Channels;
use opus::packet::{self, Packet};

use super::backend::opus::Backend;
use crate::jitter::{SoundDecodeError, SoundDecoder};

/// Bytes of a packet at most: one frame has 1,275 (RFC 6716 §3.4), and our encoder writes no more in all.
const MAX_PACKET: usize = 1_275;
/// Samples of a packet at most, 120 ms (RFC 6716 §3.1).
const MAX_SAMPLES: usize = 5_760;
/// Samples a second.
const RATE: u32 = 48_000;
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

/// What a packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inspected {
    /// Samples of all its frames.
    samples: usize,
    /// Samples of the coarse copy of what was before it, if it carries one: that of its first frame.
    copied: Option<usize>,
}

impl Inspected {
    /// Takes a packet apart into its frames, without decoding any; refuses what is none, or is too long.
    fn new(data: &[u8]) -> Result<Self, SoundDecodeError> {
        if data.len() > MAX_PACKET {
            return Err(SoundDecodeError);
        }
        Self::of(data).map_err(|_| SoundDecodeError)
    }

    fn of(data: &[u8]) -> opus::Result<Self> {
        let packet = packet::parse(data)?;
        let first = packet::get_samples_per_frame(data, RATE)?;
        let channels = packet::get_nb_channels(data)?;
        Ok(Self {
            samples: packet::get_nb_samples(data, RATE)?,
            copied: has_copy(&packet, first, channels).then_some(first),
        })
    }
}

/// Whether the first frame of a packet, of so many samples, has a coarse copy of what was before it: it begins
/// with a bit for each 20 ms in which somebody speaks, and then one for the copy; in stereo the same follows
/// for the side channel (RFC 6716 §4.2.3).
fn has_copy(packet: &Packet<'_>, samples: usize, channels: Channels) -> bool {
    // The upper half of the configurations is the codec for music, which has no copies (§3.1).
    let music = packet.toc & 0x80 != 0;
    let first = packet.frames.first().and_then(|frame| frame.first());
    let Some(&bits) = first.filter(|_| !music) else {
        return false;
    };
    let parts = (samples / 960).max(1);
    let copy_at = |bit: usize| bits & (0x80 >> bit) != 0;
    copy_at(parts) || (channels == Channels::Stereo && copy_at(2 * parts + 1))
}

impl SoundDecoder for OpusDecoder {
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), SoundDecodeError> {
        let Inspected { samples, .. } = Inspected::new(packet)?;
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
        let held = Inspected::new(later)?;
        if samples == 0 || !samples.is_multiple_of(STEP) || samples > MAX_SAMPLES {
            return Ok(false);
        }
        // A packet of several frames has a copy of as much as the first; what is before that is concealed by
        // the library, which is better than all of it.
        if held
            .copied
            .is_some_and(|copied| (copied..=held.samples).contains(&samples))
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(packet: &[u8]) -> Option<(usize, Option<usize>)> {
        let packet = Inspected::new(packet).ok()?;
        Some((packet.samples, packet.copied))
    }

    #[test]
    fn packets_are_measured_before_they_are_decoded() {
        // Voice in frames of 20 ms (first byte 0x08), one, two alike, two of their own lengths, three.
        assert_eq!(inspected(&[0x08]), Some((960, None)));
        assert_eq!(inspected(&[0x09, 0, 0]), Some((1_920, None)));
        assert_eq!(inspected(&[0x0a, 1, 0, 0, 0]), Some((1_920, None)));
        assert_eq!(inspected(&[0x0b, 3, 0, 0, 0]), Some((2_880, None)));
        // Two of 60 ms are the most there may be.
        assert_eq!(inspected(&[0x19, 0, 0]), Some((5_760, None)));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let frame_too_long = [&[0x08][..], &[0; 1_276]].concat();
        let refused: [&[u8]; 8] = [
            &[],
            // Two alike of an odd length; one longer than all; no frame; three of 60 ms.
            &[0x09, 0],
            &[0x0a, 9, 0],
            &[0x0b, 0],
            &[0x1b, 3, 0, 0, 0],
            // Three alike of no common length; padding that nothing of is there.
            &[0x0b, 3, 0, 0],
            &[0x0b, 0x41, 200],
            &frame_too_long,
        ];
        for packet in refused {
            assert_eq!(inspected(packet), None, "{packet:?}");
            let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), vec![0.5]);
            assert!(decoder.decode(packet, &mut out).is_err());
            assert!(decoder.decode_fec(packet, 960, &mut out).is_err());
            assert_eq!(out, [0.5]);
        }
    }

    #[test]
    fn a_copy_is_known_by_its_bit() {
        for (packet, copied) in [
            // 20 ms: somebody speaks, a copy, and neither.
            ([0x08, 0x80], None),
            ([0x08, 0x40], Some(960)),
            ([0x08, 0xbf], None),
            // 10 ms.
            ([0x00, 0x40], Some(480)),
            // 60 ms have three bits before it.
            ([0x18, 0xe0], None),
            ([0x18, 0x10], Some(2_880)),
            // Stereo: that of the side channel.
            ([0x0c, 0x10], Some(960)),
            ([0x1c, 0x01], Some(2_880)),
            ([0x1c, 0xee], None),
            // Music.
            ([0xf8, 0x7f], None),
        ] {
            let found = inspected(&packet).map(|(_, copied)| copied);
            assert_eq!(found, Some(copied), "{packet:02x?}");
        }
    }
}
