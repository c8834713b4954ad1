//! The estimator as its user sees it: switches of path, silence, hostile reports, bounds.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::history::{Feedback, Outcome, SentPacket};
use crate::packet::{Class, Content};
use crate::{CAMERA, OtherTraffic};

const MILLI: Duration = Duration::from_millis(1);
const BYTES: u32 = 1_186;

/// A sender at the estimate over a perfect path of 50 ms that carries `capacity`.
struct Run {
    estimator: Estimator,
    start: Instant,
    now: Instant,
    sequence: u64,
    epoch: u32,
    capacity: f64,
    free_at: Instant,
    credit: f64,
    waiting: Vec<(Instant, Outcome)>,
    reports: bool,
}

impl Run {
    fn new(config: Config) -> Self {
        let now = p2p_net_sim::Clock::new().now();
        Self {
            estimator: Estimator::new(now, config),
            start: now,
            now,
            sequence: 0,
            epoch: 0,
            capacity: 1e8,
            free_at: now,
            credit: 0.0,
            waiting: Vec::new(),
            reports: true,
        }
    }

    fn send(&mut self, class: Class, content: Content, bytes: u32) {
        let packet = SentPacket {
            sequence: self.sequence,
            sent_at: self.now,
            wire_bytes: bytes,
            class,
            content,
            path_epoch: self.epoch,
        };
        self.sequence += 1;
        self.estimator.on_sent(&packet);
        let takes = Duration::from_secs_f64(f64::from(bytes) * 8.0 / self.capacity);
        self.free_at = self.free_at.max(self.now) + takes;
        let arrives = self.free_at + 25 * MILLI;
        let micros = (arrives - self.start).as_micros() as u64 + 7_000_000;
        let outcome = Outcome {
            packet,
            arrived_micros: Some(micros),
        };
        self.waiting.push((arrives, outcome));
    }

    fn run(&mut self, millis: u32) {
        for _ in 0..millis {
            self.now += MILLI;
            let at = (self.now - self.start).as_millis() as u64;
            if at.is_multiple_of(10) {
                self.send(Class::Audio, Content::Audio { number: at }, 116);
            }
            if self.estimator.video_allowed() {
                let rate = self.estimator.estimate_bits_per_sec() as f64 - 93_000.0;
                self.credit = (self.credit + rate / 8e3).min(20_000.0);
                while self.credit >= f64::from(BYTES) {
                    self.credit -= f64::from(BYTES);
                    let content = Content::Video {
                        stream: CAMERA,
                        frame: at / 33,
                        fragment: 0,
                        attempt: 0,
                    };
                    self.send(Class::Video, content, BYTES);
                }
            }
            if self.reports && at.is_multiple_of(20) {
                self.report();
            }
            if self
                .estimator
                .next_timeout()
                .is_some_and(|at| at <= self.now)
            {
                self.estimator.handle_timeout(self.now);
            }
        }
    }

    fn report(&mut self) {
        let heard = self.now - 25 * MILLI;
        let (known, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(arrives, _)| *arrives <= heard);
        self.waiting = rest;
        let known: Vec<(Instant, Outcome)> = known;
        let round_trip = known
            .last()
            .map(|(arrives, outcome)| *arrives - outcome.packet.sent_at + 25 * MILLI);
        let feedback = Feedback {
            received_at: self.now,
            round_trip,
            outcomes: known.into_iter().map(|(_, outcome)| outcome).collect(),
            ce_marks: 0,
            streams: Vec::new(),
        };
        self.estimator.on_feedback(self.now, &feedback);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.estimator.poll_event()).collect()
    }

    fn estimate(&self) -> u64 {
        self.estimator.estimate_bits_per_sec()
    }
}

fn hint(key: u64, epoch: u32) -> PathHint {
    PathHint {
        key,
        epoch,
        relayed: key > 0,
        round_trip: None,
        known_bits_per_sec: None,
        announced_limit_bits_per_sec: None,
    }
}

#[test]
fn it_reaches_the_cap_within_a_second_and_stays() {
    let mut run = Run::new(Config::default());
    run.run(1_000);
    assert_eq!(run.estimate(), Config::default().cap_bits_per_sec);
    run.run(3_000);
    assert_eq!(run.estimate(), Config::default().cap_bits_per_sec);
    assert_eq!(run.estimator.mode(), Mode::Increase);
    assert!(run.events().is_empty());
    let trip = run.estimator.round_trip();
    assert!((50 * MILLI..60 * MILLI).contains(&trip), "{trip:?}");
}

#[test]
fn silence_goes_blind_then_dark_then_quiet() {
    let mut run = Run::new(Config::default());
    run.run(3_000);
    let before = run.estimate();
    run.reports = false;
    run.run(200);
    assert_eq!(run.events(), [Event::Blind]);
    assert_eq!(run.estimator.mode(), Mode::Blind);
    assert!(run.estimator.video_allowed() && !run.estimator.transfer_allowed());
    run.run(120);
    assert_eq!(run.events(), [Event::VideoOff]);
    assert!(!run.estimator.video_allowed() && !run.estimator.audio_floor());
    run.run(700);
    assert!(run.estimator.audio_floor());
    assert_eq!(run.estimate(), before, "frozen");
    run.reports = true;
    run.run(20);
    assert_eq!(run.events(), [Event::Back { restarted: true }]);
    assert!(run.estimator.video_allowed() && run.estimate() <= 1_000_000);
    run.run(1_500);
    assert_eq!(run.estimate(), before);
}

#[test]
fn a_short_silence_costs_nothing() {
    let mut run = Run::new(Config::default());
    run.run(3_000);
    let before = run.estimate();
    run.reports = false;
    run.run(200);
    run.reports = true;
    run.run(20);
    assert_eq!(
        run.events(),
        [Event::Blind, Event::Back { restarted: false }]
    );
    assert_eq!(run.estimate(), before);
}

#[test]
fn who_sends_nothing_is_not_blind() {
    let mut run = Run::new(Config::default());
    run.run(2_000);
    run.now += Duration::from_secs(60);
    run.report();
    run.now += Duration::from_secs(60);
    run.estimator.handle_timeout(run.now);
    assert_ne!(run.estimator.mode(), Mode::Blind);
}

#[test]
fn a_new_path_starts_low_and_an_old_one_is_remembered() {
    let mut run = Run::new(Config::default());
    run.run(3_000);
    let direct = run.estimate();
    run.epoch = 1;
    let relay = PathHint {
        announced_limit_bits_per_sec: Some(800_000),
        ..hint(1, 1)
    };
    run.estimator.on_path_switch(run.now, relay);
    assert_eq!(run.estimate(), 800_000);
    assert_eq!(run.estimator.mode(), Mode::Start);
    run.run(3_000);
    assert_eq!(run.estimate(), 800_000, "never above what was announced");
    run.epoch = 2;
    run.estimator.on_path_switch(run.now, hint(0, 2));
    assert_eq!(run.estimate(), direct, "seconds ago");
    run.epoch = 3;
    run.estimator.on_path_switch(run.now, hint(1, 3));
    run.run(1_000);
    run.now += Duration::from_secs(61);
    run.epoch = 4;
    let known = PathHint {
        known_bits_per_sec: Some(500_000),
        ..hint(0, 4)
    };
    run.estimator.on_path_switch(run.now, known);
    assert_eq!(run.estimate(), 350_000, "a minute ago is too long");
}

#[test]
fn feedback_on_the_path_before_changes_nothing() {
    let mut run = Run::new(Config::default());
    run.run(2_000);
    run.estimator.on_path_switch(run.now, hint(1, 1));
    let before = run.estimator.snapshot();
    run.run(10);
    run.report();
    let after = run.estimator.snapshot();
    assert_eq!(after.acked_bits_per_sec, 0);
    assert_eq!(after.estimate_bits_per_sec, before.estimate_bits_per_sec);
}

#[test]
fn a_relay_that_falls_is_a_cliff() {
    let mut run = Run::new(Config::default());
    run.capacity = 3e6;
    run.run(5_000);
    run.events();
    run.capacity = 6e5;
    run.run(400);
    let events = run.events();
    assert!(
        matches!(events.first(), Some(Event::Cliff { now_bits_per_sec, .. }) if *now_bits_per_sec < 700_000),
        "{events:?}"
    );
    run.run(1_500);
    assert!(run.events().contains(&Event::Drained));
    assert!(run.estimator.video_allowed());
    assert!(run.estimate() <= 620_000, "{}", run.estimate());
    assert!(run.estimator.queue_delay() < 40 * MILLI);
}

#[test]
fn other_traffic_counts_as_sent_and_arrived() {
    let mut run = Run::new(Config::default());
    run.estimator.set_cap(20_000_000);
    run.run(200);
    run.estimator
        .on_other_traffic(run.now, OtherTraffic::default());
    let mut other = OtherTraffic::default();
    for _ in 0..50 {
        run.run(20);
        other.sent_bytes += 2_500;
        other.acknowledged_bytes += 2_500;
        run.estimator.on_other_traffic(run.now, other);
    }
    let view = run.estimator.snapshot();
    assert!(view.estimate_bits_per_sec > 1_000_000, "{view:?}");
}

#[test]
fn ringing_shows_what_the_first_picture_may_take() {
    let mut run = Run::new(Config::default());
    run.capacity = 5e6;
    run.estimator.on_ringing(run.now);
    assert!(!run.estimator.video_allowed());
    run.run(60);
    let mut trains = 0;
    for _ in 0..700 {
        run.run(1);
        if let Some(order) = run.estimator.take_probe(run.now) {
            trains += 1;
            for _ in 0..order.packets {
                let content = Content::Probe {
                    cluster: order.cluster,
                };
                let bytes = order.bytes / u32::from(order.packets);
                run.send(Class::Probe, content, bytes);
            }
        }
    }
    assert_eq!(trains, 2);
    run.estimator.on_answered(run.now);
    let estimate = run.estimate();
    assert!((1_200_000..=2_900_000).contains(&estimate), "{estimate}");
    assert!(run.estimator.video_allowed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Reports of any content, order and repetition: no panic, the estimate within its bounds.
    #[test]
    fn hostile_reports_are_survived(
        steps in prop::collection::vec(
            (0u64..400, prop::option::of(any::<u64>()), 0u8..4, any::<u8>(), 0u64..3_000, any::<bool>()), 1..150,
        ),
    ) {
        let config = Config::default();
        let mut run = Run::new(config);
        run.run(500);
        for (sequence, arrived, class, marks, wait, again) in steps {
            run.now += Duration::from_millis(wait);
            let class = [Class::Audio, Class::Resend, Class::Video, Class::Probe][usize::from(class)];
            let packet = SentPacket {
                sequence,
                sent_at: run.now - Duration::from_millis(wait.min(300)),
                wire_bytes: 1_200,
                class,
                content: Content::Probe { cluster: marks },
                path_epoch: 0,
            };
            if again {
                run.estimator.on_sent(&packet);
            }
            let outcome = Outcome { packet, arrived_micros: arrived };
            let feedback = Feedback {
                received_at: run.now,
                round_trip: arrived.map(|micros| Duration::from_micros(micros % 9_000_000)),
                outcomes: vec![outcome.clone(), outcome],
                ce_marks: marks,
                streams: Vec::new(),
            };
            run.estimator.on_feedback(run.now, &feedback);
            run.estimator.handle_timeout(run.now);
            run.estimator.take_probe(run.now);
            let estimate = run.estimate();
            prop_assert!(estimate >= config.floor_bits_per_sec);
            prop_assert!(estimate <= config.cap_bits_per_sec);
            prop_assert!(run.estimator.pacing_bits_per_sec() <= 4 * estimate + 4);
            let loss = run.estimator.loss();
            prop_assert!((0.0..=1.0).contains(&loss.total) && (0.0..=0.35).contains(&loss.random));
        }
        prop_assert!(run.events().len() <= 64);
    }

    /// On a link that does not change the rate settles: within ±10 % of its mean after ten seconds.
    #[test]
    fn a_steady_link_has_a_steady_rate(capacity in 400_000u64..20_000_000) {
        let mut run = Run::new(Config::default());
        run.capacity = capacity as f64;
        run.run(10_000);
        let mut rates = Vec::new();
        for _ in 0..100 {
            run.run(100);
            rates.push(run.estimate() as f64);
        }
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let aim = (capacity as f64).min(2_900_000.0);
        prop_assert!(mean > 0.75 * aim && mean <= 1.02 * aim, "mean {mean} of {aim}");
        let near = rates.iter().filter(|rate| (**rate / mean - 1.0).abs() < 0.12).count();
        prop_assert!(near >= 90, "{rates:?}");
    }
}
