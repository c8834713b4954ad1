//! The real programs as processes: a relay and users with a data folder each. Every process ends with its
//! handle, every wait has a limit.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take; far more than it does, for machines that are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of one program that wait to be looked at.
const MAX_LINES: usize = 10_000;

/// Reads what a program says.
fn reader<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(read)
        .expect("a thread starts")
}

/// Where the programs are, the relay's built if it is not there yet.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let landline = PathBuf::from(env!("CARGO_BIN_EXE_landline"));
        let folder = landline
            .parent()
            .expect("a program is in a folder")
            .to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "relay",
            "--bin",
            "landline-relay",
        ]);
        cargo
            .arg("--target-dir")
            .arg(folder.parent().expect("a profile is in a target folder"));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo told this test of its package would make build scripts run again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        assert!(
            cargo.status().expect("cargo runs").success(),
            "the relay does not build"
        );
        folder
    })
}

/// A process whose lines are read; killed with its handle.
pub(crate) struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    errors: Arc<Mutex<VecDeque<String>>>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(name: &str, mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (tell, lines) = sync_channel(MAX_LINES);
        let stdout = child.stdout.take().expect("piped");
        reader(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::<Mutex<VecDeque<String>>>::default();
        let (stderr, kept) = (child.stderr.take().expect("piped"), Arc::clone(&errors));
        reader(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().expect("nobody panics with it");
                kept.push_back(line);
                if kept.len() > 100 {
                    kept.pop_front();
                }
            }
        });
        let input = child.stdin.take();
        Self {
            name: name.to_owned(),
            child,
            input,
            lines,
            seen: Vec::new(),
            errors,
        }
    }

    /// The first line from now on of which `pick` makes something.
    pub(crate) fn wait_line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let picked = pick(&line);
                    self.seen.push(line);
                    if let Some(picked) = picked {
                        return picked;
                    }
                }
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => "did not come",
                        RecvTimeoutError::Disconnected => "did not come before the end",
                    };
                    panic!("{}: {what} {why}\n{}", self.name, self.report());
                }
            }
        }
    }

    /// The first JSON line from now on that `pick` takes.
    pub(crate) fn wait_json(&mut self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        self.wait_line(what, |line| {
            serde_json::from_str(line).ok().filter(|value| pick(value))
        })
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{line}").expect("it reads its input");
    }

    /// Ends its input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Kills it as a crash would (SIGKILL).
    pub(crate) fn crash(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// What Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let id = rustix::process::Pid::from_raw(id).expect("a process id");
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }

    /// Waits for its end, which must have the exit code `code`.
    pub(crate) fn wait_exit(&mut self, code: i32) {
        let found = self.wait_end();
        assert_eq!(found, code, "{}\n{}", self.name, self.report());
    }

    fn wait_end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end\n{}",
                self.name,
                self.report()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn report(&self) -> String {
        let errors = self.errors.lock().expect("nobody panics with it");
        let errors: Vec<_> = errors.iter().map(String::as_str).collect();
        format!(
            "output:\n{}\nerrors:\n{}",
            self.seen.join("\n"),
            errors.join("\n")
        )
    }
}

/// A relay on loopback, with ports that it keeps over a restart.
pub(crate) struct Relay {
    folder: PathBuf,
    listen: String,
    stun_port: String,
    pub(crate) address: String,
    program: Option<Program>,
}

impl Relay {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut relay = Self {
            folder: folder.join("relay"),
            listen: "127.0.0.1:0".to_owned(),
            stun_port: "0".to_owned(),
            address: String::new(),
            program: None,
        };
        relay.restart();
        relay
    }

    /// Starts it, again if it ran before.
    pub(crate) fn restart(&mut self) {
        self.program = None;
        let mut command = Command::new(programs().join("landline-relay"));
        command.arg("--data-dir").arg(&self.folder);
        command.args(["--listen", &self.listen, "--stun-port", &self.stun_port]);
        command
            .env_remove("LANDLINE_TOKEN")
            .env_remove("JOURNAL_STREAM");
        let mut program = Program::start("landline-relay", command);
        let ports: Vec<String> = program.wait_line("its ports", |line| {
            let listed = line.strip_prefix("Listening on UDP ")?;
            Some(listed.split(", ").map(str::to_owned).collect())
        });
        self.listen.clone_from(&ports[0]);
        if let Some(second) = ports.get(1).and_then(|at| at.rsplit(':').next()) {
            second.clone_into(&mut self.stun_port);
        }
        self.address = program.wait_line("its address", |line| {
            line.contains('#').then(|| line.to_owned())
        });
        self.program = Some(program);
    }

    /// Kills it as a crash would (SIGKILL).
    pub(crate) fn crash(&mut self) {
        self.program.take().expect("it runs").crash();
    }
}

/// A person: a name and a data folder.
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) folder: PathBuf,
    pub(crate) id: String,
}

impl User {
    /// Somebody with a fresh identity, whose relay this is.
    pub(crate) fn new(folder: &Path, name: &'static str, relay: &Relay) -> Self {
        let mut user = Self {
            name,
            folder: folder.join(name.to_lowercase()),
            id: String::new(),
        };
        let shown = user.run(
            &["--relay", &relay.address, "--name", name, "--json", "id"],
            0,
        );
        let shown: Value = serde_json::from_str(shown.trim()).expect("one object");
        shown["id"]
            .as_str()
            .expect("an id")
            .clone_into(&mut user.id);
        user
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs().join("landline"));
        command.arg("--data-dir").arg(&self.folder).args(arguments);
        for variable in [
            "LANDLINE_RELAY",
            "LANDLINE_TOKEN",
            "LANDLINE_DATA_DIR",
            "RUST_LOG",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Starts a command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::start(
            &format!("{} {}", self.name, arguments.join(" ")),
            self.command(arguments),
        )
    }

    /// Runs a command to its end, which must have the exit code `code`; gives its output.
    pub(crate) fn run(&self, arguments: &[&str], code: i32) -> String {
        let output = self.output(arguments);
        let (text, errors) = [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8_lossy(bytes))
            .into();
        let found = output.status.code();
        let name = self.name;
        assert_eq!(
            found,
            Some(code),
            "{name} {arguments:?}\noutput:\n{text}\nerrors:\n{errors}"
        );
        text.into_owned()
    }

    /// What a command that must fail with `code` says on standard error.
    pub(crate) fn fail(&self, arguments: &[&str], code: i32) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{} {arguments:?}\n{errors}",
            self.name
        );
        errors
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("landline starts");
        let [stdout, stderr] = [
            Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>,
            Box::new(child.stderr.take().expect("piped")),
        ]
        .map(|mut pipe| {
            reader(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                bytes
            })
        });
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it can be asked") {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{} {arguments:?} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let [stdout, stderr] = [stdout, stderr].map(|pipe| pipe.join().expect("reads"));
        Output {
            status,
            stdout,
            stderr,
        }
    }

    /// Starts `receive` and waits until it is at the relay.
    pub(crate) fn receive(&self, accept: &str) -> Program {
        let into = self.inbox();
        let into = into.to_str().expect("temporary folders are UTF-8");
        let mut program = self.start(&["--json", "receive", "--accept", accept, "--into", into]);
        program.wait_json("ready", |event| event["event"] == "ready");
        program
    }

    /// Where received files go.
    pub(crate) fn inbox(&self) -> PathBuf {
        self.folder.join("in")
    }

    /// Adds `other` to the address book under its name.
    pub(crate) fn knows(&self, other: &Self) {
        self.run(&["contacts", "add", &other.id, "--name", other.name], 0);
    }
}

/// A relay and two people who know each other.
pub(crate) fn scene() -> (tempfile::TempDir, Relay, User, User) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let relay = Relay::start(folder.path());
    let [ann, bob] = ["Ann", "Bob"].map(|name| User::new(folder.path(), name, &relay));
    ann.knows(&bob);
    bob.knows(&ann);
    (folder, relay, ann, bob)
}

/// The text of a message event.
pub(crate) fn text_of(event: &Value) -> Option<&str> {
    (event["event"] == "message").then(|| event["message"]["text"].as_str())?
}

/// What `md5sum` says of a file.
pub(crate) fn md5sum(path: &Path) -> String {
    let output = Command::new("md5sum")
        .arg(path)
        .output()
        .expect("md5sum is there");
    assert!(output.status.success(), "md5sum {}", path.display());
    let text = String::from_utf8(output.stdout).expect("digests are ASCII");
    text.trim_start_matches('\\')[..32].to_owned()
}
