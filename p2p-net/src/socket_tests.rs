//! The magic socket over scripted ones: what reaches quinn, under which address, and where packets leave.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use p2p_net_proto::{
    ChannelEnd, ChannelId, Class, HEADER_LEN, Header, HeaderKey, PeerId, Route, Splitter,
};
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::sync::mpsc;

use crate::link::{Channel, Clock, Link, Notice};
use crate::socket::{MagicSocket, Raw, mapped};

const RELAY: &str = "192.0.2.1:443";
const PEER: &str = "198.51.100.7:4000";
const STRANGER: &str = "203.0.113.9:4000";

/// A batch that arrives: from where, its bytes, its stride, its ECN bits.
type Batch = (SocketAddr, Vec<u8>, usize, Option<EcnCodepoint>);
/// A packet that left: to where, its bytes, its segment size.
type Left = (SocketAddr, Vec<u8>, Option<usize>);

#[derive(Debug)]
struct Scripted {
    local: SocketAddr,
    incoming: Mutex<VecDeque<Batch>>,
    left: Mutex<Vec<Left>>,
    full: Mutex<bool>,
}

#[derive(Debug)]
struct ScriptedPoller(Arc<Scripted>);

impl UdpPoller for ScriptedPoller {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self.0.full.lock().expect("unpoisoned") {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncUdpSocket for Scripted {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(ScriptedPoller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if *self.full.lock().expect("unpoisoned") {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let left = (
            transmit.destination,
            transmit.contents.to_vec(),
            transmit.segment_size,
        );
        self.left.lock().expect("unpoisoned").push(left);
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut incoming = self.incoming.lock().expect("unpoisoned");
        let mut count = 0;
        while count < bufs.len() {
            let Some((addr, bytes, stride, ecn)) = incoming.pop_front() else {
                break;
            };
            bufs[count][..bytes.len()].copy_from_slice(&bytes);
            metas[count] = RecvMeta {
                addr,
                len: bytes.len(),
                stride,
                ecn,
                dst_ip: None,
            };
            count += 1;
        }
        if count == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(count))
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        10
    }

    fn max_receive_segments(&self) -> usize {
        64
    }
}

struct Stand {
    v4: Arc<Scripted>,
    v6: Arc<Scripted>,
    socket: Arc<MagicSocket>,
    link: Arc<Link>,
    notices: mpsc::Receiver<Notice>,
    raw: mpsc::Receiver<Raw>,
}

/// A packet that quinn got.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    from: SocketAddr,
    packets: Vec<Vec<u8>>,
    ecn: Option<EcnCodepoint>,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn keys() -> (HeaderKey, HeaderKey) {
    (HeaderKey::new([1; 16]), HeaderKey::new([2; 16]))
}

fn quic(fill: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![fill; len];
    packet[0] = 0x40;
    packet
}

fn relayed(end: u32, counter: u32, ecn: u8, payload: &[u8], fragment: bool) -> Vec<u8> {
    let mut packet = vec![0; HEADER_LEN];
    packet.extend_from_slice(payload);
    let end = ChannelEnd(end);
    let header = Header {
        epoch: false,
        class: Class::Bulk,
        ecn,
        fragment,
        end,
        counter,
    };
    header.write(&keys().1, &mut packet);
    packet
}

impl Stand {
    fn new() -> Self {
        let scripted = |local: &str| {
            Arc::new(Scripted {
                local: address(local),
                incoming: Mutex::default(),
                left: Mutex::default(),
                full: Mutex::new(false),
            })
        };
        let (v4, v6) = (scripted("0.0.0.0:5000"), scripted("[::]:5000"));
        let (raw_sender, raw) = mpsc::channel(8);
        let (notice_sender, notices) = mpsc::channel(8);
        let now = Instant::now();
        let clock = Clock::start(now);
        let sockets: Vec<Arc<dyn AsyncUdpSocket>> = vec![v4.clone(), v6.clone()];
        let socket = Arc::new(MagicSocket::new(sockets, clock, raw_sender).expect("sockets"));
        let peer = PeerId::from_bytes([7; 32]);
        let link = Arc::new(Link::new(peer, now, clock, notice_sender, Arc::default()));
        let mut tables = socket.tables_mut();
        tables.links.insert(link.address.ip(), link.clone());
        tables.relays.push(address(RELAY));
        drop(tables);
        Self {
            v4,
            v6,
            socket,
            link,
            notices,
            raw,
        }
    }

    fn channel(&self, end: u32, leg_mtu: u16) -> Arc<Channel> {
        let mtu = Arc::new(AtomicU16::new(leg_mtu));
        let (id, end) = (ChannelId(end.into()), ChannelEnd(end));
        let channel = Arc::new(Channel::new(id, end, address(RELAY), keys(), mtu));
        let entry = (channel.clone(), self.link.clone());
        self.socket.tables_mut().channels.insert(end, entry);
        channel
    }

    fn arrive(&self, from: &str, packets: &[Vec<u8>], ecn: Option<EcnCodepoint>) {
        let stride = packets.first().map_or(0, Vec::len);
        let entry = (address(from), packets.concat(), stride, ecn);
        self.v4
            .incoming
            .lock()
            .expect("unpoisoned")
            .push_back(entry);
    }

    /// All that quinn gets until nothing more comes.
    fn receive(&self) -> Vec<Got> {
        let mut buffers = vec![vec![0; 65_536]; 4];
        let mut got = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut metas = [RecvMeta::default(); 4];
            let mut bufs: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            match self.socket.poll_recv(&mut cx, &mut bufs, &mut metas) {
                Poll::Pending => return got,
                Poll::Ready(count) => {
                    for at in 0..count.expect("received") {
                        let RecvMeta {
                            addr: from,
                            len,
                            stride,
                            ecn,
                            ..
                        } = metas[at];
                        let packets = bufs[at][..len].chunks(stride).map(<[u8]>::to_vec).collect();
                        got.push(Got { from, packets, ecn });
                    }
                }
            }
        }
    }

    fn send(&self, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        self.socket.try_send(&Transmit {
            destination: self.link.address,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        })
    }

    fn left(&self) -> Vec<Left> {
        std::mem::take(&mut self.v4.left.lock().expect("unpoisoned"))
    }
}

#[tokio::test]
async fn quic_reaches_quinn_only_from_bound_addresses_and_the_relay() {
    let stand = Stand::new();
    stand
        .socket
        .tables_mut()
        .bound
        .insert(address(PEER), stand.link.clone());
    let batch = [quic(1, 1200), quic(2, 1200), quic(3, 300)];
    stand.arrive(STRANGER, &batch, None);
    stand.arrive(PEER, &batch, Some(EcnCodepoint::Ect0));
    stand.arrive(RELAY, &batch[..1], None);
    let got = stand.receive();
    let ecn = Some(EcnCodepoint::Ect0);
    assert_eq!(
        got[0],
        Got {
            from: stand.link.address,
            packets: batch.to_vec(),
            ecn
        }
    );
    let from = mapped(address(RELAY));
    assert_eq!(
        got[1],
        Got {
            from,
            packets: batch[..1].to_vec(),
            ecn: None
        }
    );
    assert_eq!(got.len(), 2);
    assert_eq!(stand.socket.drops().unbound.load(Ordering::Relaxed), 3);
    let activity = stand.link.activity();
    assert_eq!(activity.direct_received, 3);
    assert_eq!(stand.link.totals().direct_received, 2_700);
}

#[tokio::test]
async fn a_batch_of_one_channel_is_stripped_in_place() {
    let stand = Stand::new();
    stand.channel(9, 1452);
    let inner = [quic(1, 1200), quic(2, 1200), quic(3, 100)];
    let batch: Vec<_> = (0..)
        .zip(&inner)
        .map(|(n, p)| relayed(9, n, 0b10, p, false))
        .collect();
    stand.arrive(RELAY, &batch, None);
    let ecn = Some(EcnCodepoint::Ect0);
    let expected = Got {
        from: stand.link.address,
        packets: inner.to_vec(),
        ecn,
    };
    assert_eq!(stand.receive(), [expected]);
    assert_eq!(stand.link.totals().relayed_received, 2_500 + 48);
    assert_eq!(stand.link.activity().direct_received, 0);
}

#[tokio::test]
async fn forged_replayed_and_foreign_relayed_packets_are_dropped() {
    let stand = Stand::new();
    stand.channel(9, 1452);
    let good = relayed(9, 5, 0, &quic(1, 64), false);
    let mut forged = relayed(9, 6, 0, &quic(1, 64), false);
    forged[HEADER_LEN + 1] ^= 1;
    let other = relayed(10, 7, 0, &quic(1, 64), false);
    let not_quic = relayed(9, 8, 0, &[0x20; 64], false);
    stand.arrive(STRANGER, std::slice::from_ref(&good), None);
    stand.arrive(
        RELAY,
        &[forged, good.clone(), good.clone(), other, not_quic],
        None,
    );
    let got = stand.receive();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].packets, [quic(1, 64)]);
    assert_eq!(stand.socket.drops().relayed.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn probes_through_a_channel_are_its_own_peers_alone() {
    let mut stand = Stand::new();
    stand.channel(9, 1452);
    let mut probe = vec![0_u8; 64];
    probe[0] = 0x20;
    probe[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let key = 0x0102_0304_0506_0708;
    let keys = |peer| stand.socket.tables_mut().keys.insert(key, peer);
    keys(PeerId::from_bytes([8; 32]));
    stand.arrive(RELAY, &[relayed(9, 1, 0, &probe, false)], None);
    assert!(stand.receive().is_empty() && stand.raw.try_recv().is_err());
    assert_eq!(stand.socket.drops().relayed.load(Ordering::Relaxed), 1);
    stand.socket.tables_mut().keys.insert(key, stand.link.peer);
    stand.arrive(RELAY, &[relayed(9, 2, 0, &probe, false)], None);
    assert!(stand.receive().is_empty());
    match stand.raw.try_recv() {
        Ok(Raw::Relayed { peer, packet }) => {
            assert_eq!((peer, packet), (stand.link.peer, probe));
        }
        other => panic!("{other:?}"),
    }
    let seen = stand.link.activity().relay_received_at;
    assert_eq!(seen, None, "it says nothing of where the peer sends");
}

#[tokio::test]
async fn mixed_batches_are_taken_apart() {
    let mut stand = Stand::new();
    stand.channel(9, 1452);
    stand
        .socket
        .tables_mut()
        .bound
        .insert(address(PEER), stand.link.clone());
    stand
        .socket
        .tables_mut()
        .keys
        .insert(0x0102_0304_0506_0708, stand.link.peer);
    // GRO puts a shorter probe at the end of a batch of QUIC packets.
    let mut probe = vec![0u8; 64];
    probe[0] = 0x20;
    probe[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    stand.arrive(PEER, &[quic(1, 1200), quic(2, 1200), probe.clone()], None);
    // Control and two code points in one batch from the relay.
    stand.arrive(
        RELAY,
        &[
            relayed(9, 1, 0b10, &quic(3, 200), false),
            quic(4, 216),
            relayed(9, 2, 0b11, &quic(5, 200), false),
            relayed(9, 3, 0b10, &quic(6, 200), false),
        ],
        None,
    );
    let got = stand.receive();
    assert_eq!(got[0].packets, [quic(1, 1200), quic(2, 1200)]);
    assert!(matches!(stand.raw.try_recv(), Ok(Raw::Peer { packet, .. }) if packet == probe));
    let mut rest: Vec<_> = got[1..]
        .iter()
        .flat_map(|got| got.packets.clone())
        .collect();
    rest.sort();
    assert_eq!(
        rest,
        [quic(3, 200), quic(4, 216), quic(5, 200), quic(6, 200)]
    );
    let marked = got
        .iter()
        .find(|got| got.ecn == Some(EcnCodepoint::Ce))
        .expect("marked");
    assert_eq!(marked.packets, [quic(5, 200)]);
    let control = got
        .iter()
        .find(|got| got.from == mapped(address(RELAY)))
        .expect("control");
    assert_eq!(control.packets, [quic(4, 216)]);
}

#[tokio::test]
async fn fragments_are_joined() {
    let stand = Stand::new();
    stand.channel(9, 1452);
    let whole = quic(8, 1400);
    let pieces = Splitter::default().split(&whole, 600).expect("pieces");
    for (counter, piece) in (0..).zip(&pieces) {
        stand.arrive(RELAY, &[relayed(9, counter, 0b10, piece, true)], None);
    }
    let got = stand.receive();
    assert_eq!(got.len(), 1);
    assert_eq!(
        (got[0].from, &got[0].packets[..]),
        (stand.link.address, &[whole][..])
    );
}

#[tokio::test]
async fn rubbish_is_counted_and_queues_are_bounded() {
    let mut stand = Stand::new();
    stand.socket.tables_mut().keys.insert(0, stand.link.peer);
    for first in [0x00u8, 0x04, 0x20, 0x2f, 0x30] {
        stand.arrive(STRANGER, &[vec![first; 65]], None);
    }
    assert_eq!(stand.receive(), []);
    assert_eq!(stand.socket.drops().unknown.load(Ordering::Relaxed), 5);
    let mut probe = vec![0u8; 64];
    probe[0] = 0x20;
    for _ in 0..20 {
        stand.arrive(STRANGER, std::slice::from_ref(&probe), None);
    }
    stand.receive();
    assert_eq!(stand.socket.drops().overflow.load(Ordering::Relaxed), 12);
    assert!(stand.raw.try_recv().is_ok());
    for _ in 0..600 {
        stand.socket.inject(stand.link.address, quic(1, 50));
    }
    assert_eq!(stand.receive().len(), 512);
}

#[tokio::test]
async fn packets_follow_the_route() {
    let stand = Stand::new();
    let batch = [quic(1, 1200), quic(2, 1200), quic(3, 90)].concat();
    stand.send(&batch, Some(1200)).expect("dropped");
    assert_eq!(stand.left(), []);

    stand
        .link
        .set_route(Route::Direct(address(PEER)), false, false);
    stand.send(&batch, Some(1200)).expect("sent");
    assert_eq!(
        stand.left(),
        [(address(PEER), batch.clone(), Some(1200))],
        "untouched"
    );
    assert_eq!(stand.link.activity().direct_sent, 3);

    let channel = stand.channel(9, 1452);
    stand.link.set_channel(Some(channel));
    stand.link.set_route(Route::Relay, false, false);
    stand.send(&batch, Some(1200)).expect("sent");
    let left = stand.left();
    assert_eq!((left[0].0, left[0].2), (address(RELAY), Some(1216)));
    let mut rebuilt = Vec::new();
    for (counter, packet) in (0..).zip(left[0].1.chunks(1216)) {
        let header = Header::verify(&keys().0, packet).expect("a header");
        assert_eq!(
            (header.counter, header.end, header.fragment),
            (counter, ChannelEnd(9), false)
        );
        rebuilt.extend_from_slice(&packet[HEADER_LEN..]);
    }
    assert_eq!(rebuilt, batch);

    stand.link.set_route(
        Route::Direct("[2001:db8::1]:9".parse().expect("an address")),
        false,
        false,
    );
    stand.send(&batch, Some(1200)).expect("sent");
    assert_eq!(stand.left(), []);
    assert_eq!(stand.v6.left.lock().expect("unpoisoned").len(), 1);
}

#[tokio::test]
async fn a_narrow_leg_gets_fragments() {
    let stand = Stand::new();
    stand.link.set_channel(Some(stand.channel(9, 1216)));
    stand.link.set_route(Route::Relay, false, false);
    let packet = quic(1, 1436);
    stand.send(&packet, None).expect("sent");
    let left = stand.left();
    assert_eq!(left.len(), 2);
    let mut joiner = p2p_net_proto::Joiner::default();
    let mut whole = None;
    for (_, piece, _) in &left {
        assert!(piece.len() <= 1216, "{}", piece.len());
        assert!(Header::verify(&keys().0, piece).expect("a header").fragment);
        let joined = joiner
            .push(Instant::now(), &piece[HEADER_LEN..])
            .expect("a fragment");
        whole = whole.or(joined);
    }
    assert_eq!(whole, Some(packet));
}

#[tokio::test]
async fn a_suspect_path_gets_copies_at_a_low_rate_and_handshakes_always() {
    let stand = Stand::new();
    stand.link.set_channel(Some(stand.channel(9, 1452)));
    stand
        .link
        .set_route(Route::Direct(address(PEER)), true, true);
    for _ in 0..100 {
        stand.send(&quic(1, 1000), None).expect("sent");
    }
    let left = stand.left();
    let copies = left.iter().filter(|(to, ..)| *to == address(RELAY)).count();
    assert!((16..=20).contains(&copies), "{copies} copies");
    assert_eq!(left.len() - copies, 100);

    stand
        .link
        .set_route(Route::Direct(address(PEER)), false, false);
    stand.send(&quic(1, 1000), None).expect("sent");
    assert_eq!(stand.left().len(), 1);
    let mut initial = quic(1, 1200);
    initial[0] = 0xc3;
    stand.send(&initial, None).expect("sent");
    assert_eq!(stand.left().len(), 2);
}

#[tokio::test]
async fn the_first_flight_is_kept_and_announced_once() {
    let mut stand = Stand::new();
    stand.link.begin_flight();
    for fill in 0..6 {
        stand.send(&quic(fill, 1200), None).expect("kept");
    }
    assert_eq!(
        stand.notices.try_recv().expect("a notice"),
        Notice::Flight(stand.link.peer)
    );
    assert!(stand.notices.try_recv().is_err());
    let flight = stand.link.end_flight();
    assert_eq!(
        flight,
        (0..4).map(|fill| quic(fill, 1200)).collect::<Vec<_>>()
    );
    assert!(stand.link.end_flight().is_empty());
    assert_eq!(stand.left(), []);
}

#[tokio::test]
async fn a_full_socket_is_felt_and_waited_for() {
    let stand = Stand::new();
    stand
        .link
        .set_route(Route::Direct(address(PEER)), false, false);
    let mut poller = stand.socket.clone().create_io_poller();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
    *stand.v4.full.lock().expect("unpoisoned") = true;
    assert!(
        poller.as_mut().poll_writable(&mut cx).is_ready(),
        "nobody felt it yet"
    );
    let error = stand.send(&quic(1, 100), None).expect_err("full");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(poller.as_mut().poll_writable(&mut cx).is_pending());
    *stand.v4.full.lock().expect("unpoisoned") = false;
    assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
    stand.send(&quic(1, 100), None).expect("sent");
}

#[tokio::test]
async fn nothing_goes_to_real_addresses_but_to_the_relay() {
    let stand = Stand::new();
    let contents = quic(1, 100);
    for destination in [mapped(address(STRANGER)), mapped(address(RELAY))] {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &contents,
            segment_size: None,
            src_ip: None,
        };
        stand.socket.try_send(&transmit).expect("sent or dropped");
    }
    assert_eq!(stand.left(), [(address(RELAY), contents, None)]);
}

#[tokio::test]
async fn gaps_between_arrivals_are_smoothed() {
    let stand = Stand::new();
    let start = Instant::now();
    let millis = std::time::Duration::from_millis;
    for packet in 1..=200 {
        stand.link.on_direct(start + millis(20 * packet), 1, 100);
    }
    let (gap, deviation) = stand.link.activity().direct_gap.expect("a flow");
    assert!(
        gap.abs_diff(millis(20)) < millis(1) && deviation < millis(1),
        "{gap:?} {deviation:?}"
    );
    stand.link.on_direct(start + millis(20_000), 1, 100);
    assert_eq!(stand.link.activity().direct_gap, None, "a pause is no gap");
}
