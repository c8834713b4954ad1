//! The head of a web answer from whoever stands in the relay's place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::Portal;

fuzz_target!(|head: &[u8]| {
    if let Some(portal) = Portal::parse(head) {
        let shown = portal.location.unwrap_or_default();
        assert!(shown.len() <= 120 && shown.chars().all(|letter| letter.is_ascii_graphic()));
    }
});
