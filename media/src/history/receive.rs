//! The receiver's memory: what is a duplicate, what is missing, and what the next report says.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Outcome;
use super::holes::Holes;
use super::schedule::Schedule;
use super::window::{Seen, Window};
use crate::packet::{
    Header, REPORT_PACKETS_MAX, Report, STEP_MICROS, StreamReport, WireClock, delta_len, report_len,
};
use crate::{MAX_STREAMS, Sequence};

/// Packets whose arrival is remembered at most: what the sender remembers.
const LOG_MAX: usize = 2_048;
/// For how long an arrival is remembered, µs: as long as the sender remembers the packet.
const LOG_MICROS: u64 = 4_000_000;
/// Each arrival is in this many reports at least, unless one of them is known to have come.
const REPEATS: usize = 3;
/// Reports of ours whose fate is awaited at most.
const TOLD_MAX: usize = 256;
/// Reports are stamped in steps of this, µs: the smallest that both the clock on the wire (4 µs) and the
/// arrivals (250 µs) divide, so that an arrival is the same in every report.
const STAMP_MICROS: u64 = 500;

/// Counters of a [`ReceiveHistory`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiveStats {
    /// Packets that came, each once.
    pub received: u64,
    /// Packets that must have been sent: from the first to the newest.
    pub expected: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets too far from the newest to be told from duplicates, or to be believed.
    pub out_of_window: u64,
    /// Reports made.
    pub reports: u64,
    /// Of these, made at once because something was missing.
    pub urgent_reports: u64,
}

/// The packet that reports echo.
#[derive(Debug, Clone, Copy)]
struct Newest {
    send_time: u32,
    arrived_at: Instant,
}

/// A report on its way.
#[derive(Debug, Clone, Copy)]
struct Told {
    sequence: Sequence,
    written_micros: u64,
}

/// Says of each packet whether it is new, and makes the reports.
#[derive(Debug)]
pub struct ReceiveHistory {
    clock: WireClock,
    window: Window,
    first: Sequence,
    /// Arrivals of packets from `log_base` on, µs.
    log: VecDeque<Option<u64>>,
    log_base: Sequence,
    newest: Option<Newest>,
    newest_arrival_micros: u64,
    holes: Holes,
    schedule: Schedule,
    told: VecDeque<Told>,
    /// Everything that arrived before is known to the sender.
    acknowledged_micros: u64,
    ce_marks: u8,
    path_epoch: Option<u8>,
    stats: ReceiveStats,
}

impl ReceiveHistory {
    /// Reports give times of `clock`.
    pub fn new(clock: WireClock) -> Self {
        Self {
            clock,
            window: Window::new(),
            first: 0,
            log: VecDeque::new(),
            log_base: 0,
            newest: None,
            newest_arrival_micros: 0,
            holes: Holes::default(),
            schedule: Schedule::default(),
            told: VecDeque::new(),
            acknowledged_micros: 0,
            ce_marks: 0,
            path_epoch: None,
            stats: ReceiveStats::default(),
        }
    }

    /// The whole number of a packet that has come, with an origin of its own; `None`: it is a duplicate or
    /// out of the window, and to be dropped.
    pub fn on_packet(&mut self, now: Instant, header: &Header) -> Option<Sequence> {
        let (sequence, ahead) = match self.window.see(header.sequence) {
            Seen::New { sequence, ahead } => (sequence, ahead),
            Seen::Duplicate => {
                self.stats.duplicates += 1;
                return None;
            }
            Seen::Outside => {
                self.stats.out_of_window += 1;
                return None;
            }
            Seen::Leapt(sequence) => {
                self.newest = None;
                (sequence, 1)
            }
        };
        let micros = self.clock.micros(now);
        if self.newest.is_none() {
            (self.first, self.log_base) = (sequence, sequence);
            self.log.clear();
            self.holes.clear();
            self.stats.expected += 1;
        } else {
            self.stats.expected += ahead + self.first.saturating_sub(sequence);
            self.first = self.first.min(sequence);
            self.holes.on_packet(now, sequence, ahead);
        }
        if ahead > 0 {
            self.newest = Some(Newest {
                send_time: header.send_time,
                arrived_at: now,
            });
        }
        self.note_arrival(sequence, micros);
        self.newest_arrival_micros = micros;
        self.stats.received += 1;
        self.schedule.on_news(now);
        Some(sequence)
    }

    /// ECN-CE marks were seen on this many packets more.
    pub const fn on_ce_marks(&mut self, marks: u8) {
        self.ce_marks = self.ce_marks.wrapping_add(marks);
    }

    /// A frame has become late: the next report goes at once.
    pub const fn on_late_frame(&mut self, now: Instant) {
        self.schedule.on_urgent(now);
    }

    /// The peer's packets take path `epoch` from here on: for 300 ms holes are not urgent. A path mark comes
    /// several times; one that says the same again changes nothing.
    pub fn on_path_mark(&mut self, now: Instant, epoch: u8) {
        if self.path_epoch != Some(epoch) {
            self.path_epoch = Some(epoch);
            self.holes.forgive(now);
        }
    }

    /// What is known of the way: the round trip, and the estimate for our direction, of which reports may take
    /// 3 %.
    pub const fn set_path(&mut self, round_trip: Option<Duration>, estimate_bits_per_sec: u64) {
        self.schedule.set_path(round_trip, estimate_bits_per_sec);
    }

    /// Whether a report should go now: `with_audio` if a packet of sound leaves now too, else alone.
    pub fn report_due(&self, now: Instant, with_audio: bool) -> bool {
        self.newest.is_some()
            && self
                .schedule
                .due(with_audio, self.holes.urgent_at(), self.unacknowledged(now))
                .is_some_and(|due| due <= now)
    }

    /// When [`ReceiveHistory::report_due`] becomes true without sound.
    pub fn next_report(&self, now: Instant) -> Option<Instant> {
        self.newest?;
        self.schedule
            .due(false, self.holes.urgent_at(), self.unacknowledged(now))
    }

    /// A report of at most `max_bytes` (its whole datagram) on everything since the newest one that the sender
    /// is known to have, and in three reports at least; `None` if not even an empty one fits, or nothing has
    /// come yet. It leaves as packet `sequence` of ours, `with_audio` or alone. What does not fit is the
    /// oldest.
    pub fn build_report(
        &mut self,
        now: Instant,
        sequence: Sequence,
        with_audio: bool,
        max_bytes: usize,
        streams: &[StreamReport],
    ) -> Option<Report> {
        let newest = self.newest?;
        let streams = &streams[..streams.len().min(MAX_STREAMS)];
        if report_len(0, 0, streams.len()) > max_bytes {
            return None;
        }
        let now_micros = self.clock.micros(now);
        let time_micros = now_micros.next_multiple_of(STAMP_MICROS);
        self.trim(now_micros);
        let (from, deltas) = self.covered(time_micros, max_bytes, streams.len());
        let packets = self.log.len() - from;
        let held = now.saturating_duration_since(newest.arrived_at);
        let report = Report {
            base: self.log_base + from as u64,
            time_micros,
            echoed_send_time: newest.send_time,
            hold_micros: u64::try_from(held.as_micros()).unwrap_or(u64::MAX),
            ce_marks: self.ce_marks,
            arrivals: self
                .log
                .range(from..)
                .map(|arrival| arrival.map(stepped))
                .collect(),
            streams: streams.to_vec(),
        };
        self.remember_told(sequence, now_micros);
        let requests = streams
            .iter()
            .any(|stream| stream.refresh_wanted || stream.slow_down);
        let len = report_len(packets, deltas, streams.len());
        let urgent = self.holes.on_report(now);
        let urgent = self
            .schedule
            .on_report(now, with_audio, len, requests, urgent);
        self.stats.reports += 1;
        self.stats.urgent_reports += u64::from(urgent);
        Some(report)
    }

    /// What came of our own packets: what was in a report that arrived need not be said again.
    pub fn on_outcomes(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if outcome.arrived_micros.is_none() {
                continue;
            }
            let sequence = outcome.packet.sequence;
            let place = self.told.partition_point(|told| told.sequence < sequence);
            if let Some(told) = self.told.get(place)
                && told.sequence == sequence
            {
                self.acknowledged_micros = self.acknowledged_micros.max(told.written_micros);
            }
        }
    }

    /// Counters.
    pub const fn stats(&self) -> &ReceiveStats {
        &self.stats
    }

    /// Something has come of which no report is known to have arrived.
    fn unacknowledged(&self, now: Instant) -> bool {
        self.newest_arrival_micros >= self.acknowledged_micros
            && self.newest_arrival_micros + LOG_MICROS > self.clock.micros(now)
    }

    fn note_arrival(&mut self, sequence: Sequence, micros: u64) {
        let Some(newest) = self.window.newest() else {
            return;
        };
        let end = self.log_base + self.log.len() as u64;
        if newest >= end + LOG_MAX as u64 {
            self.log.clear();
            self.log_base = newest;
        }
        while self.log_base + self.log.len() as u64 <= newest {
            self.log.push_back(None);
        }
        // Older than the log, at its beginning or after a pause.
        while sequence < self.log_base && newest - sequence < LOG_MAX as u64 {
            self.log.push_front(None);
            self.log_base -= 1;
        }
        if let Some(place) = sequence.checked_sub(self.log_base)
            && let Some(entry) = self.log.get_mut(place as usize)
        {
            *entry = Some(micros);
        }
        while self.log.len() > LOG_MAX {
            self.log.pop_front();
            self.log_base += 1;
        }
    }

    /// Forgets old arrivals, and the gaps between them.
    fn trim(&mut self, now_micros: u64) {
        while let Some(oldest) = self.log.front() {
            if oldest.is_some_and(|micros| micros + LOG_MICROS >= now_micros) {
                break;
            }
            // A gap at the front: whatever fills it later is too old for the sender, or said by then.
            self.log.pop_front();
            self.log_base += 1;
        }
    }

    /// Where in the log the next report begins, and how many bytes its deltas take.
    fn covered(&self, time_micros: u64, max_bytes: usize, streams: usize) -> (usize, usize) {
        // Everything since the third last report, or the newest that the sender has, whichever is older.
        let repeated = match self.told.len().checked_sub(REPEATS) {
            Some(place) => self.told.get(place).map_or(0, |told| told.written_micros),
            None => 0,
        };
        let since = repeated.min(self.acknowledged_micros);
        let (mut from, mut deltas) = (self.log.len(), 0);
        // Bytes of the deltas from the second one on; the first one's depends on where the report begins.
        let (mut behind, mut after) = (0, None::<u64>);
        let oldest = self.log.len().saturating_sub(REPORT_PACKETS_MAX);
        for place in (oldest..self.log.len()).rev() {
            let Some(arrival) = self.log[place].map(stepped) else {
                continue;
            };
            let rest = behind + after.map_or(0, |after| delta_len(arrival, after));
            let all = rest + delta_len(time_micros, arrival);
            if report_len(self.log.len() - place, all, streams) > max_bytes {
                break;
            }
            (behind, after) = (rest, Some(arrival));
            if arrival >= since - since % STEP_MICROS {
                (from, deltas) = (place, all);
            }
        }
        (from, deltas)
    }

    fn remember_told(&mut self, sequence: Sequence, written_micros: u64) {
        if self
            .told
            .back()
            .is_some_and(|told| told.sequence >= sequence)
        {
            return;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(Told {
            sequence,
            written_micros,
        });
    }
}

/// As it is in every report.
const fn stepped(micros: u64) -> u64 {
    micros - micros % STEP_MICROS
}
