//! The address to paste: what the operator says, or what this machine can find out about itself
//! without sending anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use p2p_net_proto::{Fingerprint, RelayAddress, Token};

use crate::StartError;

/// The relay's address for others, from the operator's word, or from the local address of its first
/// port.
pub(crate) fn address(
    public: Option<&str>,
    local: SocketAddr,
    fingerprint: Fingerprint,
    token: Token,
) -> Result<RelayAddress, StartError> {
    let (host, port) = match public {
        Some(text) => host_and_port(text, local.port())?,
        None => (reachable_ip(local.ip()).to_string(), local.port()),
    };
    Ok(RelayAddress {
        host,
        port,
        fingerprint: Some(fingerprint),
        token: Some(token),
    })
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address; without a port it is `port`.
fn host_and_port(text: &str, port: u16) -> Result<(String, u16), StartError> {
    let wrong = || StartError::PublicAddress(text.to_owned());
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((ip.to_string(), port));
    }
    if text.contains('#') {
        return Err(wrong());
    }
    let parsed: RelayAddress = text.parse().map_err(|_| wrong())?;
    let names_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok((parsed.host, if names_port { parsed.port } else { port }))
}

/// The address of this machine under which a socket bound to `local` is reached, as far as can be
/// known.
fn reachable_ip(local: IpAddr) -> IpAddr {
    let local = local.to_canonical();
    if !local.is_unspecified() {
        return local;
    }
    routed_ip(
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(192, 0, 2, 1).into(),
    )
    .or_else(|| interface_ip(false))
    .or_else(|| {
        let v6 = local.is_ipv6();
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
        v6.then(|| {
            routed_ip(Ipv6Addr::UNSPECIFIED.into(), documentation).or_else(|| interface_ip(true))
        })?
    })
    .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The source address that the system would take for a packet to `target`; connecting a UDP socket
/// sends nothing.
fn routed_ip(any: IpAddr, target: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// The first address of an interface that is up, for machines without a default route.
fn interface_ip(v6: bool) -> Option<IpAddr> {
    let interfaces = netdev::get_interfaces();
    let up = interfaces
        .iter()
        .filter(|interface| interface.is_up() && !interface.is_loopback());
    up.flat_map(|interface| {
        let v4 = interface.ipv4.iter().map(|net| IpAddr::V4(net.addr()));
        let v6 = interface.ipv6.iter().map(|net| IpAddr::V6(net.addr()));
        v4.chain(v6).collect::<Vec<_>>()
    })
    .find(|ip| match ip {
        IpAddr::V4(_) => !v6,
        IpAddr::V6(ip) => v6 && !ip.is_unicast_link_local(),
    })
}

/// Whether only machines of the same network can reach `host`.
pub fn is_private_host(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared
        }
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_may_leave_the_port_out() {
        let table = [
            ("relay.example.org", ("relay.example.org", 443)),
            ("relay.example.org:8443", ("relay.example.org", 8443)),
            ("192.0.2.7", ("192.0.2.7", 443)),
            ("192.0.2.7:444", ("192.0.2.7", 444)),
            ("2001:db8::7", ("2001:db8::7", 443)),
            ("[2001:db8::7]", ("2001:db8::7", 443)),
            ("[2001:db8::7]:444", ("2001:db8::7", 444)),
        ];
        for (text, (host, port)) in table {
            let parsed = host_and_port(text, 443).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed, (host.to_owned(), port), "{text}");
        }
        for text in [
            "",
            ":443",
            "relay.example.org:no",
            "relay.example.org:443#fingerprint",
        ] {
            assert!(host_and_port(text, 443).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bound_address_is_told_as_it_is() {
        for text in ["127.0.0.1", "::1", "192.0.2.9"] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(reachable_ip(ip), ip);
        }
        assert!(!reachable_ip(Ipv6Addr::UNSPECIFIED.into()).is_unspecified());
    }

    #[test]
    fn private_hosts_are_known() {
        for host in [
            "10.0.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "100.64.0.1",
            "fd00::1",
            "::1",
            "fe80::1",
        ] {
            assert!(is_private_host(host), "{host}");
        }
        for host in [
            "192.0.2.1",
            "100.128.0.1",
            "2001:db8::1",
            "relay.example.org",
        ] {
            assert!(!is_private_host(host), "{host}");
        }
    }
}
