//! The engine's task: takes one input after another and changes the state.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_net::{ConnectError, Connection, Endpoint, PeerId, RelayState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use uuid::Uuid;

use super::Input;
use super::calls::Calls;
use super::faces::Faces;
use super::link::{Link, LinkEvent};
use super::peers::Peers;
use super::transfers::Transfers;
use super::views::{RelayFacts, peer_view};
use crate::Problem;
use crate::contacts::{Contact, Standing, consent_text, printable};
use crate::event::{Event, PeerView, RelayView};
use crate::settings::MAX_NAME_LEN;
use crate::store::messages::{MAX_OF_STRANGER, MessageState, StoredMessage};
use crate::store::{self, Store, StoreError, now_millis};
use crate::wire::{self, Hello, close_code};
use crate::{call, chat};

/// Connections of strangers at one time; one more is closed.
const MAX_STRANGERS: usize = 64;
/// How long one attempt to connect may take, whatever the library thinks.
const DIAL_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection that the peer made at the same time may take to turn up.
const CROSSED_LIMIT: Duration = Duration::from_secs(5);
/// After so long a store that failed is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// How long transfers may take to tell the other side that they end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// How long the end of a call may take to arrive: once lost and said again, over most paths.
const LAST_WORD: Duration = Duration::from_millis(400);

/// See the module.
pub(super) struct Actor {
    pub(super) endpoint: Endpoint,
    pub(super) store: Store,
    pub(super) name: String,
    pub(super) relay: RelayFacts,
    pub(super) contacts: HashMap<PeerId, Contact>,
    pub(super) peers: Peers,
    pub(super) faces: Faces,
    pub(super) transfers: Transfers,
    pub(super) calls: Calls,
    /// Offers that a person looks at, by task.
    pub(super) offers: HashMap<u64, super::offers::Waiting>,
    pub(super) tasks: JoinSet<()>,
    pub(super) inputs: mpsc::Sender<Input>,
    online: Arc<BTreeSet<PeerId>>,
    face_count: watch::Sender<usize>,
}

impl Actor {
    pub(super) fn new(
        endpoint: Endpoint,
        store: Store,
        name: String,
        relay: RelayFacts,
        inputs: mpsc::Sender<Input>,
        face_count: watch::Sender<usize>,
    ) -> Self {
        Self {
            calls: Calls::new(endpoint.id()),
            endpoint,
            store,
            name,
            relay,
            contacts: HashMap::new(),
            peers: Peers::default(),
            faces: Faces::default(),
            transfers: Transfers::default(),
            offers: HashMap::new(),
            tasks: JoinSet::new(),
            inputs,
            online: Arc::default(),
            face_count,
        }
    }

    /// Takes up what the store has from earlier runs.
    pub(super) async fn load(&mut self) -> Result<(), Problem> {
        let (contacts, waiting, all_relay_only) = self
            .store
            .run(|db| {
                store::transfers::interrupt_running(db)?;
                store::calls::interrupt_running(db)?;
                Ok((
                    store::contacts::all(db)?,
                    store::messages::peers_with_work(db)?,
                    store::contacts::all_relay_only(db)?,
                ))
            })
            .await?;
        self.endpoint.set_all_relay_only(all_relay_only);
        for contact in contacts {
            self.endpoint.set_relay_only(contact.id, contact.relay_only);
            if contact.standing == Standing::Accepted {
                self.endpoint.set_accepted(contact.id, true);
            }
            self.contacts.insert(contact.id, contact);
        }
        for peer in waiting {
            if self.standing(&peer) == Standing::Accepted {
                self.chat(peer, chat::Input::Online(false)).await;
            }
        }
        Ok(())
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut relay = self.endpoint.watch_relay();
        let mut presence = self.endpoint.watch_peers();
        relay.mark_changed();
        presence.mark_changed();
        let endpoint = self.endpoint.clone();
        loop {
            let deadline = self
                .peers
                .iter()
                .filter_map(|(_, peer)| peer.chat.poll_timeout())
                .chain(self.calls.line.poll_timeout())
                .min();
            tokio::select! {
                Some(input) = inbox.recv() => {
                    if matches!(input, Input::Stop) {
                        break;
                    }
                    self.on_input(input).await;
                }
                Some(conn) = endpoint.accept() => self.on_accepted(conn),
                Ok(()) = presence.changed() => {
                    let now = Arc::clone(&presence.borrow_and_update());
                    self.on_presence(now).await;
                }
                Ok(()) = relay.changed() => {
                    let view = self.relay.view(&relay.borrow_and_update());
                    self.faces.tell_all(&Event::Relay { relay: view });
                }
                () = sleep_until(deadline) => self.on_deadline().await,
                Some(_) = self.tasks.join_next() => {}
                else => break,
            }
        }
        self.farewell(inbox).await;
    }

    /// Tells the other side of each running transfer that it ends, and lets the tasks store that.
    async fn farewell(&mut self, mut inbox: mpsc::Receiver<Input>) {
        for running in self.transfers.iter() {
            running.cancel.cancel("the program was ended");
        }
        self.line(call::Input::End(call::End::ours(call::Cause::Shutdown)))
            .await;
        let all_told = async {
            while !(self.transfers.is_empty() && self.calls.is_idle()) {
                match inbox.recv().await {
                    Some(Input::Media { number, news }) => self.on_media(number, news).await,
                    Some(Input::TransferTask { task }) => {
                        self.transfers.remove(task);
                    }
                    Some(Input::Transfer {
                        number,
                        peer,
                        outgoing,
                        step,
                    }) => {
                        self.faces.tell_all(&Event::Transfer {
                            number,
                            peer,
                            outgoing,
                            step,
                        });
                    }
                    Some(_) => {}
                    None => break,
                }
            }
        };
        let _ = timeout(FAREWELL_LIMIT, all_told).await;
        if let Some(ended_at) = self.calls.ended_at {
            // The last word is on its stream, and the connection is about to close.
            sleep(LAST_WORD.saturating_sub(ended_at.elapsed())).await;
        }
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::Attach { back, counted } => {
                self.on_attach(back);
                let _ = counted.send(());
            }
            Input::Request { face, request } => {
                let crate::face::Request { command, reply } = request;
                self.on_command(face, command, reply).await;
            }
            Input::Detach { face } => self.on_detach(face).await,
            Input::Dialled { peer, result } => self.on_dialled(peer, result).await,
            Input::DialExpired { peer, attempt } => {
                let crossed = self
                    .peers
                    .get(&peer)
                    .is_some_and(|state| state.dialling == Some(attempt));
                if crossed {
                    self.on_dial_failed(peer, &ConnectError::TimedOut(peer))
                        .await;
                }
            }
            Input::Link { peer, number, what } => {
                // What an older connection still says counts for nothing, except that it ended.
                let link = self.peers.get(&peer).and_then(|state| state.link.as_ref());
                if link.is_some_and(|link| link.number == number) {
                    self.on_link(peer, what).await;
                }
            }
            Input::Offered {
                task,
                peer,
                offer,
                decide,
            } => {
                self.on_offered(task, peer, offer, decide).await;
            }
            Input::Transfer {
                number,
                peer,
                outgoing,
                step,
            } => {
                self.faces.tell_all(&Event::Transfer {
                    number,
                    peer,
                    outgoing,
                    step,
                });
            }
            Input::TransferTask { task } => self.on_transfer_task(task),
            Input::Media { number, news } => self.on_media(number, news).await,
            Input::Refill { peer } => self.refill(peer).await,
            Input::Stop => {}
        }
    }

    fn on_attach(&mut self, back: crate::face::FaceBack) {
        let crate::face::FaceBack {
            mut requests,
            events,
        } = back;
        let face = self.faces.add(events);
        self.face_count.send_replace(self.faces.len());
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            while let Some(request) = requests.recv().await {
                if inputs.send(Input::Request { face, request }).await.is_err() {
                    return;
                }
            }
            let _ = inputs.send(Input::Detach { face }).await;
        });
    }

    /// A face went, and what it wanted goes with it.
    async fn on_detach(&mut self, face: u64) {
        self.faces.remove(face);
        self.face_count.send_replace(self.faces.len());
        for running in self
            .transfers
            .iter()
            .filter(|running| running.face == Some(face))
        {
            running.cancel.cancel("the other side ended the command");
        }
        self.refuse_offers_of(face);
        self.hang_up_for(face).await;
    }

    // Peers and connections.

    pub(super) fn standing(&self, peer: &PeerId) -> Standing {
        self.contacts
            .get(peer)
            .map_or(Standing::Stranger, |contact| contact.standing)
    }

    pub(super) fn label(&self, peer: &PeerId) -> String {
        match self.contacts.get(peer) {
            Some(contact) if contact.standing != Standing::Stranger => contact.label(),
            _ => consent_text(peer),
        }
    }

    pub(super) fn view(&self, peer: &PeerId) -> PeerView {
        let state = self.peers.get(peer);
        let link = state.and_then(|state| state.ready_link());
        let mut view = peer_view(
            *peer,
            self.contacts.get(peer),
            self.online.contains(peer),
            link,
        );
        if view.claimed_name.is_none() {
            let claimed = state.map(|state| state.claimed_name.clone());
            view.claimed_name = claimed.filter(|name| !name.is_empty());
        }
        view
    }

    /// Everybody that `peers` shows: at the relay, connected, or a contact.
    pub(super) fn all_views(&self) -> Vec<PeerView> {
        let mut ids: BTreeSet<PeerId> = self.online.iter().copied().collect();
        ids.extend(
            self.peers
                .iter()
                .filter(|(_, state)| state.link.is_some())
                .map(|(id, _)| *id),
        );
        let contacts = self.contacts.values();
        ids.extend(
            contacts
                .filter(|c| c.standing == Standing::Accepted)
                .map(|c| c.id),
        );
        ids.iter().map(|id| self.view(id)).collect()
    }

    pub(super) fn relay_view(&self) -> RelayView {
        let state: RelayState = self.endpoint.watch_relay().borrow().clone();
        self.relay.view(&state)
    }

    pub(super) fn tell_peer(&mut self, peer: &PeerId) {
        let peer = self.view(peer);
        self.faces.tell_all(&Event::Peer { peer });
    }

    /// Makes `peer` an accepted contact, unless it is blocked.
    pub(super) async fn accept(&mut self, peer: PeerId) -> Result<(), Problem> {
        if self.standing(&peer) == Standing::Accepted {
            return Ok(());
        }
        if let Some(contact) = self.contacts.get(&peer)
            && contact.standing == Standing::Blocked
        {
            return Err(crate::book::blocked(contact));
        }
        if peer == self.endpoint.id() {
            return Err(Problem::usage("this is our own id"));
        }
        let claimed = self
            .peers
            .get(&peer)
            .map(|state| state.claimed_name.clone());
        let contact = self
            .store
            .run(move |db| {
                store::contacts::accept(db, &peer, now_millis())?;
                if let Some(claimed) = claimed.filter(|name| !name.is_empty()) {
                    store::contacts::set_claimed_name(db, &peer, &claimed)?;
                }
                store::contacts::find(db, &peer)
            })
            .await?;
        if let Some(contact) = contact {
            self.contacts.insert(peer, contact);
        }
        self.endpoint.set_accepted(peer, true);
        Ok(())
    }

    /// Keeps our addresses from a contact, or no longer, as the book has it and as long as a call wants it.
    pub(super) fn set_relay_only(&self, peer: &PeerId) {
        let kept = self
            .contacts
            .get(peer)
            .is_some_and(|contact| contact.relay_only);
        let call = self.calls.line.peer() == Some(*peer)
            && self
                .calls
                .current
                .as_ref()
                .is_some_and(|call| call.relay_only);
        self.endpoint.set_relay_only(*peer, kept || call);
    }

    /// Ends everything with a peer that is no longer wanted.
    pub(super) async fn drop_peer(&mut self, peer: PeerId) {
        self.endpoint.set_accepted(peer, false);
        if self.calls.line.peer() == Some(peer) {
            self.line(call::Input::End(call::End::ours(call::Cause::HungUp)))
                .await;
        }
        for running in self.transfers.iter().filter(|running| running.peer == peer) {
            running.cancel.cancel("the other side does not want this");
        }
        let link = self
            .peers
            .get_mut(&peer)
            .and_then(|state| state.link.take());
        if let Some(link) = link {
            link.conn.close(close_code::UNWANTED, "");
            self.chat(peer, chat::Input::Disconnected).await;
        }
        if self.peers.get(&peer).is_some() {
            self.chat(peer, chat::Input::Online(false)).await;
        }
    }

    fn on_accepted(&mut self, conn: Connection) {
        let peer = conn.peer();
        let standing = self.standing(&peer);
        let stranger_links = self
            .peers
            .iter()
            .filter(|(id, state)| {
                state.link.is_some() && **id != peer && self.standing(id) == Standing::Stranger
            })
            .count();
        if standing == Standing::Blocked
            || (standing == Standing::Stranger && stranger_links >= MAX_STRANGERS)
        {
            conn.close(close_code::UNWANTED, "");
            return;
        }
        self.add_link(conn);
    }

    /// Serves a connection from now on; an older one of the same peer has had its day.
    fn add_link(&mut self, conn: Connection) {
        let hello = Hello {
            version: wire::VERSION,
            name: self.name.clone(),
            capabilities: vec![wire::CALLS.to_owned()],
        };
        let peer = conn.peer();
        debug!(peer = %peer.short(), dialler = conn.is_dialler(), "connection");
        let number = self.peers.next_link();
        let link = Link::start(conn, number, hello, &self.inputs);
        let (state, _) = self.peers.entry(peer);
        if let Some(old) = state.link.replace(link) {
            old.conn
                .close(close_code::DONE, "replaced by a newer connection");
        }
    }

    /// Waits for a usable connection to `peer`, dialling if there is none.
    pub(super) async fn want(
        &mut self,
        peer: PeerId,
    ) -> oneshot::Receiver<Result<Connection, Problem>> {
        self.chat(peer, chat::Input::Online(self.online.contains(&peer)))
            .await;
        let (state, _) = self.peers.entry(peer);
        let waiting = state.wait();
        let needs_dial = state.link.is_none();
        if needs_dial {
            self.dial(peer);
        }
        waiting
    }

    /// A call wants a connection; its end, good or bad, reaches the line.
    pub(super) async fn dial_for_call(&mut self, peer: PeerId) {
        self.chat(peer, chat::Input::Online(self.online.contains(&peer)))
            .await;
        self.dial(peer);
    }

    fn dial(&mut self, peer: PeerId) {
        let attempt = self.peers.next_attempt();
        let (state, _) = self.peers.entry(peer);
        if state.dialling.is_some() || state.link.is_some() {
            return;
        }
        state.dialling = Some(attempt);
        let (endpoint, inputs) = (self.endpoint.clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let result = timeout(DIAL_LIMIT, endpoint.connect(peer))
                .await
                .unwrap_or(Err(ConnectError::TimedOut(peer)));
            let _ = inputs.send(Input::Dialled { peer, result }).await;
        });
    }

    async fn on_dialled(&mut self, peer: PeerId, result: Result<Connection, ConnectError>) {
        match result {
            Ok(conn) if self.standing(&peer) == Standing::Blocked => {
                conn.close(close_code::UNWANTED, "");
            }
            Ok(conn) if conn.is_dialler() => self.add_link(conn),
            // Both sides dialled and the other connection stays: it comes, or came, by `accept`.
            Ok(_) => {
                let attempt = self.peers.next_attempt();
                let (state, _) = self.peers.entry(peer);
                if state.link.is_some() {
                    return;
                }
                state.dialling = Some(attempt);
                let inputs = self.inputs.clone();
                self.tasks.spawn(async move {
                    sleep(CROSSED_LIMIT).await;
                    let _ = inputs.send(Input::DialExpired { peer, attempt }).await;
                });
            }
            Err(error) => self.on_dial_failed(peer, &error).await,
        }
    }

    async fn on_dial_failed(&mut self, peer: PeerId, error: &ConnectError) {
        let problem = self.relay.explain_connect(&self.label(&peer), error);
        debug!(peer = %peer.short(), %error, "not reached");
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        state.dialling = None;
        if state.link.is_none() {
            state.tell_waiters(&Err(problem.clone()));
            self.chat(peer, chat::Input::DialFailed).await;
            self.line(call::Input::DialFailed(peer, problem)).await;
        }
        self.peers.tidy(&peer);
    }

    async fn on_link(&mut self, peer: PeerId, what: LinkEvent) {
        match what {
            LinkEvent::Hello(hello) => {
                self.on_hello(peer, &hello.name).await;
                let calls = hello.capabilities.iter().any(|name| name == wire::CALLS);
                if let Some(link) = self.peers.get_mut(&peer).and_then(|s| s.link.as_mut()) {
                    link.calls = Some(calls);
                }
                self.line_linked(peer).await;
            }
            LinkEvent::Ready => {
                let Some(state) = self.peers.get_mut(&peer) else {
                    return;
                };
                state.dialling = None;
                let Some(link) = &mut state.link else { return };
                link.ready = true;
                let conn = link.conn.clone();
                state.tell_waiters(&Ok(conn));
                self.chat(peer, chat::Input::Connected).await;
                self.line_linked(peer).await;
                self.tell_peer(&peer);
            }
            LinkEvent::Chat(frame) => self.chat(peer, chat::Input::Frame(frame)).await,
            LinkEvent::Call(frame) => self.on_call_frame(peer, frame).await,
            LinkEvent::Transfer(send, recv) => self.on_transfer_stream(peer, send, recv),
            LinkEvent::Path => self.tell_peer(&peer),
            LinkEvent::Closed(reason) => self.on_closed(peer, &reason).await,
        }
    }

    async fn on_hello(&mut self, peer: PeerId, name: &str) {
        let mut name = printable(name, " ");
        while name.len() > MAX_NAME_LEN {
            name.pop();
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.claimed_name.clone_from(&name);
        }
        let Some(contact) = self.contacts.get_mut(&peer) else {
            return;
        };
        if contact.claimed_name.as_deref().unwrap_or_default() != name {
            contact.claimed_name = Some(name.clone());
            let kept = self
                .store
                .run(move |db| store::contacts::set_claimed_name(db, &peer, &name))
                .await;
            note(kept, "a claimed name");
        }
    }

    async fn on_closed(&mut self, peer: PeerId, reason: &str) {
        let stranger = self.standing(&peer) != Standing::Accepted;
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        state.link = None;
        if std::mem::take(&mut state.accepted_for_now) && stranger {
            self.endpoint.set_accepted(peer, false);
        }
        if state.dialling.is_none() {
            let problem = Problem::unreachable(format!("the connection ended: {reason}"));
            state.tell_waiters(&Err(problem));
        }
        self.chat(peer, chat::Input::Disconnected).await;
        self.line_unlinked(peer).await;
        self.tell_peer(&peer);
        self.peers.tidy(&peer);
    }

    async fn on_presence(&mut self, now: Arc<BTreeSet<PeerId>>) {
        let before = std::mem::replace(&mut self.online, Arc::clone(&now));
        let changed: Vec<PeerId> = now.symmetric_difference(&before).copied().collect();
        for peer in changed {
            if self.peers.get(&peer).is_some() && self.standing(&peer) != Standing::Blocked {
                self.chat(peer, chat::Input::Online(now.contains(&peer)))
                    .await;
                self.peers.tidy(&peer);
            }
            self.tell_peer(&peer);
        }
    }

    async fn on_deadline(&mut self) {
        let now = Instant::now();
        let due: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, state)| state.chat.poll_timeout().is_some_and(|at| at <= now))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.chat(peer, chat::Input::Timeout).await;
        }
        if self.calls.line.poll_timeout().is_some_and(|at| at <= now) {
            self.line(call::Input::Timeout).await;
        }
    }

    // Chat.

    /// Feeds a peer's chat and does what it asks for.
    pub(super) async fn chat(&mut self, peer: PeerId, input: chat::Input) {
        let is_online = self.online.contains(&peer);
        let mut inputs = VecDeque::new();
        if self.peers.entry(peer).1 {
            inputs.push_back(chat::Input::Online(is_online));
        }
        inputs.push_back(input);
        while let Some(input) = inputs.pop_front() {
            let (state, _) = self.peers.entry(peer);
            state.chat.handle_input(Instant::now(), input);
            while let Some(output) = self.peers.entry(peer).0.chat.poll_output() {
                inputs.extend(self.on_chat_output(peer, output).await);
            }
        }
    }

    async fn on_chat_output(&mut self, peer: PeerId, output: chat::Output) -> Option<chat::Input> {
        match output {
            chat::Output::Dial => {
                self.dial(peer);
                None
            }
            chat::Output::Send(frame) => {
                if let Some(link) = self.peers.get(&peer).and_then(|state| state.ready_link()) {
                    link.send(frame);
                }
                None
            }
            chat::Output::CheckConnection => {
                if let Some(link) = self.peers.get(&peer).and_then(|state| state.ready_link()) {
                    link.check();
                }
                None
            }
            chat::Output::Store(message) => self.take_message(peer, message).await,
            chat::Output::Delivered(id) => {
                let kept = self
                    .store
                    .run(move |db| store::messages::set_delivered(db, &peer, id))
                    .await;
                if note(kept, "a delivery") == Some(true) {
                    self.tell_state(peer, vec![id], MessageState::Delivered);
                }
                None
            }
            chat::Output::ReadByPeer(ids) => {
                let asked = ids.clone();
                let kept = self
                    .store
                    .run(move |db| store::messages::set_read_by_peer(db, &peer, &asked))
                    .await;
                let news = note(kept, "read marks")?;
                if !news.is_empty() {
                    self.tell_state(peer, news, MessageState::Read);
                }
                Some(chat::Input::ReadStored(ids))
            }
            chat::Output::ReadSeen(ids) => {
                let kept = self
                    .store
                    .run(move |db| store::messages::set_reads_told(db, &peer, &ids))
                    .await;
                note(kept, "read marks");
                None
            }
            chat::Output::Refill => self.load_waiting(peer).await,
        }
    }

    async fn load_waiting(&mut self, peer: PeerId) -> Option<chat::Input> {
        let limit = u32::try_from(chat::MAX_QUEUED).unwrap_or(u32::MAX);
        let loaded = self
            .store
            .run(move |db| {
                let messages = store::messages::waiting(db, &peer, limit)?;
                let reads = store::messages::untold_reads(db, &peer, limit)?;
                Ok((messages, reads))
            })
            .await;
        if let Some((messages, reads)) = note(loaded, "the outbox") {
            let more = messages.len().max(reads.len()) >= chat::MAX_QUEUED;
            return Some(chat::Input::Refilled {
                messages,
                reads,
                more,
            });
        }
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            sleep(STORE_PAUSE).await;
            let _ = inputs.send(Input::Refill { peer }).await;
        });
        None
    }

    async fn refill(&mut self, peer: PeerId) {
        if let Some(input) = self.load_waiting(peer).await {
            self.chat(peer, input).await;
        }
    }

    /// Stores what a peer wrote; only then it is acknowledged.
    async fn take_message(&mut self, peer: PeerId, message: wire::Message) -> Option<chat::Input> {
        let id = message.id;
        let standing = self.standing(&peer);
        if standing == Standing::Blocked {
            return None;
        }
        let claimed = self
            .peers
            .get(&peer)
            .map_or_else(String::new, |s| s.claimed_name.clone());
        let stored = message.clone();
        let kept = self
            .store
            .run(move |db| {
                let now = now_millis();
                let transaction = db.transaction()?;
                if standing == Standing::Stranger {
                    store::contacts::note_stranger(&transaction, &peer, &claimed, now)?;
                    if store::messages::count_incoming(&transaction, &peer)? >= MAX_OF_STRANGER {
                        return Ok(None);
                    }
                }
                let news = store::messages::add_incoming(&transaction, &peer, &stored, now)?;
                let contact = store::contacts::find(&transaction, &peer)?;
                transaction.commit()?;
                Ok(Some((news, contact)))
            })
            .await;
        let (news, contact) = note(kept, "a message")??;
        if let Some(contact) = contact {
            self.contacts.insert(peer, contact);
        }
        if news {
            let from = self.view(&peer);
            let message = StoredMessage {
                peer,
                outgoing: false,
                id,
                text: message.text,
                sent_at_millis: i64::try_from(message.sent_at_millis).unwrap_or(i64::MAX),
                state: MessageState::New,
                reply_to: message.reply_to.map(|(_, id)| id),
            };
            self.faces.tell_all(&Event::Message { from, message });
        }
        Some(chat::Input::Stored(id))
    }

    fn tell_state(&mut self, peer: PeerId, ids: Vec<Uuid>, state: MessageState) {
        self.faces
            .tell_all(&Event::MessageState { peer, ids, state });
    }
}

/// What the store gave, or nothing and a line in the log.
pub(super) fn note<T>(result: Result<T, StoreError>, what: &str) -> Option<T> {
    result
        .inspect_err(|error| warn!(%error, "{what} cannot be stored or read"))
        .ok()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
