//! `landline loopback`: picture and sound through encoder, an emulated link and decoder back to oneself, in
//! this process alone. Needs no relay and no data folder.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::pipeline::Pipeline;
use media::{Budget, OtherTraffic, PathState, Transport, TransportError};
use p2p_net_sim::{Link, LinkConfig, Loss};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::figures;
use super::keys::{Keys, Typed};
use super::out::Out;
use super::phone::until;
use super::terminal::remark;
use crate::args::LoopbackArgs;
use crate::interrupt::interrupted;
use crate::settings::Settings;
use crate::{Exit, Problem};

/// The largest datagram of the emulated path, bytes: that of a relayed one.
const MAX_DATAGRAM: usize = 1_162;
/// Datagrams under way at most; further ones are lost.
const MAX_UNDER_WAY: usize = 8_192;

/// A link back to where it came from.
struct Emulated {
    link: Mutex<Link>,
    delay: Duration,
    arrivals: mpsc::Sender<(Instant, Bytes)>,
}

impl Transport for Emulated {
    fn send(&self, datagram: Bytes) -> Result<(), TransportError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(TransportError::TooLarge);
        }
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let fate = link.send(Instant::now(), datagram.len());
        drop(link);
        for at in [fate.arrives, fate.copy_arrives].into_iter().flatten() {
            // What finds no room is lost, as on any link.
            let _ = self.arrivals.try_send((at, datagram.clone()));
        }
        Ok(())
    }

    fn path(&self) -> PathState {
        PathState {
            epoch: 0,
            relayed: false,
            suspect: false,
            max_datagram_bytes: MAX_DATAGRAM,
            round_trip: Some(self.delay),
        }
    }

    fn other_traffic(&self) -> OtherTraffic {
        OtherTraffic::default()
    }

    fn set_budget(&self, _: Budget) {}
}

pub(super) async fn run(
    settings: &Settings,
    out: Out,
    args: LoopbackArgs,
) -> Result<Exit, Problem> {
    let choice = args.media.choice(&settings.call)?;
    let mut config = choice.config()?;
    config.loopback = true;
    let delay = Duration::from_millis(args.delay);
    let link = LinkConfig {
        delay,
        jitter: Duration::from_millis(args.jitter),
        loss: match args.loss {
            loss if loss > 0.0 => Loss::Random(loss / 100.0),
            _ => Loss::None,
        },
        rate_bits_per_sec: args.rate.map(|kilobits| kilobits * 1_000),
        ..LinkConfig::default()
    };
    let (arrivals, arriving) = mpsc::channel(MAX_UNDER_WAY);
    let transport = Arc::new(Emulated {
        link: Mutex::new(Link::new(link, rand::random())),
        delay,
        arrivals,
    });
    let started = tokio::task::spawn_blocking(move || Pipeline::start(config, transport)).await;
    let pipeline = started
        .map_err(|error| Problem::failure(format!("the media died at their start: {error}")))?
        .map_err(|error| Problem::failure(error.to_string()))?;
    if !out.is_json {
        remark(&format!(
            "to oneself over {} ms{}; q ends",
            args.delay,
            args.rate
                .map_or_else(String::new, |rate| format!(" and {rate} kbit/s"))
        ));
    }
    let limit = args.media.for_seconds.map(Duration::from_secs);
    carry(out, &pipeline, arriving, limit).await;
    let summary = tokio::task::spawn_blocking(move || pipeline.stop())
        .await
        .map_err(|error| Problem::failure(format!("the media died at their end: {error}")))?;
    out.json(&serde_json::json!({ "event": "loopback", "summary": summary }));
    for line in figures::summary(&summary) {
        out.text(&line);
    }
    Ok(Exit::Success)
}

/// Carries datagrams until somebody ends it.
async fn carry(
    out: Out,
    pipeline: &Pipeline,
    mut arriving: mpsc::Receiver<(Instant, Bytes)>,
    limit: Option<Duration>,
) {
    let mut under_way: BinaryHeap<Reverse<(Instant, u64, Bytes)>> = BinaryHeap::new();
    let (mut number, mut keys) = (0, Keys::listen());
    let end = limit.map(|limit| tokio::time::Instant::now() + limit);
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = under_way
            .peek()
            .map(|Reverse((at, ..))| tokio::time::Instant::from_std(*at));
        tokio::select! {
            biased;
            () = interrupted() => return,
            () = until(end) => return,
            () = until(due) => {
                if let Some(Reverse((_, _, datagram))) = under_way.pop() {
                    pipeline.on_datagram(datagram);
                }
            }
            Some((at, datagram)) = arriving.recv() => {
                number += 1;
                if under_way.len() < MAX_UNDER_WAY {
                    under_way.push(Reverse((at, number, datagram)));
                }
            }
            typed = keys.next() => if matches!(typed, Typed::Key('q')) {
                return;
            },
            _ = seconds.tick() => {
                let stats = pipeline.stats();
                out.json(&serde_json::json!({ "event": "loopback", "stats": stats }));
                if let (false, Some(video)) = (out.is_json, stats.video_in.first()) {
                    out.text(&format!(
                        "{:>4} s  {}x{}@{:.0}  {:.0} ms  estimate {:.2} Mbit/s  loss {:.1} %  freezes {}",
                        stats.elapsed_millis / 1_000,
                        video.frame_width,
                        video.frame_height,
                        video.frames_per_second,
                        video.latency.p50,
                        stats.network.estimate_bits_per_sec as f64 / 1e6,
                        stats.network.loss * 100.0,
                        video.freeze_count,
                    ));
                }
            }
        }
    }
}
