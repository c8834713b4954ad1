//! What the numbers are made with.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{LimitDurations, Percentiles};

/// Values that [`Window`] keeps: the newest ones, 20 s of pictures.
const WINDOW_VALUES: usize = 600;

/// The newest values of a quantity, of which percentiles are wanted.
#[derive(Debug, Clone, Default)]
pub struct Window {
    values: VecDeque<f64>,
}

impl Window {
    /// Adds a value; the oldest makes room.
    pub fn add(&mut self, value: f64) {
        if self.values.len() == WINDOW_VALUES {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Adds a length of time, in ms.
    pub fn add_duration(&mut self, value: Duration) {
        self.add(value.as_secs_f64() * 1e3);
    }

    /// What they are like; zeros without any.
    pub fn percentiles(&self) -> Percentiles {
        let mut sorted: Vec<f64> = self.values.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Percentiles {
            p50: quantile(&sorted, 0.50),
            p95: quantile(&sorted, 0.95),
            max: sorted.last().copied().unwrap_or_default(),
        }
    }
}

/// The value below which `share` of the sorted ones lie (nearest rank); 0 without any.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Gaps between shown pictures: how many the mean of webrtc-stats' freeze rule is over.
const FREEZE_MEAN_FRAMES: usize = 30;
/// A gap counts as a freeze if it is longer than the mean gap by this (webrtc-stats, `freezeCount`) …
const FREEZE_MARGIN: Duration = Duration::from_millis(150);
/// … and a gap counts into the stall time if longer than this (our targets' definition).
const STALL_GAP: Duration = Duration::from_millis(200);

/// … and one of more than this is a pause (webrtc-stats, `pauseCount`).
const PAUSE_GAP: Duration = Duration::from_secs(5);

/// Finds freezes from the moments at which pictures are shown.
#[derive(Debug, Clone, Default)]
pub struct FreezeMeter {
    last: Option<Instant>,
    gaps: VecDeque<Duration>,
    /// Freezes so far.
    pub count: u64,
    /// Their whole length.
    pub total: Duration,
    /// Sum of the gaps over 200 ms.
    pub stall: Duration,
    /// Gaps over five seconds.
    pub pauses: u64,
    /// Their whole length.
    pub paused: Duration,
    /// All gaps, seconds, and their squares.
    pub gap_seconds: f64,
    /// See `gap_seconds`.
    pub gap_seconds_squared: f64,
}

impl FreezeMeter {
    /// A picture was shown. Returns the gap if it was a freeze.
    pub fn on_shown(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.last.replace(now)?);
        let frozen = self.gaps.len() == FREEZE_MEAN_FRAMES && {
            let mean = self.gaps.iter().sum::<Duration>() / FREEZE_MEAN_FRAMES as u32;
            gap >= (3 * mean).max(mean + FREEZE_MARGIN)
        };
        if self.gaps.len() == FREEZE_MEAN_FRAMES {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
        if gap > STALL_GAP {
            self.stall += gap;
        }
        if gap > PAUSE_GAP {
            self.pauses += 1;
            self.paused += gap;
        }
        self.gap_seconds += gap.as_secs_f64();
        self.gap_seconds_squared += gap.as_secs_f64() * gap.as_secs_f64();
        if frozen {
            self.count += 1;
            self.total += gap;
        }
        frozen.then_some(gap)
    }

    /// Pictures pause on purpose (hold, camera off): the gap to the next one does not count.
    pub fn pause(&mut self) {
        self.last = None;
    }

    /// When the last one was shown, unless paused since.
    pub fn last_shown(&self) -> Option<Instant> {
        self.last
    }
}

/// Bytes over the last second.
#[derive(Debug, Clone, Default)]
pub struct RateMeter {
    samples: VecDeque<(Instant, u32)>,
    bytes: u64,
}

impl RateMeter {
    const SPAN: Duration = Duration::from_secs(1);
    /// More samples than this are merged into the newest one.
    const MAX_SAMPLES: usize = 4_096;

    /// Counts bytes.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        self.forget(now);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes += u64::from(bytes);
        let full = self.samples.len() >= Self::MAX_SAMPLES;
        match self.samples.back_mut() {
            Some(last) if full => last.1 = last.1.saturating_add(bytes),
            _ => self.samples.push_back((now, bytes)),
        }
    }

    /// Bits a second.
    pub fn bits_per_sec(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.bytes * 8
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(at, bytes)) = self.samples.front() {
            if now.saturating_duration_since(at) < Self::SPAN {
                break;
            }
            self.bytes = self.bytes.saturating_sub(u64::from(bytes));
            self.samples.pop_front();
        }
    }
}

/// Why pictures that go out are not better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// They are as good as their source and the settings allow.
    None,
    /// The path carries no more.
    Bandwidth,
    /// A processor cannot keep up.
    Cpu,
    /// There are none.
    #[default]
    Off,
}

/// For how long each limit held.
#[derive(Debug, Clone, Copy, Default)]
pub struct LimitMeter {
    now: Limit,
    since: Option<Instant>,
    sums: [Duration; 4],
}

impl LimitMeter {
    /// This limits pictures from now on.
    pub fn set(&mut self, now: Instant, limit: Limit) {
        if let Some(since) = self.since.replace(now) {
            self.sums[self.now as usize] += now.saturating_duration_since(since);
        }
        self.now = limit;
    }

    /// What limits them now.
    pub const fn limit(&self) -> Limit {
        self.now
    }

    /// For how long each did, until now.
    pub fn durations(&self, now: Instant) -> LimitDurations {
        let mut all = *self;
        if all.since.is_some() {
            all.set(now, self.now);
        }
        let millis =
            |limit: Limit| u64::try_from(all.sums[limit as usize].as_millis()).unwrap_or(u64::MAX);
        LimitDurations {
            none: millis(Limit::None),
            bandwidth: millis(Limit::Bandwidth),
            cpu: millis(Limit::Cpu),
            off: millis(Limit::Off),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freezes_are_counted_as_the_standard_says() {
        let start = Instant::now();
        let mut meter = FreezeMeter::default();
        let mut now = start;
        for _ in 0..40 {
            now += Duration::from_millis(33);
            assert_eq!(meter.on_shown(now), None);
        }
        // 182 ms is within mean + 150 ms, 190 ms is not (the mean has risen by a few ms).
        now += Duration::from_millis(182);
        assert_eq!(meter.on_shown(now), None);
        now += Duration::from_millis(190);
        assert_eq!(meter.on_shown(now), Some(Duration::from_millis(190)));
        now += Duration::from_millis(210);
        assert!(meter.on_shown(now).is_some());
        assert_eq!((meter.count, meter.stall.as_millis()), (2, 210));
        // A pause is no freeze.
        meter.pause();
        assert_eq!(meter.on_shown(now + Duration::from_secs(9)), None);
        assert_eq!(meter.count, 2);
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.95), 95.0);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let start = Instant::now();
        let mut meter = RateMeter::default();
        for i in 0..200 {
            meter.add(start + Duration::from_millis(10 * i), 1_250);
        }
        assert_eq!(
            meter.bits_per_sec(start + Duration::from_millis(1_990)),
            1_000_000
        );
        assert_eq!(meter.bits_per_sec(start + Duration::from_secs(5)), 0);
    }

    #[test]
    fn limits_are_counted_by_their_reason() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = LimitMeter::default();
        assert_eq!(meter.durations(at(9)), LimitDurations::default());
        meter.set(at(10), Limit::Bandwidth);
        meter.set(at(12), Limit::Bandwidth);
        meter.set(at(13), Limit::None);
        let sums = meter.durations(at(20));
        assert_eq!((sums.bandwidth, sums.none, sums.off), (3_000, 7_000, 0));
        assert_eq!(
            meter.durations(at(21)).none,
            8_000,
            "asking changes nothing"
        );
        assert_eq!(meter.limit(), Limit::None);
    }

    #[test]
    fn long_gaps_are_pauses_and_all_are_summed_up() {
        let start = Instant::now();
        let mut meter = FreezeMeter::default();
        for millis in [0, 500, 6_500] {
            meter.on_shown(start + Duration::from_millis(millis));
        }
        assert_eq!((meter.pauses, meter.paused.as_secs()), (1, 6));
        assert_eq!(meter.gap_seconds, 6.5);
        assert_eq!(meter.gap_seconds_squared, 36.25);
    }
}
