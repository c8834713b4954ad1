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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const FULL: u32 = 1_200;

    fn start() -> Instant {
        p2p_net_sim::Clock::new().now()
    }

    fn pacer(now: Instant, rate: u64) -> Pacer<u32> {
        let mut pacer = Pacer::new(now);
        pacer.set_rates(now, rate, rate / 4);
        pacer
    }

    fn packet(class: Class, bytes: u32, item: u32) -> Queued<u32> {
        Queued {
            class,
            wire_bytes: bytes,
            frame: None,
            probe_bits_per_sec: None,
            item,
        }
    }

    fn of_frame(number: u64, key: bool, item: u32) -> Queued<u32> {
        Queued {
            frame: Some(FrameTag {
                stream: crate::CAMERA,
                number,
                key,
            }),
            ..packet(Class::Video, FULL, item)
        }
    }

    /// What leaves until `end`, woken when it asks to be.
    fn leave(pacer: &mut Pacer<u32>, mut now: Instant, end: Instant) -> Vec<(Duration, u32)> {
        let (first, mut left) = (now, Vec::new());
        while now <= end {
            while let Some(packet) = pacer.poll(now) {
                left.push((now - first, packet.item));
            }
            match pacer.next_wakeup() {
                Some(at) => now = at.max(now + MILLI / 4),
                None => break,
            }
        }
        left
    }

    #[test]
    fn sound_passes_everything_and_probes_come_last() {
        let now = start();
        let mut pacer = pacer(now, 10_000_000);
        for (item, class) in [Class::Probe, Class::Video, Class::Resend, Class::Audio]
            .into_iter()
            .enumerate()
        {
            pacer.push(now, packet(class, FULL, item as u32));
        }
        let order: Vec<u32> = leave(&mut pacer, now, now + 100 * MILLI)
            .into_iter()
            .map(|(_, item)| item)
            .collect();
        assert_eq!(order, [3, 2, 1, 0]);
        assert_eq!(pacer.next_wakeup(), None);
    }

    #[test]
    fn packets_leave_at_the_rate_after_a_small_burst() {
        let now = start();
        let mut pacer = pacer(now, 10_000_000);
        let now = now + 100 * MILLI;
        for item in 0..20 {
            pacer.push(now, packet(Class::Video, FULL, item));
        }
        let left = leave(&mut pacer, now, now + 100 * MILLI);
        assert_eq!(left.len(), 20);
        let at_once = left.iter().filter(|(at, _)| at.is_zero()).count();
        assert!((2..=3).contains(&at_once), "{at_once}");
        // 17 packets at 10 Mbit/s.
        let last = left[19].0;
        assert!(
            (15 * MILLI..18 * MILLI).contains(&last),
            "{last:?} for what takes 16.3 ms"
        );
    }

    #[test]
    fn sound_is_charged() {
        let now = start();
        let mut pacer = pacer(now, 1_000_000);
        for item in 0..5 {
            pacer.push(now, packet(Class::Audio, 125, item));
        }
        pacer.push(now, packet(Class::Video, FULL, 9));
        let left = leave(&mut pacer, now, now + 100 * MILLI);
        assert!(left[..5].iter().all(|(at, _)| at.is_zero()));
        assert!(left[5].0 >= 4 * MILLI, "{:?}", left[5]);
    }

    #[test]
    fn a_key_frame_is_spread() {
        let now = start();
        let mut pacer = pacer(now, 10_000_000); // the estimate is a quarter of it
        for item in 0..15 {
            pacer.push(now, of_frame(1, true, item));
        }
        let rest = pacer.key_frame_rest();
        assert!((38 * MILLI..39 * MILLI).contains(&rest), "{rest:?}");
        let left = leave(&mut pacer, now, now + 100 * MILLI);
        let last = left[14].0;
        // 18 kB at 3.75 Mbit/s.
        assert!((30 * MILLI..39 * MILLI).contains(&last), "{last:?}");
        assert_eq!(pacer.key_frame_rest(), Duration::ZERO);
    }

    #[test]
    fn what_is_too_old_is_dropped_with_the_rest_of_its_frame() {
        let now = start();
        let mut pacer = Pacer::new(now);
        pacer.push(now, of_frame(1, false, 0));
        pacer.push(now + 100 * MILLI, of_frame(1, false, 1));
        pacer.push(now + 100 * MILLI, of_frame(2, false, 2));
        pacer.push(now, of_frame(9, true, 3));
        pacer.push(now, packet(Class::Audio, 100, 4));
        assert_eq!(pacer.oldest(now + 100 * MILLI, Class::Video), 100 * MILLI);
        let later = now + 251 * MILLI;
        assert_eq!(pacer.poll(later), None, "no rate, and the sound is too old");
        let mut dropped = Vec::new();
        while let Some(packet) = pacer.poll_dropped() {
            dropped.push(packet.item);
        }
        assert_eq!(dropped, [4, 0, 1]);
        assert_eq!(pacer.waiting(Class::Video), (2, 2_400));
        let counters = pacer.counters();
        assert_eq!((counters.audio_too_old, counters.video_too_old), (1, 2));
    }

    #[test]
    fn a_flush_finishes_what_is_nearly_done() {
        for (packets, finished) in [(5, 0), (4, 3)] {
            let now = start();
            let mut pacer = pacer(now, 1_000_000);
            for item in 0..packets {
                pacer.push(now, of_frame(1, false, item));
            }
            pacer.push(now, of_frame(2, false, 10));
            let now = now + MILLI;
            assert!(pacer.poll(now).is_some() && pacer.poll(now).is_none());
            pacer.flush_video(now);
            assert_eq!(pacer.waiting(Class::Video).0, finished);
            let flushed = u64::from(packets) - finished as u64;
            assert_eq!(pacer.counters().flushed, flushed);
        }
    }

    #[test]
    fn a_new_path_gets_only_the_sound() {
        let now = start();
        let mut pacer = pacer(now, 1_000_000);
        for class in [Class::Probe, Class::Video, Class::Audio] {
            pacer.push(now, packet(class, FULL, 0));
        }
        pacer.flush_path(now);
        assert_eq!(pacer.waiting(Class::Audio).0, 1);
        assert_eq!(
            pacer.waiting(Class::Video).0 + pacer.waiting(Class::Probe).0,
            0
        );
    }

    #[test]
    fn a_probe_keeps_its_own_rate() {
        let now = start();
        let mut pacer = pacer(now, 1_000_000);
        for item in 0..6 {
            pacer.push(
                now,
                Queued {
                    probe_bits_per_sec: Some(9_600_000),
                    ..packet(Class::Probe, FULL, item)
                },
            );
        }
        let left = leave(&mut pacer, now, now + 100 * MILLI);
        assert_eq!(left.len(), 6);
        assert_eq!(left[5].0, 5 * MILLI);
    }

    #[test]
    fn queues_are_bounded() {
        let now = start();
        let mut pacer = Pacer::new(now);
        for item in 0..10_000 {
            pacer.push(now, packet(Class::Video, FULL, item));
            pacer.push(now, packet(Class::Audio, FULL, item));
        }
        assert!(pacer.waiting(Class::Video).0 <= MAX_VIDEO);
        assert!(pacer.waiting(Class::Audio).0 <= MAX_AUDIO);
        assert!(pacer.counters().overflow > 18_000);
        assert!(pacer.dropped.len() <= MAX_DROPPED);
    }

    proptest! {
        #[test]
        fn video_never_exceeds_its_rate(
            sizes in prop::collection::vec(1u32..1_400, 1..200), rate in 100_000u64..20_000_000, gap in 0u64..3_000,
        ) {
            let now = start();
            let mut pacer = pacer(now, rate);
            let (mut at, mut sent) = (now, 0u64);
            for size in sizes {
                pacer.push(at, packet(Class::Video, size, 0));
                at += Duration::from_micros(gap);
                while let Some(packet) = pacer.poll(at) {
                    sent += u64::from(packet.wire_bytes);
                }
                let earned = rate as f64 / 8.0 * (at - now).as_secs_f64();
                // A burst, and the packet that may go while any budget is left.
                prop_assert!(sent as f64 <= earned + BURST_BYTES.max(rate as f64 / 6_400.0) + 1_400.0);
            }
        }

        #[test]
        fn what_goes_in_comes_out_once(
            steps in prop::collection::vec((0u8..4, 0u64..60, any::<bool>()), 1..200),
        ) {
            let mut now = start();
            let mut pacer = pacer(now, 2_000_000);
            let (mut pushed, mut out) = (0u32, Vec::new());
            for (class, wait, flush) in steps {
                let class = [Class::Audio, Class::Resend, Class::Video, Class::Probe][usize::from(class)];
                pacer.push(now, packet(class, FULL, pushed));
                pushed += 1;
                now += Duration::from_millis(wait);
                out.extend(pacer.poll(now).map(|packet| packet.item));
                if flush && wait > 50 {
                    pacer.flush_video(now);
                }
                while let Some(packet) = pacer.poll_dropped() {
                    out.push(packet.item);
                }
            }
            for class in [Class::Audio, Class::Resend, Class::Video, Class::Probe] {
                pushed -= pacer.waiting(class).0 as u32;
            }
            prop_assert_eq!(out.len() as u32, pushed);
            out.sort_unstable();
            out.dedup();
            prop_assert_eq!(out.len() as u32, pushed);
        }
    }
}
