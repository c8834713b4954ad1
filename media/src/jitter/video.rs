//! Order, decodability and render times of frames: what goes to the decoder, and when something must be asked
//! for.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::packet::{FrameInfo, ParityBody, StreamReport, VideoBody};
use crate::{FrameNumber, StreamId};

/// How a video buffer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoConfig {
    /// Fragments and parity held at most, bytes.
    pub memory_bytes: usize,
    /// How old a frame may become on its way before a refresh is wanted (250 ms; for a screen 2 s).
    pub deadline: Duration,
    /// Wait for up to three frame intervals to smooth the gaps between pictures, instead of one.
    pub smooth: bool,
}

/// A frame that the decoder can take now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteFrame {
    /// What it says of itself.
    pub info: FrameInfo,
    /// One access unit, Annex B.
    pub data: Bytes,
    /// When its first packet came.
    pub first_arrival: Instant,
    /// When it was whole.
    pub completed_at: Instant,
    /// When it should be shown; it may be past, then at once.
    pub render_at: Instant,
    /// A newer one is about to come out: decode this one, but do not show it.
    pub show: bool,
    /// Parity restored a part of it.
    pub by_parity: bool,
    /// The latest round of resending that was needed, 0: none.
    pub resend_round: u8,
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VideoCounters {
    /// Frames given to the decoder.
    pub frames: u64,
    /// Of these, key frames.
    pub key_frames: u64,
    /// Frames that parity completed.
    pub by_parity: u64,
    /// Frames that resends of the first, second, third (or later) round completed.
    pub by_resend: [u64; 3],
    /// Frames that were whole after their render time, but were decoded all the same.
    pub late_useful: u64,
    /// Frames of which something came, but which never went to the decoder.
    pub abandoned: u64,
    /// Bytes of fragments that came twice, too late, or for frames given up.
    pub useless_bytes: u64,
    /// Packets that contradict others or the limits.
    pub malformed: u64,
    /// Times a refresh became wanted.
    pub refreshes: u64,
    /// Frames that the decoder refused.
    pub decode_errors: u64,
}

/// Receives the frames of one stream.
#[derive(Debug)]
pub struct VideoBuffer {}

impl VideoBuffer {
    /// An empty buffer for `stream`.
    pub fn new(stream: StreamId, config: VideoConfig) -> Self {
        todo!()
    }

    /// A fragment came.
    pub fn on_fragment(&mut self, now: Instant, body: VideoBody) {
        todo!()
    }

    /// A parity packet came.
    pub fn on_parity(&mut self, now: Instant, body: ParityBody) {
        todo!()
    }

    /// The next frame for the decoder. At most three are out before [`Self::on_decoded`] must be called.
    pub fn poll(&mut self, now: Instant) -> Option<CompleteFrame> {
        todo!()
    }

    /// When something changes without a packet: a report is due then ([`Self::stream_report`] differs).
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Lets time pass: true when a report should go at once (a refresh became wanted).
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        todo!()
    }

    /// The decoder is done with a frame: whether it made a picture, and how long it took.
    pub fn on_decoded(&mut self, now: Instant, number: FrameNumber, ok: bool, took: Duration) {
        todo!()
    }

    /// Packets take another path from here on: what was measured of delays is void.
    pub fn on_path_change(&mut self, now: Instant) {
        todo!()
    }

    /// The round trip and the deadline, as they are now.
    pub fn set_network(&mut self, round_trip: Duration, deadline: Duration) {
        todo!()
    }

    /// What synchronisation with sound adds to the render time.
    pub fn set_sync_delay(&mut self, delay: Duration) {
        todo!()
    }

    /// What the report says of this stream.
    pub fn stream_report(&self, now: Instant) -> StreamReport {
        todo!()
    }

    /// What was done so far.
    pub fn counters(&self) -> &VideoCounters {
        todo!()
    }
}
