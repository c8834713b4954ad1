//! Buffers that adapt to measured jitter.

mod assemble;
mod audio;
mod delay;
mod render;
mod stretch;
mod video;

pub use audio::{
    AudioBuffer, AudioStats, Inserted, MAX_QUEUED, PULL_SAMPLES, Pulled, SoundDecodeError,
    SoundDecoder,
};
pub use delay::{DelayTracker, MAX_TARGET, START_TARGET};
pub use video::{CompleteFrame, VideoBuffer, VideoConfig, VideoCounters};
