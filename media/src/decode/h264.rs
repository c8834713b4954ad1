//! H.264 to pictures. What is broken is not shown: an error means that the stream needs a refresh.

use super::backend::openh264::Backend;
use crate::bitstream::{BitstreamError, NalKind, Pps, Sps, nal_units};
use crate::{Picture, VideoTime};

/// Bytes of an access unit at most: what the packets can carry of one frame.
pub const MAX_ACCESS_UNIT: usize = 1 << 20;

/// Why an access unit gave no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It refers to something that is not there, or is damaged: nothing can be shown until a key frame or a
    /// recovery frame comes.
    #[error("the access unit cannot be decoded, code {0}")]
    NeedsRefresh(i32),
    /// It is not H.264 as we take it; it did not reach the decoder. The stream needs a refresh.
    #[error("the access unit is refused")]
    Refused(#[from] BitstreamError),
    /// The library could not be set up.
    #[error("the H.264 decoder failed to start, code {0}")]
    Start(i64),
}

/// An H.264 decoder of one stream, without concealment and without delay: one access unit in, one picture
/// out.
#[derive(Debug)]
pub struct PictureDecoder {
    backend: Backend,
}

impl PictureDecoder {
    /// Sets up a decoder.
    ///
    /// # Errors
    /// [`DecodeError::Start`].
    pub fn new() -> Result<Self, DecodeError> {
        Ok(Self {
            backend: Backend::new()?,
        })
    }

    /// Decodes one access unit (Annex B), whole, in order. `None`: it held no picture. The picture's time is
    /// `time`.
    ///
    /// # Errors
    /// [`DecodeError::NeedsRefresh`], [`DecodeError::Refused`]; both leave the decoder usable.
    pub fn decode(
        &mut self,
        access_unit: &[u8],
        time: VideoTime,
    ) -> Result<Option<Picture>, DecodeError> {
        check(access_unit)?;
        self.backend.decode(access_unit, time)
    }
}

/// Keeps from the library what would make it use much memory, and what our encoders never write.
fn check(access_unit: &[u8]) -> Result<(), BitstreamError> {
    if access_unit.len() > MAX_ACCESS_UNIT {
        return Err(BitstreamError::Range("the length of an access unit"));
    }
    let mut any = false;
    for nal in nal_units(access_unit) {
        any = true;
        match nal.kind() {
            NalKind::Sps => drop(Sps::parse(nal)?),
            NalKind::Pps => drop(Pps::parse(nal)?),
            NalKind::Slice | NalKind::KeySlice | NalKind::Information | NalKind::Delimiter => {}
            // The end of a sequence or of the stream, and filling.
            NalKind::Other(10..=12) => {}
            // Data partitions, layers of size, depth, and what is not defined.
            NalKind::Other(_) => {
                return Err(BitstreamError::Unsupported("this type of NAL unit"));
            }
        }
    }
    any.then_some(()).ok_or(BitstreamError::Truncated)
}
