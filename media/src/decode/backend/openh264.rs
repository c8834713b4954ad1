//! openh264's decoder through its raw interface: the safe crate above it gives pictures out as borrows of the
//! decoder, and hides what went wrong behind them.
#![expect(
    unsafe_code,
    reason = "the library is C++ behind a table of C functions"
)]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;

use openh264_sys2::source::APILoader;
use openh264_sys2::{
    DECODER_OPTION, DECODER_OPTION_ERROR_CON_IDC, DECODER_OPTION_TRACE_LEVEL, ERROR_CON_DISABLE,
    ISVCDecoder, ISVCDecoderVtbl, SBufferInfo, SDecodingParam, VIDEO_BITSTREAM_AVC, WELS_LOG_QUIET,
    dsErrorFree, dsInvalidArgument, dsOutOfMemory, videoFormatI420,
};

use super::super::h264::DecodeError;
use crate::{Picture, PictureSize, Plane, VideoTime};

/// One decoder.
pub(in crate::decode) struct Backend {
    decoder: *mut ISVCDecoder,
}

// SAFETY: the object is only reached through `&mut self`, and openh264 ties nothing to the thread that made
// it; without the option for threads it has none of its own.
unsafe impl Send for Backend {}

impl Backend {
    /// Makes and sets up a decoder without concealment.
    pub(in crate::decode) fn new() -> Result<Self, DecodeError> {
        let mut decoder = ptr::null_mut();
        // SAFETY: the argument is a valid place for a pointer, which the call fills.
        let code = unsafe { APILoader::WelsCreateDecoder(&raw mut decoder) };
        if code != 0 || decoder.is_null() {
            return Err(start(code));
        }
        // From here on dropping destroys it.
        let mut this = Self { decoder };
        this.option(DECODER_OPTION_TRACE_LEVEL, WELS_LOG_QUIET)?;
        let mut parameters = SDecodingParam {
            eEcActiveIdc: ERROR_CON_DISABLE,
            ..SDecodingParam::default()
        };
        parameters.sVideoProperty.eVideoBsType = VIDEO_BITSTREAM_AVC;
        let initialize = this.table()?.Initialize.ok_or(DecodeError::Start(0))?;
        // SAFETY: the object lives, and `parameters` is a valid structure that the call copies.
        let code = unsafe { initialize(this.decoder, &raw const parameters) };
        if code != 0 {
            return Err(start(code));
        }
        this.option(DECODER_OPTION_ERROR_CON_IDC, ERROR_CON_DISABLE)?;
        Ok(this)
    }

    /// Decodes one access unit.
    pub(in crate::decode) fn decode(
        &mut self,
        access_unit: &[u8],
        time: VideoTime,
    ) -> Result<Option<Picture>, DecodeError> {
        let table = self.table()?;
        let decode = table.DecodeFrameNoDelay.ok_or(DecodeError::Start(0))?;
        let len = c_int::try_from(access_unit.len())
            .map_err(|_| DecodeError::NeedsRefresh(dsInvalidArgument))?;
        let mut planes = [ptr::null_mut(); 3];
        let mut info = SBufferInfo::default();
        // SAFETY: the object lives and is initialized; `access_unit` has `len` bytes, which the call only
        // reads; `planes` and `info` are valid and filled by the call.
        let state = unsafe {
            decode(
                self.decoder,
                access_unit.as_ptr(),
                len,
                planes.as_mut_ptr(),
                &raw mut info,
            )
        };
        if state != dsErrorFree {
            return Err(DecodeError::NeedsRefresh(state));
        }
        if info.iBufferStatus != 1 {
            return Ok(None);
        }
        // SAFETY: the union has one member.
        let buffer = unsafe { info.UsrData.sSystemBuffer };
        let side = |side: c_int| u32::try_from(side).unwrap_or(0);
        let size = PictureSize::new(side(buffer.iWidth), side(buffer.iHeight));
        let (Ok(size), true) = (size, buffer.iFormat == videoFormatI420) else {
            return Err(DecodeError::NeedsRefresh(dsInvalidArgument));
        };
        let strides = [buffer.iStride[0], buffer.iStride[1], buffer.iStride[1]];
        let mut views = [Plane {
            data: &[],
            stride: 0,
        }; 3];
        for (index, view) in views.iter_mut().enumerate() {
            let stride = usize::try_from(strides[index]).unwrap_or(0);
            let shift = u32::from(index != 0);
            let width = (size.width() >> shift) as usize;
            let rows = (size.height() >> shift) as usize;
            if planes[index].is_null() || stride < width {
                return Err(DecodeError::NeedsRefresh(dsInvalidArgument));
            }
            let len = stride * (rows - 1) + width;
            // SAFETY: with status 1 the library points to planes of the stated size and strides, which stand
            // until the next call; so many bytes lie in them, and they are copied before `self` is used again.
            let data = unsafe { std::slice::from_raw_parts(planes[index], len) };
            *view = Plane { data, stride };
        }
        Picture::from_planes(size, time, views)
            .map(Some)
            .map_err(|_| DecodeError::NeedsRefresh(dsOutOfMemory))
    }

    /// Sets one option that is a number.
    fn option<T: Copy + Into<i64>>(
        &mut self,
        option: DECODER_OPTION,
        value: T,
    ) -> Result<(), DecodeError> {
        let set = self.table()?.SetOption.ok_or(DecodeError::Start(0))?;
        let mut number = c_int::try_from(value.into()).map_err(|_| DecodeError::Start(0))?;
        let value: *mut c_void = (&raw mut number).cast();
        // SAFETY: the object lives; both options in use take an `int`, which the library copies.
        let code = unsafe { set(self.decoder, option, value) };
        if code == 0 { Ok(()) } else { Err(start(code)) }
    }

    fn table(&self) -> Result<&ISVCDecoderVtbl, DecodeError> {
        // SAFETY: `decoder` points to a living object, which begins with a pointer to its table of
        // functions; the table is a constant of the library.
        unsafe { (*self.decoder).as_ref() }.ok_or(DecodeError::Start(0))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `WelsCreateDecoder`, and nobody else has it. The library takes down
        // what was set up before it frees the object.
        unsafe { APILoader::WelsDestroyDecoder(self.decoder) }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("openh264")
    }
}

fn start(code: impl Into<i64>) -> DecodeError {
    DecodeError::Start(code.into())
}
