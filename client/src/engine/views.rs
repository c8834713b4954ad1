//! What the engine shows of its relay and its peers.

use p2p_net::{
    AcceptError, ConnectError, PathKind, PeerId, RelayAddress, RelayCarrier, RelayState,
};

use super::link::Link;
use crate::Problem;
use crate::contacts::{Contact, Standing};
use crate::event::{PeerView, RelayStep, RelayView};

/// What the user said about the relay.
pub(super) struct RelayFacts {
    pub(super) address: Option<RelayAddress>,
    pub(super) key_remembered: bool,
}

impl RelayFacts {
    /// The login as faces see it.
    pub(super) fn view(&self, state: &RelayState) -> RelayView {
        let mut view = RelayView {
            address: self.address.as_ref().map(RelayAddress::redacted),
            state: RelayStep::None,
            observed: None,
            over_tcp: None,
            problem: None,
            unknown_key: None,
        };
        match state {
            RelayState::None => {}
            RelayState::Connecting { last_error } => {
                view.state = RelayStep::Connecting;
                view.problem = last_error.as_ref().map(|error| self.explain(error));
            }
            RelayState::Online { observed, carrier } => {
                view.state = RelayStep::Online;
                view.observed = Some(*observed);
                view.over_tcp = match carrier {
                    RelayCarrier::Tcp { port } => Some(*port),
                    _ => None,
                };
            }
            RelayState::Failed(error) => {
                view.state = RelayStep::Failed;
                view.problem = Some(self.explain(error));
            }
        }
        if let RelayState::Failed(error)
        | RelayState::Connecting {
            last_error: Some(error),
        } = state
            && let AcceptError::UnknownKey {
                presented: Some(key),
            } = error
        {
            view.unknown_key = Some(key.to_string());
        }
        view
    }

    /// The relay as messages name it: without key and token.
    fn place(&self) -> String {
        self.address.as_ref().map_or_else(String::new, |address| {
            if address.host.contains(':') {
                format!("[{}]:{}", address.host, address.port)
            } else {
                format!("{}:{}", address.host, address.port)
            }
        })
    }

    /// Why a peer was not reached, for people.
    pub(super) fn explain_connect(&self, label: &str, error: &ConnectError) -> Problem {
        match error {
            ConnectError::RelayUnreachable(why) => Problem::unreachable(format!(
                "the relay at {} cannot be reached: {}",
                self.place(),
                self.without_address(why)
            )),
            other => explain_connect(label, other),
        }
    }

    /// The library's words, without the address that our own sentence has already.
    fn without_address(&self, text: &str) -> String {
        match &self.address {
            Some(address) => text
                .replace(&address.redacted(), "it")
                .replace(&self.place(), "it"),
            None => text.to_owned(),
        }
    }

    fn explain(&self, error: &AcceptError) -> Problem {
        let place = self.place();
        match error {
            AcceptError::WrongKey { presented } => {
                let expected = if self.key_remembered { "remembered" } else { "in its address" };
                let mut what = format!(
                    "the relay at {place} presented another key than the one {expected}"
                );
                if let Some(presented) = presented {
                    what = format!("{what}: {presented}");
                }
                Problem::unverified(what).with_next(
                    "somebody may stand in between, or the relay was set up anew: ask who runs it for \
                     the address that it prints now, then `landline relay set ADDRESS`",
                )
            }
            AcceptError::UnknownKey { presented } => {
                let shown = presented.map_or_else(|| "FINGERPRINT".to_owned(), |key| key.to_string());
                Problem::unverified(format!("the key of the relay at {place} is not known: {shown}"))
                    .with_next(format!(
                        "compare it with what the relay prints, then pin it: landline relay set \
                         {place}#{shown}.TOKEN"
                    ))
            }
            AcceptError::Refused { message, .. } => {
                Problem::new(crate::Exit::Refused, format!("the relay at {place} refuses: {message}"))
                    .with_next("use the full address that the relay prints, with its token")
            }
            AcceptError::Replaced => Problem::failure(
                "the same identity logged in at the relay from another place, and that one is served now",
            )
            .with_next("use a data folder of its own on each machine"),
            other => Problem::unreachable(format!(
                "the relay at {place} cannot be reached: {}",
                self.without_address(&other.to_string())
            ))
            .with_next("is the address right, does the relay run, does the network pass UDP?"),
        }
    }
}

/// A peer as faces see it.
pub(super) fn peer_view(
    id: PeerId,
    contact: Option<&Contact>,
    online: bool,
    link: Option<&Link>,
) -> PeerView {
    let path = link.map(|link| *link.conn.path().borrow());
    PeerView {
        id,
        name: contact.and_then(|contact| contact.name.clone()),
        claimed_name: contact.and_then(|contact| contact.claimed_name.clone()),
        standing: contact.map_or(Standing::Stranger, |contact| contact.standing),
        verified: contact.is_some_and(|contact| contact.verified),
        online: online || link.is_some(),
        path: path.map_or(PathKind::None, |path| path.kind),
        remote: path.and_then(|path| path.remote),
        round_trip_micros: link.map(|link| link.conn.stats().round_trip_micros),
    }
}

/// The same, where the relay is not to blame.
fn explain_connect(label: &str, error: &ConnectError) -> Problem {
    match error {
        ConnectError::NotOnline(_) => Problem::unreachable(format!("{label} is not online"))
            .with_next("messages are stored and go out when the peer is there; files need both at one time"),
        ConnectError::TimedOut(_) => Problem::unreachable(format!("{label} does not answer"))
            .with_next("try again in a moment; `landline peers` shows who is there"),
        ConnectError::Refused(why) => {
            Problem::new(crate::Exit::Refused, format!("the relay refuses a line to {label}: {why}"))
        }
        ConnectError::WrongPeer(_) => {
            Problem::unverified(format!("whoever answered could not prove to be {label}"))
                .with_next("the relay, or somebody near it, is not honest; nothing was sent")
        }
        ConnectError::Ourselves => Problem::usage("this is our own id"),
        other => Problem::unreachable(format!("{label} cannot be reached: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use p2p_net::Fingerprint;

    use super::*;
    use crate::Exit;

    #[test]
    fn a_changed_key_is_refused_in_words_that_help() {
        let address = RelayAddress {
            host: "relay.example.org".to_owned(),
            port: 443,
            fingerprint: None,
            token: Some("abcdefghijklmnop234567".parse().expect("a token")),
        };
        let facts = RelayFacts {
            address: Some(address),
            key_remembered: true,
        };
        let presented = Some(Fingerprint([1; 32]));
        let view = facts.view(&RelayState::Failed(AcceptError::WrongKey { presented }));
        let problem = view.problem.expect("a problem");
        assert!(problem.what.starts_with(
            "the relay at relay.example.org:443 presented another key than the one remembered"
        ));
        assert_eq!(problem.exit, Exit::Unverified);
        assert!(!format!("{problem}{:?}", view.address).contains("abcdefghijklmnop"));
        let view = facts.view(&RelayState::Failed(AcceptError::UnknownKey { presented }));
        assert_eq!(view.unknown_key, Some(Fingerprint([1; 32]).to_string()));
        assert!(
            view.problem
                .expect("a problem")
                .to_string()
                .contains("landline relay set")
        );
    }

    #[test]
    fn unreachable_peers_have_their_own_exit_code() {
        let id = PeerId::from_bytes([1; 32]);
        for error in [
            ConnectError::NotOnline(id),
            ConnectError::TimedOut(id),
            ConnectError::Closed,
        ] {
            assert_eq!(explain_connect("Ann", &error).exit, Exit::Unreachable);
        }
        assert_eq!(
            explain_connect("Ann", &ConnectError::WrongPeer(id)).exit,
            Exit::Unverified
        );
    }
}
