//! Two ends of a plain QUIC connection on loopback, and transfers between them.
#![expect(dead_code, reason = "each test program uses another part of this")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::transfer::{
    self, Cancel, Decision, LaneRouter, Link, Md5, Offer, Progress, SendOptions, TransferError,
    TransferReport,
};
use md5::Digest;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longer than anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A plain QUIC connection as a link.
#[derive(Clone)]
pub(crate) struct Plain(pub(crate) Connection);

impl Link for Plain {
    async fn open(&self) -> Result<(SendStream, RecvStream), String> {
        self.0.open_bi().await.map_err(|error| error.to_string())
    }

    async fn open_uni(&self) -> Result<SendStream, String> {
        self.0.open_uni().await.map_err(|error| error.to_string())
    }

    async fn closed(&self) -> String {
        self.0.closed().await.to_string()
    }
}

/// Two connected endpoints.
pub(crate) struct Pair {
    pub(crate) one: Plain,
    pub(crate) other: Plain,
    _endpoints: [Endpoint; 2],
}

impl Pair {
    pub(crate) async fn new() -> Self {
        Self::through(None, Duration::from_secs(30)).await
    }

    /// Connects, if so wished to an address that stands for the real one.
    pub(crate) async fn through(door: Option<Door>, idle: Duration) -> Self {
        let key =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
        let certificate = key.cert.der().clone();
        let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(Some(idle.try_into().expect("a short time")));
        let transport = Arc::new(transport);
        let mut server =
            quinn::ServerConfig::with_single_cert(vec![certificate.clone()], private.into())
                .expect("a server");
        server.transport_config(Arc::clone(&transport));
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listening = Endpoint::server(server, any).expect("a port");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let mut client =
            quinn::ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client");
        client.transport_config(transport);
        let calling = Endpoint::client(any).expect("a port");
        let target = listening.local_addr().expect("bound");
        let target = match door {
            Some(door) => door.open_to(target).await,
            None => target,
        };
        let connecting = calling
            .connect_with(client, target, "localhost")
            .expect("a call");
        let accepting = async {
            listening
                .accept()
                .await
                .expect("a call")
                .await
                .expect("accepted")
        };
        let (one, other) = tokio::join!(connecting, accepting);
        Self {
            one: Plain(one.expect("connected")),
            other: Plain(other),
            _endpoints: [calling, listening],
        }
    }
}

/// Carries packets between two endpoints until it is shut.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<std::sync::atomic::AtomicBool>);

impl Door {
    pub(crate) fn shut(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    async fn open_to(&self, target: SocketAddr) -> SocketAddr {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = tokio::net::UdpSocket::bind(any).await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let shut = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut packet = vec![0; 65_536];
            let mut caller = None;
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if shut.load(std::sync::atomic::Ordering::Relaxed) {
                    continue;
                }
                let to = if from == target { caller } else { Some(target) };
                if from != target {
                    caller = Some(from);
                }
                if let Some(to) = to {
                    let _ = socket.send_to(&packet[..length], to).await;
                }
            }
        });
        address
    }
}

/// What an engine does with the streams of one connection: hands lanes to the router, and yields the
/// control stream of the next transfer.
pub(crate) struct Dispatcher {
    pub(crate) router: LaneRouter,
    connection: Connection,
    lanes: JoinHandle<()>,
}

impl Dispatcher {
    pub(crate) fn new(link: &Plain) -> Self {
        let (router, connection) = (LaneRouter::new(), link.0.clone());
        let (to, from) = (router.clone(), connection.clone());
        let lanes = tokio::spawn(async move {
            while let Ok(mut lane) = from.accept_uni().await {
                let mut kind = [0];
                if lane.read_exact(&mut kind).await.is_ok() && kind == [3] {
                    to.route(lane);
                }
            }
        });
        Self {
            router,
            connection,
            lanes,
        }
    }

    pub(crate) async fn next(&self) -> (SendStream, RecvStream) {
        let (send, mut recv) = self.connection.accept_bi().await.expect("a stream");
        let mut kind = [0];
        recv.read_exact(&mut kind).await.expect("a kind");
        assert_eq!(kind, [2]);
        (send, recv)
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.lanes.abort();
    }
}

pub(crate) type Outcome = Result<TransferReport, TransferError>;

/// A running end of a transfer.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<Outcome>,
    pub(crate) events: mpsc::Receiver<Progress>,
    pub(crate) cancel: Cancel,
}

impl Running {
    /// Waits for an event, dropping those before it.
    pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&Progress) -> bool) -> Progress {
        let find = async {
            loop {
                let event = self.events.recv().await.expect("the event before the end");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, find).await.expect("in time")
    }

    /// The end, and the events until then.
    pub(crate) async fn end(mut self) -> (Outcome, Vec<Progress>) {
        let wait = async {
            let mut events = Vec::new();
            while let Some(event) = self.events.recv().await {
                events.push(event);
            }
            (self.task.await.expect("no panic"), events)
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("in time")
    }
}

pub(crate) fn start_send(link: &Plain, paths: Vec<PathBuf>, options: SendOptions) -> Running {
    let (told, events) = mpsc::channel(1_024);
    let (cancel, link) = (Cancel::new(), link.clone());
    let thrown = cancel.clone();
    let task =
        tokio::spawn(async move { transfer::send(&link, paths, options, told, thrown).await });
    Running {
        task,
        events,
        cancel,
    }
}

/// `room`: events that fit before somebody reads them.
pub(crate) fn start_receive(link: &Plain, decision: Decision, room: usize) -> Running {
    let (told, events) = mpsc::channel(room);
    let (cancel, dispatcher) = (Cancel::new(), Dispatcher::new(link));
    let thrown = cancel.clone();
    let task = tokio::spawn(async move {
        let (send, recv) = dispatcher.next().await;
        let decide = async move |_offer: &Offer| decision;
        transfer::receive(send, recv, &dispatcher.router, decide, told, thrown).await
    });
    Running {
        task,
        events,
        cancel,
    }
}

pub(crate) fn accept(into: &Path, overwrite: bool) -> Decision {
    Decision::Accept {
        into: into.to_owned(),
        overwrite,
    }
}

/// A whole transfer between two ends that do as they should.
pub(crate) async fn transfer(
    paths: Vec<PathBuf>,
    into: &Path,
    overwrite: bool,
) -> (Outcome, Outcome) {
    let pair = Pair::new().await;
    let receiving = start_receive(&pair.other, accept(into, overwrite), 1_024);
    let sending = start_send(&pair.one, paths, SendOptions::default());
    let ((sent, _), (received, _)) = tokio::join!(sending.end(), receiving.end());
    (sent, received)
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    (0..size)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// A file of zeros that takes no room.
pub(crate) fn write_sparse(path: &Path, size: u64) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::File::create(path)
        .and_then(|file| file.set_len(size))
        .expect("made");
}

pub(crate) fn md5_of(bytes: &[u8]) -> Md5 {
    Md5::from_bytes(md5::Md5::digest(bytes).into())
}

/// Everything below a folder: relative paths, folders with a slash behind, files with their content.
pub(crate) fn tree(root: &Path) -> Vec<(String, Vec<u8>)> {
    fn visit(root: &Path, at: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .strip_prefix(root)
                .expect("below")
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && !path.is_symlink() {
                found.push((name + "/", Vec::new()));
                visit(root, &path, found);
            } else {
                found.push((name, fs::read(&path).unwrap_or_default()));
            }
        }
    }
    let mut found = Vec::new();
    visit(root, root, &mut found);
    found.sort();
    found
}

pub(crate) fn names(root: &Path) -> Vec<String> {
    tree(root).into_iter().map(|(name, _)| name).collect()
}
