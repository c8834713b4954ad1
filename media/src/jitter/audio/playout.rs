//! What is played next: the frame that is due, something in its place, or less or more of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::delay::nanos;
use super::super::stretch::{JOINT, Join, MIN_LAG, WINDOW, rms};
use super::queue::{Frame, Head, MAX_FRAME, MAX_QUEUED};
use super::{AudioBuffer, JUMP_OVER, PULL_SAMPLES, SAMPLES_PER_MILLI, SoundDecoder, State};

const PULL_NANOS: i64 = 10_000_000;
/// What is made up fades from here on, samples: 60 ms …
const FADE_FROM: usize = 60 * SAMPLES_PER_MILLI;
/// … to here, where it ends: 120 ms. Longer, it sounds like a robot.
const PLC_SAMPLES: usize = 120 * SAMPLES_PER_MILLI;
/// From here on it is noise alone: 200 ms.
const NOISE_FROM: usize = 200 * SAMPLES_PER_MILLI;
/// Without sound for so long, the buffer begins as at the start: 500 ms.
const OUTAGE_SAMPLES: usize = 500 * SAMPLES_PER_MILLI;
/// The decoder makes the sender's silence for a second: five times as long as the sender lets it be.
const QUIET_SAMPLES: usize = 1_000 * SAMPLES_PER_MILLI;
/// The delay may fall short of its target by so much before the sound is lengthened: the target's margin.
const SHORT_NANOS: i64 = 2_500_000;
/// The delay must exceed its target by a pull and so much, or this part of the target, before it is shortened
/// by a pull: a target that moves to and fro moves nothing. With [`SHORT_NANOS`] it makes 3.5 ms between
/// shortening and lengthening; more would keep a pull's length of delay in more of all calls.
const SLACK_NANOS: i64 = 1_000_000;
const SLACK_PART: i64 = 8;
/// If so much is to go, periods that are less alike will do, too: 12 ms.
const SURPLUS: usize = 12 * SAMPLES_PER_MILLI;
/// Put in at most so much at once: not much more than can be missing to a short target.
const MOST_INSERTED: usize = 10 * SAMPLES_PER_MILLI;
/// Above so many times the target, sound is shortened at each pull.
const FAST_FACTOR: i64 = 4;
/// Missing sound of this length (40 ms) is worth a wait for its resend; what is shorter is concealed well.
const REPAIR_TICKS: i64 = 1_920;
/// Opus restores multiples of 2.5 ms.
const FEC_STEP: usize = 120;
/// How often it is shortened otherwise.
const ACCELERATE_EVERY: Duration = Duration::from_millis(40);
/// How often it is lengthened.
const EXPAND_EVERY: Duration = Duration::from_millis(60);
/// Periods must be so much alike to be laid over each other …
const LIKE: f32 = 0.9;
/// … so much less with each time that none was found …
const LIKE_LESS: f32 = 0.1;
/// … but so much always.
const LIKE_ENOUGH: f32 = 0.5;
/// Sound is a pause up to so many times the background's loudness.
const QUIET_FACTOR: f32 = 2.0;
/// A backlog of more than [`JUMP_OVER`] is left out in a pause, or after so long.
const JUMP_AFTER: Duration = Duration::from_secs(1);

impl AudioBuffer {
    /// Lengthens the line, by what is due or something in its place, or moves on what is due.
    pub(super) fn step(&mut self, now: Instant, decoder: &mut dyn SoundDecoder) {
        let Some(first) = self.queue.first() else {
            return self.nothing_there(decoder);
        };
        let since = self.since(now, first.time);
        let in_time = since >= self.target_nanos();
        if self.queue.due().is_none() {
            if in_time {
                self.queue.skip();
            } else {
                self.extend_silence();
            }
            return;
        }
        match self.queue.head() {
            Head::Empty => self.nothing_there(decoder),
            Head::Ready => self.resume(now, since, in_time, decoder),
            Head::Pause => self.pause(in_time, decoder),
            Head::Missing { .. } if self.silent => self.pause(in_time, decoder),
            Head::Missing { ticks } => self.missing(ticks, since, decoder),
        }
    }

    /// The frame that is due is there. After an outage the level is built up first, and what is too old is
    /// left out.
    fn resume(&mut self, now: Instant, since: i64, in_time: bool, decoder: &mut dyn SoundDecoder) {
        if let State::Concealing { made } = self.state
            && made >= PLC_SAMPLES
        {
            if since > JUMP_OVER {
                return self.jump(now);
            }
            if !in_time {
                return self.conceal(decoder);
            }
        }
        self.delays.note(since.saturating_add(self.tracker.base()));
        self.left = self.unplayed();
        self.decode(now, decoder);
    }

    /// The sender was silent for a time: noise until the next frame may be played.
    fn pause(&mut self, in_time: bool, decoder: &mut dyn SoundDecoder) {
        if in_time {
            self.queue.skip();
            self.delays.clear();
        } else {
            self.quiet(decoder);
        }
    }

    /// Frames of `ticks` are missing, and a later one, which could have come `since` ago, is there.
    fn missing(&mut self, ticks: i64, since: i64, decoder: &mut dyn SoundDecoder) {
        let made = match self.state {
            State::Concealing { made } => made,
            _ => 0,
        };
        let left = ticks.saturating_sub(i64::try_from(made).unwrap_or(i64::MAX));
        let worth = ticks >= REPAIR_TICKS;
        let wait = if worth { nanos(self.repair_wait) } else { 0 };
        let waited = ticks_to_nanos(-left) >= wait || since >= self.target_nanos() + wait;
        if ticks <= 0 || (made > 0 && waited) {
            return self.give_up();
        }
        if !self.restore(left, decoder) {
            self.conceal(decoder);
        }
    }

    /// Goes on with the first frame that is there.
    fn give_up(&mut self) {
        let (frames, ticks) = self.queue.skip();
        self.stats.frames_missing += frames.min(MAX_QUEUED as u64);
        self.delays.shift(-ticks_to_nanos(ticks));
    }

    /// Restores the `left` samples before the first frame from what it holds of them.
    fn restore(&mut self, left: i64, decoder: &mut dyn SoundDecoder) -> bool {
        let (Some(first), Ok(left)) = (self.queue.first(), usize::try_from(left)) else {
            return false;
        };
        let one = first.samples as usize;
        let samples = if left.abs_diff(one) <= SAMPLES_PER_MILLI {
            one
        } else {
            left / FEC_STEP * FEC_STEP
        };
        if samples < one || samples > MAX_FRAME as usize {
            return false;
        }
        self.decoded.clear();
        let restored = decoder.decode_fec(&first.data, samples, &mut self.decoded);
        if !matches!(restored, Ok(true)) || self.decoded.is_empty() {
            return false;
        }
        self.append(0);
        let (frames, _) = self.queue.skip();
        let frames = frames.min(MAX_QUEUED as u64);
        let restored = frames.min((samples / one) as u64);
        self.stats.frames_missing += frames - restored;
        self.stats.frames_from_fec += restored;
        true
    }

    /// Decodes the frame that is due, and appends it to the line.
    fn decode(&mut self, now: Instant, decoder: &mut dyn SoundDecoder) {
        let Some(frame) = self.queue.take() else {
            return;
        };
        self.decoded.clear();
        let decoded = decoder.decode(&frame.data, &mut self.decoded);
        self.decoded.truncate(MAX_FRAME as usize);
        if decoded.is_err() || self.decoded.is_empty() {
            // It stays due, and is missing.
            self.stats.decode_errors += 1;
            return;
        }
        let samples = self.decoded.len();
        self.queue.played(&frame, samples);
        self.silent = frame.silence;
        self.account(now, &frame, samples);
        // A joint may leave out what the target does not need.
        let left_out = self.append(self.removable());
        self.removed(left_out);
    }

    /// Puts what was decoded behind the line; after anything but sound, with a joint that may leave out
    /// `most` of its first samples. Returns how many it did.
    fn append(&mut self, most: usize) -> usize {
        let left_out = if self.state == State::Playing {
            0
        } else {
            self.stretcher
                .join(&self.line, &mut self.decoded, most.min(JOINT))
        };
        self.line.append(&mut self.decoded);
        self.state = State::Playing;
        left_out
    }

    /// Adds up for how long the samples of `frame` have waited, and were to wait.
    fn account(&mut self, now: Instant, frame: &Frame, samples: usize) {
        let ahead =
            Duration::from_micros(self.unplayed() as u64 * 1_000 / SAMPLES_PER_MILLI as u64);
        let waited = now.saturating_duration_since(frame.arrival) + ahead;
        let count = samples as u32;
        self.stats.jitter_buffer_delay += waited * count;
        self.stats.jitter_buffer_emitted_count += u64::from(count);
        let target = self.target();
        self.stats.jitter_buffer_target_delay += target * count;
        self.stats.jitter_buffer_minimum_delay += target.saturating_sub(self.sync_delay) * count;
    }

    /// Nothing waits at all.
    fn nothing_there(&mut self, decoder: &mut dyn SoundDecoder) {
        match self.state {
            State::Waiting => self.extend_silence(),
            _ if self.silent => self.quiet(decoder),
            _ => self.conceal(decoder),
        }
    }

    fn extend_silence(&mut self) {
        self.line.resize(self.line.len() + PULL_SAMPLES, 0.0);
    }

    /// Makes up 10 ms: the decoder goes on with what was, fades, and gives way to noise.
    fn conceal(&mut self, decoder: &mut dyn SoundDecoder) {
        let made = match self.state {
            State::Concealing { made } => made,
            _ => 0,
        };
        self.stats.concealment_events += u64::from(made == 0);
        self.stats.concealed_samples += PULL_SAMPLES as u64;
        self.decoded.clear();
        if made < PLC_SAMPLES {
            decoder.conceal(PULL_SAMPLES, &mut self.decoded);
        } else {
            self.stats.silent_concealed_samples += PULL_SAMPLES as u64;
        }
        self.decoded.resize(PULL_SAMPLES, 0.0);
        for (at, sample) in self.decoded.iter_mut().enumerate() {
            let (voice, noise) = (
                1.0 - part(made + at, FADE_FROM, PLC_SAMPLES),
                part(made + at, FADE_FROM, NOISE_FROM),
            );
            *sample = *sample * voice + self.noise.sample() * noise;
        }
        self.line.append(&mut self.decoded);
        let more = made.saturating_add(PULL_SAMPLES);
        if made < OUTAGE_SAMPLES && more >= OUTAGE_SAMPLES {
            self.tracker.on_outage();
        }
        self.state = State::Concealing { made: more };
        self.delays.shift(PULL_NANOS);
    }

    /// Plays 10 ms of the sender's silence, which the decoder knows for a second at most.
    fn quiet(&mut self, decoder: &mut dyn SoundDecoder) {
        let made = match self.state {
            State::Quiet { made } => made,
            _ => 0,
        };
        self.decoded.clear();
        if made < QUIET_SAMPLES {
            decoder.conceal(PULL_SAMPLES, &mut self.decoded);
            self.decoded.resize(PULL_SAMPLES, 0.0);
        } else {
            let noise = (0..PULL_SAMPLES).map(|_| self.noise.sample());
            self.decoded.extend(noise);
        }
        self.line.append(&mut self.decoded);
        self.state = State::Quiet {
            made: made.saturating_add(PULL_SAMPLES),
        };
        self.delays.clear();
    }

    /// The least delay of the last frames, ns: how much later than the fastest packet a frame may come now.
    fn delay(&self) -> Option<i64> {
        let least = self.delays.least()?;
        Some(least.saturating_sub(self.tracker.base()))
    }

    /// Brings the delay nearer to its target, if it is far from it.
    pub(super) fn adjust(&mut self, now: Instant, decoder: &mut dyn SoundDecoder) {
        let Some(delay) = self.delay() else { return };
        let target = self.target_nanos();
        if self.is_long(now, delay - target) {
            return self.jump(now);
        }
        let removable = self.removable();
        if removable >= MIN_LAG {
            let fast = delay + PULL_NANOS > FAST_FACTOR * (target + PULL_NANOS);
            if fast || is_due(self.accelerated_at, now, ACCELERATE_EVERY) {
                self.accelerated_at = Some(now);
                self.shorten(now, removable, fast, decoder);
            }
        } else if delay < target - SHORT_NANOS && is_due(self.expanded_at, now, EXPAND_EVERY) {
            self.expanded_at = Some(now);
            self.lengthen(delay < target / 2);
        }
    }

    /// Samples that may go without a frame being needed before its time. Frames are needed at pulls only:
    /// what is left of the one before when the next is needed can go freely, and beyond that, whole pulls
    /// count.
    fn removable(&self) -> usize {
        let Some(delay) = self.delay() else { return 0 };
        let target = self.target_nanos();
        let spare = delay - target;
        if spare < 0 {
            return 0;
        }
        let slack = SLACK_NANOS.max(target / SLACK_PART);
        let pulls = usize::try_from((spare - slack) / PULL_NANOS).unwrap_or(0);
        self.left + pulls.saturating_mul(PULL_SAMPLES)
    }

    /// Takes out one period, if there is one to be taken.
    fn shorten(&mut self, now: Instant, most: usize, fast: bool, decoder: &mut dyn SoundDecoder) {
        while self.unplayed() < WINDOW && self.queue.head() == Head::Ready {
            let waiting = self.queue.len();
            self.decode(now, decoder);
            if self.state != State::Playing || self.queue.len() == waiting {
                return;
            }
        }
        let likeness = if fast {
            LIKE_ENOUGH
        } else if most > SURPLUS {
            (LIKE - LIKE_LESS * f32::from(self.refused)).max(LIKE_ENOUGH)
        } else {
            LIKE
        };
        let most = most.min(self.unplayed().saturating_sub(PULL_SAMPLES));
        let join = self.join(likeness);
        let removed = self
            .stretcher
            .accelerate(&mut self.line, WINDOW, most, join);
        self.refused = if removed > 0 {
            0
        } else {
            self.refused.saturating_add(1)
        };
        self.removed(removed);
    }

    /// Puts in one period, if there is one to be repeated.
    fn lengthen(&mut self, urgent: bool) {
        let join = self.join(if urgent { LIKE_ENOUGH } else { LIKE });
        let inserted = self
            .stretcher
            .expand(&mut self.line, WINDOW, MOST_INSERTED, join);
        self.stats.inserted_samples_for_deceleration += inserted as u64;
        self.delays.shift(samples_to_nanos(inserted));
    }

    fn removed(&mut self, samples: usize) {
        self.stats.removed_samples_for_acceleration += samples as u64;
        self.delays.shift(-samples_to_nanos(samples));
    }

    fn join(&self, likeness: f32) -> Join {
        Join {
            likeness,
            quiet: self.noise.floor() * QUIET_FACTOR,
        }
    }

    /// Whether so much waits that leaving it out is better than working it off: in a pause, or when that has
    /// lasted for a second.
    fn is_long(&mut self, now: Instant, excess: i64) -> bool {
        if excess <= JUMP_OVER {
            self.long_since = None;
            return false;
        }
        let since = *self.long_since.get_or_insert(now);
        let recent = &self.line[WINDOW - PULL_SAMPLES..WINDOW];
        let pause = self.silent || rms(recent) <= self.noise.floor() * QUIET_FACTOR;
        pause || now.saturating_duration_since(since) >= JUMP_AFTER
    }

    /// Leaves out what is older than the target.
    fn jump(&mut self, now: Instant) {
        let target = self.target_nanos();
        let mut left_out = 0;
        while self.queue.len() > 1 {
            let Some(first) = self.queue.first() else {
                break;
            };
            if self.since(now, first.time) <= target {
                break;
            }
            left_out += u64::from(first.samples);
            self.queue.take();
        }
        self.queue.skip();
        self.stats.jumps += 1;
        self.stats.removed_samples_for_acceleration += left_out;
        self.long_since = None;
        self.delays.clear();
        // What follows does not go on from what was.
        self.state = State::Concealing { made: 0 };
    }
}

/// When the last frames were played, as offsets (time of the pull less media time): the least of them is what
/// counts, since a device may pull several times at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Delays {
    offsets: VecDeque<i64>,
}

impl Delays {
    /// Frames that are looked at.
    const MOST: usize = 10;

    fn note(&mut self, offset: i64) {
        if self.offsets.len() == Self::MOST {
            self.offsets.pop_front();
        }
        self.offsets.push_back(offset);
    }

    /// All sound after this is played so much later.
    fn shift(&mut self, nanos: i64) {
        for offset in &mut self.offsets {
            *offset = offset.saturating_add(nanos);
        }
    }

    pub(super) fn clear(&mut self) {
        self.offsets.clear();
    }

    fn least(&self) -> Option<i64> {
        self.offsets.iter().copied().min()
    }
}

/// How far `at` is on its way from `from` to `to`, 0 to 1.
fn part(at: usize, from: usize, to: usize) -> f32 {
    (at.saturating_sub(from) as f32 / (to - from) as f32).min(1.0)
}

fn ticks_to_nanos(ticks: i64) -> i64 {
    ticks.saturating_mul(62_500) / 3
}

fn samples_to_nanos(samples: usize) -> i64 {
    i64::try_from(samples).map_or(i64::MAX, ticks_to_nanos)
}

/// Whether what was done at `last` may be done again.
fn is_due(last: Option<Instant>, now: Instant, every: Duration) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= every)
}
