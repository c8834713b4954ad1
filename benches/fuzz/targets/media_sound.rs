//! Opus packets from the other side, through our checks into libopus: decoded, searched for copies of what was
//! lost, and bridged. The input is a script: an operation, a length, so many bytes, and again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use media::decode::OpusDecoder;
use media::jitter::SoundDecoder;

/// Samples of a packet at most, 120 ms (RFC 6716 §3.1).
const LONGEST: usize = 5_760;
/// Operations of one script at most; a second of sound is enough to reach any state.
const MAX_OPERATIONS: usize = 100;

fuzz_target!(|script: &[u8]| {
    let mut decoder = OpusDecoder::new().expect("a decoder");
    let mut rest = script;
    let mut out = Vec::new();
    for _ in 0..MAX_OPERATIONS {
        let Some((&[operation, high, low], behind)) = rest.split_first_chunk() else {
            break;
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (packet, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        out.clear();
        out.push(0.25);
        // What was lost, in the codec's steps of 2.5 ms.
        let lost = usize::from(operation / 3) * 120;
        match operation % 3 {
            0 => {
                let done = decoder.decode(packet, &mut out);
                assert!(
                    done.is_ok() || out.len() == 1,
                    "an error leaves nothing behind"
                );
            }
            1 => {
                let found = decoder.decode_fec(packet, lost, &mut out);
                let expected = if found == Ok(true) { 1 + lost } else { 1 };
                assert_eq!(out.len(), expected);
            }
            _ => {
                decoder.conceal(lost, &mut out);
                assert_eq!(out.len(), 1 + lost);
            }
        }
        assert!(out.len() <= 1 + LONGEST.max(85 * 120));
        assert!(out.iter().all(|sample| sample.is_finite()));
    }
});
