//! Writes the seeds in the tree anew, after a change of the wire:
//! `cargo run --manifest-path benches/fuzz/Cargo.toml --example seeds`. The layouts before the bytes
//! themselves are those of the targets' arguments.

use std::fs;
use std::io;
use std::path::Path;

use client::wire::{ChatFrame, Delivered, Message};
use p2p_net_proto::codec::{Message as _, encode};
use p2p_net_proto::probe::{Probe, ProbeKeys};
use p2p_net_proto::wire::{ChannelOpen, Hello, Ping, PresenceSnapshot, ToRelay, Welcome};
use p2p_net_proto::{
    ChannelEnd, Class, HEADER_LEN, Header, HeaderKey, Identity, PeerId, RelayAddress, Token,
    Transaction, nudge, seal, stun, tls,
};

fn main() -> io::Result<()> {
    let (me, other) = (
        Identity::from_secret([1; 32]),
        Identity::from_secret([2; 32]),
    );
    relay_frames(me.id())?;
    peer_frames()?;

    let token = Token::from_random([3; 16]);
    let address = format!("relay.example.org:3478#{}.{}", me.id(), token.reveal());
    address.parse::<RelayAddress>().expect("a relay address");
    seed("addresses", "relay", address.as_bytes())?;
    seed("addresses", "ipv6", b"[2001:db8::1]:443")?;
    seed("addresses", "peer", me.id().to_string().as_bytes())?;
    seed("addresses", "token", token.reveal().as_bytes())?;

    seed("stun", "request", &stun::request([7; 12]))?;
    seed(
        "stun",
        "answer4",
        &stun::answer([7; 12], ([192, 0, 2, 1], 4_242).into()),
    )?;
    seed(
        "stun",
        "answer6",
        &stun::answer([7; 12], ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 1).into()),
    )?;

    let key = HeaderKey::new([8; 16]);
    let mut packet = vec![0x40; HEADER_LEN + 64];
    let end = ChannelEnd(77);
    let header = Header {
        epoch: false,
        class: Class::Video,
        ecn: 1,
        fragment: false,
        end,
        counter: 5,
    };
    header.write(&key, &mut packet);
    seed(
        "relayed",
        "data",
        &[&[0; HEADER_LEN + 16], &packet[..]].concat(),
    )?;
    let challenge = nudge::challenge(end, [6; 8], &key);
    seed(
        "relayed",
        "challenge",
        &[&[0; HEADER_LEN + 16], &challenge[..]].concat(),
    )?;

    let mut keys = ProbeKeys::derive(&[3; 32], &me.id(), &other.id(), &[4; 16], &[5; 16]);
    let probe = keys.seal_probe(&Probe {
        transaction: Transaction(1),
        path: 2,
    });
    seed("probes", "probe", &[&[0; 64 + 8 + 4], &probe[..]].concat())?;

    // By somebody who is neither the sender nor the stranger of the target, which must refuse it.
    let third = Identity::from_secret([3; 32]);
    let sealed = seal(&third, &me.id(), 1, 7, b"an offer", [9; 32]).expect("good keys");
    let before = [&other.id().as_bytes()[..], &1u16.to_le_bytes()].concat();
    seed("sealed", "envelope", &[&before[..], &sealed].concat())?;

    let (certificate, _) = tls::certificate(&me).expect("a certificate");
    seed("certificates", "ed25519", &certificate)?;
    Ok(())
}

fn relay_frames(peer: PeerId) -> io::Result<()> {
    let hello = Hello {
        versions: vec![1],
        capabilities: vec!["ping".to_owned()],
        token: Some("a".repeat(26)),
    };
    let open = ChannelOpen {
        request: 1,
        to: peer,
        sealed: vec![1; 40],
        attest: true,
        flight: vec![vec![0x40; 30], vec![0xc0; 30]],
    };
    let welcome = Welcome {
        version: 1,
        capabilities: Vec::new(),
        observed: ([192, 0, 2, 1], 4_242).into(),
        alternate_port: Some(3_478),
        limits: p2p_net_proto::wire::Limits {
            channels: 256,
            signals_per_minute: 600,
            relayed_bytes_per_second: 0,
        },
    };
    let all = [
        ("hello", ToRelay::from(hello).encode()),
        ("open", ToRelay::from(open).encode()),
        ("ping", encode(&Ping { nonce: 4 })),
        ("welcome", encode(&welcome)),
        (
            "presence",
            encode(&PresenceSnapshot {
                peers: vec![peer; 3],
                more: false,
            }),
        ),
    ];
    for (name, frame) in all {
        // How many bytes are pushed at a time.
        seed(
            "relay_frames",
            name,
            &[&[9], &frame.expect("it fits")[..]].concat(),
        )?;
    }
    Ok(())
}

fn peer_frames() -> io::Result<()> {
    let id = "0198a5f0-0000-7000-8000-000000000001"
        .parse()
        .expect("an id");
    let message = Message {
        id,
        text: "grüße".to_owned(),
        sent_at_millis: 1,
        reply_to: None,
    };
    for (name, frame, kind) in [
        ("message", ChatFrame::Message(message), Message::KIND),
        (
            "delivered",
            ChatFrame::Delivered(Delivered { id }),
            Delivered::KIND,
        ),
    ] {
        let frame = frame.encode().expect("it fits");
        seed(
            "peer_frames",
            name,
            &[&kind.to_le_bytes(), &frame[6..]].concat(),
        )?;
    }
    Ok(())
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}
