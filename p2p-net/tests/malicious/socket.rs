//! The evil relay's sockets below quinn: the one UDP port, cut by first byte (`wire.md` §2), and an
//! in-memory pipe on which Mallory, who has no port of her own, runs QUIC through a channel.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use p2p_net_proto::{PacketKind, classify};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::sync::mpsc;

use super::record::Record;

/// Packets that wait between a socket and the task behind it.
const QUEUE: usize = 4_096;

/// A UDP payload that is not QUIC, and where it came from.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// The UDP port: QUIC goes up to quinn, everything else into a queue, all of it into the record.
pub(crate) struct DemuxSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    others: mpsc::Sender<Datagram>,
    record: Arc<Record>,
}

impl DemuxSocket {
    /// Opens a port on 127.0.0.1; the receiver gets what is not QUIC.
    pub(crate) fn bind(record: Arc<Record>) -> io::Result<(Arc<Self>, mpsc::Receiver<Datagram>)> {
        let inner = TokioRuntime.wrap_udp_socket(std::net::UdpSocket::bind("127.0.0.1:0")?)?;
        let (others, receiver) = mpsc::channel(QUEUE);
        Ok((
            Arc::new(Self {
                inner,
                others,
                record,
            }),
            receiver,
        ))
    }

    /// Sends one payload as it is; what the kernel does not take at once is lost, as UDP may lose it.
    pub(crate) fn send(&self, destination: SocketAddr, contents: &[u8]) {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        };
        let _ = self.inner.try_send(&transmit);
    }

    /// Moves the QUIC segments of one receive buffer to its front and takes the others out.
    fn cut(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let (length, stride) = (meta.len, meta.stride.max(1));
        let mut kept = 0;
        let mut start = 0;
        while start < length {
            let end = (start + stride).min(length);
            let payload = &buffer[start..end];
            self.record.datagram(payload);
            if classify(payload) == PacketKind::Quic {
                buffer.copy_within(start..end, kept);
                kept += end - start;
            } else {
                let _ = self.others.try_send((meta.addr, payload.to_vec()));
            }
            start = end;
        }
        meta.len = kept;
    }
}

impl fmt::Debug for DemuxSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DemuxSocket")
    }
}

impl AsyncUdpSocket for DemuxSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(received) {
            self.cut(buffer, meta);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// The address under which the other end of a [`Pipe`] appears to quinn.
pub(crate) const FAR_END: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xbad)),
    1,
);

/// A socket without a network: QUIC packets go in and out by queues.
pub(crate) struct Pipe {
    inbound: Mutex<mpsc::Receiver<Vec<u8>>>,
    outbound: mpsc::Sender<Vec<u8>>,
}

/// The network's side of a [`Pipe`].
pub(crate) struct PipeEnd {
    /// Packets for the QUIC endpoint on the pipe.
    pub(crate) to_quic: mpsc::Sender<Vec<u8>>,
    /// Packets that it sends.
    pub(crate) from_quic: mpsc::Receiver<Vec<u8>>,
}

impl Pipe {
    pub(crate) fn new() -> (Arc<Self>, PipeEnd) {
        let (to_quic, inbound) = mpsc::channel(QUEUE);
        let (outbound, from_quic) = mpsc::channel(QUEUE);
        (
            Arc::new(Self {
                inbound: Mutex::new(inbound),
                outbound,
            }),
            PipeEnd { to_quic, from_quic },
        )
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

impl AsyncUdpSocket for Pipe {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // A full queue loses the packet, as a network would.
        let _ = self.outbound.try_send(transmit.contents.to_vec());
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(packet) = std::task::ready!(inbound.poll_recv(cx)) else {
            return Poll::Pending;
        };
        let length = packet.len().min(bufs[0].len());
        bufs[0][..length].copy_from_slice(&packet[..length]);
        meta[0] = RecvMeta {
            addr: FAR_END,
            len: length,
            stride: length,
            ecn: None,
            dst_ip: None,
        };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1))
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
