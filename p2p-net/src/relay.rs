//! The login at the relay: resolves it, dials it on the endpoint's own port, keeps the control stream, and
//! passes messages on. When to dial, ask and give up is [`Registration`]'s; what messages mean is the
//! driver's. One task.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use p2p_net_proto::codec::{Frame, FrameDecoder};
use p2p_net_proto::tls::{RelayTrust, SeenKey, TlsSetupError};
use p2p_net_proto::wire::{FromRelay, Hello, Ping, ToRelay, VERSION, Welcome, reason};
use p2p_net_proto::{
    ChannelId, Direction, HeaderKey, Identity, LoginInput, LoginOutput, Registration, RelayAddress,
    Setback, channel_key_context,
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, warn};

use crate::link::MIN_LEG_MTU;
use crate::socket::{MagicSocket, canonical, now};
use crate::{AcceptError, SocketProvider, quic};

/// Between the first packets to two addresses of one relay (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one relay that are tried at most.
const MAX_ADDRESSES: usize = 8;
/// A relay that greets later than this is no better than none.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(8);
/// Messages to the relay that wait at most.
const OUTBOX: usize = 256;
/// When to look at the MTU that the control connection has found, after the login.
const MTU_LOOKS: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
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
    pub(crate) connection: Connection,
    /// The relay's address, IPv4 as IPv4.
    pub(crate) address: SocketAddr,
    pub(crate) welcome: Welcome,
    /// Takes messages to the relay; they are lost with the login.
    pub(crate) outbox: mpsc::Sender<ToRelay>,
    /// What fits the way to the relay in one UDP payload, bytes.
    pub(crate) leg_mtu: Arc<AtomicU16>,
}

impl Session {
    /// The header keys of a channel, up and down (`wire.md` §5).
    pub(crate) fn channel_keys(&self, channel: ChannelId) -> Option<(HeaderKey, HeaderKey)> {
        let key = |direction| {
            let mut key = [0; 16];
            let context = channel_key_context(channel, direction);
            let label = p2p_net_proto::CHANNEL_KEY_LABEL;
            self.connection
                .export_keying_material(&mut key, label, &context)
                .ok()?;
            Some(HeaderKey::new(key))
        };
        Some((key(Direction::Up)?, key(Direction::Down)?))
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
    // Held for its drop, which ends the writer.
    _writer: JoinSet<()>,
}

struct Reader {
    stream: RecvStream,
    decoder: FrameDecoder,
    ready: VecDeque<Frame>,
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
}

struct Task {
    login: Arc<Login>,
    registration: Registration,
    events: mpsc::Sender<RelayEvent>,
    attempt: Option<Attempt>,
    online: Option<Box<Online>>,
    error: Option<AcceptError>,
    looks: usize,
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
                    self.attempt = Some(Box::pin(async move { login.attempt().await }));
                }
                LoginOutput::Abandon => {
                    let text = format!("{} does not answer", self.login.address.redacted());
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
        if let Some(online) = self.online.take() {
            online
                .session
                .connection
                .close(VarInt::from_u32(0), b"no answer");
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
            Step::Nudged(Nudging::NetworkChanged) => LoginInput::NetworkChanged,
            Step::Deadline => LoginInput::Timeout,
            Step::Attempted(Ok(online)) => {
                self.attempt = None;
                self.error = None;
                self.looks = 0;
                self.events
                    .send(RelayEvent::Online(online.session.clone()))
                    .await
                    .ok()?;
                self.online = Some(online);
                LoginInput::Welcomed
            }
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
        };
        self.registration.handle_input(now(), input);
        Some(())
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
        if let Some(Online { session, .. }) = self.online.as_deref() {
            let mtu = session.connection.stats().path.current_mtu;
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
        Some(online) => online.reader.next(&online.session.connection).await,
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
    async fn next(&mut self, connection: &Connection) -> Result<Frame, Failure> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            match self.stream.read_chunk(64 << 10, true).await {
                Ok(Some(chunk)) => self.decoder.push(&chunk.bytes),
                Ok(None) | Err(_) => return Err(ending(connection).await),
            }
            while let Some(frame) = self
                .decoder
                .next_frame()
                .map_err(|error| Failure::unreachable(error.to_string()))?
            {
                self.ready.push_back(frame);
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
        let (config, seen) = quic::relay_client(identity, trust)?;
        Ok(Self {
            endpoint,
            socket,
            provider,
            address,
            config,
            seen,
        })
    }

    async fn attempt(&self) -> Result<Box<Online>, Failure> {
        let (connection, address) = self.dial().await?;
        match timeout(WELCOME_TIMEOUT, self.greet(&connection, address)).await {
            Ok(result) => result.map(Box::new),
            Err(_) => Err(Failure::unreachable(format!(
                "{} answers, but not as a relay",
                self.address.redacted()
            ))),
        }
    }

    /// The relay's addresses, families in turn, those first that the resolver prefers.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let host = self.address.host.clone();
        let found = self
            .provider
            .resolve(host, self.address.port)
            .await
            .map_err(|error| {
                Failure::unreachable(format!("{} does not resolve: {error}", self.address.host))
            })?;
        let (v6, v4): (VecDeque<_>, VecDeque<_>) = found
            .into_iter()
            .map(canonical)
            .filter(|address| self.socket.reaches(address))
            .partition(SocketAddr::is_ipv6);
        let (mut first, mut second) = if v6.is_empty() { (v4, v6) } else { (v6, v4) };
        let mut addresses = Vec::new();
        while let Some(address) = first.pop_front() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            if !second.is_empty() {
                std::mem::swap(&mut first, &mut second);
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            let text = format!("{} has no address that we can reach", self.address.host);
            return Err(Failure::unreachable(text));
        }
        Ok(addresses)
    }

    /// The first of the relay's addresses that completes a handshake.
    async fn dial(&self) -> Result<(Connection, SocketAddr), Failure> {
        let mut addresses: VecDeque<_> = self.resolve().await?.into();
        self.socket.tables_mut().relays = addresses.iter().copied().collect();
        let mut attempts = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if let Some(address) = addresses.pop_front() {
                attempts.push(self.handshake(address));
            }
            let pause = async {
                if addresses.is_empty() {
                    std::future::pending().await
                } else {
                    sleep(STAGGER).await
                }
            };
            tokio::select! {
                result = attempts.next() => match result {
                    Some(Ok((connection, address))) => {
                        self.socket.tables_mut().relays = vec![address];
                        return Ok((connection, address));
                    }
                    Some(Err(error)) => failure = Some(error.or(failure)),
                    None => return Err(failure.unwrap_or_else(|| Failure::unreachable("no address"))),
                },
                () = pause => {}
            }
        }
    }

    async fn handshake(&self, address: SocketAddr) -> Result<(Connection, SocketAddr), Failure> {
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), address, &self.address.host)
            .map_err(|error| Failure::unreachable(error.to_string()))?;
        match connecting.await {
            Ok(connection) => Ok((connection, address)),
            Err(error) => Err(self.judge(&error)),
        }
    }

    /// A handshake that failed over the certificate names the key that was presented.
    fn judge(&self, error: &ConnectionError) -> Failure {
        let presented = self.seen.get();
        if let ConnectionError::TransportError(_) = error {
            match self.address.fingerprint {
                Some(expected) if presented.is_some_and(|presented| presented != expected) => {
                    return Failure::last(AcceptError::WrongKey { presented });
                }
                None if presented.is_some() => {
                    return Failure::last(AcceptError::UnknownKey { presented });
                }
                _ => {}
            }
        }
        let relay = self.address.redacted();
        Failure::unreachable(match error {
            ConnectionError::TimedOut => format!("{relay} does not answer"),
            error => format!("{relay} cannot be reached: {error}"),
        })
    }

    async fn greet(&self, connection: &Connection, address: SocketAddr) -> Result<Online, Failure> {
        let Ok((mut send, stream)) = connection.open_bi().await else {
            return Err(ending(connection).await);
        };
        let hello = ToRelay::from(Hello {
            versions: vec![VERSION],
            capabilities: Vec::new(),
            token: self
                .address
                .token
                .as_ref()
                .map(|token| token.reveal().to_owned()),
        });
        let hello = hello
            .encode()
            .map_err(|error| Failure::unreachable(error.to_string()))?;
        if send.write_all(&hello).await.is_err() {
            return Err(ending(connection).await);
        }
        let mut reader = Reader {
            stream,
            decoder: FrameDecoder::default(),
            ready: VecDeque::new(),
        };
        let welcome = loop {
            let frame = reader.next(connection).await?;
            match FromRelay::decode(&frame) {
                Ok(Some(FromRelay::Welcome(welcome))) => break welcome,
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
        };
        if let Some(port) = welcome.alternate_port {
            let alternate = SocketAddr::new(address.ip(), port);
            self.socket.tables_mut().relays.push(alternate);
        }
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let mut writer = JoinSet::new();
        writer.spawn(write(send, queue));
        let session = Session {
            connection: connection.clone(),
            address,
            welcome,
            outbox,
            leg_mtu: Arc::new(AtomicU16::new(MIN_LEG_MTU)),
        };
        Ok(Online {
            session,
            reader,
            _writer: writer,
        })
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
