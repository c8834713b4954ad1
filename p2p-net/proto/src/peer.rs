//! One remote peer: punching, path choice and failover behind three verbs. Feed it with
//! [`Peer::handle_input`], then drain [`Peer::poll_output`], then sleep until [`Peer::poll_timeout`].

mod exchange;
mod guessing;
mod relayed;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use zeroize::Zeroize;

use guessing::Guessing;

use crate::candidate::select;
use crate::path::{Paths, Situation};
use crate::probe::{Opened, PROBE_LEN, Pong, Probe, ProbeKeys};
use crate::punch::Round;
use crate::session::{Keys, Phase, Session, Verdict};
use crate::timer::{Timer, Timers, Timing};
use crate::wire::{Answer, ObservedAddress, Offer};
use crate::{
    Attestation, Candidate, CandidateKind, MAX_CANDIDATES, NotDirect, PathInfo, PathKind,
    SessionId, Transaction, usable,
};

pub use exchange::{
    Activity, Event, Input, Output, PeerConfig, Route, SignalBody, SignalKind, Surroundings,
};

/// What the peer said of itself in its last Offer or Answer, and what its relay attested.
#[derive(Debug, Default)]
struct Theirs {
    observed: Vec<ObservedAddress>,
    observed_at: Option<Instant>,
    relay_round_trip: Option<Duration>,
    /// It wants no direct path: it has not accepted us, or goes through the relay on principle.
    declines: bool,
}

/// Observed addresses of one peer that are kept; a relay sends no more (`wire.md` §6).
const MAX_OBSERVED: usize = 8;
/// Deadlines that may fire for one input; a bound against mistakes here, far above what can be due at once.
const MAX_FIRED: usize = 256;

/// One remote peer: punching, path choice and failover. See the module for how to drive it.
///
/// An Offer counts as wanting a connection, until [`Input::Wanted`] says otherwise.
pub struct Peer {
    config: PeerConfig,
    random: StdRng,
    wanted: bool,
    relay: bool,
    /// Signals have a way without it.
    near: bool,
    surroundings: Surroundings,
    theirs: Theirs,
    session: Session,
    keys: Keys,
    round: Round,
    paths: Paths,
    guess: Guessing,
    /// Whether a path lived when we last looked.
    lived: bool,
    timers: Timers,
    outputs: VecDeque<Output>,
    bound: Vec<SocketAddr>,
    /// Suspect, and duplicated, as was last said.
    route: (Route, bool, bool),
    info: PathInfo,
    /// What the last session, or the loss of a path, taught about why there is none.
    verdict: Option<NotDirect>,
    /// The figures that watchers know, and since when.
    told: (Option<Duration>, Instant),
}

impl Peer {
    /// How often the driver reports [`Activity`] while a direct path carries traffic.
    pub const ACTIVITY_INTERVAL: Duration = Duration::from_millis(20);

    /// A peer of which nothing is known but its key.
    pub fn new(now: Instant, config: PeerConfig) -> Self {
        let info = PathInfo {
            kind: PathKind::None,
            remote: None,
            round_trip: None,
            since: now,
            switches: 0,
            not_direct: Some(NotDirect::Idle),
        };
        Self {
            random: StdRng::from_seed(config.seed),
            session: Session::new(&config.me, &config.peer),
            config,
            wanted: false,
            relay: false,
            near: false,
            surroundings: Surroundings::default(),
            theirs: Theirs::default(),
            keys: Keys::default(),
            round: Round::default(),
            paths: Paths::default(),
            guess: Guessing::default(),
            lived: false,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            bound: Vec::new(),
            route: (Route::None, false, false),
            info,
            verdict: None,
            told: (None, now),
        }
    }

    /// Takes one input; drain [`Peer::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Timeout => {}
            Input::Wanted(wanted) => self.on_wanted(now, wanted),
            Input::Dial => self.on_dial(now),
            Input::Surroundings(surroundings) => self.on_surroundings(now, surroundings),
            Input::Accepted(accepted) => self.on_consent(now, accepted, self.config.relay_only),
            Input::RelayOnly(only) => self.on_consent(now, self.config.accepted, only),
            Input::Relay(usable) => self.on_relay(now, usable),
            Input::Near(near) => self.on_near(now, near),
            Input::Offer(offer, observed) => self.on_offer(now, offer, observed),
            Input::Answer(answer, observed) => self.on_answer(now, answer, observed),
            Input::Packet { from, packet } => self.on_packet(now, from, packet),
            Input::Activity(activity) => {
                let at = self.situation();
                self.paths.on_activity(now, &activity, &at);
            }
            Input::RelayedPacket(packet) => self.on_relayed_packet(now, packet),
            Input::Hint(hint) => self.on_hint(now, &hint),
            Input::Guess(guess) => self.on_guess(now, guess),
            Input::Reserved(granted) => self.on_reserved(now, granted),
            Input::Samples(samples) => self.on_samples(now, &samples),
            Input::Opened(count) => self.on_opened(now, count),
            Input::ExtraPacket {
                socket,
                from,
                packet,
            } => self.on_extra_packet(now, (socket, from), packet),
        }
        self.settle(now);
        for _ in 0..MAX_FIRED {
            let Some(timer) = self.timers.fired(now) else {
                break;
            };
            self.on_timer(now, timer);
            self.settle(now);
        }
        self.tell(now);
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call back with [`Input::Timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The path as it is now.
    pub fn path(&self) -> PathInfo {
        self.info
    }

    // What comes in.

    fn on_wanted(&mut self, now: Instant, wanted: bool) {
        self.wanted = wanted;
        if !wanted {
            self.forget(now);
        }
    }

    fn on_dial(&mut self, now: Instant) {
        self.wanted = true;
        self.theirs.declines = false;
        self.begin_anew();
        if self.allowed() && !self.surroundings.candidates.is_empty() {
            self.offer(now);
        } else {
            // It has nothing to say, but a channel is being opened and may carry it.
            let (session, nonce) = (self.random.random(), self.random.random());
            self.signal(SignalBody::Offer(Offer {
                session,
                nonce,
                candidates: Vec::new(),
                relay_rtt_micros: 0,
            }));
        }
    }

    fn on_surroundings(&mut self, now: Instant, surroundings: Surroundings) {
        let before = std::mem::replace(&mut self.surroundings, surroundings);
        let after = &self.surroundings;
        let moved = !same(&before.candidates, &after.candidates)
            || !same(&before.prefixes, &after.prefixes);
        if moved {
            self.begin_anew();
            self.paths.ask_all();
            self.punch(now);
        }
    }

    /// Whether a direct path may be sought was decided anew.
    fn on_consent(&mut self, now: Instant, accepted: bool, relay_only: bool) {
        let before = self.allowed();
        self.config.accepted = accepted;
        self.config.relay_only = relay_only;
        if self.allowed() && !before {
            self.theirs.declines = false;
            self.begin_anew();
            self.punch(now);
        } else if !self.allowed() {
            self.forget(now);
        }
    }

    fn on_relay(&mut self, now: Instant, usable: bool) {
        let before = std::mem::replace(&mut self.relay, usable);
        if before == usable {
            return;
        }
        if usable {
            self.session.reset_pauses();
            self.guess.relay_is_back();
            let quiet = matches!(self.session.phase, Phase::Idle | Phase::Cooling { .. });
            if quiet && !self.paths.any_lives() {
                self.punch(now);
            }
        } else if matches!(self.session.phase, Phase::Offered { .. }) {
            // The Offer, or its Answer, is probably lost with the relay.
            self.session.phase = Phase::Idle;
        }
        self.paths.consider(now, &self.situation());
    }

    fn on_near(&mut self, now: Instant, near: bool) {
        let before = std::mem::replace(&mut self.near, near);
        let quiet = matches!(self.session.phase, Phase::Idle | Phase::Cooling { .. });
        if near && !before && quiet && !self.paths.any_lives() {
            self.session.reset_pauses();
            self.punch(now);
        }
    }

    fn on_offer(&mut self, now: Instant, offer: Offer, observed: Vec<ObservedAddress>) {
        let ours = self.relay_round_trip();
        match self.session.judge(now, ours) {
            Verdict::Answer => {}
            Verdict::OursStands | Verdict::Ignore => return,
        }
        self.wanted = true;
        let mut answer = Answer {
            session: offer.session,
            nonce: self.random.random(),
            candidates: Vec::new(),
            relay_rtt_micros: 0,
        };
        if !self.allowed() || offer.candidates.is_empty() {
            self.theirs.declines |= offer.candidates.is_empty();
            self.signal(SignalBody::Answer(answer));
            return;
        }
        self.heed(now, observed, offer.relay_rtt_micros);
        answer.candidates = self.offered_candidates();
        answer.relay_rtt_micros = self.relay_rtt_micros();
        let nothing_to_offer = answer.candidates.is_empty();
        let nonces = (offer.nonce, answer.nonce);
        self.signal(SignalBody::Answer(answer));
        if nothing_to_offer {
            self.session.phase = Phase::Idle;
            return;
        }
        self.guess.agree(offer.session);
        self.listen(&nonces.0, &nonces.1);
        // The caller starts when the Answer has reached it: half a round trip from now.
        let wait = self
            .relay_round_trip()
            .map_or(Duration::ZERO, |relayed| relayed / 2);
        self.session.phase = Phase::Starting {
            at: now + wait.min(Timing::MAX_START_WAIT),
            candidates: bounded(offer.candidates),
        };
    }

    fn on_answer(&mut self, now: Instant, answer: Answer, observed: Vec<ObservedAddress>) {
        let Phase::Offered { session, nonce, .. } = self.session.phase else {
            return;
        };
        if session.0 != answer.session || !self.allowed() {
            return;
        }
        if answer.candidates.is_empty() {
            self.theirs.declines = true;
            self.session.phase = Phase::Idle;
            return;
        }
        self.heed(now, observed, answer.relay_rtt_micros);
        self.guess.agree(answer.session);
        self.listen(&nonce, &answer.nonce);
        self.begin_round(now, &bounded(answer.candidates));
    }

    fn on_packet(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        let Some((keys, opened)) = self.keys.open(now, packet) else {
            return;
        };
        match opened {
            Opened::Probe(probe) => self.on_probe(now, from, keys, probe),
            Opened::Pong(pong) => self.on_pong(now, from, pong.transaction),
        }
    }

    fn on_probe(&mut self, now: Instant, from: SocketAddr, keys: u64, probe: Probe) {
        let loss = self.paths.on_probe(now, from);
        let answers = loss.is_some() || {
            let trusted = self.trusts(now, from);
            self.round.on_probe(now, from, keys, trusted)
        };
        if answers {
            let loss = (loss.unwrap_or(0.0) * 255.0) as u8;
            let pong = Pong {
                transaction: probe.transaction,
                observed: from,
                loss,
            };
            let packet = self.keys.seal_pong(keys, &pong);
            self.transmit(from, packet);
        }
    }

    fn on_pong(&mut self, now: Instant, from: SocketAddr, transaction: Transaction) {
        let at = self.situation();
        if self.paths.on_pong(now, from, transaction, &at) {
            return;
        }
        if let Some(validated) = self.round.on_pong(now, from, transaction) {
            self.paths.on_validated(now, &validated, &at);
            self.end_guess();
        } else {
            self.on_guessed_pong(now, from, transaction);
        }
    }

    // What time brings.

    fn on_timer(&mut self, now: Instant, timer: Timer) {
        let at = self.situation();
        match timer {
            Timer::Phase => self.on_phase_end(now),
            Timer::Pair => {
                let transaction = Transaction(self.random.next_u64());
                if let Some(probe) = self.round.send(now, transaction) {
                    let sealed = self.keys.seal_probe(
                        probe.keys,
                        &Probe {
                            transaction,
                            path: probe.path.0,
                        },
                    );
                    self.transmit(probe.to, sealed);
                }
            }
            Timer::Path => {
                self.paths.expire(now);
                let transaction = Transaction(self.random.next_u64());
                if let Some(probe) = self.paths.send(now, transaction, &at)
                    && let Some(keys) = self.keys.current(probe.newest_keys)
                {
                    let sealed = self.keys.seal_probe(
                        keys,
                        &Probe {
                            transaction,
                            path: probe.path.0,
                        },
                    );
                    self.transmit(probe.to, sealed);
                }
            }
            Timer::Silence => self.paths.on_silence(now),
            Timer::Leave => self.paths.on_leave(now, &at),
            Timer::Challenge => self.paths.on_challenge(now, &at),
            Timer::Guess => self.on_guess_timer(now),
            // What follows from it is told below.
            Timer::Doubt => {}
            Timer::Trial => self.on_trial(now, &at),
            Timer::Keys => {
                let old = self.keys.expire(now);
                self.outputs.extend(old.map(Output::Unlisten));
            }
        }
    }

    fn on_phase_end(&mut self, now: Instant) {
        match std::mem::replace(&mut self.session.phase, Phase::Idle) {
            Phase::Idle => {}
            Phase::Starting { candidates, .. } => self.begin_round(now, &candidates),
            Phase::Offered { .. } => {
                self.verdict = Some(NotDirect::NoAnswer);
                self.session.pause(now, self.paths.is_busy(now));
            }
            Phase::Punching => {
                if self.round.succeeded() || self.paths.any_lives() {
                    self.session.reset_pauses();
                } else {
                    let why = self.guess.verdict().unwrap_or(NotDirect::Blocked);
                    self.verdict = Some(why);
                    self.session.pause(now, self.paths.is_busy(now));
                }
            }
            Phase::Cooling { .. } => {
                if !self.paths.any_lives() {
                    self.punch(now);
                }
            }
        }
    }

    // Sessions.

    /// Whether a direct path may be sought at all.
    fn allowed(&self) -> bool {
        self.config.accepted && !self.config.relay_only
    }

    /// The situation is a new one: pauses and reasons of before count no longer.
    fn begin_anew(&mut self) {
        self.session.reset_pauses();
        self.guess.begin_anew();
        self.verdict = None;
    }

    /// Starts a session of our own if there is a use for one and a way to say so.
    fn punch(&mut self, now: Instant) {
        if self.has_use_for_a_session() {
            self.offer(now);
        }
    }

    fn has_use_for_a_session(&self) -> bool {
        let signals = self.relay || self.near;
        let possible = self.allowed() && self.wanted && signals && !self.theirs.declines;
        possible && !self.surroundings.candidates.is_empty()
    }

    fn offer(&mut self, now: Instant) {
        if !self.session.may_offer(now) {
            return;
        }
        let (session, nonce) = (self.random.random(), self.random.random());
        let patience = self
            .relay_round_trip()
            .map_or(Duration::ZERO, |relayed| relayed * 3);
        self.session.phase = Phase::Offered {
            session: SessionId(session),
            nonce,
            at: now,
            until: now + self.answer_overdue().max(patience),
        };
        let candidates = self.offered_candidates();
        let relay_rtt_micros = self.relay_rtt_micros();
        self.signal(SignalBody::Offer(Offer {
            session,
            nonce,
            candidates,
            relay_rtt_micros,
        }));
    }

    /// Knocks may be lost on the way, signals may not.
    fn answer_overdue(&self) -> Duration {
        if self.near && !self.relay {
            Timing::KNOCK_OVERDUE
        } else {
            Timing::ANSWER_OVERDUE
        }
    }

    fn begin_round(&mut self, now: Instant, candidates: &[Candidate]) {
        let attestation = self.attestation(now);
        let own = |address: SocketAddr| {
            let mut hosts = self.surroundings.candidates.iter();
            hosts.any(|own| own.kind == CandidateKind::Host && own.address == address)
        };
        let worth =
            |candidate: &&Candidate| usable(candidate, &attestation) && !own(candidate.address);
        // What the relay saw is worth a probe as it is: after a rebinding the peer itself knows it later.
        let observed: Vec<Candidate> = self.theirs.observed.iter().map(reflexive).collect();
        let all = candidates.iter().chain(&observed);
        let candidates = select(all.filter(worth).copied());
        let Some(keys) = self.keys.current(true) else {
            return;
        };
        self.round
            .begin(now, &candidates, keys, self.relay_round_trip());
        self.session.phase = Phase::Punching;
        self.arm_guess(now);
    }

    /// Derives the keys of a session and listens for them.
    fn listen(&mut self, offer_nonce: &[u8; 16], answer_nonce: &[u8; 16]) {
        let PeerConfig {
            me, peer, secret, ..
        } = &self.config;
        let keys = ProbeKeys::derive(secret, me, peer, offer_nonce, answer_nonce);
        let (id, dropped) = self.keys.insert(keys);
        self.outputs.extend(dropped.map(Output::Unlisten));
        self.outputs.push_back(Output::Listen(id));
    }

    fn heed(&mut self, now: Instant, mut observed: Vec<ObservedAddress>, relay_rtt_micros: u32) {
        observed.truncate(MAX_OBSERVED);
        let measured =
            (relay_rtt_micros > 0).then(|| Duration::from_micros(relay_rtt_micros.into()));
        self.theirs = Theirs {
            observed,
            observed_at: Some(now),
            relay_round_trip: measured,
            declines: false,
        };
    }

    /// Ends everything direct.
    fn forget(&mut self, now: Instant) {
        self.session.phase = Phase::Idle;
        self.round.clear();
        self.paths.clear();
        self.forget_guess(now);
        self.outputs
            .extend(self.keys.clear().into_iter().map(Output::Unlisten));
        self.lived = false;
    }

    // What is known.

    /// Round trip to the peer and back through the relay: both legs, one taken for the other where only one
    /// is known.
    fn relay_round_trip(&self) -> Option<Duration> {
        let ours = self.surroundings.relay_round_trip;
        let theirs = self.theirs.relay_round_trip;
        Some(ours.or(theirs)? + theirs.or(ours)?)
    }

    fn relay_rtt_micros(&self) -> u32 {
        let micros = self
            .surroundings
            .relay_round_trip
            .map_or(0, |relayed| relayed.as_micros());
        u32::try_from(micros).unwrap_or(u32::MAX)
    }

    fn offered_candidates(&self) -> Vec<Candidate> {
        select(self.surroundings.candidates.iter().copied())
    }

    fn situation(&self) -> Situation {
        Situation {
            relay: self.relay,
            relay_round_trip: self.relay_round_trip(),
            second: self.session.is_second(),
        }
    }

    /// What decides about the peer's addresses now; what the relay attested grows old.
    fn attestation(&self, now: Instant) -> Attestation {
        let since = self
            .theirs
            .observed_at
            .map(|at| now.saturating_duration_since(at));
        let later = u32::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u32::MAX);
        let aged = self.theirs.observed.iter().map(|observed| ObservedAddress {
            age_millis: observed.age_millis.saturating_add(later),
            ..*observed
        });
        Attestation {
            observed: aged.collect(),
            prefixes: self.surroundings.prefixes.clone(),
            relays: self.surroundings.relays.clone(),
            loopback: self.surroundings.loopback,
        }
    }

    /// Whether somebody else vouches for an address from which an authentic probe came.
    fn trusts(&self, now: Instant, from: SocketAddr) -> bool {
        let candidate = Candidate {
            kind: CandidateKind::PeerReflexive,
            address: from,
        };
        self.paths.proves(from.ip()) || usable(&candidate, &self.attestation(now))
    }

    // What goes out.

    fn signal(&mut self, body: SignalBody) {
        self.outputs.push_back(Output::Signal(body));
    }

    fn transmit(&mut self, to: SocketAddr, packet: Option<[u8; PROBE_LEN]>) {
        if let Some(packet) = packet {
            self.outputs.push_back(Output::Transmit {
                to,
                payload: packet.to_vec(),
            });
        }
    }

    /// Draws the consequences of a change, and sets all deadlines by what is so now.
    fn settle(&mut self, now: Instant) {
        let lives = self.paths.any_lives();
        if self.session.phase == Phase::Idle && !lives && self.has_use_for_a_session() {
            if self.lived {
                self.verdict = Some(NotDirect::Lost);
                self.session.resume(now);
            } else {
                // Whatever it was that did not lead to a session: the other side's Offer comes first, or ours.
                self.session.pause(now, self.paths.is_busy(now));
            }
        }
        self.lived = lives;
        let at = self.situation();
        let phase_end = match self.session.phase {
            Phase::Punching if self.guess.goes_on() => None,
            Phase::Punching => self.round.over_at(),
            _ => self.session.ends_at(),
        };
        self.timers.set(Timer::Phase, phase_end);
        self.timers.set(Timer::Pair, self.round.next_at());
        self.timers.set(Timer::Path, self.paths.next_at(now, &at));
        self.timers.set(Timer::Silence, self.paths.silence_at());
        self.timers.set(Timer::Leave, self.paths.leave_at(&at));
        self.timers.set(Timer::Challenge, self.paths.challenge_at());
        self.timers.set(Timer::Keys, self.keys.ends_at());
        self.timers.set(Timer::Guess, self.guess.next_at());
        let doubts = self.paths.doubts_change_at(now);
        self.timers.set(Timer::Doubt, doubts);
        self.timers.set(Timer::Trial, self.paths.trial_at());
    }

    /// Says what has changed for the outside.
    fn tell(&mut self, now: Instant) {
        self.bind();
        let used = self.paths.used();
        let (route, kind) = match used {
            Some((address, _, _)) => (Route::Direct(address), PathKind::Direct),
            None if self.relay => (Route::Relay, PathKind::Relayed),
            None => (Route::None, PathKind::None),
        };
        let suspect = used.is_some_and(|(_, _, suspect)| suspect);
        let duplicate = self.relay && self.paths.doubts(now);
        if self.route != (route, suspect, duplicate) {
            self.route = (route, suspect, duplicate);
            self.outputs.push_back(Output::Route {
                route,
                suspect,
                duplicate,
            });
        }
        let remote = used.map(|(address, _, _)| address);
        let round_trip = used.map(|(_, round_trip, _)| round_trip);
        let moved = (self.info.kind, self.info.remote) != (kind, remote);
        if moved {
            let first = self.info.kind == PathKind::None && self.info.switches == 0;
            let switches = self.info.switches.saturating_add(u32::from(!first));
            self.info = PathInfo {
                kind,
                remote,
                round_trip,
                since: now,
                switches,
                not_direct: self.info.not_direct,
            };
        }
        self.info.round_trip = round_trip;
        let not_direct = self.not_direct();
        let explained = std::mem::replace(&mut self.info.not_direct, not_direct) != not_direct;
        if moved || explained || self.figures_changed(now) {
            self.told = (round_trip, now);
            self.outputs
                .push_back(Output::Event(Event::Path(self.info)));
        }
    }

    /// Why there is no direct path, if there is none.
    fn not_direct(&self) -> Option<NotDirect> {
        if self.paths.used().is_some() {
            return None;
        }
        Some(if !self.wanted {
            NotDirect::Idle
        } else if !self.config.accepted {
            NotDirect::NotAccepted
        } else if self.config.relay_only {
            NotDirect::RelayOnly
        } else if self.theirs.declines {
            NotDirect::PeerDeclines
        } else if self.surroundings.candidates.is_empty() {
            NotDirect::NoAddress
        } else if self.paths.any_lives() {
            NotDirect::RelayFaster
        } else {
            self.verdict.unwrap_or(NotDirect::Trying)
        })
    }

    /// Whether the round trip has changed by more than a tenth, and watchers have not just been told.
    fn figures_changed(&self, now: Instant) -> bool {
        let (told, at) = self.told;
        let (Some(told), Some(current)) = (told, self.info.round_trip) else {
            return false;
        };
        now.saturating_duration_since(at) >= Timing::FIGURES && told.abs_diff(current) > told / 10
    }

    /// Says which addresses belong to the peer: those of its paths, and those that it has spoken from.
    fn bind(&mut self) {
        let mut wanted: Vec<SocketAddr> = self.paths.addresses().collect();
        let spoken = self
            .round
            .heard()
            .filter(|address| !wanted.contains(address));
        let spoken: Vec<SocketAddr> = spoken.collect();
        wanted.extend(spoken);
        let before = std::mem::take(&mut self.bound);
        for gone in before.iter().filter(|address| !wanted.contains(address)) {
            self.outputs.push_back(Output::Bind(*gone, false));
            self.drop_via(*gone);
        }
        for new in wanted.iter().filter(|address| !before.contains(address)) {
            self.outputs.push_back(Output::Bind(*new, true));
        }
        self.bound = wanted;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.config.secret.zeroize();
        self.config.seed.zeroize();
    }
}

fn reflexive(observed: &ObservedAddress) -> Candidate {
    Candidate {
        kind: CandidateKind::ServerReflexive,
        address: observed.address,
    }
}

/// Whether two lists hold the same things, in whatever order.
fn same<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    one.len() == other.len() && one.iter().all(|thing| other.contains(thing))
}

/// No more candidates than anybody may send.
fn bounded(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.truncate(MAX_CANDIDATES);
    candidates
}
