//! `landline in-call`: shows or changes the call that runs, from another terminal or a script.

use super::out::{Out, label_in};
use crate::args::{InCallArgs, Switch};
use crate::command::{CallChange, Command, Reply};
use crate::event::CallView;
use crate::session::Session;
use crate::settings::Settings;
use crate::wire::Sources;
use crate::{Exit, Problem, face};

pub(super) async fn run(settings: &Settings, out: Out, args: InCallArgs) -> Result<Exit, Problem> {
    let session = Session::open(settings).await?;
    let result = change(&session, out, &args).await;
    session.close().await;
    result
}

async fn change(session: &Session, out: Out, args: &InCallArgs) -> Result<Exit, Problem> {
    let call = now(session).await?;
    for change in changes(args)? {
        let number = call.number;
        let command = Command::ChangeCall { number, change };
        session.caller.call(command).await?;
    }
    if args.hang_up {
        let number = call.number;
        session.caller.call(Command::EndCall { number }).await?;
        out.text("hung up");
        return Ok(Exit::Success);
    }
    let call = now(session).await?;
    out.json(&call);
    let contacts = session.contacts().await?;
    let label = label_in(&contacts, &call.peer);
    match call.elapsed_millis.map(|millis| millis / 1_000) {
        Some(seconds) => out.text(&format!(
            "in a call with {label} for {}:{:02}",
            seconds / 60,
            seconds % 60
        )),
        None => out.text(&format!("a call with {label} rings")),
    }
    out.text(&format!("  we send  {}", in_words(&call.ours)));
    if call.elapsed_millis.is_some() {
        out.text(&format!("  {label} sends  {}", in_words(&call.theirs)));
    }
    Ok(Exit::Success)
}

async fn now(session: &Session) -> Result<CallView, Problem> {
    match session.caller.call(Command::CallNow).await? {
        Reply::CallNow(Some(call)) => Ok(*call),
        Reply::CallNow(None) => Err(Problem::failure("no call runs with this data folder")
            .with_next("`landline call PEER` begins one")),
        _ => Err(face::gone()),
    }
}

/// What is wanted, in an order that makes sense: what is sent before whether it is on.
fn changes(args: &InCallArgs) -> Result<Vec<CallChange>, Problem> {
    use super::phone::source;

    let on = |switch: Switch| switch == Switch::On;
    let text = |name: &Option<String>| name.as_deref().map(source).transpose();
    let all = [
        text(&args.video)?.map(CallChange::Video),
        text(&args.screen)?.map(CallChange::Screen),
        text(&args.audio)?.map(CallChange::Audio),
        text(&args.speaker)?.map(CallChange::Speaker),
        args.camera.map(|switch| CallChange::Camera(on(switch))),
        args.mute.map(|switch| CallChange::Mute(on(switch))),
        args.max_rate_in.map(CallChange::MaxIn),
        args.hold.map(|switch| CallChange::Hold(on(switch))),
    ];
    Ok(all.into_iter().flatten().collect())
}

/// What a side sends.
fn in_words(sources: &Sources) -> String {
    let mut what = Vec::new();
    match (sources.audio, sources.muted) {
        (true, false) => what.push("sound"),
        (true, true) => what.push("sound, muted"),
        (false, _) => {}
    }
    if sources.camera {
        what.push("camera");
    }
    if sources.screen {
        what.push("screen");
    }
    if what.is_empty() {
        what.push("nothing");
    }
    if sources.held {
        what.push("on hold");
    }
    what.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_changes_in_their_order() {
        let args = InCallArgs {
            mute: Some(Switch::Off),
            camera: None,
            hold: Some(Switch::On),
            video: Some("pattern".to_owned()),
            screen: None,
            audio: None,
            speaker: None,
            max_rate_in: Some(0),
            hang_up: false,
        };
        assert_eq!(
            changes(&args).expect("names"),
            [
                CallChange::Video("pattern".to_owned()),
                CallChange::Mute(false),
                CallChange::MaxIn(0),
                CallChange::Hold(true),
            ]
        );
    }

    #[test]
    fn a_side_is_told_by_what_it_sends() {
        let mut sources = Sources::default();
        assert_eq!(in_words(&sources), "nothing");
        (sources.audio, sources.muted, sources.screen) = (true, true, true);
        sources.held = true;
        assert_eq!(in_words(&sources), "sound, muted, screen, on hold");
    }
}
