//! Brings each lane to the transfer that it belongs to. A lane may arrive before its transfer is known,
//! or without any; it waits a bounded time, among a bounded number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_net::RecvStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::error::TransferError;
use super::report::TransferId;
use super::wire::MAX_LANES;

/// How long a lane waits for its transfer.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Lanes that wait at the same time; one more is turned away.
const MAX_ORPHANS: usize = 128;
/// The code that lanes are stopped with when nobody wants them.
const UNWANTED: u32 = 0x13;

/// Where the engine hands over lanes and [`receive`](super::receive) picks them up. Clones share it; make
/// one a connection, so that one peer's lanes cannot crowd out another's.
#[derive(Clone, Default)]
pub struct LaneRouter {
    shared: Arc<Shared>,
    waiting: Arc<Mutex<JoinSet<()>>>,
}

#[derive(Default)]
struct Shared {
    inboxes: Mutex<HashMap<TransferId, mpsc::Sender<RecvStream>>>,
    changed: Notify,
}

impl Shared {
    fn inboxes(&self) -> MutexGuard<'_, HashMap<TransferId, mpsc::Sender<RecvStream>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads whose lane it is and waits until that transfer is there.
    async fn deliver(&self, mut lane: RecvStream) {
        let mut id = [0; 16];
        if lane.read_exact(&mut id).await.is_err() {
            return;
        }
        let id = TransferId::from_bytes(id);
        loop {
            let changed = self.changed.notified();
            if let Some(inbox) = self.inboxes().get(&id) {
                if let Err(error) = inbox.try_send(lane) {
                    let _ = error.into_inner().stop(UNWANTED.into());
                }
                return;
            }
            changed.await;
        }
    }
}

impl LaneRouter {
    /// A router without transfers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a unidirectional stream whose kind byte has been read and was that of a lane. Returns at once;
    /// a lane that nobody wants within 10 seconds is stopped. Must be called within a tokio runtime.
    pub fn route(&self, mut lane: RecvStream) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.try_join_next().is_some() {}
        if waiting.len() >= MAX_ORPHANS {
            let _ = lane.stop(UNWANTED.into());
            return;
        }
        let shared = Arc::clone(&self.shared);
        waiting.spawn(async move {
            // A lane that is dropped unread is stopped by that.
            let _ = tokio::time::timeout(ORPHAN_TIMEOUT, shared.deliver(lane)).await;
        });
    }

    /// Where the lanes of a transfer arrive from now on.
    pub(super) fn register(&self, transfer: TransferId) -> Result<LaneInbox, TransferError> {
        let (sender, lanes) = mpsc::channel(MAX_LANES);
        let mut inboxes = self.shared.inboxes();
        if inboxes.contains_key(&transfer) {
            return Err(TransferError::malformed("two transfers with one number"));
        }
        inboxes.insert(transfer, sender);
        drop(inboxes);
        self.shared.changed.notify_waiters();
        Ok(LaneInbox {
            lanes,
            transfer,
            shared: Arc::clone(&self.shared),
        })
    }
}

/// The lanes of one transfer, as they come.
pub(super) struct LaneInbox {
    lanes: mpsc::Receiver<RecvStream>,
    transfer: TransferId,
    shared: Arc<Shared>,
}

impl LaneInbox {
    /// The next lane. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<RecvStream> {
        self.lanes.recv().await
    }
}

impl Drop for LaneInbox {
    fn drop(&mut self) {
        self.shared.inboxes().remove(&self.transfer);
    }
}
