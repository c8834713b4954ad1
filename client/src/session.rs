//! What a command of the command line works with: the store, and a face of the engine, which is this
//! process's own or that of another command with the same data folder.

use std::io::{self, Write};
use std::time::Duration;

use p2p_net::{Fingerprint, PeerId, RelayAddress};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::command::{BookCommand, Command, Reply, Status};
use crate::contacts::{Contact, resolve};
use crate::engine::{Engine, EngineConfig};
use crate::event::{Event, RelayStep, RelayView};
use crate::face::{Caller, Face};
use crate::ipc::{self, Role, Server};
use crate::settings::Settings;
use crate::store::{self, Store, now_millis};
use crate::{Problem, book, face, identity, interrupt, prompt};

/// How long the login at the relay may take before a command that needs it gives up.
pub const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Session {
    /// What is kept.
    pub store: Store,
    /// Asks the engine.
    pub caller: Caller,
    /// What the engine tells.
    pub events: mpsc::Receiver<Event>,
    host: Option<Host>,
    /// Where the command line says that the peer is.
    place: Option<String>,
    /// To be remembered after the first login.
    new_relay: Option<Settings>,
}

/// The engine, if it is in this process.
struct Host {
    engine: Engine,
    server: Server,
}

impl Session {
    /// Becomes the engine of the data folder, or joins it.
    ///
    /// # Errors
    /// No relay is configured, its key is not known and nobody confirms it, or the folder cannot be used.
    pub async fn open(settings: &Settings) -> Result<Self, Problem> {
        unless_interrupted(Self::open_now(settings)).await
    }

    async fn open_now(settings: &Settings) -> Result<Self, Problem> {
        let store = Store::open(&settings.data_dir).await?;
        match ipc::claim(&settings.data_dir).await? {
            Role::Face(Face { caller, events }) => {
                let session = Self {
                    store,
                    caller,
                    events,
                    host: None,
                    place: place(settings),
                    new_relay: None,
                };
                session.warn_of_other_relay(settings).await?;
                Ok(session)
            }
            Role::First(seat) => {
                let (engine, face) = if settings.direct.is_some() {
                    start(settings, &store, None, false).await?
                } else {
                    let relay = settings.require_relay()?.clone();
                    start_engine(settings, &store, relay).await?
                };
                let server = seat.serve(engine.door())?;
                let Face { caller, events } = face;
                let host = Some(Host { engine, server });
                let new_relay = settings.relay_is_new.then(|| settings.clone());
                Ok(Self {
                    store,
                    caller,
                    events,
                    host,
                    place: place(settings),
                    new_relay,
                })
            }
        }
    }

    async fn warn_of_other_relay(&self, settings: &Settings) -> Result<(), Problem> {
        let Some(wanted) = &settings.relay else {
            return Ok(());
        };
        let status = self.status().await?;
        let used = status.relay.address.unwrap_or_default();
        if used.split('#').next() != wanted.redacted().split('#').next() {
            let _ = writeln!(
                io::stderr(),
                "note: the landline that runs with this data folder (process {}) uses the relay {used}",
                status.process
            );
        }
        Ok(())
    }

    /// Who we are, and where the login stands.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn status(&self) -> Result<Status, Problem> {
        match self.caller.call(Command::Status).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(face::gone()),
        }
    }

    /// Waits until we are logged in at the relay, or somebody was found who needs none, or we use none.
    ///
    /// # Errors
    /// The relay refuses, shows another key, or is not there in time.
    pub async fn wait_online(&mut self) -> Result<(), Problem> {
        unless_interrupted(async {
            match timeout(LOGIN_LIMIT, self.login()).await {
                Ok(result) => result,
                Err(_) => Err(relay_problem(&self.status().await?.relay)),
            }
        })
        .await?;
        self.remember_relay().await
    }

    async fn login(&mut self) -> Result<(), Problem> {
        let mut relay = self.status().await?.relay;
        if relay.state == RelayStep::Connecting && self.sees_somebody().await? {
            return Ok(());
        }
        loop {
            match relay.state {
                RelayStep::Online | RelayStep::None => return Ok(()),
                RelayStep::Failed => return Err(relay_problem(&relay)),
                RelayStep::Connecting => {}
            }
            match self.events.recv().await {
                Some(Event::Relay { relay: now }) => relay = now,
                // Without a login, those who are there are on this network.
                Some(Event::Peer { peer }) if peer.online => return Ok(()),
                Some(_) => {}
                None => return Err(face::gone()),
            }
        }
    }

    /// Whether anybody is there. Without a login, that is somebody on this network.
    async fn sees_somebody(&self) -> Result<bool, Problem> {
        match self.caller.call(Command::Peers).await? {
            Reply::Peers(peers) => Ok(peers.iter().any(|peer| peer.online)),
            _ => Err(face::gone()),
        }
    }

    /// A relay that was typed is remembered after the first login there.
    async fn remember_relay(&mut self) -> Result<(), Problem> {
        let Some(settings) = &self.new_relay else {
            return Ok(());
        };
        if self.status().await?.relay.state == RelayStep::Online {
            settings.remember_new_relay()?;
            self.new_relay = None;
        }
        Ok(())
    }

    /// Whom PEER means; where the command line says where that is, the engine hears it.
    ///
    /// # Errors
    /// Nobody, or several; or the place is none.
    pub async fn resolve(&self, text: &str) -> Result<PeerId, Problem> {
        let peer = resolve(text, &self.contacts().await?)?;
        if let Some(place) = &self.place {
            let addresses = match tokio::net::lookup_host(place.as_str()).await {
                Ok(addresses) => addresses.collect(),
                Err(error) => {
                    return Err(Problem::usage(format!("--direct={place}: {error}"))
                        .with_next("say HOST:PORT, as in --direct=192.168.1.20:4000"));
                }
            };
            self.caller
                .call(Command::Locate { peer, addresses })
                .await?;
        }
        Ok(peer)
    }

    /// The address book.
    ///
    /// # Errors
    /// The store fails.
    pub async fn contacts(&self) -> Result<Vec<Contact>, Problem> {
        Ok(self.store.run(|db| store::contacts::all(db)).await?)
    }

    /// Ends this command's face. If the engine is in this process, it stays while other commands use it;
    /// Ctrl-C ends that.
    pub async fn close(mut self) {
        if let Err(problem) = self.remember_relay().await {
            let _ = writeln!(io::stderr(), "note: {problem}");
        }
        let Self {
            caller,
            events,
            host,
            ..
        } = self;
        drop((caller, events));
        let Some(Host { engine, server }) = host else {
            return;
        };
        let mut faces = engine.faces();
        let interrupts = interrupt::count();
        let mut is_told = false;
        loop {
            // Our own face ends a moment after its halves were dropped.
            let alone = async { faces.wait_for(|count| *count == 0).await.is_ok() };
            let is_alone = timeout(Duration::from_millis(200), alone).await.is_ok();
            if !is_alone && !std::mem::replace(&mut is_told, true) {
                let _ = writeln!(
                    io::stderr(),
                    "staying while other landline commands use this one's line; Ctrl-C ends all of them"
                );
            }
            tokio::select! {
                _ = faces.wait_for(|count| *count == 0) => {}
                () = interrupt::interrupted_more_than(interrupts) => break,
            }
            // Somebody may be coming in just now.
            server.close_gate().await;
            if *faces.borrow() == 0 {
                break;
            }
            server.open_gate();
        }
        drop(server);
        engine.stop().await;
    }
}

/// `HOST:PORT` of `--direct`, if it has that.
fn place(settings: &Settings) -> Option<String> {
    settings.direct.clone().filter(|place| !place.is_empty())
}

/// Why the relay is not usable.
pub fn relay_problem(relay: &RelayView) -> Problem {
    relay.problem.clone().unwrap_or_else(|| {
        let address = relay.address.as_deref().unwrap_or("(none)");
        Problem::unreachable(format!("the relay at {address} does not answer"))
            .with_next("is the address right, does the relay run, does the network pass UDP?")
    })
}

/// The address book without any network: through the engine if one runs, so that it hears of the change.
///
/// # Errors
/// The change makes no sense, or the store fails.
pub async fn change_book(
    settings: &Settings,
    store: &Store,
    change: BookCommand,
) -> Result<Option<Contact>, Problem> {
    if let Some(face) = ipc::join_running(&settings.data_dir).await? {
        return match face.caller.call(Command::Book(change)).await? {
            Reply::Contact(contact) => Ok(contact),
            _ => Err(face::gone()),
        };
    }
    let own = identity::load_or_create(&settings.data_dir)?.id();
    if change.id() == Some(own) {
        return Err(Problem::usage("this is our own id"));
    }
    book::apply(store, change).await
}

/// Starts the engine. Where the relay's address names no key, the remembered one counts; without one, and
/// if no authority of the web vouches for the relay, the user is asked once.
async fn start_engine(
    settings: &Settings,
    store: &Store,
    mut relay: RelayAddress,
) -> Result<(Engine, Face), Problem> {
    let mut remembered = false;
    if relay.fingerprint.is_none() {
        let (host, port) = (relay.host.clone(), relay.port);
        relay.fingerprint = store
            .run(move |db| store::relays::fingerprint(db, &host, port))
            .await?;
        remembered = relay.fingerprint.is_some();
    }
    let needs_asking = relay.fingerprint.is_none();
    let (engine, face) = start(settings, store, Some(relay.clone()), remembered).await?;
    if !needs_asking {
        return Ok((engine, face));
    }
    let Some(key) = unknown_key(&engine).await? else {
        return Ok((engine, face));
    };
    drop(face);
    engine.stop().await;
    confirm(&relay, &key).await?;
    let (host, port) = (relay.host.clone(), relay.port);
    store
        .run(move |db| store::relays::confirm(db, &host, port, &key, now_millis()))
        .await?;
    relay.fingerprint = Some(key);
    start(settings, store, Some(relay), true).await
}

async fn start(
    settings: &Settings,
    store: &Store,
    relay: Option<RelayAddress>,
    relay_key_remembered: bool,
) -> Result<(Engine, Face), Problem> {
    let engine = Engine::start(EngineConfig {
        identity: identity::load_or_create(&settings.data_dir)?,
        relay,
        relay_key_remembered,
        port: settings.port,
        local: settings.local.clone(),
        name: settings.name.clone(),
        store: store.clone(),
    })
    .await?;
    let face = engine.attach().await?;
    Ok((engine, face))
}

/// Waits for the first login; gives the key if it failed because nobody vouches for it.
async fn unknown_key(engine: &Engine) -> Result<Option<Fingerprint>, Problem> {
    let Face { caller, mut events } = engine.attach().await?;
    let Reply::Status(status) = caller.call(Command::Status).await? else {
        return Err(face::gone());
    };
    let mut relay = status.relay;
    let waited = timeout(LOGIN_LIMIT, async {
        loop {
            if let Some(text) = &relay.unknown_key {
                return parse_key(text);
            }
            // Any other end of the attempt is for the command to tell.
            if relay.state != RelayStep::Connecting || relay.problem.is_some() {
                return None;
            }
            loop {
                match events.recv().await {
                    Some(Event::Relay { relay: now }) => break relay = now,
                    Some(_) => {}
                    None => return None,
                }
            }
        }
    });
    Ok(waited.await.unwrap_or(None))
}

fn parse_key(text: &str) -> Option<Fingerprint> {
    let bytes = data_encoding::BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .ok()?;
    bytes.try_into().ok().map(Fingerprint)
}

/// Asks the user whether the relay's key is the right one.
async fn confirm(relay: &RelayAddress, key: &Fingerprint) -> Result<(), Problem> {
    let place = relay.redacted();
    let question = format!(
        "The relay at {place} is new to you. It shows the key\n  {key}\n\
         Does the relay print the same one (the part after # of its address)?"
    );
    if prompt::ask(&question).await {
        return Ok(());
    }
    let what = format!("the key of the relay at {place} is not known: {key}");
    Err(Problem::unverified(what).with_next(format!(
        "compare it with what the relay prints, then pin it: landline relay set {place}#{key}, \
         with .TOKEN behind it if the relay wants one",
    )))
}

/// Runs `work` unless the user interrupts it.
async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    tokio::select! {
        done = work => done,
        () = interrupt::interrupted() => Err(Problem::failure("interrupted")),
    }
}
