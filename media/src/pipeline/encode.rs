//! The thread of a stream of pictures that goes out: takes from its source the newest picture, brings it to the
//! size that the call wants, encodes it, and hands it to the call. Sources pace themselves and keep only their
//! newest picture, so nothing queues here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::config::{Device, Event};
use super::flight::Flight;
use super::shared::{
    Clock, CodecCounts, Events, GLANCE, Inbox, Message, Meter, Switches, VideoControl, lock,
};
use super::stamps::Stamps;
use crate::call::EncoderOrder;
use crate::capture::{
    CaptureError, Content as Shown, PictureOptions, PictureSource, VideoSpec, open_pictures,
};
use crate::convert::{Fit, Scaler};
use crate::encode::{Content, PictureConfig, PictureEncoder};
use crate::measure::Measure;
use crate::{FrameNumber, Picture, PictureSize, StreamId};

/// A device that went away is tried again so often.
const RETRY: Duration = Duration::from_secs(1);

/// What a camera is asked for, pictures a second.
const WISHED_FRAMES_PER_SECOND: f32 = 30.0;

/// A stream of pictures that goes out.
pub(super) struct VideoOut {
    pub(super) stream: StreamId,
    pub(super) device: Device,
    pub(super) control: Arc<VideoControl<VideoSpec>>,
    pub(super) switches: Arc<Switches>,
    pub(super) inbox: Inbox,
    pub(super) events: Events,
    pub(super) clock: Clock,
    pub(super) wished: PictureSize,
    pub(super) stamped: bool,
    pub(super) stamps: Option<Arc<Stamps>>,
    pub(super) counts: Arc<CodecCounts>,
    pub(super) measure: Option<Measure>,
    pub(super) scale: Arc<Meter>,
    pub(super) encode: Arc<Meter>,
}

/// How long a screen's thread waits for a picture while a key frame keeps it from encoding the last one.
const GLANCE_WAITING: Duration = Duration::from_millis(20);

/// What came of a picture.
enum Made {
    Frame { key: bool },
    Nothing,
}

/// The encoder and what it was told.
struct Encoding {
    encoder: PictureEncoder,
    order: EncoderOrder,
}

impl VideoOut {
    /// Runs until the pipeline stops.
    pub(super) fn run(self) {
        let mut next: FrameNumber = 0;
        let mut said = None;
        while !self.switches.stopped() {
            let (generation, spec) = self.control.source();
            if self.idle() || spec == VideoSpec::None {
                std::thread::sleep(GLANCE.min(Duration::from_millis(20)));
                continue;
            }
            let options = PictureOptions {
                clock: self.clock.capture,
                size: self.wished,
                frames_per_second: WISHED_FRAMES_PER_SECOND,
                stamped: self.stamped,
            };
            match open_pictures(&spec, &options) {
                Ok(None) => self.wait(generation, false),
                Ok(Some(source)) => {
                    said = None;
                    let source = match &self.measure {
                        Some(measure) => measure.pictures_sent(source),
                        None => source,
                    };
                    let begun = Instant::now();
                    self.stream(source, generation, &mut next);
                    self.inbox.send(Message::Source {
                        stream: self.stream,
                        size: None,
                    });
                    if begun.elapsed() < RETRY {
                        // One that is lost as soon as it is opened is not opened all the time.
                        self.wait(generation, true);
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        self.events.lost(self.device, &text);
                        said = Some(text);
                    }
                    self.wait(generation, error.may_pass());
                }
            }
        }
    }

    fn idle(&self) -> bool {
        self.switches.held() || !self.control.on.load(Ordering::Acquire)
    }

    /// Waits for another source, or to try the same again.
    fn wait(&self, generation: u64, again: bool) {
        let until = Instant::now() + RETRY;
        while !self.switches.stopped() && self.control.source().0 == generation {
            if again && Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Encodes from one source until it ends or another is wanted.
    fn stream(&self, mut source: Box<dyn PictureSource>, generation: u64, next: &mut FrameNumber) {
        let info = source.describe();
        self.events.tell(Event::DeviceOpened {
            device: self.device,
            name: info.name,
        });
        let mut size = info.size;
        let mut rate = info.frames_per_second;
        self.announce(size);
        let mut scaler = Scaler::new();
        let mut encoding: Option<Encoding> = None;
        let content = match info.content {
            Shown::Motion => Content::Camera,
            Shown::Detail => Content::Screen,
        };
        let mut due = Instant::now();
        let mut flight = (content == Content::Screen).then(Flight::default);
        // The newest picture that was not encoded, or only at half its size: still screens give no other.
        let mut kept: Option<Picture> = None;
        while !self.switches.stopped() && !self.idle() && self.control.source().0 == generation {
            let (picture, fresh) = match self.next(source.as_mut(), &mut kept) {
                Ok(Some(next)) => next,
                Ok(None) => continue,
                Err(error) => {
                    self.events.lost(self.device, error);
                    return;
                }
            };
            self.scale.set_dropped(source.dropped());
            if picture.size() != size {
                size = picture.size();
                self.announce(size);
            }
            let order = lock(&self.control.wishes).order;
            let order = order.filter(|order| order.bits_per_sec > 0);
            let wanted = order.map_or(rate, |order| order.frames_per_sec as f32);
            if (wanted - rate).abs() > 0.5 {
                rate = wanted;
                source.limit(wanted);
            }
            let free = order.filter(|order| {
                !self.waits(flight.as_mut())
                    && !self.control.skip.load(Ordering::Acquire)
                    && take(&mut due, order.frames_per_sec)
            });
            let Some(mut order) = free else {
                if fresh {
                    self.encode.drop_one();
                    self.inbox.offer(Message::Skipped(self.stream));
                }
                kept = flight.is_some().then_some(picture);
                continue;
            };
            let native = order.size;
            order.size = flight.as_ref().map_or(native, |flight| flight.size(native));
            let scaled = self.resize(&mut scaler, &picture, order.size);
            let small = scaled.as_ref().unwrap_or(&picture);
            match self.encode(&mut encoding, small, order, content, next) {
                Some(Made::Frame { key }) => {
                    if let Some(flight) = &mut flight {
                        flight.on_encoded(Instant::now(), next.saturating_sub(1), key);
                    }
                }
                Some(Made::Nothing) => {}
                None => return,
            }
            kept = (order.size != native).then_some(picture);
        }
    }

    /// The next picture and whether it is new: the kept one is still what is to be seen if no other comes.
    fn next(
        &self,
        source: &mut dyn PictureSource,
        kept: &mut Option<Picture>,
    ) -> Result<Option<(Picture, bool)>, CaptureError> {
        let patience = if kept.is_some() {
            GLANCE_WAITING
        } else {
            GLANCE
        };
        if let Some(picture) = source.next(patience)? {
            *kept = None;
            return Ok(Some((picture, true)));
        }
        Ok(kept.take().map(|mut picture| {
            picture.time = self.clock.capture.video(Instant::now());
            (picture, false)
        }))
    }

    /// Whether a key frame is on its way that everything must wait for. What the other side asks for does not.
    fn waits(&self, flight: Option<&mut Flight>) -> bool {
        let Some(flight) = flight else { return false };
        let wishes = lock(&self.control.wishes);
        if let Some(frame) = wishes.reached {
            flight.on_reached(frame);
        }
        !wishes.key && flight.is_waiting(Instant::now())
    }

    fn announce(&self, size: PictureSize) {
        self.inbox.send(Message::Source {
            stream: self.stream,
            size: Some(size),
        });
    }

    /// The picture in another size; `None` where it has that already.
    fn resize(&self, scaler: &mut Scaler, picture: &Picture, size: PictureSize) -> Option<Picture> {
        let began = Instant::now();
        let captured_at = self.clock.picture(picture.time, began);
        if let Some(stamps) = &self.stamps {
            stamps.on_captured(picture, captured_at);
        }
        let scaled = (picture.size() != size).then(|| scaler.scale(picture, size, Fit::Letterbox));
        let age = began.saturating_duration_since(captured_at);
        self.scale.pass(began.elapsed(), age);
        scaled
    }

    /// `None` when nothing can be encoded, or nobody listens any more.
    fn encode(
        &self,
        encoding: &mut Option<Encoding>,
        picture: &Picture,
        order: EncoderOrder,
        content: Content,
        next: &mut FrameNumber,
    ) -> Option<Made> {
        let began = Instant::now();
        let captured_at = self.clock.picture(picture.time, began);
        if let Err(error) = prepare(encoding, order, content, *next) {
            self.events.lost(self.device, error);
            return None;
        }
        let Encoding { encoder, .. } = encoding.as_mut()?;
        {
            let mut wishes = lock(&self.control.wishes);
            if let Some(frame) = wishes.reached.take() {
                encoder.ltr_feedback(frame);
            }
            if let Some(frame) = wishes.recovery.take() {
                encoder.request_recovery(frame);
            }
            if std::mem::take(&mut wishes.key) {
                encoder.request_key();
            }
        }
        let encoded = match encoder.encode(picture) {
            Ok(Some(encoded)) => encoded,
            Ok(None) => {
                self.counts.left_out.fetch_add(1, Ordering::Relaxed);
                self.inbox.offer(Message::Skipped(self.stream));
                return Some(Made::Nothing);
            }
            Err(error) => {
                // The next one will be a key frame; if the library is broken for good, the call says so once.
                tracing::warn!(%error, "picture not encoded");
                *encoding = None;
                return Some(Made::Nothing);
            }
        };
        *next = encoder.next_frame();
        CodecCounts::add(&self.counts.qp_encoded, encoder.quantizer());
        *lock(&self.control.encoded) = Some(picture.size());
        let key = encoded.key;
        let age = began.saturating_duration_since(captured_at);
        self.encode.pass(began.elapsed(), age);
        let told = self.inbox.send(Message::Picture {
            stream: self.stream,
            picture: encoded,
            captured_at,
        });
        told.then_some(Made::Frame { key })
    }
}

/// Whether a picture is due at this rate; pictures may come up to a fifth of an interval early.
fn take(due: &mut Instant, frames_per_sec: u32) -> bool {
    let now = Instant::now();
    let interval = Duration::from_secs(1) / frames_per_sec.max(1);
    if now + interval / 5 < *due {
        return false;
    }
    *due = (*due + interval).max(now);
    true
}

/// Brings the encoder to what is ordered, making one if there is none.
fn prepare(
    encoding: &mut Option<Encoding>,
    order: EncoderOrder,
    content: Content,
    next: FrameNumber,
) -> Result<(), crate::encode::EncodeError> {
    let bits_per_second = u32::try_from(order.bits_per_sec).unwrap_or(u32::MAX);
    let frames_per_second = order.frames_per_sec.max(1) as f32;
    let Some(have) = encoding else {
        let encoder = PictureEncoder::new(PictureConfig {
            size: order.size,
            content,
            bits_per_second,
            frames_per_second,
            layered: order.layered,
            long_term: content == Content::Camera,
            first_frame: next,
        })?;
        *encoding = Some(Encoding { encoder, order });
        return Ok(());
    };
    if have.order.size != order.size {
        have.encoder.set_size(order.size)?;
    }
    if have.order.layered != order.layered {
        have.encoder.set_layered(order.layered)?;
    }
    if have.order.bits_per_sec != order.bits_per_sec
        || have.order.frames_per_sec != order.frames_per_sec
    {
        have.encoder.set_rate(bits_per_second, frames_per_second)?;
    }
    have.order = order;
    Ok(())
}
