//! Which frame refers to which, read from the slices that the encoder wrote: its interface does not tell, and
//! the receiver must know before it decodes. Pure.

use std::collections::VecDeque;

use crate::FrameNumber;
use crate::bitstream::{BitstreamError, NalKind, Pps, Reference, SliceHeader, Sps, nal_units};

/// Frames remembered: the longest distance that a frame can state (255), and the frame itself.
const REMEMBERED: usize = 256;
/// Long-term references of a stream at most (`long_term_frame_idx` is at most 15).
const LONG_TERM: usize = 16;

/// What the slices of one frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: FrameNumber,
    /// It is an IDR.
    pub(super) key: bool,
    /// `frame_num`, and `idr_pic_id` of the key frame it depends on.
    pub(super) frame_num: u16,
    pub(super) key_id: u16,
    /// Others may refer to it.
    pub(super) kept: bool,
    /// It is marked as a long-term reference.
    pub(super) long_term: bool,
    /// The frame that it refers to; `None` for a key frame.
    pub(super) refers_to: Option<FrameNumber>,
    /// Parameter sets stand before it.
    pub(super) parameter_sets: bool,
    /// The quantizer that its first slice begins with.
    pub(super) quantizer: Option<u8>,
}

/// The references of a stream so far.
#[derive(Debug, Default)]
pub(super) struct References {
    sps: Option<Sps>,
    pps: Option<Pps>,
    /// The newest frames, oldest first, without gaps in their numbers.
    frames: VecDeque<Frame>,
    /// Which frame each long-term number means.
    long_term: [Option<FrameNumber>; LONG_TERM],
}

impl References {
    /// Reads the access unit of frame `number` and adds the frame. Frames come with numbers in a row.
    pub(super) fn add(
        &mut self,
        number: FrameNumber,
        access_unit: &[u8],
    ) -> Result<Frame, BitstreamError> {
        let mut parameter_sets = (false, false);
        for nal in nal_units(access_unit) {
            match nal.kind() {
                NalKind::Sps => {
                    self.sps = Some(Sps::parse(nal)?);
                    parameter_sets.0 = true;
                }
                NalKind::Pps => {
                    self.pps = Some(Pps::parse(nal)?);
                    parameter_sets.1 = true;
                }
                NalKind::Slice | NalKind::KeySlice => {
                    let (Some(sps), Some(pps)) = (&self.sps, &self.pps) else {
                        return Err(BitstreamError::Unsupported(
                            "a slice without parameter sets",
                        ));
                    };
                    let header = SliceHeader::parse(nal, sps, pps)?;
                    let range = 1u32 << sps.frame_num_bits;
                    let kept = nal.reference() != 0;
                    let both = parameter_sets == (true, true);
                    return Ok(self.insert(number, &header, range, kept, both));
                }
                _ => {}
            }
        }
        Err(BitstreamError::Truncated)
    }

    fn insert(
        &mut self,
        number: FrameNumber,
        header: &SliceHeader,
        range: u32,
        kept: bool,
        parameter_sets: bool,
    ) -> Frame {
        if header.key {
            self.long_term = [None; LONG_TERM];
            self.frames.clear();
        }
        let key_id = match self.frames.back() {
            Some(last) if !header.key => last.key_id,
            _ => header.key_id,
        };
        let frame = Frame {
            number,
            key: header.key,
            frame_num: header.frame_num,
            key_id,
            kept,
            long_term: header.long_term.is_some(),
            refers_to: self.referred(header, range),
            parameter_sets,
            quantizer: header.quantizer,
        };
        if let Some((back, index)) = header.moved {
            let moved = self.short_term(header.frame_num, back, range);
            self.mark(index, moved);
            if let Some(moved) = moved.and_then(|number| self.get_mut(number)) {
                moved.long_term = true;
            }
        }
        if let Some(index) = header.long_term {
            self.mark(index, Some(number));
        }
        if self.frames.len() >= REMEMBERED {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
        frame
    }

    /// The frame that `header` refers to.
    fn referred(&self, header: &SliceHeader, range: u32) -> Option<FrameNumber> {
        match header.reference {
            Reference::None => None,
            Reference::Newest => self.kept().next(),
            Reference::Back(back) => self.short_term(header.frame_num, back, range),
            Reference::LongTerm(index) => *self.long_term.get(usize::from(index))?,
        }
    }

    /// The newest kept frame whose `frame_num` lies `back` before `frame_num`.
    fn short_term(&self, frame_num: u16, back: u32, range: u32) -> Option<FrameNumber> {
        let wanted = (u32::from(frame_num) + range - back % range) % range;
        let frames = self.frames.iter().rev();
        let mut found = frames.filter(|frame| frame.kept && u32::from(frame.frame_num) == wanted);
        found.next().map(|frame| frame.number)
    }

    /// Frames that others may refer to, newest first.
    fn kept(&self) -> impl Iterator<Item = FrameNumber> {
        let frames = self.frames.iter().rev();
        frames.filter(|frame| frame.kept).map(|frame| frame.number)
    }

    fn mark(&mut self, index: u8, frame: Option<FrameNumber>) {
        if let Some(slot) = self.long_term.get_mut(usize::from(index)) {
            *slot = frame;
        }
    }

    /// What is remembered of frame `number`.
    pub(super) fn get(&self, number: FrameNumber) -> Option<&Frame> {
        self.frames.get(self.index(number)?)
    }

    fn get_mut(&mut self, number: FrameNumber) -> Option<&mut Frame> {
        let index = self.index(number)?;
        self.frames.get_mut(index)
    }

    fn index(&self, number: FrameNumber) -> Option<usize> {
        let back = self.frames.back()?.number.checked_sub(number)?;
        self.frames
            .len()
            .checked_sub(1 + usize::try_from(back).ok()?)
    }

    /// The newest frame.
    pub(super) fn newest(&self) -> Option<&Frame> {
        self.frames.back()
    }

    /// Frame `number` and all that it builds on, newest first, as far as they are remembered.
    pub(super) fn ancestry(&self, number: FrameNumber) -> impl Iterator<Item = &Frame> {
        // References always point back, so this ends.
        std::iter::successors(self.get(number), |frame| {
            self.get(frame.refers_to.filter(|&earlier| earlier < frame.number)?)
        })
    }

    /// Forgets everything: the next frame is a key frame of a new encoder.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
