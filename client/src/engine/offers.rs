//! Offers of files: taken, refused, or shown to a person who decides.

use p2p_net::{PeerId, RecvStream, SendStream};
use tokio::sync::oneshot;

use super::actor::{Actor, note};
use super::transfers::{self, Context, Running, Verdict};
use crate::args::Accept;
use crate::command::Policy;
use crate::contacts::Standing;
use crate::event::Event;
use crate::store::transfers::{RUNNING, TransferRecord};
use crate::store::{self, now_millis};
use crate::transfer::{Cancel, Decision, Offer};
use crate::wire::close_code;
use crate::{Exit, Problem};

/// An offer that a person looks at.
pub(super) struct Waiting {
    peer: PeerId,
    face: u64,
    policy: Policy,
    offer: Offer,
    decide: oneshot::Sender<Verdict>,
}

/// What becomes of an offer.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Take,
    Ask,
    Refuse(&'static str),
}

fn choose(accept: Option<Accept>, standing: Standing) -> Choice {
    match (accept, standing) {
        (_, Standing::Blocked) => Choice::Refuse("not wanted"),
        (None, _) => Choice::Refuse("nobody receives files there at the moment"),
        (Some(Accept::None), _) => Choice::Refuse("files are not accepted there"),
        (Some(Accept::All), _) | (Some(Accept::Contacts), Standing::Accepted) => Choice::Take,
        (Some(Accept::Contacts), Standing::Stranger) => {
            Choice::Refuse("files are accepted from contacts only")
        }
        (Some(Accept::Ask), _) => Choice::Ask,
    }
}

fn refused(reason: &str) -> Verdict {
    Verdict {
        decision: Decision::Reject {
            reason: reason.to_owned(),
        },
        record: None,
    }
}

impl Actor {
    /// A peer opened the control stream of a transfer.
    pub(super) fn on_transfer_stream(
        &mut self,
        peer: PeerId,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let is_contact = self.standing(&peer) == Standing::Accepted;
        let link = self.peers.get(&peer).and_then(|state| state.ready_link());
        let Some(link) = link.filter(|_| self.transfers.has_room_for(&peer, is_contact)) else {
            let _ = send.reset(close_code::UNKNOWN_STREAM.into());
            let _ = recv.stop(close_code::UNKNOWN_STREAM.into());
            return;
        };
        let (conn, router) = (link.conn.clone(), link.router.clone());
        let cancel = Cancel::new();
        let running = Running {
            peer,
            outgoing: false,
            face: None,
            number: None,
            cancel: cancel.clone(),
        };
        let task = self.transfers.add(running);
        let (store, inbox) = (self.store.clone(), self.inputs.clone());
        let context = Context {
            task,
            peer,
            store,
            inbox,
            cancel,
        };
        self.tasks
            .spawn(transfers::run_receive(context, conn, send, recv, router));
    }

    /// The offer itself is there.
    pub(super) async fn on_offered(
        &mut self,
        task: u64,
        peer: PeerId,
        offer: Offer,
        decide: oneshot::Sender<Verdict>,
    ) {
        let policy = self
            .faces
            .policy()
            .map(|(face, policy)| (face, policy.clone()));
        let choice = choose(
            policy.as_ref().map(|(_, policy)| policy.accept),
            self.standing(&peer),
        );
        let (face, policy) = match (choice, policy) {
            (Choice::Refuse(reason), _) => {
                let _ = decide.send(refused(reason));
                return;
            }
            (_, None) => return,
            (Choice::Take, Some((face, policy))) => {
                // Yes for this connection: the direct path may be used.
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.accepted_for_now = true;
                    self.endpoint.set_accepted(peer, true);
                }
                let waiting = Waiting {
                    peer,
                    face,
                    policy,
                    offer,
                    decide,
                };
                return self.take(task, waiting).await;
            }
            (Choice::Ask, Some(asks)) => asks,
        };
        let event = Event::Offer {
            offer: task,
            from: self.view(&peer),
            content: offer.clone(),
        };
        self.offers.insert(
            task,
            Waiting {
                peer,
                face,
                policy,
                offer,
                decide,
            },
        );
        self.faces.tell(face, event);
    }

    /// A person answered.
    pub(super) async fn answer_offer(
        &mut self,
        face: u64,
        task: u64,
        accept: bool,
    ) -> Result<(), Problem> {
        let is_theirs = self
            .offers
            .get(&task)
            .is_some_and(|waiting| waiting.face == face);
        let Some(waiting) = self.offers.remove(&task).filter(|_| is_theirs) else {
            return Err(Problem::new(Exit::Failure, "this offer is no longer there"));
        };
        if accept {
            self.accept(waiting.peer).await?;
            self.take(task, waiting).await;
        } else {
            let _ = waiting.decide.send(refused("declined"));
        }
        Ok(())
    }

    async fn take(&mut self, task: u64, waiting: Waiting) {
        let Waiting {
            peer,
            face,
            policy,
            offer,
            decide,
        } = waiting;
        let mut record = TransferRecord {
            number: 0,
            transfer: offer.transfer.to_string(),
            peer,
            outgoing: false,
            label: offer.label.clone(),
            outcome: RUNNING.to_owned(),
            detail: None,
            bytes: 0,
            files: 0,
            skipped: 0,
            started_at_millis: now_millis(),
            elapsed_millis: 0,
            folder: Some(policy.into.to_string_lossy().into_owned()),
        };
        let begun = record.clone();
        let begun = self
            .store
            .run(move |db| store::transfers::begin(db, &begun))
            .await;
        let Some(number) = note(begun, "a transfer") else {
            let _ = decide.send(refused("the receiver cannot store anything"));
            return;
        };
        record.number = number;
        if let Some(running) = self.transfers.get_mut(task) {
            running.number = Some(number);
            running.face = Some(face);
        }
        let Policy {
            into, overwrite, ..
        } = policy;
        let decision = Decision::Accept { into, overwrite };
        let _ = decide.send(Verdict {
            decision,
            record: Some(record),
        });
    }

    /// The task of a transfer ended; an offer that nobody answered is gone with it.
    pub(super) fn on_transfer_task(&mut self, task: u64) {
        self.transfers.remove(task);
        self.note_transfers();
        if let Some(waiting) = self.offers.remove(&task) {
            self.faces
                .tell(waiting.face, Event::OfferGone { offer: task });
        }
    }

    /// Nobody is left who could answer.
    pub(super) fn refuse_offers_of(&mut self, face: u64) {
        let theirs = self.offers.extract_if(|_, waiting| waiting.face == face);
        for (_, waiting) in theirs {
            let _ = waiting
                .decide
                .send(refused("nobody receives files there any more"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_without_consent() {
        use Standing::{Accepted, Blocked, Stranger};
        for standing in [Stranger, Accepted, Blocked] {
            assert!(matches!(choose(None, standing), Choice::Refuse(_)));
            assert!(matches!(
                choose(Some(Accept::None), standing),
                Choice::Refuse(_)
            ));
        }
        assert!(matches!(
            choose(Some(Accept::All), Blocked),
            Choice::Refuse(_)
        ));
        assert!(matches!(
            choose(Some(Accept::Contacts), Stranger),
            Choice::Refuse(_)
        ));
        assert_eq!(choose(Some(Accept::Contacts), Accepted), Choice::Take);
        assert_eq!(choose(Some(Accept::All), Stranger), Choice::Take);
        assert_eq!(choose(Some(Accept::Ask), Accepted), Choice::Ask);
    }
}
