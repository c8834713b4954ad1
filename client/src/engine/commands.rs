//! What the engine does with the commands of its faces.

use std::path::PathBuf;

use p2p_net::PeerId;
use tokio::sync::oneshot;

use super::actor::Actor;
use super::new_message_id;
use super::transfers::{self, Context, MAX_RUNNING, Running};
use crate::command::{BookCommand, Command, Reply, Status};
use crate::contacts::Standing;
use crate::store::messages::{MessageState, StoredMessage};
use crate::store::transfers::{RUNNING, TransferRecord};
use crate::store::{self, now_millis};
use crate::transfer::Cancel;
use crate::wire::{self, MAX_TEXT_LEN};
use crate::{Problem, book, chat};

/// Paths that one command sends at most.
const MAX_PATHS: usize = 10_000;

type Answer = oneshot::Sender<Result<Reply, Problem>>;

impl Actor {
    /// Does what a face asks, and answers; what takes long answers from a task of its own.
    pub(super) async fn on_command(&mut self, face: u64, command: Command, reply: Answer) {
        let result = match command {
            Command::Status => Ok(Reply::Status(Status {
                id: self.endpoint.id(),
                name: self.name.clone(),
                relay: self.relay_view(),
                process: std::process::id(),
            })),
            Command::Peers => Ok(Reply::Peers(self.all_views())),
            Command::Network => return self.examine(reply),
            Command::Diagnose { peer } => Ok(Reply::Way(Box::new(self.diagnose(peer)))),
            Command::Book(change) => self.change_book(change).await,
            Command::Locate { peer, addresses } => {
                self.endpoint.set_addresses(peer, addresses);
                Ok(Reply::Done)
            }
            Command::Connect { peer } => return self.connect(peer, reply).await,
            Command::Say {
                peer,
                text,
                reply_to,
            } => {
                let reply_to = reply_to.map(|id| (peer, id));
                self.say(peer, text, reply_to).await.map(Reply::Message)
            }
            Command::MarkRead { peer } => self.mark_read(peer).await,
            Command::Send { peer, paths } => {
                self.send(face, peer, paths).await.map(Reply::Transfer)
            }
            Command::Cancel { number } => {
                let mut running = self.transfers.iter();
                if let Some(running) = running.find(|running| running.number == Some(number)) {
                    running.cancel.cancel("the other side ended it");
                }
                Ok(Reply::Done)
            }
            Command::Receive(policy) => self.faces.set_policy(face, policy).map(|()| Reply::Done),
            Command::Call {
                peer,
                media,
                relay_only,
            } => self.place_call(face, peer, *media, relay_only).await,
            Command::TakeCalls(policy) => self.take_calls(face, policy),
            Command::AnswerCall { number, accept } => self.answer_call(face, number, accept).await,
            Command::EndCall { number } => self.end_call(number).await,
            Command::CallNow => Ok(Reply::CallNow(self.call_now().map(Box::new))),
            Command::ChangeCall { number, change } => self.change_call(number, change).await,
            Command::Answer { offer, accept } => self
                .answer_offer(face, offer, accept)
                .await
                .map(|()| Reply::Done),
        };
        // A face that went no longer wants to know.
        let _ = reply.send(result);
    }

    async fn change_book(&mut self, change: BookCommand) -> Result<Reply, Problem> {
        let Some(id) = change.id() else {
            if let BookCommand::AllRelayOnly { only } = change {
                book::apply(&self.store, change).await?;
                self.endpoint.set_all_relay_only(only);
            }
            return Ok(Reply::Contact(None));
        };
        if id == self.endpoint.id() {
            return Err(Problem::usage("this is our own id"));
        }
        let contact = book::apply(&self.store, change).await?;
        match &contact {
            Some(contact) => self.contacts.insert(id, contact.clone()),
            None => self.contacts.remove(&id),
        };
        self.set_relay_only(&id);
        if contact
            .as_ref()
            .is_some_and(|contact| contact.standing == Standing::Accepted)
        {
            self.endpoint.set_accepted(id, true);
        } else {
            self.drop_peer(id).await;
        }
        self.tell_peer(&id);
        Ok(Reply::Contact(contact))
    }

    async fn connect(&mut self, peer: PeerId, reply: Answer) {
        if let Err(problem) = self.accept(peer).await {
            let _ = reply.send(Err(problem));
            return;
        }
        let connection = self.want(peer).await;
        self.tasks.spawn(async move {
            let result = connection
                .await
                .unwrap_or_else(|_| Err(crate::face::gone()));
            let _ = reply.send(result.map(|_| Reply::Done));
        });
    }

    async fn say(
        &mut self,
        peer: PeerId,
        text: String,
        reply_to: Option<(PeerId, uuid::Uuid)>,
    ) -> Result<StoredMessage, Problem> {
        if text.trim().is_empty() {
            return Err(Problem::usage("an empty message is not sent"));
        }
        if text.len() > MAX_TEXT_LEN {
            return Err(Problem::usage(format!(
                "the message has {} bytes, at most {MAX_TEXT_LEN} can be sent",
                text.len()
            ))
            .with_next("send long texts as a file"));
        }
        self.accept(peer).await?;
        let now = now_millis();
        let message = wire::Message {
            id: new_message_id(),
            text,
            sent_at_millis: u64::try_from(now).unwrap_or(0),
            reply_to,
        };
        let stored = message.clone();
        self.store
            .run(move |db| store::messages::add_outgoing(db, &peer, &stored, now))
            .await?;
        let shown = StoredMessage {
            peer,
            outgoing: true,
            id: message.id,
            text: message.text.clone(),
            sent_at_millis: now,
            state: MessageState::Waiting,
            reply_to: reply_to.map(|(_, id)| id),
        };
        self.chat(peer, chat::Input::Queue(message)).await;
        Ok(shown)
    }

    async fn mark_read(&mut self, peer: PeerId) -> Result<Reply, Problem> {
        let ids = self
            .store
            .run(move |db| store::messages::mark_read(db, &peer))
            .await?;
        if !ids.is_empty() && self.standing(&peer) == Standing::Accepted {
            self.chat(peer, chat::Input::Reads(ids)).await;
        }
        Ok(Reply::Done)
    }

    async fn send(&mut self, face: u64, peer: PeerId, paths: Vec<PathBuf>) -> Result<i64, Problem> {
        if paths.is_empty() || paths.len() > MAX_PATHS {
            return Err(Problem::usage(format!(
                "1 to {MAX_PATHS} paths can be sent at once"
            )));
        }
        if self.transfers.iter().count() >= MAX_RUNNING {
            return Err(Problem::failure("too many transfers run").with_next("wait for one to end"));
        }
        self.accept(peer).await?;
        let mut record = TransferRecord {
            number: 0,
            transfer: String::new(),
            peer,
            outgoing: true,
            label: first_name(&paths),
            outcome: RUNNING.to_owned(),
            detail: None,
            bytes: 0,
            files: 0,
            skipped: 0,
            started_at_millis: now_millis(),
            elapsed_millis: 0,
            folder: None,
        };
        let begun = record.clone();
        let number = self
            .store
            .run(move |db| store::transfers::begin(db, &begun))
            .await?;
        record.number = number;
        let cancel = Cancel::new();
        let task = self.transfers.add(Running {
            peer,
            outgoing: true,
            face: Some(face),
            number: Some(number),
            cancel: cancel.clone(),
        });
        self.note_transfers();
        let throttle = self.calls.throttle_of(peer);
        let connection = self.want(peer).await;
        let context = Context {
            task,
            peer,
            store: self.store.clone(),
            inbox: self.inputs.clone(),
            cancel,
        };
        self.tasks.spawn(transfers::run_send(
            context, record, connection, paths, throttle,
        ));
        Ok(number)
    }
}

fn first_name(paths: &[PathBuf]) -> String {
    let name = paths.first().and_then(|path| path.file_name());
    name.map_or_else(
        || "files".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
