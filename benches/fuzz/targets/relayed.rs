//! Relayed data and the small packets beside it. A valid packet in which the fuzzer alters covered bytes
//! must not be accepted; the replay window accepts nothing twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::{
    ChannelEnd, Class, HEADER_LEN, Header, HeaderKey, PacketKind, ReplayWindow, classify, nudge,
};

const KEY: HeaderKey = HeaderKey::new([7; 16]);

fuzz_target!(|input: ([u8; HEADER_LEN + 16], &[u8])| {
    let (mask, packet) = input;
    let _ = classify(packet);
    assert!(Header::verify(&KEY, packet).is_err());
    if let Ok(header) = Header::parse(packet) {
        assert_eq!(classify(packet), PacketKind::Relayed);
        let mut again = packet.to_vec();
        header.write(&KEY, &mut again);
        assert_eq!(Header::verify(&KEY, &again), Ok(header));
        assert_eq!(again[HEADER_LEN..], packet[HEADER_LEN..]);
    }
    if nudge::Nudge::parse(packet).is_some() {
        assert_eq!(classify(packet), PacketKind::Relay);
        assert!(nudge::verify(&KEY, packet).is_err());
    }

    let mut sealed = [0x5a; HEADER_LEN + 16];
    let fields = Header {
        epoch: false,
        class: Class::Bulk,
        ecn: 0,
        fragment: false,
        end: ChannelEnd(77),
        counter: 9,
    };
    fields.write(&KEY, &mut sealed);
    for (byte, mask) in sealed.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    assert_eq!(
        Header::verify(&KEY, &sealed).is_ok(),
        mask == [0; HEADER_LEN + 16]
    );

    let mut window = ReplayWindow::default();
    let mut taken = std::collections::BTreeSet::new();
    for bytes in packet.chunks(2) {
        let counter = bytes
            .iter()
            .fold(0, |high, low| high << 8 | u64::from(*low));
        if window.accept(counter) {
            assert!(taken.insert(counter), "{counter} was taken twice");
        }
    }
});
