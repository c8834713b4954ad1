//! Whole lives of the whole stack, all of whose networks and mishaps follow from a seed: two endpoints meet,
//! talk, suffer, recover and part. `LANDLINE_SIM_SEED=n` lives one again, `LANDLINE_LIVES=n` so many. What
//! TLS and QUIC draw by themselves (keys, ids) is not repeated; networks, faults and traffic are.

mod talk;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use p2p_net::{
    Config, Endpoint, Identity, NotDirect, PathInfo, PathKind, RelayAddress, RelayState,
};
use p2p_net_sim::kinds::{Hope, Kind, hope};
use p2p_net_sim::{
    Captured, LinkConfig, Loss, NatConfig, Place, SEED_VARIABLE, SimHost, SimNet, many_lives,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use relay::Relay;
use tokio::time::{Instant, sleep, timeout};

use talk::Talk;

use crate::stand::{PATIENCE, RELAY_PORT, Sockets, start_relay};

/// Lives in each run of the tests, twenty of each pair of translators: fifty seconds of one core, so that they fit
/// into three minutes on a slow machine that does other things as well.
const LIVES: u64 = 980;
/// As many as the pure state machines live: some ten minutes, too long for each run of the tests.
const MANY_LIVES: u64 = 10_000;
const AGAIN: &str =
    "cargo test -p p2p-net --test virtual_time lives_of_the_whole_stack -- --nocapture";
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Timers count whole milliseconds, on each of the links, and the goal allows for 50 ms of work.
const SLACK: Duration = Duration::from_millis(50);
/// The longest time without a new byte after a fault: a new login may be needed first, and the interfaces are
/// looked at each four seconds.
const STALL: Duration = Duration::from_secs(12);
/// The same after the relay was away: it must be missed, and each try to come back may have begun just before.
const LOGIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The direct path dies without a word, and heals.
    Cut,
    /// The relay's machine goes away, and comes back with the same key.
    Relay,
    /// A side gets another address, behind a translator of the same kind.
    Roam,
    /// A translator forgets its table and takes other ports.
    Rebind,
    /// A translator forgets its table.
    Flush,
    /// A side keeps its addresses back for a while.
    RelayOnly,
}

const FAULTS: [Fault; 6] = [
    Fault::Cut,
    Fault::Relay,
    Fault::Roam,
    Fault::Rebind,
    Fault::Flush,
    Fault::RelayOnly,
];

/// What a seed says.
#[derive(Debug, Clone)]
struct Plan {
    seed: u64,
    kinds: [Kind; 2],
    legs: [Duration; 2],
    direct: LinkConfig,
    clean: bool,
    dialler: usize,
    /// The callee accepts the caller only so long after the call, or at once.
    accepted_after: Option<Duration>,
    /// What happens, to whom, for how long.
    faults: Vec<(Fault, usize, Duration)>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let kinds = [
            Kind::ALL[(seed % 7) as usize],
            Kind::ALL[(seed / 7 % 7) as usize],
        ];
        let mut delay = || random.random_range(10..=200) * MILLI;
        let legs = [delay(), delay()];
        let mut direct = LinkConfig::delay(delay());
        let clean = random.random_bool(0.5);
        if !clean {
            direct.loss = Loss::Random(f64::from(random.random_range(0..=30)) / 1_000.0);
            direct.jitter = direct.delay * random.random_range(0..=20) / 100;
        }
        let late = random.random_bool(0.1);
        let faults = (0..random.random_range(1..=2)).map(|_| {
            let fault = FAULTS[random.random_range(0..FAULTS.len())];
            (
                fault,
                random.random_range(0..2),
                random.random_range(200..3_000) * MILLI,
            )
        });
        let faults = faults.collect();
        Self {
            seed,
            kinds,
            legs,
            direct,
            clean,
            dialler: random.random_range(0..2),
            accepted_after: late.then(|| random.random_range(500..3_000) * MILLI),
            faults,
        }
    }

    fn relay_round_trip(&self) -> Duration {
        (self.legs[0] + self.legs[1]) * 2
    }

    /// The direct path is so long that the relay may rightly keep the traffic.
    fn relay_may_win(&self) -> bool {
        let relayed = self.relay_round_trip();
        (self.direct.delay + self.direct.jitter) * 20
            > (relayed + (50 * MILLI).max(relayed / 2)) * 8
    }

    fn must_be_direct(&self) -> bool {
        hope(self.kinds) == Hope::Ordinary && !self.relay_may_win()
    }
}

/// What a life showed.
#[derive(Debug, Default)]
struct Shown {
    /// From the dial to the answer to a first byte, in a world without loss: beyond 2 R.
    first_byte_over: Option<Duration>,
    /// From the dial to the direct path on both sides: beyond 1 R + 1.5 Rd.
    direct_over: Option<Duration>,
    lost: bool,
    faults: Vec<(Fault, Duration)>,
    virtual_time: Duration,
}

struct World {
    plan: Plan,
    net: SimNet,
    hosts: [SimHost; 2],
    relay_host: SimHost,
    endpoints: [Endpoint; 2],
    relay: Option<Relay>,
    folder: tempfile::TempDir,
}

impl World {
    async fn new(plan: Plan) -> Self {
        let net = SimNet::new(plan.seed);
        let relay_host = net.host();
        let hosts = plan.kinds.map(|kind| match kind.nat() {
            Some(nat) => net.host_behind(nat),
            None => net.host(),
        });
        for (host, leg) in hosts.iter().zip(plan.legs) {
            net.set_link(host, &relay_host, LinkConfig::delay(leg));
        }
        net.set_link(&hosts[0], &hosts[1], plan.direct);
        let folder = tempfile::tempdir().expect("a folder");
        let relay = start_relay(&relay_host, folder.path()).await;
        let address = RelayAddress {
            host: relay_host.address().to_string(),
            port: RELAY_PORT,
            ..relay.address()
        };
        let bind = |side: usize| {
            let config = Config {
                identity: Identity::from_secret([side as u8 + 1; 32]),
                relay: Some(address.clone()),
                port: 0,
                sockets: Some(Arc::new(Sockets(hosts[side].clone()))),
            };
            Endpoint::bind(config).expect("an endpoint")
        };
        let endpoints = [bind(0), bind(1)];
        let world = Self {
            plan,
            net,
            hosts,
            relay_host,
            endpoints,
            relay: Some(relay),
            folder,
        };
        for endpoint in &world.endpoints {
            let mut state = endpoint.watch_relay();
            let online = state.wait_for(|state| matches!(state, RelayState::Online { .. }));
            timeout(PATIENCE, online)
                .await
                .expect("online")
                .expect("alive");
        }
        // The way to the relay has been measured once or twice by now.
        sleep(7 * SECOND).await;
        world
    }

    fn side(&self, dialler: bool) -> usize {
        if dialler {
            self.plan.dialler
        } else {
            1 - self.plan.dialler
        }
    }

    /// Dials and talks: a first byte and its echo, and both ends of the connection.
    async fn meet(&self, shown: &mut Shown) -> Talk {
        let [caller, callee] =
            [true, false].map(|dialler| self.endpoints[self.side(dialler)].clone());
        if self.plan.accepted_after.is_none() {
            callee.set_accepted(caller.id(), true);
        }
        let waiting = callee.clone();
        let accepting = tokio::spawn(async move {
            let connection = waiting.accept().await.expect("a connection");
            let (mut send, mut receive) = connection.accept().await.expect("a stream");
            let mut byte = [0];
            receive.read_exact(&mut byte).await.expect("a byte");
            send.write_all(&byte).await.expect("sent");
            (connection, send, receive)
        });
        let began = Instant::now();
        let dialled = timeout(PATIENCE, caller.connect(callee.id()))
            .await
            .expect("in time")
            .expect("connected");
        let (mut send, mut receive) = dialled.open().await.expect("a stream");
        send.write_all(b"?").await.expect("sent");
        receive.read_exact(&mut [0]).await.expect("answered");
        let answered = began.elapsed();
        let relayed = self.plan.relay_round_trip();
        if self.plan.clean {
            let over = answered.saturating_sub(2 * relayed);
            assert!(over <= SLACK, "first byte {over:?} beyond 2 R");
            shown.first_byte_over = Some(over);
        }
        let (accepted, their_send, their_receive) = accepting.await.expect("it came");
        let talk = Talk::new([
            (dialled, send, receive),
            (accepted, their_send, their_receive),
        ]);
        if let Some(late) = self.plan.accepted_after {
            sleep(late).await;
            self.nothing_was_told(&talk);
            callee.set_accepted(caller.id(), true);
        }
        let limit = if self.plan.must_be_direct() {
            10 * SECOND
        } else {
            6 * SECOND
        };
        let direct = timeout(limit, talk.both(PathKind::Direct)).await.is_ok();
        assert!(
            direct || !self.plan.must_be_direct(),
            "not direct: {:?}",
            talk.paths()
        );
        if direct && hope(self.plan.kinds) == Hope::Ordinary && self.plan.accepted_after.is_none() {
            let expected = relayed + 3 * (self.plan.direct.delay + self.plan.direct.jitter);
            // It may have come before the first byte's answer.
            let since = talk.paths().map(|path| path.since);
            let took = since[0].max(since[1]) - began.into_std();
            shown.direct_over = Some(took.saturating_sub(expected));
        }
        talk
    }

    /// The callee has not accepted: relayed, and both say why.
    fn nothing_was_told(&self, talk: &Talk) {
        let [caller, callee] = talk.paths();
        assert_eq!(
            (caller.kind, callee.kind),
            (PathKind::Relayed, PathKind::Relayed)
        );
        assert_eq!(callee.not_direct, Some(NotDirect::NotAccepted));
        assert_eq!(caller.not_direct, Some(NotDirect::PeerDeclines));
    }

    /// One mishap, and that all goes on afterwards; how long nothing new arrived.
    async fn suffer(
        &mut self,
        talk: &Talk,
        (fault, side, lasts): (Fault, usize, Duration),
    ) -> Duration {
        let mut began = Instant::now();
        let other = self.endpoints[1 - side].id();
        match fault {
            Fault::Cut => {
                self.net.cut(&self.hosts[0], &self.hosts[1]);
                sleep(lasts).await;
                self.net.heal(&self.hosts[0], &self.hosts[1]);
            }
            Fault::Relay => {
                self.net.set_up(&self.relay_host, false);
                self.relay.take().expect("it runs").shutdown().await;
                sleep(lasts).await;
                // Its last tasks go when their connections have drained.
                while ![RELAY_PORT, 3_478]
                    .iter()
                    .all(|port| self.relay_host.is_free(*port))
                {
                    sleep(100 * MILLI).await;
                }
                began = Instant::now();
                let reborn = start_relay(&self.relay_host, self.folder.path()).await;
                self.net.set_up(&self.relay_host, true);
                self.relay = Some(reborn);
            }
            Fault::Roam => {
                let nat = self.plan.kinds[side]
                    .nat()
                    .unwrap_or(NatConfig::full_cone());
                let place = Place::Behind(self.net.nat(nat, Place::Internet));
                let host = &self.hosts[side];
                self.net.move_host(host, place);
                self.net.set_link(
                    host,
                    &self.relay_host,
                    LinkConfig::delay(self.plan.legs[side]),
                );
                self.net
                    .set_link(host, &self.hosts[1 - side], self.plan.direct);
            }
            Fault::Rebind => self.net.rebind(&self.hosts[side]),
            Fault::Flush => self.net.flush(&self.hosts[side]),
            Fault::RelayOnly => {
                self.endpoints[side].set_relay_only(other, true);
                sleep(lasts).await;
                let paths = talk.paths();
                let own = if side == self.plan.dialler {
                    paths[0]
                } else {
                    paths[1]
                };
                assert_ne!(own.kind, PathKind::Direct, "an open direct path is left");
                assert_eq!(own.not_direct, Some(NotDirect::RelayOnly));
                self.endpoints[side].set_relay_only(other, false);
            }
        }
        let stalled = talk.progress(began).await;
        let longest = if fault == Fault::Relay { LOGIN } else { STALL };
        assert!(
            stalled <= longest + lasts,
            "nothing for {stalled:?} after {fault:?}; {:?}",
            talk.paths()
        );
        sleep(SECOND).await;
        stalled
    }

    /// All is well: direct where it must be, or relayed for the right reason.
    async fn settle(&self, talk: &Talk) {
        let end = Instant::now() + 100 * SECOND;
        loop {
            let paths = talk.paths();
            if paths.iter().all(|path| path.kind == PathKind::Direct) {
                assert_ne!(
                    hope(self.plan.kinds),
                    Hope::None,
                    "that cannot be: {paths:?}"
                );
                return;
            }
            let right = |path: &PathInfo| match (path.not_direct, hope(self.plan.kinds)) {
                // A path that loses packets may lose to the relay, too.
                (None | Some(NotDirect::RelayFaster), _) => {
                    !self.plan.clean || self.plan.relay_may_win()
                }
                (Some(NotDirect::BothSymmetric), Hope::None) => true,
                // Where ports are counted, a look at the network at the same moment hides that they are.
                (Some(NotDirect::BothSymmetric), Hope::Guessed) => {
                    self.plan.kinds == [Kind::Sequential; 2]
                }
                (Some(NotDirect::GuessFailed | NotDirect::GuessWaits), Hope::Guessed) => true,
                _ => false,
            };
            if paths.iter().all(right) {
                return;
            }
            assert!(
                Instant::now() < end,
                "neither direct nor explained: {paths:?}"
            );
            sleep(100 * MILLI).await;
        }
    }

    /// Everything ends, and nothing stays behind.
    async fn part(mut self, talk: Talk) {
        talk.finish().await;
        for endpoint in &self.endpoints {
            let another = timeout(MILLI, endpoint.accept()).await;
            assert!(another.is_err(), "a second connection was made");
            endpoint.close().await;
        }
        self.relay.take().expect("it runs").shutdown().await;
        drop(self.endpoints);
        let metrics = tokio::runtime::Handle::current().metrics();
        // Connections drain for three probe timeouts, which are long where the relay has been away.
        let end = Instant::now() + PATIENCE;
        while self.net.open_sockets() > 0 || metrics.num_alive_tasks() > 1 {
            let left = (self.net.open_sockets(), metrics.num_alive_tasks());
            assert!(
                Instant::now() < end,
                "left: sockets, tasks (one is the network's own): {left:?}"
            );
            sleep(100 * MILLI).await;
        }
    }
}

async fn life(seed: u64) -> Shown {
    let plan = Plan::new(seed);
    if std::env::var_os(SEED_VARIABLE).is_some() {
        eprintln!("{plan:?}");
    }
    let began = Instant::now();
    let mut shown = Shown {
        lost: !plan.clean,
        ..Shown::default()
    };
    let faults = plan.faults.clone();
    let mut world = World::new(plan).await;
    let talk = world.meet(&mut shown).await;
    sleep(SECOND).await;
    for fault in faults {
        let stalled = world.suffer(&talk, fault).await;
        shown.faults.push((fault.0, stalled));
    }
    world.settle(&talk).await;
    sleep(SECOND).await;
    world.part(talk).await;
    shown.virtual_time = began.elapsed();
    shown
}

fn live(count: u64) {
    let lived = many_lives(count, AGAIN, |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(life(seed))
    });
    let shown = || lived.iter().map(|(_, shown)| shown);
    let whole: Duration = shown().map(|shown| shown.virtual_time).sum();
    eprintln!(
        "{:.0} virtual seconds each",
        whole.as_secs_f64() / lived.len() as f64
    );
    report(
        "first byte beyond 2 R",
        shown().filter_map(|shown| shown.first_byte_over).collect(),
    );
    for lost in [false, true] {
        let name = if lost { "with loss" } else { "without loss" };
        let overs = shown()
            .filter(|shown| shown.lost == lost)
            .filter_map(|shown| shown.direct_over);
        let [middle, late] = report(
            &format!("direct beyond 1 R + 1.5 Rd {name}"),
            overs.collect(),
        );
        if !lost {
            // The goal for ordinary pairs, over the whole stack.
            assert!(
                middle <= 50 * MILLI && late <= 350 * MILLI,
                "direct after {middle:?} {late:?}"
            );
        }
    }
    for fault in FAULTS {
        let of = shown()
            .flat_map(|shown| &shown.faults)
            .filter(|(of, _)| *of == fault);
        report(
            &format!("{fault:?}: until both go on"),
            of.map(|(_, stalled)| *stalled).collect(),
        );
    }
}

/// Prints and returns the 50th and the 99th percentile.
fn report(what: &str, mut values: Vec<Duration>) -> [Duration; 2] {
    values.sort();
    let at = |percent: usize| {
        values
            .get(values.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    let both = [at(50), at(99)];
    eprintln!(
        "{what}: {:?} p50, {:?} p99 of {}",
        both[0],
        both[1],
        values.len()
    );
    both
}

/// Where and what a host has sent: anything but packets to the relay, and probes wherever they went.
fn straying(net: &SimNet, host: &SimHost, relay: &SimHost) -> Vec<Captured> {
    let mut captured = net.captured();
    captured.retain(|packet| {
        let probe = packet.payload.first().is_some_and(|first| first >> 4 == 2);
        packet.from == host.id() && (probe || packet.to.ip() != relay.address())
    });
    captured
}

#[tokio::test(start_paused = true)]
async fn nothing_but_relayed_packets_leaves_before_acceptance_or_with_relay_only() {
    for seed in 0..4 {
        let mut plan = Plan::new(seed);
        plan.kinds = [[Kind::FullCone, Kind::Open], [Kind::PortRestricted; 2]][(seed % 2) as usize];
        plan.accepted_after = Some(SECOND);
        plan.direct = LinkConfig::delay(20 * MILLI);
        plan.legs = [30 * MILLI; 2];
        plan.dialler = 0;
        let world = World::new(plan).await;
        let [caller, callee] = world.endpoints.clone();
        let (host, relay) = (&world.hosts[1], &world.relay_host);
        world.net.capture();
        let waiting = tokio::spawn(async move { callee.accept().await });
        let dialled = caller
            .connect(world.endpoints[1].id())
            .await
            .expect("connected");
        let accepted = waiting.await.expect("it came").expect("a connection");
        sleep(20 * SECOND).await;
        let strayed = straying(&world.net, host, relay);
        assert!(strayed.is_empty(), "before acceptance: {strayed:?}");

        world.endpoints[1].set_accepted(caller.id(), true);
        let mut path = accepted.path();
        let direct = path.wait_for(|path| path.kind == PathKind::Direct);
        timeout(PATIENCE, direct)
            .await
            .expect("in time")
            .expect("alive");
        sleep(SECOND).await;
        assert!(
            !straying(&world.net, host, relay).is_empty(),
            "nothing was captured"
        );

        world.endpoints[1].set_all_relay_only(true);
        sleep(MILLI).await;
        let _ = world.net.captured();
        for _ in 0..50 {
            accepted
                .send_datagram(Bytes::from_static(&[0; 100]))
                .expect("alive");
            sleep(200 * MILLI).await;
        }
        let strayed = straying(&world.net, host, relay);
        assert!(strayed.is_empty(), "with relay-only: {strayed:?}");
        assert!(!dialled.is_closed() && !accepted.is_closed());
    }
}

#[test]
fn lives_of_the_whole_stack_go_well() {
    live(LIVES);
}

#[test]
#[ignore = "ten minutes of two cores; by hand: cargo test -p p2p-net --test virtual_time ten_thousand -- --ignored --nocapture"]
fn ten_thousand_lives_of_the_whole_stack_go_well() {
    live(MANY_LIVES);
}
