//! The evil relay's control protocol: enough that honest endpoints log in, see and reach each other, with
//! its lies in the places where a relay's word counts.

use std::sync::Arc;

use p2p_net_proto::codec::{Frame, FrameDecoder};
use p2p_net_proto::wire::{
    ChannelAccept, ChannelClosed, ChannelOffered, ChannelOpen, ChannelOpened, ChannelReady, Limits,
    ObservedAddress, Pong, PresenceDelta, PresenceSnapshot, Signal, SignalFrom, ToRelay, VERSION,
    Welcome, reason, signal,
};
use p2p_net_proto::{ChannelId, PeerId, tls};
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;

use super::deeds::Sealed;
use super::forward::{Party, Side};
use super::relay::{Client, Hub, State};

/// Frames that wait for a client that reads slowly.
const FRAME_QUEUE: usize = 1_024;
/// Sealed bodies kept.
const SEALED_KEPT: usize = 1_024;

impl Hub {
    /// One control connection from login to its end.
    pub(super) async fn serve(self: Arc<Self>, connection: quinn::Connection) {
        let Some(peer) = peer_of(&connection) else {
            return;
        };
        let Ok((mut send, mut receive)) = connection.accept_bi().await else {
            return;
        };
        let (frames, mut queue) = mpsc::channel::<Vec<u8>>(FRAME_QUEUE);
        let write = async {
            while let Some(bytes) = queue.recv().await {
                if send.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        };
        let read = async {
            let mut decoder = FrameDecoder::default();
            while let Ok(Some(chunk)) = receive.read_chunk(65_536, true).await {
                decoder.push(&chunk.bytes);
                while let Ok(Some(frame)) = decoder.next_frame() {
                    self.record.frame(&frame.body);
                    self.on_frame(peer, &connection, &frames, &frame);
                    self.note_change();
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = read => {}
            _ = connection.closed() => {}
        }
        self.on_leave(peer, &connection);
        self.note_change();
    }

    fn on_frame(
        &self,
        peer: PeerId,
        connection: &quinn::Connection,
        frames: &mpsc::Sender<Vec<u8>>,
        frame: &Frame,
    ) {
        match ToRelay::decode(frame) {
            Ok(Some(ToRelay::Hello(_))) => self.on_hello(peer, connection, frames),
            Ok(Some(ToRelay::ChannelOpen(open))) => self.on_open(peer, open),
            Ok(Some(ToRelay::ChannelAccept(accept))) => self.on_accept(peer, accept),
            Ok(Some(ToRelay::ChannelClose(close))) => self.close_channel(close.channel, Some(peer)),
            Ok(Some(ToRelay::Signal(signal))) => self.on_signal(peer, signal),
            Ok(Some(ToRelay::PresenceSubscribe(_))) => self.on_subscribe(peer),
            Ok(Some(ToRelay::Ping(ping))) => self.send(peer, Pong { nonce: ping.nonce }),
            Ok(None) | Err(_) => self.state().seen.strange_frames += 1,
        }
    }

    fn on_hello(
        &self,
        peer: PeerId,
        connection: &quinn::Connection,
        frames: &mpsc::Sender<Vec<u8>>,
    ) {
        let greeting = {
            let mut state = self.state();
            *state.seen.logins.entry(peer).or_default() += 1;
            let client = Client {
                connection: connection.clone(),
                frames: frames.clone(),
                subscribed: false,
            };
            let old = state.clients.insert(peer, client);
            let other = |old: &Client| old.connection.stable_id() != connection.stable_id();
            if let Some(old) = old.filter(other) {
                old.connection
                    .close(quinn::VarInt::from_u32(0), b"replaced");
            }
            let observed = state
                .deeds
                .observed
                .unwrap_or_else(|| connection.remote_address());
            state
                .deeds
                .greeting
                .clone()
                .unwrap_or_else(|| welcome(observed))
        };
        self.send_bytes(peer, greeting);
        self.tell_all(
            peer,
            PresenceDelta {
                joined: vec![peer],
                left: Vec::new(),
            },
        );
    }

    fn on_leave(&self, peer: PeerId, connection: &quinn::Connection) {
        let channels: Vec<ChannelId> = {
            let mut state = self.state();
            let ours = |client: &Client| client.connection.stable_id() == connection.stable_id();
            if !state.clients.get(&peer).is_some_and(ours) {
                return;
            }
            state.clients.remove(&peer);
            state
                .channels
                .iter()
                .filter(|(_, c)| c.has(peer))
                .map(|(id, _)| *id)
                .collect()
        };
        for channel in channels {
            self.close_channel(channel, Some(peer));
        }
        self.tell_all(
            peer,
            PresenceDelta {
                joined: Vec::new(),
                left: vec![peer],
            },
        );
    }

    fn on_subscribe(&self, peer: PeerId) {
        let peers = {
            let mut state = self.state();
            if let Some(client) = state.clients.get_mut(&peer) {
                client.subscribed = true;
            }
            let real = state.clients.keys().copied().filter(|other| *other != peer);
            real.chain(state.deeds.phantoms.iter().copied()).collect()
        };
        self.send(peer, PresenceSnapshot { peers, more: false });
    }

    fn on_open(&self, from: PeerId, open: ChannelOpen) {
        for packet in &open.flight {
            self.record.relayed(packet);
        }
        let (made, impostor) = {
            let mut state = self.state();
            *state.seen.opens.entry((from, open.to)).or_default() += 1;
            let impostor = state.deeds.impostor;
            let online = state.clients.contains_key(&open.to);
            let callee = impostor.map_or(Party::Client(open.to), Party::Mallory);
            let wanted = impostor.is_some() || online;
            let made = wanted
                .then(|| state.make_channel(Party::Client(from), callee))
                .flatten();
            (made, impostor)
        };
        let Some((channel, caller_end, callee_end)) = made else {
            let message = "the peer is not here".to_owned();
            let (request, channel, code) = (open.request, ChannelId(0), reason::NOT_HERE);
            self.send(
                from,
                ChannelClosed {
                    request,
                    channel,
                    code,
                    message,
                },
            );
            return;
        };
        self.send(
            from,
            ChannelOpened {
                request: open.request,
                channel,
                end: caller_end,
            },
        );
        let sealed = Sealed {
            from,
            to: open.to,
            kind: signal::OFFER,
            bytes: open.sealed,
        };
        let sealed = self.tamper(sealed);
        if impostor.is_some() {
            self.answer_as_impostor(from, channel, open.flight);
            return;
        }
        let observed = self.attest(from, open.attest);
        let flight = open.flight.into_iter();
        let offered = ChannelOffered {
            channel,
            end: callee_end,
            from,
            sealed,
            observed,
            flight: flight.map(|packet| self.alter_flight(packet)).collect(),
        };
        self.send(open.to, offered);
    }

    /// Says that the callee agreed, and gives its packets to Mallory.
    fn answer_as_impostor(&self, caller: PeerId, channel: ChannelId, flight: Vec<Vec<u8>>) {
        self.ready(channel);
        let ready = ChannelReady {
            channel,
            sealed: Vec::new(),
            observed: Vec::new(),
            flight: Vec::new(),
        };
        self.send(caller, ready);
        for packet in flight {
            self.to_mallory(channel, Side::Callee, packet);
        }
    }

    fn on_accept(&self, peer: PeerId, accept: ChannelAccept) {
        for packet in &accept.flight {
            self.record.relayed(packet);
        }
        let caller = {
            let mut state = self.state();
            *state.seen.accepts.entry(peer).or_default() += 1;
            state
                .channels
                .get(&accept.channel)
                .map(|channel| channel.caller.party)
        };
        match caller {
            Some(Party::Client(caller)) => {
                let (kind, bytes) = (signal::ANSWER, accept.sealed);
                let sealed = self.tamper(Sealed {
                    from: peer,
                    to: caller,
                    kind,
                    bytes,
                });
                let observed = self.attest(peer, accept.attest);
                let flight = accept
                    .flight
                    .into_iter()
                    .map(|p| self.alter_flight(p))
                    .collect();
                let channel = accept.channel;
                self.send(
                    caller,
                    ChannelReady {
                        channel,
                        sealed,
                        observed,
                        flight,
                    },
                );
            }
            Some(Party::Mallory(_)) => {
                let (kind, bytes) = (signal::ANSWER, accept.sealed);
                let to = self.state().channels[&accept.channel]
                    .claimed
                    .unwrap_or(peer);
                let _ = self.tamper(Sealed {
                    from: peer,
                    to,
                    kind,
                    bytes,
                });
                for packet in accept.flight {
                    self.to_mallory(accept.channel, Side::Caller, packet);
                }
            }
            None => return,
        }
        self.ready(accept.channel);
    }

    fn on_signal(&self, from: PeerId, message: Signal) {
        let Signal {
            to,
            kind,
            attest,
            sealed,
        } = message;
        let sealed = self.tamper(Sealed {
            from,
            to,
            kind,
            bytes: sealed,
        });
        let observed = self.attest(from, attest);
        self.send(
            to,
            SignalFrom {
                from,
                kind,
                observed,
                sealed,
            },
        );
    }

    /// Forgets a channel and tells whoever did not end it.
    pub(crate) fn close_channel(&self, channel: ChannelId, by: Option<PeerId>) {
        let Some(gone) = self.state().remove_channel(channel) else {
            return;
        };
        for end in [&gone.caller, &gone.callee] {
            if let Party::Client(peer) = end.party
                && Some(peer) != by
            {
                let (code, message) = (reason::CLOSED, "closed".to_owned());
                self.send(
                    peer,
                    ChannelClosed {
                        request: 0,
                        channel,
                        code,
                        message,
                    },
                );
            }
        }
    }

    /// Closes all channels in which `peer` takes part, for nobody's reason.
    pub(crate) fn close_channels_of(&self, peer: PeerId) {
        while let Some((channel, _, _)) = { self.state().channel_of(peer) } {
            self.close_channel(channel, None);
        }
    }

    /// What is delivered in place of a sealed body.
    fn tamper(&self, sealed: Sealed) -> Vec<u8> {
        let mut state = self.state();
        let State { seen, deeds, .. } = &mut *state;
        if seen.sealed.len() < SEALED_KEPT {
            seen.sealed.push(sealed.clone());
        }
        match &mut deeds.tamper {
            Some(tamper) => tamper(&sealed),
            None => sealed.bytes,
        }
    }

    fn attest(&self, peer: PeerId, wanted: bool) -> Vec<ObservedAddress> {
        let (silent, lies) = {
            let deeds = &self.state().deeds;
            (deeds.silent, deeds.attested.clone())
        };
        let real = self.address_of(peer).filter(|_| wanted && !silent);
        let at = |address| ObservedAddress {
            address,
            age_millis: 0,
        };
        real.into_iter().chain(lies).map(at).collect()
    }

    fn tell_all(&self, about: PeerId, delta: PresenceDelta) {
        let others: Vec<PeerId> = {
            let state = self.state();
            let told = state
                .clients
                .iter()
                .filter(|(peer, c)| c.subscribed && **peer != about);
            told.map(|(peer, _)| *peer).collect()
        };
        for other in others {
            self.send(other, delta.clone());
        }
    }
}

/// An honest Welcome.
pub(crate) fn welcome(observed: std::net::SocketAddr) -> Vec<u8> {
    let limits = Limits {
        channels: 64,
        signals_per_minute: 600,
        relayed_bytes_per_second: 0,
    };
    let capabilities = Vec::new();
    let welcome = Welcome {
        version: VERSION,
        capabilities,
        observed,
        alternate_port: None,
        limits,
    };
    p2p_net_proto::codec::encode(&welcome).expect("a welcome fits a frame")
}

fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::peer_of_certificate(chain.first()?)
}
