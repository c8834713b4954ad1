//! The one task that owns clock, relay login and every [`Peer`]: it carries inputs to the machines and does
//! what they ask. Connections are in `driver/connections.rs`, channels in `driver/channels.rs`, what belongs
//! to one peer in `driver/peers.rs`.

mod channels;
mod connections;
mod guesses;
mod lan;
mod peers;
mod ports;
mod survey;
mod timers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_net_proto::wire::{
    FromRelay, PresenceDelta, PresenceSnapshot, PresenceSubscribe, SignalFrom, ToRelay,
};
use p2p_net_proto::{
    Candidate, CandidateKind, ChannelId, Identity, Input, MAX_CANDIDATES, NatReport, NetworkReport,
    Peer, PeerId, RelayAddress, Surroundings, Survey, nudge,
};
use quinn::ConnectionError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, trace};

use crate::duplicate::Policy;
use crate::endpoint::Discovery;
use crate::lan::Sighting;
use crate::link::Notice;
use crate::portmap::PortMapper;
use crate::quic::{Quic, code};
use crate::relay::{Nudging, RelayEvent, Session};
use crate::signals::Seals;
use crate::socket::{MagicSocket, Raw, canonical, now};
use crate::{ConnectError, Connection, RelayState, SocketProvider};

use connections::Handshake;
use guesses::Guesses;
use lan::Lan;
use peers::PeerState;
use timers::{Timer, Timers};

/// Peers that the driver knows at one time.
const MAX_PEERS: usize = 1_024;
/// Connections that wait for `accept` at most; further ones are closed.
const MAX_ACCEPTED: usize = 64;
/// Who is online is kept for so many peers.
const MAX_PRESENT: usize = 100_000;
/// Between looks at the interfaces.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(4);
/// Between looks whether closes have left.
const CLOSE_LOOK: Duration = Duration::from_millis(1);
/// How long a close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What an [`crate::Endpoint`] asks for.
pub(crate) enum Command {
    /// A connection to a peer.
    Connect(PeerId, oneshot::Sender<Result<Connection, ConnectError>>),
    /// A look at the network.
    Examine(oneshot::Sender<NetworkReport>),
    /// The end.
    Close(oneshot::Sender<()>),
}

/// What was said about a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) accepted: Option<bool>,
    pub(crate) relay_only: bool,
}

/// What endpoint and driver share beside the commands.
#[derive(Default)]
pub(crate) struct Shared {
    contacts: Mutex<HashMap<PeerId, Contact>>,
    duplicate: Arc<Policy>,
    /// Nothing but the relay, whoever the peer is.
    relay_only: AtomicBool,
    /// Consent to everybody must be looked at again.
    all_changed: AtomicBool,
    addresses: Mutex<HashMap<PeerId, Vec<SocketAddr>>>,
    changed: Mutex<BTreeSet<PeerId>>,
    wake: Notify,
    accepted: Mutex<Accepted>,
    arrival: Notify,
}

#[derive(Default)]
struct Accepted {
    queue: VecDeque<Connection>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Changes what is said about a peer, and has the driver look.
    pub(crate) fn set_contact(&self, peer: PeerId, change: impl FnOnce(&mut Contact)) {
        change(lock(&self.contacts).entry(peer).or_default());
        self.touch(peer);
    }

    /// Keeps our addresses back from everybody, or no longer.
    pub(crate) fn set_all_relay_only(&self, only: bool) {
        self.relay_only.store(only, Ordering::Relaxed);
        self.all_changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// What decides about copies on both paths.
    pub(crate) fn duplicate(&self) -> Arc<Policy> {
        self.duplicate.clone()
    }

    /// Has the driver look at a peer again.
    pub(crate) fn touch(&self, peer: PeerId) {
        lock(&self.changed).insert(peer);
        self.wake.notify_one();
    }

    fn contact(&self, peer: &PeerId) -> Contact {
        let mut contact = lock(&self.contacts).get(peer).copied().unwrap_or_default();
        contact.relay_only |= self.relay_only.load(Ordering::Relaxed);
        contact
    }

    /// The next living connection that a peer made. Cancel safe.
    pub(crate) async fn accept(&self) -> Option<Connection> {
        loop {
            let arrival = self.arrival.notified();
            {
                let mut accepted = lock(&self.accepted);
                while let Some(connection) = accepted.queue.pop_front() {
                    if !connection.is_closed() {
                        // Another waiter may have missed its turn.
                        self.arrival.notify_one();
                        return Some(connection);
                    }
                }
                if accepted.closed {
                    self.arrival.notify_waiters();
                    return None;
                }
            }
            arrival.await;
        }
    }

    fn push(&self, connection: Connection) {
        let mut accepted = lock(&self.accepted);
        accepted.queue.retain(|waiting| !waiting.is_closed());
        if accepted.queue.len() >= MAX_ACCEPTED {
            connection.close(code::CLOSED, "nobody accepts connections here");
            return;
        }
        accepted.queue.push_back(connection);
        drop(accepted);
        self.arrival.notify_one();
    }

    fn close(&self) {
        let mut accepted = lock(&self.accepted);
        accepted.closed = true;
        accepted.queue.clear();
        drop(accepted);
        self.arrival.notify_waiters();
        self.arrival.notify_one();
    }
}

/// What a task of the driver's ends with.
enum Done {
    Handshake(Handshake),
    /// The connection with this stable id ended.
    Ended(PeerId, usize),
    Interfaces(Vec<(IpAddr, u8)>),
    /// The network was looked at.
    Examined(Box<NetworkReport>),
    /// The login was given up; its events have said why.
    Login,
}

/// The queues that the driver reads.
pub(crate) struct Queues {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) raw: mpsc::Receiver<Raw>,
    pub(crate) notices: mpsc::Receiver<Notice>,
    pub(crate) relay: mpsc::Receiver<RelayEvent>,
}

/// What a driver is made from.
pub(crate) struct Parts {
    pub(crate) identity: Arc<Identity>,
    pub(crate) socket: Arc<MagicSocket>,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) quic: Quic,
    pub(crate) provider: Arc<dyn SocketProvider>,
    pub(crate) relay: Option<RelayAddress>,
    /// Who asks the router for an open port, where that is wanted.
    pub(crate) ports: Option<PortMapper>,
    /// When peers are looked for on the LAN.
    pub(crate) discovery: Discovery,
    /// Whether looking at the interfaces may block.
    pub(crate) system: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) notices: mpsc::Sender<Notice>,
    pub(crate) nudges: mpsc::Sender<Nudging>,
    pub(crate) state: watch::Sender<RelayState>,
    pub(crate) present: watch::Sender<Arc<BTreeSet<PeerId>>>,
    pub(crate) nat: watch::Sender<Option<NatReport>>,
}

/// See the module.
pub(crate) struct Driver {
    me: PeerId,
    parts: Parts,
    peers: HashMap<PeerId, PeerState>,
    /// Channel-opens without an answer.
    requests: HashMap<u32, PeerId>,
    next_request: u32,
    channels: HashMap<ChannelId, PeerId>,
    session: Option<Session>,
    observed: Option<SocketAddr>,
    survey: Option<Survey>,
    /// Who waits for a look at the network, while somebody looks.
    examining: Option<Vec<oneshot::Sender<NetworkReport>>>,
    guesses: Guesses,
    lan: Lan,
    interfaces: Vec<(IpAddr, u8)>,
    looking: bool,
    arriving: BTreeSet<PeerId>,
    seals: Seals,
    timers: Timers,
    tasks: JoinSet<Done>,
    next_attempt: u64,
}

enum Wake {
    Command(Option<Command>),
    Changed,
    Raw(Raw),
    Notice(Notice),
    Relay(RelayEvent),
    Incoming(Box<quinn::Incoming>),
    Done(Done),
    PortMapping,
    Sighting(Sighting),
    Timer,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            me: parts.identity.id(),
            seals: Seals::new(parts.identity.clone()),
            lan: Lan::new(parts.discovery),
            parts,
            peers: HashMap::new(),
            requests: HashMap::new(),
            next_request: 1,
            channels: HashMap::new(),
            session: None,
            observed: None,
            survey: None,
            examining: None,
            guesses: Guesses::default(),
            interfaces: Vec::new(),
            looking: false,
            arriving: BTreeSet::new(),
            timers: Timers::default(),
            tasks: JoinSet::new(),
            next_attempt: 1,
        }
    }

    /// Runs until the endpoint closes; `login` is the task that keeps the login at the relay.
    pub(crate) async fn run(
        mut self,
        mut queues: Queues,
        login: Option<impl Future<Output = ()> + Send + 'static>,
    ) {
        if let Some(login) = login {
            self.tasks.spawn(async move {
                login.await;
                Done::Login
            });
        }
        self.look_at_interfaces();
        self.plan_lan();
        let reply = loop {
            match self.wait(&mut queues).await {
                Wake::Command(None) => break None,
                Wake::Command(Some(Command::Close(reply))) => break Some(reply),
                Wake::Command(Some(Command::Connect(peer, reply))) => self.on_connect(peer, reply),
                Wake::Command(Some(Command::Examine(reply))) => self.on_examine(reply),
                Wake::Changed => self.on_changed(),
                Wake::Raw(raw) => self.on_raw(raw),
                Wake::Notice(notice) => self.on_notice(notice),
                Wake::Relay(event) => self.on_relay(event),
                Wake::Incoming(incoming) => self.on_incoming(*incoming),
                Wake::Done(done) => self.on_done(done),
                Wake::PortMapping => self.on_port_mapping(),
                Wake::Sighting(sighting) => self.on_sighting(sighting),
                Wake::Timer => self.on_timers(),
            }
        };
        self.finish().await;
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    async fn wait(&mut self, queues: &mut Queues) -> Wake {
        loop {
            let deadline = self.timers.next();
            let sleep = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let finder = self.lan.finder.as_ref();
            let seen = async {
                match finder {
                    Some(finder) => finder.next().await,
                    None => std::future::pending().await,
                }
            };
            let ports = self.parts.ports.as_mut();
            let mapped = async {
                match ports {
                    Some(ports) => ports.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = queues.commands.recv() => return Wake::Command(command),
                () = self.parts.shared.wake.notified() => return Wake::Changed,
                Some(raw) = queues.raw.recv() => return Wake::Raw(raw),
                Some(notice) = queues.notices.recv() => return Wake::Notice(notice),
                Some(event) = queues.relay.recv() => return Wake::Relay(event),
                Some(incoming) = self.parts.endpoint.accept() => {
                    return Wake::Incoming(Box::new(incoming));
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => return Wake::Done(done),
                    Err(error) => trace!(%error, "a task ended early"),
                },
                () = mapped => return Wake::PortMapping,
                sighting = seen => return Wake::Sighting(sighting),
                () = sleep => return Wake::Timer,
            }
        }
    }

    /// Tells everybody that we are gone, and waits a little for it to arrive.
    async fn finish(mut self) {
        self.parts.shared.close();
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.fail_dial(&peer, &ConnectError::Closed);
        }
        let why = b"the endpoint is closed";
        let lives: Vec<_> = self
            .peers
            .values()
            .filter_map(|state| state.live.as_ref())
            .map(|live| live.quinn.clone())
            .collect();
        // Beside the rest, and bounded: what stays open ends by itself.
        let ports = self.parts.ports.take();
        let released = ports.map(|ports| tokio::spawn(ports.stop()));
        // The relay forgets our channels with the login: what goes through them has to leave first.
        let _ = timeout(CLOSE_TIMEOUT / 2, tell(lives, why)).await;
        self.parts.endpoint.close(code::CLOSED.into(), why);
        let _ = timeout(CLOSE_TIMEOUT / 2, self.parts.endpoint.wait_idle()).await;
        if let Some(released) = released {
            let _ = released.await;
        }
    }

    fn on_timers(&mut self) {
        let now = now();
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Machine(peer) => self.input(&peer, Input::Timeout),
                Timer::Dial(peer) => self.on_dial_deadline(&peer),
                Timer::Open(peer) => self.send_open(&peer),
                Timer::Accept(peer) => self.send_accept(&peer),
                Timer::Settle(peer) => self.settle(&peer),
                Timer::Reopen(peer) => self.reopen(&peer),
                Timer::Linger(peer) => self.on_linger(&peer),
                Timer::Activity(peer) => self.on_activity(&peer),
                Timer::Sample(peer) => self.on_sample_timer(&peer),
                Timer::Interfaces => self.look_at_interfaces(),
                Timer::Survey => self.on_survey_timeout(),
                Timer::Lan => self.on_lan_timer(),
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Handshake(handshake) => self.on_handshake(handshake),
            Done::Ended(peer, id) => self.on_ended(&peer, id),
            Done::Interfaces(interfaces) => self.on_interfaces(interfaces),
            Done::Examined(report) => self.on_examined(*report),
            Done::Login => debug!("the login is over"),
        }
    }

    fn on_changed(&mut self) {
        let mut changed = std::mem::take(&mut *lock(&self.parts.shared.changed));
        if self.parts.shared.all_changed.swap(false, Ordering::Acquire) {
            changed.extend(self.peers.keys());
        }
        for peer in changed {
            if self.peers.contains_key(&peer) {
                let contact = self.parts.shared.contact(&peer);
                let accepted = contact.accepted == Some(true);
                // What withdraws consent goes first: nothing may slip out between the two.
                if !accepted {
                    self.input(&peer, Input::Accepted(false));
                }
                self.input(&peer, Input::RelayOnly(contact.relay_only));
                if accepted {
                    self.input(&peer, Input::Accepted(true));
                }
                self.drop_abandoned_dial(&peer);
            }
        }
        self.refresh_near();
    }

    /// Whether candidates and direct paths are for this peer.
    fn is_accepted(&self, peer: &PeerId) -> bool {
        let contact = self.parts.shared.contact(peer);
        contact.accepted == Some(true) && !contact.relay_only
    }

    fn on_raw(&mut self, raw: Raw) {
        match raw {
            Raw::Peer { peer, from, packet } => {
                self.input(
                    &peer,
                    Input::Packet {
                        from,
                        packet: &packet,
                    },
                );
            }
            Raw::Extra {
                peer,
                set,
                socket,
                from,
                packet,
            } => self.on_extra(&peer, (set, socket), from, &packet),
            Raw::Knock { from, packet } => {
                self.parts.socket.knock_taken();
                self.on_knock(from, &packet);
            }
            Raw::Relayed { peer, packet } => self.input(&peer, Input::RelayedPacket(&packet)),
            Raw::Relay { from, packet } => self.on_nudge(from, &packet),
            Raw::Stun { from, packet } => self.on_stun(from, &packet),
        }
    }

    /// A challenge proves to the relay that we hold a channel's keys at a new address (`relay.md` §4.2).
    fn on_nudge(&self, from: SocketAddr, packet: &[u8]) {
        match nudge::Nudge::parse(packet) {
            Some(nudge::Nudge::Challenge { end, nonce }) => {
                let tables = self.parts.socket.tables();
                let Some((channel, _)) = tables.channels.get(&end) else {
                    return;
                };
                if nudge::verify(&channel.down, packet).is_ok() {
                    let answer = nudge::answer(end, nonce, &channel.up);
                    self.parts.socket.send_raw(from, &answer);
                }
            }
            Some(nudge::Nudge::NoChannel { end }) => {
                if self.parts.socket.tables().channels.contains_key(&end) {
                    let _ = self.parts.nudges.try_send(Nudging::Doubt);
                }
            }
            Some(nudge::Nudge::Answer { .. }) | None => {}
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Flight(peer) => self.on_flight(&peer),
            Notice::Active(peer) => {
                self.timers
                    .set(Timer::Activity(peer), now() + Peer::ACTIVITY_INTERVAL);
            }
            Notice::Hint(peer) => self.on_activity(&peer),
            Notice::Spent(peer) => self.timers.set_default(Timer::Reopen(peer), now()),
        }
    }

    fn on_relay(&mut self, event: RelayEvent) {
        match event {
            RelayEvent::Connecting(last_error) => {
                self.on_offline();
                self.parts
                    .state
                    .send_replace(RelayState::Connecting { last_error });
            }
            RelayEvent::Online(session) => self.on_online(session),
            RelayEvent::Message(message) => self.on_message(message),
            RelayEvent::Failed(error) => {
                self.on_offline();
                self.parts
                    .state
                    .send_replace(RelayState::Failed(error.clone()));
                self.fail_waiting_dials(&ConnectError::RelayUnreachable(error.to_string()));
            }
        }
    }

    fn on_online(&mut self, session: Session) {
        let observed = canonical(session.welcome.observed);
        debug!(%observed, relay = %session.address, "logged in");
        self.observed = Some(observed);
        self.heed_loopback();
        self.plan_survey();
        let carrier = session.carrier();
        self.session = Some(session);
        self.arriving.clear();
        self.say(PresenceSubscribe {});
        self.parts
            .state
            .send_replace(RelayState::Online { observed, carrier });
        self.plan_lan();
        self.spread_surroundings();
        self.resume_dials();
        self.resume_channels();
    }

    fn on_offline(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        self.drop_channels();
        self.suspend_dials();
        self.parts.present.send_replace(Arc::new(self.near_peers()));
        self.plan_lan();
    }

    fn on_message(&mut self, message: FromRelay) {
        match message {
            FromRelay::ChannelOpened(opened) => self.on_channel_opened(&opened),
            FromRelay::ChannelOffered(offered) => self.on_channel_offered(offered),
            FromRelay::ChannelReady(ready) => self.on_channel_ready(ready),
            FromRelay::ChannelClosed(closed) => self.on_channel_closed(&closed),
            FromRelay::SignalFrom(signal) => self.on_signal(&signal),
            FromRelay::PresenceSnapshot(snapshot) => self.on_snapshot(&snapshot),
            FromRelay::PresenceDelta(delta) => self.on_delta(&delta),
            FromRelay::ObservedNow(now) => self.on_observed(canonical(now.address)),
            FromRelay::Refused(refused) => {
                debug!(
                    code = refused.code,
                    message = refused.message,
                    "the relay refuses"
                );
            }
            FromRelay::Welcome(_) | FromRelay::Goodbye(_) | FromRelay::Pong(_) => {}
        }
    }

    fn on_signal(&mut self, signal: &SignalFrom) {
        if self.peers.contains_key(&signal.from) {
            self.take_sealed(&signal.from, signal.kind, &signal.sealed, &signal.observed);
        }
    }

    fn on_snapshot(&mut self, snapshot: &PresenceSnapshot) {
        let room = MAX_PRESENT.saturating_sub(self.arriving.len());
        self.arriving.extend(
            snapshot
                .peers
                .iter()
                .take(room)
                .filter(|peer| **peer != self.me),
        );
        if !snapshot.more {
            let mut present = std::mem::take(&mut self.arriving);
            present.extend(self.near_peers());
            self.parts.present.send_replace(Arc::new(present));
        }
    }

    fn on_delta(&mut self, delta: &PresenceDelta) {
        let me = self.me;
        self.parts.present.send_modify(|present| {
            let present = Arc::make_mut(present);
            for peer in &delta.left {
                present.remove(peer);
            }
            for peer in delta.joined.iter().filter(|peer| **peer != me) {
                if present.len() < MAX_PRESENT {
                    present.insert(*peer);
                }
            }
        });
        for peer in &delta.joined {
            self.expect_channel(peer);
        }
    }

    fn on_observed(&mut self, address: SocketAddr) {
        if self.observed.replace(address) != Some(address) {
            debug!(%address, "the relay sees us elsewhere");
            self.plan_survey();
            self.parts.state.send_if_modified(|state| match state {
                RelayState::Online { observed, .. } => {
                    *observed = address;
                    true
                }
                _ => false,
            });
            self.spread_surroundings();
            self.ask_router_again();
            self.look_at_interfaces();
        }
    }

    /// Says something to the relay; lost where there is none or it does not take it.
    fn say(&self, message: impl Into<ToRelay>) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        session.outbox.try_send(message.into()).is_ok()
    }

    fn look_at_interfaces(&mut self) {
        self.timers
            .set(Timer::Interfaces, now() + INTERFACES_INTERVAL);
        if !self.parts.system {
            let interfaces = self.parts.provider.interfaces();
            self.on_interfaces(interfaces);
        } else if !self.looking {
            self.looking = true;
            let provider = self.parts.provider.clone();
            self.tasks
                .spawn_blocking(move || Done::Interfaces(provider.interfaces()));
        }
    }

    fn on_interfaces(&mut self, interfaces: Vec<(IpAddr, u8)>) {
        self.looking = false;
        if interfaces == self.interfaces {
            return;
        }
        let first = self.interfaces.is_empty();
        self.interfaces = interfaces;
        self.spread_surroundings();
        self.refresh_near();
        if !first {
            self.ask_router_again();
            let _ = self.parts.nudges.try_send(Nudging::NetworkChanged);
        }
    }

    fn spread_surroundings(&mut self) {
        let surroundings = self.surroundings();
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.input(&peer, Input::Surroundings(surroundings.clone()));
        }
    }

    fn surroundings(&self) -> Surroundings {
        let loopback = self
            .observed
            .is_some_and(|observed| observed.ip().is_loopback());
        Surroundings {
            candidates: self.candidates(loopback),
            prefixes: self.interfaces.clone(),
            relays: self.parts.socket.tables().relays.clone(),
            loopback,
            relay_round_trip: self.session.as_ref().map(|session| session.round_trip()),
        }
    }

    /// Where we may be reached. With a relay on loopback nothing but loopback counts (`wire.md` §6).
    fn candidates(&self, loopback: bool) -> Vec<Candidate> {
        let mut candidates = self.host_candidates(loopback);
        let Some(observed) = self.observed else {
            // Without a relay nobody but neighbours can be reached.
            return if self.lan.is_on() {
                candidates
            } else {
                Vec::new()
            };
        };
        // Over TCP the relay sees the port of that connection, which says nothing about our UDP port.
        let over_tcp = self.session.as_ref().is_some_and(Session::is_tcp);
        if !over_tcp
            && candidates
                .iter()
                .all(|candidate| candidate.address != observed)
        {
            candidates.push(Candidate {
                kind: CandidateKind::ServerReflexive,
                address: observed,
            });
        }
        if !loopback {
            candidates.extend(self.mapped_candidate());
        }
        candidates
    }

    /// The addresses of our interfaces, or of loopback.
    fn host_candidates(&self, loopback: bool) -> Vec<Candidate> {
        let port = self.parts.socket.port();
        let host = |ip: IpAddr| SocketAddr::new(ip, port);
        let hosts: Vec<_> = if loopback {
            vec![
                host([127, 0, 0, 1].into()),
                host(std::net::Ipv6Addr::LOCALHOST.into()),
            ]
        } else {
            self.interfaces
                .iter()
                .map(|(ip, _)| host(*ip))
                .filter(is_candidate)
                .collect()
        };
        hosts
            .into_iter()
            .filter(|address| self.parts.socket.reaches(address))
            .take(MAX_CANDIDATES - 1)
            .map(|address| Candidate {
                kind: CandidateKind::Host,
                address,
            })
            .collect()
    }
}

/// Closes `connections` and waits until each has said so.
async fn tell(connections: Vec<quinn::Connection>, why: &[u8]) {
    let sent = |live: &quinn::Connection| live.stats().udp_tx.datagrams;
    let before: Vec<_> = connections.iter().map(sent).collect();
    for live in &connections {
        live.close(code::CLOSED.into(), why);
    }
    for (live, before) in connections.iter().zip(before) {
        // A connection that the peer closed first has nothing more to say.
        while live.close_reason() == Some(ConnectionError::LocallyClosed) && sent(live) == before {
            sleep(CLOSE_LOOK).await;
        }
    }
}

/// Whether the address of an interface can be told to others at all.
fn is_candidate(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local(),
        // Link-local addresses mean nothing without the interface's own scope.
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}
