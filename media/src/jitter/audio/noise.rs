//! Comfort noise: what is heard while nothing comes, as loud as the background was. Pure.

/// Louder than this, a background is not repeated: −46 dBFS.
const LOUDEST: f32 = 0.005;
/// A muted microphone's is not followed to nothing: −94 dBFS.
const SOFTEST: f32 = 2e-5;
/// The floor rises by this factor a block of 10 ms: doubles in two seconds, so that a pause between words
/// keeps it where it is.
const RISE: f32 = 1.003_5;
/// One-pole low pass: rooms and fans have more bass than hiss.
const SMOOTHING: f32 = 0.8;

/// Follows the softest sound, and makes noise of its loudness.
#[derive(Debug, Clone)]
pub(super) struct ComfortNoise {
    floor: f32,
    random: u32,
    low: f32,
}

impl ComfortNoise {
    pub(super) fn new() -> Self {
        Self {
            floor: LOUDEST,
            random: 0x9e37_79b9,
            low: 0.0,
        }
    }

    /// A block of 10 ms with this RMS was played.
    pub(super) fn learn(&mut self, rms: f32) {
        self.floor = (self.floor * RISE).min(LOUDEST).min(rms).max(SOFTEST);
    }

    /// RMS of the background.
    pub(super) fn floor(&self) -> f32 {
        self.floor
    }

    /// The next sample.
    pub(super) fn sample(&mut self) -> f32 {
        // Xorshift (Marsaglia 2003): any noise will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let white = self.random as f32 / u32::MAX as f32 * 2.0 - 1.0;
        self.low = SMOOTHING * self.low + (1.0 - SMOOTHING) * white;
        // Even noise has a variance of 1/3, and the filter leaves (1 − s)/(1 + s) of it.
        let rms = ((1.0 - SMOOTHING) / (1.0 + SMOOTHING) / 3.0).sqrt();
        self.low / rms * self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jitter::stretch::rms;

    #[test]
    fn noise_is_as_loud_as_the_pauses_were() {
        let mut noise = ComfortNoise::new();
        for block in 0..500 {
            noise.learn(if block % 50 < 40 { 0.2 } else { 0.001 });
        }
        let made: Vec<f32> = (0..48_000).map(|_| noise.sample()).collect();
        let loudness = rms(&made);
        assert!((0.0008..0.0015).contains(&loudness), "{loudness}");
        // A voice that never pauses is no background.
        for _ in 0..5_000 {
            noise.learn(0.3);
        }
        assert_eq!(noise.floor(), LOUDEST);
    }
}
