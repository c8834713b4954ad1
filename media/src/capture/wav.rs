//! Recordings in WAV files, as sources: played again and again, at the speed of a microphone.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Duration,
};

use hound::{Error, SampleFormat, WavReader};

use super::{
    BLOCK, CaptureClock, CaptureError, Resampler, SoundBlock, SoundInfo, SoundSource, pace::Pace,
    synthetic::first_sample,
};
use crate::AudioTime;

/// Frames read from the file at once.
const CHUNK: usize = 1_024;
/// Channels at most: what the widest sound formats have.
const MAX_FILE_CHANNELS: u16 = 32;

/// A recording, all channels mixed into one.
pub struct WavSource {
    path: PathBuf,
    reader: WavReader<BufReader<File>>,
    resampler: Resampler,
    /// Sound that waits, 48 kHz.
    waiting: Vec<f32>,
    mono: Vec<f32>,
    clock: CaptureClock,
    pace: Pace,
    lost: u64,
}

impl WavSource {
    /// Opens a recording.
    ///
    /// # Errors
    /// [`CaptureError::File`], [`CaptureError::Content`].
    pub fn open(path: &Path, clock: CaptureClock) -> Result<Self, CaptureError> {
        let reader = WavReader::open(path).map_err(|error| failed(path, error))?;
        let wrong = |reason: String| CaptureError::Content {
            path: path.to_owned(),
            reason,
        };
        let spec = reader.spec();
        if !(1..=MAX_FILE_CHANNELS).contains(&spec.channels) {
            return Err(wrong(format!("{} channels", spec.channels)));
        }
        if reader.duration() == 0 {
            return Err(wrong("there is no sound in it".to_owned()));
        }
        let resampler = Resampler::new(spec.sample_rate, 48_000).map_err(wrong)?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            resampler,
            waiting: Vec::new(),
            mono: Vec::with_capacity(CHUNK),
            clock,
            pace: Pace::of_sound(),
            lost: 0,
        })
    }

    /// The next 10 ms.
    fn next_block(&mut self, block: &mut SoundBlock) -> Result<(), CaptureError> {
        // Twice through a file without a whole frame is enough.
        let mut barren = 0;
        while self.waiting.len() < BLOCK {
            let read = self
                .read_chunk()
                .map_err(|error| failed(&self.path, error))?;
            self.resampler.push(&self.mono, &mut self.waiting);
            if read < CHUNK {
                self.reader.seek(0).map_err(|source| CaptureError::File {
                    path: self.path.clone(),
                    source,
                })?;
            }
            barren = if read == 0 { barren + 1 } else { 0 };
            if barren > 1 {
                return Err(CaptureError::Content {
                    path: self.path.clone(),
                    reason: "there is no sound in it any more".to_owned(),
                });
            }
        }
        block.copy_from_slice(&self.waiting[..BLOCK]);
        self.waiting.drain(..BLOCK);
        Ok(())
    }

    /// Reads up to a chunk into `mono`; returns how many frames.
    fn read_chunk(&mut self) -> Result<usize, Error> {
        let spec = self.reader.spec();
        let channels = usize::from(spec.channels);
        self.mono.clear();
        match spec.sample_format {
            SampleFormat::Float => mix(self.reader.samples::<f32>(), channels, 1.0, &mut self.mono),
            SampleFormat::Int => {
                let full = (1u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
                let samples = self
                    .reader
                    .samples::<i32>()
                    .map(|sample| sample.map(|s| s as f32));
                mix(samples, channels, 1.0 / full, &mut self.mono)
            }
        }
    }
}

/// Appends up to a chunk of frames, each as the mean of its channels; returns how many.
fn mix(
    samples: impl Iterator<Item = Result<f32, Error>>,
    channels: usize,
    gain: f32,
    mono: &mut Vec<f32>,
) -> Result<usize, Error> {
    let (mut sum, mut seen) = (0.0, 0);
    for sample in samples.take(CHUNK * channels) {
        let sample = sample?;
        sum += if sample.is_finite() { sample } else { 0.0 };
        seen += 1;
        if seen == channels {
            mono.push(sum * gain / channels as f32);
            (sum, seen) = (0.0, 0);
        }
    }
    Ok(mono.len())
}

impl SoundSource for WavSource {
    fn read(
        &mut self,
        block: &mut SoundBlock,
        timeout: Duration,
    ) -> Result<Option<AudioTime>, CaptureError> {
        let Some(turn) = self.pace.wait(timeout) else {
            return Ok(None);
        };
        for _ in 0..turn.missed {
            self.next_block(block)?;
            self.lost += BLOCK as u64;
        }
        self.next_block(block)?;
        Ok(Some(self.clock.audio(first_sample(turn.due))))
    }

    fn describe(&self) -> SoundInfo {
        SoundInfo {
            name: self.path.display().to_string(),
            device_rate: self.reader.spec().sample_rate,
            hears_echo: false,
        }
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}

impl std::fmt::Debug for WavSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WavSource")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn failed(path: &Path, error: Error) -> CaptureError {
    let path = path.to_owned();
    match error {
        Error::IoError(source) => CaptureError::File { path, source },
        other => CaptureError::Content {
            path,
            reason: format!("no WAV recording: {other}"),
        },
    }
}
