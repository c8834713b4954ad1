//! What the threads of a pipeline share: the inbox of the thread that owns the call, switches, meters, and the
//! way events leave.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{Device, Event};
use crate::call::{BufferState, EncoderOrder, SoundOrder};
use crate::capture::CaptureClock;
use crate::packet::AudioBody;
use crate::stats::{Snapshot, Stage, Window};
use crate::{
    ClockMap, EncodedPicture, EncodedSound, FrameNumber, PictureSize, StreamId, VideoTime,
};

/// Datagrams that wait for the call's thread; a second of a fast call. More mean that it does not keep up.
pub(super) const INBOX_DATAGRAMS: usize = 512;
/// All messages that wait for it: datagrams, and what codecs say.
pub(super) const INBOX_MESSAGES: usize = 1_024;
/// How long a thread sleeps at most before it looks whether it should end.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// What is told to the thread that owns the call.
#[derive(Debug)]
pub(super) enum Message {
    Datagram(Bytes),
    Source {
        stream: StreamId,
        size: Option<PictureSize>,
    },
    Picture {
        stream: StreamId,
        picture: EncodedPicture,
        captured_at: Instant,
    },
    Skipped(StreamId),
    Sound {
        sound: EncodedSound,
        captured_at: Instant,
    },
    SoundOn(bool),
    Decoded {
        stream: StreamId,
        frame: FrameNumber,
        ok: bool,
        took: Duration,
    },
    Shown {
        stream: StreamId,
        time: VideoTime,
        at: Instant,
    },
    Buffer(BufferState),
    PeerCap(u64),
    Transfer(bool),
    Stats(SyncSender<Snapshot>),
    Stop,
}

/// Takes a lock; what panicked while it held one left whole values, since each change is one assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to the thread that owns the call.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    sender: SyncSender<Message>,
    datagrams: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl Inbox {
    pub(super) fn new(sender: SyncSender<Message>) -> Self {
        Self {
            sender,
            datagrams: Arc::default(),
            dropped: Arc::default(),
        }
    }

    /// A datagram; never waits.
    pub(super) fn datagram(&self, datagram: Bytes) {
        if self.datagrams.fetch_add(1, Ordering::AcqRel) < INBOX_DATAGRAMS
            && self.sender.try_send(Message::Datagram(datagram)).is_ok()
        {
            return;
        }
        self.datagrams.fetch_sub(1, Ordering::AcqRel);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread took a datagram out.
    pub(super) fn took_datagram(&self) {
        self.datagrams.fetch_sub(1, Ordering::AcqRel);
    }

    /// What must arrive: waits while there is no room. False: nobody listens any more.
    pub(super) fn send(&self, message: Message) -> bool {
        self.sender.send(message).is_ok()
    }

    /// What another one soon replaces: lost when there is no room.
    pub(super) fn offer(&self, message: Message) -> bool {
        !matches!(self.sender.try_send(message), Err(TrySendError::Full(_)))
    }

    pub(super) fn waiting(&self) -> usize {
        self.datagrams.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The way events leave: bounded, and nobody waits for who does not read.
#[derive(Debug, Clone)]
pub(super) struct Events(pub(super) SyncSender<Event>);

impl Events {
    pub(super) fn tell(&self, event: Event) {
        tracing::debug!(?event, "call");
        // A full or abandoned queue loses events, as documented.
        let _ = self.0.try_send(event);
    }

    pub(super) fn lost(&self, device: Device, reason: impl ToString) {
        self.tell(Event::DeviceLost {
            device,
            reason: reason.to_string(),
        });
    }
}

/// What the thread of an encoder of pictures is to do; the newest wish of each kind counts.
#[derive(Debug, Default)]
pub(super) struct VideoWishes {
    pub(super) order: Option<EncoderOrder>,
    pub(super) key: bool,
    pub(super) recovery: Option<FrameNumber>,
    pub(super) reached: Option<FrameNumber>,
}

/// A stream of pictures that goes out, as all threads see it.
#[derive(Debug)]
pub(super) struct VideoControl<S> {
    pub(super) wishes: Mutex<VideoWishes>,
    /// Captures are not to be encoded now.
    pub(super) skip: AtomicBool,
    /// Not held, not switched off.
    pub(super) on: AtomicBool,
    /// Where pictures come from; the number rises with each switch.
    pub(super) source: Mutex<(u64, S)>,
    /// The size of the newest picture encoded.
    pub(super) encoded: Mutex<Option<PictureSize>>,
}

impl<S: Clone> VideoControl<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            wishes: Mutex::default(),
            skip: AtomicBool::new(false),
            on: AtomicBool::new(true),
            source: Mutex::new((0, source)),
            encoded: Mutex::default(),
        }
    }

    pub(super) fn switch(&self, source: S) {
        let mut now = lock(&self.source);
        *now = (now.0 + 1, source);
    }

    pub(super) fn source(&self) -> (u64, S) {
        lock(&self.source).clone()
    }
}

/// What the thread of sound out of the microphone is to do.
#[derive(Debug)]
pub(super) struct SoundControl<S> {
    pub(super) order: Mutex<Option<SoundOrder>>,
    pub(super) muted: AtomicBool,
    pub(super) source: Mutex<(u64, S)>,
}

impl<S> SoundControl<S> {
    pub(super) fn new(source: S, muted: bool) -> Self {
        Self {
            order: Mutex::default(),
            muted: AtomicBool::new(muted),
            source: Mutex::new((0, source)),
        }
    }
}

/// The switches that all threads look at.
#[derive(Debug, Default)]
pub(super) struct Switches {
    pub(super) stop: AtomicBool,
    pub(super) held: AtomicBool,
}

impl Switches {
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }
}

/// The clock that all sources of a call share, both ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) capture: CaptureClock,
    video: ClockMap<90_000>,
    audio: ClockMap<48_000>,
}

impl Clock {
    pub(super) const fn new(video: VideoTime, audio: crate::AudioTime, at: Instant) -> Self {
        Self {
            capture: CaptureClock::new(video, audio, at),
            video: ClockMap::new(video, at),
            audio: ClockMap::new(audio, at),
        }
    }

    pub(super) fn picture(&self, time: VideoTime, now: Instant) -> Instant {
        self.video.instant(time).map_or(now, |at| at.min(now))
    }

    pub(super) fn sound(&self, time: crate::AudioTime, now: Instant) -> Instant {
        self.audio.instant(time).map_or(now, |at| at.min(now))
    }
}

/// A stage of the pipeline, measured.
#[derive(Debug)]
pub(super) struct Meter {
    name: &'static str,
    passed: AtomicU64,
    dropped: AtomicU64,
    queue: AtomicUsize,
    times: Mutex<Window>,
    ages: Mutex<Window>,
    /// All times, µs.
    total: AtomicU64,
}

impl Meter {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            passed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            queue: AtomicUsize::new(0),
            times: Mutex::default(),
            ages: Mutex::default(),
            total: AtomicU64::new(0),
        }
    }

    /// Something went through, after waiting for `age`.
    pub(super) fn pass(&self, took: Duration, age: Duration) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.total.fetch_add(micros, Ordering::Relaxed);
        lock(&self.times).add_duration(took);
        lock(&self.ages).add_duration(age);
    }

    pub(super) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_dropped(&self, dropped: u64) {
        self.dropped.store(dropped, Ordering::Relaxed);
    }

    pub(super) fn entered(&self) {
        self.queue.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn left(&self) {
        let _ = self
            .queue
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queue| {
                queue.checked_sub(1)
            });
    }

    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// All times in it, summed up.
    pub(super) fn total(&self) -> Duration {
        Duration::from_micros(self.total.load(Ordering::Relaxed))
    }

    pub(super) fn times(&self) -> crate::stats::Percentiles {
        lock(&self.times).percentiles()
    }

    pub(super) fn stage(&self) -> Stage {
        Stage {
            name: self.name.to_owned(),
            queue: self.queue.load(Ordering::Relaxed) as u64,
            oldest_millis: lock(&self.ages).percentiles().p95,
            passed: self.passed(),
            dropped: self.dropped.load(Ordering::Relaxed),
            time: self.times(),
        }
    }
}

/// What the codecs of a stream of pictures tell of their work.
#[derive(Debug, Default)]
pub(super) struct CodecCounts {
    /// Quantizers of the pictures encoded, summed up.
    pub(super) qp_encoded: AtomicU64,
    /// The same of those decoded.
    pub(super) qp_decoded: AtomicU64,
    /// Pictures that the encoder left out by itself.
    pub(super) left_out: AtomicU64,
}

impl CodecCounts {
    pub(super) fn add(sum: &AtomicU64, quantizer: Option<u8>) {
        sum.fetch_add(u64::from(quantizer.unwrap_or(0)), Ordering::Relaxed);
    }
}

/// What the thread of the loudspeaker is told.
#[derive(Debug)]
pub(super) enum Heard {
    Sound { body: AudioBody, arrival: Instant },
    Order(crate::call::BufferOrder),
    PathSwitch,
}
