//! Heads of slices (§7.3.3).

use super::bits::{Bits, escaped, unescaped};
use super::parameters::{MAX_MACROBLOCKS, Order, Pps, Sps};
use super::{BitstreamError, Nal, NalKind};

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
    /// The quantizer that it begins with, 0 to 51; `None` where the head breaks off before it.
    pub quantizer: Option<u8>,
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
            quantizer: None,
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
        header.quantizer = bits.se().ok().map(|delta| pps.quantizer(delta));
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
    let start = 8 + bits.taken();
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
