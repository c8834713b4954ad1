//! One `Peer` against a peer that has its keys and does whatever it likes: forged and replayed probes, absurd
//! candidates, floods of Offers, spoofed sources, in any order. What must hold, holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_net_proto::probe::{Opened, Pong, Probe, ProbeKeys};
use p2p_net_proto::wire::{Answer, ObservedAddress, Offer};
use p2p_net_proto::{
    Activity, Attestation, Candidate, CandidateKind, Event, Input, Output, Peer, PeerConfig,
    PeerId, Route, SignalBody, Surroundings, Transaction, usable,
};
use proptest::prelude::*;

const ME: PeerId = PeerId::from_bytes([1; 32]);
const THEM: PeerId = PeerId::from_bytes([2; 32]);
const SECRET: [u8; 32] = [7; 32];
/// Packets that one input may cause: every pair of a round and every path once, and the answer.
const MAX_TRANSMITS: usize = 24;
const MILLI: Duration = Duration::from_millis(1);
/// Ten candidates and four sources, nine probes each, twenty a second.
const LONGEST_ROUND: Duration = Duration::from_secs(7);

/// Addresses that the other side claims, sends from and answers from.
const ADDRESSES: [&str; 9] = [
    "203.0.113.7:4000",
    "203.0.113.7:4001",
    "192.168.1.77:4000",
    "[2001:db8::7]:4000",
    "198.51.100.66:53",
    "198.51.100.67:123",
    "203.0.113.1:443",
    "224.0.0.251:5353",
    "127.0.0.1:22",
];

fn address(index: usize) -> SocketAddr {
    ADDRESSES[index % ADDRESSES.len()]
        .parse()
        .expect("an address")
}

fn candidate(index: usize) -> Candidate {
    Candidate {
        kind: CandidateKind::Host,
        address: address(index),
    }
}

fn surroundings(variant: u8) -> Surroundings {
    let own = |text: &str, kind| Candidate {
        kind,
        address: text.parse().expect("an address"),
    };
    let mut candidates = vec![own("192.168.1.2:5000", CandidateKind::Host)];
    match variant % 3 {
        0 => candidates.clear(),
        1 => {}
        _ => candidates.push(own("203.0.113.200:5000", CandidateKind::ServerReflexive)),
    }
    Surroundings {
        candidates,
        prefixes: vec![("192.168.1.2".parse().expect("an address"), 24)],
        relays: vec![address(6)],
        loopback: false,
        relay_round_trip: Some(40 * MILLI),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u32),
    Wanted(bool),
    Dial,
    Accepted(bool),
    Relay(bool),
    Surroundings(u8),
    /// Candidates, what the relay attests, the age of that in seconds, the claimed round trip.
    Offer(Vec<usize>, Vec<usize>, u32, u32),
    /// The same, for the last Offer of ours or for none.
    Answer(Vec<usize>, Vec<usize>, bool),
    /// An authentic probe from there, under one of the newest sets.
    Probe(usize, bool),
    /// An answer to the newest probe that went to this address, from this one.
    Pong(usize, usize),
    Replay,
    Garbage(usize, Vec<u8>),
    Activity(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(0..ADDRESSES.len(), 0..14);
    prop_oneof![
        6 => (0u32..1_500).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Wanted),
        1 => Just(Step::Dial),
        1 => prop::bool::weighted(0.8).prop_map(Step::Accepted),
        1 => any::<bool>().prop_map(Step::Relay),
        1 => any::<u8>().prop_map(Step::Surroundings),
        3 => (some(), some(), 0u32..90, any::<u32>()).prop_map(|(a, b, c, d)| Step::Offer(a, b, c, d)),
        3 => (some(), some(), prop::bool::weighted(0.9)).prop_map(|(a, b, c)| Step::Answer(a, b, c)),
        6 => (0..ADDRESSES.len(), prop::bool::weighted(0.8)).prop_map(|(a, b)| Step::Probe(a, b)),
        8 => (0..ADDRESSES.len(), 0..ADDRESSES.len(), prop::bool::weighted(0.8))
            .prop_map(|(to, from, honest)| Step::Pong(to, if honest { to } else { from })),
        2 => Just(Step::Replay),
        1 => (0..ADDRESSES.len(), prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(from, bytes)| Step::Garbage(from, bytes)),
        4 => (0u8..4, 0u8..4).prop_map(|(sent, received)| Step::Activity(sent, received)),
    ]
}

/// The machine, and the one who plays with it.
struct Game {
    now: Instant,
    peer: Peer,
    surroundings: Surroundings,
    accepted: bool,
    attested: Vec<(ObservedAddress, Instant)>,
    keys: Vec<ProbeKeys>,
    offered: Option<Offer>,
    /// Our probes that it may answer, by where they went.
    probes: BTreeMap<SocketAddr, (usize, Transaction)>,
    last_packet: Option<(SocketAddr, [u8; 64])>,
    proven: BTreeSet<SocketAddr>,
    listens: BTreeSet<u64>,
    bound: BTreeSet<SocketAddr>,
    /// Packets to and from addresses that nobody vouches for.
    balance: BTreeMap<SocketAddr, i64>,
    activity: Activity,
    numbers: u8,
}

impl Game {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as a beginning"
    )]
    fn new() -> Self {
        let now = Instant::now();
        let config = PeerConfig {
            me: ME,
            peer: THEM,
            secret: SECRET,
            accepted: true,
            relay_only: false,
            seed: [3; 32],
        };
        Self {
            now,
            peer: Peer::new(now, config),
            surroundings: Surroundings::default(),
            accepted: true,
            attested: Vec::new(),
            keys: Vec::new(),
            offered: None,
            probes: BTreeMap::new(),
            last_packet: None,
            proven: BTreeSet::new(),
            listens: BTreeSet::new(),
            bound: BTreeSet::new(),
            balance: BTreeMap::new(),
            activity: Activity::default(),
            numbers: 0,
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.peer.handle_input(self.now, input);
        let mut transmits = 0;
        while let Some(output) = self.peer.poll_output() {
            transmits += usize::from(matches!(output, Output::Transmit { .. }));
            self.on_output(output);
        }
        assert!(
            transmits <= MAX_TRANSMITS,
            "{transmits} packets for one input"
        );
        assert!(self.listens.len() <= 2, "two sets of keys at most");
        assert!(self.bound.len() <= 18, "bound addresses are bounded");
        let due = self.peer.poll_timeout();
        assert!(due.is_none_or(|due| due > self.now), "it would spin");
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Transmit { to, payload } => self.on_transmit(to, &payload),
            Output::Signal(SignalBody::Offer(offer)) => {
                assert!(self.accepted || offer.candidates.is_empty());
                self.offered = Some(offer);
            }
            Output::Signal(SignalBody::Answer(answer)) => {
                assert!(self.accepted || answer.candidates.is_empty());
                if let Some(keys) = self
                    .keys
                    .last_mut()
                    .filter(|_| !answer.candidates.is_empty())
                {
                    *keys = session(&self.numbers, &answer.nonce);
                }
            }
            Output::Listen(id) => assert!(self.accepted && self.listens.insert(id)),
            Output::Unlisten(id) => assert!(self.listens.remove(&id)),
            Output::Bind(address, true) => assert!(self.bound.insert(address)),
            Output::Bind(address, false) => assert!(self.bound.remove(&address)),
            Output::Route {
                route: Route::Direct(to),
                ..
            } => {
                assert!(self.proven.contains(&to), "{to} never answered");
                assert!(self.accepted);
            }
            // Nobody guesses here: a translator's ports are the simulator's matter.
            Output::Reserve(_)
            | Output::Release(..)
            | Output::Sample(_)
            | Output::Open(_)
            | Output::TransmitFrom { .. }
            | Output::Via(..)
            | Output::Shut
            | Output::Signal(SignalBody::Hint(_) | SignalBody::Guess(_)) => {}
            Output::Relay(_) | Output::Route { .. } | Output::Event(Event::Path(_)) => {}
        }
    }

    fn on_transmit(&mut self, to: SocketAddr, payload: &[u8]) {
        assert!(self.accepted, "nothing goes out before acceptance");
        assert_eq!(payload.len(), 64);
        let vouched = self.proven.iter().any(|proven| proven.ip() == to.ip())
            || usable(&candidate_at(to), &self.attestation());
        if !vouched {
            let balance = self.balance.entry(to).or_default();
            *balance -= 1;
            assert!(*balance >= 0, "{to} gets more than it sends");
        }
        let opened = self
            .keys
            .iter_mut()
            .enumerate()
            .rev()
            .find_map(|(index, keys)| keys.open(payload).map(|opened| (index, opened)));
        if let Some((index, Opened::Probe(probe))) = opened {
            self.probes.insert(to, (index, probe.transaction));
        }
    }

    fn attestation(&self) -> Attestation {
        let aged = self.attested.iter().map(|(observed, at)| {
            // What was fresh when a round began may be probed to its end.
            let later = (self.now - *at).saturating_sub(LONGEST_ROUND).as_millis();
            let later = u32::try_from(later).unwrap_or(u32::MAX);
            ObservedAddress {
                age_millis: observed.age_millis.saturating_add(later),
                ..*observed
            }
        });
        Attestation {
            observed: aged.collect(),
            prefixes: self.surroundings.prefixes.clone(),
            relays: self.surroundings.relays.clone(),
            loopback: false,
        }
    }

    fn attest(&mut self, indexes: &[usize], age_millis: u32) -> Vec<ObservedAddress> {
        // A relay attests at most eight addresses, and public ones of machines: not the absurd ones.
        let honest = indexes.iter().map(|index| address(index % 4)).take(8);
        let observed: Vec<_> = honest
            .map(|address| ObservedAddress {
                address,
                age_millis,
            })
            .collect();
        self.attested
            .extend(observed.iter().map(|observed| (*observed, self.now)));
        observed
    }

    fn packet(&mut self, from: SocketAddr, packet: &[u8]) {
        *self.balance.entry(from).or_default() += 1;
        self.input(Input::Packet { from, packet });
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Wait(millis) => self.wait(millis * MILLI),
            Step::Wanted(wanted) => self.input(Input::Wanted(wanted)),
            Step::Dial => self.input(Input::Dial),
            Step::Accepted(accepted) => {
                self.accepted = accepted;
                // What was due before is forgotten with it, even within this input.
                self.input(Input::Accepted(accepted));
            }
            Step::Relay(usable) => self.input(Input::Relay(usable)),
            Step::Surroundings(variant) => {
                self.surroundings = surroundings(variant);
                self.input(Input::Surroundings(self.surroundings.clone()));
            }
            Step::Offer(candidates, observed, age, relay_rtt_micros) => {
                self.numbers = self.numbers.wrapping_add(1);
                let observed = self.attest(&observed, age * 1_000);
                self.keys.push(session(&self.numbers, &[0; 16]));
                let offer = Offer {
                    session: [self.numbers; 16],
                    nonce: [self.numbers; 16],
                    candidates: candidates.into_iter().map(candidate).collect(),
                    relay_rtt_micros,
                };
                self.input(Input::Offer(offer, observed));
            }
            Step::Answer(candidates, observed, to_ours) => {
                let Some(offer) = self.offered.take() else {
                    return;
                };
                self.numbers = self.numbers.wrapping_add(1);
                let observed = self.attest(&observed, 0);
                let nonce = [self.numbers; 16];
                self.keys
                    .push(ProbeKeys::derive(&SECRET, &THEM, &ME, &offer.nonce, &nonce));
                let answer = Answer {
                    session: if to_ours { offer.session } else { [0; 16] },
                    nonce,
                    candidates: candidates.into_iter().map(candidate).collect(),
                    relay_rtt_micros: 0,
                };
                self.input(Input::Answer(answer, observed));
            }
            Step::Probe(from, newest) => {
                let index = self.keys.len().checked_sub(if newest { 1 } else { 2 });
                let Some(keys) = index.and_then(|index| self.keys.get_mut(index)) else {
                    return;
                };
                let probe = Probe {
                    transaction: Transaction(1),
                    path: 1,
                };
                let packet = keys.seal_probe(&probe);
                self.last_packet = Some((address(from), packet));
                self.packet(address(from), &packet);
            }
            Step::Pong(to, from) => {
                let Some((index, transaction)) = self.probes.remove(&address(to)) else {
                    return;
                };
                let pong = Pong {
                    transaction,
                    observed: address(0),
                    loss: 0,
                };
                let packet = self.keys[index].seal_pong(&pong);
                if to == from {
                    self.proven.insert(address(from));
                }
                self.packet(address(from), &packet);
            }
            Step::Replay => {
                let Some((from, packet)) = self.last_packet else {
                    return;
                };
                let paths = self.bound.clone();
                self.input(Input::Packet {
                    from,
                    packet: &packet,
                });
                assert_eq!(paths, self.bound, "a replay proves nothing");
            }
            Step::Garbage(from, bytes) => {
                self.input(Input::Packet {
                    from: address(from),
                    packet: &bytes,
                });
            }
            Step::Activity(sent, received) => {
                self.activity.direct_sent += u64::from(sent);
                self.activity.direct_received += u64::from(received);
                if sent > 0 {
                    self.activity.direct_sent_at = Some(self.now);
                }
                if received > 0 {
                    self.activity.direct_received_at = Some(self.now);
                    self.activity.direct_gap = Some((20 * MILLI, MILLI));
                }
                self.input(Input::Activity(self.activity));
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.peer.poll_timeout().filter(|due| *due <= until) {
            self.now = due;
            self.input(Input::Timeout);
        }
        self.now = until;
    }
}

fn candidate_at(address: SocketAddr) -> Candidate {
    Candidate {
        kind: CandidateKind::Host,
        address,
    }
}

fn session(number: &u8, answer_nonce: &[u8; 16]) -> ProbeKeys {
    ProbeKeys::derive(&SECRET, &THEM, &ME, &[*number; 16], answer_nonce)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_peer_does_breaks_the_rules(steps in prop::collection::vec(step(), 1..120)) {
        let mut game = Game::new();
        game.surroundings = surroundings(2);
        game.input(Input::Surroundings(game.surroundings.clone()));
        game.input(Input::Relay(true));
        for step in steps {
            game.play(step);
        }
    }
}

/// A game in which the other side has answered an Offer of ours with one attested candidate.
fn punching() -> Game {
    let mut game = Game::new();
    game.play(Step::Surroundings(2));
    game.play(Step::Relay(true));
    game.play(Step::Dial);
    game.play(Step::Answer(vec![0], vec![0], true));
    game.wait(Duration::ZERO);
    game
}

#[test]
fn an_answered_probe_makes_the_path_direct() {
    let mut game = punching();
    assert_eq!(
        game.probes.keys().copied().collect::<Vec<_>>(),
        [address(0)]
    );
    game.wait(20 * MILLI);
    game.play(Step::Pong(0, 0));
    assert_eq!(game.peer.path().remote, Some(address(0)));
    assert_eq!(game.peer.path().round_trip, Some(20 * MILLI));
}

#[test]
fn an_answer_from_elsewhere_or_to_nothing_proves_nothing() {
    let mut game = punching();
    game.play(Step::Pong(0, 5));
    assert_eq!(game.peer.path().remote, None);
    let pong = Pong {
        transaction: Transaction(4_711),
        observed: address(0),
        loss: 0,
    };
    let packet = game.keys[0].seal_pong(&pong);
    game.packet(address(0), &packet);
    assert_eq!(game.peer.path().remote, None);
}

#[test]
fn probes_under_other_keys_are_ignored() {
    let mut game = punching();
    let mut strangers = ProbeKeys::derive(&[8; 32], &THEM, &ME, &[0; 16], &[0; 16]);
    let mut packet = strangers.seal_probe(&Probe {
        transaction: Transaction(1),
        path: 1,
    });
    let ours = *game.listens.first().expect("listening");
    packet[4..12].copy_from_slice(&ours.to_be_bytes());
    game.wait(Duration::from_secs(3));
    let before = game.probes.len();
    game.packet(address(5), &packet);
    game.wait(20 * MILLI);
    assert_eq!(game.probes.len(), before);
    assert!(game.bound.is_empty());
}

#[test]
fn a_spoofed_victim_gets_no_more_than_was_sent_in_its_name() {
    let mut game = punching();
    for _ in 0..200 {
        game.play(Step::Probe(4, true));
        game.wait(30 * MILLI);
    }
    // `on_transmit` has kept the balance; that there was something to keep shows here.
    let balance = game.balance[&address(4)];
    assert!((0..=20).contains(&balance), "{balance}");
    assert!(
        !game.bound.contains(&address(4)),
        "and its packets are not taken for the peer's"
    );
}

#[test]
fn thousands_of_offers_start_ten_sessions() {
    let mut game = Game::new();
    game.play(Step::Surroundings(2));
    game.play(Step::Relay(true));
    let mut answered = 0;
    for number in 0..5_000u32 {
        let offer = Offer {
            session: [1; 16],
            nonce: [2; 16],
            candidates: (0..2_000).map(candidate).collect(),
            relay_rtt_micros: u32::MAX,
        };
        let observed = game.attest(&[0, 1, 2, 3], 0);
        game.peer
            .handle_input(game.now, Input::Offer(offer, observed));
        while let Some(output) = game.peer.poll_output() {
            answered += usize::from(matches!(output, Output::Signal(SignalBody::Answer(_))));
        }
        if number % 1_000 == 999 {
            game.attested.clear();
        }
    }
    assert_eq!(answered, 10);
}

#[test]
fn absurd_candidates_are_never_probed() {
    let mut game = Game::new();
    game.play(Step::Surroundings(2));
    game.play(Step::Relay(true));
    game.play(Step::Dial);
    game.play(Step::Answer((0..9).collect(), vec![0], true));
    game.wait(Duration::from_secs(5));
    let probed: BTreeSet<SocketAddr> = game.probes.keys().copied().collect();
    assert_eq!(probed, BTreeSet::from([address(0), address(1), address(2)]));
}

#[test]
fn an_old_attestation_is_worth_nothing() {
    let mut game = punching();
    // The round is over, nothing was proven; the address speaks again two minutes later.
    game.play(Step::Relay(false));
    game.wait(Duration::from_secs(120));
    game.balance.clear();
    game.probes.clear();
    game.play(Step::Probe(0, true));
    game.wait(Duration::from_secs(2));
    assert!(
        game.probes.is_empty(),
        "one packet for one packet: the answer"
    );
    game.play(Step::Probe(0, true));
    assert_eq!(game.probes.len(), 1, "and the second time a probe");
}
