//! Sinks as a command line names them.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::capture::{
    SpecError,
    spec::{is_file, split, write_which},
};

/// Where sound goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AudioSinkSpec {
    /// `none`: nowhere, at the speed of a loudspeaker.
    None,
    /// `speaker`, `speaker:1`, `speaker:NAME`: by number, or by a part of its name.
    Speaker(Option<String>),
    /// `PATH.wav`: into a file, at the speed of a loudspeaker.
    File(PathBuf),
}

/// Where pictures go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VideoSinkSpec {
    /// `none`: nowhere.
    None,
    /// `PATH.y4m`: into a file, uncompressed.
    File(PathBuf),
}

impl FromStr for AudioSinkSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if is_file(text, ".wav") {
            return Ok(Self::File(text.into()));
        }
        match split(text) {
            ("none", None) => Ok(Self::None),
            ("speaker", which) => Ok(Self::Speaker(which.map(str::to_owned))),
            _ => Err(SpecError::new(
                "sink of sound",
                text,
                "use speaker[:NAME], FILE.wav or none",
            )),
        }
    }
}

impl fmt::Display for AudioSinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Speaker(which) => write_which(f, "speaker", which.as_deref()),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FromStr for VideoSinkSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "none" => Ok(Self::None),
            path if is_file(path, ".y4m") => Ok(Self::File(path.into())),
            _ => Err(SpecError::new(
                "sink of pictures",
                text,
                "use FILE.y4m or none",
            )),
        }
    }
}

impl fmt::Display for VideoSinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_have_names() {
        for (text, spec) in [
            ("none", AudioSinkSpec::None),
            ("speaker", AudioSinkSpec::Speaker(None)),
            (
                "speaker:USB: 2",
                AudioSinkSpec::Speaker(Some("USB: 2".to_owned())),
            ),
            ("/x/out.wav", AudioSinkSpec::File("/x/out.wav".into())),
        ] {
            assert_eq!(text.parse(), Ok(spec.clone()));
            assert_eq!(spec.to_string(), text);
        }
        for (text, spec) in [
            ("none", VideoSinkSpec::None),
            ("out.y4m", VideoSinkSpec::File("out.y4m".into())),
        ] {
            assert_eq!(text.parse(), Ok(spec.clone()));
            assert_eq!(spec.to_string(), text);
        }
        let error = "out.mp4".parse::<VideoSinkSpec>().expect_err("no sink");
        assert_eq!(
            error.to_string(),
            "\"out.mp4\" is no sink of pictures: use FILE.y4m or none"
        );
        let error = "microphone".parse::<AudioSinkSpec>().expect_err("no sink");
        assert!(error.to_string().contains("speaker[:NAME]"));
    }
}
