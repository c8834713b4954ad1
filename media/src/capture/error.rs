//! Why something cannot be captured or played, in words for the person who asked for it.

use std::{io, path::PathBuf};

/// Why a device or file gives (or takes) no pictures or no sound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// There is no such thing.
    #[error("no {what}{}{}", Wanted(.wanted), Found(.found))]
    NotFound {
        /// The kind of thing: camera, microphone, …
        what: &'static str,
        /// How it was asked for; empty: any one.
        wanted: String,
        /// The names of those that are there.
        found: Vec<String>,
    },
    /// Another program has it.
    #[error("{name} is busy: another program uses it")]
    Busy {
        /// Which.
        name: String,
    },
    /// This user may not use it.
    #[error("{name} may not be used: permission denied")]
    Denied {
        /// Which.
        name: String,
    },
    /// It was there, and went away.
    #[error("{name} went away")]
    Gone {
        /// Which.
        name: String,
    },
    /// It offers nothing that we understand.
    #[error("{name} has no usable format: {reason}")]
    Format {
        /// Which.
        name: String,
        /// What was tried, or what it offers.
        reason: String,
    },
    /// There is no way to it on this machine, or this program was built without.
    #[error("no {what} can be used here: {reason}")]
    Unsupported {
        /// The kind of thing.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The device failed otherwise.
    #[error("{name} failed: {reason}")]
    Device {
        /// Which.
        name: String,
        /// What the system said.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl CaptureError {
    /// Whether it is worth trying again later with the same device: it may come back, or be let go.
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. } | Self::Busy { .. } | Self::Gone { .. } | Self::Device { .. }
        )
    }
}

/// ` named "x"`, or nothing.
struct Wanted<'a>(&'a str);

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " called \"{}\"", self.0)
        }
    }
}

/// What is there instead.
struct Found<'a>(&'a [String]);

impl std::fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            f.write_str(" found (there is none)")
        } else {
            write!(f, " found; there is: {}", self.0.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_named() {
        let error = |wanted: &str, found: &[&str]| {
            CaptureError::NotFound {
                what: "camera",
                wanted: wanted.to_owned(),
                found: found.iter().map(|&name| name.to_owned()).collect(),
            }
            .to_string()
        };
        assert_eq!(error("", &[]), "no camera found (there is none)");
        assert_eq!(
            error("C920", &["Integrated", "Virtual"]),
            "no camera called \"C920\" found; there is: Integrated, Virtual"
        );
    }
}
