//! The direct path dies without a word under 50 datagrams a second, or under a stream: for how long nothing
//! arrives. R from 20 to 200 ms, 100 runs of each kind.

use std::time::Duration;

use bytes::Bytes;
use p2p_net::{Connection, Duplicate, PathKind};
use p2p_net_sim::{LinkConfig, NatConfig, for_seeds};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::stand::{Stand, wait_path};

const MILLI: Duration = Duration::from_millis(1);
/// 50 packets a second, as a microphone sends them.
const INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of one, such as Opus at 48 kbit/s makes.
const SIZE: usize = 120;
const RUNS: u64 = 100;
/// The flow has settled, and the flow's habits are known.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(4);

/// Which of the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ways {
    Both,
    /// From the first to the second.
    One,
}

/// R of this run: from 20 to 200 ms.
fn round_trip(seed: u64) -> Duration {
    Duration::from_micros(20_000 + 180_000 * seed / (RUNS - 1))
}

/// A pair whose relay is R away, and whose direct path takes between a third of R and all of it.
async fn pair(seed: u64) -> (Stand, Connection, Connection) {
    let whole = round_trip(seed);
    let nats = [
        [NatConfig::port_restricted(), NatConfig::full_cone()],
        [NatConfig::port_restricted(); 2],
        [NatConfig::symmetric(), NatConfig::address_restricted()],
    ];
    let stand = Stand::new(
        seed,
        nats[(seed % 3) as usize],
        LinkConfig::delay(whole / 4),
    )
    .await;
    let [one, two] = &stand.hosts;
    let direct = whole / [6, 4, 3, 2][(seed % 4) as usize];
    let link = LinkConfig::delay(direct).with_jitter(direct / 10);
    stand.net.set_link(one, two, link);
    let (dialled, accepted) = stand.connect().await;
    wait_path(&dialled, PathKind::Direct).await;
    wait_path(&accepted, PathKind::Direct).await;
    (stand, dialled, accepted)
}

/// Sends for ever.
pub(crate) fn talk(connection: &Connection) -> JoinHandle<()> {
    let connection = connection.clone();
    tokio::spawn(async move {
        let began = Instant::now();
        for number in 0_u32.. {
            sleep_until(began + number * INTERVAL).await;
            let mut packet = vec![0; SIZE];
            packet[1..5].copy_from_slice(&number.to_be_bytes());
            if connection.send_datagram(Bytes::from(packet)).is_err() {
                return;
            }
        }
    })
}

/// The longest time without a datagram until `end`, beginning with the first that comes; and that none came twice.
fn listen(connection: &Connection, end: Instant) -> JoinHandle<Duration> {
    let connection = connection.clone();
    tokio::spawn(async move {
        let mut seen = std::collections::BTreeSet::new();
        let (mut last, mut longest) = (None::<Instant>, Duration::ZERO);
        while let Ok(Ok(datagram)) = timeout(
            end.saturating_duration_since(Instant::now()),
            connection.read_datagram(),
        )
        .await
        {
            assert!(seen.insert(datagram), "it came twice");
            longest = longest.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
            last = Some(Instant::now());
        }
        longest.max(last.map_or(longest, |last| last.elapsed()))
    })
}

/// One run: the gaps of the flows that lost their way.
async fn die(seed: u64, flow: Ways, cut: Ways, policy: Duplicate) -> Vec<Duration> {
    let (stand, dialled, accepted) = pair(seed).await;
    for endpoint in &stand.endpoints {
        endpoint.set_duplicate(policy);
    }
    let (id, switches) = (dialled.stable_id(), dialled.stats().path_switches);
    let end = Instant::now() + BEFORE + AFTER;
    let mut talkers = vec![talk(&dialled)];
    let mut listeners = vec![listen(&accepted, end)];
    if flow == Ways::Both {
        talkers.push(talk(&accepted));
        listeners.push(listen(&dialled, end));
    }
    // Not always at the same moment of the flow.
    sleep(BEFORE + MILLI * (seed % 20) as u32).await;
    let [one, two] = &stand.hosts;
    match cut {
        Ways::Both => stand.net.cut(one, two),
        Ways::One => stand.net.cut_one_way(one, two),
    }
    let mut gaps = Vec::new();
    for (at, listener) in listeners.into_iter().enumerate() {
        let gap = listener.await.expect("it ends");
        if at == 0 || cut == Ways::Both {
            gaps.push(gap);
        }
    }
    talkers.iter().for_each(JoinHandle::abort);
    assert!(
        !dialled.is_closed() && dialled.stable_id() == id,
        "no reconnect"
    );
    assert_eq!(dialled.path().borrow().kind, PathKind::Relayed);
    assert_eq!(dialled.stats().path_switches, switches + 1);
    gaps
}

/// The 50th and 99th percentile, and the longest.
fn percentiles(mut all: Vec<Duration>) -> [Duration; 3] {
    all.sort_unstable();
    let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    [at(50), at(99), at(100)]
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

/// The gaps of `runs` runs.
#[expect(clippy::print_stdout, reason = "the figures are what the runs are for")]
fn gaps(runs: u64, flow: Ways, cut: Ways, policy: Duplicate) -> [Duration; 3] {
    let mut gaps = Vec::new();
    for_seeds(runs, |seed| {
        // Few runs have round trips from the whole range, too.
        let seed = seed * (RUNS / runs);
        gaps.extend(run(die(seed, flow, cut, policy)));
    });
    let all @ [middle, late, longest] = percentiles(gaps);
    println!(
        "{runs} runs, flow {flow:?}, cut {cut:?}, {policy:?}: \
         p50 {middle:?}, p99 {late:?}, longest {longest:?}"
    );
    all
}

#[test]
fn a_flow_outlives_the_silent_death_of_its_path() {
    let [middle, late, _] = gaps(RUNS, Ways::Both, Ways::Both, Duplicate::Suspect);
    assert!(middle <= 150 * MILLI && late <= 800 * MILLI);
}

#[test]
fn a_flow_in_one_direction_does_so_too() {
    let [middle, late, _] = gaps(RUNS, Ways::One, Ways::Both, Duplicate::Suspect);
    assert!(middle <= 150 * MILLI && late <= 800 * MILLI);
}

#[test]
fn a_path_that_dies_in_one_direction_is_missed_by_the_other_end() {
    let [middle, late, _] = gaps(RUNS / 4, Ways::Both, Ways::One, Duplicate::Suspect);
    assert!(middle <= 250 * MILLI && late <= 800 * MILLI);
    let [middle, late, _] = gaps(RUNS / 4, Ways::One, Ways::One, Duplicate::Suspect);
    assert!(middle <= 200 * MILLI && late <= 800 * MILLI);
}

#[test]
fn what_always_goes_both_ways_hardly_pauses() {
    let [middle, late, _] = gaps(RUNS, Ways::Both, Ways::Both, Duplicate::Always);
    assert!(middle <= 60 * MILLI && late <= 150 * MILLI);
    let [middle, _, _] = gaps(RUNS / 4, Ways::One, Ways::One, Duplicate::Always);
    assert!(middle <= 60 * MILLI);
}

#[test]
fn without_copies_the_relay_takes_over_all_the_same() {
    let [_, late, _] = gaps(RUNS / 4, Ways::Both, Ways::Both, Duplicate::Never);
    assert!(late <= 800 * MILLI);
}

/// A stream that is always full, over 20 Mbit/s: the longest time without a byte.
async fn stall(seed: u64) -> Duration {
    let (stand, dialled, accepted) = pair(seed).await;
    let [one, two] = &stand.hosts;
    let direct = round_trip(seed) / [6, 4, 3, 2][(seed % 4) as usize];
    let link = LinkConfig::delay(direct).with_rate(20_000_000);
    stand.net.set_link(one, two, link);
    let mut send = dialled.open_uni().await.expect("a stream");
    let writer = tokio::spawn(async move {
        let block = Bytes::from(vec![7; 64 << 10]);
        while send.write_chunk(block.clone()).await.is_ok() {}
    });
    let mut receive = accepted.accept_uni().await.expect("a stream");
    super::flow(&mut receive, BEFORE).await;
    let (id, switches) = (dialled.stable_id(), dialled.stats().path_switches);
    stand.net.cut(one, two);
    let stall = super::flow(&mut receive, AFTER).await;
    writer.abort();
    assert!(!dialled.is_closed() && dialled.stable_id() == id);
    assert_eq!(dialled.stats().path_switches, switches + 1);
    stall
}

#[test]
fn a_stream_moves_again_soon() {
    let mut stalls = Vec::new();
    for_seeds(RUNS / 5, |seed| stalls.push(run(stall(seed * 5))));
    let [middle, late, longest] = percentiles(stalls);
    println!(
        "{} runs of a stream: p50 {middle:?}, p99 {late:?}, longest {longest:?}",
        RUNS / 5
    );
    assert!(late <= 800 * MILLI);
}
