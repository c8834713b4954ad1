//! Sound to Opus at 48 kHz, one block in and one packet out.

use bytes::Bytes;
use opusic_sys::{
    OPUS_AUTO, OPUS_SET_BITRATE_REQUEST, OPUS_SET_COMPLEXITY_REQUEST,
    OPUS_SET_DRED_DURATION_REQUEST, OPUS_SET_DTX_REQUEST, OPUS_SET_INBAND_FEC_REQUEST,
    OPUS_SET_PACKET_LOSS_PERC_REQUEST, OPUS_SET_SIGNAL_REQUEST, OPUS_SIGNAL_VOICE,
};

use super::backend::opus::Backend;
use crate::{EncodedSound, MAX_CHANNELS, Samples};

/// Bytes of a packet at most (RFC 6716 §3.4).
pub const MAX_SOUND_PACKET: usize = 1_275;
/// How hard the encoder tries, 0 to 10: 7.6 ms of processor for a second of sound; 10 takes half as much
/// again and is not heard.
const COMPLEXITY: i32 = 9;
/// Bits a second that Opus takes (RFC 6716 §2.1.1).
const RATES: (u32, u32) = (6_000, 510_000);
/// A packet of discontinuous transmission has at most this many bytes: the table of contents, and nothing or
/// next to nothing behind it.
const SILENT: usize = 2;
/// Deep redundancy reaches back at most this far, in units of 10 ms.
const MAX_DEEP: u8 = 100;

/// How a [`SoundEncoder`] begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoundConfig {
    /// 1 or 2.
    pub channels: u8,
    /// Payload, bits a second, 6,000 to 510,000; what is outside is clipped.
    pub bits_per_second: u32,
    /// What packets carry of those before them.
    pub redundancy: Redundancy,
    /// Send next to nothing in silence.
    pub discontinuous: bool,
}

impl Default for SoundConfig {
    /// A voice at 32 kbit/s.
    fn default() -> Self {
        Self {
            channels: 1,
            bits_per_second: 32_000,
            redundancy: Redundancy::None,
            discontinuous: true,
        }
    }
}

/// What packets carry of those before them, inside of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Redundancy {
    /// Nothing.
    #[default]
    None,
    /// A coarse copy of the one before (LBRR), which repairs single losses.
    Copy {
        /// Share of packets that will be lost for good, 0 to 1: the more, the better the copy.
        expected_loss: f32,
    },
    /// A very coarse copy of all that was said in the last moments (DRED), which bridges bursts of losses;
    /// about 5 kbit/s. Left out by the library from packets that the rate leaves no room in.
    Deep {
        /// Share of packets that will be lost for good, 0 to 1: the more, the larger its part of the rate.
        expected_loss: f32,
        /// How far it reaches back, in units of 10 ms, at most 100.
        tens: u8,
    },
}

/// Why there is no encoder of sound, or no packet from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SoundEncodeError {
    /// Neither 1 nor 2 channels.
    #[error("{0} channels are not possible: 1 or 2")]
    Channels(u8),
    /// A block that is no frame of this stream: another length than 10, 20, 40 or 60 ms, or other channels.
    #[error("a block of {samples} samples in {channels} channels is no Opus frame of this stream")]
    Block {
        /// Samples of each channel.
        samples: usize,
        /// Channels.
        channels: u8,
    },
    /// The library refused.
    #[error("the Opus encoder failed, code {0}")]
    Library(i32),
}

/// An Opus encoder of one stream. All that can be set holds from the next packet on.
#[derive(Debug)]
pub struct SoundEncoder {
    backend: Backend,
    channels: u8,
    buffer: Box<[u8; MAX_SOUND_PACKET]>,
}

impl SoundEncoder {
    /// Samples that Opus holds back at 48 kHz: the decoder gives out sound this much later than it went in.
    pub const LOOK_AHEAD: u32 = 312;

    /// Sets up an encoder.
    ///
    /// # Errors
    /// [`SoundEncodeError::Channels`], [`SoundEncodeError::Library`].
    pub fn new(config: SoundConfig) -> Result<Self, SoundEncodeError> {
        if !(1..=MAX_CHANNELS).contains(&config.channels) {
            return Err(SoundEncodeError::Channels(config.channels));
        }
        let mut backend = Backend::new(config.channels)?;
        backend.set(OPUS_SET_COMPLEXITY_REQUEST, COMPLEXITY)?;
        let mut this = Self {
            backend,
            channels: config.channels,
            buffer: Box::new([0; MAX_SOUND_PACKET]),
        };
        this.set_rate(config.bits_per_second)?;
        this.set_redundancy(config.redundancy)?;
        this.set_discontinuous(config.discontinuous)?;
        Ok(this)
    }

    /// Encodes a block of 10, 20, 40 or 60 ms, as it comes: the length may differ from block to block.
    /// `voice` says that somebody speaks in it, and goes with the packet.
    ///
    /// # Errors
    /// [`SoundEncodeError::Block`], [`SoundEncodeError::Library`].
    pub fn encode(
        &mut self,
        block: &Samples<f32>,
        voice: bool,
    ) -> Result<EncodedSound, SoundEncodeError> {
        let samples = block.samples_each();
        let fits = matches!(samples, 480 | 960 | 1_920 | 2_880);
        if !fits || block.channels() != self.channels {
            return Err(SoundEncodeError::Block {
                samples,
                channels: block.channels(),
            });
        }
        let len = self.backend.encode(block.data(), &mut self.buffer[..])?;
        let packet = self.buffer.get(..len).unwrap_or_default();
        Ok(EncodedSound {
            time: block.time,
            data: Bytes::copy_from_slice(packet),
            samples: samples as u32,
            voice,
            silence: len <= SILENT,
        })
    }

    /// Aims at another rate of payload, bits a second.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_rate(&mut self, bits_per_second: u32) -> Result<(), SoundEncodeError> {
        let rate = bits_per_second.clamp(RATES.0, RATES.1);
        self.backend.set(OPUS_SET_BITRATE_REQUEST, rate as i32)
    }

    /// Lets packets carry more or less of those before them.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_redundancy(&mut self, redundancy: Redundancy) -> Result<(), SoundEncodeError> {
        // Both at once are worse than either.
        let (copy, loss, tens) = match redundancy {
            Redundancy::None => (false, 0.0, 0),
            Redundancy::Copy { expected_loss } => (true, expected_loss, 0),
            Redundancy::Deep {
                expected_loss,
                tens,
            } => (false, expected_loss, tens.min(MAX_DEEP)),
        };
        // What is no number becomes the least.
        let least = if redundancy == Redundancy::None {
            0.0
        } else {
            1.0
        };
        let percent = (loss * 100.0).ceil().max(least).min(100.0) as i32;
        // The mode of the codec for music has no copies.
        let signal = if copy { OPUS_SIGNAL_VOICE } else { OPUS_AUTO };
        for (request, value) in [
            (OPUS_SET_INBAND_FEC_REQUEST, i32::from(copy)),
            (OPUS_SET_PACKET_LOSS_PERC_REQUEST, percent),
            (OPUS_SET_DRED_DURATION_REQUEST, tens.into()),
            (OPUS_SET_SIGNAL_REQUEST, signal),
        ] {
            self.backend.set(request, value)?;
        }
        Ok(())
    }

    /// Switches discontinuous transmission.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_discontinuous(&mut self, discontinuous: bool) -> Result<(), SoundEncodeError> {
        self.backend
            .set(OPUS_SET_DTX_REQUEST, i32::from(discontinuous))
    }
}
