//! `landline demo`: the whole program on this machine alone. An embedded relay and two engines with fresh
//! identities in a temporary folder log in, connect through the relay, move to the direct path, chat, and
//! send a folder each way, and call each other for five seconds; every step is timed, and every file is
//! hashed again from disk at the end.
//!
//! Nothing here is special to the demo but the show: engines, relay and faces are those of the real
//! programs. Nothing leaves the loopback interface.

mod samples;
mod show;
mod side;
mod talk;

use std::path::Path;
use std::time::{Duration, Instant};

use p2p_net::PathKind;
use relay::Relay;

use crate::Problem;
use crate::args::Accept;
use crate::command::{BookCommand, Command, Policy, Reply};
use crate::event::{Event, RelayStep, TransferStep};
use crate::store::messages::MessageState;
use crate::store::transfers::{FileRecord, TransferRecord};

use show::{FileRow, Show};
use side::Side;

/// How long any one step may take before the demo calls it a failure.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Runs the demo and shows it on standard output, for people or (`json`) for programs.
///
/// # Errors
/// The first step that did not do what it should.
pub async fn run(json: bool) -> Result<(), Problem> {
    let began = Instant::now();
    let mut show = Show::new(json);
    show.title();
    let folder = tempfile::Builder::new()
        .prefix("landline-demo-")
        .tempdir()
        .map_err(|error| Problem::io("cannot make a temporary folder", &error))?;
    let relay = start_relay(&mut show, folder.path()).await?;
    let mut alice = Side::start("Alice", folder.path(), &relay).await?;
    let mut bob = Side::start("Bob", folder.path(), &relay).await?;
    register(&mut show, &mut alice).await?;
    register(&mut show, &mut bob).await?;
    introduce(&mut alice, &mut bob).await?;

    show.heading("Connection");
    connect(&mut show, &mut alice, &mut bob).await?;

    show.heading("Chat");
    say(
        &mut show,
        &mut alice,
        &mut bob,
        "Hello Bob, can you hear me?",
    )
    .await?;
    say(
        &mut show,
        &mut bob,
        &mut alice,
        "Loud and clear. Files next?",
    )
    .await?;

    show.heading("Files, hashed on both sides");
    samples::make(&alice.outbox(), &samples::ALICE)?;
    samples::make(&bob.outbox(), &samples::BOB)?;
    send(&mut show, &mut alice, &mut bob).await?;
    send(&mut show, &mut bob, &mut alice).await?;

    show.heading("A call, with picture and sound");
    talk::call(&mut show, &mut alice, &mut bob).await?;

    show.heading("What the relay saw");
    show.relay_saw(&relay.stats());

    alice.stop().await;
    bob.stop().await;
    relay.shutdown().await;
    folder
        .close()
        .map_err(|error| Problem::io("cannot remove the temporary folder", &error))?;
    show.closing(began.elapsed());
    Ok(())
}

async fn start_relay(show: &mut Show, folder: &Path) -> Result<Relay, Problem> {
    let began = Instant::now();
    let config = relay::Config::loopback(folder.join("relay"));
    let relay = Relay::start(config)
        .await
        .map_err(|error| Problem::failure(format!("the relay did not start: {error}")))?;
    show.relay(&relay.address().redacted(), began.elapsed());
    Ok(relay)
}

/// Waits until `side` is logged in at the relay.
async fn register(show: &mut Show, side: &mut Side) -> Result<(), Problem> {
    if let Reply::Status(status) = side.ask(Command::Status).await?
        && status.relay.state == RelayStep::Online
    {
        show.login(side, status.relay.observed);
        return Ok(());
    }
    let relay = side
        .hear("the login at the relay", |event| match event {
            Event::Relay { relay } if relay.state == RelayStep::Online => Some(relay),
            _ => None,
        })
        .await?;
    show.login(side, relay.observed);
    Ok(())
}

/// Each adds the other as a contact and takes its files: what two people do once.
async fn introduce(alice: &mut Side, bob: &mut Side) -> Result<(), Problem> {
    for (one, other) in [(&*alice, &*bob), (&*bob, &*alice)] {
        let name = Some(other.name.to_owned());
        one.ask(Command::Book(BookCommand::Add { id: other.id, name }))
            .await?;
        let policy = Policy {
            accept: Accept::Contacts,
            into: one.inbox(),
            overwrite: false,
        };
        one.ask(Command::Receive(policy)).await?;
    }
    alice.until_online(bob.id).await?;
    bob.until_online(alice.id).await?;
    Ok(())
}

/// Dials, and waits until the packets of both sides have left the relay.
async fn connect(show: &mut Show, alice: &mut Side, bob: &mut Side) -> Result<(), Problem> {
    let began = Instant::now();
    alice.ask(Command::Connect { peer: bob.id }).await?;
    show.connected(began.elapsed());
    let theirs = alice.until_path(bob.id, PathKind::Direct).await?;
    let took = began.elapsed();
    bob.until_path(alice.id, PathKind::Direct).await?;
    show.direct(&theirs, took);
    Ok(())
}

/// One message: stored at the sender, delivered, read, and known to be read.
async fn say(show: &mut Show, from: &mut Side, to: &mut Side, text: &str) -> Result<(), Problem> {
    let began = Instant::now();
    let command = Command::Say {
        peer: to.id,
        text: text.to_owned(),
        reply_to: None,
    };
    let Reply::Message(sent) = from.ask(command).await? else {
        return Err(odd_reply());
    };
    let came = to
        .hear("the message", |event| match event {
            Event::Message { message, .. } if message.id == sent.id => Some(message),
            _ => None,
        })
        .await?;
    if came.text != text {
        return Err(Problem::failure("the message arrived with another text"));
    }
    to.ask(Command::MarkRead { peer: from.id }).await?;
    let mut delivered = None;
    let read = from
        .hear("the read mark", |event| match event {
            Event::MessageState { ids, state, .. } if ids.contains(&sent.id) => {
                delivered.get_or_insert_with(|| began.elapsed());
                (state == MessageState::Read).then(|| began.elapsed())
            }
            _ => None,
        })
        .await?;
    show.message(from.name, to.name, text, delivered.unwrap_or(read), read);
    Ok(())
}

/// Sends a folder and compares the digests of the sender, the receiver, and the disk.
async fn send(show: &mut Show, from: &mut Side, to: &mut Side) -> Result<(), Problem> {
    let folder = from.outbox();
    let label = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let command = Command::Send {
        peer: to.id,
        paths: vec![folder],
    };
    let Reply::Transfer(number) = from.ask(command).await? else {
        return Err(odd_reply());
    };
    let sent = ended(from, Some(number)).await?;
    let received = ended(to, None).await?;
    let at_sender = from.files_of(&sent).await?;
    let at_receiver = to.files_of(&received).await?;
    let rows = compare(&at_sender, &at_receiver, &to.inbox())?;
    show.transfer(from.name, to.name, &label.unwrap_or_default(), &sent, &rows);
    match rows.iter().find(|row| !row.agrees()) {
        Some(row) => Err(Problem::failure(format!(
            "{} did not arrive as it was sent",
            row.path
        ))),
        None => Ok(()),
    }
}

/// The record of a transfer when it is over, and good.
async fn ended(side: &mut Side, wanted: Option<i64>) -> Result<TransferRecord, Problem> {
    let (record, problem) = side
        .hear("the end of the transfer", |event| match event {
            Event::Transfer {
                number,
                step: TransferStep::Ended { record, problem },
                ..
            } if wanted.is_none_or(|wanted| wanted == number) => Some((record, problem)),
            _ => None,
        })
        .await?;
    problem.map_or(Ok(*record), Err)
}

fn compare(
    sent: &[FileRecord],
    received: &[FileRecord],
    inbox: &Path,
) -> Result<Vec<FileRow>, Problem> {
    if sent.is_empty() || sent.len() != received.len() {
        return Err(Problem::failure(format!(
            "{} files were sent and {} arrived",
            sent.len(),
            received.len()
        )));
    }
    sent.iter()
        .map(|file| {
            let other = received.iter().find(|other| other.path == file.path);
            let on_disk = samples::md5_of(&inbox.join(&file.path))
                .map_err(|error| Problem::io(format!("cannot read {} back", file.path), &error))?;
            Ok(FileRow {
                path: file.path.clone(),
                size: file.size,
                at_sender: file.md5_local.clone(),
                at_receiver: other.and_then(|other| other.md5_local.clone()),
                on_disk,
            })
        })
        .collect()
}

fn odd_reply() -> Problem {
    Problem::failure("the engine answered something else than what was asked")
}
