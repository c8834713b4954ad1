//! Public: a connection to one peer. Streams, datagrams, a watch on the path, statistics.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use p2p_net_proto::{NotDirect, PathInfo, PathKind, PeerId};
use quinn::{RecvStream, SendDatagramError, SendStream, VarInt};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::link::{Link, Totals};
use crate::quic::{CALL_SEND_WINDOW, SEND_WINDOW, code};
use crate::rate::{RateControl, RateMode};
use crate::{ConnectionError, DatagramError};

/// Datagrams that begin with these bits are p2p-net's own (`wire.md` §3).
const RESERVED: u8 = 0b1100_0000;
/// Kind of our datagram that says: this side's packets take another path.
const SWITCHED: u8 = 0xc0;
/// One datagram so often keeps the connection from timing out (`wire.md` §1).
const KEEP_INTERVAL: Duration = Duration::from_secs(50);
/// The same in a call, where a dead path must be noticed although everybody is silent.
const CALL_KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Datagrams that wait for [`Connection::read_datagram`] at most; the oldest gives way.
const MAX_DATAGRAMS: usize = 1_024;
/// Paths that [`Connection::history`] remembers at most: at one flap a minute, an hour.
const MAX_HISTORY: usize = 64;

/// A QUIC connection whose other end has proven to hold the key of [`Connection::peer`]. Clones share it; it
/// closes when the last clone is dropped, streams or not.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

/// What carries a connection, and its counters since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// What carries the packets now.
    pub path: PathKind,
    /// The peer's address on a direct path.
    pub remote: Option<SocketAddr>,
    /// Why the path is not direct; `None` where it is.
    pub not_direct: Option<NotDirect>,
    /// Smoothed round trip of the direct path from probes, microseconds.
    pub direct_round_trip_micros: Option<u64>,
    /// UDP payload bytes sent over direct paths.
    pub direct_sent_bytes: u64,
    /// UDP payload bytes received over direct paths.
    pub direct_received_bytes: u64,
    /// UDP payload bytes sent through the relay, headers included.
    pub relayed_sent_bytes: u64,
    /// UDP payload bytes received through the relay, headers included.
    pub relayed_received_bytes: u64,
    /// QUIC's smoothed round trip, microseconds.
    pub round_trip_micros: u64,
    /// QUIC packets sent.
    pub sent_packets: u64,
    /// QUIC packets declared lost.
    pub lost_packets: u64,
    /// QUIC's congestion window, bytes.
    pub congestion_window: u64,
    /// QUIC's packet size limit, bytes.
    pub mtu: u16,
    /// Changes of path.
    pub path_switches: u32,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> PeerId {
        self.inner.peer
    }

    /// Whether we dialled.
    pub fn is_dialler(&self) -> bool {
        self.inner.dialler
    }

    /// Tells this connection from others of this process while it lives; clones have the same.
    pub fn stable_id(&self) -> usize {
        self.inner.quinn.stable_id()
    }

    /// Opens a bidirectional stream; the peer sees it with its first byte.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.inner
            .quinn
            .open_bi()
            .await
            .map_err(|error| self.inner.error(&error))
    }

    /// The next bidirectional stream that the peer opened. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn accept(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.inner
            .quinn
            .accept_bi()
            .await
            .map_err(|error| self.inner.error(&error))
    }

    /// Opens a unidirectional stream.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        self.inner
            .quinn
            .open_uni()
            .await
            .map_err(|error| self.inner.error(&error))
    }

    /// The next unidirectional stream that the peer opened. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        self.inner
            .quinn
            .accept_uni()
            .await
            .map_err(|error| self.inner.error(&error))
    }

    /// Sends an unreliable datagram; the oldest queued one gives way where the path is too slow.
    ///
    /// # Errors
    /// [`DatagramError`].
    pub fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        if is_reserved(&datagram) {
            return Err(DatagramError::Reserved);
        }
        self.inner
            .quinn
            .send_datagram(datagram)
            .map_err(|error| match error {
                SendDatagramError::ConnectionLost(error) => self.inner.error(&error).into(),
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled => DatagramError::TooLarge,
            })
    }

    /// The next datagram. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        loop {
            let arrival = self.inner.datagrams.arrival.notified();
            if let Some(datagram) = self.inner.datagrams.pop() {
                return Ok(datagram);
            }
            if let Some(error) = self.inner.quinn.close_reason() {
                return Err(self.inner.error(&error));
            }
            arrival.await;
        }
    }

    /// The largest datagram that [`Connection::send_datagram`] takes now, bytes.
    pub fn max_datagram_size(&self) -> usize {
        self.inner.quinn.max_datagram_size().unwrap_or(0)
    }

    /// Bytes that may still be queued for sending before the oldest datagram gives way.
    pub fn datagram_send_buffer_space(&self) -> usize {
        self.inner.quinn.datagram_send_buffer_space()
    }

    /// With which a call takes congestion control over. One block a peer: a call that outlives this
    /// connection rules the next one, too.
    pub fn rate_control(&self) -> RateControl {
        RateControl::new(self.inner.link.switch.clone())
    }

    /// Whether the direct path has been silent for suspiciously long, and will be left if it stays so. A little
    /// traffic goes through the relay as well by then, unless [`crate::Duplicate`] forbids it.
    pub fn is_path_suspect(&self) -> bool {
        self.inner.link.is_suspect()
    }

    /// The path now, and each change of it.
    pub fn path(&self) -> watch::Receiver<PathInfo> {
        self.inner.path.clone()
    }

    /// The paths so far, the present one last: each with what it was, since when, its last round trip, and why
    /// it was not direct. At most 64; the oldest go.
    pub fn history(&self) -> Vec<PathInfo> {
        // What the attendant has not noticed yet belongs to it.
        self.inner.history.note(*self.inner.path.borrow());
        self.inner.history.all()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let (now, before) = (self.inner.link.totals(), self.inner.before);
        let quinn = self.inner.quinn.stats();
        let path = *self.inner.path.borrow();
        Stats {
            path: path.kind,
            remote: path.remote,
            not_direct: path.not_direct,
            direct_round_trip_micros: path.round_trip.map(micros),
            direct_sent_bytes: now.direct_sent - before.direct_sent,
            direct_received_bytes: now.direct_received - before.direct_received,
            relayed_sent_bytes: now.relayed_sent - before.relayed_sent,
            relayed_received_bytes: now.relayed_received - before.relayed_received,
            round_trip_micros: micros(quinn.path.rtt),
            sent_packets: quinn.path.sent_packets,
            lost_packets: quinn.path.lost_packets,
            congestion_window: quinn.path.cwnd,
            mtu: quinn.path.current_mtu,
            path_switches: path.switches.wrapping_sub(self.inner.switches),
        }
    }

    /// Ends the connection with a code and a reason for the peer. Codes from `0x4c4c_0000` to
    /// `0x4c4c_ffff` are p2p-net's own.
    pub fn close(&self, code: u32, reason: &str) {
        self.inner
            .quinn
            .close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits for the end and says why.
    pub async fn closed(&self) -> ConnectionError {
        let error = self.inner.quinn.closed().await;
        self.inner.error(&error)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.quinn.close_reason().is_some()
    }

    /// Sets the reason that programs hear for the end that follows.
    pub(crate) fn condemn(&self, why: ConnectionError) {
        *lock(&self.inner.verdict) = Some(why);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.inner.peer)
            .field("dialler", &self.inner.dialler)
            .finish_non_exhaustive()
    }
}

impl From<Arc<Inner>> for Connection {
    fn from(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

/// What the clones of a connection share.
pub(crate) struct Inner {
    quinn: quinn::Connection,
    peer: PeerId,
    dialler: bool,
    link: Arc<Link>,
    path: watch::Receiver<PathInfo>,
    datagrams: Arc<Datagrams>,
    history: Arc<History>,
    verdict: Mutex<Option<ConnectionError>>,
    before: Totals,
    switches: u32,
}

impl Inner {
    pub(crate) fn new(
        quinn: quinn::Connection,
        peer: PeerId,
        dialler: bool,
        link: Arc<Link>,
        path: watch::Receiver<PathInfo>,
    ) -> Self {
        let (before, switches) = (link.totals(), path.borrow().switches);
        let (datagrams, verdict) = (Arc::default(), Mutex::new(None));
        let history = Arc::new(History::default());
        history.note(*path.borrow());
        Self {
            quinn,
            peer,
            dialler,
            link,
            path,
            datagrams,
            history,
            verdict,
            before,
            switches,
        }
    }

    /// What [`attend`] works on.
    pub(crate) fn attended(&self) -> Attended {
        Attended {
            datagrams: self.datagrams.clone(),
            history: self.history.clone(),
            path: self.path.clone(),
        }
    }

    fn error(&self, error: &quinn::ConnectionError) -> ConnectionError {
        use quinn::ConnectionError as Quinn;
        if let Some(verdict) = &*lock(&self.verdict) {
            return verdict.clone();
        }
        match error {
            Quinn::ApplicationClosed(close) => {
                match u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX) {
                    code::GLARE | code::SUPERSEDED => ConnectionError::Superseded,
                    code => ConnectionError::ClosedByPeer {
                        code,
                        reason: String::from_utf8_lossy(&close.reason).into_owned(),
                    },
                }
            }
            Quinn::LocallyClosed => ConnectionError::ClosedByUs,
            Quinn::TimedOut => ConnectionError::TimedOut,
            error => ConnectionError::Broken(error.to_string()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.quinn.close_reason().is_none() {
            self.quinn.close(VarInt::from_u32(0), b"");
        }
    }
}

/// A handle that does not keep its connection.
pub(crate) struct WeakConnection(Weak<Inner>);

impl WeakConnection {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(inner))
    }

    pub(crate) fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(Connection::from)
    }
}

/// What an attendant keeps for a connection.
pub(crate) struct Attended {
    datagrams: Arc<Datagrams>,
    history: Arc<History>,
    path: watch::Receiver<PathInfo>,
}

/// The paths that a connection took.
#[derive(Default)]
struct History(Mutex<VecDeque<PathInfo>>);

impl History {
    /// A new path makes a new entry; what is new about the same path belongs to its entry.
    fn note(&self, info: PathInfo) {
        let mut entries = lock(&self.0);
        match entries.back_mut() {
            Some(last) if (last.kind, last.remote) == (info.kind, info.remote) => {
                last.round_trip = info.round_trip.or(last.round_trip);
                last.not_direct = info.not_direct;
            }
            _ => {
                if entries.len() >= MAX_HISTORY {
                    entries.pop_front();
                }
                entries.push_back(info);
            }
        }
    }

    fn all(&self) -> Vec<PathInfo> {
        lock(&self.0).iter().copied().collect()
    }
}

/// Received datagrams, p2p-net's own taken out.
#[derive(Default)]
pub(crate) struct Datagrams {
    queue: Mutex<VecDeque<Bytes>>,
    arrival: Notify,
}

impl Datagrams {
    fn push(&self, datagram: Bytes) {
        let mut queue = lock(&self.queue);
        if queue.len() >= MAX_DATAGRAMS {
            queue.pop_front();
        }
        queue.push_back(datagram);
        drop(queue);
        self.arrival.notify_one();
    }

    fn pop(&self) -> Option<Bytes> {
        let mut queue = lock(&self.queue);
        let datagram = queue.pop_front();
        if !queue.is_empty() {
            // Another reader may wait, and one arrival may have stood for several.
            self.arrival.notify_one();
        }
        datagram
    }

    fn close(&self) {
        self.arrival.notify_waiters();
        self.arrival.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn is_reserved(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|byte| byte & RESERVED == RESERVED)
}

/// Our datagram that says: packets from here take another path, the `epoch`-th. Its arrival, and its
/// acknowledgement, wake a connection whose timers have backed off.
pub(crate) fn switched(epoch: u32) -> Bytes {
    let mut datagram = vec![SWITCHED];
    datagram.extend_from_slice(&epoch.to_be_bytes());
    datagram.into()
}

/// Attends a connection until it ends: takes datagrams off QUIC whether or not the application reads them,
/// keeps the connection alive, with more care while a call runs, and remembers its paths.
pub(crate) async fn attend(quinn: quinn::Connection, link: Arc<Link>, attended: Attended) {
    let Attended {
        datagrams,
        history,
        mut path,
    } = attended;
    let mut window = SEND_WINDOW;
    loop {
        let mode_changed = link.switch.rate.changed.notified();
        let (interval, wanted) = match link.switch.rate.mode() {
            RateMode::Streams => (KEEP_INTERVAL, SEND_WINDOW),
            RateMode::Call | RateMode::CallAndTransfer => (CALL_KEEP_INTERVAL, CALL_SEND_WINDOW),
        };
        if wanted != window {
            window = wanted;
            quinn.set_send_window(window);
        }
        tokio::select! {
            datagram = quinn.read_datagram() => match datagram {
                Ok(datagram) if is_reserved(&datagram) => {}
                Ok(datagram) => datagrams.push(datagram),
                Err(_) => break,
            },
            () = sleep(interval) => {
                let _ = quinn.send_datagram(switched(link.switch.epoch()));
            }
            () = mode_changed => {}
            Ok(()) = path.changed() => history.note(*path.borrow_and_update()),
        }
    }
    datagrams.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_datagrams_are_told_from_others() {
        assert!(is_reserved(&switched(7)));
        assert_eq!(switched(0x0102_0304)[..], [0xc0, 1, 2, 3, 4]);
        for byte in [0x00, 0x3f, 0x40, 0x7f, 0x80, 0xbf] {
            assert!(!is_reserved(&[byte]), "{byte:#04x}");
        }
        assert!(is_reserved(&[0xff]));
        assert!(!is_reserved(&[]));
    }

    #[tokio::test]
    async fn each_path_has_one_entry_and_the_oldest_go() {
        let since = tokio::time::Instant::now().into_std();
        let path = |port: u16| PathInfo {
            kind: if port == 0 {
                PathKind::Relayed
            } else {
                PathKind::Direct
            },
            remote: (port > 0).then(|| SocketAddr::from(([192, 0, 2, 1], port))),
            round_trip: None,
            since,
            switches: 0,
            not_direct: (port == 0).then_some(NotDirect::Trying),
        };
        let history = History::default();
        history.note(path(0));
        history.note(PathInfo {
            not_direct: Some(NotDirect::Blocked),
            ..path(0)
        });
        let measured = PathInfo {
            round_trip: Some(Duration::from_millis(3)),
            ..path(5)
        };
        history.note(measured);
        // It is measured no more, but was.
        history.note(path(5));
        let all = history.all();
        let [relayed, direct] = all[..] else {
            panic!("two paths: {all:?}")
        };
        assert_eq!(relayed.not_direct, Some(NotDirect::Blocked));
        assert_eq!(direct, measured);
        for port in 1..=100 {
            history.note(path(port));
        }
        let all = history.all();
        assert_eq!(all.len(), MAX_HISTORY);
        assert_eq!((all[0], all[MAX_HISTORY - 1]), (path(37), path(100)));
    }

    #[test]
    fn the_oldest_datagram_gives_way() {
        let datagrams = Datagrams::default();
        for number in 0..=MAX_DATAGRAMS {
            datagrams.push(Bytes::from(number.to_be_bytes().to_vec()));
        }
        assert_eq!(
            datagrams.pop().expect("a datagram")[..],
            1usize.to_be_bytes()
        );
        let rest = std::iter::from_fn(|| datagrams.pop()).count();
        assert_eq!(rest, MAX_DATAGRAMS - 1);
    }
}
