//! The threads of sound: one takes it from the microphone through voice processing and the encoder to the call,
//! one takes it from the call through its buffer to the loudspeaker, ten milliseconds at a time.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::config::{Device, Event};
use super::shared::{
    Clock, Events, GLANCE, Heard, Inbox, Message, Meter, SoundControl, Switches, lock,
};
use crate::call::{BufferState, SoundOrder};
use crate::capture::{AudioSpec, BLOCK, SoundBlock, SoundOptions, SoundSource, open_sound};
use crate::decode::OpusDecoder;
use crate::encode::{Redundancy, SoundConfig, SoundEncoder};
use crate::jitter::{AudioBuffer, AudioStats, PULL_SAMPLES};
use crate::measure::Measure;
use crate::playback::{
    AudioSinkSpec, EchoReference, SoundCounts, SoundSink, open_sound as open_speaker,
};
use crate::voice::{Level, VoiceConfig, VoiceDetector, VoiceProcessor};
use crate::{AudioTime, Samples};

/// A device that went away is tried again so often.
const RETRY: Duration = Duration::from_secs(1);
/// The call is told of the buffer with every so many blocks.
const BLOCKS_PER_STATE: u32 = 2;
/// Messages taken from the call in one go at most.
const MESSAGES_AT_ONCE: usize = 128;
/// Level of silence.
const SILENCE_DBFS: f32 = -100.0;
/// Length of a block, seconds.
const BLOCK_SECONDS: f64 = 0.01;

/// What a block of this level adds to the energy of sound (webrtc-stats, `totalAudioEnergy`).
fn energy(level_dbfs: f32) -> f64 {
    if level_dbfs <= SILENCE_DBFS {
        return 0.0;
    }
    10f64.powf(f64::from(level_dbfs) / 10.0) * BLOCK_SECONDS
}

/// What is known of the sound that goes out, for statistics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken {
    pub(super) level_dbfs: f32,
    pub(super) voice: bool,
    /// Squares of levels times seconds, and these seconds.
    pub(super) energy: f64,
    pub(super) duration: f64,
}

impl Default for Spoken {
    fn default() -> Self {
        Self {
            level_dbfs: SILENCE_DBFS,
            voice: false,
            energy: 0.0,
            duration: 0.0,
        }
    }
}

/// Sound that goes out.
pub(super) struct Microphone {
    pub(super) control: Arc<SoundControl<AudioSpec>>,
    pub(super) voice: Arc<Mutex<VoiceConfig>>,
    pub(super) echo: Arc<Mutex<Option<EchoReference>>>,
    pub(super) spoken: Arc<Mutex<Spoken>>,
    pub(super) switches: Arc<Switches>,
    pub(super) inbox: Inbox,
    pub(super) events: Events,
    pub(super) clock: Clock,
    pub(super) meter: Arc<Meter>,
    pub(super) measure: Option<Measure>,
}

/// What happens to the sound of one source.
enum Voice {
    /// It may hear the loudspeaker.
    Processed(Box<VoiceProcessor>, VoiceConfig),
    /// It is what it is: a file, a tone.
    Raw(Box<VoiceDetector>),
}

impl Microphone {
    /// Runs until the pipeline stops.
    pub(super) fn run(self) {
        let mut said = None;
        let mut encoder = None;
        while !self.switches.stopped() {
            let (generation, spec) = lock(&self.control.source).clone();
            match open_sound(
                &spec,
                &SoundOptions {
                    clock: self.clock.capture,
                },
            ) {
                Ok(None) => self.wait(generation, false),
                Ok(Some(source)) => {
                    said = None;
                    let source = match &self.measure {
                        Some(measure) => measure.sound_said(source),
                        None => source,
                    };
                    let begun = Instant::now();
                    self.inbox.send(Message::SoundOn(true));
                    self.listen(source, generation, &mut encoder);
                    self.inbox.send(Message::SoundOn(false));
                    if begun.elapsed() < RETRY {
                        // One that is lost as soon as it is opened is not opened all the time.
                        self.wait(generation, true);
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        self.events.lost(Device::Microphone, &text);
                        said = Some(text);
                    }
                    self.wait(generation, error.may_pass());
                }
            }
        }
    }

    fn current(&self, generation: u64) -> bool {
        !self.switches.stopped() && lock(&self.control.source).0 == generation
    }

    fn wait(&self, generation: u64, again: bool) {
        let until = Instant::now() + RETRY;
        while self.current(generation) && !(again && Instant::now() >= until) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn listen(
        &self,
        mut source: Box<dyn SoundSource>,
        generation: u64,
        encoder: &mut Option<SoundEncoder>,
    ) {
        let info = source.describe();
        self.events.tell(Event::DeviceOpened {
            device: Device::Microphone,
            name: info.name,
        });
        let mut voice = if info.hears_echo {
            let config = *lock(&self.voice);
            Voice::Processed(Box::new(VoiceProcessor::new(config)), config)
        } else {
            Voice::Raw(Box::default())
        };
        let mut block: SoundBlock = [0.0; BLOCK];
        let mut frame = Frame::default();
        while self.current(generation) {
            let time = match source.read(&mut block, GLANCE) {
                Ok(Some(time)) => time,
                Ok(None) => continue,
                Err(error) => {
                    self.events.lost(Device::Microphone, error);
                    return;
                }
            };
            let began = Instant::now();
            let speaks = self.process(&mut voice, &mut block);
            let order = *lock(&self.control.order);
            if let Some((samples, voice)) = frame.add(time, &block, speaks, order) {
                let captured_at = self.clock.sound(samples.time, began);
                self.meter.pass(
                    began.elapsed(),
                    began.saturating_duration_since(captured_at),
                );
                if !self.encode(encoder, &samples, voice, order, captured_at) {
                    return;
                }
            }
            self.meter.set_dropped(source.lost());
        }
    }

    /// Takes echo, noise and unevenness out of `block`; whether somebody speaks in it.
    fn process(&self, voice: &mut Voice, block: &mut SoundBlock) -> bool {
        let (mut speaks, level) = match voice {
            Voice::Processed(processor, config) => {
                let wanted = *lock(&self.voice);
                if wanted != *config {
                    *config = wanted;
                    processor.set_config(wanted);
                }
                if let Some(echo) = lock(&self.echo).as_mut() {
                    let mut played: SoundBlock = [0.0; BLOCK];
                    while echo.read(&mut played) {
                        processor.process_render(&played);
                    }
                }
                let heard = processor.process_capture(block);
                (heard.voice, heard.level)
            }
            Voice::Raw(detector) => (detector.process(block), Level::of(&block[..])),
        };
        let silent = self.control.muted.load(Ordering::Acquire) || self.switches.held();
        if silent {
            block.fill(0.0);
            speaks = false;
        }
        let mut spoken = lock(&self.spoken);
        if spoken.voice != speaks {
            self.events.tell(Event::LocalVoice(speaks));
        }
        spoken.level_dbfs = if silent { SILENCE_DBFS } else { level.rms_dbfs };
        spoken.voice = speaks;
        spoken.energy += energy(spoken.level_dbfs);
        spoken.duration += BLOCK_SECONDS;
        speaks
    }

    /// False when nobody listens any more, or nothing can be encoded.
    fn encode(
        &self,
        encoder: &mut Option<SoundEncoder>,
        samples: &Samples<f32>,
        voice: bool,
        order: Option<SoundOrder>,
        captured_at: Instant,
    ) -> bool {
        let encoded = encode(encoder, samples, voice, order);
        match encoded {
            Ok(sound) => self.inbox.send(Message::Sound { sound, captured_at }),
            Err(error) => {
                self.events.lost(Device::Microphone, error);
                false
            }
        }
    }
}

fn encode(
    encoder: &mut Option<SoundEncoder>,
    samples: &Samples<f32>,
    voice: bool,
    order: Option<SoundOrder>,
) -> Result<crate::EncodedSound, crate::encode::SoundEncodeError> {
    if encoder.is_none() {
        *encoder = Some(SoundEncoder::new(SoundConfig::default())?);
    }
    let Some(encoder) = encoder else {
        return SoundEncoder::new(SoundConfig::default())?.encode(samples, voice);
    };
    if let Some(order) = order {
        encoder.set_rate(u32::try_from(order.bits_per_sec).unwrap_or(u32::MAX))?;
        encoder.set_redundancy(if order.expected_loss > 0.0 {
            Redundancy::Copy {
                expected_loss: order.expected_loss,
            }
        } else {
            Redundancy::None
        })?;
    }
    encoder.encode(samples, voice)
}

/// Blocks that become a packet.
#[derive(Default)]
struct Frame {
    time: AudioTime,
    samples: Vec<f32>,
    wanted: usize,
    voice: bool,
}

impl Frame {
    /// Adds a block; gives out a whole frame of the length that held at its beginning.
    fn add(
        &mut self,
        time: AudioTime,
        block: &SoundBlock,
        voice: bool,
        order: Option<SoundOrder>,
    ) -> Option<(Samples<f32>, bool)> {
        if self.samples.is_empty() {
            let frame = order.map_or(10, |order| order.frame.as_millis() as usize);
            self.time = time;
            self.wanted = match frame {
                0..=10 => BLOCK,
                11..=20 => 2 * BLOCK,
                _ => 4 * BLOCK,
            };
            self.voice = false;
        }
        self.samples.extend_from_slice(block);
        self.voice |= voice;
        if self.samples.len() < self.wanted {
            return None;
        }
        let samples = std::mem::take(&mut self.samples);
        let samples = Samples::new(1, self.time, samples).ok()?;
        Some((samples, self.voice))
    }
}

/// What is known of the sound that comes in, for statistics.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Played {
    pub(super) stats: AudioStats,
    pub(super) target: Duration,
    pub(super) level_dbfs: f32,
    pub(super) underruns: u64,
    /// Samples made up for these.
    pub(super) made_up: u64,
    /// Squares of levels times seconds.
    pub(super) energy: f64,
    /// Waiting for the loudspeaker, summed up over samples, seconds.
    pub(super) playout_delay: f64,
}

impl Played {
    /// How loud it is now, dBFS; silence before anything was played.
    pub(super) fn level(&self) -> f32 {
        if self.stats.total_samples == 0 {
            SILENCE_DBFS
        } else {
            self.level_dbfs
        }
    }
}

/// Sound that comes in.
pub(super) struct Speaker {
    pub(super) control: Arc<Mutex<(u64, AudioSinkSpec)>>,
    pub(super) heard: Receiver<Heard>,
    pub(super) echo: Arc<Mutex<Option<EchoReference>>>,
    pub(super) played: Arc<Mutex<Played>>,
    pub(super) switches: Arc<Switches>,
    pub(super) inbox: Inbox,
    pub(super) events: Events,
    pub(super) meter: Arc<Meter>,
    pub(super) measure: Option<Measure>,
}

impl Speaker {
    /// Runs until the pipeline stops.
    pub(super) fn run(self) {
        let mut buffer = AudioBuffer::new();
        let mut decoder = match OpusDecoder::new() {
            Ok(decoder) => decoder,
            Err(error) => {
                self.events.lost(Device::Speaker, error);
                return;
            }
        };
        let (mut said, mut rest) = (None, None);
        while !self.switches.stopped() {
            let (generation, spec) = lock(&self.control).clone();
            let begun = Instant::now();
            let (sink, again) = if rest == Some(generation) {
                (None, true)
            } else {
                self.open(&spec, &mut said)
            };
            // Without a loudspeaker the other side's sound goes nowhere, at the right speed, until there is one
            // again or another is chosen.
            let until = (sink.is_none() && again).then(|| begun + RETRY);
            let sink = sink.unwrap_or_else(|| Box::new(crate::playback::NullSink::new()));
            let sink = match &self.measure {
                Some(measure) => measure.sound_heard(sink),
                None => sink,
            };
            let lost = self.play(sink, (generation, until), &mut buffer, &mut decoder);
            // One that is lost as soon as it is opened is not opened all the time.
            rest = (lost && begun.elapsed() < RETRY).then_some(generation);
        }
    }

    /// The loudspeaker, or whether it may be there later; the same reason is told once.
    fn open(
        &self,
        spec: &AudioSinkSpec,
        said: &mut Option<String>,
    ) -> (Option<Box<dyn SoundSink>>, bool) {
        match open_speaker(spec) {
            Ok(sink) => {
                *said = None;
                self.events.tell(Event::DeviceOpened {
                    device: Device::Speaker,
                    name: spec.to_string(),
                });
                (Some(sink), true)
            }
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    self.events.lost(Device::Speaker, &text);
                    *said = Some(text);
                }
                (None, error.may_pass())
            }
        }
    }

    /// Plays until something else is to be played on; whether the device was lost.
    fn play(
        &self,
        mut sink: Box<dyn SoundSink>,
        (generation, until): (u64, Option<Instant>),
        buffer: &mut AudioBuffer,
        decoder: &mut OpusDecoder,
    ) -> bool {
        *lock(&self.echo) = sink.take_reference();
        let mut out = [0.0; PULL_SAMPLES];
        let mut blocks = 0u32;
        let mut before = SoundCounts::default();
        while !self.switches.stopped()
            && lock(&self.control).0 == generation
            && until.is_none_or(|until| Instant::now() < until)
        {
            let wanted = match sink.wait(GLANCE) {
                Ok(wanted) => wanted,
                Err(error) => {
                    self.events.lost(Device::Speaker, error);
                    return true;
                }
            };
            self.take(buffer);
            if !wanted {
                continue;
            }
            let began = Instant::now();
            buffer.pull(began, decoder, &mut out);
            if self.switches.held() {
                out.fill(0.0);
            }
            if let Err(error) = sink.write(&out) {
                self.events.lost(Device::Speaker, error);
                return true;
            }
            let level = sink.level();
            self.meter.pass(began.elapsed(), level);
            blocks = blocks.wrapping_add(1);
            if blocks.is_multiple_of(BLOCKS_PER_STATE) {
                self.tell(buffer, began + level);
            }
            let counts = sink.counts();
            let mut played = lock(&self.played);
            played.stats = *buffer.stats();
            played.target = buffer.target();
            played.level_dbfs = Level::of(&out[..]).rms_dbfs;
            played.energy += energy(played.level_dbfs);
            played.playout_delay += level.as_secs_f64() * PULL_SAMPLES as f64;
            played.underruns += counts.underruns.saturating_sub(before.underruns);
            played.made_up += counts.made_up.saturating_sub(before.made_up);
            before = counts;
        }
        false
    }

    /// What came from the call since the last look.
    fn take(&self, buffer: &mut AudioBuffer) {
        for heard in self.heard.try_iter().take(MESSAGES_AT_ONCE) {
            self.meter.left();
            match heard {
                Heard::Sound { body, arrival } => {
                    buffer.insert(arrival, &body);
                }
                Heard::Order(order) => {
                    buffer.set_repair_delay(order.repair_delay);
                    buffer.set_repair_wait(order.repair_wait);
                    buffer.set_sync_delay(order.sync_delay);
                }
                Heard::PathSwitch => buffer.on_path_switch(Instant::now()),
            }
        }
    }

    fn tell(&self, buffer: &AudioBuffer, at: Instant) {
        self.inbox.offer(Message::Buffer(BufferState {
            buffer_millis: buffer.buffer_millis(),
            progress: buffer.progress(),
            playing: buffer.playing_time().map(|time| (time, at)),
        }));
    }
}
