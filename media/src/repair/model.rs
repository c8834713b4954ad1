//! A link in virtual time with the real policy, store, parity and video buffer on its ends: the figures by
//! which the table was chosen, again. Reports are lost like everything else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::parity::Encoder;
use super::testing::{Random, bytes, fragments, info, key};
use super::{Network, Policy, ResendStore};
use crate::history::{Outcome, SentPacket};
use crate::jitter::{VideoBuffer, VideoConfig};
use crate::packet::{Body, Class, Content};
use crate::{CAMERA, FrameNumber};

/// What to model. Times in ms, of which one is a step.
struct Case {
    loss: f64,
    /// Mean packets of a burst.
    burst: f64,
    round_trip: u64,
    fragments: u16,
    frames: u64,
    seed: u64,
}

/// What came of it.
#[derive(Debug)]
struct Figures {
    p50: u64,
    p95: u64,
    p99: u64,
    /// Gaps over 200 ms between frames given to the decoder, a minute.
    gaps_per_minute: f64,
    /// Share of frames given to the decoder.
    decoded: f64,
    /// Of these, share not shown.
    hidden: f64,
    /// Repair packets per picture packet.
    overhead: f64,
}

struct Link {
    case: Case,
    random: Random,
    bad: bool,
    start: Instant,
    /// All packets sent: when, what, when they arrived, and whether the sender knows.
    sent: Vec<(u64, Content, Option<u64>, bool)>,
    /// The first of which the sender does not know.
    unknown: usize,
    /// By time of arrival and number.
    flying: BTreeMap<(u64, usize), Body>,
    /// By time of arrival: when they were written, and whether a refresh is wanted.
    reports: BTreeMap<u64, (u64, bool)>,
    policy: Policy,
    encoder: Encoder,
    store: ResendStore,
    /// By time and order.
    pacer: BTreeMap<(u64, usize), Body>,
    /// The fragments of every frame.
    parts: Vec<Bytes>,
    picture_packets: u64,
    repair_packets: u64,
}

impl Link {
    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Gilbert's two states: all is lost in the bad one.
    fn loses(&mut self) -> bool {
        let (leave, share) = (1.0 / self.case.burst, self.case.loss);
        let enter = share * leave / (1.0 - share);
        self.bad = if self.case.burst <= 1.0 {
            self.random.chance(share)
        } else if self.bad {
            !self.random.chance(leave)
        } else {
            self.random.chance(enter)
        };
        self.bad
    }

    fn send(&mut self, now: u64, body: Option<Body>) {
        let content = body.as_ref().map_or(Content::Report, Body::content);
        let number = self.sent.len();
        if let Some(Body::Parity(parity)) = &body {
            self.store.on_parity_sent(number as u64, parity);
        }
        self.store
            .on_sent(&self.packet(now, number, content.clone()));
        let arrives = now + self.case.round_trip / 2;
        let lost = self.loses();
        self.sent
            .push((now, content, (!lost).then_some(arrives), false));
        if let Some(body) = body
            && !lost
        {
            self.flying.insert((arrives, number), body);
        }
    }

    fn packet(&self, now: u64, number: usize, content: Content) -> SentPacket {
        SentPacket {
            sequence: number as u64,
            sent_at: self.at(now),
            wire_bytes: 1_200,
            class: Class::Video,
            content,
            path_epoch: 0,
        }
    }

    /// What a report written at `written` teaches.
    fn learn(&mut self, written: u64) -> Vec<Outcome> {
        let there = |packet: &(u64, Content, Option<u64>, bool)| {
            packet.2.is_some_and(|arrived| arrived <= written)
        };
        let mut later = 0;
        let mut newest_sent = None;
        let mut outcomes = Vec::new();
        for number in (self.unknown..self.sent.len()).rev() {
            let packet = &self.sent[number];
            let arrived = there(packet);
            let overdue = later >= 3 && newest_sent.is_some_and(|newest| newest >= packet.0 + 5);
            if !packet.3 && (arrived || overdue) {
                outcomes.push(Outcome {
                    packet: self.packet(packet.0, number, packet.1.clone()),
                    arrived_micros: arrived.then_some(written),
                });
                self.sent[number].3 = true;
            }
            if arrived {
                later += 1;
                newest_sent = newest_sent.max(Some(self.sent[number].0));
            }
        }
        while self.sent.get(self.unknown).is_some_and(|packet| packet.3) {
            self.unknown += 1;
        }
        outcomes.reverse();
        outcomes
    }
}

/// Both ends, which know what the link is like.
fn ends(case: Case) -> (Link, VideoBuffer) {
    let start = Instant::now();
    let mut policy = Policy::new();
    let network = Network {
        loss: case.loss,
        mean_burst: case.burst,
        round_trip: Duration::from_millis(case.round_trip),
        burst_span: Duration::ZERO,
        headroom: 1.0,
    };
    policy.update(start, &network);
    let mut buffer = VideoBuffer::new(CAMERA, VideoConfig::default());
    buffer.set_network(network.round_trip, policy.deadline(false));
    let mut store = ResendStore::new();
    store.set_network(network.round_trip, policy.loss());
    let whole = bytes(1, usize::from(case.fragments) * 20);
    let link = Link {
        random: Random(case.seed),
        bad: false,
        start,
        sent: Vec::new(),
        unknown: 0,
        flying: BTreeMap::new(),
        reports: BTreeMap::new(),
        policy,
        encoder: Encoder::new(),
        store,
        pacer: BTreeMap::new(),
        parts: fragments(&whole, case.fragments),
        case,
        picture_packets: 0,
        repair_packets: 0,
    };
    (link, buffer)
}

fn run(case: Case) -> Figures {
    let (mut link, mut buffer) = ends(case);
    let (mut next, mut refresh, mut last_key) = (0, true, 0);
    let mut given: Vec<(u64, FrameNumber)> = Vec::new();
    for now in 0..link.case.frames * 100 / 3 + 1_000 {
        if next < link.case.frames && next * 100 / 3 <= now {
            let wanted = refresh && (next == 0 || now > last_key + 500);
            frame(&mut link, now, next, wanted);
            if wanted {
                (refresh, last_key) = (false, now);
            }
            next += 1;
        }
        let due: Vec<_> = link
            .pacer
            .range(..(now + 1, 0))
            .map(|(&at, _)| at)
            .collect();
        for at in due {
            let body = link.pacer.remove(&at);
            link.send(now, body);
        }
        while let Some(again) = link.store.poll(link.at(now)) {
            link.repair_packets += 1;
            link.send(now, Some(Body::Video(again)));
        }
        if now % 10 == 0 {
            // Sound, and a report in the other direction.
            link.send(now, None);
            if !link.loses() {
                let wanted = buffer.stream_report(link.at(now)).refresh_wanted;
                link.reports
                    .insert(now + link.case.round_trip / 2, (now, wanted));
            }
        }
        if let Some((written, wanted)) = link.reports.remove(&now) {
            refresh |= wanted;
            let outcomes = link.learn(written);
            link.store.on_outcomes(link.at(now), &outcomes);
        }
        receive(&mut link, &mut buffer, &mut given, now);
    }
    figures(&link, &given, buffer.counters().hidden)
}

fn frame(link: &mut Link, now: u64, number: FrameNumber, refresh: bool) {
    let count = link.case.fragments;
    let info = if refresh {
        key(number, count)
    } else {
        info(number, count)
    };
    let plan = link.policy.plan(&info, false);
    let parts = link.parts.clone();
    let parity = link
        .encoder
        .encode(&info, &parts, plan.parity_shards, plan.window_frames);
    let at = link.at(now);
    if refresh {
        link.store.abandon_before(CAMERA, number);
    }
    link.store
        .on_frame(at, &info, parts.clone(), &parity, &plan);
    link.picture_packets += u64::from(count);
    link.repair_packets += parity.len() as u64;
    let bodies: Vec<Body> = (0..count)
        .map(|fragment| {
            Body::Video(crate::packet::VideoBody {
                frame: info,
                fragment,
                attempt: 0,
                data: parts[usize::from(fragment)].clone(),
            })
        })
        .chain(parity.into_iter().map(Body::Parity))
        .collect();
    // The frame leaves within 10 ms.
    let packets = bodies.len();
    for (index, body) in bodies.into_iter().enumerate() {
        link.pacer.insert(
            (
                now + (index * 10 / packets) as u64,
                number as usize * 1_000 + index,
            ),
            body,
        );
    }
}

fn receive(
    link: &mut Link,
    buffer: &mut VideoBuffer,
    given: &mut Vec<(u64, FrameNumber)>,
    now: u64,
) {
    let at = link.at(now);
    while let Some(first) = link.flying.first_entry() {
        if first.key().0 > now {
            break;
        }
        match first.remove() {
            Body::Video(body) => buffer.on_fragment(at, body),
            Body::Parity(body) => buffer.on_parity(at, body),
            _ => {}
        }
    }
    while let Some(complete) = buffer.poll(at) {
        given.push((now, complete.info.number));
        buffer.on_decoded(at, complete.info.number, true, Duration::from_millis(1));
    }
    buffer.handle_timeout(at);
}

fn figures(link: &Link, given: &[(u64, FrameNumber)], hidden: u64) -> Figures {
    let mut latencies: Vec<u64> = given
        .iter()
        .map(|(at, number)| at - number * 100 / 3)
        .collect();
    latencies.sort_unstable();
    let quantile = |share: f64| latencies[(share * (latencies.len() - 1) as f64) as usize];
    let gaps = given
        .windows(2)
        .filter(|pair| pair[1].0 - pair[0].0 > 200)
        .count();
    let frames = link.case.frames as f64;
    let figures = Figures {
        p50: quantile(0.50),
        p95: quantile(0.95),
        p99: quantile(0.99),
        gaps_per_minute: gaps as f64 / (frames / 1_800.0),
        decoded: given.len() as f64 / frames,
        hidden: hidden as f64 / given.len() as f64,
        overhead: link.repair_packets as f64 / link.picture_packets as f64,
    };
    println!(
        "loss {} bursts {} round trip {} k {}: {figures:?} {:?}",
        link.case.loss,
        link.case.burst,
        link.case.round_trip,
        link.case.fragments,
        link.store.counters(),
    );
    figures
}

fn case(loss: f64, burst: f64, round_trip: u64, fragments: u16) -> Case {
    Case {
        loss,
        burst,
        round_trip,
        fragments,
        frames: 900,
        seed: 7,
    }
}

#[test]
fn without_loss_nothing_is_repaired() {
    let clean = run(case(0.0, 1.0, 50, 9));
    assert!(clean.p99 <= 35 && clean.overhead == 0.0, "{clean:?}");
    assert!(clean.decoded == 1.0 && clean.gaps_per_minute == 0.0);
}

#[test]
fn few_percent_of_loss_are_not_seen() {
    let two = run(case(0.02, 1.0, 50, 9));
    assert!(two.p50 <= 36 && two.p95 <= 45 && two.p99 <= 100, "{two:?}");
    let five = run(case(0.05, 1.0, 50, 9));
    assert!(
        five.p50 <= 37 && five.p95 <= 100 && five.overhead < 0.20,
        "{five:?}"
    );
    let ten = run(case(0.10, 1.0, 50, 9));
    assert!(ten.p50 <= 37 && ten.p95 <= 98 && ten.p99 <= 120, "{ten:?}");
    for figures in [two, five, ten] {
        assert!(
            figures.gaps_per_minute == 0.0 && figures.decoded > 0.999,
            "{figures:?}"
        );
        assert!(figures.hidden < 0.01, "{figures:?}");
    }
}

#[test]
fn a_fifth_lost_leaves_a_picture_that_moves() {
    let fifth = run(case(0.20, 1.0, 50, 5));
    assert!(
        fifth.p50 <= 36 && fifth.p95 <= 115 && fifth.p99 <= 150,
        "{fifth:?}"
    );
    assert!(
        fifth.gaps_per_minute <= 2.0 && fifth.decoded > 0.99,
        "{fifth:?}"
    );
    assert!(fifth.overhead < 0.60 && fifth.hidden < 0.04, "{fifth:?}");
}

#[test]
fn bursts_are_left_to_resends() {
    let bursts = run(case(0.05, 5.0, 50, 9));
    assert!(bursts.p50 <= 37 && bursts.p95 <= 120, "{bursts:?}");
    assert!(
        bursts.gaps_per_minute <= 1.0 && bursts.decoded > 0.99,
        "{bursts:?}"
    );
}

#[test]
fn a_long_way_leans_on_parity() {
    let far = run(case(0.20, 1.0, 200, 9));
    assert!(far.p95 <= 200 && far.decoded > 0.97, "{far:?}");
    let bursts = run(case(0.05, 5.0, 150, 9));
    assert!(bursts.p95 <= 250 && bursts.decoded > 0.97, "{bursts:?}");
}
