//! Sealed envelopes: HPKE auth mode (RFC 9180 §5.1.3, DHKEM X25519-HKDF-SHA256, HKDF-SHA256,
//! ChaCha20-Poly1305) between two static identities. The relay carries them and can neither read,
//! alter nor readdress them; replay is refused by the receiver's [`ReplayWindow`] over the number inside.
//!
//! [`ReplayWindow`]: crate::ReplayWindow

use crate::{Identity, PeerId};

/// What an envelope is for; part of what the seal covers (`info` = label ‖ sender ‖ recipient ‖ kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Who sealed it.
    pub sender: PeerId,
    /// Who may open it.
    pub recipient: PeerId,
    /// The kind of content, so that an envelope of one kind cannot be passed off as another.
    pub kind: u16,
}

/// What came out of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Rises strictly per sender and recipient; the receiver checks it against its replay window.
    pub number: u64,
    /// The content.
    pub body: Vec<u8>,
}

/// Why an envelope was not made or not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// One of the public keys is weak or malformed.
    #[error("the public key is weak or malformed")]
    WeakKey,
    /// Altered, truncated, sealed by somebody else, for somebody else, or for another purpose.
    #[error("the envelope does not open: it was altered or is not from the stated sender")]
    Forged,
}

/// Seals `body` from `me` to `context.recipient`; `ephemeral` is 32 fresh random bytes.
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
    let _ = (me, recipient, kind, number, body, ephemeral);
    todo!()
}

/// Opens what `sender` sealed to `me` for the purpose `kind`.
///
/// # Errors
/// [`SealError`] for anything that is not exactly that.
pub fn open(me: &Identity, sender: &PeerId, kind: u16, sealed: &[u8]) -> Result<Envelope, SealError> {
    let _ = (me, sender, kind, sealed);
    todo!()
}
