//! The direct path against the relay where packets get lost: paced probes go both ways at the same pace for a
//! second or two, and are compared slot by slot. What is lost on the access line, or in a queue that we fill
//! ourselves, is lost on both; what the relay is spared belongs to the direct path.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Transaction;
use crate::timer::Timing;

/// One of the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Relay,
}

/// What a trial has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// More must be seen.
    Open,
    /// Direct loses what the relay does not.
    RelayWins,
    /// Direct is not worse, or not by enough.
    DirectStays,
}

/// Probes of one slot of time.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    sent: [u32; 2],
    answered: [u32; 2],
}

impl Slot {
    fn loses(&self, way: Way) -> bool {
        self.answered[way as usize] < self.sent[way as usize]
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Trial {
    began: Instant,
    /// One before has led to nothing, so there is no hurry: more must speak for the relay.
    strict: bool,
    sent_at: Option<Instant>,
    /// By their place since the beginning.
    slots: Vec<Slot>,
    /// Probes under way: which way, when, and which slot.
    waiting: VecDeque<(Transaction, Way, Instant)>,
}

impl Trial {
    pub(crate) fn new(now: Instant, strict: bool) -> Self {
        Self {
            began: now,
            strict,
            sent_at: None,
            slots: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// When the next pair of probes is due.
    pub(crate) fn next_at(&self) -> Instant {
        self.sent_at
            .map_or(self.began, |at| at + Timing::PROBE_TRIAL)
    }

    /// A pair of probes goes out.
    pub(crate) fn on_sent(&mut self, now: Instant, direct: Transaction, relay: Transaction) {
        self.sent_at = Some(now);
        for (transaction, way) in [(direct, Way::Direct), (relay, Way::Relay)] {
            let at = self.slot(now);
            if let Some(slot) = self.slots.get_mut(at) {
                slot.sent[way as usize] += 1;
                self.waiting.push_back((transaction, way, now));
            }
        }
    }

    /// An answer came this way; when its probe went out, if it is one of ours.
    pub(crate) fn on_answer(&mut self, transaction: Transaction, by: Way) -> Option<Instant> {
        let ours =
            |(waiting, way, _): &(Transaction, Way, Instant)| *waiting == transaction && *way == by;
        let at = self.waiting.iter().position(ours)?;
        let (_, way, sent_at) = self.waiting.remove(at)?;
        let at = self.slot(sent_at);
        self.slots.get_mut(at)?.answered[way as usize] += 1;
        Some(sent_at)
    }

    /// What is known now, where an answer takes `patience` at most.
    pub(crate) fn verdict(&self, now: Instant, patience: Duration) -> Verdict {
        let age = now.saturating_duration_since(self.began);
        let settled = age.saturating_sub(patience).as_millis() / Timing::TRIAL_SLOT.as_millis();
        let settled = usize::try_from(settled).unwrap_or(usize::MAX);
        let slots = &self.slots[..settled.min(self.slots.len())];
        let lossy = |way| slots.iter().filter(|slot| slot.loses(way)).count();
        let (direct, relay) = (lossy(Way::Direct), lossy(Way::Relay));
        let first = slots.iter().position(|slot| slot.loses(Way::Direct));
        let last = slots.iter().rposition(|slot| slot.loses(Way::Direct));
        let lasted = first.zip(last).map_or(0, |(first, last)| last - first);
        let enough = if self.strict { 9 } else { 5 };
        let wins = direct >= enough
            && relay * 8 <= direct
            && lasted >= Timing::TRIAL_SPAN
            && direct * 100 >= slots.len() * Timing::TRIAL_LOSSY_PERCENT;
        if wins {
            return Verdict::RelayWins;
        }
        let no_better = relay >= 2 && relay * 2 >= direct;
        let hardly_lossy = slots.len() >= 15 && direct * 6 < slots.len();
        if no_better || hardly_lossy || slots.len() >= Timing::TRIAL_SLOTS {
            return Verdict::DirectStays;
        }
        Verdict::Open
    }

    /// The slot of an instant, made if need be; none beyond the last.
    fn slot(&mut self, at: Instant) -> usize {
        let age = at.saturating_duration_since(self.began).as_millis();
        let index = usize::try_from(age / Timing::TRIAL_SLOT.as_millis()).unwrap_or(usize::MAX);
        if index < Timing::TRIAL_SLOTS && index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::default());
        }
        index
    }
}

/// The direct path lost against the relay: it must be clean for a time before it is used again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Illness {
    since: Instant,
    hold: Duration,
    probes: u32,
    lost: u32,
}

impl Illness {
    pub(crate) fn new(now: Instant, hold: Duration) -> Self {
        Self {
            since: now,
            hold,
            probes: 0,
            lost: 0,
        }
    }

    /// When it is over, if nothing more is lost.
    pub(crate) fn ends_at(&self) -> Instant {
        self.since + self.hold
    }

    pub(crate) fn on_answer(&mut self) {
        self.probes = self.probes.saturating_add(1);
    }

    /// A few may be lost; more than that, and its time begins anew.
    pub(crate) fn on_unanswered(&mut self, now: Instant) {
        self.probes = self.probes.saturating_add(1);
        self.lost = self.lost.saturating_add(1);
        if self.lost >= 3 && self.lost.saturating_mul(40) > self.probes {
            *self = Self::new(now, self.hold);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as a beginning"
)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(150);

    /// Runs a trial over ways that lose this share of round trips, as functions of the time since its beginning;
    /// what came of it, and when.
    fn run(seed: u64, strict: bool, losses: [&dyn Fn(Duration) -> f64; 2]) -> (Verdict, Duration) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let start = Instant::now();
        let mut trial = Trial::new(start, strict);
        let mut number = 0;
        loop {
            let now = trial.next_at();
            match trial.verdict(now, PATIENCE) {
                Verdict::Open => {}
                verdict => return (verdict, now - start),
            }
            let pair = [Transaction(number), Transaction(number + 1)];
            number += 2;
            trial.on_sent(now, pair[0], pair[1]);
            for (way, at) in [(Way::Direct, 0), (Way::Relay, 1)] {
                if random.random::<f64>() >= losses[at](now - start) {
                    let ours = trial.on_answer(pair[at], way);
                    assert!(ours == Some(now) || now - start >= Duration::from_secs(4));
                }
            }
            assert!(now - start < Duration::from_secs(10), "it ends");
        }
    }

    fn wins(strict: bool, losses: [&dyn Fn(Duration) -> f64; 2]) -> (usize, Duration) {
        let all: Vec<_> = (0..400).map(|seed| run(seed, strict, losses)).collect();
        let mut won: Vec<_> = all
            .iter()
            .filter(|(verdict, _)| *verdict == Verdict::RelayWins)
            .map(|(_, took)| *took)
            .collect();
        won.sort_unstable();
        (
            won.len(),
            won.get(won.len() / 2).copied().unwrap_or_default(),
        )
    }

    #[test]
    fn five_percent_each_way_beside_a_clean_relay_loses() {
        let (won, took) = wins(false, [&|_| 0.0975, &|_| 0.0]);
        assert!(won >= 380, "{won} of 400");
        assert!(took <= Duration::from_millis(1_500), "{took:?}");
        let (won, _) = wins(true, [&|_| 0.0975, &|_| 0.0]);
        assert!(won >= 340, "{won} of 400");
    }

    #[test]
    fn equal_losses_leave_things_as_they_are() {
        for loss in [0.0, 0.02, 0.05, 0.0975, 0.2, 0.5] {
            let (won, _) = wins(false, [&|_| loss, &|_| loss]);
            assert!(won <= 10, "{won} of 400 at {loss}");
            let (won, _) = wins(true, [&|_| loss, &|_| loss]);
            assert!(won <= 2, "{won} of 400 at {loss}");
        }
    }

    #[test]
    fn a_burst_is_no_habit() {
        let burst = |at: Duration| {
            if at < Duration::from_millis(500) {
                0.6
            } else {
                0.0
            }
        };
        assert_eq!(wins(false, [&burst, &|_| 0.0]).0, 0);
    }

    #[test]
    fn a_relay_that_answers_nothing_wins_nothing() {
        assert_eq!(wins(false, [&|_| 0.0975, &|_| 1.0]).0, 0);
    }

    #[test]
    fn an_illness_ends_when_little_is_lost() {
        let start = Instant::now();
        let hold = Duration::from_secs(20);
        let mut illness = Illness::new(start, hold);
        for step in 1..=200 {
            match step % 100 {
                0 => illness.on_unanswered(start + Duration::from_millis(step * 100)),
                _ => illness.on_answer(),
            }
        }
        assert_eq!(illness.ends_at(), start + hold, "one of a hundred");
        let later = start + Duration::from_secs(20);
        for _ in 0..5 {
            illness.on_unanswered(later);
        }
        assert_eq!(illness.ends_at(), later + hold);
    }
}
