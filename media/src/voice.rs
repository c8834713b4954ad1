//! Echo cancellation, noise suppression, gain, levels and voice activity: what happens to the microphone's
//! sound before it is encoded. Blocks are 10 ms at 48 kHz, mono. No threads; nothing here waits.

use std::time::Duration;

/// Samples of a block: 10 ms at 48 kHz.
pub const BLOCK: usize = 480;

/// What to do to the microphone's sound. All on by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoiceConfig {
    /// Take out what comes from our own loudspeaker.
    pub echo: bool,
    /// Take out steady noise.
    pub noise: bool,
    /// Bring the voice to an even level.
    pub gain: bool,
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
    /// Of a block of samples.
    pub fn of(_samples: &[f32]) -> Self {
        todo!()
    }
}

/// Processes captured sound; each part can be switched while it runs.
pub struct VoiceProcessor {}

impl VoiceProcessor {
    /// As `config` says.
    pub fn new(_config: VoiceConfig) -> Self {
        todo!()
    }

    /// Switches parts on or off.
    pub fn set_config(&mut self, _config: VoiceConfig) {
        todo!()
    }

    /// What the loudspeaker plays: each block once, before or while it is heard, and before the captured
    /// block that holds its echo.
    pub fn process_render(&mut self, _block: &[f32; BLOCK]) {
        todo!()
    }

    /// From handing a block to [`VoiceProcessor::process_render`] until its echo stands in a block of
    /// [`VoiceProcessor::process_capture`], as far as rings and devices tell; a hint, found out otherwise.
    pub fn set_delay(&mut self, _delay: Duration) {
        todo!()
    }

    /// Processes a captured block in place.
    pub fn process_capture(&mut self, _block: &mut [f32; BLOCK]) -> VoiceBlock {
        todo!()
    }
}

/// Tells speech from noise, by level above the noise floor and by pitch, with a hangover.
#[derive(Debug, Clone)]
pub struct VoiceDetector {}

impl VoiceDetector {
    /// Knows no floor yet.
    pub fn new() -> Self {
        todo!()
    }

    /// Whether somebody speaks in or shortly before `block`.
    pub fn process(&mut self, _block: &[f32; BLOCK]) -> bool {
        todo!()
    }
}

impl Default for VoiceDetector {
    fn default() -> Self {
        Self::new()
    }
}
