//! What a call measures: counters and gauges by the names of W3C's webrtc-stats where they exist, freezes by
//! its definition, and latencies as percentiles. Pure: times are arguments.
//!
//! `STATS.md` beside this crate has the table of webrtc-stats' names and ours.

mod meters;

use serde::{Deserialize, Serialize};

pub use meters::{FreezeMeter, Limit, LimitMeter, RateMeter, Window, quantile};

/// All numbers of a call at one moment. Counters run from the start of the call and never fall.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Since the call began, ms.
    pub elapsed_millis: u64,
    /// The path and what it carries.
    pub network: Network,
    /// Sound that goes out.
    pub sound_out: SoundOut,
    /// Sound that comes in.
    pub sound_in: SoundIn,
    /// Pictures that go out, one entry a stream.
    pub video_out: Vec<VideoOut>,
    /// Pictures that come in, one entry a stream.
    pub video_in: Vec<VideoIn>,
    /// Stages from source to sink.
    pub stages: Vec<Stage>,
}

/// The path and what it carries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Through the relay.
    pub relayed: bool,
    /// Changes of path so far.
    pub path_epoch: u32,
    /// The newest round trip, ms.
    pub round_trip_millis: f64,
    /// The smallest one, ms.
    pub min_round_trip_millis: f64,
    /// All of them, summed up, seconds.
    pub total_round_trip_time: f64,
    /// How many these are.
    pub round_trip_time_measurements: u64,
    /// Spread of the delays of our packets (10th to 90th percentile), ms.
    pub jitter_out_millis: f64,
    /// Mean deviation of the delays of what comes (RFC 3550 §6.4.1, by sending times), ms.
    pub jitter_in_millis: f64,
    /// What the path carries by our estimate, bits a second.
    pub estimate_bits_per_sec: u64,
    /// What arrives at the other side, bits a second.
    pub acknowledged_bits_per_sec: u64,
    /// What short bursts have proven that the path carries, bits a second; 0: nothing yet.
    pub burst_capacity_bits_per_sec: u64,
    /// The estimator's state.
    pub mode: String,
    /// Probes for more, and those of them that raised the estimate.
    pub probes_sent: u64,
    /// See `probes_sent`.
    pub probes_taken: u64,
    /// Times that the estimate was lowered.
    pub decreases: u64,
    /// Of these, because the capacity fell off a cliff.
    pub cliffs: u64,
    /// Queue in the network, ms (10th percentile of 200 ms).
    pub queue_millis: f64,
    /// Share of our packets that were lost, newest two seconds.
    pub loss: f64,
    /// Mean length of the losses, packets.
    pub burst_packets: f64,
    /// Datagrams given to the transport.
    pub packets_sent: u64,
    /// Their bytes, without headers below ours.
    pub bytes_sent: u64,
    /// Datagrams that came and were ours.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Our packets that were lost, as the other side reports.
    pub packets_lost: u64,
    /// Packets of the other side that we miss.
    pub packets_missing: u64,
    /// Share of the other side's packets that never came (before any repair), since the beginning.
    pub loss_in: f64,
    /// Packets of the other side that came more than once.
    pub packets_duplicate: u64,
    /// Datagrams that were malformed, unknown or duplicates.
    pub packets_refused: u64,
    /// Packets that the transport did not take.
    pub send_errors: u64,
    /// Reports sent.
    pub reports_sent: u64,
    /// Reports received.
    pub reports_received: u64,
    /// Bytes of sound with its copies, all headers included.
    pub audio_bytes: u64,
    /// Bytes of pictures with their resends and parity, all headers included.
    pub video_bytes: u64,
    /// Packets of pictures that were sent again.
    pub resent_packets: u64,
    /// Their bytes on the wire.
    pub resent_bytes: u64,
    /// Packets of parity sent.
    pub parity_packets: u64,
    /// Their bytes on the wire.
    pub parity_bytes: u64,
    /// Bytes of probes.
    pub probe_bytes: u64,
    /// Media that was dropped in the pacer because it had become too old, packets.
    pub pacer_drops: u64,
}

/// Sound that goes out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SoundOut {
    /// Opus packets sent (primaries).
    pub packets_sent: u64,
    /// Copies that rode on later packets.
    pub copies_sent: u64,
    /// What the encoder is asked for, bits a second.
    pub target_bits_per_sec: u32,
    /// Length of its packets, ms.
    pub frame_millis: u32,
    /// Level of what is sent, dBFS.
    pub level_dbfs: f32,
    /// Energy of what was sent: the square of the level (1 is full scale) times seconds, summed up.
    pub total_audio_energy: f64,
    /// Length of what that is of, seconds.
    pub total_samples_duration: f64,
    /// Somebody speaks.
    pub voice: bool,
    /// Muted.
    pub muted: bool,
}

/// Sound that comes in. Sample counters are of one channel at 48 kHz.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SoundIn {
    /// Opus packets that came first hand.
    pub packets_received: u64,
    /// Packets that only a copy or in-band repair saved.
    pub packets_repaired: u64,
    /// Of these, by in-band repair (Opus FEC).
    pub fec_packets_received: u64,
    /// Packets missing when they were to be played, with no repair in time.
    pub packets_lost: u64,
    /// Share of the packets that were missing after all repair.
    pub loss_after_repair: f64,
    /// Packets thrown away because too many waited.
    pub packets_discarded: u64,
    /// Packets that the decoder refused.
    pub decode_errors: u64,
    /// Packets that came after their time.
    pub packets_late: u64,
    /// Samples played.
    pub total_samples: u64,
    /// Samples made up because nothing was there.
    pub concealed_samples: u64,
    /// Of those, silence or comfort noise.
    pub silent_concealed_samples: u64,
    /// How often concealment began.
    pub concealment_events: u64,
    /// Samples added by slowing down.
    pub inserted_samples_for_deceleration: u64,
    /// Samples cut by speeding up.
    pub removed_samples_for_acceleration: u64,
    /// Sum of the time that samples spent in the buffer, seconds.
    pub jitter_buffer_delay: f64,
    /// The target at each of these samples, summed up, seconds.
    pub jitter_buffer_target_delay: f64,
    /// The same without what waits for the pictures: what the network alone asks for, seconds.
    pub jitter_buffer_minimum_delay: f64,
    /// Samples that left the buffer.
    pub jitter_buffer_emitted_count: u64,
    /// What waits now, ms.
    pub buffer_millis: f64,
    /// What should wait, ms.
    pub target_millis: f64,
    /// Callbacks of the loudspeaker that found too little.
    pub underruns: u64,
    /// What was made up for these, seconds.
    pub synthesized_samples_duration: f64,
    /// What each sample waited between us and the loudspeaker, summed up, seconds.
    pub total_playout_delay: f64,
    /// Samples in that sum.
    pub total_playout_samples: u64,
    /// Level of what is played, dBFS.
    pub level_dbfs: f32,
    /// Energy of what was played: the square of the level (1 is full scale) times seconds, summed up.
    pub total_audio_energy: f64,
    /// Length of what that is of, seconds.
    pub total_samples_duration: f64,
    /// Microphone to loudspeaker by an estimate of the clocks, ms.
    pub latency: Percentiles,
    /// Sound played minus picture shown, ms; positive: the sound is ahead.
    pub av_skew_millis: f64,
}

/// Pictures that go out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoOut {
    /// The stream.
    pub stream: u8,
    /// Pictures that the source gave.
    pub frames_captured: u64,
    /// Pictures dropped before the encoder.
    pub frames_skipped: u64,
    /// Pictures encoded.
    pub frames_encoded: u64,
    /// Pictures handed to the network, whole.
    pub frames_sent: u64,
    /// Of those, key frames.
    pub key_frames_encoded: u64,
    /// Requests of the other side for a refresh.
    pub refreshes_requested: u64,
    /// What the encoder is asked for, bits a second.
    pub target_bits_per_sec: u64,
    /// Width now, pixels.
    pub frame_width: u32,
    /// Height now, pixels.
    pub frame_height: u32,
    /// Frames a second now.
    pub frames_per_second: f64,
    /// Changes of size (`qualityLimitationResolutionChanges`).
    pub ladder_steps: u64,
    /// Why pictures are not better: `none`, `bandwidth`, `cpu` (the other side cannot keep up) or `off`.
    pub quality_limitation_reason: Limit,
    /// For how long each of these held, ms.
    pub quality_limitation_durations: LimitDurations,
    /// Bytes of pictures that the encoder made.
    pub encoded_bytes: u64,
    /// Pictures of more than 2.5 times the mean size.
    pub huge_frames_sent: u64,
    /// Quantizers of the pictures (0 to 51, each picture's first slice), summed up.
    pub qp_sum: u64,
    /// Pictures that the encoder left out by itself, to keep its rate.
    pub frames_dropped_by_encoder: u64,
    /// Time in the encoder, summed up, seconds.
    pub total_encode_time: f64,
    /// Time in the encoder, ms.
    pub encode: Percentiles,
}

/// Pictures that come in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoIn {
    /// The stream.
    pub stream: u8,
    /// Frames of which anything came.
    pub frames_seen: u64,
    /// Frames whole and decodable.
    pub frames_assembled: u64,
    /// Of those, key frames.
    pub key_frames_received: u64,
    /// Of those, restored by parity.
    pub frames_restored: u64,
    /// Of those, completed by a resend.
    pub frames_resent: u64,
    /// Of those, whole only after their time, but shown.
    pub frames_late: u64,
    /// Share of the frames that were given up after all repair.
    pub loss_after_repair: f64,
    /// Bytes that came twice, too late, or for frames given up.
    pub useless_bytes: u64,
    /// Frames decoded.
    pub frames_decoded: u64,
    /// Time in the decoder, summed up, seconds.
    pub total_decode_time: f64,
    /// Quantizers of the pictures decoded (0 to 51, each picture's first slice), summed up.
    pub qp_sum: u64,
    /// First packet to whole frame, summed up over frames, seconds.
    pub total_assembly_time: f64,
    /// First packet to decoded, summed up over the frames decoded, seconds.
    pub total_processing_delay: f64,
    /// First packet to the time at which it is to be shown, summed up over the frames given out, seconds.
    pub jitter_buffer_delay: f64,
    /// Frames in that sum.
    pub jitter_buffer_emitted_count: u64,
    /// Frames handed to the sink.
    pub frames_shown: u64,
    /// Frames given up.
    pub frames_dropped: u64,
    /// Errors of the decoder.
    pub decode_errors: u64,
    /// Refreshes that we asked for.
    pub refreshes_wanted: u64,
    /// Freezes as the standard defines them.
    pub freeze_count: u64,
    /// Their whole length, ms.
    pub total_freezes_millis: u64,
    /// Sum of all gaps over 200 ms between pictures, ms.
    pub stall_millis: u64,
    /// Gaps of more than five seconds (`pauseCount`).
    pub pause_count: u64,
    /// Their whole length, ms.
    pub total_pauses_millis: u64,
    /// Times between pictures, summed up, seconds.
    pub total_inter_frame_delay: f64,
    /// Their squares, summed up, seconds².
    pub total_squared_inter_frame_delay: f64,
    /// Width now, pixels.
    pub frame_width: u32,
    /// Height now, pixels.
    pub frame_height: u32,
    /// Frames a second now.
    pub frames_per_second: f64,
    /// Time in the decoder, ms.
    pub decode: Percentiles,
    /// Capture to shown, ms; on one host from frame stamps, else by an estimate of the clocks.
    pub latency: Percentiles,
    /// The latency comes from stamps in the pictures and one clock.
    pub latency_measured: bool,
    /// What the buffer adds to the earliest possible time, ms.
    pub playout_delay_millis: f64,
}

/// For how long pictures were limited, by reason, ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitDurations {
    /// Nothing limited them.
    pub none: u64,
    /// The path.
    pub bandwidth: u64,
    /// A processor.
    pub cpu: u64,
    /// They were off, or the source gave none.
    pub off: u64,
}

/// One stage of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What waits before it now.
    pub queue: u64,
    /// How long the oldest of that has waited, ms.
    pub oldest_millis: f64,
    /// What went through.
    pub passed: u64,
    /// What was dropped before it.
    pub dropped: u64,
    /// Time in it, ms.
    pub time: Percentiles,
}

/// Newest values of a quantity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    /// Half of the values lie below.
    pub p50: f64,
    /// 95 % lie below.
    pub p95: f64,
    /// The largest.
    pub max: f64,
}

/// The end of a call in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How long it lasted, ms.
    pub duration_millis: u64,
    /// Share of the other side's pictures that were shown, of those of which anything came; 1 without any.
    pub shown: f64,
    /// Share of the played samples that were made up.
    pub concealed: f64,
    /// Mean rate out, bits a second.
    pub sent_bits_per_sec: u64,
    /// Mean rate in, bits a second.
    pub received_bits_per_sec: u64,
    /// The state at the end.
    pub last: Snapshot,
}

impl Summary {
    /// Sums up a call from its last snapshot.
    pub fn new(last: Snapshot) -> Self {
        let share = |part: u64, whole: u64, empty: f64| match whole {
            0 => empty,
            _ => part as f64 / whole as f64,
        };
        let rate = |bytes: u64| (bytes.saturating_mul(8_000)) / last.elapsed_millis.max(1);
        let seen: u64 = last.video_in.iter().map(|v| v.frames_seen).sum();
        let shown: u64 = last.video_in.iter().map(|v| v.frames_shown).sum();
        Self {
            duration_millis: last.elapsed_millis,
            shown: share(shown, seen, 1.0).min(1.0),
            concealed: share(
                last.sound_in.concealed_samples,
                last.sound_in.total_samples,
                0.0,
            ),
            sent_bits_per_sec: rate(last.network.bytes_sent),
            received_bits_per_sec: rate(last.network.bytes_received),
            last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_nothing_divides_by_nothing() {
        let summary = Summary::new(Snapshot::default());
        assert_eq!((summary.shown, summary.concealed), (1.0, 0.0));
        assert_eq!(summary.sent_bits_per_sec, 0);
    }
}
