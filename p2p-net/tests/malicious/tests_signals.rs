//! Deed 5: sealed offers and answers are altered, forged, readdressed and replayed. No candidate in them is
//! used, and the connection through the relay goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2p_net::{ConnectError, Connection, Identity, PathKind, PeerId};
use p2p_net_proto::codec::to_body;
use p2p_net_proto::wire::{
    Answer, ChannelAccept, ChannelOffered, ChannelReady, MAX_SEALED, ObservedAddress, Offer,
    SignalFrom, signal,
};
use p2p_net_proto::{Candidate, CandidateKind, ChannelEnd, ChannelId, seal};

use crate::malicious::{
    EvilRelay, Pair, Sealed, Tamper, Victim, becomes_direct, caught_up, echo, no_panic, noise,
    within,
};

/// How long something that must not come is waited for; an honest pair is direct in a tenth of it.
const NEVER: Duration = Duration::from_secs(2);

/// Both ends use the relay and stay there; what they say arrives.
async fn works_and_stays_relayed(alice: &Connection, bob: &Connection) {
    within(
        20,
        "talking through the relay",
        echo(alice, bob, &noise(5, 20_000)),
    )
    .await;
    let (one, other) = tokio::join!(becomes_direct(alice, NEVER), becomes_direct(bob, NEVER));
    assert!(
        !one && !other,
        "candidates from an envelope that is not genuine were used"
    );
    assert_eq!(alice.path().borrow().kind, PathKind::Relayed);
    within(
        20,
        "talking through the relay",
        echo(bob, alice, &noise(6, 20_000)),
    )
    .await;
}

/// With a false offer the call may be declined, in words; if it is not, it stays on the relay.
async fn fails_cleanly_or_stays_relayed(pair: &Pair) {
    match within(20, "connecting or not", pair.try_connect()).await {
        Ok((alice, bob)) => works_and_stays_relayed(&alice, &bob).await,
        Err(error) => assert!(
            matches!(error, ConnectError::Refused(_) | ConnectError::TimedOut(_)),
            "{error}"
        ),
    }
}

/// Two peers who accept each other, so that candidates would flow.
async fn friends(relay: &EvilRelay, seed: u8) -> Pair {
    let pair = Pair::online(relay, seed).await;
    pair.alice.set_accepted(pair.bob.id(), true);
    pair.bob.set_accepted(pair.alice.id(), true);
    pair
}

/// Flips one bit of every envelope of this kind, each time another.
fn flip(kind: u16) -> Tamper {
    let mut which = 0_usize;
    Box::new(move |sealed| {
        let mut bytes = sealed.bytes.clone();
        which += 7;
        if let Some(at) = which
            .checked_rem(bytes.len())
            .filter(|_| sealed.kind == kind)
        {
            bytes[at] ^= 1 << (which % 8);
        }
        bytes
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_offers_do_not_open() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(51);
    let pair = friends(&relay, 51).await;
    relay.set(|deeds| deeds.tamper = Some(flip(signal::OFFER)));
    fails_cleanly_or_stays_relayed(&pair).await;
    let (from, to) = (pair.alice.id(), pair.bob.id());
    assert!(relay.seen(|seen| !seen.sealed_between(from, to, signal::OFFER).is_empty()));
    // Once the relay is honest again, all is as it should be.
    relay.behave();
    let (alice, _bob) = pair.connect().await;
    assert!(
        becomes_direct(&alice, Duration::from_secs(15)).await,
        "punching is not tried again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_answers_do_not_open() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(57);
    let pair = friends(&relay, 57).await;
    relay.set(|deeds| deeds.tamper = Some(flip(signal::ANSWER)));
    let (alice, bob) = pair.connect().await;
    works_and_stays_relayed(&alice, &bob).await;
    let (from, to) = (pair.bob.id(), pair.alice.id());
    assert!(relay.seen(|seen| !seen.sealed_between(from, to, signal::ANSWER).is_empty()));
    relay.behave();
    assert!(
        becomes_direct(&alice, Duration::from_secs(15)).await,
        "punching is not tried again"
    );
}

/// A body of this kind that names the victim, sealed by `sealer` for `to`.
fn bait(sealer: &Identity, to: PeerId, kind: u16, victim: &Victim) -> Vec<u8> {
    let candidates = vec![Candidate {
        kind: CandidateKind::Host,
        address: victim.address(),
    }];
    let (session, nonce, relay_rtt_micros) = ([1; 16], [2; 16], 1_000);
    let body = if kind == signal::OFFER {
        to_body(&Offer {
            session,
            nonce,
            candidates,
            relay_rtt_micros,
        })
    } else {
        to_body(&Answer {
            session,
            nonce,
            candidates,
            relay_rtt_micros,
        })
    };
    let body = body.expect("a small body");
    seal(sealer, &to, kind, u64::MAX / 2, &body, [3; 32]).expect("a usable key")
}

// With a relay on loopback any loopback address is attested, the victims' too (`wire.md` §6): what keeps
// them safe here is that the envelopes do not open.

/// Mallory seals what she likes as herself, and the relay passes it off as the other peer's.
fn forge(relay: &EvilRelay, pair: &Pair, kind: u16, victim: &Victim) {
    let mallory = Identity::from_secret([0x52; 32]);
    let [a, b] = [pair.alice.id(), pair.bob.id()].map(|to| (to, bait(&mallory, to, kind, victim)));
    relay.set(|deeds| {
        deeds.tamper = Some(Box::new(move |sealed| match sealed.kind == kind {
            true if sealed.to == a.0 => a.1.clone(),
            true => b.1.clone(),
            false => sealed.bytes.clone(),
        }));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_offers_do_not_open() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(52);
    let victim = Victim::listen(52).await;
    let pair = friends(&relay, 52).await;
    forge(&relay, &pair, signal::OFFER, &victim);
    fails_cleanly_or_stays_relayed(&pair).await;
    victim.is_left_alone(NEVER).await;
    assert_eq!(
        victim.packets().len(),
        0,
        "a forged offer's candidate was probed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_answers_do_not_open() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(58);
    let victim = Victim::listen(58).await;
    let pair = friends(&relay, 58).await;
    forge(&relay, &pair, signal::ANSWER, &victim);
    let (alice, bob) = pair.connect().await;
    works_and_stays_relayed(&alice, &bob).await;
    assert_eq!(
        victim.packets().len(),
        0,
        "a forged answer's candidate was probed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envelopes_of_another_pair_do_not_open() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(53);
    let victim = Victim::listen(53).await;
    // Every endpoint believes that it is the victim, so that every genuine offer names it.
    relay.set(|deeds| deeds.observed = Some(victim.address()));
    let (one, other) = tokio::join!(friends(&relay, 53), friends(&relay, 54));
    let pool: Arc<Mutex<Vec<Sealed>>> = Arc::default();
    relay.set(|deeds| {
        deeds.tamper = Some(Box::new(move |sealed| {
            let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            let foreign = |s: &&Sealed| s.from != sealed.from && s.to != sealed.from;
            let swapped = pool.iter().rfind(foreign).map(|s| s.bytes.clone());
            pool.push(sealed.clone());
            swapped.unwrap_or_default()
        }));
    });
    tokio::join!(
        fails_cleanly_or_stays_relayed(&one),
        fails_cleanly_or_stays_relayed(&other)
    );
    victim.is_left_alone(NEVER).await;
    assert_eq!(
        victim.packets().len(),
        0,
        "another pair's candidate was probed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_and_readdressed_envelopes_are_refused() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(55);
    let victim = Victim::listen(55).await;
    // The offers name the victim, but while they are fresh the relay attests nothing.
    relay.set(|deeds| (deeds.observed, deeds.silent) = (Some(victim.address()), true));
    let pair = friends(&relay, 55).await;
    let (alice, bob) = pair.connect().await;
    works_and_stays_relayed(&alice, &bob).await;
    assert_eq!(
        victim.packets().len(),
        0,
        "an address that nobody attested was probed"
    );
    let old: Vec<Sealed> = relay.seen(|seen| {
        let full = seen.sealed.iter().filter(|s| !s.bytes.is_empty());
        full.cloned().collect()
    });
    let has = |kind| old.iter().any(|sealed| sealed.kind == kind);
    assert!(
        has(signal::OFFER) && has(signal::ANSWER),
        "nothing to replay"
    );
    let at = |address| ObservedAddress {
        address,
        age_millis: 0,
    };
    let observed = vec![at(victim.address()), at(([127, 0, 0, 1], 9).into())];
    for sealed in &old {
        for (to, from, kind) in [
            (sealed.to, sealed.from, sealed.kind),
            // Back to its sender, from the wrong one, and as another kind.
            (sealed.from, sealed.to, sealed.kind),
            (sealed.to, PeerId::from_bytes([0x77; 32]), sealed.kind),
            (sealed.to, sealed.from, 3 - sealed.kind),
        ] {
            let (observed, bytes) = (observed.clone(), sealed.bytes.clone());
            relay.hub().send(
                to,
                SignalFrom {
                    from,
                    kind,
                    observed,
                    sealed: bytes,
                },
            );
        }
    }
    for (number, end) in [(&pair.alice, 201), (&pair.bob, 202)] {
        within(15, "handling the replays", caught_up(&relay, number, end)).await;
    }
    victim.is_left_alone(NEVER).await;
    assert_eq!(
        victim.packets().len(),
        0,
        "a replayed offer's candidate was probed"
    );
    within(
        20,
        "the same connection",
        echo(&alice, &bob, &noise(7, 20_000)),
    )
    .await;
    assert!(!alice.is_closed() && !bob.is_closed());
    assert_eq!(
        bob.path().borrow().kind,
        PathKind::Relayed,
        "a replayed offer made a path"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_place_of_envelopes_is_dropped() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(56);
    let pair = Pair::relay_only(&relay, 56).await;
    let (alice, bob) = pair.connect().await;
    let (a, b) = (pair.alice.id(), pair.bob.id());
    let small_order = PeerId::from_bytes([0; 32]);
    for length in [0, 1, 31, 32, 33, 47, 48, 56, 1_000, MAX_SEALED] {
        for sealed in [
            vec![0; length],
            vec![0xff; length],
            noise(length as u64, length),
        ] {
            for from in [a, small_order, b] {
                let (kind, observed) = (signal::OFFER, Vec::new());
                relay.hub().send(
                    b,
                    SignalFrom {
                        from,
                        kind,
                        observed,
                        sealed: sealed.clone(),
                    },
                );
            }
            let (observed, channel) = (Vec::new(), ChannelId(0xdead));
            let flight = vec![noise(9, 1_200), Vec::new(), vec![0xc0; 40]];
            let ready = ChannelReady {
                channel,
                sealed: sealed.clone(),
                observed,
                flight,
            };
            relay.hub().send(a, ready);
        }
    }
    // An offer for a channel that Bob then accepts or not, as he likes; its answer goes nowhere.
    let (channel, end, from) = (ChannelId(0xdead), ChannelEnd(ChannelEnd::MAX), small_order);
    let (sealed, observed, flight) = (noise(1, 100), Vec::new(), vec![noise(2, 1_200)]);
    relay.hub().send(
        b,
        ChannelOffered {
            channel,
            end,
            from,
            sealed,
            observed,
            flight,
        },
    );
    // A frame of the wrong direction.
    let (sealed, flight) = (Vec::new(), Vec::new());
    let wrong = ChannelAccept {
        channel,
        sealed,
        attest: true,
        flight,
    };
    relay
        .hub()
        .send_bytes(b, p2p_net_proto::codec::encode(&wrong).expect("fits"));
    within(20, "handling the garbage", async {
        caught_up(&relay, &pair.alice, 203).await;
        caught_up(&relay, &pair.bob, 204).await;
        echo(&alice, &bob, &noise(8, 20_000)).await;
    })
    .await;
}
