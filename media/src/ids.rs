//! Numbers that name things: streams, packets, frames. Those on the wire are short and wrap; here they are
//! whole.

use serde::{Deserialize, Serialize};

/// A stream of one call, as the control stream assigned it: at most [`MAX_STREAMS`] live at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId(pub u8);

/// Streams of one call that may live at a time.
pub const MAX_STREAMS: usize = 8;

/// The microphone.
pub const AUDIO: StreamId = StreamId(0);
/// The camera.
pub const CAMERA: StreamId = StreamId(1);
/// The screen.
pub const SCREEN: StreamId = StreamId(2);

/// The number of a packet in one direction of a call, over all kinds and streams; 16 bits of it go on the
/// wire. One space for all: a reception report is the list of what is missing, and a lost resend is noticed
/// like any other packet.
pub type Sequence = u64;

/// The number of a frame in its stream; 16 bits of it go on the wire.
pub type FrameNumber = u64;
