//! A loudspeaker that is none: takes sound at the speed of a real one, for sinks that are files or nothing.

use std::time::Duration;

use super::{EchoReference, PlayError, SoundCounts, SoundSink};
use crate::capture::{BLOCK, SoundBlock, pace::Pace};

/// A sink's own time: says when a block is due, and how many were missed.
#[derive(Debug)]
pub(super) struct Beat {
    pace: Pace,
    counts: SoundCounts,
    /// A block is wanted, and was not written yet.
    wanted: bool,
}

impl Beat {
    pub(super) fn new() -> Self {
        Self {
            pace: Pace::of_playback(),
            counts: SoundCounts::default(),
            wanted: false,
        }
    }

    /// Waits until a block is due; returns whether one is, and how many blocks of silence come before it.
    pub(super) fn wait(&mut self, timeout: Duration) -> (bool, u64) {
        if self.wanted {
            return (true, 0);
        }
        let Some(turn) = self.pace.wait(timeout) else {
            return (false, 0);
        };
        if turn.missed > 0 {
            self.counts.underruns += 1;
            self.counts.made_up += turn.missed * BLOCK as u64;
        }
        self.wanted = true;
        (true, turn.missed)
    }

    /// A block came; returns whether it was wanted.
    pub(super) fn write(&mut self) -> bool {
        let wanted = std::mem::take(&mut self.wanted);
        if wanted {
            self.counts.played += BLOCK as u64;
        }
        wanted
    }

    pub(super) const fn counts(&self) -> SoundCounts {
        self.counts
    }
}

/// Plays nowhere, at the speed of a loudspeaker.
#[derive(Debug)]
pub struct NullSink(Beat);

impl Default for NullSink {
    fn default() -> Self {
        Self::new()
    }
}

impl NullSink {
    /// Its time begins when it is first waited for.
    pub fn new() -> Self {
        Self(Beat::new())
    }
}

impl SoundSink for NullSink {
    fn wait(&mut self, timeout: Duration) -> Result<bool, PlayError> {
        Ok(self.0.wait(timeout).0)
    }

    fn write(&mut self, _block: &SoundBlock) -> Result<(), PlayError> {
        self.0.write();
        Ok(())
    }

    fn level(&self) -> Duration {
        Duration::ZERO
    }

    fn take_reference(&mut self) -> Option<EchoReference> {
        None
    }

    fn counts(&self) -> SoundCounts {
        self.0.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_is_taken_for_each_that_is_wanted() {
        let mut sink = NullSink::new();
        let block = [0.0; BLOCK];
        assert!(sink.wait(Duration::from_secs(10)).expect("no device"));
        assert!(sink.wait(Duration::ZERO).expect("no device"));
        sink.write(&block).expect("no device");
        sink.write(&block).expect("no device");
        assert_eq!(sink.counts().played, BLOCK as u64);
    }
}
