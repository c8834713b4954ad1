//! The receiver's memory: what is a duplicate, what is missing, and what the next report says.

use std::time::{Duration, Instant};

use super::Outcome;
use crate::Sequence;
use crate::packet::{Header, Report, StreamReport, WireClock};

/// Counters of a [`ReceiveHistory`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiveStats {
    /// Packets that came, each once.
    pub received: u64,
    /// Packets that must have been sent: from the first to the newest.
    pub expected: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets too far from the newest to be told from duplicates, or to be believed.
    pub out_of_window: u64,
    /// Reports made.
    pub reports: u64,
    /// Of these, made at once because something was missing.
    pub urgent_reports: u64,
}

/// Says of each packet whether it is new, and makes the reports.
#[derive(Debug)]
pub struct ReceiveHistory {}

impl ReceiveHistory {
    /// Reports give times of `clock`.
    pub fn new(clock: WireClock) -> Self {
        todo!()
    }

    /// The whole number of a packet that has come, with an origin of its own; `None`: it is a duplicate or
    /// out of the window, and to be dropped.
    pub fn on_packet(&mut self, now: Instant, header: &Header) -> Option<Sequence> {
        todo!()
    }

    /// ECN-CE marks were seen on this many packets more.
    pub fn on_ce_marks(&mut self, marks: u8) {
        todo!()
    }

    /// A frame has become late: the next report goes at once.
    pub fn on_late_frame(&mut self) {
        todo!()
    }

    /// The peer's packets take another path from here on: for 300 ms holes are not urgent.
    pub fn on_path_mark(&mut self, now: Instant) {
        todo!()
    }

    /// What is known of the way: the round trip, and the estimate for our direction, of which reports may take
    /// 3 %.
    pub fn set_path(&mut self, round_trip: Option<Duration>, estimate_bits_per_sec: u64) {
        todo!()
    }

    /// Whether a report should go now: `with_audio` if a packet of sound leaves now too, else alone.
    pub fn report_due(&self, now: Instant, with_audio: bool) -> bool {
        todo!()
    }

    /// When [`ReceiveHistory::report_due`] becomes true without sound.
    pub fn next_report(&self) -> Option<Instant> {
        todo!()
    }

    /// A report of at most `max_bytes` (its whole datagram) on everything since the newest one that the sender
    /// is known to have, and on the last three intervals at least; `None` if not even an empty one fits, or
    /// nothing has come yet. It leaves as packet `sequence` of ours.
    pub fn build_report(
        &mut self,
        now: Instant,
        sequence: Sequence,
        max_bytes: usize,
        streams: &[StreamReport],
    ) -> Option<Report> {
        todo!()
    }

    /// What came of our own packets: of a report that arrived nothing needs to be said again.
    pub fn on_outcomes(&mut self, outcomes: &[Outcome]) {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> &ReceiveStats {
        todo!()
    }
}
