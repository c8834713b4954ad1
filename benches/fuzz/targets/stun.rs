//! STUN from strangers (questions) and from relays (answers).
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::stun::{answer, parse_answer, parse_request, request};

fuzz_target!(|packet: &[u8]| {
    if let Ok(transaction) = parse_request(packet) {
        let (ip, port) = (
            IpAddr::from(packet.first_chunk::<16>().map_or([0; 16], |&ip| ip)),
            77,
        );
        let bytes = answer(transaction, SocketAddr::new(ip, port));
        // No answer is larger than its question by more than STUN needs.
        assert!(bytes.len() <= 44);
        let told = SocketAddr::new(ip.to_canonical(), port);
        assert_eq!(parse_answer(&bytes), Ok((transaction, told)));
        assert_eq!(parse_request(&request(transaction)), Ok(transaction));
    }
    if let Ok((transaction, mapped)) = parse_answer(packet) {
        let again = answer(transaction, mapped);
        let told = SocketAddr::new(mapped.ip().to_canonical(), mapped.port());
        assert_eq!(parse_answer(&again), Ok((transaction, told)));
    }
});
