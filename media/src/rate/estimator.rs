//! The estimate of a connection: the path that is in use decides, the others are remembered for a minute. Here
//! are the public words; what a path shows is in `path.rs`, what follows from it in `control.rs`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::path::{Path, millis};
use crate::OtherTraffic;
use crate::history::{Feedback, Outcome, SentPacket};

/// What was learnt of a path is kept for so long after it was left.
const KEEP_PATH: Duration = Duration::from_secs(60);
/// A probe that is due but not welcome is asked for again after so long, ms.
const PROBE_RETRY_MS: f64 = 20.0;
/// Paths kept at most.
const MAX_PATHS: usize = 8;
/// What is taken of an earlier estimate of a path whose own state is too old.
const KNOWN_SHARE: f64 = 0.7;

/// Bounds and start of an estimate; all of everything on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The estimate never falls below this, bits a second: sound at its least.
    pub floor_bits_per_sec: u64,
    /// What the call could use at most, bits a second: video, its repair, sound, reports.
    pub cap_bits_per_sec: u64,
    /// The first estimate, bits a second.
    pub start_bits_per_sec: u64,
    /// Round trip, if the layer below knows it already.
    pub round_trip: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            floor_bits_per_sec: 40_000,
            cap_bits_per_sec: 2_900_000,
            start_bits_per_sec: 600_000,
            round_trip: None,
        }
    }
}

/// What the estimator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The first seconds: growing by the round.
    Start,
    /// Growing.
    Increase,
    /// Waiting for the queue to empty after a decrease.
    Hold,
    /// The capacity fell: video is off until the queue is drained.
    Drain,
    /// No reports come.
    Blind,
    /// Somebody else keeps the queue full: loss decides, delay does not.
    Compete,
}

/// What the call must act upon at once. Taken with [`Estimator::poll_event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The capacity fell: video is off. If the ladder's step changes with the new rate, flush the pacer's
    /// video, since a key frame follows anyway; else finish the frame that is in it.
    Cliff {
        /// The estimate before, bits a second.
        before_bits_per_sec: u64,
        /// The estimate now, bits a second.
        now_bits_per_sec: u64,
    },
    /// Video may go on.
    Drained,
    /// No reports for some time: the estimate is frozen.
    Blind,
    /// No reports for longer: video is off.
    VideoOff,
    /// Reports come again. If `restarted`, the estimate started anew and a key frame of the step that fits goes
    /// out without being asked for.
    Back {
        /// Video had been off for longer than a gap.
        restarted: bool,
    },
}

/// A path that the connection changes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathHint {
    /// Names the path: the same again for the same path.
    pub key: u64,
    /// Path epoch of the packets sent on it, as in [`SentPacket::path_epoch`].
    pub epoch: u32,
    /// Through the relay.
    pub relayed: bool,
    /// Its round trip, if known.
    pub round_trip: Option<Duration>,
    /// An estimate of it from earlier, bits a second.
    pub known_bits_per_sec: Option<u64>,
    /// A limit that the relay announced, bits a second.
    pub announced_limit_bits_per_sec: Option<u64>,
}

/// A train of packets to send closely, to see whether the path carries more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Its number, to stand in [`crate::packet::Content::Probe`].
    pub cluster: u8,
    /// Bytes in all, on the wire.
    pub bytes: u32,
    /// Packets, of equal size.
    pub packets: u16,
    /// The rate to send them at, bits a second.
    pub bits_per_sec: u64,
}

/// Loss as repair wants to know it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LossView {
    /// The share that does not depend on our rate, 0 to 0.35.
    pub random: f64,
    /// All loss of the last two seconds, share of packets.
    pub total: f64,
    /// Mean length of runs of lost packets, packets; 1 if none was lost.
    pub mean_burst_packets: f64,
}

/// What statistics print.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// See [`Estimator::estimate_bits_per_sec`].
    pub estimate_bits_per_sec: u64,
    /// See [`Estimator::mode`].
    pub mode: Mode,
    /// What arrived lately, bits a second.
    pub acked_bits_per_sec: u64,
    /// What short bursts proved that the path carries, bits a second; 0: nothing proven.
    pub burst_capacity_bits_per_sec: u64,
    /// The rate from which on loss follows ours, bits a second, if there seems to be one.
    pub loss_limit_bits_per_sec: Option<u64>,
    /// See [`Estimator::queue_delay`].
    pub queue_delay: Duration,
    /// Spread of one-way delays (p90 − p10 over 200 ms, median of two seconds).
    pub jitter: Duration,
    /// Round trip, newest.
    pub round_trip: Duration,
    /// Smallest round trip of the last ten seconds.
    pub min_round_trip: Duration,
    /// See [`Estimator::loss`].
    pub loss: LossView,
    /// Probes sent.
    pub probes: u64,
    /// Probes that raised the estimate.
    pub probes_taken: u64,
    /// Cliffs seen.
    pub cliffs: u64,
    /// Decreases, cliffs included.
    pub decreases: u64,
}

/// The estimate of a connection: one path's at a time, those of others kept for a minute.
#[derive(Debug)]
pub struct Estimator {
    base: Instant,
    config: Config,
    key: u64,
    /// Of the packets that count; `None`: that of the first one.
    epoch: Option<u32>,
    path: Path,
    left: BTreeMap<u64, (Instant, Path)>,
    other: Option<OtherTraffic>,
    ringing: bool,
    /// The newest moment that was told.
    now: Instant,
}

impl Estimator {
    /// Starts on a path of which nothing is known but `config`; its key is 0 until
    /// [`on_path_switch`](Self::on_path_switch), its epoch that of the first packet.
    pub fn new(now: Instant, config: Config) -> Self {
        Self {
            base: now,
            config,
            key: 0,
            epoch: None,
            path: Path::new(0.0, config, config.start_bits_per_sec as f64),
            left: BTreeMap::new(),
            other: None,
            ringing: false,
            now,
        }
    }

    /// Changes what the call could use at most (screen added, advice of the peer).
    pub fn set_cap(&mut self, cap_bits_per_sec: u64) {
        self.config.cap_bits_per_sec = cap_bits_per_sec;
        self.path.set_cap(cap_bits_per_sec);
    }

    /// It rings: nothing but trains is sent, and they show what the path carries.
    pub fn on_ringing(&mut self, now: Instant) {
        let now = self.at(now);
        self.ringing = true;
        self.path.ring(now);
    }

    /// The call begins: START with what ringing showed, else with what was known before.
    pub fn on_answered(&mut self, now: Instant) {
        let now = self.at(now);
        if std::mem::take(&mut self.ringing) {
            self.path.answered(now);
        }
    }

    /// A media packet left.
    pub fn on_sent(&mut self, packet: &SentPacket) {
        let epoch = *self.epoch.get_or_insert(packet.path_epoch);
        let at = self.at(packet.sent_at);
        if packet.path_epoch == epoch {
            self.path.on_sent(at, packet);
        }
    }

    /// The first packet of a key frame leaves: what it queues is no sign of anything.
    pub fn on_key_frame(&mut self, now: Instant) {
        let now = self.at(now);
        self.path.key_frame = Some(now);
    }

    /// A report came.
    pub fn on_feedback(&mut self, now: Instant, feedback: &Feedback) {
        let now = self.at(now);
        let Some(epoch) = self.epoch else { return };
        let view = self.path.take_in(now, self.base, epoch, feedback);
        if self.ringing {
            self.path.hear_ringing(now);
        } else {
            self.path.decide(now, &view);
        }
    }

    /// Packets that turned out to be lost between reports (see [`crate::history::SentHistory::on_timeout`]).
    pub fn on_overdue(&mut self, now: Instant, outcomes: &[Outcome]) {
        let now = self.at(now);
        if let Some(epoch) = self.epoch {
            self.path.on_overdue(now, self.base, epoch, outcomes);
        }
    }

    /// The counters of what passes beside the call's datagrams, as they stand now.
    pub fn on_other_traffic(&mut self, now: Instant, traffic: OtherTraffic) {
        let now = self.at(now);
        if let Some(before) = self.other.replace(traffic) {
            let sent = traffic.sent_bytes.saturating_sub(before.sent_bytes);
            let acked = traffic
                .acknowledged_bytes
                .saturating_sub(before.acknowledged_bytes);
            self.path.on_other(now, sent as f64, acked as f64);
        }
    }

    /// The connection takes another path; feedback on packets of earlier epochs counts no more.
    pub fn on_path_switch(&mut self, now: Instant, hint: PathHint) {
        let at = self.at(now);
        let old_rate = self.path.estimate(at);
        self.epoch = Some(hint.epoch);
        if hint.key == self.key {
            return;
        }
        self.left
            .retain(|_, (left, _)| now.saturating_duration_since(*left) < KEEP_PATH);
        let path = match self.left.remove(&hint.key) {
            Some((_, mut path)) => {
                path.resume(at);
                path
            }
            None => Path::new(at, self.config_of(hint), start_on(hint, old_rate)),
        };
        let left = std::mem::replace(&mut self.path, path);
        let key = std::mem::replace(&mut self.key, hint.key);
        self.path.take_events(left.events());
        if self.left.len() < MAX_PATHS {
            self.left.insert(key, (now, left));
        }
        self.path.limit(hint.announced_limit_bits_per_sec);
    }

    fn config_of(&self, hint: PathHint) -> Config {
        Config {
            round_trip: hint.round_trip,
            ..self.config
        }
    }

    /// To be called at [`next_timeout`](Self::next_timeout), harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.at(now);
        if !self.ringing {
            self.path.on_timer(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`take_probe`](Self::take_probe) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let now = millis(self.base, self.now);
        let silence = if self.ringing {
            None
        } else {
            self.path.silence_due()
        };
        let due = [
            silence,
            self.path
                .probe_due()
                .map(|due| due.max(now + PROBE_RETRY_MS)),
        ]
        .into_iter()
        .flatten()
        .min_by(f64::total_cmp)?;
        // Rounded up, so that it is due when it comes.
        Some(self.base + Duration::from_secs_f64(due / 1e3) + Duration::from_micros(1))
    }

    /// What happened since the last call; to be drained after each input.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.path.event()
    }

    /// What the path carries, bits a second of everything on the wire.
    pub fn estimate_bits_per_sec(&self) -> u64 {
        self.path.estimate(self.ms()) as u64
    }

    /// What it is doing.
    pub fn mode(&self) -> Mode {
        self.path.mode
    }

    /// Video may be encoded and sent (not while draining, nor long without reports).
    pub fn video_allowed(&self) -> bool {
        self.path.video && !self.ringing
    }

    /// Other traffic may be sent (not while draining or blind).
    pub fn transfer_allowed(&self) -> bool {
        !matches!(self.path.mode, Mode::Drain | Mode::Blind)
    }

    /// Sound must keep to its least: a second without reports.
    pub fn audio_floor(&self) -> bool {
        self.path.audio_floor(self.ms())
    }

    /// The rate at which queued packets leave, bits a second.
    pub fn pacing_bits_per_sec(&self) -> u64 {
        self.path.pacing(self.ms()) as u64
    }

    /// A probe that is due now; it is taken to be sent at once.
    pub fn take_probe(&mut self, now: Instant) -> Option<ProbeOrder> {
        let now = self.at(now);
        self.path.take_probe(now)
    }

    /// Loss as repair wants to know it.
    pub fn loss(&self) -> LossView {
        self.path.loss.view()
    }

    /// Newest round trip; the layer below's, or 100 ms, until a report tells.
    pub fn round_trip(&self) -> Duration {
        from_millis(self.path.round_trip_ms())
    }

    /// Smallest round trip of the last ten seconds.
    pub fn min_round_trip(&self) -> Duration {
        from_millis(self.path.round_trip_least())
    }

    /// The queue in the network with jitter taken out (10th percentile over 200 ms).
    pub fn queue_delay(&self) -> Duration {
        from_millis(self.path.queue.p10)
    }

    /// What statistics print.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.ms();
        let path = &self.path;
        let fit = path.loss.fit();
        Snapshot {
            estimate_bits_per_sec: self.estimate_bits_per_sec(),
            mode: path.mode,
            acked_bits_per_sec: path.flow.rates().map_or(0, |(acked, _)| acked as u64),
            burst_capacity_bits_per_sec: path.bursts.best(now).map_or(0, |best| best.rate as u64),
            loss_limit_bits_per_sec: fit.limit.map(|limit| limit as u64),
            queue_delay: self.queue_delay(),
            jitter: from_millis(path.queue.jitter),
            round_trip: self.round_trip(),
            min_round_trip: self.min_round_trip(),
            loss: self.loss(),
            probes: path.prober.sent,
            probes_taken: path.prober.taken,
            cliffs: path.cliffs,
            decreases: path.decreases,
        }
    }

    /// Notes the present, and says it in ms since the beginning.
    fn at(&mut self, now: Instant) -> f64 {
        self.now = self.now.max(now);
        millis(self.base, now)
    }

    /// The newest present that was told.
    fn ms(&self) -> f64 {
        millis(self.base, self.now)
    }
}

/// The rate to start with on a path of which there is no state.
fn start_on(hint: PathHint, old_rate: f64) -> f64 {
    let known = hint
        .known_bits_per_sec
        .map_or(f64::INFINITY, |known| KNOWN_SHARE * known as f64);
    let announced = hint
        .announced_limit_bits_per_sec
        .map_or(f64::INFINITY, |limit| limit as f64);
    old_rate.min(known).min(announced)
}

fn from_millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.clamp(0.0, 3.6e6) / 1e3)
}
