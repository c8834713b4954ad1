//! When each packet leaves: sound first, then resends, pictures, probes.

use std::time::{Duration, Instant};

use crate::packet::Class;
use crate::{FrameNumber, StreamId};

/// The frame that a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameTag {
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub number: FrameNumber,
    /// It is a key frame: it leaves at 1.5 × the estimate.
    pub key: bool,
}

/// A packet that waits, or was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued<T> {
    /// Which queue.
    pub class: Class,
    /// Its bytes on the wire, all headers included.
    pub wire_bytes: u32,
    /// Its frame, for video and parity.
    pub frame: Option<FrameTag>,
    /// For a probe: the rate it goes at, bits a second.
    pub probe_bits_per_sec: Option<u64>,
    /// The packet.
    pub item: T,
}

/// Why packets were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacerCounters {
    /// Sound that had waited 120 ms.
    pub audio_too_old: u64,
    /// Video and resends that had waited 250 ms.
    pub video_too_old: u64,
    /// By a flush.
    pub flushed: u64,
    /// No room.
    pub overflow: u64,
    /// Packets that left.
    pub sent: u64,
}

/// Four queues and a budget.
#[derive(Debug)]
pub struct Pacer<T> {
    queued: Vec<Queued<T>>,
}

impl<T> Pacer<T> {
    /// Empty, with rates of zero: only sound leaves before [`set_rates`](Self::set_rates).
    pub fn new(_now: Instant) -> Self {
        Self { queued: Vec::new() }
    }

    /// The rate that packets leave at and the estimate, bits a second.
    pub fn set_rates(
        &mut self,
        _now: Instant,
        _pacing_bits_per_sec: u64,
        _estimate_bits_per_sec: u64,
    ) {
        todo!()
    }

    /// Lets a packet wait for its turn.
    pub fn push(&mut self, _now: Instant, _packet: Queued<T>) {
        todo!()
    }

    /// The packet that leaves now, if any; to be called until there is none.
    pub fn poll(&mut self, _now: Instant) -> Option<Queued<T>> {
        todo!()
    }

    /// When [`poll`](Self::poll) may have a packet; `None`: all queues are empty.
    pub fn next_wakeup(&self) -> Option<Instant> {
        todo!()
    }

    /// A packet that was dropped, so that the decoder's state can be updated; to be drained after
    /// [`poll`](Self::poll), [`push`](Self::push) and [`flush_video`](Self::flush_video).
    pub fn poll_dropped(&mut self) -> Option<Queued<T>> {
        self.queued.pop()
    }

    /// Drops video that has not started; a frame half sent is finished if at most three packets remain.
    pub fn flush_video(&mut self, _now: Instant) {
        todo!()
    }

    /// Drops everything but sound (the path has changed).
    pub fn flush_path(&mut self, _now: Instant) {
        todo!()
    }

    /// How long the video that waits needs at the pacing rate.
    pub fn video_delay(&self) -> Duration {
        todo!()
    }

    /// How long the rest of a key frame that waits needs; zero if none does.
    pub fn key_frame_rest(&self) -> Duration {
        todo!()
    }

    /// Packets of this class that wait, and their bytes.
    pub fn waiting(&self, _class: Class) -> (usize, u64) {
        todo!()
    }

    /// For how long the oldest packet of this class has waited.
    pub fn oldest(&self, _now: Instant, _class: Class) -> Duration {
        todo!()
    }

    /// What was dropped, and why.
    pub fn counters(&self) -> PacerCounters {
        todo!()
    }
}
