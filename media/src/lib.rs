//! Landline's media library: from a camera to a screen and from a microphone to a loudspeaker, over
//! unreliable datagrams. It knows no network; what carries the datagrams is a [`Transport`].
//!
//! What decides is pure (time and randomness are arguments): [`packet`], [`history`], [`repair`], [`rate`],
//! [`pace`], [`jitter`], [`sync`], [`call`]. What touches codecs, files, devices or threads is behind the
//! features `codecs`, `voice`, `pipeline` and `devices`.

mod encoded;
mod frame;
mod ids;
mod time;
mod transport;

pub mod bitstream;
pub mod call;
pub mod history;
pub mod jitter;
pub mod pace;
pub mod packet;
pub mod rate;
pub mod repair;
pub mod stats;
pub mod sync;

#[cfg(feature = "codecs")]
pub mod convert;
#[cfg(feature = "codecs")]
pub mod decode;
#[cfg(feature = "codecs")]
pub mod encode;
#[cfg(feature = "codecs")]
pub mod record;

#[cfg(feature = "voice")]
pub mod voice;

#[cfg(feature = "pipeline")]
pub mod capture;
#[cfg(feature = "pipeline")]
pub mod measure;
#[cfg(feature = "pipeline")]
pub mod pipeline;
#[cfg(feature = "pipeline")]
pub mod playback;

pub use encoded::{EncodedPicture, EncodedSound};
pub use frame::{
    FrameError, MAX_CHANNELS, MAX_SAMPLES, MAX_SIDE, Picture, PictureSize, Plane, Sample, Samples,
};
pub use ids::{AUDIO, CAMERA, FrameNumber, MAX_STREAMS, SCREEN, Sequence, StreamId};
pub use time::{AudioTime, ClockMap, Extender, MediaTime, VideoTime};
pub use transport::{Budget, OtherTraffic, PathState, Transport, TransportError};
