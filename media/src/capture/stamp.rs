//! The frame stamp: a number in 40 bars along the top of a picture, which survives compression and scaling, so
//! that latency and loss are measured from pixels.
//!
//! From left to right, the first bit first: 32 bits of the number, then 8 bits of a check sum. A bright bar is
//! a one. The bars take the top twentieth of the picture, all of its width; chroma there is neutral.

use crate::{Picture, PictureSize};

/// Bars of a stamp.
pub const BARS: usize = 40;

/// The share of the height that the bars take: 36 rows at 720p.
const HEIGHT_SHARE: usize = 20;
/// Rows at least.
const MIN_ROWS: usize = 4;
/// Luma of a zero and a one: clear of both ends of the range, where a codec's ringing would be cut off.
const LEVELS: [u8; 2] = [36, 220];
/// Luma between both.
const MIDDLE: u32 = 128;
/// A bar closer to the middle than this is not read: a third of what was written.
const CLEAR: u32 = 30;

/// Rows from the top of a picture of this height that a stamp covers; a measure of quality leaves them out.
pub fn rows(size: PictureSize) -> usize {
    let height = size.height() as usize;
    (height / HEIGHT_SHARE).max(MIN_ROWS).min(height)
}

/// Draws `number` over the top of `picture`. Pictures less than 80 pixels wide have no room for it.
pub fn write(picture: &mut Picture, number: u32) {
    let size = picture.size();
    let (width, rows) = (size.width() as usize, rows(size));
    let bits = bits(number);
    let mut line = vec![0; width];
    for (bar, bit) in bits.into_iter().enumerate() {
        line[edge(bar, width)..edge(bar + 1, width)].fill(LEVELS[usize::from(bit)]);
    }
    let [luma, u, v] = picture.planes_mut();
    for row in luma.chunks_exact_mut(width).take(rows) {
        row.copy_from_slice(&line);
    }
    let chroma = width / 2 * rows.div_ceil(2);
    u[..chroma].fill(128);
    v[..chroma].fill(128);
}

/// Reads the number off the top of `picture`, which may have been compressed and scaled since; `None` where
/// there is none that can be read without doubt.
pub fn read(picture: &Picture) -> Option<u32> {
    let size = picture.size();
    let (width, height) = (size.width() as usize, size.height() as usize);
    let luma = picture.planes()[0];
    // The middle half of the bars each way: what a scaler or a codec smeared lies beside it.
    let top = height / (4 * HEIGHT_SHARE);
    let bottom = (3 * height / (4 * HEIGHT_SHARE)).max(top + 1);
    let mut word = 0u64;
    for bar in 0..BARS {
        let (left, right) = (edge(bar, width), edge(bar + 1, width));
        let inset = (right - left) / 4;
        let (left, right) = (left + inset, right - inset);
        let (mut sum, mut count) = (0u32, 0u32);
        for row in luma.data.chunks(luma.stride).take(bottom).skip(top) {
            for &value in row.get(left..right)? {
                sum += u32::from(value);
                count += 1;
            }
        }
        let mean = sum.checked_div(count)?;
        if mean.abs_diff(MIDDLE) < CLEAR {
            return None;
        }
        word = word << 1 | u64::from(mean > MIDDLE);
    }
    let number = (word >> 8) as u32;
    (check_sum(&number.to_be_bytes()) == word as u8).then_some(number)
}

/// The left edge of a bar.
const fn edge(bar: usize, width: usize) -> usize {
    bar * width / BARS
}

fn bits(number: u32) -> [bool; BARS] {
    let word = u64::from(number) << 8 | u64::from(check_sum(&number.to_be_bytes()));
    std::array::from_fn(|bar| word >> (BARS - 1 - bar) & 1 == 1)
}

/// CRC-8 with the polynomial 0x2f (AUTOSAR's CRC8H2F), which finds any three wrong bits in a word of this length; started and ended
/// with ones, so that an even picture carries no number.
fn check_sum(bytes: &[u8]) -> u8 {
    let mut sum = 0xff;
    for byte in bytes {
        sum ^= byte;
        for _ in 0..8 {
            sum = if sum & 0x80 == 0 {
                sum << 1
            } else {
                sum << 1 ^ 0x2f
            };
        }
    }
    sum ^ 0xff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;
    use crate::{
        VideoTime,
        convert::{Fit, Scaler},
    };

    fn size(width: u32, height: u32) -> PictureSize {
        PictureSize::new(width, height).expect("a size")
    }

    fn grey(width: u32, height: u32) -> Picture {
        let mut picture = Picture::black(size(width, height), VideoTime::default());
        picture.planes_mut()[0].fill(130);
        picture
    }

    fn blur(picture: &mut Picture) {
        let width = picture.size().width() as usize;
        for row in picture.planes_mut()[0].chunks_exact_mut(width) {
            let before = row.to_vec();
            for x in 2..width - 2 {
                let sum: u16 = before[x - 2..=x + 2].iter().map(|&v| u16::from(v)).sum();
                row[x] = (sum / 5) as u8;
            }
        }
    }

    #[test]
    fn the_check_sum_is_the_known_one() {
        for (bytes, sum) in [
            (&b"123456789"[..], 0xdf),
            (&[0, 0, 0, 0], 0x12),
            (&[0xf2, 0x01, 0x83], 0xc2),
            (&[0x0f, 0xaa, 0x00, 0x55], 0xc6),
            (&[0x00, 0xff, 0x55, 0x11], 0x77),
        ] {
            assert_eq!(check_sum(bytes), sum, "{bytes:?}");
        }
    }

    #[test]
    fn noise_and_blur_do_not_hurt() {
        let mut random = SmallRng::seed_from_u64(7);
        for (width, height) in [(1_280, 720), (640, 360), (320, 180), (426, 240)] {
            let mut picture = grey(width, height);
            write(&mut picture, 0xdead_beef);
            blur(&mut picture);
            for value in &mut *picture.planes_mut()[0] {
                *value = value.saturating_add_signed(random.random_range(-40..=40));
            }
            assert_eq!(read(&picture), Some(0xdead_beef), "{width}x{height}");
        }
    }

    #[test]
    fn scaling_keeps_it() {
        let mut picture = grey(1_280, 720);
        write(&mut picture, 123_456_789);
        let mut scaler = Scaler::new();
        for (width, height) in [(640, 360), (480, 270), (320, 180)] {
            let scaled = scaler.scale(&picture, size(width, height), Fit::Stretch);
            assert_eq!(read(&scaled), Some(123_456_789), "{width}x{height}");
            let back = scaler.scale(&scaled, size(1_280, 720), Fit::Stretch);
            assert_eq!(read(&back), Some(123_456_789), "{width}x{height} and back");
        }
    }

    #[test]
    fn pictures_without_stamps_have_none() {
        assert_eq!(read(&grey(640, 360)), None);
        assert_eq!(
            read(&Picture::black(size(640, 360), VideoTime::default())),
            None
        );
        let mut white = grey(640, 360);
        white.planes_mut()[0].fill(235);
        assert_eq!(read(&white), None);
        for (width, height) in [(2, 2), (78, 40), (8_192, 2)] {
            let mut small = grey(width, height);
            let _ = read(&small);
            write(&mut small, 5);
            let _ = read(&small);
        }
    }

    #[test]
    fn one_wrong_bar_is_no_number() {
        let mut picture = grey(640, 360);
        write(&mut picture, 77);
        for bar in 0..BARS {
            let mut wrong = picture.clone();
            let (left, right) = (edge(bar, 640), edge(bar + 1, 640));
            for row in wrong.planes_mut()[0].chunks_exact_mut(640).take(18) {
                for value in &mut row[left..right] {
                    *value = 255 - *value;
                }
            }
            assert_eq!(read(&wrong), None, "bar {bar}");
        }
    }

    proptest! {
        #[test]
        fn every_number_comes_back(number: u32, width in 40u32..400, height in 8u32..300) {
            let mut picture = grey(2 * width, 2 * height);
            write(&mut picture, number);
            prop_assert_eq!(read(&picture), Some(number));
        }
    }
}
