//! Calls in the engine: what faces want goes to the telephone line, and what the line says is done: frames,
//! connections, media, the log, and events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use p2p_net::PeerId;

use super::actor::{Actor, note};
use super::carrier::Carrier;
use super::in_call::Missing;
use super::media::{Media, News, Wish};
use super::ring::{Ringer, Tone};
use crate::args::Accept;
use crate::call::{self, Cause, End, Line, MediaChoice, Output};
use crate::command::{CallPolicy, Reply};
use crate::contacts::{Standing, printable};
use crate::event::{CallStep, Event};
use crate::store::calls::{CallRecord, MAX_OF_STRANGER, Outcome};
use crate::store::{self, now_millis};
use crate::transfer::Throttle;
use crate::wire::{CallFrame, Quality, Sources};
use crate::{Exit, Problem};

/// Calls whose media are still ending at most; each takes a second at most.
const MAX_ENDING: usize = 8;

/// The telephone of an engine.
pub(super) struct Calls {
    pub(super) line: Line,
    pub(super) current: Option<Current>,
    policy: Option<(u64, CallPolicy)>,
    /// What holds transfers to each peer back, while anybody uses it.
    throttles: HashMap<PeerId, Throttle>,
    /// Calls that are over, until their media have summed up.
    ending: BTreeMap<i64, (CallRecord, Option<Problem>)>,
    /// When the newest one that was over ended.
    pub(super) ended_at: Option<Instant>,
}

/// The call that rings or runs.
pub(super) struct Current {
    pub(super) record: CallRecord,
    /// The face that it belongs to, and with which it ends.
    pub(super) face: Option<u64>,
    pub(super) choice: MediaChoice,
    /// What of it our person has off, or what does not work now.
    pub(super) missing: Missing,
    pub(super) began: Option<Instant>,
    running: Option<(Media, Arc<Carrier>)>,
    /// What is heard until somebody answers.
    ringer: Option<Ringer>,
    /// Only the relay may be used, for as long as it lasts.
    pub(super) relay_only: bool,
}

impl Calls {
    pub(super) fn new(me: PeerId) -> Self {
        Self {
            line: Line::new(me),
            current: None,
            policy: None,
            throttles: HashMap::new(),
            ending: BTreeMap::new(),
            ended_at: None,
        }
    }

    /// What holds transfers to `peer` back in a call.
    pub(super) fn throttle_of(&mut self, peer: PeerId) -> Throttle {
        self.throttles.retain(|_, throttle| throttle.is_shared());
        self.throttles.entry(peer).or_default().clone()
    }

    /// Whether nothing of any call is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.ending.is_empty()
    }
}

impl Actor {
    // What faces want.

    pub(super) async fn place_call(
        &mut self,
        face: u64,
        peer: PeerId,
        choice: MediaChoice,
        relay_only: bool,
    ) -> Result<Reply, Problem> {
        choice.config()?;
        if peer == self.endpoint.id() {
            return Err(Problem::usage("this is our own id"));
        }
        if !self.calls.line.is_idle() {
            return Err(
                Problem::failure("another call rings or runs here").with_next("end that one first")
            );
        }
        self.accept(peer).await?;
        if relay_only {
            self.endpoint.set_relay_only(peer, true);
        }
        let mut record = fresh(peer, true);
        let stored = record.clone();
        record.number = self
            .store
            .run(move |db| store::calls::begin(db, &stored))
            .await?;
        let number = record.number;
        let sources = choice.sources();
        self.calls.current = Some(Current {
            record,
            face: Some(face),
            choice,
            missing: Missing::default(),
            began: None,
            running: None,
            ringer: None,
            relay_only,
        });
        self.tell_call(CallStep::Calling);
        self.line(call::Input::Call {
            peer,
            call: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
            streams: call::streams(),
            sources,
        })
        .await;
        Ok(Reply::Call(number))
    }

    pub(super) fn take_calls(&mut self, face: u64, policy: CallPolicy) -> Result<Reply, Problem> {
        policy.media.config()?;
        if self
            .calls
            .policy
            .as_ref()
            .is_some_and(|(other, _)| *other != face)
        {
            return Err(Problem::failure(
                "another landline command with this data folder already answers calls",
            )
            .with_next("end that one first"));
        }
        self.calls.policy = Some((face, policy));
        Ok(Reply::Done)
    }

    pub(super) async fn answer_call(
        &mut self,
        face: u64,
        number: i64,
        accept: bool,
    ) -> Result<Reply, Problem> {
        self.need_call(number)?;
        if !self.calls.line.is_incoming() {
            return Err(Problem::failure("this call needs no answer any more"));
        }
        if accept {
            self.pick_up(face).await;
        } else {
            self.line(call::Input::End(End::ours(Cause::Declined)))
                .await;
        }
        Ok(Reply::Done)
    }

    pub(super) async fn end_call(&mut self, number: i64) -> Result<Reply, Problem> {
        if self.need_call(number).is_ok() {
            self.line(call::Input::End(End::ours(Cause::HungUp))).await;
        }
        Ok(Reply::Done)
    }

    pub(super) fn need_call(&self, number: i64) -> Result<(), Problem> {
        match &self.calls.current {
            Some(current) if current.record.number == number => Ok(()),
            _ => Err(Problem::failure("this call is over")),
        }
    }

    pub(super) fn want_media(&self, wish: Wish) {
        if let Some((media, _)) = self.calls.current.as_ref().and_then(|c| c.running.as_ref()) {
            media.want(wish);
        }
    }

    /// A face went, and its call with it.
    pub(super) async fn hang_up_for(&mut self, face: u64) {
        let decided = self
            .calls
            .policy
            .take_if(|(owner, _)| *owner == face)
            .is_some();
        let current = self.calls.current.as_ref();
        let owned = current.is_some_and(|current| current.face == Some(face));
        if owned {
            self.line(call::Input::End(End::ours(Cause::HungUp))).await;
        } else if decided && self.calls.line.is_incoming() {
            self.line(call::Input::End(End::ours(Cause::Unavailable)))
                .await;
        }
    }

    // What happens on the line.

    /// Feeds the line and does what it asks for.
    pub(super) async fn line(&mut self, input: call::Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.calls.line.handle_input(Instant::now(), input);
            while let Some(output) = self.calls.line.poll_output() {
                inputs.extend(self.on_line_output(output).await);
            }
        }
    }

    async fn on_line_output(&mut self, output: Output) -> Option<call::Input> {
        match output {
            Output::Dial(peer) => {
                let link = self.peers.get(&peer).and_then(|state| state.ready_link());
                if let Some(calls) = link.and_then(|link| link.calls) {
                    return Some(call::Input::Linked(peer, calls));
                }
                self.dial_for_call(peer).await;
            }
            Output::Check(peer) => {
                if let Some(link) = self.peers.get(&peer).and_then(|state| state.ready_link()) {
                    link.check();
                }
            }
            Output::Send(peer, frame) => {
                if let Some(link) = self.peers.get(&peer).and_then(|state| state.ready_link()) {
                    link.send_call(frame);
                }
            }
            Output::Ringing => {
                self.play(Tone::RingBack);
                self.tell_call(CallStep::Ringing);
            }
            Output::Incoming { peer, sources } => return self.on_incoming(peer, sources).await,
            Output::Begin { peer, sources, .. } => return self.on_begin(peer, sources),
            Output::Sources { ours, theirs } => {
                self.want_media(Wish::Held(ours.held || theirs.held));
                self.want_media(Wish::remote(&theirs));
                self.want_media(Wish::peer_cap(theirs.max_kilobits));
                self.tell_call(CallStep::Sources { ours, theirs });
            }
            Output::Quality(quality) => self.tell_call(CallStep::Quality { quality }),
            Output::Silent(silent) => self.tell_call(CallStep::Silent { silent }),
            Output::Ended {
                peer,
                answered,
                end,
            } => {
                self.calls.ended_at = Some(Instant::now());
                self.on_call_ended(peer, answered, end).await;
            }
            Output::Refused { peer, cause } => self.on_refused(peer, cause).await,
        }
        None
    }

    /// A connection is usable and the other side has said what it knows: the line is told once.
    pub(super) async fn line_linked(&mut self, peer: PeerId) {
        let Some(link) = self
            .peers
            .get_mut(&peer)
            .and_then(|state| state.link.as_mut())
        else {
            return;
        };
        let (true, Some(calls), false) = (link.ready, link.calls, link.lined) else {
            return;
        };
        link.lined = true;
        let conn = link.conn.clone();
        if self.calls.line.peer() == Some(peer)
            && let Some((_, carrier)) = self.calls.current.as_ref().and_then(|c| c.running.as_ref())
        {
            carrier.attach(Some(conn));
        }
        self.line(call::Input::Linked(peer, calls)).await;
    }

    /// The connection to a peer ended.
    pub(super) async fn line_unlinked(&mut self, peer: PeerId) {
        if self.calls.line.peer() == Some(peer)
            && let Some((_, carrier)) = self.calls.current.as_ref().and_then(|c| c.running.as_ref())
        {
            carrier.attach(None);
        }
        self.line(call::Input::Unlinked(peer)).await;
    }

    pub(super) async fn on_call_frame(&mut self, peer: PeerId, frame: CallFrame) {
        if self.standing(&peer) != Standing::Blocked {
            self.line(call::Input::Frame(peer, frame)).await;
        }
    }

    async fn on_incoming(&mut self, peer: PeerId, sources: Sources) -> Option<call::Input> {
        let turn_away = |cause| Some(call::Input::End(End::ours(cause)));
        let record = self.log_incoming(peer).await;
        let policy = self.calls.policy.clone();
        self.calls.current = Some(Current {
            record,
            face: policy.as_ref().map(|(face, _)| *face),
            choice: policy
                .as_ref()
                .map(|(_, policy)| (*policy.media).clone())
                .unwrap_or_default(),
            missing: Missing::default(),
            began: None,
            running: None,
            ringer: None,
            relay_only: false,
        });
        let Some((_, policy)) = policy else {
            return turn_away(Cause::Unavailable);
        };
        let known = self.standing(&peer) == Standing::Accepted;
        match policy.accept {
            Accept::All => Some(self.answer()),
            Accept::Contacts if known => Some(self.answer()),
            // A stranger learns no more than that nobody answers here.
            Accept::Contacts | Accept::None => turn_away(Cause::Unavailable),
            Accept::Ask => {
                let from = Box::new(self.view(&peer));
                self.play(Tone::Ring);
                self.tell_call(CallStep::Incoming { from, sources });
                Some(call::Input::Ring)
            }
        }
    }

    /// Notes a call that comes. Of strangers only some are kept; number 0 stands for none.
    async fn log_incoming(&mut self, peer: PeerId) -> CallRecord {
        let mut record = fresh(peer, false);
        let stored = record.clone();
        let stranger = self.standing(&peer) != Standing::Accepted;
        let kept = self
            .store
            .run(move |db| {
                if stranger && store::calls::count_incoming(db, &peer)? >= MAX_OF_STRANGER {
                    return Ok(0);
                }
                store::calls::begin(db, &stored)
            })
            .await;
        record.number = note(kept, "a call").unwrap_or(0);
        record
    }

    async fn pick_up(&mut self, face: u64) {
        if let Some(current) = &mut self.calls.current {
            current.face = Some(face);
        }
        let answer = self.answer();
        self.line(answer).await;
    }

    fn answer(&self) -> call::Input {
        let sources = self
            .calls
            .current
            .as_ref()
            .map(|current| current.choice.sources());
        call::Input::Answer {
            streams: call::streams(),
            sources: sources.unwrap_or_default(),
        }
    }

    fn on_begin(&mut self, peer: PeerId, sources: Sources) -> Option<call::Input> {
        let conn = self
            .peers
            .get(&peer)
            .and_then(|state| state.ready_link())
            .map(|link| link.conn.clone());
        let throttle = self.calls.throttle_of(peer);
        let transfers = self.sends_to(&peer);
        let inbox = self.inputs.clone();
        let current = self.calls.current.as_mut()?;
        let config = match current.choice.config() {
            Ok(config) => config,
            Err(problem) => {
                let end = End::ours(Cause::Failed).because(problem.what);
                return Some(call::Input::End(end));
            }
        };
        let carrier = Arc::new(Carrier::new(throttle));
        carrier.set_transfer(transfers);
        carrier.attach(conn);
        let media = Media::start(current.record.number, config, Arc::clone(&carrier), inbox);
        if transfers {
            media.want(Wish::Transfer(true));
        }
        media.want(Wish::peer_cap(sources.max_kilobits));
        media.want(Wish::remote(&sources));
        current.ringer = None;
        current.began = Some(Instant::now());
        current.running = Some((media, carrier));
        self.tell_call(CallStep::Began { sources });
        None
    }

    fn play(&mut self, tone: Tone) {
        if let Some(current) = &mut self.calls.current
            && let Some(speaker) = &current.choice.speaker
        {
            current.ringer = Ringer::start(tone, speaker);
        }
    }

    /// Transfers to the other side of the call came or went.
    pub(super) fn note_transfers(&self) {
        let Some(peer) = self.calls.line.peer() else {
            return;
        };
        if let Some((media, carrier)) = self.calls.current.as_ref().and_then(|c| c.running.as_ref())
        {
            let runs = self.sends_to(&peer);
            carrier.set_transfer(runs);
            media.want(Wish::Transfer(runs));
        }
    }

    fn sends_to(&self, peer: &PeerId) -> bool {
        self.transfers
            .iter()
            .any(|running| running.outgoing && running.peer == *peer)
    }

    /// What the media of a call tell.
    pub(super) async fn on_media(&mut self, number: i64, news: News) {
        if let News::Stopped(summary) = news {
            if let Some((record, problem)) = self.calls.ending.remove(&number) {
                self.tell_ended(record, summary, problem);
            } else if self.need_call(number).is_ok() {
                // They ended by themselves, and said why before if they knew.
                self.line(call::Input::End(End::ours(Cause::Failed))).await;
            }
            return;
        }
        if self.need_call(number).is_err() {
            return;
        }
        match news {
            News::Failed(why) => {
                let end = End::ours(Cause::Failed).because(why);
                self.line(call::Input::End(end)).await;
            }
            News::Heard => self.line(call::Input::Heard).await,
            News::Stats(stats) => {
                self.line(call::Input::Quality(quality(&stats))).await;
                self.tell_call(CallStep::Stats { stats });
            }
            News::Levels(levels) => self.tell_levels(levels),
            News::Event(what) => {
                self.note_device(&what).await;
                self.tell_call(CallStep::Media { what });
            }
            News::Stopped(_) => {}
        }
    }

    // Ends.

    async fn on_call_ended(&mut self, peer: PeerId, answered: bool, end: End) {
        let Some(current) = self.calls.current.take() else {
            return;
        };
        let Current {
            mut record,
            began,
            running,
            relay_only,
            ..
        } = current;
        if relay_only {
            self.set_relay_only(&peer);
        }
        record.outcome = outcome(record.outgoing, answered, &end);
        record.unseen = record.outcome == Outcome::Missed;
        record.elapsed_millis = began.map_or(0, |began| {
            u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
        });
        let problem = self.explain_end(&peer, record.outgoing, answered, &end);
        record.detail = problem.as_ref().map(|problem| problem.what.clone());
        self.keep_call(&record).await;
        match running {
            // Its media report when they have ended.
            Some((media, carrier)) if self.calls.ending.len() < MAX_ENDING => {
                self.calls.ending.insert(record.number, (record, problem));
                drop((media, carrier));
            }
            _ => self.tell_ended(record, None, problem),
        }
    }

    fn explain_end(
        &self,
        peer: &PeerId,
        outgoing: bool,
        answered: bool,
        end: &End,
    ) -> Option<Problem> {
        if outgoing || answered {
            return end.problem(&self.label(peer), answered);
        }
        let what = match end.cause {
            Cause::Declined if !end.by_them => return None,
            Cause::Unavailable => "nothing here took calls",
            Cause::Busy => "another call was running",
            _ => "nobody answered",
        };
        Some(Problem::new(Exit::Refused, what))
    }

    async fn keep_call(&self, record: &CallRecord) {
        if record.number == 0 {
            return;
        }
        let stored = record.clone();
        let kept = self
            .store
            .run(move |db| store::calls::update(db, &stored))
            .await;
        note(kept, "a call");
    }

    async fn on_refused(&mut self, peer: PeerId, cause: Cause) {
        if cause != Cause::Busy {
            return;
        }
        let mut record = self.log_incoming(peer).await;
        record.outcome = Outcome::Missed;
        record.unseen = true;
        record.detail = Some("another call was running".to_owned());
        self.keep_call(&record).await;
        self.tell_ended(record, None, None);
    }

    fn tell_ended(
        &mut self,
        record: CallRecord,
        summary: Option<Box<media::stats::Summary>>,
        problem: Option<Problem>,
    ) {
        let event = Event::Call {
            number: record.number,
            peer: record.peer,
            outgoing: record.outgoing,
            step: CallStep::Ended {
                record,
                summary,
                problem,
            },
        };
        self.faces.tell_all(&event);
    }

    fn tell_call(&mut self, step: CallStep) {
        let Some(current) = &self.calls.current else {
            return;
        };
        let event = Event::Call {
            number: current.record.number,
            peer: current.record.peer,
            outgoing: current.record.outgoing,
            step,
        };
        self.faces.tell_all(&event);
    }
}

/// The record of a call that begins now.
fn fresh(peer: PeerId, outgoing: bool) -> CallRecord {
    CallRecord {
        number: 0,
        peer,
        outgoing,
        outcome: Outcome::Running,
        detail: None,
        started_at_millis: now_millis(),
        elapsed_millis: 0,
        unseen: false,
    }
}

fn outcome(outgoing: bool, answered: bool, end: &End) -> Outcome {
    match (answered, outgoing, end.cause) {
        (true, _, Cause::Lost | Cause::Failed | Cause::Unreachable) => Outcome::Broken,
        (true, ..) => Outcome::Answered,
        (false, false, Cause::Declined) if !end.by_them => Outcome::Declined,
        (false, false, _) => Outcome::Missed,
        (false, true, Cause::Declined) => Outcome::Declined,
        (false, true, Cause::Busy) => Outcome::Busy,
        (false, true, Cause::Cancelled | Cause::HungUp | Cause::Shutdown) if !end.by_them => {
            Outcome::Cancelled
        }
        (false, true, Cause::NoAnswer) => Outcome::NoAnswer,
        (false, true, Cause::Unavailable | Cause::Unreachable | Cause::Lost | Cause::Shutdown) => {
            Outcome::Unreachable
        }
        (false, true, _) => Outcome::Failed,
    }
}

/// What the other side is told of how its media arrive.
fn quality(stats: &media::stats::Snapshot) -> Quality {
    let small = |number: u64| number as u32;
    let sum = |of: fn(&media::stats::VideoIn) -> u64| stats.video_in.iter().map(of).sum::<u64>();
    let network = &stats.network;
    let all = network.packets_received + network.packets_missing;
    let loss = (network.packets_missing * 10_000)
        .checked_div(all)
        .unwrap_or(0);
    Quality {
        frames_shown: small(sum(|video| video.frames_shown)),
        freezes: small(sum(|video| video.freeze_count)),
        frozen_millis: small(sum(|video| video.total_freezes_millis)),
        concealed_millis: small(stats.sound_in.concealed_samples / 48),
        loss: u16::try_from(loss).unwrap_or(u16::MAX),
    }
}

/// How a call that ended is told in one line, without the name of the other side.
pub(crate) fn in_words(record: &CallRecord) -> String {
    let detail = record
        .detail
        .as_ref()
        .map(|detail| printable(detail, " "))
        .unwrap_or_default();
    match record.outcome {
        Outcome::Running => "runs".to_owned(),
        Outcome::Interrupted => "interrupted: the program died".to_owned(),
        Outcome::Answered => talked(record),
        Outcome::Broken => format!("{}, then {detail}", talked(record)),
        Outcome::Missed if detail.is_empty() => "missed".to_owned(),
        Outcome::Missed => format!("missed: {detail}"),
        Outcome::Declined => "declined".to_owned(),
        Outcome::Busy => "busy".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::NoAnswer => "no answer".to_owned(),
        Outcome::Unreachable | Outcome::Failed if !detail.is_empty() => detail,
        Outcome::Unreachable => "not reached".to_owned(),
        Outcome::Failed => "failed".to_owned(),
    }
}

fn talked(record: &CallRecord) -> String {
    let seconds = record.elapsed_millis / 1_000;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02} min"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_from_each_side() {
        let theirs = |cause| End {
            by_them: true,
            ..End::ours(cause)
        };
        for (outgoing, answered, end, wanted) in [
            (true, true, End::ours(Cause::HungUp), Outcome::Answered),
            (false, true, theirs(Cause::Shutdown), Outcome::Answered),
            (true, true, End::ours(Cause::Lost), Outcome::Broken),
            (true, false, theirs(Cause::Declined), Outcome::Declined),
            (false, false, End::ours(Cause::Declined), Outcome::Declined),
            (false, false, theirs(Cause::Cancelled), Outcome::Missed),
            (false, false, End::ours(Cause::NoAnswer), Outcome::Missed),
            (false, false, End::ours(Cause::Unavailable), Outcome::Missed),
            (true, false, theirs(Cause::Busy), Outcome::Busy),
            (true, false, End::ours(Cause::Cancelled), Outcome::Cancelled),
            (
                true,
                false,
                theirs(Cause::Unavailable),
                Outcome::Unreachable,
            ),
            (true, false, theirs(Cause::Unsupported), Outcome::Failed),
        ] {
            assert_eq!(outcome(outgoing, answered, &end), wanted, "{end:?}");
        }
    }

    #[test]
    fn lengths_are_told_as_people_do() {
        let mut record = fresh(PeerId::from_bytes([1; 32]), true);
        record.outcome = Outcome::Answered;
        for (millis, words) in [
            (9_900, "9 s"),
            (61_000, "1:01 min"),
            (3_661_000, "1:01:01 h"),
        ] {
            record.elapsed_millis = millis;
            assert_eq!(in_words(&record), words);
        }
    }
}
