//! A minimal control client made of quinn and the wire's own messages, and helpers around it. It
//! knows nothing of the peer library, so that the relay is tested against the wire page and not
//! against a twin.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use p2p_net_proto::codec::FrameDecoder;
use p2p_net_proto::tls::{self, RelayTrust};
use p2p_net_proto::wire::{
    ChannelAccept, ChannelOffered, ChannelOpen, ChannelOpened, FromRelay, Hello, ToRelay, Welcome,
};
use p2p_net_proto::{
    CHANNEL_KEY_LABEL, ChannelEnd, ChannelId, Class, Direction, HEADER_LEN, Header, HeaderKey,
    Identity, PacketKind, PeerId, RelayAddress, channel_key_context, classify,
};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use relay::{Config, Relay};
use tokio::sync::mpsc;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// A relay on loopback in a folder of its own.
pub(crate) struct TestRelay {
    pub(crate) relay: Relay,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) async fn relay_with(change: impl FnOnce(&mut Config)) -> TestRelay {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Config::loopback(folder.path());
    change(&mut config);
    let relay = Relay::start(config).await.expect("a relay");
    TestRelay { relay, folder }
}

pub(crate) async fn relay() -> TestRelay {
    relay_with(|_| {}).await
}

impl TestRelay {
    pub(crate) fn token(&self) -> Option<String> {
        self.relay
            .address()
            .token
            .map(|token| token.reveal().to_owned())
    }

    /// The address of port 0 (control) or 1 (the second).
    pub(crate) fn port(&self, index: usize) -> SocketAddr {
        self.relay.local_addresses()[index]
    }

    /// A client that has said hello with the right token.
    pub(crate) async fn login(&self, n: u8) -> Client {
        let mut client = Client::connect(self, identity(n)).await;
        client.welcome(self.token()).await;
        client
    }

    /// Waits until a condition on the counters holds.
    pub(crate) async fn until(&self, holds: impl Fn(relay::Stats) -> bool) {
        soon(async {
            while !holds(self.relay.stats()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

static TEST_RUN: AtomicU8 = AtomicU8::new(0);

pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

/// An identity that no other test uses.
pub(crate) fn stranger() -> Identity {
    let mut secret = [0xee; 32];
    secret[0] = TEST_RUN.fetch_add(1, Ordering::Relaxed);
    Identity::from_secret(secret)
}

/// The client's socket: what is not QUIC goes to the test.
#[derive(Debug)]
pub(crate) struct TestSocket {
    real: Arc<dyn AsyncUdpSocket>,
    others: mpsc::Sender<Vec<u8>>,
}

impl TestSocket {
    pub(crate) fn bind() -> (Arc<Self>, mpsc::Receiver<Vec<u8>>) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let real = quinn::Runtime::wrap_udp_socket(&quinn::TokioRuntime, socket).expect("wrapped");
        let (others, receiver) = mpsc::channel(4_096);
        (Arc::new(Self { real, others }), receiver)
    }

    pub(crate) async fn send(&self, to: SocketAddr, packet: &[u8]) {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: packet,
            segment_size: None,
            src_ip: None,
        };
        let mut tries = 0;
        while let Err(error) = self.real.try_send(&transmit) {
            assert!(
                error.kind() == io::ErrorKind::WouldBlock && tries < 1_000,
                "{error}"
            );
            tries += 1;
            tokio::task::yield_now().await;
        }
    }
}

impl AsyncUdpSocket for TestSocket {
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
        loop {
            // One at a time: a buffer whose packets are kept here must not be shown to quinn.
            let count = ready!(self.real.poll_recv(cx, &mut bufs[..1], &mut metas[..1]))?;
            if count == 0 || metas[0].len == 0 {
                continue;
            }
            let bytes = &bufs[0][..metas[0].len];
            if classify(bytes) == PacketKind::Quic {
                return Poll::Ready(Ok(1));
            }
            for packet in bytes.chunks(metas[0].stride) {
                drop(self.others.try_send(packet.to_vec()));
            }
        }
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
}

/// A client with a control connection.
pub(crate) struct Client {
    pub(crate) id: PeerId,
    pub(crate) relay: SocketAddr,
    pub(crate) socket: Arc<TestSocket>,
    pub(crate) packets: mpsc::Receiver<Vec<u8>>,
    pub(crate) connection: quinn::Connection,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: FrameDecoder,
}

/// What quinn needs to dial this relay as `identity`.
pub(crate) fn client_config(address: &RelayAddress, identity: &Identity) -> quinn::ClientConfig {
    let fingerprint = address.fingerprint.expect("a self-signed relay is pinned");
    let (tls, _) =
        tls::relay_client(identity, RelayTrust::Pinned(fingerprint)).expect("client tls");
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("quic tls");
    quinn::ClientConfig::new(Arc::new(quic))
}

pub(crate) fn client_endpoint(socket: Arc<TestSocket>) -> quinn::Endpoint {
    let mut config = quinn::EndpointConfig::default();
    config.grease_quic_bit(false);
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime).expect("an endpoint")
}

impl Client {
    pub(crate) async fn connect(relay: &TestRelay, identity: Identity) -> Self {
        Self::connect_to(relay, relay.port(0), identity).await
    }

    pub(crate) async fn connect_to(relay: &TestRelay, to: SocketAddr, identity: Identity) -> Self {
        Self::dial(&relay.relay.address(), to, identity).await
    }

    pub(crate) async fn dial(address: &RelayAddress, to: SocketAddr, identity: Identity) -> Self {
        let config = client_config(address, &identity);
        Self::dial_with(config, to, identity.id()).await
    }

    pub(crate) async fn dial_with(config: quinn::ClientConfig, to: SocketAddr, id: PeerId) -> Self {
        let (socket, packets) = TestSocket::bind();
        let endpoint = client_endpoint(socket.clone());
        let connecting = endpoint
            .connect_with(config, to, "landline-relay")
            .expect("dialled");
        let connection = soon(connecting).await.expect("connected");
        let (send, recv) = soon(connection.open_bi()).await.expect("a stream");
        let decoder = FrameDecoder::default();
        Self {
            id,
            relay: to,
            socket,
            packets,
            connection,
            endpoint,
            send,
            recv,
            decoder,
        }
    }

    pub(crate) async fn say(&mut self, message: impl Into<ToRelay>) {
        let frame = message.into().encode().expect("within bounds");
        self.send.write_all(&frame).await.expect("written");
    }

    /// The next message, or `None` when the relay has ended the stream.
    pub(crate) async fn next(&mut self) -> Option<FromRelay> {
        soon(async {
            loop {
                while let Some(frame) = self.decoder.next_frame().expect("frames") {
                    if let Some(message) = FromRelay::decode(&frame).expect("well formed") {
                        return Some(message);
                    }
                }
                match self.recv.read_chunk(65_536, true).await {
                    Ok(Some(chunk)) => self.decoder.push(&chunk.bytes),
                    Ok(None) | Err(_) => return None,
                }
            }
        })
        .await
    }

    pub(crate) async fn hear(&mut self) -> FromRelay {
        self.next().await.expect("another message")
    }

    pub(crate) async fn hello(&mut self, token: Option<String>) -> FromRelay {
        self.say(Hello {
            versions: vec![1],
            capabilities: Vec::new(),
            token,
        })
        .await;
        self.hear().await
    }

    pub(crate) async fn welcome(&mut self, token: Option<String>) -> Welcome {
        match self.hello(token).await {
            FromRelay::Welcome(welcome) => welcome,
            other => panic!("not welcome: {other:?}"),
        }
    }

    /// This client's keys of a channel: up and down.
    pub(crate) fn keys(&self, channel: ChannelId) -> [HeaderKey; 2] {
        [Direction::Up, Direction::Down].map(|direction| {
            let mut key = [0; 16];
            let context = channel_key_context(channel, direction);
            let connection = &self.connection;
            connection
                .export_keying_material(&mut key, CHANNEL_KEY_LABEL, &context)
                .expect("an exporter");
            HeaderKey::new(key)
        })
    }

    pub(crate) fn line(&self, channel: ChannelId, end: ChannelEnd) -> Line {
        let [up, down] = self.keys(channel);
        Line {
            end,
            up,
            down,
            next: 0,
        }
    }

    /// The next packet that is not QUIC.
    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        soon(self.packets.recv()).await.expect("a packet")
    }
}

/// One end of a channel in a client's hands.
pub(crate) struct Line {
    pub(crate) end: ChannelEnd,
    pub(crate) up: HeaderKey,
    pub(crate) down: HeaderKey,
    next: u32,
}

impl Line {
    pub(crate) fn pack(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut packet = [&[0; HEADER_LEN][..], payload].concat();
        let (epoch, class) = (false, Class::Control);
        let header = Header {
            epoch,
            class,
            ecn: 0,
            fragment: false,
            end: self.end,
            counter: self.next,
        };
        header.write(&self.up, &mut packet);
        self.next += 1;
        packet
    }

    pub(crate) fn unpack(&self, packet: &[u8]) -> Vec<u8> {
        let header = Header::verify(&self.down, packet).expect("authentic");
        assert_eq!(header.end, self.end);
        packet[HEADER_LEN..].to_vec()
    }
}

/// Opens a channel from one client to another, accepted, with the lines of both.
pub(crate) async fn channel(one: &mut Client, two: &mut Client) -> (ChannelId, Line, Line) {
    let (opened, offered) = offer(one, two).await;
    accept(two, opened.channel).await;
    match one.hear().await {
        FromRelay::ChannelReady(ready) => assert_eq!(ready.channel, opened.channel),
        other => panic!("not ready: {other:?}"),
    }
    let channel = opened.channel;
    (
        channel,
        one.line(channel, opened.end),
        two.line(channel, offered.end),
    )
}

pub(crate) async fn offer(one: &mut Client, two: &mut Client) -> (ChannelOpened, ChannelOffered) {
    let to = two.id;
    let flight = vec![b"first".to_vec()];
    let sealed = b"sealed".to_vec();
    one.say(ChannelOpen {
        request: 7,
        to,
        sealed,
        attest: true,
        flight,
    })
    .await;
    let FromRelay::ChannelOpened(opened) = one.hear().await else {
        panic!("not opened")
    };
    let FromRelay::ChannelOffered(offered) = two.hear().await else {
        panic!("not offered")
    };
    (opened, offered)
}

pub(crate) async fn accept(two: &mut Client, channel: ChannelId) {
    let (sealed, flight) = (b"answer".to_vec(), vec![b"back".to_vec()]);
    two.say(ChannelAccept {
        channel,
        sealed,
        attest: true,
        flight,
    })
    .await;
}
