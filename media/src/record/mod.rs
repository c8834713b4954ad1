//! Recordings: fragmented MP4 that survives a crash.
//!
//! A file begins with what a player needs to know and goes on with fragments of about a second, each written
//! as a whole: what is cut off in the middle plays up to its last whole fragment. Writing blocks; it belongs
//! on a thread of its own.

mod file;
mod timeline;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::file::Writer;
use self::timeline::Timeline;
use crate::bitstream::{GapCloser, NalKind, Sps, nal_units};
use crate::{EncodedPicture, EncodedSound, PictureSize};

/// How long sound waits for the first picture, before it becomes a file without pictures; also what a crash
/// may lose at the beginning.
const WAIT_FOR_PICTURES: Duration = Duration::from_secs(1);
/// Packets of sound that wait for the first picture at most: twice as many as come in that time.
const MAX_EARLY: usize = 200;
/// Room on the time line before what came first: sound that was captured earlier may come later.
const HEADROOM: Duration = Duration::from_secs(2);

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
    /// The pictures do not fit into the container.
    #[error("cannot put the stream into {}", path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Writes one stream of pictures and one of sound to a file. A picture of another size begins the next file,
/// "name (2).mp4"; nothing that exists is overwritten.
///
/// Only pictures whose references were recorded as well may be given to it: of a received stream, those that
/// were decoded.
#[derive(Debug)]
pub struct Recorder {
    writer: Writer,
    /// The moment of zero on the time line.
    zero: Option<Instant>,
    pictures: Timeline<90_000>,
    sounds: Timeline<48_000>,
    gaps: GapCloser,
    /// Sound before the first picture, with its place on the time line.
    early: Vec<(u64, EncodedSound)>,
    /// Parameter sets of the open file, if it has pictures.
    stream: Option<ParameterSets>,
}

/// What a file says of its pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ParameterSets {
    size: PictureSize,
    sps: Vec<u8>,
    pps: Vec<u8>,
}

impl Recorder {
    /// Begins a recording to `path`, with sound of `channels` (1 or 2). The file is made at once, so that an
    /// impossible path is known early; where a file is already, the name gets a number.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn create(path: &Path, channels: u8) -> Result<Self, RecordError> {
        Ok(Self {
            writer: Writer::create(path, channels)?,
            zero: None,
            pictures: Timeline::default(),
            sounds: Timeline::default(),
            gaps: GapCloser::default(),
            early: Vec::new(),
            stream: None,
        })
    }

    /// Adds a picture that was captured `at`, in the order of decoding. What comes before the first key frame
    /// is left out: ask for one when a recording begins.
    ///
    /// # Errors
    /// [`RecordError`]; the recording may go on with the next picture.
    pub fn picture(&mut self, picture: &EncodedPicture, at: Instant) -> Result<(), RecordError> {
        let at = self.since_zero(at);
        if picture.key {
            let Some(sets) = parameter_sets(&picture.data) else {
                return Ok(());
            };
            if self.stream.as_ref().map(|stream| stream.size) != Some(sets.size) {
                self.begin_with_pictures(sets)?;
            }
        }
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        let time = self.pictures.place(picture.time, at);
        // What is no stream of ours is recorded as it is.
        let data = self.gaps.close(&picture.data);
        let data = data.as_deref().unwrap_or(&picture.data);
        // The file's own parameter sets stand at its head; others stay with their picture.
        let known = parameter_sets(&picture.data).is_none_or(|sets| sets == *stream);
        self.writer.picture(time, data, picture.key, known)
    }

    /// Adds a packet of sound that was captured `at`.
    ///
    /// # Errors
    /// [`RecordError`]; the recording may go on with the next packet.
    pub fn sound(&mut self, sound: &EncodedSound, at: Instant) -> Result<(), RecordError> {
        let at = self.since_zero(at);
        let time = self.sounds.place(sound.time, at);
        if self.writer.is_open() {
            return self.writer.sound(time, &sound.data);
        }
        self.early.push((time, sound.clone()));
        let (first, wait) = (self.early[0].0, WAIT_FOR_PICTURES.as_secs() * 48_000);
        if time.saturating_sub(first) >= wait || self.early.len() >= MAX_EARLY {
            self.writer.open(None)?;
            return self.write_early();
        }
        Ok(())
    }

    /// Writes what is left, and tells which files there are. Without any content there is none.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn finish(mut self) -> Result<Vec<PathBuf>, RecordError> {
        if !self.writer.is_open() && !self.early.is_empty() {
            self.writer.open(None)?;
            self.write_early()?;
        }
        self.writer.finish()
    }

    fn begin_with_pictures(&mut self, sets: ParameterSets) -> Result<(), RecordError> {
        self.stream = None;
        self.writer.open(Some(&sets))?;
        self.stream = Some(sets);
        self.write_early()
    }

    fn write_early(&mut self) -> Result<(), RecordError> {
        for (time, sound) in std::mem::take(&mut self.early) {
            self.writer.sound(time, &sound.data)?;
        }
        Ok(())
    }

    fn since_zero(&mut self, at: Instant) -> Duration {
        let zero = *self
            .zero
            .get_or_insert_with(|| at.checked_sub(HEADROOM).unwrap_or(at));
        at.saturating_duration_since(zero)
    }
}

/// The parameter sets in front of a key frame, if they are such as we know.
fn parameter_sets(data: &[u8]) -> Option<ParameterSets> {
    let find = |kind| nal_units(data).find(|nal| nal.kind() == kind);
    let (sps, pps) = (find(NalKind::Sps)?, find(NalKind::Pps)?);
    Some(ParameterSets {
        size: Sps::parse(sps).ok()?.size,
        sps: sps.data().to_vec(),
        pps: pps.data().to_vec(),
    })
}
