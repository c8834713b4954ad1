//! What was sent and what came of it; what was received, and the reports that say so.

mod holes;
mod receive;
mod round_trip;
mod schedule;
mod sent;
mod window;

use std::time::{Duration, Instant};

use crate::Sequence;
use crate::packet::{Class, Content, StreamReport};

pub use receive::{ReceiveHistory, ReceiveStats};
pub use sent::{ReportError, SentHistory, SentStats};

/// A packet that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentPacket {
    /// Its number.
    pub sequence: Sequence,
    /// When it was handed to the layer below.
    pub sent_at: Instant,
    /// Its bytes on the wire, all headers included.
    pub wire_bytes: u32,
    /// What it was for.
    pub class: Class,
    /// What was in it.
    pub content: Content,
    /// Path epoch at its sending.
    pub path_epoch: u32,
}

/// What came of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The packet.
    pub packet: SentPacket,
    /// When it arrived, µs of the receiver's clock (unknown offset); `None`: it is lost.
    pub arrived_micros: Option<u64>,
}

/// What a report taught the sender.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// When the report came.
    pub received_at: Instant,
    /// Round trip without the time that the receiver held the echo.
    pub round_trip: Option<Duration>,
    /// Packets whose fate is newly known, in the order of their numbers. A packet is lost when three later
    /// ones and 5 ms (or an eighth of the round trip, if that is longer) have passed; should it arrive after
    /// all, it comes here a second time.
    pub outcomes: Vec<Outcome>,
    /// New ECN-CE marks.
    pub ce_marks: u8,
    /// What the receiver says of the streams that it receives, with the numbers that we gave to frames; empty
    /// if a newer report came before this one.
    pub streams: Vec<StreamReport>,
}

#[cfg(test)]
mod tests;
