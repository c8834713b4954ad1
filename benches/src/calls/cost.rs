//! What a call with pictures both ways costs each side, and whether any queue in it grows.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use media::convert::{Fit, Scaler};
use media::stats::Snapshot;
use media::{Picture, PictureSize, Plane, VideoTime};
use p2p_net_sim::LinkConfig;

use super::conditions::DELAY;
use super::lab::{Lab, Side, text};
use super::numbers::Numbers;
use super::scene::{FPS, HEIGHT, PICTURE_BYTES, WIDTH};
use crate::process::Watched;
use crate::report::{Bar, Row};

/// How long such a call lasts, and how much of it passes before processor time counts.
const LENGTH: Duration = Duration::from_secs(66);
const RAMP: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(50);
/// A queue whose wait grows by less than this is steady: half a picture, ms.
const STEADY: f64 = 16.0;

/// A call with pictures both ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) name: &'static str,
    width: u32,
    height: u32,
    /// Share of a core that each side may use.
    bar: Option<f64>,
}

/// Both of them.
pub(super) const ALL: [Cost; 2] = [
    Cost {
        name: "640×360 both ways",
        width: 640,
        height: 360,
        bar: Some(0.35),
    },
    Cost {
        name: "1280×720 both ways",
        width: 1_280,
        height: 720,
        bar: None,
    },
];

/// What one side used and told.
struct Used {
    who: &'static str,
    cores: f64,
    numbers: Numbers,
}

impl Cost {
    /// The rows of such a call.
    pub(super) fn rows(&self, lab: &Lab, folder: &Path) -> Result<Vec<Row>> {
        let film = self.film(folder)?;
        let (one, two) = (folder.join("one.wav"), folder.join("two.wav"));
        let side = |audio| Side {
            video: &film,
            audio,
            ..Side::SILENT
        };
        let (near, far) = (side(text(&one)?), side(text(&two)?));
        let mut running = lab.begin(&near, &far, LinkConfig::delay(DELAY), LENGTH)?;
        sleep(RAMP);
        let before = [
            seconds(&mut running.calling),
            seconds(&mut running.answering),
        ];
        let began = Instant::now();
        sleep(MEASURED);
        let after = [
            seconds(&mut running.calling),
            seconds(&mut running.answering),
        ];
        let wall = began.elapsed().as_secs_f64();
        let [called, answered] = running.end()?;
        let used = |who, index: usize, numbers| Used {
            who,
            cores: (after[index] - before[index]) / wall,
            numbers,
        };
        let sides = [used("caller", 0, called), used("callee", 1, answered)];
        Ok(sides.iter().flat_map(|side| self.side(side)).collect())
    }

    /// The film of this size; its path.
    fn film(&self, folder: &Path) -> Result<String> {
        let room = folder.join("room.y4m");
        let path = match self.height as usize {
            HEIGHT => room,
            height => {
                let path = folder.join(format!("room {height}.y4m"));
                scale(&room, &path, PictureSize::new(self.width, self.height)?)?;
                path
            }
        };
        Ok(text(&path)?.to_owned())
    }

    fn side(&self, used: &Used) -> Vec<Row> {
        let Used {
            who,
            cores,
            numbers,
        } = used;
        let name = |what: &str| format!("{}: {what}, {who}", self.name);
        let last = numbers.last();
        let mut rows = vec![Row::new(
            name("processor"),
            self.bar.map_or(Bar::Shown, Bar::AtMost),
            *cores,
            "cores",
            last.map_or_else(String::new, went),
        )];
        rows.push(match numbers.growth() {
            Some(growth) => Row::new(
                name("growth of the queue that grows most"),
                Bar::AtMost(STEADY),
                growth.millis,
                "ms",
                format!(
                    "{}, by {:+.0} pieces; wait + work p95: {}",
                    growth.stage,
                    growth.pieces,
                    numbers.stages()
                ),
            ),
            None => Row::failed(name("queues"), Bar::Holds, "", "no numbers were told"),
        });
        if let Some(video) = last.and_then(|last| last.video_out.first()) {
            let skipped = 100.0 * video.frames_skipped as f64 / video.frames_captured.max(1) as f64;
            rows.push(Row::new(
                name("pictures left out before the encoder"),
                Bar::Shown,
                skipped,
                "%",
                format!(
                    "{} of {}; at the end {}x{}@{:.0}",
                    video.frames_skipped,
                    video.frames_captured,
                    video.frame_width,
                    video.frame_height,
                    video.frames_per_second
                ),
            ));
        }
        rows
    }
}

/// How the call went for a side, in short.
fn went(last: &Snapshot) -> String {
    let shown = last.video_in.first().map_or_else(String::new, |video| {
        format!(
            "{} of {} pictures shown, {}x{}, latency {:.0} / {:.0} ms, decoding {:.1} ms; ",
            video.frames_shown,
            video.frames_seen,
            video.frame_width,
            video.frame_height,
            video.latency.p50,
            video.latency.p95,
            video.decode.p50,
        )
    });
    let encode = last.video_out.first().map_or(0.0, |video| video.encode.p50);
    format!("{shown}encoding {encode:.1} ms")
}

fn seconds(process: &mut Watched) -> f64 {
    process.usage().cpu_seconds
}

/// Writes a film at another size.
fn scale(from: &Path, to: &Path, size: PictureSize) -> Result<()> {
    let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let mut film = BufReader::with_capacity(1 << 20, file);
    let mut head = Vec::new();
    std::io::BufRead::read_until(&mut film, b'\n', &mut head)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(to)?);
    let (width, height) = (size.width(), size.height());
    writeln!(
        out,
        "YUV4MPEG2 W{width} H{height} F{FPS}:1 Ip A1:1 C420jpeg"
    )?;
    let full = PictureSize::new(WIDTH as u32, HEIGHT as u32)?;
    let mut scaler = Scaler::new();
    let mut frame = vec![0; "FRAME\n".len() + PICTURE_BYTES];
    while film.read_exact(&mut frame).is_ok() {
        let (luma, chroma) = frame["FRAME\n".len()..].split_at(WIDTH * HEIGHT);
        let (blue, red) = chroma.split_at(chroma.len() / 2);
        let plane = |data, stride| Plane { data, stride };
        let planes = [
            plane(luma, WIDTH),
            plane(blue, WIDTH / 2),
            plane(red, WIDTH / 2),
        ];
        let picture = Picture::from_planes(full, VideoTime::default(), planes)?;
        out.write_all(b"FRAME\n")?;
        for plane in scaler.scale(&picture, size, Fit::Stretch).planes() {
            out.write_all(plane.data)?;
        }
    }
    Ok(out.flush()?)
}
