//! Parity over fragments: XOR where one shard is enough, Reed-Solomon otherwise; over one to three frames.

use bytes::Bytes;

use crate::packet::{FrameInfo, ParityBody};

/// Fragments of one block at most.
pub const MAX_DATA_SHARDS: usize = 64;
/// Parity shards of one block at most.
pub const MAX_PARITY_SHARDS: usize = 32;
/// Frames that one block covers at most.
pub const MAX_WINDOW_FRAMES: usize = 3;
/// The longest frame, bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The size of a frame's fragments: `length` bytes in `fragments` pieces of equal even size, the last one
/// shorter by what is missing. 0 where there is none.
pub const fn fragment_bytes(length: usize, fragments: usize) -> usize {
    if fragments == 0 {
        0
    } else {
        2 * length.div_ceil(2 * fragments)
    }
}

/// Makes parity for the frames of one stream; remembers the two before the newest for windows.
#[derive(Debug, Default)]
pub struct Encoder {}

impl Encoder {
    /// An encoder without memory.
    pub fn new() -> Self {
        todo!()
    }

    /// Takes the next frame (its fragments as they are sent) and makes `parity_shards` shards over it and the
    /// frames before it, `window_frames` in all. To be called for each frame, also with 0 shards, so that
    /// windows have no holes. Frames of more than [`MAX_DATA_SHARDS`] fragments get several blocks.
    pub fn encode(
        &mut self,
        info: &FrameInfo,
        fragments: &[Bytes],
        parity_shards: u16,
        window_frames: u8,
    ) -> Vec<ParityBody> {
        todo!()
    }
}
