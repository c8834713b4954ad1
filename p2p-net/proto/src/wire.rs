//! Every message between a peer and its relay, and the bodies that peers seal to each other
//! (`wire.md` §3–§6). Each struct is the body of one frame kind; bounds that bincode cannot express
//! are checked by [`ToRelay::decode`] and [`FromRelay::decode`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Frame, Message};
use crate::{ChannelEnd, ChannelId, PeerId};

/// The protocol version that this code speaks.
pub const VERSION: u16 = 1;
/// Packets of a first flight at most.
pub const MAX_FLIGHT_PACKETS: usize = 4;
/// Bytes of a first flight at most.
pub const MAX_FLIGHT_BYTES: usize = 5_000;
/// Bytes of a sealed body at most.
pub const MAX_SEALED: usize = 16_384;
/// Peers in one presence message at most; a longer snapshot is sent in parts.
pub const MAX_PRESENCE: usize = 1_024;

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $kind:literal $message:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $message($message),)*
        }

        impl $name {
            /// The message in a frame; `None` for a kind that this version does not know.
            ///
            /// # Errors
            /// [`CodecError::Body`] for a malformed or over-long body of a known kind.
            pub fn decode(frame: &Frame) -> Result<Option<Self>, CodecError> {
                Ok(Some(match frame.kind {
                    $($kind => {
                        let message: $message = frame.decode()?;
                        if !message.is_bounded() {
                            return Err(CodecError::Body { kind: $kind });
                        }
                        Self::$message(message)
                    })*
                    _ => return Ok(None),
                }))
            }

            /// The bytes of the whole frame.
            ///
            /// # Errors
            /// [`CodecError::TooLarge`], also for what the other side would refuse as over-long.
            pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
                match self {
                    $(Self::$message(message) if !message.is_bounded() => {
                        Err(CodecError::TooLarge { kind: $kind })
                    }
                    Self::$message(message) => crate::codec::encode(message),)*
                }
            }
        }

        $(impl Message for $message { const KIND: u16 = $kind; }
        impl From<$message> for $name { fn from(message: $message) -> Self { Self::$message(message) } })*
    };
}

/// Bounds beyond those of the frame.
trait Bounded {
    fn is_bounded(&self) -> bool {
        true
    }
}

messages! {
    /// What a peer says to its relay.
    ToRelay {
        /// First message of a control stream.
        0x0001 Hello,
        /// Asks for a channel to another peer, with the first packets for it.
        0x0010 ChannelOpen,
        /// Agrees to a channel that was offered.
        0x0011 ChannelAccept,
        /// Gives a channel up, or declines one that was offered.
        0x0012 ChannelClose,
        /// A sealed message for another peer, outside any channel.
        0x0020 Signal,
        /// Asks for presence: a snapshot, then changes.
        0x0030 PresenceSubscribe,
        /// Wants a [`Pong`].
        0x0040 Ping,
    }
}

messages! {
    /// What a relay says to a peer.
    FromRelay {
        /// The login stands.
        0x8001 Welcome,
        /// The login, or one request, is refused.
        0x8002 Refused,
        /// This connection ends: somebody else took the place, or the relay stops.
        0x8003 Goodbye,
        /// The caller's end of a channel.
        0x8010 ChannelOpened,
        /// Somebody asks for a channel.
        0x8011 ChannelOffered,
        /// The other side agreed.
        0x8012 ChannelReady,
        /// A channel ended.
        0x8013 ChannelClosed,
        /// A sealed message from another peer.
        0x8020 SignalFrom,
        /// All who are there, possibly in parts.
        0x8030 PresenceSnapshot,
        /// Who came and who went since.
        0x8031 PresenceDelta,
        /// Answers [`Ping`].
        0x8040 Pong,
        /// The address from which the relay sees us changed.
        0x8041 ObservedNow,
    }
}

/// See [`ToRelay::Hello`]. Who speaks is known from TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Versions that the peer speaks, best first; at most 8.
    pub versions: Vec<u16>,
    /// Names of optional features; at most 32 of at most 32 bytes.
    pub capabilities: Vec<String>,
    /// The admission token, where the relay wants one.
    pub token: Option<String>,
}

/// See [`FromRelay::Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u16,
    /// Names of optional features that the relay has.
    pub capabilities: Vec<String>,
    /// From where the relay sees this peer.
    pub observed: SocketAddr,
    /// The relay's second port (STUN and everything else), if it has one.
    pub alternate_port: Option<u16>,
    /// What this peer may use.
    pub limits: Limits,
}

/// What a relay grants to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Channels open at one time.
    pub channels: u32,
    /// Channel offers and signals a minute.
    pub signals_per_minute: u32,
    /// Relayed bytes a second; 0 is unlimited.
    pub relayed_bytes_per_second: u64,
}

/// Why a relay refuses or ends something: a code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// See [`reason`].
    pub code: u16,
    /// What happened and what to do, at most 512 bytes.
    pub message: String,
    /// Seconds after which trying again makes sense; 0: not by itself.
    pub retry_after: u32,
}

/// Codes of [`Refused`], [`Goodbye`] and [`ChannelClosed`].
pub mod reason {
    /// No version in common.
    pub const VERSION: u16 = 1;
    /// The token is missing or wrong.
    pub const TOKEN: u16 = 2;
    /// This peer is not on the relay's list.
    pub const NOT_ALLOWED: u16 = 3;
    /// Too much of something; try later.
    pub const LIMITED: u16 = 4;
    /// The relay is full.
    pub const FULL: u16 = 5;
    /// The message made no sense here.
    pub const PROTOCOL: u16 = 6;
    /// The same identity logged in from elsewhere; the newest wins.
    pub const REPLACED: u16 = 16;
    /// The relay stops or restarts.
    pub const SHUTDOWN: u16 = 17;
    /// The peer asked for is not on this relay.
    pub const NOT_HERE: u16 = 32;
    /// The other side declined or closed.
    pub const CLOSED: u16 = 33;
    /// Nobody answered in time.
    pub const TIMEOUT: u16 = 34;
    /// The other side left the relay.
    pub const GONE: u16 = 35;
}

/// See [`FromRelay::Goodbye`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// See [`reason`].
    pub code: u16,
    /// A sentence for people, at most 512 bytes.
    pub message: String,
}

/// See [`ToRelay::ChannelOpen`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOpen {
    /// Chosen by the caller, unique on its connection; the answers repeat it.
    pub request: u32,
    /// Whom to reach.
    pub to: PeerId,
    /// A sealed [`Offer`], or empty.
    pub sealed: Vec<u8>,
    /// Whether the relay shall append the addresses that it observed for this peer.
    pub attest: bool,
    /// QUIC packets for the other end, at most [`MAX_FLIGHT_PACKETS`] and [`MAX_FLIGHT_BYTES`].
    pub flight: Vec<Vec<u8>>,
}

/// See [`FromRelay::ChannelOpened`]; sent at once, before the other side knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOpened {
    /// The caller's number.
    pub request: u32,
    /// The channel.
    pub channel: ChannelId,
    /// The caller's end.
    pub end: ChannelEnd,
}

/// See [`FromRelay::ChannelOffered`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOffered {
    /// The channel.
    pub channel: ChannelId,
    /// The callee's end.
    pub end: ChannelEnd,
    /// Who calls: its key, proven to the relay by TLS.
    pub from: PeerId,
    /// A sealed [`Offer`], or empty.
    pub sealed: Vec<u8>,
    /// The caller's addresses as the relay observed them, if it asked for that.
    pub observed: Vec<ObservedAddress>,
    /// The first packets.
    pub flight: Vec<Vec<u8>>,
}

/// See [`ToRelay::ChannelAccept`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAccept {
    /// The channel.
    pub channel: ChannelId,
    /// A sealed [`Answer`], or empty.
    pub sealed: Vec<u8>,
    /// As in [`ChannelOpen`].
    pub attest: bool,
    /// As in [`ChannelOpen`].
    pub flight: Vec<Vec<u8>>,
}

/// See [`FromRelay::ChannelReady`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReady {
    /// The channel.
    pub channel: ChannelId,
    /// A sealed [`Answer`], or empty.
    pub sealed: Vec<u8>,
    /// The callee's addresses as the relay observed them.
    pub observed: Vec<ObservedAddress>,
    /// The first packets of the callee.
    pub flight: Vec<Vec<u8>>,
}

/// See [`ToRelay::ChannelClose`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelClose {
    /// The channel.
    pub channel: ChannelId,
}

/// See [`FromRelay::ChannelClosed`]; also the answer to a [`ChannelOpen`] that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelClosed {
    /// The request that failed, or 0.
    pub request: u32,
    /// The channel, or `ChannelId(0)` where none was made.
    pub channel: ChannelId,
    /// See [`reason`].
    pub code: u16,
    /// A sentence for people, at most 512 bytes.
    pub message: String,
}

/// See [`ToRelay::Signal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// For whom.
    pub to: PeerId,
    /// What the envelope holds, see [`signal`]; the seal covers it.
    pub kind: u16,
    /// As in [`ChannelOpen`].
    pub attest: bool,
    /// The envelope.
    pub sealed: Vec<u8>,
}

/// See [`FromRelay::SignalFrom`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalFrom {
    /// From whom: its key, proven to the relay by TLS, and by the seal.
    pub from: PeerId,
    /// As the sender set it.
    pub kind: u16,
    /// The sender's addresses as the relay observed them, if it asked for that.
    pub observed: Vec<ObservedAddress>,
    /// The envelope.
    pub sealed: Vec<u8>,
}

/// Kinds of sealed content (`kind` of [`crate::seal`]).
pub mod signal {
    /// An [`Offer`](super::Offer).
    pub const OFFER: u16 = 1;
    /// An [`Answer`](super::Answer).
    pub const ANSWER: u16 = 2;
    /// A [`Hint`](super::Hint).
    pub const HINT: u16 = 3;
    /// A [`Guess`](super::Guess).
    pub const GUESS: u16 = 4;
}

/// An address from which the relay saw a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedAddress {
    /// The address.
    pub address: SocketAddr,
    /// How long ago, in milliseconds.
    pub age_millis: u32,
}

/// See [`ToRelay::PresenceSubscribe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceSubscribe {}

/// See [`FromRelay::PresenceSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceSnapshot {
    /// Who is there, at most [`MAX_PRESENCE`] in one message; not the receiver itself.
    pub peers: Vec<PeerId>,
    /// Whether another part follows.
    pub more: bool,
}

/// See [`FromRelay::PresenceDelta`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceDelta {
    /// Who came; together with `left` at most [`MAX_PRESENCE`].
    pub joined: Vec<PeerId>,
    /// Who went.
    pub left: Vec<PeerId>,
}

/// See [`ToRelay::Ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Repeated in the answer.
    pub nonce: u64,
}

/// See [`FromRelay::Pong`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// From the question.
    pub nonce: u64,
}

/// See [`FromRelay::ObservedNow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedNow {
    /// From where the relay sees this peer now.
    pub address: SocketAddr,
}

/// What a caller seals to the callee: the start of a punching session (`connectivity.md` §5.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Names the session.
    pub session: [u8; 16],
    /// Goes into the probe keys.
    pub nonce: [u8; 16],
    /// Where the caller may be reached; empty unless the callee is an accepted contact.
    pub candidates: Vec<crate::Candidate>,
    /// The caller's smoothed round trip to the relay, microseconds; 0 unknown.
    pub relay_rtt_micros: u32,
}

/// What the callee seals back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The session of the [`Offer`].
    pub session: [u8; 16],
    /// Goes into the probe keys.
    pub nonce: [u8; 16],
    /// Where the callee may be reached; empty unless the caller is an accepted contact.
    pub candidates: Vec<crate::Candidate>,
    /// The callee's smoothed round trip to the relay, microseconds; 0 unknown.
    pub relay_rtt_micros: u32,
}

/// How a side's translator serves it, sealed to the peer when a round of punching has failed
/// (`connectivity.md` §5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The session of the [`Offer`] whose round failed.
    pub session: [u8; 16],
    /// 0 unknown, 1 one port for all destinations, 2 counted up, 3 without order.
    pub kind: u8,
    /// Counted up: the next port. Without order: the lowest that is likely.
    pub first: u16,
    /// Counted up: the step. Without order: the highest port that is likely.
    pub second: u16,
}

/// Says that ports have been opened towards the recipient, which shall probe for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guess {
    /// The session, as in the [`Hint`].
    pub session: [u8; 16],
    /// The lowest port that may be among them.
    pub low: u16,
    /// The highest.
    pub high: u16,
    /// How many are open.
    pub opened: u16,
}

const MAX_SENTENCE: usize = 512;

fn flight_fits(flight: &[Vec<u8>]) -> bool {
    flight.len() <= MAX_FLIGHT_PACKETS
        && flight.iter().map(Vec::len).sum::<usize>() <= MAX_FLIGHT_BYTES
}

fn names_fit(names: &[String]) -> bool {
    names.len() <= 32 && names.iter().all(|name| name.len() <= 32)
}

impl Bounded for Hello {
    fn is_bounded(&self) -> bool {
        self.versions.len() <= 8
            && names_fit(&self.capabilities)
            && self.token.as_ref().is_none_or(|token| token.len() <= 64)
    }
}
impl Bounded for Welcome {
    fn is_bounded(&self) -> bool {
        names_fit(&self.capabilities)
    }
}
impl Bounded for Refused {
    fn is_bounded(&self) -> bool {
        self.message.len() <= MAX_SENTENCE
    }
}
impl Bounded for Goodbye {
    fn is_bounded(&self) -> bool {
        self.message.len() <= MAX_SENTENCE
    }
}
impl Bounded for ChannelOpen {
    fn is_bounded(&self) -> bool {
        self.sealed.len() <= MAX_SEALED && flight_fits(&self.flight)
    }
}
impl Bounded for ChannelOpened {}
impl Bounded for ChannelOffered {
    fn is_bounded(&self) -> bool {
        self.sealed.len() <= MAX_SEALED && self.observed.len() <= 8 && flight_fits(&self.flight)
    }
}
impl Bounded for ChannelAccept {
    fn is_bounded(&self) -> bool {
        self.sealed.len() <= MAX_SEALED && flight_fits(&self.flight)
    }
}
impl Bounded for ChannelReady {
    fn is_bounded(&self) -> bool {
        self.sealed.len() <= MAX_SEALED && self.observed.len() <= 8 && flight_fits(&self.flight)
    }
}
impl Bounded for ChannelClose {}
impl Bounded for ChannelClosed {
    fn is_bounded(&self) -> bool {
        self.message.len() <= MAX_SENTENCE
    }
}
impl Bounded for Signal {
    fn is_bounded(&self) -> bool {
        self.sealed.len() <= MAX_SEALED
    }
}
impl Bounded for SignalFrom {
    fn is_bounded(&self) -> bool {
        self.sealed.len() <= MAX_SEALED && self.observed.len() <= 8
    }
}
impl Bounded for PresenceSubscribe {}
impl Bounded for PresenceSnapshot {
    fn is_bounded(&self) -> bool {
        self.peers.len() <= MAX_PRESENCE
    }
}
impl Bounded for PresenceDelta {
    fn is_bounded(&self) -> bool {
        self.joined.len() + self.left.len() <= MAX_PRESENCE
    }
}
impl Bounded for Ping {}
impl Bounded for Pong {}
impl Bounded for ObservedNow {}
