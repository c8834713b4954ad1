//! The decision table: how much parity a frame gets and how its lost packets are sent again, by loss, bursts
//! and round trip.

use std::time::{Duration, Instant};

use super::copies;
use crate::packet::FrameInfo;

/// What the path is like, as far as repair cares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Share of packets lost lately, 0 to 1, without what congestion explains.
    pub loss: f64,
    /// Mean length of a run of lost packets, at least 1.
    pub mean_burst: f64,
    /// Round trip, smoothed.
    pub round_trip: Duration,
    /// The estimate over what the call uses now: 1.3 says that there is room for 30 % more.
    pub headroom: f64,
}

/// How one frame is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Parity packets for the frame (over its window), 0: none.
    pub parity_shards: u16,
    /// Frames that its parity covers, 1 to 3: itself and those before it.
    pub window_frames: u8,
    /// How often each missing packet is sent in the first round of resending; 0: never.
    pub resend_copies: u8,
    /// The same in later rounds.
    pub later_copies: u8,
    /// What lies between these copies; zero when they may go together.
    pub resend_spacing: Duration,
    /// A frame of one packet goes a second time after this, unasked.
    pub copy_single_after: Option<Duration>,
    /// How old the frame may be when a resend arrives, from its sending.
    pub deadline: Duration,
}

/// Chooses by what the network did lately; with hysteresis, so that it does not flap.
#[derive(Debug, Clone)]
pub struct Policy {}

impl Policy {
    /// Knows nothing yet: the first key frame is protected regardless.
    pub fn new() -> Self {
        todo!()
    }

    /// Takes what the last reports said. Once per report is right.
    pub fn update(&mut self, now: Instant, network: &Network) {
        todo!()
    }

    /// How to protect `frame`; `screen` says that it shows a screen.
    pub fn plan(&self, frame: &FrameInfo, screen: bool) -> Plan {
        todo!()
    }

    /// Counts bytes on the wire of one video stream's packets: pictures, and what repaired them (parity and
    /// resends). Corrects [`Policy::planned_share`].
    pub fn on_sent(&mut self, now: Instant, picture_bytes: u64, repair_bytes: u64) {
        todo!()
    }

    /// Bytes of repair per byte of picture to reckon with, for frames of `fragments` packets: the encoder
    /// gets 1 / (1 + share) of what video may use.
    pub fn planned_share(&self, fragments: u16, screen: bool) -> f64 {
        todo!()
    }

    /// Two temporal layers pay: loss, or a long way, makes it worth that half of the frames are nobody's
    /// reference.
    pub fn two_layers(&self) -> bool {
        todo!()
    }

    /// Copies of earlier sound in each packet of sound, for Opus frames of length `frame`.
    pub fn copies(&self, frame: Duration) -> copies::Plan {
        todo!()
    }

    /// Loss as the table sees it: up at once, down by a tenth a second.
    pub fn loss(&self) -> f64 {
        todo!()
    }

    /// How old a base frame may become on its way: past it, the receiver wants a refresh.
    pub fn deadline(&self, screen: bool) -> Duration {
        todo!()
    }
}
