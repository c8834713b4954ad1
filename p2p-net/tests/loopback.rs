//! Endpoints and the real relay on loopback: what a program sees of connections.

mod blocked;
mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{
    Stand, ask, bind, echo, id, join, ordered, patient, wait_failed, wait_online, wait_path,
    wait_present,
};
use p2p_net::{
    AcceptError, ConnectError, Connection, ConnectionError, DatagramError, Endpoint, Fingerprint,
    PathKind, RelayAddress, RelayState,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams_cross_and_the_path_becomes_direct() {
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    two.set_accepted(one.id(), true);
    wait_present(&one, two.id(), true).await;
    let (dialled, accepted) = join(&one, &two).await;
    assert_eq!((dialled.peer(), accepted.peer()), (two.id(), one.id()));
    assert!(dialled.is_dialler() && !accepted.is_dialler());
    let echoing = echo(accepted.clone());
    assert_eq!(ask(&dialled, b"hello").await, b"hello");

    dialled
        .send_datagram(Bytes::from_static(b"\x00a datagram"))
        .expect("sent");
    let datagram = patient("a datagram", accepted.read_datagram())
        .await
        .expect("received");
    assert_eq!(&datagram[..], b"\x00a datagram");
    let reserved = dialled.send_datagram(Bytes::from_static(b"\xc0"));
    assert_eq!(reserved, Err(DatagramError::Reserved));

    wait_path(&dialled, PathKind::Direct).await;
    wait_path(&accepted, PathKind::Direct).await;
    let remote = dialled.path().borrow().remote.expect("an address");
    assert!(remote.ip().is_loopback() && remote.port() == two.port());
    let before = stand.relay().stats().relayed_packets;
    assert_eq!(ask(&dialled, &vec![7; 200_000]).await.len(), 200_000);
    let relayed = stand.relay().stats().relayed_packets - before;
    assert!(relayed < 20, "{relayed} packets went through the relay");
    let stats = dialled.stats();
    assert!(stats.direct_sent_bytes >= 200_000 && stats.direct_received_bytes >= 200_000);

    dialled.close(7, "enough");
    let end = patient("the end", accepted.closed()).await;
    assert_eq!(
        end,
        ConnectionError::ClosedByPeer {
            code: 7,
            reason: "enough".to_owned()
        }
    );
    assert_eq!(dialled.closed().await, ConnectionError::ClosedByUs);
    echoing.await.expect("the echo ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_connection_is_the_one_that_connect_gives() {
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    let (dialled, accepted) = join(&one, &two).await;
    let again = patient("connect", one.connect(two.id()))
        .await
        .expect("connected");
    let back = patient("connect", two.connect(one.id()))
        .await
        .expect("connected");
    assert!(again.is_dialler() && !back.is_dialler());
    assert!(!dialled.is_closed() && !accepted.is_closed());
    again.close(1, "");
    assert!(dialled.is_closed(), "it is the same connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_stays_on_the_relay_until_accepted() {
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    // The caller accepts the callee by calling; the callee knows nothing of the caller.
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    for _ in 0..20 {
        assert_eq!(ask(&dialled, &[1; 1_000]).await.len(), 1_000);
    }
    assert_eq!(dialled.path().borrow().kind, PathKind::Relayed);
    assert_eq!(accepted.path().borrow().kind, PathKind::Relayed);
    assert_eq!(
        (
            dialled.stats().direct_sent_bytes,
            accepted.stats().direct_sent_bytes
        ),
        (0, 0)
    );

    two.set_accepted(one.id(), true);
    wait_path(&dialled, PathKind::Direct).await;
    wait_path(&accepted, PathKind::Direct).await;
    assert_eq!(ask(&dialled, b"direct").await, b"direct");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_only_is_relay_only() {
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    two.set_accepted(one.id(), true);
    one.set_relay_only(two.id(), true);
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    for _ in 0..20 {
        assert_eq!(ask(&dialled, &[1; 1_000]).await.len(), 1_000);
    }
    assert_eq!(dialled.path().borrow().kind, PathKind::Relayed);
    assert_eq!(dialled.stats().direct_sent_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relayed_connection_survives_a_restart_of_the_relay() {
    let mut stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    one.set_relay_only(two.id(), true);
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    assert_eq!(ask(&dialled, b"before").await, b"before");
    stand.stop_relay().await;
    wait_path(&dialled, PathKind::None).await;
    stand.restart_relay().await;
    wait_online(&one).await;
    wait_path(&dialled, PathKind::Relayed).await;
    assert_eq!(ask(&dialled, b"after").await, b"after");
    assert!(!dialled.is_closed() && !accepted.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_connection_does_not_need_the_relay() {
    let mut stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    two.set_accepted(one.id(), true);
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted.clone());
    wait_path(&dialled, PathKind::Direct).await;
    wait_path(&accepted, PathKind::Direct).await;
    stand.stop_relay().await;
    let mut state = one.watch_relay();
    let lost = state.wait_for(|state| !matches!(state, RelayState::Online { .. }));
    patient("the loss", lost).await.expect("the endpoint lives");
    assert_eq!(ask(&dialled, b"without").await, b"without");
    assert_eq!(dialled.path().borrow().kind, PathKind::Direct);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_with_another_key_is_refused_and_named() {
    let stand = Stand::start().await;
    let expected = stand.address.fingerprint.expect("a fingerprint");
    let wrong = RelayAddress {
        fingerprint: Some(Fingerprint([1; 32])),
        ..stand.address.clone()
    };
    let endpoint = bind(1, Some(wrong));
    let error = wait_failed(&endpoint).await;
    assert_eq!(
        error,
        AcceptError::WrongKey {
            presented: Some(expected)
        }
    );
    let refused = patient("connect", endpoint.connect(id(2))).await;
    assert!(
        matches!(refused, Err(ConnectError::RelayUnreachable(_))),
        "{refused:?}"
    );

    let unnamed = RelayAddress {
        fingerprint: None,
        ..stand.address.clone()
    };
    let error = wait_failed(&bind(1, Some(unnamed))).await;
    assert_eq!(
        error,
        AcceptError::UnknownKey {
            presented: Some(expected)
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused_for_good() {
    let stand = Stand::start().await;
    for token in [None, Some("a".repeat(26).parse().expect("a token"))] {
        let endpoint = bind(
            1,
            Some(RelayAddress {
                token,
                ..stand.address.clone()
            }),
        );
        let error = wait_failed(&endpoint).await;
        assert!(
            matches!(error, AcceptError::Refused { code, ref message }
                if code == p2p_net_proto::wire::reason::TOKEN && !message.is_empty()),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_there_is_said_at_once() {
    let stand = Stand::start().await;
    let one = stand.online(1).await;
    let before = tokio::time::Instant::now();
    let error = patient("connect", one.connect(id(9)))
        .await
        .expect_err("nobody there");
    assert!(
        matches!(error, ConnectError::NotOnline(peer) if peer == id(9)),
        "{error:?}"
    );
    assert!(before.elapsed() < Duration::from_secs(5));
    let ourselves = one.connect(one.id()).await;
    assert!(matches!(ourselves, Err(ConnectError::Ourselves)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_relay_nobody_is_reached() {
    let endpoint = bind(1, None);
    assert_eq!(*endpoint.watch_relay().borrow(), RelayState::None);
    let error = patient("connect", endpoint.connect(id(2))).await;
    assert!(
        matches!(error, Err(ConnectError::RelayUnreachable(_))),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_waits_for_the_login() {
    let stand = Stand::start().await;
    let two = stand.online(2).await;
    let one = stand.endpoint(1);
    let (dialled, accepted) = join(&one, &two).await;
    let _echo = echo(accepted);
    assert_eq!(ask(&dialled, b"hello").await, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_login_of_an_identity_stays() {
    let stand = Stand::start().await;
    let first = stand.online(1).await;
    let second = stand.online(1).await;
    assert_eq!(wait_failed(&first).await, AcceptError::Replaced);
    assert!(matches!(
        *second.watch_relay().borrow(),
        RelayState::Online { .. }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dialling_at_once_end_with_one_connection() {
    let stand = Stand::start().await;
    for round in 0..12u8 {
        let (small, large) = ordered(10 + 2 * round, 11 + 2 * round);
        let (small, large) = (stand.online(small).await, stand.online(large).await);
        let (from_small, from_large) = patient("both", async {
            tokio::join!(small.connect(large.id()), large.connect(small.id()))
        })
        .await;
        let from_small = from_small.expect("connected");
        let from_large = from_large.expect("connected");
        assert_ne!(
            from_small.is_dialler(),
            from_large.is_dialler(),
            "round {round}"
        );
        let _echo = echo(from_large.clone());
        let text = [round; 100];
        assert_eq!(ask(&from_small, &text).await, text, "round {round}");
        assert!(
            !from_small.is_closed() && !from_large.is_closed(),
            "round {round}"
        );
        let (yielding, other) = match from_small.is_dialler() {
            true => (&large, &small),
            false => (&small, &large),
        };
        let accepted = patient("accept", yielding.accept())
            .await
            .expect("accepted");
        assert!(!accepted.is_closed() && accepted.peer() == other.id());
        small.close().await;
        large.close().await;
    }
}

/// A connection to `two` whose dialler's process died: it says nothing, its tasks are gone.
async fn stale(stand: &Stand, number: u8, two: &Endpoint) -> Connection {
    let (address, other) = (stand.address.clone(), two.id());
    let (send, done) = tokio::sync::oneshot::channel();
    let mortal = std::thread::Builder::new()
        .name("mortal".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let kept = runtime.block_on(async {
                let endpoint = bind(number, Some(address));
                let connection = patient("connect", endpoint.connect(other))
                    .await
                    .expect("connected");
                (endpoint, connection)
            });
            runtime.shutdown_background();
            // The handles outlive their tasks, so that nothing is sent on the way out.
            std::mem::forget(kept);
            let _ = send.send(());
        });
    let stale = patient("accept", two.accept()).await.expect("accepted");
    patient("death", done).await.expect("the process dies");
    mortal.expect("a thread").join().expect("no panic");
    stale
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_replaces_its_stale_connection() {
    let stand = Stand::start().await;
    let two = stand.online(2).await;
    let stale = stale(&stand, 1, &two).await;
    assert!(!stale.is_closed());
    let one = stand.online(1).await;
    let (dialled, fresh) = join(&one, &two).await;
    let _echo = echo(fresh);
    assert_eq!(ask(&dialled, b"again").await, b"again");
    let end = patient("the end", stale.closed()).await;
    let known = matches!(
        end,
        ConnectionError::Superseded | ConnectionError::Broken(_)
    );
    assert!(known, "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_ends_its_stale_connection_without_dialling() {
    let stand = Stand::start().await;
    let two = stand.online(2).await;
    let stale = stale(&stand, 1, &two).await;
    let one = stand.online(1).await;
    // Its new life declines a channel for a connection of the former one, or resets it.
    let end = patient("the end", stale.closed()).await;
    assert!(matches!(end, ConnectionError::Broken(_)), "{end:?}");
    let (dialled, accepted) = join(&two, &one).await;
    let _echo = echo(accepted);
    assert_eq!(ask(&dialled, b"again").await, b"again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_an_endpoint_tells_everybody() {
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    let (dialled, accepted) = join(&one, &two).await;
    patient("close", one.close()).await;
    let end = patient("the end", accepted.closed()).await;
    assert!(
        matches!(end, ConnectionError::ClosedByPeer { .. }),
        "{end:?}"
    );
    assert!(dialled.is_closed());
    assert!(patient("accept", one.accept()).await.is_none());
    assert!(matches!(
        one.connect(two.id()).await,
        Err(ConnectError::Closed)
    ));
    wait_present(&two, one.id(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_a_dial_up_leaves_nothing() {
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    // Given up at once, it may still have reached the other side; what matters is what comes after.
    let serving = two.clone();
    tokio::spawn(async move {
        while let Some(connection) = serving.accept().await {
            echo(connection);
        }
    });
    for round in 0..5u8 {
        {
            let attempt = one.connect(two.id());
            tokio::pin!(attempt);
            let once = std::future::poll_fn(|cx| std::task::Poll::Ready(attempt.as_mut().poll(cx)));
            drop(once.await);
        }
        let connection = patient("connect", one.connect(two.id()))
            .await
            .expect("connected");
        assert_eq!(ask(&connection, &[round]).await, [round]);
        connection.close(0, "next");
    }
}

/// The byte at this place of a long transfer, so that a lost, doubled or moved block shows.
fn byte_at(place: usize) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16) ^ (place >> 24)) as u8
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transfer_survives_changes_of_path() {
    const LENGTH: usize = 64 << 20;
    let stand = Stand::start().await;
    let (one, two) = (stand.online(1).await, stand.online(2).await);
    two.set_accepted(one.id(), true);
    let (dialled, accepted) = join(&one, &two).await;
    wait_path(&dialled, PathKind::Direct).await;
    let mut send = dialled.open_uni().await.expect("a stream");
    let sending = tokio::spawn(async move {
        for begin in (0..LENGTH).step_by(1 << 18) {
            let block: Vec<u8> = (begin..begin + (1 << 18)).map(byte_at).collect();
            send.write_chunk(block.into()).await.expect("sent");
        }
        send.finish().expect("finished");
        send.stopped().await.expect("acknowledged");
    });
    let mut receive = accepted.accept_uni().await.expect("a stream");
    let mut place = 0;
    let mut turns = 0;
    let reading = async {
        while let Some(chunk) = receive.read_chunk(1 << 20, true).await.expect("received") {
            for byte in &chunk.bytes[..] {
                assert_eq!(*byte, byte_at(place), "at {place}");
                place += 1;
            }
            // Eight changes on the way, each waited for while data flows.
            if place / (LENGTH / 9) > turns {
                turns += 1;
                let relayed = turns % 2 == 1;
                one.set_relay_only(two.id(), relayed);
                let kind = if relayed {
                    PathKind::Relayed
                } else {
                    PathKind::Direct
                };
                wait_path(&dialled, kind).await;
            }
        }
    };
    patient("the transfer", reading).await;
    patient("the end", sending).await.expect("sent");
    assert_eq!((place, turns), (LENGTH, 9));
    assert!(dialled.stats().path_switches >= 8, "{:?}", dialled.stats());
    assert!(
        dialled.stats().relayed_sent_bytes > 10 << 20,
        "{:?}",
        dialled.stats()
    );
}
