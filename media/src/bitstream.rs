//! NAL units and parameter sets of H.264 (Annex B): parse, never trust.

use crate::PictureSize;

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BitstreamError {
    /// It ends in the middle of something.
    #[error("the stream ends too early")]
    Truncated,
    /// A number has a value that the standard does not allow there.
    #[error("{0} is out of its range")]
    Range(&'static str),
    /// Allowed by the standard, but not taken here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A picture larger than what is taken here.
    #[error("pictures of {width}x{height} are not taken")]
    Size {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
}

/// A sequence parameter set, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`: 66 baseline, 77 main, 100 high.
    pub profile: u8,
    /// `level_idc`: ten times the level.
    pub level: u8,
    /// Size of the pictures shown, after cropping.
    pub size: PictureSize,
}
