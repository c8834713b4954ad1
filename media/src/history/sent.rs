//! The sender's memory: each packet from its leaving until it is known to have arrived or to be lost.

use std::time::{Duration, Instant};

use super::{Feedback, Outcome, SentPacket};
use crate::Sequence;
use crate::packet::{Report, WireClock};

/// Why a report is dropped, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It names a packet that was never sent: the peer makes things up.
    #[error("the report names packet {0}, which was never sent")]
    NeverSent(Sequence),
}

/// Counters of a [`SentHistory`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SentStats {
    /// Packets sent.
    pub sent: u64,
    /// Of these, known to have arrived.
    pub arrived: u64,
    /// Declared lost.
    pub lost: u64,
    /// Of these, arrived after all.
    pub late: u64,
    /// Reports read.
    pub reports: u64,
    /// Of these, overtaken by newer ones.
    pub stale_reports: u64,
    /// Reports dropped.
    pub bad_reports: u64,
}

/// Remembers at most 2,048 packets for at most 4 s.
#[derive(Debug)]
pub struct SentHistory {}

impl SentHistory {
    /// Begins with number `first`; `clock` is the one of [`crate::packet::Writer`].
    pub fn new(clock: WireClock, first: Sequence) -> Self {
        todo!()
    }

    /// The number of the next packet; used up by [`SentHistory::push`].
    pub fn next_sequence(&self) -> Sequence {
        todo!()
    }

    /// Remembers a packet that has left. Numbers rise; one that was used before is ignored.
    pub fn push(&mut self, packet: SentPacket) {
        todo!()
    }

    /// What a report teaches.
    ///
    /// # Errors
    /// [`ReportError`]; nothing is changed then but a counter.
    pub fn on_report(&mut self, now: Instant, report: &Report) -> Result<Feedback, ReportError> {
        todo!()
    }

    /// The packets that are lost by now although no report says so; to be called at
    /// [`SentHistory::next_timeout`].
    pub fn on_timeout(&mut self, now: Instant) -> Vec<Outcome> {
        todo!()
    }

    /// When [`SentHistory::on_timeout`] will have something to say if no report comes before.
    pub fn next_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Packets take path `epoch` from here on. For 300 ms packets of different paths may overtake each other
    /// without one being lost. If the old path is `dead`, what is on it is lost, and returned.
    pub fn on_path_switch(&mut self, now: Instant, epoch: u32, dead: bool) -> Vec<Outcome> {
        todo!()
    }

    /// Forgets what is older than 4 s.
    pub fn drop_older(&mut self, now: Instant) {
        todo!()
    }

    /// A packet, if it is remembered.
    pub fn get(&self, sequence: Sequence) -> Option<&SentPacket> {
        todo!()
    }

    /// Bytes on the wire of packets whose fate is open.
    pub fn flying_bytes(&self) -> u64 {
        todo!()
    }

    /// Smoothed round trip, without the time that the receiver held the echo.
    pub fn round_trip(&self) -> Option<Duration> {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> &SentStats {
        todo!()
    }
}
