//! Buffers that adapt to measured jitter.

mod assemble;
mod video;

pub use video::{CompleteFrame, VideoBuffer, VideoConfig, VideoCounters};
