//! What the relay does wrong, each deed switched on and off while it runs, and what it did so far.

use std::collections::HashMap;
use std::net::SocketAddr;

use p2p_net_proto::PeerId;

/// A sealed body on its way through the relay: all that a relay knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Who sent it.
    pub(crate) from: PeerId,
    /// For whom it was.
    pub(crate) to: PeerId,
    /// `p2p_net_proto::wire::signal`.
    pub(crate) kind: u16,
    /// The envelope; empty where there was none.
    pub(crate) bytes: Vec<u8>,
}

/// Replaces a sealed body by what is delivered in its place.
pub(crate) type Tamper = Box<dyn FnMut(&Sealed) -> Vec<u8> + Send>;

/// Chances in percent, drawn for each relayed packet by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PacketDeeds {
    /// Some bytes of the payload are changed; the header is tagged anew, so that it holds.
    pub(crate) alter: u32,
    /// It is not sent.
    pub(crate) drop: u32,
    /// It is sent twice, with a fresh counter each.
    pub(crate) duplicate: u32,
    /// It is held back and sent after later ones.
    pub(crate) reorder: u32,
    /// An old packet of the same channel follows it, with a fresh counter.
    pub(crate) replay: u32,
}

/// See the module. The default is an honest relay.
#[derive(Default)]
pub(crate) struct Deeds {
    /// What happens to relayed packets.
    pub(crate) packets: PacketDeeds,
    /// What happens to sealed bodies.
    pub(crate) tamper: Option<Tamper>,
    /// Peers that are said to be there.
    pub(crate) phantoms: Vec<PeerId>,
    /// Told to every client as its own address.
    pub(crate) observed: Option<SocketAddr>,
    /// Told of every client to the others, besides its real address.
    pub(crate) attested: Vec<SocketAddr>,
    /// Nothing is told of anybody's real address.
    pub(crate) silent: bool,
    /// Written in place of the Welcome, as it is.
    pub(crate) greeting: Option<Vec<u8>>,
    /// This Mallory answers every channel-open in place of the one who was asked for.
    pub(crate) impostor: Option<u32>,
}

/// Counts and samples of what passed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Logins that were welcomed (or greeted otherwise), per peer.
    pub(crate) logins: HashMap<PeerId, u32>,
    /// Channel-opens, per caller and callee.
    pub(crate) opens: HashMap<(PeerId, PeerId), u32>,
    /// Channel-accepts and -closes by the callee, per callee.
    pub(crate) accepts: HashMap<PeerId, u32>,
    /// Sealed bodies in order, before tampering; the first 1,024.
    pub(crate) sealed: Vec<Sealed>,
    /// Frames of kinds or bodies that make no sense from a client.
    pub(crate) strange_frames: u32,
    /// Relayed packets with a tag that holds.
    pub(crate) packets: u64,
    /// Relayed packets that name no channel of theirs, or bear a wrong tag.
    pub(crate) refused_packets: u64,
    /// Packets altered, dropped, duplicated, held back and replayed.
    pub(crate) altered: u64,
    /// As above.
    pub(crate) dropped: u64,
    /// As above.
    pub(crate) duplicated: u64,
    /// As above.
    pub(crate) reordered: u64,
    /// As above.
    pub(crate) replayed: u64,
    /// Packets that arrived neither as QUIC nor as relayed data (STUN, challenges).
    pub(crate) others: u64,
}

impl Seen {
    /// Sealed bodies of this kind from one peer to another.
    pub(crate) fn sealed_between(&self, from: PeerId, to: PeerId, kind: u16) -> Vec<&Sealed> {
        self.sealed
            .iter()
            .filter(|s| s.from == from && s.to == to && s.kind == kind && !s.bytes.is_empty())
            .collect()
    }
}
