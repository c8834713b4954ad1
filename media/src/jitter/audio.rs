//! The buffer between the network and the loudspeaker: it waits as long as jitter demands and no longer,
//! decodes when sound is needed, conceals what is missing, and lengthens or shortens the sound to get to the
//! level that it wants. Pure but for the decoder, which is handed in.

use std::time::{Duration, Instant};

use crate::AudioTime;
use crate::packet::{AudioBody, Sound};

/// Samples of one pull: 10 ms at 48 kHz, mono.
pub const PULL_SAMPLES: usize = 480;
/// Packets that wait at most; when more come, the oldest go. One second of 10 ms frames.
pub const MAX_QUEUED: usize = 100;

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
pub struct AudioBuffer {}

impl AudioBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        todo!()
    }

    /// Takes what a packet brought, at `arrival`: the primary and such copies as are missing.
    pub fn insert(&mut self, _arrival: Instant, _body: &AudioBody) -> Inserted {
        todo!()
    }

    /// Takes one frame.
    pub fn insert_sound(&mut self, _arrival: Instant, _sound: &Sound, _copy: bool) -> Inserted {
        todo!()
    }

    /// Gives out the next 10 ms; to be called once in 10 ms of the device's clock.
    pub fn pull(
        &mut self,
        _now: Instant,
        _decoder: &mut dyn SoundDecoder,
        _out: &mut [f32; PULL_SAMPLES],
    ) -> Pulled {
        todo!()
    }

    /// Wait at least so long beyond one frame: copies that come later, resends that are on their way
    /// (media.md's table of repairs by loss).
    pub fn set_repair_delay(&mut self, _delay: Duration) {
        todo!()
    }

    /// Stretch the sound by so much at most while a frame is missing that may still come (a resend), before
    /// it is concealed; zero: not at all.
    pub fn set_repair_wait(&mut self, _wait: Duration) {
        todo!()
    }

    /// Wait so much longer than jitter demands, so that the sound does not run ahead of the picture:
    /// [`crate::sync::Sync`].
    pub fn set_sync_delay(&mut self, _delay: Duration) {
        todo!()
    }

    /// The sender's packets take another path from here on: delays begin anew, and a margin is kept for a
    /// while.
    pub fn on_path_switch(&mut self, _now: Instant) {
        todo!()
    }

    /// The sender's time of the sample that the last pull began with; `None` before the first.
    pub fn playing_time(&self) -> Option<AudioTime> {
        todo!()
    }

    /// What waits now, decoded or not, ms.
    pub fn buffer_millis(&self) -> u16 {
        todo!()
    }

    /// For how long sound should wait, beyond the fastest packets.
    pub fn target(&self) -> Duration {
        todo!()
    }

    /// The number of the last frame that was decoded, and of the first one missing: for reports.
    pub fn progress(&self) -> Option<(crate::FrameNumber, crate::FrameNumber)> {
        todo!()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &AudioStats {
        todo!()
    }
}

impl Default for AudioBuffer {
    fn default() -> Self {
        Self::new()
    }
}
