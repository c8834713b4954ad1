//! What translators and networks do to a call while it goes on: flushed tables, new ports, mappings that end by the
//! clock, another uplink.

use std::time::Duration;

use p2p_net_proto::Route;
use p2p_net_sim::pair::{Pair, PairConfig, SIDES};
use p2p_net_sim::{NatConfig, for_seeds};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A direct pair with 50 packets a second each way, behind these.
fn talking(seed: u64, nats: [Option<NatConfig>; 2]) -> Pair {
    let mut pair = Pair::new(PairConfig {
        seed,
        nats,
        ..PairConfig::default()
    });
    pair.dial(0);
    pair.run_until(10 * SECOND, Pair::both_direct)
        .expect("ordinary pairs become direct");
    for side in SIDES {
        pair.flow(side, Some(20 * MILLI));
    }
    // Not always at the same moment of the flow.
    pair.run_for(5 * SECOND + MILLI * (seed % 20) as u32);
    pair
}

/// How often a side went to the relay since.
fn fall_backs(pair: &Pair, since: Duration) -> usize {
    let routes = pair.sides.iter().flat_map(|side| &side.routes);
    routes
        .filter(|(at, route, _)| *at > since && *route == Route::Relay)
        .count()
}

fn longest_gap(pair: &Pair, since: Duration) -> Duration {
    let gaps = SIDES.map(|side| pair.sides[side].longest_gap(since, pair.elapsed()));
    gaps[0].max(gaps[1])
}

fn lenient() -> [Option<NatConfig>; 3] {
    [
        None,
        Some(NatConfig::full_cone()),
        Some(NatConfig::address_restricted()),
    ]
}

#[test]
fn a_flushed_table_is_nothing_before_a_lenient_peer() {
    for_seeds(30, |seed| {
        let peer = lenient()[(seed % 3) as usize];
        let mut pair = talking(seed, [Some(NatConfig::port_restricted()), peer]);
        let since = pair.elapsed();
        pair.flush(0);
        pair.run_for(10 * SECOND);
        assert_eq!(fall_backs(&pair, since), 0);
        let gap = longest_gap(&pair, since);
        assert!(gap <= 100 * MILLI, "{gap:?}");
    });
}

#[test]
fn other_ports_are_found_by_a_lenient_peer() {
    let mut longest = Duration::ZERO;
    for_seeds(30, |seed| {
        let peer = lenient()[(seed % 3) as usize];
        let mut pair = talking(seed, [Some(NatConfig::port_restricted()), peer]);
        let since = pair.elapsed();
        pair.rebind(0);
        pair.run_for(10 * SECOND);
        assert_eq!(fall_backs(&pair, since), 0);
        longest = longest.max(longest_gap(&pair, since));
    });
    println!("other ports before a lenient peer: gap {longest:?} at most");
    assert!(longest <= 300 * MILLI);
}

#[test]
fn other_ports_between_strict_translators_are_direct_again_soon() {
    let (mut gaps, mut returns) = (Vec::new(), Vec::new());
    for_seeds(50, |seed| {
        let strict = Some(NatConfig::port_restricted());
        let mut pair = talking(seed, [strict; 2]);
        let since = pair.elapsed();
        pair.rebind((seed % 2) as usize);
        let doubted = |pair: &Pair| {
            let mut routes = pair.sides.iter().flat_map(|side| &side.routes);
            routes.any(|(at, _, suspect)| *at > since && *suspect)
        };
        pair.run_until(2 * SECOND, doubted).expect("noticed");
        let detected = pair.elapsed();
        let old = SIDES.map(|side| pair.route(side));
        let again = |pair: &Pair| {
            pair.both_direct() && SIDES.iter().any(|side| pair.route(*side) != old[*side])
        };
        pair.run_until(5 * SECOND, again).expect("direct again");
        returns.push(pair.elapsed() - detected);
        pair.run_for(5 * SECOND);
        assert!(pair.both_direct());
        gaps.push(longest_gap(&pair, since));
    });
    let (gap, back) = (gaps.iter().max(), returns.iter().max());
    println!("other ports, both strict: gap {gap:?}, direct again after {back:?} at most");
    assert!(gap <= Some(&(800 * MILLI)) && back <= Some(&SECOND));
}

#[test]
fn mappings_that_end_by_the_clock_are_survived() {
    for (name, peer) in ["open", "full cone", "address-restricted", "port-restricted"]
        .into_iter()
        .zip(
            lenient()
                .into_iter()
                .chain([Some(NatConfig::port_restricted())]),
        )
    {
        let strict = peer == Some(NatConfig::port_restricted());
        let (mut fallen, mut longest) = (0, Duration::ZERO);
        for_seeds(4, |seed| {
            let nat = NatConfig::port_restricted().with_lifetime(60 * SECOND);
            let mut pair = talking(seed, [Some(nat), peer]);
            let since = pair.elapsed();
            pair.run_for(300 * SECOND);
            fallen += fall_backs(&pair, since);
            longest = longest.max(longest_gap(&pair, since));
            assert!(pair.both_direct() || strict);
        });
        println!("60 s mappings, peer {name}: {fallen} fall-backs in 20 min, gap {longest:?}");
        assert_eq!(fallen, 0);
        assert!(longest <= 800 * MILLI, "{longest:?}");
    }
}

#[test]
fn another_uplink_is_taken_within_a_second() {
    let mut longest = Duration::ZERO;
    for_seeds(30, |seed| {
        let strict = Some(NatConfig::port_restricted());
        let mut pair = talking(seed, [strict; 2]);
        let since = pair.elapsed();
        pair.roam((seed % 2) as usize, NatConfig::port_restricted());
        pair.run_until(5 * SECOND, |pair| pair.elapsed() > since + SECOND);
        pair.run_until(10 * SECOND, Pair::both_direct)
            .expect("direct again");
        pair.run_for(2 * SECOND);
        longest = longest.max(longest_gap(&pair, since));
    });
    println!("another uplink: gap {longest:?} at most");
    assert!(longest <= SECOND);
}
