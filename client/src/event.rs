//! All that can happen, as the engine tells its faces, and the views of peers and relay that commands
//! show. Serializable: `--json` prints the same objects.

use std::net::SocketAddr;

use p2p_net::{PathKind, PeerId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Problem;
use crate::call::MediaChoice;
use crate::contacts::{Standing, peer_text};
use crate::store::calls::CallRecord;
use crate::store::messages::{MessageState, StoredMessage};
use crate::store::transfers::TransferRecord;
use crate::transfer;
use crate::wire::{Quality, Sources};

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The login at the relay changed.
    Relay {
        /// What it is now.
        relay: RelayView,
    },
    /// A peer came, went, connected, or changed its path.
    Peer {
        /// What it is now.
        peer: PeerView,
    },
    /// A message came, and is stored.
    Message {
        /// From whom.
        from: PeerView,
        /// The message.
        message: StoredMessage,
    },
    /// Messages of ours went further.
    MessageState {
        /// To whom they are.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// Which.
        ids: Vec<Uuid>,
        /// How far they are.
        state: MessageState,
    },
    /// Somebody wants to send files, and our person must say whether; only for the face that asks.
    Offer {
        /// Its number, for the answer.
        offer: u64,
        /// From whom.
        from: PeerView,
        /// What.
        content: transfer::Offer,
    },
    /// An offer needs no answer any more.
    OfferGone {
        /// Its number.
        offer: u64,
    },
    /// Something about a transfer.
    Transfer {
        /// Its number in the store.
        number: i64,
        /// With whom.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// We send.
        outgoing: bool,
        /// What.
        step: TransferStep,
    },
    /// Something about a call.
    Call {
        /// Its number in the store.
        number: i64,
        /// With whom.
        #[serde(with = "peer_text")]
        peer: PeerId,
        /// We called.
        outgoing: bool,
        /// What.
        step: CallStep,
    },
}

/// What a call does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum CallStep {
    /// We try to reach the other side.
    Calling,
    /// It rings there.
    Ringing,
    /// Somebody calls, and our person must say whether.
    Incoming {
        /// Who.
        from: Box<PeerView>,
        /// What the other side sends at first.
        sources: Sources,
    },
    /// Media begin.
    Began {
        /// What the other side sends at first.
        sources: Sources,
    },
    /// Sources changed; media rest while either side holds.
    Sources {
        /// Ours.
        ours: Sources,
        /// Theirs.
        theirs: Sources,
    },
    /// Nothing is heard of the other side (true), or something again.
    Silent {
        /// Nothing.
        silent: bool,
    },
    /// Something about devices, pictures or voices.
    Media {
        /// What.
        what: media::pipeline::Event,
    },
    /// The numbers of the call, each second.
    Stats {
        /// All of them.
        stats: Box<media::stats::Snapshot>,
    },
    /// How loud both sides are, some times a second; only for the face whose call it is.
    Levels {
        /// dBFS.
        levels: media::pipeline::Levels,
    },
    /// How our media arrive at the other side, as it says.
    Quality {
        /// Its figures.
        quality: Quality,
    },
    /// It is over.
    Ended {
        /// What is stored.
        record: CallRecord,
        /// Its numbers, if media ran.
        summary: Option<Box<media::stats::Summary>>,
        /// Why it is not simply good.
        problem: Option<Problem>,
    },
}

/// What a transfer does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum TransferStep {
    /// The connection is there, and the offer is made or accepted.
    Started {
        /// What it is called.
        label: String,
    },
    /// The receiver wants it.
    Accepted,
    /// It goes from one phase to the next.
    Phase {
        /// The next.
        phase: transfer::Phase,
    },
    /// How far it is.
    Bytes {
        /// Bytes of content done.
        done: u64,
        /// Bytes of content in all, where known.
        total: Option<u64>,
        /// Files done.
        files_done: u64,
        /// Files in all, where known.
        files_total: Option<u64>,
        /// Since acceptance.
        elapsed_millis: u64,
        /// What carries it.
        path: PathKind,
    },
    /// It is over; the record is stored, its files with it.
    Ended {
        /// What is stored.
        record: Box<TransferRecord>,
        /// Why it is not simply good; also for a complete one with skipped files.
        problem: Option<Problem>,
    },
}

/// The call that rings or runs, as whoever asks sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallView {
    /// Its number, for commands.
    pub number: i64,
    /// With whom.
    #[serde(with = "peer_text")]
    pub peer: PeerId,
    /// We called.
    pub outgoing: bool,
    /// Since media run, milliseconds; nothing while it rings.
    pub elapsed_millis: Option<u64>,
    /// What we send.
    pub ours: Sources,
    /// What the other side sends.
    pub theirs: Sources,
    /// Our sources and sinks by name.
    pub choice: MediaChoice,
}

/// A peer as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its key.
    #[serde(with = "peer_text")]
    pub id: PeerId,
    /// Our name for it.
    pub name: Option<String>,
    /// The name that it claims, never to be taken for one of ours.
    pub claimed_name: Option<String>,
    /// What it is to us.
    pub standing: Standing,
    /// The safety number was compared.
    pub verified: bool,
    /// It is at the relay.
    pub online: bool,
    /// What carries our packets; `None` without a connection.
    pub path: PathKind,
    /// Its address on a direct path.
    pub remote: Option<SocketAddr>,
    /// Round trip of the connection, microseconds.
    pub round_trip_micros: Option<u64>,
}

impl PeerView {
    /// How we call it: our name, or the short id of a contact, or enough of a stranger's id.
    pub fn label(&self) -> String {
        match (&self.name, self.standing) {
            (Some(name), _) => name.clone(),
            (None, Standing::Stranger) => crate::contacts::consent_text(&self.id),
            (None, _) => self.id.short(),
        }
    }
}

/// The login at the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayView {
    /// Its address, without the token; nothing if none is configured.
    pub address: Option<String>,
    /// Where the login stands.
    pub state: RelayStep,
    /// From where the relay sees us.
    pub observed: Option<SocketAddr>,
    /// The TCP port by which it is reached, because UDP is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_tcp: Option<u16>,
    /// Why the login is not there, with its exit code.
    pub problem: Option<Problem>,
    /// The key that a relay presented which nobody vouches for yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_key: Option<String>,
}

impl RelayView {
    /// What a person should know of the way to the relay, to be said behind "logged in"; nothing where it is
    /// UDP, as it should be.
    pub fn by(&self) -> String {
        self.over_tcp.map_or_else(String::new, |port| {
            format!(" over TCP {port}, because UDP is blocked here")
        })
    }
}

/// Where a login stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayStep {
    /// No relay is configured.
    None,
    /// On the way there.
    Connecting,
    /// Logged in.
    Online,
    /// Given up until somebody acts.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_json_and_strangers_show_enough_of_their_id() {
        let mut peer = PeerView {
            id: PeerId::from_bytes([3; 32]),
            name: None,
            claimed_name: Some("Ann".to_owned()),
            standing: Standing::Stranger,
            verified: false,
            online: true,
            path: PathKind::Relayed,
            remote: None,
            round_trip_micros: Some(5),
        };
        assert_eq!(peer.label().len(), crate::contacts::CONSENT_LEN);
        peer.standing = Standing::Accepted;
        assert_eq!(peer.label(), peer.id.short());
        let event = Event::Peer { peer };
        let text = serde_json::to_string(&event).expect("plain data");
        assert!(text.starts_with("{\"event\":\"peer\""), "{text}");
        assert_eq!(
            serde_json::from_str::<Event>(&text).expect("just written"),
            event
        );
    }
}
