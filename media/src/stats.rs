//! What a call measures: counters and gauges by the names of W3C's webrtc-stats where they exist, freezes by
//! its definition, and latencies as percentiles. Pure: times are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

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
    /// What the path carries by our estimate, bits a second.
    pub estimate_bits_per_sec: u64,
    /// What arrives at the other side, bits a second.
    pub acknowledged_bits_per_sec: u64,
    /// The estimator's state.
    pub mode: String,
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
    /// Bytes of resends.
    pub resent_bytes: u64,
    /// Bytes of parity.
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
    /// Packets that only a copy saved.
    pub packets_repaired: u64,
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
    /// Samples that left the buffer.
    pub jitter_buffer_emitted_count: u64,
    /// What waits now, ms.
    pub buffer_millis: f64,
    /// What should wait, ms.
    pub target_millis: f64,
    /// Callbacks of the loudspeaker that found too little.
    pub underruns: u64,
    /// Level of what is played, dBFS.
    pub level_dbfs: f32,
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
    /// Changes of size.
    pub ladder_steps: u64,
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
    /// Of those, restored by parity.
    pub frames_restored: u64,
    /// Frames decoded.
    pub frames_decoded: u64,
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

/// Values that [`Window`] keeps: the newest ones, 20 s of pictures.
const WINDOW_VALUES: usize = 600;

/// The newest values of a quantity, of which percentiles are wanted.
#[derive(Debug, Clone, Default)]
pub struct Window {
    values: VecDeque<f64>,
}

impl Window {
    /// Adds a value; the oldest makes room.
    pub fn add(&mut self, value: f64) {
        if self.values.len() == WINDOW_VALUES {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Adds a length of time, in ms.
    pub fn add_duration(&mut self, value: Duration) {
        self.add(value.as_secs_f64() * 1e3);
    }

    /// What they are like; zeros without any.
    pub fn percentiles(&self) -> Percentiles {
        let mut sorted: Vec<f64> = self.values.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Percentiles {
            p50: quantile(&sorted, 0.50),
            p95: quantile(&sorted, 0.95),
            max: sorted.last().copied().unwrap_or_default(),
        }
    }
}

/// The value below which `share` of the sorted ones lie (nearest rank); 0 without any.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Gaps between shown pictures: how many the mean of webrtc-stats' freeze rule is over.
const FREEZE_MEAN_FRAMES: usize = 30;
/// A gap counts as a freeze if it is longer than the mean gap by this (webrtc-stats, `freezeCount`) …
const FREEZE_MARGIN: Duration = Duration::from_millis(150);
/// … and a gap counts into the stall time if longer than this (our targets' definition).
const STALL_GAP: Duration = Duration::from_millis(200);

/// Finds freezes from the moments at which pictures are shown.
#[derive(Debug, Clone, Default)]
pub struct FreezeMeter {
    last: Option<Instant>,
    gaps: VecDeque<Duration>,
    /// Freezes so far.
    pub count: u64,
    /// Their whole length.
    pub total: Duration,
    /// Sum of the gaps over 200 ms.
    pub stall: Duration,
}

impl FreezeMeter {
    /// A picture was shown. Returns the gap if it was a freeze.
    pub fn on_shown(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.last.replace(now)?);
        let frozen = self.gaps.len() == FREEZE_MEAN_FRAMES && {
            let mean = self.gaps.iter().sum::<Duration>() / FREEZE_MEAN_FRAMES as u32;
            gap >= (3 * mean).max(mean + FREEZE_MARGIN)
        };
        if self.gaps.len() == FREEZE_MEAN_FRAMES {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
        if gap > STALL_GAP {
            self.stall += gap;
        }
        if frozen {
            self.count += 1;
            self.total += gap;
        }
        frozen.then_some(gap)
    }

    /// Pictures pause on purpose (hold, camera off): the gap to the next one does not count.
    pub fn pause(&mut self) {
        self.last = None;
    }

    /// When the last one was shown, unless paused since.
    pub fn last_shown(&self) -> Option<Instant> {
        self.last
    }
}

/// Bytes over the last second.
#[derive(Debug, Clone, Default)]
pub struct RateMeter {
    samples: VecDeque<(Instant, u32)>,
    bytes: u64,
}

impl RateMeter {
    const SPAN: Duration = Duration::from_secs(1);
    /// More samples than this are merged into the newest one.
    const MAX_SAMPLES: usize = 4_096;

    /// Counts bytes.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        self.forget(now);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes += u64::from(bytes);
        let full = self.samples.len() >= Self::MAX_SAMPLES;
        match self.samples.back_mut() {
            Some(last) if full => last.1 = last.1.saturating_add(bytes),
            _ => self.samples.push_back((now, bytes)),
        }
    }

    /// Bits a second.
    pub fn bits_per_sec(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.bytes * 8
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(at, bytes)) = self.samples.front() {
            if now.saturating_duration_since(at) < Self::SPAN {
                break;
            }
            self.bytes = self.bytes.saturating_sub(u64::from(bytes));
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freezes_are_counted_as_the_standard_says() {
        let start = Instant::now();
        let mut meter = FreezeMeter::default();
        let mut now = start;
        for _ in 0..40 {
            now += Duration::from_millis(33);
            assert_eq!(meter.on_shown(now), None);
        }
        // 182 ms is within mean + 150 ms, 190 ms is not (the mean has risen by a few ms).
        now += Duration::from_millis(182);
        assert_eq!(meter.on_shown(now), None);
        now += Duration::from_millis(190);
        assert_eq!(meter.on_shown(now), Some(Duration::from_millis(190)));
        now += Duration::from_millis(210);
        assert!(meter.on_shown(now).is_some());
        assert_eq!((meter.count, meter.stall.as_millis()), (2, 210));
        // A pause is no freeze.
        meter.pause();
        assert_eq!(meter.on_shown(now + Duration::from_secs(9)), None);
        assert_eq!(meter.count, 2);
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.95), 95.0);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let start = Instant::now();
        let mut meter = RateMeter::default();
        for i in 0..200 {
            meter.add(start + Duration::from_millis(10 * i), 1_250);
        }
        assert_eq!(
            meter.bits_per_sec(start + Duration::from_millis(1_990)),
            1_000_000
        );
        assert_eq!(meter.bits_per_sec(start + Duration::from_secs(5)), 0);
    }

    #[test]
    fn a_summary_of_nothing_divides_by_nothing() {
        let summary = Summary::new(Snapshot::default());
        assert_eq!((summary.shown, summary.concealed), (1.0, 0.0));
        assert_eq!(summary.sent_bits_per_sec, 0);
    }
}
