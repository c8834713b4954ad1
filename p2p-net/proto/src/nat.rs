//! What kind of NAT we are behind, as far as questions to two ports of one server can tell (RFC 5780 §4.3,
//! with one address): a [`Survey`] asks them from the socket that peers will be met at, and [`NatReport`]
//! says what the answers mean. Filtering and hairpinning are for an [`crate::Exam`] on sockets of its own.

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
/// So many ports are needed to tell a block: were they taken at random from all, eight would lie within
/// [`MAX_BLOCK`] ports of each other once in a million times.
const BLOCK_SAMPLES: usize = 8;
/// Blocks of more ports are as good as all ports to whoever has to guess.
const MAX_BLOCK: u16 = 4_096;

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
    /// Any of a small block; see [`NatReport::block`].
    Block,
    /// No order is visible.
    Random,
}

/// Whose packets a NAT, or a firewall, lets in to a port of ours that has sent something (RFC 4787 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Everybody's.
    EndpointIndependent,
    /// Those of the address that was sent to, from any port.
    AddressDependent,
    /// Those of the very address and port that was sent to.
    AddressAndPortDependent,
    /// One of the first two: any port may answer; the server has no second address to try.
    PortIndependent,
}

/// As whom a server saw one of our sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Which of our sockets.
    pub(crate) socket: usize,
    /// Its own port.
    pub(crate) port: u16,
    pub(crate) server: SocketAddr,
    pub(crate) mapped: SocketAddr,
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
    /// The ports, first and last, of [`Allocation::Block`].
    #[serde(default)]
    pub block: Option<(u16, u16)>,
    /// `None` where it was not examined, or the relay cannot answer from elsewhere.
    #[serde(default)]
    pub filtering: Option<Filtering>,
    /// Whether two hosts behind this NAT reach each other by their outside addresses; `None` where it was
    /// not examined or there is no NAT.
    #[serde(default)]
    pub hairpin: Option<bool>,
}

impl NatReport {
    /// What the samples, in the order in which they were asked for, mean on a host with these addresses.
    pub(crate) fn of(samples: &[Sample], silent: Vec<SocketAddr>, own: &[IpAddr]) -> Self {
        let mapping = mapping_of(samples, own);
        let (allocation, block) = match mapping {
            None | Some(Mapping::None) => (None, None),
            Some(mapping) => allocation_of(samples, mapping),
        };
        let seen = samples.iter().map(|sample| (sample.server, sample.mapped));
        Self {
            seen: seen.collect(),
            silent,
            mapping,
            allocation,
            block,
            filtering: None,
            hairpin: None,
        }
    }
}

fn mapping_of(samples: &[Sample], own: &[IpAddr]) -> Option<Mapping> {
    let is_ours =
        |sample: &Sample| sample.mapped.port() == sample.port && own.contains(&sample.mapped.ip());
    if !samples.is_empty() && samples.iter().all(is_ours) {
        return Some(Mapping::None);
    }
    let pairs = samples.iter().flat_map(|one| {
        let others = samples.iter();
        let others =
            others.filter(|other| other.socket == one.socket && other.server != one.server);
        others.map(|other| other.mapped == one.mapped)
    });
    pairs.reduce(|all, same| all && same).map(|same| {
        if same {
            Mapping::EndpointIndependent
        } else {
            Mapping::DestinationDependent
        }
    })
}

fn allocation_of(samples: &[Sample], mapping: Mapping) -> (Option<Allocation>, Option<(u16, u16)>) {
    if samples
        .iter()
        .all(|sample| sample.mapped.port() == sample.port)
    {
        return (Some(Allocation::Preserving), None);
    }
    if mapping != Mapping::DestinationDependent {
        return (Some(Allocation::Random), None);
    }
    // A carrier may have several outside addresses; ports of different ones say nothing about each other.
    let outside = samples.first().map(|sample| sample.mapped.ip());
    let mut ports: Vec<u16> = samples
        .iter()
        .filter(|sample| Some(sample.mapped.ip()) == outside)
        .map(|sample| sample.mapped.port())
        .collect();
    // Where the port depends on the address alone, both ports of a server see the same.
    ports.dedup();
    let steps = ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    let near = steps.filter(|step| (1..=NEAR).contains(step)).count();
    // Others behind the same NAT take ports meanwhile, and packets overtake each other: not each step is near.
    if ports.len() > 1 && near * 4 >= (ports.len() - 1) * 3 {
        return (Some(Allocation::Sequential), None);
    }
    match block_of(&ports) {
        Some(block) => (Some(Allocation::Block), Some(block)),
        None => (Some(Allocation::Random), None),
    }
}

/// The smallest block, aligned as carriers cut them (RFC 7422 gives such an algorithm), that has all ports;
/// where that is no small one, the ports from the lowest to the highest, if those are near.
fn block_of(ports: &[u16]) -> Option<(u16, u16)> {
    let (low, high) = (*ports.iter().min()?, *ports.iter().max()?);
    if ports.len() < BLOCK_SAMPLES || high - low >= MAX_BLOCK {
        return None;
    }
    let rest = u16::MAX
        .checked_shr((low ^ high).leading_zeros())
        .unwrap_or(0);
    if rest < MAX_BLOCK {
        return Some((low & !rest, low | rest));
    }
    Some((low, high))
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
        let sample = |question: &Question| {
            Some(Sample {
                socket: 0,
                port: self.port,
                server: question.server,
                mapped: question.seen?,
            })
        };
        let samples: Vec<_> = self.questions.iter().filter_map(sample).collect();
        let silent = self.questions.iter();
        let silent = silent.filter(|question| question.seen.is_none());
        let silent = silent.map(|question| question.server).collect();
        Some(NatReport::of(&samples, silent, &self.own))
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
    fn blocks_are_told_from_order_and_from_chance() {
        let kind = |ports: &[u16]| {
            let sample = |(at, port): (usize, &u16)| Sample {
                socket: at / 2,
                port: PORT,
                server: servers()[at % 2],
                mapped: SocketAddr::new([198, 51, 100, 1].into(), *port),
            };
            let samples: Vec<_> = ports.iter().enumerate().map(sample).collect();
            let report = NatReport::of(&samples, Vec::new(), &own());
            assert_eq!(report.mapping, Some(Mapping::DestinationDependent));
            (report.allocation.expect("told"), report.block)
        };
        let block = [
            30_300, 30_700, 30_211, 30_500, 30_222, 30_688, 30_401, 30_399,
        ];
        assert_eq!(kind(&block), (Allocation::Block, Some((30_208, 30_719))));
        // Too few to tell.
        assert_eq!(kind(&block[..4]), (Allocation::Random, None));
        let unaligned = [
            32_700, 32_800, 32_711, 32_900, 32_722, 32_788, 32_801, 32_777,
        ];
        assert_eq!(
            kind(&unaligned),
            (Allocation::Block, Some((32_700, 32_900)))
        );
        let random = [2_000, 60_000, 33_000, 12_000, 45_000, 9_000, 20_000, 51_000];
        assert_eq!(kind(&random), (Allocation::Random, None));
        // Somebody else took a few in between, and the counter began anew.
        let counted = [65_532, 65_533, 65_535, 3, 4, 90, 91, 92, 95, 96, 97, 98, 99];
        assert_eq!(kind(&counted), (Allocation::Sequential, None));
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
