//! How a screen begins, and what its key frames keep waiting. A key frame of a screen is large (590 kB at 1080p):
//! the first one has half the size, so that something is seen four times sooner, and while one is on its way
//! nothing is encoded that would only queue behind it. Pure.

use std::time::{Duration, Instant};

use crate::{FrameNumber, PictureSize};

/// A screen of no more lines than this begins at its own size: its key frame takes a quarter of a second at
/// 2.5 Mbit/s anyway (71 kB at 360 lines).
const SMALL: u32 = 400;
/// So long a key frame is waited for; then it is taken for lost, and the other side will ask. Repair gives a
/// screen's frames two seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// The state of one screen's beginning and of its newest key frame.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Something has arrived at half the size, or was not needed to.
    begun: bool,
    /// The newest key frame, until it has arrived.
    flying: Option<(FrameNumber, Instant)>,
}

impl Flight {
    /// The other side has decoded this frame.
    pub(super) fn on_reached(&mut self, frame: FrameNumber) {
        if self.flying.is_some_and(|(key, _)| key <= frame) {
            self.flying = None;
            self.begun = true;
        }
    }

    /// Whether a key frame is on its way, so that nothing new is to be encoded.
    pub(super) fn is_waiting(&mut self, now: Instant) -> bool {
        let Some((_, since)) = self.flying else {
            return false;
        };
        if now.saturating_duration_since(since) < PATIENCE {
            return true;
        }
        self.flying = None;
        self.begun = true;
        false
    }

    /// The size to encode at now.
    pub(super) fn size(&self, native: PictureSize) -> PictureSize {
        if self.begun || native.height() <= SMALL {
            return native;
        }
        PictureSize::within(native.width() / 2, native.height() / 2).unwrap_or(native)
    }

    /// A frame was encoded.
    pub(super) fn on_encoded(&mut self, now: Instant, frame: FrameNumber, key: bool) {
        if key {
            self.flying = Some((frame, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> PictureSize {
        PictureSize::new(width, height).expect("a size")
    }

    #[test]
    fn a_screen_begins_small_and_grows_when_that_has_arrived() {
        let start = Instant::now();
        let mut flight = Flight::default();
        let native = size(1_920, 1_080);
        assert_eq!(flight.size(native), size(960, 540));
        flight.on_encoded(start, 7, true);
        assert!(flight.is_waiting(start + Duration::from_millis(200)));
        flight.on_reached(6);
        assert!(
            flight.is_waiting(start + Duration::from_millis(300)),
            "an older one"
        );
        flight.on_reached(7);
        assert!(!flight.is_waiting(start + Duration::from_millis(301)));
        assert_eq!(flight.size(native), native);
        // The large one is waited for as well; what is no key frame is not.
        flight.on_encoded(start, 8, true);
        assert!(flight.is_waiting(start));
        flight.on_reached(9);
        flight.on_encoded(start, 10, false);
        assert!(!flight.is_waiting(start));
    }

    #[test]
    fn a_small_screen_begins_as_it_is_and_nobody_waits_for_ever() {
        let start = Instant::now();
        let mut flight = Flight::default();
        assert_eq!(flight.size(size(640, 360)), size(640, 360));
        flight.on_encoded(start, 0, true);
        assert!(flight.is_waiting(start + Duration::from_millis(2_999)));
        assert!(!flight.is_waiting(start + Duration::from_secs(3)));
        assert_eq!(flight.size(size(1_280, 720)), size(1_280, 720));
    }
}
