//! The sender's memory: each packet from its leaving until it is known to have arrived or to be lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::round_trip::RoundTrip;
use super::{Feedback, Outcome, SentPacket};
use crate::packet::{Content, Report, StreamReport, WireClock, nearest};
use crate::{AUDIO, FrameNumber, MAX_STREAMS, Sequence, StreamId};

/// Packets remembered at most: 4 s of 500 a second, six times what a call at 720p sends.
const PACKETS_MAX: usize = 2_048;
/// Forgotten packets that wait to be told as lost at most: as many as can be forgotten at once, twice.
const FORGOTTEN_MAX: usize = 2 * PACKETS_MAX;
/// For how long a packet is remembered.
const AGE_MAX: Duration = Duration::from_secs(4);
/// Later packets that must have arrived before a missing one counts as lost (RFC 9002 §6.1.1).
const LATER_PACKETS: u32 = 3;
/// For how long, at least, a packet must have been overtaken before it counts as lost; the longer, the fewer
/// needless resends, the later the needed ones.
const OVERTAKEN_MIN: Duration = Duration::from_millis(5);
/// The same as a part of the round trip (RFC 9002 §6.1.2).
const OVERTAKEN_ROUND_TRIPS: u32 = 8;
/// How far reordering, where it is seen, may stretch that, so that nothing is sent again in vain (RFC 8985
/// §4 adapts likewise).
const REORDER_MAX: Duration = Duration::from_millis(60);
/// In this time half of that stretch is forgotten.
const REORDER_HALF_LIFE: Duration = Duration::from_secs(4);
/// A stretch below this is none.
const REORDER_MIN: Duration = Duration::from_millis(1);
/// Where packets overtake each other, the time alone condemns none: the next report may know it to have come.
/// So much later it does, since there may be no next report.
const REPORT_LAG: Duration = Duration::from_millis(40);
/// Fewer later packets than [`LATER_PACKETS`] must wait this many times longer.
const FEW_LATER_FACTOR: u32 = 2;
/// By how much a report must be too late to speak of a packet after which nothing arrived, if hardly anything
/// was sent after it either (else all of them are held up, as by a Wi-Fi scan).
const TAIL_MARGIN: Duration = Duration::from_millis(100);
/// Without any report a packet counts as lost after this and a round trip: nobody waits for it any more.
const SILENCE: Duration = Duration::from_secs(1);
/// The round trip where none is known.
const ROUND_TRIP_GUESS: Duration = Duration::from_millis(300);
/// For this long after a change of path packets of both paths overtake each other.
const SWITCH_GRACE: Duration = Duration::from_millis(300);
/// Reports farther apart than this, by the receiver's clock, do not belong to one clock.
const CLOCK_JUMP_MICROS: u64 = 5_000_000;

/// Why a report is dropped, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It names a packet that was never sent (here the low bits of its number): the peer makes things up.
    #[error("the report names a packet that was never sent ({0} mod 65,536)")]
    NeverSent(u16),
}

/// Counters of a [`SentHistory`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SentStats {
    /// Packets sent.
    pub sent: u64,
    /// Of these, known to have arrived.
    pub arrived: u64,
    /// Declared lost.
    pub lost: u64,
    /// Of these, arrived after all.
    pub late: u64,
    /// Reports read.
    pub reports: u64,
    /// Of these, overtaken by newer ones.
    pub stale_reports: u64,
    /// Reports dropped.
    pub bad_reports: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Flying,
    Lost,
    Arrived { micros: u64 },
}

#[derive(Debug)]
struct Entry {
    packet: SentPacket,
    fate: Fate,
}

/// The newest report: when it came, and when it was written.
#[derive(Debug, Clone, Copy)]
struct LatestReport {
    received_at: Instant,
    time_micros: u64,
}

#[derive(Debug, Clone, Copy)]
struct Switch {
    at: Instant,
    epoch: u32,
}

/// How late overtaken packets came lately.
#[derive(Debug, Clone, Copy)]
struct Reorder {
    extent: Duration,
    at: Instant,
}

/// Arrivals behind the packet that is looked at.
#[derive(Debug, Clone, Copy)]
struct Later {
    packets: u32,
    first_micros: u64,
}

impl Later {
    const NONE: Self = Self {
        packets: 0,
        first_micros: u64::MAX,
    };

    fn add(&mut self, micros: u64) {
        self.packets = self.packets.saturating_add(1);
        self.first_micros = self.first_micros.min(micros);
    }
}

/// Remembers at most 2,048 packets for at most 4 s.
#[derive(Debug)]
pub struct SentHistory {
    clock: WireClock,
    next: Sequence,
    entries: VecDeque<Entry>,
    flying: usize,
    flying_bytes: u64,
    round_trip: RoundTrip,
    reorder: Option<Reorder>,
    latest_report: Option<LatestReport>,
    switch: Option<Switch>,
    /// Lost by being forgotten, and not yet told.
    forgotten: VecDeque<Outcome>,
    newest_frames: Vec<(StreamId, FrameNumber)>,
    ce_marks: u8,
    timeout: Option<Instant>,
    stats: SentStats,
}

impl SentHistory {
    /// Begins with number `first`; `clock` is the one of [`crate::packet::Writer`].
    pub fn new(clock: WireClock, first: Sequence) -> Self {
        Self {
            clock,
            next: first,
            entries: VecDeque::new(),
            flying: 0,
            flying_bytes: 0,
            round_trip: RoundTrip::default(),
            reorder: None,
            latest_report: None,
            switch: None,
            forgotten: VecDeque::new(),
            newest_frames: Vec::new(),
            ce_marks: 0,
            timeout: None,
            stats: SentStats::default(),
        }
    }

    /// The number of the next packet; used up by [`SentHistory::push`].
    pub const fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Remembers a packet that has left. Numbers rise; one that was used before is ignored.
    pub fn push(&mut self, packet: SentPacket) {
        if packet.sequence < self.next {
            return;
        }
        while self.entries.len() >= PACKETS_MAX {
            self.forget_oldest();
        }
        self.next = packet.sequence.saturating_add(1);
        self.remember_frame(&packet.content);
        self.stats.sent += 1;
        self.flying += 1;
        self.flying_bytes += u64::from(packet.wire_bytes);
        let due = if self.forgotten.is_empty() {
            packet.sent_at + self.silence()
        } else {
            packet.sent_at
        };
        self.timeout = Some(self.timeout.map_or(due, |timeout| timeout.min(due)));
        self.entries.push_back(Entry {
            packet,
            fate: Fate::Flying,
        });
    }

    /// What a report teaches.
    ///
    /// # Errors
    /// [`ReportError`]; nothing is changed then but a counter.
    pub fn on_report(&mut self, now: Instant, report: &Report) -> Result<Feedback, ReportError> {
        let base = match self.check(report) {
            Ok(base) => base,
            Err(error) => {
                self.stats.bad_reports += 1;
                return Err(error);
            }
        };
        self.stats.reports += 1;
        let stale = self.latest_report.is_some_and(|latest| {
            report.time_micros < latest.time_micros
                && latest.time_micros - report.time_micros < CLOCK_JUMP_MICROS
        });
        let mut ce_marks = 0;
        if stale {
            self.stats.stale_reports += 1;
        } else {
            self.latest_report = Some(LatestReport {
                received_at: now,
                time_micros: report.time_micros,
            });
            ce_marks = report.ce_marks.wrapping_sub(self.ce_marks);
            self.ce_marks = report.ce_marks;
        }
        let round_trip = self.measure(now, report);
        let mut outcomes = Vec::new();
        if let Some(base) = base {
            self.note_arrivals(now, base, report, &mut outcomes);
        }
        self.drop_older(now);
        self.declare_lost(now, &mut outcomes);
        Ok(Feedback {
            received_at: now,
            round_trip,
            outcomes: self.told(outcomes),
            ce_marks,
            streams: if stale {
                Vec::new()
            } else {
                report
                    .streams
                    .iter()
                    .filter_map(|said| self.whole(said))
                    .collect()
            },
        })
    }

    /// The packets that are lost by now although no report says so; to be called at
    /// [`SentHistory::next_timeout`].
    pub fn on_timeout(&mut self, now: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        self.drop_older(now);
        self.declare_lost(now, &mut outcomes);
        self.told(outcomes)
    }

    /// When [`SentHistory::on_timeout`] may have something to say if no report comes before.
    pub const fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Packets take path `epoch` from here on. For 300 ms packets of different paths may overtake each other
    /// without one being lost. If the old path is `dead`, what is on it is lost, and returned. The round trip
    /// is unknown until a packet of the new path is reported.
    pub fn on_path_switch(&mut self, now: Instant, epoch: u32, dead: bool) -> Vec<Outcome> {
        self.switch = Some(Switch { at: now, epoch });
        self.round_trip = RoundTrip::default();
        self.reorder = None;
        let mut outcomes = Vec::new();
        if dead {
            for entry in &mut self.entries {
                if entry.fate == Fate::Flying && entry.packet.path_epoch != epoch {
                    entry.fate = Fate::Lost;
                    self.flying -= 1;
                    self.flying_bytes -= u64::from(entry.packet.wire_bytes);
                    self.stats.lost += 1;
                    outcomes.push(lost(&entry.packet));
                }
            }
        }
        self.declare_lost(now, &mut outcomes);
        self.told(outcomes)
    }

    /// Forgets what is older than 4 s; done by every call that has the time and returns outcomes.
    pub fn drop_older(&mut self, now: Instant) {
        while let Some(oldest) = self.entries.front()
            && now.saturating_duration_since(oldest.packet.sent_at) > AGE_MAX
        {
            self.forget_oldest();
        }
    }

    /// A packet, if it is remembered.
    pub fn get(&self, sequence: Sequence) -> Option<&SentPacket> {
        let place = self.place(sequence);
        let entry = self.entries.get(place)?;
        (entry.packet.sequence == sequence).then_some(&entry.packet)
    }

    /// Bytes on the wire of packets whose fate is open.
    pub const fn flying_bytes(&self) -> u64 {
        self.flying_bytes
    }

    /// Smoothed round trip on this path, without the time that the receiver held the echo.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.smoothed()
    }

    /// When the newest report came.
    pub fn last_report_at(&self) -> Option<Instant> {
        self.latest_report.map(|latest| latest.received_at)
    }

    /// Counters.
    pub const fn stats(&self) -> &SentStats {
        &self.stats
    }

    /// Where `sequence` is, or would be.
    fn place(&self, sequence: Sequence) -> usize {
        self.entries
            .partition_point(|entry| entry.packet.sequence < sequence)
    }

    fn remember_frame(&mut self, content: &Content) {
        let (stream, frame) = match content {
            Content::Audio { number } => (AUDIO, *number),
            Content::Video { stream, frame, .. } => (*stream, *frame),
            Content::Parity { .. } | Content::Report | Content::Probe { .. } => return,
        };
        let known = self.newest_frames.iter_mut().find(|(id, _)| *id == stream);
        if let Some((_, newest)) = known {
            *newest = frame.max(*newest);
        } else {
            if self.newest_frames.len() >= MAX_STREAMS {
                self.newest_frames.remove(0);
            }
            self.newest_frames.push((stream, frame));
        }
    }

    /// What is said of a stream with our numbers of its frames; `None` if we send no such stream.
    fn whole(&self, said: &StreamReport) -> Option<StreamReport> {
        let (_, newest) = *self
            .newest_frames
            .iter()
            .find(|(id, _)| *id == said.stream)?;
        let whole = |number: FrameNumber| {
            nearest::<16>(newest, number as u32 & 0xffff).filter(|number| *number <= newest)
        };
        Some(StreamReport {
            last_decoded: said.last_decoded.and_then(whole),
            // The first missing one may be the one that comes next.
            first_missing: said.first_missing.and_then(whole),
            ..*said
        })
    }

    /// The number of the first packet of the report, if it speaks of any.
    fn check(&self, report: &Report) -> Result<Option<Sequence>, ReportError> {
        let low = report.base as u16;
        let mut named = (0u64..)
            .zip(&report.arrivals)
            .filter_map(|(at, arrival)| arrival.map(|_| at))
            .peekable();
        if named.peek().is_none() {
            return Ok(None);
        }
        let base = nearest::<16>(self.next, u32::from(low)).ok_or(ReportError::NeverSent(low))?;
        let oldest = self.entries.front().map(|entry| entry.packet.sequence);
        let mut place = self.place(base);
        for at in named {
            let sequence = base.saturating_add(at);
            while self
                .entries
                .get(place)
                .is_some_and(|entry| entry.packet.sequence < sequence)
            {
                place += 1;
            }
            let sent = self
                .entries
                .get(place)
                .is_some_and(|entry| entry.packet.sequence == sequence);
            // What is older than our memory may well have been sent.
            let forgotten = sequence < self.next && oldest.is_none_or(|oldest| sequence < oldest);
            if !sent && !forgotten {
                return Err(ReportError::NeverSent(sequence as u16));
            }
        }
        Ok(Some(base))
    }

    /// The round trip that the echo shows, if it was sent on this path and the peer held it no longer than
    /// possible.
    fn measure(&mut self, now: Instant, report: &Report) -> Option<Duration> {
        let sent_at = self.clock.instant(now, report.echoed_send_time)?;
        let gone = now.checked_duration_since(sent_at)?;
        let sample = gone.checked_sub(Duration::from_micros(report.hold_micros))?;
        let other_path = self.switch.is_some_and(|switch| sent_at < switch.at);
        if other_path || sample > AGE_MAX || self.stats.sent == 0 {
            return None;
        }
        self.round_trip.sample(sample);
        Some(sample)
    }

    fn note_arrivals(
        &mut self,
        now: Instant,
        base: Sequence,
        report: &Report,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut place = self.place(base);
        for (at, arrival) in (0u64..).zip(&report.arrivals) {
            let Some(arrival) = *arrival else { continue };
            let sequence = base.saturating_add(at);
            while self
                .entries
                .get(place)
                .is_some_and(|entry| entry.packet.sequence < sequence)
            {
                place += 1;
            }
            let Some(entry) = self.entries.get_mut(place) else {
                break;
            };
            if entry.packet.sequence != sequence {
                continue;
            }
            // Nothing arrives after the report that says so.
            let micros = arrival.min(report.time_micros);
            match entry.fate {
                Fate::Arrived { .. } => continue,
                Fate::Flying => {
                    self.flying -= 1;
                    self.flying_bytes -= u64::from(entry.packet.wire_bytes);
                }
                Fate::Lost => {
                    self.stats.late += 1;
                }
            }
            let late = entry.fate == Fate::Lost;
            entry.fate = Fate::Arrived { micros };
            outcomes.push(Outcome {
                packet: entry.packet.clone(),
                arrived_micros: Some(micros),
            });
            self.stats.arrived += 1;
            if late {
                self.note_reordering(now, place, micros);
            }
        }
    }

    /// The packet at `place` was taken for lost too early: the next ones get more time.
    fn note_reordering(&mut self, now: Instant, place: usize, micros: u64) {
        let epoch = self.entries[place].packet.path_epoch;
        let overtaken = self
            .entries
            .range(place + 1..)
            .filter(|later| later.packet.path_epoch == epoch)
            .filter_map(|later| match later.fate {
                Fate::Arrived { micros } => Some(micros),
                Fate::Flying | Fate::Lost => None,
            })
            .min();
        let extent = micros.saturating_sub(overtaken.unwrap_or(micros));
        // With a quarter more: the next one may be a little later.
        let extent = (Duration::from_micros(extent) * 5 / 4).min(REORDER_MAX);
        if extent > self.reorder_extent(now) {
            self.reorder = Some(Reorder { extent, at: now });
        }
    }

    fn reorder_extent(&self, now: Instant) -> Duration {
        self.reorder.map_or(Duration::ZERO, |reorder| {
            let since = now.saturating_duration_since(reorder.at);
            let halvings = since.as_secs_f64() / REORDER_HALF_LIFE.as_secs_f64();
            reorder.extent.mul_f64((-halvings).exp2())
        })
    }

    /// For how long a packet must have been overtaken to be lost.
    fn overtaken_for(&self, now: Instant) -> Duration {
        let round_trip = self.round_trip.smoothed().unwrap_or(Duration::ZERO);
        OVERTAKEN_MIN
            .max(round_trip / OVERTAKEN_ROUND_TRIPS)
            .max(self.reorder_extent(now))
    }

    /// After how long without any report a packet is lost.
    fn silence(&self) -> Duration {
        SILENCE + self.round_trip.smoothed().unwrap_or(ROUND_TRIP_GUESS)
    }

    /// Looks at all that flies, from the newest to the oldest, and finds when to look again.
    fn declare_lost(&mut self, now: Instant, outcomes: &mut Vec<Outcome>) {
        let (mut all, mut same) = (Later::NONE, Later::NONE);
        let (mut epoch, mut flying) = (None, 0);
        let (mut left, mut timeout) = (self.flying, None::<Instant>);
        let wait = self.overtaken_for(now);
        for place in (0..self.entries.len()).rev() {
            if left == 0 {
                break;
            }
            let entry = &self.entries[place];
            if epoch != Some(entry.packet.path_epoch) {
                epoch = Some(entry.packet.path_epoch);
                same = Later::NONE;
            }
            match entry.fate {
                Fate::Arrived { micros } => {
                    all.add(micros);
                    same.add(micros);
                    continue;
                }
                Fate::Lost => continue,
                Fate::Flying => left -= 1,
            }
            let grace_end = self.grace_end(now, &entry.packet);
            let later = if grace_end.is_some() { same } else { all };
            let tail = flying < LATER_PACKETS;
            flying += 1;
            let due = self.due(now, &entry.packet, later, wait, grace_end, tail);
            if due > now {
                timeout = Some(timeout.map_or(due, |timeout| timeout.min(due)));
                continue;
            }
            let entry = &mut self.entries[place];
            entry.fate = Fate::Lost;
            self.flying -= 1;
            self.flying_bytes -= u64::from(entry.packet.wire_bytes);
            self.stats.lost += 1;
            outcomes.push(lost(&entry.packet));
        }
        self.timeout = timeout;
    }

    /// Until when packets of the new path say nothing about this one.
    fn grace_end(&self, now: Instant, packet: &SentPacket) -> Option<Instant> {
        let switch = self.switch?;
        let end = switch.at + SWITCH_GRACE;
        (packet.path_epoch != switch.epoch && now < end).then_some(end)
    }

    /// When a flying packet is lost, by what is known now; in the past: it is.
    fn due(
        &self,
        now: Instant,
        packet: &SentPacket,
        later: Later,
        wait: Duration,
        grace_end: Option<Instant>,
        tail: bool,
    ) -> Instant {
        let mut due = packet.sent_at + self.silence();
        if let Some(end) = grace_end {
            due = due.min(end);
        }
        let Some(latest) = self.latest_report else {
            return due;
        };
        if later.packets > 0 {
            let wait = if later.packets < LATER_PACKETS {
                wait * FEW_LATER_FACTOR
            } else {
                wait
            };
            // The receiver's clock runs on while its report travels and lies here.
            let seen = latest.time_micros.saturating_sub(later.first_micros);
            let rest = wait.saturating_sub(Duration::from_micros(seen));
            let lag = if rest.is_zero() || self.reorder_extent(now) < REORDER_MIN {
                Duration::ZERO
            } else {
                REPORT_LAG
            };
            return due.min(latest.received_at + rest + lag);
        }
        if let Some(longest) = self.round_trip.longest()
            && tail
            && grace_end.is_none()
            && latest.received_at >= packet.sent_at + longest + TAIL_MARGIN
        {
            return now;
        }
        due
    }

    fn forget_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        if entry.fate == Fate::Flying {
            self.flying -= 1;
            self.flying_bytes -= u64::from(entry.packet.wire_bytes);
            self.stats.lost += 1;
            if self.forgotten.len() >= FORGOTTEN_MAX {
                self.forgotten.pop_front();
            }
            self.forgotten.push_back(lost(&entry.packet));
        }
    }

    /// Outcomes in the order of their numbers, with those that were forgotten meanwhile.
    fn told(&mut self, mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
        outcomes.extend(self.forgotten.drain(..));
        outcomes.sort_by_key(|outcome| outcome.packet.sequence);
        outcomes
    }
}

fn lost(packet: &SentPacket) -> Outcome {
    Outcome {
        packet: packet.clone(),
        arrived_micros: None,
    }
}
