//! The one UDP port: an `AsyncUdpSocket` for quinn over a socket per address family. QUIC packets of a peer
//! bear the peer's virtual address, whatever path carries them; everything that is not QUIC goes to the
//! driver or is dropped. Called from quinn's tasks; holds no lock while it waits.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use p2p_net_proto::{ChannelEnd, KNOCK_LEN, PeerId};
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, trace};

use crate::extra::{ExtraPollers, Extras};
use crate::link::{Channel, Clock, Link, Way};
use crate::relay::Tunnel;
use crate::sort::Sorter;

/// Packets that wait for a free buffer of quinn's at most: joined, injected or out of a mixed batch.
const MAX_WAITING: usize = 512;
/// Batches looked at in one call, so that a flood of rubbish cannot hold the task.
const MAX_ROUNDS: usize = 16;
/// Knocks that wait for the driver at most.
const MAX_KNOCKS: usize = 16;
/// Errors in a row after which a socket is given up.
const MAX_ERRORS: usize = 256;

/// A packet outside QUIC, for the driver.
#[derive(Debug)]
pub(crate) enum Raw {
    /// A probe or pong whose key id is that peer's.
    Peer {
        /// Whose.
        peer: PeerId,
        /// From where.
        from: SocketAddr,
        /// All of it.
        packet: Vec<u8>,
    },
    /// The same, or an answer of the relay's host, at one of the extra sockets that this peer's machine opened.
    Extra {
        /// Whose.
        peer: PeerId,
        /// Which set of sockets.
        set: u64,
        /// Which of them.
        socket: u16,
        /// From where.
        from: SocketAddr,
        /// All of it.
        packet: Vec<u8>,
    },
    /// A probe or pong whose key id is that peer's, through its channel.
    Relayed {
        /// Whose.
        peer: PeerId,
        /// All of it.
        packet: Vec<u8>,
    },
    /// An answer to a STUN request, from the relay's host.
    Stun {
        /// From where.
        from: SocketAddr,
        /// All of it.
        packet: Vec<u8>,
    },
    /// A first packet of somebody with whom there is no session, perhaps.
    Knock {
        /// From where.
        from: SocketAddr,
        /// All of it.
        packet: Vec<u8>,
    },
    /// A nudge from an address of the relay.
    Relay {
        /// From where.
        from: SocketAddr,
        /// All of it.
        packet: Vec<u8>,
    },
}

/// Who may say what: read for each batch, written by the driver.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Peers by virtual address.
    pub(crate) links: HashMap<IpAddr, Arc<Link>>,
    /// Addresses that a probe has bound to a peer.
    pub(crate) bound: HashMap<SocketAddr, Arc<Link>>,
    /// Our ends of relayed channels.
    pub(crate) channels: HashMap<ChannelEnd, (Arc<Channel>, Arc<Link>)>,
    /// Key ids of probes and pongs.
    pub(crate) keys: HashMap<u64, PeerId>,
    /// Addresses of the relay, dialled or about to be.
    pub(crate) relays: Vec<SocketAddr>,
}

/// Packets that went nowhere, by reason.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// QUIC from an address that no probe has bound.
    pub(crate) unbound: AtomicU64,
    /// Relayed data that is forged, replayed, or of no channel of ours.
    pub(crate) relayed: AtomicU64,
    /// Of no kind, or of one that nobody waits for.
    pub(crate) unknown: AtomicU64,
    /// A queue was full.
    pub(crate) overflow: AtomicU64,
    /// The system refused to send.
    pub(crate) send: AtomicU64,
}

/// A packet on its way to quinn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) from: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) packet: Vec<u8>,
}

struct Leg {
    socket: Arc<dyn AsyncUdpSocket>,
    v6: bool,
    /// Set when a send would have blocked; whoever waits for writability clears it.
    blocked: AtomicBool,
}

/// See the module.
pub(crate) struct MagicSocket {
    legs: Vec<Leg>,
    extras: Extras,
    port: u16,
    clock: Clock,
    tables: RwLock<Tables>,
    waiting: Mutex<VecDeque<Waiting>>,
    waiting_count: AtomicUsize,
    waker: AtomicWaker,
    turn: AtomicUsize,
    errors: AtomicUsize,
    raw: mpsc::Sender<Raw>,
    /// Knocks among what waits for the driver.
    knocks: AtomicUsize,
    drops: Drops,
    /// Told whenever waiting packets were taken.
    drained: Notify,
    /// The relay's TCP connection, where it is reached by one.
    tunnel: Mutex<Option<Arc<Tunnel>>>,
    tunnelled: AtomicBool,
    /// Whether the relay that is being dialled has answered over UDP at all.
    relay_heard: AtomicBool,
}

impl MagicSocket {
    /// Over `sockets`, one per family on one port; `raw` takes what is not QUIC.
    ///
    /// # Errors
    /// Where a socket does not tell its address, or there is none.
    pub(crate) fn new(
        sockets: Vec<Arc<dyn AsyncUdpSocket>>,
        clock: Clock,
        raw: mpsc::Sender<Raw>,
    ) -> io::Result<Self> {
        let mut legs = Vec::new();
        let mut port = 0;
        for socket in sockets {
            let address = socket.local_addr()?;
            port = address.port();
            legs.push(Leg {
                socket,
                v6: address.is_ipv6(),
                blocked: AtomicBool::new(false),
            });
        }
        if legs.is_empty() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no socket"));
        }
        Ok(Self {
            legs,
            extras: Extras::default(),
            port,
            clock,
            tables: RwLock::default(),
            waiting: Mutex::default(),
            waiting_count: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            turn: AtomicUsize::new(0),
            errors: AtomicUsize::new(0),
            raw,
            knocks: AtomicUsize::new(0),
            drops: Drops::default(),
            drained: Notify::new(),
            tunnel: Mutex::default(),
            tunnelled: AtomicBool::new(false),
            relay_heard: AtomicBool::new(false),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether there is a socket for the family of `address`.
    pub(crate) fn reaches(&self, address: &SocketAddr) -> bool {
        self.leg(address).is_some()
    }

    pub(crate) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Channels over TCP send by `tunnel` from now on, and quinn waits for it where it is full.
    pub(crate) fn set_tunnel(&self, tunnel: &Arc<Tunnel>) {
        *self.tunnel() = Some(tunnel.clone());
        self.tunnelled.store(true, Ordering::Release);
    }

    /// `tunnel` is no more, unless another has taken its place.
    pub(crate) fn clear_tunnel(&self, tunnel: &Arc<Tunnel>) {
        let mut current = self.tunnel();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, tunnel))
        {
            *current = None;
            self.tunnelled.store(false, Ordering::Release);
        }
    }

    fn tunnel(&self) -> MutexGuard<'_, Option<Arc<Tunnel>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets whether a relay has answered.
    pub(crate) fn expect_relay(&self) {
        self.relay_heard.store(false, Ordering::Relaxed);
    }

    /// A QUIC packet came from an address of the relay.
    pub(crate) fn hear_relay(&self) {
        if !self.relay_heard.load(Ordering::Relaxed) {
            self.relay_heard.store(true, Ordering::Relaxed);
        }
    }

    /// Whether any did since [`MagicSocket::expect_relay`].
    pub(crate) fn has_heard_relay(&self) -> bool {
        self.relay_heard.load(Ordering::Relaxed)
    }

    /// Takes a relayed packet that came over TCP.
    pub(crate) fn receive_relayed(&self, packet: &[u8]) {
        Sorter::new(self, now()).take_relayed(packet);
        self.waker.wake();
    }

    /// Completes when there is room for packets that come over TCP: nothing need be lost there.
    pub(crate) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            if self.waiting_count.load(Ordering::Acquire) < MAX_WAITING / 2 {
                return;
            }
            drained.await;
        }
    }

    /// What goes to `remote` leaves from `socket` from now on, which is ours to read.
    pub(crate) fn adopt(&self, remote: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) {
        if !self.extras.insert(remote, socket) {
            debug!(%remote, "too many extra sockets");
        }
        self.waker.wake();
    }

    /// It leaves from the first socket again.
    pub(crate) fn forsake(&self, remote: SocketAddr) {
        self.extras.remove(remote);
    }

    /// Has quinn look at all sockets again.
    pub(crate) fn look(&self) {
        self.waker.wake();
    }

    /// Gives quinn a packet that came by another way than a socket: a first flight.
    pub(crate) fn inject(&self, from: SocketAddr, packet: Vec<u8>) {
        self.wait(Waiting {
            from,
            ecn: None,
            packet,
        });
        self.waker.wake();
    }

    /// Sends a packet outside QUIC; it is lost where the socket is full, as it might be on the way.
    pub(crate) fn send_raw(&self, to: SocketAddr, contents: &[u8]) {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        };
        if self.send_on_leg(to, &transmit).is_err() {
            self.drops.send.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a packet outside QUIC through a peer's channel, if there is one; it may be lost.
    pub(crate) fn send_raw_relayed(&self, link: &Link, contents: &[u8]) {
        let transmit = Transmit {
            destination: link.address,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        };
        let sent = link
            .channel()
            .map(|channel| self.send_relayed(link, &channel, &transmit));
        if sent.is_none_or(|sent| sent.is_err()) {
            self.drops.send.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn tell(&self, raw: Raw) {
        if self.raw.try_send(raw).is_err() {
            self.drops.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands a knock to the driver, unless too many wait: they must not take the place of probes.
    pub(crate) fn tell_knock(&self, from: SocketAddr, packet: &[u8]) {
        if packet.len() != KNOCK_LEN || self.knocks.load(Ordering::Relaxed) >= MAX_KNOCKS {
            self.drops.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let packet = packet.to_vec();
        if self.raw.try_send(Raw::Knock { from, packet }).is_ok() {
            self.knocks.fetch_add(1, Ordering::Relaxed);
        } else {
            self.drops.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The driver has taken one.
    pub(crate) fn knock_taken(&self) {
        let one_less = |count: usize| count.checked_sub(1);
        let _ = self
            .knocks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    pub(crate) fn wait(&self, packet: Waiting) {
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            self.drops.overflow.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(packet);
        self.waiting_count.store(waiting.len(), Ordering::Release);
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves waiting packets into the buffers from `filled` on; returns how many are filled then.
    fn drain_waiting(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        mut filled: usize,
    ) -> usize {
        if self.waiting_count.load(Ordering::Acquire) == 0 {
            return filled;
        }
        let mut waiting = self.waiting();
        while filled < bufs.len().min(metas.len()) {
            let Some(Waiting { from, ecn, packet }) = waiting.pop_front() else {
                break;
            };
            if packet.is_empty() || packet.len() > bufs[filled].len() {
                continue;
            }
            bufs[filled][..packet.len()].copy_from_slice(&packet);
            metas[filled] = RecvMeta {
                addr: from,
                len: packet.len(),
                stride: packet.len(),
                ecn,
                dst_ip: None,
            };
            filled += 1;
        }
        self.waiting_count.store(waiting.len(), Ordering::Release);
        drop(waiting);
        self.drained.notify_one();
        filled
    }

    /// One batch from whichever socket has one; the other goes first next time.
    fn poll_legs(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let extras_first = turn.is_multiple_of(2);
        if extras_first && let Poll::Ready(count) = self.extras.poll_recv(cx, bufs, metas) {
            return Poll::Ready(Ok(count));
        }
        for at in 0..self.legs.len() {
            let leg = &self.legs[(turn + at) % self.legs.len()];
            match leg.socket.poll_recv(cx, bufs, metas) {
                Poll::Pending => {}
                Poll::Ready(Ok(count)) => {
                    self.errors.store(0, Ordering::Relaxed);
                    return Poll::Ready(Ok(count));
                }
                Poll::Ready(Err(error)) => {
                    // ICMP errors of other packets show here; they say nothing about the socket.
                    trace!(%error, "receiving failed");
                    if self.errors.fetch_add(1, Ordering::Relaxed) >= MAX_ERRORS {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Ready(Ok(0));
                }
            }
        }
        if !extras_first && let Poll::Ready(count) = self.extras.poll_recv(cx, bufs, metas) {
            return Poll::Ready(Ok(count));
        }
        Poll::Pending
    }

    fn leg(&self, to: &SocketAddr) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.v6 == to.is_ipv6())
    }

    /// Sends on the socket of the family; only a full socket is an error.
    fn send_on_leg(&self, to: SocketAddr, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = match (self.extras.try_send(to, transmit), self.leg(&to)) {
            (Some(sent), _) => sent,
            (None, Some(leg)) => leg.socket.try_send(transmit).inspect_err(|error| {
                if error.kind() == io::ErrorKind::WouldBlock {
                    leg.blocked.store(true, Ordering::Release);
                }
            }),
            (None, None) => {
                self.drops.send.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                trace!(%to, %error, "sending failed");
                self.drops.send.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn send_to_peer(&self, link: &Link, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = now();
        match link.way(now, transmit.contents, transmit.segment_size) {
            Way::Nowhere => Ok(()),
            Way::Relay(channel) => self.send_relayed(link, &channel, transmit),
            Way::Direct(to, copy) => {
                if let Some(channel) = copy
                    && self.send_relayed(link, &channel, transmit).is_err()
                {
                    trace!(peer = %link.peer.short(), "the copy over the relay is lost");
                }
                self.send_on_leg(to, &redirected(transmit, to))
            }
        }
    }

    fn send_relayed(
        &self,
        link: &Link,
        channel: &Channel,
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        let to = channel.relay;
        if let Some(tunnel) = &channel.tunnel {
            let (contents, segment) = (transmit.contents, transmit.segment_size);
            return link.relay(
                channel,
                contents,
                segment,
                transmit.ecn,
                |contents, segment| tunnel.send(contents, segment),
            );
        }
        link.relay(
            channel,
            transmit.contents,
            transmit.segment_size,
            transmit.ecn,
            |contents, segment_size| {
                let ecn = transmit.ecn;
                let wrapped = Transmit {
                    destination: to,
                    ecn,
                    contents,
                    segment_size,
                    src_ip: None,
                };
                self.send_on_leg(to, &wrapped)
            },
        )
    }
}

/// The time as quinn and tokio see it, virtual in simulations.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// IPv4 as IPv4, without scope and flow.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// As quinn compares addresses on an IPv6 endpoint.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn redirected<'a>(transmit: &Transmit<'a>, to: SocketAddr) -> Transmit<'a> {
    Transmit {
        destination: to,
        ecn: transmit.ecn,
        contents: transmit.contents,
        segment_size: transmit.segment_size,
        src_ip: None,
    }
}

impl fmt::Debug for MagicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MagicSocket")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for MagicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let pollers = self
            .legs
            .iter()
            .map(|leg| leg.socket.clone().create_io_poller())
            .collect();
        Box::pin(MagicPoller {
            pollers,
            extras: ExtraPollers::default(),
            socket: self,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let link = self.tables().links.get(&transmit.destination.ip()).cloned();
        if let Some(link) = link {
            return self.send_to_peer(&link, transmit);
        }
        let to = canonical(transmit.destination);
        // Only a relay is dialled at its real address; a peer that was let go is not reached at all.
        if !self.tables().relays.contains(&to) {
            debug!(%to, "nothing is sent to an unknown address");
            return Ok(());
        }
        self.send_on_leg(to, &redirected(transmit, to))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_ROUNDS {
            let filled = self.drain_waiting(bufs, metas, 0);
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
            match self.poll_legs(cx, bufs, metas) {
                Poll::Ready(count) => {
                    let kept = Sorter::new(self, now()).sort(bufs, metas, count?);
                    let filled = self.drain_waiting(bufs, metas, kept);
                    if filled > 0 {
                        return Poll::Ready(Ok(filled));
                    }
                }
                Poll::Pending => {
                    self.waker.register(cx.waker());
                    if self.waiting_count.load(Ordering::Acquire) == 0 {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // quinn dials IPv6 only from a socket that says it is one; virtual addresses are IPv6.
        Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port))
    }

    fn max_transmit_segments(&self) -> usize {
        self.legs
            .iter()
            .map(|leg| leg.socket.max_transmit_segments())
            .min()
            .unwrap_or(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.legs
            .iter()
            .map(|leg| leg.socket.max_receive_segments())
            .max()
            .unwrap_or(1)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Waits for whichever sockets said that they are full; a socket that never did costs one atomic load.
struct MagicPoller {
    pollers: Vec<Pin<Box<dyn UdpPoller>>>,
    extras: ExtraPollers,
    socket: Arc<MagicSocket>,
}

impl UdpPoller for MagicPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        for (poller, leg) in this.pollers.iter_mut().zip(&this.socket.legs) {
            if leg.blocked.load(Ordering::Acquire) {
                ready!(poller.as_mut().poll_writable(cx))?;
                leg.blocked.store(false, Ordering::Release);
            }
        }
        ready!(this.socket.extras.poll_writable(cx, &mut this.extras))?;
        if this.socket.tunnelled.load(Ordering::Acquire) {
            let tunnel = this.socket.tunnel().clone();
            if let Some(tunnel) = tunnel {
                ready!(tunnel.poll_writable(cx));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for MagicPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MagicPoller").finish_non_exhaustive()
    }
}
