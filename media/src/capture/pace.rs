//! The beat of sources that are no devices.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::BLOCK_TIME;

/// One picture's or block's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which, from 0.
    pub(crate) index: u64,
    /// When it was due.
    pub(crate) due: Instant,
    /// How many before it were due and left out, since nobody asked for them in time.
    pub(crate) missed: u64,
}

/// Beats on the monotonic clock, from the first question on. Who comes late by up to `patience` beats gets them
/// one after the other; beyond, they are missed.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: f64,
    start: Option<Instant>,
    next: u64,
    patience: u64,
}

impl Pace {
    /// For pictures, of which only the newest counts.
    pub(crate) fn new(per_second: f32) -> Self {
        Self {
            rate: f64::from(per_second.clamp(0.1, 1_000.0)),
            start: None,
            next: 0,
            patience: 0,
        }
    }

    /// For blocks of sound: 200 ms of them wait, as in a device's ring.
    pub(crate) fn of_sound() -> Self {
        Self {
            rate: 1.0 / BLOCK_TIME.as_secs_f64(),
            start: None,
            next: 0,
            patience: 20,
        }
    }

    /// For a sink of sound: as much as a sound server buffers, 40 ms.
    pub(crate) fn of_playback() -> Self {
        Self {
            patience: 4,
            ..Self::of_sound()
        }
    }

    /// Beats a second.
    pub(crate) fn rate(&self) -> f32 {
        self.rate as f32
    }

    /// Waits for the next beat, `timeout` at most.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<Turn> {
        let now = Instant::now();
        let due = self.due(now)?;
        let left = due.saturating_duration_since(now);
        if left > timeout {
            thread::sleep(timeout);
            return None;
        }
        if !left.is_zero() {
            thread::sleep(left);
        }
        self.take(now.max(due))
    }

    /// When the next beat is due.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        let start = *self.start.get_or_insert(now);
        start.checked_add(Duration::try_from_secs_f64(self.next as f64 / self.rate).ok()?)
    }

    /// Takes the turn that is due at `now`, if any.
    fn take(&mut self, now: Instant) -> Option<Turn> {
        let mut due = self.due(now)?;
        let late = now.checked_duration_since(due)?;
        let behind = (late.as_secs_f64() * self.rate) as u64;
        let missed = if behind > self.patience { behind } else { 0 };
        if missed > 0 {
            self.next += missed;
            due = self.due(now)?;
        }
        let index = self.next;
        self.next += 1;
        Some(Turn { index, due, missed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_come_when_they_are_due() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(100.0);
        let mut take = |millis| {
            pace.take(after(millis))
                .map(|turn| (turn.index, turn.due, turn.missed))
        };
        assert_eq!(take(0), Some((0, after(0), 0)));
        assert_eq!(take(9), None);
        assert_eq!(take(15), Some((1, after(10), 0)));
        // Two and a half beats late: the newest counts.
        assert_eq!(take(45), Some((4, after(40), 2)));
        assert_eq!(take(45), None);
    }

    #[test]
    fn sound_is_patient() {
        let start = Instant::now();
        let mut pace = Pace::of_sound();
        let mut take = |millis| {
            pace.take(start + Duration::from_millis(millis))
                .map(|turn| (turn.index, turn.missed))
        };
        assert_eq!(take(0), Some((0, 0)));
        // 190 ms late: all come.
        for index in 1..=20 {
            assert_eq!(take(200), Some((index, 0)));
        }
        assert_eq!(take(200), None);
        assert_eq!(take(1_000), Some((100, 79)));
    }

    #[test]
    fn nobody_waits_longer_than_asked() {
        let mut pace = Pace::new(1.0);
        assert!(pace.wait(Duration::ZERO).is_some());
        assert!(pace.wait(Duration::from_millis(1)).is_none());
    }
}
