//! Which channels exist, who called whom, and whether the callee has agreed. Pure: time is an
//! argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use p2p_net_proto::{ChannelEnd, ChannelId};

use crate::registry::LoginId;

/// How long a callee may take to accept.
const HALF_OPEN_FOR: Duration = Duration::from_secs(10);

/// One side of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) login: LoginId,
    pub(crate) end: ChannelEnd,
}

/// A channel between two logged-in peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) caller: Side,
    pub(crate) callee: Side,
    /// The caller's number for its request.
    request: u32,
    opened: Option<Instant>,
}

impl Channel {
    /// The side that is not `login`.
    pub(crate) fn other(&self, login: LoginId) -> Side {
        if self.caller.login == login {
            self.callee
        } else {
            self.caller
        }
    }

    /// The number by which `login` knows the channel beside its id: its request, until that
    /// succeeded.
    pub(crate) fn request_of(&self, login: LoginId) -> u32 {
        if self.caller.login == login && self.opened.is_none() {
            self.request
        } else {
            0
        }
    }

    fn has(&self, login: LoginId) -> bool {
        self.caller.login == login || self.callee.login == login
    }
}

/// What became of an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// The channel is open now.
    Opened(Channel),
    /// It was open already.
    Before,
    /// There is no such channel that this peer was offered.
    Unknown,
}

/// All channels. Their number is bounded by the peers' limits.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    next: u64,
    channels: HashMap<ChannelId, Channel>,
    /// Half-open channels in the order of their deadlines; some may be open or closed by now.
    waiting: std::collections::VecDeque<(Instant, ChannelId)>,
}

impl Rendezvous {
    /// Numbers channels from `first` on.
    pub(crate) fn new(first: u64) -> Self {
        Self {
            next: first,
            channels: HashMap::new(),
            waiting: std::collections::VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// The number for the next channel; 0 never, since it stands for "none".
    pub(crate) fn next_id(&mut self) -> ChannelId {
        let id = ChannelId(self.next.max(1));
        self.next = id.0.wrapping_add(1);
        id
    }

    /// Adds a half-open channel.
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        id: ChannelId,
        request: u32,
        [caller, callee]: [Side; 2],
    ) {
        self.channels.insert(
            id,
            Channel {
                caller,
                callee,
                request,
                opened: None,
            },
        );
        self.waiting.push_back((now + HALF_OPEN_FOR, id));
    }

    /// `login` agrees to `id`.
    pub(crate) fn accept(&mut self, now: Instant, id: ChannelId, login: LoginId) -> Accepted {
        match self.channels.get_mut(&id) {
            Some(channel) if channel.callee.login != login => Accepted::Unknown,
            Some(Channel {
                opened: Some(_), ..
            }) => Accepted::Before,
            Some(channel) => {
                channel.opened = Some(now);
                Accepted::Opened(*channel)
            }
            None => Accepted::Unknown,
        }
    }

    /// Removes `id` if `login` is one of its two sides.
    pub(crate) fn close(&mut self, id: ChannelId, login: LoginId) -> Option<Channel> {
        self.channels
            .get(&id)
            .filter(|channel| channel.has(login))?;
        self.channels.remove(&id)
    }

    /// Removes the half-open channels whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(ChannelId, Channel)> {
        let mut expired = Vec::new();
        while let Some((_, id)) = self.waiting.pop_front_if(|(deadline, _)| *deadline <= now) {
            if self
                .channels
                .get(&id)
                .is_some_and(|channel| channel.opened.is_none())
                && let Some(channel) = self.channels.remove(&id)
            {
                expired.push((id, channel));
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(login: u64, end: u32) -> Side {
        Side {
            login: LoginId(login),
            end: ChannelEnd(end),
        }
    }

    #[test]
    fn only_the_callee_accepts_and_only_once() {
        let (mut rendezvous, now) = (Rendezvous::new(0), Instant::now());
        let id = rendezvous.next_id();
        assert_eq!((id, rendezvous.next_id()), (ChannelId(1), ChannelId(2)));
        rendezvous.offer(now, id, 5, [side(1, 10), side(2, 20)]);
        assert_eq!(rendezvous.channels[&id].request_of(LoginId(1)), 5);
        assert_eq!(rendezvous.channels[&id].request_of(LoginId(2)), 0);
        assert_eq!(rendezvous.accept(now, id, LoginId(1)), Accepted::Unknown);
        assert_eq!(rendezvous.accept(now, id, LoginId(3)), Accepted::Unknown);
        assert_eq!(
            rendezvous.accept(now, ChannelId(9), LoginId(2)),
            Accepted::Unknown
        );
        let Accepted::Opened(channel) = rendezvous.accept(now, id, LoginId(2)) else {
            panic!("the callee may accept");
        };
        assert_eq!(
            (channel.other(LoginId(1)), channel.request_of(LoginId(1))),
            (side(2, 20), 0)
        );
        assert_eq!(rendezvous.accept(now, id, LoginId(2)), Accepted::Before);
    }

    #[test]
    fn strangers_cannot_close() {
        let (mut rendezvous, now) = (Rendezvous::new(1), Instant::now());
        let id = rendezvous.next_id();
        rendezvous.offer(now, id, 5, [side(1, 10), side(2, 20)]);
        assert_eq!(rendezvous.close(id, LoginId(3)), None);
        let channel = rendezvous.close(id, LoginId(2)).expect("a side");
        assert_eq!(channel.other(LoginId(2)), side(1, 10));
        assert_eq!(
            (rendezvous.close(id, LoginId(1)), rendezvous.len()),
            (None, 0)
        );
    }

    #[test]
    fn offers_expire_and_open_channels_do_not() {
        let (mut rendezvous, start) = (Rendezvous::new(1), Instant::now());
        let ids = [
            rendezvous.next_id(),
            rendezvous.next_id(),
            rendezvous.next_id(),
        ];
        for id in ids {
            rendezvous.offer(start, id, 0, [side(1, 10), side(2, 20)]);
        }
        rendezvous.accept(start, ids[0], LoginId(2));
        rendezvous.close(ids[1], LoginId(1));
        assert!(
            rendezvous
                .expire(start + HALF_OPEN_FOR - Duration::from_millis(1))
                .is_empty()
        );
        let expired = rendezvous.expire(start + HALF_OPEN_FOR);
        assert_eq!(
            expired.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [ids[2]]
        );
        assert_eq!((rendezvous.len(), rendezvous.waiting.len()), (1, 0));
    }
}
