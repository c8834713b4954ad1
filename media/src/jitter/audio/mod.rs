//! The buffer between the network and the loudspeaker: it waits as long as jitter demands and no longer,
//! decodes when sound is needed, conceals what is missing, and lengthens or shortens the sound to get to the
//! level that it wants. Pure but for the decoder, which is handed in.

mod noise;
mod playout;
mod queue;

use std::time::{Duration, Instant};

use self::noise::ComfortNoise;
use self::playout::Delays;
pub use self::queue::MAX_QUEUED;
use self::queue::{MAX_FRAME, SoundQueue, Taken};
use super::delay::{DelayTracker, MAX_TARGET};
use super::stretch::{Stretcher, WINDOW, rms};
use crate::packet::{AudioBody, Sound};
use crate::{AudioTime, FrameNumber};

/// Samples of one pull: 10 ms at 48 kHz, mono.
pub const PULL_SAMPLES: usize = 480;

const SAMPLES_PER_MILLI: usize = 48;
/// Steps of a pull at most; each but the rare moves on gives at least 2.5 ms of sound.
const MAX_STEPS: usize = 64;
/// What comes with a repair is as exact as what comes by itself: the margin of [`DelayTracker::target`].
const MARGIN: Duration = Duration::from_micros(2_500);
/// A missing frame's place is kept open for so long at most.
const MAX_REPAIR_WAIT: Duration = Duration::from_millis(60);
/// A backlog of more than 400 ms over the target is left out, ns.
const JUMP_OVER: i64 = 400_000_000;
/// With more made up than this in a row, 100 ms, nobody knows which time of the sender is playing, samples.
const STANDING_STILL: usize = 4_800;
/// A time so far from what is expected (5 s) is of another clock.
const ANEW_NANOS: i64 = 5_000_000_000;
/// A number so far behind what is due is of another count, if its time is not as old.
const OLD_NUMBERS: u64 = 500;

/// A decoder for one stream of sound, mono at 48 kHz, samples from −1 to 1.
///
/// The calls follow each other as the sound is played: what was concealed in place of a packet is not
/// decoded again, unless the packet comes late and is played on.
pub trait SoundDecoder {
    /// Decodes a packet, and appends its samples to `out` (which may hold some already).
    ///
    /// # Errors
    /// Damage; nothing was appended.
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), SoundDecodeError>;

    /// Restores from `later` (by LBRR or DRED) the `samples` samples that come right before it, and appends
    /// them to `out`; `false` when `later` does not hold them, and nothing was appended.
    ///
    /// # Errors
    /// Damage; nothing was appended.
    fn decode_fec(
        &mut self,
        later: &[u8],
        samples: usize,
        out: &mut Vec<f32>,
    ) -> Result<bool, SoundDecodeError>;

    /// Invents `samples` samples (a multiple of 120, which is 2.5 ms; at most 960) that go on from what was
    /// decoded before, and appends exactly so many to `out`.
    fn conceal(&mut self, samples: usize, out: &mut Vec<f32>);
}

/// A packet that no decoder takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sound packet is damaged")]
pub struct SoundDecodeError;

/// What became of a packet at [`AudioBuffer::insert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inserted {
    /// Frames that are new, the primary among them or not.
    pub new: u8,
    /// Of these, how many a copy brought before the primary (or in place of it).
    pub from_copies: u8,
    /// Frames that came too late to be played.
    pub late: u8,
}

/// What a pull gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// Nothing came yet, or the first sound waits for its time: silence.
    Waiting,
    /// Sound as it was sent.
    Played,
    /// All or part of it was made up for sound that is missing.
    Concealed,
    /// The sender is silent: comfort noise.
    Quiet,
}

/// Counters since the start, named as in W3C's webrtc-stats where they exist there; samples are of one
/// channel at 48 kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AudioStats {
    /// All samples given out.
    pub total_samples: u64,
    /// Samples made up in place of missing ones.
    pub concealed_samples: u64,
    /// Runs of them.
    pub concealment_events: u64,
    /// Those of them that were silence or comfort noise.
    pub silent_concealed_samples: u64,
    /// Put in by stretching.
    pub inserted_samples_for_deceleration: u64,
    /// Taken out by stretching, and by jumps.
    pub removed_samples_for_acceleration: u64,
    /// For each sample given out, the time from the arrival of its packet to the pull, summed up.
    pub jitter_buffer_delay: Duration,
    /// Samples in that sum.
    pub jitter_buffer_emitted_count: u64,
    /// The target at each of these samples, summed up.
    pub jitter_buffer_target_delay: Duration,
    /// The same without what waits for the pictures.
    pub jitter_buffer_minimum_delay: Duration,
    /// Frames that came, copies that were not needed apart.
    pub frames_received: u64,
    /// Frames that a copy brought.
    pub frames_from_copies: u64,
    /// Frames restored by the decoder from a later packet.
    pub frames_from_fec: u64,
    /// Frames that were missing when they were to be played, and were not restored.
    pub frames_missing: u64,
    /// Frames that came after they had been concealed.
    pub frames_late: u64,
    /// Frames that came more than once, copies included.
    pub frames_duplicate: u64,
    /// Frames thrown away because too many waited.
    pub frames_overflowed: u64,
    /// Packets that the decoder refused.
    pub decode_errors: u64,
    /// Times that a long backlog was left out at once.
    pub jumps: u64,
    /// Times that the buffer began anew since the sender's clock or numbers did.
    pub restarts: u64,
}

/// The buffer of one stream of sound.
#[derive(Debug)]
pub struct AudioBuffer {
    tracker: DelayTracker,
    queue: SoundQueue,
    /// The latest frame that came by itself.
    newest: Option<FrameNumber>,
    stretcher: Stretcher,
    noise: ComfortNoise,
    state: State,
    /// [`WINDOW`] samples that were played, then those that are to be.
    line: Vec<f32>,
    /// What the decoder gave last; kept for its memory.
    decoded: Vec<f32>,
    delays: Delays,
    /// Samples that were left of the frame before when the last one was needed.
    left: usize,
    /// The last frame was silence (discontinuous transmission): others need not follow soon.
    silent: bool,
    /// The sender's time at the begin of the last pull.
    playing: Option<AudioTime>,
    repair_delay: Duration,
    repair_wait: Duration,
    sync_delay: Duration,
    accelerated_at: Option<Instant>,
    expanded_at: Option<Instant>,
    /// Pulls at which sound was to be shortened and no place was found.
    refused: u8,
    /// Since when the delay is over [`JUMP_OVER`].
    long_since: Option<Instant>,
    stats: AudioStats,
}

/// What is being played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing yet; the first sound waits for its time.
    Waiting,
    /// Sound as it was sent.
    Playing,
    /// So many samples were made up since the last sound.
    Concealing { made: usize },
    /// The sender is silent, and so many samples of noise were played since.
    Quiet { made: usize },
}

impl AudioBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        let mut line = Vec::with_capacity(WINDOW + 2 * MAX_FRAME as usize);
        line.resize(WINDOW, 0.0);
        Self {
            tracker: DelayTracker::new(),
            queue: SoundQueue::new(),
            newest: None,
            stretcher: Stretcher::new(),
            noise: ComfortNoise::new(),
            state: State::Waiting,
            line,
            decoded: Vec::with_capacity(MAX_FRAME as usize),
            delays: Delays::default(),
            left: 0,
            silent: false,
            playing: None,
            repair_delay: Duration::ZERO,
            repair_wait: Duration::ZERO,
            sync_delay: Duration::ZERO,
            accelerated_at: None,
            expanded_at: None,
            refused: 0,
            long_since: None,
            stats: AudioStats::default(),
        }
    }

    /// Takes what a packet brought, at `arrival`: the primary and such copies as are missing.
    pub fn insert(&mut self, arrival: Instant, body: &AudioBody) -> Inserted {
        let mut all = Inserted::default();
        // Oldest first, so that none makes room for itself by pushing out another one of this packet.
        let copies = body.copies.iter().map(|copy| (copy, true));
        for (sound, copy) in copies.chain([(&body.primary, false)]) {
            let one = self.insert_sound(arrival, sound, copy);
            all.new += one.new;
            all.from_copies += one.from_copies;
            all.late += one.late;
        }
        all
    }

    /// Takes one frame.
    pub fn insert_sound(&mut self, arrival: Instant, sound: &Sound, copy: bool) -> Inserted {
        let mut inserted = Inserted::default();
        if sound.samples == 0 || sound.samples > MAX_FRAME {
            self.stats.decode_errors += 1;
            return inserted;
        }
        if !copy && self.is_anew(arrival, sound) {
            self.restart();
        }
        let awaited = self
            .queue
            .due()
            .is_some_and(|due| due.number == sound.number);
        let (taken, overflowed) = self.queue.insert(arrival, sound);
        self.stats.frames_overflowed += overflowed;
        match taken {
            Taken::Duplicate => {
                self.stats.frames_duplicate += 1;
                return inserted;
            }
            Taken::Late => {
                inserted.late = 1;
                self.stats.frames_late += 1;
            }
            Taken::New => {
                inserted.new = 1;
                inserted.from_copies = u8::from(copy);
                self.stats.frames_received += 1;
                self.stats.frames_from_copies += u64::from(copy);
            }
        }
        if !copy && self.is_overtaken(sound.number) {
            return inserted;
        }
        let delay = self.tracker.on_arrival(arrival, sound.time);
        let stalled = matches!(self.state, State::Concealing { made } if made > 0);
        if taken == Taken::Late || (awaited && stalled) {
            self.tracker.on_late(delay);
        }
        inserted
    }

    /// Gives out the next 10 ms; to be called once in 10 ms of the device's clock.
    pub fn pull(
        &mut self,
        now: Instant,
        decoder: &mut dyn SoundDecoder,
        out: &mut [f32; PULL_SAMPLES],
    ) -> Pulled {
        if let Some(due) = self.queue.due() {
            let ahead = self.unplayed() as u64;
            self.playing = Some(AudioTime::from_ticks(
                due.time.ticks().saturating_sub(ahead),
            ));
        }
        let before = self.stats.concealed_samples;
        for _ in 0..MAX_STEPS {
            if self.unplayed() >= PULL_SAMPLES {
                break;
            }
            self.step(now, decoder);
        }
        if self.state == State::Playing {
            self.adjust(now, decoder);
        }
        if let State::Concealing { made } | State::Quiet { made } = self.state
            && made > STANDING_STILL
        {
            // The next sound that is due is no sign of where the sender is: pictures must not wait for it.
            self.playing = None;
        }
        // The steps above suffice; whatever the decoder does, the line is long enough.
        let needed = WINDOW + PULL_SAMPLES;
        if self.line.len() < needed {
            self.line.resize(needed, 0.0);
        }
        out.copy_from_slice(&self.line[WINDOW..needed]);
        self.line.drain(..PULL_SAMPLES);
        self.stats.total_samples += PULL_SAMPLES as u64;
        match self.state {
            State::Waiting => Pulled::Waiting,
            State::Quiet { .. } => Pulled::Quiet,
            _ if self.stats.concealed_samples > before => Pulled::Concealed,
            State::Concealing { .. } => Pulled::Concealed,
            State::Playing => {
                self.noise.learn(rms(out));
                Pulled::Played
            }
        }
    }

    /// Wait at least so long after the fastest packets: for copies that come later, for resends that are on
    /// their way.
    pub fn set_repair_delay(&mut self, delay: Duration) {
        self.repair_delay = delay.min(MAX_TARGET);
    }

    /// When 40 ms or more are missing, keep their place open so much longer, since resends may still come: the
    /// sound is later then, and is shortened again. Less is concealed better than waited for.
    pub fn set_repair_wait(&mut self, wait: Duration) {
        self.repair_wait = wait.min(MAX_REPAIR_WAIT);
    }

    /// Wait so much longer than jitter demands, so that the sound does not run ahead of the picture:
    /// [`crate::sync::Sync`].
    pub fn set_sync_delay(&mut self, delay: Duration) {
        self.sync_delay = delay.min(MAX_TARGET);
    }

    /// The sender's packets take another path from here on: delays begin anew, and a margin is kept for a
    /// while.
    pub fn on_path_switch(&mut self, now: Instant) {
        self.tracker.on_path_switch(now);
    }

    /// The sender's time of the sample that the last pull began with (to a few milliseconds while the sound
    /// is being stretched); `None` before the first, and while none has come for a while.
    pub const fn playing_time(&self) -> Option<AudioTime> {
        self.playing
    }

    /// What waits now, decoded or not, ms.
    pub fn buffer_millis(&self) -> u16 {
        let samples = self.queue.samples() + self.unplayed() as u64;
        u16::try_from(samples / SAMPLES_PER_MILLI as u64).unwrap_or(u16::MAX)
    }

    /// How long after the fastest packet of its kind a frame should be there when it is played.
    pub fn target(&self) -> Duration {
        let own = if self.tracker.is_still() {
            // It suits the longest queue; in a shorter one there is time for copies.
            self.tracker.target()
        } else {
            self.tracker.target().max(self.repair_delay + MARGIN)
        };
        own.min(MAX_TARGET) + self.sync_delay
    }

    /// The number of the last frame that was played or given up, and of the first one missing: for reports.
    /// `None` before the first.
    pub fn progress(&self) -> Option<(FrameNumber, FrameNumber)> {
        let last = self.queue.due()?.number.saturating_sub(1);
        Some((last, self.queue.first_missing()?))
    }

    /// Counters since the start.
    pub const fn stats(&self) -> &AudioStats {
        &self.stats
    }

    /// Samples that are decoded and not yet given out.
    fn unplayed(&self) -> usize {
        self.line.len() - WINDOW
    }

    /// Whether `sound` cannot belong to what came before: its clock or its numbers began anew.
    fn is_anew(&self, arrival: Instant, sound: &Sound) -> bool {
        let Some(due) = self.queue.due() else {
            return false;
        };
        let offset = self.tracker.offset(arrival, sound.time).unwrap_or(0);
        let delay = offset.saturating_sub(self.tracker.base());
        let old = sound.number.saturating_add(OLD_NUMBERS) < due.number;
        delay.saturating_abs() > ANEW_NANOS || (old && delay < JUMP_OVER)
    }

    /// Whether the frame of `number` comes by itself after a later one while copies are sent: again, most
    /// likely. To wait for such frames would cost tens of milliseconds all the time for the few whose copies
    /// are all lost; they are played if they come in time as it is.
    fn is_overtaken(&mut self, number: FrameNumber) -> bool {
        let after = self
            .newest
            .map_or(0, |newest| newest.saturating_sub(number));
        let overtaken = (1..=MAX_QUEUED as u64).contains(&after);
        if !overtaken {
            self.newest = Some(number);
        }
        overtaken && self.repair_delay > Duration::ZERO
    }

    fn restart(&mut self) {
        self.tracker = DelayTracker::new();
        self.queue = SoundQueue::new();
        self.newest = None;
        self.state = State::Waiting;
        self.delays.clear();
        self.silent = false;
        self.long_since = None;
        self.stats.restarts += 1;
    }

    /// How long before `now` the frame of `time` would have come by the fastest way, ns.
    fn since(&self, now: Instant, time: AudioTime) -> i64 {
        let offset = self.tracker.offset(now, time);
        offset.map_or(0, |offset| offset.saturating_sub(self.tracker.base()))
    }

    fn target_nanos(&self) -> i64 {
        i64::try_from(self.target().as_nanos()).unwrap_or(i64::MAX)
    }
}

impl Default for AudioBuffer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
