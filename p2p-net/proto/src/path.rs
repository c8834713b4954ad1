//! Live paths of one peer: round trip, loss, choice with hysteresis, the relay as the floor, and the
//! detection of silent death (`wire.md` §6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What carries a peer's packets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PathKind {
    /// Nothing: neither relay nor direct path.
    None,
    /// Through the relay.
    Relayed,
    /// Straight to the peer.
    Direct,
}

/// A peer's path as users and programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// What carries the packets.
    pub kind: PathKind,
    /// The peer's address on a direct path.
    pub remote: Option<SocketAddr>,
    /// Smoothed round trip of the direct path, from probes.
    pub round_trip: Option<Duration>,
    /// Since when.
    pub since: Instant,
    /// Changes of path in the life of this peer.
    pub switches: u32,
}
