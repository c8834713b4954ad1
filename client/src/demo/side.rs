//! One of the demo's two people: a real engine with a data folder of its own, and a face on it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use p2p_net::{LocalNetwork, PathKind, PeerId};
use relay::Relay;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::STEP_LIMIT;
use crate::Problem;
use crate::command::{Command, Reply};
use crate::engine::{Engine, EngineConfig};
use crate::event::{Event, PeerView};
use crate::face::Caller;
use crate::identity;
use crate::store::Store;
use crate::store::transfers::{self, FileRecord, TransferRecord};

/// Files of one of the demo's transfers at most.
const MAX_FILES: u32 = 100;

/// See the module.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) id: PeerId,
    pub(super) began: Instant,
    home: PathBuf,
    store: Store,
    engine: Engine,
    caller: Caller,
    events: mpsc::Receiver<Event>,
}

impl Side {
    /// Makes an identity and starts logging in at `relay`.
    pub(super) async fn start(
        name: &'static str,
        folder: &Path,
        relay: &Relay,
    ) -> Result<Self, Problem> {
        let home = folder.join(name.to_lowercase());
        std::fs::create_dir_all(home.join("received"))
            .map_err(|error| Problem::io(format!("cannot make {}", home.display()), &error))?;
        let identity = identity::load_or_create(&home)?;
        let store = Store::open(&home).await?;
        let id = identity.id();
        let began = Instant::now();
        let engine = Engine::start(EngineConfig {
            identity,
            relay: Some(relay.address()),
            relay_key_remembered: false,
            port: 0,
            local: LocalNetwork::default(),
            name: name.to_owned(),
            store: store.clone(),
        })
        .await?;
        let face = engine.attach().await?;
        let (caller, events) = (face.caller, face.events);
        Ok(Self {
            name,
            id,
            began,
            home,
            store,
            engine,
            caller,
            events,
        })
    }

    /// The folder that is sent.
    pub(super) fn outbox(&self) -> PathBuf {
        self.home.join(format!("From {}", self.name))
    }

    /// Where received files go.
    pub(super) fn inbox(&self) -> PathBuf {
        self.home.join("received")
    }

    pub(super) async fn ask(&self, command: Command) -> Result<Reply, Problem> {
        match timeout(STEP_LIMIT, self.caller.call(command)).await {
            Ok(reply) => reply,
            Err(_) => Err(self.too_slow("an answer of the engine")),
        }
    }

    /// Waits for the event that `pick` knows; those before it are dropped.
    pub(super) async fn hear<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Event) -> Option<T>,
    ) -> Result<T, Problem> {
        let events = &mut self.events;
        let found = timeout(STEP_LIMIT, async {
            loop {
                let event = events.recv().await?;
                if let Some(found) = pick(event) {
                    return Some(found);
                }
            }
        });
        match found.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(crate::face::gone()),
            Err(_) => Err(self.too_slow(what)),
        }
    }

    /// Waits until `peer` is seen at the relay.
    pub(super) async fn until_online(&mut self, peer: PeerId) -> Result<PeerView, Problem> {
        self.until_peer("the other side at the relay", peer, |view| view.online)
            .await
    }

    /// Waits until packets for `peer` take a path of this kind.
    pub(super) async fn until_path(
        &mut self,
        peer: PeerId,
        kind: PathKind,
    ) -> Result<PeerView, Problem> {
        self.until_peer("the direct path", peer, |view| view.path == kind)
            .await
    }

    async fn until_peer(
        &mut self,
        what: &str,
        peer: PeerId,
        is_there: impl Fn(&PeerView) -> bool,
    ) -> Result<PeerView, Problem> {
        if let Reply::Peers(peers) = self.ask(Command::Peers).await?
            && let Some(view) = peers
                .into_iter()
                .find(|view| view.id == peer && is_there(view))
        {
            return Ok(view);
        }
        self.hear(what, |event| match event {
            Event::Peer { peer: view } if view.id == peer && is_there(&view) => Some(view),
            _ => None,
        })
        .await
    }

    /// The files of a transfer as the store has them.
    pub(super) async fn files_of(
        &self,
        record: &TransferRecord,
    ) -> Result<Vec<FileRecord>, Problem> {
        let number = record.number;
        let mut files = self
            .store
            .run(move |db| transfers::files(db, number, 0, MAX_FILES))
            .await?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(files)
    }

    pub(super) async fn stop(self) {
        drop((self.caller, self.events));
        self.engine.stop().await;
    }

    fn too_slow(&self, what: &str) -> Problem {
        Problem::failure(format!(
            "{} waited {} s for {what} in vain",
            self.name,
            STEP_LIMIT.as_secs()
        ))
        .with_next("run `landline -vv demo` and look at what it says")
    }
}
