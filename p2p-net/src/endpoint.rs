//! Public: one endpoint per program and identity. It keeps the login at the relay, dials and accepts.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use p2p_net_proto::{Identity, PeerId, RelayAddress};
use tokio::sync::watch;

use crate::{AcceptError, BindError, ConnectError, Connection};

/// How an endpoint is made.
pub struct Config {
    /// Who we are.
    pub identity: Identity,
    /// The relay to log in at; without one only peers that dial us by hand are reached (a later version).
    pub relay: Option<RelayAddress>,
    /// Local UDP port, 0 for any; one socket per family on the same number.
    pub port: u16,
    /// Where sockets come from; `None` is the operating system. Simulations put their own here.
    pub sockets: Option<Arc<dyn SocketProvider>>,
}

/// Gives an endpoint its sockets and the addresses of its interfaces.
pub trait SocketProvider: Send + Sync + 'static {
    /// One socket per address family on the same port number, at least one.
    ///
    /// # Errors
    /// Where no port can be had.
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn quinn::AsyncUdpSocket>>>;

    /// Addresses and prefix lengths of the interfaces that are up.
    fn interfaces(&self) -> Vec<(IpAddr, u8)>;

    /// Resolves a relay's host name.
    fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
}

/// Where the login at the relay stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayState {
    /// No relay is configured.
    None,
    /// On the way there, for the first time or again after a loss that is given.
    Connecting {
        /// Why the last attempt failed or the last login ended.
        last_error: Option<AcceptError>,
    },
    /// Logged in.
    Online {
        /// From where the relay sees us.
        observed: SocketAddr,
    },
    /// Given up, because trying again would not help before somebody acts.
    Failed(AcceptError),
}

/// See the module. Clones share one endpoint; it closes when the last one goes.
#[derive(Clone)]
pub struct Endpoint {
    _todo: Arc<()>,
}

impl Endpoint {
    /// Opens the port and starts logging in at the relay, in the background. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(config: Config) -> Result<Self, BindError> {
        let _ = config;
        todo!()
    }

    /// Our own id.
    pub fn id(&self) -> PeerId {
        todo!()
    }

    /// The local UDP port.
    pub fn port(&self) -> u16 {
        todo!()
    }

    /// A connection to `peer`: the living one if there is one, else a new one, first through the relay.
    /// It returns when the connection is usable; the direct path takes over later by itself.
    /// Dialling makes the peer an accepted contact ([`Endpoint::set_accepted`]) unless it was set otherwise.
    ///
    /// Waits for the login at the relay (up to 10 s) where it is not complete. Cancel safe: dropping the
    /// future gives the attempt up.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, peer: PeerId) -> Result<Connection, ConnectError> {
        let _ = peer;
        todo!()
    }

    /// The next connection that a peer made to us; `None` once the endpoint is closed. Cancel safe.
    pub async fn accept(&self) -> Option<Connection> {
        todo!()
    }

    /// Who is logged in at the relay, without ourselves; updated as they come and go.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<BTreeSet<PeerId>>> {
        todo!()
    }

    /// Where the login at the relay stands.
    pub fn watch_relay(&self) -> watch::Receiver<RelayState> {
        todo!()
    }

    /// Says whether `peer` is an accepted contact: only those get our addresses and a direct path.
    /// Inside a living relayed connection, accepting starts punching at once.
    pub fn set_accepted(&self, peer: PeerId, accepted: bool) {
        let _ = (peer, accepted);
        todo!()
    }

    /// Never anything but the relay for `peer`.
    pub fn set_relay_only(&self, peer: PeerId, relay_only: bool) {
        let _ = (peer, relay_only);
        todo!()
    }

    /// Closes all connections and waits until the peers have been told (a second at most).
    pub async fn close(&self) {
        todo!()
    }
}
