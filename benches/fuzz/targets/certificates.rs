//! Certificates as anybody may present them in a handshake.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::tls::{fingerprint_of_certificate, peer_of_certificate};
use rustls::pki_types::CertificateDer;

fuzz_target!(|der: &[u8]| {
    let certificate = CertificateDer::from(der);
    if peer_of_certificate(&certificate).is_some() {
        // Whatever has a key that we know has a fingerprint too.
        assert!(fingerprint_of_certificate(&certificate).is_some());
    }
});
