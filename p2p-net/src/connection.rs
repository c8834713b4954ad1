//! Public: a connection to one peer. Streams, datagrams, a watch on the path, statistics.

use bytes::Bytes;
use p2p_net_proto::{PathInfo, PeerId};
use quinn::{RecvStream, SendStream};
use tokio::sync::watch;

use crate::{ConnectionError, DatagramError};

/// A QUIC connection whose other end has proven to hold the key of [`Connection::peer`]. Clones share it.
#[derive(Clone)]
pub struct Connection {
    _todo: (),
}

/// Counters of one connection since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
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
        todo!()
    }

    /// Whether we dialled.
    pub fn is_dialler(&self) -> bool {
        todo!()
    }

    /// Opens a bidirectional stream; the peer sees it with its first byte.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        todo!()
    }

    /// The next bidirectional stream that the peer opened. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn accept(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        todo!()
    }

    /// Opens a unidirectional stream.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        todo!()
    }

    /// The next unidirectional stream that the peer opened. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        todo!()
    }

    /// Sends an unreliable datagram; the oldest queued one gives way where the path is too slow.
    ///
    /// # Errors
    /// [`DatagramError`].
    pub fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        let _ = datagram;
        todo!()
    }

    /// The next datagram. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        todo!()
    }

    /// The largest datagram that [`Connection::send_datagram`] takes now, bytes.
    pub fn max_datagram_size(&self) -> usize {
        todo!()
    }

    /// The path now, and each change of it.
    pub fn path(&self) -> watch::Receiver<PathInfo> {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Ends the connection with a code and a reason for the peer.
    pub fn close(&self, code: u32, reason: &str) {
        let _ = (code, reason);
        todo!()
    }

    /// Waits for the end and says why.
    pub async fn closed(&self) -> ConnectionError {
        todo!()
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        todo!()
    }
}
