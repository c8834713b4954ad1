//! How two peers come to a direct path, behind every ordinary pair of translators, through loss, crossing
//! Offers and changes of network; and what they do not do where no path can be.

use std::time::Duration;

use p2p_net_proto::{Input, Route, SignalBody};
use p2p_net_sim::pair::{Pair, PairConfig, SIDES};
use p2p_net_sim::{LinkConfig, Loss, NatConfig, for_seeds};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn ordinary() -> [Option<NatConfig>; 4] {
    [
        None,
        Some(NatConfig::full_cone()),
        Some(NatConfig::address_restricted()),
        Some(NatConfig::port_restricted()),
    ]
}

/// Both sides' time from dialling to the direct path; the later one.
fn time_to_direct(config: PairConfig, dialler: usize) -> (Pair, Option<Duration>) {
    let mut pair = Pair::new(config);
    pair.dial(dialler);
    let took = pair.run_until(20 * SECOND, Pair::both_direct);
    (pair, took)
}

#[test]
fn ordinary_pairs_are_direct_in_time() {
    // R from 40 to 800 ms, Rd from 20 to 400 ms, in all kinds of proportion.
    let delays: [([u32; 2], u32); 6] = [
        ([10, 10], 10),
        ([20, 20], 20),
        ([10, 100], 60),
        ([100, 20], 150),
        ([50, 50], 10),
        ([200, 200], 200),
    ];
    let mut overs = Vec::new();
    for_seeds(4, |seed| {
        for (legs, direct) in delays {
            for first in ordinary() {
                for second in ordinary() {
                    let config = PairConfig {
                        seed,
                        nats: [first, second],
                        relay_delay: legs.map(|leg| leg * MILLI),
                        direct: LinkConfig::delay(direct * MILLI).with_jitter(direct * MILLI / 10),
                        ..PairConfig::default()
                    };
                    let (pair, took) = time_to_direct(config, (seed % 2) as usize);
                    let took = took.expect("ordinary pairs become direct");
                    let relayed = pair.relay_round_trip();
                    assert!(
                        2 * took <= 7 * relayed,
                        "{took:?} of R {relayed:?}: {legs:?} {direct}"
                    );
                    // 1.5 Rd, and the jitter on it.
                    let expected = relayed + 3 * direct * MILLI * 11 / 10;
                    overs.push(took.saturating_sub(expected));
                }
            }
        }
    });
    overs.sort();
    assert!(
        overs[overs.len() / 2] <= 50 * MILLI,
        "p50 {:?}",
        overs[overs.len() / 2]
    );
    let p99 = overs[overs.len() * 99 / 100];
    assert!(p99 <= 300 * MILLI, "p99 {p99:?}");
}

#[test]
fn a_symmetric_side_reaches_whoever_does_not_look_at_ports() {
    let easy = [
        None,
        Some(NatConfig::full_cone()),
        Some(NatConfig::address_restricted()),
    ];
    for_seeds(20, |seed| {
        for other in easy {
            for hard in [NatConfig::symmetric(), NatConfig::symmetric_sequential()] {
                for flipped in [false, true] {
                    let mut nats = [Some(hard), other];
                    if flipped {
                        nats.swap(0, 1);
                    }
                    let config = PairConfig {
                        seed,
                        nats,
                        ..PairConfig::default()
                    };
                    let (pair, took) = time_to_direct(config, (seed % 2) as usize);
                    let took = took.expect("this pair becomes direct");
                    assert!(2 * took <= 7 * pair.relay_round_trip(), "{took:?} {nats:?}");
                }
            }
        }
    });
}

#[test]
fn a_hopeless_pair_stays_relayed_without_a_flood() {
    for_seeds(10, |seed| {
        let nats = [Some(NatConfig::symmetric()), Some(NatConfig::symmetric())];
        let mut pair = Pair::new(PairConfig {
            seed,
            nats,
            ..PairConfig::default()
        });
        pair.dial((seed % 2) as usize);
        pair.run_for(5 * 60 * SECOND);
        assert!(pair.both_relayed());
        for side in &pair.sides {
            // The pauses leave six rounds in the first minute and two a minute later; each address gets nine.
            assert!(side.probes.len() <= 20 * 18, "{} probes", side.probes.len());
            // Two more are the hints.
            assert!(side.signals.len() <= 22, "{} signals", side.signals.len());
            assert!(side.routes.len() == 1, "{:?}", side.routes);
        }
    });
}

#[test]
fn loss_reordering_and_copies_only_delay_it() {
    for_seeds(100, |seed| {
        let direct = LinkConfig {
            loss: if seed % 2 == 0 {
                Loss::Random(0.1)
            } else {
                Loss::bursts(0.1, 4.0)
            },
            jitter: 20 * MILLI,
            duplicate: 0.1,
            reorder: 0.2,
            reorder_delay: 30 * MILLI,
            ..LinkConfig::delay(20 * MILLI)
        };
        let (_, took) = time_to_direct(
            PairConfig {
                seed,
                direct,
                ..PairConfig::default()
            },
            0,
        );
        let took = took.expect("loss does not prevent it");
        assert!(took <= SECOND, "{took:?}");
    });
}

#[test]
fn two_who_dial_at_once_end_with_one_session() {
    for_seeds(50, |seed| {
        for later in [0, 5, 20, 39, 41, 80] {
            let mut pair = Pair::new(PairConfig {
                seed,
                ..PairConfig::default()
            });
            let first = (seed % 2) as usize;
            pair.dial(first);
            pair.run_for(later * MILLI);
            pair.dial(1 - first);
            let took = pair
                .run_until(2 * SECOND, Pair::both_direct)
                .expect("direct");
            assert!(
                2 * took <= 7 * pair.relay_round_trip(),
                "{took:?} after {later} ms"
            );
            pair.run_for(20 * SECOND);
            assert!(pair.both_direct());
            let answers = pair
                .sides
                .iter()
                .flat_map(|side| &side.signals)
                .filter(|(_, body)| matches!(body, SignalBody::Answer(_)))
                .count();
            // Crossing Offers make one session; a dial after the other's Answer makes a second one.
            assert!(
                answers <= 2 && (later > 39 || answers == 1),
                "{answers} after {later} ms"
            );
            assert_eq!(pair.sides[0].listens.len(), 1, "old keys are gone");
        }
    });
}

#[test]
fn neighbours_talk_inside_their_network() {
    for_seeds(10, |seed| {
        for nat in [NatConfig::port_restricted(), NatConfig::symmetric()] {
            let config = PairConfig {
                seed,
                nats: [Some(nat), None],
                neighbours: true,
                ..PairConfig::default()
            };
            let (pair, took) = time_to_direct(config, 0);
            assert!(took.is_some());
            for side in SIDES {
                let Route::Direct(address) = pair.route(side) else {
                    panic!("not direct")
                };
                assert_eq!(address.ip().to_string().split('.').next(), Some("192"));
            }
        }
    });
}

#[test]
fn private_addresses_of_elsewhere_are_never_probed() {
    // Both homes use the same private range: a neighbour's address is plausible, and nobody's.
    let (pair, took) = time_to_direct(PairConfig::default(), 0);
    assert!(took.is_some());
    let roamed = PairConfig {
        nats: [None, Some(NatConfig::full_cone())],
        ..PairConfig::default()
    };
    let (other, took) = time_to_direct(roamed, 0);
    assert!(took.is_some());
    assert!(
        other.sides[0]
            .probed()
            .iter()
            .all(|ip| !ip.to_string().starts_with("192."))
    );
    // In the first pair the ranges are equal, so that one probe a round is spent on it; no more than nine.
    for side in &pair.sides {
        let wasted = side
            .probes
            .iter()
            .filter(|(_, to)| to.ip().to_string().starts_with("192."));
        assert!(wasted.count() <= 9);
    }
}

#[test]
fn before_acceptance_no_candidate_leaves_and_nothing_is_probed() {
    for_seeds(10, |seed| {
        for (accepted, relay_only) in [
            ([true, false], [false, false]),
            ([false, true], [false, false]),
            ([false, false], [false, false]),
            ([true, true], [true, false]),
            ([true, true], [false, true]),
        ] {
            let config = PairConfig {
                seed,
                accepted,
                relay_only,
                ..PairConfig::default()
            };
            let mut pair = Pair::new(config);
            pair.dial(0);
            pair.run_for(30 * SECOND);
            assert!(pair.both_relayed());
            for side in SIDES {
                let silent = !accepted[side] || relay_only[side];
                let own = &pair.sides[side];
                assert!(
                    !silent || own.offered().next().is_none(),
                    "a candidate left"
                );
                assert!(!silent || own.signals.iter().all(|(_, body)| !body.attest()));
                assert!(own.probes.is_empty(), "{:?}", own.probes);
                assert!(!silent || own.listens.is_empty());
                assert!(own.signals.len() <= 4, "{} signals", own.signals.len());
            }
        }
    });
}

#[test]
fn acceptance_inside_a_relayed_connection_starts_punching_at_once() {
    for_seeds(10, |seed| {
        let config = PairConfig {
            seed,
            accepted: [true, false],
            ..PairConfig::default()
        };
        let mut pair = Pair::new(config);
        pair.dial(0);
        pair.run_for(10 * SECOND);
        pair.input(1, Input::Accepted(true));
        let took = pair
            .run_until(10 * SECOND, Pair::both_direct)
            .expect("direct");
        assert!(2 * took <= 7 * pair.relay_round_trip(), "{took:?}");
    });
}

#[test]
fn an_acceptance_withdrawn_ends_everything_direct() {
    let (mut pair, _) = time_to_direct(PairConfig::default(), 0);
    pair.input(0, Input::Accepted(false));
    assert_eq!(pair.route(0), Route::Relay);
    assert!(pair.sides[0].listens.is_empty() && pair.sides[0].bound.is_empty());
    pair.run_for(20 * SECOND);
    assert!(pair.both_relayed());
    let before = pair.sides[0].probes.len();
    pair.run_for(60 * SECOND);
    assert_eq!(pair.sides[0].probes.len(), before);
}

#[test]
fn a_connection_no_longer_wanted_falls_silent() {
    let (mut pair, _) = time_to_direct(PairConfig::default(), 0);
    for side in SIDES {
        pair.input(side, Input::Wanted(false));
        assert!(pair.sides[side].peer.poll_timeout().is_none());
        assert!(pair.sides[side].listens.is_empty() && pair.sides[side].bound.is_empty());
    }
}

#[test]
fn a_side_that_moves_is_found_again() {
    for_seeds(20, |seed| {
        let (mut pair, _) = time_to_direct(
            PairConfig {
                seed,
                ..PairConfig::default()
            },
            0,
        );
        pair.flow(0, Some(20 * MILLI));
        pair.flow(1, Some(20 * MILLI));
        pair.run_for(5 * SECOND);
        let side = (seed % 2) as usize;
        let old = pair.route(1 - side);
        pair.roam(side, NatConfig::port_restricted());
        let moved = |pair: &Pair| pair.both_direct() && pair.route(1 - side) != old;
        let took = pair.run_until(10 * SECOND, moved).expect("direct again");
        assert!(took <= SECOND, "{took:?}");
        pair.run_for(5 * SECOND);
        assert!(pair.both_direct());
    });
}

#[test]
fn an_idle_pair_costs_one_probe_in_fifteen_seconds() {
    let (mut pair, _) = time_to_direct(PairConfig::default(), 0);
    pair.run_for(30 * SECOND);
    let sent = |pair: &Pair| {
        pair.sides
            .iter()
            .map(|side| side.probes.len())
            .sum::<usize>()
    };
    let before = sent(&pair);
    pair.run_for(10 * 60 * SECOND);
    let cost = sent(&pair) - before;
    // A probe and its pong each.
    assert!(
        (2 * 38..=2 * 41).contains(&cost),
        "{cost} packets in ten minutes"
    );
    assert!(pair.both_direct());
    assert_eq!(pair.sides[0].peer.path().switches, 1);
}
