//! Fragments from a peer, in any order and at any time: never a panic, never a packet larger than packets
//! may be; and what the splitter cuts, the joiner joins.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::{Joiner, Splitter};

/// Packets as a joiner may give them out, bytes.
const MAX_PACKET: usize = 2_048;

fuzz_target!(|input: (Vec<(u8, Vec<u8>)>, Vec<u8>, u16)| {
    let (fragments, packet, max) = input;
    let mut now = Instant::now();
    let mut joiner = Joiner::default();
    for (millis, fragment) in &fragments {
        now += Duration::from_millis(u64::from(*millis));
        if let Ok(Some(joined)) = joiner.push(now, fragment) {
            assert!(joined.len() <= MAX_PACKET, "{} bytes", joined.len());
        }
    }

    let Some(pieces) = Splitter::default().split(&packet, usize::from(max)) else {
        return;
    };
    assert!(pieces.len() <= 8 && pieces.iter().all(|piece| piece.len() <= usize::from(max)));
    let mut joiner = Joiner::default();
    let mut joined = None;
    for piece in pieces.iter().rev() {
        assert!(joined.is_none(), "whole before its last piece");
        joined = joiner
            .push(now, piece)
            .expect("pieces of the splitter are well formed");
    }
    assert_eq!(joined.as_deref(), Some(&packet[..]));
});
