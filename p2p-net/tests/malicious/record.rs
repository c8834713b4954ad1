//! Everything that the evil relay sees, kept to be searched afterwards.

use std::sync::{Mutex, PoisonError};

/// Bytes kept at most; a test that sends more has asked the wrong question.
const LIMIT: usize = 64 << 20;

/// Bytes of a needle that are looked for in one piece: a packet boundary may cut a needle, but hardly
/// every stretch of this length.
const STRETCH: usize = 12;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
    relayed_bytes: usize,
    overflowed: bool,
}

impl Record {
    /// A UDP payload as it came.
    pub(crate) fn datagram(&self, payload: &[u8]) {
        self.keep(payload, false);
    }

    /// A control frame's kind and body, as TLS delivered it.
    pub(crate) fn frame(&self, body: &[u8]) {
        self.keep(body, false);
    }

    /// The payload of a relayed packet or of a first flight.
    pub(crate) fn relayed(&self, payload: &[u8]) {
        self.keep(payload, true);
    }

    /// Payload bytes relayed between peers.
    pub(crate) fn relayed_bytes(&self) -> usize {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .relayed_bytes
    }

    /// Whether any stretch of `needle` occurs in anything that was seen.
    ///
    /// # Panics
    /// If the record overflowed, or the needle is too short to mean anything.
    pub(crate) fn contains(&self, needle: &[u8]) -> bool {
        assert!(
            needle.len() >= STRETCH,
            "a marker of {} bytes proves nothing",
            needle.len()
        );
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!kept.overflowed, "the record overflowed");
        let stretches: std::collections::HashSet<&[u8]> = needle.windows(STRETCH).collect();
        kept.pieces
            .iter()
            .any(|piece| piece.windows(STRETCH).any(|seen| stretches.contains(seen)))
    }

    fn keep(&self, bytes: &[u8], relayed: bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if relayed {
            kept.relayed_bytes += bytes.len();
        }
        if kept.bytes + bytes.len() > LIMIT {
            kept.overflowed = true;
            return;
        }
        kept.bytes += bytes.len();
        kept.pieces.push(bytes.to_vec());
    }
}
