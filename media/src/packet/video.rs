//! Fragments of pictures.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::Fields;
use super::{FRAGMENTS_MAX, FrameInfo, ParseError, VideoBody, WriteError};
use crate::{FrameNumber, StreamId, VideoTime};

/// How often a fragment was sent before, at most: what two bits count. Later ones say the same.
pub(super) const ATTEMPTS_MAX: u8 = 3;
/// The highest temporal layer: what two bits count.
pub(super) const LAYER_MAX: u8 = 3;

/// A fragment as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawVideo {
    /// Low 32 bits of the frame's time.
    pub time: u32,
    /// Low 16 bits of its number.
    pub number: u16,
    /// Which fragment.
    pub fragment: u16,
    /// How many there are, 1 to [`FRAGMENTS_MAX`].
    pub fragments: u16,
    /// Key, layer and so on.
    pub flags: FrameFlags,
    /// How often it was sent before, 0 to 3.
    pub attempt: u8,
    /// Distance to the frame that it refers to; 0: none.
    pub reference_distance: u8,
    /// Its bytes; an even number of them unless it is the last.
    pub data: Bytes,
}

/// The flags of a frame: six bits, then two for other uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameFlags {
    key: bool,
    layer: u8,
    discardable: bool,
    parameter_sets: bool,
    long_term: bool,
}

impl FrameFlags {
    /// Of a byte on the wire, and the two bits that are not among them.
    pub(super) const fn from_wire(byte: u8) -> (Self, u8) {
        let flags = Self {
            key: byte & 0x80 != 0,
            layer: byte >> 5 & 3,
            discardable: byte & 0x10 != 0,
            parameter_sets: byte & 8 != 0,
            long_term: byte & 4 != 0,
        };
        (flags, byte & 3)
    }

    pub(super) const fn of(frame: &FrameInfo) -> Self {
        Self {
            key: frame.key,
            layer: frame.layer,
            discardable: frame.discardable,
            parameter_sets: frame.parameter_sets,
            long_term: frame.long_term,
        }
    }

    pub(super) fn wire(self, rest: u8) -> u8 {
        u8::from(self.key) << 7
            | (self.layer & 3) << 5
            | u8::from(self.discardable) << 4
            | u8::from(self.parameter_sets) << 3
            | u8::from(self.long_term) << 2
            | rest & 3
    }

    /// With the rest of what a frame is.
    pub(super) const fn frame(
        self,
        stream: StreamId,
        number: FrameNumber,
        time: VideoTime,
        fragments: u16,
        reference_distance: u8,
    ) -> FrameInfo {
        FrameInfo {
            stream,
            number,
            time,
            fragments,
            key: self.key,
            layer: self.layer,
            discardable: self.discardable,
            parameter_sets: self.parameter_sets,
            long_term: self.long_term,
            reference_distance,
        }
    }
}

pub(super) fn parse(fields: &mut Fields<'_>) -> Result<RawVideo, ParseError> {
    let (time, number, place) = (fields.u32()?, fields.u16()?, fields.u24()?);
    let (flags, attempt) = FrameFlags::from_wire(fields.u8()?);
    let reference_distance = fields.u8()?;
    let (fragment, fragments) = ((place >> 12) as u16, (place & 0xfff) as u16 + 1);
    fields.check("count", fragments <= FRAGMENTS_MAX)?;
    fields.check("fragment", fragment < fragments)?;
    let len = fields.left();
    let last = fragment + 1 == fragments;
    fields.check("length", len > 0 && (last || len.is_multiple_of(2)))?;
    Ok(RawVideo {
        time,
        number,
        fragment,
        fragments,
        flags,
        attempt,
        reference_distance,
        data: fields.bytes(len)?,
    })
}

pub(super) fn write(video: &VideoBody, out: &mut BytesMut) -> Result<(), WriteError> {
    let frame = &video.frame;
    check_frame(frame)?;
    let last = video.fragment + 1 == frame.fragments;
    let len = video.data.len();
    if video.fragment >= frame.fragments || len == 0 || !(last || len.is_multiple_of(2)) {
        return Err(WriteError::Fragment);
    }
    out.put_u32(frame.time.wire());
    out.put_u16(frame.number as u16);
    let place = u32::from(video.fragment) << 12 | u32::from(frame.fragments - 1);
    out.put_slice(&place.to_be_bytes()[1..]);
    out.put_u8(FrameFlags::of(frame).wire(video.attempt.min(ATTEMPTS_MAX)));
    out.put_u8(frame.reference_distance);
    out.put_slice(&video.data);
    Ok(())
}

pub(super) const fn check_frame(frame: &FrameInfo) -> Result<(), WriteError> {
    if frame.fragments == 0 || frame.fragments > FRAGMENTS_MAX || frame.layer > LAYER_MAX {
        Err(WriteError::Frame)
    } else {
        Ok(())
    }
}
