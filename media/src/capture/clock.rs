//! When something was captured: one monotonic clock for pictures and sound, and the fit of a device's sample
//! count to it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

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

/// The span over which a device's speed is measured: `media.md` §8.3 asks for 10 s; shorter is unsteady by the
/// jitter of callbacks, longer follows a change of temperature late.
const FIT_SPAN: usize = 10;
/// Of each second the least delayed observation counts.
const BUCKET: Duration = Duration::from_secs(1);
/// Buckets before the speed is measured at all.
const FIT_FROM: usize = 4;
/// What is faster or slower than this is no clock drift but a fault of the observations, parts of one.
const MAX_DRIFT: f64 = 0.001;
/// When all observations of a second are later than the fit by this, the device stood still in between, seconds.
const JUMP: f64 = 0.050;
/// A jump of the capture time by more than this is passed on as one, ticks: 20 ms; less is worked off at a tick a
/// block (2,083 ppm).
const STEP: u64 = 960;

/// Tells when a device's samples were captured, from when its callbacks came: the line below all the
/// (jittering, always late) observations of the last ten seconds, whose slope is the device's drift.
#[derive(Debug)]
pub struct SampleClock {
    rate: f64,
    origin: Option<Instant>,
    /// Closed buckets and the open one, each by its least delayed observation.
    buckets: VecDeque<Bucket>,
    opened: f64,
    slope: f64,
    offset: f64,
}

/// The least delayed observation of a second.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Nominal time of the sample, seconds.
    nominal: f64,
    /// How much later it came, seconds.
    delay: f64,
}

impl SampleClock {
    /// For a device that claims `rate` samples a second.
    pub fn new(rate: u32) -> Self {
        Self {
            rate: f64::from(rate.max(1)),
            origin: None,
            buckets: VecDeque::with_capacity(FIT_SPAN + 1),
            opened: 0.0,
            slope: 0.0,
            offset: 0.0,
        }
    }

    /// Sample number `sample` was captured `at` this moment, or earlier.
    pub fn observe(&mut self, sample: u64, at: Instant) {
        let origin = *self.origin.get_or_insert(at);
        let now = at.saturating_duration_since(origin).as_secs_f64()
            - origin.saturating_duration_since(at).as_secs_f64();
        let nominal = sample as f64 / self.rate;
        let seen = Bucket {
            nominal,
            delay: now - nominal,
        };
        match self.buckets.back_mut() {
            Some(open) if now - self.opened < BUCKET.as_secs_f64() => {
                if self.slope.mul_add(-seen.nominal, seen.delay)
                    < self.slope.mul_add(-open.nominal, open.delay)
                {
                    *open = seen;
                }
            }
            _ => {
                self.close();
                self.opened = now;
                self.buckets.push_back(seen);
            }
        }
        // Nothing was captured later than it came.
        let residual = self.slope.mul_add(-seen.nominal, seen.delay);
        if self.buckets.len() == 1 || residual < self.offset {
            self.offset = if self.buckets.len() == 1 {
                self.slope
                    .mul_add(-self.buckets[0].nominal, self.buckets[0].delay)
            } else {
                residual
            };
        }
    }

    /// Forgets all: samples were lost, so that their count says nothing any more.
    pub fn restart(&mut self) {
        self.origin = None;
        self.buckets.clear();
    }

    /// When sample number `sample` was captured; `None` before the first observation.
    pub fn moment(&self, sample: u64) -> Option<Instant> {
        let origin = self.origin?;
        let nominal = sample as f64 / self.rate;
        let seconds = nominal + self.slope.mul_add(nominal, self.offset);
        let shift = Duration::try_from_secs_f64(seconds.abs()).ok()?;
        if seconds >= 0.0 {
            origin.checked_add(shift)
        } else {
            origin.checked_sub(shift)
        }
    }

    /// How much faster than the local clock the device runs, parts of one; zero until it is known.
    pub fn drift(&self) -> f64 {
        -self.slope
    }

    /// Ends the open second: fits anew.
    fn close(&mut self) {
        let Some(&last) = self.buckets.back() else {
            return;
        };
        if self.slope.mul_add(-last.nominal, last.delay) - self.offset > JUMP {
            self.buckets.clear();
            self.buckets.push_back(last);
        }
        while self.buckets.len() > FIT_SPAN {
            self.buckets.pop_front();
        }
        if self.buckets.len() >= FIT_FROM {
            self.slope = slope(&self.buckets).clamp(-MAX_DRIFT, MAX_DRIFT);
        }
        self.offset = self
            .buckets
            .iter()
            .map(|bucket| self.slope.mul_add(-bucket.nominal, bucket.delay))
            .fold(f64::INFINITY, f64::min);
    }

    /// The capture time that a block gets, which is to follow one at `expected`, where `measured` is what the
    /// clock says: time never goes back, small differences are worked off, large ones jumped over.
    pub fn follow(expected: AudioTime, measured: AudioTime) -> AudioTime {
        let (expected, measured) = (expected.ticks(), measured.ticks());
        AudioTime::from_ticks(if measured > expected.saturating_add(STEP) {
            measured
        } else if measured > expected {
            expected + 1
        } else if measured < expected {
            expected - 1
        } else {
            expected
        })
    }
}

/// The least-squares slope of delay over nominal time.
fn slope(buckets: &VecDeque<Bucket>) -> f64 {
    let count = buckets.len() as f64;
    let (mut x, mut y) = (0.0, 0.0);
    for bucket in buckets {
        x += bucket.nominal / count;
        y += bucket.delay / count;
    }
    let (mut above, mut below) = (0.0, 0.0);
    for bucket in buckets {
        above += (bucket.nominal - x) * (bucket.delay - y);
        below += (bucket.nominal - x) * (bucket.nominal - x);
    }
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
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

    /// Callbacks of 480 samples from a device with this drift, up to 8 ms late each.
    fn run(clock: &mut SampleClock, start: Instant, blocks: std::ops::Range<u64>, drift: f64) {
        for block in blocks {
            let true_time = block as f64 * 0.010 / (1.0 + drift);
            // A cheap scramble: every value below 8 ms comes by.
            let late = (block.wrapping_mul(2_654_435_761) >> 7) % 8_000;
            let at = start + Duration::from_secs_f64(true_time) + Duration::from_micros(late);
            clock.observe(block * 480, at);
        }
    }

    #[test]
    fn drift_is_measured_through_jitter() {
        let start = Instant::now();
        for drift in [0.0, 150e-6, -300e-6] {
            let mut clock = SampleClock::new(48_000);
            run(&mut clock, start, 0..3_000, drift);
            assert!((clock.drift() - drift).abs() < 60e-6, "{}", clock.drift());
            let at = clock.moment(2_999 * 480).expect("observed");
            let truth = 2_999.0 * 0.010 / (1.0 + drift);
            let error = at.duration_since(start).as_secs_f64() - truth;
            assert!(error.abs() < 0.001, "{error} s off at {drift}");
        }
    }

    #[test]
    fn a_device_that_stood_still_is_followed() {
        let start = Instant::now();
        let mut clock = SampleClock::new(48_000);
        run(&mut clock, start, 0..1_200, 0.0);
        let pause = Duration::from_secs(3);
        run(&mut clock, start + pause, 1_200..1_600, 0.0);
        let at = clock.moment(1_600 * 480).expect("observed");
        let error = at.duration_since(start + pause).as_secs_f64() - 16.0;
        assert!(error.abs() < 0.002, "{error}");
    }

    #[test]
    fn nothing_is_known_before_the_first_sample() {
        let mut clock = SampleClock::new(44_100);
        assert_eq!(clock.moment(0), None);
        clock.observe(441, Instant::now());
        assert!(clock.moment(0).is_some());
        clock.restart();
        assert_eq!(clock.moment(0), None);
    }

    #[test]
    fn times_creep_but_never_go_back() {
        let time = AudioTime::from_ticks;
        assert_eq!(SampleClock::follow(time(480), time(480)), time(480));
        assert_eq!(SampleClock::follow(time(480), time(700)), time(481));
        assert_eq!(SampleClock::follow(time(480), time(0)), time(479));
        assert_eq!(SampleClock::follow(time(480), time(9_600)), time(9_600));
    }
}
