//! The receiving half: datagrams into packets, packets into the buffers of their streams, and what is missing
//! into reports. Sound goes on to the thread that plays it, whole frames to the decoder.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::sender::View;
use super::{BufferOrder, BufferState, Config, Event, Output, Outputs};
use crate::history::{Outcome, ReceiveHistory};
use crate::jitter::{CompleteFrame, VideoBuffer, VideoConfig};
use crate::packet::{
    AudioBody, Body, Packet, Receiver as PacketReceiver, Report, StreamFormat, StreamReport,
    WireClock, parse,
};
use crate::stats::{FreezeMeter, RateMeter, Snapshot, VideoIn as VideoInStats, Window};
use crate::sync::{RemoteClock, SenderMicros, StreamClock, Sync};
use crate::{AUDIO, CAMERA, FrameNumber, SCREEN, Sequence, StreamId, VideoTime};

/// Nothing coming for so long is told to who watches.
const RECONNECTING_AFTER: Duration = Duration::from_secs(2);
/// Nothing coming for so long ends a call.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// Fragments and parity that one stream may hold, bytes: media.md's 4 MiB in all, for two streams.
const VIDEO_MEMORY_BYTES: usize = 2 << 20;
/// How far back copies of sound are looked for to know what the other side does against loss.
const COPIES_WINDOW: Duration = Duration::from_secs(2);
/// How long sound is stretched over a frame that a resend may still bring.
const REPAIR_WAIT: Duration = Duration::from_millis(40);
/// Reports read in one go at most.
const MAX_REPORTS: usize = 64;

/// A stream of pictures that comes in.
#[derive(Debug)]
struct VideoIn {
    stream: StreamId,
    buffer: VideoBuffer,
    clock: StreamClock<90_000>,
    freezes: FreezeMeter,
    decode: Window,
    latency: Window,
    newest: Option<FrameNumber>,
    first: Option<FrameNumber>,
    decoded: u64,
    shown: u64,
    recent: VecDeque<Instant>,
    render_delay: Window,
    /// The other side sends none now, on purpose.
    paused: bool,
    sums: Sums,
}

/// Times of frames, summed up.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    assembly: Duration,
    processing: Duration,
    buffer: Duration,
    given: u64,
    decode: Duration,
    /// Of the frames in the decoder: when their first packets came.
    arrivals: [Option<(FrameNumber, Instant)>; 4],
}

impl Sums {
    fn on_given(&mut self, frame: &CompleteFrame) {
        let since = |at: Instant| at.saturating_duration_since(frame.first_arrival);
        self.assembly += since(frame.completed_at);
        self.buffer += since(frame.render_at.max(frame.completed_at));
        self.given += 1;
        // At most three are in the decoder at once.
        self.arrivals.rotate_right(1);
        self.arrivals[0] = Some((frame.info.number, frame.first_arrival));
    }

    fn on_decoded(&mut self, now: Instant, number: FrameNumber, took: Duration) {
        self.decode += took;
        let mut arrivals = self.arrivals.iter().flatten();
        if let Some((_, first)) = arrivals.find(|(frame, _)| *frame == number) {
            self.processing += now.saturating_duration_since(*first);
        }
    }
}

/// The receiving half of a call.
#[derive(Debug)]
pub(super) struct Receiver {
    history: ReceiveHistory,
    packets: PacketReceiver,
    reports: VecDeque<Report>,
    video: Vec<VideoIn>,
    smooth: bool,
    clock: RemoteClock,
    sound_clock: StreamClock<48_000>,
    sound_latency: Window,
    jitter: Jitter,
    sync: Sync,
    round_trip: Option<Duration>,
    buffer: BufferState,
    buffer_told: BufferOrder,
    sync_delay: Duration,
    /// The farthest copy of the last seconds, and two copies in one packet.
    copies: VecDeque<(Instant, Duration, usize)>,
    /// The last packet of sound had copies in it.
    copied: bool,
    voice: bool,
    last_arrival: Option<Instant>,
    reconnecting: bool,
    dead: bool,
    path_epoch: Option<u8>,
    rate: RateMeter,
    bytes: u64,
    refused: u64,
    sounds: u64,
}

impl Receiver {
    pub(super) fn new(_now: Instant, config: &Config, clock: WireClock) -> Self {
        let mut packets = PacketReceiver::default();
        packets.open(AUDIO, StreamFormat::Audio);
        packets.open(CAMERA, StreamFormat::Video);
        packets.open(SCREEN, StreamFormat::Video);
        Self {
            history: ReceiveHistory::new(clock),
            packets,
            reports: VecDeque::new(),
            video: Vec::new(),
            smooth: config.smooth,
            clock: RemoteClock::new(),
            sound_clock: StreamClock::new(),
            sound_latency: Window::default(),
            jitter: Jitter::default(),
            sync: Sync::new(),
            round_trip: config.path.round_trip,
            buffer: BufferState::default(),
            buffer_told: BufferOrder::default(),
            sync_delay: Duration::ZERO,
            copies: VecDeque::new(),
            copied: false,
            voice: false,
            last_arrival: None,
            reconnecting: false,
            dead: false,
            path_epoch: None,
            rate: RateMeter::default(),
            bytes: 0,
            refused: 0,
            sounds: 0,
        }
    }

    // ---- what comes in

    pub(super) fn on_datagram(&mut self, now: Instant, datagram: &Bytes, outputs: &mut Outputs) {
        let (header, raw) = match parse(datagram) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.refused += 1;
                tracing::trace!(%error, "datagram refused");
                return;
            }
        };
        if self.history.on_packet(now, &header).is_none() {
            self.refused += 1;
            return;
        }
        self.bytes += datagram.len() as u64;
        self.rate.add(now, datagram.len());
        self.on_alive(now, outputs);
        match self.packets.complete(&header, raw) {
            Ok(packet) => self.on_packet(now, packet, outputs),
            Err(error) => {
                self.refused += 1;
                tracing::trace!(%error, "packet refused");
            }
        }
    }

    fn on_alive(&mut self, now: Instant, outputs: &mut Outputs) {
        let before = self.last_arrival.replace(now);
        self.dead = false;
        if std::mem::take(&mut self.reconnecting) {
            let gap = before.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            outputs.push_back(Output::Event(Event::Back(gap)));
        }
    }

    fn on_packet(&mut self, now: Instant, packet: Packet, outputs: &mut Outputs) {
        let sent = SenderMicros::try_from(packet.sent_micros).unwrap_or(SenderMicros::MAX);
        self.clock.on_packet(sent, now);
        self.jitter.on_packet(sent, now);
        let age = packet.age.map_or(u8::MAX, |age| {
            u8::try_from(age.as_millis()).unwrap_or(u8::MAX)
        });
        match packet.body {
            Body::Audio(body) => {
                self.sound_clock.on_packet(body.primary.time, sent, age);
                self.on_sound(now, body, outputs);
            }
            Body::Video(body) => {
                let video = self.stream(body.frame.stream);
                if body.attempt == 0 {
                    video.clock.on_packet(body.frame.time, sent, age);
                }
                let number = body.frame.number;
                video.first.get_or_insert(number);
                video.newest = video.newest.max(Some(number));
                video.buffer.on_fragment(now, body);
            }
            Body::Parity(body) => self.stream(body.stream()).buffer.on_parity(now, body),
            Body::Report(report) => {
                if self.reports.len() < MAX_REPORTS {
                    self.reports.push_back(report);
                }
            }
            Body::Probe { .. } => {}
            Body::PathMark { epoch, .. } => self.on_path_mark(now, epoch, outputs),
        }
    }

    fn on_sound(&mut self, now: Instant, body: AudioBody, outputs: &mut Outputs) {
        self.sounds += 1;
        if body.primary.voice != self.voice {
            self.voice = body.primary.voice;
            outputs.push_back(Output::Event(Event::RemoteVoice(self.voice)));
        }
        let farthest = body
            .copies
            .iter()
            .map(|copy| {
                let frames = body.primary.number.saturating_sub(copy.number);
                frames * u64::from(body.primary.samples)
            })
            .max()
            .unwrap_or(0);
        // A copy in one packet alone is that of a syllable's beginning, which is nothing to wait for.
        let alone = !std::mem::replace(&mut self.copied, !body.copies.is_empty());
        let (distance, count) = match body.copies.len() {
            _ if alone => (Duration::ZERO, 0),
            count => (Duration::from_micros(farthest * 1_000 / 48), count),
        };
        // One entry for ten packets is enough.
        let new = self
            .copies
            .back()
            .is_none_or(|(at, ..)| now.saturating_duration_since(*at) >= COPIES_WINDOW / 20);
        if new {
            self.copies.push_back((now, distance, count));
        } else if let Some(last) = self.copies.back_mut() {
            last.1 = last.1.max(distance);
            last.2 = last.2.max(count);
        }
        while let Some((at, ..)) = self.copies.front() {
            if now.saturating_duration_since(*at) <= COPIES_WINDOW {
                break;
            }
            self.copies.pop_front();
        }
        self.tell_buffer(outputs);
        outputs.push_back(Output::Sound { body, arrival: now });
    }

    fn tell_buffer(&mut self, outputs: &mut Outputs) {
        let many = self.copies.iter().any(|(_, _, count)| *count >= 2);
        let order = BufferOrder {
            repair_delay: self
                .copies
                .iter()
                .map(|(_, distance, _)| *distance)
                .max()
                .unwrap_or_default(),
            repair_wait: if many { REPAIR_WAIT } else { Duration::ZERO },
            sync_delay: self.sync_delay,
        };
        if order != self.buffer_told {
            self.buffer_told = order;
            outputs.push_back(Output::Buffer(order));
        }
    }

    fn on_path_mark(&mut self, now: Instant, epoch: u8, outputs: &mut Outputs) {
        if self.path_epoch.replace(epoch) == Some(epoch) {
            return;
        }
        self.history.on_path_mark(now, epoch);
        self.clock.on_path_switch();
        for video in &mut self.video {
            video.buffer.on_path_change();
        }
        outputs.push_back(Output::BufferPathSwitch);
    }

    /// The stream's buffer; only the streams that were opened get here, so there are few.
    fn stream(&mut self, stream: StreamId) -> &mut VideoIn {
        let found = self.video.iter().position(|video| video.stream == stream);
        let index = found.unwrap_or_else(|| {
            let config = VideoConfig {
                memory_bytes: VIDEO_MEMORY_BYTES,
                deadline: Duration::from_millis(if stream == SCREEN { 2_000 } else { 250 }),
                smooth: self.smooth,
            };
            self.video.push(VideoIn {
                stream,
                buffer: VideoBuffer::new(stream, config),
                clock: StreamClock::new(),
                freezes: FreezeMeter::default(),
                decode: Window::default(),
                latency: Window::default(),
                newest: None,
                first: None,
                decoded: 0,
                shown: 0,
                recent: VecDeque::new(),
                render_delay: Window::default(),
                paused: false,
                sums: Sums::default(),
            });
            self.video.len() - 1
        });
        &mut self.video[index]
    }

    pub(super) fn on_decoded(
        &mut self,
        now: Instant,
        stream: StreamId,
        frame: FrameNumber,
        ok: bool,
        took: Duration,
    ) {
        if let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) {
            video.buffer.on_decoded(now, frame, ok, took);
            video.decode.add_duration(took);
            if ok {
                video.sums.on_decoded(now, frame, took);
            }
            video.decoded += u64::from(ok);
        }
    }

    /// A picture was shown: freezes, latency, and sound and picture held together.
    pub(super) fn on_shown(
        &mut self,
        stream: StreamId,
        time: VideoTime,
        at: Instant,
        hold_audio: bool,
    ) {
        let half_way = self.round_trip.unwrap_or_default() / 2;
        let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) else {
            return;
        };
        video.shown += 1;
        video.freezes.on_shown(at);
        if video.paused {
            video.freezes.pause();
        }
        if video.recent.len() == 60 {
            video.recent.pop_front();
        }
        video.recent.push_back(at);
        let Some(captured) = video.clock.captured(time) else {
            return;
        };
        if let Some(earliest) = self.clock.local(captured) {
            // By the fastest way it would have been here at `earliest`, half a round trip after its capture.
            video
                .latency
                .add_duration(at.saturating_duration_since(earliest) + half_way);
        }
        if stream == CAMERA {
            let delays = self.sync.on_video(at, captured, hold_audio);
            video.buffer.set_sync_delay(delays.video);
            self.sync_delay = delays.audio;
        }
    }

    /// The other side stops sending pictures on purpose, or sends them again: the gap is no freeze.
    pub(super) fn set_paused(&mut self, stream: StreamId, paused: bool) {
        if let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) {
            video.paused = paused;
            if paused {
                video.freezes.pause();
            }
        }
    }

    pub(super) fn on_buffer(&mut self, state: BufferState) {
        if let Some((time, at)) = state.playing
            && let Some(captured) = self.sound_clock.captured(time)
        {
            self.sync.on_audio(at, captured);
            if let Some(earliest) = self.clock.local(captured) {
                let half_way = self.round_trip.unwrap_or_default() / 2;
                let late = at.saturating_duration_since(earliest);
                self.sound_latency.add_duration(late + half_way);
            }
        }
        self.buffer = state;
    }

    // ---- reports

    pub(super) fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    pub(super) fn on_outcomes(&mut self, outcomes: &[Outcome]) {
        self.history.on_outcomes(outcomes);
    }

    /// Whether anything has come from the other side.
    pub(super) fn has_heard(&self) -> bool {
        self.last_arrival.is_some()
    }

    pub(super) fn report_due(&self, now: Instant, with_audio: bool) -> bool {
        self.history.report_due(now, with_audio)
    }

    pub(super) fn build_report(
        &mut self,
        now: Instant,
        sequence: Sequence,
        with_audio: bool,
        room: usize,
    ) -> Option<Report> {
        let mut streams: Vec<StreamReport> = self
            .video
            .iter()
            .map(|video| video.buffer.stream_report(now))
            .collect();
        streams.push(StreamReport {
            stream: AUDIO,
            refresh_wanted: false,
            slow_down: false,
            last_decoded: self.buffer.progress.map(|(decoded, _)| decoded),
            first_missing: self.buffer.progress.map(|(_, missing)| missing),
            buffer_millis: self.buffer.buffer_millis,
        });
        self.history
            .build_report(now, sequence, with_audio, room, &streams)
    }

    // ---- time

    pub(super) fn set_path(&mut self, _now: Instant, view: &View) {
        if self.round_trip != view.round_trip || view.round_trip.is_none() {
            self.round_trip = view.round_trip.or(self.round_trip);
        }
        self.history
            .set_path(self.round_trip, view.estimate_bits_per_sec);
        let round_trip = self.round_trip.unwrap_or(Duration::from_millis(100));
        for video in &mut self.video {
            let deadline = if video.stream == SCREEN {
                view.screen_deadline
            } else {
                view.deadline
            };
            video.buffer.set_network(round_trip, deadline);
        }
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let alive = self.last_arrival.map(|at| {
            if !self.reconnecting {
                at + RECONNECTING_AFTER
            } else {
                at + DEAD_AFTER
            }
        });
        let alive = alive.filter(|_| !self.dead);
        self.video
            .iter()
            .map(|video| video.buffer.poll_timeout())
            .chain([alive, self.history.next_report(now)])
            .flatten()
            .min()
    }

    pub(super) fn advance(&mut self, now: Instant, outputs: &mut Outputs) {
        for video in &mut self.video {
            if video.buffer.handle_timeout(now) {
                self.history.on_late_frame(now);
            }
            while let Some(frame) = video.buffer.poll(now) {
                video.render_delay.add_duration(
                    frame
                        .render_at
                        .saturating_duration_since(frame.completed_at),
                );
                video.sums.on_given(&frame);
                outputs.push_back(Output::Decode(frame));
            }
            // What comes next in order may have been missing for long.
            if video.buffer.handle_timeout(now) {
                self.history.on_late_frame(now);
            }
        }
        let Some(last) = self.last_arrival else {
            return;
        };
        let quiet = now.saturating_duration_since(last);
        if quiet >= RECONNECTING_AFTER && !self.reconnecting {
            self.reconnecting = true;
            outputs.push_back(Output::Event(Event::Reconnecting));
        }
        if quiet >= DEAD_AFTER && !self.dead {
            self.dead = true;
            outputs.push_back(Output::Event(Event::Dead));
        }
    }

    // ---- numbers

    pub(super) fn fill(&mut self, now: Instant, snapshot: &mut Snapshot) {
        let history = self.history.stats();
        let network = &mut snapshot.network;
        network.packets_received = history.received;
        network.bytes_received = self.bytes;
        network.packets_missing = history.expected.saturating_sub(history.received);
        network.packets_refused = self.refused;
        network.packets_duplicate = history.duplicates;
        network.loss_in = share(network.packets_missing, history.expected);
        network.jitter_in_millis = self.jitter.millis;
        snapshot.sound_in.latency = self.sound_latency.percentiles();
        snapshot.sound_in.packets_received = self.sounds;
        snapshot.sound_in.buffer_millis = f64::from(self.buffer.buffer_millis);
        snapshot.sound_in.av_skew_millis = self.sync.skew_millis().unwrap_or_default();
        snapshot.video_in = self
            .video
            .iter()
            .map(|video| video_in(now, video))
            .collect();
    }
}

/// A part of a whole that may be nothing.
fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        _ => part as f64 / whole as f64,
    }
}

/// Mean deviation of the time between packets (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, Default)]
struct Jitter {
    last: Option<(SenderMicros, Instant)>,
    millis: f64,
}

impl Jitter {
    fn on_packet(&mut self, sent: SenderMicros, now: Instant) {
        if let Some((before, at)) = self.last.replace((sent, now)) {
            let there = sent.saturating_sub(before) as f64 / 1e3;
            let here = now.saturating_duration_since(at).as_secs_f64() * 1e3;
            self.millis += ((here - there).abs() - self.millis) / 16.0;
        }
    }
}

fn video_in(now: Instant, video: &VideoIn) -> VideoInStats {
    let counters = video.buffer.counters();
    let seen = match (video.first, video.newest) {
        (Some(first), Some(newest)) => newest.saturating_sub(first) + 1,
        _ => 0,
    };
    let second = Duration::from_secs(1);
    let recent = video.recent.iter().rev();
    VideoInStats {
        stream: video.stream.0,
        frames_seen: seen,
        frames_assembled: counters.frames,
        key_frames_received: counters.key_frames,
        frames_restored: counters.by_parity,
        frames_resent: counters.by_resend.iter().sum(),
        frames_late: counters.late_useful,
        loss_after_repair: share(counters.abandoned, seen),
        useless_bytes: counters.useless_bytes,
        total_decode_time: video.sums.decode.as_secs_f64(),
        total_assembly_time: video.sums.assembly.as_secs_f64(),
        total_processing_delay: video.sums.processing.as_secs_f64(),
        jitter_buffer_delay: video.sums.buffer.as_secs_f64(),
        jitter_buffer_emitted_count: video.sums.given,
        frames_decoded: video.decoded,
        frames_shown: video.shown,
        frames_dropped: counters.abandoned,
        decode_errors: counters.decode_errors,
        refreshes_wanted: counters.refreshes,
        freeze_count: video.freezes.count,
        total_freezes_millis: video.freezes.total.as_millis() as u64,
        stall_millis: video.freezes.stall.as_millis() as u64,
        pause_count: video.freezes.pauses,
        total_pauses_millis: video.freezes.paused.as_millis() as u64,
        total_inter_frame_delay: video.freezes.gap_seconds,
        total_squared_inter_frame_delay: video.freezes.gap_seconds_squared,
        frames_per_second: recent
            .take_while(|at| now.saturating_duration_since(**at) < second)
            .count() as f64,
        decode: video.decode.percentiles(),
        latency: video.latency.percentiles(),
        playout_delay_millis: video.render_delay.percentiles().p50,
        ..VideoInStats::default()
    }
}
