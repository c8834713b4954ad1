//! Which numbers have been seen: tells new packets from duplicates.

use crate::Sequence;
use crate::packet::nearest;

/// Packets before the newest whose duplicates are still recognised; older ones are refused.
const SEEN: u64 = 4_096;
/// How far from the newest a number is believed.
const BELIEVED: u64 = 8_192;
/// After so many unbelievable numbers close to each other the sender is believed: a long interruption, not
/// damage.
const STRANGERS: u8 = 8;
/// How close to each other.
const STRANGERS_APART: u16 = 64;
const WORDS: usize = (SEEN / 64) as usize;

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Never seen; the newest so far if `ahead` is above 0: by so many.
    New { sequence: Sequence, ahead: u64 },
    /// Seen before.
    Duplicate,
    /// Too old or too far to tell.
    Outside,
    /// New, after a leap that makes all before it meaningless.
    Leapt(Sequence),
}

#[derive(Debug)]
pub(super) struct Window {
    newest: Option<Sequence>,
    bits: [u64; WORDS],
    stranger: Option<(u16, u8)>,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self {
            newest: None,
            bits: [0; WORDS],
            stranger: None,
        }
    }

    pub(super) const fn newest(&self) -> Option<Sequence> {
        self.newest
    }

    pub(super) fn see(&mut self, wire: u16) -> Seen {
        let Some(newest) = self.newest else {
            // One wrap after the origin, so that what it overtook has room.
            let sequence = (1 << 16) + u64::from(wire);
            self.begin(sequence);
            return Seen::New { sequence, ahead: 1 };
        };
        let Some(sequence) = nearest::<16>(newest, u32::from(wire)) else {
            return Seen::Outside;
        };
        if sequence.abs_diff(newest) > BELIEVED {
            return self.see_stranger(wire, newest, sequence);
        }
        self.stranger = None;
        if sequence + SEEN <= newest {
            return Seen::Outside;
        }
        let ahead = sequence.saturating_sub(newest);
        // What the window moves over has not been seen.
        if ahead >= SEEN {
            self.bits = [0; WORDS];
        } else {
            for skipped in newest + 1..=newest + ahead {
                self.set(skipped, false);
            }
        }
        if self.is_set(sequence) {
            return Seen::Duplicate;
        }
        self.set(sequence, true);
        self.newest = Some(newest.max(sequence));
        Seen::New { sequence, ahead }
    }

    fn see_stranger(&mut self, wire: u16, newest: Sequence, sequence: Sequence) -> Seen {
        let count = match self.stranger {
            Some((last, count)) if (1..=STRANGERS_APART).contains(&wire.wrapping_sub(last)) => {
                count + 1
            }
            _ => 1,
        };
        if count < STRANGERS {
            self.stranger = Some((wire, count));
            return Seen::Outside;
        }
        self.stranger = None;
        // Numbers never fall, so that nothing is done twice.
        let sequence = if sequence > newest {
            sequence
        } else {
            sequence.saturating_add(1 << 16)
        };
        self.begin(sequence);
        Seen::Leapt(sequence)
    }

    fn begin(&mut self, sequence: Sequence) {
        self.bits = [0; WORDS];
        self.set(sequence, true);
        self.newest = Some(sequence);
    }

    const fn is_set(&self, sequence: Sequence) -> bool {
        let place = (sequence % SEEN) as usize;
        self.bits[place / 64] >> (place % 64) & 1 != 0
    }

    const fn set(&mut self, sequence: Sequence, seen: bool) {
        let place = (sequence % SEEN) as usize;
        let bit = 1 << (place % 64);
        if seen {
            self.bits[place / 64] |= bit;
        } else {
            self.bits[place / 64] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_has_two_ends() {
        let mut window = Window::new();
        let first = match window.see(0xfff0) {
            Seen::New { sequence, ahead: 1 } => sequence,
            other => panic!("{other:?}"),
        };
        let (far, beyond) = (0xfff0u16.wrapping_add(8_192), 0xfff0u16.wrapping_add(8_193));
        assert_eq!(window.see(beyond), Seen::Outside);
        assert_eq!(
            window.see(far),
            Seen::New {
                sequence: first + 8_192,
                ahead: 8_192
            }
        );
        assert_eq!(window.see(far), Seen::Duplicate);
        let (oldest, older) = (far.wrapping_sub(4_095), far.wrapping_sub(4_096));
        assert_eq!(
            window.see(oldest),
            Seen::New {
                sequence: first + 8_192 - 4_095,
                ahead: 0
            }
        );
        assert_eq!(window.see(oldest), Seen::Duplicate);
        assert_eq!(window.see(older), Seen::Outside);
        assert_eq!(window.see(0xfff0), Seen::Outside);
    }

    #[test]
    fn a_long_interruption_is_survived() {
        let mut window = Window::new();
        window.see(0);
        for wire in 20_000..20_007 {
            assert_eq!(window.see(wire), Seen::Outside);
        }
        // One damaged number between them begins the count anew.
        assert_eq!(window.see(40_000), Seen::Outside);
        for wire in 20_007..20_014 {
            assert_eq!(window.see(wire), Seen::Outside);
        }
        assert_eq!(window.see(20_014), Seen::Leapt((1 << 16) + 20_014));
        assert_eq!(window.see(20_014), Seen::Duplicate);
        // The same number again, over and over, is no sender.
        for _ in 0..20 {
            assert_eq!(window.see(50_000), Seen::Outside);
        }
    }

    proptest! {
        #[test]
        fn every_packet_is_new_once(
            start: u16, steps in prop::collection::vec((0u64..300, 0u64..3_000), 1..400),
        ) {
            let mut window = Window::new();
            let mut seen = HashSet::new();
            let mut newest = (1 << 16) + u64::from(start);
            window.see(start);
            seen.insert(newest);
            for (ahead, back) in steps {
                let sequence = (newest + ahead).saturating_sub(back);
                let verdict = window.see(sequence as u16);
                if sequence < 1 << 16 {
                    continue;
                }
                if newest.saturating_sub(sequence) >= 4_096 {
                    prop_assert_eq!(verdict, Seen::Outside);
                } else if seen.insert(sequence) {
                    let ahead = sequence.saturating_sub(newest);
                    prop_assert_eq!(verdict, Seen::New { sequence, ahead });
                } else {
                    prop_assert_eq!(verdict, Seen::Duplicate);
                }
                newest = newest.max(sequence);
            }
        }
    }
}
