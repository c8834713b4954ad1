//! A peer's long-lived key pair: Ed25519 for signatures, and the X25519 key derived from it for
//! sealing and probes (`design.md` §2).

use crate::PeerId;

/// The secret half of a peer; wiped from memory when dropped. It never leaves the machine.
pub struct Identity {
    pub(crate) signing: ed25519_dalek::SigningKey,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not a point of the curve, or of small order, so that anybody could know the secret.
    #[error("the public key is weak or malformed")]
    WeakKey,
}

impl Identity {
    /// The identity whose Ed25519 seed is `secret`; draw it from a secure source of randomness.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self { signing: ed25519_dalek::SigningKey::from_bytes(&secret) }
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
    /// # Errors
    /// [`IdentityError::WeakKey`].
    pub fn shared_secret(&self, peer: &PeerId) -> Result<[u8; 32], IdentityError> {
        let _ = peer;
        todo!()
    }
}
