//! Relayed datagrams: which channel end a packet comes from, whether it is authentic, fresh and
//! within its sender's limit, and where it goes. Pure: no socket, no clock; packets are rewritten
//! in place.
//!
//! Nothing is ever sent to an address that has not logged in or answered a challenge, and no queue
//! is kept but for the first packets of a half-open channel.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_net_proto::nudge::{self, Nudge};
use p2p_net_proto::{ChannelEnd, HEADER_LEN, Header, HeaderKey, ReplayWindow};
use siphasher::sip::SipHasher24;

use crate::admission::{Bucket, Rate};

/// Packets that each side may send ahead while a channel is half open (`wire.md` §5).
const MAX_HELD: usize = 4;
/// Bytes of one held packet at most: more than any path carries unfragmented.
const MAX_HELD_BYTES: usize = 1_600;
/// How long they are kept.
const HELD_FOR: Duration = Duration::from_secs(5);
/// Slots that the header can name: 19 bits beside the core number (`relay.md` §4.2).
const MAX_SLOTS: usize = 1 << 19;
/// How long a challenge can be answered: its period and the one before.
const CHALLENGE_PERIOD: Duration = Duration::from_secs(5);
/// Between two challenges of one end.
const CHALLENGE_GAP: Duration = Duration::from_millis(20);
/// Packets of one direction and channel: 32 bits of counter and the epoch.
const MAX_COUNTER: u64 = 1 << 33;
/// Share of a sender's bucket below which its ECN-capable packets are marked.
const MARK_BELOW: f64 = 0.2;
/// ECN code point "congestion experienced" (RFC 3168 §5).
const CE: u8 = 3;

/// A way to a client: which of our sockets, which address, and from which of our addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) socket: usize,
    pub(crate) address: SocketAddr,
    pub(crate) source: Option<IpAddr>,
}

impl Route {
    fn leads_where(&self, other: &Self) -> bool {
        self.socket == other.socket && self.address == other.address
    }
}

/// Index of a logged-in client among the owners of channel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerId(u32);

/// One side of a channel to be opened.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    pub(crate) owner: OwnerId,
    pub(crate) up: HeaderKey,
    pub(crate) down: HeaderKey,
}

/// Why a packet was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// Not a packet of this kind.
    Malformed,
    /// The tag does not hold, or the challenge was not ours.
    Forged,
    /// Seen before, or too old.
    Replayed,
    /// Its sender is above its limit.
    Limited,
    /// The channel is half open and holds enough.
    NotYet,
    /// The counter of the channel is used up.
    Exhausted,
    /// From an address that is not the end's, and no challenge is due.
    Moved,
}

/// What to do with an arrived packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has been rewritten: send it there, with this ECN code point.
    Send(Route, u8),
    /// Kept until the channel opens.
    Held,
    /// Send this challenge to where it came from.
    Challenge([u8; nudge::CHALLENGE_LEN]),
    /// No channel has this end: a hint may be sent.
    Unknown(ChannelEnd),
    /// Nothing.
    Drop(DropReason),
}

/// A packet that waited and can go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) route: Route,
    pub(crate) ecn: u8,
    pub(crate) packet: Vec<u8>,
}

#[derive(Debug)]
struct Owner {
    route: Route,
    bucket: Option<Bucket>,
    ends: u32,
    gone: bool,
}

#[derive(Debug)]
struct End {
    owner: OwnerId,
    other: u32,
    up: HeaderKey,
    down: HeaderKey,
    window: ReplayWindow,
    /// Of the next packet down.
    counter: u64,
    open: bool,
    held: Vec<(Instant, Vec<u8>)>,
    challenged: Option<Instant>,
}

/// Packets and bytes since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
}

/// All channel ends of this relay.
#[derive(Debug)]
pub(crate) struct Forward {
    slots: Vec<Option<End>>,
    free: VecDeque<u32>,
    owners: Vec<Option<Owner>>,
    free_owners: Vec<u32>,
    rate: Option<Rate>,
    secret: [u8; 16],
    epoch: Option<Instant>,
    counts: Counts,
}

impl Forward {
    /// `bytes_per_second` limits each client, 0 is unlimited; `secret` makes challenges
    /// unforgeable.
    pub(crate) fn new(bytes_per_second: u64, secret: [u8; 16]) -> Self {
        let rate = (bytes_per_second > 0).then(|| {
            let per_second = bytes_per_second as f64;
            Rate {
                per_second,
                burst: (per_second / 4.0).max(64.0 * 1_024.0),
            }
        });
        Self {
            slots: Vec::new(),
            free: VecDeque::new(),
            owners: Vec::new(),
            free_owners: Vec::new(),
            rate,
            secret,
            epoch: None,
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// A client that reached us by `route` may own ends from now on.
    pub(crate) fn add_owner(&mut self, now: Instant, route: Route) -> OwnerId {
        let bucket = self.rate.map(|rate| Bucket::full(now, rate));
        let owner = Owner {
            route,
            bucket,
            ends: 0,
            gone: false,
        };
        if let Some(at) = self.free_owners.pop() {
            self.owners[at as usize] = Some(owner);
            return OwnerId(at);
        }
        self.owners.push(Some(owner));
        OwnerId((self.owners.len() - 1) as u32)
    }

    /// The client has left; its place is free when its last end is closed.
    pub(crate) fn remove_owner(&mut self, id: OwnerId) {
        if let Some(Some(owner)) = self.owners.get_mut(id.0 as usize) {
            owner.gone = true;
            self.release_owner(id);
        }
    }

    fn release_owner(&mut self, id: OwnerId) {
        let place = &mut self.owners[id.0 as usize];
        if place
            .as_ref()
            .is_some_and(|owner| owner.gone && owner.ends == 0)
        {
            *place = None;
            self.free_owners.push(id.0);
        }
    }

    /// The control connection of a client moved, and with it what is sent to it.
    pub(crate) fn rebind(&mut self, id: OwnerId, route: Route) {
        if let Some(Some(owner)) = self.owners.get_mut(id.0 as usize) {
            owner.route = route;
        }
    }

    /// Makes the two ends of a half-open channel; `None` when all slots are taken.
    pub(crate) fn open(&mut self, sides: [Party; 2]) -> Option<[ChannelEnd; 2]> {
        let one = self.slot()?;
        let Some(other) = self.slot() else {
            self.free.push_back(one);
            return None;
        };
        let [a, b] = sides;
        for (party, at, to) in [(a, one, other), (b, other, one)] {
            if let Some(Some(owner)) = self.owners.get_mut(party.owner.0 as usize) {
                owner.ends += 1;
            }
            self.slots[at as usize] = Some(End {
                owner: party.owner,
                other: to,
                up: party.up,
                down: party.down,
                window: ReplayWindow::default(),
                counter: 0,
                open: false,
                held: Vec::new(),
                challenged: None,
            });
        }
        Some([ChannelEnd(one), ChannelEnd(other)])
    }

    /// A free slot. Fresh ones first, up to 1,024, then the one that has been free for longest, so
    /// that a number comes back late.
    fn slot(&mut self) -> Option<u32> {
        if (self.free.len() >= 1_024 || self.slots.len() == MAX_SLOTS)
            && let Some(at) = self.free.pop_front()
        {
            return Some(at);
        }
        (self.slots.len() < MAX_SLOTS).then(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        })
    }

    /// Opens the channel of `end` for data; what waited on both sides is returned, ready to be
    /// sent.
    pub(crate) fn accept(&mut self, now: Instant, end: ChannelEnd) -> Vec<Outgoing> {
        let Some(other) = self.end(end).map(|end| end.other) else {
            return Vec::new();
        };
        let mut waiting = Vec::new();
        for at in [end.0, other] {
            if let Some(Some(end)) = self.slots.get_mut(at as usize) {
                end.open = true;
                waiting.extend(
                    std::mem::take(&mut end.held)
                        .into_iter()
                        .map(|held| (at, held)),
                );
            }
        }
        let mut ready = Vec::new();
        for (at, (since, mut packet)) in waiting {
            let fresh = now.saturating_duration_since(since) <= HELD_FOR;
            match Header::parse(&packet) {
                Ok(header) if fresh => match self.pass(at, header, 0, &mut packet) {
                    Verdict::Send(route, ecn) => {
                        self.counts.packets += 1;
                        self.counts.bytes += packet.len() as u64;
                        ready.push(Outgoing { route, ecn, packet });
                    }
                    _ => self.counts.dropped += 1,
                },
                _ => self.counts.dropped += 1,
            }
        }
        ready
    }

    /// Closes both ends of the channel that has `end`.
    pub(crate) fn close(&mut self, end: ChannelEnd) {
        let Some(other) = self.end(end).map(|end| end.other) else {
            return;
        };
        for at in [end.0, other] {
            if let Some(end) = self.slots.get_mut(at as usize).and_then(Option::take) {
                self.free.push_back(at);
                if let Some(Some(owner)) = self.owners.get_mut(end.owner.0 as usize) {
                    owner.ends = owner.ends.saturating_sub(1);
                    self.release_owner(end.owner);
                }
            }
        }
    }

    /// Judges a packet of relayed data that came by `from` with the ECN code point `ecn` on its
    /// outside, and rewrites it if it may go on.
    pub(crate) fn packet(
        &mut self,
        now: Instant,
        from: Route,
        ecn: u8,
        packet: &mut [u8],
    ) -> Verdict {
        let verdict = self.judge(now, from, ecn, packet);
        match verdict {
            Verdict::Send(..) => {
                self.counts.packets += 1;
                self.counts.bytes += packet.len() as u64;
            }
            Verdict::Held => {}
            Verdict::Challenge(_) | Verdict::Unknown(_) | Verdict::Drop(_) => {
                self.counts.dropped += 1;
            }
        }
        verdict
    }

    fn judge(&mut self, now: Instant, from: Route, ecn: u8, packet: &mut [u8]) -> Verdict {
        let Ok(header) = Header::parse(packet) else {
            return Verdict::Drop(DropReason::Malformed);
        };
        let at = header.end.0;
        let Some(Some(end)) = self.slots.get_mut(at as usize) else {
            return Verdict::Unknown(header.end);
        };
        if Header::verify(&end.up, packet).is_err() {
            return Verdict::Drop(DropReason::Forged);
        }
        let Some(Some(owner)) = self.owners.get_mut(end.owner.0 as usize) else {
            return Verdict::Drop(DropReason::NotYet);
        };
        let counter = header.extended_counter();
        if !end.window.is_new(counter) {
            return Verdict::Drop(DropReason::Replayed);
        }
        if !owner.route.leads_where(&from) {
            return self.challenge(now, from, at, packet.len());
        }
        end.window.accept(counter);
        let mut ecn = ecn;
        if let (Some(rate), Some(bucket)) = (self.rate, &mut owner.bucket) {
            if !bucket.take(now, rate, packet.len() as f64) {
                return Verdict::Drop(DropReason::Limited);
            }
            if header.ecn != 0 && bucket.level(now, rate) < rate.burst * MARK_BELOW {
                ecn = CE;
            }
        }
        if end.open {
            return self.pass(at, header, ecn, packet);
        }
        end.held
            .retain(|(since, _)| now.saturating_duration_since(*since) <= HELD_FOR);
        if end.held.len() >= MAX_HELD || packet.len() > MAX_HELD_BYTES {
            return Verdict::Drop(DropReason::NotYet);
        }
        end.held.push((now, packet.to_vec()));
        Verdict::Held
    }

    /// Rewrites an authentic packet of the end in slot `at` for the other end.
    fn pass(&mut self, at: u32, header: Header, outer_ecn: u8, packet: &mut [u8]) -> Verdict {
        let Some(Some(End { other, .. })) = self.slots.get(at as usize) else {
            return Verdict::Drop(DropReason::NotYet);
        };
        let other = *other;
        let Some(Some(end)) = self.slots.get_mut(other as usize) else {
            return Verdict::Drop(DropReason::NotYet);
        };
        let Some(Some(owner)) = self.owners.get(end.owner.0 as usize) else {
            return Verdict::Drop(DropReason::NotYet);
        };
        let counter = end.counter;
        if counter >= MAX_COUNTER {
            return Verdict::Drop(DropReason::Exhausted);
        }
        end.counter += 1;
        // RFC 6040 §4.2: congestion met by the outer header is told to the inner one, if that can
        // bear it.
        let ecn = if outer_ecn == CE && header.ecn != 0 {
            CE
        } else {
            header.ecn
        };
        let down = Header {
            epoch: counter >> 32 != 0,
            ecn,
            end: ChannelEnd(other),
            counter: counter as u32,
            ..header
        };
        down.write(&end.down, packet);
        Verdict::Send(owner.route, ecn)
    }

    fn challenge(&mut self, now: Instant, from: Route, at: u32, length: usize) -> Verdict {
        let nonce = self.nonce(now, 0, at, from);
        let Some(Some(end)) = self.slots.get_mut(at as usize) else {
            return Verdict::Drop(DropReason::Moved);
        };
        let due = end
            .challenged
            .is_none_or(|last| now.saturating_duration_since(last) >= CHALLENGE_GAP);
        // The answer to an unproven address is never longer than what came from it.
        if !due || length < nudge::CHALLENGE_LEN {
            return Verdict::Drop(DropReason::Moved);
        }
        end.challenged = Some(now);
        Verdict::Challenge(nudge::challenge(ChannelEnd(at), nonce, &end.down))
    }

    /// Takes the answer to a challenge: the owner of the end is reached by `from` from then on.
    pub(crate) fn answer(
        &mut self,
        now: Instant,
        from: Route,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        let result = self.judge_answer(now, from, packet);
        if result.is_err() {
            self.counts.dropped += 1;
        }
        result
    }

    fn judge_answer(&mut self, now: Instant, from: Route, packet: &[u8]) -> Result<(), DropReason> {
        let Some(Nudge::Answer { end: at, nonce }) = Nudge::parse(packet) else {
            return Err(DropReason::Malformed);
        };
        let end = self.end(at).ok_or(DropReason::Forged)?;
        nudge::verify(&end.up, packet).map_err(|_| DropReason::Forged)?;
        let owner = end.owner;
        if ![0, 1]
            .iter()
            .any(|back| self.nonce(now, *back, at.0, from) == nonce)
        {
            return Err(DropReason::Forged);
        }
        self.rebind(owner, from);
        Ok(())
    }

    /// The nonce for an end and an address in the period `back` before this one: nothing is
    /// remembered of who was challenged.
    fn nonce(&mut self, now: Instant, back: u64, at: u32, to: Route) -> [u8; 8] {
        let epoch = *self.epoch.get_or_insert(now);
        let passed = now.saturating_duration_since(epoch).as_secs() + CHALLENGE_PERIOD.as_secs();
        let period = passed / CHALLENGE_PERIOD.as_secs() - back.min(1);
        let mut bytes = [0; 8 + 4 + 8 + 16 + 2];
        bytes[..8].copy_from_slice(&period.to_be_bytes());
        bytes[8..12].copy_from_slice(&at.to_be_bytes());
        bytes[12..20].copy_from_slice(&(to.socket as u64).to_be_bytes());
        let ip = match to.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes[20..36].copy_from_slice(&ip.octets());
        bytes[36..].copy_from_slice(&to.address.port().to_be_bytes());
        SipHasher24::new_with_key(&self.secret)
            .hash(&bytes)
            .to_be_bytes()
    }

    fn end(&self, end: ChannelEnd) -> Option<&End> {
        self.slots.get(end.0 as usize)?.as_ref()
    }

    /// Channel ends, owners, and places made for them.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let ends = self.slots.iter().flatten().count();
        (ends, self.owners.iter().flatten().count(), self.slots.len())
    }
}

/// Whether a packet may be answered with a hint: it must be longer than one.
pub(crate) fn deserves_hint(packet: &[u8]) -> bool {
    packet.len() >= HEADER_LEN
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
