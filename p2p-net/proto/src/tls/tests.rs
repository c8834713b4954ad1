//! Handshakes in memory, right and wrong.

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, ServerConnection};

use super::*;

fn identity(seed: u8) -> Identity {
    Identity::from_secret([seed; 32])
}

/// A self-signed certificate over a fresh key of some kind, as a relay has it.
fn relay_certificate(
    algorithm: &'static rcgen::SignatureAlgorithm,
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let params = rcgen::CertificateParams::new(vec!["relay.example".into()]).expect("a name");
    let certificate = params.self_signed(&pair).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    (certificate.der().clone(), key.into())
}

/// Both ends after a handshake in memory, or the first error that an end met.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut flight = Vec::new();
    while client.wants_write() || server.wants_write() {
        flight.clear();
        while client.wants_write() {
            client.write_tls(&mut flight).expect("memory");
        }
        server.read_tls(&mut flight.as_slice()).expect("memory");
        server.process_new_packets()?;
        flight.clear();
        while server.wants_write() {
            server.write_tls(&mut flight).expect("memory");
        }
        client.read_tls(&mut flight.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn peer_at(certificates: Option<&[CertificateDer<'_>]>) -> Option<PeerId> {
    peer_of_certificate(certificates?.first()?)
}

fn refusal(result: Result<(ClientConnection, ServerConnection), rustls::Error>) -> String {
    result.expect_err("this handshake must fail").to_string()
}

fn client_of(seed: u8) -> Arc<ClientConfig> {
    peer_client(&identity(seed)).expect("a configuration")
}

fn server_of(seed: u8) -> Arc<ServerConfig> {
    peer_server(&identity(seed)).expect("a configuration")
}

fn name_of(seed: u8) -> String {
    server_name(&identity(seed).id())
}

/// A certificate that names one key, and the private key of somebody else.
fn mismatched(certificate: CertificateDer<'static>, signer: &Identity) -> Arc<SingleCertAndKey> {
    let (_, key) = certificate_of(signer);
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
    Arc::new(CertifiedKey::new(vec![certificate], key).into())
}

fn certificate_of(of: &Identity) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    certificate(of).expect("a certificate")
}

/// A certificate over the victim's public key, issued and signed by the attacker.
fn issued_by_attacker(victim: &Identity, attacker: &Identity) -> CertificateDer<'static> {
    struct PublicOnly([u8; 32]);
    impl rcgen::PublicKeyData for PublicOnly {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ED25519
        }
    }
    let (_, key) = certificate_of(attacker);
    let pair = rcgen::KeyPair::try_from(&key).expect("a key pair");
    let params = rcgen::CertificateParams::new(vec![server_name(&victim.id())]).expect("name");
    let issuer = rcgen::Issuer::new(params.clone(), pair);
    let swapped = params.signed_by(&PublicOnly(*victim.id().as_bytes()), &issuer);
    swapped.expect("a certificate").der().clone()
}

fn attacking_server(certificate: CertificateDer<'static>, signer: &Identity) -> ServerConfig {
    let mut config = ServerConfig::clone(&server_of(9));
    config.cert_resolver = mismatched(certificate, signer);
    config
}

fn attacking_client(certificate: CertificateDer<'static>, signer: &Identity) -> ClientConfig {
    let mut config = ClientConfig::clone(&client_of(9));
    config.client_auth_cert_resolver = mismatched(certificate, signer);
    config
}

#[test]
fn certificates_name_the_identity_and_are_the_same_every_time() {
    let me = identity(1);
    let (certificate, _) = certificate_of(&me);
    assert_eq!(peer_of_certificate(&certificate), Some(me.id()));
    assert_eq!(certificate, certificate_of(&me).0);
    // SHA-256 of the SubjectPublicKeyInfo, put together by hand from RFC 8410.
    let mut info = data_encoding::HEXLOWER
        .decode(b"302a300506032b6570032100")
        .expect("hex");
    info.extend_from_slice(me.id().as_bytes());
    let expected = Fingerprint(Sha256::digest(info).into());
    assert_eq!(fingerprint_of_certificate(&certificate), Some(expected));
}

#[test]
fn certificates_that_carry_no_identity_name_nobody() {
    let (ecdsa, _) = relay_certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
    assert_eq!(peer_of_certificate(&ecdsa), None);
    assert!(fingerprint_of_certificate(&ecdsa).is_some());
    for garbage in [&b""[..], b"\x30", &[0x30; 300]] {
        assert_eq!(peer_of_certificate(&CertificateDer::from(garbage)), None);
        assert_eq!(
            fingerprint_of_certificate(&CertificateDer::from(garbage)),
            None
        );
    }
    // The key replaced by the neutral element, for which anybody can make signatures.
    let me = identity(1);
    let mut bytes = certificate_of(&me).0.to_vec();
    let id = me.id();
    let at = bytes
        .windows(32)
        .position(|w| w == id.as_bytes())
        .expect("the key");
    bytes[at..at + 32].fill(0);
    bytes[at] = 1;
    assert_eq!(peer_of_certificate(&CertificateDer::from(bytes)), None);
}

#[test]
fn peers_that_expect_each_other_learn_each_others_ids() {
    let (client, server) =
        handshake(&client_of(1), &server_of(2), &name_of(2)).expect("a handshake");
    assert_eq!(peer_at(client.peer_certificates()), Some(identity(2).id()));
    assert_eq!(peer_at(server.peer_certificates()), Some(identity(1).id()));
    assert_eq!(client.alpn_protocol(), Some(ALPN_PEER));
    assert_eq!(
        client.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(
        server.server_name(),
        None,
        "the id must not be sent in the clear"
    );
}

#[test]
fn resumed_connections_still_name_both_peers() {
    let (client, server) = (client_of(1), server_of(2));
    handshake(&client, &server, &name_of(2)).expect("a first handshake");
    let (again, at_server) = handshake(&client, &server, &name_of(2)).expect("a second handshake");
    assert_eq!(again.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    assert_eq!(peer_at(again.peer_certificates()), Some(identity(2).id()));
    assert_eq!(
        peer_at(at_server.peer_certificates()),
        Some(identity(1).id())
    );
}

#[test]
fn a_session_of_one_peer_is_not_resumed_with_another() {
    let client = client_of(1);
    handshake(&client, &server_of(2), &name_of(2)).expect("a first handshake");
    let error = refusal(handshake(&client, &server_of(3), &name_of(2)));
    assert!(error.contains("OtherPeer"), "{error}");
}

#[test]
fn another_key_than_the_dialled_one_is_refused() {
    let error = refusal(handshake(&client_of(1), &server_of(3), &name_of(2)));
    assert!(error.contains("OtherPeer"), "{error}");
}

#[test]
fn names_that_are_not_of_a_peer_are_refused() {
    let id = identity(2).id();
    for name in [
        "example.org",
        "peer.invalid",
        "127.0.0.1",
        &format!("{id}.peer.example"),
    ] {
        let error = refusal(handshake(&client_of(1), &server_of(2), name));
        assert!(error.contains("NoPeerName"), "{name}: {error}");
    }
}

#[test]
fn clients_without_a_certificate_are_refused() {
    let mut bare = ClientConfig::clone(&client_of(1));
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = refusal(handshake(&Arc::new(bare), &server_of(2), &name_of(2)));
    assert!(error.contains("no certificates"), "{error}");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Offers its key whatever kinds of signature the server asked for.
#[derive(Debug)]
struct Stubborn(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Stubborn {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Signs as ECDSA even where only Ed25519 was asked for.
#[derive(Debug)]
struct StubbornKey(Arc<dyn rustls::sign::SigningKey>);

impl rustls::sign::SigningKey for StubbornKey {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        self.0
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[test]
fn clients_whose_key_is_not_ed25519_are_refused() {
    let (certificate, key) = relay_certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
    let key = Arc::new(StubbornKey(key));
    let key = Arc::new(CertifiedKey::new(vec![certificate], key));
    let mut config = ClientConfig::clone(&client_of(1));
    config.client_auth_cert_resolver = Arc::new(Stubborn(key));
    let config = Arc::new(config);
    let error = refusal(handshake(&config, &server_of(2), &name_of(2)));
    assert!(error.contains("NoIdentity"), "{error}");
}

#[test]
fn another_application_protocol_is_refused() {
    let mut config = ClientConfig::clone(&client_of(1));
    config.alpn_protocols = vec![ALPN_RELAY.to_vec()];
    let result = handshake(&Arc::new(config), &server_of(2), &name_of(2));
    assert_eq!(result.err(), Some(rustls::Error::NoApplicationProtocol));
}

#[test]
fn a_server_with_a_victims_certificate_fails_on_the_signature() {
    let (victim, attacker) = (identity(2), identity(6));
    for stolen in [
        certificate_of(&victim).0,
        issued_by_attacker(&victim, &attacker),
    ] {
        assert_eq!(peer_of_certificate(&stolen), Some(victim.id()));
        let server = Arc::new(attacking_server(stolen, &attacker));
        let result = handshake(&client_of(1), &server, &name_of(2));
        let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
        assert_eq!(result.err(), Some(bad));
    }
}

#[test]
fn a_client_with_a_victims_certificate_fails_on_the_signature() {
    let (victim, attacker) = (identity(1), identity(6));
    for stolen in [
        certificate_of(&victim).0,
        issued_by_attacker(&victim, &attacker),
    ] {
        let client = Arc::new(attacking_client(stolen, &attacker));
        let result = handshake(&client, &server_of(2), &name_of(2));
        let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
        assert_eq!(result.err(), Some(bad));
    }
}

#[test]
fn pinned_relays_are_known_by_their_key_under_any_name() {
    let kinds: &[&'static rcgen::SignatureAlgorithm] = &[
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ];
    for algorithm in kinds {
        let (certificate, key) = relay_certificate(algorithm);
        let pin = fingerprint_of_certificate(&certificate).expect("a key");
        let server = relay_server(vec![certificate], key).expect("a configuration");
        let (client, seen) =
            relay_client(&identity(1), RelayTrust::Pinned(pin)).expect("a configuration");
        assert_eq!(seen.get(), None);
        for name in [
            "relay.example",
            "another.example",
            "192.0.2.1",
            "2001:db8::1",
        ] {
            let (at_client, at_server) = handshake(&client, &server, name).expect("handshake");
            assert_eq!(at_client.alpn_protocol(), Some(ALPN_RELAY));
            assert_eq!(
                peer_at(at_server.peer_certificates()),
                Some(identity(1).id())
            );
            assert_eq!(seen.get(), Some(pin));
        }
    }
}

#[test]
fn a_relay_with_another_key_is_refused_and_its_fingerprint_told() {
    let (certificate, key) = relay_certificate(&rcgen::PKCS_ED25519);
    let presented = fingerprint_of_certificate(&certificate);
    let server = relay_server(vec![certificate], key).expect("a configuration");
    let trust = RelayTrust::Pinned(Fingerprint([7; 32]));
    let (client, seen) = relay_client(&identity(1), trust).expect("a configuration");
    let error = refusal(handshake(&client, &server, "relay.example"));
    assert!(error.contains("OtherRelay"), "{error}");
    assert_eq!(seen.get(), presented);
}

#[test]
fn a_relay_that_only_copied_the_pinned_certificate_is_refused() {
    let (certificate, _) = relay_certificate(&rcgen::PKCS_ED25519);
    let pin = fingerprint_of_certificate(&certificate).expect("a key");
    let mut server = attacking_server(certificate, &identity(6));
    server.alpn_protocols = vec![ALPN_RELAY.to_vec()];
    let (client, _) = relay_client(&identity(1), RelayTrust::Pinned(pin)).expect("a configuration");
    let result = handshake(&client, &Arc::new(server), "relay.example");
    let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
    assert_eq!(result.err(), Some(bad));
}

#[test]
fn without_a_pin_a_self_signed_relay_is_refused_and_its_fingerprint_told() {
    let (certificate, key) = relay_certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
    let presented = fingerprint_of_certificate(&certificate);
    let server = relay_server(vec![certificate], key).expect("a configuration");
    let (client, seen) = relay_client(&identity(1), RelayTrust::WebPki).expect("a configuration");
    let result = handshake(&client, &server, "relay.example");
    assert!(matches!(
        result.err(),
        Some(rustls::Error::InvalidCertificate(_))
    ));
    assert_eq!(seen.get(), presented);
}

/// A client that trusts one authority of its own besides the real judge's code.
fn client_of_authority(root: CertificateDer<'static>) -> Arc<ClientConfig> {
    let provider = provider();
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("an authority");
    let verifier = RelayVerifier {
        judge: RelayJudge::web(roots, &provider).expect("a verifier"),
        algorithms: provider.signature_verification_algorithms,
        seen: SeenKey::default(),
    };
    let config = client(&identity(1), provider, Arc::new(verifier), ALPN_RELAY);
    Arc::new(config.expect("a configuration"))
}

#[test]
fn an_authority_vouches_for_the_relays_name_and_for_no_other() {
    let authority = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).expect("a root");
    let issuer = rcgen::Issuer::new(params, authority);
    let pair = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["relay.example".into()]).expect("a name");
    let leaf = params
        .signed_by(&pair, &issuer)
        .expect("a leaf")
        .der()
        .clone();
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    let server = relay_server(vec![leaf], key.into()).expect("a configuration");

    let client = client_of_authority(root.der().clone());
    handshake(&client, &server, "relay.example").expect("the vouched name");
    let error = refusal(handshake(&client, &server, "other.example"));
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn a_relay_takes_identities_only_and_a_fitting_key() {
    let (certificate, key) = relay_certificate(&rcgen::PKCS_ED25519);
    let (_, other) = relay_certificate(&rcgen::PKCS_ED25519);
    assert!(matches!(
        relay_server(vec![certificate.clone()], other),
        Err(TlsSetupError::Rustls(_))
    ));
    let pin = fingerprint_of_certificate(&certificate).expect("a key");
    let server = relay_server(vec![certificate], key).expect("a configuration");
    let (client, _) = relay_client(&identity(1), RelayTrust::Pinned(pin)).expect("a configuration");
    let mut bare = ClientConfig::clone(&client);
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = refusal(handshake(&Arc::new(bare), &server, "relay.example"));
    assert!(error.contains("no certificates"), "{error}");
}

#[test]
fn configurations_show_no_secrets_and_allow_no_early_data() {
    let (server, client) = (server_of(2), client_of(2));
    assert_eq!(server.max_early_data_size, 0);
    assert!(!server.ticketer.enabled() && !client.enable_early_data && !client.enable_sni);
    let seed = format!("{:?}", [2u8; 32]);
    let seed = seed.trim_matches(['[', ']']);
    assert!(!format!("{server:?} {client:?}").contains(seed));
}
