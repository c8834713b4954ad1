//! Voice activity: level above the background and a pitch, with a hangover. Pure.

use super::BLOCK;

/// Sound is judged at 8 kHz: pitch is below 400 Hz.
const DECIMATION: usize = 6;
/// The last 40 ms: at least two periods of the lowest voice.
const WINDOW: usize = 320;
const STEP: usize = BLOCK / DECIMATION;
/// Periods of voices: 2.5 ms (400 Hz) …
const MIN_LAG: usize = 20;
/// … to 14 ms (71 Hz).
const MAX_LAG: usize = 112;

/// Nothing softer (RMS, −60 dBFS) is a voice that anybody is meant to hear.
const SOFTEST: f32 = 0.001;
/// A voice is so much louder than the background with a pitch: 6 dB …
const VOICED_FACTOR: f32 = 2.0;
/// … and so much without one, as breath and hiss (s, f) are, but only while a voice goes on: 12 dB.
const UNVOICED_FACTOR: f32 = 4.0;
/// A pitch: the window repeats itself by this much.
const PITCH: f32 = 0.55;
/// Blocks in a row with pitch before it counts: a click or a key is shorter than 30 ms.
const ONSET_BLOCKS: u32 = 3;
/// Blocks that count as voice after its end: 300 ms, so that words are not cut and pauses are.
const HANGOVER_BLOCKS: u32 = 30;
/// The background rises by this factor a block (4 dB a second) …
const RISE: f32 = 1.004_6;
/// … and is no louder than this: −34 dBFS.
const LOUDEST_FLOOR: f32 = 0.02;

/// Tells speech from noise, by level above the noise floor and by pitch, with a hangover.
#[derive(Debug, Clone)]
pub struct VoiceDetector {
    /// The last 40 ms at 8 kHz.
    window: [f32; WINDOW],
    floor: f32,
    voiced: u32,
    hangover: u32,
}

impl VoiceDetector {
    /// Knows no floor yet.
    pub const fn new() -> Self {
        Self {
            window: [0.0; WINDOW],
            floor: LOUDEST_FLOOR,
            voiced: 0,
            hangover: 0,
        }
    }

    /// Whether somebody speaks in or shortly before `block`.
    pub fn process(&mut self, block: &[f32; BLOCK]) -> bool {
        self.window.copy_within(STEP.., 0);
        let low = &mut self.window[WINDOW - STEP..];
        for (sample, six) in low.iter_mut().zip(block.chunks_exact(DECIMATION)) {
            *sample = six.iter().sum::<f32>() / DECIMATION as f32;
        }
        let loudness = rms(block);
        if !loudness.is_finite() {
            *self = Self::new();
            return false;
        }
        let floor = self.floor.max(SOFTEST / VOICED_FACTOR);
        let voiced = loudness > floor * VOICED_FACTOR && self.repeats() > PITCH;
        self.voiced = if voiced {
            self.voiced.saturating_add(1)
        } else {
            0
        };
        let goes_on = self.hangover > 0 && loudness > floor * UNVOICED_FACTOR;
        if self.voiced >= ONSET_BLOCKS {
            self.hangover = HANGOVER_BLOCKS;
        } else if !goes_on {
            self.hangover = self.hangover.saturating_sub(1);
        }
        // A voice does not lift the background that it is compared with.
        let rise = if voiced { 1.0 } else { RISE };
        self.floor = (self.floor * rise)
            .min(loudness.max(1e-6))
            .min(LOUDEST_FLOOR);
        self.hangover > 0
    }

    /// How much the window is like itself a period ago, over all periods of voices: 1 is a tone.
    fn repeats(&self) -> f32 {
        let mean = self.window.iter().sum::<f32>() / WINDOW as f32;
        let now = &self.window[MAX_LAG..];
        let mut best = 0.0f32;
        for lag in MIN_LAG..=MAX_LAG {
            let before = &self.window[MAX_LAG - lag..WINDOW - lag];
            let (mut both, mut one, mut two) = (0.0f32, 0.0f32, 0.0f32);
            for (a, b) in now.iter().zip(before) {
                let (a, b) = (a - mean, b - mean);
                both += a * b;
                one += a * a;
                two += b * b;
            }
            let energy = one * two;
            if energy > 1e-18 {
                best = best.max(both / energy.sqrt());
            }
        }
        best
    }
}

impl Default for VoiceDetector {
    fn default() -> Self {
        Self::new()
    }
}

fn rms(block: &[f32]) -> f32 {
    let sum: f32 = block.iter().map(|sample| sample * sample).sum();
    (sum / block.len() as f32).sqrt()
}
