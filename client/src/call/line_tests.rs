//! One line by itself: what it says and asks for, step by step.

use super::*;
use crate::wire::end_code;

struct Harness {
    line: Line,
    now: Instant,
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn on() -> Sources {
    Sources {
        audio: true,
        camera: true,
        ..Sources::default()
    }
}

fn invite(call: u128) -> CallFrame {
    CallFrame::Invite(CallInvite {
        call: id(call),
        versions: vec![0],
        streams: vec![],
        sources: on(),
    })
}

fn accept(call: u128) -> CallFrame {
    CallFrame::Accept(CallAccept {
        call: id(call),
        version: 0,
        streams: vec![],
        sources: on(),
    })
}

fn state(call: u128, number: u32, sources: Sources) -> CallFrame {
    CallFrame::State(CallState {
        call: id(call),
        number,
        sources,
    })
}

fn pulse(call: u128) -> CallFrame {
    CallFrame::Pulse(CallPulse {
        call: id(call),
        quality: Quality::default(),
    })
}

fn ended(call: u128, code: u16) -> CallFrame {
    CallFrame::End(CallEnd {
        call: id(call),
        code,
        reason: String::new(),
    })
}

fn answer() -> Input {
    Input::Answer {
        streams: vec![],
        sources: on(),
    }
}

fn begin(with: u8, call: u128) -> Output {
    Output::Begin {
        peer: peer(with),
        call: id(call),
        version: 0,
        streams: vec![],
        sources: on(),
    }
}

fn over(with: u8, answered: bool, cause: Cause, by_them: bool) -> Output {
    let end = End {
        by_them,
        ..End::ours(cause)
    };
    Output::Ended {
        peer: peer(with),
        answered,
        end,
    }
}

fn gone() -> Problem {
    Problem::unreachable("Bob is not online")
}

impl Harness {
    /// The line of peer 5.
    fn new() -> Self {
        Self {
            line: Line::new(peer(5)),
            now: Instant::now(),
        }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.line.handle_input(self.now, input);
        std::iter::from_fn(|| self.line.poll_output()).collect()
    }

    fn hear(&mut self, from: u8, frame: CallFrame) -> Vec<Output> {
        self.feed(Input::Frame(peer(from), frame))
    }

    fn send(to: u8, frame: CallFrame) -> Output {
        Output::Send(peer(to), frame)
    }

    fn call(&mut self, whom: u8, call: u128) {
        let input = Input::Call {
            peer: peer(whom),
            call: id(call),
            streams: vec![],
            sources: on(),
        };
        assert_eq!(self.feed(input), [Output::Dial(peer(whom))]);
        let outputs = self.feed(Input::Linked(peer(whom), true));
        assert_eq!(outputs, [Self::send(whom, invite(call))]);
    }

    /// A call that peer 9 took.
    fn active() -> Self {
        let mut h = Self::new();
        h.call(9, 1);
        assert_eq!(
            h.hear(9, accept(1)),
            [begin(9, 1), Self::send(9, state(1, 1, on()))]
        );
        h
    }

    /// Lets the next deadline pass.
    fn sleep(&mut self) -> Vec<Output> {
        let at = self.line.poll_timeout().expect("something is due");
        self.now = self.now.max(at);
        self.feed(Input::Timeout)
    }
}

#[test]
fn a_call_rings_is_answered_and_ends() {
    let mut h = Harness::new();
    h.call(9, 1);
    let ringing = CallFrame::Ringing(CallRinging { call: id(1) });
    assert_eq!(h.hear(9, ringing.clone()), [Output::Ringing]);
    assert_eq!(h.hear(9, ringing), [], "once");
    assert_eq!(
        h.hear(9, accept(1)),
        [begin(9, 1), Harness::send(9, state(1, 1, on()))]
    );
    assert_eq!(h.sleep(), [Harness::send(9, pulse(1))]);
    let outputs = h.feed(Input::End(End::ours(Cause::HungUp)));
    assert_eq!(
        outputs,
        [
            Harness::send(9, ended(1, end_code::HANGUP)),
            over(9, true, Cause::HungUp, false)
        ]
    );
    assert!(h.line.is_idle());
    assert_eq!(h.line.poll_timeout(), None);
    assert_eq!(
        h.hear(9, pulse(1)),
        [Harness::send(9, ended(1, end_code::HANGUP))],
        "who has not heard is told again"
    );
    assert_eq!(h.hear(9, ended(1, 0)), [], "an end is never answered");
}

#[test]
fn an_incoming_call_waits_for_our_person() {
    let mut h = Harness::new();
    let incoming = Output::Incoming {
        peer: peer(9),
        sources: on(),
    };
    assert_eq!(h.hear(9, invite(1)), [incoming]);
    let ringing = Harness::send(9, CallFrame::Ringing(CallRinging { call: id(1) }));
    assert_eq!(h.feed(Input::Ring), std::slice::from_ref(&ringing));
    assert_eq!(h.hear(9, invite(1)), [ringing], "an invitation comes again");
    assert_eq!(h.feed(answer()), [Harness::send(9, accept(1)), begin(9, 1)]);
}

#[test]
fn a_declined_or_busy_caller_is_told() {
    let mut h = Harness::new();
    h.hear(9, invite(1));
    let refused = Output::Refused {
        peer: peer(8),
        cause: Cause::Busy,
    };
    assert_eq!(
        h.hear(8, invite(2)),
        [Harness::send(8, ended(2, end_code::BUSY)), refused]
    );
    assert_eq!(
        h.feed(Input::End(End::ours(Cause::HungUp))),
        [
            Harness::send(9, ended(1, end_code::DECLINED)),
            over(9, false, Cause::Declined, false)
        ]
    );
    assert_eq!(
        h.hear(9, invite(1)),
        [Harness::send(9, ended(1, end_code::DECLINED))],
        "it does not ring twice"
    );
}

#[test]
fn nobody_rings_for_ever() {
    let mut h = Harness::new();
    h.call(9, 1);
    let began = h.now;
    assert_eq!(
        h.sleep(),
        [
            Harness::send(9, ended(1, end_code::TIMEOUT)),
            over(9, false, Cause::NoAnswer, false)
        ]
    );
    assert_eq!(h.now - began, RING_LIMIT);
    assert_eq!(
        h.hear(9, accept(1)),
        [Harness::send(9, ended(1, end_code::TIMEOUT))],
        "a late answer leaves nobody alone in a call"
    );
    h.hear(9, invite(2));
    h.feed(Input::Ring);
    h.feed(Input::Unlinked(peer(9)));
    let began = h.now;
    assert_eq!(h.sleep(), [over(9, false, Cause::NoAnswer, false)]);
    assert_eq!(h.now - began, RING_GRACE, "nor without a connection");
}

#[test]
fn who_cannot_be_reached_or_knows_no_calls_is_not_waited_for() {
    let mut h = Harness::new();
    let call = |call| Input::Call {
        peer: peer(9),
        call: id(call),
        streams: vec![],
        sources: on(),
    };
    h.feed(call(1));
    let outputs = h.feed(Input::DialFailed(peer(9), gone()));
    let [Output::Ended { end, .. }] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    assert_eq!(
        (end.cause, &end.problem),
        (Cause::Unreachable, &Some(gone()))
    );
    h.feed(call(2));
    assert_eq!(
        h.feed(Input::Linked(peer(9), false)),
        [over(9, false, Cause::Unsupported, true)]
    );
    let mut strange = invite(3);
    if let CallFrame::Invite(invite) = &mut strange {
        invite.versions = vec![63];
    }
    let refused = Output::Refused {
        peer: peer(9),
        cause: Cause::Unsupported,
    };
    assert_eq!(
        h.hear(9, strange),
        [Harness::send(9, ended(3, end_code::UNSUPPORTED)), refused]
    );
}

#[test]
fn of_two_invitations_that_of_the_smaller_id_stands() {
    // We are 5: against 9 ours stands, against 3 theirs.
    let mut h = Harness::new();
    h.call(9, 1);
    assert_eq!(h.hear(9, invite(2)), [], "the other side accepts ours");
    assert_eq!(
        h.hear(9, accept(1)),
        [begin(9, 1), Harness::send(9, state(1, 1, on()))]
    );
    let mut h = Harness::new();
    h.call(3, 1);
    assert_eq!(
        h.hear(3, invite(2)),
        [Harness::send(3, accept(2)), begin(3, 2)],
        "without asking: our person wanted this call"
    );
    // An invitation that never left cannot stand.
    let mut h = Harness::new();
    h.feed(Input::Call {
        peer: peer(9),
        call: id(1),
        streams: vec![],
        sources: on(),
    });
    assert_eq!(
        h.hear(9, invite(2)),
        [Harness::send(9, accept(2)), begin(9, 2)]
    );
}

#[test]
fn sources_are_told_and_only_the_newest_count() {
    let mut h = Harness::active();
    let muted = Sources {
        muted: true,
        ..on()
    };
    let told = |ours, theirs| Output::Sources { ours, theirs };
    assert_eq!(
        h.feed(Input::Sources(muted)),
        [Harness::send(9, state(1, 2, muted)), told(muted, on())]
    );
    assert_eq!(h.feed(Input::Sources(muted)), [], "no news");
    let held = Sources { held: true, ..on() };
    assert_eq!(h.hear(9, state(1, 7, held)), [told(muted, held)]);
    assert_eq!(h.hear(9, state(1, 6, on())), [], "old");
    assert_eq!(h.line.sources(), Some((muted, held)));
}

#[test]
fn a_call_outlives_its_connection_by_half_a_minute() {
    let mut h = Harness::active();
    h.sleep();
    assert_eq!(
        h.feed(Input::Unlinked(peer(9))),
        [Output::Silent(true), Output::Dial(peer(9))]
    );
    let began = h.now;
    let mut dials = 0;
    loop {
        h.feed(Input::DialFailed(peer(9), gone()));
        match h.sleep().as_slice() {
            [Output::Dial(_)] => dials += 1,
            [last] => {
                assert_eq!(*last, over(9, true, Cause::Lost, false));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(h.now - began, LOST);
    assert!((8..15).contains(&dials), "{dials}");
    assert_eq!(
        h.hear(9, state(1, 3, on())),
        [Harness::send(9, ended(1, end_code::LOST))]
    );
}

#[test]
fn a_new_connection_takes_the_call_up_again() {
    let mut h = Harness::new();
    h.hear(9, invite(1));
    h.feed(answer());
    h.feed(Input::Unlinked(peer(9)));
    assert_eq!(
        h.feed(Input::Linked(peer(9), true)),
        [
            Harness::send(9, accept(1)),
            Harness::send(9, state(1, 0, on()))
        ],
        "the answer is not confirmed yet"
    );
    assert_eq!(h.hear(9, pulse(1))[0], Output::Silent(false));
    h.feed(Input::Unlinked(peer(9)));
    assert_eq!(
        h.feed(Input::Linked(peer(9), true)),
        [Harness::send(9, state(1, 0, on()))]
    );
}

#[test]
fn silence_is_told_then_tested_then_the_end() {
    let mut h = Harness::active();
    let began = h.now;
    let mut news = Vec::new();
    while h.line.is_active() {
        for output in h.sleep() {
            if !matches!(output, Output::Send(..)) {
                news.push((h.now - began, output));
            }
        }
    }
    assert_eq!(
        news,
        [
            (SILENCE, Output::Silent(true)),
            (DOUBT, Output::Check(peer(9))),
            (LOST, over(9, true, Cause::Lost, false)),
        ]
    );
    let mut h = Harness::active();
    h.now += SILENCE;
    h.feed(Input::Timeout);
    assert_eq!(h.feed(Input::Heard), [Output::Silent(false)]);
}

#[test]
fn a_peer_that_forgot_the_call_may_call_anew() {
    let mut h = Harness::active();
    let incoming = Output::Incoming {
        peer: peer(9),
        sources: on(),
    };
    assert_eq!(
        h.hear(9, invite(2)),
        [over(9, true, Cause::Lost, true), incoming]
    );
}

#[test]
fn the_memory_of_ends_is_bounded() {
    let mut h = Harness::new();
    h.hear(9, invite(1));
    for call in 10..100 {
        h.hear(8, invite(call));
    }
    assert_eq!(h.line.ended.len(), MAX_ENDED);
    let unknown = Harness::send(8, ended(10, end_code::UNKNOWN));
    assert_eq!(h.hear(8, pulse(10)), [unknown]);
}

#[test]
fn a_cancel_that_crosses_an_answer_leaves_nobody_in_a_call() {
    // At the caller: the cancel is out when the answer comes.
    let mut h = Harness::new();
    h.call(9, 1);
    h.feed(Input::End(End::ours(Cause::HungUp)));
    assert_eq!(
        h.hear(9, accept(1)),
        [Harness::send(9, ended(1, end_code::CANCELLED))]
    );
    assert!(h.line.is_idle());
    // At the callee: media run already when the cancel comes.
    let mut h = Harness::new();
    h.hear(9, invite(1));
    h.feed(Input::Ring);
    h.feed(answer());
    assert_eq!(
        h.hear(9, ended(1, end_code::CANCELLED)),
        [over(9, true, Cause::Cancelled, true)]
    );
    // What was said meanwhile is answered with the end only where that is known.
    assert_eq!(
        h.hear(9, pulse(1)),
        [Harness::send(9, ended(1, end_code::UNKNOWN))]
    );
    assert_eq!(
        h.hear(9, ended(1, end_code::HANGUP)),
        [],
        "ends end nothing twice"
    );
}

#[test]
fn whoever_calls_while_we_call_or_ring_is_told_busy() {
    let refused = |whom| Output::Refused {
        peer: peer(whom),
        cause: Cause::Busy,
    };
    let mut h = Harness::new();
    h.call(9, 1);
    assert_eq!(
        h.hear(8, invite(2)),
        [Harness::send(8, ended(2, end_code::BUSY)), refused(8)]
    );
    assert_eq!(
        h.hear(9, accept(1))[0],
        begin(9, 1),
        "our own call is untouched"
    );
    assert_eq!(
        h.hear(8, invite(3)),
        [Harness::send(8, ended(3, end_code::BUSY)), refused(8)]
    );
    // What the third says of the call that it was refused does not touch ours.
    assert_eq!(h.hear(8, ended(1, end_code::HANGUP)), []);
    assert_eq!(
        h.hear(8, accept(1)),
        [Harness::send(8, ended(1, end_code::UNKNOWN))]
    );
    assert!(h.line.is_active());
}

#[test]
fn both_may_hold_and_each_lets_go_for_itself() {
    let mut h = Harness::active();
    let held = Sources { held: true, ..on() };
    let told = |ours, theirs| Output::Sources { ours, theirs };
    h.feed(Input::Sources(held));
    assert_eq!(h.hear(9, state(1, 1, held)), [told(held, held)]);
    assert_eq!(
        h.feed(Input::Sources(on())),
        [Harness::send(9, state(1, 3, on())), told(on(), held)]
    );
    assert_eq!(h.hear(9, state(1, 2, on())), [told(on(), on())]);
}

#[test]
fn changes_made_without_a_connection_are_told_on_the_next() {
    let mut h = Harness::active();
    h.feed(Input::Unlinked(peer(9)));
    let muted = Sources {
        muted: true,
        ..on()
    };
    assert_eq!(
        h.feed(Input::Sources(muted)),
        [Output::Sources {
            ours: muted,
            theirs: on()
        }],
        "nobody to tell yet"
    );
    assert_eq!(
        h.feed(Input::Linked(peer(9), true)),
        [Harness::send(9, state(1, 2, muted))]
    );
}

#[test]
fn who_hangs_up_without_a_connection_tells_it_when_asked() {
    let mut h = Harness::active();
    h.feed(Input::Unlinked(peer(9)));
    assert_eq!(
        h.feed(Input::End(End::ours(Cause::HungUp))),
        [over(9, true, Cause::HungUp, false)]
    );
    // The other side comes back, still believing in the call.
    assert_eq!(
        h.hear(9, state(1, 1, on())),
        [Harness::send(9, ended(1, end_code::HANGUP))]
    );
}
