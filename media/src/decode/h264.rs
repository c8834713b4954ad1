//! H.264 to pictures. What is broken is not shown: an error means that the stream needs a refresh.

use std::collections::VecDeque;

use super::backend::openh264::Backend;
use crate::bitstream::{BitstreamError, GapCloser, Nal, NalKind, Pps, Sps, nal_units};
use crate::{FrameNumber, Picture, VideoTime};

/// Bytes of an access unit at most: what the packets can carry of one frame.
pub const MAX_ACCESS_UNIT: usize = 1 << 20;

/// Frames remembered as decoded: the longest distance that a frame can state is 255.
const REMEMBERED: usize = 256;
/// The library's code for a missing reference.
const MISSING: i32 = 2;

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

/// One frame to decode.
#[derive(Debug, Clone, Copy)]
pub struct AccessUnit<'a> {
    /// All of it, in Annex B form.
    pub data: &'a [u8],
    /// When it was captured.
    pub time: VideoTime,
    /// Its number in the stream.
    pub number: FrameNumber,
    /// How many frames before it lies the one that it refers to, as its sender said; 0 is taken as 1 unless
    /// it is a key frame.
    pub reference_distance: u8,
}

/// An H.264 decoder of one stream, without concealment and without delay: one access unit in, one picture
/// out.
///
/// The library gives a stream up at the first gap in it, even where the next frame refers to a long-term
/// reference from before the gap. Therefore a frame whose reference is missing does not reach it, and gaps
/// before a frame whose reference is there are closed.
#[derive(Debug)]
pub struct PictureDecoder {
    backend: Backend,
    gaps: GapCloser,
    /// The newest frames that were decoded and can be referred to, oldest first.
    decoded: VecDeque<FrameNumber>,
}

impl PictureDecoder {
    /// Sets up a decoder.
    ///
    /// # Errors
    /// [`DecodeError::Start`].
    pub fn new() -> Result<Self, DecodeError> {
        Ok(Self {
            backend: Backend::new()?,
            gaps: GapCloser::default(),
            decoded: VecDeque::with_capacity(REMEMBERED),
        })
    }

    /// Decodes one frame, in order. `None`: it held no picture.
    ///
    /// # Errors
    /// [`DecodeError::NeedsRefresh`], [`DecodeError::Refused`]; both leave the decoder usable.
    pub fn decode(&mut self, unit: &AccessUnit<'_>) -> Result<Option<Picture>, DecodeError> {
        let first = check(unit.data)?;
        let key = first.is_some_and(|slice| slice.kind() == NalKind::KeySlice);
        let distance = unit.reference_distance.max(1);
        let reference = unit.number.checked_sub(distance.into());
        if first.is_some() && !key && !reference.is_some_and(|it| self.decoded.contains(&it)) {
            return Err(DecodeError::NeedsRefresh(MISSING));
        }
        let data = self.gaps.close(unit.data)?;
        let picture = self.backend.decode(&data, unit.time);
        match &picture {
            Ok(Some(_)) => self.remember(unit.number, key, first),
            Ok(None) => {}
            // It takes nothing but a key frame now.
            Err(_) => self.decoded.clear(),
        }
        picture
    }

    /// The quantizer of the newest frame, 0 to 51: its first slice's. `None` for streams richer than ours.
    pub const fn quantizer(&self) -> Option<u8> {
        self.gaps.quantizer()
    }

    fn remember(&mut self, number: FrameNumber, key: bool, first: Option<Nal<'_>>) {
        if key {
            self.decoded.clear();
        }
        if first.is_none_or(|slice| slice.reference() == 0) {
            return;
        }
        if self.decoded.len() >= REMEMBERED {
            self.decoded.pop_front();
        }
        self.decoded.push_back(number);
    }
}

/// Keeps from the library what would make it use much memory, and what our encoders never write; gives the
/// first slice.
fn check(access_unit: &[u8]) -> Result<Option<Nal<'_>>, BitstreamError> {
    if access_unit.len() > MAX_ACCESS_UNIT {
        return Err(BitstreamError::Range("the length of an access unit"));
    }
    let (mut any, mut first) = (false, None);
    for nal in nal_units(access_unit) {
        any = true;
        match nal.kind() {
            NalKind::Sps => drop(Sps::parse(nal)?),
            NalKind::Pps => drop(Pps::parse(nal)?),
            NalKind::Slice | NalKind::KeySlice => first = first.or(Some(nal)),
            NalKind::Information | NalKind::Delimiter => {}
            // The end of a sequence or of the stream, and filling.
            NalKind::Other(10..=12) => {}
            // Data partitions, layers of size, depth, and what is not defined.
            NalKind::Other(_) => {
                return Err(BitstreamError::Unsupported("this type of NAL unit"));
            }
        }
    }
    any.then_some(first).ok_or(BitstreamError::Truncated)
}
