//! Where pictures and sound go: loudspeakers, files, nowhere.
//!
//! A sink of sound paces who feeds it: [`SoundSink::wait`] returns when it wants the next 10 ms, so that these
//! can be made as late as possible. A sink of pictures takes them as they come.

#[cfg(all(feature = "devices", target_os = "linux"))]
mod depth;
mod open;
mod pace;
#[cfg(all(feature = "devices", target_os = "linux"))]
mod pulse;
#[cfg(feature = "devices")]
mod speaker;
mod spec;
mod wav;
mod y4m;

use std::time::Duration;

use crate::{Picture, capture::SoundBlock};

/// Why something cannot be played; the same reasons as for capture.
pub use crate::capture::CaptureError as PlayError;

pub use self::{
    open::{PictureSinkOptions, open_pictures, open_sound},
    pace::NullSink,
    spec::{AudioSinkSpec, VideoSinkSpec},
    wav::WavSink,
    y4m::Y4mSink,
};

/// Takes pictures.
pub trait PictureSink: Send {
    /// Shows or stores `picture`, at once.
    ///
    /// # Errors
    /// [`PlayError`]; the sink is of no more use then.
    fn present(&mut self, picture: &Picture) -> Result<(), PlayError>;
}

/// What a sink of sound counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoundCounts {
    /// Samples played (underruns not counted).
    pub played: u64,
    /// Times that the device wanted samples and had none.
    pub underruns: u64,
    /// Samples made up on underruns: the last ones again, faded out within 5 ms, then silence.
    pub made_up: u64,
}

/// Takes sound, and says when it wants more.
pub trait SoundSink: Send {
    /// Waits until the sink wants another block, `timeout` at most. Returns whether it wants one.
    ///
    /// # Errors
    /// [`PlayError::Gone`] when the device went away; the sink is of no more use after any error.
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError>;

    /// Gives it a block; never waits. A block that the sink did not want ([`SoundSink::wait`]) is taken while
    /// there is room (200 ms), then dropped.
    ///
    /// # Errors
    /// [`PlayError`].
    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError>;

    /// How long it will take until the next block that is written is heard, as far as the system tells.
    fn level(&self) -> Duration;

    /// What was really played, underruns included, for echo cancellation; `None` where there can be no echo, and
    /// when it was taken before.
    fn take_reference(&mut self) -> Option<EchoReference>;

    /// What it counted.
    fn counts(&self) -> SoundCounts;
}

/// The sound that a loudspeaker plays, as it is handed to the device. It may be read by another thread than the
/// one that writes the sink.
pub struct EchoReference(Box<dyn FnMut(&mut SoundBlock) -> bool + Send>);

impl EchoReference {
    /// From what fills a block, or returns false.
    #[cfg(feature = "devices")]
    pub(crate) fn new(fill: impl FnMut(&mut SoundBlock) -> bool + Send + 'static) -> Self {
        Self(Box::new(fill))
    }

    /// Copies the next 10 ms that were played (mono, 48 kHz), if they are complete; never waits. 200 ms are kept;
    /// what was not read by then is lost.
    pub fn read(&mut self, block: &mut SoundBlock) -> bool {
        (self.0)(block)
    }
}

impl std::fmt::Debug for EchoReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EchoReference").finish_non_exhaustive()
    }
}
