//! Deeds 1 to 3: the relay reads, alters, drops, reorders, duplicates and replays what it carries. All
//! connections stay on the relay.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use p2p_net::{Connection, PathKind};

use crate::malicious::{
    EvilRelay, PacketDeeds, Pair, becomes_direct, echo, no_panic, noise, within,
};

/// A datagram that says what it is: a number, then bytes that follow from it.
fn datagram(number: u64) -> Bytes {
    let mut bytes = vec![0x01];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&noise(number, 300));
    bytes.into()
}

/// Sends datagrams until `wanted` of them arrived; each must be one that was sent, unchanged.
async fn datagrams(from: &Connection, to: &Connection, base: u64, wanted: usize) -> usize {
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    let (mut number, mut arrived) = (base, HashSet::new());
    while arrived.len() < wanted {
        tokio::select! {
            _ = pace.tick() => {
                from.send_datagram(datagram(number)).expect("a living connection");
                number += 1;
            }
            heard = to.read_datagram() => {
                let heard = heard.expect("a living connection");
                let bytes: [u8; 8] = heard[1..9].try_into().expect("8 bytes");
                let which = u64::from_be_bytes(bytes);
                assert!((base..number).contains(&which), "a datagram that was never sent");
                assert_eq!(heard, datagram(which), "a datagram arrived altered");
                assert!(arrived.insert(which), "a datagram arrived twice");
            }
        }
    }
    arrived.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_everything_and_learns_nothing() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(11);
    let pair = Pair::relay_only(&relay, 11).await;
    let (alice, bob) = pair.connect().await;
    let text = b"Meet me at the old mill at nine, bring the blue folder. ".repeat(40);
    let entropy = noise(11, 100_000);
    let spoken =
        b"\x01this datagram is a spoken word that only two people should ever hear".to_vec();
    within(20, "talking through a relay that listens", async {
        echo(&alice, &bob, &text).await;
        echo(&bob, &alice, &entropy).await;
        // Datagrams may be lost: say it until it was heard.
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    alice.send_datagram(spoken.clone().into()).expect("a living connection");
                }
                heard = bob.read_datagram() => break assert_eq!(heard.expect("heard"), spoken),
            }
        }
    })
    .await;
    assert_eq!(alice.path().borrow().kind, PathKind::Relayed);
    assert_eq!(bob.path().borrow().kind, PathKind::Relayed);
    let carried = relay.record().relayed_bytes();
    let said = 2 * (text.len() + entropy.len());
    assert!(
        carried > said,
        "only {carried} of {said} bytes passed the relay"
    );
    let keys = [pair.alice_identity().secret(), pair.bob_identity().secret()];
    let shared = pair
        .alice_identity()
        .shared_secret(&pair.bob.id())
        .expect("honest keys");
    let secrets: [&[u8]; 6] = [&text, &entropy, &spoken, &keys[0], &keys[1], &shared];
    for (which, secret) in secrets.into_iter().enumerate() {
        assert!(
            !relay.record().contains(secret),
            "the relay saw secret {which} in clear"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_packets_are_intact_or_absent() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(12);
    let pair = Pair::relay_only(&relay, 12).await;
    let (alice, bob) = pair.connect().await;
    within(40, "talking through a relay that alters", async {
        relay.packets(PacketDeeds {
            alter: 25,
            ..PacketDeeds::default()
        });
        datagrams(&alice, &bob, 1_000, 50).await;
        datagrams(&bob, &alice, 5_000, 50).await;
        echo(&alice, &bob, &noise(12, 40_000)).await;
        // For a while nothing comes through whole.
        relay.packets(PacketDeeds {
            alter: 100,
            ..PacketDeeds::default()
        });
        let before = relay.seen(|seen| seen.altered);
        let (mut send, _receive) = alice.open().await.expect("a stream");
        send.write_all(b"said while every packet is altered")
            .await
            .expect("queued");
        send.finish().expect("finished");
        relay.until(|state| state.seen.altered >= before + 5).await;
        relay.behave();
        let (_, mut heard) = bob
            .accept()
            .await
            .expect("the stream comes through after all");
        let heard = heard.read_to_end(1_000).await.expect("whole");
        assert_eq!(heard, b"said while every packet is altered");
        echo(&bob, &alice, &noise(13, 20_000)).await;
    })
    .await;
    assert!(relay.seen(|seen| seen.altered) >= 20);
    assert!(!alice.is_closed() && !bob.is_closed());
    assert_eq!(alice.path().borrow().kind, PathKind::Relayed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_shuffled_and_replayed_packets_change_no_content() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(13);
    let pair = Pair::relay_only(&relay, 13).await;
    let (alice, bob) = pair.connect().await;
    let harm = PacketDeeds {
        alter: 0,
        drop: 30,
        duplicate: 20,
        reorder: 20,
        replay: 20,
    };
    relay.packets(harm);
    within(
        50,
        "talking through a relay that loses and replays",
        async {
            // In order and exactly once, by comparison of all bytes at both ends.
            let (there, back) = (noise(14, 40_000), noise(15, 40_000));
            tokio::join!(echo(&alice, &bob, &there), echo(&bob, &alice, &back));
            datagrams(&alice, &bob, 20_000, 50).await;
        },
    )
    .await;
    relay.behave();
    within(
        20,
        "a clean relay again",
        echo(&alice, &bob, &noise(16, 20_000)),
    )
    .await;
    let did = relay.seen(|s| [s.dropped, s.duplicated, s.reordered, s.replayed]);
    assert!(
        did.iter().all(|&count| count >= 10),
        "the relay did too little: {did:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_through_a_relay_that_loses_a_third() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(17);
    let pair = Pair::relay_only(&relay, 17).await;
    relay.packets(PacketDeeds {
        drop: 30,
        reorder: 20,
        alter: 10,
        ..PacketDeeds::default()
    });
    let (alice, bob) = pair.connect().await;
    within(30, "one exchange", echo(&alice, &bob, &noise(18, 5_000))).await;
}

/// The positive control of every "never direct" here and in `signals`: through an honest relay the same
/// pair leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_an_honest_relay_the_path_becomes_direct() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(19);
    let pair = Pair::online(&relay, 19).await;
    pair.bob.set_accepted(pair.alice.id(), true);
    let (alice, bob) = pair.connect().await;
    assert!(becomes_direct(&alice, Duration::from_secs(10)).await);
    assert!(becomes_direct(&bob, Duration::from_secs(10)).await);
    within(20, "one exchange", echo(&alice, &bob, &noise(20, 20_000))).await;
}
