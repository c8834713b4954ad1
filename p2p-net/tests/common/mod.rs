//! A relay and endpoints on loopback, and waiting for what they say.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use p2p_net::{
    AcceptError, Config, Connection, Endpoint, Identity, PathKind, PeerId, RelayAddress, RelayState,
};
use relay::{Relay, StartError};
use tokio::time::timeout;

/// Nothing here takes so long; who waits longer has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Stand {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) relay: Option<Relay>,
    pub(crate) address: RelayAddress,
}

impl Stand {
    pub(crate) async fn start() -> Self {
        // `RUST_LOG=p2p_net=debug cargo test … -- --nocapture` tells what happens.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer();
        let _ = log.try_init();
        let folder = tempfile::tempdir().expect("a folder");
        let relay = start_relay(folder.path(), 0).await;
        let address = relay.address();
        Self {
            folder,
            relay: Some(relay),
            address,
        }
    }

    pub(crate) fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("the relay runs")
    }

    pub(crate) async fn stop_relay(&mut self) {
        self.relay.take().expect("the relay runs").shutdown().await;
    }

    /// The same relay again: same folder, same port.
    pub(crate) async fn restart_relay(&mut self) {
        self.relay = Some(start_relay(self.folder.path(), self.address.port).await);
    }

    /// An endpoint that is on its way to the relay.
    pub(crate) fn endpoint(&self, number: u8) -> Endpoint {
        bind(number, Some(self.address.clone()))
    }

    /// An endpoint that is logged in.
    pub(crate) async fn online(&self, number: u8) -> Endpoint {
        let endpoint = self.endpoint(number);
        wait_online(&endpoint).await;
        endpoint
    }
}

/// A relay that was shut down may hold its port until its last connections have drained.
async fn start_relay(folder: &Path, port: u16) -> Relay {
    patient("the port", async {
        loop {
            let mut config = relay::Config::loopback(folder);
            config.listen = vec![SocketAddr::from(([127, 0, 0, 1], port))];
            match Relay::start(config).await {
                Ok(relay) => return relay,
                Err(StartError::Listen { source, .. }) if source.kind() == ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("the relay does not start: {error:?}"),
            }
        }
    })
    .await
}

pub(crate) fn identity(number: u8) -> Identity {
    Identity::from_secret([number; 32])
}

pub(crate) fn id(number: u8) -> PeerId {
    identity(number).id()
}

/// Two numbers, that of the smaller id first.
pub(crate) fn ordered(one: u8, other: u8) -> (u8, u8) {
    if id(one) < id(other) {
        (one, other)
    } else {
        (other, one)
    }
}

pub(crate) fn bind(number: u8, relay: Option<RelayAddress>) -> Endpoint {
    Endpoint::bind(Config {
        identity: identity(number),
        relay,
        port: 0,
        sockets: None,
    })
    .expect("an endpoint")
}

pub(crate) async fn patient<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long: {what}"),
    }
}

pub(crate) async fn wait_online(endpoint: &Endpoint) {
    let mut state = endpoint.watch_relay();
    let online = state.wait_for(|state| matches!(state, RelayState::Online { .. }));
    patient("online", online).await.expect("the endpoint lives");
}

pub(crate) async fn wait_failed(endpoint: &Endpoint) -> AcceptError {
    let mut state = endpoint.watch_relay();
    let failed = state.wait_for(|state| matches!(state, RelayState::Failed(_)));
    match &*patient("failed", failed).await.expect("the endpoint lives") {
        RelayState::Failed(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn wait_present(endpoint: &Endpoint, peer: PeerId, present: bool) {
    let mut peers = endpoint.watch_peers();
    let there = peers.wait_for(|peers| peers.contains(&peer) == present);
    patient("presence", there)
        .await
        .expect("the endpoint lives");
}

pub(crate) async fn wait_path(connection: &Connection, kind: PathKind) {
    let mut path = connection.path();
    let there = timeout(PATIENCE, path.wait_for(|path| path.kind == kind)).await;
    let now = *connection.path().borrow();
    there
        .unwrap_or_else(|_| panic!("waited too long for {kind:?}: {now:?}"))
        .expect("the endpoint lives");
}

/// Dials and accepts.
pub(crate) async fn join(from: &Endpoint, to: &Endpoint) -> (Connection, Connection) {
    let (dialled, accepted) = patient("a connection", async {
        tokio::join!(from.connect(to.id()), to.accept())
    })
    .await;
    (dialled.expect("connected"), accepted.expect("accepted"))
}

/// Answers each stream with what came, until the connection ends.
pub(crate) fn echo(connection: Connection) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut send, mut receive)) = connection.accept().await {
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = receive.read_chunk(64 << 10, true).await {
                    if send.write_all(&chunk.bytes).await.is_err() {
                        return;
                    }
                }
                let _ = send.finish();
            });
        }
    })
}

/// Sends `text` over a new stream and gets it back.
pub(crate) async fn ask(connection: &Connection, text: &[u8]) -> Vec<u8> {
    patient("an echo", async {
        let (mut send, mut receive) = connection.open().await.expect("a stream");
        send.write_all(text).await.expect("sent");
        send.finish().expect("finished");
        receive.read_to_end(1 << 20).await.expect("echoed")
    })
    .await
}
