//! What a pipeline is told at its start, and what it tells while it runs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capture::{AudioSpec, VideoSpec};
use crate::playback::{AudioSinkSpec, VideoSinkSpec};
use crate::voice::VoiceConfig;
use crate::{PictureSize, StreamId};

/// How a call begins. The default sends and plays nothing.
#[derive(Debug, Clone)]
pub struct Config {
    /// The camera, or what stands for it.
    pub camera: VideoSpec,
    /// What the camera is asked for; 1280×720 unless said. It gives what it has that is nearest.
    pub camera_size: Option<PictureSize>,
    /// The screen to share.
    pub screen: VideoSpec,
    /// What the screen shows is mostly text: it gets the larger share.
    pub screen_text: bool,
    /// The microphone, or what stands for it.
    pub microphone: AudioSpec,
    /// Where the other side's sound goes.
    pub speaker: AudioSinkSpec,
    /// Where the other side's camera goes (it is decoded even if nowhere).
    pub camera_sink: VideoSinkSpec,
    /// Where the other side's screen goes.
    pub screen_sink: VideoSinkSpec,
    /// Records what comes in, to this file.
    pub record: Option<PathBuf>,
    /// What is done to the microphone's sound.
    pub voice: VoiceConfig,
    /// The microphone is muted at first.
    pub muted: bool,
    /// Pictures with their repair take at most this, bits a second.
    pub video_cap_bits_per_sec: u64,
    /// Payload of sound, bits a second (24,000 to 48,000).
    pub audio_bits_per_sec: u64,
    /// What the path is taken to carry at first, bits a second.
    pub start_bits_per_sec: u64,
    /// Numbers are drawn on top of a film's pictures, to measure by ([`crate::capture::stamp`]).
    pub stamped: bool,
    /// What comes is what was sent: numbers are drawn, and the latency of pictures is measured by them.
    pub loopback: bool,
    /// Pictures may wait for up to three frame intervals to be shown evenly.
    pub smooth: bool,
    /// Writes down what passes when, into this folder ([`crate::measure`]); numbers are drawn then as well.
    pub measure: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            camera: VideoSpec::None,
            camera_size: None,
            screen: VideoSpec::None,
            screen_text: true,
            microphone: AudioSpec::None,
            speaker: AudioSinkSpec::None,
            camera_sink: VideoSinkSpec::None,
            screen_sink: VideoSinkSpec::None,
            record: None,
            voice: VoiceConfig::default(),
            muted: false,
            video_cap_bits_per_sec: 2_500_000,
            audio_bits_per_sec: 48_000,
            start_bits_per_sec: 600_000,
            stamped: false,
            loopback: false,
            smooth: false,
            measure: None,
        }
    }
}

/// How loud a call is at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Levels {
    /// Our sound as it is sent, dBFS (RMS of 10 ms); -100 is silence.
    pub ours_dbfs: f32,
    /// Somebody speaks here.
    pub speaks: bool,
    /// The other side's sound as it is played, dBFS, likewise.
    pub theirs_dbfs: f32,
}

/// Why a call's media cannot begin. A device that is missing is no reason: the call goes on without it, and
/// an [`Event::DeviceLost`] tells.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A thread could not be started.
    #[error("cannot start the thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A codec could not be set up.
    #[error("cannot set up {0}")]
    Codec(String),
    /// The folder for measurements could not be made.
    #[error("cannot write measurements")]
    Measure(#[source] std::io::Error),
    /// The recording could not be begun.
    #[error("cannot record")]
    Record(#[from] crate::record::RecordError),
}

/// Which device, or what stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Device {
    /// The camera.
    Camera,
    /// The screen.
    Screen,
    /// The microphone.
    Microphone,
    /// The loudspeaker.
    Speaker,
    /// Where pictures go.
    PictureSink,
    /// The recording.
    Recording,
}

/// What happens during a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// A device works (again).
    DeviceOpened {
        /// Which.
        device: Device,
        /// As it calls itself.
        name: String,
    },
    /// A device cannot be used, or not any more; the call goes on without it.
    DeviceLost {
        /// Which.
        device: Device,
        /// Why, to be shown.
        reason: String,
    },
    /// A source made of a file has come to its end.
    SourceEnded(Device),
    /// The other side's first picture of this stream was shown.
    FirstPicture {
        /// Which stream.
        stream: StreamId,
        /// Since the pipeline began.
        after: Duration,
    },
    /// The other side's pictures stood still.
    Freeze {
        /// Which stream.
        stream: StreamId,
        /// For so long.
        duration: Duration,
    },
    /// Nothing comes from the other side.
    Reconnecting,
    /// It does again.
    Back {
        /// For how long nothing came.
        after: Duration,
    },
    /// Nothing has come for 30 s: the call should end.
    Dead,
    /// Somebody speaks here, or no longer.
    LocalVoice(bool),
    /// Somebody speaks there, or no longer.
    RemoteVoice(bool),
    /// A recording is finished, in these files.
    Recorded(Vec<PathBuf>),
}
