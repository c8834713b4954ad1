//! A loudspeaker of the sound server.
//!
//! Nothing is kept ahead on our side: whoever writes is asked for the next 10 ms when the server's buffer has room
//! for them, and they go straight there. That buffer is as short as the machine allows: it begins short, grows with
//! each underrun, and shrinks again after a while without any; each device's depth is remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pulseaudio::protocol::{
    ChannelMap, ChannelPosition, Command, CorkStreamParams, CreatePlaybackStreamReply,
    PlaybackStreamParams, Prop, Props, SampleFormat, SampleSpec, SetPlaybackStreamBufferAttrParams,
    SetPlaybackStreamBufferAttrReply,
    stream::{BufferAttr, StreamFlags},
};

use super::{EchoReference, PlayError, SoundCounts, SoundSink, depth::Depth, speaker::follow};
use crate::capture::{
    BLOCK, Resampler, SoundBlock,
    host::trouble,
    pulse::{
        self, Closer, Connection, Device, Failure, Message, RATE, Reader, SAMPLE_BYTES, Writer,
    },
    ring::{RingWriter, Trouble, ring},
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

/// What the thread that reads tells the one that writes.
#[derive(Debug, Default)]
struct State {
    account: Account,
    underruns: u64,
    /// Of the device itself, behind the server's buffer.
    device: Duration,
    trouble: Option<Trouble>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn fail(&self, trouble: Trouble) {
        self.change(|state| {
            state.trouble.get_or_insert(trouble);
        });
    }
}

/// An open loudspeaker of the server.
pub(super) struct PulseSpeaker {
    device: Device,
    channel: u32,
    writer: Writer,
    shared: Arc<Shared>,
    depth: Depth,
    begun: bool,
    fade_in: bool,
    underruns: u64,
    played: u64,
    made_up: u64,
    moving: (u64, Instant),
    reference_in: RingWriter,
    reference: Option<EchoReference>,
    // Plays for as long as this lives; ends the thread that reads.
    _closer: Closer,
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
    let shared = Arc::new(Shared::default());
    shared.change(|state| {
        state.account.asked = u64::from(made.requested_bytes / SAMPLE_BYTES);
        state.account.target = u64::from(made.buffer_attr.target_length / SAMPLE_BYTES);
        state.device = Duration::from_micros(made.stream_latency);
    });
    tracing::debug!(
        device = device.name,
        target = made.buffer_attr.target_length / SAMPLE_BYTES,
        request = made.buffer_attr.minimum_request_length / SAMPLE_BYTES,
        latency_micros = made.stream_latency,
        "loudspeaker opened at the sound server"
    );
    let (reader, writer) = connection.split()?;
    let (told, channel) = (Arc::clone(&shared), made.channel);
    let closer = Closer::spawn("sound-out", reader, move |reader| {
        listen(reader, channel, &told);
    })?;
    let (reference_in, reference_out) = ring(samples(REFERENCE_MILLIS) as usize);
    let resampler = Resampler::new(RATE, RATE).map_err(Failure::Protocol)?;
    Ok(PulseSpeaker {
        device: device.clone(),
        channel,
        writer,
        shared,
        depth,
        begun: false,
        fade_in: false,
        underruns: 0,
        played: 0,
        made_up: 0,
        moving: (0, Instant::now()),
        reference_in,
        reference: Some(follow(reference_out, resampler, BLOCK)),
        _closer: closer,
    })
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

/// Takes what the server says, until it says no more.
fn listen(mut reader: Reader, channel: u32, shared: &Shared) {
    let version = reader.version();
    loop {
        let (command, rest) = match reader.read() {
            Ok(Message::Command(_, command, rest)) => (command, rest),
            Ok(Message::Sound(_)) => continue,
            Err(failure) => {
                tracing::debug!(%failure, "the sound server takes no more");
                return shared.fail(Trouble::Gone);
            }
        };
        match command {
            Command::Request(request) if request.channel == channel => {
                let more = u64::from(request.length / SAMPLE_BYTES);
                shared
                    .change(|state| state.account.asked = state.account.asked.saturating_add(more));
            }
            Command::Underflow(underflow) if underflow.channel == channel => {
                shared.change(|state| state.underruns += 1);
            }
            Command::PlaybackStreamKilled(killed) if killed == channel => {
                return shared.fail(Trouble::Gone);
            }
            Command::PlaybackBufferAttrChanged(changed) => {
                set_target(shared, &changed.buffer_attr, changed.sink_input_latency);
            }
            Command::Reply if !rest.is_empty() => {
                let reply: Result<SetPlaybackStreamBufferAttrReply, _> =
                    pulse::parse(rest, version);
                if let Ok(reply) = reply {
                    set_target(shared, &reply.buffer_attr, reply.configured_sink_latency);
                }
            }
            Command::Error(error) => {
                tracing::warn!(%error, "the sound server refuses");
                return shared.fail(Trouble::Failed);
            }
            _ => {}
        }
    }
}

fn set_target(shared: &Shared, attributes: &BufferAttr, device_micros: u64) {
    shared.change(|state| {
        state.account.target = u64::from(attributes.target_length / SAMPLE_BYTES);
        state.device = Duration::from_micros(device_micros);
    });
}

impl PulseSpeaker {
    /// Makes the server's buffer deeper after an underrun, and less deep after a while without any.
    fn adapt(&mut self, underruns: u64) -> Result<(), PlayError> {
        let now = Instant::now();
        let before = self.depth.device();
        if underruns > self.underruns && self.begun {
            self.fade_in = true;
            self.depth.on_underrun(now);
        } else {
            self.depth.on_calm(now);
        }
        self.underruns = underruns;
        if self.depth.device() == before {
            return Ok(());
        }
        tracing::debug!(
            device = self.device.name,
            millis = self.depth.device().as_millis() as u64,
            underruns,
            "another depth for the loudspeaker"
        );
        remember(&self.device.id, self.depth);
        let command = Command::SetPlaybackStreamBufferAttr(SetPlaybackStreamBufferAttrParams {
            index: self.channel,
            buffer_attr: attributes(self.depth),
            adjust_latency: true,
            early_requests: false,
        });
        self.say(&command)
    }

    fn say(&mut self, command: &Command) -> Result<(), PlayError> {
        let said = self.writer.send(command);
        said.map(drop)
            .map_err(|failure| pulse::failed(&self.device.name, &failure))
    }

    fn give(&mut self, samples: &[f32]) -> Result<(), PlayError> {
        let given = self.writer.sound(self.channel, samples);
        given.map_err(|failure| pulse::failed(&self.device.name, &failure))?;
        self.shared.lock().account.given += samples.len() as u64;
        self.reference_in.write(samples.iter().copied());
        Ok(())
    }

    /// Gives silence for what is past its time, so that both sides count alike.
    fn catch_up(&mut self, missed: u64) -> Result<(), PlayError> {
        self.fade_in = true;
        self.made_up += missed;
        let most = samples(MISSED_MOST_MILLIS);
        let mut left = missed.min(most);
        // What is too much has been played as silence, and nobody looks at it again.
        self.shared.lock().account.given += missed - left;
        let silence = [0.0; BLOCK];
        while left > 0 {
            let piece = left.min(BLOCK as u64);
            self.give(&silence[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }

    /// Whether the device has stopped asking.
    fn is_stuck(&mut self, asked: u64) -> bool {
        if asked != self.moving.0 {
            self.moving = (asked, Instant::now());
        }
        self.begun && self.moving.1.elapsed() > STUCK_FOR
    }
}

impl SoundSink for PulseSpeaker {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        let shared = Arc::clone(&self.shared);
        let wanted =
            |state: &State| state.trouble.is_some() || state.account.owed() >= BLOCK as u64;
        let (state, _) = shared
            .changed
            .wait_timeout_while(shared.lock(), timeout, |state| !wanted(state))
            .unwrap_or_else(PoisonError::into_inner);
        let (account, underruns, failed) = (state.account, state.underruns, state.trouble);
        drop(state);
        if let Some(failed) = failed {
            return Err(trouble(&self.device.name, failed));
        }
        if self.is_stuck(account.asked) {
            return Err(PlayError::Device {
                name: self.device.name.clone(),
                reason: "it takes no sound".to_owned(),
            });
        }
        self.adapt(underruns)?;
        Ok(account.owed() >= BLOCK as u64)
    }

    fn write(&mut self, block: &SoundBlock) -> Result<(), PlayError> {
        let (account, failed) = {
            let state = self.shared.lock();
            (state.account, state.trouble)
        };
        if let Some(failed) = failed {
            return Err(trouble(&self.device.name, failed));
        }
        if account.queued() > samples(ROOM_MILLIS).max(account.target) {
            return Ok(());
        }
        if self.begun && account.missed() > 0 {
            self.catch_up(account.missed())?;
        }
        if std::mem::take(&mut self.fade_in) {
            let mut block = *block;
            fade_in(&mut block);
            self.give(&block)?;
        } else {
            self.give(block)?;
        }
        self.played += BLOCK as u64;
        if !self.begun {
            self.begun = true;
            self.moving.1 = Instant::now();
            self.say(&Command::CorkPlaybackStream(CorkStreamParams {
                channel: self.channel,
                cork: false,
            }))?;
        }
        Ok(())
    }

    fn level(&self) -> Duration {
        let state = self.shared.lock();
        Duration::from_secs(state.account.queued()) / RATE + state.device
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
