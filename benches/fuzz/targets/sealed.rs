//! Sealed envelopes from a relay that may do what it likes: nothing opens that the stated sender did not
//! seal for us and for this purpose.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::{Identity, PeerId, open, seal};

fuzz_target!(|input: ([u8; 32], u16, &[u8])| {
    let (stranger, kind, bytes) = input;
    let (me, sender) = (
        Identity::from_secret([1; 32]),
        Identity::from_secret([2; 32]),
    );
    assert!(open(&me, &sender.id(), kind, bytes).is_err());
    // A sender that may be no point of the curve at all.
    assert!(open(&me, &PeerId::from_bytes(stranger), kind, bytes).is_err());

    let body = b"an offer";
    let sealed = seal(&sender, &me.id(), kind, 7, body, [9; 32]).expect("good keys");
    let mut altered = sealed.clone();
    for (byte, mask) in altered.iter_mut().zip(bytes) {
        *byte ^= mask;
    }
    let opened = open(&me, &sender.id(), kind, &altered);
    if altered == sealed {
        let envelope = opened.expect("untouched");
        assert_eq!((envelope.number, &envelope.body[..]), (7, &body[..]));
        assert!(
            open(&me, &sender.id(), kind ^ 1, &sealed).is_err(),
            "another purpose"
        );
    } else {
        assert!(opened.is_err());
    }
});
