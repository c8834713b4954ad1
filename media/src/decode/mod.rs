//! Decoders: H.264 to pictures ([`PictureDecoder`]), Opus to sound ([`OpusDecoder`]). What they are given
//! came from outside.

mod backend;
mod h264;
mod opus;

pub use h264::{AccessUnit, DecodeError, MAX_ACCESS_UNIT, PictureDecoder};
pub use opus::{OpusDecoder, OpusStartError};
