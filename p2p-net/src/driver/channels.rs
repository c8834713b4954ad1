//! Relayed channels (`wire.md` §5): opened with an offer and the first packets of a handshake, accepted
//! with the answer and the first packets back, opened anew for a living connection after each login.

use std::sync::Arc;
use std::time::Duration;

use p2p_net_proto::wire::{
    ChannelAccept, ChannelClose, ChannelClosed, ChannelOffered, ChannelOpen, ChannelOpened,
    ChannelReady, reason, signal,
};
use p2p_net_proto::{ChannelEnd, ChannelId, Input, PeerId};
use tracing::{debug, trace};

use super::Driver;
use super::peers::PeerState;
use super::timers::Timer;
use crate::ConnectError;
use crate::link::Channel;
use crate::socket::now;

/// A channel-open waits this long for the first packets of a handshake; they come within microseconds.
const OPEN_PATIENCE: Duration = Duration::from_millis(50);
/// A channel-accept likewise; it serves without them.
const ACCEPT_PATIENCE: Duration = Duration::from_millis(20);
/// Channels with one peer at one time: ours, theirs where both opened one, and one being replaced.
const MAX_CHANNELS: usize = 3;
/// With so many peers known, a stranger's channel is declined.
const MAX_STRANGERS: usize = 512;
/// The accepting side of a connection leaves reopening to the other for this long.
const REOPEN_YIELD: Duration = Duration::from_millis(500);
/// First pause after a channel could not be opened anew; doubles up to [`REOPEN_MAX`]. Short, because after a
/// relay's restart the peer logs in within moments of ourselves.
const REOPEN_MIN: Duration = Duration::from_millis(250);
const REOPEN_MAX: Duration = Duration::from_secs(30);

/// A channel that we ask for.
#[derive(Debug)]
pub(super) struct Opening {
    /// Our number of it, once it was asked for.
    pub(super) request: Option<u32>,
    /// The channel, once the relay made it.
    channel: Option<ChannelId>,
    /// What goes with it: an envelope, and whether the relay shall attest.
    pub(super) sealed: Option<(Vec<u8>, bool)>,
}

/// A channel that we shall agree to.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) channel: ChannelId,
    /// As in [`Opening`].
    pub(super) sealed: Option<(Vec<u8>, bool)>,
}

impl Driver {
    /// Prepares a channel to `peer`; with `flight`, its first packets go along.
    pub(super) fn begin_open(&mut self, peer: &PeerId, flight: bool) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        state.opening = Some(Opening {
            request: None,
            channel: None,
            sealed: None,
        });
        if flight {
            state.link.begin_flight();
            self.timers.set(Timer::Open(*peer), now() + OPEN_PATIENCE);
        }
    }

    /// The first packets are there.
    pub(super) fn on_flight(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get(peer) else {
            return;
        };
        if state.answering.is_some() {
            self.send_accept(peer);
        } else if state
            .opening
            .as_ref()
            .is_some_and(|opening| opening.request.is_none())
        {
            self.send_open(peer);
        }
    }

    pub(super) fn send_open(&mut self, peer: &PeerId) {
        self.timers.stop(Timer::Open(*peer));
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let Some(opening) = state
            .opening
            .as_mut()
            .filter(|opening| opening.request.is_none())
        else {
            return;
        };
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1).max(1);
        opening.request = Some(request);
        let (sealed, attest) = opening.sealed.take().unwrap_or_default();
        let flight = state.link.end_flight();
        trace!(peer = %peer.short(), request, packets = flight.len(), "channel asked for");
        self.requests.insert(request, *peer);
        if !self.say(ChannelOpen {
            request,
            to: *peer,
            sealed,
            attest,
            flight,
        }) {
            self.requests.remove(&request);
            let busy = ConnectError::RelayUnreachable("it takes no messages".to_owned());
            self.on_open_failed(peer, busy);
        }
        self.take_postponed(peer);
    }

    pub(super) fn on_channel_opened(&mut self, opened: &ChannelOpened) {
        let asked = self.requests.get(&opened.request).copied();
        match asked.filter(|peer| self.install(peer, opened.channel, opened.end)) {
            Some(peer) => {
                let opening = self
                    .peers
                    .get_mut(&peer)
                    .and_then(|state| state.opening.as_mut());
                if let Some(opening) = opening.filter(|o| o.request == Some(opened.request)) {
                    opening.channel = Some(opened.channel);
                }
            }
            None => {
                self.say(ChannelClose {
                    channel: opened.channel,
                });
            }
        }
    }

    /// Makes our end of a channel usable; the other side need not have agreed yet.
    fn install(&mut self, peer: &PeerId, id: ChannelId, end: ChannelEnd) -> bool {
        let (Some(session), Some(state)) = (&self.session, self.peers.get_mut(peer)) else {
            return false;
        };
        let Some(keys) = session.channel_keys(id) else {
            return false;
        };
        let leg_mtu = session.leg_mtu.clone();
        let channel = Channel::new(id, end, session.address, keys, leg_mtu);
        let channel = Arc::new(channel.through(session.tunnel()));
        let link = state.link.clone();
        state.channels.push((channel.clone(), false));
        self.channels.insert(id, *peer);
        self.parts
            .socket
            .tables_mut()
            .channels
            .insert(end, (channel, link));
        while self
            .peers
            .get(peer)
            .is_some_and(|state| state.channels.len() > MAX_CHANNELS)
        {
            let oldest = self
                .peers
                .get(peer)
                .and_then(|state| state.channels.first());
            let Some(oldest) = oldest.map(|(channel, _)| channel.id) else {
                break;
            };
            self.say(ChannelClose { channel: oldest });
            self.remove_channel(oldest);
        }
        self.choose_channel(peer);
        true
    }

    /// Packets take the newest channel that both sides agreed to, else the newest.
    fn choose_channel(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get(peer) else {
            return;
        };
        let ready = state.channels.iter().rev().find(|(_, ready)| *ready);
        let channel = ready
            .or_else(|| state.channels.last())
            .map(|(channel, _)| channel.clone());
        state.link.set_channel(channel);
    }

    /// Both sides have agreed.
    fn set_ready(&mut self, peer: &PeerId, id: ChannelId) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        for (channel, ready) in &mut state.channels {
            *ready |= channel.id == id;
        }
        state.reopens = 0;
        self.timers.stop(Timer::Reopen(*peer));
        self.choose_channel(peer);
        self.input(peer, Input::Relay(true));
        if let Some(state) = self.peers.get_mut(peer) {
            state.wake();
        }
    }

    pub(super) fn on_channel_ready(&mut self, ready: ChannelReady) {
        let Some(peer) = self.channels.get(&ready.channel).copied() else {
            return;
        };
        if let Some(state) = self.peers.get_mut(&peer) {
            let ours = |request: &u32| self.requests.get(request) == Some(&peer);
            let request = state
                .opening
                .as_ref()
                .and_then(|opening| opening.request)
                .filter(ours);
            if let Some(request) = request {
                state.opening = None;
                self.requests.remove(&request);
            }
        }
        if !ready.sealed.is_empty()
            && !self.take_sealed(&peer, signal::ANSWER, &ready.sealed, &ready.observed)
        {
            debug!(peer = %peer.short(), "the answer does not open; the relay path stays");
        }
        self.set_ready(&peer, ready.channel);
        self.inject(&peer, ready.flight);
    }

    fn inject(&self, peer: &PeerId, flight: Vec<Vec<u8>>) {
        let Some(state) = self.peers.get(peer) else {
            return;
        };
        for packet in flight {
            if p2p_net_proto::classify(&packet) == p2p_net_proto::PacketKind::Quic {
                self.parts.socket.inject(state.link.address, packet);
            }
        }
    }

    /// An opening of ours has gone out: an offer that came meanwhile is looked at.
    pub(super) fn take_postponed(&mut self, peer: &PeerId) {
        let state = self.peers.get_mut(peer);
        if let Some(offered) = state.and_then(|state| state.postponed.take()) {
            self.on_channel_offered(*offered);
        }
    }

    pub(super) fn on_channel_offered(&mut self, offered: ChannelOffered) {
        let (peer, channel) = (offered.from, offered.channel);
        let unsent = |opening: &Opening| opening.request.is_none();
        if let Some(state) = self.peers.get_mut(&peer)
            && state.opening.as_ref().is_some_and(unsent)
        {
            // Ours goes out within moments. Answering first would mix the packets of the two attempts, and
            // the peer could not tell that both dial.
            if let Some(before) = state.postponed.replace(Box::new(offered)) {
                self.say(ChannelClose {
                    channel: before.channel,
                });
            }
            return;
        }
        // A channel for a connection of which we have nothing, as after a restart: the caller hears so.
        let resumed = offered.flight.is_empty() && offered.sealed.is_empty();
        if resumed && self.peers.get(&peer).is_none_or(PeerState::is_idle) {
            self.say(ChannelClose { channel });
            return;
        }
        let known = self.parts.shared.contact(&peer).accepted == Some(true);
        let room = known || self.peers.len() < MAX_STRANGERS;
        let welcome = peer != self.me && room && self.ensure_peer(&peer).is_ok();
        // One at a time: a caller that opens several is answered by the first.
        let busy = self
            .peers
            .get(&peer)
            .is_some_and(|state| state.answering.is_some());
        if !welcome || busy || !self.install(&peer, channel, offered.end) {
            self.say(ChannelClose { channel });
            return;
        }
        let ours_stays = self.note_glare(&peer, &offered.flight);
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        state.answering = Some(Answering {
            channel,
            sealed: None,
        });
        self.input(&peer, Input::Wanted(true));
        let sealed = &offered.sealed;
        if !sealed.is_empty() && !self.take_sealed(&peer, signal::OFFER, sealed, &offered.observed)
        {
            if let Some(state) = self.peers.get_mut(&peer) {
                state.answering = None;
            }
            self.say(ChannelClose { channel });
            self.remove_channel(channel);
            self.linger(&peer);
            return;
        }
        let wait = !offered.flight.is_empty() && !ours_stays;
        if wait && let Some(state) = self.peers.get(&peer) {
            state.link.begin_flight();
            self.timers
                .set(Timer::Accept(peer), now() + ACCEPT_PATIENCE);
        }
        self.inject(&peer, offered.flight);
        if !wait {
            self.send_accept(&peer);
        }
        self.linger(&peer);
    }

    pub(super) fn send_accept(&mut self, peer: &PeerId) {
        self.timers.stop(Timer::Accept(*peer));
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        let Some(Answering { channel, sealed }) = state.answering.take() else {
            return;
        };
        let (sealed, attest) = sealed.unwrap_or_default();
        let flight = state.link.end_flight();
        trace!(peer = %peer.short(), packets = flight.len(), "channel agreed to");
        self.say(ChannelAccept {
            channel,
            sealed,
            attest,
            flight,
        });
        self.set_ready(peer, channel);
    }

    pub(super) fn on_channel_closed(&mut self, closed: &ChannelClosed) {
        let peer = self
            .requests
            .remove(&closed.request)
            .or_else(|| self.opener(closed.channel));
        self.remove_channel(closed.channel);
        let Some(peer) = peer else { return };
        if closed.code == reason::CLOSED {
            self.end_forgotten(&peer);
        }
        let message = closed.message.clone();
        let error = match closed.code {
            reason::NOT_HERE | reason::GONE => ConnectError::NotOnline(peer),
            reason::TIMEOUT => ConnectError::TimedOut(peer),
            _ => ConnectError::Refused(message),
        };
        self.on_open_failed(&peer, error);
    }

    /// The peer that we are opening this very channel to.
    fn opener(&mut self, channel: ChannelId) -> Option<PeerId> {
        let peer = *self.channels.get(&channel)?;
        let opening = self.peers.get(&peer)?.opening.as_ref()?;
        let request = opening
            .request
            .filter(|_| opening.channel == Some(channel))?;
        self.requests.remove(&request);
        Some(peer)
    }

    fn on_open_failed(&mut self, peer: &PeerId, error: ConnectError) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        debug!(peer = %peer.short(), %error, "no channel");
        state.opening = None;
        state.link.end_flight();
        self.on_dial_refused(peer, error);
        self.reopen_later(peer);
    }

    /// Forgets a channel that is closed.
    fn remove_channel(&mut self, id: ChannelId) {
        let Some(peer) = self.channels.remove(&id) else {
            return;
        };
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let mut tables = self.parts.socket.tables_mut();
        state.channels.retain(|(channel, _)| {
            if channel.id == id {
                tables.channels.remove(&channel.end);
            }
            channel.id != id
        });
        drop(tables);
        let request = state.opening.as_ref().and_then(|opening| opening.request);
        let relayed = state.is_relayed();
        self.choose_channel(&peer);
        if !relayed {
            self.input(&peer, Input::Relay(false));
        }
        if request.is_none() {
            self.reopen_later(&peer);
        }
    }

    /// Closes all channels with a peer, at the relay too.
    pub(super) fn close_channels(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get(peer) else {
            return;
        };
        let ids: Vec<_> = state
            .channels
            .iter()
            .map(|(channel, _)| channel.id)
            .collect();
        for channel in ids {
            self.say(ChannelClose { channel });
            self.remove_channel(channel);
        }
    }

    /// The login is gone, and with it all channels.
    pub(super) fn drop_channels(&mut self) {
        self.requests.clear();
        let ids: Vec<_> = self.channels.keys().copied().collect();
        for peer in self.peers.values_mut() {
            peer.opening = None;
            peer.answering = None;
            peer.postponed = None;
            peer.link.end_flight();
        }
        for id in ids {
            self.remove_channel(id);
        }
    }

    /// A new login: living connections get channels again.
    pub(super) fn resume_channels(&mut self) {
        let now = now();
        for (peer, state) in &mut self.peers {
            state.reopens = 0;
            if let Some(live) = &state.live {
                let pause = if live.dialler {
                    Duration::ZERO
                } else {
                    REOPEN_YIELD
                };
                self.timers.set(Timer::Reopen(*peer), now + pause);
            }
        }
    }

    /// A peer has come (back): a connection with it that has no channel gets one.
    pub(super) fn expect_channel(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        // An opening that is under way may still fail because the peer was not there yet.
        state.reopens = 0;
        if let Some(live) = &state.live
            && !state.is_relayed()
        {
            let pause = if live.dialler {
                Duration::ZERO
            } else {
                REOPEN_YIELD
            };
            self.timers.set(Timer::Reopen(*peer), now() + pause);
        }
    }

    /// Tries again after a while if there is a connection to carry.
    fn reopen_later(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        if state.live.is_none() || state.is_relayed() || state.opening.is_some() {
            return;
        }
        let pause = REOPEN_MIN
            .saturating_mul(1 << state.reopens.min(8))
            .min(REOPEN_MAX);
        state.reopens += 1;
        self.timers.set_default(Timer::Reopen(*peer), now() + pause);
    }

    pub(super) fn reopen(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get(peer) else {
            return;
        };
        if self.session.is_some() && state.live.is_some() && state.opening.is_none() {
            self.begin_open(peer, false);
            self.send_open(peer);
        }
    }
}
