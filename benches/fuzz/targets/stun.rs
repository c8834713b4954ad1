//! STUN from strangers (questions) and from relays (answers).
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::stun::{
    FULL_LEN, answer, full_answer, parse_answer, parse_indication, parse_request,
};

fuzz_target!(|packet: &[u8]| {
    let _ = parse_indication(packet);
    if let Ok(request) = parse_request(packet) {
        let transaction = request.transaction;
        let (ip, port) = (
            IpAddr::from(packet.first_chunk::<16>().map_or([0; 16], |&ip| ip)),
            77,
        );
        let bytes = answer(transaction, SocketAddr::new(ip, port));
        // No answer is larger than its question by more than STUN needs.
        assert!(bytes.len() <= 44);
        let told = SocketAddr::new(ip.to_canonical(), port);
        let parsed = parse_answer(&bytes).expect("our own answer");
        assert_eq!((parsed.transaction, parsed.mapped), (transaction, told));
        assert_eq!(parse_request(&request.encode()), Ok(request));
    }
    if let Ok(parsed) = parse_answer(packet) {
        let again = full_answer(
            parsed.transaction,
            parsed.mapped,
            parsed.other,
            parsed.time_micros.unwrap_or(0),
        );
        assert!(again.len() <= FULL_LEN);
        let told = parse_answer(&again).expect("our own answer");
        assert_eq!((told.mapped, told.other), (parsed.mapped, parsed.other));
    }
});
