//! The estimate of a connection.

use std::time::{Duration, Instant};

use crate::OtherTraffic;
use crate::history::{Feedback, SentPacket};

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
    /// Spread of one-way delays over two seconds (p90 − p10).
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
    config: Config,
}

impl Estimator {
    /// Starts on a path of which nothing is known but `config`; its key is 0 until
    /// [`on_path_switch`](Self::on_path_switch), its epoch that of the first packet.
    pub fn new(_now: Instant, config: Config) -> Self {
        Self { config }
    }

    /// Changes what the call could use at most (screen added, advice of the peer).
    pub fn set_cap(&mut self, _cap_bits_per_sec: u64) {
        todo!()
    }

    /// A media packet left.
    pub fn on_sent(&mut self, _packet: &SentPacket) {
        todo!()
    }

    /// The first packet of a key frame leaves: what it queues is no sign of anything.
    pub fn on_key_frame(&mut self, _now: Instant) {
        todo!()
    }

    /// A report came.
    pub fn on_feedback(&mut self, _now: Instant, _feedback: &Feedback) {
        todo!()
    }

    /// The counters of what passes beside the call's datagrams, as they stand now.
    pub fn on_other_traffic(&mut self, _now: Instant, _traffic: OtherTraffic) {
        todo!()
    }

    /// The connection takes another path; feedback on packets of earlier epochs counts no more.
    pub fn on_path_switch(&mut self, _now: Instant, _hint: PathHint) {
        todo!()
    }

    /// To be called at [`next_timeout`](Self::next_timeout), harmless at any time.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`take_probe`](Self::take_probe) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// What happened since the last call; to be drained after each input.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// What the path carries, bits a second of everything on the wire.
    pub fn estimate_bits_per_sec(&self) -> u64 {
        self.config.start_bits_per_sec
    }

    /// What it is doing.
    pub fn mode(&self) -> Mode {
        todo!()
    }

    /// Video may be encoded and sent (not while draining, nor long without reports).
    pub fn video_allowed(&self) -> bool {
        todo!()
    }

    /// Other traffic may be sent (not while draining or blind).
    pub fn transfer_allowed(&self) -> bool {
        todo!()
    }

    /// Sound must keep to its least: a second without reports.
    pub fn audio_floor(&self) -> bool {
        todo!()
    }

    /// The rate at which queued packets leave, bits a second.
    pub fn pacing_bits_per_sec(&self) -> u64 {
        todo!()
    }

    /// A probe that is due now; it is taken to be sent at once.
    pub fn take_probe(&mut self, _now: Instant) -> Option<ProbeOrder> {
        todo!()
    }

    /// Loss as repair wants to know it.
    pub fn loss(&self) -> LossView {
        todo!()
    }

    /// Newest round trip; the layer below's, or 100 ms, until a report tells.
    pub fn round_trip(&self) -> Duration {
        todo!()
    }

    /// Smallest round trip of the last ten seconds.
    pub fn min_round_trip(&self) -> Duration {
        todo!()
    }

    /// The queue in the network with jitter taken out (10th percentile over 200 ms).
    pub fn queue_delay(&self) -> Duration {
        todo!()
    }

    /// What statistics print.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
}
