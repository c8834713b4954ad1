//! Two endpoints and a relay on a simulated network, in virtual time.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use p2p_net::{
    Config, Connection, Endpoint, Identity, PathKind, RelayAddress, RelayState, SocketProvider,
    TcpDial,
};
use p2p_net_sim::{LinkConfig, NatConfig, SimHost, SimNet};
use relay::Relay;
use tokio::time::{sleep, timeout};

pub(crate) const RELAY_PORT: u16 = 443;
/// Longest wait for anything, virtual.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Sockets(pub(crate) SimHost);

impl SocketProvider for Sockets {
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn quinn::AsyncUdpSocket>>> {
        Ok(vec![self.0.socket(port)])
    }

    fn bind_extra(&self) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Ok(self.0.socket(0))
    }

    fn interfaces(&self) -> Vec<(IpAddr, u8)> {
        self.0.prefixes()
    }

    fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let parsed = host.parse::<IpAddr>().map_err(io::Error::other);
        Box::pin(async move { Ok(vec![SocketAddr::new(parsed?, port)]) })
    }

    fn dial_tcp(&self, _: String, _: u16, _: Vec<SocketAddr>) -> Option<TcpDial> {
        TCP_DIALS.set(TCP_DIALS.get() + 1);
        None
    }
}

thread_local! {
    /// How often this test's endpoints would have dialled TCP.
    pub(crate) static TCP_DIALS: Cell<u32> = const { Cell::new(0) };
}

pub(crate) struct Stand {
    pub(crate) net: SimNet,
    pub(crate) hosts: [SimHost; 2],
    pub(crate) relay_host: SimHost,
    pub(crate) endpoints: [Endpoint; 2],
    pub(crate) relay: Option<Relay>,
    pub(crate) folder: tempfile::TempDir,
}

impl Stand {
    pub(crate) async fn new(seed: u64, nats: [NatConfig; 2], link: LinkConfig) -> Self {
        let net = SimNet::new(seed);
        let relay_host = net.host();
        let hosts = nats.map(|nat| net.host_behind(nat));
        net.set_default_link(link);
        let folder = tempfile::tempdir().expect("a folder");
        let relay = start_relay(&relay_host, folder.path()).await;
        let host = relay_host.address().to_string();
        let address = RelayAddress {
            host,
            port: RELAY_PORT,
            ..relay.address()
        };
        let endpoint = |host: &SimHost, secret: u8| {
            Endpoint::bind(Config {
                identity: Identity::from_secret([secret; 32]),
                relay: Some(address.clone()),
                port: 0,
                sockets: Some(Arc::new(Sockets(host.clone()))),
            })
            .expect("an endpoint")
        };
        let endpoints = [endpoint(&hosts[0], 1), endpoint(&hosts[1], 2)];
        let relay = Some(relay);
        let stand = Self {
            net,
            hosts,
            relay_host,
            endpoints,
            relay,
            folder,
        };
        stand.wait_online().await;
        let [one, two] = &stand.endpoints;
        two.set_accepted(one.id(), true);
        // The way to the relay has been measured once or twice by now.
        sleep(Duration::from_secs(7)).await;
        stand
    }

    async fn wait_online(&self) {
        for endpoint in &self.endpoints {
            let mut state = endpoint.watch_relay();
            let online = state.wait_for(|state| matches!(state, RelayState::Online { .. }));
            timeout(PATIENCE, online)
                .await
                .expect("online in time")
                .expect("alive");
        }
    }

    pub(crate) async fn connect(&self) -> (Connection, Connection) {
        let [one, two] = &self.endpoints;
        let (dialled, accepted) = timeout(PATIENCE, async {
            tokio::join!(one.connect(two.id()), two.accept())
        })
        .await
        .expect("connected in time");
        (dialled.expect("connected"), accepted.expect("accepted"))
    }
}

pub(crate) async fn start_relay(host: &SimHost, folder: &Path) -> Relay {
    let main = SocketAddr::new(host.address(), RELAY_PORT);
    let mut config = relay::Config::loopback(folder);
    config.listen = vec![main];
    config.stun_port = Some(3_478);
    config.public_address = Some(main.to_string());
    config.sockets = Some(vec![host.socket(RELAY_PORT), host.socket(3_478)]);
    Relay::start(config).await.expect("the relay starts")
}

pub(crate) async fn wait_path(connection: &Connection, kind: PathKind) {
    let mut path = connection.path();
    let there = path.wait_for(|path| path.kind == kind);
    timeout(PATIENCE, there)
        .await
        .expect("the path in time")
        .expect("alive");
}
