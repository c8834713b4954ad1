//! `landline peers`: who is at the relay.

use std::time::Duration;

use p2p_net::PathKind;
use tokio::time::timeout;

use super::out::{Out, describe, trust};
use crate::command::{Command, Reply};
use crate::contacts::Standing;
use crate::event::{Event, PeerView, RelayStep};
use crate::interrupt::interrupted;
use crate::session::{Session, relay_problem};
use crate::settings::Settings;
use crate::{Exit, Problem, face};

/// How long the relay's list may take after the login.
const LIST_LIMIT: Duration = Duration::from_millis(700);

pub(super) async fn run(settings: &Settings, out: Out, watch: bool) -> Result<Exit, Problem> {
    let mut session = Session::open(settings).await?;
    let result = show(&mut session, out, watch).await;
    session.close().await;
    result.map(|()| Exit::Success)
}

async fn show(session: &mut Session, out: Out, watch: bool) -> Result<(), Problem> {
    session.wait_online().await?;
    let status = session.status().await?;
    let observed = status
        .relay
        .observed
        .map(|at| at.to_string())
        .unwrap_or_default();
    out.json(&Event::Relay {
        relay: status.relay.clone(),
    });
    let id = status.id.short();
    out.text(&out.dim(&match status.relay.state {
        RelayStep::Online => format!(
            "you are {id}, logged in at {} as {observed}{}",
            status.relay.address.as_deref().unwrap_or("?").split('#').next().unwrap_or("?"),
            status.relay.by()
        ),
        _ => format!("you are {id}, without a relay: contacts on this network are seen"),
    }));
    let mut peers = all(session).await?;
    if !peers.iter().any(|peer| peer.online) {
        // The list follows the login by a moment.
        let listed = async {
            while let Some(event) = session.events.recv().await {
                if matches!(event, Event::Peer { .. }) {
                    return;
                }
            }
        };
        let _ = timeout(LIST_LIMIT, listed).await;
        peers = all(session).await?;
    }
    peers.sort_by_key(|peer| {
        (
            !peer.online,
            peer.standing != Standing::Accepted,
            peer.label(),
        )
    });
    for peer in &peers {
        out.json(&Event::Peer { peer: peer.clone() });
        out.text(&line(out, peer));
    }
    if peers.is_empty() {
        out.text("nobody else is there yet");
    }
    if watch {
        follow(session, out).await?;
    }
    Ok(())
}

async fn all(session: &Session) -> Result<Vec<PeerView>, Problem> {
    match session.caller.call(Command::Peers).await? {
        Reply::Peers(peers) => Ok(peers),
        _ => Err(face::gone()),
    }
}

async fn follow(session: &mut Session, out: Out) -> Result<(), Problem> {
    let mut relay_is_gone = false;
    loop {
        let event = tokio::select! {
            event = session.events.recv() => event.ok_or_else(face::gone)?,
            () = interrupted() => return Ok(()),
        };
        match &event {
            Event::Peer { peer } => {
                out.json(&event);
                out.text(&line(out, peer));
            }
            Event::Relay { relay } => {
                let is_gone = relay.state == RelayStep::Connecting;
                let is_news = std::mem::replace(&mut relay_is_gone, is_gone) != is_gone;
                if !is_news && relay.state != RelayStep::Failed {
                    continue;
                }
                out.json(&event);
                match relay.state {
                    RelayStep::Online => out.text(&out.dim("logged in at the relay again")),
                    RelayStep::Connecting => out.text(&out.dim("the relay is gone, trying again")),
                    RelayStep::None => {}
                    RelayStep::Failed => return Err(relay_problem(relay)),
                }
            }
            _ => {}
        }
    }
}

fn line(out: Out, peer: &PeerView) -> String {
    let (dot, style) = if peer.online {
        ("●", "32")
    } else {
        ("○", "2")
    };
    let path = match (peer.path, peer.remote) {
        (PathKind::Direct, Some(remote)) => format!("direct, {remote}"),
        (PathKind::Direct, None) => "direct".to_owned(),
        (PathKind::Relayed, _) => "relayed".to_owned(),
        (PathKind::None, _) if peer.online => "online".to_owned(),
        (PathKind::None, _) => "offline".to_owned(),
    };
    let id = peer.id.to_string();
    format!(
        "{} {}  {}  {}",
        out.paint(style, dot),
        out.bold(&console::pad_str(
            &describe(peer),
            24,
            console::Alignment::Left,
            None
        )),
        if peer.standing == Standing::Stranger {
            id.clone()
        } else {
            id[..16].to_owned()
        },
        out.dim(&format!("{}, {path}", trust(peer.standing, peer.verified)))
    )
}
