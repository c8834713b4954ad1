//! Where pictures and sound come from: devices, files, and made-up ones that carry marks to measure by.
//!
//! A source is read by one thread that may wait for it; it paces itself, as a device does, and never queues
//! more than it must: what nobody reads in time is dropped, oldest first, and counted. A device that cannot be
//! had, or goes away, is an error with a plain text; what to do then (go on without it, try again) is decided
//! by who reads.

mod clock;
mod error;
#[cfg(feature = "devices")]
mod exchange;
mod marks;
mod open;
pub(crate) mod pace;
mod resample;
#[cfg(feature = "devices")]
pub(crate) mod ring;
pub(crate) mod spec;
pub mod stamp;
mod synthetic;
mod wav;
mod y4m;

#[cfg(feature = "devices")]
mod camera;
mod devices;
#[cfg(feature = "devices")]
pub(crate) mod host;
#[cfg(feature = "devices")]
mod microphone;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub(crate) mod pulse;
#[cfg(feature = "devices")]
mod screen;

use std::time::Duration;

use crate::{AudioTime, Picture, PictureSize};

#[cfg(not(feature = "devices"))]
pub(crate) use self::open::built_without;
pub(crate) use self::resample::Resampler;
pub use self::{
    clock::CaptureClock,
    devices::{Camera, Devices, Screen, SoundDevice, Window, list},
    error::CaptureError,
    marks::{MARK_PERIOD, Mark, MarkFinder, Tone},
    open::{PictureOptions, SoundOptions, open_pictures, open_sound},
    spec::{AudioSpec, SpecError, VideoSpec},
    synthetic::{PatternSource, ToneSource},
    wav::WavSource,
    y4m::Y4mSource,
};

/// Samples of a block of sound: 10 ms at 48 kHz, the unit of voice processing and the shortest packet that is
/// sent.
pub const BLOCK: usize = 480;

/// How long a block lasts.
pub const BLOCK_TIME: Duration = Duration::from_millis(10);

/// 10 ms of mono sound at 48 kHz, −1 to 1.
pub type SoundBlock = [f32; BLOCK];

/// What pictures show, which decides how they are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Cameras and films: smooth motion matters.
    Motion,
    /// Screens and windows: sharp text matters.
    Detail,
}

/// What a source of pictures gives.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureInfo {
    /// What to call it before a person.
    pub name: String,
    /// Size of the pictures now; it may change with a window's or a screen's.
    pub size: PictureSize,
    /// Pictures a second at most.
    pub frames_per_second: f32,
    /// What they show.
    pub content: Content,
}

/// A source of pictures.
pub trait PictureSource: Send {
    /// Waits for the next picture, `timeout` at most; `None` when there was none by then (a screen that does not
    /// change gives none for as long as it does not). Of pictures that came while nobody waited, only the newest
    /// is given. Files begin again at their end.
    ///
    /// # Errors
    /// [`CaptureError::Gone`] when the device went away: another one, or the same again, may be opened later. The
    /// source is of no more use after any error.
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError>;

    /// What it is.
    fn describe(&self) -> PictureInfo;

    /// Asks for `frames_per_second` at most, so that what nobody encodes is not captured; a source may give more.
    fn limit(&mut self, frames_per_second: f32);

    /// Pictures that came and were dropped, since a newer one came before anybody read them.
    fn dropped(&self) -> u64;
}

/// What a source of sound gives.
#[derive(Debug, Clone, PartialEq)]
pub struct SoundInfo {
    /// What to call it before a person.
    pub name: String,
    /// Samples a second that the device itself runs at.
    pub device_rate: u32,
    /// Whether what is played can come back through it (microphones: yes).
    pub hears_echo: bool,
}

/// A source of sound.
pub trait SoundSource: Send {
    /// Waits for the next 10 ms, `timeout` at most, and returns when the first sample was captured; `None`, with
    /// `block` untouched, when they were not complete by then. Files begin again at their end.
    ///
    /// The times are those of the clock given when it was opened, fitted to the samples that came: they follow
    /// each other at 480 ticks, less or more by a tick now and then as the device's clock runs fast or slow, and
    /// jump where sound was lost.
    ///
    /// # Errors
    /// [`CaptureError::Gone`] when the device went away. The source is of no more use after any error.
    fn read(
        &mut self,
        block: &mut SoundBlock,
        timeout: Duration,
    ) -> Result<Option<AudioTime>, CaptureError>;

    /// What it is.
    fn describe(&self) -> SoundInfo;

    /// Samples that were lost, since nobody read them for 200 ms.
    fn lost(&self) -> u64;
}
