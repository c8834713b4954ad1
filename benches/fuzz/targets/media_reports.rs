//! Both ends of the bookkeeping of a call: packets are sent, some arrive, and reports come back that are
//! true, or changed, or made up. The books stay right whatever they say.
#![no_main]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use media::history::{Outcome, ReceiveHistory, ReportError, SentHistory, SentPacket};
use media::packet::{
    Body, Class, Content, Header, Kind, Receiver, Report, StreamReport, WireClock, Writer, parse,
};
use media::{AUDIO, CAMERA, Sequence};

/// The operations, one behind the other; whatever is missing at the end is zero.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.short()) << 16 | u32::from(self.short())
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

struct World {
    now: Instant,
    clock: WireClock,
    sent: SentHistory,
    received: ReceiveHistory,
    receiver: Receiver,
    writer: Writer,
    path: u32,
    outcomes: Vec<Outcome>,
    /// Of each packet: how often it was said to have arrived, and to be lost.
    said: HashMap<Sequence, (u8, u8)>,
    reports: u64,
}

impl World {
    fn new(first: u16) -> Self {
        let now = Instant::now();
        let clock = WireClock::new(now, (1 << 26) - 5_000_000);
        Self {
            now,
            clock,
            sent: SentHistory::new(clock, u64::from(first)),
            received: ReceiveHistory::new(clock),
            receiver: Receiver::default(),
            writer: Writer::new(clock),
            path: 0,
            outcomes: Vec::new(),
            said: HashMap::new(),
            reports: 0,
        }
    }

    fn send(&mut self, count: u8, arriving: u8) {
        for at in 0..count % 64 {
            let sequence = self.sent.next_sequence();
            self.sent.push(SentPacket {
                sequence,
                sent_at: self.now,
                wire_bytes: 1_000,
                class: Class::Video,
                content: Content::Video {
                    stream: CAMERA,
                    frame: sequence,
                    fragment: 0,
                    attempt: 0,
                },
                path_epoch: self.path,
            });
            if arriving >> (at % 8) & 1 != 0 {
                self.arrive(sequence as u16, self.clock.wire(self.now));
            }
        }
    }

    fn arrive(&mut self, sequence: u16, send_time: u32) {
        let header = Header {
            kind: Kind::Video,
            flags: 0,
            stream: CAMERA,
            sequence,
            send_time: send_time & 0xff_ffff,
            age_millis: 0,
        };
        let due = self.received.next_report(self.now);
        if self.received.on_packet(self.now, &header).is_some() {
            assert!(due.is_none() || self.received.next_report(self.now).is_some());
        }
    }

    /// What the receiver says, within what it may say.
    fn report(&mut self, most: usize, with_audio: bool, refresh: bool) -> Option<Report> {
        let streams = [StreamReport {
            stream: CAMERA,
            refresh_wanted: refresh,
            slow_down: false,
            last_decoded: Some(3),
            first_missing: None,
            buffer_millis: 9,
        }];
        self.reports += 1;
        let report = self.received.build_report(
            self.now,
            self.reports,
            with_audio,
            most,
            &streams[..usize::from(refresh)],
        )?;
        let body = Body::Report(report.clone());
        let packet = self
            .writer
            .write(self.now, self.reports, Duration::ZERO, &body)
            .expect("it makes only what can be written");
        assert!(packet.len() <= most);
        Some(report)
    }

    fn hear(&mut self, report: &Report) {
        match self.sent.on_report(self.now, report) {
            Ok(feedback) => self.learn(feedback.outcomes),
            Err(ReportError::NeverSent(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn learn(&mut self, outcomes: Vec<Outcome>) {
        assert!(outcomes.is_sorted_by_key(|outcome| outcome.packet.sequence));
        for outcome in &outcomes {
            let said = self.said.entry(outcome.packet.sequence).or_default();
            if outcome.arrived_micros.is_some() {
                said.0 += 1;
            } else {
                assert_eq!(said.0, 0, "lost after it had arrived");
                said.1 += 1;
            }
            assert!(said.0 <= 1 && said.1 <= 1, "{said:?}");
        }
        self.outcomes = outcomes;
        let open = self.sent.stats().sent - self.said.len() as u64;
        assert_eq!(self.sent.flying_bytes(), open * 1_000);
        assert_eq!(self.sent.next_timeout().is_some(), open > 0);
    }

    fn step(&mut self, script: &mut Script<'_>) {
        if self.sent.next_timeout().is_some_and(|due| due <= self.now) {
            let lost = self.sent.on_timeout(self.now);
            self.learn(lost);
        }
        match script.byte() % 9 {
            0 => self.send(script.byte(), script.byte()),
            1 => {
                self.now += Duration::from_micros(u64::from(script.short()) * 100);
                let lost = self.sent.on_timeout(self.now);
                self.learn(lost);
            }
            // True.
            2 => {
                if let Some(report) = self.report(1_162, script.byte() & 1 != 0, false) {
                    self.hear(&report);
                }
            }
            // Changed.
            3 => {
                let Some(mut report) = self.report(1_162, false, true) else {
                    return;
                };
                match script.byte() % 6 {
                    0 => report.base ^= u64::from(script.short()),
                    1 => report.time_micros = u64::from(script.long()) << (script.byte() % 32),
                    2 => report.echoed_send_time = script.long() & 0xff_ffff,
                    3 => report.hold_micros = u64::from(script.long()) * 250,
                    4 => report
                        .arrivals
                        .resize(usize::from(script.short() % 513), Some(0)),
                    _ => report.streams[0].last_decoded = Some(u64::from(script.short())),
                }
                self.hear(&report);
            }
            // Made up.
            4 => {
                let len = usize::from(script.short() % 1_200);
                let bytes = [&[3 << 3, 0, 0, 0, 0, 0, 0, 0], script.bytes(len)].concat();
                if let Ok((header, raw)) = parse(&bytes.into())
                    && let Ok(packet) = self.receiver.complete(&header, raw)
                    && let Body::Report(report) = packet.body
                {
                    self.hear(&report);
                }
            }
            5 => self.arrive(script.short(), script.long()),
            6 => {
                self.path = u32::from(script.byte() % 4);
                let dead = script.byte() & 1 != 0;
                let lost = self.sent.on_path_switch(self.now, self.path, dead);
                self.learn(lost);
                self.received.on_path_mark(self.now, self.path as u8);
            }
            7 => {
                let round_trip = Duration::from_millis(u64::from(script.short()));
                let estimate = u64::from(script.long()) << (script.byte() % 33);
                self.received.set_path(Some(round_trip), estimate);
                self.received.on_late_frame(self.now);
                let most = usize::from(script.short() % 1_200);
                if self.received.report_due(self.now, true) {
                    self.report(most, true, script.byte() & 1 != 0);
                }
            }
            // Which of our own packets arrived.
            _ => {
                let outcomes = [Outcome {
                    packet: SentPacket {
                        sequence: u64::from(script.byte()),
                        sent_at: self.now,
                        wire_bytes: 0,
                        class: Class::Audio,
                        content: Content::Audio {
                            number: u64::from(AUDIO.0),
                        },
                        path_epoch: 0,
                    },
                    arrived_micros: Some(0),
                }];
                self.received.on_outcomes(&outcomes);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut script = Script(bytes);
    let mut world = World::new(script.short());
    for _ in 0..500 {
        if script.0.is_empty() {
            break;
        }
        world.step(&mut script);
    }
    // In the end every fate is known.
    world.now += Duration::from_secs(6);
    let lost = world.sent.on_timeout(world.now);
    world.learn(lost);
    assert_eq!(world.sent.flying_bytes(), 0);
});
