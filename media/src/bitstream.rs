//! NAL units and parameter sets of H.264 (ITU-T H.264 Annex B): parse, never trust. Total on any input: no
//! panic, no allocation from a declared number, no loop longer than the input.

use crate::PictureSize;

/// Macroblocks (16×16 pixels) of a picture at most: what level 5.2 allows (Table A-1), and what the decoder
/// and the encoder that we use can do. 4096×2304.
pub const MAX_MACROBLOCKS: u32 = 36_864;
/// Macroblocks of all pictures that a decoder must keep, at most: level 5.2 again (`MaxDpbMbs`). Bounds its
/// memory to about 90 MB, whatever a parameter set says.
pub const MAX_KEPT_MACROBLOCKS: u32 = 184_320;

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

/// A sequence parameter set (§7.3.2.1), as far as we need it. Only what our decoder takes can be parsed:
/// baseline, main and high profile, 4:2:0 with 8 bits, whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`: 66 baseline, 77 main, 100 high.
    pub profile: u8,
    /// The byte of constraint flags behind it.
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
        match profile {
            66 | 77 => {}
            100 => high_profile(&mut bits)?,
            _ => return Err(BitstreamError::Unsupported("this profile")),
        }
        let frame_num_bits = 4 + bits.ue_up_to(12, "log2_max_frame_num_minus4")? as u8;
        let order = order(&mut bits)?;
        let references = bits.ue_up_to(16, "max_num_ref_frames")? as u8;
        bits.take(1)?; // gaps_in_frame_num_value_allowed_flag
        let size = frame_size(&mut bits, references)?;
        Ok(Self {
            profile,
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

/// What the high profile has more (§7.3.2.1.1).
fn high_profile(bits: &mut Bits<'_>) -> Result<(), BitstreamError> {
    if bits.ue()? != 1 {
        return Err(BitstreamError::Unsupported("chroma other than 4:2:0"));
    }
    if bits.ue()? != 0 || bits.ue()? != 0 {
        return Err(BitstreamError::Unsupported("more than 8 bits"));
    }
    bits.take(1)?; // qpprime_y_zero_transform_bypass_flag
    if bits.flag()? {
        for list in 0..8 {
            if bits.flag()? {
                skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Ok(())
}

/// §7.3.2.1.1.1
fn skip_scaling_list(bits: &mut Bits<'_>, len: usize) -> Result<(), BitstreamError> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..len {
        if next != 0 {
            let delta = bits.se()?;
            if !(-128..=127).contains(&delta) {
                return Err(BitstreamError::Range("delta_scale"));
            }
            next = (last + delta + 256) % 256;
        }
        if next != 0 {
            last = next;
        }
    }
    Ok(())
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
}

impl<'a> Bits<'a> {
    fn of(nal: Nal<'a>) -> Self {
        Self {
            data: nal.data,
            at: 1,
            zeros: 0,
            byte: 0,
            left: 0,
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
        Ok(if code % 2 == 1 { half } else { half.wrapping_neg() })
    }
}
