//! How a file is cut into chunks, and the header before each frame on a lane. Pure arithmetic, total on
//! any input.

use super::error::TransferError;

/// Bytes of a chunk; a file's last one may be shorter. Also the most that a frame carries.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Files up to this many bytes travel packed, several in a frame.
pub(super) const SMALL_BYTES: u64 = 64 << 10;
/// Files in one pack at most.
pub(super) const MAX_PACK_FILES: u32 = 1_024;
/// Before each frame: kind u8, three zeros, file, chunk and length u32 each, big endian.
pub(super) const HEADER_BYTES: usize = 16;
/// Before each file of a pack: its number and size, u32 big endian; its MD5 stands behind its bytes.
pub(super) const PACKED_HEADER_BYTES: usize = 8;
/// Behind the bytes of each file of a pack.
pub(super) const MD5_BYTES: usize = 16;
/// Behind each frame: the BLAKE3 of its bytes.
pub(super) const BLAKE3_BYTES: usize = 32;

const KIND_CHUNK: u8 = 1;
const KIND_PACK: u8 = 2;

/// Chunks of a file of `size` bytes; `None` if there are more than can be numbered.
pub(super) fn chunk_count(size: u64) -> Option<u32> {
    u32::try_from(size.div_ceil(CHUNK_BYTES as u64)).ok()
}

/// Where a chunk begins in its file, bytes.
pub(super) fn chunk_offset(chunk: u32) -> u64 {
    u64::from(chunk) * CHUNK_BYTES as u64
}

/// Bytes of one chunk of a file of `size` bytes; 0 beyond its end.
pub(super) fn chunk_len(size: u64, chunk: u32) -> usize {
    let left = size.saturating_sub(chunk_offset(chunk));
    usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES)
}

/// What stands before the bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameHeader {
    /// One chunk of one file.
    Chunk {
        /// The file's number in the manifest.
        file: u32,
        /// Which of its chunks.
        chunk: u32,
        /// Bytes that follow.
        length: u32,
    },
    /// Several whole small files.
    Pack {
        /// The highest number of a file in it, so that it can wait for the manifest.
        highest: u32,
        /// How many.
        files: u32,
        /// Bytes that follow.
        length: u32,
    },
}

impl FrameHeader {
    /// Bytes that follow, without the BLAKE3.
    pub(super) fn length(&self) -> usize {
        let (Self::Chunk { length, .. } | Self::Pack { length, .. }) = self;
        *length as usize
    }

    /// The highest number of a file that the frame speaks of.
    pub(super) fn highest(&self) -> u32 {
        let (Self::Chunk { file: highest, .. } | Self::Pack { highest, .. }) = self;
        *highest
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let (kind, first, second, length) = match *self {
            Self::Chunk {
                file,
                chunk,
                length,
            } => (KIND_CHUNK, file, chunk, length),
            Self::Pack {
                highest,
                files,
                length,
            } => (KIND_PACK, highest, files, length),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&first.to_be_bytes());
        bytes[8..12].copy_from_slice(&second.to_be_bytes());
        bytes[12..].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, TransferError> {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (first, second, length) = (word(4), word(8), word(12));
        let header = match bytes[..4] {
            [KIND_CHUNK, 0, 0, 0] => Self::Chunk {
                file: first,
                chunk: second,
                length,
            },
            [KIND_PACK, 0, 0, 0] => Self::Pack {
                highest: first,
                files: second,
                length,
            },
            _ => return Err(TransferError::malformed("a frame of an unknown kind")),
        };
        if let Self::Pack { files, .. } = header
            && files > MAX_PACK_FILES
        {
            return Err(TransferError::malformed(format!("a pack of {files} files")));
        }
        if header.length() == 0 || header.length() > CHUNK_BYTES {
            return Err(TransferError::malformed(format!(
                "a frame of {length} bytes"
            )));
        }
        Ok(header)
    }
}

/// One file of a pack, as it stands in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed<'a> {
    pub(super) file: u32,
    pub(super) bytes: &'a [u8],
    pub(super) md5: [u8; MD5_BYTES],
}

/// The next file of a pack and what follows it; `None` if the bytes are no pack.
pub(super) fn next_packed(pack: &[u8]) -> Option<(Packed<'_>, &[u8])> {
    let (file, rest) = pack.split_first_chunk::<4>()?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_be_bytes(*size);
    if u64::from(size) > SMALL_BYTES {
        return None;
    }
    let (bytes, rest) = rest.split_at_checked(size as usize)?;
    let (md5, rest) = rest.split_first_chunk::<MD5_BYTES>()?;
    Some((
        Packed {
            file: u32::from_be_bytes(*file),
            bytes,
            md5: *md5,
        },
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_beyond_four_gib_are_cut_right() {
        let size = (5 << 30) + 17;
        assert_eq!(chunk_count(size), Some(5 * 1024 + 1));
        assert_eq!(chunk_offset(5 * 1024), 5 << 30);
        assert_eq!(chunk_len(size, 0), CHUNK_BYTES);
        assert_eq!(chunk_len(size, 5 * 1024 - 1), CHUNK_BYTES);
        assert_eq!(chunk_len(size, 5 * 1024), 17);
        assert_eq!(chunk_len(size, 5 * 1024 + 1), 0);
        assert_eq!(chunk_offset(u32::MAX), u64::from(u32::MAX) << 20);
    }

    #[test]
    fn the_edges_of_chunk_arithmetic_hold() {
        assert_eq!(chunk_count(0), Some(0));
        assert_eq!(chunk_count(1), Some(1));
        assert_eq!(chunk_count(CHUNK_BYTES as u64), Some(1));
        assert_eq!(chunk_count(CHUNK_BYTES as u64 + 1), Some(2));
        assert_eq!(chunk_count(u64::from(u32::MAX) << 20), Some(u32::MAX));
        assert_eq!(chunk_count((u64::from(u32::MAX) << 20) + 1), None);
        assert_eq!(chunk_count(u64::MAX), None);
        assert_eq!(chunk_len(0, 0), 0);
    }

    #[test]
    fn headers_out_of_bounds_are_refused() {
        let good = FrameHeader::Chunk {
            file: 1,
            chunk: 2,
            length: 3,
        }
        .encode();
        for (at, value) in [(0, 0), (0, 3), (1, 1), (2, 1), (3, 9), (12, 1), (15, 0)] {
            let mut bad = good;
            bad[at] = value;
            assert!(FrameHeader::decode(&bad).is_err(), "byte {at} = {value}");
        }
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire(kind: bool, a: u32, b: u32, length in 1..=CHUNK_BYTES as u32) {
            let header = if kind {
                FrameHeader::Chunk { file: a, chunk: b, length }
            } else {
                FrameHeader::Pack { highest: a, files: b % (MAX_PACK_FILES + 1), length }
            };
            prop_assert_eq!(FrameHeader::decode(&header.encode()).expect("our own"), header);
        }

        #[test]
        fn no_header_panics(bytes: [u8; HEADER_BYTES]) {
            if let Ok(header) = FrameHeader::decode(&bytes) {
                prop_assert!(header.length() <= CHUNK_BYTES);
                prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn no_pack_panics_and_none_grows(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some((packed, after)) = next_packed(rest) {
                prop_assert!(packed.bytes.len() + after.len() < rest.len());
                rest = after;
            }
        }

        #[test]
        fn chunks_cover_a_file_exactly(size in 0u64..64 << 20) {
            let count = chunk_count(size).expect("small");
            let sum: u64 = (0..count).map(|chunk| chunk_len(size, chunk) as u64).sum();
            prop_assert_eq!(sum, size);
            prop_assert_eq!(chunk_len(size, count), 0);
        }
    }
}
