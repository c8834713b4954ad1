//! `landline receive`: stays online, takes what others send, shows what they write.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IsTerminal};

use indicatif::BinaryBytes;
use p2p_net::PeerId;

use super::bars::Bars;
use super::out::{Out, describe, label_in};
use super::send::cancel_all;
use super::terminal::{err_paint, lines};
use super::transfers::{show_files, summary};
use crate::args::{Accept, ReceiveArgs};
use crate::command::{Command, Policy};
use crate::contacts::{Standing, printable};
use crate::event::{Event, PeerView, RelayStep, RelayView, TransferStep};
use crate::interrupt::interrupted;
use crate::prompt::is_yes;
use crate::session::{Session, relay_problem};
use crate::settings::Settings;
use crate::transfer::Offer;
use crate::{Exit, Problem, face};

/// Names of an offer that are shown.
const SHOWN_ITEMS: usize = 8;

pub(super) async fn run(settings: &Settings, out: Out, args: ReceiveArgs) -> Result<Exit, Problem> {
    let policy = policy(settings, &args)?;
    let mut session = Session::open(settings).await?;
    let mut receiver = Receiver {
        out,
        bars: Bars::new(out.is_json),
        once: args.once,
        asked: VecDeque::new(),
        running: BTreeSet::new(),
        relay_is_gone: false,
    };
    let result = receiver.run(&mut session, policy).await;
    session.close().await;
    result
}

fn policy(settings: &Settings, args: &ReceiveArgs) -> Result<Policy, Problem> {
    let accept = match args.accept.or(settings.accept) {
        Some(accept) => accept,
        None if io::stdin().is_terminal() => Accept::Ask,
        None => {
            return Err(
                Problem::usage("nobody can be asked: standard input is not a terminal")
                    .with_next("say --accept all, --accept contacts or --accept none"),
            );
        }
    };
    let into = args
        .into
        .clone()
        .unwrap_or_else(|| settings.downloads_dir());
    std::fs::create_dir_all(&into)
        .map_err(|error| Problem::io(format!("cannot use {}", into.display()), &error))?;
    let into = std::path::absolute(&into)
        .map_err(|error| Problem::io(format!("cannot use {}", into.display()), &error))?;
    Ok(Policy {
        accept,
        into,
        overwrite: args.overwrite,
    })
}

struct Receiver {
    out: Out,
    bars: Bars,
    once: bool,
    /// Offers that wait for an answer; the first one is being asked about.
    asked: VecDeque<(u64, String)>,
    running: BTreeSet<i64>,
    relay_is_gone: bool,
}

impl Receiver {
    async fn run(&mut self, session: &mut Session, policy: Policy) -> Result<Exit, Problem> {
        let asks = policy.accept == Accept::Ask;
        let whom = match policy.accept {
            Accept::All => "everybody's files",
            Accept::Contacts => "files of contacts",
            Accept::None => "messages only",
            Accept::Ask => "files after a question",
        };
        let place = policy.into.display().to_string();
        session.caller.call(Command::Receive(policy)).await?;
        self.wait_online(session).await?;
        let status = session.status().await?;
        self.out.json(&serde_json::json!({
            "event": "ready", "id": status.id.to_string(), "into": place,
        }));
        self.bars.say(&format!(
            "ready as {}: taking {whom}, into {place}; Ctrl-C ends",
            status.id.short()
        ));
        let mut input = if asks { Some(lines()) } else { None };
        loop {
            tokio::select! {
                event = session.events.recv() => {
                    let event = event.ok_or_else(face::gone)?;
                    if let Some(exit) = self.on_event(session, event).await? {
                        return Ok(exit);
                    }
                }
                line = next_line(&mut input) => match line {
                    Some(line) => self.on_line(session, &line).await,
                    // Nobody can answer any more.
                    None => input = None,
                },
                () = interrupted() => {
                    let running: Vec<_> = self.running.iter().copied().collect();
                    cancel_all(session, &running).await;
                    return Ok(if running.is_empty() { Exit::Success } else { Exit::Failure });
                }
            }
        }
    }

    /// A relay that is not there yet is no reason to go.
    async fn wait_online(&mut self, session: &mut Session) -> Result<(), Problem> {
        while let Err(problem) = session.wait_online().await {
            let relay = session.status().await?.relay;
            if relay.state != RelayStep::Connecting || problem.exit != Exit::Unreachable {
                return Err(problem);
            }
            if !std::mem::replace(&mut self.relay_is_gone, true) {
                self.bars.say(&format!("{}; trying again", problem.what));
            }
        }
        Ok(())
    }

    async fn on_event(&mut self, session: &Session, event: Event) -> Result<Option<Exit>, Problem> {
        match &event {
            Event::Peer { .. } | Event::MessageState { .. } => return Ok(None),
            _ => self.out.json(&event),
        }
        match event {
            Event::Relay { relay } => self.on_relay(&relay)?,
            Event::Message { from, message } => {
                let line = self.out.message(&message, &describe(&from));
                let out = self.out;
                self.bars.suspended(|| {
                    out.text(&line);
                    if from.standing == Standing::Stranger {
                        out.text(&out.dim(&format!(
                            "  from an unknown peer; add it with: landline contacts add {} --name NAME",
                            from.id
                        )));
                    }
                });
            }
            Event::Offer {
                offer,
                from,
                content,
            } => {
                self.asked.push_back((offer, question(&from, &content)));
                if self.asked.len() == 1 {
                    self.ask();
                }
            }
            Event::OfferGone { offer } => {
                let was_first = self.asked.front().is_some_and(|(first, _)| *first == offer);
                self.asked.retain(|(waiting, _)| *waiting != offer);
                if was_first {
                    self.bars.say("the offer was withdrawn");
                    self.ask();
                }
            }
            Event::Transfer {
                number,
                peer,
                outgoing: false,
                step,
            } => return self.on_transfer(session, number, &peer, step).await,
            _ => {}
        }
        Ok(None)
    }

    fn on_relay(&mut self, relay: &RelayView) -> Result<(), Problem> {
        let was_gone = self.relay_is_gone;
        self.relay_is_gone = relay.state == RelayStep::Connecting;
        match relay.state {
            RelayStep::Online if was_gone => self.bars.say("logged in at the relay again"),
            RelayStep::Connecting if !was_gone => self.bars.say("the relay is gone, trying again"),
            RelayStep::Online | RelayStep::Connecting | RelayStep::None => {}
            RelayStep::Failed => return Err(relay_problem(relay)),
        }
        Ok(())
    }

    async fn on_transfer(
        &mut self,
        session: &Session,
        number: i64,
        peer: &PeerId,
        step: TransferStep,
    ) -> Result<Option<Exit>, Problem> {
        let contacts = session.contacts().await?;
        let label = label_in(&contacts, peer);
        self.bars.show(number, &format!("← {label}"), &step);
        let TransferStep::Ended { record, problem } = step else {
            self.running.insert(number);
            return Ok(None);
        };
        self.running.remove(&number);
        let line = format!("← {}  {}", self.out.bold(&label), summary(&record));
        self.out.text(&line);
        show_files(&session.store, self.out, &record).await?;
        let exit = problem.map_or(Exit::Success, |problem| problem.exit);
        Ok(self.once.then_some(exit))
    }

    fn ask(&self) {
        if let Some((_, question)) = self.asked.front() {
            self.bars.say(question);
        }
    }

    async fn on_line(&mut self, session: &Session, line: &str) {
        let Some((offer, _)) = self.asked.pop_front() else {
            return;
        };
        let accept = is_yes(line);
        if let Err(problem) = session.caller.call(Command::Answer { offer, accept }).await {
            self.bars.say(&problem.to_string());
        } else if !accept {
            self.bars.say("declined");
        }
        self.ask();
    }
}

async fn next_line(input: &mut Option<tokio::sync::mpsc::Receiver<String>>) -> Option<String> {
    match input {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// What a person must know to say yes.
pub(super) fn question(from: &PeerView, offer: &Offer) -> String {
    let trust = super::out::trust(from.standing, from.verified);
    let size = offer.total_bytes.map_or_else(
        || "size not known".to_owned(),
        |bytes| BinaryBytes(bytes).to_string(),
    );
    let files = match offer.files {
        None => String::new(),
        Some(1) => "1 file, ".to_owned(),
        Some(files) => format!("{files} files, "),
    };
    let mut text = format!(
        "{} ({trust}) offers {files}{size}:",
        err_paint("1", &describe(from)),
    );
    for item in offer.items.iter().take(SHOWN_ITEMS) {
        let mark = if item.folder { "/" } else { "" };
        text.push_str(&format!("\n  {}{mark}", printable(&item.name, " ")));
    }
    if offer.items.len() > SHOWN_ITEMS {
        text.push_str("\n  …");
    }
    text.push_str("\nTake it? [y/N]");
    text
}
