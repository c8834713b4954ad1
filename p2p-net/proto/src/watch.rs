//! What the data path tells about the used direct path: whether traffic goes on, since when an answer is due,
//! and how long a steady flow may pause before that means something (`wire.md` §6).

use std::time::{Duration, Instant};

use crate::Activity;
use crate::timer::Timing;

/// What silence calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Ask the path with a probe.
    Ask,
    /// The path is suspect.
    Suspect,
}

/// When an activity probe goes out while an answer is due, in sixths of the limit: three of them have time to
/// be answered, so that loss alone does not make a path suspect.
const ASK_AT_SIXTHS: [u32; 4] = [2, 3, 4, 5];

/// The traffic of one peer.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    last: Activity,
    busy_at: Option<Instant>,
    heard_at: Option<Instant>,
    /// When the first packet went out that still waits for a sign of life, and QUIC's probe timeout then: it
    /// backs off while nothing comes.
    due_since: Option<Instant>,
    due_timeout: Option<Duration>,
    /// Activity probes since then.
    asked: usize,
    flow: Flow,
    sending: Flow,
    load: Load,
    /// Packets came through the relay although the direct path is in use: since when, and the last one.
    relayed: Option<(Instant, Instant)>,
}

impl Watch {
    /// Starts over on a path that has just proven itself.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.heard(now);
        self.flow = Flow::default();
        // What the peer sent before it follows is no hint.
        self.relayed = now.checked_sub(Timing::HINTS).map(|since| (since, now));
    }

    /// A sign of life came over the path.
    pub(crate) fn heard(&mut self, at: Instant) {
        self.heard_at = self.heard_at.max(Some(at));
        self.due_since = None;
        self.asked = 0;
    }

    /// When the path last gave one.
    pub(crate) fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Whether traffic goes on.
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.busy_at
            .is_some_and(|at| now.saturating_duration_since(at) < Timing::BUSY)
    }

    /// Whether our own traffic may have filled queues on the way.
    pub(crate) fn is_loaded(&self, now: Instant) -> bool {
        self.load
            .seen_at
            .is_some_and(|at| now.saturating_duration_since(at) < Timing::DRAIN)
    }

    /// Takes a snapshot. Counters that went backwards start over.
    pub(crate) fn on_activity(&mut self, now: Instant, activity: &Activity) {
        let before = std::mem::replace(&mut self.last, *activity);
        self.load.on_total(now, activity.transferred_bytes);
        let received = activity
            .direct_received
            .saturating_sub(before.direct_received);
        let sent = activity.direct_sent.saturating_sub(before.direct_sent);
        let relayed = activity
            .relay_received_at
            .filter(|_| activity.relay_received_at > before.relay_received_at);
        if received > 0 || sent > 0 || relayed.is_some() {
            self.busy_at = Some(now);
        }
        if let Some(at) = relayed.map(|at| at.min(now)) {
            let goes_on = |last: Instant| at.saturating_duration_since(last) < Timing::HINT_PAUSE;
            let since = self.relayed.filter(|(_, last)| goes_on(*last));
            self.relayed = Some((since.map_or(at, |(since, _)| since), at));
        }
        if received > 0 {
            let at = activity.direct_received_at.unwrap_or(now).min(now);
            self.flow.on_packets(at, received);
            self.heard(at);
        }
        if sent > 0 {
            self.sending.on_packets(now, sent);
            let at = activity.direct_sent_at.unwrap_or(now).min(now);
            if self.heard_at.is_none_or(|heard| at > heard) && self.due_since.is_none() {
                self.due_since = Some(at);
                self.due_timeout = activity.probe_timeout;
            }
        }
    }

    /// Whether we send steadily over the direct path: a call, or what is like one.
    pub(crate) fn is_steady(&self) -> bool {
        self.sending.previous.packets >= Timing::FLOW_PACKETS
    }

    /// Whether the path may be dead, though it is too soon to say so: what is small goes over the relay as well. A
    /// copy too many costs a packet, one too few a gap.
    pub(crate) fn doubts(&self, now: Instant) -> bool {
        let pauses = self.flow.doubtful_at(self.last.direct_gap);
        let hinted = self.hinted_until().is_some_and(|until| now < until);
        hinted || pauses.is_some_and(|at| at <= now)
    }

    /// When time alone changes that next.
    pub(crate) fn doubts_change_at(&self, now: Instant) -> Option<Instant> {
        let pauses = self.flow.doubtful_at(self.last.direct_gap);
        let times = pauses.into_iter().chain(self.hinted_until());
        times.filter(|at| *at > now).min()
    }

    /// The peer sends through the relay what should come straight: it has doubts, which may be about our
    /// direction. Whoever goes on for long has chosen the relay, or sends everything twice.
    fn hinted_until(&self) -> Option<Instant> {
        let (since, last) = self.relayed?;
        let short = last.saturating_duration_since(since) < Timing::HINTS;
        short.then(|| last + Timing::HINT)
    }

    /// When silence calls for something; `timeout` is the path's own probe timeout.
    pub(crate) fn silence_at(&self, timeout: Duration) -> Option<Instant> {
        let due = self.due_at(timeout);
        let flow = self.flow.silent_at(self.last.direct_gap);
        due.into_iter().chain(flow).min()
    }

    /// What it calls for now.
    pub(crate) fn on_silence(&mut self, now: Instant, timeout: Duration) -> Option<Silence> {
        if self
            .flow
            .silent_at(self.last.direct_gap)
            .is_some_and(|at| at <= now)
        {
            return Some(Silence::Suspect);
        }
        if self.due_at(timeout).is_none_or(|at| at > now) {
            return None;
        }
        if self.asked >= ASK_AT_SIXTHS.len() {
            return Some(Silence::Suspect);
        }
        self.asked += 1;
        Some(Silence::Ask)
    }

    /// When the next step is due because an answer is: max(3 PTO, 300 ms) in all.
    fn due_at(&self, timeout: Duration) -> Option<Instant> {
        let since = self
            .due_since
            .max(self.heard_at)
            .filter(|_| self.due_since.is_some())?;
        let probe_timeout = self.due_timeout.unwrap_or(timeout + Timing::ACK_DELAY);
        let limit = Timing::SILENCE.max(probe_timeout.saturating_mul(3));
        let sixths = ASK_AT_SIXTHS.get(self.asked).copied().unwrap_or(6);
        Some(since + limit.min(MAX_SILENCE) * sixths / 6)
    }
}

/// However slow the path seems to be.
const MAX_SILENCE: Duration = Duration::from_secs(3);

/// How much traffic of our own there is, over all paths.
#[derive(Debug, Default)]
struct Load {
    /// When the rate was last looked at, and the bytes in all then.
    since: Option<(Instant, u64)>,
    /// When it was last heavy.
    seen_at: Option<Instant>,
}

impl Load {
    fn on_total(&mut self, now: Instant, bytes: u64) {
        let (since, before) = *self.since.get_or_insert((now, bytes));
        let took = now.saturating_duration_since(since);
        if took < Timing::LOAD_WINDOW {
            return;
        }
        self.since = Some((now, bytes));
        let moved = u128::from(bytes.saturating_sub(before)) * 1_000;
        if moved > u128::from(Timing::OWN_LOAD) * took.as_millis() {
            self.seen_at = Some(now);
        }
    }
}

/// The packets of one direction: how many, and how long they paused, in this half of the window and the one before.
#[derive(Debug, Default)]
struct Flow {
    began: Option<Instant>,
    current: Half,
    previous: Half,
    last_at: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Half {
    packets: u64,
    longest_pause: Duration,
}

impl Flow {
    fn on_packets(&mut self, at: Instant, packets: u64) {
        let began = *self.began.get_or_insert(at);
        let age = at.saturating_duration_since(began);
        if age >= Timing::FLOW_WINDOW {
            let fresh = age < 2 * Timing::FLOW_WINDOW;
            self.previous = if fresh { self.current } else { Half::default() };
            self.current = Half::default();
            self.began = Some(at);
        }
        if let Some(before) = self.last_at {
            let pause = at.saturating_duration_since(before);
            self.current.longest_pause = self.current.longest_pause.max(pause);
        }
        self.current.packets = self.current.packets.saturating_add(packets);
        self.last_at = self.last_at.max(Some(at));
    }

    /// When a pause is longer than usual: half an interval too long, or a quarter longer than the longest of late.
    fn doubtful_at(&self, gap: Option<(Duration, Duration)>) -> Option<Instant> {
        let (gap, jitter) = gap?;
        if self.previous.packets < Timing::FLOW_PACKETS {
            return None;
        }
        let usual = (gap.saturating_mul(3) / 2).saturating_add(jitter.saturating_mul(2));
        let longest = self.longest_pause().saturating_mul(5) / 4;
        let limit = Timing::FLOW_DOUBT.max(usual).max(longest);
        Some(self.last_at? + limit.min(MAX_SILENCE))
    }

    fn longest_pause(&self) -> Duration {
        self.previous.longest_pause.max(self.current.longest_pause)
    }

    /// When a pause of a steady flow is too long: 4 intervals + 3 × jitter, and twice what it did of itself
    /// lately, since a window of packets a round trip is a flow with pauses.
    fn silent_at(&self, gap: Option<(Duration, Duration)>) -> Option<Instant> {
        let (gap, jitter) = gap?;
        if self.previous.packets < Timing::FLOW_PACKETS {
            return None;
        }
        let usual = gap
            .saturating_mul(4)
            .saturating_add(jitter.saturating_mul(3));
        let limit = Timing::FLOW_SILENCE
            .max(usual)
            .max(self.longest_pause().saturating_mul(2));
        Some(self.last_at? + limit.min(MAX_SILENCE))
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as a beginning"
)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const TIMEOUT: Duration = Duration::from_millis(100);

    struct Traffic {
        now: Instant,
        activity: Activity,
        watch: Watch,
    }

    impl Traffic {
        fn new() -> Self {
            let now = Instant::now();
            let mut watch = Watch::default();
            watch.reset(now);
            let probe_timeout = Some(60 * MILLI);
            Self {
                now,
                activity: Activity {
                    probe_timeout,
                    ..Activity::default()
                },
                watch,
            }
        }

        fn step(&mut self, after: Duration, received: u64, sent: u64) {
            self.now += after;
            self.activity.direct_received += received;
            self.activity.direct_sent += sent;
            if received > 0 {
                self.activity.direct_received_at = Some(self.now);
            }
            if sent > 0 {
                self.activity.direct_sent_at = Some(self.now);
            }
            self.watch.on_activity(self.now, &self.activity);
        }

        /// What silence brings from now on, and after how long.
        fn silence(&mut self) -> Vec<(Duration, Silence)> {
            let mut all = Vec::new();
            while let Some(at) = self.watch.silence_at(TIMEOUT) {
                let what = self.watch.on_silence(at, TIMEOUT).expect("it is due");
                all.push((at - self.now, what));
                if what == Silence::Suspect {
                    break;
                }
            }
            all
        }
    }

    #[test]
    fn an_unanswered_packet_is_asked_after_and_then_suspected() {
        let mut traffic = Traffic::new();
        traffic.step(20 * MILLI, 0, 1);
        let expected = [100, 150, 200, 250].map(|after| (after * MILLI, Silence::Ask));
        let silence = traffic.silence();
        assert_eq!(silence[..4], expected);
        assert_eq!(silence[4..], [(300 * MILLI, Silence::Suspect)]);
    }

    #[test]
    fn any_sign_of_life_settles_what_is_due() {
        let mut traffic = Traffic::new();
        traffic.step(20 * MILLI, 0, 1);
        traffic.watch.heard(traffic.now + MILLI);
        assert!(traffic.silence().is_empty());
        traffic.step(20 * MILLI, 0, 1);
        traffic.step(5 * MILLI, 1, 0);
        assert!(traffic.silence().is_empty(), "nothing was sent since");
    }

    #[test]
    fn slow_paths_get_three_probe_timeouts() {
        let mut traffic = Traffic::new();
        traffic.activity.probe_timeout = Some(200 * MILLI);
        traffic.step(20 * MILLI, 0, 1);
        assert_eq!(
            traffic.silence().last(),
            Some(&(600 * MILLI, Silence::Suspect))
        );
        traffic.activity.probe_timeout = Some(Duration::from_secs(100));
        traffic.watch.reset(traffic.now);
        traffic.step(20 * MILLI, 0, 1);
        assert_eq!(
            traffic.silence().last(),
            Some(&(MAX_SILENCE, Silence::Suspect))
        );
    }

    #[test]
    fn a_probe_timeout_that_backs_off_does_not_put_the_suspicion_off() {
        let mut traffic = Traffic::new();
        traffic.step(20 * MILLI, 0, 1);
        for _ in 0..10 {
            traffic.activity.probe_timeout = traffic.activity.probe_timeout.map(|old| old * 2);
            traffic.step(20 * MILLI, 0, 1);
        }
        let last = traffic.silence().last().copied();
        assert_eq!(last, Some((100 * MILLI, Silence::Suspect)));
    }

    #[test]
    fn a_steady_flow_is_missed_soon() {
        let mut traffic = Traffic::new();
        traffic.activity.direct_gap = Some((20 * MILLI, 2 * MILLI));
        for _ in 0..100 {
            traffic.step(20 * MILLI, 1, 0);
        }
        assert_eq!(traffic.silence(), [(86 * MILLI, Silence::Suspect)]);
    }

    #[test]
    fn a_pause_of_a_steady_flow_is_doubted_sooner() {
        let mut traffic = Traffic::new();
        traffic.activity.direct_gap = Some((20 * MILLI, 2 * MILLI));
        for _ in 0..100 {
            traffic.step(20 * MILLI, 1, 0);
        }
        let (now, watch) = (traffic.now, &traffic.watch);
        assert!(!watch.doubts(now));
        assert_eq!(watch.doubts_change_at(now), Some(now + Timing::FLOW_DOUBT));
        assert!(watch.doubts(now + Timing::FLOW_DOUBT));
        assert_eq!(watch.doubts_change_at(now + Timing::FLOW_DOUBT), None);
        traffic.step(50 * MILLI, 1, 0);
        assert!(!traffic.watch.doubts(traffic.now), "it goes on");
        traffic.step(50 * MILLI, 1, 0);
        let again = traffic.watch.doubts_change_at(traffic.now);
        assert_eq!(
            again,
            Some(traffic.now + 62_500 * MILLI / 1_000),
            "it pauses like that"
        );
    }

    #[test]
    fn what_comes_through_the_relay_is_a_hint_for_a_while() {
        let mut traffic = Traffic::new();
        let mut hinted = 0;
        traffic.step(Timing::HINT_PAUSE, 1, 0);
        for step in 0..200 {
            traffic.activity.relay_received_at = Some(traffic.now + 20 * MILLI);
            traffic.step(20 * MILLI, 1, 0);
            hinted += u32::from(traffic.watch.doubts(traffic.now));
            assert!(step > 90 || traffic.watch.doubts(traffic.now), "{step}");
        }
        assert_eq!(hinted, 100, "two seconds of it, then it is a habit");
        traffic.step(Timing::HINT_PAUSE, 1, 0);
        assert!(!traffic.watch.doubts(traffic.now));
        traffic.activity.relay_received_at = Some(traffic.now);
        traffic.step(20 * MILLI, 1, 0);
        assert!(traffic.watch.doubts(traffic.now));
        assert!(!traffic.watch.doubts(traffic.now + Timing::HINT));
    }

    #[test]
    fn bursts_are_no_steady_flow() {
        let mut traffic = Traffic::new();
        // Ten packets, then a pause of 200 ms: what the smoothed gap makes of it is far too short.
        traffic.activity.direct_gap = Some((MILLI, MILLI));
        for _ in 0..20 {
            traffic.step(200 * MILLI, 10, 0);
        }
        assert_eq!(traffic.silence(), [(400 * MILLI, Silence::Suspect)]);
    }

    #[test]
    fn a_few_packets_are_no_flow() {
        let mut traffic = Traffic::new();
        traffic.activity.direct_gap = Some((100 * MILLI, MILLI));
        for _ in 0..50 {
            traffic.step(100 * MILLI, 1, 0);
        }
        assert!(traffic.silence().is_empty());
        assert!(traffic.watch.is_busy(traffic.now));
        assert!(!traffic.watch.is_busy(traffic.now + Timing::BUSY));
    }
}
