//! Who gets in, who does not, and what both are told.

use crate::client::{Client, identity, relay, relay_with, soon, stranger};
use p2p_net_proto::wire::{FromRelay, Goodbye, Hello, ObservedNow, Ping, Pong, Refused, reason};
use quinn::{ConnectionError, VarInt};

fn refusal(message: FromRelay) -> Refused {
    match message {
        FromRelay::Refused(refused) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

async fn closed_with(client: &Client, code: u16) {
    match soon(client.connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, VarInt::from(u32::from(code)));
        }
        other => panic!("not closed by the relay: {other}"),
    }
}

#[tokio::test]
async fn the_right_token_is_welcome() {
    let relay = relay().await;
    let mut client = Client::connect(&relay, identity(1)).await;
    let welcome = client.welcome(relay.token()).await;
    assert_eq!(welcome.version, 1);
    assert_eq!(
        welcome.observed,
        client.endpoint.local_addr().expect("bound")
    );
    assert_eq!(welcome.alternate_port, Some(relay.port(1).port()));
    client.say(Ping { nonce: 77 }).await;
    assert_eq!(client.hear().await, Pong { nonce: 77 }.into());
    let stats = relay.relay.stats();
    assert_eq!((stats.peers, stats.refused_logins), (1, 0));
}

#[tokio::test]
async fn the_second_port_serves_as_well() {
    let relay = relay().await;
    let mut client = Client::connect_to(&relay, relay.port(1), identity(1)).await;
    let welcome = client.welcome(relay.token()).await;
    assert_eq!(welcome.alternate_port, Some(relay.port(0).port()));
}

#[tokio::test]
async fn a_wrong_or_missing_token_is_refused_with_a_reason() {
    let relay = relay().await;
    for token in [None, Some(String::new()), Some("a".repeat(26))] {
        let mut client = Client::connect(&relay, stranger()).await;
        let refused = refusal(client.hello(token).await);
        assert_eq!(refused.code, reason::TOKEN);
        assert!(
            refused.message.contains("address"),
            "says what to do: {}",
            refused.message
        );
        assert_eq!(client.next().await, None);
        closed_with(&client, reason::TOKEN).await;
    }
    assert_eq!(relay.relay.stats().refused_logins, 3);
    assert_eq!(relay.relay.stats().peers, 0);
}

#[tokio::test]
async fn the_list_and_openness_spare_the_token() {
    let friend = identity(1);
    let id = friend.id();
    let listed = relay_with(|config| config.allow.push(id)).await;
    Client::connect(&listed, friend).await.welcome(None).await;
    let mut other = Client::connect(&listed, stranger()).await;
    assert_eq!(refusal(other.hello(None).await).code, reason::NOT_ALLOWED);
    let open = relay_with(|config| config.open = true).await;
    Client::connect(&open, stranger()).await.welcome(None).await;
}

#[tokio::test]
async fn unknown_versions_are_refused() {
    let relay = relay().await;
    let mut client = Client::connect(&relay, stranger()).await;
    let hello = Hello {
        versions: vec![999],
        capabilities: Vec::new(),
        token: relay.token(),
    };
    client.say(hello).await;
    assert_eq!(refusal(client.hear().await).code, reason::VERSION);
}

#[tokio::test]
async fn a_full_relay_says_so_and_when_to_come_again() {
    let relay = relay_with(|config| config.limits.peers = 1).await;
    let _first = relay.login(1).await;
    let mut second = Client::connect(&relay, stranger()).await;
    let refused = refusal(second.hello(relay.token()).await);
    assert_eq!(refused.code, reason::FULL);
    assert!(refused.retry_after > 0);
}

#[tokio::test]
async fn the_newest_login_wins() {
    let relay = relay().await;
    let mut old = relay.login(1).await;
    let mut new = relay.login(1).await;
    match old.hear().await {
        FromRelay::Goodbye(Goodbye { code, .. }) => assert_eq!(code, reason::REPLACED),
        other => panic!("not replaced: {other:?}"),
    }
    closed_with(&old, reason::REPLACED).await;
    new.say(Ping { nonce: 1 }).await;
    assert_eq!(new.hear().await, Pong { nonce: 1 }.into());
    assert_eq!(relay.relay.stats().peers, 1);
}

#[tokio::test]
async fn who_says_no_hello_is_closed() {
    let relay = relay().await;
    let mut silent = Client::connect(&relay, stranger()).await;
    // The stream exists for the relay from its first byte on.
    silent.send.write_all(&[0]).await.expect("written");
    closed_with(&silent, reason::PROTOCOL).await;
    let mut rude = Client::connect(&relay, stranger()).await;
    rude.say(Ping { nonce: 1 }).await;
    closed_with(&rude, reason::PROTOCOL).await;
}

#[tokio::test]
async fn a_moved_client_is_told_its_new_address() {
    let relay = relay().await;
    let mut client = relay.login(1).await;
    let (socket, packets) = crate::client::TestSocket::bind();
    client
        .endpoint
        .rebind_abstract(socket.clone())
        .expect("rebound");
    client.packets = packets;
    client.say(Ping { nonce: 1 }).await;
    let mut told = Vec::new();
    while told.len() < 2 {
        told.push(client.hear().await);
    }
    let address = client.endpoint.local_addr().expect("bound");
    assert!(told.contains(&ObservedNow { address }.into()), "{told:?}");
    assert!(told.contains(&Pong { nonce: 1 }.into()), "{told:?}");
}

#[tokio::test]
async fn a_shutdown_is_announced() {
    let relay = relay().await;
    let mut clients = Vec::new();
    for n in 1..=5 {
        clients.push(relay.login(n).await);
    }
    let crate::client::TestRelay {
        relay,
        folder: _folder,
    } = relay;
    let stopping = tokio::spawn(relay.shutdown());
    for client in &mut clients {
        match client.hear().await {
            FromRelay::Goodbye(Goodbye { code, .. }) => assert_eq!(code, reason::SHUTDOWN),
            other => panic!("not a goodbye: {other:?}"),
        }
        closed_with(client, reason::SHUTDOWN).await;
    }
    soon(stopping).await.expect("stopped");
}
