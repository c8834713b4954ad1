//! From a name to a sink.

use super::{
    AudioSinkSpec, NullSink, PictureSink, PlayError, SoundSink, VideoSinkSpec, WavSink, Y4mSink,
};
use crate::PictureSize;

/// How pictures are to be presented.
#[derive(Debug, Clone, Copy, Default)]
pub struct PictureSinkOptions {
    /// The size of a film; `None`: that of the first picture.
    pub size: Option<PictureSize>,
    /// What stands in the head of a film, pictures a second.
    pub frames_per_second: u32,
}

/// Opens a sink of pictures; `None` for [`VideoSinkSpec::None`].
///
/// # Errors
/// [`PlayError`].
pub fn open_pictures(
    spec: &VideoSinkSpec,
    options: &PictureSinkOptions,
) -> Result<Option<Box<dyn PictureSink>>, PlayError> {
    Ok(match spec {
        VideoSinkSpec::None => None,
        VideoSinkSpec::File(path) => Some(Box::new(Y4mSink::create(
            path,
            options.size,
            options.frames_per_second,
        )?)),
    })
}

/// Opens a sink of sound. [`AudioSinkSpec::None`] is one as well: somebody must pace the sound that nobody hears.
///
/// # Errors
/// [`PlayError`], with the names of what is there.
pub fn open_sound(spec: &AudioSinkSpec) -> Result<Box<dyn SoundSink>, PlayError> {
    Ok(match spec {
        AudioSinkSpec::None => Box::new(NullSink::new()),
        AudioSinkSpec::File(path) => Box::new(WavSink::create(path)?),
        #[cfg(feature = "devices")]
        AudioSinkSpec::Speaker(which) => super::speaker::open(which.as_deref())?,
        #[cfg(not(feature = "devices"))]
        AudioSinkSpec::Speaker(_) => {
            return Err(crate::capture::built_without("speaker"));
        }
    })
}
