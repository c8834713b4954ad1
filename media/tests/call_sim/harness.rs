//! Two calls over two emulated links in virtual time. Pictures and sound have sizes but no content: an encoder
//! is modelled by what it was told and by what openh264 was measured to do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::call::{BufferState, Call, Config, EncoderOrder, Event, Input, Output, Subject};
use media::jitter::{AudioBuffer, PULL_SAMPLES, SoundDecodeError, SoundDecoder};
use media::rate::SkipReason;
use media::stats::{Snapshot, quantile};
use media::{
    AudioTime, CAMERA, EncodedPicture, EncodedSound, FrameNumber, PathState, PictureSize, VideoTime,
};
use p2p_net_sim::{Link, LinkConfig};

use crate::cubic::Cubic;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

pub(crate) const MILLI: Duration = Duration::from_millis(1);
/// Bytes that QUIC adds to a datagram of ours before UDP; the link adds IP's and UDP's.
const QUIC_BYTES: usize = 30;
/// IP's and UDP's.
const WIRE_HEADERS: usize = 28;
/// From capture to encoded, of 720p on a shared machine.
const ENCODE: Duration = Duration::from_millis(4);
/// From complete to decoded.
const DECODE: Duration = Duration::from_micros(1_200);
/// What Opus holds back.
const LOOK_AHEAD: Duration = Duration::from_micros(6_500);

/// What happens at a moment of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// Both directions from now on.
    Link(LinkConfig),
    /// The path changes, for both ends.
    Path(PathState),
}

/// A call of so many seconds.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub seconds: u64,
    pub link: LinkConfig,
    pub changes: Vec<(u64, Change)>,
    pub seed: u64,
    /// Measured from here on, ms.
    pub from_millis: u64,
    pub start_bits_per_sec: u64,
    /// The first end's clock runs faster by this.
    pub skew_ppm: i64,
    /// Both ends send pictures; else only the first.
    pub two_way: bool,
    /// The far end has neither picture nor sound to send.
    pub mute_far: bool,
    /// Counters begin shortly before they wrap.
    pub near_wraps: bool,
    /// From when on a CUBIC flow fills the first end's way to the second.
    pub rival_from: Option<Duration>,
}

/// The seed of all chance: 1, or another for a look by hand at how much of a figure is luck.
fn seed() -> u64 {
    let wanted = std::env::var("CALL_SIM_SEED").ok();
    wanted.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

impl Scenario {
    pub(crate) fn new(name: &'static str, seconds: u64, link: LinkConfig) -> Self {
        Self {
            name,
            seconds,
            link,
            changes: Vec::new(),
            seed: seed(),
            from_millis: 3_000,
            start_bits_per_sec: 600_000,
            skew_ppm: 0,
            two_way: false,
            mute_far: false,
            near_wraps: false,
            rival_from: None,
        }
    }
}

pub(crate) fn path(relayed: bool, epoch: u32) -> PathState {
    PathState {
        epoch,
        relayed,
        suspect: false,
        max_datagram_bytes: if relayed { 1_162 } else { 1_398 },
        round_trip: Some(50 * MILLI),
    }
}

/// What came of the pictures and the sound of one direction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quality {
    pub captured: u64,
    pub shown: u64,
    pub p50: f64,
    pub p95: f64,
    pub stall: f64,
    pub audio_p50: f64,
    pub audio_p95: f64,
    pub concealed: f64,
    pub rate: f64,
    pub first_720p: Option<f64>,
    /// The first end's part of what it and its rival brought through, if it has one.
    pub share: f64,
    /// (captured, latency) of each shown picture, seconds and ms.
    pub pictures: Vec<(f64, f64)>,
    /// (time, estimate bits/s, acked) each 100 ms.
    pub estimates: Vec<(f64, u64)>,
    pub snapshot: Snapshot,
    pub peer: Snapshot,
    pub events: Vec<(f64, Event)>,
    pub log: Vec<String>,
    pub skips: HashMap<SkipReason, u64>,
}

/// Silence that knows how long it is.
struct Model;

impl SoundDecoder for Model {
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), SoundDecodeError> {
        let samples = packet.first().map_or(1, |units| usize::from(*units)) * 480;
        // A tone: stretching needs something periodic.
        let from = out.len();
        out.extend((0..samples).map(|i| ((from + i) as f32 * 0.05).sin() * 0.3));
        Ok(())
    }

    fn decode_fec(
        &mut self,
        _later: &[u8],
        _samples: usize,
        _out: &mut Vec<f32>,
    ) -> Result<bool, SoundDecodeError> {
        Ok(false)
    }

    fn conceal(&mut self, samples: usize, out: &mut Vec<f32>) {
        out.extend(std::iter::repeat_n(0.0, samples));
    }
}

#[derive(Debug)]
enum Happens {
    Arrives(usize, Bytes),
    Captures(usize),
    Encoded(usize, EncodedPicture, Instant),
    Sounds(usize),
    Pulls(usize),
    Decoded(usize, FrameNumber),
    Shows(usize, VideoTime),
    Changes(Change),
    Rival,
    Samples,
}

struct End {
    call: Call,
    order: Option<EncoderOrder>,
    key_wanted: bool,
    sound_frame: Duration,
    sound_rate: u64,
    buffer: AudioBuffer,
    sync_delay: Duration,
    origin_ticks: u64,
    audio_ticks: u64,
    captured: BTreeMap<u64, Instant>,
    shown: Vec<(Instant, Duration)>,
    heard: Vec<(Instant, Duration)>,
    decodes: HashMap<FrameNumber, bool>,
    events: Vec<(Instant, Event)>,
    estimates: Vec<(Instant, u64)>,
    first_720p: Option<Instant>,
    random: Xoshiro256PlusPlus,
    bytes: u64,
    key_owed: f64,
    modes: Vec<String>,
    frame_index: u64,
    skips: HashMap<SkipReason, u64>,
}

pub(crate) struct World {
    start: Instant,
    now: Instant,
    ends: [End; 2],
    links: [Link; 2],
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: HashMap<u64, Happens>,
    next_event: u64,
    scenario: Scenario,
    wakeups: u64,
    rival: Option<Cubic>,
    /// Bytes of the first end that arrived since its rival has settled.
    beside_rival: f64,
}

impl World {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let start = Instant::now();
        let end = |index: u64| {
            let mut config = Config::new(path(false, 0));
            config.start_bits_per_sec = scenario.start_bits_per_sec;
            if scenario.near_wraps {
                config.first_sequence = 65_536 - 400;
                config.first_frame = 65_536 - 60;
                config.clock_micros = (1 << 26) - 3_000_000;
            }
            let first = if scenario.near_wraps {
                (1 << 32) - 200_000
            } else {
                5_000_000
            };
            End {
                call: Call::new(start, config),
                order: None,
                key_wanted: true,
                sound_frame: 10 * MILLI,
                sound_rate: 32_000,
                buffer: AudioBuffer::new(),
                sync_delay: Duration::ZERO,
                origin_ticks: first,
                audio_ticks: first,
                captured: BTreeMap::new(),
                shown: Vec::new(),
                heard: Vec::new(),
                decodes: HashMap::new(),
                events: Vec::new(),
                estimates: Vec::new(),
                first_720p: None,
                random: Xoshiro256PlusPlus::seed_from_u64(scenario.seed * 7 + index),
                bytes: 0,
                key_owed: 0.0,
                modes: Vec::new(),
                frame_index: 0,
                skips: HashMap::new(),
            }
        };
        let links = [
            Link::new(scenario.link, scenario.seed * 2),
            Link::new(scenario.link, scenario.seed * 2 + 1),
        ];
        let mut world = Self {
            start,
            now: start,
            ends: [end(0), end(1)],
            links,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next_event: 0,
            rival: scenario
                .rival_from
                .map(|from| Cubic::new(scenario.link.delay, from).leaving_slow_start_at(20.0)),
            beside_rival: 0.0,
            scenario,
            wakeups: 0,
        };
        for index in 0..2 {
            let size = PictureSize::new(1_280, 720).expect("a size");
            let on = Input::StreamOn {
                stream: CAMERA,
                subject: Subject::Camera,
                source: size,
            };
            if index == 0 || world.scenario.two_way {
                world.input(index, on);
                world.at(start + MILLI, Happens::Captures(index));
            }
            if index == 0 || !world.scenario.mute_far {
                world.input(index, Input::SoundOn(true));
                world.at(start + 10 * MILLI, Happens::Sounds(index));
            }
            world.at(start + 3 * MILLI, Happens::Pulls(index));
        }
        for (millis, change) in world.scenario.changes.clone() {
            world.at(start + MILLI * millis as u32, Happens::Changes(change));
        }
        world.at(start, Happens::Samples);
        if world.rival.is_some() {
            world.at(start, Happens::Rival);
        }
        world
    }

    fn at(&mut self, at: Instant, happens: Happens) {
        let id = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((at, id)));
        self.events.insert(id, happens);
    }

    /// Runs to the end; the quality of what the first end sent.
    pub(crate) fn run(mut self) -> Quality {
        let end = self.start + Duration::from_secs(self.scenario.seconds);
        loop {
            let event = self.queue.peek().map(|Reverse((at, _))| *at);
            let timeouts = [0, 1].map(|index| self.ends[index].call.poll_timeout());
            let next = [event, timeouts[0], timeouts[1]]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next < end) else {
                break;
            };
            assert!(next >= self.now || next + MILLI >= self.now, "time runs on");
            self.now = self.now.max(next);
            self.wakeups += 1;
            if event == Some(next) {
                let Some(Reverse((_, id))) = self.queue.pop() else {
                    break;
                };
                if let Some(happens) = self.events.remove(&id) {
                    self.happen(happens);
                }
            } else {
                let index = usize::from(timeouts[0] != Some(next));
                self.input(index, Input::Timeout);
            }
            assert!(self.wakeups < 30_000_000, "the call spins");
        }
        self.quality()
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Arrives(index, datagram) => self.input(index, Input::Datagram(datagram)),
            Happens::Captures(index) => self.capture(index),
            Happens::Encoded(index, picture, captured_at) => {
                let stream = CAMERA;
                self.input(
                    index,
                    Input::Picture {
                        stream,
                        picture,
                        captured_at,
                    },
                );
            }
            Happens::Sounds(index) => self.sound(index),
            Happens::Pulls(index) => self.pull(index),
            Happens::Decoded(index, frame) => {
                let decoded = Input::Decoded {
                    stream: CAMERA,
                    frame,
                    ok: true,
                    took: DECODE,
                };
                self.input(index, decoded);
            }
            Happens::Shows(index, time) => self.show(index, time),
            Happens::Changes(change) => self.change(change),
            Happens::Rival => {
                if let Some(rival) = &mut self.rival {
                    let link = &mut self.links[0];
                    rival.step(self.now, |now, bytes| {
                        link.send(now, bytes - WIRE_HEADERS).arrives
                    });
                    self.at(self.now + MILLI, Happens::Rival);
                }
            }
            Happens::Samples => {
                let now = self.now;
                let stats = [0, 1].map(|index| self.ends[index].call.stats(now));
                for (index, end) in self.ends.iter_mut().enumerate() {
                    let estimate = stats[index].network.estimate_bits_per_sec;
                    end.estimates.push((now, estimate));
                }
                let line = self.trace(&stats[0], &stats[1]);
                self.ends[0].modes.push(line);
                self.at(now + 100 * MILLI, Happens::Samples);
            }
        }
    }

    /// What each part of the first end's way to the second one does now.
    fn trace(&self, sender: &Snapshot, receiver: &Snapshot) -> String {
        let (network, end) = (&sender.network, &self.ends[1]);
        let latency =
            |of: &[(Instant, Duration)]| of.last().map_or(0, |(_, late)| late.as_millis());
        let order = self.ends[0].order;
        let (height, rate) =
            order.map_or((0, 0), |order| (order.size.height(), order.frames_per_sec));
        let picture = receiver.video_in.first();
        format!(
            "{:8} queue {:3.0} loss {:4.1} resent {} parity {} probes {} picture {height}@{rate} {:4} kbit/s sound {} ms \
             | picture {} ms (delay {:.0}) sound {} ms (buffer {} target {} sync {}) skew {:.0}",
            network.mode,
            network.queue_millis,
            100.0 * network.loss,
            network.resent_bytes,
            network.parity_bytes,
            network.probe_bytes,
            order.map_or(0, |order| order.bits_per_sec / 1_000),
            sender.sound_out.frame_millis,
            latency(&end.shown),
            picture.map_or(0.0, |picture| picture.playout_delay_millis),
            latency(&end.heard),
            end.buffer.buffer_millis(),
            end.buffer.target().as_millis(),
            end.sync_delay.as_millis(),
            receiver.sound_in.av_skew_millis,
        )
    }

    fn show(&mut self, index: usize, time: VideoTime) {
        let now = self.now;
        let ticks = time.ticks() as u32;
        let mut captured = self.ends[1 - index].captured.iter().rev();
        let stamp = captured.find(|(known, _)| **known as u32 == ticks);
        if let Some((_, captured)) = stamp {
            let seen = (*captured, now.saturating_duration_since(*captured));
            self.ends[index].shown.push(seen);
        }
        let shown = Input::Shown {
            stream: CAMERA,
            time,
            at: now,
        };
        self.input(index, shown);
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Link(link) => {
                self.links[0].set_config(link);
                self.links[1].set_config(link);
            }
            Change::Path(path) => {
                self.input(0, Input::Path(path));
                self.input(1, Input::Path(path));
            }
        }
    }

    /// The time that the end's own clock shows: that of the first runs fast if it is to.
    fn ticks(&self, index: usize, hz: u64) -> u64 {
        let nanos = self.now.saturating_duration_since(self.start).as_nanos() as i128;
        let skew = if index == 0 {
            self.scenario.skew_ppm
        } else {
            0
        };
        let nanos = nanos + nanos * i128::from(skew) / 1_000_000;
        self.ends[index].origin_ticks + (nanos * i128::from(hz) / 1_000_000_000) as u64
    }

    fn capture(&mut self, index: usize) {
        let now = self.now;
        let time = VideoTime::from_ticks(self.ticks(index, 90_000));
        let end = &mut self.ends[index];
        end.frame_index += 1;
        let rate = end.order.map_or(30, |order| order.frames_per_sec.max(1));
        let thin = !end
            .frame_index
            .is_multiple_of(u64::from((30 / rate).max(1)));
        self.at(
            now + Duration::from_nanos(33_333_333),
            Happens::Captures(index),
        );
        let end = &mut self.ends[index];
        end.captured.insert(time.ticks(), now);
        if end.captured.len() > 3_000 {
            end.captured.pop_first();
        }
        let skips = end.call.skips(CAMERA);
        if let Some(reason) = skips {
            *end.skips.entry(reason).or_default() += 1;
        }
        if thin || end.order.is_none() || skips.is_some() {
            self.input(index, Input::Skipped(CAMERA));
            return;
        }
        let Some(order) = end.order else { return };
        let key = std::mem::take(&mut end.key_wanted);
        let bits = order.bits_per_sec.min(most_bits(order.size));
        let mean = bits as f64 / 8.0 / f64::from(order.frames_per_sec.max(1));
        let noise = 0.85 + 0.3 * end.random.random::<f64>();
        let bytes = if key {
            let bytes = f64::from(key_bytes(order.size));
            end.key_owed = (bytes - mean).max(0.0);
            bytes
        } else {
            // The rate control of openh264 takes a key frame's excess back within a second.
            let back = (end.key_owed / 15.0).min(mean * 0.5);
            end.key_owed -= back;
            ((mean - back) * noise).max(120.0)
        };
        let picture = EncodedPicture {
            time,
            data: Bytes::from(vec![7; bytes as usize]),
            key,
            parameter_sets: key,
            layer: 0,
            discardable: false,
            long_term: false,
            reference_distance: u8::from(!key),
        };
        self.at(now + ENCODE, Happens::Encoded(index, picture, now));
    }

    fn sound(&mut self, index: usize) {
        let now = self.now;
        let end = &mut self.ends[index];
        let frame = end.sound_frame;
        let samples = (frame.as_micros() * 48 / 1_000) as u32;
        let units = (samples / 480) as u8;
        let mean = end.sound_rate as f64 / 8.0 * frame.as_secs_f64();
        let bytes = (mean * (0.8 + 0.4 * end.random.random::<f64>())) as usize;
        let mut data = vec![3; bytes.clamp(8, 1_200)];
        data[0] = units;
        let time = AudioTime::from_ticks(end.audio_ticks);
        end.audio_ticks += u64::from(samples);
        // The microphone's clock is the machine's.
        let skew = if index == 0 {
            self.scenario.skew_ppm
        } else {
            0
        };
        let nanos = frame.as_nanos() as i128 * (1_000_000 - i128::from(skew)) / 1_000_000;
        let captured_at = now.checked_sub(frame).unwrap_or(now);
        let sound = EncodedSound {
            time,
            data: data.into(),
            samples,
            voice: true,
            silence: false,
        };
        self.input(index, Input::Sound { sound, captured_at });
        // The block that ends now was begun with the length that held then; the next one with the new.
        let next = self.ends[index].sound_frame;
        let nanos = nanos as u64 * next.as_millis() as u64 / frame.as_millis().max(1) as u64;
        self.at(now + Duration::from_nanos(nanos), Happens::Sounds(index));
    }

    fn pull(&mut self, index: usize) {
        let now = self.now;
        let mut out = [0.0; PULL_SAMPLES];
        let end = &mut self.ends[index];
        end.buffer.pull(now, &mut Model, &mut out);
        let playing = end.buffer.playing_time();
        let state = BufferState {
            buffer_millis: end.buffer.buffer_millis(),
            progress: end.buffer.progress(),
            playing: playing.map(|time| (time, now)),
        };
        if let Some(time) = playing {
            // When was the sample captured that leaves now?
            let other = &self.ends[1 - index];
            let origin = other.origin_ticks;
            let after = (time.ticks() as u32).wrapping_sub(origin as u32);
            let skew = if index == 1 {
                self.scenario.skew_ppm
            } else {
                0
            };
            let nanos = i128::from(after) * 1_000_000_000 / 48_000;
            let nanos = nanos - nanos * i128::from(skew) / 1_000_000;
            let captured = self.start + Duration::from_nanos(nanos as u64);
            // Half a block passes on average before a sample leaves; the ring is another.
            let latency = now.saturating_duration_since(captured) + LOOK_AHEAD + 5 * MILLI;
            self.ends[index].heard.push((now, latency));
        }
        self.input(index, Input::Buffer(state));
        self.at(now + 10 * MILLI, Happens::Pulls(index));
    }

    fn input(&mut self, index: usize, input: Input) {
        let now = self.now;
        self.ends[index].call.handle_input(now, input);
        while let Some(output) = self.ends[index].call.poll_output() {
            self.output(index, output);
        }
    }

    fn output(&mut self, index: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Datagram(datagram) => {
                self.ends[index].bytes += (datagram.len() + QUIC_BYTES + WIRE_HEADERS) as u64;
                let fate = self.links[index].send(now, datagram.len() + QUIC_BYTES);
                let settled = |rival: &Cubic| {
                    now.saturating_duration_since(self.start).as_secs_f64() >= rival.settled()
                };
                if index == 0 && fate.arrives.is_some() && self.rival.as_ref().is_some_and(settled)
                {
                    self.beside_rival += (datagram.len() + QUIC_BYTES + WIRE_HEADERS) as f64;
                }
                for at in [fate.arrives, fate.copy_arrives].into_iter().flatten() {
                    self.at(at, Happens::Arrives(1 - index, datagram.clone()));
                }
            }
            Output::Encoder(order) => {
                let end = &mut self.ends[index];
                if end.order.is_some_and(|before| before.size != order.size) {
                    end.key_wanted = true;
                }
                if order.size.height() == 720 && end.first_720p.is_none() {
                    end.first_720p = Some(now);
                }
                end.order = Some(order);
            }
            Output::KeyFrame(_) | Output::Recovery { .. } => self.ends[index].key_wanted = true,
            Output::SoundEncoder(order) => {
                self.ends[index].sound_frame = order.frame;
                self.ends[index].sound_rate = order.bits_per_sec;
            }
            Output::Decode(frame) => {
                let end = &mut self.ends[index];
                let number = frame.info.number;
                let reference = number.checked_sub(u64::from(frame.info.reference_distance));
                let decodable = frame.info.key
                    || reference.is_some_and(|number| end.decodes.contains_key(&number));
                assert!(decodable, "frame {number} came before its reference");
                assert!(
                    end.decodes.insert(number, true).is_none(),
                    "{number} came twice"
                );
                self.at(now + DECODE, Happens::Decoded(index, number));
                if frame.show {
                    let at = (now + DECODE).max(frame.render_at);
                    self.at(at, Happens::Shows(index, frame.info.time));
                }
            }
            Output::Sound { body, arrival } => {
                self.ends[index].buffer.insert(arrival, &body);
            }
            Output::Buffer(order) => {
                let buffer = &mut self.ends[index].buffer;
                buffer.set_repair_delay(order.repair_delay);
                buffer.set_repair_wait(order.repair_wait);
                buffer.set_sync_delay(order.sync_delay);
                self.ends[index].sync_delay = order.sync_delay;
            }
            Output::BufferPathSwitch => self.ends[index].buffer.on_path_switch(now),
            Output::Event(event) => self.ends[index].events.push((now, event)),
            Output::Budget(_) | Output::Reached { .. } | Output::Capture { .. } => {}
        }
    }

    fn quality(mut self) -> Quality {
        let from = self.start + MILLI * self.scenario.from_millis as u32;
        let now = self.now;
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        let start = self.start;
        let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        let snapshot = self.ends[0].call.stats(now);
        let peer = self.ends[1].call.stats(now);
        let shown: Vec<_> = self.ends[1]
            .shown
            .iter()
            .filter(|(at, _)| *at >= from)
            .collect();
        let heard: Vec<_> = self.ends[1]
            .heard
            .iter()
            .filter(|(at, _)| *at >= from)
            .collect();
        let mut latencies: Vec<f64> = shown.iter().map(|(_, latency)| millis(*latency)).collect();
        latencies.sort_by(f64::total_cmp);
        let mut sound: Vec<f64> = heard.iter().map(|(_, latency)| millis(*latency)).collect();
        sound.sort_by(f64::total_cmp);
        let mut times: Vec<Instant> = shown.iter().map(|(at, latency)| *at + *latency).collect();
        times.sort();
        let stall = times
            .windows(2)
            .map(|pair| millis(pair[1] - pair[0]))
            .filter(|gap| *gap > 200.0)
            .sum();
        let captured = self.ends[0]
            .captured
            .values()
            .filter(|at| **at >= from && **at + 500 * MILLI < now)
            .count() as u64;
        let counted = shown
            .iter()
            .filter(|(at, _)| *at + 500 * MILLI < now)
            .count() as u64;
        let sound_stats = self.ends[1].buffer.stats();
        let mut log = Vec::new();
        for (index, pair) in self.ends[0].estimates.iter().enumerate() {
            log.push(format!(
                "{:6.1} {:5} kbit/s {}",
                since(pair.0),
                pair.1 / 1_000,
                self.ends[0].modes[index]
            ));
        }
        Quality {
            captured,
            shown: counted,
            p50: quantile(&latencies, 0.5),
            p95: quantile(&latencies, 0.95),
            stall,
            audio_p50: quantile(&sound, 0.5),
            audio_p95: quantile(&sound, 0.95),
            concealed: sound_stats.concealed_samples as f64
                / sound_stats.total_samples.max(1) as f64,
            rate: self.ends[0].bytes as f64 * 8.0 / self.scenario.seconds as f64,
            first_720p: self.ends[0].first_720p.map(since),
            share: self.rival.as_ref().map_or(1.0, |rival| {
                self.beside_rival / (self.beside_rival + rival.arrived_bytes()).max(1.0)
            }),
            pictures: self.ends[1]
                .shown
                .iter()
                .map(|(at, latency)| (since(*at), millis(*latency)))
                .collect(),
            estimates: self.ends[0]
                .estimates
                .iter()
                .map(|(at, e)| (since(*at), *e))
                .collect(),
            events: self.ends[1]
                .events
                .iter()
                .map(|(at, e)| (since(*at), *e))
                .collect(),
            snapshot,
            peer,
            log,
            skips: self.ends[0].skips.clone(),
        }
    }
}

/// What openh264 makes of a camera at its finest, bits a second: a small picture cannot fill a wide link.
fn most_bits(size: PictureSize) -> u64 {
    match size.height() {
        720.. => u64::MAX,
        540.. => 2_500_000,
        360.. => 1_200_000,
        _ => 250_000,
    }
}

/// What openh264's first picture of a camera takes, bytes (measured).
fn key_bytes(size: PictureSize) -> u32 {
    match size.height() {
        1_080.. => 40_000,
        720.. => 19_000,
        540.. => 11_000,
        360.. => 6_200,
        _ => 2_000,
    }
}

/// Runs a scenario and prints its line.
#[expect(
    clippy::print_stdout,
    reason = "the table is what the tests are run for by hand"
)]
pub(crate) fn run(scenario: Scenario) -> Quality {
    let name = scenario.name;
    let began = Instant::now();
    let quality = World::new(scenario).run();
    let share = 100.0 * quality.shown as f64 / quality.captured.max(1) as f64;
    println!(
        "{name:26} shown {share:5.1} % video {:4.0}/{:4.0} ms stall {:5.0} ms audio {:4.0}/{:4.0} ms \
         concealed {:4.2} % rate {:4.0} kbit/s share {:.2} lost {} resent {} parity {} keys {} refreshes {} 720p {:?} skips {:?} [{:.1} s]",
        quality.p50,
        quality.p95,
        quality.stall,
        quality.audio_p50,
        quality.audio_p95,
        100.0 * quality.concealed,
        quality.rate / 1e3,
        quality.share,
        quality.snapshot.network.packets_lost,
        quality.snapshot.network.resent_bytes,
        quality.snapshot.network.parity_bytes,
        quality
            .snapshot
            .video_out
            .first()
            .map_or(0, |v| v.key_frames_encoded),
        quality
            .peer
            .video_in
            .first()
            .map_or(0, |v| v.refreshes_wanted),
        quality.first_720p,
        quality.skips,
        began.elapsed().as_secs_f64(),
    );
    if std::env::var("CALL_SIM_LOG").is_ok_and(|wanted| name.contains(&wanted)) {
        for line in &quality.log {
            println!("{line}");
        }
    }
    quality
}
