//! STUN Binding (RFC 8489): requests parsed, answers built, and the other way round for clients.
//! An answer is 32 (IPv4) or 44 (IPv6) bytes for a request of 20: XOR-MAPPED-ADDRESS alone.

use std::net::SocketAddr;

/// Why bytes are not a Binding message that we handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// Not STUN: length, magic cookie or attribute lengths do not fit.
    #[error("not a STUN message")]
    Malformed,
    /// Another method or class than the one asked for.
    #[error("not the expected STUN message")]
    Unexpected,
    /// Carries comprehension-required attributes that we do not know (RFC 8489 §5: answered with 420 by
    /// full servers, dropped by us, since the answer would be longer than the question).
    #[error("unknown comprehension-required attribute {0:#06x}")]
    UnknownAttribute(u16),
}

/// The transaction of a Binding request.
///
/// # Errors
/// [`StunError`].
pub fn parse_request(packet: &[u8]) -> Result<[u8; 12], StunError> {
    let _ = packet;
    todo!()
}

/// The Binding success response that tells `observed` (v4-mapped IPv6 is told as IPv4).
pub fn answer(transaction: [u8; 12], observed: SocketAddr) -> Vec<u8> {
    let _ = (transaction, observed);
    todo!()
}

/// A Binding request without attributes: 20 bytes.
pub fn request(transaction: [u8; 12]) -> Vec<u8> {
    let _ = transaction;
    todo!()
}

/// Transaction and mapped address of a Binding success response.
///
/// # Errors
/// [`StunError`].
pub fn parse_answer(packet: &[u8]) -> Result<([u8; 12], SocketAddr), StunError> {
    let _ = packet;
    todo!()
}
