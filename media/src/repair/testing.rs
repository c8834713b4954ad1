//! What the tests of repair and of the video buffer share: frames, and random numbers that repeat.

use bytes::Bytes;

use crate::packet::{FrameInfo, fragment_size};
use crate::{CAMERA, FrameNumber, VideoTime};

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// `length` bytes that differ by `seed`.
pub(crate) fn bytes(seed: u64, length: usize) -> Bytes {
    let mut random = Random(seed);
    let mut data: Vec<u8> = Vec::with_capacity(length + 8);
    while data.len() < length {
        data.extend_from_slice(&random.next().to_le_bytes());
    }
    data.truncate(length);
    Bytes::from(data)
}

/// A camera frame at 30 a second that refers to the one before it.
pub(crate) fn info(number: FrameNumber, fragments: u16) -> FrameInfo {
    FrameInfo {
        stream: CAMERA,
        number,
        time: VideoTime::from_ticks((1_u64 << 32).wrapping_add(number.wrapping_mul(3_000))),
        fragments,
        key: false,
        layer: 0,
        discardable: false,
        parameter_sets: false,
        long_term: false,
        reference_distance: 1,
    }
}

/// A camera frame that refers to none.
pub(crate) fn key(number: FrameNumber, fragments: u16) -> FrameInfo {
    FrameInfo {
        key: true,
        parameter_sets: true,
        reference_distance: 0,
        ..info(number, fragments)
    }
}

/// The pieces of a frame as they are sent.
pub(crate) fn fragments(data: &Bytes, count: u16) -> Vec<Bytes> {
    let size = fragment_size(data.len(), count);
    (0..usize::from(count))
        .map(|index| {
            let start = (index * size).min(data.len());
            data.slice(start..(start + size).min(data.len()))
        })
        .collect()
}
