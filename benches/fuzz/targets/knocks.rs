//! Knocks from anywhere: bytes of a stranger open nothing, a genuine one with any byte altered opens nothing, and
//! what was sealed comes out as it went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::{Identity, KNOCK_LEN, Knock, MAX_KNOCK_ENVELOPE};

fuzz_target!(|input: (usize, u8, u64, u16, &[u8], &[u8])| {
    let (at, mask, unix_secs, kind, sealed, packet) = input;
    let (one, other) = (
        Identity::from_secret([1; 32]),
        Identity::from_secret([2; 32]),
    );
    assert_eq!(Knock::open(&other, packet), None);
    let mut padded = packet.to_vec();
    padded.resize(KNOCK_LEN, 0);
    padded[..4].copy_from_slice(&[p2p_net_proto::KNOCK, 0, 0, 0]);
    assert_eq!(Knock::open(&other, &padded), None);

    let knock = Knock {
        from: one.id(),
        unix_secs,
        kind,
        sealed: sealed.to_vec(),
    };
    let Some(packet) = knock.seal(&other.id(), [3; 32]) else {
        assert!(sealed.len() > MAX_KNOCK_ENVELOPE);
        return;
    };
    assert_eq!(Knock::open(&one, &packet), None, "not for its sender");
    assert_eq!(Knock::open(&other, &packet), Some(knock));
    if mask != 0 {
        let mut altered = packet;
        altered[at % KNOCK_LEN] ^= mask;
        assert_eq!(Knock::open(&other, &altered), None);
    }
});
