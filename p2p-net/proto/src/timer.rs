//! The named deadlines of a peer, one enum and one table, and every duration that decides about paths, with
//! its reason.

use std::time::{Duration, Instant};

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The phase of the punching session ends: an answer is overdue, the synchronised start has come, a round
    /// is over, or the pause between two rounds.
    Phase,
    /// A probe to a candidate is due.
    Pair,
    /// A probe on a path that was validated once is due, or an answer to one is overdue.
    Path,
    /// The used path has been silent for so long that this means something.
    Silence,
    /// The patience with a suspect path is at its end.
    Leave,
    /// A better path has been better for long enough.
    Challenge,
    /// The older set of probe keys has had its time.
    Keys,
    /// Something is due about guessing ports.
    Guess,
    /// Time alone raises or ends doubts about the used path.
    Doubt,
    /// The next probes of a trial of the direct path against the relay are due.
    Trial,
}

impl Timer {
    const ALL: [Self; 10] = [
        Self::Phase,
        Self::Pair,
        Self::Path,
        Self::Silence,
        Self::Leave,
        Self::Challenge,
        Self::Keys,
        Self::Guess,
        Self::Doubt,
        Self::Trial,
    ];
}

/// When each [`Timer`] fires.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    at: [Option<Instant>; Timer::ALL.len()],
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Instant>) {
        self.at[timer as usize] = at;
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.at.iter().flatten().min().copied()
    }

    /// One timer that has fired, and is no longer set.
    pub(crate) fn fired(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL
            .into_iter()
            .find(|timer| self.at[*timer as usize].is_some_and(|at| at <= now))?;
        self.at[timer as usize] = None;
        Some(timer)
    }
}

/// The durations and counts that decide about paths. Where two ends must agree, `wire.md` §6 and
/// `connectivity.md` §5.3–5.5 say so.
pub(crate) struct Timing;

impl Timing {
    // Sessions.

    /// An Offer is given up when unanswered for this long, or for three round trips through the relay if that
    /// is more: signals travel on reliable streams, so a late answer means a lost relay or peer.
    pub(crate) const ANSWER_OVERDUE: Duration = Duration::from_secs(3);
    /// The same for one that went as a knock, without a relay: a packet that may be lost, to somebody near.
    pub(crate) const KNOCK_OVERDUE: Duration = Duration::from_millis(500);
    /// Pauses between rounds without success; the last one repeats. Quick at first, because networks come back
    /// soon or late (`connectivity.md` §5.3, Cooling).
    pub(crate) const BACK_OFF: [Duration; 6] = [
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(5),
        Duration::from_secs(10),
        Duration::from_secs(30),
    ];
    /// Which of them is the last one while the relay carries traffic, 5 s: a call gains by each second on a
    /// direct path, and a round is twenty small packets.
    pub(crate) const BACK_OFF_BUSY: usize = 3;
    /// The side with the larger id offers this much later than its pause, so that two Offers seldom cross.
    pub(crate) const SECOND_SIDE_DELAY: Duration = Duration::from_millis(250);
    /// Added to a round trip through the relay when judging whether two Offers crossed: queues and clocks.
    pub(crate) const CROSSING_MARGIN: Duration = Duration::from_millis(200);
    /// The callee waits at most this long for the synchronised start, whatever round trips are claimed.
    pub(crate) const MAX_START_WAIT: Duration = Duration::from_millis(500);
    /// Round trip through the relay, peer to peer, where neither side has measured its own.
    pub(crate) const UNKNOWN_RELAY_ROUND_TRIP: Duration = Duration::from_millis(400);
    /// New sessions within [`Self::SESSIONS_WINDOW`]: theirs beyond are ignored, ours wait. Honest peers need
    /// one or two.
    pub(crate) const MAX_SESSIONS: usize = 10;
    /// See [`Self::MAX_SESSIONS`].
    pub(crate) const SESSIONS_WINDOW: Duration = Duration::from_secs(10);
    /// An older set of keys still opens packets for this long after the newer one has proven itself: the peer
    /// may have packets under way, or not know yet.
    pub(crate) const OLD_KEYS: Duration = Duration::from_secs(10);

    // Rounds.

    /// When the probes of one candidate go out, after its first: dense at first, because both ends start
    /// together, then wider, because a filter may open late. Nine (`connectivity.md` §5.5).
    pub(crate) const SENDS: [Duration; 9] = [
        Duration::ZERO,
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(150),
        Duration::from_millis(250),
        Duration::from_millis(400),
        Duration::from_millis(600),
        Duration::from_millis(850),
        Duration::from_millis(1_150),
    ];
    /// Between two probes to candidates once each was tried: 20 a second (`connectivity.md` §5.5).
    pub(crate) const PACE: Duration = Duration::from_millis(50);
    /// Probes that may go without a pause before [`Self::PACE`] holds for all of them, whatever rounds begin:
    /// each candidate of one round, and as many peer-reflexive ones.
    pub(crate) const PROBE_BURST: u32 = 20;
    /// A round waits this long for answers after its last probe, or for one and a half round trips through the
    /// relay if that is more: a direct path is seldom slower.
    pub(crate) const LAST_ANSWERS: Duration = Duration::from_millis(500);
    /// Once a path is proven, each other candidate gets no more probes than this: it may still be better, but
    /// nothing depends on it.
    pub(crate) const SENDS_AFTER_SUCCESS: u8 = 4;
    /// A round without any answer is doubted this long after its beginning, and a round trip through the relay:
    /// six probes to each candidate are out, and ordinary pairs have long been direct. What guessing needs is
    /// asked for then.
    pub(crate) const DOUBT: Duration = Duration::from_millis(400);
    /// Addresses beyond the offered ones that authentic probes came from, in one round.
    pub(crate) const MAX_PEER_REFLEXIVE: usize = 4;

    // Live paths.

    /// A path that was proven this long ago may be past when the peer proves a new address: it has moved, and
    /// the traffic that still comes from it hides that ours gets nowhere. The addresses of one round prove
    /// themselves within less.
    pub(crate) const SETTLED: Duration = Duration::from_secs(1);
    /// Paths remembered at one time, living and failed.
    pub(crate) const MAX_PATHS: usize = 4;
    /// A path is probed this often while it carries traffic.
    pub(crate) const PROBE_BUSY: Duration = Duration::from_secs(1);
    /// While it is idle: half the shortest mapping lifetime that is common among routers, 30 s.
    pub(crate) const PROBE_IDLE: Duration = Duration::from_secs(15);
    /// A path in reserve, while another one carries traffic; an idle pair lets its reserve lapse.
    pub(crate) const PROBE_RESERVE: Duration = Duration::from_secs(5);
    /// A path in reserve that seems better, while it must show so.
    pub(crate) const PROBE_CHALLENGER: Duration = Duration::from_millis(500);
    /// A suspect path: six chances within the patience with it (`wire.md` §6).
    pub(crate) const PROBE_SUSPECT: Duration = Duration::from_millis(50);
    /// A path that failed, for [`Self::FAILED_SOON`], so that one which heals is back within a second.
    pub(crate) const PROBE_FAILED: Duration = Duration::from_millis(500);
    /// For how long; afterwards rounds of punching alone look for it.
    pub(crate) const FAILED_SOON: Duration = Duration::from_secs(60);
    /// Later, until [`Self::FAILED_FORGOTTEN`].
    pub(crate) const PROBE_FAILED_LATER: Duration = Duration::from_secs(5);
    /// A failed path is forgotten after this; the mappings it needs are gone.
    pub(crate) const FAILED_FORGOTTEN: Duration = Duration::from_secs(300);
    /// Traffic within this time counts as going on.
    pub(crate) const BUSY: Duration = Duration::from_secs(3);
    /// Least time in which a probe must be answered; four mean deviations come on top of the round trip.
    pub(crate) const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(100);
    /// Least allowance for deviations in it: schedulers of busy machines.
    pub(crate) const MIN_PROBE_MARGIN: Duration = Duration::from_millis(50);
    /// Unanswered probes in a row that make a path suspect when nothing else came meanwhile (`wire.md` §6).
    pub(crate) const UNANSWERED: u32 = 2;
    /// The same while packets do come: our own direction may be dead, or the probes were unlucky.
    pub(crate) const UNANSWERED_BUT_HEARD: u32 = 4;
    /// Unanswered probes after which a path in reserve is dropped.
    pub(crate) const UNANSWERED_RESERVE: u32 = 3;

    // Suspicion (`wire.md` §6).

    /// Least silence, while an answer was due, that makes a path suspect; three probe timeouts of QUIC if more.
    pub(crate) const SILENCE: Duration = Duration::from_millis(300);
    /// Least silence in a steady flow that does.
    pub(crate) const FLOW_SILENCE: Duration = Duration::from_millis(60);
    /// Least silence in a steady flow that makes what is small go both ways: two packets of a 50 a second, of which
    /// one is lost, or late, are no cause.
    pub(crate) const FLOW_DOUBT: Duration = Duration::from_millis(40);
    /// A packet through the relay, while we use the direct path, makes what is small go both ways for so long: long
    /// enough for the peer's next one.
    pub(crate) const HINT: Duration = Duration::from_millis(300);
    /// They belong together when they follow each other within this; ...
    pub(crate) const HINT_PAUSE: Duration = Duration::from_secs(1);
    /// ... and are no hint when they have gone on for so long. Doubts end sooner.
    pub(crate) const HINTS: Duration = Duration::from_secs(2);
    /// Packets within the last one or two seconds that make a steady flow.
    pub(crate) const FLOW_PACKETS: u64 = 20;
    /// Half of the window in which the longest pause of a flow is remembered.
    pub(crate) const FLOW_WINDOW: Duration = Duration::from_secs(1);
    /// QUIC's delay before acknowledging (RFC 9000 §18.2), for probe timeouts where the driver has none.
    pub(crate) const ACK_DELAY: Duration = Duration::from_millis(25);
    /// A suspect path without an answer is left after this, or after a probe timeout if that is more.
    pub(crate) const PATIENCE: Duration = Duration::from_millis(300);
    /// The same while packets still come that way: answers may only be late, in a queue that has just filled.
    /// Should our own direction be dead, the peer notices, leaves, and its packets end.
    pub(crate) const PATIENCE_HEARD: Duration = Duration::from_secs(1);
    /// Answers that clear a suspect path.
    pub(crate) const ANSWERS: u32 = 2;
    /// Where there is no relay, a suspect path is kept for so long; then it is called dead, and traffic stops.
    pub(crate) const PATIENCE_ALONE: Duration = Duration::from_secs(10);
    /// Probes on a suspect path that has outlived its patience because nothing else is there.
    pub(crate) const PROBE_SUSPECT_ALONE: Duration = Duration::from_millis(250);

    // Choice.

    /// Direct is clearly worse than the relay when slower by more than this, and by more than half of the
    /// relay's round trip (`wire.md` §6): on near relays half a round trip is noise.
    pub(crate) const CLEARLY_WORSE: Duration = Duration::from_millis(50);
    /// Traffic of our own above this, bytes a second, may fill queues on the way (2 Mbit/s, a slow uplink's
    /// worth): round trips measured then say nothing about a path, since the relay's would be as long.
    pub(crate) const OWN_LOAD: u64 = 250_000;
    /// The rate of our own traffic is measured over this at least.
    pub(crate) const LOAD_WINDOW: Duration = Duration::from_millis(200);
    /// After load, queues may need this long to drain.
    pub(crate) const DRAIN: Duration = Duration::from_secs(2);
    /// Window of the least round trip that is compared with the relay's: a direct path is left for it when slower for
    /// one or two of these. A download beside a call fills a queue for as long as it lasts; a way that is longer
    /// stays so, and may wait a minute.
    pub(crate) const CALM_WINDOW: Duration = Duration::from_secs(60);
    /// A challenger must be better by this, or by a fifth, ...
    pub(crate) const BETTER: Duration = Duration::from_millis(10);
    /// ... which must be more than noise on a machine that is busy.
    pub(crate) const NOISE: Duration = Duration::from_millis(2);
    // Loss, judged by trials of the direct path against the relay (`trial.rs`).

    /// Between two pairs of probes of a trial: at 5 % loss each way a second brings ten losses, which is enough to
    /// tell; some 75 kbit/s each way and path, for a second or two.
    pub(crate) const PROBE_TRIAL: Duration = Duration::from_millis(10);
    /// What is lost within one slot counts once: a burst is one event.
    pub(crate) const TRIAL_SLOT: Duration = Duration::from_millis(100);
    /// A trial lasts at most so many slots.
    pub(crate) const TRIAL_SLOTS: usize = 40;
    /// Losses must spread over more slots than this: whatever ends within half a second is no habit.
    pub(crate) const TRIAL_SPAN: usize = 7;
    /// Slots that must have lost something, in hundredths: 2.5 % each way make about as many.
    pub(crate) const TRIAL_LOSSY_PERCENT: usize = 40;
    /// The relay answers a trial's probe within its round trip and this: queues.
    pub(crate) const TRIAL_MARGIN: Duration = Duration::from_millis(150);
    /// A packet lost so long ago begins no trial.
    pub(crate) const LOSS_FRESH: Duration = Duration::from_millis(500);
    /// After a trial that led to nothing comes no other for so long, doubled each time.
    pub(crate) const TRIAL_REST: Duration = Duration::from_secs(3);
    /// The longest such rest.
    pub(crate) const TRIAL_MAX_REST: Duration = Duration::from_secs(60);
    /// A round trip so much above the least one, or by half of it, is a queue: what is lost then is lost to it.
    pub(crate) const INFLATED: Duration = Duration::from_millis(30);
    /// A relay whose round trip is longer by more than this does not win by loss: sound would suffer more.
    pub(crate) const RELAY_DETOUR: Duration = Duration::from_millis(200);
    /// A direct path that lost to the relay must be clean for so long, ...
    pub(crate) const LOSS_HOLD: Duration = Duration::from_secs(20);
    /// ... doubled, up to [`Self::MAX_HOLD`], if it loses again within this after its return.
    pub(crate) const LOSS_MEMORY: Duration = Duration::from_secs(120);
    /// Probes that must show so, while traffic goes on.
    pub(crate) const PROBE_ILL: Duration = Duration::from_millis(100);
    /// Unanswered ones in a row after which such a path is dropped.
    pub(crate) const UNANSWERED_ILL: u32 = 10;

    /// For how long it must be.
    pub(crate) const CHALLENGE: Duration = Duration::from_secs(2);
    /// What the whole loss of a path would cost in its score.
    pub(crate) const LOSS_COST: Duration = Duration::from_secs(1);
    /// What a path within one network is worth beyond its round trip.
    pub(crate) const LAN_BONUS: Duration = Duration::from_millis(5);
    /// Failures of one path within [`Self::FAILURES_WINDOW`] that are forgiven at once; after further ones it
    /// must answer for [`Self::CHALLENGE`] before it is used again, doubled each time.
    pub(crate) const FORGIVEN_FAILURES: u32 = 3;
    /// See [`Self::FORGIVEN_FAILURES`].
    pub(crate) const FAILURES_WINDOW: Duration = Duration::from_secs(120);
    /// The longest that a path must prove itself.
    pub(crate) const MAX_HOLD: Duration = Duration::from_secs(60);
    /// Figures of an unchanged path are told at most this often.
    pub(crate) const FIGURES: Duration = Duration::from_secs(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn timers_fire_once_and_not_early() {
        let start = Instant::now();
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        timers.set(Timer::Leave, Some(start + Duration::from_millis(2)));
        timers.set(Timer::Pair, Some(start + Duration::from_millis(1)));
        assert_eq!(timers.next(), Some(start + Duration::from_millis(1)));
        assert_eq!(timers.fired(start), None);
        let later = start + Duration::from_millis(2);
        assert_eq!(timers.fired(later), Some(Timer::Pair));
        assert_eq!(timers.fired(later), Some(Timer::Leave));
        assert_eq!(timers.fired(later), None);
        timers.set(Timer::Leave, Some(later));
        timers.set(Timer::Leave, None);
        assert_eq!(timers.next(), None);
    }
}
