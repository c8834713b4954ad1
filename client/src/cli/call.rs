//! `landline call`: calls somebody, and talks until one side hangs up.

use std::time::Duration;

use p2p_net::{PathKind, PeerId};
use tokio::time::{Instant, timeout};

use super::keys::Keys;
use super::out::{Out, label_in};
use super::phone::{Phone, exit_of, until};
use crate::args::{CallArgs, PathChoice};
use crate::command::{Command, Reply};
use crate::event::Event;
use crate::interrupt::{count, interrupted_more_than};
use crate::session::Session;
use crate::settings::Settings;
use crate::{Exit, Problem, face};

/// How long a direct path may take where nothing else is wanted.
const DIRECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of a call may take.
const END_LIMIT: Duration = Duration::from_secs(4);

pub(super) async fn run(settings: &Settings, out: Out, args: CallArgs) -> Result<Exit, Problem> {
    let choice = args.media.choice(&settings.call)?;
    let mut phone = Phone::new(out, &args.media)?;
    let mut session = Session::open(settings).await?;
    let result = async {
        let peer = session.resolve(&args.peer).await?;
        session.wait_online().await?;
        if args.media.path == Some(PathChoice::Direct) {
            wait_direct(&mut session, peer).await?;
        }
        let contacts = session.contacts().await?;
        let command = Command::Call {
            peer,
            media: Box::new(choice.clone()),
            relay_only: args.media.path == Some(PathChoice::Relay),
        };
        let Reply::Call(number) = session.caller.call(command).await? else {
            return Err(face::gone());
        };
        phone.take(number, label_in(&contacts, &peer), &choice);
        talk(&mut session, &mut phone).await
    };
    let result = result.await;
    session.close().await;
    result
}

async fn wait_direct(session: &mut Session, peer: PeerId) -> Result<(), Problem> {
    session.caller.call(Command::Connect { peer }).await?;
    let direct = async {
        loop {
            if let Reply::Peers(peers) = session.caller.call(Command::Peers).await?
                && peers
                    .iter()
                    .any(|view| view.id == peer && view.path == PathKind::Direct)
            {
                return Ok(());
            }
            let event = timeout(Duration::from_secs(1), session.events.recv());
            if let Ok(None) = event.await {
                return Err(face::gone());
            }
        }
    };
    timeout(DIRECT_LIMIT, direct).await.unwrap_or_else(|_| {
        Err(
            Problem::unreachable("no direct path came about within 10 s")
                .with_next("without --path direct the relay carries the call"),
        )
    })
}

async fn talk(session: &mut Session, phone: &mut Phone) -> Result<Exit, Problem> {
    let mut keys = Keys::listen();
    let interrupts = count();
    let mut ending: Option<Instant> = None;
    loop {
        tokio::select! {
            event = session.events.recv() => {
                let event: Event = event.ok_or_else(face::gone)?;
                if let Some((_, problem)) = phone.on_event(event, &[]) {
                    return exit_of(problem);
                }
            }
            typed = keys.next() => phone.on_typed(session, &keys, typed).await,
            () = until(phone.deadline()), if ending.is_none() => {
                ending = Some(hang_up(session, phone).await);
            }
            () = interrupted_more_than(interrupts), if ending.is_none() => {
                ending = Some(hang_up(session, phone).await);
            }
            () = until(ending) => return Ok(Exit::Success),
        }
    }
}

/// Hangs up; gives the time by which the end must have come.
pub(super) async fn hang_up(session: &Session, phone: &Phone) -> Instant {
    if let Some(number) = phone.number() {
        let _ = session.caller.call(Command::EndCall { number }).await;
    }
    Instant::now() + END_LIMIT
}
