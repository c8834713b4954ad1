//! libopus's encoder: that of the `opus` crate until deep redundancy is asked for, which only the raw one has.

use opus::{Application, Bitrate, Channels, Encoder, Signal};

use super::super::opus::SoundEncodeError;
use super::deep::Deep;

/// Samples a second.
pub(super) const RATE: u32 = 48_000;
/// How hard the encoder tries, 0 to 10: 7.6 ms of processor for a second of sound; 10 takes half as much
/// again and is not heard.
pub(super) const COMPLEXITY: i32 = 9;

/// All that can be set, as the library takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::encode) struct Settings {
    /// Payload, bits a second.
    pub(in crate::encode) bits_per_second: i32,
    /// Coarse copies of the packet before.
    pub(in crate::encode) copy: bool,
    /// Packets that will be lost, of a hundred.
    pub(in crate::encode) loss: i32,
    /// How far deep redundancy reaches back, in units of 10 ms; 0 is none.
    pub(in crate::encode) deep: u8,
    /// Next to nothing in silence.
    pub(in crate::encode) discontinuous: bool,
}

/// One encoder at 48 kHz, for voice with all its tools (not the one of low delay, which has no redundancy).
#[derive(Debug)]
pub(in crate::encode) enum Backend {
    /// Without deep redundancy.
    Plain(Encoder),
    /// With it, now or earlier.
    Deep(Deep),
}

impl Backend {
    /// Makes an encoder for 1 or 2 channels.
    pub(in crate::encode) fn new(
        channels: u8,
        settings: &Settings,
    ) -> Result<Self, SoundEncodeError> {
        let wanted = match channels {
            1 => Channels::Mono,
            2 => Channels::Stereo,
            other => return Err(SoundEncodeError::Channels(other)),
        };
        let mut this = if settings.deep > 0 {
            Self::Deep(Deep::new(channels)?)
        } else {
            let encoder = Encoder::new(RATE, wanted, Application::Voip).and_then(|mut made| {
                made.set_complexity(COMPLEXITY)?;
                Ok(made)
            });
            Self::Plain(encoder.map_err(refused)?)
        };
        this.apply(settings)?;
        Ok(this)
    }

    /// Whether it can do what is set.
    pub(in crate::encode) const fn serves(&self, settings: &Settings) -> bool {
        settings.deep == 0 || matches!(self, Self::Deep(_))
    }

    /// Sets everything, from the next packet on. What it does not [serve](Self::serves) is left out.
    pub(in crate::encode) fn apply(&mut self, settings: &Settings) -> Result<(), SoundEncodeError> {
        match self {
            Self::Plain(encoder) => set(encoder, settings).map_err(refused),
            Self::Deep(deep) => deep.apply(settings),
        }
    }

    /// Encodes interleaved samples into `packet`, and gives its length.
    pub(in crate::encode) fn encode(
        &mut self,
        samples: &[f32],
        packet: &mut [u8],
    ) -> Result<usize, SoundEncodeError> {
        match self {
            Self::Plain(encoder) => encoder.encode_float(samples, packet).map_err(refused),
            Self::Deep(deep) => deep.encode(samples, packet),
        }
    }
}

fn set(encoder: &mut Encoder, settings: &Settings) -> opus::Result<()> {
    encoder.set_bitrate(Bitrate::Bits(settings.bits_per_second))?;
    encoder.set_inband_fec(settings.copy)?;
    encoder.set_packet_loss_perc(settings.loss)?;
    // The mode of the codec for music has no copies.
    encoder.set_signal(if settings.copy {
        Signal::Voice
    } else {
        Signal::Auto
    })?;
    encoder.set_dtx(settings.discontinuous)
}

fn refused(error: opus::Error) -> SoundEncodeError {
    SoundEncodeError::Library(error.code() as i32)
}
