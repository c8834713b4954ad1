//! A call between real sound devices: the caller's microphone and the callee's loudspeaker are those of a
//! PulseAudio of the bench's own. What is spoken into the one and what comes out of the other are the two
//! channels of one sink that leads nowhere, so that one recording has both by one clock.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use p2p_net_sim::LinkConfig;
use rustix::process::Signal;

use super::conditions::DELAY;
use super::lab::{Lab, Side, text};
use super::records::Sound;
use super::voice;
use crate::process::Watched;
use crate::programs::PATIENCE;
use crate::report::{Bar, Row};

/// The name that `--only` selects.
pub(super) const NAME: &str = "sound server";
/// How long the call lasts, and what of it is measured.
const LENGTH: Duration = Duration::from_secs(45);
const RAMP: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(32);
/// What we may add to half the round trip, 95th percentile, ms.
const BAR: f64 = 70.0;
/// What the server is made of.
const MODULES: [&str; 5] = [
    "module-native-protocol-unix",
    "module-null-sink sink_name=both norewinds=1 rate=48000 channels=2 channel_map=front-left,front-right",
    "module-remap-sink sink_name=mouth master=both channels=1 channel_map=mono master_channel_map=front-left remix=no sink_properties=device.description=mouth",
    "module-remap-sink sink_name=ear master=both channels=1 channel_map=mono master_channel_map=front-right remix=no sink_properties=device.description=ear",
    "module-remap-source source_name=lips master=both.monitor channels=1 channel_map=mono master_channel_map=front-left remix=no source_properties=device.description=lips",
];

/// The server, with the folder that it lives in.
struct Server {
    home: PathBuf,
    _process: Watched,
}

impl Server {
    fn start(home: PathBuf) -> Result<Self> {
        fs::create_dir_all(&home)?;
        let mut command = Command::new("pulseaudio");
        command.args([
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
        ]);
        command.args(MODULES.map(|module| format!("--load={module}")));
        command.stderr(Stdio::null());
        let process = Watched::start(environment(command, &home), "pulseaudio")
            .context("the sound server is missing (.ci/setup test installs it)")?;
        let deadline = Instant::now() + PATIENCE;
        while !home.join("pulse/native").exists() {
            ensure!(Instant::now() < deadline, "the sound server does not start");
            sleep(Duration::from_millis(50));
        }
        Ok(Self {
            home,
            _process: process,
        })
    }

    /// What a program must be told to find it.
    fn variables(&self) -> [(&'static str, OsString); 2] {
        ["XDG_RUNTIME_DIR", "HOME"].map(|name| (name, self.home.clone().into_os_string()))
    }

    /// What the device renders and records at once, in words. Both channels of the recording are of one such step,
    /// so that the way around our programs takes no time at all: there is nothing to be taken off.
    fn period(&self) -> String {
        let mut command = Command::new("pactl");
        command.args(["list", "sinks"]);
        let told = environment(command, &self.home).output();
        let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let micros = configured(&told.unwrap_or_default());
        micros.map_or_else(
            || "an unknown time".to_owned(),
            |micros| format!("{:.1} ms", micros / 1e3),
        )
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Watched> {
        let mut command = Command::new(program);
        command.args(arguments);
        Watched::start(environment(command, &self.home), program)
    }
}

fn environment(mut command: Command, home: &Path) -> Command {
    command.env("XDG_RUNTIME_DIR", home).env("HOME", home);
    for other in [
        "PULSE_SERVER",
        "PULSE_RUNTIME_PATH",
        "DBUS_SESSION_BUS_ADDRESS",
    ] {
        command.env_remove(other);
    }
    command
}

/// The row of such a call.
pub(super) fn rows(lab: &Lab, folder: &Path) -> Result<Vec<Row>> {
    let server = Server::start(folder.join("sound"))?;
    let variables = server.variables();
    let near = Side {
        audio: "microphone:lips",
        environment: &variables,
        ..Side::SILENT
    };
    let far = Side {
        speaker: "speaker:ear",
        environment: &variables,
        ..Side::SILENT
    };
    let speech = folder.join("long.wav");
    let repeated = Command::new("sox")
        .arg(folder.join("one.wav"))
        .arg(&speech)
        .args(["repeat", "4"])
        .status()?;
    ensure!(repeated.success(), "sox fails");
    let tape = folder.join("both.raw");
    let running = lab.begin(&near, &far, LinkConfig::delay(DELAY), LENGTH)?;
    let _player = server.run("paplay", &["--device=mouth", text(&speech)?])?;
    sleep(RAMP);
    let shape = ["--raw", "--format=s16le", "--rate=48000", "--channels=2"];
    let mut arguments = vec!["--device=both.monitor", "--latency-msec=50"];
    arguments.extend(shape);
    arguments.push(text(&tape)?);
    let recorder = server.run("parec", &arguments)?;
    sleep(MEASURED);
    recorder.signal(Signal::TERM)?;
    let _ = recorder.wait(PATIENCE)?;
    let period = server.period();
    let [_, far] = running.end()?;
    let [said, heard] = channels(&fs::read(&tape)?);
    fs::remove_file(&tape)?;
    let until = u64::try_from((MEASURED - Duration::from_secs(2)).as_micros())?;
    let name = format!("{NAME}: added audio latency p95");
    let Some(voice) = voice::judge(&said, &heard, 0, until) else {
        let why = "nothing was heard";
        return Ok(vec![Row::failed(name, Bar::AtMost(BAR), "ms", why)]);
    };
    let half = DELAY.as_secs_f64() * 1e3;
    let (p50, p95) = voice.latency_millis;
    let underruns = far.last().map_or(0, |last| last.sound_in.underruns);
    let beside = format!(
        "beyond half the round trip of {half:.0} ms, from one device to the other; p50 {:.0}, told in {:.0} % of the windows, PESQ {:.2}, {underruns} underruns; the device moves {period} at once; no camera can be had here",
        p50 - half,
        voice.told_percent,
        voice.pesq
    );
    Ok(vec![Row::new(
        name,
        Bar::AtMost(BAR),
        p95 - half,
        "ms",
        beside,
    )])
}

/// The latency that the first sink is configured for, µs.
fn configured(sinks: &str) -> Option<f64> {
    let (_, rest) = sinks.split_once("configured ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Both channels of interleaved samples, by one clock.
fn channels(tape: &[u8]) -> [Sound; 2] {
    let mut samples = [Vec::new(), Vec::new()];
    for frame in tape.chunks_exact(4) {
        for (channel, bytes) in samples.iter_mut().zip(frame.chunks_exact(2)) {
            channel.push(f32::from(i16::from_le_bytes([bytes[0], bytes[1]])) / 32_768.0);
        }
    }
    samples.map(|samples| Sound::new(samples, vec![(0, 0)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_is_read_from_the_list() {
        let list = "Sink #0\n\tLatency: 168 usec, configured 2500 usec\n\tFlags: LATENCY\nSink #1\n\tLatency: 69 usec, configured 50000 usec\n";
        assert_eq!(configured(list), Some(2_500.0));
        assert_eq!(configured("No such entity"), None);
    }

    #[test]
    fn channels_are_told_apart() {
        let tape: Vec<u8> = [100_i16, -200, 300, -400]
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        let [left, right] = channels(&tape);
        let scaled = |values: [i16; 2]| values.map(|value| f32::from(value) / 32_768.0);
        assert_eq!(left.samples, scaled([100, 300]));
        assert_eq!(right.samples, scaled([-200, -400]));
        assert_eq!(left.index_at(1_000_000), Some(48_000));
    }
}
