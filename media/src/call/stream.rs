//! One stream of pictures on its way out: its numbers, its step of the ladder, what its encoder was told, and
//! whether captures are skipped.

use std::time::{Duration, Instant};

use super::refresh::{Order, Refresh};
use super::{EncoderOrder, Output, Outputs, Subject};
use crate::rate::{Ladder, SkipInputs, SkipReason, TargetFilter, skip_capture};
use crate::repair::parity;
use crate::stats::{Limit, LimitMeter};
use crate::{FrameNumber, PictureSize, StreamId};

/// Weight of a new frame in the mean number of fragments: about the last ten count.
const FRAGMENTS_WEIGHT: f64 = 0.1;
/// The rate that a screen's pictures have by its share, bits a second: text stays sharp, its pictures come
/// less often (down to two a second), never smaller.
const SCREEN_RATES: [(u64, u32); 3] = [(1_500_000, 15), (800_000, 10), (400_000, 5)];
/// The same below those.
const SCREEN_LEAST_RATE: u32 = 2;
/// For so long nobody may be told of another rate upwards, unless it is by much: encoders pay for each change.
const HOLD_TARGET: Duration = Duration::from_millis(100);

/// A stream that goes out.
#[derive(Debug)]
pub(super) struct VideoOut {
    pub(super) stream: StreamId,
    pub(super) subject: Subject,
    pub(super) on: bool,
    source: PictureSize,
    ladder: Ladder,
    filter: TargetFilter,
    told: Option<EncoderOrder>,
    told_at: Option<Instant>,
    pub(super) parity: parity::Encoder,
    pub(super) next: FrameNumber,
    pub(super) refresh: Refresh,
    pub(super) fragments: f64,
    over_budget_since: Option<Instant>,
    skip: Option<SkipReason>,
    skip_told: Option<Option<SkipReason>>,
    pub(super) counters: Counters,
    pub(super) limits: LimitMeter,
    /// Mean size of a picture, bytes.
    mean_bytes: f64,
    /// Numbers and hand-over times of the newest frames, to see the frame rate.
    recent: std::collections::VecDeque<Instant>,
}

/// What is counted of a stream that goes out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) captured: u64,
    pub(super) skipped: u64,
    pub(super) encoded: u64,
    pub(super) key_frames: u64,
    pub(super) steps: u64,
    pub(super) refused: u64,
    /// Bytes that encoders made.
    pub(super) bytes: u64,
    /// Pictures of more than 2.5 times the mean size (webrtc-stats, `hugeFramesSent`).
    pub(super) huge: u64,
}

/// What the sender knows when it asks whether captures go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressure {
    pub(super) video_allowed: bool,
    pub(super) pacer_delay: Duration,
    pub(super) key_frame_rest: Duration,
    pub(super) over_budget: bool,
}

impl VideoOut {
    pub(super) fn new(
        now: Instant,
        stream: StreamId,
        subject: Subject,
        source: PictureSize,
        spare_cores: bool,
        first: FrameNumber,
    ) -> Self {
        Self {
            stream,
            subject,
            on: true,
            source,
            ladder: Ladder::new(now, source, spare_cores),
            filter: TargetFilter::default(),
            told: None,
            told_at: None,
            parity: parity::Encoder::new(),
            next: first,
            refresh: Refresh::default(),
            fragments: 4.0,
            over_budget_since: None,
            skip: None,
            skip_told: None,
            counters: Counters::default(),
            limits: LimitMeter::default(),
            mean_bytes: 0.0,
            recent: std::collections::VecDeque::new(),
        }
    }

    pub(super) fn is_screen(&self) -> bool {
        matches!(self.subject, Subject::Screen { .. })
    }

    /// Begins anew, with another source perhaps.
    pub(super) fn restart(&mut self, subject: Subject, source: PictureSize, spare_cores: bool) {
        self.subject = subject;
        self.on = true;
        if source != self.source {
            self.source = source;
            self.ladder.set_source(source, spare_cores);
        }
        self.told = None;
        self.filter = TargetFilter::default();
    }

    pub(super) fn set_slow(&mut self, slow: bool) {
        self.ladder.set_slow(slow);
    }

    /// The capacity fell; `true` if the size changes, so that a key frame will follow.
    pub(super) fn on_cliff(&mut self, now: Instant, share: u64) -> bool {
        !self.is_screen() && self.ladder.on_cliff(now, share)
    }

    /// A drain is over; `true` if the picture had gone off and comes back, with a key frame.
    pub(super) fn on_drained(&mut self, now: Instant, share: u64) -> bool {
        !self.is_screen() && self.ladder.on_drained(now, share)
    }

    /// The stream has a share of `share` on the wire, its encoder gets `target`: tells it when it should know.
    pub(super) fn set_share(
        &mut self,
        now: Instant,
        share: u64,
        target: u64,
        queue: Duration,
        layered: bool,
        outputs: &mut Outputs,
    ) {
        if !self.on {
            return;
        }
        if self.told.is_none() {
            self.ladder.begin(now, share);
        } else if !self.is_screen() && self.ladder.update(now, share, queue) {
            self.counters.steps += 1;
        }
        let (size, frames_per_sec) = self.step(share);
        self.limits.set(now, self.limit(frames_per_sec));
        let wanted = EncoderOrder {
            stream: self.stream,
            bits_per_sec: if frames_per_sec == 0 { 0 } else { target },
            size,
            frames_per_sec,
            layered,
        };
        let Some(told) = self.told else {
            self.filter.update(wanted.bits_per_sec);
            self.tell(now, wanted, outputs);
            return;
        };
        let same_kind = EncoderOrder {
            bits_per_sec: told.bits_per_sec,
            ..wanted
        } == told;
        let rising = wanted.bits_per_sec > told.bits_per_sec;
        let held = self
            .told_at
            .is_some_and(|at| now.saturating_duration_since(at) < HOLD_TARGET);
        if same_kind && rising && held {
            return;
        }
        let target = self.filter.update(wanted.bits_per_sec);
        if !same_kind || target.is_some() {
            self.tell(now, wanted, outputs);
        }
    }

    /// What limits pictures at this rate.
    fn limit(&self, frames_per_sec: u32) -> Limit {
        let full = if self.is_screen() {
            frames_per_sec >= SCREEN_RATES[0].1
        } else {
            self.ladder.is_highest()
        };
        if frames_per_sec > 0 && self.ladder.is_halved() && !self.is_screen() {
            Limit::Cpu
        } else if full {
            Limit::None
        } else {
            Limit::Bandwidth
        }
    }

    /// The stream ends, or rests.
    pub(super) fn stop(&mut self, now: Instant) {
        self.on = false;
        self.limits.set(now, Limit::Off);
    }

    fn tell(&mut self, now: Instant, order: EncoderOrder, outputs: &mut Outputs) {
        self.told = Some(order);
        self.told_at = Some(now);
        outputs.push_back(Output::Encoder(order));
    }

    /// The network is back, or the path is another: the step that fits, and a key frame.
    pub(super) fn restart_ladder(&mut self, now: Instant, share: u64) {
        self.ladder.restart(now, share);
    }

    fn step(&self, share: u64) -> (PictureSize, u32) {
        if self.is_screen() {
            let rate = SCREEN_RATES
                .iter()
                .find(|(least, _)| share >= *least)
                .map_or(SCREEN_LEAST_RATE, |(_, rate)| *rate);
            return (self.source, if share == 0 { 0 } else { rate });
        }
        self.ladder
            .step()
            .map_or((self.source, 0), |step| (step.size, step.frames_per_sec))
    }

    /// What the encoder was told last.
    pub(super) fn told(&self) -> Option<&EncoderOrder> {
        self.told.as_ref()
    }

    /// A picture is handed over; its number.
    pub(super) fn on_picture(&mut self, now: Instant, key: bool, bytes: usize) -> FrameNumber {
        let number = self.next;
        self.next += 1;
        self.counters.captured += 1;
        self.counters.encoded += 1;
        self.counters.key_frames += u64::from(key);
        self.counters.bytes += bytes as u64;
        let size = bytes as f64;
        if number > 0 && size > 2.5 * self.mean_bytes {
            self.counters.huge += 1;
        }
        let encoded = self.counters.encoded as f64;
        self.mean_bytes += (size - self.mean_bytes) / encoded;
        self.refresh.on_picture(now, number, key);
        if let Some(told) = self.told.filter(|_| key && !self.is_screen()) {
            self.ladder
                .on_key_frame(told.size, told.bits_per_sec, bytes);
        }
        if self.recent.len() == 60 {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if !key {
            let fragments = (bytes as f64 / 1_100.0).ceil().max(1.0);
            self.fragments += FRAGMENTS_WEIGHT * (fragments - self.fragments);
        }
        number
    }

    /// Frames handed over in the last second.
    pub(super) fn frames_per_sec(&self, now: Instant) -> f64 {
        let second = Duration::from_secs(1);
        let recent = self.recent.iter().rev();
        recent
            .take_while(|at| now.saturating_duration_since(**at) < second)
            .count() as f64
    }

    /// Carries out an order of [`Refresh`].
    pub(super) fn order(&self, order: Option<Order>, outputs: &mut Outputs) {
        match order {
            Some(Order::Key) => outputs.push_back(Output::KeyFrame(self.stream)),
            Some(Order::Recovery(last_good)) => outputs.push_back(Output::Recovery {
                stream: self.stream,
                last_good,
            }),
            None => {}
        }
    }

    /// A key frame must come whatever was before.
    pub(super) fn force_key(&mut self, now: Instant, outputs: &mut Outputs) {
        self.refresh.force(now);
        outputs.push_back(Output::KeyFrame(self.stream));
    }

    /// Says whether captures go on, where that is new.
    pub(super) fn update_skip(&mut self, now: Instant, pressure: &Pressure, outputs: &mut Outputs) {
        let over = match (pressure.over_budget, self.over_budget_since) {
            (false, _) => {
                self.over_budget_since = None;
                Duration::ZERO
            }
            (true, None) => {
                self.over_budget_since = Some(now);
                Duration::ZERO
            }
            (true, Some(since)) => now.saturating_duration_since(since),
        };
        let rate = self.told.map_or(30, |told| told.frames_per_sec.max(1));
        self.skip = if self.told.is_none_or(|told| told.bits_per_sec == 0) {
            Some(SkipReason::VideoOff)
        } else {
            skip_capture(&SkipInputs {
                video_allowed: pressure.video_allowed,
                encoder_busy: false,
                pacer_delay: pressure.pacer_delay,
                key_frame_rest: pressure.key_frame_rest,
                frame_interval: Duration::from_secs(1) / rate,
                over_budget: over,
            })
        };
        if self.skip_told != Some(self.skip) {
            self.skip_told = Some(self.skip);
            outputs.push_back(Output::Capture {
                stream: self.stream,
                skip: self.skip,
            });
        }
    }

    /// Why a picture captured now is not to be encoded.
    pub(super) fn skips(&self) -> Option<SkipReason> {
        if self.on {
            self.skip
        } else {
            Some(SkipReason::VideoOff)
        }
    }
}
