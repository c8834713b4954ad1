//! The codecs, from outside: encoder against decoder, and both against ffmpeg.
#![cfg(feature = "codecs")]

mod ffmpeg;
mod harness;
mod pictures;
mod recovery;
mod sound;
