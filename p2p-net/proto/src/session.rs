//! Punching sessions as their two ends agree on them: phases, pauses, limits, and the sets of probe keys that
//! come out of them. What is probed within a session is `punch.rs`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::probe::{Opened, PROBE_LEN, Pong, Probe, ProbeKeys};
use crate::timer::Timing;
use crate::{Candidate, PeerId, SessionId};

/// Where the session is (`connectivity.md` §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is going on.
    Idle,
    /// Our Offer is out.
    Offered {
        /// Names it.
        session: SessionId,
        /// Our half of the salt of the keys.
        nonce: [u8; 16],
        /// When it went out.
        at: Instant,
        /// When it counts as lost.
        until: Instant,
    },
    /// Our Answer is out; probes start when the caller should have read it.
    Starting {
        /// When.
        at: Instant,
        /// The caller's candidates.
        candidates: Vec<Candidate>,
    },
    /// A round of probes.
    Punching,
    /// A pause before the next session.
    Cooling {
        /// Its end.
        until: Instant,
    },
}

/// The life of sessions with one peer.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) phase: Phase,
    /// Pauses so far in this series.
    pauses: usize,
    ours: Window,
    theirs: Window,
    /// We come second: our id is the larger one.
    second: bool,
}

/// What to do with an Offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer it; a session of ours that was only offered is dropped.
    Answer,
    /// Ours, which crossed it, stands.
    OursStands,
    /// Too many.
    Ignore,
}

impl Session {
    pub(crate) fn new(me: &PeerId, peer: &PeerId) -> Self {
        Self {
            phase: Phase::Idle,
            pauses: 0,
            ours: Window::default(),
            theirs: Window::default(),
            second: me > peer,
        }
    }

    /// Forgets the series of pauses: the situation is a new one.
    pub(crate) fn reset_pauses(&mut self) {
        self.pauses = 0;
    }

    /// Whether we are the second of the two, who leaves the first word to the other.
    pub(crate) fn is_second(&self) -> bool {
        self.second
    }

    /// Counts a session of ours; where that is one too many, pauses until it is not.
    pub(crate) fn may_offer(&mut self, now: Instant) -> bool {
        match self.ours.admit(now) {
            Ok(()) => true,
            Err(until) => {
                self.phase = Phase::Cooling { until };
                false
            }
        }
    }

    /// Judges an Offer of the peer. Where two cross, the one from the smaller id stands; they cross when the
    /// other side sent its own before ours could have reached it.
    pub(crate) fn judge(&mut self, now: Instant, relay_round_trip: Option<Duration>) -> Verdict {
        if self.theirs.admit(now).is_err() {
            return Verdict::Ignore;
        }
        let Phase::Offered { at, .. } = self.phase else {
            return Verdict::Answer;
        };
        let round_trip = relay_round_trip.unwrap_or(Timing::UNKNOWN_RELAY_ROUND_TRIP);
        let crossed = now.saturating_duration_since(at) < round_trip + Timing::CROSSING_MARGIN;
        if crossed && !self.second {
            Verdict::OursStands
        } else {
            Verdict::Answer
        }
    }

    /// Goes into the next pause; a shorter one where traffic waits for a better path (`busy`).
    pub(crate) fn pause(&mut self, now: Instant, busy: bool) {
        let longest = Timing::BACK_OFF.len() - 1;
        let most = if busy { Timing::BACK_OFF_BUSY } else { longest };
        let index = self.pauses.min(most);
        self.pauses = self.pauses.saturating_add(1);
        let later = if self.second {
            Timing::SECOND_SIDE_DELAY
        } else {
            Duration::ZERO
        };
        self.phase = Phase::Cooling {
            until: now + Timing::BACK_OFF[index] + later,
        };
    }

    /// Begins a series at once, or a little later as the second: a path was lost.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.pauses = 0;
        let later = if self.second {
            Timing::SECOND_SIDE_DELAY
        } else {
            Duration::ZERO
        };
        self.phase = Phase::Cooling { until: now + later };
    }

    /// When the phase ends by itself, a round apart.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Idle | Phase::Punching => None,
            Phase::Offered { until, .. } | Phase::Cooling { until } => Some(*until),
            Phase::Starting { at, .. } => Some(*at),
        }
    }
}

/// When the last few sessions began.
#[derive(Debug, Default)]
struct Window {
    began: VecDeque<Instant>,
}

impl Window {
    /// Counts one more, or says when there will be room again.
    fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        while let Some(first) = self.began.front() {
            let free_at = *first + Timing::SESSIONS_WINDOW;
            if free_at > now {
                break;
            }
            self.began.pop_front();
        }
        if self.began.len() >= Timing::MAX_SESSIONS {
            let first = self.began.front().copied().unwrap_or(now);
            return Err(first + Timing::SESSIONS_WINDOW);
        }
        self.began.push_back(now);
        Ok(())
    }
}

/// A set of keys, named by the id that packets to us bear.
#[derive(Debug)]
struct KeySet {
    id: u64,
    keys: ProbeKeys,
    /// The peer has used it: it has the set as well.
    proven: bool,
}

/// At most two sets of keys: the one in use, and the one of a session that has yet to prove itself.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Older first.
    sets: Vec<KeySet>,
    /// When the older set goes.
    old_until: Option<Instant>,
}

impl Keys {
    /// Takes a new set; returns the ids that are no longer ours.
    pub(crate) fn insert(&mut self, keys: ProbeKeys) -> (u64, Option<u64>) {
        let id = keys.incoming_id();
        self.old_until = None;
        let mut dropped = None;
        if let Some(same) = self.sets.iter().position(|set| set.id == id) {
            self.sets.remove(same);
        } else if self.sets.len() >= 2 {
            // The newer set, unless it has been proven: then the older one has had its time.
            let index = usize::from(!self.sets[1].proven);
            dropped = Some(self.sets.remove(index).id);
        }
        self.sets.push(KeySet {
            id,
            keys,
            proven: false,
        });
        (id, dropped)
    }

    /// Opens a packet; says under which set.
    pub(crate) fn open(&mut self, now: Instant, packet: &[u8]) -> Option<(u64, Opened)> {
        let id = crate::probe::key_id(packet)?;
        let index = self.sets.iter().position(|set| set.id == id)?;
        let opened = self.sets[index].keys.open(packet)?;
        let set = &mut self.sets[index];
        if !set.proven {
            set.proven = true;
            if index == 1 {
                self.old_until = Some(now + Timing::OLD_KEYS);
            }
        }
        Some((id, opened))
    }

    /// The set for packets on paths that live: the newest that the peer has for certain. With `unproven`, the
    /// very newest: both sides may have lost what they had in common before.
    pub(crate) fn current(&self, unproven: bool) -> Option<u64> {
        let newest = self.sets.last()?;
        if unproven {
            return Some(newest.id);
        }
        let proven = self.sets.iter().rev().find(|set| set.proven);
        Some(proven.unwrap_or(newest).id)
    }

    pub(crate) fn seal_probe(&mut self, id: u64, probe: &Probe) -> Option<[u8; PROBE_LEN]> {
        self.sets
            .iter_mut()
            .find(|set| set.id == id)
            .map(|set| set.keys.seal_probe(probe))
    }

    pub(crate) fn seal_pong(&mut self, id: u64, pong: &Pong) -> Option<[u8; PROBE_LEN]> {
        self.sets
            .iter_mut()
            .find(|set| set.id == id)
            .map(|set| set.keys.seal_pong(pong))
    }

    /// When the older set goes.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.old_until
    }

    /// Drops the older set if it has had its time; returns its id.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u64> {
        if self.old_until.is_none_or(|until| until > now) {
            return None;
        }
        self.old_until = None;
        (self.sets.len() == 2).then(|| self.sets.remove(0).id)
    }

    /// Drops all; returns their ids.
    pub(crate) fn clear(&mut self) -> Vec<u64> {
        self.old_until = None;
        self.sets.drain(..).map(|set| set.id).collect()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as a beginning"
)]
mod tests {
    use super::*;
    use crate::Transaction;

    const SMALL: PeerId = PeerId::from_bytes([1; 32]);
    const LARGE: PeerId = PeerId::from_bytes([2; 32]);
    const RELAY: Option<Duration> = Some(Duration::from_millis(100));

    fn offered(me: &PeerId, peer: &PeerId, at: Instant) -> Session {
        let mut session = Session::new(me, peer);
        let until = at + Timing::ANSWER_OVERDUE;
        session.phase = Phase::Offered {
            session: SessionId([0; 16]),
            nonce: [0; 16],
            at,
            until,
        };
        session
    }

    #[test]
    fn of_two_crossing_offers_the_smaller_id_wins() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(50);
        assert_eq!(
            offered(&SMALL, &LARGE, now).judge(soon, RELAY),
            Verdict::OursStands
        );
        assert_eq!(
            offered(&LARGE, &SMALL, now).judge(soon, RELAY),
            Verdict::Answer
        );
        let late = now + Duration::from_millis(301);
        assert_eq!(
            offered(&SMALL, &LARGE, now).judge(late, RELAY),
            Verdict::Answer,
            "ours is lost"
        );
        assert_eq!(
            Session::new(&SMALL, &LARGE).judge(now, RELAY),
            Verdict::Answer
        );
    }

    #[test]
    fn pauses_grow_to_the_last_and_start_over() {
        let now = Instant::now();
        let mut session = Session::new(&SMALL, &LARGE);
        let pause = |session: &mut Session| {
            session.pause(now, false);
            session.ends_at().expect("a pause ends") - now
        };
        for expected in Timing::BACK_OFF.into_iter().chain([Timing::BACK_OFF[5]]) {
            assert_eq!(pause(&mut session), expected);
        }
        session.pause(now, true);
        let last = session.ends_at().expect("a pause ends") - now;
        assert_eq!(last, Duration::from_secs(5), "traffic waits");
        session.reset_pauses();
        assert_eq!(pause(&mut session), Timing::BACK_OFF[0]);
        let mut second = Session::new(&LARGE, &SMALL);
        assert_eq!(
            pause(&mut second),
            Timing::BACK_OFF[0] + Timing::SECOND_SIDE_DELAY
        );
    }

    #[test]
    fn sessions_are_limited_in_number() {
        let now = Instant::now();
        let mut session = Session::new(&SMALL, &LARGE);
        let answered = (0..1_000)
            .filter(|_| session.judge(now, RELAY) == Verdict::Answer)
            .count();
        assert_eq!(answered, Timing::MAX_SESSIONS);
        assert_eq!(
            session.judge(now + Timing::SESSIONS_WINDOW, RELAY),
            Verdict::Answer
        );
        let offers = (0..1_000).filter(|_| session.may_offer(now)).count();
        assert_eq!(offers, Timing::MAX_SESSIONS);
        assert_eq!(session.ends_at(), Some(now + Timing::SESSIONS_WINDOW));
    }

    fn pair(nonce: u8) -> (ProbeKeys, ProbeKeys) {
        let keys = |me, peer| ProbeKeys::derive(&[9; 32], me, peer, &[nonce; 16], &[0; 16]);
        (keys(&SMALL, &LARGE), keys(&LARGE, &SMALL))
    }

    #[test]
    fn an_old_set_stays_until_the_new_one_has_proven_itself() {
        let now = Instant::now();
        let probe = Probe {
            transaction: Transaction(1),
            path: 1,
        };
        let mut keys = Keys::default();
        let sets: Vec<_> = (0..4).map(pair).collect();
        let mut theirs = Vec::new();
        let mut ids = Vec::new();
        for (ours, other) in sets {
            let (id, dropped) = keys.insert(ours);
            ids.push(id);
            theirs.push(other);
            match ids.len() {
                1 => {
                    let packet = theirs[0].seal_probe(&probe);
                    assert!(keys.open(now, &packet).is_some());
                    assert!(keys.open(now, &packet).is_none(), "a replay");
                    assert_eq!(dropped, None);
                }
                2 => assert_eq!(dropped, None),
                3 => assert_eq!(dropped, Some(ids[1]), "the proven one stays"),
                _ => assert_eq!(dropped, Some(ids[2])),
            }
        }
        assert_eq!(keys.current(false), Some(ids[0]));
        assert_eq!(keys.current(true), Some(ids[3]));
        let packet = theirs[3].seal_probe(&probe);
        assert_eq!(keys.open(now, &packet).map(|(id, _)| id), Some(ids[3]));
        assert_eq!(keys.current(false), Some(ids[3]));
        assert_eq!(keys.expire(now), None, "it may still be needed");
        assert_eq!(keys.expire(now + Timing::OLD_KEYS), Some(ids[0]));
        assert_eq!(keys.clear(), [ids[3]]);
    }
}
