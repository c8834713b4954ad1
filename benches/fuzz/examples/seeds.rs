//! Writes the seeds in the tree anew, after a change of the wire:
//! `cargo run --manifest-path benches/fuzz/Cargo.toml --example seeds`. The layouts before the bytes
//! themselves are those of the targets' arguments.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::wire::{ChatFrame, Delivered, Message};
use media::encode::{
    Content, PictureConfig, PictureEncoder, Redundancy, SoundConfig, SoundEncoder,
};
use media::packet::{
    AudioBody, Body, CoveredFrame, FrameInfo, ParityBody, Report, Sound, StreamReport, VideoBody,
    WireClock, Writer,
};
use media::{AudioTime, CAMERA, Picture, PictureSize, Samples, VideoTime};
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
    media_packets()?;
    media_reports()?;
    media_pictures()?;
    media_sound()?;

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

fn media_packets() -> io::Result<()> {
    let sound = |number: u64| Sound {
        number,
        time: AudioTime::from_ticks(number * 480),
        samples: 480,
        data: Bytes::from_static(&[0x78; 40]),
        voice: true,
        silence: false,
    };
    let frame = |number: u64, fragments: u16| FrameInfo {
        stream: CAMERA,
        number,
        time: VideoTime::from_ticks(number * 3_000),
        fragments,
        key: number == 0,
        layer: 0,
        discardable: false,
        parameter_sets: number == 0,
        long_term: true,
        reference_distance: 1,
    };
    let covered = |number: u64| CoveredFrame {
        info: frame(number, 3),
        length: 250,
    };
    let all = [
        (
            "audio",
            Body::Audio(AudioBody {
                primary: sound(9),
                copies: vec![sound(8), sound(6)],
            }),
        ),
        (
            "video",
            Body::Video(VideoBody {
                frame: frame(0, 9),
                fragment: 3,
                attempt: 1,
                data: Bytes::from_static(&[1; 84]),
            }),
        ),
        (
            "parity",
            Body::Parity(ParityBody {
                frames: vec![covered(4), covered(6), covered(7)],
                first_fragment: 1,
                data_shards: 8,
                parity_shards: 2,
                index: 1,
                shard: Bytes::from_static(&[5; 84]),
            }),
        ),
        ("report", Body::Report(report())),
        (
            "probe",
            Body::Probe {
                cluster: 3,
                padding: 20,
            },
        ),
        (
            "path_mark",
            Body::PathMark {
                epoch: 1,
                reason: 2,
            },
        ),
    ];
    let start = Instant::now();
    let mut writer = Writer::new(WireClock::new(start, 77));
    for (name, body) in all {
        let packet = writer.write(start, 5, Duration::from_millis(9), &body);
        seed("media_packets", name, &packet.expect("possible"))?;
    }
    Ok(())
}

fn report() -> Report {
    let at = |back: u64| Some(1_000_000 - back * 250);
    Report {
        base: 1,
        time_micros: 1_000_000,
        echoed_send_time: 9,
        hold_micros: 2_000,
        ce_marks: 1,
        arrivals: vec![at(300), None, at(20), at(21), None, at(1)],
        streams: vec![StreamReport {
            stream: CAMERA,
            refresh_wanted: true,
            slow_down: false,
            last_decoded: Some(3),
            first_missing: Some(4),
            buffer_millis: 20,
        }],
    }
}

/// Scripts of the target: a first number, then operations.
fn media_reports() -> io::Result<()> {
    // Nine packets of which two are lost, 25 ms, a report with sound, 5 ms.
    let round = [0, 9, 0b1110_1101, 1, 0, 250, 2, 1, 1, 0, 50];
    let honest = [&[0xff, 0xf0][..], &round, &round, &round, &[8, 2], &round].concat();
    seed("media_reports", "honest", &honest)?;
    // A change of path with packets of both on the way, and each field changed once.
    let changed = [
        &[0, 0][..],
        &round,
        &[6, 1, 0],
        &round,
        &[3, 0, 0, 40],
        &[3, 1, 0, 0, 3, 232, 4],
        &[3, 2, 0, 1, 2, 3],
        &[3, 3, 0, 1, 2, 3],
        &[3, 4, 0, 30],
        &[3, 5, 0, 200],
        &[5, 0x40, 0, 0, 0, 0, 9],
        &[7, 0, 50, 0, 0x26, 0x25, 0xa0, 0, 1, 0, 1],
    ]
    .concat();
    seed("media_reports", "changed", &changed)?;
    let start = Instant::now();
    let mut writer = Writer::new(WireClock::new(start, 0));
    let packet = writer.write(start, 0, Duration::ZERO, &Body::Report(report()));
    let packet = packet.expect("possible");
    let len = (packet.len() as u16 - 8).to_be_bytes();
    let made_up = [&[0, 0][..], &round, &[4], &len, &packet[8..], &round].concat();
    seed("media_reports", "made_up", &made_up)
}

/// Scripts of the target: numbers, a length, an access unit.
fn media_pictures() -> io::Result<()> {
    let size = PictureSize::new(64, 48).expect("a size");
    for (name, layered, long_term) in [
        ("plain", false, false),
        ("layers", true, false),
        ("recovery", false, true),
    ] {
        let mut encoder = PictureEncoder::new(PictureConfig {
            size,
            content: Content::Camera,
            bits_per_second: 60_000,
            frames_per_second: 15.0,
            layered,
            long_term,
            first_frame: 8,
        })
        .expect("an encoder");
        let mut script = Vec::new();
        for at in 0..6u8 {
            let time = VideoTime::from_ticks(u64::from(at) * 6_000);
            let mut picture = Picture::black(size, time);
            for (place, luma) in picture.planes_mut()[0].iter_mut().enumerate() {
                *luma = (place as u8).wrapping_mul(7).wrapping_add(9 * at);
            }
            if at == 4 && long_term {
                encoder.request_recovery(9);
            }
            let Some(frame) = encoder.encode(&picture).expect("a frame") else {
                continue;
            };
            if frame.long_term {
                encoder.ltr_feedback(8 + u64::from(at));
            }
            script.push(frame.reference_distance);
            script.extend((frame.data.len() as u16).to_be_bytes());
            script.extend(&frame.data[..]);
        }
        seed("media_pictures", name, &script)?;
    }
    Ok(())
}

/// Scripts of the target: an operation, a length, a packet.
fn media_sound() -> io::Result<()> {
    let copy = Redundancy::Copy { expected_loss: 0.2 };
    let deep = Redundancy::Deep {
        expected_loss: 0.2,
        tens: 50,
    };
    for (name, redundancy, block) in [
        ("plain", Redundancy::None, 480),
        ("copies", copy, 960),
        ("deep", deep, 960),
    ] {
        let mut encoder = SoundEncoder::new(SoundConfig {
            bits_per_second: 32_000,
            redundancy,
            ..SoundConfig::default()
        })
        .expect("an encoder");
        let mut script = Vec::new();
        for at in 0..12u64 {
            // A buzz like a voice's, so that the codec for voice is chosen.
            let from = at * block;
            let tone = (from..from + block)
                .map(|sample| ((sample % 400) as f32 / 400.0 - 0.5) * 0.6)
                .collect();
            let block = Samples::new(1, AudioTime::from_ticks(from), tone).expect("samples");
            let packet = encoder.encode(&block, true).expect("a packet");
            let len = (packet.data.len() as u16).to_be_bytes();
            if at % 4 == 3 {
                // Lost: bridged, and then taken from this packet.
                script.extend([3 * 8 + 2, 0, 0, 3 * 8 + 1]);
                script.extend(len.iter().chain(&packet.data));
            }
            script.push(0);
            script.extend(len.iter().chain(&packet.data));
        }
        seed("media_sound", name, &script)?;
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
