//! The statistics of the sending half.

use std::time::{Duration, Instant};

use super::Sender;
use crate::call::stream::VideoOut;
use crate::stats::{Snapshot, SoundOut, VideoOut as VideoOutStats};

impl Sender {
    pub(in crate::call) fn fill(&mut self, now: Instant, snapshot: &mut Snapshot) {
        let rate = self.estimator.snapshot();
        let pacer = self.pacer.counters();
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        let network = &mut snapshot.network;
        network.relayed = self.path.relayed;
        network.path_epoch = self.path.epoch;
        network.round_trip_millis = millis(rate.round_trip);
        network.min_round_trip_millis = millis(rate.min_round_trip);
        network.total_round_trip_time = self.counters.round_trip_total.as_secs_f64();
        network.round_trip_time_measurements = self.counters.round_trips;
        network.jitter_out_millis = millis(rate.jitter);
        network.burst_capacity_bits_per_sec = rate.burst_capacity_bits_per_sec;
        network.probes_sent = rate.probes;
        network.probes_taken = rate.probes_taken;
        network.decreases = rate.decreases;
        network.cliffs = rate.cliffs;
        network.estimate_bits_per_sec = rate.estimate_bits_per_sec;
        network.acknowledged_bits_per_sec = rate.acked_bits_per_sec;
        network.mode = format!("{:?}", rate.mode).to_lowercase();
        network.queue_millis = millis(rate.queue_delay);
        network.loss = rate.loss.total;
        network.burst_packets = rate.loss.mean_burst_packets;
        network.packets_sent = self.counters.packets;
        network.bytes_sent = self.counters.bytes;
        network.packets_lost = self.counters.lost;
        network.reports_sent = self.counters.reports_sent;
        network.reports_received = self.counters.reports_received;
        network.audio_bytes = self.counters.audio_bytes;
        network.video_bytes = self.counters.video_bytes;
        network.resent_packets = self.counters.resent_packets;
        network.resent_bytes = self.counters.resent_bytes;
        network.parity_packets = self.counters.parity_packets;
        network.parity_bytes = self.counters.parity_bytes;
        network.probe_bytes = self.counters.probe_bytes;
        network.pacer_drops =
            pacer.audio_too_old + pacer.video_too_old + pacer.flushed + pacer.overflow;
        network.send_errors = self.counters.too_large;
        snapshot.sound_out = SoundOut {
            packets_sent: self.counters.sounds,
            copies_sent: self.counters.copies,
            target_bits_per_sec: self.sound_told.map_or(0, |told| told.bits_per_sec as u32),
            frame_millis: self.last_sound.1.as_millis() as u32,
            voice: self.last_sound.0,
            ..SoundOut::default()
        };
        snapshot.video_out = self
            .video
            .iter()
            .map(|video| video_out(now, video))
            .collect();
    }
}

fn video_out(now: Instant, video: &VideoOut) -> VideoOutStats {
    let told = video.told();
    VideoOutStats {
        stream: video.stream.0,
        frames_captured: video.counters.captured,
        frames_skipped: video.counters.skipped,
        frames_encoded: video.counters.encoded,
        frames_sent: video.counters.encoded - video.counters.refused,
        key_frames_encoded: video.counters.key_frames,
        refreshes_requested: video.refresh.requested,
        target_bits_per_sec: told.map_or(0, |told| told.bits_per_sec),
        frame_width: told.map_or(0, |told| told.size.width()),
        frame_height: told.map_or(0, |told| told.size.height()),
        frames_per_second: video.frames_per_sec(now),
        ladder_steps: video.counters.steps,
        quality_limitation_reason: video.limits.limit(),
        quality_limitation_durations: video.limits.durations(now),
        encoded_bytes: video.counters.bytes,
        huge_frames_sent: video.counters.huge,
        ..VideoOutStats::default()
    }
}
