//! Screens and windows, on X11.
//!
//! Where there is no X server, as under Wayland alone or on other systems, there is a plain error: their ways to
//! a screen ask the person through the desktop, which this program does not do yet.

mod display;
mod image;
mod pointer;
mod source;

use super::{CaptureError, PictureOptions, PictureSource, Screen, Window};

use self::{display::Display, source::ScreenSource};

/// What is to be captured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// A monitor by number or name; `all` is the desktop with all of them; the main one unless said.
    Screen(Option<&'a str>),
    /// A window by number or a part of its title.
    Window(&'a str),
}

/// Opens a screen or a window.
pub(super) fn open(
    target: Target<'_>,
    options: &PictureOptions,
) -> Result<Box<dyn PictureSource>, CaptureError> {
    let display = Display::open()?;
    let source = match target {
        Target::Screen(wanted) => ScreenSource::monitor(display, wanted, options)?,
        Target::Window(wanted) => ScreenSource::window(display, wanted, options)?,
    };
    Ok(Box::new(source))
}

/// All monitors and visible windows.
pub(super) fn list() -> Result<(Vec<Screen>, Vec<Window>), CaptureError> {
    let display = Display::open()?;
    let screens = display
        .monitors()?
        .into_iter()
        .zip(0..)
        .map(|(monitor, number)| Screen {
            number,
            name: monitor.name,
            width: u32::from(monitor.area.width),
            height: u32::from(monitor.area.height),
            default: number == 0,
        })
        .collect();
    Ok((screens, display.windows()?))
}
