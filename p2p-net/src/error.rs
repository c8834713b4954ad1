//! One small error per operation: each says what happened and whose fault it is.

use std::io;

use p2p_net_proto::{Fingerprint, PeerId};

/// Why an endpoint was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The UDP port cannot be had.
    #[error("cannot open a UDP port")]
    Socket(#[source] io::Error),
    /// The identity's key cannot be used for TLS.
    #[error("the identity key cannot be used")]
    Identity(#[from] p2p_net_proto::tls::TlsSetupError),
}

/// Why a peer was not reached.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// We have no relay, or it cannot be reached now.
    #[error("the relay cannot be reached: {0}")]
    RelayUnreachable(String),
    /// The relay does not know the peer at this moment.
    #[error("{} is not online at the relay", .0.short())]
    NotOnline(PeerId),
    /// The relay refuses, in its words.
    #[error("the relay refuses: {0}")]
    Refused(String),
    /// The peer does not answer, or answers too late.
    #[error("{} does not answer", .0.short())]
    TimedOut(PeerId),
    /// Whoever answered could not prove to be the peer.
    #[error("the other side could not prove to be {}", .0.short())]
    WrongPeer(PeerId),
    /// The connection broke while it was being made.
    #[error("the connection broke while it was being made: {0}")]
    Broken(String),
    /// A peer cannot dial itself.
    #[error("this is our own id")]
    Ourselves,
    /// The endpoint is closed.
    #[error("the endpoint is closed")]
    Closed,
}

/// Why the relay is not there, as [`crate::RelayState`] tells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It presents another key than the one in its address or remembered.
    #[error("the relay presented another key ({}) than the expected one", .presented.map_or_else(|| "unknown".to_owned(), |f| f.to_string()))]
    WrongKey {
        /// The fingerprint that it presented.
        presented: Option<Fingerprint>,
    },
    /// Its address names no key and no web authority vouches for it.
    #[error("the relay's key ({}) is not known", .presented.map_or_else(|| "unknown".to_owned(), |f| f.to_string()))]
    UnknownKey {
        /// The fingerprint that it presented, to be confirmed by the user.
        presented: Option<Fingerprint>,
    },
    /// It refuses the login: `p2p_net_proto::wire::reason` and its sentence.
    #[error("{message}")]
    Refused {
        /// The code.
        code: u16,
        /// The sentence.
        message: String,
    },
    /// Its name does not resolve, or nothing answers there.
    #[error("{0}")]
    Unreachable(String),
    /// The same identity logged in elsewhere.
    #[error("the same identity logged in from another place")]
    Replaced,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer closed it.
    #[error("closed by the peer ({code}): {reason}")]
    ClosedByPeer {
        /// Application code.
        code: u32,
        /// In the peer's words.
        reason: String,
    },
    /// We closed it.
    #[error("closed by us")]
    ClosedByUs,
    /// Nothing came for too long.
    #[error("the connection timed out")]
    TimedOut,
    /// A newer connection of the same peer took its place.
    #[error("replaced by a newer connection of the same peer")]
    Superseded,
    /// Something against the rules of QUIC or TLS.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Why a datagram was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// Larger than [`crate::Connection::max_datagram_size`].
    #[error("the datagram is too large")]
    TooLarge,
    /// Its first two bits are `11`, which p2p-net keeps for itself.
    #[error("datagrams that begin with the bits 11 are reserved")]
    Reserved,
    /// The connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}
