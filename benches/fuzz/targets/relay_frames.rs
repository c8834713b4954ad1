//! What a relay and its clients say to each other: any bytes, in pieces of any size, become frames, and
//! frames become messages, or errors. What decodes encodes again, and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::codec::{CodecError, FrameDecoder, from_body, to_body};
use p2p_net_proto::wire::{Answer, FromRelay, Guess, Hint, Offer, ToRelay};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let mut decoder = FrameDecoder::default();
    let mut whole = FrameDecoder::default();
    whole.push(bytes);
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        decoder.push(piece);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(CodecError::Length(length)) => {
                    assert_eq!(whole.next_frame(), Err(CodecError::Length(length)));
                    return;
                }
                Err(other) => panic!("a decoder of frames does not judge bodies: {other}"),
            };
            // How the bytes are cut into pieces must not matter.
            assert_eq!(whole.next_frame(), Ok(Some(frame.clone())));
            if let Ok(Some(message)) = ToRelay::decode(&frame) {
                let mut again = FrameDecoder::default();
                again.push(&message.encode().expect("it came in a frame"));
                let frame = again.next_frame().expect("well formed").expect("whole");
                assert_eq!(ToRelay::decode(&frame), Ok(Some(message)));
            }
            if let Ok(Some(message)) = FromRelay::decode(&frame) {
                let mut again = FrameDecoder::default();
                again.push(&message.encode().expect("it came in a frame"));
                let frame = again.next_frame().expect("well formed").expect("whole");
                assert_eq!(FromRelay::decode(&frame), Ok(Some(message)));
            }
            if let Ok(offer) = from_body::<Offer>(&frame.body) {
                assert_eq!(
                    from_body(&to_body(&offer).expect("it came in a frame")),
                    Ok(offer)
                );
            }
            if let Ok(answer) = from_body::<Answer>(&frame.body) {
                assert_eq!(
                    from_body(&to_body(&answer).expect("it came in a frame")),
                    Ok(answer)
                );
            }
            if let Ok(hint) = from_body::<Hint>(&frame.body) {
                assert_eq!(
                    from_body(&to_body(&hint).expect("it came in a frame")),
                    Ok(hint)
                );
            }
            if let Ok(guess) = from_body::<Guess>(&frame.body) {
                assert_eq!(
                    from_body(&to_body(&guess).expect("it came in a frame")),
                    Ok(guess)
                );
            }
        }
    }
});
