//! Both histories, alone against tables and hostile input, and against each other over a bad link.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::packet::{Body, Header, Kind, Receiver, Report, WireClock, Writer, parse};
use crate::{AUDIO, CAMERA, SCREEN};

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

struct Ear {
    start: Instant,
    history: ReceiveHistory,
}

impl Ear {
    fn new() -> Self {
        let start = Instant::now();
        let mut history = ReceiveHistory::new(WireClock::new(start, BEFORE_WRAP));
        history.set_path(Some(MS * 50), 2_500_000);
        Self { start, history }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + MS * millis as u32
    }

    fn hear(&mut self, millis: u64, sequence: u64) -> Option<Sequence> {
        self.history.on_packet(
            self.at(millis),
            &header(sequence, sequence as u32 & 0xff_ffff),
        )
    }

    fn report(&mut self, millis: u64, sequence: Sequence) -> Report {
        self.history
            .build_report(self.at(millis), sequence, true, 1_162, &[])
            .expect("something came")
    }

    fn heard(&mut self, sequence: Sequence) {
        let packet = SentPacket {
            sequence,
            sent_at: self.start,
            wire_bytes: 100,
            class: Class::Audio,
            content: Content::Report,
            path_epoch: 0,
        };
        self.history.on_outcomes(&[Outcome {
            packet,
            arrived_micros: Some(1),
        }]);
    }
}

#[test]
fn a_report_says_what_came_and_when() {
    let mut ear = Ear::new();
    assert!(!ear.history.report_due(ear.at(0), true));
    assert_eq!(ear.history.next_report(ear.at(0)), None);
    for (millis, sequence) in [(0, 0xfffe), (3, 0x1_0001), (4, 0xffff), (4, 0x1_0001)] {
        ear.hear(millis, sequence);
    }
    let report = ear.report(10, 1);
    let micros = |millis: u64| BEFORE_WRAP + millis * 1_000;
    assert_eq!(report.base as u16, 0xfffe);
    assert_eq!(
        report.arrivals,
        vec![Some(micros(0)), Some(micros(4)), None, Some(micros(3))]
    );
    assert_eq!(report.time_micros, micros(10));
    // The newest is the one with the highest number.
    assert_eq!(
        (report.echoed_send_time, report.hold_micros),
        (0x1_0001, 7_000)
    );
    let stats = ear.history.stats();
    assert_eq!(
        (
            stats.received,
            stats.expected,
            stats.duplicates,
            stats.reports
        ),
        (3, 4, 1, 1)
    );
}

#[test]
fn arrivals_are_the_same_in_every_report() {
    let mut ear = Ear::new();
    let odd = Duration::from_micros(7_123);
    ear.history
        .on_packet(ear.start + odd, &header(5, 5))
        .expect("new");
    let first = ear.report(8, 1);
    ear.history
        .on_packet(ear.start + odd + odd, &header(6, 6))
        .expect("new");
    let second = ear
        .history
        .build_report(ear.start + odd * 3, 2, false, 1_162, &[])
        .expect("something came");
    assert_eq!(first.arrivals[0], second.arrivals[0]);
    assert_eq!(first.arrivals[0], Some(BEFORE_WRAP + 7_000));
    assert!(second.time_micros.is_multiple_of(500));
    assert!(second.time_micros >= BEFORE_WRAP + 21_369);
}

#[test]
fn each_arrival_is_in_three_reports_and_in_all_until_one_is_known_to_have_come() {
    let mut ear = Ear::new();
    ear.hear(0, 10);
    for at in 1..=6 {
        ear.hear(at * 20 - 1, 10 + at);
        let report = ear.report(at * 20, at);
        // None of them is known to have come: everything, always.
        assert_eq!(report.arrivals.len() as u64, at + 1);
    }
    ear.heard(5);
    // Report 5 told of packets up to 15; they stay until they were in three.
    ear.hear(139, 17);
    let report = ear.report(140, 7);
    assert_eq!(report.base as u16, 15);
    ear.heard(7);
    let bases: Vec<_> = (8..12)
        .map(|at| ear.report(at * 20, at).base as u16)
        .collect();
    assert_eq!(bases, [16, 17, 18, 18]);
}

#[test]
fn a_hole_hurries_the_report() {
    let mut ear = Ear::new();
    ear.hear(0, 0);
    assert!(ear.history.report_due(ear.at(0), false));
    ear.report(0, 0);
    // Three packets behind a hole within a millisecond.
    for sequence in [2, 3, 4] {
        ear.hear(6, sequence);
    }
    assert_eq!(ear.history.next_report(ear.at(6)), Some(ear.at(6)));
    ear.report(6, 1);
    assert_eq!(ear.history.stats().urgent_reports, 1);
    // That hole has been told; the next one waits 5 ms for what was only overtaken.
    ear.hear(12, 6);
    assert_eq!(ear.history.next_report(ear.at(12)), Some(ear.at(17)));
    ear.hear(13, 5);
    assert!(ear.history.next_report(ear.at(13)) > Some(ear.at(17)));
    // A report before the hole is old enough does not make it forgotten.
    ear.hear(20, 8);
    ear.report(22, 2);
    assert_eq!(ear.history.next_report(ear.at(22)), Some(ear.at(27)));
    // After a change of path overtaken packets are no hurry.
    ear.history.on_path_mark(ear.at(23), 1);
    ear.history.on_path_mark(ear.at(43), 1);
    assert!(ear.history.next_report(ear.at(43)) > Some(ear.at(27)));
    ear.history.on_late_frame(ear.at(30));
    assert_eq!(ear.history.next_report(ear.at(30)), Some(ear.at(30)));
}

#[test]
fn what_does_not_fit_is_the_oldest() {
    let mut ear = Ear::new();
    for sequence in 0..1_000 {
        // Each second one is missing, and the deltas are long now and then.
        if sequence % 2 == 0 {
            ear.hear(sequence * 3 / 2 + (sequence % 7) * 9, sequence);
        }
    }
    let now = ear.at(1_700);
    let whole = ear
        .history
        .build_report(now, 1, false, 1_162, &[])
        .expect("something came");
    assert_eq!(whole.arrivals.len(), 511);
    assert_eq!(whole.base as u16, 488);
    let mut writer = Writer::new(WireClock::new(ear.start, 0));
    for most in [29, 30, 31, 33, 60, 100, 200, 300] {
        let cut = ear
            .history
            .build_report(now, most as u64, false, most, &[])
            .expect("even an empty one fits");
        let packet = writer
            .write(now, 0, MS, &Body::Report(cut.clone()))
            .expect("possible");
        assert!(packet.len() <= most, "{} of {most}", packet.len());
        assert!(
            most < 40 || packet.len() + 8 > most,
            "{} of {most}",
            packet.len()
        );
        assert_eq!(
            cut.arrivals[..],
            whole.arrivals[whole.arrivals.len() - cut.arrivals.len()..]
        );
    }
    assert_eq!(ear.history.build_report(now, 999, false, 20, &[]), None);
}

#[test]
fn silence_ends_the_reports() {
    let mut ear = Ear::new();
    ear.hear(0, 0);
    ear.report(0, 0);
    // Said again at leisure, until it is known or too old to matter.
    assert_eq!(ear.history.next_report(ear.at(1)), Some(ear.at(100)));
    assert_eq!(ear.history.next_report(ear.at(4_001)), None);
    ear.heard(0);
    ear.hear(1, 1);
    ear.report(30, 1);
    ear.heard(1);
    assert_eq!(ear.history.next_report(ear.at(31)), None);
}

/// One end of a call: packets out, packets in, reports both ways.
struct End {
    writer: Writer,
    sent: SentHistory,
    received: ReceiveHistory,
    receiver: Receiver,
    path: u32,
    /// When it stops to send anything but reports.
    ends: Instant,
    /// Of each packet: how often it was said to have arrived, and to be lost, and when first to be lost.
    said: HashMap<Sequence, (u32, u32, Option<Instant>)>,
}

impl End {
    fn new(start: Instant, micros: u64, first: Sequence) -> Self {
        let clock = WireClock::new(start, micros);
        let mut received = ReceiveHistory::new(clock);
        received.set_path(Some(MS * 50), 2_500_000);
        Self {
            writer: Writer::new(clock),
            sent: SentHistory::new(clock, first),
            received,
            receiver: Receiver::default(),
            path: 0,
            ends: start + Duration::from_secs(12),
            said: HashMap::new(),
        }
    }

    fn send(&mut self, now: Instant, body: &Body) -> Bytes {
        let sequence = self.sent.next_sequence();
        let packet = self
            .writer
            .write(now, sequence, MS, body)
            .expect("possible");
        self.sent.push(SentPacket {
            sequence,
            sent_at: now,
            wire_bytes: packet.len() as u32 + 58,
            class: body.class(),
            content: body.content(),
            path_epoch: self.path,
        });
        packet
    }

    fn switch(&mut self, now: Instant, epoch: u32) -> Bytes {
        self.path = epoch;
        let outcomes = self.sent.on_path_switch(now, epoch, false);
        self.learn(now, outcomes);
        self.send(
            now,
            &Body::PathMark {
                epoch: epoch as u8,
                reason: 0,
            },
        )
    }

    fn report(&mut self, now: Instant, with_audio: bool) -> Option<Bytes> {
        if !self.received.report_due(now, with_audio) {
            return None;
        }
        let sequence = self.sent.next_sequence();
        let report = self
            .received
            .build_report(now, sequence, with_audio, 1_162, &[])?;
        Some(self.send(now, &Body::Report(report)))
    }

    fn receive(&mut self, now: Instant, packet: &Bytes) {
        let (header, raw) = parse(packet).expect("ours");
        if self.received.on_packet(now, &header).is_none() {
            return;
        }
        let packet = self.receiver.complete(&header, raw).expect("no stream");
        match packet.body {
            Body::Report(report) => {
                let feedback = self.sent.on_report(now, &report).expect("honest");
                self.learn(now, feedback.outcomes);
            }
            Body::PathMark { epoch, .. } => self.received.on_path_mark(now, epoch),
            _ => {}
        }
    }

    fn learn(&mut self, now: Instant, outcomes: Vec<Outcome>) {
        self.received.on_outcomes(&outcomes);
        for outcome in outcomes {
            let said = self.said.entry(outcome.packet.sequence).or_default();
            if outcome.arrived_micros.is_some() {
                said.0 += 1;
            } else {
                said.1 += 1;
                said.2 = said.2.or(Some(now));
            }
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        if self.sent.next_timeout().is_some_and(|due| due <= now) {
            let outcomes = self.sent.on_timeout(now);
            self.learn(now, outcomes);
        }
    }
}

/// What happened to packets on the way from one end.
#[derive(Default)]
struct Truth {
    lost: HashMap<Sequence, Instant>,
    arrived: HashMap<Sequence, Instant>,
}

struct Link {
    loss_percent: u64,
    jitter_millis: u64,
    duplicates: bool,
    /// Both ends change to a path of this delay, ms, after six seconds.
    other_millis: Option<u64>,
}

/// A small generator, good enough to draw losses.
fn draw(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Twelve seconds of a call over 25 ms each way.
fn call(link: &Link, seed: u64) -> ([End; 2], [Truth; 2], usize) {
    let start = Instant::now();
    let mut ends = [
        End::new(start, BEFORE_WRAP, (1 << 16) - 1_500),
        End::new(start, BEFORE_WRAP + 12_345, (1 << 16) - 800),
    ];
    let mut truths = [Truth::default(), Truth::default()];
    let (mut way, mut order) = (BTreeMap::new(), 0u64);
    let (mut state, mut report_bytes) = (seed, 0);
    for milli in 0..13_000u64 {
        let now = start + MS * milli as u32;
        let sending = milli < 12_000;
        for from in 0..2 {
            let mut packets = Vec::new();
            if milli == 6_000 && link.other_millis.is_some() {
                packets.push(ends[from].switch(now, 1));
            }
            let with_audio = sending && milli % 10 == 3 * from as u64;
            if with_audio {
                let body = Body::Probe {
                    cluster: 0,
                    padding: 80,
                };
                packets.push(ends[from].send(now, &body));
            }
            // A frame of nine packets, two in a millisecond.
            if sending && milli % 33 < 5 {
                for _ in 0..2 {
                    let body = Body::Probe {
                        cluster: 1,
                        padding: 1_000,
                    };
                    packets.push(ends[from].send(now, &body));
                }
            }
            if let Some(report) = ends[from].report(now, with_audio) {
                report_bytes += report.len() + if with_audio { 0 } else { 58 };
                packets.push(report);
            }
            ends[from].on_timeout(now);
            let first = ends[from].sent.next_sequence() - packets.len() as u64;
            for (sequence, packet) in (first..).zip(packets) {
                if draw(&mut state) % 100 < link.loss_percent {
                    truths[from].lost.insert(sequence, now);
                    continue;
                }
                let mut delay = link.other_millis.filter(|_| milli >= 6_000).unwrap_or(25);
                if link.jitter_millis > 0 {
                    delay += draw(&mut state) % link.jitter_millis;
                }
                if link.duplicates && draw(&mut state).is_multiple_of(10) {
                    way.insert((milli + delay + 7, order), (1 - from, packet.clone()));
                    order += 1;
                }
                truths[from].arrived.insert(sequence, now);
                way.insert((milli + delay, order), (1 - from, packet));
                order += 1;
            }
        }
        while let Some(((due, _), _)) = way.first_key_value()
            && *due <= milli
        {
            if let Some((_, (to, packet))) = way.pop_first() {
                ends[to].receive(now, &packet);
            }
        }
    }
    (ends, truths, report_bytes)
}

#[test]
fn every_fate_becomes_known_over_a_link_that_loses_a_fifth() {
    for loss_percent in [0, 2, 20] {
        let link = Link {
            loss_percent,
            jitter_millis: 0,
            duplicates: true,
            other_millis: None,
        };
        let (ends, truths, report_bytes) = call(&link, 7 + loss_percent);
        for (end, truth) in ends.iter().zip(&truths) {
            let (mut unknown, mut slow) = (0, 0);
            for sequence in truth.arrived.keys() {
                let said = end.said.get(sequence).copied().unwrap_or_default();
                assert!(said.0 <= 1 && said.1 <= 1, "{sequence}: {said:?}");
                unknown += usize::from(said.0 == 0);
                // Without reordering nothing that arrives is taken for lost, unless no report on it came.
                assert!(said.1 == 0 || loss_percent > 0, "{sequence}: {said:?}");
            }
            for (sequence, sent_at) in truth.lost.iter().filter(|lost| *lost.1 < end.ends) {
                let said = end.said.get(sequence).copied().unwrap_or_default();
                assert_eq!(said.0, 0, "{sequence}");
                let lost_at = said.2.unwrap_or_else(|| panic!("{sequence} is open"));
                slow += usize::from(lost_at - *sent_at > MS * 120);
            }
            let (all, lost) = (truth.arrived.len(), truth.lost.len());
            // The last reports of all are not answered.
            assert!(
                unknown * 500 <= all,
                "{unknown} of {all} at {loss_percent} %"
            );
            assert!(slow * 20 <= lost, "{slow} of {lost} at {loss_percent} %");
            let late = end.sent.stats().late as usize;
            assert!(
                late * 100 <= all,
                "{late} late of {all} at {loss_percent} %"
            );
            assert_eq!(end.sent.stats().bad_reports, 0);
            assert_eq!(end.sent.round_trip().map(|rtt| rtt.as_millis()), Some(50));
        }
        // Within 3 % of 2.5 Mbit/s, each way, and a few at the end.
        let limit = 2 * 12 * 2_500_000 * 3 / 100 / 8;
        assert!(
            report_bytes <= limit * 102 / 100,
            "{report_bytes} of {limit}"
        );
    }
}

#[test]
fn reordering_is_soon_no_loss() {
    let link = Link {
        loss_percent: 0,
        jitter_millis: 30,
        duplicates: false,
        other_millis: None,
    };
    let (ends, truths, _) = call(&link, 3);
    for (end, truth) in ends.iter().zip(&truths) {
        let all = truth.arrived.len();
        let wrong = end.said.values().filter(|said| said.1 > 0).count();
        // 30 ms of jitter turn most of the order around.
        assert!(wrong * 25 <= all, "{wrong} of {all} taken for lost");
    }
}

#[test]
fn a_change_of_path_is_no_loss() {
    for other_millis in [5, 200] {
        let link = Link {
            loss_percent: 0,
            jitter_millis: 0,
            duplicates: false,
            other_millis: Some(other_millis),
        };
        let (ends, truths, _) = call(&link, 5);
        for (end, truth) in ends.iter().zip(&truths) {
            let stats = end.sent.stats();
            assert_eq!(stats.lost, 0, "to {other_millis} ms");
            assert!(stats.arrived * 100 >= truth.arrived.len() as u64 * 98);
            let round_trip = end.sent.round_trip().map(|trip| trip.as_millis() as u64);
            assert_eq!(round_trip, Some(2 * other_millis));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    Wait(u16),
    Report {
        base: u16,
        time: u32,
        echo: u32,
        hold: u16,
        arrivals: Vec<Option<i32>>,
    },
    Switch(u32, bool),
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u8..100).prop_map(Step::Send),
        2 => (0u16..1_500).prop_map(Step::Wait),
        4 => (
            prop_oneof![any::<u16>(), 65_500u16..65_535, 0u16..400],
            any::<u32>(),
            any::<u32>(),
            any::<u16>(),
            prop::collection::vec(prop::option::of(any::<i32>()), 0..60),
        )
            .prop_map(|(base, time, echo, hold, arrivals)| Step::Report {
                base, time, echo: echo & 0xff_ffff, hold, arrivals,
            }),
        1 => (0u32..3, any::<bool>()).prop_map(|(epoch, dead)| Step::Switch(epoch, dead)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_report_confuses_the_books(steps in prop::collection::vec(a_step(), 1..60)) {
        let mut bench = Bench::new((1 << 16) - 40);
        let (mut millis, mut epoch) = (0u64, 0);
        let mut said = HashMap::<Sequence, (u32, u32)>::new();
        for step in steps {
            let outcomes = match step {
                Step::Send(count) => {
                    for _ in 0..count {
                        bench.send(millis, epoch);
                    }
                    Vec::new()
                }
                Step::Wait(wait) => {
                    millis += u64::from(wait);
                    bench.history.on_timeout(bench.at(millis))
                }
                Step::Report { base, time, echo, hold, arrivals } => {
                    let time_micros = u64::from(time) * 500;
                    let report = Report {
                        base: u64::from(base),
                        time_micros,
                        echoed_send_time: echo,
                        hold_micros: u64::from(hold) * 250,
                        ce_marks: hold as u8,
                        arrivals: arrivals.iter().map(|steps| steps.map(|steps| {
                            time_micros.saturating_add_signed(i64::from(steps))
                        })).collect(),
                        streams: Vec::new(),
                    };
                    match bench.history.on_report(bench.at(millis), &report) {
                        Ok(feedback) => feedback.outcomes,
                        Err(ReportError::NeverSent(_)) => Vec::new(),
                    }
                }
                Step::Switch(to, dead) => {
                    epoch = to;
                    bench.history.on_path_switch(bench.at(millis), to, dead)
                }
            };
            prop_assert!(outcomes.is_sorted_by_key(|outcome| outcome.packet.sequence));
            for outcome in outcomes {
                let sequence = outcome.packet.sequence;
                prop_assert!(sequence < bench.history.next_sequence());
                let said = said.entry(sequence).or_default();
                if outcome.arrived_micros.is_some() { said.0 += 1 } else { said.1 += 1 }
                // Arrived once, lost once, and never lost after it has arrived.
                prop_assert!(said.0 <= 1 && said.1 <= 1);
                prop_assert!(outcome.arrived_micros.is_some() || said.0 == 0);
            }
            let stats = *bench.history.stats();
            let known = said.values().filter(|said| said.0 + said.1 > 0).count() as u64;
            prop_assert_eq!(bench.history.flying_bytes(), (stats.sent - known) * 1_000);
            prop_assert_eq!(bench.history.next_timeout().is_some(), stats.sent > known);
            prop_assert_eq!(stats.arrived + stats.lost - stats.late, known);
        }
        millis += 5_000;
        bench.history.on_timeout(bench.at(millis));
        prop_assert_eq!(bench.history.flying_bytes(), 0);
    }

    #[test]
    fn any_order_of_arrival_is_reported_truly(
        steps in prop::collection::vec((0u64..40, 0u64..30, 0u64..9), 1..300),
    ) {
        let mut ear = Ear::new();
        let (mut newest, mut millis) = ((1u64 << 16) - 100, 0);
        let mut arrived = HashMap::<u16, u64>::new();
        for (number, (ahead, back, wait)) in (0u64..).zip(steps) {
            millis += wait;
            let sequence = newest + ahead - back;
            newest = newest.max(sequence);
            let new = ear.hear(millis, sequence).is_some();
            prop_assert_eq!(new, !arrived.contains_key(&(sequence as u16)));
            if new {
                arrived.insert(sequence as u16, BEFORE_WRAP + millis * 1_000);
            }
            if wait == 0 {
                let report = ear.report(millis, number);
                prop_assert!(report.arrivals.len() <= 512);
                for (at, arrival) in (0u64..).zip(&report.arrivals) {
                    let wire = (report.base + at) as u16;
                    prop_assert_eq!(*arrival, arrived.get(&wire).copied());
                }
            }
        }
    }
}
