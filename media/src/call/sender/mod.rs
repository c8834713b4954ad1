//! The sending half: fragments, parity, copies and resends into the pacer, packets out of it; reports into the
//! estimate, the estimate into shares, and shares into orders for the encoders.

mod intake;
mod numbers;
mod outlet;
mod returns;
mod share;

use std::time::{Duration, Instant};

use super::bursts::Bursts;
use super::receiver::Receiver;
use super::stream::VideoOut;
use super::{Config, Outputs, SoundOrder, Subject};
use crate::history::SentHistory;
use crate::pace::Pacer;
use crate::packet::{Body, WireClock, Writer};
use crate::rate::{Config as RateConfig, Estimator, Mode, PathHint, Shares, SkipReason};
use crate::repair::{Policy, ResendStore, copies};
use crate::stats::RateMeter;
use crate::{Budget, FrameNumber, OtherTraffic, PathState, StreamId};

/// How often shares are worked out without a report, ms: reports come at 10 to 50.
const TICK: Duration = Duration::from_millis(25);
/// What a call needs beside its video at most: sound with two copies, reports, bits a second.
const BESIDE_VIDEO_BITS_PER_SEC: u64 = 300_000;
/// The least that an estimate may be, bits a second: sound in frames of 40 ms, and reports.
const FLOOR_BITS_PER_SEC: u64 = 40_000;
/// With nothing else to send, padding goes so often, so that both sides know that the path lives.
const KEEP_ALIVE: Duration = Duration::from_millis(200);
/// The same while no reports come: the way back is seen within a round trip and this.
const KEEP_ALIVE_BLIND: Duration = Duration::from_millis(100);
/// Path marks after a switch.
const PATH_MARKS: u8 = 3;
/// The path key of the relay; those of direct paths lie above.
const RELAY_PATH_KEY: u64 = 1;

/// A packet that waits for its turn.
#[derive(Debug)]
struct Item {
    body: Body,
    captured_at: Instant,
}

/// What the receiving half must know of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) round_trip: Option<Duration>,
    pub(super) estimate_bits_per_sec: u64,
    pub(super) deadline: Duration,
    pub(super) screen_deadline: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    packets: u64,
    bytes: u64,
    lost: u64,
    reports_sent: u64,
    reports_received: u64,
    audio_bytes: u64,
    video_bytes: u64,
    resent_packets: u64,
    resent_bytes: u64,
    parity_packets: u64,
    round_trips: u64,
    round_trip_total: Duration,
    parity_bytes: u64,
    probe_bytes: u64,
    too_large: u64,
    sounds: u64,
    copies: u64,
}

/// The sending half of a call.
#[derive(Debug)]
pub(super) struct Sender {
    config: Config,
    writer: Writer,
    sent: SentHistory,
    estimator: Estimator,
    policy: Policy,
    resend: ResendStore,
    sounds: copies::SoundStore,
    sound_plan: copies::Plan,
    pacer: Pacer<Item>,
    path: PathState,
    path_key: u64,
    direct_round_trip: Option<Duration>,
    video: Vec<VideoOut>,
    shares: Option<Shares>,
    sound_on: bool,
    next_sound: FrameNumber,
    silent_since_packet: Option<Instant>,
    sound_told: Option<SoundOrder>,
    last_sound: (bool, Duration),
    peer_buffer: Duration,
    peer_cap: u64,
    transfer: bool,
    budget_told: Option<Budget>,
    started: bool,
    last_sent: Option<Instant>,
    last_tick: Instant,
    marks: (u8, Instant),
    key_announced: Option<(StreamId, FrameNumber)>,
    report_wanted: bool,
    bursts: Bursts,
    wire_rate: RateMeter,
    video_rate: RateMeter,
    counters: Counters,
}

impl Sender {
    pub(super) fn new(now: Instant, config: &Config, clock: WireClock) -> Self {
        let rate = RateConfig {
            floor_bits_per_sec: FLOOR_BITS_PER_SEC,
            cap_bits_per_sec: config.video_cap_bits_per_sec + BESIDE_VIDEO_BITS_PER_SEC,
            start_bits_per_sec: config.start_bits_per_sec,
            round_trip: config.path.round_trip,
        };
        Self {
            writer: Writer::new(clock),
            sent: SentHistory::new(clock, config.first_sequence),
            estimator: Estimator::new(now, rate),
            policy: Policy::new(),
            resend: ResendStore::new(),
            sounds: copies::SoundStore::new(),
            sound_plan: copies::Plan::default(),
            pacer: Pacer::new(now),
            path: config.path,
            path_key: 0,
            direct_round_trip: None,
            video: Vec::new(),
            shares: None,
            sound_on: false,
            next_sound: config.first_frame,
            silent_since_packet: None,
            sound_told: None,
            last_sound: (false, Duration::from_millis(10)),
            peer_buffer: Duration::from_millis(40),
            peer_cap: u64::MAX,
            transfer: false,
            budget_told: None,
            started: false,
            last_sent: None,
            last_tick: now,
            marks: (0, now),
            key_announced: None,
            report_wanted: false,
            bursts: Bursts::default(),
            wire_rate: RateMeter::default(),
            video_rate: RateMeter::default(),
            counters: Counters::default(),
            config: *config,
        }
    }

    pub(super) fn stream_on(
        &mut self,
        now: Instant,
        stream: StreamId,
        subject: Subject,
        source: crate::PictureSize,
    ) {
        self.started = true;
        let (spare, first) = (self.config.spare_cores, self.config.first_frame);
        let room = self.video.len() + 1 < crate::MAX_STREAMS;
        match self.video.iter_mut().find(|video| video.stream == stream) {
            Some(video) => video.restart(subject, source, spare),
            None if room => {
                self.video
                    .push(VideoOut::new(now, stream, subject, source, spare, first));
            }
            None => return,
        }
        self.last_tick = now.checked_sub(TICK).unwrap_or(now);
        self.shares = None;
    }

    pub(super) fn stream_off(&mut self, now: Instant, stream: StreamId) {
        if let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) {
            video.stop(now);
            self.resend.abandon_before(stream, video.next);
        }
        if self.video.iter().all(|video| !video.on) {
            self.pacer.flush_video(now);
        }
        self.shares = None;
    }

    pub(super) fn set_sound(&mut self, on: bool) {
        self.started = true;
        self.sound_on = on;
        self.shares = None;
    }

    pub(super) fn set_transfer(&mut self, runs: bool) {
        self.transfer = runs;
        self.shares = None;
    }

    pub(super) fn set_peer_cap(&mut self, cap: u64) {
        self.peer_cap = cap.max(FLOOR_BITS_PER_SEC);
        self.estimator.set_cap(self.cap());
        self.shares = None;
    }

    fn cap(&self) -> u64 {
        (self.config.video_cap_bits_per_sec + BESIDE_VIDEO_BITS_PER_SEC).min(self.peer_cap)
    }

    pub(super) fn next_frame(&self, stream: StreamId) -> FrameNumber {
        self.video
            .iter()
            .find(|video| video.stream == stream)
            .map_or(self.config.first_frame, |video| video.next)
    }

    pub(super) fn skips(&self, stream: StreamId) -> Option<SkipReason> {
        match self.video.iter().find(|video| video.stream == stream) {
            Some(video) => video.skips(),
            None => Some(SkipReason::VideoOff),
        }
    }

    pub(super) fn on_skipped(&mut self, stream: StreamId) {
        if let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) {
            video.counters.captured += 1;
            video.counters.skipped += 1;
        }
    }

    pub(super) fn on_path(&mut self, now: Instant, path: PathState) {
        let before = std::mem::replace(&mut self.path, path);
        if before.epoch == path.epoch {
            return;
        }
        self.path_key = if path.relayed {
            RELAY_PATH_KEY
        } else {
            // A direct path with the round trip of the last one is the last one.
            let near = |a: Duration, b: Duration| a < b.mul_f64(1.3) && b < a.mul_f64(1.3);
            match (self.direct_round_trip, path.round_trip) {
                (Some(old), Some(new)) if near(old, new) => RELAY_PATH_KEY + 1,
                _ => RELAY_PATH_KEY + 2 + u64::from(path.epoch),
            }
        };
        if !before.relayed {
            self.direct_round_trip = Some(self.estimator.round_trip());
        }
        let hint = PathHint {
            key: self.path_key,
            epoch: path.epoch,
            relayed: path.relayed,
            round_trip: path.round_trip,
            known_bits_per_sec: None,
            announced_limit_bits_per_sec: None,
        };
        self.estimator.on_path_switch(now, hint);
        self.pacer.flush_path(now);
        let lost = self.sent.on_path_switch(now, path.epoch, before.suspect);
        self.on_outcomes(now, &lost);
        self.marks = (PATH_MARKS, now);
        self.shares = None;
    }

    pub(super) fn on_other(&mut self, now: Instant, traffic: OtherTraffic) {
        self.estimator.on_other_traffic(now, traffic);
    }

    /// Sound must not be made later now: the network is in trouble.
    pub(super) fn holds_audio(&self) -> bool {
        matches!(self.estimator.mode(), Mode::Blind | Mode::Compete)
    }

    pub(super) fn view(&self) -> View {
        View {
            round_trip: self.sent.round_trip(),
            estimate_bits_per_sec: self.estimator.estimate_bits_per_sec(),
            deadline: self.policy.deadline(false),
            screen_deadline: self.policy.deadline(true),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if !self.started {
            return None;
        }
        let keep_alive = self.last_sent.map_or(self.last_tick, |at| at) + self.keep_alive();
        let mark = (self.marks.0 > 0).then_some(self.marks.1);
        [
            Some(self.last_tick + TICK),
            Some(keep_alive),
            mark,
            self.pacer.next_wakeup(),
            self.sent.next_timeout(),
            self.estimator.next_timeout(),
            self.resend.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn keep_alive(&self) -> Duration {
        if self.estimator.mode() == Mode::Blind {
            KEEP_ALIVE_BLIND
        } else {
            KEEP_ALIVE
        }
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Instant, receiver: &mut Receiver, outputs: &mut Outputs) {
        if !self.started {
            if !receiver.has_heard() {
                return;
            }
            // Who has nothing to send reports all the same: without reports the other side sends next to nothing.
            self.started = true;
        }
        let overdue = self.sent.on_timeout(now);
        if !overdue.is_empty() {
            self.estimator.on_overdue(now, &overdue);
            self.on_outcomes(now, &overdue);
        }
        self.estimator.handle_timeout(now);
        while let Some(event) = self.estimator.poll_event() {
            self.on_rate_event(now, event, outputs);
        }
        if now.saturating_duration_since(self.last_tick) >= TICK || self.shares.is_none() {
            self.last_tick = now;
            self.update_policy(now);
            self.share(now, outputs);
        }
        self.queue_resends(now);
        self.queue_probes(now);
        self.queue_marks(now);
        self.send_due(now, outputs);
        self.send_report(now, receiver, outputs);
        self.send_keep_alive(now, outputs);
        self.update_skips(now, outputs);
    }
}
