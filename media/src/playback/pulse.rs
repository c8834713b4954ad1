//! A loudspeaker of the sound server.
//!
//! Nothing is kept ahead on our side, and there is no thread: whoever writes waits for what the server says, is asked
//! for the next 10 ms when the server's buffer has room for them, and they go straight there. That buffer is as short as the machine allows: it begins short, grows with
//! each underrun, and shrinks again after a while without any; each device's depth is remembered.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    ChannelMap, ChannelPosition, Command, CorkStreamParams, CreatePlaybackStreamReply,
    PlaybackStreamParams, Prop, Props, PulseError, SampleFormat, SampleSpec,
    SetPlaybackStreamBufferAttrParams, SetPlaybackStreamBufferAttrReply,
    stream::{BufferAttr, StreamFlags},
};

use super::{EchoReference, PlayError, SoundCounts, SoundSink, depth::Depth, speaker::follow};
use crate::capture::{
    BLOCK, Resampler, SoundBlock,
    pulse::{self, Connection, Device, Failure, Message, RATE, Reader, SAMPLE_BYTES, Writer},
    ring::{RingWriter, ring},
};

/// The server asks for so much at once at least, milliseconds: half of what is made at once, so that it is asked
/// for at most 5 ms after there is room.
const REQUEST_MILLIS: u32 = 5;
/// What is written without being asked for is taken up to this, milliseconds.
const ROOM_MILLIS: u32 = 200;
/// Sound that the reader of the echo reference may leave unread, milliseconds (`media.md` §13).
const REFERENCE_MILLIS: u32 = 200;
/// After an underrun the sound comes back within this, milliseconds: without a click.
const FADE_MILLIS: u32 = 5;
/// Silence in place of what was missed goes out in pieces; no more of it than this, milliseconds: what is beyond
/// has no place to be in.
const MISSED_MOST_MILLIS: u32 = 2_000;
/// A device that asks for nothing for this long is taken as broken.
const STUCK_FOR: Duration = Duration::from_secs(5);
/// Messages of the server that are taken in one go.
const MESSAGES_AT_ONCE: usize = 64;
/// Devices whose depth is remembered at most.
const MAX_KNOWN: usize = 64;

/// How deep each device had to be.
static KNOWN: Mutex<Option<HashMap<String, Depth>>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<HashMap<String, Depth>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remembered(id: &str) -> Depth {
    let known = known();
    let depth = known.as_ref().and_then(|known| known.get(id)).copied();
    depth.unwrap_or_default()
}

fn remember(id: &str, depth: Depth) {
    let mut known = known();
    let known = known.get_or_insert_default();
    if known.len() < MAX_KNOWN || known.contains_key(id) {
        known.insert(id.to_owned(), depth);
    }
}

/// Samples in so many milliseconds.
const fn samples(millis: u32) -> u64 {
    (RATE / 1_000 * millis) as u64
}

/// What the server asked for and got, samples.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    asked: u64,
    given: u64,
    /// What the server wants to have in its buffer.
    target: u64,
}

impl Account {
    /// Asked for and not given.
    const fn owed(&self) -> u64 {
        self.asked.saturating_sub(self.given)
    }

    /// Of that, what is past its time already: the server plays on, and throws it away.
    const fn missed(&self) -> u64 {
        self.owed().saturating_sub(self.target)
    }

    /// In the server's buffer, as far as it told.
    const fn queued(&self) -> u64 {
        (self.target + self.given).saturating_sub(self.asked)
    }
}

/// An open loudspeaker of the server.
pub(super) struct PulseSpeaker {
    device: Device,
    channel: u32,
    reader: Reader,
    writer: Writer,
    account: Account,
    /// What the device itself holds, behind the server's buffer.
    device_delay: Duration,
    depth: Depth,
    begun: bool,
    fade_in: bool,
    underruns: u64,
    /// Of these, those that the depth knows of.
    adapted: u64,
    played: u64,
    made_up: u64,
    moving: (u64, Instant),
    reference_in: RingWriter,
    reference: Option<EchoReference>,
}

/// Opens a loudspeaker of the server.
pub(super) fn open(device: Device) -> Result<PulseSpeaker, PlayError> {
    let made = try_open(&device);
    made.map_err(|failure| pulse::failed(&device.name, &failure))
}

fn try_open(device: &Device) -> Result<PulseSpeaker, Failure> {
    let depth = remembered(&device.id);
    let mut connection = Connection::open()?;
    let made: CreatePlaybackStreamReply = connection.ask(&create(device, depth))?;
    tracing::debug!(
        device = device.name,
        target = made.buffer_attr.target_length / SAMPLE_BYTES,
        request = made.buffer_attr.minimum_request_length / SAMPLE_BYTES,
        latency_micros = made.stream_latency,
        "loudspeaker opened at the sound server"
    );
    let (reader, writer) = connection.split();
    let (reference_in, reference_out) = ring(samples(REFERENCE_MILLIS) as usize);
    let resampler = Resampler::new(RATE, RATE).map_err(Failure::Protocol)?;
    let mut speaker = PulseSpeaker {
        device: device.clone(),
        channel: made.channel,
        reader,
        writer,
        account: Account {
            asked: u64::from(made.requested_bytes / SAMPLE_BYTES),
            ..Account::default()
        },
        device_delay: Duration::ZERO,
        depth,
        begun: false,
        fade_in: false,
        underruns: 0,
        adapted: 0,
        played: 0,
        made_up: 0,
        moving: (0, Instant::now()),
        reference_in,
        reference: Some(follow(reference_out, resampler, BLOCK)),
    };
    speaker.set_target(&made.buffer_attr, made.stream_latency);
    Ok(speaker)
}

fn create(device: &Device, depth: Depth) -> Command {
    let mut props = Props::new();
    props.set(Prop::MediaName, c"call");
    Command::CreatePlaybackStream(PlaybackStreamParams {
        sample_spec: SampleSpec {
            format: SampleFormat::Float32Le,
            channels: 1,
            sample_rate: RATE,
        },
        channel_map: ChannelMap::new([ChannelPosition::Mono]),
        sink_index: Some(device.index),
        buffer_attr: attributes(depth),
        flags: StreamFlags {
            start_corked: true,
            adjust_latency: true,
            ..StreamFlags::default()
        },
        props,
        ..PlaybackStreamParams::default()
    })
}

/// What the server is asked for. It gives the device (whole − 2 × request) / 2, and has the rest in its own buffer.
fn attributes(depth: Depth) -> BufferAttr {
    let request = samples(REQUEST_MILLIS) as u32;
    let device = (depth.device().as_micros() as u64 * u64::from(RATE) / 1_000_000) as u32;
    BufferAttr {
        target_length: (2 * request + 2 * device) * SAMPLE_BYTES,
        minimum_request_length: request * SAMPLE_BYTES,
        // Time goes on in an underrun, so that the sound is not later after it.
        pre_buffering: 0,
        ..BufferAttr::default()
    }
}

impl PulseSpeaker {
    /// Takes what the server says, `timeout` at most, until a block is asked for.
    fn listen(&mut self, timeout: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        for _ in 0..MESSAGES_AT_ONCE {
            let left = if self.wants() {
                Duration::ZERO
            } else {
                deadline.saturating_duration_since(Instant::now())
            };
            if !self.reader.ready(left)? {
                break;
            }
            self.take_message()?;
        }
        Ok(())
    }

    /// The first block is wanted whatever the server says: it asks for none before it plays, maybe.
    fn wants(&self) -> bool {
        !self.begun || self.account.owed() >= BLOCK as u64
    }

    fn take_message(&mut self) -> Result<(), Failure> {
        let version = self.reader.version();
        let Message::Command(_, command, rest) = self.reader.read()? else {
            return Ok(());
        };
        match command {
            Command::Request(request) if request.channel == self.channel => {
                let more = u64::from(request.length / SAMPLE_BYTES);
                self.account.asked = self.account.asked.saturating_add(more);
            }
            Command::Underflow(underflow) if underflow.channel == self.channel => {
                self.underruns += u64::from(self.begun);
            }
            Command::PlaybackStreamKilled(killed) if killed == self.channel => {
                return Err(Failure::Refused(PulseError::NoEntity));
            }
            Command::PlaybackBufferAttrChanged(changed) => {
                self.set_target(&changed.buffer_attr, changed.sink_input_latency);
            }
            Command::PlaybackStreamMoved(moved) => {
                self.set_target(&moved.buffer_attr, moved.configured_sink_latency);
            }
            // The answer to another depth; the others say nothing.
            Command::Reply if !rest.is_empty() => {
                let reply: SetPlaybackStreamBufferAttrReply = pulse::parse(rest, version)?;
                self.set_target(&reply.buffer_attr, reply.configured_sink_latency);
            }
            Command::Error(error) => return Err(Failure::Refused(error)),
            _ => {}
        }
        Ok(())
    }

    fn set_target(&mut self, attributes: &BufferAttr, device_micros: u64) {
        self.account.target = u64::from(attributes.target_length / SAMPLE_BYTES);
        self.device_delay = Duration::from_micros(device_micros);
    }

    /// Makes the server's buffer deeper after an underrun, and less deep after a while without any.
    fn adapt(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let before = self.depth.device();
        if std::mem::replace(&mut self.adapted, self.underruns) < self.underruns {
            self.fade_in = true;
            self.depth.on_underrun(now);
        } else {
            self.depth.on_calm(now);
        }
        if self.depth.device() == before {
            return Ok(());
        }
        tracing::debug!(
            device = self.device.name,
            micros = self.depth.device().as_micros() as u64,
            underruns = self.underruns,
            "another depth for the loudspeaker"
        );
        remember(&self.device.id, self.depth);
        let command = Command::SetPlaybackStreamBufferAttr(SetPlaybackStreamBufferAttrParams {
            index: self.channel,
            buffer_attr: attributes(self.depth),
            adjust_latency: true,
            early_requests: false,
        });
        self.writer.send(&command).map(drop)
    }

    fn give(&mut self, samples: &[f32]) -> Result<(), Failure> {
        self.writer.sound(self.channel, samples)?;
        self.account.given += samples.len() as u64;
        self.reference_in.write(samples.iter().copied());
        Ok(())
    }

    /// Gives silence for what is past its time, so that both sides count alike.
    fn catch_up(&mut self, missed: u64) -> Result<(), Failure> {
        self.fade_in = true;
        self.made_up += missed;
        let most = samples(MISSED_MOST_MILLIS);
        let mut left = missed.min(most);
        // What is too much has been played as silence, and nobody looks at it again.
        self.account.given += missed - left;
        let silence = [0.0; BLOCK];
        while left > 0 {
            let piece = left.min(BLOCK as u64);
            self.give(&silence[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }

    fn play(&mut self, block: &SoundBlock) -> Result<(), Failure> {
        let missed = self.account.missed();
        if self.begun && missed > 0 {
            self.catch_up(missed)?;
        }
        let mut block = *block;
        if std::mem::take(&mut self.fade_in) {
            fade_in(&mut block);
        }
        self.give(&block)?;
        self.played += BLOCK as u64;
        if !self.begun {
            self.begun = true;
            self.moving.1 = Instant::now();
            self.writer
                .send(&Command::CorkPlaybackStream(CorkStreamParams {
                    channel: self.channel,
                    cork: false,
                }))?;
        }
        Ok(())
    }

    /// Whether the device has stopped asking.
    fn is_stuck(&mut self) -> bool {
        if self.account.asked != self.moving.0 {
            self.moving = (self.account.asked, Instant::now());
        }
        self.begun && self.moving.1.elapsed() > STUCK_FOR
    }

    fn failed(&self, failure: &Failure) -> PlayError {
        pulse::failed(&self.device.name, failure)
    }
}

impl SoundSink for PulseSpeaker {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        let heard = self.listen(timeout).and_then(|()| self.adapt());
        heard.map_err(|failure| self.failed(&failure))?;
        if self.is_stuck() {
            return Err(PlayError::Device {
                name: self.device.name.clone(),
                reason: "it takes no sound".to_owned(),
            });
        }
        Ok(self.wants())
    }

    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        if self.account.queued() > samples(ROOM_MILLIS).max(self.account.target) {
            return Ok(());
        }
        self.play(block).map_err(|failure| self.failed(&failure))
    }

    fn level(&self) -> Duration {
        Duration::from_secs(self.account.queued()) / RATE + self.device_delay
    }

    fn take_reference(&mut self) -> Option<EchoReference> {
        self.reference.take()
    }

    fn counts(&self) -> SoundCounts {
        SoundCounts {
            played: self.played,
            underruns: self.underruns,
            made_up: self.made_up,
        }
    }
}

fn fade_in(block: &mut SoundBlock) {
    let ramp = samples(FADE_MILLIS) as usize;
    for (n, sample) in block.iter_mut().take(ramp).enumerate() {
        *sample *= (n + 1) as f32 / ramp as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_its_time_is_told_from_what_is_owed() {
        let mut account = Account {
            asked: 720,
            given: 0,
            target: 720,
        };
        assert_eq!(
            (account.owed(), account.missed(), account.queued()),
            (720, 0, 0)
        );
        account.given = 480;
        assert_eq!(
            (account.owed(), account.missed(), account.queued()),
            (240, 0, 480)
        );
        // 30 ms go by.
        account.asked += 1_440;
        assert_eq!(
            (account.owed(), account.missed(), account.queued()),
            (1_680, 960, 0)
        );
        // More than was asked for.
        account.given = account.asked + 100;
        assert_eq!(
            (account.owed(), account.missed(), account.queued()),
            (0, 0, 820)
        );
    }

    #[test]
    fn the_device_gets_what_is_wished() {
        let depth = Depth::default();
        let asked = attributes(depth);
        let request = asked.minimum_request_length;
        let device = (asked.target_length - 2 * request) / 2 / SAMPLE_BYTES;
        assert_eq!(u128::from(device), depth.device().as_micros() * 48 / 1_000);
        // Two requests make a block: it is asked for at most one request after there is room.
        assert_eq!(2 * request / SAMPLE_BYTES, BLOCK as u32);
    }

    #[test]
    fn sound_comes_back_without_a_click() {
        let mut block = [1.0; BLOCK];
        fade_in(&mut block);
        assert!(block[0] < 0.01);
        assert!(block.is_sorted());
        assert_eq!(block[BLOCK / 2], 1.0);
    }
}
