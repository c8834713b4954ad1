//! Sound and copies of earlier sound.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::Fields;
use super::{AudioBody, ParseError, WriteError};

/// Copies of earlier sound in one packet at most: what two bits count.
pub const COPIES_MAX: usize = 3;
/// How far back a copy may reach, frames: what four bits count.
pub const COPY_OFFSET_MAX: u64 = 15;
/// The longest Opus packet, bytes (RFC 6716 §3.2.1).
pub const SOUND_BYTES_MAX: usize = 1_275;

/// Samples at 48 kHz of each duration code: 2.5, 5, 10, 20, 40, 60, 80 and 120 ms, all that Opus can
/// put into a packet except 100 ms (RFC 6716 §3.2.5), which nobody uses.
const DURATIONS: [u32; 8] = [120, 240, 480, 960, 1_920, 2_880, 3_840, 5_760];

/// Sound as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAudio {
    /// Low 32 bits of the primary's time.
    pub time: u32,
    /// Low 16 bits of its number.
    pub number: u16,
    /// Its length in samples, and that of each copy.
    pub samples: u32,
    /// Somebody speaks.
    pub voice: bool,
    /// Discontinuous transmission.
    pub silence: bool,
    /// Copies.
    pub copies: Vec<RawCopy>,
    /// What the packet is for.
    pub primary: Bytes,
}

/// A copy as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawCopy {
    /// How many frames before the primary, 1 to [`COPY_OFFSET_MAX`].
    pub offset: u8,
    /// The Opus packet.
    pub data: Bytes,
}

pub(super) fn parse(fields: &mut Fields<'_>) -> Result<RawAudio, ParseError> {
    let (time, number, flags) = (fields.u32()?, fields.u16()?, fields.u8()?);
    let heads = (0..flags >> 6)
        .map(|_| fields.u16())
        .collect::<Result<Vec<_>, _>>()?;
    let mut copies = Vec::with_capacity(heads.len());
    for head in heads {
        let (offset, len) = ((head >> 12) as u8, usize::from(head & 0xfff));
        fields.check("copy offset", offset > 0)?;
        fields.check("copy length", (1..=SOUND_BYTES_MAX).contains(&len))?;
        copies.push((offset, len));
    }
    let copies = copies
        .into_iter()
        .map(|(offset, len)| fields.bytes(len).map(|data| RawCopy { offset, data }))
        .collect::<Result<_, _>>()?;
    let len = fields.left();
    fields.check("length", (1..=SOUND_BYTES_MAX).contains(&len))?;
    Ok(RawAudio {
        time,
        number,
        samples: DURATIONS[usize::from(flags >> 3 & 7)],
        voice: flags & 4 != 0,
        silence: flags & 2 != 0,
        copies,
        primary: fields.bytes(len)?,
    })
}

/// Copies must be as long as the primary in time and stand where their numbers say, since the wire has only
/// how many frames back they are.
pub(super) fn write(audio: &AudioBody, out: &mut BytesMut) -> Result<(), WriteError> {
    let AudioBody { primary, copies } = audio;
    let code = DURATIONS
        .iter()
        .position(|samples| *samples == primary.samples)
        .ok_or(WriteError::Duration(primary.samples))?;
    if copies.len() > COPIES_MAX {
        return Err(WriteError::Copies);
    }
    out.put_u32(primary.time.wire());
    out.put_u16(primary.number as u16);
    out.put_u8(
        (copies.len() as u8) << 6
            | (code as u8) << 3
            | u8::from(primary.voice) << 2
            | u8::from(primary.silence) << 1,
    );
    for copy in copies {
        let back = primary.number.checked_sub(copy.number);
        let offset = back
            .filter(|back| (1..=COPY_OFFSET_MAX).contains(back))
            .ok_or(WriteError::Copies)?;
        let distance = offset * u64::from(primary.samples);
        if copy.samples != primary.samples
            || copy.time.checked_add_ticks(distance) != Some(primary.time)
        {
            return Err(WriteError::Copies);
        }
        out.put_u16((offset as u16) << 12 | sound_len(&copy.data)?);
    }
    for copy in copies {
        out.put_slice(&copy.data);
    }
    sound_len(&primary.data)?;
    out.put_slice(&primary.data);
    Ok(())
}

fn sound_len(data: &Bytes) -> Result<u16, WriteError> {
    match data.len() {
        len @ 1..=SOUND_BYTES_MAX => Ok(len as u16),
        len => Err(WriteError::SoundLength(len)),
    }
}
