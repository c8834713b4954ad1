//! Splitting and joining packets that are larger than the relay leg's MTU (`wire.md` §5): the
//! sending end splits, the receiving end joins, the relay forwards fragments as packets and never
//! joins.
//!
//! Two bytes before each fragment's data: packet number 12 bits, index 3 bits, last mark 1 bit.

use std::time::{Duration, Instant};

/// Bytes before a fragment's data.
pub const FRAGMENT_HEADER_LEN: usize = 2;
/// Pieces of one packet at most: the index has 3 bits.
const MAX_PIECES: usize = 8;
/// Bytes of a joined packet at most; above any packet that QUIC sends here (`wire.md` §1).
const MAX_PACKET: usize = 2_048;
/// Packets that wait for their missing pieces at most; the oldest gives way.
const MAX_OPEN: usize = 8;
/// How long a packet waits for its missing pieces.
const MAX_WAIT: Duration = Duration::from_millis(100);

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
    /// Cuts `packet` into pieces of at most `max` bytes each, the two fragment bytes included; at
    /// most 8, of equal length but for the last. Returns `None` where that does not suffice, and
    /// for packets that are empty or larger than 2,048 bytes.
    pub fn split(&mut self, packet: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
        let room = max
            .checked_sub(FRAGMENT_HEADER_LEN)
            .filter(|room| *room > 0)?;
        let pieces = packet.len().div_ceil(room);
        if pieces == 0 || pieces > MAX_PIECES || packet.len() > MAX_PACKET {
            return None;
        }
        let number = self.next;
        self.next = (self.next + 1) & 0x0fff;
        let length = packet.len().div_ceil(pieces);
        let chunks = packet.chunks(length);
        let last = chunks.len() - 1;
        Some(
            chunks
                .enumerate()
                .map(|(index, data)| {
                    let mark = number << 4 | (index as u16) << 1 | u16::from(index == last);
                    [&mark.to_be_bytes()[..], data].concat()
                })
                .collect(),
        )
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
    pieces: [Option<Vec<u8>>; MAX_PIECES],
    last: Option<u8>,
}

impl Joiner {
    /// Takes one fragment (its two bytes first); returns the packet when it is whole. A piece that
    /// is there already is passed over.
    ///
    /// # Errors
    /// [`FragmentError`]; nothing is kept of a malformed fragment.
    pub fn push(
        &mut self,
        now: Instant,
        fragment: &[u8],
    ) -> Result<Option<Vec<u8>>, FragmentError> {
        let (&mark, data) = fragment
            .split_first_chunk::<FRAGMENT_HEADER_LEN>()
            .ok_or(FragmentError::Malformed)?;
        if data.is_empty() || data.len() > MAX_PACKET {
            return Err(FragmentError::Malformed);
        }
        let mark = u16::from_be_bytes(mark);
        let (number, index, last) = (mark >> 4, (mark >> 1 & 7) as u8, mark & 1 != 0);
        self.open
            .retain(|partial| now.saturating_duration_since(partial.began) <= MAX_WAIT);
        let at = self.position(now, number);
        self.open[at].insert(index, last, data)?;
        if !self.open[at].is_whole() {
            return Ok(None);
        }
        Ok(Some(
            self.open
                .remove(at)
                .pieces
                .into_iter()
                .flatten()
                .flatten()
                .collect(),
        ))
    }

    /// Where the packet of this number is kept; opened if it is new.
    fn position(&mut self, now: Instant, number: u16) -> usize {
        if let Some(at) = self
            .open
            .iter()
            .position(|partial| partial.number == number)
        {
            return at;
        }
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push(Partial {
            number,
            began: now,
            pieces: Default::default(),
            last: None,
        });
        self.open.len() - 1
    }
}

impl Partial {
    fn insert(&mut self, index: u8, last: bool, data: &[u8]) -> Result<(), FragmentError> {
        let highest = self.pieces.iter().rposition(Option::is_some);
        let fits = match (last, self.last) {
            (true, Some(end)) => index == end,
            (true, None) => highest.is_none_or(|highest| highest < usize::from(index)),
            (false, Some(end)) => index < end,
            (false, None) => true,
        };
        let held: usize = self.pieces.iter().flatten().map(Vec::len).sum();
        let piece = &mut self.pieces[usize::from(index)];
        if !fits || (piece.is_none() && held + data.len() > MAX_PACKET) {
            return Err(FragmentError::Malformed);
        }
        if piece.is_none() {
            *piece = Some(data.to_vec());
            if last {
                self.last = Some(index);
            }
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.last.is_some_and(|last| {
            self.pieces[..=usize::from(last)]
                .iter()
                .all(Option::is_some)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; it never advances"
    )]
    fn base() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_layout_is_number_index_and_last_mark() {
        let mut splitter = Splitter { next: 0x0abc };
        let pieces = splitter.split(b"abcde", 4).expect("three pieces");
        assert_eq!(pieces, [&b"\xab\xc0ab"[..], b"\xab\xc2cd", b"\xab\xc5e"]);
        assert_eq!(splitter.next, 0x0abd);
        splitter.next = 0x0fff;
        splitter.split(b"x", 3).expect("one piece");
        assert_eq!(splitter.next, 0, "twelve bits wrap");
    }

    #[test]
    fn what_does_not_fit_eight_pieces_is_not_split() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.split(&[0; 17], 4), None);
        assert_eq!(
            splitter.split(&[0; 16], 4).map(|pieces| pieces.len()),
            Some(8)
        );
        assert_eq!(splitter.split(&[0; 16], 2), None);
        assert_eq!(splitter.split(&[], 100), None);
        assert_eq!(splitter.split(&[0; MAX_PACKET + 1], 1_200), None);
    }

    #[test]
    fn malformed_fragments_leave_nothing() {
        let (mut joiner, now) = (Joiner::default(), base());
        for fragment in [&[][..], &[0], &[0, 0], &[0; MAX_PACKET + 3]] {
            assert_eq!(joiner.push(now, fragment), Err(FragmentError::Malformed));
        }
        assert!(joiner.open.is_empty());
        // Together they would be larger than a packet may be.
        assert_eq!(joiner.push(now, &[0; 1_500]), Ok(None));
        let mut second = [0; 1_500];
        second[1] = 0b011;
        assert_eq!(joiner.push(now, &second), Err(FragmentError::Malformed));
    }

    #[test]
    fn contradicting_last_marks_are_refused() {
        let (mut joiner, now) = (Joiner::default(), base());
        assert_eq!(joiner.push(now, &[0, 0b0101, 1]), Ok(None));
        assert_eq!(
            joiner.push(now, &[0, 0b0111, 1]),
            Err(FragmentError::Malformed)
        );
        assert_eq!(
            joiner.push(now, &[0, 0b0110, 1]),
            Err(FragmentError::Malformed)
        );
        assert_eq!(joiner.push(now, &[0, 0b0010, 2]), Ok(None));
        assert_eq!(
            joiner.push(now, &[0, 0b0001, 3]),
            Err(FragmentError::Malformed)
        );
        assert_eq!(joiner.push(now, &[0, 0b0000, 3]), Ok(Some(vec![3, 2, 1])));
    }

    #[test]
    fn packets_wait_100_ms_and_eight_at_a_time() {
        let (mut joiner, start) = (Joiner::default(), base());
        let first = |number: u8| [number, 0b0000, 1];
        let last = |number: u8| [number, 0b0011, 2];
        assert_eq!(joiner.push(start, &first(0)), Ok(None));
        let late = start + MAX_WAIT + Duration::from_millis(1);
        assert_eq!(
            joiner.push(late, &last(0)),
            Ok(None),
            "the first piece has gone"
        );
        for number in 1..=8 {
            assert_eq!(joiner.push(late, &first(number)), Ok(None));
        }
        assert_eq!(joiner.open.len(), MAX_OPEN);
        assert_eq!(joiner.push(late, &last(8)), Ok(Some(vec![1, 2])));
        assert_eq!(
            joiner.push(late, &first(0)),
            Ok(None),
            "the oldest gave way"
        );
    }

    #[derive(Debug, Clone)]
    struct Delivery {
        index: prop::sample::Index,
        copies: usize,
    }

    proptest! {
        #[test]
        fn whole_packets_survive_loss_duplication_and_reorder(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=MAX_PACKET), 1..8),
            max in 300usize..1_300,
            deliveries in prop::collection::vec(
                (any::<prop::sample::Index>(), 0usize..3).prop_map(|(index, copies)| Delivery { index, copies }),
                0..64,
            ),
        ) {
            let (mut splitter, mut joiner, now) = (Splitter::default(), Joiner::default(), base());
            let mut flying = Vec::new();
            for packet in &packets {
                let pieces = splitter.split(packet, max).expect("at most seven pieces");
                prop_assert!(pieces.iter().all(|piece| piece.len() <= max));
                flying.extend(pieces);
            }
            // A random sequence with repeats and gaps: whatever comes out is one of the packets,
            // and those of which every piece came, do come out.
            let mut delivered = std::collections::BTreeSet::new();
            let mut joined = Vec::new();
            for Delivery { index, copies } in deliveries {
                let piece = index.get(&flying);
                for _ in 0..copies {
                    joined.extend(joiner.push(now, piece).expect("well formed"));
                    delivered.insert(piece.clone());
                }
            }
            prop_assert!(joined.iter().all(|packet| packets.contains(packet)));
            let mut again = Splitter::default();
            for packet in &packets {
                let pieces = again.split(packet, max).expect("as before");
                if pieces.iter().all(|piece| delivered.contains(piece)) {
                    prop_assert!(joined.contains(packet));
                }
            }
        }

        #[test]
        fn arbitrary_fragments_stay_bounded(
            fragments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..200),
        ) {
            let (mut joiner, now) = (Joiner::default(), base());
            for fragment in &fragments {
                if let Ok(Some(packet)) = joiner.push(now, fragment) {
                    prop_assert!(packet.len() <= MAX_PACKET);
                }
                prop_assert!(joiner.open.len() <= MAX_OPEN);
            }
        }
    }
}
