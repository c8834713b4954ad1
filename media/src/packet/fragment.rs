//! A picture becomes fragments that fit the path: all of one even size, since parity needs it so, but for
//! the last. No byte is copied.

use bytes::Bytes;

use super::{FrameInfo, VideoBody};
use crate::{EncodedPicture, FrameNumber, StreamId};

/// Fragments of a frame at most; a screen's IDR at 1080p has about 530.
pub const FRAGMENTS_MAX: u16 = 1_024;
/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// What a fragment leaves free in its datagram, bytes: the header of a parity packet over three frames (51),
/// and one that makes it even. A shard, as long as the longest fragment, must fit behind it.
const PARITY_HEADER_BYTES: usize = 52;
/// The largest datagram on a relayed path, bytes: the relay adds a header of its own, and a packet that must
/// be split on that leg is lost twice as often.
const RELAYED_DATAGRAM_BYTES: usize = 1_162;

/// Why a picture cannot be cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// It has no bytes.
    #[error("the picture is empty")]
    Empty,
    /// Larger than [`FRAME_BYTES_MAX`], or than [`FRAGMENTS_MAX`] fragments.
    #[error("a picture of {0} bytes is too large")]
    TooLarge(usize),
    /// No datagram of the path holds a fragment and its header.
    #[error("the path's datagrams are too small")]
    Path,
}

/// How long a fragment may be on a path with datagrams of `max_datagram_bytes`, bytes; read anew for each
/// frame, since paths change.
pub fn fragment_budget(max_datagram_bytes: usize, relayed: bool) -> usize {
    let datagram = if relayed {
        max_datagram_bytes.min(RELAYED_DATAGRAM_BYTES)
    } else {
        max_datagram_bytes
    };
    datagram.saturating_sub(PARITY_HEADER_BYTES)
}

/// The length of all fragments but the last of a frame of `length` bytes in `fragments` pieces: even, so that
/// they can be shards, and at least 2.
pub const fn fragment_size(length: usize, fragments: u16) -> usize {
    let fragments = if fragments == 0 {
        1
    } else {
        fragments as usize
    };
    let size = 2 * length.div_ceil(2 * fragments);
    if size == 0 { 2 } else { size }
}

/// The length of one fragment, bytes; 0 for those that do not exist.
pub const fn fragment_len(length: usize, fragments: u16, fragment: u16) -> usize {
    let size = fragment_size(length, fragments);
    let rest = length.saturating_sub(size * fragment as usize);
    if rest < size { rest } else { size }
}

/// Cuts a picture into fragments of at most `budget` bytes (see [`fragment_budget`]).
///
/// # Errors
/// [`FragmentError`].
pub fn fragment(
    stream: StreamId,
    number: FrameNumber,
    picture: &EncodedPicture,
    budget: usize,
) -> Result<Fragments, FragmentError> {
    let length = picture.data.len();
    let budget = budget & !1;
    if length == 0 {
        return Err(FragmentError::Empty);
    }
    if budget == 0 {
        return Err(FragmentError::Path);
    }
    let wanted = length.div_ceil(budget);
    if length > FRAME_BYTES_MAX || wanted > usize::from(FRAGMENTS_MAX) {
        return Err(FragmentError::TooLarge(length));
    }
    let size = fragment_size(length, wanted as u16);
    // Rounding the size up may leave nothing for the last ones of very many.
    let fragments = length.div_ceil(size) as u16;
    Ok(Fragments {
        frame: FrameInfo {
            stream,
            number,
            time: picture.time,
            fragments,
            key: picture.key,
            layer: picture.layer,
            discardable: picture.discardable,
            parameter_sets: picture.parameter_sets,
            long_term: picture.long_term,
            reference_distance: picture.reference_distance,
        },
        size,
        next: 0,
        rest: picture.data.clone(),
    })
}

/// The fragments of a frame, in order.
#[derive(Debug, Clone)]
pub struct Fragments {
    frame: FrameInfo,
    size: usize,
    next: u16,
    rest: Bytes,
}

impl Fragments {
    /// What all of them say of the frame.
    pub const fn frame(&self) -> &FrameInfo {
        &self.frame
    }

    /// The length of all but the last, bytes: that of a parity shard.
    pub const fn size(&self) -> usize {
        self.size
    }
}

impl Iterator for Fragments {
    type Item = VideoBody;

    fn next(&mut self) -> Option<VideoBody> {
        if self.rest.is_empty() {
            return None;
        }
        let data = self.rest.split_to(self.size.min(self.rest.len()));
        let fragment = self.next;
        self.next += 1;
        Some(VideoBody {
            frame: self.frame,
            fragment,
            attempt: 0,
            data,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.frame.fragments - self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Fragments {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{CAMERA, VideoTime};

    fn picture(data: Vec<u8>) -> EncodedPicture {
        EncodedPicture {
            time: VideoTime::from_ticks(3_000),
            data: data.into(),
            key: true,
            parameter_sets: true,
            layer: 0,
            discardable: false,
            long_term: false,
            reference_distance: 0,
        }
    }

    #[test]
    fn nine_packets_make_a_frame_of_ten_kilobytes() {
        let budget = fragment_budget(1_162, false);
        assert_eq!(budget, 1_110);
        assert_eq!(fragment_budget(1_398, true), 1_110);
        let all = fragment(CAMERA, 1, &picture(vec![7; 10_400]), 1_110).expect("it fits");
        assert_eq!((all.len(), all.size()), (10, 1_040));
        let all = fragment(CAMERA, 1, &picture(vec![7; 9_990]), 1_110).expect("it fits");
        assert_eq!((all.len(), all.size()), (9, 1_110));
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let cut = |len, budget| fragment(CAMERA, 1, &picture(vec![0; len]), budget).map(|_| ());
        assert_eq!(cut(0, 100), Err(FragmentError::Empty));
        assert_eq!(cut(10, 1), Err(FragmentError::Path));
        assert_eq!(cut(1_024 * 100, 100), Ok(()));
        assert_eq!(
            cut(1_024 * 100 + 1, 100),
            Err(FragmentError::TooLarge(102_401))
        );
        assert_eq!(
            cut(FRAME_BYTES_MAX + 1, 1_500),
            Err(FragmentError::TooLarge(FRAME_BYTES_MAX + 1))
        );
    }

    proptest! {
        #[test]
        fn fragments_join_to_the_picture(len in 1usize..20_000, budget in 2usize..1_400) {
            let data: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
            let Ok(all) = fragment(CAMERA, 9, &picture(data.clone()), budget) else {
                prop_assert!(len.div_ceil(budget & !1) > 1_024);
                return Ok(());
            };
            let (frame, size) = (*all.frame(), all.size());
            prop_assert!(size.is_multiple_of(2) && size <= budget);
            prop_assert_eq!(size, fragment_size(len, frame.fragments));
            prop_assert_eq!(all.len(), usize::from(frame.fragments));
            let mut joined = Vec::new();
            for (at, part) in all.enumerate() {
                prop_assert_eq!(usize::from(part.fragment), at);
                prop_assert!(!part.data.is_empty());
                prop_assert_eq!(
                    part.data.len(), fragment_len(len, frame.fragments, part.fragment));
                joined.extend_from_slice(&part.data);
            }
            prop_assert_eq!(joined, data);
            prop_assert_eq!(fragment_len(len, frame.fragments, frame.fragments), 0);
        }
    }
}
