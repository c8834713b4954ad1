//! What comes out of encoders and goes into decoders.

use bytes::Bytes;

use crate::{AudioTime, VideoTime};

/// A picture as H.264: one access unit in Annex B form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPicture {
    /// When it was captured.
    pub time: VideoTime,
    /// NAL units, each behind a start code.
    pub data: Bytes,
    /// It needs no other picture (an IDR).
    pub key: bool,
    /// Parameter sets stand before it; always so with `key`.
    pub parameter_sets: bool,
    /// Temporal layer, 0 is the base.
    pub layer: u8,
    /// No other picture refers to it.
    pub discardable: bool,
    /// The encoder marked it as a long-term reference.
    pub long_term: bool,
    /// How many frames before it in its stream lies the one that it refers to; 0: none.
    pub reference_distance: u8,
}

/// A piece of sound as one Opus packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedSound {
    /// When its first sample was captured.
    pub time: AudioTime,
    /// The packet (RFC 6716 §3), at most 1,275 bytes.
    pub data: Bytes,
    /// Its length, samples of one channel at 48 kHz.
    pub samples: u32,
    /// Somebody speaks.
    pub voice: bool,
    /// Hardly anything: silence, discontinuous transmission.
    pub silence: bool,
}
