//! Pictures (I420) and blocks of samples, with sizes and strides that are checked when they are made, so
//! that no later stage has to.

use crate::{AudioTime, VideoTime};

/// The longest side of a picture, pixels: what an 8K screen has, with room; a bound on memory, since sizes
/// come from the other side.
pub const MAX_SIDE: u32 = 8_192;
/// Channels of sound at most.
pub const MAX_CHANNELS: u8 = 2;
/// Samples of one channel in a block at most: a second at 48 kHz.
pub const MAX_SAMPLES: usize = 48_000;

/// Why something is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A side is zero, odd, or longer than [`MAX_SIDE`].
    #[error("a picture of {width}x{height} is not possible: sides are even, from 2 to {MAX_SIDE}")]
    Size {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// A plane's rows overlap, or its bytes end before its last row does.
    #[error("a plane of {width}x{height} does not fit {len} bytes with a stride of {stride}")]
    Plane {
        /// Bytes of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes from one row to the next.
        stride: usize,
        /// Bytes given.
        len: usize,
    },
    /// No channel, or more than [`MAX_CHANNELS`].
    #[error("{0} channels are not possible: 1 to {MAX_CHANNELS}")]
    Channels(u8),
    /// Not a whole number of samples for each channel, none at all, or more than [`MAX_SAMPLES`].
    #[error(
        "{len} values are no block of {channels} channels with 1 to {MAX_SAMPLES} samples each"
    )]
    Samples {
        /// Values given.
        len: usize,
        /// Channels stated.
        channels: u8,
    },
}

/// Width and height of a picture: both even, from 2 to [`MAX_SIDE`] (the encoder does not survive odd ones).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PictureSize {
    width: u32,
    height: u32,
}

impl PictureSize {
    /// Checks both sides.
    ///
    /// # Errors
    /// [`FrameError::Size`].
    pub const fn new(width: u32, height: u32) -> Result<Self, FrameError> {
        if side_fits(width) && side_fits(height) {
            Ok(Self { width, height })
        } else {
            Err(FrameError::Size { width, height })
        }
    }

    /// The largest possible size within `width` × `height`: what is odd or too long is cut off.
    ///
    /// # Errors
    /// [`FrameError::Size`] where nothing is left.
    pub fn within(width: u32, height: u32) -> Result<Self, FrameError> {
        let cut = |side: u32| side.min(MAX_SIDE) & !1;
        Self::new(cut(width), cut(height)).map_err(|_| FrameError::Size { width, height })
    }

    /// Pixels across.
    pub const fn width(self) -> u32 {
        self.width
    }

    /// Pixels down.
    pub const fn height(self) -> u32 {
        self.height
    }

    /// Width and height of plane `index`: 0 is luma, 1 and 2 are chroma at half the size.
    const fn plane(self, index: usize) -> (usize, usize) {
        let shift = if index == 0 { 0 } else { 1 };
        (
            (self.width >> shift) as usize,
            (self.height >> shift) as usize,
        )
    }
}

const fn side_fits(side: u32) -> bool {
    side >= 2 && side <= MAX_SIDE && side.is_multiple_of(2)
}

/// One plane in somebody else's memory.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// From the first byte of the first row to, at least, the last byte of the last one.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

impl Plane<'_> {
    fn check(&self, width: usize, height: usize) -> Result<(), FrameError> {
        let wrong = FrameError::Plane {
            width,
            height,
            stride: self.stride,
            len: self.data.len(),
        };
        let needed = self
            .stride
            .checked_mul(height - 1)
            .and_then(|rows| rows.checked_add(width));
        match needed {
            Some(needed) if self.stride >= width && self.data.len() >= needed => Ok(()),
            _ => Err(wrong),
        }
    }
}

/// A picture in I420 (planar YUV 4:2:0, 8 bits, limited range), its planes packed one behind the other.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// When it was captured.
    pub time: VideoTime,
    size: PictureSize,
    data: Vec<u8>,
}

impl Picture {
    /// A black picture.
    pub fn black(size: PictureSize, time: VideoTime) -> Self {
        let (luma, chroma) = (area(size, 0), area(size, 1));
        let mut data = vec![16; luma + 2 * chroma];
        data[luma..].fill(128);
        Self { time, size, data }
    }

    /// Copies three planes (Y, U, V), leaving out what lies between their rows.
    ///
    /// # Errors
    /// [`FrameError::Plane`].
    pub fn from_planes(
        size: PictureSize,
        time: VideoTime,
        planes: [Plane<'_>; 3],
    ) -> Result<Self, FrameError> {
        let mut data = Vec::with_capacity(area(size, 0) + 2 * area(size, 1));
        for (index, plane) in planes.iter().enumerate() {
            let (width, height) = size.plane(index);
            plane.check(width, height)?;
            for row in plane.data.chunks(plane.stride).take(height) {
                data.extend_from_slice(&row[..width]);
            }
        }
        Ok(Self { time, size, data })
    }

    /// Its size.
    pub const fn size(&self) -> PictureSize {
        self.size
    }

    /// The planes Y, U and V, without gaps between their rows.
    pub fn planes(&self) -> [Plane<'_>; 3] {
        let (luma, chroma) = self.data.split_at(area(self.size, 0));
        let (u, v) = chroma.split_at(area(self.size, 1));
        let stride = self.size.plane(0).0;
        [
            Plane { data: luma, stride },
            Plane {
                data: u,
                stride: stride / 2,
            },
            Plane {
                data: v,
                stride: stride / 2,
            },
        ]
    }

    /// The same planes, to be drawn upon; the strides are those of [`Picture::planes`].
    pub fn planes_mut(&mut self) -> [&mut [u8]; 3] {
        let (luma, chroma) = self.data.split_at_mut(area(self.size, 0));
        let (u, v) = chroma.split_at_mut(area(self.size, 1));
        [luma, u, v]
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Picture({}x{} at {})",
            self.size.width,
            self.size.height,
            self.time.ticks()
        )
    }
}

const fn area(size: PictureSize, plane: usize) -> usize {
    let (width, height) = size.plane(plane);
    width * height
}

/// A kind of sample: `i16` as devices and files have it, or `f32` from −1 to 1 as processing wants it.
pub trait Sample: Copy + Default + private::Sealed {
    /// From the range −1 to 1; what is outside is clipped, and what is no number is silence.
    fn from_f32(value: f32) -> Self;

    /// In the range −1 to 1.
    fn to_f32(self) -> f32;
}

impl Sample for i16 {
    fn from_f32(value: f32) -> Self {
        // `as` clips, and makes NaN zero.
        (value * 32_768.0).round() as Self
    }

    fn to_f32(self) -> f32 {
        f32::from(self) / 32_768.0
    }
}

impl Sample for f32 {
    fn from_f32(value: f32) -> Self {
        if value.is_nan() {
            0.0
        } else {
            value.clamp(-1.0, 1.0)
        }
    }

    fn to_f32(self) -> f32 {
        self
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for i16 {}
    impl Sealed for f32 {}
}

/// A block of sound at 48 kHz, channels interleaved.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples<T> {
    /// When its first sample was captured.
    pub time: AudioTime,
    channels: u8,
    data: Vec<T>,
}

impl<T: Sample> Samples<T> {
    /// Takes interleaved samples.
    ///
    /// # Errors
    /// [`FrameError::Channels`], [`FrameError::Samples`].
    pub fn new(channels: u8, time: AudioTime, data: Vec<T>) -> Result<Self, FrameError> {
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(FrameError::Channels(channels));
        }
        let each = data.len() / usize::from(channels);
        let whole = data.len().is_multiple_of(usize::from(channels));
        if !whole || !(1..=MAX_SAMPLES).contains(&each) {
            return Err(FrameError::Samples {
                len: data.len(),
                channels,
            });
        }
        Ok(Self {
            time,
            channels,
            data,
        })
    }

    /// How many channels are interleaved.
    pub const fn channels(&self) -> u8 {
        self.channels
    }

    /// Samples of each channel, which is also the block's length in ticks.
    pub fn samples_each(&self) -> usize {
        self.data.len() / usize::from(self.channels)
    }

    /// All values, interleaved.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// When the block after this one begins, or `None` at the end of the clock.
    pub fn end(&self) -> Option<AudioTime> {
        self.time.checked_add_ticks(self.samples_each() as u64)
    }

    /// The same sound in the other kind of sample.
    pub fn convert<U: Sample>(&self) -> Samples<U> {
        let data = self
            .data
            .iter()
            .map(|value| U::from_f32(value.to_f32()))
            .collect();
        Samples {
            time: self.time,
            channels: self.channels,
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(width: u32, height: u32) -> PictureSize {
        PictureSize::new(width, height).expect("a size of the test")
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for (width, height) in [
            (0, 2),
            (2, 0),
            (3, 2),
            (2, 5),
            (MAX_SIDE + 2, 2),
            (2, u32::MAX),
            (u32::MAX - 1, 2),
        ] {
            assert_eq!(
                PictureSize::new(width, height),
                Err(FrameError::Size { width, height })
            );
        }
        assert!(PictureSize::new(2, MAX_SIDE).is_ok());
        assert_eq!(PictureSize::within(1_281, 721), Ok(size(1_280, 720)));
        assert_eq!(PictureSize::within(u32::MAX, 2), Ok(size(MAX_SIDE, 2)));
        assert_eq!(
            PictureSize::within(1, 9),
            Err(FrameError::Size {
                width: 1,
                height: 9
            })
        );
    }

    #[test]
    fn planes_have_their_sizes() {
        let mut picture = Picture::black(size(6, 4), VideoTime::default());
        let lens = picture
            .planes()
            .map(|plane| (plane.data.len(), plane.stride));
        assert_eq!(lens, [(24, 6), (6, 3), (6, 3)]);
        assert_eq!(picture.planes().map(|plane| plane.data[0]), [16, 128, 128]);
        picture.planes_mut()[2][5] = 7;
        assert_eq!(picture.planes()[2].data, [128, 128, 128, 128, 128, 7]);
    }

    #[test]
    fn padding_between_rows_is_left_out() {
        let luma = [1, 2, 0, 0, 3, 4];
        let picture = Picture::from_planes(
            size(2, 2),
            VideoTime::from_ticks(9),
            [
                Plane {
                    data: &luma,
                    stride: 4,
                },
                Plane {
                    data: &[5],
                    stride: 1,
                },
                Plane {
                    data: &[6, 99],
                    stride: 32,
                },
            ],
        )
        .expect("planes that fit");
        assert_eq!(
            picture.planes().map(|plane| plane.data.to_vec()),
            [vec![1, 2, 3, 4], vec![5], vec![6]]
        );
        assert_eq!(picture.time.ticks(), 9);
    }

    #[test]
    fn planes_that_do_not_fit_are_refused() {
        let good = Plane {
            data: &[0; 64],
            stride: 4,
        };
        for bad in [
            Plane {
                data: &[0; 15],
                stride: 4,
            },
            Plane {
                data: &[0; 64],
                stride: 3,
            },
            Plane {
                data: &[0; 64],
                stride: 0,
            },
            Plane {
                data: &[0; 64],
                stride: usize::MAX,
            },
            Plane {
                data: &[],
                stride: 4,
            },
        ] {
            let made = Picture::from_planes(size(4, 4), VideoTime::default(), [bad, good, good]);
            assert!(matches!(made, Err(FrameError::Plane { .. })), "{bad:?}");
        }
    }

    #[test]
    fn blocks_of_samples_are_whole() {
        let time = AudioTime::from_ticks(100);
        let block = Samples::new(2, time, vec![0i16; 960]).expect("ten milliseconds of stereo");
        assert_eq!(
            (block.samples_each(), block.end()),
            (480, Some(AudioTime::from_ticks(580)))
        );
        for channels in [0, MAX_CHANNELS + 1, u8::MAX] {
            let made = Samples::new(channels, time, vec![0i16; 960]);
            assert_eq!(made, Err(FrameError::Channels(channels)));
        }
        for len in [0, 1, 3, 2 * MAX_SAMPLES + 2] {
            let made = Samples::new(2, time, vec![0f32; len]);
            assert_eq!(made, Err(FrameError::Samples { len, channels: 2 }));
        }
    }

    #[test]
    fn samples_clip_and_never_wrap() {
        let loud = vec![2.0, -2.0, f32::NAN, f32::INFINITY, 1.0, -1.0, 0.0];
        let block = Samples::new(1, AudioTime::default(), loud).expect("a block");
        assert_eq!(
            block.convert::<i16>().data(),
            [32_767, -32_768, 0, 32_767, 32_767, -32_768, 0]
        );
        assert_eq!(
            block.convert::<f32>().data(),
            [1.0, -1.0, 0.0, 1.0, 1.0, -1.0, 0.0]
        );
    }

    proptest! {
        #[test]
        fn sixteen_bits_survive_the_way_through_floats(data in prop::collection::vec(any::<i16>(), 1..99)) {
            let block = Samples::new(1, AudioTime::default(), data).expect("a block");
            prop_assert_eq!(block.convert::<f32>().convert::<i16>(), block);
        }

        #[test]
        fn hostile_planes_never_panic(
            width in 1u32..40, height in 1u32..40, strides: [u8; 3], lens in any::<[u16; 3]>(),
        ) {
            let bytes = vec![0; usize::from(u16::MAX)];
            let Ok(size) = PictureSize::new(width * 2, height * 2) else { return Ok(()) };
            let plane = |i: usize| Plane {
                data: &bytes[..usize::from(lens[i]) % 4_000],
                stride: usize::from(strides[i]),
            };
            if let Ok(made) = Picture::from_planes(size, VideoTime::default(), [plane(0), plane(1), plane(2)]) {
                prop_assert_eq!(made.data.len(), area(size, 0) + 2 * area(size, 1));
            }
        }
    }
}
