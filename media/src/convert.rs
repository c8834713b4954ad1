//! Colour and scale: what devices and files give to [`Picture`], a [`Picture`] to another size, and to what a
//! window shows.

use crate::{FrameError, Picture, PictureSize, VideoTime};

/// How pixels of a device lie in memory. RGB kinds are full range; YUV kinds are limited range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PixelFormat {
    /// 4 bytes a pixel: blue, green, red, anything (X11, Windows).
    Bgra,
    /// 4 bytes a pixel: red, green, blue, anything.
    Rgba,
    /// 3 bytes a pixel: red, green, blue (decoded JPEG).
    Rgb,
    /// 4 bytes for two pixels: Y, U, Y, V (most cameras).
    Yuyv,
    /// A plane of Y, then one of U and V in turn.
    Nv12,
    /// Three planes: Y, U, V.
    I420,
}

/// Why something is not a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Sides or planes do not fit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Less data than the size and the stride need.
    #[error("{given} bytes are too few for {width}x{height} in {format:?}, which needs {needed}")]
    TooShort {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// As what they were read.
        format: PixelFormat,
    },
    /// Rows overlap.
    #[error("a stride of {stride} bytes is too short for {width} pixels in {format:?}")]
    Stride {
        /// Bytes from one row to the next.
        stride: usize,
        /// Pixels across.
        width: u32,
        /// As what they were read.
        format: PixelFormat,
    },
}

/// Pixels in somebody else's memory.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    /// How they lie.
    pub format: PixelFormat,
    /// Pixels across; an odd last column is left out of the picture.
    pub width: u32,
    /// Pixels down; an odd last row is left out of the picture.
    pub height: u32,
    /// Bytes from one row to the next (of the first plane; the stride of I420's chroma is half of it); 0:
    /// rows follow each other without a gap.
    pub stride: usize,
    /// All planes, one behind the other.
    pub data: &'a [u8],
}

impl Pixels<'_> {
    /// Makes a picture of them (BT.601, limited range, as cameras do).
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn to_picture(&self, _time: VideoTime) -> Result<Picture, ConvertError> {
        todo!()
    }
}

/// What to do where the shapes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Keep all of the picture, with black bars beside it.
    #[default]
    Letterbox,
    /// Fill all of the room, and cut off what does not fit.
    Crop,
    /// Fill all of the room by distorting.
    Stretch,
}

/// Scales pictures; keeps its tables and buffers from one to the next.
#[derive(Debug, Default)]
pub struct Scaler {}

impl Scaler {
    /// A scaler without any memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `picture` at `size`.
    pub fn scale(&mut self, _picture: &Picture, _size: PictureSize, _fit: Fit) -> Picture {
        todo!()
    }
}

/// Writes `picture` as RGBA, 4 bytes a pixel without gaps, over whatever is in `rgba`; for windows.
pub fn write_rgba(_picture: &Picture, _rgba: &mut Vec<u8>) {
    todo!()
}
