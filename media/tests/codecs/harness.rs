//! Drawn pictures and made sound for the tests of codecs, and how far off a decoded one is.

use media::decode::{AccessUnit, DecodeError, PictureDecoder};
use media::encode::{Content, PictureConfig, PictureEncoder};
use media::{EncodedPicture, Picture, PictureSize, VideoTime};

/// Pictures a second of all tests.
pub(crate) const FPS: u64 = 30;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// One flat grey.
    Flat,
    /// Somebody before a wall: a textured patch moves before a still background.
    Talk,
    /// The whole picture moves.
    Pan,
    /// Black marks on white, of which one line changes at a time.
    Text,
    /// The whole picture moves, and each has noise of its own: nothing but bits helps.
    Busy,
    /// A cut to another picture at each 15th frame.
    Cuts,
}

/// A drawn film.
pub(crate) struct Film {
    pattern: Pattern,
    size: PictureSize,
    /// Two textures, larger than the picture on each side by `MARGIN`.
    textures: [Vec<u8>; 2],
}

const MARGIN: usize = 64;

impl Film {
    pub(crate) fn new(pattern: Pattern, width: u32, height: u32) -> Self {
        let size = PictureSize::new(width, height).expect("a size of a test");
        let (wide, high) = (width as usize + MARGIN, height as usize + MARGIN);
        let draw = |seed: usize| {
            let mut texture = Vec::with_capacity(wide * high);
            let mut random = Random(seed as u64 + 1);
            for y in 0..high {
                for x in 0..wide {
                    texture.push(match pattern {
                        Pattern::Flat => 110,
                        Pattern::Text => glyph(x, y, seed),
                        _ => wood(x, y, seed, &mut random),
                    });
                }
            }
            texture
        };
        Self {
            pattern,
            size,
            textures: [draw(0), draw(1)],
        }
    }

    pub(crate) fn size(&self) -> PictureSize {
        self.size
    }

    /// Frame `index`, always the same.
    pub(crate) fn frame(&self, index: u64) -> Picture {
        let time = VideoTime::from_ticks(index * 90_000 / FPS);
        let mut picture = Picture::black(self.size, time);
        let (width, height) = (self.size.width() as usize, self.size.height() as usize);
        let n = index as usize;
        let [luma, u, v] = picture.planes_mut();
        let (which, at) = match self.pattern {
            Pattern::Pan | Pattern::Busy => (0, (wave(2 * n), wave(n))),
            Pattern::Cuts => ((n / 15) % 2, (0, wave(n))),
            _ => (0, (0, 0)),
        };
        self.copy(
            luma,
            width,
            &self.textures[which],
            (0, 0),
            (width, height),
            at,
        );
        match self.pattern {
            Pattern::Talk => {
                let patch = (width / 3, height / 2);
                let to = (width / 3 + wave(n) / 4, height / 3 + wave(2 * n) / 8);
                self.copy(luma, width, &self.textures[1], to, patch, (wave(n) / 2, 0));
            }
            Pattern::Text => {
                let line = (n / 6 * 16) % (height - 16);
                self.copy(
                    luma,
                    width,
                    &self.textures[1],
                    (0, line),
                    (width, 16),
                    (0, 0),
                );
            }
            Pattern::Busy => {
                let (mut random, texture) = (Random(index), &self.textures[1]);
                for row in luma.chunks_mut(width) {
                    let from = random.next() as usize % (texture.len() - width);
                    for (pixel, noise) in row.iter_mut().zip(&texture[from..]) {
                        *pixel = pixel.wrapping_add(noise & 15);
                    }
                }
            }
            _ => {}
        }
        for (row, (u, v)) in u
            .chunks_mut(width / 2)
            .zip(v.chunks_mut(width / 2))
            .enumerate()
        {
            u.fill(118 + (row * 16 / height) as u8);
            v.fill(134);
        }
        picture
    }

    fn copy(
        &self,
        luma: &mut [u8],
        width: usize,
        texture: &[u8],
        to: (usize, usize),
        area: (usize, usize),
        from: (usize, usize),
    ) {
        let wide = width + MARGIN;
        for row in 0..area.1 {
            let source = (row + from.1) * wide + from.0;
            let target = (row + to.1) * width + to.0;
            luma[target..target + area.0].copy_from_slice(&texture[source..source + area.0]);
        }
    }
}

/// Back and forth within `MARGIN`.
fn wave(n: usize) -> usize {
    let n = n % (2 * MARGIN);
    n.min(2 * MARGIN - n)
}

/// Soft shapes of two sizes with a little noise, as a camera has it.
fn wood(x: usize, y: usize, seed: usize, random: &mut Random) -> u8 {
    let triangle = |at: usize, period: usize| {
        let at = at % period;
        at.min(period - at) * 2 * 64 / period
    };
    let soft = triangle(x + 2 * y + 31 * seed, 97) + triangle(3 * x + 60 * seed + y, 41);
    let noise = (random.next() % 5) as usize;
    (60 + soft * (1 + seed) / 2 + noise) as u8
}

/// Marks like letters, 8×16.
fn glyph(x: usize, y: usize, seed: usize) -> u8 {
    let (column, line) = (x / 8, y / 16);
    let code = (column * 7_919 + line * 104_729 + seed * 31) as u64;
    let shape = Random(code + 1).next() | 1 << 63;
    let (x, y) = (x % 8, y % 16);
    let inside = (1..7).contains(&x) && (3..13).contains(&y);
    let ink = inside && shape >> (y / 2 * 8 + x) & 1 == 1;
    if ink { 24 } else { 230 }
}

/// Small, repeatable randomness (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Peak signal to noise of the luma, decibels; 99 where nothing differs.
pub(crate) fn psnr(a: &Picture, b: &Picture) -> f64 {
    assert_eq!(a.size(), b.size());
    let (a, b) = (a.planes()[0].data, b.planes()[0].data);
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2))
        .sum();
    if sum == 0 {
        return 99.0;
    }
    10.0 * (255.0f64.powi(2) * a.len() as f64 / sum as f64).log10()
}

/// A camera at the rate given, without layers and long-term references.
pub(crate) fn config(film: &Film, bits_per_second: u32) -> PictureConfig {
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

pub(crate) fn encoder(config: PictureConfig) -> PictureEncoder {
    PictureEncoder::new(config).expect("an encoder")
}

pub(crate) fn encode(encoder: &mut PictureEncoder, picture: &Picture) -> EncodedPicture {
    let encoded = encoder.encode(picture).expect("it encodes");
    encoded.expect("nothing is skipped")
}

pub(crate) fn decoder() -> PictureDecoder {
    PictureDecoder::new().expect("a decoder")
}

/// Decodes a frame that is the next one, as its encoder numbered it.
pub(crate) fn decode(
    decoder: &mut PictureDecoder,
    number: u64,
    encoded: &EncodedPicture,
) -> Picture {
    let picture = try_decode(decoder, number, encoded);
    picture.expect("it decodes").expect("one in, one out")
}

pub(crate) fn try_decode(
    decoder: &mut PictureDecoder,
    number: u64,
    encoded: &EncodedPicture,
) -> Result<Option<Picture>, DecodeError> {
    decoder.decode(&AccessUnit {
        data: &encoded.data,
        time: encoded.time,
        number,
        reference_distance: encoded.reference_distance,
    })
}
