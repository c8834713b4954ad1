//! What comes back: reports into the estimate and the repair, and what the receiver says of each stream into orders.

use std::time::{Duration, Instant};

use super::Sender;
use crate::call::{Output, Outputs};
use crate::history::{Feedback, Outcome};
use crate::packet::{Body, Class, Content, Report, StreamReport, nearest};
use crate::rate::Mode;
use crate::repair::Network;
use crate::{AUDIO, FrameNumber};

impl Sender {
    pub(in crate::call) fn on_report(
        &mut self,
        now: Instant,
        report: &Report,
        outputs: &mut Outputs,
    ) -> Option<Feedback> {
        let feedback = match self.sent.on_report(now, report) {
            Ok(feedback) => feedback,
            Err(error) => {
                tracing::debug!(%error, "report dropped");
                return None;
            }
        };
        self.counters.reports_received += 1;
        self.estimator.on_feedback(now, &feedback);
        self.counters.round_trips += 1;
        self.counters.round_trip_total += self.estimator.round_trip();
        self.on_outcomes(now, &feedback.outcomes);
        self.update_policy(now);
        for stream in &feedback.streams {
            self.on_stream_report(now, stream, outputs);
        }
        self.last_tick = now;
        self.share(now, outputs);
        Some(feedback)
    }

    pub(super) fn on_outcomes(&mut self, now: Instant, outcomes: &[Outcome]) {
        self.resend.on_outcomes(now, outcomes);
        self.bursts.on_outcomes(outcomes);
        let round_trip = self.estimator.round_trip();
        for outcome in outcomes {
            if outcome.arrived_micros.is_some() {
                continue;
            }
            self.counters.lost += 1;
            let Content::Audio { number } = outcome.packet.content else {
                continue;
            };
            if !self.sound_plan.resend {
                continue;
            }
            let again = self.sounds.on_lost(number, round_trip, self.peer_buffer);
            if let Some(body) = again {
                let long_ago = self.long_ago(now);
                self.queue(now, Class::Audio, None, Body::Audio(body), long_ago);
            }
        }
    }

    /// A capture time whose age says nothing: that of what is sent again.
    pub(super) fn long_ago(&self, now: Instant) -> Instant {
        now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
    }

    pub(super) fn update_policy(&mut self, now: Instant) {
        let loss = self.estimator.loss();
        let used = self.wire_rate.bits_per_sec(now).max(1);
        // Against a queue of our own repair would be the wrong answer: neither its length nor what it drops counts.
        // Beside a flow that keeps it full, both are the path's.
        let (share, round_trip) = match self.estimator.mode() {
            Mode::Compete => (loss.total, self.estimator.round_trip()),
            _ => (loss.random, self.estimator.min_round_trip()),
        };
        let network = Network {
            loss: share,
            mean_burst: loss.mean_burst_packets.max(1.0),
            round_trip,
            burst_span: self.bursts.span(now),
            headroom: self.estimator.estimate_bits_per_sec() as f64 / used as f64,
        };
        self.policy.update(now, &network);
        self.resend
            .set_network(self.estimator.round_trip(), self.policy.loss());
    }

    pub(super) fn on_stream_report(
        &mut self,
        now: Instant,
        report: &StreamReport,
        outputs: &mut Outputs,
    ) {
        if report.stream == AUDIO {
            self.peer_buffer = Duration::from_millis(u64::from(report.buffer_millis));
            return;
        }
        let round_trip = self.estimator.round_trip();
        let Some(video) = self
            .video
            .iter_mut()
            .find(|video| video.stream == report.stream && video.on)
        else {
            return;
        };
        video.set_slow(report.slow_down);
        let whole = |short: FrameNumber| {
            nearest::<16>(video.next, short as u32).filter(|whole| *whole < video.next)
        };
        let last = report.last_decoded.and_then(whole);
        if let Some(frame) = last {
            outputs.push_back(Output::Reached {
                stream: report.stream,
                frame,
            });
        }
        video.refresh.on_decoded(!report.refresh_wanted);
        if report.refresh_wanted {
            let usable = last.filter(|frame| {
                !video.is_screen() && video.refresh.last_key().is_some_and(|key| key <= *frame)
            });
            let order = video.refresh.want(now, round_trip, usable);
            video.order(order, outputs);
        }
    }
}
