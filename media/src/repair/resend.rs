//! The sender's memory of frames: which packets to send again, when, and when to give up.
//!
//! The sender decides alone. It knows of each packet whether it arrived, is lost or is still on its way, and
//! so of each block of parity whether it will restore what is lost; a resend is made only for what is missing
//! beyond that, and only while it can arrive in time. Where a few of many lost packets are enough, the copies
//! are spread over the lost ones, which is worth more than twice the same packet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Plan;
use super::parity::{BlockKey, Layout};
use crate::history::{Outcome, SentPacket};
use crate::packet::{Content, FrameInfo, ParityBody, VideoBody};
use crate::{FrameNumber, Sequence, StreamId};

/// Nothing older is sent again: twice the longest deadline.
const MAX_AGE: Duration = Duration::from_secs(4);
/// Frames remembered, of all streams: four seconds of two of them at 30 a second, with room.
const MAX_FRAMES: usize = 256;
/// Bytes remembered: four seconds at 16 Mbit/s.
const MAX_BYTES: usize = 8 << 20;
/// Packets that wait to be sent again: those of the largest frame, twice.
const MAX_QUEUE: usize = 2_048;
/// Parity packets whose fate is awaited.
const MAX_PARITY: usize = 2_048;
/// Failures not fetched yet.
const MAX_FAILED: usize = 64;
/// Loss from which on frames that nobody refers to are not sent again.
const DISCARDABLE_LOSS: f64 = 0.03;
/// Between due and sent.
const HANDLING: Duration = Duration::from_millis(2);
/// A frame's last packet goes again when nothing followed it for so long: nothing else would show its loss.
const TAIL: Duration = Duration::from_millis(25);
/// The fate of parity is known a round trip and this after it was made, or its packet was forgotten.
const PARITY_PATIENCE: Duration = Duration::from_millis(100);
/// The `attempt` of a packet has two bits.
const MAX_ATTEMPT: u8 = 3;

type FrameKey = (StreamId, FrameNumber);
type StreamBlock = (StreamId, BlockKey);

/// A frame that cannot arrive in time any more although others may refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Its stream.
    pub stream: StreamId,
    /// Which.
    pub frame: FrameNumber,
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResendCounters {
    /// Packets sent again, by round: first, second, third and later.
    pub rounds: [u64; 3],
    /// Bytes of these, without headers.
    pub bytes: u64,
    /// Copies of single-packet frames and of last packets, sent without being asked.
    pub unasked: u64,
    /// Times that frames with lost packets were left alone, since parity restores them.
    pub left_to_parity: u64,
    /// Base frames given up.
    pub failed: u64,
}

/// Frames of the last seconds, all streams, with what is known of each of their packets.
#[derive(Debug)]
pub struct ResendStore {
    round_trip: Duration,
    loss: f64,
    frames: BTreeMap<FrameKey, Frame>,
    bytes: usize,
    /// In the order of their sending, to forget by age.
    order: VecDeque<FrameKey>,
    blocks: BTreeMap<StreamBlock, Block>,
    parity: BTreeMap<Sequence, ParityPacket>,
    queue: Vec<Queued>,
    /// Frames that wait for parity whose fate may never be told.
    rechecks: VecDeque<(Instant, FrameKey)>,
    last_sent: Option<Instant>,
    tail: Option<Tail>,
    failed: VecDeque<Failed>,
    counters: ResendCounters,
}

#[derive(Debug)]
struct Frame {
    info: FrameInfo,
    plan: Plan,
    /// When the newest of its fragments left for the first time; until then, when it was handed over.
    sent_at: Instant,
    fragments: Vec<Fragment>,
    blocks: Vec<BlockKey>,
    /// It will not arrive in time, or what it refers to will not.
    failed: bool,
    /// It is among those to be looked at again.
    recheck: bool,
}

#[derive(Debug)]
struct Fragment {
    data: Bytes,
    arrived: bool,
    /// Copies on their way.
    in_flight: u8,
    /// Copies that wait to be sent again.
    queued: u8,
    /// Rounds of resending begun.
    rounds: u8,
}

impl Fragment {
    /// It is there, or may still get there.
    fn expected(&self) -> bool {
        self.arrived || self.in_flight > 0 || self.queued > 0
    }
}

#[derive(Debug)]
struct Block {
    layout: Layout,
    /// When its newest shard was sent, or made.
    sent_at: Instant,
    arrived: usize,
    in_flight: usize,
}

#[derive(Debug)]
struct ParityPacket {
    block: StreamBlock,
    lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Queued {
    due: Instant,
    frame: FrameKey,
    fragment: u16,
    /// Not because of a loss.
    unasked: bool,
}

/// The last packet sent, where it is the last of a frame.
#[derive(Debug, Clone, Copy)]
struct Tail {
    frame: FrameKey,
    fragment: u16,
    due: Instant,
}

impl Default for ResendStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ResendStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            round_trip: Duration::from_millis(50),
            loss: 0.0,
            frames: BTreeMap::new(),
            bytes: 0,
            order: VecDeque::new(),
            blocks: BTreeMap::new(),
            parity: BTreeMap::new(),
            queue: Vec::new(),
            rechecks: VecDeque::new(),
            last_sent: None,
            tail: None,
            failed: VecDeque::new(),
            counters: ResendCounters::default(),
        }
    }

    /// What decides whether a resend is worth it: round trip, and loss as [`super::Policy::loss`] has it.
    pub fn set_network(&mut self, round_trip: Duration, loss: f64) {
        self.round_trip = round_trip;
        self.loss = loss;
    }

    /// A frame is about to leave (all of it goes to the pacer now), with the parity that was made with it.
    pub fn on_frame(
        &mut self,
        now: Instant,
        info: &FrameInfo,
        fragments: Vec<Bytes>,
        parity: &[ParityBody],
        plan: &Plan,
    ) {
        let key = (info.stream, info.number);
        self.forget(key);
        self.bytes += fragments.iter().map(Bytes::len).sum::<usize>();
        let fragments = fragments
            .into_iter()
            .map(|data| Fragment {
                data,
                arrived: false,
                in_flight: 1,
                queued: 0,
                rounds: 0,
            })
            .collect();
        self.frames.insert(
            key,
            Frame {
                info: *info,
                plan: *plan,
                sent_at: now,
                fragments,
                blocks: Vec::new(),
                failed: false,
                recheck: false,
            },
        );
        self.order.push_back(key);
        for body in parity {
            self.add_block(now, info.stream, body);
        }
        if let Some(after) = plan.copy_single_after {
            self.enqueue(now + after, key, 0, true);
        }
        self.expire(now);
    }

    fn add_block(&mut self, now: Instant, stream: StreamId, body: &ParityBody) {
        let Some(layout) = Layout::of(body) else {
            return;
        };
        let key = layout.key();
        let block = self.blocks.entry((stream, key)).or_insert_with(|| Block {
            layout,
            sent_at: now,
            arrived: 0,
            in_flight: 0,
        });
        block.in_flight += 1;
        for part in &block.layout.parts {
            if let Some(frame) = self.frames.get_mut(&(stream, part.frame.info.number))
                && !frame.blocks.contains(&key)
            {
                frame.blocks.push(key);
            }
        }
    }

    /// A packet left, whatever it was: tells from when on a frame's age counts, and when its last packet has
    /// nothing behind it that would show its loss.
    pub fn on_sent(&mut self, packet: &SentPacket) {
        self.tail = None;
        self.last_sent = Some(packet.sent_at);
        let Content::Video {
            stream,
            frame,
            fragment,
            attempt: 0,
        } = packet.content
        else {
            return;
        };
        let frame = (stream, frame);
        let Some(known) = self.frames.get_mut(&frame) else {
            return;
        };
        known.sent_at = packet.sent_at;
        if usize::from(fragment) + 1 == known.fragments.len()
            && known.plan.copy_single_after.is_none()
        {
            self.tail = Some(Tail {
                frame,
                fragment,
                due: packet.sent_at + TAIL,
            });
        }
    }

    /// A parity packet left as number `sequence`; to be called behind [`Self::on_sent`].
    pub fn on_parity_sent(&mut self, sequence: Sequence, body: &ParityBody) {
        let Some(layout) = Layout::of(body) else {
            return;
        };
        let block = (body.frames[0].info.stream, layout.key());
        if let Some(known) = self.blocks.get_mut(&block) {
            known.sent_at = self.last_sent.unwrap_or(known.sent_at);
            self.parity
                .insert(sequence, ParityPacket { block, lost: false });
        }
        if self.parity.len() > MAX_PARITY {
            self.parity.pop_first();
        }
    }

    /// Takes what a report taught of packets.
    pub fn on_outcomes(&mut self, now: Instant, outcomes: &[Outcome]) {
        let mut touched = BTreeSet::new();
        for outcome in outcomes {
            let arrived = outcome.arrived_micros.is_some();
            match outcome.packet.content {
                Content::Video {
                    stream,
                    frame,
                    fragment,
                    ..
                } => self.on_fragment_outcome((stream, frame), fragment, arrived, &mut touched),
                Content::Parity { .. } => {
                    self.on_parity_outcome(outcome.packet.sequence, arrived, &mut touched);
                }
                Content::Audio { .. } | Content::Report | Content::Probe { .. } => {}
            }
        }
        for key in touched {
            self.evaluate(now, key);
        }
    }

    fn on_fragment_outcome(
        &mut self,
        key: FrameKey,
        fragment: u16,
        arrived: bool,
        touched: &mut BTreeSet<FrameKey>,
    ) {
        let Some(known) = self
            .frames
            .get_mut(&key)
            .and_then(|frame| frame.fragments.get_mut(usize::from(fragment)))
        else {
            return;
        };
        known.in_flight = known.in_flight.saturating_sub(1);
        if arrived {
            known.arrived = true;
        } else if !known.arrived {
            touched.insert(key);
        }
    }

    fn on_parity_outcome(
        &mut self,
        sequence: Sequence,
        arrived: bool,
        touched: &mut BTreeSet<FrameKey>,
    ) {
        let Some(packet) = self.parity.get_mut(&sequence) else {
            return;
        };
        let name = packet.block;
        let was_lost = std::mem::replace(&mut packet.lost, true);
        if let Some(block) = self.blocks.get_mut(&name) {
            if !was_lost {
                block.in_flight = block.in_flight.saturating_sub(1);
            }
            if arrived {
                block.arrived += 1;
            } else {
                let frames = block.layout.parts.iter();
                touched.extend(frames.map(|part| (name.0, part.frame.info.number)));
            }
        }
        if arrived {
            self.parity.remove(&sequence);
        }
    }

    /// A fragment never left, and never will (the pacer dropped it, or it did not fit any more): as if lost.
    pub fn on_dropped(
        &mut self,
        now: Instant,
        stream: StreamId,
        frame: FrameNumber,
        fragment: u16,
    ) {
        let mut touched = BTreeSet::new();
        self.on_fragment_outcome((stream, frame), fragment, false, &mut touched);
        for key in touched {
            self.evaluate(now, key);
        }
    }

    /// Parity never left, and never will.
    pub fn on_parity_dropped(&mut self, now: Instant, body: &ParityBody) {
        let Some(layout) = Layout::of(body) else {
            return;
        };
        let stream = body.frames[0].info.stream;
        if let Some(block) = self.blocks.get_mut(&(stream, layout.key())) {
            block.in_flight = block.in_flight.saturating_sub(1);
        }
        for part in &layout.parts {
            self.evaluate(now, (stream, part.frame.info.number));
        }
    }

    /// Forgets the frames of `stream` before `frame`: a refresh makes them worthless.
    pub fn abandon_before(&mut self, stream: StreamId, frame: FrameNumber) {
        let old: Vec<FrameKey> = self
            .frames
            .range((stream, 0)..(stream, frame))
            .map(|(&key, _)| key)
            .collect();
        for key in old {
            self.forget(key);
        }
    }

    /// The next packet to be sent again, if one is due: key frames first, frames that nobody refers to last,
    /// and otherwise the oldest first, since the others cannot be decoded without it.
    pub fn poll(&mut self, now: Instant) -> Option<VideoBody> {
        self.take_tail(now);
        self.check_again(now);
        loop {
            let (index, _) = self
                .queue
                .iter()
                .enumerate()
                .filter(|(_, queued)| queued.due <= now)
                .min_by_key(|(_, queued)| self.rank(queued))?;
            let queued = self.queue.swap_remove(index);
            if let Some(body) = self.send_again(now, queued) {
                return Some(body);
            }
        }
    }

    fn rank(&self, queued: &Queued) -> (u8, Option<Instant>, u16, Instant) {
        let frame = self.frames.get(&queued.frame);
        let class = match frame.map(|frame| &frame.info) {
            Some(info) if info.key => 0,
            Some(info) if info.discardable => 2,
            _ => 1,
        };
        let sent_at = frame.map(|frame| frame.sent_at);
        (class, sent_at, queued.fragment, queued.due)
    }

    fn send_again(&mut self, now: Instant, queued: Queued) -> Option<VideoBody> {
        let arrives_at = now + self.round_trip / 2;
        let repaired = self.repaired(queued.frame);
        let frame = self.frames.get_mut(&queued.frame)?;
        let in_time = arrives_at <= frame.sent_at + frame.plan.deadline;
        let info = frame.info;
        let fragment = frame.fragments.get_mut(usize::from(queued.fragment))?;
        if !queued.unasked {
            fragment.queued = fragment.queued.saturating_sub(1);
        }
        if fragment.arrived || repaired {
            return None;
        }
        if !in_time {
            self.evaluate(now, queued.frame);
            return None;
        }
        fragment.in_flight = fragment.in_flight.saturating_add(1);
        let attempt = fragment.rounds.clamp(1, MAX_ATTEMPT);
        let data = fragment.data.clone();
        self.counters.bytes += data.len() as u64;
        if queued.unasked {
            self.counters.unasked += 1;
        } else {
            self.counters.rounds[usize::from(attempt) - 1] += 1;
        }
        Some(VideoBody {
            frame: info,
            fragment: queued.fragment,
            attempt,
            data,
        })
    }

    fn take_tail(&mut self, now: Instant) {
        let Some(tail) = self.tail.filter(|tail| tail.due <= now) else {
            return;
        };
        self.tail = None;
        self.enqueue(now, tail.frame, tail.fragment, true);
    }

    /// When [`Self::poll`] may have something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let queued = self.queue.iter().map(|queued| queued.due);
        let recheck = self.rechecks.front().map(|(due, _)| *due);
        queued
            .chain(recheck)
            .chain(self.tail.map(|tail| tail.due))
            .min()
    }

    /// A frame that failed and was not told of yet.
    pub fn poll_failed(&mut self) -> Option<Failed> {
        self.failed.pop_front()
    }

    /// What was done so far.
    pub fn counters(&self) -> &ResendCounters {
        &self.counters
    }

    /// Decides what to do about the losses of a frame.
    fn evaluate(&mut self, now: Instant, key: FrameKey) {
        let Some(frame) = self.frames.get(&key) else {
            return;
        };
        let lost: Vec<u16> = (0..)
            .zip(&frame.fragments)
            .filter(|(_, fragment)| !fragment.expected())
            .map(|(index, _)| index)
            .collect();
        if lost.is_empty() || frame.failed {
            return;
        }
        let wanted = self.wanted(now, key, &lost);
        if wanted.is_empty() {
            self.leave_to_parity(now, key);
            return;
        }
        let Some(frame) = self.frames.get(&key) else {
            return;
        };
        let (info, plan) = (frame.info, frame.plan);
        let in_time = now + self.round_trip / 2 + HANDLING <= frame.sent_at + plan.deadline;
        let skipped = info.discardable && self.loss >= DISCARDABLE_LOSS;
        if !in_time || skipped || self.refers_to_failed(&info) {
            self.fail(key);
            return;
        }
        let mut copies: BTreeMap<u16, u32> = BTreeMap::new();
        for fragment in wanted {
            let copy = copies.entry(fragment).or_default();
            self.enqueue(now + plan.resend_spacing * *copy, key, fragment, false);
            *copy += 1;
        }
        if let Some(frame) = self.frames.get_mut(&key) {
            for fragment in copies.into_keys() {
                let fragment = &mut frame.fragments[usize::from(fragment)];
                fragment.rounds = fragment.rounds.saturating_add(1);
            }
        }
    }

    fn leave_to_parity(&mut self, now: Instant, key: FrameKey) {
        self.counters.left_to_parity += 1;
        let due = now + self.round_trip + PARITY_PATIENCE;
        if let Some(frame) = self.frames.get_mut(&key)
            && !std::mem::replace(&mut frame.recheck, true)
        {
            self.rechecks.push_back((due, key));
        }
    }

    fn check_again(&mut self, now: Instant) {
        while let Some((_, key)) = self.rechecks.pop_front_if(|(due, _)| *due <= now) {
            if let Some(frame) = self.frames.get_mut(&key) {
                frame.recheck = false;
                if !self.repaired(key) {
                    self.evaluate(now, key);
                }
            }
        }
    }

    /// Which of a frame's lost fragments to send, some of them several times, so that with parity it gets
    /// whole.
    fn wanted(&self, now: Instant, key: FrameKey, lost: &[u16]) -> Vec<u16> {
        let Some(frame) = self.frames.get(&key) else {
            return Vec::new();
        };
        let blocks: Vec<(&Layout, usize)> = frame
            .blocks
            .iter()
            .filter_map(|&name| self.blocks.get(&(key.0, name)))
            // What was sent after this frame, and may be lost as well, is not waited for.
            .filter(|block| block.layout.last_frame() == key.1 || self.restorable(key.0, block))
            .map(|block| (&block.layout, self.deficit(now, key.0, block)))
            .collect();
        // Each lost fragment counts for the block that is nearest to being whole.
        let mut groups: BTreeMap<Option<usize>, Vec<u16>> = BTreeMap::new();
        for &fragment in lost {
            let best = (0..blocks.len())
                .filter(|&index| covers(blocks[index].0, key.1, fragment))
                .min_by_key(|&index| blocks[index].1);
            groups.entry(best).or_default().push(fragment);
        }
        let mut wanted = Vec::new();
        for (block, fragments) in groups {
            let rounds = fragments
                .iter()
                .map(|&fragment| frame.fragments[usize::from(fragment)].rounds)
                .max()
                .unwrap_or(0);
            let copies = usize::from(if rounds == 0 {
                frame.plan.resend_copies
            } else {
                frame.plan.later_copies
            });
            let missing = block.map_or(fragments.len(), |index| blocks[index].1);
            let sends = missing.min(fragments.len()) * copies;
            wanted.extend(fragments.iter().cycle().take(sends));
        }
        wanted
    }

    /// How many fragments a block lacks even if all that is on its way arrives.
    fn deficit(&self, now: Instant, stream: StreamId, block: &Block) -> usize {
        let expected = block
            .layout
            .parts
            .iter()
            .filter_map(|part| Some((part, self.frames.get(&(stream, part.frame.info.number))?)))
            .flat_map(|(part, frame)| {
                part.fragments()
                    .filter_map(|fragment| frame.fragments.get(usize::from(fragment)))
            })
            .filter(|fragment| fragment.expected())
            .count();
        let known_by = block.sent_at + self.round_trip + PARITY_PATIENCE;
        let on_its_way = if now < known_by { block.in_flight } else { 0 };
        block
            .layout
            .data_shards
            .saturating_sub(expected + block.arrived + on_its_way)
    }

    /// The other side has all of a frame, or can compute it.
    fn repaired(&self, key: FrameKey) -> bool {
        let Some(frame) = self.frames.get(&key) else {
            return false;
        };
        let whole: Vec<&Layout> = frame
            .blocks
            .iter()
            .filter_map(|&name| self.blocks.get(&(key.0, name)))
            .filter(|block| self.restorable(key.0, block))
            .map(|block| &block.layout)
            .collect();
        (0..).zip(&frame.fragments).all(|(index, fragment)| {
            fragment.arrived || whole.iter().any(|layout| covers(layout, key.1, index))
        })
    }

    fn restorable(&self, stream: StreamId, block: &Block) -> bool {
        let arrived = |key: FrameKey, fragment: u16| {
            self.frames
                .get(&key)
                .and_then(|frame| frame.fragments.get(usize::from(fragment)))
                .is_some_and(|fragment| fragment.arrived)
        };
        let there = block
            .layout
            .parts
            .iter()
            .map(|part| {
                let key = (stream, part.frame.info.number);
                part.fragments()
                    .filter(|&fragment| arrived(key, fragment))
                    .count()
            })
            .sum::<usize>();
        there + block.arrived >= block.layout.data_shards
    }

    fn refers_to_failed(&self, info: &FrameInfo) -> bool {
        let distance = u64::from(info.reference_distance);
        distance > 0
            && info
                .number
                .checked_sub(distance)
                .map(|number| (info.stream, number))
                .filter(|key| self.frames.get(key).is_some_and(|frame| frame.failed))
                // What arrives after all is no failure.
                .is_some_and(|key| !self.repaired(key))
    }

    fn fail(&mut self, key: FrameKey) {
        let Some(frame) = self.frames.get_mut(&key) else {
            return;
        };
        frame.failed = true;
        let info = frame.info;
        // What only follows from an earlier failure is no news.
        if info.discardable || self.refers_to_failed(&info) {
            return;
        }
        self.counters.failed += 1;
        if self.failed.len() < MAX_FAILED {
            self.failed.push_back(Failed {
                stream: key.0,
                frame: key.1,
            });
        }
    }

    fn enqueue(&mut self, due: Instant, frame: FrameKey, fragment: u16, unasked: bool) {
        if self.queue.len() >= MAX_QUEUE {
            return;
        }
        if !unasked
            && let Some(known) = self
                .frames
                .get_mut(&frame)
                .and_then(|known| known.fragments.get_mut(usize::from(fragment)))
        {
            known.queued = known.queued.saturating_add(1);
        }
        self.queue.push(Queued {
            due,
            frame,
            fragment,
            unasked,
        });
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&oldest) = self.order.front() {
            let age = self
                .frames
                .get(&oldest)
                .map(|frame| now.saturating_duration_since(frame.sent_at));
            let full = self.frames.len() > MAX_FRAMES || self.bytes > MAX_BYTES;
            if age.is_some_and(|age| age <= MAX_AGE) && !full {
                break;
            }
            self.forget(oldest);
            self.order.pop_front();
        }
    }

    /// Drops a frame, and blocks of which it was the last one.
    fn forget(&mut self, key: FrameKey) {
        let Some(frame) = self.frames.remove(&key) else {
            return;
        };
        self.bytes -= frame
            .fragments
            .iter()
            .map(|fragment| fragment.data.len())
            .sum::<usize>();
        self.queue.retain(|queued| queued.frame != key);
        for name in frame.blocks {
            let last = self
                .blocks
                .get(&(key.0, name))
                .is_some_and(|block| block.layout.last_frame() == key.1);
            if last {
                self.blocks.remove(&(key.0, name));
            }
        }
        if self.order.len() > 2 * MAX_FRAMES {
            let frames = &self.frames;
            self.order.retain(|key| frames.contains_key(key));
        }
    }
}

/// Whether a block has this fragment.
fn covers(layout: &Layout, frame: FrameNumber, fragment: u16) -> bool {
    layout
        .parts
        .iter()
        .any(|part| part.frame.info.number == frame && part.contains(fragment))
}

#[cfg(test)]
#[path = "resend_tests.rs"]
mod tests;
