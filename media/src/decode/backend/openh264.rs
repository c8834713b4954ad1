//! openh264's decoder, without concealment; pictures are copied out of it.

use std::fmt;

use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use super::super::h264::DecodeError;
use crate::{Picture, PictureSize, Plane, VideoTime};

/// The library's code for what it was given and cannot take.
const INVALID: i32 = openh264_sys2::dsInvalidArgument;

/// One decoder.
pub(in crate::decode) struct Backend {
    decoder: Decoder,
}

impl Backend {
    /// Makes and sets up a decoder without concealment and without threads, as the library's safe face has it
    /// from the start.
    pub(in crate::decode) fn new() -> Result<Self, DecodeError> {
        Decoder::with_api_config(OpenH264API::from_source(), DecoderConfig::new())
            .map(|decoder| Self { decoder })
            .map_err(|error| DecodeError::Start(error.native_code()))
    }

    /// Decodes one access unit.
    pub(in crate::decode) fn decode(
        &mut self,
        access_unit: &[u8],
        time: VideoTime,
    ) -> Result<Option<Picture>, DecodeError> {
        // The library counts bytes in an `int`, and the crate above does not look.
        if i32::try_from(access_unit.len()).is_err() {
            return Err(DecodeError::NeedsRefresh(INVALID));
        }
        // Nothing is held back in a stream without reordering, and flushing would ask for it each time.
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        let decoded = self
            .decoder
            .decode_with_options(access_unit, options)
            .map_err(|error| {
                DecodeError::NeedsRefresh(i32::try_from(error.native_code()).unwrap_or(INVALID))
            })?;
        let Some(decoded) = decoded else {
            return Ok(None);
        };
        let (width, height) = decoded.dimensions_i32();
        let side = |side: i32| u32::try_from(side).unwrap_or(0);
        let size = PictureSize::new(side(width), side(height))
            .map_err(|_| DecodeError::NeedsRefresh(INVALID))?;
        let (luma, u, v) = decoded.strides();
        let planes = [(decoded.y(), luma), (decoded.u(), u), (decoded.v(), v)]
            .map(|(data, stride)| Plane { data, stride });
        Picture::from_planes(size, time, planes)
            .map(Some)
            .map_err(|_| DecodeError::NeedsRefresh(INVALID))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("openh264")
    }
}
