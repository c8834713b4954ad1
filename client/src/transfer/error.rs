//! Why a transfer did not end well, and whose doing it was.

use std::io;
use std::path::PathBuf;

use super::report::TransferReport;

/// One of the two ends of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This program.
    Ours,
    /// The peer.
    Theirs,
}

/// Why [`send`](super::send) or [`receive`](super::receive) failed. Whatever it is, no file is left under
/// its name unless it was verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The receiver does not want it.
    #[error("the other side declined: {reason}")]
    Rejected {
        /// In the receiver's words.
        reason: String,
    },
    /// We, the receiver, did not want it.
    #[error("declined: {reason}")]
    Declined {
        /// The words that the sender was told.
        reason: String,
    },
    /// Our [`Cancel`](super::Cancel) was thrown.
    #[error("cancelled: {reason}")]
    CancelledByUs {
        /// Why.
        reason: String,
    },
    /// The other side's was.
    #[error("cancelled by the other side: {reason}")]
    CancelledByPeer {
        /// In the peer's words.
        reason: String,
    },
    /// The connection ended in mid-transfer.
    #[error("the connection was lost: {0}")]
    ConnectionLost(String),
    /// The receiving disk is full, or would be.
    #[error("{}", disk_full_text(*side, *needed_bytes, *free_bytes))]
    DiskFull {
        /// Whose disk: ours when we receive, theirs when we send.
        side: Side,
        /// Bytes that the transfer needs, where that is known.
        needed_bytes: Option<u64>,
        /// Bytes that may be used, where that is known.
        free_bytes: Option<u64>,
    },
    /// No path was given, or none of them is a file or folder.
    #[error("there is nothing to send")]
    NothingToSend,
    /// More files and folders than one transfer may hold.
    #[error("more than {limit} files and folders: send them in parts")]
    TooMany {
        /// The most that one transfer holds.
        limit: u32,
    },
    /// Some content still did not match its MD5 after it had been sent again. Of a folder with such a file
    /// nothing was published.
    #[error("{} of {} files did not pass verification", report.failed, report.total_files())]
    VerificationFailed {
        /// What happened to each file.
        report: Box<TransferReport>,
    },
    /// The peer broke the rules of a transfer.
    #[error("the other side broke the rules of a transfer: {0}")]
    Malformed(String),
    /// The peer met an error of its own and gave up.
    #[error("the other side could not go on: {reason}")]
    PeerFailed {
        /// In the peer's words.
        reason: String,
    },
    /// This program, or the system under it, failed in a way that has to do with no file.
    #[error("this program could not go on: {0}")]
    Internal(String),
    /// A file or folder of ours could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
}

impl TransferError {
    pub(super) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(super) fn internal(what: impl ToString) -> Self {
        Self::Internal(what.to_string())
    }

    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

fn disk_full_text(side: Side, needed: Option<u64>, free: Option<u64>) -> String {
    let whose = match side {
        Side::Ours => "the disk is full",
        Side::Theirs => "the other side's disk is full",
    };
    match (needed, free) {
        (Some(needed), Some(free)) => {
            format!("{whose}: {needed} bytes are needed, {free} may be used")
        }
        _ => whose.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_its_figures() {
        let error = TransferError::DiskFull {
            side: Side::Ours,
            needed_bytes: Some(10),
            free_bytes: Some(3),
        };
        assert_eq!(
            error.to_string(),
            "the disk is full: 10 bytes are needed, 3 may be used"
        );
        let error = TransferError::DiskFull {
            side: Side::Theirs,
            needed_bytes: None,
            free_bytes: None,
        };
        assert_eq!(error.to_string(), "the other side's disk is full");
    }
}
