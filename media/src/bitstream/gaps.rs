//! Closes gaps in the numbers of a stream: decoders give a stream up where frames are missing, even if the next
//! one refers to a long-term reference from before the gap, and needs nothing of what is missing. Pure.

use std::borrow::Cow;

use super::{BitstreamError, Nal, NalKind, Pps, SliceHeader, Sps, nal_units, with_frame_num};

/// Renumbers the frames of one stream (`frame_num`) so that they follow each other. The frames given to it
/// must all have what they refer to; references count backwards from the frame, or go by long-term numbers,
/// so that they stay right.
#[derive(Debug, Default)]
pub struct GapCloser {
    /// In force, as far as they were understood.
    sps: Option<Sps>,
    pps: Option<Pps>,
    /// `frame_num` of the newest frame that can be referred to, as it came.
    newest: u16,
    /// What is subtracted from each `frame_num`, modulo its range.
    moved: u16,
    /// Of the newest frame.
    quantizer: Option<u8>,
}

impl GapCloser {
    /// The access unit with its numbers moved, where there was a gap since the last key frame. Streams that
    /// are richer than ours pass as they are.
    ///
    /// # Errors
    /// [`BitstreamError`] for a slice that cannot be moved, behind a gap.
    pub fn close<'a>(&mut self, data: &'a [u8]) -> Result<Cow<'a, [u8]>, BitstreamError> {
        let mut first = None;
        for nal in nal_units(data) {
            match nal.kind() {
                NalKind::Sps => self.sps = Sps::parse(nal).ok(),
                NalKind::Pps => self.pps = Pps::parse(nal).ok(),
                NalKind::Slice | NalKind::KeySlice => {
                    first = Some(nal);
                    break;
                }
                _ => {}
            }
        }
        let (Some(first), Some(mask)) = (first, self.mask()) else {
            return Ok(Cow::Borrowed(data));
        };
        let header = self.header(first);
        self.quantizer = header.and_then(|header| header.quantizer);
        if first.kind() == NalKind::KeySlice {
            self.moved = 0;
        } else if let Some(header) = header {
            let gap = header.frame_num.wrapping_sub(self.newest).wrapping_sub(1) & mask;
            self.moved = self.moved.wrapping_add(gap) & mask;
            // What cannot be referred to has the number of the next one: the gap lies behind both.
            self.newest = self.newest.wrapping_add(gap) & mask;
        }
        if let Some(header) = header
            && first.reference() != 0
        {
            self.newest = header.frame_num;
        }
        if self.moved == 0 {
            return Ok(Cow::Borrowed(data));
        }
        self.renumbered(data, mask).map(Cow::Owned)
    }

    /// The quantizer that the newest frame's first slice begins with, 0 to 51; `None` for streams that are
    /// richer than ours.
    pub const fn quantizer(&self) -> Option<u8> {
        self.quantizer
    }

    /// The slice's head; `None` for streams that are richer than ours.
    fn header(&self, slice: Nal<'_>) -> Option<SliceHeader> {
        SliceHeader::parse(slice, self.sps.as_ref()?, self.pps.as_ref()?).ok()
    }

    /// `frame_num` is counted modulo this and one.
    fn mask(&self) -> Option<u16> {
        let bits = self.sps?.frame_num_bits;
        Some(((1u32 << bits) - 1) as u16)
    }

    fn renumbered(&self, data: &[u8], mask: u16) -> Result<Vec<u8>, BitstreamError> {
        let Some(sps) = &self.sps else {
            return Err(BitstreamError::Unsupported(
                "a slice without parameter sets",
            ));
        };
        let mut moved = Vec::with_capacity(data.len() + 64);
        for nal in nal_units(data) {
            moved.extend_from_slice(&[0, 0, 0, 1]);
            match (nal.kind(), self.header(nal)) {
                (NalKind::Slice, Some(header)) => {
                    let number = header.frame_num.wrapping_sub(self.moved) & mask;
                    moved.extend_from_slice(&with_frame_num(nal, sps, number)?);
                }
                (NalKind::Slice, None) => {
                    return Err(BitstreamError::Unsupported("this slice behind a gap"));
                }
                _ => moved.extend_from_slice(nal.data()),
            }
        }
        Ok(moved)
    }
}
