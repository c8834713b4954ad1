//! Names of things: peers are public keys; channels, sessions, paths and transactions are newtypes.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A peer's identity: its Ed25519 public key, 32 bytes; as text 52 characters of base32
/// (RFC 4648, lower case, no padding).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Takes any 32 bytes; whether they are a usable key shows when the key is used.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 characters of the text form, for people who know the peer already.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        unbase32::<32>(text).map(Self)
    }
}

/// Why a text is not a [`PeerId`], fingerprint or token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Another number of characters than the form has.
    #[error("expected {expected} characters of a-z and 2-7, got {got}")]
    Length {
        /// Characters that the form has.
        expected: usize,
        /// Characters found.
        got: usize,
    },
    /// A character outside base32's alphabet, or stray bits in the last one.
    #[error("not base32: only a-z and 2-7 are allowed")]
    Alphabet,
}

/// Base32 as RFC 4648 has it, in lower case and without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    data_encoding::BASE32_NOPAD
        .encode(bytes)
        .to_ascii_lowercase()
}

pub(crate) fn unbase32<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let expected = (N * 8).div_ceil(5);
    if text.chars().count() != expected {
        return Err(IdError::Length {
            expected,
            got: text.chars().count(),
        });
    }
    let bytes = data_encoding::BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .map_err(|_| IdError::Alphabet)?;
    bytes.try_into().map_err(|_| IdError::Alphabet)
}

/// A channel at one relay, as both its ends and the relay name it in control messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelId(pub u64);

/// One end of a channel as the packet header names it: 24 bits, 5 of core number and 19 of slot
/// (`relay.md` §4.2). The two ends of a channel have different numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelEnd(pub u32);

impl ChannelEnd {
    /// The largest number that fits the header.
    pub const MAX: u32 = 0x00ff_ffff;
}

/// One attempt of two peers to reach each other; drawn at random by the side that offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// A candidate pair within one session, numbered by the side that probes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PathId(pub u32);

/// One probe and its pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Transaction(pub u64);

/// The address that QUIC sees for a peer, whatever path its packets take: an IPv6 ULA
/// (RFC 4193) made from the key, port 1. It routes, it never identifies.
pub fn virtual_address(peer: &PeerId) -> SocketAddr {
    let hash = Sha256::new()
        .chain_update(b"landline virtual address")
        .chain_update(peer.0)
        .finalize();
    let mut octets = [0u8; 16];
    octets[..6].copy_from_slice(&VIRTUAL_PREFIX);
    octets[6..].copy_from_slice(&hash[..10]);
    SocketAddr::new(Ipv6Addr::from(octets).into(), VIRTUAL_PORT)
}

/// `fd6c:616e:646c::/48`, a ULA prefix that spells "landl".
pub(crate) const VIRTUAL_PREFIX: [u8; 6] = [0xfd, 0x6c, 0x61, 0x6e, 0x64, 0x6c];
pub(crate) const VIRTUAL_PORT: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_survive_their_text_form() {
        let id = PeerId::from_bytes([0xa5; 32]);
        let text = id.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse::<PeerId>(), Ok(id));
        assert_eq!(text.to_ascii_uppercase().parse::<PeerId>(), Ok(id));
        assert_eq!(id.short().len(), 8);
    }

    #[test]
    fn damaged_peer_ids_are_refused() {
        let text = PeerId::from_bytes([7; 32]).to_string();
        assert!(matches!(
            text[1..].parse::<PeerId>(),
            Err(IdError::Length { .. })
        ));
        assert_eq!(
            text.replacen(&text[..1], "1", 1).parse::<PeerId>(),
            Err(IdError::Alphabet)
        );
        // The last character carries 4 bits of the key and one that must be zero.
        let stray = format!("{}b", &text[..51]);
        assert_eq!(stray.parse::<PeerId>(), Err(IdError::Alphabet));
    }

    #[test]
    fn virtual_addresses_differ_between_peers() {
        let one = virtual_address(&PeerId::from_bytes([1; 32]));
        let other = virtual_address(&PeerId::from_bytes([2; 32]));
        assert_ne!(one, other);
        assert!(one.is_ipv6() && one.port() == VIRTUAL_PORT);
    }
}
