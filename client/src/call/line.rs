//! One side's telephone line as a state machine: at most one call at a time, with any peer. Pure: time comes
//! in as an argument, connections and media belong to the engine.
//!
//! What is said may be lost with its connection, so that each side says it again on the next one: the caller
//! its invitation, the callee its answer until it is confirmed, both the state of their sources. A frame
//! about a call that is over is answered with its end. If both call each other at once, the invitation of
//! the smaller [`PeerId`] stands, and the other side, which wanted the call anyway, accepts it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_net::PeerId;
use uuid::Uuid;

use super::exchange::{Input, Output};
use super::{Cause, End};
use crate::Problem;
use crate::wire::{
    CallAccept, CallEnd, CallFrame, CallInvite, CallPulse, CallRinging, CallState, MAX_REASON_LEN,
    MEDIA_VERSIONS, Quality, Sources, StreamEntry, common_version,
};

/// How long an unanswered call rings at the caller.
const RING_LIMIT: Duration = Duration::from_secs(45);
/// How long it rings at the callee, which normally hears the caller give up before.
const RING_LIMIT_CALLEE: Duration = Duration::from_secs(50);
/// How long it rings on without a connection.
const RING_GRACE: Duration = Duration::from_secs(10);
/// How often each side says that the call lives.
const PULSE: Duration = Duration::from_secs(2);
/// So long without a sign of the other side, people are told.
const SILENCE: Duration = Duration::from_millis(2_500);
/// So long without a sign, the connection is put to the test.
const DOUBT: Duration = Duration::from_secs(5);
/// So long without a sign, the call is over.
const LOST: Duration = Duration::from_secs(30);
/// First and longest pause between attempts to reach the other side again in a call.
const REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// Calls of the past whose ends are remembered.
const MAX_ENDED: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Line {
    me: PeerId,
    state: State,
    /// The newest ends, to be said again to who has not heard.
    ended: VecDeque<(PeerId, CallEnd)>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    Idle,
    Outgoing(Outgoing),
    Incoming(Incoming),
    Active(Active),
}

#[derive(Debug)]
struct Outgoing {
    peer: PeerId,
    invite: CallInvite,
    deadline: Instant,
    linked: bool,
    /// The invitation was sent, be it on an earlier connection.
    invited: bool,
    ringing: bool,
}

#[derive(Debug)]
struct Incoming {
    peer: PeerId,
    invite: CallInvite,
    version: u8,
    deadline: Instant,
    /// Since when there is no connection.
    unlinked_at: Option<Instant>,
    rung: bool,
}

#[derive(Debug)]
struct Active {
    peer: PeerId,
    call: Uuid,
    ours: Sources,
    our_number: u32,
    theirs: Sources,
    their_number: u32,
    quality: Quality,
    linked: bool,
    /// Our answer, until the caller has shown that it has it.
    answer: Option<CallAccept>,
    heard_at: Instant,
    silent: bool,
    doubted: bool,
    pulse_at: Instant,
    redial_at: Option<Instant>,
    redials: u32,
}

/// How media begin.
struct Start {
    peer: PeerId,
    call: Uuid,
    version: u8,
    ours: Sources,
    our_number: u32,
    theirs: Sources,
    their_streams: Vec<StreamEntry>,
    linked: bool,
    answer: Option<CallAccept>,
}

impl Line {
    /// The line of `me`, idle.
    pub fn new(me: PeerId) -> Self {
        Self {
            me,
            state: State::Idle,
            ended: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether there is no call of any kind.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether media run.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::Active(_))
    }

    /// Whether somebody calls and waits for our answer.
    pub fn is_incoming(&self) -> bool {
        matches!(self.state, State::Incoming(_))
    }

    /// With whom the call is.
    pub fn peer(&self) -> Option<PeerId> {
        match &self.state {
            State::Idle => None,
            State::Outgoing(call) => Some(call.peer),
            State::Incoming(call) => Some(call.peer),
            State::Active(call) => Some(call.peer),
        }
    }

    /// Our sources and theirs, while media run.
    pub fn sources(&self) -> Option<(Sources, Sources)> {
        match &self.state {
            State::Active(call) => Some((call.ours, call.theirs)),
            _ => None,
        }
    }

    /// The id of the call that runs.
    #[cfg(test)]
    pub(super) fn running(&self) -> Option<Uuid> {
        match &self.state {
            State::Active(call) => Some(call.call),
            _ => None,
        }
    }

    /// Takes one input; drain [`Line::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Call {
                peer,
                call,
                streams,
                sources,
            } => self.on_call(now, peer, call, streams, sources),
            Input::Ring => self.on_ring(),
            Input::Answer { streams, sources } => self.on_answer(now, streams, sources),
            Input::End(end) => self.on_end(end),
            Input::Sources(sources) => self.on_sources(sources),
            Input::Quality(quality) => {
                if let State::Active(active) = &mut self.state {
                    active.quality = quality;
                }
            }
            Input::Linked(peer, calls) => self.on_linked(now, peer, calls),
            Input::Unlinked(peer) => self.on_unlinked(now, peer),
            Input::DialFailed(peer, problem) => self.on_dial_failed(now, peer, problem),
            Input::Frame(peer, frame) => self.on_frame(now, peer, frame),
            Input::Heard => self.on_heard(now),
            Input::Timeout => self.on_timeout(now),
        }
    }

    /// The next thing to do or to know, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call back with [`Input::Timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Idle => None,
            State::Outgoing(call) => Some(call.deadline),
            State::Incoming(call) => {
                let grace = call.unlinked_at.map(|at| at + RING_GRACE);
                Some(grace.map_or(call.deadline, |grace| grace.min(call.deadline)))
            }
            State::Active(call) => {
                let silence = if !call.silent {
                    SILENCE
                } else if !call.doubted {
                    DOUBT
                } else {
                    LOST
                };
                let pulse = call.linked.then_some(call.pulse_at);
                [Some(call.heard_at + silence), pulse, call.redial_at]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    // What our person wants.

    fn on_call(
        &mut self,
        now: Instant,
        peer: PeerId,
        call: Uuid,
        streams: Vec<StreamEntry>,
        sources: Sources,
    ) {
        if !self.is_idle() {
            return;
        }
        self.state = State::Outgoing(Outgoing {
            peer,
            invite: CallInvite {
                call,
                versions: MEDIA_VERSIONS.to_vec(),
                streams,
                sources,
            },
            deadline: now + RING_LIMIT,
            linked: false,
            invited: false,
            ringing: false,
        });
        self.say(Output::Dial(peer));
    }

    fn on_ring(&mut self) {
        let State::Incoming(incoming) = &mut self.state else {
            return;
        };
        incoming.rung = true;
        if incoming.unlinked_at.is_none() {
            let ringing = CallFrame::Ringing(CallRinging {
                call: incoming.invite.call,
            });
            let peer = incoming.peer;
            self.say(Output::Send(peer, ringing));
        }
    }

    fn on_answer(&mut self, now: Instant, streams: Vec<StreamEntry>, sources: Sources) {
        let State::Incoming(incoming) = &self.state else {
            return;
        };
        let (peer, invite, version) = (incoming.peer, incoming.invite.clone(), incoming.version);
        let linked = incoming.unlinked_at.is_none();
        self.accept(now, peer, invite, version, (streams, sources), linked);
    }

    /// Media begin at the callee.
    fn accept(
        &mut self,
        now: Instant,
        peer: PeerId,
        invite: CallInvite,
        version: u8,
        (streams, sources): (Vec<StreamEntry>, Sources),
        linked: bool,
    ) {
        let answer = CallAccept {
            call: invite.call,
            version,
            streams,
            sources,
        };
        if linked {
            self.say(Output::Send(peer, CallFrame::Accept(answer.clone())));
        }
        let start = Start {
            peer,
            call: invite.call,
            version,
            ours: sources,
            our_number: 0,
            theirs: invite.sources,
            their_streams: invite.streams,
            linked,
            answer: Some(answer),
        };
        self.begin(now, start);
    }

    fn begin(&mut self, now: Instant, start: Start) {
        let Start { peer, call, .. } = start;
        let begin = Output::Begin {
            peer,
            call,
            version: start.version,
            streams: start.their_streams,
            sources: start.theirs,
        };
        self.state = State::Active(Active {
            peer,
            call,
            ours: start.ours,
            our_number: start.our_number,
            theirs: start.theirs,
            their_number: 0,
            quality: Quality::default(),
            linked: start.linked,
            answer: start.answer,
            heard_at: now,
            silent: false,
            doubted: false,
            pulse_at: now,
            redial_at: None,
            redials: 0,
        });
        self.say(begin);
        if !start.linked {
            self.say(Output::Dial(peer));
        }
    }

    /// Our side ends what there is.
    fn on_end(&mut self, mut end: End) {
        if let (State::Outgoing(_), Cause::HungUp) = (&self.state, end.cause) {
            end.cause = Cause::Cancelled;
        }
        if let (State::Incoming(_), Cause::HungUp) = (&self.state, end.cause) {
            end.cause = Cause::Declined;
        }
        self.finish(end);
    }

    fn on_sources(&mut self, sources: Sources) {
        match &mut self.state {
            State::Outgoing(outgoing) => outgoing.invite.sources = sources,
            State::Active(active) if active.ours != sources => {
                active.ours = sources;
                active.our_number = active.our_number.saturating_add(1);
                let told = Output::Sources {
                    ours: sources,
                    theirs: active.theirs,
                };
                let send = active.linked.then(|| active.state());
                self.outputs.extend(send);
                self.say(told);
            }
            _ => {}
        }
    }

    // Connections.

    fn on_linked(&mut self, now: Instant, peer: PeerId, calls: bool) {
        if self.peer() != Some(peer) {
            return;
        }
        if !calls {
            self.finish(End {
                by_them: true,
                ..End::ours(Cause::Unsupported)
            });
            return;
        }
        match &mut self.state {
            State::Idle => {}
            State::Outgoing(outgoing) => {
                outgoing.linked = true;
                outgoing.invited = true;
                let invite = CallFrame::Invite(outgoing.invite.clone());
                self.say(Output::Send(peer, invite));
            }
            State::Incoming(incoming) => {
                incoming.unlinked_at = None;
                if incoming.rung {
                    self.on_ring();
                }
            }
            State::Active(active) => {
                active.linked = true;
                active.redial_at = None;
                active.redials = 0;
                active.doubted = false;
                active.pulse_at = now;
                // A connection that only comes up is no sign of the call; but time to give one.
                let answer = active
                    .answer
                    .clone()
                    .map(|answer| Output::Send(peer, CallFrame::Accept(answer)));
                let state = active.state();
                self.outputs.extend(answer);
                self.say(state);
            }
        }
    }

    fn on_unlinked(&mut self, now: Instant, peer: PeerId) {
        if self.peer() != Some(peer) {
            return;
        }
        match &mut self.state {
            State::Idle => {}
            State::Outgoing(outgoing) => {
                outgoing.linked = false;
                outgoing.ringing = false;
                self.say(Output::Dial(peer));
            }
            State::Incoming(incoming) => {
                incoming.unlinked_at.get_or_insert(now);
            }
            State::Active(active) => {
                active.linked = false;
                let news = !std::mem::replace(&mut active.silent, true);
                // There is nothing to put to the test.
                active.doubted = true;
                active.redial_at = None;
                if news {
                    self.say(Output::Silent(true));
                }
                self.say(Output::Dial(peer));
            }
        }
    }

    fn on_dial_failed(&mut self, now: Instant, peer: PeerId, problem: Problem) {
        if self.peer() != Some(peer) {
            return;
        }
        match &mut self.state {
            State::Outgoing(outgoing) if !outgoing.linked => {
                let mut end = End::ours(Cause::Unreachable);
                end.problem = Some(problem);
                self.finish(end);
            }
            State::Active(active) if !active.linked => {
                let pause = REDIAL.0.saturating_mul(1 << active.redials.min(8));
                active.redials = active.redials.saturating_add(1);
                active.redial_at = Some(now + pause.min(REDIAL.1));
            }
            _ => {}
        }
    }

    // What the other side says.

    fn on_frame(&mut self, now: Instant, peer: PeerId, frame: CallFrame) {
        match frame {
            CallFrame::Invite(invite) => self.on_invite(now, peer, invite),
            CallFrame::End(end) => {
                if self.is_current(peer, end.call) {
                    let end = End {
                        cause: Cause::of_code(end.code),
                        by_them: true,
                        reason: end.reason,
                        problem: None,
                    };
                    self.conclude(end);
                }
            }
            other if !self.is_current(peer, other.call()) => self.deny(peer, other.call()),
            CallFrame::Ringing(_) => {
                if let State::Outgoing(outgoing) = &mut self.state
                    && !std::mem::replace(&mut outgoing.ringing, true)
                {
                    self.say(Output::Ringing);
                }
            }
            CallFrame::Accept(accept) => self.on_accept(now, accept),
            CallFrame::State(state) => {
                self.on_heard(now);
                self.on_their_state(&state);
            }
            CallFrame::Pulse(pulse) => {
                self.on_heard(now);
                if let State::Active(active) = &mut self.state {
                    active.answer = None;
                    self.say(Output::Quality(pulse.quality));
                }
            }
        }
    }

    fn is_current(&self, peer: PeerId, call: Uuid) -> bool {
        match &self.state {
            State::Idle => false,
            State::Outgoing(outgoing) => outgoing.peer == peer && outgoing.invite.call == call,
            State::Incoming(incoming) => incoming.peer == peer && incoming.invite.call == call,
            State::Active(active) => active.peer == peer && active.call == call,
        }
    }

    /// Says again how a call ended that somebody still believes in.
    fn deny(&mut self, peer: PeerId, call: Uuid) {
        let known = self
            .ended
            .iter()
            .find(|(with, end)| *with == peer && end.call == call);
        let end = known.map_or_else(
            || CallEnd {
                call,
                code: crate::wire::end_code::UNKNOWN,
                reason: String::new(),
            },
            |(_, end)| end.clone(),
        );
        self.say(Output::Send(peer, CallFrame::End(end)));
    }

    fn on_invite(&mut self, now: Instant, peer: PeerId, invite: CallInvite) {
        let call = invite.call;
        let is_over = self
            .ended
            .iter()
            .any(|(with, end)| *with == peer && end.call == call);
        if is_over {
            self.deny(peer, call);
            return;
        }
        let Some(version) = common_version(&invite.versions) else {
            self.refuse(peer, call, Cause::Unsupported);
            return;
        };
        let with_peer = self.peer() == Some(peer);
        let is_again = self.is_current(peer, call);
        match &mut self.state {
            State::Idle => self.ring_in(now, peer, invite, version),
            _ if !with_peer => self.refuse(peer, call, Cause::Busy),
            State::Outgoing(outgoing) => {
                if outgoing.invited && self.me < peer {
                    // Glare, and ours stands: the other side is about to accept it.
                    return;
                }
                let own = (
                    std::mem::take(&mut outgoing.invite.streams),
                    outgoing.invite.sources,
                );
                self.accept(now, peer, invite, version, own, true);
            }
            State::Incoming(incoming) if is_again => {
                incoming.unlinked_at = None;
                incoming.invite = invite;
                if incoming.rung {
                    self.on_ring();
                }
            }
            State::Active(active) if is_again => {
                let answer = active
                    .answer
                    .clone()
                    .map(|answer| Output::Send(peer, CallFrame::Accept(answer)));
                self.outputs.extend(answer);
            }
            // The same peer calls anew: what it had before is over there.
            State::Incoming(_) | State::Active(_) => {
                let cause = if self.is_active() {
                    Cause::Lost
                } else {
                    Cause::Cancelled
                };
                self.conclude(End {
                    by_them: true,
                    ..End::ours(cause)
                });
                self.ring_in(now, peer, invite, version);
            }
        }
    }

    fn ring_in(&mut self, now: Instant, peer: PeerId, invite: CallInvite, version: u8) {
        let sources = invite.sources;
        self.state = State::Incoming(Incoming {
            peer,
            invite,
            version,
            deadline: now + RING_LIMIT_CALLEE,
            unlinked_at: None,
            rung: false,
        });
        self.say(Output::Incoming { peer, sources });
    }

    fn refuse(&mut self, peer: PeerId, call: Uuid, cause: Cause) {
        let end = CallEnd {
            call,
            code: cause.code(),
            reason: String::new(),
        };
        self.say(Output::Send(peer, CallFrame::End(end.clone())));
        self.remember(peer, end);
        self.say(Output::Refused { peer, cause });
    }

    fn on_accept(&mut self, now: Instant, accept: CallAccept) {
        if let State::Active(_) = &self.state {
            // Said again because we had not confirmed it yet.
            self.on_heard(now);
            return;
        }
        let State::Outgoing(outgoing) = &self.state else {
            return;
        };
        if !MEDIA_VERSIONS.contains(&accept.version) {
            self.finish(End::ours(Cause::Unsupported));
            return;
        }
        let start = Start {
            peer: outgoing.peer,
            call: accept.call,
            version: accept.version,
            ours: outgoing.invite.sources,
            // Our sources may be others than those of the invitation by now.
            our_number: 1,
            theirs: accept.sources,
            their_streams: accept.streams,
            linked: true,
            answer: None,
        };
        self.begin(now, start);
        if let State::Active(active) = &self.state {
            let confirmation = active.state();
            self.say(confirmation);
        }
    }

    fn on_their_state(&mut self, state: &CallState) {
        let State::Active(active) = &mut self.state else {
            return;
        };
        active.answer = None;
        if state.number > active.their_number {
            active.their_number = state.number;
            active.theirs = state.sources;
            let told = Output::Sources {
                ours: active.ours,
                theirs: active.theirs,
            };
            self.say(told);
        }
    }

    fn on_heard(&mut self, now: Instant) {
        let State::Active(active) = &mut self.state else {
            return;
        };
        active.heard_at = now;
        if active.linked {
            active.doubted = false;
            if std::mem::replace(&mut active.silent, false) {
                self.say(Output::Silent(false));
            }
        }
    }

    // Time.

    fn on_timeout(&mut self, now: Instant) {
        let due = self.poll_timeout().is_some_and(|at| at <= now);
        if !due {
            return;
        }
        match &mut self.state {
            State::Idle => {}
            State::Outgoing(outgoing) => {
                let cause = if outgoing.linked {
                    Cause::NoAnswer
                } else {
                    Cause::Unreachable
                };
                self.finish(End::ours(cause));
            }
            State::Incoming(_) => self.finish(End::ours(Cause::NoAnswer)),
            State::Active(_) => self.on_active_timeout(now),
        }
    }

    fn on_active_timeout(&mut self, now: Instant) {
        let State::Active(active) = &mut self.state else {
            return;
        };
        let silence = now.saturating_duration_since(active.heard_at);
        if silence >= LOST {
            self.finish(End::ours(Cause::Lost));
            return;
        }
        let peer = active.peer;
        if active.linked && active.pulse_at <= now {
            active.pulse_at = now + PULSE;
            let pulse = CallFrame::Pulse(CallPulse {
                call: active.call,
                quality: active.quality,
            });
            self.outputs.push_back(Output::Send(peer, pulse));
        }
        if silence >= SILENCE && !std::mem::replace(&mut active.silent, true) {
            self.outputs.push_back(Output::Silent(true));
        }
        if silence >= DOUBT && !std::mem::replace(&mut active.doubted, true) {
            self.outputs.push_back(Output::Check(peer));
        }
        if active.redial_at.is_some_and(|at| at <= now) {
            active.redial_at = None;
            self.outputs.push_back(Output::Dial(peer));
        }
    }

    // Ends.

    /// Ends the call from our side, and tells the other.
    fn finish(&mut self, end: End) {
        let (peer, call) = match &self.state {
            State::Idle => return,
            State::Outgoing(outgoing) => (outgoing.peer, outgoing.invite.call),
            State::Incoming(incoming) => (incoming.peer, incoming.invite.call),
            State::Active(active) => (active.peer, active.call),
        };
        let linked = match &self.state {
            State::Idle => false,
            State::Outgoing(outgoing) => outgoing.linked,
            State::Incoming(incoming) => incoming.unlinked_at.is_none(),
            State::Active(active) => active.linked,
        };
        let mut reason = end.reason.clone();
        while reason.len() > MAX_REASON_LEN {
            reason.pop();
        }
        let last = CallEnd {
            call,
            code: end.cause.code(),
            reason,
        };
        if linked {
            self.say(Output::Send(peer, CallFrame::End(last.clone())));
        }
        self.remember(peer, last);
        self.conclude(end);
    }

    /// The call is over.
    fn conclude(&mut self, end: End) {
        let answered = self.is_active();
        let Some(peer) = self.peer() else { return };
        self.state = State::Idle;
        self.say(Output::Ended {
            peer,
            answered,
            end,
        });
    }

    fn remember(&mut self, peer: PeerId, end: CallEnd) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((peer, end));
    }

    fn say(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}

impl Active {
    fn state(&self) -> Output {
        let state = CallState {
            call: self.call,
            number: self.our_number,
            sources: self.ours,
        };
        Output::Send(self.peer, CallFrame::State(state))
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
