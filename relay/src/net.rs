//! Sockets in and out, in batches: one pump a UDP port receives everything, answers STUN, has
//! relayed data judged by [`Forward`] and sends it on from the very buffer it came in, and hands
//! QUIC packets to the port's quinn endpoint by a bounded queue. Nothing is decided here.
//!
//! What finds a queue or a socket full is dropped and counted: the peers' own congestion control
//! notices.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use p2p_net_proto::{PacketKind, classify, nudge, stun};
use quinn::udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::forward::{Forward, Route, Verdict, deserves_hint};
use crate::server::Shared;

/// QUIC packets that wait for the endpoint of one port at most; at 1,200 bytes some 1.2 MiB.
const QUIC_QUEUE: usize = 1_024;
/// One receive buffer where the kernel merges packets, and where it does not.
const MERGED_LEN: usize = 65_536;
const SINGLE_LEN: usize = 2_048;
/// Errors of a socket in a row after which its pump gives up.
const MAX_ERRORS: u32 = 100;
/// What is asked for as the kernel's socket buffers, bytes.
const SOCKET_BUFFER: usize = 7 << 20;

/// A QUIC packet on its way to the endpoint.
pub(crate) struct Datagram {
    meta: RecvMeta,
    bytes: bytes::Bytes,
}

/// What quinn takes for its socket: it receives what the pump lets through, and sends by the real
/// one.
pub(crate) struct QuicSocket {
    real: Arc<dyn AsyncUdpSocket>,
    queue: Mutex<mpsc::Receiver<Datagram>>,
}

impl std::fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicSocket")
            .field("real", &self.real)
            .finish_non_exhaustive()
    }
}

impl QuicSocket {
    /// The socket and the queue that feeds it.
    pub(crate) fn new(real: Arc<dyn AsyncUdpSocket>) -> (Arc<Self>, mpsc::Sender<Datagram>) {
        let (sender, receiver) = mpsc::channel(QUIC_QUEUE);
        (
            Arc::new(Self {
                real,
                queue: Mutex::new(receiver),
            }),
            sender,
        )
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.real.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.real.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let datagram = match queue.poll_recv(cx) {
                Poll::Ready(Some(datagram)) => datagram,
                Poll::Ready(None) | Poll::Pending if count > 0 => break,
                // The pump has ended: nothing comes any more, which is no error to quinn.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            };
            // A packet that does not fit is cut: quinn refuses it as it would a damaged one.
            let len = datagram.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.bytes[..len]);
            *meta = RecvMeta {
                len,
                stride: len,
                ..datagram.meta
            };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.real.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.real.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.real.may_fragment()
    }
}

/// Binds a UDP socket with large buffers; `v6_only` matters to IPv6 addresses alone.
pub(crate) fn bind(address: SocketAddr, v6_only: bool) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    let receive = socket
        .set_recv_buffer_size(SOCKET_BUFFER)
        .and_then(|()| socket.recv_buffer_size());
    report_buffer(address, "receive", "rmem_max", receive, &RECEIVE_WARNED);
    let send = socket
        .set_send_buffer_size(SOCKET_BUFFER)
        .and_then(|()| socket.send_buffer_size());
    report_buffer(address, "send", "wmem_max", send, &SEND_WARNED);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether the small buffer of one way has been complained about: once is enough.
static RECEIVE_WARNED: AtomicBool = AtomicBool::new(false);
static SEND_WARNED: AtomicBool = AtomicBool::new(false);

fn report_buffer(
    address: SocketAddr,
    way: &str,
    setting: &str,
    granted: io::Result<usize>,
    warned: &AtomicBool,
) {
    // Linux reports twice of what it grants, for its own bookkeeping.
    let doubled = if cfg!(target_os = "linux") { 2 } else { 1 };
    let bytes = granted.unwrap_or(0) / doubled;
    debug!(%address, way, bytes, "socket buffer");
    let small = bytes < SOCKET_BUFFER && !address.ip().is_loopback();
    if small && !warned.swap(true, Ordering::Relaxed) {
        warn!(
            bytes,
            wanted = SOCKET_BUFFER,
            "the {way} buffer is small, bursts will be lost; allow more: \
             sysctl -w net.core.{setting}={SOCKET_BUFFER}"
        );
    }
}

/// A small packet to be sent back to where a question came from.
struct Reply {
    to: Route,
    bytes: Vec<u8>,
}

/// Packets for one destination that lie side by side in one receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    buffer: usize,
    start: usize,
    end: usize,
    /// Length of each packet but the last.
    segment: usize,
    count: usize,
    route: Route,
    ecn: u8,
}

impl Run {
    /// One packet of the only buffer.
    pub(crate) fn one(at: std::ops::Range<usize>, route: Route, ecn: u8) -> Self {
        Self {
            buffer: 0,
            segment: at.len(),
            start: at.start,
            end: at.end,
            count: 1,
            route,
            ecn,
        }
    }

    pub(crate) fn route(&self) -> Route {
        self.route
    }

    pub(crate) fn ecn(&self) -> u8 {
        self.ecn
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The bytes in `buffer`, and the length of each packet if there are several.
    pub(crate) fn contents<'a>(&self, buffer: &'a [u8]) -> (&'a [u8], Option<usize>) {
        let segment = (self.count > 1).then_some(self.segment);
        (&buffer[self.start..self.end], segment)
    }

    /// Takes the packet at `start..end` in, if it continues this run.
    pub(crate) fn extend(&mut self, next: &Self, max_segments: usize) -> bool {
        let whole = self.end - self.start == self.segment * self.count;
        let continues = self.buffer == next.buffer
            && self.end == next.start
            && whole
            && next.segment <= self.segment
            && self.route == next.route
            && self.ecn == next.ecn
            && self.count < max_segments;
        if continues {
            self.end = next.end;
            self.count += 1;
        }
        continues
    }
}

/// What one batch was for.
#[derive(Default)]
struct Batch {
    runs: Vec<Run>,
    replies: Vec<Reply>,
    dropped: u64,
    stun_answers: u64,
}

/// The receiving side of one UDP port.
pub(crate) struct Pump {
    shared: Arc<Shared>,
    index: usize,
    socket: Arc<dyn AsyncUdpSocket>,
    quic: mpsc::Sender<Datagram>,
    buffers: Vec<Vec<u8>>,
    batch: Batch,
}

impl Pump {
    pub(crate) fn new(shared: Arc<Shared>, index: usize, quic: mpsc::Sender<Datagram>) -> Self {
        let socket = shared.sockets[index].clone();
        let length = if socket.max_receive_segments() > 1 {
            MERGED_LEN
        } else {
            SINGLE_LEN
        };
        let buffers = vec![vec![0; length]; BATCH_SIZE];
        Self {
            shared,
            index,
            socket,
            quic,
            buffers,
            batch: Batch::default(),
        }
    }

    /// Receives until the task is cancelled or the socket is beyond hope.
    pub(crate) async fn run(mut self) {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut errors = 0;
        loop {
            match poll_fn(|cx| self.poll_batch(cx, &mut metas)).await {
                Ok(count) => {
                    errors = 0;
                    self.handle(&metas[..count]);
                }
                Err(error) if errors < MAX_ERRORS => {
                    errors += 1;
                    debug!(%error, "receiving failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => {
                    warn!(%error, "receiving fails again and again; this port is given up");
                    return;
                }
            }
        }
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        metas: &mut [RecvMeta; BATCH_SIZE],
    ) -> Poll<io::Result<usize>> {
        let mut buffers = self.buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
            IoSliceMut::new(
                buffers
                    .next()
                    .map_or(&mut [], |buffer| buffer.as_mut_slice()),
            )
        });
        let count = ready!(self.socket.poll_recv(cx, &mut slices, metas))?;
        Poll::Ready(Ok(count.min(BATCH_SIZE)))
    }

    fn handle(&mut self, metas: &[RecvMeta]) {
        let now = crate::server::now();
        let shared = self.shared.clone();
        let max_segments = self.socket.max_transmit_segments().max(1);
        // Locked at the first relayed packet, and once for the whole batch.
        let mut forward: Option<MutexGuard<'_, Forward>> = None;
        for (buffer, meta) in metas.iter().enumerate() {
            let mut start = 0;
            while start < meta.len {
                let end = meta.len.min(start.saturating_add(meta.stride.max(1)));
                let span = Span {
                    buffer,
                    start,
                    end,
                    meta: *meta,
                };
                match classify(&self.buffers[buffer][start..end]) {
                    PacketKind::Relayed => {
                        let forward = forward.get_or_insert_with(|| shared.forward());
                        self.relayed(now, forward, span, max_segments);
                    }
                    PacketKind::Relay => {
                        let forward = forward.get_or_insert_with(|| shared.forward());
                        let packet = &self.buffers[buffer][start..end];
                        if let Err(reason) = forward.answer(now, self.route(meta), packet) {
                            debug!(?reason, "challenge answer dropped");
                        }
                    }
                    PacketKind::Stun => self.stun(now, span),
                    PacketKind::Quic => self.quic(span),
                    PacketKind::Peer | PacketKind::Unknown => self.batch.dropped += 1,
                }
                start = end;
            }
            if meta.len == 0 {
                self.batch.dropped += 1;
            }
        }
        drop(forward);
        self.send();
    }

    fn relayed(&mut self, now: Instant, forward: &mut Forward, span: Span, max_segments: usize) {
        let from = self.route(&span.meta);
        let Span {
            buffer, start, end, ..
        } = span;
        let ecn = span.meta.ecn.map_or(0, |ecn| ecn as u8);
        let packet = &mut self.buffers[buffer][start..end];
        match forward.packet(now, from, ecn, packet) {
            Verdict::Send(route, ecn) => {
                let next = Run {
                    buffer,
                    start,
                    end,
                    segment: end - start,
                    count: 1,
                    route,
                    ecn,
                };
                let continued = self
                    .batch
                    .runs
                    .last_mut()
                    .is_some_and(|run| run.extend(&next, max_segments));
                if !continued {
                    self.batch.runs.push(next);
                }
            }
            Verdict::Challenge(challenge) => {
                self.batch.replies.push(Reply {
                    to: from,
                    bytes: challenge.to_vec(),
                });
            }
            Verdict::Unknown(unknown) => {
                if deserves_hint(packet) && self.shared.may_answer(now, from.address.ip()) {
                    let bytes = nudge::no_channel(unknown).to_vec();
                    self.batch.replies.push(Reply { to: from, bytes });
                }
            }
            Verdict::Held | Verdict::Drop(_) => {}
        }
    }

    fn stun(&mut self, now: Instant, span: Span) {
        let packet = &self.buffers[span.buffer][span.start..span.end];
        let from = self.route(&span.meta);
        let request = stun::parse_request(packet).ok();
        let request = request.filter(|_| self.shared.may_answer(now, from.address.ip()));
        match request.and_then(|request| self.shared.answer_question(from, &request)) {
            Some((to, bytes)) => {
                self.batch.stun_answers += 1;
                self.batch.replies.push(Reply { to, bytes });
            }
            None => self.batch.dropped += 1,
        }
    }

    fn quic(&mut self, span: Span) {
        let bytes = bytes::Bytes::copy_from_slice(&self.buffers[span.buffer][span.start..span.end]);
        if self
            .quic
            .try_send(Datagram {
                meta: span.meta,
                bytes,
            })
            .is_err()
        {
            self.batch.dropped += 1;
        }
    }

    fn route(&self, meta: &RecvMeta) -> Route {
        Route {
            socket: self.index,
            address: meta.addr,
            source: meta.dst_ip,
        }
    }

    /// Sends what the batch has brought about, and counts it.
    fn send(&mut self) {
        for run in self.batch.runs.drain(..) {
            let (contents, segment) = run.contents(&self.buffers[run.buffer]);
            if !self.shared.transmit(run.route, run.ecn, contents, segment) {
                self.batch.dropped += run.count as u64;
            }
        }
        for reply in self.batch.replies.drain(..) {
            if !self.shared.transmit(reply.to, 0, &reply.bytes, None) {
                self.batch.dropped += 1;
            }
        }
        let dropped = std::mem::take(&mut self.batch.dropped);
        let stun_answers = std::mem::take(&mut self.batch.stun_answers);
        self.shared.count_batch(dropped, stun_answers);
    }
}

/// Where one packet lies, and how it came.
#[derive(Clone, Copy)]
struct Span {
    buffer: usize,
    start: usize,
    end: usize,
    meta: RecvMeta,
}

/// Sends one packet, or several of `segment` bytes for one destination; false if the socket would
/// not.
pub(crate) fn transmit(
    socket: &dyn AsyncUdpSocket,
    (destination, source): (SocketAddr, Option<IpAddr>),
    ecn: u8,
    contents: &[u8],
    segment: Option<usize>,
) -> bool {
    let transmit = Transmit {
        destination,
        ecn: EcnCodepoint::from_bits(ecn),
        contents,
        segment_size: segment,
        src_ip: source,
    };
    socket.try_send(&transmit).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: usize, end: usize) -> Run {
        let address = SocketAddr::from(([192, 0, 2, 1], 9));
        let route = Route {
            socket: 0,
            address,
            source: None,
        };
        Run {
            buffer: 0,
            start,
            end,
            segment: end - start,
            count: 1,
            route,
            ecn: 0,
        }
    }

    #[test]
    fn neighbours_for_one_destination_become_one_run() {
        let mut whole = run(0, 100);
        assert!(whole.extend(&run(100, 200), 64));
        assert!(whole.extend(&run(200, 240), 64), "the last may be shorter");
        assert_eq!(
            (whole.start, whole.end, whole.segment, whole.count),
            (0, 240, 100, 3)
        );
        assert!(!whole.extend(&run(240, 280), 64), "but only the last");
    }

    #[test]
    fn what_differs_starts_a_new_run() {
        let other_route = {
            let mut other = run(100, 200);
            other.route.address.set_port(10);
            other
        };
        let different = [
            run(101, 201),
            run(100, 201),
            Run {
                buffer: 1,
                ..run(100, 200)
            },
            Run {
                ecn: 2,
                ..run(100, 200)
            },
            other_route,
        ];
        for next in different {
            assert!(!run(0, 100).extend(&next, 64), "{next:?}");
        }
        assert!(
            !run(0, 100).extend(&run(100, 200), 1),
            "without segmentation offload"
        );
    }
}
