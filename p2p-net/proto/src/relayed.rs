//! Relayed data: the 16-byte tagged header before a sealed packet (`relay.md` §4.2), the keys that make
//! its tag, and the window that stops replay.
//!
//! Layout, big-endian: byte 0 `10` · key epoch 1 · class 2 · ECN 2 · fragment 1; 1–3 channel end; 4–7
//! counter; 8–15 SipHash-2-4 tag over bytes 0–7, the payload's length (u16) and its first 16 bytes.
//! With *fragment* set, bytes 16–17 (part of the payload as far as the relay is concerned) hold packet
//! number 12 bits, index 3 bits, last mark 1 bit.

use crate::{ChannelEnd, ChannelId};

/// Bytes before the payload.
pub const HEADER_LEN: usize = 16;
/// Label of the TLS exporter (RFC 5705) that makes header keys; see [`channel_key_context`].
pub const CHANNEL_KEY_LABEL: &[u8] = b"landline channel";

/// Which way a packet goes between a client and its relay; each has its own key and counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client to relay.
    Up,
    /// Relay to client.
    Down,
}

/// The exporter's context: channel id (u64 BE) ‖ direction (0 up, 1 down).
pub fn channel_key_context(channel: ChannelId, direction: Direction) -> [u8; 9] {
    let mut context = [0; 9];
    context[..8].copy_from_slice(&channel.0.to_be_bytes());
    context[8] = u8::from(direction == Direction::Down);
    context
}

/// A direction's 128-bit SipHash key. `Debug` hides it.
#[derive(Clone)]
pub struct HeaderKey([u8; 16]);

impl HeaderKey {
    /// Takes what the exporter gave.
    pub const fn new(key: [u8; 16]) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeaderKey(…)")
    }
}

/// What kind of traffic the sender says a packet carries; it orders the sender's own packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Sound.
    Audio = 0,
    /// Handshakes, chat, signalling.
    Control = 1,
    /// Pictures.
    Video = 2,
    /// Files.
    Bulk = 3,
}

/// The header's fields but for the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Key epoch, 0 or 1.
    pub epoch: bool,
    /// Class of the packet.
    pub class: Class,
    /// The inner packet's ECN code point, two bits.
    pub ecn: u8,
    /// Whether the payload begins with the two fragment bytes.
    pub fragment: bool,
    /// The sender's end (up) or the receiver's (down).
    pub end: ChannelEnd,
    /// Rises by one per packet, direction and epoch.
    pub counter: u32,
}

/// Why a packet is not relayed data of the channel it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Shorter than a header, or the first two bits are not `10`.
    #[error("not a relayed packet")]
    NotRelayed,
    /// The tag does not hold under this key.
    #[error("the tag of a relayed packet does not hold")]
    Tag,
}

impl Header {
    /// Reads the fields of `packet` without judging the tag.
    ///
    /// # Errors
    /// [`HeaderError::NotRelayed`].
    pub fn parse(packet: &[u8]) -> Result<Self, HeaderError> {
        let _ = packet;
        todo!()
    }

    /// Writes header and tag into the first [`HEADER_LEN`] bytes of `packet`, whose payload is in place.
    ///
    /// # Panics
    /// If `packet` is shorter than a header.
    pub fn write(&self, key: &HeaderKey, packet: &mut [u8]) {
        let _ = (key, packet);
        todo!()
    }

    /// Checks the tag of `packet`, in constant time.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn verify(key: &HeaderKey, packet: &[u8]) -> Result<Self, HeaderError> {
        let _ = (key, packet);
        todo!()
    }
}

/// Which of the last 256 counters were seen (RFC 4303 §3.4.3 in miniature); 40 bytes.
#[derive(Debug, Clone, Default)]
pub struct ReplayWindow {
    highest: u64,
    seen: [u64; 4],
    started: bool,
}

impl ReplayWindow {
    /// Width in packets.
    pub const WIDTH: u64 = 256;

    /// Whether `counter` is new and not older than the window; if so it is marked as seen. Call it only
    /// for packets that are authentic.
    pub fn accept(&mut self, counter: u64) -> bool {
        let _ = (counter, &mut self.highest, &mut self.seen, &mut self.started);
        todo!()
    }
}
