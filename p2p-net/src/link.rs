//! What the data path knows of one peer: where its packets go, the relayed channel that carries them, and
//! what was seen of it. The driver writes here, the socket reads; nothing is decided.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_net_proto::wire::{MAX_FLIGHT_BYTES, MAX_FLIGHT_PACKETS};
use p2p_net_proto::{
    Activity, ChannelEnd, ChannelId, Class, HEADER_LEN, Header, HeaderKey, Joiner, PeerId,
    ReplayWindow, Route, Splitter, virtual_address,
};
use quinn_udp::EcnCodepoint;
use tokio::sync::mpsc;

use crate::congestion::PathSwitch;
use crate::duplicate::{Copies, Policy};
use crate::rate::RateMode;
use crate::relay::Tunnel;

/// The driver hears at once of a relayed packet that comes after so long, while we use the direct path.
const HINT_PAUSE: Duration = Duration::from_millis(200);
/// A pause longer than this between arrivals is no part of a steady flow.
const STEADY_GAP_MAX: Duration = Duration::from_secs(1);
/// The relay leg always takes this much: QUIC's minimum of 1,200 and our header (`relay.md` §4.2), bytes.
pub(crate) const MIN_LEG_MTU: u16 = 1_200 + HEADER_LEN as u16;
/// Header counters left when a channel asks to be replaced by a new one.
const COUNTER_RESERVE: u32 = 1 << 20;

/// What the data path tells the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// First packets for the peer wait to go with a channel message.
    Flight(PeerId),
    /// Traffic began on the direct path after a quiet time.
    Active(PeerId),
    /// The peer sends through the relay, though we do not: it may have lost the direct path.
    Hint(PeerId),
    /// The channel has used up its counters.
    Spent(PeerId),
}

/// The time of the data path: nanoseconds since an arbitrary start, never 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start(now: Instant) -> Self {
        Self(now)
    }

    pub(crate) fn stamp(self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.0).as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn instant(self, stamp: u64) -> Option<Instant> {
        (stamp != 0).then(|| self.0 + Duration::from_nanos(stamp))
    }
}

/// Written by whoever sends. A cache line of its own, so that sending and receiving do not disturb
/// each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Sent {
    direct_packets: AtomicU64,
    direct_bytes: AtomicU64,
    direct_at: AtomicU64,
    relayed_bytes: AtomicU64,
}

/// Written by the one task that receives.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Received {
    direct_packets: AtomicU64,
    direct_bytes: AtomicU64,
    direct_at: AtomicU64,
    relayed_bytes: AtomicU64,
    relayed_at: AtomicU64,
    gap_nanos: AtomicU64,
    gap_deviation_nanos: AtomicU64,
}

/// Bytes per path since the link exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) direct_sent: u64,
    pub(crate) direct_received: u64,
    pub(crate) relayed_sent: u64,
    pub(crate) relayed_received: u64,
}

impl Totals {
    fn all(&self) -> u64 {
        self.direct_sent + self.direct_received + self.relayed_sent + self.relayed_received
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    /// The address under which QUIC knows the peer.
    pub(crate) address: SocketAddr,
    pub(crate) switch: Arc<PathSwitch>,
    clock: Clock,
    sent: Sent,
    received: Received,
    watched: AtomicBool,
    outgoing: Mutex<Outgoing>,
    notices: mpsc::Sender<Notice>,
    policy: Arc<Policy>,
}

/// How the next packet leaves.
#[derive(Debug)]
pub(crate) struct Outgoing {
    route: Route,
    suspect: bool,
    duplicate: bool,
    copies: Copies,
    channel: Option<Arc<Channel>>,
    flight: Option<Flight>,
    splitter: Splitter,
    scratch: Vec<u8>,
}

/// Where a packet is to go now.
#[derive(Debug)]
pub(crate) enum Way {
    /// Nowhere; it is dropped or kept for a first flight.
    Nowhere,
    /// Through this channel.
    Relay(Arc<Channel>),
    /// Straight, and a copy through the channel if there is one here.
    Direct(SocketAddr, Option<Arc<Channel>>),
}

/// Packets kept for a channel-open or channel-accept.
#[derive(Debug, Default)]
struct Flight {
    packets: Vec<Vec<u8>>,
    bytes: usize,
    told: bool,
}

impl Link {
    pub(crate) fn new(
        peer: PeerId,
        now: Instant,
        clock: Clock,
        notices: mpsc::Sender<Notice>,
        policy: Arc<Policy>,
    ) -> Self {
        Self {
            peer,
            address: virtual_address(&peer),
            switch: Arc::new(PathSwitch::new(now)),
            clock,
            sent: Sent::default(),
            received: Received::default(),
            watched: AtomicBool::new(false),
            outgoing: Mutex::new(Outgoing {
                route: Route::None,
                suspect: false,
                duplicate: false,
                copies: Copies::new(now),
                channel: None,
                flight: None,
                splitter: Splitter::default(),
                scratch: Vec::new(),
            }),
            notices,
            policy,
        }
    }

    pub(crate) fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packets go there from now on; the path is `suspect`, or low-rate ones take both at least.
    pub(crate) fn set_route(&self, route: Route, suspect: bool, duplicate: bool) {
        let mut outgoing = self.outgoing();
        outgoing.route = route;
        outgoing.suspect = suspect;
        outgoing.duplicate = duplicate;
    }

    /// Whether packets for the peer go anywhere now.
    pub(crate) fn has_way(&self) -> bool {
        let outgoing = self.outgoing();
        outgoing.channel.is_some() || matches!(outgoing.route, Route::Direct(_))
    }

    /// Whether packets for the peer take a direct path now.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.outgoing().route, Route::Direct(_))
    }

    /// Whether packets for the peer go straight to `address` now.
    pub(crate) fn is_direct_to(&self, address: SocketAddr) -> bool {
        self.outgoing().route == Route::Direct(address)
    }

    /// Whether the direct path is in use and seems dead.
    pub(crate) fn is_suspect(&self) -> bool {
        self.outgoing().suspect
    }

    /// Relayed packets go through `channel` from now on.
    pub(crate) fn set_channel(&self, channel: Option<Arc<Channel>>) {
        self.outgoing().channel = channel;
    }

    /// Keeps the next packets instead of sending them, as the first flight of a channel.
    pub(crate) fn begin_flight(&self) {
        self.outgoing().flight = Some(Flight::default());
    }

    /// What was kept; packets are sent again from now on.
    pub(crate) fn end_flight(&self) -> Vec<Vec<u8>> {
        self.outgoing()
            .flight
            .take()
            .map(|flight| flight.packets)
            .unwrap_or_default()
    }

    /// Decides for one transmission and counts it. Packets that only a first flight can carry are kept.
    pub(crate) fn way(&self, now: Instant, contents: &[u8], segment: Option<usize>) -> Way {
        let bytes = contents.len() as u64;
        let mut outgoing = self.outgoing();
        if let Some(flight) = &mut outgoing.flight {
            if flight.keep(contents, segment) && self.tell(Notice::Flight(self.peer)) {
                flight.told = true;
            }
            return Way::Nowhere;
        }
        match outgoing.route {
            Route::Direct(to) => {
                // Handshakes of a peer that came back from elsewhere must not depend on a path to where
                // it was: packets with a long header (RFC 9000 §17.2) take both.
                let handshake = contents.first().is_some_and(|byte| byte & 0x80 != 0);
                let (policy, doubtful) = (self.policy.get(), outgoing.duplicate);
                let what = (contents.len(), segment.is_none());
                let both = handshake || outgoing.copies.take(now, policy, doubtful, what);
                let copy = if both { outgoing.channel.clone() } else { None };
                drop(outgoing);
                self.count_direct(now, bytes, segment);
                Way::Direct(to, copy)
            }
            // A channel that is half open takes packets before the peer's machine knows of it.
            Route::Relay | Route::None => outgoing.channel.clone().map_or(Way::Nowhere, Way::Relay),
        }
    }

    fn count_direct(&self, now: Instant, bytes: u64, segment: Option<usize>) {
        let packets = segment.map_or(1, |segment| bytes.div_ceil(segment.max(1) as u64));
        self.sent
            .direct_packets
            .fetch_add(packets, Ordering::Relaxed);
        self.sent.direct_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sent
            .direct_at
            .store(self.clock.stamp(now), Ordering::Relaxed);
        self.wake_watch();
    }

    /// Takes note of packets that came over the direct path in one batch.
    pub(crate) fn on_direct(&self, now: Instant, packets: u64, bytes: u64) {
        let received = &self.received;
        received
            .direct_packets
            .fetch_add(packets, Ordering::Relaxed);
        received.direct_bytes.fetch_add(bytes, Ordering::Relaxed);
        let stamp = self.clock.stamp(now);
        let before = received.direct_at.swap(stamp, Ordering::Relaxed);
        self.on_gap(before, stamp);
        self.wake_watch();
    }

    /// The gap between arrivals and its mean deviation, smoothed as RFC 6298 does with round trips.
    fn on_gap(&self, before: u64, stamp: u64) {
        let (gaps, deviations) = (&self.received.gap_nanos, &self.received.gap_deviation_nanos);
        let gap = stamp.saturating_sub(before);
        if before == 0 || u128::from(gap) > STEADY_GAP_MAX.as_nanos() {
            gaps.store(0, Ordering::Relaxed);
            deviations.store(0, Ordering::Relaxed);
            return;
        }
        let smoothed = gaps.load(Ordering::Relaxed);
        if smoothed == 0 {
            gaps.store(gap.max(1), Ordering::Relaxed);
            deviations.store(gap / 2, Ordering::Relaxed);
            return;
        }
        let deviation = deviations.load(Ordering::Relaxed);
        deviations.store(
            (deviation * 3 + smoothed.abs_diff(gap)) / 4,
            Ordering::Relaxed,
        );
        gaps.store(((smoothed * 7 + gap) / 8).max(1), Ordering::Relaxed);
    }

    /// Our newest channel, for a packet that is no QUIC.
    pub(crate) fn channel(&self) -> Option<Arc<Channel>> {
        self.outgoing().channel.clone()
    }

    /// Takes note of a probe or pong that came through the relay: not of what the peer thinks of paths.
    pub(crate) fn on_relayed_probe(&self, bytes: u64) {
        self.received
            .relayed_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes note of relayed packets that came, `bytes` with headers.
    pub(crate) fn on_relayed(&self, now: Instant, bytes: u64) {
        self.received
            .relayed_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let stamp = self.clock.stamp(now);
        let before = self.received.relayed_at.swap(stamp, Ordering::Relaxed);
        let again = u128::from(stamp.saturating_sub(before)) > HINT_PAUSE.as_nanos();
        if again && matches!(self.outgoing().route, Route::Direct(_)) {
            self.tell(Notice::Hint(self.peer));
        }
        self.wake_watch();
    }

    fn wake_watch(&self) {
        if !self.watched.load(Ordering::Relaxed)
            && !self.watched.swap(true, Ordering::Relaxed)
            && !self.tell(Notice::Active(self.peer))
        {
            self.watched.store(false, Ordering::Relaxed);
        }
    }

    /// The driver stops watching; the next direct packet tells it to start again.
    pub(crate) fn unwatch(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    fn tell(&self, notice: Notice) -> bool {
        self.notices.try_send(notice).is_ok()
    }

    /// A snapshot for the peer's machine.
    pub(crate) fn activity(&self) -> Activity {
        let gap = self.received.gap_nanos.load(Ordering::Relaxed);
        let deviation = self.received.gap_deviation_nanos.load(Ordering::Relaxed);
        let at = |stamp: &AtomicU64| self.clock.instant(stamp.load(Ordering::Relaxed));
        Activity {
            direct_received_at: at(&self.received.direct_at),
            direct_sent_at: at(&self.sent.direct_at),
            relay_received_at: at(&self.received.relayed_at),
            direct_received: self.received.direct_packets.load(Ordering::Relaxed),
            direct_sent: self.sent.direct_packets.load(Ordering::Relaxed),
            transferred_bytes: self.totals().all(),
            direct_gap: (gap != 0)
                .then(|| (Duration::from_nanos(gap), Duration::from_nanos(deviation))),
            probe_timeout: self.switch.probe_timeout(),
            direct_lost: self.switch.lost(),
            call: self.switch.rate.mode() != RateMode::Streams,
        }
    }

    /// Bytes per path.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            direct_sent: self.sent.direct_bytes.load(Ordering::Relaxed),
            direct_received: self.received.direct_bytes.load(Ordering::Relaxed),
            relayed_sent: self.sent.relayed_bytes.load(Ordering::Relaxed),
            relayed_received: self.received.relayed_bytes.load(Ordering::Relaxed),
        }
    }

    /// Puts headers before the segments of `contents` and hands each transmission (bytes, segment size) to
    /// `send`, which takes all or none of it.
    ///
    /// # Errors
    /// Those of `send`; what follows is not sent then.
    pub(crate) fn relay<E>(
        &self,
        channel: &Channel,
        contents: &[u8],
        segment: Option<usize>,
        ecn: Option<EcnCodepoint>,
        mut send: impl FnMut(&[u8], Option<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        let segment = segment.unwrap_or(contents.len()).max(1);
        let room =
            usize::from(channel.leg_mtu.load(Ordering::Relaxed).max(MIN_LEG_MTU)) - HEADER_LEN;
        let mut outgoing = self.outgoing();
        let outgoing = &mut *outgoing;
        let mut scratch = std::mem::take(&mut outgoing.scratch);
        scratch.clear();
        let result = if segment <= room {
            for packet in contents.chunks(segment) {
                channel.append(&mut scratch, packet, ecn, false);
            }
            let batch = (contents.len() > segment).then_some(segment + HEADER_LEN);
            self.sent
                .relayed_bytes
                .fetch_add(scratch.len() as u64, Ordering::Relaxed);
            send(&scratch, batch)
        } else {
            contents.chunks(segment).try_for_each(|packet| {
                for piece in outgoing.splitter.split(packet, room).unwrap_or_default() {
                    scratch.clear();
                    channel.append(&mut scratch, &piece, ecn, true);
                    self.sent
                        .relayed_bytes
                        .fetch_add(scratch.len() as u64, Ordering::Relaxed);
                    send(&scratch, None)?;
                }
                Ok(())
            })
        };
        outgoing.scratch = scratch;
        if channel.is_spent() {
            self.tell(Notice::Spent(self.peer));
        }
        result
    }
}

impl Flight {
    /// Keeps as much as fits; says whether the driver has to be told.
    fn keep(&mut self, contents: &[u8], segment: Option<usize>) -> bool {
        for packet in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
            let fits = self.packets.len() < MAX_FLIGHT_PACKETS
                && self.bytes + packet.len() <= MAX_FLIGHT_BYTES;
            if fits {
                self.bytes += packet.len();
                self.packets.push(packet.to_vec());
            }
        }
        !self.told && !self.packets.is_empty()
    }
}

/// Our end of a relayed channel, with the keys of both directions.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) end: ChannelEnd,
    /// The relay's address.
    pub(crate) relay: SocketAddr,
    /// What carries its packets instead of UDP, where that is blocked.
    pub(crate) tunnel: Option<Arc<Tunnel>>,
    pub(crate) up: HeaderKey,
    pub(crate) down: HeaderKey,
    /// What fits the way to the relay in one UDP payload, bytes; shared by all channels of a login.
    leg_mtu: Arc<AtomicU16>,
    counter: AtomicU32,
    incoming: Mutex<Incoming>,
}

#[derive(Debug, Default)]
struct Incoming {
    window: ReplayWindow,
    joiner: Joiner,
}

/// A relayed packet that is authentic and new.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The inner packet begins after the header.
    Whole(Option<EcnCodepoint>),
    /// The last fragment came: this is the inner packet.
    Joined(Vec<u8>, Option<EcnCodepoint>),
    /// A fragment that is not the last.
    Partial,
}

impl Channel {
    pub(crate) fn new(
        id: ChannelId,
        end: ChannelEnd,
        relay: SocketAddr,
        (up, down): (HeaderKey, HeaderKey),
        leg_mtu: Arc<AtomicU16>,
    ) -> Self {
        let counter = AtomicU32::new(0);
        Self {
            id,
            end,
            relay,
            tunnel: None,
            up,
            down,
            leg_mtu,
            counter,
            incoming: Mutex::default(),
        }
    }

    /// The same over TCP.
    pub(crate) fn through(mut self, tunnel: Option<Arc<Tunnel>>) -> Self {
        self.tunnel = tunnel;
        self
    }

    fn is_spent(&self) -> bool {
        self.counter.load(Ordering::Relaxed) >= u32::MAX - COUNTER_RESERVE
    }

    fn append(
        &self,
        into: &mut Vec<u8>,
        payload: &[u8],
        ecn: Option<EcnCodepoint>,
        fragment: bool,
    ) {
        let begin = into.len();
        into.resize(begin + HEADER_LEN, 0);
        into.extend_from_slice(payload);
        let header = Header {
            epoch: false,
            class: Class::Bulk,
            ecn: ecn.map_or(0, |ecn| ecn as u8),
            fragment,
            end: self.end,
            counter: self.counter.fetch_add(1, Ordering::Relaxed),
        };
        header.write(&self.up, &mut into[begin..]);
    }

    /// Judges a relayed packet of this channel.
    pub(crate) fn open(&self, now: Instant, packet: &[u8]) -> Option<Opened> {
        let header = Header::verify(&self.down, packet).ok()?;
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if !incoming.window.accept(u64::from(header.counter)) {
            return None;
        }
        let ecn = EcnCodepoint::from_bits(header.ecn);
        if !header.fragment {
            return (packet.len() > HEADER_LEN).then_some(Opened::Whole(ecn));
        }
        Some(
            match incoming.joiner.push(now, &packet[HEADER_LEN..]).ok()? {
                Some(whole) => Opened::Joined(whole, ecn),
                None => Opened::Partial,
            },
        )
    }
}
