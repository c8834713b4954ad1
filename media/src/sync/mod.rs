//! Clocks and what follows from them: the sender's clock as seen from here, the microphone's clock as seen
//! from its own machine, and sound and picture aligned by them. No wall clock is ever read. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::{AudioTime, MediaTime};

/// A time on the sender's monotonic clock, µs after an unknown origin.
pub type SenderMicros = i64;

const MILLI: i64 = 1_000;
const SECOND: i64 = 1_000_000;

/// The offset of a clock is the least one seen in this time: a queue shorter than this does not move it.
const OFFSET_WINDOW: i64 = 2 * SECOND;
/// The least offsets of so many windows give the drift: a minute.
const DRIFT_WINDOWS: usize = 30;
/// Below so many, none is told: their slope would be jitter.
const DRIFT_WINDOWS_NEEDED: usize = 5;
/// Crystals are better than this; more is a queue that grows.
const MAX_DRIFT: f64 = 500e-6;
/// A larger step of the offset is no drift: another path, or another clock.
const JUMP: i64 = 50 * MILLI;
/// A step upwards is believed when all packets say so for this long (a burst of queueing passes) …
const JUMP_AFTER: i64 = 300 * MILLI;
/// … and are so many.
const JUMP_PACKETS: u32 = 10;

/// The sender's clock as seen from here: the lower envelope of arrivals over sending times, so that queues
/// and jitter do not move it.
#[derive(Debug, Clone)]
pub struct RemoteClock {
    /// When the first packet came; all local times are relative to it.
    origin: Option<Instant>,
    /// (sending time, offset), the least first and rising: those that may yet be the least.
    lowest: VecDeque<(SenderMicros, i64)>,
    /// The least of each window before this one.
    windows: VecDeque<(SenderMicros, i64)>,
    /// The least of this window, which began at the first number.
    current: Option<(SenderMicros, SenderMicros, i64)>,
    above: Option<Above>,
    drift: f64,
    switched: bool,
    reanchors: u64,
}

/// Packets in a row that came more than [`JUMP`] late.
#[derive(Debug, Clone, Copy)]
struct Above {
    since: i64,
    packets: u32,
    /// Sending time and offset of the fastest of them.
    least: (SenderMicros, i64),
}

impl RemoteClock {
    /// Knows nothing yet.
    pub const fn new() -> Self {
        Self {
            origin: None,
            lowest: VecDeque::new(),
            windows: VecDeque::new(),
            current: None,
            above: None,
            drift: 0.0,
            switched: false,
            reanchors: 0,
        }
    }

    /// A packet left at `sent` and came at `arrival`. Returns `true` when the clock was anchored anew, by the
    /// first packet, by one after a switch of path, or by a jump of more than 50 ms.
    pub fn on_packet(&mut self, sent: SenderMicros, arrival: Instant) -> bool {
        let first = self.origin.is_none();
        let origin = *self.origin.get_or_insert(arrival);
        let now = micros_between(origin, arrival);
        let offset = now.saturating_sub(sent);
        if first || std::mem::take(&mut self.switched) {
            self.anchor(sent, offset);
            self.reanchors += u64::from(!first);
            return true;
        }
        let expected = self.offset_at(sent);
        let over = offset.saturating_sub(expected);
        if over < -JUMP {
            self.anchor(sent, offset);
            self.reanchors += 1;
            return true;
        }
        if over > JUMP {
            let above = self.above.get_or_insert(Above {
                since: now,
                packets: 0,
                least: (sent, offset),
            });
            above.packets = above.packets.saturating_add(1);
            if offset < above.least.1 {
                above.least = (sent, offset);
            }
            let lasting = now.saturating_sub(above.since) >= JUMP_AFTER;
            if lasting && above.packets >= JUMP_PACKETS {
                let (sent, offset) = above.least;
                self.anchor(sent, offset);
                self.reanchors += 1;
                return true;
            }
        } else {
            self.above = None;
        }
        self.note(sent, offset);
        false
    }

    /// Another path: the next packet anchors the clock anew; the drift is kept.
    pub const fn on_path_switch(&mut self) {
        self.switched = true;
    }

    /// When something of sending time `sent` comes here, had it the fastest way; `None` before the first
    /// packet.
    pub fn local(&self, sent: SenderMicros) -> Option<Instant> {
        let origin = self.origin?;
        offset_instant(origin, sent.saturating_add(self.offset_at(sent)))
    }

    /// What the sender's clock showed when something that is here at `instant` left by the fastest way.
    pub fn sender(&self, instant: Instant) -> Option<SenderMicros> {
        let now = micros_between(self.origin?, instant);
        let about = now.saturating_sub(self.lowest.front()?.1);
        Some(now.saturating_sub(self.offset_at(about)))
    }

    /// How much faster the sender's clock runs than ours, parts per million, −500 to 500; 0 until it is known.
    pub fn drift_ppm(&self) -> f64 {
        -self.drift * 1e6
    }

    /// How often it was anchored anew after the first time.
    pub const fn reanchors(&self) -> u64 {
        self.reanchors
    }

    /// The offset at `sent`: the least of the window, moved on by the drift for no longer than a window.
    fn offset_at(&self, sent: SenderMicros) -> i64 {
        let Some(&(at, offset)) = self.lowest.front() else {
            return 0;
        };
        let since = sent.saturating_sub(at).clamp(-OFFSET_WINDOW, OFFSET_WINDOW);
        offset.saturating_add((since as f64 * self.drift).round() as i64)
    }

    fn anchor(&mut self, sent: SenderMicros, offset: i64) {
        self.lowest.clear();
        self.windows.clear();
        self.current = None;
        self.above = None;
        self.note(sent, offset);
    }

    fn note(&mut self, sent: SenderMicros, offset: i64) {
        while self.lowest.back().is_some_and(|last| last.1 >= offset) {
            self.lowest.pop_back();
        }
        // What is a millisecond apart tells nothing more: the table stays below 2,000 entries.
        let near = self
            .lowest
            .back()
            .is_some_and(|last| sent.saturating_sub(last.0) < MILLI);
        if !near {
            self.lowest.push_back((sent, offset));
        }
        while self.lowest.len() > 1
            && self
                .lowest
                .front()
                .is_some_and(|front| sent.saturating_sub(front.0) > OFFSET_WINDOW)
        {
            self.lowest.pop_front();
        }
        match &mut self.current {
            Some((start, at, least)) if sent.saturating_sub(*start) < OFFSET_WINDOW => {
                if offset < *least {
                    (*at, *least) = (sent, offset);
                }
            }
            current => {
                if let Some((_, at, least)) = current.replace((sent, sent, offset)) {
                    if self.windows.len() == DRIFT_WINDOWS {
                        self.windows.pop_front();
                    }
                    self.windows.push_back((at, least));
                    self.fit();
                }
            }
        }
    }

    /// The drift is the median of the slopes between all pairs of windows (Theil and Sen): a third of them may
    /// lie in a queue.
    fn fit(&mut self) {
        if self.windows.len() < DRIFT_WINDOWS_NEEDED {
            return;
        }
        let mut slopes = Vec::with_capacity(DRIFT_WINDOWS * DRIFT_WINDOWS / 2);
        for (index, late) in self.windows.iter().enumerate() {
            for early in self.windows.iter().take(index) {
                let span = late.0.saturating_sub(early.0);
                if span > 0 {
                    slopes.push(late.1.saturating_sub(early.1) as f64 / span as f64);
                }
            }
        }
        if !slopes.is_empty() {
            let middle = slopes.len() / 2;
            let (_, median, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
            self.drift = median.clamp(-MAX_DRIFT, MAX_DRIFT);
        }
    }
}

impl Default for RemoteClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Ages of the newest seconds tie a stream to the sender's clock.
const STREAM_SECONDS: usize = 10;
/// A stream whose times lie so far off has begun anew.
const STREAM_JUMP: i64 = SECOND;
/// The age that stands for anything older.
const AGE_UNKNOWN: u8 = u8::MAX;

/// Places the times of one stream on the sender's clock. Media clocks start at random; what ties them to the
/// sender's clock is each packet's sending time and age (capture to sending, whole milliseconds, cut down: the
/// least of several is right to a fraction of one).
#[derive(Debug, Clone)]
pub struct StreamClock<const HZ: u32> {
    origin: Option<MediaTime<HZ>>,
    /// For each of the last seconds, which it is and the least offset.
    seconds: VecDeque<(i64, i64)>,
}

impl<const HZ: u32> StreamClock<HZ> {
    /// Knows nothing yet.
    pub const fn new() -> Self {
        Self {
            origin: None,
            seconds: VecDeque::new(),
        }
    }

    /// A packet with the sound or picture of `time` left at `sent`, `age_millis` after its capture; 255
    /// stands for any age above 254 and teaches nothing.
    pub fn on_packet(&mut self, time: MediaTime<HZ>, sent: SenderMicros, age_millis: u8) {
        if age_millis == AGE_UNKNOWN {
            return;
        }
        let origin = *self.origin.get_or_insert(time);
        let captured = sent.saturating_sub(i64::from(age_millis) * MILLI);
        let offset = captured.saturating_sub(micros_of(origin, time));
        if self
            .offset()
            .is_some_and(|known| (offset.saturating_sub(known)).saturating_abs() > STREAM_JUMP)
        {
            self.seconds.clear();
        }
        let second = sent.div_euclid(SECOND);
        match self.seconds.back_mut() {
            Some((last, least)) if *last >= second => *least = (*least).min(offset),
            _ => {
                if self.seconds.len() == STREAM_SECONDS {
                    self.seconds.pop_front();
                }
                self.seconds.push_back((second, offset));
            }
        }
    }

    /// When, on the sender's clock, `time` was captured; `None` before the first packet.
    pub fn captured(&self, time: MediaTime<HZ>) -> Option<SenderMicros> {
        Some(micros_of(self.origin?, time).saturating_add(self.offset()?))
    }

    fn offset(&self) -> Option<i64> {
        self.seconds.iter().map(|second| second.1).min()
    }
}

impl<const HZ: u32> Default for StreamClock<HZ> {
    fn default() -> Self {
        Self::new()
    }
}

/// Ticks a second of the clock of sound.
const TICKS: f64 = 48_000.0;
/// Each second's earliest hand-over counts, and so many of them give the slope.
const CAPTURE_SECONDS: usize = 10;
/// Below so many, the device is taken at its word.
const CAPTURE_SECONDS_NEEDED: usize = 4;
/// A device's clock is not worse than this.
const MAX_DEVICE_DRIFT: f64 = 1_000e-6;
/// Times are corrected by this part of what passes: a tick in 10 ms, which nobody hears or needs to see.
const CORRECTION: f64 = 0.002;
/// Off by more than 50 ms, samples were lost or the device stood still: corrected at once if forward, and by
/// this part of what passes if backward.
const CAPTURE_JUMP: f64 = 0.050 * TICKS;
const BACKWARD: f64 = 0.1;
/// The device must be off for so long: a machine that is busy hands over late and then catches up.
const CAPTURE_JUMP_AFTER: Duration = Duration::from_millis(200);

/// Gives captured sound its times: counts the device's samples, and fits their number to the monotonic clock
/// (slope over 10 s), so that the device's drift shows in the times and not as a latency that grows.
#[derive(Debug, Clone)]
pub struct CaptureClock {
    origin: AudioTime,
    start: Instant,
    /// Samples so far.
    count: f64,
    /// What is added to the count for a time, ticks.
    offset: f64,
    /// For each of the last seconds (the newest is not over): count and offset at the earliest hand-over.
    seconds: VecDeque<(f64, f64)>,
    second: u64,
    /// Since when all hand-overs are off by more than a jump, and the least of them.
    off: Option<(Instant, f64)>,
    slope: f64,
}

impl CaptureClock {
    /// The media clock showed `origin` at `start`; pictures of the same sender count from the same moment.
    pub const fn new(origin: AudioTime, start: Instant) -> Self {
        Self {
            origin,
            start,
            count: 0.0,
            offset: 0.0,
            seconds: VecDeque::new(),
            second: 0,
            off: None,
            slope: 0.0,
        }
    }

    /// `samples` (of one channel) were handed over at `now`, the last of them captured just before. Returns
    /// the time of the first. Times never go back.
    pub fn on_samples(&mut self, now: Instant, samples: u32) -> AudioTime {
        let passed = f64::from(samples);
        let elapsed = now.saturating_duration_since(self.start).as_secs_f64() * TICKS;
        let measured = elapsed - (self.count + passed);
        if self.seconds.is_empty() {
            self.offset = measured.max(0.0);
        }
        self.learn(now, elapsed, measured, passed);
        let first = (self.count + self.offset).max(0.0);
        let time = self.origin.checked_add_ticks(first.round() as u64);
        self.count += passed;
        self.correct(passed);
        time.unwrap_or(self.origin)
    }

    /// How much faster than nominal the device runs, parts per million.
    pub fn drift_ppm(&self) -> f64 {
        -self.slope * 1e6
    }

    fn learn(&mut self, now: Instant, elapsed: f64, measured: f64, passed: f64) {
        let second = (elapsed / TICKS) as u64;
        let entry = (self.count + passed, measured);
        match self.seconds.back_mut() {
            Some(last) if second <= self.second => {
                if measured < last.1 {
                    *last = entry;
                }
            }
            _ => {
                if self.seconds.len() == CAPTURE_SECONDS + 1 {
                    self.seconds.pop_front();
                }
                self.seconds.push_back(entry);
                self.second = second;
                self.fit();
            }
        }
        if measured - self.offset > CAPTURE_JUMP {
            let (since, least) = self.off.get_or_insert((now, measured));
            *least = least.min(measured);
            if now.saturating_duration_since(*since) >= CAPTURE_JUMP_AFTER {
                self.offset = *least;
                self.off = None;
                self.seconds.clear();
                self.seconds.push_back(entry);
            }
        } else {
            self.off = None;
        }
    }

    /// Least squares over the seconds that are over.
    fn fit(&mut self) {
        let over = self.seconds.len() - 1;
        if over < CAPTURE_SECONDS_NEEDED {
            return;
        }
        let points = || self.seconds.iter().take(over);
        let number = over as f64;
        let mean_count = points().map(|point| point.0).sum::<f64>() / number;
        let mean_offset = points().map(|point| point.1).sum::<f64>() / number;
        let (mut both, mut square) = (0.0, 0.0);
        for point in points() {
            let count = point.0 - mean_count;
            both += count * (point.1 - mean_offset);
            square += count * count;
        }
        if square > 0.0 {
            self.slope = (both / square).clamp(-MAX_DEVICE_DRIFT, MAX_DEVICE_DRIFT);
        }
    }

    /// Moves the offset along the fit, and towards it.
    fn correct(&mut self, passed: f64) {
        // The earliest hand-over of them all, seen along the slope.
        let along = |point: &(f64, f64)| point.1 + self.slope * (self.count - point.0);
        let Some(wanted) = self.seconds.iter().map(along).min_by(f64::total_cmp) else {
            return;
        };
        let moved = self.offset + self.slope * passed;
        let wrong = wanted - moved;
        let part = if wrong < -CAPTURE_JUMP {
            BACKWARD
        } else {
            CORRECTION
        };
        self.offset = moved + wrong.clamp(-part * passed, CORRECTION * passed);
    }
}

/// What [`Sync`] wants of the buffers, beyond what jitter demands of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncDelays {
    /// Pictures wait so much longer.
    pub video: Duration,
    /// Sound waits so much longer: [`crate::jitter::AudioBuffer::set_sync_delay`].
    pub audio: Duration,
}

/// Nobody sees less (ITU-R BT.1359 puts detection at 45 ms of early sound and 125 of late), ms.
const TOLERANCE: f64 = 40.0;
/// Once corrected, the skew is brought to half of that, so that it stays.
const AIM: f64 = 20.0;
/// A picture's delay moves by so much a frame at most: less than half a frame, which nobody sees.
const VIDEO_STEP: f64 = 10.0;
/// The sound's delay moves by so much a second: it is stretched.
const AUDIO_RATE: f64 = 10.0;
/// The sound waits so much for the picture at most.
const AUDIO_MOST: f64 = 80.0;
/// The picture must be late for so long before the sound is made to wait.
const LATE_FOR: Duration = Duration::from_secs(1);
/// Time constant of the filter, s.
const FILTER_SECONDS: f64 = 2.0;
/// Further apart than this they are not aligned: a screen on a slow link is not worth the delay.
const HOPELESS: f64 = 250.0;
/// Sound whose delay falls faster than this, s a second, works off what an outage left: within moments it is where
/// it was, and the picture that waited for it would be late for longer than that.
const CATCHING_UP: f64 = 0.05;
/// Time constant of the filter of that rate, s: some stretches, which come each 40 ms.
const CATCHING_UP_SECONDS: f64 = 0.3;
/// A time of the sound that is older tells nothing.
const AUDIO_FRESH: Duration = Duration::from_millis(500);

/// Holds picture and sound together: the sound is master, the picture is moved first.
#[derive(Debug, Clone, Default)]
pub struct Sync {
    audio: Option<(Instant, SenderMicros)>,
    /// How fast the sound's delay grows, s a second, filtered.
    audio_rate: f64,
    shown_at: Option<Instant>,
    /// Sound ahead of picture, ms, filtered.
    skew: Option<f64>,
    late_since: Option<Instant>,
    video_millis: f64,
    audio_millis: f64,
}

impl Sync {
    /// Nothing known, nothing delayed.
    pub fn new() -> Self {
        Self::default()
    }

    /// At `now`, the sound captured at `captured` leaves the loudspeaker (the caller has added what the device
    /// holds).
    pub fn on_audio(&mut self, now: Instant, captured: SenderMicros) {
        if let Some((at, before)) = self.audio.replace((now, captured)) {
            let elapsed = now.saturating_duration_since(at);
            let seconds = elapsed.as_secs_f64();
            if elapsed > AUDIO_FRESH {
                self.audio_rate = 0.0;
            } else if seconds > 0.0 {
                let played = captured.saturating_sub(before) as f64 / 1e6;
                let part = 1.0 - (-seconds / CATCHING_UP_SECONDS).exp();
                self.audio_rate += ((seconds - played) / seconds - self.audio_rate) * part;
            }
        }
    }

    /// At `now`, the picture captured at `captured` is shown. Returns what to do from now on. While
    /// `hold_audio` is set (no reports come, or a foreign flow fills the queue) the sound is not delayed
    /// further.
    pub fn on_video(
        &mut self,
        now: Instant,
        captured: SenderMicros,
        hold_audio: bool,
    ) -> SyncDelays {
        let playing = self.audio.and_then(|(at, playing)| {
            let since = now.saturating_duration_since(at);
            (since <= AUDIO_FRESH).then(|| playing.saturating_add(micros(since)))
        });
        let Some(playing) = playing else {
            return self.delays();
        };
        let elapsed = self
            .shown_at
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.shown_at = Some(now);
        let elapsed = elapsed.as_secs_f64().min(1.0);
        let skew = playing.saturating_sub(captured) as f64 / 1e3;
        let catching_up = self.audio_rate < -CATCHING_UP;
        let skew = match self.skew {
            // What was seen before tells nothing of where the sound will stop.
            Some(filtered) if !catching_up => {
                filtered + (skew - filtered) * (1.0 - (-elapsed / FILTER_SECONDS).exp())
            }
            _ => skew,
        };
        self.skew = Some(skew);
        if catching_up && skew < 0.0 {
            self.late_since = None;
            return self.delays();
        }
        self.control(now, skew, elapsed, hold_audio);
        self.delays()
    }

    /// How far the sound is ahead of the picture, filtered over 2 s; `None` until both play. Positive: the
    /// picture is late. `av_skew` of the statistics.
    pub const fn skew_millis(&self) -> Option<f64> {
        self.skew
    }

    /// No picture is shown any more (camera off, hold): begin anew with the next.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    fn control(&mut self, now: Instant, skew: f64, elapsed: f64, hold_audio: bool) {
        // What it would be if nothing were delayed.
        let own = skew - self.video_millis + self.audio_millis;
        if own.abs() > HOPELESS {
            self.late_since = None;
            self.delay_video(-VIDEO_STEP);
            self.delay_audio(-AUDIO_RATE * elapsed);
            return;
        }
        if skew < -TOLERANCE {
            self.delay_video((-AIM - skew).min(VIDEO_STEP));
        } else if skew > AIM && self.video_millis > 0.0 {
            self.delay_video(-(skew - AIM).min(VIDEO_STEP));
        }
        if skew < 0.0 {
            self.delay_audio(-AUDIO_RATE * elapsed);
        }
        if skew <= TOLERANCE / 2.0 || (skew <= TOLERANCE && self.audio_millis == 0.0) {
            self.late_since = None;
        } else {
            let since = *self.late_since.get_or_insert(now);
            let lasting = now.saturating_duration_since(since) >= LATE_FOR;
            if lasting && !hold_audio && self.video_millis == 0.0 {
                self.delay_audio(AUDIO_RATE * elapsed);
            }
        }
    }

    fn delay_video(&mut self, more: f64) {
        let before = self.video_millis;
        self.video_millis = (before + more).clamp(0.0, HOPELESS);
        // The filter is told what the next pictures will show.
        if let Some(skew) = &mut self.skew {
            *skew += self.video_millis - before;
        }
    }

    fn delay_audio(&mut self, more: f64) {
        self.audio_millis = (self.audio_millis + more).clamp(0.0, AUDIO_MOST);
    }

    fn delays(&self) -> SyncDelays {
        SyncDelays {
            video: Duration::from_secs_f64(self.video_millis / 1e3),
            audio: Duration::from_secs_f64(self.audio_millis / 1e3),
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// From `from` to `to`, negative if it is the other way.
fn micros_between(from: Instant, to: Instant) -> i64 {
    match to.checked_duration_since(from) {
        Some(after) => micros(after),
        None => -micros(from.saturating_duration_since(to)),
    }
}

fn offset_instant(from: Instant, micros: i64) -> Option<Instant> {
    let size = Duration::from_micros(micros.unsigned_abs());
    if micros >= 0 {
        from.checked_add(size)
    } else {
        from.checked_sub(size)
    }
}

/// From `from` to `to`, µs.
fn micros_of<const HZ: u32>(from: MediaTime<HZ>, to: MediaTime<HZ>) -> i64 {
    let ticks = to.ticks().wrapping_sub(from.ticks()) as i64;
    let micros = i128::from(ticks) * 1_000_000 / i128::from(HZ);
    micros.clamp(i128::from(i64::MIN / 4), i128::from(i64::MAX / 4)) as i64
}

#[cfg(test)]
mod tests;
