//! Deeds 4 and 7: the relay puts itself in somebody's place. A peer is its key, whoever the relay says it is.

use p2p_net::{ConnectError, Endpoint, Identity, PathKind, PeerId};
use p2p_net_proto::codec::{from_body, to_body};
use p2p_net_proto::wire::{Answer, Offer, signal};
use p2p_net_proto::{Candidate, CandidateKind, open, seal};

use crate::malicious::{
    EvilRelay, Mallory, Pair, Victim, echo, endpoint, no_panic, noise, online, sees, within,
};

/// A sealed offer of Mallory's own, with these candidates.
fn offer(mallory: &Mallory, to: PeerId, candidates: Vec<Candidate>) -> Vec<u8> {
    let (session, nonce) = ([7; 16], [8; 16]);
    let offer = Offer {
        session,
        nonce,
        candidates,
        relay_rtt_micros: 500,
    };
    let body = to_body(&offer).expect("a small body");
    seal(mallory.identity(), &to, signal::OFFER, 1, &body, [9; 32]).expect("a usable key")
}

/// Mallory plays her part for as long as somebody dials. Who does may give up without a word, then she waits.
async fn deceives_nobody(mallory: &Mallory) -> std::convert::Infallible {
    loop {
        let deceived = mallory.deceived().await;
        assert!(
            deceived.is_err(),
            "somebody completed a handshake with Mallory"
        );
    }
}

/// Alice dials Bob and gets Mallory. She must notice.
async fn dialling_reaches(relay: &EvilRelay, mallory: &Mallory, pair: &Pair) {
    relay.set(|deeds| deeds.impostor = Some(mallory.number()));
    let dial = within(
        40,
        "dialling an impostor",
        pair.alice.connect(pair.bob.id()),
    );
    tokio::select! {
        dialled = dial => {
            let error = dialled.expect_err("Mallory passed for Bob");
            let expected =
                matches!(error, ConnectError::WrongPeer(_) | ConnectError::TimedOut(_));
            assert!(expected, "{error}");
        }
        never = deceives_nobody(mallory) => match never {},
    }
    assert!(relay.seen(|s| s.opens.contains_key(&(pair.alice.id(), pair.bob.id()))));
    relay.behave();
    let (alice, bob) = pair.connect().await;
    within(20, "the true Bob", echo(&alice, &bob, &noise(1, 2_000))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mallory_in_bobs_place_is_not_bob() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(41);
    let pair = Pair::online(&relay, 41).await;
    let mallory = Mallory::new(relay.hub(), 1, None);
    dialling_reaches(&relay, &mallory, &pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bobs_stolen_certificate_does_not_make_mallory_bob() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(42);
    let pair = Pair::online(&relay, 42).await;
    let mallory = Mallory::new(relay.hub(), 1, Some(&pair.bob_identity()));
    dialling_reaches(&relay, &mallory, &pair).await;
}

/// Mallory calls Bob in the name of `claimed`; nothing of it may come out of `accept`.
async fn is_refused(mallory: &Mallory, claimed: PeerId, bob: &Endpoint, sealed: Vec<u8>) {
    let (connecting, channel) = mallory.call(claimed, bob.id(), sealed).await;
    let refused = async {
        // In TLS 1.3 the client is done before the server has judged it: the verdict may come as a close.
        if let Ok(connection) = connecting.await {
            let Ok((mut send, _receive)) = connection.open_bi().await else {
                return;
            };
            let _ = send.write_all(b"I am who I am not").await;
            connection.closed().await;
        }
    };
    tokio::select! {
        () = refused => {}
        () = mallory.is_hung_up(channel) => {}
        accepted = bob.accept() => {
            let who = accepted.map(|connection| connection.peer());
            panic!("a forged caller was accepted as {who:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mallory_in_alices_place_is_never_accepted() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(43);
    let pair = Pair::online(&relay, 43).await;
    let alice = pair.alice.id();
    pair.bob.set_accepted(alice, true);
    let plain = Mallory::new(relay.hub(), 1, None);
    let masked = Mallory::new(relay.hub(), 2, Some(&pair.alice_identity()));
    within(45, "two forged calls", async {
        is_refused(&plain, alice, &pair.bob, Vec::new()).await;
        is_refused(
            &plain,
            alice,
            &pair.bob,
            offer(&plain, pair.bob.id(), Vec::new()),
        )
        .await;
        is_refused(&masked, alice, &pair.bob, Vec::new()).await;
    })
    .await;
    // What comes out of `accept` first is the true Alice.
    let (alice, bob) = pair.connect().await;
    within(20, "the true Alice", echo(&alice, &bob, &noise(3, 2_000))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_impossible_callers_must_prove_their_key() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(44);
    let bob = endpoint(&relay, Identity::from_secret([44; 32]));
    within(15, "logging in", online(&bob)).await;
    relay
        .until(|state| state.seen.logins.contains_key(&bob.id()))
        .await;
    let mallory = Mallory::new(relay.hub(), 1, None);
    let blocked = Identity::from_secret([45; 32]).id();
    bob.set_accepted(blocked, false);
    let mut not_a_point = [0xff; 32];
    not_a_point[0] = 0x02;
    // A stranger's key, keys of small order (0 and 1), no key at all, and Bob's own.
    let small = [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }];
    let claims = [
        blocked,
        PeerId::from_bytes(small[0]),
        PeerId::from_bytes(small[1]),
        PeerId::from_bytes(not_a_point),
        bob.id(),
    ];
    for claimed in claims {
        let sealed = offer(&mallory, bob.id(), Vec::new());
        let refused = is_refused(&mallory, claimed, &bob, sealed);
        within(20, "refusing a claimed key", refused).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_with_a_proven_key_gets_the_relay_and_no_addresses() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(46);
    let victim = Victim::listen(46).await;
    let bob = endpoint(&relay, Identity::from_secret([46; 32]));
    within(15, "logging in", online(&bob)).await;
    relay
        .until(|state| state.seen.logins.contains_key(&bob.id()))
        .await;
    let mallory = Mallory::new(relay.hub(), 1, None);
    let me = mallory.identity().id();
    relay.set(|deeds| deeds.attested = vec![victim.address()]);
    let bait = Candidate {
        kind: CandidateKind::Host,
        address: victim.address(),
    };
    let sealed = offer(&mallory, bob.id(), vec![bait]);
    within(20, "an honest stranger", async {
        let (connecting, accepted) = tokio::join!(
            async {
                mallory
                    .call(me, bob.id(), sealed)
                    .await
                    .0
                    .await
                    .expect("her own key")
            },
            bob.accept()
        );
        let accepted = accepted.expect("an open endpoint");
        assert_eq!(accepted.peer(), me);
        let (mut send, mut receive) = connecting.open_bi().await.expect("a stream");
        send.write_all(b"hello from a stranger")
            .await
            .expect("written");
        send.finish().expect("finished");
        let (mut back, mut heard) = accepted.accept().await.expect("a stream");
        assert_eq!(
            heard.read_to_end(100).await.expect("read"),
            b"hello from a stranger"
        );
        back.write_all(b"hello").await.expect("written");
        back.finish().expect("finished");
        assert_eq!(receive.read_to_end(100).await.expect("read"), b"hello");
        assert_eq!(accepted.path().borrow().kind, PathKind::Relayed);
    })
    .await;
    let answers: Vec<Vec<u8>> = relay.seen(|seen| {
        let found = seen
            .sealed
            .iter()
            .filter(|s| s.from == bob.id() && !s.bytes.is_empty());
        found.map(|s| s.bytes.clone()).collect()
    });
    for sealed in answers {
        let envelope = open(mallory.identity(), &bob.id(), signal::ANSWER, &sealed)
            .expect("an answer to Mallory");
        let answer: Answer = from_body(&envelope.body).expect("an answer");
        assert!(
            answer.candidates.is_empty(),
            "a stranger was told {:?}",
            answer.candidates
        );
    }
    assert_eq!(
        victim.packets().len(),
        0,
        "Bob sent to an address that a stranger named"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phantom_cannot_be_reached() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(47);
    let phantom = Identity::from_secret([48; 32]);
    relay.set(|deeds| deeds.phantoms = vec![phantom.id()]);
    let alice = endpoint(&relay, Identity::from_secret([47; 32]));
    within(15, "seeing the phantom", sees(&alice, phantom.id())).await;
    let dialled = within(30, "dialling a phantom", alice.connect(phantom.id())).await;
    let error = dialled.expect_err("nobody is there");
    assert!(
        matches!(
            error,
            ConnectError::NotOnline(_) | ConnectError::TimedOut(_)
        ),
        "{error}"
    );
    let mallory = Mallory::new(relay.hub(), 1, Some(&phantom));
    relay.set(|deeds| deeds.impostor = Some(mallory.number()));
    let dial = within(40, "dialling a phantom's mask", alice.connect(phantom.id()));
    let dialled = tokio::select! {
        dialled = dial => dialled,
        never = deceives_nobody(&mallory) => match never {},
    };
    let error = dialled.expect_err("only Mallory is there");
    assert!(
        matches!(
            error,
            ConnectError::WrongPeer(_) | ConnectError::TimedOut(_)
        ),
        "{error}"
    );
}
