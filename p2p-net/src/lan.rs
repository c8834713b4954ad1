//! mDNS (RFC 6762): says on the LAN that somebody with today's name is here, and hears who else is. A name says
//! nothing to who does not know the id behind it (`knock.rs` of the protocol crate). The crate's thread runs only
//! while this exists.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use mdns_sd::{IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use tracing::debug;

/// Under which names are looked for (RFC 6763 §4.1.2).
const SERVICE: &str = "_landline._udp.local.";
/// Addresses of one name that are looked at; a host has a few.
const MAX_ADDRESSES: usize = 8;
/// A name has 26 characters; a longer one is nobody's.
const MAX_NAME_LEN: usize = 63;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Somebody with this name is at these addresses.
    Here(String, Vec<SocketAddr>),
    /// No longer.
    Gone(String),
}

/// See the module.
pub(crate) struct Finder {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    /// The full name that is announced.
    announced: Option<String>,
}

impl Finder {
    /// Starts looking; `None`, and a line in the log, where the system does not allow it.
    pub(crate) fn start() -> Option<Self> {
        let started = ServiceDaemon::new().and_then(|daemon| {
            // What runs on this very machine is not on the LAN.
            daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
            let events = daemon.browse(SERVICE)?;
            Ok((daemon, events))
        });
        match started {
            Ok((daemon, events)) => Some(Self {
                daemon,
                events,
                announced: None,
            }),
            Err(error) => {
                debug!(%error, "no mDNS here");
                None
            }
        }
    }

    /// Says that `name` is here, on this port, instead of what was said before.
    pub(crate) fn announce(&mut self, name: &str, port: u16) {
        let host = format!("{name}.local.");
        let nothing: HashMap<String, String> = HashMap::new();
        let info = match ServiceInfo::new(SERVICE, name, &host, "", port, nothing) {
            Ok(info) => info,
            Err(error) => return debug!(%error, "nothing is announced"),
        };
        let mut info = info.enable_addr_auto();
        // 128 bits of a hash are nobody else's: there is no conflict to wait for (RFC 6762 §8.1).
        info.set_requires_probe(false);
        let full = info.get_fullname().to_owned();
        if self.announced.as_ref() == Some(&full) {
            return;
        }
        if let Some(before) = self.announced.replace(full) {
            let _ = self.daemon.unregister(&before);
        }
        if let Err(error) = self.daemon.register(info) {
            debug!(%error, "not announced");
            self.announced = None;
        }
    }

    /// What is heard next. Cancel safe.
    pub(crate) async fn next(&self) -> Sighting {
        loop {
            match self.events.recv_async().await {
                Ok(ServiceEvent::ServiceResolved(found)) => {
                    let Some(name) = name_of(&found.fullname) else {
                        continue;
                    };
                    let port = found.port;
                    let addresses = found.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr);
                    let mut addresses: Vec<_> = addresses
                        .filter(is_usable)
                        .map(|ip| SocketAddr::new(ip, port))
                        .filter(|address| address.port() != 0)
                        .collect();
                    addresses.sort_unstable();
                    addresses.truncate(MAX_ADDRESSES);
                    return Sighting::Here(name, addresses);
                }
                Ok(ServiceEvent::ServiceRemoved(_, full)) => {
                    if let Some(name) = name_of(&full) {
                        return Sighting::Gone(name);
                    }
                }
                Ok(_) => {}
                // Its thread is gone, and nothing more will be heard.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Drop for Finder {
    fn drop(&mut self) {
        // Says goodbye for what was announced, too (RFC 6762 §10.1).
        let _ = self.daemon.shutdown();
    }
}

/// The first label of a full name, if it can be one of ours.
fn name_of(full: &str) -> Option<String> {
    let name = full.strip_suffix(SERVICE)?.strip_suffix('.')?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain && !name.is_empty() && name.len() <= MAX_NAME_LEN).then(|| name.to_ascii_lowercase())
}

/// Link-local addresses need an interface beside them, which our sockets are not told.
fn is_usable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
        IpAddr::V6(ip) => {
            !ip.is_loopback()
                && !ip.is_unspecified()
                && !ip.is_multicast()
                && !ip.is_unicast_link_local()
        }
    }
}

/// Whether `ip` lies in the network of one of our own addresses.
pub(crate) fn is_on_link(own: &[(IpAddr, u8)], ip: IpAddr) -> bool {
    let same = |(own, length): &(IpAddr, u8)| match (own, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from((*length).min(32));
            let differ = u32::from(*own) ^ u32::from(ip);
            *length > 0 && differ.checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(own), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from((*length).min(128));
            let differ = u128::from(*own) ^ u128::from(ip);
            *length > 0 && differ.checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    };
    own.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_kind_are_heard() {
        let table = [
            ("abc234._landline._udp.local.", Some("abc234")),
            ("ABC234._landline._udp.local.", Some("abc234")),
            ("_landline._udp.local.", None),
            ("._landline._udp.local.", None),
            ("a b._landline._udp.local.", None),
            ("a.b._landline._udp.local.", None),
            ("abc234._other._udp.local.", None),
        ];
        for (full, expected) in table {
            assert_eq!(name_of(full).as_deref(), expected, "{full}");
        }
        let long = format!("{}.{SERVICE}", "a".repeat(64));
        assert_eq!(name_of(&long), None);
    }

    #[test]
    fn neighbours_are_told_from_strangers() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let own = [
            (ip("192.168.1.20"), 24),
            (ip("fd00:1::5"), 64),
            (ip("10.9.9.9"), 0),
            (ip("172.16.0.1"), 32),
        ];
        for (text, expected) in [
            ("192.168.1.77", true),
            ("192.168.2.77", false),
            ("fd00:1::77", true),
            ("fd00:2::77", false),
            ("8.8.8.8", false),
            ("172.16.0.1", true),
            ("172.16.0.2", false),
        ] {
            assert_eq!(is_on_link(&own, ip(text)), expected, "{text}");
        }
    }
}
