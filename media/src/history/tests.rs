//! Both histories, alone against tables and hostile input, and against each other over a bad link.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::packet::{Body, Header, Kind, Receiver, Report, WireClock, Writer, parse};
use crate::{AUDIO, CAMERA, SCREEN};

mod link;
mod received;

const MS: Duration = Duration::from_millis(1);

/// Clocks start five seconds before they wrap, at a step of the clock.
const BEFORE_WRAP: u64 = (1 << 26) - 5_000_364;

struct Bench {
    start: Instant,
    history: SentHistory,
}

impl Bench {
    fn new(first: Sequence) -> Self {
        let start = Instant::now();
        Self {
            start,
            history: SentHistory::new(WireClock::new(start, BEFORE_WRAP), first),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + MS * millis as u32
    }

    fn send(&mut self, millis: u64, path_epoch: u32) -> Sequence {
        let sequence = self.history.next_sequence();
        self.history.push(SentPacket {
            sequence,
            sent_at: self.at(millis),
            wire_bytes: 1_000,
            class: Class::Video,
            content: Content::Video {
                stream: CAMERA,
                frame: 70_000 + sequence % 100,
                fragment: 0,
                attempt: 0,
            },
            path_epoch,
        });
        sequence
    }

    /// A report written at `time` ms of the receiver, on packets that arrived at these ms.
    fn report(&self, base: Sequence, time: u64, arrivals: &[Option<u64>]) -> Report {
        Report {
            base: base & 0xffff,
            time_micros: 1_000_000 + time * 1_000,
            // Long ago: no round trip.
            echoed_send_time: WireClock::new(self.start, BEFORE_WRAP).wire(self.start),
            hold_micros: 10_000_000,
            ce_marks: 0,
            arrivals: arrivals
                .iter()
                .map(|arrival| arrival.map(|millis| 1_000_000 + millis * 1_000))
                .collect(),
            streams: Vec::new(),
        }
    }

    fn hear(&mut self, millis: u64, report: &Report) -> Feedback {
        self.history
            .on_report(self.at(millis), report)
            .expect("a good report")
    }
}

/// Numbers of those that arrived, and of those that are lost.
fn split(outcomes: &[Outcome]) -> (Vec<Sequence>, Vec<Sequence>) {
    let numbers = |arrived: bool| {
        outcomes
            .iter()
            .filter(|outcome| outcome.arrived_micros.is_some() == arrived)
            .map(|outcome| outcome.packet.sequence)
            .collect()
    };
    (numbers(true), numbers(false))
}

#[test]
fn three_later_ones_and_five_milliseconds_make_a_loss() {
    let mut bench = Bench::new(0xffff);
    let base = bench.send(0, 0);
    for millis in 1..5 {
        bench.send(millis, 0);
    }
    // Two later ones, a millisecond ago.
    let report = bench.report(base, 27, &[Some(25), None, Some(26), Some(27)]);
    let feedback = bench.hear(50, &report);
    assert_eq!(
        split(&feedback.outcomes),
        (vec![base, base + 2, base + 3], Vec::<Sequence>::new())
    );
    assert_eq!(bench.history.flying_bytes(), 2_000);
    // Were it to stay at two, it would be lost twice 5 ms after the first of them was seen.
    assert_eq!(bench.history.next_timeout(), Some(bench.at(59)));
    assert!(bench.history.on_timeout(bench.at(58)).is_empty());
    // The third one shortens that: seen for 2 ms at the report, so 3 more are left.
    let report = bench.report(base + 2, 28, &[Some(26), Some(27), Some(28)]);
    assert_eq!(
        split(&bench.hear(51, &report).outcomes),
        (vec![base + 4], Vec::<Sequence>::new())
    );
    assert_eq!(bench.history.next_timeout(), Some(bench.at(54)));
    assert_eq!(
        split(&bench.history.on_timeout(bench.at(54))),
        (vec![], vec![base + 1])
    );
    assert_eq!(bench.history.flying_bytes(), 0);
    assert_eq!(bench.history.next_timeout(), None);
    let stats = bench.history.stats();
    assert_eq!((stats.sent, stats.arrived, stats.lost), (5, 4, 1));
}

#[test]
fn what_comes_too_late_is_said_again_and_teaches_patience() {
    let mut bench = Bench::new(0);
    for millis in 0..8 {
        bench.send(millis, 0);
    }
    let report = bench.report(0, 40, &[Some(25), None, Some(26), Some(27), Some(28)]);
    assert_eq!(
        split(&bench.hear(60, &report).outcomes),
        (vec![0, 2, 3, 4], vec![1])
    );
    // It was 20 ms later than the first that overtook it.
    let report = bench.report(0, 46, &[Some(25), Some(46), Some(26)]);
    let late = bench.hear(66, &report).outcomes;
    assert_eq!(split(&late), (vec![1], Vec::<Sequence>::new()));
    assert_eq!(late[0].arrived_micros, Some(1_046_000));
    assert_eq!(bench.history.stats().late, 1);
    // The same again says nothing.
    assert!(bench.hear(66, &report).outcomes.is_empty());
    // Packet 5 has now been overtaken by three of them... but gets 20 ms and a quarter more.
    for millis in 66..70 {
        bench.send(millis, 0);
    }
    let report = bench.report(6, 95, &[Some(80), Some(80), Some(80), Some(80)]);
    assert_eq!(
        split(&bench.hear(115, &report).outcomes).1,
        Vec::<Sequence>::new()
    );
    // And 40 more, in which a report may say that it has come after all.
    let due = bench.history.next_timeout().expect("it is open");
    assert!(due > bench.at(164) && due <= bench.at(165), "{due:?}");
    // A report that is late enough and does not say so decides.
    let report = bench.report(6, 106, &[Some(80)]);
    assert_eq!(split(&bench.hear(126, &report).outcomes).1, vec![5]);
}

#[test]
fn packets_that_were_never_sent_are_not_believed() {
    let mut bench = Bench::new(0x1_fff0);
    let base = bench.send(0, 0);
    bench.send(1, 0);
    let before = (bench.history.flying_bytes(), bench.history.next_timeout());
    let mut never = |base: Sequence, arrivals: &[Option<u64>]| {
        let report = bench.report(base, 30, arrivals);
        let now = bench.at(50);
        bench
            .history
            .on_report(now, &report)
            .expect_err("never sent")
    };
    assert_eq!(
        never(base, &[Some(25), Some(25), Some(25)]),
        ReportError::NeverSent(0xfff2)
    );
    assert_eq!(
        never(base + 30_000, &[Some(25)]),
        ReportError::NeverSent((base + 30_000) as u16)
    );
    assert_eq!(bench.history.stats().bad_reports, 2);
    assert_eq!(
        (bench.history.flying_bytes(), bench.history.next_timeout()),
        before
    );
    // To speak of later ones as missing is merely strange; of those before our memory, old.
    let report = bench.report(base, 30, &[Some(25), None, None]);
    assert_eq!(bench.hear(50, &report).outcomes.len(), 1);
    let report = bench.report(base - 5, 31, &[Some(20), None]);
    assert!(bench.hear(51, &report).outcomes.is_empty());
    // A number that was skipped was not sent either.
    let skipped = bench.history.next_sequence();
    bench.history.push(SentPacket {
        sequence: skipped + 1,
        sent_at: bench.at(52),
        wire_bytes: 100,
        class: Class::Probe,
        content: Content::Probe { cluster: 1 },
        path_epoch: 0,
    });
    let report = bench.report(skipped, 80, &[Some(78), Some(79)]);
    assert_eq!(
        bench.history.on_report(bench.at(100), &report),
        Err(ReportError::NeverSent(skipped as u16))
    );
}

#[test]
fn the_echo_gives_the_round_trip() {
    let mut bench = Bench::new(0);
    let clock = WireClock::new(bench.start, BEFORE_WRAP);
    for second in 0..10 {
        let sent = second * 1_000;
        let sequence = bench.send(sent, 0);
        let report = Report {
            echoed_send_time: clock.wire(bench.at(sent)),
            hold_micros: 30_000,
            ..bench.report(sequence, sent + 55, &[Some(sent + 25)])
        };
        let feedback = bench.hear(sent + 80, &report);
        assert_eq!(feedback.round_trip, Some(MS * 50));
        // The peer cannot have held it for longer than it has been away.
        let report = Report {
            hold_micros: 90_000,
            ..report
        };
        assert_eq!(bench.hear(sent + 80, &report).round_trip, None);
    }
    assert_eq!(bench.history.round_trip(), Some(MS * 50));
}

#[test]
fn marks_are_counted_across_their_wrap_and_only_by_newer_reports() {
    let mut bench = Bench::new(0);
    let sequence = bench.send(0, 0);
    let mut marks = |time: u64, ce_marks: u8| {
        let mut report = bench.report(sequence, time, &[Some(25)]);
        report.ce_marks = ce_marks;
        bench.hear(time + 25, &report).ce_marks
    };
    assert_eq!(marks(30, 250), 250);
    assert_eq!(marks(40, 4), 10);
    assert_eq!(marks(35, 252), 0);
    assert_eq!(marks(50, 4), 0);
    assert_eq!(bench.history.stats().stale_reports, 1);
}

#[test]
fn on_another_path_packets_may_overtake() {
    let mut bench = Bench::new(0);
    for millis in 0..4 {
        bench.send(millis, 0);
    }
    assert!(
        bench
            .history
            .on_path_switch(bench.at(10), 1, false)
            .is_empty()
    );
    for millis in 10..20 {
        bench.send(millis, 1);
    }
    // The new path is quicker; of the old path's packets nothing has come.
    let arrivals = [vec![None; 4], vec![Some(30); 10]].concat();
    let report = bench.report(0, 60, &arrivals);
    assert_eq!(
        split(&bench.hear(70, &report).outcomes).1,
        Vec::<Sequence>::new()
    );
    assert_eq!(bench.history.next_timeout(), Some(bench.at(310)));
    // But the old path's packets still overtake each other.
    let arrivals = [Some(90), None, Some(90), Some(90)];
    let report = bench.report(0, 98, &arrivals);
    assert_eq!(
        split(&bench.hear(110, &report).outcomes).1,
        Vec::<Sequence>::new()
    );
    // Fewer than three: twice the time.
    assert_eq!(bench.history.next_timeout(), Some(bench.at(112)));
    assert_eq!(split(&bench.history.on_timeout(bench.at(112))).1, vec![1]);
}

#[test]
fn after_the_grace_the_new_path_counts() {
    let mut bench = Bench::new(0);
    bench.send(0, 0);
    bench.history.on_path_switch(bench.at(10), 1, false);
    for millis in 10..14 {
        bench.send(millis, 1);
    }
    let report = bench.report(1, 60, &[Some(30); 4]);
    assert_eq!(
        split(&bench.hear(80, &report).outcomes).1,
        Vec::<Sequence>::new()
    );
    assert!(bench.history.on_timeout(bench.at(309)).is_empty());
    assert_eq!(split(&bench.history.on_timeout(bench.at(310))).1, vec![0]);
}

#[test]
fn what_is_on_a_dead_path_is_lost() {
    let mut bench = Bench::new(0);
    for millis in 0..4 {
        bench.send(millis, 0);
    }
    let report = bench.report(0, 26, &[Some(25)]);
    bench.hear(50, &report);
    assert_eq!(
        split(&bench.history.on_path_switch(bench.at(400), 1, true)),
        (vec![], vec![1, 2, 3])
    );
    assert_eq!(bench.history.flying_bytes(), 0);
}

#[test]
fn the_last_ones_are_lost_without_later_ones() {
    let mut bench = Bench::new(0);
    let clock = WireClock::new(bench.start, BEFORE_WRAP);
    // Rounds enough that the round trip of 50 ms is certain.
    for round in 0..40 {
        let sent = round * 20;
        let sequence = bench.send(sent, 0);
        let report = Report {
            echoed_send_time: clock.wire(bench.at(sent)),
            hold_micros: 0,
            ..bench.report(sequence, sent + 25, &[Some(sent + 25)])
        };
        bench.hear(sent + 50, &report);
    }
    let last = bench.send(1_000, 0);
    let mut hear = |millis: u64| {
        let report = bench.report(last, millis - 25, &[None]);
        let outcomes = bench.hear(millis, &report).outcomes;
        split(&outcomes).1
    };
    assert_eq!(hear(1_149), Vec::<Sequence>::new());
    assert_eq!(hear(1_160), vec![last]);
    // And if no report comes at all, after a second.
    let last = bench.send(2_000, 0);
    assert_eq!(bench.history.next_timeout(), Some(bench.at(3_050)));
    assert!(bench.history.on_timeout(bench.at(3_049)).is_empty());
    assert_eq!(
        split(&bench.history.on_timeout(bench.at(3_050))).1,
        vec![last]
    );
}

#[test]
fn what_is_held_up_is_not_lost() {
    let mut bench = Bench::new(0);
    let clock = WireClock::new(bench.start, BEFORE_WRAP);
    let heard = Report {
        echoed_send_time: clock.wire(bench.at(0)),
        hold_micros: 0,
        ..bench.report(0, 25, &[Some(25)])
    };
    bench.send(0, 0);
    bench.hear(50, &heard);
    // For half a second nothing gets through, while the reports go on.
    let mut arrivals = Vec::new();
    for millis in (60..560).step_by(10) {
        bench.send(millis, 0);
        arrivals.push(Some(560));
        let report = bench.report(1, millis, &[]);
        assert_eq!(
            split(&bench.hear(millis + 25, &report).outcomes).1,
            Vec::<Sequence>::new()
        );
    }
    let report = bench.report(1, 560, &arrivals);
    assert_eq!(split(&bench.hear(585, &report).outcomes).0.len(), 50);
    assert_eq!(bench.history.stats().lost, 0);
}

#[test]
fn memory_is_bounded_and_nothing_is_forgotten_silently() {
    let mut bench = Bench::new(0);
    for _ in 0..3_000 {
        bench.send(1, 0);
    }
    assert!(bench.history.get(951).is_none());
    assert_eq!(
        bench.history.get(952).map(|packet| packet.sequence),
        Some(952)
    );
    assert_eq!(bench.history.next_timeout(), Some(bench.at(1)));
    let told = bench.history.on_timeout(bench.at(2));
    assert_eq!(split(&told).1, (0..952).collect::<Vec<_>>());
    assert_eq!(bench.history.flying_bytes(), 2_048_000);
    // Both at once: some by number, the rest by age.
    bench.send(2, 0);
    let told = bench.history.on_timeout(bench.at(4_003));
    assert_eq!(split(&told).1, (952..3_001).collect::<Vec<_>>());
    assert!(bench.history.get(3_000).is_none());
    assert_eq!(bench.history.flying_bytes(), 0);
}

#[test]
fn frames_get_our_numbers_back() {
    let mut bench = Bench::new(0);
    let sequence = bench.send(0, 0);
    let mut report = bench.report(sequence, 30, &[Some(25)]);
    let said = |stream, last: Option<u64>, missing: Option<u64>| StreamReport {
        stream,
        refresh_wanted: true,
        slow_down: true,
        last_decoded: last,
        first_missing: missing,
        buffer_millis: 40,
    };
    report.streams = vec![
        said(CAMERA, Some(69_999 & 0xffff), Some(70_000 & 0xffff)),
        said(SCREEN, Some(3), None),
        said(AUDIO, None, None),
    ];
    let feedback = bench.hear(50, &report);
    assert_eq!(
        feedback.streams,
        vec![said(CAMERA, Some(69_999), Some(70_000))]
    );
    // A frame that was never sent cannot have been decoded.
    report.time_micros += 1_000;
    report.streams = vec![said(CAMERA, Some(70_001 & 0xffff), None)];
    assert_eq!(
        bench.hear(51, &report).streams,
        vec![said(CAMERA, None, None)]
    );
}

fn header(sequence: u64, send_time: u32) -> Header {
    Header {
        kind: Kind::Probe,
        flags: 0,
        stream: AUDIO,
        sequence: sequence as u16,
        send_time,
        age_millis: 0,
    }
}
