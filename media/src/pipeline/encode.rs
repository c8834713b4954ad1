//! The thread of a stream of pictures that goes out: takes from its source the newest picture, brings it to the
//! size that the call wants, encodes it, and hands it to the call. Sources pace themselves and keep only their
//! newest picture, so nothing queues here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::config::{Device, Event};
use super::shared::{Clock, Events, GLANCE, Inbox, Message, Meter, Switches, VideoControl, lock};
use crate::call::EncoderOrder;
use crate::capture::{Content as Shown, PictureOptions, PictureSource, VideoSpec, open_pictures};
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
    pub(super) measure: Option<Measure>,
    pub(super) scale: Arc<Meter>,
    pub(super) encode: Arc<Meter>,
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
                    self.stream(source, generation, &mut next);
                    self.inbox.send(Message::Source {
                        stream: self.stream,
                        size: None,
                    });
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
        while !self.switches.stopped() && !self.idle() && self.control.source().0 == generation {
            let picture = match source.next(GLANCE) {
                Ok(Some(picture)) => picture,
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
            let Some(order) = order.filter(|order| order.bits_per_sec > 0) else {
                self.inbox.offer(Message::Skipped(self.stream));
                continue;
            };
            let wanted = order.frames_per_sec as f32;
            if (wanted - rate).abs() > 0.5 {
                rate = wanted;
                source.limit(wanted);
            }
            if self.control.skip.load(Ordering::Acquire) || !take(&mut due, order.frames_per_sec) {
                self.encode.drop_one();
                self.inbox.offer(Message::Skipped(self.stream));
                continue;
            }
            let picture = self.resize(&mut scaler, picture, order.size);
            if !self.encode(&mut encoding, &picture, order, content, next) {
                return;
            }
        }
    }

    fn announce(&self, size: PictureSize) {
        self.inbox.send(Message::Source {
            stream: self.stream,
            size: Some(size),
        });
    }

    fn resize(&self, scaler: &mut Scaler, picture: Picture, size: PictureSize) -> Picture {
        let began = Instant::now();
        let age = began.saturating_duration_since(self.clock.picture(picture.time, began));
        let picture = if picture.size() == size {
            picture
        } else {
            scaler.scale(&picture, size, Fit::Letterbox)
        };
        self.scale.pass(began.elapsed(), age);
        picture
    }

    /// False when nothing can be encoded, or nobody listens any more.
    fn encode(
        &self,
        encoding: &mut Option<Encoding>,
        picture: &Picture,
        order: EncoderOrder,
        content: Content,
        next: &mut FrameNumber,
    ) -> bool {
        let began = Instant::now();
        let captured_at = self.clock.picture(picture.time, began);
        if let Err(error) = prepare(encoding, order, content, *next) {
            self.events.lost(self.device, error);
            return false;
        }
        let Some(Encoding { encoder, .. }) = encoding else {
            return false;
        };
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
                self.inbox.offer(Message::Skipped(self.stream));
                return true;
            }
            Err(error) => {
                // The next one will be a key frame; if the library is broken for good, the call says so once.
                tracing::warn!(%error, "picture not encoded");
                *encoding = None;
                return true;
            }
        };
        *next = encoder.next_frame();
        let age = began.saturating_duration_since(captured_at);
        self.encode.pass(began.elapsed(), age);
        self.inbox.send(Message::Picture {
            stream: self.stream,
            picture: encoded,
            captured_at,
        })
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
