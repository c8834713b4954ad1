//! Does the queue grow? A line through the smoothed delays of the last groups, against a threshold that adapts
//! to what the path does anyway (Carlucci et al., "Analysis and design of the Google congestion control for
//! WebRTC", 2016, with a line instead of the Kalman filter).

use std::collections::VecDeque;

use super::arrival::Delta;

/// Groups that the line goes through.
const GROUPS: usize = 20;
/// Groups that are needed after a reset.
const GROUPS_LEAST: usize = 10;
/// Groups older than this are left out, ms.
const WINDOW_MS: f64 = 400.0;
/// Share of the old value in the smoothed delay.
const SMOOTHING: f64 = 0.9;
/// Makes the slope comparable with the threshold, which is in ms.
const GAIN: f64 = 4.0;
/// The slope counts more as more groups were seen, up to this many.
const COUNT_MOST: u32 = 60;
/// The threshold at the start and its bounds, ms.
const THRESHOLD: f64 = 12.5;
const THRESHOLD_LEAST: f64 = 6.0;
const THRESHOLD_MOST: f64 = 600.0;
/// How fast the threshold rises towards larger values and falls towards smaller ones, per ms.
const RISE: f64 = 0.0087;
const FALL: f64 = 0.039;
/// What exceeds the threshold by more is an event, and no reason to adapt, ms.
const ADAPT_WITHIN: f64 = 15.0;
/// Time between two groups that counts for adaptation at most, ms.
const STEP_MOST_MS: f64 = 100.0;
/// The value must be above the threshold for this long, ms, and for this many groups.
const OVERUSE_MS: f64 = 10.0;
const OVERUSE_GROUPS: u32 = 2;

/// What the queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Usage {
    /// Nothing.
    #[default]
    Normal,
    /// It grows.
    Over,
    /// It shrinks.
    Under,
}

/// The line and the threshold.
#[derive(Debug)]
pub(super) struct Trend {
    points: VecDeque<(f64, f64)>,
    sum: f64,
    smooth: f64,
    count: u32,
    threshold: f64,
    last_arrival: Option<f64>,
    last_slope: f64,
    over_ms: f64,
    over_groups: u32,
    usage: Usage,
}

impl Default for Trend {
    fn default() -> Self {
        Self {
            points: VecDeque::with_capacity(GROUPS + 1),
            sum: 0.0,
            smooth: 0.0,
            count: 0,
            threshold: THRESHOLD,
            last_arrival: None,
            last_slope: 0.0,
            over_ms: 0.0,
            over_groups: 0,
            usage: Usage::Normal,
        }
    }
}

impl Trend {
    /// A group was closed.
    pub(super) fn on_delta(&mut self, delta: Delta) {
        self.count = self.count.saturating_add(1);
        self.sum += delta.ms;
        self.smooth = SMOOTHING * self.smooth + (1.0 - SMOOTHING) * self.sum;
        self.points.push_back((delta.arrival, self.smooth));
        while self.points.len() > GROUPS
            || self
                .points
                .front()
                .is_some_and(|(arrival, _)| *arrival < delta.arrival - WINDOW_MS)
        {
            self.points.pop_front();
        }
        let slope = if self.points.len() >= GROUPS_LEAST {
            slope(&self.points)
        } else {
            0.0
        };
        self.judge(slope, delta.arrival);
    }

    /// What the queue does.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// The overuse was acted upon; a new one must be seen anew.
    pub(super) fn acted(&mut self) {
        self.usage = Usage::Normal;
        self.over_ms = 0.0;
        self.over_groups = 0;
    }

    fn judge(&mut self, slope: f64, arrival: f64) {
        let elapsed = self
            .last_arrival
            .map_or(0.0, |last| (arrival - last).clamp(0.0, STEP_MOST_MS));
        self.last_arrival = Some(arrival);
        let value = f64::from(self.count.min(COUNT_MOST)) * slope * GAIN;
        if value > self.threshold {
            self.over_ms += elapsed;
            self.over_groups += 1;
            let long = self.over_ms > OVERUSE_MS && self.over_groups >= OVERUSE_GROUPS;
            if long && slope >= self.last_slope {
                self.acted();
                self.usage = Usage::Over;
            }
        } else {
            self.acted();
            if value < -self.threshold {
                self.usage = Usage::Under;
            }
        }
        self.last_slope = slope;
        self.adapt(value.abs(), elapsed);
    }

    fn adapt(&mut self, value: f64, elapsed: f64) {
        if value > self.threshold + ADAPT_WITHIN {
            return;
        }
        let speed = if value < self.threshold { FALL } else { RISE };
        let threshold = self.threshold + speed * (value - self.threshold) * elapsed;
        self.threshold = threshold.clamp(THRESHOLD_LEAST, THRESHOLD_MOST);
    }
}

/// Least squares.
fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in points {
        above += (x - mean_x) * (y - mean_y);
        below += (x - mean_x) * (x - mean_x);
    }
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trend: &mut Trend, groups: usize, start: f64, ms: impl Fn(usize) -> f64) -> Vec<Usage> {
        (0..groups)
            .map(|index| {
                trend.on_delta(Delta {
                    ms: ms(index),
                    arrival: start + 10.0 * index as f64,
                });
                trend.usage()
            })
            .collect()
    }

    #[test]
    fn a_growing_queue_is_overuse_and_a_shrinking_one_underuse() {
        let mut trend = Trend::default();
        let seen = run(&mut trend, 40, 0.0, |_| 1.5);
        let first = seen.iter().position(|usage| *usage == Usage::Over);
        assert!(first.is_some_and(|first| first <= 25), "{first:?}");
        let seen = run(&mut trend, 60, 400.0, |_| -1.5);
        assert!(seen.contains(&Usage::Under));
    }

    #[test]
    fn steady_and_noisy_delays_are_normal() {
        let mut trend = Trend::default();
        let seen = run(&mut trend, 500, 0.0, |index| {
            if index % 2 == 0 { 4.0 } else { -4.0 }
        });
        assert!(seen.iter().all(|usage| *usage == Usage::Normal));
    }

    #[test]
    fn one_step_of_delay_is_soon_forgiven() {
        let mut trend = Trend::default();
        run(&mut trend, 60, 0.0, |_| 0.0);
        let seen = run(
            &mut trend,
            200,
            600.0,
            |index| {
                if index == 0 { 30.0 } else { 0.0 }
            },
        );
        assert!(seen[100..].iter().all(|usage| *usage == Usage::Normal));
    }

    #[test]
    fn the_same_arrival_twice_is_no_slope() {
        let points = VecDeque::from([(1.0, 1.0), (1.0, 5.0)]);
        assert_eq!(slope(&points), 0.0);
    }
}
