//! The relay over TCP, where UDP is blocked: TLS, a WebSocket in it, and in its messages the control frames
//! and relayed packets that UDP would carry (`wire.md` §1, §4). The relay proves its key in the TLS handshake
//! as it does in QUIC's; no other authority is asked. One task reads, one writes, and what waits to be
//! written is bounded: quinn waits with the rest.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use p2p_net_proto::carriage::{self, Carried, Queue};
use p2p_net_proto::codec::Frame;
use p2p_net_proto::wire::ToRelay;
use p2p_net_proto::{
    CHANNEL_KEY_LABEL, ChannelId, Direction, HeaderKey, RelayAddress, channel_key_context,
};
use quinn::rustls::ClientConfig;
use quinn::rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tracing::{debug, warn};

use crate::socket::MagicSocket;

/// Relayed packets that wait to be written, bytes: 50 ms at 20 Mbit/s. quinn keeps the rest, where sound
/// and pictures that grew old are dropped.
const QUEUE_BYTES: usize = 128 * 1_024;
/// A connection that takes nothing for this long no longer holds up quinn, which has other paths to serve:
/// from then on the oldest packets are dropped.
const STALL: Duration = Duration::from_millis(500);
/// Packets written at one time: few enough that a slow uplink is not taken for a stalled one.
const BATCH: usize = 16;
/// Control frames that wait to be read at most.
const FRAMES: usize = 64;
/// What the WebSocket layer reads at one time and collects before it writes, bytes.
const BUFFER: usize = 32 * 1_024;
/// What it may hold beyond that while the socket is full: the largest message and a batch.
const BUFFER_MOST: usize = 256 * 1_024;

type Socket = WebSocketStream<SharedTls>;

/// The TLS connection, for the tasks that read and write it and for whoever needs keys of it. The lock is
/// held for one poll or one export.
struct SharedTls(Arc<Mutex<TlsStream<TcpStream>>>);

impl SharedTls {
    fn lock(&self) -> MutexGuard<'_, TlsStream<TcpStream>> {
        lock(&self.0)
    }
}

impl AsyncRead for SharedTls {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SharedTls {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection as sockets and channels see it: a place to send relayed packets to.
pub(crate) struct Tunnel {
    tls: Arc<Mutex<TlsStream<TcpStream>>>,
    outgoing: Mutex<Outgoing>,
    filled: Notify,
    /// Set when a send would have had to wait; cleared when half of the room is free.
    full: AtomicBool,
}

struct Outgoing {
    queue: Queue,
    /// Who waits for room: quinn's connections, one waker each.
    wakers: Vec<Waker>,
    stalled: bool,
    closed: bool,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    fn new(tls: Arc<Mutex<TlsStream<TcpStream>>>) -> Self {
        Self {
            tls,
            outgoing: Mutex::new(Outgoing {
                queue: Queue::new(QUEUE_BYTES),
                wakers: Vec::new(),
                stalled: false,
                closed: false,
            }),
            filled: Notify::new(),
            full: AtomicBool::new(false),
        }
    }

    /// The key of one direction of a channel.
    pub(super) fn header_key(&self, channel: ChannelId, direction: Direction) -> Option<HeaderKey> {
        let context = channel_key_context(channel, direction);
        let tls = lock(&self.tls);
        let (_, connection) = tls.get_ref();
        let key = connection.export_keying_material([0; 16], CHANNEL_KEY_LABEL, Some(&context));
        key.ok().map(HeaderKey::new)
    }

    /// Queues packets of `segment` bytes, or one.
    ///
    /// # Errors
    /// Where there is no room now; [`Tunnel::poll_writable`] tells when there is.
    pub(crate) fn send(&self, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let mut outgoing = lock(&self.outgoing);
        let waits = outgoing.queue.is_full_for(contents.len()) && !outgoing.queue.is_empty();
        if waits && !outgoing.stalled && !outgoing.closed {
            self.full.store(true, Ordering::Release);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for packet in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
            outgoing.queue.push(Bytes::copy_from_slice(packet));
        }
        drop(outgoing);
        self.filled.notify_one();
        Ok(())
    }

    /// Ready while [`Tunnel::send`] takes something.
    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.full.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut outgoing = lock(&self.outgoing);
        if !self.full.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if outgoing
            .wakers
            .iter()
            .all(|waker| !waker.will_wake(cx.waker()))
        {
            outgoing.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn pop(&self) -> Option<Bytes> {
        let mut outgoing = lock(&self.outgoing);
        let packet = outgoing.queue.pop();
        if outgoing.queue.is_low() {
            self.release(outgoing);
        }
        packet
    }

    /// Whoever waits for room may go on.
    fn release(&self, mut outgoing: MutexGuard<'_, Outgoing>) {
        if self.full.swap(false, Ordering::AcqRel) {
            let wakers = std::mem::take(&mut outgoing.wakers);
            drop(outgoing);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn set_stalled(&self, stalled: bool) {
        let mut outgoing = lock(&self.outgoing);
        outgoing.stalled = stalled;
        if stalled {
            self.release(outgoing);
        }
    }

    fn close(&self) {
        let mut outgoing = lock(&self.outgoing);
        outgoing.closed = true;
        self.release(outgoing);
    }

    /// `writing`, while everybody learns if it takes long.
    async fn watched<T>(&self, writing: impl Future<Output = T>) -> T {
        let mut writing = pin!(writing);
        match timeout(STALL, writing.as_mut()).await {
            Ok(result) => result,
            Err(_) => {
                self.set_stalled(true);
                let result = writing.await;
                self.set_stalled(false);
                result
            }
        }
    }
}

/// A WebSocket to a relay that has proven its key.
pub(super) struct Opened {
    pub(super) tunnel: Arc<Tunnel>,
    /// The relay's address, or the proxy's.
    pub(super) remote: SocketAddr,
    socket: Socket,
}

/// TLS and WebSocket over a TCP connection to the relay.
///
/// # Errors
/// Those of TLS, where the relay has another key than expected, and others where it is no relay.
pub(super) async fn open(
    stream: TcpStream,
    relay: &RelayAddress,
    config: Arc<ClientConfig>,
) -> io::Result<Opened> {
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr()?;
    let name = ServerName::try_from(relay.host.clone()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(config).connect(name, stream).await?;
    let tls = Arc::new(Mutex::new(tls));
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(BUFFER_MOST)
        .max_message_size(Some(carriage::MAX_MESSAGE))
        .max_frame_size(Some(carriage::MAX_MESSAGE));
    let host = if relay.host.contains(':') {
        format!("[{}]", relay.host)
    } else {
        relay.host.clone()
    };
    let mut request = format!("wss://{host}:{}{}", relay.port, carriage::PATH)
        .into_client_request()
        .map_err(io::Error::other)?;
    let protocol = HeaderValue::from_static(carriage::SUBPROTOCOL);
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    let shared = SharedTls(tls.clone());
    let (socket, _) = client_async_with_config(request, shared, Some(config))
        .await
        .map_err(io::Error::other)?;
    Ok(Opened {
        tunnel: Arc::new(Tunnel::new(tls)),
        remote,
        socket,
    })
}

/// Control frames that came; the text says why there will be no more.
pub(super) type Frames = mpsc::Receiver<Result<Frame, String>>;

/// The tasks of a connection: they end it when they are dropped.
pub(super) struct Tasks {
    tunnel: Arc<Tunnel>,
    socket: Arc<MagicSocket>,
    _tasks: JoinSet<()>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.socket.clear_tunnel(&self.tunnel);
        self.tunnel.close();
    }
}

impl Opened {
    /// Starts reading and writing: relayed packets go to `socket`, messages come from `outbox`.
    pub(super) fn start(
        self,
        socket: Arc<MagicSocket>,
        outbox: mpsc::Receiver<ToRelay>,
    ) -> (Frames, Tasks) {
        let (sink, stream) = self.socket.split();
        let (sender, frames) = mpsc::channel(FRAMES);
        let mut tasks = JoinSet::new();
        tasks.spawn(read(stream, socket.clone(), sender));
        tasks.spawn(write(sink, self.tunnel.clone(), outbox));
        socket.set_tunnel(&self.tunnel);
        let tasks = Tasks {
            tunnel: self.tunnel,
            socket,
            _tasks: tasks,
        };
        (frames, tasks)
    }
}

async fn read(
    mut stream: SplitStream<Socket>,
    socket: Arc<MagicSocket>,
    frames: mpsc::Sender<Result<Frame, String>>,
) {
    let why = loop {
        let bytes = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(_)) | None => break "the relay closed the connection".to_owned(),
            Some(Err(error)) => break error.to_string(),
        };
        match carriage::read_message(bytes) {
            Ok(Carried::Packet(packet)) => {
                socket.receive_relayed(&packet);
                socket.room().await;
            }
            Ok(Carried::Frame(frame)) => {
                if frames.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            Err(error) => break format!("the relay is not understood: {error}"),
        }
    };
    debug!(why, "the TCP connection to the relay ended");
    // Nobody listens any more, or somebody hears it.
    let _ = frames.send(Err(why)).await;
}

/// Writes until either side has had enough. Control frames go first.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    tunnel: Arc<Tunnel>,
    mut outbox: mpsc::Receiver<ToRelay>,
) {
    let mut more = false;
    loop {
        let message = if more {
            None
        } else {
            tokio::select! {
                biased;
                message = outbox.recv() => match message {
                    Some(message) => Some(message),
                    None => break,
                },
                () = tunnel.filled.notified() => None,
            }
        };
        let batch = write_batch(&mut sink, &tunnel, &mut outbox, message);
        match tunnel.watched(batch).await {
            Some(left) => more = left,
            None => break,
        }
    }
    tunnel.close();
}

/// Writes `message`, the others that wait, and one batch of packets; whether there may be more, `None` when
/// the connection is gone.
async fn write_batch(
    sink: &mut SplitSink<Socket, Message>,
    tunnel: &Tunnel,
    outbox: &mut mpsc::Receiver<ToRelay>,
    mut message: Option<ToRelay>,
) -> Option<bool> {
    while let Some(next) = message.take().or_else(|| outbox.try_recv().ok()) {
        match next.encode() {
            Ok(frame) => sink.feed(Message::binary(frame)).await.ok()?,
            Err(error) => warn!(%error, "a message to the relay is not sent"),
        }
    }
    let mut count = 0;
    while count < BATCH
        && let Some(packet) = tunnel.pop()
    {
        sink.feed(Message::Binary(packet)).await.ok()?;
        count += 1;
    }
    sink.flush().await.ok()?;
    Some(count == BATCH)
}
