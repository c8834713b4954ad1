//! One control connection, here over QUIC: handshake, hello, then a reader and a writer with a bounded
//! queue between what the relay has to say and what the client takes. `tcp.rs` has the other kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2p_net_proto::codec::{CodecError, FrameDecoder};
use p2p_net_proto::wire::{FromRelay, Hello, Refused, ToRelay, reason};
use p2p_net_proto::{
    CHANNEL_KEY_LABEL, ChannelId, Direction, HeaderKey, PeerId, channel_key_context, tls,
};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc};
use tracing::debug;

use crate::admission::{Bucket, Rate, refused};
use crate::forward::Route;
use crate::registry::{Link, LoginId};
use crate::server::{Shared, now};
use crate::tcp::Carrier;

/// How long a handshake may take.
pub(crate) const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long the hello may take after the handshake.
pub(crate) const HELLO_WAIT: Duration = Duration::from_secs(5);
/// How long a last message may take to arrive.
pub(crate) const FAREWELL_WAIT: Duration = Duration::from_secs(2);
/// Bytes taken from the stream at one time.
const READ_LEN: usize = 16 * 1_024;
/// Messages that wait for one client at most.
const MAX_QUEUED: usize = 1_024;
/// Their bytes at most, beyond a snapshot of everybody.
const MAX_QUEUED_BYTES: usize = 256 * 1_024;
/// Bytes of presence for each peer that the relay takes.
const PRESENCE_BYTES: usize = 36;
/// Messages that a client may send; beyond that its stream is read more slowly.
const MESSAGES: Rate = Rate {
    per_second: 200.0,
    burst: 1_000.0,
};

/// Something for the writer.
pub(crate) enum Item {
    Frame(Bytes),
    /// The last frame and the code with which the connection is then closed.
    Last(Bytes, u16),
}

/// What carries a login.
pub(crate) enum Wire {
    /// QUIC, by the UDP port with this index.
    Quic(Connection, usize),
    /// A WebSocket.
    Tcp(Arc<Carrier>),
}

/// The connection of one login, as the relay holds it.
pub(crate) struct Handle {
    wire: Wire,
    queue: mpsc::Sender<Item>,
    queued: AtomicUsize,
    most: usize,
    /// Told when the last message is queued: nothing is read any more.
    ending: Notify,
}

impl Handle {
    /// Queues a message; false if the client does not keep up, which ends its connection.
    pub(crate) fn send(&self, frame: Bytes) -> bool {
        self.push(frame, Item::Frame)
    }

    /// Queues the last message.
    pub(crate) fn send_last(&self, frame: Bytes, code: u16) {
        if !self.push(frame, |frame| Item::Last(frame, code)) {
            self.close(code);
        }
        self.ending.notify_one();
    }

    fn push(&self, frame: Bytes, item: impl FnOnce(Bytes) -> Item) -> bool {
        let length = frame.len();
        let fits = self.queued.fetch_add(length, Ordering::Relaxed) + length <= self.most;
        if fits && self.queue.try_send(item(frame)).is_ok() {
            return true;
        }
        self.queued.fetch_sub(length, Ordering::Relaxed);
        false
    }

    /// Ends the connection at once.
    pub(crate) fn close(&self, code: u16) {
        match &self.wire {
            Wire::Quic(connection, _) => connection.close(VarInt::from(u32::from(code)), b""),
            Wire::Tcp(carrier) => carrier.close(),
        }
    }

    /// Completes when the last message is queued.
    pub(crate) async fn ended(&self) {
        self.ending.notified().await;
    }

    /// A message of this length has left the queue.
    pub(crate) fn written(&self, length: usize) {
        self.queued.fetch_sub(length, Ordering::Relaxed);
    }

    /// How the client is reached now.
    pub(crate) fn route(&self) -> Route {
        match &self.wire {
            Wire::Quic(connection, socket) => Route {
                socket: *socket,
                address: connection.remote_address(),
                source: connection.local_ip(),
            },
            Wire::Tcp(carrier) => carrier.route(),
        }
    }
}

impl Link for Handle {
    fn header_key(&self, channel: ChannelId, direction: Direction) -> Option<HeaderKey> {
        let connection = match &self.wire {
            Wire::Quic(connection, _) => connection,
            Wire::Tcp(carrier) => return carrier.header_key(channel, direction),
        };
        let mut key = [0; 16];
        let context = channel_key_context(channel, direction);
        connection
            .export_keying_material(&mut key, CHANNEL_KEY_LABEL, &context)
            .ok()?;
        Some(HeaderKey::new(key))
    }

    fn is_congested(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > self.most / 2
            || self.queue.capacity() < MAX_QUEUED / 2
    }
}

/// Holds up a client that sends more messages than it may.
pub(crate) struct Pace(Bucket);

impl Pace {
    pub(crate) fn start() -> Self {
        Self(Bucket::full(now(), MESSAGES))
    }

    /// Completes when the next message may be looked at.
    pub(crate) async fn wait(&mut self) {
        while !self.0.take(now(), MESSAGES, 1.0) {
            tokio::time::sleep(self.0.wait(now(), MESSAGES, 1.0)).await;
        }
    }
}

/// Serves one connection to its end. With `courtesy` the peer is told that there were too many
/// connections, and when to come again.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    socket: usize,
    incoming: quinn::Incoming,
    courtesy: Option<u32>,
    guard: crate::server::Counted,
) {
    let Ok(connecting) = incoming.accept() else {
        return;
    };
    let connection = match tokio::time::timeout(HANDSHAKE_WAIT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(%error, "handshake failed");
            return;
        }
        Err(_) => return,
    };
    guard.shaken();
    let Some(peer) = identity(&connection) else {
        connection.close(VarInt::from(u32::from(reason::PROTOCOL)), b"no identity");
        return;
    };
    let greeting = tokio::time::timeout(HELLO_WAIT, hello(&connection)).await;
    let Ok(Ok(greeting)) = greeting else {
        connection.close(VarInt::from(u32::from(reason::PROTOCOL)), b"no hello");
        return;
    };
    let Greeting {
        hello,
        mut send,
        recv,
        decoder,
    } = greeting;
    let login = if let Some(retry_after) = courtesy {
        shared.core().count_refused();
        let message =
            format!("too many connections from your network; try again in {retry_after} s");
        Err(refused(reason::LIMITED, message, retry_after))
    } else {
        let wire = Wire::Quic(connection.clone(), socket);
        login(&shared, wire, peer, hello)
    };
    match login {
        Ok((id, handle, queue)) => {
            debug!(peer = %peer.short(), id = id.0, "logged in");
            talk(
                &shared,
                id,
                &handle,
                queue,
                send,
                Incoming { recv, decoder },
            )
            .await;
            shared.lost(id);
            debug!(peer = %peer.short(), id = id.0, "gone");
        }
        Err(refusal) => {
            debug!(peer = %peer.short(), code = refusal.code, "login refused");
            let code = refusal.code;
            if let Ok(frame) = FromRelay::from(refusal).encode() {
                drop(tokio::time::timeout(FAREWELL_WAIT, farewell(&mut send, &frame)).await);
            }
            connection.close(VarInt::from(u32::from(code)), b"refused");
        }
    }
}

/// The peer that TLS has authenticated.
fn identity(connection: &Connection) -> Option<PeerId> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    tls::peer_of_certificate(identity.first()?)
}

struct Greeting {
    hello: Hello,
    send: SendStream,
    recv: RecvStream,
    decoder: FrameDecoder,
}

async fn hello(connection: &Connection) -> Result<Greeting, ()> {
    let (send, mut recv) = connection.accept_bi().await.map_err(drop)?;
    let mut decoder = FrameDecoder::default();
    loop {
        while let Some(frame) = decoder.next_frame().map_err(drop)? {
            match ToRelay::decode(&frame).map_err(drop)? {
                Some(ToRelay::Hello(hello)) => {
                    return Ok(Greeting {
                        hello,
                        send,
                        recv,
                        decoder,
                    });
                }
                Some(_) => return Err(()),
                None => {}
            }
        }
        let chunk = recv
            .read_chunk(READ_LEN, true)
            .await
            .map_err(drop)?
            .ok_or(())?;
        decoder.push(&chunk.bytes);
    }
}

/// Asks for a login; with it come the handle that others send by, and what they send.
pub(crate) fn login(
    shared: &Arc<Shared>,
    wire: Wire,
    peer: PeerId,
    hello: Hello,
) -> Result<(LoginId, Arc<Handle>, mpsc::Receiver<Item>), Refused> {
    let (queue, receiver) = mpsc::channel(MAX_QUEUED);
    let handle = Arc::new(Handle {
        wire,
        queue,
        queued: AtomicUsize::new(0),
        ending: Notify::new(),
        most: MAX_QUEUED_BYTES + shared.limits.peers.saturating_mul(PRESENCE_BYTES),
    });
    let id = shared.login(peer, handle.clone(), hello)?;
    Ok((id, handle, receiver))
}

/// The receiving half of the control stream.
struct Incoming {
    recv: RecvStream,
    decoder: FrameDecoder,
}

/// Reads and writes until either side has had enough.
async fn talk(
    shared: &Arc<Shared>,
    id: LoginId,
    handle: &Arc<Handle>,
    queue: mpsc::Receiver<Item>,
    send: SendStream,
    incoming: Incoming,
) {
    let write = write(handle, queue, send);
    tokio::pin!(write);
    let ended = tokio::select! {
        result = read(shared, id, handle, incoming) => {
            result.inspect_err(|error| shared.expel(id, &error.to_string())).is_err()
        }
        () = handle.ended() => true,
        () = &mut write => false,
    };
    if ended && tokio::time::timeout(FAREWELL_WAIT, write).await.is_err() {
        debug!("the client does not take its last messages");
    }
    handle.close(0);
}

/// Reads messages until the stream ends, or breaks the rules.
async fn read(
    shared: &Arc<Shared>,
    id: LoginId,
    handle: &Handle,
    Incoming {
        mut recv,
        mut decoder,
    }: Incoming,
) -> Result<(), CodecError> {
    let mut pace = Pace::start();
    loop {
        while let Some(frame) = decoder.next_frame()? {
            pace.wait().await;
            if let Some(message) = ToRelay::decode(&frame)? {
                shared.message(id, handle.route(), message);
            }
        }
        let Ok(Some(chunk)) = recv.read_chunk(READ_LEN, true).await else {
            return Ok(());
        };
        decoder.push(&chunk.bytes);
    }
}

async fn write(handle: &Handle, mut queue: mpsc::Receiver<Item>, mut send: SendStream) {
    while let Some(item) = queue.recv().await {
        match item {
            Item::Frame(frame) => {
                if send.write_all(&frame).await.is_err() {
                    return;
                }
                handle.written(frame.len());
            }
            Item::Last(frame, code) => {
                farewell(&mut send, &frame).await;
                handle.close(code);
                return;
            }
        }
    }
}

/// Sends a last frame and waits until it has arrived; the caller bounds the time.
async fn farewell(send: &mut SendStream, frame: &[u8]) {
    if send.write_all(frame).await.is_ok() && send.finish().is_ok() {
        // Whether it was read or the peer has left already comes to the same.
        drop(send.stopped().await);
    }
}
