//! Connections: dialled, accepted, one living per peer. If both dial at once, the one whose dialler has the
//! smaller id stays (`wire.md` §3); a fresh one of a peer that came back takes the place of the stale one.

use std::sync::Arc;
use std::time::Duration;

use p2p_net_proto::{Input, PathKind, PeerId};
use quinn::ConnectionId;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::debug;

use super::peers::PeerState;
use super::timers::Timer;
use super::{Done, Driver};
use crate::connection::{Inner, WeakConnection};
use crate::quic::{self, code};
use crate::socket::now;
use crate::{ConnectError, Connection, ConnectionError, RelayState};

/// A dial that has no connection after this is given up.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// A dial waits this long for the login at the relay.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Where no login will come, a dial waits this long for the peer to be found on the LAN: questions there are
/// answered, and repeated, within three seconds.
const NEAR_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection of ours waits for the other side's, which stays if it comes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes that one peer may have open with us, and all together.
const MAX_HANDSHAKES: usize = 2;
const MAX_ALL_HANDSHAKES: usize = 256;
/// Attempts of a peer's that are remembered as outdone.
const MAX_OUTDONE: usize = 8;
/// Of QUIC version 1, bytes (RFC 9000 §17.2).
const MAX_CID_LEN: usize = 20;
/// Callers that wait for one dial at most.
const MAX_WAITERS: usize = 1_024;

type Reply = oneshot::Sender<Result<Connection, ConnectError>>;

/// An attempt of ours to reach a peer.
pub(super) struct Dial {
    waiters: Vec<Reply>,
    /// The handshake, once the login stood.
    handshake: Option<(u64, AbortHandle)>,
    /// The peer dials us at the same time.
    glare: bool,
    /// Our connection is there and waits for the other side's.
    settled: Option<quinn::Connection>,
}

impl Dial {
    /// Whether there is no handshake yet.
    pub(super) fn waits(&self) -> bool {
        self.handshake.is_none() && self.settled.is_none() && !self.glare
    }

    fn new(waiter: Reply) -> Self {
        Self {
            waiters: vec![waiter],
            handshake: None,
            glare: false,
            settled: None,
        }
    }
}

/// The one living connection of a peer.
pub(super) struct Live {
    pub(super) handle: WeakConnection,
    pub(super) quinn: quinn::Connection,
    pub(super) dialler: bool,
}

/// How a handshake came out.
pub(super) struct Handshake {
    peer: PeerId,
    /// Ours: its number. The peer's: none.
    attempt: Option<u64>,
    result: Result<quinn::Connection, quinn::ConnectionError>,
}

/// Whether of two connections made at once the one that `me` dialled stays.
fn ours_stays(me: &PeerId, peer: &PeerId) -> bool {
    me < peer
}

impl PeerState {
    /// Tells QUIC, which does not see paths, that packets can move again.
    pub(super) fn wake(&mut self) {
        if let Some(live) = &self.live {
            let switched = crate::connection::switched(self.link.switch.epoch());
            let _ = live.quinn.send_datagram(switched);
        }
    }
}

impl Driver {
    pub(super) fn on_connect(&mut self, peer: PeerId, reply: Reply) {
        if peer == self.me {
            let _ = reply.send(Err(ConnectError::Ourselves));
            return;
        }
        if let Some(connection) = self.living(&peer) {
            let _ = reply.send(Ok(connection));
            return;
        }
        let (state, session) = (self.parts.state.borrow().clone(), self.session.is_some());
        let hopeless = match state {
            RelayState::None => Some("no relay is configured".to_owned()),
            RelayState::Failed(error) => Some(error.to_string()),
            RelayState::Connecting { .. } | RelayState::Online { .. } => None,
        };
        // Without a relay the peer may still be on this network.
        let patience = if hopeless.is_some() {
            NEAR_TIMEOUT
        } else {
            LOGIN_TIMEOUT
        };
        if let Some(text) = hopeless.filter(|_| !self.lan.is_on()) {
            let _ = reply.send(Err(ConnectError::RelayUnreachable(text)));
            return;
        }
        let state = match self.ensure_peer(&peer) {
            Ok(state) => state,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        if let Some(dial) = &mut state.dial {
            if dial.waiters.len() < MAX_WAITERS {
                dial.waiters.push(reply);
            }
            return;
        }
        // The peer is about to reach us: one connection is enough.
        let arriving = state.handshakes > 0 || state.answering.is_some();
        state.dial = Some(Dial::new(reply));
        self.linger(&peer);
        if arriving {
            self.timers.set(Timer::Settle(peer), now() + SETTLE_TIMEOUT);
        } else if session {
            self.begin_dial(&peer);
        } else {
            self.timers.set(Timer::Dial(peer), now() + patience);
            if self.is_near(&peer) {
                self.begin_near_dial(&peer);
            }
        }
    }

    /// The living connection, unless neither path leads to its other end, which may have come back with
    /// nothing of it.
    fn living(&self, peer: &PeerId) -> Option<Connection> {
        let state = self.peers.get(peer)?;
        let live = state.live.as_ref()?;
        let others = self.session.is_some() || self.is_near(peer);
        let lost = state.machine.path().kind == PathKind::None && others;
        if lost || live.quinn.close_reason().is_some() {
            return None;
        }
        live.handle.upgrade()
    }

    fn begin_dial(&mut self, peer: &PeerId) {
        // A channel that is there already may lead to whoever had it before.
        self.begin_open(peer, true);
        self.input(peer, Input::Wanted(true));
        self.input(peer, Input::Dial);
        self.begin_handshake(peer);
    }

    /// Begins the handshake of a dial, by whatever way packets to the peer go.
    pub(super) fn begin_handshake(&mut self, peer: &PeerId) {
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let link = state.link.clone();
        let config = self.parts.quic.dialling(&link.switch);
        let name = p2p_net_proto::tls::server_name(peer);
        let connecting = match self
            .parts
            .endpoint
            .connect_with(config, link.address, &name)
        {
            Ok(connecting) => connecting,
            Err(error) => {
                self.fail_dial(peer, &ConnectError::Broken(error.to_string()));
                return;
            }
        };
        let id = *peer;
        let handle = self.tasks.spawn(async move {
            let result = connecting.await;
            Done::Handshake(Handshake {
                peer: id,
                attempt: Some(attempt),
                result,
            })
        });
        if let Some(dial) = self
            .peers
            .get_mut(peer)
            .and_then(|state| state.dial.as_mut())
        {
            dial.handshake = Some((attempt, handle));
        }
        self.timers.set(Timer::Dial(*peer), now() + DIAL_TIMEOUT);
    }

    /// The login stands (again): dials that waited for it begin.
    pub(super) fn resume_dials(&mut self) {
        let waiting = |state: &PeerState| {
            state
                .dial
                .as_ref()
                .is_some_and(|d| d.handshake.is_none() && d.settled.is_none())
        };
        let peers: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, state)| waiting(state))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in peers {
            self.begin_dial(&peer);
        }
    }

    /// The login is gone: dials begin anew with the next one.
    pub(super) fn suspend_dials(&mut self) {
        for (peer, state) in &mut self.peers {
            if let Some(dial) = &mut state.dial
                && let Some((_, handshake)) = dial.handshake.take()
            {
                handshake.abort();
                dial.glare = false;
                self.timers.set(Timer::Dial(*peer), now() + LOGIN_TIMEOUT);
            }
        }
    }

    /// Trying again will not help: dials that wait for a login end.
    pub(super) fn fail_waiting_dials(&mut self, error: &ConnectError) {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            if !self.is_near(&peer) {
                self.fail_dial(&peer, error);
            }
        }
    }

    pub(super) fn on_dial_deadline(&mut self, peer: &PeerId) {
        let Some(dial) = self.peers.get(peer).and_then(|state| state.dial.as_ref()) else {
            return;
        };
        let error = if dial.handshake.is_some() || dial.glare || self.is_near(peer) {
            ConnectError::TimedOut(*peer)
        } else if self.parts.relay.is_none() {
            ConnectError::NotOnline(*peer)
        } else {
            let text = match &*self.parts.state.borrow() {
                RelayState::Connecting {
                    last_error: Some(error),
                } => error.to_string(),
                RelayState::Failed(error) => error.to_string(),
                _ => "it does not answer".to_owned(),
            };
            ConnectError::RelayUnreachable(text)
        };
        self.fail_dial(peer, &error);
    }

    /// The relay does not give us a channel to the peer.
    pub(super) fn on_dial_refused(&mut self, peer: &PeerId, error: ConnectError) {
        let dialling = self.peers.get(peer).and_then(|state| state.dial.as_ref());
        if dialling.is_some_and(|dial| dial.settled.is_none() && !dial.glare) {
            self.fail_dial(peer, &error);
        }
    }

    /// Ends a dial without a connection.
    pub(super) fn fail_dial(&mut self, peer: &PeerId, error: &ConnectError) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let Some(dial) = state.dial.take() else {
            return;
        };
        state.opening = None;
        if state.answering.is_none() {
            state.link.end_flight();
        }
        self.timers.stop(Timer::Dial(*peer));
        self.timers.stop(Timer::Open(*peer));
        self.timers.stop(Timer::Settle(*peer));
        if let Some((_, handshake)) = dial.handshake {
            handshake.abort();
        }
        if let Some(connection) = dial.settled {
            connection.close(code::CLOSED.into(), b"given up");
        }
        for waiter in dial.waiters {
            let _ = waiter.send(Err(error.clone()));
        }
        self.take_held(peer);
        self.take_postponed(peer);
        // Whoever is at the other end of its channels, it is not the peer, or it does not answer.
        if self.peers.get(peer).is_some_and(PeerState::is_idle) {
            self.close_channels(peer);
        }
        self.linger(peer);
    }

    /// Gives a dial up that nobody waits for any more.
    pub(super) fn drop_abandoned_dial(&mut self, peer: &PeerId) {
        let Some(dial) = self
            .peers
            .get_mut(peer)
            .and_then(|state| state.dial.as_mut())
        else {
            return;
        };
        dial.waiters.retain(|waiter| !waiter.is_closed());
        if dial.waiters.is_empty() {
            self.fail_dial(peer, &ConnectError::Closed);
        }
    }

    /// The peer opens a channel: if we dial it and have no answer yet, both dial at once. Says whether our
    /// connection is the one that stays. Control streams keep order, so both sides see the same.
    pub(super) fn note_glare(&mut self, peer: &PeerId, flight: &[Vec<u8>]) -> bool {
        let Some(state) = self.peers.get_mut(peer) else {
            return false;
        };
        let dial = state.dial.as_mut().filter(|dial| dial.handshake.is_some());
        let Some(dial) = dial else { return false };
        dial.glare = true;
        debug!(peer = %peer.short(), "both dial at once");
        let stays = ours_stays(&self.me, peer);
        if stays {
            // The attempt may show itself only after ours is complete, and must not pass for a new one.
            state
                .outdone
                .extend(flight.iter().filter_map(|packet| initial_id(packet)));
            let excess = state.outdone.len().saturating_sub(MAX_OUTDONE);
            state.outdone.drain(..excess);
        }
        stays
    }

    pub(super) fn on_incoming(&mut self, incoming: quinn::Incoming) {
        let address = incoming.remote_address();
        let link = self.parts.socket.tables().links.get(&address.ip()).cloned();
        // Only peers have virtual addresses; a relay or a stranger never dials us.
        let Some(link) = link.filter(|link| link.address == address) else {
            incoming.ignore();
            return;
        };
        let peer = link.peer;
        if !link.has_way() {
            self.keep_early(&peer, incoming);
            return;
        }
        let all: usize = self.peers.values().map(|state| state.handshakes).sum();
        let Some(state) = self.peers.get_mut(&peer) else {
            incoming.ignore();
            return;
        };
        if state.handshakes >= MAX_HANDSHAKES || all >= MAX_ALL_HANDSHAKES {
            incoming.refuse();
            return;
        }
        let outdone = state.outdone.contains(&incoming.orig_dst_cid());
        if outdone && state.dial.is_none() {
            debug!(peer = %peer.short(), "its connection gives way to ours");
            incoming.refuse();
            return;
        }
        if let Some(dial) = &mut state.dial
            && dial.handshake.is_some()
        {
            dial.glare = true;
            if ours_stays(&self.me, &peer) {
                // Dropping an earlier one refuses it.
                state.held = Some(incoming);
                return;
            }
        }
        self.begin_accept(&peer, incoming);
    }

    fn begin_accept(&mut self, peer: &PeerId, incoming: quinn::Incoming) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let config = self.parts.quic.accepting(&state.link.switch);
        let connecting = match incoming.accept_with(config) {
            Ok(connecting) => connecting,
            Err(error) => {
                debug!(peer = %peer.short(), %error, "not accepted");
                return;
            }
        };
        state.handshakes += 1;
        self.timers.stop(Timer::Linger(*peer));
        let peer = *peer;
        self.tasks.spawn(async move {
            let result = timeout(DIAL_TIMEOUT, connecting).await;
            let result = result.unwrap_or(Err(quinn::ConnectionError::TimedOut));
            Done::Handshake(Handshake {
                peer,
                attempt: None,
                result,
            })
        });
    }

    /// Our own attempt is over without a connection: the peer's may go on.
    fn take_held(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        state.outdone.clear();
        if let Some(held) = state.held.take() {
            self.begin_accept(peer, held);
        }
    }

    pub(super) fn on_handshake(&mut self, handshake: Handshake) {
        let Handshake {
            peer,
            attempt,
            result,
        } = handshake;
        match attempt {
            Some(attempt) => self.on_dialled(&peer, attempt, result),
            None => self.on_accepted(&peer, result),
        }
        self.linger(&peer);
    }

    fn on_dialled(
        &mut self,
        peer: &PeerId,
        attempt: u64,
        result: Result<quinn::Connection, quinn::ConnectionError>,
    ) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let Some(dial) = &mut state.dial else { return };
        if dial
            .handshake
            .as_ref()
            .is_none_or(|(number, _)| *number != attempt)
        {
            return;
        }
        dial.handshake = None;
        let connection = match result {
            Ok(connection) if quic::authenticated_peer(&connection) == Some(*peer) => connection,
            Ok(connection) => {
                connection.close(code::WRONG_PEER.into(), b"not the key that was dialled");
                self.fail_dial(peer, &ConnectError::WrongPeer(*peer));
                return;
            }
            // The other side may have refused ours because its own stays.
            Err(_) if dial.glare && !ours_stays(&self.me, peer) => {
                self.timers
                    .set(Timer::Settle(*peer), now() + SETTLE_TIMEOUT);
                return;
            }
            Err(error) => {
                let error = dial_error(peer, &error);
                self.fail_dial(peer, &error);
                return;
            }
        };
        if dial.glare && !ours_stays(&self.me, peer) {
            dial.settled = Some(connection);
            self.timers
                .set(Timer::Settle(*peer), now() + SETTLE_TIMEOUT);
            return;
        }
        self.complete_dial(peer, connection);
    }

    /// Our connection is the one that stays.
    fn complete_dial(&mut self, peer: &PeerId, connection: quinn::Connection) {
        let connection = self.make_live(peer, connection, true);
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        if let Some(held) = state.held.take() {
            held.refuse();
        }
        self.answer_waiters(peer, connection.as_ref());
    }

    fn answer_waiters(&mut self, peer: &PeerId, connection: Option<&Connection>) {
        self.timers.stop(Timer::Dial(*peer));
        self.timers.stop(Timer::Settle(*peer));
        let Some(dial) = self.peers.get_mut(peer).and_then(|state| state.dial.take()) else {
            return;
        };
        if let Some((_, handshake)) = dial.handshake {
            handshake.abort();
        }
        if let Some(ours) = dial.settled {
            ours.close(
                code::GLARE.into(),
                b"both dialled; the other connection stays",
            );
        }
        for waiter in dial.waiters {
            let _ = waiter.send(connection.cloned().ok_or(ConnectError::Closed));
        }
    }

    fn on_accepted(
        &mut self,
        peer: &PeerId,
        result: Result<quinn::Connection, quinn::ConnectionError>,
    ) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        state.handshakes = state.handshakes.saturating_sub(1);
        let connection = match result {
            Ok(connection) => connection,
            Err(error) => {
                debug!(peer = %peer.short(), %error, "an incoming handshake failed");
                if let Some(dial) = state.dial.as_mut().filter(|_| state.handshakes == 0) {
                    dial.glare = false;
                }
                self.settle(peer);
                return;
            }
        };
        if quic::authenticated_peer(&connection) != Some(*peer) {
            connection.close(code::WRONG_PEER.into(), b"not the key of this address");
            if state.live.is_none() && state.dial.is_none() {
                self.close_channels(peer);
            }
            return;
        }
        if let Some(connection) = self.make_live(peer, connection, false) {
            self.answer_waiters(peer, Some(&connection));
            self.parts.shared.push(connection);
        }
    }

    /// The other side's connection has not come: ours serves after all, if there is one.
    pub(super) fn settle(&mut self, peer: &PeerId) {
        self.timers.stop(Timer::Settle(*peer));
        let session = self.session.is_some();
        let Some(dial) = self
            .peers
            .get_mut(peer)
            .and_then(|state| state.dial.as_mut())
        else {
            return;
        };
        match dial.settled.take() {
            Some(connection) if connection.close_reason().is_none() => {
                self.complete_dial(peer, connection);
            }
            None if !dial.glare && dial.handshake.is_none() && session => self.begin_dial(peer),
            None if dial.handshake.is_some() => {}
            _ => self.fail_dial(peer, &ConnectError::TimedOut(*peer)),
        }
    }

    /// Makes `connection` the living one; an older one gives way.
    fn make_live(
        &mut self,
        peer: &PeerId,
        quinn: quinn::Connection,
        dialler: bool,
    ) -> Option<Connection> {
        let state = self.peers.get_mut(peer)?;
        if let Some(old) = state.live.take() {
            debug!(peer = %peer.short(), "a newer connection takes the place of the living one");
            if let Some(old) = old.handle.upgrade() {
                old.condemn(ConnectionError::Superseded);
            }
            let why = b"replaced by a newer connection";
            old.quinn.close(code::SUPERSEDED.into(), why);
        }
        let path = state.path.subscribe();
        let inner = Arc::new(Inner::new(
            quinn.clone(),
            *peer,
            dialler,
            state.link.clone(),
            path,
        ));
        let (id, queue) = (quinn.stable_id(), inner.attended());
        state.live = Some(Live {
            handle: WeakConnection::new(&inner),
            quinn: quinn.clone(),
            dialler,
        });
        let (peer, link) = (*peer, state.link.clone());
        self.tasks.spawn(async move {
            crate::connection::attend(quinn, link, queue).await;
            Done::Ended(peer, id)
        });
        if !self.peers.get(&peer)?.is_relayed() {
            self.expect_channel(&peer);
        }
        Some(Connection::from(inner))
    }

    /// The peer declines a channel for the living connection: it has nothing of that any more. The relay
    /// could say so falsely, so it counts only where packets have no other way in any case.
    pub(super) fn end_forgotten(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        if state.machine.path().kind != PathKind::None {
            return;
        }
        if let Some(live) = &state.live {
            debug!(peer = %peer.short(), "the peer has nothing of the connection");
            if let Some(handle) = live.handle.upgrade() {
                handle.condemn(ConnectionError::Broken(
                    "the peer has come back without it".to_owned(),
                ));
            }
            live.quinn.close(code::CLOSED.into(), b"forgotten");
        }
    }

    pub(super) fn on_ended(&mut self, peer: &PeerId, id: usize) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        if state
            .live
            .as_ref()
            .is_some_and(|live| live.quinn.stable_id() == id)
        {
            state.live = None;
            self.timers.stop(Timer::Reopen(*peer));
        }
        self.linger(peer);
    }
}

/// The connection id that an Initial is addressed to (RFC 9000 §17.2), by which quinn names the attempt.
fn initial_id(packet: &[u8]) -> Option<ConnectionId> {
    let long = packet.first()? & 0x80 != 0;
    let len = usize::from(*packet.get(5)?);
    let id = packet.get(6..6 + len)?;
    (long && len <= MAX_CID_LEN).then(|| ConnectionId::new(id))
}

/// Why our handshake failed, in the words of who dialled.
fn dial_error(peer: &PeerId, error: &quinn::ConnectionError) -> ConnectError {
    match error {
        quinn::ConnectionError::TimedOut => ConnectError::TimedOut(*peer),
        // Our own verifier refused the certificate: TLS alerts are codes 0x100 to 0x1ff (RFC 9001 §4.8).
        quinn::ConnectionError::TransportError(error)
            if (0x100..0x200).contains(&u64::from(error.code)) =>
        {
            ConnectError::WrongPeer(*peer)
        }
        error => ConnectError::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_attempt_is_read_from_its_first_packet() {
        let mut packet = vec![0xc3, 0, 0, 0, 1, 4, 1, 2, 3, 4, 0, 0];
        assert_eq!(initial_id(&packet), Some(ConnectionId::new(&[1, 2, 3, 4])));
        packet[5] = 200;
        assert_eq!(initial_id(&packet), None);
        packet[5] = 4;
        packet[0] = 0x43;
        assert_eq!(initial_id(&packet), None, "a short header has no such id");
        for len in 0..10 {
            assert_eq!(
                initial_id(&[0xc3, 0, 0, 0, 1, 4, 1, 2, 3, 4][..len]),
                None,
                "{len}"
            );
        }
    }

    #[test]
    fn both_sides_keep_the_same_connection() {
        let (small, large) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
        // The smaller one keeps what it dialled, the larger one what it accepted.
        assert!(ours_stays(&small, &large));
        assert!(!ours_stays(&large, &small));
    }
}
