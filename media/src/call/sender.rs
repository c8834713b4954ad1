//! The sending half: fragments, parity, copies and resends into the pacer, packets out of it; reports into the
//! estimate, the estimate into shares, and shares into orders for the encoders.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::bursts::Bursts;
use super::receiver::Receiver;
use super::stream::{Pressure, VideoOut};
use super::{Config, Output, Outputs, SoundOrder, Subject};
use crate::history::{Feedback, Outcome, SentHistory, SentPacket};
use crate::pace::{FrameTag, Pacer, Queued};
use crate::packet::{
    AudioBody, Body, Class, Content, HEADER_BYTES, ParityBody, Report, Sound, StreamReport,
    VideoBody, WIRE_OVERHEAD_BYTES, WireClock, Writer, fragment, fragment_budget, nearest,
};
use crate::rate::{
    Config as RateConfig, Demand, Estimator, Event as RateEvent, Mode, PathHint, ScreenDemand,
    Shares, SkipReason, allocate,
};
use crate::repair::{Network, Policy, ResendStore, copies};
use crate::stats::{RateMeter, Snapshot, SoundOut, VideoOut as VideoOutStats};
use crate::{
    AUDIO, Budget, EncodedPicture, EncodedSound, FrameNumber, OtherTraffic, PathState, StreamId,
};

/// How often shares are worked out without a report, ms: reports come at 10 to 50.
const TICK: Duration = Duration::from_millis(25);
/// What a call needs beside its video at most: sound with two copies, reports, bits a second.
const BESIDE_VIDEO_BITS_PER_SEC: u64 = 300_000;
/// The least that an estimate may be, bits a second: sound in frames of 40 ms, and reports.
const FLOOR_BITS_PER_SEC: u64 = 40_000;
/// In silence a packet of comfort noise goes so often.
const COMFORT_INTERVAL: Duration = Duration::from_millis(200);
/// With nothing else to send, padding goes so often, so that both sides know that the path lives.
const KEEP_ALIVE: Duration = Duration::from_millis(200);
/// The same while no reports come: the way back is seen within a round trip and this.
const KEEP_ALIVE_BLIND: Duration = Duration::from_millis(100);
/// The padding's cluster, which no probe has.
const KEEP_ALIVE_CLUSTER: u8 = u8::MAX;
/// Path marks after a switch, and the time between them.
const PATH_MARKS: u8 = 3;
const PATH_MARK_INTERVAL: Duration = Duration::from_millis(20);
/// The path key of the relay; those of direct paths lie above.
const RELAY_PATH_KEY: u64 = 1;
/// Headers of an audio packet and of each copy in it, of a fragment, of parity and of each frame it covers,
/// bytes (formats of [`crate::packet`]).
const AUDIO_HEADER: usize = HEADER_BYTES + 7;
const COPY_HEADER: usize = 2;
const VIDEO_HEADER: usize = HEADER_BYTES + 11;
const PARITY_HEADER: usize = HEADER_BYTES + 10;
const COVERED_FRAME: usize = 11;
/// Loss from which on frames of one packet go twice: below it a resend is cheaper than as much again, most of
/// all on a narrow link, where all frames are so small and the few losses are its queue's.
const COPY_SINGLES_FROM: f64 = 0.03;
/// Packets that one call of [`Sender::advance`] gives out at most; the pacer's burst is far below.
const MAX_PACKETS: usize = 256;

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
    resent_bytes: u64,
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

    // ---- what goes out

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
            video.on = false;
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

    pub(super) fn on_picture(
        &mut self,
        now: Instant,
        stream: StreamId,
        picture: &EncodedPicture,
        captured_at: Instant,
    ) {
        let budget = fragment_budget(self.path.max_datagram_bytes, self.path.relayed);
        let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) else {
            return;
        };
        let number = video.on_picture(now, picture.key, picture.data.len());
        let fragments = match fragment(stream, number, picture, budget) {
            Ok(fragments) if video.on => fragments,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, stream = stream.0, "picture cannot be sent");
                video.counters.refused += 1;
                return;
            }
        };
        let info = *fragments.frame();
        let mut plan = self.policy.plan(&info, video.is_screen());
        if self.policy.loss() < COPY_SINGLES_FROM {
            plan.copy_single_after = None;
        }
        let bodies: Vec<VideoBody> = fragments.collect();
        let data: Vec<Bytes> = bodies.iter().map(|body| body.data.clone()).collect();
        let parity = video
            .parity
            .encode(&info, &data, plan.parity_shards, plan.window_frames);
        if info.key {
            self.resend.abandon_before(stream, number);
        }
        self.resend.on_frame(now, &info, data, &parity, &plan);
        let frame = Some(FrameTag {
            stream,
            number,
            key: info.key,
        });
        let bodies = bodies.into_iter().map(Body::Video);
        for body in bodies.chain(parity.into_iter().map(Body::Parity)) {
            self.queue(now, Class::Video, frame, body, captured_at);
        }
        tracing::trace!(
            stream = stream.0,
            frame = number,
            bytes = picture.data.len(),
            key = info.key,
            encoded_micros = now.saturating_duration_since(captured_at).as_micros() as u64,
            "frame handed over"
        );
    }

    pub(super) fn on_sound(&mut self, now: Instant, sound: EncodedSound, captured_at: Instant) {
        let number = self.next_sound;
        self.next_sound += 1;
        self.sound_on = true;
        let frame = Duration::from_micros(u64::from(sound.samples) * 1_000 / 48);
        self.last_sound = (sound.voice, frame);
        if sound.silence {
            let recent = self
                .silent_since_packet
                .is_some_and(|at| now.saturating_duration_since(at) < COMFORT_INTERVAL);
            if recent {
                return;
            }
            self.silent_since_packet = Some(now);
        } else {
            self.silent_since_packet = None;
        }
        let primary = Sound {
            number,
            time: sound.time,
            samples: sound.samples,
            data: sound.data,
            voice: sound.voice,
            silence: sound.silence,
        };
        let body = self.sounds.pack(primary, &self.sound_plan);
        self.counters.sounds += 1;
        self.counters.copies += body.copies.len() as u64;
        self.queue(now, Class::Audio, None, Body::Audio(body), captured_at);
        self.report_wanted = true;
    }

    fn queue(
        &mut self,
        now: Instant,
        class: Class,
        frame: Option<FrameTag>,
        body: Body,
        captured_at: Instant,
    ) {
        let wire_bytes = (body_len(&body) + WIRE_OVERHEAD_BYTES) as u32;
        self.pacer.push(
            now,
            Queued {
                class,
                wire_bytes,
                frame,
                probe_bits_per_sec: None,
                item: Item { body, captured_at },
            },
        );
    }

    // ---- what comes back

    pub(super) fn on_report(
        &mut self,
        now: Instant,
        report: &Report,
        outputs: &mut Outputs,
    ) -> Option<Feedback> {
        let feedback = match self.sent.on_report(now, report) {
            Ok(feedback) => feedback,
            Err(error) => {
                tracing::debug!(%error, "report dropped");
                return None;
            }
        };
        self.counters.reports_received += 1;
        self.estimator.on_feedback(now, &feedback);
        self.on_outcomes(now, &feedback.outcomes);
        self.update_policy(now);
        for stream in &feedback.streams {
            self.on_stream_report(now, stream, outputs);
        }
        self.last_tick = now;
        self.share(now, outputs);
        Some(feedback)
    }

    fn on_outcomes(&mut self, now: Instant, outcomes: &[Outcome]) {
        self.resend.on_outcomes(now, outcomes);
        self.bursts.on_outcomes(outcomes);
        let round_trip = self.estimator.round_trip();
        for outcome in outcomes {
            if outcome.arrived_micros.is_some() {
                continue;
            }
            self.counters.lost += 1;
            let Content::Audio { number } = outcome.packet.content else {
                continue;
            };
            if !self.sound_plan.resend {
                continue;
            }
            let again = self.sounds.on_lost(number, round_trip, self.peer_buffer);
            if let Some(body) = again {
                let long_ago = self.long_ago(now);
                self.queue(now, Class::Audio, None, Body::Audio(body), long_ago);
            }
        }
    }

    /// A capture time whose age says nothing: that of what is sent again.
    fn long_ago(&self, now: Instant) -> Instant {
        now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
    }

    fn update_policy(&mut self, now: Instant) {
        let loss = self.estimator.loss();
        let used = self.wire_rate.bits_per_sec(now).max(1);
        let network = Network {
            loss: loss.random,
            mean_burst: loss.mean_burst_packets.max(1.0),
            // How long the way is, not how long its queue: against a queue repair would be the wrong answer.
            round_trip: self.estimator.min_round_trip(),
            burst_span: self.bursts.span(now),
            headroom: self.estimator.estimate_bits_per_sec() as f64 / used as f64,
        };
        self.policy.update(now, &network);
        self.resend
            .set_network(self.estimator.round_trip(), self.policy.loss());
    }

    fn on_stream_report(&mut self, now: Instant, report: &StreamReport, outputs: &mut Outputs) {
        if report.stream == AUDIO {
            self.peer_buffer = Duration::from_millis(u64::from(report.buffer_millis));
            return;
        }
        let round_trip = self.estimator.round_trip();
        let Some(video) = self
            .video
            .iter_mut()
            .find(|video| video.stream == report.stream && video.on)
        else {
            return;
        };
        video.set_slow(report.slow_down);
        let whole = |short: FrameNumber| {
            nearest::<16>(video.next, short as u32).filter(|whole| *whole < video.next)
        };
        let last = report.last_decoded.and_then(whole);
        if let Some(frame) = last {
            outputs.push_back(Output::Reached {
                stream: report.stream,
                frame,
            });
        }
        video.refresh.on_decoded(!report.refresh_wanted);
        if report.refresh_wanted {
            let usable = last.filter(|frame| {
                !video.is_screen() && video.refresh.last_key().is_some_and(|key| key <= *frame)
            });
            let order = video.refresh.want(now, round_trip, usable);
            video.order(order, outputs);
        }
    }

    // ---- the path

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

    // ---- time

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
            return;
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

    fn on_rate_event(&mut self, now: Instant, event: RateEvent, outputs: &mut Outputs) {
        tracing::debug!(?event, "rate");
        match event {
            RateEvent::Cliff { .. } => {
                self.shares = None;
                let shares = self.allocation();
                for video in self.video.iter_mut().filter(|video| video.on) {
                    if video.on_cliff(now, shares.camera_bits_per_sec) {
                        self.pacer.flush_video(now);
                        self.resend.abandon_before(video.stream, video.next);
                        video.counters.steps += 1;
                    }
                }
            }
            RateEvent::Back { restarted: true } => {
                let shares = self.allocation();
                self.pacer.flush_video(now);
                for video in self.video.iter_mut().filter(|video| video.on) {
                    video.restart_ladder(now, shares.camera_bits_per_sec);
                    self.resend.abandon_before(video.stream, video.next);
                    video.force_key(now, outputs);
                }
                self.shares = None;
            }
            RateEvent::Drained => {
                let shares = self.allocation();
                for video in self.video.iter_mut().filter(|video| video.on) {
                    if video.on_drained(now, shares.camera_bits_per_sec) {
                        self.resend.abandon_before(video.stream, video.next);
                        video.counters.steps += 1;
                        video.force_key(now, outputs);
                    }
                }
                self.shares = None;
            }
            RateEvent::Back { restarted: false } | RateEvent::Blind | RateEvent::VideoOff => {
                self.shares = None
            }
        }
    }

    fn allocation(&self) -> Shares {
        let wanted = self.policy.copies(self.sound_frame());
        let camera = |video: &&VideoOut| video.on && !video.is_screen();
        let screen = self.video.iter().find_map(|video| match video.subject {
            Subject::Screen { text } if video.on => Some(ScreenDemand { text }),
            _ => None,
        });
        let fragments = self
            .video
            .iter()
            .find(camera)
            .map_or(4.0, |video| video.fragments);
        allocate(&Demand {
            estimate_bits_per_sec: self.estimator.estimate_bits_per_sec(),
            audio: self.sound_on,
            audio_floor: self.estimator.audio_floor(),
            audio_bits_per_sec: self.config.audio_bits_per_sec,
            audio_copies: wanted.offsets().len() as u8,
            repair_share: self
                .policy
                .planned_share(fragments.round().clamp(1.0, 64.0) as u16, false),
            camera: self.video.iter().any(|video| camera(&video)),
            screen,
            video_cap_bits_per_sec: self.config.video_cap_bits_per_sec,
            transfer: self.transfer,
            fragment_bytes: fragment_budget(self.path.max_datagram_bytes, self.path.relayed),
        })
    }

    fn sound_frame(&self) -> Duration {
        self.shares
            .map_or(Duration::from_millis(10), |shares| shares.audio_frame)
    }

    /// Splits the estimate anew, and tells those concerned.
    fn share(&mut self, now: Instant, outputs: &mut Outputs) {
        let shares = self.allocation();
        self.shares = Some(shares);
        self.pacer.set_rates(
            now,
            self.estimator.pacing_bits_per_sec(),
            self.estimator.estimate_bits_per_sec(),
        );
        self.tell_sound(&shares, outputs);
        let queue = self.estimator.queue_delay();
        let layered = self.policy.two_layers();
        for video in &mut self.video {
            let (share, target) = if video.is_screen() {
                (
                    shares.screen_bits_per_sec,
                    shares.screen_encoder_bits_per_sec,
                )
            } else {
                (
                    shares.camera_bits_per_sec,
                    shares.camera_encoder_bits_per_sec,
                )
            };
            video.set_share(
                now,
                share,
                target,
                queue,
                layered && !video.is_screen(),
                outputs,
            );
        }
        let budget = Budget {
            estimate_bits_per_sec: self.estimator.estimate_bits_per_sec(),
            other_bits_per_sec: if self.estimator.transfer_allowed() {
                shares.transfer_bits_per_sec
            } else {
                0
            },
            min_round_trip: self.estimator.min_round_trip(),
        };
        if self.budget_told != Some(budget) {
            self.budget_told = Some(budget);
            outputs.push_back(Output::Budget(budget));
        }
    }

    fn tell_sound(&mut self, shares: &Shares, outputs: &mut Outputs) {
        let plan = self.policy.copies(shares.audio_frame);
        let loss = self.estimator.loss().total;
        // In-band repair where loss is felt but the budget has no room for copies.
        let uncovered = plan.offsets().len() > usize::from(shares.audio_copies);
        self.sound_plan = if shares.audio_copies == 0 {
            copies::Plan::default()
        } else {
            plan
        };
        let order = SoundOrder {
            bits_per_sec: shares.audio_encoder_bits_per_sec,
            frame: shares.audio_frame,
            expected_loss: if uncovered && shares.audio_copies == 0 {
                ((loss * 20.0).ceil() / 20.0).clamp(0.0, 0.5) as f32
            } else {
                0.0
            },
        };
        if self.sound_on && self.sound_told != Some(order) {
            self.sound_told = Some(order);
            outputs.push_back(Output::SoundEncoder(order));
        }
    }

    fn queue_resends(&mut self, now: Instant) {
        for _ in 0..MAX_PACKETS {
            let Some(body) = self.resend.poll(now) else {
                break;
            };
            let frame = Some(FrameTag {
                stream: body.frame.stream,
                number: body.frame.number,
                key: body.frame.key,
            });
            let long_ago = self.long_ago(now);
            self.queue(now, Class::Resend, frame, Body::Video(body), long_ago);
        }
        while let Some(failed) = self.resend.poll_failed() {
            // The receiver will want a refresh; nothing is gained by sending older frames still.
            tracing::debug!(
                stream = failed.stream.0,
                frame = failed.frame,
                "frame given up"
            );
        }
    }

    fn queue_probes(&mut self, now: Instant) {
        let Some(order) = self.estimator.take_probe(now) else {
            return;
        };
        let wire_bytes = order.bytes / u32::from(order.packets.max(1));
        let least = WIRE_OVERHEAD_BYTES + Writer::probe_len();
        let room = self
            .path
            .max_datagram_bytes
            .saturating_sub(Writer::probe_len());
        let padding = (wire_bytes as usize).saturating_sub(least).min(room);
        for _ in 0..order.packets {
            let body = Body::Probe {
                cluster: order.cluster,
                padding,
            };
            self.pacer.push(
                now,
                Queued {
                    class: Class::Probe,
                    wire_bytes: (least + padding) as u32,
                    frame: None,
                    probe_bits_per_sec: Some(order.bits_per_sec),
                    item: Item {
                        body,
                        captured_at: now,
                    },
                },
            );
        }
    }

    fn queue_marks(&mut self, now: Instant) {
        let (left, at) = self.marks;
        if left == 0 || now < at {
            return;
        }
        self.marks = (left - 1, now + PATH_MARK_INTERVAL);
        let body = Body::PathMark {
            epoch: self.path.epoch as u8,
            reason: u8::from(self.path.relayed),
        };
        self.queue(now, Class::Audio, None, body, now);
    }

    /// Sends what the pacer lets go.
    fn send_due(&mut self, now: Instant, outputs: &mut Outputs) {
        for _ in 0..MAX_PACKETS {
            let Some(packet) = self.pacer.poll(now) else {
                break;
            };
            let key = packet.frame.filter(|tag| tag.key);
            let key = key.map(|tag| (tag.stream, tag.number));
            if key.is_some() && self.key_announced != key {
                self.key_announced = key;
                self.estimator.on_key_frame(now);
            }
            self.send(
                now,
                packet.class,
                packet.item.body,
                packet.item.captured_at,
                outputs,
            );
        }
        while let Some(dropped) = self.pacer.poll_dropped() {
            if let Body::Video(body) = &dropped.item.body {
                let (stream, frame) = (body.frame.stream, body.frame.number);
                self.resend.on_dropped(now, stream, frame, body.fragment);
            }
        }
    }

    fn send(
        &mut self,
        now: Instant,
        class: Class,
        body: Body,
        captured_at: Instant,
        outputs: &mut Outputs,
    ) {
        let sequence = self.sent.next_sequence();
        let age = now.saturating_duration_since(captured_at);
        let datagram = match self.writer.write(now, sequence, age, &body) {
            Ok(datagram) if datagram.len() <= self.path.max_datagram_bytes => datagram,
            Ok(_) => {
                self.counters.too_large += 1;
                if let Body::Video(body) = &body {
                    let (stream, frame) = (body.frame.stream, body.frame.number);
                    self.resend.on_dropped(now, stream, frame, body.fragment);
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "packet cannot be written");
                return;
            }
        };
        let packet = SentPacket {
            sequence,
            sent_at: now,
            wire_bytes: (datagram.len() + WIRE_OVERHEAD_BYTES) as u32,
            class,
            content: body.content(),
            path_epoch: self.path.epoch,
        };
        self.estimator.on_sent(&packet);
        self.resend.on_sent(&packet);
        self.count(now, &body, &packet, datagram.len());
        if let Body::Parity(parity) = &body {
            self.resend.on_parity_sent(sequence, parity);
        }
        self.sent.push(packet);
        self.last_sent = Some(now);
        outputs.push_back(Output::Datagram(datagram));
    }

    fn count(&mut self, now: Instant, body: &Body, packet: &SentPacket, bytes: usize) {
        let wire = u64::from(packet.wire_bytes);
        self.counters.packets += 1;
        self.counters.bytes += bytes as u64;
        self.wire_rate.add(now, packet.wire_bytes as usize);
        match body {
            Body::Video(video) if video.attempt > 0 => {
                self.counters.resent_bytes += wire;
                self.policy.on_sent(now, 0, wire);
            }
            Body::Video(_) => self.policy.on_sent(now, wire, 0),
            Body::Parity(_) => {
                self.counters.parity_bytes += wire;
                self.policy.on_sent(now, 0, wire);
            }
            Body::Probe { .. } => self.counters.probe_bytes += wire,
            Body::Audio(_) | Body::Report(_) | Body::PathMark { .. } => {}
        }
        if matches!(body, Body::Video(_) | Body::Parity(_)) {
            self.video_rate.add(now, packet.wire_bytes as usize);
        }
    }

    /// A report goes with each packet of sound, and alone when it is due.
    fn send_report(&mut self, now: Instant, receiver: &mut Receiver, outputs: &mut Outputs) {
        let with_audio = std::mem::take(&mut self.report_wanted);
        if !receiver.report_due(now, with_audio) {
            return;
        }
        // Sound that left a moment ago shares the packet below with it.
        let sequence = self.sent.next_sequence();
        let room = self.path.max_datagram_bytes;
        let Some(report) = receiver.build_report(now, sequence, with_audio, room) else {
            return;
        };
        self.counters.reports_sent += 1;
        self.send(now, Class::Audio, Body::Report(report), now, outputs);
    }

    fn send_keep_alive(&mut self, now: Instant, outputs: &mut Outputs) {
        let quiet = self
            .last_sent
            .is_none_or(|at| now.saturating_duration_since(at) >= self.keep_alive());
        if quiet {
            let body = Body::Probe {
                cluster: KEEP_ALIVE_CLUSTER,
                padding: 0,
            };
            self.send(now, Class::Probe, body, now, outputs);
        }
    }

    fn update_skips(&mut self, now: Instant, outputs: &mut Outputs) {
        let cap = self.shares.map_or(u64::MAX, |shares| {
            shares.camera_bits_per_sec + shares.screen_bits_per_sec + shares.repair_bits_per_sec
        });
        let pressure = Pressure {
            video_allowed: self.estimator.video_allowed(),
            pacer_delay: self.pacer.video_delay(),
            key_frame_rest: self.pacer.key_frame_rest(),
            over_budget: self.video_rate.bits_per_sec(now) > cap + cap / 4,
        };
        for video in self.video.iter_mut().filter(|video| video.on) {
            video.update_skip(now, &pressure, outputs);
        }
    }

    // ---- numbers

    pub(super) fn fill(&mut self, now: Instant, snapshot: &mut Snapshot) {
        let rate = self.estimator.snapshot();
        let pacer = self.pacer.counters();
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        let network = &mut snapshot.network;
        network.relayed = self.path.relayed;
        network.path_epoch = self.path.epoch;
        network.round_trip_millis = millis(rate.round_trip);
        network.min_round_trip_millis = millis(rate.min_round_trip);
        network.estimate_bits_per_sec = rate.estimate_bits_per_sec;
        network.acknowledged_bits_per_sec = rate.acked_bits_per_sec;
        network.mode = format!("{:?}", rate.mode).to_lowercase();
        network.queue_millis = millis(rate.queue_delay);
        network.loss = rate.loss.total;
        network.burst_packets = rate.loss.mean_burst_packets;
        network.packets_sent = self.counters.packets;
        network.bytes_sent = self.counters.bytes;
        network.packets_lost = self.counters.lost;
        network.reports_sent = self.counters.reports_sent;
        network.reports_received = self.counters.reports_received;
        network.resent_bytes = self.counters.resent_bytes;
        network.parity_bytes = self.counters.parity_bytes;
        network.probe_bytes = self.counters.probe_bytes;
        network.pacer_drops =
            pacer.audio_too_old + pacer.video_too_old + pacer.flushed + pacer.overflow;
        network.send_errors = self.counters.too_large;
        snapshot.sound_out = SoundOut {
            packets_sent: self.counters.sounds,
            copies_sent: self.counters.copies,
            target_bits_per_sec: self.sound_told.map_or(0, |told| told.bits_per_sec as u32),
            frame_millis: self.last_sound.1.as_millis() as u32,
            voice: self.last_sound.0,
            ..SoundOut::default()
        };
        snapshot.video_out = self
            .video
            .iter()
            .map(|video| video_out(now, video))
            .collect();
    }
}

fn video_out(now: Instant, video: &VideoOut) -> VideoOutStats {
    let told = video.told();
    VideoOutStats {
        stream: video.stream.0,
        frames_captured: video.counters.captured,
        frames_skipped: video.counters.skipped,
        frames_encoded: video.counters.encoded,
        frames_sent: video.counters.encoded - video.counters.refused,
        key_frames_encoded: video.counters.key_frames,
        refreshes_requested: video.refresh.requested,
        target_bits_per_sec: told.map_or(0, |told| told.bits_per_sec),
        frame_width: told.map_or(0, |told| told.size.width()),
        frame_height: told.map_or(0, |told| told.size.height()),
        frames_per_second: video.frames_per_sec(now),
        ladder_steps: video.counters.steps,
        ..VideoOutStats::default()
    }
}

/// The length of a packet on its way into the pacer, bytes.
fn body_len(body: &Body) -> usize {
    match body {
        Body::Audio(body) => audio_len(body),
        Body::Video(body) => VIDEO_HEADER + body.data.len(),
        Body::Parity(body) => parity_len(body),
        Body::Probe { padding, .. } => Writer::probe_len() + padding,
        Body::Report(_) | Body::PathMark { .. } => HEADER_BYTES + 2,
    }
}

fn audio_len(body: &AudioBody) -> usize {
    let copies = body.copies.iter();
    AUDIO_HEADER
        + body.primary.data.len()
        + copies
            .map(|copy| COPY_HEADER + copy.data.len())
            .sum::<usize>()
}

fn parity_len(body: &ParityBody) -> usize {
    PARITY_HEADER + COVERED_FRAME * body.frames.len() + body.shard.len()
}
