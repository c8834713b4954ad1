//! Microphones.
//!
//! The sound system's callback mixes the channels into a ring and does nothing else; the thread that reads
//! changes the rate and tells the time.

use std::time::{Duration, Instant};

use super::{
    BLOCK, CaptureClock, CaptureError, Resampler, SoundBlock, SoundInfo, SoundSource,
    host::{self, Hear, OpenStream, Shape, Way},
    ring::{RingReader, RingWriter, ring},
};
use crate::{AudioTime, sync};

/// Sound that may wait for its reader, milliseconds; older sound is dropped.
const KEPT_MILLIS: u32 = 200;
/// What the ring holds, milliseconds: the reader has as long again to drop what is too old.
const RING_MILLIS: u32 = 400;
/// A microphone that gives nothing for this long is taken as broken.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// An open microphone.
pub(super) struct MicrophoneSource {
    // Sound comes for as long as this lives.
    _stream: OpenStream,
    name: String,
    shape: Shape,
    ring: RingReader,
    resampler: Resampler,
    /// Straight from the ring.
    raw: Vec<f32>,
    /// 48 kHz, not yet read.
    waiting: Vec<f32>,
    fit: sync::CaptureClock,
    /// The samples that came until the last hand-over, at 48 kHz, and the time of the next one.
    anchor: (u64, AudioTime),
    /// Samples of the device that were taken off the ring, or dropped there.
    consumed: u64,
    dropped: u64,
    last_came: Instant,
}

/// What the callback does.
struct Mix {
    ring: RingWriter,
    shape: Shape,
}

impl Hear for Mix {
    fn hear<T: Copy>(&mut self, samples: &[T], convert: fn(T) -> f32) {
        let frames = samples.chunks_exact(self.shape.channels);
        let share = 1.0 / self.shape.channels as f32;
        self.ring.write_at(
            Instant::now(),
            frames.map(|frame| frame.iter().map(|&sample| convert(sample)).sum::<f32>() * share),
        );
    }
}

/// Opens a microphone.
pub(super) fn open(
    wanted: Option<&str>,
    clock: CaptureClock,
) -> Result<MicrophoneSource, CaptureError> {
    let found = host::find(Way::In, wanted)?;
    let mut ends = None;
    let (stream, shape) = found.open_input(|shape| {
        let (writer, reader) = ring(millis(shape.rate, RING_MILLIS));
        let alarm = reader.alarm();
        ends = Some(reader);
        (
            Mix {
                ring: writer,
                shape,
            },
            alarm,
        )
    })?;
    let format = |reason: String| CaptureError::Format {
        name: found.name.clone(),
        reason,
    };
    let ring = ends.ok_or_else(|| format("it has none".to_owned()))?;
    let resampler = Resampler::new(shape.rate, 48_000).map_err(format)?;
    let now = Instant::now();
    Ok(MicrophoneSource {
        _stream: stream,
        shape,
        ring,
        resampler,
        raw: vec![0.0; millis(shape.rate, 10)],
        waiting: Vec::with_capacity(4 * BLOCK),
        fit: sync::CaptureClock::new(clock.audio(now), now),
        anchor: (0, clock.audio(now)),
        consumed: 0,
        dropped: 0,
        last_came: now,
        name: found.name,
    })
}

/// Samples in so many milliseconds.
const fn millis(rate: u32, millis: u32) -> usize {
    (rate as usize * millis as usize) / 1_000
}

impl MicrophoneSource {
    /// Learns when samples came, and drops those that waited for too long.
    fn look(&mut self) {
        while let Some(arrival) = self.ring.arrival() {
            let samples = self.at_48(arrival.samples);
            let came = samples.saturating_sub(self.anchor.0);
            let first = self
                .fit
                .on_samples(arrival.at, u32::try_from(came).unwrap_or(u32::MAX));
            let next = first.checked_add_ticks(came).unwrap_or(first);
            self.anchor = (samples, next);
            self.last_came = Instant::now();
        }
        let kept = millis(self.shape.rate, KEPT_MILLIS);
        let over = self.ring.len().saturating_sub(kept);
        if over > 0 {
            self.ring.skip(over);
            self.consumed += over as u64;
            self.dropped += over as u64;
        }
    }

    /// As many samples of the device at 48 kHz.
    fn at_48(&self, samples: u64) -> u64 {
        samples * 48_000 / u64::from(self.shape.rate.max(1))
    }

    /// When the first of the waiting samples was captured: counted from the last hand-over.
    fn time(&self) -> AudioTime {
        let held = self.resampler.held() as u64;
        let first = self
            .at_48(self.consumed.saturating_sub(held))
            .saturating_sub(self.waiting.len() as u64);
        let (samples, time) = self.anchor;
        let ticks = time.ticks().saturating_add(first).saturating_sub(samples);
        AudioTime::from_ticks(ticks)
    }

    /// Takes 10 ms off the ring.
    fn take(&mut self) {
        if self.ring.read(&mut self.raw) {
            self.consumed += self.raw.len() as u64;
            self.resampler.push(&self.raw, &mut self.waiting);
        }
    }
}

impl SoundSource for MicrophoneSource {
    fn read(
        &mut self,
        block: &mut SoundBlock,
        timeout: Duration,
    ) -> Result<Option<AudioTime>, CaptureError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.look();
            if self.waiting.len() >= BLOCK {
                let time = self.time();
                block.copy_from_slice(&self.waiting[..BLOCK]);
                self.waiting.drain(..BLOCK);
                return Ok(Some(time));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.ring.wait_for(self.raw.len(), left) {
                self.take();
            } else if let Some(trouble) = self.ring.trouble() {
                return Err(host::trouble(&self.name, trouble));
            } else if self.last_came.elapsed() > SILENT_FOR {
                return Err(CaptureError::Device {
                    name: self.name.clone(),
                    reason: "it gives no sound".to_owned(),
                });
            } else {
                return Ok(None);
            }
        }
    }

    fn describe(&self) -> SoundInfo {
        SoundInfo {
            name: self.name.clone(),
            device_rate: self.shape.rate,
            hears_echo: true,
        }
    }

    fn lost(&self) -> u64 {
        self.at_48(self.dropped + self.ring.overflow())
    }
}
