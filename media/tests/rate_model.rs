//! The rate control in a model of a call: packets, a link with a queue, reports each 20 ms, sound each 10 ms,
//! pictures whose sizes follow the encoder's target within 15 %. No socket, no codec, no waiting: time is virtual.
//! Each row prints what came out, and is held to what the design promises.

mod rate_model_parts;

use std::time::Duration;

use p2p_net_sim::{LinkConfig, Loss, for_seeds};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rate_model_parts::{Call, Cubic, Row, Setup, Wire, run, run_beside, run_two};

const MILLI: Duration = Duration::from_millis(1);
/// What the call could use at most, bits a second: 2.5 Mbit/s of video, and sound and reports.
const CAP: u64 = 2_650_000;

fn delay(millis: u32) -> LinkConfig {
    LinkConfig::delay(millis * MILLI)
}

fn limited(rate: u64, queue_bytes: usize, millis: u32) -> LinkConfig {
    LinkConfig {
        queue_bytes,
        ..delay(millis).with_rate(rate)
    }
}

/// Runs with each seed and prints a line for each.
fn rows(name: &str, seeds: u64, mut one: impl FnMut(u64) -> Row, check: impl Fn(&Row)) {
    for_seeds(seeds, |seed| {
        let row = one(seed);
        eprintln!("{name:<34} seed {seed}: {row}");
        assert!(row.sent_of_estimate <= 1.02, "more than the estimate");
        check(&row);
    });
}

#[test]
fn clean_20_mbit() {
    rows(
        "20 Mbit/s",
        2,
        |seed| {
            run(
                Setup::new(seed, 20),
                Wire::new(limited(20_000_000, 125_000, 25), seed),
            )
        },
        |row| {
            assert!(row.video_p50 <= 46.0 && row.video_p95 <= 60.0);
            assert!(row.audio_p95 <= 32.0);
            assert!(row.at_cap_after <= 2.0, "slow start");
            assert_eq!(row.stall, 0.0);
        },
    );
}

#[test]
fn random_loss_20_percent() {
    rows(
        "20 Mbit/s, 20 % loss",
        3,
        |seed| {
            let link = limited(20_000_000, 125_000, 25).with_loss(Loss::Random(0.2));
            run(
                Setup::new(seed, 30).with_report_loss(0.2),
                Wire::new(link, seed),
            )
        },
        |row| {
            assert!(row.at_cap_after <= 3.0, "loss is not congestion");
            assert!(row.rate_mean >= 0.9 * CAP as f64);
            assert!(row.video_p95 <= 60.0);
        },
    );
}

#[test]
fn one_mbit() {
    rows(
        "1 Mbit/s, 37.5 kB",
        3,
        |seed| {
            run(
                Setup::new(seed, 40),
                Wire::new(limited(1_000_000, 37_500, 25), seed),
            )
        },
        |row| {
            assert!((800e3..=960e3).contains(&row.rate_mean));
            assert!(row.video_p50 <= 75.0 && row.video_p95 <= 110.0);
            assert!(row.audio_p95 <= 90.0);
            assert!(row.stall <= 0.3);
        },
    );
}

#[test]
fn three_hundred_kbit() {
    rows(
        "300 kbit/s, 11 kB",
        3,
        |seed| {
            run(
                Setup::new(seed, 60),
                Wire::new(limited(300_000, 11_250, 25), seed),
            )
        },
        |row| {
            assert!((215e3..=300e3).contains(&row.rate_mean));
            assert!(row.video_p50 <= 110.0 && row.video_p95 <= 190.0);
            assert!(row.audio_p95 <= 110.0);
            assert!(row.stall <= 1.0);
        },
    );
}

fn step(seed: u64, one_way: u32) -> Row {
    let setup = Setup {
        round_trip: 2 * one_way * MILLI,
        marks: Some((20.0, 40.0)),
        ..Setup::new(seed, 60)
    };
    let wire = Wire::scheduled(delay(one_way), seed, 75_000, |at| {
        if (20.0..40.0).contains(&at) {
            600_000.0
        } else {
            3_000_000.0
        }
    });
    run(setup, wire)
}

#[test]
fn step_at_50_ms() {
    rows(
        "3 -> 0.6 -> 3, 50 ms",
        3,
        |seed| step(seed, 25),
        |row| {
            assert!(row.low_again_after <= 2.0, "slow fall");
            assert!(row.back_after <= 8.0, "slow rise");
            assert!(row.stall <= 1.5 && row.longest_gap <= 0.8);
            assert!(row.audio_p95 <= 150.0);
        },
    );
}

#[test]
fn step_at_150_and_250_ms() {
    for one_way in [75, 125] {
        rows(
            &format!("3 -> 0.6 -> 3, {} ms", 2 * one_way),
            1,
            |seed| step(seed, one_way),
            |row| {
                assert!(row.low_again_after <= 3.0, "slow fall");
                assert!(row.back_after <= 10.0, "slow rise");
                assert!(row.longest_gap <= 1.3);
            },
        );
    }
}

#[test]
fn beside_cubic() {
    for one_way in [25, 75] {
        rows(
            &format!("3 Mbit/s beside CUBIC, {} ms", 2 * one_way),
            2,
            |seed| {
                let setup = Setup {
                    round_trip: 2 * one_way * MILLI,
                    ..Setup::new(seed, 40)
                };
                let wire = Wire::new(limited(3_000_000, 75_000, one_way), seed);
                let cubic = Cubic::new(one_way * MILLI, Duration::from_secs(5));
                run_beside(setup, wire, cubic)
            },
            |row| {
                assert!(row.share >= 0.35 && row.share <= 0.75, "unfair");
                assert!(row.audio_p95 <= 330.0);
            },
        );
    }
}

/// It begins late, and leaves slow start before it has filled the queue.
#[test]
fn beside_gentle_cubic() {
    for window in [16.0, 32.0] {
        rows(
            &format!("3 Mbit/s beside gentle CUBIC, {window}"),
            2,
            |seed| {
                let wire = Wire::new(limited(3_000_000, 75_000, 25), seed);
                let begins = Duration::from_millis(20_000 + 37 * seed);
                let cubic = Cubic::new(25 * MILLI, begins).leaving_slow_start_at(window);
                run_beside(Setup::new(seed, 60), wire, cubic)
            },
            |row| {
                assert!(row.share >= 0.4 && row.share <= 0.7, "unfair");
                assert!(row.audio_p95 <= 250.0);
            },
        );
    }
}

#[test]
fn spikes() {
    rows(
        "20 -> 0.4 for 120 ms each 3 s",
        2,
        |seed| {
            let wire = Wire::scheduled(delay(25), seed, 125_000, |at| {
                if at > 3.0 && at % 3.0 < 0.12 {
                    400_000.0
                } else {
                    20_000_000.0
                }
            });
            run(Setup::new(seed, 30), wire)
        },
        |row| assert!(row.rate_mean >= 0.8 * CAP as f64),
    );
}

#[test]
fn exponential_jitter() {
    for in_order in [false, true] {
        rows(
            &format!(
                "3 Mbit/s, jitter of 20 ms{}",
                if in_order { ", in order" } else { "" }
            ),
            2,
            |seed| {
                let wire = Wire::new(limited(3_000_000, 75_000, 25), seed);
                run(Setup::new(seed, 30), wire.with_jitter(20.0, in_order))
            },
            |row| {
                let least = if in_order { 0.45 } else { 0.85 };
                assert!(row.rate_mean >= least * CAP as f64);
            },
        );
    }
}

#[test]
fn policer() {
    rows(
        "policer, 1.5 Mbit/s, 6 kB",
        3,
        |seed| {
            run(
                Setup::new(seed, 40),
                Wire::new(delay(25), seed).with_policer(1.5e6, 6_000.0),
            )
        },
        |row| {
            assert!((1.15e6..=1.7e6).contains(&row.rate_mean));
            assert!(row.loss <= 0.1);
        },
    );
}

/// The aim is 0.4 to 0.6; over six seeds 0.42 to 0.67 was seen. Each call's decreases answer the other's queue
/// too, so that both grow little, and a difference stays for long.
#[test]
fn two_calls_share() {
    for_seeds(3, |seed| {
        let (one, other) = run_two(seed, 60, Wire::new(limited(3_000_000, 75_000, 25), seed));
        let share = one.late_rate / (one.late_rate + other.late_rate);
        eprintln!("two calls at 3 Mbit/s, seed {seed}: share {share:.2}\n   {one}\n   {other}");
        assert!((0.33..=0.67).contains(&share), "{share}");
    });
}

/// Links that nobody chose: nothing may be tuned to those above.
#[test]
fn drawn_at_random() {
    for_seeds(12, |seed| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let rate = 200_000.0 * 100f64.powf(random.random());
        let queue = rate / 8.0 * random.random_range(0.06..0.5);
        let one_way = random.random_range(5..150);
        let loss = if seed % 2 == 0 {
            0.0
        } else {
            random.random_range(0.0..0.25)
        };
        let link = limited(rate as u64, queue as usize + 3_000, one_way);
        let link = link
            .with_loss(Loss::Random(loss))
            .with_jitter(random.random_range(0..20) * MILLI);
        let setup = Setup {
            round_trip: 2 * one_way * MILLI,
            ..Setup::new(seed, 20).with_report_loss(loss)
        };
        let row = run(setup, Wire::new(link, seed));
        let most = rate.min(CAP as f64);
        eprintln!(
            "{:5.0} kbit/s, {:3.0} ms queue, {one_way:3} ms, loss {:2.0} %, seed {seed}: {:.2} of it: {row}",
            rate / 1e3,
            queue * 8e3 / rate,
            100.0 * loss,
            row.rate_mean / most,
        );
        let share = row.rate_mean / most;
        assert!((0.65..=1.0).contains(&share), "of the link: {share}");
        // Jitter is at most 20 ms, a picture of 30 a second at most 33 on the slowest link.
        let way = f64::from(one_way);
        assert!(row.video_p50 <= way + 70.0 && row.audio_p95 <= way + 190.0);
        assert!(row.sent_of_estimate <= 1.05, "more than the estimate");
    });
}

#[test]
fn no_reports_stop_the_pictures() {
    let mut wire = Wire::new(delay(25), 1);
    let mut call = Call::new(Setup::new(1, 10));
    call.run_to(&mut wire, 5.0);
    assert!(call.estimator().video_allowed());
    let before = call.estimator().estimate_bits_per_sec();
    call.cut_reports(true);
    call.run_to(&mut wire, 5.36);
    assert!(
        !call.estimator().video_allowed(),
        "300 ms after the last report"
    );
    assert_eq!(call.estimator().estimate_bits_per_sec(), before, "frozen");
    call.run_to(&mut wire, 7.0);
    assert!(call.estimator().audio_floor());
    call.cut_reports(false);
    call.run_to(&mut wire, 7.2);
    assert!(call.estimator().video_allowed());
    assert!(call.estimator().estimate_bits_per_sec() <= 2_000_000);
    call.run_to(&mut wire, 9.5);
    assert!(call.estimator().estimate_bits_per_sec() as f64 >= 0.9 * CAP as f64);
}
