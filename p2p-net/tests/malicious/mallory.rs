//! Mallory: the relay's own QUIC endpoint with an identity of her own, set in the middle of channels. She
//! has everything that a relay can have: her own key, other peers' public certificates, and the packets.

use std::sync::{Arc, Mutex, PoisonError};

use p2p_net_proto::{ChannelId, Identity, PeerId, tls};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::relay::Hub;
use super::socket::{FAR_END, Pipe, PipeEnd};

/// See the module. She vanishes when dropped.
pub(crate) struct Mallory {
    hub: Arc<Hub>,
    number: u32,
    identity: Identity,
    endpoint: quinn::Endpoint,
    crypto: Arc<ClientConfig>,
    calling: Calling,
    pump: AbortHandle,
}

/// Who waits for the first packet of a call: it travels inside the channel-offer.
type Calling = Arc<Mutex<Option<oneshot::Sender<Vec<u8>>>>>;

impl Mallory {
    /// An endpoint that shows Mallory's own certificate, or the public one of `stolen` with her own key
    /// under it, since nobody gave her the right one.
    pub(crate) fn new(hub: &Arc<Hub>, number: u32, stolen: Option<&Identity>) -> Self {
        let identity = Identity::from_secret([0xe0 + u8::try_from(number).expect("few"); 32]);
        let mut server = (*tls::peer_server(&identity).expect("TLS")).clone();
        let mut client = (*tls::peer_client(&identity).expect("TLS")).clone();
        if let Some(stolen) = stolen {
            let mask = Arc::new(Mask::new(&identity, stolen));
            server.cert_resolver = Arc::clone(&mask) as Arc<dyn ResolvesServerCert>;
            client.client_auth_cert_resolver = mask;
        }
        let (pipe, end) = Pipe::new();
        let endpoint = endpoint(pipe, server);
        let PipeEnd {
            to_quic,
            mut from_quic,
        } = end;
        hub.state().mallories.insert(number, to_quic);
        let calling = Calling::default();
        let pump = tokio::spawn({
            let (hub, calling) = (Arc::clone(hub), Arc::clone(&calling));
            async move {
                while let Some(packet) = from_quic.recv().await {
                    let initial = packet.first().is_some_and(|byte| byte & 0xf0 == 0xc0);
                    let mut calling = calling.lock().unwrap_or_else(PoisonError::into_inner);
                    match calling.take_if(|_| initial) {
                        Some(call) => drop(call.send(packet)),
                        None => hub.on_mallory(number, packet),
                    }
                }
            }
        })
        .abort_handle();
        let (hub, crypto) = (Arc::clone(hub), Arc::new(client));
        Self {
            hub,
            number,
            identity,
            endpoint,
            crypto,
            calling,
            pump,
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number by which the relay knows her.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The next connection that somebody whom she deceived completes with her.
    pub(crate) async fn deceived(&self) -> Result<quinn::Connection, quinn::ConnectionError> {
        let incoming = self
            .endpoint
            .accept()
            .await
            .ok_or(quinn::ConnectionError::LocallyClosed)?;
        incoming.await
    }

    /// Waits until the one at the other end has given the channel up.
    pub(crate) async fn is_hung_up(&self, channel: ChannelId) {
        self.hub.until(|state| !state.has_channel(channel)).await;
    }

    /// Calls `victim` in the name of `claimed`, with `sealed` as her offer, and returns her side of the
    /// QUIC handshake and the channel.
    pub(crate) async fn call(
        &self,
        claimed: PeerId,
        victim: PeerId,
        sealed: Vec<u8>,
    ) -> (quinn::Connecting, ChannelId) {
        let (call, first) = oneshot::channel();
        *self.calling.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        let crypto = QuicClientConfig::try_from(Arc::clone(&self.crypto)).expect("TLS 1.3");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = self
            .endpoint
            .connect_with(config, FAR_END, &tls::server_name(&victim))
            .expect("a usable configuration");
        let flight = vec![first.await.expect("the endpoint sends at once")];
        let channel = self
            .hub
            .offer_as(self.number, claimed, victim, sealed, flight)
            .expect("the victim is here");
        (connecting, channel)
    }
}

impl Drop for Mallory {
    fn drop(&mut self) {
        self.pump.abort();
        self.endpoint.close(quinn::VarInt::from_u32(0), b"");
    }
}

fn endpoint(pipe: Arc<Pipe>, server: ServerConfig) -> quinn::Endpoint {
    let crypto = QuicServerConfig::try_from(server).expect("TLS 1.3");
    let mut config = quinn::EndpointConfig::default();
    config.grease_quic_bit(false);
    quinn::Endpoint::new_with_abstract_socket(
        config,
        Some(quinn::ServerConfig::with_crypto(Arc::new(crypto))),
        pipe,
        Arc::new(quinn::TokioRuntime),
    )
    .expect("an endpoint")
}

/// Somebody else's public certificate over Mallory's key.
#[derive(Debug)]
struct Mask(Arc<CertifiedKey>);

impl Mask {
    fn new(mallory: &Identity, stolen: &Identity) -> Self {
        let (certificate, _) = tls::certificate(stolen).expect("a certificate");
        let (_, key) = tls::certificate(mallory).expect("a certificate");
        let PrivateKeyDer::Pkcs8(key) = key else {
            panic!("identity keys are PKCS #8")
        };
        let key = any_eddsa_type(&key).expect("an Ed25519 key");
        Self(Arc::new(CertifiedKey::new(vec![certificate], key)))
    }
}

impl ResolvesServerCert for Mask {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Mask {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
