//! The small packets between client and relay outside QUIC, first byte 0x30–0x3F (`wire.md` §2).
//!
//! | kind | way | layout |
//! |---|---|---|
//! | 0x30 challenge | relay → client | kind, channel end 3, nonce 8, tag 8 under the end's *down* key: 20 bytes |
//! | 0x31 answer | client → relay | the same with the same nonce, under the *up* key: 20 bytes |
//! | 0x32 no channel | relay → client | kind, channel end 3: 4 bytes, unauthenticated |
//!
//! A challenge goes to the address from which authentic relayed data came although the end is bound
//! to another; whoever answers it holds the channel's keys and can receive there, so the end moves
//! to that address. "No channel" answers relayed data whose end the relay does not know, as it is
//! after a restart: anybody can forge it, so it is a reason to ask over the control connection, and
//! nothing more.

use crate::ChannelEnd;
use crate::relayed::{HeaderError, HeaderKey};

/// Bytes of a challenge and of its answer.
pub const CHALLENGE_LEN: usize = 20;
/// Bytes of a [`Nudge::NoChannel`].
pub const NO_CHANNEL_LEN: usize = 4;

const CHALLENGE: u8 = 0x30;
const ANSWER: u8 = 0x31;
const NO_CHANNEL: u8 = 0x32;
/// Where the tag begins, which covers all before it.
const TAG_AT: usize = 12;

/// One such packet, its tag not yet judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nudge {
    /// Relay to client: answer if you hold this channel's keys.
    Challenge {
        /// The client's end.
        end: ChannelEnd,
        /// To be repeated.
        nonce: [u8; 8],
    },
    /// Client to relay: the answer.
    Answer {
        /// The client's end.
        end: ChannelEnd,
        /// From the challenge.
        nonce: [u8; 8],
    },
    /// Relay to client: no channel has this end here. A hint that anybody can forge.
    NoChannel {
        /// The end that the client used.
        end: ChannelEnd,
    },
}

impl Nudge {
    /// Reads `packet` without judging its tag; `None` for other kinds and lengths.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (&[kind, e0, e1, e2], rest) = packet.split_first_chunk::<4>()?;
        let end = ChannelEnd(u32::from_be_bytes([0, e0, e1, e2]));
        match (kind, packet.len()) {
            (CHALLENGE, CHALLENGE_LEN) => Some(Self::Challenge {
                end,
                nonce: *rest.first_chunk()?,
            }),
            (ANSWER, CHALLENGE_LEN) => Some(Self::Answer {
                end,
                nonce: *rest.first_chunk()?,
            }),
            (NO_CHANNEL, NO_CHANNEL_LEN) => Some(Self::NoChannel { end }),
            _ => None,
        }
    }
}

/// Checks the tag of a challenge (under the *down* key) or of an answer (under the *up* key), in
/// constant time.
///
/// # Errors
/// [`HeaderError::NotRelayed`] for another length, [`HeaderError::Tag`].
pub fn verify(key: &HeaderKey, packet: &[u8]) -> Result<(), HeaderError> {
    if packet.len() != CHALLENGE_LEN {
        return Err(HeaderError::NotRelayed);
    }
    let (covered, tag) = packet.split_at(TAG_AT);
    if key.holds(covered, tag) {
        Ok(())
    } else {
        Err(HeaderError::Tag)
    }
}

/// A challenge, tagged under the end's down key.
pub fn challenge(end: ChannelEnd, nonce: [u8; 8], down: &HeaderKey) -> [u8; CHALLENGE_LEN] {
    tagged(CHALLENGE, end, nonce, down)
}

/// The answer to a challenge, tagged under the end's up key.
pub fn answer(end: ChannelEnd, nonce: [u8; 8], up: &HeaderKey) -> [u8; CHALLENGE_LEN] {
    tagged(ANSWER, end, nonce, up)
}

/// The hint that no channel has `end`.
pub fn no_channel(end: ChannelEnd) -> [u8; NO_CHANNEL_LEN] {
    let [_, e0, e1, e2] = end.0.to_be_bytes();
    [NO_CHANNEL, e0, e1, e2]
}

fn tagged(kind: u8, end: ChannelEnd, nonce: [u8; 8], key: &HeaderKey) -> [u8; CHALLENGE_LEN] {
    let [_, e0, e1, e2] = end.0.to_be_bytes();
    let mut packet = [0; CHALLENGE_LEN];
    packet[..4].copy_from_slice(&[kind, e0, e1, e2]);
    packet[4..TAG_AT].copy_from_slice(&nonce);
    let tag = key.tag(&packet[..TAG_AT]);
    packet[TAG_AT..].copy_from_slice(&tag);
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: ChannelEnd = ChannelEnd(0x01_02_03);

    #[test]
    fn challenge_and_answer_prove_the_key_of_their_direction() {
        let (up, down) = (HeaderKey::new([1; 16]), HeaderKey::new([2; 16]));
        let asked = challenge(END, [9; 8], &down);
        assert_eq!(asked[..12], [0x30, 1, 2, 3, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert_eq!(
            Nudge::parse(&asked),
            Some(Nudge::Challenge {
                end: END,
                nonce: [9; 8]
            })
        );
        assert_eq!(verify(&down, &asked), Ok(()));
        assert_eq!(verify(&up, &asked), Err(HeaderError::Tag));
        let answered = answer(END, [9; 8], &up);
        assert_eq!(
            Nudge::parse(&answered),
            Some(Nudge::Answer {
                end: END,
                nonce: [9; 8]
            })
        );
        assert_eq!(verify(&up, &answered), Ok(()));
        // Even under one key a challenge is no answer.
        let mut reflected = challenge(END, [9; 8], &up);
        reflected[0] = answered[0];
        assert_eq!(verify(&up, &reflected), Err(HeaderError::Tag));
    }

    #[test]
    fn every_bit_of_a_challenge_matters() {
        let key = HeaderKey::new([3; 16]);
        let packet = challenge(END, [4; 8], &key);
        for bit in 0..CHALLENGE_LEN * 8 {
            let mut altered = packet;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&key, &altered), Err(HeaderError::Tag), "bit {bit}");
        }
        assert_eq!(verify(&key, &packet[..19]), Err(HeaderError::NotRelayed));
    }

    #[test]
    fn the_hint_is_four_bytes() {
        assert_eq!(no_channel(END), [0x32, 1, 2, 3]);
        assert_eq!(
            Nudge::parse(&no_channel(END)),
            Some(Nudge::NoChannel { end: END })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(packet: Vec<u8>, key: [u8; 16]) {
            let _ = Nudge::parse(&packet);
            prop_assert!(verify(&HeaderKey::new(key), &packet).is_err());
        }
    }
}
