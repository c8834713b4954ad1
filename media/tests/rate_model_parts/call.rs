//! One direction of a call: what makes pictures and sound, the pacer and the estimator under test, a receiver that
//! reports each 20 ms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use media::history::{Feedback, Outcome, SentPacket};
use media::pace::{FrameTag, Pacer, Queued};
use media::packet::{Class, Content};
use media::rate::{
    Config, Demand, Estimator, Event, Ladder, Shares, SkipInputs, TargetFilter, allocate,
    skip_capture,
};
use media::{CAMERA, PictureSize};
use p2p_net_sim::{Clock, Link, LinkConfig, Loss};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::measure::{Row, percentile};
use super::{TICK, Wire};

const MILLI: Duration = Duration::from_millis(1);
/// Headers of a packet.
const HEADERS: usize = 76;
/// Payload of a fragment at most.
const FRAGMENT: usize = 1_110;
const REPORT_EACH: Duration = Duration::from_millis(20);
/// What a report speaks of again: three intervals.
const REPORT_OVERLAP: Duration = Duration::from_millis(65);
/// The receiver's clock is ahead by this, µs.
const OFFSET_MICROS: u64 = 5_000_000_000;
const CAP: u64 = 2_650_000;

/// What a call is like.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) round_trip: Duration,
    pub(crate) report_loss: f64,
    /// When the capacity falls and when it is back, seconds.
    pub(crate) marks: Option<(f64, f64)>,
}

impl Setup {
    pub(crate) fn new(seed: u64, seconds: u32) -> Self {
        Self {
            seed,
            seconds: seconds.into(),
            round_trip: 50 * MILLI,
            report_loss: 0.0,
            marks: None,
        }
    }

    pub(crate) fn with_report_loss(self, report_loss: f64) -> Self {
        Self {
            report_loss,
            ..self
        }
    }
}

struct Item {
    content: Content,
    made: Instant,
}

struct Arrival {
    at: Instant,
    sequence: u64,
    sent_at: Instant,
}

#[derive(Clone)]
struct Report {
    arrivals: Vec<(u64, Instant)>,
    echo: Option<(Instant, Duration)>,
}

#[derive(Default, Clone, Copy)]
struct Frame {
    captured: f64,
    done: Option<f64>,
}

/// The call.
pub(crate) struct Call {
    setup: Setup,
    start: Instant,
    now: Instant,
    random: Xoshiro256PlusPlus,
    estimator: Estimator,
    pacer: Pacer<Item>,
    ladder: Ladder,
    target: TargetFilter,
    shares: Shares,
    back: Link,
    cut: bool,
    sequence: u64,
    need_key: bool,
    next_capture: Instant,
    next_audio: Instant,
    next_report: Instant,
    sent: BTreeMap<u64, (SentPacket, Option<Instant>)>,
    highest: VecDeque<u64>,
    arrivals: BinaryHeap<Reverse<(Instant, u64, usize, Instant)>>,
    received: VecDeque<Arrival>,
    reports: BinaryHeap<Reverse<(Instant, usize)>>,
    report_store: Vec<Report>,
    key_leaves: bool,
    // Measured.
    frames: Vec<Frame>,
    captures: usize,
    audio: Vec<f64>,
    bytes_at: Vec<f64>,
    rates: Vec<(f64, f64)>,
    lost: usize,
    sent_bytes: f64,
}

impl Call {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::at(setup, Clock::new().now())
    }

    pub(crate) fn at(setup: Setup, start: Instant) -> Self {
        let source = PictureSize::new(1_280, 720).expect("even sides");
        let config = Config {
            cap_bits_per_sec: CAP,
            ..Config::default()
        };
        let loss = if setup.report_loss > 0.0 {
            Loss::Random(setup.report_loss)
        } else {
            Loss::None
        };
        let back = LinkConfig::delay(setup.round_trip / 2).with_loss(loss);
        let mut call = Self {
            start,
            now: start,
            random: Xoshiro256PlusPlus::seed_from_u64(setup.seed),
            estimator: Estimator::new(start, config),
            pacer: Pacer::new(start),
            ladder: Ladder::new(start, source, false),
            target: TargetFilter::default(),
            shares: allocate(&demand(config.start_bits_per_sec)),
            back: Link::new(back, setup.seed + 77),
            cut: false,
            sequence: 0,
            need_key: true,
            next_capture: start,
            next_audio: start,
            next_report: start + REPORT_EACH,
            sent: BTreeMap::new(),
            highest: VecDeque::new(),
            arrivals: BinaryHeap::new(),
            received: VecDeque::new(),
            reports: BinaryHeap::new(),
            report_store: Vec::new(),
            key_leaves: false,
            frames: Vec::new(),
            captures: 0,
            audio: Vec::new(),
            bytes_at: Vec::new(),
            rates: Vec::new(),
            lost: 0,
            sent_bytes: 0.0,
            setup,
        };
        call.ladder.begin(start, call.shares.camera_bits_per_sec);
        call.set_rates();
        call
    }

    pub(crate) fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Reports vanish.
    pub(crate) fn cut_reports(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Goes on until `seconds` after the start.
    pub(crate) fn run_to(&mut self, wire: &mut Wire, seconds: f64) {
        let end = self.start + Duration::from_secs_f64(seconds.max(0.0));
        while self.now + TICK <= end {
            self.now += TICK;
            self.tick(wire);
        }
    }

    fn tick(&mut self, wire: &mut Wire) {
        self.receive();
        self.hear();
        if self
            .estimator
            .next_timeout()
            .is_some_and(|at| at <= self.now)
        {
            self.estimator.handle_timeout(self.now);
            self.on_events();
        }
        self.probe();
        if self.now >= self.next_audio {
            self.speak();
        }
        if self.now >= self.next_capture {
            self.capture();
        }
        while let Some(packet) = self.pacer.poll(self.now) {
            self.leave(packet, wire);
        }
        while let Some(dropped) = self.pacer.poll_dropped() {
            self.need_key |= dropped.class == Class::Video;
        }
    }

    fn since(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64()
    }

    fn leave(&mut self, packet: Queued<Item>, wire: &mut Wire) {
        let sequence = self.sequence;
        self.sequence += 1;
        let key = packet.frame.is_some_and(|frame| frame.key);
        if key && !self.key_leaves {
            self.estimator.on_key_frame(self.now);
        }
        self.key_leaves = key;
        let sent = SentPacket {
            sequence,
            sent_at: self.now,
            wire_bytes: packet.wire_bytes,
            class: packet.class,
            content: packet.item.content.clone(),
            path_epoch: 0,
        };
        self.estimator.on_sent(&sent);
        let bytes = packet.wire_bytes as usize;
        if packet.class != Class::Probe {
            self.sent_bytes += bytes as f64;
        }
        match wire.send(self.now, bytes) {
            Some(at) => {
                self.arrivals.push(Reverse((at, sequence, bytes, self.now)));
                self.arrived(&packet.item, at, bytes);
            }
            None => self.lost += 1,
        }
        self.sent.insert(sequence, (sent, None));
    }

    /// Measures what a packet will have brought when it arrives.
    fn arrived(&mut self, item: &Item, at: Instant, bytes: usize) {
        let seconds = self.since(at);
        let index = seconds as usize;
        if self.bytes_at.len() <= index {
            self.bytes_at.resize(index + 1, 0.0);
        }
        self.bytes_at[index] += bytes as f64;
        match item.content {
            Content::Audio { .. } => {
                let late = at.saturating_duration_since(item.made).as_secs_f64() * 1e3;
                self.audio.push(late);
            }
            Content::Video { frame, .. } => {
                let done = &mut self.frames[frame as usize].done;
                *done = Some(done.map_or(seconds, |before| before.max(seconds)));
            }
            _ => {}
        }
    }

    /// The receiver, and its reports.
    fn receive(&mut self) {
        while let Some(Reverse((at, sequence, _, sent_at))) = self.arrivals.peek().copied() {
            if at > self.now {
                break;
            }
            self.arrivals.pop();
            self.received.push_back(Arrival {
                at,
                sequence,
                sent_at,
            });
        }
        if self.now < self.next_report {
            return;
        }
        self.next_report += REPORT_EACH;
        while self
            .received
            .front()
            .is_some_and(|arrival| arrival.at + REPORT_OVERLAP < self.now)
            && self.received.len() > 1
        {
            self.received.pop_front();
        }
        let echo = self
            .received
            .back()
            .map(|newest| (newest.sent_at, self.now - newest.at));
        let report = Report {
            arrivals: self
                .received
                .iter()
                .map(|arrival| (arrival.sequence, arrival.at))
                .collect(),
            echo,
        };
        if self.cut {
            return;
        }
        if let Some(at) = self.back.send(self.now, 100).arrives {
            self.report_store.push(report);
            self.reports
                .push(Reverse((at, self.report_store.len() - 1)));
        }
    }

    fn hear(&mut self) {
        while let Some(Reverse((at, index))) = self.reports.peek().copied() {
            if at > self.now {
                break;
            }
            self.reports.pop();
            let report = std::mem::replace(
                &mut self.report_store[index],
                Report {
                    arrivals: Vec::new(),
                    echo: None,
                },
            );
            let feedback = self.feedback(&report);
            self.estimator.on_feedback(self.now, &feedback);
            self.on_events();
            self.rates.push((
                self.since(self.now),
                self.estimator.estimate_bits_per_sec() as f64,
            ));
            self.set_rates();
            let changed = self.ladder.update(
                self.now,
                self.shares.camera_bits_per_sec,
                self.estimator.queue_delay(),
            );
            self.need_key |= changed;
        }
    }

    fn feedback(&mut self, report: &Report) -> Feedback {
        let mut outcomes = Vec::new();
        for (sequence, at) in &report.arrivals {
            let micros =
                OFFSET_MICROS + at.saturating_duration_since(self.start).as_micros() as u64;
            if let Some((packet, _)) = self.sent.remove(sequence) {
                outcomes.push(Outcome {
                    packet,
                    arrived_micros: Some(micros),
                });
                self.highest.push_back(*sequence);
            }
        }
        let newest = report.arrivals.last().map(|(_, at)| *at);
        let mut top: Vec<u64> = self.highest.iter().copied().collect();
        top.sort_unstable();
        let keep = top.split_off(top.len().saturating_sub(3));
        self.highest = keep.iter().copied().collect();
        if let (Some(third), Some(newest)) = (keep.first().filter(|_| keep.len() == 3), newest) {
            let mut gone = Vec::new();
            for (sequence, (_, passed)) in self.sent.range_mut(..third) {
                let since = *passed.get_or_insert(newest);
                if newest.saturating_duration_since(since) >= 5 * MILLI {
                    gone.push(*sequence);
                }
            }
            for sequence in gone {
                if let Some((packet, _)) = self.sent.remove(&sequence) {
                    outcomes.push(Outcome {
                        packet,
                        arrived_micros: None,
                    });
                }
            }
        }
        outcomes.sort_by_key(|outcome| outcome.packet.sequence);
        let round_trip = report.echo.map(|(sent_at, hold)| {
            self.now
                .saturating_duration_since(sent_at)
                .saturating_sub(hold)
        });
        Feedback {
            received_at: self.now,
            round_trip,
            outcomes,
            ce_marks: 0,
            streams: Vec::new(),
        }
    }

    fn on_events(&mut self) {
        while let Some(event) = self.estimator.poll_event() {
            self.set_rates();
            let share = self.shares.camera_bits_per_sec;
            if matches!(event, Event::Cliff { .. }) && self.ladder.on_cliff(self.now, share) {
                self.pacer.flush_video(self.now);
                self.need_key = true;
            }
            match event {
                Event::Drained => {
                    self.need_key |= self.ladder.on_drained(self.now, share);
                }
                Event::Back { restarted: true } => {
                    self.ladder.restart(self.now, share);
                    self.need_key = true;
                }
                _ => {}
            }
        }
    }

    fn set_rates(&mut self) {
        let estimate = self.estimator.estimate_bits_per_sec();
        self.shares = allocate(&demand(estimate));
        self.target.update(self.shares.camera_encoder_bits_per_sec);
        self.pacer
            .set_rates(self.now, self.estimator.pacing_bits_per_sec(), estimate);
    }

    fn probe(&mut self) {
        let Some(order) = self.estimator.take_probe(self.now) else {
            return;
        };
        for _ in 0..order.packets {
            let packet = Queued {
                class: Class::Probe,
                wire_bytes: order.bytes / u32::from(order.packets),
                frame: None,
                probe_bits_per_sec: Some(order.bits_per_sec),
                item: Item {
                    content: Content::Probe {
                        cluster: order.cluster,
                    },
                    made: self.now,
                },
            };
            self.pacer.push(self.now, packet);
        }
    }

    fn speak(&mut self) {
        let length = self.shares.audio_frame;
        self.next_audio += length;
        let payload = self.shares.audio_encoder_bits_per_sec as f64 / 8.0 * length.as_secs_f64();
        let packet = Queued {
            class: Class::Audio,
            wire_bytes: (payload as usize + HEADERS) as u32,
            frame: None,
            probe_bits_per_sec: None,
            item: Item {
                content: Content::Audio { number: 0 },
                made: self.now,
            },
        };
        self.pacer.push(self.now, packet);
    }

    fn capture(&mut self) {
        let step = self.ladder.step();
        let interval = Duration::from_secs(1) / step.map_or(30, |step| step.frames_per_sec);
        self.next_capture += interval;
        self.captures += 1;
        let inputs = SkipInputs {
            video_allowed: self.estimator.video_allowed() && step.is_some(),
            encoder_busy: false,
            pacer_delay: self.pacer.video_delay(),
            key_frame_rest: self.pacer.key_frame_rest(),
            frame_interval: interval,
            over_budget: Duration::ZERO,
        };
        let Some(step) = step.filter(|_| skip_capture(&inputs).is_none()) else {
            return;
        };
        let key = std::mem::take(&mut self.need_key);
        let mean = if key {
            key_frame_bytes(step.size.height())
        } else {
            self.target.told() as f64 / 8.0 * interval.as_secs_f64()
        };
        let bytes = (mean * self.random.random_range(0.85..1.15)) as usize;
        if key {
            self.ladder
                .on_key_frame(step.size, self.target.told(), bytes);
        }
        let fragments = bytes.div_ceil(FRAGMENT).max(1);
        let number = self.frames.len() as u64;
        self.frames.push(Frame {
            captured: self.since(self.now),
            done: None,
        });
        for fragment in 0..fragments {
            let packet = Queued {
                class: Class::Video,
                wire_bytes: (bytes / fragments + HEADERS) as u32,
                frame: Some(FrameTag {
                    stream: CAMERA,
                    number,
                    key,
                }),
                probe_bits_per_sec: None,
                item: Item {
                    content: Content::Video {
                        stream: CAMERA,
                        frame: number,
                        fragment: fragment as u16,
                        attempt: 0,
                    },
                    made: self.now,
                },
            };
            self.pacer.push(self.now, packet);
        }
    }

    pub(crate) fn arrived_bytes_after(&self, seconds: f64) -> f64 {
        self.bytes_at.iter().skip(seconds as usize).sum()
    }

    /// What came of it.
    pub(crate) fn row(&self) -> Row {
        let end = self.since(self.now);
        let done: Vec<(f64, f64)> = self
            .frames
            .iter()
            .filter_map(|frame| frame.done.map(|done| (frame.captured, done)))
            .collect();
        let mut latency: Vec<f64> = done.iter().map(|(from, to)| (to - from) * 1e3).collect();
        let mut shown: Vec<f64> = done.iter().map(|(_, to)| *to).collect();
        shown.sort_unstable_by(f64::total_cmp);
        let gaps: Vec<f64> = shown.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut audio = self.audio.clone();
        let mean = |from: f64| {
            let of: Vec<f64> = self
                .rates
                .iter()
                .filter(|(at, _)| *at > from)
                .map(|(_, rate)| *rate)
                .collect();
            of.iter().sum::<f64>() / of.len().max(1) as f64
        };
        let cap = 0.95 * CAP as f64;
        let first_at_cap = self.rates.iter().find(|(_, rate)| *rate >= cap);
        let snapshot = self.estimator.snapshot();
        let mut row = Row {
            video_p50: percentile(&mut latency, 0.5),
            video_p95: percentile(&mut latency, 0.95),
            audio_p95: percentile(&mut audio, 0.95),
            shown: done.len() as f64 / self.captures.max(1) as f64,
            stall: gaps
                .iter()
                .filter(|gap| **gap > 0.2)
                .fold(0.0, |sum, gap| sum + gap),
            longest_gap: gaps.iter().copied().fold(0.0, f64::max),
            rate_mean: mean(5.0),
            late_rate: mean(end - 20.0),
            arrived: self.arrived_bytes_after(5.0) * 8.0 / (end - 5.0),
            at_cap_after: first_at_cap.map_or(f64::INFINITY, |(at, _)| *at),
            sent_of_estimate: self.sent_bytes * 8.0 / (mean(0.0) * end),
            loss: self.lost as f64 / self.sequence.max(1) as f64,
            cliffs: snapshot.cliffs,
            decreases: snapshot.decreases,
            probes: (snapshot.probes, snapshot.probes_taken),
            ..Row::default()
        };
        if let Some((drop, back)) = self.setup.marks {
            // At 50 ms round trip below 200 ms again, else within 100 ms of what it was.
            let high = if self.setup.round_trip > 50 * MILLI {
                self.setup.round_trip.as_secs_f64() / 2.0 + 0.127
            } else {
                0.2
            };
            let last_high = done
                .iter()
                .filter(|(from, to)| *from > drop - 0.5 && *from < back && to - from > high)
                .map(|(_, to)| *to)
                .fold(drop, f64::max);
            row.low_again_after = last_high - drop;
            let before = self.rates.iter().rev().find(|(at, _)| *at < drop);
            let aim = 0.9 * before.map_or(0.0, |(_, rate)| *rate);
            let again = self
                .rates
                .iter()
                .find(|(at, rate)| *at > back && *rate >= aim);
            row.back_after = again.map_or(f64::INFINITY, |(at, _)| at - back);
        }
        row
    }
}

/// A camera and a microphone, and no repair.
fn demand(estimate_bits_per_sec: u64) -> Demand {
    Demand {
        estimate_bits_per_sec,
        audio: true,
        audio_floor: false,
        audio_bits_per_sec: 48_000,
        audio_copies: 0,
        repair_share: 0.0,
        camera: true,
        screen: None,
        video_cap_bits_per_sec: 2_500_000,
        transfer: false,
        fragment_bytes: FRAGMENT,
    }
}

/// What a key frame of a camera takes, bytes (measured with openh264 at 2 Mbit/s; less is taken at less).
fn key_frame_bytes(height: u32) -> f64 {
    match height {
        1_080.. => 40_000.0,
        720.. => 18_000.0,
        540.. => 11_000.0,
        360.. => 6_200.0,
        _ => 2_000.0,
    }
}
