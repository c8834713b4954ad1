//! What is missing between packets that came, until a report has said so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Sequence;

/// Holes remembered at most; beyond that the link is so bad that regular reports must do.
const HOLES_MAX: usize = 64;
/// A hole is urgent when so many packets have come after it,
const URGENT_PACKETS: u8 = 3;
/// or when it is this old.
const URGENT_AGE: Duration = Duration::from_millis(5);
/// For this long after a change of path overtaken packets are no holes.
const FORGIVEN: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy)]
struct Hole {
    start: Sequence,
    /// The first one behind it.
    end: Sequence,
    seen_at: Instant,
    later: u8,
}

#[derive(Debug, Default)]
pub(super) struct Holes {
    holes: VecDeque<Hole>,
    forgiven_until: Option<Instant>,
}

impl Holes {
    pub(super) fn clear(&mut self) {
        self.holes.clear();
    }

    /// A packet has come, `ahead` further than all before it (0: it fills a hole).
    pub(super) fn on_packet(&mut self, now: Instant, sequence: Sequence, ahead: u64) {
        let mut split = None;
        for hole in &mut self.holes {
            if hole.end <= sequence {
                hole.later = hole.later.saturating_add(1);
            } else if hole.start <= sequence {
                split = Some(Hole {
                    end: sequence,
                    later: hole.later.saturating_add(1),
                    ..*hole
                });
                hole.start = sequence + 1;
            }
        }
        if let Some(older) = split {
            let place = self.holes.partition_point(|hole| hole.end <= sequence);
            self.holes.insert(place, older);
        }
        if ahead > 1 {
            self.holes.push_back(Hole {
                start: sequence + 1 - ahead,
                end: sequence,
                seen_at: now,
                later: 1,
            });
        }
        self.holes.retain(|hole| hole.start < hole.end);
        while self.holes.len() > HOLES_MAX {
            self.holes.pop_front();
        }
    }

    /// The path has changed.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.forgiven_until = Some(now + FORGIVEN);
    }

    /// From when on a report should go because of a hole.
    pub(super) fn urgent_at(&self) -> Option<Instant> {
        let urgent = self.holes.iter().map(Hole::urgent_at).min()?;
        Some(
            self.forgiven_until
                .map_or(urgent, |until| until.max(urgent)),
        )
    }

    /// A report goes now and says what is missing; true if one of the holes was urgent. Those that are not yet
    /// urgent become so later, since the sender has not yet waited long enough either.
    pub(super) fn on_report(&mut self, now: Instant) -> bool {
        let before = self.holes.len();
        let forgiven = self.forgiven_until.is_some_and(|until| now < until);
        if !forgiven {
            self.holes.retain(|hole| hole.urgent_at() > now);
        }
        self.holes.len() < before
    }
}

impl Hole {
    fn urgent_at(&self) -> Instant {
        if self.later >= URGENT_PACKETS {
            self.seen_at
        } else {
            self.seen_at + URGENT_AGE
        }
    }
}
