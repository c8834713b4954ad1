//! The TCP port: pages for strangers, logins for clients, and nothing for garbage.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use p2p_net_proto::carriage::{self, Carried};
use p2p_net_proto::tls::{self, RelayTrust};
use p2p_net_proto::wire::{FromRelay, Hello, Ping, ToRelay, reason};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::{TestRelay, identity, relay, relay_with, soon};

/// A browser has no certificate.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn config(relay: &TestRelay, n: u8) -> Arc<ClientConfig> {
    let fingerprint = relay.relay.address().fingerprint.expect("a fingerprint");
    let trust = RelayTrust::Pinned(fingerprint);
    let (config, _) = tls::relay_client_tcp(&identity(n), trust).expect("a configuration");
    config
}

async fn secure(relay: &TestRelay, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let address = relay.relay.tcp_addresses()[0];
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::from(address.ip());
    let connecting = TlsConnector::from(config).connect(name, stream);
    soon(connecting).await.expect("a handshake")
}

/// What a relay answers to a request.
async fn page(relay: &TestRelay, config: Arc<ClientConfig>, request: &str) -> String {
    let mut stream = secure(relay, config).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer))
        .await
        .expect("an answer");
    answer
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn socket(relay: &TestRelay, n: u8) -> Socket {
    let stream = secure(relay, config(relay, n)).await;
    let mut request = format!("wss://relay{}", carriage::PATH)
        .into_client_request()
        .expect("a request");
    let protocol = HeaderValue::from_static(carriage::SUBPROTOCOL);
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", protocol);
    let (socket, answer) = soon(client_async(request, stream)).await.expect("upgraded");
    assert_eq!(
        answer.headers()["Sec-WebSocket-Protocol"],
        carriage::SUBPROTOCOL
    );
    socket
}

async fn say(socket: &mut Socket, message: impl Into<ToRelay>) {
    let frame = message.into().encode().expect("small");
    socket.send(Message::binary(frame)).await.expect("sent");
}

/// The next control message, or `None` at the end.
async fn hear(socket: &mut Socket) -> Option<FromRelay> {
    let Ok(Message::Binary(bytes)) = soon(socket.next()).await? else {
        return None;
    };
    match carriage::read_message(bytes) {
        Ok(Carried::Frame(frame)) => FromRelay::decode(&frame).expect("understood"),
        other => panic!("{other:?}"),
    }
}

fn hello(token: Option<String>) -> Hello {
    Hello {
        versions: vec![1],
        capabilities: Vec::new(),
        token,
    }
}

#[tokio::test]
async fn strangers_see_pages_and_no_websocket() {
    let relay = relay().await;
    let mut browser = Arc::unwrap_or_clone(config(&relay, 1));
    browser.client_auth_cert_resolver = Arc::new(NoCertificate);
    let browser = Arc::new(browser);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n");
    for (path, status) in [
        ("/", "200 OK"),
        ("/healthz", "200 OK"),
        ("/admin", "404 Not"),
    ] {
        let answer = page(&relay, browser.clone(), &ask(path)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    let upgrade = format!(
        "GET {} HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {}\r\n\r\n",
        carriage::PATH,
        carriage::SUBPROTOCOL
    );
    let answer = page(&relay, browser.clone(), &upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    // The same with a certificate opens the WebSocket.
    let mut stream = secure(&relay, config(&relay, 1)).await;
    stream.write_all(upgrade.as_bytes()).await.expect("sent");
    let mut status = [0; 12];
    soon(stream.read_exact(&mut status))
        .await
        .expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 101");
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(carriage::MAX_HEAD));
    let answer = page(&relay, browser, &endless).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_client_logs_in_asks_and_is_replaced_by_its_next_login() {
    let relay = relay().await;
    let mut first = socket(&relay, 1).await;
    say(&mut first, hello(relay.token())).await;
    let Some(FromRelay::Welcome(welcome)) = hear(&mut first).await else {
        panic!("a welcome");
    };
    assert!(welcome.observed.ip().is_loopback());
    assert_eq!(welcome.alternate_port, Some(relay.port(1).port()));
    assert_eq!(relay.relay.stats().tcp_peers, 1);
    say(&mut first, Ping { nonce: 5 }).await;
    assert!(matches!(hear(&mut first).await, Some(FromRelay::Pong(pong)) if pong.nonce == 5));
    // The same identity over UDP: the newest login counts.
    let _second = relay.login(1).await;
    let told = hear(&mut first).await;
    assert!(
        matches!(&told, Some(FromRelay::Goodbye(goodbye)) if goodbye.code == reason::REPLACED),
        "{told:?}"
    );
    assert!(hear(&mut first).await.is_none());
    relay
        .until(|stats| stats.tcp_peers == 0 && stats.peers == 1)
        .await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_its_reason() {
    let relay = relay().await;
    let mut client = socket(&relay, 1).await;
    say(&mut client, hello(Some("a".repeat(26)))).await;
    let told = hear(&mut client).await;
    assert!(
        matches!(&told, Some(FromRelay::Refused(refused)) if refused.code == reason::TOKEN),
        "{told:?}"
    );
    assert!(hear(&mut client).await.is_none());
    let stats = relay.relay.stats();
    assert_eq!(
        (stats.peers, stats.tcp_peers, stats.refused_logins),
        (0, 0, 1)
    );
}

#[tokio::test]
async fn whoever_breaks_the_rules_is_cut_off() {
    let relay = relay().await;
    // Before the hello: relayed data, another message, text.
    let packet = [[0x98].as_slice(), &[0; 40]].concat();
    let ping = ToRelay::from(Ping { nonce: 1 }).encode().expect("small");
    for rude in [
        Message::binary(packet.clone()),
        Message::binary(ping.clone()),
        Message::text("hello"),
        Message::binary(vec![0xff; 9]),
    ] {
        let mut client = socket(&relay, 1).await;
        client.send(rude).await.expect("sent");
        assert!(hear(&mut client).await.is_none());
    }
    // After it: a packet of no channel is only dropped, half a frame is the end.
    let mut client = socket(&relay, 1).await;
    say(&mut client, hello(relay.token())).await;
    assert!(matches!(
        hear(&mut client).await,
        Some(FromRelay::Welcome(_))
    ));
    let before = relay.relay.stats().dropped_packets;
    client.send(Message::binary(packet)).await.expect("sent");
    relay
        .until(|stats| stats.dropped_packets == before + 1)
        .await;
    let half = Message::binary(ping[..ping.len() - 1].to_vec());
    client.send(half).await.expect("sent");
    let told = hear(&mut client).await;
    assert!(
        matches!(&told, Some(FromRelay::Goodbye(goodbye)) if goodbye.code == reason::PROTOCOL),
        "{told:?}"
    );
    assert!(hear(&mut client).await.is_none());
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let relay = relay().await;
    let address = relay.relay.tcp_addresses()[0];
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0; 100],
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(garbage).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        // At most an alert of TLS, and then the end, however it comes.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 16, "{answer:?}");
    }
    let mut client = socket(&relay, 1).await;
    say(&mut client, hello(relay.token())).await;
    assert!(matches!(
        hear(&mut client).await,
        Some(FromRelay::Welcome(_))
    ));
}

#[tokio::test]
async fn a_source_has_a_limited_number_of_connections() {
    let relay = relay_with(|config| config.limits.connections_per_source = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(secure(&relay, config(&relay, 1)).await);
    }
    let mut fourth = socket(&relay, 2).await;
    say(&mut fourth, hello(relay.token())).await;
    let told = hear(&mut fourth).await;
    assert!(
        matches!(&told, Some(FromRelay::Refused(refused)) if refused.code == reason::LIMITED),
        "{told:?}"
    );
    drop(held);
}

#[tokio::test]
async fn a_shutdown_is_told() {
    let relay = relay().await;
    let mut client = socket(&relay, 1).await;
    say(&mut client, hello(relay.token())).await;
    assert!(matches!(
        hear(&mut client).await,
        Some(FromRelay::Welcome(_))
    ));
    let TestRelay { relay, folder } = relay;
    soon(relay.shutdown()).await;
    let told = hear(&mut client).await;
    assert!(
        matches!(&told, Some(FromRelay::Goodbye(goodbye)) if goodbye.code == reason::SHUTDOWN),
        "{told:?}"
    );
    drop(folder);
}
