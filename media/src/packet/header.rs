//! The eight bytes that every packet begins with, and the way from a datagram to its parts.

use bytes::Bytes;

use super::{RawAudio, RawParity, RawReport, RawVideo, audio, parity, report, video};
use crate::StreamId;

/// Of the packet formats.
pub const VERSION: u8 = 0;
/// Of the header on the wire.
pub const HEADER_BYTES: usize = 8;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sound and copies of earlier sound.
    Audio,
    /// A fragment of a picture.
    Video,
    /// What restores lost fragments.
    Parity,
    /// What arrived.
    Report,
    /// Padding, to measure with.
    Probe,
    /// From here on the packets take another path.
    PathMark,
}

impl Kind {
    const fn from_wire(kind: u8) -> Option<Self> {
        Some(match kind {
            0 => Self::Audio,
            1 => Self::Video,
            2 => Self::Parity,
            3 => Self::Report,
            4 => Self::Probe,
            5 => Self::PathMark,
            _ => return None,
        })
    }

    const fn wire(self) -> u8 {
        match self {
            Self::Audio => 0,
            Self::Video => 1,
            Self::Parity => 2,
            Self::Report => 3,
            Self::Probe => 4,
            Self::PathMark => 5,
        }
    }
}

/// What every packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Three bits of the kind; none is in use.
    pub flags: u8,
    /// Its stream.
    pub stream: StreamId,
    /// The low 16 bits of its number.
    pub sequence: u16,
    /// When it left: 24 bits of 4 µs.
    pub send_time: u32,
    /// From the capture of its content to its leaving, ms; 255 is that or more.
    pub age_millis: u8,
}

impl Header {
    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [high, low] = self.sequence.to_be_bytes();
        let [_, first, second, third] = self.send_time.to_be_bytes();
        let first_byte = (VERSION << 6) | (self.kind.wire() << 3) | (self.flags & 7);
        [
            first_byte,
            self.stream.0,
            high,
            low,
            first,
            second,
            third,
            self.age_millis,
        ]
    }
}

/// The rest of a packet, with numbers and times as short as they are on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawBody {
    /// Sound.
    Audio(RawAudio),
    /// A fragment.
    Video(RawVideo),
    /// Parity.
    Parity(RawParity),
    /// A report.
    Report(RawReport),
    /// Padding.
    Probe {
        /// Its cluster.
        cluster: u8,
        /// What follows, bytes.
        padding: usize,
    },
    /// Another path.
    PathMark {
        /// Counts changes of path.
        epoch: u8,
        /// Why.
        reason: u8,
    },
}

/// Why a datagram is no packet. It is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Of a version that we do not know: the peer is newer.
    #[error("version {0} of the packet formats is unknown")]
    Version(u8),
    /// Of a kind that we do not know: the peer is newer.
    #[error("kind {0} is unknown")]
    Kind(u8),
    /// Ends before it says all that it must.
    #[error("the packet is too short")]
    Short,
    /// A field has a value that it cannot have.
    #[error("a packet of kind {kind:?} has an impossible {field}")]
    Field {
        /// Of which kind.
        kind: Kind,
        /// Which field.
        field: &'static str,
    },
}

impl ParseError {
    /// The peer is within its rights, merely newer than we are.
    pub const fn is_newer_peer(&self) -> bool {
        matches!(self, Self::Version(_) | Self::Kind(_))
    }
}

/// Takes a datagram apart. Payloads are slices of it; nothing is copied but the entries of a report.
///
/// # Errors
/// [`ParseError`] for whatever is no packet of ours; no input panics.
pub fn parse(datagram: &Bytes) -> Result<(Header, RawBody), ParseError> {
    let first_byte = *datagram.first().ok_or(ParseError::Short)?;
    if first_byte >> 6 != VERSION {
        return Err(ParseError::Version(first_byte >> 6));
    }
    let wire_kind = (first_byte >> 3) & 7;
    let kind = Kind::from_wire(wire_kind).ok_or(ParseError::Kind(wire_kind))?;
    let mut fields = Fields::new(kind, datagram);
    let [_, stream] = fields.array()?;
    let header = Header {
        kind,
        flags: first_byte & 7,
        stream: StreamId(stream),
        sequence: fields.u16()?,
        send_time: fields.u24()?,
        age_millis: fields.u8()?,
    };
    let body = match kind {
        Kind::Audio => RawBody::Audio(audio::parse(&mut fields)?),
        Kind::Video => RawBody::Video(video::parse(&mut fields)?),
        Kind::Parity => RawBody::Parity(parity::parse(&mut fields)?),
        Kind::Report => RawBody::Report(report::parse(&mut fields)?),
        Kind::Probe => RawBody::Probe {
            cluster: fields.u8()?,
            padding: fields.left(),
        },
        Kind::PathMark => RawBody::PathMark {
            epoch: fields.u8()?,
            reason: fields.u8()?,
        },
    };
    Ok((header, body))
}

/// Reads one field of a packet after the other.
pub(super) struct Fields<'a> {
    kind: Kind,
    datagram: &'a Bytes,
    at: usize,
}

impl<'a> Fields<'a> {
    const fn new(kind: Kind, datagram: &'a Bytes) -> Self {
        Self {
            kind,
            datagram,
            at: 0,
        }
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> usize {
        self.datagram.len() - self.at
    }

    /// The next `len` bytes, as a slice of the datagram.
    pub(super) fn bytes(&mut self, len: usize) -> Result<Bytes, ParseError> {
        if len > self.left() {
            return Err(ParseError::Short);
        }
        let bytes = self.datagram.slice(self.at..self.at + len);
        self.at += len;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let rest = self.datagram.get(self.at..).ok_or(ParseError::Short)?;
        let array = *rest.first_chunk().ok_or(ParseError::Short)?;
        self.at += N;
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ParseError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u24(&mut self) -> Result<u32, ParseError> {
        self.array()
            .map(|[first, second, third]| u32::from_be_bytes([0, first, second, third]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    /// `field` must be as `possible` says.
    pub(super) fn check(&self, field: &'static str, possible: bool) -> Result<(), ParseError> {
        if possible {
            Ok(())
        } else {
            Err(ParseError::Field {
                kind: self.kind,
                field,
            })
        }
    }
}
