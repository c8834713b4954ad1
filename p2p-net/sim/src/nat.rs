//! Network address translators after RFC 4787: how they map, what they let in, which ports they take, how
//! long they remember, whether they hairpin. IPv4 only; addresses of one inside network, one outside address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// On what a rule depends, besides the inside address and port (RFC 4787 §4.1 for mapping, §5 for filtering).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependence {
    /// On nothing else.
    Endpoint,
    /// On the remote address.
    Address,
    /// On the remote address and port.
    AddressAndPort,
}

/// How an outside port is chosen (RFC 4787 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The inside port where it is free, else a random one.
    Preserving,
    /// The next one.
    Sequential,
    /// Any.
    Random,
    /// Any between these two.
    Range(u16, u16),
}

/// What kind of translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatConfig {
    /// When an inside endpoint gets another outside port.
    pub mapping: Dependence,
    /// Whose packets are let in to a mapping.
    pub filtering: Dependence,
    /// See [`Ports`].
    pub ports: Ports,
    /// For how long a mapping, and the right to answer, outlive the last packet.
    pub timeout: Duration,
    /// For how long a mapping lives at most, however busy; its successor has another port. Some carriers do so.
    pub lifetime: Option<Duration>,
    /// Whether packets from outside prolong it as well (Linux does; RFC 4787 §4.3 leaves it open).
    pub inbound_refreshes: bool,
    /// Whether inside hosts reach each other by outside addresses.
    pub hairpin: bool,
}

/// Linux' lifetime of an answered UDP flow.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);

impl NatConfig {
    const BASE: Self = Self {
        mapping: Dependence::Endpoint,
        filtering: Dependence::AddressAndPort,
        ports: Ports::Preserving,
        timeout: DEFAULT_TIMEOUT,
        lifetime: None,
        inbound_refreshes: true,
        hairpin: false,
    };

    /// Anyone may send to a mapping.
    pub const fn full_cone() -> Self {
        Self {
            filtering: Dependence::Endpoint,
            ..Self::BASE
        }
    }

    /// Whoever's address was sent to may answer, from any port.
    pub const fn address_restricted() -> Self {
        Self {
            filtering: Dependence::Address,
            ..Self::BASE
        }
    }

    /// Only the very endpoint that was sent to may answer: the common home router.
    pub const fn port_restricted() -> Self {
        Self::BASE
    }

    /// Another random port for each remote endpoint.
    pub const fn symmetric() -> Self {
        Self {
            mapping: Dependence::AddressAndPort,
            ports: Ports::Random,
            ..Self::BASE
        }
    }

    /// Another port for each remote endpoint, counted up.
    pub const fn symmetric_sequential() -> Self {
        Self {
            ports: Ports::Sequential,
            ..Self::symmetric()
        }
    }

    /// Another random port for each remote endpoint, from those that carriers commonly use.
    pub const fn symmetric_common() -> Self {
        Self {
            ports: Ports::Range(20_000, 59_999),
            ..Self::symmetric()
        }
    }

    /// Another one, out of the subscriber's block of 512.
    pub const fn symmetric_block() -> Self {
        Self {
            ports: Ports::Range(30_208, 30_719),
            ..Self::symmetric()
        }
    }

    /// The same with hairpinning.
    pub const fn with_hairpin(self) -> Self {
        Self {
            hairpin: true,
            ..self
        }
    }

    /// The same with mappings that live so long at most, whatever happens.
    pub const fn with_lifetime(self, lifetime: Duration) -> Self {
        Self {
            lifetime: Some(lifetime),
            ..self
        }
    }

    /// The same with another lifetime.
    pub const fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// Mappings that one translator holds; further ones are refused, as a full table does.
const MAX_MAPPINGS: usize = 4_096;
/// Remotes remembered for one mapping; the oldest goes.
const MAX_REMOTES: usize = 2_048;
/// Draws from a range of ports until it counts as full.
const MAX_TRIES: usize = 10_000;
/// Ports that are given out on their own account start here (RFC 4787 REQ-3: not the well-known ones).
const FIRST_PORT: u16 = 1_024;
/// Where a sequential allocator starts.
const SEQUENCE_START: u16 = 20_000;

type Key = (SocketAddr, Option<IpAddr>, Option<u16>);

#[derive(Debug)]
struct Entry {
    inside: SocketAddr,
    key: Key,
    made_at: Instant,
    used_at: Instant,
    remotes: BTreeMap<SocketAddr, Instant>,
}

/// One translator.
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
    outside: IpAddr,
    random: Xoshiro256PlusPlus,
    next_port: u16,
    /// Added to preserved ports; a rebinding changes it.
    shift: u16,
    by_port: BTreeMap<u16, Entry>,
    by_key: BTreeMap<Key, u16>,
    /// When all mappings were looked through for stale ones.
    swept_at: Option<Instant>,
}

impl Nat {
    /// A translator with this outside address, whose ports follow from `seed`.
    pub fn new(config: NatConfig, outside: IpAddr, seed: u64) -> Self {
        Self {
            config,
            outside,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            next_port: SEQUENCE_START,
            shift: 0,
            by_port: BTreeMap::new(),
            by_key: BTreeMap::new(),
            swept_at: None,
        }
    }

    /// Its kind.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Becomes another kind from now on; mappings stay.
    pub fn set_config(&mut self, config: NatConfig) {
        self.config = config;
    }

    /// Its outside address.
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// Moves it to another outside address and forgets all mappings.
    pub fn renumber(&mut self, outside: IpAddr) {
        self.outside = outside;
        self.rebind();
    }

    /// Forgets all mappings; ports are chosen as before.
    pub fn flush(&mut self) {
        self.by_port.clear();
        self.by_key.clear();
    }

    /// Forgets all mappings and gives other ports from now on, as after a restart.
    pub fn rebind(&mut self) {
        self.flush();
        self.shift = self.random.random_range(1_000..20_000);
        self.next_port = self.next_port.wrapping_add(self.shift).max(SEQUENCE_START);
    }

    /// A packet goes out: its source as the outside sees it, or `None` if the table is full.
    pub fn outbound(
        &mut self,
        now: Instant,
        inside: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        let key = match self.config.mapping {
            Dependence::Endpoint => (inside, None, None),
            Dependence::Address => (inside, Some(to.ip()), None),
            Dependence::AddressAndPort => (inside, Some(to.ip()), Some(to.port())),
        };
        self.expire(now, self.by_key.get(&key).copied());
        let port = match self.by_key.get(&key) {
            Some(port) => *port,
            None => self.map(now, inside, key)?,
        };
        let entry = self.by_port.get_mut(&port)?;
        entry.used_at = now;
        if entry.remotes.len() >= MAX_REMOTES && !entry.remotes.contains_key(&to) {
            let oldest = entry
                .remotes
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(remote, _)| *remote);
            if let Some(oldest) = oldest {
                entry.remotes.remove(&oldest);
            }
        }
        entry.remotes.insert(to, now);
        Some(SocketAddr::new(self.outside, port))
    }

    /// A packet comes to an outside port: for whom it is inside, or `None` if it is not let in.
    pub fn inbound(&mut self, now: Instant, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        self.expire(now, Some(port));
        let timeout = self.config.timeout;
        let entry = self.by_port.get_mut(&port)?;
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < timeout;
        let permitted = match self.config.filtering {
            Dependence::Endpoint => true,
            Dependence::Address => entry
                .remotes
                .iter()
                .any(|(remote, at)| remote.ip() == from.ip() && fresh(at)),
            Dependence::AddressAndPort => entry.remotes.get(&from).is_some_and(fresh),
        };
        if !permitted {
            return None;
        }
        if self.config.inbound_refreshes {
            entry.used_at = now;
            if let Some(at) = entry.remotes.get_mut(&from) {
                *at = now;
            }
        }
        Some(entry.inside)
    }

    /// Mappings held now.
    pub fn mappings(&self) -> usize {
        self.by_port.len()
    }

    fn map(&mut self, now: Instant, inside: SocketAddr, key: Key) -> Option<u16> {
        if self.by_port.len() >= MAX_MAPPINGS {
            return None;
        }
        let port = self.free_port(inside.port())?;
        self.by_port.insert(
            port,
            Entry {
                inside,
                key,
                made_at: now,
                used_at: now,
                remotes: BTreeMap::new(),
            },
        );
        self.by_key.insert(key, port);
        Some(port)
    }

    /// Ends: at most `MAX_MAPPINGS` of 64,512 ports are taken, and a narrow range is tried so often only.
    fn free_port(&mut self, inside: u16) -> Option<u16> {
        let mut tries = 0;
        let wish = inside.wrapping_add(self.shift).max(FIRST_PORT);
        if self.config.ports == Ports::Preserving && !self.by_port.contains_key(&wish) {
            return Some(wish);
        }
        loop {
            let port = match self.config.ports {
                Ports::Sequential => {
                    let port = self.next_port;
                    self.next_port = self.next_port.checked_add(1).unwrap_or(SEQUENCE_START);
                    port
                }
                Ports::Range(low, high) => {
                    tries += 1;
                    if tries > MAX_TRIES {
                        return None;
                    }
                    self.random.random_range(low..=high)
                }
                Ports::Preserving | Ports::Random => {
                    self.random.random_range(FIRST_PORT..=u16::MAX)
                }
            };
            if !self.by_port.contains_key(&port) {
                return Some(port);
            }
        }
    }

    /// Forgets the mapping of `port` if it is stale, and now and then all that are.
    fn expire(&mut self, now: Instant, port: Option<u16>) {
        let timeout = self.config.timeout;
        let over = |entry: &Entry| {
            let age = now.saturating_duration_since(entry.made_at);
            self.config.lifetime.is_some_and(|most| age >= most)
        };
        if let Some(port) = port.filter(|port| self.by_port.get(port).is_some_and(over)) {
            // The next one is another, where ports are preserved as well.
            self.shift = self.shift.wrapping_add(1);
            if let Some(entry) = self.by_port.remove(&port) {
                self.by_key.remove(&entry.key);
            }
        }
        let stale = |entry: &Entry| now.saturating_duration_since(entry.used_at) >= timeout;
        if let Some(port) = port.filter(|port| self.by_port.get(port).is_some_and(stale))
            && let Some(entry) = self.by_port.remove(&port)
        {
            self.by_key.remove(&entry.key);
        }
        if self
            .swept_at
            .is_some_and(|at| now.saturating_duration_since(at) < timeout / 4)
        {
            return;
        }
        self.swept_at = Some(now);
        let Self {
            by_port, by_key, ..
        } = self;
        by_port.retain(|_, entry| {
            if stale(entry) {
                by_key.remove(&entry.key);
            }
            !stale(entry)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_lifetime_ends_a_busy_mapping() {
        let (inside, outside) = (addr("192.168.1.2:5000"), addr("198.51.100.1:443"));
        let lifetime = Duration::from_secs(60);
        let config = NatConfig::port_restricted().with_lifetime(lifetime);
        let mut nat = Nat::new(config, addr("203.0.113.2:1").ip(), 1);
        let start = crate::Clock::new().now();
        let first = nat.outbound(start, inside, outside).expect("mapped");
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(nat.outbound(now, inside, outside), Some(first));
        }
        let late = start + lifetime;
        assert_eq!(nat.inbound(late, outside, first.port()), None);
        let next = nat.outbound(late, inside, outside).expect("mapped again");
        assert_ne!(next, first);
        nat.flush();
        assert_eq!(nat.mappings(), 0);
        assert_eq!(nat.outbound(late, inside, outside), Some(next));
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }
    use crate::Clock;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn nat(config: NatConfig) -> Nat {
        Nat::new(config, at("203.0.113.1:0").ip(), 1)
    }

    const HOST: &str = "192.168.1.10:5000";
    const ONE: &str = "198.51.100.1:443";
    const ONE_OTHER_PORT: &str = "198.51.100.1:444";
    const TWO: &str = "198.51.100.2:443";

    #[test]
    fn each_kind_filters_as_its_name_says() {
        // Who may answer after a packet to ONE: ONE itself, its address from another port, a stranger.
        let table = [
            (NatConfig::full_cone(), [true, true, true]),
            (NatConfig::address_restricted(), [true, true, false]),
            (NatConfig::port_restricted(), [true, false, false]),
            (NatConfig::symmetric(), [true, false, false]),
        ];
        let now = Clock::new().now();
        for (config, expected) in table {
            let mut nat = nat(config);
            let outside = nat.outbound(now, at(HOST), at(ONE)).expect("room");
            for (from, expected) in [ONE, ONE_OTHER_PORT, TWO].into_iter().zip(expected) {
                let inside = nat.inbound(now, at(from), outside.port());
                assert_eq!(inside.is_some(), expected, "{config:?} from {from}");
                assert!(inside.is_none_or(|inside| inside == at(HOST)));
            }
        }
    }

    #[test]
    fn mapping_depends_on_what_it_should() {
        let now = Clock::new().now();
        // Whether ONE_OTHER_PORT, and TWO, see the same port as ONE.
        let table = [
            (Dependence::Endpoint, [true, true]),
            (Dependence::Address, [true, false]),
            (Dependence::AddressAndPort, [false, false]),
        ];
        for (mapping, same) in table {
            let mut nat = nat(NatConfig {
                mapping,
                ..NatConfig::symmetric()
            });
            let first = nat.outbound(now, at(HOST), at(ONE));
            for (to, same) in [ONE_OTHER_PORT, TWO].into_iter().zip(same) {
                assert_eq!(
                    nat.outbound(now, at(HOST), at(to)) == first,
                    same,
                    "{mapping:?} {to}"
                );
            }
        }
    }

    #[test]
    fn ports_are_preserved_or_counted() {
        let now = Clock::new().now();
        let mut preserving = nat(NatConfig::port_restricted());
        assert_eq!(
            preserving.outbound(now, at(HOST), at(ONE)),
            Some(at("203.0.113.1:5000"))
        );
        let other = preserving
            .outbound(now, at("192.168.1.11:5000"), at(ONE))
            .expect("room");
        assert_ne!(other.port(), 5000);
        let mut counted = nat(NatConfig::symmetric_sequential());
        let one = counted.outbound(now, at(HOST), at(ONE)).expect("room");
        let two = counted.outbound(now, at(HOST), at(TWO)).expect("room");
        assert_eq!(two.port(), one.port() + 1);
    }

    #[test]
    fn mappings_expire_unless_used() {
        let mut clock = Clock::new();
        let mut nat = nat(NatConfig::full_cone().with_timeout(Duration::from_secs(30)));
        let outside = nat.outbound(clock.now(), at(HOST), at(ONE)).expect("room");
        clock.advance(Duration::from_secs(29));
        assert!(nat.inbound(clock.now(), at(TWO), outside.port()).is_some());
        clock.advance(Duration::from_secs(29));
        assert!(nat.inbound(clock.now(), at(TWO), outside.port()).is_some());
        clock.advance(Duration::from_secs(30));
        assert!(nat.inbound(clock.now(), at(TWO), outside.port()).is_none());
        assert_eq!(nat.mappings(), 0);
    }

    #[test]
    fn a_rebinding_changes_the_port_even_where_ports_are_preserved() {
        let now = Clock::new().now();
        let mut nat = nat(NatConfig::port_restricted());
        let before = nat.outbound(now, at(HOST), at(ONE)).expect("room");
        nat.rebind();
        assert!(nat.inbound(now, at(ONE), before.port()).is_none());
        assert_ne!(nat.outbound(now, at(HOST), at(ONE)), Some(before));
    }

    #[test]
    fn the_table_is_bounded() {
        let now = Clock::new().now();
        let mut nat = nat(NatConfig::symmetric());
        for port in 1..=6_000 {
            let _ = nat.outbound(now, at(HOST), SocketAddr::new(at(ONE).ip(), port));
        }
        assert_eq!(nat.mappings(), MAX_MAPPINGS);
    }
}
