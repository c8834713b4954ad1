//! Probes and pongs: 64 bytes each, sealed and authenticated (`wire.md` §2).
//!
//! 0 kind · 1–3 zero · 4–11 key id · 12–19 counter (nonce; one key per direction and kind) · 20–47 sealed
//! body · 48–63 tag.

use std::net::SocketAddr;

use crate::{PeerId, Transaction};

/// Bytes of a probe and of a pong.
pub const PROBE_LEN: usize = 64;
/// First byte of a probe.
pub const PROBE: u8 = 0x20;
/// First byte of a pong.
pub const PONG: u8 = 0x21;

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Repeated in the pong.
    pub transaction: Transaction,
    /// The prober's number of the pair.
    pub path: u32,
}

/// What a pong answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// From the probe.
    pub transaction: Transaction,
    /// From where the probe came, as seen by the peer.
    pub observed: SocketAddr,
    /// Loss that the peer sees on this path, in 1/255.
    pub loss: u8,
}

/// A probe or a pong that is authentic and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Answer it to where it came from.
    Probe(Probe),
    /// One of ours came back.
    Pong(Pong),
}

/// The keys of one session on one side: seals what we send, opens what the peer sends, refuses replay.
pub struct ProbeKeys {
    _todo: (),
}

impl ProbeKeys {
    /// Derives all keys (HKDF-SHA256) from the static-static secret and both nonces. `dialler` is the side
    /// that sent the Offer; both sides derive the same set.
    pub fn derive(
        secret: &[u8; 32],
        me: &PeerId,
        peer: &PeerId,
        offer_nonce: &[u8; 16],
        answer_nonce: &[u8; 16],
    ) -> Self {
        let _ = (secret, me, peer, offer_nonce, answer_nonce);
        todo!()
    }

    /// The key id that packets *to us* bear in this session.
    pub fn incoming_id(&self) -> u64 {
        todo!()
    }

    /// Seals a probe.
    pub fn seal_probe(&mut self, probe: &Probe) -> [u8; PROBE_LEN] {
        let _ = probe;
        todo!()
    }

    /// Seals a pong.
    pub fn seal_pong(&mut self, pong: &Pong) -> [u8; PROBE_LEN] {
        let _ = pong;
        todo!()
    }

    /// Opens a packet of ours; `None` for anything forged, replayed or malformed.
    pub fn open(&mut self, packet: &[u8]) -> Option<Opened> {
        let _ = packet;
        todo!()
    }
}

/// The key id of a packet of kind probe or pong, to look up its session; `None` if it is neither.
pub fn key_id(packet: &[u8]) -> Option<u64> {
    let _ = packet;
    todo!()
}
