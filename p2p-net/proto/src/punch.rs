//! One round of probes to candidates: which address is probed when, what an answer proves, and which
//! addresses beyond the offered ones are worth a probe (RFC 8445 §7.3.1.3, peer-reflexive candidates).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::timer::Timing;
use crate::{Candidate, PathId, Transaction};

/// Unanswered probes that are remembered for one address.
const MAX_OUTSTANDING: usize = 16;

/// Probes to one address whose answers may still come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outstanding {
    probes: VecDeque<Sent>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    transaction: Transaction,
    at: Instant,
    /// It has been counted as unanswered; an answer is welcome all the same.
    overdue: bool,
}

impl Outstanding {
    pub(crate) fn push(&mut self, transaction: Transaction, at: Instant) {
        if self.probes.len() >= MAX_OUTSTANDING {
            self.probes.pop_front();
        }
        self.probes.push_back(Sent {
            transaction,
            at,
            overdue: false,
        });
    }

    /// When the probe of this transaction went out; it can be answered once.
    pub(crate) fn take(&mut self, transaction: Transaction) -> Option<Instant> {
        let index = self
            .probes
            .iter()
            .position(|sent| sent.transaction == transaction)?;
        self.probes.remove(index).map(|sent| sent.at)
    }

    /// Marks one probe that has waited for `timeout` as overdue; returns when it went out.
    pub(crate) fn overdue(&mut self, now: Instant, timeout: Duration) -> Option<Instant> {
        let late = self
            .probes
            .iter_mut()
            .find(|sent| !sent.overdue && sent.at + timeout <= now)?;
        late.overdue = true;
        Some(late.at)
    }

    /// When the next probe becomes overdue.
    pub(crate) fn overdue_at(&self, timeout: Duration) -> Option<Instant> {
        self.probes
            .iter()
            .find(|sent| !sent.overdue)
            .map(|sent| sent.at + timeout)
    }
}

/// An address that is probed in the hope of a path.
#[derive(Debug)]
struct Pair {
    id: PathId,
    address: SocketAddr,
    /// `wire.md` §6 lets us probe it. Otherwise it gets no more packets than came from it.
    trusted: bool,
    /// It was not among the offered ones.
    reflexive: bool,
    /// Packets that an untrusted address has still to its credit, the next answer included.
    credit: u32,
    /// The set of keys to use.
    keys: u64,
    began: Instant,
    sends: u8,
    sent_at: Option<Instant>,
    next_at: Option<Instant>,
    outstanding: Outstanding,
    /// An authentic probe came from there.
    heard: bool,
}

/// A probe to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PairProbe {
    pub(crate) path: PathId,
    pub(crate) to: SocketAddr,
    pub(crate) keys: u64,
}

/// An answer that proves a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validated {
    pub(crate) path: PathId,
    pub(crate) address: SocketAddr,
    pub(crate) round_trip: Duration,
}

/// The candidate pairs of one peer: those of the round that goes on, and what reached us besides.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pairs: Vec<Pair>,
    next_id: u32,
    /// Not before this goes another probe to an address that has had one.
    paced_until: Option<Instant>,
    /// When the allowance of probes is whole again (the generic cell rate algorithm's theoretical arrival
    /// time). It outlives rounds: whoever begins many of them gets no more probes out of us.
    whole_at: Option<Instant>,
    last_send: Option<Instant>,
    last_answers: Duration,
    succeeded: bool,
}

impl Round {
    /// Begins a round: `candidates` best first, all usable, probes under this set of keys.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        candidates: &[Candidate],
        keys: u64,
        relay_round_trip: Option<Duration>,
    ) {
        self.pairs.clear();
        self.succeeded = false;
        // A round without candidates still waits for what the peer sends.
        self.last_send = Some(now + Timing::SENDS[Timing::SENDS.len() - 1]);
        let relayed = relay_round_trip.unwrap_or(Timing::UNKNOWN_RELAY_ROUND_TRIP);
        self.last_answers = Timing::LAST_ANSWERS.max(relayed * 3 / 2);
        for candidate in candidates {
            let mut pair = self.pair(now, candidate.address, keys);
            pair.trusted = true;
            self.pairs.push(pair);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.pairs.clear();
        self.last_send = None;
    }

    /// Whether it has proven a path.
    pub(crate) fn succeeded(&self) -> bool {
        self.succeeded
    }

    /// A fresh number for a path.
    pub(crate) fn fresh_id(&mut self) -> PathId {
        self.next_id = self.next_id.wrapping_add(1);
        PathId(self.next_id)
    }

    /// A probe that is due, counted as sent.
    pub(crate) fn send(&mut self, now: Instant, transaction: Transaction) -> Option<PairProbe> {
        if self.allowed_at().is_some_and(|at| at > now) {
            return None;
        }
        let paced_until = self.paced_until;
        let is_due = |pair: &&mut Pair| pair.due_at(paced_until).is_some_and(|at| at <= now);
        // Untried ones first, in the order of their priority, then whoever waits longest.
        let due = self.pairs.iter_mut().filter(is_due);
        let pair = due.min_by_key(|pair| (pair.sends > 0, pair.next_at))?;
        if pair.sends > 0 {
            self.paced_until = Some(now + Timing::PACE);
        }
        self.whole_at = Some(self.whole_at.map_or(now, |at| at.max(now)) + Timing::PACE);
        pair.sends = pair.sends.saturating_add(1);
        pair.sent_at = Some(now);
        pair.outstanding.push(transaction, now);
        let limit = if self.succeeded {
            Timing::SENDS_AFTER_SUCCESS
        } else {
            pair.limit()
        };
        pair.next_at = Timing::SENDS
            .get(usize::from(pair.sends))
            .filter(|_| pair.trusted && pair.sends < limit)
            .map(|after| (pair.began + *after).max(now));
        self.last_send = self.last_send.max(Some(now));
        Some(PairProbe {
            path: pair.id,
            to: pair.address,
            keys: pair.keys,
        })
    }

    /// When the next probe is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let due = self
            .pairs
            .iter()
            .filter_map(|pair| pair.due_at(self.paced_until))
            .min()?;
        Some(self.allowed_at().map_or(due, |at| due.max(at)))
    }

    /// When the allowance next has room for a probe, if it has been used at all.
    fn allowed_at(&self) -> Option<Instant> {
        let reserve = Timing::PACE * (Timing::PROBE_BURST - 1);
        self.whole_at?.checked_sub(reserve)
    }

    /// When the round is over, if no probe is left to send.
    pub(crate) fn over_at(&self) -> Option<Instant> {
        if self.pairs.iter().any(|pair| pair.next_at.is_some()) {
            return None;
        }
        Some(self.last_send? + self.last_answers)
    }

    /// An authentic probe came from an address that is no path yet, under this set of keys. Returns whether it
    /// may be answered: an address that nobody vouches for gets a packet for a packet, by turns an answer,
    /// which helps the peer, and a probe of ours.
    pub(crate) fn on_probe(
        &mut self,
        now: Instant,
        from: SocketAddr,
        keys: u64,
        trusted: bool,
    ) -> bool {
        let Some(index) = self.place_for(now, from, keys) else {
            return true;
        };
        let pair = &mut self.pairs[index];
        pair.trusted |= trusted;
        pair.heard = true;
        pair.keys = keys;
        pair.credit = pair.credit.saturating_add(1);
        if pair.trusted && pair.sends < pair.limit() {
            // The way is open in one direction: now is the moment, but not twice within one round trip.
            let soonest = pair.sent_at.map_or(now, |at| now.max(at + Timing::PACE));
            pair.next_at = Some(pair.next_at.map_or(soonest, |at| at.min(soonest)));
            return true;
        }
        let answers = pair.credit % 2 == 1;
        if !answers {
            pair.next_at = Some(now);
        }
        answers
    }

    /// An authentic pong came: a path, if it answers a probe of ours to that very address.
    pub(crate) fn on_pong(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: Transaction,
    ) -> Option<Validated> {
        let index = self.pairs.iter().position(|pair| pair.address == from)?;
        let sent_at = self.pairs[index].outstanding.take(transaction)?;
        let pair = self.pairs.remove(index);
        self.succeeded = true;
        for other in &mut self.pairs {
            if other.sends >= Timing::SENDS_AFTER_SUCCESS {
                other.next_at = None;
            }
        }
        let round_trip = now.saturating_duration_since(sent_at);
        Some(Validated {
            path: pair.id,
            address: from,
            round_trip,
        })
    }

    /// A probe came to a port of ours that was guessed: its sender is worth a fresh series.
    pub(crate) fn revive(&mut self, now: Instant, from: SocketAddr, keys: u64) {
        let Some(index) = self.place_for(now, from, keys) else {
            return;
        };
        let pair = &mut self.pairs[index];
        pair.sends = 0;
        pair.sent_at = None;
        pair.began = now;
        pair.next_at = Some(now);
        pair.keys = keys;
    }

    /// Whether the peer has been heard in this round.
    pub(crate) fn is_heard(&self) -> bool {
        self.pairs.iter().any(|pair| pair.heard)
    }

    /// Addresses from which the peer has spoken and which somebody vouches for.
    pub(crate) fn heard(&self) -> impl Iterator<Item = SocketAddr> {
        self.pairs
            .iter()
            .filter(|pair| pair.heard && pair.trusted)
            .map(|pair| pair.address)
    }

    /// The pair of an address, or a new one for it; `None` if there is no room.
    fn place_for(&mut self, now: Instant, from: SocketAddr, keys: u64) -> Option<usize> {
        if let Some(index) = self.pairs.iter().position(|pair| pair.address == from) {
            return Some(index);
        }
        let reflexive = self.pairs.iter().filter(|pair| pair.reflexive).count();
        if reflexive >= Timing::MAX_PEER_REFLEXIVE {
            let spent = |pair: &Pair| pair.reflexive && pair.next_at.is_none();
            let index = self.pairs.iter().position(spent)?;
            self.pairs.remove(index);
        }
        let mut pair = self.pair(now, from, keys);
        pair.reflexive = true;
        pair.next_at = None;
        self.pairs.push(pair);
        Some(self.pairs.len() - 1)
    }

    fn pair(&mut self, now: Instant, address: SocketAddr, keys: u64) -> Pair {
        Pair {
            id: self.fresh_id(),
            address,
            trusted: false,
            reflexive: false,
            credit: 0,
            keys,
            began: now,
            sends: 0,
            sent_at: None,
            next_at: Some(now),
            outstanding: Outstanding::default(),
            heard: false,
        }
    }
}

impl Pair {
    fn limit(&self) -> u8 {
        Timing::SENDS.len() as u8
    }

    fn due_at(&self, paced_until: Option<Instant>) -> Option<Instant> {
        let next_at = self.next_at?;
        let paced = paced_until.filter(|_| self.sends > 0);
        Some(paced.map_or(next_at, |until| next_at.max(until)))
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as a beginning"
)]
mod tests {
    use super::*;
    use crate::{CandidateKind, MAX_CANDIDATES};

    const RELAY: Option<Duration> = Some(Duration::from_millis(100));

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    #[test]
    fn many_rounds_get_no_more_probes_than_the_allowance() {
        let start = Instant::now();
        let mut round = Round::default();
        let mut sent = 0;
        for step in 0..1_000 {
            let now = start + Duration::from_millis(10) * step;
            if step % 10 == 0 {
                round.begin(now, &candidates(10), 1, RELAY);
            }
            while round.send(now, Transaction(u64::from(sent))).is_some() {
                sent += 1;
            }
        }
        assert!(
            (200..=200 + Timing::PROBE_BURST).contains(&sent),
            "{sent} in 10 s"
        );
    }

    fn candidates(count: u16) -> Vec<Candidate> {
        let kind = CandidateKind::Host;
        (1..=count)
            .map(|port| Candidate {
                kind,
                address: at(port),
            })
            .collect()
    }

    /// All that is sent until the round is over: when, and to which port.
    fn run(round: &mut Round, start: Instant) -> Vec<(Duration, u16)> {
        let mut sent = Vec::new();
        let mut transaction = 0;
        while let Some(next) = round.next_at() {
            while let Some(probe) = round.send(next, Transaction(transaction)) {
                sent.push((next - start, probe.to.port()));
                transaction += 1;
            }
            assert!(sent.len() < 1_000, "a round ends");
        }
        sent
    }

    #[test]
    fn a_round_is_a_burst_and_then_paced() {
        let start = Instant::now();
        let mut round = Round::default();
        round.begin(start, &candidates(MAX_CANDIDATES as u16), 1, RELAY);
        let sent = run(&mut round, start);
        assert_eq!(sent.len(), MAX_CANDIDATES * Timing::SENDS.len());
        let burst: Vec<_> = sent
            .iter()
            .take(MAX_CANDIDATES)
            .map(|(_, port)| *port)
            .collect();
        assert_eq!(burst, (1..=10).collect::<Vec<_>>(), "each once, best first");
        assert!(
            sent[..MAX_CANDIDATES]
                .iter()
                .all(|(after, _)| after.is_zero())
        );
        let paced = &sent[MAX_CANDIDATES..];
        assert!(
            paced
                .windows(2)
                .all(|pair| pair[1].0 - pair[0].0 >= Timing::PACE)
        );
        for port in 1..=10 {
            assert_eq!(
                sent.iter().filter(|(_, to)| *to == port).count(),
                Timing::SENDS.len()
            );
        }
    }

    #[test]
    fn a_single_candidate_is_probed_on_schedule_and_then_the_round_ends() {
        let start = Instant::now();
        let mut round = Round::default();
        round.begin(start, &candidates(1), 1, RELAY);
        assert_eq!(round.over_at(), None);
        let times: Vec<_> = run(&mut round, start)
            .into_iter()
            .map(|(after, _)| after)
            .collect();
        assert_eq!(times, Timing::SENDS);
        let last = start + Timing::SENDS[8];
        assert_eq!(round.over_at(), Some(last + Timing::LAST_ANSWERS));
        assert!(!round.succeeded());
    }

    #[test]
    fn only_the_right_answer_from_the_right_address_proves_a_path() {
        let start = Instant::now();
        let mut round = Round::default();
        round.begin(start, &candidates(2), 1, RELAY);
        round.send(start, Transaction(11)).expect("due");
        round.send(start, Transaction(12)).expect("due");
        let later = start + Duration::from_millis(30);
        assert_eq!(
            round.on_pong(later, at(1), Transaction(99)),
            None,
            "no transaction of ours"
        );
        assert_eq!(
            round.on_pong(later, at(1), Transaction(12)),
            None,
            "of another pair"
        );
        assert_eq!(
            round.on_pong(later, at(3), Transaction(11)),
            None,
            "from elsewhere"
        );
        let path = round
            .on_pong(later, at(1), Transaction(11))
            .expect("proven");
        assert_eq!(
            (path.address, path.round_trip),
            (at(1), Duration::from_millis(30))
        );
        assert_eq!(round.on_pong(later, at(1), Transaction(11)), None, "once");
        let more = run(&mut round, start);
        assert_eq!(
            more.len(),
            usize::from(Timing::SENDS_AFTER_SUCCESS) - 1,
            "the rest is brief"
        );
    }

    #[test]
    fn a_trusted_source_is_probed_back_at_once() {
        let start = Instant::now();
        let mut round = Round::default();
        round.begin(start, &candidates(1), 1, RELAY);
        round.send(start, Transaction(1)).expect("due");
        assert!(round.on_probe(start, at(7), 1, true));
        let probe = round.send(start, Transaction(2)).expect("due at once");
        assert_eq!(probe.to, at(7));
        assert!(round.on_pong(start, at(7), Transaction(2)).is_some());
    }

    #[test]
    fn an_untrusted_source_gets_a_packet_for_a_packet() {
        let start = Instant::now();
        let mut round = Round::default();
        let (mut received, mut sent) = (0, 0);
        for step in 0..100 {
            let now = start + Timing::PACE * step;
            received += 1;
            sent += u32::from(round.on_probe(now, at(7), 1, false));
            while round.send(now, Transaction(u64::from(step))).is_some() {
                sent += 1;
            }
            assert!(sent <= received);
        }
        assert!(round.heard().next().is_none());
        assert!(
            round.on_pong(start, at(7), Transaction(1)).is_none(),
            "long forgotten"
        );
    }

    #[test]
    fn sources_are_bounded() {
        let start = Instant::now();
        let mut round = Round::default();
        for port in 1..=1_000 {
            assert!(
                round.on_probe(start, at(port), 1, true),
                "an authentic probe is answered"
            );
        }
        assert_eq!(round.pairs.len(), Timing::MAX_PEER_REFLEXIVE);
        assert!(run(&mut round, start).len() <= Timing::MAX_PEER_REFLEXIVE * Timing::SENDS.len());
    }

    #[test]
    fn a_round_without_candidates_waits_for_the_peer() {
        let start = Instant::now();
        let mut round = Round::default();
        round.begin(start, &[], 1, RELAY);
        assert_eq!(round.next_at(), None);
        assert!(round.over_at() > Some(start + Timing::LAST_ANSWERS));
    }
}
