//! Congestion control over changing paths (`ControllerFactory` of quinn). QUIC sees one path for life; below
//! it packets move from the relay to a direct path and back. Here each real path has a controller of its
//! own, chosen by a [`PathSwitch`] that the driver turns. What was sent before a switch neither grows nor
//! shrinks the window of the path after it, and does not fill that window either.
//!
//! While a call runs, its own estimate sets the window (`crate::rate`): losses and delays are counted for
//! it, and leave the controllers of the paths as they were before the call.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use crate::rate::{RateBlock, RateMode, SILENT_WINDOW};

/// Paths whose controllers are remembered; the least recently used gives way.
const MAX_PATHS: usize = 4;
/// A peer may hold back an acknowledgement this long (QUIC's default `max_ack_delay`, RFC 9000 §18.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// Losses that span a switch are not persistent congestion of the new path; so long after it none can.
const SWITCH_MEMORY: Duration = Duration::from_secs(3);
/// Packets under way and no acknowledgement for so long: a call's window closes down to what finds out.
const SILENCE: Duration = Duration::from_secs(1);

/// A real path, as far as congestion is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKey {
    /// Through the relay.
    Relay,
    /// Straight to this address.
    Direct(SocketAddr),
}

/// The handle that the driver turns when a peer's packets take another path. One per peer, shared by all
/// its connections.
#[derive(Debug)]
pub(crate) struct PathSwitch {
    epoch: AtomicU32,
    probe_timeout_micros: AtomicU64,
    /// How often packets that went over the path then in use were found lost.
    lost: AtomicU64,
    /// What a call and the controllers tell each other.
    pub(crate) rate: RateBlock,
    current: Mutex<(PathKey, Instant)>,
}

impl PathSwitch {
    /// Starts on the relay.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: AtomicU32::new(0),
            probe_timeout_micros: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            rate: RateBlock::default(),
            current: Mutex::new((PathKey::Relay, now)),
        }
    }

    /// Says that packets take `path` from `now` on. Returns the new epoch if that is a change.
    pub(crate) fn switch(&self, now: Instant, path: PathKey) -> Option<u32> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == path {
            return None;
        }
        *current = (path, now);
        Some(self.epoch.fetch_add(1, Ordering::Release).wrapping_add(1))
    }

    /// Counts the switches.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// QUIC's probe timeout (RFC 9002 §6.2.1) as last estimated by a connection of this peer.
    pub(crate) fn probe_timeout(&self) -> Option<Duration> {
        match self.probe_timeout_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// How often QUIC found packets lost that had gone over the path that was in use by then.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn current(&self) -> (PathKey, Instant) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the controllers of one peer's connections.
#[derive(Debug)]
pub(crate) struct PathControllers {
    switch: Arc<PathSwitch>,
    config: Arc<CubicConfig>,
}

impl PathControllers {
    /// Controllers that follow `switch`.
    pub(crate) fn new(switch: Arc<PathSwitch>) -> Self {
        Self {
            switch,
            config: Arc::new(CubicConfig::default()),
        }
    }

    fn controller(&self, now: Instant, mtu: u16) -> PathController {
        let (path, since) = self.switch.current();
        PathController {
            switch: self.switch.clone(),
            config: self.config.clone(),
            epoch: self.switch.epoch(),
            since: since.min(now),
            paths: vec![(path, Cubic::new(self.config.clone(), now, mtu))],
            in_flight: 0,
            stray: 0,
            unanswered_since: None,
            silent: false,
            mtu,
            deviation: Duration::ZERO,
        }
    }
}

impl ControllerFactory for PathControllers {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(self.controller(now, current_mtu))
    }
}

/// One CUBIC per path behind one face.
#[derive(Clone)]
struct PathController {
    switch: Arc<PathSwitch>,
    config: Arc<CubicConfig>,
    /// The switch epoch that this controller has followed.
    epoch: u32,
    /// When the path now in use was taken: packets sent earlier went elsewhere.
    since: Instant,
    /// Most recently used first; the first is in use.
    paths: Vec<(PathKey, Cubic)>,
    /// Bytes in flight: QUIC's own figure at the last acknowledgement, and what was sent since.
    in_flight: u64,
    /// Of those, bytes sent before the switch.
    stray: u64,
    /// Since when packets are under way and nothing was acknowledged.
    unanswered_since: Option<Instant>,
    /// That is too long ago, or QUIC found persistent congestion: until something is acknowledged.
    silent: bool,
    mtu: u16,
    /// Smoothed deviation of round trip samples (RFC 9002 §5.3's `rttvar`, which quinn keeps to itself).
    deviation: Duration,
}

impl PathController {
    fn follow(&mut self, now: Instant) {
        let epoch = self.switch.epoch();
        if epoch == self.epoch {
            return;
        }
        let (path, since) = self.switch.current();
        self.epoch = epoch;
        self.since = since;
        self.stray = self.in_flight;
        // The silence was the old path's.
        self.silent = false;
        self.unanswered_since = None;
        let known = self.paths.iter().position(|(key, _)| *key == path);
        let entry = match known {
            Some(at) => self.paths.remove(at),
            None => (path, Cubic::new(self.config.clone(), now, self.mtu)),
        };
        self.paths.insert(0, entry);
        self.paths.truncate(MAX_PATHS);
    }

    fn active(&mut self) -> &mut Cubic {
        &mut self.paths[0].1
    }

    fn in_call(&self) -> bool {
        self.switch.rate.mode() != RateMode::Streams
    }

    /// Takes note of `bytes` that left the flight; says whether they were sent on the path in use.
    fn settle(&mut self, sent: Instant, bytes: u64) -> bool {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if sent < self.since {
            self.stray = self.stray.saturating_sub(bytes);
            return false;
        }
        true
    }

    /// Takes note of `bytes` that arrived; says whether they were sent on the path in use.
    fn answered(&mut self, sent: Instant, bytes: u64) -> bool {
        self.switch.rate.on_acknowledged(bytes);
        let ours = self.settle(sent, bytes);
        if ours {
            self.unanswered_since = None;
            self.silent = false;
        }
        ours
    }

    fn sample(&mut self, sample: Duration, smoothed: Duration) {
        let difference = sample.abs_diff(smoothed);
        self.deviation = (self.deviation * 3 + difference) / 4;
        let probe_timeout =
            smoothed + (self.deviation * 4).max(Duration::from_millis(1)) + MAX_ACK_DELAY;
        let micros = u64::try_from(probe_timeout.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        self.switch
            .probe_timeout_micros
            .store(micros, Ordering::Relaxed);
    }
}

impl Controller for PathController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.follow(now);
        self.in_flight += bytes;
        self.switch.rate.on_sent(bytes);
        let since = *self.unanswered_since.get_or_insert(now);
        if now.saturating_duration_since(since) > SILENCE {
            self.silent = true;
        }
        self.active().on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.follow(now);
        if self.answered(sent, bytes) {
            self.sample(now.saturating_duration_since(sent), rtt.get());
            if !self.in_call() {
                self.active().on_ack(now, sent, bytes, app_limited, rtt);
            }
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.follow(now);
        self.in_flight = in_flight;
        self.stray = self.stray.min(in_flight);
        if in_flight == 0 {
            self.unanswered_since = None;
        }
        self.active()
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.follow(now);
        self.switch.rate.on_congestion(lost_bytes);
        if self.settle(sent, lost_bytes) {
            if lost_bytes > 0 {
                self.switch.lost.fetch_add(1, Ordering::Relaxed);
            }
            let settled = now.saturating_duration_since(self.since) > SWITCH_MEMORY;
            let persistent = is_persistent_congestion && settled;
            if self.in_call() {
                self.silent |= persistent;
            } else {
                self.active()
                    .on_congestion_event(now, sent, persistent, lost_bytes);
            }
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        for (_, controller) in &mut self.paths {
            controller.on_mtu_update(new_mtu);
        }
    }

    fn window(&self) -> u64 {
        if let Some(wanted) = self.switch.rate.window() {
            let followed = self.switch.epoch() == self.epoch;
            return match (followed, self.silent) {
                (true, true) => SILENT_WINDOW + self.stray,
                (true, false) => wanted + self.stray,
                (false, _) => wanted + self.in_flight,
            };
        }
        if self.switch.epoch() == self.epoch {
            return self.paths[0].1.window() + self.stray;
        }
        // A switch of which no callback has heard yet: all in flight went elsewhere.
        let (path, _) = self.switch.current();
        let known = self.paths.iter().find(|(key, _)| *key == path);
        known.map_or_else(|| self.initial_window(), |(_, inner)| inner.window()) + self.in_flight
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.paths[0].1.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::{RateBudget, RateControl};

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn direct(port: u16) -> PathKey {
        PathKey::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    fn start() -> (Instant, Arc<PathSwitch>, PathController) {
        let now = Instant::now();
        let switch = Arc::new(PathSwitch::new(now));
        let controller = PathControllers::new(switch.clone()).controller(now, 1200);
        (now, switch, controller)
    }

    #[test]
    fn only_a_change_of_path_is_a_switch() {
        let (now, switch, _) = start();
        assert_eq!(switch.switch(now, PathKey::Relay), None);
        assert_eq!(switch.switch(now, direct(1)), Some(1));
        assert_eq!(switch.switch(now, direct(1)), None);
        assert_eq!(switch.switch(now, direct(2)), Some(2));
        assert_eq!(switch.switch(now, PathKey::Relay), Some(3));
    }

    #[test]
    fn bytes_stranded_on_the_old_path_do_not_fill_the_new_window() {
        let (now, switch, mut controller) = start();
        let initial = controller.window();
        controller.on_sent(now, initial, 0);
        switch.switch(now + MILLISECOND, direct(1));
        // Seen before any callback, and after one.
        assert_eq!(controller.window(), initial + initial);
        controller.on_sent(now + 2 * MILLISECOND, 1200, 1);
        assert_eq!(controller.window(), initial + initial);
    }

    #[test]
    fn losses_of_the_old_path_leave_the_new_window_alone() {
        let (now, switch, mut controller) = start();
        let initial = controller.window();
        controller.on_sent(now, 10_000, 0);
        switch.switch(now + MILLISECOND, direct(1));
        controller.on_congestion_event(now + 5 * MILLISECOND, now, true, 10_000);
        assert_eq!(
            controller.window(),
            initial,
            "the stranded bytes are gone, the window is whole"
        );
        let sent = now + 6 * MILLISECOND;
        controller.on_sent(sent, 10_000, 1);
        controller.on_congestion_event(sent + MILLISECOND, sent, false, 1200);
        assert!(
            controller.window() < initial,
            "a loss on the path itself counts"
        );
    }

    #[test]
    fn a_path_that_comes_back_keeps_its_window() {
        let (now, switch, mut controller) = start();
        controller.on_sent(now, 10_000, 0);
        controller.on_congestion_event(now + MILLISECOND, now, false, 10_000);
        let shrunk = controller.window();
        switch.switch(now + 2 * MILLISECOND, direct(1));
        controller.on_end_acks(now + 3 * MILLISECOND, 0, false, None);
        assert!(controller.window() > shrunk, "a new path starts afresh");
        switch.switch(now + 4 * MILLISECOND, PathKey::Relay);
        assert_eq!(controller.window(), shrunk);
        controller.on_end_acks(now + 5 * MILLISECOND, 0, false, None);
        assert_eq!(controller.window(), shrunk);
    }

    #[test]
    fn acknowledgements_settle_on_the_path_that_carried_them() {
        let (now, switch, mut controller) = start();
        controller.on_sent(now, 5_000, 0);
        let since = now + MILLISECOND;
        switch.switch(since, direct(1));
        controller.on_sent(since, 2_000, 1);
        assert!(!controller.settle(now, 1_000));
        assert_eq!((controller.in_flight, controller.stray), (6_000, 4_000));
        assert!(controller.settle(since, 1_500));
        assert_eq!((controller.in_flight, controller.stray), (4_500, 4_000));
        controller.on_end_acks(since, 300, false, None);
        assert_eq!(
            (controller.in_flight, controller.stray),
            (300, 300),
            "QUIC's figure rules"
        );
    }

    fn call(switch: &Arc<PathSwitch>, megabits: u64) -> RateControl {
        let control = RateControl::new(switch.clone());
        control.set(RateBudget {
            mode: RateMode::Call,
            estimate_bits_per_sec: megabits * 1_000_000,
            min_round_trip: 50 * MILLISECOND,
        });
        control
    }

    #[test]
    fn losses_in_a_call_are_counted_and_change_no_window() {
        let (now, switch, mut controller) = start();
        let before = controller.window();
        let control = call(&switch, 8);
        let window = controller.window();
        assert_eq!(window, 600_000);
        controller.on_sent(now, 50_000, 0);
        controller.on_congestion_event(now + MILLISECOND, now, false, 20_000);
        controller.on_congestion_event(now + MILLISECOND, now, false, 0);
        assert_eq!(controller.window(), window);
        let counters = control.counters();
        assert_eq!((counters.sent_bytes, counters.lost_bytes), (50_000, 20_000));
        assert_eq!(counters.congestion_marks, 1);
        control.set(RateBudget::default());
        assert_eq!(controller.window(), before, "as if there had been no call");
    }

    #[test]
    fn a_call_that_hears_nothing_keeps_only_a_small_window() {
        let (now, switch, mut controller) = start();
        call(&switch, 8);
        let at = |millis: u32| now + millis * MILLISECOND;
        controller.on_sent(at(0), 1_000, 0);
        controller.on_sent(at(900), 1_000, 1);
        assert_eq!(controller.window(), 600_000);
        controller.on_sent(at(1_100), 1_000, 2);
        assert_eq!(controller.window(), SILENT_WINDOW);
        assert!(controller.answered(at(1_100), 1_000));
        assert_eq!(controller.window(), 600_000, "an answer opens it again");
        controller.on_end_acks(at(1_150), 0, false, None);
        // A pause of ours is not a silence of theirs.
        controller.on_sent(at(9_000), 1_000, 3);
        assert_eq!(controller.window(), 600_000);
        controller.on_congestion_event(at(9_100), at(9_000), true, 1_000);
        assert_eq!(controller.window(), SILENT_WINDOW, "persistent congestion");
        switch.switch(at(9_200), direct(1));
        controller.on_sent(at(9_210), 1_000, 4);
        assert_eq!(controller.window(), 600_000, "of the path before, that was");
    }

    #[test]
    fn a_switch_in_a_call_gives_credit_for_what_is_on_the_old_path() {
        let (now, switch, mut controller) = start();
        call(&switch, 8);
        controller.on_sent(now, 70_000, 0);
        switch.switch(now + MILLISECOND, direct(1));
        assert_eq!(controller.window(), 670_000);
        controller.on_sent(now + 2 * MILLISECOND, 1_000, 1);
        assert_eq!(controller.window(), 670_000);
        controller.on_congestion_event(now + 3 * MILLISECOND, now, false, 70_000);
        assert_eq!(controller.window(), 600_000);
    }

    #[test]
    fn the_memory_of_paths_is_bounded() {
        let (now, switch, mut controller) = start();
        for port in 1..100 {
            switch.switch(now, direct(port));
            controller.on_sent(now, 1, u64::from(port));
        }
        assert_eq!(controller.paths.len(), MAX_PATHS);
        assert_eq!(controller.paths[0].0, direct(99));
    }

    #[test]
    fn the_probe_timeout_follows_the_samples() {
        let (_, switch, mut controller) = start();
        assert_eq!(switch.probe_timeout(), None);
        for _ in 0..64 {
            controller.sample(100 * MILLISECOND, 100 * MILLISECOND);
        }
        assert_eq!(switch.probe_timeout(), Some(126 * MILLISECOND));
    }
}
