//! TLS 1.3 between keys that know each other: rustls configurations whose verifiers compare the key
//! in the certificate with the one that is expected, and check the handshake signature. There is no
//! CA between peers and no "accept any" server.
//!
//! A certificate here is only a wrapping for a key: its names and dates are not looked at, except
//! under [`RelayTrust::WebPki`].
//!
//! A resumed connection skips the verifier, so whoever completes a handshake compares
//! [`peer_of_certificate`] of what the connection reports with the key that it expects, resumed or
//! not. The same holds for incoming connections, which any peer may open.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::pkcs8::EncodePrivateKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ServerSessionMemoryCache;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme,
};
use sha2::{Digest, Sha256};

use crate::identity::verifying_key;
use crate::{Fingerprint, Identity, PeerId};

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// The certificate could not be made.
    #[error("making the certificate failed")]
    Certificate(#[from] rcgen::Error),
    /// rustls refuses key, certificate or settings.
    #[error("setting up TLS failed")]
    Rustls(#[from] rustls::Error),
}

/// ALPN of a peer connection.
pub const ALPN_PEER: &[u8] = b"landline/1";
/// ALPN of the control connection to a relay.
pub const ALPN_RELAY: &[u8] = b"landline-relay/1";

/// What follows the id in the server name of a peer; `.invalid` is in no DNS (RFC 6761 §6.4).
const PEER_SUFFIX: &str = ".peer.invalid";

/// Sessions that a dialling side remembers for resumption, over all servers.
const CLIENT_SESSIONS: usize = 256;
/// Sessions that an accepting peer remembers.
const PEER_SESSIONS: usize = 256;
/// Sessions that a relay remembers; each takes about 1 KiB.
const RELAY_SESSIONS: usize = 4096;

/// How a relay's certificate is judged.
#[derive(Debug, Clone)]
pub enum RelayTrust {
    /// Its key must have this fingerprint.
    Pinned(Fingerprint),
    /// The web's certificate authorities must vouch for its host name.
    WebPki,
}

/// The fingerprint that a relay last presented, whether or not it was accepted: so that an error can
/// name it, and a user can be asked once and the key remembered.
///
/// A resumed session presents none; the one before it stays.
#[derive(Debug, Clone, Default)]
pub struct SeenKey(Arc<Mutex<Option<Fingerprint>>>);

impl SeenKey {
    /// The fingerprint, if a handshake got that far.
    pub fn get(&self) -> Option<Fingerprint> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fingerprint: Option<Fingerprint>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fingerprint;
    }
}

/// The TLS server name under which `peer` is dialled: `<PeerId>.peer.invalid`.
pub fn server_name(peer: &PeerId) -> String {
    format!("{peer}{PEER_SUFFIX}")
}

/// The peer whose Ed25519 key a certificate carries, or `None` for any other kind of key and for
/// weak ones.
///
/// It says nothing about who holds the key: only a completed handshake does.
pub fn peer_of_certificate(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    /// SubjectPublicKeyInfo of an Ed25519 key up to its 32 bytes (RFC 8410 §4).
    const PREFIX: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let info = public_key_info(certificate)?;
    let key: [u8; 32] = info.strip_prefix(&PREFIX)?.try_into().ok()?;
    let peer = PeerId::from_bytes(key);
    verifying_key(&peer).ok()?;
    Some(peer)
}

/// The fingerprint of the key that a certificate carries.
pub fn fingerprint_of_certificate(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    let info = public_key_info(certificate)?;
    Some(Fingerprint(Sha256::digest(info).into()))
}

/// The DER of the certificate's SubjectPublicKeyInfo.
fn public_key_info(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(certificate.subject_public_key_info().to_vec())
}

/// A self-signed certificate (rcgen) over the identity's own key, and that key for rustls.
///
/// # Errors
/// [`TlsSetupError::Certificate`].
pub fn certificate(
    identity: &Identity,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsSetupError> {
    let document = identity
        .signing
        .to_pkcs8_der()
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    let key = PrivatePkcs8KeyDer::from(document.as_bytes());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)?;
    let params = rcgen::CertificateParams::new(vec![server_name(&identity.id())])?;
    let certificate = params.self_signed(&pair)?;
    Ok((certificate.der().clone(), key.clone_key().into()))
}

/// For dialling peers: mutual TLS 1.3, ALPN [`ALPN_PEER`], SNI off; the expected key is read from the
/// server name ([`server_name`]), so one configuration serves every peer and resumption caches stay apart.
///
/// # Errors
/// [`TlsSetupError`].
pub fn peer_client(identity: &Identity) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let provider = provider();
    let verifier = Arc::new(PeerVerifier::new(&provider));
    Ok(Arc::new(client(identity, provider, verifier, ALPN_PEER)?))
}

/// For accepting peers: demands a client certificate with an Ed25519 key and proves possession of it;
/// *which* key it is, the endpoint compares with the virtual address afterwards. Stateful resumption only.
///
/// # Errors
/// [`TlsSetupError`].
pub fn peer_server(identity: &Identity) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let (certificate, key) = certificate(identity)?;
    Ok(Arc::new(server(
        vec![certificate],
        key,
        ALPN_PEER,
        PEER_SESSIONS,
        PeerVerifier::new(&provider()),
    )?))
}

/// For dialling a relay: mutual TLS 1.3 with our identity, ALPN [`ALPN_RELAY`].
///
/// The server name given when dialling matters under [`RelayTrust::WebPki`] only, where it is also
/// sent as SNI; a pinned relay may be dialled by any name or IP address.
///
/// # Errors
/// [`TlsSetupError`].
pub fn relay_client(
    identity: &Identity,
    trust: RelayTrust,
) -> Result<(Arc<ClientConfig>, SeenKey), TlsSetupError> {
    let provider = provider();
    let seen = SeenKey::default();
    let by_name = matches!(trust, RelayTrust::WebPki);
    let verifier = Arc::new(RelayVerifier::new(&provider, trust, seen.clone())?);
    let mut config = client(identity, provider, verifier, ALPN_RELAY)?;
    config.enable_sni = by_name;
    Ok((Arc::new(config), seen))
}

/// For dialling a relay over TCP (`wire.md` §4): as [`relay_client`], but with the ALPN of plain HTTPS,
/// behind which the WebSocket is.
///
/// # Errors
/// [`TlsSetupError`].
pub fn relay_client_tcp(
    identity: &Identity,
    trust: RelayTrust,
) -> Result<(Arc<ClientConfig>, SeenKey), TlsSetupError> {
    let (config, seen) = relay_client(identity, trust)?;
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![crate::carriage::ALPN.to_vec()];
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok((Arc::new(config), seen))
}

/// For a relay over TCP: as [`relay_server`], but a client without a certificate is let in, to see a page
/// that does no harm; whoever wants more than that is asked for [`peer_of_certificate`].
///
/// # Errors
/// [`TlsSetupError::Rustls`] where certificate and key do not fit.
pub fn relay_server_tcp(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let mut verifier = PeerVerifier::new(&provider());
    verifier.mandatory = false;
    let alpn = crate::carriage::ALPN;
    let config = server(certificates, key, alpn, RELAY_SESSIONS, verifier)?;
    Ok(Arc::new(config))
}

/// For a relay: presents `certificates`, demands a client certificate with an Ed25519 key (any), ALPN
/// [`ALPN_RELAY`].
///
/// # Errors
/// [`TlsSetupError::Rustls`] where certificate and key do not fit.
pub fn relay_server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsSetupError> {
    Ok(Arc::new(server(
        certificates,
        key,
        ALPN_RELAY,
        RELAY_SESSIONS,
        PeerVerifier::new(&provider()),
    )?))
}

/// What all dialling sides have in common.
fn client(
    identity: &Identity,
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    alpn: &[u8],
) -> Result<ClientConfig, TlsSetupError> {
    let (certificate, key) = certificate(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(config)
}

/// What all accepting sides have in common. The session cache is stateful and in memory: rustls's
/// default is to make no self-contained tickets, so a restart costs a full handshake and no key
/// outlives the process. QUIC knows only 0 and `u32::MAX` for the early data size (RFC 9001 §4.6.1).
fn server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
    sessions: usize,
    verifier: PeerVerifier,
) -> Result<ServerConfig, TlsSetupError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(sessions);
    config.max_early_data_size = 0;
    Ok(config)
}

/// ring, named here: a process-wide default could be somebody else's.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Why a verifier refuses; the name of the variant ends up in the connection's error.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the certificate carries no usable Ed25519 key")]
    NoIdentity,
    #[error("the server name is not that of a peer")]
    NoPeerName,
    #[error("the peer holds another key than the one that was dialled")]
    OtherPeer,
    #[error("the relay presented a key other than the pinned one")]
    OtherRelay,
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

fn refuse_tls12() -> rustls::Error {
    PeerIncompatible::Tls12NotOfferedOrEnabled.into()
}

/// Judges peers on both sides: as a client by the id in the server name, as a server by the kind of
/// key alone.
#[derive(Debug)]
struct PeerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// Whether a client must show a certificate.
    mandatory: bool,
}

impl PeerVerifier {
    fn new(provider: &CryptoProvider) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
            mandatory: true,
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(Refusal::NoIdentity.into());
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let expected = peer_of_name(server_name).ok_or(Refusal::NoPeerName)?;
        let presented = peer_of_certificate(end_entity).ok_or(Refusal::NoIdentity)?;
        if presented != expected {
            return Err(Refusal::OtherPeer.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        peer_of_certificate(end_entity).ok_or(Refusal::NoIdentity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The peer that a server name stands for.
fn peer_of_name(name: &ServerName<'_>) -> Option<PeerId> {
    let ServerName::DnsName(name) = name else {
        return None;
    };
    name.as_ref().strip_suffix(PEER_SUFFIX)?.parse().ok()
}

/// Judges a relay, after noting which key it showed.
struct RelayVerifier {
    judge: RelayJudge,
    algorithms: WebPkiSupportedAlgorithms,
    seen: SeenKey,
}

enum RelayJudge {
    Pinned(Fingerprint),
    WebPki(Arc<WebPkiServerVerifier>),
}

impl RelayVerifier {
    fn new(
        provider: &Arc<CryptoProvider>,
        trust: RelayTrust,
        seen: SeenKey,
    ) -> Result<Self, TlsSetupError> {
        let judge = match trust {
            RelayTrust::Pinned(fingerprint) => RelayJudge::Pinned(fingerprint),
            RelayTrust::WebPki => {
                let roots = RootCertStore {
                    roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
                };
                RelayJudge::web(roots, provider)?
            }
        };
        Ok(Self {
            judge,
            algorithms: provider.signature_verification_algorithms,
            seen,
        })
    }
}

impl RelayJudge {
    fn web(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, TlsSetupError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self::WebPki(verifier))
    }
}

impl fmt::Debug for RelayVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.judge {
            RelayJudge::Pinned(_) => "RelayVerifier(pinned)",
            RelayJudge::WebPki(_) => "RelayVerifier(web)",
        })
    }
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = fingerprint_of_certificate(end_entity);
        self.seen.set(presented);
        match &self.judge {
            RelayJudge::Pinned(expected) if presented == Some(*expected) => {
                Ok(ServerCertVerified::assertion())
            }
            RelayJudge::Pinned(_) => Err(Refusal::OtherRelay.into()),
            RelayJudge::WebPki(verifier) => verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
