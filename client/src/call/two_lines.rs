//! Two lines over connections that break, whatever people do at whatever moment: in the end both sides agree
//! on whether there is a call, on which, and on what each side sends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_net::PeerId;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Cause, End, Input, Line, Output};
use crate::Problem;
use crate::wire::{CallFrame, Sources};

/// Longer than any wait of a line.
const LONG: Duration = Duration::from_secs(120);

/// What happens to the pair.
#[derive(Debug, Clone)]
enum Op {
    /// A person does something at side 0 or 1.
    Call(usize),
    Answer(usize),
    HangUp(usize),
    Mute(usize, bool),
    Hold(usize, bool),
    /// So many frames arrive at a side.
    Deliver(usize, usize),
    /// The connection breaks, and what is under way is lost.
    Break,
    /// Connections can be made, or not.
    Network(bool),
    /// A dial that runs comes to its end.
    Dialled,
    /// Time passes, milliseconds.
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let side = 0usize..2;
    let op = prop_oneof![
        3 => side.clone().prop_map(Op::Call),
        3 => side.clone().prop_map(Op::Answer),
        2 => side.clone().prop_map(Op::HangUp),
        1 => (side.clone(), any::<bool>()).prop_map(|(side, on)| Op::Mute(side, on)),
        1 => (side.clone(), any::<bool>()).prop_map(|(side, on)| Op::Hold(side, on)),
        8 => (side, 1usize..4).prop_map(|(side, count)| Op::Deliver(side, count)),
        1 => Just(Op::Break),
        1 => any::<bool>().prop_map(Op::Network),
        3 => Just(Op::Dialled),
        3 => (0u64..20_000).prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 1..60)
}

struct Pair {
    now: Instant,
    lines: [Line; 2],
    ids: [PeerId; 2],
    /// Frames on their way to each side.
    wires: [VecDeque<CallFrame>; 2],
    linked: bool,
    network: bool,
    /// Sides that wait for a connection.
    dialling: [bool; 2],
    /// Whether media run, by the outputs alone.
    media: [bool; 2],
    last_call: u128,
}

impl Pair {
    fn new() -> Self {
        let ids = [1, 2].map(|number| PeerId::from_bytes([number; 32]));
        Self {
            now: Instant::now(),
            lines: ids.map(Line::new),
            ids,
            wires: Default::default(),
            linked: false,
            network: true,
            dialling: [false; 2],
            media: [false; 2],
            last_call: 0,
        }
    }

    fn feed(&mut self, side: usize, input: Input) {
        self.lines[side].handle_input(self.now, input);
        while let Some(output) = self.lines[side].poll_output() {
            self.on_output(side, output);
        }
    }

    fn on_output(&mut self, side: usize, output: Output) {
        match output {
            Output::Dial(_) if self.linked => {
                self.feed(side, Input::Linked(self.ids[1 - side], true));
            }
            Output::Dial(_) => self.dialling[side] = true,
            Output::Send(_, frame) if self.linked => {
                self.wires[1 - side].push_back(frame);
                assert!(self.wires[1 - side].len() < 1_000, "frames breed frames");
            }
            Output::Send(..) => panic!("a frame for no connection"),
            Output::Incoming { .. } => self.feed(side, Input::Ring),
            Output::Begin { .. } => {
                assert!(
                    !std::mem::replace(&mut self.media[side], true),
                    "began twice"
                );
            }
            Output::Ended { answered, .. } => {
                assert_eq!(std::mem::take(&mut self.media[side]), answered);
            }
            Output::Check(_)
            | Output::Ringing
            | Output::Sources { .. }
            | Output::Quality(_)
            | Output::Silent(_)
            | Output::Refused { .. } => {}
        }
    }

    fn deliver(&mut self, side: usize, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.wires[side].pop_front() else {
                return;
            };
            self.feed(side, Input::Frame(self.ids[1 - side], frame));
        }
    }

    fn break_link(&mut self) {
        if std::mem::take(&mut self.linked) {
            self.wires = Default::default();
            for side in 0..2 {
                self.feed(side, Input::Unlinked(self.ids[1 - side]));
            }
        }
    }

    fn dialled(&mut self) {
        let dialling = std::mem::take(&mut self.dialling);
        if self.linked || dialling == [false; 2] {
            return;
        }
        self.linked = self.network;
        for (side, dials) in dialling.into_iter().enumerate() {
            let other = self.ids[1 - side];
            if self.linked {
                self.feed(side, Input::Linked(other, true));
            } else if dials {
                self.feed(side, Input::DialFailed(other, Problem::failure("away")));
            }
        }
    }

    /// Lets time pass, with every deadline on the way. While `works`, frames and connections come at once.
    fn wait(&mut self, time: Duration, works: bool) {
        let until = self.now + time;
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 10_000, "the lines never rest");
            if works {
                self.dialled();
                while self.wires.iter().any(|wire| !wire.is_empty()) {
                    self.deliver(0, 1);
                    self.deliver(1, 1);
                }
            }
            let due = (0..2).filter_map(|side| Some((self.lines[side].poll_timeout()?, side)));
            let Some((at, side)) = due.min().filter(|(at, _)| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.feed(side, Input::Timeout);
        }
        self.now = until;
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Call(side) => {
                self.last_call += 1;
                let input = Input::Call {
                    peer: self.ids[1 - side],
                    call: Uuid::from_u128(self.last_call),
                    streams: vec![],
                    sources: Sources::default(),
                };
                self.feed(side, input);
            }
            Op::Answer(side) => {
                let (streams, sources) = (vec![], Sources::default());
                self.feed(side, Input::Answer { streams, sources });
            }
            Op::HangUp(side) => self.feed(side, Input::End(End::ours(Cause::HungUp))),
            Op::Mute(side, muted) => self.change(side, |sources| sources.muted = muted),
            Op::Hold(side, held) => self.change(side, |sources| sources.held = held),
            Op::Deliver(side, count) => self.deliver(side, count),
            Op::Break => self.break_link(),
            Op::Network(up) => {
                self.network = up;
                if !up {
                    self.break_link();
                }
            }
            Op::Dialled => self.dialled(),
            Op::Wait(millis) => self.wait(Duration::from_millis(millis), false),
        }
    }

    fn change(&mut self, side: usize, change: impl FnOnce(&mut Sources)) {
        if let Some((mut ours, _)) = self.lines[side].sources() {
            change(&mut ours);
            self.feed(side, Input::Sources(ours));
        }
    }

    /// What must hold when nothing is under way and nobody does anything.
    fn check(&self) {
        let running = [0, 1].map(|side| self.lines[side].running());
        assert_eq!(running[0], running[1], "both in the same call, or in none");
        assert_eq!(self.media, running.map(|call| call.is_some()));
        for side in 0..2 {
            let line = &self.lines[side];
            assert!(
                line.is_idle() || line.is_active(),
                "rings for ever: {line:?}"
            );
        }
        if let [Some((ours, theirs)), Some((other_ours, other_theirs))] =
            [0, 1].map(|side| self.lines[side].sources())
        {
            assert_eq!((ours, theirs), (other_theirs, other_ours));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn two_lines_always_agree_in_the_end(ops in ops()) {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
        }
        pair.network = true;
        pair.wait(LONG, true);
        pair.check();
        // From there a new call comes about, unless one runs.
        if pair.lines[0].is_idle() {
            pair.apply(Op::Call(0));
            pair.wait(Duration::from_secs(1), true);
            pair.apply(Op::Answer(1));
            pair.wait(Duration::from_secs(1), true);
        }
        prop_assert!(pair.media == [true; 2]);
        pair.apply(Op::HangUp(1));
        pair.wait(Duration::from_secs(1), true);
        pair.check();
        prop_assert!(pair.media == [false; 2]);
    }

    #[test]
    fn calling_each_other_at_once_makes_one_call(delays in proptest::collection::vec(0usize..3, 0..6)) {
        let mut pair = Pair::new();
        pair.linked = true;
        pair.apply(Op::Call(0));
        pair.apply(Op::Call(1));
        for count in delays {
            pair.apply(Op::Deliver(0, count));
            pair.apply(Op::Deliver(1, count % 2));
        }
        pair.wait(Duration::from_secs(1), true);
        prop_assert!(pair.media == [true; 2]);
        pair.check();
    }
}
