//! Sorts what a socket received, in place: QUIC of bound addresses and of channels stays in quinn's
//! buffers under the peer's virtual address, everything else leaves them. A batch that GRO made of packets
//! of several kinds or channels is taken apart.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLockReadGuard};
use std::time::Instant;

use p2p_net_proto::probe::{PROBE_LEN, key_id};
use p2p_net_proto::{ChannelEnd, HEADER_LEN, KNOCK, PacketKind, classify};
use quinn_udp::{EcnCodepoint, RecvMeta};

use crate::link::{Link, Opened};
use crate::socket::{MagicSocket, Raw, Tables, Waiting, canonical, mapped};

/// The longest packet between client and relay outside QUIC, bytes.
const MAX_NUDGE: usize = 64;
/// The longest STUN answer that is looked at, bytes: ours have 32 or 44, others' name themselves as well.
const MAX_STUN: usize = 256;

/// Sorts one call's batches under one reading of the tables.
pub(crate) struct Sorter<'a> {
    socket: &'a MagicSocket,
    tables: RwLockReadGuard<'a, Tables>,
    now: Instant,
}

/// What of a batch stays in its buffer: packets of one sender, of one size but for the last.
#[derive(Debug, Default)]
struct Kept {
    from: Option<SocketAddr>,
    ecn: Option<EcnCodepoint>,
    stride: usize,
    len: usize,
    /// A shorter packet ended the run.
    ended: bool,
}

impl Kept {
    /// Moves a packet to the end of the run if it fits there.
    fn take(
        &mut self,
        buf: &mut [u8],
        packet: Range<usize>,
        from: SocketAddr,
        ecn: Option<EcnCodepoint>,
    ) -> bool {
        let size = packet.len();
        if size == 0 {
            return true;
        }
        match self.from {
            None => {
                self.from = Some(from);
                self.ecn = ecn;
                self.stride = size;
            }
            Some(first) => {
                let fits = first == from && self.ecn == ecn && size <= self.stride && !self.ended;
                if !fits {
                    return false;
                }
            }
        }
        self.ended = size < self.stride;
        if packet.start != self.len {
            buf.copy_within(packet, self.len);
        }
        self.len += size;
        true
    }
}

impl<'a> Sorter<'a> {
    pub(crate) fn new(socket: &'a MagicSocket, now: Instant) -> Self {
        Self {
            socket,
            tables: socket.tables(),
            now,
        }
    }

    /// Sorts the first `count` batches; returns how many are left, at the front.
    pub(crate) fn sort(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        count: usize,
    ) -> usize {
        let mut left = 0;
        for at in 0..count.min(bufs.len()).min(metas.len()) {
            if self.sort_batch(&mut bufs[at], &mut metas[at]) {
                bufs.swap(at, left);
                metas.swap(at, left);
                left += 1;
            }
        }
        left
    }

    /// Whether anything of the batch is for quinn.
    fn sort_batch(&self, buf: &mut [u8], meta: &mut RecvMeta) -> bool {
        let len = meta.len.min(buf.len());
        if len == 0 {
            return false;
        }
        let stride = meta.stride.clamp(1, len);
        let from = canonical(meta.addr);
        let quic = |at: usize| classify(&buf[at..len.min(at + stride)]) == PacketKind::Quic;
        let kept = if (0..len).step_by(stride).all(quic) {
            match self.quic_sender(from, len.div_ceil(stride) as u64, len as u64) {
                Some(from) => Kept {
                    from: Some(from),
                    ecn: meta.ecn,
                    stride,
                    len,
                    ended: true,
                },
                None => Kept::default(),
            }
        } else {
            self.sort_mixed(buf, from, meta.ecn, stride, len)
        };
        let Some(from) = kept.from else { return false };
        *meta = RecvMeta {
            addr: from,
            len: kept.len,
            stride: kept.stride,
            ecn: kept.ecn,
            dst_ip: None,
        };
        true
    }

    /// Under which address quinn knows the sender of QUIC packets from `from`, if it may speak QUIC.
    fn quic_sender(&self, from: SocketAddr, packets: u64, bytes: u64) -> Option<SocketAddr> {
        if let Some(link) = self.tables.bound.get(&from) {
            link.on_direct(self.now, packets, bytes);
            return Some(link.address);
        }
        if self.tables.relays.contains(&from) {
            self.socket.hear_relay();
            return Some(mapped(from));
        }
        self.socket
            .drops()
            .unbound
            .fetch_add(packets, Ordering::Relaxed);
        None
    }

    fn sort_mixed(
        &self,
        buf: &mut [u8],
        from: SocketAddr,
        ecn: Option<EcnCodepoint>,
        stride: usize,
        len: usize,
    ) -> Kept {
        let mut kept = Kept::default();
        let relay = self.tables.relays.contains(&from);
        for begin in (0..len).step_by(stride) {
            let packet = begin..len.min(begin + stride);
            match classify(&buf[packet.clone()]) {
                PacketKind::Relayed if relay => self.sort_relayed(buf, packet, ecn, &mut kept),
                PacketKind::Quic => {
                    if let Some(sender) = self.quic_sender(from, 1, packet.len() as u64) {
                        self.keep(buf, packet, sender, ecn, &mut kept);
                    }
                }
                PacketKind::Peer => self.sort_probe(&buf[packet], from),
                PacketKind::Relay if relay && packet.len() <= MAX_NUDGE => {
                    self.socket.tell(Raw::Relay {
                        from,
                        packet: buf[packet].to_vec(),
                    });
                }
                // To whose question it belongs, the driver sees; only relays are asked.
                PacketKind::Stun if self.is_relay(from) && packet.len() <= MAX_STUN => {
                    self.socket.tell(Raw::Stun {
                        from,
                        packet: buf[packet].to_vec(),
                    });
                }
                _ => count(&self.socket.drops().unknown),
            }
        }
        kept
    }

    /// Whether a relay of ours has this address, on whatever port.
    fn is_relay(&self, from: SocketAddr) -> bool {
        let mut relays = self.tables.relays.iter();
        relays.any(|relay| relay.ip() == from.ip())
    }

    fn keep(
        &self,
        buf: &mut [u8],
        packet: Range<usize>,
        from: SocketAddr,
        ecn: Option<EcnCodepoint>,
        kept: &mut Kept,
    ) {
        if !kept.take(buf, packet.clone(), from, ecn) {
            self.socket.wait(Waiting {
                from,
                ecn,
                packet: buf[packet].to_vec(),
            });
        }
    }

    fn sort_probe(&self, packet: &[u8], from: SocketAddr) {
        if packet.first() == Some(&KNOCK) {
            self.socket.tell_knock(from, packet);
            return;
        }
        let peer = if packet.len() == PROBE_LEN {
            key_id(packet)
        } else {
            None
        }
        .and_then(|key| self.tables.keys.get(&key));
        match peer {
            Some(peer) => {
                self.socket.tell(Raw::Peer {
                    peer: *peer,
                    from,
                    packet: packet.to_vec(),
                });
            }
            None => count(&self.socket.drops().unknown),
        }
    }

    fn sort_relayed(
        &self,
        buf: &mut [u8],
        packet: Range<usize>,
        outer: Option<EcnCodepoint>,
        kept: &mut Kept,
    ) {
        let Some((link, opened)) = self.open(&buf[packet.clone()]) else {
            count(&self.socket.drops().relayed);
            return;
        };
        if matches!(opened, Opened::Whole(_))
            && self.sort_relayed_probe(link, &buf[packet.start + HEADER_LEN..packet.end])
        {
            return;
        }
        link.on_relayed(self.now, packet.len() as u64);
        match opened {
            Opened::Whole(ecn) => {
                let inner = packet.start + HEADER_LEN..packet.end;
                self.keep(buf, inner, link.address, joined_ecn(outer, ecn), kept);
            }
            Opened::Joined(packet, ecn) => {
                let ecn = joined_ecn(outer, ecn);
                self.socket.wait(Waiting {
                    from: link.address,
                    ecn,
                    packet,
                });
            }
            Opened::Partial => {}
        }
    }

    /// Takes one relayed packet that came by another way than a socket.
    pub(crate) fn take_relayed(&self, packet: &[u8]) {
        let Some((link, opened)) = self.open(packet) else {
            count(&self.socket.drops().relayed);
            return;
        };
        if matches!(opened, Opened::Whole(_))
            && self.sort_relayed_probe(link, &packet[HEADER_LEN..])
        {
            return;
        }
        link.on_relayed(self.now, packet.len() as u64);
        let (packet, ecn) = match opened {
            Opened::Whole(ecn) => (packet[HEADER_LEN..].to_vec(), ecn),
            Opened::Joined(packet, ecn) => (packet, ecn),
            Opened::Partial => return,
        };
        let from = link.address;
        self.socket.wait(Waiting { from, ecn, packet });
    }

    /// Takes a probe or pong of a channel's own peer out.
    fn sort_relayed_probe(&self, link: &Link, packet: &[u8]) -> bool {
        if packet.len() != PROBE_LEN || classify(packet) != PacketKind::Peer {
            return false;
        }
        let peer = key_id(packet).and_then(|key| self.tables.keys.get(&key));
        if peer == Some(&link.peer) {
            link.on_relayed_probe(packet.len() as u64);
            self.socket.tell(Raw::Relayed {
                peer: link.peer,
                packet: packet.to_vec(),
            });
        } else {
            count(&self.socket.drops().relayed);
        }
        true
    }

    fn open(&self, packet: &[u8]) -> Option<(&Arc<Link>, Opened)> {
        let end = packet.get(1..4)?;
        let end = ChannelEnd(u32::from_be_bytes([0, end[0], end[1], end[2]]));
        let (channel, link) = self.tables.channels.get(&end)?;
        let opened = channel.open(self.now, packet)?;
        // Inside a channel there is nothing but QUIC and probes.
        let quic = match &opened {
            Opened::Whole(_) => {
                let inner = &packet[HEADER_LEN..];
                let kind = classify(inner);
                let probe = kind == PacketKind::Peer && inner.len() == PROBE_LEN;
                kind == PacketKind::Quic || probe
            }
            Opened::Joined(whole, _) => classify(whole) == PacketKind::Quic,
            Opened::Partial => true,
        };
        quic.then_some((link, opened))
    }
}

/// A congestion mark of either leg counts where the peers use ECN (RFC 9000 §13.4).
fn joined_ecn(outer: Option<EcnCodepoint>, inner: Option<EcnCodepoint>) -> Option<EcnCodepoint> {
    match (outer, inner) {
        (Some(EcnCodepoint::Ce), Some(_)) => Some(EcnCodepoint::Ce),
        _ => inner,
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
