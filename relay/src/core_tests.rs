//! What control messages bring about, without a network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use p2p_net_proto::wire::{Ping, PresenceDelta, PresenceSnapshot, PresenceSubscribe};
use p2p_net_proto::{ChannelEnd, Class, HEADER_LEN, Header, HeaderKey, Token};
use proptest::prelude::*;

use super::*;
use crate::forward::Verdict;

/// A connection whose keys can be guessed by the test.
#[derive(Default)]
struct TestLink {
    number: u8,
    congested: AtomicBool,
}

impl TestLink {
    fn key(number: u8, channel: ChannelId, direction: Direction) -> HeaderKey {
        let mut key = [number; 16];
        key[..8].copy_from_slice(&channel.0.to_be_bytes());
        key[8] = u8::from(direction == Direction::Down);
        HeaderKey::new(key)
    }
}

impl Link for TestLink {
    fn header_key(&self, channel: ChannelId, direction: Direction) -> Option<HeaderKey> {
        Some(Self::key(self.number, channel, direction))
    }

    fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }
}

fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn route(port: u16) -> Route {
    Route {
        socket: 0,
        address: SocketAddr::from(([192, 0, 2, 1], port)),
        source: None,
    }
}

struct World {
    core: Core,
    now: Instant,
    next: u64,
    links: BTreeMap<LoginId, Arc<TestLink>>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let forward = Arc::new(Mutex::new(Forward::new(0, [1; 16])));
        let door = Door::new(Token::from_random([1; 16]), true, []);
        let core = Core::new(door, limits, 1, forward);
        Self {
            core,
            now: Instant::now(),
            next: 0,
            links: BTreeMap::new(),
        }
    }

    fn try_login(&mut self, n: u8) -> Result<LoginId, Refused> {
        self.next += 1;
        let id = LoginId(self.next);
        let link = Arc::new(TestLink {
            number: n,
            congested: AtomicBool::new(false),
        });
        self.links.insert(id, link.clone());
        let hello = Hello {
            versions: vec![1],
            capabilities: Vec::new(),
            token: None,
        };
        let route = route(u16::from(n));
        let alternate_port = Some(7);
        let new = NewLogin {
            id,
            peer: peer(n),
            link,
            route,
            hello,
            alternate_port,
        };
        self.core.login(self.now, new).map(|()| id)
    }

    fn login(&mut self, n: u8) -> LoginId {
        let id = self.try_login(n).expect("let in");
        let told = self.told(id);
        assert!(
            matches!(told.last(), Some(FromRelay::Welcome(_))),
            "{told:?}"
        );
        id
    }

    fn say(&mut self, id: LoginId, message: impl Into<ToRelay>) {
        self.core.message(self.now, id, message.into());
    }

    /// What was said to `id`, and drops the rest.
    fn told(&mut self, id: LoginId) -> Vec<FromRelay> {
        let said = self.core.take_outputs().into_iter();
        said.filter_map(|output| match output {
            Output::Send(to, message) if to.contains(&id) => Some(message),
            Output::End(to, goodbye) if to == id => Some(goodbye.into()),
            _ => None,
        })
        .collect()
    }

    /// All that was said, by receiver.
    fn all_told(&mut self) -> Vec<(LoginId, FromRelay)> {
        let mut all = Vec::new();
        for output in self.core.take_outputs() {
            match output {
                Output::Send(to, message) => {
                    all.extend(to.into_iter().map(|to| (to, message.clone())));
                }
                Output::End(to, goodbye) => all.push((to, goodbye.into())),
                Output::Packet(_) => {}
            }
        }
        all
    }

    fn open(&mut self, from: LoginId, to: u8) -> (ChannelOpened, ChannelOffered) {
        self.say(from, channel_open(1, to));
        match &self.all_told()[..] {
            [
                (a, FromRelay::ChannelOpened(opened)),
                (_, FromRelay::ChannelOffered(offered)),
            ] => {
                assert_eq!(*a, from);
                (opened.clone(), offered.clone())
            }
            other => panic!("not opened: {other:?}"),
        }
    }
}

fn channel_open(request: u32, to: u8) -> ChannelOpen {
    let flight = vec![vec![1, 2], vec![3]];
    ChannelOpen {
        request,
        to: peer(to),
        sealed: vec![9],
        attest: true,
        flight,
    }
}

fn channel_accept(channel: ChannelId) -> ChannelAccept {
    ChannelAccept {
        channel,
        sealed: vec![8],
        attest: false,
        flight: vec![vec![5]],
    }
}

#[test]
fn welcome_tells_version_address_ports_and_limits() {
    let mut world = World::new(Limits {
        channels_per_peer: 3,
        ..Limits::default()
    });
    let id = world.try_login(1).expect("let in");
    let [FromRelay::Welcome(welcome)] = &world.told(id)[..] else {
        panic!("a welcome")
    };
    assert_eq!((welcome.version, welcome.alternate_port), (1, Some(7)));
    assert_eq!(welcome.observed, route(1).address);
    assert_eq!(welcome.limits.channels, 3);
}

#[test]
fn a_channel_is_offered_accepted_used_and_closed() {
    let mut world = World::new(Limits::default());
    let (one, two) = (world.login(1), world.login(2));
    let (opened, offered) = world.open(one, 2);
    assert_eq!(
        (opened.request, offered.from, opened.channel),
        (1, peer(1), offered.channel)
    );
    assert_ne!(opened.end, offered.end);
    assert_eq!(
        (offered.sealed.as_slice(), offered.flight.len()),
        (&[9][..], 2)
    );
    assert_eq!(offered.observed[0].address, route(1).address);
    // A packet that comes before the acceptance waits, and goes with it.
    let channel = opened.channel;
    let up = TestLink::key(1, channel, Direction::Up);
    let mut packet = vec![0; HEADER_LEN + 4];
    let header = Header {
        epoch: false,
        class: Class::Control,
        ecn: 0,
        fragment: false,
        end: opened.end,
        counter: 0,
    };
    header.write(&up, &mut packet);
    let verdict = world
        .core
        .forward()
        .packet(world.now, route(1), 0, &mut packet);
    assert_eq!(verdict, Verdict::Held);
    world.say(two, channel_accept(channel));
    let outputs = world.core.take_outputs();
    let [
        Output::Send(to, FromRelay::ChannelReady(ready)),
        Output::Packet(packet),
    ] = &outputs[..]
    else {
        panic!("not ready: {outputs:?}");
    };
    assert_eq!((to.as_slice(), ready.channel), (&[one][..], channel));
    assert_eq!((ready.sealed.as_slice(), ready.flight.len()), (&[8][..], 1));
    assert!(ready.observed.is_empty(), "the callee did not ask for it");
    assert_eq!(packet.route, route(2));
    let down = TestLink::key(2, channel, Direction::Down);
    assert_eq!(
        Header::verify(&down, &packet.packet)
            .expect("authentic")
            .end,
        offered.end
    );
    assert_eq!((world.core.channels(), world.core.counts().0), (1, 2));
    world.say(one, ChannelClose { channel });
    let told = world.all_told();
    let [(to, FromRelay::ChannelClosed(closed))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((*to, closed.code, closed.request), (two, reason::CLOSED, 0));
    assert_eq!(
        (world.core.channels(), world.core.forward().sizes().0),
        (0, 0)
    );
}

#[test]
fn a_declined_channel_is_told_by_request() {
    let mut world = World::new(Limits::default());
    let (one, two) = (world.login(1), world.login(2));
    let channel = world.open(one, 2).0.channel;
    world.say(two, ChannelClose { channel });
    let told = world.told(one);
    let [FromRelay::ChannelClosed(closed)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (closed.request, closed.channel, closed.code),
        (1, channel, reason::CLOSED)
    );
}

fn refusal(world: &mut World, from: LoginId, to: u8) -> u16 {
    world.say(from, channel_open(77, to));
    let told = world.told(from);
    let [FromRelay::ChannelClosed(closed)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((closed.request, closed.channel), (77, ChannelId(0)));
    assert!(!closed.message.is_empty());
    closed.code
}

#[test]
fn channels_that_cannot_be_say_why() {
    let mut world = World::new(Limits {
        channels_per_peer: 2,
        ..Limits::default()
    });
    let (one, two) = (world.login(1), world.login(2));
    let three = world.login(3);
    assert_eq!(refusal(&mut world, one, 1), reason::PROTOCOL);
    assert_eq!(refusal(&mut world, one, 9), reason::NOT_HERE);
    world.links[&two].congested.store(true, Ordering::Relaxed);
    assert_eq!(refusal(&mut world, one, 2), reason::LIMITED);
    world.links[&two].congested.store(false, Ordering::Relaxed);
    world.open(one, 2);
    world.open(one, 2);
    assert_eq!(
        refusal(&mut world, one, 3),
        reason::LIMITED,
        "the caller has enough"
    );
    assert_eq!(
        refusal(&mut world, three, 2),
        reason::LIMITED,
        "the callee has enough"
    );
}

#[test]
fn strangers_cannot_touch_a_channel() {
    let mut world = World::new(Limits::default());
    let (one, _two, three) = (world.login(1), world.login(2), world.login(3));
    let channel = world.open(one, 2).0.channel;
    for id in [one, three] {
        world.say(id, channel_accept(channel));
        let told = world.all_told();
        let [(to, FromRelay::ChannelClosed(closed))] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((*to, closed.code), (id, reason::GONE));
    }
    world.say(three, ChannelClose { channel });
    assert!(world.all_told().is_empty());
    assert_eq!(world.core.channels(), 1);
}

#[test]
fn unanswered_offers_end_after_a_while() {
    let mut world = World::new(Limits::default());
    let (one, two) = (world.login(1), world.login(2));
    let channel = world.open(one, 2).0.channel;
    world.now += Duration::from_secs(11);
    world.core.tick(world.now);
    let told = world.all_told();
    for (id, request) in [(one, 1), (two, 0)] {
        let code = reason::TIMEOUT;
        let message = "the offer was not accepted in time".to_owned();
        let closed = ChannelClosed {
            request,
            channel,
            code,
            message,
        };
        assert!(told.contains(&(id, closed.into())), "{told:?}");
    }
    assert_eq!(
        (world.core.channels(), world.core.forward().sizes().0),
        (0, 0)
    );
}

#[test]
fn the_newest_login_wins_and_the_old_one_is_told() {
    let mut world = World::new(Limits {
        peers: 2,
        ..Limits::default()
    });
    let (one, two) = (world.login(1), world.login(2));
    let channel = world.open(one, 2).0.channel;
    assert_eq!(world.try_login(3).expect_err("full").code, reason::FULL);
    world.core.take_outputs();
    let again = world
        .try_login(1)
        .expect("a full relay takes the same peer again");
    let told = world.all_told();
    let goodbye = told.iter().find(|(to, _)| *to == one);
    assert!(
        matches!(
            goodbye,
            Some((
                _,
                FromRelay::Goodbye(Goodbye {
                    code: reason::REPLACED,
                    ..
                })
            ))
        ),
        "{told:?}"
    );
    let gone = |(to, message): &&(LoginId, FromRelay)| {
        let FromRelay::ChannelClosed(closed) = message else {
            return false;
        };
        *to == two && closed.channel == channel && closed.code == reason::GONE
    };
    assert!(told.iter().find(gone).is_some(), "{told:?}");
    // The old connection's last words do nothing.
    world.say(one, Ping { nonce: 1 });
    world.core.lost(world.now, one);
    assert!(world.all_told().is_empty());
    assert_eq!(world.core.registry.find(&peer(1)), Some(again));
}

#[test]
fn signals_reach_their_peer_within_the_limit() {
    let mut world = World::new(Limits {
        signals_per_minute: 3,
        ..Limits::default()
    });
    let (one, two) = (world.login(1), world.login(2));
    let signal = |to| Signal {
        to: peer(to),
        kind: 5,
        attest: true,
        sealed: vec![1, 2, 3],
    };
    world.say(one, signal(2));
    let told = world.all_told();
    let [(to, FromRelay::SignalFrom(from))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (*to, from.from, from.kind, from.sealed.len()),
        (two, peer(1), 5, 3)
    );
    assert_eq!(from.observed.len(), 1);
    world.say(one, signal(9));
    let told = world.told(one);
    assert!(matches!(&told[..], [FromRelay::Refused(no)] if no.code == reason::NOT_HERE));
    world.say(one, signal(2));
    world.core.take_outputs();
    world.say(one, signal(2));
    let told = world.told(one);
    assert!(
        matches!(&told[..], [FromRelay::Refused(no)] if no.code == reason::LIMITED && no.retry_after == 20),
        "{told:?}"
    );
    assert_eq!(
        refusal(&mut world, one, 2),
        reason::LIMITED,
        "offers and signals count together"
    );
    world.now += Duration::from_secs(21);
    world.say(one, signal(2));
    assert!(matches!(&world.told(two)[..], [FromRelay::SignalFrom(_)]));
}

#[test]
fn presence_is_a_snapshot_and_then_changes() {
    let mut world = World::new(Limits::default());
    let (one, two) = (world.login(1), world.login(2));
    world.say(one, PresenceSubscribe {});
    world.say(one, PresenceSubscribe {});
    let snapshot = PresenceSnapshot {
        peers: vec![peer(2)],
        more: false,
    };
    assert_eq!(world.all_told(), [(one, snapshot.into())], "once");
    let _three = world.login(3);
    world.core.lost(world.now, two);
    world.core.tick(world.now);
    assert!(world.all_told().is_empty(), "changes are collected");
    world.now += Duration::from_millis(200);
    world.core.tick(world.now);
    let delta = PresenceDelta {
        joined: vec![peer(3)],
        left: vec![peer(2)],
    };
    assert_eq!(world.all_told(), [(one, delta.into())]);
}

#[test]
fn a_moved_connection_is_told_and_attested() {
    let mut world = World::new(Limits::default());
    let (one, _two) = (world.login(1), world.login(2));
    world.core.moved(world.now, one, route(1));
    assert!(world.all_told().is_empty());
    world.core.moved(world.now, one, route(50));
    let now = ObservedNow {
        address: route(50).address,
    };
    assert_eq!(world.all_told(), [(one, now.into())]);
    let offered = world.open(one, 2).1;
    let seen: Vec<_> = offered
        .observed
        .iter()
        .map(|seen| seen.address.port())
        .collect();
    assert_eq!(seen, [50, 1]);
}

#[test]
fn who_breaks_the_rules_or_outlives_the_relay_is_told() {
    let mut world = World::new(Limits::default());
    let (one, two) = (world.login(1), world.login(2));
    world.say(
        one,
        Hello {
            versions: vec![1],
            capabilities: Vec::new(),
            token: None,
        },
    );
    let told = world.all_told();
    assert!(matches!(&told[..], [(to, FromRelay::Goodbye(bye))]
        if *to == one && bye.code == reason::PROTOCOL));
    world.core.stop(world.now);
    let told = world.all_told();
    assert!(matches!(&told[..], [(to, FromRelay::Goodbye(bye))]
        if *to == two && bye.code == reason::SHUTDOWN));
    assert_eq!(world.core.peers(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Login(u8),
    Lost(u64),
    Open(u64, u8),
    Accept(u64, u64),
    Close(u64, u64),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..6).prop_map(Step::Login),
        1 => (0u64..30).prop_map(Step::Lost),
        6 => ((0u64..30), (0u8..6)).prop_map(|(from, to)| Step::Open(from, to)),
        4 => ((0u64..30), (0u64..60)).prop_map(|(id, channel)| Step::Accept(id, channel)),
        2 => ((0u64..30), (0u64..60)).prop_map(|(id, channel)| Step::Close(id, channel)),
        1 => (0u64..12_000).prop_map(Step::Later),
    ]
}

proptest! {
    /// Whatever peers do: the tables agree with each other, limits hold, and when all have left
    /// nothing remains.
    #[test]
    fn tables_agree_and_empty(steps in prop::collection::vec(step(), 1..150)) {
        let limits = Limits { channels_per_peer: 3, peers: 4, ..Limits::default() };
        let mut world = World::new(limits.clone());
        for step in steps {
            match step {
                Step::Login(n) => drop(world.try_login(n)),
                Step::Lost(id) => world.core.lost(world.now, LoginId(id)),
                Step::Open(id, to) => world.say(LoginId(id), channel_open(1, to)),
                Step::Accept(id, channel) => world.say(LoginId(id), channel_accept(ChannelId(channel))),
                Step::Close(id, channel) => {
                    world.say(LoginId(id), ChannelClose { channel: ChannelId(channel) });
                }
                Step::Later(millis) => {
                    world.now += Duration::from_millis(millis);
                    world.core.tick(world.now);
                }
            }
            let channels = world.core.channels();
            let linked: usize = world
                .core
                .registry
                .ids()
                .iter()
                .filter_map(|id| world.core.registry.get(*id))
                .map(|login| login.channels.len())
                .sum();
            prop_assert_eq!(linked, 2 * channels);
            let (ends, owners, _) = world.core.forward().sizes();
            prop_assert_eq!((ends, owners), (2 * channels, world.core.peers()));
            prop_assert!(world.core.peers() <= limits.peers);
            world.core.take_outputs();
        }
        world.core.stop(world.now);
        prop_assert_eq!(world.core.channels(), 0);
        prop_assert_eq!(world.core.forward().sizes().0, 0);
        prop_assert_eq!(world.core.forward().sizes().1, 0);
    }
}

#[test]
fn ends_of_different_channels_differ() {
    let mut world = World::new(Limits::default());
    let (one, _two) = (world.login(1), world.login(2));
    let mut seen: Vec<ChannelEnd> = Vec::new();
    for _ in 0..20 {
        let (opened, offered) = world.open(one, 2);
        seen.extend([opened.end, offered.end]);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 40);
}
