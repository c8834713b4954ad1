//! Pictures to H.264, constrained baseline, one frame in and one frame out.

use bytes::Bytes;
use tracing::debug;

use super::backend::openh264::{Backend, Recovery};
use super::references::{Frame, References};
use crate::bitstream::{BitstreamError, MAX_MACROBLOCKS};
use crate::{EncodedPicture, FrameNumber, Picture, PictureSize};

/// The shortest side that the library takes, pixels.
const MIN_SIDE: u32 = 16;
/// Frame rates that the library takes, pictures a second.
const FRAME_RATES: (f32, f32) = (1.0, 60.0);

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
    /// Pictures a second, 1 to 60, which the rate is divided among: say what really comes, or the rate is
    /// missed by as much.
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
    /// A side under 16 pixels, or more pixels than 4096×2304 have (level 5.2).
    #[error("pictures of {}x{} are too small or too large to encode", .0.width(), .0.height())]
    Size(PictureSize),
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
    /// The library wrote what cannot be understood.
    #[error("the H.264 encoder made a frame that cannot be read")]
    Output(#[source] BitstreamError),
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
    /// `None` after a failure: the next frame makes a new one.
    backend: Option<Backend>,
    references: References,
    next: FrameNumber,
    wanted: Wanted,
    /// The newest long-term reference that the other side is known to have.
    confirmed: Option<FrameNumber>,
    buffer: Vec<u8>,
    /// Of the newest frame.
    quantizer: Option<u8>,
}

/// What the next frame shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// What is cheapest.
    Any,
    /// One that a side with this last good frame can decode.
    Recovery(FrameNumber),
    /// A key frame.
    Key,
}

impl PictureEncoder {
    /// Sets up an encoder; its first frame is a key frame. Costs some milliseconds: do it before the call.
    ///
    /// # Errors
    /// [`EncodeError::Size`], [`EncodeError::Library`].
    pub fn new(config: PictureConfig) -> Result<Self, EncodeError> {
        let config = PictureConfig {
            bits_per_second: config.bits_per_second.max(1),
            frames_per_second: possible(config.frames_per_second),
            ..config
        };
        check_size(config.size)?;
        Ok(Self {
            backend: Some(Backend::new(&config)?),
            references: References::default(),
            next: config.first_frame,
            wanted: Wanted::Any,
            confirmed: None,
            buffer: Vec::new(),
            quantizer: None,
            config,
        })
    }

    /// Encodes one picture. `None`: the library skipped it, and no number is used up.
    ///
    /// # Errors
    /// [`EncodeError::OtherSize`]; [`EncodeError::Library`], after which the next frame is a key frame.
    pub fn encode(&mut self, picture: &Picture) -> Result<Option<EncodedPicture>, EncodeError> {
        if picture.size() != self.config.size {
            return Err(EncodeError::OtherSize {
                set: self.config.size,
                got: picture.size(),
            });
        }
        let encoded = self.encode_wanted(picture);
        if encoded.is_err() {
            self.backend = None;
        }
        encoded
    }

    fn encode_wanted(&mut self, picture: &Picture) -> Result<Option<EncodedPicture>, EncodeError> {
        self.steer()?;
        let Some((mut frame, mut layer)) = self.attempt(picture)? else {
            return Ok(None);
        };
        if !self.fits(&frame) {
            debug!(
                frame = frame.number,
                "no usable reference: a key frame instead"
            );
            self.backend()?.force_key();
            let Some(again) = self.attempt(picture)? else {
                return Ok(None);
            };
            (frame, layer) = again;
        }
        // A frame of the top layer may come before the base frame that recovers.
        if frame.kept {
            self.wanted = Wanted::Any;
        }
        self.next += 1;
        self.quantizer = frame.quantizer;
        let distance = frame.refers_to.map_or(0, |earlier| frame.number - earlier);
        Ok(Some(EncodedPicture {
            time: picture.time,
            data: Bytes::copy_from_slice(&self.buffer),
            key: frame.key,
            parameter_sets: frame.parameter_sets,
            layer,
            discardable: !frame.kept,
            long_term: frame.long_term,
            // `fits` saw to it, and a key frame has none.
            reference_distance: u8::try_from(distance).unwrap_or(u8::MAX),
        }))
    }

    /// Passes on what is wanted of the next frame.
    fn steer(&mut self) -> Result<(), EncodeError> {
        self.backend()?;
        if let Wanted::Recovery(last_good) = self.wanted {
            match self.recovery(last_good) {
                Some(recovery) => self.backend()?.recover(recovery)?,
                None => self.wanted = Wanted::Key,
            }
        }
        if self.wanted == Wanted::Key {
            self.backend()?.force_key();
        }
        // Each time, since the library forgets what it is told too early; it marks no other until it knows.
        let confirmed = self
            .confirmed
            .and_then(|number| self.references.get(number));
        if let Some(&Frame {
            key_id, frame_num, ..
        }) = confirmed
        {
            self.backend()?.confirm(key_id, frame_num)?;
        }
        Ok(())
    }

    /// How to ask for recovery, if there is a reference to recover from.
    fn recovery(&self, last_good: FrameNumber) -> Option<Recovery> {
        if !self.config.long_term || self.config.content == Content::Screen {
            return None;
        }
        let newest = self.references.newest()?;
        self.recovers(last_good)?;
        Some(Recovery {
            key_id: newest.key_id,
            last_good: self.references.get(last_good)?.frame_num,
            newest: newest.frame_num,
        })
    }

    /// The newest long-term reference that a side with `last_good` has, and that the library knows it to
    /// have: a key frame it takes for granted.
    fn recovers(&self, last_good: FrameNumber) -> Option<FrameNumber> {
        let confirmed = self.confirmed.unwrap_or(0);
        let mut ancestry = self.references.ancestry(last_good);
        let found =
            ancestry.find(|frame| frame.long_term && (frame.key || frame.number <= confirmed))?;
        Some(found.number)
    }

    /// Encodes into the buffer, and reads what came.
    fn attempt(&mut self, picture: &Picture) -> Result<Option<(Frame, u8)>, EncodeError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let layer = self.backend()?.encode(picture, &mut buffer);
        self.buffer = buffer;
        let Some(layer) = layer? else {
            return Ok(None);
        };
        let frame = self
            .references
            .add(self.next, &self.buffer)
            .map_err(EncodeError::Output)?;
        Ok(Some((frame, layer)))
    }

    /// Whether the frame can be sent: its reference can be named, and is one that the other side has if that
    /// was asked for.
    fn fits(&self, frame: &Frame) -> bool {
        let Some(earlier) = frame.refers_to else {
            return frame.key || self.wanted == Wanted::Any;
        };
        let near = frame.number - earlier <= u64::from(u8::MAX);
        near && match self.wanted {
            Wanted::Any => true,
            Wanted::Key => !frame.kept,
            Wanted::Recovery(last_good) => {
                let mut known = self.references.ancestry(last_good);
                !frame.kept || known.any(|known| known.number == earlier)
            }
        }
    }

    fn backend(&mut self) -> Result<&mut Backend, EncodeError> {
        match &mut self.backend {
            Some(backend) => Ok(backend),
            none => {
                self.references.clear();
                self.confirmed = None;
                Ok(none.insert(Backend::new(&self.config)?))
            }
        }
    }

    /// Aims at another rate from the next frame on, without a key frame.
    ///
    /// # Errors
    /// [`EncodeError::Library`].
    pub fn set_rate(
        &mut self,
        bits_per_second: u32,
        frames_per_second: f32,
    ) -> Result<(), EncodeError> {
        self.config.bits_per_second = bits_per_second.max(1);
        self.config.frames_per_second = possible(frames_per_second);
        let PictureConfig {
            bits_per_second,
            frames_per_second,
            ..
        } = self.config;
        self.backend()?.set_rate(bits_per_second, frames_per_second)
    }

    /// Takes pictures of another size from now on; the next frame has new parameter sets and is a key frame.
    ///
    /// # Errors
    /// [`EncodeError::Size`], which changes nothing; [`EncodeError::Library`].
    pub fn set_size(&mut self, size: PictureSize) -> Result<(), EncodeError> {
        check_size(size)?;
        self.reconfigure(PictureConfig {
            size,
            ..self.config
        })
    }

    /// Switches the second temporal layer on or off; if that is a change, the next frame is a key frame.
    ///
    /// # Errors
    /// [`EncodeError::Library`].
    pub fn set_layered(&mut self, layered: bool) -> Result<(), EncodeError> {
        self.reconfigure(PictureConfig {
            layered,
            ..self.config
        })
    }

    fn reconfigure(&mut self, config: PictureConfig) -> Result<(), EncodeError> {
        if config != self.config {
            self.config = config;
            // The library would take itself down and up again as well.
            self.backend = None;
            self.backend()?;
        }
        Ok(())
    }

    /// Makes the next frame a key frame.
    pub fn request_key(&mut self) {
        self.wanted = Wanted::Key;
    }

    /// Makes the next frame (with layers: the next base frame) one that can be decoded by a side whose last
    /// good frame is `last_good`: from a long-term reference that it is known to have, else a key frame.
    /// [`EncodedPicture::reference_distance`] tells what it became.
    pub fn request_recovery(&mut self, last_good: FrameNumber) {
        if self.wanted != Wanted::Key {
            self.wanted = Wanted::Recovery(last_good);
        }
    }

    /// The other side decoded frame `decoded`, and therefore all that it builds on: long-term references
    /// among them may be used for recovery. Cheap; call it for each report.
    pub fn ltr_feedback(&mut self, decoded: FrameNumber) {
        let mut ancestry = self.references.ancestry(decoded);
        if let Some(marked) = ancestry.find(|frame| frame.long_term) {
            self.confirmed = self.confirmed.max(Some(marked.number));
        }
    }

    /// The number that the next frame will have.
    pub const fn next_frame(&self) -> FrameNumber {
        self.next
    }

    /// The quantizer of the newest frame, 0 (fine) to 51 (coarse): its first slice's.
    pub const fn quantizer(&self) -> Option<u8> {
        self.quantizer
    }

    /// The size that pictures must have now.
    pub const fn size(&self) -> PictureSize {
        self.config.size
    }
}

const fn possible(frames_per_second: f32) -> f32 {
    // What is no number becomes the least.
    frames_per_second.max(FRAME_RATES.0).min(FRAME_RATES.1)
}

fn check_size(size: PictureSize) -> Result<(), EncodeError> {
    let (width, height) = (size.width(), size.height());
    let macroblocks = width.div_ceil(16) * height.div_ceil(16);
    if width < MIN_SIDE || height < MIN_SIDE || macroblocks > MAX_MACROBLOCKS {
        return Err(EncodeError::Size(size));
    }
    Ok(())
}
