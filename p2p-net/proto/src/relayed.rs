//! Relayed data: the 16-byte tagged header before a sealed packet (`relay.md` §4.2), the keys that
//! make its tag, and the window that stops replay.
//!
//! Layout, big-endian: byte 0 `10` · key epoch 1 · class 2 · ECN 2 · fragment 1; 1–3 channel end;
//! 4–7 counter; 8–15 SipHash-2-4 tag over bytes 0–7, the payload's length (u16) and its first 16
//! bytes. With *fragment* set, bytes 16–17 (part of the payload as far as the relay is concerned)
//! hold packet number 12 bits, index 3 bits, last mark 1 bit.

use siphasher::sip::SipHasher24;
use subtle::ConstantTimeEq;

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

    /// SipHash-2-4 of `bytes`, big-endian.
    pub(crate) fn tag(&self, bytes: &[u8]) -> [u8; 8] {
        SipHasher24::new_with_key(&self.0).hash(bytes).to_be_bytes()
    }

    /// Whether `tag` is that of `bytes`, in constant time.
    pub(crate) fn holds(&self, bytes: &[u8], tag: &[u8]) -> bool {
        self.tag(bytes).ct_eq(tag).into()
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
        let Some((&[first, e0, e1, e2, c0, c1, c2, c3], _)) = packet.split_first_chunk::<8>()
        else {
            return Err(HeaderError::NotRelayed);
        };
        if packet.len() < HEADER_LEN || first & 0xc0 != 0x80 {
            return Err(HeaderError::NotRelayed);
        }
        Ok(Self {
            epoch: first & 0x20 != 0,
            class: Class::from_bits(first >> 3),
            ecn: (first >> 1) & 3,
            fragment: first & 1 != 0,
            end: ChannelEnd(u32::from_be_bytes([0, e0, e1, e2])),
            counter: u32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    /// Writes header and tag into the first [`HEADER_LEN`] bytes of `packet`, whose payload is in
    /// place. Bits that do not fit their field (of `ecn`, of `end`) are cut off.
    ///
    /// # Panics
    /// If `packet` is shorter than a header.
    pub fn write(&self, key: &HeaderKey, packet: &mut [u8]) {
        let [_, e0, e1, e2] = self.end.0.to_be_bytes();
        packet[0] = 0x80
            | u8::from(self.epoch) << 5
            | (self.class as u8) << 3
            | (self.ecn & 3) << 1
            | u8::from(self.fragment);
        packet[1..4].copy_from_slice(&[e0, e1, e2]);
        packet[4..8].copy_from_slice(&self.counter.to_be_bytes());
        let (covered, len) = covered(packet);
        packet[8..HEADER_LEN].copy_from_slice(&key.tag(&covered[..len]));
    }

    /// Checks the tag of `packet`, in constant time.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn verify(key: &HeaderKey, packet: &[u8]) -> Result<Self, HeaderError> {
        let header = Self::parse(packet)?;
        let (covered, len) = covered(packet);
        if key.holds(&covered[..len], &packet[8..HEADER_LEN]) {
            Ok(header)
        } else {
            Err(HeaderError::Tag)
        }
    }

    /// The counter with the epoch as its 33rd bit: what a [`ReplayWindow`] takes. One key serves
    /// both epochs, since the tag covers the epoch bit; after 2^33 packets a channel must be opened
    /// anew.
    pub const fn extended_counter(&self) -> u64 {
        (self.epoch as u64) << 32 | self.counter as u64
    }
}

impl Class {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Audio,
            1 => Self::Control,
            2 => Self::Video,
            _ => Self::Bulk,
        }
    }
}

/// What the tag of `packet` covers, in the first bytes of a buffer: header fields, payload length,
/// and up to 16 bytes of the payload.
fn covered(packet: &[u8]) -> ([u8; 26], usize) {
    let payload = &packet[HEADER_LEN..];
    let head = &payload[..payload.len().min(16)];
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut bytes = [0; 26];
    bytes[..8].copy_from_slice(&packet[..8]);
    bytes[8..10].copy_from_slice(&length.to_be_bytes());
    bytes[10..10 + head.len()].copy_from_slice(head);
    (bytes, 10 + head.len())
}

/// Which of the last 256 counters were seen (RFC 4303 §3.4.3 in miniature); 48 bytes.
#[derive(Debug, Clone, Default)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit `c % 256` stands for counter `c` of the window.
    seen: [u64; 4],
    started: bool,
}

impl ReplayWindow {
    /// Width in packets.
    pub const WIDTH: u64 = 256;

    /// Whether `counter` is new and not older than the window; if so it is marked as seen. Call it
    /// only for packets that are authentic.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if !self.started || counter > self.highest {
            self.advance(counter);
        }
        let (word, mask) = Self::place(counter);
        self.seen[word] |= mask;
        true
    }

    /// Whether [`ReplayWindow::accept`] would take `counter`; marks nothing.
    pub fn is_new(&self, counter: u64) -> bool {
        if !self.started || counter > self.highest {
            return true;
        }
        let (word, mask) = Self::place(counter);
        self.highest - counter < Self::WIDTH && self.seen[word] & mask == 0
    }

    fn advance(&mut self, counter: u64) {
        if !self.started || counter - self.highest >= Self::WIDTH {
            self.seen = [0; 4];
        } else {
            for passed in self.highest + 1..=counter {
                let (word, mask) = Self::place(passed);
                self.seen[word] &= !mask;
            }
        }
        self.started = true;
        self.highest = counter;
    }

    const fn place(counter: u64) -> (usize, u64) {
        ((counter / 64 % 4) as usize, 1 << (counter % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: HeaderKey = HeaderKey::new([7; 16]);

    fn header() -> Header {
        Header {
            epoch: true,
            class: Class::Video,
            ecn: 2,
            fragment: false,
            end: ChannelEnd(0x0a_bc_de),
            counter: 0x01_02_03_04,
        }
    }

    #[test]
    fn the_hash_is_siphash_2_4() {
        // The example of the SipHash paper, appendix A.
        let key = HeaderKey::new(std::array::from_fn(|i| i as u8));
        let message: [u8; 15] = std::array::from_fn(|i| i as u8);
        assert_eq!(key.tag(&message), 0xa129_ca61_49be_45e5_u64.to_be_bytes());
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut packet = [0u8; HEADER_LEN + 3];
        packet[HEADER_LEN..].copy_from_slice(b"abc");
        header().write(&KEY, &mut packet);
        assert_eq!(packet[..8], [0b1011_0100, 0x0a, 0xbc, 0xde, 1, 2, 3, 4]);
        let covered = [
            0b1011_0100,
            0x0a,
            0xbc,
            0xde,
            1,
            2,
            3,
            4,
            0,
            3,
            b'a',
            b'b',
            b'c',
        ];
        assert_eq!(packet[8..HEADER_LEN], KEY.tag(&covered));
        assert_eq!(Header::verify(&KEY, &packet), Ok(header()));
        assert_eq!(header().extended_counter(), 0x1_0102_0304);
    }

    #[test]
    fn short_and_foreign_packets_are_not_relayed_data() {
        assert_eq!(Header::parse(&[]), Err(HeaderError::NotRelayed));
        assert_eq!(
            Header::parse(&[0x80; HEADER_LEN - 1]),
            Err(HeaderError::NotRelayed)
        );
        assert_eq!(
            Header::parse(&[0x40; HEADER_LEN]),
            Err(HeaderError::NotRelayed)
        );
        assert_eq!(
            Header::parse(&[0xc0; HEADER_LEN]),
            Err(HeaderError::NotRelayed)
        );
        assert!(Header::parse(&[0x80; HEADER_LEN]).is_ok());
    }

    #[test]
    fn every_covered_bit_matters_and_the_length_too() {
        let mut packet = vec![0x5a; HEADER_LEN + 40];
        header().write(&KEY, &mut packet);
        for bit in 2..(HEADER_LEN + 16) * 8 {
            let mut altered = packet.clone();
            altered[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(
                Header::verify(&KEY, &altered),
                Err(HeaderError::Tag),
                "bit {bit}"
            );
        }
        assert_eq!(
            Header::verify(&KEY, &packet[..packet.len() - 1]),
            Err(HeaderError::Tag)
        );
        assert_eq!(
            Header::verify(&HeaderKey::new([8; 16]), &packet),
            Err(HeaderError::Tag)
        );
    }

    #[test]
    fn a_fresh_window_takes_any_first_counter() {
        for first in [0, 1, 255, 256, u64::MAX] {
            let mut window = ReplayWindow::default();
            assert!(window.accept(first));
            assert!(!window.accept(first));
        }
    }

    fn class() -> impl Strategy<Value = Class> {
        prop::sample::select(vec![
            Class::Audio,
            Class::Control,
            Class::Video,
            Class::Bulk,
        ])
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire(
            epoch: bool, class in class(), ecn in 0u8..4, fragment: bool,
            end in 0..=ChannelEnd::MAX, counter: u32, payload: Vec<u8>, key: [u8; 16],
        ) {
            let header = Header { epoch, class, ecn, fragment, end: ChannelEnd(end), counter };
            let mut packet = vec![0; HEADER_LEN];
            packet.extend(&payload);
            header.write(&HeaderKey::new(key), &mut packet);
            prop_assert_eq!(crate::classify(&packet), crate::PacketKind::Relayed);
            prop_assert_eq!(Header::verify(&HeaderKey::new(key), &packet), Ok(header));
            prop_assert_eq!(&packet[HEADER_LEN..], &payload[..]);
        }

        #[test]
        fn arbitrary_packets_are_never_accepted_and_never_panic(packet: Vec<u8>, key: [u8; 16]) {
            // A forgery succeeds once in 2^64; a test does not see it.
            prop_assert!(Header::verify(&HeaderKey::new(key), &packet).is_err());
        }

        #[test]
        fn the_window_agrees_with_a_plain_set(
            start in prop_oneof![Just(0u64), any::<u64>().prop_map(|n| n >> 1)],
            steps in prop::collection::vec(prop_oneof![
                8 => -3i64..4,
                4 => -300i64..300,
                1 => -2_000i64..2_000,
            ], 1..600),
        ) {
            let (mut window, mut seen, mut highest) = (ReplayWindow::default(), BTreeSet::new(), None);
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                let fresh = !seen.contains(&at)
                    && highest.is_none_or(|top: u64| at > top || top - at < ReplayWindow::WIDTH);
                prop_assert_eq!(window.is_new(at), fresh);
                prop_assert_eq!(window.accept(at), fresh);
                if fresh {
                    seen.insert(at);
                    highest = highest.max(Some(at));
                }
            }
        }
    }
}
