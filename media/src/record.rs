//! Recordings: fragmented MP4 that survives a crash.
//!
//! A file begins with what a player needs to know and goes on with fragments of about a second, each written
//! as a whole: what is cut off in the middle plays up to its last whole fragment.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::{EncodedPicture, EncodedSound};

/// Why a recording cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file cannot be made or written.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Writes one stream of pictures and one of sound to a file. A picture of another size begins the next file,
/// "name (2).mp4"; nothing that exists is overwritten.
#[derive(Debug)]
pub struct Recorder {}

impl Recorder {
    /// Begins a recording to `path`, with sound of `channels`. The file is made by the first second of
    /// content.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn create(_path: &Path, _channels: u8) -> Result<Self, RecordError> {
        Ok(Self {})
    }

    /// Adds a picture that was captured `at`. What comes before the first key frame is left out.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn picture(&mut self, _picture: &EncodedPicture, _at: Instant) -> Result<(), RecordError> {
        todo!()
    }

    /// Adds a packet of sound that was captured `at`.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn sound(&mut self, _sound: &EncodedSound, _at: Instant) -> Result<(), RecordError> {
        todo!()
    }

    /// Writes what is left, and tells which files there are.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn finish(self) -> Result<Vec<PathBuf>, RecordError> {
        todo!()
    }
}
