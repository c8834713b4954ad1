//! Packets out: what is due for repair, probes and path marks into the pacer, and what the pacer lets go on its way.

use std::time::{Duration, Instant};

use super::{Item, Sender};
use crate::call::receiver::Receiver;
use crate::call::{Output, Outputs};
use crate::history::SentPacket;
use crate::pace::{FrameTag, Queued};
use crate::packet::{Body, Class, WIRE_OVERHEAD_BYTES, Writer};

/// The padding's cluster, which no probe has.
const KEEP_ALIVE_CLUSTER: u8 = u8::MAX;
/// Time between path marks after a switch.
const PATH_MARK_INTERVAL: Duration = Duration::from_millis(20);
/// Packets that one call of [`Sender::advance`] gives out at most; the pacer's burst is far below.
const MAX_PACKETS: usize = 256;

impl Sender {
    pub(super) fn queue_resends(&mut self, now: Instant) {
        for _ in 0..MAX_PACKETS {
            let Some(body) = self.resend.poll(now) else {
                break;
            };
            let frame = Some(FrameTag {
                stream: body.frame.stream,
                number: body.frame.number,
                key: body.frame.key,
            });
            let long_ago = self.long_ago(now);
            self.queue(now, Class::Resend, frame, Body::Video(body), long_ago);
        }
        while let Some(failed) = self.resend.poll_failed() {
            // The receiver will want a refresh; nothing is gained by sending older frames still.
            tracing::debug!(
                stream = failed.stream.0,
                frame = failed.frame,
                "frame given up"
            );
        }
    }

    pub(super) fn queue_probes(&mut self, now: Instant) {
        let Some(order) = self.estimator.take_probe(now) else {
            return;
        };
        let wire_bytes = order.bytes / u32::from(order.packets.max(1));
        let least = WIRE_OVERHEAD_BYTES + Writer::probe_len();
        let room = self
            .path
            .max_datagram_bytes
            .saturating_sub(Writer::probe_len());
        let padding = (wire_bytes as usize).saturating_sub(least).min(room);
        for _ in 0..order.packets {
            let body = Body::Probe {
                cluster: order.cluster,
                padding,
            };
            self.pacer.push(
                now,
                Queued {
                    class: Class::Probe,
                    wire_bytes: (least + padding) as u32,
                    frame: None,
                    probe_bits_per_sec: Some(order.bits_per_sec),
                    item: Item {
                        body,
                        captured_at: now,
                    },
                },
            );
        }
    }

    pub(super) fn queue_marks(&mut self, now: Instant) {
        let (left, at) = self.marks;
        if left == 0 || now < at {
            return;
        }
        self.marks = (left - 1, now + PATH_MARK_INTERVAL);
        let body = Body::PathMark {
            epoch: self.path.epoch as u8,
            reason: u8::from(self.path.relayed),
        };
        self.queue(now, Class::Audio, None, body, now);
    }

    /// Sends what the pacer lets go.
    pub(super) fn send_due(&mut self, now: Instant, outputs: &mut Outputs) {
        for _ in 0..MAX_PACKETS {
            let Some(packet) = self.pacer.poll(now) else {
                break;
            };
            let key = packet.frame.filter(|tag| tag.key);
            let key = key.map(|tag| (tag.stream, tag.number));
            if key.is_some() && self.key_announced != key {
                self.key_announced = key;
                self.estimator.on_key_frame(now);
            }
            self.send(
                now,
                packet.class,
                packet.item.body,
                packet.item.captured_at,
                outputs,
            );
        }
        while let Some(dropped) = self.pacer.poll_dropped() {
            if let Body::Video(body) = &dropped.item.body {
                let (stream, frame) = (body.frame.stream, body.frame.number);
                self.resend.on_dropped(now, stream, frame, body.fragment);
            }
        }
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        class: Class,
        body: Body,
        captured_at: Instant,
        outputs: &mut Outputs,
    ) {
        let sequence = self.sent.next_sequence();
        let age = now.saturating_duration_since(captured_at);
        let datagram = match self.writer.write(now, sequence, age, &body) {
            Ok(datagram) if datagram.len() <= self.path.max_datagram_bytes => datagram,
            Ok(_) => {
                self.counters.too_large += 1;
                if let Body::Video(body) = &body {
                    let (stream, frame) = (body.frame.stream, body.frame.number);
                    self.resend.on_dropped(now, stream, frame, body.fragment);
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "packet cannot be written");
                return;
            }
        };
        let packet = SentPacket {
            sequence,
            sent_at: now,
            wire_bytes: (datagram.len() + WIRE_OVERHEAD_BYTES) as u32,
            class,
            content: body.content(),
            path_epoch: self.path.epoch,
        };
        self.estimator.on_sent(&packet);
        self.resend.on_sent(&packet);
        self.count(now, &body, &packet, datagram.len());
        if let Body::Parity(parity) = &body {
            self.resend.on_parity_sent(sequence, parity);
        }
        self.sent.push(packet);
        self.last_sent = Some(now);
        outputs.push_back(Output::Datagram(datagram));
    }

    pub(super) fn count(&mut self, now: Instant, body: &Body, packet: &SentPacket, bytes: usize) {
        let wire = u64::from(packet.wire_bytes);
        self.counters.packets += 1;
        self.counters.bytes += bytes as u64;
        self.wire_rate.add(now, packet.wire_bytes as usize);
        match body {
            Body::Video(video) if video.attempt > 0 => {
                self.counters.resent_packets += 1;
                self.counters.resent_bytes += wire;
                self.policy.on_sent(now, 0, wire);
            }
            Body::Video(_) => self.policy.on_sent(now, wire, 0),
            Body::Parity(_) => {
                self.counters.parity_packets += 1;
                self.counters.parity_bytes += wire;
                self.policy.on_sent(now, 0, wire);
            }
            Body::Probe { .. } => self.counters.probe_bytes += wire,
            Body::Audio(_) => self.counters.audio_bytes += wire,
            Body::Report(_) | Body::PathMark { .. } => {}
        }
        if matches!(body, Body::Video(_) | Body::Parity(_)) {
            self.counters.video_bytes += wire;
            self.video_rate.add(now, packet.wire_bytes as usize);
        }
    }

    /// A report goes with each packet of sound, and alone when it is due.
    pub(super) fn send_report(
        &mut self,
        now: Instant,
        receiver: &mut Receiver,
        outputs: &mut Outputs,
    ) {
        let with_audio = std::mem::take(&mut self.report_wanted);
        if !receiver.report_due(now, with_audio) {
            return;
        }
        // Sound that left a moment ago shares the packet below with it.
        let sequence = self.sent.next_sequence();
        let room = self.path.max_datagram_bytes;
        let Some(report) = receiver.build_report(now, sequence, with_audio, room) else {
            return;
        };
        self.counters.reports_sent += 1;
        self.send(now, Class::Audio, Body::Report(report), now, outputs);
    }

    pub(super) fn send_keep_alive(&mut self, now: Instant, outputs: &mut Outputs) {
        let quiet = self
            .last_sent
            .is_none_or(|at| now.saturating_duration_since(at) >= self.keep_alive());
        if quiet {
            let body = Body::Probe {
                cluster: KEEP_ALIVE_CLUSTER,
                padding: 0,
            };
            self.send(now, Class::Probe, body, now, outputs);
        }
    }
}
