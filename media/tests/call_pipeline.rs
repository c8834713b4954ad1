//! Two pipelines with real codecs and synthetic sources, joined by an emulated link in real time. Nothing here
//! depends on how fast the machine is, but for a patience of half a minute.
#![cfg(feature = "pipeline")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::capture::{AudioSpec, VideoSpec};
use media::pipeline::{Config, Device, Event, Pipeline};
use media::stats::Snapshot;
use media::{Budget, OtherTraffic, PathState, PictureSize, Transport, TransportError};
use p2p_net_sim::{Link, LinkConfig, Loss};

/// How long a slow machine may take for what takes a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// One direction: datagrams go to a thread that keeps them for as long as the link says.
struct Wire {
    link: Mutex<Link>,
    later: SyncSender<(Instant, Bytes)>,
    budget: Mutex<Budget>,
}

impl Transport for Wire {
    fn send(&self, datagram: Bytes) -> Result<(), TransportError> {
        let now = Instant::now();
        let fate = self
            .link
            .lock()
            .expect("no panic")
            .send(now, datagram.len() + 30);
        for at in [fate.arrives, fate.copy_arrives].into_iter().flatten() {
            // A full queue is a lost datagram.
            let _ = self.later.try_send((at, datagram.clone()));
        }
        Ok(())
    }

    fn path(&self) -> PathState {
        PathState {
            epoch: 0,
            relayed: false,
            suspect: false,
            max_datagram_bytes: 1_200,
            round_trip: Some(Duration::from_millis(20)),
        }
    }

    fn other_traffic(&self) -> OtherTraffic {
        OtherTraffic::default()
    }

    fn set_budget(&self, budget: Budget) {
        *self.budget.lock().expect("no panic") = budget;
    }
}

/// Delivers each datagram at its time, until the sender is gone.
fn deliver(queue: &Receiver<(Instant, Bytes)>, to: &Mutex<Option<Arc<Pipeline>>>) {
    let mut flying = BinaryHeap::new();
    let mut count = 0u64;
    loop {
        let now = Instant::now();
        let next = flying.peek().map(|Reverse((at, _, _))| *at);
        let wait = next.map_or(PATIENCE, |at: Instant| at.saturating_duration_since(now));
        match queue.recv_timeout(wait) {
            Ok((at, datagram)) => {
                count += 1;
                flying.push(Reverse((at, count, datagram)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        while flying.peek().is_some_and(|Reverse((at, _, _))| *at <= now) {
            if let Some(Reverse((_, _, datagram))) = flying.pop()
                && let Some(pipeline) = to.lock().expect("no panic").as_ref()
            {
                pipeline.on_datagram(datagram);
            }
        }
    }
}

fn config() -> Config {
    Config {
        camera: VideoSpec::Pattern {
            size: PictureSize::new(320, 180).expect("a size"),
            frames_per_second: 15.0,
        },
        microphone: AudioSpec::Tone(440.0),
        ..Config::default()
    }
}

struct Pair {
    ends: [Arc<Pipeline>; 2],
    events: [Receiver<Event>; 2],
    wires: [Arc<Wire>; 2],
    places: [Arc<Mutex<Option<Arc<Pipeline>>>>; 2],
}

fn pair(link: LinkConfig, first: Config) -> Pair {
    let places: [Arc<Mutex<Option<Arc<Pipeline>>>>; 2] = Default::default();
    let wires = [0, 1].map(|index| {
        let (later, queue) = sync_channel(1_000);
        let to = Arc::clone(&places[1 - index]);
        std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || deliver(&queue, &to))
            .expect("a thread");
        Arc::new(Wire {
            link: Mutex::new(Link::new(link, index as u64)),
            later,
            budget: Mutex::default(),
        })
    });
    let start = |index: usize, config: Config| {
        let transport: Arc<dyn Transport> = Arc::clone(&wires[index]) as Arc<dyn Transport>;
        Pipeline::start(config, transport).expect("a pipeline")
    };
    let (one, other) = (start(0, first), start(1, config()));
    let events = [one.events(), other.events()].map(|events| events.expect("not taken"));
    let ends = [Arc::new(one), Arc::new(other)];
    for (place, end) in places.iter().zip(&ends) {
        *place.lock().expect("no panic") = Some(Arc::clone(end));
    }
    Pair {
        ends,
        events,
        wires,
        places,
    }
}

impl Pair {
    /// Waits until the numbers of both ends are as wished.
    fn wait_for(&self, what: &str, wished: impl Fn(&Snapshot) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !self.ends.iter().all(|end| wished(&end.stats())) {
            assert!(
                Instant::now() < until,
                "{what} did not happen: {:#?}",
                self.ends[0].stats()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn pictures_and_sound_flow_both_ways() {
    let link = LinkConfig::delay(Duration::from_millis(10)).with_loss(Loss::Random(0.02));
    let pair = pair(link, config());
    pair.wait_for("a second of call", |stats| {
        stats
            .video_in
            .first()
            .is_some_and(|video| video.frames_shown >= 15)
            && stats.sound_in.total_samples >= 48_000
            && stats.sound_in.jitter_buffer_emitted_count > 0
            && stats.network.reports_received > 10
    });
    let stats = pair.ends[0].stats();
    let video = stats.video_in.first().expect("a stream");
    assert_eq!((video.frame_width, video.frame_height), (320, 180));
    assert_eq!(stats.network.packets_refused, 0);
    assert!(stats.sound_in.level_dbfs > -60.0, "the tone is heard");
    assert!(stats.sound_in.concealed_samples < stats.sound_in.total_samples / 2);
    assert!(
        pair.wires[0]
            .budget
            .lock()
            .expect("no panic")
            .estimate_bits_per_sec
            > 0
    );
    // Camera off: nothing is sent any more; the other side keeps its last picture.
    pair.ends[0].set_camera(false);
    pair.ends[0].set_muted(true);
    let until = Instant::now() + PATIENCE;
    loop {
        let before = pair.ends[0]
            .stats()
            .video_out
            .first()
            .map(|video| video.frames_sent);
        std::thread::sleep(Duration::from_millis(300));
        let after = pair.ends[0]
            .stats()
            .video_out
            .first()
            .map(|video| video.frames_sent);
        if before == after {
            break;
        }
        assert!(Instant::now() < until, "the camera does not stop");
    }
    let shown = |event: &Event| matches!(event, Event::FirstPicture { .. });
    assert!(pair.events[1].try_iter().any(|event| shown(&event)));
    // The end: the threads go, and the layer below is told.
    let Pair {
        ends,
        wires,
        places,
        ..
    } = pair;
    for place in &places {
        *place.lock().expect("no panic") = None;
    }
    let mut summaries = Vec::new();
    for end in ends {
        // The wire's thread may hold it for a moment more.
        let mut end = end;
        let pipeline = loop {
            match Arc::try_unwrap(end) {
                Ok(pipeline) => break pipeline,
                Err(held) => end = held,
            }
            std::thread::yield_now();
        };
        summaries.push(pipeline.stop());
    }
    assert!(
        summaries
            .iter()
            .all(|summary| summary.last.network.packets_sent > 0)
    );
    assert_eq!(
        *wires[0].budget.lock().expect("no panic"),
        Budget::default()
    );
}

#[test]
fn what_cannot_be_opened_is_told_and_the_call_goes_on() {
    let missing = Config {
        camera: VideoSpec::File("nowhere.y4m".into()),
        ..config()
    };
    let pair = pair(LinkConfig::delay(Duration::from_millis(5)), missing);
    let until = Instant::now() + PATIENCE;
    let lost = loop {
        let left = until.saturating_duration_since(Instant::now());
        let event = pair.events[0].recv_timeout(left);
        if let Event::DeviceLost { device, reason } = event.expect("an event in time") {
            break (device, reason);
        }
    };
    assert_eq!(lost.0, Device::Camera);
    assert!(lost.1.contains("nowhere.y4m"), "{}", lost.1);
    // Another source in its place works, and sound was there all the time.
    pair.ends[0].switch_video(config().camera);
    pair.wait_for("pictures", |stats| {
        stats
            .video_in
            .first()
            .is_some_and(|video| video.frames_shown > 3)
            && stats.sound_in.total_samples > 0
    });
}
