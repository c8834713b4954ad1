//! A flow that fills the queue beside us: when to suspect one, how to hold our own against it, and when to stop.
//! While it is there, delay says nothing; loss decides.

use std::collections::VecDeque;

use super::delay::percentile;

/// A queue above this for so long, though the rate has fallen to that share of what it was three seconds ago, is
/// not ours. ms.
const QUEUE_MS: f64 = 60.0;
const QUEUE_FOR_MS: f64 = 1_200.0;
const FALLEN: f64 = 0.9;
/// A queue below this in that share of the reports of so long: it is gone. ms.
const EMPTY_MS: f64 = 15.0;
const EMPTY_SHARE: f64 = 0.8;
const EMPTY_FOR_MS: f64 = 4_000.0;
/// No new test before so long after one, ms.
const TEST_PAUSE_MS: f64 = 3_000.0;
/// The rate never falls below this share of the 90th percentile of what arrived in the last 30 s.
const FLOOR_SHARE: f64 = 0.45;
const FLOOR_MS: f64 = 30_000.0;
/// What arrived is noted each so often, ms.
const NOTE_MS: f64 = 100.0;
/// A loss lowers the rate by this factor, at most once in two round trips: less than the other's 0.7, since the
/// growth below is slower than its own.
const DECREASE: f64 = 0.85;
/// Bits that one packet has; a TCP flow grows by one a round.
const PACKET_BITS: f64 = 1_200.0 * 8.0;
/// Growth at most, bits a second a second.
const GROWTH_MOST: f64 = 200_000.0;
/// Beside a flow that fills the queue what arrives stays near what is sent; below this share for so long (ms, more
/// with two round trips), the capacity has fallen instead.
const REFUTED_SHARE: f64 = 0.8;
const REFUTED_MS: f64 = 300.0;
const REFUTED_LEAST_MS: f64 = 600.0;
/// After that, no competition is believed in for so long, ms.
const REFUTED_PAUSE_MS: f64 = 10_000.0;

/// A cliff within so long after one that the path came back from, ms, is somebody's burst: what is measured while
/// another flow's packets fill the queue is not what the path carries.
const DOUBT_MS: f64 = 20_000.0;
/// It came back if so much of what was sent before the cliff arrives.
const BACK_SHARE: f64 = 0.7;

/// What competition goes by.
#[derive(Debug, Default)]
pub(super) struct Compete {
    /// Since when the queue has been long.
    queue_since: Option<f64>,
    /// Reports of the last seconds: when, and whether the queue was empty.
    reports: VecDeque<(f64, bool)>,
    entered: f64,
    /// What arrived, noted each [`NOTE_MS`].
    acked: VecDeque<(f64, f64)>,
    decreased: f64,
    refuted_since: Option<f64>,
    no_test_before: f64,
    forbidden_until: f64,
    /// The last cliff: when, and the rate before.
    cliff: Option<(f64, f64)>,
    /// When the path last carried what it had before a cliff.
    returned: Option<f64>,
}

/// What a step in competition is decided by. Rates in bits a second, times in ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// The present.
    pub(super) now: f64,
    /// The rate.
    pub(super) rate: f64,
    /// What was sent of late, the same or less.
    pub(super) sent: f64,
    /// What arrived, without random loss.
    pub(super) acked: f64,
    /// Round trip without the queue.
    pub(super) round_trip: f64,
    /// The queue.
    pub(super) queue: f64,
    /// This report told of more loss than chance.
    pub(super) lost: bool,
    /// Since the last report.
    pub(super) elapsed: f64,
}

/// What follows from a step in competition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// This rate.
    Rate(f64),
    /// The other flow is gone.
    Leave,
    /// There never was one: the capacity has fallen.
    Refuted,
}

impl Compete {
    /// A report came, whatever the mode.
    pub(super) fn on_report(&mut self, now: f64, queue: f64, acked: f64) {
        if queue > QUEUE_MS {
            self.queue_since.get_or_insert(now);
        } else {
            self.queue_since = None;
        }
        self.reports.push_back((now, queue < EMPTY_MS));
        while self
            .reports
            .front()
            .is_some_and(|(at, _)| *at < now - EMPTY_FOR_MS)
        {
            self.reports.pop_front();
        }
        if self.acked.back().is_none_or(|(at, _)| now - at >= NOTE_MS) {
            self.acked.push_back((now, acked));
        }
        while self
            .acked
            .front()
            .is_some_and(|(at, _)| *at < now - FLOOR_MS)
        {
            self.acked.pop_front();
        }
        if let Some((at, before)) = self.cliff
            && now - at < DOUBT_MS
            && acked >= BACK_SHARE * before
            && queue < QUEUE_MS
        {
            self.returned = Some(now);
        }
    }

    /// The capacity seems to have fallen from `before`. The least that is believed, bits a second: nothing, unless
    /// it seemed so not long ago, and was not.
    pub(super) fn on_cliff(&mut self, now: f64, before: f64) -> f64 {
        self.cliff = Some((now, before));
        // Doubted once: if the path stays slow, the next measurement is believed.
        let doubtful = self.returned.take().is_some_and(|at| now - at < DOUBT_MS);
        if doubtful { self.floor() } else { 0.0 }
    }

    /// The queue stands though our rate has fallen, just now or to less than our part of what the path carried of
    /// late: it is time to see whether it is ours.
    pub(super) fn test_due(&self, now: f64, rate: f64, rate_before: f64) -> bool {
        self.queue_since
            .is_some_and(|since| now - since >= QUEUE_FOR_MS)
            && (rate < FALLEN * rate_before || rate < self.floor())
            && now >= self.no_test_before
            && self.allowed(now)
    }

    /// A drain ended with an empty queue; it was a test, or a cliff explained the queue.
    pub(super) fn drained(&mut self, now: f64, test: bool) {
        if test {
            self.tested(now);
        }
        self.queue_since = None;
    }

    fn tested(&mut self, now: f64) {
        self.no_test_before = now + TEST_PAUSE_MS;
        self.queue_since = None;
    }

    /// Competition may be believed in.
    pub(super) fn allowed(&self, now: f64) -> bool {
        now >= self.forbidden_until
    }

    /// The rate to go on with beside a flow that fills the queue.
    pub(super) fn enter(&mut self, now: f64, rate_before: f64) -> f64 {
        self.entered = now;
        self.decreased = now;
        self.refuted_since = None;
        rate_before.max(self.floor())
    }

    /// One report in competition.
    pub(super) fn step(&mut self, around: Around) -> Step {
        let now = around.now;
        if self.empty(now) {
            self.tested(now);
            return Step::Leave;
        }
        if around.acked < REFUTED_SHARE * around.rate.min(around.sent) {
            let since = *self.refuted_since.get_or_insert(now);
            let patience = (2.0 * around.round_trip + REFUTED_MS).max(REFUTED_LEAST_MS);
            if now - since >= patience {
                self.forbidden_until = now + REFUTED_PAUSE_MS;
                self.tested(now);
                return Step::Refuted;
            }
        } else {
            self.refuted_since = None;
        }
        let mut rate = around.rate;
        if around.lost && now - self.decreased >= 2.0 * around.round_trip {
            self.decreased = now;
            rate *= DECREASE;
        }
        let round = (around.round_trip + around.queue) / 1_000.0;
        let growth = (PACKET_BITS / (round * round).max(1e-6)).min(GROWTH_MOST);
        rate += growth * around.elapsed / 1_000.0;
        Step::Rate(rate.max(self.floor()))
    }

    fn floor(&self) -> f64 {
        FLOOR_SHARE * percentile(self.acked.iter().map(|(_, acked)| *acked), 0.9).unwrap_or(0.0)
    }

    fn empty(&self, now: f64) -> bool {
        let count = self.reports.len();
        let empty = self.reports.iter().filter(|(_, empty)| *empty).count();
        now - self.entered >= EMPTY_FOR_MS && empty as f64 >= EMPTY_SHARE * count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(now: f64, rate: f64) -> Around {
        Around {
            now,
            rate,
            sent: rate,
            acked: rate,
            round_trip: 50.0,
            queue: 150.0,
            lost: false,
            elapsed: 20.0,
        }
    }

    #[test]
    fn a_queue_that_stays_is_suspect_if_we_gave_way() {
        let mut compete = Compete::default();
        for now in 0..80 {
            compete.on_report(20.0 * f64::from(now), 100.0, 1e6);
        }
        assert!(compete.test_due(1_600.0, 0.8e6, 1e6));
        assert!(!compete.test_due(1_600.0, 0.95e6, 1e6));
        let stuck = compete.test_due(1_600.0, 0.2e6, 0.2e6);
        assert!(stuck, "it fell before, and stayed low");
        compete.tested(1_600.0);
        assert!(!compete.test_due(1_700.0, 0.8e6, 1e6));
        compete.on_report(1_620.0, 10.0, 1e6);
        assert!(!compete.test_due(9_000.0, 0.8e6, 1e6));
    }

    #[test]
    fn it_grows_slowly_falls_at_loss_and_keeps_its_floor() {
        let mut compete = Compete::default();
        for now in 0..100 {
            compete.on_report(20.0 * f64::from(now), 150.0, 2e6);
        }
        let rate = compete.enter(2_000.0, 1e6);
        assert_eq!(rate, 1e6);
        let Step::Rate(grown) = compete.step(around(2_020.0, rate)) else {
            panic!("neither gone nor refuted");
        };
        assert!((grown - rate - 240_000.0f64.min(200_000.0) * 0.02).abs() < 1.0);
        let lost = Around {
            lost: true,
            ..around(2_200.0, 1.5e6)
        };
        let Step::Rate(fallen) = compete.step(lost) else {
            panic!("neither gone nor refuted");
        };
        assert!((1.27e6..1.28e6).contains(&fallen));
        let again = Around {
            now: 2_220.0,
            rate: 0.7e6,
            ..lost
        };
        assert_eq!(
            compete.step(again),
            Step::Rate(0.9e6),
            "0.45 of what arrived"
        );
    }

    #[test]
    fn a_cliff_after_one_that_was_none_is_doubted() {
        let mut compete = Compete::default();
        for now in 0..100 {
            compete.on_report(20.0 * f64::from(now), 5.0, 2e6);
        }
        assert_eq!(compete.on_cliff(2_000.0, 2e6), 0.0, "the first is believed");
        compete.on_report(2_100.0, 150.0, 0.4e6);
        assert_eq!(compete.on_cliff(2_200.0, 1e6), 0.0, "it has not come back");
        compete.on_report(3_000.0, 5.0, 1.9e6);
        let least = compete.on_cliff(3_100.0, 2e6);
        assert_eq!(least, 0.9e6, "0.45 of what arrived");
        assert_eq!(compete.on_cliff(3_500.0, 0.9e6), 0.0, "it stays slow");
        compete.on_report(4_000.0, 5.0, 1.9e6);
        assert_eq!(compete.on_cliff(40_000.0, 2e6), 0.0, "that was long ago");
    }

    #[test]
    fn it_leaves_when_the_queue_is_gone() {
        let mut compete = Compete::default();
        let mut now = 0.0;
        compete.enter(now, 1e6);
        let mut left = None;
        while now < 10_000.0 && left.is_none() {
            now += 20.0;
            let queue = if now < 2_000.0 { 150.0 } else { 5.0 };
            compete.on_report(now, queue, 1e6);
            if compete.step(around(now, 1e6)) == Step::Leave {
                left = Some(now);
            }
        }
        assert!(
            left.is_some_and(|left| (4_500.0..6_000.0).contains(&left)),
            "{left:?}"
        );
    }

    #[test]
    fn what_does_not_arrive_refutes_it() {
        let mut compete = Compete::default();
        compete.enter(0.0, 1e6);
        let mut now = 0.0;
        loop {
            now += 20.0;
            assert!(now < 1_000.0);
            compete.on_report(now, 200.0, 5e5);
            let starved = Around {
                acked: 5e5,
                ..around(now, 1e6)
            };
            if compete.step(starved) == Step::Refuted {
                break;
            }
        }
        assert!((600.0..700.0).contains(&now));
        assert!(!compete.allowed(now + 9_000.0) && compete.allowed(now + 10_000.0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut compete = Compete::default();
        for now in 0..10_000 {
            compete.on_report(20.0 * f64::from(now), 100.0, 1e6);
        }
        assert!(compete.acked.len() <= 301 && compete.reports.len() <= 202);
    }
}
