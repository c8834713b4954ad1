//! Sealed envelopes: HPKE auth mode (RFC 9180 §5.1.3, DHKEM X25519-HKDF-SHA256, HKDF-SHA256,
//! ChaCha20-Poly1305) between two static identities. The relay carries them and can neither read,
//! alter nor readdress them; replay is refused by the receiver's [`ReplayWindow`] over the number inside.
//!
//! The recipient's key is static, so there is no forward secrecy: whoever learns it reads the envelopes
//! sealed to it, and can also make ones that seem to come from others (RFC 9180 §9.1.1). What must outlive
//! a stolen key goes through TLS.
//!
//! [`ReplayWindow`]: crate::ReplayWindow

mod hpke;

use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::identity::agreement_key;
use crate::{Identity, IdentityError, PeerId};
use hpke::{ENCAPSULATED_LEN, TAG_LEN};

/// First part of what the seal covers besides the text.
const LABEL: &[u8] = b"landline sealed 1";
/// The number before the body.
const NUMBER_LEN: usize = 8;

/// Bytes by which an envelope is longer than its body.
pub const ENVELOPE_OVERHEAD: usize = ENCAPSULATED_LEN + NUMBER_LEN + TAG_LEN;

/// What came out of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Rises strictly per sender and recipient; the receiver checks it against its replay window.
    pub number: u64,
    /// The content.
    pub body: Vec<u8>,
}

/// Why an envelope was not made or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// One of the public keys is weak or malformed.
    #[error("the public key is weak or malformed")]
    WeakKey,
    /// Altered, truncated, sealed by somebody else, for somebody else, or for another purpose.
    #[error("the envelope does not open: it was altered or is not from the stated sender")]
    Forged,
}

impl From<IdentityError> for SealError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::WeakKey => Self::WeakKey,
        }
    }
}

/// Seals `body` from `me` to `recipient` for the purpose `kind`; an envelope of one kind cannot be passed
/// off as another. `ephemeral` is 32 fresh random bytes, never used for anything else.
///
/// # Errors
/// [`SealError::WeakKey`] for an unusable recipient.
pub fn seal(
    me: &Identity,
    recipient: &PeerId,
    kind: u16,
    number: u64,
    body: &[u8],
    ephemeral: [u8; 32],
) -> Result<Vec<u8>, SealError> {
    let ephemeral = Zeroizing::new(ephemeral);
    let mut envelope = Vec::with_capacity(ENVELOPE_OVERHEAD + body.len());
    envelope.extend_from_slice(&[0; ENCAPSULATED_LEN]);
    envelope.extend_from_slice(&number.to_be_bytes());
    envelope.extend_from_slice(body);
    let (encapsulated, tag) = hpke::seal_in_place(
        &StaticSecret::from(*ephemeral),
        &me.agreement_secret(),
        &agreement_key(recipient)?,
        &info(&me.id(), recipient, kind),
        &[],
        &mut envelope[ENCAPSULATED_LEN..],
    )
    .ok_or(SealError::WeakKey)?;
    envelope[..ENCAPSULATED_LEN].copy_from_slice(&encapsulated);
    envelope.extend_from_slice(&tag);
    Ok(envelope)
}

/// Opens what `sender` sealed to `me` for the purpose `kind`.
///
/// # Errors
/// [`SealError`] for anything that is not exactly that.
pub fn open(
    me: &Identity,
    sender: &PeerId,
    kind: u16,
    sealed: &[u8],
) -> Result<Envelope, SealError> {
    let sender_key = agreement_key(sender)?;
    let (encapsulated, sealed) = sealed.split_first_chunk().ok_or(SealError::Forged)?;
    let (text, tag) = sealed.split_last_chunk().ok_or(SealError::Forged)?;
    let mut text = text.to_vec();
    hpke::open_in_place(
        encapsulated,
        &me.agreement_secret(),
        &sender_key,
        &info(sender, &me.id(), kind),
        &[],
        &mut text,
        tag,
    )
    .ok_or(SealError::Forged)?;
    let number = *text.first_chunk().ok_or(SealError::Forged)?;
    text.drain(..NUMBER_LEN);
    Ok(Envelope {
        number: u64::from_be_bytes(number),
        body: text,
    })
}

/// `LABEL` ‖ sender ‖ recipient ‖ kind.
fn info(sender: &PeerId, recipient: &PeerId, kind: u16) -> Vec<u8> {
    [
        LABEL,
        sender.as_bytes(),
        recipient.as_bytes(),
        &kind.to_be_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use proptest::prelude::*;

    use super::*;

    const EPHEMERAL: [u8; 32] = [0x77; 32];

    fn identity(seed: u8) -> Identity {
        Identity::from_secret([seed; 32])
    }

    fn sealed(body: &[u8]) -> Vec<u8> {
        seal(&identity(1), &identity(2).id(), 5, 42, body, EPHEMERAL).expect("good keys")
    }

    #[test]
    fn the_recipient_opens_what_the_sender_sealed() {
        for body in [&b""[..], b"x", &[0xa5; 65_000]] {
            let envelope = sealed(body);
            assert_eq!(envelope.len(), body.len() + ENVELOPE_OVERHEAD);
            let opened = open(&identity(2), &identity(1).id(), 5, &envelope).expect("genuine");
            assert_eq!(
                opened,
                Envelope {
                    number: 42,
                    body: body.to_vec()
                }
            );
        }
    }

    /// Computed with an implementation of another language (Python's cryptography) from the wire page.
    #[test]
    fn envelopes_are_the_same_as_another_implementation_makes() {
        let expected = [
            "1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a67",
            "2c016e3ecc99bd896eef9d7db52027cbcd63333c63632f2735c4ffbf",
        ];
        assert_eq!(
            data_encoding::HEXLOWER.encode(&sealed(b"body")),
            expected.concat()
        );
    }

    #[test]
    fn the_text_does_not_show_and_no_two_envelopes_are_alike() {
        let body = b"a sentence that must not show";
        let envelope = sealed(body);
        assert!(
            !envelope
                .windows(8)
                .any(|window| body.windows(8).any(|part| part == window))
        );
        let again = seal(&identity(1), &identity(2).id(), 5, 42, body, [0x78; 32]).expect("good");
        assert_ne!(envelope[..32], again[..32]);
        assert_ne!(envelope[32..], again[32..]);
    }

    #[test]
    fn only_the_recipient_opens_and_only_as_the_sender_s() {
        let envelope = sealed(b"body");
        let (sender, recipient, other) = (identity(1), identity(2), identity(3));
        for (me, from) in [
            (&other, &sender),
            (&recipient, &other),
            (&recipient, &recipient),
            // Turned around: the two agree on the same static secret, but the direction is sealed in.
            (&sender, &recipient),
            (&sender, &sender),
        ] {
            assert_eq!(open(me, &from.id(), 5, &envelope), Err(SealError::Forged));
        }
        for kind in [0, 4, 6, 0x0500] {
            let result = open(&recipient, &sender.id(), kind, &envelope);
            assert_eq!(result, Err(SealError::Forged));
        }
    }

    #[test]
    fn a_sender_cannot_speak_in_anothers_name() {
        let (attacker, victim, recipient) = (identity(6), identity(1), identity(2));
        let mut text = [0; 12];
        let forged = hpke::seal_in_place(
            &StaticSecret::from(EPHEMERAL),
            &attacker.agreement_secret(),
            &agreement_key(&recipient.id()).expect("a good key"),
            &info(&victim.id(), &recipient.id(), 5),
            &[],
            &mut text,
        );
        let (encapsulated, tag) = forged.expect("good keys");
        let envelope = [&encapsulated[..], &text, &tag].concat();
        assert_eq!(
            open(&recipient, &victim.id(), 5, &envelope),
            Err(SealError::Forged)
        );
    }

    #[test]
    fn every_altered_bit_is_refused() {
        let envelope = sealed(b"body");
        let (me, from) = (identity(2), identity(1).id());
        for bit in 0..envelope.len() * 8 {
            // X25519 ignores the highest bit of a key, but the seal covers its bytes.
            let mut altered = envelope.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&me, &from, 5, &altered),
                Err(SealError::Forged),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn every_truncated_or_longer_envelope_is_refused() {
        let envelope = sealed(b"body");
        let (me, from) = (identity(2), identity(1).id());
        for length in 0..envelope.len() {
            assert_eq!(
                open(&me, &from, 5, &envelope[..length]),
                Err(SealError::Forged)
            );
        }
        let longer = [&envelope[..], &[0]].concat();
        assert_eq!(open(&me, &from, 5, &longer), Err(SealError::Forged));
    }

    #[test]
    fn a_genuine_envelope_without_a_number_is_refused() {
        let (sender, recipient) = (identity(1), identity(2));
        let mut text = [0; NUMBER_LEN - 1];
        let (encapsulated, tag) = hpke::seal_in_place(
            &StaticSecret::from(EPHEMERAL),
            &sender.agreement_secret(),
            &agreement_key(&recipient.id()).expect("a good key"),
            &info(&sender.id(), &recipient.id(), 5),
            &[],
            &mut text,
        )
        .expect("good keys");
        let envelope = [&encapsulated[..], &text, &tag].concat();
        assert_eq!(
            open(&recipient, &sender.id(), 5, &envelope),
            Err(SealError::Forged)
        );
    }

    #[test]
    fn weak_public_keys_are_refused() {
        let me = identity(1);
        for point in EIGHT_TORSION {
            let weak = PeerId::from_bytes(point.compress().to_bytes());
            let made = seal(&me, &weak, 5, 1, b"body", EPHEMERAL);
            assert_eq!(made, Err(SealError::WeakKey));
            assert_eq!(
                open(&me, &weak, 5, &sealed(b"body")),
                Err(SealError::WeakKey)
            );
            // The same as an encapsulated key.
            let mut envelope = sealed(b"body");
            envelope[..32].copy_from_slice(&point.to_montgomery().to_bytes());
            let opened = open(&identity(2), &me.id(), 5, &envelope);
            assert_eq!(opened, Err(SealError::Forged));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_judged_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            sender in any::<[u8; 32]>(),
        ) {
            prop_assert!(open(&identity(2), &identity(1).id(), 5, &bytes).is_err());
            prop_assert!(open(&identity(2), &PeerId::from_bytes(sender), 5, &bytes).is_err());
        }

        #[test]
        fn envelopes_survive_the_way(
            kind in any::<u16>(), number in any::<u64>(), ephemeral in any::<[u8; 32]>(),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let (sender, recipient) = (identity(1), identity(2));
            let envelope = seal(&sender, &recipient.id(), kind, number, &body, ephemeral).expect("good keys");
            let opened = open(&recipient, &sender.id(), kind, &envelope);
            prop_assert_eq!(opened, Ok(Envelope { number, body }));
        }
    }
}
