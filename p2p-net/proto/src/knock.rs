//! Knocks: Offer and Answer between two peers without a relay, on one LAN or at a known address, in a UDP
//! packet each; and the names under which peers are found on a LAN.
//!
//! 512 bytes, always: 0 kind (0x23) · 1–3 zero · 4–35 ephemeral X25519 key · 36–511 sealed body with its tag.
//! The body: sender 32 · unix seconds 8 · kind of the envelope 2 · its length 2 · the envelope, as a relay
//! would carry it · zeros. Who does not have the recipient's key learns nothing, not even whose knock it is; who
//! has it can knock, and gets no answer unless the envelope proves an accepted contact. Question and answer are
//! equally long.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::identity::agreement_key;
use crate::{Identity, PeerId};

/// First byte of a knock.
pub const KNOCK: u8 = 0x23;
/// Bytes of every knock.
pub const KNOCK_LEN: usize = 512;
/// Knocks of clocks that differ from ours by more than this are dropped, seconds: who has recorded one cannot
/// find us by it later. As tolerant as the names, which change each day.
pub const KNOCK_TOLERANCE_SECS: u64 = 86_400;

const HEADER_LEN: usize = 4;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const BODY_AT: usize = HEADER_LEN + KEY_LEN;
const BODY_LEN: usize = KNOCK_LEN - BODY_AT - TAG_LEN;
/// Before the envelope: sender, time, kind, length.
const PREFIX_LEN: usize = 32 + 8 + 2 + 2;
/// The longest envelope that a knock carries, bytes: an Offer of ten candidates has 300.
pub const MAX_KNOCK_ENVELOPE: usize = BODY_LEN - PREFIX_LEN;

const LABEL: &[u8] = b"landline knock 1";
const NAME_LABEL: &[u8] = b"landline lan name 1";
/// A name's length before its text form, bytes: enough that no two coincide.
const NAME_LEN: usize = 16;

/// What a knock says; nothing of it is proven before the envelope opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// Who claims to have sent it.
    pub from: PeerId,
    /// When, by the sender's clock, seconds since 1970.
    pub unix_secs: u64,
    /// The kind of the envelope, see [`crate::wire::signal`].
    pub kind: u16,
    /// The envelope.
    pub sealed: Vec<u8>,
}

impl Knock {
    /// Whether it was made about now.
    pub fn is_recent(&self, unix_secs: u64) -> bool {
        self.unix_secs.abs_diff(unix_secs) <= KNOCK_TOLERANCE_SECS
    }

    /// Seals it to `recipient`. `ephemeral` is 32 fresh random bytes, never used for anything else. `None`
    /// where the recipient's key is weak or the envelope is too long.
    pub fn seal(&self, recipient: &PeerId, ephemeral: [u8; 32]) -> Option<[u8; KNOCK_LEN]> {
        if self.sealed.len() > MAX_KNOCK_ENVELOPE {
            return None;
        }
        let ephemeral = StaticSecret::from(ephemeral);
        let key = PublicKey::from(&ephemeral);
        let shared = ephemeral.diffie_hellman(&agreement_key(recipient).ok()?);
        let cipher = cipher(&shared, &key, recipient)?;
        let mut packet = [0; KNOCK_LEN];
        packet[0] = KNOCK;
        packet[HEADER_LEN..BODY_AT].copy_from_slice(key.as_bytes());
        let (header, body) = packet.split_at_mut(BODY_AT);
        let (text, tag) = body.split_at_mut(BODY_LEN);
        text[..32].copy_from_slice(self.from.as_bytes());
        text[32..40].copy_from_slice(&self.unix_secs.to_be_bytes());
        text[40..42].copy_from_slice(&self.kind.to_be_bytes());
        let len = u16::try_from(self.sealed.len()).ok()?;
        text[42..PREFIX_LEN].copy_from_slice(&len.to_be_bytes());
        text[PREFIX_LEN..PREFIX_LEN + self.sealed.len()].copy_from_slice(&self.sealed);
        let made = cipher
            .encrypt_inout_detached(&Nonce::default(), header, text.into())
            .ok()?;
        tag.copy_from_slice(&made);
        Some(packet)
    }

    /// Opens a knock to `me`; `None` for anything else.
    pub fn open(me: &Identity, packet: &[u8]) -> Option<Self> {
        let packet: &[u8; KNOCK_LEN] = packet.try_into().ok()?;
        if packet[..HEADER_LEN] != [KNOCK, 0, 0, 0] {
            return None;
        }
        let (header, body) = packet.split_at(BODY_AT);
        let (text, tag) = body.split_at(BODY_LEN);
        let key: [u8; KEY_LEN] = header[HEADER_LEN..].try_into().ok()?;
        let key = PublicKey::from(key);
        let shared = me.agreement_secret().diffie_hellman(&key);
        let cipher = cipher(&shared, &key, &me.id())?;
        let mut text: [u8; BODY_LEN] = text.try_into().ok()?;
        cipher
            .decrypt_inout_detached(
                &Nonce::default(),
                header,
                text.as_mut_slice().into(),
                &Tag::try_from(tag).ok()?,
            )
            .ok()?;
        let from: [u8; 32] = text[..32].try_into().ok()?;
        let unix_secs = u64::from_be_bytes(text[32..40].try_into().ok()?);
        let kind = u16::from_be_bytes(text[40..42].try_into().ok()?);
        let len = u16::from_be_bytes(text[42..PREFIX_LEN].try_into().ok()?);
        let sealed = text.get(PREFIX_LEN..PREFIX_LEN + usize::from(len))?;
        Some(Self {
            from: PeerId::from_bytes(from),
            unix_secs,
            kind,
            sealed: sealed.to_vec(),
        })
    }
}

/// The key is used once, since the ephemeral one is: the nonce is zero. `None` for a key of small order.
fn cipher(
    shared: &x25519_dalek::SharedSecret,
    ephemeral: &PublicKey,
    recipient: &PeerId,
) -> Option<ChaCha20Poly1305> {
    if !shared.was_contributory() {
        return None;
    }
    let salt = [&ephemeral.as_bytes()[..], recipient.as_bytes()].concat();
    let hkdf = Hkdf::<Sha256>::new(Some(&salt), shared.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    hkdf.expand(LABEL, key.as_mut_slice()).ok()?;
    Some(ChaCha20Poly1305::new((&*key).into()))
}

/// The day of a clock, from which names are made.
pub fn lan_day(unix_secs: u64) -> u64 {
    unix_secs / 86_400
}

/// The name under which `peer` is found on a LAN on one day: 26 characters that say nothing to who does not
/// know the peer's id, and nothing about the next day.
pub fn lan_name(peer: &PeerId, day: u64) -> String {
    let hash = Sha256::new()
        .chain_update(NAME_LABEL)
        .chain_update(day.to_be_bytes())
        .chain_update(peer.as_bytes())
        .finalize();
    data_encoding::BASE32_NOPAD
        .encode(&hash[..NAME_LEN])
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::from_secret([seed; 32])
    }

    fn knock(envelope: usize) -> Knock {
        Knock {
            from: identity(1).id(),
            unix_secs: 1_800_000_000,
            kind: 1,
            sealed: vec![0xa5; envelope],
        }
    }

    fn sealed(envelope: usize) -> [u8; KNOCK_LEN] {
        let packet = knock(envelope).seal(&identity(2).id(), [0x77; 32]);
        packet.expect("a good key")
    }

    #[test]
    fn the_recipient_opens_it_and_nobody_else() {
        for envelope in [0, 1, 300, MAX_KNOCK_ENVELOPE] {
            let packet = sealed(envelope);
            assert_eq!(Knock::open(&identity(2), &packet), Some(knock(envelope)));
            assert_eq!(Knock::open(&identity(1), &packet), None);
            assert_eq!(Knock::open(&identity(3), &packet), None);
        }
        let long = knock(MAX_KNOCK_ENVELOPE + 1);
        assert_eq!(long.seal(&identity(2).id(), [1; 32]), None);
    }

    #[test]
    fn whose_it_is_does_not_show() {
        let packet = sealed(300);
        let id = identity(1).id();
        let shows = |part: &[u8]| {
            packet
                .windows(8)
                .any(|window| part.windows(8).any(|p| p == window))
        };
        assert!(!shows(id.as_bytes()) && !shows(&[0xa5; 300]));
        assert_eq!(crate::classify(&packet), crate::PacketKind::Peer);
        assert_eq!(crate::probe::key_id(&packet), None, "no probe");
    }

    #[test]
    fn nothing_that_was_altered_opens() {
        let packet = sealed(64);
        for at in 0..KNOCK_LEN {
            let mut altered = packet;
            altered[at] ^= 1;
            // RFC 7748 §5: the last bit of a public key is ignored, but here it is part of the salt.
            assert_eq!(Knock::open(&identity(2), &altered), None, "byte {at}");
        }
        for len in [0, 1, 36, KNOCK_LEN - 1] {
            assert_eq!(Knock::open(&identity(2), &packet[..len]), None);
        }
        assert_eq!(
            Knock::open(&identity(2), &[&packet[..], &[0]].concat()),
            None
        );
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        let mut packet = sealed(0);
        packet[HEADER_LEN..BODY_AT].fill(0);
        assert_eq!(Knock::open(&identity(2), &packet), None);
        let nobody = PeerId::from_bytes([0; 32]);
        assert_eq!(knock(0).seal(&nobody, [1; 32]), None);
    }

    #[test]
    fn old_knocks_are_told_from_new_ones() {
        let knock = knock(0);
        let day = KNOCK_TOLERANCE_SECS;
        assert!(knock.is_recent(1_800_000_000 - day) && knock.is_recent(1_800_000_000 + day));
        assert!(!knock.is_recent(1_800_000_000 - day - 1) && !knock.is_recent(u64::MAX));
    }

    #[test]
    fn names_change_each_day_and_with_each_peer() {
        let (one, other) = (identity(1).id(), identity(2).id());
        let today = lan_name(&one, 20_000);
        assert_eq!(today.len(), 26);
        assert_eq!(today, lan_name(&one, 20_000));
        assert_ne!(today, lan_name(&one, 20_001));
        assert_ne!(today, lan_name(&other, 20_000));
        assert!(!one.to_string().contains(&today[..8]));
        assert_eq!(lan_day(86_399), 0);
        assert_eq!(lan_day(86_400), 1);
    }

    proptest! {
        #[test]
        fn rubbish_does_not_open(mut packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(Knock::open(&identity(2), &packet), None);
            packet.resize(KNOCK_LEN, 0);
            packet[..4].copy_from_slice(&[KNOCK, 0, 0, 0]);
            prop_assert_eq!(Knock::open(&identity(2), &packet), None);
        }
    }
}
