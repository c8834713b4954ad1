//! Numbers and times that wrap on the wire: how they are cut short, and how they become whole again.

use std::time::{Duration, Instant};

/// Microseconds in a unit of the clock on the wire: the finest that lets 24 bits span a minute.
const UNIT_MICROS: u64 = 4;
/// Bits of that clock; it wraps in 67.1 s.
const CLOCK_BITS: u32 = 24;

/// The whole number that ends in the `BITS` bits of `wire` and lies nearest to `reference`; half a circle
/// counts as before it. `None` where that is below zero or past the end.
pub const fn nearest<const BITS: u32>(reference: u64, wire: u32) -> Option<u64> {
    let shift = 64 - BITS;
    // The difference on a circle of 2^BITS, read as signed: RFC 1982's rule.
    let ahead = ((wire as u64).wrapping_sub(reference) << shift) as i64 >> shift;
    reference.checked_add_signed(ahead)
}

/// Makes whole numbers of those that lost all but their low `BITS` bits, each placed next to the newest one
/// seen before; they may come in any order.
#[derive(Debug, Clone, Default)]
pub struct Unwrapper<const BITS: u32> {
    newest: Option<u64>,
}

impl<const BITS: u32> Unwrapper<BITS> {
    /// Where the first number is placed: one wrap after the origin, so that what it overtook has room.
    const FIRST: u64 = 1 << BITS;

    /// The whole form of `wire`, which may become the newest.
    pub fn unwrap(&mut self, wire: u32) -> u64 {
        let placed = self.peek(wire);
        self.newest = self.newest.max(Some(placed));
        placed
    }

    /// The same without remembering it.
    pub fn peek(&self, wire: u32) -> u64 {
        let low = u64::from(wire) & (Self::FIRST - 1);
        match self.newest {
            None => Self::FIRST + low,
            // At either end of 64 bits there is nothing nearer than the newest itself.
            Some(newest) => nearest::<BITS>(newest, wire).unwrap_or(newest),
        }
    }

    /// The newest so far.
    pub const fn newest(&self) -> Option<u64> {
        self.newest
    }
}

/// The clock whose readings go on the wire: microseconds since an origin of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireClock {
    origin: Instant,
    micros: u64,
}

impl WireClock {
    /// A clock that shows `micros` at `origin`; what it shows there matters to nobody but a test of wraps.
    pub const fn new(origin: Instant, micros: u64) -> Self {
        Self { origin, micros }
    }

    /// What it shows at `at`, µs; before its origin it stands still.
    pub fn micros(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin).as_micros();
        self.micros
            .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// The same in 24 bits of 4 µs.
    pub fn wire(&self, at: Instant) -> u32 {
        micros_to_wire(self.micros(at))
    }

    /// When it showed `wire`, taken as the nearest such moment to `now`; `None` before its origin.
    pub fn instant(&self, now: Instant, wire: u32) -> Option<Instant> {
        let units = nearest::<CLOCK_BITS>(self.micros(now) / UNIT_MICROS, wire)?;
        let since = (units * UNIT_MICROS).checked_sub(self.micros)?;
        self.origin.checked_add(Duration::from_micros(since))
    }
}

/// 24 bits of 4 µs.
pub(super) const fn micros_to_wire(micros: u64) -> u32 {
    (micros / UNIT_MICROS) as u32 & ((1 << CLOCK_BITS) - 1)
}

/// The other side's clock, whole again.
#[derive(Debug, Clone, Default)]
pub(super) struct ClockUnwrapper(Unwrapper<CLOCK_BITS>);

impl ClockUnwrapper {
    /// Microseconds of the other side's clock, with an origin of their own.
    pub(super) fn micros(&mut self, wire: u32) -> u64 {
        self.0.unwrap(wire).saturating_mul(UNIT_MICROS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_nearest_is_found_on_either_side_of_a_wrap() {
        assert_eq!(nearest::<16>(0x1_0002, 0xfffe), Some(0xfffe));
        assert_eq!(nearest::<16>(0xfffe, 3), Some(0x1_0003));
        assert_eq!(nearest::<16>(5, 5), Some(5));
        assert_eq!(nearest::<16>(5, 0xffff), None);
        assert_eq!(nearest::<16>(u64::MAX, 3), None);
    }

    #[test]
    fn what_was_overtaken_by_the_first_has_room() {
        let mut numbers = Unwrapper::<16>::default();
        let first = numbers.unwrap(1);
        assert_eq!(numbers.unwrap(0xffff), first - 2);
        assert_eq!(numbers.unwrap(2), first + 1);
        assert_eq!(numbers.newest(), Some(first + 1));
    }

    #[test]
    fn the_clock_survives_its_wrap() {
        let origin = Instant::now();
        // Five seconds before the end of 24 bits.
        let clock = WireClock::new(origin, (1 << 26) - 5_000_000);
        let mut peer = ClockUnwrapper::default();
        let mut last = peer.micros(clock.wire(origin));
        for tick in 1..100u32 {
            let at = origin + Duration::from_millis(200) * tick;
            let wire = clock.wire(at);
            let now = at + Duration::from_millis(900);
            assert_eq!(clock.instant(now, wire), Some(at));
            let micros = peer.micros(wire);
            assert_eq!(micros - last, 200_000);
            last = micros;
        }
        assert_eq!(clock.instant(origin, clock.wire(origin) - 1), None);
    }

    proptest! {
        #[test]
        fn steps_of_less_than_half_a_circle_are_followed(
            first: u16, steps in prop::collection::vec(-16_000i64..32_767, 1..60),
        ) {
            let mut numbers = Unwrapper::<16>::default();
            let mut newest = numbers.unwrap(u32::from(first));
            for step in steps {
                let Some(next) = newest.checked_add_signed(step) else { break };
                prop_assert_eq!(numbers.unwrap(next as u32), next);
                newest = newest.max(next);
            }
        }
    }
}
