//! Clients behind networks that block UDP: HTTPS on the TCP port of the same number, where the same control
//! frames and relayed packets travel in WebSocket messages (`wire.md` §1, §4). A task for each port, one for
//! each connection; what waits for a slow reader is bounded.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use p2p_net_proto::carriage::{self, CarriageError, Carried, Queue, Request};
use p2p_net_proto::wire::{FromRelay, Hello, ToRelay, reason};
use p2p_net_proto::{
    CHANNEL_KEY_LABEL, ChannelId, Direction, HeaderKey, PeerId, channel_key_context, tls,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tracing::{debug, warn};

use crate::admission::refused;
use crate::forward::{Route, Verdict};
use crate::net::Run;
use crate::server::{Counted, Shared, now};
use crate::session::{self, FAREWELL_WAIT, HANDSHAKE_WAIT, HELLO_WAIT, Handle, Item, Wire};

/// Relayed packets that wait for one client, bytes: 50 ms at 40 Mbit/s, and what 10,000 clients that read
/// nothing could make the relay hold stays below 3 GiB.
const QUEUE_BYTES: usize = 256 * 1_024;
/// A client pings every 5 s: one that is silent for this long is gone.
const IDLE: Duration = Duration::from_secs(30);
/// A batch of packets that is not taken in this time finds a reader too slow for any use.
const WRITE_WAIT: Duration = Duration::from_secs(20);
/// Packets written, or judged, at one time.
const BATCH: usize = 64;
/// What the WebSocket layer reads at one time and collects before it writes, bytes.
const BUFFER: usize = 32 * 1_024;
/// What it may hold beyond that while a socket is full: the largest message and a batch.
const BUFFER_MOST: usize = 256 * 1_024;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 256;
/// Errors of a listener in a row after which its port is given up.
const MAX_ERRORS: u32 = 100;

type Socket = WebSocketStream<SharedTls>;

/// Listens on the TCP port of the same number as a UDP port.
pub(crate) fn bind(address: SocketAddr, v6_only: bool) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    // Connections of an earlier run that linger must not keep a restarted relay away.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The TLS connection, for the one task that reads and writes it and for whoever needs keys of it. The lock
/// is held for one poll or one export.
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

/// A TCP connection as the rest of the relay sees it: a place to send packets to.
pub(crate) struct Carrier {
    route: Route,
    tls: Arc<Mutex<TlsStream<TcpStream>>>,
    queue: Mutex<Queue>,
    filled: Notify,
    closing: Notify,
}

impl Carrier {
    pub(crate) fn route(&self) -> Route {
        self.route
    }

    pub(crate) fn header_key(&self, channel: ChannelId, direction: Direction) -> Option<HeaderKey> {
        let context = channel_key_context(channel, direction);
        let tls = lock(&self.tls);
        let (_, connection) = tls.get_ref();
        let key = connection.export_keying_material([0; 16], CHANNEL_KEY_LABEL, Some(&context));
        key.ok().map(HeaderKey::new)
    }

    /// Ends the connection at once.
    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }

    /// Queues packets of `segment` bytes, or one; returns how many were dropped for them.
    fn push(&self, contents: &[u8], segment: Option<usize>) -> u64 {
        let mut queue = lock(&self.queue);
        let segment = segment.unwrap_or(contents.len()).max(1);
        let packets = contents.chunks(segment).map(Bytes::copy_from_slice);
        let dropped = packets.map(|packet| queue.push(packet)).sum();
        drop(queue);
        self.filled.notify_one();
        dropped
    }

    fn pop(&self) -> Option<Bytes> {
        lock(&self.queue).pop()
    }
}

/// All TCP connections that are logged in, by the route that leads there.
#[derive(Default)]
pub(crate) struct Carriers(RwLock<HashMap<(usize, SocketAddr), Arc<Carrier>>>);

impl Carriers {
    /// Sends by one of them; how many packets were dropped for it, `None` if there is no such connection.
    pub(crate) fn send(&self, to: Route, contents: &[u8], segment: Option<usize>) -> Option<u64> {
        let carriers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let carrier = carriers.get(&(to.socket, to.address))?;
        Some(carrier.push(contents, segment))
    }

    pub(crate) fn len(&self) -> usize {
        let carriers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        carriers.len()
    }

    fn enter(&self, carrier: &Arc<Carrier>) {
        let key = (carrier.route.socket, carrier.route.address);
        let mut carriers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        carriers.insert(key, carrier.clone());
    }

    fn leave(&self, carrier: &Carrier) {
        let key = (carrier.route.socket, carrier.route.address);
        let mut carriers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // A client that came back from the same port may have taken its place.
        let ours = |there: &Arc<Carrier>| std::ptr::eq(Arc::as_ptr(there), carrier);
        if carriers.get(&key).is_some_and(ours) {
            carriers.remove(&key);
        }
    }
}

/// Lets connections of one port in; the sessions end with this task. `index` is the number that routes name
/// the port by.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    index: usize,
    listener: TcpListener,
    acceptor: TlsAcceptor,
) {
    let mut sessions = JoinSet::new();
    let mut errors = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    errors = 0;
                    if let Some((courtesy, counted)) = shared.admit_tcp(address.ip()) {
                        let route = Route { socket: index, address, source: None };
                        let serving = serve(
                            shared.clone(), route, acceptor.clone(), stream, courtesy, counted,
                        );
                        sessions.spawn(serving);
                    }
                }
                Err(error) if errors < MAX_ERRORS => {
                    errors += 1;
                    debug!(%error, "accepting failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => {
                    warn!(%error, "accepting fails again and again; this TCP port is given up");
                    return;
                }
            },
            Some(ended) = sessions.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a session failed");
                }
            }
        }
    }
}

/// A WebSocket whose client has proven its key.
struct Opened {
    peer: PeerId,
    carrier: Arc<Carrier>,
    socket: Socket,
}

/// Serves one connection to its end; `courtesy` as in [`session::serve`].
async fn serve(
    shared: Arc<Shared>,
    route: Route,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    courtesy: Option<u32>,
    guard: Counted,
) {
    let opened = timeout(HANDSHAKE_WAIT, open(route, &acceptor, stream)).await;
    let Ok(Ok(Some(Opened {
        peer,
        carrier,
        mut socket,
    }))) = opened
    else {
        return;
    };
    guard.shaken();
    let Ok(Some(hello)) = timeout(HELLO_WAIT, hello(&mut socket)).await else {
        return;
    };
    let login = match courtesy {
        Some(retry_after) => {
            shared.core().count_refused();
            let message =
                format!("too many connections from your network; try again in {retry_after} s");
            Err(refused(reason::LIMITED, message, retry_after))
        }
        None => {
            shared.carriers.enter(&carrier);
            session::login(&shared, Wire::Tcp(carrier.clone()), peer, hello)
        }
    };
    match login {
        Ok((id, handle, queue)) => {
            debug!(peer = %peer.short(), id = id.0, "logged in over TCP");
            let talking = Talking {
                shared: &shared,
                id,
                handle: &handle,
                carrier: &carrier,
            };
            talking.talk(queue, socket).await;
            shared.lost(id);
            debug!(peer = %peer.short(), id = id.0, "gone");
        }
        Err(refusal) => {
            debug!(peer = %peer.short(), code = refusal.code, "login refused");
            if let Ok(frame) = FromRelay::from(refusal).encode() {
                let farewell = async {
                    socket.send(Message::binary(frame)).await.ok()?;
                    socket.close(None).await.ok()
                };
                drop(timeout(FAREWELL_WAIT, farewell).await);
            }
        }
    }
    shared.carriers.leave(&carrier);
}

/// TLS, and the request behind it; `None` where it was for a page.
async fn open(
    route: Route,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<Option<Opened>> {
    // Whole batches are written at one time: nothing is gained by waiting for more.
    stream.set_nodelay(true)?;
    let mut tls = acceptor.accept(stream).await?;
    let mut head = BytesMut::with_capacity(1_024);
    let (request, used) = loop {
        if let Some(read) = carriage::read_head(&head) {
            break read;
        }
        let mut chunk = (&mut tls).take(carriage::MAX_HEAD.saturating_sub(head.len()) as u64);
        if chunk.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    };
    let (_, connection) = tls.get_ref();
    let peer = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .and_then(tls::peer_of_certificate);
    let (Request::Upgrade { key }, Some(peer)) = (&request, peer) else {
        tls.write_all(carriage::page(&request).as_bytes()).await?;
        tls.shutdown().await?;
        return Ok(None);
    };
    let switching = carriage::switching(&derive_accept_key(key.as_bytes()));
    tls.write_all(switching.as_bytes()).await?;
    tls.flush().await?;
    let tls = Arc::new(Mutex::new(tls));
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(BUFFER_MOST)
        .max_message_size(Some(carriage::MAX_MESSAGE))
        .max_frame_size(Some(carriage::MAX_MESSAGE));
    let rest = head.split_off(used).to_vec();
    let shared = SharedTls(tls.clone());
    let socket =
        WebSocketStream::from_partially_read(shared, rest, Role::Server, Some(config)).await;
    let carrier = Carrier {
        route,
        tls,
        queue: Mutex::new(Queue::new(QUEUE_BYTES)),
        filled: Notify::new(),
        closing: Notify::new(),
    };
    Ok(Some(Opened {
        peer,
        carrier: Arc::new(carrier),
        socket,
    }))
}

/// The first message, which has to be a hello.
async fn hello(socket: &mut Socket) -> Option<Hello> {
    loop {
        match socket.next().await?.ok()? {
            Message::Binary(bytes) => {
                let Ok(Carried::Frame(frame)) = carriage::read_message(bytes) else {
                    return None;
                };
                match ToRelay::decode(&frame).ok()? {
                    Some(ToRelay::Hello(hello)) => return Some(hello),
                    Some(_) => return None,
                    None => {}
                }
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) | Message::Frame(_) => return None,
        }
    }
}

/// A login over TCP while it lasts.
struct Talking<'a> {
    shared: &'a Arc<Shared>,
    id: crate::registry::LoginId,
    handle: &'a Arc<Handle>,
    carrier: &'a Arc<Carrier>,
}

impl Talking<'_> {
    /// Reads and writes until either side has had enough.
    async fn talk(&self, queue: mpsc::Receiver<Item>, socket: Socket) {
        let (sink, stream) = socket.split();
        let write = self.write(queue, sink);
        tokio::pin!(write);
        let ended = tokio::select! {
            result = self.read(stream) => {
                let expel = |error: &CarriageError| self.shared.expel(self.id, &error.to_string());
                result.inspect_err(expel).is_err()
            }
            () = self.handle.ended() => true,
            () = self.carrier.closing.notified() => false,
            _ = &mut write => false,
        };
        if ended && timeout(FAREWELL_WAIT, write).await.is_err() {
            debug!("the client does not take its last messages");
        }
    }

    async fn read(&self, mut stream: SplitStream<Socket>) -> Result<(), CarriageError> {
        let mut pace = session::Pace::start();
        let mut packets = Packets::default();
        loop {
            let Ok(Some(Ok(first))) = timeout(IDLE, stream.next()).await else {
                return Ok(());
            };
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Binary(bytes) => match carriage::read_message(bytes)? {
                        Carried::Packet(packet) => packets.add(&packet),
                        Carried::Frame(frame) => {
                            packets.forward(self.shared, self.carrier.route);
                            pace.wait().await;
                            if let Some(message) = ToRelay::decode(&frame)? {
                                self.shared.message(self.id, self.carrier.route, message);
                            }
                        }
                    },
                    Message::Ping(_) | Message::Pong(_) => {}
                    Message::Text(_) | Message::Close(_) | Message::Frame(_) => return Ok(()),
                }
                if packets.len() < BATCH
                    && let Some(Some(Ok(another))) = stream.next().now_or_never()
                {
                    next = Some(another);
                }
            }
            packets.forward(self.shared, self.carrier.route);
        }
    }

    /// Control frames go first; packets in the order of their classes.
    async fn write(
        &self,
        mut queue: mpsc::Receiver<Item>,
        mut sink: SplitSink<Socket, Message>,
    ) -> Option<()> {
        let mut next = Next::Wait;
        loop {
            let item = match next {
                Next::More => None,
                Next::Wait => tokio::select! {
                    biased;
                    item = queue.recv() => Some(item?),
                    () = self.carrier.filled.notified() => None,
                },
                Next::End => return None,
            };
            let batch = self.write_batch(&mut queue, &mut sink, item);
            next = timeout(WRITE_WAIT, batch).await.ok()??;
        }
    }

    /// Writes a control frame, those that wait beside it, and one batch of packets; `None` when the connection
    /// is gone.
    async fn write_batch(
        &self,
        queue: &mut mpsc::Receiver<Item>,
        sink: &mut SplitSink<Socket, Message>,
        mut item: Option<Item>,
    ) -> Option<Next> {
        while let Some(next) = item.take().or_else(|| queue.try_recv().ok()) {
            match next {
                Item::Frame(frame) => {
                    self.handle.written(frame.len());
                    sink.feed(Message::Binary(frame)).await.ok()?;
                }
                Item::Last(frame, _) => {
                    sink.send(Message::Binary(frame)).await.ok()?;
                    sink.close().await.ok()?;
                    return Some(Next::End);
                }
            }
        }
        let mut count = 0;
        while count < BATCH
            && let Some(packet) = self.carrier.pop()
        {
            sink.feed(Message::Binary(packet)).await.ok()?;
            count += 1;
        }
        sink.flush().await.ok()?;
        Some(if count < BATCH {
            Next::Wait
        } else {
            Next::More
        })
    }
}

/// What a writer does after a batch.
enum Next {
    /// There may be more to write.
    More,
    /// Wait until there is something.
    Wait,
    /// The last frame has left.
    End,
}

/// Relayed packets that came together, side by side, so that those for one UDP destination leave together.
#[derive(Default)]
struct Packets {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Packets {
    fn len(&self) -> usize {
        self.lengths.len()
    }

    fn add(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.lengths.push(packet.len());
    }

    /// Has all of them judged, sends on what may go, and is empty again.
    fn forward(&mut self, shared: &Shared, from: Route) {
        if self.lengths.is_empty() {
            return;
        }
        let now = now();
        let most = shared.max_segments();
        let mut runs: Vec<Run> = Vec::new();
        let mut forward = shared.forward();
        let mut start = 0;
        for length in self.lengths.drain(..) {
            let end = start + length;
            // A challenge or a hint would mean nothing here: the connection itself proves where it leads.
            if let Verdict::Send(route, ecn) =
                forward.packet(now, from, 0, &mut self.bytes[start..end])
            {
                let next = Run::one(start..end, route, ecn);
                let continued = runs.last_mut().is_some_and(|run| run.extend(&next, most));
                if !continued {
                    runs.push(next);
                }
            }
            start = end;
        }
        drop(forward);
        let mut dropped = 0;
        for run in runs {
            let (contents, segment) = run.contents(&self.bytes);
            if !shared.transmit(run.route(), run.ecn(), contents, segment) {
                dropped += run.count() as u64;
            }
        }
        shared.count_batch(dropped, 0);
        self.bytes.clear();
    }
}
