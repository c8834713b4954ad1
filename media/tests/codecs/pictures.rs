//! H.264: what is encoded is decoded to nearly the same, at the rate that was asked for; sizes, layers and
//! keys change when told.

use media::bitstream::{NalKind, Sps, nal_units};
use media::decode::{AccessUnit, DecodeError};
use media::encode::{Content, EncodeError, PictureConfig, PictureEncoder};
use media::{PictureSize, VideoTime};

use crate::harness::{FPS, Film, Pattern, config, decode, decoder, encode, encoder, psnr};

#[test]
fn each_pattern_and_size_survives() {
    const FRAMES: u64 = 8;
    let cases = [
        (Pattern::Flat, Content::Camera, 16, 16, 100, 60.0),
        (Pattern::Talk, Content::Camera, 128, 96, 400, 38.0),
        (Pattern::Talk, Content::Camera, 320, 180, 600, 36.0),
        (Pattern::Pan, Content::Camera, 322, 182, 900, 36.0),
        (Pattern::Cuts, Content::Camera, 320, 240, 900, 36.0),
        (Pattern::Talk, Content::Camera, 640, 360, 1_200, 36.0),
        (Pattern::Pan, Content::Camera, 960, 540, 3_000, 35.0),
        (Pattern::Talk, Content::Camera, 1280, 720, 2_500, 35.0),
        (Pattern::Talk, Content::Camera, 360, 640, 1_200, 36.0),
        (Pattern::Text, Content::Screen, 640, 360, 1_500, 27.0),
        (Pattern::Text, Content::Screen, 1280, 720, 3_000, 24.0),
    ];
    for (pattern, content, width, height, kilobits, least) in cases {
        let film = Film::new(pattern, width, height);
        let mut encoder = encoder(PictureConfig {
            content,
            ..config(&film, kilobits * 1_000)
        });
        let mut decoder = decoder();
        let (mut worst, mut sum) = (f64::MAX, 0.0);
        for index in 0..FRAMES {
            let picture = film.frame(index);
            let encoded = encode(&mut encoder, &picture);
            assert_eq!(encoded.key, index == 0, "{pattern:?} {width}x{height}");
            assert_eq!(encoded.parameter_sets, encoded.key);
            assert_eq!(encoded.time, picture.time);
            assert_eq!(encoded.reference_distance, u8::from(index > 0));
            assert_eq!((encoded.layer, encoded.discardable), (0, false));
            let decoded = decode(&mut decoder, index, &encoded);
            assert_eq!(decoded.time, picture.time);
            let quality = psnr(&picture, &decoded);
            worst = quality.min(worst);
            sum += quality;
        }
        let told = format!(
            "{pattern:?} {width}x{height}: {worst:.1} dB, mean {:.1}",
            sum / FRAMES as f64
        );
        println!("{told}");
        assert!(worst >= least, "{told}");
    }
}

/// Bits a second of frames `from..to` of `film`.
fn rate(encoder: &mut PictureEncoder, film: &Film, from: u64, to: u64) -> f64 {
    let bytes: usize = (from..to)
        .map(|index| encode(encoder, &film.frame(index)).data.len())
        .sum();
    bytes as f64 * 8.0 * FPS as f64 / (to - from) as f64
}

#[test]
fn the_rate_holds_and_follows() {
    let film = Film::new(Pattern::Busy, 320, 180);
    let mut encoder = encoder(config(&film, 800_000));
    // The first second pays for the key frame.
    rate(&mut encoder, &film, 0, 30);
    let mut at = 30;
    for target in [800_000, 250_000, 1_500_000] {
        encoder.set_rate(target, FPS as f32).expect("a new rate");
        // Half a second to follow, then two that count.
        rate(&mut encoder, &film, at, at + 15);
        let got = rate(&mut encoder, &film, at + 15, at + 75) / f64::from(target);
        at += 75;
        println!("{target} bit/s: {got:.3} of it");
        assert!((0.9..=1.1).contains(&got), "{got:.3} of {target} bit/s");
    }
}

#[test]
fn the_rate_is_kept_at_half_the_frames() {
    let film = Film::new(Pattern::Busy, 320, 180);
    let mut encoder = encoder(config(&film, 400_000));
    rate(&mut encoder, &film, 0, 30);
    encoder.set_rate(400_000, 15.0).expect("a new rate");
    rate(&mut encoder, &film, 30, 45);
    // As if 30 came a second: twice the rate.
    let got = rate(&mut encoder, &film, 45, 105) / 800_000.0;
    assert!((0.9..=1.1).contains(&got), "{got:.3}");
}

#[test]
fn a_change_of_rate_takes_no_key_frame_and_a_request_does() {
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(config(&film, 500_000));
    let mut keys = Vec::new();
    for index in 0..40 {
        match index {
            10 => encoder.set_rate(100_000, 30.0).expect("a new rate"),
            20 => encoder.request_key(),
            30 => encoder.set_rate(900_000, 20.0).expect("a new rate"),
            _ => {}
        }
        let encoded = encode(&mut encoder, &film.frame(index));
        if encoded.key {
            keys.push(index);
            assert_eq!(encoded.reference_distance, 0);
            let kinds: Vec<NalKind> = nal_units(&encoded.data).map(|nal| nal.kind()).collect();
            let expected = [NalKind::Sps, NalKind::Pps, NalKind::KeySlice];
            assert_eq!(kinds, expected, "all that a decoder needs");
        }
    }
    assert_eq!(keys, [0, 20]);
}

#[test]
fn another_size_is_another_parameter_set_and_a_key_frame() {
    let small = Film::new(Pattern::Talk, 320, 180);
    let large = Film::new(Pattern::Talk, 960, 540);
    let mut encoder = encoder(config(&small, 600_000));
    let mut decoder = decoder();
    for index in 0..30 {
        let film = if (10..20).contains(&index) {
            &large
        } else {
            &small
        };
        encoder.set_size(film.size()).expect("a new size");
        let picture = film.frame(index);
        let encoded = encode(&mut encoder, &picture);
        assert_eq!(encoded.key, index % 10 == 0, "frame {index}");
        if let Some(nal) = nal_units(&encoded.data).find(|nal| nal.kind() == NalKind::Sps) {
            let sps = Sps::parse(nal).expect("our own parameter set");
            assert_eq!(sps.size, film.size());
            assert_eq!(sps.constraints & 0x40, 0x40, "constrained baseline");
        }
        let decoded = decode(&mut decoder, index, &encoded);
        assert_eq!(decoded.size(), film.size());
        assert!(psnr(&picture, &decoded) > 30.0);
    }
    assert_eq!(encoder.next_frame(), 30);
}

#[test]
fn pictures_of_the_wrong_size_do_no_harm() {
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(config(&film, 600_000));
    let other = Film::new(Pattern::Flat, 322, 180);
    let refused = encoder.encode(&other.frame(0));
    let expected = EncodeError::OtherSize {
        set: film.size(),
        got: other.size(),
    };
    assert_eq!(refused, Err(expected));
    for (width, height) in [(2, 180), (320, 14), (8_192, 8_192)] {
        let size = PictureSize::new(width, height).expect("a size");
        assert_eq!(encoder.set_size(size), Err(EncodeError::Size(size)));
    }
    assert!(encode(&mut encoder, &film.frame(0)).key);
    assert!(!encode(&mut encoder, &film.frame(1)).key);
}

#[test]
fn frames_of_the_top_layer_can_be_left_out() {
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(PictureConfig {
        layered: true,
        ..config(&film, 600_000)
    });
    let (mut all, mut base) = (decoder(), decoder());
    for index in 0..40 {
        let picture = film.frame(index);
        let encoded = encode(&mut encoder, &picture);
        let top = index % 2 == 1;
        assert_eq!((encoded.layer, encoded.discardable), (u8::from(top), top));
        let distance = if top { 1 } else { 2 };
        assert_eq!(
            encoded.reference_distance,
            if index == 0 { 0 } else { distance }
        );
        assert!(psnr(&picture, &decode(&mut all, index, &encoded)) > 33.0);
        if !top {
            assert!(psnr(&picture, &decode(&mut base, index, &encoded)) > 33.0);
        }
    }
    encoder.set_layered(false).expect("one layer");
    for index in 40..44 {
        let encoded = encode(&mut encoder, &film.frame(index));
        assert_eq!((encoded.layer, encoded.key), (0, index == 40));
        assert_eq!(encoded.reference_distance, u8::from(index > 40));
        decode(&mut all, index, &encoded);
    }
}

#[test]
fn hostile_bytes_are_refused_and_forgotten() {
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(config(&film, 600_000));
    let mut decoder = decoder();
    let good = encode(&mut encoder, &film.frame(0));
    let mut refuse = |bytes: &[u8]| {
        decoder.decode(&AccessUnit {
            data: bytes,
            time: VideoTime::default(),
            number: 0,
            reference_distance: 0,
        })
    };
    assert!(matches!(refuse(&[]), Err(DecodeError::Refused(_))));
    assert!(matches!(refuse(&[7; 100]), Err(DecodeError::Refused(_))));
    assert!(matches!(
        refuse(&[0; 2 << 20]),
        Err(DecodeError::Refused(_))
    ));
    // A slice before any parameter set.
    assert!(matches!(
        refuse(&[0, 0, 1, 0x65, 0x88, 1]),
        Err(DecodeError::NeedsRefresh(_))
    ));
    // Every single damaged byte of the parameter sets, and some of the slices.
    for at in (0..60.min(good.data.len())).chain((60..good.data.len()).step_by(97)) {
        let mut damaged = good.data.to_vec();
        damaged[at] ^= 0xff;
        // It may be refused, fail, or give a picture: never harm.
        drop(refuse(&damaged));
    }
    let picture = decode(&mut decoder, 0, &good);
    assert!(psnr(&film.frame(0), &picture) > 33.0);
}
