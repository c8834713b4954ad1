//! The threads of a stream of pictures that comes in: one decodes what the call hands over, one shows each
//! picture at its time. A picture that waits when a newer one is due is left out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::config::{Device, Event};
use super::shared::{CodecCounts, Events, GLANCE, Inbox, Message, Meter, Switches, lock};
use super::stamps::Stamps;
use crate::decode::{AccessUnit, PictureDecoder};
use crate::jitter::CompleteFrame;
use crate::measure::Measure;
use crate::playback::{PictureSink, PictureSinkOptions, VideoSinkSpec, open_pictures};
use crate::stats::FreezeMeter;
use crate::{FrameNumber, Picture, StreamId};

/// Frames that wait for the decoder: the call has at most three out.
pub(super) const DECODE_QUEUE: usize = 4;
/// Decoded pictures that wait for their time.
const SHOW_QUEUE: usize = 3;

/// What stands in the head of a film that is made of a call; its pictures come as they come.
const FILM_FRAMES_PER_SECOND: u32 = 30;

/// A decoded picture and when to show it.
struct Ready {
    picture: Picture,
    frame: FrameNumber,
    render_at: Instant,
    first_arrival: Instant,
    completed_at: Instant,
    decoded_at: Instant,
}

/// Pictures between the decoder and the screen.
#[derive(Default)]
struct Shelf {
    ready: Mutex<VecDeque<Ready>>,
    changed: Condvar,
}

/// The thread that decodes a stream.
pub(super) struct Decoding {
    pub(super) stream: StreamId,
    pub(super) frames: Receiver<CompleteFrame>,
    pub(super) switches: Arc<Switches>,
    pub(super) inbox: Inbox,
    pub(super) meter: Arc<Meter>,
    pub(super) counts: Arc<CodecCounts>,
    pub(super) shelf: Arc<ShelfHandle>,
}

/// The way from the decoder to the screen.
pub(super) struct ShelfHandle(Shelf);

impl std::fmt::Debug for ShelfHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShelfHandle").finish_non_exhaustive()
    }
}

impl ShelfHandle {
    pub(super) fn new() -> Self {
        Self(Shelf::default())
    }
}

/// A queue of frames towards a decoder.
pub(super) fn frames() -> (SyncSender<CompleteFrame>, Receiver<CompleteFrame>) {
    sync_channel(DECODE_QUEUE)
}

impl Decoding {
    /// Runs until the pipeline stops.
    pub(super) fn run(self) {
        let mut decoder = None;
        loop {
            let frame = match self.frames.recv_timeout(GLANCE) {
                Ok(frame) => frame,
                Err(RecvTimeoutError::Timeout) if !self.switches.stopped() => continue,
                Err(_) => return,
            };
            self.meter.left();
            let began = Instant::now();
            let number = frame.info.number;
            let picture = self.decode(&mut decoder, &frame);
            let took = began.elapsed();
            let age = began.saturating_duration_since(frame.completed_at);
            self.meter.pass(took, age);
            if picture.is_some() {
                let quantizer = decoder.as_ref().and_then(PictureDecoder::quantizer);
                CodecCounts::add(&self.counts.qp_decoded, quantizer);
            }
            let told = self.inbox.send(Message::Decoded {
                stream: self.stream,
                frame: number,
                ok: picture.is_some(),
                took,
            });
            if !told {
                return;
            }
            if let Some(picture) = picture.filter(|_| frame.show) {
                self.put(Ready {
                    picture,
                    frame: number,
                    render_at: frame.render_at,
                    first_arrival: frame.first_arrival,
                    completed_at: frame.completed_at,
                    decoded_at: Instant::now(),
                });
            }
        }
    }

    fn decode(
        &self,
        decoder: &mut Option<PictureDecoder>,
        frame: &CompleteFrame,
    ) -> Option<Picture> {
        if decoder.is_none() {
            match PictureDecoder::new() {
                Ok(made) => *decoder = Some(made),
                Err(error) => {
                    tracing::error!(%error, "no decoder");
                    return None;
                }
            }
        }
        let unit = AccessUnit {
            data: &frame.data,
            time: frame.info.time,
            number: frame.info.number,
            reference_distance: frame.info.reference_distance,
        };
        match decoder.as_mut()?.decode(&unit) {
            Ok(picture) => picture,
            Err(error) => {
                tracing::debug!(%error, frame = frame.info.number, "picture not decoded");
                None
            }
        }
    }

    fn put(&self, ready: Ready) {
        let shelf = &self.shelf.0;
        let mut queue = lock(&shelf.ready);
        if queue.len() >= SHOW_QUEUE {
            queue.pop_front();
        }
        queue.push_back(ready);
        drop(queue);
        shelf.changed.notify_one();
    }
}

/// The thread that shows a stream.
pub(super) struct Showing {
    pub(super) stream: StreamId,
    pub(super) sink: VideoSinkSpec,
    pub(super) switches: Arc<Switches>,
    pub(super) inbox: Inbox,
    pub(super) events: Events,
    pub(super) meter: Arc<Meter>,
    pub(super) shelf: Arc<ShelfHandle>,
    pub(super) started: Instant,
    pub(super) size: Arc<Mutex<(u32, u32)>>,
    pub(super) measure: Option<Measure>,
    pub(super) stamps: Option<Arc<Stamps>>,
    /// The other side sends none on purpose.
    pub(super) paused: Arc<AtomicBool>,
}

impl Showing {
    /// Runs until the pipeline stops.
    pub(super) fn run(self) {
        let mut sink = self.open();
        let mut freezes = FreezeMeter::default();
        let mut first = true;
        while !self.switches.stopped() {
            let Some(ready) = self.take() else {
                if self.rests() {
                    freezes.pause();
                }
                continue;
            };
            let began = Instant::now();
            *lock(&self.size) = (ready.picture.size().width(), ready.picture.size().height());
            if let Some(open) = &mut sink
                && let Err(error) = open.present(&ready.picture)
            {
                self.events.lost(Device::PictureSink, error);
                sink = None;
            }
            let age = began.saturating_duration_since(ready.decoded_at);
            self.meter.pass(began.elapsed(), age);
            self.trace(&ready, began);
            if let Some(stamps) = &self.stamps {
                stamps.on_shown(&ready.picture, began);
            }
            if std::mem::take(&mut first) {
                self.events.tell(Event::FirstPicture {
                    stream: self.stream,
                    after: began.saturating_duration_since(self.started),
                });
            }
            if let Some(duration) = freezes.on_shown(began) {
                self.events.tell(Event::Freeze {
                    stream: self.stream,
                    duration,
                });
            }
            let told = self.inbox.send(Message::Shown {
                stream: self.stream,
                time: ready.picture.time,
                at: began,
            });
            if !told {
                return;
            }
        }
    }

    /// Whether it is meant that nothing comes.
    fn rests(&self) -> bool {
        self.switches.held() || self.paused.load(Ordering::Acquire)
    }

    fn open(&self) -> Option<Box<dyn PictureSink>> {
        let options = PictureSinkOptions {
            size: None,
            frames_per_second: FILM_FRAMES_PER_SECOND,
        };
        match open_pictures(&self.sink, &options) {
            Ok(sink) => match &self.measure {
                Some(measure) => Some(measure.pictures_shown(sink)),
                None => sink,
            },
            Err(error) => {
                self.events.lost(Device::PictureSink, error);
                None
            }
        }
    }

    /// The next picture, at its time; an older one that waits while a newer is due is left out.
    fn take(&self) -> Option<Ready> {
        let shelf = &self.shelf.0;
        let mut queue = lock(&shelf.ready);
        let until = Instant::now() + GLANCE;
        loop {
            let now = Instant::now();
            while queue.len() > 1 && queue.get(1).is_some_and(|next| next.render_at <= now) {
                queue.pop_front();
                self.meter.drop_one();
            }
            let wait = match queue.front() {
                Some(ready) if ready.render_at <= now => return queue.pop_front(),
                Some(ready) => ready.render_at.min(until).saturating_duration_since(now),
                None => until.saturating_duration_since(now),
            };
            if wait.is_zero() || self.switches.stopped() {
                return None;
            }
            queue = match shelf.changed.wait_timeout(queue, wait) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// The times of one frame at all stages here; with its sender's event, all that happened to it.
    fn trace(&self, ready: &Ready, shown: Instant) {
        let since = |at: Instant| shown.saturating_duration_since(at).as_micros() as u64;
        tracing::trace!(
            stream = self.stream.0,
            frame = ready.frame,
            media_ticks = ready.picture.time.ticks(),
            since_first_arrival_micros = since(ready.first_arrival),
            since_complete_micros = since(ready.completed_at),
            since_decoded_micros = since(ready.decoded_at),
            since_render_time_micros = since(ready.render_at),
            "frame shown"
        );
    }
}
