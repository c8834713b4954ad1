//! Parameter sets (§7.3.2).

use super::bits::Bits;
use super::{BitstreamError, Nal};
use crate::PictureSize;

/// Macroblocks (16×16 pixels) of a picture at most: what level 5.2 allows (Table A-1), and what the decoder
/// and the encoder that we use can do. 4096×2304.
pub const MAX_MACROBLOCKS: u32 = 36_864;
/// Macroblocks of all pictures that a decoder must keep, at most: level 5.2 again (`MaxDpbMbs`). Bounds its
/// memory to about 90 MB, whatever a parameter set says.
pub const MAX_KEPT_MACROBLOCKS: u32 = 184_320;

/// `profile_idc` of the baseline profile (§A.2.1).
const BASELINE: u8 = 66;

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
    pub(super) order: Order,
}

/// How slices tell the order of output (`pic_order_cnt_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By a number of so many bits.
    Lsb(u8),
    /// By differences, which slices carry or not.
    Delta { in_slices: bool },
    /// As decoded.
    Decoding,
}

impl Sps {
    /// Parses a unit of the kind [`NalKind::Sps`](super::NalKind::Sps).
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
    pub(super) references: u8,
    pub(super) order_in_frame: bool,
    pub(super) weighted: bool,
    pub(super) redundant: bool,
    /// The quantizer that slices begin with but for their own difference, less 26.
    pub(super) quantizer: i32,
}

impl Pps {
    /// Parses a unit of the kind [`NalKind::Pps`](super::NalKind::Pps).
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
        let mut quantizer = [0; 3];
        let names = ["pic_init_qp", "pic_init_qs", "chroma_qp_index_offset"];
        for (read, name) in quantizer.iter_mut().zip(names) {
            *read = bits.se()?;
            if !(-26..=25).contains(read) {
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
            quantizer: quantizer[0],
        })
    }

    /// The quantizer of a slice that states this difference.
    pub(super) fn quantizer(&self, delta: i32) -> u8 {
        let quantizer = delta.saturating_add(26).saturating_add(self.quantizer);
        u8::try_from(quantizer.clamp(0, 51)).unwrap_or(0)
    }
}
