//! Landline's peer library. Peers find each other through a relay, punch through their NATs, and talk
//! over encrypted QUIC: directly where a path exists, through the relay where none does, and from one to
//! the other without a break.

// What programs see.
mod connection;
mod endpoint;
mod error;

// The data path.
mod congestion;
mod duplicate;
mod extra;
mod link;
mod rate;
mod socket;
#[cfg(test)]
mod socket_tests;
mod sort;
mod system;

// What decides, and what is said to the relay.
mod driver;
mod examine;
mod lan;
mod portal;
mod portmap;
mod quic;
mod relay;
mod signals;

pub use connection::{Connection, Stats};
pub use duplicate::Duplicate;
pub use endpoint::{
    Config, Discovery, Endpoint, LocalNetwork, RelayCarrier, RelayState, SocketProvider, TcpDial,
};
pub use error::{AcceptError, BindError, ConnectError, ConnectionError, DatagramError};
pub use p2p_net_proto::{
    Allocation, Ease, FamilyReport, Filtering, Fingerprint, Identity, Interface, Mapping,
    MappingProtocol, NatReport, NetworkReport, NotDirect, PathInfo, PathKind, PeerId, PortMapping,
    PortMappingReport, Portal, RelayAddress, ServerReport, Token,
};
/// Streams are quinn's own (`quinn` 0.11): the receiving half.
pub use quinn::RecvStream;
/// Streams are quinn's own (`quinn` 0.11): the sending half.
pub use quinn::SendStream;
pub use rate::{RateBudget, RateControl, RateCounters, RateMode};
