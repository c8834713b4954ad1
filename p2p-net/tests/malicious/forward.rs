//! Channels of the evil relay and what becomes of their packets.

use std::collections::VecDeque;

use p2p_net_proto::{
    CHANNEL_KEY_LABEL, ChannelEnd, ChannelId, Class, Direction, HEADER_LEN, Header, HeaderKey,
    PacketKind, PeerId, channel_key_context, classify,
};
use rand::RngExt;

use super::relay::{Hub, State};

/// Packets that wait at a half-open channel; generous, the honest ends bound themselves.
const WAITING: usize = 64;
/// Packets held back for reordering.
const HELD: usize = 8;
/// Old packets kept for replay.
const HISTORY: usize = 256;

/// Who is at an end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    /// A logged-in peer.
    Client(PeerId),
    /// The relay's own QUIC endpoint of this number.
    Mallory(u32),
}

/// One of a channel's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Callee,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// See the module.
pub(crate) struct Channel {
    pub(crate) caller: End,
    pub(crate) callee: End,
    /// The peer that Mallory pretends to be.
    pub(crate) claimed: Option<PeerId>,
    ready: bool,
    waiting: Vec<(Side, Packet)>,
}

/// One end of a channel.
pub(crate) struct End {
    pub(crate) party: Party,
    number: ChannelEnd,
    keys: Option<Keys>,
    counter: u32,
    held: Vec<Packet>,
    history: VecDeque<Packet>,
}

struct Keys {
    up: HeaderKey,
    down: HeaderKey,
}

/// A relayed packet without its header's number, counter and tag.
#[derive(Clone)]
pub(super) struct Packet {
    class: Class,
    ecn: u8,
    fragment: bool,
    payload: Vec<u8>,
}

impl Packet {
    fn plain(payload: Vec<u8>) -> Self {
        Self {
            class: Class::Control,
            ecn: 0,
            fragment: false,
            payload,
        }
    }
}

impl Channel {
    pub(super) fn has(&self, peer: PeerId) -> bool {
        [&self.caller, &self.callee]
            .iter()
            .any(|end| end.party == Party::Client(peer))
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }
}

impl State {
    /// A new channel and its two ends; `None` where a party has left.
    pub(super) fn make_channel(
        &mut self,
        caller: Party,
        callee: Party,
    ) -> Option<(ChannelId, ChannelEnd, ChannelEnd)> {
        let base = self.next;
        self.next += 2;
        let channel = ChannelId(u64::from(base) << 16 | 0x0bad);
        let (caller_end, callee_end) = (ChannelEnd(base), ChannelEnd(base + 1));
        let caller = self.make_end(channel, caller, caller_end)?;
        let callee = self.make_end(channel, callee, callee_end)?;
        let waiting = Vec::new();
        let made = Channel {
            caller,
            callee,
            claimed: None,
            ready: false,
            waiting,
        };
        self.channels.insert(channel, made);
        self.ends.insert(caller_end, (channel, Side::Caller));
        self.ends.insert(callee_end, (channel, Side::Callee));
        Some((channel, caller_end, callee_end))
    }

    pub(super) fn remove_channel(&mut self, channel: ChannelId) -> Option<Channel> {
        let gone = self.channels.remove(&channel)?;
        self.ends.remove(&gone.caller.number);
        self.ends.remove(&gone.callee.number);
        Some(gone)
    }

    /// Whether nobody has closed it.
    pub(crate) fn has_channel(&self, channel: ChannelId) -> bool {
        self.channels.contains_key(&channel)
    }

    /// The newest channel in which `peer` takes part.
    pub(crate) fn channel_of(&self, peer: PeerId) -> Option<(ChannelId, ChannelEnd, Side)> {
        let newest = self
            .channels
            .iter()
            .filter(|(_, c)| c.has(peer))
            .max_by_key(|(id, _)| **id)?;
        let (id, channel) = newest;
        Some(if channel.caller.party == Party::Client(peer) {
            (*id, channel.caller.number, Side::Caller)
        } else {
            (*id, channel.callee.number, Side::Callee)
        })
    }

    fn make_end(&self, channel: ChannelId, party: Party, number: ChannelEnd) -> Option<End> {
        let keys = match party {
            Party::Mallory(_) => None,
            Party::Client(peer) => {
                let connection = &self.clients.get(&peer)?.connection;
                let key = |direction| {
                    let mut key = [0; 16];
                    let context = channel_key_context(channel, direction);
                    connection
                        .export_keying_material(&mut key, CHANNEL_KEY_LABEL, &context)
                        .ok()
                        .map(|()| HeaderKey::new(key))
                };
                Some(Keys {
                    up: key(Direction::Up)?,
                    down: key(Direction::Down)?,
                })
            }
        };
        let (held, history) = (Vec::new(), VecDeque::new());
        Some(End {
            party,
            number,
            keys,
            counter: 0,
            held,
            history,
        })
    }

    fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    /// Changes up to 4 bytes, anywhere.
    fn alter(&mut self, payload: &mut [u8]) {
        if payload.is_empty() {
            return;
        }
        self.seen.altered += 1;
        for _ in 0..self.rng.random_range(1..=4) {
            let at = self.rng.random_range(0..payload.len());
            payload[at] ^= self.rng.random_range(1..=255_u8);
        }
    }
}

impl Hub {
    /// A UDP payload that is not QUIC.
    pub(super) fn on_packet(&self, packet: &[u8]) {
        let mut state = self.state();
        if classify(packet) != PacketKind::Relayed {
            state.seen.others += 1;
            return;
        }
        let Some((channel, side, packet)) = state.check(packet) else {
            state.seen.refused_packets += 1;
            return;
        };
        state.seen.packets += 1;
        self.record.relayed(&packet.payload);
        self.forward(&mut state, channel, side.other(), packet);
    }

    /// Both ends agreed (or were said to): what waited goes on.
    pub(super) fn ready(&self, channel: ChannelId) {
        let mut state = self.state();
        let Some(found) = state.channels.get_mut(&channel) else {
            return;
        };
        found.ready = true;
        for (side, packet) in std::mem::take(&mut found.waiting) {
            self.forward(&mut state, channel, side, packet);
        }
    }

    /// First flights are altered as packets are.
    pub(super) fn alter_flight(&self, mut packet: Vec<u8>) -> Vec<u8> {
        let mut state = self.state();
        let percent = state.deeds.packets.alter;
        if state.chance(percent) {
            state.alter(&mut packet);
        }
        packet
    }

    /// Opens a channel to `to` in the name of `claimed`, with Mallory's endpoint at the caller's end.
    pub(crate) fn offer_as(
        &self,
        mallory: u32,
        claimed: PeerId,
        to: PeerId,
        sealed: Vec<u8>,
        flight: Vec<Vec<u8>>,
    ) -> Option<ChannelId> {
        let (channel, end, observed) = {
            let mut state = self.state();
            let (channel, _, end) =
                state.make_channel(Party::Mallory(mallory), Party::Client(to))?;
            let found = state.channels.get_mut(&channel)?;
            found.claimed = Some(claimed);
            let at = |&address| p2p_net_proto::wire::ObservedAddress {
                address,
                age_millis: 0,
            };
            (channel, end, state.deeds.attested.iter().map(at).collect())
        };
        let from = claimed;
        let offered = p2p_net_proto::wire::ChannelOffered {
            channel,
            end,
            from,
            sealed,
            observed,
            flight,
        };
        self.send(to, offered);
        Some(channel)
    }

    /// A packet that Mallory's endpoint sends goes into its newest channel.
    pub(super) fn on_mallory(&self, mallory: u32, payload: Vec<u8>) {
        let mut state = self.state();
        let party = Party::Mallory(mallory);
        let side = |c: &Channel| {
            if c.caller.party == party {
                Some(Side::Caller)
            } else if c.callee.party == party {
                Some(Side::Callee)
            } else {
                None
            }
        };
        let newest = state
            .channels
            .iter()
            .filter_map(|(id, c)| Some((*id, side(c)?)));
        let Some((channel, side)) = newest.max_by_key(|(id, _)| *id) else {
            return;
        };
        self.forward(&mut state, channel, side.other(), Packet::plain(payload));
    }

    /// Hands a packet to the Mallory at that end.
    pub(super) fn to_mallory(&self, channel: ChannelId, side: Side, payload: Vec<u8>) {
        self.emit(&mut self.state(), channel, side, Packet::plain(payload));
    }

    /// Sends `payload` to `peer` in its newest channel, with a header that holds.
    pub(crate) fn inject(&self, peer: PeerId, payload: Vec<u8>, fragment: bool) -> bool {
        let mut state = self.state();
        let Some((channel, _, side)) = state.channel_of(peer) else {
            return false;
        };
        let packet = Packet {
            fragment,
            ..Packet::plain(payload)
        };
        self.emit(&mut state, channel, side, packet);
        true
    }

    fn forward(&self, state: &mut State, channel: ChannelId, to: Side, mut packet: Packet) {
        let Some(found) = state.channels.get_mut(&channel) else {
            return;
        };
        if !found.ready {
            if found.waiting.len() < WAITING {
                found.waiting.push((to, packet));
            }
            return;
        }
        let deeds = state.deeds.packets;
        let end = state
            .channels
            .get_mut(&channel)
            .expect("looked up above")
            .end(to);
        if end.history.len() == HISTORY {
            end.history.pop_front();
        }
        end.history.push_back(packet.clone());
        if state.chance(deeds.drop) {
            state.seen.dropped += 1;
            return;
        }
        if state.chance(deeds.alter) {
            state.alter(&mut packet.payload);
        }
        if state.chance(deeds.reorder) {
            let end = state
                .channels
                .get_mut(&channel)
                .expect("looked up above")
                .end(to);
            if end.held.len() < HELD {
                end.held.push(packet);
                state.seen.reordered += 1;
                return;
            }
        }
        if state.chance(deeds.duplicate) {
            state.seen.duplicated += 1;
            self.emit(state, channel, to, packet.clone());
        }
        self.emit(state, channel, to, packet);
        self.emit_late(state, channel, to);
    }

    /// Releases a held packet now and then, and sends an old one again.
    fn emit_late(&self, state: &mut State, channel: ChannelId, to: Side) {
        let deeds = state.deeds.packets;
        let State {
            channels,
            rng,
            seen,
            ..
        } = state;
        let Some(found) = channels.get_mut(&channel) else {
            return;
        };
        let end = found.end(to);
        let mut late = Vec::new();
        if !end.held.is_empty() && rng.random_bool(0.5) {
            let at = rng.random_range(0..end.held.len());
            late.push(end.held.swap_remove(at));
        }
        if rng.random_range(0..100) < deeds.replay && !end.history.is_empty() {
            let at = rng.random_range(0..end.history.len());
            late.push(end.history[at].clone());
            seen.replayed += 1;
        }
        for packet in late {
            self.emit(state, channel, to, packet);
        }
    }

    /// Sends everything that is held back, newest first.
    pub(super) fn release_held(&self) {
        let mut state = self.state();
        let mut late = Vec::new();
        for (id, channel) in &mut state.channels {
            for side in [Side::Caller, Side::Callee] {
                let held = std::mem::take(&mut channel.end(side).held);
                late.extend(held.into_iter().rev().map(|packet| (*id, side, packet)));
            }
        }
        for (channel, side, packet) in late {
            self.emit(&mut state, channel, side, packet);
        }
    }

    /// The last step: tag and send, or hand to Mallory.
    fn emit(&self, state: &mut State, channel: ChannelId, to: Side, packet: Packet) {
        let State {
            channels,
            clients,
            mallories,
            ..
        } = state;
        let Some(found) = channels.get_mut(&channel) else {
            return;
        };
        let end = found.end(to);
        match end.party {
            Party::Mallory(number) => {
                if let Some(queue) = mallories.get(&number) {
                    let _ = queue.try_send(packet.payload);
                }
            }
            Party::Client(peer) => {
                let (Some(keys), Some(client)) = (&end.keys, clients.get(&peer)) else {
                    return;
                };
                let Packet {
                    class,
                    ecn,
                    fragment,
                    payload,
                } = packet;
                let (number, counter) = (end.number, end.counter);
                end.counter += 1;
                let header = Header {
                    epoch: false,
                    class,
                    ecn,
                    fragment,
                    end: number,
                    counter,
                };
                let mut bytes = vec![0; HEADER_LEN];
                bytes.extend_from_slice(&payload);
                header.write(&keys.down, &mut bytes);
                self.socket.send(client.connection.remote_address(), &bytes);
            }
        }
    }
}

impl State {
    fn check(&self, packet: &[u8]) -> Option<(ChannelId, Side, Packet)> {
        let (channel, side) = *self.ends.get(&Header::parse(packet).ok()?.end)?;
        let found = self.channels.get(&channel)?;
        let end = match side {
            Side::Caller => &found.caller,
            Side::Callee => &found.callee,
        };
        let header = Header::verify(&end.keys.as_ref()?.up, packet).ok()?;
        let (class, ecn, fragment) = (header.class, header.ecn, header.fragment);
        let payload = packet[HEADER_LEN..].to_vec();
        Some((
            channel,
            side,
            Packet {
                class,
                ecn,
                fragment,
                payload,
            },
        ))
    }
}
