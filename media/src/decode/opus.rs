//! Opus to sound, with what hides a loss.

use crate::{AudioTime, Samples};

/// Why a packet gave no sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SoundDecodeError {
    /// Longer than 1,275 bytes, empty, or not a packet of Opus.
    #[error("this is no Opus packet")]
    NotOpus,
    /// The library refused.
    #[error("the Opus decoder failed, code {0}")]
    Library(i32),
}

/// An Opus decoder of one stream.
#[derive(Debug)]
pub struct OpusDecoder {}

impl OpusDecoder {
    /// Sets up a decoder that gives out `channels` (1 or 2), whatever comes.
    ///
    /// # Errors
    /// [`SoundDecodeError::Library`].
    pub fn new(_channels: u8) -> Result<Self, SoundDecodeError> {
        Ok(Self {})
    }

    /// Decodes one packet.
    ///
    /// # Errors
    /// [`SoundDecodeError`].
    pub fn decode(
        &mut self,
        _packet: &[u8],
        _time: AudioTime,
    ) -> Result<Samples<f32>, SoundDecodeError> {
        todo!()
    }

    /// The coarse copy of the packet before `packet` (LBRR) as `samples` of sound; where `packet` has none,
    /// it is concealed.
    ///
    /// # Errors
    /// [`SoundDecodeError`].
    pub fn decode_previous(
        &mut self,
        _packet: &[u8],
        _samples: u32,
        _time: AudioTime,
    ) -> Result<Samples<f32>, SoundDecodeError> {
        todo!()
    }

    /// `samples` of sound in place of what was lost, made from what came before.
    ///
    /// # Errors
    /// [`SoundDecodeError`].
    pub fn conceal(
        &mut self,
        _samples: u32,
        _time: AudioTime,
    ) -> Result<Samples<f32>, SoundDecodeError> {
        todo!()
    }
}
