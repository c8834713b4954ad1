//! Threads between devices, codecs, a [`Call`] and the network, with bounded queues between them. Each thread
//! does one thing; the one that owns the call decides everything. No thread waits for a slower one behind it,
//! but encoders for the call: what they made must not be lost.
//!
//! Threads: `media-net` owns the call; for each stream of pictures `media-encode`, `media-decode` and
//! `media-show`; `media-mic` and `media-speaker`; `media-record` while recording.

mod config;
mod encode;
mod flight;
mod net;
mod shared;
mod show;
mod sound;
mod stamps;
mod tap;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;
use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};

use self::net::{Net, Stream};
use self::shared::{
    Clock, CodecCounts, Events, INBOX_MESSAGES, Inbox, Message, Meter, SoundControl, Switches,
    VideoControl, lock,
};
use self::show::{Decoding, ShelfHandle, Showing};
use self::sound::{Microphone, Played, Speaker, Spoken};
use self::stamps::Stamps;
use crate::call::{self, Call};
use crate::capture::{AudioSpec, VideoSpec};
use crate::measure::Measure;
use crate::playback::{AudioSinkSpec, VideoSinkSpec};
use crate::stats::{Snapshot, Summary};
use crate::voice::VoiceConfig;
use crate::{AudioTime, CAMERA, PictureSize, SCREEN, StreamId, Transport, VideoTime};

pub use self::config::{Config, Device, Event, Levels, PipelineError};

/// Events that wait to be read.
const EVENTS: usize = 256;
/// Sound that waits for the loudspeaker's thread: a second of 10 ms packets.
const HEARD_QUEUE: usize = 100;
/// How long the end of a pipeline waits for its threads.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// How long [`Pipeline::stats`] waits for an answer.
const STATS_WITHIN: Duration = Duration::from_millis(500);
/// Priority of the threads that sound waits for, 0 to 99: above those of codecs and transfers, below what
/// systems keep for themselves (niceness -10 on Linux).
const URGENT: u8 = 75;
/// What a camera is asked for unless it is said.
const WISHED_SIZE: (u32, u32) = (1_280, 720);
/// From so many processors up, 1080p may be sent: encoding it both ways takes half of two.
const SPARE_CORES: usize = 4;

/// The media of one call, running. Dropped without [`Pipeline::stop`], it stops as well.
#[derive(Debug)]
pub struct Pipeline {
    inbox: Inbox,
    switches: Arc<Switches>,
    camera: Arc<VideoControl<VideoSpec>>,
    screen: Arc<VideoControl<VideoSpec>>,
    sound: Arc<SoundControl<AudioSpec>>,
    speaker: Arc<Mutex<(u64, AudioSinkSpec)>>,
    voice: Arc<Mutex<VoiceConfig>>,
    spoken: Arc<Mutex<Spoken>>,
    played: Arc<Mutex<Played>>,
    /// The other side's camera and screen rest on purpose.
    paused: [Arc<AtomicBool>; 2],
    events: Mutex<Option<Receiver<Event>>>,
    net: Option<JoinHandle<Snapshot>>,
    threads: Vec<JoinHandle<()>>,
    last: Mutex<Snapshot>,
}

/// What all threads of a pipeline are made from.
struct Parts {
    config: Config,
    switches: Arc<Switches>,
    inbox: Inbox,
    events: Events,
    clock: Clock,
    started: Instant,
    threads: Vec<JoinHandle<()>>,
    meters: Vec<Arc<Meter>>,
    measure: Option<Measure>,
    /// What comes is what was sent.
    stamps: Option<Arc<Stamps>>,
    paused: [Arc<AtomicBool>; 2],
}

impl Pipeline {
    /// Opens devices, makes codecs and starts to send. Waits for none of the devices: what cannot be opened is
    /// told as an event, and the call goes on without it.
    ///
    /// # Errors
    /// [`PipelineError`], where nothing could work.
    pub fn start(config: Config, transport: Arc<dyn Transport>) -> Result<Self, PipelineError> {
        let started = Instant::now();
        let recorder = tap::begin(config.record.clone())?;
        let (to_net, messages) = sync_channel(INBOX_MESSAGES);
        let (to_watcher, events) = sync_channel(EVENTS);
        let camera = Arc::new(VideoControl::new(config.camera.clone()));
        let screen = Arc::new(VideoControl::new(config.screen.clone()));
        let sound = Arc::new(SoundControl::new(config.microphone.clone(), config.muted));
        let speaker = Arc::new(Mutex::new((0, config.speaker.clone())));
        let voice = Arc::new(Mutex::new(config.voice));
        let measure = config.measure.as_deref().map(Measure::new).transpose();
        let paused: [Arc<AtomicBool>; 2] = std::array::from_fn(|_| Arc::default());
        let mut parts = Parts {
            switches: Arc::default(),
            inbox: Inbox::new(to_net),
            events: Events(to_watcher),
            clock: origin(started),
            started,
            threads: Vec::new(),
            meters: Vec::new(),
            measure: measure.map_err(PipelineError::Measure)?,
            stamps: config.loopback.then(Arc::default),
            paused: paused.clone(),
            config,
        };
        let mut pipeline = Self {
            inbox: parts.inbox.clone(),
            switches: Arc::clone(&parts.switches),
            camera: Arc::clone(&camera),
            screen: Arc::clone(&screen),
            sound: Arc::clone(&sound),
            speaker: Arc::clone(&speaker),
            voice: Arc::clone(&voice),
            spoken: Arc::default(),
            played: Arc::default(),
            paused,
            events: Mutex::new(Some(events)),
            net: None,
            threads: Vec::new(),
            last: Mutex::default(),
        };
        let made = parts.spawn_all(transport, messages, recorder, &pipeline);
        // Whatever was started ends with the pipeline, also when something else could not be.
        pipeline.threads = std::mem::take(&mut parts.threads);
        pipeline.net = Some(made?);
        Ok(pipeline)
    }

    /// A datagram of the call came. Never waits: with 512 unread ones, the newest is dropped and counted.
    pub fn on_datagram(&self, datagram: Bytes) {
        self.inbox.datagram(datagram);
    }

    /// Sends silence instead of the microphone's sound, or no more.
    pub fn set_muted(&self, muted: bool) {
        self.sound.muted.store(muted, Ordering::Release);
    }

    /// Stops or goes on sending the camera; the device is closed meanwhile.
    pub fn set_camera(&self, on: bool) {
        self.camera.on.store(on, Ordering::Release);
    }

    /// On hold nothing is captured and nothing is played; reports and comfort noise go on.
    pub fn set_hold(&self, held: bool) {
        self.switches.held.store(held, Ordering::Release);
    }

    /// Takes the camera stream from another source; [`VideoSpec::None`] ends it.
    pub fn switch_video(&self, source: VideoSpec) {
        self.camera.switch(source);
    }

    /// Shares another screen; [`VideoSpec::None`] ends it.
    pub fn switch_screen(&self, source: VideoSpec) {
        self.screen.switch(source);
    }

    /// Takes the sound from another source; [`AudioSpec::None`] ends it.
    pub fn switch_audio(&self, source: AudioSpec) {
        let mut now = lock(&self.sound.source);
        *now = (now.0 + 1, source);
    }

    /// Plays on another loudspeaker.
    pub fn switch_speaker(&self, sink: AudioSinkSpec) {
        let mut now = lock(&self.speaker);
        *now = (now.0 + 1, sink);
    }

    /// Switches echo cancellation, noise suppression and gain.
    pub fn set_voice(&self, voice: VoiceConfig) {
        *lock(&self.voice) = voice;
    }

    /// Whether the other side sends its camera and its screen; a rest that is meant is no freeze.
    pub fn set_remote(&self, camera: bool, screen: bool) {
        for (paused, on) in self.paused.iter().zip([camera, screen]) {
            paused.store(!on, Ordering::Release);
        }
    }

    /// The peer wants no more than this, bits a second. Its advice can only lower our own cap.
    pub fn set_peer_cap(&self, bits_per_sec: u64) {
        self.inbox.offer(Message::PeerCap(bits_per_sec));
    }

    /// A transfer runs on the same connection, or no more: it gets its share.
    pub fn set_transfer(&self, runs: bool) {
        self.inbox.offer(Message::Transfer(runs));
    }

    /// All numbers, as they stand now. Waits for the call's thread, half a second at most; should that not
    /// answer, the last ones.
    pub fn stats(&self) -> Snapshot {
        let (reply, answer) = sync_channel(1);
        if self.inbox.offer(Message::Stats(reply))
            && let Ok(snapshot) = answer.recv_timeout(STATS_WITHIN)
        {
            *lock(&self.last) = snapshot;
        }
        lock(&self.last).clone()
    }

    /// How loud both sides are now. Cheap, and waits for nobody: a meter may ask many times a second.
    pub fn levels(&self) -> Levels {
        let spoken = *lock(&self.spoken);
        Levels {
            ours_dbfs: spoken.level_dbfs,
            speaks: spoken.voice,
            theirs_dbfs: lock(&self.played).level(),
        }
    }

    /// What happens, from now on; to be taken once, `None` afterwards. At most 256 unread events are kept, later
    /// ones are lost.
    pub fn events(&self) -> Option<Receiver<Event>> {
        lock(&self.events).take()
    }

    /// Ends everything, waits for the threads (a second at most), and sums up.
    pub fn stop(mut self) -> Summary {
        Summary::new(self.end())
    }

    fn end(&mut self) -> Snapshot {
        let deadline = Instant::now() + STOP_WITHIN;
        self.switches.stop.store(true, Ordering::Release);
        let mut last = lock(&self.last).clone();
        if let Some(net) = self.net.take() {
            // Full or not: the thread also ends when all ways to it are gone.
            self.inbox.offer(Message::Stop);
            if wait_for(&net, deadline)
                && let Ok(snapshot) = net.join()
            {
                last = snapshot;
            }
        }
        for thread in self.threads.drain(..) {
            // A device that hangs keeps its thread; it ends when the device lets it go.
            if wait_for(&thread, deadline) && thread.join().is_err() {
                tracing::error!("a thread of the call panicked");
            }
        }
        last
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks the system to let this thread go before others. Most let only some users have that, and a call works
/// without.
fn hurry(thread: &'static str) {
    let wanted = ThreadPriorityValue::try_from(URGENT)
        .map(ThreadPriority::Crossplatform)
        .unwrap_or(ThreadPriority::Max);
    if let Err(error) = set_current_thread_priority(wanted) {
        tracing::debug!(thread, %error, "no priority for a thread of sound");
    }
}

/// Whether the thread has ended by then.
fn wait_for<T>(thread: &JoinHandle<T>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Clocks that begin at random, both at once.
fn origin(at: Instant) -> Clock {
    let start: u32 = rand::rng().random();
    Clock::new(
        VideoTime::from_ticks(u64::from(start) * 15),
        AudioTime::from_ticks(u64::from(start) * 8),
        at,
    )
}

impl Parts {
    fn spawn<T: Send + 'static>(
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, PipelineError> {
        Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|source| PipelineError::Thread { name, source })
    }

    /// The same for a thread that sound waits for: it goes before others where the system grants that.
    fn spawn_urgent<T: Send + 'static>(
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, PipelineError> {
        Self::spawn(name, move || {
            hurry(name);
            work()
        })
    }

    fn meter(&mut self, name: &'static str) -> Arc<Meter> {
        let meter = Arc::new(Meter::new(name));
        self.meters.push(Arc::clone(&meter));
        meter
    }

    fn spawn_all(
        &mut self,
        transport: Arc<dyn Transport>,
        messages: Receiver<Message>,
        recorder: Option<crate::record::Recorder>,
        pipeline: &Pipeline,
    ) -> Result<JoinHandle<Snapshot>, PipelineError> {
        let camera = self.stream(CAMERA, Device::Camera, &pipeline.camera)?;
        let screen = self.stream(SCREEN, Device::Screen, &pipeline.screen)?;
        let spoken = Arc::clone(&pipeline.spoken);
        let played = Arc::clone(&pipeline.played);
        let echo = Arc::default();
        let (to_speaker, heard) = sync_channel(HEARD_QUEUE);
        let microphone = Microphone {
            control: Arc::clone(&pipeline.sound),
            voice: Arc::clone(&pipeline.voice),
            echo: Arc::clone(&echo),
            spoken: Arc::clone(&spoken),
            switches: Arc::clone(&self.switches),
            inbox: self.inbox.clone(),
            events: self.events.clone(),
            clock: self.clock,
            meter: self.meter("sound out"),
            measure: self.measure.clone(),
        };
        self.threads
            .push(Self::spawn_urgent("media-mic", move || microphone.run())?);
        let heard_meter = self.meter("sound in");
        let speaker = Speaker {
            control: Arc::clone(&pipeline.speaker),
            heard,
            echo,
            played: Arc::clone(&played),
            switches: Arc::clone(&self.switches),
            inbox: self.inbox.clone(),
            events: self.events.clone(),
            meter: Arc::clone(&heard_meter),
            measure: self.measure.clone(),
        };
        self.threads
            .push(Self::spawn_urgent("media-speaker", move || speaker.run())?);
        let tap = self.tap(recorder)?;
        let path = transport.path();
        let busy = self.meter("net");
        let net = Net {
            call: Call::new(self.started, self.call_config(path)),
            transport,
            messages,
            inbox: self.inbox.clone(),
            events: self.events.clone(),
            streams: vec![camera, screen],
            sound: Arc::clone(&pipeline.sound),
            heard: to_speaker,
            heard_meter,
            meters: std::mem::take(&mut self.meters),
            spoken,
            played,
            tap,
            screen_text: self.config.screen_text,
            path,
            looked_at: self.started,
            send_errors: 0,
            busy,
        };
        Self::spawn_urgent("media-net", move || net.run())
    }

    fn call_config(&self, path: crate::PathState) -> call::Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        call::Config {
            video_cap_bits_per_sec: self.config.video_cap_bits_per_sec,
            audio_bits_per_sec: self.config.audio_bits_per_sec,
            start_bits_per_sec: self.config.start_bits_per_sec,
            smooth: self.config.smooth,
            spare_cores: cores >= SPARE_CORES,
            ..call::Config::new(path)
        }
    }

    fn tap(
        &mut self,
        recorder: Option<crate::record::Recorder>,
    ) -> Result<Option<std::sync::mpsc::SyncSender<tap::Tapped>>, PipelineError> {
        let Some(recorder) = recorder else {
            return Ok(None);
        };
        let (to_tap, tapped) = sync_channel(tap::TAP_QUEUE);
        let tap = tap::Tap {
            recorder,
            tapped,
            events: self.events.clone(),
        };
        self.threads
            .push(Self::spawn("media-record", move || tap.run())?);
        Ok(Some(to_tap))
    }

    /// The three threads of a stream of pictures.
    fn stream(
        &mut self,
        stream: StreamId,
        device: Device,
        control: &Arc<VideoControl<VideoSpec>>,
    ) -> Result<Stream, PipelineError> {
        let is_camera = stream == CAMERA;
        let name = |camera, screen| if is_camera { camera } else { screen };
        let counts: Arc<CodecCounts> = Arc::default();
        let encode = self.encoding(stream, device, control, Arc::clone(&counts))?;
        let decode = self.meter(name("decode camera", "decode screen"));
        let shown = self.meter(name("show camera", "show screen"));
        let paused = Arc::clone(&self.paused[usize::from(!is_camera)]);
        let (to_decoder, frames) = show::frames();
        let shelf = Arc::new(ShelfHandle::new());
        let decoding = Decoding {
            stream,
            frames,
            switches: Arc::clone(&self.switches),
            inbox: self.inbox.clone(),
            meter: Arc::clone(&decode),
            counts: Arc::clone(&counts),
            shelf: Arc::clone(&shelf),
        };
        self.threads
            .push(Self::spawn("media-decode", move || decoding.run())?);
        let size = Arc::default();
        let sink: VideoSinkSpec = if is_camera {
            self.config.camera_sink.clone()
        } else {
            self.config.screen_sink.clone()
        };
        let showing = Showing {
            stream,
            sink,
            switches: Arc::clone(&self.switches),
            inbox: self.inbox.clone(),
            events: self.events.clone(),
            meter: Arc::clone(&shown),
            shelf,
            started: self.started,
            size: Arc::clone(&size),
            measure: self.measure.clone().filter(|_| is_camera),
            stamps: self.stamps.clone().filter(|_| is_camera),
            paused: Arc::clone(&paused),
        };
        self.threads
            .push(Self::spawn("media-show", move || showing.run())?);
        Ok(Stream {
            stream,
            control: Arc::clone(control),
            frames: to_decoder,
            encode,
            decode,
            shown,
            size,
            counts,
            stamps: self.stamps.clone().filter(|_| is_camera),
            paused,
            paused_told: false,
        })
    }

    /// The thread that captures and encodes; what measures its encoder.
    fn encoding(
        &mut self,
        stream: StreamId,
        device: Device,
        control: &Arc<VideoControl<VideoSpec>>,
        counts: Arc<CodecCounts>,
    ) -> Result<Arc<Meter>, PipelineError> {
        let is_camera = stream == CAMERA;
        let name = |camera, screen| if is_camera { camera } else { screen };
        let scale = self.meter(name("scale camera", "scale screen"));
        let encode = self.meter(name("encode camera", "encode screen"));
        let out = encode::VideoOut {
            stream,
            device,
            control: Arc::clone(control),
            switches: Arc::clone(&self.switches),
            inbox: self.inbox.clone(),
            events: self.events.clone(),
            clock: self.clock,
            wished: match self.config.camera_size {
                Some(size) => size,
                None => PictureSize::within(WISHED_SIZE.0, WISHED_SIZE.1)
                    .map_err(|error| PipelineError::Codec(error.to_string()))?,
            },
            stamped: self.config.stamped || self.measure.is_some() || self.stamps.is_some(),
            stamps: self.stamps.clone().filter(|_| is_camera),
            counts,
            measure: self.measure.clone().filter(|_| is_camera),
            scale,
            encode: Arc::clone(&encode),
        };
        self.threads
            .push(Self::spawn("media-encode", move || out.run())?);
        Ok(encode)
    }
}
