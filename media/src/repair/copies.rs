//! Copies of earlier sound inside later packets: how many, how far apart, and the memory of them.

use std::time::{Duration, Instant};

use crate::FrameNumber;
use crate::packet::{AudioBody, Sound};

/// Copies in each packet of sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    offsets: [u8; 3],
    count: u8,
    /// Lost packets of sound are sent again too, where that is in time.
    pub resend: bool,
    /// By how much the receiver must wait longer for copies to help: the farthest copy.
    pub extra_delay: Duration,
}

impl Plan {
    /// How many frames back each copy lies, nearest first.
    pub fn offsets(&self) -> &[u8] {
        &self.offsets[..usize::from(self.count)]
    }
}

/// The newest packets of sound, to copy from and to send again.
#[derive(Debug, Default)]
pub struct SoundStore {}

impl SoundStore {
    /// An empty store.
    pub fn new() -> Self {
        todo!()
    }

    /// The packet for `primary` with the copies that `plan` wants; remembers it.
    pub fn pack(&mut self, primary: Sound, plan: &Plan) -> AudioBody {
        todo!()
    }

    /// Sound that was lost: to be sent again at once, once, if it can be there in time; `buffer` is the level
    /// of the receiver's buffer.
    pub fn on_lost(
        &mut self,
        now: Instant,
        number: FrameNumber,
        round_trip: Duration,
        buffer: Duration,
    ) -> Option<AudioBody> {
        todo!()
    }
}
