//! A token bucket before the lanes, for as long as something more urgent shares the connection: a call says
//! how much of its estimate it leaves. Without a rate it costs one look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What may come at once after a pause: short, so that the bytes do not stand in a frame's way.
const BURST: Duration = Duration::from_millis(10);
/// Least and most bytes that are written at once while a rate holds: one packet, and what QUIC may have
/// unsent.
const PIECE: (usize, usize) = (1_200, 16 * 1024);

/// Holds content back to a rate. Clones share it.
#[derive(Debug, Clone)]
pub struct Throttle {
    rate: Arc<watch::Sender<Option<u64>>>,
    /// Up to when the rate is spent.
    spent_until: Arc<Mutex<Instant>>,
}

impl Throttle {
    /// One that holds nothing back.
    pub fn new() -> Self {
        Self {
            rate: Arc::new(watch::Sender::new(None)),
            spent_until: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// From now on no more than `bits_per_sec` (0: nothing at all), or whatever the connection carries.
    pub fn set(&self, bits_per_sec: Option<u64>) {
        self.rate.send_if_modified(|rate| {
            let news = *rate != bits_per_sec;
            *rate = bits_per_sec;
            news
        });
    }

    /// Whether anybody else holds it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.rate) > 1
    }

    /// The rate that holds.
    pub fn rate(&self) -> Option<u64> {
        *self.rate.borrow()
    }

    /// How many of `bytes` may be written at once; take them with [`Throttle::admit`] first. `None`: all.
    pub(super) fn piece(&self, bytes: usize) -> Option<usize> {
        let rate = self.rate()?;
        let burst = u128::from(rate) * BURST.as_millis() / 8_000;
        let burst = usize::try_from(burst).unwrap_or(PIECE.1);
        Some(bytes.min(burst.clamp(PIECE.0, PIECE.1)))
    }

    /// Waits until `bytes` may go. Dropped while it waits, it leaves the rate as it was.
    pub(super) async fn admit(&self, bytes: usize) {
        let mut changes = self.rate.subscribe();
        loop {
            let until = match *changes.borrow_and_update() {
                None => return,
                Some(0) => None,
                Some(rate) => match self.reserve(rate, bytes) {
                    Ok(()) => return,
                    Err(until) => Some(until),
                },
            };
            let due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                changed = changes.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }

    /// Spends the rate, or says when to ask again.
    fn reserve(&self, rate: u64, bytes: usize) -> Result<(), Instant> {
        let now = Instant::now();
        let mut spent = self
            .spent_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *spent > now + BURST {
            return Err(*spent - BURST);
        }
        let from = now
            .checked_sub(BURST)
            .map_or(*spent, |past| spent.max(past));
        let nanos = (bytes as u128 * 8_000_000_000) / u128::from(rate.max(1));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // A rate that was tiny for a moment must not bind what comes after it.
        *spent = (from + cost.min(Duration::from_secs(1))).max(from);
        Ok(())
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass within `time`.
    async fn passed(throttle: &Throttle, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut bytes = 0;
        while Instant::now() < end {
            let piece = throttle.piece(1 << 20).expect("a rate holds");
            tokio::select! {
                () = throttle.admit(piece) => bytes += piece,
                () = sleep_until(end) => {}
            }
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_and_bursts_are_short() {
        let throttle = Throttle::new();
        assert_eq!(throttle.piece(1 << 20), None);
        throttle.admit(usize::MAX).await;
        throttle.set(Some(800_000));
        // 100,000 bytes a second, however long nothing was wanted before.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let bytes = passed(&throttle, Duration::from_secs(2)).await;
        assert!((200_000..205_000).contains(&bytes), "{bytes}");
        let bytes = passed(&throttle, Duration::from_millis(1)).await;
        assert!(bytes <= 3_600, "{bytes} at once");
    }

    #[tokio::test(start_paused = true)]
    async fn several_lanes_share_it() {
        let throttle = Throttle::new();
        throttle.set(Some(8_000_000));
        let lanes = [(); 4].map(|()| {
            let throttle = throttle.clone();
            async move { passed(&throttle, Duration::from_secs(1)).await }
        });
        let bytes: usize = futures_util::future::join_all(lanes).await.iter().sum();
        assert!((1_000_000..1_060_000).contains(&bytes), "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_bucket_opens_again() {
        let throttle = Throttle::new();
        throttle.set(Some(0));
        let waiting = {
            let throttle = throttle.clone();
            tokio::spawn(async move { throttle.admit(1).await })
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        throttle.set(None);
        waiting.await.expect("it goes on");
    }
}
