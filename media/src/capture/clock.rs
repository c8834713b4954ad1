//! When something was captured: one monotonic clock for pictures and sound. How a device's count of samples is
//! fitted to it is [`crate::sync`]'s.

use std::time::Instant;

use crate::{AudioTime, ClockMap, VideoTime};

/// The capture clock of one sender: a 90 kHz and a 48 kHz counter of the same monotonic clock, so that
/// pictures and sound can be brought together again. All sources of a call share one.
#[derive(Debug, Clone, Copy)]
pub struct CaptureClock {
    video: ClockMap<90_000>,
    audio: ClockMap<48_000>,
}

impl CaptureClock {
    /// Both counters as they stand `at` a moment.
    pub const fn new(video: VideoTime, audio: AudioTime, at: Instant) -> Self {
        Self {
            video: ClockMap::new(video, at),
            audio: ClockMap::new(audio, at),
        }
    }

    /// The time of a picture captured `at` a moment; the origin for any moment before it.
    pub fn video(&self, at: Instant) -> VideoTime {
        self.video.media(at).unwrap_or_default()
    }

    /// The time of a sample captured `at` a moment; the origin for any moment before it.
    pub fn audio(&self, at: Instant) -> AudioTime {
        self.audio.media(at).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_counters_run_together() {
        let at = Instant::now();
        let clock = CaptureClock::new(
            VideoTime::from_ticks(9_000),
            AudioTime::from_ticks(4_800),
            at,
        );
        let later = at + Duration::from_millis(500);
        assert_eq!(clock.video(later).ticks(), 9_000 + 45_000);
        assert_eq!(clock.audio(later).ticks(), 4_800 + 24_000);
        assert_eq!(clock.video(at - Duration::from_secs(1)).ticks(), 0);
    }
}
