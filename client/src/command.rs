//! All that a user can ask of the engine, from whichever face, and what it answers. These types cross a
//! local socket as JSON; the engine of one version serves faces of the same version only.
//!
//! Reading what is stored (history, past transfers) needs no engine: faces open the store for that.

use std::net::SocketAddr;
use std::path::PathBuf;

use p2p_net::{NetworkReport, PeerId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::args::Accept;
use crate::call::MediaChoice;
use crate::contacts::{Contact, peer_text};
use crate::diagnosis::PeerReport;
use crate::event::{CallView, PeerView, RelayView};
use crate::store::messages::StoredMessage;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Who we are, and where the login at the relay stands.
    Status,
    /// Who is at the relay, and who is connected.
    Peers,
    /// How the network is; takes a second or two, and some dozens of packets to the relay.
    Network,
    /// How the way to a peer is, without changing anything about it.
    Diagnose {
        /// Which.
        #[serde(with = "peer_text")]
        peer: PeerId,
    },
    /// Changes the address book; see [`BookCommand`].
    Book(BookCommand),
    /// Says where a peer can be reached without a relay.
    Locate {
        /// Who; answered as an accepted contact only.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// Makes a connection to a peer, if there is none; answers when it is usable.
    Connect {
        /// To whom; becomes an accepted contact.
        #[serde(with = "peer_text")]
        peer: PeerId,
    },
    /// Stores a message and sends it as soon as the peer is there.
    Say {
        /// To whom; becomes an accepted contact.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// Not empty, at most [`crate::wire::MAX_TEXT_LEN`] bytes.
        text: String,
        /// A message of the peer that this one answers.
        reply_to: Option<Uuid>,
    },
    /// Our person has seen what the peer wrote.
    MarkRead {
        /// Who wrote.
        #[serde(with = "peer_text")]
        peer: PeerId,
    },
    /// Sends files and folders; answers with the transfer's number, the rest are events.
    Send {
        /// To whom; becomes an accepted contact.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// What; absolute paths.
        paths: Vec<PathBuf>,
    },
    /// Ends a running transfer, in either direction.
    Cancel {
        /// Its number.
        number: i64,
    },
    /// From now on this face says what happens with offers; a second face with a policy is refused.
    Receive(Policy),
    /// Our person's answer to [`crate::event::Event::Offer`].
    Answer {
        /// The offer's number.
        offer: u64,
        /// Take it.
        accept: bool,
    },
    /// Calls a peer; answers with the call's number, the rest are events. The call ends with the face.
    Call {
        /// Whom; becomes an accepted contact.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// What we send, and where what comes goes; absolute paths.
        media: Box<MediaChoice>,
        /// Whether the direct path may be used.
        relay_only: bool,
    },
    /// From now on this face says what happens with calls that come; a second face is refused.
    TakeCalls(CallPolicy),
    /// Our person's answer to a call that came: take it with the policy's media, or decline.
    AnswerCall {
        /// The call's number.
        number: i64,
        /// Take it.
        accept: bool,
    },
    /// Hangs up, or gives up.
    EndCall {
        /// The call's number.
        number: i64,
    },
    /// The call that rings or runs, if there is one.
    CallNow,
    /// Changes what we send in the call that runs.
    ChangeCall {
        /// The call's number.
        number: i64,
        /// What.
        change: CallChange,
    },
}

/// Changes of the address book, which need the engine only so that it hears of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum BookCommand {
    /// Makes somebody an accepted contact.
    Add {
        /// Whom.
        #[serde(with = "peer_text")]
        id: PeerId,
        /// Our name for it.
        name: Option<String>,
    },
    /// Gives a contact another name.
    Rename {
        /// Whom.
        #[serde(with = "peer_text")]
        id: PeerId,
        /// The new name.
        name: String,
    },
    /// The safety number was compared.
    Verify {
        /// With whom.
        #[serde(with = "peer_text")]
        id: PeerId,
    },
    /// Blocks or unblocks.
    Block {
        /// Whom.
        #[serde(with = "peer_text")]
        id: PeerId,
        /// Block; otherwise unblock.
        blocked: bool,
    },
    /// Keeps our addresses from a contact, or no longer.
    RelayOnly {
        /// From whom.
        #[serde(with = "peer_text")]
        id: PeerId,
        /// Keep them; otherwise a direct path is sought again.
        only: bool,
    },
    /// Keeps them from everybody, or no longer.
    AllRelayOnly {
        /// Keep them.
        only: bool,
    },
    /// Forgets a contact.
    Remove {
        /// Whom.
        #[serde(with = "peer_text")]
        id: PeerId,
    },
}

impl BookCommand {
    /// Whom it is about; nobody in particular where it is about all.
    pub const fn id(&self) -> Option<PeerId> {
        match self {
            Self::Add { id, .. }
            | Self::Rename { id, .. }
            | Self::Verify { id }
            | Self::Block { id, .. }
            | Self::RelayOnly { id, .. }
            | Self::Remove { id } => Some(*id),
            Self::AllRelayOnly { .. } => None,
        }
    }
}

/// What happens with calls that come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallPolicy {
    /// Whose calls are taken at once, or all are asked about.
    #[serde(with = "accept_text")]
    pub accept: Accept,
    /// What we send, and where what comes goes; absolute paths.
    pub media: Box<MediaChoice>,
}

/// A change of our side of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", content = "to", rename_all = "snake_case")]
pub enum CallChange {
    /// The microphone's sound is sent, or not.
    Mute(bool),
    /// The camera's pictures are sent, or not.
    Camera(bool),
    /// Nothing is sent in either direction, or all again.
    Hold(bool),
    /// Another source instead of the camera.
    Video(String),
    /// Another screen or window is shared; `none` ends that.
    Screen(String),
    /// Another microphone.
    Audio(String),
    /// Another loudspeaker.
    Speaker(String),
    /// The other side is asked for no more than so much, 1,000 bits a second; 0: whatever the path carries.
    MaxIn(u32),
}

/// What happens with offers of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whose are taken.
    #[serde(with = "accept_text")]
    pub accept: Accept,
    /// Where they go; absolute.
    pub into: PathBuf,
    /// Whether files of the same name are replaced.
    pub overwrite: bool,
}

/// What is answered to a command that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// To [`Command::Status`].
    Status(Status),
    /// To [`Command::Peers`].
    Peers(Vec<PeerView>),
    /// To [`Command::Network`].
    Network(Box<NetworkReport>),
    /// To [`Command::Diagnose`].
    Way(Box<PeerReport>),
    /// The contact as it is now; nothing after a removal.
    Contact(Option<Contact>),
    /// The message as it was stored.
    Message(StoredMessage),
    /// The number of the transfer that began.
    Transfer(i64),
    /// The number of the call that began.
    Call(i64),
    /// To [`Command::CallNow`].
    CallNow(Option<Box<CallView>>),
}

/// The engine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Our id.
    #[serde(with = "peer_text")]
    pub id: PeerId,
    /// The name that we claim.
    pub name: String,
    /// The login at the relay.
    pub relay: RelayView,
    /// The process that the engine runs in.
    pub process: u32,
}

mod accept_text {
    use clap::ValueEnum;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::args::Accept;

    pub(super) fn serialize<S: Serializer>(accept: &Accept, to: S) -> Result<S::Ok, S::Error> {
        let value = accept.to_possible_value();
        to.serialize_str(value.as_ref().map_or("none", |value| value.get_name()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Accept, D::Error> {
        Accept::from_str(&String::deserialize(from)?, false).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_json() {
        let peer = PeerId::from_bytes([3; 32]);
        let policy = Policy {
            accept: Accept::Contacts,
            into: PathBuf::from("/in"),
            overwrite: true,
        };
        for command in [
            Command::Status,
            Command::Book(BookCommand::Add {
                id: peer,
                name: Some("Ann".to_owned()),
            }),
            Command::Say {
                peer,
                text: "hi\n\"you\"".to_owned(),
                reply_to: Some(Uuid::nil()),
            },
            Command::Send {
                peer,
                paths: vec![PathBuf::from("/a b"), PathBuf::from("/ü")],
            },
            Command::Receive(policy),
            Command::Answer {
                offer: u64::MAX,
                accept: false,
            },
            Command::Call {
                peer,
                media: Box::default(),
                relay_only: true,
            },
            Command::TakeCalls(CallPolicy {
                accept: Accept::All,
                media: Box::default(),
            }),
            Command::ChangeCall {
                number: 7,
                change: CallChange::Screen("none".to_owned()),
            },
        ] {
            let text = serde_json::to_string(&command).expect("plain data");
            assert_eq!(
                serde_json::from_str::<Command>(&text).expect("just written"),
                command
            );
        }
    }
}
