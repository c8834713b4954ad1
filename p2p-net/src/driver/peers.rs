//! What belongs to one peer: its machine, its link, and what the machine asks for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_net_proto::wire::{ChannelOffered, ObservedAddress, Signal};
use p2p_net_proto::{
    Event, Input, Output, PathInfo, PathKind, Peer, PeerConfig, PeerId, Route, SignalBody,
};
use quinn::ConnectionId;
use tokio::sync::watch;
use tracing::{debug, trace};

use super::channels::{Answering, Opening};
use super::connections::{Dial, Live};
use super::timers::Timer;
use super::{Driver, MAX_PEERS};
use crate::ConnectError;
use crate::congestion::PathKey;
use crate::link::{Channel, Link};
use crate::relay::Nudging;
use crate::socket::now;

/// A peer without connection is kept this long: closing takes a few round trips, and a stranger whose
/// channel brings no connection is worth no more.
pub(super) const LINGER: Duration = Duration::from_secs(5);
/// Nothing came through the relay for this long, although we sent: it may be gone. QUIC's acknowledgements are
/// due within two round trips to the relay and 25 ms; a doubt too many costs one ping.
const RELAY_SILENCE: Duration = Duration::from_millis(500);
/// How long after a doubt, which the relay has answered, the next one comes: the peer is silent then, not the
/// relay.
const RELAY_DOUBT_AGAIN: Duration = Duration::from_secs(2);
/// The data path is quiet when nothing moved on it for this many looks.
const QUIET_LOOKS: u32 = 150;

/// See the module.
pub(super) struct PeerState {
    pub(super) machine: Peer,
    pub(super) link: Arc<Link>,
    pub(super) path: watch::Sender<PathInfo>,
    /// Channels at the relay, the newest last, and whether the other side has agreed.
    pub(super) channels: Vec<(Arc<Channel>, bool)>,
    pub(super) opening: Option<Opening>,
    pub(super) answering: Option<Answering>,
    /// A channel that was offered while an opening of ours had not gone out.
    pub(super) postponed: Option<Box<ChannelOffered>>,
    pub(super) dial: Option<Dial>,
    pub(super) live: Option<Live>,
    /// Handshakes that the peer began and that are not complete.
    pub(super) handshakes: usize,
    /// The peer's own attempt, kept until ours is decided.
    pub(super) held: Option<quinn::Incoming>,
    /// Ids of the peer's attempts that ours outdoes; they stay refused when ours is complete.
    pub(super) outdone: VecDeque<ConnectionId>,
    /// Channel-opens for a living connection that failed in a row.
    pub(super) reopens: u32,
    quiet: u32,
    moved: u64,
    hearing: Hearing,
}

/// Whether the relay, which carries our packets to a peer, brings some back.
#[derive(Debug, Default)]
struct Hearing {
    /// Bytes sent through it when we last looked.
    sent: u64,
    /// Since when nothing has come back, and when to doubt the relay for it.
    doubt_at: Option<(Instant, Instant)>,
}

impl Hearing {
    /// Takes what was sent through the relay so far, and when something last came; says whether to doubt it.
    fn look(&mut self, now: Instant, sent: u64, heard_at: Option<Instant>) -> bool {
        let moved = std::mem::replace(&mut self.sent, sent) != sent;
        if self
            .doubt_at
            .is_some_and(|(since, _)| heard_at > Some(since))
        {
            self.doubt_at = None;
        }
        match &mut self.doubt_at {
            Some((_, at)) if *at <= now => {
                *at = now + RELAY_DOUBT_AGAIN;
                true
            }
            None if moved => {
                self.doubt_at = Some((now, now + RELAY_SILENCE));
                false
            }
            _ => false,
        }
    }
}

impl PeerState {
    /// Whether anything still needs this peer.
    pub(super) fn is_idle(&self) -> bool {
        self.dial.is_none() && self.live.is_none() && self.handshakes == 0 && self.held.is_none()
    }

    /// Whether a channel is ready on both sides.
    pub(super) fn is_relayed(&self) -> bool {
        self.channels.iter().any(|(_, ready)| *ready)
    }
}

impl Driver {
    /// The state of `peer`, made if need be.
    pub(super) fn ensure_peer(&mut self, peer: &PeerId) -> Result<&mut PeerState, ConnectError> {
        if !self.peers.contains_key(peer) {
            if self.peers.len() >= MAX_PEERS {
                return Err(ConnectError::Broken(
                    "too many peers at one time".to_owned(),
                ));
            }
            let secret = self
                .parts
                .identity
                .shared_secret(peer)
                .map_err(|error| ConnectError::Broken(error.to_string()))?;
            let now = now();
            let contact = self.parts.shared.contact(peer);
            let config = PeerConfig {
                me: self.me,
                peer: *peer,
                secret,
                accepted: contact.accepted == Some(true),
                relay_only: contact.relay_only,
                seed: rand::random(),
            };
            let mut machine = Peer::new(now, config);
            machine.handle_input(now, Input::Surroundings(self.surroundings()));
            let clock = self.parts.socket.clock();
            let (notices, policy) = (self.parts.notices.clone(), self.parts.shared.duplicate());
            let link = Arc::new(Link::new(*peer, now, clock, notices, policy));
            self.parts
                .socket
                .tables_mut()
                .links
                .insert(link.address.ip(), link.clone());
            let (path, _) = watch::channel(machine.path());
            let state = PeerState {
                machine,
                link,
                path,
                channels: Vec::new(),
                opening: None,
                answering: None,
                postponed: None,
                dial: None,
                live: None,
                handshakes: 0,
                held: None,
                outdone: VecDeque::new(),
                reopens: 0,
                quiet: 0,
                moved: 0,
                hearing: Hearing::default(),
            };
            self.peers.insert(*peer, state);
            self.timers.set(Timer::Linger(*peer), now + LINGER);
            self.drain(peer);
        }
        self.peers.get_mut(peer).ok_or(ConnectError::Closed)
    }

    /// Gives a machine an input and does what it asks for.
    pub(super) fn input(&mut self, peer: &PeerId, input: Input<'_>) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.machine.handle_input(now(), input);
            self.drain(peer);
        }
    }

    fn drain(&mut self, peer: &PeerId) {
        while let Some(output) = self
            .peers
            .get_mut(peer)
            .and_then(|s| s.machine.poll_output())
        {
            self.on_output(peer, output);
        }
        match self
            .peers
            .get(peer)
            .and_then(|state| state.machine.poll_timeout())
        {
            Some(at) => self.timers.set(Timer::Machine(*peer), at),
            None => self.timers.stop(Timer::Machine(*peer)),
        }
    }

    fn on_output(&mut self, peer: &PeerId, output: Output) {
        let socket = self.parts.socket.clone();
        match output {
            Output::Transmit { to, payload } => socket.send_raw(to, &payload),
            Output::Relay(payload) => {
                if let Some(state) = self.peers.get(peer) {
                    socket.send_raw_relayed(&state.link, &payload);
                }
            }
            Output::Signal(body) => self.send_signal(peer, &body),
            Output::Listen(key) => {
                socket.tables_mut().keys.insert(key, *peer);
            }
            Output::Unlisten(key) => {
                let mut tables = socket.tables_mut();
                if tables.keys.get(&key) == Some(peer) {
                    tables.keys.remove(&key);
                }
            }
            Output::Bind(address, bound) => {
                let Some(state) = self.peers.get(peer) else {
                    return;
                };
                let mut tables = socket.tables_mut();
                if bound {
                    // An address that carries another peer's packets stays with that peer: a contact behind
                    // the same NAT could otherwise take a neighbour's line down.
                    let taken = tables
                        .bound
                        .get(&address)
                        .is_some_and(|link| link.peer != *peer && link.is_direct_to(address));
                    if !taken {
                        tables.bound.insert(address, state.link.clone());
                    }
                } else if tables
                    .bound
                    .get(&address)
                    .is_some_and(|link| link.peer == *peer)
                {
                    tables.bound.remove(&address);
                }
            }
            Output::Reserve(_)
            | Output::Release(..)
            | Output::Sample(_)
            | Output::Open(_)
            | Output::TransmitFrom { .. }
            | Output::Via(..)
            | Output::Shut => self.guess(peer, output),
            Output::Route {
                route,
                suspect,
                duplicate,
            } => self.set_route(peer, route, (suspect, duplicate)),
            Output::Event(Event::Path(path)) => {
                if let Some(state) = self.peers.get(peer) {
                    trace!(peer = %peer.short(), ?path, "path");
                    state.path.send_replace(path);
                }
            }
        }
    }

    fn set_route(&mut self, peer: &PeerId, route: Route, (suspect, duplicate): (bool, bool)) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        state.link.set_route(route, suspect, duplicate);
        let key = match route {
            Route::None => return,
            Route::Relay => PathKey::Relay,
            Route::Direct(address) => PathKey::Direct(address),
        };
        if let Some(epoch) = state.link.switch.switch(now(), key) {
            debug!(peer = %peer.short(), ?route, epoch, "packets take another path");
            state.wake();
        }
        self.begin_handshake_if_direct(peer);
    }

    /// Seals and sends a signal: with a channel message that is due, else by itself.
    fn send_signal(&mut self, peer: &PeerId, body: &SignalBody) {
        if self.send_knock(peer, body) {
            return;
        }
        let Some(sealed) = self.seals.seal(peer, body) else {
            return;
        };
        let (kind, attest) = (body.kind(), body.attest());
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        match (body, &mut state.opening, &mut state.answering) {
            (SignalBody::Offer(_), Some(opening), _) if opening.request.is_none() => {
                opening.sealed = Some((sealed, attest));
            }
            (SignalBody::Answer(_), _, Some(answering)) => {
                answering.sealed = Some((sealed, attest));
            }
            _ => {
                self.say(Signal {
                    to: *peer,
                    kind,
                    attest,
                    sealed,
                });
            }
        }
    }

    /// Opens what a peer sealed and gives it to the machine; says whether it was authentic and new.
    pub(super) fn take_sealed(
        &mut self,
        peer: &PeerId,
        kind: u16,
        sealed: &[u8],
        observed: &[ObservedAddress],
    ) -> bool {
        let observed = observed.to_vec();
        match self.seals.open(peer, kind, sealed) {
            Some(SignalBody::Offer(offer)) => self.input(peer, Input::Offer(offer, observed)),
            Some(SignalBody::Answer(answer)) => self.input(peer, Input::Answer(answer, observed)),
            Some(SignalBody::Hint(hint)) => self.input(peer, Input::Hint(hint)),
            Some(SignalBody::Guess(guess)) => self.input(peer, Input::Guess(guess)),
            None => return false,
        }
        true
    }

    /// Looks at a data path that carries traffic, and again until it is quiet.
    pub(super) fn on_activity(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let activity = state.link.activity();
        let moved = activity.transferred_bytes;
        state.quiet = if moved == state.moved {
            state.quiet + 1
        } else {
            0
        };
        state.moved = moved;
        if state.machine.path().kind == PathKind::Relayed {
            let sent = state.link.totals().relayed_sent;
            if state.hearing.look(now(), sent, activity.relay_received_at) {
                trace!(peer = %peer.short(), "nothing comes through the relay");
                let _ = self.parts.nudges.try_send(Nudging::Doubt);
            }
        } else {
            state.hearing = Hearing::default();
        }
        if state.quiet >= QUIET_LOOKS {
            state.quiet = 0;
            state.link.unwatch();
        } else {
            self.timers
                .set(Timer::Activity(*peer), now() + Peer::ACTIVITY_INTERVAL);
        }
        self.input(peer, Input::Activity(activity));
    }

    /// Starts or stops the time after which a peer without connection is forgotten.
    pub(super) fn linger(&mut self, peer: &PeerId) {
        match self.peers.get(peer) {
            Some(state) if state.is_idle() => {
                self.timers
                    .set_default(Timer::Linger(*peer), now() + LINGER);
            }
            _ => self.timers.stop(Timer::Linger(*peer)),
        }
    }

    pub(super) fn on_linger(&mut self, peer: &PeerId) {
        if !self.peers.get(peer).is_some_and(PeerState::is_idle) {
            return;
        }
        trace!(peer = %peer.short(), "forgotten");
        self.input(peer, Input::Wanted(false));
        self.close_channels(peer);
        let Some(state) = self.peers.remove(peer) else {
            return;
        };
        self.requests.retain(|_, of| of != peer);
        self.timers.forget(peer);
        let mut tables = self.parts.socket.tables_mut();
        tables.links.remove(&state.link.address.ip());
        tables.bound.retain(|_, link| link.peer != *peer);
        tables.keys.retain(|_, of| of != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_brings_nothing_back_is_doubted() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut hearing = Hearing::default();
        assert!(!hearing.look(at(0), 0, None), "nothing was sent");
        assert!(!hearing.look(at(900), 0, None));
        assert!(!hearing.look(at(1_000), 100, None));
        assert!(!hearing.look(at(1_480), 200, None));
        assert!(!hearing.look(at(1_490), 200, Some(at(1_485))), "it came");
        assert!(!hearing.look(at(1_600), 300, Some(at(1_485))));
        assert!(!hearing.look(at(2_099), 400, Some(at(1_485))));
        assert!(hearing.look(at(2_100), 400, Some(at(1_485))));
        assert!(!hearing.look(at(2_200), 500, Some(at(1_485))), "once");
        assert!(hearing.look(at(4_100), 500, Some(at(1_485))));
    }
}
