//! A call on the terminal: what `call` and `answer` share. One status line while it runs, keys, a JSON object
//! for each event, and the numbers at the end.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use media::pipeline;
use media::stats::{Snapshot, Summary};
use p2p_net::PathKind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::out::{Out, describe, label_in, trust};
use super::terminal::{err_paint, lines, remark};
use crate::args::MediaArgs;
use crate::call::MediaChoice;
use crate::command::{CallChange, Command};
use crate::engine::call_in_words;
use crate::event::{CallStep, Event, PeerView};
use crate::session::Session;
use crate::store::calls::CallRecord;
use crate::wire::Sources;
use crate::{Exit, Problem};

/// Keys that wait to be taken.
const MAX_KEYS: usize = 16;
const KEYS: &str = "m mute · v camera · h hold · q hang up";

impl MediaArgs {
    /// What the engine is told; file names become absolute, since it may run elsewhere.
    pub(super) fn choice(&self) -> Result<MediaChoice, Problem> {
        let name = |text: &str| -> Result<String, Problem> {
            let lower = text.to_ascii_lowercase();
            if lower.ends_with(".y4m") || lower.ends_with(".wav") {
                return absolute(Path::new(text)).map(|path| path.display().to_string());
            }
            Ok(text.to_owned())
        };
        let choice = MediaChoice {
            video: Some(name(&self.video)?),
            screen: self.screen.as_deref().map(name).transpose()?,
            audio: Some(name(&self.audio)?),
            speaker: Some(name(&self.speaker)?),
            save_video: self.save_video.as_deref().map(absolute).transpose()?,
            record: self.record.as_deref().map(absolute).transpose()?,
            measure: self.measure.as_deref().map(absolute).transpose()?,
            muted: self.muted,
            raw_voice: self.raw_voice,
            max_kilobits: self.max_rate,
        };
        choice.config()?;
        Ok(choice)
    }
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, Problem> {
    std::path::absolute(path)
        .map_err(|error| Problem::io(format!("cannot use {}", path.display()), &error))
}

/// What the person does, one letter at a time: keys of a terminal, or the first letters of lines.
pub(super) struct Keys(Option<mpsc::Receiver<char>>);

impl Keys {
    /// Listens, if there is anybody.
    pub(super) fn listen() -> Self {
        let (tell, told) = mpsc::channel(MAX_KEYS);
        if io::stdin().is_terminal() {
            let reader = std::thread::Builder::new()
                .name("landline-keys".to_owned())
                .spawn(move || {
                    let terminal = console::Term::stdout();
                    while let Ok(key) = terminal.read_char() {
                        if tell.blocking_send(key).is_err() {
                            return;
                        }
                    }
                });
            drop(reader);
        } else {
            let mut lines = lines();
            tokio::spawn(async move {
                while let Some(line) = lines.recv().await {
                    let key = line.chars().next().unwrap_or('\n');
                    if tell.send(key).await.is_err() {
                        return;
                    }
                }
            });
        }
        Self(Some(told))
    }

    /// The next one; never, once the input has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> char {
        if let Some(keys) = &mut self.0
            && let Some(key) = keys.recv().await
        {
            return key.to_ascii_lowercase();
        }
        self.0 = None;
        std::future::pending().await
    }
}

/// One call as the person sees it.
pub(super) struct Phone {
    out: Out,
    line: Option<ProgressBar>,
    stats: bool,
    limit: Option<Duration>,
    /// The call that rings or runs.
    number: Option<i64>,
    label: String,
    began: Option<Instant>,
    ours: Sources,
    theirs: Sources,
    path: PathKind,
    last: Option<Box<Snapshot>>,
    silent: bool,
}

impl Phone {
    pub(super) fn new(out: Out, args: &MediaArgs) -> Self {
        let wanted = !out.is_json && io::stderr().is_terminal();
        let line = wanted.then(|| {
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("{spinner:.green} {msg}") {
                line.set_style(style);
            }
            line
        });
        Self {
            out,
            line,
            stats: args.stats,
            limit: args.for_seconds.map(Duration::from_secs),
            number: None,
            label: String::new(),
            began: None,
            ours: Sources::default(),
            theirs: Sources::default(),
            path: PathKind::None,
            last: None,
            silent: false,
        }
    }

    /// A call begins to ring or to dial.
    pub(super) fn take(&mut self, number: i64, label: String, choice: &MediaChoice) {
        self.number = Some(number);
        self.label = label;
        self.began = None;
        self.ours = choice.sources();
        self.last = None;
        self.silent = false;
    }

    pub(super) fn number(&self) -> Option<i64> {
        self.number
    }

    pub(super) fn is_talking(&self) -> bool {
        self.began.is_some()
    }

    /// When `--for` ends the call.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.began? + self.limit?)
    }

    /// `--for` has done its work.
    pub(super) fn forget_deadline(&mut self) {
        self.began = self.began.filter(|_| self.limit.is_none());
    }

    /// Says something above the status line.
    pub(super) fn say(&self, text: &str) {
        match &self.line {
            Some(line) => line.suspend(|| remark(text)),
            None => remark(text),
        }
    }

    fn status(&self, text: String) {
        if let Some(line) = &self.line {
            line.set_message(text);
            line.tick();
        }
    }

    /// Who calls, as a question.
    pub(super) fn question(&self, from: &PeerView, sources: &Sources) -> String {
        let how = if sources.camera || sources.screen {
            "calls, with picture"
        } else {
            "calls"
        };
        format!(
            "{} ({}) {how}. Take it? [y/N]",
            err_paint("1", &describe(from)),
            trust(from.standing, from.verified)
        )
    }

    /// Shows what happens; gives the end of our call.
    pub(super) fn on_event(
        &mut self,
        event: Event,
        contacts: &[crate::contacts::Contact],
    ) -> Option<(Box<CallRecord>, Option<Problem>)> {
        if matches!(event, Event::Call { .. }) {
            self.out.json(&event);
        }
        match event {
            Event::Peer { peer } => {
                self.on_path(&peer);
                None
            }
            Event::Call { number, step, .. } if Some(number) == self.number => self.on_step(step),
            Event::Call {
                peer,
                step: CallStep::Ended { ref record, .. },
                ..
            } => {
                let label = label_in(contacts, &peer);
                self.say(&format!("{label} called: {}", call_in_words(record)));
                None
            }
            _ => None,
        }
    }

    fn on_path(&mut self, peer: &PeerView) {
        if self.began.is_none() || peer.label() != self.label || peer.path == self.path {
            return;
        }
        self.path = peer.path;
        match self.path {
            PathKind::Direct => self.say("— the line is direct now"),
            PathKind::Relayed => self.say("— the line goes through the relay now"),
            _ => {}
        }
    }

    fn on_step(&mut self, step: CallStep) -> Option<(Box<CallRecord>, Option<Problem>)> {
        let label = self.label.clone();
        match step {
            CallStep::Calling => self.status(format!("calling {label} …")),
            CallStep::Ringing => {
                self.say(&format!("it rings at {label}"));
                self.status(format!("ringing at {label} …"));
            }
            CallStep::Incoming { from, sources } => {
                let question = self.question(&from, &sources);
                self.say(&question);
            }
            CallStep::Began { sources } => {
                self.theirs = sources;
                self.began = Some(Instant::now());
                self.say(&format!("in a call with {}", err_paint("1", &label)));
                if io::stdin().is_terminal() && !self.out.is_json {
                    self.say(&err_paint("2", KEYS));
                }
            }
            CallStep::Sources { ours, theirs } => self.on_sources(ours, theirs),
            CallStep::Silent { silent } => {
                self.silent = silent;
                self.say(if silent {
                    "— nothing comes; reconnecting …"
                } else {
                    "— back"
                });
            }
            CallStep::Media { what } => self.on_media(&what),
            CallStep::Stats { stats } => {
                let text = self.figures(&stats);
                if self.stats && !self.out.is_json {
                    match &self.line {
                        Some(line) => line.suspend(|| self.out.text(&text)),
                        None => self.out.text(&text),
                    }
                }
                self.status(text);
                self.last = Some(stats);
            }
            CallStep::Quality { .. } => {}
            CallStep::Ended {
                record,
                summary,
                problem,
            } => {
                self.number = None;
                self.began = None;
                if let Some(line) = &self.line {
                    line.set_message(String::new());
                    line.finish_and_clear();
                }
                self.out.text(&format!(
                    "{} {}  {}",
                    if record.outgoing { "→" } else { "←" },
                    self.out.bold(&label),
                    call_in_words(&record)
                ));
                if let Some(summary) = summary {
                    self.out.text(&self.out.dim(&summary_text(&summary)));
                }
                return Some((Box::new(record), problem));
            }
        }
        None
    }

    fn on_sources(&mut self, ours: Sources, theirs: Sources) {
        let label = &self.label;
        let changes = [
            (
                self.theirs.muted,
                theirs.muted,
                "muted the microphone",
                "speaks again",
            ),
            (
                !self.theirs.camera,
                !theirs.camera,
                "switched the camera off",
                "switched the camera on",
            ),
            (
                !self.theirs.screen,
                !theirs.screen,
                "shows no screen any more",
                "shows a screen",
            ),
            (self.theirs.held, theirs.held, "holds the call", "goes on"),
        ];
        for (before, now, on, off) in changes {
            if before != now {
                self.say(&format!("— {label} {}", if now { on } else { off }));
            }
        }
        let ours_changes = [
            (self.ours.muted, ours.muted, "muted", "no longer muted"),
            (!self.ours.camera, !ours.camera, "camera off", "camera on"),
            (self.ours.held, ours.held, "on hold", "no longer on hold"),
        ];
        for (before, now, on, off) in ours_changes {
            if before != now {
                self.say(&err_paint("2", if now { on } else { off }));
            }
        }
        (self.ours, self.theirs) = (ours, theirs);
    }

    fn on_media(&self, what: &pipeline::Event) {
        match what {
            pipeline::Event::DeviceLost { device, reason } => {
                self.say(&format!(
                    "note: going on without {}: {reason}",
                    name_of(*device)
                ));
            }
            pipeline::Event::DeviceOpened { device, name } => {
                self.say(&err_paint("2", &format!("{}: {name}", name_of(*device))));
            }
            pipeline::Event::FirstPicture { after, .. } => {
                self.say(&err_paint(
                    "2",
                    &format!("first picture after {:.2} s", after.as_secs_f64()),
                ));
            }
            pipeline::Event::Recorded(files) => {
                for file in files {
                    self.say(&format!("recorded: {}", file.display()));
                }
            }
            _ => {}
        }
    }

    /// One line of numbers.
    fn figures(&self, stats: &Snapshot) -> String {
        let seconds = stats.elapsed_millis / 1_000;
        let network = &stats.network;
        let way = if network.relayed { "relayed" } else { "direct" };
        let before = self.last.as_ref();
        let rate = |now: u64, of: fn(&Snapshot) -> u64| {
            let (then, at) = before.map_or((0, 0), |last| (of(last), last.elapsed_millis));
            let millis = stats.elapsed_millis.saturating_sub(at).max(1);
            now.saturating_sub(then) as f64 * 8.0 / millis as f64 / 1_000.0
        };
        let up = rate(network.bytes_sent, |s| s.network.bytes_sent);
        let down = rate(network.bytes_received, |s| s.network.bytes_received);
        let sent = stats.video_out.first().map_or_else(String::new, |video| {
            format!(
                " {}x{}@{:.0}",
                video.frame_width, video.frame_height, video.frames_per_second
            )
        });
        let shown = stats.video_in.first().map_or_else(String::new, |video| {
            format!(
                " {}x{}@{:.0}, {:.0} ms",
                video.frame_width, video.frame_height, video.frames_per_second, video.latency.p50
            )
        });
        let freezes: u64 = stats.video_in.iter().map(|video| video.freeze_count).sum();
        let mute = if self.ours.muted { "  muted" } else { "" };
        let silent = if self.silent { "  reconnecting" } else { "" };
        format!(
            "{:02}:{:02}  {way} {:.0} ms  ↑ {up:.2} Mbit/s{sent}  ↓ {down:.2} Mbit/s{shown}  loss {:.1} %  freezes {freezes}{mute}{silent}",
            seconds / 60,
            seconds % 60,
            network.round_trip_millis,
            network.loss * 100.0,
        )
    }

    /// What a key wants; nothing if none of ours.
    pub(super) fn change(&self, key: char) -> Option<Command> {
        let number = self.number?;
        let change = match key {
            'm' => CallChange::Mute(!self.ours.muted),
            'v' => CallChange::Camera(!self.ours.camera),
            'h' => CallChange::Hold(!self.ours.held),
            'q' => return Some(Command::EndCall { number }),
            _ => return None,
        };
        Some(Command::ChangeCall { number, change })
    }

    /// Does what a key wants in a call.
    pub(super) async fn on_key(&self, session: &Session, key: char) {
        if let Some(command) = self.change(key)
            && let Err(problem) = session.caller.call(command).await
        {
            self.say(&problem.to_string());
        }
    }
}

fn name_of(device: pipeline::Device) -> &'static str {
    match device {
        pipeline::Device::Camera => "camera",
        pipeline::Device::Screen => "screen",
        pipeline::Device::Microphone => "microphone",
        pipeline::Device::Speaker => "speaker",
        pipeline::Device::PictureSink => "saving pictures",
        pipeline::Device::Recording => "recording",
    }
}

/// The end of a call in numbers, for people.
pub(crate) fn summary_text(summary: &Summary) -> String {
    let video = summary.last.video_in.first();
    let pictures = video.map_or_else(
        || "no pictures".to_owned(),
        |video| {
            format!(
                "{} pictures ({:.1} %), {:.0} ms (p95 {:.0}), {} freezes",
                video.frames_shown,
                summary.shown * 100.0,
                video.latency.p50,
                video.latency.p95,
                video.freeze_count,
            )
        },
    );
    format!(
        "  {pictures}; sound {:.2} % made up; {:.2} Mbit/s",
        summary.concealed * 100.0,
        summary.received_bits_per_sec as f64 / 1e6,
    )
}

/// How the program ends after a call.
pub(super) fn exit_of(problem: Option<Problem>) -> Result<Exit, Problem> {
    problem.map_or(Ok(Exit::Success), Err)
}

/// Waits for a deadline, or for ever.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
