//! Virtual time: one base instant, then only additions. Nothing waits.

use std::time::{Duration, Instant};

/// The clock of one simulation; it moves when told to.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Instant,
    elapsed: Duration,
}

impl Clock {
    /// A clock at its beginning.
    #[expect(
        clippy::disallowed_methods,
        reason = "std has no other way to make a first Instant; only differences are ever used"
    )]
    pub fn new() -> Self {
        Self {
            base: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    /// The virtual present.
    pub fn now(&self) -> Instant {
        self.base + self.elapsed
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Goes on by `step`.
    pub fn advance(&mut self, step: Duration) {
        self.elapsed += step;
    }

    /// Goes on to `at`; never backwards.
    pub fn advance_to(&mut self, at: Instant) {
        self.elapsed = self.elapsed.max(at.saturating_duration_since(self.base));
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_only_forward() {
        let mut clock = Clock::new();
        let start = clock.now();
        clock.advance(Duration::from_millis(5));
        clock.advance_to(start + Duration::from_millis(3));
        assert_eq!(clock.now(), start + Duration::from_millis(5));
        clock.advance_to(start + Duration::from_millis(8));
        assert_eq!(clock.elapsed(), Duration::from_millis(8));
    }
}
