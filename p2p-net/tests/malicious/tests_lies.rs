//! Deed 6: the relay lies about addresses and presence, sends nonsense and ends sessions at random. Nobody is
//! flooded in the peers' name, nothing panics, memory stays bounded, and honest work goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_net::{Endpoint, Identity, PeerId, RelayState};
use p2p_net_proto::codec::{Message, encode, to_body};
use p2p_net_proto::wire::{
    ChannelClosed, ChannelOffered, ChannelOpened, Goodbye, Limits, MAX_PRESENCE, ObservedAddress,
    ObservedNow, Offer, Pong, PresenceDelta, PresenceSnapshot, Refused, SignalFrom, VERSION,
    Welcome, reason, signal,
};
use p2p_net_proto::{
    Candidate, CandidateKind, ChannelEnd, ChannelId, MAX_CANDIDATES, nudge, probe, seal, tls,
};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::sync::mpsc;

use crate::malicious::{
    EvilRelay, Mallory, Pair, Victim, becomes_direct, caught_up, echo, endpoint, no_panic, noise,
    online, sees, within,
};

/// Sends of one candidate in one session at most (`connectivity.md` §5.5).
const SENDS_PER_CANDIDATE: usize = 9;
/// Repeated probes a second towards one peer at most (the same); the first of each candidate is not paced.
const PROBES_PER_SECOND: usize = 20;
/// Sessions in ten seconds that one peer may begin with another.
const SESSIONS: usize = 10;

/// Probes that may go out without a pause.
const PROBE_BURST: usize = 20;

/// What one endpoint may have sent towards one peer, who began `begun` sessions with it (or it with her), in
/// `elapsed`: the smaller of the budget by count, ten candidates nine times a session, and of that by rate,
/// a burst and 20 a second besides.
fn budget(begun: usize, elapsed: Duration) -> usize {
    let seconds = usize::try_from(elapsed.as_secs()).expect("a short test") + 1;
    let sessions = begun.min(SESSIONS * seconds.div_ceil(10));
    let by_count = sessions * MAX_CANDIDATES * SENDS_PER_CANDIDATE;
    by_count.min(PROBE_BURST + seconds * PROBES_PER_SECOND)
}

/// Every packet is one probe of 64 bytes, never QUIC or anything larger.
fn only_probes(packets: &[Vec<u8>]) {
    for packet in packets {
        assert_eq!(
            (packet.len(), packet[0]),
            (probe::PROBE_LEN, probe::PROBE),
            "not a probe"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_observed_address_costs_its_owner_a_bounded_number_of_probes() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(61);
    let victim = Victim::listen(61).await;
    relay.set(|deeds| {
        deeds.observed = Some(victim.address());
        deeds.attested = vec![victim.address()];
    });
    let began = Instant::now();
    let pair = Pair::online(&relay, 61).await;
    pair.bob.set_accepted(pair.alice.id(), true);
    let (alice, bob) = pair.connect().await;
    becomes_direct(&alice, Duration::from_secs(3)).await;
    victim.is_left_alone(Duration::from_millis(1_500)).await;
    let (a, b) = (pair.alice.id(), pair.bob.id());
    let sessions = relay.seen(|seen| {
        let offers = |from, to| seen.sealed_between(from, to, signal::OFFER).len();
        offers(a, b) + offers(b, a)
    });
    let (packets, allowed) = (victim.packets(), 2 * budget(sessions, began.elapsed()));
    assert!(
        packets.len() <= allowed,
        "{} packets of {allowed}",
        packets.len()
    );
    only_probes(&packets);
    within(20, "one exchange", echo(&alice, &bob, &noise(61, 20_000))).await;
}

/// A contact of Bob's who is in league with the relay: it attests whatever she names, and she names ten ports
/// of a bystander, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_in_league_with_the_relay_cannot_make_a_flood() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(62);
    let victim = Victim::listen_on(62, MAX_CANDIDATES).await;
    relay.set(|deeds| deeds.attested = vec![victim.address()]);
    let bob = endpoint(&relay, Identity::from_secret([62; 32]));
    within(15, "logging in", online(&bob)).await;
    relay
        .until(|state| state.seen.logins.contains_key(&bob.id()))
        .await;
    let mallory = Mallory::new(relay.hub(), 1, None);
    let me = mallory.identity().id();
    bob.set_accepted(me, true);
    let began = Instant::now();
    let first = offer(&mallory, &bob, &victim, 1);
    let (connecting, accepted) = within(20, "calling Bob", async {
        tokio::join!(
            async { mallory.call(me, bob.id(), first).await.0.await },
            bob.accept()
        )
    })
    .await;
    let _living = (
        connecting.expect("her own key"),
        accepted.expect("an open endpoint"),
    );
    // Spread so that each would begin a round of its own.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for number in 2..=40 {
        pace.tick().await;
        let sealed = offer(&mallory, &bob, &victim, number);
        let at = |address| ObservedAddress {
            address,
            age_millis: 0,
        };
        let (from, kind, observed) = (me, signal::OFFER, vec![at(victim.address())]);
        let signal = SignalFrom {
            from,
            kind,
            observed,
            sealed,
        };
        relay.hub().send(bob.id(), signal);
    }
    within(15, "handling the offers", caught_up(&relay, &bob, 205)).await;
    let quiet = victim.is_left_alone(Duration::from_secs(1));
    let _ = tokio::time::timeout(Duration::from_secs(4), quiet).await;
    let (packets, allowed) = (victim.packets(), budget(40, began.elapsed()));
    assert!(
        !packets.is_empty(),
        "nothing was probed: the test asks nothing"
    );
    assert!(
        packets.len() <= allowed,
        "{} packets of {allowed}",
        packets.len()
    );
    only_probes(&packets);
}

/// A sealed offer whose candidates are all the victim's.
fn offer(mallory: &Mallory, bob: &Endpoint, victim: &Victim, number: u8) -> Vec<u8> {
    let kind = CandidateKind::Host;
    let addresses = victim.addresses().iter();
    let candidates = addresses
        .map(|&address| Candidate { kind, address })
        .collect();
    let (session, nonce) = ([number; 16], [number; 16]);
    let offer = Offer {
        session,
        nonce,
        candidates,
        relay_rtt_micros: 1,
    };
    let body = to_body(&offer).expect("a small body");
    let (me, sequence, ephemeral) = (mallory.identity(), u64::from(number), [number; 32]);
    seal(me, &bob.id(), signal::OFFER, sequence, &body, ephemeral).expect("a usable key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_observed_addresses_stays_within_the_rate() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(63);
    let victim = Victim::listen(63).await;
    relay.set(|deeds| deeds.attested = vec![victim.address()]);
    let pair = Pair::online(&relay, 63).await;
    pair.bob.set_accepted(pair.alice.id(), true);
    let (alice, bob) = pair.connect().await;
    let began = Instant::now();
    let elsewhere = SocketAddr::new(victim.address().ip(), victim.address().port() ^ 1);
    for _ in 0..200 {
        for address in [victim.address(), elsewhere] {
            for peer in [pair.alice.id(), pair.bob.id()] {
                relay.hub().send(peer, ObservedNow { address });
            }
        }
    }
    within(20, "handling the lies", async {
        caught_up(&relay, &pair.alice, 206).await;
        caught_up(&relay, &pair.bob, 207).await;
        echo(&alice, &bob, &noise(63, 20_000)).await;
    })
    .await;
    let quiet = victim.is_left_alone(Duration::from_millis(1_500));
    let _ = tokio::time::timeout(Duration::from_secs(5), quiet).await;
    // Two endpoints, each with sessions that either of them began.
    let (packets, allowed) = (victim.packets(), 4 * budget(usize::MAX, began.elapsed()));
    assert!(
        packets.len() <= allowed,
        "{} packets of {allowed}",
        packets.len()
    );
    only_probes(&packets);
    // A peer whose addresses change without end must not flood its contact with offers either.
    let (a, b) = (pair.alice.id(), pair.bob.id());
    let offers = relay.seen(|seen| {
        [(a, b), (b, a)].map(|(from, to)| seen.sealed_between(from, to, signal::OFFER).len())
    });
    assert!(
        offers.iter().all(|&count| count <= 40),
        "{offers:?} offers for 400 lies"
    );
}

/// Byte strings that no honest relay writes on a control stream.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |kind: u16, body: &[u8]| {
        let length = u32::try_from(body.len() + 2).expect("short");
        [&length.to_be_bytes()[..], &kind.to_be_bytes(), body].concat()
    };
    let mut long_tail = encode(&Pong { nonce: 1 }).expect("fits");
    long_tail.push(0);
    long_tail[3] += 1;
    let hugely_many = [&[0xfd][..], &u64::MAX.to_le_bytes()[..]].concat();
    vec![
        ("a length of 4 GiB", vec![0xff; 64]),
        ("a length of one", vec![0, 0, 0, 1, 0x80]),
        ("a length of nothing", vec![0; 16]),
        (
            "a length one too large",
            [&[0, 1, 0, 1, 0x80, 0x40][..], &[0; 65_535]].concat(),
        ),
        (
            "unknown kinds",
            [frame(0x7fff, b"?"), frame(0xffff, &[]), frame(0, &[9; 50])].concat(),
        ),
        ("the largest unknown frame", frame(0x9999, &[7; 65_534])),
        ("a body of noise", frame(0x8010, &noise(5, 300))),
        ("a body cut short", frame(0x8001, &[1])),
        ("a body with a tail", long_tail),
        ("a presence of 2^64 peers", frame(0x8030, &hugely_many)),
        ("a delta of 2^64 peers", frame(0x8031, &hugely_many)),
        (
            "a sealed body of 2^64 bytes",
            frame(0x8020, &[&[1; 33][..], &hugely_many].concat()),
        ),
        ("a client's own message", frame(0x0001, &[0, 0, 0])),
        (
            "a second welcome",
            crate::malicious::welcome(([127, 0, 0, 1], 1).into()),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_break_a_login_at_most() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(64);
    let mut suffering = Vec::new();
    for (number, (what, bytes)) in (100..).zip(malformed()) {
        let endpoint = endpoint(&relay, Identity::from_secret([number; 32]));
        let hub = std::sync::Arc::clone(relay.hub());
        suffering.push(async move {
            within(15, "logging in", online(&endpoint)).await;
            hub.until(|state| state.seen.logins.contains_key(&endpoint.id()))
                .await;
            let mut wants = true;
            hub.send_bytes(endpoint.id(), bytes);
            // Whether it skipped the bytes or logged in anew, it works again: presence arrives.
            let marker = Identity::from_secret([number ^ 0x80; 32]).id();
            let (mut peers, mut pace) = (
                endpoint.watch_peers(),
                tokio::time::interval(Duration::from_millis(100)),
            );
            let works = async {
                while wants {
                    tokio::select! {
                        _ = pace.tick() => {
                            let (joined, left) = (vec![marker], Vec::new());
                            hub.send(endpoint.id(), PresenceDelta { joined, left });
                        }
                        found = peers.wait_for(|peers| peers.contains(&marker)) => {
                            wants = found.is_err();
                        }
                    }
                }
            };
            within(25, &format!("coming back after {what}"), works).await;
            endpoint
        });
    }
    let living = futures_util::future::join_all(suffering).await;
    assert!(
        living
            .iter()
            .all(|e| matches!(*e.watch_relay().borrow(), RelayState::Online { .. }))
    );
}

/// A Welcome with as many long capabilities as fit.
fn strange_welcome(version: u16, observed: &str, port: Option<u16>, limit: u32) -> Vec<u8> {
    let limits = Limits {
        channels: limit,
        signals_per_minute: limit,
        relayed_bytes_per_second: u64::from(limit),
    };
    let welcome = Welcome {
        version,
        capabilities: vec!["x".repeat(32); 32],
        observed: observed.parse().expect("an address"),
        alternate_port: port,
        limits,
    };
    encode(&welcome).expect("fits")
}

fn refusal(code: u16, retry_after: u32) -> Vec<u8> {
    let message = "because".repeat(70);
    let refused = Refused {
        code,
        message,
        retry_after,
    };
    encode(&refused).expect("fits")
}

/// Greetings that no honest relay gives.
fn greetings() -> Vec<(&'static str, Vec<u8>)> {
    let here = "127.0.0.1:9";
    let at = |observed| strange_welcome(VERSION, observed, None, 9);
    let goodbye = Goodbye {
        code: reason::SHUTDOWN,
        message: String::new(),
    };
    let usual = crate::malicious::welcome(([127, 0, 0, 1], 1).into());
    vec![
        ("one byte a second", strange_welcome(VERSION, here, None, 1)),
        (
            "limits of nothing",
            strange_welcome(VERSION, here, Some(0), 0),
        ),
        (
            "limits without end",
            strange_welcome(VERSION, here, Some(9), u32::MAX),
        ),
        (
            "an impossible version",
            strange_welcome(65_535, here, None, 9),
        ),
        ("an unspecified address", at("0.0.0.0:0")),
        ("a broadcast address", at("255.255.255.255:65535")),
        ("a multicast address", at("[ff02::1]:5353")),
        ("a virtual address", at("[fd6c:616e:646c::1]:1")),
        (
            "a refusal to be retried at once",
            refusal(reason::LIMITED, 1),
        ),
        ("a refusal of an unknown code", refusal(60_000, 1)),
        ("a refusal for 136 years", refusal(reason::FULL, u32::MAX)),
        (
            "a goodbye in place of hello",
            encode(&goodbye).expect("fits"),
        ),
        ("noise", noise(3, 500)),
        ("two welcomes", usual.repeat(2)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_greetings_do_no_lasting_harm() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(65);
    let mut greeted = Vec::new();
    for (number, (what, bytes)) in (130..).zip(greetings()) {
        relay.set(|deeds| deeds.greeting = Some(bytes));
        let endpoint = endpoint(&relay, Identity::from_secret([number; 32]));
        let id = endpoint.id();
        within(
            15,
            what,
            relay.until(|state| state.seen.logins.contains_key(&id)),
        )
        .await;
        relay.behave();
        greeted.push((what, endpoint));
    }
    for (what, endpoint) in &greeted {
        // Those who made do with the greeting are sent through a proper login now.
        relay.kick(endpoint.id());
        let mut state = endpoint.watch_relay();
        let settled = |state: &RelayState| {
            matches!(state, RelayState::Online { .. } | RelayState::Failed(_))
                || (what.contains("136 years") && matches!(state, RelayState::Connecting { .. }))
        };
        let settled = within(30, what, state.wait_for(settled))
            .await
            .expect("it lives")
            .clone();
        let given_up = matches!(settled, RelayState::Failed(_));
        let may_give_up = what.contains("refusal") || what.contains("version");
        assert!(!given_up || may_give_up, "{what}: {settled:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodbyes_and_cut_sessions_do_not_end_a_connection() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(66);
    let pair = Pair::relay_only(&relay, 66).await;
    let (alice, bob) = pair.connect().await;
    within(50, "outliving five ends of session", async {
        for round in 0..5_u32 {
            let peer = if round % 2 == 0 {
                pair.alice.id()
            } else {
                pair.bob.id()
            };
            let before = relay.seen(|seen| seen.logins[&peer]);
            match round {
                // A goodbye, after which the relay does not even go.
                0 | 1 => {
                    let (code, message) = (reason::SHUTDOWN, "restarting".to_owned());
                    relay.hub().send(peer, Goodbye { code, message });
                }
                // All channels closed at once, then the session.
                2 => {
                    relay.until(|state| state.channel_of(peer).is_some()).await;
                    relay.hub().close_channels_of(peer);
                    relay.kick(peer);
                }
                _ => relay.kick(peer),
            }
            relay.until(|state| state.seen.logins[&peer] > before).await;
            echo(&alice, &bob, &noise(u64::from(round), 5_000)).await;
        }
    })
    .await;
    assert!(!alice.is_closed() && !bob.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_packets_reach_nothing() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(67);
    let pair = Pair::relay_only(&relay, 67).await;
    let (alice, bob) = pair.connect().await;
    within(
        20,
        "a first exchange",
        echo(&alice, &bob, &noise(67, 5_000)),
    )
    .await;
    let b = pair.bob.id();
    let end = relay.hub().state().channel_of(b).expect("a channel").1;
    for round in 0..400_u64 {
        let length = usize::try_from(round * 37 % 1_500).expect("short");
        let mut garbage = noise(round, length);
        // Tagged properly: noise, noise that looks like QUIC or a probe, and fragments of nothing.
        relay.hub().inject(b, garbage.clone(), false);
        relay.hub().inject(b, garbage.clone(), true);
        for first in [0x40, 0xc0, 0xd0, 0xff, 0x20, 0x80] {
            if let Some(byte) = garbage.first_mut() {
                *byte = first;
                relay.hub().inject(b, garbage.clone(), false);
            }
        }
        // Not tagged: noise under every kind of first byte, for its own end and for others.
        for first in [
            0x00, 0x01, 0x20, 0x21, 0x23, 0x30, 0x31, 0x40, 0x80, 0xa3, 0xbf, 0xc3,
        ] {
            if let Some(byte) = garbage.first_mut() {
                *byte = first;
                relay.hub().send_datagram(b, &garbage);
            }
        }
        relay.hub().send_datagram(b, &nudge::no_channel(end));
        relay
            .hub()
            .send_datagram(b, &nudge::no_channel(ChannelEnd(0x00ab_cdef)));
    }
    within(
        30,
        "talking beside the garbage",
        echo(&alice, &bob, &noise(68, 20_000)),
    )
    .await;
    within(30, "and back", echo(&bob, &alice, &noise(69, 20_000))).await;
    let opens: u32 = relay.seen(|seen| seen.opens.values().sum());
    assert!(
        opens <= 5,
        "400 hints that a channel is gone made {opens} channel-opens"
    );
    assert!(!alice.is_closed() && !bob.is_closed());
}

/// The relay's own address may answer, never ask; any other address is not heard at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_from_the_relay_or_a_stranger_gets_no_answer() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(68);
    let bob = endpoint(&relay, Identity::from_secret([68; 32]));
    within(15, "logging in", online(&bob)).await;
    relay
        .until(|state| state.seen.logins.contains_key(&bob.id()))
        .await;
    let address = SocketAddr::from(([127, 0, 0, 1], bob.port()));
    let crypto = tls::peer_client(&Identity::from_secret([69; 32])).expect("TLS");
    let crypto = QuicClientConfig::try_from(crypto).expect("TLS 1.3");
    let mut config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    let idle = Duration::from_secs(2).try_into().expect("a short time");
    transport.max_idle_timeout(Some(idle));
    config.transport_config(std::sync::Arc::new(transport));
    let stranger = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
    let name = tls::server_name(&bob.id());
    for dialler in [relay.quic(), &stranger] {
        let dial = dialler
            .connect_with(config.clone(), address, &name)
            .expect("a configuration");
        let answer = within(15, "hearing nothing", async {
            tokio::select! {
                answer = dial => answer.err(),
                accepted = bob.accept() => panic!("{:?} accepted", accepted.map(|c| c.peer())),
            }
        })
        .await;
        assert!(
            matches!(answer, Some(quinn::ConnectionError::TimedOut)),
            "{answer:?}"
        );
    }
}

/// Resident memory of this process, bytes; `None` where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1_024)
}

/// The control stream of the one who is flooded; sending waits until he reads.
struct Flood(mpsc::Sender<Vec<u8>>);

impl Flood {
    async fn say(&self, message: &impl Message) {
        let bytes = encode(message).expect("fits");
        self.0.send(bytes).await.expect("the flooded one reads");
    }

    /// Phantoms without end, 20 MB of them.
    async fn phantoms(&self) {
        let per_frame = MAX_PRESENCE as u64;
        for part in 0..600 {
            let peers = (part * per_frame..(part + 1) * per_frame).map(phantom);
            let peers = peers.collect();
            self.say(&PresenceSnapshot { peers, more: true }).await;
        }
    }

    /// Callers without end, each with a full first flight of noise, 12 MB; every other one with an envelope.
    async fn callers(&self) {
        let flight = vec![noise(1, 1_200); 4];
        for number in 0..2_500_u32 {
            let sealed = noise(1, if number % 2 == 0 { 0 } else { 200 });
            let offered = ChannelOffered {
                channel: ChannelId(1 << 40 | u64::from(number)),
                end: ChannelEnd(0x0080_0000 | number),
                from: phantom(u64::from(number)),
                sealed,
                observed: Vec::new(),
                flight: flight.clone(),
            };
            self.say(&offered).await;
        }
    }

    /// Answers to questions that nobody asked.
    async fn answers(&self) {
        for request in 0..20_000_u32 {
            let (channel, end) = (ChannelId(u64::from(request)), ChannelEnd(request));
            let opened = ChannelOpened {
                request,
                channel,
                end,
            };
            self.say(&opened).await;
            let (code, message) = (reason::GONE, String::new());
            let closed = ChannelClosed {
                request,
                channel,
                code,
                message,
            };
            self.say(&closed).await;
        }
    }
}

fn phantom(number: u64) -> PeerId {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PeerId::from_bytes(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_control_frames_stay_within_bounded_memory() {
    let _no_panic = no_panic();
    let relay = EvilRelay::start(70);
    let pair = Pair::relay_only(&relay, 70).await;
    // Strangers without end must not crowd out a contact.
    pair.bob.set_accepted(pair.alice.id(), true);
    let flood = Flood(relay.hub().stream_of(pair.bob.id()).expect("Bob is here"));
    let before = resident();
    within(45, "reading the floods", async {
        flood.phantoms().await;
        let delta = PresenceDelta {
            joined: vec![phantom(u64::MAX)],
            left: Vec::new(),
        };
        flood.say(&delta).await;
        flood.answers().await;
        flood.callers().await;
        // The first closes the endless snapshot, which is full; the second is the truth again.
        let last = Identity::from_secret([208; 32]).id();
        for _ in 0..2 {
            let (peers, more) = (vec![last, pair.alice.id()], false);
            flood.say(&PresenceSnapshot { peers, more }).await;
        }
        sees(&pair.bob, last).await;
    })
    .await;
    let (alice, bob) = pair.connect().await;
    let words = noise(70, 20_000);
    within(20, "work afterwards", echo(&alice, &bob, &words)).await;
    let peers = pair.bob.watch_peers().borrow().len();
    assert!(
        peers <= 100_001,
        "a relay made Bob remember {peers} phantoms"
    );
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before) >> 20;
        assert!(grown <= 96, "the floods cost {grown} MiB");
    }
}
