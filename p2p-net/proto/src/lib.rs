//! The pure protocol core of Landline: who a peer is, what the bytes on every wire mean, and
//! how two peers find and keep the best path between them.
//!
//! Nothing here owns a socket, a clock, a task or a source of randomness: time, packets and
//! random bytes are arguments, so that a simulation can run a thousand networks in a second.

// Who somebody is.
mod address;
mod identity;
mod ids;
mod sealed;
pub mod tls;

// What the bytes mean.
pub mod carriage;
pub mod codec;
mod demux;
mod fragment;
mod knock;
pub mod nudge;
pub mod probe;
pub mod proxy;
mod relayed;
pub mod stun;
pub mod wire;

// What to do next.
mod candidate;
mod exam;
mod guess;
mod nat;
mod network;
mod path;
mod peer;
mod ports;
mod punch;
mod reason;
mod registration;
mod session;
mod timer;
mod trial;
mod watch;

pub use address::{AddressError, Fingerprint, RelayAddress, Token};
pub use candidate::{
    Attestation, Candidate, CandidateKind, MAX_CANDIDATES, Observed, local_candidates, priority,
    usable,
};
pub use demux::{PacketKind, classify};
pub use exam::{EXAM_SOCKETS, Exam, ExamPlan, ExamReport};
pub use fragment::{FRAGMENT_HEADER_LEN, FragmentError, Joiner, Splitter};
pub use guess::{Sample, chance};
pub use identity::{Identity, IdentityError};
pub use ids::{
    ChannelEnd, ChannelId, IdError, PathId, PeerId, SessionId, Transaction, virtual_address,
};
pub use knock::{
    KNOCK, KNOCK_LEN, KNOCK_TOLERANCE_SECS, Knock, MAX_KNOCK_ENVELOPE, lan_day, lan_name,
};
pub use nat::{Allocation, Filtering, Mapping, NatReport, Survey};
pub use network::{Ease, FamilyReport, Interface, NetworkReport, Portal, ServerReport};
pub use path::{PathInfo, PathKind};
pub use peer::{
    Activity, Event, Input, Output, Peer, PeerConfig, Route, SignalBody, SignalKind, Surroundings,
};
pub use ports::{
    MAPPING_LIFETIME_SECS, MappingPlan, MappingProtocol, PortMapping, PortMappingReport, is_public,
};
pub use reason::NotDirect;
pub use registration::{LoginInput, LoginOutput, Registration, Setback};
pub use relayed::{
    CHANNEL_KEY_LABEL, Class, Direction, HEADER_LEN, Header, HeaderError, HeaderKey, ReplayWindow,
    channel_key_context,
};
pub use sealed::{ENVELOPE_OVERHEAD, Envelope, SealError, open, seal};
