//! Opus: rates, silence, lengths, and what hides a loss.

use std::cell::Cell;

use media::decode::OpusDecoder;
use media::encode::{MAX_SOUND_PACKET, Redundancy, SoundConfig, SoundEncodeError, SoundEncoder};
use media::jitter::SoundDecoder;
use media::{AudioTime, EncodedSound, Samples};

use crate::harness::Random;

/// Something like speech: a voice of changing pitch with overtones, in syllables.
fn speech(samples: usize) -> Vec<f32> {
    let mut phase = 0.0f32;
    let mut random = Random(1);
    (0..samples)
        .map(|at| {
            let time = at as f32 / 48_000.0;
            phase += (130.0 + 40.0 * (3.0 * time).sin()) / 48_000.0;
            let overtones = (1..12).map(|n| {
                let formant = 1.0 / (1.0 + (n as f32 - 4.0 - 2.0 * (5.0 * time).sin()).powi(2));
                formant * (phase.fract() * n as f32 * std::f32::consts::TAU).sin()
            });
            let syllable = (4.0 * std::f32::consts::PI * time).sin().abs().sqrt();
            let breath = (random.next() % 1_000) as f32 / 1_000.0 - 0.5;
            syllable * (0.25 * overtones.sum::<f32>() + 0.01 * breath)
        })
        .collect()
}

fn block(sound: &[f32], at: usize, len: usize) -> Samples<f32> {
    let time = AudioTime::from_ticks(at as u64);
    Samples::new(1, time, sound[at..at + len].to_vec()).expect("a block")
}

fn encoder(config: SoundConfig) -> SoundEncoder {
    SoundEncoder::new(config).expect("an encoder")
}

fn decoder() -> OpusDecoder {
    OpusDecoder::new().expect("a decoder")
}

fn packets(encoder: &mut SoundEncoder, sound: &[f32], len: usize) -> Vec<EncodedSound> {
    (0..sound.len() / len)
        .map(|index| {
            let packet = encoder.encode(&block(sound, index * len, len), true);
            packet.expect("it encodes")
        })
        .collect()
}

/// Signal to noise, decibels, of `heard`, which is late by the codec's look-ahead.
fn quality(sound: &[f32], heard: &[f32]) -> f32 {
    let late = SoundEncoder::LOOK_AHEAD as usize;
    let pairs = sound.iter().zip(&heard[late..]);
    let (signal, noise) = pairs.fold((0.0, 0.0), |(signal, noise), (&said, &heard)| {
        (signal + said * said, noise + (said - heard).powi(2))
    });
    10.0 * (signal / noise).log10()
}

#[test]
fn sound_survives_at_each_length_of_frame() {
    let sound = speech(48_000 * 2);
    for (len, bits) in [
        (480, 64_000),
        (960, 48_000),
        (1_920, 48_000),
        (2_880, 48_000),
    ] {
        let mut encoder = encoder(SoundConfig {
            bits_per_second: bits,
            ..SoundConfig::default()
        });
        let mut decoder = decoder();
        let mut heard = Vec::new();
        for packet in packets(&mut encoder, &sound, len) {
            assert_eq!(packet.samples as usize, len);
            assert!(packet.voice && packet.data.len() <= MAX_SOUND_PACKET);
            decoder
                .decode(&packet.data, &mut heard)
                .expect("it decodes");
        }
        assert_eq!(heard.len(), sound.len() / len * len);
        let quality = quality(&sound, &heard);
        println!("{len} samples: {quality:.1} dB");
        assert!(quality > 6.0, "{len} samples: {quality:.1} dB");
    }
}

#[test]
fn the_length_may_change_with_each_packet() {
    let sound = speech(48_000);
    let mut encoder = encoder(SoundConfig::default());
    let (mut decoder, mut heard, mut at) = (decoder(), Vec::new(), 0);
    for len in [480, 960, 480, 1_920, 960, 2_880, 480].into_iter().cycle() {
        if at + len > sound.len() {
            break;
        }
        let packet = encoder
            .encode(&block(&sound, at, len), false)
            .expect("it encodes");
        assert_eq!(packet.time.ticks(), at as u64);
        at += len;
        decoder
            .decode(&packet.data, &mut heard)
            .expect("it decodes");
        assert_eq!(heard.len(), at);
    }
    assert!(quality(&sound[..at - 480], &heard) > 5.0);
}

#[test]
fn the_rate_holds_and_follows() {
    let sound = speech(48_000 * 4);
    let mut encoder = encoder(SoundConfig::default());
    for (bits, len) in [(32_000, 960), (16_000, 960), (48_000, 480), (24_000, 1_920)] {
        encoder.set_rate(bits).expect("a rate");
        let packets = packets(&mut encoder, &sound, len);
        let bytes: usize = packets.iter().map(|packet| packet.data.len()).sum();
        let got = bytes as f64 * 8.0 / 4.0 / f64::from(bits);
        println!("{bits} bit/s in frames of {len}: {got:.2} of it");
        assert!((0.75..1.25).contains(&got), "{got:.2} of {bits} bit/s");
    }
}

#[test]
fn silence_costs_next_to_nothing() {
    let mut encoder = encoder(SoundConfig::default());
    let silence = vec![0.0; 48_000 * 2];
    let packets = packets(&mut encoder, &silence, 960);
    let silent = packets[50..].iter().filter(|packet| packet.silence).count();
    assert!(silent >= 40, "{silent} of 50");
    let bytes: usize = packets[50..].iter().map(|packet| packet.data.len()).sum();
    assert!(bytes < 50 * 8, "{bytes} bytes a second");
    let mut heard = Vec::new();
    let mut decoder = decoder();
    for packet in &packets {
        decoder
            .decode(&packet.data, &mut heard)
            .expect("it decodes");
    }
    assert!(heard.iter().all(|value| value.abs() < 0.001));

    encoder.set_discontinuous(false).expect("off");
    let packets = self::packets(&mut encoder, &silence, 960);
    assert!(packets[50..].iter().all(|packet| !packet.silence));
}

/// Every tenth packet is lost, and `hide` puts something in its place; gives by how many decibels that is too
/// loud or too soft, in the mean.
fn losses(
    packets: &[EncodedSound],
    hide: impl Fn(&mut OpusDecoder, &EncodedSound, &mut Vec<f32>),
) -> f32 {
    let (mut good, mut whole) = (decoder(), Vec::new());
    let (mut decoder, mut heard) = (decoder(), Vec::new());
    let (mut off, mut count) = (0.0, 0.0);
    for (index, packet) in packets.iter().enumerate() {
        good.decode(&packet.data, &mut whole).expect("it decodes");
        match packets.get(index + 1) {
            Some(later) if index % 10 == 5 => {
                hide(&mut decoder, later, &mut heard);
                let level = |sound: &[f32]| {
                    let frame = &sound[sound.len() - 960..];
                    10.0 * (frame.iter().map(|value| value * value).sum::<f32>() + 1e-6).log10()
                };
                off += (level(&whole) - level(&heard)).abs();
                count += 1.0;
            }
            _ => decoder
                .decode(&packet.data, &mut heard)
                .expect("it decodes"),
        }
    }
    assert_eq!(heard.len(), packets.len() * 960);
    off / count
}

#[test]
fn coarse_copies_repair_single_losses() {
    let sound = speech(48_000 * 4);
    let mut encoder = encoder(SoundConfig {
        redundancy: Redundancy::Copy { expected_loss: 0.1 },
        ..SoundConfig::default()
    });
    let packets = packets(&mut encoder, &sound, 960);
    let copied = Cell::new(0);
    let all = losses(&packets, |decoder, later, heard| {
        // The codec copies only where somebody speaks.
        if decoder.decode_fec(&later.data, 960, heard) == Ok(true) {
            copied.set(copied.get() + 1);
        } else {
            decoder.conceal(960, heard);
        }
    });
    let concealed = losses(&packets, |decoder, _, heard| {
        decoder.conceal(960, heard);
    });
    assert!(copied.get() >= 12, "{} of 20", copied.get());
    println!("with copies {all:.1} dB off, concealed {concealed:.1} dB");
    assert!(
        all < 0.7 * concealed,
        "{all:.1} dB off against {concealed:.1}"
    );
}

#[test]
fn without_redundancy_there_is_no_copy() {
    let sound = speech(48_000);
    let mut encoder = encoder(SoundConfig::default());
    let (mut decoder, mut heard) = (decoder(), Vec::new());
    for packet in packets(&mut encoder, &sound, 960) {
        assert_eq!(decoder.decode_fec(&packet.data, 960, &mut heard), Ok(false));
        assert_eq!(heard.len(), 0);
    }
}

#[test]
fn copies_are_found_in_frames_of_each_length() {
    let sound = speech(48_000 * 2);
    for (len, channels) in [(480, 1), (960, 1), (1_920, 1), (2_880, 1), (960, 2)] {
        let mut encoder = encoder(SoundConfig {
            channels,
            redundancy: Redundancy::Copy { expected_loss: 0.2 },
            ..SoundConfig::default()
        });
        let (mut decoder, mut heard, mut found) = (decoder(), Vec::new(), 0);
        for (index, part) in sound.chunks_exact(len).enumerate() {
            let data = part.iter().flat_map(|&value| vec![value; channels.into()]);
            let time = AudioTime::from_ticks((index * len) as u64);
            let block = Samples::new(channels, time, data.collect()).expect("a block");
            let packet = encoder.encode(&block, true).expect("it encodes");
            heard.clear();
            if decoder.decode_fec(&packet.data, len, &mut heard) == Ok(true) {
                assert_eq!(heard.len(), len);
                found += 1;
            }
        }
        let all = sound.len() / len;
        println!("{len} samples, {channels} channels: {found} of {all}");
        assert!(
            found * 2 > all,
            "{len} samples, {channels} channels: {found} of {all}"
        );
    }
}

#[test]
fn deep_redundancy_begins_in_the_middle() {
    let sound = speech(48_000 * 2);
    // In the middle of a syllable.
    let at = 56;
    // Signal to noise in the 60 ms from the switch on.
    let around = |switched: bool| {
        let mut encoder = encoder(SoundConfig::default());
        let (mut decoder, mut heard) = (decoder(), Vec::new());
        for index in 0..sound.len() / 960 {
            if switched && index == at {
                let deep = Redundancy::Deep {
                    expected_loss: 0.1,
                    tens: 20,
                };
                encoder.set_redundancy(deep).expect("200 ms");
            }
            let packet = encoder.encode(&block(&sound, index * 960, 960), true);
            let packet = packet.expect("it encodes");
            decoder
                .decode(&packet.data, &mut heard)
                .expect("it decodes");
        }
        quality(&sound[at * 960..(at + 3) * 960], &heard[at * 960..])
    };
    let (plain, switched) = (around(false), around(true));
    println!("{plain:.1} dB without, {switched:.1} dB with");
    assert!(
        switched > plain - 4.0,
        "{plain:.1} dB without, {switched:.1} dB with"
    );
}

#[test]
fn deep_redundancy_bridges_a_burst() {
    let sound = speech(48_000 * 4);
    let mut encoder = encoder(SoundConfig::default());
    let deep = Redundancy::Deep {
        expected_loss: 0.1,
        tens: 20,
    };
    encoder.set_redundancy(deep).expect("200 ms");
    let packets = packets(&mut encoder, &sound, 960);
    let (mut decoder, mut heard) = (decoder(), Vec::new());
    let mut bridged = 0;
    let mut index = 0;
    while let Some(packet) = packets.get(index) {
        if index % 25 == 10
            && let Some(later) = packets.get(index + 3)
            && decoder.decode_fec(&later.data, 3 * 960, &mut heard) == Ok(true)
        {
            bridged += 1;
            index += 3;
            continue;
        }
        decoder
            .decode(&packet.data, &mut heard)
            .expect("it decodes");
        index += 1;
    }
    assert_eq!(heard.len(), packets.len() * 960);
    println!("{bridged} bursts bridged");
    assert!(bridged >= 6, "{bridged} of 8 bursts");
}

#[test]
fn concealment_gives_what_was_asked_for() {
    let sound = speech(48_000);
    let mut encoder = encoder(SoundConfig::default());
    let (mut decoder, mut heard) = (decoder(), Vec::new());
    for packet in packets(&mut encoder, &sound, 960) {
        decoder
            .decode(&packet.data, &mut heard)
            .expect("it decodes");
    }
    let before = heard.len();
    // Also what the library takes only in pieces, or not at all.
    for samples in [120, 480, 960, 0, 77, 20_000] {
        decoder.conceal(samples, &mut heard);
    }
    assert_eq!(heard.len() - before, 120 + 480 + 960 + 77 + 20_000);
    let loud = |part: &[f32]| part.iter().any(|value| value.abs() > 0.01);
    assert!(loud(&heard[before..before + 600]), "the voice goes on");
    assert!(
        heard.iter().all(|value| value.abs() <= 1.0),
        "no more than before"
    );
}

#[test]
fn blocks_and_packets_that_do_not_fit_are_refused() {
    let sound = speech(5_000);
    let mut encoder = encoder(SoundConfig::default());
    for len in [1, 120, 441, 1_000, 4_800] {
        let refused = encoder.encode(&block(&sound, 0, len), true);
        assert!(
            matches!(refused, Err(SoundEncodeError::Block { .. })),
            "{len}"
        );
    }
    let stereo = Samples::new(2, AudioTime::default(), vec![0.0; 960]).expect("a block");
    assert!(encoder.encode(&stereo, true).is_err());
    let config = SoundConfig {
        channels: 3,
        ..SoundConfig::default()
    };
    assert_eq!(
        SoundEncoder::new(config).err(),
        Some(SoundEncodeError::Channels(3))
    );

    let (mut decoder, mut heard) = (decoder(), vec![0.5]);
    let mut random = Random(3);
    for len in [0, 1, 2, 10, 100, 1_275, 1_276, 4_000] {
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            let before = heard.len();
            if decoder.decode(&bytes, &mut heard).is_err() {
                assert_eq!(heard.len(), before);
            } else {
                assert!(heard.len() - before <= 5_760);
            }
            let before = heard.len();
            if decoder.decode_fec(&bytes, 960, &mut heard) != Ok(true) {
                assert_eq!(heard.len(), before);
            }
        }
    }
    assert!(decoder.decode(&[0; 1_276], &mut heard).is_err());
}

#[test]
fn stereo_is_heard_as_one() {
    let sound = speech(48_000);
    let mut encoder = encoder(SoundConfig {
        channels: 2,
        bits_per_second: 96_000,
        ..SoundConfig::default()
    });
    let (mut decoder, mut heard) = (decoder(), Vec::new());
    for (index, part) in sound.chunks_exact(960).enumerate() {
        let both = part.iter().flat_map(|&value| [value, value]).collect();
        let time = AudioTime::from_ticks(index as u64 * 960);
        let block = Samples::new(2, time, both).expect("a block");
        let packet = encoder.encode(&block, true).expect("it encodes");
        decoder
            .decode(&packet.data, &mut heard)
            .expect("it decodes");
    }
    assert!(quality(&sound[..heard.len() - 960], &heard) > 6.0);
}
