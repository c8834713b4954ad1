//! What a UDP payload is, by its first byte (`wire.md` §2, in the manner of RFC 9443).

/// The five kinds of payload on the one port, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// STUN (RFC 8489).
    Stun,
    /// Between peers, outside QUIC: probe, pong, opener, knock.
    Peer,
    /// Between client and relay, outside QUIC: challenge and its answer, hints.
    Relay,
    /// A QUIC packet.
    Quic,
    /// Relayed data with its 16-byte header.
    Relayed,
    /// Counted and dropped.
    Unknown,
}

/// Classifies a payload; an empty one is [`PacketKind::Unknown`].
pub fn classify(payload: &[u8]) -> PacketKind {
    match payload.first() {
        Some(0x00..=0x03) => PacketKind::Stun,
        Some(0x20..=0x2f) => PacketKind::Peer,
        Some(0x30..=0x3f) => PacketKind::Relay,
        Some(0x40..=0x7f | 0xc0..=0xff) => PacketKind::Quic,
        Some(0x80..=0xbf) => PacketKind::Relayed,
        _ => PacketKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_one_kind() {
        let ranges = [
            (0x00..=0x03, PacketKind::Stun),
            (0x04..=0x1f, PacketKind::Unknown),
            (0x20..=0x2f, PacketKind::Peer),
            (0x30..=0x3f, PacketKind::Relay),
            (0x40..=0x7f, PacketKind::Quic),
            (0x80..=0xbf, PacketKind::Relayed),
            (0xc0..=0xff, PacketKind::Quic),
        ];
        for (range, kind) in ranges {
            for byte in range {
                assert_eq!(classify(&[byte, 1, 2]), kind, "{byte:#04x}");
            }
        }
        assert_eq!(classify(&[]), PacketKind::Unknown);
    }
}
