//! A stream of H.264 from the other side: units, parameter sets, heads of slices, and the renumbering of
//! frames behind a gap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use media::bitstream::{
    GapCloser, MAX_KEPT_MACROBLOCKS, MAX_MACROBLOCKS, NalKind, Pps, SliceHeader, Sps,
    from_length_prefixed, nal_units, to_length_prefixed, with_frame_num,
};

fuzz_target!(|stream: &[u8]| {
    let (mut sps, mut pps) = (None, None);
    let mut bytes = 0;
    for nal in nal_units(stream) {
        bytes += nal.data().len();
        match nal.kind() {
            NalKind::Sps => {
                sps = Sps::parse(nal).ok();
                if let Some(sps) = sps {
                    let shown = sps.size.width().div_ceil(16) * sps.size.height().div_ceil(16);
                    assert!(shown <= MAX_MACROBLOCKS);
                    assert!(shown * u32::from(sps.references) <= MAX_KEPT_MACROBLOCKS);
                }
            }
            NalKind::Pps => pps = Pps::parse(nal).ok(),
            _ => {
                if let (Some(sps), Some(pps)) = (&sps, &pps) {
                    slice(nal, sps, pps);
                }
            }
        }
    }
    assert!(bytes <= stream.len());

    // Back and forth gives the same units.
    let prefixed = to_length_prefixed(stream, &[]);
    let again = from_length_prefixed(&prefixed).expect("what we wrote ourselves");
    assert!(nal_units(&again).eq(nal_units(stream)));
    drop(from_length_prefixed(stream));

    // Frame by frame, as far as there are delimiters; each may be refused.
    let mut gaps = GapCloser::default();
    for unit in stream.split(|&byte| byte == 9) {
        if let Ok(closed) = gaps.close(unit) {
            // One byte against start codes for each two, at most, and longer start codes.
            assert!(closed.len() <= 3 * unit.len());
        }
    }
});

fn slice(nal: media::bitstream::Nal<'_>, sps: &Sps, pps: &Pps) {
    let Ok(header) = SliceHeader::parse(nal, sps, pps) else {
        return;
    };
    let range = 1u32 << sps.frame_num_bits;
    assert!(u32::from(header.frame_num) < range);
    let other = ((u32::from(header.frame_num) + 1) % range) as u16;
    let moved = with_frame_num(nal, sps, other).expect("its head was parsed");
    let moved = media::bitstream::Nal::new(&moved).expect("it is not empty");
    let again = SliceHeader::parse(moved, sps, pps).expect("only a number is different");
    assert_eq!(again.frame_num, other);
    assert_eq!(
        SliceHeader {
            frame_num: header.frame_num,
            ..again
        },
        header
    );
}
