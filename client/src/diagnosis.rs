//! What `landline doctor` says: a verdict that anybody understands, and what to do about it. Pure: figures in,
//! words out. The figures come from the library (`NetworkReport`, `Stats`) and are told in [`crate::cli`].

use std::net::SocketAddr;

use p2p_net::{Ease, FamilyReport, Mapping, NetworkReport, NotDirect, PathKind};
use serde::{Deserialize, Serialize};

use crate::Problem;
use crate::event::{PeerView, RelayStep, RelayView};

/// Clocks that differ by more than this confuse people, ms: messages seem to come before they were written.
const CLOCK_TOLERANCE_MILLIS: u64 = 5_000;
/// A relay farther away than this is heard in a call, µs there and back: with as much again on the other
/// side, a relayed word takes 150 ms, where ITU-T G.114 sees conversation begin to suffer.
const FAR_RELAY_MICROS: u64 = 150_000;
/// More lost packets than this are seen and heard, per mille.
const LOSS_PERMILLE: u64 = 20;
/// A loss of so few packets says nothing.
const LOSS_SAMPLE: u64 = 200;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Fair,
    /// It does not work.
    Bad,
}

/// A verdict and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How good it is.
    pub grade: Grade,
    /// One sentence for anybody.
    pub verdict: String,
    /// What speaks for it, where it is not good.
    pub evidence: Vec<String>,
    /// What can be done, best first.
    pub advice: Vec<String>,
}

/// The way to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Who, and whether there is a connection.
    pub peer: PeerView,
    /// What carries the packets, and the counters; nothing without a connection.
    pub connection: Option<ConnectionReport>,
    /// Why there is none.
    pub problem: Option<Problem>,
}

/// The counters of a connection, as `p2p_net::Stats` has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// What carries the packets.
    pub path: PathKind,
    /// The peer's address on a direct path.
    pub remote: Option<SocketAddr>,
    /// The code of the reason why it is not direct.
    pub not_direct: Option<NotDirect>,
    /// Round trip of the connection, whatever carries it, microseconds.
    pub round_trip_micros: u64,
    /// Round trip of the direct path, from probes.
    pub direct_round_trip_micros: Option<u64>,
    /// QUIC packets sent so far.
    pub sent_packets: u64,
    /// QUIC packets that were lost.
    pub lost_packets: u64,
    /// The largest packet that the path carries, bytes.
    pub mtu: u16,
    /// Changes of path so far.
    pub path_switches: u32,
    /// The paths so far, the present one last.
    pub history: Vec<PathEntry>,
}

/// One path that a connection had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEntry {
    /// What carried the packets.
    pub path: PathKind,
    /// The peer's address on a direct path.
    pub remote: Option<SocketAddr>,
    /// When it began, ms since 1970.
    pub since_millis: i64,
    /// The last round trip that was measured on it.
    pub round_trip_micros: Option<u64>,
    /// Why it was not direct.
    pub not_direct: Option<NotDirect>,
}

impl ConnectionReport {
    /// Lost packets per mille; `None` where too few were sent to tell.
    pub fn loss_permille(&self) -> Option<u64> {
        let enough = self.sent_packets >= LOSS_SAMPLE;
        enough.then(|| self.lost_packets.saturating_mul(1_000) / self.sent_packets)
    }
}

/// What the network allows.
pub fn network(relay: &RelayView, report: &NetworkReport) -> Finding {
    let mut finding = reachability(relay, report);
    if finding.grade != Grade::Bad {
        remarks(report, &mut finding);
    }
    let ahead = report.clock_ahead_millis.unwrap_or(0);
    if ahead.unsigned_abs() > CLOCK_TOLERANCE_MILLIS {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        finding.evidence.push(format!(
            "this computer's clock is {} s {way} the relay's",
            ahead.unsigned_abs() / 1_000
        ));
        finding
            .advice
            .push("let this computer set its clock by the network".to_owned());
    }
    finding
}

fn finding(grade: Grade, verdict: impl Into<String>) -> Finding {
    Finding {
        grade,
        verdict: verdict.into(),
        evidence: Vec::new(),
        advice: Vec::new(),
    }
}

impl Finding {
    fn because(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }
}

fn reachability(relay: &RelayView, report: &NetworkReport) -> Finding {
    use Grade::{Bad, Fair, Good};
    if report.interfaces.is_empty() && !is_local(report) {
        return finding(Bad, "This computer is not connected to any network.")
            .advise("plug in a cable or join a Wi-Fi network");
    }
    if relay.state == RelayStep::None {
        return finding(
            Fair,
            "No relay is used: contacts on this network are reached, and nobody else.",
        );
    }
    if let Some(why) = &report.unresolved {
        return finding(Bad, "The relay's name cannot be looked up.")
            .because(why.clone())
            .advise("is this computer online, and is the relay's address spelled right?");
    }
    if let Some(portal) = &report.portal {
        let page = portal.location.as_deref().unwrap_or("any web page");
        return finding(Bad, "A sign-in page stands between you and the Internet.")
            .because(format!(
                "the web answers {} in the relay's place",
                portal.status
            ))
            .advise(format!(
                "open {page} in a browser and sign in, then try again"
            ));
    }
    let online = relay.state == RelayStep::Online;
    if report.udp() == Some(false) {
        if online {
            return finding(
                Fair,
                "Calls work, but only through the relay: this network blocks UDP.",
            )
            .advise("use another network, or ask whoever runs this one to allow UDP");
        }
        let blocked = report.tcp == Some(true);
        let verdict = if blocked {
            "This network blocks UDP, and the relay cannot be used."
        } else {
            "The relay does not answer."
        };
        let evidence = if blocked {
            "the relay's host takes TCP, but answers no UDP on either port"
        } else {
            "neither UDP nor TCP gets an answer from it"
        };
        return finding(Bad, verdict).because(evidence).advise(
            "does the relay run, and does a firewall (here, or in front of it) stop UDP to its ports?",
        );
    }
    if !online && let Some(problem) = &relay.problem {
        let mut bad =
            finding(Bad, "The relay answers, but the login failed.").because(&problem.what);
        bad.advice.extend(problem.next.clone());
        return bad;
    }
    match report.ease() {
        Ease::Open => finding(
            Good,
            "Your network is excellent: everybody can reach you directly.",
        ),
        Ease::Good => finding(
            Good,
            "Your network is good: direct connections to nearly everybody.",
        ),
        Ease::Hard => {
            let hard = finding(
                Fair,
                "Your network is difficult: some connections will go through the relay.",
            )
            .because("your router uses another port for each destination (symmetric NAT)");
            let ports = report.port_mapping.as_ref();
            let silent = ports.is_some_and(|ports| ports.offers.is_empty());
            let hard = if silent {
                hard.advise("switch on PCP, NAT-PMP or UPnP in your router's settings")
            } else {
                hard
            };
            hard.advise("use IPv6, or another network, where calls matter")
        }
        Ease::Blocked | Ease::Unknown if online => finding(
            Fair,
            "You are online, but what kind of network this is could not be told.",
        ),
        Ease::Blocked | Ease::Unknown => finding(Bad, "The relay does not answer."),
    }
}

/// Whether the relay is on this very machine.
fn is_local(report: &NetworkReport) -> bool {
    let mut servers = report.families().flat_map(|family| &family.servers);
    servers.any(|server| server.address.ip().is_loopback())
}

fn remarks(report: &NetworkReport, finding: &mut Finding) {
    let silent: Vec<String> = report
        .families()
        .filter(|family| family.is_reached())
        .flat_map(|family| &family.nat.silent)
        .map(ToString::to_string)
        .collect();
    if !silent.is_empty() {
        finding.evidence.push(format!(
            "the relay does not answer on {}",
            silent.join(", ")
        ));
        finding
            .advice
            .push("ask whoever runs the relay to open both of its UDP ports".to_owned());
    }
    if let Some(micros) = report.round_trip_micros()
        && micros > FAR_RELAY_MICROS
    {
        let millis = micros / 1_000;
        finding
            .evidence
            .push(format!("the relay is far away: {millis} ms there and back"));
        finding
            .advice
            .push("use a relay nearer to you and your contacts".to_owned());
    }
}

/// How the way to a peer is.
pub fn peer(report: &PeerReport, network: &NetworkReport) -> Finding {
    use Grade::{Bad, Fair, Good};
    let label = report.peer.label();
    let Some(connection) = &report.connection else {
        let mut bad = finding(Bad, format!("There is no connection to {label}."));
        if let Some(problem) = &report.problem {
            bad.evidence.push(problem.what.clone());
            bad.advice.extend(problem.next.clone());
        }
        return bad;
    };
    let mut told = match (connection.path, connection.not_direct) {
        (PathKind::Direct, _) => finding(Good, format!("The connection to {label} is direct.")),
        (PathKind::None, _) => finding(Bad, format!("Nothing reaches {label} at the moment.")),
        (PathKind::Relayed, why) => {
            let mut told = finding(
                Fair,
                format!("The connection to {label} works, through the relay."),
            );
            if let Some(why) = why {
                told.evidence
                    .push(format!("{}: {}", why.code(), why.meaning()));
                told.evidence.extend(evidence(why, network));
                told.advice.extend(why.advice().map(str::to_owned));
            }
            told
        }
    };
    if let Some(permille) = connection.loss_permille()
        && permille > LOSS_PERMILLE
    {
        told.grade = if told.grade == Good { Fair } else { told.grade };
        told.evidence.push(format!(
            "{} of 1,000 packets are lost on the way",
            permille.min(1_000)
        ));
        told.advice
            .push("go nearer to the Wi-Fi, use a cable, or pause other downloads".to_owned());
    }
    told
}

/// What of our own network speaks for a reason.
fn evidence(why: NotDirect, network: &NetworkReport) -> Vec<String> {
    let reached: Vec<&FamilyReport> = network
        .families()
        .filter(|family| family.is_reached())
        .collect();
    let kind = |family: &&FamilyReport| format!("this side: {}", family.nat.name());
    match why {
        NotDirect::BothSymmetric
        | NotDirect::GuessFailed
        | NotDirect::GuessWaits
        | NotDirect::Blocked
        | NotDirect::NatUnknown => {
            let mut told: Vec<String> = reached.iter().map(kind).collect();
            if matches!(why, NotDirect::GuessFailed | NotDirect::GuessWaits) {
                let symmetric = |family: &&FamilyReport| {
                    family.nat.mapping == Some(Mapping::DestinationDependent)
                };
                let whose = if reached.iter().any(symmetric) {
                    "ours"
                } else {
                    "the other side's"
                };
                told.push(format!("the symmetric NAT is {whose}"));
            }
            told
        }
        NotDirect::NoAddress if network.udp() == Some(false) => {
            vec!["this network blocks UDP".to_owned()]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use p2p_net::{Allocation, Filtering, Interface, NatReport, PeerId, Portal, ServerReport};

    use super::*;
    use crate::contacts::Standing;

    fn relay(state: RelayStep) -> RelayView {
        RelayView {
            address: Some("relay.example.org:443".to_owned()),
            state,
            observed: None,
            problem: None,
            over_tcp: None,
            unknown_key: None,
        }
    }

    fn report(mapping: Option<Mapping>, micros: Option<u64>) -> NetworkReport {
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        NetworkReport {
            interfaces: vec![Interface {
                address: IpAddr::from([192, 168, 1, 10]),
                prefix: 24,
            }],
            ipv4: Some(FamilyReport {
                servers: vec![ServerReport {
                    address,
                    round_trip_micros: micros,
                }],
                nat: NatReport {
                    seen: Vec::new(),
                    silent: Vec::new(),
                    mapping,
                    allocation: Some(Allocation::Random),
                    block: None,
                    filtering: Some(Filtering::AddressAndPortDependent),
                    hairpin: Some(false),
                },
            }),
            ..NetworkReport::default()
        }
    }

    #[test]
    fn each_trouble_has_its_verdict() {
        let same = Some(Mapping::EndpointIndependent);
        let dead = report(None, None);
        let portal = NetworkReport {
            portal: Some(Portal {
                status: 302,
                location: Some("http://login.example/".to_owned()),
            }),
            ..dead.clone()
        };
        let tcp = NetworkReport {
            tcp: Some(true),
            ..dead.clone()
        };
        let unresolved = NetworkReport {
            unresolved: Some("no such name".to_owned()),
            ipv4: None,
            ..dead.clone()
        };
        let alone = NetworkReport {
            interfaces: Vec::new(),
            ipv4: None,
            ..dead.clone()
        };
        let symmetric = report(Some(Mapping::DestinationDependent), Some(20_000));
        use Grade::{Bad, Fair, Good};
        use RelayStep::{Connecting, Online};
        let table = [
            (RelayStep::None, dead.clone(), Fair, "No relay is used", 0),
            (Online, report(same, Some(20_000)), Good, "is good", 0),
            (Online, report(same, Some(400_000)), Good, "is good", 1),
            (Online, symmetric, Fair, "difficult", 1),
            (Connecting, portal, Bad, "sign-in page", 1),
            (Online, tcp.clone(), Fair, "blocks UDP", 1),
            (Connecting, tcp, Bad, "blocks UDP", 1),
            (Connecting, dead, Bad, "does not answer", 1),
            (Connecting, unresolved, Bad, "looked up", 1),
            (Connecting, alone, Bad, "not connected to any network", 1),
        ];
        for (state, report, grade, words, advice) in table {
            let told = network(&relay(state), &report);
            assert_eq!(told.grade, grade, "{told:?}");
            assert!(told.verdict.contains(words), "{told:?}");
            assert_eq!(told.advice.len(), advice, "{told:?}");
        }
    }

    #[test]
    fn a_wrong_clock_and_a_refused_login_are_named() {
        let good = report(Some(Mapping::EndpointIndependent), Some(20_000));
        let late = NetworkReport {
            clock_ahead_millis: Some(-61_000),
            ..good.clone()
        };
        let told = network(&relay(RelayStep::Online), &late);
        assert!(told.evidence[0].contains("61 s behind"), "{told:?}");
        let mut refused = relay(RelayStep::Failed);
        refused.problem = Some(Problem::failure("the token is wrong").with_next("ask for it"));
        let told = network(&refused, &good);
        assert_eq!(
            (told.grade, told.advice[0].as_str()),
            (Grade::Bad, "ask for it")
        );
        assert_eq!(told.evidence, ["the token is wrong"]);
    }

    fn connection(path: PathKind, not_direct: Option<NotDirect>) -> ConnectionReport {
        ConnectionReport {
            path,
            remote: None,
            not_direct,
            round_trip_micros: 40_000,
            direct_round_trip_micros: None,
            sent_packets: 1_000,
            lost_packets: 1,
            mtu: 1_436,
            path_switches: 1,
            history: Vec::new(),
        }
    }

    fn peer_report(connection: Option<ConnectionReport>) -> PeerReport {
        PeerReport {
            peer: PeerView {
                id: PeerId::from_bytes([3; 32]),
                name: Some("bob".to_owned()),
                claimed_name: None,
                standing: Standing::Accepted,
                verified: false,
                online: true,
                path: PathKind::None,
                remote: None,
                round_trip_micros: None,
            },
            connection,
            problem: Some(Problem::unreachable("bob is not online")),
        }
    }

    #[test]
    fn a_relayed_path_says_why_and_what_to_do() {
        let symmetric = report(Some(Mapping::DestinationDependent), Some(20_000));
        let told = peer(
            &peer_report(Some(connection(PathKind::Direct, None))),
            &symmetric,
        );
        assert_eq!((told.grade, told.advice.len()), (Grade::Good, 0));
        for why in NotDirect::ALL {
            let connection = connection(PathKind::Relayed, Some(why));
            let told = peer(&peer_report(Some(connection)), &symmetric);
            assert_eq!(told.grade, Grade::Fair);
            assert!(told.evidence[0].starts_with(why.code()), "{told:?}");
            assert_eq!(told.advice.first().map(String::as_str), why.advice());
        }
        let both = connection(PathKind::Relayed, Some(NotDirect::BothSymmetric));
        let told = peer(&peer_report(Some(both)), &symmetric);
        assert_eq!(told.evidence[1], "this side: symmetric NAT, random ports");
        let told = peer(&peer_report(None), &symmetric);
        assert_eq!(
            (told.grade, told.evidence[0].as_str()),
            (Grade::Bad, "bob is not online")
        );
    }

    #[test]
    fn losses_count_once_there_are_enough_packets() {
        let network = report(Some(Mapping::EndpointIndependent), Some(20_000));
        let mut lossy = connection(PathKind::Direct, None);
        lossy.lost_packets = 50;
        let told = peer(&peer_report(Some(lossy.clone())), &network);
        assert_eq!((told.grade, told.advice.len()), (Grade::Fair, 1));
        assert!(told.evidence[0].starts_with("50 of 1,000"), "{told:?}");
        lossy.sent_packets = 60;
        let told = peer(&peer_report(Some(lossy)), &network);
        assert_eq!(told.grade, Grade::Good);
    }
}
