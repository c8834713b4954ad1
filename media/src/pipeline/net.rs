//! The thread that owns the call: everything that is decided is decided here, in the order in which it comes.
//! It waits for nobody; whoever feeds it waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::config::Event;
use super::shared::{
    CodecCounts, Events, GLANCE, Heard, Inbox, Message, Meter, SoundControl, VideoControl, lock,
};
use super::sound::{Played, Spoken};
use super::stamps::Stamps;
use super::tap::Tapped;
use crate::call::{Call, Event as CallEvent, Input, Output, Subject};
use crate::capture::{AudioSpec, VideoSpec};
use crate::jitter::CompleteFrame;
use crate::stats::Snapshot;
use crate::{Budget, CAMERA, PathState, SCREEN, StreamId, Transport};

/// How often the layer below is asked about the path and other traffic.
const LOOK: Duration = Duration::from_millis(20);
/// Of sound.
const SAMPLES_PER_SEC: f64 = 48_000.0;
/// Messages taken in one go before orders are carried out at most.
const MESSAGES_AT_ONCE: usize = 64;

/// A stream of pictures as this thread sees it.
pub(super) struct Stream {
    pub(super) stream: StreamId,
    pub(super) control: Arc<VideoControl<VideoSpec>>,
    pub(super) frames: SyncSender<CompleteFrame>,
    pub(super) encode: Arc<Meter>,
    pub(super) decode: Arc<Meter>,
    pub(super) shown: Arc<Meter>,
    pub(super) size: Arc<Mutex<(u32, u32)>>,
    pub(super) counts: Arc<CodecCounts>,
    pub(super) stamps: Option<Arc<Stamps>>,
    /// The other side sends none on purpose, and whether the call knows.
    pub(super) paused: Arc<AtomicBool>,
    pub(super) paused_told: bool,
}

/// The thread's belongings.
pub(super) struct Net {
    pub(super) call: Call,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) messages: Receiver<Message>,
    pub(super) inbox: Inbox,
    pub(super) events: Events,
    pub(super) streams: Vec<Stream>,
    pub(super) sound: Arc<SoundControl<AudioSpec>>,
    pub(super) heard: SyncSender<Heard>,
    pub(super) heard_meter: Arc<Meter>,
    pub(super) meters: Vec<Arc<Meter>>,
    pub(super) spoken: Arc<Mutex<Spoken>>,
    pub(super) played: Arc<Mutex<Played>>,
    pub(super) tap: Option<SyncSender<Tapped>>,
    pub(super) screen_text: bool,
    pub(super) path: PathState,
    pub(super) looked_at: Instant,
    pub(super) send_errors: u64,
    pub(super) busy: Arc<Meter>,
}

impl Net {
    /// Runs until it is told to stop; the last numbers.
    pub(super) fn run(mut self) -> Snapshot {
        loop {
            let now = Instant::now();
            let due = self.call.poll_timeout().unwrap_or(now + GLANCE);
            let wait = due.saturating_duration_since(now).min(LOOK);
            match self.messages.recv_timeout(wait) {
                Ok(message) => {
                    if !self.take(message) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.call.handle_input(Instant::now(), Input::Timeout);
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.carry_out();
            self.look();
        }
        self.transport.set_budget(Budget::default());
        self.snapshot()
    }

    /// Takes this message and those behind it; false at the end.
    fn take(&mut self, first: Message) -> bool {
        let mut next = Some(first);
        for _ in 0..MESSAGES_AT_ONCE {
            let Some(message) = next else { break };
            let began = Instant::now();
            if !self.handle(message, began) {
                return false;
            }
            self.busy.pass(began.elapsed(), Duration::ZERO);
            next = self.messages.try_recv().ok();
        }
        if let Some(message) = next {
            return self.handle(message, Instant::now());
        }
        true
    }

    fn handle(&mut self, message: Message, now: Instant) -> bool {
        let input = match message {
            Message::Datagram(datagram) => {
                self.inbox.took_datagram();
                Input::Datagram(datagram)
            }
            Message::Source { stream, size } => match size {
                Some(source) => Input::StreamOn {
                    stream,
                    subject: if stream == SCREEN {
                        Subject::Screen {
                            text: self.screen_text,
                        }
                    } else {
                        Subject::Camera
                    },
                    source,
                },
                None => Input::StreamOff(stream),
            },
            Message::Picture {
                stream,
                picture,
                captured_at,
            } => Input::Picture {
                stream,
                picture,
                captured_at,
            },
            Message::Skipped(stream) => Input::Skipped(stream),
            Message::Sound { sound, captured_at } => Input::Sound { sound, captured_at },
            Message::SoundOn(on) => Input::SoundOn(on),
            Message::Decoded {
                stream,
                frame,
                ok,
                took,
            } => Input::Decoded {
                stream,
                frame,
                ok,
                took,
            },
            Message::Shown { stream, time, at } => Input::Shown { stream, time, at },
            Message::Buffer(state) => Input::Buffer(state),
            Message::PeerCap(cap) => Input::PeerCap(cap),
            Message::Transfer(runs) => Input::Transfer(runs),
            Message::Stats(reply) => {
                // Who asked may have gone.
                let _ = reply.try_send(self.snapshot());
                return true;
            }
            Message::Stop => return false,
        };
        self.call.handle_input(now, input);
        true
    }

    /// Asks the layer below what it knows.
    fn look(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_at) < LOOK {
            return;
        }
        self.looked_at = now;
        let path = self.transport.path();
        if path != self.path {
            self.path = path;
            self.call.handle_input(now, Input::Path(path));
        }
        for at in 0..self.streams.len() {
            let stream = &mut self.streams[at];
            let paused = stream.paused.load(Ordering::Acquire);
            if std::mem::replace(&mut stream.paused_told, paused) != paused {
                let input = Input::Paused(stream.stream, paused);
                self.call.handle_input(now, input);
            }
        }
        let other = self.transport.other_traffic();
        self.call.handle_input(now, Input::Other(other));
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.call.poll_output() {
            self.order(output);
        }
    }

    fn order(&mut self, output: Output) {
        match output {
            Output::Datagram(datagram) => {
                if self.transport.send(datagram).is_err() {
                    self.send_errors += 1;
                }
            }
            Output::Encoder(order) => self.wish(order.stream, |wishes| wishes.order = Some(order)),
            Output::KeyFrame(stream) => self.wish(stream, |wishes| wishes.key = true),
            Output::Recovery { stream, last_good } => {
                self.wish(stream, |wishes| wishes.recovery = Some(last_good));
            }
            Output::Reached { stream, frame } => {
                self.wish(stream, |wishes| wishes.reached = Some(frame));
            }
            Output::Capture { stream, skip } => {
                if let Some(stream) = self.stream(stream) {
                    stream.control.skip.store(skip.is_some(), Ordering::Release);
                }
            }
            Output::SoundEncoder(order) => *lock(&self.sound.order) = Some(order),
            Output::Decode(frame) => self.decode(frame),
            Output::Sound { body, arrival } => {
                self.record(|| Tapped::Sound(body.clone(), arrival));
                self.hear(Heard::Sound { body, arrival });
            }
            Output::Buffer(order) => self.hear(Heard::Order(order)),
            Output::BufferPathSwitch => self.hear(Heard::PathSwitch),
            Output::Budget(budget) => self.transport.set_budget(budget),
            Output::Event(event) => self.events.tell(match event {
                CallEvent::Reconnecting => Event::Reconnecting,
                CallEvent::Back(after) => Event::Back { after },
                CallEvent::Dead => Event::Dead,
                CallEvent::RemoteVoice(voice) => Event::RemoteVoice(voice),
            }),
        }
    }

    fn stream(&self, stream: StreamId) -> Option<&Stream> {
        self.streams.iter().find(|known| known.stream == stream)
    }

    fn wish(&self, stream: StreamId, change: impl FnOnce(&mut super::shared::VideoWishes)) {
        if let Some(stream) = self.stream(stream) {
            change(&mut lock(&stream.control.wishes));
        }
    }

    fn hear(&self, heard: Heard) {
        match self.heard.try_send(heard) {
            Ok(()) => self.heard_meter.entered(),
            Err(_) => self.heard_meter.drop_one(),
        }
    }

    fn record(&self, what: impl FnOnce() -> Tapped) {
        if let Some(tap) = &self.tap
            && let Err(TrySendError::Full(_)) = tap.try_send(what())
        {
            tracing::warn!("the recording does not keep up");
        }
    }

    fn decode(&mut self, frame: CompleteFrame) {
        let (stream, number) = (frame.info.stream, frame.info.number);
        if stream == CAMERA {
            self.record(|| Tapped::Picture(frame.clone()));
        }
        let sent = self.stream(stream).is_some_and(|known| {
            let sent = known.frames.try_send(frame).is_ok();
            if sent {
                known.decode.entered();
            } else {
                known.decode.drop_one();
            }
            sent
        });
        if !sent {
            let refused = Input::Decoded {
                stream,
                frame: number,
                ok: false,
                took: Duration::ZERO,
            };
            self.call.handle_input(Instant::now(), refused);
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let now = Instant::now();
        let mut snapshot = self.call.stats(now);
        snapshot.network.send_errors += self.send_errors;
        self.fill_sound(&mut snapshot);
        self.fill_pictures(&mut snapshot);
        snapshot.stages = self.meters.iter().map(|meter| meter.stage()).collect();
        let mut inbox = crate::stats::Stage {
            name: "inbox".to_owned(),
            queue: self.inbox.waiting() as u64,
            dropped: self.inbox.dropped(),
            ..crate::stats::Stage::default()
        };
        inbox.passed = snapshot.network.packets_received + snapshot.network.packets_refused;
        snapshot.stages.push(inbox);
        snapshot
    }

    /// What the threads of sound know.
    fn fill_sound(&self, snapshot: &mut Snapshot) {
        let played = *lock(&self.played);
        let stats = &played.stats;
        let sound = &mut snapshot.sound_in;
        sound.packets_repaired = stats.frames_from_copies + stats.frames_from_fec;
        sound.fec_packets_received = stats.frames_from_fec;
        sound.packets_lost = stats.frames_missing;
        let whole = stats.frames_received + stats.frames_missing;
        sound.loss_after_repair = stats.frames_missing as f64 / whole.max(1) as f64;
        sound.packets_discarded = stats.frames_overflowed;
        sound.decode_errors = stats.decode_errors;
        sound.packets_late = stats.frames_late;
        sound.total_samples = stats.total_samples;
        sound.concealed_samples = stats.concealed_samples;
        sound.silent_concealed_samples = stats.silent_concealed_samples;
        sound.concealment_events = stats.concealment_events;
        sound.inserted_samples_for_deceleration = stats.inserted_samples_for_deceleration;
        sound.removed_samples_for_acceleration = stats.removed_samples_for_acceleration;
        sound.jitter_buffer_delay = stats.jitter_buffer_delay.as_secs_f64();
        sound.jitter_buffer_target_delay = stats.jitter_buffer_target_delay.as_secs_f64();
        sound.jitter_buffer_minimum_delay = stats.jitter_buffer_minimum_delay.as_secs_f64();
        sound.jitter_buffer_emitted_count = stats.jitter_buffer_emitted_count;
        sound.target_millis = played.target.as_secs_f64() * 1e3;
        sound.underruns = played.underruns;
        sound.synthesized_samples_duration = played.made_up as f64 / SAMPLES_PER_SEC;
        sound.total_playout_delay = played.playout_delay;
        sound.total_playout_samples = stats.total_samples;
        sound.level_dbfs = played.level();
        sound.total_audio_energy = played.energy;
        sound.total_samples_duration = stats.total_samples as f64 / SAMPLES_PER_SEC;
        let spoken = *lock(&self.spoken);
        let out = &mut snapshot.sound_out;
        out.level_dbfs = spoken.level_dbfs;
        out.total_audio_energy = spoken.energy;
        out.total_samples_duration = spoken.duration;
        out.voice = spoken.voice;
        out.muted = self.sound.muted.load(Ordering::Acquire);
    }

    /// What the threads of pictures know.
    fn fill_pictures(&self, snapshot: &mut Snapshot) {
        for stream in &self.streams {
            let id = stream.stream.0;
            let counts = &stream.counts;
            if let Some(out) = snapshot.video_out.iter_mut().find(|out| out.stream == id) {
                out.encode = stream.encode.times();
                out.total_encode_time = stream.encode.total().as_secs_f64();
                out.qp_sum = counts.qp_encoded.load(Ordering::Relaxed);
                out.frames_dropped_by_encoder = counts.left_out.load(Ordering::Relaxed);
                if let Some(size) = *lock(&stream.control.encoded) {
                    (out.frame_width, out.frame_height) = (size.width(), size.height());
                }
            }
            let Some(shown) = snapshot
                .video_in
                .iter_mut()
                .find(|shown| shown.stream == id)
            else {
                continue;
            };
            (shown.frame_width, shown.frame_height) = *lock(&stream.size);
            shown.frames_shown = shown.frames_shown.max(stream.shown.passed());
            shown.qp_sum = counts.qp_decoded.load(Ordering::Relaxed);
            if let Some(latency) = stream.stamps.as_ref().and_then(|stamps| stamps.latency()) {
                shown.latency = latency;
                shown.latency_measured = true;
            }
        }
    }
}
