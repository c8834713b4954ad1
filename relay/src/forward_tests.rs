//! What the forwarding table must and must not do, on packets made by hand and by chance.

use p2p_net_proto::Class;
use proptest::prelude::*;

use super::*;

const SECRET: [u8; 16] = [42; 16];

fn route(port: u16) -> Route {
    Route {
        socket: 0,
        address: SocketAddr::from(([192, 0, 2, 1], port)),
        source: None,
    }
}

/// A client's half of a channel, as it would write and check packets.
struct Client {
    end: ChannelEnd,
    up: HeaderKey,
    down: HeaderKey,
    route: Route,
    next: u64,
}

impl Client {
    fn packet_numbered(&self, counter: u64, payload: &[u8]) -> Vec<u8> {
        let mut packet = [&[0; HEADER_LEN][..], payload].concat();
        let header = Header {
            epoch: counter >> 32 != 0,
            class: Class::Video,
            ecn: 2,
            fragment: true,
            end: self.end,
            counter: counter as u32,
        };
        header.write(&self.up, &mut packet);
        packet
    }

    fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        self.next += 1;
        self.packet_numbered(self.next - 1, payload)
    }

    fn takes(&self, packet: &[u8]) -> Header {
        let header = Header::verify(&self.down, packet).expect("authentic");
        assert_eq!(header.end, self.end);
        header
    }
}

struct World {
    forward: Forward,
    now: Instant,
    one: Client,
    two: Client,
    owners: [OwnerId; 2],
}

fn half_open(bytes_per_second: u64) -> World {
    let now = Instant::now();
    let mut forward = Forward::new(bytes_per_second, SECRET);
    let owners = [
        forward.add_owner(now, route(1)),
        forward.add_owner(now, route(2)),
    ];
    let key = |n: u8| HeaderKey::new([n; 16]);
    let party = |owner, up, down| Party {
        owner,
        up: key(up),
        down: key(down),
    };
    let ends = forward
        .open([party(owners[0], 1, 2), party(owners[1], 3, 4)])
        .expect("room");
    let client = |end, up, down, port| Client {
        end,
        up: key(up),
        down: key(down),
        route: route(port),
        next: 0,
    };
    let (one, two) = (client(ends[0], 1, 2, 1), client(ends[1], 3, 4, 2));
    World {
        forward,
        now,
        one,
        two,
        owners,
    }
}

fn open(bytes_per_second: u64) -> World {
    let mut world = half_open(bytes_per_second);
    assert!(world.forward.accept(world.now, world.two.end).is_empty());
    world
}

#[test]
fn packets_are_rewritten_for_the_other_end() {
    let mut world = open(0);
    for counter in 0..3u32 {
        let mut packet = world.one.packet(b"hello");
        let verdict = world
            .forward
            .packet(world.now, world.one.route, 0, &mut packet);
        assert_eq!(verdict, Verdict::Send(route(2), 2));
        let header = world.two.takes(&packet);
        assert_eq!(
            (header.counter, header.class, header.fragment),
            (counter, Class::Video, true)
        );
        assert_eq!(&packet[HEADER_LEN..], b"hello");
    }
    let mut back = world.two.packet(b"");
    let verdict = world
        .forward
        .packet(world.now, world.two.route, 0, &mut back);
    assert_eq!(verdict, Verdict::Send(route(1), 2));
    assert_eq!(world.one.takes(&back).counter, 0);
    let bytes = 3 * 21 + 16;
    assert_eq!(
        world.forward.counts(),
        Counts {
            packets: 4,
            bytes,
            dropped: 0
        }
    );
}

#[test]
fn forged_replayed_and_unknown_packets_go_nowhere() {
    let mut world = open(0);
    let good = world.one.packet(b"payload");
    let judge = |world: &mut World, packet: &[u8]| {
        world
            .forward
            .packet(world.now, world.one.route, 0, &mut packet.to_vec())
    };
    let mut wrong_tag = good.clone();
    wrong_tag[9] ^= 1;
    assert_eq!(
        judge(&mut world, &wrong_tag),
        Verdict::Drop(DropReason::Forged)
    );
    // Somebody who shares the channel cannot speak for its other side.
    let mut crossed = good.clone();
    crossed[1..4].copy_from_slice(&world.two.end.0.to_be_bytes()[1..]);
    assert_eq!(
        judge(&mut world, &crossed),
        Verdict::Drop(DropReason::Forged)
    );
    assert_eq!(judge(&mut world, &good), Verdict::Send(route(2), 2));
    assert_eq!(
        judge(&mut world, &good),
        Verdict::Drop(DropReason::Replayed)
    );
    let late = world.one.packet_numbered(300, b"");
    assert_eq!(judge(&mut world, &late), Verdict::Send(route(2), 2));
    let old = world.one.packet_numbered(44, b"");
    assert_eq!(judge(&mut world, &old), Verdict::Drop(DropReason::Replayed));
    let mut nowhere = good.clone();
    nowhere[1] = 0xff;
    let unknown = ChannelEnd(u32::from_be_bytes([0, 0xff, nowhere[2], nowhere[3]]));
    assert_eq!(judge(&mut world, &nowhere), Verdict::Unknown(unknown));
    assert_eq!(
        judge(&mut world, &good[..15]),
        Verdict::Drop(DropReason::Malformed)
    );
    assert_eq!(world.forward.counts().dropped, 6);
}

#[test]
fn a_half_open_channel_holds_four_packets_a_side_for_five_seconds() {
    let mut world = half_open(0);
    for n in 0..5u8 {
        let mut packet = world.one.packet(&[n]);
        let verdict = world
            .forward
            .packet(world.now, world.one.route, 0, &mut packet);
        let held = if n < 4 {
            Verdict::Held
        } else {
            Verdict::Drop(DropReason::NotYet)
        };
        assert_eq!(verdict, held);
    }
    let mut large = world.two.packet(&[0; MAX_HELD_BYTES]);
    let verdict = world
        .forward
        .packet(world.now, world.two.route, 0, &mut large);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotYet));
    let soon = world.now + HELD_FOR;
    let mut packet = world.two.packet(b"back");
    assert_eq!(
        world.forward.packet(soon, world.two.route, 0, &mut packet),
        Verdict::Held
    );
    let ready = world.forward.accept(soon, world.one.end);
    let payloads: Vec<_> = ready.iter().map(|out| &out.packet[HEADER_LEN..]).collect();
    assert_eq!(payloads, [&[0][..], &[1], &[2], &[3], b"back"]);
    assert!(ready[..4].iter().all(|out| out.route == route(2)));
    assert_eq!(world.two.takes(&ready[3].packet).counter, 3);
    assert_eq!(ready[4].route, route(1));
}

#[test]
fn what_waited_too_long_is_dropped() {
    let mut world = half_open(0);
    for _ in 0..4 {
        let mut packet = world.one.packet(b"old");
        world
            .forward
            .packet(world.now, world.one.route, 0, &mut packet);
    }
    let late = world.now + HELD_FOR + Duration::from_millis(1);
    let mut packet = world.one.packet(b"new");
    assert_eq!(
        world.forward.packet(late, world.one.route, 0, &mut packet),
        Verdict::Held
    );
    let ready = world.forward.accept(late, world.two.end);
    assert_eq!(ready.len(), 1);
    assert_eq!(&ready[0].packet[HEADER_LEN..], b"new");
    let counts = Counts {
        packets: 1,
        bytes: 19,
        dropped: 0,
    };
    assert_eq!(
        world.forward.counts(),
        counts,
        "what was too old was not even looked at"
    );
}

fn challenge_nonce(verdict: Verdict, client: &Client) -> [u8; 8] {
    let Verdict::Challenge(challenge) = verdict else {
        panic!("not a challenge: {verdict:?}")
    };
    nudge::verify(&client.down, &challenge).expect("authentic");
    let Some(Nudge::Challenge { end, nonce }) = Nudge::parse(&challenge) else {
        panic!("a challenge");
    };
    assert_eq!(end, client.end);
    nonce
}

#[test]
fn a_new_address_is_taken_after_an_answered_challenge_only() {
    let mut world = open(0);
    let moved = route(77);
    let mut packet = world.one.packet(b"from elsewhere");
    let verdict = world
        .forward
        .packet(world.now, moved, 0, &mut packet.clone());
    let nonce = challenge_nonce(verdict, &world.one);
    // Until it is answered, the old address counts, and the same packet may still come from there.
    let verdict = world
        .forward
        .packet(world.now, world.one.route, 0, &mut packet);
    assert_eq!(verdict, Verdict::Send(route(2), 2));
    // An answer from another address than the challenged one, a forged one, and one under the wrong
    // key.
    let answer = nudge::answer(world.one.end, nonce, &world.one.up);
    assert_eq!(
        world.forward.answer(world.now, route(78), &answer),
        Err(DropReason::Forged)
    );
    let guess = nudge::answer(world.one.end, [0; 8], &world.one.up);
    assert_eq!(
        world.forward.answer(world.now, moved, &guess),
        Err(DropReason::Forged)
    );
    let keyless = nudge::answer(world.one.end, nonce, &world.one.down);
    assert_eq!(
        world.forward.answer(world.now, moved, &keyless),
        Err(DropReason::Forged)
    );
    assert_eq!(
        world.forward.answer(world.now, moved, &answer[..19]),
        Err(DropReason::Malformed)
    );
    assert_eq!(world.forward.answer(world.now, moved, &answer), Ok(()));
    // From now on it is the other way round.
    let mut packet = world.two.packet(b"to you");
    let verdict = world
        .forward
        .packet(world.now, world.two.route, 0, &mut packet);
    assert_eq!(verdict, Verdict::Send(moved, 2));
    let mut packet = world.one.packet(b"again");
    let verdict = world.forward.packet(world.now, moved, 0, &mut packet);
    assert_eq!(verdict, Verdict::Send(route(2), 2));
    let mut packet = world.one.packet(b"from the old address");
    let later = world.now + CHALLENGE_GAP;
    let verdict = world.forward.packet(later, world.one.route, 0, &mut packet);
    challenge_nonce(verdict, &world.one);
}

#[test]
fn challenges_are_few_small_and_short_lived() {
    let mut world = open(0);
    let moved = route(77);
    // A packet shorter than a challenge does not get one: the answer would be longer than the
    // question.
    let mut short = world.one.packet(b"abc");
    let verdict = world.forward.packet(world.now, moved, 0, &mut short);
    assert_eq!(verdict, Verdict::Drop(DropReason::Moved));
    let mut packet = world.one.packet(b"abcd");
    let nonce = challenge_nonce(
        world.forward.packet(world.now, moved, 0, &mut packet),
        &world.one,
    );
    let verdict = world.forward.packet(world.now, moved, 0, &mut packet);
    assert_eq!(verdict, Verdict::Drop(DropReason::Moved), "one in 20 ms");
    let answer = nudge::answer(world.one.end, nonce, &world.one.up);
    let late = world.now + 2 * CHALLENGE_PERIOD;
    assert_eq!(
        world.forward.answer(late, moved, &answer),
        Err(DropReason::Forged)
    );
    let in_time = world.now + CHALLENGE_PERIOD;
    assert_eq!(world.forward.answer(in_time, moved, &answer), Ok(()));
}

#[test]
fn a_moved_control_connection_moves_the_data() {
    let mut world = open(0);
    world.forward.rebind(world.owners[1], route(99));
    let mut packet = world.one.packet(b"follow");
    let verdict = world
        .forward
        .packet(world.now, world.one.route, 0, &mut packet);
    assert_eq!(verdict, Verdict::Send(route(99), 2));
}

#[test]
fn a_sender_above_its_rate_is_marked_and_then_dropped() {
    // 64 KiB is the least that a bucket holds.
    let mut world = open(1_000);
    let mut seen = Vec::new();
    for _ in 0..70 {
        let mut packet = world.one.packet(&[0; 1_024 - HEADER_LEN]);
        match world
            .forward
            .packet(world.now, world.one.route, 0, &mut packet)
        {
            Verdict::Send(_, ecn) => seen.push(ecn),
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::Limited)),
        }
    }
    assert_eq!(seen.len(), 64);
    let marked = seen
        .iter()
        .position(|ecn| *ecn == CE)
        .expect("marks before drops");
    assert!(
        (51..53).contains(&marked),
        "from 80 % on, not from packet {marked}"
    );
    let mut packet = world.two.packet(&[0; 1_000]);
    let verdict = world
        .forward
        .packet(world.now, world.two.route, 0, &mut packet);
    assert_eq!(
        verdict,
        Verdict::Send(route(1), 2),
        "the other side has a bucket of its own"
    );
}

#[test]
fn congestion_outside_is_told_inside() {
    let mut world = open(0);
    let mut packet = world.one.packet(b"");
    let verdict = world
        .forward
        .packet(world.now, world.one.route, CE, &mut packet);
    assert_eq!(verdict, Verdict::Send(route(2), CE));
    assert_eq!(world.two.takes(&packet).ecn, CE);
}

#[test]
fn used_up_counters_end_a_direction() {
    let mut world = open(0);
    if let Some(Some(end)) = world.forward.slots.get_mut(world.two.end.0 as usize) {
        end.counter = MAX_COUNTER - 1;
    }
    let mut packet = world.one.packet(b"");
    world
        .forward
        .packet(world.now, world.one.route, 0, &mut packet);
    let header = world.two.takes(&packet);
    assert_eq!((header.epoch, header.counter), (true, u32::MAX));
    let mut packet = world.one.packet(b"");
    let verdict = world
        .forward
        .packet(world.now, world.one.route, 0, &mut packet);
    assert_eq!(verdict, Verdict::Drop(DropReason::Exhausted));
}

#[test]
fn everything_is_given_back() {
    let mut world = open(0);
    assert_eq!(world.forward.sizes(), (2, 2, 2));
    world.forward.remove_owner(world.owners[0]);
    assert_eq!(
        world.forward.sizes(),
        (2, 2, 2),
        "its channel is still there"
    );
    world.forward.close(world.two.end);
    assert_eq!(world.forward.sizes(), (0, 1, 2));
    let mut packet = world.two.packet(b"late");
    let verdict = world
        .forward
        .packet(world.now, world.two.route, 0, &mut packet);
    assert_eq!(verdict, Verdict::Unknown(world.two.end));
    let again = world.forward.add_owner(world.now, route(5));
    assert_eq!(again, world.owners[0], "the place is used again");
}

#[test]
fn slots_are_bounded_and_come_back_late() {
    let now = Instant::now();
    let mut forward = Forward::new(0, SECRET);
    let owner = forward.add_owner(now, route(1));
    let key = || HeaderKey::new([1; 16]);
    let party = || Party {
        owner,
        up: key(),
        down: key(),
    };
    let mut last = ChannelEnd(ChannelEnd::MAX);
    for _ in 0..10_000 {
        let [end, _] = forward.open([party(), party()]).expect("room");
        assert_ne!(end, last, "the last number does not come back at once");
        last = end;
        forward.close(end);
    }
    assert!(forward.sizes().2 <= 1_026);
    while forward.open([party(), party()]).is_some() {}
    assert_eq!(forward.sizes(), (MAX_SLOTS, 1, MAX_SLOTS));
}

#[derive(Debug, Clone)]
enum Step {
    Arrive {
        from_two: bool,
        port: u16,
        counter: u64,
        damage: Option<(u8, u8)>,
    },
    Accept,
    Later {
        millis: u64,
    },
    Move {
        two: bool,
        port: u16,
    },
    Garbage(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<bool>(), 1u16..4, 0u64..400, prop::option::weighted(0.2, any::<(u8, u8)>()))
            .prop_map(|(from_two, port, counter, damage)| {
                Step::Arrive { from_two, port, counter, damage }
            }),
        1 => Just(Step::Accept),
        1 => (1u64..6_000).prop_map(|millis| Step::Later { millis }),
        1 => (any::<bool>(), 1u16..4).prop_map(|(two, port)| Step::Move { two, port }),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Garbage),
    ]
}

proptest! {
    /// Whatever happens: nothing is delivered twice, altered, before the channel is open, from an
    /// address that is not the sender's, or to one that is not the receiver's; what is delivered is
    /// authentic and numbered without gaps.
    #[test]
    fn only_fresh_authentic_packets_pass(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = half_open(0);
        let mut ports = [1u16, 2];
        let mut accepted = false;
        let mut delivered = std::collections::BTreeSet::new();
        let mut numbers = [0u64; 2];
        for step in steps {
            let mut out: Vec<(Route, Vec<u8>)> = Vec::new();
            match step {
                Step::Arrive { from_two, port, counter, damage } => {
                    let sender = if from_two { &world.two } else { &world.one };
                    let payload = [u8::from(from_two), (counter >> 8) as u8, counter as u8, 7];
                    let mut packet = sender.packet_numbered(counter, &payload);
                    let mut whole = true;
                    if let Some((at, mask)) = damage {
                        let at = usize::from(at) % packet.len();
                        packet[at] ^= mask;
                        whole = mask == 0;
                    }
                    let verdict = world.forward.packet(world.now, route(port), 0, &mut packet);
                    let at_home = port == ports[usize::from(from_two)];
                    match verdict {
                        Verdict::Send(to, _) => {
                            prop_assert!(accepted && whole && at_home);
                            out.push((to, packet));
                        }
                        Verdict::Held => prop_assert!(!accepted && whole && at_home),
                        Verdict::Challenge(_) => prop_assert!(whole && !at_home),
                        Verdict::Unknown(_) | Verdict::Drop(_) => {}
                    }
                }
                Step::Accept => {
                    let ready = world.forward.accept(world.now, world.one.end);
                    prop_assert!(!accepted || ready.is_empty());
                    prop_assert!(ready.len() <= 2 * MAX_HELD);
                    accepted = true;
                    out.extend(ready.into_iter().map(|ready| (ready.route, ready.packet)));
                }
                Step::Later { millis } => world.now += Duration::from_millis(millis),
                Step::Move { two, port } => {
                    ports[usize::from(two)] = port;
                    world.forward.rebind(world.owners[usize::from(two)], route(port));
                }
                Step::Garbage(mut bytes) => {
                    let verdict = world.forward.packet(world.now, route(1), 0, &mut bytes);
                    prop_assert!(matches!(verdict, Verdict::Unknown(_) | Verdict::Drop(_)));
                    prop_assert!(world.forward.answer(world.now, route(1), &bytes).is_err());
                }
            }
            for (to, packet) in out {
                let from_two = packet[HEADER_LEN] != 0;
                let receiver = if from_two { &world.one } else { &world.two };
                prop_assert_eq!(to, route(ports[usize::from(!from_two)]));
                let header = Header::verify(&receiver.down, &packet).expect("authentic");
                let number = &mut numbers[usize::from(from_two)];
                prop_assert_eq!(u64::from(header.counter), *number);
                *number += 1;
                prop_assert!(delivered.insert(packet[HEADER_LEN..].to_vec()), "twice");
            }
        }
    }
}
