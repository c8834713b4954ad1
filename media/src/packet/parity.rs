//! Parity over a run of fragments, and all that is needed to restore frames of which nothing arrived.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::Fields;
use super::video::{FrameFlags, check_frame};
use super::{
    CoveredFrame, FRAGMENTS_MAX, FRAME_BYTES_MAX, ParityBody, ParseError, WriteError, fragment_size,
};

/// Fragments in a block at most.
pub const DATA_SHARDS_MAX: u8 = 64;
/// Parity shards of a block at most.
pub const PARITY_SHARDS_MAX: u8 = 32;
/// Frames that a block may reach over.
pub const WINDOW_MAX: usize = 3;
/// Frames that may lie uncovered between two covered ones (top layers have no parity): what two bits count.
const GAP_MAX: u64 = 3;

/// Parity as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawParity {
    /// Low 16 bits of the first frame's number.
    pub number: u16,
    /// Covered frames, oldest first, 1 to [`WINDOW_MAX`].
    pub frames: Vec<RawCoveredFrame>,
    /// The first covered fragment of the first frame.
    pub first_fragment: u16,
    /// Fragments in the block.
    pub data_shards: u8,
    /// Parity shards of the block.
    pub parity_shards: u8,
    /// Which of them.
    pub index: u8,
    /// The shard.
    pub shard: Bytes,
}

/// A covered frame as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawCoveredFrame {
    /// Low 32 bits of its time.
    pub time: u32,
    /// Key, layer and so on.
    pub flags: FrameFlags,
    /// Frames between the covered one before and this one, 0 to 3.
    pub gap: u8,
    /// Distance to the frame that it refers to; 0: none.
    pub reference_distance: u8,
    /// Its fragments.
    pub fragments: u16,
    /// Its length, bytes.
    pub length: u32,
}

pub(super) fn parse(fields: &mut Fields<'_>) -> Result<RawParity, ParseError> {
    let (number, more) = (fields.u16()?, fields.u8()?);
    fields.check("frame count", usize::from(more) < WINDOW_MAX)?;
    let first_fragment = fields.u16()?;
    let [data_shards, parity_shards, index] = fields.array()?;
    let shard_size = usize::from(fields.u16()?);
    fields.check("shard size", shard_size > 0 && shard_size.is_multiple_of(2))?;
    let mut frames = Vec::with_capacity(WINDOW_MAX);
    for place in 0..=more {
        let time = fields.u32()?;
        let (flags, gap) = FrameFlags::from_wire(fields.u8()?);
        fields.check("gap", place > 0 || gap == 0)?;
        let frame = RawCoveredFrame {
            time,
            flags,
            gap,
            reference_distance: fields.u8()?,
            fragments: fields.u16()?,
            length: fields.u24()?,
        };
        fields.check(
            "frame length",
            frame_fits(frame.length, frame.fragments, shard_size),
        )?;
        frames.push(frame);
    }
    let counts = frames.iter().map(|frame| frame.fragments);
    fields.check("range", range_fits(counts, first_fragment, data_shards))?;
    fields.check("index", shards_fit(parity_shards, index))?;
    Ok(RawParity {
        number,
        frames,
        first_fragment,
        data_shards,
        parity_shards,
        index,
        shard: fields.bytes(shard_size)?,
    })
}

pub(super) fn write(parity: &ParityBody, out: &mut BytesMut) -> Result<(), WriteError> {
    let ParityBody { frames, shard, .. } = parity;
    let shard_size = u16::try_from(shard.len()).map_err(|_| WriteError::Parity)?;
    let counts = frames.iter().map(|frame| frame.info.fragments);
    let possible = (1..=WINDOW_MAX).contains(&frames.len())
        && shard_size > 0
        && shard_size.is_multiple_of(2)
        && range_fits(counts, parity.first_fragment, parity.data_shards)
        && shards_fit(parity.parity_shards, parity.index);
    let Some(first) = frames.first().filter(|_| possible) else {
        return Err(WriteError::Parity);
    };
    out.put_u16(first.info.number as u16);
    out.put_u8((frames.len() - 1) as u8);
    out.put_u16(parity.first_fragment);
    out.put_u8(parity.data_shards);
    out.put_u8(parity.parity_shards);
    out.put_u8(parity.index);
    out.put_u16(shard_size);
    let mut before = None;
    for CoveredFrame { info, length } in frames {
        check_frame(info)?;
        let gap = match before {
            None => Some(0),
            Some(before) => info
                .number
                .checked_sub(before)
                .and_then(|n| n.checked_sub(1)),
        };
        let gap = gap
            .filter(|gap| *gap <= GAP_MAX)
            .ok_or(WriteError::Parity)?;
        if !frame_fits(*length, info.fragments, shard.len()) || info.stream != first.info.stream {
            return Err(WriteError::Parity);
        }
        before = Some(info.number);
        out.put_u32(info.time.wire());
        out.put_u8(FrameFlags::of(info).wire(gap as u8));
        out.put_u8(info.reference_distance);
        out.put_u16(info.fragments);
        out.put_slice(&length.to_be_bytes()[1..]);
    }
    out.put_slice(shard);
    Ok(())
}

/// A frame of `length` bytes has exactly `fragments`, none of which is longer than a shard.
fn frame_fits(length: u32, fragments: u16, shard_size: usize) -> bool {
    let length = length as usize;
    if fragments == 0 || fragments > FRAGMENTS_MAX || length == 0 || length > FRAME_BYTES_MAX {
        return false;
    }
    let size = fragment_size(length, fragments);
    size <= shard_size && length.div_ceil(size) == usize::from(fragments)
}

/// The block begins in the first frame and ends in the last one.
fn range_fits(counts: impl Iterator<Item = u16>, first_fragment: u16, data_shards: u8) -> bool {
    let (mut first, mut before_last, mut all) = (None, 0u32, 0u32);
    for count in counts {
        first = first.or(Some(count));
        before_last = all;
        all += u32::from(count);
    }
    let end = u32::from(first_fragment) + u32::from(data_shards);
    (1..=DATA_SHARDS_MAX).contains(&data_shards)
        && first.is_some_and(|count| first_fragment < count)
        && end <= all
        && end > before_last
}

fn shards_fit(parity_shards: u8, index: u8) -> bool {
    parity_shards <= PARITY_SHARDS_MAX && index < parity_shards
}
