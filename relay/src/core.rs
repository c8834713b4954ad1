//! Admission, registry, rendezvous and forwarding put together: what a control message does, and
//! what has to be sent because of it. Pure: time is an argument, what is to be sent is fetched with
//! [`Core::take_outputs`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_net_proto::wire::{
    self, ChannelAccept, ChannelClose, ChannelClosed, ChannelOffered, ChannelOpen, ChannelOpened,
    ChannelReady, FromRelay, Goodbye, Hello, ObservedNow, Pong, Refused, Signal, SignalFrom,
    ToRelay, Welcome, reason,
};
use p2p_net_proto::{ChannelId, Direction, PeerId};

use crate::Limits;
use crate::admission::{Bucket, Door, Rate, refused};
use crate::forward::{Forward, Outgoing, OwnerId, Party, Route};
use crate::registry::{Link, Login, LoginId, Presence, Registry};
use crate::rendezvous::{Accepted, Channel, Rendezvous, Side};

/// Something to be sent.
#[derive(Debug)]
pub(crate) enum Output {
    /// A control message to these logins.
    Send(Vec<LoginId>, FromRelay),
    /// The last message to a login that is no more.
    End(LoginId, Goodbye),
    /// A relayed packet that had to wait.
    Packet(Outgoing),
}

/// A login to be judged.
pub(crate) struct NewLogin {
    /// Chosen by the caller, rising.
    pub(crate) id: LoginId,
    /// Proven by TLS.
    pub(crate) peer: PeerId,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) route: Route,
    pub(crate) hello: Hello,
    /// The other port of this relay.
    pub(crate) alternate_port: Option<u16>,
}

/// The whole state of a relay but for connections and packets on their way.
pub(crate) struct Core {
    door: Door,
    limits: Limits,
    signal_rate: Rate,
    registry: Registry,
    presence: Presence,
    rendezvous: Rendezvous,
    forward: Arc<Mutex<Forward>>,
    outputs: Vec<Output>,
    signals: u64,
    refused: u64,
}

impl Core {
    /// `first_channel` is where the numbers of channels start.
    pub(crate) fn new(
        door: Door,
        limits: Limits,
        first_channel: u64,
        forward: Arc<Mutex<Forward>>,
    ) -> Self {
        let signal_rate = Rate::per_minute(limits.signals_per_minute);
        Self {
            door,
            limits,
            signal_rate,
            registry: Registry::default(),
            presence: Presence::default(),
            rendezvous: Rendezvous::new(first_channel),
            forward,
            outputs: Vec::new(),
            signals: 0,
            refused: 0,
        }
    }

    /// What there is to send since the last call, in order.
    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub(crate) fn peers(&self) -> usize {
        self.registry.len()
    }

    pub(crate) fn channels(&self) -> usize {
        self.rendezvous.len()
    }

    /// Signals, offers and answers passed on, and logins refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.signals, self.refused)
    }

    /// Counts a login that was refused before it reached the door.
    pub(crate) fn count_refused(&mut self) {
        self.refused += 1;
    }

    /// Lets a peer in, in the place of an older login of the same peer, or says why not.
    pub(crate) fn login(&mut self, now: Instant, new: NewLogin) -> Result<(), Refused> {
        let judged = self.door.login(&new.peer, &new.hello).and_then(|version| {
            let newcomer = self.registry.find(&new.peer).is_none();
            if newcomer && self.registry.len() >= self.limits.peers {
                let message = format!(
                    "this relay is full: {} peers are logged in; try again later",
                    self.limits.peers
                );
                return Err(refused(reason::FULL, message, 60));
            }
            Ok(version)
        });
        let version = judged.inspect_err(|_| self.refused += 1)?;
        if let Some(older) = self.registry.find(&new.peer) {
            let message = "the same identity logged in from elsewhere; the newest login counts";
            self.end(now, older, reason::REPLACED, message);
        }
        let owner = self.forward().add_owner(now, new.route);
        let signals = Bucket::full(now, self.signal_rate);
        let login = Login::new(new.peer, new.link, owner, new.route, signals);
        let welcome = Welcome {
            version,
            capabilities: Vec::new(),
            observed: login.observed(),
            alternate_port: new.alternate_port,
            limits: wire::Limits {
                channels: self.limits.channels_per_peer,
                signals_per_minute: self.limits.signals_per_minute,
                relayed_bytes_per_second: self.limits.relayed_bytes_per_second,
            },
        };
        self.registry.insert(new.id, login);
        self.presence.change(now, new.peer, true);
        self.send(new.id, welcome);
        Ok(())
    }

    /// Acts on a message that has just arrived from `id`; ignored if that login is no more.
    pub(crate) fn message(&mut self, now: Instant, id: LoginId, message: ToRelay) {
        let Some(peer) = self.registry.get(id).map(|login| login.peer) else {
            return;
        };
        match message {
            ToRelay::Hello(_) => self.end(now, id, reason::PROTOCOL, "hello was said already"),
            ToRelay::ChannelOpen(open) => self.open(now, id, open),
            ToRelay::ChannelAccept(accept) => self.accept(now, id, accept),
            ToRelay::ChannelClose(ChannelClose { channel }) => {
                if let Some(closed) = self.rendezvous.close(channel, id) {
                    self.unlink(channel, &closed);
                    let to = closed.other(id).login;
                    let message = "the other side closed or declined the channel";
                    self.closed(to, closed.request_of(to), channel, reason::CLOSED, message);
                }
            }
            ToRelay::Signal(signal) => self.signal(now, id, signal),
            ToRelay::PresenceSubscribe(_) => {
                if self.presence.subscribe(id, peer) {
                    for part in self.registry.snapshot(peer) {
                        self.send(id, part);
                    }
                }
            }
            ToRelay::Ping(ping) => self.send(id, Pong { nonce: ping.nonce }),
        }
    }

    /// The control connection of `id` comes from another address, or leaves by another of ours.
    pub(crate) fn moved(&mut self, now: Instant, id: LoginId, route: Route) {
        let Some(login) = self.registry.get_mut(id) else {
            return;
        };
        if login.route == route {
            return;
        }
        let before = login.observed();
        login.moved(now, route);
        let (owner, address) = (login.owner, login.observed());
        self.forward().rebind(owner, route);
        if address != before {
            self.send(id, ObservedNow { address });
        }
    }

    /// The connection of `id` is gone.
    pub(crate) fn lost(&mut self, now: Instant, id: LoginId) {
        let Some(login) = self.registry.remove(id) else {
            return;
        };
        self.presence.unsubscribe(id);
        self.presence.change(now, login.peer, false);
        for channel in &login.channels {
            if let Some(closed) = self.rendezvous.close(*channel, id) {
                self.unlink(*channel, &closed);
                let to = closed.other(id).login;
                let message = "the other side left the relay";
                self.closed(to, closed.request_of(to), *channel, reason::GONE, message);
            }
        }
        self.forward().remove_owner(login.owner);
    }

    /// Ends a login with a word of farewell.
    pub(crate) fn end(&mut self, now: Instant, id: LoginId, code: u16, message: &str) {
        if self.registry.get(id).is_some() {
            self.lost(now, id);
            self.outputs.push(Output::End(
                id,
                Goodbye {
                    code,
                    message: message.into(),
                },
            ));
        }
    }

    /// Ends all logins because the relay stops.
    pub(crate) fn stop(&mut self, now: Instant) {
        for id in self.registry.ids() {
            self.end(
                now,
                id,
                reason::SHUTDOWN,
                "the relay stops; it may be back soon",
            );
        }
        // Nobody is there to be told that anybody left.
        self.outputs
            .retain(|output| matches!(output, Output::End(..)));
    }

    /// Does what time alone makes due; call it every 100 ms or so.
    pub(crate) fn tick(&mut self, now: Instant) {
        for (id, channel) in self.rendezvous.expire(now) {
            self.unlink(id, &channel);
            for to in [channel.caller.login, channel.callee.login] {
                let message = "the offer was not accepted in time";
                self.closed(to, channel.request_of(to), id, reason::TIMEOUT, message);
            }
        }
        if self.presence.is_due(now) {
            for (to, delta) in self.presence.flush() {
                self.outputs.push(Output::Send(to, delta.into()));
            }
        }
    }

    fn open(&mut self, now: Instant, id: LoginId, open: ChannelOpen) {
        let request = open.request;
        match self.try_open(now, id, open) {
            Ok(()) => self.signals += 1,
            Err((code, message)) => self.closed(id, request, ChannelId(0), code, &message),
        }
    }

    fn try_open(
        &mut self,
        now: Instant,
        id: LoginId,
        open: ChannelOpen,
    ) -> Result<(), (u16, String)> {
        let spent = self.spend_signal(now, id);
        let caller = spent.map_err(|no| (no.code, no.message))?;
        let to = self.callee(id, caller, open.to)?;
        let channel = self.rendezvous.next_id();
        let gone = || (reason::GONE, "a connection ended meanwhile".to_owned());
        let sides = [id, to].map(|side| {
            let login = self.registry.get(side)?;
            party(login.link.as_ref(), login.owner, channel)
        });
        let [Some(one), Some(other)] = sides else {
            return Err(gone());
        };
        let observed = match self.registry.get(id) {
            Some(login) if open.attest => login.attested(now),
            _ => Vec::new(),
        };
        let ends = self.forward().open([one, other]);
        let ends = ends.ok_or_else(|| (reason::FULL, "this relay has no channel left".into()))?;
        let [caller_side, callee_side] =
            [(id, ends[0]), (to, ends[1])].map(|(login, end)| Side { login, end });
        self.rendezvous
            .offer(now, channel, open.request, [caller_side, callee_side]);
        for side in [id, to] {
            if let Some(login) = self.registry.get_mut(side) {
                login.channels.insert(channel);
            }
        }
        let (request, end) = (open.request, caller_side.end);
        self.send(
            id,
            ChannelOpened {
                request,
                channel,
                end,
            },
        );
        let (end, from, sealed, flight) = (callee_side.end, caller, open.sealed, open.flight);
        self.send(
            to,
            ChannelOffered {
                channel,
                end,
                from,
                sealed,
                observed,
                flight,
            },
        );
        Ok(())
    }

    /// The login that `caller`, logged in as `id`, can call now under the name `to`.
    fn callee(&self, id: LoginId, caller: PeerId, to: PeerId) -> Result<LoginId, (u16, String)> {
        if to == caller {
            return Err((
                reason::PROTOCOL,
                "a channel joins two different peers".into(),
            ));
        }
        let absent = || {
            (
                reason::NOT_HERE,
                format!("{} is not on this relay now", to.short()),
            )
        };
        let found = self.registry.find(&to).ok_or_else(absent)?;
        let callee = self.registry.get(found).ok_or_else(absent)?;
        let most = self.limits.channels_per_peer as usize;
        if self
            .registry
            .get(id)
            .is_some_and(|login| login.channels.len() >= most)
        {
            return Err((
                reason::LIMITED,
                format!("you have {most} channels, the most allowed here"),
            ));
        }
        if callee.channels.len() >= most || callee.link.is_congested() {
            let message = "the other side has no room for another channel";
            return Err((reason::LIMITED, message.into()));
        }
        Ok(found)
    }

    fn accept(&mut self, now: Instant, id: LoginId, accept: ChannelAccept) {
        let channel = accept.channel;
        match self.rendezvous.accept(now, channel, id) {
            Accepted::Before => {}
            Accepted::Unknown => {
                self.closed(id, 0, channel, reason::GONE, "the channel is no more");
            }
            Accepted::Opened(opened) => {
                self.signals += 1;
                let observed = match self.registry.get(id) {
                    Some(login) if accept.attest => login.attested(now),
                    _ => Vec::new(),
                };
                let (sealed, flight) = (accept.sealed, accept.flight);
                self.send(
                    opened.caller.login,
                    ChannelReady {
                        channel,
                        sealed,
                        observed,
                        flight,
                    },
                );
                let waited = self.forward().accept(now, opened.caller.end);
                self.outputs.extend(waited.into_iter().map(Output::Packet));
            }
        }
    }

    fn signal(&mut self, now: Instant, id: LoginId, signal: Signal) {
        let refusal = match self.spend_signal(now, id) {
            Err(refusal) => refusal,
            Ok(from) => match self.registry.find(&signal.to) {
                None => {
                    let message = format!("{} is not on this relay now", signal.to.short());
                    refused(reason::NOT_HERE, message, 0)
                }
                Some(to)
                    if self
                        .registry
                        .get(to)
                        .is_some_and(|to| to.link.is_congested()) =>
                {
                    refused(reason::LIMITED, "the other side cannot keep up".into(), 1)
                }
                Some(to) => {
                    let observed = match self.registry.get(id) {
                        Some(login) if signal.attest => login.attested(now),
                        _ => Vec::new(),
                    };
                    self.signals += 1;
                    let (kind, sealed) = (signal.kind, signal.sealed);
                    self.send(
                        to,
                        SignalFrom {
                            from,
                            kind,
                            observed,
                            sealed,
                        },
                    );
                    return;
                }
            },
        };
        self.send(id, refusal);
    }

    /// Who `id` is, if it may send another signal now.
    fn spend_signal(&mut self, now: Instant, id: LoginId) -> Result<PeerId, Refused> {
        let rate = self.signal_rate;
        let Some(login) = self.registry.get_mut(id) else {
            return Err(refused(reason::GONE, "this login is no more".into(), 0));
        };
        if login.signals.take(now, rate, 1.0) {
            return Ok(login.peer);
        }
        let wait = login
            .signals
            .wait(now, rate, 1.0)
            .min(Duration::from_secs(60));
        let seconds = wait.as_secs_f64().ceil() as u32;
        let message = format!(
            "more than {} offers and signals a minute; try again in {seconds} s",
            self.limits.signals_per_minute
        );
        Err(refused(reason::LIMITED, message, seconds))
    }

    /// Takes a channel that was removed out of the other tables.
    fn unlink(&mut self, id: ChannelId, channel: &Channel) {
        self.forward().close(channel.caller.end);
        for side in [channel.caller, channel.callee] {
            if let Some(login) = self.registry.get_mut(side.login) {
                login.channels.remove(&id);
            }
        }
    }

    fn closed(&mut self, to: LoginId, request: u32, channel: ChannelId, code: u16, message: &str) {
        self.send(
            to,
            ChannelClosed {
                request,
                channel,
                code,
                message: message.into(),
            },
        );
    }

    fn send(&mut self, to: LoginId, message: impl Into<FromRelay>) {
        self.outputs.push(Output::Send(vec![to], message.into()));
    }

    fn forward(&self) -> MutexGuard<'_, Forward> {
        self.forward.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn party(link: &dyn Link, owner: OwnerId, channel: ChannelId) -> Option<Party> {
    let up = link.header_key(channel, Direction::Up)?;
    let down = link.header_key(channel, Direction::Down)?;
    Some(Party { owner, up, down })
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
