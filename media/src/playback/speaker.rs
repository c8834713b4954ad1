//! Loudspeakers that cpal opens.
//!
//! Who writes keeps one callback's worth of sound ahead in a ring, more where that was too little; the callback
//! copies it to the device, covers holes, and passes on what it played as echo reference.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{EchoReference, PlayError, SoundCounts, SoundSink};
use crate::capture::{
    BLOCK, Resampler, SoundBlock,
    host::{self, Found, OpenStream, Shape, Speak, Way},
    ring::{RingReader, RingWriter, ring},
};

/// Sound that a ring holds, milliseconds (`media.md` §13).
const RING_MILLIS: u32 = 200;
/// How much more is kept ahead after an underrun, milliseconds, and up to how much in all.
const MORE_MILLIS: u32 = 10;
const MOST_MILLIS: u32 = 60;
/// After this long without an underrun, less is kept ahead again.
const CALM: Duration = Duration::from_secs(30);
/// How long the last sound is repeated and faded when there is no more, samples a second: 5 ms.
const FADES: u32 = 200;
/// Repeated sound at most, samples: 5 ms at 192 kHz.
const MAX_FADE: usize = 960;
/// A device that takes nothing for this long, while there is something to take, is taken as broken.
const STUCK_FOR: Duration = Duration::from_secs(5);

/// An open loudspeaker.
struct SpeakerSink {
    // It plays for as long as this lives.
    _stream: OpenStream,
    name: String,
    shape: Shape,
    ring: RingWriter,
    resampler: Resampler,
    resampled: Vec<f32>,
    shared: Arc<Shared>,
    reference: Option<EchoReference>,
    /// Kept ahead beyond one callback's worth, samples.
    more: usize,
    underruns: u64,
    calm_since: Instant,
    moving: (u64, Instant),
}

/// What the callback tells.
#[derive(Debug, Default)]
struct Shared {
    played: AtomicU64,
    underruns: AtomicU64,
    made_up: AtomicU64,
    /// Samples that the device asks for at once, at most.
    callback: AtomicU64,
    /// From the callback to the ear, microseconds.
    delay_micros: AtomicU64,
}

/// Opens a loudspeaker: one of the sound server's, or one of our own.
pub(super) fn open(wanted: Option<&str>) -> Result<Box<dyn SoundSink>, PlayError> {
    let found = host::find(Way::Out, wanted)?;
    #[cfg(target_os = "linux")]
    if let Some(device) = found.server() {
        return Ok(Box::new(super::pulse::open(device.clone())?));
    }
    Ok(Box::new(open_own(found)?))
}

fn open_own(found: Found) -> Result<SpeakerSink, PlayError> {
    let shared = Arc::new(Shared::default());
    let mut ends = None;
    let (stream, shape) = found.open_output(|shape| {
        let (writer, reader) = ring(millis(shape.rate, RING_MILLIS));
        let (reference_in, reference_out) = ring(millis(shape.rate, RING_MILLIS));
        let alarm = writer.alarm();
        ends = Some((writer, reference_out));
        (
            Player::new(reader, reference_in, Arc::clone(&shared), shape),
            alarm,
        )
    })?;
    let format = |reason: String| PlayError::Format {
        name: found.name.clone(),
        reason,
    };
    let (ring, reference) = ends.ok_or_else(|| format("it has none".to_owned()))?;
    let resampler = Resampler::new(48_000, shape.rate).map_err(format)?;
    let back = Resampler::new(shape.rate, 48_000).map_err(format)?;
    Ok(SpeakerSink {
        _stream: stream,
        shape,
        ring,
        resampler,
        resampled: Vec::with_capacity(4 * BLOCK),
        shared,
        reference: Some(follow(reference, back, millis(shape.rate, 10))),
        more: 0,
        underruns: 0,
        calm_since: Instant::now(),
        moving: (0, Instant::now()),
        name: found.name,
    })
}

/// Samples in so many milliseconds.
const fn millis(rate: u32, millis: u32) -> usize {
    (rate as usize * millis as usize) / 1_000
}

/// The echo reference from the ring of what was played.
pub(super) fn follow(
    mut ring: RingReader,
    mut resampler: Resampler,
    chunk: usize,
) -> EchoReference {
    let mut raw = vec![0.0; chunk];
    let mut waiting: Vec<f32> = Vec::with_capacity(4 * BLOCK);
    let mut overflow = 0;
    EchoReference::new(move |block| {
        if ring.overflow() != overflow {
            // There is a hole behind what waits, and what waits is old.
            overflow = ring.overflow();
            ring.skip(usize::MAX);
            waiting.clear();
        }
        while waiting.len() < BLOCK && ring.read(&mut raw) {
            resampler.push(&raw, &mut waiting);
        }
        let whole = waiting.len() >= BLOCK;
        if whole {
            block.copy_from_slice(&waiting[..BLOCK]);
            waiting.drain(..BLOCK);
        }
        whole
    })
}

impl SpeakerSink {
    /// Samples to keep ahead.
    fn ahead(&self) -> usize {
        let callback = self.shared.callback.load(Ordering::Relaxed) as usize;
        callback.max(millis(self.shape.rate, 10)) + self.more
    }

    /// Keeps more ahead after an underrun, and less after a while without any.
    fn adapt(&mut self) {
        let underruns = self.shared.underruns.load(Ordering::Relaxed);
        let step = millis(self.shape.rate, MORE_MILLIS);
        if underruns != self.underruns {
            self.underruns = underruns;
            self.calm_since = Instant::now();
            self.more = (self.more + step).min(millis(self.shape.rate, MOST_MILLIS));
        } else if self.calm_since.elapsed() > CALM {
            self.calm_since = Instant::now();
            self.more = self.more.saturating_sub(step);
        }
    }

    /// Whether the device has stopped taking sound.
    fn is_stuck(&mut self) -> bool {
        let shared = &self.shared;
        let taken = shared.played.load(Ordering::Relaxed) + shared.made_up.load(Ordering::Relaxed);
        if taken != self.moving.0 {
            self.moving = (taken, Instant::now());
        }
        self.moving.1.elapsed() > STUCK_FOR
    }
}

impl SoundSink for SpeakerSink {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        self.adapt();
        let wanted = self.ring.wait_until_below(self.ahead(), timeout);
        if let Some(trouble) = self.ring.trouble() {
            return Err(host::trouble(&self.name, trouble));
        }
        if self.is_stuck() {
            return Err(PlayError::Device {
                name: self.name.clone(),
                reason: "it takes no sound".to_owned(),
            });
        }
        Ok(wanted)
    }

    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        if let Some(trouble) = self.ring.trouble() {
            return Err(host::trouble(&self.name, trouble));
        }
        self.resampled.clear();
        self.resampler.push(block, &mut self.resampled);
        if self.ring.room() >= self.resampled.len() {
            self.ring.write(self.resampled.iter().copied());
        }
        Ok(())
    }

    fn level(&self) -> Duration {
        let waiting = self.ring.len() + self.resampler.held();
        Duration::from_secs(waiting as u64) / self.shape.rate.max(1)
            + Duration::from_micros(self.shared.delay_micros.load(Ordering::Relaxed))
    }

    fn take_reference(&mut self) -> Option<EchoReference> {
        self.reference.take()
    }

    fn counts(&self) -> SoundCounts {
        let own = |samples: &AtomicU64| {
            samples.load(Ordering::Relaxed) * 48_000 / u64::from(self.shape.rate.max(1))
        };
        SoundCounts {
            played: own(&self.shared.played),
            underruns: self.shared.underruns.load(Ordering::Relaxed),
            made_up: own(&self.shared.made_up),
        }
    }
}

/// What the callback does.
struct Player {
    ring: RingReader,
    reference: RingWriter,
    shared: Arc<Shared>,
    channels: usize,
    /// The last 5 ms that were played, oldest first.
    last: [f32; MAX_FADE],
    fade: usize,
    /// Samples of the hole that were covered; none outside of one.
    hole: Option<usize>,
    /// Something was played.
    begun: bool,
}

impl Player {
    fn new(ring: RingReader, reference: RingWriter, shared: Arc<Shared>, shape: Shape) -> Self {
        Self {
            ring,
            reference,
            shared,
            channels: shape.channels,
            last: [0.0; MAX_FADE],
            fade: ((shape.rate / FADES) as usize).clamp(1, MAX_FADE),
            hole: None,
            begun: false,
        }
    }

    /// The next samples, mono.
    fn fill(&mut self, mono: &mut [f32]) {
        let taken = self.ring.take(mono);
        let (heard, missing) = mono.split_at_mut(taken);
        if taken > 0 {
            if self.hole.take().is_some() {
                // Back in without a click.
                let ramp = self.fade.min(taken);
                for (n, sample) in heard.iter_mut().take(ramp).enumerate() {
                    *sample *= (n + 1) as f32 / ramp as f32;
                }
            }
            self.begun = true;
            self.remember(heard);
            self.shared
                .played
                .fetch_add(taken as u64, Ordering::Relaxed);
        }
        if !missing.is_empty() && self.begun {
            self.cover(missing);
        }
    }

    /// Keeps the end of what was played.
    fn remember(&mut self, heard: &[f32]) {
        let kept = self.fade.min(heard.len());
        self.last.copy_within(kept..self.fade, 0);
        self.last[self.fade - kept..self.fade].copy_from_slice(&heard[heard.len() - kept..]);
    }

    /// Fills a hole: the last 5 ms again, backwards so that there is no jump, and fading; then silence.
    fn cover(&mut self, missing: &mut [f32]) {
        if self.hole.is_none() {
            self.shared.underruns.fetch_add(1, Ordering::Relaxed);
        }
        let mut hole = self.hole.unwrap_or(0);
        for sample in &mut *missing {
            *sample = if hole < self.fade {
                let gain = 1.0 - (hole + 1) as f32 / self.fade as f32;
                self.last[self.fade - 1 - hole] * gain
            } else {
                0.0
            };
            hole = (hole + 1).min(self.fade);
        }
        self.hole = Some(hole);
        self.shared
            .made_up
            .fetch_add(missing.len() as u64, Ordering::Relaxed);
    }
}

impl Speak for Player {
    fn speak<T: Copy>(&mut self, samples: &mut [T], convert: fn(f32) -> T, delay: Duration) {
        let frames = samples.len() / self.channels;
        self.shared
            .callback
            .fetch_max(frames as u64, Ordering::Relaxed);
        self.shared
            .delay_micros
            .store(delay.as_micros() as u64, Ordering::Relaxed);
        for piece in samples.chunks_mut(BLOCK * self.channels) {
            let mut mono = [0.0; BLOCK];
            let mono = &mut mono[..piece.len() / self.channels];
            self.fill(mono);
            for (frame, &sample) in piece.chunks_exact_mut(self.channels).zip(&*mono) {
                frame.fill(convert(sample));
            }
            self.reference.write(mono.iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player() -> (Player, RingWriter, RingReader) {
        let (writer, reader) = ring(9_600);
        let (reference_in, reference_out) = ring(9_600);
        let shape = Shape {
            rate: 48_000,
            channels: 2,
        };
        let player = Player::new(reader, reference_in, Arc::default(), shape);
        (player, writer, reference_out)
    }

    fn speak(player: &mut Player, frames: usize) -> Vec<f32> {
        let mut out = vec![9.0; 2 * frames];
        player.speak(&mut out, |sample| sample, Duration::from_millis(7));
        for frame in out.chunks(2) {
            assert_eq!(frame[0], frame[1]);
        }
        out.into_iter().step_by(2).collect()
    }

    #[test]
    fn any_size_of_callback_is_served() {
        let (mut player, mut ring, mut reference) = player();
        ring.write((0..2_000).map(|n| n as f32));
        let mut heard = Vec::new();
        for frames in [1, 479, 1_100, 420] {
            heard.extend(speak(&mut player, frames));
        }
        let truth: Vec<f32> = (0..2_000).map(|n| n as f32).collect();
        assert_eq!(heard, truth);
        let mut block = vec![0.0; 2_000];
        assert!(reference.read(&mut block));
        assert_eq!(block, truth);
        assert_eq!(player.shared.callback.load(Ordering::Relaxed), 1_100);
        assert_eq!(player.shared.delay_micros.load(Ordering::Relaxed), 7_000);
    }

    #[test]
    fn holes_fade_out_and_in_and_are_counted() {
        let (mut player, mut ring, mut reference) = player();
        // Silence before the first sound is no hole.
        assert!(speak(&mut player, 480).iter().all(|&sample| sample == 0.0));
        assert_eq!(player.shared.underruns.load(Ordering::Relaxed), 0);
        ring.write(std::iter::repeat_n(0.5, 480));
        speak(&mut player, 480);
        let hole = [speak(&mut player, 100), speak(&mut player, 380)].concat();
        assert!(hole[0] > 0.45 && hole[0] < 0.5);
        assert!(hole.windows(2).all(|pair| pair[1] <= pair[0]));
        assert!(hole[240..].iter().all(|&sample| sample == 0.0));
        ring.write(std::iter::repeat_n(0.5, 480));
        let back = speak(&mut player, 480);
        assert!(back[0] < 0.01 && back[240..].iter().all(|&sample| sample == 0.5));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(count(&player.shared.underruns), 1);
        assert_eq!(count(&player.shared.made_up), 480);
        assert_eq!(count(&player.shared.played), 960);
        // The echo canceller hears all of it.
        assert_eq!(reference.len(), 4 * 480);
        reference.skip(480);
    }

    #[test]
    fn the_reference_is_in_blocks_and_never_old() {
        let (mut player, mut ring, reference) = player();
        let resampler = Resampler::new(48_000, 48_000).expect("rates of sound");
        let mut reference = follow(reference, resampler, 480);
        let mut block = [0.0; BLOCK];
        ring.write(std::iter::repeat_n(0.25, 480));
        speak(&mut player, 240);
        assert!(!reference.read(&mut block));
        speak(&mut player, 240);
        assert!(reference.read(&mut block));
        assert_eq!(block, [0.25; BLOCK]);
        // Nobody reads for 300 ms: what is left is thrown away.
        for _ in 0..30 {
            speak(&mut player, 480);
        }
        assert!(!reference.read(&mut block));
        ring.write(std::iter::repeat_n(0.75, 480));
        speak(&mut player, 480);
        assert!(reference.read(&mut block));
        assert_eq!(block[479], 0.75);
    }
}
