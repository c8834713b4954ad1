//! The tones of a telephone, made up and played on the loudspeaker of the call to come: the ring of a call that
//! comes, and what the caller hears while it rings at the other side.

use std::f32::consts::TAU;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use media::capture::BLOCK;
use media::playback::{AudioSinkSpec, SoundSink, open_sound};
use tracing::debug;

/// Samples a second.
const RATE: usize = 48_000;
/// How loud, of full scale: heard across a room, no shock in headphones.
const LEVEL: f32 = 0.12;
/// Fading in and out, samples: 5 ms, so that nothing clicks.
const FADE: usize = RATE / 200;
/// How long one wait for the loudspeaker may take before it is asked whether it is wanted still.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Somebody calls: two pitches, twice, then a pause.
    Ring,
    /// It rings there: 425 Hz, 1 s of 5 (ITU-T E.180).
    RingBack,
}

/// Lengths of a tone's parts, ms, each with its pitch in hertz; 0 is silence.
const RING: [(usize, f32); 4] = [(350, 660.0), (350, 880.0), (350, 660.0), (2_000, 0.0)];
const RING_BACK: [(usize, f32); 2] = [(1_000, 425.0), (4_000, 0.0)];

/// A tone that is played until it is dropped.
pub(super) struct Ringer {
    stop: Arc<AtomicBool>,
}

impl Ringer {
    /// Plays on a loudspeaker; files and nowhere stay silent. A loudspeaker that cannot be had is no reason to
    /// refuse a call.
    pub(super) fn start(tone: Tone, sink: &str) -> Option<Self> {
        let spec: AudioSinkSpec = sink.parse().ok()?;
        if !matches!(spec, AudioSinkSpec::Speaker(_)) {
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("call-ring".to_owned())
            .spawn(move || match open_sound(&spec) {
                Ok(mut sink) => play(tone, sink.as_mut(), &stopped),
                Err(error) => debug!(%error, "no loudspeaker to ring on"),
            })
            .ok()?;
        Some(Self { stop })
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn play(tone: Tone, sink: &mut dyn SoundSink, stopped: &AtomicBool) {
    let mut at = 0;
    while !stopped.load(Ordering::Relaxed) {
        match sink.wait(PATIENCE) {
            Ok(true) => {
                let block = std::array::from_fn(|sample| level(tone, at + sample));
                at += BLOCK;
                if sink.write(&block).is_err() {
                    return;
                }
            }
            Ok(false) => {}
            Err(error) => {
                debug!(%error, "the ring ended early");
                return;
            }
        }
    }
}

/// The sample at a moment of a tone that repeats itself.
fn level(tone: Tone, sample: usize) -> f32 {
    let parts: &[(usize, f32)] = match tone {
        Tone::Ring => &RING,
        Tone::RingBack => &RING_BACK,
    };
    let samples = |millis: usize| millis * RATE / 1_000;
    let period: usize = parts.iter().map(|(millis, _)| samples(*millis)).sum();
    let mut at = sample % period;
    for (millis, pitch) in parts {
        let length = samples(*millis);
        if at < length {
            if *pitch == 0.0 {
                return 0.0;
            }
            let edge = at.min(length - 1 - at).min(FADE) as f32 / FADE as f32;
            return LEVEL * edge * (TAU * pitch * at as f32 / RATE as f32).sin();
        }
        at -= length;
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_have_their_cadence_and_never_click() {
        for tone in [Tone::Ring, Tone::RingBack] {
            let samples: Vec<f32> = (0..RATE * 10).map(|at| level(tone, at)).collect();
            let steepest = samples
                .windows(2)
                .map(|pair| (pair[1] - pair[0]).abs())
                .fold(0.0, f32::max);
            assert!(steepest < 0.02, "{tone:?}: {steepest}");
            let loud = samples.iter().filter(|sample| sample.abs() > 0.01).count();
            let share = loud as f32 / samples.len() as f32;
            let wanted = if tone == Tone::Ring { 0.33 } else { 0.19 };
            assert!((share - wanted).abs() < 0.05, "{tone:?}: {share}");
        }
    }

    #[test]
    fn only_loudspeakers_ring() {
        for sink in ["none", "x.wav", "trumpet"] {
            assert!(Ringer::start(Tone::Ring, sink).is_none(), "{sink}");
        }
    }
}
