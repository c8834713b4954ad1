//! Addresses where a peer may be reached, and which of a peer's claims may be acted on (`wire.md` §6).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Candidates in one offer or answer at most (`connectivity.md` §5.5).
pub const MAX_CANDIDATES: usize = 10;

/// Where a candidate comes from (RFC 8445 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// As the relay observed it.
    ServerReflexive,
    /// As a peer observed it, in a probe.
    PeerReflexive,
    /// Granted by a router (PCP, NAT-PMP, UPnP).
    Mapped,
}

/// One address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The address; never v4-mapped IPv6.
    pub address: SocketAddr,
}

/// What the relay attested for a peer: see [`crate::wire::ObservedAddress`].
pub type Observed = crate::wire::ObservedAddress;

/// What decides whether a peer's candidate counts.
#[derive(Debug, Clone, Default)]
pub struct Attestation {
    /// The relay's observations of the peer, fresh ones (60 s) only count.
    pub observed: Vec<Observed>,
    /// Prefixes of our own interfaces: address and prefix length.
    pub prefixes: Vec<(IpAddr, u8)>,
    /// The relay's own addresses; never a candidate.
    pub relays: Vec<SocketAddr>,
    /// Whether the relay observes us on loopback; loopback candidates count only if it observes both.
    pub loopback: bool,
}

/// Whether probes may go to `candidate` (`wire.md` §6).
pub fn usable(candidate: &Candidate, attestation: &Attestation) -> bool {
    let _ = (candidate, attestation);
    todo!()
}
