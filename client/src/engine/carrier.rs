//! What carries a call's datagrams: the connection to the peer, whichever it is now. The media library sees
//! one transport for the whole call; connections may end and begin below it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use media::{Budget, OtherTraffic, PathState, Transport, TransportError};
use p2p_net::{Connection, DatagramError, PathKind, RateBudget, RateControl, RateMode};
use tokio::sync::watch;

use crate::transfer::Throttle;

/// What QUIC adds to a datagram at most, bytes: flags, connection id, number, tag, frame bound (`media.md` §3).
const QUIC_OVERHEAD: u64 = 38;
/// The largest datagram while there is no connection: that of the smallest path, bytes.
const SMALLEST_DATAGRAM: usize = 1_162;
/// Bytes that may wait in QUIC before a transfer is held back altogether: half of the room there.
const CROWDED: usize = 8 << 10;

/// See the module.
pub(super) struct Carrier {
    connection: watch::Sender<Option<Connection>>,
    throttle: Throttle,
    transfer: AtomicBool,
    over: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rate: Option<RateControl>,
    /// The path as it was last seen, and how often it has changed.
    path: Option<(usize, u32)>,
    epoch: u32,
    other: Other,
}

/// Bytes beside ours, by the share of ours in what was sent.
#[derive(Default)]
struct Other {
    /// Counters when we last looked: sent, acknowledged, lost, and ours.
    seen: Option<[u64; 4]>,
    total: OtherTraffic,
    /// Share of the newest bytes that were not ours.
    share: f64,
}

impl Other {
    /// Takes the counters as they are now. Acknowledgements and losses do not say whose they are: those of a
    /// moment are shared as what was sent shortly before.
    fn update(&mut self, sent: u64, acknowledged: u64, lost: u64, ours: u64) -> OtherTraffic {
        let now = [sent, acknowledged, lost, ours];
        if let Some(seen) = self.seen.replace(now) {
            let [sent, acknowledged, lost, ours] =
                std::array::from_fn(|at| now[at].saturating_sub(seen[at]));
            let others = sent.saturating_sub(ours);
            if sent > 0 {
                let share = others as f64 / sent as f64;
                self.share += (share - self.share) * 0.25;
            }
            let part = |bytes: u64| (bytes as f64 * self.share) as u64;
            self.total.sent_bytes += others;
            self.total.acknowledged_bytes += part(acknowledged);
            self.total.lost_bytes += part(lost);
        }
        self.total
    }
}

impl Carrier {
    /// One without a connection; transfers to the same peer are held back by `throttle`.
    pub(super) fn new(throttle: Throttle) -> Self {
        Self {
            connection: watch::Sender::new(None),
            throttle,
            transfer: AtomicBool::new(false),
            over: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Datagrams take this connection from now on.
    pub(super) fn attach(&self, connection: Option<Connection>) {
        if let Some(connection) = &connection {
            self.state().rate = Some(connection.rate_control());
        }
        self.connection.send_replace(connection);
    }

    /// A transfer to the same peer runs, or no more.
    pub(super) fn set_transfer(&self, runs: bool) {
        self.transfer.store(runs, Ordering::Relaxed);
    }

    /// Datagrams that came so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The next datagram of the call, over whichever connection. Cancel safe.
    pub(super) async fn next_datagram(&self) -> Bytes {
        let mut connections = self.connection.subscribe();
        loop {
            let connection = connections.borrow_and_update().clone();
            let arrived = async {
                match &connection {
                    Some(connection) => connection.read_datagram().await.ok(),
                    None => None,
                }
            };
            tokio::select! {
                datagram = arrived => match datagram {
                    Some(datagram) => {
                        self.received.fetch_add(1, Ordering::Relaxed);
                        return datagram;
                    }
                    // It ended; another one follows, or the call ends.
                    None => if connections.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    },
                },
                _ = connections.changed() => {}
            }
        }
    }

    /// The call is over: the connection belongs to its streams again.
    pub(super) fn release(&self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(rate) = self.state().rate.take() {
            rate.set(RateBudget::default());
        }
        self.throttle.set(None);
        self.connection.send_replace(None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.release();
    }
}

impl Transport for Carrier {
    fn send(&self, datagram: Bytes) -> Result<(), TransportError> {
        if self.over.load(Ordering::Relaxed) {
            return Err(TransportError::Closed);
        }
        let bytes = datagram.len() as u64 + QUIC_OVERHEAD;
        let connection = self.connection.borrow();
        // Between two connections datagrams are lost, as on any path that is down.
        let Some(connection) = connection.as_ref() else {
            return Ok(());
        };
        match connection.send_datagram(datagram) {
            Ok(()) => {
                self.sent.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(DatagramError::TooLarge | DatagramError::Reserved) => Err(TransportError::TooLarge),
            Err(_) => Ok(()),
        }
    }

    fn path(&self) -> PathState {
        let connection = self.connection.borrow().clone();
        let mut state = self.state();
        let Some(connection) = connection else {
            return PathState {
                epoch: state.epoch,
                relayed: false,
                suspect: true,
                max_datagram_bytes: SMALLEST_DATAGRAM,
                round_trip: None,
            };
        };
        let epoch = connection.rate_control().counters().path_epoch;
        let key = (connection.stable_id(), epoch);
        if state.path != Some(key) {
            // The first path is no change.
            state.epoch += u32::from(state.path.is_some());
            state.path = Some(key);
        }
        let info = *connection.path().borrow();
        let measured = info.round_trip.or_else(|| {
            let micros = connection.stats().round_trip_micros;
            (micros > 0).then(|| Duration::from_micros(micros))
        });
        PathState {
            epoch: state.epoch,
            relayed: info.kind == PathKind::Relayed,
            suspect: connection.is_path_suspect(),
            max_datagram_bytes: connection.max_datagram_size(),
            round_trip: measured,
        }
    }

    fn other_traffic(&self) -> OtherTraffic {
        let mut state = self.state();
        let Some(counters) = state.rate.as_ref().map(RateControl::counters) else {
            return state.other.total;
        };
        let ours = self.sent.load(Ordering::Relaxed);
        state.other.update(
            counters.sent_bytes,
            counters.acknowledged_bytes,
            counters.lost_bytes,
            ours,
        )
    }

    fn set_budget(&self, budget: Budget) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        let transfer = self.transfer.load(Ordering::Relaxed);
        let mode = match (budget.estimate_bits_per_sec, transfer) {
            (0, _) => RateMode::Streams,
            (_, false) => RateMode::Call,
            (_, true) => RateMode::CallAndTransfer,
        };
        if let Some(rate) = &self.state().rate {
            rate.set(RateBudget {
                mode,
                estimate_bits_per_sec: budget.estimate_bits_per_sec,
                min_round_trip: budget.min_round_trip,
            });
        }
        let crowded = self
            .connection
            .borrow()
            .as_ref()
            .is_some_and(|connection| connection.datagram_send_buffer_space() < CROWDED);
        self.throttle.set(match mode {
            RateMode::Streams => None,
            _ if crowded => Some(0),
            _ => Some(budget.other_bits_per_sec),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn bytes_beside_ours_are_told_apart_by_their_share() {
        let mut other = Other::default();
        assert_eq!(other.update(5_000, 4_000, 0, 0), OtherTraffic::default());
        // Ten rounds of 1,000 bytes of which 250 are ours, one in ten lost.
        let mut total = OtherTraffic::default();
        for round in 1..=20 {
            total = other.update(
                5_000 + round * 1_000,
                4_000 + round * 900,
                round * 100,
                round * 250,
            );
        }
        assert_eq!(total.sent_bytes, 15_000);
        let share = |bytes: u64, whole: u64| bytes as f64 / whole as f64;
        assert!((0.6..0.75).contains(&share(total.acknowledged_bytes, 18_000)));
        assert!((0.6..0.75).contains(&share(total.lost_bytes, 2_000)));
    }

    #[test]
    fn without_a_connection_datagrams_are_lost_and_after_the_call_refused() {
        let throttle = Throttle::new();
        let carrier = Carrier::new(throttle.clone());
        assert_eq!(carrier.send(Bytes::from_static(b"\x00")), Ok(()));
        assert!(carrier.path().suspect);
        carrier.set_budget(Budget {
            estimate_bits_per_sec: 1_000_000,
            other_bits_per_sec: 20_000,
            min_round_trip: Duration::ZERO,
        });
        assert_eq!(throttle.rate(), Some(20_000));
        carrier.release();
        assert_eq!(throttle.rate(), None);
        let refused = carrier.send(Bytes::from_static(b"\x00"));
        assert_eq!(refused, Err(TransportError::Closed));
    }

    #[test]
    fn a_carrier_is_shared_between_threads() {
        fn shared<T: Transport>(_: &Arc<T>) {}
        shared(&Arc::new(Carrier::new(Throttle::new())));
    }
}
