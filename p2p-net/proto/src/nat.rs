//! What kind of NAT we are behind, as far as questions to two ports of one server can tell (RFC 5780 §4.3,
//! with one address): a [`Survey`] asks them from the socket that peers will be met at, and [`NatReport`]
//! says what the answers mean. Filtering is not told: that would take a server that answers from elsewhere.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::stun;

/// First wait for an answer; doubled for each further question (RFC 8489 §6.2.1).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Questions to one server at most; the last wait ends the survey after 3.5 s.
const MAX_ASKED: u32 = 3;
/// Servers that are asked at most.
const MAX_SERVERS: usize = 4;
/// Mapped ports this near to each other come from an allocator that counts.
const NEAR: u16 = 16;

/// How a NAT maps our socket (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// There is none: the address that servers see is our own.
    None,
    /// One outside port for all destinations, as far as two ports of one server tell.
    EndpointIndependent,
    /// Another outside port for each destination ("symmetric"): direct paths need the other side's help.
    DestinationDependent,
}

/// How it chooses outside ports (RFC 4787 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// The inside port, where it is free.
    Preserving,
    /// The next one, or one of the next few: foreseeable.
    Sequential,
    /// No order is visible.
    Random,
}

/// What a [`Survey`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatReport {
    /// Each server that answered, and as whom it saw us, in the order in which they were first asked.
    pub seen: Vec<(SocketAddr, SocketAddr)>,
    /// Servers that were asked and did not answer.
    pub silent: Vec<SocketAddr>,
    /// `None` where fewer than two answered and the address is not our own.
    pub mapping: Option<Mapping>,
    /// `None` where nothing is known or there is no NAT.
    pub allocation: Option<Allocation>,
}

impl NatReport {
    /// What the answers mean, for a socket with this port on a host with these addresses.
    fn of(
        seen: Vec<(SocketAddr, SocketAddr)>,
        silent: Vec<SocketAddr>,
        own: &[IpAddr],
        port: u16,
    ) -> Self {
        let is_ours = |(_, mapped): &(SocketAddr, SocketAddr)| {
            mapped.port() == port && own.contains(&mapped.ip())
        };
        let mapping = match seen.as_slice() {
            [] => None,
            all if all.iter().all(is_ours) => Some(Mapping::None),
            [_] => None,
            [first, rest @ ..] if rest.iter().all(|other| other.1 == first.1) => {
                Some(Mapping::EndpointIndependent)
            }
            _ => Some(Mapping::DestinationDependent),
        };
        let near = |pair: &[(SocketAddr, SocketAddr)]| {
            let step = pair[1].1.port().wrapping_sub(pair[0].1.port());
            pair[0].1.ip() == pair[1].1.ip() && (1..=NEAR).contains(&step)
        };
        let allocation = match mapping {
            None | Some(Mapping::None) => None,
            Some(_) if seen.iter().all(|(_, mapped)| mapped.port() == port) => {
                Some(Allocation::Preserving)
            }
            Some(Mapping::DestinationDependent) if seen.windows(2).all(near) => {
                Some(Allocation::Sequential)
            }
            Some(_) => Some(Allocation::Random),
        };
        Self {
            seen,
            silent,
            mapping,
            allocation,
        }
    }
}

/// One server of a survey.
#[derive(Debug)]
struct Question {
    server: SocketAddr,
    transaction: [u8; 12],
    asked: u32,
    again_at: Instant,
    seen: Option<SocketAddr>,
}

/// Asks servers for our address until all have answered or time is up. Feed it with answers and time, drain
/// [`Survey::poll_transmit`], sleep until [`Survey::poll_timeout`].
#[derive(Debug)]
pub struct Survey {
    own: Vec<IpAddr>,
    port: u16,
    questions: Vec<Question>,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Survey {
    /// Asks `servers` (four at most) for a socket on `port` of a host with the addresses `own`; `seed` makes
    /// the transactions unforeseeable.
    pub fn start(
        now: Instant,
        servers: &[SocketAddr],
        own: Vec<IpAddr>,
        port: u16,
        seed: [u8; 32],
    ) -> Self {
        let mut random = StdRng::from_seed(seed);
        let questions = servers.iter().take(MAX_SERVERS).map(|server| Question {
            server: *server,
            transaction: random.random(),
            asked: 0,
            again_at: now,
            seen: None,
        });
        let mut survey = Self {
            own,
            port,
            questions: questions.collect(),
            transmits: VecDeque::new(),
        };
        survey.handle_timeout(now);
        survey
    }

    /// Takes a packet; says whether it was an answer to one of our questions.
    pub fn handle_packet(&mut self, from: SocketAddr, packet: &[u8]) -> bool {
        let Ok(answer) = stun::parse_answer(packet) else {
            return false;
        };
        let asked = |question: &&mut Question| {
            question.transaction == answer.transaction && question.server == from
        };
        let Some(question) = self.questions.iter_mut().find(asked) else {
            return false;
        };
        question.seen.get_or_insert(answer.mapped);
        true
    }

    /// Time has passed: asks again where that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for question in &mut self.questions {
            let due = question.seen.is_none() && question.again_at <= now;
            if due && question.asked < MAX_ASKED {
                question.again_at = now + FIRST_WAIT * (1 << question.asked);
                question.asked += 1;
                let request = stun::request(question.transaction);
                self.transmits.push_back((question.server, request));
            }
        }
    }

    /// What to send next, from the socket that is surveyed.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// When to call [`Survey::handle_timeout`]; `None` when all have answered.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open = self
            .questions
            .iter()
            .filter(|question| question.seen.is_none());
        open.map(|question| question.again_at).min()
    }

    /// What was found, once all have answered or were asked often enough.
    pub fn report(&self, now: Instant) -> Option<NatReport> {
        let is_over = |question: &Question| {
            question.seen.is_some() || (question.asked == MAX_ASKED && question.again_at <= now)
        };
        if !self.questions.iter().all(is_over) {
            return None;
        }
        let seen = self.questions.iter();
        let seen = seen.filter_map(|question| Some((question.server, question.seen?)));
        let silent = self
            .questions
            .iter()
            .filter(|question| question.seen.is_none());
        Some(NatReport::of(
            seen.collect(),
            silent.map(|question| question.server).collect(),
            &self.own,
            self.port,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a first instant to count from")]
    fn some_time() -> Instant {
        Instant::now()
    }

    const SERVERS: [&str; 2] = ["203.0.113.1:443", "203.0.113.1:3478"];
    const PORT: u16 = 5_000;

    fn servers() -> Vec<SocketAddr> {
        SERVERS
            .map(|text| text.parse().expect("an address"))
            .to_vec()
    }

    fn own() -> Vec<IpAddr> {
        vec!["192.168.1.2".parse().expect("an address")]
    }

    /// A survey whose servers see us as `mapped`, each as its own entry; `None` does not answer.
    fn survey(mapped: [Option<&str>; 2]) -> NatReport {
        let mut now = some_time();
        let mut survey = Survey::start(now, &servers(), own(), PORT, [7; 32]);
        loop {
            while let Some((server, request)) = survey.poll_transmit() {
                let transaction = stun::parse_request(&request)
                    .expect("a request")
                    .transaction;
                let at = servers()
                    .iter()
                    .position(|one| *one == server)
                    .expect("known");
                if let Some(mapped) = mapped[at] {
                    let answer = stun::answer(transaction, mapped.parse().expect("an address"));
                    assert!(survey.handle_packet(server, &answer));
                }
            }
            if let Some(report) = survey.report(now) {
                return report;
            }
            now = survey.poll_timeout().expect("more to come");
            survey.handle_timeout(now);
        }
    }

    #[test]
    fn each_kind_is_told() {
        let kind = |one, other| {
            let report = survey([Some(one), Some(other)]);
            (report.mapping, report.allocation)
        };
        assert_eq!(
            kind("192.168.1.2:5000", "192.168.1.2:5000"),
            (Some(Mapping::None), None)
        );
        assert_eq!(
            kind("198.51.100.1:5000", "198.51.100.1:5000"),
            (
                Some(Mapping::EndpointIndependent),
                Some(Allocation::Preserving)
            )
        );
        assert_eq!(
            kind("198.51.100.1:6000", "198.51.100.1:6000"),
            (Some(Mapping::EndpointIndependent), Some(Allocation::Random))
        );
        assert_eq!(
            kind("198.51.100.1:6000", "198.51.100.1:6001"),
            (
                Some(Mapping::DestinationDependent),
                Some(Allocation::Sequential)
            )
        );
        assert_eq!(
            kind("198.51.100.1:6000", "198.51.100.1:41234"),
            (
                Some(Mapping::DestinationDependent),
                Some(Allocation::Random)
            )
        );
    }

    #[test]
    fn who_is_silent_is_asked_three_times_and_named() {
        let report = survey([Some("198.51.100.1:5000"), None]);
        assert_eq!((report.mapping, report.allocation), (None, None));
        assert_eq!(report.silent, servers()[1..]);
        let report = survey([None, None]);
        assert_eq!(report.seen, []);
        assert_eq!(report.silent, servers());
    }

    #[test]
    fn answers_that_nobody_asked_for_count_for_nothing() {
        let now = some_time();
        let mut survey = Survey::start(now, &servers(), own(), PORT, [7; 32]);
        let (server, request) = survey.poll_transmit().expect("a question");
        let transaction = stun::parse_request(&request)
            .expect("a request")
            .transaction;
        let mapped = "198.51.100.1:5000".parse().expect("an address");
        let elsewhere = "203.0.113.9:443".parse().expect("an address");
        assert!(!survey.handle_packet(elsewhere, &stun::answer(transaction, mapped)));
        assert!(!survey.handle_packet(server, &stun::answer([0; 12], mapped)));
        assert!(!survey.handle_packet(server, &request));
        assert!(survey.handle_packet(server, &stun::answer(transaction, mapped)));
        // The first answer stands.
        assert!(survey.handle_packet(server, &stun::answer(transaction, elsewhere)));
        let report = survey.report(now + Duration::from_secs(60));
        assert_eq!(report, None, "the other server has been asked only once");
        for _ in 0..MAX_ASKED {
            survey.handle_timeout(survey.poll_timeout().expect("a deadline"));
        }
        let report = survey.report(now + Duration::from_secs(60)).expect("over");
        assert_eq!(report.seen, [(server, mapped)]);
    }
}
