//! Both histories against each other over a bad link, and against hostile reports.

use super::received::Ear;
use super::*;

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
