//! What is written is what the page on packets says, and is read back; what is damaged is refused.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::CAMERA;

fn write(body: &Body) -> Result<Bytes, WriteError> {
    let start = Instant::now();
    let mut writer = Writer::new(WireClock::new(start, 0));
    writer.write(
        start + Duration::from_micros(0x12_3456 * 4),
        0xffff_0102,
        Duration::from_millis(7),
        body,
    )
}

fn sound(number: u64, data: &'static [u8]) -> Sound {
    Sound {
        number,
        time: AudioTime::from_ticks(0x1_0000_0000 + number * 480),
        samples: 480,
        data: Bytes::from_static(data),
        voice: true,
        silence: false,
    }
}

fn frame(number: u64, fragments: u16) -> FrameInfo {
    FrameInfo {
        stream: CAMERA,
        number,
        time: VideoTime::from_ticks(0x1_0102_0304 + (number & 0xffff) * 3_000),
        fragments,
        key: true,
        layer: 2,
        discardable: false,
        parameter_sets: true,
        long_term: false,
        reference_distance: 9,
    }
}

fn parity() -> ParityBody {
    ParityBody {
        frames: vec![
            CoveredFrame {
                info: frame(0x1_fffe, 3),
                length: 12,
            },
            CoveredFrame {
                info: frame(0x2_0000, 2),
                length: 7,
            },
        ],
        first_fragment: 1,
        data_shards: 4,
        parity_shards: 2,
        index: 1,
        shard: Bytes::from_static(&[9, 8, 7, 6]),
    }
}

fn report() -> Report {
    Report {
        base: 0x5_fffe,
        time_micros: 1_000_000,
        echoed_send_time: 0xab_cdef,
        hold_micros: 1_700,
        ce_marks: 3,
        arrivals: vec![
            Some(999_000),
            None,
            Some(999_250),
            Some(967_250),
            Some(999_000),
            None,
            None,
            None,
            Some(1_000_000),
        ],
        streams: vec![StreamReport {
            stream: CAMERA,
            refresh_wanted: true,
            slow_down: false,
            last_decoded: Some(0x1_0203),
            first_missing: None,
            buffer_millis: 300,
        }],
    }
}

#[test]
fn the_bytes_are_those_of_the_page() {
    let audio = Body::Audio(AudioBody {
        primary: sound(0x1_0001, b"new"),
        copies: vec![sound(0xffff, b"older"), sound(0xfffe, b"old")],
    });
    assert_eq!(
        write(&audio).expect("possible")[..],
        [
            // Version 0, kind 0; stream; sequence; send time; age.
            &[0, 0, 1, 2, 0x12, 0x34, 0x56, 7][..],
            // Time 480 * 0x10001; number; two copies, 10 ms, voice; 2 back, 5 bytes; 3 back, 3 bytes.
            &[0x01, 0xe0, 0x01, 0xe0, 0, 1, 0b1001_0100, 0x20, 5, 0x30, 3],
            b"olderoldnew",
        ]
        .concat()
    );

    let video = Body::Video(VideoBody {
        frame: frame(0x1_0000, 1_024),
        fragment: 1_023,
        attempt: 7,
        data: Bytes::from_static(b"slice"),
    });
    assert_eq!(
        write(&video).expect("possible")[..],
        [
            &[1 << 3, 1, 1, 2, 0x12, 0x34, 0x56, 7][..],
            // Time; number; fragment 1,023 of 1,024; key, layer 2, sets, third resend; distance.
            &[1, 2, 3, 4, 0, 0, 0x3f, 0xf3, 0xff, 0b1100_1011, 9],
            b"slice",
        ]
        .concat()
    );

    assert_eq!(
        write(&Body::Parity(parity())).expect("possible")[8..],
        [
            &[0xff, 0xfe, 1, 0, 1, 4, 2, 1, 0, 4][..],
            // The first frame's time lies 0xfffe frames ahead of the next one's.
            &[0x0c, 0xb9, 0xeb, 0x94, 0b1100_1000, 9, 0, 3, 0, 0, 12],
            // One frame lies between it and the next.
            &[1, 2, 3, 4, 0b1100_1001, 9, 0, 2, 0, 0, 7],
            &[9, 8, 7, 6],
        ]
        .concat()
    );

    assert_eq!(
        write(&Body::Report(report())).expect("possible")[8..],
        [
            // Base, count, 1 s in 4 µs, echo, 6.8 steps held, marks.
            &[
                0xff, 0xfe, 0, 9, 0x03, 0xd0, 0x90, 0xab, 0xcd, 0xef, 0, 6, 3
            ][..],
            &[0b1011_1000, 0b1000_0000],
            // -1 ms, +250 µs, -32 ms by escape, +31.75 ms, +1 ms.
            &[0xfc, 1, 0x80, 0xff, 0x80, 0x7f, 4],
            &[1, 0b1010_0000, 2, 3, 0, 0, 1, 0x2c],
        ]
        .concat()
    );

    let probe = Body::Probe {
        cluster: 5,
        padding: 3,
    };
    assert_eq!(write(&probe).expect("possible")[..2], [4 << 3, 0]);
    assert_eq!(write(&probe).expect("possible")[8..], [5, 0, 0, 0]);
    let mark = Body::PathMark {
        epoch: 4,
        reason: 2,
    };
    assert_eq!(write(&mark).expect("possible")[0], 5 << 3);
    assert_eq!(write(&mark).expect("possible")[8..], [4, 2]);
}

#[test]
fn a_newer_peer_is_told_from_a_broken_one() {
    let parse = |bytes: &[u8]| parse(&Bytes::copy_from_slice(bytes)).map(|_| ());
    assert_eq!(parse(&[]), Err(ParseError::Short));
    assert_eq!(parse(&[0x40; 40]), Err(ParseError::Version(1)));
    assert_eq!(parse(&[0xc0]), Err(ParseError::Version(3)));
    assert_eq!(parse(&[6 << 3; 40]), Err(ParseError::Kind(6)));
    assert_eq!(parse(&[7 << 3]), Err(ParseError::Kind(7)));
    assert!(ParseError::Kind(7).is_newer_peer());
    assert!(!ParseError::Short.is_newer_peer());
}

#[test]
fn shorter_than_declared_is_nothing() {
    let bodies = [
        Body::Audio(AudioBody {
            primary: sound(9, b"p"),
            copies: vec![sound(8, b"copy")],
        }),
        Body::Video(VideoBody {
            frame: frame(7, 1),
            fragment: 0,
            attempt: 0,
            data: Bytes::from_static(b"f"),
        }),
        Body::Parity(parity()),
        Body::Report(report()),
        Body::Probe {
            cluster: 1,
            padding: 0,
        },
        Body::PathMark {
            epoch: 1,
            reason: 1,
        },
    ];
    for body in bodies {
        let whole = write(&body).expect("possible");
        assert!(parse(&whole).is_ok(), "{body:?}");
        // How many streams a report speaks of, only its length says.
        let good = matches!(body, Body::Report(_)).then(|| whole.len() - 8);
        for len in (0..whole.len()).filter(|len| Some(*len) != good) {
            assert!(parse(&whole.slice(..len)).is_err(), "{len} of {body:?}");
        }
    }
}

/// Sets one byte (or several) of a good packet and says what the parser finds.
fn damaged(body: &Body, at: usize, bytes: &[u8]) -> ParseError {
    let mut packet = write(body).expect("possible").to_vec();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    parse(&packet.into()).expect_err("damaged")
}

#[test]
fn impossible_fields_are_refused() {
    let field = |error: ParseError| match error {
        ParseError::Field { field, .. } => field,
        other => panic!("{other}"),
    };
    let audio = Body::Audio(AudioBody {
        primary: sound(9, b"p"),
        copies: vec![sound(8, b"copy")],
    });
    assert_eq!(field(damaged(&audio, 15, &[0x00, 4])), "copy offset");
    assert_eq!(field(damaged(&audio, 15, &[0x10, 0])), "copy length");
    assert_eq!(field(damaged(&audio, 15, &[0x14, 0xfc])), "copy length");
    assert_eq!(damaged(&audio, 15, &[0x10, 6]), ParseError::Short);
    // A copy that leaves nothing for the primary.
    assert_eq!(field(damaged(&audio, 15, &[0x10, 5])), "length");

    let video = Body::Video(VideoBody {
        frame: frame(7, 2),
        fragment: 0,
        attempt: 0,
        data: Bytes::from_static(b"even"),
    });
    assert_eq!(field(damaged(&video, 14, &[0, 0x04, 0x00])), "count");
    assert_eq!(field(damaged(&video, 14, &[0, 0x20, 0x01])), "fragment");
    let odd = write(&video).expect("possible");
    assert_eq!(
        field(parse(&odd.slice(..odd.len() - 1)).expect_err("damaged")),
        "length"
    );

    let parity = Body::Parity(parity());
    for (at, bytes, name) in [
        (10, &[3][..], "frame count"),
        (11, &[0, 3], "range"),
        (13, &[0], "range"),
        (13, &[5], "range"),
        (13, &[2], "range"),
        (13, &[65], "range"),
        (14, &[33], "index"),
        (15, &[2], "index"),
        (16, &[0, 0], "shard size"),
        (16, &[0, 3], "shard size"),
        (16, &[0, 2], "frame length"),
        (22, &[1], "gap"),
        (24, &[0, 0], "frame length"),
        (24, &[4, 1], "frame length"),
        (26, &[0, 0, 0], "frame length"),
        (26, &[0x10, 0, 1], "frame length"),
        (26, &[0, 0, 8], "frame length"),
    ] {
        assert_eq!(field(damaged(&parity, at, bytes)), name, "{at} {bytes:?}");
    }

    let report = Body::Report(report());
    assert_eq!(field(damaged(&report, 10, &[2, 1])), "count");
    let short = write(&report).expect("possible");
    assert_eq!(
        field(parse(&short.slice(..short.len() - 1)).expect_err("damaged")),
        "length"
    );
    let mut many = short.to_vec();
    many.extend_from_slice(&[0; 8 * 8]);
    assert_eq!(field(parse(&many.into()).expect_err("damaged")), "length");
}

#[test]
fn what_cannot_be_read_cannot_be_written() {
    let audio =
        |primary: Sound, copies: Vec<Sound>| write(&Body::Audio(AudioBody { primary, copies }));
    let odd = Sound {
        samples: 481,
        ..sound(20, b"a")
    };
    assert_eq!(audio(odd, vec![]), Err(WriteError::Duration(481)));
    assert_eq!(
        audio(sound(20, b""), vec![]),
        Err(WriteError::SoundLength(0))
    );
    assert_eq!(
        audio(sound(20, &[0; 1_276]), vec![]),
        Err(WriteError::SoundLength(1_276))
    );
    let refused = |copy: Sound| {
        assert_eq!(audio(sound(20, b"a"), vec![copy]), Err(WriteError::Copies));
    };
    refused(sound(20, b"b"));
    refused(sound(21, b"b"));
    refused(sound(4, b"b"));
    refused(Sound {
        samples: 960,
        ..sound(19, b"b")
    });
    refused(Sound {
        time: AudioTime::from_ticks(5),
        ..sound(19, b"b")
    });
    assert_eq!(
        audio(sound(20, b"a"), vec![sound(19, b"b"); 4]),
        Err(WriteError::Copies)
    );

    let video = |frame: FrameInfo, fragment: u16, data: &'static [u8]| {
        write(&Body::Video(VideoBody {
            frame,
            fragment,
            attempt: 0,
            data: Bytes::from_static(data),
        }))
    };
    assert_eq!(video(frame(1, 0), 0, b"ab"), Err(WriteError::Frame));
    assert_eq!(video(frame(1, 1_025), 0, b"ab"), Err(WriteError::Frame));
    assert_eq!(video(frame(1, 2), 2, b"ab"), Err(WriteError::Fragment));
    assert_eq!(video(frame(1, 2), 0, b"odd"), Err(WriteError::Fragment));
    assert_eq!(video(frame(1, 2), 1, b""), Err(WriteError::Fragment));

    let refused = |change: fn(&mut ParityBody)| {
        let mut body = parity();
        change(&mut body);
        assert_eq!(write(&Body::Parity(body)), Err(WriteError::Parity));
    };
    refused(|body| body.frames.clear());
    refused(|body| body.frames.extend_from_within(..));
    refused(|body| body.frames[1].info.number += 3);
    refused(|body| body.frames[1].info.number -= 2);
    refused(|body| body.frames[1].info.stream = crate::SCREEN);
    refused(|body| body.index = 2);
    refused(|body| body.shard = Bytes::from_static(b"odd"));
    refused(|body| body.data_shards = 5);
    refused(|body| body.frames[0].length = 13);

    let mut long = report();
    long.arrivals = vec![None; 513];
    assert_eq!(write(&Body::Report(long)), Err(WriteError::Report));
    let mut wide = report();
    wide.streams = vec![wide.streams[0]; 9];
    assert_eq!(write(&Body::Report(wide)), Err(WriteError::Report));
}

#[test]
fn the_writer_uses_its_buffer_again() {
    let start = Instant::now();
    let mut writer = Writer::new(WireClock::new(start, 0));
    let mut addresses = std::collections::HashSet::new();
    for sequence in 0..2_000 {
        let body = Body::Probe {
            cluster: 1,
            padding: 1_100,
        };
        let packet = writer
            .write(start, sequence, Duration::ZERO, &body)
            .expect("possible");
        assert_eq!(packet.len(), 1_109);
        addresses.insert(packet.as_ptr() as usize >> 17);
    }
    // 2.2 MB went through a buffer or two.
    assert!(addresses.len() <= 4, "{}", addresses.len());
}

#[test]
fn a_stream_must_be_open_and_fit() {
    let mut receiver = Receiver::default();
    let packet = write(&Body::Video(VideoBody {
        frame: frame(7, 1),
        fragment: 0,
        attempt: 0,
        data: Bytes::from_static(b"f"),
    }))
    .expect("possible");
    let (header, raw) = parse(&packet).expect("good");
    assert_eq!(
        receiver.complete(&header, raw.clone()),
        Err(ReceiveError::UnknownStream(CAMERA))
    );
    assert!(receiver.open(CAMERA, StreamFormat::Audio));
    assert_eq!(
        receiver.complete(&header, raw.clone()),
        Err(ReceiveError::WrongFormat(CAMERA))
    );
    assert!(receiver.open(CAMERA, StreamFormat::Video));
    let whole = receiver.complete(&header, raw).expect("open now");
    assert_eq!(whole.age, Some(Duration::from_millis(7)));
    for stream in 10..17 {
        assert!(receiver.open(StreamId(stream), StreamFormat::Audio));
    }
    assert!(!receiver.open(StreamId(17), StreamFormat::Audio));
    receiver.close(StreamId(10));
    assert!(receiver.open(StreamId(17), StreamFormat::Audio));
}

/// Five seconds before every counter and clock wraps until five seconds after, in order and not.
#[test]
fn everything_survives_its_wraps() {
    let start = Instant::now();
    let mut writer = Writer::new(WireClock::new(start, (1 << 26) - 5_000_000));
    let mut receiver = Receiver::default();
    receiver.open(AUDIO, StreamFormat::Audio);
    receiver.open(CAMERA, StreamFormat::Video);
    let sounds = (1u64 << 16) - 500;
    let pictures = (1u64 << 16) - 150;
    let ticks = (1u64 << 32) - 5 * 48_000;
    let video_ticks = (1u64 << 32) - 5 * 90_000;
    let mut datagrams = Vec::new();
    for at in 0..1_000u64 {
        let now = start + Duration::from_millis(10 * at);
        let one = |number: u64| Sound {
            time: AudioTime::from_ticks(ticks + (number - sounds) * 480),
            number,
            ..sound(0, b"s")
        };
        let number = sounds + at;
        let body = Body::Audio(AudioBody {
            primary: one(number),
            copies: if at > 0 {
                vec![one(number - 1)]
            } else {
                vec![]
            },
        });
        let age = Duration::from_millis(at / 3);
        datagrams.push((at, writer.write(now, at, age, &body).expect("possible")));
        if at % 3 == 0 {
            let mut info = frame(pictures + at / 3, 1);
            info.time = VideoTime::from_ticks(video_ticks + at * 900);
            let body = Body::Video(VideoBody {
                frame: info,
                fragment: 0,
                attempt: 1,
                data: Bytes::from_static(b"v"),
            });
            datagrams.push((at, writer.write(now, at, age, &body).expect("possible")));
        }
    }
    // Neighbours overtake each other.
    for pair in datagrams.chunks_exact_mut(2) {
        pair.swap(0, 1);
    }
    let (mut sent, mut sound_offset, mut picture_offset) = (None, None, None);
    for (at, datagram) in datagrams {
        let (header, raw) = parse(&datagram).expect("good");
        let packet = receiver.complete(&header, raw).expect("open");
        let origin = packet.sent_micros - at * 10_000;
        assert_eq!(*sent.get_or_insert(origin), origin);
        match packet.body {
            Body::Audio(audio) => {
                let number = audio.primary.number - at;
                let time = audio.primary.time.ticks() - at * 480;
                assert_eq!(*sound_offset.get_or_insert((number, time)), (number, time));
                for copy in audio.copies {
                    assert_eq!(copy.number + 1, audio.primary.number);
                    assert_eq!(copy.time.ticks() + 480, audio.primary.time.ticks());
                }
            }
            Body::Video(video) => {
                let number = video.frame.number - at / 3;
                let time = video.frame.time.ticks() - at * 900;
                assert_eq!(
                    *picture_offset.get_or_insert((number, time)),
                    (number, time)
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

fn a_frame() -> impl Strategy<Value = FrameInfo> {
    (
        0u64..1 << 20,
        0u64..1 << 40,
        1u16..=1_024,
        any::<[bool; 4]>(),
        0u8..4,
        any::<u8>(),
    )
        .prop_map(
            |(number, ticks, fragments, flags, layer, distance)| FrameInfo {
                stream: CAMERA,
                number,
                time: VideoTime::from_ticks(ticks),
                fragments,
                key: flags[0],
                layer,
                discardable: flags[1],
                parameter_sets: flags[2],
                long_term: flags[3],
                reference_distance: distance,
            },
        )
}

fn some_bytes(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 1..=most).prop_map(Bytes::from)
}

fn a_video() -> impl Strategy<Value = Body> {
    (a_frame(), any::<u16>(), 0u8..4, some_bytes(1_200)).prop_map(
        |(frame, fragment, attempt, data)| {
            let fragment = fragment % frame.fragments;
            let data = if data.len() % 2 == 1 && fragment + 1 < frame.fragments {
                [&data[..], &[0]].concat().into()
            } else {
                data
            };
            Body::Video(VideoBody {
                frame,
                fragment,
                attempt,
                data,
            })
        },
    )
}

fn an_audio() -> impl Strategy<Value = Body> {
    (
        (100u64..1 << 20, 1u64 << 20..1 << 40, 0usize..8),
        any::<[bool; 2]>(),
        some_bytes(400),
        prop::collection::vec((1u64..16, some_bytes(300)), 0..4),
    )
        .prop_map(|((number, ticks, code), [voice, silence], data, copies)| {
            let samples = [120u32, 240, 480, 960, 1_920, 2_880, 3_840, 5_760][code];
            let one = |back: u64, data: Bytes, silence: bool| Sound {
                number: number - back,
                time: AudioTime::from_ticks(ticks - back * u64::from(samples)),
                samples,
                silence,
                data,
                voice,
            };
            Body::Audio(AudioBody {
                primary: one(0, data, silence),
                copies: copies
                    .into_iter()
                    .map(|(back, data)| {
                        let silence = data.len() <= 2;
                        one(back, data, silence)
                    })
                    .collect(),
            })
        })
}

fn a_report() -> impl Strategy<Value = Body> {
    let arrivals = prop::collection::vec(prop::option::of(0u64..28_000), 0..=512);
    let streams = prop::collection::vec(
        (
            any::<u8>(),
            any::<[bool; 2]>(),
            any::<[Option<u16>; 2]>(),
            any::<u16>(),
        ),
        0..=8,
    );
    (
        any::<u16>(),
        (20_000u64..1 << 17, 0u32..1 << 24, any::<u16>(), any::<u8>()),
        arrivals,
        streams,
    )
        .prop_map(|(base, (time, echo, hold, ce_marks), arrivals, streams)| {
            let time_micros = time * 500;
            Body::Report(Report {
                base: u64::from(base),
                time_micros,
                echoed_send_time: echo,
                hold_micros: u64::from(hold) * 250,
                ce_marks,
                arrivals: arrivals
                    .into_iter()
                    .map(|steps| steps.map(|steps| time_micros - steps * 250))
                    .collect(),
                streams: streams
                    .into_iter()
                    .map(
                        |(stream, [refresh, slow], [last, missing], buffer)| StreamReport {
                            stream: StreamId(stream),
                            refresh_wanted: refresh,
                            slow_down: slow,
                            last_decoded: last.map(u64::from),
                            first_missing: missing.map(u64::from),
                            buffer_millis: buffer,
                        },
                    )
                    .collect(),
            })
        })
}

/// As far as the wire tells: numbers and times begin anew at the receiver.
fn settled(body: Body) -> Body {
    let frame = |info: &mut FrameInfo| {
        info.number &= 0xffff;
        info.time = VideoTime::from_ticks(u64::from(info.time.wire()));
    };
    match body {
        Body::Audio(mut audio) => {
            for sound in audio.copies.iter_mut().chain([&mut audio.primary]) {
                sound.number &= 0xffff;
                sound.time = AudioTime::from_ticks(u64::from(sound.time.wire()));
            }
            Body::Audio(audio)
        }
        Body::Video(mut video) => {
            frame(&mut video.frame);
            Body::Video(video)
        }
        Body::Parity(mut parity) => {
            parity
                .frames
                .iter_mut()
                .for_each(|covered| frame(&mut covered.info));
            Body::Parity(parity)
        }
        Body::Report(mut report) => {
            report.arrivals = report
                .arrivals
                .iter()
                .map(|arrival| arrival.map(|micros| report.time_micros - micros))
                .collect();
            report.time_micros &= (1 << 26) - 1;
            Body::Report(report)
        }
        other => other,
    }
}

proptest! {
    #[test]
    fn bodies_come_back(body in prop_oneof![a_video(), an_audio(), a_report()]) {
        let packet = write(&body).expect("possible");
        let (header, raw) = parse(&packet).expect("good");
        if let Body::Report(report) = &body {
            let mut before = report.time_micros;
            let deltas: usize = report.arrivals.iter().flatten().map(|arrival| {
                let len = delta_len(before, *arrival);
                before = *arrival;
                len
            }).sum();
            let len = report_len(report.arrivals.len(), deltas, report.streams.len());
            prop_assert_eq!(len, packet.len());
        }
        let mut receiver = Receiver::default();
        let format = if matches!(body, Body::Audio(_)) {
            StreamFormat::Audio
        } else {
            StreamFormat::Video
        };
        receiver.open(header.stream, format);
        let whole = receiver.complete(&header, raw).expect("open");
        prop_assert_eq!(settled(whole.body), settled(body));
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind << 3;
        }
        if let Ok((header, raw)) = parse(&bytes.into()) {
            let mut receiver = Receiver::default();
            let format = if kind == 0 { StreamFormat::Audio } else { StreamFormat::Video };
            receiver.open(header.stream, format);
            let whole = receiver.complete(&header, raw).expect("open");
            prop_assert!(write(&whole.body).is_ok());
        }
    }
}
