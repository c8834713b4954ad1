//! Real sound through a real sound server: a PulseAudio of the test's own, whose only loudspeaker leads nowhere
//! and whose only microphone hears that loudspeaker.
//!
//! Each test starts a server in a folder of its own, and runs this program again beside it, since the way to
//! the server is in the environment. It needs `pulseaudio`, and fails without.

use std::{
    env, fs,
    io::ErrorKind,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use media::{
    AudioTime, VideoTime,
    capture::{
        AudioSpec, BLOCK, CaptureClock, CaptureError, MARK_PERIOD, Mark, MarkFinder, SoundOptions,
        SoundSource, Tone, list, open_sound,
    },
    playback::{self, AudioSinkSpec, EchoReference, SoundSink},
    voice::{VoiceConfig, VoiceProcessor},
};

/// How long anything may take here before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the process number of the server is told to the inner run.
const SERVER: &str = "LANDLINE_TEST_SOUND_SERVER";

#[test]
fn a_tone_goes_through_the_sound_server() {
    run_beside_a_server("inside_a_tone_goes_through");
}

#[test]
fn echo_through_the_sound_server_is_taken_out() {
    run_beside_a_server("inside_echo_is_taken_out");
}

#[test]
fn devices_come_and_go_and_leave_nothing() {
    run_beside_a_server("inside_devices_come_and_go");
}

#[test]
fn a_server_that_dies_is_told() {
    run_beside_a_server("inside_the_server_dies");
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(home: &Path) -> Server {
    let child = environment(&mut Command::new("pulseaudio"), home)
        .args([
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
        ])
        .arg("--load=module-native-protocol-unix")
        .arg("--load=module-null-sink sink_name=loud norewinds=1 rate=48000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("this test needs pulseaudio (.ci/setup test)"),
            _ => panic!("{error}"),
        });
    let server = Server(child);
    let socket = home.join("pulse/native");
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < deadline, "the sound server does not start");
        thread::sleep(Duration::from_millis(20));
    }
    server
}

fn environment<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    command
        .env("XDG_RUNTIME_DIR", home)
        .env("HOME", home)
        .env_remove("PULSE_SERVER")
        .env_remove("PULSE_RUNTIME_PATH")
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
}

fn run_beside_a_server(test: &str) {
    let home = tempfile::tempdir().expect("a folder");
    let server = start(home.path());
    let program = env::current_exe().expect("this program");
    let status = environment(&mut Command::new(program), home.path())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(SERVER, server.0.id().to_string())
        .status()
        .expect("this program runs");
    assert!(status.success(), "{test} failed: see above");
}

fn microphone(wanted: &str) -> Result<Box<dyn SoundSource>, CaptureError> {
    let clock = CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now());
    let spec: AudioSpec = wanted.parse().expect("a source");
    Ok(open_sound(&spec, &SoundOptions { clock })?.expect("a microphone is a source"))
}

fn speaker(wanted: &str) -> Result<Box<dyn SoundSink>, CaptureError> {
    let spec: AudioSinkSpec = wanted.parse().expect("a sink");
    playback::open_sound(&spec)
}

#[test]
// The outer test runs it in a process of its own, whose environment names the server that it started.
#[ignore = "run by a test above, beside a sound server"]
fn inside_a_tone_goes_through() {
    let devices = list();
    assert_eq!(devices.speakers.len(), 1, "{devices:?}");
    assert!(devices.speakers[0].default && devices.microphones[0].default);
    let error = speaker("speaker:nobody").err().expect("there is none");
    assert!(
        error.to_string().contains(&devices.speakers[0].name),
        "{error}"
    );

    let mut source = microphone("microphone").expect("a microphone");
    let mut sink = speaker(&format!("speaker:{}", devices.speakers[0].name)).expect("a speaker");
    let mut reference = sink.take_reference().expect("what it plays can be heard");
    assert!(sink.take_reference().is_none());

    let done = AtomicBool::new(false);
    let (heard, times, lost, played) = thread::scope(|scope| {
        let player = scope.spawn(|| {
            let played = play(&mut *sink, &mut reference, 250);
            // What is still on its way is heard, too.
            thread::sleep(Duration::from_millis(300));
            done.store(true, Ordering::Release);
            played
        });
        let (heard, times) = hear(&mut *source, &done);
        let lost = source.lost();
        (heard, times, lost, player.join().expect("no panic"))
    });

    let counts = sink.counts();
    println!("level {:?}, {counts:?}, lost {}", sink.level(), lost);
    assert!(sink.level() < Duration::from_millis(300));
    assert!(counts.played >= 240 * BLOCK as u64, "{counts:?}");
    let microphone = correlations(&heard);
    let echo = correlations(&played);
    println!("microphone {microphone:.4?}, reference {echo:.4?}");
    assert!(median(&microphone) > 0.95 && median(&echo) > 0.95);
    // Capture times go on as samples do.
    let (first, last) = (times[0].ticks(), times[times.len() - 1].ticks());
    let samples = (times.len() as u64 - 1) * BLOCK as u64 + lost;
    let off = (last - first).abs_diff(samples);
    assert!(off < samples / 50 + 960, "{off} ticks off in {samples}");
}

/// Plays a tone, so many blocks; returns what the echo reference was.
fn play(sink: &mut dyn SoundSink, reference: &mut EchoReference, blocks: usize) -> Vec<f32> {
    let mut tone = Tone::new(440.0);
    let (mut block, mut played) = ([0.0; BLOCK], Vec::new());
    for _ in 0..blocks {
        assert!(
            sink.wait(PATIENCE).expect("the server lives"),
            "it takes nothing"
        );
        tone.fill(&mut block);
        sink.write(&block).expect("the server lives");
        while reference.read(&mut block) {
            played.extend_from_slice(&block);
        }
    }
    played
}

fn hear(source: &mut dyn SoundSource, done: &AtomicBool) -> (Vec<f32>, Vec<AudioTime>) {
    let (mut block, mut heard, mut times) = ([0.0; BLOCK], Vec::new(), Vec::new());
    while !done.load(Ordering::Acquire) {
        let time = source
            .read(&mut block, PATIENCE)
            .expect("the server lives")
            .expect("it gives sound");
        heard.extend_from_slice(&block);
        times.push(time);
    }
    (heard, times)
}

/// How alike the sound after each mark is to what was played there.
fn correlations(heard: &[f32]) -> Vec<f32> {
    let mut marks = MarkFinder::new();
    let found: Vec<Mark> = marks.push(heard);
    assert!(found.len() >= 3, "{} marks found", found.len());
    let mut tone = vec![0.0; 16 * MARK_PERIOD as usize];
    Tone::new(440.0).fill(&mut tone);
    let window = MARK_PERIOD as usize * 9 / 10;
    found
        .iter()
        .filter_map(|mark| {
            let truth = usize::from(mark.number) * MARK_PERIOD as usize;
            let truth = &tone[truth..truth + window];
            // The finder is right to a few samples; the best place is the right one.
            (mark.sample.saturating_sub(8)..=mark.sample + 8)
                .filter_map(|at| {
                    let at = at as usize;
                    Some(correlation(heard.get(at..at + window)?, truth))
                })
                .max_by(f32::total_cmp)
        })
        .collect()
}

fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn median(values: &[f32]) -> f32 {
    let mut values = values.to_vec();
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}

#[test]
// The outer test runs it in a process of its own, whose environment names the server that it started.
#[ignore = "run by a test above, beside a sound server"]
fn inside_the_server_dies() {
    let mut source = microphone("microphone").expect("a microphone");
    let mut sink = speaker("speaker").expect("a speaker");
    let mut block = [0.0; BLOCK];
    source
        .read(&mut block, PATIENCE)
        .expect("the server lives")
        .expect("it gives sound");
    assert!(sink.wait(PATIENCE).expect("the server lives"));
    let server = env::var(SERVER).expect("told by the outer run");
    let killed = Command::new("kill").args(["-9", &server]).status();
    assert!(killed.is_ok_and(|status| status.success()));

    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match source.read(&mut block, Duration::from_millis(100)) {
            Ok(_) => assert!(Instant::now() < deadline, "nobody noticed"),
            Err(error) => break error,
        }
    };
    println!("microphone: {error}");
    assert!(error.may_pass(), "{error:?}");
    let error = loop {
        // The ring fills up, since nobody drains it; then it waits.
        match sink
            .wait(Duration::from_millis(100))
            .and_then(|_| sink.write(&block))
        {
            Ok(()) => assert!(Instant::now() < deadline, "nobody noticed"),
            Err(error) => break error,
        }
    };
    println!("speaker: {error}");
    assert!(error.may_pass(), "{error:?}");
    // Opened again, they say so at once.
    let error = microphone("microphone:loud")
        .err()
        .expect("there is no server");
    println!("again: {error}");
}

/// Noise in syllables, four a second, at a third of full scale at most.
struct Babble {
    random: u32,
    at: usize,
}

impl Babble {
    fn fill(&mut self, block: &mut [f32; BLOCK]) {
        for sample in block {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            let noise = self.random as f32 / u32::MAX as f32 * 2.0 - 1.0;
            let time = self.at as f32 / 48_000.0;
            *sample = 0.33 * noise * (0.2 + 0.8 * (25.0 * time).sin().abs());
            self.at += 1;
        }
    }
}

fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32
}

#[test]
// The outer test runs it in a process of its own, whose environment names the server that it started.
#[ignore = "run by a test above, beside a sound server"]
fn inside_echo_is_taken_out() {
    /// Blocks that are played, and those after which the canceller has learned the way.
    const PLAYED: usize = 500;
    const LEARNED: usize = 250;
    let mut source = microphone("microphone").expect("a microphone");
    let mut sink = speaker("speaker").expect("a speaker");
    let mut reference = sink.take_reference().expect("what it plays can be heard");
    let mut voice = VoiceProcessor::new(VoiceConfig {
        echo: true,
        ..VoiceConfig::OFF
    });
    let mut enhancements = Vec::new();
    thread::scope(|scope| {
        let player = scope.spawn(|| {
            let mut babble = Babble { random: 7, at: 0 };
            let mut block = [0.0; BLOCK];
            for _ in 0..PLAYED {
                assert!(sink.wait(PATIENCE).expect("the server lives"));
                babble.fill(&mut block);
                sink.write(&block).expect("the server lives");
            }
        });
        let (mut heard, mut played) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut blocks = 0;
        while !player.is_finished() {
            source
                .read(&mut heard, PATIENCE)
                .expect("the server lives")
                .expect("it gives sound");
            while reference.read(&mut played) {
                voice.process_render(&played);
            }
            let before = power(&heard);
            voice.process_capture(&mut heard);
            blocks += 1;
            if blocks > LEARNED && before > 1e-4 {
                enhancements.push(10.0 * (before / power(&heard).max(1e-10)).log10());
            }
        }
    });
    let middle = median(&enhancements);
    println!(
        "{middle:.1} dB in {} blocks, {:?}",
        enhancements.len(),
        sink.counts()
    );
    assert!(enhancements.len() > 100 && middle >= 20.0, "{middle} dB");
}

/// Runs the tool of the server, which finds it as we do.
fn pactl(arguments: &[&str]) {
    let status = Command::new("pactl")
        .args(arguments)
        .stdout(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "this test needs pactl (.ci/setup test): {arguments:?}"
    );
}

/// Threads and open files of this process.
fn holdings() -> (usize, usize) {
    let count = |folder: &str| fs::read_dir(folder).expect("a system with /proc").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
// The outer test runs it in a process of its own, whose environment names the server that it started.
#[ignore = "run by a test above, beside a sound server"]
fn inside_devices_come_and_go() {
    let mut block = [0.0; BLOCK];
    let before = holdings();
    for _ in 0..3 {
        let mut source = microphone("microphone").expect("a microphone");
        let mut sink = speaker("speaker").expect("a speaker");
        for _ in 0..5 {
            assert!(sink.wait(PATIENCE).expect("it is there"));
            sink.write(&block).expect("it is there");
            let read = source.read(&mut block, PATIENCE);
            read.expect("it is there").expect("it gives sound");
        }
        pactl(&["unload-module", "module-null-sink"]);
        let gone = Instant::now();
        let error = loop {
            match source.read(&mut block, PATIENCE) {
                Ok(_) => assert!(gone.elapsed() < PATIENCE, "nobody noticed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CaptureError::Gone { .. }), "{error:?}");
        let error = loop {
            match sink.wait(PATIENCE).and_then(|_| sink.write(&block)) {
                Ok(()) => assert!(gone.elapsed() < PATIENCE, "nobody noticed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CaptureError::Gone { .. }), "{error:?}");
        println!("told after {:?}", gone.elapsed());
        drop((source, sink));
        // Looked for again and again, as in a call.
        for wanted in ["speaker", "speaker:loud", "speaker:loud"] {
            let error = speaker(wanted).err().expect("there is none");
            assert!(error.may_pass(), "{error:?}");
        }
        assert_eq!(holdings(), before, "threads and files");
        pactl(&[
            "load-module",
            "module-null-sink",
            "sink_name=loud",
            "norewinds=1",
        ]);
    }
}
