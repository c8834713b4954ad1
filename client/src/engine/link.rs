//! One connection: its control stream with hello and ping, and every further stream by its kind byte. Knows
//! nothing of contacts or the store; tells the engine what it reads.

use std::time::Duration;

use p2p_net::{Connection, PathKind, PeerId, RecvStream, SendStream};
use p2p_net_proto::codec::{Frame, FrameDecoder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::Input;
use crate::transfer::LaneRouter;
use crate::wire::{
    self, CallFrame, ChatFrame, ControlFrame, Hello, Ping, Pong, close_code, stream_kind,
};

/// How long the other side may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long a stream may take to say what it is.
const KIND_LIMIT: Duration = Duration::from_secs(10);
/// How long a pong may take before the connection is dead, if nothing else comes either.
const PONG_LIMIT: Duration = Duration::from_secs(4);
/// How often that is extended while other bytes come.
const MAX_EXTENSIONS: u32 = 4;
/// How often it is extended in any case where the relay carries the connection: it may have been restarted, and
/// the connection lives on when both sides are back there.
const RELAYED_EXTENSIONS: u32 = 2;
/// Streams that have not yet said what they are, and chat streams that are read, at one time.
const MAX_STREAMS: usize = 64;
/// Frames that wait to be written.
const MAX_FRAMES: usize = 256;
/// Frames about a call that wait to be written.
const MAX_CALL_FRAMES: usize = 64;
/// Bytes that are read at once.
const READ_LEN: usize = 16 * 1024;
/// Control and chat go before the lanes of a transfer.
const PRIORITY: i32 = 10;

/// The engine's handle on a connection; dropping it ends its tasks, not the connection.
pub(super) struct Link {
    pub(super) conn: Connection,
    /// Which of the peer's connections this is.
    pub(super) number: u64,
    pub(super) router: LaneRouter,
    /// The hello came, or we dialled: chat may flow.
    pub(super) ready: bool,
    /// The other side knows calls, once its hello came.
    pub(super) calls: Option<bool>,
    /// The telephone line has been told of this connection.
    pub(super) lined: bool,
    chat: mpsc::Sender<ChatFrame>,
    call_frames: mpsc::Sender<CallFrame>,
    checks: mpsc::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Link {
    /// Starts to serve a connection; what comes goes to `inbox` under `number`.
    pub(super) fn start(
        conn: Connection,
        number: u64,
        hello: Hello,
        inbox: &mpsc::Sender<Input>,
    ) -> Self {
        let (chat, frames) = mpsc::channel(MAX_FRAMES);
        let (checks, wanted) = mpsc::channel(1);
        let (call_frames, about_calls) = mpsc::channel(MAX_CALL_FRAMES);
        let router = LaneRouter::new();
        let port = Port {
            peer: conn.peer(),
            number,
            inbox: inbox.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            conn.clone(),
            port.clone(),
            hello,
            router.clone(),
            Wishes {
                checks: wanted,
                call_frames: about_calls,
            },
        ));
        tasks.spawn(write_chat(conn.clone(), frames));
        tasks.spawn(watch_path(conn.clone(), port));
        Self {
            conn,
            number,
            router,
            ready: false,
            calls: None,
            lined: false,
            chat,
            call_frames,
            checks,
            _tasks: tasks,
        }
    }

    /// Sends a frame; a peer that lets too many pile up is let go, and gets them again later.
    pub(super) fn send(&self, frame: ChatFrame) {
        if self.chat.try_send(frame).is_err() {
            self.conn
                .close(close_code::UNRESPONSIVE, "too much is waiting to be read");
        }
    }

    /// Says something about a call, on the control stream.
    pub(super) fn send_call(&self, frame: CallFrame) {
        if self.call_frames.try_send(frame).is_err() {
            self.conn
                .close(close_code::UNRESPONSIVE, "too much is waiting to be read");
        }
    }

    /// Finds out whether the other side lives; the connection is closed if not.
    pub(super) fn check(&self) {
        // One check at a time is enough.
        let _ = self.checks.try_send(());
    }
}

/// Where the tasks of a link report.
#[derive(Clone)]
struct Port {
    peer: PeerId,
    number: u64,
    inbox: mpsc::Sender<Input>,
}

impl Port {
    async fn tell(&self, what: LinkEvent) {
        let (peer, number) = (self.peer, self.number);
        // An engine that is gone takes the link with it.
        let _ = self.inbox.send(Input::Link { peer, number, what }).await;
    }
}

/// What a link tells.
pub(super) enum LinkEvent {
    /// The other side said who it is.
    Hello(Hello),
    /// It may be written to.
    Ready,
    /// A chat frame came.
    Chat(ChatFrame),
    /// A frame about a call came.
    Call(CallFrame),
    /// Somebody offers a transfer on this stream; the kind byte has been read.
    Transfer(SendStream, RecvStream),
    /// The path changed its kind or its far end.
    Path,
    /// It ended.
    Closed(String),
}

/// What the engine wants of the control stream.
struct Wishes {
    checks: mpsc::Receiver<()>,
    call_frames: mpsc::Receiver<CallFrame>,
}

/// Serves a connection until it ends.
async fn serve(conn: Connection, port: Port, hello: Hello, router: LaneRouter, wishes: Wishes) {
    let reason = tokio::select! {
        error = conn.closed() => error.to_string(),
        reason = converse(&conn, &port, hello, router, wishes) => {
            conn.close(close_code::PROTOCOL, &reason);
            reason
        }
    };
    debug!(peer = %port.peer.short(), reason, "connection ended");
    port.tell(LinkEvent::Closed(reason)).await;
}

/// Runs the conversation; returns only to say what the other side did wrong.
async fn converse(
    conn: &Connection,
    port: &Port,
    hello: Hello,
    router: LaneRouter,
    wishes: Wishes,
) -> String {
    let hello = ControlFrame::Hello(hello);
    let opening = async {
        if conn.is_dialler() {
            let (mut send, recv) = conn.open().await.map_err(|e| e.to_string())?;
            write(&mut send, &hello).await?;
            port.tell(LinkEvent::Ready).await;
            let mut control = Control::new(send, recv);
            port.tell(LinkEvent::Hello(control.hello().await?)).await;
            Ok::<_, String>(control)
        } else {
            let (send, recv) = conn.accept().await.map_err(|e| e.to_string())?;
            let mut control = Control::new(send, recv);
            let theirs = control.hello().await?;
            write(&mut control.send, &hello).await?;
            port.tell(LinkEvent::Hello(theirs)).await;
            port.tell(LinkEvent::Ready).await;
            Ok(control)
        }
    };
    let control = match timeout(HELLO_LIMIT, opening).await {
        Ok(Ok(control)) => control,
        Ok(Err(reason)) => return reason,
        Err(_) => return "no hello in time".to_owned(),
    };
    tokio::select! {
        reason = control.run(conn, port, wishes) => reason,
        reason = take_streams(conn, port, router) => reason,
    }
}

async fn write(send: &mut SendStream, frame: &ControlFrame) -> Result<(), String> {
    let bytes = frame.encode().map_err(|error| error.to_string())?;
    let _ = send.set_priority(PRIORITY);
    send.write_all(&bytes)
        .await
        .map_err(|error| error.to_string())
}

/// Cuts a stream into frames.
struct FrameReader {
    recv: RecvStream,
    decoder: FrameDecoder,
}

impl FrameReader {
    fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            decoder: FrameDecoder::default(),
        }
    }

    /// The next frame, `None` at the end. Cancel safe: what was read stays in the decoder.
    async fn next(&mut self) -> Result<Option<Frame>, String> {
        loop {
            if let Some(frame) = self
                .decoder
                .next_frame()
                .map_err(|error| error.to_string())?
            {
                return Ok(Some(frame));
            }
            let chunk = self
                .recv
                .read_chunk(READ_LEN, true)
                .await
                .map_err(|e| e.to_string())?;
            match chunk {
                Some(chunk) => self.decoder.push(&chunk.bytes),
                None => return Ok(None),
            }
        }
    }
}

/// The control stream of a connection.
struct Control {
    send: SendStream,
    frames: FrameReader,
}

impl Control {
    fn new(send: SendStream, recv: RecvStream) -> Self {
        Self {
            send,
            frames: FrameReader::new(recv),
        }
    }

    async fn hello(&mut self) -> Result<Hello, String> {
        let frame = self
            .frames
            .next()
            .await?
            .ok_or("the control stream ended without hello")?;
        match ControlFrame::decode(&frame) {
            Ok(Some(ControlFrame::Hello(hello))) => Ok(hello),
            Ok(_) => Err("the first message is not hello".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Answers pings, and sends them when somebody doubts the connection; carries what is said of calls.
    async fn run(mut self, conn: &Connection, port: &Port, mut wishes: Wishes) -> String {
        let mut number = 0;
        let mut doubt: Option<Doubt> = None;
        loop {
            let deadline = doubt.as_ref().map(|doubt| doubt.deadline);
            tokio::select! {
                frame = self.frames.next() => {
                    let frame = match frame {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return "the control stream ended".to_owned(),
                        Err(reason) => return reason,
                    };
                    match ControlFrame::decode(&frame) {
                        Ok(Some(ControlFrame::Ping(Ping { number }))) => {
                            let pong = ControlFrame::Pong(Pong { number });
                            if let Err(reason) = write(&mut self.send, &pong).await {
                                return reason;
                            }
                        }
                        Ok(Some(ControlFrame::Pong(pong))) if pong.number == number => doubt = None,
                        Ok(Some(ControlFrame::Call(frame))) => port.tell(LinkEvent::Call(frame)).await,
                        // A second hello changes nothing; an old pong proves nothing.
                        Ok(_) => {}
                        Err(error) => return error.to_string(),
                    }
                }
                Some(frame) = wishes.call_frames.recv() => {
                    if let Err(reason) = write(&mut self.send, &ControlFrame::Call(frame)).await {
                        return reason;
                    }
                }
                Some(()) = wishes.checks.recv(), if doubt.is_none() => {
                    number += 1;
                    if let Err(reason) = write(&mut self.send, &ControlFrame::Ping(Ping { number })).await {
                        return reason;
                    }
                    doubt = Some(Doubt::new(conn));
                }
                () = sleep_for(deadline) => {
                    if doubt.as_mut().is_some_and(|doubt| doubt.is_certain(conn)) {
                        conn.close(close_code::UNRESPONSIVE, "no answer to a ping");
                        doubt = None;
                    }
                }
            }
        }
    }
}

/// A ping that is not answered yet.
struct Doubt {
    deadline: Instant,
    received: u64,
    extensions: u32,
}

impl Doubt {
    fn new(conn: &Connection) -> Self {
        Self {
            deadline: Instant::now() + PONG_LIMIT,
            received: received(conn),
            extensions: 0,
        }
    }

    /// At the deadline: whether the other side is gone. While bytes come, the pong may be behind them.
    fn is_certain(&mut self, conn: &Connection) -> bool {
        let received = received(conn);
        let most = if received != self.received {
            MAX_EXTENSIONS
        } else if conn.path().borrow().kind != PathKind::Direct {
            RELAYED_EXTENSIONS
        } else {
            0
        };
        if self.extensions >= most {
            return true;
        }
        self.extensions += 1;
        self.received = received;
        self.deadline = Instant::now() + PONG_LIMIT;
        false
    }
}

fn received(conn: &Connection) -> u64 {
    let stats = conn.stats();
    stats.direct_received_bytes + stats.relayed_received_bytes
}

async fn sleep_for(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Takes every stream after the control stream; returns only to say what the other side did wrong.
async fn take_streams(conn: &Connection, port: &Port, router: LaneRouter) -> String {
    let mut tasks = JoinSet::new();
    loop {
        // One more stream than may be open waits in QUIC, where flow control holds it.
        while tasks.len() >= MAX_STREAMS {
            tasks.join_next().await;
        }
        tokio::select! {
            stream = conn.accept() => match stream {
                Ok((send, recv)) => {
                    tasks.spawn(take_stream(send, recv, port.clone()));
                }
                Err(error) => return error.to_string(),
            },
            stream = conn.accept_uni() => match stream {
                Ok(recv) => {
                    tasks.spawn(take_lane(recv, router.clone()));
                }
                Err(error) => return error.to_string(),
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn kind_of(recv: &mut RecvStream) -> Option<u8> {
    let mut kind = [0u8];
    timeout(KIND_LIMIT, recv.read_exact(&mut kind))
        .await
        .ok()?
        .ok()?;
    Some(kind[0])
}

async fn take_stream(mut send: SendStream, mut recv: RecvStream, port: Port) {
    match kind_of(&mut recv).await {
        Some(stream_kind::CHAT) => {
            // What we say goes on a stream of our own.
            let _ = send.finish();
            read_chat(recv, &port).await;
        }
        Some(stream_kind::TRANSFER) => port.tell(LinkEvent::Transfer(send, recv)).await,
        _ => {
            let _ = send.reset(close_code::UNKNOWN_STREAM.into());
            let _ = recv.stop(close_code::UNKNOWN_STREAM.into());
        }
    }
}

async fn take_lane(mut recv: RecvStream, router: LaneRouter) {
    match kind_of(&mut recv).await {
        Some(stream_kind::LANE) => router.route(recv),
        _ => {
            let _ = recv.stop(close_code::UNKNOWN_STREAM.into());
        }
    }
}

async fn read_chat(recv: RecvStream, port: &Port) {
    let mut frames = FrameReader::new(recv);
    loop {
        let Ok(Some(frame)) = frames.next().await else {
            return;
        };
        match wire::ChatFrame::decode(&frame) {
            Ok(Some(frame)) => port.tell(LinkEvent::Chat(frame)).await,
            Ok(None) => {}
            Err(error) => {
                debug!(peer = %port.peer.short(), %error, "chat stream given up");
                let _ = frames.recv.stop(close_code::PROTOCOL.into());
                return;
            }
        }
    }
}

/// Writes what the chat says, on a stream that is opened with the first frame.
async fn write_chat(conn: Connection, mut frames: mpsc::Receiver<ChatFrame>) {
    let mut stream: Option<SendStream> = None;
    while let Some(frame) = frames.recv().await {
        let Ok(bytes) = frame.encode() else { continue };
        let send = match &mut stream {
            Some(send) => send,
            None => {
                let Ok((mut send, _)) = conn.open().await else {
                    return;
                };
                let _ = send.set_priority(PRIORITY);
                if send.write_all(&[stream_kind::CHAT]).await.is_err() {
                    return;
                }
                stream.insert(send)
            }
        };
        if send.write_all(&bytes).await.is_err() {
            // The other side stopped reading: what is not acknowledged is sent again on a new stream.
            stream = None;
        }
    }
}

/// Tells when the path changes its kind or its far end; its figures alone are no news.
async fn watch_path(conn: Connection, port: Port) {
    let mut path = conn.path();
    let key = |path: &p2p_net::PathInfo| (path.kind, path.remote);
    let mut last = key(&path.borrow_and_update());
    while path.changed().await.is_ok() {
        let now = key(&path.borrow_and_update());
        if now != last {
            last = now;
            port.tell(LinkEvent::Path).await;
        }
    }
}
