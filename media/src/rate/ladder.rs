//! Which size and frame rate the camera's share is worth.

use std::time::{Duration, Instant};

use crate::PictureSize;

/// A rung: a size and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Size of the picture; its aspect is the source's.
    pub size: PictureSize,
    /// Pictures a second.
    pub frames_per_sec: u32,
    /// What a key frame takes, bytes.
    pub key_frame_bytes: u32,
}

/// The choice of size and frame rate, with hysteresis. A change of size costs a key frame.
#[derive(Debug)]
pub struct Ladder {
    source: PictureSize,
}

impl Ladder {
    /// For a source of this size; `spare_cores`: there is processor enough for 1080p.
    pub fn new(_now: Instant, source: PictureSize, _spare_cores: bool) -> Self {
        Self { source }
    }

    /// Another source.
    pub fn set_source(&mut self, _now: Instant, _source: PictureSize, _spare_cores: bool) {
        todo!()
    }

    /// The other side (or this one) cannot keep up: half the frame rate.
    pub fn set_slow(&mut self, _slow: bool) {
        todo!()
    }

    /// The rung now; `None`: the picture is off.
    pub fn step(&self) -> Option<Step> {
        let _ = self.source;
        todo!()
    }

    /// The rung that a first picture or a restart begins with at this share: its key frame fits 120 ms. No
    /// hysteresis.
    pub fn restart(&mut self, _now: Instant, _share_bits_per_sec: u64) -> Option<Step> {
        todo!()
    }

    /// The share and the network's queue as they are now; `true` if the rung changed (or the frame rate).
    pub fn update(&mut self, _now: Instant, _share_bits_per_sec: u64, _queue: Duration) -> bool {
        todo!()
    }

    /// A cliff: down at once to what fits. `true` if the size changes, so that a key frame will follow.
    pub fn on_cliff(&mut self, _now: Instant, _share_bits_per_sec: u64) -> bool {
        todo!()
    }
}
