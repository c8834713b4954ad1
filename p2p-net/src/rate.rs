//! The handle with which a call rules its connection's congestion control, and the block of atomics that the
//! handle shares with the controller below (`crate::congestion`). A call has an estimate of its own for
//! everything on the wire; the window here is only the net below it, so wide that it never makes a datagram
//! wait, and narrow again as soon as nothing is acknowledged.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::congestion::PathSwitch;

/// Smallest window of a call, bytes: a large key frame may leave at once whatever the estimate says.
const CALL_WINDOW_MIN: u64 = 64 << 10;
/// Largest window of a call, bytes: 100 Mbit/s over 160 ms, more than any call takes.
const CALL_WINDOW_MAX: u64 = 2 << 20;
/// How many round trips' worth of the estimate a call's window holds. Below 4, quinn's pacer (1.25 windows a
/// round trip) begins to show in the delay of a frame's last packet.
const CALL_WINDOW_ROUND_TRIPS: u64 = 4;
/// Added to the round trip of a call's window: what may queue on the way before reports tell of it.
const CALL_QUEUE: Duration = Duration::from_millis(100);
/// Added to the round trip beside a transfer, whose bytes would fill any larger window and the queue with it.
const TRANSFER_QUEUE: Duration = Duration::from_millis(20);
/// Smallest window beside a transfer, bytes: acknowledgements come for pairs of packets, late by 25 ms.
const TRANSFER_WINDOW_MIN: u64 = 8 << 10;
/// The window while nothing is acknowledged, bytes: enough for audio and reports to notice the way back.
pub(crate) const SILENT_WINDOW: u64 = 16 << 10;

/// What uses a connection, as far as its congestion window is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RateMode {
    /// No call: the connection's own congestion control rules.
    #[default]
    Streams,
    /// A call, with nothing but its datagrams to send: the call's estimate rules.
    Call,
    /// A call, and a transfer that gets what the call leaves.
    CallAndTransfer,
}

/// What a call says of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateBudget {
    /// What uses the connection.
    pub mode: RateMode,
    /// The estimate for everything on the wire, bits a second.
    pub estimate_bits_per_sec: u64,
    /// The smallest round trip seen.
    pub min_round_trip: Duration,
}

/// What congestion control has seen of the packets to a peer, of datagrams and streams alike; counters that
/// only grow. Bare acknowledgements count as sent alone, and probes of the packet size as acknowledged alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RateCounters {
    /// Bytes of packets sent, UDP payload.
    pub sent_bytes: u64,
    /// Of those, acknowledged.
    pub acknowledged_bytes: u64,
    /// Of those, declared lost.
    pub lost_bytes: u64,
    /// Rounds in which a router marked packets (ECN-CE).
    pub congestion_marks: u64,
    /// Counts the changes of path.
    pub path_epoch: u32,
}

/// See the module. Clones, and the handles of later connections to the same peer, share one block: a call
/// that outlives its connection keeps its hold, and must let go at its end (`set` to the default).
#[derive(Clone)]
pub struct RateControl {
    switch: Arc<PathSwitch>,
}

impl RateControl {
    pub(crate) fn new(switch: Arc<PathSwitch>) -> Self {
        Self { switch }
    }

    /// Says what the call takes from now on.
    pub fn set(&self, budget: RateBudget) {
        self.switch.rate.set(budget);
    }

    /// What was last said.
    pub fn budget(&self) -> RateBudget {
        self.switch.rate.budget()
    }

    /// What was seen since the first connection to the peer.
    pub fn counters(&self) -> RateCounters {
        let rate = &self.switch.rate;
        RateCounters {
            sent_bytes: rate.sent.load(Ordering::Relaxed),
            acknowledged_bytes: rate.acknowledged.load(Ordering::Relaxed),
            lost_bytes: rate.lost.load(Ordering::Relaxed),
            congestion_marks: rate.marks.load(Ordering::Relaxed),
            path_epoch: self.switch.epoch(),
        }
    }
}

impl fmt::Debug for RateControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateControl")
            .field("budget", &self.budget())
            .field("counters", &self.counters())
            .finish()
    }
}

/// What the handle and the controllers share. Each value stands alone: no reader needs two of one moment.
#[derive(Debug, Default)]
pub(crate) struct RateBlock {
    mode: AtomicU8,
    estimate: AtomicU64,
    min_round_trip_micros: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    lost: AtomicU64,
    marks: AtomicU64,
    /// Woken when the mode changes.
    pub(crate) changed: Notify,
}

impl RateBlock {
    fn set(&self, budget: RateBudget) {
        self.estimate
            .store(budget.estimate_bits_per_sec, Ordering::Relaxed);
        let micros = u64::try_from(budget.min_round_trip.as_micros()).unwrap_or(u64::MAX);
        self.min_round_trip_micros.store(micros, Ordering::Relaxed);
        let mode = match budget.mode {
            RateMode::Streams => 0,
            RateMode::Call => 1,
            RateMode::CallAndTransfer => 2,
        };
        if self.mode.swap(mode, Ordering::Release) != mode {
            self.changed.notify_waiters();
        }
    }

    fn budget(&self) -> RateBudget {
        RateBudget {
            mode: self.mode(),
            estimate_bits_per_sec: self.estimate.load(Ordering::Relaxed),
            min_round_trip: Duration::from_micros(
                self.min_round_trip_micros.load(Ordering::Relaxed),
            ),
        }
    }

    pub(crate) fn mode(&self) -> RateMode {
        match self.mode.load(Ordering::Acquire) {
            1 => RateMode::Call,
            2 => RateMode::CallAndTransfer,
            _ => RateMode::Streams,
        }
    }

    /// The window that the call wants, bytes; `None` without a call.
    pub(crate) fn window(&self) -> Option<u64> {
        let RateBudget {
            mode,
            estimate_bits_per_sec,
            min_round_trip,
        } = self.budget();
        let bytes_within = |time: Duration| {
            let bits =
                u128::from(estimate_bits_per_sec).saturating_mul(time.as_micros()) / 1_000_000;
            u64::try_from(bits / 8).unwrap_or(u64::MAX)
        };
        match mode {
            RateMode::Streams => None,
            RateMode::Call => {
                let round = bytes_within(min_round_trip.saturating_add(CALL_QUEUE));
                let window = round.saturating_mul(CALL_WINDOW_ROUND_TRIPS);
                Some(window.clamp(CALL_WINDOW_MIN, CALL_WINDOW_MAX))
            }
            RateMode::CallAndTransfer => {
                let round = bytes_within(min_round_trip.saturating_add(TRANSFER_QUEUE));
                let window = round.saturating_add(round / 4);
                Some(window.clamp(TRANSFER_WINDOW_MIN, CALL_WINDOW_MAX))
            }
        }
    }

    pub(crate) fn on_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn on_acknowledged(&self, bytes: u64) {
        self.acknowledged.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` were declared lost; none of them: a router marked packets.
    pub(crate) fn on_congestion(&self, bytes: u64) {
        if bytes == 0 {
            self.marks.fetch_add(1, Ordering::Relaxed);
        } else {
            self.lost.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(mode: RateMode, megabits: u64, round_trip_millis: u64) -> Option<u64> {
        let block = RateBlock::default();
        block.set(RateBudget {
            mode,
            estimate_bits_per_sec: megabits * 1_000_000,
            min_round_trip: Duration::from_millis(round_trip_millis),
        });
        block.window()
    }

    #[test]
    fn windows_follow_the_estimate_within_their_bounds() {
        assert_eq!(window(RateMode::Streams, 8, 50), None);
        // 8 Mbit/s is 1,000 bytes a millisecond.
        assert_eq!(window(RateMode::Call, 8, 50), Some(4 * 150_000));
        assert_eq!(window(RateMode::Call, 0, 50), Some(CALL_WINDOW_MIN));
        assert_eq!(window(RateMode::Call, 1_000, 50), Some(CALL_WINDOW_MAX));
        assert_eq!(
            window(RateMode::CallAndTransfer, 8, 60),
            Some(80_000 * 5 / 4)
        );
        assert_eq!(
            window(RateMode::CallAndTransfer, 0, 0),
            Some(TRANSFER_WINDOW_MIN)
        );
        for mode in [RateMode::Call, RateMode::CallAndTransfer] {
            let block = RateBlock::default();
            block.set(RateBudget {
                mode,
                estimate_bits_per_sec: u64::MAX,
                min_round_trip: Duration::MAX,
            });
            assert_eq!(block.window(), Some(CALL_WINDOW_MAX), "no overflow");
        }
    }
}
