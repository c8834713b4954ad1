//! How late packets come after the fastest of them, and how long to wait for them therefore. Pure.

use std::time::{Duration, Instant};

use crate::AudioTime;

/// The target before anything is known: what a home network needs, worked off within two seconds where it
/// is too much.
pub const START_TARGET: Duration = Duration::from_millis(40);
/// The target at most: beyond it, waiting costs a conversation more than holes do.
pub const MAX_TARGET: Duration = Duration::from_millis(300);

/// Relative delays of packets and the target that follows from them.
#[derive(Debug, Clone)]
pub struct DelayTracker {}

impl DelayTracker {
    /// Notes that the sound of `time` came at `arrival`, and says how much later than the fastest packet of
    /// the last 2 s that was, relative to their times.
    pub fn on_arrival(&mut self, _arrival: Instant, _time: AudioTime) -> Duration {
        todo!()
    }

    /// For how long, after the fastest packets, sound should wait to be there when it is played.
    pub fn target(&self) -> Duration {
        todo!()
    }
}
