//! A relay and two peers on this machine: one dials the other through the relay, says something on both
//! sides of the switch to the direct path, and hears it back.
//!
//! `cargo run -p p2p-net --example echo`

use std::error::Error;
use std::time::Instant;

use p2p_net::{Config, Connection, Endpoint, Identity, PathKind, RelayAddress, RelayState};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let relay = relay::Relay::start(relay::Config::loopback(folder.path())).await?;
    eprintln!("relay at {}", relay.address().redacted());

    let alice = online([1; 32], relay.address()).await?;
    let bob = online([2; 32], relay.address()).await?;
    // Only accepted contacts learn our addresses; dialling accepts by itself.
    bob.set_accepted(alice.id(), true);
    let friend = bob.id();
    let serving = tokio::spawn(async move {
        if let Some(connection) = bob.accept().await {
            echo(&connection).await;
        }
        bob.close().await;
    });

    let began = Instant::now();
    let connection = alice.connect(friend).await?;
    say(&connection, "hello through the relay", began).await?;
    connection
        .path()
        .wait_for(|path| path.kind == PathKind::Direct)
        .await?;
    say(&connection, "hello straight", began).await?;
    connection.close(0, "done");
    alice.close().await;
    serving.await?;
    relay.shutdown().await;
    Ok(())
}

async fn online(secret: [u8; 32], relay: RelayAddress) -> Result<Endpoint, Box<dyn Error>> {
    let identity = Identity::from_secret(secret);
    let endpoint = Endpoint::bind(Config {
        identity,
        relay: Some(relay),
        port: 0,
        sockets: None,
    })?;
    endpoint
        .watch_relay()
        .wait_for(|state| matches!(state, RelayState::Online { .. }))
        .await?;
    eprintln!(
        "{} is online at port {}",
        endpoint.id().short(),
        endpoint.port()
    );
    Ok(endpoint)
}

async fn say(connection: &Connection, text: &str, began: Instant) -> Result<(), Box<dyn Error>> {
    let (mut send, mut receive) = connection.open().await?;
    send.write_all(text.as_bytes()).await?;
    send.finish()?;
    let echo = String::from_utf8(receive.read_to_end(1_000).await?)?;
    let kind = connection.path().borrow().kind;
    eprintln!(
        "{:>6.1} ms  {kind:?}: {echo}",
        began.elapsed().as_secs_f64() * 1_000.0
    );
    Ok(())
}

async fn echo(connection: &Connection) {
    while let Ok((mut send, mut receive)) = connection.accept().await {
        if let Ok(text) = receive.read_to_end(1_000).await {
            let _ = send.write_all(&text).await;
            let _ = send.finish();
        }
    }
}
