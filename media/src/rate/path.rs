//! What one path showed: packets and reports go in, and what the decisions of `control.rs` are made of comes out.
//! Times are milliseconds since the estimator began (receiver's clock: since its own origin), rates bits a second.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::arrival::Groups;
use super::capacity::{BurstCapacity, BurstId, Bursts, LinkCapacity, Throughput};
use super::compete::Compete;
use super::control::Drain;
use super::delay::{Delay, Queue};
use super::loss::{self, Loss};
use super::probe::{self, Prober};
use super::trend::{Trend, Usage};
use super::{Config, Event, Mode, ProbeOrder};
use crate::Sequence;
use crate::history::{Feedback, Outcome, SentPacket};
use crate::packet::{Class, Content};

/// Packets under way that are remembered, and for how long, ms: as many as the sent store keeps.
const MAX_FLYING: usize = 4_096;
const FLYING_MS: f64 = 4_000.0;
/// Round trip until one is known, ms.
const ROUND_TRIP_MS: f64 = 100.0;
/// The least round trip is that of two buckets of this length, ms.
const ROUND_TRIP_BUCKET_MS: f64 = 5_000.0;
/// Weight of a new report gap in the mean.
const GAP_WEIGHT: f64 = 0.1;
/// Bins of the meters of what was sent: length (ms), and how many: a second.
const METER_BIN_MS: f64 = 50.0;
const METER_BINS: usize = 20;
/// The sender uses less than this share of its estimate: application-limited; it is no more above that.
const LIMITED_BELOW: f64 = 0.65;
const LIMITED_UNTIL: f64 = 0.8;
/// It must be so for this long, ms.
const LIMITED_AFTER_MS: f64 = 1_000.0;
/// Rates remembered, ms.
const RATES_MS: f64 = 3_200.0;
/// Events kept until they are asked for.
const MAX_EVENTS: usize = 32;
/// Bins of 50 ms of the short loss: a second.
const SHORT_LOSS_BINS: usize = 20;
/// What is taken of the best train of ringing.
const RINGING_SHARE: f64 = 0.7;
/// A probe is welcome while the queue is shorter, ms.
const PROBE_QUEUE_MS: f64 = 20.0;
/// A packet lost beside one that waited longer than this in the network may be lost by the queue's end, ms: longer
/// than jitter makes most wait, and shorter than any queue that a narrow link is worth having with.
const QUEUED_MS: f64 = 50.0;

#[derive(Debug, Clone, Copy)]
struct Flying {
    send: f64,
    bytes: f64,
    /// The rate that it was sent at, for the loss model.
    rate: f64,
}

/// Bytes over the last second.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bins: VecDeque<(u64, f64)>,
    began: Option<f64>,
}

impl Meter {
    fn add(&mut self, now: f64, bytes: f64) {
        self.began.get_or_insert(now);
        let index = (now / METER_BIN_MS).max(0.0) as u64;
        match self.bins.back_mut() {
            Some((last, sum)) if *last >= index => *sum += bytes,
            _ => self.bins.push_back((index, bytes)),
        }
        while self.bins.len() > METER_BINS + 1 {
            self.bins.pop_front();
        }
    }

    /// Bits a second over the last second, or since it began.
    pub(super) fn rate(&self, now: f64) -> f64 {
        let newest = (now / METER_BIN_MS).max(0.0) as u64;
        let oldest = newest.saturating_sub(METER_BINS as u64);
        let bytes: f64 = self
            .bins
            .iter()
            .filter(|(index, _)| *index > oldest)
            .map(|(_, bytes)| bytes)
            .sum();
        let span = METER_BIN_MS * METER_BINS as f64;
        let span = self
            .began
            .map_or(span, |began| (now - began).clamp(100.0, span));
        bytes * 8_000.0 / span
    }
}

/// One path.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) config: Config,
    pub(super) mode: Mode,
    pub(super) rate: f64,
    pub(super) video: bool,
    pub(super) started: f64,
    /// The round of START: when it began, and its rate.
    pub(super) round: (f64, f64),
    pub(super) grown: f64,
    pub(super) decreased: Option<f64>,
    pub(super) cut: f64,
    pub(super) drain: Option<Drain>,
    /// When the last drain began.
    pub(super) drained_from: Option<f64>,
    /// When pictures were allowed again after it.
    pub(super) resumed: Option<f64>,
    pub(super) key_frame: Option<f64>,
    pub(super) probed: Option<f64>,
    pub(super) guard_since: Option<f64>,
    pub(super) guarded: f64,
    /// Mode before BLIND.
    pub(super) before_blind: Mode,
    /// How long there have been no reports, ms.
    pub(super) blind_for: f64,
    pub(super) limited: bool,
    limited_since: Option<f64>,
    pub(super) rates: VecDeque<(f64, f64)>,
    pub(super) trend: Trend,
    groups: Groups,
    pub(super) delay: Delay,
    pub(super) flow: Throughput,
    pub(super) bursts: Bursts,
    pub(super) link: LinkCapacity,
    pub(super) loss: Loss,
    pub(super) prober: Prober,
    pub(super) compete: Compete,
    flying: BTreeMap<Sequence, Flying>,
    flying_bytes: f64,
    /// Packets found lost since the report before.
    newly_lost: u32,
    /// When reports came again after a pause.
    pub(super) back: f64,
    sent: Meter,
    audio: Meter,
    other_sent: Meter,
    other_acked: Meter,
    /// Since when something was sent that no report has followed.
    pub(super) unanswered: Option<f64>,
    pub(super) round_trip: Option<f64>,
    round_trips: [Option<f64>; 2],
    round_trips_began: f64,
    pub(super) last_report: Option<f64>,
    pub(super) report_gap: f64,
    pub(super) queue: Queue,
    events: VecDeque<Event>,
    /// What the relay announced, bits a second.
    announced: Option<u64>,
    /// The best that trains of ringing showed, bits a second.
    rung: Option<f64>,
    pub(super) cliffs: u64,
    pub(super) decreases: u64,
}

/// What a decision goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) queue: Queue,
    /// What arrived, and the same without random loss; other traffic included.
    pub(super) acked: f64,
    pub(super) acked_whole: f64,
    /// What was sent of the same.
    pub(super) sent: f64,
    pub(super) burst: Option<BurstCapacity>,
    pub(super) usage: Usage,
    pub(super) round_trip: f64,
    pub(super) round_trip_least: f64,
    /// Losses of this report.
    pub(super) lost: u32,
    /// Congestion marks of this report.
    pub(super) marks: u8,
    /// Lost share over a second.
    pub(super) loss: f64,
}

impl Path {
    pub(super) fn new(now: f64, config: Config, start: f64) -> Self {
        let floor = config.floor_bits_per_sec.min(config.cap_bits_per_sec) as f64;
        let start = start.clamp(floor, config.cap_bits_per_sec as f64);
        Self {
            config,
            mode: Mode::Start,
            rate: start,
            video: true,
            started: now,
            round: (now, start),
            grown: now,
            decreased: None,
            cut: now,
            drain: None,
            drained_from: None,
            resumed: None,
            key_frame: None,
            probed: None,
            guard_since: None,
            guarded: now,
            before_blind: Mode::Start,
            blind_for: 0.0,
            limited: false,
            limited_since: None,
            rates: VecDeque::new(),
            trend: Trend::default(),
            groups: Groups::default(),
            delay: Delay::default(),
            flow: Throughput::default(),
            bursts: Bursts::default(),
            link: LinkCapacity::default(),
            loss: Loss::default(),
            prober: Prober::new(now),
            compete: Compete::default(),
            flying: BTreeMap::new(),
            flying_bytes: 0.0,
            newly_lost: 0,
            back: f64::NEG_INFINITY,
            sent: Meter::default(),
            audio: Meter::default(),
            other_sent: Meter::default(),
            other_acked: Meter::default(),
            unanswered: None,
            round_trip: config.round_trip.map(|trip| trip.as_secs_f64() * 1e3),
            round_trips: [None; 2],
            round_trips_began: now,
            last_report: None,
            report_gap: 20.0,
            queue: Queue::default(),
            events: VecDeque::new(),
            announced: None,
            rung: None,
            cliffs: 0,
            decreases: 0,
        }
    }

    /// A packet left.
    pub(super) fn on_sent(&mut self, now: f64, packet: &SentPacket) {
        let bytes = f64::from(packet.wire_bytes);
        self.sent.add(now, bytes);
        if packet.class == Class::Audio {
            self.audio.add(now, bytes);
        }
        if packet.class == Class::Probe {
            self.probed = Some(now);
        }
        self.unanswered.get_or_insert(now);
        let target = self.rate * self.loss.factor(now);
        let rate = if self.limited {
            self.sent.rate(now)
        } else {
            target
        };
        let flying = Flying {
            send: now,
            bytes,
            rate,
        };
        if let Some(old) = self.flying.insert(packet.sequence, flying) {
            self.flying_bytes -= old.bytes;
        }
        self.flying_bytes += bytes;
        while let Some(oldest) = self.flying.first_entry() {
            let old = now - oldest.get().send > FLYING_MS;
            if !old && self.flying.len() <= MAX_FLYING {
                break;
            }
            if let Some((_, old)) = self.flying.pop_first() {
                self.flying_bytes -= old.bytes;
            }
        }
    }

    /// Traffic beside the call's.
    pub(super) fn on_other(&mut self, now: f64, sent: f64, acked: f64) {
        if sent > 0.0 {
            self.other_sent.add(now, sent);
        }
        if acked > 0.0 {
            self.other_acked.add(now, acked);
        }
    }

    /// Takes in a report. Only packets of `epoch` count.
    pub(super) fn take_in(
        &mut self,
        now: f64,
        base: Instant,
        epoch: u32,
        feedback: &Feedback,
    ) -> View {
        if let Some(last) = self.last_report {
            let gap = (now - last).min(500.0);
            self.report_gap = (1.0 - GAP_WEIGHT) * self.report_gap + GAP_WEIGHT * gap;
        }
        self.last_report = Some(now);
        self.unanswered = None;
        if let Some(trip) = feedback.round_trip {
            self.on_round_trip(now, trip.as_secs_f64() * 1e3);
        }
        self.on_overdue(now, base, epoch, &feedback.outcomes);
        let lost = std::mem::take(&mut self.newly_lost);
        self.queue = self.delay.queue();
        self.watch_limit(now);
        self.view(now, lost, feedback.ce_marks)
    }

    /// What became of packets, by a report or by none; it counts with the next report.
    pub(super) fn on_overdue(&mut self, now: f64, base: Instant, epoch: u32, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if outcome.packet.path_epoch == epoch {
                self.newly_lost += u32::from(self.on_outcome(now, base, outcome));
            }
        }
    }

    /// `true` if it is lost.
    fn on_outcome(&mut self, now: f64, base: Instant, outcome: &Outcome) -> bool {
        let packet = &outcome.packet;
        let flying = self.flying.remove(&packet.sequence);
        let bytes = f64::from(packet.wire_bytes);
        let send = millis(base, packet.sent_at);
        let arrival = outcome.arrived_micros.map(|micros| micros as f64 / 1e3);
        match (flying, arrival) {
            (Some(flying), _) => {
                self.flying_bytes = (self.flying_bytes - flying.bytes).max(0.0);
                let known = loss::Known {
                    number: packet.sequence,
                    send,
                    bytes,
                    rate: flying.rate,
                    lost: arrival.is_none(),
                    queued: matches!(self.mode, Mode::Drain | Mode::Blind)
                        || send < self.back
                        || self.delay.latest() > QUEUED_MS,
                };
                self.loss.on_packet(now, known);
            }
            // It counted as lost before.
            (None, Some(_)) => self.loss.undo(bytes),
            (None, None) => return false,
        }
        let cluster = match packet.content {
            Content::Probe { cluster } => Some(cluster),
            _ => None,
        };
        self.prober.on_packet(cluster, send, arrival, bytes);
        let Some(arrival) = arrival else {
            self.flow.on_lost(send, bytes);
            return true;
        };
        if self
            .delay
            .on_packet(send, arrival, self.mode == Mode::Compete)
        {
            self.reset_clocks();
        }
        if let Some(delta) = self.groups.on_packet(send, arrival) {
            self.trend.on_delta(delta);
        }
        self.flow.on_arrived(send, arrival, bytes);
        self.bursts
            .on_packet(now, burst_of(packet), send, arrival, bytes);
        false
    }

    /// The receiver's clock jumped: nothing before can be compared with what comes.
    fn reset_clocks(&mut self) {
        self.groups = Groups::default();
        self.trend = Trend::default();
        self.flow = Throughput::default();
        self.bursts.clear();
    }

    /// Forgets what was seen before a pause.
    pub(super) fn forget(&mut self) {
        self.reset_clocks();
        self.delay = Delay::default();
        self.link.clear();
    }

    fn on_round_trip(&mut self, now: f64, trip: f64) {
        self.round_trip = Some(trip);
        if now - self.round_trips_began > ROUND_TRIP_BUCKET_MS {
            self.round_trips = [self.round_trips[1], None];
            self.round_trips_began = now;
        }
        self.round_trips[1] = Some(self.round_trips[1].map_or(trip, |least| least.min(trip)));
    }

    fn watch_limit(&mut self, now: f64) {
        let sent = self.sent.rate(now) + self.other_sent.rate(now);
        let below = if self.limited {
            LIMITED_UNTIL
        } else {
            LIMITED_BELOW
        };
        if self.video && sent >= below * self.rate {
            self.limited_since = None;
            self.limited = false;
        } else {
            let since = *self.limited_since.get_or_insert(now);
            self.limited = now - since >= LIMITED_AFTER_MS;
        }
    }

    fn view(&self, now: f64, lost: u32, marks: u8) -> View {
        let (media, sent) = self.flow.rates().unwrap_or((0.0, 0.0));
        let other_acked = self.other_acked.rate(now);
        let random = self.loss.fit().random;
        View {
            queue: self.queue,
            acked: media + other_acked,
            acked_whole: media / (1.0 - random) + other_acked,
            sent: sent + self.other_sent.rate(now),
            burst: self.bursts.best(now),
            usage: self.trend.usage(),
            round_trip: self.round_trip_ms(),
            round_trip_least: self.round_trip_least(),
            lost,
            marks,
            loss: self.loss.share(SHORT_LOSS_BINS),
        }
    }

    /// Lets the loss model see the outcome of this report.
    pub(super) fn update_loss(&mut self, now: f64, view: &View) {
        let around = loss::Around {
            rate: self.rate,
            acked: view.acked,
            queue: view.queue.p10,
            round_trip: view.round_trip,
        };
        self.loss.update(now, around);
    }

    /// Newest round trip, ms.
    pub(super) fn round_trip_ms(&self) -> f64 {
        self.round_trip.unwrap_or(ROUND_TRIP_MS)
    }

    /// Least round trip of late, ms.
    pub(super) fn round_trip_least(&self) -> f64 {
        self.round_trips
            .iter()
            .flatten()
            .copied()
            .min_by(f64::total_cmp)
            .unwrap_or_else(|| self.round_trip_ms())
    }

    /// What sound takes, bits a second on the wire.
    pub(super) fn audio_rate(&self, now: f64) -> f64 {
        self.audio.rate(now)
    }

    /// What was sent in the last second, bits a second.
    pub(super) fn sent_rate(&self, now: f64) -> f64 {
        self.sent.rate(now) + self.other_sent.rate(now)
    }

    /// Sent and not yet reported, bits.
    pub(super) fn flying_bits(&self) -> f64 {
        self.flying_bytes * 8.0
    }

    /// The train that is due, if one is.
    pub(super) fn take_probe(&mut self, now: f64) -> Option<ProbeOrder> {
        let around = self.around_probe();
        // Nothing is known before the first report.
        self.last_report?;
        let order = self.prober.take(now, around)?;
        self.probed = Some(now);
        Some(order)
    }

    fn around_probe(&self) -> probe::Around {
        let mode = matches!(self.mode, Mode::Start | Mode::Increase | Mode::Hold);
        probe::Around {
            rate: self.rate,
            cap: self.top(),
            welcome: mode && self.video && self.queue.low <= PROBE_QUEUE_MS,
            limited: self.limited,
            round_trip: self.round_trip_ms(),
            jitter: self.queue.jitter,
        }
    }

    /// When a probe may be due; none while none would be ordered.
    pub(super) fn probe_due(&self) -> Option<f64> {
        let wanted = self.last_report.is_some() && self.rate < self.top();
        wanted.then(|| self.prober.due())
    }

    /// Notes the rate for those rules that look back.
    pub(super) fn note_rate(&mut self, now: f64) {
        self.rates.push_back((now, self.rate));
        while self
            .rates
            .front()
            .is_some_and(|(at, _)| *at < now - RATES_MS)
        {
            self.rates.pop_front();
        }
    }

    /// What the call could use at most, bits a second.
    pub(super) fn set_cap(&mut self, cap: u64) {
        self.config.cap_bits_per_sec = cap;
        self.limit(self.announced);
    }

    /// A limit that the relay announced, bits a second.
    pub(super) fn limit(&mut self, announced: Option<u64>) {
        self.announced = announced;
        self.rate = self.rate.min(self.top());
    }

    /// The highest rate possible, bits a second.
    pub(super) fn top(&self) -> f64 {
        let floor = self.config.floor_bits_per_sec;
        let cap = self.config.cap_bits_per_sec;
        let most = self.announced.map_or(cap, |limit| limit.min(cap));
        most.max(floor) as f64
    }

    /// It rings.
    pub(super) fn ring(&mut self, now: f64) {
        self.prober.ring(now);
    }

    /// A report while it rings: only trains are of interest.
    pub(super) fn hear_ringing(&mut self, now: f64) {
        if let Some(result) = self.prober.result(now, 0.0) {
            let best = self.rung.unwrap_or(0.0).max(result.rate);
            self.rung = Some(best);
        }
    }

    /// The call begins.
    pub(super) fn answered(&mut self, now: f64) {
        if let Some(best) = self.rung.take() {
            self.rate =
                (RINGING_SHARE * best).clamp(self.config.floor_bits_per_sec as f64, self.top());
        }
        self.last_report = None;
        self.restart(now);
    }

    /// The path is taken again.
    pub(super) fn resume(&mut self, now: f64) {
        self.last_report = None;
        self.unanswered = None;
        self.flying.clear();
        self.flying_bytes = 0.0;
        self.rate = self.rate.min(self.top());
        self.restart(now);
    }

    /// Events of the path before that nobody has asked for yet.
    pub(super) fn take_events(&mut self, events: Vec<Event>) {
        for event in events {
            self.tell(event);
        }
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.iter().copied().collect()
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// A packet that was sent again was not sent with its frame.
fn burst_of(packet: &SentPacket) -> Option<BurstId> {
    match packet.content {
        Content::Video {
            stream,
            frame,
            attempt: 0,
            ..
        } => Some(BurstId::Frame(stream, frame)),
        Content::Parity { stream, frame } => Some(BurstId::Frame(stream, frame)),
        Content::Probe { cluster } => Some(BurstId::Cluster(cluster)),
        Content::Video { .. } | Content::Audio { .. } | Content::Report => None,
    }
}

/// Milliseconds from `base` to `at`.
pub(super) fn millis(base: Instant, at: Instant) -> f64 {
    at.saturating_duration_since(base).as_secs_f64() * 1e3
}
