//! Encoders: pictures to H.264 ([`PictureEncoder`]), sound to Opus ([`SoundEncoder`]).
//!
//! Both work on the thread of their caller, one frame in and one frame out, and decide nothing about rates or
//! repair: what to spend, when to refresh and what the other side has is told to them.

mod backend;
mod h264;
mod opus;
mod references;

pub use h264::{Content, EncodeError, PictureConfig, PictureEncoder};
pub use opus::{MAX_SOUND_PACKET, Redundancy, SoundConfig, SoundEncodeError, SoundEncoder};
