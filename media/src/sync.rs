//! Clocks and what follows from them: the sender's clock as seen from here, the microphone's clock as seen
//! from its own machine, and sound and picture aligned by them. No wall clock is ever read. Pure.

use std::time::{Duration, Instant};

use crate::{AudioTime, MediaTime};

/// A time on the sender's monotonic clock, µs after an unknown origin.
pub type SenderMicros = i64;

/// The sender's clock as seen from here: the lower envelope of arrivals over sending times, so that queues
/// and jitter do not move it.
#[derive(Debug, Clone)]
pub struct RemoteClock {}

impl RemoteClock {
    /// Knows nothing yet.
    pub fn new() -> Self {
        todo!()
    }

    /// A packet left at `sent` and came at `arrival`. Returns `true` when the clock was anchored anew, by the
    /// first packet or by a jump of more than 50 ms.
    pub fn on_packet(&mut self, _sent: SenderMicros, _arrival: Instant) -> bool {
        todo!()
    }

    /// Another path: the next packet anchors the clock anew; the skew is kept.
    pub fn on_path_switch(&mut self) {
        todo!()
    }

    /// When something of sending time `sent` comes here, had it the fastest way; `None` before the first
    /// packet.
    pub fn local(&self, _sent: SenderMicros) -> Option<Instant> {
        todo!()
    }

    /// What the sender's clock showed when something that is here at `instant` left by the fastest way.
    pub fn sender(&self, _instant: Instant) -> Option<SenderMicros> {
        todo!()
    }

    /// How much faster the sender's clock runs than ours, parts per million, −500 to 500.
    pub fn drift_ppm(&self) -> f64 {
        todo!()
    }

    /// How often it was anchored anew after the first time.
    pub fn reanchors(&self) -> u64 {
        todo!()
    }
}

impl Default for RemoteClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Places the times of one stream on the sender's clock. Media clocks start at random; what ties them to the
/// sender's clock is each packet's sending time and age (capture to sending).
#[derive(Debug, Clone)]
pub struct StreamClock<const HZ: u32> {}

impl<const HZ: u32> StreamClock<HZ> {
    /// Knows nothing yet.
    pub fn new() -> Self {
        todo!()
    }

    /// A packet with the sound or picture of `time` left at `sent`, `age_millis` after its capture; 255
    /// stands for any age above 254 and teaches nothing.
    pub fn on_packet(&mut self, _time: MediaTime<HZ>, _sent: SenderMicros, _age_millis: u8) {
        todo!()
    }

    /// When, on the sender's clock, `time` was captured; `None` before the first packet.
    pub fn captured(&self, _time: MediaTime<HZ>) -> Option<SenderMicros> {
        todo!()
    }
}

impl<const HZ: u32> Default for StreamClock<HZ> {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives captured sound its times: counts the device's samples, and fits their number to the monotonic clock
/// (slope over 10 s), so that the device's drift shows in the times and not as a latency that grows.
#[derive(Debug, Clone)]
pub struct CaptureClock {}

impl CaptureClock {
    /// The media clock showed `origin` at `start`; pictures of the same sender count from the same moment.
    pub fn new(_origin: AudioTime, _start: Instant) -> Self {
        todo!()
    }

    /// `samples` (of one channel) were handed over at `now`, the last of them captured just before. Returns
    /// the time of the first. Times never go back.
    pub fn on_samples(&mut self, _now: Instant, _samples: u32) -> AudioTime {
        todo!()
    }

    /// How much faster than nominal the device runs, parts per million.
    pub fn drift_ppm(&self) -> f64 {
        todo!()
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

/// Holds picture and sound together: the sound is master, the picture is moved first.
#[derive(Debug, Clone)]
pub struct Sync {}

impl Sync {
    /// Nothing known, nothing delayed.
    pub fn new() -> Self {
        todo!()
    }

    /// At `now`, the sound captured at `captured` leaves the loudspeaker (the caller has added what the device
    /// holds).
    pub fn on_audio(&mut self, _now: Instant, _captured: SenderMicros) {
        todo!()
    }

    /// At `now`, the picture captured at `captured` is shown. Returns what to do from now on. While
    /// `hold_audio` is set (no reports come, or a foreign flow fills the queue) the sound is not delayed
    /// further.
    pub fn on_video(
        &mut self,
        _now: Instant,
        _captured: SenderMicros,
        _hold_audio: bool,
    ) -> SyncDelays {
        todo!()
    }

    /// How far the sound is ahead of the picture, filtered over 2 s; `None` until both play. Positive: the
    /// picture is late. `av_skew` of the statistics.
    pub fn skew_millis(&self) -> Option<f64> {
        todo!()
    }

    /// No picture is shown any more (camera off, hold): begin anew with the next.
    pub fn reset(&mut self) {
        todo!()
    }
}

impl Default for Sync {
    fn default() -> Self {
        Self::new()
    }
}
