//! Peers as the engine keeps them: one chat, at most one connection, whoever waits for one.

use std::collections::HashMap;

use p2p_net::{Connection, PeerId};
use tokio::sync::oneshot;

use super::link::Link;
use crate::Problem;
use crate::chat::Chat;

/// Tasks that wait for one connection at most.
const MAX_WAITERS: usize = 64;

/// Everything that the engine keeps of one peer while there is something to keep.
pub(super) struct PeerState {
    pub(super) chat: Chat,
    pub(super) link: Option<Link>,
    /// The attempt to connect that runs.
    pub(super) dialling: Option<u64>,
    waiters: Vec<oneshot::Sender<Result<Connection, Problem>>>,
    /// The name that it claimed on the connection.
    pub(super) claimed_name: String,
    /// Somebody said yes to this stranger for as long as the connection lasts.
    pub(super) accepted_for_now: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Peers {
    all: HashMap<PeerId, PeerState>,
    last_link: u64,
    last_attempt: u64,
}

impl PeerState {
    fn new() -> Self {
        Self {
            chat: Chat::new(),
            link: None,
            dialling: None,
            waiters: Vec::new(),
            claimed_name: String::new(),
            accepted_for_now: false,
        }
    }

    /// The connection, if it is usable.
    pub(super) fn ready_link(&self) -> Option<&Link> {
        self.link
            .as_ref()
            .filter(|link| link.ready && !link.conn.is_closed())
    }

    /// Waits for a connection, or has it at once.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<Result<Connection, Problem>> {
        let (tell, told) = oneshot::channel();
        if let Some(link) = self.ready_link() {
            let _ = tell.send(Ok(link.conn.clone()));
        } else {
            self.waiters.retain(|waiter| !waiter.is_closed());
            if self.waiters.len() < MAX_WAITERS {
                self.waiters.push(tell);
            } else {
                let _ = tell.send(Err(Problem::failure("too much is waiting for this peer")));
            }
        }
        told
    }

    /// Answers all who wait.
    pub(super) fn tell_waiters(&mut self, result: &Result<Connection, Problem>) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(result.clone());
        }
    }

    fn is_idle(&self) -> bool {
        self.link.is_none()
            && self.dialling.is_none()
            && self.waiters.is_empty()
            && self.chat.is_idle()
    }
}

impl Peers {
    pub(super) fn get(&self, peer: &PeerId) -> Option<&PeerState> {
        self.all.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut PeerState> {
        self.all.get_mut(peer)
    }

    /// The state of a peer, made if there is none; says whether it was made.
    pub(super) fn entry(&mut self, peer: PeerId) -> (&mut PeerState, bool) {
        let mut made = false;
        let state = self.all.entry(peer).or_insert_with(|| {
            made = true;
            PeerState::new()
        });
        (state, made)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &PeerState)> {
        self.all.iter()
    }

    /// A fresh number for a connection.
    pub(super) fn next_link(&mut self) -> u64 {
        self.last_link += 1;
        self.last_link
    }

    /// A fresh number for an attempt to connect.
    pub(super) fn next_attempt(&mut self) -> u64 {
        self.last_attempt += 1;
        self.last_attempt
    }

    /// Forgets a peer of which nothing needs to be kept.
    pub(super) fn tidy(&mut self, peer: &PeerId) {
        if self.all.get(peer).is_some_and(PeerState::is_idle) {
            self.all.remove(peer);
        }
    }
}
