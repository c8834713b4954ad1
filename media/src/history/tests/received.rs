//! What was received, alone.

use super::*;

pub(super) struct Ear {
    start: Instant,
    pub(super) history: ReceiveHistory,
}

impl Ear {
    pub(super) fn new() -> Self {
        let start = Instant::now();
        let mut history = ReceiveHistory::new(WireClock::new(start, BEFORE_WRAP));
        history.set_path(Some(MS * 50), 2_500_000);
        Self { start, history }
    }

    pub(super) fn at(&self, millis: u64) -> Instant {
        self.start + MS * millis as u32
    }

    pub(super) fn hear(&mut self, millis: u64, sequence: u64) -> Option<Sequence> {
        self.history.on_packet(
            self.at(millis),
            &header(sequence, sequence as u32 & 0xff_ffff),
        )
    }

    pub(super) fn report(&mut self, millis: u64, sequence: Sequence) -> Report {
        self.history
            .build_report(self.at(millis), sequence, true, 1_162, &[])
            .expect("something came")
    }

    pub(super) fn heard(&mut self, sequence: Sequence) {
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
