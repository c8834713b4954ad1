//! libopus's encoder through its raw interface: deep redundancy (DRED) has no safe face yet.
#![expect(unsafe_code, reason = "the library is C")]

use std::ffi::c_int;
use std::fmt;

use opusic_sys::{
    OPUS_APPLICATION_VOIP, OPUS_OK, OpusEncoder, opus_encode_float, opus_encoder_create,
    opus_encoder_ctl, opus_encoder_destroy,
};

use super::super::opus::SoundEncodeError;

/// One encoder at 48 kHz.
pub(in crate::encode) struct Backend {
    encoder: *mut OpusEncoder,
    channels: u8,
}

// SAFETY: the state is only reached through `&mut self`, and libopus ties nothing to a thread.
unsafe impl Send for Backend {}

impl Backend {
    /// Makes an encoder for voice with all its tools (not the one of low delay, which has no redundancy).
    pub(in crate::encode) fn new(channels: u8) -> Result<Self, SoundEncodeError> {
        let mut code = OPUS_OK;
        // SAFETY: plain numbers, and a valid place for the result.
        let encoder = unsafe {
            opus_encoder_create(
                48_000,
                channels.into(),
                OPUS_APPLICATION_VOIP,
                &raw mut code,
            )
        };
        if encoder.is_null() {
            return Err(SoundEncodeError::Library(code));
        }
        Ok(Self { encoder, channels })
    }

    /// Encodes interleaved samples into `packet`, and gives its length.
    pub(in crate::encode) fn encode(
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
    pub(in crate::encode) fn set(
        &mut self,
        request: c_int,
        value: i32,
    ) -> Result<(), SoundEncodeError> {
        // SAFETY: the encoder lives, and all settings used take one number, which the library checks.
        let code = unsafe { opus_encoder_ctl(self.encoder, request, value) };
        if code == OPUS_OK {
            Ok(())
        } else {
            Err(SoundEncodeError::Library(code))
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `opus_encoder_create`, and nobody else has it.
        unsafe { opus_encoder_destroy(self.encoder) }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libopus")
    }
}
