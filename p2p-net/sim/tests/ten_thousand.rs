//! Ten thousand short lives of a pair: everything about each (translators, delays, loss, what breaks and when)
//! follows from its seed. `LANDLINE_SIM_SEED=n cargo test -p p2p-net-sim --test ten_thousand` lives one again,
//! `LANDLINE_LIVES=n` so many.

use std::time::Duration;

use p2p_net_proto::{Input, NotDirect, Route};
use p2p_net_sim::kinds::{Hope, Kind, hope};
use p2p_net_sim::pair::{Pair, PairConfig, SIDES};
use p2p_net_sim::{LinkConfig, Loss, many_lives};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const LIVES: u64 = 10_000;
const AGAIN: &str = "cargo test -p p2p-net-sim --test ten_thousand -- --nocapture";
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The longest time without traffic while the relay is there: while packets come from a peer that has moved, its
/// old address is doubted after four probes, a second apart.
const STALL: Duration = Duration::from_secs(5);

/// What happens to a pair in the midst of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The direct path dies without a word, and heals.
    Cut,
    /// One direction of it does.
    CutOneWay,
    /// The relay goes away and comes back.
    Relay,
    /// A side gets other addresses, behind a translator of the same kind.
    Roam,
    /// A translator forgets its table and takes other ports.
    Rebind,
    /// A translator forgets its table.
    Flush,
    /// A contact is no longer accepted for a while.
    Withdrawn,
}

const FAULTS: [Fault; 7] = [
    Fault::Cut,
    Fault::CutOneWay,
    Fault::Relay,
    Fault::Roam,
    Fault::Rebind,
    Fault::Flush,
    Fault::Withdrawn,
];

/// A life as its seed has it.
struct Life {
    seed: u64,
    random: Xoshiro256PlusPlus,
    kinds: [Kind; 2],
    legs: [Duration; 2],
    direct: LinkConfig,
    /// No loss, jitter or copies.
    clean: bool,
    /// What happened so far, and when.
    story: Vec<(Fault, usize, Duration)>,
    pair: Pair,
}

/// What a life showed.
#[derive(Debug)]
struct Shown {
    kinds: [Kind; 2],
    clean: bool,
    /// From dialling to the direct path on both sides, beyond 1 R + 1.5 Rd.
    over: Option<Duration>,
    /// After each fault: which, and the longest time without traffic of the worse side.
    gaps: Vec<(Fault, Duration)>,
    /// Direct in the end.
    direct: bool,
    virtual_time: Duration,
}

/// The direct path is so much longer that the relay may rightly keep the traffic.
fn relay_may_win(legs: [Duration; 2], direct: &LinkConfig) -> bool {
    let relayed = (legs[0] + legs[1]) * 2;
    let round_trip = (direct.delay + direct.jitter) * 2;
    round_trip * 10 > (relayed + (50 * MILLI).max(relayed / 2)) * 8
}

/// Each side is direct, or says why it cannot be, in words that stay.
fn decided(pair: &Pair) -> bool {
    let last = [
        NotDirect::BothSymmetric,
        NotDirect::GuessFailed,
        NotDirect::RelayFaster,
    ];
    SIDES.iter().all(|side| {
        let why = pair.sides[*side].peer.path().not_direct;
        why.is_none_or(|why| last.contains(&why))
    })
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        // All pairs of kinds, one after the other.
        let kinds = [
            Kind::ALL[(seed % 7) as usize],
            Kind::ALL[(seed / 7 % 7) as usize],
        ];
        let mut delay = || random.random_range(10..=200) * MILLI;
        let legs = [delay(), delay()];
        let mut direct = LinkConfig::delay(delay());
        let clean = random.random_bool(0.4);
        if !clean {
            let share = f64::from(random.random_range(0..=50)) / 1_000.0;
            direct.loss = match random.random_range(0..2) {
                0 => Loss::Random(share),
                _ => Loss::bursts(share, 3.0),
            };
            direct.jitter = direct.delay * random.random_range(0..=20) / 100;
            direct.duplicate = f64::from(random.random_range(0..=20)) / 1_000.0;
            direct.reorder = f64::from(random.random_range(0..=20)) / 1_000.0;
            direct.reorder_delay = 10 * MILLI;
        }
        let pair = Pair::new(PairConfig {
            seed,
            nats: kinds.map(Kind::nat),
            relay_delay: legs,
            direct,
            ..PairConfig::default()
        });
        Self {
            seed,
            random,
            kinds,
            legs,
            direct,
            clean,
            story: Vec::new(),
            pair,
        }
    }

    fn live(mut self) -> Shown {
        let over = self.meet();
        self.pair.run_for(2 * SECOND);
        let faults = self.random.random_range(1..=3);
        let gaps = (0..faults).map(|_| self.suffer()).collect();
        self.settle();
        let direct = self.pair.both_direct();
        self.end();
        Shown {
            kinds: self.kinds,
            clean: self.clean,
            over,
            gaps,
            direct,
            virtual_time: self.pair.elapsed(),
        }
    }

    fn context(&self) -> String {
        let Self {
            kinds,
            legs,
            direct,
            ..
        } = self;
        let why = SIDES.map(|side| self.pair.sides[side].peer.path().not_direct);
        let routes = SIDES.map(|side| {
            let routes = &self.pair.sides[side].routes;
            routes[routes.len().saturating_sub(6)..].to_vec()
        });
        format!(
            "{kinds:?}, legs {legs:?}, {direct:?}, {:?}, at {:?}, {why:?}, {routes:?}",
            self.story,
            self.pair.elapsed()
        )
    }

    /// From the dial to the first path, and to the direct one where there must be one.
    fn meet(&mut self) -> Option<Duration> {
        for side in SIDES {
            self.pair.flow(side, Some(20 * MILLI));
        }
        self.pair.dial((self.seed % 2) as usize);
        let relayed = self.pair.relay_round_trip();
        let used = |pair: &Pair| SIDES.iter().all(|side| pair.route(*side) != Route::None);
        let connected = self.pair.run_until(10 * SECOND, used).expect("connected");
        assert!(
            connected <= relayed + 2 * MILLI,
            "usable after {connected:?}"
        );
        let took = self.pair.run_until(12 * SECOND, decided);
        let took = took
            .filter(|_| self.pair.both_direct())
            .map(|took| took + connected);
        let must = hope(self.kinds) == Hope::Ordinary && !relay_may_win(self.legs, &self.direct);
        assert!(took.is_some() || !must, "not direct: {}", self.context());
        let expected = relayed + 3 * (self.direct.delay + self.direct.jitter);
        took.map(|took| took.saturating_sub(expected))
            .filter(|_| hope(self.kinds) == Hope::Ordinary)
    }

    /// One fault, and what it does to the traffic.
    fn suffer(&mut self) -> (Fault, Duration) {
        let fault = FAULTS[self.random.random_range(0..FAULTS.len())];
        let side = self.random.random_range(0..2);
        let lasts = self.random.random_range(100..4_000) * MILLI;
        let began = self.pair.elapsed();
        self.story.push((fault, side, began));
        match fault {
            Fault::Cut => self.pair.cut(),
            Fault::CutOneWay => self.pair.cut_from(side),
            Fault::Relay => self.pair.set_relay(false),
            Fault::Roam => match self.kinds[side].nat() {
                Some(nat) => self.pair.roam(side, nat),
                None => self.pair.cut(),
            },
            Fault::Rebind => self.pair.rebind(side),
            Fault::Flush => self.pair.flush(side),
            Fault::Withdrawn => self.pair.input(side, Input::Accepted(false)),
        }
        self.pair.run_for(lasts);
        if fault == Fault::Withdrawn {
            self.nothing_goes_out(side);
        }
        self.pair.heal();
        self.pair.set_relay(true);
        self.pair.input(side, Input::Accepted(true));
        self.pair
            .run_for(self.random.random_range(1_000..6_000) * MILLI);
        let until = self.pair.elapsed();
        let gap = |side: usize| self.pair.sides[side].longest_gap(began, until);
        let gap = gap(0).max(gap(1));
        // While the relay is away a pair that needs it has to wait.
        let longest = if fault == Fault::Relay {
            lasts + 3 * SECOND
        } else {
            STALL
        };
        assert!(
            gap <= longest,
            "{fault:?} at {began:?}: nothing for {gap:?}; {}",
            self.context()
        );
        (fault, gap)
    }

    /// Who has withdrawn its acceptance sends nothing but through the relay, and listens to nothing else.
    fn nothing_goes_out(&mut self, side: usize) {
        let own = &self.pair.sides[side];
        let (probes, offered) = (own.probes.len(), own.offered().count());
        assert!(own.listens.is_empty() && own.bound.is_empty());
        assert!(!matches!(self.pair.route(side), Route::Direct(_)));
        self.pair.run_for(SECOND);
        let own = &self.pair.sides[side];
        assert_eq!((own.probes.len(), own.offered().count()), (probes, offered));
        assert!(!matches!(self.pair.route(side), Route::Direct(_)));
    }

    /// All is well again: direct where it must be, or relayed for the right reason.
    fn settle(&mut self) {
        let hope = hope(self.kinds);
        // A path that loses packets may lose to the relay, too.
        let must = hope == Hope::Ordinary
            && self.direct.loss == Loss::None
            && !relay_may_win(self.legs, &self.direct);
        let enough = |pair: &Pair| pair.both_direct() || (!must && decided(pair));
        let _ = self.pair.run_until(90 * SECOND, enough);
        if self.pair.both_direct() {
            assert_ne!(hope, Hope::None, "that cannot be: {}", self.context());
            return;
        }
        assert!(!must, "not direct again: {}", self.context());
        for side in SIDES {
            let why = self.pair.sides[side].peer.path().not_direct;
            let right: &[NotDirect] = match hope {
                // Ports of a symmetric side may have been guessed while nothing came through.
                Hope::Ordinary if self.kinds.iter().any(|kind| kind.is_symmetric()) => {
                    &[NotDirect::RelayFaster, NotDirect::GuessFailed]
                }
                Hope::Ordinary => &[NotDirect::RelayFaster],
                Hope::Guessed => &[
                    NotDirect::GuessFailed,
                    NotDirect::GuessWaits,
                    NotDirect::RelayFaster,
                ],
                Hope::None => &[NotDirect::BothSymmetric],
            };
            let right = why.is_none_or(|why| right.contains(&why));
            assert!(right, "{}", self.context());
        }
    }

    /// Bounds that hold for every life, and that nothing is left when nobody wants the connection any more.
    fn end(&mut self) {
        let lived = self.pair.elapsed().as_secs_f64();
        for side in SIDES {
            let own = &self.pair.sides[side];
            // 20 a second and their pongs, and what guesses may cost: one in the beginning, one after each fault.
            let most = 60.0 + 40.0 * lived + 1_024.0 * (self.story.len() + 1) as f64;
            assert!(
                (own.probes.len() as f64) < most,
                "{} probes in {lived} s",
                own.probes.len()
            );
            assert!(self.pair.extra_sockets(side) <= 260, "too many sockets");
        }
        for side in SIDES {
            self.pair.flow(side, None);
            self.pair.input(side, Input::Wanted(false));
            let own = &self.pair.sides[side];
            assert!(own.peer.poll_timeout().is_none(), "a deadline is left");
            assert!(
                own.listens.is_empty() && own.bound.is_empty(),
                "something is left"
            );
            assert_eq!(self.pair.extra_sockets(side), 0, "sockets are left");
            assert_eq!(self.pair.guesses_at(side), None, "a reservation is left");
        }
    }
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted
        .get(sorted.len() * of / 100)
        .copied()
        .unwrap_or_default()
}

#[test]
fn ten_thousand_lives_go_well() {
    let lived = many_lives(LIVES, AGAIN, |seed| Life::new(seed).live());
    let whole: Duration = lived.iter().map(|(_, shown)| shown.virtual_time).sum();
    println!(
        "{} lives of {:.0} virtual seconds each",
        lived.len(),
        whole.as_secs_f64() / lived.len() as f64
    );
    let shown = || lived.iter().map(|(_, shown)| shown);
    for fault in FAULTS {
        let mut gaps: Vec<Duration> = shown()
            .flat_map(|shown| &shown.gaps)
            .filter(|(of, _)| *of == fault)
            .map(|(_, gap)| *gap)
            .collect();
        gaps.sort();
        println!(
            "{fault:?}: {} times, traffic stood {:?} p50, {:?} p99",
            gaps.len(),
            percentile(&gaps, 50),
            percentile(&gaps, 99)
        );
    }
    let guessed: Vec<bool> = shown()
        .filter(|shown| hope(shown.kinds) == Hope::Guessed)
        .map(|shown| shown.direct)
        .collect();
    let hits = guessed.iter().filter(|direct| **direct).count();
    println!(
        "pairs whose ports are guessed: {hits} of {} direct in the end",
        guessed.len()
    );
    for clean in [true, false] {
        let mut overs: Vec<Duration> = shown()
            .filter(|shown| shown.clean == clean)
            .filter_map(|shown| shown.over)
            .collect();
        overs.sort();
        let (middle, late) = (percentile(&overs, 50), percentile(&overs, 99));
        println!(
            "{} ordinary pairs, {}: direct {middle:?} p50 and {late:?} p99 after 1 R + 1.5 Rd",
            overs.len(),
            if clean { "no loss" } else { "up to 5 % loss" }
        );
        // The goal for ordinary pairs; the lossy ones reach it as well.
        assert!(
            middle <= 50 * MILLI && late <= 350 * MILLI,
            "{middle:?} {late:?}"
        );
    }
}
