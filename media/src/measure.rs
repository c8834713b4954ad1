//! Measures a call from its pixels and samples: wraps sources and sinks, and writes down what passed when, by
//! the machine's monotonic clock, which two processes of one machine share. `benches` reads the files.
//!
//! | file | line |
//! |---|---|
//! | `sent.csv` | number that the picture bears, µs when it was handed to the call |
//! | `shown.csv` | the same when it was handed to the sink; pictures whose number cannot be read are left out |
//! | `sizes.csv` | height of the pictures shown, pixels, µs since when they have it |
//! | `pictures/NUMBER-WIDTHxHEIGHT.i420` | each 15th picture as it was shown, the newest 160 of them |
//! | `said.wav`, `said.csv` | all sound that went in, and for each block the index of its first sample and µs |
//! | `heard.wav`, `heard.csv` | the same of all sound that came out |
//!
//! A device that goes and one that comes for it write into the same files.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::capture::{
    BLOCK, BLOCK_TIME, CaptureError, PictureInfo, PictureSource, SoundBlock, SoundInfo,
    SoundSource, stamp,
};
use crate::playback::{EchoReference, PictureSink, PlayError, SoundCounts, SoundSink};
use crate::{AudioTime, Picture};

/// Of the pictures shown, each whose number this divides is kept whole: two a second of 30, what VMAF is taken of.
const KEPT_EACH: u32 = 15;
/// Pictures kept at most, the newest: 80 s of them; 220 MB at 1280×720.
const MAX_KEPT: usize = 160;

/// The folder that the figures of one call go to.
#[derive(Clone)]
pub struct Measure {
    folder: PathBuf,
    /// Tapes that no device writes now: the next one goes on with them.
    said: Shelf<Tape>,
    heard: Shelf<Tape>,
    sent: Shelf<Log>,
}

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measure")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Where something is kept between two devices.
type Shelf<T> = Arc<Mutex<Option<T>>>;

/// Something from a shelf, which goes back there with the device.
struct Taken<T> {
    thing: Option<T>,
    shelf: Shelf<T>,
}

impl<T> Taken<T> {
    /// Takes what lies there, or makes it.
    fn take(shelf: &Shelf<T>, make: impl FnOnce() -> io::Result<T>) -> io::Result<Self> {
        let there = shelf.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Self {
            thing: Some(there.map_or_else(make, Ok)?),
            shelf: Arc::clone(shelf),
        })
    }

    fn with(&mut self, work: impl FnOnce(&mut T)) {
        if let Some(thing) = &mut self.thing {
            work(thing);
        }
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = self.thing.take();
    }
}

impl Measure {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            said: Shelf::default(),
            heard: Shelf::default(),
            sent: Shelf::default(),
        })
    }

    /// Writes down what `source` gives.
    pub fn pictures_sent(&self, source: Box<dyn PictureSource>) -> Box<dyn PictureSource> {
        match Taken::take(&self.sent, || self.log("sent.csv")) {
            Ok(log) => Box::new(Sent { source, log }),
            Err(error) => unmeasured(&error, source),
        }
    }

    /// Writes down what `sink` takes; `None` takes pictures and does nothing with them.
    pub fn pictures_shown(&self, sink: Option<Box<dyn PictureSink>>) -> Box<dyn PictureSink> {
        let sink = sink.unwrap_or_else(|| Box::new(Nowhere));
        match self.shown() {
            Ok((log, sizes, kept)) => Box::new(Shown {
                sink,
                log,
                sizes,
                height: 0,
                kept,
            }),
            Err(error) => unmeasured(&error, sink),
        }
    }

    /// Writes down what `source` gives.
    pub fn sound_said(&self, source: Box<dyn SoundSource>) -> Box<dyn SoundSource> {
        match Taken::take(&self.said, || self.tape("said")) {
            Ok(tape) => Box::new(Said { source, tape }),
            Err(error) => unmeasured(&error, source),
        }
    }

    /// Writes down what `sink` takes.
    pub fn sound_heard(&self, sink: Box<dyn SoundSink>) -> Box<dyn SoundSink> {
        match Taken::take(&self.heard, || self.tape("heard")) {
            Ok(tape) => Box::new(Heard { sink, tape }),
            Err(error) => unmeasured(&error, sink),
        }
    }

    fn shown(&self) -> io::Result<(Log, Log, Kept)> {
        let folder = self.folder.join("pictures");
        fs::create_dir_all(&folder)?;
        let kept = Kept {
            folder,
            files: VecDeque::new(),
        };
        Ok((self.log("shown.csv")?, self.log("sizes.csv")?, kept))
    }

    fn log(&self, name: &str) -> io::Result<Log> {
        Ok(Log(BufWriter::new(File::create(self.folder.join(name))?)))
    }

    fn tape(&self, name: &str) -> io::Result<Tape> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 48_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let path = self.folder.join(format!("{name}.wav"));
        Ok(Tape {
            wav: hound::WavWriter::create(path, spec).map_err(io::Error::other)?,
            log: self.log(&format!("{name}.csv"))?,
            samples: 0,
        })
    }
}

/// The call goes on without being measured.
fn unmeasured<T>(error: &io::Error, device: T) -> T {
    warn!(%error, "the call is not measured");
    device
}

/// Takes pictures, and that is all.
struct Nowhere;

impl PictureSink for Nowhere {
    fn present(&mut self, _picture: &Picture) -> Result<(), PlayError> {
        Ok(())
    }
}

/// µs of the machine's monotonic clock.
#[cfg(unix)]
fn now_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// µs since 1970: there is no other clock that processes share.
#[cfg(not(unix))]
fn now_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

/// Lines of a number and a moment. A full disk ends the measurement, not the call.
struct Log(BufWriter<File>);

impl Log {
    fn write(&mut self, number: u64, micros: u64) {
        let _ = writeln!(self.0, "{number},{micros}");
    }
}

/// Sound and the times of its blocks.
struct Tape {
    wav: hound::WavWriter<BufWriter<File>>,
    log: Log,
    samples: u64,
}

impl Tape {
    fn write(&mut self, block: &SoundBlock, micros: u64) {
        self.log.write(self.samples, micros);
        for sample in block {
            let _ = self
                .wav
                .write_sample((sample.clamp(-1.0, 1.0) * 32_767.0) as i16);
        }
        self.samples += BLOCK as u64;
    }
}

struct Sent {
    source: Box<dyn PictureSource>,
    log: Taken<Log>,
}

impl PictureSource for Sent {
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError> {
        let picture = self.source.next(timeout)?;
        if let Some(number) = picture.as_ref().and_then(stamp::read) {
            self.log
                .with(|log| log.write(u64::from(number), now_micros()));
        }
        Ok(picture)
    }

    fn describe(&self) -> PictureInfo {
        self.source.describe()
    }

    fn limit(&mut self, frames_per_second: f32) {
        self.source.limit(frames_per_second);
    }

    fn dropped(&self) -> u64 {
        self.source.dropped()
    }
}

/// Pictures kept whole.
struct Kept {
    folder: PathBuf,
    files: VecDeque<PathBuf>,
}

impl Kept {
    fn keep(&mut self, number: u32, picture: &Picture) {
        while self.files.len() >= MAX_KEPT {
            if let Some(oldest) = self.files.pop_front() {
                let _ = fs::remove_file(oldest);
            }
        }
        let (width, height) = (picture.size().width(), picture.size().height());
        let path = self.folder.join(format!("{number}-{width}x{height}.i420"));
        let written = File::create(&path).and_then(|mut file| {
            let mut planes = picture.planes().into_iter();
            planes.try_for_each(|plane| file.write_all(plane.data))
        });
        // A full disk ends the measurement, not the call.
        if written.is_ok() {
            self.files.push_back(path);
        }
    }
}

struct Shown {
    sink: Box<dyn PictureSink>,
    log: Log,
    sizes: Log,
    height: u32,
    kept: Kept,
}

impl PictureSink for Shown {
    fn present(&mut self, picture: &Picture) -> Result<(), PlayError> {
        let micros = now_micros();
        let height = picture.size().height();
        if std::mem::replace(&mut self.height, height) != height {
            self.sizes.write(u64::from(height), micros);
        }
        let number = stamp::read(picture);
        if let Some(number) = number {
            self.log.write(u64::from(number), micros);
        }
        let presented = self.sink.present(picture);
        if let Some(number) = number.filter(|number| number.is_multiple_of(KEPT_EACH)) {
            self.kept.keep(number, picture);
        }
        presented
    }
}

struct Said {
    source: Box<dyn SoundSource>,
    tape: Taken<Tape>,
}

impl SoundSource for Said {
    fn read(
        &mut self,
        block: &mut SoundBlock,
        timeout: Duration,
    ) -> Result<Option<AudioTime>, CaptureError> {
        let time = self.source.read(block, timeout)?;
        if time.is_some() {
            // The first sample of a block that is complete now was captured a block ago.
            let began = now_micros().saturating_sub(micros(BLOCK_TIME));
            self.tape.with(|tape| tape.write(block, began));
        }
        Ok(time)
    }

    fn describe(&self) -> SoundInfo {
        self.source.describe()
    }

    fn lost(&self) -> u64 {
        self.source.lost()
    }
}

struct Heard {
    sink: Box<dyn SoundSink>,
    tape: Taken<Tape>,
}

impl SoundSink for Heard {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        self.sink.wait(timeout)
    }

    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        // It is heard when what waits before it has been played.
        let begins = now_micros() + micros(self.sink.level());
        self.tape.with(|tape| tape.write(block, begins));
        self.sink.write(block)
    }

    fn level(&self) -> Duration {
        self.sink.level()
    }

    fn take_reference(&mut self) -> Option<EchoReference> {
        self.sink.take_reference()
    }

    fn counts(&self) -> SoundCounts {
        self.sink.counts()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
