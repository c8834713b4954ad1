//! Tasks, timers and shutdown of a relay.

use p2p_net_proto::RelayAddress;

use crate::Config;

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A UDP port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path}")]
    DataDir {
        /// The folder or the file in it.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A running relay; dropping it stops it at once.
pub struct Relay {
    _todo: (),
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Peers logged in now.
    pub peers: u64,
    /// Channels open now.
    pub channels: u64,
    /// Packets forwarded between peers.
    pub relayed_packets: u64,
    /// Their bytes, headers included, counted once.
    pub relayed_bytes: u64,
    /// Packets dropped: unknown channel, wrong tag, replay, limit, full socket, garbage.
    pub dropped_packets: u64,
    /// Sealed signals, offers and answers passed on.
    pub signals: u64,
    /// STUN requests answered.
    pub stun_answers: u64,
    /// Logins refused.
    pub refused_logins: u64,
}

impl Relay {
    /// Opens the ports and serves until [`Relay::shutdown`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let _ = config;
        todo!()
    }

    /// The one string to paste, token included.
    pub fn address(&self) -> RelayAddress {
        todo!()
    }

    /// The local addresses that it listens on.
    pub fn local_addresses(&self) -> Vec<std::net::SocketAddr> {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Tells all peers that the relay stops, and stops.
    pub async fn shutdown(self) {
        todo!()
    }
}
