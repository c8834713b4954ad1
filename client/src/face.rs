//! What a face holds of an engine, whether the engine runs in this process or in another: a [`Caller`] to
//! ask with and a stream of events to hear with.

use tokio::sync::{mpsc, oneshot};

use crate::Problem;
use crate::command::{Command, Reply};
use crate::event::Event;

/// Commands of one face that wait for the engine.
pub const MAX_REQUESTS: usize = 64;
/// Events that wait for one face; a face that lets more pile up is let go.
pub const MAX_EVENTS: usize = 1_024;

/// A command and where its answer goes.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Reply, Problem>>,
}

/// Asks an engine; clones belong to the same face, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Caller {
    requests: mpsc::Sender<Request>,
}

/// Both halves of a face.
#[derive(Debug)]
pub struct Face {
    /// To ask.
    pub caller: Caller,
    /// To hear; ends when the engine does.
    pub events: mpsc::Receiver<Event>,
}

/// The engine's half of a face.
#[derive(Debug)]
pub struct FaceBack {
    /// What the face asks; ends when the face does.
    pub requests: mpsc::Receiver<Request>,
    /// What the face hears.
    pub events: mpsc::Sender<Event>,
}

/// A face and its other half.
pub fn pair() -> (Face, FaceBack) {
    let (requests, requests_back) = mpsc::channel(MAX_REQUESTS);
    let (events_back, events) = mpsc::channel(MAX_EVENTS);
    let face = Face {
        caller: Caller { requests },
        events,
    };
    (
        face,
        FaceBack {
            requests: requests_back,
            events: events_back,
        },
    )
}

impl Caller {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the engine says, or that it is gone.
    pub async fn call(&self, command: Command) -> Result<Reply, Problem> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request { command, reply })
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// The engine ended while somebody waited for it.
pub fn gone() -> Problem {
    Problem::failure("landline's engine has stopped").with_next("run the command again")
}
