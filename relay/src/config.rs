//! Flags, environment and file become one validated [`Config`]; each limit with unit and default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use p2p_net_proto::{PeerId, Token};

/// Everything that a relay must know to start.
pub struct Config {
    /// Where key, certificate, token and address are kept (0700, files 0600).
    pub data_dir: PathBuf,
    /// UDP addresses; port 0 takes any free one. All serve everything (QUIC, STUN, relayed data). TCP on the
    /// same number carries the same to clients whose network blocks UDP.
    pub listen: Vec<SocketAddr>,
    /// The second UDP port, for each address of `listen`; `Some(0)` takes any free one, `None`
    /// opens none.
    pub stun_port: Option<u16>,
    /// The host (and port) to print in the address to paste, if the one found out is not right.
    pub public_address: Option<String>,
    /// The admission token; `None` takes the one in the data folder, made at first start.
    pub token: Option<Token>,
    /// Admits anybody, without a token.
    pub open: bool,
    /// Admits these peers without a token.
    pub allow: Vec<PeerId>,
    /// What peers and addresses may use.
    pub limits: Limits,
    /// Where sockets come from; `None` is the operating system. Simulations put their own here: one
    /// per port, already bound, and there is no TCP then.
    pub sockets: Option<Vec<Arc<dyn quinn::AsyncUdpSocket>>>,
}

impl Config {
    /// A relay for this machine alone: two free ports on 127.0.0.1, a token of its own, default
    /// limits.
    pub fn loopback(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            stun_port: Some(0),
            public_address: None,
            token: None,
            open: false,
            allow: Vec::new(),
            limits: Limits::default(),
            sockets: None,
        }
    }
}

/// Limits, all with sane defaults; 0 means unlimited where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Peers logged in at one time.
    pub peers: usize,
    /// New QUIC connections a minute from one source (/32 or /64).
    pub connections_per_minute: u32,
    /// QUIC connections at one time from one source (/32 or /64).
    pub connections_per_source: u32,
    /// Channels that one peer may have at one time.
    pub channels_per_peer: u32,
    /// Channel offers and signals a minute and peer.
    pub signals_per_minute: u32,
    /// Relayed bytes a second and peer; 0 is unlimited.
    pub relayed_bytes_per_second: u64,
    /// STUN answers a second and source.
    pub stun_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers: 10_000,
            connections_per_minute: 120,
            connections_per_source: 1_000,
            channels_per_peer: 256,
            signals_per_minute: 600,
            relayed_bytes_per_second: 0,
            stun_per_second: 20,
        }
    }
}
