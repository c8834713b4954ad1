//! Landline's media library: clocks and frames. Capture, codecs and packets will come here; the network
//! never does.

mod frame;
mod time;

pub use frame::{
    FrameError, MAX_CHANNELS, MAX_SAMPLES, MAX_SIDE, Picture, PictureSize, Plane, Sample, Samples,
};
pub use time::{AudioTime, ClockMap, Extender, MediaTime, VideoTime};
