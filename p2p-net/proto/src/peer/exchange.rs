//! What goes into a [`Peer`](super::Peer) and what comes out of it: the vocabulary between the state machine
//! and whoever drives it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::wire::{Answer, Guess, Hint, ObservedAddress, Offer};
use crate::{Candidate, PathInfo, PeerId, Sample};

/// What a [`Peer`](super::Peer) must know from its start.
pub struct PeerConfig {
    /// Ourselves.
    pub me: PeerId,
    /// The other one.
    pub peer: PeerId,
    /// [`crate::Identity::shared_secret`] of the two.
    pub secret: [u8; 32],
    /// Whether it is an accepted contact: only then are candidates sent and used.
    pub accepted: bool,
    /// Never anything but the relay, though accepted.
    pub relay_only: bool,
    /// Seeds sessions, nonces and transactions; fresh random bytes in programs, fixed in simulations.
    pub seed: [u8; 32],
}

/// Our surroundings, as far as they concern a peer.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Where we may be reached.
    pub candidates: Vec<Candidate>,
    /// Prefixes of our interfaces.
    pub prefixes: Vec<(std::net::IpAddr, u8)>,
    /// The relay's addresses.
    pub relays: Vec<SocketAddr>,
    /// Whether the relay sees us on loopback.
    pub loopback: bool,
    /// Smoothed round trip to the relay.
    pub relay_round_trip: Option<Duration>,
}

/// What the data path saw of this peer since it exists; the driver hands in fresh snapshots, at least
/// every [`Peer::ACTIVITY_INTERVAL`](super::Peer::ACTIVITY_INTERVAL) while a direct path carries traffic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Activity {
    /// When a QUIC packet last came over the direct path.
    pub direct_received_at: Option<Instant>,
    /// When one last went out over it.
    pub direct_sent_at: Option<Instant>,
    /// When one last came over the relay.
    pub relay_received_at: Option<Instant>,
    /// QUIC packets received over the direct path.
    pub direct_received: u64,
    /// QUIC packets sent over it.
    pub direct_sent: u64,
    /// UDP payload bytes of QUIC over all paths, both ways.
    pub transferred_bytes: u64,
    /// Smoothed gap between arrivals on the direct path, and its mean deviation.
    pub direct_gap: Option<(Duration, Duration)>,
    /// QUIC's current probe timeout for this connection, if there is one (RFC 9002 §6.2).
    pub probe_timeout: Option<Duration>,
    /// How often QUIC has found packets lost that had gone over the direct path.
    pub direct_lost: u64,
    /// A call has taken congestion control over: it keeps queues short, so that loss is no work of ours.
    pub call: bool,
}

/// Everything that can happen to a peer.
#[derive(Debug)]
pub enum Input<'a> {
    /// The deadline of [`Peer::poll_timeout`](super::Peer::poll_timeout) passed.
    Timeout,
    /// A connection to the peer is wanted (dialled by either side) or no longer.
    Wanted(bool),
    /// We dial: start a session; an Offer comes out as [`Output::Signal`].
    Dial,
    /// Our surroundings became known or changed; a change of addresses starts punching again.
    Surroundings(Surroundings),
    /// The peer became an accepted contact, or is no longer one.
    Accepted(bool),
    /// From now on nothing but the relay, though accepted, or no longer so.
    RelayOnly(bool),
    /// A relayed channel to the peer is usable, or no longer.
    Relay(bool),
    /// Signals reach the peer without a relay (it is on our LAN, or at a known address), or no longer.
    Near(bool),
    /// An Offer came, opened and checked against replay, with what the relay attests.
    Offer(Offer, Vec<ObservedAddress>),
    /// The same for an Answer.
    Answer(Answer, Vec<ObservedAddress>),
    /// A probe or pong whose key id is ours.
    Packet {
        /// From where it came (IPv4 as IPv4).
        from: SocketAddr,
        /// All of it.
        packet: &'a [u8],
    },
    /// A probe or pong whose key id is ours came through the relayed channel.
    RelayedPacket(&'a [u8]),
    /// What the data path saw.
    Activity(Activity),
    /// A Hint came, opened and checked against replay.
    Hint(Hint),
    /// The same for a Guess.
    Guess(Guess),
    /// Whether the address of [`Output::Reserve`] is ours to guess at.
    Reserved(bool),
    /// What the relay answered to [`Output::Sample`]; nothing where it did not, or no socket was to be had.
    Samples(Vec<Sample>),
    /// So many extra sockets are open after [`Output::Open`].
    Opened(u16),
    /// A probe or pong whose key id is ours came to an extra socket.
    ExtraPacket {
        /// To which, from 0.
        socket: u16,
        /// From where.
        from: SocketAddr,
        /// All of it.
        packet: &'a [u8],
    },
}

/// What to seal and send to the peer through the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalBody {
    /// Goes with the channel-open if one is being opened, else as a signal.
    Offer(Offer),
    /// Goes with the channel-accept if one is due, else as a signal.
    Answer(Answer),
    /// Always a signal.
    Hint(Hint),
    /// Always a signal.
    Guess(Guess),
}

/// The kind number of a [`SignalBody`], see [`crate::wire::signal`].
pub type SignalKind = u16;

impl SignalBody {
    /// Its kind number.
    pub fn kind(&self) -> SignalKind {
        match self {
            Self::Offer(_) => crate::wire::signal::OFFER,
            Self::Answer(_) => crate::wire::signal::ANSWER,
            Self::Hint(_) => crate::wire::signal::HINT,
            Self::Guess(_) => crate::wire::signal::GUESS,
        }
    }

    /// Whether the relay shall attest our addresses: exactly when candidates are inside.
    pub fn attest(&self) -> bool {
        match self {
            Self::Offer(offer) => !offer.candidates.is_empty(),
            Self::Answer(answer) => !answer.candidates.is_empty(),
            Self::Hint(_) | Self::Guess(_) => false,
        }
    }
}

/// Where QUIC packets for the peer go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Nowhere: they are dropped.
    None,
    /// Through the relayed channel.
    Relay,
    /// To this address.
    Direct(SocketAddr),
}

/// Everything that a peer's state machine asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this UDP payload.
    Transmit {
        /// To there.
        to: SocketAddr,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// Send this through the relayed channel, as it is.
    Relay(Vec<u8>),
    /// Seal and send this through the relay.
    Signal(SignalBody),
    /// Packets with this key id belong to this peer from now on.
    Listen(u64),
    /// They no longer do.
    Unlisten(u64),
    /// QUIC packets from this address belong to this peer (a probe proved it), or no longer.
    Bind(SocketAddr, bool),
    /// Use this route.
    Route {
        /// The route.
        route: Route,
        /// It is a direct path that seems dead, and is about to be left.
        suspect: bool,
        /// It may be: low-rate traffic goes over the relay as well. A suspect path is always duplicated where
        /// there is a relay; a mere pause in a steady flow is enough.
        duplicate: bool,
    },
    /// May this address be guessed at now? Answer with [`Input::Reserved`]: no while somebody else's ports of
    /// it are being guessed.
    Reserve(IpAddr),
    /// It is free again; whether guessing at it failed.
    Release(IpAddr, bool),
    /// Open so many extra sockets, all of IPv4, and ask both ports of the relay from each, socket by socket;
    /// answer with [`Input::Samples`].
    Sample(u16),
    /// Have so many extra sockets open; answer with [`Input::Opened`].
    Open(u16),
    /// Send this UDP payload from an extra socket.
    TransmitFrom {
        /// From which, from 0.
        socket: u16,
        /// To there.
        to: SocketAddr,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// All that goes to this address goes out from that extra socket from now on, which belongs to QUIC like
    /// the first one; with `None`, from the first one again, and the extra one is closed.
    Via(SocketAddr, Option<u16>),
    /// Close the extra sockets that are not in use.
    Shut,
    /// For whoever watches.
    Event(Event),
}

/// What a watcher hears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The path changed, or its figures did.
    Path(PathInfo),
}
