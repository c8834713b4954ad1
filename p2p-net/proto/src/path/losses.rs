//! The used path where packets get lost: when a trial against the relay is worth its probes, and what its verdict
//! changes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Paths, Situation};
use crate::timer::Timing;
use crate::trial::{Illness, Trial, Verdict, Way};
use crate::{Activity, PathId, Transaction};

/// What is known of losses on the used path, and what was done about them.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// As the data path counted them, and when there was a new one.
    pub(super) count: u64,
    pub(super) seen_at: Option<Instant>,
    /// A call goes on, which keeps its own rate below what fills queues.
    pub(super) call: bool,
    pub(super) trial: Option<(PathId, Trial)>,
    /// Not before this another trial; after so many that led to nothing.
    pub(super) rest: Option<Instant>,
    pub(super) fruitless: u32,
    /// When a path that had lost was taken again, and for how long it had had to be clean.
    pub(super) returned: Option<(Instant, Duration)>,
}

impl Paths {
    /// A pong came through the relay.
    pub(crate) fn on_relayed_pong(&mut self, transaction: Transaction) {
        if let Some((_, trial)) = &mut self.losses.trial {
            trial.on_answer(transaction, Way::Relay);
        }
    }

    /// Takes a snapshot of the data path.
    pub(crate) fn on_activity(&mut self, now: Instant, activity: &Activity, at: &Situation) {
        self.watch.on_activity(now, activity);
        let before = std::mem::replace(&mut self.losses.count, activity.direct_lost);
        self.losses.call = activity.call;
        if activity.direct_lost > before {
            self.losses.seen_at = Some(now);
        }
        if self.is_worth_a_trial(now, at)
            && let Some(id) = self.used
        {
            let trial = Trial::new(now, self.losses.fruitless > 0);
            self.losses.trial = Some((id, trial));
        }
    }

    /// Whether the relay may serve a call better, as far as losses go. Those of a transfer, which fills queues until
    /// something is lost, are no sign of a bad path.
    fn is_worth_a_trial(&self, now: Instant, at: &Situation) -> bool {
        let Some(used) = self.used_path().filter(|_| at.relay) else {
            return false;
        };
        let losses = &self.losses;
        let recent = |at: Instant| now.saturating_duration_since(at) < Timing::LOSS_FRESH;
        let detour = |relayed: Duration| relayed > used.round_trip.smoothed + Timing::RELAY_DETOUR;
        losses.seen_at.is_some_and(recent)
            && losses.trial.is_none()
            && losses.rest.is_none_or(|until| until <= now)
            && self.watch.is_steady()
            && (losses.call || !self.watch.is_loaded(now))
            && !used.round_trip.is_inflated()
            && !at.relay_round_trip.is_some_and(detour)
    }

    /// When the next probes of a trial are due.
    pub(crate) fn trial_at(&self) -> Option<Instant> {
        self.losses.trial.as_ref().map(|(_, trial)| trial.next_at())
    }

    /// Ends a trial that has come to something; else counts the next pair of probes as sent: the first to that
    /// address, the second through the relay.
    pub(crate) fn on_trial(
        &mut self,
        now: Instant,
        at: &Situation,
        [direct, relay]: [Transaction; 2],
    ) -> Option<(PathId, SocketAddr)> {
        let (of, trial) = self.losses.trial.as_mut()?;
        let path = self.list.iter().find(|path| path.id == *of);
        let Some(path) = path.filter(|path| self.used == Some(path.id) && at.relay) else {
            self.losses.trial = None;
            return None;
        };
        let relayed = at
            .relay_round_trip
            .unwrap_or(Timing::UNKNOWN_RELAY_ROUND_TRIP);
        let patience = path.timeout().max(relayed + Timing::TRIAL_MARGIN);
        match trial.verdict(now, patience) {
            Verdict::Open => {
                trial.on_sent(now, direct, relay);
                Some((path.id, path.address))
            }
            Verdict::RelayWins if !path.round_trip.is_inflated() => {
                self.lose_to_relay(now);
                None
            }
            Verdict::RelayWins | Verdict::DirectStays => {
                let rest = Timing::TRIAL_REST * (1 << self.losses.fruitless.min(8));
                self.losses.rest = Some(now + rest.min(Timing::TRIAL_MAX_REST));
                self.losses.fruitless = self.losses.fruitless.saturating_add(1);
                self.losses.trial = None;
                None
            }
        }
    }

    /// The relay carries what the direct paths lose; they all share a line, as a rule.
    fn lose_to_relay(&mut self, now: Instant) {
        let again = |(at, _): &(Instant, Duration)| {
            now.saturating_duration_since(*at) < Timing::LOSS_MEMORY
        };
        let hold = match self.losses.returned.filter(again) {
            Some((_, before)) => Timing::MAX_HOLD.min(before * 2),
            None => Timing::LOSS_HOLD,
        };
        for path in self.list.iter_mut().filter(|path| path.lives()) {
            path.illness = Some(Illness::new(now, hold));
        }
        self.used = None;
        self.challenge = None;
        self.shunned = true;
        self.losses.trial = None;
        self.losses.fruitless = 0;
        self.losses.returned = Some((now, hold));
    }
}
