//! The media of one call, run by a task: starts the pipeline, feeds it datagrams and wishes, and reports what
//! it tells.

use std::sync::Arc;
use std::time::Duration;

use media::pipeline::{self, Config, Pipeline};
use media::stats::{Snapshot, Summary};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Input;
use super::carrier::Carrier;
use crate::wire::Sources;

/// Wishes that wait for the task.
const MAX_WISHES: usize = 32;
/// How often it is looked whether anything came and how loud it is, and how many looks lie between two reports
/// of all numbers.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS_PER_REPORT: u32 = 5;
/// Events of the pipeline that wait to be told; the pipeline keeps as many, and leaves out later ones.
const MAX_EVENTS: usize = 64;

/// What the engine wants of running media.
pub(super) enum Wish {
    Muted(bool),
    Camera(bool),
    Held(bool),
    Video(media::capture::VideoSpec),
    Screen(media::capture::VideoSpec),
    Audio(media::capture::AudioSpec),
    Speaker(media::playback::AudioSinkSpec),
    PeerCap(u64),
    /// Whether the other side sends its camera and its screen.
    Remote(bool, bool),
    Transfer(bool),
}

impl Wish {
    /// What the other side sends, as it says.
    pub(super) fn remote(theirs: &Sources) -> Self {
        Self::Remote(theirs.camera && !theirs.held, theirs.screen && !theirs.held)
    }

    /// What the other side asks for at most, 1,000 bits a second; 0 stands for no bound.
    pub(super) fn peer_cap(kilobits: u32) -> Self {
        Self::PeerCap(match kilobits {
            0 => u64::MAX,
            kilobits => u64::from(kilobits) * 1_000,
        })
    }
}

/// What the media tell.
pub(super) enum News {
    /// They could not begin.
    Failed(String),
    /// Datagrams came since the last look.
    Heard,
    /// All numbers.
    Stats(Box<Snapshot>),
    /// How loud both sides are.
    Levels(pipeline::Levels),
    /// Something about a device, a picture or a voice.
    Event(pipeline::Event),
    /// They ended.
    Stopped(Option<Box<Summary>>),
}

/// The engine's hold on the task; dropped, it ends the media.
pub(super) struct Media {
    wishes: mpsc::Sender<Wish>,
}

impl Media {
    /// Begins; what happens goes to `inbox` under the call's number.
    pub(super) fn start(
        number: i64,
        config: Config,
        carrier: Arc<Carrier>,
        inbox: mpsc::Sender<Input>,
    ) -> Self {
        let (wishes, wanted) = mpsc::channel(MAX_WISHES);
        let port = Port { number, inbox };
        tokio::spawn(async move {
            let summary = run(&port, config, &carrier, wanted).await;
            carrier.release();
            port.tell(News::Stopped(summary)).await;
        });
        Self { wishes }
    }

    /// Wants something; a task that does not keep up has other sorrows.
    pub(super) fn want(&self, wish: Wish) {
        let _ = self.wishes.try_send(wish);
    }
}

struct Port {
    number: i64,
    inbox: mpsc::Sender<Input>,
}

impl Port {
    async fn tell(&self, news: News) {
        let number = self.number;
        let _ = self.inbox.send(Input::Media { number, news }).await;
    }
}

/// Runs the media until nobody holds them any more.
async fn run(
    port: &Port,
    config: Config,
    carrier: &Arc<Carrier>,
    mut wishes: mpsc::Receiver<Wish>,
) -> Option<Box<Summary>> {
    let transport = Arc::clone(carrier);
    let started = spawn_blocking(move || Pipeline::start(config, transport)).await;
    let mut pipeline = match started {
        Ok(Ok(pipeline)) => pipeline,
        Ok(Err(error)) => {
            port.tell(News::Failed(super::error_chain(&error))).await;
            return None;
        }
        Err(error) => {
            warn!(%error, "the media died at their start");
            port.tell(News::Failed("an internal error".to_owned()))
                .await;
            return None;
        }
    };
    let mut events = forward(&mut pipeline);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut look, mut received) = (0, carrier.received());
    loop {
        tokio::select! {
            datagram = carrier.next_datagram() => pipeline.on_datagram(datagram),
            wish = wishes.recv() => match wish {
                Some(wish) => grant(&pipeline, wish),
                None => break,
            },
            Some(event) = events.recv() => port.tell(News::Event(event)).await,
            _ = looks.tick() => {
                look += 1;
                let now = carrier.received();
                if std::mem::replace(&mut received, now) != now {
                    port.tell(News::Heard).await;
                }
                port.tell(News::Levels(pipeline.levels())).await;
                if look % LOOKS_PER_REPORT == 0 {
                    port.tell(News::Stats(Box::new(pipeline.stats()))).await;
                }
            }
        }
    }
    let summary = spawn_blocking(move || pipeline.stop()).await;
    summary
        .inspect_err(|error| warn!(%error, "the media died at their end"))
        .ok()
        .map(Box::new)
}

/// Brings the pipeline's events, which a thread must wait for, into this world.
fn forward(pipeline: &mut Pipeline) -> mpsc::Receiver<pipeline::Event> {
    let (tell, told) = mpsc::channel(MAX_EVENTS);
    let Some(events) = pipeline.events() else {
        return told;
    };
    let spawned = std::thread::Builder::new()
        .name("call-events".to_owned())
        .spawn(move || {
            for event in events {
                if tell.blocking_send(event).is_err() {
                    return;
                }
            }
        });
    if let Err(error) = spawned {
        warn!(%error, "events of the media are not told");
    }
    told
}

fn grant(pipeline: &Pipeline, wish: Wish) {
    match wish {
        Wish::Muted(muted) => pipeline.set_muted(muted),
        Wish::Camera(on) => pipeline.set_camera(on),
        Wish::Held(held) => pipeline.set_hold(held),
        Wish::Video(source) => pipeline.switch_video(source),
        Wish::Screen(source) => pipeline.switch_screen(source),
        Wish::Audio(source) => pipeline.switch_audio(source),
        Wish::Speaker(sink) => pipeline.switch_speaker(sink),
        Wish::Remote(camera, screen) => pipeline.set_remote(camera, screen),
        Wish::PeerCap(bits) => pipeline.set_peer_cap(bits),
        Wish::Transfer(runs) => pipeline.set_transfer(runs),
    }
}
