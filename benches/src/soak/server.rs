//! A sound server of our own, whose devices come and go at will and whose clock runs a little fast: a
//! PulseAudio with null sinks, under libfaketime.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use media::capture::{BLOCK, Tone};

use crate::process::Watched;
use crate::programs::{Machine, PATIENCE};

/// How much faster the devices' clock runs than the machine's: 200 ppm, what cheap quartzes reach.
pub const DRIFT: f64 = 1.000_2;

/// Pitch of the tone that the microphones hear, hertz.
const PITCH: f32 = 660.0;

/// The library that fakes clocks, where Debian puts it.
///
/// # Errors
/// Where it is not installed.
pub fn fake_time_library() -> Result<PathBuf> {
    ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .iter()
        .map(|machine| PathBuf::from(format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .context("libfaketime is missing: install the package faketime (.ci/setup test)")
}

/// The running server; ends when dropped.
pub struct SoundServer {
    process: Watched,
    home: PathBuf,
    speech: Option<Child>,
}

impl SoundServer {
    /// Starts one without any device, on a machine of the lab, which takes it along when it is cleared away.
    ///
    /// # Errors
    /// Where pulseaudio is missing or does not start.
    pub fn start(machine: &Machine, home: &Path) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let mut command = machine.command(Path::new("pulseaudio"));
        set_home(&mut command, home);
        command
            .args([
                "-n",
                "--daemonize=no",
                "--exit-idle-time=-1",
                "--use-pid-file=no",
                "--load=module-native-protocol-unix",
            ])
            .env("LD_PRELOAD", fake_time_library()?)
            .env("FAKETIME", format!("+0 x{DRIFT}"))
            .stderr(File::create(home.join("log"))?);
        let process = Watched::start(command, "pulseaudio")
            .context("the call's devices are PulseAudio's (.ci/setup test)")?;
        let server = Self {
            process,
            home: home.to_owned(),
            speech: None,
        };
        let deadline = Instant::now() + PATIENCE;
        while !home.join("pulse/native").exists() {
            ensure!(
                Instant::now() < deadline,
                "the sound server does not start: see {}",
                home.join("log").display()
            );
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Brings the loudspeaker `NAME` and a microphone, `NAME-room.monitor`, in which a tone with marks is heard.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn plug_in(&mut self, name: &str) -> Result<()> {
        for sink in [name.to_owned(), format!("{name}-room")] {
            let name = format!("sink_name={sink}");
            self.control(&["load-module", "module-null-sink", &name, "rate=48000"])?;
        }
        self.control(&["set-default-sink", name])?;
        self.control(&["set-default-source", &format!("{name}-room.monitor")])?;
        self.speech = Some(self.speak(&format!("{name}-room"))?);
        Ok(())
    }

    /// Takes all devices away.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn unplug(&mut self) -> Result<()> {
        self.control(&["unload-module", "module-null-sink"])?;
        self.hush();
        Ok(())
    }

    /// A recording of what the loudspeaker plays, for so long, 48 kHz mono.
    ///
    /// # Errors
    /// Where it cannot be recorded.
    pub fn listen(&self, name: &str, length: Duration) -> Result<Vec<f32>> {
        let path = self.home.join("heard.raw");
        let mut command = Command::new("parec");
        set_home(&mut command, &self.home);
        command
            .args([
                "--rate=48000",
                "--channels=1",
                "--format=s16le",
                "--latency-msec=20",
            ])
            .arg(format!("--device={name}.monitor"))
            .stdout(File::create(&path)?)
            .stderr(Stdio::null());
        let mut recorder = command.spawn().context("starting parec")?;
        sleep(length);
        recorder.kill()?;
        recorder.wait()?;
        let bytes = std::fs::read(&path)?;
        let samples = bytes.chunks_exact(2);
        Ok(samples
            .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
            .collect())
    }

    /// Sets a command's environment so that it finds this server and no other.
    pub fn show_to(&self, command: &mut Command) {
        set_home(command, &self.home);
    }

    /// Whether the server still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    fn control(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("pactl");
        set_home(&mut command, &self.home);
        let said = command.args(arguments).output().context("starting pactl")?;
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            bail!("pactl {}: {why}", arguments.join(" "));
        }
        Ok(())
    }

    /// Plays the tone on a sink, until the player is killed or its sink goes.
    fn speak(&self, sink: &str) -> Result<Child> {
        let mut command = Command::new("pacat");
        set_home(&mut command, &self.home);
        let mut player = command
            .args([
                "--rate=48000",
                "--channels=1",
                "--format=s16le",
                "--latency-msec=50",
            ])
            .arg(format!("--device={sink}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting pacat")?;
        let mut to = player.stdin.take().context("a player without an input")?;
        thread::Builder::new()
            .name("tone of the room".to_owned())
            .spawn(move || {
                let (mut tone, mut samples) = (Tone::new(PITCH), [0.0; BLOCK]);
                loop {
                    tone.fill(&mut samples);
                    let bytes: Vec<u8> = samples
                        .iter()
                        .flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes())
                        .collect();
                    if to.write_all(&bytes).is_err() {
                        return;
                    }
                }
            })?;
        Ok(player)
    }

    fn hush(&mut self) {
        if let Some(mut speech) = self.speech.take() {
            let _ = speech.kill();
            let _ = speech.wait();
        }
    }
}

impl Drop for SoundServer {
    fn drop(&mut self) {
        self.hush();
    }
}

fn set_home(command: &mut Command, home: &Path) {
    command
        .env("XDG_RUNTIME_DIR", home)
        .env("HOME", home)
        .env_remove("PULSE_SERVER")
        .env_remove("PULSE_RUNTIME_PATH")
        .env_remove("DBUS_SESSION_BUS_ADDRESS");
}
