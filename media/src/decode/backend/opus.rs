//! libopus's decoder through its raw interface: the `opus` crate neither switches deep concealment on nor reads
//! deep redundancy (DRED), which works on the state of the decoder, and does not give that out.
#![expect(unsafe_code, reason = "the library is C")]

use std::ffi::c_int;
use std::fmt;
use std::ptr;

use opusic_sys::{
    OPUS_OK, OPUS_SET_COMPLEXITY_REQUEST, OpusDRED, OpusDREDDecoder, OpusDecoder,
    opus_decode_float, opus_decoder_create, opus_decoder_ctl, opus_decoder_destroy,
    opus_decoder_dred_decode_float, opus_dred_alloc, opus_dred_decoder_create,
    opus_dred_decoder_destroy, opus_dred_free, opus_dred_parse,
};

/// Samples a second.
const RATE: i32 = 48_000;

/// One decoder to one channel at 48 kHz.
pub(in crate::decode) struct Backend {
    decoder: *mut OpusDecoder,
    /// Reads deep redundancy; null if the library was built without.
    reader: *mut OpusDREDDecoder,
    /// What was read last; null like `reader`.
    redundancy: *mut OpusDRED,
}

// SAFETY: the states are only reached through `&mut self`, and libopus ties nothing to a thread.
unsafe impl Send for Backend {}

impl Backend {
    /// Makes a decoder; `complexity` from 5 on conceals by a neural network.
    pub(in crate::decode) fn new(complexity: i32) -> Result<Self, c_int> {
        let mut code = OPUS_OK;
        // SAFETY: plain numbers, and a valid place for the result.
        let decoder = unsafe { opus_decoder_create(RATE, 1, &raw mut code) };
        if decoder.is_null() {
            return Err(code);
        }
        // From here on dropping destroys it.
        let mut this = Self {
            decoder,
            reader: ptr::null_mut(),
            redundancy: ptr::null_mut(),
        };
        // SAFETY: the decoder lives, and the setting takes one number, which the library checks.
        let code = unsafe { opus_decoder_ctl(decoder, OPUS_SET_COMPLEXITY_REQUEST, complexity) };
        if code != OPUS_OK {
            return Err(code);
        }
        let mut code = OPUS_OK;
        // SAFETY: valid places for the results; what cannot be made is null and not used.
        unsafe {
            this.reader = opus_dred_decoder_create(&raw mut code);
            this.redundancy = opus_dred_alloc(&raw mut code);
        }
        Ok(this)
    }

    /// Decodes `packet` (its coarse copy of the one before it if `copy`), or conceals where it is empty, into
    /// `samples`; gives how many were filled.
    pub(in crate::decode) fn decode(
        &mut self,
        packet: &[u8],
        copy: bool,
        samples: &mut [f32],
    ) -> Result<usize, c_int> {
        let data = if packet.is_empty() {
            ptr::null()
        } else {
            packet.as_ptr()
        };
        let len = i32::try_from(packet.len()).map_err(|_| -1)?;
        let room = c_int::try_from(samples.len()).map_err(|_| -1)?;
        // SAFETY: the decoder lives and has one channel; `data` is null or has `len` bytes, which are only
        // read; `samples` has room for `room` values.
        let code = unsafe {
            opus_decode_float(
                self.decoder,
                data,
                len,
                samples.as_mut_ptr(),
                room,
                c_int::from(copy),
            )
        };
        usize::try_from(code).map_err(|_| code)
    }

    /// Restores the `samples.len()` samples right before `later` from its deep redundancy; `false` if that
    /// does not reach back so far, or there is none.
    pub(in crate::decode) fn decode_deep(
        &mut self,
        later: &[u8],
        samples: &mut [f32],
    ) -> Result<bool, c_int> {
        if self.reader.is_null() || self.redundancy.is_null() {
            return Ok(false);
        }
        let len = i32::try_from(later.len()).map_err(|_| -1)?;
        let wanted = i32::try_from(samples.len()).map_err(|_| -1)?;
        let mut end = 0;
        // SAFETY: both states live; `later` has `len` bytes, which are only read; `end` is a valid place.
        let reach = unsafe {
            opus_dred_parse(
                self.reader,
                self.redundancy,
                later.as_ptr(),
                len,
                RATE,
                RATE,
                &raw mut end,
                0,
            )
        };
        // It holds what lies from `reach` to `end` samples before the packet.
        if reach < wanted || reach <= 0 {
            return Ok(false);
        }
        // SAFETY: both states live, and what was read is whole; `samples` has room for `wanted` values.
        let code = unsafe {
            opus_decoder_dred_decode_float(
                self.decoder,
                self.redundancy,
                wanted,
                samples.as_mut_ptr(),
                wanted,
            )
        };
        if code == wanted { Ok(true) } else { Err(code) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: the pointers came from the functions that belong to these, and nobody else has them; those
        // that may be null are checked.
        unsafe {
            opus_decoder_destroy(self.decoder);
            if !self.reader.is_null() {
                opus_dred_decoder_destroy(self.reader);
            }
            if !self.redundancy.is_null() {
                opus_dred_free(self.redundancy);
            }
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libopus")
    }
}
