//! Endpoints on networks that block UDP: the real relay on loopback, reached over TCP.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use p2p_net::{Config, Endpoint, PathKind, RelayCarrier, RelayState, SocketProvider, TcpDial};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::common::{Stand, ask, echo, identity, join, patient, wait_online, wait_present};

/// Whether a network lets UDP out.
type Blocked = Arc<AtomicBool>;

/// A loopback network whose UDP can be blocked.
struct Network(Blocked);

impl SocketProvider for Network {
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn AsyncUdpSocket>>> {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", port))?;
        let real = TokioRuntime.wrap_udp_socket(socket)?;
        let blocked = self.0.clone();
        Ok(vec![Arc::new(Filtered { real, blocked })])
    }

    fn interfaces(&self) -> Vec<(IpAddr, u8)> {
        vec![([127, 0, 0, 1].into(), 8)]
    }

    fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }

    fn dial_tcp(&self, _: String, _: u16, addresses: Vec<SocketAddr>) -> Option<TcpDial> {
        Some(Box::pin(async move {
            tokio::net::TcpStream::connect(&addresses[..]).await
        }))
    }
}

struct Filtered {
    real: Arc<dyn AsyncUdpSocket>,
    blocked: Blocked,
}

impl fmt::Debug for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Filtered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.real.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.blocked.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.real.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.real.poll_recv(cx, bufs, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.real.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.real.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.real.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.real.may_fragment()
    }
}

async fn online(stand: &Stand, number: u8, blocked: bool) -> (Endpoint, Blocked) {
    let blocked = Arc::new(AtomicBool::new(blocked));
    let endpoint = Endpoint::bind(Config {
        identity: identity(number),
        relay: Some(stand.address.clone()),
        port: 0,
        sockets: Some(Arc::new(Network(blocked.clone()))),
    })
    .expect("an endpoint");
    wait_online(&endpoint).await;
    (endpoint, blocked)
}

fn carrier(endpoint: &Endpoint) -> Option<RelayCarrier> {
    match &*endpoint.watch_relay().borrow() {
        RelayState::Online { carrier, .. } => Some(*carrier),
        _ => None,
    }
}

/// Bytes of a stream there and back; several times the queues on the way.
const MUCH: usize = 900 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_without_udp_talk_through_the_relay_over_tcp() {
    let stand = Stand::start().await;
    let ((one, _), (two, _)) = (online(&stand, 1, true).await, online(&stand, 2, true).await);
    let port = stand.address.port;
    assert_eq!(carrier(&one), Some(RelayCarrier::Tcp { port }));
    assert_eq!(carrier(&two), Some(RelayCarrier::Tcp { port }));
    assert_eq!(stand.relay().stats().tcp_peers, 2);
    two.set_accepted(one.id(), true);
    wait_present(&one, two.id(), true).await;
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    assert_eq!(ask(&dialled, b"hello").await, b"hello");
    dialled
        .send_datagram(Bytes::from_static(b"\x00sound"))
        .expect("sent");
    let datagram = patient("a datagram", accepted.read_datagram()).await;
    assert_eq!(&datagram.expect("received")[..], b"\x00sound");
    let much: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
    assert!(ask(&dialled, &much).await == much);
    assert_eq!(dialled.path().borrow().kind, PathKind::Relayed);
    assert_eq!(dialled.stats().direct_received_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_without_udp_talks_to_one_with() {
    let stand = Stand::start().await;
    let ((one, _), (two, _)) = (
        online(&stand, 1, true).await,
        online(&stand, 2, false).await,
    );
    assert_eq!(stand.relay().stats().tcp_peers, 1);
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    assert!(ask(&dialled, &vec![7; MUCH]).await == vec![7; MUCH]);
    dialled.close(1, "enough");
    patient("the end", accepted.closed()).await;
    let (dialled, accepted) = join(&two, &one).await;
    let _echo = echo(accepted.clone());
    assert!(ask(&dialled, &vec![9; MUCH]).await == vec![9; MUCH]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_is_taken_back_and_the_connection_lives_on() {
    let stand = Stand::start().await;
    let ((one, blocked), (two, _)) = (
        online(&stand, 1, true).await,
        online(&stand, 2, false).await,
    );
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    assert_eq!(ask(&dialled, b"over TCP").await, b"over TCP");
    blocked.store(false, Ordering::Relaxed);
    let mut state = one.watch_relay();
    let back = state.wait_for(|state| {
        let carrier = RelayCarrier::Udp;
        matches!(state, RelayState::Online { carrier: now, .. } if *now == carrier)
    });
    patient("UDP", back).await.expect("the endpoint lives");
    assert_eq!(ask(&dialled, b"over UDP").await, b"over UDP");
    assert!(!dialled.is_closed() && !accepted.is_closed());
    patient("the end of TCP", async {
        while stand.relay().stats().tcp_peers > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_relay_is_survived_without_udp() {
    let mut stand = Stand::start().await;
    let ((one, _), (two, _)) = (online(&stand, 1, true).await, online(&stand, 2, true).await);
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    assert_eq!(ask(&dialled, b"before").await, b"before");
    let mut state = one.watch_relay();
    stand.stop_relay().await;
    let gone = state.wait_for(|state| !matches!(state, RelayState::Online { .. }));
    patient("the loss", gone).await.expect("the endpoint lives");
    stand.restart_relay().await;
    wait_online(&one).await;
    assert_eq!(ask(&dialled, b"after").await, b"after");
    assert!(!dialled.is_closed() && !accepted.is_closed());
}
