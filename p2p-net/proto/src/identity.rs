//! A peer's long-lived key pair: Ed25519 for signatures, and the X25519 key derived from it for
//! sealing and probes.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::PeerId;

/// The secret half of a peer; wiped from memory when dropped. It never leaves the machine.
pub struct Identity {
    pub(crate) signing: ed25519_dalek::SigningKey,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not a point of the curve, or of small order, so that anybody could know the secret.
    #[error("the public key is weak or malformed")]
    WeakKey,
}

impl Identity {
    /// The identity whose Ed25519 seed is `secret`; draw it from a secure source of randomness.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        Self {
            signing: ed25519_dalek::SigningKey::from_bytes(&secret),
        }
    }

    /// The seed, for storing it in a file that only its owner can read.
    pub fn secret(&self) -> [u8; 32] {
        self.signing.to_bytes()
    }

    /// The public half.
    pub fn id(&self) -> PeerId {
        PeerId::from_bytes(self.signing.verifying_key().to_bytes())
    }

    /// The X25519 secret shared with `peer` (static-static), or an error where the peer's key is
    /// weak or the result all zeros.
    ///
    /// It is the raw output of the Diffie-Hellman function: derive keys from it by HKDF, with a
    /// label and both ids, and never use it as a key itself. Wipe it after use.
    ///
    /// # Errors
    /// [`IdentityError::WeakKey`].
    pub fn shared_secret(&self, peer: &PeerId) -> Result<[u8; 32], IdentityError> {
        let shared = self
            .agreement_secret()
            .diffie_hellman(&agreement_key(peer)?);
        if !shared.was_contributory() {
            return Err(IdentityError::WeakKey);
        }
        Ok(shared.to_bytes())
    }

    /// The X25519 secret of this identity: the scalar that Ed25519 signs with (RFC 8032 §5.1.5),
    /// which X25519 clamps in the same way (RFC 7748 §5).
    pub(crate) fn agreement_secret(&self) -> StaticSecret {
        let scalar = Zeroizing::new(self.signing.to_scalar_bytes());
        StaticSecret::from(*scalar)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.id()).finish()
    }
}

/// The Ed25519 key that `peer` names.
///
/// Besides points of small order it refuses the few encodings that name a point a second time
/// (RFC 8032 §5.1.3 step 1), so that one key is one peer.
pub(crate) fn verifying_key(peer: &PeerId) -> Result<VerifyingKey, IdentityError> {
    let key = VerifyingKey::from_bytes(peer.as_bytes()).map_err(|_| IdentityError::WeakKey)?;
    let canonical = key.to_edwards().compress().to_bytes() == *peer.as_bytes();
    if key.is_weak() || !canonical {
        return Err(IdentityError::WeakKey);
    }
    Ok(key)
}

/// The X25519 public key that `peer` implies, by the birational map of RFC 7748 §4.1.
pub(crate) fn agreement_key(peer: &PeerId) -> Result<PublicKey, IdentityError> {
    Ok(PublicKey::from(
        verifying_key(peer)?.to_montgomery().to_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        let bytes = data_encoding::HEXLOWER
            .decode(hex.as_bytes())
            .expect("hexadecimal");
        bytes.try_into().expect("32 bytes")
    }

    /// RFC 8032 §7.1, tests 1 to 3: seed and public key.
    #[test]
    fn ids_are_the_public_keys_of_rfc_8032() {
        for (seed, public) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            ),
        ] {
            let identity = Identity::from_secret(bytes(seed));
            assert_eq!(identity.id(), PeerId::from_bytes(bytes(public)));
            assert_eq!(identity.secret(), bytes(seed));
        }
    }

    /// libsodium's own test of the conversion (`test/default/ed25519_convert`).
    #[test]
    fn x25519_keys_are_those_that_libsodium_derives() {
        let seed = bytes("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee");
        let secret = bytes("8052030376d47112be7f73ed7a019293dd12ad910b654455798b4667d73de166");
        let public = bytes("f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50");

        let identity = Identity::from_secret(seed);
        let clamped =
            curve25519_dalek::scalar::clamp_integer(identity.agreement_secret().to_bytes());
        assert_eq!(clamped, secret);
        assert_eq!(
            PublicKey::from(&identity.agreement_secret()).to_bytes(),
            public
        );
        assert_eq!(
            agreement_key(&identity.id())
                .expect("a good key")
                .to_bytes(),
            public
        );
    }

    #[test]
    fn weak_and_malformed_keys_are_refused() {
        let me = Identity::from_secret([1; 32]);
        for point in EIGHT_TORSION {
            let weak = PeerId::from_bytes(point.compress().to_bytes());
            assert_eq!(me.shared_secret(&weak), Err(IdentityError::WeakKey));
        }
        // y = 2 is on no point of the curve.
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert_eq!(
            me.shared_secret(&PeerId::from_bytes(off_curve)),
            Err(IdentityError::WeakKey)
        );
        // y = p + 4 names the point y = 4 a second time.
        let mut y = [0; 32];
        y[0] = 4;
        assert!(me.shared_secret(&PeerId::from_bytes(y)).is_ok());
        let mut again = [0xff; 32];
        again[0] = 0xed + 4;
        again[31] = 0x7f;
        assert_eq!(
            me.shared_secret(&PeerId::from_bytes(again)),
            Err(IdentityError::WeakKey)
        );
    }

    #[test]
    fn debug_shows_the_id_and_no_secret() {
        let identity = Identity::from_secret([0x5a; 32]);
        assert_eq!(
            format!("{identity:?}"),
            format!("Identity({})", identity.id().short())
        );
    }

    proptest! {
        #[test]
        fn both_sides_share_one_secret(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let (a, b) = (Identity::from_secret(a), Identity::from_secret(b));
            prop_assert_eq!(a.shared_secret(&b.id()), b.shared_secret(&a.id()));
            prop_assert!(a.shared_secret(&b.id()).is_ok());
        }

        #[test]
        fn any_bytes_are_judged_without_panic(key in any::<[u8; 32]>()) {
            let _ = Identity::from_secret([3; 32]).shared_secret(&PeerId::from_bytes(key));
        }
    }
}
