//! Colour and scale: what devices and files give to [`Picture`], a [`Picture`] to another size, and to what a
//! window shows. SIMD is that of `yuv` and `fast_image_resize`.

use std::borrow::Cow;
use std::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use yuv::{
    BufferStoreMut, YuvConversionMode, YuvPackedImage, YuvPlanarImage, YuvPlanarImageMut, YuvRange,
    YuvStandardMatrix, bgra_to_yuv420, rgb_to_yuv420, rgba_to_yuv420, yuv420_to_rgba,
    yuyv422_to_yuv420,
};

use crate::{FrameError, Picture, PictureSize, Plane, VideoTime};

/// The matrix between RGB and YUV: BT.601, which cameras use, and which players take where a stream of no
/// stated colour space is small.
const MATRIX: YuvStandardMatrix = YuvStandardMatrix::Bt601;
const RANGE: YuvRange = YuvRange::Limited;

/// How pixels of a device lie in memory. RGB kinds are full range; YUV kinds are limited range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PixelFormat {
    /// 4 bytes a pixel: blue, green, red, anything (X11, Windows).
    Bgra,
    /// 4 bytes a pixel: red, green, blue, anything.
    Rgba,
    /// 3 bytes a pixel: red, green, blue (decoded JPEG).
    Rgb,
    /// 4 bytes for two pixels: Y, U, Y, V (most cameras).
    Yuyv,
    /// A plane of Y, then one of U and V in turn.
    Nv12,
    /// Three planes: Y, U, V.
    I420,
}

impl PixelFormat {
    /// Bytes of `width` pixels in the first plane.
    const fn row(self, width: usize) -> usize {
        match self {
            Self::Bgra | Self::Rgba => 4 * width,
            Self::Rgb => 3 * width,
            Self::Yuyv => 4 * width.div_ceil(2),
            Self::Nv12 | Self::I420 => width,
        }
    }
}

/// Why something is not a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Sides or planes do not fit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Less data than the size and the stride need.
    #[error("{given} bytes are too few for {width}x{height} in {format:?}, which needs {needed}")]
    TooShort {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// As what they were read.
        format: PixelFormat,
    },
    /// Rows overlap, or are too long to be counted.
    #[error("a stride of {stride} bytes is not possible for {width} pixels in {format:?}")]
    Stride {
        /// Bytes from one row to the next.
        stride: usize,
        /// Pixels across.
        width: u32,
        /// As what they were read.
        format: PixelFormat,
    },
}

/// Pixels in somebody else's memory.
#[derive(Clone, Copy)]
pub struct Pixels<'a> {
    /// How they lie.
    pub format: PixelFormat,
    /// Pixels across; an odd last column is left out of the picture.
    pub width: u32,
    /// Pixels down; an odd last row is left out of the picture.
    pub height: u32,
    /// Bytes from one row to the next (of the first plane; the stride of I420's chroma is half of it, rounded
    /// up); 0: rows follow each other without a gap.
    pub stride: usize,
    /// All planes, one behind the other.
    pub data: &'a [u8],
}

impl Pixels<'_> {
    /// Makes a picture of them (BT.601, limited range).
    ///
    /// # Errors
    /// [`ConvertError`]; sides of 1 pixel leave no picture.
    pub fn to_picture(&self, time: VideoTime) -> Result<Picture, ConvertError> {
        let size = PictureSize::new(self.width & !1, self.height & !1)?;
        let stride = self.checked_stride()?;
        match self.format {
            PixelFormat::I420 => return Ok(self.i420(size, time, stride)?),
            PixelFormat::Nv12 => return Ok(self.nv12(size, time, stride)),
            _ => {}
        }
        let mut picture = Picture::black(size, time);
        let mut planes = planar(&mut picture);
        let (data, bytes) = (self.data, stride as u32);
        let mode = YuvConversionMode::default();
        let done = match self.format {
            PixelFormat::Bgra => bgra_to_yuv420(&mut planes, data, bytes, RANGE, MATRIX, mode),
            PixelFormat::Rgba => rgba_to_yuv420(&mut planes, data, bytes, RANGE, MATRIX, mode),
            PixelFormat::Rgb => rgb_to_yuv420(&mut planes, data, bytes, RANGE, MATRIX, mode),
            _ => {
                let rows = self.whole_rows(stride * size.height() as usize);
                let packed = YuvPackedImage {
                    yuy: &rows,
                    yuy_stride: bytes,
                    width: size.width(),
                    height: size.height(),
                };
                yuyv422_to_yuv420(&mut planes, &packed)
            }
        };
        // The crate looks at nothing but sizes, which are checked.
        done.map_err(|_| self.too_short(0))?;
        Ok(picture)
    }

    /// The stride, after a look at it and at the length of the data.
    fn checked_stride(&self) -> Result<usize, ConvertError> {
        let (width, height) = (self.width as usize, self.height as usize);
        let row = self.format.row(width);
        let stride = if self.stride == 0 { row } else { self.stride };
        if stride < row || u32::try_from(stride).is_err() {
            return Err(ConvertError::Stride {
                stride,
                width: self.width,
                format: self.format,
            });
        }
        let half = height.div_ceil(2);
        let needed = match self.format {
            PixelFormat::I420 => stride * height + stride.div_ceil(2) * (2 * half - 1) + width / 2,
            PixelFormat::Nv12 => stride * height + stride * (half - 1) + (width & !1),
            _ => stride * (height - 1) + row,
        };
        if self.data.len() < needed {
            return Err(self.too_short(needed));
        }
        Ok(stride)
    }

    /// The first `len` bytes, where the padding of the last row may be missing: `yuv` wants it for packed
    /// formats.
    fn whole_rows(&self, len: usize) -> Cow<'_, [u8]> {
        match self.data.get(..len) {
            Some(rows) => Cow::Borrowed(rows),
            None => {
                let mut rows = self.data.to_vec();
                rows.resize(len, 0);
                Cow::Owned(rows)
            }
        }
    }

    const fn too_short(&self, needed: usize) -> ConvertError {
        ConvertError::TooShort {
            given: self.data.len(),
            needed,
            width: self.width,
            height: self.height,
            format: self.format,
        }
    }

    fn i420(
        &self,
        size: PictureSize,
        time: VideoTime,
        stride: usize,
    ) -> Result<Picture, FrameError> {
        let half = stride.div_ceil(2);
        let (luma, chroma) = self.data.split_at(stride * self.height as usize);
        let (u, v) = chroma.split_at(half * self.height.div_ceil(2) as usize);
        let plane = |data, stride| Plane { data, stride };
        Picture::from_planes(
            size,
            time,
            [plane(luma, stride), plane(u, half), plane(v, half)],
        )
    }

    fn nv12(&self, size: PictureSize, time: VideoTime, stride: usize) -> Picture {
        let mut picture = Picture::black(size, time);
        let width = size.width() as usize;
        let (luma, chroma) = self.data.split_at(stride * self.height as usize);
        let [y, u, v] = picture.planes_mut();
        for (to, from) in y.chunks_exact_mut(width).zip(luma.chunks(stride)) {
            to.copy_from_slice(&from[..width]);
        }
        let rows = u
            .chunks_exact_mut(width / 2)
            .zip(v.chunks_exact_mut(width / 2));
        for ((u, v), from) in rows.zip(chroma.chunks(stride)) {
            for ((u, v), pair) in u.iter_mut().zip(v).zip(from.chunks_exact(2)) {
                (*u, *v) = (pair[0], pair[1]);
            }
        }
        picture
    }
}

impl fmt::Debug for Pixels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            format,
            width,
            height,
            ..
        } = self;
        write!(f, "Pixels({width}x{height} {format:?})")
    }
}

fn planar(picture: &mut Picture) -> YuvPlanarImageMut<'_, u8> {
    let (width, height) = (picture.size().width(), picture.size().height());
    let [y, u, v] = picture.planes_mut();
    YuvPlanarImageMut {
        y_plane: BufferStoreMut::Borrowed(y),
        y_stride: width,
        u_plane: BufferStoreMut::Borrowed(u),
        u_stride: width / 2,
        v_plane: BufferStoreMut::Borrowed(v),
        v_stride: width / 2,
        width,
        height,
    }
}

/// Writes `picture` as RGBA, 4 bytes a pixel without gaps, over whatever is in `rgba`; for windows.
pub fn write_rgba(picture: &Picture, rgba: &mut Vec<u8>) {
    let (width, height) = (picture.size().width(), picture.size().height());
    rgba.clear();
    rgba.resize(4 * width as usize * height as usize, 255);
    let [y, u, v] = picture.planes();
    let planes = YuvPlanarImage {
        y_plane: y.data,
        y_stride: width,
        u_plane: u.data,
        u_stride: width / 2,
        v_plane: v.data,
        v_stride: width / 2,
        width,
        height,
    };
    let done = yuv420_to_rgba(&planes, rgba, 4 * width, RANGE, MATRIX);
    debug_assert!(done.is_ok(), "all sizes are those of the picture");
}

/// What to do where the shapes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Keep all of the picture, with black bars beside it.
    #[default]
    Letterbox,
    /// Fill all of the room, and cut off what does not fit.
    Crop,
    /// Fill all of the room by distorting.
    Stretch,
}

/// Scales pictures; keeps its tables and buffers from one to the next.
#[derive(Default)]
pub struct Scaler {
    resizer: Resizer,
    buffer: Vec<u8>,
}

impl Scaler {
    /// A scaler without any memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `picture` at `size`.
    pub fn scale(&mut self, picture: &Picture, size: PictureSize, fit: Fit) -> Picture {
        if picture.size() == size {
            return picture.clone();
        }
        let places = places(picture.size(), size, fit);
        let mut scaled = Picture::black(size, picture.time);
        let whole = places.to.width == size.width() && places.to.height == size.height();
        for (index, from) in picture.planes().into_iter().enumerate() {
            let shift = u32::from(index != 0);
            let (source, target) = (places.from.halved(shift), places.to.halved(shift));
            let across = (picture.size().width() >> shift, size.width() >> shift);
            let down = picture.size().height() >> shift;
            let Ok(image) = ImageRef::new(across.0, down, from.data, PixelType::U8) else {
                continue;
            };
            let options = ResizeOptions::new()
                .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
                .crop(
                    source.left.into(),
                    source.top.into(),
                    source.width.into(),
                    source.height.into(),
                );
            let plane = &mut scaled.planes_mut()[index][..];
            if whole {
                let into = Image::from_slice_u8(target.width, target.height, plane, PixelType::U8);
                if let Ok(mut into) = into {
                    let done = self.resizer.resize(&image, &mut into, &options);
                    debug_assert!(done.is_ok(), "the area lies in the picture");
                }
                continue;
            }
            self.resize_into(&image, &options, target, plane, across.1 as usize);
        }
        scaled
    }

    /// Scales to the buffer, and copies that into its place in a plane of `across` pixels.
    fn resize_into(
        &mut self,
        image: &ImageRef<'_>,
        options: &ResizeOptions,
        target: Area,
        plane: &mut [u8],
        across: usize,
    ) {
        let (width, height) = (target.width as usize, target.height as usize);
        self.buffer.resize(width * height, 0);
        let buffer = &mut self.buffer[..];
        let into = Image::from_slice_u8(target.width, target.height, buffer, PixelType::U8);
        if let Ok(mut into) = into {
            let done = self.resizer.resize(image, &mut into, options);
            debug_assert!(done.is_ok(), "the area lies in the picture");
        }
        let rows = plane
            .chunks_exact_mut(across)
            .skip(target.top as usize)
            .zip(self.buffer.chunks_exact(width));
        for (to, from) in rows {
            to[target.left as usize..][..width].copy_from_slice(from);
        }
    }
}

impl fmt::Debug for Scaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scaler")
    }
}

/// A rectangle of pixels, all of its numbers even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Area {
    /// In the middle of a picture of `size`, at most as large.
    fn middle(size: PictureSize, width: u64, height: u64) -> Self {
        let fit = |side: u64, most: u32| {
            let side = u32::try_from(side).unwrap_or(u32::MAX).clamp(2, most) & !1;
            (((most - side) / 2) & !1, side)
        };
        let (left, width) = fit(width, size.width());
        let (top, height) = fit(height, size.height());
        Self {
            left,
            top,
            width,
            height,
        }
    }

    const fn halved(self, shift: u32) -> Self {
        Self {
            left: self.left >> shift,
            top: self.top >> shift,
            width: self.width >> shift,
            height: self.height >> shift,
        }
    }
}

/// What of a picture is shown, and where in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    from: Area,
    to: Area,
}

fn places(from: PictureSize, to: PictureSize, fit: Fit) -> Places {
    let sides = |size: PictureSize| (u64::from(size.width()), u64::from(size.height()));
    let ((from_width, from_height), (to_width, to_height)) = (sides(from), sides(to));
    let whole = |size: PictureSize| {
        let (width, height) = sides(size);
        Area::middle(size, width, height)
    };
    let wider = from_width * to_height > to_width * from_height;
    // Rounded to the nearest pixel.
    let share = |side: u64, of: u64, to: u64| (side * of + to / 2) / to;
    match (fit, wider) {
        (Fit::Stretch, _) => Places {
            from: whole(from),
            to: whole(to),
        },
        (Fit::Letterbox, true) => Places {
            from: whole(from),
            to: Area::middle(to, to_width, share(from_height, to_width, from_width)),
        },
        (Fit::Letterbox, false) => Places {
            from: whole(from),
            to: Area::middle(to, share(from_width, to_height, from_height), to_height),
        },
        (Fit::Crop, true) => Places {
            from: Area::middle(from, share(to_width, from_height, to_height), from_height),
            to: whole(to),
        },
        (Fit::Crop, false) => Places {
            from: Area::middle(from, from_width, share(to_height, from_width, to_width)),
            to: whole(to),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: VideoTime = VideoTime::from_ticks(7);

    fn size(width: u32, height: u32) -> PictureSize {
        PictureSize::new(width, height).expect("a size of the test")
    }

    /// A colour in a format, and the Y, U and V that it is by BT.601.
    fn filled(format: PixelFormat, width: u32, height: u32) -> (Vec<u8>, [u8; 3]) {
        let count = (width * height) as usize;
        let pairs = (width.div_ceil(2) * height.div_ceil(2)) as usize;
        let (rgb, yuv) = ([200u8, 80, 40], [112u8, 93, 184]);
        let data = match format {
            PixelFormat::Bgra => [rgb[2], rgb[1], rgb[0], 9].repeat(count),
            PixelFormat::Rgba => [rgb[0], rgb[1], rgb[2], 9].repeat(count),
            PixelFormat::Rgb => rgb.repeat(count),
            PixelFormat::Yuyv => {
                let row = [yuv[0], yuv[1], yuv[0], yuv[2]].repeat(width.div_ceil(2) as usize);
                row.repeat(height as usize)
            }
            PixelFormat::Nv12 => {
                let row = [yuv[1], yuv[2]].repeat(width.div_ceil(2) as usize);
                let chroma = row.repeat(height.div_ceil(2) as usize);
                [vec![yuv[0]; count], chroma].concat()
            }
            PixelFormat::I420 => [
                vec![yuv[0]; count],
                vec![yuv[1]; pairs],
                vec![yuv[2]; pairs],
            ]
            .concat(),
        };
        (data, yuv)
    }

    const ALL: [PixelFormat; 6] = [
        PixelFormat::Bgra,
        PixelFormat::Rgba,
        PixelFormat::Rgb,
        PixelFormat::Yuyv,
        PixelFormat::Nv12,
        PixelFormat::I420,
    ];

    #[test]
    fn each_format_gives_the_same_picture() {
        for format in ALL {
            // Nv12 with an odd width has a stride of its own.
            let sizes = match format {
                PixelFormat::Nv12 => vec![(64, 32), (38, 17)],
                _ => vec![(64, 32), (37, 17)],
            };
            for (width, height) in sizes {
                let (data, yuv) = filled(format, width, height);
                let pixels = Pixels {
                    format,
                    width,
                    height,
                    stride: 0,
                    data: &data,
                };
                let picture = pixels.to_picture(TIME).expect("pixels that fit");
                assert_eq!(picture.size(), size(width & !1, height & !1));
                assert_eq!(picture.time, TIME);
                for (plane, wanted) in picture.planes().iter().zip(yuv) {
                    let off = plane.data.iter().map(|got| got.abs_diff(wanted)).max();
                    assert!(
                        off <= Some(2),
                        "{format:?} {width}x{height}: off by {off:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn strides_are_kept_and_short_data_is_refused() {
        for format in ALL {
            let (tight, _) = filled(format, 16, 8);
            let row = format.row(16);
            let pixels = |stride, data| Pixels {
                format,
                width: 16,
                height: 8,
                stride,
                data,
            };
            let short = pixels(0, &tight[..tight.len() - 1]).to_picture(TIME);
            assert!(
                matches!(short, Err(ConvertError::TooShort { .. })),
                "{format:?}"
            );
            let overlap = pixels(row - 1, &tight).to_picture(TIME);
            assert!(
                matches!(overlap, Err(ConvertError::Stride { .. })),
                "{format:?}"
            );
            // Twice the stride: every other row is padding (chroma of I420 has half of the stride).
            let wide: Vec<u8> = match format {
                PixelFormat::I420 => {
                    let (luma, chroma) = tight.split_at(16 * 8);
                    let pad = |rows: &[u8], row: usize| -> Vec<u8> {
                        let rows = rows.chunks(row);
                        rows.flat_map(|it| [it, &vec![99; row][..]].concat())
                            .collect()
                    };
                    [pad(luma, 16), pad(chroma, 8)].concat()
                }
                _ => {
                    let rows = tight.chunks(row);
                    rows.flat_map(|it| [it, &vec![99; row][..]].concat())
                        .collect()
                }
            };
            let padded = pixels(2 * row, &wide).to_picture(TIME);
            assert_eq!(padded, pixels(0, &tight).to_picture(TIME), "{format:?}");
        }
        let huge = Pixels {
            format: PixelFormat::Rgba,
            width: u32::MAX,
            height: u32::MAX,
            stride: usize::MAX,
            data: &[],
        };
        assert!(huge.to_picture(TIME).is_err());
    }

    #[test]
    fn what_is_shown_is_what_was_taken() {
        let (data, _) = filled(PixelFormat::Rgba, 32, 16);
        let pixels = Pixels {
            format: PixelFormat::Rgba,
            width: 32,
            height: 16,
            stride: 0,
            data: &data,
        };
        let picture = pixels.to_picture(TIME).expect("pixels that fit");
        let mut shown = vec![1; 3];
        write_rgba(&picture, &mut shown);
        assert_eq!(shown.len(), data.len());
        for (shown, taken) in shown.chunks(4).zip(data.chunks(4)) {
            assert_eq!(shown[3], 255);
            for channel in 0..3 {
                assert!(
                    shown[channel].abs_diff(taken[channel]) <= 4,
                    "{shown:?} {taken:?}"
                );
            }
        }
    }

    /// White on grey: a square in the middle of the picture.
    fn square(width: u32, height: u32) -> Picture {
        let mut picture = Picture::black(size(width, height), TIME);
        let luma = &mut *picture.planes_mut()[0];
        luma.fill(100);
        let (width, height) = (width as usize, height as usize);
        for y in height / 4..height * 3 / 4 {
            luma[y * width + width / 4..][..width / 2].fill(200);
        }
        picture
    }

    #[test]
    fn bars_and_cuts_are_where_they_belong() {
        let mut scaler = Scaler::new();
        let wide = square(160, 80);
        let at = |picture: &Picture, x: usize, y: usize| {
            let [luma, ..] = picture.planes();
            luma.data[y * luma.stride + x]
        };
        let boxed = scaler.scale(&wide, size(80, 80), Fit::Letterbox);
        assert_eq!((at(&boxed, 40, 5), at(&boxed, 40, 75)), (16, 16));
        assert_eq!((at(&boxed, 40, 40), at(&boxed, 4, 40)), (200, 100));
        assert_eq!(at(&boxed, 4, 22), 100);
        let cut = scaler.scale(&wide, size(80, 80), Fit::Crop);
        assert_eq!((at(&cut, 40, 5), at(&cut, 2, 40)), (100, 200));
        let stretched = scaler.scale(&wide, size(80, 80), Fit::Stretch);
        assert_eq!((at(&stretched, 2, 40), at(&stretched, 40, 40)), (100, 200));
        let tall = scaler.scale(&square(40, 80), size(80, 40), Fit::Letterbox);
        assert_eq!((at(&tall, 5, 20), at(&tall, 40, 20)), (16, 200));
        assert_eq!(scaler.scale(&wide, size(160, 80), Fit::Crop), wide);
    }

    #[test]
    fn a_picture_survives_being_small() {
        let mut scaler = Scaler::new();
        let picture = square(640, 360);
        let small = scaler.scale(&picture, size(320, 180), Fit::Stretch);
        let again = scaler.scale(&small, size(640, 360), Fit::Stretch);
        assert_eq!(again.time, TIME);
        let pairs = picture.planes()[0].data.iter().zip(again.planes()[0].data);
        let off: u64 = pairs.map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
        assert!(
            off / (640 * 360) < 2,
            "mean difference {}",
            off / (640 * 360)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_size_scales_to_any_other(
            from in (1u32..60, 1u32..60), to in (1u32..60, 1u32..60), fit in 0..3usize,
        ) {
            let fit = [Fit::Letterbox, Fit::Crop, Fit::Stretch][fit];
            let (from, to) = (size(2 * from.0, 2 * from.1), size(2 * to.0, 2 * to.1));
            let scaled = Scaler::new().scale(&Picture::black(from, TIME), to, fit);
            prop_assert_eq!(&scaled, &Picture::black(to, TIME));
        }

        #[test]
        fn no_size_of_a_device_is_a_panic(
            width in 0u32..40, height in 0u32..40, stride in 0usize..200, len in 0usize..9_000,
            format in 0..6usize,
        ) {
            let data = vec![77; len];
            let pixels = Pixels { format: ALL[format], width, height, stride, data: &data };
            if let Ok(picture) = pixels.to_picture(TIME) {
                prop_assert_eq!(picture.size(), size(width & !1, height & !1));
            }
        }
    }
}
