//! When reports go: with sound, alone, or at once, and never more than a small part of the estimate.

use std::time::{Duration, Instant};

use crate::packet::WIRE_OVERHEAD_BYTES;

/// Of the estimate, what regular reports may take before they become rarer, parts of a thousand; what they
/// leave of [`SHARE_MILLI`] is for those that go at once.
const REGULAR_SHARE_MILLI: u64 = 25;
/// Of the estimate, what all reports may take, parts of a thousand.
const SHARE_MILLI: u64 = 30;
/// The estimate where none is known, bits a second: that of a call's first second.
const ESTIMATE_GUESS: u64 = 600_000;
/// From one report to the next, ms: the first that is within the share.
const GAPS_MILLIS: [u64; 5] = [10, 20, 40, 60, 80];
/// Without sound a report goes after half a round trip, within these, ms.
const ALONE_MILLIS: (u64, u64) = (20, 50);
/// Sound comes not quite regularly: this much too early counts as in time, and this much too late is awaited
/// before a report goes alone.
const EARLY: Duration = Duration::from_millis(2);
const SOUND_LATE: Duration = Duration::from_millis(5);
/// No two reports are closer to each other, even if they are urgent.
const APART: Duration = Duration::from_millis(5);
/// With nothing new to say, what may not have arrived is said again at this interval.
const AGAIN: Duration = Duration::from_millis(100);
/// Credit for urgent reports is saved up for no longer than this, ms.
const CREDIT_MILLIS: u64 = 200;
/// What can always be saved up, bytes: two urgent reports, however low the estimate.
const CREDIT_MIN_BYTES: u64 = 400;
/// No deeper in debt than this, bytes: where even the rarest regular reports take more than the share.
const DEBT_MAX_BYTES: i64 = 1_000;
/// The length of a report before there was one, bytes.
const LEN_GUESS: usize = 60;

#[derive(Debug)]
pub(super) struct Schedule {
    round_trip: Option<Duration>,
    estimate: u64,
    last: Option<Last>,
    /// Since the last report something has come.
    news: bool,
    /// The last report asked for something.
    requests: bool,
    urgent_at: Option<Instant>,
    /// Mean length of regular reports, bytes.
    len: usize,
    /// For urgent reports, bytes, at the moment of the last report; regular ones may overdraw it.
    credit: i64,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    with_audio: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            round_trip: None,
            estimate: ESTIMATE_GUESS,
            last: None,
            news: false,
            requests: false,
            urgent_at: None,
            len: LEN_GUESS,
            credit: CREDIT_MIN_BYTES as i64,
        }
    }
}

impl Schedule {
    pub(super) const fn set_path(&mut self, round_trip: Option<Duration>, estimate: u64) {
        self.round_trip = round_trip;
        self.estimate = if estimate == 0 {
            ESTIMATE_GUESS
        } else {
            estimate
        };
    }

    /// A packet has come; the first one is reported at once, so that the sender learns the round trip.
    pub(super) const fn on_news(&mut self, now: Instant) {
        self.news = true;
        if self.last.is_none() {
            self.on_urgent(now);
        }
    }

    pub(super) const fn on_urgent(&mut self, now: Instant) {
        if self.urgent_at.is_none() {
            self.urgent_at = Some(now);
        }
    }

    /// When a report is due. `hole_at` is when a hole becomes urgent; `unacknowledged`: the sender may not know
    /// all that was said.
    pub(super) fn due(
        &self,
        with_audio: bool,
        hole_at: Option<Instant>,
        unacknowledged: bool,
    ) -> Option<Instant> {
        let urgent = match (self.urgent_at, hole_at) {
            (Some(this), Some(that)) => Some(this.min(that)),
            (this, that) => this.or(that),
        };
        let Some(last) = self.last else {
            return urgent;
        };
        let urgent = urgent.map(|at| at.max(last.at + APART).max(self.affordable_at(last)));
        let interval = if with_audio {
            self.gap(0).saturating_sub(EARLY)
        } else {
            self.alone(last)
        };
        let regular = if self.news || self.requests {
            Some(last.at + interval)
        } else if unacknowledged {
            Some(last.at + interval.max(AGAIN))
        } else {
            None
        };
        match (urgent, regular) {
            (Some(urgent), Some(regular)) => Some(urgent.min(regular)),
            (urgent, regular) => urgent.or(regular),
        }
    }

    /// A report of `len` bytes goes now; true if it goes only because it is urgent.
    pub(super) fn on_report(
        &mut self,
        now: Instant,
        with_audio: bool,
        len: usize,
        requests: bool,
        hole: bool,
    ) -> bool {
        let extra = if with_audio { 0 } else { WIRE_OVERHEAD_BYTES };
        let early = self.last.is_some_and(|last| {
            let interval = if with_audio {
                self.gap(0).saturating_sub(EARLY)
            } else {
                self.alone(last)
            };
            now < last.at + interval
        });
        let urgent = early && (hole || self.urgent_at.is_some());
        if let Some(last) = self.last {
            self.credit = self.credit_at(last, now);
        }
        self.credit = (self.credit - (len + extra) as i64).max(-DEBT_MAX_BYTES);
        if !urgent {
            self.len = (self.len * 7 + len) / 8;
        }
        self.last = Some(Last {
            at: now,
            // A report between two that go with sound does not mean that sound has ended.
            with_audio: with_audio || (urgent && self.last.is_some_and(|last| last.with_audio)),
        });
        (self.news, self.requests, self.urgent_at) = (false, requests, None);
        urgent
    }

    /// The smallest interval that regular reports, each with `extra` bytes around it, may have.
    fn gap(&self, extra: usize) -> Duration {
        let bits = (self.len + extra) as u64 * 8;
        // bits / gap <= share * estimate
        let fits = |millis: &u64| {
            bits.saturating_mul(1_000_000)
                <= millis.saturating_mul(self.estimate.saturating_mul(REGULAR_SHARE_MILLI))
        };
        let millis = GAPS_MILLIS.into_iter().find(fits);
        Duration::from_millis(millis.unwrap_or(GAPS_MILLIS[GAPS_MILLIS.len() - 1]))
    }

    /// How long after the last one a report goes alone.
    fn alone(&self, last: Last) -> Duration {
        let (least, most) = ALONE_MILLIS;
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        let half = self
            .round_trip
            .map_or(most, |round_trip| (round_trip / 2).clamp(least, most));
        if last.with_audio {
            half.max(self.gap(0)) + SOUND_LATE
        } else {
            half.max(self.gap(WIRE_OVERHEAD_BYTES))
        }
    }

    /// What may be spent on an urgent report at `now`, bytes.
    fn credit_at(&self, last: Last, now: Instant) -> i64 {
        let micros = now.saturating_duration_since(last.at).as_micros();
        let most = (CREDIT_MILLIS * self.share_bytes_per_sec() / 1_000).max(CREDIT_MIN_BYTES);
        let earned = u128::from(self.share_bytes_per_sec()) * micros / 1_000_000;
        self.credit
            .saturating_add(i64::try_from(earned).unwrap_or(i64::MAX))
            .min(most as i64)
    }

    /// When an urgent report of its own can be paid for.
    fn affordable_at(&self, last: Last) -> Instant {
        let price = (self.len + WIRE_OVERHEAD_BYTES) as i64;
        let missing = u64::try_from(price - self.credit).unwrap_or(0);
        let micros = (missing * 1_000_000).div_ceil(self.share_bytes_per_sec());
        last.at + Duration::from_micros(micros)
    }

    fn share_bytes_per_sec(&self) -> u64 {
        // Never 0, and never so much that a product of it overflows.
        (self.estimate.min(1 << 40) * SHARE_MILLI / 8_000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports go for a second with sound each `sound` ms; how many bytes they take, and how many they are.
    fn second(schedule: &mut Schedule, start: Instant, sound: u64, len: usize) -> (usize, u32) {
        let (mut bytes, mut count) = (0, 0);
        for milli in 0..1_000u64 {
            let now = start + Duration::from_millis(milli);
            schedule.on_news(now);
            let with_audio = sound > 0 && milli % sound == 0;
            if schedule
                .due(with_audio, None, true)
                .is_some_and(|due| due <= now)
            {
                schedule.on_report(now, with_audio, len, false, false);
                bytes += len + if with_audio { 0 } else { WIRE_OVERHEAD_BYTES };
                count += 1;
            }
        }
        (bytes, count)
    }

    #[test]
    fn reports_go_with_sound_and_grow_rare_on_slow_links() {
        for (estimate, sound, most, least) in [
            (2_500_000, 10, 100, 98),
            (2_500_000, 20, 51, 49),
            (600_000, 20, 26, 24),
            (300_000, 20, 17, 12),
            (100_000, 40, 13, 12),
            // Without sound half a round trip apart.
            (2_500_000, 0, 41, 39),
        ] {
            let mut schedule = Schedule::default();
            schedule.set_path(Some(Duration::from_millis(50)), estimate);
            let (bytes, count) = second(&mut schedule, Instant::now(), sound, 50);
            assert!(
                (least..=most).contains(&count),
                "{count} at {estimate} with {sound} ms"
            );
            if estimate > 200_000 {
                assert!(bytes as u64 * 8 <= estimate * 30 / 1_000, "{bytes}");
            }
        }
    }

    #[test]
    fn holes_are_reported_at_once_while_it_can_be_paid() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set_path(Some(Duration::from_millis(50)), 600_000);
        schedule.on_news(start);
        assert_eq!(schedule.due(false, None, true), Some(start));
        assert!(!schedule.on_report(start, false, 60, false, false));
        // A hole a millisecond later waits for the smallest distance only.
        let hole = start + Duration::from_millis(1);
        assert_eq!(schedule.due(false, Some(hole), true), Some(start + APART));
        // Without an end they are paid from 3 % of 600 kbit/s: 2,250 bytes a second.
        let (mut now, mut bytes) = (start, 0);
        while now < start + Duration::from_secs(10) {
            schedule.on_news(now);
            now = schedule.due(false, Some(now), true).expect("always due");
            schedule.on_report(now, false, 60, false, true);
            bytes += 118;
        }
        assert!((20_000..24_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn nothing_new_is_not_repeated_for_ever() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set_path(None, 2_500_000);
        schedule.on_news(start);
        schedule.on_report(start, false, 60, false, false);
        assert_eq!(schedule.due(false, None, true), Some(start + AGAIN));
        assert_eq!(schedule.due(false, None, false), None);
        // A request goes on until it is taken back.
        schedule.on_report(start, false, 60, true, false);
        assert_eq!(
            schedule.due(false, None, false),
            Some(start + Duration::from_millis(50))
        );
    }
}
