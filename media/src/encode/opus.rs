//! Sound to Opus at 48 kHz, one block in and one packet out.

use super::backend::opus::{Backend, Settings};
use crate::{EncodedSound, Samples};
use bytes::Bytes;

/// Bytes of a packet at most (RFC 6716 §3.4).
pub const MAX_SOUND_PACKET: usize = 1_275;
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
    /// about 5 kbit/s. Left out by the library from packets that the rate leaves no room in. Where it
    /// was not asked for from the start, the codec begins anew once, and some 6 ms of sound are lost.
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
    settings: Settings,
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
        let bare = Settings {
            bits_per_second: possible(config.bits_per_second),
            copy: false,
            loss: 0,
            deep: 0,
            discontinuous: config.discontinuous,
        };
        let settings = with(bare, config.redundancy);
        Ok(Self {
            backend: Backend::new(config.channels, &settings)?,
            settings,
            channels: config.channels,
            buffer: Box::new([0; MAX_SOUND_PACKET]),
        })
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
        self.apply(Settings {
            bits_per_second: possible(bits_per_second),
            ..self.settings
        })
    }

    /// Lets packets carry more or less of those before them.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_redundancy(&mut self, redundancy: Redundancy) -> Result<(), SoundEncodeError> {
        self.apply(with(self.settings, redundancy))
    }

    /// Switches discontinuous transmission.
    ///
    /// # Errors
    /// [`SoundEncodeError::Library`].
    pub fn set_discontinuous(&mut self, discontinuous: bool) -> Result<(), SoundEncodeError> {
        self.apply(Settings {
            discontinuous,
            ..self.settings
        })
    }

    fn apply(&mut self, settings: Settings) -> Result<(), SoundEncodeError> {
        if settings == self.settings {
            return Ok(());
        }
        if self.backend.serves(&settings) {
            self.backend.apply(&settings)?;
        } else {
            // Not fed with what came before: the decoder takes a first packet better than one that builds on
            // packets it never saw.
            self.backend = Backend::new(self.channels, &settings)?;
        }
        self.settings = settings;
        Ok(())
    }
}

fn possible(bits_per_second: u32) -> i32 {
    bits_per_second.clamp(RATES.0, RATES.1) as i32
}

/// `settings` with another redundancy. Copies and deep redundancy at once are worse than either.
fn with(settings: Settings, redundancy: Redundancy) -> Settings {
    let (copy, loss, deep) = match redundancy {
        Redundancy::None => (false, 0, 0),
        Redundancy::Copy { expected_loss } => (true, percent(expected_loss), 0),
        Redundancy::Deep {
            expected_loss,
            tens,
        } => (false, percent(expected_loss), tens.min(MAX_DEEP)),
    };
    Settings {
        copy,
        loss,
        deep,
        ..settings
    }
}

/// A share in hundredths, 1 to 100: at none the library would leave redundancy out. What is no number becomes
/// the least.
fn percent(share: f32) -> i32 {
    ((share * 100.0).ceil() as i32).clamp(1, 100)
}
