//! What machines need to guess ports: extra sockets, questions to the relay from them, and the promise that
//! ports are guessed for one peer at a time, and not again soon for one where that failed.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use p2p_net_proto::probe::PROBE_LEN;
use p2p_net_proto::{Input, Output, PacketKind, PeerId, Sample, classify, stun};
use quinn::AsyncUdpSocket;
use quinn_udp::{RecvMeta, Transmit};
use tokio::task::AbortHandle;
use tracing::{debug, trace};

use super::timers::Timer;
use super::{Driver, MAX_PEERS};
use crate::examine::other_address;
use crate::socket::{MagicSocket, Raw, canonical, now};

/// Machines whose extra sockets are open at one time; they share the right to guess, but not the questions
/// before it.
const MAX_SETS: usize = 4;
/// Extra sockets of one machine (`connectivity.md` §5.5).
const MAX_SOCKETS: u16 = 256;
/// After this, questions without an answer are asked once more.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// After this they are given up; the machine waits a little longer.
const GIVE_UP: Duration = Duration::from_millis(650);
/// A guess that failed is not repeated with that peer for this long, as long as our address is the same.
const AFTER_FAILURE: Duration = Duration::from_secs(3_600);
/// The longest packet that an extra socket waits for, bytes: an answer to a STUN request.
const MAX_PACKET: usize = 256;
/// Packets that are looked at in one go of the task that listens.
const MAX_BATCHES: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Guesses {
    /// Who guesses now, and at which address.
    active: Option<(PeerId, IpAddr)>,
    failed: HashMap<PeerId, (Instant, Option<IpAddr>)>,
    sets: HashMap<PeerId, Set>,
    next_set: u64,
}

/// The extra sockets of one peer's machine.
struct Set {
    number: u64,
    sockets: Vec<Arc<dyn AsyncUdpSocket>>,
    questions: Vec<Question>,
    asked_at: Instant,
    /// The one that QUIC reads now.
    adopted: Option<u16>,
    listener: Option<AbortHandle>,
}

/// What the relay was asked.
struct Question {
    transaction: [u8; 12],
    socket: u16,
    server: u8,
    to: SocketAddr,
    seen: Option<SocketAddr>,
}

impl Drop for Set {
    fn drop(&mut self) {
        self.deafen();
    }
}

impl Set {
    fn deafen(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
    }

    /// Has all sockets but the adopted one listened to.
    fn listen(&mut self, peer: PeerId, to: &Arc<MagicSocket>) {
        self.deafen();
        let sockets = (0..).zip(self.sockets.iter().cloned());
        let left = sockets.filter(|(index, _)| Some(*index) != self.adopted);
        let ears = Ears {
            peer,
            set: self.number,
            sockets: left.collect(),
            to: to.clone(),
        };
        self.listener = Some(tokio::spawn(ears.listen()).abort_handle());
    }

    fn send(&self, socket: u16, to: SocketAddr, contents: &[u8]) {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        };
        if let Some(socket) = self.sockets.get(usize::from(socket))
            && let Err(error) = socket.try_send(&transmit)
        {
            trace!(%to, %error, "sending failed");
        }
    }
}

/// The task that listens at the extra sockets of one machine.
struct Ears {
    peer: PeerId,
    set: u64,
    sockets: Vec<(u16, Arc<dyn AsyncUdpSocket>)>,
    to: Arc<MagicSocket>,
}

impl Ears {
    async fn listen(self) {
        std::future::poll_fn(|cx| {
            let mut looked = 0;
            for (index, socket) in &self.sockets {
                let mut buffer = [0; MAX_PACKET];
                let mut meta = [RecvMeta::default()];
                while looked < MAX_BATCHES {
                    let received =
                        socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta);
                    match received {
                        Poll::Pending => break,
                        Poll::Ready(Ok(count)) if count > 0 => {
                            self.hear(*index, &meta[0], &buffer);
                        }
                        // Errors of other packets; they say nothing about the socket.
                        Poll::Ready(_) => {}
                    }
                    looked += 1;
                }
            }
            if looked >= MAX_BATCHES {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })
        .await;
    }

    /// Only probes, pongs and answers of the relay are passed on.
    fn hear(&self, socket: u16, meta: &RecvMeta, buffer: &[u8]) {
        let batch = &buffer[..meta.len.min(buffer.len())];
        for packet in batch.chunks(meta.stride.max(1)) {
            let wanted = match classify(packet) {
                PacketKind::Peer => packet.len() == PROBE_LEN,
                PacketKind::Stun => true,
                _ => false,
            };
            if !wanted {
                continue;
            }
            self.to.tell(Raw::Extra {
                peer: self.peer,
                set: self.set,
                socket,
                from: canonical(meta.addr),
                packet: packet.to_vec(),
            });
        }
    }
}

impl Driver {
    /// Does what a machine asks for to guess ports.
    pub(super) fn guess(&mut self, peer: &PeerId, output: Output) {
        match output {
            Output::Reserve(ip) => {
                let granted = self.may_guess(peer);
                if granted {
                    self.guesses.active = Some((*peer, ip));
                }
                debug!(peer = %peer.short(), granted, "ports are to be guessed");
                self.input(peer, Input::Reserved(granted));
            }
            Output::Release(ip, failed) => self.release(peer, ip, failed),
            Output::Sample(count) => self.sample(peer, count),
            Output::Open(count) => {
                let opened = self.open_extras(peer, count);
                self.input(peer, Input::Opened(opened));
            }
            Output::TransmitFrom {
                socket,
                to,
                payload,
            } => {
                if let Some(set) = self.guesses.sets.get(peer) {
                    set.send(socket, to, &payload);
                }
            }
            Output::Via(remote, Some(socket)) => self.adopt(peer, remote, socket),
            Output::Via(remote, None) => self.parts.socket.forsake(remote),
            Output::Shut => {
                self.guesses.sets.remove(peer);
                self.timers.stop(Timer::Sample(*peer));
                // The listener may have taken the adopted socket's waker with its last breath.
                self.parts.socket.look();
            }
            _ => {}
        }
    }

    fn own_ip(&self) -> Option<IpAddr> {
        self.observed.map(|observed| observed.ip())
    }

    fn may_guess(&mut self, peer: &PeerId) -> bool {
        let (now, own) = (now(), self.own_ip());
        let fresh = |(at, from): &mut (Instant, Option<IpAddr>)| {
            now.saturating_duration_since(*at) < AFTER_FAILURE && *from == own
        };
        self.guesses.failed.retain(|_, failure| fresh(failure));
        self.guesses.active.is_none() && !self.guesses.failed.contains_key(peer)
    }

    fn release(&mut self, peer: &PeerId, ip: IpAddr, failed: bool) {
        if self.guesses.active == Some((*peer, ip)) {
            self.guesses.active = None;
        }
        debug!(peer = %peer.short(), failed, "ports are no longer guessed");
        if failed {
            if self.guesses.failed.len() >= MAX_PEERS {
                self.guesses.failed.clear();
            }
            let own = self.own_ip();
            self.guesses.failed.insert(*peer, (now(), own));
        }
    }

    /// Opens extra sockets until there are `count`; how many there are then.
    fn open_extras(&mut self, peer: &PeerId, count: u16) -> u16 {
        let guesses = &mut self.guesses;
        if !guesses.sets.contains_key(peer) {
            if guesses.sets.len() >= MAX_SETS {
                return 0;
            }
            guesses.next_set += 1;
            let set = Set {
                number: guesses.next_set,
                sockets: Vec::new(),
                questions: Vec::new(),
                asked_at: now(),
                adopted: None,
                listener: None,
            };
            guesses.sets.insert(*peer, set);
        }
        let Some(set) = guesses.sets.get_mut(peer) else {
            return 0;
        };
        while set.sockets.len() < usize::from(count.min(MAX_SOCKETS)) {
            match self.parts.provider.bind_extra() {
                Ok(socket) => set.sockets.push(socket),
                Err(error) => {
                    debug!(%error, open = set.sockets.len(), "no more extra sockets");
                    break;
                }
            }
        }
        set.listen(*peer, &self.parts.socket);
        u16::try_from(set.sockets.len()).unwrap_or(u16::MAX)
    }

    /// Asks both ports of the relay from extra sockets.
    fn sample(&mut self, peer: &PeerId, count: u16) {
        let both = self.session.as_ref().map(|session| {
            let relay = canonical(session.address);
            (relay, other_address(relay, session.welcome.alternate_port))
        });
        let relay = both.map(|(relay, _)| relay);
        let opened = match relay {
            Some(relay) if relay.is_ipv4() => self.open_extras(peer, count),
            _ => 0,
        };
        let (Some((relay, second)), Some(set)) = (both, self.guesses.sets.get_mut(peer)) else {
            return self.input(peer, Input::Samples(Vec::new()));
        };
        set.questions.clear();
        set.asked_at = now();
        for socket in 0..opened {
            for (server, to) in [(0, relay), (1, second)] {
                let transaction = rand::random();
                set.send(socket, to, &stun::request(transaction));
                set.questions.push(Question {
                    transaction,
                    socket,
                    server,
                    to,
                    seen: None,
                });
            }
        }
        if opened == 0 {
            return self.input(peer, Input::Samples(Vec::new()));
        }
        self.timers.set(Timer::Sample(*peer), now() + ASK_AGAIN);
    }

    /// Asks again, or makes do with the answers that came.
    pub(super) fn on_sample_timer(&mut self, peer: &PeerId) {
        let Some(set) = self.guesses.sets.get_mut(peer) else {
            return;
        };
        let give_up_at = set.asked_at + GIVE_UP;
        if now() < give_up_at {
            for question in set.questions.iter().filter(|one| one.seen.is_none()) {
                let request = stun::request(question.transaction);
                set.send(question.socket, question.to, &request);
            }
            self.timers.set(Timer::Sample(*peer), give_up_at);
        } else {
            self.end_sampling(peer);
        }
    }

    fn end_sampling(&mut self, peer: &PeerId) {
        self.timers.stop(Timer::Sample(*peer));
        let Some(set) = self.guesses.sets.get_mut(peer) else {
            return;
        };
        let questions = std::mem::take(&mut set.questions);
        let samples: Vec<Sample> = questions
            .iter()
            .filter_map(|question| {
                Some(Sample {
                    socket: question.socket,
                    server: question.server,
                    mapped: question.seen?,
                })
            })
            .collect();
        debug!(peer = %peer.short(), count = samples.len(), "the relay saw our extra sockets");
        self.input(peer, Input::Samples(samples));
    }

    /// A packet came to an extra socket.
    pub(super) fn on_extra(
        &mut self,
        peer: &PeerId,
        (set, socket): (u64, u16),
        from: SocketAddr,
        packet: &[u8],
    ) {
        let Some(own) = self.guesses.sets.get_mut(peer) else {
            return;
        };
        if own.number != set {
            return;
        }
        if classify(packet) == PacketKind::Peer {
            self.input(
                peer,
                Input::ExtraPacket {
                    socket,
                    from,
                    packet,
                },
            );
            return;
        }
        let Ok(answer) = stun::parse_answer(packet) else {
            return;
        };
        let asked = |one: &&mut Question| {
            one.transaction == answer.transaction && one.socket == socket && one.to == from
        };
        let Some(question) = own.questions.iter_mut().find(asked) else {
            return;
        };
        let mapped = canonical(answer.mapped);
        question.seen.get_or_insert(mapped);
        if own.questions.iter().all(|one| one.seen.is_some()) {
            self.end_sampling(peer);
        }
    }

    /// One of the sockets was hit: QUIC uses it from now on.
    fn adopt(&mut self, peer: &PeerId, remote: SocketAddr, socket: u16) {
        let Some(set) = self.guesses.sets.get_mut(peer) else {
            return;
        };
        let Some(lucky) = set.sockets.get(usize::from(socket)).cloned() else {
            return;
        };
        set.adopted = Some(socket);
        set.listen(*peer, &self.parts.socket);
        debug!(peer = %peer.short(), %remote, "an extra socket is used");
        self.parts.socket.adopt(remote, lucky);
    }
}
