//! The sender's memory of frames: which packets to send again, when, and when to give up.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Plan;
use crate::history::{Outcome, SentPacket};
use crate::packet::{FrameInfo, ParityBody, VideoBody};
use crate::{FrameNumber, Sequence, StreamId};

/// A frame that cannot arrive in time any more although others may refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Its stream.
    pub stream: StreamId,
    /// Which.
    pub frame: FrameNumber,
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResendCounters {
    /// Packets sent again, by round: first, second, third and later.
    pub rounds: [u64; 3],
    /// Bytes of these.
    pub bytes: u64,
    /// Copies of single-packet frames and of last packets, sent without being asked.
    pub unasked: u64,
    /// Lost packets left alone, since parity does it.
    pub left_to_parity: u64,
    /// Base frames given up.
    pub failed: u64,
}

/// Frames of the last seconds, all streams, with what is known of each of their packets.
#[derive(Debug)]
pub struct ResendStore {}

impl ResendStore {
    /// An empty store.
    pub fn new() -> Self {
        todo!()
    }

    /// What decides whether a resend is worth it: round trip, and loss as [`super::Policy::loss`] has it.
    pub fn set_network(&mut self, round_trip: Duration, loss: f64) {
        todo!()
    }

    /// A frame is about to leave (all of it goes to the pacer now), with the parity that was made with it.
    pub fn on_frame(
        &mut self,
        now: Instant,
        info: &FrameInfo,
        fragments: Vec<Bytes>,
        parity: &[ParityBody],
        plan: &Plan,
    ) {
        todo!()
    }

    /// A packet left, whatever it was: tells when the last packet of a frame has nothing behind it that would
    /// show its loss.
    pub fn on_sent(&mut self, packet: &SentPacket) {
        todo!()
    }

    /// A parity packet left as number `sequence`.
    pub fn on_parity_sent(&mut self, sequence: Sequence, body: &ParityBody) {
        todo!()
    }

    /// Takes what a report taught of packets.
    pub fn on_outcomes(&mut self, now: Instant, outcomes: &[Outcome]) {
        todo!()
    }

    /// A fragment never left, and never will (the pacer dropped it, or it did not fit any more): as if lost.
    pub fn on_dropped(
        &mut self,
        now: Instant,
        stream: StreamId,
        frame: FrameNumber,
        fragment: u16,
    ) {
        todo!()
    }

    /// Forgets the frames of `stream` before `frame`: a refresh makes them worthless.
    pub fn abandon_before(&mut self, stream: StreamId, frame: FrameNumber) {
        todo!()
    }

    /// The next packet to be sent again, if one is due: key frames first, then the newest base frame.
    pub fn poll(&mut self, now: Instant) -> Option<VideoBody> {
        todo!()
    }

    /// When [`Self::poll`] may have something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// A frame that failed and was not told of yet.
    pub fn poll_failed(&mut self) -> Option<Failed> {
        todo!()
    }

    /// What was done so far.
    pub fn counters(&self) -> &ResendCounters {
        todo!()
    }
}
