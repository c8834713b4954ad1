//! From a name to a source.

use super::{
    AudioSpec, CaptureClock, CaptureError, PatternSource, PictureSource, SoundSource, ToneSource,
    VideoSpec, WavSource, Y4mSource,
};
use crate::PictureSize;

/// How pictures are to be captured.
#[derive(Debug, Clone, Copy)]
pub struct PictureOptions {
    /// What stamps their times.
    pub clock: CaptureClock,
    /// The size wished from a camera, which gives what it has that comes closest.
    pub size: PictureSize,
    /// Pictures a second, wished from a camera or a screen.
    pub frames_per_second: f32,
    /// Draw the number of each picture on top of a film's pictures ([`stamp`](super::stamp)); the pattern always
    /// has it.
    pub stamped: bool,
}

/// How sound is to be captured.
#[derive(Debug, Clone, Copy)]
pub struct SoundOptions {
    /// What stamps its times.
    pub clock: CaptureClock,
}

/// Opens a source of pictures; `None` for [`VideoSpec::None`].
///
/// # Errors
/// [`CaptureError`], with the names of what is there.
pub fn open_pictures(
    spec: &VideoSpec,
    options: &PictureOptions,
) -> Result<Option<Box<dyn PictureSource>>, CaptureError> {
    let clock = options.clock;
    Ok(Some(match spec {
        VideoSpec::None => return Ok(None),
        VideoSpec::Pattern {
            size,
            frames_per_second,
        } => Box::new(PatternSource::new(*size, *frames_per_second, clock)),
        VideoSpec::File(path) => Box::new(Y4mSource::open(path, clock, options.stamped)?),
        #[cfg(feature = "devices")]
        VideoSpec::Camera(which) => Box::new(super::camera::open(which.as_deref(), options)?),
        #[cfg(feature = "devices")]
        VideoSpec::Screen(which) => {
            super::screen::open(super::screen::Target::Screen(which.as_deref()), options)?
        }
        #[cfg(feature = "devices")]
        VideoSpec::Window(which) => {
            super::screen::open(super::screen::Target::Window(which), options)?
        }
        #[cfg(not(feature = "devices"))]
        VideoSpec::Camera(_) => return Err(built_without("camera")),
        #[cfg(not(feature = "devices"))]
        VideoSpec::Screen(_) | VideoSpec::Window(_) => return Err(built_without("screen")),
    }))
}

/// Opens a source of sound; `None` for [`AudioSpec::None`].
///
/// # Errors
/// [`CaptureError`], with the names of what is there.
pub fn open_sound(
    spec: &AudioSpec,
    options: &SoundOptions,
) -> Result<Option<Box<dyn SoundSource>>, CaptureError> {
    let clock = options.clock;
    Ok(Some(match spec {
        AudioSpec::None => return Ok(None),
        AudioSpec::Tone(pitch) => Box::new(ToneSource::new(*pitch, clock)),
        AudioSpec::File(path) => Box::new(WavSource::open(path, clock)?),
        #[cfg(feature = "devices")]
        AudioSpec::Microphone(which) => Box::new(super::microphone::open(which.as_deref(), clock)?),
        #[cfg(not(feature = "devices"))]
        AudioSpec::Microphone(_) => return Err(built_without("microphone")),
    }))
}

#[cfg(not(feature = "devices"))]
pub(crate) fn built_without(what: &'static str) -> CaptureError {
    CaptureError::Unsupported {
        what,
        reason: "this program was built without devices".to_owned(),
    }
}
