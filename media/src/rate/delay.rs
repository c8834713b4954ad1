//! The queue in milliseconds: one-way delay above the least seen, its low percentiles (the queue without jitter)
//! and its spread (the jitter). All windows end at the newest arrival known, not at the present: with a long way
//! back the present has seen nothing yet.

use std::collections::VecDeque;

/// The least delay is that of two buckets of this length, ms: a drift of 100 ppm adds a millisecond.
const BUCKET_MS: f64 = 5_000.0;
/// Beside a flow that fills the queue, buckets last longer: its queue must not become the base.
const BUCKET_LONG_MS: f64 = 30_000.0;
/// Window of the percentile that stands for the queue, ms.
const QUEUE_MS: f64 = 200.0;
/// Window of the least delay of late: two frames at 30 a second, ms.
const LOW_MS: f64 = 66.0;
/// The window that a rise is measured from begins and ends so long ago, ms.
const RISE_FROM_MS: f64 = 160.0;
const RISE_TO_MS: f64 = 80.0;
/// Window of the spread, ms: short, so that a queue that comes and goes is none. It is measured each so often, ms,
/// and of two seconds the median counts.
const SPREAD_MS: f64 = 200.0;
const SPREAD_EACH_MS: f64 = 100.0;
const SPREADS: usize = 20;
/// Packets are remembered for so long, ms.
const KEEP_MS: f64 = 500.0;
/// A queue that rises by more than this says nothing about jitter, ms.
const JITTER_RISE_MS: f64 = 15.0;
/// A delay that jumps by more than this is a clock that was set, ms.
const JUMP_MS: f64 = 5_000.0;
/// Packets remembered at most: half a second of 80 Mbit/s.
const MAX_SAMPLES: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Sample {
    arrival: f64,
    delay: f64,
}

/// One-way delays of late. The clocks' offset is unknown, and cancels.
#[derive(Debug, Default)]
pub(super) struct Delay {
    samples: VecDeque<Sample>,
    newest: f64,
    /// Least delay of the bucket before and of the present one.
    buckets: [Option<f64>; 2],
    bucket_began: f64,
    spreads: VecDeque<f64>,
    jitter: f64,
    jitter_at: f64,
}

/// The queue as it is seen now, ms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Queue {
    /// 10th percentile over 200 ms.
    pub(super) p10: f64,
    /// Least over two frames.
    pub(super) low: f64,
    /// How much the least has risen within about 100 ms.
    pub(super) rise: f64,
    /// p90 − p10 over 200 ms, median of two seconds.
    pub(super) jitter: f64,
}

impl Delay {
    /// A packet arrived; `competing` keeps the base for longer. `true` if the receiver's clock jumped, so that
    /// everything begins anew.
    pub(super) fn on_packet(&mut self, send: f64, arrival: f64, competing: bool) -> bool {
        let delay = arrival - send;
        let jumped = self
            .samples
            .back()
            .is_some_and(|last| (delay - last.delay).abs() > JUMP_MS);
        if jumped {
            *self = Self::default();
        }
        if self.samples.is_empty() {
            self.newest = arrival;
            self.bucket_began = arrival;
            self.jitter_at = arrival;
        }
        self.newest = self.newest.max(arrival);
        let bucket = if competing { BUCKET_LONG_MS } else { BUCKET_MS };
        if self.newest - self.bucket_began > bucket {
            self.buckets = [self.buckets[1], None];
            self.bucket_began = self.newest;
        }
        self.buckets[1] = Some(self.buckets[1].map_or(delay, |least| least.min(delay)));
        self.samples.push_back(Sample { arrival, delay });
        while self.samples.len() > MAX_SAMPLES
            || self
                .samples
                .front()
                .is_some_and(|oldest| oldest.arrival < self.newest - KEEP_MS)
        {
            self.samples.pop_front();
        }
        jumped
    }

    /// The queue as it is seen now.
    pub(super) fn queue(&mut self) -> Queue {
        let Some(base) = self.base() else {
            return Queue::default();
        };
        let p10 = percentile(self.window(QUEUE_MS, 0.0), 0.1).map_or(0.0, |delay| delay - base);
        let least = |from, to| self.window(from, to).min_by(f64::total_cmp);
        let low = least(LOW_MS, 0.0).map_or(0.0, |delay| delay - base);
        let rise = least(RISE_FROM_MS, RISE_TO_MS).map_or(0.0, |delay| low - (delay - base));
        if self.newest - self.jitter_at >= SPREAD_EACH_MS && rise < JITTER_RISE_MS {
            self.jitter_at = self.newest;
            self.spreads.push_back(self.spread());
            if self.spreads.len() > SPREADS {
                self.spreads.pop_front();
            }
            self.jitter = percentile(self.spreads.iter().copied(), 0.5).unwrap_or(0.0);
        }
        Queue {
            p10,
            low,
            rise,
            jitter: self.jitter,
        }
    }

    /// The queue that the newest packet found, with its jitter; 0 before the first.
    pub(super) fn latest(&self) -> f64 {
        let newest = self.samples.back().map(|sample| sample.delay);
        newest
            .zip(self.base())
            .map_or(0.0, |(delay, base)| delay - base)
    }

    fn base(&self) -> Option<f64> {
        self.buckets
            .iter()
            .flatten()
            .copied()
            .min_by(f64::total_cmp)
    }

    /// Delays of what arrived between `from` and `to` ms before the newest.
    fn window(&self, from: f64, to: f64) -> impl Iterator<Item = f64> {
        let (from, to) = (self.newest - from, self.newest - to);
        // Arrivals are nearly in order; the slack finds those that were overtaken.
        self.samples
            .iter()
            .rev()
            .take_while(move |sample| sample.arrival > from - 100.0)
            .filter(move |sample| sample.arrival > from && sample.arrival <= to)
            .map(|sample| sample.delay)
    }

    fn spread(&self) -> f64 {
        let mut delays: Vec<f64> = self.window(SPREAD_MS, 0.0).collect();
        delays.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied();
        match (at(0.1), at(0.9)) {
            (Some(low), Some(high)) => high - low,
            _ => 0.0,
        }
    }
}

/// The value below which `share` of `values` lie.
pub(super) fn percentile(values: impl Iterator<Item = f64>, share: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    let index = ((values.len() as f64 * share) as usize).min(values.len().checked_sub(1)?);
    let (_, value, _) = values.select_nth_unstable_by(index, f64::total_cmp);
    Some(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet each 10 ms from `start` for `count`, with this delay.
    fn feed(delay: &mut Delay, start: usize, count: usize, of: impl Fn(usize) -> f64) {
        for index in start..start + count {
            let send = 10.0 * index as f64;
            delay.on_packet(send, send + 1_000_000.0 + of(index), false);
        }
    }

    #[test]
    fn the_offset_of_the_clocks_cancels() {
        let mut delay = Delay::default();
        feed(&mut delay, 0, 100, |_| 25.0);
        assert_eq!(delay.queue().p10, 0.0);
        feed(&mut delay, 100, 50, |_| 65.0);
        let queue = delay.queue();
        assert_eq!((queue.p10, queue.low), (40.0, 40.0));
    }

    #[test]
    fn jitter_is_no_queue() {
        let mut delay = Delay::default();
        feed(&mut delay, 0, 300, |index| (index * 7 % 31) as f64);
        let queue = delay.queue();
        assert!(queue.p10 < 6.0 && queue.low < 10.0, "{queue:?}");
        assert!((20.0..30.0).contains(&queue.jitter), "{queue:?}");
    }

    #[test]
    fn a_rise_is_seen_and_spoils_no_jitter() {
        let mut delay = Delay::default();
        feed(&mut delay, 0, 300, |_| 20.0);
        assert_eq!(delay.queue().rise, 0.0);
        feed(&mut delay, 300, 12, |index| {
            20.0 + 8.0 * (index - 299) as f64
        });
        let queue = delay.queue();
        assert!(queue.rise >= 40.0, "{queue:?}");
        assert_eq!(queue.jitter, 0.0);
    }

    #[test]
    fn the_base_follows_a_longer_path_within_two_buckets() {
        let mut delay = Delay::default();
        feed(&mut delay, 0, 100, |_| 20.0);
        feed(&mut delay, 100, 400, |_| 50.0);
        assert_eq!(delay.queue().p10, 30.0);
        feed(&mut delay, 500, 700, |_| 50.0);
        assert_eq!(delay.queue().p10, 0.0);
    }

    #[test]
    fn a_clock_that_was_set_begins_anew() {
        let mut delay = Delay::default();
        feed(&mut delay, 0, 100, |_| 20.0);
        assert!(delay.on_packet(1_000.0, 1_010_000.0, false));
        assert_eq!(delay.queue().p10, 0.0);
    }

    #[test]
    fn percentiles_of_little_or_nothing() {
        assert_eq!(percentile([].into_iter(), 0.5), None);
        assert_eq!(percentile([3.0].into_iter(), 0.9), Some(3.0));
        assert_eq!(percentile([3.0, 1.0].into_iter(), 0.1), Some(1.0));
    }
}
