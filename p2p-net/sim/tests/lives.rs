//! Random lives of a pair: whatever happens to networks and relay, and in whatever order, once all is well
//! again the two are direct, and neither machine has sent without bounds.

use std::time::Duration;

use p2p_net_proto::Input;
use p2p_net_sim::pair::{Pair, PairConfig, SIDES};
use p2p_net_sim::{LinkConfig, Loss, NatConfig, for_seeds};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const EVENTS: usize = 40;

fn nat(random: &mut Xoshiro256PlusPlus) -> NatConfig {
    match random.random_range(0..3) {
        0 => NatConfig::full_cone(),
        1 => NatConfig::address_restricted(),
        _ => NatConfig::port_restricted(),
    }
}

fn event(pair: &mut Pair, random: &mut Xoshiro256PlusPlus) {
    let side = random.random_range(0..2);
    match random.random_range(0..14) {
        0 => pair.cut(),
        1 => pair.cut_from(side),
        2 | 3 => pair.heal(),
        4 => pair.set_relay(false),
        5 | 6 => pair.set_relay(true),
        7 => pair.rebind(side),
        8 => pair.roam(side, nat(random)),
        9 => pair.dial(side),
        10 => pair.flow(side, Some(20 * MILLI)),
        11 => pair.flow(side, None),
        12 => pair.input(side, Input::Accepted(false)),
        _ => pair.input(side, Input::Accepted(true)),
    }
}

#[test]
fn once_all_is_well_again_the_two_are_direct() {
    for_seeds(150, |seed| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let nats = [Some(nat(&mut random)), Some(nat(&mut random))];
        let loss = Loss::Random(f64::from(random.random_range(0..10)) / 100.0);
        // Never clearly worse than the relay, which would then rightly keep the traffic.
        let direct = LinkConfig::delay(random.random_range(1..50) * MILLI).with_loss(loss);
        let relay_delay = SIDES.map(|_| random.random_range(20..100) * MILLI);
        let mut pair = Pair::new(PairConfig {
            seed,
            nats,
            direct,
            relay_delay,
            ..PairConfig::default()
        });
        pair.dial(0);
        for _ in 0..EVENTS {
            event(&mut pair, &mut random);
            pair.run_for(random.random_range(0..2_000) * MILLI);
        }
        let lived = pair.elapsed().as_secs_f64();
        for side in &pair.sides {
            let rate = side.probes.len() as f64 / lived;
            // To punch, in doubt, and to compare the ways where packets are lost; 31 was the most seen.
            assert!(rate < 40.0, "{rate} probes a second");
        }
        pair.heal();
        pair.set_direct(direct.with_loss(Loss::None));
        pair.set_relay(true);
        for side in SIDES {
            pair.flow(side, None);
            pair.input(side, Input::Accepted(true));
        }
        // A path that lost to the relay again and again must be clean for a minute.
        let took = pair.run_until(90 * SECOND, Pair::both_direct);
        assert!(took.is_some(), "still not direct; lived {lived} s");
        // Idle from now on: nothing may go on forever.
        pair.run_for(400 * SECOND);
        assert!(pair.both_direct(), "and it stays so");
        let before: usize = pair.sides.iter().map(|side| side.probes.len()).sum();
        pair.run_for(60 * SECOND);
        let after: usize = pair.sides.iter().map(|side| side.probes.len()).sum();
        assert!(
            after - before <= 30,
            "{} packets in an idle minute",
            after - before
        );
    });
}

#[test]
fn the_same_seed_lives_the_same_life() {
    let life = |seed| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let direct = LinkConfig::delay(20 * MILLI).with_loss(Loss::Random(0.1));
        let mut pair = Pair::new(PairConfig {
            seed,
            direct,
            ..PairConfig::default()
        });
        pair.dial(0);
        for _ in 0..EVENTS {
            event(&mut pair, &mut random);
            pair.run_for(300 * MILLI);
        }
        let [one, other] = &pair.sides;
        (
            one.routes.clone(),
            other.routes.clone(),
            one.probes.clone(),
            pair.counters(),
        )
    };
    for_seeds(5, |seed| assert_eq!(life(seed), life(seed)));
}
