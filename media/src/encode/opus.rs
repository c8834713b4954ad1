//! Sound to Opus at 48 kHz, one block in and one packet out.

use crate::{EncodedSound, Samples};

/// How a [`SoundEncoder`] begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoundConfig {
    /// 1 or 2.
    pub channels: u8,
    /// Payload, bits a second; 6,000 to 510,000.
    pub bits_per_second: u32,
    /// Share of packets that will be lost for good, 0 to 1: with some, each packet carries a coarse copy of
    /// the one before (LBRR). 0 spends nothing on it.
    pub expected_loss: f32,
    /// Send next to nothing in silence.
    pub discontinuous: bool,
}

impl Default for SoundConfig {
    /// A voice at 32 kbit/s.
    fn default() -> Self {
        Self {
            channels: 1,
            bits_per_second: 32_000,
            expected_loss: 0.0,
            discontinuous: true,
        }
    }
}

/// Why there is no encoder of sound, or no packet from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SoundEncodeError {
    /// A block that Opus has no frame for.
    #[error("a block of {samples} samples in {channels} channels is no Opus frame of this stream")]
    Block {
        /// Samples of each channel.
        samples: usize,
        /// Channels.
        channels: u8,
    },
    /// The library refused.
    #[error("the Opus encoder failed")]
    Library(#[from] opus::Error),
}

/// An Opus encoder of one stream.
#[derive(Debug)]
pub struct SoundEncoder {}

impl SoundEncoder {
    /// Samples that Opus holds back at 48 kHz: the decoder gives out sound this much later than it went in.
    pub const LOOK_AHEAD: u32 = 312;

    /// Sets up an encoder.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`], also for a number of channels that is impossible.
    pub fn new(_config: SoundConfig) -> Result<Self, SoundEncodeError> {
        Ok(Self {})
    }

    /// Encodes a block of 10, 20, 40 or 60 ms, as it comes: the length may differ from block to block.
    /// `voice` says that somebody speaks in it, and goes with the packet.
    ///
    /// # Errors
    /// [`SoundEncodeError`].
    pub fn encode(
        &mut self,
        _block: &Samples<f32>,
        _voice: bool,
    ) -> Result<EncodedSound, SoundEncodeError> {
        todo!()
    }

    /// Aims at another rate of payload from the next packet on, bits a second.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_rate(&mut self, _bits_per_second: u32) -> Result<(), SoundEncodeError> {
        todo!()
    }

    /// Prepares for another share of packets lost for good, 0 to 1; see [`SoundConfig::expected_loss`].
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_expected_loss(&mut self, _share: f32) -> Result<(), SoundEncodeError> {
        todo!()
    }

    /// Switches discontinuous transmission.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_discontinuous(&mut self, _discontinuous: bool) -> Result<(), SoundEncodeError> {
        todo!()
    }
}
