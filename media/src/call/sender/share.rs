//! The estimate into shares, and shares into orders for the encoders; what happens on the way (a cliff, silence) at
//! once.

use std::time::{Duration, Instant};

use super::Sender;
use crate::Budget;
use crate::call::stream::{Pressure, VideoOut};
use crate::call::{Output, Outputs, SoundOrder, Subject};
use crate::packet::fragment_budget;
use crate::rate::{Demand, Event as RateEvent, Mode, ScreenDemand, Shares, allocate};
use crate::repair::copies;

impl Sender {
    pub(super) fn on_rate_event(&mut self, now: Instant, event: RateEvent, outputs: &mut Outputs) {
        tracing::debug!(?event, "rate");
        match event {
            RateEvent::Cliff { .. } => {
                self.shares = None;
                let shares = self.allocation();
                for video in self.video.iter_mut().filter(|video| video.on) {
                    if video.on_cliff(now, shares.camera_bits_per_sec) {
                        self.pacer.flush_video(now);
                        self.resend.abandon_before(video.stream, video.next);
                        video.counters.steps += 1;
                    }
                }
            }
            RateEvent::Back { restarted: true } => {
                let shares = self.allocation();
                self.pacer.flush_video(now);
                for video in self.video.iter_mut().filter(|video| video.on) {
                    video.restart_ladder(now, shares.camera_bits_per_sec);
                    self.resend.abandon_before(video.stream, video.next);
                    video.force_key(now, outputs);
                }
                self.shares = None;
            }
            RateEvent::Drained => {
                let shares = self.allocation();
                for video in self.video.iter_mut().filter(|video| video.on) {
                    if video.on_drained(now, shares.camera_bits_per_sec) {
                        self.resend.abandon_before(video.stream, video.next);
                        video.counters.steps += 1;
                        video.force_key(now, outputs);
                    }
                }
                self.shares = None;
            }
            RateEvent::Back { restarted: false } | RateEvent::Blind | RateEvent::VideoOff => {
                self.shares = None
            }
        }
    }

    pub(super) fn allocation(&self) -> Shares {
        let wanted = self.policy.copies(self.sound_frame());
        let camera = |video: &&VideoOut| video.on && !video.is_screen();
        let screen = self.video.iter().find_map(|video| match video.subject {
            Subject::Screen { text } if video.on => Some(ScreenDemand { text }),
            _ => None,
        });
        let fragments = self
            .video
            .iter()
            .find(camera)
            .map_or(4.0, |video| video.fragments);
        allocate(&Demand {
            estimate_bits_per_sec: self.estimator.estimate_bits_per_sec(),
            audio: self.sound_on,
            audio_floor: self.estimator.audio_floor(),
            audio_bits_per_sec: self.config.audio_bits_per_sec,
            audio_copies: wanted.offsets().len() as u8,
            repair_share: self
                .policy
                .planned_share(fragments.round().clamp(1.0, 64.0) as u16, false),
            camera: self.video.iter().any(|video| camera(&video)),
            screen,
            video_cap_bits_per_sec: self.config.video_cap_bits_per_sec,
            transfer: self.transfer,
            fragment_bytes: fragment_budget(self.path.max_datagram_bytes, self.path.relayed),
        })
    }

    pub(super) fn sound_frame(&self) -> Duration {
        self.shares
            .map_or(Duration::from_millis(10), |shares| shares.audio_frame)
    }

    /// Splits the estimate anew, and tells those concerned.
    pub(super) fn share(&mut self, now: Instant, outputs: &mut Outputs) {
        let shares = self.allocation();
        self.shares = Some(shares);
        self.pacer.set_rates(
            now,
            self.estimator.pacing_bits_per_sec(),
            self.estimator.estimate_bits_per_sec(),
        );
        self.tell_sound(&shares, outputs);
        // Beside a flow that keeps the queue full, the queue says nothing of our own rate.
        let queue = match self.estimator.mode() {
            Mode::Compete => Duration::ZERO,
            _ => self.estimator.queue_delay(),
        };
        let layered = self.policy.two_layers();
        for video in &mut self.video {
            let (share, target) = if video.is_screen() {
                (
                    shares.screen_bits_per_sec,
                    shares.screen_encoder_bits_per_sec,
                )
            } else {
                (
                    shares.camera_bits_per_sec,
                    shares.camera_encoder_bits_per_sec,
                )
            };
            video.set_share(
                now,
                share,
                target,
                queue,
                layered && !video.is_screen(),
                outputs,
            );
        }
        let budget = Budget {
            estimate_bits_per_sec: self.estimator.estimate_bits_per_sec(),
            other_bits_per_sec: if self.estimator.transfer_allowed() {
                shares.transfer_bits_per_sec
            } else {
                0
            },
            min_round_trip: self.estimator.min_round_trip(),
        };
        if self.budget_told != Some(budget) {
            self.budget_told = Some(budget);
            outputs.push_back(Output::Budget(budget));
        }
    }

    pub(super) fn tell_sound(&mut self, shares: &Shares, outputs: &mut Outputs) {
        let plan = self.policy.copies(shares.audio_frame);
        let loss = self.estimator.loss().total;
        // In-band repair where loss is felt but the budget has no room for copies.
        let uncovered = plan.offsets().len() > usize::from(shares.audio_copies);
        self.sound_plan = match shares.audio_copies {
            0 => copies::Plan::default(),
            copies => plan.cut(copies, shares.audio_frame),
        };
        let order = SoundOrder {
            bits_per_sec: shares.audio_encoder_bits_per_sec,
            frame: shares.audio_frame,
            expected_loss: if uncovered && shares.audio_copies == 0 {
                ((loss * 20.0).ceil() / 20.0).clamp(0.0, 0.5) as f32
            } else {
                0.0
            },
        };
        if self.sound_on && self.sound_told != Some(order) {
            self.sound_told = Some(order);
            outputs.push_back(Output::SoundEncoder(order));
        }
    }

    pub(super) fn update_skips(&mut self, now: Instant, outputs: &mut Outputs) {
        let cap = self.shares.map_or(u64::MAX, |shares| {
            shares.camera_bits_per_sec + shares.screen_bits_per_sec + shares.repair_bits_per_sec
        });
        let pressure = Pressure {
            video_allowed: self.estimator.video_allowed(),
            pacer_delay: self.pacer.video_delay(),
            key_frame_rest: self.pacer.key_frame_rest(),
            over_budget: self.video_rate.bits_per_sec(now) > cap + cap / 4,
        };
        for video in self.video.iter_mut().filter(|video| video.on) {
            video.update_skip(now, &pressure, outputs);
        }
    }
}
