//! Public: one endpoint per program and identity. It keeps the login at the relay, dials and accepts.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use p2p_net_proto::{Identity, NatReport, NetworkReport, PeerId, RelayAddress};
use quinn::TokioRuntime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{Command, Driver, Parts, Queues, Shared};
use crate::link::Clock;
use crate::portmap::PortMapper;
use crate::quic::{self, Quic};
use crate::relay::{self, Login};
use crate::socket::{MagicSocket, now};
use crate::system::System;
use crate::{AcceptError, BindError, ConnectError, Connection, Duplicate};

/// Calls of an endpoint's that wait for the driver at most.
const COMMANDS: usize = 64;
/// Packets outside QUIC that wait for the driver at most.
const RAW_PACKETS: usize = 256;
/// Notices of the data path likewise.
const NOTICES: usize = 256;
/// Messages of the relay likewise.
const RELAY_EVENTS: usize = 256;

/// How an endpoint is made.
pub struct Config {
    /// Who we are.
    pub identity: Identity,
    /// The relay to log in at; without one only contacts on the LAN, or at a known address, are reached
    /// ([`LocalNetwork::discovery`]).
    pub relay: Option<RelayAddress>,
    /// Local UDP port, 0 for any; one socket per family on the same number.
    pub port: u16,
    /// Where sockets come from; `None` is the operating system. Simulations put their own here.
    pub sockets: Option<Arc<dyn SocketProvider>>,
}

/// What an endpoint does in the network around it, beside the relay. All of it is off unless said otherwise, and
/// off with a relay on this machine: then nothing leaves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNetwork {
    /// Ask the router to open our port (PCP, NAT-PMP, UPnP), and give it back at the end.
    pub port_mapping: bool,
    /// When to be found on the LAN, and to look there for accepted contacts.
    pub discovery: Discovery,
}

/// When peers are looked for without a relay: by mDNS, under names that change each day and that nobody
/// understands who does not know our id, and where [`Endpoint::set_addresses`] says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Discovery {
    /// Never; not even knocks are heard.
    #[default]
    Off,
    /// While there is no login at a relay.
    WithoutRelay,
    /// Always.
    Always,
}

/// Gives an endpoint its sockets and the addresses of its interfaces.
pub trait SocketProvider: Send + Sync + 'static {
    /// One socket per address family on the same port number, at least one.
    ///
    /// # Errors
    /// Where no port can be had.
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn quinn::AsyncUdpSocket>>>;

    /// One more IPv4 socket on a port of the system's choice, for guessing ports; none unless said otherwise.
    ///
    /// # Errors
    /// Where no socket can be had.
    fn bind_extra(&self) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Addresses and prefix lengths of the interfaces that are up.
    fn interfaces(&self) -> Vec<(IpAddr, u8)>;

    /// Resolves a relay's host name.
    fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

    /// Connects to a relay's TCP port, for networks that block UDP. `addresses` is what `host` resolved to,
    /// if it did. `None` where there is no TCP, as in simulations.
    fn dial_tcp(&self, host: String, port: u16, addresses: Vec<SocketAddr>) -> Option<TcpDial> {
        let _ = (host, port, addresses);
        None
    }
}

/// A TCP connection on its way.
pub type TcpDial =
    std::pin::Pin<Box<dyn Future<Output = io::Result<tokio::net::TcpStream>> + Send>>;

/// What carries the login at a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayCarrier {
    /// UDP, as it should be.
    Udp,
    /// TCP, because UDP is blocked; UDP is tried again from time to time.
    Tcp {
        /// The relay's port.
        port: u16,
    },
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
        /// What carries the login, and relayed packets with it.
        carrier: RelayCarrier,
    },
    /// Given up, because trying again would not help before somebody acts.
    Failed(AcceptError),
}

/// See the module. Clones share one endpoint; it closes when the last one goes.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use p2p_net::{Config, Endpoint, Identity, PeerId};
///
/// let relay = "relay.example.org#fingerprint.token".parse()?;
/// let config = Config {
///     identity: Identity::from_secret([7; 32]), // 32 random bytes, kept in a private file
///     relay: Some(relay),
///     port: 0,
///     sockets: None,
/// };
/// let endpoint = Endpoint::bind(config)?;
/// println!("I am {}", endpoint.id());
///
/// let friend: PeerId = std::env::args().nth(1).unwrap_or_default().parse()?;
/// let connection = endpoint.connect(friend).await?;
/// let (mut send, mut receive) = connection.open().await?;
/// send.write_all(b"hello").await?;
/// send.finish()?;
/// let answer = receive.read_to_end(1_000).await?;
/// println!("{} over {:?}", answer.len(), connection.path().borrow().kind);
/// endpoint.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    id: PeerId,
    port: u16,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    state: watch::Receiver<RelayState>,
    present: watch::Receiver<Arc<BTreeSet<PeerId>>>,
    nat: watch::Receiver<Option<NatReport>>,
}

impl Endpoint {
    /// Opens the port and starts logging in at the relay, in the background. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(config: Config) -> Result<Self, BindError> {
        Self::bind_with(config, LocalNetwork::default())
    }

    /// [`Endpoint::bind`], and what may be done in the network around us.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_with(config: Config, local: LocalNetwork) -> Result<Self, BindError> {
        let Config {
            identity,
            relay,
            port,
            sockets,
        } = config;
        let system = sockets.is_none();
        let provider = sockets.unwrap_or_else(|| Arc::new(System));
        let quic = Quic::new(&identity)?;
        let clock = Clock::start(now());
        let (raw_sender, raw) = mpsc::channel(RAW_PACKETS);
        let sockets = provider.bind(port).map_err(BindError::Socket)?;
        let socket =
            Arc::new(MagicSocket::new(sockets, clock, raw_sender).map_err(BindError::Socket)?);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quic::endpoint(&identity),
            Some(quic.server()),
            socket.clone(),
            Arc::new(TokioRuntime),
        )
        .map_err(BindError::Socket)?;

        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let (notice_sender, notices) = mpsc::channel(NOTICES);
        let (event_sender, relay_events) = mpsc::channel(RELAY_EVENTS);
        let (nudges, nudge_queue) = mpsc::channel(RELAY_EVENTS);
        let first = match &relay {
            Some(_) => RelayState::Connecting { last_error: None },
            None => RelayState::None,
        };
        let (state_sender, state) = watch::channel(first);
        let (present_sender, present) = watch::channel(Arc::default());
        let (nat_sender, nat) = watch::channel(None);
        let login = match relay.clone() {
            Some(address) => {
                let (endpoint, socket) = (endpoint.clone(), socket.clone());
                let provider = provider.clone();
                let login = Login::new(&identity, endpoint, socket, provider, address)?;
                Some(relay::run(login, nudge_queue, event_sender))
            }
            None => None,
        };
        let elsewhere = relay
            .as_ref()
            .is_some_and(|relay| !is_this_machine(&relay.host));
        let ports = if local.port_mapping && system && elsewhere {
            PortMapper::start(socket.port())
        } else {
            None
        };
        let discovery = match local.discovery {
            Discovery::WithoutRelay if relay.is_some() && !elsewhere => Discovery::Off,
            discovery => discovery,
        };
        let shared = Arc::new(Shared::default());
        let inner = Inner {
            id: identity.id(),
            port: socket.port(),
            commands,
            shared: shared.clone(),
            state,
            present,
            nat,
        };
        let driver = Driver::new(Parts {
            identity: Arc::new(identity),
            socket,
            endpoint,
            quic,
            provider,
            relay,
            ports,
            discovery,
            system,
            shared,
            notices: notice_sender,
            nudges,
            state: state_sender,
            present: present_sender,
            nat: nat_sender,
        });
        let queues = Queues {
            commands: command_queue,
            raw,
            notices,
            relay: relay_events,
        };
        tokio::spawn(driver.run(queues, login));
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Our own id.
    pub fn id(&self) -> PeerId {
        self.inner.id
    }

    /// The local UDP port.
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// A connection to `peer`: the living one if there is one, else a new one, first through the relay.
    /// It returns when the connection is usable; the direct path takes over later by itself.
    /// Dialling makes the peer an accepted contact ([`Endpoint::set_accepted`]) unless it was set otherwise.
    ///
    /// If the peer dials us at the same time, one of the two connections stays, and it may be the one that
    /// [`Endpoint::accept`] yields as well.
    ///
    /// Waits for the login at the relay (up to 10 s) where it is not complete. Cancel safe: dropping the
    /// future gives the attempt up.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, peer: PeerId) -> Result<Connection, ConnectError> {
        if peer == self.inner.id {
            return Err(ConnectError::Ourselves);
        }
        self.inner.shared.set_contact(peer, |contact| {
            contact.accepted.get_or_insert(true);
        });
        let (reply, answer) = oneshot::channel();
        let command = Command::Connect(peer, reply);
        self.inner
            .commands
            .send(command)
            .await
            .map_err(|_| ConnectError::Closed)?;
        let mut waiting = Waiting {
            shared: &self.inner.shared,
            peer,
            answer,
        };
        (&mut waiting.answer)
            .await
            .unwrap_or(Err(ConnectError::Closed))
    }

    /// The next connection that a peer made to us; `None` once the endpoint is closed. Cancel safe.
    pub async fn accept(&self) -> Option<Connection> {
        self.inner.shared.accept().await
    }

    /// Who is logged in at the relay, without ourselves; updated as they come and go, empty while we are
    /// not logged in.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<BTreeSet<PeerId>>> {
        self.inner.present.clone()
    }

    /// Where the login at the relay stands.
    pub fn watch_relay(&self) -> watch::Receiver<RelayState> {
        self.inner.state.clone()
    }

    /// What kind of NAT we are behind, once the relay has been asked; asked again when it sees us elsewhere.
    pub fn watch_nat(&self) -> watch::Receiver<Option<NatReport>> {
        self.inner.nat.clone()
    }

    /// Looks at the network now: some dozens of small packets to the relay, and a second or two. Nothing else
    /// asks for that; who waits for a connection is better off without.
    ///
    /// # Errors
    /// [`ConnectError::Closed`].
    pub async fn examine(&self) -> Result<NetworkReport, ConnectError> {
        let (reply, answer) = oneshot::channel();
        self.inner
            .commands
            .send(Command::Examine(reply))
            .await
            .map_err(|_| ConnectError::Closed)?;
        answer.await.map_err(|_| ConnectError::Closed)
    }

    /// Says whether `peer` is an accepted contact: only those get our addresses and a direct path.
    /// Inside a living relayed connection, accepting starts punching at once.
    pub fn set_accepted(&self, peer: PeerId, accepted: bool) {
        self.inner
            .shared
            .set_contact(peer, |contact| contact.accepted = Some(accepted));
    }

    /// Never anything but the relay for `peer`, though accepted: it does not get our addresses. Holds at once,
    /// in a living connection as well: a direct path is left, nothing is offered or probed any more.
    pub fn set_relay_only(&self, peer: PeerId, relay_only: bool) {
        self.inner
            .shared
            .set_contact(peer, |contact| contact.relay_only = relay_only);
    }

    /// The same for everybody; what was said of single peers holds again when it is lifted.
    pub fn set_all_relay_only(&self, relay_only: bool) {
        self.inner.shared.set_all_relay_only(relay_only);
    }

    /// Says when low-rate traffic takes both paths, direct and relay, from now on; [`Duplicate::Suspect`] unless said
    /// otherwise. Holds for what we send to all peers; what they send is theirs to say.
    pub fn set_duplicate(&self, policy: Duplicate) {
        self.inner.shared.duplicate().set(policy);
    }

    /// Says where `peer` can be reached without a relay, beside what the LAN says: an accepted contact is
    /// knocked at there ([`Discovery`] must not be off). An empty list forgets what was said before.
    pub fn set_addresses(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        self.inner.shared.set_addresses(peer, addresses);
    }

    /// Closes all connections and waits until the peers have been told (a second at most).
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self
            .inner
            .commands
            .send(Command::Close(reply))
            .await
            .is_ok()
        {
            let _ = done.await;
        }
    }
}

/// Whether a relay's host is named as this very machine.
fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// An answer that somebody waits for; dropped before it comes, it has the driver look whether anybody else
/// still does.
struct Waiting<'a> {
    shared: &'a Shared,
    peer: PeerId,
    answer: oneshot::Receiver<Result<Connection, ConnectError>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answer.close();
        self.shared.touch(self.peer);
    }
}
