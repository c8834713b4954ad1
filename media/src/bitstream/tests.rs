//! Parameter sets and slices written bit by bit, and hostile ones.

use proptest::prelude::*;

use super::bits::{Bits, escaped, unescaped};
use super::*;
use crate::PictureSize;

/// Writes what [`Bits`] reads.
#[derive(Default)]
struct Writer {
    bits: Vec<bool>,
}

impl Writer {
    fn put(mut self, count: u32, number: u32) -> Self {
        self.bits
            .extend((0..count).rev().map(|bit| number >> bit & 1 == 1));
        self
    }

    fn ue(self, number: u32) -> Self {
        let more = (number + 1).ilog2();
        self.put(more, 0).put(more + 1, number + 1)
    }

    /// A unit with this header byte, ended as the standard wants.
    fn unit(self, header: u8) -> Vec<u8> {
        let mut bits = self.put(1, 1).bits;
        bits.resize(bits.len().next_multiple_of(8), false);
        let bytes = bits.chunks(8).map(|byte| {
            byte.iter()
                .fold(0, |number, &bit| number << 1 | u8::from(bit))
        });
        let raw: Vec<u8> = std::iter::once(header).chain(bytes).collect();
        escaped(&raw)
    }
}

/// A parameter set of `across` × `down` macroblocks, with a crop in units of two pixels.
fn sps(across: u32, down: u32, references: u32, crop: Option<[u32; 4]>) -> Vec<u8> {
    let begin = Writer::default().put(8, 66).put(8, 0xc0).put(8, 31);
    // Number 0, 5 bits of frame_num, order as decoded.
    let begin = begin.ue(0).ue(1).ue(2).ue(references).put(1, 0);
    let mut size = begin.ue(across - 1).ue(down - 1).put(2, 0b11);
    size = size.put(1, crop.is_some().into());
    let cropped = crop.into_iter().flatten().fold(size, Writer::ue);
    cropped.put(1, 0).unit(0x67)
}

fn pps() -> Vec<u8> {
    let begin = Writer::default().ue(0).ue(0).put(2, 0).ue(0).ue(0).ue(0);
    begin.put(3, 0).ue(0).ue(0).ue(0).put(3, 0b100).unit(0x68)
}

fn nal(data: &[u8]) -> Nal<'_> {
    Nal::new(data).expect("not empty")
}

fn sets() -> (Sps, Pps) {
    let sps = Sps::parse(nal(&sps(20, 12, 2, None))).expect("a parameter set");
    (sps, Pps::parse(nal(&pps())).expect("a parameter set"))
}

#[test]
fn units_are_found_between_their_start_codes() {
    let stream = [
        9, 9, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0x65, 0, 0, 3, 0, 0, 0,
    ];
    let units: Vec<&[u8]> = nal_units(&stream).map(|nal| nal.data()).collect();
    assert_eq!(units, [&[0x67, 1][..], &[0x68, 2], &[0x65, 0, 0, 3]]);
    for nothing in [
        &[][..],
        &[0, 0, 1],
        &[0; 9],
        &[1, 2, 3],
        &[0, 0, 1, 0, 0, 1],
    ] {
        assert_eq!(nal_units(nothing).count(), 0, "{nothing:?}");
    }
}

#[test]
fn kinds_are_told_apart() {
    let kinds = [0x41, 0x65, 0x06, 0x67, 0x68, 0x09, 0x0c].map(|head| nal(&[head]).kind());
    let expected = [
        NalKind::Slice,
        NalKind::KeySlice,
        NalKind::Information,
        NalKind::Sps,
        NalKind::Pps,
        NalKind::Delimiter,
        NalKind::Other(12),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(
        [0x01, 0x21, 0x61].map(|head| nal(&[head]).reference()),
        [0, 1, 3]
    );
    assert_eq!(Nal::new(&[]), Err(BitstreamError::Truncated));
}

#[test]
fn lengths_replace_start_codes_and_back() {
    let stream = [&[0, 0, 0, 1][..], &[0x67, 1], &[0, 0, 0, 1], &[0x65, 2, 3]].concat();
    let prefixed = to_length_prefixed(&stream, &[]);
    assert_eq!(prefixed, [0, 0, 0, 2, 0x67, 1, 0, 0, 0, 3, 0x65, 2, 3]);
    assert_eq!(from_length_prefixed(&prefixed).as_deref(), Ok(&stream[..]));
    let picture = to_length_prefixed(&stream, &[NalKind::Sps, NalKind::Pps]);
    assert_eq!(picture, [0, 0, 0, 3, 0x65, 2, 3]);
    for cut in 1..4 {
        let cut = from_length_prefixed(&prefixed[..prefixed.len() - cut]);
        assert_eq!(cut, Err(BitstreamError::Truncated));
    }
    assert!(from_length_prefixed(&[0, 0, 0, 0]).is_err());
    assert!(from_length_prefixed(&[255, 255, 255, 255, 1]).is_err());
}

#[test]
fn parameter_sets_tell_the_size() {
    let parse = |across, down, references, crop| {
        Sps::parse(nal(&sps(across, down, references, crop))).map(|sps| sps.size)
    };
    assert_eq!(
        parse(80, 45, 1, None),
        Ok(PictureSize::new(1_280, 720).expect("a size"))
    );
    // 1080 lines are 67.5 macroblocks.
    let full = PictureSize::new(1_920, 1_080).expect("a size");
    assert_eq!(parse(120, 68, 4, Some([0, 0, 0, 4])), Ok(full));
    assert_eq!(parse(122, 68, 4, Some([8, 8, 0, 4])), Ok(full));
    assert!(matches!(
        parse(512, 512, 1, None),
        Err(BitstreamError::Size { .. })
    ));
    assert!(matches!(
        parse(600, 4, 1, None),
        Err(BitstreamError::Size { .. })
    ));
    assert!(parse(36_865, 36_865, 0, None).is_err());
    // Level 5.2 keeps five pictures of its largest size, and no more.
    assert!(parse(256, 144, 5, None).is_ok());
    assert!(parse(256, 144, 6, None).is_err());
    assert!(parse(20, 12, 17, None).is_err());
    // A crop larger than the picture, or one that wraps.
    assert!(parse(20, 12, 1, Some([100, 100, 0, 0])).is_err());
    assert!(parse(20, 12, 1, Some([0, 0, u32::MAX / 2, u32::MAX / 2 + 9])).is_err());
}

#[test]
fn other_profiles_are_refused() {
    let mut main = sps(20, 12, 1, None);
    main[1] = 77;
    let refused = Sps::parse(nal(&main));
    assert!(matches!(refused, Err(BitstreamError::Unsupported(_))));
    let cut = &sps(20, 12, 1, None)[..6];
    assert_eq!(Sps::parse(nal(cut)), Err(BitstreamError::Truncated));
}

#[test]
fn slices_tell_what_they_refer_to() {
    let (sps, pps) = sets();
    let parse = |writer: Writer, header: u8| {
        let unit = writer.unit(header);
        SliceHeader::parse(nal(&unit), &sps, &pps)
    };
    let key = Writer::default()
        .ue(0)
        .ue(7)
        .ue(0)
        .put(5, 0)
        .ue(9)
        .put(2, 0b01);
    let key = parse(key, 0x65).expect("a slice");
    assert_eq!((key.key, key.key_id, key.long_term), (true, 9, Some(0)));
    assert_eq!((key.reference, key.references), (Reference::None, 0));

    let plain = || Writer::default().ue(3).ue(5).ue(0).put(5, 17).put(1, 0);
    let newest = parse(plain().put(1, 0).put(1, 0), 0x61).expect("a slice");
    assert_eq!((newest.first_macroblock, newest.frame_num), (3, 17));
    assert_eq!(
        (newest.reference, newest.references),
        (Reference::Newest, 1)
    );
    assert_eq!((newest.long_term, newest.moved), (None, None));

    let back = plain().put(1, 1).ue(0).ue(4).ue(3);
    let back = parse(back.put(1, 0), 0x61).expect("a slice");
    assert_eq!(back.reference, Reference::Back(5));

    // From a long-term reference; marks itself, after some more operations, and moves another.
    let marks = plain().put(1, 1).ue(2).ue(1).ue(3).put(1, 1);
    let marks = marks
        .ue(4)
        .ue(2)
        .ue(1)
        .ue(0)
        .ue(3)
        .ue(0)
        .ue(1)
        .ue(6)
        .ue(0)
        .ue(0);
    let marks = parse(marks, 0x61).expect("a slice");
    assert_eq!(marks.reference, Reference::LongTerm(1));
    assert_eq!((marks.long_term, marks.moved), (Some(0), Some((1, 1))));

    // Nobody refers to it: no marking is there to be read.
    assert!(parse(plain().put(1, 0), 0x01).is_ok());
    let both_ways = Writer::default().ue(0).ue(1).ue(0);
    assert!(parse(both_ways, 0x61).is_err());
}

#[test]
fn a_frame_gets_another_number_and_nothing_else() {
    let (sps, pps) = sets();
    let slice = |number| {
        let head = Writer::default()
            .ue(0)
            .ue(5)
            .ue(0)
            .put(5, number)
            .put(1, 0)
            .put(2, 0);
        // Zeros, so that bytes against start codes come and go.
        head.put(32, 0).put(32, 0x0100_0002).put(32, 3).unit(0x61)
    };
    for (from, to) in [(17, 3), (0, 31), (31, 0), (5, 5)] {
        let moved = with_frame_num(nal(&slice(from)), &sps, to as u16);
        let moved = moved.expect("a slice");
        assert_eq!(moved, slice(to));
        let header = SliceHeader::parse(nal(&moved), &sps, &pps).expect("a slice");
        assert_eq!(u32::from(header.frame_num), to);
    }
}

#[test]
fn codes_without_end_are_refused() {
    let zeros = [0x67, 0, 0, 3, 0, 0, 3, 0, 0, 3, 0, 0, 3, 0, 1];
    assert!(matches!(
        Bits::of(nal(&zeros)).ue(),
        Err(BitstreamError::Range(_))
    ));
    let largest = Writer::default().put(31, 0).put(32, u32::MAX).unit(0x67);
    assert_eq!(Bits::of(nal(&largest)).ue(), Ok(u32::MAX - 1));
    assert_eq!(Bits::of(nal(&largest)).se(), Ok(-i32::MAX));
}

proptest! {
    #[test]
    fn numbers_survive(numbers in prop::collection::vec(0..u32::MAX - 1, 1..40)) {
        let writer = numbers.iter().fold(Writer::default(), |writer, &it| writer.ue(it));
        let unit = writer.unit(0x67);
        prop_assert!(start_code(&unit).is_none());
        let mut bits = Bits::of(nal(&unit));
        for &number in &numbers {
            prop_assert_eq!(bits.ue(), Ok(number));
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (sps, pps) = sets();
        for nal in nal_units(&bytes) {
            prop_assert!(!nal.data().is_empty());
        }
        let _ = from_length_prefixed(&bytes);
        if let Ok(nal) = Nal::new(&bytes) {
            let _ = (Sps::parse(nal), Pps::parse(nal), SliceHeader::parse(nal, &sps, &pps));
            if let Ok(moved) = with_frame_num(nal, &sps, 7) {
                prop_assert!(moved.len() >= unescaped(&bytes).len());
            }
        }
    }

    #[test]
    fn escaping_is_undone(raw in prop::collection::vec(0u8..5, 0..100)) {
        prop_assert_eq!(unescaped(&escaped(&raw)), raw);
    }
}
