//! The engine: one task that owns the endpoint, the store and the connections of one identity. Commands of
//! its faces come in, events go out. All state is changed by this one task; everything that waits (dialling,
//! connections, transfers) runs in tasks of its own and reports back through one bounded queue.

mod actor;
mod calls;
mod carrier;
mod commands;
mod diagnosis;
mod faces;
mod in_call;
mod link;
mod media;
mod offers;
mod peers;
mod ring;
mod transfers;
mod views;

use std::time::Duration;

use p2p_net::{
    Config, ConnectError, Connection, Endpoint, Identity, LocalNetwork, PeerId, RelayAddress,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::Problem;
use crate::event::TransferStep;
use crate::face::{self, Face, FaceBack};
use crate::store::Store;
use crate::transfer;

use actor::Actor;
pub(crate) use calls::in_words as call_in_words;

/// Reports that wait for the engine's task; whoever reports then waits.
const MAX_INPUTS: usize = 1_024;
/// How long running transfers may take to say goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_secs(3);

/// What an engine is made of.
pub struct EngineConfig {
    /// Who we are.
    pub identity: Identity,
    /// The relay, its key pinned where it is known.
    pub relay: Option<RelayAddress>,
    /// Whether that key was remembered, rather than part of the address: errors say so.
    pub relay_key_remembered: bool,
    /// The UDP port to use; 0 is any free one.
    pub port: u16,
    /// What may be done in the network around us.
    pub local: LocalNetwork,
    /// The name that we claim.
    pub name: String,
    /// Where everything is kept.
    pub store: Store,
}

/// A running engine; dropping it stops it without goodbye.
pub struct Engine {
    inputs: mpsc::Sender<Input>,
    faces: watch::Receiver<usize>,
    endpoint: Endpoint,
    task: JoinHandle<()>,
}

/// All that reaches the engine's task.
enum Input {
    /// A face comes, and is told when it is counted.
    Attach {
        back: FaceBack,
        counted: oneshot::Sender<()>,
    },
    /// A face asks.
    Request { face: u64, request: face::Request },
    /// A face went.
    Detach { face: u64 },
    /// We tried to connect to a peer.
    Dialled {
        peer: PeerId,
        result: Result<Connection, ConnectError>,
    },
    /// A connection that the peer made at the same time did not turn up.
    DialExpired { peer: PeerId, attempt: u64 },
    /// Something came over a connection.
    Link {
        peer: PeerId,
        number: u64,
        what: link::LinkEvent,
    },
    /// A transfer of a peer asks whether to take it.
    Offered {
        task: u64,
        peer: PeerId,
        offer: transfer::Offer,
        decide: oneshot::Sender<transfers::Verdict>,
    },
    /// A transfer got further.
    Transfer {
        number: i64,
        peer: PeerId,
        outgoing: bool,
        step: TransferStep,
    },
    /// The task of a transfer ended.
    TransferTask { task: u64 },
    /// The media of a call tell something.
    Media { number: i64, news: media::News },
    /// The store failed to say what waits for a peer: ask again.
    Refill { peer: PeerId },
    /// Ends the engine's task, after goodbye to transfers.
    Stop,
}

impl Engine {
    /// Opens the network and starts. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// No port can be had, or the store fails.
    pub async fn start(config: EngineConfig) -> Result<Self, Problem> {
        let network = Config {
            identity: config.identity,
            relay: config.relay.clone(),
            port: config.port,
            sockets: None,
        };
        let endpoint = Endpoint::bind_with(network, config.local)
            .map_err(|error| Problem::failure(error_chain(&error)))?;
        let (inputs, inbox) = mpsc::channel(MAX_INPUTS);
        let (face_count, faces) = watch::channel(0);
        let mut actor = Actor::new(
            endpoint.clone(),
            config.store,
            config.name,
            views::RelayFacts {
                address: config.relay,
                key_remembered: config.relay_key_remembered,
            },
            inputs.clone(),
            face_count,
        );
        actor.load().await?;
        let task = tokio::spawn(actor.run(inbox));
        Ok(Self {
            inputs,
            faces,
            endpoint,
            task,
        })
    }

    /// A new face in this process.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn attach(&self) -> Result<Face, Problem> {
        let (face, back) = face::pair();
        if self.door().enter(back).await {
            Ok(face)
        } else {
            Err(face::gone())
        }
    }

    /// Takes faces of other processes in.
    pub fn door(&self) -> Door {
        Door {
            inputs: self.inputs.clone(),
        }
    }

    /// How many faces there are, and each change of it.
    pub fn faces(&self) -> watch::Receiver<usize> {
        self.faces.clone()
    }

    /// Ends running transfers with a word to the other side, closes all connections, and stops.
    pub async fn stop(mut self) {
        let _ = self.inputs.send(Input::Stop).await;
        let _ = timeout(GOODBYE_LIMIT, &mut self.task).await;
        self.task.abort();
        self.endpoint.close().await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where faces of other processes come in.
#[derive(Clone)]
pub struct Door {
    inputs: mpsc::Sender<Input>,
}

impl Door {
    /// Takes a face in, which is then one of [`Engine::faces`]; gives whether the engine is there.
    pub async fn enter(&self, back: FaceBack) -> bool {
        let (counted, told) = oneshot::channel();
        self.inputs
            .send(Input::Attach { back, counted })
            .await
            .is_ok()
            && told.await.is_ok()
    }
}

/// An error and its causes in one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A fresh message id, of version 7: ids sort by time.
fn new_message_id() -> Uuid {
    Uuid::now_v7()
}
