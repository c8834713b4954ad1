//! How deep a device's buffer is: as short as goes without underruns. Pure.

use std::time::{Duration, Instant};

/// The device's part at first, and at least: a block is then asked for 10 ms before it is heard, which is the time
/// that there is to make it. (Measured on two cores that compiled beside a call: with half as much, one to five
/// underruns in the first seconds of each.)
const LEAST: Duration = Duration::from_millis(5);
/// Deeper by so much with each underrun, and less deep by it after a calm time …
const STEP: Duration = Duration::from_micros(2_500);
/// … but no deeper: beyond it, what is wrong is not the depth.
const MOST: Duration = Duration::from_millis(30);
/// After this long without an underrun it is made less deep …
const CALM: Duration = Duration::from_secs(30);
/// … after twice as long each time that this was too little, up to this.
const MOST_CALM: Duration = Duration::from_secs(16 * 60);
/// Underruns within this are one event: a machine that was busy for a moment.
const EVENT: Duration = Duration::from_millis(100);

/// The depth of one device's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    device: Duration,
    calm: Duration,
    /// The last change, or underrun.
    since: Option<Instant>,
    /// The last change was one downwards.
    tried: bool,
}

impl Default for Depth {
    fn default() -> Self {
        Self {
            device: LEAST,
            calm: CALM,
            since: None,
            tried: false,
        }
    }
}

impl Depth {
    /// What the device itself should have in its buffer.
    pub(super) const fn device(&self) -> Duration {
        self.device
    }

    /// The device had nothing to play.
    pub(super) fn on_underrun(&mut self, now: Instant) {
        let again = self
            .since
            .is_some_and(|since| now.saturating_duration_since(since) < EVENT);
        if again && !self.tried {
            return;
        }
        if self.tried {
            self.calm = (2 * self.calm).min(MOST_CALM);
        }
        self.tried = false;
        self.device = (self.device + STEP).min(MOST);
        self.since = Some(now);
    }

    /// It had.
    pub(super) fn on_calm(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if self.device > LEAST && now.saturating_duration_since(since) >= self.calm {
            self.device = self.device.saturating_sub(STEP).max(LEAST);
            self.since = Some(now);
            self.tried = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underruns_make_it_deeper_and_calm_less_deep() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut depth = Depth::default();
        depth.on_calm(at(0));
        depth.on_underrun(at(1));
        // The same moment.
        depth.on_underrun(at(1) + Duration::from_millis(20));
        assert_eq!(depth.device(), LEAST + STEP);
        depth.on_underrun(at(2));
        assert_eq!(depth.device(), LEAST + 2 * STEP);
        depth.on_calm(at(31));
        assert_eq!(depth.device(), LEAST + 2 * STEP);
        depth.on_calm(at(32));
        assert_eq!(depth.device(), LEAST + STEP);
        // That was too little: the next attempt comes later.
        depth.on_underrun(at(40));
        assert_eq!(depth.device(), LEAST + 2 * STEP);
        depth.on_calm(at(99));
        assert_eq!(depth.device(), LEAST + 2 * STEP);
        depth.on_calm(at(100));
        assert_eq!(depth.device(), LEAST + STEP);
    }

    #[test]
    fn it_has_bounds() {
        let start = Instant::now();
        let mut depth = Depth::default();
        for second in 0..100 {
            depth.on_underrun(start + Duration::from_secs(second));
        }
        assert_eq!(depth.device(), MOST);
        for hour in 1..100 {
            depth.on_calm(start + Duration::from_secs(3_600 * hour));
        }
        assert_eq!(depth.device(), LEAST);
    }
}
