//! What a call needs from below. The library knows no network: whoever has one implements this.

use std::time::Duration;

use bytes::Bytes;

/// Carries datagrams to the other side, unreliably and unordered. Called from the call's own thread; nothing
/// here may wait.
pub trait Transport: Send + Sync + 'static {
    /// Sends one datagram; what cannot go now is lost.
    fn send(&self, datagram: Bytes) -> Result<(), TransportError>;

    /// What the path is like now.
    fn path(&self) -> PathState;

    /// What was sent, acknowledged and lost beside our datagrams since the call began, bytes.
    fn other_traffic(&self) -> OtherTraffic;

    /// Says what the call takes, so that congestion control below does not stand in its way.
    fn set_budget(&self, budget: Budget);
}

/// Why a datagram did not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Larger than [`PathState::max_datagram_bytes`] is now.
    #[error("the datagram does not fit the path")]
    TooLarge,
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
}

/// The path below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathState {
    /// Counts changes of path.
    pub epoch: u32,
    /// Through the relay.
    pub relayed: bool,
    /// Nothing has come for some time: the path may be dead, and low-rate traffic goes on two.
    pub suspect: bool,
    /// The largest datagram, bytes.
    pub max_datagram_bytes: usize,
    /// Round trip as the layer below knows it, a fallback until reports tell.
    pub round_trip: Option<Duration>,
}

/// Bytes beside the call's own datagrams, counters since the call began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OtherTraffic {
    /// Sent.
    pub sent_bytes: u64,
    /// Acknowledged.
    pub acknowledged_bytes: u64,
    /// Declared lost.
    pub lost_bytes: u64,
}

/// What a call asks of the layer below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// The estimate for everything on the wire, bits a second; 0: no call.
    pub estimate_bits_per_sec: u64,
    /// Of that, what other traffic (a transfer) may use now, bits a second.
    pub other_bits_per_sec: u64,
    /// The smallest round trip seen.
    pub min_round_trip: Duration,
}
