//! Measures a call from its pixels and samples: wraps sources and sinks, and writes down what passed when, by
//! the machine's monotonic clock, which two processes of one machine share. `benches` reads the files.
//!
//! | file | line |
//! |---|---|
//! | `sent.csv` | number that the picture bears, µs when it was handed to the call |
//! | `shown.csv` | the same when it was handed to the sink; pictures whose number cannot be read are left out |
//! | `said.wav`, `said.csv` | all sound that went in, and for each block the index of its first sample and µs |
//! | `heard.wav`, `heard.csv` | the same of all sound that came out |

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::capture::{
    BLOCK, BLOCK_TIME, CaptureError, PictureInfo, PictureSource, SoundBlock, SoundInfo,
    SoundSource, stamp,
};
use crate::playback::{EchoReference, PictureSink, PlayError, SoundCounts, SoundSink};
use crate::{AudioTime, Picture};

/// The folder that the figures of one call go to.
#[derive(Debug, Clone)]
pub struct Measure {
    folder: PathBuf,
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
        })
    }

    /// Writes down what `source` gives.
    pub fn pictures_sent(&self, source: Box<dyn PictureSource>) -> Box<dyn PictureSource> {
        match self.log("sent.csv") {
            Ok(log) => Box::new(Sent { source, log }),
            Err(error) => unmeasured(&error, source),
        }
    }

    /// Writes down what `sink` takes; `None` takes pictures and does nothing with them.
    pub fn pictures_shown(&self, sink: Option<Box<dyn PictureSink>>) -> Box<dyn PictureSink> {
        let sink = sink.unwrap_or_else(|| Box::new(Nowhere));
        match self.log("shown.csv") {
            Ok(log) => Box::new(Shown { sink, log }),
            Err(error) => unmeasured(&error, sink),
        }
    }

    /// Writes down what `source` gives.
    pub fn sound_said(&self, source: Box<dyn SoundSource>) -> Box<dyn SoundSource> {
        match self.tape("said") {
            Ok(tape) => Box::new(Said { source, tape }),
            Err(error) => unmeasured(&error, source),
        }
    }

    /// Writes down what `sink` takes.
    pub fn sound_heard(&self, sink: Box<dyn SoundSink>) -> Box<dyn SoundSink> {
        match self.tape("heard") {
            Ok(tape) => Box::new(Heard { sink, tape }),
            Err(error) => unmeasured(&error, sink),
        }
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
    log: Log,
}

impl PictureSource for Sent {
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError> {
        let picture = self.source.next(timeout)?;
        if let Some(number) = picture.as_ref().and_then(stamp::read) {
            self.log.write(u64::from(number), now_micros());
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

struct Shown {
    sink: Box<dyn PictureSink>,
    log: Log,
}

impl PictureSink for Shown {
    fn present(&mut self, picture: &Picture) -> Result<(), PlayError> {
        let micros = now_micros();
        if let Some(number) = stamp::read(picture) {
            self.log.write(u64::from(number), micros);
        }
        self.sink.present(picture)
    }
}

struct Said {
    source: Box<dyn SoundSource>,
    tape: Tape,
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
            self.tape.write(block, began);
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
    tape: Tape,
}

impl SoundSink for Heard {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        self.sink.wait(timeout)
    }

    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        // It is heard when what waits before it has been played.
        let begins = now_micros() + micros(self.sink.level());
        self.tape.write(block, begins);
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
