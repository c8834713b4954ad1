//! A thorough look at the NAT in front of us, for whoever asks: mapping and allocation from several sockets,
//! filtering by answers from elsewhere (RFC 5780 §4.4), hairpinning by packets to ourselves (§4.5), and how far
//! the relay and its clock are. An [`Exam`] asks from sockets of its own, since a socket that has spoken with
//! both ports of a server shows nothing any more; about thirty small packets in all, in a few round trips.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::nat::{Filtering, Mapping, NatReport, Sample};
use crate::stun::{self, Answer, Request};

/// First wait for an answer (RFC 8489 §6.2.1); doubled for each further question while nothing has come.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Later waits are twice the round trip and this, for jitter, within these bounds.
const MARGIN: Duration = Duration::from_millis(100);
const MIN_WAIT: Duration = Duration::from_millis(150);
const MAX_WAIT: Duration = Duration::from_secs(1);
/// How often a question is sent at most. Of a question and its answer each lost with 5 %, a thousandth of the
/// silences would be taken for a filter.
const MAX_ASKED: usize = 3;

/// The sockets that an [`Exam`] wants: the first two are examined, the others only sample ports.
pub const EXAM_SOCKETS: usize = 7;

/// Whom an [`Exam`] asks, and who does.
#[derive(Debug, Clone)]
pub struct ExamPlan {
    /// The relay's address and first port.
    pub first: SocketAddr,
    /// Its second port, if it has one.
    pub second: Option<SocketAddr>,
    /// Addresses of our interfaces.
    pub own: Vec<IpAddr>,
    /// The local port of each socket, at least two and at most [`EXAM_SOCKETS`].
    pub ports: Vec<u16>,
    /// Makes the transactions unforeseeable.
    pub seed: [u8; 32],
}

/// What an [`Exam`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExamReport {
    /// The NAT.
    pub nat: NatReport,
    /// Each port of the relay, and how long a question to it took; `None` where it is silent.
    pub servers: Vec<(SocketAddr, Option<Duration>)>,
    /// The relay's time, µs since 1970, and when ours it was.
    pub clock: Option<(u64, Instant)>,
}

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// How a server sees a socket.
    See,
    /// Whether an answer from another port gets in.
    OtherPort,
    /// Whether one from another address and port does.
    Elsewhere,
    /// Whether a packet to ourselves gets in.
    Hairpin,
}

#[derive(Debug)]
struct Question {
    aim: Aim,
    socket: usize,
    to: SocketAddr,
    /// From where the answer comes; that of a hairpin is not known before.
    from: Option<SocketAddr>,
    request: Request,
    /// When it was sent, each time.
    sent_at: Vec<Instant>,
    again_at: Instant,
    answer: Option<Answer>,
    round_trip: Option<Duration>,
    /// It was asked often enough, and nobody answered.
    given_up: bool,
}

impl Question {
    /// Whether an answer is waited for.
    fn is_open(&self) -> bool {
        self.answer.is_none() && !self.given_up
    }

    /// Which attempt has this transaction. Attempts differ in the last byte, so that each has a round trip of
    /// its own.
    fn attempt(&self, transaction: &[u8; 12]) -> Option<Instant> {
        let is_ours = self.request.transaction[..11] == transaction[..11];
        let attempt = usize::from(transaction[11]);
        self.sent_at.get(attempt).copied().filter(|_| is_ours)
    }
}

/// How far an exam is. Each stage begins when the questions of the one before are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Contact,
    Filter,
    Map,
    Sample,
    Hairpin,
    Over,
}

/// See the module. Feed it with packets and time, drain [`Exam::poll_transmit`], sleep until
/// [`Exam::poll_timeout`]; it is over when that is `None`.
#[derive(Debug)]
pub struct Exam {
    plan: ExamPlan,
    random: StdRng,
    stage: Stage,
    /// The socket that has reached the relay: the first one, unless only the second port answers.
    main: usize,
    questions: Vec<Question>,
    transmits: VecDeque<(usize, SocketAddr, Vec<u8>)>,
    wait: Duration,
    clock: Option<(u64, Instant, Duration)>,
}

impl Exam {
    /// Begins; the first packets can be fetched at once.
    pub fn start(now: Instant, plan: ExamPlan) -> Self {
        let mut exam = Self {
            random: StdRng::from_seed(plan.seed),
            plan,
            stage: Stage::Contact,
            main: 0,
            questions: Vec::new(),
            transmits: VecDeque::new(),
            wait: FIRST_WAIT,
            clock: None,
        };
        let first = exam.plan.first;
        exam.ask(now, Aim::See, 0, first);
        if exam.plan.ports.len() > 1 {
            let other = exam.plan.second.unwrap_or(first);
            exam.ask(now, Aim::See, 1, other);
        }
        exam.handle_timeout(now);
        exam
    }

    /// Takes a packet that came to a socket; says whether it answered a question.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        socket: usize,
        from: SocketAddr,
        packet: &[u8],
    ) -> bool {
        let Some(taken) = self.take(now, socket, from, packet) else {
            return false;
        };
        if let Some(round_trip) = taken {
            let wait = (round_trip * 2 + MARGIN).clamp(MIN_WAIT, MAX_WAIT);
            // What waits for a server that is silent need not wait any longer than for the other one.
            for question in &mut self.questions {
                if let Some(sent_at) = question.sent_at.last() {
                    question.again_at = question.again_at.min(*sent_at + wait);
                }
            }
            self.wait = wait;
        }
        self.advance(now);
        true
    }

    /// Time has passed: asks again where that is due, and goes on where nothing will come any more.
    pub fn handle_timeout(&mut self, now: Instant) {
        for at in 0..self.questions.len() {
            let question = &mut self.questions[at];
            if !question.is_open() || question.again_at > now {
                continue;
            }
            if question.sent_at.len() < MAX_ASKED {
                self.send(now, at);
            } else {
                question.given_up = true;
            }
        }
        self.advance(now);
    }

    /// What to send next: from which socket, where to, and what.
    pub fn poll_transmit(&mut self) -> Option<(usize, SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// When to call [`Exam::handle_timeout`]; `None` when the exam is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open = self.questions.iter();
        let open = open.filter(|question| question.is_open());
        let next = open.map(|question| question.again_at).min();
        next.filter(|_| self.stage != Stage::Over)
    }

    /// What was found, once it is over.
    pub fn report(&self) -> Option<ExamReport> {
        if self.stage != Stage::Over {
            return None;
        }
        let servers = [Some(self.plan.first), self.plan.second];
        let servers: Vec<_> = servers.into_iter().flatten().collect();
        let round_trip = |server: &SocketAddr| {
            let answered = self.seen().filter(|question| question.to == *server);
            let fastest = answered.filter_map(|question| question.round_trip).min();
            (*server, fastest)
        };
        let servers: Vec<_> = servers.iter().map(round_trip).collect();
        let silent = servers.iter().filter(|(_, answered)| answered.is_none());
        let silent = silent.map(|(server, _)| *server).collect();
        let mut nat = NatReport::of(&self.samples(), silent, &self.plan.own);
        nat.filtering = self.filtering();
        nat.hairpin = self.hairpin();
        Some(ExamReport {
            nat,
            servers,
            clock: self.clock.map(|(micros, at, _)| (micros, at)),
        })
    }

    /// The question that this packet answers is taken as answered; gives its round trip if a server answered.
    fn take(
        &mut self,
        now: Instant,
        socket: usize,
        from: SocketAddr,
        packet: &[u8],
    ) -> Option<Option<Duration>> {
        if let Ok(transaction) = stun::parse_indication(packet) {
            let question = self.questions.iter_mut().find(|question| {
                question.aim == Aim::Hairpin
                    && question.socket != socket
                    && question.attempt(&transaction).is_some()
            })?;
            question.answer.get_or_insert(Answer {
                transaction,
                mapped: from,
                other: None,
                time_micros: None,
            });
            return Some(None);
        }
        let answer = stun::parse_answer(packet).ok()?;
        let question = self.questions.iter_mut().find(|question| {
            question.aim != Aim::Hairpin
                && question.socket == socket
                && question.from == Some(from)
                && question.attempt(&answer.transaction).is_some()
        })?;
        if question.answer.is_some() {
            return Some(None);
        }
        question.answer = Some(answer);
        let sent_at = question.attempt(&answer.transaction)?;
        let took = now.saturating_duration_since(sent_at);
        question.round_trip = Some(took);
        if let Some(micros) = answer.time_micros
            && self.clock.is_none_or(|(_, _, best)| took < best)
        {
            self.clock = Some((micros, sent_at + took / 2, took));
        }
        Some(Some(took))
    }

    fn advance(&mut self, now: Instant) {
        while self.stage != Stage::Over && !self.questions.iter().any(Question::is_open) {
            self.stage = match self.stage {
                Stage::Contact => self.begin_filter(now),
                Stage::Filter => self.begin_map(now),
                Stage::Map => self.begin_sample(now),
                Stage::Sample => self.begin_hairpin(now),
                Stage::Hairpin | Stage::Over => Stage::Over,
            };
        }
    }

    fn begin_filter(&mut self, now: Instant) -> Stage {
        let Some(contact) = self.seen().next() else {
            return Stage::Over;
        };
        let (main, answer) = (contact.socket, contact.answer);
        self.main = main;
        let follows = answer.is_some_and(|answer| answer.time_micros.is_some());
        if let Some(second) = self.plan.second.filter(|_| main == 0 && follows) {
            let change_port = Request {
                change_port: true,
                ..Request::full([0; 12])
            };
            self.ask_for(now, Aim::OtherPort, change_port, Some(second));
            let other = answer.and_then(|answer| answer.other);
            if other.is_some() {
                let change_both = Request {
                    change_address: true,
                    ..change_port
                };
                self.ask_for(now, Aim::Elsewhere, change_both, other);
            }
        }
        Stage::Filter
    }

    fn begin_map(&mut self, now: Instant) -> Stage {
        if self.main == 0 {
            if let Some(second) = self.plan.second {
                self.ask(now, Aim::See, 0, second);
            }
            if let Some(other) = self.other() {
                let first_port = SocketAddr::new(other.ip(), self.plan.first.port());
                self.ask(now, Aim::See, 0, first_port);
                self.ask(now, Aim::See, 0, other);
            }
        }
        Stage::Map
    }

    /// Ports are worth more samples only where each destination has another one.
    fn begin_sample(&mut self, now: Instant) -> Stage {
        let so_far = NatReport::of(&self.samples(), Vec::new(), &self.plan.own);
        if so_far.mapping == Some(Mapping::DestinationDependent) {
            for socket in 2..self.plan.ports.len().min(EXAM_SOCKETS) {
                let servers = [Some(self.plan.first), self.plan.second];
                for server in servers.into_iter().flatten() {
                    self.ask(now, Aim::See, socket, server);
                }
            }
        }
        Stage::Sample
    }

    /// Both sockets send, so that a filter may let in the one what answers the other.
    fn begin_hairpin(&mut self, now: Instant) -> Stage {
        let so_far = NatReport::of(&self.samples(), Vec::new(), &self.plan.own);
        let mapped = |socket| {
            let mut seen = self.seen().filter(|question| question.socket == socket);
            Some(seen.next()?.answer?.mapped)
        };
        if let (Some(one), Some(other)) = (mapped(0), mapped(1))
            && so_far.mapping != Some(Mapping::None)
        {
            self.ask(now, Aim::Hairpin, 0, other);
            self.ask(now, Aim::Hairpin, 1, one);
        }
        Stage::Hairpin
    }

    fn ask(&mut self, now: Instant, aim: Aim, socket: usize, to: SocketAddr) {
        let from = (aim != Aim::Hairpin).then_some(to);
        let request = Request::full([0; 12]);
        self.push(now, aim, socket, to, from, request);
    }

    /// Asks the first port, from the main socket, for an answer from elsewhere.
    fn ask_for(&mut self, now: Instant, aim: Aim, request: Request, from: Option<SocketAddr>) {
        self.push(now, aim, self.main, self.plan.first, from, request);
    }

    fn push(
        &mut self,
        now: Instant,
        aim: Aim,
        socket: usize,
        to: SocketAddr,
        from: Option<SocketAddr>,
        mut request: Request,
    ) {
        request.transaction = self.random.random();
        self.questions.push(Question {
            aim,
            socket,
            to,
            from,
            request,
            sent_at: Vec::with_capacity(MAX_ASKED),
            again_at: now,
            answer: None,
            round_trip: None,
            given_up: false,
        });
        self.send(now, self.questions.len() - 1);
    }

    fn send(&mut self, now: Instant, at: usize) {
        let question = &mut self.questions[at];
        let backoff = if self.stage == Stage::Contact && self.wait == FIRST_WAIT {
            1 << question.sent_at.len()
        } else {
            1
        };
        question.request.transaction[11] = question.sent_at.len() as u8;
        question.sent_at.push(now);
        question.again_at = now + self.wait * backoff;
        let packet = match question.aim {
            Aim::Hairpin => stun::indication(question.request.transaction),
            _ => question.request.encode(),
        };
        self.transmits
            .push_back((question.socket, question.to, packet));
    }

    /// Answered questions of how we are seen.
    fn seen(&self) -> impl Iterator<Item = &Question> {
        let questions = self.questions.iter();
        questions.filter(|question| question.aim == Aim::See && question.answer.is_some())
    }

    fn other(&self) -> Option<SocketAddr> {
        self.seen().find_map(|question| question.answer?.other)
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |question: &Question| {
            Some(Sample {
                socket: question.socket,
                port: self.plan.ports.get(question.socket).copied()?,
                server: question.to,
                mapped: question.answer?.mapped,
            })
        };
        self.seen().filter_map(sample).collect()
    }

    /// Silence means a filter only where the one that was to answer can be reached at all.
    fn filtering(&self) -> Option<Filtering> {
        let find = |aim| self.questions.iter().find(|question| question.aim == aim);
        let came = |aim| find(aim).is_some_and(|question| question.answer.is_some());
        let reached =
            |server: Option<SocketAddr>| self.seen().any(|question| Some(question.to) == server);
        find(Aim::OtherPort)?;
        if came(Aim::Elsewhere) {
            Some(Filtering::EndpointIndependent)
        } else if came(Aim::OtherPort) {
            let told = find(Aim::Elsewhere).is_some() && reached(self.other());
            Some(if told {
                Filtering::AddressDependent
            } else {
                Filtering::PortIndependent
            })
        } else {
            reached(self.plan.second).then_some(Filtering::AddressAndPortDependent)
        }
    }

    fn hairpin(&self) -> Option<bool> {
        let tries = self.questions.iter();
        let tries = tries.filter(|question| question.aim == Aim::Hairpin);
        tries
            .map(|question| question.answer.is_some())
            .reduce(|one, other| one || other)
    }
}
