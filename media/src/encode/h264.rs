//! Pictures to H.264, constrained baseline, one frame in and one frame out.

use crate::{EncodedPicture, FrameNumber, Picture, PictureSize};

/// What the pictures show; it chooses the encoder's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// A camera: motion and noise; long-term references are possible.
    #[default]
    Camera,
    /// A screen: sharp edges, mostly still. Recovery is always by a key frame.
    Screen,
}

/// How a [`PictureEncoder`] begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureConfig {
    /// Size of the pictures to come.
    pub size: PictureSize,
    /// What they show.
    pub content: Content,
    /// What the stream may take, bits a second.
    pub bits_per_second: u32,
    /// Pictures a second, which the rate is divided among.
    pub frames_per_second: f32,
    /// Every second frame is one that no other refers to (two temporal layers); a change takes an IDR.
    pub layered: bool,
    /// Keep long-term references, so that [`PictureEncoder::request_recovery`] need not mean an IDR. Camera
    /// only.
    pub long_term: bool,
    /// The number of the first frame.
    pub first_frame: FrameNumber,
}

/// Why there is no encoder, or no frame from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// More pixels than the encoder can do (level 5.2).
    #[error("pictures of {}x{} are too large to encode", .0.width(), .0.height())]
    TooLarge(PictureSize),
    /// The picture has not the size that the encoder was set to.
    #[error("a picture of {}x{} came where {}x{} was set", .got.width(), .got.height(), .set.width(), .set.height())]
    OtherSize {
        /// What the encoder was set to.
        set: PictureSize,
        /// What came.
        got: PictureSize,
    },
    /// The library refused.
    #[error("the H.264 encoder failed to {action}, code {code}")]
    Library {
        /// What it was to do.
        action: &'static str,
        /// Its reason, as a number.
        code: i32,
    },
}

/// An H.264 encoder of one stream.
///
/// Frames are counted from [`PictureConfig::first_frame`], one for each picture that [`encode`] gives out;
/// give the stream's frames the same numbers, and the requests mean the right ones.
///
/// [`encode`]: Self::encode
#[derive(Debug)]
pub struct PictureEncoder {
    config: PictureConfig,
}

impl PictureEncoder {
    /// Sets up an encoder; its first frame is a key frame. Costs some milliseconds: do it before the call.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`], [`EncodeError::Library`].
    pub fn new(config: PictureConfig) -> Result<Self, EncodeError> {
        Ok(Self { config })
    }

    /// Encodes one picture. `None`: the library skipped it, and no number is used up.
    ///
    /// # Errors
    /// [`EncodeError::OtherSize`], [`EncodeError::Library`]; the next picture will be a key frame then.
    pub fn encode(&mut self, _picture: &Picture) -> Result<Option<EncodedPicture>, EncodeError> {
        todo!()
    }

    /// Aims at another rate from the next frame on, without a key frame.
    ///
    /// # Errors
    /// [`EncodeError::Library`].
    pub fn set_rate(
        &mut self,
        _bits_per_second: u32,
        _frames_per_second: f32,
    ) -> Result<(), EncodeError> {
        todo!()
    }

    /// Takes pictures of another size from now on; the next frame has new parameter sets and is a key frame.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`], [`EncodeError::Library`].
    pub fn set_size(&mut self, _size: PictureSize) -> Result<(), EncodeError> {
        todo!()
    }

    /// Switches the second temporal layer on or off; if that is a change, the next frame is a key frame.
    ///
    /// # Errors
    /// [`EncodeError::Library`].
    pub fn set_layered(&mut self, _layered: bool) -> Result<(), EncodeError> {
        todo!()
    }

    /// Makes the next frame a key frame.
    pub fn request_key(&mut self) {
        todo!()
    }

    /// Makes the next frame one that can be decoded by an end whose last good frame is `last_good`: by a
    /// long-term reference that it is known to have, else by a key frame. Look at the next frames'
    /// [`EncodedPicture::reference_distance`] for what it became.
    pub fn request_recovery(&mut self, _last_good: FrameNumber) {
        todo!()
    }

    /// The other side decoded frame `decoded`, and therefore all that it refers to: long-term references
    /// among them may be used for recovery. Cheap; call it for each report.
    pub fn ltr_feedback(&mut self, _decoded: FrameNumber) {
        todo!()
    }

    /// The number that the next frame will have.
    pub const fn next_frame(&self) -> FrameNumber {
        self.config.first_frame
    }

    /// The size that pictures must have now.
    pub const fn size(&self) -> PictureSize {
        self.config.size
    }
}
