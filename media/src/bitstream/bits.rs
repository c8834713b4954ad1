//! Bits and numbers of a NAL unit (§7.4.1, §9.1), bounded by its end.

use super::{BitstreamError, Nal};

/// Bits of a unit behind its header, first bit first, without the bytes that only prevent start codes
/// (§7.4.1).
pub(super) struct Bits<'a> {
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
    pub(super) fn of(nal: Nal<'a>) -> Self {
        Self {
            data: nal.data(),
            at: 1,
            zeros: u8::from(nal.data().starts_with(&[0])),
            byte: 0,
            left: 0,
            taken: 0,
        }
    }

    /// Bits read so far.
    pub(super) const fn taken(&self) -> usize {
        self.taken
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

    pub(super) fn flag(&mut self) -> Result<bool, BitstreamError> {
        if self.left == 0 {
            self.byte = self.next_byte()?;
            self.left = 8;
        }
        self.left -= 1;
        self.taken += 1;
        Ok(self.byte >> self.left & 1 == 1)
    }

    /// `count` bits, at most 32, as a number.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, BitstreamError> {
        (0..count).try_fold(0, |number, _| {
            Ok(u32::wrapping_shl(number, 1) | u32::from(self.flag()?))
        })
    }

    /// An unsigned exponential Golomb code (§9.1), up to 2^32 − 2.
    pub(super) fn ue(&mut self) -> Result<u32, BitstreamError> {
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

    pub(super) fn ue_up_to(
        &mut self,
        most: u32,
        name: &'static str,
    ) -> Result<u32, BitstreamError> {
        let number = self.ue()?;
        if number > most {
            return Err(BitstreamError::Range(name));
        }
        Ok(number)
    }

    /// A signed one.
    pub(super) fn se(&mut self) -> Result<i32, BitstreamError> {
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

/// Without the bytes that prevent start codes.
pub(super) fn unescaped(data: &[u8]) -> Vec<u8> {
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
pub(super) fn escaped(raw: &[u8]) -> Vec<u8> {
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
