//! Tasks, timers and shutdown of a relay: one pump and one quinn endpoint a UDP port, one task a TCP
//! port and a control connection, one ticker; all of them share one pure core and die with the [`Relay`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2p_net_proto::stun::Request;
use p2p_net_proto::wire::{FromRelay, Hello, Refused, ToRelay, reason};
use p2p_net_proto::{PeerId, RelayAddress, tls};
use quinn::{AsyncUdpSocket, Endpoint, VarInt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::admission::{Door, Entry, Gate, Rate, Source, SourceTable, refused};
use crate::core::{Core, NewLogin, Output};
use crate::forward::{Forward, Route};
use crate::keys::{self, Keys};
use crate::net::{self, Pump, QuicSocket};
use crate::registry::LoginId;
use crate::session::{self, Handle};
use crate::tcp::{self, Carriers};
use crate::{Config, Limits, place, questions, quic};

/// How often the core is told the time.
const TICK: Duration = Duration::from_millis(100);
/// How often control connections are asked whether they have moved, in ticks.
const TICKS_PER_LOOK: u32 = 10;
/// How long a shutdown waits until everybody has been told.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(3);

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A UDP port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path}")]
    DataDir {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No address to listen on was given.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The public address is not a host with an optional port.
    #[error("the public address {0} is not a host name or an IP address with an optional port")]
    PublicAddress(String),
    /// TLS refuses key or certificate.
    #[error("cannot set up TLS with the relay's key")]
    Tls(#[source] tls::TlsSetupError),
    /// The system gives no random bytes, or no QUIC endpoint can be made.
    #[error("cannot start the network")]
    Io(#[source] io::Error),
}

/// A running relay; dropping it stops it at once.
pub struct Relay {
    shared: Arc<Shared>,
    address: RelayAddress,
    endpoints: Vec<Endpoint>,
    tasks: JoinSet<()>,
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
    /// Of the peers logged in now, those over TCP because UDP is blocked.
    pub tcp_peers: u64,
    /// Packets dropped because a client over TCP does not read quickly enough; part of `dropped_packets`.
    pub tcp_dropped_packets: u64,
}

impl Relay {
    /// Opens the ports and serves until [`Relay::shutdown`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let keys = Keys::load(&config.data_dir)?;
        let Ports { sockets, listeners } = match &config.sockets {
            Some(sockets) => Ports {
                sockets: sockets.clone(),
                listeners: Vec::new(),
            },
            None => Ports::open(&config)?,
        };
        let listen = |listener| TcpListener::from_std(listener).map_err(StartError::Io);
        let listeners = listeners
            .into_iter()
            .map(listen)
            .collect::<Result<Vec<_>, _>>()?;
        let tcp_local: Vec<_> = listeners.iter().flat_map(TcpListener::local_addr).collect();
        let local = sockets
            .iter()
            .map(|socket| socket.local_addr())
            .collect::<Result<Vec<_>, _>>();
        let local = local.map_err(StartError::Io)?;
        let first = *local.first().ok_or(StartError::NoAddress)?;
        let token = config.token.clone().unwrap_or_else(|| keys.token.clone());
        let address = place::address(
            config.public_address.as_deref(),
            first,
            keys.fingerprint,
            token.clone(),
        )?;
        keys::write_address(&config.data_dir, &address.to_string())?;

        let door = Door::new(token, config.open, config.allow);
        let secret = keys::random().map_err(StartError::Io)?;
        let forward = Forward::new(config.limits.relayed_bytes_per_second, secret);
        let shared = Arc::new(Shared::new(
            sockets,
            (local.clone(), tcp_local),
            config.limits,
            door,
            forward,
        ));
        let tls = tls::relay_server_tcp(vec![keys.certificate.clone()], keys.key.clone_key());
        let acceptor = TlsAcceptor::from(tls.map_err(StartError::Tls)?);
        let setup = quic::Setup::new(keys)?;
        let mut relay = Self {
            shared,
            address,
            endpoints: Vec::new(),
            tasks: JoinSet::new(),
        };
        for (index, local) in local.iter().enumerate() {
            let (socket, queue) = QuicSocket::new(relay.shared.sockets[index].clone());
            let endpoint = setup
                .endpoint(local.port(), socket)
                .map_err(StartError::Io)?;
            relay
                .tasks
                .spawn(Pump::new(relay.shared.clone(), index, queue).run());
            relay
                .tasks
                .spawn(accept(relay.shared.clone(), index, endpoint.clone()));
            relay.endpoints.push(endpoint);
        }
        for (index, listener) in (local.len()..).zip(listeners) {
            let (shared, acceptor) = (relay.shared.clone(), acceptor.clone());
            relay
                .tasks
                .spawn(tcp::accept(shared, index, listener, acceptor));
        }
        relay.tasks.spawn(tick(relay.shared.clone()));
        Ok(relay)
    }

    /// The one string to paste, token included.
    pub fn address(&self) -> RelayAddress {
        self.address.clone()
    }

    /// The local UDP addresses that it listens on.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared.local.clone()
    }

    /// The local TCP addresses likewise: none where another program has the port.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.shared.tcp_local.clone()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Tells all peers that the relay stops, and stops.
    pub async fn shutdown(mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.with_core(|core| core.stop(now()));
        let told = async {
            while !self.shared.sessions().is_empty() {
                self.shared.session_gone.notified().await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_WAIT, told).await.is_err() {
            debug!("some peers did not hear that the relay stops");
        }
        for endpoint in &self.endpoints {
            endpoint.close(
                VarInt::from(u32::from(reason::SHUTDOWN)),
                b"the relay stops",
            );
        }
        for endpoint in &self.endpoints {
            // Connections that are already told linger for three round trips; nobody needs to wait
            // for them.
            drop(tokio::time::timeout(Duration::from_millis(300), endpoint.wait_idle()).await);
        }
        self.tasks.shutdown().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for endpoint in &self.endpoints {
            endpoint.close(
                VarInt::from(u32::from(reason::SHUTDOWN)),
                b"the relay stops",
            );
        }
    }
}

/// What all tasks of a relay share.
pub(crate) struct Shared {
    pub(crate) sockets: Vec<Arc<dyn AsyncUdpSocket>>,
    pub(crate) limits: Limits,
    pub(crate) carriers: Carriers,
    local: Vec<SocketAddr>,
    tcp_local: Vec<SocketAddr>,
    core: Mutex<Core>,
    forward: Arc<Mutex<Forward>>,
    gate: Mutex<Gate>,
    answers: Mutex<SourceTable>,
    sessions: Mutex<HashMap<LoginId, Arc<Handle>>>,
    session_gone: tokio::sync::Notify,
    next_login: AtomicU64,
    stopping: AtomicBool,
    dropped: AtomicU64,
    tcp_dropped: AtomicU64,
    stun_answers: AtomicU64,
    refused_connections: AtomicU64,
}

impl Shared {
    fn new(
        sockets: Vec<Arc<dyn AsyncUdpSocket>>,
        (local, tcp_local): (Vec<SocketAddr>, Vec<SocketAddr>),
        limits: Limits,
        door: Door,
        forward: Forward,
    ) -> Self {
        let forward = Arc::new(Mutex::new(forward));
        Self {
            sockets,
            carriers: Carriers::default(),
            local,
            tcp_local,
            core: Mutex::new(Core::new(door, limits.clone(), 1, forward.clone())),
            forward,
            gate: Mutex::new(Gate::new(&limits)),
            answers: Mutex::new(SourceTable::new(Rate::per_second(limits.stun_per_second))),
            limits,
            sessions: Mutex::default(),
            session_gone: tokio::sync::Notify::new(),
            next_login: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            tcp_dropped: AtomicU64::new(0),
            stun_answers: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    pub(crate) fn forward(&self) -> MutexGuard<'_, Forward> {
        lock(&self.forward)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<LoginId, Arc<Handle>>> {
        lock(&self.sessions)
    }

    /// Lets the core do something, and hands out what it wants sent before anybody else can make it
    /// want more: what one client is told stays in order.
    fn with_core<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core();
        let result = act(&mut core);
        self.dispatch(core.take_outputs());
        result
    }

    fn dispatch(&self, outputs: Vec<Output>) {
        if outputs.is_empty() {
            return;
        }
        let sessions = self.sessions();
        for output in outputs {
            match output {
                Output::Send(to, message) => {
                    let Some(frame) = frame(&message) else {
                        continue;
                    };
                    for handle in to.iter().filter_map(|id| sessions.get(id)) {
                        if !handle.send(frame.clone()) {
                            debug!("a client does not keep up");
                            handle.close(reason::LIMITED);
                        }
                    }
                }
                Output::End(id, goodbye) => {
                    let code = goodbye.code;
                    if let (Some(handle), Some(frame)) = (sessions.get(&id), frame(&goodbye.into()))
                    {
                        handle.send_last(frame, code);
                    }
                }
                Output::Packet(packet) => {
                    if !self.transmit(packet.route, packet.ecn, &packet.packet, None) {
                        self.count_batch(1, 0);
                    }
                }
            }
        }
    }

    /// Judges a login; afterwards the session must report its end with [`Shared::lost`].
    pub(crate) fn login(
        &self,
        peer: PeerId,
        handle: Arc<Handle>,
        hello: Hello,
    ) -> Result<LoginId, Refused> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(refused(
                reason::SHUTDOWN,
                "the relay stops; it may be back soon".into(),
                5,
            ));
        }
        let id = LoginId(self.next_login.fetch_add(1, Ordering::Relaxed));
        let route = handle.route();
        let alternate_port = self.alternate_port(route.socket);
        self.sessions().insert(id, handle.clone());
        let new = NewLogin {
            id,
            peer,
            link: handle,
            route,
            hello,
            alternate_port,
        };
        let result = self.with_core(|core| core.login(now(), new));
        if let Err(refusal) = result {
            self.forget(id);
            return Err(refusal);
        }
        Ok(id)
    }

    pub(crate) fn message(&self, id: LoginId, route: Route, message: ToRelay) {
        self.with_core(|core| {
            let now = now();
            core.moved(now, id, route);
            core.message(now, id, message);
        });
    }

    /// Ends a login that broke the rules.
    pub(crate) fn expel(&self, id: LoginId, why: &str) {
        self.with_core(|core| core.end(now(), id, reason::PROTOCOL, why));
    }

    pub(crate) fn lost(&self, id: LoginId) {
        self.with_core(|core| core.lost(now(), id));
        self.forget(id);
    }

    fn forget(&self, id: LoginId) {
        self.sessions().remove(&id);
        self.session_gone.notify_waiters();
        self.session_gone.notify_one();
    }

    /// The port beside that of this socket: on the same address, or else on any.
    fn alternate_port(&self, index: usize) -> Option<u16> {
        let tcp = || self.tcp_local.get(index.checked_sub(self.local.len())?);
        let here = self.local.get(index).or_else(tcp)?;
        let others = || {
            self.local
                .iter()
                .filter(|other| other.port() != here.port())
        };
        let same = others().find(|other| other.ip() == here.ip());
        same.or_else(|| others().next()).map(SocketAddr::port)
    }

    /// Where to send what to answer to a STUN question.
    pub(crate) fn answer_question(
        &self,
        from: Route,
        request: &Request,
    ) -> Option<(Route, Vec<u8>)> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = time.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        });
        questions::answer(&self.local, from, request, micros)
    }

    /// Whether a question of a stranger may be answered now.
    pub(crate) fn may_answer(&self, now: Instant, ip: IpAddr) -> bool {
        lock(&self.answers).take(now, Source::from(ip))
    }

    /// How many packets of one size a UDP port sends in one call.
    pub(crate) fn max_segments(&self) -> usize {
        let first = self.sockets.first();
        first.map_or(1, |socket| socket.max_transmit_segments().max(1))
    }

    /// Sends from the port that the route names; false if that would not. Over TCP it is queued, and what
    /// gives way to it is counted here.
    pub(crate) fn transmit(
        &self,
        route: Route,
        ecn: u8,
        contents: &[u8],
        segment: Option<usize>,
    ) -> bool {
        let Some(socket) = self.sockets.get(route.socket) else {
            let dropped = self.carriers.send(route, contents, segment);
            self.tcp_dropped
                .fetch_add(dropped.unwrap_or(0), Ordering::Relaxed);
            return dropped.is_some();
        };
        net::transmit(
            socket.as_ref(),
            (route.address, route.source),
            ecn,
            contents,
            segment,
        )
    }

    /// Whether a TCP connection from `ip` may come in; with it, as in [`session::serve`], after how many
    /// seconds to come again.
    pub(crate) fn admit_tcp(self: &Arc<Self>, ip: IpAddr) -> Option<(Option<u32>, Counted)> {
        let stopping = self.stopping.load(Ordering::Relaxed);
        let entry = if stopping {
            Entry::Refuse
        } else {
            lock(&self.gate).connection(now(), ip, true)
        };
        let courtesy = match entry {
            Entry::Accept => None,
            Entry::Courtesy { retry_after } => Some(retry_after),
            Entry::Retry | Entry::Refuse => {
                self.refused_connections.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let counted = Counted {
            shared: self.clone(),
            ip,
            shaking: AtomicBool::new(true),
        };
        Some((courtesy, counted))
    }

    pub(crate) fn count_batch(&self, dropped: u64, stun_answers: u64) {
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.stun_answers.fetch_add(stun_answers, Ordering::Relaxed);
    }

    fn stats(&self) -> Stats {
        let forwarded = self.forward().counts();
        let tcp_dropped_packets = self.tcp_dropped.load(Ordering::Relaxed);
        let core = self.core();
        let (signals, refused) = core.counts();
        Stats {
            peers: core.peers() as u64,
            channels: core.channels() as u64,
            relayed_packets: forwarded.packets,
            relayed_bytes: forwarded.bytes,
            dropped_packets: forwarded.dropped
                + self.dropped.load(Ordering::Relaxed)
                + tcp_dropped_packets,
            tcp_peers: self.carriers.len() as u64,
            tcp_dropped_packets,
            signals,
            stun_answers: self.stun_answers.load(Ordering::Relaxed),
            refused_logins: refused + self.refused_connections.load(Ordering::Relaxed),
        }
    }

    /// Looks whether control connections have moved, since nothing tells it.
    fn look_for_moves(&self) {
        let handles: Vec<_> = self
            .sessions()
            .iter()
            .map(|(id, handle)| (*id, handle.clone()))
            .collect();
        for (id, handle) in handles {
            let route = handle.route();
            self.with_core(|core| core.moved(now(), id, route));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn frame(message: &FromRelay) -> Option<Bytes> {
    match message.encode() {
        Ok(frame) => Some(frame.into()),
        Err(error) => {
            warn!(%error, "a message could not be made");
            None
        }
    }
}

/// The time as tokio has it, so that a test can hold it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Counts a connection as long as it lives.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    ip: IpAddr,
    shaking: AtomicBool,
}

impl Counted {
    /// The handshake is over.
    pub(crate) fn shaken(&self) {
        if self.shaking.swap(false, Ordering::Relaxed) {
            lock(&self.shared.gate).shaken();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shaken();
        lock(&self.shared.gate).closed(self.ip);
    }
}

/// Lets connections of one port in; the sessions end with this task.
async fn accept(shared: Arc<Shared>, index: usize, endpoint: Endpoint) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                if let Some((incoming, courtesy, counted)) = admit(&shared, incoming) {
                    sessions.spawn(session::serve(
                        shared.clone(), index, incoming, courtesy, counted,
                    ));
                }
            }
            Some(ended) = sessions.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a session failed");
                }
            }
        }
    }
}

fn admit(
    shared: &Arc<Shared>,
    incoming: quinn::Incoming,
) -> Option<(quinn::Incoming, Option<u32>, Counted)> {
    let ip = incoming.remote_address().ip();
    let entry = if shared.stopping.load(Ordering::Relaxed) {
        Entry::Refuse
    } else {
        lock(&shared.gate).connection(now(), ip, incoming.remote_address_validated())
    };
    let counted = || Counted {
        shared: shared.clone(),
        ip,
        shaking: AtomicBool::new(true),
    };
    match entry {
        Entry::Accept => Some((incoming, None, counted())),
        Entry::Courtesy { retry_after } => Some((incoming, Some(retry_after), counted())),
        Entry::Retry => {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            None
        }
        Entry::Refuse => {
            shared.refused_connections.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            None
        }
    }
}

async fn tick(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for count in 0u32.. {
        interval.tick().await;
        shared.with_core(|core| core.tick(now()));
        if count % TICKS_PER_LOOK == 0 {
            shared.look_for_moves();
        }
    }
}

/// The ports of a relay.
struct Ports {
    /// Each address of `listen` before its second port.
    sockets: Vec<Arc<dyn AsyncUdpSocket>>,
    /// TCP on the number of each address of `listen`, where it can be had.
    listeners: Vec<std::net::TcpListener>,
}

impl Ports {
    fn open(config: &Config) -> Result<Self, StartError> {
        let mut wanted: Vec<(SocketAddr, bool)> = Vec::new();
        for address in &config.listen {
            let second = config
                .stun_port
                .map(|port| SocketAddr::new(address.ip(), port));
            for (address, tcp) in [Some((*address, true)), second.map(|second| (second, false))]
                .into_iter()
                .flatten()
            {
                if address.port() == 0 || wanted.iter().all(|(other, _)| *other != address) {
                    wanted.push((address, tcp));
                }
            }
        }
        let mut ports = Self {
            sockets: Vec::new(),
            listeners: Vec::new(),
        };
        for (address, tcp) in &wanted {
            // `[::]` takes IPv4 as well, unless somebody else on the list does.
            let v6_only = wanted.iter().any(|(other, _)| {
                other.is_ipv4() && other.port() == address.port() && other.port() != 0
            });
            let listen = |source| StartError::Listen {
                address: *address,
                source,
            };
            let (socket, listener) = open_pair(*address, *tcp, v6_only).map_err(listen)?;
            let runtime = quinn::TokioRuntime;
            let socket = quinn::Runtime::wrap_udp_socket(&runtime, socket).map_err(listen)?;
            ports.sockets.push(socket);
            ports.listeners.extend(listener);
        }
        Ok(ports)
    }
}

/// Attempts to find a number that is free in UDP and TCP.
const PORT_ATTEMPTS: usize = 8;

/// A UDP port, and with `tcp` the TCP port of the same number. A relay serves without that one too, where
/// a web server has it: only clients without UDP are left out then.
fn open_pair(
    address: SocketAddr,
    tcp: bool,
    v6_only: bool,
) -> io::Result<(std::net::UdpSocket, Option<std::net::TcpListener>)> {
    let mut attempt = 1;
    loop {
        let socket = bind(address, v6_only)?;
        if !tcp {
            return Ok((socket, None));
        }
        let local = socket.local_addr()?;
        match tcp::bind(local, v6_only) {
            Ok(listener) => return Ok((socket, Some(listener))),
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => {
                warn!(
                    %local, %error,
                    "the TCP port of this number cannot be had: clients whose network blocks UDP will \
                     not reach this relay"
                );
                return Ok((socket, None));
            }
        }
    }
}

/// Binds `address`; for `[::]` on a machine without IPv6, `0.0.0.0` instead.
fn bind(address: SocketAddr, v6_only: bool) -> io::Result<std::net::UdpSocket> {
    let has_v4_twin = address.ip() == Ipv6Addr::UNSPECIFIED && !v6_only;
    net::bind(address, v6_only).or_else(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse => Err(error),
        _ if !has_v4_twin => Err(error),
        _ => net::bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), false).map_err(|_| error),
    })
}
