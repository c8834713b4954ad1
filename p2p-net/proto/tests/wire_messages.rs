//! Every message between peer and relay: round trips, hostile bytes, cut and extended bodies,
//! bounds.

use std::net::SocketAddr;

use p2p_net_proto::codec::{CodecError, Frame, FrameDecoder, from_body, to_body};
use p2p_net_proto::wire::*;
use p2p_net_proto::{Candidate, CandidateKind, ChannelEnd, ChannelId, PeerId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn peer() -> impl Strategy<Value = PeerId> {
    any::<[u8; 32]>().prop_map(PeerId::from_bytes)
}

fn channel() -> impl Strategy<Value = ChannelId> {
    any::<u64>().prop_map(ChannelId)
}

fn end() -> impl Strategy<Value = ChannelEnd> {
    (0..=ChannelEnd::MAX).prop_map(ChannelEnd)
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => vec(any::<u8>(), 0..200), 1 => vec(any::<u8>(), max..=max)]
}

fn flight() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(
        vec(any::<u8>(), 0..=MAX_FLIGHT_BYTES / MAX_FLIGHT_PACKETS),
        0..=MAX_FLIGHT_PACKETS,
    )
}

fn observed() -> impl Strategy<Value = Vec<ObservedAddress>> {
    vec(
        any::<(SocketAddr, u32)>().prop_map(|(address, age_millis)| ObservedAddress {
            address: plain(address),
            age_millis,
        }),
        0..=8,
    )
}

/// An address without flow label and scope: they do not travel.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn names() -> impl Strategy<Value = Vec<String>> {
    vec("[a-z0-9-]{0,32}", 0..=32)
}

fn sentence() -> impl Strategy<Value = String> {
    "[ -~]{0,512}"
}

fn peers(max: usize) -> impl Strategy<Value = Vec<PeerId>> {
    prop_oneof![8 => vec(peer(), 0..20), 1 => vec(peer(), max..=max)]
}

fn to_relay() -> impl Strategy<Value = ToRelay> {
    prop_oneof![
        (
            vec(any::<u16>(), 0..=8),
            names(),
            option::of("[a-z2-7]{16,64}")
        )
            .prop_map(|(versions, capabilities, token)| Hello {
                versions,
                capabilities,
                token
            }
            .into()),
        (
            any::<u32>(),
            peer(),
            bytes(MAX_SEALED),
            any::<bool>(),
            flight()
        )
            .prop_map(|(request, to, sealed, attest, flight)| {
                ChannelOpen {
                    request,
                    to,
                    sealed,
                    attest,
                    flight,
                }
                .into()
            }),
        (channel(), bytes(MAX_SEALED), any::<bool>(), flight()).prop_map(
            |(channel, sealed, attest, flight)| {
                ChannelAccept {
                    channel,
                    sealed,
                    attest,
                    flight,
                }
                .into()
            }
        ),
        channel().prop_map(|channel| ChannelClose { channel }.into()),
        (peer(), any::<u16>(), any::<bool>(), bytes(MAX_SEALED)).prop_map(
            |(to, kind, attest, sealed)| Signal {
                to,
                kind,
                attest,
                sealed
            }
            .into()
        ),
        Just(PresenceSubscribe {}.into()),
        any::<u64>().prop_map(|nonce| Ping { nonce }.into()),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    any::<(u32, u32, u64)>().prop_map(|(channels, signals_per_minute, relayed_bytes_per_second)| {
        Limits {
            channels,
            signals_per_minute,
            relayed_bytes_per_second,
        }
    })
}

fn channel_from_relay() -> impl Strategy<Value = FromRelay> {
    prop_oneof![
        (any::<u32>(), channel(), end()).prop_map(|(request, channel, end)| ChannelOpened {
            request,
            channel,
            end
        }
        .into()),
        (
            channel(),
            end(),
            peer(),
            bytes(MAX_SEALED),
            observed(),
            flight()
        )
            .prop_map(|(channel, end, from, sealed, observed, flight)| {
                ChannelOffered {
                    channel,
                    end,
                    from,
                    sealed,
                    observed,
                    flight,
                }
                .into()
            }),
        (channel(), bytes(MAX_SEALED), observed(), flight()).prop_map(
            |(channel, sealed, observed, flight)| {
                ChannelReady {
                    channel,
                    sealed,
                    observed,
                    flight,
                }
                .into()
            }
        ),
        (any::<u32>(), channel(), any::<u16>(), sentence()).prop_map(
            |(request, channel, code, message)| {
                ChannelClosed {
                    request,
                    channel,
                    code,
                    message,
                }
                .into()
            }
        ),
    ]
}

fn from_relay() -> impl Strategy<Value = FromRelay> {
    prop_oneof![
        (
            any::<u16>(),
            names(),
            any::<SocketAddr>(),
            any::<Option<u16>>(),
            limits()
        )
            .prop_map(
                |(version, capabilities, observed, alternate_port, limits)| {
                    let observed = plain(observed);
                    Welcome {
                        version,
                        capabilities,
                        observed,
                        alternate_port,
                        limits,
                    }
                    .into()
                }
            ),
        (any::<u16>(), sentence(), any::<u32>()).prop_map(|(code, message, retry_after)| Refused {
            code,
            message,
            retry_after
        }
        .into()),
        (any::<u16>(), sentence()).prop_map(|(code, message)| Goodbye { code, message }.into()),
        channel_from_relay(),
        (peer(), any::<u16>(), observed(), bytes(MAX_SEALED)).prop_map(
            |(from, kind, observed, sealed)| SignalFrom {
                from,
                kind,
                observed,
                sealed
            }
            .into()
        ),
        (peers(MAX_PRESENCE), any::<bool>()).prop_map(|(peers, more)| PresenceSnapshot {
            peers,
            more
        }
        .into()),
        (peers(MAX_PRESENCE / 2), peers(MAX_PRESENCE / 2))
            .prop_map(|(joined, left)| PresenceDelta { joined, left }.into()),
        any::<u64>().prop_map(|nonce| Pong { nonce }.into()),
        any::<SocketAddr>().prop_map(|address| ObservedNow {
            address: plain(address)
        }
        .into()),
    ]
}

/// The one frame in `bytes`, taken the way a stream delivers it.
fn frame(bytes: &[u8]) -> Frame {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    let frame = decoder
        .next_frame()
        .expect("a legal length")
        .expect("a whole frame");
    assert_eq!(decoder.pending(), 0);
    frame
}

/// Cut anywhere or made longer, the body of `frame` is refused by `decode`.
fn refuses_other_lengths<T: std::fmt::Debug>(
    frame: &Frame,
    decode: impl Fn(&Frame) -> Result<Option<T>, CodecError>,
) {
    let refused = CodecError::Body { kind: frame.kind };
    let step = (frame.body.len() / 64).max(1);
    for length in (0..frame.body.len()).step_by(step) {
        let cut = Frame {
            kind: frame.kind,
            body: frame.body.slice(..length),
        };
        assert_eq!(decode(&cut).expect_err("cut"), refused);
    }
    let mut longer = frame.body.to_vec();
    longer.push(0);
    let longer = Frame {
        kind: frame.kind,
        body: longer.into(),
    };
    assert_eq!(decode(&longer).expect_err("longer"), refused);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_peers_say_survives(message in to_relay()) {
        let frame = frame(&message.encode().expect("within bounds"));
        prop_assert!(frame.kind < 0x8000);
        prop_assert_eq!(ToRelay::decode(&frame), Ok(Some(message)));
        prop_assert_eq!(FromRelay::decode(&frame), Ok(None), "kinds of the two ways never meet");
        refuses_other_lengths(&frame, ToRelay::decode);
    }

    #[test]
    fn what_relays_say_survives(message in from_relay()) {
        let frame = frame(&message.encode().expect("within bounds"));
        prop_assert!(frame.kind >= 0x8000);
        prop_assert_eq!(FromRelay::decode(&frame), Ok(Some(message)));
        prop_assert_eq!(ToRelay::decode(&frame), Ok(None), "kinds of the two ways never meet");
        refuses_other_lengths(&frame, FromRelay::decode);
    }

    #[test]
    fn arbitrary_bodies_of_every_kind_never_panic(body: Vec<u8>) {
        for kind in (0..0x50).chain(0x8000..0x8050) {
            let frame = Frame { kind, body: body.clone().into() };
            let _ = ToRelay::decode(&frame);
            let _ = FromRelay::decode(&frame);
        }
    }

    #[test]
    fn one_altered_byte_never_panics_and_never_exceeds_bounds(
        message in to_relay(), at: prop::sample::Index, value: u8,
    ) {
        let mut bytes = message.encode().expect("within bounds");
        let at = 6 + at.index((bytes.len() - 6).max(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        if let Ok(Some(altered)) = ToRelay::decode(&frame(&bytes)) {
            prop_assert!(altered.encode().is_ok());
        }
    }

    #[test]
    fn offers_and_answers_survive(
        session: [u8; 16], nonce: [u8; 16], addresses in vec(any::<SocketAddr>(), 0..10), rtt: u32,
    ) {
        let candidates: Vec<_> = addresses
            .into_iter()
            .map(|address| Candidate { kind: CandidateKind::Host, address: plain(address) })
            .collect();
        let offer = Offer { session, nonce, candidates: candidates.clone(), relay_rtt_micros: rtt };
        prop_assert_eq!(from_body(&to_body(&offer).expect("small")), Ok(offer));
        let answer = Answer { session, nonce, candidates, relay_rtt_micros: rtt };
        prop_assert_eq!(from_body(&to_body(&answer).expect("small")), Ok(answer));
    }

    #[test]
    fn hints_and_guesses_survive_the_way(session: [u8; 16], kind: u8, ports: [u16; 3]) {
        let [first, second, opened] = ports;
        let hint = Hint { session, kind, first, second };
        prop_assert_eq!(from_body(&to_body(&hint).expect("small")), Ok(hint));
        let guess = Guess { session, low: first, high: second, opened };
        prop_assert_eq!(from_body(&to_body(&guess).expect("small")), Ok(guess));
    }

    #[test]
    fn arbitrary_signals_never_panic(body: Vec<u8>) {
        let _ = from_body::<Offer>(&body);
        let _ = from_body::<Answer>(&body);
        let _ = from_body::<Hint>(&body);
        let _ = from_body::<Guess>(&body);
    }
}

fn over_long_to_relay() -> Vec<ToRelay> {
    let (to, channel) = (PeerId::from_bytes([1; 32]), ChannelId(1));
    let hello = Hello {
        versions: vec![1],
        capabilities: Vec::new(),
        token: None,
    };
    let open = ChannelOpen {
        request: 1,
        to,
        sealed: Vec::new(),
        attest: false,
        flight: Vec::new(),
    };
    let accept = ChannelAccept {
        channel,
        sealed: Vec::new(),
        attest: false,
        flight: Vec::new(),
    };
    vec![
        Hello {
            versions: vec![1; 9],
            ..hello.clone()
        }
        .into(),
        Hello {
            capabilities: vec![String::new(); 33],
            ..hello.clone()
        }
        .into(),
        Hello {
            capabilities: vec!["x".repeat(33)],
            ..hello.clone()
        }
        .into(),
        Hello {
            token: Some("x".repeat(65)),
            ..hello
        }
        .into(),
        ChannelOpen {
            sealed: vec![0; MAX_SEALED + 1],
            ..open.clone()
        }
        .into(),
        ChannelOpen {
            flight: vec![vec![0]; MAX_FLIGHT_PACKETS + 1],
            ..open.clone()
        }
        .into(),
        ChannelOpen {
            flight: vec![vec![0; MAX_FLIGHT_BYTES + 1]],
            ..open
        }
        .into(),
        ChannelAccept {
            sealed: vec![0; MAX_SEALED + 1],
            ..accept.clone()
        }
        .into(),
        ChannelAccept {
            flight: vec![vec![0; 1_300]; 4],
            ..accept
        }
        .into(),
        Signal {
            to,
            kind: 1,
            attest: false,
            sealed: vec![0; MAX_SEALED + 1],
        }
        .into(),
    ]
}

/// A frame that the encoder itself would refuse to make.
fn forced<M: p2p_net_proto::codec::Message>(message: &M) -> Frame {
    frame(&p2p_net_proto::codec::encode(message).expect("fits a frame"))
}

#[test]
fn over_long_messages_are_neither_made_nor_taken() {
    for message in over_long_to_relay() {
        assert!(
            matches!(message.encode(), Err(CodecError::TooLarge { .. })),
            "{message:?}"
        );
        let frame = match &message {
            ToRelay::Hello(inner) => forced(inner),
            ToRelay::ChannelOpen(inner) => forced(inner),
            ToRelay::ChannelAccept(inner) => forced(inner),
            ToRelay::Signal(inner) => forced(inner),
            other => panic!("no bounds to break in {other:?}"),
        };
        assert_eq!(
            ToRelay::decode(&frame),
            Err(CodecError::Body { kind: frame.kind }),
            "{message:?}"
        );
    }
}

#[test]
fn over_long_messages_of_a_relay_are_not_taken() {
    let long = "x".repeat(513);
    let delta = PresenceDelta {
        joined: vec![PeerId::from_bytes([1; 32]); MAX_PRESENCE],
        left: vec![PeerId::from_bytes([2; 32])],
    };
    let snapshot = PresenceSnapshot {
        peers: vec![PeerId::from_bytes([1; 32]); MAX_PRESENCE + 1],
        more: false,
    };
    let frames = [
        forced(&Refused {
            code: 1,
            message: long.clone(),
            retry_after: 0,
        }),
        forced(&Goodbye {
            code: 1,
            message: long.clone(),
        }),
        forced(&ChannelClosed {
            request: 0,
            channel: ChannelId(1),
            code: 1,
            message: long,
        }),
        forced(&delta),
        forced(&snapshot),
    ];
    for frame in frames {
        assert_eq!(
            FromRelay::decode(&frame),
            Err(CodecError::Body { kind: frame.kind })
        );
    }
}

#[test]
fn unknown_kinds_are_skipped_in_the_middle_of_a_stream() {
    let mut stream = ToRelay::from(Ping { nonce: 1 }).encode().expect("small");
    stream.extend_from_slice(&[0, 0, 0, 5, 0x7f, 0xff, 1, 2, 3]);
    stream.extend(ToRelay::from(Ping { nonce: 2 }).encode().expect("small"));
    let mut decoder = FrameDecoder::default();
    decoder.push(&stream);
    let mut nonces = Vec::new();
    while let Some(frame) = decoder.next_frame().expect("well formed") {
        if let Some(ToRelay::Ping(ping)) = ToRelay::decode(&frame).expect("well formed") {
            nonces.push(ping.nonce);
        }
    }
    assert_eq!(nonces, [1, 2]);
}
