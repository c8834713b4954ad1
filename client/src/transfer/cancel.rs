//! A switch that ends a transfer from outside, with a reason that both people read.

use std::sync::Arc;

use tokio::sync::watch;

/// Ends a transfer when it is thrown. Clones share it; throwing it twice keeps the first reason.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<watch::Sender<Option<String>>>);

impl Cancel {
    /// A switch that has not been thrown.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Throws it. The reason is told to the other side, cut to
    /// [`MAX_REASON_BYTES`](super::MAX_REASON_BYTES).
    pub fn cancel(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(reason);
            }
            first
        });
    }

    /// Whether it has been thrown.
    pub fn is_cancelled(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it is thrown, and says why. Cancel safe.
    pub async fn cancelled(&self) -> String {
        let mut watch = self.0.subscribe();
        let thrown = watch
            .wait_for(Option::is_some)
            .await
            .map(|reason| reason.clone());
        match thrown {
            Ok(reason) => reason.unwrap_or_default(),
            // The sender lives in `self`, so that the channel cannot close; if it did, nobody could cancel.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let cancel = Cancel::new();
        assert!(!cancel.is_cancelled());
        let other = cancel.clone();
        let waiting = tokio::spawn(async move { other.cancelled().await });
        cancel.cancel("first");
        cancel.cancel("second");
        assert_eq!(waiting.await.expect("the task ends"), "first");
        assert_eq!(cancel.cancelled().await, "first");
    }
}
