//! The pointer, which is in no window's pixels and is drawn over them.

use x11rb::{
    errors::ReplyError,
    protocol::{
        xfixes::{ConnectionExt as _, GetCursorImageReply},
        xproto::ConnectionExt as _,
    },
};

use super::{
    display::{Area, Display},
    image::PIXEL,
};

/// Where the pointer is, and what it looks like.
#[derive(Default)]
pub(super) struct Pointer {
    at: Option<(i16, i16)>,
    image: Option<GetCursorImageReply>,
}

impl Pointer {
    /// Looks where it is; returns whether it moved into, within or out of `area`.
    pub(super) fn look(&mut self, display: &Display, area: Area) -> Result<bool, ReplyError> {
        if !display.extensions.xfixes {
            return Ok(false);
        }
        let reply = display.connection.query_pointer(display.root)?.reply()?;
        let at = reply.same_screen.then_some((reply.root_x, reply.root_y));
        if at == self.at {
            return Ok(false);
        }
        let seen = [self.at, at].into_iter().flatten().any(|at| near(area, at));
        self.at = at;
        if at.is_some_and(|at| near(area, at)) {
            self.image = Some(display.connection.xfixes_get_cursor_image()?.reply()?);
        }
        Ok(seen)
    }

    /// Draws it over the pixels of `area`.
    pub(super) fn draw(&self, area: Area, pixels: &mut [u8]) {
        let (Some(at), Some(image)) = (self.at, &self.image) else {
            return;
        };
        if near(area, at) {
            blend(image, at, area, pixels);
        }
    }
}

/// Whether a pointer there, which has a size, may be seen in the area.
fn near(area: Area, at: (i16, i16)) -> bool {
    const SIZE: i32 = 128;
    let within = |at: i16, from: i16, len: u16| {
        let at = i32::from(at) - i32::from(from);
        (-SIZE..i32::from(len) + SIZE).contains(&at)
    };
    within(at.0, area.x, area.width) && within(at.1, area.y, area.height)
}

/// Lays the pointer's picture (premultiplied ARGB) over BGRA pixels.
fn blend(image: &GetCursorImageReply, at: (i16, i16), area: Area, pixels: &mut [u8]) {
    let width = usize::from(image.width);
    let left = i32::from(at.0) - i32::from(image.xhot) - i32::from(area.x);
    let top = i32::from(at.1) - i32::from(image.yhot) - i32::from(area.y);
    if width == 0 {
        return;
    }
    for (row, y) in image.cursor_image.chunks_exact(width).zip(top..) {
        for (argb, x) in row.iter().zip(left..) {
            let inside =
                (0..i32::from(area.width)).contains(&x) && (0..i32::from(area.height)).contains(&y);
            if !inside {
                continue;
            }
            let place = (y as usize * usize::from(area.width) + x as usize) * PIXEL;
            let Some(pixel) = pixels.get_mut(place..place + 3) else {
                continue;
            };
            let [blue, green, red, alpha] = argb.to_le_bytes();
            for (under, over) in pixel.iter_mut().zip([blue, green, red]) {
                let kept = u32::from(*under) * u32::from(255 - alpha) / 255;
                *under = (kept + u32::from(over)).min(255) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(argb: &[u32], width: u16) -> GetCursorImageReply {
        GetCursorImageReply {
            sequence: 0,
            length: 0,
            x: 0,
            y: 0,
            width,
            height: argb.len() as u16 / width.max(1),
            xhot: 1,
            yhot: 0,
            cursor_serial: 0,
            cursor_image: argb.to_vec(),
        }
    }

    #[test]
    fn it_is_laid_over_and_cut_off() {
        let area = Area {
            x: 10,
            y: 10,
            width: 2,
            height: 2,
        };
        let mut pixels = vec![100; 16];
        // Two by two: white, nothing; half black, half white. Its tip is at the right column.
        let picture = image(&[0xffff_ffff, 0, 0x8000_0000, 0x8080_8080], 2);
        blend(&picture, (11, 10), area, &mut pixels);
        assert_eq!(pixels[0..3], [255, 255, 255]);
        assert_eq!(pixels[4..7], [100, 100, 100]);
        assert_eq!(pixels[8..11], [49, 49, 49]);
        assert_eq!(pixels[12..15], [177, 177, 177]);
        // Outside on each side: only what overlaps is drawn, and nothing breaks.
        for at in [(10, 9), (12, 11), (-5, -5), (i16::MAX, i16::MIN)] {
            blend(&picture, at, area, &mut pixels);
        }
        blend(&image(&[], 0), (11, 10), area, &mut pixels);
        blend(&image(&[1, 2, 3], 2), (11, 10), area, &mut pixels[..3]);
    }

    #[test]
    fn near_is_near() {
        let area = Area {
            x: 100,
            y: 0,
            width: 50,
            height: 50,
        };
        assert!(near(area, (100, 0)) && near(area, (-20, 49)) && near(area, (277, 177)));
        assert!(!near(area, (-30, 0)) && !near(area, (300, 0)) && !near(area, (120, 178)));
    }
}
