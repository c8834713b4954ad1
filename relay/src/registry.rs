//! Who is logged in, and who wants to know: logins by number and by peer, and presence as a
//! snapshot and coalesced changes. Pure: time is an argument.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_net_proto::wire::{MAX_PRESENCE, ObservedAddress, PresenceDelta, PresenceSnapshot};
use p2p_net_proto::{ChannelId, Direction, HeaderKey, PeerId};

use crate::admission::Bucket;
use crate::forward::{OwnerId, Route};

/// Changes of presence are collected this long before they are told.
const COALESCE: Duration = Duration::from_millis(150);
/// Changes that are told at once however fresh they are; keeps the table of changes small.
const MAX_PENDING: usize = MAX_PRESENCE;
/// Observed addresses kept for a peer, the current one among them.
const MAX_OBSERVED: usize = 4;
/// How long an observation counts (`wire.md` §6).
const OBSERVED_FOR: Duration = Duration::from_secs(60);

/// A login, numbered in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LoginId(pub(crate) u64);

/// What a login can ask of the connection behind it.
pub(crate) trait Link: Send + Sync {
    /// The header key of one direction of a channel, from the TLS exporter.
    fn header_key(&self, channel: ChannelId, direction: Direction) -> Option<HeaderKey>;

    /// Whether so much waits to be sent that what can be refused should be.
    fn is_congested(&self) -> bool;
}

/// A logged-in peer.
pub(crate) struct Login {
    pub(crate) peer: PeerId,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) owner: OwnerId,
    pub(crate) route: Route,
    pub(crate) signals: Bucket,
    pub(crate) channels: HashSet<ChannelId>,
    /// The addresses before the current one, and when each was last the current one.
    earlier: Vec<(SocketAddr, Instant)>,
}

impl Login {
    pub(crate) fn new(
        peer: PeerId,
        link: Arc<dyn Link>,
        owner: OwnerId,
        route: Route,
        signals: Bucket,
    ) -> Self {
        Self {
            peer,
            link,
            owner,
            route,
            signals,
            channels: HashSet::new(),
            earlier: Vec::new(),
        }
    }

    /// Where the relay sees this peer, as it tells it.
    pub(crate) fn observed(&self) -> SocketAddr {
        canonical(self.route.address)
    }

    /// The peer is reached by `route` from now on.
    pub(crate) fn moved(&mut self, now: Instant, route: Route) {
        let (was, is) = (self.observed(), canonical(route.address));
        self.route = route;
        self.earlier
            .retain(|(address, _)| *address != is && *address != was);
        if was != is {
            self.earlier.insert(0, (was, now));
        }
        self.earlier.truncate(MAX_OBSERVED - 1);
    }

    /// What the relay attests for this peer; called when a message from it has just arrived.
    pub(crate) fn attested(&self, now: Instant) -> Vec<ObservedAddress> {
        let age = |since: Instant| now.saturating_duration_since(since);
        let earlier = self
            .earlier
            .iter()
            .filter(|(_, since)| age(*since) <= OBSERVED_FOR);
        std::iter::once((self.observed(), Duration::ZERO))
            .chain(earlier.map(|(address, since)| (*address, age(*since))))
            .map(|(address, age)| ObservedAddress {
                address,
                age_millis: age.as_millis() as u32,
            })
            .collect()
    }
}

/// An address as clients are told it: v4-mapped IPv6 becomes IPv4, and no scope travels.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// All logins; at most one of each peer.
#[derive(Default)]
pub(crate) struct Registry {
    by_id: HashMap<LoginId, Login>,
    by_peer: HashMap<PeerId, LoginId>,
}

impl Registry {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn find(&self, peer: &PeerId) -> Option<LoginId> {
        self.by_peer.get(peer).copied()
    }

    pub(crate) fn get(&self, id: LoginId) -> Option<&Login> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LoginId) -> Option<&mut Login> {
        self.by_id.get_mut(&id)
    }

    /// Adds a login; the caller has removed an older one of the same peer.
    pub(crate) fn insert(&mut self, id: LoginId, login: Login) {
        self.by_peer.insert(login.peer, id);
        self.by_id.insert(id, login);
    }

    pub(crate) fn remove(&mut self, id: LoginId) -> Option<Login> {
        let login = self.by_id.remove(&id)?;
        if self.by_peer.get(&login.peer) == Some(&id) {
            self.by_peer.remove(&login.peer);
        }
        Some(login)
    }

    pub(crate) fn ids(&self) -> Vec<LoginId> {
        self.by_id.keys().copied().collect()
    }

    /// Everybody but `reader`, in parts.
    pub(crate) fn snapshot(&self, reader: PeerId) -> Vec<PresenceSnapshot> {
        let peers: Vec<PeerId> = self
            .by_peer
            .keys()
            .copied()
            .filter(|peer| *peer != reader)
            .collect();
        let mut parts: Vec<_> = peers
            .chunks(MAX_PRESENCE)
            .map(|part| PresenceSnapshot {
                peers: part.to_vec(),
                more: true,
            })
            .collect();
        if let Some(last) = parts.last_mut() {
            last.more = false;
        } else {
            parts.push(PresenceSnapshot {
                peers: Vec::new(),
                more: false,
            });
        }
        parts
    }
}

/// Who wants to know about comings and goings, and what they do not know yet.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Each reader, and how many changes had happened when it got its snapshot.
    readers: HashMap<LoginId, (PeerId, u64)>,
    /// The last change of each peer: whether it is there, and the change's number.
    pending: HashMap<PeerId, (bool, u64)>,
    changes: u64,
    since: Option<Instant>,
}

impl Presence {
    /// Adds a reader that gets a snapshot now; false if it reads already.
    pub(crate) fn subscribe(&mut self, id: LoginId, peer: PeerId) -> bool {
        let newcomer = !self.readers.contains_key(&id);
        self.readers.entry(id).or_insert((peer, self.changes));
        newcomer
    }

    pub(crate) fn unsubscribe(&mut self, id: LoginId) {
        self.readers.remove(&id);
    }

    /// `peer` came or went.
    pub(crate) fn change(&mut self, now: Instant, peer: PeerId, here: bool) {
        self.changes += 1;
        self.pending.insert(peer, (here, self.changes));
        self.since.get_or_insert(now);
    }

    /// Whether changes have waited long enough, or are many.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.pending.len() >= MAX_PENDING
            || self
                .since
                .is_some_and(|since| now.saturating_duration_since(since) >= COALESCE)
    }

    /// What to tell to whom. Most readers share the same messages; those who came meanwhile, or are
    /// themselves among the changes, get messages of their own.
    pub(crate) fn flush(&mut self) -> Vec<(Vec<LoginId>, PresenceDelta)> {
        self.since = None;
        let mut changes: Vec<_> = self
            .pending
            .drain()
            .map(|(peer, (here, number))| (number, peer, here))
            .collect();
        changes.sort_unstable_by_key(|(number, ..)| *number);
        let Some((first, ..)) = changes.first().copied() else {
            return Vec::new();
        };
        let changed: HashSet<PeerId> = changes.iter().map(|(_, peer, _)| *peer).collect();
        let mut out = Vec::new();
        let mut sharing = Vec::new();
        for (id, (peer, knows)) in &mut self.readers {
            if *knows < first && !changed.contains(peer) {
                sharing.push(*id);
            } else {
                let news = changes
                    .iter()
                    .filter(|(number, of, _)| number > knows && of != peer);
                out.extend(deltas(news).into_iter().map(|delta| (vec![*id], delta)));
            }
            *knows = self.changes;
        }
        if !sharing.is_empty() {
            out.extend(
                deltas(changes.iter())
                    .into_iter()
                    .map(|delta| (sharing.clone(), delta)),
            );
        }
        out
    }

    /// Readers and changes not told yet.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.readers.len(), self.pending.len())
    }
}

fn deltas<'a>(changes: impl Iterator<Item = &'a (u64, PeerId, bool)>) -> Vec<PresenceDelta> {
    let changes: Vec<_> = changes.collect();
    let side = |part: &[&(u64, PeerId, bool)], wanted: bool| {
        part.iter()
            .filter(|(.., here)| *here == wanted)
            .map(|(_, peer, _)| *peer)
            .collect()
    };
    changes
        .chunks(MAX_PRESENCE)
        .map(|part| PresenceDelta {
            joined: side(part, true),
            left: side(part, false),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::forward::Forward;

    struct NoLink;
    impl Link for NoLink {
        fn header_key(&self, _: ChannelId, _: Direction) -> Option<HeaderKey> {
            None
        }
        fn is_congested(&self) -> bool {
            false
        }
    }

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn route(text: &str) -> Route {
        Route {
            socket: 0,
            address: text.parse().expect("an address"),
            source: None,
        }
    }

    fn login(now: Instant, n: u8, from: &str) -> Login {
        let owner = Forward::new(0, [0; 16]).add_owner(now, route(from));
        let bucket = Bucket::full(now, crate::admission::Rate::per_second(1));
        Login::new(peer(n), Arc::new(NoLink), owner, route(from), bucket)
    }

    #[test]
    fn attested_addresses_are_plain_fresh_and_few() {
        let start = Instant::now();
        let mut login = login(start, 1, "[::ffff:192.0.2.1]:10");
        let told = |login: &Login, now| -> Vec<_> {
            let list = login.attested(now).into_iter();
            list.map(|observed| (observed.address.to_string(), observed.age_millis))
                .collect()
        };
        assert_eq!(told(&login, start), [("192.0.2.1:10".into(), 0)]);
        let later = start + Duration::from_secs(30);
        login.moved(later, route("[2001:db8::1]:20"));
        assert_eq!(
            told(&login, later + Duration::from_secs(1)),
            [
                ("[2001:db8::1]:20".into(), 0),
                ("192.0.2.1:10".into(), 1_000)
            ]
        );
        login.moved(later, route("192.0.2.1:10"));
        assert_eq!(
            told(&login, later),
            [("192.0.2.1:10".into(), 0), ("[2001:db8::1]:20".into(), 0)]
        );
        assert_eq!(
            told(&login, later + Duration::from_secs(61)).len(),
            1,
            "a minute and no more"
        );
        for port in 100..200 {
            login.moved(later, route(&format!("192.0.2.9:{port}")));
        }
        assert_eq!(login.attested(later).len(), MAX_OBSERVED);
    }

    #[test]
    fn snapshots_come_in_parts_without_the_reader() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        assert_eq!(
            registry.snapshot(peer(0)),
            [PresenceSnapshot {
                peers: vec![],
                more: false
            }]
        );
        for n in 0..2_500u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let mut login = login(now, 0, "192.0.2.1:1");
            login.peer = PeerId::from_bytes(bytes);
            registry.insert(LoginId(n.into()), login);
        }
        let parts = registry.snapshot(PeerId::from_bytes([0; 32]));
        assert_eq!(
            parts
                .iter()
                .map(|part| part.peers.len())
                .collect::<Vec<_>>(),
            [1_024, 1_024, 451]
        );
        assert_eq!(
            parts.iter().map(|part| part.more).collect::<Vec<_>>(),
            [true, true, false]
        );
    }

    #[test]
    fn changes_are_collected_and_shared() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        for id in 1..=3 {
            assert!(presence.subscribe(LoginId(id), peer(id as u8)));
        }
        assert!(!presence.subscribe(LoginId(1), peer(1)));
        presence.change(start, peer(9), true);
        presence.change(start, peer(2), false);
        assert!(!presence.is_due(start) && presence.is_due(start + COALESCE));
        let told = presence.flush();
        // Reader 2 is itself among the changes.
        assert_eq!(told.len(), 2);
        for (mut to, delta) in told {
            to.sort_unstable();
            if to == [LoginId(2)] {
                assert_eq!(
                    delta,
                    PresenceDelta {
                        joined: vec![peer(9)],
                        left: vec![]
                    }
                );
            } else {
                assert_eq!(to, [LoginId(1), LoginId(3)]);
                assert_eq!(
                    delta,
                    PresenceDelta {
                        joined: vec![peer(9)],
                        left: vec![peer(2)]
                    }
                );
            }
        }
        assert!(!presence.is_due(start + COALESCE) && presence.flush().is_empty());
        assert_eq!(presence.sizes(), (3, 0));
    }

    proptest! {
        /// Whatever the order of comings, goings, subscriptions and flushes: after a last flush
        /// every reader's view is the truth.
        #[test]
        fn snapshot_and_deltas_add_up(steps in prop::collection::vec((0u8..4, 0u8..8), 1..120)) {
            let now = Instant::now();
            let (mut registry, mut presence) = (Registry::default(), Presence::default());
            let mut views: BTreeMap<LoginId, BTreeSet<PeerId>> = BTreeMap::new();
            let apply = |views: &mut BTreeMap<LoginId, BTreeSet<PeerId>>, presence: &mut Presence| {
                for (readers, delta) in presence.flush() {
                    for reader in readers {
                        let view = views.get_mut(&reader).expect("a reader");
                        view.extend(&delta.joined);
                        delta.left.iter().for_each(|peer| { view.remove(peer); });
                    }
                }
            };
            for (what, n) in steps {
                let id = LoginId(n.into());
                match what {
                    0 if registry.get(id).is_none() => {
                        registry.insert(id, login(now, n, "192.0.2.1:1"));
                        presence.change(now, peer(n), true);
                    }
                    1 if registry.remove(id).is_some() => {
                        presence.unsubscribe(id);
                        views.remove(&id);
                        presence.change(now, peer(n), false);
                    }
                    2 if registry.get(id).is_some() && presence.subscribe(id, peer(n)) => {
                        let parts = registry.snapshot(peer(n));
                        views.insert(id, parts.into_iter().flat_map(|part| part.peers).collect());
                    }
                    3 => apply(&mut views, &mut presence),
                    _ => {}
                }
            }
            apply(&mut views, &mut presence);
            for (reader, view) in views {
                let truth: BTreeSet<_> = (0..8)
                    .filter(|n| registry.get(LoginId(u64::from(*n))).is_some())
                    .map(peer)
                    .filter(|of| *of != registry.get(reader).expect("logged in").peer)
                    .collect();
                prop_assert_eq!(view, truth);
            }
        }
    }
}
