//! Two `Peer` state machines, a relay between them and traffic through them, in virtual time: what the
//! drivers do around the machines, reduced to what the machines can notice.
//!
//! The relay is a host of the world, so that translators map it like any other; signals and relayed packets
//! take the time of both legs and are lost while it is down. Traffic is numbered packets at a steady
//! interval, each second one acknowledged, sent wherever the machine's route says.

mod guessing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_net_proto::wire::{Answer, Guess, Hint, ObservedAddress, Offer};
use p2p_net_proto::{
    Activity, Candidate, Event, Input, Output, PathInfo, Peer, PeerConfig, PeerId, Route,
    SignalBody, local_candidates,
};

use self::guessing::Extras;
use crate::seed::derive;
use crate::{Clock, Counters, HostId, Link, LinkConfig, NatConfig, Payload, Place, World};

/// The port of both peers.
pub const PORT: u16 = 5_000;
const RELAY_PORT: u16 = 443;
/// How often a side shows itself to the relay, which keeps its mapping and tells it a new one.
const HELLO: Duration = Duration::from_secs(20);
/// A receiver acknowledges each second packet at once, and a lone one after this (RFC 9000 §13.2).
const ACK_DELAY: Duration = Duration::from_millis(25);
/// The driver goes on to report for this long after the last packet.
const REPORTS: Duration = Duration::from_secs(1);
/// Bytes that a packet of the flow stands for.
const FULL_PACKET: u64 = 1_200;
/// Steps of one run at most: a machine that spins is a failure, not a test that hangs.
const MAX_STEPS: usize = 20_000_000;

/// The two sides of a pair.
pub const SIDES: [usize; 2] = [0, 1];

/// How two peers are connected. Side 0 has the smaller id.
#[derive(Debug, Clone)]
pub struct PairConfig {
    /// What all chance follows from.
    pub seed: u64,
    /// Before each side; `None`: a public address.
    pub nats: [Option<NatConfig>; 2],
    /// Put both behind the first side's translator.
    pub neighbours: bool,
    /// One-way delay between each side and the relay.
    pub relay_delay: [Duration; 2],
    /// The direct link, each way.
    pub direct: LinkConfig,
    /// Whether each side has accepted the other.
    pub accepted: [bool; 2],
    /// Whether each side goes through the relay on principle.
    pub relay_only: [bool; 2],
    /// How many extra sockets the system gives each side.
    pub extra_sockets: [u16; 2],
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            nats: [
                Some(NatConfig::port_restricted()),
                Some(NatConfig::port_restricted()),
            ],
            neighbours: false,
            relay_delay: [Duration::from_millis(20); 2],
            direct: LinkConfig::delay(Duration::from_millis(20)),
            accepted: [true; 2],
            relay_only: [false; 2],
            extra_sockets: [u16::MAX; 2],
        }
    }
}

#[derive(Debug, Clone)]
enum Packet {
    Probe(Vec<u8>),
    Data(u64),
    Ack,
    /// To the relay, which knows by other means whose it is.
    Hello(usize),
    /// Of an extra socket to one of the relay's ports: a side, a socket, a port.
    Question(usize, u16, u8),
}

impl Payload for Packet {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Probe(bytes) => bytes.len(),
            Self::Data(_) => 1_000,
            Self::Ack | Self::Hello(_) | Self::Question(..) => 40,
        }
    }
}

/// What travels through the relay, or happens to a side at a time.
#[derive(Debug)]
enum Coming {
    /// At the relay, from this side.
    Signal(SignalBody),
    Observed(SocketAddr),
    Offer(Offer, Vec<ObservedAddress>),
    Answer(Answer, Vec<ObservedAddress>),
    Hint(Hint),
    Guess(Guess),
    Samples,
    Relayed(Packet),
    /// A probe or pong through the channel.
    RelayedProbe(Vec<u8>),
    Channel(bool),
}

/// A packet of traffic that arrived for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its number, from 0.
    pub number: u64,
    /// When, since the beginning.
    pub at: Duration,
    /// Not through the relay.
    pub direct: bool,
}

/// One side: its machine, and all that it did.
pub struct Side {
    /// Where it is in the world.
    pub host: HostId,
    /// Its machine.
    pub peer: Peer,
    /// Each route it asked for: since when, where, and whether it is suspect.
    pub routes: Vec<(Duration, Route, bool)>,
    /// Events it told.
    pub events: Vec<(Duration, PathInfo)>,
    /// Signals it sent.
    pub signals: Vec<(Duration, SignalBody)>,
    /// Probes and pongs it sent: when and to where.
    pub probes: Vec<(Duration, SocketAddr)>,
    /// Probes and pongs that reached it.
    pub heard: Vec<Vec<u8>>,
    /// Packets that opened ports, from extra sockets: when and to where.
    pub openers: Vec<(Duration, SocketAddr)>,
    /// Guesses that ended, and whether they failed.
    pub guesses: Vec<(Duration, bool)>,
    /// Traffic that reached it.
    pub arrivals: Vec<Arrival>,
    /// Key ids it listens for.
    pub listens: BTreeSet<u64>,
    /// Addresses that it bound to the other one.
    pub bound: BTreeSet<SocketAddr>,
    extras: Extras,
    reserved: Option<IpAddr>,
    route: (Route, bool),
    /// From where the relay sees it, and what itself knows of that.
    observed: Option<SocketAddr>,
    known: Option<SocketAddr>,
    observed_at: Option<Instant>,
    activity: Activity,
    /// Traffic sent straight of which it is not known yet whether it came.
    awaited: VecDeque<(u64, Instant)>,
    last_gap_at: Option<Instant>,
    traffic_at: Option<Instant>,
    report_at: Option<Instant>,
    flow: Option<Duration>,
    flow_at: Option<Instant>,
    next_number: u64,
    seen: BTreeSet<u64>,
    unacknowledged: u32,
    ack_at: Option<Instant>,
    hello_at: Instant,
}

/// Two peers, a relay and the networks between them.
pub struct Pair {
    config: PairConfig,
    world: World<Packet>,
    clock: Clock,
    relay: HostId,
    relay_up: bool,
    /// What becomes of packets through the relay, by their sender.
    relayed: [Link; 2],
    /// The two sides.
    pub sides: [Side; 2],
    coming: BTreeMap<(Instant, u64), (usize, Coming)>,
    sequence: u64,
    relayed_probes: u64,
}

impl Pair {
    /// Builds the networks; both sides are logged in at the relay and know their surroundings.
    pub fn new(config: PairConfig) -> Self {
        let clock = Clock::new();
        let mut world = World::new(config.seed);
        let relay = world.add_host(Place::Internet);
        let mut places = config.nats.map(|nat| match nat {
            Some(nat) => Place::Behind(world.add_nat(nat, Place::Internet)),
            None => Place::Internet,
        });
        if config.neighbours {
            places[1] = places[0];
        }
        let hosts = places.map(|place| world.add_host(place));
        for side in SIDES {
            world.set_link(
                hosts[side],
                relay,
                LinkConfig::delay(config.relay_delay[side]),
            );
        }
        if !config.neighbours {
            world.set_link(hosts[0], hosts[1], config.direct);
        }
        let now = clock.now();
        let sides = SIDES.map(|side| Side::new(now, side, hosts[side], &config));
        let coming = BTreeMap::new();
        let whole = LinkConfig::delay(config.relay_delay[0] + config.relay_delay[1]);
        let relayed = SIDES.map(|side| Link::new(whole, derive(config.seed, 60 + side as u64)));
        let mut pair = Self {
            config,
            world,
            clock,
            relay,
            relay_up: true,
            relayed,
            sides,
            coming,
            sequence: 0,
            relayed_probes: 0,
        };
        SIDES.into_iter().for_each(|side| pair.hello(side));
        let legs = pair.config.relay_delay;
        pair.run_for(legs[0].max(legs[1]) * 2 + Duration::from_millis(1));
        pair
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// R: peer to peer and back through the relay.
    pub fn relay_round_trip(&self) -> Duration {
        (self.config.relay_delay[0] + self.config.relay_delay[1]) * 2
    }

    /// What became of the packets so far.
    pub fn counters(&self) -> Counters {
        self.world.counters()
    }

    /// `side` dials the other: the Offer goes along with a channel.
    pub fn dial(&mut self, side: usize) {
        self.input(side, Input::Wanted(true));
        self.input(side, Input::Dial);
        let opened = self.clock.now() + self.config.relay_delay[side] * 2;
        self.schedule(opened, side, Coming::Channel(true));
        let offered = self.clock.now() + self.one_way();
        self.schedule(offered, 1 - side, Coming::Channel(true));
    }

    /// Hands an input to one machine.
    pub fn input(&mut self, side: usize, input: Input<'_>) {
        let now = self.clock.now();
        self.sides[side].peer.handle_input(now, input);
        self.drain(side);
    }

    /// Lets `side` send a packet each `interval`, or stop.
    pub fn flow(&mut self, side: usize, interval: Option<Duration>) {
        self.sides[side].flow = interval;
        self.sides[side].flow_at = interval.map(|_| self.clock.now());
    }

    /// Stops the direct path silently, both ways.
    pub fn cut(&mut self) {
        self.world.cut(self.sides[0].host, self.sides[1].host);
    }

    /// Stops what `side` sends on the direct path.
    pub fn cut_from(&mut self, side: usize) {
        self.world
            .cut_one_way(self.sides[side].host, self.sides[1 - side].host);
    }

    /// Lets it pass again.
    pub fn heal(&mut self) {
        self.world
            .heal(self.clock.now(), self.sides[0].host, self.sides[1].host);
    }

    /// Changes the direct link from now on.
    pub fn set_direct(&mut self, link: LinkConfig) {
        self.world
            .set_link(self.sides[0].host, self.sides[1].host, link);
    }

    /// Changes what becomes of packets through the relay, both ways; its delay stays.
    pub fn set_relay_link(&mut self, link: LinkConfig) {
        let delay = self.one_way();
        for relayed in &mut self.relayed {
            relayed.set_config(LinkConfig { delay, ..link });
        }
    }

    /// Gives both sides a line that all they send shares, whatever its way; `None` takes it away.
    pub fn set_uplinks(&mut self, config: Option<LinkConfig>) {
        for side in SIDES {
            self.world.set_uplink(self.sides[side].host, config);
        }
    }

    /// Takes the relay down or up; both sides notice at once.
    pub fn set_relay(&mut self, up: bool) {
        self.relay_up = up;
        for side in SIDES {
            if up {
                self.hello(side);
            }
            self.input(side, Input::Relay(up));
        }
    }

    /// Makes the translator before `side` forget its whole table.
    pub fn flush(&mut self, side: usize) {
        if let Some(nat) = self.world.nat_of(self.sides[side].host) {
            self.world.nat_mut(nat).flush();
        }
    }

    /// Makes the translator before `side` forget its mappings and take other ports.
    pub fn rebind(&mut self, side: usize) {
        if let Some(nat) = self.world.nat_of(self.sides[side].host) {
            self.world.nat_mut(nat).rebind();
        }
    }

    /// Moves `side` to a network behind another translator; it shows itself to the relay at once.
    pub fn roam(&mut self, side: usize, nat: NatConfig) {
        let nat = self.world.add_nat(nat, Place::Internet);
        let host = self.sides[side].host;
        self.world.move_host(host, Place::Behind(nat));
        let other = self.sides[1 - side].host;
        self.world.set_link(
            host,
            self.relay,
            LinkConfig::delay(self.config.relay_delay[side]),
        );
        self.world.set_link(host, other, self.config.direct);
        self.hello(side);
    }

    /// Hands `side` a probe or pong that somebody sent as if from `from`.
    pub fn forge(&mut self, side: usize, from: SocketAddr, bytes: &[u8]) {
        self.input(
            side,
            Input::Packet {
                from,
                packet: bytes,
            },
        );
    }

    /// Probes and pongs that went through the relay so far.
    pub fn relayed_probes(&self) -> u64 {
        self.relayed_probes
    }

    /// Says whether the traffic of both sides is a call, which keeps its rate below what fills queues.
    pub fn set_call(&mut self, call: bool) {
        for side in &mut self.sides {
            side.activity.call = call;
        }
    }

    /// Where the relay sees `side`.
    pub fn observed(&self, side: usize) -> Option<SocketAddr> {
        self.sides[side].observed
    }

    /// Runs until the virtual time is over.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, at most for `limit`; how long it took.
    ///
    /// # Panics
    /// If the machines make no progress in time.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.clock.now();
        for _ in 0..MAX_STEPS {
            if done(self) {
                return Some(self.clock.now() - start);
            }
            let next = self.next_at().filter(|next| *next <= start + limit);
            self.clock.advance_to(next.unwrap_or(start + limit));
            next?;
            self.step();
        }
        panic!("no progress in virtual time");
    }

    /// Whether both sides use a direct path.
    pub fn both_direct(&self) -> bool {
        self.sides
            .iter()
            .all(|side| matches!(side.route.0, Route::Direct(_)))
    }

    /// Whether both sides use the relay.
    pub fn both_relayed(&self) -> bool {
        self.sides.iter().all(|side| side.route.0 == Route::Relay)
    }

    /// Where `side` sends now.
    pub fn route(&self, side: usize) -> Route {
        self.sides[side].route.0
    }

    fn one_way(&self) -> Duration {
        self.config.relay_delay[0] + self.config.relay_delay[1]
    }

    fn next_at(&self) -> Option<Instant> {
        let sides = self.sides.iter().flat_map(|side| {
            [
                side.peer.poll_timeout(),
                side.flow_at,
                side.ack_at,
                side.report_at,
                Some(side.hello_at),
            ]
        });
        let coming = self.coming.first_key_value().map(|((at, _), _)| *at);
        sides
            .flatten()
            .chain(self.world.next_at())
            .chain(coming)
            .min()
    }

    fn step(&mut self) {
        let now = self.clock.now();
        while let Some(delivery) = self.world.deliver(now) {
            if delivery.host == self.relay {
                self.on_relay_packet(delivery.from, delivery.payload);
            } else if let Some(side) = SIDES
                .into_iter()
                .find(|s| self.sides[*s].host == delivery.host)
            {
                self.on_packet(side, delivery.to.port(), delivery.from, delivery.payload);
            }
        }
        while let Some(entry) = self
            .coming
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let (side, coming) = entry.remove();
            self.on_coming(side, coming);
        }
        for side in SIDES {
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if due(self.sides[side].flow_at) {
                self.send_flow(side);
            }
            if due(self.sides[side].ack_at) {
                self.send_ack(side);
            }
            if due(self.sides[side].report_at) {
                self.report(side);
            }
            if due(Some(self.sides[side].hello_at)) {
                self.hello(side);
            }
            if due(self.sides[side].peer.poll_timeout()) {
                self.input(side, Input::Timeout);
            }
        }
    }

    fn on_relay_packet(&mut self, from: SocketAddr, packet: Packet) {
        if !self.relay_up {
            return;
        }
        let side = match packet {
            Packet::Hello(side) => side,
            Packet::Question(side, socket, server) => {
                return self.on_question(side, socket, server, from);
            }
            Packet::Probe(_) | Packet::Data(_) | Packet::Ack => return,
        };
        let now = self.clock.now();
        self.sides[side].observed_at = Some(now);
        if self.sides[side].observed.replace(from) != Some(from) {
            self.schedule(
                now + self.config.relay_delay[side],
                side,
                Coming::Observed(from),
            );
        }
    }

    fn surroundings(&self, side: usize) -> p2p_net_proto::Surroundings {
        let own = &self.sides[side];
        let observed: Vec<SocketAddr> = own.known.into_iter().collect();
        let relay = SocketAddr::new(self.world.addresses(self.relay)[0], RELAY_PORT);
        p2p_net_proto::Surroundings {
            candidates: local_candidates(self.world.addresses(own.host), PORT, &observed, false),
            prefixes: self.world.prefixes(own.host),
            relays: vec![relay],
            loopback: false,
            relay_round_trip: Some(self.config.relay_delay[side] * 2),
        }
    }

    fn on_packet(&mut self, side: usize, port: u16, from: SocketAddr, packet: Packet) {
        match packet {
            Packet::Probe(bytes) => {
                let ours = p2p_net_proto::probe::key_id(&bytes)
                    .is_some_and(|id| self.sides[side].listens.contains(&id));
                if ours && !self.on_extra(side, port, from, &bytes) {
                    self.sides[side].heard.push(bytes.clone());
                    self.input(
                        side,
                        Input::Packet {
                            from,
                            packet: &bytes,
                        },
                    );
                }
            }
            Packet::Data(_) | Packet::Ack => {
                let own = &self.sides[side];
                if own.extras.is_quic(port) && own.bound.contains(&from) {
                    self.receive(side, packet, true);
                }
            }
            Packet::Hello(_) | Packet::Question(..) => {}
        }
    }

    fn on_coming(&mut self, side: usize, coming: Coming) {
        match coming {
            Coming::Channel(usable) => self.input(side, Input::Relay(usable && self.relay_up)),
            _ if !self.relay_up => {}
            Coming::Signal(body) => self.pass_on(side, body),
            Coming::Observed(address) => {
                self.sides[side].known = Some(address);
                let surroundings = self.surroundings(side);
                self.input(side, Input::Surroundings(surroundings));
            }
            Coming::Offer(offer, observed) => {
                self.input(side, Input::Wanted(true));
                self.input(side, Input::Offer(offer, observed));
            }
            Coming::Answer(answer, observed) => self.input(side, Input::Answer(answer, observed)),
            Coming::Hint(hint) => self.input(side, Input::Hint(hint)),
            Coming::Guess(guess) => self.input(side, Input::Guess(guess)),
            Coming::Samples => self.on_samples(side),
            Coming::Relayed(packet) => self.receive(side, packet, false),
            Coming::RelayedProbe(packet) => self.input(side, Input::RelayedPacket(&packet)),
        }
    }

    fn receive(&mut self, side: usize, packet: Packet, direct: bool) {
        let now = self.clock.now();
        let elapsed = self.clock.elapsed();
        let own = &mut self.sides[side];
        own.touch(now);
        if direct {
            own.activity.transferred_bytes += FULL_PACKET;
            own.activity.direct_received += 1;
            own.activity.direct_received_at = Some(now);
            own.measure_gap(now);
        } else {
            own.activity.relay_received_at = Some(now);
        }
        let Packet::Data(number) = packet else { return };
        if own.seen.insert(number) {
            own.arrivals.push(Arrival {
                number,
                at: elapsed,
                direct,
            });
        }
        own.unacknowledged += 1;
        own.ack_at.get_or_insert(now + ACK_DELAY);
        if own.unacknowledged >= 2 {
            self.send_ack(side);
        }
    }

    fn send_ack(&mut self, side: usize) {
        self.sides[side].unacknowledged = 0;
        self.sides[side].ack_at = None;
        self.send(side, &Packet::Ack);
    }

    fn send_flow(&mut self, side: usize) {
        let own = &mut self.sides[side];
        let number = own.next_number;
        own.next_number += 1;
        own.flow_at = own
            .flow
            .zip(own.flow_at)
            .map(|(interval, at)| at + interval);
        self.send(side, &Packet::Data(number));
    }

    fn send(&mut self, side: usize, packet: &Packet) {
        let now = self.clock.now();
        let (route, duplicate) = self.sides[side].route;
        self.sides[side].touch(now);
        self.sides[side].activity.transferred_bytes += FULL_PACKET;
        if let Route::Direct(to) = route {
            self.sides[side].activity.direct_sent += 1;
            self.sides[side].activity.direct_sent_at = Some(now);
            let (host, port) = (self.sides[side].host, self.sides[side].extras.port_to(to));
            self.world.send(now, host, port, to, packet.clone());
        }
        if let (Packet::Data(number), Route::Direct(_)) = (packet, route) {
            self.sides[side].awaited.push_back((*number, now));
        }
        if route == Route::Relay || duplicate {
            let bytes = packet.size_bytes();
            self.over_relay(side, bytes, Coming::Relayed(packet.clone()));
        }
    }

    /// Sends something of `side` through the relay.
    fn over_relay(&mut self, side: usize, bytes: usize, what: Coming) {
        let now = self.clock.now();
        let left_at = self.world.leave(now, self.sides[side].host, bytes);
        let arrives = left_at.and_then(|at| self.relayed[side].send(at, bytes).arrives);
        if let Some(at) = arrives {
            self.schedule(at, 1 - side, what);
        }
    }

    /// Counts packets as lost that QUIC would find lost by now.
    fn find_losses(&mut self, side: usize, patience: Duration) {
        let now = self.clock.now();
        let late = |at: Instant| now.saturating_duration_since(at) > patience;
        while let Some((number, _)) = self.sides[side].awaited.front().filter(|(_, at)| late(*at)) {
            let lost = !self.sides[1 - side].seen.contains(number);
            self.sides[side].activity.direct_lost += u64::from(lost);
            self.sides[side].awaited.pop_front();
        }
    }

    fn report(&mut self, side: usize) {
        let now = self.clock.now();
        let relayed = self.relay_round_trip();
        let own = &mut self.sides[side];
        let recent = own
            .traffic_at
            .is_some_and(|at| now.saturating_duration_since(at) < REPORTS);
        own.report_at = recent.then(|| now + Peer::ACTIVITY_INTERVAL);
        let round_trip = own.peer.path().round_trip.unwrap_or(relayed);
        own.activity.probe_timeout = Some(round_trip * 3 / 2 + ACK_DELAY);
        self.find_losses(side, round_trip + ACK_DELAY * 3);
        let activity = self.sides[side].activity;
        self.input(side, Input::Activity(activity));
    }

    fn hello(&mut self, side: usize) {
        let now = self.clock.now();
        self.sides[side].hello_at = now + HELLO;
        let relay = SocketAddr::new(self.world.addresses(self.relay)[0], RELAY_PORT);
        let host = self.sides[side].host;
        self.world.send(now, host, PORT, relay, Packet::Hello(side));
    }

    fn drain(&mut self, side: usize) {
        let now = self.clock.now();
        let elapsed = self.clock.elapsed();
        while let Some(output) = self.sides[side].peer.poll_output() {
            let own = &mut self.sides[side];
            match output {
                Output::Transmit { to, payload } => {
                    own.probes.push((elapsed, to));
                    let (host, port) = (own.host, own.extras.port_to(to));
                    self.world.send(now, host, port, to, Packet::Probe(payload));
                }
                Output::Relay(payload) => {
                    self.relayed_probes += 1;
                    let bytes = payload.len();
                    self.over_relay(side, bytes, Coming::RelayedProbe(payload));
                }
                Output::Signal(body) => {
                    own.signals.push((elapsed, body.clone()));
                    self.signal(side, body);
                }
                Output::Listen(id) => assert!(own.listens.insert(id), "listens twice"),
                Output::Unlisten(id) => assert!(own.listens.remove(&id), "never listened"),
                Output::Bind(address, true) => assert!(own.bound.insert(address), "bound twice"),
                Output::Bind(address, false) => assert!(own.bound.remove(&address), "not bound"),
                Output::Route {
                    route,
                    suspect,
                    duplicate,
                } => {
                    own.route = (route, duplicate);
                    if own
                        .routes
                        .last()
                        .map(|(_, route, suspect)| (*route, *suspect))
                        != Some((route, suspect))
                    {
                        own.routes.push((elapsed, route, suspect));
                    }
                }
                Output::Event(Event::Path(info)) => own.events.push((elapsed, info)),
                output => self.guess(side, output),
            }
        }
        assert!(
            self.sides[side].listens.len() <= 2,
            "two sets of keys at most"
        );
    }

    /// Signals go to the relay from the same socket as everything else: it sees the address that holds now.
    fn signal(&mut self, side: usize, body: SignalBody) {
        self.hello(side);
        let at = self.clock.now() + self.config.relay_delay[side];
        self.schedule(at, side, Coming::Signal(body));
    }

    fn pass_on(&mut self, side: usize, body: SignalBody) {
        let own = &self.sides[side];
        let now = self.clock.now();
        let age = own
            .observed_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let age_millis = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
        let attested = own.observed.filter(|_| body.attest());
        let observed: Vec<ObservedAddress> = attested
            .map(|address| ObservedAddress {
                address,
                age_millis,
            })
            .into_iter()
            .collect();
        let coming = match body {
            SignalBody::Offer(offer) => Coming::Offer(offer, observed),
            SignalBody::Answer(answer) => Coming::Answer(answer, observed),
            SignalBody::Hint(hint) => Coming::Hint(hint),
            SignalBody::Guess(guess) => Coming::Guess(guess),
        };
        self.schedule(now + self.config.relay_delay[1 - side], 1 - side, coming);
    }

    fn schedule(&mut self, at: Instant, side: usize, coming: Coming) {
        self.coming.insert((at, self.sequence), (side, coming));
        self.sequence += 1;
    }
}

impl Side {
    fn new(now: Instant, side: usize, host: HostId, config: &PairConfig) -> Self {
        let ids = [PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32])];
        let mut seed = [side as u8; 32];
        seed[..8].copy_from_slice(&derive(config.seed, 77 + side as u64).to_be_bytes());
        let peer = Peer::new(
            now,
            PeerConfig {
                me: ids[side],
                peer: ids[1 - side],
                secret: [7; 32],
                accepted: config.accepted[side],
                relay_only: config.relay_only[side],
                seed,
            },
        );
        Self {
            host,
            peer,
            routes: Vec::new(),
            events: Vec::new(),
            signals: Vec::new(),
            probes: Vec::new(),
            heard: Vec::new(),
            openers: Vec::new(),
            guesses: Vec::new(),
            extras: Extras::new(config.extra_sockets[side]),
            reserved: None,
            arrivals: Vec::new(),
            listens: BTreeSet::new(),
            bound: BTreeSet::new(),
            route: (Route::None, false),
            observed: None,
            known: None,
            observed_at: None,
            activity: Activity::default(),
            awaited: VecDeque::new(),
            last_gap_at: None,
            traffic_at: None,
            report_at: None,
            flow: None,
            flow_at: None,
            next_number: 0,
            seen: BTreeSet::new(),
            unacknowledged: 0,
            ack_at: None,
            hello_at: now + HELLO,
        }
    }

    /// Candidates in any signal that it sent.
    pub fn offered(&self) -> impl Iterator<Item = &Candidate> {
        self.signals.iter().flat_map(|(_, body)| match body {
            SignalBody::Offer(offer) => offer.candidates.as_slice(),
            SignalBody::Answer(answer) => answer.candidates.as_slice(),
            SignalBody::Hint(_) | SignalBody::Guess(_) => &[],
        })
    }

    /// The longest time without a new packet of traffic since `from`.
    pub fn longest_gap(&self, from: Duration, until: Duration) -> Duration {
        let within = self.arrivals.iter().map(|arrival| arrival.at);
        let times: Vec<Duration> = std::iter::once(from)
            .chain(within.filter(|at| *at > from && *at < until))
            .chain([until])
            .collect();
        times
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default()
    }

    /// Addresses that it probed.
    pub fn probed(&self) -> BTreeSet<IpAddr> {
        self.probes.iter().map(|(_, to)| to.ip()).collect()
    }

    fn touch(&mut self, now: Instant) {
        self.traffic_at = Some(now);
        self.report_at.get_or_insert(now + Peer::ACTIVITY_INTERVAL);
    }

    fn measure_gap(&mut self, now: Instant) {
        let Some(before) = self.last_gap_at.replace(now) else {
            return;
        };
        let gap = now.saturating_duration_since(before);
        let smoothed =
            self.activity
                .direct_gap
                .map_or((gap, Duration::ZERO), |(mean, deviation)| {
                    (
                        (mean * 7 + gap) / 8,
                        (deviation * 7 + mean.abs_diff(gap)) / 8,
                    )
                });
        self.activity.direct_gap = Some(smoothed);
    }
}
