//! Endpoints on networks that block UDP: the real relay on loopback, reached over TCP.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use p2p_net::{Config, Endpoint, PathKind, RelayCarrier, RelayState, SocketProvider, TcpDial};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::common::{Stand, ask, echo, identity, join, patient, wait_online, wait_present};

/// Whether a network lets UDP out.
type Blocked = Arc<AtomicBool>;

/// A loopback network whose UDP can be blocked, and whose TCP can have a long way.
struct Network {
    blocked: Blocked,
    way: Option<Arc<Way>>,
}

impl SocketProvider for Network {
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn AsyncUdpSocket>>> {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", port))?;
        let real = TokioRuntime.wrap_udp_socket(socket)?;
        let blocked = self.blocked.clone();
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
        let way = self.way.clone();
        Some(Box::pin(async move {
            match way {
                Some(way) => way.connect(addresses[0]).await,
                None => TcpStream::connect(&addresses[..]).await,
            }
        }))
    }
}

/// What lies between a client and its relay.
#[derive(Default)]
struct Way {
    /// In each direction; connecting takes twice that.
    delay: Duration,
    /// Which direction bytes took, one entry a change: true is towards the relay.
    turns: Mutex<Vec<bool>>,
}

impl Way {
    async fn connect(self: Arc<Self>, relay: SocketAddr) -> io::Result<TcpStream> {
        tokio::time::sleep(self.delay * 2).await;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        let (here, _) = listener.accept().await?;
        let there = TcpStream::connect(relay).await?;
        for stream in [&near, &here, &there] {
            stream.set_nodelay(true)?;
        }
        let ((here_in, here_out), (there_in, there_out)) = (here.into_split(), there.into_split());
        tokio::spawn(self.clone().carry(here_in, there_out, true));
        tokio::spawn(self.carry(there_in, here_out, false));
        Ok(near)
    }

    async fn carry(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, up: bool) {
        let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(1_024);
        tokio::spawn(async move {
            while let Some((at, bytes)) = queue.recv().await {
                tokio::time::sleep_until(at).await;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            {
                let mut turns = self.turns.lock().expect("nobody panics with it");
                if turns.last() != Some(&up) {
                    turns.push(up);
                }
            }
            let packet = (Instant::now() + self.delay, buffer[..length].to_vec());
            if sender.send(packet).await.is_err() {
                return;
            }
        }
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
    let endpoint = endpoint(stand, number, blocked.clone(), None);
    wait_online(&endpoint).await;
    (endpoint, blocked)
}

fn endpoint(stand: &Stand, number: u8, blocked: Blocked, way: Option<Arc<Way>>) -> Endpoint {
    Endpoint::bind(Config {
        identity: identity(number),
        relay: Some(stand.address.clone()),
        port: 0,
        sockets: Some(Arc::new(Network { blocked, way })),
    })
    .expect("an endpoint")
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_over_tcp_costs_four_round_trips() {
    let stand = Stand::start().await;
    let way = Arc::new(Way::default());
    let blocked = Arc::new(AtomicBool::new(true));
    let endpoint = endpoint(&stand, 1, blocked, Some(way.clone()));
    wait_online(&endpoint).await;
    // TCP's own, which shows nothing; TLS, whose end travels with the request; the upgrade; Hello and Welcome.
    let turns = way.turns.lock().expect("nobody panics with it").clone();
    let there_and_back = [true, false].repeat(3);
    assert_eq!(turns[..turns.len().min(6)], there_and_back);
    // What may have followed meanwhile is the first question of a login that stands.
    assert!(turns.len() <= 8, "{turns:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// A bar in real time says nothing beside other tests; that a login takes four round trips is shown without it, above.
#[ignore = "measures real time: run it alone on a quiet machine, in release"]
async fn without_udp_a_connection_takes_four_round_trips_to_the_relay_and_one_to_the_peer() {
    const TO_RELAY: Duration = Duration::from_millis(100);
    let stand = Stand::start().await;
    let far = || {
        Some(Arc::new(Way {
            delay: TO_RELAY / 2,
            ..Way::default()
        }))
    };
    let blocked = || Arc::new(AtomicBool::new(true));
    let two = endpoint(&stand, 2, blocked(), far());
    wait_online(&two).await;
    let mut taken = Vec::new();
    for number in 10..20 {
        let began = Instant::now();
        let one = endpoint(&stand, number, blocked(), far());
        let dialled = patient("a connection", one.connect(two.id())).await;
        taken.push(began.elapsed());
        drop((dialled.expect("connected"), two.accept().await));
    }
    taken.sort_unstable();
    // As it is here, with what timers and tasks add to each way.
    let there_and_back = round_trip(TO_RELAY / 2).await;
    let most = there_and_back * 4 + there_and_back * 2 + Duration::from_millis(300);
    println!(
        "UDP blocked, {there_and_back:?} to the relay: median {:?}, worst {:?}, bar {most:?}",
        taken[5], taken[9]
    );
    assert!(taken[5] <= most, "{taken:?}");
}

/// The median of a byte's round trips over a way with this delay.
async fn round_trip(delay: Duration) -> Duration {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = echo.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.expect("a client");
        stream.set_nodelay(true).expect("set");
        while let Ok(byte) = stream.read_u8().await {
            stream.write_u8(byte).await.expect("written");
        }
    });
    let way = Way {
        delay,
        ..Way::default()
    };
    let mut stream = Arc::new(way).connect(address).await.expect("connected");
    let mut taken = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        stream.write_u8(1).await.expect("written");
        stream.read_u8().await.expect("echoed");
        taken.push(began.elapsed());
    }
    taken.sort_unstable();
    taken[4]
}
