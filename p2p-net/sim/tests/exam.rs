//! An exam behind each kind of simulated NAT, at a server with two ports or with two addresses: what it
//! reports is what is there, also where packets are lost.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2p_net_proto::stun;
use p2p_net_proto::{Allocation, EXAM_SOCKETS, Exam, ExamPlan, ExamReport, Filtering, Mapping};
use p2p_net_sim::{Clock, Dependence, HostId, LinkConfig, Loss, NatConfig, Place, Ports, World};

const SERVER_PORTS: [u16; 2] = [443, 3_478];
const FIRST_PORT: u16 = 5_000;
/// What the server's clock says, µs.
const SERVER_TIME: u64 = 1_234_567;

/// A server as RFC 5780 wants it, on one or two addresses.
struct Server {
    hosts: Vec<HostId>,
    ips: Vec<IpAddr>,
    /// Whether it understands more than plain requests, and which ports it is reached at.
    follows: bool,
    ports: Vec<u16>,
}

impl Server {
    fn receive(
        &self,
        world: &mut World<Vec<u8>>,
        clock: &Clock,
        at: HostId,
        port: u16,
        from: SocketAddr,
        packet: &[u8],
    ) {
        let Some(here) = self.hosts.iter().position(|host| *host == at) else {
            return;
        };
        let request = stun::parse_request(packet).expect("a request");
        let other_port = SERVER_PORTS[usize::from(port == SERVER_PORTS[0])];
        let other = (self.ips.len() > 1).then(|| 1 - here);
        if !self.ports.contains(&port) || (request.full && !self.follows) {
            return;
        }
        let host = match (request.change_address, other) {
            (false, _) => here,
            (true, Some(other)) => other,
            (true, None) => return,
        };
        let answer = if request.full {
            let other = other.map(|other| SocketAddr::new(self.ips[other], other_port));
            stun::full_answer(request.transaction, from, other, SERVER_TIME)
        } else {
            stun::answer(request.transaction, from)
        };
        let port = if request.change_port {
            other_port
        } else {
            port
        };
        world.send(clock.now(), self.hosts[host], port, from, answer);
    }
}

struct Setting {
    nat: Option<NatConfig>,
    addresses: usize,
    follows: bool,
    ports: Vec<u16>,
    loss: f64,
    seed: u64,
}

impl Setting {
    fn behind(nat: Option<NatConfig>, addresses: usize) -> Self {
        Self {
            nat,
            addresses,
            follows: true,
            ports: SERVER_PORTS.to_vec(),
            loss: 0.0,
            seed: 1,
        }
    }
}

/// Runs an exam to its end; gives what it found, how long that took, and how many packets it sent.
fn examine(setting: &Setting) -> (ExamReport, Duration, usize) {
    let mut clock = Clock::new();
    let mut world = World::<Vec<u8>>::new(setting.seed);
    let link = LinkConfig::delay(Duration::from_millis(20)).with_loss(Loss::Random(setting.loss));
    world.set_default_link(link);
    let hosts: Vec<_> = (0..setting.addresses)
        .map(|_| world.add_host(Place::Internet))
        .collect();
    let ips: Vec<_> = hosts.iter().map(|host| world.addresses(*host)[0]).collect();
    let place = match setting.nat {
        Some(config) => Place::Behind(world.add_nat(config, Place::Internet)),
        None => Place::Internet,
    };
    let me = world.add_host(place);
    let own = world.addresses(me).to_vec();
    let server = Server {
        hosts,
        ips,
        follows: setting.follows,
        ports: setting.ports.clone(),
    };
    let at = |port| SocketAddr::new(server.ips[0], port);
    let mut exam = Exam::start(
        clock.now(),
        ExamPlan {
            first: at(SERVER_PORTS[0]),
            second: Some(at(SERVER_PORTS[1])),
            own,
            ports: (0..EXAM_SOCKETS as u16).map(|n| FIRST_PORT + n).collect(),
            seed: [setting.seed as u8; 32],
        },
    );
    let mut sent = 0;
    while exam.report().is_none() {
        assert!(
            clock.elapsed() < Duration::from_secs(60) && sent < 100,
            "no end"
        );
        while let Some((socket, to, packet)) = exam.poll_transmit() {
            sent += 1;
            world.send(clock.now(), me, FIRST_PORT + socket as u16, to, packet);
        }
        let next = [world.next_at(), exam.poll_timeout()];
        let next = next.into_iter().flatten().min().expect("something to come");
        clock.advance(next.saturating_duration_since(clock.now()));
        while let Some(delivery) = world.deliver(clock.now()) {
            if delivery.host == me {
                let socket = usize::from(delivery.to.port() - FIRST_PORT);
                exam.handle_packet(clock.now(), socket, delivery.from, &delivery.payload);
            } else {
                let (from, port) = (delivery.from, delivery.to.port());
                server.receive(
                    &mut world,
                    &clock,
                    delivery.host,
                    port,
                    from,
                    &delivery.payload,
                );
            }
        }
        exam.handle_timeout(clock.now());
    }
    let report = exam.report().expect("over");
    // The exam tells when it was the server's time; here that is half a round trip after the beginning.
    let begin = clock.now() - clock.elapsed();
    assert!(
        report
            .clock
            .is_none_or(|(micros, at)| micros == SERVER_TIME && at > begin)
    );
    (report, clock.elapsed(), sent)
}

/// Each kind of translator, and what must be reported of it where the server has two addresses.
fn kinds() -> Vec<(Option<NatConfig>, Mapping, Option<Allocation>, Filtering)> {
    use Allocation::{Preserving, Random, Sequential};
    use Filtering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    use Mapping::{DestinationDependent, EndpointIndependent as Same};
    let random_ports = NatConfig {
        ports: Ports::Random,
        ..NatConfig::full_cone()
    };
    let by_address = NatConfig {
        mapping: Dependence::Address,
        ..NatConfig::symmetric()
    };
    vec![
        (None, Mapping::None, None, EndpointIndependent),
        (
            Some(NatConfig::full_cone()),
            Same,
            Some(Preserving),
            EndpointIndependent,
        ),
        (Some(random_ports), Same, Some(Random), EndpointIndependent),
        (
            Some(NatConfig::address_restricted()),
            Same,
            Some(Preserving),
            AddressDependent,
        ),
        (
            Some(NatConfig::port_restricted()),
            Same,
            Some(Preserving),
            AddressAndPortDependent,
        ),
        (
            Some(NatConfig::symmetric()),
            DestinationDependent,
            Some(Random),
            AddressAndPortDependent,
        ),
        (
            Some(NatConfig::symmetric_sequential()),
            DestinationDependent,
            Some(Sequential),
            AddressAndPortDependent,
        ),
        (
            Some(by_address),
            DestinationDependent,
            Some(Random),
            AddressAndPortDependent,
        ),
    ]
}

#[test]
fn each_kind_is_reported_as_it_is() {
    for (nat, mapping, allocation, filtering) in kinds() {
        let (report, took, sent) = examine(&Setting::behind(nat, 2));
        let found = (
            report.nat.mapping,
            report.nat.allocation,
            report.nat.filtering,
        );
        assert_eq!(
            found,
            (Some(mapping), allocation, Some(filtering)),
            "{nat:?}"
        );
        assert_eq!(report.nat.hairpin, nat.map(|_| false), "{nat:?}");
        assert!(took < Duration::from_millis(1_500), "{nat:?} took {took:?}");
        assert!(sent <= 40, "{nat:?} took {sent} packets");
        assert!(report.clock.is_some());
        let round_trip = Some(Duration::from_millis(40));
        assert!(
            report.servers.iter().all(|(_, took)| *took == round_trip),
            "{report:?}"
        );
    }
}

#[test]
fn one_address_tells_what_it_can() {
    for (nat, mapping, _, filtering) in kinds() {
        let (report, ..) = examine(&Setting::behind(nat, 1));
        let expected = match filtering {
            Filtering::EndpointIndependent | Filtering::AddressDependent => {
                Filtering::PortIndependent
            }
            other => other,
        };
        assert_eq!(report.nat.filtering, Some(expected), "{nat:?}");
        // Another address is needed to tell a mapping that depends on the address alone.
        let hidden = nat.is_some_and(|nat| nat.mapping == Dependence::Address);
        if !hidden {
            assert_eq!(report.nat.mapping, Some(mapping), "{nat:?}");
        }
    }
}

#[test]
fn hairpins_are_found() {
    for config in [NatConfig::full_cone(), NatConfig::port_restricted()] {
        let (report, ..) = examine(&Setting::behind(Some(config.with_hairpin()), 1));
        assert_eq!(report.nat.hairpin, Some(true), "{config:?}");
    }
}

#[test]
fn loss_seldom_deceives() {
    let mut wrong = 0;
    let mut all = 0;
    for (nat, mapping, _, filtering) in kinds() {
        for seed in 1..=50 {
            let setting = Setting {
                loss: 0.05,
                seed,
                ..Setting::behind(nat, 2)
            };
            let (report, took, _) = examine(&setting);
            assert!(took < Duration::from_secs(5), "{nat:?} {seed}");
            all += 1;
            let right =
                report.nat.mapping == Some(mapping) && report.nat.filtering == Some(filtering);
            wrong += u32::from(!right);
        }
    }
    assert!(wrong * 50 <= all, "{wrong} of {all} are wrong");
}

#[test]
fn what_a_server_cannot_do_is_not_held_against_the_nat() {
    // It does not understand full requests: nothing is known.
    let (report, ..) = examine(&Setting {
        follows: false,
        ..Setting::behind(Some(NatConfig::full_cone()), 1)
    });
    assert_eq!((report.nat.mapping, report.nat.filtering), (None, None));
    // Its second port is shut by a firewall of its own.
    let (report, ..) = examine(&Setting {
        ports: vec![SERVER_PORTS[0]],
        ..Setting::behind(Some(NatConfig::full_cone()), 1)
    });
    assert_eq!(report.nat.silent.len(), 1);
    // Only its second port is open.
    let (report, ..) = examine(&Setting {
        ports: vec![SERVER_PORTS[1]],
        ..Setting::behind(Some(NatConfig::full_cone()), 1)
    });
    assert_eq!(report.nat.filtering, None);
    assert_eq!(report.servers[0].1, None);
    assert!(report.servers[1].1.is_some());
    // Nobody is there.
    let (report, took, sent) = examine(&Setting {
        ports: Vec::new(),
        ..Setting::behind(Some(NatConfig::full_cone()), 1)
    });
    assert!(report.servers.iter().all(|(_, took)| took.is_none()));
    assert!(
        took <= Duration::from_millis(3_500) && sent == 6,
        "{took:?} {sent}"
    );
}
