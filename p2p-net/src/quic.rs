//! QUIC between peers and to the relay: transport parameters for paths that change below the connection
//! (`connectivity.md` §5.2), the peer's key as its TLS identity, and the codes of our closes.

use std::sync::Arc;
use std::time::Duration;

use p2p_net_proto::tls::{self, RelayTrust, SeenKey, TlsSetupError};
use p2p_net_proto::{Identity, PeerId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use ring::hmac;

use crate::congestion::{PathControllers, PathSwitch};

/// QUIC's minimum, with which every path starts, bytes (`wire.md` §1).
const INITIAL_MTU: u16 = 1_200;
/// Largest packet between peers, so that it fits a 1,452-byte leg behind our header, bytes (`wire.md` §1).
const PEER_MTU_MAX: u16 = 1_436;
/// Largest packet to the relay, bytes: what it proves, relayed packets with their header may use.
const RELAY_MTU_MAX: u16 = 1_452;
/// A peer may be away for this long and its connection lives on (`wire.md` §1).
const PEER_IDLE: Duration = Duration::from_secs(120);
/// The login's own pings notice a dead relay earlier; this is the net below them.
const RELAY_IDLE: Duration = Duration::from_secs(30);
/// Of one stream, bytes (`files.md` §6).
const STREAM_WINDOW: u32 = 2 << 20;
/// Of all streams of a connection together, bytes.
const RECEIVE_WINDOW: u32 = 16 << 20;
/// Sent and not acknowledged, bytes.
pub(crate) const SEND_WINDOW: u64 = 16 << 20;
/// The same in a call, which streams must not hold up by what they have in store here: 20 Mbit/s at 100 ms.
pub(crate) const CALL_SEND_WINDOW: u64 = 256 << 10;
/// Datagrams of a peer that wait to be read at most, bytes; the oldest gives way.
const DATAGRAM_RECEIVE_BUFFER: usize = 512 << 10;
/// Datagrams that wait to be sent at most, bytes; the oldest gives way. Small on purpose: who sends in real
/// time queues for itself, where it can choose what to drop; here waits no more than one frame.
pub(crate) const DATAGRAM_SEND_BUFFER: usize = 16 << 10;
/// Streams that a peer may have open, of each kind.
const BIDI_STREAMS: u32 = 64;
const UNI_STREAMS: u32 = 256;
/// Length of our connection ids, bytes.
const CID_LEN: usize = 8;

/// Application codes of closes that p2p-net makes itself (applications use smaller ones).
pub(crate) mod code {
    /// Both dialled, and the other connection stays.
    pub(crate) const GLARE: u32 = 0x4c4c_0001;
    /// A newer connection of the same peer took its place.
    pub(crate) const SUPERSEDED: u32 = 0x4c4c_0002;
    /// The key is not that of the address.
    pub(crate) const WRONG_PEER: u32 = 0x4c4c_0003;
    /// The endpoint is closed.
    pub(crate) const CLOSED: u32 = 0x4c4c_0004;
}

/// Everything that connections are made from.
pub(crate) struct Quic {
    client: Arc<QuicClientConfig>,
    server: ServerConfig,
}

impl Quic {
    /// # Errors
    /// Where the identity's key cannot be used for TLS.
    pub(crate) fn new(identity: &Identity) -> Result<Self, TlsSetupError> {
        let client = QuicClientConfig::try_from(tls::peer_client(identity)?).map_err(no_suite)?;
        let server = QuicServerConfig::try_from(tls::peer_server(identity)?).map_err(no_suite)?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        // Addresses of peers are virtual and never change; who sends from elsewhere is somebody else.
        server.migration(false);
        Ok(Self {
            client: Arc::new(client),
            server,
        })
    }

    /// For dialling a peer whose path is turned by `switch`.
    pub(crate) fn dialling(&self, switch: &Arc<PathSwitch>) -> ClientConfig {
        let mut config = ClientConfig::new(self.client.clone());
        config.transport_config(Arc::new(peer_transport(switch)));
        config
    }

    /// For accepting a peer whose path is turned by `switch`.
    pub(crate) fn accepting(&self, switch: &Arc<PathSwitch>) -> Arc<ServerConfig> {
        let mut config = self.server.clone();
        config.transport_config(Arc::new(peer_transport(switch)));
        Arc::new(config)
    }

    /// For an endpoint: every accepted connection gets [`Quic::accepting`] instead.
    pub(crate) fn server(&self) -> ServerConfig {
        self.server.clone()
    }
}

/// For dialling a relay, and where the key that it presents is noted.
///
/// # Errors
/// Where the identity's key cannot be used for TLS.
pub(crate) fn relay_client(
    identity: &Identity,
    trust: RelayTrust,
) -> Result<(ClientConfig, SeenKey), TlsSetupError> {
    let (client, seen) = tls::relay_client(identity, trust)?;
    let mut config = ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(client).map_err(no_suite)?,
    ));
    config.transport_config(Arc::new(relay_transport()));
    Ok((config, seen))
}

/// An endpoint whose stateless resets outlive a restart: the key follows from the identity, so that a peer
/// learns at once that its connection to our former life is gone (RFC 9000 §10.3).
pub(crate) fn endpoint(identity: &Identity) -> EndpointConfig {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &identity.secret());
    let reset = hmac::sign(&secret, b"landline stateless reset");
    let key = hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref());
    let mut config = EndpointConfig::new(Arc::new(key));
    // Probes and relayed data are told from QUIC by the bit that greasing would clear (`wire.md` §2).
    config.grease_quic_bit(false);
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// The peer whose key the other end has proven to hold. Resumption skips the certificate verifier, so this
/// is asked after every handshake (`wire.md` §4).
pub(crate) fn authenticated_peer(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    tls::peer_of_certificate(chain.first()?)
}

fn peer_transport(switch: &Arc<PathSwitch>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(PEER_MTU_MAX)
        .interval(Duration::from_secs(60));
    transport
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(idle(PEER_IDLE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .congestion_controller_factory(Arc::new(PathControllers::new(switch.clone())));
    transport
}

fn relay_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(RELAY_MTU_MAX)
        .interval(Duration::from_secs(60));
    transport
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(idle(RELAY_IDLE))
        .stream_receive_window(VarInt::from_u32(256 << 10))
        .receive_window(VarInt::from_u32(512 << 10))
        .send_window(512 << 10)
        .datagram_receive_buffer_size(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    transport
}

fn idle(timeout: Duration) -> Option<IdleTimeout> {
    IdleTimeout::try_from(timeout).ok()
}

fn no_suite(_: quinn::crypto::rustls::NoInitialCipherSuite) -> TlsSetupError {
    quinn::rustls::Error::General("no cipher suite for QUIC's first packets".to_owned()).into()
}

/// Random connection ids. quinn's own carry a mark of the process, and a restarted process would not
/// answer ids of its former life with a reset.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; CID_LEN]>())
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use quinn::crypto::HmacKey;

    use super::*;

    #[test]
    fn connection_ids_do_not_repeat() {
        let mut ids = RandomIds;
        let first = ids.generate_cid();
        assert_eq!(first.len(), CID_LEN);
        assert_ne!(first, ids.generate_cid());
    }

    #[test]
    fn a_peer_has_no_limit_that_its_other_half_would_break() {
        // A peer's packet fits the relay leg behind our header.
        assert!(
            usize::from(PEER_MTU_MAX) + p2p_net_proto::HEADER_LEN <= usize::from(RELAY_MTU_MAX)
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        assert_eq!(key.signature_len(), 32);
    }
}
