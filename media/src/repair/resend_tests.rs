use super::*;
use crate::packet::Class;
use crate::repair::parity::Encoder;
use crate::repair::testing::{bytes, fragments, info, key};
use crate::{CAMERA, SCREEN};

const MILLI: Duration = Duration::from_millis(1);

fn plan(resend_copies: u8) -> Plan {
    Plan {
        parity_shards: 0,
        window_frames: 1,
        resend_copies,
        later_copies: resend_copies + 1,
        resend_spacing: Duration::ZERO,
        copy_single_after: None,
        deadline: 250 * MILLI,
    }
}

fn packet(sequence: Sequence, sent_at: Instant, content: Content) -> SentPacket {
    SentPacket {
        sequence,
        sent_at,
        wire_bytes: 1_000,
        class: Class::Video,
        content,
        path_epoch: 0,
    }
}

fn video(frame: FrameNumber, fragment: u16, attempt: u8) -> Content {
    Content::Video {
        stream: CAMERA,
        frame,
        fragment,
        attempt,
    }
}

fn outcome(content: Content, arrived: bool) -> Outcome {
    Outcome {
        packet: packet(0, Instant::now(), content),
        arrived_micros: arrived.then_some(1),
    }
}

fn lost(frame: FrameNumber, fragment: u16) -> Outcome {
    outcome(video(frame, fragment, 0), false)
}

fn arrived(frame: FrameNumber, fragment: u16) -> Outcome {
    outcome(video(frame, fragment, 0), true)
}

/// A store with one frame of `k` fragments for each number, protected by `parity` shards each.
fn store(now: Instant, numbers: &[FrameNumber], k: u16, parity: u16, plan: &Plan) -> ResendStore {
    let mut store = ResendStore::new();
    let mut encoder = Encoder::new();
    for &number in numbers {
        let data = fragments(&bytes(number, usize::from(k) * 100), k);
        let info = info(number, k);
        let bodies = encoder.encode(&info, &data, parity, plan.window_frames);
        store.on_frame(now, &info, data, &bodies, plan);
        for (sequence, body) in (number * 100..).zip(&bodies) {
            store.on_parity_sent(sequence, body);
        }
    }
    store
}

fn parity_outcome(sequence: Sequence, frame: FrameNumber, arrived: bool) -> Outcome {
    let content = Content::Parity {
        stream: CAMERA,
        frame,
    };
    Outcome {
        packet: packet(sequence, Instant::now(), content),
        arrived_micros: arrived.then_some(1),
    }
}

fn drain(store: &mut ResendStore, now: Instant) -> Vec<(FrameNumber, u16, u8)> {
    std::iter::from_fn(|| store.poll(now))
        .map(|body| (body.frame.number, body.fragment, body.attempt))
        .collect()
}

#[test]
fn what_is_lost_goes_twice_and_again_until_it_arrives() {
    let start = Instant::now();
    let mut store = store(start, &[1], 3, 0, &plan(2));
    store.on_outcomes(start, &[arrived(1, 0), lost(1, 1)]);
    let later = start + 40 * MILLI;
    assert_eq!(drain(&mut store, later), [(1, 1, 1), (1, 1, 1)]);
    // One of the two may still arrive.
    store.on_outcomes(later, &[lost(1, 1)]);
    assert!(drain(&mut store, later).is_empty());
    store.on_outcomes(later, &[lost(1, 1)]);
    assert_eq!(drain(&mut store, later), [(1, 1, 2); 3]);
    store.on_outcomes(later, &[arrived(1, 1), lost(1, 1)]);
    assert!(drain(&mut store, later).is_empty());
    assert_eq!(store.counters().rounds, [2, 3, 0]);
    assert_eq!(store.counters().bytes, 500);
    assert_eq!(store.poll_timeout(), None);
}

#[test]
fn resends_carry_the_exact_bytes() {
    let start = Instant::now();
    let mut store = store(start, &[1], 3, 0, &plan(1));
    store.on_outcomes(start, &[lost(1, 2)]);
    let body = store.poll(start).expect("due");
    assert_eq!(body.frame, info(1, 3));
    assert_eq!(body.data, fragments(&bytes(1, 300), 3)[2]);
}

#[test]
fn copies_are_spaced_where_losses_come_in_bursts() {
    let start = Instant::now();
    let spaced = Plan {
        resend_spacing: 15 * MILLI,
        ..plan(2)
    };
    let mut store = store(start, &[1], 2, 0, &spaced);
    store.on_outcomes(start, &[lost(1, 0)]);
    assert_eq!(drain(&mut store, start), [(1, 0, 1)]);
    assert_eq!(store.poll_timeout(), Some(start + 15 * MILLI));
    assert!(drain(&mut store, start + 14 * MILLI).is_empty());
    assert_eq!(drain(&mut store, start + 15 * MILLI), [(1, 0, 1)]);
    // A copy that is not needed any more is not sent.
    store.on_outcomes(start + 10 * MILLI, &[lost(1, 1)]);
    assert_eq!(drain(&mut store, start + 16 * MILLI), [(1, 1, 1)]);
    store.on_outcomes(start, &[arrived(1, 0), arrived(1, 1)]);
    assert!(drain(&mut store, start + 100 * MILLI).is_empty());
}

#[test]
fn parity_saves_resends_while_it_is_enough() {
    let start = Instant::now();
    let mut store = store(start, &[1], 5, 2, &plan(2));
    store.on_outcomes(start, &[lost(1, 0), lost(1, 3)]);
    assert!(drain(&mut store, start).is_empty());
    // A third loss is one too many: any one of the three will do, so two different ones go.
    store.on_outcomes(start, &[lost(1, 4)]);
    assert_eq!(drain(&mut store, start), [(1, 0, 1), (1, 3, 1)]);
    // Parity that is lost itself costs another.
    store.on_outcomes(start, &[parity_outcome(100, 1, false)]);
    assert!(drain(&mut store, start).is_empty());
    store.on_outcomes(start, &[parity_outcome(101, 1, false)]);
    assert_eq!(drain(&mut store, start), [(1, 4, 1), (1, 4, 1)]);
    assert!(store.counters().left_to_parity >= 1);
}

#[test]
fn parity_that_nobody_tells_of_is_not_trusted_for_ever() {
    let start = Instant::now();
    let mut store = store(start, &[1], 5, 1, &plan(1));
    store.on_outcomes(start, &[lost(1, 0)]);
    assert!(drain(&mut store, start).is_empty());
    let due = store.poll_timeout().expect("looked at again");
    assert_eq!(due, start + 150 * MILLI);
    assert_eq!(drain(&mut store, due), [(1, 0, 1)]);
}

#[test]
fn a_frame_that_parity_makes_whole_gets_no_more_copies() {
    let start = Instant::now();
    let spaced = Plan {
        resend_spacing: 15 * MILLI,
        ..plan(2)
    };
    let mut store = store(start, &[1], 3, 1, &spaced);
    store.on_outcomes(start, &[lost(1, 0), lost(1, 1), arrived(1, 2)]);
    assert_eq!(drain(&mut store, start), [(1, 0, 1), (1, 1, 1)]);
    store.on_outcomes(start, &[parity_outcome(100, 1, true), arrived(1, 1)]);
    assert!(drain(&mut store, start + 50 * MILLI).is_empty());
}

#[test]
fn a_window_repairs_both_of_its_frames() {
    let start = Instant::now();
    let window = Plan {
        window_frames: 2,
        ..plan(1)
    };
    let mut store = store(start, &[1, 2], 4, 3, &window);
    let gone: Vec<Outcome> = (0..3).map(|fragment| lost(1, fragment)).collect();
    store.on_outcomes(start, &gone);
    assert!(drain(&mut store, start).is_empty());
    // Parity of the second frame counts for the first as well, so a fourth loss is still no harm; but all
    // of them and a fragment of the second are more than three shards.
    store.on_outcomes(start, &[lost(1, 3), lost(2, 0)]);
    let sent = drain(&mut store, start);
    assert!(!sent.is_empty() && sent.len() <= 2, "{sent:?}");
}

#[test]
fn too_late_is_not_sent_but_told() {
    let start = Instant::now();
    let mut store = store(start, &[1, 2], 2, 0, &plan(2));
    store.set_network(100 * MILLI, 0.02);
    let late = start + 199 * MILLI;
    store.on_outcomes(late, &[lost(1, 0)]);
    assert!(drain(&mut store, late).is_empty());
    let failed = Failed {
        stream: CAMERA,
        frame: 1,
    };
    assert_eq!(store.poll_failed(), Some(failed));
    // The next one refers to it, and is no news.
    store.on_outcomes(late, &[lost(2, 0)]);
    assert!(drain(&mut store, late).is_empty());
    assert_eq!(store.poll_failed(), None);
    assert_eq!(store.counters().failed, 1);
    // Unless it arrives after all.
    let all = [(1, 0), (1, 1), (2, 0), (2, 1)];
    store.on_outcomes(late, &all.map(|(frame, fragment)| arrived(frame, fragment)));
    let next = info(3, 1);
    store.on_frame(late, &next, vec![bytes(1, 10)], &[], &plan(1));
    store.on_outcomes(late, &[lost(3, 0)]);
    assert_eq!(drain(&mut store, late), [(3, 0, 1)]);
}

#[test]
fn a_frames_age_counts_from_when_the_pacer_let_it_go() {
    let start = Instant::now();
    let mut store = store(start, &[1], 2, 1, &plan(1));
    let sent = start + 150 * MILLI;
    store.on_sent(&packet(1, sent, video(1, 0, 0)));
    store.on_sent(&packet(2, sent, video(1, 1, 0)));
    let parity = Content::Parity {
        stream: CAMERA,
        frame: 1,
    };
    store.on_sent(&packet(3, sent, parity));
    let data = fragments(&bytes(1, 200), 2);
    let body = Encoder::new().encode(&info(1, 2), &data, 1, 1).remove(0);
    store.on_parity_sent(3, &body);
    let now = start + 290 * MILLI;
    store.on_outcomes(now, &[lost(1, 0)]);
    assert!(drain(&mut store, now).is_empty());
    store.on_outcomes(now, &[lost(1, 1)]);
    assert_eq!(drain(&mut store, now), [(1, 0, 1)]);
}

#[test]
fn key_frames_go_first_then_the_oldest_then_what_nobody_needs() {
    let start = Instant::now();
    let mut store = ResendStore::new();
    let mut top = info(2, 1);
    top.discardable = true;
    for (info, ahead) in [(info(1, 1), 0), (top, 1), (info(3, 1), 2), (key(4, 1), 3)] {
        store.on_frame(
            start + ahead * MILLI,
            &info,
            vec![bytes(1, 50)],
            &[],
            &plan(1),
        );
    }
    let all = [lost(2, 0), lost(3, 0), lost(4, 0), lost(1, 0)];
    store.on_outcomes(start + 4 * MILLI, &all);
    let order: Vec<FrameNumber> = drain(&mut store, start + 4 * MILLI)
        .iter()
        .map(|sent| sent.0)
        .collect();
    assert_eq!(order, [4, 1, 3, 2]);
}

#[test]
fn frames_that_nobody_refers_to_are_let_go_when_much_is_lost() {
    let start = Instant::now();
    let mut store = ResendStore::new();
    store.set_network(50 * MILLI, 0.05);
    let mut top = info(2, 1);
    top.discardable = true;
    store.on_frame(start, &top, vec![bytes(1, 50)], &[], &plan(1));
    store.on_outcomes(start, &[lost(2, 0)]);
    assert!(drain(&mut store, start).is_empty());
    assert_eq!(store.poll_failed(), None);
}

#[test]
fn a_lone_packet_is_copied_and_a_last_one_repeated() {
    let start = Instant::now();
    let copied = Plan {
        copy_single_after: Some(15 * MILLI),
        ..plan(1)
    };
    let mut store = store(start, &[1], 1, 0, &copied);
    assert_eq!(store.poll_timeout(), Some(start + 15 * MILLI));
    assert_eq!(drain(&mut store, start + 15 * MILLI), [(1, 0, 1)]);
    assert_eq!(store.counters().unasked, 1);

    let mut store = super::tests::store(start, &[1, 2], 2, 0, &plan(1));
    store.on_sent(&packet(1, start, video(1, 0, 0)));
    assert_eq!(store.poll_timeout(), None);
    store.on_sent(&packet(2, start, video(1, 1, 0)));
    assert_eq!(store.poll_timeout(), Some(start + 25 * MILLI));
    assert_eq!(drain(&mut store, start + 25 * MILLI), [(1, 1, 1)]);
    // Anything behind it does as well.
    store.on_sent(&packet(3, start, video(2, 1, 0)));
    store.on_sent(&packet(4, start, Content::Report));
    assert_eq!(store.poll_timeout(), None);
}

#[test]
fn what_never_left_is_lost_and_what_was_abandoned_is_forgotten() {
    let start = Instant::now();
    let mut store = store(start, &[1, 2, 3], 2, 0, &plan(1));
    store.on_dropped(start, CAMERA, 2, 1);
    assert_eq!(drain(&mut store, start), [(2, 1, 1)]);
    store.on_outcomes(start, &[lost(1, 0), lost(3, 0)]);
    store.abandon_before(CAMERA, 3);
    store.abandon_before(SCREEN, 9);
    assert_eq!(drain(&mut store, start), [(3, 0, 1)]);
    store.on_outcomes(start, &[lost(2, 0)]);
    assert!(drain(&mut store, start).is_empty());
}

#[test]
fn memory_is_bounded_in_frames_bytes_and_time() {
    let start = Instant::now();
    let mut store = store(start, &(0..1_000).collect::<Vec<_>>(), 2, 1, &plan(1));
    assert!(store.frames.len() <= MAX_FRAMES && store.order.len() <= 2 * MAX_FRAMES);
    assert!(store.blocks.len() <= store.frames.len());
    let big = bytes(1, 1 << 20);
    for number in 1_000..1_020 {
        store.on_frame(start, &info(number, 1), vec![big.clone()], &[], &plan(1));
    }
    assert!(store.bytes <= MAX_BYTES);
    let later = start + MAX_AGE + MILLI;
    store.on_frame(later, &info(2_000, 1), vec![bytes(1, 10)], &[], &plan(1));
    assert_eq!((store.frames.len(), store.bytes), (1, 10));
    assert!(store.blocks.is_empty());
    // Outcomes of what was never sent, or is forgotten, change nothing.
    store.on_outcomes(later, &[lost(1, 0), lost(2_000, 9), lost(1 << 40, 0)]);
    assert!(drain(&mut store, later).is_empty());
}
