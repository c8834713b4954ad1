//! Two endpoints without any relay, on one simulated LAN and across the Internet, in virtual time: they reach each
//! other where the program says they are, and nobody else gets a byte out of them. That mDNS tells the same is shown by
//! `benches/lab/direct`, on real hosts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use p2p_net::{
    Config, ConnectError, Connection, Discovery, Endpoint, Identity, LocalNetwork, PathKind,
    SocketProvider,
};
use p2p_net_proto::probe::PROBE_LEN;
use p2p_net_proto::wire::signal;
use p2p_net_proto::{KNOCK_LEN, Knock};
use p2p_net_sim::{LinkConfig, NatConfig, Place, SimHost, SimNet};
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for anything, virtual.
const PATIENCE: Duration = Duration::from_secs(60);
/// One way, on a LAN.
const DELAY: Duration = Duration::from_millis(1);

struct Sockets(SimHost);

impl SocketProvider for Sockets {
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn quinn::AsyncUdpSocket>>> {
        Ok(vec![self.0.socket(port)])
    }

    fn interfaces(&self) -> Vec<(IpAddr, u8)> {
        self.0.prefixes()
    }

    fn resolve(
        &self,
        _: String,
        _: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }
}

/// Somebody on the network, without a relay.
fn endpoint(host: &SimHost, secret: u8, discovery: Discovery) -> Endpoint {
    let config = Config {
        identity: Identity::from_secret([secret; 32]),
        relay: None,
        port: 0,
        sockets: Some(Arc::new(Sockets(host.clone()))),
    };
    let local = LocalNetwork {
        port_mapping: false,
        discovery,
    };
    Endpoint::bind_with(config, local).expect("an endpoint")
}

fn place(host: &SimHost, endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(host.address(), endpoint.port())
}

/// Two hosts behind one NAT, and one elsewhere.
fn network(seed: u64) -> (SimNet, [SimHost; 2], SimHost) {
    let net = SimNet::new(seed);
    net.set_default_link(LinkConfig::delay(DELAY));
    let nat = net.nat(NatConfig::port_restricted(), Place::Internet);
    let hosts = [Place::Behind(nat); 2].map(|place| net.host_at(place));
    let outside = net.host();
    (net, hosts, outside)
}

async fn connect(one: &Endpoint, two: &Endpoint) -> (Connection, Connection) {
    let both = async { tokio::join!(one.connect(two.id()), two.accept()) };
    let (dialled, accepted) = timeout(PATIENCE, both).await.expect("in time");
    (dialled.expect("connected"), accepted.expect("accepted"))
}

/// The answer to what one side says on a stream of its own.
async fn talk(one: &Connection, two: &Connection) {
    let (mut send, mut receive) = one.open().await.expect("a stream");
    send.write_all(b"over the LAN").await.expect("sent");
    send.finish().expect("finished");
    let (mut back, mut heard) = two.accept().await.expect("a stream");
    let text = heard.read_to_end(100).await.expect("heard");
    back.write_all(&text).await.expect("sent back");
    back.finish().expect("finished");
    let answer = receive.read_to_end(100).await.expect("answered");
    assert_eq!(answer, b"over the LAN");
}

#[tokio::test(start_paused = true)]
async fn neighbours_talk_without_a_relay() {
    let (_net, hosts, _) = network(1);
    let one = endpoint(&hosts[0], 1, Discovery::Always);
    let two = endpoint(&hosts[1], 2, Discovery::Always);
    two.set_accepted(one.id(), true);
    one.set_addresses(two.id(), vec![place(&hosts[1], &two)]);
    let began = Instant::now();
    let (dialled, accepted) = connect(&one, &two).await;
    talk(&dialled, &accepted).await;
    let took = began.elapsed();
    // A knock and its answer, a probe and its answer, QUIC's handshake, the words: five round trips, and the first
    // look at the interfaces.
    assert!(took < Duration::from_millis(100), "{took:?}");
    for (connection, host) in [(&dialled, &hosts[1]), (&accepted, &hosts[0])] {
        let path = *connection.path().borrow();
        assert_eq!(path.kind, PathKind::Direct);
        assert_eq!(path.remote.map(|at| at.ip()), Some(host.address()));
    }
    assert!(one.watch_peers().borrow().contains(&two.id()), "it is seen");
}

#[tokio::test(start_paused = true)]
async fn both_may_dial_at_once() {
    let (_net, hosts, _) = network(2);
    let one = endpoint(&hosts[0], 1, Discovery::Always);
    let two = endpoint(&hosts[1], 2, Discovery::Always);
    one.set_addresses(two.id(), vec![place(&hosts[1], &two)]);
    two.set_addresses(one.id(), vec![place(&hosts[0], &one)]);
    let both = async { tokio::join!(one.connect(two.id()), two.connect(one.id())) };
    let (first, second) = timeout(PATIENCE, both).await.expect("in time");
    let (first, second) = (first.expect("connected"), second.expect("connected"));
    assert!(first.is_dialler() != second.is_dialler(), "one connection");
    talk(&first, &second).await;
}

#[tokio::test(start_paused = true)]
async fn a_known_address_elsewhere_is_reached() {
    let (net, hosts, outside) = network(3);
    net.set_default_link(LinkConfig::delay(Duration::from_millis(20)));
    let one = endpoint(&hosts[0], 1, Discovery::Always);
    let two = endpoint(&outside, 2, Discovery::Always);
    two.set_accepted(one.id(), true);
    one.set_addresses(two.id(), vec![place(&outside, &two)]);
    let (dialled, accepted) = connect(&one, &two).await;
    talk(&dialled, &accepted).await;
    let remote = accepted.path().borrow().remote.map(|at| at.ip());
    assert_ne!(remote, Some(hosts[0].address()), "behind its NAT");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_there_is_not_reached() {
    let (_net, hosts, _) = network(4);
    let one = endpoint(&hosts[0], 1, Discovery::Always);
    let nobody = Identity::from_secret([9; 32]).id();
    let error = timeout(PATIENCE, one.connect(nobody))
        .await
        .expect("in time");
    assert!(matches!(error, Err(ConnectError::NotOnline(who)) if who == nobody));
    one.set_addresses(nobody, vec![SocketAddr::new(hosts[1].address(), 4_000)]);
    let error = timeout(PATIENCE, one.connect(nobody))
        .await
        .expect("in time");
    assert!(matches!(error, Err(ConnectError::TimedOut(who)) if who == nobody));
    let off = endpoint(&hosts[1], 3, Discovery::Off);
    let error = off.connect(nobody).await;
    assert!(matches!(error, Err(ConnectError::RelayUnreachable(_))));
}

/// The sizes of what comes back to a plain socket that sends these packets to an endpoint.
async fn answers(host: &SimHost, to: SocketAddr, packets: &[Vec<u8>]) -> Vec<usize> {
    let socket = host.udp(0);
    for packet in packets {
        socket.send_to(packet, to).expect("sent");
    }
    let mut sizes = Vec::new();
    while let Ok((packet, _)) = timeout(Duration::from_secs(5), socket.recv_from()).await {
        sizes.push(packet.len());
    }
    sizes
}

#[tokio::test(start_paused = true)]
async fn a_stranger_gets_no_answer() {
    let (_net, hosts, _) = network(5);
    let two = endpoint(&hosts[1], 2, Discovery::Always);
    let friend = Identity::from_secret([1; 32]);
    let stranger = Identity::from_secret([7; 32]);
    two.set_accepted(friend.id(), true);
    sleep(Duration::from_secs(1)).await;
    let knock = |from: &Identity, sealer: &Identity| {
        let offer = p2p_net_proto::wire::Offer {
            session: [5; 16],
            nonce: [6; 16],
            candidates: vec![p2p_net_proto::Candidate {
                kind: p2p_net_proto::CandidateKind::Host,
                address: SocketAddr::new(hosts[0].address(), 5_000),
            }],
            relay_rtt_micros: 0,
        };
        let body = p2p_net_proto::codec::to_body(&offer).expect("an offer");
        let sealed = p2p_net_proto::seal(sealer, &two.id(), signal::OFFER, 9, &body, [3; 32]);
        let unix_secs = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let knock = Knock {
            from: from.id(),
            unix_secs,
            kind: signal::OFFER,
            sealed: sealed.expect("a good key"),
        };
        knock.seal(&two.id(), [4; 32]).expect("it fits").to_vec()
    };
    let to = place(&hosts[1], &two);
    let genuine = knock(&friend, &friend);
    let hopeless = [
        knock(&stranger, &stranger),
        // In a contact's name.
        knock(&friend, &stranger),
        vec![0x23; KNOCK_LEN],
        genuine[..KNOCK_LEN - 1].to_vec(),
        // QUIC's first packet.
        vec![0xc3; 1_200],
    ];
    assert_eq!(answers(&hosts[0], to, &hopeless).await, [0; 0]);
    // The positive control: a contact gets one Answer, as long as the question, and a neighbour some probes.
    let told = answers(&hosts[0], to, std::slice::from_ref(&genuine)).await;
    assert_eq!(told.first(), Some(&KNOCK_LEN));
    assert!(told[1..].iter().all(|size| *size == PROBE_LEN), "{told:?}");
    assert!(told.len() <= 10, "{told:?}");
    assert_eq!(answers(&hosts[0], to, &[genuine]).await, [0; 0], "replayed");
}
