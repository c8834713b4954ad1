//! TLS 1.3 between keys that know each other: rustls configurations whose verifiers compare the key
//! in the certificate with the one that is expected, and check the handshake signature. There is no
//! CA between peers and no "accept any" server.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
#[derive(Debug, Clone, Default)]
pub struct SeenKey(Arc<std::sync::Mutex<Option<Fingerprint>>>);

impl SeenKey {
    /// The fingerprint, if a handshake got that far.
    pub fn get(&self) -> Option<Fingerprint> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The TLS server name under which `peer` is dialled: `<PeerId>.peer.invalid`.
pub fn server_name(peer: &PeerId) -> String {
    format!("{peer}.peer.invalid")
}

/// The peer whose Ed25519 key a certificate carries, or `None` for any other kind of key.
pub fn peer_of_certificate(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let _ = certificate;
    todo!()
}

/// The fingerprint of the key that a certificate carries.
pub fn fingerprint_of_certificate(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    let _ = certificate;
    todo!()
}

/// A self-signed certificate (rcgen) over the identity's own key, and that key for rustls.
///
/// # Errors
/// [`TlsSetupError::Certificate`].
pub fn certificate(
    identity: &Identity,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsSetupError> {
    let _ = identity;
    todo!()
}

/// For dialling peers: mutual TLS 1.3, ALPN [`ALPN_PEER`], SNI off; the expected key is read from the
/// server name ([`server_name`]), so one configuration serves every peer and resumption caches stay apart.
///
/// # Errors
/// [`TlsSetupError`].
pub fn peer_client(identity: &Identity) -> Result<Arc<rustls::ClientConfig>, TlsSetupError> {
    let _ = identity;
    todo!()
}

/// For accepting peers: demands a client certificate with an Ed25519 key and proves possession of it;
/// *which* key it is, the endpoint compares with the virtual address afterwards. Stateful resumption only.
///
/// # Errors
/// [`TlsSetupError`].
pub fn peer_server(identity: &Identity) -> Result<Arc<rustls::ServerConfig>, TlsSetupError> {
    let _ = identity;
    todo!()
}

/// For dialling a relay: mutual TLS 1.3 with our identity, ALPN [`ALPN_RELAY`].
///
/// # Errors
/// [`TlsSetupError`].
pub fn relay_client(
    identity: &Identity,
    trust: RelayTrust,
) -> Result<(Arc<rustls::ClientConfig>, SeenKey), TlsSetupError> {
    let _ = (identity, trust);
    todo!()
}

/// For a relay: presents `certificate`, demands a client certificate with an Ed25519 key (any), ALPN
/// [`ALPN_RELAY`].
///
/// # Errors
/// [`TlsSetupError::Rustls`] where certificate and key do not fit.
pub fn relay_server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<rustls::ServerConfig>, TlsSetupError> {
    let _ = (certificates, key);
    todo!()
}
