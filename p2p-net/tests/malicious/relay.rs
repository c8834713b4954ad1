//! The evil relay itself: start, stop, the state that its tasks share, and what a test can ask of it.
//! It shares no code with the real relay, only the formats.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_net_proto::wire::FromRelay;
use p2p_net_proto::{ChannelEnd, ChannelId, Identity, PeerId, RelayAddress, tls};
use quinn::crypto::rustls::QuicServerConfig;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::deeds::{Deeds, PacketDeeds, Seen};
use super::forward::{Channel, Side};
use super::record::Record;
use super::socket::{Datagram, DemuxSocket};

/// Packets held back for reordering wait so long at most.
const HELD_BACK: Duration = Duration::from_millis(5);

/// A relay that does what its [`Deeds`] say. It stops when dropped.
pub(crate) struct EvilRelay {
    hub: Arc<Hub>,
    endpoint: quinn::Endpoint,
    address: RelayAddress,
    tasks: [AbortHandle; 2],
}

/// What the relay's tasks share.
pub(crate) struct Hub {
    pub(super) socket: Arc<DemuxSocket>,
    pub(super) record: Arc<Record>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// Everything that changes.
pub(crate) struct State {
    pub(crate) deeds: Deeds,
    pub(crate) seen: Seen,
    pub(super) clients: HashMap<PeerId, Client>,
    pub(super) channels: HashMap<ChannelId, Channel>,
    pub(super) ends: HashMap<ChannelEnd, (ChannelId, Side)>,
    pub(super) mallories: HashMap<u32, mpsc::Sender<Vec<u8>>>,
    pub(super) rng: StdRng,
    pub(super) next: u32,
}

/// One logged-in peer.
pub(super) struct Client {
    pub(super) connection: quinn::Connection,
    pub(super) frames: mpsc::Sender<Vec<u8>>,
    pub(super) subscribed: bool,
}

impl EvilRelay {
    /// Opens a port on 127.0.0.1 and serves anybody. `seed` decides every random choice.
    pub(crate) fn start(seed: u64) -> Self {
        let record = Arc::new(Record::default());
        let (socket, others) = DemuxSocket::bind(Arc::clone(&record)).expect("a loopback port");
        let port = quinn::AsyncUdpSocket::local_addr(&*socket)
            .expect("a bound port")
            .port();
        let mut rng = StdRng::seed_from_u64(seed);
        let identity = Identity::from_secret(rand::RngExt::random(&mut rng));
        let (certificate, key) = tls::certificate(&identity).expect("a certificate");
        let fingerprint = tls::fingerprint_of_certificate(&certificate);
        let crypto = tls::relay_server(vec![certificate], key).expect("a TLS configuration");
        let crypto = QuicServerConfig::try_from(crypto).expect("TLS 1.3");
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(5)));
        server.transport_config(Arc::new(transport));
        let mut config = quinn::EndpointConfig::default();
        config.grease_quic_bit(false);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config,
            Some(server),
            Arc::clone(&socket) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(quinn::TokioRuntime),
        )
        .expect("an endpoint");
        let hub = Arc::new(Hub {
            socket,
            record,
            state: Mutex::new(State {
                deeds: Deeds::default(),
                seen: Seen::default(),
                clients: HashMap::new(),
                channels: HashMap::new(),
                ends: HashMap::new(),
                mallories: HashMap::new(),
                rng,
                next: 1,
            }),
            changed: watch::channel(()).0,
        });
        let tasks = [
            tokio::spawn(accept(Arc::clone(&hub), endpoint.clone())).abort_handle(),
            tokio::spawn(relay_packets(Arc::clone(&hub), others)).abort_handle(),
        ];
        let address = RelayAddress {
            host: "127.0.0.1".to_owned(),
            port,
            fingerprint,
            token: None,
        };
        Self {
            hub,
            endpoint,
            address,
            tasks,
        }
    }

    /// What an honest user was told to paste.
    pub(crate) fn address(&self) -> RelayAddress {
        self.address.clone()
    }

    /// What its tasks share.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Everything that it saw.
    pub(crate) fn record(&self) -> &Record {
        &self.hub.record
    }

    /// Its QUIC endpoint, which may also dial.
    pub(crate) fn quic(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// Changes what it does from now on.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Deeds)) {
        change(&mut self.hub.state().deeds);
    }

    /// From now on it is honest.
    pub(crate) fn behave(&self) {
        self.hub.state().deeds = Deeds::default();
    }

    /// What happens to relayed packets from now on.
    pub(crate) fn packets(&self, deeds: PacketDeeds) {
        self.set(|d| d.packets = deeds);
    }

    /// Reads something of what it saw.
    pub(crate) fn seen<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.hub.state().seen)
    }

    /// Waits until what it saw satisfies `enough`.
    pub(crate) async fn until(&self, enough: impl FnMut(&State) -> bool) {
        self.hub.until(enough).await;
    }

    /// Ends `peer`'s control connection without a word.
    pub(crate) fn kick(&self, peer: PeerId) {
        if let Some(client) = self.hub.state().clients.get(&peer) {
            client.connection.close(quinn::VarInt::from_u32(0), b"");
        }
    }
}

impl Drop for EvilRelay {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.endpoint.close(quinn::VarInt::from_u32(0), b"");
    }
}

impl Hub {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits in [`Hub::until`].
    pub(super) fn note_change(&self) {
        self.changed.send_replace(());
    }

    /// Waits until the state satisfies `enough`.
    pub(crate) async fn until(&self, mut enough: impl FnMut(&State) -> bool) {
        let mut changes = self.changed.subscribe();
        while !enough(&self.state()) {
            changes.changed().await.expect("the hub holds the sender");
        }
    }

    /// Writes a message on `peer`'s control stream; lost if it is gone or does not read.
    pub(crate) fn send(&self, peer: PeerId, message: impl Into<FromRelay>) {
        let bytes = message
            .into()
            .encode()
            .expect("a message that fits a frame");
        self.send_bytes(peer, bytes);
    }

    /// The same for any bytes.
    pub(crate) fn send_bytes(&self, peer: PeerId, bytes: Vec<u8>) {
        if let Some(client) = self.state().clients.get(&peer) {
            let _ = client.frames.try_send(bytes);
        }
    }

    /// The queue of `peer`'s control stream, for floods that wait for the reader.
    pub(crate) fn stream_of(&self, peer: PeerId) -> Option<mpsc::Sender<Vec<u8>>> {
        self.state()
            .clients
            .get(&peer)
            .map(|client| client.frames.clone())
    }

    /// From where `peer` speaks to the relay.
    pub(crate) fn address_of(&self, peer: PeerId) -> Option<SocketAddr> {
        self.state()
            .clients
            .get(&peer)
            .map(|client| client.connection.remote_address())
    }

    /// Sends a UDP payload as it is to where `peer` is.
    pub(crate) fn send_datagram(&self, peer: PeerId, payload: &[u8]) {
        if let Some(address) = self.address_of(peer) {
            self.socket.send(address, payload);
        }
    }
}

async fn accept(hub: Arc<Hub>, endpoint: quinn::Endpoint) {
    // Dropped with this task, and all sessions with it.
    let mut sessions = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let hub = Arc::clone(&hub);
        sessions.spawn(async move {
            if let Ok(connection) = incoming.await {
                hub.serve(connection).await;
            }
        });
        while sessions.try_join_next().is_some() {}
    }
}

async fn relay_packets(hub: Arc<Hub>, mut packets: mpsc::Receiver<Datagram>) {
    // What is held back is late, not lost: at the end of a burst no later packet would push it out.
    let mut late = tokio::time::interval(HELD_BACK);
    loop {
        tokio::select! {
            packet = packets.recv() => {
                let Some((_, packet)) = packet else { return };
                hub.on_packet(&packet);
                hub.note_change();
            }
            _ = late.tick() => hub.release_held(),
        }
    }
}
