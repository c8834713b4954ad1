//! Pixels from the X server: through shared memory where it can, over the connection otherwise.
//!
//! The shared memory is a file without a name that the server writes and this program reads: a copy costs less
//! than a millisecond, and no memory is mapped that another process changes under us.

use std::fs::File;

use x11rb::{
    connection::Connection as _,
    errors::{ReplyError, ReplyOrIdError},
    protocol::{
        shm::{ConnectionExt as _, Seg},
        xproto::{ConnectionExt as _, Drawable, ImageFormat},
    },
};

use super::display::{Area, Display};

/// All planes of a pixel.
const ALL_PLANES: u32 = !0;
/// Bytes of a pixel; [`Display::open`] has seen to it.
pub(super) const PIXEL: usize = 4;

/// Fetches pixels, and keeps the memory for it.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    shared: Option<Shared>,
    /// The server refused to share memory: it runs elsewhere.
    remote: bool,
}

/// Memory that the server writes into.
#[derive(Debug)]
struct Shared {
    segment: Seg,
    file: File,
    len: usize,
}

impl Fetcher {
    /// Copies an area of a window or pixmap into `pixels`: rows of 4 bytes a pixel, without gaps.
    pub(super) fn fetch(
        &mut self,
        display: &Display,
        drawable: Drawable,
        area: Area,
        pixels: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        let len = usize::from(area.width) * usize::from(area.height) * PIXEL;
        if display.extensions.shm && !self.remote {
            if self.shared.as_ref().is_none_or(|shared| shared.len < len) {
                self.release(display);
                self.shared = share(display, len);
                self.remote = self.shared.is_none();
            }
            if let Some(shared) = &self.shared {
                let cookie = display.connection.shm_get_image(
                    drawable,
                    area.x,
                    area.y,
                    area.width,
                    area.height,
                    ALL_PLANES,
                    ImageFormat::Z_PIXMAP.into(),
                    shared.segment,
                    0,
                )?;
                cookie.reply()?;
                pixels.resize(len, 0);
                if read(&shared.file, pixels).is_ok() {
                    return Ok(());
                }
                self.remote = true;
            }
        }
        let cookie = display.connection.get_image(
            ImageFormat::Z_PIXMAP,
            drawable,
            area.x,
            area.y,
            area.width,
            area.height,
            ALL_PLANES,
        )?;
        *pixels = cookie.reply()?.data;
        pixels.resize(len, 0);
        Ok(())
    }

    /// Gives the memory back.
    pub(super) fn release(&mut self, display: &Display) {
        if let Some(shared) = self.shared.take() {
            // A server that is gone has given it back already.
            let _ = display.connection.shm_detach(shared.segment);
            let _ = display.connection.flush();
        }
    }
}

/// Makes memory of `len` bytes that the server shares; `None` where it does not.
#[cfg(target_os = "linux")]
fn share(display: &Display, len: usize) -> Option<Shared> {
    let attach = || -> Result<Shared, ReplyOrIdError> {
        let memory = rustix::fs::memfd_create("screen", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .map_err(x11rb::errors::ConnectionError::from)?;
        let file = File::from(memory);
        file.set_len(len as u64)
            .map_err(x11rb::errors::ConnectionError::from)?;
        let theirs = file
            .try_clone()
            .map_err(x11rb::errors::ConnectionError::from)?;
        let segment = display.connection.generate_id()?;
        let fd = std::os::fd::OwnedFd::from(theirs);
        display
            .connection
            .shm_attach_fd(segment, fd, false)?
            .check()?;
        Ok(Shared { segment, file, len })
    };
    match attach() {
        Ok(shared) => Some(shared),
        Err(error) => {
            tracing::debug!(%error, "the X server shares no memory");
            None
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn share(_display: &Display, _len: usize) -> Option<Shared> {
    None
}

#[cfg(unix)]
fn read(file: &File, pixels: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, pixels, 0)
}

#[cfg(not(unix))]
fn read(_file: &File, _pixels: &mut [u8]) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
