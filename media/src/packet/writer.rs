//! Packets to datagrams.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{HEADER_BYTES, Header, Kind};
use super::{Body, WireClock, audio, parity, report, video};
use crate::Sequence;

/// The buffer that datagrams are cut from, bytes: a frame or two. It is used again when all of them are gone.
const BUFFER_BYTES: usize = 64 << 10;
/// What is free in it, at least, before a packet is begun, bytes.
const PACKET_BYTES: usize = 2 << 10;

/// Why something cannot be written. What can be written, [`super::parse`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Opus has no packets of this many samples.
    #[error("no packet of sound has {0} samples")]
    Duration(u32),
    /// Opus has no packets of this many bytes.
    #[error("no packet of sound has {0} bytes")]
    SoundLength(usize),
    /// More than three copies, or one that is not 1 to 15 frames of the primary's length before it.
    #[error("the copies do not fit their primary")]
    Copies,
    /// No fragment, more than 1,024, or a layer above 3.
    #[error("no frame is like this")]
    Frame,
    /// Not one of its frame, empty, or of odd length without being the last.
    #[error("no fragment is like this")]
    Fragment,
    /// Its numbers contradict each other.
    #[error("no parity is like this")]
    Parity,
    /// Of more than 512 packets or 8 streams.
    #[error("the report is too long")]
    Report,
}

/// Writes packets one behind the other into a buffer that is used again.
#[derive(Debug)]
pub struct Writer {
    clock: WireClock,
    buffer: BytesMut,
}

impl Writer {
    /// Send times are those of `clock`, the one that [`crate::history::SentHistory`] has.
    pub fn new(clock: WireClock) -> Self {
        Self {
            clock,
            buffer: BytesMut::new(),
        }
    }

    /// Writes packet `sequence`, which leaves `now` with what was captured `age` ago.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is written then.
    pub fn write(
        &mut self,
        now: Instant,
        sequence: Sequence,
        age: Duration,
        body: &Body,
    ) -> Result<Bytes, WriteError> {
        if self.buffer.capacity() < PACKET_BYTES {
            self.buffer.reserve(BUFFER_BYTES);
        }
        let header = Header {
            kind: kind(body),
            flags: 0,
            stream: body.stream(),
            sequence: sequence as u16,
            send_time: self.clock.wire(now),
            age_millis: u8::try_from(age.as_millis()).unwrap_or(u8::MAX),
        };
        self.buffer.clear();
        self.buffer.put_slice(&header.to_bytes());
        let written = write_body(body, &mut self.buffer);
        if let Err(error) = written {
            self.buffer.clear();
            return Err(error);
        }
        Ok(self.buffer.split().freeze())
    }

    /// The length of a probe's datagram without its padding, bytes.
    pub const fn probe_len() -> usize {
        HEADER_BYTES + 1
    }
}

const fn kind(body: &Body) -> Kind {
    match body {
        Body::Audio(_) => Kind::Audio,
        Body::Video(_) => Kind::Video,
        Body::Parity(_) => Kind::Parity,
        Body::Report(_) => Kind::Report,
        Body::Probe { .. } => Kind::Probe,
        Body::PathMark { .. } => Kind::PathMark,
    }
}

fn write_body(body: &Body, out: &mut BytesMut) -> Result<(), WriteError> {
    match body {
        Body::Audio(body) => audio::write(body, out),
        Body::Video(body) => video::write(body, out),
        Body::Parity(body) => parity::write(body, out),
        Body::Report(body) => report::write(body, out),
        Body::Probe { cluster, padding } => {
            out.put_u8(*cluster);
            out.put_bytes(0, *padding);
            Ok(())
        }
        Body::PathMark { epoch, reason } => {
            out.put_u8(*epoch);
            out.put_u8(*reason);
            Ok(())
        }
    }
}
