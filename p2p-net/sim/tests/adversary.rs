//! What somebody who means harm gets out of a pair: a contact that names or imitates a victim, and a stranger
//! who replays and forges. No more bytes reach a victim than the attacker has spent, and nothing changes.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_net_proto::probe::{Pong, Probe, ProbeKeys};
use p2p_net_proto::wire::{ObservedAddress, Offer};
use p2p_net_proto::{Candidate, CandidateKind, Input, PeerId, Route, SignalBody, Transaction};
use p2p_net_sim::pair::{PORT, Pair, PairConfig, SIDES};
use p2p_net_sim::{NatConfig, for_seeds};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The honest side, which is to be abused, and the contact that does it.
const HONEST: usize = 0;
const ATTACKER: usize = 1;
/// Bytes of a probe and of a pong.
const PACKET: usize = 64;
/// What the pair's simulation gives both sides.
const SECRET: [u8; 32] = [7; 32];

/// Somebody who has nothing to do with it.
fn victim(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 9], port))
}

/// UDP payload that the honest side has sent to the victim's address.
fn suffered(pair: &Pair) -> usize {
    let own = &pair.sides[HONEST];
    let targets = own.probes.iter().chain(&own.openers);
    targets.filter(|(_, to)| to.ip() == victim(0).ip()).count() * PACKET
}

fn never_routed_there(pair: &Pair) -> bool {
    let mut routes = pair.sides[HONEST].routes.iter();
    routes.all(|(_, route, _)| !matches!(route, Route::Direct(to) if to.ip() == victim(0).ip()))
}

/// A pair in which nobody has said anything yet.
fn strangers(seed: u64, nats: [NatConfig; 2]) -> Pair {
    Pair::new(PairConfig {
        seed,
        nats: nats.map(Some),
        ..PairConfig::default()
    })
}

/// An Offer of the attacker's that names the victim ten times over.
fn bait(number: u8) -> Offer {
    let kinds = [
        CandidateKind::Host,
        CandidateKind::ServerReflexive,
        CandidateKind::PeerReflexive,
        CandidateKind::Mapped,
    ];
    let candidates = (0..10).map(|at| Candidate {
        kind: kinds[at % kinds.len()],
        address: victim(4_000 + at as u16),
    });
    Offer {
        session: [number; 16],
        nonce: [number; 16],
        candidates: candidates.collect(),
        relay_rtt_micros: 40_000,
    }
}

fn seen(address: SocketAddr, age_millis: u32) -> ObservedAddress {
    ObservedAddress {
        address,
        age_millis,
    }
}

/// Offers the bait a few times, with what the relay says of the attacker.
fn offer(pair: &mut Pair, observed: &[ObservedAddress]) {
    for number in 1..=5 {
        pair.input(HONEST, Input::Offer(bait(number), observed.to_vec()));
        pair.run_for(3 * SECOND);
    }
}

#[test]
fn a_claimed_victim_is_not_probed_unless_the_relay_has_just_seen_it_there() {
    for_seeds(20, |seed| {
        let nats = [NatConfig::port_restricted(), NatConfig::full_cone()];
        let own = strangers(seed, nats).observed(ATTACKER).expect("logged in");
        // Nothing, the attacker's own address, and what the relay saw of the victim's too long ago.
        for observed in [
            vec![],
            vec![seen(own, 0)],
            vec![seen(own, 0), seen(victim(4_000), 60_001)],
        ] {
            let mut pair = strangers(seed, nats);
            pair.dial(HONEST);
            offer(&mut pair, &observed);
            assert_eq!(suffered(&pair), 0, "{observed:?}");
            assert!(never_routed_there(&pair));
        }
        // With the relay in league it is 5 sessions of 10 candidates, 9 probes each at most, and no flood.
        let mut pair = strangers(seed, nats);
        pair.dial(HONEST);
        offer(&mut pair, &[seen(victim(4_000), 0)]);
        let bytes = suffered(&pair);
        assert!(bytes > 0 && bytes <= 5 * 90 * PACKET, "{bytes}");
        assert!(bytes <= (20 + 20 * 15) * PACKET, "{bytes}");
        assert!(never_routed_there(&pair));
    });
}

/// The keys of the session that the honest side has just agreed to.
fn keys(pair: &Pair, offer: &Offer) -> ProbeKeys {
    let answers = pair.sides[HONEST].signals.iter().rev();
    let nonce = answers
        .filter_map(|(_, body)| match body {
            SignalBody::Answer(answer) if answer.session == offer.session => Some(answer.nonce),
            _ => None,
        })
        .next();
    let [honest, attacker] = [1, 2].map(|byte| PeerId::from_bytes([byte; 32]));
    let nonce = nonce.expect("an Answer");
    ProbeKeys::derive(&SECRET, &attacker, &honest, &offer.nonce, &nonce)
}

#[test]
fn a_contact_that_sends_as_if_from_a_victim_spends_as_much_as_reaches_it() {
    let mut reached = 0;
    for_seeds(100, |seed| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let nats = [NatConfig::full_cone(), NatConfig::full_cone()];
        let mut pair = strangers(seed, nats);
        let own = pair.observed(ATTACKER).expect("logged in");
        let offer = bait(1);
        pair.input(HONEST, Input::Relay(true));
        pair.input(HONEST, Input::Offer(offer.clone(), vec![seen(own, 0)]));
        let mut keys = keys(&pair, &offer);
        let mut spent = 0;
        let mut old: Vec<Vec<u8>> = Vec::new();
        for _ in 0..200 {
            let transaction = Transaction(random.next_u64());
            let packet = match random.random_range(0..6) {
                0 if !old.is_empty() => old[random.random_range(0..old.len())].clone(),
                1 => keys
                    .seal_pong(&Pong {
                        transaction,
                        observed: victim(1),
                        loss: 0,
                    })
                    .to_vec(),
                _ => keys
                    .seal_probe(&Probe {
                        transaction,
                        path: random.random(),
                    })
                    .to_vec(),
            };
            old.push(packet.clone());
            spent += packet.len();
            pair.forge(HONEST, victim(random.random_range(1..4)), &packet);
            assert!(suffered(&pair) <= spent, "{} of {spent}", suffered(&pair));
            pair.run_for(random.random_range(0..120) * MILLI);
            assert!(suffered(&pair) <= spent, "{} of {spent}", suffered(&pair));
        }
        pair.run_for(60 * SECOND);
        assert!(suffered(&pair) <= spent);
        assert!(never_routed_there(&pair));
        reached += suffered(&pair);
    });
    assert!(reached > 0, "not even answers: this shows nothing");
}

/// All that a machine shows of itself, and all that it did.
fn state(pair: &Pair, side: usize) -> impl PartialEq + std::fmt::Debug {
    let own = &pair.sides[side];
    let path = own.peer.path();
    (
        (path.kind, path.remote, path.switches, path.not_direct),
        path.round_trip,
        own.routes.clone(),
        own.probes.clone(),
        own.signals.clone(),
        (own.listens.clone(), own.bound.clone()),
        own.arrivals.clone(),
        own.peer.poll_timeout().is_some(),
    )
}

/// Twenty seconds of a life; with `harm`, an attacker throws in all that it can make of what it has seen.
fn life(seed: u64, nats: [NatConfig; 2], harm: bool) -> Pair {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0xbad);
    let mut pair = strangers(seed, nats);
    pair.dial(HONEST);
    for side in SIDES {
        pair.flow(side, Some(20 * MILLI));
    }
    let mut forged = 0;
    for _ in 0..40 {
        pair.run_for(500 * MILLI);
        if !harm {
            continue;
        }
        // What has arrived; the attacker has heard it on the way.
        let heard = pair.sides[HONEST].heard.iter().rev();
        let captured: Vec<Vec<u8>> = heard.take(30).cloned().collect();
        let source = pair.observed(ATTACKER).expect("logged in");
        for packet in captured {
            for from in [source, victim(PORT)] {
                pair.forge(HONEST, from, &packet);
                let mut altered = packet.clone();
                let at = random.random_range(0..altered.len());
                altered[at] ^= 1 << random.random_range(0..8);
                // A changed key id never gets as far as the machine.
                pair.forge(HONEST, from, &altered);
                let mut garbage = packet.clone();
                random.fill_bytes(&mut garbage[12..]);
                pair.forge(HONEST, from, &garbage);
                pair.forge(HONEST, from, &packet[..random.random_range(0..PACKET)]);
                forged += 4;
            }
        }
    }
    assert!(!harm || forged > 500, "{forged}: nothing was captured");
    pair
}

#[test]
fn replayed_and_forged_probes_change_nothing() {
    let easy = NatConfig::port_restricted();
    for_seeds(20, |seed| {
        for nats in [
            [easy, easy],
            [NatConfig::full_cone(), easy],
            [easy, NatConfig::symmetric_block()],
        ] {
            let (calm, harmed) = (life(seed, nats, false), life(seed, nats, true));
            assert_eq!(suffered(&harmed), 0);
            for side in SIDES {
                assert_eq!(state(&calm, side), state(&harmed, side), "{nats:?}");
            }
        }
    });
}
