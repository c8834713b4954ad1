//! The driver's deadlines: one table, the earliest first.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use p2p_net_proto::PeerId;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// The peer's machine wants its time.
    Machine(PeerId),
    /// A dial has taken too long.
    Dial(PeerId),
    /// A channel-open goes without waiting for a first flight any longer.
    Open(PeerId),
    /// A channel-accept likewise.
    Accept(PeerId),
    /// A connection that waited for the other side's gets its turn.
    Settle(PeerId),
    /// A living connection wants a relayed channel.
    Reopen(PeerId),
    /// A peer without connection is forgotten.
    Linger(PeerId),
    /// The data path is looked at.
    Activity(PeerId),
    /// The relay is asked again how it sees the extra sockets of a peer's machine.
    Sample(PeerId),
    /// The interfaces are looked at.
    Interfaces,
    /// The relay is asked again how it sees us.
    Survey,
    /// The LAN is looked at, or no longer.
    Lan,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    at: HashMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer, wherever it stood.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(before) = self.at.insert(timer, at) {
            if before == at {
                return;
            }
            self.due.remove(&(before, timer));
        }
        self.due.insert((at, timer));
    }

    /// Sets a timer unless it runs already.
    pub(super) fn set_default(&mut self, timer: Timer, at: Instant) {
        if !self.at.contains_key(&timer) {
            self.set(timer, at);
        }
    }

    /// Stops a timer.
    pub(super) fn stop(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.stop(timer);
        Some(timer)
    }

    /// Stops all timers of a peer.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        for timer in [
            Timer::Machine(*peer),
            Timer::Dial(*peer),
            Timer::Open(*peer),
            Timer::Accept(*peer),
            Timer::Settle(*peer),
            Timer::Reopen(*peer),
            Timer::Linger(*peer),
            Timer::Activity(*peer),
            Timer::Sample(*peer),
        ] {
            self.stop(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_comes_first_and_only_once() {
        let now = Instant::now();
        let peer = PeerId::from_bytes([1; 32]);
        let mut timers = Timers::default();
        timers.set(Timer::Dial(peer), now + Duration::from_secs(2));
        timers.set(Timer::Interfaces, now + Duration::from_secs(3));
        timers.set(Timer::Interfaces, now + Duration::from_secs(1));
        timers.set_default(Timer::Interfaces, now);
        assert_eq!(timers.next(), Some(now + Duration::from_secs(1)));
        assert_eq!(timers.expire(now), None);
        let later = now + Duration::from_secs(5);
        assert_eq!(timers.expire(later), Some(Timer::Interfaces));
        assert_eq!(timers.expire(later), Some(Timer::Dial(peer)));
        assert_eq!(timers.expire(later), None);
    }

    #[test]
    fn a_forgotten_peer_has_no_deadline() {
        let now = Instant::now();
        let peer = PeerId::from_bytes([1; 32]);
        let mut timers = Timers::default();
        timers.set(Timer::Machine(peer), now);
        timers.set(Timer::Linger(peer), now);
        timers.forget(&peer);
        assert_eq!(timers.next(), None);
    }
}
