//! A call on the terminal: what `call` and `answer` share. One status line while it runs, keys, a JSON object
//! for each event, and the numbers at the end.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use media::capture::Devices;
use media::pipeline::{self, Levels};
use media::stats::Snapshot;
use tokio::time::Instant;

use super::figures::{self, Rates, Scene};
use super::keys::{Keys, Typed};
use super::menu::{Choice, Kind, Menu};
use super::out::{Out, describe, label_in, trust};
use super::status_line::StatusLine;
use super::terminal::{err_paint, remark};
use crate::args::MediaArgs;
use crate::call::{MediaChoice, is_source};
use crate::command::{CallChange, Command};
use crate::contacts::printable;
use crate::engine::call_in_words;
use crate::event::{CallStep, Event, PeerView};
use crate::session::Session;
use crate::settings::CallDefaults;
use crate::store::calls::CallRecord;
use crate::wire::Sources;
use crate::{Exit, Problem};

const KEYS: &str = "m mute · v camera · s screen · h hold · q hang up · ? more";
const HELP: [&str; 4] = [
    "  m  mute              v  camera on or off      s  share the screen, or no more",
    "  c  other camera      w  share other window    a  other microphone   l  other loudspeaker",
    "  h  hold              i  all numbers           q  hang up            ?  this help",
    "  camera only: s off · screen only: s on, v off · both: s on, v on",
];

impl MediaArgs {
    /// What the engine is told; file names become absolute, since it may run elsewhere. What is not said is as
    /// the settings have it.
    pub(super) fn choice(&self, defaults: &CallDefaults) -> Result<MediaChoice, Problem> {
        let pick = |said: &Option<String>, kept: &Option<String>, usual: &str| {
            source(said.as_deref().or(kept.as_deref()).unwrap_or(usual)).map(Some)
        };
        let size = self.size.as_deref().or(defaults.size.as_deref());
        let choice = MediaChoice {
            video: pick(&self.video, &defaults.video, "camera")?,
            screen: self.screen.as_deref().map(source).transpose()?,
            audio: pick(&self.audio, &defaults.audio, "microphone")?,
            speaker: pick(&self.speaker, &defaults.speaker, "speaker")?,
            save_video: self.save_video.as_deref().map(absolute).transpose()?,
            record: self.record.as_deref().map(absolute).transpose()?,
            measure: self.measure.as_deref().map(absolute).transpose()?,
            muted: self.muted,
            raw_voice: self.raw_voice,
            max_kilobits: self.max_rate.or(defaults.max_rate),
            max_kilobits_in: self.max_rate_in.or(defaults.max_rate_in),
            size: size.map(size_of).transpose()?,
        };
        choice.config()?;
        Ok(choice)
    }
}

/// A size as it is typed.
fn size_of(text: &str) -> Result<(u32, u32), Problem> {
    text.split_once('x')
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
        .ok_or_else(|| Problem::usage(format!("\"{text}\" is no size such as 640x360")))
}

/// The name of a source or sink, as the engine understands it wherever it runs.
pub(super) fn source(text: &str) -> Result<String, Problem> {
    let lower = text.to_ascii_lowercase();
    if lower.ends_with(".y4m") || lower.ends_with(".wav") {
        return absolute(Path::new(text)).map(|path| path.display().to_string());
    }
    Ok(text.to_owned())
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path)
        .map_err(|error| Problem::io(format!("cannot use {}", path.display()), &error))
}

/// Where `--stats=FILE` writes all numbers of each second.
struct Log(BufWriter<File>);

impl Log {
    fn create(path: &Path) -> Result<Self, Problem> {
        File::create(path)
            .map(|file| Self(BufWriter::new(file)))
            .map_err(|error| Problem::io(format!("cannot write {}", path.display()), &error))
    }

    fn write(&mut self, stats: &Snapshot) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, stats)?;
        self.0.write_all(b"\n")?;
        self.0.flush()
    }
}

/// One call as the person sees it.
pub(super) struct Phone {
    out: Out,
    line: StatusLine,
    /// The numbers of each second are printed.
    stats: bool,
    log: Option<Log>,
    limit: Option<Duration>,
    /// The call that runs was ended by the limit.
    limit_served: bool,
    /// The call that rings or runs.
    number: Option<i64>,
    label: String,
    began: Option<Instant>,
    choice: MediaChoice,
    ours: Sources,
    theirs: Sources,
    levels: Option<Levels>,
    relayed: Option<bool>,
    last: Option<Box<Snapshot>>,
    rates: Rates,
    /// Since when nothing comes.
    silent: Option<Instant>,
    /// The devices were asked for, to choose one of this kind.
    asked: Option<Kind>,
    menu: Option<Menu>,
}

impl Phone {
    pub(super) fn new(out: Out, args: &MediaArgs) -> Result<Self, Problem> {
        let file = args.stats.as_ref().and_then(Option::as_deref);
        Ok(Self {
            out,
            line: StatusLine::new(!out.is_json),
            stats: args.stats == Some(None),
            log: file.map(Log::create).transpose()?,
            limit: args.for_seconds.map(Duration::from_secs),
            limit_served: false,
            number: None,
            label: String::new(),
            began: None,
            choice: MediaChoice::default(),
            ours: Sources::default(),
            theirs: Sources::default(),
            levels: None,
            relayed: None,
            last: None,
            rates: Rates::default(),
            silent: None,
            asked: None,
            menu: None,
        })
    }

    /// A call begins to ring or to dial.
    pub(super) fn take(&mut self, number: i64, label: String, choice: &MediaChoice) {
        self.number = Some(number);
        self.label = label;
        self.began = None;
        self.limit_served = false;
        self.choice = choice.clone();
        self.ours = choice.sources();
        self.theirs = Sources::default();
        self.last = None;
        self.levels = None;
        self.relayed = None;
        self.silent = None;
        (self.asked, self.menu) = (None, None);
    }

    pub(super) fn number(&self) -> Option<i64> {
        self.number
    }

    pub(super) fn is_talking(&self) -> bool {
        self.began.is_some()
    }

    /// When `--for` ends the call.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limit = self.limit.filter(|_| !self.limit_served);
        Some(self.began? + limit?)
    }

    /// `--for` has done its work.
    pub(super) fn forget_deadline(&mut self) {
        self.limit_served = true;
    }

    /// Says something above the status line.
    pub(super) fn say(&self, text: &str) {
        self.line.above(|| remark(text));
    }

    /// Says something that matters little.
    fn whisper(&self, text: &str) {
        self.say(&err_paint("2", text));
    }

    /// A result, above the status line.
    fn print(&self, text: &str) {
        self.line.above(|| self.out.text(text));
    }

    /// Draws the status line of the call that runs.
    fn draw(&self) {
        let Some(began) = self.began else { return };
        if !self.line.is_drawn() {
            return;
        }
        let scene = Scene {
            label: &self.label,
            seconds: began.elapsed().as_secs(),
            ours: self.ours,
            theirs: self.theirs,
            levels: self.levels,
            silent_seconds: self.silent.map(|since| since.elapsed().as_secs()),
            stats: self.last.as_deref(),
            rates: self.rates,
        };
        self.line
            .show(&figures::status(&scene, StatusLine::width()));
    }

    /// Who calls, as a question.
    fn question(&self, from: &PeerView, sources: &Sources) -> String {
        let how = match (sources.camera, sources.screen) {
            (true, _) => "calls, with picture",
            (false, true) => "calls, and shows a screen",
            (false, false) => "calls",
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
        match &event {
            // A meter is for eyes; the numbers of each second have the levels as well.
            Event::Call {
                step: CallStep::Levels { .. },
                ..
            } => {}
            Event::Call { .. } => self.out.json(&event),
            _ => {}
        }
        match event {
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

    fn on_step(&mut self, step: CallStep) -> Option<(Box<CallRecord>, Option<Problem>)> {
        let label = self.label.clone();
        match step {
            CallStep::Calling => self.line.show(&format!("calling {label} …")),
            CallStep::Ringing => {
                self.say(&format!("it rings at {label}"));
                self.line.show(&format!("ringing at {label} …"));
            }
            CallStep::Incoming { from, sources } => {
                let question = self.question(&from, &sources);
                self.say(&question);
            }
            CallStep::Began { sources } => self.on_began(sources),
            CallStep::Sources { ours, theirs } => self.on_sources(ours, theirs),
            CallStep::Silent { silent } => {
                self.silent = silent.then(Instant::now);
                self.say(if silent {
                    "— nothing comes; reconnecting for half a minute"
                } else {
                    "— back"
                });
                self.draw();
            }
            CallStep::Media { what } => self.on_media(&what),
            CallStep::Levels { levels } => {
                self.levels = Some(levels);
                self.draw();
            }
            CallStep::Stats { stats } => self.on_stats(stats),
            CallStep::Quality { .. } => {}
            CallStep::Ended {
                record,
                summary,
                problem,
            } => {
                self.number = None;
                self.began = None;
                self.line.clear();
                self.out.text(&format!(
                    "{} {}  {}",
                    if record.outgoing { "→" } else { "←" },
                    self.out.bold(&label),
                    call_in_words(&record)
                ));
                for line in summary.iter().flat_map(|summary| figures::summary(summary)) {
                    self.out.text(&self.out.dim(&line));
                }
                return Some((Box::new(record), problem));
            }
        }
        None
    }

    fn on_began(&mut self, theirs: Sources) {
        self.began = Some(Instant::now());
        self.say(&format!("in a call with {}", err_paint("1", &self.label)));
        if io::stdin().is_terminal() && !self.out.is_json {
            self.whisper(KEYS);
        }
        // Said of everybody who does not simply send sound and pictures.
        let usual = Sources {
            audio: true,
            camera: true,
            ..Sources::default()
        };
        self.theirs = usual;
        self.on_sources(self.ours, theirs);
        self.draw();
    }

    fn on_stats(&mut self, stats: Box<Snapshot>) {
        self.rates = Rates::between(self.last.as_deref(), &stats);
        let relayed = stats.network.relayed;
        // The first packets may still find their way.
        if stats.elapsed_millis > 1_500 && self.silent.is_none() {
            match self.relayed.replace(relayed) {
                Some(before) if before != relayed => self.say(if relayed {
                    "— the line goes through the relay now"
                } else {
                    "— the line is direct now"
                }),
                _ => {}
            }
        }
        if self.stats && !self.out.is_json {
            self.print(&figures::second(&stats, self.rates));
        }
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(&stats)
        {
            self.log = None;
            self.say(&format!("note: the numbers are no longer written: {error}"));
        }
        self.last = Some(stats);
        self.draw();
    }

    fn on_sources(&mut self, ours: Sources, theirs: Sources) {
        for line in their_changes(&self.theirs, &theirs) {
            self.say(&format!("— {} {line}", self.label));
        }
        for line in our_changes(&self.ours, &ours) {
            self.whisper(line);
        }
        (self.ours, self.theirs) = (ours, theirs);
        self.draw();
    }

    fn on_media(&self, what: &pipeline::Event) {
        match what {
            pipeline::Event::DeviceLost { device, reason } => {
                self.say(&format!(
                    "note: going on without {}: {}",
                    name_of(*device),
                    printable(reason, " ")
                ));
            }
            pipeline::Event::DeviceOpened { device, name } => {
                self.whisper(&format!("{}: {}", name_of(*device), printable(name, " ")));
            }
            pipeline::Event::FirstPicture { after, .. } => {
                self.whisper(&format!("first picture after {:.2} s", after.as_secs_f64()));
            }
            pipeline::Event::Recorded(files) => {
                for file in files {
                    self.say(&format!("recorded: {}", file.display()));
                }
            }
            _ => {}
        }
    }

    // Keys.

    /// What a key changes; nothing if none of ours.
    fn change(&self, key: char) -> Option<CallChange> {
        Some(match key {
            'm' => CallChange::Mute(!self.ours.muted),
            'v' => CallChange::Camera(!self.ours.camera),
            'h' => CallChange::Hold(!self.ours.held),
            's' if self.ours.screen => CallChange::Screen("none".to_owned()),
            's' => {
                let chosen = self.choice.screen.as_deref().filter(|name| *name != "none");
                CallChange::Screen(chosen.unwrap_or("screen").to_owned())
            }
            _ => return None,
        })
    }

    /// Does what is typed in a call.
    pub(super) async fn on_typed(&mut self, session: &Session, keys: &Keys, typed: Typed) {
        match typed {
            Typed::Devices(devices) => self.on_devices(&devices),
            Typed::Key(key) => {
                if let Some(menu) = self.menu.take() {
                    match menu.choose(key) {
                        Choice::Take(source) => {
                            self.want(session, menu.kind.change(source)).await;
                        }
                        Choice::Leave => self.whisper("left as it is"),
                        Choice::Unknown => self.menu = Some(menu),
                    }
                } else {
                    self.on_key(session, keys, key).await;
                }
            }
        }
    }

    async fn on_key(&mut self, session: &Session, keys: &Keys, key: char) {
        if let Some(change) = self.change(key) {
            self.want(session, change).await;
        } else if let Some(kind) = Kind::of_key(key) {
            if self.asked.replace(kind).is_none() {
                self.whisper("looking for devices …");
                keys.ask_devices();
            }
        } else {
            match (key, self.number) {
                ('q', Some(number)) => {
                    let end = session.caller.call(Command::EndCall { number });
                    if let Err(problem) = end.await {
                        self.say(&problem.to_string());
                    }
                }
                ('i', _) => {
                    if let Some(stats) = &self.last {
                        let lines = figures::all(stats, self.rates);
                        self.line
                            .above(|| lines.iter().for_each(|line| remark(line)));
                    }
                }
                ('?', _) => self.line.above(|| HELP.into_iter().for_each(remark)),
                _ => {}
            }
        }
    }

    fn on_devices(&mut self, devices: &Devices) {
        let Some(kind) = self.asked.take() else {
            return;
        };
        let current = match kind {
            Kind::Camera => &self.choice.video,
            Kind::Screen => &self.choice.screen,
            Kind::Microphone => &self.choice.audio,
            Kind::Speaker => &self.choice.speaker,
        };
        let menu = Menu::new(kind, devices, current.as_deref().unwrap_or("none"));
        let lines = menu.lines();
        self.line
            .above(|| lines.iter().for_each(|line| remark(line)));
        self.menu = Some(menu);
    }

    async fn want(&mut self, session: &Session, change: CallChange) {
        let Some(number) = self.number else { return };
        let command = Command::ChangeCall {
            number,
            change: change.clone(),
        };
        match session.caller.call(command).await {
            Ok(_) => self.keep(change),
            Err(problem) => self.say(&problem.to_string()),
        }
    }

    /// Remembers what was chosen, for the next list.
    fn keep(&mut self, change: CallChange) {
        let choice = &mut self.choice;
        match change {
            CallChange::Video(source) => choice.video = Some(source),
            // What was shared can be shared again with one key.
            CallChange::Screen(source) if is_source(Some(&source)) => choice.screen = Some(source),
            CallChange::Audio(source) => choice.audio = Some(source),
            CallChange::Speaker(sink) => choice.speaker = Some(sink),
            _ => {}
        }
    }
}

/// What the other side does now and did not before, in words behind its name.
fn their_changes(before: &Sources, now: &Sources) -> Vec<&'static str> {
    let changes = [
        (
            before.audio,
            now.audio,
            "has sound again",
            "has no microphone",
        ),
        (before.muted, now.muted, "is muted", "is no longer muted"),
        (
            before.camera,
            now.camera,
            "shows the camera",
            "has the camera off",
        ),
        (
            before.screen,
            now.screen,
            "shares a screen",
            "shares no screen any more",
        ),
        (before.held, now.held, "holds the call", "goes on"),
    ];
    changed(&changes).collect()
}

fn our_changes(before: &Sources, now: &Sources) -> Vec<&'static str> {
    let changes = [
        (before.audio, now.audio, "sound on", "no sound is sent"),
        (before.muted, now.muted, "muted", "no longer muted"),
        (before.camera, now.camera, "camera on", "camera off"),
        (
            before.screen,
            now.screen,
            "sharing a screen",
            "no screen is shared",
        ),
        (before.held, now.held, "on hold", "no longer on hold"),
    ];
    changed(&changes).collect()
}

type Change = (bool, bool, &'static str, &'static str);

fn changed(changes: &[Change]) -> impl Iterator<Item = &'static str> {
    changes
        .iter()
        .filter(|(before, now, ..)| before != now)
        .map(|(_, now, on, off)| if *now { *on } else { *off })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once_and_by_their_side() {
        let before = Sources {
            audio: true,
            camera: true,
            ..Sources::default()
        };
        let now = Sources {
            muted: true,
            camera: false,
            screen: true,
            ..before
        };
        assert!(their_changes(&before, &before).is_empty());
        assert_eq!(
            their_changes(&before, &now),
            ["is muted", "has the camera off", "shares a screen"]
        );
        assert_eq!(
            our_changes(&now, &before),
            ["no longer muted", "camera on", "no screen is shared"]
        );
    }

    #[test]
    fn help_fits_a_usual_terminal_and_sizes_are_read() {
        for line in HELP {
            assert!(console::measure_text_width(line) < 100, "{line}");
        }
        assert_eq!(size_of("640x360").ok(), Some((640, 360)));
        assert!(size_of("640").is_err() && size_of("x").is_err());
    }

    #[test]
    fn what_is_typed_wins_over_the_settings_and_these_over_the_usual() {
        use clap::Parser;

        let read = |words: &[&str]| {
            let words = ["landline", "call", "bob"].iter().chain(words);
            let cli = crate::args::Cli::try_parse_from(words).expect("valid");
            let crate::args::Action::Call(args) = cli.action else {
                panic!("a call")
            };
            let defaults = CallDefaults {
                video: Some("pattern".to_owned()),
                audio: Some("none".to_owned()),
                max_rate: Some(800),
                size: Some("640x360".to_owned()),
                ..CallDefaults::default()
            };
            args.media.choice(&defaults).expect("a choice")
        };
        let kept = read(&[]);
        assert_eq!(kept.video.as_deref(), Some("pattern"));
        assert_eq!(kept.speaker.as_deref(), Some("speaker"));
        assert_eq!(
            (kept.max_kilobits, kept.size),
            (Some(800), Some((640, 360)))
        );
        let said = read(&["--video", "none", "--max-rate", "99", "--max-rate-in", "70"]);
        assert_eq!(said.video.as_deref(), Some("none"));
        assert_eq!(said.audio.as_deref(), Some("none"));
        assert_eq!(
            (said.max_kilobits, said.max_kilobits_in),
            (Some(99), Some(70))
        );
    }
}
