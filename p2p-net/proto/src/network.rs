//! What a look at the network found, as plain data: programs show it, and print it as JSON.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Allocation, Filtering, Mapping, NatReport, PortMappingReport};

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Addresses of the interfaces that are up, without loopback.
    pub interfaces: Vec<Interface>,
    /// Our UDP port.
    pub port: u16,
    /// The relay, `host:port`; `None` where none is configured.
    pub relay: Option<String>,
    /// Why its name has no address, in words.
    pub unresolved: Option<String>,
    /// Over IPv4; `None` where the relay or this machine has none.
    pub ipv4: Option<FamilyReport>,
    /// Over IPv6 likewise.
    pub ipv6: Option<FamilyReport>,
    /// How far our clock is ahead of the relay's, ms; as exact as the way there is symmetric.
    pub clock_ahead_millis: Option<i64>,
    /// Whether the relay's host takes TCP on its port; only tried where UDP is silent.
    pub tcp: Option<bool>,
    /// Somebody answers the web in the relay's place, as a sign-in page does; only tried where UDP is silent.
    pub portal: Option<Portal>,
    /// What the router says about opening ports; `None` where it was not asked.
    #[serde(default)]
    pub port_mapping: Option<PortMappingReport>,
}

/// One address of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// Bits of its network's prefix.
    pub prefix: u8,
}

/// What holds for one family of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyReport {
    /// The relay's ports.
    pub servers: Vec<ServerReport>,
    /// What is between us and it.
    pub nat: NatReport,
}

/// One port of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Where it is.
    pub address: SocketAddr,
    /// How long a question took, µs; `None` where nothing came back.
    pub round_trip_micros: Option<u64>,
}

/// Whoever answers instead of the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portal {
    /// The status of its answer (RFC 9110 §15).
    pub status: u16,
    /// Where it sends us, if it does; printable and short.
    pub location: Option<String>,
}

/// Of a place to go to, so much is shown, characters.
const MAX_LOCATION: usize = 120;

impl Portal {
    /// What the head of a web answer says. `None` unless it is one that no web server of the relay's own would
    /// give: a redirection, or "network authentication required" (RFC 6585 §6).
    pub fn parse(head: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.lines();
        let status_line = lines.next()?.strip_prefix("HTTP/1.")?;
        let status: u16 = status_line.split_whitespace().nth(1)?.parse().ok()?;
        if !matches!(status, 301 | 302 | 303 | 307 | 308 | 511) {
            return None;
        }
        let location = lines.take_while(|line| !line.is_empty()).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location").then(|| value.trim())
        });
        let printable = |text: &str| -> String {
            let shown = text.chars().filter(char::is_ascii_graphic);
            shown.take(MAX_LOCATION).collect()
        };
        let location = location.map(printable).filter(|text| !text.is_empty());
        Some(Self { status, location })
    }
}

/// How well direct paths can be made from here, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ease {
    /// Everybody reaches us: no NAT, or a port that is open.
    Open,
    /// Direct paths to nearly everybody.
    Good,
    /// Direct paths where the other side's network is better, or a port can be guessed.
    Hard,
    /// No UDP: everything goes through the relay.
    Blocked,
    /// Not known.
    Unknown,
}

impl FamilyReport {
    /// Whether anything came back.
    pub fn is_reached(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| server.round_trip_micros.is_some())
    }
}

impl NetworkReport {
    /// Both families that were tried, the newer first.
    pub fn families(&self) -> impl Iterator<Item = &FamilyReport> {
        [&self.ipv6, &self.ipv4].into_iter().flatten()
    }

    /// Whether UDP passes; `None` where there was nobody to ask.
    pub fn udp(&self) -> Option<bool> {
        self.families()
            .map(FamilyReport::is_reached)
            .reduce(|one, other| one || other)
    }

    /// The shortest round trip to the relay, µs.
    pub fn round_trip_micros(&self) -> Option<u64> {
        let servers = self.families().flat_map(|family| &family.servers);
        servers.filter_map(|server| server.round_trip_micros).min()
    }

    /// Whether the router has opened a port of the very address at which the relay sees us.
    pub fn is_mapped(&self) -> bool {
        let seen: Vec<IpAddr> = self
            .families()
            .flat_map(|family| &family.nat.seen)
            .map(|(_, mapped)| mapped.ip())
            .collect();
        let report = self.port_mapping.as_ref();
        let mapping = report.and_then(|report| report.mapping);
        mapping.is_some_and(|mapping| mapping.candidate(&seen).is_some())
    }

    /// How well direct paths can be made: as well as the better family allows.
    pub fn ease(&self) -> Ease {
        match self.udp() {
            None => Ease::Unknown,
            Some(false) => Ease::Blocked,
            Some(true) => {
                if self.is_mapped() {
                    return Ease::Open;
                }
                let reached = self.families().filter(|family| family.is_reached());
                let best = reached.map(|family| ease_of(&family.nat)).min();
                best.unwrap_or(Ease::Unknown)
            }
        }
    }
}

fn ease_of(nat: &NatReport) -> Ease {
    match (nat.mapping, nat.filtering) {
        (
            Some(Mapping::None | Mapping::EndpointIndependent),
            Some(Filtering::EndpointIndependent),
        ) => Ease::Open,
        (Some(Mapping::None | Mapping::EndpointIndependent), _) => Ease::Good,
        (Some(Mapping::DestinationDependent), _) => Ease::Hard,
        (None, _) => Ease::Unknown,
    }
}

impl NatReport {
    /// The kind by its everyday name: "port-restricted cone NAT", "symmetric NAT, ports counted up".
    pub fn name(&self) -> &'static str {
        use Filtering::{
            AddressAndPortDependent, AddressDependent, EndpointIndependent, PortIndependent,
        };
        match (self.mapping, self.filtering, self.allocation) {
            (None, ..) => "not known",
            (Some(Mapping::None), None | Some(EndpointIndependent | PortIndependent), _) => {
                "no NAT, open"
            }
            (Some(Mapping::None), Some(_), _) => "no NAT, with a firewall",
            (Some(Mapping::EndpointIndependent), filtering, _) => match filtering {
                None => "cone NAT",
                Some(EndpointIndependent) => "full-cone NAT",
                Some(AddressDependent) => "address-restricted cone NAT",
                Some(AddressAndPortDependent) => "port-restricted cone NAT",
                Some(PortIndependent) => "full-cone or address-restricted cone NAT",
            },
            (Some(Mapping::DestinationDependent), _, allocation) => match allocation {
                Some(Allocation::Sequential) => "symmetric NAT, ports counted up",
                Some(Allocation::Block) => "symmetric NAT, ports out of a small block",
                Some(Allocation::Random) => "symmetric NAT, random ports",
                Some(Allocation::Preserving) | None => "symmetric NAT",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat(mapping: Mapping, filtering: Option<Filtering>) -> NatReport {
        NatReport {
            seen: Vec::new(),
            silent: Vec::new(),
            mapping: Some(mapping),
            allocation: Some(Allocation::Random),
            block: None,
            filtering,
            hairpin: None,
        }
    }

    fn family(nat: NatReport, round_trip_micros: Option<u64>) -> Option<FamilyReport> {
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        let servers = vec![ServerReport {
            address,
            round_trip_micros,
        }];
        Some(FamilyReport { servers, nat })
    }

    #[test]
    fn the_better_family_decides() {
        let symmetric = nat(Mapping::DestinationDependent, None);
        let firewall = nat(Mapping::None, Some(Filtering::AddressAndPortDependent));
        let mut report = NetworkReport::default();
        assert_eq!((report.udp(), report.ease()), (None, Ease::Unknown));
        report.ipv4 = family(symmetric.clone(), Some(9));
        assert_eq!((report.udp(), report.ease()), (Some(true), Ease::Hard));
        report.ipv6 = family(firewall.clone(), Some(7));
        assert_eq!(report.ease(), Ease::Good);
        assert_eq!(report.round_trip_micros(), Some(7));
        // A family that nothing comes through by does not count.
        report.ipv6 = family(firewall, None);
        assert_eq!(report.ease(), Ease::Hard);
        report.ipv4 = family(symmetric, None);
        assert_eq!((report.udp(), report.ease()), (Some(false), Ease::Blocked));
    }

    #[test]
    fn redirections_are_told_from_web_servers_and_rubbish() {
        let portal = |status, location: Option<&str>| {
            let location = location.map(str::to_owned);
            Some(Portal { status, location })
        };
        let table: [(&[u8], Option<Portal>); 8] = [
            (
                b"HTTP/1.1 302 Found\r\nServer: x\r\nLOCATION: http://login.example/?a=b\r\n\r\n",
                portal(302, Some("http://login.example/?a=b")),
            ),
            (
                b"HTTP/1.0 511 Network Authentication Required\r\n\r\n",
                portal(511, None),
            ),
            // What stands behind the head is no head.
            (
                b"HTTP/1.1 307 x\r\n\r\nLocation: http://x/",
                portal(307, None),
            ),
            (
                b"HTTP/1.1 302 x\r\nLocation: \x1b[31m\xff\r\n\r\n",
                portal(302, Some("[31m")),
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", None),
            (b"HTTP/1.1", None),
            (b"", None),
        ];
        for (head, expected) in table {
            let told = Portal::parse(head);
            assert_eq!(told, expected, "{}", String::from_utf8_lossy(head));
        }
        let long = format!("HTTP/1.1 302 x\r\nLocation: {}\r\n\r\n", "y".repeat(4_000));
        let location = Portal::parse(long.as_bytes()).and_then(|portal| portal.location);
        assert_eq!(location.map(|text| text.len()), Some(MAX_LOCATION));
    }

    #[test]
    fn kinds_have_everyday_names() {
        let same = Mapping::EndpointIndependent;
        let port = Some(Filtering::AddressAndPortDependent);
        assert_eq!(nat(same, port).name(), "port-restricted cone NAT");
        assert_eq!(nat(Mapping::None, port).name(), "no NAT, with a firewall");
        assert_eq!(nat(Mapping::None, None).name(), "no NAT, open");
        let symmetric = nat(Mapping::DestinationDependent, port);
        assert_eq!(symmetric.name(), "symmetric NAT, random ports");
    }
}
