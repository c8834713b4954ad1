//! `landline answer`: stays online and takes calls.

use std::io::{self, IsTerminal};

use tokio::time::Instant;

use super::call::hang_up;
use super::keys::{Keys, Typed};
use super::out::{Out, label_in};
use super::phone::{Phone, exit_of, until};
use crate::args::{Accept, AnswerArgs};
use crate::call::MediaChoice;
use crate::command::{CallPolicy, Command};
use crate::event::{CallStep, Event, RelayStep};
use crate::interrupt::{count, interrupted_more_than};
use crate::session::{Session, relay_problem};
use crate::settings::Settings;
use crate::{Exit, Problem, face, store};

pub(super) async fn run(settings: &Settings, out: Out, args: AnswerArgs) -> Result<Exit, Problem> {
    let choice = args.media.choice(&settings.call)?;
    let accept = match args.accept {
        Some(accept) => accept,
        None if io::stdin().is_terminal() => Accept::Ask,
        None => {
            return Err(
                Problem::usage("nobody can be asked: standard input is not a terminal")
                    .with_next("say --accept all or --accept contacts"),
            );
        }
    };
    let phone = Phone::new(out, &args.media)?;
    let mut session = Session::open(settings).await?;
    let mut answering = Answering {
        out,
        phone,
        choice,
        once: args.once,
        asked: false,
    };
    let result = answering.run(&mut session, accept).await;
    session.close().await;
    result
}

struct Answering {
    out: Out,
    phone: Phone,
    choice: MediaChoice,
    once: bool,
    /// The person is being asked about the call.
    asked: bool,
}

impl Answering {
    async fn run(&mut self, session: &mut Session, accept: Accept) -> Result<Exit, Problem> {
        let policy = CallPolicy {
            accept,
            media: Box::new(self.choice.clone()),
        };
        session.caller.call(Command::TakeCalls(policy)).await?;
        session.wait_online().await?;
        self.tell_ready(session, accept).await?;
        let mut keys = Keys::listen();
        let interrupts = count();
        let mut ending: Option<Instant> = None;
        loop {
            tokio::select! {
                event = session.events.recv() => {
                    let event = event.ok_or_else(face::gone)?;
                    let end = self.on_event(session, event).await?;
                    if let Some(problem) = end
                        && (self.once || ending.is_some())
                    {
                        return exit_of(problem);
                    }
                }
                typed = keys.next() => self.on_typed(session, &keys, typed).await,
                () = until(self.phone.deadline()) => {
                    // Asked once: what follows comes as an event.
                    hang_up(session, &self.phone).await;
                    self.phone.forget_deadline();
                }
                () = interrupted_more_than(interrupts), if ending.is_none() => {
                    if self.phone.number().is_none() {
                        return Ok(Exit::Success);
                    }
                    ending = Some(hang_up(session, &self.phone).await);
                }
                () = until(ending) => return Ok(Exit::Success),
            }
        }
    }

    async fn tell_ready(&self, session: &Session, accept: Accept) -> Result<(), Problem> {
        let whom = match accept {
            Accept::All => "everybody's calls",
            Accept::Contacts => "calls of contacts",
            Accept::None => "no calls",
            Accept::Ask => "calls after a question",
        };
        let status = session.status().await?;
        self.out.json(&serde_json::json!({
            "event": "ready", "id": status.id.to_string(),
        }));
        self.phone.say(&format!(
            "ready as {}: taking {whom}; Ctrl-C ends",
            status.id.short()
        ));
        let missed = session
            .store
            .run(|db| store::calls::count_unseen(db))
            .await?;
        if missed > 0 {
            let calls = if missed == 1 { "call" } else { "calls" };
            self.phone
                .say(&format!("{missed} missed {calls}: landline calls"));
        }
        Ok(())
    }

    /// Gives the end of the call that rang or ran.
    async fn on_event(
        &mut self,
        session: &Session,
        event: Event,
    ) -> Result<Option<Option<Problem>>, Problem> {
        if let Event::Relay { relay } = &event
            && relay.state == RelayStep::Failed
        {
            return Err(relay_problem(relay));
        }
        let contacts = session.contacts().await?;
        if let Event::Call {
            number,
            peer,
            outgoing: false,
            step,
        } = &event
            && self.phone.number().is_none()
            && matches!(step, CallStep::Incoming { .. } | CallStep::Began { .. })
        {
            let label = match step {
                CallStep::Incoming { from, .. } => from.label(),
                _ => label_in(&contacts, peer),
            };
            self.asked = matches!(step, CallStep::Incoming { .. });
            self.phone.take(*number, label, &self.choice);
        }
        let end = self.phone.on_event(event, &contacts);
        if end.is_some() {
            self.asked = false;
        }
        Ok(end.map(|(_, problem)| problem))
    }

    async fn on_typed(&mut self, session: &Session, keys: &Keys, typed: Typed) {
        let Some(number) = self.phone.number() else {
            return;
        };
        if self.phone.is_talking() {
            self.phone.on_typed(session, keys, typed).await;
        } else if let Typed::Key(key) = typed
            && std::mem::take(&mut self.asked)
        {
            let accept = key == 'y';
            let answer = Command::AnswerCall { number, accept };
            if let Err(problem) = session.caller.call(answer).await {
                self.phone.say(&problem.to_string());
            } else if !accept {
                self.phone.say("declined");
            }
        }
    }
}
