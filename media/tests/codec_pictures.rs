//! H.264: what is encoded is decoded to nearly the same, at the rate that was asked for, and what is lost
//! stays hidden until it is repaired.
#![cfg(feature = "codecs")]

mod codec_harness;

use codec_harness::{FPS, Film, Pattern, psnr};
use media::bitstream::{NalKind, Sps, nal_units};
use media::decode::{DecodeError, PictureDecoder};
use media::encode::{Content, EncodeError, PictureConfig, PictureEncoder};
use media::{EncodedPicture, FrameNumber, Picture, PictureSize};

fn config(film: &Film, bits_per_second: u32) -> PictureConfig {
    PictureConfig {
        size: film.size(),
        content: Content::Camera,
        bits_per_second,
        frames_per_second: FPS as f32,
        layered: false,
        long_term: false,
        first_frame: 0,
    }
}

fn encoder(config: PictureConfig) -> PictureEncoder {
    PictureEncoder::new(config).expect("an encoder")
}

fn encode(encoder: &mut PictureEncoder, picture: &Picture) -> EncodedPicture {
    let encoded = encoder.encode(picture).expect("it encodes");
    encoded.expect("nothing is skipped")
}

fn decoder() -> PictureDecoder {
    PictureDecoder::new().expect("a decoder")
}

fn decode(decoder: &mut PictureDecoder, encoded: &EncodedPicture) -> Picture {
    let picture = decoder.decode(&encoded.data, encoded.time);
    picture.expect("it decodes").expect("one in, one out")
}

#[test]
fn each_pattern_and_size_survives() {
    let cases = [
        (Pattern::Flat, Content::Camera, 16, 16, 100, 40.0),
        (Pattern::Talk, Content::Camera, 128, 96, 400, 34.0),
        (Pattern::Talk, Content::Camera, 320, 180, 600, 34.0),
        (Pattern::Pan, Content::Camera, 322, 182, 900, 30.0),
        (Pattern::Cuts, Content::Camera, 320, 240, 900, 28.0),
        (Pattern::Talk, Content::Camera, 640, 360, 1_200, 34.0),
        (Pattern::Pan, Content::Camera, 960, 540, 3_000, 30.0),
        (Pattern::Talk, Content::Camera, 1280, 720, 2_500, 34.0),
        (Pattern::Talk, Content::Camera, 360, 640, 1_200, 34.0),
        (Pattern::Text, Content::Screen, 640, 360, 1_500, 30.0),
        (Pattern::Text, Content::Screen, 1280, 720, 3_000, 28.0),
    ];
    for (pattern, content, width, height, kilobits, least) in cases {
        let film = Film::new(pattern, width, height);
        let mut encoder = encoder(PictureConfig {
            content,
            ..config(&film, kilobits * 1_000)
        });
        let mut decoder = decoder();
        let (mut worst, mut sum) = (f64::MAX, 0.0);
        for index in 0..20 {
            let picture = film.frame(index);
            let encoded = encode(&mut encoder, &picture);
            assert_eq!(encoded.key, index == 0, "{pattern:?} {width}x{height}");
            assert_eq!(encoded.parameter_sets, encoded.key);
            assert_eq!(encoded.time, picture.time);
            assert_eq!(encoded.reference_distance, u8::from(index > 0));
            assert_eq!((encoded.layer, encoded.discardable), (0, false));
            let decoded = decode(&mut decoder, &encoded);
            assert_eq!(decoded.time, picture.time);
            let quality = psnr(&picture, &decoded);
            worst = quality.min(worst);
            sum += quality;
        }
        println!("{pattern:?} {width}x{height}: worst {worst:.1} dB, mean {:.1}", sum / 20.0);
        assert!(worst >= least, "{pattern:?} {width}x{height}: {worst:.1} dB");
    }
}
