//! Addresses that a peer claims: none of those that must never be probed is usable, whatever is attested.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::wire::ObservedAddress;
use p2p_net_proto::{Attestation, Candidate, CandidateKind, usable};

#[derive(Debug, arbitrary::Arbitrary)]
struct Claims {
    address: (IpAddr, u16),
    kind: u8,
    observed: Vec<(IpAddr, u16, u32)>,
    prefixes: Vec<(IpAddr, u8)>,
    relays: Vec<(IpAddr, u16)>,
    loopback: bool,
    /// Whether the relay attests just that address.
    attested: bool,
}

fuzz_target!(|claims: Claims| {
    let address = SocketAddr::new(claims.address.0, claims.address.1);
    let kind = match claims.kind % 4 {
        0 => CandidateKind::Host,
        1 => CandidateKind::ServerReflexive,
        2 => CandidateKind::PeerReflexive,
        _ => CandidateKind::Mapped,
    };
    let mut observed: Vec<_> = claims
        .observed
        .iter()
        .map(|&(ip, port, age_millis)| ObservedAddress {
            address: (ip, port).into(),
            age_millis,
        })
        .collect();
    if claims.attested {
        observed.push(ObservedAddress {
            address,
            age_millis: 0,
        });
    }
    let attestation = Attestation {
        observed,
        prefixes: claims.prefixes,
        relays: claims.relays.into_iter().map(SocketAddr::from).collect(),
        loopback: claims.loopback,
    };
    if !usable(&Candidate { kind, address }, &attestation) {
        return;
    }
    let ip = address.ip();
    assert!(!ip.is_multicast() && !ip.is_unspecified(), "{address}");
    assert!(address.port() != 0);
    assert!(
        !matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()),
        "{address}"
    );
    assert!(
        !matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()),
        "{address}"
    );
    assert!(!attestation.relays.contains(&address), "the relay itself");
    assert!(
        !ip.is_loopback() || attestation.loopback,
        "loopback from afar"
    );
    assert!(
        !attestation.observed.is_empty() || !attestation.prefixes.is_empty(),
        "unattested"
    );
});
