//! Frames from fragments and parity: a table of frames with bounds on frames and bytes.
//!
//! Only whole frames come out. What is kept is copied out of its datagram, so that the bound on bytes is one
//! on memory: a slice would hold the whole datagram, and what was received with it. Frames that were given
//! out stay for as long as parity of later ones may refer to them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::FrameNumber;
use crate::packet::{
    FRAGMENTS_MAX, FRAME_BYTES_MAX, FrameInfo, ParityBody, VideoBody, WINDOW_MAX, fragment_len,
    fragment_size,
};
use crate::repair::parity::{BlockKey, Layout};

/// Frames of one stream in the table: two seconds at 30 a second, by which a refresh has come long since.
pub(super) const MAX_FRAMES: u64 = 64;
/// Blocks of parity waiting: a window each for all frames in the table.
const MAX_BLOCKS: usize = 64;
/// What a fragment or a shard costs beside its bytes.
const SLOT_BYTES: usize = 64;

/// What came of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It was news.
    Stored,
    /// Known, or for a frame that is whole or over.
    Useless,
    /// It contradicts what came before, or the limits.
    Malformed,
}

/// A frame, in parts or whole.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) info: FrameInfo,
    pub(super) first_arrival: Instant,
    /// When its newest part came.
    pub(super) last_arrival: Instant,
    /// When it was whole.
    pub(super) completed_at: Option<Instant>,
    /// Parity restored a part.
    pub(super) by_parity: bool,
    /// The latest round of resending among its parts.
    pub(super) resend_round: u8,
    /// Its bytes, once it is whole.
    pub(super) data: Bytes,
    /// By number of the fragment, in order; empty once the frame is whole.
    parts: Vec<(u16, Bytes)>,
    bytes: usize,
}

impl Slot {
    fn new(now: Instant, info: FrameInfo) -> Self {
        Self {
            info,
            first_arrival: now,
            last_arrival: now,
            completed_at: None,
            by_parity: false,
            resend_round: 0,
            data: Bytes::new(),
            parts: Vec::new(),
            bytes: 0,
        }
    }

    fn part(&self, fragment: u16) -> Option<Bytes> {
        if self.completed_at.is_some() {
            let size = fragment_size(self.data.len(), self.info.fragments);
            let start = size * usize::from(fragment);
            let length = fragment_len(self.data.len(), self.info.fragments, fragment);
            return (fragment < self.info.fragments)
                .then(|| self.data.get(start..start + length))
                .flatten()
                .map(|part| self.data.slice_ref(part));
        }
        self.parts
            .binary_search_by_key(&fragment, |(index, _)| *index)
            .ok()
            .map(|index| self.parts[index].1.clone())
    }

    /// All but the last are of one length, and the last is not longer.
    fn fits(&self, fragment: u16, length: usize) -> bool {
        let last = self.info.fragments - 1;
        let full = self
            .parts
            .iter()
            .find(|(index, _)| *index != last)
            .map(|(_, part)| part.len());
        let tail = self
            .parts
            .last()
            .filter(|(index, _)| *index == last)
            .map(|(_, part)| part.len());
        let fits = if fragment == last {
            full.is_none_or(|full| length <= full)
        } else {
            length > 0
                && full.is_none_or(|full| length == full)
                && tail.is_none_or(|tail| tail <= length)
        };
        fits && self.bytes + length <= FRAME_BYTES_MAX
    }

    fn is_whole(&self) -> bool {
        self.parts.len() == usize::from(self.info.fragments)
    }

    /// What it holds, bytes.
    fn cost(&self) -> usize {
        self.bytes + self.parts.len() * SLOT_BYTES
    }
}

#[derive(Debug)]
struct Block {
    layout: Layout,
    shards: Vec<(u8, Bytes)>,
}

impl Block {
    fn cost(&self) -> usize {
        self.shards.len() * (self.layout.shard_bytes + SLOT_BYTES)
    }
}

/// The table of one stream.
#[derive(Debug)]
pub(super) struct Assembler {
    frames: BTreeMap<FrameNumber, Slot>,
    /// Oldest first.
    blocks: VecDeque<Block>,
    /// Frames before this one are over.
    floor: FrameNumber,
    bytes: usize,
    max_bytes: usize,
    /// Frames that fell out of the table before they were fetched.
    overrun: u64,
}

impl Assembler {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            frames: BTreeMap::new(),
            blocks: VecDeque::new(),
            floor: 0,
            bytes: 0,
            max_bytes,
            overrun: 0,
        }
    }

    /// A fragment came.
    pub(super) fn insert(&mut self, now: Instant, body: &VideoBody) -> Inserted {
        let info = &body.frame;
        let possible =
            (1..=FRAGMENTS_MAX).contains(&info.fragments) && body.fragment < info.fragments;
        if !possible {
            return Inserted::Malformed;
        }
        if !self.admit(info.number) {
            return Inserted::Useless;
        }
        let slot = self
            .frames
            .entry(info.number)
            .or_insert_with(|| Slot::new(now, *info));
        if slot.info != *info {
            return Inserted::Malformed;
        }
        if slot.completed_at.is_some() {
            return Inserted::Useless;
        }
        let Err(place) = slot
            .parts
            .binary_search_by_key(&body.fragment, |(index, _)| *index)
        else {
            return Inserted::Useless;
        };
        if !slot.fits(body.fragment, body.data.len()) {
            return Inserted::Malformed;
        }
        slot.parts
            .insert(place, (body.fragment, Bytes::copy_from_slice(&body.data)));
        slot.bytes += body.data.len();
        slot.last_arrival = now;
        slot.resend_round = slot.resend_round.max(body.attempt);
        self.bytes += body.data.len() + SLOT_BYTES;
        self.complete(now, info.number);
        self.restore(now, info.number);
        self.shrink();
        Inserted::Stored
    }

    /// A parity packet came.
    pub(super) fn insert_parity(&mut self, now: Instant, body: &ParityBody) -> Inserted {
        let Some(layout) = Layout::of(body) else {
            return Inserted::Malformed;
        };
        let known = |part: &crate::repair::parity::Part| {
            self.frames
                .get(&part.frame.info.number)
                .is_none_or(|slot| slot.info == part.frame.info)
        };
        if !layout.parts.iter().all(known) {
            return Inserted::Malformed;
        }
        let newest = layout.last_frame();
        if !self.admit(newest) {
            return Inserted::Useless;
        }
        // What lies before the floor is over, and only needed to compute the others.
        let wanted = |part: &crate::repair::parity::Part| {
            let number = part.frame.info.number;
            number >= self.floor
                && self
                    .frames
                    .get(&number)
                    .is_none_or(|slot| slot.completed_at.is_none())
        };
        if !layout.parts.iter().any(wanted) {
            return Inserted::Useless;
        }
        for part in &layout.parts {
            let number = part.frame.info.number;
            if number >= self.floor && self.admit(number) {
                self.frames
                    .entry(number)
                    .or_insert_with(|| Slot::new(now, part.frame.info));
            }
        }
        let stored = self.store_shard(layout, body);
        self.restore(now, newest);
        self.shrink();
        stored
    }

    fn store_shard(&mut self, layout: Layout, body: &ParityBody) -> Inserted {
        let key = layout.key();
        let found = self
            .blocks
            .iter()
            .position(|block| block.layout.key() == key);
        let index = match found {
            Some(index) if self.blocks[index].layout != layout => return Inserted::Malformed,
            Some(index) => index,
            None => {
                if self.blocks.len() == MAX_BLOCKS
                    && let Some(oldest) = self.blocks.pop_front()
                {
                    self.bytes -= oldest.cost();
                }
                self.blocks.push_back(Block {
                    layout,
                    shards: Vec::new(),
                });
                self.blocks.len() - 1
            }
        };
        let block = &mut self.blocks[index];
        if block.shards.iter().any(|(shard, _)| *shard == body.index) {
            return Inserted::Useless;
        }
        let before = block.cost();
        block
            .shards
            .push((body.index, Bytes::copy_from_slice(&body.shard)));
        self.bytes += block.cost() - before;
        Inserted::Stored
    }

    /// Makes room for a frame by its number, or says that it is over.
    fn admit(&mut self, number: FrameNumber) -> bool {
        let newest = self.frames.last_key_value().map_or(number, |(&key, _)| key);
        if number.saturating_add(MAX_FRAMES) <= newest
            || number.saturating_add(WINDOW_MAX as u64) <= self.floor
        {
            return false;
        }
        while let Some((&oldest, _)) = self.frames.first_key_value()
            && oldest.saturating_add(MAX_FRAMES) <= number
        {
            self.remove(oldest);
        }
        true
    }

    /// Makes one piece of a frame's parts if all are there.
    fn complete(&mut self, now: Instant, number: FrameNumber) {
        let Some(slot) = self.frames.get_mut(&number) else {
            return;
        };
        if slot.completed_at.is_some() || !slot.is_whole() {
            return;
        }
        let before = slot.cost();
        slot.data = if slot.parts.len() == 1 {
            slot.parts[0].1.clone()
        } else {
            let mut whole = BytesMut::with_capacity(slot.bytes);
            for (_, part) in &slot.parts {
                whole.extend_from_slice(part);
            }
            whole.freeze()
        };
        slot.parts = Vec::new();
        slot.completed_at = Some(now);
        self.bytes -= before - slot.cost();
    }

    /// Tries the blocks that `number` touches, and those that what they restore touches.
    fn restore(&mut self, now: Instant, number: FrameNumber) {
        let mut touched = vec![number];
        // Each turn ends with a block less, or with nothing to do.
        while let Some(number) = touched.pop() {
            let keys: Vec<BlockKey> = self
                .blocks
                .iter()
                .filter(|block| {
                    let mut parts = block.layout.parts.iter();
                    parts.any(|part| part.frame.info.number == number)
                })
                .map(|block| block.layout.key())
                .collect();
            for key in keys {
                touched.extend(self.try_block(now, key));
            }
        }
    }

    /// Restores what a block can; returns the frames that gained by it.
    fn try_block(&mut self, now: Instant, key: BlockKey) -> Vec<FrameNumber> {
        let Some(index) = self
            .blocks
            .iter()
            .position(|block| block.layout.key() == key)
        else {
            return Vec::new();
        };
        let block = &self.blocks[index];
        let names: Vec<(FrameNumber, u16)> = block
            .layout
            .parts
            .iter()
            .flat_map(|part| {
                let number = part.frame.info.number;
                part.fragments().map(move |fragment| (number, fragment))
            })
            .collect();
        let data: Vec<Option<Bytes>> = names
            .iter()
            .map(|&(number, fragment)| self.frames.get(&number)?.part(fragment))
            .collect();
        let missing = data.iter().filter(|part| part.is_none()).count();
        if missing > block.shards.len() {
            return Vec::new();
        }
        // What is missing of frames that are over is not worth the computing.
        let worth = names
            .iter()
            .zip(&data)
            .any(|(&(number, _), part)| part.is_none() && number >= self.floor);
        let restored = worth
            .then(|| block.layout.restore(&data, &block.shards))
            .flatten();
        let Some(block) = self.blocks.remove(index) else {
            return Vec::new();
        };
        self.bytes -= block.cost();
        let mut gained = Vec::new();
        for (shard, bytes) in restored.unwrap_or_default() {
            let Some(&(number, fragment)) = names.get(shard) else {
                continue;
            };
            if self.put_back(now, &block.layout, number, fragment, &bytes)
                && !gained.contains(&number)
            {
                gained.push(number);
            }
        }
        for &number in &gained {
            self.complete(now, number);
        }
        gained
    }

    /// Puts a restored fragment into its frame.
    fn put_back(
        &mut self,
        now: Instant,
        layout: &Layout,
        number: FrameNumber,
        fragment: u16,
        shard: &[u8],
    ) -> bool {
        let length = layout
            .parts
            .iter()
            .find(|part| part.frame.info.number == number)
            .map_or(0, |part| part.fragment_length(fragment));
        let (Some(slot), Some(part)) = (self.frames.get_mut(&number), shard.get(..length)) else {
            return false;
        };
        let place = slot
            .parts
            .binary_search_by_key(&fragment, |(index, _)| *index);
        let (Err(place), None) = (place, slot.completed_at) else {
            return false;
        };
        if !slot.fits(fragment, length) {
            return false;
        }
        slot.parts
            .insert(place, (fragment, Bytes::copy_from_slice(part)));
        slot.bytes += length;
        slot.by_parity = true;
        slot.last_arrival = now;
        self.bytes += length + SLOT_BYTES;
        true
    }

    /// Drops the oldest things until the bound on bytes holds.
    fn shrink(&mut self) {
        while self.bytes > self.max_bytes {
            let old = self.frames.first_key_value().map(|(&number, _)| number);
            match (old, self.blocks.pop_front()) {
                (Some(number), block) if number < self.floor || block.is_none() => {
                    if let Some(block) = block {
                        self.blocks.push_front(block);
                    }
                    self.remove(number);
                }
                (_, Some(block)) => self.bytes -= block.cost(),
                (_, None) => break,
            }
        }
    }

    fn remove(&mut self, number: FrameNumber) {
        let Some(slot) = self.frames.remove(&number) else {
            return;
        };
        self.bytes -= slot.cost();
        if number >= self.floor {
            self.overrun += 1;
        }
        let mut freed = 0;
        self.blocks.retain(|block| {
            let alive = block.layout.last_frame() > number;
            freed += if alive { 0 } else { block.cost() };
            alive
        });
        self.bytes -= freed;
    }

    /// Frames before `floor` are over: they stay only while parity may refer to them. Returns how many of
    /// them nobody fetched, and the bytes that came for them.
    pub(super) fn set_floor(&mut self, floor: FrameNumber) -> (u64, u64) {
        let from = self.floor;
        self.floor = floor.max(from);
        let (mut frames, mut bytes) = (0, 0);
        if from < floor {
            // The last one before the floor is the one that was fetched.
            for (_, slot) in self.frames.range(from..floor - 1) {
                frames += 1;
                bytes += slot.bytes as u64;
            }
        }
        while let Some((&oldest, _)) = self.frames.first_key_value()
            && oldest.saturating_add(WINDOW_MAX as u64) <= self.floor
        {
            self.remove(oldest);
        }
        (frames, bytes)
    }

    /// Frames that are not over, oldest first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (FrameNumber, &Slot)> {
        self.frames
            .range(self.floor..)
            .map(|(&number, slot)| (number, slot))
    }

    pub(super) fn get(&self, number: FrameNumber) -> Option<&Slot> {
        self.frames.get(&number)
    }

    /// Frames that fell out of the table before they were fetched.
    pub(super) fn overrun(&self) -> u64 {
        self.overrun
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize, usize) {
        (self.frames.len(), self.blocks.len(), self.bytes)
    }
}
