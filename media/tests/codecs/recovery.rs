//! H.264 after losses: nothing broken is shown, and a recovery frame or a key frame ends it.

use media::decode::DecodeError;
use media::encode::{Content, PictureConfig};

use crate::harness::{Film, Pattern, config, decode, decoder, encode, encoder, psnr, try_decode};

#[test]
fn a_lost_frame_hides_all_until_a_key_frame() {
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(config(&film, 600_000));
    let mut decoder = decoder();
    for index in 0..30 {
        if index == 20 {
            encoder.request_key();
        }
        let picture = film.frame(index);
        let encoded = encode(&mut encoder, &picture);
        match index {
            10 => {}
            11..20 => {
                let refused = try_decode(&mut decoder, index, &encoded);
                assert!(
                    matches!(refused, Err(DecodeError::NeedsRefresh(_))),
                    "frame {index}: {refused:?}"
                );
            }
            _ => assert!(psnr(&picture, &decode(&mut decoder, index, &encoded)) > 33.0),
        }
    }
}

#[test]
fn joining_in_the_middle_shows_nothing_before_a_key_frame() {
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(config(&film, 600_000));
    let mut decoder = decoder();
    encode(&mut encoder, &film.frame(0));
    for index in 1..5 {
        let encoded = encode(&mut encoder, &film.frame(index));
        let refused = try_decode(&mut decoder, index, &encoded);
        assert!(matches!(refused, Err(DecodeError::NeedsRefresh(_))));
    }
    encoder.request_key();
    let encoded = encode(&mut encoder, &film.frame(5));
    decode(&mut decoder, 5, &encoded);
}

/// Frames of a call with losses, its feedback two frames late.
struct Call {
    /// Sizes of frames that recovered without a key frame, and with one.
    recovered: Vec<usize>,
    keys: Vec<usize>,
    shown: usize,
    plain: usize,
}

/// Loses bursts of `lost` frames each `period`, and asks for recovery from the last good frame.
fn call(film: &Film, config: PictureConfig, frames: u64, period: u64, lost: u64) -> Call {
    const DELAY: u64 = 2;
    let mut encoder = encoder(config);
    let mut decoder = decoder();
    let mut last_good: Vec<Option<u64>> = Vec::new();
    let mut call = Call {
        recovered: Vec::new(),
        keys: Vec::new(),
        shown: 0,
        plain: 0,
    };
    let mut good = None;
    let mut asked = None;
    for index in 0..frames {
        // What the report of `DELAY` frames ago said.
        if let Some(&Some(decoded)) = index
            .checked_sub(DELAY)
            .and_then(|at| last_good.get(at as usize))
        {
            encoder.ltr_feedback(decoded);
            let behind = index - DELAY - decoded;
            // Again when the answer should have been seen.
            if behind > 0 && asked.is_none_or(|at| at + DELAY < index) {
                encoder.request_recovery(decoded);
                asked = Some(index);
            }
        }
        let picture = film.frame(index);
        let encoded = encode(&mut encoder, &picture);
        let distance = u64::from(encoded.reference_distance);
        if index > 0 && index % period < lost {
            last_good.push(good);
            continue;
        }
        match try_decode(&mut decoder, index, &encoded) {
            Ok(Some(decoded)) => {
                let quality = psnr(&picture, &decoded);
                assert!(quality > 27.0, "frame {index} is broken: {quality:.1} dB");
                call.shown += 1;
                let continues = good == index.checked_sub(1);
                if continues && !encoded.key {
                    call.plain += encoded.data.len();
                } else if index > 0 && encoded.key {
                    call.keys.push(encoded.data.len());
                } else if index > 0 {
                    call.recovered.push(encoded.data.len());
                    // What it says that it refers to was shown.
                    assert!(index - distance <= good.expect("something"));
                }
                good = Some(index);
            }
            Ok(None) => panic!("one in, one out"),
            Err(error) => {
                assert!(matches!(error, DecodeError::NeedsRefresh(_)));
                let refers = index - distance;
                assert!(
                    Some(refers) > good,
                    "frame {index} refers to {refers}: {error}"
                );
            }
        }
        last_good.push(good);
    }
    call
}

#[test]
fn long_term_references_recover_without_a_key_frame() {
    let film = Film::new(Pattern::Talk, 320, 180);
    for lost in [1, 3] {
        let config = PictureConfig {
            long_term: true,
            ..config(&film, 600_000)
        };
        let call = call(&film, config, 240, 40, lost);
        let mean = |sizes: &[usize]| sizes.iter().sum::<usize>() / sizes.len().max(1);
        println!(
            "{lost} lost: {} recovered by {} bytes, {} keys of {} bytes; {} shown; a plain frame has {}",
            call.recovered.len(),
            mean(&call.recovered),
            call.keys.len(),
            mean(&call.keys),
            call.shown,
            call.plain / call.shown,
        );
        // Five losses. Now and then the library drops its long-term references and starts anew.
        assert!(call.recovered.len() + call.keys.len() >= 5);
        assert!(call.recovered.len() >= 3, "{:?}", call.keys);
        assert!(mean(&call.recovered) < 3_000, "no cheaper than a key frame");
    }
}

#[test]
fn a_screen_recovers_by_key_frames() {
    let film = Film::new(Pattern::Text, 320, 180);
    let config = PictureConfig {
        content: Content::Screen,
        long_term: true,
        ..config(&film, 1_000_000)
    };
    let call = call(&film, config, 90, 40, 1);
    assert_eq!((call.recovered.len(), call.keys.len()), (0, 2));
}

#[test]
fn without_a_reference_that_is_known_to_be_there_it_is_a_key_frame() {
    let film = Film::new(Pattern::Talk, 320, 180);
    for (long_term, last_good) in [(false, 9), (true, 500), (true, 0)] {
        let mut encoder = encoder(PictureConfig {
            long_term,
            first_frame: 1,
            ..config(&film, 600_000)
        });
        for index in 0..12 {
            encode(&mut encoder, &film.frame(index));
        }
        encoder.request_recovery(last_good);
        let recovered = encode(&mut encoder, &film.frame(12));
        assert!(recovered.key, "{long_term} {last_good}");
        assert!(!encode(&mut encoder, &film.frame(13)).key);
    }
}
