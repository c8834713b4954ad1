//! What `guess.rs` promises: exact probabilities, the right kind from samples, budgets that hold.

use rand::SeedableRng;

use super::*;
use crate::NotDirect;

#[expect(clippy::disallowed_methods, reason = "a first instant to count from")]
fn some_time() -> Instant {
    Instant::now()
}

fn ip() -> IpAddr {
    IpAddr::from([203, 0, 113, 7])
}

/// C(n, k) by Pascal's rule, exact for the small numbers here.
fn binomial(n: u32, k: u32) -> f64 {
    (0..k).fold(1.0, |product, at| {
        product * f64::from(n - at) / f64::from(at + 1)
    })
}

#[test]
fn the_chance_is_hypergeometric() {
    for space in [1, 2, 7, 20, 40] {
        for opened in 0..=space {
            for probes in 0..=space {
                let miss = if opened + probes > space {
                    0.0
                } else {
                    binomial(space - opened, probes) / binomial(space, probes)
                };
                let is = chance(space, opened, probes);
                assert!(
                    (is - (1.0 - miss)).abs() < 1e-9,
                    "{space} {opened} {probes}: {is}"
                );
            }
        }
    }
}

#[test]
fn the_budget_is_enough_for_the_goal() {
    let budget = MAX_PROBES as u32;
    let sockets = u32::from(RANDOM_SOCKETS);
    // Figures of an exact rational computation, to five digits.
    assert!((chance(64_512, sockets, budget) - 0.983_498).abs() < 1e-4);
    assert!((chance(40_000, sockets, budget) - 0.998_719).abs() < 1e-4);
    assert!(chance(512 + 200, u32::from(BLOCK_SOCKETS), 512 + 200) > 0.999_999);
    assert_eq!(chance(0, 0, 0), 0.0);
    assert_eq!(chance(5, 9, 9), 1.0);
}

/// Samples of a translator whose next port is `port()`.
fn samples(mut port: impl FnMut(u16, u8) -> u16) -> Vec<Sample> {
    let each = (0..SAMPLE_SOCKETS).flat_map(|socket| [(socket, 0), (socket, 1)]);
    each.map(|(socket, server)| Sample {
        socket,
        server,
        mapped: SocketAddr::new(ip(), port(socket, server)),
    })
    .collect()
}

#[test]
fn samples_tell_the_kind() {
    assert_eq!(Kind::of(&[]), Kind::Unknown);
    assert_eq!(Kind::of(&samples(|socket, _| 5_000 + socket)), Kind::Cone);
    let mut next = 65_530;
    let counted = samples(|_, _| {
        next = u16::wrapping_add(next, 2);
        next
    });
    assert_eq!(Kind::of(&counted), Kind::Counting(28, 2));
    let one_server: Vec<Sample> = counted
        .iter()
        .filter(|one| one.server == 0)
        .copied()
        .collect();
    assert_eq!(Kind::of(&one_server), Kind::Unknown);
    // Somebody else's flow between ours, and answers out of order.
    let mut next = 20_000;
    let mut busy = samples(|socket, server| {
        next += if (socket, server) == (3, 1) { 40 } else { 1 };
        next
    });
    busy.reverse();
    assert_eq!(Kind::of(&busy), Kind::Counting(20_056, 1));
}

#[test]
fn ranges_are_found_for_nearly_every_draw() {
    for (low, high, sockets, least) in [
        (20_000, 59_999, RANDOM_SOCKETS, 0.98),
        (1_024, 65_535, RANDOM_SOCKETS, 0.97),
        (32_768, 60_999, RANDOM_SOCKETS, 0.98),
        (30_208, 30_719, BLOCK_SOCKETS, 0.9999),
    ] {
        let mut random = StdRng::seed_from_u64(u64::from(low));
        let mut chances: Vec<f64> = Vec::new();
        for _ in 0..500 {
            let kind = Kind::of(&samples(|_, _| random.random_range(low..=high)));
            let (planned, range) = kind.plan().expect("a plan");
            assert_eq!(planned, sockets);
            let covered = (low..=high).filter(|port| range.contains(port)).count();
            let share = covered as f64 / f64::from(high - low + 1);
            let open = (f64::from(planned) * share) as u32;
            let space = u32::from(range.end() - range.start()) + 1;
            chances.push(chance(space, open, (MAX_PROBES as u32).min(space)));
        }
        let mean = chances.iter().sum::<f64>() / chances.len() as f64;
        assert!(mean >= least, "{low}..{high}: {mean}");
    }
}

#[test]
fn hints_survive_the_way_and_strange_ones_are_unknown() {
    for kind in [
        Kind::Unknown,
        Kind::Cone,
        Kind::Counting(9, 1),
        Kind::Random(5, 6),
    ] {
        assert_eq!(Kind::told(&kind.hint([1; 16])), kind);
    }
    for (kind, first, second) in [(4, 1, 2), (2, 5, 0), (2, 5, 9), (3, 7, 6), (255, 0, 0)] {
        let hint = Hint {
            session: [0; 16],
            kind,
            first,
            second,
        };
        assert_eq!(Kind::told(&hint), Kind::Unknown);
    }
}

#[test]
fn roles_are_those_of_the_two_kinds() {
    let (cone, counting, random) = (Kind::Cone, Kind::Counting(7, 1), Kind::Random(1, 9));
    assert_eq!(role(cone, random), Ok(Role::Probes));
    assert_eq!(role(random, cone), Ok(Role::Opens));
    assert_eq!(role(counting, cone), Ok(Role::Opens));
    assert_eq!(
        role(random, Kind::Counting(8, 2)),
        Err(NotDirect::BothSymmetric)
    );
    assert_eq!(
        role(counting, Kind::Counting(8, 2)),
        Ok(Role::Predicts(8, 2))
    );
    assert_eq!(role(random, random), Err(NotDirect::BothSymmetric));
    assert_eq!(role(cone, cone), Err(NotDirect::Blocked));
    assert_eq!(role(cone, Kind::Unknown), Err(NotDirect::NatUnknown));
}

/// All that a prober sends, each as soon as it may.
fn run(prober: &mut Prober, start: Instant) -> Vec<(Duration, u16)> {
    let mut sent = Vec::new();
    while let Some(at) = prober.next_at() {
        let now = at.max(start);
        let to = prober
            .send(now, Transaction(sent.len() as u64))
            .expect("due");
        assert_eq!(to.ip(), ip());
        sent.push((now - start, to.port()));
        assert!(sent.len() <= MAX_PROBES, "a guess ends");
    }
    sent
}

#[test]
fn a_wide_range_is_probed_at_random_without_repetition_within_the_budget() {
    let start = some_time();
    let mut random = StdRng::seed_from_u64(1);
    let barred = [SocketAddr::new(ip(), 30_000)];
    let mut prober = Prober::new(start, ip(), 20_000..=59_999, &mut random, &barred);
    let sent = run(&mut prober, start);
    assert_eq!(sent.len(), MAX_PROBES);
    let last = sent.last().expect("some").0;
    assert!(last >= PACE * (MAX_PROBES as u32 - BURST), "{last:?}");
    let mut ports: Vec<u16> = sent.iter().map(|(_, port)| *port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), MAX_PROBES);
    assert!(!ports.contains(&30_000) && ports[0] >= 20_000);
    let other = Prober::new(start, ip(), 20_000..=59_999, &mut random, &[]).ports;
    assert_ne!(other, prober.ports, "nobody foresees the order");
}

#[test]
fn a_late_timer_brings_no_flood() {
    let start = some_time();
    let mut random = StdRng::seed_from_u64(1);
    let mut prober = Prober::new(start, ip(), 1_024..=u16::MAX, &mut random, &[]);
    let mut sent = 0;
    for late in [0, 500, 501, 502] {
        let now = start + Duration::from_millis(late);
        while prober.send(now, Transaction(sent)).is_some() {
            sent += 1;
        }
    }
    assert!(sent <= u64::from(2 * BURST + 3), "{sent}");
}

#[test]
fn short_lists_get_a_few_passes() {
    let start = some_time();
    let mut random = StdRng::seed_from_u64(1);
    let mut prober = Prober::new(start, ip(), 100..=109, &mut random, &[]);
    let sent = run(&mut prober, start);
    assert_eq!(sent.len(), 10 * MAX_PASSES);
    assert!(sent[10].0 >= PASS && sent[20].0 >= PASS * 2);
    let mut ahead = Prober::ahead(start, ip(), 65_530, 2, &[]);
    let ports: Vec<u16> = run(&mut ahead, start)
        .iter()
        .map(|(_, port)| *port)
        .collect();
    assert_eq!(ports[..4], [65_530, 65_532, 65_534, 2], "port 0 is none");
    let mut none = Prober::ahead(start, ip(), 0, 0, &[]);
    assert_eq!(run(&mut none, start), []);
}

#[test]
fn only_the_right_answer_counts() {
    let start = some_time();
    let later = start + Duration::from_millis(40);
    let mut prober = Prober::ahead(start, ip(), 100, 1, &[]);
    let to = prober.send(start, Transaction(5)).expect("due");
    let other = SocketAddr::new(ip(), 101);
    assert_eq!(prober.answered(later, other, Transaction(5)), None);
    assert_eq!(prober.answered(later, to, Transaction(6)), None);
    assert_eq!(
        prober.answered(later, to, Transaction(5)),
        Some(later - start)
    );

    let mut random = StdRng::seed_from_u64(2);
    let mut opener = Opener::new(start, to, 2);
    let first = opener.send(start, &mut random).expect("due");
    assert_eq!((first.socket, first.to), (0, to));
    assert_eq!(opener.answered(later, (1, to), first.transaction), None);
    assert_eq!(opener.answered(later, (0, other), first.transaction), None);
    assert_eq!(
        opener.answered(later, (0, to), first.transaction),
        Some(later - start)
    );
    let second = opener.send(later, &mut random).expect("due");
    assert_eq!(second.socket, 1);
    assert_eq!(opener.next_at(), None, "each socket sends once");
}
