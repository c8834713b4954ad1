//! A call in words and numbers: the status line while it runs, all numbers on demand, and the summary at its
//! end. Pure.

use console::measure_text_width;
use media::pipeline::Levels;
use media::stats::{Snapshot, Summary, VideoIn, VideoOut};

use crate::wire::Sources;

/// Steps of a level meter.
const METER: usize = 5;
/// What the meter shows, dBFS: quiet speech to full scale.
const METER_RANGE: (f32, f32) = (-55.0, -5.0);

/// What the status line tells of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    /// How the other side is called.
    pub(super) label: &'a str,
    /// Since the call began, seconds.
    pub(super) seconds: u64,
    /// What we send.
    pub(super) ours: Sources,
    /// What the other side sends.
    pub(super) theirs: Sources,
    /// How loud both are.
    pub(super) levels: Option<Levels>,
    /// For so long nothing has come, seconds.
    pub(super) silent_seconds: Option<u64>,
    /// The newest numbers.
    pub(super) stats: Option<&'a Snapshot>,
    /// Bits a second of the last second, out and in.
    pub(super) rates: Rates,
}

/// Bits a second of the last second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Rates {
    /// Between two snapshots; since the beginning without an earlier one.
    pub(super) fn between(before: Option<&Snapshot>, now: &Snapshot) -> Self {
        let at = before.map_or(0, |before| before.elapsed_millis);
        let millis = now.elapsed_millis.saturating_sub(at).max(1) as f64;
        let rate = |of: fn(&Snapshot) -> u64| {
            of(now).saturating_sub(before.map_or(0, of)) as f64 * 8_000.0 / millis
        };
        Self {
            up: rate(|snapshot| snapshot.network.bytes_sent),
            down: rate(|snapshot| snapshot.network.bytes_received),
        }
    }
}

/// The status line, as much of it as `width` columns hold: what matters least is left out first.
pub(super) fn status(scene: &Scene, width: usize) -> String {
    let mut parts = parts(scene);
    let length = |parts: &[(u8, String)]| {
        let texts: usize = parts.iter().map(|(_, text)| measure_text_width(text)).sum();
        texts + 2 * parts.len().saturating_sub(1)
    };
    while length(&parts) > width {
        let Some(least) = parts.iter().map(|(rank, _)| *rank).max().filter(|r| *r > 0) else {
            break;
        };
        parts.retain(|(rank, _)| *rank != least);
    }
    let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
    texts.join("  ")
}

/// What could be shown, in its order, each with its rank: the higher, the sooner it is left out.
fn parts(scene: &Scene) -> Vec<(u8, String)> {
    let clock = format!("{:02}:{:02}", scene.seconds / 60, scene.seconds % 60);
    let mut parts = vec![(0, clock)];
    if let Some(seconds) = scene.silent_seconds {
        parts.push((0, format!("reconnecting for {seconds} s …")));
    }
    if let Some(what) = ours(&scene.ours) {
        parts.push((1, what));
    }
    match theirs(&scene.theirs) {
        Some(what) => parts.push((2, format!("{}: {what}", scene.label))),
        None => parts.push((5, scene.label.to_owned())),
    }
    if let Some(levels) = &scene.levels {
        let text = format!(
            "you {} they {}",
            meter(levels.ours_dbfs),
            meter(levels.theirs_dbfs)
        );
        parts.push((6, text));
    }
    if let Some(stats) = scene.stats {
        let network = &stats.network;
        let way = if network.relayed { "relay" } else { "direct" };
        parts.push((3, format!("{way} {:.0} ms", network.round_trip_millis)));
        let mbit = |rate: f64| rate / 1e6;
        let pictures =
            shown(stats).map_or_else(String::new, |video| format!(" {}", size_in(video)));
        parts.push((
            4,
            format!("↓{pictures} {:.2} Mbit/s", mbit(scene.rates.down)),
        ));
        let pictures =
            sent(stats).map_or_else(String::new, |video| format!(" {}", size_out(video)));
        parts.push((7, format!("↑{pictures} {:.2} Mbit/s", mbit(scene.rates.up))));
        parts.push((8, format!("loss {:.1} %", network.loss * 100.0)));
        let freezes: u64 = stats.video_in.iter().map(|video| video.freeze_count).sum();
        if freezes > 0 {
            parts.push((9, format!("freezes {freezes}")));
        }
    }
    parts.push((10, "? help".to_owned()));
    parts
}

/// What we have off, if anything.
fn ours(sources: &Sources) -> Option<String> {
    let mut what = Vec::new();
    if sources.held {
        what.push("ON HOLD");
    }
    if sources.muted {
        what.push("MUTED");
    }
    if sources.screen {
        what.push("sharing a screen");
    }
    (!what.is_empty()).then(|| what.join(", "))
}

/// What the other side has off, if anything.
fn theirs(sources: &Sources) -> Option<String> {
    let mut what = Vec::new();
    if sources.held {
        what.push("holds");
    }
    if !sources.audio {
        what.push("no sound");
    } else if sources.muted {
        what.push("muted");
    }
    match (sources.camera, sources.screen) {
        (false, false) => what.push("no picture"),
        (false, true) => what.push("screen only"),
        (true, true) => what.push("camera and screen"),
        (true, false) => {}
    }
    (!what.is_empty()).then(|| what.join(", "))
}

/// A level as marks.
fn meter(dbfs: f32) -> String {
    let (low, high) = METER_RANGE;
    let share = ((dbfs - low) / (high - low)).clamp(0.0, 1.0);
    // What is heard at all shows one mark.
    let marks = (share * METER as f32).ceil() as usize;
    let marks = marks.min(METER);
    format!("{}{}", "|".repeat(marks), ".".repeat(METER - marks))
}

/// The stream that comes: a screen, while there is one, is what people look at.
fn shown(stats: &Snapshot) -> Option<&VideoIn> {
    let alive = stats.video_in.iter().rev();
    alive
        .clone()
        .find(|video| video.frames_per_second > 0.0)
        .or_else(|| stats.video_in.first())
}

fn sent(stats: &Snapshot) -> Option<&VideoOut> {
    let alive = stats.video_out.iter().rev();
    alive
        .clone()
        .find(|video| video.frames_per_second > 0.0)
        .or_else(|| stats.video_out.first())
}

fn size_in(video: &VideoIn) -> String {
    if video.frames_per_second == 0.0 {
        return "no picture".to_owned();
    }
    format!(
        "{}x{}@{:.0} {:.0} ms",
        video.frame_width, video.frame_height, video.frames_per_second, video.latency.p50
    )
}

fn size_out(video: &VideoOut) -> String {
    if video.frames_per_second == 0.0 {
        return "no picture".to_owned();
    }
    format!(
        "{}x{}@{:.0}",
        video.frame_width, video.frame_height, video.frames_per_second
    )
}

/// A second of a call in one line, for `--stats`.
pub(super) fn second(stats: &Snapshot, rates: Rates) -> String {
    let network = &stats.network;
    let seconds = stats.elapsed_millis / 1_000;
    let freezes: u64 = stats.video_in.iter().map(|video| video.freeze_count).sum();
    let shown = shown(stats).map_or_else(String::new, |video| format!(" {}", size_in(video)));
    let sent = sent(stats).map_or_else(String::new, |video| format!(" {}", size_out(video)));
    format!(
        "{:02}:{:02}  {} {:.0} ms  ↑ {:.2} Mbit/s{sent}  ↓ {:.2} Mbit/s{shown}  loss {:.1} %  \
         estimate {:.2} Mbit/s  freezes {freezes}",
        seconds / 60,
        seconds % 60,
        if network.relayed { "relay" } else { "direct" },
        network.round_trip_millis,
        rates.up / 1e6,
        rates.down / 1e6,
        network.loss * 100.0,
        network.estimate_bits_per_sec as f64 / 1e6,
    )
}

/// All numbers at one moment, some lines.
pub(super) fn all(stats: &Snapshot, rates: Rates) -> Vec<String> {
    let mut lines = vec![second(stats, rates)];
    lines.extend(network(stats));
    lines.extend(stats.video_in.iter().map(pictures_in));
    lines.extend(stats.video_out.iter().map(pictures_out));
    lines.extend(sound(stats));
    let queues = stats.stages.iter().map(|stage| {
        format!(
            "{} {} waiting, {:.1} ms, {} dropped",
            stage.name, stage.queue, stage.time.p50, stage.dropped
        )
    });
    let queues: Vec<String> = queues.collect();
    lines.extend(
        queues
            .chunks(3)
            .map(|some| format!("  stages   {}", some.join(" · "))),
    );
    lines
}

fn network(stats: &Snapshot) -> Vec<String> {
    let network = &stats.network;
    let mean = |sum: f64, count: u64| if count == 0 { 0.0 } else { sum / count as f64 };
    vec![
        format!(
            "  path     {}, {} switches, round trip {:.0} ms (least {:.0}, mean {:.0}), jitter {:.1} ms out {:.1} in",
            if network.relayed { "relay" } else { "direct" },
            network.path_epoch,
            network.round_trip_millis,
            network.min_round_trip_millis,
            1e3 * mean(
                network.total_round_trip_time,
                network.round_trip_time_measurements
            ),
            network.jitter_out_millis,
            network.jitter_in_millis,
        ),
        format!(
            "  rate     estimate {:.2} Mbit/s ({}), arrives {:.2}, queue {:.0} ms, {} probes ({} taken), {} decreases",
            network.estimate_bits_per_sec as f64 / 1e6,
            network.mode,
            network.acknowledged_bits_per_sec as f64 / 1e6,
            network.queue_millis,
            network.probes_sent,
            network.probes_taken,
            network.decreases,
        ),
        format!(
            "  loss     out {} of {} packets, in {} ({:.2} %); resent {}, parity {}",
            network.packets_lost,
            network.packets_sent,
            network.packets_missing,
            network.loss_in * 100.0,
            network.resent_packets,
            network.parity_packets,
        ),
    ]
}

fn pictures_in(video: &VideoIn) -> String {
    let kind = if video.latency_measured {
        "measured"
    } else {
        "estimated"
    };
    format!(
        "  {:<8} {} shown of {} seen, {} restored, {} resent, {} lost ({:.2} %); {} freezes, {:.1} s; \
         {:.0} ms (p95 {:.0}, {kind}); decode {:.1} ms; QP {:.0}",
        stream(video.stream, "in"),
        video.frames_shown,
        video.frames_seen,
        video.frames_restored,
        video.frames_resent,
        video.frames_dropped,
        video.loss_after_repair * 100.0,
        video.freeze_count,
        video.total_freezes_millis as f64 / 1e3,
        video.latency.p50,
        video.latency.p95,
        video.decode.p50,
        video.qp_sum as f64 / video.frames_decoded.max(1) as f64,
    )
}

fn pictures_out(video: &VideoOut) -> String {
    let limits = &video.quality_limitation_durations;
    format!(
        "  {:<8} {} encoded ({} keys) of {} captured; encode {:.1} ms; QP {:.0}; limited {:.0} s by the path, {:.0} s by a processor",
        stream(video.stream, "out"),
        video.frames_encoded,
        video.key_frames_encoded,
        video.frames_captured,
        video.encode.p50,
        video.qp_sum as f64 / video.frames_encoded.max(1) as f64,
        limits.bandwidth as f64 / 1e3,
        limits.cpu as f64 / 1e3,
    )
}

fn stream(id: u8, way: &str) -> String {
    let name = if id == media::SCREEN.0 {
        "screen"
    } else {
        "camera"
    };
    format!("{name} {way}")
}

fn sound(stats: &Snapshot) -> Vec<String> {
    let sound = &stats.sound_in;
    let share = |part: u64| 100.0 * part as f64 / sound.total_samples.max(1) as f64;
    let mean = |sum: f64| 1e3 * sum / sound.jitter_buffer_emitted_count.max(1) as f64;
    vec![
        format!(
            "  sound in {} packets, {} repaired, {} lost ({:.2} %); {:.2} % made up ({} times), {:.2} % stretched",
            sound.packets_received,
            sound.packets_repaired,
            sound.packets_lost,
            sound.loss_after_repair * 100.0,
            share(sound.concealed_samples),
            sound.concealment_events,
            share(sound.inserted_samples_for_deceleration + sound.removed_samples_for_acceleration),
        ),
        format!(
            "           buffer {:.0} ms (mean {:.0}, target {:.0}); {:.0} ms to the ear (p95 {:.0}); {:+.0} ms beside the picture",
            sound.buffer_millis,
            mean(sound.jitter_buffer_delay),
            sound.target_millis,
            sound.latency.p50,
            sound.latency.p95,
            sound.av_skew_millis,
        ),
    ]
}

/// The end of a call in numbers, some lines.
pub(super) fn summary(summary: &Summary) -> Vec<String> {
    let stats = &summary.last;
    let mut lines = vec![summary_text(summary)];
    lines.extend(network(stats));
    let came = |video: &&VideoIn| video.frames_seen > 0;
    lines.extend(stats.video_in.iter().filter(came).map(pictures_in));
    let went = |video: &&VideoOut| video.frames_encoded > 0;
    lines.extend(stats.video_out.iter().filter(went).map(pictures_out));
    if stats.sound_in.packets_received > 0 {
        lines.extend(sound(stats));
    }
    lines
}

/// The end of a call in one line.
pub(crate) fn summary_text(summary: &Summary) -> String {
    let video = summary.last.video_in.first();
    let pictures = video.map_or_else(
        || "no pictures".to_owned(),
        |video| {
            format!(
                "{} pictures ({:.1} %), {:.0} ms (p95 {:.0}), {} freezes",
                video.frames_shown,
                summary.shown * 100.0,
                video.latency.p50,
                video.latency.p95,
                video.freeze_count,
            )
        },
    );
    format!(
        "  {pictures}; sound {:.2} % made up; {:.2} Mbit/s",
        summary.concealed * 100.0,
        summary.received_bits_per_sec as f64 / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use media::stats::Network;

    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            elapsed_millis: 2_000,
            network: Network {
                relayed: true,
                round_trip_millis: 51.4,
                loss: 0.0213,
                bytes_sent: 250_000,
                bytes_received: 500_000,
                ..Network::default()
            },
            video_in: vec![VideoIn {
                frame_width: 1_280,
                frame_height: 720,
                frames_per_second: 30.0,
                freeze_count: 2,
                ..VideoIn::default()
            }],
            ..Snapshot::default()
        }
    }

    fn both() -> Sources {
        Sources {
            audio: true,
            camera: true,
            ..Sources::default()
        }
    }

    #[test]
    fn a_narrow_line_keeps_what_matters() {
        let stats = snapshot();
        let scene = Scene {
            label: "Bob",
            seconds: 75,
            ours: Sources {
                muted: true,
                ..both()
            },
            theirs: Sources {
                muted: true,
                camera: false,
                ..both()
            },
            levels: Some(Levels {
                ours_dbfs: -100.0,
                speaks: false,
                theirs_dbfs: -30.0,
            }),
            silent_seconds: None,
            stats: Some(&stats),
            rates: Rates::between(None, &stats),
        };
        let wide = status(&scene, 200);
        for part in [
            "01:15",
            "MUTED",
            "Bob: muted, no picture",
            "you ..... they |||..",
            "relay 51 ms",
            "↓ 1280x720@30 0 ms 2.00 Mbit/s",
            "↑ 1.00 Mbit/s",
            "loss 2.1 %",
            "freezes 2",
            "? help",
        ] {
            assert!(wide.contains(part), "{part}: {wide}");
        }
        for width in 0..200 {
            let text = status(&scene, width);
            assert!(
                measure_text_width(&text) <= width || text == "01:15",
                "{width}: {text}"
            );
        }
        assert_eq!(status(&scene, 40), "01:15  MUTED  Bob: muted, no picture");
        assert_eq!(status(&scene, 14), "01:15  MUTED");
    }

    #[test]
    fn the_end_tells_of_what_was_and_of_nothing_else() {
        let nothing = summary(&Summary::new(Snapshot::default()));
        assert_eq!(nothing.len(), 4, "{nothing:?}");
        let mut stats = snapshot();
        stats.video_in[0].frames_seen = 60;
        stats.video_in[0].latency_measured = true;
        stats.sound_in.packets_received = 9;
        let lines = summary(&Summary::new(stats)).join("\n");
        assert!(lines.contains("camera in 0 shown of 60 seen"), "{lines}");
        assert!(lines.contains("measured"), "{lines}");
        assert!(lines.contains("sound in 9 packets"), "{lines}");
        assert!(!lines.contains("NaN"), "{lines}");
        assert!(all(&Snapshot::default(), Rates::default()).len() > 5);
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let before = snapshot();
        let mut now = snapshot();
        now.elapsed_millis += 1_000;
        now.network.bytes_sent += 125_000;
        let rates = Rates::between(Some(&before), &now);
        assert_eq!((rates.up, rates.down), (1e6, 0.0));
    }

    #[test]
    fn a_meter_shows_speech_between_silence_and_full_scale() {
        assert_eq!(meter(-100.0), ".....");
        assert_eq!(meter(f32::NAN), ".....");
        assert_eq!(meter(-54.0), "|....");
        assert_eq!(meter(0.0), "|||||");
    }
}
