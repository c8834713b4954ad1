//! Splitting and joining packets that are larger than the relay leg's MTU (`wire.md` §5): the sending
//! end splits, the receiving end joins, the relay forwards fragments as packets and never joins.
//!
//! Two bytes before each fragment's data: packet number 12 bits, index 3 bits, last mark 1 bit.

use std::time::Instant;

/// Bytes before a fragment's data.
pub const FRAGMENT_HEADER_LEN: usize = 2;

/// Why a fragment was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// Too short, or more than 8 pieces, or larger than any packet may be.
    #[error("malformed fragment")]
    Malformed,
}

/// Numbers the packets of one direction and cuts them.
#[derive(Debug, Default)]
pub struct Splitter {
    next: u16,
}

impl Splitter {
    /// Cuts `packet` into pieces of at most `max` bytes each, the two fragment bytes included; at most 8.
    /// Returns `None` where that does not suffice.
    pub fn split(&mut self, packet: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
        let _ = (packet, max, &mut self.next);
        todo!()
    }
}

/// Joins the fragments of one direction: at most 8 packets open, each for at most 100 ms, at most
/// 2,048 bytes each.
#[derive(Debug, Default)]
pub struct Joiner {
    open: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    number: u16,
    began: Instant,
    pieces: [Option<Vec<u8>>; 8],
    last: Option<u8>,
}

impl Joiner {
    /// Takes one fragment (its two bytes first); returns the packet when it is whole.
    ///
    /// # Errors
    /// [`FragmentError`]; nothing is kept of a malformed fragment.
    pub fn push(&mut self, now: Instant, fragment: &[u8]) -> Result<Option<Vec<u8>>, FragmentError> {
        let _ = (now, fragment, &mut self.open);
        todo!()
    }
}
