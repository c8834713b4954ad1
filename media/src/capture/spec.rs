//! Sources as a command line names them.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::PictureSize;

/// Size of the pattern unless said: what a call between two cameras has.
const PATTERN_SIZE: (u32, u32) = (1_280, 720);
/// Pictures a second of the pattern unless said.
const PATTERN_RATE: f32 = 30.0;
/// The range of picture rates that a pattern can have, a second.
const PATTERN_RATES: std::ops::RangeInclusive<f32> = 1.0..=240.0;
/// Pitch of the tone unless said, hertz: A4, which every loudspeaker has.
const TONE_PITCH: f32 = 440.0;
/// The range of pitches, hertz: what Opus keeps.
const TONE_PITCHES: std::ops::RangeInclusive<f32> = 20.0..=20_000.0;

/// Where pictures come from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum VideoSpec {
    /// `none`: nowhere.
    None,
    /// `camera`, `camera:1`, `camera:NAME`: a camera by number, or by a part of its name.
    Camera(Option<String>),
    /// `screen`, `screen:1`, `screen:NAME`: a monitor, or all of the desktop.
    Screen(Option<String>),
    /// `window:TITLE`, `window:0x1a0000b`: one window, by a part of its title or by its number.
    Window(String),
    /// `pattern`, `pattern:640x360`, `pattern:640x360@15`: a moving picture that carries frame stamps.
    Pattern {
        /// Size.
        size: PictureSize,
        /// Pictures a second.
        frames_per_second: f32,
    },
    /// `PATH.y4m`: a film, again and again.
    File(PathBuf),
}

/// Where sound comes from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AudioSpec {
    /// `none`: nowhere.
    None,
    /// `microphone`, `microphone:1`, `microphone:NAME`: by number, or by a part of its name.
    Microphone(Option<String>),
    /// `tone`, `tone:1000`: a tone with marks, hertz.
    Tone(f32),
    /// `PATH.wav`: a recording, again and again.
    File(PathBuf),
}

/// Why a text names no source or sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is no {what}: {reason}")]
pub struct SpecError {
    what: &'static str,
    given: String,
    reason: String,
}

impl SpecError {
    pub(crate) fn new(what: &'static str, given: &str, reason: impl Into<String>) -> Self {
        Self {
            what,
            given: given.to_owned(),
            reason: reason.into(),
        }
    }
}

/// `name` and what follows its colon.
pub(crate) fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((name, rest)) => (name, Some(rest).filter(|rest| !rest.is_empty())),
        None => (text, None),
    }
}

/// Whether `text` ends like a file of this kind; a path is one however it begins.
pub(crate) fn is_file(text: &str, ending: &str) -> bool {
    text.len() > ending.len()
        && text.is_char_boundary(text.len() - ending.len())
        && text[text.len() - ending.len()..].eq_ignore_ascii_case(ending)
}

impl FromStr for VideoSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = |reason: &str| SpecError::new("source of pictures", text, reason);
        if is_file(text, ".y4m") {
            return Ok(Self::File(text.into()));
        }
        let (name, rest) = split(text);
        match (name, rest) {
            ("none", None) => Ok(Self::None),
            ("camera", which) => Ok(Self::Camera(which.map(str::to_owned))),
            ("screen", which) => Ok(Self::Screen(which.map(str::to_owned))),
            ("window", Some(which)) => Ok(Self::Window(which.to_owned())),
            ("window", None) => Err(wrong("say which, as window:TITLE")),
            ("pattern", shape) => {
                pattern(shape.unwrap_or_default()).map_err(|reason| wrong(&reason))
            }
            _ => Err(wrong(
                "use camera[:NAME], screen[:MONITOR], window:TITLE, pattern[:WxH@FPS], FILE.y4m or none",
            )),
        }
    }
}

/// Reads `WxH@FPS`, either half of which may be missing.
fn pattern(shape: &str) -> Result<VideoSpec, String> {
    let (size, rate) = match shape.split_once('@') {
        Some((size, rate)) => (size, Some(rate)),
        None => (shape, None),
    };
    let (width, height) = if size.is_empty() {
        PATTERN_SIZE
    } else {
        size.split_once('x')
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
            .ok_or_else(|| format!("\"{size}\" is no size such as 640x360"))?
    };
    let frames_per_second = match rate {
        None => PATTERN_RATE,
        Some(rate) => rate
            .parse()
            .ok()
            .filter(|rate| PATTERN_RATES.contains(rate))
            .ok_or_else(|| format!("\"{rate}\" is no rate from 1 to 240 pictures a second"))?,
    };
    let size = PictureSize::new(width, height).map_err(|error| error.to_string())?;
    Ok(VideoSpec::Pattern {
        size,
        frames_per_second,
    })
}

impl fmt::Display for VideoSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Camera(which) => write_which(f, "camera", which.as_deref()),
            Self::Screen(which) => write_which(f, "screen", which.as_deref()),
            Self::Window(which) => write!(f, "window:{which}"),
            Self::Pattern {
                size,
                frames_per_second,
            } => write!(
                f,
                "pattern:{}x{}@{frames_per_second}",
                size.width(),
                size.height()
            ),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

pub(crate) fn write_which(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    which: Option<&str>,
) -> fmt::Result {
    match which {
        Some(which) => write!(f, "{name}:{which}"),
        None => f.write_str(name),
    }
}

impl FromStr for AudioSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = |reason: &str| SpecError::new("source of sound", text, reason);
        if is_file(text, ".wav") {
            return Ok(Self::File(text.into()));
        }
        match split(text) {
            ("none", None) => Ok(Self::None),
            ("microphone", which) => Ok(Self::Microphone(which.map(str::to_owned))),
            ("tone", None) => Ok(Self::Tone(TONE_PITCH)),
            ("tone", Some(pitch)) => pitch
                .parse()
                .ok()
                .filter(|pitch| TONE_PITCHES.contains(pitch))
                .map(Self::Tone)
                .ok_or_else(|| wrong("the pitch is a number from 20 to 20000 hertz")),
            _ => Err(wrong(
                "use microphone[:NAME], tone[:HERTZ], FILE.wav or none",
            )),
        }
    }
}

impl fmt::Display for AudioSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Microphone(which) => write_which(f, "microphone", which.as_deref()),
            Self::Tone(pitch) => write!(f, "tone:{pitch}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern_of(width: u32, height: u32, frames_per_second: f32) -> VideoSpec {
        VideoSpec::Pattern {
            size: PictureSize::new(width, height).expect("a size"),
            frames_per_second,
        }
    }

    #[test]
    fn sources_of_pictures_have_names() {
        for (text, spec, again) in [
            ("none", VideoSpec::None, "none"),
            ("camera", VideoSpec::Camera(None), "camera"),
            ("camera:", VideoSpec::Camera(None), "camera"),
            (
                "camera:USB: 2",
                VideoSpec::Camera(Some("USB: 2".to_owned())),
                "camera:USB: 2",
            ),
            (
                "screen:1",
                VideoSpec::Screen(Some("1".to_owned())),
                "screen:1",
            ),
            (
                "window:Notes",
                VideoSpec::Window("Notes".to_owned()),
                "window:Notes",
            ),
            (
                "pattern",
                pattern_of(1_280, 720, 30.0),
                "pattern:1280x720@30",
            ),
            (
                "pattern:640x360",
                pattern_of(640, 360, 30.0),
                "pattern:640x360@30",
            ),
            (
                "pattern:@12.5",
                pattern_of(1_280, 720, 12.5),
                "pattern:1280x720@12.5",
            ),
            (
                "./a b.Y4M",
                VideoSpec::File("./a b.Y4M".into()),
                "./a b.Y4M",
            ),
            (
                "C:\\film.y4m",
                VideoSpec::File("C:\\film.y4m".into()),
                "C:\\film.y4m",
            ),
        ] {
            let read: VideoSpec = text.parse().expect(text);
            assert_eq!(read, spec, "{text}");
            assert_eq!(read.to_string(), again);
            assert_eq!(again.parse(), Ok(spec));
        }
    }

    #[test]
    fn sources_of_sound_have_names() {
        for (text, spec, again) in [
            ("none", AudioSpec::None, "none"),
            ("microphone", AudioSpec::Microphone(None), "microphone"),
            (
                "microphone:desk",
                AudioSpec::Microphone(Some("desk".to_owned())),
                "microphone:desk",
            ),
            ("tone", AudioSpec::Tone(440.0), "tone:440"),
            ("tone:1000.5", AudioSpec::Tone(1_000.5), "tone:1000.5"),
            (
                "speech.wav",
                AudioSpec::File("speech.wav".into()),
                "speech.wav",
            ),
        ] {
            let read: AudioSpec = text.parse().expect(text);
            assert_eq!(read, spec, "{text}");
            assert_eq!(read.to_string(), again);
            assert_eq!(again.parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_no_source_says_what_would_be() {
        for (text, part) in [
            ("", "camera[:NAME]"),
            (".y4m", "camera[:NAME]"),
            ("film.mp4", "FILE.y4m"),
            ("none:1", "or none"),
            ("window", "window:TITLE"),
            ("window:", "window:TITLE"),
            ("pattern:640", "640x360"),
            ("pattern:641x360", "sides are even"),
            ("pattern:640x360@0", "from 1 to 240"),
            ("pattern:640x360@NaN", "from 1 to 240"),
            ("pattern:99999x2", "sides are even"),
        ] {
            let error = text.parse::<VideoSpec>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, part) in [
            ("speaker", "microphone[:NAME]"),
            ("tone:loud", "20 to 20000"),
            ("tone:inf", "20 to 20000"),
            ("x.mp3", "FILE.wav"),
        ] {
            let error = text.parse::<AudioSpec>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(spec) = text.parse::<VideoSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
            if let Ok(spec) = text.parse::<AudioSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }
    }
}
