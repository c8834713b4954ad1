//! Who may speak: rates per source network in tables of fixed size, the number of connections at
//! one time, and the decision about a login. Pure: time and addresses are arguments.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use p2p_net_proto::wire::{Hello, Refused, VERSION, reason};
use p2p_net_proto::{PeerId, Token};
use subtle::ConstantTimeEq;

use crate::Limits;

/// A network that counts as one source: an IPv4 address, or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// A token bucket whose rate and size are the caller's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    level: f64,
    at: Instant,
}

/// What a bucket holds at most and how fast it fills.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

impl Rate {
    pub(crate) fn per_minute(count: u32) -> Self {
        Self {
            per_second: f64::from(count) / 60.0,
            burst: f64::from(count),
        }
    }

    pub(crate) fn per_second(count: u32) -> Self {
        Self {
            per_second: f64::from(count),
            burst: f64::from(count),
        }
    }
}

impl Bucket {
    pub(crate) fn full(now: Instant, rate: Rate) -> Self {
        Self {
            level: rate.burst,
            at: now,
        }
    }

    /// What is in it now.
    pub(crate) fn level(&self, now: Instant, rate: Rate) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * rate.per_second).min(rate.burst)
    }

    /// Takes `amount` if it is there.
    pub(crate) fn take(&mut self, now: Instant, rate: Rate, amount: f64) -> bool {
        let level = self.level(now, rate);
        let enough = level >= amount;
        *self = Self {
            level: if enough { level - amount } else { level },
            at: now.max(self.at),
        };
        enough
    }

    /// How long until `amount` is there.
    pub(crate) fn wait(&self, now: Instant, rate: Rate, amount: f64) -> Duration {
        let missing = amount - self.level(now, rate);
        if missing <= 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(missing / rate.per_second).unwrap_or(Duration::MAX)
        }
    }
}

/// Places that share one hash; the fullest of them gives way to a newcomer.
const WAYS: usize = 4;
/// Sets of [`WAYS`]: 4,096 sources, about 200 KiB, whatever happens outside.
const SETS: usize = 1_024;

/// A bucket for each of the sources seen last. A table of fixed size: a flood of forged sources can
/// make it forget a source, which then starts with a full bucket, but it cannot make it grow.
#[derive(Debug)]
pub(crate) struct SourceTable {
    rate: Rate,
    hasher: std::hash::RandomState,
    places: Box<[Option<(Source, Bucket)>]>,
}

impl SourceTable {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            hasher: std::hash::RandomState::new(),
            places: vec![None; SETS * WAYS].into_boxed_slice(),
        }
    }

    /// Takes one token of `source`.
    pub(crate) fn take(&mut self, now: Instant, source: Source) -> bool {
        let rate = self.rate;
        self.bucket(now, source).take(now, rate, 1.0)
    }

    fn bucket(&mut self, now: Instant, source: Source) -> &mut Bucket {
        use std::hash::BuildHasher;
        let rate = self.rate;
        let set = self.hasher.hash_one(source) as usize % SETS * WAYS;
        let places = &mut self.places[set..set + WAYS];
        let level = |place: &Option<(Source, Bucket)>| {
            place
                .as_ref()
                .map_or(f64::INFINITY, |(_, bucket)| bucket.level(now, rate))
        };
        let known = places
            .iter()
            .position(|place| place.as_ref().is_some_and(|(of, _)| *of == source));
        let at = known.unwrap_or_else(|| {
            let fullest =
                (0..WAYS).max_by(|a, b| level(&places[*a]).total_cmp(&level(&places[*b])));
            let at = fullest.unwrap_or(0);
            places[at] = None;
            at
        });
        &mut places[at]
            .get_or_insert_with(|| (source, Bucket::full(now, rate)))
            .1
    }
}

/// Handshakes under way from which on addresses must be proven by a Retry.
const RETRY_FROM: usize = 64;
/// Handshakes under way at one time at most.
const MAX_HANDSHAKES: usize = 1_024;
/// Connections beyond the logged-in peers: handshakes, replaced logins, refusals being read.
const SPARE_CONNECTIONS: usize = 1_024;
/// Refusals a second that are worth a handshake, so that the other side learns why; beyond, it
/// learns only that the connection is refused.
const COURTESY: Rate = Rate {
    per_second: 20.0,
    burst: 40.0,
};

/// What happens to a new QUIC connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Shake hands.
    Accept,
    /// Shake hands, only to say that there were too many; the seconds after which to try again.
    Courtesy { retry_after: u32 },
    /// Prove the address first.
    Retry,
    /// Refused without state.
    Refuse,
}

/// Counts connections, at one time and a minute.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    minute: Rate,
    recent: SourceTable,
    courtesy: Option<Bucket>,
    /// Entries only for sources that have a connection now.
    open: HashMap<Source, u32>,
    total: usize,
    handshakes: usize,
}

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Self {
        let minute = Rate::per_minute(limits.connections_per_minute);
        Self {
            limits: limits.clone(),
            minute,
            recent: SourceTable::new(minute),
            courtesy: None,
            open: HashMap::new(),
            total: 0,
            handshakes: 0,
        }
    }

    /// Decides about a connection from `ip`; after [`Entry::Accept`] and [`Entry::Courtesy`] it is
    /// counted until [`Gate::closed`], as a handshake until [`Gate::shaken`].
    pub(crate) fn connection(&mut self, now: Instant, ip: IpAddr, proven: bool) -> Entry {
        let source = Source::from(ip);
        if self.handshakes >= MAX_HANDSHAKES || self.total >= self.limits.peers + SPARE_CONNECTIONS
        {
            return Entry::Refuse;
        }
        let level = self.recent.bucket(now, source).level(now, self.minute);
        // A stranger who forges sources can use up half of a source's tokens, and no more.
        if !proven && (self.handshakes >= RETRY_FROM || level < self.minute.burst / 2.0) {
            return Entry::Retry;
        }
        let retry_after =
            if self.open.get(&source).copied().unwrap_or(0) >= self.limits.connections_per_source {
                60
            } else if self.recent.take(now, source) {
                self.count(source);
                return Entry::Accept;
            } else {
                let wait = self.recent.bucket(now, source).wait(now, self.minute, 1.0);
                wait.as_secs().clamp(1, 60) as u32
            };
        let courtesy = self
            .courtesy
            .get_or_insert_with(|| Bucket::full(now, COURTESY));
        if courtesy.take(now, COURTESY, 1.0) {
            self.count(source);
            Entry::Courtesy { retry_after }
        } else {
            Entry::Refuse
        }
    }

    fn count(&mut self, source: Source) {
        *self.open.entry(source).or_insert(0) += 1;
        self.total += 1;
        self.handshakes += 1;
    }

    /// The handshake of a counted connection ended, well or badly.
    pub(crate) fn shaken(&mut self) {
        self.handshakes = self.handshakes.saturating_sub(1);
    }

    /// A counted connection ended.
    pub(crate) fn closed(&mut self, ip: IpAddr) {
        let source = Source::from(ip);
        if let Some(count) = self.open.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&source);
            }
        }
        self.total = self.total.saturating_sub(1);
    }

    /// Connections counted now.
    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

/// Who may log in.
#[derive(Debug)]
pub(crate) struct Door {
    token: Token,
    open: bool,
    allow: HashSet<PeerId>,
}

impl Door {
    pub(crate) fn new(token: Token, open: bool, allow: impl IntoIterator<Item = PeerId>) -> Self {
        Self {
            token,
            open,
            allow: allow.into_iter().collect(),
        }
    }

    /// The version to speak with `peer`, or why it may not come in.
    pub(crate) fn login(&self, peer: &PeerId, hello: &Hello) -> Result<u16, Refused> {
        if !hello.versions.contains(&VERSION) {
            let message = format!(
                "this relay speaks protocol version {VERSION}, the client {:?}: update the older one",
                hello.versions
            );
            return Err(refused(reason::VERSION, message, 0));
        }
        let right =
            |token: &String| bool::from(token.as_bytes().ct_eq(self.token.reveal().as_bytes()));
        if self.open || self.allow.contains(peer) || hello.token.as_ref().is_some_and(right) {
            return Ok(VERSION);
        }
        Err(match (&hello.token, self.allow.is_empty()) {
            (Some(_), _) => refused(
                reason::TOKEN,
                "the token is not this relay's: ask its operator for the address to paste".into(),
                0,
            ),
            (None, false) => refused(
                reason::NOT_ALLOWED,
                format!(
                    "{peer} is not on this relay's list, and no token was given: ask its operator to \
                     add this id, or for the address with the token"
                ),
                0,
            ),
            (None, true) => refused(
                reason::TOKEN,
                "this relay wants a token: paste its whole address, with what follows '#'".into(),
                0,
            ),
        })
    }
}

/// A refusal in the form of the wire.
pub(crate) fn refused(code: u16, message: String, retry_after: u32) -> Refused {
    Refused {
        code,
        message,
        retry_after,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn limits() -> Limits {
        Limits {
            connections_per_minute: 6,
            connections_per_source: 4,
            ..Limits::default()
        }
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_a_slash_64() {
        let v4 = Source::from(ip(1));
        assert_eq!(
            Source::from("::ffff:192.0.2.1".parse::<IpAddr>().expect("an address")),
            v4
        );
        let one = Source::from("2001:db8:1:2::1".parse::<IpAddr>().expect("an address"));
        assert_eq!(
            Source::from("2001:db8:1:2:f::9".parse::<IpAddr>().expect("an address")),
            one
        );
        assert_ne!(
            Source::from("2001:db8:1:3::1".parse::<IpAddr>().expect("an address")),
            one
        );
    }

    #[test]
    fn a_bucket_refills_at_its_rate() {
        let (start, rate) = (Instant::now(), Rate::per_minute(60));
        let mut bucket = Bucket::full(start, rate);
        assert!((0..60).all(|_| bucket.take(start, rate, 1.0)));
        assert!(!bucket.take(start, rate, 1.0));
        let wait = bucket.wait(start, rate, 1.0);
        assert!(wait > Duration::from_millis(990) && wait < Duration::from_millis(1_010));
        let later = start + Duration::from_millis(1_010);
        assert!(bucket.take(later, rate, 1.0) && !bucket.take(later, rate, 1.0));
        assert!(
            !bucket.take(start, rate, 1.0),
            "time that runs backwards gives nothing"
        );
    }

    #[test]
    fn the_table_never_grows_and_keeps_who_is_over_the_limit() {
        let (start, rate) = (Instant::now(), Rate::per_second(2));
        let mut table = SourceTable::new(rate);
        let noisy = Source::from(ip(1));
        assert!(table.take(start, noisy) && table.take(start, noisy) && !table.take(start, noisy));
        for n in 0..100_000u32 {
            let flood = Ipv6Addr::from(u128::from(n) << 64);
            assert!(table.take(start, Source::from(IpAddr::from(flood))));
        }
        assert_eq!(table.places.len(), SETS * WAYS);
        assert!(
            !table.take(start, noisy),
            "the emptiest bucket is forgotten last"
        );
    }

    #[test]
    fn too_many_a_minute_are_told_so_and_then_refused() {
        let (mut gate, now) = (Gate::new(&limits()), Instant::now());
        // The first half without proof, the rest with one.
        for _ in 0..3 {
            assert_eq!(gate.connection(now, ip(1), false), Entry::Accept);
            gate.closed(ip(1));
            gate.shaken();
        }
        assert_eq!(gate.connection(now, ip(1), false), Entry::Accept);
        assert_eq!(gate.connection(now, ip(1), false), Entry::Retry);
        for _ in 0..2 {
            assert_eq!(gate.connection(now, ip(1), true), Entry::Accept);
        }
        let told = gate.connection(now, ip(1), true);
        assert!(
            matches!(
                told,
                Entry::Courtesy {
                    retry_after: 9..=10
                }
            ),
            "{told:?}"
        );
        for _ in 0..100 {
            gate.connection(now, ip(1), true);
        }
        assert_eq!(gate.connection(now, ip(1), true), Entry::Refuse);
        assert_eq!(
            gate.connection(now, ip(2), true),
            Entry::Accept,
            "others are not touched"
        );
    }

    #[test]
    fn too_many_at_one_time_are_refused_until_one_leaves() {
        let limits = Limits {
            connections_per_minute: 1_000,
            ..limits()
        };
        let (mut gate, now) = (Gate::new(&limits), Instant::now());
        for _ in 0..4 {
            assert_eq!(gate.connection(now, ip(1), true), Entry::Accept);
        }
        assert_eq!(
            gate.connection(now, ip(1), true),
            Entry::Courtesy { retry_after: 60 }
        );
        gate.closed(ip(1));
        assert_eq!(
            gate.connection(now, ip(1), true),
            Entry::Courtesy { retry_after: 60 }
        );
        gate.closed(ip(1));
        gate.closed(ip(1));
        assert_eq!(gate.connection(now, ip(1), true), Entry::Accept);
    }

    #[test]
    fn many_handshakes_make_addresses_prove_themselves() {
        let limits = Limits {
            connections_per_minute: 100_000,
            connections_per_source: 100_000,
            ..Limits::default()
        };
        let (mut gate, now) = (Gate::new(&limits), Instant::now());
        for n in 0..RETRY_FROM {
            assert_eq!(gate.connection(now, ip(n as u8), false), Entry::Accept);
        }
        assert_eq!(gate.connection(now, ip(200), false), Entry::Retry);
        for _ in RETRY_FROM..MAX_HANDSHAKES {
            assert_eq!(gate.connection(now, ip(200), true), Entry::Accept);
        }
        assert_eq!(gate.connection(now, ip(200), true), Entry::Refuse);
        gate.shaken();
        assert_eq!(gate.connection(now, ip(200), true), Entry::Accept);
    }

    fn hello(token: Option<&str>) -> Hello {
        Hello {
            versions: vec![7, VERSION],
            capabilities: Vec::new(),
            token: token.map(Into::into),
        }
    }

    #[test]
    fn the_door_knows_token_list_and_openness() {
        let token = Token::from_random([1; 16]);
        let text = token.reveal().to_owned();
        let (friend, stranger) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
        let code = |result: Result<u16, Refused>| result.map_err(|refused| refused.code);
        let door = Door::new(token.clone(), false, []);
        assert_eq!(
            code(door.login(&stranger, &hello(Some(&text)))),
            Ok(VERSION)
        );
        assert_eq!(
            code(door.login(&stranger, &hello(Some("wrong")))),
            Err(reason::TOKEN)
        );
        assert_eq!(
            code(door.login(&stranger, &hello(Some("")))),
            Err(reason::TOKEN)
        );
        assert_eq!(
            code(door.login(&stranger, &hello(None))),
            Err(reason::TOKEN)
        );
        let door = Door::new(token.clone(), false, [friend]);
        assert_eq!(code(door.login(&friend, &hello(None))), Ok(VERSION));
        assert_eq!(
            code(door.login(&stranger, &hello(None))),
            Err(reason::NOT_ALLOWED)
        );
        assert_eq!(
            code(door.login(&stranger, &hello(Some(&text)))),
            Ok(VERSION)
        );
        let door = Door::new(token, true, []);
        assert_eq!(code(door.login(&stranger, &hello(None))), Ok(VERSION));
        let old = Hello {
            versions: vec![99],
            ..hello(None)
        };
        assert_eq!(code(door.login(&stranger, &old)), Err(reason::VERSION));
    }

    proptest! {
        #[test]
        fn counts_never_leak(steps in prop::collection::vec((any::<u8>(), any::<bool>()), 1..300)) {
            let (mut gate, start) = (Gate::new(&limits()), Instant::now());
            let mut open = Vec::new();
            for (n, (source, arrive)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_millis(n as u64 * 100);
                if arrive {
                    let from = ip(source % 5);
                    if matches!(gate.connection(now, from, true), Entry::Accept | Entry::Courtesy { .. }) {
                        open.push(from);
                        gate.shaken();
                    }
                } else if let Some(from) = open.pop() {
                    gate.closed(from);
                }
                prop_assert_eq!(gate.total(), open.len());
            }
            for from in open {
                gate.closed(from);
            }
            prop_assert!(gate.open.is_empty() && gate.total() == 0 && gate.handshakes == 0);
        }
    }
}
