//! Media clocks: times counted in ticks of 90 kHz (pictures) or 48 kHz (sound), their 32-bit form on the
//! wire, and their mapping to [`Instant`]. Nothing here reads a clock.

use std::time::{Duration, Instant};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A time of a picture, in ticks of 90 kHz (the video clock of RFC 3551 §5).
pub type VideoTime = MediaTime<90_000>;

/// A time of a sample, in ticks of 48 kHz: one tick, one sample a channel.
pub type AudioTime = MediaTime<48_000>;

/// A time on a media clock of `HZ` ticks a second, counted from an origin that the sender chose. At 90 kHz
/// it lasts for six million years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime<const HZ: u32>(u64);

impl<const HZ: u32> MediaTime<HZ> {
    /// Ticks a second.
    pub const HZ: u32 = HZ;

    /// The time `ticks` after the origin.
    pub const fn from_ticks(ticks: u64) -> Self {
        Self(ticks)
    }

    /// Ticks since the origin.
    pub const fn ticks(self) -> u64 {
        self.0
    }

    /// The form on the wire: the low 32 bits; [`Extender`] undoes it.
    pub const fn wire(self) -> u32 {
        self.0 as u32
    }

    /// This time moved on by `ticks`, or `None` past the end of the clock.
    pub const fn checked_add_ticks(self, ticks: u64) -> Option<Self> {
        match self.0.checked_add(ticks) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// This time moved on by `duration`, cut down to whole ticks, or `None` past the end of the clock.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.checked_add_ticks(duration_to_ticks::<HZ>(duration)?)
    }

    /// How long after `earlier` this is; zero if it is not after it. Cut down to whole nanoseconds.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        ticks_to_duration::<HZ>(self.0.saturating_sub(earlier.0))
    }
}

/// Cuts down to whole ticks.
fn duration_to_ticks<const HZ: u32>(duration: Duration) -> Option<u64> {
    u64::try_from(duration.as_nanos() * u128::from(HZ) / NANOS_PER_SECOND).ok()
}

fn ticks_to_duration<const HZ: u32>(ticks: u64) -> Duration {
    let (seconds, rest) = (ticks / u64::from(HZ), ticks % u64::from(HZ));
    // Less than a second, so it fits.
    let nanos = u128::from(rest) * NANOS_PER_SECOND / u128::from(HZ);
    Duration::new(seconds, nanos as u32)
}

/// Makes 64-bit times from the 32-bit ones on the wire, which wrap around every 13 hours (90 kHz).
///
/// Each time is placed next to the newest one seen before, at most 2^31 ticks (6.6 hours at 90 kHz) from it
/// in either direction; packets may therefore come in any order.
#[derive(Debug, Clone, Default)]
pub struct Extender<const HZ: u32> {
    newest: Option<u64>,
}

impl<const HZ: u32> Extender<HZ> {
    /// Where the first time is placed: one wrap after the origin, so that packets from before it, which
    /// overtook it, have room.
    const FIRST: u64 = 1 << 32;

    /// The full form of `wire`.
    pub fn extend(&mut self, wire: u32) -> MediaTime<HZ> {
        let Some(newest) = self.newest else {
            let first = Self::FIRST + u64::from(wire);
            self.newest = Some(first);
            return MediaTime(first);
        };
        // The difference on a circle of 2^32, read as signed: RFC 1982's rule.
        let ahead = wire.wrapping_sub(newest as u32) as i32;
        let placed = newest.saturating_add_signed(i64::from(ahead));
        self.newest = Some(newest.max(placed));
        MediaTime(placed)
    }
}

/// Ties a media clock to the local one by a pair of simultaneous readings, taken as running at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockMap<const HZ: u32> {
    media: MediaTime<HZ>,
    local: Instant,
}

impl<const HZ: u32> ClockMap<HZ> {
    /// The clocks showed `media` and `local` at one moment.
    pub const fn new(media: MediaTime<HZ>, local: Instant) -> Self {
        Self { media, local }
    }

    /// When the media clock shows `time`, or `None` where the local clock cannot tell such a moment.
    pub fn instant(&self, time: MediaTime<HZ>) -> Option<Instant> {
        if time >= self.media {
            self.local
                .checked_add(time.saturating_duration_since(self.media))
        } else {
            self.local
                .checked_sub(self.media.saturating_duration_since(time))
        }
    }

    /// What the media clock shows at `instant`, cut down to whole ticks; `None` before its origin or past its
    /// end.
    pub fn media(&self, instant: Instant) -> Option<MediaTime<HZ>> {
        if let Some(after) = instant.checked_duration_since(self.local) {
            return self.media.checked_add(after);
        }
        let before = self.local.saturating_duration_since(instant);
        // Rounded up, so that the result is rounded down.
        let ticks = (before.as_nanos() * u128::from(HZ)).div_ceil(NANOS_PER_SECOND);
        self.media
            .0
            .checked_sub(u64::try_from(ticks).ok()?)
            .map(MediaTime)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_is_a_second() {
        let second = Duration::from_secs(1);
        assert_eq!(
            VideoTime::default().checked_add(second),
            Some(VideoTime::from_ticks(90_000))
        );
        assert_eq!(
            AudioTime::default().checked_add(second),
            Some(AudioTime::from_ticks(48_000))
        );
        let later = VideoTime::from_ticks(3_000);
        assert_eq!(
            later.saturating_duration_since(VideoTime::default()),
            Duration::from_nanos(33_333_333)
        );
        assert_eq!(
            VideoTime::default().saturating_duration_since(later),
            Duration::ZERO
        );
    }

    #[test]
    fn the_end_of_the_clock_is_no_panic() {
        let last = VideoTime::from_ticks(u64::MAX);
        assert_eq!(last.checked_add_ticks(1), None);
        assert_eq!(last.checked_add(Duration::MAX), None);
        assert_eq!(AudioTime::default().checked_add(Duration::MAX), None);
        assert_eq!(
            last.saturating_duration_since(VideoTime::default())
                .subsec_nanos(),
            240_166_666
        );
    }

    #[test]
    fn times_run_on_across_the_wrap() {
        let mut extender = Extender::<90_000>::default();
        let before = extender.extend(u32::MAX - 10);
        let after = extender.extend(20);
        assert_eq!(after.ticks() - before.ticks(), 31);
        // An overtaken packet from before the wrap goes back to where it belongs.
        assert_eq!(extender.extend(u32::MAX), MediaTime(before.ticks() + 10));
        assert_eq!(extender.extend(21).ticks(), after.ticks() + 1);
    }

    #[test]
    fn a_packet_older_than_the_first_has_room() {
        let mut extender = Extender::<48_000>::default();
        let first = extender.extend(5);
        assert_eq!(extender.extend(0xffff_fff0).ticks(), first.ticks() - 21);
    }

    #[test]
    fn moments_map_both_ways() {
        let local = Instant::now();
        let map = ClockMap::new(AudioTime::from_ticks(48_000), local);
        let later = local + Duration::from_millis(20);
        assert_eq!(map.instant(AudioTime::from_ticks(48_960)), Some(later));
        assert_eq!(map.media(later), Some(AudioTime::from_ticks(48_960)));
        assert_eq!(map.media(local), Some(AudioTime::from_ticks(48_000)));
        // Before the pair too, and never before the origin.
        assert_eq!(
            map.media(local - Duration::from_millis(500)),
            Some(AudioTime::from_ticks(24_000))
        );
        assert_eq!(
            map.media(local - Duration::from_nanos(1)),
            Some(AudioTime::from_ticks(47_999))
        );
        assert_eq!(map.media(local - Duration::from_millis(1_001)), None);
    }

    proptest! {
        #[test]
        fn ticks_survive_the_way_through_instants(start: u32, ticks in 0..u64::from(u32::MAX)) {
            let start = VideoTime::from_ticks(u64::from(start));
            let map = ClockMap::new(start, Instant::now());
            let time = start.checked_add_ticks(ticks).expect("far from the end");
            let instant = map.instant(time).expect("within days");
            let back = map.media(instant).expect("after the origin");
            // Half a tick at most is lost to whole nanoseconds, and the rest is cut off.
            prop_assert!(time.ticks() - back.ticks() <= 1);
        }

        #[test]
        fn any_jump_below_half_a_wrap_is_followed(
            first: u32, steps in prop::collection::vec(-1_000_000_000i64..2_000_000_000, 1..50),
        ) {
            let mut extender = Extender::<90_000>::default();
            let mut at = extender.extend(first).ticks();
            for step in steps {
                let Some(next) = at.checked_add_signed(step) else { break };
                if step < 0 {
                    // Going back does not move the newest.
                    prop_assert_eq!(extender.extend(next as u32).ticks(), next);
                } else {
                    at = next;
                    prop_assert_eq!(extender.extend(at as u32).ticks(), at);
                }
            }
        }
    }
}
