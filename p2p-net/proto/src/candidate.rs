//! Addresses where a peer may be reached, and which of a peer's claims may be acted on (`wire.md` §6).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Candidates in one offer or answer at most (`connectivity.md` §5.5).
pub const MAX_CANDIDATES: usize = 10;

/// Where a candidate comes from (RFC 8445 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// As the relay observed it.
    ServerReflexive,
    /// As a peer observed it, in a probe.
    PeerReflexive,
    /// Granted by a router (PCP, NAT-PMP, UPnP).
    Mapped,
}

/// One address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The address; never v4-mapped IPv6.
    pub address: SocketAddr,
}

/// What the relay attested for a peer: see [`crate::wire::ObservedAddress`].
pub type Observed = crate::wire::ObservedAddress;

/// What decides whether a peer's candidate counts.
#[derive(Debug, Clone, Default)]
pub struct Attestation {
    /// The relay's observations of the peer, fresh ones (60 s) only count.
    pub observed: Vec<Observed>,
    /// Prefixes of our own interfaces: address and prefix length.
    pub prefixes: Vec<(IpAddr, u8)>,
    /// The relay's own addresses; never a candidate.
    pub relays: Vec<SocketAddr>,
    /// Whether the relay observes us on loopback; loopback candidates count only if it observes both.
    pub loopback: bool,
}

/// How long ago the relay may have seen an address for it to count, in milliseconds (`wire.md` §6).
const MAX_OBSERVED_AGE_MILLIS: u32 = 60_000;
/// Places among [`MAX_CANDIDATES`] that interfaces leave to addresses which others observed: with none of
/// those, a machine with many interfaces could not be reached from outside.
const KEPT_FOR_REFLEXIVE: usize = 4;

/// Whether probes may go to `candidate` (`wire.md` §6).
pub fn usable(candidate: &Candidate, attestation: &Attestation) -> bool {
    let address = candidate.address;
    let ip = address.ip();
    if address.port() == 0 || !could_be_a_host(ip) || attestation.relays.contains(&address) {
        return false;
    }
    let mut fresh = attestation
        .observed
        .iter()
        .filter(|observed| observed.age_millis <= MAX_OBSERVED_AGE_MILLIS)
        .map(|observed| observed.address.ip());
    let both_on_loopback = attestation.loopback && fresh.clone().any(|seen| seen.is_loopback());
    if ip.is_loopback() || both_on_loopback {
        return ip.is_loopback() && both_on_loopback;
    }
    let inside = || attestation.prefixes.iter().any(|prefix| holds(*prefix, ip));
    !is_broadcast(ip, &attestation.prefixes)
        && (fresh.any(|seen| seen == ip) || (is_local(ip) && inside()))
}

/// The priority of a candidate (RFC 8445 §5.1.2, component 1): nearer kinds first, IPv6 before IPv4.
pub fn priority(candidate: &Candidate) -> u32 {
    // RFC 8445 §5.1.2.2 recommends 126, 110 and 100; a router's grant is as good as an observed address, and
    // stays when the mapping of the latter is gone.
    let kind = match candidate.kind {
        CandidateKind::Host => 126,
        CandidateKind::PeerReflexive => 110,
        CandidateKind::Mapped => 105,
        CandidateKind::ServerReflexive => 100,
    };
    let local = match candidate.address.ip() {
        IpAddr::V6(ip) if !ip.is_unicast_link_local() => 65_535,
        IpAddr::V6(_) => 16_384,
        IpAddr::V4(ip) if !ip.is_link_local() => 32_768,
        IpAddr::V4(_) => 8_192,
    };
    (kind << 24) | (local << 8) | 255
}

/// What we may offer: the addresses of our `interfaces` with our `port`, and those that relays `observed`;
/// best first, none twice, at most [`MAX_CANDIDATES`]. With `loopback` (the relay sees us on loopback)
/// loopback addresses alone, else none of them.
pub fn local_candidates(
    interfaces: &[IpAddr],
    port: u16,
    observed: &[SocketAddr],
    loopback: bool,
) -> Vec<Candidate> {
    let host = interfaces.iter().map(|ip| {
        (
            CandidateKind::Host,
            SocketAddr::new(ip.to_canonical(), port),
        )
    });
    let reflexive = observed.iter().map(|seen| {
        let plain = SocketAddr::new(seen.ip().to_canonical(), seen.port());
        // On loopback nothing translates: what was observed is our own.
        let kind = if loopback {
            CandidateKind::Host
        } else {
            CandidateKind::ServerReflexive
        };
        (kind, plain)
    });
    let offered = host.chain(reflexive).filter(|(_, address)| {
        address.port() != 0
            && could_be_a_host(address.ip())
            && address.ip().is_loopback() == loopback
            // Its zone does not survive the wire, and without a zone nobody can send there.
            && !matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
    });
    select(offered.map(|(kind, address)| Candidate { kind, address }))
}

/// Best first, no address twice, at most [`MAX_CANDIDATES`], some of them reflexive if any are.
pub(crate) fn select(candidates: impl IntoIterator<Item = Candidate>) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        match all
            .iter_mut()
            .find(|other| other.address == candidate.address)
        {
            Some(other) if priority(&candidate) > priority(other) => *other = candidate,
            Some(_) => {}
            None => all.push(candidate),
        }
    }
    all.sort_by_key(|candidate| std::cmp::Reverse(priority(candidate)));
    let reflexive = all
        .iter()
        .filter(|candidate| candidate.kind != CandidateKind::Host)
        .count();
    let mut hosts_left = MAX_CANDIDATES - reflexive.min(KEPT_FOR_REFLEXIVE);
    all.retain(|candidate| {
        let keeps = candidate.kind != CandidateKind::Host || hosts_left > 0;
        hosts_left -= usize::from(keeps && candidate.kind == CandidateKind::Host);
        keeps
    });
    all.truncate(MAX_CANDIDATES);
    all
}

/// Private, link-local or ULA: reachable only inside its own network.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether a single machine could have this address at all. A v4-mapped one is a disguise.
fn could_be_a_host(ip: IpAddr) -> bool {
    if ip.is_unspecified() || ip.is_multicast() || ip != ip.to_canonical() {
        return false;
    }
    match ip {
        // 0.0.0.0/8 and 240.0.0.0/4 (RFC 6890), the limited broadcast address among them.
        IpAddr::V4(ip) => ip.octets()[0] != 0 && ip.octets()[0] < 240,
        IpAddr::V6(_) => true,
    }
}

fn holds((network, length): (IpAddr, u8), ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let mask = mask_v4(length);
            u32::from(network) & mask == u32::from(ip) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(length.min(128)))
                .unwrap_or(0);
            u128::from(network) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}

/// The first or last address of a prefix of ours that has such (RFC 919; /31 and /32 have none, RFC 3021).
fn is_broadcast(ip: IpAddr, prefixes: &[(IpAddr, u8)]) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    prefixes.iter().any(|(network, length)| {
        let IpAddr::V4(network) = network else {
            return false;
        };
        let mask = mask_v4(*length);
        let first = u32::from(*network) & mask;
        *length < 31 && (ip == Ipv4Addr::from(first) || ip == Ipv4Addr::from(first | !mask))
    })
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(length.min(32)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn candidate(text: &str) -> Candidate {
        Candidate {
            kind: CandidateKind::Host,
            address: at(text),
        }
    }

    fn seen(text: &str, age_millis: u32) -> Observed {
        Observed {
            address: at(text),
            age_millis,
        }
    }

    fn attestation() -> Attestation {
        Attestation {
            observed: vec![
                seen("203.0.113.7:4000", 60_000),
                seen("203.0.113.8:4000", 60_001),
            ],
            prefixes: vec![
                (at("192.168.1.20:0").ip(), 24),
                (at("[fd00:1::5]:0").ip(), 64),
                (at("198.51.100.9:0").ip(), 24),
            ],
            relays: vec![at("203.0.113.7:443"), at("192.168.1.1:443")],
            loopback: false,
        }
    }

    #[test]
    fn only_what_is_attested_or_near_is_usable() {
        let table = [
            ("203.0.113.7:4000", true, "attested"),
            ("203.0.113.7:9", true, "attested by address, not port"),
            ("203.0.113.8:4000", false, "too long ago"),
            ("203.0.113.9:4000", false, "merely claimed"),
            ("203.0.113.7:443", false, "the relay itself"),
            ("192.168.1.1:443", false, "the relay itself"),
            ("192.168.1.1:444", true, "the relay's address, another port"),
            ("192.168.1.77:5", true, "private, in our prefix"),
            ("192.168.2.77:5", false, "private, elsewhere"),
            ("198.51.100.10:5", false, "in our prefix, but public"),
            ("192.168.1.255:5", false, "broadcast of our network"),
            ("192.168.1.0:5", false, "broadcast of old"),
            ("255.255.255.255:5", false, "limited broadcast"),
            ("224.0.0.251:5353", false, "multicast"),
            ("[ff02::fb]:5353", false, "multicast"),
            ("0.0.0.0:5", false, "unspecified"),
            ("0.1.2.3:5", false, "this network"),
            ("[::]:5", false, "unspecified"),
            ("192.168.1.77:0", false, "port 0"),
            ("127.0.0.1:5", false, "loopback without a loopback relay"),
            ("[::1]:5", false, "loopback without a loopback relay"),
            ("[fd00:1::77]:5", true, "ULA, in our prefix"),
            ("[fd00:2::77]:5", false, "ULA, elsewhere"),
            ("[::ffff:203.0.113.7]:4000", false, "a disguise"),
            ("[2001:db8::1]:5", false, "merely claimed"),
        ];
        for (address, expected, why) in table {
            assert_eq!(
                usable(&candidate(address), &attestation()),
                expected,
                "{address}: {why}"
            );
        }
    }

    #[test]
    fn private_ranges_count_when_the_relay_itself_saw_them() {
        let attestation = Attestation {
            observed: vec![seen("10.1.2.3:5", 0)],
            ..Attestation::default()
        };
        assert!(usable(&candidate("10.1.2.3:5"), &attestation));
        assert!(!usable(&candidate("10.1.2.4:5"), &attestation));
    }

    #[test]
    fn loopback_needs_both_ends_on_loopback_and_excludes_the_rest() {
        let observed = vec![seen("127.0.0.1:5", 0), seen("203.0.113.7:5", 0)];
        let both = Attestation {
            observed: observed.clone(),
            loopback: true,
            ..attestation()
        };
        assert!(usable(&candidate("127.0.0.1:5"), &both));
        assert!(!usable(&candidate("203.0.113.7:5"), &both));
        assert!(!usable(&candidate("192.168.1.77:5"), &both));
        let theirs_only = Attestation {
            observed,
            loopback: false,
            ..attestation()
        };
        assert!(!usable(&candidate("127.0.0.1:5"), &theirs_only));
        assert!(usable(&candidate("203.0.113.7:5"), &theirs_only));
        let ours_only = Attestation {
            loopback: true,
            ..attestation()
        };
        assert!(!usable(&candidate("127.0.0.1:5"), &ours_only));
        assert!(usable(&candidate("203.0.113.7:5"), &ours_only));
        let stale = Attestation {
            observed: vec![seen("127.0.0.1:5", 60_001)],
            ..both
        };
        assert!(!usable(&candidate("127.0.0.1:5"), &stale));
    }

    #[test]
    fn prefixes_of_any_length_are_harmless() {
        for length in [0, 31, 32, 33, 128, 129, 255] {
            let attestation = Attestation {
                prefixes: vec![
                    (at("10.0.0.1:0").ip(), length),
                    (at("[fd00::1]:0").ip(), length),
                ],
                ..Attestation::default()
            };
            assert!(usable(&candidate("10.0.0.1:5"), &attestation) || length < 31);
            assert!(usable(&candidate("[fd00::1]:5"), &attestation));
        }
    }

    #[test]
    fn offers_are_ordered_unique_and_bounded() {
        let interfaces: Vec<IpAddr> = (1..=20)
            .map(|last| IpAddr::from([192, 168, last, 2]))
            .chain([
                at("[2001:db8::5]:0").ip(),
                at("[fe80::1]:0").ip(),
                at("127.0.0.1:0").ip(),
                at("[::1]:0").ip(),
            ])
            .collect();
        let observed = [
            at("203.0.113.7:61000"),
            at("[2001:db8::5]:5000"),
            at("[::ffff:203.0.113.7]:61000"),
        ];
        let offered = local_candidates(&interfaces, 5_000, &observed, false);
        assert_eq!(offered.len(), MAX_CANDIDATES);
        assert_eq!(offered[0], candidate("[2001:db8::5]:5000"));
        assert!(
            offered
                .windows(2)
                .all(|pair| priority(&pair[0]) >= priority(&pair[1]))
        );
        let reflexive: Vec<_> = offered
            .iter()
            .filter(|one| one.kind == CandidateKind::ServerReflexive)
            .collect();
        assert_eq!(reflexive.len(), 1);
        assert_eq!(reflexive[0].address, observed[0]);
        assert!(offered.iter().all(|one| !one.address.ip().is_loopback()));
    }

    #[test]
    fn on_loopback_nothing_else_is_offered() {
        let interfaces = [at("192.168.1.2:0").ip(), at("127.0.0.1:0").ip()];
        let offered = local_candidates(&interfaces, 5_000, &[at("127.0.0.1:5000")], true);
        assert_eq!(offered, [candidate("127.0.0.1:5000")]);
        assert!(local_candidates(&[], 0, &[], true).is_empty());
    }

    #[test]
    fn priorities_follow_the_rfc() {
        let with = |kind, text| {
            priority(&Candidate {
                kind,
                address: at(text),
            })
        };
        // RFC 8445 §5.1.2.1: 2^24 × 126 + 2^8 × 65535 + 255.
        assert_eq!(with(CandidateKind::Host, "[2001:db8::1]:1"), 2_130_706_431);
        let order = [
            with(CandidateKind::Host, "[2001:db8::1]:1"),
            with(CandidateKind::Host, "10.0.0.1:1"),
            with(CandidateKind::Host, "169.254.0.1:1"),
            with(CandidateKind::PeerReflexive, "203.0.113.1:1"),
            with(CandidateKind::Mapped, "203.0.113.1:1"),
            with(CandidateKind::ServerReflexive, "203.0.113.1:1"),
        ];
        assert!(order.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
