//! The honest side of the tests: endpoints as programs make them, a bystander who wants no packets, and
//! the watch over panics in tasks that no test joins.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use p2p_net::{
    Config, ConnectError, Connection, Endpoint, Identity, PathInfo, PathKind, PeerId, RelayState,
};
use p2p_net_proto::wire::PresenceDelta;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::relay::EvilRelay;

/// Bytes of a stream that a test reads at most.
const STREAM_LIMIT: usize = 4 << 20;

/// Awaits `future` for at most `seconds`.
///
/// # Panics
/// If it takes longer; `what` says what did.
pub(crate) async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took more than {seconds} s"),
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Fails the test if anything but a test's own assertion has panicked since [`no_panic`] was made.
pub(crate) struct NoPanic(usize);

/// Watches for panics until dropped. A panic in a spawned task is otherwise seen by nobody.
pub(crate) fn no_panic() -> NoPanic {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let of_a_test = |file: &str| file.contains("tests/") || file.contains("tests\\");
            if !info.location().is_some_and(|place| of_a_test(place.file())) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            usual(info);
        }));
    });
    NoPanic(PANICS.load(Ordering::SeqCst))
}

impl Drop for NoPanic {
    fn drop(&mut self) {
        let now = PANICS.load(Ordering::SeqCst);
        if !std::thread::panicking() {
            assert_eq!(now, self.0, "something panicked while the relay did harm");
        }
    }
}

/// An endpoint of `identity` at `relay`.
pub(crate) fn endpoint(relay: &EvilRelay, identity: Identity) -> Endpoint {
    let relay = Some(relay.address());
    Endpoint::bind(Config {
        identity,
        relay,
        port: 0,
        sockets: None,
    })
    .expect("a UDP port")
}

/// Waits until `endpoint` is told that `peer` is there.
pub(crate) async fn sees(endpoint: &Endpoint, peer: PeerId) {
    let mut peers = endpoint.watch_peers();
    peers
        .wait_for(|peers| peers.contains(&peer))
        .await
        .expect("the endpoint lives");
}

/// Waits until `endpoint` has handled every control frame that the relay sent it before: they are in
/// order, and the last one makes a peer of this number appear.
pub(crate) async fn caught_up(relay: &EvilRelay, endpoint: &Endpoint, number: u8) {
    let marker = Identity::from_secret([number; 32]).id();
    let (joined, left) = (vec![marker], Vec::new());
    relay
        .hub()
        .send(endpoint.id(), PresenceDelta { joined, left });
    sees(endpoint, marker).await;
}

/// Waits until `endpoint` is logged in.
pub(crate) async fn online(endpoint: &Endpoint) {
    let mut state = endpoint.watch_relay();
    let there = |state: &RelayState| matches!(state, RelayState::Online { .. });
    state.wait_for(there).await.expect("the endpoint lives");
}

/// Two honest peers.
pub(crate) struct Pair {
    pub(crate) alice: Endpoint,
    pub(crate) bob: Endpoint,
    secrets: [[u8; 32]; 2],
}

impl Pair {
    /// Alice and Bob, logged in, each told of the other. `seed` makes their keys.
    pub(crate) async fn online(relay: &EvilRelay, seed: u8) -> Self {
        let secrets = [[seed; 32], [seed ^ 0x80; 32]];
        let [alice, bob] = secrets.map(|secret| endpoint(relay, Identity::from_secret(secret)));
        let pair = Self {
            alice,
            bob,
            secrets,
        };
        within(15, "finding each other", async {
            sees(&pair.alice, pair.bob.id()).await;
            sees(&pair.bob, pair.alice.id()).await;
        })
        .await;
        pair
    }

    /// The same, and neither ever leaves the relay.
    pub(crate) async fn relay_only(relay: &EvilRelay, seed: u8) -> Self {
        let pair = Self::online(relay, seed).await;
        pair.alice.set_relay_only(pair.bob.id(), true);
        pair.bob.set_relay_only(pair.alice.id(), true);
        pair
    }

    pub(crate) fn alice_identity(&self) -> Identity {
        Identity::from_secret(self.secrets[0])
    }

    pub(crate) fn bob_identity(&self) -> Identity {
        Identity::from_secret(self.secrets[1])
    }

    /// Alice dials Bob; both ends of the connection.
    pub(crate) async fn connect(&self) -> (Connection, Connection) {
        within(20, "connecting", self.try_connect())
            .await
            .expect("a connection through the relay")
    }

    /// The same, where it may fail.
    pub(crate) async fn try_connect(&self) -> Result<(Connection, Connection), ConnectError> {
        let dialled = self.alice.connect(self.bob.id()).await?;
        let accepted = self.bob.accept().await.expect("the endpoint is open");
        assert_eq!(dialled.peer(), self.bob.id());
        assert_eq!(accepted.peer(), self.alice.id());
        Ok((dialled, accepted))
    }
}

/// Sends `data` on a new stream and wants it back; both ends compare what they read.
pub(crate) async fn echo(from: &Connection, to: &Connection, data: &[u8]) {
    let ask = async {
        let (mut send, mut receive) = from.open().await.expect("a stream");
        send.write_all(data).await.expect("written");
        send.finish().expect("finished");
        receive.read_to_end(STREAM_LIMIT).await.expect("read back")
    };
    let answer = async {
        let (mut send, mut receive) = to.accept().await.expect("a stream");
        let heard = receive.read_to_end(STREAM_LIMIT).await.expect("read");
        send.write_all(&heard).await.expect("written back");
        send.finish().expect("finished");
        heard
    };
    let (back, heard) = tokio::join!(ask, answer);
    assert!(heard == data, "the stream's bytes differ at the far end");
    assert!(
        back == data,
        "the stream's bytes differ when they come back"
    );
}

/// `length` bytes that no compressor shortens and no accident repeats.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Whether the path becomes direct within `limit`; the watch is the event, the limit ends the wait for
/// something that must not come.
pub(crate) async fn becomes_direct(connection: &Connection, limit: Duration) -> bool {
    let mut path = connection.path();
    let direct = |path: &PathInfo| path.kind == PathKind::Direct;
    tokio::time::timeout(limit, path.wait_for(direct))
        .await
        .is_ok_and(|found| found.is_ok())
}

/// A bystander on another loopback address who counts what arrives.
pub(crate) struct Victim {
    addresses: Vec<SocketAddr>,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    arrived: Arc<Notify>,
    tasks: JoinSet<()>,
}

impl Victim {
    /// Listens on a port of 127.0.0.`host`.
    pub(crate) async fn listen(host: u8) -> Self {
        Self::listen_on(host, 1).await
    }

    /// The same on many ports.
    pub(crate) async fn listen_on(host: u8, ports: usize) -> Self {
        let packets = Arc::new(Mutex::new(Vec::new()));
        let arrived = Arc::new(Notify::new());
        let (mut addresses, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..ports {
            let address = SocketAddr::from(([127, 0, 0, host], 0));
            let socket = UdpSocket::bind(address).await.expect("a loopback port");
            addresses.push(socket.local_addr().expect("a bound port"));
            let (packets, arrived) = (Arc::clone(&packets), Arc::clone(&arrived));
            tasks.spawn(async move {
                let mut buffer = [0; 2_048];
                while let Ok(length) = socket.recv(&mut buffer).await {
                    let mut packets = packets.lock().unwrap_or_else(PoisonError::into_inner);
                    packets.push(buffer[..length].to_vec());
                    arrived.notify_one();
                }
            });
        }
        Self {
            addresses,
            packets,
            arrived,
            tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until nothing has arrived for `quiet`.
    pub(crate) async fn is_left_alone(&self, quiet: Duration) {
        while tokio::time::timeout(quiet, self.arrived.notified())
            .await
            .is_ok()
        {}
    }

    /// Everything that arrived so far.
    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
        self.packets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}
