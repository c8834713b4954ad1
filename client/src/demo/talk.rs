//! The demo's call: five seconds of a moving pattern and a tone in both directions, and what arrived of it.

use std::time::{Duration, Instant};

use media::stats::Summary;
use tokio::time::sleep;

use super::odd_reply;
use super::show::Show;
use super::side::Side;
use crate::Problem;
use crate::args::Accept;
use crate::call::MediaChoice;
use crate::command::{CallPolicy, Command, Reply};
use crate::event::{CallStep, Event};

/// How long they talk.
const TALK: Duration = Duration::from_secs(5);

/// Pictures and sound that every machine has.
fn choice() -> Box<MediaChoice> {
    Box::new(MediaChoice {
        video: Some("pattern:640x360".to_owned()),
        audio: Some("tone".to_owned()),
        speaker: Some("none".to_owned()),
        raw_voice: true,
        ..MediaChoice::default()
    })
}

/// Calls, talks, hangs up, and shows what each side saw and heard.
pub(super) async fn call(show: &mut Show, alice: &mut Side, bob: &mut Side) -> Result<(), Problem> {
    let policy = CallPolicy {
        accept: Accept::Contacts,
        media: choice(),
    };
    bob.ask(Command::TakeCalls(policy)).await?;
    let began = Instant::now();
    let command = Command::Call {
        peer: bob.id,
        media: choice(),
        relay_only: false,
    };
    let Reply::Call(number) = alice.ask(command).await? else {
        return Err(odd_reply());
    };
    alice
        .hear("the answer to the call", |event| match event {
            Event::Call {
                step: CallStep::Began { .. },
                ..
            } => Some(()),
            _ => None,
        })
        .await?;
    show.answered(alice.name, bob.name, began.elapsed());
    sleep(TALK).await;
    alice.ask(Command::EndCall { number }).await?;
    let at_alice = ended(alice).await?;
    let at_bob = ended(bob).await?;
    for (from, to, summary) in [(&*alice, &*bob, &at_bob), (&*bob, &*alice, &at_alice)] {
        show.call(from.name, to.name, summary);
        let shown = summary
            .last
            .video_in
            .iter()
            .map(|v| v.frames_shown)
            .sum::<u64>();
        if shown == 0 || summary.last.sound_in.packets_received == 0 {
            return Err(Problem::failure(format!(
                "{} saw or heard nothing of {}",
                to.name, from.name
            )));
        }
    }
    Ok(())
}

/// The numbers of a call that is over, and was good.
async fn ended(side: &mut Side) -> Result<Summary, Problem> {
    let (summary, problem) = side
        .hear("the end of the call", |event| match event {
            Event::Call {
                step: CallStep::Ended {
                    summary, problem, ..
                },
                ..
            } => Some((summary, problem)),
            _ => None,
        })
        .await?;
    match (problem, summary) {
        (Some(problem), _) => Err(problem),
        (None, Some(summary)) => Ok(*summary),
        (None, None) => Err(Problem::failure("the call ended without its numbers")),
    }
}
