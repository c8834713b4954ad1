//! Files and folders from peer to peer: offered, accepted, sent in chunks over several streams, and
//! verified by the MD5 of each file, computed at both ends while the bytes flow. Nothing appears under its
//! name before it is verified and durable; until then it is in a part folder that says what it is.
//!
//! [`send`] and [`receive`] are the two ends of one transfer; both are plain futures that end when they are
//! dropped. Reading, writing and hashing happen on named threads of their own, joined to the streams by
//! bounded queues and by pools of 24 buffers of 1 MiB an end. This module opens no connection and asks no
//! user: it gets a [`Link`] or streams, and a closure that decides.
//!
//! MD5 is there for accidents, and because `md5sum` checks it; that content comes from the peer and from
//! nobody else is the work of the connection's keys.
//!
//! ```no_run
//! use client::transfer::{self, Cancel, Decision, LaneRouter, SendOptions, TransferError};
//! # async fn example(
//! #     to: p2p_net::Connection,
//! #     stream: (p2p_net::SendStream, p2p_net::RecvStream),
//! # ) -> Result<(), TransferError> {
//! // Progress must be read or its receiver dropped: a full queue holds the transfer up.
//! let (events, _) = tokio::sync::mpsc::channel(64);
//! let paths = vec!["photos".into()];
//! let sent = transfer::send(&to, paths, SendOptions::default(), events.clone(), Cancel::new());
//!
//! // The other end, for a stream that began with the kind byte of a transfer; lanes go to the router.
//! let router = LaneRouter::new();
//! let decide = async |_: &transfer::Offer| Decision::Accept { into: "here".into(), overwrite: false };
//! let (answers, control) = stream;
//! let received = transfer::receive(answers, control, &router, decide, events, Cancel::new());
//! println!("{} files verified", sent.await?.verified + received.await?.verified);
//! # Ok(())
//! # }
//! ```

mod cancel;
mod chunk;
mod control;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod ledger;
mod link;
mod names;
mod os;
mod pool;
mod read;
mod receive;
mod report;
mod router;
mod send;
mod store;
mod throttle;
mod walk;
mod wire;
mod write;

use std::time::Duration;

pub use cancel::Cancel;
pub use error::{Side, TransferError};
pub use link::Link;
pub use receive::receive;
pub use report::{
    Decision, Direction, FileOutcome, FileReport, MAX_REPORT_FILES, Md5, NotHex, Offer, OfferItem,
    Phase, Progress, TransferId, TransferReport,
};
pub use router::LaneRouter;
pub use send::{SendOptions, send};
pub use throttle::Throttle;
pub use wire::{MAX_ENTRIES, MAX_OFFER_ITEMS, MAX_REASON_BYTES};

/// The first byte of a transfer's control stream (`wire.md` §3).
const KIND_TRANSFER: u8 = crate::wire::stream_kind::TRANSFER;
/// The first byte of a lane; its transfer's number follows.
const KIND_LANE: u8 = crate::wire::stream_kind::LANE;
/// How often progress is looked at; it is told no more often than that.
const TICK: Duration = Duration::from_millis(100);
