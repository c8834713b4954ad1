//! libopus's encoder through its raw interface, for deep redundancy (DRED): the `opus` crate neither sets it
//! nor gives out the encoder to set it on.
#![expect(unsafe_code, reason = "the library is C")]

use std::ffi::c_int;
use std::fmt;

use opusic_sys::{
    OPUS_APPLICATION_VOIP, OPUS_AUTO, OPUS_OK, OPUS_SET_BITRATE_REQUEST,
    OPUS_SET_COMPLEXITY_REQUEST, OPUS_SET_DRED_DURATION_REQUEST, OPUS_SET_DTX_REQUEST,
    OPUS_SET_INBAND_FEC_REQUEST, OPUS_SET_PACKET_LOSS_PERC_REQUEST, OPUS_SET_SIGNAL_REQUEST,
    OPUS_SIGNAL_VOICE, OpusEncoder, opus_encode_float, opus_encoder_create, opus_encoder_ctl,
    opus_encoder_destroy,
};

use super::super::opus::SoundEncodeError;
use super::opus::{COMPLEXITY, RATE, Settings};

/// One encoder at 48 kHz.
pub(in crate::encode) struct Deep {
    encoder: *mut OpusEncoder,
    channels: u8,
}

// SAFETY: the state is only reached through `&mut self`, and libopus ties nothing to a thread.
unsafe impl Send for Deep {}

impl Deep {
    /// Makes an encoder for voice with all its tools.
    pub(super) fn new(channels: u8) -> Result<Self, SoundEncodeError> {
        let mut code = OPUS_OK;
        // SAFETY: plain numbers, which the library checks, and a valid place for the result.
        let encoder = unsafe {
            opus_encoder_create(
                RATE as i32,
                channels.into(),
                OPUS_APPLICATION_VOIP,
                &raw mut code,
            )
        };
        if encoder.is_null() {
            return Err(SoundEncodeError::Library(code));
        }
        // From here on dropping destroys it.
        let mut this = Self { encoder, channels };
        this.set(OPUS_SET_COMPLEXITY_REQUEST, COMPLEXITY)?;
        Ok(this)
    }

    /// Sets everything, from the next packet on.
    pub(super) fn apply(&mut self, settings: &Settings) -> Result<(), SoundEncodeError> {
        // The mode of the codec for music has no copies.
        let signal = if settings.copy {
            OPUS_SIGNAL_VOICE
        } else {
            OPUS_AUTO
        };
        for (request, value) in [
            (OPUS_SET_BITRATE_REQUEST, settings.bits_per_second),
            (OPUS_SET_INBAND_FEC_REQUEST, settings.copy.into()),
            (OPUS_SET_PACKET_LOSS_PERC_REQUEST, settings.loss),
            (OPUS_SET_DRED_DURATION_REQUEST, settings.deep.into()),
            (OPUS_SET_SIGNAL_REQUEST, signal),
            (OPUS_SET_DTX_REQUEST, settings.discontinuous.into()),
        ] {
            self.set(request, value)?;
        }
        Ok(())
    }

    /// Encodes interleaved samples into `packet`, and gives its length.
    pub(super) fn encode(
        &mut self,
        samples: &[f32],
        packet: &mut [u8],
    ) -> Result<usize, SoundEncodeError> {
        let each = c_int::try_from(samples.len() / usize::from(self.channels)).unwrap_or(0);
        let room = i32::try_from(packet.len()).unwrap_or(i32::MAX);
        // SAFETY: the encoder lives; `samples` has `each` values of each channel, which are only read;
        // `packet` has room for as many bytes as stated.
        let code = unsafe {
            opus_encode_float(
                self.encoder,
                samples.as_ptr(),
                each,
                packet.as_mut_ptr(),
                room,
            )
        };
        usize::try_from(code).map_err(|_| SoundEncodeError::Library(code))
    }

    /// Sets what is a number; `request` must be one of the library's settings that take an `opus_int32`.
    fn set(&mut self, request: c_int, value: i32) -> Result<(), SoundEncodeError> {
        // SAFETY: the encoder lives, and all settings used take one number, which the library checks.
        let code = unsafe { opus_encoder_ctl(self.encoder, request, value) };
        if code == OPUS_OK {
            Ok(())
        } else {
            Err(SoundEncodeError::Library(code))
        }
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `opus_encoder_create`, and nobody else has it.
        unsafe { opus_encoder_destroy(self.encoder) }
    }
}

impl fmt::Debug for Deep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libopus")
    }
}
