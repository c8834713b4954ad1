//! Probes and pongs from anywhere: bytes of a stranger open nothing, an authentic packet with any byte
//! altered opens nothing, and nothing opens twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::probe::{Opened, PROBE_LEN, Probe, ProbeKeys, key_id};
use p2p_net_proto::{PeerId, Transaction};

fuzz_target!(|input: ([u8; PROBE_LEN], u64, u32, &[u8])| {
    let (mask, transaction, path, packet) = input;
    let (one, other) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
    let mut ours = ProbeKeys::derive(&[3; 32], &one, &other, &[4; 16], &[5; 16]);
    let mut theirs = ProbeKeys::derive(&[3; 32], &other, &one, &[4; 16], &[5; 16]);

    let _ = key_id(packet);
    assert_eq!(ours.open(packet), None);

    let probe = Probe {
        transaction: Transaction(transaction),
        path,
    };
    let sealed = theirs.seal_probe(&probe);
    assert_eq!(key_id(&sealed), Some(ours.incoming_id()));
    let mut altered = sealed;
    for (byte, mask) in altered.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    if mask != [0; PROBE_LEN] {
        assert_eq!(ours.open(&altered), None);
    }
    assert_eq!(ours.open(&sealed), Some(Opened::Probe(probe)));
    assert_eq!(ours.open(&sealed), None, "replayed");
    assert_eq!(theirs.open(&sealed), None, "reflected");
});
