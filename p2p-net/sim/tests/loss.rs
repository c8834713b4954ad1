//! A direct path that loses packets, beside a relay that does or does not.

use std::time::Duration;

use p2p_net_proto::Route;
use p2p_net_sim::pair::{Pair, PairConfig, SIDES};
use p2p_net_sim::{LinkConfig, Loss, for_seeds};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// 6 Mbit/s, out of step with probes, which would find the same place in the queue each time.
const FLOOD: Duration = Duration::from_micros(1_351);
const LOSSY: Loss = Loss::Random(0.05);

/// A call between two direct peers, that has gone on for a while.
fn calling(seed: u64) -> Pair {
    let delay = [10, 20, 40, 80][(seed % 4) as usize] * MILLI;
    let mut pair = Pair::new(PairConfig {
        seed,
        direct: link(seed),
        relay_delay: [delay; 2],
        ..PairConfig::default()
    });
    pair.dial(0);
    pair.run_until(10 * SECOND, Pair::both_direct)
        .expect("ordinary pairs become direct");
    pair.set_call(true);
    for side in SIDES {
        pair.flow(side, Some(20 * MILLI));
    }
    pair.run_for(10 * SECOND);
    pair
}

/// The direct link of [`calling`].
fn link(seed: u64) -> LinkConfig {
    let delay = [5, 20, 30, 80][(seed % 4) as usize] * MILLI;
    LinkConfig::delay(delay).with_jitter(delay / 10)
}

/// How often a side has gone from a direct path to the relay since.
fn departures(pair: &Pair, side: usize, since: Duration) -> usize {
    left(pair, side, since).count()
}

/// Of those, the ones from a path that was not suspected of being dead: for its losses, or as too slow.
fn choices(pair: &Pair, side: usize, since: Duration) -> usize {
    left(pair, side, since).filter(|suspect| !suspect).count()
}

fn left(pair: &Pair, side: usize, since: Duration) -> impl Iterator<Item = bool> {
    let routes = &pair.sides[side].routes;
    routes.windows(2).filter_map(move |two| {
        let [(_, from, suspect), (at, to, _)] = two else {
            return None;
        };
        let left = *at > since && matches!(from, Route::Direct(_)) && *to == Route::Relay;
        left.then_some(*suspect)
    })
}

fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

#[test]
fn a_clean_relay_takes_a_call_from_a_lossy_path() {
    let mut times = Vec::new();
    for_seeds(50, |seed| {
        let mut pair = calling(seed);
        pair.set_direct(link(seed).with_loss(LOSSY));
        let since = pair.elapsed();
        pair.run_until(20 * SECOND, Pair::both_relayed)
            .expect("the relay wins");
        pair.run_for(120 * SECOND);
        for side in &pair.sides {
            let left =
                |(at, route, _): &&(Duration, Route, bool)| *at > since && *route == Route::Relay;
            let left = side.routes.iter().find(left).map(|(at, _, _)| *at);
            let took = left.expect("it left") - since;
            times.push(took);
        }
        for side in SIDES {
            let left = departures(&pair, side, since);
            assert!(left <= 2, "{left} departures in two minutes");
        }
    });
    let [middle, late] = [50, 95].map(|percent| percentile(&mut times, percent));
    println!("on the relay after {middle:?} p50, {late:?} p95");
    let quick = times.iter().filter(|took| **took <= 3 * SECOND).count();
    println!("{quick} of {} within 3 s", times.len());
    assert!(middle <= 3 * SECOND && late <= 6 * SECOND);
    assert!(quick * 10 >= times.len() * 7);
}

#[test]
fn a_path_that_heals_comes_back_and_stays() {
    for_seeds(10, |seed| {
        let mut pair = calling(seed);
        pair.set_direct(link(seed).with_loss(LOSSY));
        pair.run_until(20 * SECOND, Pair::both_relayed)
            .expect("the relay wins");
        pair.run_for(10 * SECOND);
        pair.set_direct(link(seed));
        let back = pair
            .run_until(60 * SECOND, Pair::both_direct)
            .expect("direct again");
        assert!(back >= 10 * SECOND && back <= 25 * SECOND, "{back:?}");
        let since = pair.elapsed();
        pair.run_for(120 * SECOND);
        assert!(pair.both_direct());
        assert_eq!(departures(&pair, 0, since), 0);
    });
}

#[test]
fn loss_that_comes_and_goes_makes_few_flaps() {
    for_seeds(4, |seed| {
        let mut pair = calling(seed);
        let since = pair.elapsed();
        // It is lossy whenever it is used, and clean whenever it is not.
        for _ in 0..600 {
            let used = SIDES
                .iter()
                .any(|side| matches!(pair.route(*side), Route::Direct(_)));
            let loss = if used { LOSSY } else { Loss::None };
            pair.set_direct(link(seed).with_loss(loss));
            pair.run_for(SECOND);
        }
        for side in SIDES {
            let left = departures(&pair, side, since);
            assert!((3..=11).contains(&left), "{left} in ten minutes");
        }
    });
}

#[test]
fn ways_that_lose_alike_stay_as_they_are() {
    let mut departed = 0;
    for_seeds(30, |seed| {
        let mut pair = calling(seed);
        let loss = [Loss::Random(0.02), LOSSY, Loss::Random(0.1)][(seed % 3) as usize];
        pair.set_direct(link(seed).with_loss(loss));
        pair.set_relay_link(LinkConfig::default().with_loss(loss));
        let since = pair.elapsed();
        pair.run_for(120 * SECOND);
        departed += SIDES
            .iter()
            .map(|side| departures(&pair, *side, since))
            .sum::<usize>();
    });
    println!("{departed} departures in two hours of calls, each side counted");
    assert!(departed <= 3, "{departed}");
}

#[test]
fn a_little_loss_is_no_reason() {
    for_seeds(10, |seed| {
        let mut pair = calling(seed);
        pair.set_direct(link(seed).with_loss(Loss::Random(0.005)));
        let since = pair.elapsed();
        pair.run_for(120 * SECOND);
        for side in SIDES {
            let routes = &pair.sides[side].routes;
            assert_eq!(departures(&pair, side, since), 0, "{routes:?}");
        }
        let probes = pair.relayed_probes();
        assert!(probes <= 6_000, "{probes} probes through the relay");
    });
}

#[test]
fn a_burst_now_and_then_is_no_reason() {
    for_seeds(10, |seed| {
        let mut pair = calling(seed);
        let since = pair.elapsed();
        for _ in 0..6 {
            pair.set_direct(link(seed).with_loss(Loss::Random(0.4)));
            pair.run_for(400 * MILLI);
            pair.set_direct(link(seed));
            pair.run_for(20 * SECOND);
        }
        let left: usize = SIDES
            .iter()
            .map(|side| departures(&pair, *side, since))
            .sum();
        assert_eq!(left, 0, "left in a burst");
    });
}

#[test]
fn a_clean_path_costs_no_probe_through_the_relay() {
    let pair = calling(1);
    assert_eq!(pair.relayed_probes(), 0);
}

#[test]
fn our_own_congestion_is_no_fault_of_the_path() {
    for_seeds(8, |seed| {
        let mut pair = calling(seed);
        let since = pair.elapsed();
        // 6 Mbit/s into 5: in a call that asks for too much, or a transfer that fills what there is.
        let uplink = LinkConfig::default().with_rate(5_000_000);
        pair.set_uplinks(Some(uplink));
        pair.set_call(seed % 2 == 0);
        pair.flow(0, Some(FLOOD));
        pair.run_for(60 * SECOND);
        assert_eq!(choices(&pair, 0, since), 0, "the relay shares the line");
    });
}

#[test]
fn a_queue_on_the_direct_way_alone_is_ours_too() {
    for_seeds(8, |seed| {
        let mut pair = calling(seed);
        let since = pair.elapsed();
        pair.set_direct(link(seed).with_rate(5_000_000));
        pair.set_call(seed % 2 == 0);
        pair.flow(0, Some(FLOOD));
        pair.run_for(30 * SECOND);
        assert_eq!(choices(&pair, 0, since), 0, "we fill it ourselves");
    });
}
