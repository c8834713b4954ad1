//! Parity over fragments: XOR where one shard is enough, Reed-Solomon otherwise; over one to three frames.
//!
//! A block is a run of fragments, from one of the first covered frame up to, at most, the end of the last
//! one. What a parity packet says of the frames is enough to restore a frame of which nothing else came.
//! What comes from the other side is checked here before anything is computed from it.

use std::collections::VecDeque;

use bytes::Bytes;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::FrameNumber;
use crate::packet::{
    CoveredFrame, DATA_SHARDS_MAX, FRAGMENTS_MAX, FRAME_BYTES_MAX, FrameInfo, PARITY_SHARDS_MAX,
    ParityBody, WINDOW_MAX, fragment_len, fragment_size,
};

/// Fragments of one block at most. More would spread a loss thinner but bind a frame's repair to a longer
/// wait; a 720p frame at 2.5 Mbit/s has 9.
const MAX_DATA_SHARDS: usize = DATA_SHARDS_MAX as usize;
/// Parity shards of one block at most: twice what the table ever asks for.
const MAX_PARITY_SHARDS: usize = PARITY_SHARDS_MAX as usize;
/// How much later than the one before it a covered frame may be: what lies between has no parity.
const MAX_STEP: FrameNumber = 4;

/// Makes parity for the frames of one stream; remembers the two before the newest for windows.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Newest last.
    kept: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    covered: CoveredFrame,
    fragments: Vec<Bytes>,
}

impl Encoder {
    /// An encoder without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next frame (its fragments as they are sent) and makes `parity_shards` shards over it and the
    /// frames before it, `window_frames` in all. To be called for each frame, also with 0 shards, so that
    /// windows have no holes; only frames that nobody refers to, and that get no shards, are left out of
    /// them. Frames of more than [`DATA_SHARDS_MAX`] fragments get several blocks, each with its part of the
    /// shards; a window that would need that is shortened.
    pub fn encode(
        &mut self,
        info: &FrameInfo,
        fragments: &[Bytes],
        parity_shards: u16,
        window_frames: u8,
    ) -> Vec<ParityBody> {
        if info.discardable && parity_shards == 0 {
            return Vec::new();
        }
        let length: usize = fragments.iter().map(Bytes::len).sum();
        if fragments.len() != usize::from(info.fragments) || length == 0 || length > FRAME_BYTES_MAX
        {
            self.forget();
            return Vec::new();
        }
        let follows = |kept: &Kept| {
            let last = &kept.covered.info;
            last.stream == info.stream
                && (1..=MAX_STEP).contains(&info.number.wrapping_sub(last.number))
        };
        if !self.kept.back().is_some_and(follows) {
            self.kept.clear();
        }
        if self.kept.len() == WINDOW_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept {
            covered: CoveredFrame {
                info: *info,
                length: u32::try_from(length).unwrap_or(u32::MAX),
            },
            fragments: fragments.to_vec(),
        });
        if parity_shards == 0 {
            return Vec::new();
        }
        if fragments.len() > MAX_DATA_SHARDS {
            return self.encode_large(usize::from(parity_shards));
        }
        let window = self.window(usize::from(window_frames));
        let frames = self.kept.iter().rev().take(window).rev();
        let covered = frames.clone().map(|kept| kept.covered).collect();
        let shards: Vec<&Bytes> = frames.flat_map(|kept| &kept.fragments).collect();
        encode_block(
            covered,
            0,
            &shards,
            usize::from(parity_shards).min(MAX_PARITY_SHARDS),
        )
    }

    /// Forgets the frames so far: to be called when packets become smaller, since parity is as large as the
    /// largest fragment that it covers.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// How many of the newest frames fit one block.
    fn window(&self, wanted: usize) -> usize {
        let mut shards = 0;
        self.kept
            .iter()
            .rev()
            .take(wanted.clamp(1, WINDOW_MAX))
            .take_while(|kept| {
                shards += kept.fragments.len();
                shards <= MAX_DATA_SHARDS
            })
            .count()
    }

    /// Blocks of equal length over the newest frame.
    fn encode_large(&self, parity_shards: usize) -> Vec<ParityBody> {
        let Some(newest) = self.kept.back() else {
            return Vec::new();
        };
        let blocks = newest.fragments.len().div_ceil(MAX_DATA_SHARDS);
        let data_shards = newest.fragments.len().div_ceil(blocks);
        let parity_shards = parity_shards.div_ceil(blocks).min(MAX_PARITY_SHARDS);
        let mut bodies = Vec::with_capacity(blocks * parity_shards);
        for (index, fragments) in newest.fragments.chunks(data_shards).enumerate() {
            let shards: Vec<&Bytes> = fragments.iter().collect();
            let first = index * data_shards;
            bodies.extend(encode_block(
                vec![newest.covered],
                first,
                &shards,
                parity_shards,
            ));
        }
        bodies
    }
}

fn encode_block(
    frames: Vec<CoveredFrame>,
    first_fragment: usize,
    data: &[&Bytes],
    parity_shards: usize,
) -> Vec<ParityBody> {
    let longest = frames
        .iter()
        .map(|frame| fragment_size(frame.length as usize, frame.info.fragments))
        .chain(data.iter().map(|shard| shard.len()))
        .max()
        .unwrap_or(0);
    let shard_bytes = longest.next_multiple_of(2);
    let shards = if parity_shards == 1 {
        let mut sum = vec![0; shard_bytes];
        data.iter().for_each(|shard| add(&mut sum, shard));
        vec![Bytes::from(sum)]
    } else {
        reed_solomon(data, parity_shards, shard_bytes).unwrap_or_default()
    };
    // All three fit: at most 1,024, 64 and 32.
    shards
        .into_iter()
        .enumerate()
        .map(|(index, shard)| ParityBody {
            frames: frames.clone(),
            first_fragment: first_fragment as u16,
            data_shards: data.len() as u8,
            parity_shards: parity_shards as u8,
            index: index as u8,
            shard,
        })
        .collect()
}

fn reed_solomon(
    data: &[&Bytes],
    parity_shards: usize,
    shard_bytes: usize,
) -> Result<Vec<Bytes>, reed_solomon_simd::Error> {
    let mut encoder = ReedSolomonEncoder::new(data.len(), parity_shards, shard_bytes)?;
    let mut padded = vec![0; shard_bytes];
    for shard in data {
        pad(&mut padded, shard);
        encoder.add_original_shard(&padded)?;
    }
    let encoded = encoder.encode()?;
    Ok(encoded
        .recovery_iter()
        .map(Bytes::copy_from_slice)
        .collect())
}

/// Adds in GF(2): what is behind the end of `shard` counts as zeros.
fn add(sum: &mut [u8], shard: &[u8]) {
    for (sum, byte) in sum.iter_mut().zip(shard) {
        *sum ^= byte;
    }
}

/// Fills `padded` with `shard` and zeros.
fn pad(padded: &mut [u8], shard: &[u8]) {
    let length = shard.len().min(padded.len());
    padded[..length].copy_from_slice(&shard[..length]);
    padded[length..].fill(0);
}

/// A run of fragments of one frame inside a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The frame.
    pub(crate) frame: CoveredFrame,
    /// The first fragment in the block.
    pub(crate) first: u16,
    /// How many.
    pub(crate) count: u16,
}

impl Part {
    /// Its fragments.
    pub(crate) fn fragments(&self) -> impl Iterator<Item = u16> + use<> {
        self.first..self.first + self.count
    }

    /// Whether the block has this fragment of its frame.
    pub(crate) fn contains(&self, fragment: u16) -> bool {
        fragment >= self.first && fragment - self.first < self.count
    }

    /// The length of a fragment, bytes.
    pub(crate) fn fragment_length(&self, fragment: u16) -> usize {
        fragment_len(
            self.frame.length as usize,
            self.frame.info.fragments,
            fragment,
        )
    }
}

/// Which fragments a block covers, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Oldest frame first; none is empty.
    pub(crate) parts: Vec<Part>,
    /// Fragments in all.
    pub(crate) data_shards: usize,
    /// Parity shards of the block.
    pub(crate) parity_shards: usize,
    /// Bytes of each.
    pub(crate) shard_bytes: usize,
}

/// Names a block: its first frame, the first fragment, and how many frames.
pub(crate) type BlockKey = (FrameNumber, u16, usize);

impl Layout {
    /// What `body` covers, or `None` where that is not possible.
    pub(crate) fn of(body: &ParityBody) -> Option<Self> {
        let (data_shards, parity_shards) = (
            usize::from(body.data_shards),
            usize::from(body.parity_shards),
        );
        let shard_bytes = body.shard.len();
        let counts = (1..=MAX_DATA_SHARDS).contains(&data_shards)
            && (1..=MAX_PARITY_SHARDS).contains(&parity_shards)
            && (1..=WINDOW_MAX).contains(&body.frames.len())
            && body.index < body.parity_shards
            && shard_bytes > 0
            && shard_bytes.is_multiple_of(2);
        if !counts {
            return None;
        }
        let mut last: Option<&FrameInfo> = None;
        let (mut rest, mut first) = (data_shards, body.first_fragment);
        let mut parts = Vec::with_capacity(body.frames.len());
        for frame in &body.frames {
            let (info, length) = (&frame.info, frame.length as usize);
            let follows = last.is_none_or(|last| {
                let step = info.number.wrapping_sub(last.number);
                last.stream == info.stream && (1..=MAX_STEP).contains(&step)
            });
            last = Some(info);
            let possible = follows
                && (1..=FRAGMENTS_MAX).contains(&info.fragments)
                && first < info.fragments
                && (1..=FRAME_BYTES_MAX).contains(&length)
                && fragment_size(length, info.fragments) <= shard_bytes;
            let count = usize::from(info.fragments.saturating_sub(first)).min(rest);
            if !possible || count == 0 {
                return None;
            }
            parts.push(Part {
                frame: *frame,
                first,
                count: count as u16,
            });
            rest -= count;
            first = 0;
        }
        (rest == 0).then_some(Self {
            parts,
            data_shards,
            parity_shards,
            shard_bytes,
        })
    }

    /// Its name among the blocks of its stream.
    pub(crate) fn key(&self) -> BlockKey {
        let first = &self.parts[0];
        (first.frame.info.number, first.first, self.parts.len())
    }

    /// The last frame covered.
    pub(crate) fn last_frame(&self) -> FrameNumber {
        self.parts[self.parts.len() - 1].frame.info.number
    }

    /// What is missing in `data` (one entry per shard, in order), from parity shards and their numbers; whole
    /// shards, with their padding. `None` while that is not possible.
    pub(crate) fn restore(
        &self,
        data: &[Option<Bytes>],
        parity: &[(u8, Bytes)],
    ) -> Option<Vec<(usize, Vec<u8>)>> {
        let missing: Vec<usize> = (0..self.data_shards)
            .filter(|&shard| data.get(shard).is_none_or(Option::is_none))
            .collect();
        let short = |shard: &Option<Bytes>| {
            shard
                .as_ref()
                .is_some_and(|shard| shard.len() > self.shard_bytes)
        };
        let sizes_fit = !data.iter().any(short)
            && parity
                .iter()
                .all(|(_, shard)| shard.len() == self.shard_bytes);
        if missing.is_empty() || missing.len() > parity.len() || !sizes_fit {
            return None;
        }
        if self.parity_shards == 1 {
            let mut sum = parity[0].1.to_vec();
            data.iter().flatten().for_each(|shard| add(&mut sum, shard));
            return Some(vec![(missing[0], sum)]);
        }
        self.solve(data, parity).ok()
    }

    fn solve(
        &self,
        data: &[Option<Bytes>],
        parity: &[(u8, Bytes)],
    ) -> Result<Vec<(usize, Vec<u8>)>, reed_solomon_simd::Error> {
        let mut decoder =
            ReedSolomonDecoder::new(self.data_shards, self.parity_shards, self.shard_bytes)?;
        let mut padded = vec![0; self.shard_bytes];
        for (index, shard) in data.iter().enumerate() {
            if let Some(shard) = shard {
                pad(&mut padded, shard);
                decoder.add_original_shard(index, &padded)?;
            }
        }
        for (index, shard) in parity {
            decoder.add_recovery_shard(usize::from(*index), shard)?;
        }
        let decoded = decoder.decode()?;
        Ok(decoded
            .restored_original_iter()
            .map(|(index, shard)| (index, shard.to_vec()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::repair::testing::{bytes, fragments, info};

    /// Restores what `lost` (bits over data shards, then parity shards) takes away, and compares.
    fn survives(bodies: &[ParityBody], data: &[Bytes], lost: u128) {
        let layout = Layout::of(&bodies[0]).expect("a possible block");
        let have: Vec<Option<Bytes>> = data
            .iter()
            .enumerate()
            .map(|(index, shard)| (lost >> index & 1 == 0).then(|| shard.clone()))
            .collect();
        let parity: Vec<(u8, Bytes)> = bodies
            .iter()
            .filter(|body| lost >> (data.len() + usize::from(body.index)) & 1 == 0)
            .map(|body| (body.index, body.shard.clone()))
            .collect();
        let missing = have.iter().filter(|shard| shard.is_none()).count();
        if missing == 0 {
            return;
        }
        let restored = layout.restore(&have, &parity).expect("enough shards");
        assert_eq!(restored.len(), missing);
        for (index, shard) in restored {
            let (kept, rest) = shard.split_at(data[index].len());
            assert_eq!(kept, &data[index][..], "shard {index} of {lost:b}");
            assert!(rest.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn every_pattern_of_erasures_up_to_r_is_undone() {
        for k in 1..=12_u16 {
            for r in 1..=3_u16 {
                let data = fragments(&bytes(u64::from(k), usize::from(k) * 30 - 7), k);
                let bodies = Encoder::new().encode(&info(7, k), &data, r, 1);
                assert_eq!(bodies.len(), usize::from(r));
                for lost in 1_u128..1 << (k + r) {
                    if lost.count_ones() <= u32::from(r) {
                        survives(&bodies, &data, lost);
                    }
                }
            }
        }
    }

    #[test]
    fn more_erasures_than_parity_are_left_alone() {
        let data = fragments(&bytes(1, 5_000), 5);
        for r in [1, 2] {
            let bodies = Encoder::new().encode(&info(7, 5), &data, r, 1);
            let layout = Layout::of(&bodies[0]).expect("possible");
            let mut have: Vec<Option<Bytes>> = data.iter().cloned().map(Some).collect();
            have[..=usize::from(r)].fill(None);
            let parity: Vec<_> = bodies.iter().map(|b| (b.index, b.shard.clone())).collect();
            assert_eq!(layout.restore(&have, &parity), None);
        }
    }

    #[test]
    fn a_window_brings_back_a_frame_that_is_gone_with_its_neighbour() {
        let mut encoder = Encoder::new();
        let first = fragments(&bytes(1, 2_000), 2);
        let second = fragments(&bytes(2, 3_456), 4);
        let third = fragments(&bytes(3, 999), 1);
        assert!(encoder.encode(&info(10, 2), &first, 0, 3).is_empty());
        assert_eq!(encoder.encode(&info(11, 4), &second, 1, 3).len(), 1);
        let bodies = encoder.encode(&info(12, 1), &third, 5, 3);
        let layout = Layout::of(&bodies[0]).expect("possible");
        assert_eq!(layout.key(), (10, 0, 3));
        assert_eq!((layout.data_shards, layout.last_frame()), (7, 12));
        let all: Vec<Bytes> = [first, second, third].concat();
        // All of the last two frames.
        survives(&bodies, &all, 0b111_1100);
        let lengths: Vec<usize> = layout
            .parts
            .iter()
            .flat_map(|part| {
                part.fragments()
                    .map(|fragment| part.fragment_length(fragment))
            })
            .collect();
        assert_eq!(lengths, all.iter().map(Bytes::len).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_or_too_many_fragments_shorten_the_window() {
        let mut encoder = Encoder::new();
        let data = |k: u16| fragments(&bytes(u64::from(k), usize::from(k) * 100), k);
        encoder.encode(&info(1, 40), &data(40), 0, 2);
        let long = encoder.encode(&info(2, 40), &data(40), 2, 2);
        assert_eq!((long[0].frames.len(), long[0].data_shards), (1, 40));
        let after_gap = encoder.encode(&info(7, 3), &data(3), 1, 2);
        assert_eq!(after_gap[0].frames.len(), 1);
        encoder.forget();
        let forgotten = encoder.encode(&info(8, 3), &data(3), 1, 2);
        assert_eq!(forgotten[0].frames.len(), 1);
    }

    #[test]
    fn large_frames_have_several_blocks() {
        let data = fragments(&bytes(9, 150 * 1_000), 150);
        let bodies = Encoder::new().encode(&info(3, 150), &data, 60, 3);
        assert_eq!(bodies.len(), 60);
        let mut covered = 0;
        for block in bodies.chunks(20) {
            let first = usize::from(block[0].first_fragment);
            assert_eq!(first, covered);
            let run = &data[first..first + usize::from(block[0].data_shards)];
            survives(block, run, 0b1011_0000_1111);
            covered += run.len();
        }
        assert_eq!(covered, 150);
    }

    #[test]
    fn impossible_blocks_are_refused() {
        let data = fragments(&bytes(1, 4_000), 4);
        let mut encoder = Encoder::new();
        encoder.encode(&info(1, 4), &data, 0, 2);
        let good = encoder.encode(&info(2, 4), &data, 2, 2).remove(1);
        assert!(Layout::of(&good).is_some());
        let broken: [fn(&mut ParityBody); 12] = [
            |body| body.data_shards = 0,
            |body| body.data_shards = 9,
            |body| body.data_shards = 4,
            |body| body.parity_shards = 0,
            |body| body.parity_shards = 33,
            |body| body.index = 2,
            |body| body.first_fragment = 4,
            |body| body.frames.clear(),
            |body| body.frames[1].info.number = 6,
            |body| body.frames[1].length = 0,
            |body| body.frames[1].length = 5_000,
            |body| body.shard = body.shard.slice(1..),
        ];
        for (case, break_it) in broken.iter().enumerate() {
            let mut body = good.clone();
            break_it(&mut body);
            assert_eq!(Layout::of(&body), None, "case {case}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_block_undoes_any_r_erasures(
            lengths in prop::collection::vec(1_usize..4_000, 1..=3),
            r in 1_u16..=8,
            order in any::<u64>(),
        ) {
            let mut encoder = Encoder::new();
            let mut all = Vec::new();
            let mut bodies = Vec::new();
            for (number, &length) in lengths.iter().enumerate() {
                let k = length.div_ceil(700) as u16;
                let data = fragments(&bytes(number as u64, length), k);
                bodies = encoder.encode(&info(number as u64, k), &data, r, 3);
                all.extend(data);
            }
            let mut shards: Vec<usize> = (0..all.len() + bodies.len()).collect();
            // A permutation drawn from `order`.
            let mut state = order;
            for index in (1..shards.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shards.swap(index, (state >> 33) as usize % (index + 1));
            }
            let lost = shards.iter().take(usize::from(r)).fold(0_u128, |bits, &shard| bits | 1 << shard);
            survives(&bodies, &all, lost);
        }
    }
}
