//! Frames and sound to datagrams and back: formats, fragments, assembly. One datagram is one packet; all
//! integers are big-endian. The parsers are total, and allocate nothing from declared lengths. Every byte of
//! them is described in `media/WIRE.md`.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use media::packet::{Body, Receiver, WireClock, Writer, parse};
//!
//! let now = Instant::now();
//! let mut writer = Writer::new(WireClock::new(now, 0));
//! let body = Body::Probe { cluster: 1, padding: 100 };
//! let datagram = writer.write(now, 7, Duration::ZERO, &body)?;
//!
//! let (header, raw) = parse(&datagram)?;
//! assert_eq!(header.sequence, 7);
//! let mut receiver = Receiver::default();
//! assert_eq!(receiver.complete(&header, raw)?.body, body);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod audio;
mod clock;
mod fragment;
mod header;
mod parity;
mod receiver;
mod report;
mod video;
mod writer;

use bytes::Bytes;

use crate::{AUDIO, AudioTime, FrameNumber, Sequence, StreamId, VideoTime};

pub use audio::{COPIES_MAX, COPY_OFFSET_MAX, RawAudio, RawCopy, SOUND_BYTES_MAX};
pub use clock::{Unwrapper, WireClock, nearest};
pub use fragment::{
    FRAGMENTS_MAX, FRAME_BYTES_MAX, FragmentError, Fragments, fragment, fragment_budget,
    fragment_len, fragment_size,
};
pub use header::{HEADER_BYTES, Header, Kind, ParseError, RawBody, VERSION, parse};
pub use parity::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX, RawCoveredFrame, RawParity, WINDOW_MAX};
pub use receiver::{Packet, ReceiveError, Receiver, StreamFormat};
pub use report::{REPORT_PACKETS_MAX, RawReport, RawStreamReport, report_len};
pub(crate) use report::{STEP_MICROS, delta_len};
pub use video::{FrameFlags, RawVideo};
pub use writer::{WriteError, Writer};

/// Bytes that every packet costs on the wire beyond its own: IPv4, UDP, QUIC's packet and DATAGRAM frame.
pub const WIRE_OVERHEAD_BYTES: usize = 58;

/// What a packet is for, in the order in which it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Sound, and reports that go with it.
    Audio,
    /// What is sent again.
    Resend,
    /// Pictures and their parity.
    Video,
    /// Probes and padding.
    Probe,
}

/// What the sender must remember of a packet's content to repair it or to judge its loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Sound whose primary is this frame.
    Audio {
        /// The number of the primary.
        number: FrameNumber,
    },
    /// A fragment of a picture.
    Video {
        /// Its stream.
        stream: StreamId,
        /// Its frame.
        frame: FrameNumber,
        /// Which fragment.
        fragment: u16,
        /// How often it was sent before.
        attempt: u8,
    },
    /// Parity of these frames.
    Parity {
        /// Their stream.
        stream: StreamId,
        /// The first of them.
        frame: FrameNumber,
    },
    /// A report, or a path mark.
    Report,
    /// Part of a probe.
    Probe {
        /// Of which cluster.
        cluster: u8,
    },
}

/// What the receiver can do with a packet once it is parsed; numbers and times are whole again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Sound.
    Audio(AudioBody),
    /// A fragment.
    Video(VideoBody),
    /// Parity.
    Parity(ParityBody),
    /// A report: see [`crate::history`].
    Report(Report),
    /// Padding.
    Probe {
        /// Its cluster.
        cluster: u8,
        /// Zeros after that, bytes.
        padding: usize,
    },
    /// The sender's packets take another path from here on.
    PathMark {
        /// Counts changes of path.
        epoch: u8,
        /// Why, for statistics.
        reason: u8,
    },
}

impl Body {
    /// What its sender must remember of it.
    pub fn content(&self) -> Content {
        match self {
            Self::Audio(audio) => Content::Audio {
                number: audio.primary.number,
            },
            Self::Video(video) => Content::Video {
                stream: video.frame.stream,
                frame: video.frame.number,
                fragment: video.fragment,
                attempt: video.attempt,
            },
            Self::Parity(parity) => Content::Parity {
                stream: parity.stream(),
                frame: parity.frames.first().map_or(0, |frame| frame.info.number),
            },
            Self::Report(_) | Self::PathMark { .. } => Content::Report,
            Self::Probe { cluster, .. } => Content::Probe { cluster: *cluster },
        }
    }

    /// In which order it leaves.
    pub fn class(&self) -> Class {
        match self {
            Self::Audio(_) | Self::Report(_) | Self::PathMark { .. } => Class::Audio,
            Self::Video(video) if video.attempt > 0 => Class::Resend,
            Self::Video(_) | Self::Parity(_) => Class::Video,
            Self::Probe { .. } => Class::Probe,
        }
    }

    /// The stream that its header names; [`AUDIO`] for what belongs to none.
    fn stream(&self) -> StreamId {
        match self {
            Self::Video(video) => video.frame.stream,
            Self::Parity(parity) => parity.stream(),
            Self::Audio(_) | Self::Report(_) | Self::Probe { .. } | Self::PathMark { .. } => AUDIO,
        }
    }
}

/// One Opus packet inside an audio packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Its number.
    pub number: FrameNumber,
    /// Its time.
    pub time: AudioTime,
    /// Its length in samples.
    pub samples: u32,
    /// The Opus packet.
    pub data: Bytes,
    /// Somebody speaks.
    pub voice: bool,
    /// Discontinuous transmission.
    pub silence: bool,
}

/// The primary and copies of earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioBody {
    /// What this packet is for.
    pub primary: Sound,
    /// At most three, exact copies of earlier primaries.
    pub copies: Vec<Sound>,
}

/// What every fragment of a frame says of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub number: FrameNumber,
    /// When it was captured.
    pub time: VideoTime,
    /// How many fragments it has, 1 to 1,024.
    pub fragments: u16,
    /// It needs no other.
    pub key: bool,
    /// Temporal layer.
    pub layer: u8,
    /// No other refers to it.
    pub discardable: bool,
    /// Parameter sets are in it.
    pub parameter_sets: bool,
    /// A long-term reference.
    pub long_term: bool,
    /// How many frames before it lies the one that it refers to; 0: none.
    pub reference_distance: u8,
}

/// A fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoBody {
    /// Of this frame.
    pub frame: FrameInfo,
    /// Which.
    pub fragment: u16,
    /// How often it was sent before.
    pub attempt: u8,
    /// Its bytes.
    pub data: Bytes,
}

/// A frame that a parity packet covers, with what is needed to restore it from nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoveredFrame {
    /// What its fragments would say.
    pub info: FrameInfo,
    /// Its length, bytes.
    pub length: u32,
}

/// One parity shard over a run of fragments of up to three frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityBody {
    /// Covered frames, oldest first, 1 to 3.
    pub frames: Vec<CoveredFrame>,
    /// The first fragment (of the first frame) that the block covers.
    pub first_fragment: u16,
    /// Fragments in the block.
    pub data_shards: u8,
    /// Parity shards of the block.
    pub parity_shards: u8,
    /// Which of them this is.
    pub index: u8,
    /// The shard.
    pub shard: Bytes,
}

impl ParityBody {
    /// The stream of its frames.
    pub fn stream(&self) -> StreamId {
        self.frames.first().map_or(AUDIO, |frame| frame.info.stream)
    }
}

/// What arrived since the last report that the sender is known to have.
///
/// [`crate::history::ReceiveHistory`] makes it; [`crate::history::SentHistory`] reads it, and takes of `base`
/// and of the frames in `streams` only the 16 bits that were on the wire: it knows which ones it sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first packet that it speaks of; 16 bits on the wire.
    pub base: Sequence,
    /// The receiver's clock at writing, µs, a multiple of 500 so that all reports place an arrival at the same
    /// moment; 24 bits of 4 µs on the wire, unwrapped by [`Receiver`].
    pub time_micros: u64,
    /// The send time of the newest packet received (as it stood in it, 24 bits of 4 µs).
    pub echoed_send_time: u32,
    /// For how long that packet had been here, µs.
    pub hold_micros: u64,
    /// ECN-CE marks seen, counter that wraps.
    pub ce_marks: u8,
    /// For each packet from `base` on: when it arrived, µs of the receiver's clock, or `None`.
    pub arrivals: Vec<Option<u64>>,
    /// What the receiver says of the streams that it receives.
    pub streams: Vec<StreamReport>,
}

/// The receiver on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamReport {
    /// Which.
    pub stream: StreamId,
    /// A frame that needs no missing one is wanted.
    pub refresh_wanted: bool,
    /// The decoder cannot keep up: half the frame rate is wanted.
    pub slow_down: bool,
    /// The last frame that was decoded, if any was; 16 bits on the wire.
    pub last_decoded: Option<FrameNumber>,
    /// The first frame that is missing, if one is; 16 bits on the wire.
    pub first_missing: Option<FrameNumber>,
    /// What waits in the buffer, ms.
    pub buffer_millis: u16,
}

#[cfg(test)]
mod tests;
