//! A call over a direct path that loses packets, beside a clean relay.

use std::time::Duration;

use p2p_net::{Connection, PathKind, RateBudget, RateMode};
use p2p_net_sim::{LinkConfig, Loss, NatConfig, for_seeds};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::death::{run, talk};
use crate::stand::{Stand, wait_path};

/// How long until the connection's packets go through the relay.
async fn leaves(connection: &Connection) -> Option<Duration> {
    let began = Instant::now();
    let mut path = connection.path();
    let relayed = path.wait_for(|path| path.kind == PathKind::Relayed);
    let relayed = timeout(Duration::from_secs(20), relayed).await;
    relayed.is_ok().then(|| began.elapsed())
}

/// A call over a path with this loss both ways; how long each side took to leave it.
async fn call(seed: u64, loss: Loss, mode: RateMode) -> [Option<Duration>; 2] {
    let delay = Duration::from_millis([10, 20, 40][(seed % 3) as usize]);
    let perfect = LinkConfig::delay(delay);
    let stand = Stand::new(seed, [NatConfig::port_restricted(); 2], perfect).await;
    let (dialled, accepted) = stand.connect().await;
    let both = [&dialled, &accepted];
    let mut talkers: Vec<JoinHandle<()>> = Vec::new();
    for connection in both {
        wait_path(connection, PathKind::Direct).await;
        connection.rate_control().set(RateBudget {
            mode,
            estimate_bits_per_sec: 1_000_000,
            min_round_trip: 2 * delay,
        });
        talkers.push(talk(connection));
    }
    sleep(Duration::from_secs(5)).await;
    let [one, two] = &stand.hosts;
    stand.net.set_link(one, two, perfect.with_loss(loss));
    let (first, second) = tokio::join!(leaves(&dialled), leaves(&accepted));
    let switches = dialled.stats().path_switches;
    sleep(Duration::from_secs(60)).await;
    let flaps = dialled.stats().path_switches - switches;
    assert!(flaps <= 2, "{flaps} switches in a minute");
    talkers.iter().for_each(JoinHandle::abort);
    assert!(!dialled.is_closed() && !accepted.is_closed());
    [first, second]
}

#[test]
fn a_call_leaves_a_lossy_path_for_a_clean_relay() {
    let mut times = Vec::new();
    for_seeds(20, |seed| {
        let left = run(call(seed, Loss::Random(0.05), RateMode::Call));
        times.extend(left.map(|left| left.expect("the relay is better")));
    });
    times.sort_unstable();
    let quick = times.iter().filter(|took| took.as_secs() < 3).count();
    println!(
        "on the relay after {:?} p50, {:?} at most, {quick} of {} within 3 s",
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
    assert!(quick * 10 >= times.len() * 7);
}

#[test]
fn a_call_stays_on_a_clean_path() {
    for_seeds(4, |seed| {
        let left = run(call(seed, Loss::None, RateMode::Call));
        assert_eq!(left, [None; 2]);
    });
}
