//! Order, decodability and render times of frames: what goes to the decoder, and when something must be asked
//! for.
//!
//! A frame goes to the decoder as soon as it is whole and what it refers to was decoded; nothing is held back
//! to smooth the network. Its render time smooths by at most one frame interval. What cannot be decoded is
//! never given out: the last good picture stays until resends, parity, or a frame without the gap arrive.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::assemble::{Assembler, Inserted};
use super::render::RenderClock;
use crate::packet::{FrameInfo, ParityBody, StreamReport, VideoBody};
use crate::{FrameNumber, StreamId};

/// Frames remembered as decoded: as far back as a frame can refer.
const MAX_REFERENCES: usize = 256;
/// Frames with the decoder at a time: what it has not begun can still turn out to be hidden.
const MAX_IN_DECODER: usize = 3;
/// Frames that may wait behind the one that comes out; with more of them only the newest is shown.
const MAX_WAITING: usize = 2;
/// A key frame that is whole waits so long for what is missing before it: packets that overtook each other,
/// but no resend.
const KEY_PATIENCE: Duration = Duration::from_millis(20);
/// A decoder that is behind for so long is too slow.
const TOO_SLOW_AFTER: Duration = Duration::from_secs(1);
/// For so long the sender is asked for less.
const SLOW_DOWN: Duration = Duration::from_secs(10);
/// The shortest time that a missing frame gets, whatever the round trip.
const MIN_PATIENCE: Duration = Duration::from_millis(50);

/// How a video buffer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoConfig {
    /// Fragments and parity held at most, bytes.
    pub memory_bytes: usize,
    /// How old a frame may become on its way before a refresh is wanted (250 ms; for a screen 2 s).
    pub deadline: Duration,
    /// Wait for up to three frame intervals to smooth the gaps between pictures, instead of one.
    pub smooth: bool,
}

impl Default for VideoConfig {
    /// For a camera: half of the 4 MiB that all streams of a call may hold.
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 20,
            deadline: Duration::from_millis(250),
            smooth: false,
        }
    }
}

/// A frame that the decoder can take now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteFrame {
    /// What it says of itself.
    pub info: FrameInfo,
    /// One access unit, Annex B.
    pub data: Bytes,
    /// When its first packet came.
    pub first_arrival: Instant,
    /// When it was whole.
    pub completed_at: Instant,
    /// When it should be shown; it may be past, then at once.
    pub render_at: Instant,
    /// It is to be shown. Otherwise newer ones are about to come out: it is decoded for their sake only.
    pub show: bool,
    /// Parity restored a part of it.
    pub by_parity: bool,
    /// The latest round of resending that was needed, 0: none.
    pub resend_round: u8,
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VideoCounters {
    /// Frames given to the decoder.
    pub frames: u64,
    /// Of these, key frames.
    pub key_frames: u64,
    /// Of these, such as were only decoded for the sake of newer ones.
    pub hidden: u64,
    /// Frames that parity completed.
    pub by_parity: u64,
    /// Frames that resends of the first, second, third (or later) round completed.
    pub by_resend: [u64; 3],
    /// Frames that could be decoded only after their render time, but were.
    pub late_useful: u64,
    /// Frames of which something came, but which never went to the decoder.
    pub abandoned: u64,
    /// Bytes of fragments that came twice, too late, or for frames given up.
    pub useless_bytes: u64,
    /// Packets that contradict others or the limits.
    pub malformed: u64,
    /// Times a refresh became wanted.
    pub refreshes: u64,
    /// Frames that the decoder refused.
    pub decode_errors: u64,
}

/// Receives the frames of one stream.
#[derive(Debug)]
pub struct VideoBuffer {
    stream: StreamId,
    config: VideoConfig,
    round_trip: Duration,
    frames: Assembler,
    clock: RenderClock,
    /// Given to the decoder, and not refused: oldest first.
    references: VecDeque<FrameNumber>,
    last_given: Option<FrameNumber>,
    last_decoded: Option<FrameNumber>,
    /// Given to the decoder, which is not done with them.
    in_decoder: VecDeque<FrameNumber>,
    /// Frames before this one are not shown: newer ones wait already.
    hidden_before: FrameNumber,
    refresh_wanted: bool,
    behind_since: Option<Instant>,
    slow_until: Option<Instant>,
    counters: VideoCounters,
}

impl VideoBuffer {
    /// An empty buffer for `stream`.
    pub fn new(stream: StreamId, config: VideoConfig) -> Self {
        Self {
            stream,
            config,
            round_trip: Duration::from_millis(50),
            frames: Assembler::new(config.memory_bytes),
            clock: RenderClock::new(config.smooth),
            references: VecDeque::new(),
            last_given: None,
            last_decoded: None,
            in_decoder: VecDeque::new(),
            hidden_before: 0,
            refresh_wanted: false,
            behind_since: None,
            slow_until: None,
            counters: VideoCounters::default(),
        }
    }

    /// A fragment came.
    pub fn on_fragment(&mut self, now: Instant, body: VideoBody) {
        if body.frame.stream != self.stream {
            self.counters.malformed += 1;
            return;
        }
        match self.frames.insert(now, &body) {
            Inserted::Stored => {}
            Inserted::Useless => self.counters.useless_bytes += body.data.len() as u64,
            Inserted::Malformed => self.counters.malformed += 1,
        }
    }

    /// A parity packet came.
    pub fn on_parity(&mut self, now: Instant, body: ParityBody) {
        let stream = body.frames.first().map(|frame| frame.info.stream);
        // Parity that is not needed is no fault: it is what it costs.
        if stream != Some(self.stream)
            || self.frames.insert_parity(now, &body) == Inserted::Malformed
        {
            self.counters.malformed += 1;
        }
    }

    /// The next frame for the decoder. At most three are out before [`Self::on_decoded`] must be called.
    pub fn poll(&mut self, now: Instant) -> Option<CompleteFrame> {
        self.watch_decoder(now);
        if self.in_decoder.len() >= MAX_IN_DECODER {
            return None;
        }
        let number = self.next_ready(now)?;
        let waiting = self.ready_from(number);
        if waiting.1 > MAX_WAITING {
            self.hidden_before = self.hidden_before.max(waiting.0);
        }
        let slot = self.frames.get(number)?;
        let completed_at = slot.completed_at?;
        let frame = CompleteFrame {
            info: slot.info,
            data: slot.data.clone(),
            first_arrival: slot.first_arrival,
            completed_at,
            render_at: self.clock.render_at(&slot.info, completed_at),
            show: number >= self.hidden_before,
            by_parity: slot.by_parity,
            resend_round: slot.resend_round,
        };
        self.give(now, &frame);
        Some(frame)
    }

    fn give(&mut self, now: Instant, frame: &CompleteFrame) {
        let number = frame.info.number;
        let (frames, bytes) = self.frames.set_floor(number + 1);
        self.last_given = Some(number);
        self.refresh_wanted = false;
        if self.references.len() == MAX_REFERENCES {
            self.references.pop_front();
        }
        self.references.push_back(number);
        self.in_decoder.push_back(number);

        let counters = &mut self.counters;
        counters.abandoned += frames;
        counters.useless_bytes += bytes;
        counters.frames += 1;
        counters.key_frames += u64::from(frame.info.key);
        counters.hidden += u64::from(!frame.show);
        counters.by_parity += u64::from(frame.by_parity);
        if let Some(round) = usize::from(frame.resend_round).checked_sub(1) {
            counters.by_resend[round.min(2)] += 1;
        }
        counters.late_useful += u64::from(now > frame.render_at);
    }

    /// The oldest frame that is whole and decodable.
    fn next_ready(&self, now: Instant) -> Option<FrameNumber> {
        let mut gap = false;
        let mut expected = self.last_given.map(|number| number + 1);
        for (number, slot) in self.frames.waiting() {
            gap |= expected.is_some_and(|expected| expected < number);
            expected = Some(number + 1);
            let Some(completed_at) = slot.completed_at else {
                gap = true;
                continue;
            };
            let patient =
                slot.info.key && gap && !self.refresh_wanted && now < completed_at + KEY_PATIENCE;
            if !patient && self.decodable(&slot.info, &[]) {
                return Some(number);
            }
            gap = true;
        }
        None
    }

    /// What a frame refers to is with the decoder, or among `also`.
    fn decodable(&self, info: &FrameInfo, also: &[FrameNumber]) -> bool {
        if info.key {
            return true;
        }
        let Some(reference) = info
            .number
            .checked_sub(u64::from(info.reference_distance))
            .filter(|_| info.reference_distance > 0)
        else {
            // Of itself, but not the first: the parameter sets come with key frames.
            return !self.references.is_empty();
        };
        self.references.binary_search(&reference).is_ok() || also.contains(&reference)
    }

    /// The last of the frames that can be decoded one after the other from `first` on, and how many there are
    /// behind the first.
    fn ready_from(&self, first: FrameNumber) -> (FrameNumber, usize) {
        let mut ready = vec![first];
        for (number, slot) in self.frames.waiting() {
            if number > first && slot.completed_at.is_some() && self.decodable(&slot.info, &ready) {
                ready.push(number);
            }
        }
        (ready[ready.len() - 1], ready.len() - 1)
    }

    /// When something changes without a packet: [`Self::poll`] or [`Self::handle_timeout`] is due then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let patience = self
            .frames
            .waiting()
            .filter(|(_, slot)| slot.info.key)
            .find_map(|(_, slot)| slot.completed_at)
            .filter(|_| self.in_decoder.len() < MAX_IN_DECODER && !self.refresh_wanted)
            .map(|completed_at| completed_at + KEY_PATIENCE);
        let refresh = self.refresh_due().filter(|_| !self.refresh_wanted);
        patience.into_iter().chain(refresh).min()
    }

    /// Lets time pass: true when a report should go at once (a refresh became wanted).
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.refresh_wanted || self.refresh_due().is_none_or(|due| now < due) {
            return false;
        }
        self.want_refresh();
        true
    }

    fn want_refresh(&mut self) {
        self.refresh_wanted = true;
        self.counters.refreshes += 1;
    }

    /// When what is missing has become too old, as far as anything shows that it is missing.
    fn refresh_due(&self) -> Option<Instant> {
        let mut frames = self.frames.waiting();
        let (number, first) = frames.next()?;
        let expected = self.last_given.map_or(number, |last| last + 1);
        if first.completed_at.is_some() && self.decodable(&first.info, &[]) {
            return None;
        }
        // A later frame shows that an earlier one is missing; without one, the frame may still be on its way
        // as long as it makes progress.
        let evidence = if number > expected || first.completed_at.is_some() {
            first.first_arrival
        } else {
            match frames.next() {
                Some((_, second)) => second.first_arrival.max(first.first_arrival),
                None => first.last_arrival,
            }
        };
        let patience = self.config.deadline.saturating_sub(self.round_trip / 2);
        Some(evidence + patience.max(MIN_PATIENCE))
    }

    /// The decoder is done with a frame: whether it made a picture, and how long it took. True when a report
    /// should go at once.
    pub fn on_decoded(
        &mut self,
        now: Instant,
        number: FrameNumber,
        ok: bool,
        took: Duration,
    ) -> bool {
        self.in_decoder.retain(|&given| given != number);
        self.watch_decoder(now);
        if ok {
            self.last_decoded = self.last_decoded.max(Some(number));
            self.clock.on_decoded(took);
            return false;
        }
        // Our idea of what can be decoded was wrong, so what followed from this frame is wrong as well.
        self.counters.decode_errors += 1;
        self.references.retain(|&given| given < number);
        let wanted_before = self.refresh_wanted;
        if !wanted_before {
            self.want_refresh();
        }
        !wanted_before
    }

    /// Notices a decoder that falls behind for long.
    fn watch_decoder(&mut self, now: Instant) {
        let whole = self
            .frames
            .waiting()
            .filter(|(_, slot)| slot.completed_at.is_some());
        let queue = self.in_decoder.len() + whole.count().min(MAX_IN_DECODER);
        if self.in_decoder.is_empty() || queue < MAX_WAITING {
            self.behind_since = None;
        } else if queue > MAX_WAITING {
            let since = *self.behind_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= TOO_SLOW_AFTER {
                self.slow_until = Some(now + SLOW_DOWN);
            }
        }
    }

    /// Packets take another path from here on: what was measured of delays is void.
    pub fn on_path_change(&mut self) {
        self.clock.reset();
    }

    /// The round trip and the deadline, as they are now.
    pub fn set_network(&mut self, round_trip: Duration, deadline: Duration) {
        self.round_trip = round_trip;
        self.config.deadline = deadline;
    }

    /// What synchronisation with sound adds to the render time.
    pub fn set_sync_delay(&mut self, delay: Duration) {
        self.clock.set_sync_delay(delay);
    }

    /// What is added to a picture's way now so that pictures come evenly, without the decoder's time.
    pub fn delay(&self) -> Duration {
        self.clock.delay()
    }

    /// What the report says of this stream.
    pub fn stream_report(&self, now: Instant) -> StreamReport {
        StreamReport {
            stream: self.stream,
            refresh_wanted: self.refresh_wanted,
            slow_down: self.slow_until.is_some_and(|until| now < until),
            last_decoded: self.last_decoded,
            first_missing: self.first_missing(),
            buffer_millis: self.buffer_millis(),
        }
    }

    fn first_missing(&self) -> Option<FrameNumber> {
        let mut expected = self.last_given.map(|number| number + 1);
        for (number, slot) in self.frames.waiting() {
            let missing = *expected.get_or_insert(number);
            if missing < number || slot.completed_at.is_none() {
                return Some(missing);
            }
            expected = Some(number + 1);
        }
        None
    }

    /// From the oldest to the newest frame that is whole and waits, with one interval for the oldest itself.
    fn buffer_millis(&self) -> u16 {
        let mut whole = self
            .frames
            .waiting()
            .filter(|(_, slot)| slot.completed_at.is_some())
            .map(|(_, slot)| slot.info.time);
        let Some(oldest) = whole.next() else {
            return 0;
        };
        let newest = whole.last().unwrap_or(oldest);
        let span = newest.saturating_duration_since(oldest) + self.clock.interval();
        u16::try_from(span.as_millis()).unwrap_or(u16::MAX)
    }

    /// What was done so far.
    pub fn counters(&self) -> VideoCounters {
        VideoCounters {
            abandoned: self.counters.abandoned + self.frames.overrun(),
            ..self.counters
        }
    }
}

#[cfg(test)]
#[path = "video_tests.rs"]
mod tests;
