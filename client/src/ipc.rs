//! One engine per data folder: a lock says who it is, a local socket lets other commands in as faces.
//!
//! The lock is the file system's and dies with its process, so a socket that a crash left behind is
//! recognized and replaced. Socket and folder are open to their owner alone. Frames: u32 BE length, then
//! JSON; the first one says which protocol is spoken.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use interprocess::local_socket::tokio::{Listener, Stream, prelude::*};
use interprocess::local_socket::{ConnectOptions, ListenerOptions, Name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::Problem;
use crate::command::{Command, Reply};
use crate::engine::Door;
use crate::event::Event;
use crate::face::{self, Face, FaceBack, MAX_REQUESTS, Request};

/// The protocol on the socket; engine and face must be of one version.
const PROTOCOL: &str = concat!("landline ", env!("CARGO_PKG_VERSION"), " 1");
/// A frame at most, bytes: a list of ten thousand peers fits.
const MAX_FRAME_LEN: usize = 16 << 20;
/// Faces of other processes at one time.
const MAX_FACES: usize = 32;
/// Frames that wait to be written to one face.
const MAX_FRAMES: usize = 64;
/// How long the other side may take to say which protocol it speaks.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long an engine that is just starting or ending is waited for.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at it.
const CLAIM_PAUSE: Duration = Duration::from_millis(50);
const LOCK_NAME: &str = "engine.lock";

/// What a command is, after it has looked at its data folder.
pub enum Role {
    /// The first one: it becomes the engine.
    First(Seat),
    /// Another process is the engine; this is a face of it.
    Face(Face),
}

/// The right to be the engine of a data folder; given back when dropped.
pub struct Seat {
    data_dir: PathBuf,
    _lock: File,
}

/// Serves faces of other processes until it is dropped.
pub struct Server {
    task: JoinHandle<()>,
    gate: Arc<Gate>,
    socket: Option<PathBuf>,
    _seat: Seat,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Whether faces may come in. One that is told yes is counted by the engine before anybody who closes the
/// gate goes on; one that is told no tries again.
struct Gate {
    state: watch::Sender<GateState>,
}

#[derive(Debug, Clone, Copy)]
struct GateState {
    is_open: bool,
    /// Faces that were told yes and are not counted yet.
    entering: usize,
}

impl Gate {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(GateState {
                is_open: true,
                entering: 0,
            }),
        }
    }

    /// Asks to come in; who gets a pass is waited for until it is dropped.
    fn pass(self: &Arc<Self>) -> Option<Pass> {
        let let_in = self.state.send_if_modified(|state| {
            state.entering += usize::from(state.is_open);
            state.is_open
        });
        let_in.then(|| Pass(Arc::clone(self)))
    }

    async fn close(&self) {
        self.state.send_modify(|state| state.is_open = false);
        let mut state = self.state.subscribe();
        // The sender is ours: this cannot fail.
        let _ = state.wait_for(|state| state.entering == 0).await;
    }

    fn open(&self) {
        self.state.send_modify(|state| state.is_open = true);
    }
}

struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.entering -= 1);
    }
}

impl Server {
    /// Lets nobody in any more; returns when all who were let in are faces of the engine.
    pub async fn close_gate(&self) {
        self.gate.close().await;
    }

    /// Lets faces in again.
    pub fn open_gate(&self) {
        self.gate.open();
    }
}

/// Takes the engine's seat, or joins whoever sits there.
///
/// # Errors
/// The folder cannot be used, or the process there does not answer.
pub async fn claim(data_dir: &Path) -> Result<Role, Problem> {
    let mut last = None;
    let claimed = timeout(CLAIM_LIMIT, async {
        loop {
            if let Some(seat) = try_seat(data_dir)? {
                return Ok(Role::First(seat));
            }
            match join(data_dir).await {
                Ok(face) => return Ok(Role::Face(face)),
                Err(JoinError::Absent(error)) => last = Some(error),
                Err(JoinError::Other(problem)) => return Err(problem),
            }
            // It holds the lock and does not listen yet, or no longer.
            sleep(CLAIM_PAUSE).await;
        }
    });
    claimed.await.unwrap_or_else(|_| {
        let why = last.map(|error| format!(": {error}")).unwrap_or_default();
        Err(Problem::failure(format!(
            "another landline uses the data folder {} and does not answer{why}",
            data_dir.display()
        ))
        .with_next("end it, or give this one a folder of its own with --data-dir"))
    })
}

/// Joins the engine of a data folder if one runs.
///
/// # Errors
/// It runs and cannot be joined.
pub async fn join_running(data_dir: &Path) -> Result<Option<Face>, Problem> {
    if try_seat(data_dir)?.is_some() {
        return Ok(None);
    }
    match claim(data_dir).await? {
        Role::First(_) => Ok(None),
        Role::Face(face) => Ok(Some(face)),
    }
}

fn try_seat(data_dir: &Path) -> Result<Option<Seat>, Problem> {
    let path = data_dir.join(LOCK_NAME);
    let explain = |error: &io::Error| Problem::io(format!("cannot use {}", path.display()), error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let lock = options.open(&path).map_err(|error| explain(&error))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Seat {
            data_dir: data_dir.to_owned(),
            _lock: lock,
        })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(explain(&error)),
    }
}

/// Where the socket of a data folder is: within it where the system's limit on such paths allows, else in
/// the folder of temporary files, named by the data folder; on Windows a pipe with that name.
struct Place {
    name: Name<'static>,
    /// The file to remove, where there is one.
    file: Option<PathBuf>,
    /// The folder to make first, for the owner alone.
    folder: Option<PathBuf>,
}

#[cfg(unix)]
fn place(data_dir: &Path) -> io::Result<Place> {
    use std::os::unix::ffi::OsStrExt;

    use interprocess::local_socket::{GenericFilePath, ToFsName};

    /// `sun_path` has 104 bytes on some systems and 108 on others, with a zero at the end.
    const MAX_PATH: usize = 100;

    let mut file = data_dir.join("engine.sock");
    let mut folder = None;
    if file.as_os_str().as_bytes().len() > MAX_PATH {
        let owner = rustix::process::geteuid().as_raw();
        let dir = std::env::temp_dir().join(format!("landline-{owner}"));
        file = dir.join(format!("{}.sock", digest(data_dir)));
        folder = Some(dir);
    }
    let name = file.clone().to_fs_name::<GenericFilePath>()?.into_owned();
    Ok(Place {
        name,
        file: Some(file),
        folder,
    })
}

#[cfg(not(unix))]
fn place(data_dir: &Path) -> io::Result<Place> {
    use interprocess::local_socket::{GenericNamespaced, ToNsName};

    let name = format!("landline-{}", digest(data_dir));
    Ok(Place {
        name: name.to_ns_name::<GenericNamespaced>()?,
        file: None,
        folder: None,
    })
}

/// A short name that two data folders do not share.
fn digest(data_dir: &Path) -> String {
    let path = data_dir
        .canonicalize()
        .unwrap_or_else(|_| data_dir.to_owned());
    blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..24].to_owned()
}

/// Makes a folder that nobody else can enter, or makes sure that it is one.
#[cfg(unix)]
fn private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let meta = std::fs::symlink_metadata(folder)?;
    let is_ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    if is_ours && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it belongs to others",
    ))
}

#[cfg(not(unix))]
fn private_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

impl Seat {
    /// Lets faces of other processes in.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve(self, door: Door) -> Result<Server, Problem> {
        let listener = self.listen();
        let (listener, socket) = listener
            .map_err(|error| Problem::io("cannot make the socket for other commands", &error))?;
        let gate = Arc::new(Gate::new());
        let task = tokio::spawn(take_faces(listener, door, Arc::clone(&gate)));
        Ok(Server {
            task,
            gate,
            socket,
            _seat: self,
        })
    }

    fn listen(&self) -> io::Result<(Listener, Option<PathBuf>)> {
        let place = place(&self.data_dir)?;
        if let Some(folder) = &place.folder {
            private_folder(folder)?;
        }
        if let Some(file) = &place.file {
            // We hold the lock: whoever left this socket is gone.
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let options = ListenerOptions::new().name(place.name);
        #[cfg(unix)]
        let options = {
            use interprocess::os::unix::local_socket::ListenerOptionsExt;
            options.mode(0o600)
        };
        Ok((options.create_tokio()?, place.file))
    }
}

/// What a face says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FromFace {
    Hello(String),
    Ask { id: u64, command: Command },
}

/// What an engine says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ToFace {
    Hello(String),
    Answer {
        id: u64,
        result: Result<Reply, Problem>,
    },
    Event(Event),
}

async fn write_frame<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    if body.len() > MAX_FRAME_LEN {
        return Err(io::Error::other("a frame for another command is too long"));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame).await?;
    to.flush().await
}

/// Not cancel safe: a frame that is half read is lost.
async fn read_frame<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut length = [0u8; 4];
    from.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MAX_FRAME_LEN {
        return Err(io::Error::other("a frame is too long"));
    }
    // Grows with what comes, not with what is claimed.
    let mut body = Vec::new();
    (&mut *from)
        .take(length as u64)
        .read_to_end(&mut body)
        .await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&body)?)
}

// The engine's side.

async fn take_faces(listener: Listener, door: Door, gate: Arc<Gate>) {
    let mut faces = JoinSet::new();
    loop {
        while faces.len() >= MAX_FACES {
            faces.join_next().await;
        }
        tokio::select! {
            stream = listener.accept() => match stream {
                Ok(stream) => {
                    faces.spawn(serve_face(stream, door.clone(), Arc::clone(&gate)));
                }
                Err(error) => {
                    debug!(%error, "a face could not come in");
                    sleep(CLAIM_PAUSE).await;
                }
            },
            Some(_) = faces.join_next() => {}
        }
    }
}

async fn serve_face(stream: Stream, door: Door, gate: Arc<Gate>) {
    let (mut recv, mut send) = (&stream, &stream);
    let hello = timeout(HELLO_LIMIT, read_frame::<FromFace>(&mut recv)).await;
    let Ok(Ok(FromFace::Hello(protocol))) = hello else {
        return;
    };
    let Some(pass) = gate.pass() else { return };
    let (face, back) = face::pair();
    if protocol == PROTOCOL && !door.enter(back).await {
        return;
    }
    drop(pass);
    // A face of another version is told ours, so that it can say what is wrong.
    let answer = ToFace::Hello(PROTOCOL.to_owned());
    let answered = timeout(HELLO_LIMIT, write_frame(&mut send, &answer)).await;
    if protocol != PROTOCOL || !matches!(answered, Ok(Ok(()))) {
        return;
    }
    let Face { caller, mut events } = face;
    let (outgoing, mut frames) = mpsc::channel::<ToFace>(MAX_FRAMES);
    let answers = outgoing.clone();
    let reading = async {
        let mut asked = JoinSet::new();
        while let Ok(FromFace::Ask { id, command }) = read_frame(&mut recv).await {
            while asked.len() >= MAX_REQUESTS {
                asked.join_next().await;
            }
            let (caller, answers) = (caller.clone(), answers.clone());
            asked.spawn(async move {
                let result = caller.call(command).await;
                let _ = answers.send(ToFace::Answer { id, result }).await;
            });
        }
    };
    let hearing = async {
        while let Some(event) = events.recv().await {
            if outgoing.send(ToFace::Event(event)).await.is_err() {
                break;
            }
        }
    };
    let writing = async {
        while let Some(frame) = frames.recv().await {
            if write_frame(&mut send, &frame).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = hearing => {}
        () = writing => {}
    }
}

// The face's side.

enum JoinError {
    /// Nobody listens.
    Absent(io::Error),
    Other(Problem),
}

async fn join(data_dir: &Path) -> Result<Face, JoinError> {
    let place = place(data_dir).map_err(JoinError::Absent)?;
    let stream = ConnectOptions::new().name(place.name).connect_tokio().await;
    let stream = stream.map_err(JoinError::Absent)?;
    let (mut recv, mut send) = (&stream, &stream);
    let greeting = async {
        write_frame(&mut send, &FromFace::Hello(PROTOCOL.to_owned())).await?;
        read_frame::<ToFace>(&mut recv).await
    };
    match timeout(HELLO_LIMIT, greeting).await {
        Ok(Ok(ToFace::Hello(protocol))) if protocol == PROTOCOL => {}
        Ok(Ok(_)) => {
            return Err(JoinError::Other(
                Problem::failure("a landline of another version runs with this data folder")
                    .with_next("end it first"),
            ));
        }
        Ok(Err(error)) => return Err(JoinError::Absent(error)),
        Err(_) => return Err(JoinError::Absent(io::ErrorKind::TimedOut.into())),
    }
    let (face, back) = face::pair();
    tokio::spawn(carry(stream, back));
    Ok(face)
}

/// Carries a face's requests to the engine, and answers and events back, until either side ends.
async fn carry(stream: Stream, back: FaceBack) {
    let (mut recv, mut send) = (&stream, &stream);
    let FaceBack {
        mut requests,
        events,
    } = back;
    let (asked, mut waiting) = mpsc::channel::<(u64, oneshot::Sender<_>)>(MAX_REQUESTS);
    let writing = async {
        let mut id = 0;
        while let Some(Request { command, reply }) = requests.recv().await {
            id += 1;
            // Known before it is asked, so that no answer comes first.
            if asked.send((id, reply)).await.is_err()
                || write_frame(&mut send, &FromFace::Ask { id, command })
                    .await
                    .is_err()
            {
                break;
            }
        }
    };
    let reading = async {
        let mut open: HashMap<u64, oneshot::Sender<Result<Reply, Problem>>> = HashMap::new();
        while let Ok(frame) = read_frame::<ToFace>(&mut recv).await {
            match frame {
                ToFace::Answer { id, result } => {
                    while let Ok((asked, reply)) = waiting.try_recv() {
                        open.insert(asked, reply);
                    }
                    if let Some(reply) = open.remove(&id) {
                        let _ = reply.send(result);
                    }
                }
                ToFace::Event(event) => {
                    if events.send(event).await.is_err() {
                        break;
                    }
                }
                ToFace::Hello(_) => {}
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_seat_is_free_again_when_it_is_dropped() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let Ok(Role::First(seat)) = claim(dir.path()).await else {
            panic!("the first")
        };
        assert!(try_seat(dir.path()).expect("usable").is_none());
        drop(seat);
        assert!(try_seat(dir.path()).expect("usable").is_some());
        assert!(join_running(dir.path()).await.expect("usable").is_none());
    }

    #[tokio::test]
    async fn a_gate_that_closes_waits_for_those_inside() {
        let gate = Arc::new(Gate::new());
        let pass = gate.pass().expect("open");
        let closing = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.close().await }
        });
        gate.state
            .subscribe()
            .wait_for(|state| !state.is_open)
            .await
            .expect("closes");
        assert!(gate.pass().is_none());
        assert!(!closing.is_finished());
        drop(pass);
        closing.await.expect("closed");
        gate.open();
        assert!(gate.pass().is_some());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn long_paths_get_a_private_place_elsewhere() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().expect("a temporary folder");
        let long = dir.path().join("x".repeat(120));
        std::fs::create_dir(&long).expect("made");
        let place = place(&long).expect("a place");
        let folder = place.folder.expect("elsewhere");
        assert!(!folder.starts_with(&long));
        private_folder(&folder).expect("made");
        let mode = std::fs::metadata(&folder)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0);
        let open = dir.path().join("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(private_folder(&open).is_err());
    }
}
