//! H.264 to pictures. What is broken is not shown: an error means that the stream needs a refresh.

use crate::bitstream::BitstreamError;
use crate::{Picture, VideoTime};

/// Why an access unit gave no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It refers to something that is not there, or is damaged: nothing can be shown until a key frame or a
    /// recovery frame comes.
    #[error("the access unit cannot be decoded, code {0}")]
    NeedsRefresh(i32),
    /// It is not H.264 as we take it; it did not reach the decoder.
    #[error("the access unit is refused")]
    Refused(#[from] BitstreamError),
    /// The library could not be set up.
    #[error("the H.264 decoder failed to start, code {0}")]
    Start(i64),
}

/// An H.264 decoder of one stream.
#[derive(Debug)]
pub struct PictureDecoder {}

impl PictureDecoder {
    /// Sets up a decoder.
    ///
    /// # Errors
    /// [`DecodeError::Start`].
    pub fn new() -> Result<Self, DecodeError> {
        Ok(Self {})
    }

    /// Decodes one access unit (Annex B), whole, in order. `None`: it held no picture. The picture's time is
    /// `time`.
    ///
    /// # Errors
    /// [`DecodeError::NeedsRefresh`], [`DecodeError::Refused`]; both leave the decoder usable.
    pub fn decode(&mut self, _data: &[u8], _time: VideoTime) -> Result<Option<Picture>, DecodeError> {
        todo!()
    }
}
