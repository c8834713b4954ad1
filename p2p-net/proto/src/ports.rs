//! Port mapping: what a router granted, when to ask it (again), and whether what it says is of any use
//! (`wire.md` §6). What is asked how is the driver's; routers are believed as little as anybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Candidate, CandidateKind};

/// The protocol of a router that opens ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingProtocol {
    /// Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// UPnP's Internet Gateway Device.
    Upnp,
}

impl MappingProtocol {
    /// Its everyday name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// A port that a router opened for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// By which protocol.
    pub protocol: MappingProtocol,
    /// Where the router says that others reach us; never believed without the relay's word.
    pub external: SocketAddrV4,
    /// How long it holds unless renewed, seconds; 0 where it holds until it is removed.
    pub lifetime_secs: u32,
}

impl PortMapping {
    /// Whether it says a public address at all. Behind a second NAT, a carrier's most of all, it does not.
    pub fn is_public(&self) -> bool {
        self.external.port() != 0 && is_public(*self.external.ip())
    }

    /// What to offer of it: nothing unless the relay sees us at the very address, because peers probe no other
    /// (`wire.md` §6: the IP is attested, the port need not be).
    pub fn candidate(&self, observed: &[IpAddr]) -> Option<Candidate> {
        let seen = observed.contains(&IpAddr::V4(*self.external.ip()));
        (seen && self.is_public()).then(|| Candidate {
            kind: CandidateKind::Mapped,
            address: self.external.into(),
        })
    }
}

/// What a router offers, for whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingReport {
    /// The router, where there is one to ask.
    pub router: Option<IpAddr>,
    /// The protocols that it answers.
    pub offers: Vec<MappingProtocol>,
    /// The port that it has opened for us.
    pub mapping: Option<PortMapping>,
    /// Why it has opened none, in words.
    pub problem: Option<String>,
}

/// Whether an address may be one of the public Internet's: not private (RFC 1918), not a carrier's own
/// (RFC 6598), and not of those that no host has (RFC 6890).
pub fn is_public(ip: Ipv4Addr) -> bool {
    let [first, second, third, _] = ip.octets();
    let carrier = first == 100 && (64..128).contains(&second);
    let protocols = (first, second, third) == (192, 0, 0);
    let no_host = first == 0 || first >= 224;
    !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || carrier || protocols || no_host)
}

/// What we ask for, seconds: half of what RFC 6886 §3.3 recommends, since what a crash leaves behind stays
/// open for so long.
pub const MAPPING_LIFETIME_SECS: u32 = 3_600;
/// A shorter grant is no grant, seconds: two minutes is the least that RFC 6887 §15 wants of a server.
const MIN_LIFETIME_SECS: u32 = 60;
/// Renewed at least so often, whatever a router says.
const MAX_RENEWAL: Duration = Duration::from_secs(3_600);
/// Between two questions at least, whatever happens to the network.
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Pauses after a router that grants nothing; the last one repeats. It costs some dozens of packets.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(3_600),
];
/// Between attempts at renewal at least.
const MIN_RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// When to ask, and until when the last grant holds.
#[derive(Debug)]
pub struct MappingPlan {
    due: Instant,
    asked_at: Option<Instant>,
    ends_at: Option<Instant>,
    refusals: usize,
}

impl MappingPlan {
    /// Asks at once.
    pub fn new(now: Instant) -> Self {
        Self {
            due: now,
            asked_at: None,
            ends_at: None,
            refusals: 0,
        }
    }

    /// When to ask next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// When what was granted ends, unless it is renewed.
    pub fn ends_at(&self) -> Option<Instant> {
        self.ends_at
    }

    /// A question goes out; what it brings is said by `granted` or `refused`.
    pub fn asked(&mut self, now: Instant) {
        self.asked_at = Some(now);
    }

    /// A router granted a mapping for so many seconds (0: until it is removed). Says whether it is one.
    pub fn granted(&mut self, now: Instant, lifetime_secs: u32) -> bool {
        let lifetime = Duration::from_secs(lifetime_secs.into());
        if lifetime_secs == 0 {
            self.ends_at = None;
            self.due = now + MAX_RENEWAL;
        } else if lifetime_secs < MIN_LIFETIME_SECS {
            self.refused(now);
            return false;
        } else {
            self.ends_at = Some(now + lifetime);
            self.due = now + (lifetime / 2).min(MAX_RENEWAL);
        }
        self.refusals = 0;
        true
    }

    /// Nothing was granted. An earlier grant holds until its end and is asked for again at half of what is
    /// left (RFC 6887 §11.2.1).
    pub fn refused(&mut self, now: Instant) {
        let left = self
            .ends_at
            .map(|at| at.saturating_duration_since(now))
            .filter(|left| *left >= MIN_RENEWAL_PAUSE);
        self.due = match left {
            Some(left) => now + (left / 2).max(MIN_RENEWAL_PAUSE),
            None => now + PAUSES[self.refusals.min(PAUSES.len() - 1)],
        };
        self.refusals = self.refusals.saturating_add(1);
    }

    /// The network changed: asks anew, but not at once again.
    pub fn network_changed(&mut self, now: Instant) {
        self.refusals = 0;
        let soonest = self.asked_at.map_or(now, |at| now.max(at + MIN_PAUSE));
        self.due = self.due.min(soonest);
    }

    /// The last grant is over, or for another network.
    pub fn lost(&mut self) {
        self.ends_at = None;
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as a beginning"
)]
mod tests {
    use super::*;

    fn mapping(external: &str) -> PortMapping {
        PortMapping {
            protocol: MappingProtocol::Pcp,
            external: external.parse().expect("an address"),
            lifetime_secs: 3_600,
        }
    }

    #[test]
    fn only_public_addresses_that_the_relay_sees_are_offered() {
        let seen: [IpAddr; 2] = [[198, 51, 100, 2].into(), [10, 0, 0, 9].into()];
        let table = [
            ("198.51.100.2:4000", true, "seen"),
            ("198.51.100.2:0", false, "no port"),
            ("198.51.100.3:4000", false, "claimed only"),
            (
                "10.0.0.9:4000",
                false,
                "private, though the relay is in the same network",
            ),
            ("100.64.0.9:4000", false, "a carrier's"),
            ("0.0.0.0:4000", false, "none"),
        ];
        for (external, expected, why) in table {
            let offered = mapping(external).candidate(&seen);
            assert_eq!(offered.is_some(), expected, "{external}: {why}");
        }
        let offered = mapping("198.51.100.2:4000").candidate(&seen);
        assert_eq!(offered.map(|one| one.kind), Some(CandidateKind::Mapped));
    }

    #[test]
    fn addresses_that_nobody_reaches_are_not_public() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
        ] {
            assert!(is_public(ip.parse().expect("an address")), "{ip}");
        }
    }

    #[test]
    fn a_grant_is_renewed_at_half_of_its_life_and_held_to_its_end() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut plan = MappingPlan::new(start);
        assert_eq!(plan.due(), start);
        plan.asked(start);
        assert!(plan.granted(start, 600));
        assert_eq!((plan.due(), plan.ends_at()), (at(300), Some(at(600))));
        plan.asked(at(300));
        plan.refused(at(300));
        assert_eq!((plan.due(), plan.ends_at()), (at(450), Some(at(600))));
        plan.refused(at(450));
        assert_eq!(plan.due(), at(525));
        plan.refused(at(590));
        assert_eq!(plan.due(), at(590) + PAUSES[2], "too late to renew");
    }

    #[test]
    fn a_router_cannot_make_us_busy() {
        let start = Instant::now();
        let mut plan = MappingPlan::new(start);
        for secs in [1, 2, 59] {
            plan.asked(start);
            assert!(!plan.granted(start, secs), "{secs} s is no grant");
            assert!(plan.due() >= start + PAUSES[0]);
        }
        assert!(plan.granted(start, u32::MAX));
        assert_eq!(plan.due(), start + MAX_RENEWAL);
        assert!(plan.granted(start, 0), "until it is removed");
        assert_eq!((plan.due(), plan.ends_at()), (start + MAX_RENEWAL, None));
        plan.asked(start);
        for _ in 0..1_000 {
            plan.network_changed(start);
        }
        assert_eq!(plan.due(), start + MIN_PAUSE, "not at once again");
        let mut pauses = Vec::new();
        for _ in 0..6 {
            plan.lost();
            plan.refused(start);
            pauses.push(plan.due() - start);
        }
        assert_eq!(pauses[..4], PAUSES);
        assert_eq!(pauses[5], PAUSES[3]);
    }
}
