//! NAL units and parameter sets of H.264 (ITU-T H.264 Annex B): parse, never trust. Total on any input: no
//! panic, no allocation from a declared number, no loop longer than the input.

use crate::PictureSize;

/// Macroblocks (16×16 pixels) of a picture at most: what level 5.2 allows (Table A-1), and what the decoder
/// and the encoder that we use can do. 4096×2304.
pub const MAX_MACROBLOCKS: u32 = 36_864;
/// Macroblocks of all pictures that a decoder must keep, at most: level 5.2 again (`MaxDpbMbs`). Bounds its
/// memory to about 90 MB, whatever a parameter set says.
pub const MAX_KEPT_MACROBLOCKS: u32 = 184_320;

/// `profile_idc` of the baseline profile (§A.2.1).
const BASELINE: u8 = 66;

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BitstreamError {
    /// It ends in the middle of something.
    #[error("the stream ends too early")]
    Truncated,
    /// A number has a value that the standard does not allow there.
    #[error("{0} is out of its range")]
    Range(&'static str),
    /// Allowed by the standard, but not taken here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A picture larger than what is taken here, or of an odd size.
    #[error("pictures of {width}x{height} are not taken")]
    Size {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
}

/// What a NAL unit holds (Table 7-1), as far as we tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NalKind {
    /// Part of a picture that may refer to others.
    Slice,
    /// Part of a key picture.
    KeySlice,
    /// Supplemental information.
    Information,
    /// Sequence parameter set.
    Sps,
    /// Picture parameter set.
    Pps,
    /// Marks the beginning of an access unit.
    Delimiter,
    /// Any other type.
    Other(u8),
}

/// One NAL unit: at least its header byte, without a start code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nal<'a> {
    data: &'a [u8],
}

impl<'a> Nal<'a> {
    /// Takes the bytes of one unit.
    ///
    /// # Errors
    /// [`BitstreamError::Truncated`] if there are none.
    pub const fn new(data: &'a [u8]) -> Result<Self, BitstreamError> {
        if data.is_empty() {
            return Err(BitstreamError::Truncated);
        }
        Ok(Self { data })
    }

    /// What it holds.
    pub const fn kind(&self) -> NalKind {
        match self.data[0] & 0x1f {
            1 => NalKind::Slice,
            5 => NalKind::KeySlice,
            6 => NalKind::Information,
            7 => NalKind::Sps,
            8 => NalKind::Pps,
            9 => NalKind::Delimiter,
            other => NalKind::Other(other),
        }
    }

    /// `nal_ref_idc`: 0 where no other picture refers to it.
    pub const fn reference(&self) -> u8 {
        self.data[0] >> 5 & 3
    }

    /// Header and payload.
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }
}

/// The NAL units of a stream with start codes (three or four bytes). Zeros around units are left out, as are
/// bytes before the first start code.
pub fn nal_units(stream: &[u8]) -> NalUnits<'_> {
    NalUnits {
        rest: after_start_code(stream).unwrap_or(&[]),
    }
}

/// An iterator over the units of a stream; see [`nal_units`].
#[derive(Debug, Clone)]
pub struct NalUnits<'a> {
    /// From behind a start code to the end.
    rest: &'a [u8],
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = Nal<'a>;

    fn next(&mut self) -> Option<Nal<'a>> {
        while !self.rest.is_empty() {
            let (unit, rest) = match start_code(self.rest) {
                Some(at) => (&self.rest[..at], &self.rest[at + 3..]),
                None => (self.rest, &[][..]),
            };
            self.rest = rest;
            // Zeros behind a unit belong to the next start code or are padding (`trailing_zero_8bits`).
            let len = unit.iter().rposition(|&byte| byte != 0).map(|at| at + 1);
            if let Some(len) = len {
                return Some(Nal { data: &unit[..len] });
            }
        }
        None
    }
}

/// Where the next 00 00 01 begins.
fn start_code(stream: &[u8]) -> Option<usize> {
    stream.windows(3).position(|window| window == [0, 0, 1])
}

fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    start_code(stream).map(|at| &stream[at + 3..])
}

/// The stream with a length of four bytes before each unit instead of a start code, as MP4 has it; units of
/// the kinds in `without` are left out.
pub fn to_length_prefixed(stream: &[u8], without: &[NalKind]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(stream.len() + 8);
    for nal in nal_units(stream).filter(|nal| !without.contains(&nal.kind())) {
        // A unit of 4 GiB would need such a stream in memory; it is cut rather than misread.
        let len = u32::try_from(nal.data.len()).unwrap_or(u32::MAX);
        prefixed.extend_from_slice(&len.to_be_bytes());
        prefixed.extend_from_slice(&nal.data[..len as usize]);
    }
    prefixed
}

/// The reverse of [`to_length_prefixed`].
///
/// # Errors
/// [`BitstreamError::Truncated`] where a length points behind the end, [`BitstreamError::Range`] for an empty
/// unit.
pub fn from_length_prefixed(mut prefixed: &[u8]) -> Result<Vec<u8>, BitstreamError> {
    let mut stream = Vec::with_capacity(prefixed.len());
    while !prefixed.is_empty() {
        let (len, rest) = prefixed
            .split_first_chunk()
            .ok_or(BitstreamError::Truncated)?;
        let len = u32::from_be_bytes(*len) as usize;
        if len == 0 {
            return Err(BitstreamError::Range("the length of a NAL unit"));
        }
        let (unit, rest) = rest
            .split_at_checked(len)
            .ok_or(BitstreamError::Truncated)?;
        stream.extend_from_slice(&[0, 0, 0, 1]);
        stream.extend_from_slice(unit);
        prefixed = rest;
    }
    Ok(stream)
}

/// A sequence parameter set (§7.3.2.1), as far as we need it. Only what a call may carry can be parsed: the
/// baseline profile, without interlacing. Others let a decoder hold pictures back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// The byte of constraint flags behind the profile; 0x40 for constrained baseline.
    pub constraints: u8,
    /// `level_idc`: ten times the level.
    pub level: u8,
    /// Its own number, 0 to 31.
    pub id: u8,
    /// Size of the pictures shown, after cropping.
    pub size: PictureSize,
    /// Pictures that the decoder keeps to refer to.
    pub references: u8,
    /// Bits of a slice's `frame_num`, 4 to 16.
    pub frame_num_bits: u8,
    order: Order,
}

/// How slices tell the order of output (`pic_order_cnt_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By a number of so many bits.
    Lsb(u8),
    /// By differences, which slices carry or not.
    Delta { in_slices: bool },
    /// As decoded.
    Decoding,
}

impl Sps {
    /// Parses a unit of the kind [`NalKind::Sps`].
    ///
    /// # Errors
    /// [`BitstreamError`], also for what the standard allows and we do not take: see [`Sps`],
    /// [`MAX_MACROBLOCKS`] and [`MAX_KEPT_MACROBLOCKS`].
    pub fn parse(nal: Nal<'_>) -> Result<Self, BitstreamError> {
        let mut bits = Bits::of(nal);
        let profile = bits.take(8)? as u8;
        let constraints = bits.take(8)? as u8;
        let level = bits.take(8)? as u8;
        let id = bits.ue_up_to(31, "seq_parameter_set_id")? as u8;
        if profile != BASELINE {
            return Err(BitstreamError::Unsupported("a profile other than baseline"));
        }
        let frame_num_bits = 4 + bits.ue_up_to(12, "log2_max_frame_num_minus4")? as u8;
        let order = order(&mut bits)?;
        let references = bits.ue_up_to(16, "max_num_ref_frames")? as u8;
        bits.take(1)?; // gaps_in_frame_num_value_allowed_flag
        let size = frame_size(&mut bits, references)?;
        Ok(Self {
            constraints,
            level,
            id,
            size,
            references,
            frame_num_bits,
            order,
        })
    }
}

fn order(bits: &mut Bits<'_>) -> Result<Order, BitstreamError> {
    match bits.ue()? {
        0 => Ok(Order::Lsb(
            4 + bits.ue_up_to(12, "log2_max_pic_order_cnt_lsb_minus4")? as u8,
        )),
        1 => {
            let in_slices = !bits.flag()?;
            bits.se()?; // offset_for_non_ref_pic
            bits.se()?; // offset_for_top_to_bottom_field
            for _ in 0..bits.ue_up_to(255, "num_ref_frames_in_pic_order_cnt_cycle")? {
                bits.se()?;
            }
            Ok(Order::Delta { in_slices })
        }
        2 => Ok(Order::Decoding),
        _ => Err(BitstreamError::Range("pic_order_cnt_type")),
    }
}

/// Size after cropping, with the bounds on memory.
fn frame_size(bits: &mut Bits<'_>, references: u8) -> Result<PictureSize, BitstreamError> {
    // Larger numbers cannot fit either, and cannot overflow below.
    let across = 1 + bits.ue_up_to(MAX_MACROBLOCKS, "pic_width_in_mbs_minus1")?;
    let down = 1 + bits.ue_up_to(MAX_MACROBLOCKS, "pic_height_in_map_units_minus1")?;
    if !bits.flag()? {
        return Err(BitstreamError::Unsupported("interlaced video"));
    }
    bits.take(1)?; // direct_8x8_inference_flag
    let (mut width, mut height) = (16 * across, 16 * down);
    let macroblocks = across.saturating_mul(down);
    if macroblocks > MAX_MACROBLOCKS {
        return Err(BitstreamError::Size { width, height });
    }
    if macroblocks * u32::from(references) > MAX_KEPT_MACROBLOCKS {
        return Err(BitstreamError::Unsupported("keeping that many pictures"));
    }
    if bits.flag()? {
        let mut cut = |side: u32| -> Result<u32, BitstreamError> {
            let (before, behind) = (bits.ue()?, bits.ue()?);
            // In units of two pixels with 4:2:0.
            let both = before
                .checked_add(behind)
                .and_then(|sum| sum.checked_mul(2));
            both.and_then(|both| side.checked_sub(both))
                .ok_or(BitstreamError::Range("the crop"))
        };
        (width, height) = (cut(width)?, cut(height)?);
    }
    PictureSize::new(width, height).map_err(|_| BitstreamError::Size { width, height })
}

/// A picture parameter set (§7.3.2.2), as far as a slice header needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pps {
    /// Its own number, 0 to 255.
    pub id: u8,
    /// The sequence parameter set that it belongs to.
    pub sps: u8,
    /// References that a slice has unless it says otherwise, 1 to 32.
    references: u8,
    order_in_frame: bool,
    weighted: bool,
    redundant: bool,
}

impl Pps {
    /// Parses a unit of the kind [`NalKind::Pps`].
    ///
    /// # Errors
    /// [`BitstreamError`]; slice groups are not supported.
    pub fn parse(nal: Nal<'_>) -> Result<Self, BitstreamError> {
        let mut bits = Bits::of(nal);
        let id = bits.ue_up_to(255, "pic_parameter_set_id")? as u8;
        let sps = bits.ue_up_to(31, "seq_parameter_set_id")? as u8;
        bits.take(1)?; // entropy_coding_mode_flag
        let order_in_frame = bits.flag()?;
        if bits.ue()? != 0 {
            return Err(BitstreamError::Unsupported("a slice group"));
        }
        let references = 1 + bits.ue_up_to(31, "num_ref_idx_l0_default_active_minus1")? as u8;
        bits.ue_up_to(31, "num_ref_idx_l1_default_active_minus1")?;
        let weighted = bits.flag()?;
        bits.take(2)?; // weighted_bipred_idc
        for name in ["pic_init_qp", "pic_init_qs", "chroma_qp_index_offset"] {
            if !(-26..=25).contains(&bits.se()?) {
                return Err(BitstreamError::Range(name));
            }
        }
        bits.take(2)?; // deblocking_filter_control_present_flag, constrained_intra_pred_flag
        let redundant = bits.flag()?;
        Ok(Self {
            id,
            sps,
            references,
            order_in_frame,
            weighted,
            redundant,
        })
    }
}

/// What a picture is predicted from (§7.4.3.1), as its slice names the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// Nothing: intra.
    None,
    /// The newest short-term reference.
    Newest,
    /// The short-term reference whose `frame_num` is so many less than its own (modulo its range).
    Back(u32),
    /// The long-term reference of this number.
    LongTerm(u8),
}

/// The head of a slice (§7.3.3) of a picture without bidirectional or weighted prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceHeader {
    /// The first macroblock in it; 0 begins a picture.
    pub first_macroblock: u32,
    /// It belongs to a key picture.
    pub key: bool,
    /// Counts reference pictures, modulo two to the power of [`Sps::frame_num_bits`].
    pub frame_num: u16,
    /// Tells neighbouring key pictures apart; 0 in others.
    pub key_id: u16,
    /// What it is predicted from first.
    pub reference: Reference,
    /// Pictures that it may be predicted from.
    pub references: u8,
    /// The picture becomes the long-term reference of this number.
    pub long_term: Option<u8>,
    /// The short-term reference so many `frame_num` before becomes the long-term reference of this number.
    pub moved: Option<(u32, u8)>,
}

impl SliceHeader {
    /// Parses the head of a unit of the kind [`NalKind::Slice`] or [`NalKind::KeySlice`]; `sps` and `pps` are
    /// those in force.
    ///
    /// # Errors
    /// [`BitstreamError`].
    pub fn parse(nal: Nal<'_>, sps: &Sps, pps: &Pps) -> Result<Self, BitstreamError> {
        let mut bits = Bits::of(nal);
        let key = nal.kind() == NalKind::KeySlice;
        let first_macroblock = bits.ue_up_to(MAX_MACROBLOCKS, "first_mb_in_slice")?;
        let intra = match bits.ue()? {
            0 | 5 => false,
            2 | 7 => true,
            _ => return Err(BitstreamError::Unsupported("this type of slice")),
        };
        if bits.ue()? != u32::from(pps.id) {
            return Err(BitstreamError::Unsupported("another parameter set"));
        }
        let frame_num = bits.take(sps.frame_num_bits.into())? as u16;
        let key_id = match key {
            true => bits.ue_up_to(65_535, "idr_pic_id")? as u16,
            false => 0,
        };
        skip_order(&mut bits, sps, pps)?;
        let mut header = Self {
            first_macroblock,
            key,
            frame_num,
            key_id,
            reference: Reference::None,
            references: 0,
            long_term: None,
            moved: None,
        };
        if !intra {
            header.references = pps.references;
            if bits.flag()? {
                let given = bits.ue_up_to(31, "num_ref_idx_l0_active_minus1")?;
                header.references = 1 + given as u8;
            }
            header.reference = first_reference(&mut bits)?;
            if pps.weighted {
                return Err(BitstreamError::Unsupported("weighted prediction"));
            }
        }
        if nal.reference() != 0 {
            header.marking(&mut bits)?;
        }
        Ok(header)
    }

    /// §7.3.3.3
    fn marking(&mut self, bits: &mut Bits<'_>) -> Result<(), BitstreamError> {
        if self.key {
            bits.take(1)?; // no_output_of_prior_pics_flag
            self.long_term = bits.flag()?.then_some(0);
            return Ok(());
        }
        if !bits.flag()? {
            return Ok(());
        }
        // The standard bounds the operations by the pictures kept; the input's end bounds them here as well.
        for _ in 0..66 {
            match bits.ue()? {
                0 => return Ok(()),
                1 => drop(bits.ue()?), // a short-term picture is not kept
                2 => drop(bits.ue()?), // a long-term picture is not kept
                3 => {
                    let back = bits.ue()?.saturating_add(1);
                    self.moved = Some((back, long_term_index(bits)?));
                }
                4 => drop(bits.ue()?), // how many long-term pictures there may be
                5 => {}                // nothing is kept
                6 => self.long_term = Some(long_term_index(bits)?),
                _ => {
                    return Err(BitstreamError::Range("memory_management_control_operation"));
                }
            }
        }
        Err(BitstreamError::Range("the number of marking operations"))
    }
}

/// The unit of a slice with another `frame_num` (cut to the range of `sps`), all else as it was.
///
/// # Errors
/// [`BitstreamError`].
pub fn with_frame_num(nal: Nal<'_>, sps: &Sps, frame_num: u16) -> Result<Vec<u8>, BitstreamError> {
    let mut bits = Bits::of(nal);
    for _ in 0..3 {
        bits.ue()?; // first_mb_in_slice, slice_type, pic_parameter_set_id
    }
    let start = 8 + bits.taken;
    let len = usize::from(sps.frame_num_bits);
    bits.take(sps.frame_num_bits.into())?;
    let mut raw = unescaped(nal.data);
    for index in 0..len {
        let (byte, bit) = ((start + index) / 8, 7 - (start + index) % 8);
        let byte = raw.get_mut(byte).ok_or(BitstreamError::Truncated)?;
        let set = frame_num >> (len - 1 - index) & 1 == 1;
        *byte = *byte & !(1 << bit) | u8::from(set) << bit;
    }
    Ok(escaped(&raw))
}

/// Without the bytes that prevent start codes.
fn unescaped(data: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(data.len());
    let mut zeros = 0;
    for &byte in data {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        raw.push(byte);
    }
    raw
}

/// With them (§7.4.1).
fn escaped(raw: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(raw.len() + 16);
    let mut zeros = 0;
    for &byte in raw {
        if zeros >= 2 && byte <= 3 {
            data.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        data.push(byte);
    }
    data
}

fn long_term_index(bits: &mut Bits<'_>) -> Result<u8, BitstreamError> {
    Ok(bits.ue_up_to(15, "long_term_frame_idx")? as u8)
}

fn skip_order(bits: &mut Bits<'_>, sps: &Sps, pps: &Pps) -> Result<(), BitstreamError> {
    match sps.order {
        Order::Lsb(len) => {
            bits.take(len.into())?;
            if pps.order_in_frame {
                bits.se()?;
            }
        }
        Order::Delta { in_slices: true } => {
            bits.se()?;
            if pps.order_in_frame {
                bits.se()?;
            }
        }
        Order::Delta { in_slices: false } | Order::Decoding => {}
    }
    if pps.redundant {
        bits.ue_up_to(127, "redundant_pic_cnt")?;
    }
    Ok(())
}

/// The first entry of `ref_pic_list_modification` (§7.3.3.1).
fn first_reference(bits: &mut Bits<'_>) -> Result<Reference, BitstreamError> {
    if !bits.flag()? {
        return Ok(Reference::Newest);
    }
    let mut first = None;
    // At most one more than there are references.
    for _ in 0..33 {
        let entry = match bits.ue()? {
            0 => Reference::Back(bits.ue()?.saturating_add(1)),
            1 => {
                bits.ue()?;
                if first.is_none() {
                    return Err(BitstreamError::Unsupported("a reference forward"));
                }
                continue;
            }
            2 => Reference::LongTerm(bits.ue_up_to(31, "long_term_pic_num")? as u8),
            3 => return Ok(first.unwrap_or(Reference::Newest)),
            _ => return Err(BitstreamError::Range("modification_of_pic_nums_idc")),
        };
        first.get_or_insert(entry);
    }
    Err(BitstreamError::Range("the number of modifications"))
}

/// Bits of a unit behind its header, first bit first, without the bytes that only prevent start codes
/// (§7.4.1).
struct Bits<'a> {
    data: &'a [u8],
    /// Next byte of `data`.
    at: usize,
    /// Zero bytes right before `at`.
    zeros: u8,
    /// The byte being read, and how many of its bits are left.
    byte: u8,
    left: u8,
    /// Bits read.
    taken: usize,
}

impl<'a> Bits<'a> {
    fn of(nal: Nal<'a>) -> Self {
        Self {
            data: nal.data,
            at: 1,
            zeros: 0,
            byte: 0,
            left: 0,
            taken: 0,
        }
    }

    fn next_byte(&mut self) -> Result<u8, BitstreamError> {
        if self.zeros >= 2 && self.data.get(self.at) == Some(&3) {
            self.at += 1;
            self.zeros = 0;
        }
        let byte = *self.data.get(self.at).ok_or(BitstreamError::Truncated)?;
        self.at += 1;
        self.zeros = if byte == 0 {
            self.zeros.saturating_add(1)
        } else {
            0
        };
        Ok(byte)
    }

    fn flag(&mut self) -> Result<bool, BitstreamError> {
        if self.left == 0 {
            self.byte = self.next_byte()?;
            self.left = 8;
        }
        self.left -= 1;
        self.taken += 1;
        Ok(self.byte >> self.left & 1 == 1)
    }

    /// `count` bits, at most 32, as a number.
    fn take(&mut self, count: u32) -> Result<u32, BitstreamError> {
        (0..count).try_fold(0, |number, _| {
            Ok(u32::wrapping_shl(number, 1) | u32::from(self.flag()?))
        })
    }

    /// An unsigned exponential Golomb code (§9.1), up to 2^32 − 2.
    fn ue(&mut self) -> Result<u32, BitstreamError> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return Err(BitstreamError::Range("an exponential Golomb code"));
            }
        }
        let rest = self.take(zeros)?;
        // 2^31 − 1 + 2^31 − 1 at most.
        Ok((1u32 << zeros) - 1 + rest)
    }

    fn ue_up_to(&mut self, most: u32, name: &'static str) -> Result<u32, BitstreamError> {
        let number = self.ue()?;
        if number > most {
            return Err(BitstreamError::Range(name));
        }
        Ok(number)
    }

    /// A signed one.
    fn se(&mut self) -> Result<i32, BitstreamError> {
        let code = self.ue()?;
        // Half of at most 2^32 − 2, rounded up, fits.
        let half = code.div_ceil(2) as i32;
        Ok(if code % 2 == 1 {
            half
        } else {
            half.wrapping_neg()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            9, 9, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0x65, 0, 0, 3, 0,
            0, 0,
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
}
