//! Reports of what arrived (after RFC 8888: arrival offsets, overlap), and requests about streams.

use bytes::{BufMut, BytesMut};

use super::clock::micros_to_wire;
use super::header::{Fields, HEADER_BYTES};
use super::{ParseError, Report, StreamReport, WriteError};
use crate::{MAX_STREAMS, StreamId};

/// Packets that one report speaks of at most.
pub const REPORT_PACKETS_MAX: usize = 512;
/// A step of arrival times and of the hold time, µs.
pub(crate) const STEP_MICROS: u64 = 250;
/// Of the fields before the bitmap.
const FIXED_BYTES: usize = 13;
/// Of what is said of a stream.
const STREAM_BYTES: usize = 8;
/// The delta that says that 16 bits follow.
const ESCAPE: u8 = 0x80;

const REFRESH: u8 = 0x80;
const SLOW_DOWN: u8 = 0x40;
const DECODED: u8 = 0x20;
const MISSING: u8 = 0x10;

/// A report as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawReport {
    /// Low 16 bits of the first packet's number.
    pub base: u16,
    /// The receiver's clock, 24 bits of 4 µs.
    pub time: u32,
    /// Send time of the newest packet, as it stood in it.
    pub echoed_send_time: u32,
    /// For how long that packet had been there, 250 µs.
    pub hold: u16,
    /// ECN-CE marks.
    pub ce_marks: u8,
    /// For each packet from `base` on: its arrival after the report's time (so hardly ever above 0), in steps
    /// of 250 µs.
    pub arrivals: Vec<Option<i32>>,
    /// Streams.
    pub streams: Vec<RawStreamReport>,
}

/// What a report says of a stream, as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawStreamReport {
    /// Which.
    pub stream: StreamId,
    /// A frame that needs no missing one is wanted.
    pub refresh_wanted: bool,
    /// The decoder cannot keep up.
    pub slow_down: bool,
    /// Low 16 bits of the last decoded frame's number.
    pub last_decoded: Option<u16>,
    /// Low 16 bits of the first missing frame's number.
    pub first_missing: Option<u16>,
    /// What waits in the buffer, ms.
    pub buffer_millis: u16,
}

pub(super) fn parse(fields: &mut Fields<'_>) -> Result<RawReport, ParseError> {
    let (base, count) = (fields.u16()?, usize::from(fields.u16()?));
    fields.check("count", count <= REPORT_PACKETS_MAX)?;
    let (time, echoed_send_time) = (fields.u24()?, fields.u24()?);
    let (hold, ce_marks) = (fields.u16()?, fields.u8()?);
    let bitmap = fields.bytes(count.div_ceil(8))?;
    let mut arrivals = Vec::with_capacity(count);
    // 512 deltas of 16 bits stay far within 32.
    let mut at = 0i32;
    for place in 0..count {
        let arrived = bitmap[place / 8] << (place % 8) & 0x80 != 0;
        arrivals.push(if arrived {
            at += match fields.u8()? {
                ESCAPE => i32::from(fields.u16()? as i16),
                delta => i32::from(delta as i8),
            };
            Some(at)
        } else {
            None
        });
    }
    let whole = fields.left().is_multiple_of(STREAM_BYTES);
    let blocks = fields.left() / STREAM_BYTES;
    fields.check("length", whole && blocks <= MAX_STREAMS)?;
    let streams = (0..blocks)
        .map(|_| parse_stream(fields))
        .collect::<Result<_, _>>()?;
    Ok(RawReport {
        base,
        time,
        echoed_send_time,
        hold,
        ce_marks,
        arrivals,
        streams,
    })
}

fn parse_stream(fields: &mut Fields<'_>) -> Result<RawStreamReport, ParseError> {
    let [stream, flags] = fields.array()?;
    let (last_decoded, first_missing) = (fields.u16()?, fields.u16()?);
    Ok(RawStreamReport {
        stream: StreamId(stream),
        refresh_wanted: flags & REFRESH != 0,
        slow_down: flags & SLOW_DOWN != 0,
        last_decoded: (flags & DECODED != 0).then_some(last_decoded),
        first_missing: (flags & MISSING != 0).then_some(first_missing),
        buffer_millis: fields.u16()?,
    })
}

pub(super) fn write(report: &Report, out: &mut BytesMut) -> Result<(), WriteError> {
    let count = report.arrivals.len();
    if count > REPORT_PACKETS_MAX || report.streams.len() > MAX_STREAMS {
        return Err(WriteError::Report);
    }
    out.put_u16(report.base as u16);
    out.put_u16(count as u16);
    out.put_slice(&micros_to_wire(report.time_micros).to_be_bytes()[1..]);
    out.put_slice(&report.echoed_send_time.to_be_bytes()[1..]);
    let hold = report.hold_micros / STEP_MICROS;
    out.put_u16(u16::try_from(hold).unwrap_or(u16::MAX));
    out.put_u8(report.ce_marks);
    for eight in report.arrivals.chunks(8) {
        let bits = eight.iter().enumerate();
        out.put_u8(bits.fold(0, |byte, (at, arrival)| {
            byte | u8::from(arrival.is_some()) << (7 - at)
        }));
    }
    let mut before = report.time_micros;
    for arrival in report.arrivals.iter().flatten() {
        let delta = delta(before, *arrival);
        before = before.saturating_add_signed(i64::from(delta) * STEP_MICROS as i64);
        if fits_a_byte(delta) {
            out.put_i8(delta as i8);
        } else {
            out.put_u8(ESCAPE);
            out.put_i16(delta);
        }
    }
    for stream in &report.streams {
        write_stream(stream, out);
    }
    Ok(())
}

fn write_stream(stream: &StreamReport, out: &mut BytesMut) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.put_u8(stream.stream.0);
    out.put_u8(
        flag(stream.refresh_wanted, REFRESH)
            | flag(stream.slow_down, SLOW_DOWN)
            | flag(stream.last_decoded.is_some(), DECODED)
            | flag(stream.first_missing.is_some(), MISSING),
    );
    out.put_u16(stream.last_decoded.unwrap_or(0) as u16);
    out.put_u16(stream.first_missing.unwrap_or(0) as u16);
    out.put_u16(stream.buffer_millis);
}

/// The step from one arrival to the next; what is too far for 16 bits (8 s) is cut.
fn delta(before: u64, arrival: u64) -> i16 {
    let steps = if arrival >= before {
        ((arrival - before) / STEP_MICROS) as i64
    } else {
        // Rounded down here too.
        -((before - arrival).div_ceil(STEP_MICROS) as i64)
    };
    steps.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16
}

fn fits_a_byte(delta: i16) -> bool {
    i8::try_from(delta).is_ok_and(|delta| delta as u8 != ESCAPE)
}

/// What an arrival `arrival` behind one at `before` takes, bytes.
pub(crate) fn delta_len(before: u64, arrival: u64) -> usize {
    if fits_a_byte(delta(before, arrival)) {
        1
    } else {
        3
    }
}

/// The length of a report about `packets`, of which `deltas` bytes say when they arrived, with `streams`
/// blocks: its whole datagram, bytes.
pub const fn report_len(packets: usize, deltas: usize, streams: usize) -> usize {
    HEADER_BYTES + FIXED_BYTES + packets.div_ceil(8) + deltas + streams * STREAM_BYTES
}
