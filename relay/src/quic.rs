//! The QUIC endpoints of the control connections: certificate, small windows, and resets that
//! outlive a restart.

use std::sync::Arc;
use std::time::Duration;

use p2p_net_proto::tls;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, VarInt};

use crate::StartError;
use crate::keys::Keys;
use crate::net::QuicSocket;

/// A connection without a sign of life for this long is dead; clients ping more often.
const IDLE_SECONDS: u32 = 30;
/// Bytes in flight each way; a frame of 64 KiB needs no more, since it is read as it comes.
const WINDOW: u32 = 64 * 1_024;
/// Connections that wait to be looked at, at most, and the bytes that they may bring.
const MAX_INCOMING: usize = 512;
const MAX_INCOMING_BYTES: u64 = 4 * 1_024;
const MAX_INCOMING_BYTES_TOTAL: u64 = 2 << 20;

/// What the endpoints of a relay have in common.
pub(crate) struct Setup {
    server: quinn::ServerConfig,
    reset: ring::hmac::Key,
}

impl Setup {
    pub(crate) fn new(keys: Keys) -> Result<Self, StartError> {
        let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &keys.reset);
        let tls = tls::relay_server(vec![keys.certificate], keys.key).map_err(StartError::Tls)?;
        let tls = QuicServerConfig::try_from(tls)
            .map_err(|error| StartError::Io(std::io::Error::other(error)))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server
            .transport_config(Arc::new(transport()))
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(MAX_INCOMING_BYTES)
            .incoming_buffer_size_total(MAX_INCOMING_BYTES_TOTAL);
        Ok(Self { server, reset })
    }

    /// The endpoint of one port.
    pub(crate) fn endpoint(&self, port: u16, socket: Arc<QuicSocket>) -> std::io::Result<Endpoint> {
        // A key for each port: otherwise a port that does not know a connection of the other one
        // would give away the token that ends it (RFC 9000 §21.11).
        let derived = ring::hmac::sign(&self.reset, &port.to_be_bytes());
        let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, derived.as_ref());
        let mut config = EndpointConfig::new(Arc::new(reset));
        config
            .grease_quic_bit(false)
            .cid_generator(|| Box::new(ConnectionIds));
        Endpoint::new_with_abstract_socket(
            config,
            Some(self.server.clone()),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
    }
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            IDLE_SECONDS * 1_000,
        ))))
        .initial_mtu(1_200)
        .initial_rtt(Duration::from_millis(100));
    transport
}

/// Connection ids of 8 bytes: the number of the core that serves the connection, then random ones.
/// Any id is held for possible, so that connections of an earlier run are reset instead of ignored.
struct ConnectionIds;

/// There is one core so far.
const CORE: u8 = 0;
const CONNECTION_ID_LEN: usize = 8;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id: [u8; CONNECTION_ID_LEN] = rand::random();
        id[0] = CORE;
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
