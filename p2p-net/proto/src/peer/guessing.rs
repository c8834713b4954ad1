//! What a [`Peer`] does when an ordinary round of punching has failed: it finds out how its translator serves
//! it, exchanges that with the other side, and guesses ports where that makes sense (`guess.rs`), while the
//! relay carries the traffic. The first answer that proves a path ends it.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::Rng;

use super::{Output, Peer, SignalBody, reflexive};
use crate::guess::{
    AFTER_FAILURE, AFTER_REFUSAL, AFTER_SILENCE, ANSWERS_OVERDUE, HINT_OVERDUE, Kind, MAX_PROBES,
    Opener, PACE, Prober, Role, SAMPLE_SOCKETS, SAMPLES_OVERDUE, role,
};
use crate::probe::{Opened, PROBE_LEN, Probe};
use crate::punch::Validated;
use crate::session::Phase;
use crate::timer::Timing;
use crate::wire::{Guess, Hint};
use crate::{NotDirect, Sample, Transaction, usable};

/// How far it is.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing goes on, and nothing is planned.
    #[default]
    Off,
    /// A round has just begun; this is when it is doubted.
    Armed(Instant),
    /// The relay was asked how our translator serves us; until then.
    Sampling(Instant),
    /// We know ours and wait for the other side's hint, or for its ports; until then.
    Waiting(Instant),
    /// We know what to do, and ask whether we may.
    Asking(SocketAddr, Plan, Instant),
    /// Our sockets are being opened; until then.
    Opening(SocketAddr, RangeInclusive<u16>, Instant),
    /// We opened ports, and the other side probes for them; until then.
    Opened(Opener, Instant),
    /// We probe.
    Probing(Prober, Duration),
}

/// What is done once it is allowed.
#[derive(Debug, Clone)]
enum Plan {
    /// So many of our ports, most likely in this range, are opened.
    Open(u16, RangeInclusive<u16>),
    /// Theirs are probed for.
    Probe(RangeInclusive<u16>),
    /// Their next ones are probed: the first, and the step.
    Predict(u16, u16),
}

/// The guess at one peer's ports.
#[derive(Debug, Default)]
pub(super) struct Guessing {
    stage: Stage,
    /// The session whose round it belongs to.
    session: Option<[u8; 16]>,
    ours: Option<Kind>,
    theirs: Option<Kind>,
    /// Ours as it last was, for whoever asks while we rest.
    last: Option<Kind>,
    /// Their ports came before we knew our own kind.
    early: Option<Guess>,
    /// We asked for this address, and have it unless refused.
    reserved: Option<IpAddr>,
    /// Addresses that are reached from an extra socket.
    vias: Vec<SocketAddr>,
    /// The one of them that this guess has found, and its socket.
    adopted: Option<(SocketAddr, u16)>,
    /// Extra sockets are open.
    sockets: bool,
    /// Not again before this, for that reason.
    rest: Option<(Instant, NotDirect)>,
}

impl Guessing {
    /// The situation is a new one: what was learnt, and what failed, counts no longer.
    pub(super) fn begin_anew(&mut self) {
        self.rest = None;
    }

    /// The relay is back: what it did not tell, or carry, before does not count.
    pub(super) fn relay_is_back(&mut self) {
        self.rest = self.rest.filter(|(_, why)| *why != NotDirect::NatUnknown);
    }

    /// Both sides know this session.
    pub(super) fn agree(&mut self, session: [u8; 16]) {
        self.session = Some(session);
    }

    /// Why it led to nothing, while that holds.
    pub(super) fn verdict(&self) -> Option<NotDirect> {
        self.rest.map(|(_, why)| why)
    }

    /// When something is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Off => None,
            Stage::Armed(at)
            | Stage::Sampling(at)
            | Stage::Waiting(at)
            | Stage::Asking(_, _, at)
            | Stage::Opening(_, _, at) => Some(*at),
            Stage::Opened(opener, until) => Some(opener.next_at().unwrap_or(*until).min(*until)),
            Stage::Probing(prober, patience) => {
                let over = || prober.last_at() + *patience;
                Some(prober.next_at().unwrap_or_else(over))
            }
        }
    }

    /// Whether packets to or from guessed ports have been sent.
    fn has_spent(&self) -> bool {
        match &self.stage {
            Stage::Opened(..) => true,
            Stage::Probing(prober, _) => prober.has_sent(),
            _ => false,
        }
    }

    /// Whether a round that is over shall wait for it.
    pub(super) fn goes_on(&self) -> bool {
        !matches!(self.stage, Stage::Off | Stage::Armed(_))
    }
}

impl Peer {
    /// A round begins: it may be doubted, and extra sockets of dead paths have had their time.
    pub(super) fn arm_guess(&mut self, now: Instant) {
        self.break_off_guess(now);
        let living: Vec<SocketAddr> = self.paths.living().collect();
        for gone in std::mem::take(&mut self.guess.vias) {
            if living.contains(&gone) {
                self.guess.vias.push(gone);
            } else {
                self.outputs.push_back(Output::Via(gone, None));
            }
        }
        self.guess.rest = self.guess.rest.filter(|(until, _)| *until > now);
        if self.guess.rest.is_none() && !self.surroundings.loopback {
            let relayed = self.relay_round_trip();
            let relayed = relayed.unwrap_or(Timing::UNKNOWN_RELAY_ROUND_TRIP);
            self.guess.stage = Stage::Armed(now + Timing::DOUBT + relayed);
        }
    }

    /// Ends whatever goes on, without a verdict.
    pub(super) fn end_guess(&mut self) {
        self.end_guess_as(false);
    }

    fn end_guess_as(&mut self, failed: bool) {
        self.guess.stage = Stage::Off;
        self.guess.ours = None;
        self.guess.theirs = None;
        self.guess.early = None;
        self.guess.adopted = None;
        if std::mem::take(&mut self.guess.sockets) {
            self.outputs.push_back(Output::Shut);
        }
        if let Some(ip) = self.guess.reserved.take() {
            self.outputs.push_back(Output::Release(ip, failed));
        }
    }

    /// Ends it before its time. What has been spent counts as a failure: whoever begins sessions one after the
    /// other gets no more packets out of us than whoever waits.
    fn break_off_guess(&mut self, now: Instant) {
        if self.guess.has_spent() {
            self.give_up_guess(now, NotDirect::GuessFailed);
        } else {
            self.end_guess();
        }
    }

    /// Forgets sockets and plans alike.
    pub(super) fn forget_guess(&mut self, now: Instant) {
        self.break_off_guess(now);
        self.guess.session = None;
        for gone in std::mem::take(&mut self.guess.vias) {
            self.outputs.push_back(Output::Via(gone, None));
        }
    }

    /// An address is no longer this peer's.
    pub(super) fn drop_via(&mut self, gone: SocketAddr) {
        if let Some(at) = self.guess.vias.iter().position(|via| *via == gone) {
            self.guess.vias.swap_remove(at);
            self.outputs.push_back(Output::Via(gone, None));
        }
    }

    /// It led to nothing: not again for a while.
    fn give_up_guess(&mut self, now: Instant, why: NotDirect) {
        let rest = match why {
            NotDirect::GuessFailed => AFTER_FAILURE,
            NotDirect::GuessWaits => Duration::ZERO,
            NotDirect::NatUnknown => AFTER_SILENCE,
            _ => AFTER_REFUSAL,
        };
        self.guess.rest = Some((now + rest, why));
        self.end_guess_as(why == NotDirect::GuessFailed);
    }

    pub(super) fn on_guess_timer(&mut self, now: Instant) {
        let due = self.guess.next_at().is_some_and(|at| at <= now);
        if !due {
            return;
        }
        match &mut self.guess.stage {
            Stage::Off => {}
            Stage::Armed(at) => {
                if self.round.succeeded() || self.paths.any_lives() {
                    self.guess.stage = Stage::Off;
                } else if self.round.is_heard() {
                    // They reach us: it is a matter of moments, or of loss.
                    *at = now + Timing::DOUBT;
                } else {
                    let patience = self.relay_leg() * 2;
                    self.guess.stage = Stage::Sampling(now + SAMPLES_OVERDUE.max(patience));
                    self.guess.sockets = true;
                    self.outputs.push_back(Output::Sample(SAMPLE_SOCKETS));
                }
            }
            Stage::Sampling(_) => self.on_samples(now, &[]),
            Stage::Waiting(_) => {
                let why = match self.guess.theirs {
                    None => NotDirect::NatUnknown,
                    Some(_) => NotDirect::GuessWaits,
                };
                self.give_up_guess(now, why);
            }
            Stage::Asking(..) | Stage::Opening(..) => {
                self.give_up_guess(now, NotDirect::GuessWaits)
            }
            Stage::Opened(opener, until) => {
                if *until <= now {
                    self.give_up_guess(now, NotDirect::GuessFailed);
                } else if let Some(opening) = opener.send(now, &mut self.random) {
                    let packet = self.guess_probe(opening.transaction);
                    self.transmit_from(opening.socket, opening.to, packet);
                }
            }
            Stage::Probing(prober, _) => {
                let transaction = Transaction(self.random.next_u64());
                if let Some(to) = prober.send(now, transaction) {
                    let packet = self.guess_probe(transaction);
                    self.transmit(to, packet);
                } else if prober.next_at().is_none() {
                    self.give_up_guess(now, NotDirect::GuessFailed);
                }
            }
        }
    }

    fn guess_probe(&mut self, transaction: Transaction) -> Option<[u8; PROBE_LEN]> {
        let keys = self.keys.current(true)?;
        self.keys.seal_probe(
            keys,
            &Probe {
                transaction,
                path: 0,
            },
        )
    }

    fn transmit_from(&mut self, socket: u16, to: SocketAddr, packet: Option<[u8; PROBE_LEN]>) {
        if let Some(packet) = packet {
            self.outputs.push_back(Output::TransmitFrom {
                socket,
                to,
                payload: packet.to_vec(),
            });
        }
    }

    /// The relay said from where it saw our extra sockets.
    pub(super) fn on_samples(&mut self, now: Instant, samples: &[Sample]) {
        if !matches!(self.guess.stage, Stage::Sampling(_)) {
            return;
        }
        let Some(session) = self.guess.session else {
            return;
        };
        let ours = Kind::of(samples);
        self.guess.ours = Some(ours);
        self.guess.last = Some(ours);
        self.signal(SignalBody::Hint(ours.hint(session)));
        let patience = self.relay_round_trip().unwrap_or_default() * 3;
        self.guess.stage = Stage::Waiting(now + HINT_OVERDUE.max(patience));
        if !ours.is_symmetric() && std::mem::take(&mut self.guess.sockets) {
            self.outputs.push_back(Output::Shut);
        }
        self.go_on_guessing(now);
    }

    pub(super) fn on_hint(&mut self, now: Instant, hint: &Hint) {
        if self.guess.session != Some(hint.session) || self.guess.theirs.is_some() {
            return;
        }
        self.guess.theirs = Some(Kind::told(hint));
        // They doubt the round, so we may.
        match &mut self.guess.stage {
            Stage::Armed(at) => *at = now,
            Stage::Off => self.reconsider(now),
            _ => {}
        }
        self.go_on_guessing(now);
    }

    /// They doubt a round in which we did not mean to guess. What spoke against it may have been on their side,
    /// and be gone. After a failure they hear of our kind, so that they know why nothing comes; once a session.
    fn reconsider(&mut self, now: Instant) {
        let unproven = !self.round.succeeded() && !self.paths.any_lives();
        let Some((_, why)) = self.guess.rest.filter(|_| unproven) else {
            return;
        };
        if why != NotDirect::GuessFailed {
            if self.session.phase == Phase::Punching {
                self.guess.rest = None;
                self.guess.stage = Stage::Armed(now);
            }
        } else if let (Some(kind), Some(session)) = (self.guess.last, self.guess.session) {
            self.signal(SignalBody::Hint(kind.hint(session)));
        }
    }

    pub(super) fn on_guess(&mut self, now: Instant, guess: Guess) {
        if self.guess.session != Some(guess.session) || guess.low > guess.high {
            return;
        }
        self.guess.early = Some(guess);
        self.go_on_guessing(now);
    }

    /// Decides what to do, once both kinds are known, and asks whether it may be done.
    fn go_on_guessing(&mut self, now: Instant) {
        let (Stage::Waiting(_), Some(ours), Some(theirs)) =
            (&self.guess.stage, self.guess.ours, self.guess.theirs)
        else {
            return;
        };
        let plan = match role(ours, theirs) {
            Err(why) => return self.give_up_guess(now, why),
            Ok(Role::Opens) => ours.plan().map(|(count, range)| Plan::Open(count, range)),
            Ok(Role::Probes) => {
                let early = self.guess.early.take();
                early.map(|guess| Plan::Probe(guess.low..=guess.high))
            }
            Ok(Role::Predicts(next, step)) => Some(Plan::Predict(next, step)),
        };
        let Some(plan) = plan else { return };
        let Some(target) = self.guess_target(now) else {
            return self.give_up_guess(now, NotDirect::NatUnknown);
        };
        self.guess.stage = Stage::Asking(target, plan, now + SAMPLES_OVERDUE);
        self.guess.reserved = Some(target.ip());
        self.outputs.push_back(Output::Reserve(target.ip()));
    }

    /// The peer's one address: as the relay saw it for that peer, and not long ago (`wire.md` §6).
    fn guess_target(&self, now: Instant) -> Option<SocketAddr> {
        let attestation = self.attestation(now);
        let mut seen = self.theirs.observed.iter().map(reflexive);
        let fit = |candidate: &crate::Candidate| {
            candidate.address.is_ipv4() && usable(candidate, &attestation)
        };
        seen.find(fit).map(|candidate| candidate.address)
    }

    /// How long answers are waited for.
    fn patience(&self) -> Duration {
        ANSWERS_OVERDUE.max(self.relay_round_trip().unwrap_or_default())
    }

    pub(super) fn on_reserved(&mut self, now: Instant, granted: bool) {
        if !granted {
            self.guess.reserved = None;
        }
        let Stage::Asking(target, plan, _) = &self.guess.stage else {
            return;
        };
        let (target, plan) = (*target, plan.clone());
        if !granted {
            return self.give_up_guess(now, NotDirect::GuessWaits);
        }
        let (ip, patience) = (target.ip(), self.patience());
        let barred = &self.surroundings.relays;
        self.guess.stage = match plan {
            Plan::Open(count, range) => {
                self.guess.sockets = true;
                self.outputs.push_back(Output::Open(count));
                Stage::Opening(target, range, now + SAMPLES_OVERDUE)
            }
            Plan::Probe(range) => {
                let prober = Prober::new(now, ip, range, &mut self.random, barred);
                Stage::Probing(prober, patience)
            }
            Plan::Predict(next, step) => {
                Stage::Probing(Prober::ahead(now, ip, next, step, barred), patience)
            }
        };
    }

    /// So many sockets are open: the other side hears of it, and each sends its packet.
    pub(super) fn on_opened(&mut self, now: Instant, count: u16) {
        let Stage::Opening(target, range, _) = &self.guess.stage else {
            return;
        };
        let (target, low, high) = (*target, *range.start(), *range.end());
        let Some(session) = self.guess.session.filter(|_| count > 0) else {
            return self.give_up_guess(now, NotDirect::GuessWaits);
        };
        self.signal(SignalBody::Guess(Guess {
            session,
            low,
            high,
            opened: count,
        }));
        let budget = u32::try_from(MAX_PROBES).unwrap_or(u32::MAX);
        let until = now + PACE * budget + self.patience() * 2;
        self.guess.stage = Stage::Opened(Opener::new(now, target, count), until);
    }

    /// A pong that no round and no path expected.
    pub(super) fn on_guessed_pong(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: Transaction,
    ) {
        let Stage::Probing(prober, _) = &self.guess.stage else {
            return;
        };
        if let Some(round_trip) = prober.answered(now, from, transaction) {
            self.on_guessed(now, from, round_trip);
        }
    }

    /// Something came to an extra socket: a port of ours was hit, unless it is another one than before.
    pub(super) fn on_extra_packet(
        &mut self,
        now: Instant,
        (socket, from): (u16, SocketAddr),
        packet: &[u8],
    ) {
        if !matches!(self.guess.stage, Stage::Opened(..)) || !self.trusts(now, from) {
            return;
        }
        let known = self.guess.adopted;
        if known.is_some_and(|known| known != (from, socket)) {
            return;
        }
        let Some((keys, opened)) = self.keys.open(now, packet) else {
            return;
        };
        match opened {
            Opened::Probe(probe) => {
                if known.is_none() {
                    self.adopt(from, socket);
                    self.round.revive(now, from, keys);
                }
                self.on_probe(now, from, keys, probe);
            }
            Opened::Pong(pong) => {
                let Stage::Opened(opener, _) = &self.guess.stage else {
                    return;
                };
                let answered = opener.answered(now, (socket, from), pong.transaction);
                if let Some(round_trip) = answered {
                    if known.is_none() {
                        self.adopt(from, socket);
                    }
                    self.on_guessed(now, from, round_trip);
                } else {
                    self.on_pong(now, from, pong.transaction);
                }
            }
        }
    }

    fn adopt(&mut self, remote: SocketAddr, socket: u16) {
        self.guess.adopted = Some((remote, socket));
        if !self.guess.vias.contains(&remote) {
            self.guess.vias.push(remote);
        }
        self.outputs.push_back(Output::Via(remote, Some(socket)));
    }

    /// A guessed port answers.
    fn on_guessed(&mut self, now: Instant, address: SocketAddr, round_trip: Duration) {
        let path = self.round.fresh_id();
        let validated = Validated {
            path,
            address,
            round_trip,
        };
        let at = self.situation();
        self.paths.on_validated(now, &validated, &at);
        self.end_guess();
    }

    fn relay_leg(&self) -> Duration {
        let leg = self.surroundings.relay_round_trip;
        leg.unwrap_or(Timing::UNKNOWN_RELAY_ROUND_TRIP / 2)
    }
}
