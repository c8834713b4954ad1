//! One peer's chat as a state machine: what waits in the outbox, what is on its way, when to dial, when to
//! send again. Pure: time comes in as an argument, the store and the connection belong to the engine.
//!
//! The rule: a message is stored before [`Input::Queue`], and it stays in the outbox until the other side
//! says that it stored it too. Everything that is sent may be sent again; (sender, id) makes that harmless.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::wire::{ChatFrame, Delivered, MAX_READ_IDS, Message, Read, ReadSeen};

/// Messages of one outbox in memory; the rest waits in the store.
pub const MAX_QUEUED: usize = 256;
/// Messages sent and not yet acknowledged: enough to fill a long path, little enough to send again.
const MAX_IN_FLIGHT: usize = 32;
/// Read marks in memory that the other side has not confirmed; the rest waits in the store.
const MAX_READS: usize = 1_024;
/// After so long without an answer on a living connection, it is asked whether it lives.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// First and last pause between sending the unanswered again on a living connection.
const RESEND: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// First and last pause between attempts to reach a peer that is said to be online.
const REDIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What happens to a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A stored message of ours is to be sent.
    Queue(Message),
    /// Our person has read these messages of the peer; stored.
    Reads(Vec<Uuid>),
    /// What [`Output::Refill`] asked for: the oldest unacknowledged messages, the unconfirmed read marks,
    /// and whether the store has still more.
    Refilled {
        /// Oldest first.
        messages: Vec<Message>,
        /// In any order.
        reads: Vec<Uuid>,
        /// Neither list was complete.
        more: bool,
    },
    /// The relay says that the peer is there, or not.
    Online(bool),
    /// A connection is usable.
    Connected,
    /// The connection ended.
    Disconnected,
    /// What [`Output::Dial`] started came to nothing.
    DialFailed,
    /// The peer said something.
    Frame(ChatFrame),
    /// The message of [`Output::Store`] is in the store.
    Stored(Uuid),
    /// The marks of [`Output::ReadByPeer`] are in the store.
    ReadStored(Vec<Uuid>),
    /// The deadline of [`Chat::poll_timeout`] passed.
    Timeout,
}

/// What a chat asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make a connection; ends in [`Input::Connected`] or [`Input::DialFailed`].
    Dial,
    /// Send this on the connection.
    Send(ChatFrame),
    /// Store the peer's message, which may be there already, then [`Input::Stored`].
    Store(Message),
    /// Mark our message delivered.
    Delivered(Uuid),
    /// Mark our messages read, then [`Input::ReadStored`].
    ReadByPeer(Vec<Uuid>),
    /// The peer confirmed our read marks: they need not be told again.
    ReadSeen(Vec<Uuid>),
    /// Hand in what the store has, by [`Input::Refilled`].
    Refill,
    /// Nothing was answered for a while: find out whether the connection lives, and close it if not.
    CheckConnection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Dialling,
    Up,
}

/// See the module.
#[derive(Debug)]
pub struct Chat {
    /// Ours, oldest first; the first `in_flight` are sent on this connection.
    outbox: VecDeque<Message>,
    in_flight: usize,
    /// Read marks that the peer has not confirmed.
    reads: BTreeSet<Uuid>,
    reads_in_flight: bool,
    /// The store has more than memory, or may have.
    more: bool,
    /// [`Output::Refill`] is out.
    refilling: bool,
    link: Link,
    online: bool,
    failures: u32,
    /// Something was answered on this connection.
    answered: bool,
    redial_at: Option<Instant>,
    /// Deadline of the oldest unanswered frame, and how often it passed.
    answer_at: Option<Instant>,
    unanswered: u32,
    outputs: VecDeque<Output>,
}

impl Chat {
    /// A chat of which the store may know more: the first output is [`Output::Refill`].
    pub fn new() -> Self {
        Self {
            outbox: VecDeque::new(),
            in_flight: 0,
            reads: BTreeSet::new(),
            reads_in_flight: false,
            more: true,
            refilling: true,
            link: Link::Down,
            online: false,
            failures: 0,
            answered: false,
            redial_at: None,
            answer_at: None,
            unanswered: 0,
            outputs: VecDeque::from([Output::Refill]),
        }
    }

    /// Whether nothing is left to send or to hear.
    pub fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.reads.is_empty() && !self.more
    }

    /// Takes one input; drain [`Chat::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Queue(message) => self.queue(message),
            Input::Reads(ids) => self.add_reads(ids),
            Input::Refilled {
                messages,
                reads,
                more,
            } => {
                self.more = more;
                self.refilling = false;
                for message in messages {
                    if !self.outbox.iter().any(|known| known.id == message.id) {
                        self.push(message);
                    }
                }
                self.add_reads(reads);
            }
            Input::Online(online) => self.on_online(online),
            Input::Connected => self.on_connected(),
            Input::Disconnected => self.on_disconnected(now),
            Input::DialFailed => self.on_dial_failed(now),
            Input::Frame(frame) => self.on_frame(now, frame),
            Input::Stored(id) => self.answer(ChatFrame::Delivered(Delivered { id })),
            Input::ReadStored(ids) => self.answer(ChatFrame::ReadSeen(ReadSeen { ids })),
            Input::Timeout => self.on_timeout(now),
        }
        self.advance(now);
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call back with [`Input::Timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.link {
            Link::Up => self.answer_at,
            Link::Down if self.has_work() && self.online => self.redial_at,
            Link::Down | Link::Dialling => None,
        }
    }

    fn has_work(&self) -> bool {
        !self.outbox.is_empty() || !self.reads.is_empty()
    }

    fn queue(&mut self, message: Message) {
        // While the store has messages that memory has not, a new one waits behind them there.
        if self.more || self.outbox.len() >= MAX_QUEUED {
            self.more = true;
        } else {
            self.outbox.push_back(message);
        }
    }

    fn push(&mut self, message: Message) {
        if self.outbox.len() < MAX_QUEUED {
            self.outbox.push_back(message);
        } else {
            self.more = true;
        }
    }

    fn add_reads(&mut self, ids: Vec<Uuid>) {
        for id in ids {
            if self.reads.len() >= MAX_READS {
                self.more = true;
                return;
            }
            self.reads.insert(id);
        }
    }

    fn on_online(&mut self, online: bool) {
        if online && !self.online {
            // Somebody came: whatever failed before says nothing about now.
            self.failures = 0;
            self.redial_at = None;
            if self.link == Link::Up {
                // It may be another process than the one that our connection belongs to.
                self.outputs.push_back(Output::CheckConnection);
            }
        }
        self.online = online;
    }

    fn on_connected(&mut self) {
        self.on_down();
        self.link = Link::Up;
        self.answered = false;
        self.redial_at = None;
    }

    /// A connection over which nothing was answered is no better than none: somebody who takes
    /// connections only to end them is not dialled without a pause.
    fn on_disconnected(&mut self, now: Instant) {
        let was_up = self.link == Link::Up;
        self.on_down();
        if was_up && !self.answered {
            self.pause(now);
        }
    }

    fn on_down(&mut self) {
        self.link = Link::Down;
        self.in_flight = 0;
        self.reads_in_flight = false;
        self.answer_at = None;
        self.unanswered = 0;
    }

    fn on_dial_failed(&mut self, now: Instant) {
        if self.link != Link::Dialling {
            return;
        }
        self.link = Link::Down;
        self.pause(now);
    }

    fn pause(&mut self, now: Instant) {
        let factor = 1 << self.failures.min(16);
        let pause = REDIAL.0.saturating_mul(factor).min(REDIAL.1);
        self.failures = self.failures.saturating_add(1);
        self.redial_at = Some(now + pause);
    }

    fn on_frame(&mut self, now: Instant, frame: ChatFrame) {
        match frame {
            ChatFrame::Message(message) => self.outputs.push_back(Output::Store(message)),
            ChatFrame::Delivered(Delivered { id }) => {
                if let Some(index) = self.outbox.iter().position(|message| message.id == id) {
                    self.outbox.remove(index);
                    if index < self.in_flight {
                        self.in_flight -= 1;
                    }
                    self.outputs.push_back(Output::Delivered(id));
                    self.on_progress(now);
                }
            }
            ChatFrame::Read(Read { ids }) => self.outputs.push_back(Output::ReadByPeer(ids)),
            ChatFrame::ReadSeen(ReadSeen { ids }) => {
                for id in &ids {
                    self.reads.remove(id);
                }
                self.reads_in_flight = false;
                self.outputs.push_back(Output::ReadSeen(ids));
                self.on_progress(now);
            }
        }
    }

    /// The peer answers: the deadline starts anew for what is still on its way.
    fn on_progress(&mut self, now: Instant) {
        self.answered = true;
        self.failures = 0;
        self.unanswered = 0;
        self.answer_at = self.is_waiting().then(|| now + ANSWER_LIMIT);
    }

    fn is_waiting(&self) -> bool {
        self.in_flight > 0 || self.reads_in_flight
    }

    fn on_timeout(&mut self, now: Instant) {
        if self.link != Link::Up || self.answer_at.is_none_or(|at| at > now) {
            return;
        }
        self.outputs.push_back(Output::CheckConnection);
        if self.unanswered > 0 {
            // It lived the last time; perhaps the peer could not store (a full disk): say it again.
            self.in_flight = 0;
            self.reads_in_flight = false;
        }
        let pause = RESEND
            .0
            .saturating_mul(1 << self.unanswered.min(16))
            .min(RESEND.1);
        self.unanswered = self.unanswered.saturating_add(1);
        self.answer_at = Some(now + pause);
    }

    fn answer(&mut self, frame: ChatFrame) {
        // Without a connection the peer will send again, and be answered then.
        if self.link == Link::Up {
            self.outputs.push_back(Output::Send(frame));
        }
    }

    /// Sends, dials or refills as far as the state allows.
    fn advance(&mut self, now: Instant) {
        let has_room = self.outbox.len() <= MAX_QUEUED / 2 && self.reads.len() <= MAX_READS / 2;
        if self.more && !self.refilling && has_room {
            self.refilling = true;
            self.outputs.push_back(Output::Refill);
        }
        match self.link {
            Link::Up => self.send(now),
            Link::Down
                if self.has_work() && self.online && self.redial_at.is_none_or(|at| at <= now) =>
            {
                self.redial_at = None;
                self.link = Link::Dialling;
                self.outputs.push_back(Output::Dial);
            }
            Link::Down | Link::Dialling => {}
        }
    }

    fn send(&mut self, now: Instant) {
        while self.in_flight < self.outbox.len().min(MAX_IN_FLIGHT) {
            let message = self.outbox[self.in_flight].clone();
            self.outputs
                .push_back(Output::Send(ChatFrame::Message(message)));
            self.in_flight += 1;
        }
        if !self.reads_in_flight && !self.reads.is_empty() {
            let ids = self.reads.iter().take(MAX_READ_IDS).copied().collect();
            self.outputs
                .push_back(Output::Send(ChatFrame::Read(Read { ids })));
            self.reads_in_flight = true;
        }
        if self.is_waiting() && self.answer_at.is_none() {
            self.answer_at = Some(now + ANSWER_LIMIT);
        }
    }
}

impl Default for Chat {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Harness {
        chat: Chat,
        now: Instant,
    }

    impl Harness {
        /// A chat whose store is empty.
        fn new() -> Self {
            let mut harness = Self {
                chat: Chat::new(),
                now: Instant::now(),
            };
            assert_eq!(harness.drain(), [Output::Refill]);
            assert_eq!(harness.refill(vec![], false), []);
            harness
        }

        fn refill(&mut self, messages: Vec<Message>, more: bool) -> Vec<Output> {
            self.feed(Input::Refilled {
                messages,
                reads: vec![],
                more,
            })
        }

        fn feed(&mut self, input: Input) -> Vec<Output> {
            self.chat.handle_input(self.now, input);
            self.drain()
        }

        fn drain(&mut self) -> Vec<Output> {
            std::iter::from_fn(|| self.chat.poll_output()).collect()
        }

        fn sleep(&mut self) -> Vec<Output> {
            self.now = self.chat.poll_timeout().expect("something is due");
            self.feed(Input::Timeout)
        }
    }

    fn message(number: u128) -> Message {
        let text = format!("message {number}");
        Message {
            id: Uuid::from_u128(number),
            text,
            sent_at_millis: 0,
            reply_to: None,
        }
    }

    fn send(number: u128) -> Output {
        Output::Send(ChatFrame::Message(message(number)))
    }

    fn delivered(number: u128) -> Input {
        Input::Frame(ChatFrame::Delivered(Delivered {
            id: Uuid::from_u128(number),
        }))
    }

    #[test]
    fn a_message_waits_for_the_peer_and_is_sent_until_acknowledged() {
        let mut h = Harness::new();
        assert_eq!(h.feed(Input::Queue(message(1))), [], "not online");
        assert_eq!(h.feed(Input::Online(true)), [Output::Dial]);
        assert_eq!(h.feed(Input::Queue(message(2))), [], "dialling");
        assert_eq!(h.feed(Input::Connected), [send(1), send(2)]);
        assert_eq!(
            h.feed(delivered(1)),
            [Output::Delivered(Uuid::from_u128(1))]
        );
        assert_eq!(h.feed(Input::Disconnected), [Output::Dial]);
        assert_eq!(
            h.feed(Input::Connected),
            [send(2)],
            "only the unacknowledged one"
        );
        assert_eq!(
            h.feed(delivered(2)),
            [Output::Delivered(Uuid::from_u128(2))]
        );
        assert_eq!(h.feed(delivered(2)), [], "twice is harmless");
        assert!(h.chat.is_idle());
        assert_eq!(h.chat.poll_timeout(), None);
    }

    #[test]
    fn dialling_backs_off_until_presence_changes() {
        let mut h = Harness::new();
        h.feed(Input::Queue(message(1)));
        h.feed(Input::Online(true));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(h.feed(Input::DialFailed), []);
            let before = h.now;
            assert_eq!(h.sleep(), [Output::Dial]);
            pauses.push((h.now - before).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        h.feed(Input::DialFailed);
        assert_eq!(h.feed(Input::Online(false)), []);
        assert_eq!(h.chat.poll_timeout(), None, "nobody is dialled who is away");
        assert_eq!(h.feed(Input::Online(true)), [Output::Dial]);
    }

    #[test]
    fn connections_that_answer_nothing_count_as_failures() {
        let mut h = Harness::new();
        h.feed(Input::Queue(message(1)));
        h.feed(Input::Queue(message(2)));
        h.feed(Input::Online(true));
        let mut pauses = Vec::new();
        for _ in 0..4 {
            h.feed(Input::Connected);
            assert_eq!(h.feed(Input::Disconnected), [], "not at once");
            let before = h.now;
            assert_eq!(h.sleep(), [Output::Dial]);
            pauses.push((h.now - before).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8]);
        h.feed(Input::Connected);
        h.feed(delivered(1));
        assert_eq!(h.feed(Input::Disconnected), [Output::Dial], "it was good");
    }

    #[test]
    fn the_window_is_bounded_and_order_is_kept() {
        let mut h = Harness::new();
        for number in 0..100 {
            h.feed(Input::Queue(message(number)));
        }
        h.feed(Input::Online(true));
        let sent = h.feed(Input::Connected);
        assert_eq!(sent, (0..32).map(send).collect::<Vec<_>>());
        let outputs = h.feed(delivered(3));
        assert_eq!(outputs, [Output::Delivered(Uuid::from_u128(3)), send(32)]);
    }

    #[test]
    fn a_long_outbox_stays_in_the_store_and_comes_in_order() {
        let mut h = Harness::new();
        let total = MAX_QUEUED as u128 + 50;
        for number in 0..total {
            h.feed(Input::Queue(message(number)));
        }
        h.feed(Input::Online(true));
        let mut sent = h.feed(Input::Connected);
        let mut acknowledged = 0;
        while acknowledged < total {
            let outputs = h.feed(delivered(acknowledged));
            acknowledged += 1;
            for output in outputs {
                if output == Output::Refill {
                    let stored: Vec<_> = (acknowledged..total)
                        .take(MAX_QUEUED)
                        .map(message)
                        .collect();
                    sent.extend(h.refill(stored, false));
                } else if matches!(output, Output::Send(_)) {
                    sent.push(output);
                }
            }
        }
        assert_eq!(sent, (0..total).map(send).collect::<Vec<_>>());
        assert!(h.chat.is_idle());
    }

    #[test]
    fn incoming_messages_are_acknowledged_after_they_are_stored() {
        let mut h = Harness::new();
        h.feed(Input::Connected);
        let incoming = Input::Frame(ChatFrame::Message(message(5)));
        assert_eq!(h.feed(incoming), [Output::Store(message(5))]);
        let id = Uuid::from_u128(5);
        let answer = Output::Send(ChatFrame::Delivered(Delivered { id }));
        assert_eq!(h.feed(Input::Stored(id)), [answer]);
        h.feed(Input::Disconnected);
        assert_eq!(h.feed(Input::Stored(id)), [], "nobody to tell");
    }

    #[test]
    fn read_marks_are_repeated_until_confirmed() {
        let mut h = Harness::new();
        let ids = vec![Uuid::from_u128(1), Uuid::from_u128(2)];
        let tell = Output::Send(ChatFrame::Read(Read { ids: ids.clone() }));
        h.feed(Input::Online(true));
        assert_eq!(h.feed(Input::Reads(ids.clone())), [Output::Dial]);
        for _ in 0..2 {
            assert_eq!(h.feed(Input::Connected), std::slice::from_ref(&tell));
            h.feed(Input::Disconnected);
        }
        h.feed(Input::Connected);
        let seen = Input::Frame(ChatFrame::ReadSeen(ReadSeen { ids: ids.clone() }));
        assert_eq!(h.feed(seen), [Output::ReadSeen(ids)]);
        assert!(h.chat.is_idle());
    }

    #[test]
    fn silence_on_a_living_connection_is_checked_and_then_repeated() {
        let mut h = Harness::new();
        h.feed(Input::Queue(message(1)));
        h.feed(Input::Online(true));
        h.feed(Input::Connected);
        assert_eq!(
            h.sleep(),
            [Output::CheckConnection],
            "after the answer limit"
        );
        assert_eq!(h.sleep(), [Output::CheckConnection, send(1)], "said again");
        let outputs = h.feed(delivered(1));
        assert_eq!(outputs, [Output::Delivered(Uuid::from_u128(1))]);
        assert_eq!(h.chat.poll_timeout(), None);
    }

    #[test]
    fn a_returning_peer_makes_us_doubt_the_old_connection() {
        let mut h = Harness::new();
        h.feed(Input::Connected);
        assert_eq!(h.feed(Input::Online(true)), [Output::CheckConnection]);
        assert_eq!(h.feed(Input::Online(true)), [], "only a change counts");
    }
}
