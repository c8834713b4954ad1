//! Peers without a relay: found on the LAN, or where the program says they are. An Offer and its Answer travel in
//! knocks; probes, QUIC and everything above are as ever. Only accepted contacts are knocked at and answered.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use p2p_net_proto::wire::{ObservedAddress, signal};
use p2p_net_proto::{Input, KNOCK_TOLERANCE_SECS, Knock, PeerId, SignalBody, lan_day, lan_name};
use tracing::{debug, trace};

use super::peers::PeerState;
use super::timers::Timer;
use super::{Driver, lock};
use crate::endpoint::Discovery;
use crate::lan::{Finder, Sighting, is_on_link};
use crate::socket::{canonical, now};

/// Names on the LAN that are remembered at most.
const MAX_FOUND: usize = 256;
/// Addresses of one peer that are knocked at.
const MAX_ADDRESSES: usize = 8;
/// A relay that has not greeted by then is looked around for: a login takes two round trips.
const RELAY_PATIENCE: Duration = Duration::from_millis(1_500);
/// Between looks whether the day, and with it our name, has changed.
const LOOK: Duration = Duration::from_secs(60);
/// Knocks that are opened in a second, and at once: each costs a Diffie-Hellman, and an honest peer knocks once
/// or twice.
const KNOCK_INTERVAL: Duration = Duration::from_millis(20);
const KNOCK_BURST: u32 = 50;

/// See the module.
pub(super) struct Lan {
    mode: Discovery,
    pub(super) finder: Option<Finder>,
    /// Under today's name, or that of another day.
    found: HashMap<String, Vec<SocketAddr>>,
    /// Where accepted contacts are knocked at.
    near: HashMap<PeerId, Vec<SocketAddr>>,
    /// Whose Offer has just come by a knock, and where its one Answer goes.
    answer_to: Option<(PeerId, SocketAddr)>,
    /// First packets that came before the probe which proves the way back.
    early: HashMap<PeerId, quinn::Incoming>,
    /// When the allowance of knocks is whole again.
    whole_at: Option<Instant>,
}

impl Lan {
    pub(super) fn new(mode: Discovery) -> Self {
        Self {
            mode,
            finder: None,
            found: HashMap::new(),
            near: HashMap::new(),
            answer_to: None,
            early: HashMap::new(),
            whole_at: None,
        }
    }

    /// Whether peers can be reached without a relay at all.
    pub(super) fn is_on(&self) -> bool {
        self.mode != Discovery::Off
    }

    /// Counts a knock; says whether it may be opened.
    fn admit(&mut self, now: Instant) -> bool {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now));
        if whole_at.saturating_duration_since(now) > KNOCK_INTERVAL * KNOCK_BURST {
            return false;
        }
        self.whole_at = Some(whole_at + KNOCK_INTERVAL);
        true
    }
}

impl Driver {
    /// Where `peer` is knocked at, if anywhere.
    pub(super) fn is_near(&self, peer: &PeerId) -> bool {
        self.lan.near.contains_key(peer)
    }

    /// The relay is there, or no longer, or not yet.
    pub(super) fn plan_lan(&mut self) {
        if !self.lan.is_on() {
            return;
        }
        let waits = self.parts.relay.is_some()
            && self.lan.mode == Discovery::WithoutRelay
            && self.session.is_none();
        let after = if waits {
            RELAY_PATIENCE
        } else {
            Duration::ZERO
        };
        self.timers.set(Timer::Lan, now() + after);
    }

    pub(super) fn on_lan_timer(&mut self) {
        let on_loopback = self
            .observed
            .is_some_and(|observed| observed.ip().is_loopback());
        let wanted = match self.lan.mode {
            Discovery::Off => false,
            Discovery::WithoutRelay => self.session.is_none() && !on_loopback,
            Discovery::Always => true,
        };
        if wanted && self.parts.system {
            if self.lan.finder.is_none() {
                self.lan.finder = Finder::start();
            }
            let name = lan_name(&self.me, lan_day(unix_secs()));
            let port = self.parts.socket.port();
            if let Some(finder) = &mut self.lan.finder {
                finder.announce(&name, port);
            }
        } else if self.lan.finder.take().is_some() {
            self.lan.found.clear();
        }
        self.refresh_near();
        self.timers.set(Timer::Lan, now() + LOOK);
    }

    pub(super) fn on_sighting(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::Here(name, addresses) => {
                let room = self.lan.found.len() < MAX_FOUND || self.lan.found.contains_key(&name);
                if room && !addresses.is_empty() {
                    self.lan.found.insert(name, addresses);
                }
            }
            Sighting::Gone(name) => {
                self.lan.found.remove(&name);
            }
        }
        self.refresh_near();
    }

    /// Works out who is near, and draws the consequences.
    pub(super) fn refresh_near(&mut self) {
        if !self.lan.is_on() {
            return;
        }
        let near = self.work_out_near();
        let before = std::mem::replace(&mut self.lan.near, near);
        let came: Vec<PeerId> = self
            .lan
            .near
            .keys()
            .filter(|peer| !before.contains_key(peer))
            .copied()
            .collect();
        let went: Vec<PeerId> = before
            .into_keys()
            .filter(|peer| !self.lan.near.contains_key(peer))
            .collect();
        if came.is_empty() && went.is_empty() {
            return;
        }
        let online = self.session.is_some();
        self.parts.present.send_modify(|present| {
            let present = Arc::make_mut(present);
            present.extend(came.iter().copied());
            if !online {
                for peer in &went {
                    present.remove(peer);
                }
            }
        });
        for peer in &went {
            self.input(peer, Input::Near(false));
        }
        for peer in &came {
            debug!(peer = %peer.short(), "near");
            self.input(peer, Input::Near(true));
        }
        self.resume_near_dials();
    }

    /// Accepted contacts, and where they are: as the program says, and as the LAN does.
    fn work_out_near(&self) -> HashMap<PeerId, Vec<SocketAddr>> {
        let mut near: HashMap<PeerId, Vec<SocketAddr>> = HashMap::new();
        for (peer, addresses) in self.parts.shared.addresses() {
            if self.is_accepted(&peer) {
                near.entry(peer).or_default().extend(addresses);
            }
        }
        if !self.lan.found.is_empty() {
            let today = lan_day(unix_secs());
            // Clocks differ, and days begin at different moments.
            let days = [today, today.saturating_sub(1), today.saturating_add(1)];
            for peer in self.parts.shared.known() {
                if !self.is_accepted(&peer) {
                    continue;
                }
                let found = days
                    .iter()
                    .find_map(|day| self.lan.found.get(&lan_name(&peer, *day)));
                if let Some(found) = found {
                    // Whoever answers for a name could name any victim: only neighbours are knocked at.
                    let neighbours = found.iter().filter(|at| {
                        is_on_link(&self.interfaces, at.ip()) && self.parts.socket.reaches(at)
                    });
                    near.entry(peer).or_default().extend(neighbours);
                }
            }
        }
        for addresses in near.values_mut() {
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(MAX_ADDRESSES);
        }
        near.retain(|peer, addresses| *peer != self.me && !addresses.is_empty());
        near
    }

    /// Who is here although no relay says so.
    pub(super) fn near_peers(&self) -> BTreeSet<PeerId> {
        self.lan.near.keys().copied().collect()
    }

    /// Dials that have waited for somebody to be found.
    fn resume_near_dials(&mut self) {
        if self.session.is_some() {
            return;
        }
        let waiting: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(peer, state)| state.waits_for_a_way() && self.is_near(peer))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in waiting {
            self.begin_near_dial(&peer);
        }
    }

    /// Seeks a direct path to a peer that needs no relay; the handshake follows when there is one.
    pub(super) fn begin_near_dial(&mut self, peer: &PeerId) {
        debug!(peer = %peer.short(), "dialling without a relay");
        if let Some(state) = self.peers.get_mut(peer) {
            // What was kept for a channel will not be fetched.
            state.opening = None;
            state.link.end_flight();
        }
        self.input(peer, Input::Wanted(true));
        self.input(peer, Input::Near(true));
        self.begin_handshake_if_direct(peer);
    }

    /// Keeps a peer's attempt until we can answer it; one a peer, and not for longer than the peer is known.
    pub(super) fn keep_early(&mut self, peer: &PeerId, incoming: quinn::Incoming) {
        self.lan
            .early
            .retain(|peer, _| self.peers.contains_key(peer));
        if self.lan.is_on() && self.peers.contains_key(peer) {
            self.lan.early.insert(*peer, incoming);
        } else {
            incoming.ignore();
        }
    }

    /// What waited for a direct path has one: a dial of ours, or an attempt of the peer's.
    pub(super) fn begin_handshake_if_direct(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get(peer) else {
            return;
        };
        if state.link.is_direct()
            && let Some(early) = self.lan.early.remove(peer)
        {
            self.on_incoming(early);
            return self.begin_handshake_if_direct(peer);
        }
        // Where the peer is about to reach us, one connection is enough.
        let free = self.session.is_none() && state.handshakes == 0;
        if state.link.is_direct() && free && state.waits_for_a_way() {
            self.begin_handshake(peer);
        }
    }

    /// Sends a signal as a knock, where it has no relay to go through; says whether it did.
    pub(super) fn send_knock(&mut self, peer: &PeerId, body: &SignalBody) -> bool {
        let to = match (body, self.lan.answer_to) {
            (SignalBody::Answer(_), Some((whom, to))) if whom == *peer => {
                // One answer to one question, to where that came from.
                self.lan.answer_to = None;
                vec![to]
            }
            (SignalBody::Offer(_), _) if !self.has_relay_for(peer) => {
                match self.lan.near.get(peer) {
                    Some(addresses) => addresses.clone(),
                    None => return false,
                }
            }
            _ => return false,
        };
        let Some(sealed) = self.seals.seal(peer, body) else {
            return true;
        };
        let knock = Knock {
            from: self.me,
            unix_secs: unix_secs(),
            kind: body.kind(),
            sealed,
        };
        if let Some(packet) = knock.seal(peer, rand::random()) {
            trace!(peer = %peer.short(), ?to, kind = knock.kind, "knocking");
            for to in to {
                self.parts.socket.send_raw(to, &packet);
            }
        }
        true
    }

    /// Whether signals to `peer` go through the relay: a channel is there, or on its way.
    fn has_relay_for(&self, peer: &PeerId) -> bool {
        let state = self.peers.get(peer);
        self.session.is_some()
            && state.is_some_and(|state| state.opening.is_some() || state.is_relayed())
    }

    pub(super) fn on_knock(&mut self, from: SocketAddr, packet: &[u8]) {
        if !self.lan.is_on() || !self.lan.admit(now()) {
            return;
        }
        let Some(knock) = Knock::open(&self.parts.identity, packet) else {
            return;
        };
        let peer = knock.from;
        if peer == self.me || !self.is_accepted(&peer) {
            trace!(peer = %peer.short(), "a stranger knocks");
            return;
        }
        if !knock.is_recent(unix_secs()) {
            debug!(
                peer = %peer.short(),
                limit_secs = KNOCK_TOLERANCE_SECS,
                "a knock of another time: replayed, or a clock is wrong"
            );
            return;
        }
        match knock.kind {
            signal::OFFER => self.on_knocked_offer(&peer, canonical(from), &knock.sealed),
            signal::ANSWER => self.on_knocked_answer(&peer, canonical(from), &knock.sealed),
            _ => {}
        }
    }

    fn on_knocked_offer(&mut self, peer: &PeerId, from: SocketAddr, sealed: &[u8]) {
        // Before the first look at the interfaces there is nothing to answer; the peer knocks again.
        if self.interfaces.is_empty() || self.ensure_peer(peer).is_err() {
            return;
        }
        // The sender of an authentic knock may have lied about where it is: nobody but a neighbour gets more
        // than the answer before a probe has come from there.
        let observed = observed_if(is_on_link(&self.interfaces, from.ip()), from);
        self.lan.answer_to = Some((*peer, from));
        self.input(peer, Input::Wanted(true));
        let genuine = self.take_sealed(peer, signal::OFFER, sealed, &observed);
        self.lan.answer_to = None;
        trace!(peer = %peer.short(), %from, genuine, "knocked");
        if self.is_near(peer) {
            self.input(peer, Input::Near(true));
        }
        self.linger(peer);
    }

    fn on_knocked_answer(&mut self, peer: &PeerId, from: SocketAddr, sealed: &[u8]) {
        if !self.peers.contains_key(peer) {
            return;
        }
        // We knocked there, and an answer to that very knock came back.
        let known = self
            .lan
            .near
            .get(peer)
            .is_some_and(|near| near.contains(&from));
        let observed = observed_if(known, from);
        self.take_sealed(peer, signal::ANSWER, sealed, &observed);
    }
}

impl PeerState {
    /// Whether a dial has found no way to the peer yet.
    pub(super) fn waits_for_a_way(&self) -> bool {
        self.dial
            .as_ref()
            .is_some_and(super::connections::Dial::waits)
    }
}

fn observed_if(vouched: bool, address: SocketAddr) -> Vec<ObservedAddress> {
    let observed = ObservedAddress {
        address,
        age_millis: 0,
    };
    vouched.then_some(observed).into_iter().collect()
}

fn unix_secs() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl super::Shared {
    /// Everybody of whom something was said.
    fn known(&self) -> Vec<PeerId> {
        lock(&self.contacts).keys().copied().collect()
    }

    fn addresses(&self) -> Vec<(PeerId, Vec<SocketAddr>)> {
        let addresses = lock(&self.addresses);
        let addresses = addresses.iter();
        addresses.map(|(peer, at)| (*peer, at.clone())).collect()
    }

    /// Says where a peer is, and has the driver look.
    pub(crate) fn set_addresses(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        let mut all = lock(&self.addresses);
        if addresses.is_empty() {
            all.remove(&peer);
        } else if all.len() < super::MAX_PEERS || all.contains_key(&peer) {
            all.insert(peer, addresses.into_iter().map(canonical).collect());
        }
        drop(all);
        self.touch(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_knocks_is_not_opened() {
        let start = Instant::now();
        let mut lan = Lan::new(Discovery::Always);
        let at_once = (0..10_000).filter(|_| lan.admit(start)).count();
        assert!(at_once <= KNOCK_BURST as usize + 1, "{at_once}");
        let second = start + Duration::from_secs(1);
        let later = (0..10_000).filter(|_| lan.admit(second)).count();
        assert!((40..=51).contains(&later), "{later}");
    }
}
