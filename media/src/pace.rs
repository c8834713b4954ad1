//! When each packet leaves: sound first and at once, then resends, pictures, probes, at a rate that fills no
//! queue of the network's. What waits, waits here: what is further down cannot be recalled.
//!
//! Pure: it holds packets and says when each one goes; it sends nothing and has no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::packet::Class;
use crate::{FrameNumber, StreamId};

/// Budget that may pile up while nothing waits, as time at the pacing rate: a late wake-up is made up for, a
/// pause is not.
const BUDGET: Duration = Duration::from_millis(5);
/// Budget that may pile up, bytes. A packet goes while there is any left, so three of full size go at once: the
/// socket can still merge them, and the queue that they make is 3 ms at 10 Mbit/s.
const BURST_BYTES: f64 = 2_400.0;
/// A wake-up comes a millisecond late at worst, so this much time's budget is always allowed, whatever
/// [`BURST_BYTES`] says: else rates above 20 Mbit/s could not be reached.
const WAKE_UP: Duration = Duration::from_micros(1_250);
/// Sound is charged though it does not wait; so much time's debt at most, so that pictures are slowed by it and
/// never stopped.
const DEBT: Duration = Duration::from_millis(50);
/// A key frame leaves at this multiple of the estimate: quicker than it could be sent for long, slowly enough
/// for the sound between.
const KEY_FRAME_FACTOR: f64 = 1.5;
/// Sound that waited longer is dropped: it would be played too late.
const AUDIO_AGE: Duration = Duration::from_millis(120);
/// Pictures and resends that waited longer are dropped: the frame would miss its deadline.
const VIDEO_AGE: Duration = Duration::from_millis(250);
/// A key frame may wait longer: the first one of a screen has hundreds of kilobytes.
const KEY_FRAME_AGE: Duration = Duration::from_secs(2);
/// A frame half sent is finished at a flush if no more packets than this remain.
const FINISH_PACKETS: usize = 3;
/// Packets of sound that wait at most: two thirds of a second of 10 ms frames, more than [`AUDIO_AGE`] lets.
const MAX_AUDIO: usize = 64;
/// Packets of video, and of resends, that wait at most: a key frame of 1.1 MiB with its parity.
const MAX_VIDEO: usize = 1_536;
/// Packets of probes that wait at most: two trains.
const MAX_PROBE: usize = 64;
/// Dropped packets kept until they are asked for; further ones are only counted.
const MAX_DROPPED: usize = 2 * MAX_VIDEO;

/// The frame that a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameTag {
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub number: FrameNumber,
    /// It is a key frame: it leaves at 1.5 × the estimate.
    pub key: bool,
}

/// A packet that waits, or was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued<T> {
    /// Which queue.
    pub class: Class,
    /// Its bytes on the wire, all headers included.
    pub wire_bytes: u32,
    /// Its frame, for video and parity, and for resends of them.
    pub frame: Option<FrameTag>,
    /// For a probe: the rate it goes at, bits a second.
    pub probe_bits_per_sec: Option<u64>,
    /// The packet.
    pub item: T,
}

/// What was sent and what was dropped, and why, packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacerCounters {
    /// Sound that had waited 120 ms.
    pub audio_too_old: u64,
    /// Video, resends and probes that had waited 250 ms (key frames: 2 s), and the rest of their frames.
    pub video_too_old: u64,
    /// By a flush.
    pub flushed: u64,
    /// No room.
    pub overflow: u64,
    /// Packets that left.
    pub sent: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    packet: Queued<T>,
}

#[derive(Debug)]
struct Queue<T> {
    packets: VecDeque<Waiting<T>>,
    bytes: u64,
    bound: usize,
}

impl<T> Queue<T> {
    const fn new(bound: usize) -> Self {
        Self {
            packets: VecDeque::new(),
            bytes: 0,
            bound,
        }
    }

    fn push(&mut self, waiting: Waiting<T>) -> Result<(), Queued<T>> {
        if self.packets.len() >= self.bound {
            return Err(waiting.packet);
        }
        self.bytes += u64::from(waiting.packet.wire_bytes);
        self.packets.push_back(waiting);
        Ok(())
    }

    fn pop(&mut self) -> Option<Queued<T>> {
        let waiting = self.packets.pop_front()?;
        self.bytes -= u64::from(waiting.packet.wire_bytes);
        Some(waiting.packet)
    }

    fn front(&self) -> Option<&Waiting<T>> {
        self.packets.front()
    }

    /// Takes out what `goes`, keeping the order of the rest.
    fn take_out(&mut self, mut goes: impl FnMut(&Queued<T>) -> bool) -> Vec<Queued<T>> {
        let (mut out, mut kept) = (Vec::new(), VecDeque::new());
        for waiting in self.packets.drain(..) {
            if goes(&waiting.packet) {
                self.bytes -= u64::from(waiting.packet.wire_bytes);
                out.push(waiting.packet);
            } else {
                kept.push_back(waiting);
            }
        }
        self.packets = kept;
        out
    }
}

/// Four queues and a budget.
#[derive(Debug)]
pub struct Pacer<T> {
    audio: Queue<T>,
    resend: Queue<T>,
    video: Queue<T>,
    probe: Queue<T>,
    pacing_bits_per_sec: f64,
    estimate_bits_per_sec: f64,
    /// Bytes that may go now; below nothing: a debt.
    budget_bytes: f64,
    budget_at: Instant,
    /// When the next probe may go.
    probe_at: Option<Instant>,
    /// The frame of the last video packet that went.
    started: Option<FrameTag>,
    dropped: VecDeque<Queued<T>>,
    counters: PacerCounters,
}

impl<T> Pacer<T> {
    /// Empty, with rates of nothing: only sound leaves before [`set_rates`](Self::set_rates).
    pub fn new(now: Instant) -> Self {
        Self {
            audio: Queue::new(MAX_AUDIO),
            resend: Queue::new(MAX_VIDEO),
            video: Queue::new(MAX_VIDEO),
            probe: Queue::new(MAX_PROBE),
            pacing_bits_per_sec: 0.0,
            estimate_bits_per_sec: 0.0,
            budget_bytes: 0.0,
            budget_at: now,
            probe_at: None,
            started: None,
            dropped: VecDeque::new(),
            counters: PacerCounters::default(),
        }
    }

    /// The rate that packets leave at and the estimate, bits a second.
    pub fn set_rates(
        &mut self,
        now: Instant,
        pacing_bits_per_sec: u64,
        estimate_bits_per_sec: u64,
    ) {
        self.earn(now);
        self.pacing_bits_per_sec = pacing_bits_per_sec as f64;
        self.estimate_bits_per_sec = estimate_bits_per_sec as f64;
    }

    /// Lets a packet wait for its turn.
    pub fn push(&mut self, now: Instant, packet: Queued<T>) {
        self.earn(now);
        let waiting = Waiting { since: now, packet };
        let queue = match waiting.packet.class {
            Class::Audio => &mut self.audio,
            Class::Resend => &mut self.resend,
            Class::Video => &mut self.video,
            Class::Probe => &mut self.probe,
        };
        if let Err(packet) = queue.push(waiting) {
            self.counters.overflow += 1;
            self.drop_packet(packet);
        }
    }

    /// The packet that leaves now, if any; to be called until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<Queued<T>> {
        self.drop_old(now);
        self.earn(now);
        let packet = self.choose(now)?;
        self.counters.sent += 1;
        Some(packet)
    }

    fn choose(&mut self, now: Instant) -> Option<Queued<T>> {
        if let Some(packet) = self.audio.pop() {
            self.charge(packet.wire_bytes);
            return Some(packet);
        }
        if self.budget_bytes > 0.0 {
            if let Some(packet) = self.resend.pop() {
                self.charge(packet.wire_bytes);
                return Some(packet);
            }
            if let Some(packet) = self.video.pop() {
                self.charge(packet.wire_bytes);
                self.started = packet.frame;
                return Some(packet);
            }
        }
        // A probe is above the rate on purpose: it has a pace of its own and costs the others nothing.
        let waits = !self.resend.packets.is_empty() || !self.video.packets.is_empty();
        if waits || self.probe_at.is_some_and(|at| at > now) {
            return None;
        }
        let packet = self.probe.pop()?;
        let rate = packet
            .probe_bits_per_sec
            .map_or(self.pacing_bits_per_sec, |rate| rate as f64);
        self.probe_at = Some(now + time_for(f64::from(packet.wire_bytes), rate));
        Some(packet)
    }

    /// When [`poll`](Self::poll) may have a packet; `None`: all queues are empty.
    pub fn next_wakeup(&self) -> Option<Instant> {
        if !self.audio.packets.is_empty() {
            return Some(self.budget_at);
        }
        if !self.resend.packets.is_empty() || !self.video.packets.is_empty() {
            let missing = (-self.budget_bytes).max(0.0) + 1.0;
            let wait = if self.budget_bytes > 0.0 {
                Duration::ZERO
            } else {
                time_for(missing, self.rate())
            };
            return Some(self.budget_at + wait);
        }
        self.probe
            .front()
            .map(|_| self.probe_at.unwrap_or(self.budget_at))
    }

    /// A packet that was dropped, so that the decoder's state can be updated; to be drained after
    /// [`poll`](Self::poll), [`push`](Self::push) and the flushes.
    pub fn poll_dropped(&mut self) -> Option<Queued<T>> {
        self.dropped.pop_front()
    }

    /// Drops video that has not started, and resends of video; a frame half sent is finished if at most three
    /// packets remain.
    pub fn flush_video(&mut self, now: Instant) {
        self.earn(now);
        let of_started = |packet: &Queued<T>, started: Option<FrameTag>| {
            started.is_some() && packet.frame == started
        };
        let started = self.started;
        let remain = self
            .video
            .packets
            .iter()
            .filter(|waiting| of_started(&waiting.packet, started))
            .count();
        let finish = remain <= FINISH_PACKETS;
        let mut out = self
            .video
            .take_out(|packet| !(finish && of_started(packet, started)));
        out.extend(self.resend.take_out(|packet| packet.frame.is_some()));
        self.flushed(out);
    }

    /// Drops everything but sound: the path has changed.
    pub fn flush_path(&mut self, now: Instant) {
        self.earn(now);
        let mut out = self.video.take_out(|_| true);
        out.extend(self.resend.take_out(|packet| packet.frame.is_some()));
        out.extend(self.probe.take_out(|_| true));
        self.probe_at = None;
        self.started = None;
        self.flushed(out);
    }

    /// How long the video and the resends that wait need.
    pub fn video_delay(&self) -> Duration {
        let bytes = self.video.bytes + self.resend.bytes;
        if bytes == 0 {
            return Duration::ZERO;
        }
        let debt = (-self.budget_bytes).max(0.0);
        time_for(bytes as f64 + debt, self.rate())
    }

    /// How long the rest of a key frame that waits needs; zero if none does.
    pub fn key_frame_rest(&self) -> Duration {
        let bytes: u64 = self
            .video
            .packets
            .iter()
            .filter(|waiting| is_key(&waiting.packet))
            .map(|waiting| u64::from(waiting.packet.wire_bytes))
            .sum();
        if bytes == 0 {
            return Duration::ZERO;
        }
        time_for(bytes as f64, KEY_FRAME_FACTOR * self.estimate_bits_per_sec)
    }

    /// Packets of this class that wait, and their bytes.
    pub fn waiting(&self, class: Class) -> (usize, u64) {
        let queue = self.queue(class);
        (queue.packets.len(), queue.bytes)
    }

    /// For how long the oldest packet of this class has waited.
    pub fn oldest(&self, now: Instant, class: Class) -> Duration {
        self.queue(class).front().map_or(Duration::ZERO, |waiting| {
            now.saturating_duration_since(waiting.since)
        })
    }

    /// What was sent and what was dropped, and why.
    pub fn counters(&self) -> PacerCounters {
        self.counters
    }

    const fn queue(&self, class: Class) -> &Queue<T> {
        match class {
            Class::Audio => &self.audio,
            Class::Resend => &self.resend,
            Class::Video => &self.video,
            Class::Probe => &self.probe,
        }
    }

    /// The rate that the next packet goes at.
    fn rate(&self) -> f64 {
        let key = self.resend.packets.is_empty()
            && self
                .video
                .front()
                .is_some_and(|waiting| is_key(&waiting.packet));
        if key {
            (KEY_FRAME_FACTOR * self.estimate_bits_per_sec).min(self.pacing_bits_per_sec)
        } else {
            self.pacing_bits_per_sec
        }
    }

    fn earn(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.budget_at);
        self.budget_at = self.budget_at.max(now);
        let rate = self.rate() / 8.0;
        let most = (rate * BUDGET.as_secs_f64())
            .min(BURST_BYTES)
            .max(rate * WAKE_UP.as_secs_f64());
        let earned = self.budget_bytes + rate * elapsed.as_secs_f64();
        self.budget_bytes = earned.min(most);
    }

    fn charge(&mut self, bytes: u32) {
        let most = self.pacing_bits_per_sec / 8.0 * DEBT.as_secs_f64();
        // The debt of one packet is always taken in full, or slow links would get too many.
        let floor = -(most.max(f64::from(bytes)));
        self.budget_bytes = (self.budget_bytes - f64::from(bytes)).max(floor);
    }

    fn drop_old(&mut self, now: Instant) {
        let old = |since: Instant, age: Duration| now.saturating_duration_since(since) > age;
        while let Some(waiting) = self.audio.front()
            && old(waiting.since, AUDIO_AGE)
        {
            self.counters.audio_too_old += 1;
            let packet = self.audio.pop();
            self.drop_packets(packet);
        }
        for class in [Class::Resend, Class::Video, Class::Probe] {
            // A frame that lost a packet here needs its others no more.
            let mut broken = None;
            while let Some(waiting) = self.queue(class).front() {
                let age = if is_key(&waiting.packet) {
                    KEY_FRAME_AGE
                } else {
                    VIDEO_AGE
                };
                let frame = waiting.packet.frame;
                let spoilt = class == Class::Video && broken.is_some() && frame == broken;
                if !spoilt && !old(waiting.since, age) {
                    break;
                }
                broken = frame;
                self.counters.video_too_old += 1;
                let queue = match class {
                    Class::Resend => &mut self.resend,
                    Class::Probe => &mut self.probe,
                    Class::Audio | Class::Video => &mut self.video,
                };
                let packet = queue.pop();
                self.drop_packets(packet);
            }
        }
    }

    fn flushed(&mut self, packets: Vec<Queued<T>>) {
        self.counters.flushed += packets.len() as u64;
        self.drop_packets(packets);
    }

    fn drop_packets(&mut self, packets: impl IntoIterator<Item = Queued<T>>) {
        for packet in packets {
            self.drop_packet(packet);
        }
    }

    fn drop_packet(&mut self, packet: Queued<T>) {
        if self.dropped.len() < MAX_DROPPED {
            self.dropped.push_back(packet);
        }
    }
}

fn is_key<T>(packet: &Queued<T>) -> bool {
    packet.frame.is_some_and(|frame| frame.key)
}

/// How long `bytes` need; a rate of nothing needs an hour rather than for ever.
fn time_for(bytes: f64, bits_per_sec: f64) -> Duration {
    let seconds = bytes * 8.0 / bits_per_sec.max(f64::MIN_POSITIVE);
    Duration::from_secs_f64(seconds.clamp(0.0, 3_600.0))
}
