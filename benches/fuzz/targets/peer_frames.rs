//! What two clients say to each other on control and chat streams. What decodes encodes again, and means
//! the same.
#![no_main]

use client::wire::{ChatFrame, ControlFrame};
use libfuzzer_sys::fuzz_target;
use p2p_net_proto::codec::{Frame, FrameDecoder};

fn frame_of(bytes: &[u8]) -> Frame {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    decoder.next_frame().expect("well formed").expect("whole")
}

fuzz_target!(|input: (u16, &[u8])| {
    let (kind, body) = input;
    let frame = Frame {
        kind,
        body: bytes::Bytes::copy_from_slice(body),
    };
    if let Ok(Some(message)) = ControlFrame::decode(&frame) {
        let bytes = message.encode().expect("it came in a frame");
        assert_eq!(ControlFrame::decode(&frame_of(&bytes)), Ok(Some(message)));
    }
    if let Ok(Some(message)) = ChatFrame::decode(&frame) {
        let bytes = message.encode().expect("it came in a frame");
        assert_eq!(ChatFrame::decode(&frame_of(&bytes)), Ok(Some(message)));
    }
});
