//! The whole stack (relay, NATs, endpoints, QUIC) in virtual time: how long things take in round trips.

mod death;
mod lives;
mod loss;
mod stand;

use std::time::Duration;

use p2p_net::{
    Allocation, Connection, Ease, Filtering, Mapping, NotDirect, PathKind, RateBudget, RateMode,
    RecvStream,
};
use p2p_net_sim::{LinkConfig, Loss, NatConfig};
use stand::{PATIENCE, Stand, TCP_DIALS, start_relay, wait_path};
use tokio::time::{Instant, sleep, timeout};

/// Echoes the connection's first stream.
fn echo(connection: Connection) {
    tokio::spawn(async move {
        let (mut send, mut receive) = connection.accept().await.expect("a stream");
        while let Ok(Some(chunk)) = receive.read_chunk(1_024, true).await {
            if send.write_all(&chunk.bytes).await.is_err() {
                return;
            }
        }
        connection.closed().await;
    });
}

/// From `connect()` until the answer to a first byte, and until both sides use the direct path.
async fn meet(seed: u64, nats: [NatConfig; 2], delay: Duration) -> (Duration, Duration) {
    TCP_DIALS.set(0);
    let stand = Stand::new(seed, nats, LinkConfig::delay(delay)).await;
    let [one, two] = stand.endpoints.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let connection = two.accept().await.expect("accepted");
        let _ = tell.send(connection.clone());
        echo(connection);
    });
    let began = Instant::now();
    let dialled = timeout(PATIENCE, one.connect(stand.endpoints[1].id()))
        .await
        .expect("in time")
        .expect("connected");
    let connected = began.elapsed();
    let (mut send, mut receive) = dialled.open().await.expect("a stream");
    send.write_all(b"?").await.expect("sent");
    receive.read_exact(&mut [0]).await.expect("answered");
    let answered = began.elapsed();
    let accepted = told.await.expect("accepted");
    wait_path(&dialled, PathKind::Direct).await;
    wait_path(&accepted, PathKind::Direct).await;
    let direct = began.elapsed();
    assert!(
        connected <= 4 * delay + SLACK,
        "usable after {connected:?} with links of {delay:?}"
    );
    // UDP's head start is 300 ms: whose relay answers in that time dials no TCP.
    assert!(TCP_DIALS.get() == 0 || 2 * delay > Duration::from_millis(300));
    // Before the relay goes, which they would look for.
    for endpoint in &stand.endpoints {
        endpoint.close().await;
    }
    (answered, direct)
}

/// Ports are guessed while the relay carries the traffic; the connection moves to the lucky one without a break.
#[tokio::test(start_paused = true)]
async fn guessed_ports_carry_the_connection() {
    let easy = NatConfig::port_restricted();
    let counted = NatConfig::symmetric_sequential();
    let pairs = [
        [easy, NatConfig::symmetric_common()],
        [NatConfig::symmetric_common(), easy],
        [easy, NatConfig::symmetric_block()],
        [counted, easy],
        [counted, counted],
    ];
    for (seed, nats) in pairs.into_iter().enumerate() {
        let link = LinkConfig::delay(Duration::from_millis(20));
        let stand = Stand::new(seed as u64, nats, link).await;
        let (dialled, accepted) = stand.connect().await;
        let began = Instant::now();
        echo(accepted.clone());
        let (mut send, mut receive) = dialled.open().await.expect("a stream");
        let mut longest = Duration::ZERO;
        let both = || {
            let direct = |one: &Connection| one.path().borrow().kind == PathKind::Direct;
            direct(&dialled) && direct(&accepted)
        };
        let mut left = 300;
        while left > 0 {
            let sent = Instant::now();
            send.write_all(b"?").await.expect("sent");
            receive.read_exact(&mut [0]).await.expect("answered");
            longest = longest.max(sent.elapsed());
            sleep(Duration::from_millis(10)).await;
            // A while on the direct path, too.
            left -= u32::from(both());
            assert!(
                began.elapsed() < PATIENCE,
                "{nats:?}: {:?}",
                dialled.path().borrow().not_direct
            );
        }
        assert!(
            longest < Duration::from_millis(250),
            "a break of {longest:?}"
        );
        let moved = dialled.stats();
        assert!(moved.direct_sent_bytes > 0 && moved.direct_received_bytes > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_guessed_the_reason_is_said() {
    let hard = [NatConfig::symmetric_common(), NatConfig::symmetric_block()];
    let link = LinkConfig::delay(Duration::from_millis(20));
    let stand = Stand::new(1, hard, link).await;
    let (dialled, accepted) = stand.connect().await;
    for connection in [dialled, accepted] {
        let mut path = connection.path();
        let told = path.wait_for(|path| path.not_direct == Some(NotDirect::BothSymmetric));
        let path = timeout(PATIENCE, told)
            .await
            .expect("in time")
            .expect("alive");
        assert_eq!(path.kind, PathKind::Relayed);
    }
}

/// What the relay's two ports tell of each kind of NAT.
#[tokio::test(start_paused = true)]
async fn the_kind_of_nat_is_told_after_the_login() {
    let kinds = [
        (
            NatConfig::full_cone(),
            Mapping::EndpointIndependent,
            Allocation::Preserving,
        ),
        (
            NatConfig::port_restricted(),
            Mapping::EndpointIndependent,
            Allocation::Preserving,
        ),
        (
            NatConfig::symmetric(),
            Mapping::DestinationDependent,
            Allocation::Random,
        ),
        (
            NatConfig::symmetric_sequential(),
            Mapping::DestinationDependent,
            Allocation::Sequential,
        ),
    ];
    for (seed, (nat, mapping, allocation)) in kinds.into_iter().enumerate() {
        let link = LinkConfig::delay(Duration::from_millis(20));
        let stand = Stand::new(seed as u64, [nat, NatConfig::full_cone()], link).await;
        let mut watch = stand.endpoints[0].watch_nat();
        let report = timeout(PATIENCE, watch.wait_for(Option::is_some));
        let report = report
            .await
            .expect("in time")
            .expect("alive")
            .clone()
            .expect("there");
        assert_eq!(
            (report.mapping, report.allocation),
            (Some(mapping), Some(allocation))
        );
        assert_eq!(report.silent, []);
    }
}

/// Whoever asks is told more, at once, with no login needed for it; a connection tells its way.
#[tokio::test(start_paused = true)]
async fn the_network_is_examined_when_somebody_asks() {
    let kinds = [
        (
            NatConfig::full_cone(),
            Filtering::PortIndependent,
            Ease::Good,
        ),
        (
            NatConfig::port_restricted(),
            Filtering::AddressAndPortDependent,
            Ease::Good,
        ),
        (
            NatConfig::symmetric(),
            Filtering::AddressAndPortDependent,
            Ease::Hard,
        ),
    ];
    for (seed, (nat, filtering, ease)) in kinds.into_iter().enumerate() {
        let link = LinkConfig::delay(Duration::from_millis(20));
        let mut stand = Stand::new(seed as u64, [nat, NatConfig::full_cone()], link).await;
        let began = Instant::now();
        let report = stand.endpoints[0].examine().await.expect("alive");
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        let family = report.ipv4.as_ref().expect("IPv4");
        assert_eq!(family.nat.filtering, Some(filtering));
        assert_eq!(family.nat.hairpin, Some(false));
        assert_eq!((report.udp(), report.ease()), (Some(true), ease));
        // Each way is 20 ms; timers count whole milliseconds.
        let round_trip = report.round_trip_micros().expect("measured");
        assert!((40_000..44_000).contains(&round_trip), "{round_trip}");
        let watched = stand.endpoints[0].watch_nat().borrow().clone();
        assert_eq!(watched.as_ref(), Some(&family.nat));

        let (connection, _other) = stand.connect().await;
        wait_path(&connection, PathKind::Direct).await;
        let history = connection.history();
        assert_eq!(history[0].kind, PathKind::Relayed);
        let stats = connection.stats();
        let last = history.last().expect("an entry");
        assert_eq!((stats.path, stats.remote), (last.kind, last.remote));
        assert_eq!(stats.path, PathKind::Direct);
        assert!(stats.not_direct.is_none() && stats.sent_packets > 0);
        stand.endpoints[0].set_relay_only(connection.peer(), true);
        wait_path(&connection, PathKind::Relayed).await;
        assert_eq!(connection.stats().not_direct, Some(NotDirect::RelayOnly));

        stand.relay.take();
        let relay = stand.relay_host.clone();
        stand.net.set_up(&relay, false);
        let report = stand.endpoints[0].examine().await.expect("alive");
        assert_eq!((report.udp(), report.ease()), (Some(false), Ease::Blocked));
        assert_eq!(report.ipv4.expect("tried").nat.silent.len(), 2);
    }
}

/// Timers count whole milliseconds, on each of the links.
const SLACK: Duration = Duration::from_millis(8);

#[tokio::test(start_paused = true)]
async fn the_first_byte_takes_two_round_trips_and_the_direct_path_three_and_a_half() {
    let kinds = [
        NatConfig::full_cone(),
        NatConfig::address_restricted(),
        NatConfig::port_restricted(),
    ];
    for (seed, delay) in (0..).zip([10, 25, 50, 100, 200].map(Duration::from_millis)) {
        for (at, nat) in kinds.into_iter().enumerate() {
            let nats = [nat, kinds[(at + usize::try_from(seed).unwrap_or(0)) % 3]];
            let round_trip = 4 * delay;
            let (answered, direct) = meet(seed, nats, delay).await;
            let first = answered.div_duration_f64(round_trip);
            let direct = direct.div_duration_f64(round_trip);
            println!("{delay:?} a link: first byte {first:.2} R, direct {direct:.2} R");
            assert!(
                answered <= 2 * round_trip + SLACK,
                "first byte after {first:.2} R at {delay:?}"
            );
            assert!(direct <= 3.5, "direct after {direct:.2} R at {delay:?}");
        }
    }
}

/// Reads for `length`; the longest time without a byte.
async fn flow(receive: &mut RecvStream, length: Duration) -> Duration {
    let end = Instant::now() + length;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while Instant::now() < end {
        match timeout(end - Instant::now(), receive.read_chunk(64 << 10, true)).await {
            Ok(chunk) => {
                chunk
                    .expect("the stream lives")
                    .expect("the stream goes on");
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Err(_) => longest = longest.max(last.elapsed()),
        }
    }
    longest
}

async fn flow_until(receive: &mut RecvStream, connection: &Connection, kind: PathKind) {
    let end = Instant::now() + PATIENCE;
    while connection.path().borrow().kind != kind {
        assert!(Instant::now() < end, "the path did not become {kind:?}");
        flow(receive, Duration::from_millis(10)).await;
    }
}

/// A stream that is always full, from the first to the second endpoint.
async fn stream(stand: &Stand) -> (Connection, Connection, RecvStream) {
    let (dialled, accepted) = stand.connect().await;
    let mut send = dialled.open_uni().await.expect("a stream");
    tokio::spawn(async move {
        let block = bytes::Bytes::from(vec![7; 64 << 10]);
        while send.write_chunk(block.clone()).await.is_ok() {}
    });
    let receive = timeout(PATIENCE, accepted.accept_uni())
        .await
        .expect("in time")
        .expect("a stream");
    (dialled, accepted, receive)
}

#[tokio::test(start_paused = true)]
async fn a_cut_path_stalls_a_transfer_for_less_than_two_seconds() {
    for seed in 0..4 {
        let link = LinkConfig::delay(Duration::from_millis(25)).with_rate(20_000_000);
        let stand = Stand::new(seed, [NatConfig::port_restricted(); 2], link).await;
        let (dialled, _accepted, mut receive) = stream(&stand).await;
        flow_until(&mut receive, &dialled, PathKind::Direct).await;
        flow(&mut receive, Duration::from_secs(2)).await;
        let [one, two] = &stand.hosts;
        stand.net.cut(one, two);
        let stall = flow(&mut receive, Duration::from_secs(8)).await;
        println!("seed {seed}: stalled for {stall:?}");
        assert!(stall <= Duration::from_secs(2), "seed {seed}: {stall:?}");
        assert_eq!(dialled.path().borrow().kind, PathKind::Relayed);
        stand.net.heal(one, two);
        flow_until(&mut receive, &dialled, PathKind::Direct).await;
        assert!(!dialled.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_relayed_transfer_goes_on_after_the_relay_restarts() {
    let link = LinkConfig::delay(Duration::from_millis(20)).with_rate(20_000_000);
    let mut stand = Stand::new(5, [NatConfig::port_restricted(); 2], link).await;
    stand.endpoints[0].set_relay_only(stand.endpoints[1].id(), true);
    let (dialled, _accepted, mut receive) = stream(&stand).await;
    flow(&mut receive, Duration::from_secs(1)).await;
    // It dies without a word, and comes back on the same port with the same key.
    stand.net.set_up(&stand.relay_host, false);
    stand.relay.take().expect("the relay runs").shutdown().await;
    sleep(Duration::from_secs(3)).await;
    let reborn = start_relay(&stand.relay_host, stand.folder.path()).await;
    stand.net.set_up(&stand.relay_host, true);
    stand.relay = Some(reborn);
    let stall = flow(&mut receive, Duration::from_secs(40)).await;
    println!("stalled for {stall:?} after the relay was back");
    assert!(stall < Duration::from_secs(5), "{stall:?}");
    assert!(flow(&mut receive, Duration::from_secs(2)).await < Duration::from_secs(1));
    assert!(!dialled.is_closed());
}

/// What became of the datagrams of one flow: the share that arrived, and the 50th and 95th percentile of
/// what they waited beyond the delay of the links.
#[derive(Debug)]
struct Flow {
    arrived: f64,
    wait: [Duration; 2],
}

/// Sends pictures like a camera does, 30 a second of 9 packets, 2.5 Mbit/s in all, over 25 ms and `loss`.
async fn camera(seed: u64, loss: f64, mode: RateMode) -> Flow {
    const PICTURES: u32 = 300;
    const PACKETS: u32 = 9;
    let delay = Duration::from_millis(25);
    let perfect = LinkConfig::delay(delay);
    let stand = Stand::new(seed, [NatConfig::full_cone(); 2], perfect).await;
    let (dialled, accepted) = stand.connect().await;
    wait_path(&dialled, PathKind::Direct).await;
    wait_path(&accepted, PathKind::Direct).await;
    let [one, two] = &stand.hosts;
    stand
        .net
        .set_link(one, two, perfect.with_loss(Loss::Random(loss)));
    // Neither is the way through the relay better, which would take the call over.
    for host in &stand.hosts {
        let lossy = perfect.with_loss(Loss::Random(loss));
        stand.net.set_link(host, &stand.relay_host, lossy);
    }
    let budget = RateBudget {
        mode,
        estimate_bits_per_sec: 3_000_000,
        min_round_trip: 2 * delay,
    };
    dialled.rate_control().set(budget);
    accepted.rate_control().set(budget);
    let began = Instant::now();
    let reader = tokio::spawn(async move {
        let mut waits = Vec::new();
        while let Ok(Ok(datagram)) = timeout(Duration::from_secs(4), accepted.read_datagram()).await
        {
            let mut stamp = [0; 8];
            stamp.copy_from_slice(&datagram[1..9]);
            let sent = Duration::from_micros(u64::from_be_bytes(stamp));
            waits.push(began.elapsed().saturating_sub(sent + delay));
        }
        waits
    });
    for picture in 0..PICTURES {
        tokio::time::sleep_until(began + picture * Duration::from_secs(1) / 30).await;
        for _ in 0..PACKETS {
            let mut datagram = vec![0; 1_150];
            let now = u64::try_from(began.elapsed().as_micros()).expect("a short test");
            datagram[1..9].copy_from_slice(&now.to_be_bytes());
            dialled.send_datagram(datagram.into()).expect("alive");
        }
    }
    let mut waits = reader.await.expect("the reader ends");
    let counters = dialled.rate_control().counters();
    let seen = counters.acknowledged_bytes + counters.lost_bytes;
    let share = seen as f64 / counters.sent_bytes as f64;
    assert!((0.98..1.02).contains(&share), "{counters:?}");
    waits.sort_unstable();
    let arrived = waits.len() as f64 / f64::from(PICTURES * PACKETS);
    let at = |percent: usize| waits.get(waits.len() * percent / 100);
    let wait = [50, 95].map(|percent| at(percent).copied().unwrap_or_default());
    Flow { arrived, wait }
}

#[tokio::test(start_paused = true)]
async fn a_call_rules_its_window_whatever_is_lost() {
    for seed in 0..3 {
        let call = camera(seed, 0.05, RateMode::Call).await;
        println!("seed {seed}: {call:?}");
        assert!(call.arrived >= 0.94, "seed {seed}: {}", call.arrived);
        let [middle, late] = call.wait;
        assert!(
            middle <= Duration::from_millis(5),
            "seed {seed}: {middle:?}"
        );
        assert!(late <= Duration::from_millis(15), "seed {seed}: {late:?}");
    }
    let streams = camera(0, 0.05, RateMode::Streams).await;
    println!("without a call: {streams:?}");
    assert!(streams.arrived < 0.8, "without a call: {}", streams.arrived);
}
