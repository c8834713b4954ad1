//! The two halves of a transfer's control stream. Both are cancel safe: a future that is dropped in the
//! middle leaves the stream between two messages, so that a `Cancel` can still follow.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use p2p_net::{RecvStream, SendStream};
use p2p_net_proto::codec::{FrameDecoder, Message};

use super::error::{Side, TransferError};
use super::names::printable;
use super::wire::{self, Control, code};

/// Unsent bytes beyond which nothing more should be queued.
pub(super) const HIGH_WATER_BYTES: usize = 256 << 10;
/// How long the last words may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Bytes taken from the stream at once.
const READ_BYTES: usize = 64 << 10;

/// Reads messages.
pub(super) struct ControlReader {
    stream: RecvStream,
    decoder: FrameDecoder,
}

impl ControlReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::default(),
        }
    }

    /// The next message of a known kind. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Control, TransferError> {
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(bad_bytes)? {
                if let Some(message) = Control::decode(&frame).map_err(bad_bytes)? {
                    return Ok(message);
                }
            }
            match self.stream.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => self.decoder.push(&chunk.bytes),
                Ok(None) | Err(quinn::ReadError::Reset(_)) => return Err(gone_silently()),
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// Waits a little for the other side to close its half: the sign that it has read our last words.
    pub(super) async fn wait_for_end(&mut self) {
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while let Ok(Some(_)) = self.stream.read_chunk(READ_BYTES, true).await {}
        })
        .await;
    }
}

/// Writes messages, through a buffer that survives a dropped future.
pub(super) struct ControlWriter {
    stream: SendStream,
    pending: BytesMut,
}

impl ControlWriter {
    pub(super) fn new(stream: SendStream) -> Self {
        Self {
            stream,
            pending: BytesMut::new(),
        }
    }

    /// Appends plain bytes: what comes before the first frame.
    pub(super) fn queue_raw(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Appends a message to what [`ControlWriter::flush`] sends.
    pub(super) fn queue<M: Message>(&mut self, message: &M) -> Result<(), TransferError> {
        let bytes = wire::encode(message).map_err(TransferError::internal)?;
        self.pending.extend_from_slice(&bytes);
        Ok(())
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Sends what is queued. Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<(), TransferError> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending).await {
                Ok(written) => self.pending.advance(written),
                Err(quinn::WriteError::Stopped(_)) => return Err(gone_silently()),
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }

    /// Tells the other side why we give up, if it does not know or cannot hear.
    pub(super) async fn farewell(&mut self, error: &TransferError) {
        let code = match error {
            TransferError::Declined { reason } => {
                if self
                    .queue(&wire::Reject {
                        reason: wire::clip(reason),
                    })
                    .is_ok()
                {
                    self.finish().await;
                }
                return;
            }
            TransferError::CancelledByUs { .. } => code::BY_USER,
            TransferError::DiskFull {
                side: Side::Ours, ..
            } => code::DISK_FULL,
            TransferError::Malformed(_) => code::MALFORMED,
            TransferError::NothingToSend
            | TransferError::TooMany { .. }
            | TransferError::Internal(_) => code::FAILED,
            // Our paths are nobody else's business.
            TransferError::Io { source, .. } => {
                return self.last_message(code::FAILED, &source.to_string()).await;
            }
            _ => return,
        };
        let reason = match error {
            TransferError::CancelledByUs { reason } => reason.clone(),
            error => error.to_string(),
        };
        self.last_message(code, &reason).await;
    }

    async fn last_message(&mut self, code: u16, reason: &str) {
        if self
            .queue(&wire::Cancel {
                code,
                reason: wire::clip(reason),
            })
            .is_ok()
        {
            self.finish().await;
        }
    }

    /// Sends what is queued, closes the stream, and waits a little until the other side has it all.
    pub(super) async fn finish(&mut self) {
        let _ = tokio::time::timeout(LAST_WORDS, async {
            self.flush().await?;
            if self.stream.finish().is_ok() {
                let _ = self.stream.stopped().await;
            }
            Ok::<(), TransferError>(())
        })
        .await;
    }
}

fn bad_bytes(error: p2p_net_proto::codec::CodecError) -> TransferError {
    TransferError::malformed(error.to_string())
}

/// The other side closed its stream without a `Cancel`: its program gave up.
fn gone_silently() -> TransferError {
    TransferError::PeerFailed {
        reason: "it gave no reason".into(),
    }
}

/// What a `Cancel` of the other side means here.
pub(super) fn cancelled_by_peer(cancel: &wire::Cancel) -> TransferError {
    let reason = printable(&cancel.reason, 300);
    match cancel.code {
        code::BY_USER => TransferError::CancelledByPeer { reason },
        code::DISK_FULL => TransferError::DiskFull {
            side: Side::Theirs,
            needed_bytes: None,
            free_bytes: None,
        },
        _ => TransferError::PeerFailed { reason },
    }
}

/// A stream failed for a reason of the connection.
pub(super) fn lost<E: std::error::Error>(error: E) -> TransferError {
    let reason = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    TransferError::ConnectionLost(reason)
}
