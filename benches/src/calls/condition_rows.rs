//! The rows of a call under one of the conditions.

use std::time::Duration;

use super::conditions::{Condition, DELAY, Step};
use super::quality::Quality;
use super::{Call, SAMPLE, Timing, picture, voice};
use crate::emulator::Passed;
use crate::report::{Bar, Row};

/// Rows of the smallest picture that counts as 720p.
const FULL_HEIGHT: u32 = 720;

/// Makes the rows of one condition.
pub(super) struct Judge<'a> {
    pub(super) condition: &'a Condition,
    pub(super) call: &'a Call,
    /// When the caller's first picture was handed over, µs.
    first: u64,
}

impl<'a> Judge<'a> {
    /// All rows.
    pub(super) fn rows(condition: &'a Condition, call: &'a Call) -> Vec<Row> {
        let Some(first) = call.sent.first().map(|moment| moment.micros) else {
            let why = "no picture was sent";
            return vec![Row::failed(condition.name, Bar::Holds, "", why)];
        };
        let judge = Self {
            condition,
            call,
            first,
        };
        let (from, until) = judge.window();
        let mut rows = judge.pictures(from, until);
        rows.extend(judge.sound(from, until));
        rows.extend(judge.quality());
        rows.extend(judge.full_size());
        rows.extend(judge.sent());
        rows.extend(judge.share());
        if let Some(step) = condition.step {
            rows.extend(judge.step(&step));
        }
        rows
    }

    /// The stretch that is measured, µs.
    pub(super) fn window(&self) -> (u64, u64) {
        window(&self.call.timing, self.first)
    }

    fn name(&self, what: &str) -> String {
        format!("{}: {what}", self.condition.name)
    }

    fn anchor(&self, of: impl Fn(&super::conditions::Anchor) -> String) -> String {
        let anchor = self.condition.anchor.as_ref();
        anchor.map_or_else(
            || "WebRTC was not measured".to_owned(),
            |anchor| format!("WebRTC {}", of(anchor)),
        )
    }

    fn pictures(&self, from: u64, until: u64) -> Vec<Row> {
        let bars = &self.condition.bars;
        let judged = picture::judge(&self.call.sent, &self.call.shown, from, until);
        let Some(pictures) = judged else {
            return vec![Row::failed(
                self.name("pictures"),
                Bar::Holds,
                "",
                "none was sent",
            )];
        };
        let (p50, p95) = pictures.latency_millis;
        let row = |what: &str, bar, measured, unit, beside| {
            Row::new(self.name(what), bar, measured, unit, beside)
        };
        let mut rows = vec![
            row(
                "pictures shown",
                at_least(bars.shown_percent),
                pictures.shown_percent,
                "%",
                self.anchor(|anchor| anchor.shown_percent.to_string()),
            ),
            row(
                "video latency p50",
                at_most(bars.video_median),
                p50,
                "ms",
                self.anchor(|anchor| anchor.video.0.to_string()),
            ),
            row(
                "video latency p95",
                at_most(bars.video_p95),
                p95,
                "ms",
                self.anchor(|anchor| anchor.video.1.to_string()),
            ),
            row(
                "stall",
                at_most(bars.stall),
                pictures.stall_millis,
                "ms",
                self.anchor(|anchor| anchor.stall.to_string()),
            ),
        ];
        rows.extend(bars.added.map(|(bar, _)| self.added("video", bar, p95)));
        rows
    }

    fn sound(&self, from: u64, until: u64) -> Vec<Row> {
        let bars = &self.condition.bars;
        let Some(voice) = voice::judge(&self.call.said, &self.call.heard, from, until) else {
            return vec![Row::failed(
                self.name("sound"),
                Bar::Holds,
                "",
                "nothing was heard",
            )];
        };
        let (p50, p95) = voice.latency_millis;
        let told = voice.told_percent;
        let anchor = self.anchor(|anchor| format!("{} / {}", anchor.audio.0, anchor.audio.1));
        let timing = &self.call.timing;
        let [ramp, end] = [timing.ramp, timing.ramp + timing.measured]
            .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let buffered = self.call.numbers[1].buffered(ramp, end);
        let buffered = buffered.map_or_else(String::new, |(waited, wanted)| {
            format!("buffered {waited:.0} of {wanted:.0} ms wanted, ")
        });
        let mut rows = vec![
            Row::new(
                self.name("audio latency p95"),
                at_most(bars.audio_p95),
                p95,
                "ms",
                format!("p50 {p50:.0}, {buffered}told in {told:.0} % of the windows; {anchor}"),
            ),
            Row::new(
                self.name("PESQ"),
                at_least(bars.pesq),
                voice.pesq,
                "MOS",
                self.anchor(|anchor| anchor.pesq.to_string()),
            ),
        ];
        rows.extend(bars.added.map(|(_, bar)| self.added("audio", bar, p95)));
        rows
    }

    /// What we add to half the round trip.
    fn added(&self, what: &str, bar: f64, p95: f64) -> Row {
        let half = DELAY.as_secs_f64() * 1e3;
        Row::new(
            self.name(&format!("added {what} latency p95")),
            Bar::AtMost(bar),
            p95 - half,
            "ms",
            format!("beyond half the round trip of {half:.0} ms, from files"),
        )
    }

    fn quality(&self) -> Vec<Row> {
        let quality = match &self.call.quality {
            Ok(Some(quality)) => quality,
            Ok(None) => {
                let why = "no picture was kept in the stretch that is measured";
                return vec![Row::failed(self.name("PSNR"), Bar::Shown, "dB", why)];
            }
            Err(why) => {
                let why = format!("{why:#}");
                return vec![Row::failed(self.name("PSNR"), Bar::Shown, "dB", why)];
            }
        };
        let Quality {
            pictures,
            psnr,
            ssim,
            vmaf,
        } = *quality;
        let of = format!("luma of {pictures} pictures, without the stamp");
        let anchor = self.anchor(|anchor| anchor.vmaf.to_string());
        let vmaf = match vmaf {
            Some(vmaf) => Row::new(
                self.name("VMAF"),
                at_least(self.condition.bars.vmaf),
                vmaf,
                "",
                format!("{pictures} pictures; {anchor}"),
            ),
            None => Row::new(
                self.name("VMAF"),
                Bar::Shown,
                0.0,
                "",
                format!(
                    "not found: an ffmpeg with libvmaf, as LANDLINE_FFMPEG or in the path; {anchor}"
                ),
            ),
        };
        vec![
            vmaf,
            Row::new(self.name("PSNR"), Bar::Shown, psnr, "dB", of.clone()),
            Row::new(self.name("SSIM"), Bar::Shown, ssim, "", of),
        ]
    }

    /// From the first picture to the first of full size.
    fn full_size(&self) -> Option<Row> {
        let bar = Bar::AtMost(self.condition.bars.full_size_within?);
        let name = self.name("720p after the first picture");
        let shown = self.call.shown.first().map(|moment| moment.micros);
        let full = self
            .call
            .sizes
            .iter()
            .find(|size| size.number >= FULL_HEIGHT);
        let (Some(shown), Some(full)) = (shown, full) else {
            return Some(Row::failed(name, bar, "s", "never in this call"));
        };
        let seconds = full.micros.saturating_sub(shown) as f64 / 1e6;
        Some(Row::new(
            name,
            bar,
            seconds,
            "s",
            "WebRTC 24 s after its start",
        ))
    }

    /// What was sent for that.
    fn sent(&self) -> Vec<Row> {
        let Timing { ramp, measured } = self.call.timing;
        let millis = |at: Duration| at.as_millis() as u64;
        let sent = self.call.numbers[0].sent(millis(ramp), millis(ramp + measured));
        let Some(sent) = sent else {
            let why = "the call told no numbers";
            return vec![Row::failed(self.name("sent"), Bar::Shown, "kbit/s", why)];
        };
        let link = self
            .call
            .flow
            .kbit_per_sec(ramp, ramp + measured, |passed| passed.bytes);
        vec![
            Row::new(
                self.name("sent: video with repair"),
                Bar::Shown,
                sent.video,
                "kbit/s",
                format!(
                    "all headers included; resends {:.0}, parity {:.0}, probes beside it {:.0}; on the link {:.0}",
                    sent.resent,
                    sent.parity,
                    sent.probes,
                    link.unwrap_or(0.0)
                ),
            ),
            Row::new(
                self.name("sent: audio with copies"),
                Bar::Shown,
                sent.audio,
                "kbit/s",
                format!(
                    "all headers included; payload asked for {:.0}, {:.0} packets/s, {:.2} copies each",
                    sent.audio_payload, sent.sounds, sent.copies
                ),
            ),
        ]
    }

    /// The call's share of a link that a download uses as well.
    fn share(&self) -> Option<Row> {
        let bar = Bar::AtLeast(self.condition.bars.share_percent?);
        let name = self.name("share of the link");
        let capacity = self.condition.link.rate_bits_per_sec? as f64 / 1e3;
        let Timing { ramp, measured } = self.call.timing;
        let rate = |of: fn(&Passed) -> u64| self.call.flow.kbit_per_sec(ramp, ramp + measured, of);
        let (Some(ours), Some(theirs)) = (
            rate(|passed| passed.udp_bytes),
            rate(|passed| passed.tcp_bytes),
        ) else {
            return Some(Row::failed(name, bar, "%", "the call was too short"));
        };
        if theirs < 1.0 {
            return Some(Row::failed(name, bar, "%", "there was no download"));
        }
        Some(Row::new(
            name,
            bar,
            100.0 * ours / capacity,
            "%",
            format!(
                "{ours:.0} kbit/s of UDP, {theirs:.0} of TCP ({:.0} %) by the kernel's CUBIC",
                100.0 * theirs / capacity
            ),
        ))
    }

    /// How the call took the link's fall and its return.
    fn step(&self, step: &Step) -> [Row; 2] {
        let Call {
            sent, shown, flow, ..
        } = self.call;
        let down = self.first + step.down_at.as_micros() as u64;
        let back = picture::recovered_after(sent, shown, down, 200.0);
        let ten = Duration::from_secs(10);
        let before = flow.kbit_per_sec(step.down_at - ten, step.down_at, |passed| passed.bytes);
        let second = Duration::from_secs(1);
        let returned = before.and_then(|before| {
            (0..240).map(|n| step.up_at + n * SAMPLE / 2).find(|at| {
                let rate = flow.kbit_per_sec(*at, *at + second, |passed| passed.bytes);
                rate.is_some_and(|rate| rate >= 0.9 * before)
            })
        });
        let row = |what: &str, bar: f64, seconds: Option<f64>, beside: String| match seconds {
            Some(seconds) => Row::new(self.name(what), Bar::AtMost(bar), seconds, "s", beside),
            None => Row::failed(self.name(what), Bar::AtMost(bar), "s", "never in this call"),
        };
        [
            row(
                "latency under 200 ms again after the drop",
                2.0,
                back,
                "for a second on end".to_owned(),
            ),
            row(
                "90 % of the old rate after the return",
                8.0,
                returned.map(|at| (at - step.up_at).as_secs_f64()),
                format!("{:.0} kbit/s before the drop", before.unwrap_or(0.0)),
            ),
        ]
    }
}

/// The stretch that is measured, µs, of a call whose first picture came at `first`.
pub(super) fn window(timing: &Timing, first: u64) -> (u64, u64) {
    let micros = |at: Duration| first + at.as_micros() as u64;
    let end = timing.ramp + timing.measured - Duration::from_secs(1);
    (micros(timing.ramp), micros(end))
}

fn at_most(bar: Option<f64>) -> Bar {
    bar.map_or(Bar::Shown, Bar::AtMost)
}

fn at_least(bar: Option<f64>) -> Bar {
    bar.map_or(Bar::Shown, Bar::AtLeast)
}
