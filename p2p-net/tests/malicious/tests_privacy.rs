//! What leaves, and when: every envelope that passes the relay is opened with its recipient's key, as nobody
//! but the test can, and searched for addresses. None leaves before its sender accepts the recipient, and
//! none while it goes through the relay on principle.

use std::time::Duration;

use p2p_net::{Connection, Endpoint, Identity, NotDirect, PathInfo, PathKind};
use p2p_net_proto::codec::from_body;
use p2p_net_proto::wire::{Answer, Offer, signal};
use p2p_net_proto::{Candidate, open};

use crate::malicious::{EvilRelay, Pair, becomes_direct, echo, no_panic, noise, within};

/// How long something that must not come is waited for; an honest pair is direct in a tenth of it.
const NEVER: Duration = Duration::from_millis(1_500);

/// Envelopes from one peer to another so far, and the addresses in them.
fn told(relay: &EvilRelay, from: &Endpoint, to: &Identity) -> (usize, Vec<Candidate>) {
    let kinds = [signal::OFFER, signal::ANSWER, signal::HINT, signal::GUESS];
    let mut envelopes = 0;
    let mut candidates = Vec::new();
    for kind in kinds {
        let sealed: Vec<Vec<u8>> = relay.seen(|seen| {
            let found = seen.sealed_between(from.id(), to.id(), kind);
            found
                .into_iter()
                .map(|sealed| sealed.bytes.clone())
                .collect()
        });
        for bytes in sealed {
            envelopes += 1;
            let body = open(to, &from.id(), kind, &bytes)
                .expect("an honest envelope")
                .body;
            candidates.extend(match kind {
                signal::OFFER => from_body::<Offer>(&body).expect("an offer").candidates,
                signal::ANSWER => from_body::<Answer>(&body).expect("an answer").candidates,
                // Hints and guesses speak of ports: nobody needs one on loopback.
                _ => panic!("kind {kind} was sent without a reason"),
            });
        }
    }
    (envelopes, candidates)
}

async fn becomes(connection: &Connection, wanted: impl Fn(&PathInfo) -> bool) {
    let mut path = connection.path();
    within(15, "the path", path.wait_for(|path| wanted(path)))
        .await
        .expect("alive");
}

/// Talks, and gives a direct path the time that it would need.
async fn talks_relayed(one: &Connection, other: &Connection) {
    within(20, "talking", echo(one, other, &noise(3, 20_000))).await;
    assert!(
        !becomes_direct(one, NEVER).await,
        "a direct path without consent"
    );
    within(20, "talking", echo(other, one, &noise(4, 20_000))).await;
    for end in [one, other] {
        assert_eq!(end.path().borrow().kind, PathKind::Relayed);
        assert_eq!(end.stats().direct_sent_bytes, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_leaves_before_its_owner_accepts() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(81);
    let pair = Pair::online(&relay, 81).await;
    let (alice, bob) = pair.connect().await;
    talks_relayed(&alice, &bob).await;
    // Alice dialled, which is consent: her addresses went out. Bob's did not, though he answered.
    let (offers, of_alice) = told(&relay, &pair.alice, &pair.bob_identity());
    assert!(offers > 0 && !of_alice.is_empty(), "this test sees nothing");
    let (answers, of_bob) = told(&relay, &pair.bob, &pair.alice_identity());
    assert!(answers > 0 && of_bob.is_empty(), "told {of_bob:?}");
    assert_eq!(bob.path().borrow().not_direct, Some(NotDirect::NotAccepted));
    assert_eq!(
        alice.path().borrow().not_direct,
        Some(NotDirect::PeerDeclines)
    );

    pair.bob.set_accepted(pair.alice.id(), true);
    becomes(&bob, |path| path.kind == PathKind::Direct).await;
    let (_, of_bob) = told(&relay, &pair.bob, &pair.alice_identity());
    assert!(!of_bob.is_empty(), "accepted, and yet nothing was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_only_holds_at_once_in_a_living_connection() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(82);
    let pair = Pair::online(&relay, 82).await;
    pair.bob.set_accepted(pair.alice.id(), true);
    let (alice, bob) = pair.connect().await;
    becomes(&alice, |path| path.kind == PathKind::Direct).await;
    becomes(&bob, |path| path.kind == PathKind::Direct).await;
    // Once for this contact, once for everybody.
    for all in [false, true] {
        let set = |only: bool| match all {
            true => pair.bob.set_all_relay_only(only),
            false => pair.bob.set_relay_only(pair.alice.id(), only),
        };
        set(true);
        becomes(&bob, |path| path.not_direct == Some(NotDirect::RelayOnly)).await;
        assert_eq!(
            bob.path().borrow().kind,
            PathKind::Relayed,
            "the direct path is left"
        );
        let (_, before) = told(&relay, &pair.bob, &pair.alice_identity());
        let sent = bob.stats().direct_sent_bytes;
        within(20, "talking", echo(&bob, &alice, &noise(5, 50_000))).await;
        assert!(
            !becomes_direct(&bob, NEVER).await,
            "a direct path against our will"
        );
        let (_, after) = told(&relay, &pair.bob, &pair.alice_identity());
        assert_eq!(before, after, "an address left");
        assert_eq!(bob.stats().direct_sent_bytes, sent, "packets went straight");
        set(false);
        becomes(&bob, |path| path.kind == PathKind::Direct).await;
        becomes(&alice, |path| path.kind == PathKind::Direct).await;
        assert!(!bob.is_closed() && !alice.is_closed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_addresses_from_everybody_dials_without_any() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(83);
    let pair = Pair::online(&relay, 83).await;
    pair.alice.set_all_relay_only(true);
    pair.bob.set_accepted(pair.alice.id(), true);
    let (alice, bob) = pair.connect().await;
    talks_relayed(&alice, &bob).await;
    for (from, to) in [
        (&pair.alice, pair.bob_identity()),
        (&pair.bob, pair.alice_identity()),
    ] {
        let (envelopes, candidates) = told(&relay, from, &to);
        assert!(
            envelopes > 0 && candidates.is_empty(),
            "told {candidates:?}"
        );
    }
    assert_eq!(alice.path().borrow().not_direct, Some(NotDirect::RelayOnly));
    assert_eq!(
        bob.path().borrow().not_direct,
        Some(NotDirect::PeerDeclines)
    );
}
