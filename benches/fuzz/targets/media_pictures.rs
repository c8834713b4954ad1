//! Access units from the other side, through our checks into openh264. The input is a script: how far back the
//! frame's reference lies and how many numbers are left out before it, a length, so many bytes, and again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use media::VideoTime;
use media::bitstream::MAX_MACROBLOCKS;
use media::decode::{AccessUnit, PictureDecoder};

/// Frames of one script at most.
const MAX_FRAMES: usize = 32;

fuzz_target!(|script: &[u8]| {
    let mut decoder = PictureDecoder::new().expect("a decoder");
    let mut rest = script;
    let mut number = 7u64;
    for _ in 0..MAX_FRAMES {
        let Some((&[numbers, high, low], behind)) = rest.split_first_chunk() else {
            break;
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (data, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        number += 1 + u64::from(numbers >> 5);
        let unit = AccessUnit {
            data,
            time: VideoTime::from_ticks(number * 3_000),
            number,
            reference_distance: numbers & 31,
        };
        if let Ok(Some(picture)) = decoder.decode(&unit) {
            let size = picture.size();
            let blocks = size.width().div_ceil(16) * size.height().div_ceil(16);
            assert!(blocks <= MAX_MACROBLOCKS);
            assert_eq!(picture.time, unit.time);
        }
    }
});
