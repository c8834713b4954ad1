//! Live paths of one peer: round trip, loss, choice with hysteresis, the relay as the floor, and the
//! detection of silent death (`wire.md` §6).

mod losses;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::losses::Losses;
use crate::candidate::is_local;
use crate::punch::{Outstanding, Validated};
use crate::timer::Timing;
use crate::trial::{Illness, Way};
use crate::watch::{Silence, Watch};
use crate::{PathId, Transaction};

/// What carries a peer's packets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PathKind {
    /// Nothing: neither relay nor direct path.
    None,
    /// Through the relay.
    Relayed,
    /// Straight to the peer.
    Direct,
}

/// A peer's path as users and programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// What carries the packets.
    pub kind: PathKind,
    /// The peer's address on a direct path.
    pub remote: Option<SocketAddr>,
    /// Smoothed round trip of the direct path, from probes.
    pub round_trip: Option<Duration>,
    /// Since when.
    pub since: Instant,
    /// Changes of path in the life of this peer.
    pub switches: u32,
    /// Why the path is not direct; `None` where it is.
    pub not_direct: Option<crate::NotDirect>,
}

/// What else decides about paths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// A relayed channel is usable.
    pub(crate) relay: bool,
    /// Round trip to the peer and back through the relay, as far as both sides have measured theirs.
    pub(crate) relay_round_trip: Option<Duration>,
    /// The other side keeps an idle path alive; we step in when it does not.
    pub(crate) second: bool,
}

/// Round trip as RFC 6298 smooths it, and how much it varies from one to the next.
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    smoothed: Duration,
    /// For timeouts (RFC 6298 §2).
    deviation: Duration,
    /// For the score: starts at nothing, where the deviation starts at half of the first sample.
    jitter: Duration,
    last: Duration,
    /// Least of late; what is compared with the relay.
    calm: Calm,
}

impl RoundTrip {
    fn first(now: Instant, sample: Duration, loaded: bool) -> Self {
        let mut calm = Calm::default();
        if !loaded {
            calm.add(now, sample);
        }
        Self {
            calm,
            smoothed: sample,
            deviation: sample / 2,
            jitter: Duration::ZERO,
            last: sample,
        }
    }

    /// Whether it is much longer than it need be: somebody fills a queue.
    fn is_inflated(&self) -> bool {
        let far = |least: Duration| least + Timing::INFLATED.max(least / 2);
        let least = self.calm.least();
        least.is_some_and(|least| self.smoothed > far(least))
    }

    fn add(&mut self, now: Instant, sample: Duration, loaded: bool) {
        if !loaded {
            self.calm.add(now, sample);
        }
        self.deviation = (self.deviation * 3 + self.smoothed.abs_diff(sample)) / 4;
        self.smoothed = (self.smoothed * 7 + sample) / 8;
        self.jitter = (self.jitter * 7 + self.last.abs_diff(sample)) / 8;
        self.last = sample;
    }
}

/// The least round trip of the last one or two windows, of samples taken while our own traffic filled no queue.
/// Others' traffic fills queues too, mostly on the access line that the way to the relay shares, whose round trip was
/// measured before: what is only a queue must not look like a longer way.
#[derive(Debug, Clone, Copy, Default)]
struct Calm {
    began: Option<Instant>,
    current: Option<Duration>,
    previous: Option<Duration>,
}

impl Calm {
    fn add(&mut self, now: Instant, sample: Duration) {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= Timing::CALM_WINDOW {
            self.previous = self.current.take();
            self.began = Some(now);
        }
        self.current = Some(self.current.map_or(sample, |least| least.min(sample)));
    }

    fn least(&self) -> Option<Duration> {
        self.current.into_iter().chain(self.previous).min()
    }
}

/// An address of the peer that a probe has proven, now or once.
#[derive(Debug)]
struct Path {
    id: PathId,
    address: SocketAddr,
    proven_at: Instant,
    round_trip: RoundTrip,
    /// Share of probes that were not answered, smoothed.
    loss: f32,
    outstanding: Outstanding,
    probed_at: Instant,
    /// When a probe of the peer last came this way.
    asked_at: Option<Instant>,
    answered_at: Instant,
    /// Unanswered probes in a row, and when the first of them went out.
    unanswered: u32,
    unanswered_since: Option<Instant>,
    /// It is dead since then.
    failed_at: Option<Instant>,
    /// When it last died, and how often in a row that followed each other closely.
    last_failure: Option<Instant>,
    failures: u32,
    /// Answers have come in an unbroken series since then.
    proving_since: Option<Instant>,
    /// For how long they must before it is used again.
    hold: Duration,
    /// That this time is over has yet to be noticed.
    awaited: bool,
    /// It wants a probe as soon as pacing allows.
    urgent: bool,
    /// It lost against the relay, which lost less.
    illness: Option<Illness>,
}

impl Path {
    fn new(now: Instant, validated: &Validated, loaded: bool) -> Self {
        Self {
            id: validated.path,
            address: validated.address,
            proven_at: now,
            round_trip: RoundTrip::first(now, validated.round_trip, loaded),
            loss: 0.0,
            outstanding: Outstanding::default(),
            probed_at: now,
            asked_at: None,
            answered_at: now,
            unanswered: 0,
            unanswered_since: None,
            failed_at: None,
            last_failure: None,
            failures: 0,
            proving_since: Some(now),
            hold: Duration::ZERO,
            awaited: true,
            urgent: false,
            illness: None,
        }
    }

    fn lives(&self) -> bool {
        self.failed_at.is_none()
    }

    /// From when on it may be used.
    fn eligible_at(&self) -> Option<Instant> {
        self.proving_since
            .filter(|_| self.lives())
            .map(|since| since + self.hold)
    }

    fn timeout(&self) -> Duration {
        let margin = Timing::MIN_PROBE_MARGIN.max(self.round_trip.deviation * 4);
        Timing::MIN_PROBE_TIMEOUT.max(self.round_trip.smoothed + margin)
    }

    fn on_answer(&mut self, now: Instant, sample: Duration, loaded: bool) {
        if self.lives() {
            self.round_trip.add(now, sample, loaded);
        } else {
            let calm = self.round_trip.calm;
            self.round_trip = RoundTrip::first(now, sample, loaded);
            if loaded {
                self.round_trip.calm = calm;
            }
            self.proving_since = None;
            self.failed_at = None;
        }
        if let Some(illness) = &mut self.illness {
            illness.on_answer();
        }
        self.loss *= 1.0 - LOSS_GAIN;
        self.unanswered = 0;
        self.unanswered_since = None;
        self.answered_at = now;
        if self.proving_since.is_none() {
            self.proving_since = Some(now);
            self.awaited = true;
        }
    }

    fn on_unanswered(&mut self, now: Instant, sent_at: Instant) {
        if let Some(illness) = &mut self.illness {
            illness.on_unanswered(now);
        }
        self.loss += (1.0 - self.loss) * LOSS_GAIN;
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered_since.get_or_insert(sent_at);
        if self.unanswered >= Timing::UNANSWERED {
            self.proving_since = self.proving_since.filter(|_| self.hold.is_zero());
        }
    }

    fn fail(&mut self, now: Instant) {
        let soon = |at| now.saturating_duration_since(at) < Timing::FAILURES_WINDOW + self.hold;
        let again = self.last_failure.is_some_and(soon);
        self.failures = if again {
            self.failures.saturating_add(1)
        } else {
            1
        };
        self.last_failure = Some(now);
        let doublings = self
            .failures
            .saturating_sub(Timing::FORGIVEN_FAILURES + 1)
            .min(16);
        self.hold = if self.failures <= Timing::FORGIVEN_FAILURES {
            Duration::ZERO
        } else {
            Timing::MAX_HOLD.min(Timing::CHALLENGE * (1 << doublings))
        };
        self.failed_at = Some(now);
        self.urgent = false;
    }

    fn score(&self) -> Duration {
        let cost = Timing::LOSS_COST.mul_f32(self.loss);
        let score = self.round_trip.smoothed + self.round_trip.jitter * 4 + cost;
        let bonus = if is_local(self.address.ip()) {
            Timing::LAN_BONUS
        } else {
            Duration::ZERO
        };
        score.saturating_sub(bonus)
    }
}

/// Weight of one probe in the smoothed loss.
const LOSS_GAIN: f32 = 1.0 / 16.0;

/// Doubts about the used path.
#[derive(Debug, Clone, Copy)]
struct Suspicion {
    since: Instant,
    answers: u32,
    answered_at: Option<Instant>,
}

/// Who might take the traffic over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Challenger {
    Relay,
    Direct(PathId),
}

/// A probe on a path to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathProbe {
    pub(crate) path: PathId,
    pub(crate) to: SocketAddr,
    /// Use the newest keys, proven or not.
    pub(crate) newest_keys: bool,
}

/// All direct paths of a peer, and which of them is used.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    list: Vec<Path>,
    used: Option<PathId>,
    suspicion: Option<Suspicion>,
    /// The relay has won over paths that live.
    shunned: bool,
    challenge: Option<(Challenger, Instant)>,
    watch: Watch,
    losses: Losses,
    /// Probes of failed paths take turns between two sets of keys.
    turn: bool,
}

impl Paths {
    /// The used path: address, round trip, whether it is suspect.
    pub(crate) fn used(&self) -> Option<(SocketAddr, Duration, bool)> {
        let path = self.used_path()?;
        Some((
            path.address,
            path.round_trip.smoothed,
            self.suspicion.is_some(),
        ))
    }

    /// Whether any path lives.
    pub(crate) fn any_lives(&self) -> bool {
        self.list.iter().any(Path::lives)
    }

    /// Addresses of all paths, failed ones as well.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.list.iter().map(|path| path.address)
    }

    /// Addresses of those that live.
    pub(crate) fn living(&self) -> impl Iterator<Item = SocketAddr> {
        let living = self.list.iter().filter(|path| path.lives());
        living.map(|path| path.address)
    }

    /// Whether a living path leads to this very host.
    pub(crate) fn proves(&self, ip: std::net::IpAddr) -> bool {
        self.list
            .iter()
            .any(|path| path.lives() && path.address.ip() == ip)
    }

    /// Forgets everything but the traffic seen so far.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.used = None;
        self.suspicion = None;
        self.shunned = false;
        self.challenge = None;
        self.losses.trial = None;
    }

    /// A round of punching has proven a path.
    pub(crate) fn on_validated(&mut self, now: Instant, validated: &Validated, at: &Situation) {
        let loaded = self.watch.is_loaded(now);
        let known = self
            .list
            .iter()
            .position(|path| path.address == validated.address);
        let index = match known {
            Some(index) => {
                self.list[index].on_answer(now, validated.round_trip, loaded);
                index
            }
            None => {
                self.make_room();
                self.list.push(Path::new(now, validated, loaded));
                self.list.len() - 1
            }
        };
        self.answered(now, self.list[index].id);
        let path = &self.list[index];
        let eligible = path.eligible_at().is_some_and(|at| at <= now);
        if self.suspicion.is_some() && self.used != Some(path.id) && eligible {
            // The used one is in doubt, and this one is certain.
            let id = path.id;
            self.take(now, id);
        }
        let settled = |used: &Path| now >= used.proven_at + Timing::SETTLED;
        if known.is_none() && self.used_path().is_some_and(settled) {
            // The peer speaks from a new address: it may have left the one that we send to.
            self.suspect(now);
        }
        self.consider(now, at);
    }

    /// A pong came; says whether it answered a probe on one of the paths.
    pub(crate) fn on_pong(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: Transaction,
        at: &Situation,
    ) -> bool {
        let loaded = self.watch.is_loaded(now);
        let Some(path) = self.list.iter_mut().find(|path| path.address == from) else {
            return false;
        };
        let id = path.id;
        let trial = self.losses.trial.as_mut().filter(|(of, _)| *of == id);
        let tried = trial.and_then(|(_, trial)| trial.on_answer(transaction, Way::Direct));
        let Some(sent_at) = tried.or_else(|| path.outstanding.take(transaction)) else {
            return false;
        };
        let sample = now.saturating_duration_since(sent_at);
        path.on_answer(now, sample, loaded);
        self.answered(now, id);
        self.consider(now, at);
        true
    }

    /// An authentic probe came from this address; the loss seen on its path, if it is one.
    pub(crate) fn on_probe(&mut self, now: Instant, from: SocketAddr) -> Option<f32> {
        let path = self.list.iter_mut().find(|path| path.address == from)?;
        path.asked_at = Some(now);
        path.urgent |= !path.lives();
        let (id, loss) = (path.id, path.loss);
        if self.used == Some(id) {
            self.watch.heard(now);
        }
        Some(loss)
    }

    /// Whether traffic goes on, direct or through the relay.
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.watch.is_busy(now)
    }

    /// Asks all paths at once: something about the network has changed.
    pub(crate) fn ask_all(&mut self) {
        self.list.iter_mut().for_each(|path| path.urgent = true);
    }

    /// A probe that is due, counted as sent.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        transaction: Transaction,
        at: &Situation,
    ) -> Option<PathProbe> {
        let index = self
            .list
            .iter()
            .position(|path| self.probe_at(now, path, at).is_some_and(|due| due <= now))?;
        let path = &mut self.list[index];
        path.outstanding.push(transaction, now);
        path.probed_at = now;
        path.urgent = false;
        let newest_keys = !path.lives() && self.turn;
        self.turn ^= !path.lives();
        Some(PathProbe {
            path: path.id,
            to: path.address,
            newest_keys,
        })
    }

    /// When a probe is due, or an answer overdue, or a path old enough to be forgotten.
    pub(crate) fn next_at(&self, now: Instant, at: &Situation) -> Option<Instant> {
        let times = self.list.iter().flat_map(|path| {
            let overdue = path.outstanding.overdue_at(path.timeout());
            let forgotten = path.failed_at.map(|at| at + Timing::FAILED_FORGOTTEN);
            [self.probe_at(now, path, at), overdue, forgotten]
        });
        times.flatten().min()
    }

    /// Counts what was not answered in time, and draws the consequences.
    pub(crate) fn expire(&mut self, now: Instant) {
        for path in &mut self.list {
            let timeout = path.timeout();
            while let Some(sent_at) = path.outstanding.overdue(now, timeout) {
                if path.lives() {
                    path.on_unanswered(now, sent_at);
                }
            }
        }
        let used = self.used;
        let lapsed = |path: &Path| {
            let most = match path.illness {
                Some(_) => Timing::UNANSWERED_ILL,
                None => Timing::UNANSWERED_RESERVE,
            };
            path.lives() && used != Some(path.id) && path.unanswered >= most
        };
        for path in self
            .list
            .iter_mut()
            .filter(|path| lapsed(path) && path.failures > 0)
        {
            // It did not even prove itself; its record stays.
            path.failed_at = Some(now);
        }
        self.list.retain(|path| match path.failed_at {
            Some(at) => now.saturating_duration_since(at) < Timing::FAILED_FORGOTTEN,
            None => !lapsed(path),
        });
        let heard_at = self.watch.heard_at();
        if let Some(path) = self.used_path()
            && let Some(since) = path.unanswered_since
        {
            let limit = match heard_at.is_some_and(|heard| heard > since) {
                true => Timing::UNANSWERED_BUT_HEARD,
                false => Timing::UNANSWERED,
            };
            if path.unanswered >= limit {
                self.suspect(now);
            }
        }
    }

    /// Whether what is small had better take the relay as well.
    pub(crate) fn doubts(&self, now: Instant) -> bool {
        self.used.is_some() && (self.suspicion.is_some() || self.watch.doubts(now))
    }

    /// When time alone changes that.
    pub(crate) fn doubts_change_at(&self, now: Instant) -> Option<Instant> {
        self.used?;
        self.watch.doubts_change_at(now)
    }

    /// When the silence of the used path calls for something.
    pub(crate) fn silence_at(&self) -> Option<Instant> {
        let path = self.used_path().filter(|_| self.suspicion.is_none())?;
        self.watch.silence_at(path.timeout())
    }

    /// Acts on it.
    pub(crate) fn on_silence(&mut self, now: Instant) {
        let Some(timeout) = self.used_path().map(Path::timeout) else {
            return;
        };
        match self.watch.on_silence(now, timeout) {
            Some(Silence::Suspect) => self.suspect(now),
            Some(Silence::Ask) => {
                if let Some(path) = self.used_path_mut() {
                    path.urgent = true;
                }
            }
            None => {}
        }
    }

    /// When the patience with a suspect path ends.
    pub(crate) fn leave_at(&self, at: &Situation) -> Option<Instant> {
        let suspicion = self.suspicion?;
        let path = self.used_path()?;
        let since = suspicion.answered_at.unwrap_or(suspicion.since);
        let heard = self.watch.heard_at() > Some(suspicion.since);
        let patience = if at.relay || self.reserve(&suspicion).is_some() {
            let least = if heard {
                Timing::PATIENCE_HEARD
            } else {
                Timing::PATIENCE
            };
            least.max(path.timeout())
        } else {
            Timing::PATIENCE_ALONE
        };
        Some(since + patience)
    }

    /// Leaves it, for another path that answered meanwhile, or for the relay, or for nothing.
    pub(crate) fn on_leave(&mut self, now: Instant, at: &Situation) {
        if self.leave_at(at).is_none_or(|due| due > now) {
            return;
        }
        let Some(suspicion) = self.suspicion else {
            return;
        };
        let reserve = self.reserve(&suspicion);
        // All were asked when the doubts began: who has not answered since is no better than the used one.
        let used = self.used;
        let silent = |path: &Path| used == Some(path.id) || path.answered_at <= suspicion.since;
        self.list
            .iter_mut()
            .filter(|path| path.lives() && silent(path))
            .for_each(|path| path.fail(now));
        self.used = None;
        self.suspicion = None;
        self.challenge = None;
        if let Some(id) = reserve {
            self.take(now, id);
        }
        self.consider(now, at);
    }

    /// When a challenger has won, or a path that was dead has proven itself.
    pub(crate) fn challenge_at(&self) -> Option<Instant> {
        let won = self.challenge.map(|(_, since)| since + Timing::CHALLENGE);
        let awaited = self.list.iter().filter(|path| path.awaited);
        let proven = awaited.filter_map(Path::eligible_at);
        let ill = self.list.iter().filter_map(|path| path.illness);
        let well = ill.map(|illness| illness.ends_at());
        proven.chain(well).chain(won).min()
    }

    /// Lets the challenger have it.
    pub(crate) fn on_challenge(&mut self, now: Instant, at: &Situation) {
        self.consider(now, at);
        let Some((challenger, since)) = self.challenge else {
            return;
        };
        if now.saturating_duration_since(since) < Timing::CHALLENGE {
            return;
        }
        self.challenge = None;
        match challenger {
            Challenger::Direct(id) => self.take(now, id),
            Challenger::Relay => {
                self.used = None;
                self.suspicion = None;
                self.shunned = true;
            }
        }
    }

    /// Weighs the paths and the relay against each other.
    pub(crate) fn consider(&mut self, now: Instant, at: &Situation) {
        if !self.any_lives() {
            self.shunned = false;
        }
        for path in &mut self.list {
            path.awaited &= path.eligible_at().is_none_or(|at| at > now);
            path.illness = path.illness.filter(|illness| illness.ends_at() > now);
        }
        let best = self.best(now).map(|best| {
            let worse = best.illness.is_some() || clearly_worse(best, at);
            (best.id, worse)
        });
        let challenger = match (self.used_path(), best) {
            (Some(_), _) if self.suspicion.is_some() => None,
            (Some(used), _) => {
                let rival = self.best(now).filter(|best| is_better(best, used));
                let relay = at.relay && clearly_worse(used, at);
                rival
                    .map(|best| Challenger::Direct(best.id))
                    .or_else(|| relay.then_some(Challenger::Relay))
            }
            (None, Some((id, worse))) if !at.relay || (!worse && !self.shunned) => {
                self.take(now, id);
                None
            }
            (None, Some((id, worse))) => {
                self.shunned = true;
                (!worse).then_some(Challenger::Direct(id))
            }
            (None, None) => None,
        };
        self.challenge = challenger.map(|challenger| match self.challenge {
            Some((same, since)) if same == challenger => (same, since),
            _ => (challenger, now),
        });
    }

    /// The best path that may be used.
    fn best(&self, now: Instant) -> Option<&Path> {
        let eligible = |path: &&Path| path.eligible_at().is_some_and(|at| at <= now);
        self.list
            .iter()
            .filter(eligible)
            .min_by_key(|path| (path.illness.is_some(), path.score()))
    }

    /// Another path that has answered since the used one became suspect.
    fn reserve(&self, suspicion: &Suspicion) -> Option<PathId> {
        let answers = |path: &&Path| {
            path.lives() && self.used != Some(path.id) && path.answered_at > suspicion.since
        };
        self.list
            .iter()
            .filter(answers)
            .min_by_key(|path| path.score())
            .map(|path| path.id)
    }

    fn take(&mut self, now: Instant, id: PathId) {
        self.used = Some(id);
        self.suspicion = None;
        self.challenge = None;
        self.shunned = false;
        self.losses.trial = None;
        if let Some((_, hold)) = self.losses.returned {
            self.losses.returned = Some((now, hold));
        }
        if let Some(path) = self.used_path_mut() {
            path.illness = None;
        }
        self.watch.reset(now);
    }

    fn suspect(&mut self, now: Instant) {
        if self.suspicion.is_some() {
            return;
        }
        self.suspicion = Some(Suspicion {
            since: now,
            answers: 0,
            answered_at: None,
        });
        self.challenge = None;
        self.ask_all();
    }

    /// An answer came over this path.
    fn answered(&mut self, now: Instant, id: PathId) {
        if self.used != Some(id) {
            return;
        }
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.answers += 1;
            suspicion.answered_at = Some(now);
            if suspicion.answers < Timing::ANSWERS {
                return;
            }
            self.suspicion = None;
            self.watch.reset(now);
        }
        self.watch.heard(now);
    }

    /// When the next probe on this path is due.
    fn probe_at(&self, now: Instant, path: &Path, at: &Situation) -> Option<Instant> {
        let paced = path.probed_at + Timing::PROBE_SUSPECT;
        if path.urgent {
            return Some(paced);
        }
        if let Some(failed_at) = path.failed_at {
            let soon = now.saturating_duration_since(failed_at) < Timing::FAILED_SOON;
            let interval = if soon {
                Timing::PROBE_FAILED
            } else {
                Timing::PROBE_FAILED_LATER
            };
            return Some(path.probed_at + interval);
        }
        let is_used = self.used == Some(path.id);
        if let Some(suspicion) = self.suspicion {
            let alone =
                !at.relay && now.saturating_duration_since(suspicion.since) > 2 * Timing::PATIENCE;
            let interval = match (is_used, alone) {
                (_, true) => Timing::PROBE_SUSPECT_ALONE,
                (true, false) => Timing::PROBE_SUSPECT,
                (false, false) => 2 * Timing::PROBE_SUSPECT,
            };
            return Some(path.probed_at + interval);
        }
        let ill = path.illness.is_some() && self.used.is_none() && self.watch.is_busy(now);
        let interval = if ill {
            Timing::PROBE_ILL
        } else if path.unanswered > 0 {
            path.timeout()
        } else if self.must_show(now, path) {
            Timing::PROBE_CHALLENGER
        } else if self.watch.is_busy(now) {
            if is_used {
                Timing::PROBE_BUSY
            } else {
                Timing::PROBE_RESERVE
            }
        } else if is_used || self.used.is_none() {
            return Some(idle_probe_at(path, at));
        } else {
            return None;
        };
        Some((path.probed_at + interval).max(paced))
    }

    /// Whether the path challenges the used one, or was dead and has yet to prove itself.
    fn must_show(&self, now: Instant, path: &Path) -> bool {
        let challenges = self
            .challenge
            .is_some_and(|(who, _)| who == Challenger::Direct(path.id));
        challenges || path.eligible_at().is_none_or(|at| at > now)
    }

    fn used_path(&self) -> Option<&Path> {
        self.list.iter().find(|path| self.used == Some(path.id))
    }

    fn used_path_mut(&mut self) -> Option<&mut Path> {
        self.list.iter_mut().find(|path| self.used == Some(path.id))
    }

    /// Makes room for one more path: the one that failed first goes, else the worst.
    fn make_room(&mut self) {
        if self.list.len() < Timing::MAX_PATHS {
            return;
        }
        let unused = |(_, path): &(usize, &Path)| self.used != Some(path.id);
        let failed = |path: &Path| path.failed_at;
        let oldest = self
            .list
            .iter()
            .enumerate()
            .filter(unused)
            .filter_map(|(index, path)| Some((failed(path)?, index)))
            .min()
            .map(|(_, index)| index);
        let worst = || {
            let others = self.list.iter().enumerate().filter(unused);
            others
                .max_by_key(|(_, path)| path.score())
                .map(|(index, _)| index)
        };
        if let Some(index) = oldest.or_else(worst) {
            self.list.remove(index);
        }
    }
}

/// An idle pair needs one probe for both sides: each sees the other's, and the second waits for the first.
fn idle_probe_at(path: &Path, at: &Situation) -> Instant {
    let seen = path
        .asked_at
        .map_or(path.probed_at, |asked| asked.max(path.probed_at));
    let turn = if at.second {
        Timing::PROBE_BUSY
    } else {
        Duration::ZERO
    };
    seen + Timing::PROBE_IDLE + turn
}

/// Whether the relay is better beyond doubt.
fn clearly_worse(path: &Path, at: &Situation) -> bool {
    let Some(relayed) = at.relay_round_trip.filter(|_| at.relay) else {
        return false;
    };
    let bar = relayed + Timing::CLEARLY_WORSE.max(relayed / 2);
    path.round_trip.calm.least().is_some_and(|calm| calm > bar)
}

fn is_better(path: &Path, used: &Path) -> bool {
    let (new, old) = (path.score(), used.score());
    let gain = old.saturating_sub(new);
    gain > Timing::BETTER || (gain > old / 5 && gain > Timing::NOISE)
}
