//! Places on the time line of a recording.

use std::time::Duration;

use crate::MediaTime;

/// How far the sender's clock and ours may go apart before the place is taken from ours again: less is jitter
/// of capture times or slow drift, and jumping for it would be heard.
const TOLERANCE: Duration = Duration::from_millis(200);

/// Ties the media clock of one stream to the time line, both in ticks of `HZ`.
#[derive(Debug, Default)]
pub(super) struct Timeline<const HZ: u32> {
    /// A time of the stream, and its place.
    anchor: Option<(MediaTime<HZ>, u64)>,
    /// The last place given out.
    last: Option<u64>,
}

impl<const HZ: u32> Timeline<HZ> {
    /// The place of what has `time` and was captured `at`: always behind the one before.
    pub(super) fn place(&mut self, time: MediaTime<HZ>, at: Duration) -> u64 {
        let by_clock = MediaTime::<HZ>::default()
            .checked_add(at)
            .map_or(0, MediaTime::ticks);
        let by_stream = self.anchor.and_then(|(anchor, place)| {
            let moved = time.ticks().checked_signed_diff(anchor.ticks())?;
            place.checked_add_signed(moved)
        });
        let tolerance = TOLERANCE.as_millis() as u64 * u64::from(HZ) / 1_000;
        let place = match by_stream {
            Some(place) if place.abs_diff(by_clock) <= tolerance => place,
            _ => {
                self.anchor = Some((time, by_clock));
                by_clock
            }
        };
        let place = self.last.map_or(place, |last| place.max(last + 1));
        self.last = Some(place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VideoTime;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn jitter_is_not_seen_and_a_jump_is() {
        let mut line = Timeline::<90_000>::default();
        let time = |seconds: u64| VideoTime::from_ticks((1 << 40) + 90_000 * seconds);
        assert_eq!(line.place(time(0), SECOND), 90_000);
        assert_eq!(line.place(time(1), SECOND * 21 / 10), 180_000);
        // The stream was paused: its clock stood still.
        assert_eq!(line.place(time(2), SECOND * 10), 900_000);
        assert_eq!(line.place(time(3), SECOND * 11), 990_000);
        // Another sender's clock.
        let other = VideoTime::from_ticks(5);
        assert_eq!(line.place(other, SECOND * 12), 1_080_000);
        // Never back.
        assert_eq!(line.place(other, SECOND * 12), 1_080_001);
        assert_eq!(line.place(time(0), SECOND), 1_080_002);
    }
}
