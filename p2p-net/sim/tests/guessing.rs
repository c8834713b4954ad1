//! Pairs whose ports must be guessed: how often that succeeds, how long it takes and what it costs, for each
//! kind of translator; and what is not done where no guess can help.

use std::time::Duration;

use p2p_net_proto::wire::{Guess, Hint};
use p2p_net_proto::{Input, NotDirect, SignalBody};
use p2p_net_sim::pair::{Pair, PairConfig, SIDES};
use p2p_net_sim::{LinkConfig, Loss, NatConfig, for_seeds};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Probes of one guess at most (`connectivity.md` §5.5).
const MAX_PROBES: usize = 1_024;
const MAX_SOCKETS: usize = 256;

/// Multiplies the lives of each rate, for a longer look than tests may take.
const LIVES_VARIABLE: &str = "LANDLINE_SIM_LIVES";

fn lives(few: u64) -> u64 {
    let times = std::env::var(LIVES_VARIABLE).ok();
    few * times.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// What one life of a pair showed.
#[derive(Debug)]
struct Life {
    /// From the moment at which the round was doubted to the direct path on both sides.
    took: Option<Duration>,
    /// From dialling.
    dialled: Option<Duration>,
    probes: usize,
}

fn doubted(pair: &Pair) -> Option<Duration> {
    let hints = pair.sides.iter().flat_map(|side| {
        let hint = |(_, body): &&(Duration, SignalBody)| matches!(body, SignalBody::Hint(_));
        side.signals.iter().filter(hint).map(|(at, _)| *at)
    });
    hints.min()
}

/// Packets of the guess that `side` sent since `from`: probes to ports, and openers.
fn spent(pair: &Pair, side: usize, from: Duration) -> (usize, usize) {
    let side = &pair.sides[side];
    let since = |at: Duration| at >= from;
    let probes = side.probes.iter().filter(|(at, _)| since(*at)).count();
    (probes, side.openers.len())
}

fn live(config: PairConfig, dialler: usize) -> (Pair, Life) {
    let legs = config.relay_delay;
    let mut pair = Pair::new(config);
    pair.dial(dialler);
    let began = pair.elapsed();
    let dialled = pair.run_until(12 * SECOND, Pair::both_direct);
    let doubted = doubted(&pair);
    // The hint leaves after the relay has answered: a leg's round trip after the doubt.
    let doubt = doubted.map(|at| at.saturating_sub(legs[0].max(legs[1]) * 2));
    let took = dialled
        .zip(doubt)
        .map(|(took, doubt)| (began + took).saturating_sub(doubt));
    let probes = SIDES.map(|side| spent(&pair, side, doubted.unwrap_or_default()).0);
    let probes = probes.into_iter().max().unwrap_or(0);
    (
        pair,
        Life {
            took,
            dialled,
            probes,
        },
    )
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted[(sorted.len() * of / 100).min(sorted.len() - 1)]
}

/// Lives of a pair over seeds, in milliseconds of delay and both orders; returns the share that became direct.
fn rate(name: &str, nats: [NatConfig; 2], lives: u64) -> f64 {
    let mut direct = 0;
    let mut times = Vec::new();
    let mut dials = Vec::new();
    let mut probes = Vec::new();
    let mut all = 0;
    for_seeds(lives, |seed| {
        let mut nats = nats.map(Some);
        if seed % 2 == 1 {
            nats.swap(0, 1);
        }
        let delay = [2, 10, 20, 50][(seed / 4 % 4) as usize];
        let config = PairConfig {
            seed,
            nats,
            relay_delay: [delay * MILLI, (delay + 5) * MILLI],
            direct: LinkConfig::delay(delay * MILLI),
            ..PairConfig::default()
        };
        let (mut pair, life) = live(config, (seed / 2 % 2) as usize);
        all += 1;
        if let (Some(took), Some(dialled)) = (life.took, life.dialled) {
            // Late enough to count as failed for the goal, though it is direct.
            direct += usize::from(took <= 2 * SECOND);
            times.push(took);
            dials.push(dialled);
            probes.push(life.probes);
            pair.run_for(SECOND);
            assert!(pair.both_direct(), "and it stays so");
            for side in SIDES {
                assert!(pair.extra_sockets(side) <= 1, "the others are closed");
                assert_eq!(pair.guesses_at(side), None);
                assert_eq!(pair.sides[side].peer.path().not_direct, None);
            }
        }
        assert!(life.probes <= MAX_PROBES + 40, "{} probes", life.probes);
        for side in SIDES {
            assert!(spent(&pair, side, Duration::ZERO).1 <= MAX_SOCKETS);
        }
    });
    times.sort();
    dials.sort();
    probes.sort_unstable();
    let share = direct as f64 / all as f64;
    if !times.is_empty() {
        eprintln!(
            "{name}: {:.2} % of {all} within 2 s; {:?} p50, {:?} p99; from dialling {:?} p50, {:?} p99; {} probes p50, {} at most",
            share * 100.0,
            percentile(&times, 50),
            percentile(&times, 99),
            percentile(&dials, 50),
            percentile(&dials, 99),
            probes[probes.len() / 2],
            probes[probes.len() - 1],
        );
    }
    share
}

#[test]
fn port_restricted_and_symmetric_meet_within_the_budget() {
    let easy = NatConfig::port_restricted();
    let common = rate(
        "common range",
        [easy, NatConfig::symmetric_common()],
        lives(100),
    );
    assert!(common >= 0.98, "{common}");
    let all = rate("all ports", [easy, NatConfig::symmetric()], lives(40));
    assert!(all >= 0.95, "{all}");
}

#[test]
fn ports_in_order_or_in_a_block_are_foreseen() {
    let easy = NatConfig::port_restricted();
    for (name, hard) in [
        ("counted", NatConfig::symmetric_sequential()),
        ("block", NatConfig::symmetric_block()),
    ] {
        let share = rate(name, [easy, hard], lives(50));
        assert!(share >= 0.995, "{name}: {share}");
    }
    let counted = NatConfig::symmetric_sequential();
    let share = rate("both counted", [counted, counted], lives(50));
    assert!(share >= 0.98, "{share}");
}

#[test]
fn loss_costs_little() {
    for_seeds(40, |seed| {
        let direct = LinkConfig::delay(20 * MILLI).with_loss(Loss::Random(0.02));
        let nats = [NatConfig::port_restricted(), NatConfig::symmetric_block()].map(Some);
        let (_, life) = live(
            PairConfig {
                seed,
                nats,
                direct,
                ..PairConfig::default()
            },
            0,
        );
        assert!(life.took.is_some(), "direct in spite of loss");
    });
}

#[test]
fn where_no_guess_helps_none_is_made_and_the_reason_is_said() {
    let random = NatConfig::symmetric_common();
    let others = [
        random,
        NatConfig::symmetric_block(),
        NatConfig::symmetric_sequential(),
    ];
    for_seeds(5, |seed| {
        for other in others {
            let nats = [random, other].map(Some);
            let mut pair = Pair::new(PairConfig {
                seed,
                nats,
                ..PairConfig::default()
            });
            pair.dial((seed % 2) as usize);
            pair.run_for(5 * 60 * SECOND);
            assert!(pair.both_relayed());
            for side in SIDES {
                let own = &pair.sides[side];
                assert_eq!(own.peer.path().not_direct, Some(NotDirect::BothSymmetric));
                assert!(own.openers.is_empty() && own.guesses.is_empty());
                assert!(own.probes.len() <= 20 * 18, "{} probes", own.probes.len());
                assert!(own.signals.len() <= 22, "{} signals", own.signals.len());
                assert_eq!(pair.extra_sockets(side), 0);
            }
        }
    });
}

#[test]
fn a_guess_that_failed_is_not_repeated() {
    for_seeds(10, |seed| {
        let nats = [NatConfig::port_restricted(), NatConfig::symmetric_common()].map(Some);
        // One socket beside those thousand ports: a hit would be a wonder.
        let config = PairConfig {
            seed,
            nats,
            extra_sockets: [1; 2],
            ..PairConfig::default()
        };
        let mut pair = Pair::new(config);
        pair.dial(0);
        pair.run_for(50 * 60 * SECOND);
        if pair.both_direct() {
            return;
        }
        for side in SIDES {
            let own = &pair.sides[side];
            assert_eq!(own.guesses.len(), 1, "{:?}", own.guesses);
            assert_eq!(own.peer.path().not_direct, Some(NotDirect::GuessFailed));
            assert_eq!(pair.extra_sockets(side), 0);
        }
    });
}

#[test]
fn traffic_goes_on_while_the_path_moves_and_after_it_dies() {
    for_seeds(20, |seed| {
        let nats = [NatConfig::port_restricted(), NatConfig::symmetric_common()].map(Some);
        let mut pair = Pair::new(PairConfig {
            seed,
            nats,
            ..PairConfig::default()
        });
        pair.flow(0, Some(20 * MILLI));
        pair.flow(1, Some(20 * MILLI));
        pair.dial(0);
        if pair.run_until(10 * SECOND, Pair::both_direct).is_none() {
            return;
        }
        pair.run_for(2 * SECOND);
        for side in SIDES {
            let now = pair.elapsed();
            let gap = pair.sides[side].longest_gap(now - 2 * SECOND, now);
            assert!(gap <= 100 * MILLI, "{gap:?}");
            assert!(pair.sides[side].arrivals.last().expect("traffic").direct);
        }
        // The translator forgets: the path dies, and is guessed again.
        pair.rebind(1);
        assert!(
            pair.run_until(5 * SECOND, |pair| !pair.both_direct())
                .is_some()
        );
        let again = pair.run_until(20 * SECOND, Pair::both_direct);
        if again.is_none() {
            assert!(pair.sides[0].guesses.iter().any(|(_, failed)| *failed));
        }
        assert!(SIDES.iter().all(|side| pair.extra_sockets(*side) <= 2));
    });
}

#[test]
fn whoever_begins_sessions_one_after_the_other_is_guessed_at_once_only() {
    for_seeds(5, |seed| {
        let nats = [NatConfig::port_restricted(), NatConfig::symmetric_common()].map(Some);
        let mut pair = Pair::new(PairConfig {
            seed,
            nats,
            extra_sockets: [8; 2],
            ..PairConfig::default()
        });
        pair.dial(1);
        for _ in 0..200 {
            let guessed = pair.run_until(3 * SECOND, |pair| pair.guesses_at(0).is_some());
            if guessed.is_some() {
                pair.run_for(100 * MILLI);
            }
            pair.dial(1);
        }
        if pair.both_direct() {
            return;
        }
        let guesses = &pair.sides[0].guesses;
        assert_eq!(guesses.len(), 1, "in ten minutes: {guesses:?}");
        let lived = pair.elapsed().as_secs() as usize;
        let probes = pair.sides[0].probes.len();
        // 20 and 20 a second are those of ordinary rounds.
        assert!(
            probes <= MAX_PROBES + 20 + 20 * lived,
            "{probes} in {lived} s"
        );
    });
}

#[test]
fn guesses_that_nobody_agreed_on_change_nothing() {
    let mut pair = Pair::new(PairConfig::default());
    pair.dial(0);
    pair.run_until(SECOND, Pair::both_direct).expect("direct");
    let session = [3; 16];
    let (low, high) = (1, u16::MAX);
    for side in SIDES {
        let before = pair.sides[side].probes.len();
        pair.input(
            side,
            Input::Hint(Hint {
                session,
                kind: 3,
                first: low,
                second: high,
            }),
        );
        pair.input(
            side,
            Input::Guess(Guess {
                session,
                low,
                high,
                opened: 256,
            }),
        );
        pair.input(side, Input::Reserved(true));
        pair.input(side, Input::Opened(256));
        pair.input(side, Input::Samples(Vec::new()));
        let from = "198.51.100.200:9".parse().expect("an address");
        let packet = &[0x20; 64];
        pair.input(
            side,
            Input::ExtraPacket {
                socket: 3,
                from,
                packet,
            },
        );
        pair.run_for(2 * SECOND);
        assert!(
            pair.sides[side].probes.len() <= before + 4,
            "only keepalives"
        );
        assert!(pair.sides[side].openers.is_empty());
    }
}

#[test]
fn ordinary_pairs_guess_nothing() {
    for_seeds(20, |seed| {
        let config = PairConfig {
            seed,
            ..PairConfig::default()
        };
        let (mut pair, life) = live(config, 0);
        assert!(life.dialled.is_some());
        pair.run_for(10 * SECOND);
        assert_eq!(doubted(&pair), None, "no hint is sent");
        for side in SIDES {
            assert_eq!(pair.extra_sockets(side), 0);
            assert!(pair.sides[side].guesses.is_empty());
        }
    });
}
