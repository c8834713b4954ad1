//! Landline's peer library. Peers find each other through a relay, punch through their NATs, and talk
//! over encrypted QUIC: directly where a path exists, through the relay where none does, and from one to
//! the other without a break.

mod congestion;
mod connection;
mod driver;
mod endpoint;
mod error;
mod quic;
mod socket;

pub use connection::{Connection, Stats};
pub use endpoint::{Config, Endpoint, RelayState, SocketProvider};
pub use error::{AcceptError, BindError, ConnectError, ConnectionError, DatagramError};
pub use p2p_net_proto::{
    Fingerprint, Identity, PathInfo, PathKind, PeerId, RelayAddress, Token,
};
/// Streams are quinn's own (`quinn` 0.11): the sending half.
pub use quinn::SendStream;
/// Streams are quinn's own (`quinn` 0.11): the receiving half.
pub use quinn::RecvStream;
