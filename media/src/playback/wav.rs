//! Sound into WAV files, at the speed of a loudspeaker: 16 bits, 48 kHz, mono.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    time::Duration,
};

use hound::{Error, SampleFormat, WavSpec, WavWriter};

use super::{EchoReference, PlayError, SoundCounts, SoundSink, pace::Beat};
use crate::{
    Sample as _,
    capture::{BLOCK, SoundBlock},
};

/// Blocks after which the length in the head is set right: a crash loses a second at most.
const FLUSH_EVERY: u64 = 100;
/// Blocks of silence put in at once at most: ten minutes; a program that slept longer was not on a call.
const MAX_SILENCE: u64 = 60_000;

/// A recording of what a loudspeaker would have played. Where nothing was written in time there is silence, so
/// that its samples tell the time since it was first waited for.
pub struct WavSink {
    path: PathBuf,
    writer: WavWriter<BufWriter<File>>,
    beat: Beat,
    blocks: u64,
}

impl WavSink {
    /// Creates the file, over one that was there.
    ///
    /// # Errors
    /// [`PlayError::File`].
    pub fn create(path: &Path) -> Result<Self, PlayError> {
        let spec = WavSpec {
            channels: 1,
            sample_rate: 48_000,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let writer = WavWriter::create(path, spec).map_err(|error| failed(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            beat: Beat::new(),
            blocks: 0,
        })
    }

    fn append(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        let written = (|| {
            let mut samples = self.writer.get_i16_writer(BLOCK as u32);
            for &sample in block {
                samples.write_sample(i16::from_f32(sample));
            }
            samples.flush()?;
            self.blocks += 1;
            if self.blocks.is_multiple_of(FLUSH_EVERY) {
                self.writer.flush()?;
            }
            Ok(())
        })();
        written.map_err(|error| failed(&self.path, error))
    }
}

impl SoundSink for WavSink {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        let (wanted, missed) = self.beat.wait(timeout);
        for _ in 0..missed.min(MAX_SILENCE) {
            self.append(&[0.0; BLOCK])?;
        }
        Ok(wanted)
    }

    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        if self.beat.write() {
            self.append(block)?;
        }
        Ok(())
    }

    fn level(&self) -> Duration {
        Duration::ZERO
    }

    fn take_reference(&mut self) -> Option<EchoReference> {
        None
    }

    fn counts(&self) -> SoundCounts {
        self.beat.counts()
    }
}

impl std::fmt::Debug for WavSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WavSink")
            .field("path", &self.path)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

fn failed(path: &Path, error: Error) -> PlayError {
    let path = path.to_owned();
    match error {
        Error::IoError(source) => PlayError::File { path, source },
        other => PlayError::Content {
            path,
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        AudioTime, VideoTime,
        capture::{CaptureClock, CaptureError, SoundSource as _, WavSource},
    };

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("landline-{}-{name}.wav", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn clock() -> CaptureClock {
        CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now())
    }

    fn ramp(block: usize) -> SoundBlock {
        std::array::from_fn(|n| ((block * BLOCK + n) % 2_000) as f32 / 4_000.0)
    }

    #[test]
    fn sound_survives_the_file() {
        let file = Scratch::new("survives");
        let mut sink = WavSink::create(&file.0).expect("a file");
        for block in 0..5 {
            sink.append(&ramp(block)).expect("room");
        }
        drop(sink);
        let mut source = WavSource::open(&file.0, clock()).expect("a recording");
        let mut block = [0.0; BLOCK];
        // Seven blocks from a file of five: it begins again.
        for index in 0..7 {
            source
                .read(&mut block, Duration::from_secs(10))
                .expect("readable")
                .expect("in time");
            for (sample, truth) in block.iter().zip(ramp(index % 5)) {
                assert!((sample - truth).abs() < 1e-4, "block {index}");
            }
        }
    }

    #[test]
    fn a_crash_loses_a_second_at_most() {
        let file = Scratch::new("crash");
        let mut sink = WavSink::create(&file.0).expect("a file");
        for block in 0..250 {
            sink.append(&ramp(block)).expect("room");
        }
        // What a reader finds while the writer has not finished is what a crash would leave.
        let reader = hound::WavReader::open(&file.0).expect("a whole recording");
        assert_eq!(reader.duration(), 200 * BLOCK as u32);
        drop(reader);
        drop(sink);
        let reader = hound::WavReader::open(&file.0).expect("a whole recording");
        assert_eq!(reader.duration(), 250 * BLOCK as u32);
    }

    #[test]
    fn other_rates_and_channels_are_read() {
        let file = Scratch::new("stereo");
        let spec = WavSpec {
            channels: 2,
            sample_rate: 16_000,
            bits_per_sample: 24,
            sample_format: SampleFormat::Int,
        };
        let mut writer = WavWriter::create(&file.0, spec).expect("a file");
        for n in 0..1_600 {
            let tone = (std::f32::consts::TAU * 500.0 * n as f32 / 16_000.0).sin();
            writer
                .write_sample((tone * 8_000_000.0) as i32)
                .expect("room");
            writer.write_sample(0).expect("room");
        }
        writer.finalize().expect("room");
        let mut source = WavSource::open(&file.0, clock()).expect("a recording");
        assert_eq!(source.describe().device_rate, 16_000);
        let mut block = [0.0; BLOCK];
        for _ in 0..4 {
            source
                .read(&mut block, Duration::from_secs(10))
                .expect("readable")
                .expect("in time");
        }
        // Half as loud, since the other channel is silent; five periods of 500 Hz in 10 ms.
        let peak = block.iter().fold(0.0f32, |peak, sample| peak.max(*sample));
        assert!((0.45..0.5).contains(&peak), "{peak}");
        let rises = block
            .windows(2)
            .filter(|w| w[0] < 0.0 && w[1] >= 0.0)
            .count();
        assert!((4..=6).contains(&rises), "{rises}");
    }

    #[test]
    fn what_is_no_recording_says_why() {
        let file = Scratch::new("empty");
        drop(WavSink::create(&file.0).expect("a file"));
        let error = WavSource::open(&file.0, clock()).expect_err("no sound");
        assert!(error.to_string().contains("no sound in it"), "{error}");
        std::fs::write(&file.0, b"RIFF????WAVEjunk").expect("room");
        assert!(WavSource::open(&file.0, clock()).is_err());
        let missing = WavSource::open(Path::new("/no/such.wav"), clock());
        assert!(matches!(missing, Err(CaptureError::File { .. })));
        assert!(WavSink::create(Path::new("/no/such/folder.wav")).is_err());
    }
}
