//! Plain quinn over simulated sockets, in paused time: round trips take what the links say, cuts stall and
//! heal, and two runs of one seed agree.

use std::sync::Arc;
use std::time::Duration;

use p2p_net_sim::{LinkConfig, Loss, NatConfig, SimHost, SimNet};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::time::{Instant, timeout};

const ONE_WAY: Duration = Duration::from_millis(50);
const SERVER_PORT: u16 = 443;

fn configs() -> (ServerConfig, ClientConfig) {
    let certified = rcgen::generate_simple_self_signed(["sim.invalid".to_owned()])
        .expect("a certificate can be made");
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .expect("the key fits");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        ServerConfig::with_crypto(Arc::new(
            QuicServerConfig::try_from(server).expect("TLS 1.3"),
        )),
        ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(client).expect("TLS 1.3"),
        )),
    )
}

fn endpoint(host: &SimHost, port: u16, server: Option<ServerConfig>) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.rng_seed(Some([7; 32]));
    let socket = host.socket(port);
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
        .expect("an endpoint")
}

/// Serves one connection: every stream comes back as it is.
async fn echo(server: Endpoint) {
    let Some(incoming) = server.accept().await else {
        return;
    };
    let connection = incoming.await.expect("a handshake");
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        while let Ok(Some(chunk)) = recv.read_chunk(64 * 1024, true).await {
            if send.write_chunk(chunk.bytes).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

struct Pair {
    net: SimNet,
    here: SimHost,
    there: SimHost,
    connection: quinn::Connection,
    _client: Endpoint,
    handshake: Duration,
}

async fn connect(seed: u64, link: LinkConfig) -> Pair {
    let net = SimNet::new(seed);
    let there = net.host();
    let here = net.host_behind(NatConfig::port_restricted());
    net.set_link(&here, &there, link);
    let (server_config, client_config) = configs();
    let server = endpoint(&there, SERVER_PORT, Some(server_config));
    let to = server.local_addr().expect("an address");
    tokio::spawn(echo(server));
    let client = endpoint(&here, 5_000, None);
    let start = Instant::now();
    let connection = client
        .connect_with(client_config, to, "sim.invalid")
        .expect("a valid name")
        .await
        .expect("a handshake");
    Pair {
        net,
        here,
        there,
        connection,
        _client: client,
        handshake: start.elapsed(),
    }
}

impl Pair {
    async fn round_trip(&self, bytes: usize) -> Duration {
        let start = Instant::now();
        let (mut send, mut recv) = self.connection.open_bi().await.expect("a stream");
        let writer = async {
            send.write_all(&vec![0xa5; bytes]).await.expect("written");
            send.finish().expect("open");
        };
        let (back, ()) = tokio::join!(recv.read_to_end(bytes + 1), writer);
        let back = back.expect("an echo");
        assert!(back.len() == bytes && back.iter().all(|byte| *byte == 0xa5));
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_and_an_echo_take_one_round_trip_each() {
    let pair = connect(1, LinkConfig::delay(ONE_WAY)).await;
    let round_trip = 2 * ONE_WAY;
    assert!(pair.handshake >= round_trip && pair.handshake < round_trip + ONE_WAY / 5);
    let echo = pair.round_trip(100).await;
    assert!(
        echo >= round_trip && echo < round_trip + ONE_WAY / 5,
        "{echo:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_transfer_survives_loss_and_a_cut() {
    let link = LinkConfig::delay(ONE_WAY).with_loss(Loss::Random(0.02));
    let pair = connect(2, link).await;
    let transfer = pair.round_trip(200_000);
    tokio::pin!(transfer);
    assert!(
        timeout(Duration::from_millis(150), &mut transfer)
            .await
            .is_err()
    );
    pair.net.cut(&pair.here, &pair.there);
    assert!(
        timeout(Duration::from_secs(2), &mut transfer)
            .await
            .is_err(),
        "nothing passes"
    );
    pair.net.heal(&pair.here, &pair.there);
    timeout(Duration::from_secs(60), transfer)
        .await
        .expect("it goes on");
}

#[tokio::test(start_paused = true)]
async fn quinn_follows_a_rebinding() {
    let pair = connect(3, LinkConfig::delay(ONE_WAY)).await;
    pair.round_trip(100).await;
    pair.net.rebind(&pair.here);
    timeout(Duration::from_secs(10), pair.round_trip(10_000))
        .await
        .expect("servers migrate");
}

#[tokio::test(start_paused = true)]
async fn datagrams_show_addresses_as_the_socket_is_bound() {
    let net = SimNet::new(4);
    let (one, other) = (net.host(), net.host());
    let six = other.add_ipv6();
    one.add_ipv6();
    let plain = one.udp(1_000);
    let only_six = one.udp_v6(1_000);
    let bound = other.udp(2_000);
    let bound_six = other.udp_v6(2_000);
    plain.send_to(b"four", bound.address()).expect("sent");
    only_six.send_to(b"six", bound_six.address()).expect("sent");
    assert_eq!(
        bound.recv_from().await,
        (b"four"[..].into(), plain.address())
    );
    assert_eq!(
        bound_six.recv_from().await,
        (b"six"[..].into(), only_six.address())
    );
    assert_eq!(bound_six.address().ip(), six);
    assert!(plain.send_to(b"wrong family", bound_six.address()).is_err());
    drop(bound);
    let again = other.udp(2_000);
    plain.send_to(b"again", again.address()).expect("sent");
    assert_eq!(&again.recv_from().await.0[..], b"again");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_reads_is_bounded() {
    let net = SimNet::new(5);
    net.set_default_link(LinkConfig::delay(Duration::from_millis(1)));
    let (one, other) = (net.host(), net.host());
    let (from, to) = (one.udp(1_000), other.udp(2_000));
    for _ in 0..p2p_net_sim::sockets::MAX_QUEUED + 10 {
        from.send_to(b"x", to.address()).expect("sent");
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(to.dropped(), 10);
}

#[test]
fn the_same_seed_takes_the_same_time() {
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(async {
                let link = LinkConfig::delay(ONE_WAY).with_loss(Loss::Random(0.05));
                let pair = connect(6, link).await;
                let took = pair.round_trip(50_000).await;
                (took.as_millis(), pair.net.counters().lost)
            })
    };
    // Certificates and TLS randoms differ between runs, sizes of handshake packets with them; losses are drawn
    // per packet, so that the runs agree nevertheless.
    assert_eq!(run(), run());
}
