use super::*;
use crate::repair::parity::Encoder;
use crate::repair::testing::{Random, bytes, fragments, info, key};
use crate::{CAMERA, SCREEN};

const MILLI: Duration = Duration::from_millis(1);

fn buffer() -> VideoBuffer {
    VideoBuffer::new(CAMERA, VideoConfig::default())
}

fn body(info: FrameInfo, data: &[Bytes], fragment: u16) -> VideoBody {
    VideoBody {
        frame: info,
        fragment,
        attempt: 0,
        data: data[usize::from(fragment)].clone(),
    }
}

/// The bytes of a frame, and its fragments.
fn frame(info: &FrameInfo) -> (Bytes, Vec<Bytes>) {
    let whole = bytes(info.number, usize::from(info.fragments) * 1_000 - 3);
    let parts = fragments(&whole, info.fragments);
    (whole, parts)
}

/// All fragments of a frame arrive.
fn put(buffer: &mut VideoBuffer, now: Instant, info: FrameInfo) {
    let (_, parts) = frame(&info);
    for fragment in 0..info.fragments {
        buffer.on_fragment(now, body(info, &parts, fragment));
    }
}

/// Everything that the decoder gets now; it is done with each at once.
fn take(buffer: &mut VideoBuffer, now: Instant) -> Vec<FrameNumber> {
    let mut numbers = Vec::new();
    while let Some(complete) = buffer.poll(now) {
        assert_eq!(complete.data, frame(&complete.info).0);
        numbers.push(complete.info.number);
        buffer.on_decoded(now, complete.info.number, true, MILLI);
    }
    numbers
}

#[test]
fn frames_come_whole_and_in_order() {
    let (mut buffer, now) = (buffer(), Instant::now());
    put(&mut buffer, now, info(2, 2));
    assert!(take(&mut buffer, now).is_empty());
    put(&mut buffer, now, info(1, 3));
    assert!(take(&mut buffer, now).is_empty());
    let (_, parts) = frame(&key(0, 4));
    for fragment in [3, 0, 2] {
        buffer.on_fragment(now, body(key(0, 4), &parts, fragment));
        assert!(take(&mut buffer, now).is_empty());
    }
    buffer.on_fragment(now, body(key(0, 4), &parts, 1));
    assert_eq!(take(&mut buffer, now), [0, 1, 2]);
    let report = buffer.stream_report(now);
    assert_eq!((report.last_decoded, report.first_missing), (Some(2), None));
    assert_eq!(buffer.counters().frames, 3);
    // What comes again is useless.
    buffer.on_fragment(now, body(key(0, 4), &parts, 1));
    assert_eq!(buffer.counters().useless_bytes, parts[1].len() as u64);
    assert!(take(&mut buffer, now).is_empty());
}

#[test]
fn parity_completes_frames() {
    let (mut buffer, now) = (buffer(), Instant::now());
    let mut encoder = Encoder::new();
    let (first, second) = (key(0, 3), info(1, 4));
    let (_, parts) = frame(&first);
    let (_, more) = frame(&second);
    encoder.encode(&first, &parts, 0, 2);
    let parity = encoder.encode(&second, &more, 5, 2);
    buffer.on_fragment(now, body(first, &parts, 1));
    buffer.on_fragment(now, body(second, &more, 3));
    for body in parity.iter().take(4) {
        buffer.on_parity(now, body.clone());
        assert!(take(&mut buffer, now).is_empty());
    }
    buffer.on_parity(now, parity[3].clone());
    assert!(take(&mut buffer, now).is_empty());
    buffer.on_parity(now, parity[4].clone());
    assert_eq!(take(&mut buffer, now), [0, 1]);
    assert_eq!(
        (buffer.counters().by_parity, buffer.counters().malformed),
        (2, 0)
    );
}

#[test]
fn a_frame_of_which_nothing_came_is_restored() {
    let (mut buffer, now) = (buffer(), Instant::now());
    put(&mut buffer, now, key(0, 1));
    assert_eq!(take(&mut buffer, now), [0]);
    let (_, parts) = frame(&info(1, 2));
    for parity in Encoder::new().encode(&info(1, 2), &parts, 2, 1) {
        buffer.on_parity(now, parity);
    }
    assert_eq!(take(&mut buffer, now), [1]);
}

#[test]
fn a_restored_frame_restores_the_next_block() {
    let (mut buffer, now) = (buffer(), Instant::now());
    let mut encoder = Encoder::new();
    let infos = [key(0, 2), info(1, 2), info(2, 2)];
    let parts: Vec<Vec<Bytes>> = infos.iter().map(|info| frame(info).1).collect();
    encoder.encode(&infos[0], &parts[0], 0, 2);
    let second = encoder.encode(&infos[1], &parts[1], 1, 2);
    let third = encoder.encode(&infos[2], &parts[2], 1, 2);
    // One shard over 0 and 1 (one missing), one over 1 and 2 (two missing, one of them the same).
    put(&mut buffer, now, infos[0]);
    buffer.on_fragment(now, body(infos[2], &parts[2], 0));
    buffer.on_parity(now, third[0].clone());
    buffer.on_parity(now, second[0].clone());
    assert_eq!(take(&mut buffer, now), [0]);
    buffer.on_fragment(now, body(infos[1], &parts[1], 0));
    assert_eq!(take(&mut buffer, now), [1, 2]);
}

#[test]
fn nothing_waits_for_a_frame_that_nobody_refers_to() {
    let (mut buffer, now) = (buffer(), Instant::now());
    put(&mut buffer, now, key(0, 1));
    let mut top = info(1, 2);
    (top.discardable, top.layer) = (true, 1);
    let (_, parts) = frame(&top);
    buffer.on_fragment(now, body(top, &parts, 0));
    let mut base = info(2, 1);
    base.reference_distance = 2;
    put(&mut buffer, now, base);
    assert_eq!(take(&mut buffer, now), [0, 2]);
    // Afterwards it is too late for it.
    buffer.on_fragment(now, body(top, &parts, 1));
    assert!(take(&mut buffer, now).is_empty());
    assert_eq!(buffer.counters().abandoned, 1);
    assert!(buffer.counters().useless_bytes >= parts[0].len() as u64);
}

#[test]
fn a_missing_frame_becomes_a_wish_for_a_refresh() {
    let (mut buffer, start) = (buffer(), Instant::now());
    buffer.set_network(50 * MILLI, 250 * MILLI);
    put(&mut buffer, start, key(0, 1));
    assert_eq!(take(&mut buffer, start), [0]);
    assert_eq!(buffer.poll_timeout(), None);
    put(&mut buffer, start, info(2, 1));
    assert!(take(&mut buffer, start).is_empty());
    assert_eq!(buffer.stream_report(start).first_missing, Some(1));
    let due = buffer.poll_timeout().expect("waits for frame 1");
    assert_eq!(due, start + 225 * MILLI);
    assert!(!buffer.handle_timeout(due - MILLI));
    assert!(!buffer.stream_report(due).refresh_wanted);
    assert!(buffer.handle_timeout(due));
    assert!(!buffer.handle_timeout(due), "told once");
    assert!(buffer.stream_report(due).refresh_wanted);
    assert_eq!(buffer.poll_timeout(), None);
    // Late, but useful.
    put(&mut buffer, due, info(1, 1));
    assert_eq!(take(&mut buffer, due), [1, 2]);
    assert!(!buffer.stream_report(due).refresh_wanted);
    assert_eq!(
        (buffer.counters().refreshes, buffer.counters().late_useful),
        (1, 2)
    );
}

#[test]
fn a_frame_under_way_is_not_missing_while_it_makes_progress() {
    let (mut buffer, start) = (buffer(), Instant::now());
    let (_, parts) = frame(&key(0, 20));
    for fragment in 0..19 {
        let now = start + u32::from(fragment) * 40 * MILLI;
        assert!(!buffer.handle_timeout(now));
        buffer.on_fragment(now, body(key(0, 20), &parts, fragment));
    }
    assert!(!buffer.handle_timeout(start + 760 * MILLI));
    assert!(buffer.handle_timeout(start + (18 * 40 + 225) * MILLI));
}

#[test]
fn a_refresh_skips_what_is_missing() {
    let (mut buffer, start) = (buffer(), Instant::now());
    for number in 0..4 {
        put(
            &mut buffer,
            start,
            if number == 0 {
                key(0, 1)
            } else {
                info(number, 1)
            },
        );
    }
    assert_eq!(take(&mut buffer, start), [0, 1, 2, 3]);
    put(&mut buffer, start, info(5, 1));
    // A frame that refers to one that was decoded goes on at once.
    let mut recovery = info(7, 1);
    recovery.reference_distance = 4;
    put(&mut buffer, start, recovery);
    assert_eq!(take(&mut buffer, start), [7]);
    // A key frame waits a moment for what may only have been overtaken.
    put(&mut buffer, start, key(9, 1));
    assert!(take(&mut buffer, start).is_empty());
    assert_eq!(buffer.poll_timeout(), Some(start + KEY_PATIENCE));
    assert_eq!(take(&mut buffer, start + KEY_PATIENCE), [9]);
    put(&mut buffer, start, key(11, 1));
    put(&mut buffer, start, info(10, 1));
    assert_eq!(take(&mut buffer, start), [10, 11]);
}

#[test]
fn a_decoders_error_asks_for_a_refresh_and_undoes_what_followed() {
    let (mut buffer, now) = (buffer(), Instant::now());
    for number in 0..3 {
        put(
            &mut buffer,
            now,
            if number == 0 {
                key(0, 1)
            } else {
                info(number, 1)
            },
        );
    }
    for number in 0..3 {
        assert_eq!(
            buffer.poll(now).map(|frame| frame.info.number),
            Some(number)
        );
    }
    put(&mut buffer, now, info(3, 1));
    assert_eq!(buffer.poll(now), None, "three are out");
    buffer.on_decoded(now, 0, true, MILLI);
    assert!(buffer.on_decoded(now, 1, false, MILLI));
    assert!(!buffer.on_decoded(now, 2, false, MILLI));
    let report = buffer.stream_report(now);
    assert!(report.refresh_wanted);
    assert_eq!(report.last_decoded, Some(0));
    assert_eq!(buffer.poll(now), None, "3 refers to 2, which was refused");
    let mut recovery = info(4, 1);
    recovery.reference_distance = 4;
    put(&mut buffer, now, recovery);
    assert_eq!(take(&mut buffer, now), [4]);
    assert_eq!(buffer.counters().decode_errors, 2);
}

#[test]
fn after_a_hole_only_the_newest_of_many_is_shown() {
    let (mut buffer, start) = (buffer(), Instant::now());
    put(&mut buffer, start, key(0, 1));
    assert_eq!(take(&mut buffer, start), [0]);
    let shown = |buffer: &mut VideoBuffer, now: Instant| {
        let mut shown = Vec::new();
        while let Some(frame) = buffer.poll(now) {
            shown.push(frame.show);
            buffer.on_decoded(now, frame.info.number, true, MILLI);
        }
        shown
    };
    for number in [2, 3, 1] {
        put(&mut buffer, start, info(number, 1));
    }
    assert_eq!(shown(&mut buffer, start), [true; 3]);
    for number in [5, 6, 7, 8, 4] {
        put(&mut buffer, start, info(number, 1));
    }
    assert_eq!(
        shown(&mut buffer, start),
        [false, false, false, false, true]
    );
    assert_eq!(buffer.counters().hidden, 4);
}

#[test]
fn a_slow_decoder_asks_for_less() {
    let (mut buffer, start) = (buffer(), Instant::now());
    put(&mut buffer, start, key(0, 1));
    let mut now = start;
    for number in 1..60_u64 {
        put(&mut buffer, now, info(number, 1));
        while buffer.poll(now).is_some() {}
        // Two frames come in the time that the decoder takes for one.
        if number % 2 == 0 {
            buffer.on_decoded(now, number / 2 - 1, true, 66 * MILLI);
        }
        now += 33 * MILLI;
    }
    assert!(buffer.stream_report(now).slow_down);
    assert!(!buffer.stream_report(now + SLOW_DOWN).slow_down);

    let mut quick = super::tests::buffer();
    for number in 0..60 {
        put(
            &mut quick,
            now,
            if number == 0 {
                key(0, 1)
            } else {
                info(number, 1)
            },
        );
        take(&mut quick, now);
        now += 33 * MILLI;
    }
    assert!(!quick.stream_report(now).slow_down);
}

#[test]
fn contradictions_are_counted_and_change_nothing() {
    let (mut buffer, now) = (buffer(), Instant::now());
    let info = key(0, 4);
    let (_, parts) = frame(&info);
    buffer.on_fragment(now, body(info, &parts, 0));
    buffer.on_fragment(now, body(info, &parts, 3));
    let mut hostile = Vec::new();
    let good = body(info, &parts, 1);
    for change in 0..7 {
        let mut bad = good.clone();
        match change {
            0 => bad.frame.fragments = 5,
            1 => bad.frame.key = false,
            2 => bad.fragment = 4,
            3 => bad.data = bad.data.slice(1..),
            4 => bad.data = Bytes::new(),
            5 => bad.frame.fragments = 0,
            _ => bad.frame.stream = SCREEN,
        }
        hostile.push(bad);
    }
    let count = hostile.len() as u64;
    for bad in hostile {
        buffer.on_fragment(now, bad);
    }
    let mut parity = Encoder::new().encode(&info, &parts, 2, 1);
    parity[0].frames[0].info.time = crate::VideoTime::from_ticks(1);
    parity[1].data_shards = 5;
    for bad in parity {
        buffer.on_parity(now, bad);
    }
    assert_eq!(buffer.counters().malformed, count + 2);
    buffer.on_fragment(now, good);
    buffer.on_fragment(now, body(info, &parts, 2));
    assert_eq!(take(&mut buffer, now), [0]);
}

#[test]
fn frames_bytes_and_blocks_are_bounded() {
    let config = VideoConfig {
        memory_bytes: 100_000,
        ..VideoConfig::default()
    };
    let (mut buffer, now) = (VideoBuffer::new(CAMERA, config), Instant::now());
    let mut encoder = Encoder::new();
    for number in 1..500 {
        let info = info(number, 60);
        let (_, parts) = frame(&info);
        let parity = encoder.encode(&info, &parts, 3, 1);
        for fragment in 0..59 {
            buffer.on_fragment(now, body(info, &parts, fragment));
            assert!(buffer.frames.held().2 <= 100_000);
        }
        // Too little of it is left to restore anything.
        buffer.on_parity(now, parity[0].clone());
        let (frames, blocks, bytes) = buffer.frames.held();
        assert!(frames <= 64 && blocks <= 64 && bytes <= 100_000);
    }
    assert!(take(&mut buffer, now).is_empty());
    assert!(buffer.counters().abandoned > 400);
    // Far ahead: the table starts anew.
    put(&mut buffer, now, key(1 << 40, 1));
    assert_eq!(take(&mut buffer, now + KEY_PATIENCE), [1 << 40]);
    put(&mut buffer, now, key(u64::MAX - 1, 1));
    take(&mut buffer, now + KEY_PATIENCE);
    assert!(buffer.frames.held().0 <= 2);
}

/// Any order, loss and duplication of the packets of a stream with two layers, recovery frames and windows
/// of parity, over a wrap of the numbers on the wire.
fn shuffle(seed: u64) {
    let mut random = Random(seed);
    let (mut buffer, start) = (buffer(), Instant::now());
    let mut encoder = Encoder::new();
    let first = 65_536 - 40;
    let loss = if random.chance(0.2) {
        0.0
    } else {
        random.unit() * 0.4
    };
    let reach = 1 + random.below(120);
    let mut packets = Vec::new();
    for number in first..first + 80 {
        let fragments = 1 + random.below(6) as u16;
        let mut info = info(number, fragments);
        let age = number - first;
        if age == 0 || random.chance(0.03) {
            info = key(number, fragments);
        } else if age > 8 && random.chance(0.05) {
            info.reference_distance = 2 + random.below(6) as u8;
        } else if random.chance(0.3) {
            info.discardable = true;
        }
        let (_, parts) = frame(&info);
        let parity = encoder.encode(
            &info,
            &parts,
            random.below(3) as u16,
            1 + random.below(3) as u8,
        );
        for fragment in 0..fragments {
            packets.push((Some(body(info, &parts, fragment)), None));
        }
        packets.extend(parity.into_iter().map(|parity| (None, Some(parity))));
    }
    let mut schedule: Vec<(usize, usize)> = Vec::new();
    for index in 0..packets.len() {
        let copies = if random.chance(loss) {
            0
        } else {
            1 + usize::from(random.chance(0.2))
        };
        for _ in 0..copies {
            schedule.push((index + random.below(reach), index));
        }
    }
    schedule.sort_unstable();
    let mut given: Vec<FrameNumber> = Vec::new();
    for (at, index) in schedule {
        let now = start + at as u32 * 3 * MILLI;
        match packets[index].clone() {
            (Some(body), _) => buffer.on_fragment(now, body),
            (_, Some(parity)) => buffer.on_parity(now, parity),
            _ => {}
        }
        buffer.handle_timeout(now);
        while let Some(complete) = buffer.poll(now) {
            let info = complete.info;
            assert_eq!(
                complete.data,
                frame(&info).0,
                "frame {} of {seed}",
                info.number
            );
            assert!(
                given.last().is_none_or(|&last| last < info.number),
                "order, {seed}"
            );
            let reference = info.number - u64::from(info.reference_distance);
            assert!(info.key || given.contains(&reference), "reference, {seed}");
            given.push(info.number);
            buffer.on_decoded(now, info.number, true, MILLI);
        }
        let (frames, blocks, bytes) = buffer.frames.held();
        assert!(frames <= 64 && blocks <= 64 && bytes <= 2 << 20);
    }
    assert_eq!(buffer.counters().malformed, 0, "{seed}");
    assert_eq!(buffer.counters().frames, given.len() as u64);
    // One loss may hide all that follows it: nothing here asks for a refresh.
    if loss == 0.0 && reach < 8 {
        assert!(given.len() > 40, "{} frames of {seed}", given.len());
    }
}

/// Packets whose fields are drawn without regard to each other, around one frame number.
fn hostile(seed: u64) {
    let mut random = Random(seed);
    let config = VideoConfig {
        memory_bytes: 50_000,
        ..VideoConfig::default()
    };
    let mut buffer = VideoBuffer::new(CAMERA, config);
    let start = Instant::now();
    let base = [0, 1 << 16, u64::MAX - 100][random.below(3)];
    let mut given = None;
    for step in 0..400 {
        let now = start + step * 5 * MILLI;
        let draw = |random: &mut Random| FrameInfo {
            number: base + random.below(90) as u64,
            time: crate::VideoTime::from_ticks(random.next() >> random.below(64)),
            fragments: random.below(5) as u16,
            key: random.chance(0.2),
            discardable: random.chance(0.2),
            reference_distance: random.below(4) as u8,
            ..info(0, 1)
        };
        if random.chance(0.5) {
            let body = VideoBody {
                frame: draw(&mut random),
                fragment: random.below(5) as u16,
                attempt: random.next() as u8,
                data: bytes(1, random.below(4) * 500),
            };
            buffer.on_fragment(now, body);
        } else {
            let first = draw(&mut random);
            let frames = (0..random.below(4) as u64)
                .map(|ahead| crate::packet::CoveredFrame {
                    info: FrameInfo {
                        number: first.number.saturating_add(ahead),
                        ..if random.chance(0.5) {
                            first
                        } else {
                            draw(&mut random)
                        }
                    },
                    length: random.below(5_000) as u32,
                })
                .collect();
            let body = ParityBody {
                frames,
                first_fragment: random.below(4) as u16,
                data_shards: random.below(12) as u8,
                parity_shards: random.below(4) as u8,
                index: random.below(4) as u8,
                shard: bytes(2, random.below(4) * 500),
            };
            buffer.on_parity(now, body);
        }
        buffer.handle_timeout(now);
        while let Some(complete) = buffer.poll(now) {
            assert!(given < Some(complete.info.number), "order, {seed}");
            given = Some(complete.info.number);
            buffer.on_decoded(now, complete.info.number, random.chance(0.7), MILLI);
        }
        buffer.stream_report(now);
        buffer.poll_timeout();
        let (frames, blocks, held) = buffer.frames.held();
        assert!(frames <= 64 && blocks <= 64 && held <= 50_000, "{seed}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]
    #[test]
    fn any_order_loss_and_duplication_is_survived(seed: u64) {
        shuffle(seed);
    }

    #[test]
    fn packets_that_make_no_sense_are_survived(seed: u64) {
        hostile(seed);
    }
}
