//! The login at the relay: dials it on the endpoint's own UDP port, or over TCP where UDP is blocked, keeps
//! the control stream, and passes messages on. When to dial, ask and give up is [`Registration`]'s; what
//! messages mean is the driver's. One task.

mod dial;
mod proxy;
mod tcp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2p_net_proto::carriage;
use p2p_net_proto::codec::{Frame, FrameDecoder};
use p2p_net_proto::tls::{self, RelayTrust, SeenKey, TlsSetupError};
use p2p_net_proto::wire::{FromRelay, Hello, Ping, ToRelay, VERSION, Welcome, reason};
use p2p_net_proto::{
    ChannelId, Direction, HeaderKey, Identity, LoginInput, LoginOutput, Registration, RelayAddress,
    Setback, channel_key_context,
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::link::MIN_LEG_MTU;
use crate::socket::{MagicSocket, now};
use crate::{AcceptError, RelayCarrier, SocketProvider, quic};

pub(crate) use proxy::dial as dial_tcp;
pub(crate) use tcp::Tunnel;

use dial::Proven;

/// A relay that greets later than this is no better than none.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(8);
/// A look whether UDP works again is given up after this long.
const UDP_PATIENCE: Duration = Duration::from_secs(5);
/// Messages to the relay that wait at most.
const OUTBOX: usize = 256;
/// When to look at the MTU that the control connection has found, after the login.
const MTU_LOOKS: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Between looks over TCP whether UDP works again; the last one repeats. A first packet may just have been
/// lost, so the first look comes soon.
const UDP_LOOKS: [Duration; 6] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// What the driver hears of the relay.
#[derive(Debug)]
pub(crate) enum RelayEvent {
    /// Dialling, for the first time or after this.
    Connecting(Option<AcceptError>),
    /// Logged in.
    Online(Session),
    /// It says something.
    Message(FromRelay),
    /// Given up for good.
    Failed(AcceptError),
}

/// What the driver says to the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nudging {
    /// The relay may have forgotten us: ask.
    Doubt,
    /// Our addresses changed.
    NetworkChanged,
}

/// A login that stands.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    wire: Wire,
    /// The relay's address, IPv4 as IPv4; one that leads nowhere where a proxy alone knows it.
    pub(crate) address: SocketAddr,
    pub(crate) welcome: Welcome,
    /// Takes messages to the relay; they are lost with the login.
    pub(crate) outbox: mpsc::Sender<ToRelay>,
    /// What fits the way to the relay in one UDP payload, bytes.
    pub(crate) leg_mtu: Arc<AtomicU16>,
}

/// What carries a login.
#[derive(Debug, Clone)]
enum Wire {
    Quic(Connection),
    Tcp {
        tunnel: Arc<Tunnel>,
        /// The relay's port.
        port: u16,
        /// How long the welcome took.
        round_trip: Duration,
    },
}

impl Session {
    /// The header keys of a channel, up and down (`wire.md` §5).
    pub(crate) fn channel_keys(&self, channel: ChannelId) -> Option<(HeaderKey, HeaderKey)> {
        let key = |direction| {
            let connection = match &self.wire {
                Wire::Quic(connection) => connection,
                Wire::Tcp { tunnel, .. } => return tunnel.header_key(channel, direction),
            };
            let mut key = [0; 16];
            let context = channel_key_context(channel, direction);
            let label = p2p_net_proto::CHANNEL_KEY_LABEL;
            connection
                .export_keying_material(&mut key, label, &context)
                .ok()?;
            Some(HeaderKey::new(key))
        };
        Some((key(Direction::Up)?, key(Direction::Down)?))
    }

    /// To the relay and back.
    pub(crate) fn round_trip(&self) -> Duration {
        match &self.wire {
            Wire::Quic(connection) => connection.rtt(),
            Wire::Tcp { round_trip, .. } => *round_trip,
        }
    }

    /// What carries relayed packets instead of UDP.
    pub(crate) fn tunnel(&self) -> Option<Arc<Tunnel>> {
        match &self.wire {
            Wire::Quic(_) => None,
            Wire::Tcp { tunnel, .. } => Some(tunnel.clone()),
        }
    }

    /// Whether UDP is blocked.
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.wire, Wire::Tcp { .. })
    }

    /// The same for programs.
    pub(crate) fn carrier(&self) -> RelayCarrier {
        match &self.wire {
            Wire::Quic(_) => RelayCarrier::Udp,
            Wire::Tcp { port, .. } => RelayCarrier::Tcp { port: *port },
        }
    }
}

/// What a login needs.
pub(crate) struct Login {
    endpoint: quinn::Endpoint,
    socket: Arc<MagicSocket>,
    provider: Arc<dyn SocketProvider>,
    address: RelayAddress,
    config: quinn::ClientConfig,
    seen: SeenKey,
    tcp_config: Arc<quinn::rustls::ClientConfig>,
    tcp_seen: SeenKey,
    /// Why TCP did not help, for whoever asks why nothing does.
    tcp_failure: Mutex<Option<String>>,
}

/// Why an attempt failed or a login ended.
#[derive(Debug)]
struct Failure {
    error: AcceptError,
    setback: Setback,
}

impl Failure {
    fn retry(error: AcceptError) -> Self {
        Self {
            error,
            setback: Setback::Retry { after: None },
        }
    }

    fn last(error: AcceptError) -> Self {
        Self {
            error,
            setback: Setback::Final,
        }
    }

    fn unreachable(text: impl Into<String>) -> Self {
        Self::retry(AcceptError::Unreachable(text.into()))
    }

    /// What a relay's refusal means for the next attempt.
    fn refused(code: u16, message: String, retry_after: u32) -> Self {
        match code {
            reason::REPLACED => Self::last(AcceptError::Replaced),
            reason::TOKEN | reason::NOT_ALLOWED | reason::VERSION => {
                Self::last(AcceptError::Refused { code, message })
            }
            reason::SHUTDOWN => Self::unreachable(message),
            _ => {
                let after = (retry_after > 0).then(|| Duration::from_secs(retry_after.into()));
                let setback = Setback::Retry { after };
                Self {
                    error: AcceptError::Refused { code, message },
                    setback,
                }
            }
        }
    }

    /// Keeps the one that tells more.
    fn or(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if !matches!(other.error, AcceptError::Unreachable(_)) => other,
            _ => self,
        }
    }
}

/// A control stream that has been welcomed.
struct Online {
    session: Session,
    reader: Reader,
    // Held for its drop, which ends what writes, and for TCP what reads.
    _tasks: Tasks,
}

/// The tasks of a login.
#[expect(dead_code, reason = "held for its drop")]
enum Tasks {
    Quic(JoinSet<()>),
    Tcp(tcp::Tasks),
}

enum Reader {
    Quic {
        connection: Connection,
        stream: RecvStream,
        decoder: FrameDecoder,
        ready: VecDeque<Frame>,
    },
    Tcp(tcp::Frames),
}

type Attempt = Pin<Box<dyn Future<Output = Result<Box<Online>, Failure>> + Send>>;

/// Runs until the login is given up for good or the driver goes.
pub(crate) async fn run(
    login: Login,
    mut nudges: mpsc::Receiver<Nudging>,
    events: mpsc::Sender<RelayEvent>,
) {
    let mut task = Task {
        login: Arc::new(login),
        registration: Registration::new(now(), rand::random()),
        events,
        attempt: None,
        online: None,
        error: None,
        looks: 0,
        udp: Udp::default(),
    };
    while task.drain().await.is_some() {
        let deadline = task.registration.poll_timeout();
        let (online, looks) = (task.online.is_some(), task.looks);
        let step = tokio::select! {
            nudge = nudges.recv() => match nudge {
                Some(nudge) => Step::Nudged(nudge),
                None => return,
            },
            () = wait_until(deadline) => Step::Deadline,
            result = poll_attempt(&mut task.attempt) => Step::Attempted(result),
            result = read(&mut task.online) => Step::Read(result),
            () = wait_until(task.udp.look_at) => Step::LookForUdp,
            result = poll_attempt(&mut task.udp.attempt) => Step::Udp(result),
            () = look_later(online, looks) => Step::Look,
        };
        if task.on_step(step).await.is_none() {
            return;
        }
    }
}

enum Step {
    Nudged(Nudging),
    Deadline,
    Attempted(Result<Box<Online>, Failure>),
    Read(Result<Frame, Failure>),
    Look,
    LookForUdp,
    Udp(Result<Box<Online>, Failure>),
}

/// The way back from TCP to UDP.
#[derive(Default)]
struct Udp {
    /// When to look whether it works again.
    look_at: Option<Instant>,
    looks: usize,
    attempt: Option<Attempt>,
    /// The relay has ended the login over TCP already, in favour of the attempt.
    superseded: bool,
}

impl Udp {
    /// Over TCP now: the next look comes after a while, a little later each time.
    fn plan(&mut self) {
        let pause = UDP_LOOKS[self.looks.min(UDP_LOOKS.len() - 1)];
        self.looks += 1;
        // So that those whom one outage sent to TCP do not come back at one moment.
        let pause = pause.mul_f64(rand::random_range(1.0..1.25));
        *self = Self {
            look_at: Some(now() + pause),
            looks: self.looks,
            ..Self::default()
        };
    }
}

struct Task {
    login: Arc<Login>,
    registration: Registration,
    events: mpsc::Sender<RelayEvent>,
    attempt: Option<Attempt>,
    online: Option<Box<Online>>,
    error: Option<AcceptError>,
    looks: usize,
    udp: Udp,
}

impl Task {
    /// Does what the registration asks for; `None` when nothing will follow any more.
    async fn drain(&mut self) -> Option<()> {
        while let Some(output) = self.registration.poll_output() {
            match output {
                LoginOutput::Connect => {
                    self.events
                        .send(RelayEvent::Connecting(self.error.clone()))
                        .await
                        .ok()?;
                    let login = self.login.clone();
                    self.udp = Udp::default();
                    self.attempt = Some(Box::pin(async move { login.attempt().await }));
                }
                LoginOutput::Abandon => {
                    let text = self.login.silence();
                    self.abandon(AcceptError::Unreachable(text)).await?;
                }
                LoginOutput::Ping(nonce) => {
                    if let Some(online) = &self.online {
                        // A full outbox is an unanswered question, and counts as one.
                        let _ = online.session.outbox.try_send(Ping { nonce }.into());
                    }
                }
            }
        }
        self.registration.poll_timeout().map(|_| ())
    }

    async fn abandon(&mut self, error: AcceptError) -> Option<()> {
        self.attempt = None;
        self.udp = Udp::default();
        if let Some(online) = self.online.take()
            && let Wire::Quic(connection) = &online.session.wire
        {
            connection.close(VarInt::from_u32(0), b"no answer");
        }
        debug!(%error, "the login ended");
        self.error = Some(error.clone());
        self.events
            .send(RelayEvent::Connecting(Some(error)))
            .await
            .ok()
    }

    async fn on_step(&mut self, step: Step) -> Option<()> {
        let input = match step {
            Step::Nudged(Nudging::Doubt) => LoginInput::Doubt,
            Step::Nudged(Nudging::NetworkChanged) => {
                if self.udp.look_at.is_some() {
                    self.udp.looks = 0;
                    self.udp.look_at = Some(now());
                }
                LoginInput::NetworkChanged
            }
            Step::Deadline => LoginInput::Timeout,
            Step::Attempted(Ok(online)) => self.on_online(online).await?,
            Step::Attempted(Err(failure)) => self.on_failure(failure).await?,
            Step::Read(Ok(frame)) => match self.on_frame(&frame).await? {
                Some(input) => input,
                None => return Some(()),
            },
            Step::Read(Err(failure)) => self.on_failure(failure).await?,
            Step::Look => {
                self.look();
                return Some(());
            }
            Step::LookForUdp => {
                let login = self.login.clone();
                self.udp.look_at = None;
                self.udp.attempt = Some(Box::pin(async move { login.attempt_udp().await }));
                return Some(());
            }
            Step::Udp(Ok(online)) => {
                info!("UDP works again");
                self.events.send(RelayEvent::Connecting(None)).await.ok()?;
                self.on_online(online).await?
            }
            Step::Udp(Err(failure)) if self.udp.superseded => self.on_failure(failure).await?,
            Step::Udp(Err(failure)) => {
                debug!(error = %failure.error, "UDP is still blocked");
                self.udp.plan();
                return Some(());
            }
        };
        self.registration.handle_input(now(), input);
        Some(())
    }

    async fn on_online(&mut self, online: Box<Online>) -> Option<LoginInput> {
        self.attempt = None;
        self.error = None;
        self.looks = 0;
        if online.session.is_tcp() {
            self.udp.plan();
        } else {
            self.udp = Udp::default();
        }
        self.events
            .send(RelayEvent::Online(online.session.clone()))
            .await
            .ok()?;
        self.online = Some(online);
        Some(LoginInput::Welcomed)
    }

    async fn on_failure(&mut self, failure: Failure) -> Option<LoginInput> {
        match failure.setback {
            Setback::Retry { .. } => self.abandon(failure.error).await?,
            Setback::Final => {
                self.online = None;
                warn!(error = %failure.error, "the login at the relay is given up");
                self.events
                    .send(RelayEvent::Failed(failure.error))
                    .await
                    .ok()?;
            }
        }
        Some(LoginInput::Lost(failure.setback))
    }

    /// Passes a message on; returns what it means for the login itself.
    async fn on_frame(&mut self, frame: &Frame) -> Option<Option<LoginInput>> {
        let message = match FromRelay::decode(frame) {
            Ok(Some(message)) => message,
            Ok(None) => return Some(None),
            Err(error) => {
                let failure = Failure::unreachable(format!("the relay is not understood: {error}"));
                return self.on_failure(failure).await.map(Some);
            }
        };
        match message {
            FromRelay::Pong(pong) => Some(Some(LoginInput::Pong(pong.nonce))),
            // The newest login counts, and that is ours over UDP, about to be welcomed.
            FromRelay::Goodbye(goodbye)
                if goodbye.code == reason::REPLACED && self.udp.attempt.is_some() =>
            {
                self.udp.superseded = true;
                self.online = None;
                Some(None)
            }
            FromRelay::Goodbye(goodbye) => {
                let failure = Failure::refused(goodbye.code, goodbye.message, 0);
                self.on_failure(failure).await.map(Some)
            }
            message => self
                .events
                .send(RelayEvent::Message(message))
                .await
                .ok()
                .map(|()| None),
        }
    }

    fn look(&mut self) {
        self.looks = (self.looks + 1).min(MTU_LOOKS.len() - 1);
        if let Some(Online { session, .. }) = self.online.as_deref()
            && let Wire::Quic(connection) = &session.wire
        {
            let mtu = connection.stats().path.current_mtu;
            session
                .leg_mtu
                .store(mtu.max(MIN_LEG_MTU), Ordering::Relaxed);
        }
    }
}

async fn wait_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn poll_attempt(attempt: &mut Option<Attempt>) -> Result<Box<Online>, Failure> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

async fn read(online: &mut Option<Box<Online>>) -> Result<Frame, Failure> {
    match online {
        Some(online) => online.reader.next().await,
        None => std::future::pending().await,
    }
}

async fn look_later(online: bool, looks: usize) {
    if online {
        sleep(MTU_LOOKS[looks]).await
    } else {
        std::future::pending().await
    }
}

impl Reader {
    /// The next frame. Cancel safe.
    async fn next(&mut self) -> Result<Frame, Failure> {
        let (connection, stream, decoder, ready) = match self {
            Self::Quic {
                connection,
                stream,
                decoder,
                ready,
            } => (connection, stream, decoder, ready),
            Self::Tcp(frames) => {
                return match frames.recv().await {
                    Some(Ok(frame)) => Ok(frame),
                    Some(Err(why)) => Err(Failure::unreachable(why)),
                    None => Err(Failure::unreachable("the connection to the relay ended")),
                };
            }
        };
        loop {
            if let Some(frame) = ready.pop_front() {
                return Ok(frame);
            }
            match stream.read_chunk(64 << 10, true).await {
                Ok(Some(chunk)) => decoder.push(&chunk.bytes),
                Ok(None) | Err(_) => return Err(ending(connection).await),
            }
            while let Some(frame) = decoder
                .next_frame()
                .map_err(|error| Failure::unreachable(error.to_string()))?
            {
                ready.push_back(frame);
            }
        }
    }
}

/// Why a control stream ended: the connection's end says it, and follows soon if it is not there.
async fn ending(connection: &Connection) -> Failure {
    match timeout(Duration::from_secs(1), connection.closed()).await {
        Ok(ConnectionError::ApplicationClosed(close)) => {
            let message = String::from_utf8_lossy(&close.reason).into_owned();
            match u16::try_from(close.error_code.into_inner()) {
                Ok(code) if code != 0 => Failure::refused(code, message, 0),
                _ => Failure::unreachable(format!("the relay closed the connection: {message}")),
            }
        }
        Ok(error) => Failure::unreachable(error.to_string()),
        Err(_) => Failure::unreachable("the relay ended the login without a word"),
    }
}

impl Login {
    /// A login of `identity` at the relay of this address; a fingerprint in it pins the relay's key.
    ///
    /// # Errors
    /// Where the identity's key cannot be used for TLS.
    pub(crate) fn new(
        identity: &Identity,
        endpoint: quinn::Endpoint,
        socket: Arc<MagicSocket>,
        provider: Arc<dyn SocketProvider>,
        address: RelayAddress,
    ) -> Result<Self, TlsSetupError> {
        let trust = address
            .fingerprint
            .map_or(RelayTrust::WebPki, RelayTrust::Pinned);
        let (config, seen) = quic::relay_client(identity, trust.clone())?;
        let (tcp_config, tcp_seen) = tls::relay_client_tcp(identity, trust)?;
        Ok(Self {
            endpoint,
            socket,
            provider,
            address,
            config,
            seen,
            tcp_config,
            tcp_seen,
            tcp_failure: Mutex::default(),
        })
    }

    /// Whatever reaches the relay first: UDP, and after a head start TCP as well.
    async fn attempt(&self) -> Result<Box<Online>, Failure> {
        let proven = self.race().await?;
        self.greet(proven).await
    }

    /// UDP alone, where TCP carries the login already.
    async fn attempt_udp(&self) -> Result<Box<Online>, Failure> {
        let proven = match timeout(UDP_PATIENCE, self.dial()).await {
            Ok(proven) => proven?,
            Err(_) => return Err(Failure::unreachable("nothing comes back over UDP")),
        };
        self.greet(proven).await
    }

    /// Says hello, and waits for the welcome.
    async fn greet(&self, proven: Proven) -> Result<Box<Online>, Failure> {
        let greeting = async {
            match proven {
                Proven::Quic(connection, address) => self.greet_quic(connection, address).await,
                Proven::Tcp(opened, address) => self.greet_tcp(*opened, address).await,
            }
        };
        match timeout(WELCOME_TIMEOUT, greeting).await {
            Ok(result) => result.map(Box::new),
            Err(_) => Err(Failure::unreachable(format!(
                "{} answers, but not as a relay",
                self.address.redacted()
            ))),
        }
    }

    fn hello(&self) -> ToRelay {
        let token = self.address.token.as_ref();
        ToRelay::from(Hello {
            versions: vec![VERSION],
            capabilities: Vec::new(),
            token: token.map(|token| token.reveal().to_owned()),
        })
    }

    async fn greet_quic(
        &self,
        connection: Connection,
        address: SocketAddr,
    ) -> Result<Online, Failure> {
        let Ok((mut send, stream)) = connection.open_bi().await else {
            return Err(ending(&connection).await);
        };
        let hello = self.hello().encode();
        let hello = hello.map_err(|error| Failure::unreachable(error.to_string()))?;
        if send.write_all(&hello).await.is_err() {
            return Err(ending(&connection).await);
        }
        let mut reader = Reader::Quic {
            connection: connection.clone(),
            stream,
            decoder: FrameDecoder::default(),
            ready: VecDeque::new(),
        };
        let welcome = welcome(&mut reader).await?;
        if let Some(port) = welcome.alternate_port {
            let alternate = SocketAddr::new(address.ip(), port);
            self.socket.tables_mut().relays.push(alternate);
        }
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let mut writer = JoinSet::new();
        writer.spawn(write(send, queue));
        Ok(Online {
            session: Session {
                wire: Wire::Quic(connection),
                address,
                welcome,
                outbox,
                leg_mtu: Arc::new(AtomicU16::new(MIN_LEG_MTU)),
            },
            reader,
            _tasks: Tasks::Quic(writer),
        })
    }

    async fn greet_tcp(&self, opened: tcp::Opened, address: SocketAddr) -> Result<Online, Failure> {
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let tunnel = opened.tunnel.clone();
        let (frames, tasks) = opened.start(self.socket.clone(), queue);
        let mut reader = Reader::Tcp(frames);
        let asked = now();
        // A fresh outbox takes it.
        let _ = outbox.try_send(self.hello());
        let welcome = welcome(&mut reader).await?;
        let wire = Wire::Tcp {
            tunnel,
            port: self.address.port,
            round_trip: now().saturating_duration_since(asked),
        };
        Ok(Online {
            session: Session {
                wire,
                address,
                welcome,
                outbox,
                leg_mtu: Arc::new(AtomicU16::new(carriage::LEG_MTU)),
            },
            reader,
            _tasks: Tasks::Tcp(tasks),
        })
    }
}

/// Reads until the relay welcomes us or says why not.
async fn welcome(reader: &mut Reader) -> Result<Welcome, Failure> {
    loop {
        let frame = reader.next().await?;
        match FromRelay::decode(&frame) {
            Ok(Some(FromRelay::Welcome(welcome))) => return Ok(welcome),
            Ok(Some(FromRelay::Refused(refused))) => {
                let after = refused.retry_after;
                return Err(Failure::refused(refused.code, refused.message, after));
            }
            Ok(Some(FromRelay::Goodbye(goodbye))) => {
                return Err(Failure::refused(goodbye.code, goodbye.message, 0));
            }
            Ok(_) => {}
            Err(error) => return Err(Failure::unreachable(error.to_string())),
        }
    }
}

async fn write(mut stream: SendStream, mut queue: mpsc::Receiver<ToRelay>) {
    while let Some(message) = queue.recv().await {
        match message.encode() {
            Ok(frame) => {
                if stream.write_all(&frame).await.is_err() {
                    return;
                }
            }
            Err(error) => warn!(%error, "a message to the relay is not sent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_no_retry_mends_are_final() {
        for code in [
            reason::TOKEN,
            reason::NOT_ALLOWED,
            reason::VERSION,
            reason::REPLACED,
        ] {
            assert_eq!(
                Failure::refused(code, String::new(), 5).setback,
                Setback::Final,
                "{code}"
            );
        }
        for code in [
            reason::SHUTDOWN,
            reason::FULL,
            reason::LIMITED,
            reason::PROTOCOL,
        ] {
            let setback = Failure::refused(code, String::new(), 0).setback;
            assert_eq!(setback, Setback::Retry { after: None }, "{code}");
        }
        let after = Some(Duration::from_secs(7));
        let limited = Failure::refused(reason::LIMITED, String::new(), 7);
        assert_eq!(limited.setback, Setback::Retry { after });
    }

    #[test]
    fn the_more_telling_failure_is_reported() {
        let quiet = || Failure::unreachable("nothing there");
        let wrong = || Failure::last(AcceptError::WrongKey { presented: None });
        assert_eq!(quiet().or(Some(wrong())).error, wrong().error);
        assert_eq!(wrong().or(Some(quiet())).error, wrong().error);
        assert_eq!(quiet().or(None).error, quiet().error);
    }
}
