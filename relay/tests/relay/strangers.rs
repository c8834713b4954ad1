//! What anybody can do without a token: ask STUN, send garbage, knock too often, break the framing.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::client::{
    Client, TestRelay, TestSocket, channel, client_config, client_endpoint, identity, relay,
    relay_with, soon, stranger,
};
use p2p_net_proto::stun;
use p2p_net_proto::wire::{FromRelay, Goodbye, Hello, Ping, Pong, Signal, ToRelay, reason};
use quinn::ConnectionError;
use rand::RngExt;
use tokio::task::JoinSet;

async fn ask(from: &tokio::net::UdpSocket, to: SocketAddr, question: &[u8]) -> Vec<u8> {
    from.send_to(question, to).await.expect("sent");
    let mut answer = [0; 2_048];
    let (len, source) = soon(from.recv_from(&mut answer)).await.expect("an answer");
    assert_eq!(source, to, "the answer comes from where the question went");
    answer[..len].to_vec()
}

#[tokio::test]
async fn stun_is_answered_on_both_ports() {
    let relay = relay().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a port");
    for index in 0..2 {
        let answer = ask(&socket, relay.port(index), &stun::request([9; 12])).await;
        // RFC 8489 §5 and §14.2, byte by byte.
        assert_eq!(answer.len(), 32);
        assert_eq!(answer[..4], [0x01, 0x01, 0x00, 0x0c]);
        assert_eq!(answer[4..8], [0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(answer[8..20], [9; 12]);
        assert_eq!(answer[20..26], [0x00, 0x20, 0x00, 0x08, 0x00, 0x01]);
        let port = socket.local_addr().expect("bound").port() ^ 0x2112;
        assert_eq!(answer[26..28], port.to_be_bytes());
        assert_eq!(answer[28..], [127 ^ 0x21, 0x12, 0xa4, 1 ^ 0x42]);
    }
    assert_eq!(relay.relay.stats().stun_answers, 2);
}

#[tokio::test]
async fn ipv6_and_dual_stack_tell_plain_addresses() {
    let Ok(socket) = tokio::net::UdpSocket::bind("[::1]:0").await else {
        eprintln!("SKIPPED: this machine has no IPv6 loopback");
        return;
    };
    let any = |config: &mut relay::Config| {
        config.listen = vec!["[::]:0".parse().expect("an address")];
    };
    let relay = relay_with(any).await;
    let port = relay.port(0).port();
    let answer = ask(
        &socket,
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
        &stun::request([1; 12]),
    )
    .await;
    assert_eq!(answer.len(), 44);
    let told = stun::parse_answer(&answer).expect("an answer").mapped;
    assert_eq!(told, socket.local_addr().expect("bound"));
    let v4 = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let answer = ask(
        &v4,
        SocketAddr::from(([127, 0, 0, 1], port)),
        &stun::request([1; 12]),
    )
    .await;
    assert_eq!(answer.len(), 32);
    assert_eq!(
        stun::parse_answer(&answer).expect("an answer").mapped,
        v4.local_addr().expect("bound")
    );
    // Control over IPv4 on the same socket: the observed address is no v4-mapped one.
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = Client::connect_to(&relay, to, stranger()).await;
    let welcome = client.welcome(relay.token()).await;
    assert_eq!(
        welcome.observed,
        client.endpoint.local_addr().expect("bound")
    );
    let mut other = Client::connect_to(&relay, to, stranger()).await;
    other.welcome(relay.token()).await;
    let (_, mut a, b) = channel(&mut client, &mut other).await;
    client.socket.send(to, &a.pack(b"mapped")).await;
    assert_eq!(b.unpack(&other.packet().await), b"mapped");
}

#[tokio::test]
async fn stun_is_limited_for_each_source() {
    let relay = relay_with(|config| config.limits.stun_per_second = 1).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a port");
    ask(&socket, relay.port(0), &stun::request([0; 12])).await;
    for n in 0..50 {
        socket
            .send_to(&stun::request([n; 12]), relay.port(0))
            .await
            .expect("sent");
    }
    relay
        .until(|stats| stats.stun_answers + stats.dropped_packets == 51)
        .await;
    assert!(relay.relay.stats().dropped_packets >= 20);
}

/// Whether the independent STUN client of Debian's `coturn` package agrees, where it is installed.
#[tokio::test]
async fn an_independent_stun_client_agrees() {
    let relay = relay().await;
    let port = relay.port(0).port().to_string();
    let run = tokio::process::Command::new("turnutils_stunclient")
        .args(["-p", &port, "127.0.0.1"])
        .kill_on_drop(true)
        .output();
    match soon(run).await {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("UDP reflexive addr: 127.0.0.1:"), "{text}");
        }
        Err(error) => eprintln!("SKIPPED: turnutils_stunclient: {error}"),
    }
}

fn garbage() -> Vec<Vec<u8>> {
    let mut rng = rand::rng();
    let mut packets: Vec<Vec<u8>> = (0..=255u8).map(|first| vec![first]).collect();
    for first in 0..=255u8 {
        for length in [2, 16, 20, 24, 64, 1_200, 1_472] {
            let mut packet: Vec<u8> = (0..length).map(|_| rng.random()).collect();
            packet[0] = first;
            packets.push(packet);
        }
    }
    packets.push(Vec::new());
    packets
}

#[tokio::test]
async fn a_flood_of_garbage_hurts_nobody() {
    let relay = relay().await;
    let (mut one, mut two) = (relay.login(1).await, relay.login(2).await);
    let (_, mut a, b) = channel(&mut one, &mut two).await;
    let flooder = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (mut to_relay, mut from_relay) = (0, 0);
    flooder.set_nonblocking(true).expect("set");
    for packet in garbage() {
        for index in 0..2 {
            to_relay += flooder.send_to(&packet, relay.port(index)).unwrap_or(0);
        }
        // And from a client's own address.
        one.socket.send(one.relay, &packet).await;
        let mut answer = [0; 2_048];
        while let Ok((length, _)) = flooder.recv_from(&mut answer) {
            from_relay += length;
        }
    }
    assert!(
        from_relay <= to_relay,
        "{from_relay} bytes out for {to_relay} in"
    );
    one.say(Ping { nonce: 5 }).await;
    assert_eq!(one.hear().await, Pong { nonce: 5 }.into());
    one.socket.send(one.relay, &a.pack(b"still here")).await;
    loop {
        let packet = two.packet().await;
        if packet.len() > 16 {
            assert_eq!(b.unpack(&packet), b"still here");
            break;
        }
    }
    assert!(relay.relay.stats().dropped_packets > 1_000);
    assert_eq!(relay.relay.stats().peers, 2);
}

async fn expelled(client: &mut Client) {
    loop {
        match client.next().await {
            Some(FromRelay::Goodbye(Goodbye { code, message })) => {
                assert_eq!(code, reason::PROTOCOL);
                assert!(!message.is_empty());
                return;
            }
            Some(_) => {}
            None => panic!("ended without a word"),
        }
    }
}

#[tokio::test]
async fn broken_frames_end_a_session_with_a_word() {
    let relay = relay().await;
    let frames: [&[u8]; 4] = [
        // Oversized, too short, a malformed ping, and a hostile length inside a body.
        &[0, 1, 0, 1, 0, 0x40],
        &[0, 0, 0, 1],
        &[0, 0, 0, 2, 0, 0x40],
        &[
            0, 0, 0, 11, 0, 0x20, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ],
    ];
    for frame in frames {
        let mut client = relay.login(1).await;
        client.send.write_all(frame).await.expect("written");
        expelled(&mut client).await;
    }
    relay.until(|stats| stats.peers == 0).await;
}

#[tokio::test]
async fn truncated_frames_end_with_their_stream() {
    let relay = relay().await;
    let mut client = relay.login(1).await;
    client
        .send
        .write_all(&[0, 0, 0xff, 0xff, 0, 0x40, 1, 2, 3])
        .await
        .expect("written");
    client.send.finish().expect("open");
    assert_eq!(client.next().await, None);
    relay.until(|stats| stats.peers == 0).await;
}

#[tokio::test]
async fn unknown_kinds_are_skipped() {
    let relay = relay().await;
    let mut client = Client::connect(&relay, identity(1)).await;
    let unknown = [0, 0, 0, 6, 0x7a, 0xbc, 1, 2, 3, 4];
    let hello = Hello {
        versions: vec![1],
        capabilities: Vec::new(),
        token: relay.token(),
    };
    let mut bytes = unknown.to_vec();
    bytes.extend(ToRelay::from(hello).encode().expect("small"));
    bytes.extend(unknown);
    bytes.extend(ToRelay::from(Ping { nonce: 3 }).encode().expect("small"));
    // In pieces of one byte.
    for byte in bytes {
        client.send.write_all(&[byte]).await.expect("written");
    }
    assert!(matches!(client.hear().await, FromRelay::Welcome(_)));
    assert_eq!(client.hear().await, Pong { nonce: 3 }.into());
}

/// A client that takes next to nothing from its stream.
async fn deaf(relay: &TestRelay, n: u8) -> Client {
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window(1_024u32.into())
        .receive_window(1_024u32.into());
    let mut config = client_config(&relay.relay.address(), &identity(n));
    config.transport_config(Arc::new(transport));
    let mut client = Client::dial_with(config, relay.port(0), identity(n).id()).await;
    client.welcome(relay.token()).await;
    client
}

#[tokio::test]
async fn who_cannot_keep_up_is_spared_and_others_are_told() {
    let relay = relay().await;
    let (deaf, mut one) = (deaf(&relay, 1).await, relay.login(2).await);
    let signal = Signal {
        to: deaf.id,
        kind: 1,
        attest: false,
        sealed: vec![1; 16_000],
    };
    let refused = async {
        // A first refusal comes when half of what may wait does.
        for _ in 0..100 {
            one.say(signal.clone()).await;
        }
        one.hear().await
    };
    match soon(refused).await {
        FromRelay::Refused(refused) => assert_eq!(refused.code, reason::LIMITED),
        other => panic!("not refused: {other:?}"),
    }
    assert!(deaf.connection.close_reason().is_none());
}

#[tokio::test]
async fn who_asks_and_never_listens_is_closed() {
    let relay = relay().await;
    let (mut deaf, mut one) = (deaf(&relay, 1).await, relay.login(2).await);
    let ping = ToRelay::from(Ping { nonce: 1 }).encode().expect("small");
    // Written as long as the relay takes it: it answers until 1,024 answers wait.
    while deaf.send.write_all(&ping.repeat(100)).await.is_ok() {}
    match soon(deaf.connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, u32::from(reason::LIMITED).into());
        }
        other => panic!("not closed by the relay: {other}"),
    }
    one.say(Ping { nonce: 2 }).await;
    assert_eq!(one.hear().await, Pong { nonce: 2 }.into());
    relay.until(|stats| stats.peers == 1).await;
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    welcome: u32,
    told: u32,
    refused: u32,
}

async fn try_register(
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    to: SocketAddr,
    token: Option<String>,
) -> Outcome {
    let connecting = endpoint
        .connect_with(config, to, "landline-relay")
        .expect("dialled");
    let connection = match soon(connecting).await {
        Ok(connection) => connection,
        Err(ConnectionError::ConnectionClosed(close)) => {
            assert_eq!(
                close.error_code,
                quinn::TransportErrorCode::CONNECTION_REFUSED,
                "{close}"
            );
            return Outcome {
                refused: 1,
                ..Outcome::default()
            };
        }
        Err(other) => panic!("neither accepted nor refused: {other}"),
    };
    let (mut send, mut recv) = soon(connection.open_bi()).await.expect("a stream");
    let hello = Hello {
        versions: vec![1],
        capabilities: Vec::new(),
        token,
    };
    send.write_all(&ToRelay::from(hello).encode().expect("small"))
        .await
        .expect("written");
    let mut decoder = p2p_net_proto::codec::FrameDecoder::default();
    let frame = loop {
        let chunk = soon(recv.read_chunk(4_096, true))
            .await
            .expect("open")
            .expect("an answer");
        decoder.push(&chunk.bytes);
        if let Some(frame) = decoder.next_frame().expect("frames") {
            break frame;
        }
    };
    match FromRelay::decode(&frame).expect("well formed") {
        Some(FromRelay::Welcome(_)) => Outcome {
            welcome: 1,
            ..Outcome::default()
        },
        Some(FromRelay::Refused(refused)) => {
            assert_eq!(refused.code, reason::LIMITED);
            assert!(refused.retry_after > 0 && refused.message.contains("too many connections"));
            Outcome {
                told: 1,
                ..Outcome::default()
            }
        }
        other => panic!("neither welcome nor refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_registrations_meet_their_limit() {
    const TRIES: u32 = 10_000;
    const AT_ONCE: usize = 64;
    let relay = relay().await;
    let started = std::time::Instant::now();
    let (socket, _packets) = TestSocket::bind();
    let endpoint = client_endpoint(socket);
    let config = client_config(&relay.relay.address(), &stranger());
    let mut tasks = JoinSet::new();
    let mut sum = Outcome::default();
    let mut add = |outcome: Outcome| {
        sum.welcome += outcome.welcome;
        sum.told += outcome.told;
        sum.refused += outcome.refused;
    };
    for _ in 0..TRIES {
        if tasks.len() == AT_ONCE
            && let Some(outcome) = tasks.join_next().await
        {
            add(outcome.expect("no panic"));
        }
        tasks.spawn(try_register(
            endpoint.clone(),
            config.clone(),
            relay.port(0),
            relay.token(),
        ));
    }
    while let Some(outcome) = tasks.join_next().await {
        add(outcome.expect("no panic"));
    }
    let seconds = started.elapsed().as_secs() as u32 + 1;
    eprintln!("{sum:?} in {seconds} s");
    assert_eq!(sum.welcome + sum.told + sum.refused, TRIES);
    assert!(sum.welcome >= 60, "who keeps the limit gets in: {sum:?}");
    assert!(sum.welcome <= 120 + 2 * seconds, "the limit holds: {sum:?}");
    assert!(
        sum.told > 0 && sum.told <= 40 + 20 * seconds,
        "some learn why: {sum:?}"
    );
    assert!(relay.relay.stats().refused_logins >= u64::from(sum.told + sum.refused));
    // One identity: whatever was tried, at most one login is left, and none when the client is
    // gone.
    assert!(relay.relay.stats().peers <= 1);
    endpoint.close(0u32.into(), b"");
    relay.until(|stats| stats.peers == 0).await;
}
