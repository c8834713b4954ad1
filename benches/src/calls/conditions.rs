//! The conditions under which calls are measured, with what must be reached under each, and WebRTC's figures
//! under the same (Chromium, stored: it cannot be installed everywhere).

use std::time::Duration;

use p2p_net_sim::{LinkConfig, Loss};

/// One-way delay of the link.
pub const DELAY: Duration = Duration::from_millis(25);

/// What must be reached; `None` is not asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bars {
    /// Pictures shown, % at least.
    pub shown_percent: Option<f64>,
    /// Median of the pictures' latency, ms at most.
    pub video_median: Option<f64>,
    /// 95th percentile of it.
    pub video_p95: Option<f64>,
    /// Sum of stalls, ms at most.
    pub stall: Option<f64>,
    /// 95th percentile of the sound's latency, ms at most.
    pub audio_p95: Option<f64>,
    /// PESQ at least.
    pub pesq: Option<f64>,
    /// VMAF at least, where it can be measured.
    pub vmaf: Option<f64>,
    /// From the first picture shown to the first of 720 rows, s at most.
    pub full_size_within: Option<f64>,
    /// What we add to half the round trip, 95th percentiles of pictures and of sound, ms at most.
    pub added: Option<(f64, f64)>,
    /// Share of the link that the call keeps beside a download, % at least.
    pub share_percent: Option<f64>,
}

/// What WebRTC reached.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    /// Pictures shown, %.
    pub shown_percent: f64,
    /// Latency of pictures, ms: median and 95th percentile.
    pub video: (f64, f64),
    /// Stalls, ms.
    pub stall: f64,
    /// Latency of sound, ms: median and 95th percentile.
    pub audio: (f64, f64),
    /// Mean PESQ.
    pub pesq: f64,
    /// Mean VMAF.
    pub vmaf: f64,
}

/// A change of the link in the middle of the call.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// When the link gets narrow, after the call began.
    pub down_at: Duration,
    /// When it is wide again.
    pub up_at: Duration,
    /// What it carries meanwhile, bits a second.
    pub rate: u64,
}

/// One condition.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// The link, both directions.
    pub link: LinkConfig,
    /// What changes on the way.
    pub step: Option<Step>,
    /// From when a TCP download with CUBIC goes through the link, in the direction that is measured, after the
    /// call began.
    pub rival_from: Option<Duration>,
    /// What must be reached.
    pub bars: Bars,
    /// What WebRTC reached, where it was measured.
    pub anchor: Option<Anchor>,
}

/// Points of VMAF that H.264 may lose against WebRTC's VP8 on narrow links.
const VMAF_LOSS: f64 = 5.0;

/// All of them, in the order of the table.
pub fn all() -> Vec<Condition> {
    let clean = LinkConfig::delay(DELAY);
    let lossy = |share| clean.with_loss(Loss::Random(share));
    let mut all = vec![
        plain("clean", clean, clean_bars(), clean_anchor()),
        plain(
            "2 % loss",
            lossy(0.02),
            loss_bars(3.8),
            anchor(100.0, (93.0, 101.0), 0.0, (78.0, 84.0), 3.45, 99.1),
        ),
        plain(
            "5 % loss",
            lossy(0.05),
            loss_bars(3.6),
            anchor(100.0, (84.0, 92.0), 0.0, (77.0, 86.0), 3.15, 99.0),
        ),
        plain(
            "10 % loss",
            lossy(0.10),
            loss_bars(3.2),
            anchor(100.0, (84.0, 94.0), 0.0, (77.0, 106.0), 2.60, 94.0),
        ),
        plain(
            "20 % loss",
            lossy(0.20),
            Bars {
                shown_percent: Some(95.0),
                stall: Some(1_000.0),
                video_p95: Some(250.0),
                pesq: Some(2.6),
                ..Bars::default()
            },
            anchor(74.0, (150.0, 2_608.0), 10_975.0, (150.0, 234.0), 1.62, 29.9),
        ),
        plain(
            "5 % loss in bursts of 5",
            clean.with_loss(Loss::bursts(0.05, 5.0)),
            Bars {
                stall: Some(200.0),
                pesq: Some(3.3),
                ..Bars::default()
            },
            anchor(100.0, (94.0, 105.0), 380.0, (80.0, 98.0), 2.91, 99.2),
        ),
    ];
    all.extend(narrow_ones(clean));
    all
}

/// Those whose link is narrow, always or for a while, or shared.
fn narrow_ones(clean: LinkConfig) -> [Condition; 4] {
    let narrow = |rate: u64, queue_bytes: usize| LinkConfig {
        queue_bytes,
        ..clean.with_rate(rate)
    };
    let one = anchor(100.0, (79.0, 105.0), 0.0, (235.0, 235.0), 3.73, 94.9);
    let third = anchor(100.0, (165.0, 192.0), 0.0, (181.0, 190.0), 3.92, 70.7);
    let step = anchor(92.0, (221.0, 1_272.0), 7_677.0, (467.0, 639.0), 2.78, 88.6);
    let wide = narrow(3_000_000, 75_000);
    [
        plain(
            "1 Mbit/s",
            narrow(1_000_000, 37_500),
            narrow_bars(&one),
            one,
        ),
        plain(
            "300 kbit/s",
            narrow(300_000, 11_250),
            narrow_bars(&third),
            third,
        ),
        Condition {
            step: Some(Step {
                down_at: Duration::from_secs(20),
                up_at: Duration::from_secs(40),
                rate: 600_000,
            }),
            ..plain(
                "3 → 0.6 → 3 Mbit/s",
                wide,
                Bars {
                    stall: Some(1_500.0),
                    audio_p95: Some(200.0),
                    ..narrow_bars(&step)
                },
                step,
            )
        },
        Condition {
            name: "beside CUBIC on 3 Mbit/s",
            link: wide,
            step: None,
            rival_from: Some(Duration::from_secs(20)),
            bars: Bars {
                audio_p95: Some(250.0),
                share_percent: Some(40.0),
                ..Bars::default()
            },
            anchor: None,
        },
    ]
}

fn plain(name: &'static str, link: LinkConfig, bars: Bars, anchor: Anchor) -> Condition {
    Condition {
        name,
        link,
        step: None,
        rival_from: None,
        bars,
        anchor: Some(anchor),
    }
}

fn clean_bars() -> Bars {
    Bars {
        video_median: Some(60.0),
        video_p95: Some(75.0),
        audio_p95: Some(65.0),
        pesq: Some(4.0),
        full_size_within: Some(2.0),
        added: Some((50.0, 45.0)),
        ..Bars::default()
    }
}

const fn clean_anchor() -> Anchor {
    anchor(100.0, (64.0, 73.0), 0.0, (69.0, 69.0), 3.99, 98.9)
}

fn loss_bars(pesq: f64) -> Bars {
    Bars {
        video_p95: Some(110.0),
        stall: Some(0.0),
        audio_p95: Some(100.0),
        pesq: Some(pesq),
        ..Bars::default()
    }
}

/// On a narrow link: sound within 120 ms, pictures no worse than WebRTC's in any column.
fn narrow_bars(anchor: &Anchor) -> Bars {
    Bars {
        shown_percent: Some(anchor.shown_percent),
        video_median: Some(anchor.video.0),
        video_p95: Some(anchor.video.1),
        stall: Some(anchor.stall),
        audio_p95: Some(120.0),
        vmaf: Some(anchor.vmaf - VMAF_LOSS),
        ..Bars::default()
    }
}

const fn anchor(
    shown_percent: f64,
    video: (f64, f64),
    stall: f64,
    audio: (f64, f64),
    pesq: f64,
    vmaf: f64,
) -> Anchor {
    Anchor {
        shown_percent,
        video,
        stall,
        audio,
        pesq,
        vmaf,
    }
}
