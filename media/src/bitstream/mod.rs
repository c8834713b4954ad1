//! NAL units and parameter sets of H.264 (ITU-T H.264 Annex B): parse, never trust. Total on any input: no
//! panic, no allocation from a declared number, no loop longer than the input.

mod bits;
mod gaps;
mod parameters;
mod slice;
#[cfg(test)]
mod tests;

pub use gaps::GapCloser;
pub use parameters::{MAX_KEPT_MACROBLOCKS, MAX_MACROBLOCKS, Pps, Sps};
pub use slice::{Reference, SliceHeader, with_frame_num};

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
