//! How late packets come after the fastest of them, and how long to wait for them therefore. Pure.
//!
//! *Offset* is arrival minus media time. The lowest offset of the last packets is the *base*: what the path
//! takes without jitter. It follows a queue that grows or empties within half a second, so that a queue moves
//! the sound once and leaves nothing behind; what remains above the base is jitter, and its distribution over
//! the last seconds gives the target.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::AudioTime;

/// The target before anything is known: what a home network needs, worked off within two seconds where it
/// is too much.
pub const START_TARGET: Duration = Duration::from_millis(40);
/// The target at most: beyond it, waiting costs a conversation more than holes do.
pub const MAX_TARGET: Duration = Duration::from_millis(300);

const MILLI: i64 = 1_000_000;
const SECOND: f64 = 1e9;

/// Packets are judged together by blocks of this time of arrival, and the largest delay of each counts, so
/// that one late packet in ten is seen as what it does to the sound.
const BLOCK_NANOS: i64 = 100 * MILLI;
/// The base is the lowest offset of at least so many blocks…
const WINDOW_BLOCKS: usize = 4;
/// … with at least so many packets in them (a low number lets the base wander with the jitter, a high one
/// makes it slow to follow a queue that grows)…
const WINDOW_PACKETS: u32 = 20;
/// … that are not older than this.
const WINDOW_NANOS: i64 = 2_000 * MILLI;
/// Blocks before and after one with which its delays are compared to tell jitter from a queue: what lasts
/// longer than these is a queue.
const NEAR_BLOCKS: usize = 2;
/// Where even the fastest packet of a block is so much later than that of the last two seconds, there is a queue,
/// and how it comes and goes is no jitter…
const QUEUE_NANOS: i64 = 60 * MILLI;
/// … unless it stays: blocks of those two seconds.
const FLOOR_BLOCKS: usize = 20;
/// A queue stands where the base has been [`QUEUE_NANOS`] above the lowest offset of so many blocks, five minutes (in
/// which clocks drift apart by half of that at most)…
const LONG_BLOCKS: usize = 3_000;
/// … for so many blocks without a break: another flow fills it, and it swings as that flow does, in seconds…
const STANDING_BLOCKS: u32 = 30;
/// … so that the sound keeps still at what nearly all packets of so many blocks (six seconds, two swings) needed…
const SWING_BLOCKS: usize = 60;
/// … all but those of this share of the blocks: to follow each swing would stretch the sound all the time, and add
/// the jitter on top of the longest queue.
const SWING_QUANTILE: f64 = 0.95;
/// … and half a pull of 10 ms less: sound is played at the first pull after its target, half a pull later on average.
const HALF_PULL_NANOS: i64 = 5 * MILLI;
/// Width of the histogram's buckets. The nearest bucket is taken, so that a clean path is bucket 0.
const BUCKET_NANOS: i64 = 5 * MILLI;
/// Up to half a second.
const BUCKETS: usize = 100;
/// What each block leaves of those before: a half-life of 46 blocks, 4.6 s.
const FORGET: f64 = 0.985;
/// The part of the blocks whose worst packet is in time.
const QUANTILE: f64 = 0.97;
/// Above the quantile, since it is only known to half a bucket.
const MARGIN_NANOS: i64 = BUCKET_NANOS / 2;
/// How fast the target falls, in ns a second…
const RELEASE: f64 = 20e6;
/// … and the part of what lies above the need that goes each second besides: after a single outage the
/// histogram remembers what recurs, and nothing else has to.
const RELEASE_PART: f64 = 0.5;
/// After a switch of path the target stays raised by this…
const SWITCH_RAISE_NANOS: i64 = 20 * MILLI;
/// … for this long.
const SWITCH_HOLD_NANOS: i64 = 2_000 * MILLI;

/// Relative delays of packets and the target that follows from them.
#[derive(Debug, Clone)]
pub struct DelayTracker {
    /// The first packet: all offsets are relative to its.
    origin: Option<(Instant, AudioTime)>,
    blocks: VecDeque<Block>,
    /// The lowest and the highest offsets of the newest [`LONG_BLOCKS`] blocks.
    past: VecDeque<(i64, i64)>,
    /// Blocks in a row that lay in a queue.
    standing: u32,
    /// The offset that suits the swings of a queue that stands.
    still: Option<i64>,
    base: i64,
    /// The highest that the base was since a queue emptied last.
    highest_base: i64,
    histogram: [f64; BUCKETS],
    /// The quantile, ns.
    needed: i64,
    /// The target without margin, ns: `needed`, or what is left of something worse.
    held: i64,
    /// When `held` fell last, ns after the origin.
    released_at: i64,
    hold_until: i64,
}

/// Packets that arrived within [`BLOCK_NANOS`].
#[derive(Debug, Clone, Copy)]
struct Block {
    index: i64,
    packets: u32,
    lowest: i64,
    highest: i64,
    /// The lowest offset of this block and those near before it.
    before: i64,
    /// It, or the one before it, lay in a queue.
    queued: bool,
}

impl DelayTracker {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self {
            origin: None,
            blocks: VecDeque::new(),
            past: VecDeque::new(),
            standing: 0,
            still: None,
            base: 0,
            highest_base: 0,
            histogram: [0.0; BUCKETS],
            needed: 0,
            held: nanos(START_TARGET),
            released_at: 0,
            hold_until: i64::MIN,
        }
    }

    /// Notes that the sound of `time` came at `arrival`, and says how much later than the fastest packet of
    /// the last blocks that was, relative to their times.
    pub fn on_arrival(&mut self, arrival: Instant, time: AudioTime) -> Duration {
        let origin = *self.origin.get_or_insert((arrival, time));
        let now = between(origin.0, arrival);
        let offset = now.saturating_sub(ticks_between(origin.1, time));
        let index = now.div_euclid(BLOCK_NANOS);
        match self.blocks.back_mut() {
            // A packet that was overtaken on its way here belongs to the block of that which did.
            Some(block) if block.index >= index => {
                block.packets += 1;
                block.lowest = block.lowest.min(offset);
                block.highest = block.highest.max(offset);
                block.before = block.before.min(offset);
                self.base = self.base.min(offset);
            }
            _ => {
                self.begin_block(index, offset);
                self.needed = self.quantile();
            }
        }
        self.watch_queue();
        self.release(now);
        Duration::from_nanos(offset.saturating_sub(self.base).max(0).unsigned_abs())
    }

    /// A packet came so long after the fastest that its time to be played was over: the target rises to it at
    /// once. What no target could wait for is an outage, and raises nothing.
    pub fn on_late(&mut self, delay: Duration) {
        if delay <= MAX_TARGET {
            self.held = self.held.max(nanos(delay));
        }
    }

    /// Nothing came for long: the target is at least that of the start.
    pub fn on_outage(&mut self) {
        self.held = self.held.max(nanos(START_TARGET));
    }

    /// Another path: the next packet sets the base, the histogram is kept, and the target is raised by 20 ms
    /// for 2 s.
    pub fn on_path_switch(&mut self, now: Instant) {
        while let Some(block) = self.blocks.pop_front() {
            self.count(block);
        }
        if let Some((origin, _)) = self.origin {
            let now = between(origin, now);
            self.held = self.held.max(self.needed) + SWITCH_RAISE_NANOS;
            self.hold_until = now.saturating_add(SWITCH_HOLD_NANOS);
        }
    }

    /// For how long after the fastest packet sound should wait to be there when it is played: half a bucket
    /// above the 0.97 quantile, at most [`MAX_TARGET`].
    ///
    /// In a queue that stands, it is what nearly all packets of the last swings needed instead.
    pub fn target(&self) -> Duration {
        let nanos = match self.still {
            Some(still) => still.saturating_sub(self.base).max(0),
            None => self.held.max(self.needed).max(0) + MARGIN_NANOS,
        };
        Duration::from_nanos(nanos.unsigned_abs()).min(MAX_TARGET)
    }

    /// Whether the target is that of a queue that stands.
    pub(super) const fn is_still(&self) -> bool {
        self.still.is_some()
    }

    /// `now` less the media time of `time`, ns; `None` before the first packet.
    pub(super) fn offset(&self, now: Instant, time: AudioTime) -> Option<i64> {
        let (arrival, first) = self.origin?;
        Some(between(arrival, now).saturating_sub(ticks_between(first, time)))
    }

    /// The lowest offset of the last packets, ns. What has an offset larger by `x` is `x` behind the fastest.
    pub(super) const fn base(&self) -> i64 {
        self.base
    }

    fn begin_block(&mut self, index: i64, offset: i64) {
        while self.front_is_old(index) {
            if let Some(block) = self.blocks.pop_front() {
                self.count(block);
            }
        }
        let known = self.blocks.iter().map(|block| block.lowest).min();
        let base = known.map_or(offset, |lowest| lowest.min(offset));
        if known.is_some() && base > self.base {
            // What a queue added once is in the base now, and no longer above it.
            self.held = self.held.saturating_sub(base.saturating_sub(self.base));
        }
        self.base = base;
        let near = self.blocks.iter().rev().take(NEAR_BLOCKS);
        let before = near.fold(offset, |lowest, block| lowest.min(block.lowest));
        let queued = self.in_queue();
        self.still = self.stillness();
        self.blocks.push_back(Block {
            queued,
            index,
            packets: 1,
            lowest: offset,
            highest: offset,
            before,
        });
    }

    /// Where a queue is gone, what it made necessary goes with it.
    fn watch_queue(&mut self) {
        self.highest_base = self.highest_base.max(self.base);
        if self.highest_base.saturating_sub(self.base) > QUEUE_NANOS {
            self.highest_base = self.base;
            self.held = self.held.min(nanos(START_TARGET).max(self.needed));
        }
    }

    /// Notes the offsets of the block that is over, and says whether it lay in a queue.
    fn in_queue(&mut self) -> bool {
        let Some(last) = self.blocks.back() else {
            self.past.clear();
            self.standing = 0;
            return false;
        };
        if self.past.len() == LONG_BLOCKS {
            self.past.pop_front();
        }
        self.past.push_back((last.lowest, last.highest));
        let above = |blocks: usize| {
            let newest = self.past.iter().rev().take(blocks);
            let floor = newest.map(|(lowest, _)| *lowest).min();
            floor.is_some_and(|floor| last.lowest.saturating_sub(floor) > QUEUE_NANOS)
        };
        let (short, long) = (above(FLOOR_BLOCKS), above(LONG_BLOCKS));
        self.standing = if long { self.standing + 1 } else { 0 };
        short
    }

    /// The offset that nearly all packets of the last swings kept, where a queue stands.
    fn stillness(&self) -> Option<i64> {
        if self.standing < STANDING_BLOCKS {
            return None;
        }
        let blocks = SWING_BLOCKS.min(self.standing as usize);
        let newest = self.past.iter().rev().take(blocks);
        let mut highest: Vec<i64> = newest.map(|(_, highest)| *highest).collect();
        highest.sort_unstable();
        let at = (highest.len() as f64 * SWING_QUANTILE) as usize;
        let offset = highest.get(at.min(highest.len().saturating_sub(1)))?;
        Some(offset.saturating_sub(HALF_PULL_NANOS))
    }

    /// Whether the oldest block can go when one of `index` comes.
    fn front_is_old(&self, index: i64) -> bool {
        let Some(front) = self.blocks.front() else {
            return false;
        };
        let others: u32 = self.blocks.iter().skip(1).map(|block| block.packets).sum();
        let enough = self.blocks.len() >= WINDOW_BLOCKS && others >= WINDOW_PACKETS;
        enough
            || index
                .saturating_sub(front.index)
                .saturating_mul(BLOCK_NANOS)
                > WINDOW_NANOS
    }

    /// Enters a block that has left the window into the histogram.
    fn count(&mut self, block: Block) {
        if block.queued {
            return;
        }
        let jitter = block.jitter(self.blocks.iter());
        for weight in &mut self.histogram {
            *weight *= FORGET;
        }
        self.histogram[bucket(jitter)] += 1.0 - FORGET;
    }

    /// The 0.97 quantile of the blocks' jitter, those in the window included, ns. Weights are taken relative
    /// to their sum, so that the first blocks count in full.
    fn quantile(&self) -> i64 {
        let mut weights = self.histogram;
        for (at, block) in self.blocks.iter().enumerate() {
            if block.queued {
                continue;
            }
            let jitter = block.jitter(self.blocks.iter().skip(at + 1));
            weights[bucket(jitter)] += 1.0 - FORGET;
        }
        let mut rest = weights.iter().sum::<f64>() * (1.0 - QUANTILE);
        for (index, weight) in weights.iter().enumerate().rev() {
            rest -= weight;
            if rest < 0.0 {
                return index as i64 * BUCKET_NANOS;
            }
        }
        0
    }

    fn release(&mut self, now: i64) {
        let elapsed = now.saturating_sub(self.released_at).clamp(0, 100 * MILLI);
        self.released_at = self.released_at.max(now);
        if now >= self.hold_until {
            let excess = self.held.saturating_sub(self.needed).max(0) as f64;
            let fall = (RELEASE + RELEASE_PART * excess) * elapsed as f64 / SECOND;
            self.held = self.needed.max(self.held.saturating_sub(fall as i64));
        }
    }
}

impl Default for DelayTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Block {
    /// The largest delay above the lowest near it, before or after, whichever is higher: a queue that grows
    /// or empties is no jitter.
    fn jitter<'a>(&self, following: impl Iterator<Item = &'a Self>) -> i64 {
        let near = following.take(NEAR_BLOCKS);
        let after = near.fold(self.lowest, |lowest, block| lowest.min(block.lowest));
        self.highest.saturating_sub(self.before.max(after))
    }
}

fn bucket(jitter: i64) -> usize {
    let nearest = jitter.max(0).saturating_add(BUCKET_NANOS / 2) / BUCKET_NANOS;
    usize::try_from(nearest).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// From `from` to `to`, ns, negative if it is the other way.
fn between(from: Instant, to: Instant) -> i64 {
    match to.checked_duration_since(from) {
        Some(after) => nanos(after),
        None => -nanos(from.saturating_duration_since(to)),
    }
}

/// From `from` to `to`, ns; three ticks are 62.5 µs.
fn ticks_between(from: AudioTime, to: AudioTime) -> i64 {
    let ticks = to.ticks().wrapping_sub(from.ticks()) as i64;
    ticks.saturating_mul(62_500) / 3
}

pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 480;

    /// Feeds packets of 10 ms, each delayed as `delay_millis` says of its number.
    struct Feed {
        start: Instant,
        tracker: DelayTracker,
        number: u64,
    }

    impl Feed {
        fn new() -> Self {
            Self {
                start: Instant::now() + Duration::from_secs(100),
                tracker: DelayTracker::new(),
                number: 0,
            }
        }

        fn run(&mut self, packets: u64, delay_millis: impl Fn(u64) -> f64) {
            for _ in 0..packets {
                let late = Duration::from_secs_f64(delay_millis(self.number) / 1e3);
                let arrival = self.start + Duration::from_millis(10 * self.number) + late;
                let time = AudioTime::from_ticks(u64::from(u32::MAX) + FRAME * self.number);
                self.tracker.on_arrival(arrival, time);
                self.number += 1;
            }
        }

        fn target_millis(&self) -> f64 {
            self.tracker.target().as_secs_f64() * 1e3
        }
    }

    #[test]
    fn a_clean_path_needs_no_waiting() {
        let mut feed = Feed::new();
        assert_eq!(feed.target_millis(), 42.5);
        feed.run(250, |number| 30.0 + (number % 3) as f64 * 0.5);
        assert_eq!(feed.target_millis(), 2.5);
    }

    #[test]
    fn the_target_covers_jitter_and_not_delay() {
        for jitter in [10.0, 30.0, 60.0, 120.0] {
            let mut feed = Feed::new();
            // Spread evenly, without a pattern that the blocks would see.
            feed.run(1_000, |number| {
                500.0 + jitter * ((number as f64 * 0.618_034) % 1.0)
            });
            let target = feed.target_millis();
            assert!(
                (jitter * 0.9 - 2.5..=jitter + 5.0).contains(&target),
                "{jitter}: {target}"
            );
        }
    }

    #[test]
    fn one_late_packet_raises_at_once_and_is_forgotten() {
        let mut feed = Feed::new();
        feed.run(500, |_| 0.0);
        feed.tracker.on_late(Duration::from_millis(80));
        assert_eq!(feed.target_millis(), 82.5);
        feed.run(100, |_| 0.0);
        let after = feed.target_millis();
        assert!((30.0..45.0).contains(&after), "a second later: {after}");
        feed.run(100, |_| 0.0);
        assert!(feed.target_millis() < 10.0);
    }

    #[test]
    fn what_no_target_could_wait_for_raises_nothing() {
        let mut feed = Feed::new();
        feed.run(500, |_| 0.0);
        feed.tracker.on_late(Duration::from_millis(900));
        assert_eq!(feed.target_millis(), 2.5);
        feed.tracker.on_outage();
        assert_eq!(feed.target_millis(), 42.5);
    }

    #[test]
    fn delays_that_recur_are_remembered() {
        let mut feed = Feed::new();
        // Every 40th packet, thus one block in four, is 50 ms late.
        feed.run(2_000, |number| if number % 40 == 7 { 50.0 } else { 0.0 });
        assert_eq!(feed.target_millis(), 52.5);
    }

    #[test]
    fn a_queue_moves_the_base_and_leaves_no_target_behind() {
        let mut feed = Feed::new();
        feed.run(500, |_| 0.0);
        // A second of growth to 250 ms, half a second of emptying.
        feed.run(100, |number| (number - 500) as f64 * 2.5);
        feed.run(50, |number| 250.0 - (number - 600) as f64 * 5.0);
        let target = feed.target_millis();
        // It came in at 2.5 ms and went at 5 ms a packet; nothing else of the 250 ms stays.
        assert!(target < 90.0, "just after the queue: {target}");
        feed.run(1_000, |_| 0.0);
        let target = feed.target_millis();
        assert!(target < 25.0, "ten seconds later: {target}");
    }

    #[test]
    fn a_drop_of_capacity_leaves_no_target_behind() {
        let mut feed = Feed::new();
        feed.run(1_000, |_| 0.0);
        // The queue grows by 0.8 s a second, with packets too late for their time, and is gone within 200 ms.
        feed.run(70, |number| (number - 1_000) as f64 * 8.0);
        feed.tracker.on_late(Duration::from_millis(280));
        feed.run(20, |number| 560.0 - (number - 1_070) as f64 * 28.0);
        feed.run(30, |_| 0.0);
        let target = feed.target_millis();
        assert!(target <= 45.0, "just after the queue: {target}");
    }

    #[test]
    fn a_longer_path_is_the_new_base_within_half_a_second() {
        let mut feed = Feed::new();
        feed.run(500, |_| 0.0);
        let switched = feed.start + Duration::from_secs(5);
        feed.run(1, |_| 60.0);
        feed.tracker.on_late(Duration::from_millis(60));
        feed.run(50, |_| 60.0);
        assert_eq!(feed.target_millis(), 2.5);
        let time = AudioTime::from_ticks(u64::from(u32::MAX) + FRAME * 500);
        let since = feed.tracker.offset(switched, time);
        assert_eq!(
            since.map(|offset| offset - feed.tracker.base()),
            Some(-60 * MILLI)
        );
        // Told of a switch it does not even take that.
        feed.tracker
            .on_path_switch(feed.start + Duration::from_millis(5_510));
        feed.run(1, |_| 150.0);
        assert_eq!(feed.target_millis(), 22.5);
        feed.run(400, |_| 150.0);
        assert_eq!(feed.target_millis(), 2.5);
    }

    #[test]
    fn in_a_queue_that_swings_the_sound_keeps_still() {
        let mut feed = Feed::new();
        feed.run(1_000, |_| 0.0);
        // The queue moves by 80 ms: 100 to 180, up in 2.6 s and down in 0.4 s, as beside a download.
        let swing = |number: u64| match number % 300 {
            up @ 0..260 => 100.0 + up as f64 * 80.0 / 260.0,
            down => 180.0 - (down - 260) as f64 * 2.0,
        };
        feed.run(1_500, swing);
        let mut offsets = Vec::new();
        for _ in 0..600 {
            feed.run(1, swing);
            offsets.push(feed.tracker.base() + nanos(feed.tracker.target()));
        }
        let (least, most) = (
            offsets.iter().min().expect("some"),
            offsets.iter().max().expect("some"),
        );
        assert!(
            most - least <= 10 * MILLI,
            "it moves by {} ms",
            (most - least) / MILLI
        );
        assert!(
            (150 * MILLI..180 * MILLI).contains(most),
            "{} ms",
            most / MILLI
        );
        feed.run(200, |_| 0.0);
        let after = feed.target_millis();
        assert!(after < 60.0, "the queue is gone: {after}");
    }

    #[test]
    fn hostile_times_are_no_panic() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut tracker = DelayTracker::new();
        for (millis, ticks) in [
            (0, 0),
            (1, u64::MAX),
            (0, u64::MAX / 2),
            (5_000, 1 << 63),
            (4_000, 3),
            (u32::MAX, u64::MAX - 7),
        ] {
            let arrival = start + Duration::from_millis(u64::from(millis));
            tracker.on_arrival(arrival, AudioTime::from_ticks(ticks));
            tracker.on_arrival(start, AudioTime::from_ticks(ticks));
            tracker.on_path_switch(arrival);
            assert!(tracker.target() <= MAX_TARGET);
            assert!(tracker.offset(start, AudioTime::from_ticks(1)).is_some());
        }
    }
}
