//! Echo cancellation, noise suppression, gain, levels and voice activity: what happens to the microphone's
//! sound before it is encoded. Blocks are 10 ms at 48 kHz, mono. No threads; nothing here waits.

mod activity;

use std::fmt;
use std::time::Duration;

use sonora::config::{
    AdaptiveDigital, EchoCanceller, GainController2, HighPassFilter, MaxProcessingRate,
    NoiseSuppression, NoiseSuppressionLevel, Pipeline,
};
use sonora::{AudioProcessing, Config, StreamConfig};

pub use self::activity::VoiceDetector;

/// Samples of a block: 10 ms at 48 kHz.
pub const BLOCK: usize = 480;

const RATE: u32 = 48_000;
/// The level of silence, in place of one that is infinitely low.
const SILENCE_DBFS: f32 = -100.0;
/// The canceller knows delays up to this; a longer one is found by its own search, or not at all.
const MAX_DELAY: Duration = Duration::from_millis(500);
/// Gain at the start. Nothing is known of the microphone yet, and the first words should neither be lost nor
/// too loud.
const FIRST_GAIN_DB: f32 = 6.0;
/// Gain at most: beyond it, a quiet room would become a loud one.
const MAX_GAIN_DB: f32 = 30.0;

/// What to do to the microphone's sound. All on by default; with all off the sound passes as it is, without the
/// delay (some 10 ms) of the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoiceConfig {
    /// Take out what comes from our own loudspeaker.
    pub echo: bool,
    /// Take out steady noise.
    pub noise: bool,
    /// Bring the voice to an even level.
    pub gain: bool,
}

impl VoiceConfig {
    /// Leave the sound as it is.
    pub const OFF: Self = Self {
        echo: false,
        noise: false,
        gain: false,
    };

    fn to_sonora(self) -> Config {
        Config {
            pipeline: Pipeline {
                maximum_internal_processing_rate: MaxProcessingRate::Rate48kHz,
                multi_channel_render: false,
                multi_channel_capture: false,
                ..Pipeline::default()
            },
            high_pass_filter: (self.echo || self.noise).then(HighPassFilter::default),
            echo_canceller: self.echo.then(EchoCanceller::default),
            noise_suppression: self.noise.then(|| NoiseSuppression {
                level: NoiseSuppressionLevel::Moderate,
                ..NoiseSuppression::default()
            }),
            gain_controller2: self.gain.then(|| GainController2 {
                adaptive_digital: Some(AdaptiveDigital {
                    initial_gain_db: FIRST_GAIN_DB,
                    max_gain_db: MAX_GAIN_DB,
                    ..AdaptiveDigital::default()
                }),
                ..GainController2::default()
            }),
            ..Config::default()
        }
    }
}

impl Default for VoiceConfig {
    fn default() -> Self {
        Self {
            echo: true,
            noise: true,
            gain: true,
        }
    }
}

/// What a block of captured sound was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoiceBlock {
    /// Somebody speaks here (with a hangover after the last syllable).
    pub voice: bool,
    /// The level after processing.
    pub level: Level,
}

/// A level, in dB below full scale (0 is the loudest; −100 stands for silence).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// The largest sample.
    pub peak_dbfs: f32,
    /// Root of the mean square.
    pub rms_dbfs: f32,
}

impl Level {
    /// Of a block of samples. What is no number counts as silence.
    pub fn of(samples: &[f32]) -> Self {
        let (mut peak, mut sum) = (0.0f32, 0.0f32);
        for sample in samples.iter().filter(|sample| sample.is_finite()) {
            peak = peak.max(sample.abs());
            sum += sample * sample;
        }
        let rms = (sum / samples.len().max(1) as f32).sqrt();
        Self {
            peak_dbfs: decibels(peak),
            rms_dbfs: decibels(rms),
        }
    }
}

impl Default for Level {
    /// Silence.
    fn default() -> Self {
        Self {
            peak_dbfs: SILENCE_DBFS,
            rms_dbfs: SILENCE_DBFS,
        }
    }
}

fn decibels(amplitude: f32) -> f32 {
    (20.0 * amplitude.log10()).max(SILENCE_DBFS)
}

/// Processes captured sound; each part can be switched while it runs.
pub struct VoiceProcessor {
    processing: AudioProcessing,
    config: VoiceConfig,
    detector: VoiceDetector,
    scratch: [f32; BLOCK],
    failures: u64,
}

impl VoiceProcessor {
    /// As `config` says.
    pub fn new(config: VoiceConfig) -> Self {
        let stream = StreamConfig::new(RATE, 1);
        let processing = AudioProcessing::builder()
            .config(config.to_sonora())
            .capture_config(stream)
            .render_config(stream)
            .build();
        Self {
            processing,
            config,
            detector: VoiceDetector::new(),
            scratch: [0.0; BLOCK],
            failures: 0,
        }
    }

    /// What is on.
    pub const fn config(&self) -> VoiceConfig {
        self.config
    }

    /// Switches parts on or off. What was learned is forgotten by those that change, and maybe by others.
    pub fn set_config(&mut self, config: VoiceConfig) {
        if config != self.config {
            self.config = config;
            self.processing.apply_config(config.to_sonora());
        }
    }

    /// What the loudspeaker plays: each block once, before or while it is heard, and before the captured
    /// block that holds its echo.
    pub fn process_render(&mut self, block: &[f32; BLOCK]) {
        if !self.config.echo {
            return;
        }
        let block = clean(block);
        let done = self
            .processing
            .process_render_f32(&[&block], &mut [&mut self.scratch]);
        self.failures += u64::from(done.is_err());
    }

    /// From handing a block to [`VoiceProcessor::process_render`] until its echo stands in a block of
    /// [`VoiceProcessor::process_capture`], as far as rings and devices tell; a hint, found out otherwise.
    pub fn set_delay(&mut self, delay: Duration) {
        let millis = delay.min(MAX_DELAY).as_millis();
        // It fits: see the line before.
        let set = self.processing.set_stream_delay_ms(millis as i32);
        self.failures += u64::from(set.is_err());
    }

    /// Processes a captured block in place.
    pub fn process_capture(&mut self, block: &mut [f32; BLOCK]) -> VoiceBlock {
        let cleaned = clean(block);
        let done = if self.config == VoiceConfig::OFF {
            *block = cleaned;
            Ok(())
        } else {
            self.processing
                .process_capture_f32(&[&cleaned], &mut [block])
        };
        if done.is_err() {
            self.failures += 1;
            *block = cleaned;
        }
        VoiceBlock {
            voice: self.detector.process(block),
            level: Level::of(block),
        }
    }

    /// Blocks that could not be processed and passed as they were: none, unless there is a mistake here.
    pub const fn failures(&self) -> u64 {
        self.failures
    }
}

impl fmt::Debug for VoiceProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VoiceProcessor")
            .field("config", &self.config)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// What is no number becomes silence, what is too loud is clipped: one bad sample would stay in the filters.
fn clean(block: &[f32; BLOCK]) -> [f32; BLOCK] {
    block.map(|sample| {
        if sample.is_finite() {
            sample.clamp(-1.0, 1.0)
        } else {
            0.0
        }
    })
}

#[cfg(test)]
mod tests;
