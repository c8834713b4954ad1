//! Whole calls in virtual time, over the conditions of the project's targets. What is asserted is the part of
//! the targets that the network decides; codecs, devices and threads have tests of their own.

#[path = "../rate_model_parts/cubic.rs"]
mod cubic;
mod harness;

use harness::{Change, MILLI, Quality, Scenario, path, run};
use media::call::Event;
use p2p_net_sim::{LinkConfig, Loss};

fn link() -> LinkConfig {
    LinkConfig::delay(25 * MILLI)
}

fn limited(bits_per_sec: u64, queue_bytes: usize) -> LinkConfig {
    LinkConfig {
        queue_bytes,
        ..link().with_rate(bits_per_sec)
    }
}

fn shown(quality: &Quality) -> f64 {
    quality.shown as f64 / quality.captured.max(1) as f64
}

/// The largest latency of the pictures captured from `from` to `to`, seconds.
fn worst(quality: &Quality, from: f64, to: f64) -> f64 {
    let among = quality
        .pictures
        .iter()
        .filter(|(at, _)| *at >= from && *at < to);
    among.map(|(_, latency)| *latency).fold(0.0, f64::max)
}

#[test]
fn a_clean_link() {
    let quality = run(Scenario {
        from_millis: 1_000,
        two_way: true,
        ..Scenario::new("clean", 20, link())
    });
    assert!(shown(&quality) > 0.995);
    assert!(quality.p50 <= 60.0 && quality.p95 <= 75.0);
    assert!(quality.audio_p95 <= 65.0);
    assert_eq!(quality.stall, 0.0);
    assert!(quality.first_720p.is_some_and(|at| at <= 2.0));
}

#[test]
fn random_loss() {
    for (name, loss, p95) in [
        ("2 % loss", 0.02, 110.0),
        ("5 % loss", 0.05, 110.0),
        ("10 % loss", 0.10, 110.0),
    ] {
        let quality = run(Scenario::new(
            name,
            30,
            link().with_loss(Loss::Random(loss)),
        ));
        assert!(shown(&quality) > 0.99);
        assert!(quality.p95 <= p95 && quality.stall == 0.0);
        assert!(quality.audio_p95 <= 100.0);
        assert!(quality.concealed < 0.02);
    }
}

#[test]
fn heavy_random_loss() {
    let quality = run(Scenario::new(
        "20 % loss",
        30,
        link().with_loss(Loss::Random(0.20)),
    ));
    assert!(shown(&quality) >= 0.95);
    assert!(quality.p95 <= 250.0 && quality.stall <= 500.0);
}

#[test]
fn losses_in_bursts() {
    let quality = run(Scenario::new(
        "5 % in bursts of 5",
        30,
        link().with_loss(Loss::bursts(0.05, 5.0)),
    ));
    assert!(shown(&quality) > 0.98);
    assert!(quality.p95 <= 110.0 && quality.stall <= 200.0);
}

#[test]
fn narrow_links() {
    let measured = |name, link| Scenario {
        from_millis: 30_000,
        ..Scenario::new(name, 60, link)
    };
    let quality = run(measured("1 Mbit/s", limited(1_000_000, 37_500)));
    assert!(shown(&quality) > 0.995 && quality.stall == 0.0);
    assert!(quality.audio_p95 <= 120.0 && quality.p95 <= 105.0 && quality.p50 <= 80.0);
    let quality = run(measured("300 kbit/s", limited(300_000, 11_250)));
    assert!(shown(&quality) > 0.995 && quality.stall == 0.0);
    assert!(quality.audio_p95 <= 120.0 && quality.p95 <= 192.0 && quality.p50 <= 165.0);
}

#[test]
fn a_step_down_and_up() {
    let wide = limited(3_000_000, 75_000);
    let quality = run(Scenario {
        changes: vec![
            (20_000, Change::Link(limited(600_000, 75_000))),
            (40_000, Change::Link(wide)),
        ],
        ..Scenario::new("3 to 0.6 to 3 Mbit/s", 60, wide)
    });
    assert!(worst(&quality, 22.0, 39.5) < 200.0);
    assert!(quality.stall <= 1_500.0 && quality.audio_p95 <= 200.0);
    let before = mean(&quality, 15.0, 20.0);
    let after = mean(&quality, 48.0, 52.0);
    assert!(after >= 0.9 * before, "{after} after {before}");
}

#[test]
fn beside_a_download() {
    let quality = run(Scenario {
        rival_from: Some(std::time::Duration::from_secs(20)),
        from_millis: 30_000,
        ..Scenario::new("beside CUBIC", 90, limited(3_000_000, 75_000))
    });
    assert!(quality.share >= 0.4);
    assert!(shown(&quality) > 0.98 && quality.stall <= 1_000.0);
}

fn mean(quality: &Quality, from: f64, to: f64) -> f64 {
    let among: Vec<f64> = quality
        .estimates
        .iter()
        .filter(|(at, _)| *at >= from && *at < to)
        .map(|(_, estimate)| *estimate as f64)
        .collect();
    among.iter().sum::<f64>() / among.len().max(1) as f64
}

#[test]
fn the_relay_and_back() {
    let relay = LinkConfig::delay(40 * MILLI);
    let quality = run(Scenario {
        changes: vec![
            (8_000, Change::Link(relay)),
            (8_050, Change::Path(path(true, 1))),
            (16_000, Change::Link(link())),
            (16_050, Change::Path(path(false, 2))),
        ],
        ..Scenario::new("to the relay and back", 24, link())
    });
    assert!(shown(&quality) > 0.95);
    assert!(quality.stall <= 500.0);
}

#[test]
fn two_seconds_of_nothing() {
    let dead = link().with_loss(Loss::Random(1.0));
    let quality = run(Scenario {
        changes: vec![(8_000, Change::Link(dead)), (10_500, Change::Link(link()))],
        ..Scenario::new("nothing for 2.5 s", 18, link())
    });
    assert!(
        quality
            .events
            .iter()
            .any(|(_, event)| *event == Event::Reconnecting)
    );
    let back = quality
        .events
        .iter()
        .find(|(_, event)| matches!(event, Event::Back(_)));
    let back = back.map_or(99.0, |(at, _)| *at);
    assert!(back <= 10.7, "{back}");
    // A picture within 400 ms of the first packet.
    let first = quality
        .pictures
        .iter()
        .map(|(at, latency)| at + latency / 1e3)
        .find(|at| *at > back);
    assert!(
        first.is_some_and(|at| at <= back + 0.4),
        "{first:?} after {back}"
    );
}

#[test]
fn counters_wrap_and_clocks_differ() {
    let lossy = link().with_loss(Loss::Random(0.03));
    let quality = run(Scenario {
        near_wraps: true,
        two_way: true,
        skew_ppm: 400,
        ..Scenario::new("wraps, 400 ppm", 20, lossy)
    });
    assert!(shown(&quality) > 0.99);
    assert!(quality.stall == 0.0 && quality.p95 <= 110.0);
    assert!(quality.audio_p95 <= 110.0 && quality.concealed < 0.02);
}

#[test]
fn who_only_listens_reports() {
    let quality = run(Scenario {
        mute_far: true,
        ..Scenario::new("a listener", 20, link())
    });
    assert!(shown(&quality) > 0.99 && quality.stall == 0.0);
    let (sent, read) = (
        quality.peer.network.reports_sent,
        quality.snapshot.network.reports_received,
    );
    // Twenty a second at least: the round trip is 50 ms.
    assert!(sent >= 400 && read >= 400, "{sent} sent, {read} read");
    let estimate = mean(&quality, 15.0, 20.0);
    assert!(estimate > 1_500_000.0, "{estimate}");
}

#[test]
fn disorder_and_duplicates() {
    let wild = LinkConfig {
        duplicate: 0.1,
        reorder: 0.1,
        reorder_delay: 15 * MILLI,
        ..link().with_jitter(15 * MILLI)
    };
    let quality = run(Scenario::new("disorder and duplicates", 20, wild));
    assert!(shown(&quality) > 0.98);
    assert!(quality.stall == 0.0 && quality.p95 <= 140.0);
    let estimate = mean(&quality, 15.0, 20.0);
    assert!(estimate > 1_500_000.0, "{estimate}");
}
