//! What a person wants to send and hear in a call, as it was typed, and what the media library makes of it.

use std::path::PathBuf;

use media::PictureSize;
use media::capture::{AudioSpec, VideoSpec};
use media::pipeline::Config;
use media::playback::{AudioSinkSpec, VideoSinkSpec};
use media::voice::VoiceConfig;
use serde::{Deserialize, Serialize};

use crate::Problem;
use crate::wire::{Sources, StreamEntry, codec_id, stream_use};

/// Sources and sinks of one side, by the names that `landline devices` shows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaChoice {
    /// The camera, or what stands for it.
    pub video: Option<String>,
    /// The screen or window to share.
    pub screen: Option<String>,
    /// The microphone, or what stands for it.
    pub audio: Option<String>,
    /// Where the other side's sound goes.
    pub speaker: Option<String>,
    /// Where the other side's pictures go.
    pub save_video: Option<PathBuf>,
    /// Where the call is recorded.
    pub record: Option<PathBuf>,
    /// Where what passes when is written down.
    pub measure: Option<PathBuf>,
    /// The microphone is muted at first.
    pub muted: bool,
    /// The microphone's sound is left as it is.
    pub raw_voice: bool,
    /// Pictures take at most this, 1,000 bits a second.
    pub max_kilobits: Option<u32>,
    /// The other side is asked for no more than this, 1,000 bits a second.
    pub max_kilobits_in: Option<u32>,
    /// What the camera is asked for, pixels across and down.
    pub size: Option<(u32, u32)>,
}

fn spec<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: Option<&str>,
    none: T,
) -> Result<T, Problem> {
    text.map_or(Ok(none), |text| {
        text.parse()
            .map_err(|error: T::Err| Problem::usage(error.to_string()))
    })
}

impl MediaChoice {
    /// What the media library is told.
    ///
    /// # Errors
    /// A name that names no source or sink.
    pub fn config(&self) -> Result<Config, Problem> {
        let save = self
            .save_video
            .as_ref()
            .map(|path| path.display().to_string());
        let mut config = Config {
            camera: spec(self.video.as_deref(), VideoSpec::None)?,
            screen: spec(self.screen.as_deref(), VideoSpec::None)?,
            microphone: spec(self.audio.as_deref(), AudioSpec::None)?,
            speaker: spec(self.speaker.as_deref(), AudioSinkSpec::None)?,
            camera_sink: spec(save.as_deref(), VideoSinkSpec::None)?,
            record: self.record.clone(),
            measure: self.measure.clone(),
            muted: self.muted,
            ..Config::default()
        };
        if self.raw_voice {
            config.voice = VoiceConfig {
                echo: false,
                noise: false,
                gain: false,
            };
        }
        if let Some(kilobits) = self.max_kilobits {
            config.video_cap_bits_per_sec = u64::from(kilobits) * 1_000;
        }
        if let Some((width, height)) = self.size {
            let size = PictureSize::new(width, height)
                .map_err(|error| Problem::usage(error.to_string()))?;
            config.camera_size = Some(size);
        }
        Ok(config)
    }

    /// What we say of our sources at first.
    pub fn sources(&self) -> Sources {
        let has = |text: &Option<String>| is_source(text.as_deref());
        Sources {
            audio: has(&self.audio),
            muted: self.muted,
            camera: has(&self.video),
            screen: has(&self.screen),
            held: false,
            max_kilobits: self.max_kilobits_in.unwrap_or(0),
        }
    }
}

/// Whether a name stands for something.
pub(crate) fn is_source(name: Option<&str>) -> bool {
    name.is_some_and(|name| name != "none")
}

/// The streams that this version may send.
pub fn streams() -> Vec<StreamEntry> {
    let video = |id: u8, carries| StreamEntry {
        id,
        carries,
        codec: codec_id::H264,
        clock_rate: 90_000,
        max_width: 1_920,
        max_height: 1_080,
        layers: 1,
        references: 0,
    };
    vec![
        StreamEntry {
            id: media::AUDIO.0,
            carries: stream_use::AUDIO,
            codec: codec_id::OPUS,
            clock_rate: 48_000,
            max_width: 0,
            max_height: 0,
            layers: 1,
            references: 0,
        },
        video(media::CAMERA.0, stream_use::CAMERA),
        video(media::SCREEN.0, stream_use::SCREEN),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_sources_or_a_usage_error() {
        let choice = MediaChoice {
            video: Some("pattern:640x360".to_owned()),
            audio: Some("none".to_owned()),
            raw_voice: true,
            max_kilobits: Some(500),
            max_kilobits_in: Some(300),
            size: Some((640, 360)),
            ..MediaChoice::default()
        };
        let config = choice.config().expect("names");
        assert!(matches!(config.camera, VideoSpec::Pattern { .. }));
        assert_eq!(config.video_cap_bits_per_sec, 500_000);
        assert!(!config.voice.echo);
        assert_eq!(config.camera_size.map(|size| size.width()), Some(640));
        assert_eq!(choice.sources().max_kilobits, 300);
        let sources = choice.sources();
        assert!(sources.camera && !sources.audio && !sources.screen);
        let wrong = MediaChoice {
            speaker: Some("trumpet".to_owned()),
            ..MediaChoice::default()
        };
        let problem = wrong.config().expect_err("no such sink");
        assert_eq!(problem.exit, crate::Exit::Usage);
        assert!(problem.what.contains("trumpet"), "{problem}");
    }
}
