//! The faces of an engine: who hears what, and who decides on offers.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tracing::warn;

use crate::Problem;
use crate::command::Policy;
use crate::event::{CallStep, Event, TransferStep};
use crate::face::MAX_EVENTS;

/// All faces that are attached.
#[derive(Default)]
pub(super) struct Faces {
    all: BTreeMap<u64, FaceState>,
    last: u64,
}

struct FaceState {
    events: mpsc::Sender<Event>,
    policy: Option<Policy>,
}

impl Faces {
    /// Takes a face in; gives its number.
    pub(super) fn add(&mut self, events: mpsc::Sender<Event>) -> u64 {
        self.last += 1;
        self.all.insert(
            self.last,
            FaceState {
                events,
                policy: None,
            },
        );
        self.last
    }

    pub(super) fn remove(&mut self, face: u64) {
        self.all.remove(&face);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Makes `face` the one that decides on offers.
    pub(super) fn set_policy(&mut self, face: u64, policy: Policy) -> Result<(), Problem> {
        if self
            .all
            .iter()
            .any(|(number, state)| *number != face && state.policy.is_some())
        {
            return Err(Problem::failure(
                "another landline command with this data folder already receives",
            )
            .with_next("end that one first"));
        }
        if let Some(state) = self.all.get_mut(&face) {
            state.policy = Some(policy);
        }
        Ok(())
    }

    /// The face that decides on offers, and how.
    pub(super) fn policy(&self) -> Option<(u64, &Policy)> {
        self.all
            .iter()
            .find_map(|(face, state)| Some((*face, state.policy.as_ref()?)))
    }

    /// Tells everybody.
    pub(super) fn tell_all(&mut self, event: &Event) {
        self.all.retain(|_, state| tell(state, event.clone()));
    }

    /// Tells one.
    pub(super) fn tell(&mut self, face: u64, event: Event) {
        if self.all.get(&face).is_some_and(|state| !tell(state, event)) {
            self.all.remove(&face);
        }
    }
}

/// Gives whether the face may stay. What the next event of its kind makes good is left out early, so that
/// a slow face loses nothing that it needs.
fn tell(state: &FaceState, event: Event) -> bool {
    let repeats = matches!(
        event,
        Event::Peer { .. }
            | Event::Transfer {
                step: TransferStep::Bytes { .. },
                ..
            }
            | Event::Call {
                step: CallStep::Stats { .. } | CallStep::Levels { .. } | CallStep::Quality { .. },
                ..
            }
    );
    if repeats && state.events.capacity() < MAX_EVENTS / 2 {
        return true;
    }
    match state.events.try_send(event) {
        Ok(()) => true,
        // Its other half is gone: the detachment is on its way.
        Err(mpsc::error::TrySendError::Closed(_)) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            warn!("a face does not read its events, and is let go");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use p2p_net::PeerId;

    use super::*;
    use crate::args::Accept;

    fn important(offer: u64) -> Event {
        Event::OfferGone { offer }
    }

    fn repeating() -> Event {
        let step = TransferStep::Bytes {
            done: 0,
            total: None,
            files_done: 0,
            files_total: None,
            elapsed_millis: 0,
            path: p2p_net::PathKind::None,
        };
        Event::Transfer {
            number: 1,
            peer: PeerId::from_bytes([1; 32]),
            outgoing: true,
            step,
        }
    }

    #[test]
    fn a_slow_face_loses_repeats_first_and_is_let_go_at_last() {
        let mut faces = Faces::default();
        let (events, mut heard) = mpsc::channel(MAX_EVENTS);
        faces.add(events);
        for _ in 0..MAX_EVENTS {
            faces.tell_all(&repeating());
        }
        assert_eq!(heard.len(), MAX_EVENTS / 2 + 1);
        while faces.len() == 1 {
            faces.tell_all(&important(1));
        }
        assert_eq!(
            heard.len(),
            MAX_EVENTS,
            "everything that was taken can still be read"
        );
        while heard.try_recv().is_ok() {}
        assert!(heard.is_closed());
    }

    #[test]
    fn one_face_decides_on_offers() {
        let mut faces = Faces::default();
        let policy = Policy {
            accept: Accept::All,
            into: PathBuf::from("/"),
            overwrite: false,
        };
        let [(one, _heard), (other, _heard_too)] = [(); 2].map(|()| {
            let (events, heard) = mpsc::channel(MAX_EVENTS);
            (faces.add(events), heard)
        });
        faces.set_policy(one, policy.clone()).expect("the first");
        assert!(faces.set_policy(other, policy.clone()).is_err());
        faces
            .set_policy(one, policy.clone())
            .expect("changes its own");
        faces.remove(one);
        faces.set_policy(other, policy).expect("free again");
        assert_eq!(faces.policy().map(|(face, _)| face), Some(other));
    }
}
