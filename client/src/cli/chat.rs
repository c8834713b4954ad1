//! `landline chat`: a conversation on the terminal or over pipes, and single messages for scripts.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use p2p_net::{PathKind, PeerId};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::bars::Bars;
use super::out::{Out, describe, trust};
use super::receive::question;
use super::send::absolute;
use super::terminal::{lines, remark};
use super::transfers::summary;
use crate::args::{Accept, ChatArgs};
use crate::command::{BookCommand, Command, Policy, Reply};
use crate::engine::call_in_words;
use crate::event::{CallStep, Event, PeerView, RelayStep, RelayView, TransferStep};
use crate::interrupt::interrupted;
use crate::session::{Session, relay_problem};
use crate::settings::Settings;
use crate::store::messages::{MessageState, StoredMessage};
use crate::{Exit, Problem, face, store};

/// Messages of the past that a conversation begins with.
const SHOWN_HISTORY: u32 = 20;
/// At the end of piped input: how long the last messages may take.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(settings: &Settings, out: Out, args: ChatArgs) -> Result<Exit, Problem> {
    let mut session = Session::open(settings).await?;
    let result = async {
        let peer = session.resolve(&args.peer).await?;
        match args.send {
            Some(text) => {
                send_one(
                    &mut session,
                    out,
                    peer,
                    text,
                    Duration::from_secs(args.wait),
                )
                .await
            }
            None => converse(&mut session, out, peer, settings.downloads_dir()).await,
        }
    };
    let result = result.await;
    session.close().await;
    result
}

/// Stores one message and waits for its delivery.
async fn send_one(
    session: &mut Session,
    out: Out,
    peer: PeerId,
    text: String,
    wait: Duration,
) -> Result<Exit, Problem> {
    let deadline = Instant::now() + wait;
    let say = Command::Say {
        peer,
        text,
        reply_to: None,
    };
    let Reply::Message(mut message) = session.caller.call(say).await? else {
        return Err(face::gone());
    };
    let relay = session.status().await?.relay;
    let mut refused = (relay.state == RelayStep::Failed).then(|| relay_problem(&relay));
    while refused.is_none() {
        let event = tokio::select! {
            event = timeout_at(deadline, session.events.recv()) => event,
            () = interrupted() => break,
        };
        let Ok(event) = event else { break };
        match event.ok_or_else(face::gone)? {
            Event::MessageState { ids, state, .. } if ids.contains(&message.id) => {
                message.state = state;
                out.json(&serde_json::json!({ "message": message, "delivered": true }));
                out.text("delivered");
                return Ok(Exit::Success);
            }
            Event::Relay { relay } if relay.state == RelayStep::Failed => {
                refused = Some(relay_problem(&relay));
            }
            _ => {}
        }
    }
    if let Some(mut problem) = refused {
        problem
            .what
            .push_str(" (the message is stored and goes out later)");
        return Err(problem);
    }
    out.json(&serde_json::json!({ "message": message, "delivered": false }));
    if !out.is_json {
        remark(
            "stored, not yet delivered: it goes out while any landline command runs here and the peer \
             is online",
        );
    }
    Ok(Exit::Stored)
}

/// A conversation until the input ends.
async fn converse(
    session: &mut Session,
    out: Out,
    peer: PeerId,
    into: PathBuf,
) -> Result<Exit, Problem> {
    let has_person = io::stdin().is_terminal();
    let mut talk = Talk {
        peer,
        out,
        bars: Bars::new(out.is_json),
        has_prompt: has_person && io::stdout().is_terminal() && !out.is_json,
        view: None,
        waiting: BTreeSet::new(),
        offer: None,
        relay_is_gone: false,
    };
    // Opening a conversation says yes to the peer.
    session
        .caller
        .call(Command::Book(BookCommand::Add {
            id: peer,
            name: None,
        }))
        .await?;
    if has_person {
        let into = std::path::absolute(&into)
            .map_err(|error| Problem::io(format!("cannot use {}", into.display()), &error))?;
        let policy = Policy {
            accept: Accept::Ask,
            into,
            overwrite: false,
        };
        // Where another command receives already, that one keeps deciding.
        let _ = session.caller.call(Command::Receive(policy)).await;
    }
    talk.begin(session).await?;
    let mut input = lines();
    loop {
        talk.prompt();
        tokio::select! {
            event = session.events.recv() => {
                talk.on_event(session, event.ok_or_else(face::gone)?).await?;
            }
            line = input.recv() => {
                let Some(line) = line else { break };
                if !talk.on_line(session, line.trim_end()).await? {
                    break;
                }
            }
            () = interrupted() => break,
        }
    }
    talk.end(session, has_person).await
}

struct Talk {
    peer: PeerId,
    out: Out,
    bars: Bars,
    has_prompt: bool,
    view: Option<PeerView>,
    /// Ours that are not delivered yet.
    waiting: BTreeSet<Uuid>,
    /// The offer that our person is asked about.
    offer: Option<u64>,
    relay_is_gone: bool,
}

impl Talk {
    async fn begin(&mut self, session: &Session) -> Result<(), Problem> {
        let peer = self.peer;
        let history = session
            .store
            .run(move |db| store::messages::history(db, Some(&peer), None, SHOWN_HISTORY))
            .await?;
        self.view = self.look(session).await?;
        if let Some(view) = self.view.clone() {
            self.out.json(&Event::Peer { peer: view.clone() });
            self.print(&format!(
                "{}  {}",
                self.out.bold(&describe(&view)),
                self.out.dim(&format!(
                    "{}, {}; /help shows what can be typed",
                    trust(view.standing, view.verified),
                    path_text(&view)
                ))
            ));
        }
        for message in &history {
            self.show(message);
            if message.outgoing && message.state == MessageState::Waiting {
                self.waiting.insert(message.id);
            }
        }
        self.mark_read(session).await?;
        let status = session.status().await?;
        if status.relay.state == RelayStep::Failed {
            return Err(relay_problem(&status.relay));
        }
        // The line is there when the first word is typed; a peer that is away is no error.
        let (caller, peer) = (session.caller.clone(), self.peer);
        tokio::spawn(async move { caller.call(Command::Connect { peer }).await });
        Ok(())
    }

    async fn look(&self, session: &Session) -> Result<Option<PeerView>, Problem> {
        match session.caller.call(Command::Peers).await? {
            Reply::Peers(peers) => Ok(peers.into_iter().find(|view| view.id == self.peer)),
            _ => Err(face::gone()),
        }
    }

    async fn mark_read(&self, session: &Session) -> Result<(), Problem> {
        session
            .caller
            .call(Command::MarkRead { peer: self.peer })
            .await
            .map(drop)
    }

    /// Prints a line above the prompt.
    fn print(&self, line: &str) {
        let (out, has_prompt) = (self.out, self.has_prompt);
        self.bars.suspended(|| {
            if has_prompt {
                let _ = write!(io::stdout().lock(), "\r\x1b[2K");
            }
            out.text(line);
        });
    }

    fn prompt(&self) {
        if self.has_prompt {
            let mut stdout = io::stdout().lock();
            let _ = write!(stdout, "\r\x1b[2K› ").and_then(|()| stdout.flush());
        }
    }

    fn show(&self, message: &StoredMessage) {
        let label = self
            .view
            .as_ref()
            .map_or_else(|| self.peer.short(), PeerView::label);
        self.print(&self.out.message(message, &label));
    }

    async fn on_event(&mut self, session: &Session, event: Event) -> Result<(), Problem> {
        let is_ours = match &event {
            Event::Peer { peer } => peer.id == self.peer,
            Event::MessageState { peer, .. }
            | Event::Transfer { peer, .. }
            | Event::Call { peer, .. } => *peer == self.peer,
            _ => true,
        };
        if !is_ours {
            return Ok(());
        }
        self.out.json(&event);
        match event {
            Event::Peer { peer } => {
                let key = |view: &PeerView| (view.path, view.remote, view.online);
                if self.view.as_ref().map(key) != Some(key(&peer)) {
                    let now = path_text(&peer);
                    self.print(&self.out.dim(&format!("— {} is {now}", peer.label())));
                }
                self.view = Some(peer);
            }
            Event::Message { from, message } if from.id == self.peer => {
                self.show(&message);
                self.mark_read(session).await?;
            }
            Event::Message { from, message } => {
                let line = self.out.message(&message, &describe(&from));
                self.print(&self.out.dim(&line));
            }
            Event::MessageState { ids, state, .. } => self.on_marks(&ids, state),
            Event::Relay { relay } => self.on_relay(&relay)?,
            Event::Offer {
                offer,
                from,
                content,
            } => {
                self.offer = Some(offer);
                let text = question(&from, &content);
                self.print(&text.replace("Take it? [y/N]", "Take it? /yes or /no"));
            }
            Event::OfferGone { offer } if self.offer == Some(offer) => {
                self.offer = None;
                self.print("the offer was withdrawn");
            }
            Event::OfferGone { .. } => {}
            Event::Call { outgoing, step, .. } => {
                let arrow = if outgoing { "→" } else { "←" };
                match step {
                    CallStep::Incoming { .. } => self.print(&self.out.dim("— calls you")),
                    CallStep::Ended { record, .. } => {
                        self.print(&format!("{arrow} call: {}", call_in_words(&record)));
                    }
                    _ => {}
                }
            }
            Event::Transfer {
                number,
                outgoing,
                step,
                ..
            } => {
                self.bars
                    .show(number, if outgoing { "→" } else { "←" }, &step);
                if let TransferStep::Ended { record, .. } = step {
                    let arrow = if outgoing { "→" } else { "←" };
                    self.print(&format!("{arrow} {}", summary(&record)));
                }
            }
        }
        Ok(())
    }

    fn on_marks(&mut self, ids: &[Uuid], state: MessageState) {
        for id in ids {
            self.waiting.remove(id);
        }
        let mark = match state {
            MessageState::Read => "✓✓ read",
            _ => "✓ delivered",
        };
        let count = match ids.len() {
            0 | 1 => String::new(),
            several => format!(" ({several})"),
        };
        self.print(&self.out.dim(&format!("       {mark}{count}")));
    }

    fn on_relay(&mut self, relay: &RelayView) -> Result<(), Problem> {
        let was_gone = self.relay_is_gone;
        self.relay_is_gone = relay.state == RelayStep::Connecting;
        let text = match relay.state {
            RelayStep::Online if was_gone => "— logged in at the relay again",
            RelayStep::Connecting if !was_gone => {
                "— the relay is not there; messages are stored and go out later"
            }
            RelayStep::Online | RelayStep::Connecting | RelayStep::None => return Ok(()),
            RelayStep::Failed => return Err(relay_problem(relay)),
        };
        self.print(&self.out.dim(text));
        Ok(())
    }

    /// Takes a line; gives whether the conversation goes on.
    async fn on_line(&mut self, session: &Session, line: &str) -> Result<bool, Problem> {
        if line.is_empty() {
            return Ok(true);
        }
        let Some(typed) = line.strip_prefix('/') else {
            self.say(session, line).await;
            return Ok(true);
        };
        let (word, rest) = typed.split_once(' ').unwrap_or((typed, ""));
        match word {
            "quit" | "q" | "exit" => return Ok(false),
            "yes" | "no" => self.answer(session, word == "yes").await,
            "send" => self.send(session, rest.trim()).await,
            "path" => {
                self.view = self.look(session).await?;
                let text = self
                    .view
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), path_text);
                self.print(&text);
            }
            // A line that begins with a slash and is no command: `//` sends it.
            "" => {}
            _ if typed.starts_with('/') => self.say(session, typed).await,
            _ => self.print(
                "/send PATH   offers a file or folder      /yes, /no  answer an offer\n\
                 /path        shows how the line runs      /quit      ends",
            ),
        }
        Ok(true)
    }

    async fn say(&mut self, session: &Session, text: &str) {
        let say = Command::Say {
            peer: self.peer,
            text: text.to_owned(),
            reply_to: None,
        };
        match session.caller.call(say).await {
            Ok(Reply::Message(message)) => {
                self.waiting.insert(message.id);
                self.out.json(&serde_json::json!({ "message": message }));
                if self.has_prompt {
                    // What was typed gives way to the line of the conversation.
                    let _ = write!(io::stdout().lock(), "\x1b[1A\r\x1b[2K");
                    self.show(&message);
                }
            }
            Ok(_) => {}
            Err(problem) => self.print(&problem.to_string()),
        }
    }

    async fn answer(&mut self, session: &Session, accept: bool) {
        let Some(offer) = self.offer.take() else {
            return self.print("nothing is offered");
        };
        if let Err(problem) = session.caller.call(Command::Answer { offer, accept }).await {
            self.print(&problem.to_string());
        }
    }

    async fn send(&mut self, session: &Session, path: &str) {
        let sent = match absolute(vec![PathBuf::from(path)]) {
            Ok(paths) => {
                session
                    .caller
                    .call(Command::Send {
                        peer: self.peer,
                        paths,
                    })
                    .await
            }
            Err(problem) => Err(problem),
        };
        if let Err(problem) = sent {
            self.print(&problem.to_string());
        }
    }

    /// At the end of input: over pipes the last messages get a moment to arrive.
    async fn end(&mut self, session: &mut Session, has_person: bool) -> Result<Exit, Problem> {
        if self.has_prompt {
            let _ = writeln!(io::stdout().lock(), "\r\x1b[2K");
        }
        let deadline = Instant::now() + LAST_WORDS_LIMIT;
        while !has_person && !self.waiting.is_empty() {
            let event = tokio::select! {
                event = timeout_at(deadline, session.events.recv()) => event,
                () = interrupted() => break,
            };
            match event {
                Ok(Some(event)) => self.on_event(session, event).await?,
                Ok(None) => return Err(face::gone()),
                Err(_) => break,
            }
        }
        if self.waiting.is_empty() {
            return Ok(Exit::Success);
        }
        let count = self.waiting.len();
        remark(&format!(
            "{count} stored, not yet delivered: goes out while any landline command runs here"
        ));
        Ok(Exit::Stored)
    }
}

/// How packets reach the peer.
fn path_text(peer: &PeerView) -> String {
    let rtt = match peer.round_trip_micros {
        Some(micros) if micros > 0 => format!(", {:.1} ms", micros as f64 / 1_000.0),
        _ => String::new(),
    };
    match peer.path {
        PathKind::Direct => {
            let remote = peer.remote.map(|at| format!(" ({at})")).unwrap_or_default();
            format!("connected directly{remote}{rtt}")
        }
        PathKind::Relayed => format!("connected through the relay{rtt}"),
        PathKind::None if peer.online => "online".to_owned(),
        PathKind::None => "offline".to_owned(),
    }
}
