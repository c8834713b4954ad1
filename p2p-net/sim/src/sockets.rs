//! Sockets for quinn on a [`World`], driven by tokio's clock: with the clock paused, whole programs (a relay
//! and its peers) live through minutes in milliseconds.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! use p2p_net_sim::{LinkConfig, NatConfig, SimNet};
//! use std::time::Duration;
//!
//! let net = SimNet::new(1);
//! let relay = net.host();
//! let home = net.host_behind(NatConfig::port_restricted());
//! net.set_link(&home, &relay, LinkConfig::delay(Duration::from_millis(20)));
//! let (inside, outside) = (home.udp(5000), relay.udp(443));
//! inside.send_to(b"hello", outside.address()).unwrap();
//! let (packet, from) = outside.recv_from().await;
//! assert_eq!(&packet[..], b"hello");
//! assert_eq!(from, "203.0.113.2:5000".parse().unwrap());
//! # }
//! ```
//!
//! One task, ended with the last clone of [`SimNet`], moves the packets; receive queues are bounded; nothing
//! ever blocks a sender. Timers of tokio count whole milliseconds, and so do deliveries.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::{Counters, HostId, LinkConfig, NatConfig, NatId, Payload, Place, World};

/// Packets that wait in one socket at most, a generous 8 MiB of full ones; further ones are dropped, as by a
/// kernel.
pub const MAX_QUEUED: usize = 6_000;
/// Where ports that the caller left open start.
const FIRST_EPHEMERAL_PORT: u16 = 49_152;

/// Packets that are captured at most, between two looks.
const MAX_CAPTURED: usize = 1_000_000;

/// A packet as it left a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Which host's.
    pub from: HostId,
    /// Where it was to go.
    pub to: SocketAddr,
    /// Its UDP payload.
    pub payload: Bytes,
}

/// A UDP payload and the ECN bits beside it.
#[derive(Debug, Clone)]
struct Datagram {
    bytes: Bytes,
    ecn: Option<EcnCodepoint>,
}

impl Payload for Datagram {
    fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Which addresses a socket takes and how it shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    /// IPv6 alone (`IPV6_V6ONLY`).
    V6,
    /// Both; IPv4 addresses are shown as `::ffff:a.b.c.d`.
    Both,
}

impl Family {
    fn takes(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Both => true,
        }
    }
}

/// The sockets on one port of one host, of different families.
type Bound = Vec<(Family, Weak<SimSocket>)>;

struct State {
    world: World<Datagram>,
    capture: Option<Vec<Captured>>,
    sockets: BTreeMap<(HostId, u16), Bound>,
}

struct Shared {
    state: Mutex<State>,
    /// Something may happen earlier than the task thinks.
    earlier: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what is due, and says when the next packet is.
    fn deliver(&self) -> Option<Instant> {
        let now = now();
        let mut woken: Vec<Waker> = Vec::new();
        // Held until the lock is released: the last owner of a socket takes the lock to free its port.
        let mut touched: Vec<Arc<SimSocket>> = Vec::new();
        let mut state = self.state();
        while let Some(delivery) = state.world.deliver(now) {
            let bound = state.sockets.get(&(delivery.host, delivery.to.port()));
            let socket = bound.into_iter().flatten().find_map(|(family, socket)| {
                family
                    .takes(delivery.to.ip())
                    .then(|| socket.upgrade())
                    .flatten()
            });
            if let Some(socket) = socket {
                woken.extend(socket.enqueue(delivery.from, delivery.to.ip(), delivery.payload));
                touched.push(socket);
            }
        }
        let next = state.world.next_at();
        drop(state);
        drop(touched);
        woken.into_iter().for_each(Waker::wake);
        next
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

struct Pump(AbortHandle);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A simulated network whose time is tokio's; clones are the same network. It ends with its last clone, so
/// keep one while sockets are in use.
#[derive(Clone)]
pub struct SimNet {
    shared: Arc<Shared>,
    _pump: Arc<Pump>,
}

impl SimNet {
    /// An empty network.
    ///
    /// # Panics
    /// Outside a tokio runtime. The runtime should be of one thread, with its time paused.
    pub fn new(seed: u64) -> Self {
        let state = State {
            world: World::new(seed),
            capture: None,
            sockets: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            earlier: Notify::new(),
        });
        let pumped = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let next = pumped.deliver();
                let earlier = pumped.earlier.notified();
                match next {
                    Some(at) => tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = earlier => {}
                    },
                    None => earlier.await,
                }
            }
        });
        Self {
            shared,
            _pump: Arc::new(Pump(task.abort_handle())),
        }
    }

    /// Adds a host with a public IPv4 address.
    pub fn host(&self) -> SimHost {
        self.host_at(Place::Internet)
    }

    /// Adds a host in a network of its own behind a new translator.
    pub fn host_behind(&self, config: NatConfig) -> SimHost {
        let nat = self.nat(config, Place::Internet);
        self.host_at(Place::Behind(nat))
    }

    /// Adds a host at this place, for instance beside another one.
    pub fn host_at(&self, place: Place) -> SimHost {
        let id = self.shared.state().world.add_host(place);
        SimHost {
            id,
            net: self.clone(),
        }
    }

    /// Adds a translator.
    pub fn nat(&self, config: NatConfig, place: Place) -> NatId {
        self.shared.state().world.add_nat(config, place)
    }

    /// What links across the Internet do unless set apart; say so before the first packet.
    pub fn set_default_link(&self, config: LinkConfig) {
        self.shared.state().world.set_default_link(config);
    }

    /// Sets both directions of the link between two hosts from now on: delay, loss, rate, MTU.
    pub fn set_link(&self, one: &SimHost, other: &SimHost, config: LinkConfig) {
        self.shared.state().world.set_link(one.id, other.id, config);
    }

    /// Sets one direction alone.
    pub fn set_link_one_way(&self, from: &SimHost, to: &SimHost, config: LinkConfig) {
        self.shared
            .state()
            .world
            .set_link_one_way(from.id, to.id, config);
    }

    /// Gives a host a line that all its packets share on their way out; `None` takes it away.
    pub fn set_uplink(&self, host: &SimHost, config: Option<LinkConfig>) {
        self.shared.state().world.set_uplink(host.id, config);
    }

    /// Stops all packets between two hosts, silently; what each has with others goes on.
    pub fn cut(&self, one: &SimHost, other: &SimHost) {
        self.shared.state().world.cut(one.id, other.id);
    }

    /// Stops one direction alone.
    pub fn cut_one_way(&self, from: &SimHost, to: &SimHost) {
        self.shared.state().world.cut_one_way(from.id, to.id);
    }

    /// Undoes [`SimNet::cut`].
    pub fn heal(&self, one: &SimHost, other: &SimHost) {
        self.shared.state().world.heal(now(), one.id, other.id);
    }

    /// Takes a host's interface down or up again.
    pub fn set_up(&self, host: &SimHost, up: bool) {
        self.shared.state().world.set_up(host.id, up);
    }

    /// Makes the outermost translator before a host forget its whole table.
    pub fn flush(&self, host: &SimHost) {
        let mut state = self.shared.state();
        if let Some(nat) = state.world.nat_of(host.id) {
            state.world.nat_mut(nat).flush();
        }
    }

    /// Makes the outermost translator before a host forget its mappings and take other ports.
    pub fn rebind(&self, host: &SimHost) {
        let mut state = self.shared.state();
        if let Some(nat) = state.world.nat_of(host.id) {
            state.world.nat_mut(nat).rebind();
        }
    }

    /// Moves a host to another place: its IPv4 address changes, its sockets stay.
    pub fn move_host(&self, host: &SimHost, place: Place) -> IpAddr {
        self.shared.state().world.move_host(host.id, place)
    }

    /// Keeps every packet that a host sends from now on.
    pub fn capture(&self) {
        self.shared.state().capture = Some(Vec::new());
    }

    /// What was captured since then, or since the last look.
    pub fn captured(&self) -> Vec<Captured> {
        let mut state = self.shared.state();
        state
            .capture
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Sockets that are open on all hosts.
    pub fn open_sockets(&self) -> usize {
        self.shared.state().sockets.values().map(Vec::len).sum()
    }

    /// What became of the packets so far.
    pub fn counters(&self) -> Counters {
        self.shared.state().world.counters()
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet")
            .field("seed", &self.shared.state().world.seed())
            .finish()
    }
}

/// A host of a [`SimNet`].
#[derive(Debug, Clone)]
pub struct SimHost {
    id: HostId,
    net: SimNet,
}

impl SimHost {
    /// Its number in the world.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Where it is now.
    pub fn place(&self) -> Place {
        self.net.shared.state().world.place(self.id)
    }

    /// Its IPv4 address, as itself knows it.
    pub fn address(&self) -> IpAddr {
        self.addresses()
            .first()
            .copied()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Addresses of its interfaces.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.net.shared.state().world.addresses(self.id).to_vec()
    }

    /// Prefixes of its interfaces.
    pub fn prefixes(&self) -> Vec<(IpAddr, u8)> {
        self.net.shared.state().world.prefixes(self.id)
    }

    /// Gives it a public IPv6 address as well.
    pub fn add_ipv6(&self) -> IpAddr {
        self.net.shared.state().world.add_ipv6(self.id)
    }

    /// Whether nobody has this port.
    pub fn is_free(&self, port: u16) -> bool {
        !self
            .net
            .shared
            .state()
            .sockets
            .contains_key(&(self.id, port))
    }

    /// Binds an IPv4 socket for quinn; port 0 takes a free one.
    ///
    /// # Panics
    /// Where the port is taken: a mistake of the test.
    pub fn socket(&self, port: u16) -> Arc<dyn AsyncUdpSocket> {
        self.udp(port)
    }

    /// Binds a socket for quinn that takes IPv6 alone.
    ///
    /// # Panics
    /// As [`SimHost::socket`].
    pub fn socket_v6(&self, port: u16) -> Arc<dyn AsyncUdpSocket> {
        self.udp_v6(port)
    }

    /// Binds an IPv6 socket for quinn that takes both families and shows IPv4 addresses as v4-mapped.
    ///
    /// # Panics
    /// As [`SimHost::socket`].
    pub fn socket_dual(&self, port: u16) -> Arc<dyn AsyncUdpSocket> {
        self.bind(port, Family::Both)
    }

    /// As [`SimHost::socket`], with the means to send and receive by hand.
    ///
    /// # Panics
    /// As [`SimHost::socket`].
    pub fn udp(&self, port: u16) -> Arc<SimSocket> {
        self.bind(port, Family::V4)
    }

    /// As [`SimHost::socket_v6`], with the means to send and receive by hand.
    ///
    /// # Panics
    /// As [`SimHost::socket`].
    pub fn udp_v6(&self, port: u16) -> Arc<SimSocket> {
        self.bind(port, Family::V6)
    }

    fn bind(&self, port: u16, family: Family) -> Arc<SimSocket> {
        let mut state = self.net.shared.state();
        let port = match port {
            0 => (FIRST_EPHEMERAL_PORT..=u16::MAX)
                .find(|port| !state.sockets.contains_key(&(self.id, *port)))
                .expect("a host has free ports"),
            port => port,
        };
        let bound = state.sockets.entry((self.id, port)).or_default();
        let clash = bound
            .iter()
            .any(|(other, _)| *other == family || *other == Family::Both || family == Family::Both);
        assert!(!clash, "port {port} is taken on this host");
        let socket = Arc::new(SimSocket {
            net: Arc::downgrade(&self.net.shared),
            host: self.id,
            port,
            family,
            queue: Mutex::new(Queue::default()),
        });
        bound.push((family, Arc::downgrade(&socket)));
        socket
    }
}

#[derive(Default)]
struct Queue {
    packets: VecDeque<(SocketAddr, IpAddr, Datagram)>,
    dropped: u64,
    waker: Option<Waker>,
}

/// A UDP socket of a [`SimHost`]; dropping it frees the port.
pub struct SimSocket {
    net: Weak<Shared>,
    host: HostId,
    port: u16,
    family: Family,
    queue: Mutex<Queue>,
}

/// Segments of one transmit at most, as Linux' GSO has it in quinn-udp.
const MAX_SEGMENTS: usize = 64;

impl SimSocket {
    /// Its own address and port, as the host knows them.
    pub fn address(&self) -> SocketAddr {
        let shared = self.net.upgrade();
        let own = shared.and_then(|shared| {
            let state = shared.state();
            let mut own = state.world.addresses(self.host).iter();
            own.find(|own| self.family.takes(**own)).copied()
        });
        let none = match self.family {
            Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::V6 | Family::Both => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.show(SocketAddr::new(own.unwrap_or(none), self.port))
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// For an address of the wrong family, or when the network is gone.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        self.send(payload, None, to)
    }

    /// Waits for one datagram.
    pub async fn recv_from(&self) -> (Bytes, SocketAddr) {
        std::future::poll_fn(|cx| {
            let mut queue = self.queue();
            match queue.packets.pop_front() {
                Some((from, _, datagram)) => Poll::Ready((datagram.bytes, self.show(from))),
                None => {
                    queue.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Datagrams lost because nobody took them in time.
    pub fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, from: SocketAddr, to: IpAddr, datagram: Datagram) -> Option<Waker> {
        let mut queue = self.queue();
        if queue.packets.len() >= MAX_QUEUED {
            queue.dropped += 1;
            return None;
        }
        queue.packets.push_back((from, to, datagram));
        queue.waker.take()
    }

    fn send(&self, payload: &[u8], ecn: Option<EcnCodepoint>, to: SocketAddr) -> io::Result<()> {
        let shared = self.net.upgrade().ok_or(io::ErrorKind::NetworkDown)?;
        let plain = SocketAddr::new(to.ip().to_canonical(), to.port());
        let mapped = plain.is_ipv4() != to.is_ipv4();
        if !self.family.takes(plain.ip()) || (mapped && self.family != Family::Both) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let datagram = Datagram {
            bytes: Bytes::copy_from_slice(payload),
            ecn,
        };
        let mut state = shared.state();
        if let Some(capture) = &mut state.capture {
            assert!(capture.len() < MAX_CAPTURED, "the capture is full");
            capture.push(Captured {
                from: self.host,
                to: plain,
                payload: datagram.bytes.clone(),
            });
        }
        let before = state.world.next_at();
        state
            .world
            .send(now(), self.host, self.port, plain, datagram);
        let earlier = state.world.next_at() != before;
        drop(state);
        if earlier {
            shared.earlier.notify_one();
        }
        Ok(())
    }

    /// An address as this socket shows it.
    fn show(&self, address: SocketAddr) -> SocketAddr {
        match (self.family, address.ip()) {
            (Family::Both, IpAddr::V4(plain)) => {
                SocketAddr::new(plain.to_ipv6_mapped().into(), address.port())
            }
            _ => address,
        }
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish()
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let Some(shared) = self.net.upgrade() else {
            return;
        };
        let mut state = shared.state();
        if let Some(bound) = state.sockets.get_mut(&(self.host, self.port)) {
            bound.retain(|(family, _)| *family != self.family);
            if bound.is_empty() {
                state.sockets.remove(&(self.host, self.port));
            }
        }
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        for payload in transmit.contents.chunks(segment) {
            self.send(payload, transmit.ecn, transmit.destination)?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.queue();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some((from, to, datagram)) = queue.packets.pop_front() else {
                break;
            };
            let len = datagram.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.bytes[..len]);
            *meta = RecvMeta {
                addr: self.show(from),
                len,
                stride: len,
                ecn: datagram.ecn,
                dst_ip: Some(self.show(SocketAddr::new(to, 0)).ip()),
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address())
    }

    fn max_transmit_segments(&self) -> usize {
        MAX_SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Sending never waits: what a link cannot take is lost there.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
