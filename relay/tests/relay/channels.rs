//! Channels between two clients, and relayed packets through real sockets.

use crate::client::{Client, Line, TestRelay, channel, identity, offer, relay, relay_with, soon};
use p2p_net_proto::nudge::{self, Nudge};
use p2p_net_proto::wire::{
    ChannelClose, ChannelClosed, ChannelOpen, FromRelay, MAX_FLIGHT_PACKETS, Signal, reason,
};
use p2p_net_proto::{ChannelId, HEADER_LEN};

async fn two_clients() -> (TestRelay, Client, Client) {
    let relay = relay().await;
    let (one, two) = (relay.login(1).await, relay.login(2).await);
    (relay, one, two)
}

fn closed(message: FromRelay) -> ChannelClosed {
    match message {
        FromRelay::ChannelClosed(closed) => closed,
        other => panic!("not closed: {other:?}"),
    }
}

#[tokio::test]
async fn packets_go_both_ways_and_are_counted() {
    let (relay, mut one, mut two) = two_clients().await;
    let (_, mut a, mut b) = channel(&mut one, &mut two).await;
    for n in 0..100u8 {
        one.socket.send(one.relay, &a.pack(&[n; 1_200])).await;
        assert_eq!(b.unpack(&two.packet().await), [n; 1_200]);
        two.socket.send(two.relay, &b.pack(&[n; 40])).await;
        assert_eq!(a.unpack(&one.packet().await), [n; 40]);
    }
    let stats = relay.relay.stats();
    assert_eq!((stats.channels, stats.relayed_packets), (1, 200));
    assert_eq!(stats.relayed_bytes, 100 * (1_216 + 56));
    assert_eq!(stats.dropped_packets, 0);
}

#[tokio::test]
async fn a_burst_arrives_whole_and_in_order() {
    let (_relay, mut one, mut two) = two_clients().await;
    let (_, mut a, b) = channel(&mut one, &mut two).await;
    let burst: Vec<u8> = (0..10u8).flat_map(|n| a.pack(&[n; 1_200])).collect();
    // One system call, cut by the kernel: the relay gets it merged where the kernel can do that.
    let transmit = quinn::udp::Transmit {
        destination: one.relay,
        ecn: None,
        contents: &burst,
        segment_size: Some(1_216),
        src_ip: None,
    };
    quinn::AsyncUdpSocket::try_send(one.socket.as_ref(), &transmit).expect("sent");
    for n in 0..10u8 {
        assert_eq!(b.unpack(&two.packet().await), [n; 1_200]);
    }
}

#[tokio::test]
async fn an_offer_carries_seal_flight_and_observed_addresses() {
    let (_relay, mut one, mut two) = two_clients().await;
    let (opened, offered) = offer(&mut one, &mut two).await;
    assert_eq!((opened.request, offered.from), (7, one.id));
    assert_eq!(
        (&offered.sealed[..], &offered.flight[..]),
        (&b"sealed"[..], &[b"first".to_vec()][..])
    );
    let here = |client: &Client| client.endpoint.local_addr().expect("bound");
    assert_eq!(offered.observed[0].address, here(&one));
    crate::client::accept(&mut two, opened.channel).await;
    let FromRelay::ChannelReady(ready) = one.hear().await else {
        panic!("not ready")
    };
    assert_eq!(
        (&ready.sealed[..], &ready.flight[..]),
        (&b"answer"[..], &[b"back".to_vec()][..])
    );
    assert_eq!(ready.observed[0].address, here(&two));
}

#[tokio::test]
async fn what_comes_before_the_acceptance_waits() {
    let (relay, mut one, mut two) = two_clients().await;
    let (opened, offered) = offer(&mut one, &mut two).await;
    let mut a = one.line(opened.channel, opened.end);
    for n in 0..=MAX_FLIGHT_PACKETS as u8 {
        one.socket.send(one.relay, &a.pack(&[n])).await;
    }
    // The fifth is dropped: by then the four are held.
    relay.until(|stats| stats.dropped_packets == 1).await;
    assert!(two.packets.try_recv().is_err());
    crate::client::accept(&mut two, opened.channel).await;
    let b = two.line(offered.channel, offered.end);
    for n in 0..MAX_FLIGHT_PACKETS as u8 {
        assert_eq!(b.unpack(&two.packet().await), [n]);
    }
}

/// Sends bad packets and then a good one; only the good one arrives.
async fn only_the_good_one(
    relay: &TestRelay,
    one: &Client,
    two: &mut Client,
    [a, b]: [&mut Line; 2],
    bad: &[Vec<u8>],
) {
    let before = relay.relay.stats().dropped_packets;
    for packet in bad {
        one.socket.send(one.relay, packet).await;
    }
    one.socket.send(one.relay, &a.pack(b"good")).await;
    assert_eq!(b.unpack(&two.packet().await), b"good");
    assert_eq!(
        relay.relay.stats().dropped_packets,
        before + bad.len() as u64
    );
}

#[tokio::test]
async fn forged_and_replayed_packets_are_dropped() {
    let (relay, mut one, mut two) = two_clients().await;
    let (_, mut a, mut b) = channel(&mut one, &mut two).await;
    let first = a.pack(b"first");
    one.socket.send(one.relay, &first).await;
    assert_eq!(b.unpack(&two.packet().await), b"first");
    let mut altered = a.pack(b"altered");
    altered[HEADER_LEN] ^= 1;
    let mut longer = a.pack(b"longer");
    longer.push(0);
    let others_keys = b.pack(b"not mine");
    let mut reflected = b.pack(b"reflected");
    reflected[1..4].copy_from_slice(&a.end.0.to_be_bytes()[1..]);
    let bad = [
        first,
        altered,
        longer,
        reflected,
        vec![0x80; 15],
        vec![0xbf; 1],
    ];
    only_the_good_one(&relay, &one, &mut two, [&mut a, &mut b], &bad).await;
    // Under the right keys, but from somebody else's address: a challenge goes there, nothing
    // passes.
    one.socket.send(one.relay, &others_keys).await;
    let challenge = one.packet().await;
    assert_eq!(nudge::verify(&b.down, &challenge), Ok(()));
    assert!(one.packets.try_recv().is_err());
}

#[tokio::test]
async fn unknown_channels_are_answered_with_a_short_hint() {
    let (relay, mut one, mut two) = two_clients().await;
    let (channel, mut a, _) = channel(&mut one, &mut two).await;
    one.say(ChannelClose { channel }).await;
    assert_eq!(closed(two.hear().await).code, reason::CLOSED);
    one.socket.send(one.relay, &a.pack(b"late")).await;
    let hint = one.packet().await;
    assert_eq!(Nudge::parse(&hint), Some(Nudge::NoChannel { end: a.end }));
    assert_eq!(relay.relay.stats().channels, 0);
}

#[tokio::test]
async fn a_new_source_port_is_taken_after_a_challenge() {
    let (relay, mut one, mut two) = two_clients().await;
    let (_, mut a, mut b) = channel(&mut one, &mut two).await;
    let (moved, mut packets) = crate::client::TestSocket::bind();
    let plain = crate::client::client_endpoint(moved.clone());
    moved.send(one.relay, &a.pack(b"from elsewhere")).await;
    let challenge = soon(packets.recv()).await.expect("a challenge");
    assert_eq!(nudge::verify(&a.down, &challenge), Ok(()));
    let Some(Nudge::Challenge { end, nonce }) = Nudge::parse(&challenge) else {
        panic!("not a challenge")
    };
    assert_eq!(end, a.end);
    // Before the answer, what the other side sends goes to the old address.
    two.socket.send(two.relay, &b.pack(b"to the old")).await;
    assert_eq!(a.unpack(&one.packet().await), b"to the old");
    moved
        .send(one.relay, &nudge::answer(a.end, nonce, &a.up))
        .await;
    moved.send(one.relay, &a.pack(b"settled")).await;
    assert_eq!(b.unpack(&two.packet().await), b"settled");
    two.socket.send(two.relay, &b.pack(b"to the new")).await;
    let packet = soon(packets.recv()).await.expect("a packet");
    assert_eq!(a.unpack(&packet), b"to the new");
    assert_eq!(
        relay.relay.stats().dropped_packets,
        1,
        "the one that was challenged"
    );
    drop(plain);
}

#[tokio::test]
async fn data_follows_a_moved_control_connection() {
    let (_relay, mut one, mut two) = two_clients().await;
    let (_, a, mut b) = channel(&mut one, &mut two).await;
    let (socket, packets) = crate::client::TestSocket::bind();
    one.endpoint.rebind_abstract(socket).expect("rebound");
    one.packets = packets;
    one.say(p2p_net_proto::wire::Ping { nonce: 1 }).await;
    loop {
        if let FromRelay::ObservedNow(_) = one.hear().await {
            break;
        }
    }
    two.socket.send(two.relay, &b.pack(b"follow me")).await;
    assert_eq!(a.unpack(&one.packet().await), b"follow me");
}

#[tokio::test]
async fn losing_a_login_closes_its_channels() {
    let (relay, mut one, mut two) = two_clients().await;
    let (channel, _, _) = channel(&mut one, &mut two).await;
    one.connection.close(0u32.into(), b"");
    let closed = closed(two.hear().await);
    assert_eq!((closed.channel, closed.code), (channel, reason::GONE));
    assert_eq!(
        (relay.relay.stats().channels, relay.relay.stats().peers),
        (0, 1)
    );
}

#[tokio::test]
async fn a_peer_that_is_not_here_is_told_at_once() {
    let (_relay, mut one, _two) = two_clients().await;
    let to = identity(9).id();
    let open = ChannelOpen {
        request: 5,
        to,
        sealed: vec![],
        attest: false,
        flight: vec![],
    };
    one.say(open).await;
    let closed = closed(one.hear().await);
    assert_eq!(
        (closed.request, closed.channel, closed.code),
        (5, ChannelId(0), reason::NOT_HERE)
    );
}

#[tokio::test]
async fn signals_pass_sealed_and_within_their_limit() {
    let relay = relay_with(|config| config.limits.signals_per_minute = 2).await;
    let (mut one, mut two) = (relay.login(1).await, relay.login(2).await);
    let signal = Signal {
        to: two.id,
        kind: 3,
        attest: false,
        sealed: vec![7; 16_000],
    };
    one.say(signal.clone()).await;
    let FromRelay::SignalFrom(heard) = two.hear().await else {
        panic!("not a signal")
    };
    assert_eq!(
        (heard.from, heard.kind, heard.sealed),
        (one.id, 3, signal.sealed.clone())
    );
    assert!(heard.observed.is_empty());
    one.say(signal.clone()).await;
    one.say(signal).await;
    let FromRelay::Refused(refused) = one.hear().await else {
        panic!("not refused")
    };
    assert_eq!(refused.code, reason::LIMITED);
    assert!(refused.retry_after > 0 && refused.message.contains("a minute"));
    assert_eq!(relay.relay.stats().signals, 2);
}

#[tokio::test]
async fn relayed_bytes_are_limited_for_each_peer() {
    let relay = relay_with(|config| config.limits.relayed_bytes_per_second = 1).await;
    let (mut one, mut two) = (relay.login(1).await, relay.login(2).await);
    let (_, mut a, b) = channel(&mut one, &mut two).await;
    // A bucket holds 64 KiB at least.
    for n in 0..100u8 {
        one.socket.send(one.relay, &a.pack(&[n; 1_000])).await;
    }
    relay
        .until(|stats| stats.relayed_packets + stats.dropped_packets == 100)
        .await;
    assert_eq!(relay.relay.stats().relayed_packets, 64);
    for n in 0..64u8 {
        assert_eq!(b.unpack(&two.packet().await), [n; 1_000]);
    }
}
