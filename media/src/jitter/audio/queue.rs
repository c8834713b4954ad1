//! Frames of sound in the order of their numbers, and what is next. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use crate::packet::Sound;
use crate::{AudioTime, FrameNumber};

/// Packets that wait at most; when more come, the oldest go. One second of 10 ms frames.
pub const MAX_QUEUED: usize = 100;
/// A frame's samples at most: 120 ms (RFC 6716 §3.2.5).
pub(super) const MAX_FRAME: u32 = 5_760;

/// Times may differ by 5 ms from what the frames before add up to: capture clocks are corrected in steps.
const TOLERANCE_TICKS: i64 = 240;
/// Frames that were given up, of which a late one is told from a duplicate.
const MAX_MISSED: usize = 100;

/// A frame that waits.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) number: FrameNumber,
    pub(super) time: AudioTime,
    pub(super) samples: u32,
    pub(super) data: Bytes,
    pub(super) silence: bool,
    pub(super) arrival: Instant,
}

/// What becomes of a frame that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    /// It was here before.
    Duplicate,
    /// It was given up.
    Late,
}

/// The head of the queue beside what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing waits.
    Empty,
    /// The frame that is due.
    Ready,
    /// The frame that is due, but its sender paused before it.
    Pause,
    /// A later one; frames of so many ticks are missing.
    Missing { ticks: i64 },
}

/// The frame that is to be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) number: FrameNumber,
    pub(super) time: AudioTime,
}

/// Frames that wait.
#[derive(Debug, Clone)]
pub(super) struct SoundQueue {
    frames: BTreeMap<FrameNumber, Frame>,
    missed: VecDeque<FrameNumber>,
    due: Option<Due>,
}

impl SoundQueue {
    pub(super) const fn new() -> Self {
        Self {
            frames: BTreeMap::new(),
            missed: VecDeque::new(),
            due: None,
        }
    }

    /// Takes a frame; says what it is and how many old ones had to go for it.
    pub(super) fn insert(&mut self, arrival: Instant, sound: &Sound) -> (Taken, u64) {
        if self.frames.contains_key(&sound.number) {
            return (Taken::Duplicate, 0);
        }
        if self.due.is_some_and(|due| sound.number < due.number) {
            let missed = self
                .missed
                .iter()
                .position(|&number| number == sound.number);
            return match missed.and_then(|at| self.missed.remove(at)) {
                Some(_) => (Taken::Late, 0),
                None => (Taken::Duplicate, 0),
            };
        }
        let frame = Frame {
            number: sound.number,
            time: sound.time,
            samples: sound.samples,
            // The datagram that it came in is several times as large.
            data: Bytes::copy_from_slice(&sound.data),
            silence: sound.silence,
            arrival,
        };
        self.frames.insert(frame.number, frame);
        let mut overflowed = 0;
        while self.frames.len() > MAX_QUEUED {
            self.frames.pop_first();
            overflowed += 1;
        }
        (Taken::New, overflowed)
    }

    pub(super) const fn due(&self) -> Option<Due> {
        self.due
    }

    pub(super) fn first(&self) -> Option<&Frame> {
        self.frames.first_key_value().map(|(_, frame)| frame)
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Samples in the frames that wait.
    pub(super) fn samples(&self) -> u64 {
        self.frames
            .values()
            .map(|frame| u64::from(frame.samples))
            .sum()
    }

    pub(super) fn head(&self) -> Head {
        let (Some(first), Some(due)) = (self.first(), self.due) else {
            return Head::Empty;
        };
        let ticks = first.time.ticks().wrapping_sub(due.time.ticks()) as i64;
        if first.number > due.number {
            Head::Missing { ticks }
        } else if ticks > TOLERANCE_TICKS {
            Head::Pause
        } else {
            Head::Ready
        }
    }

    /// Takes out the first frame; the one after it is due once [`SoundQueue::played`] has said how long it
    /// was.
    pub(super) fn take(&mut self) -> Option<Frame> {
        self.frames.pop_first().map(|(_, frame)| frame)
    }

    /// `frame` gave `samples` samples.
    pub(super) fn played(&mut self, frame: &Frame, samples: usize) {
        let time = frame.time.checked_add_ticks(samples as u64);
        self.due = Some(Due {
            number: frame.number.saturating_add(1),
            time: time.unwrap_or(frame.time),
        });
    }

    /// Gives up what is missing before the first frame, which is due from here on. Returns how many frames
    /// that were, and ticks (negative where the sender's clock went back).
    pub(super) fn skip(&mut self) -> (u64, i64) {
        let Some(first) = self.frames.first_key_value().map(|(_, frame)| frame) else {
            return (0, 0);
        };
        let (number, time) = (first.number, first.time);
        let before = self.due.replace(Due { number, time });
        let Some(before) = before else { return (0, 0) };
        let ticks = time.ticks().wrapping_sub(before.time.ticks()) as i64;
        let oldest = number.saturating_sub(MAX_MISSED as u64).max(before.number);
        for missed in oldest..number {
            if self.missed.len() == MAX_MISSED {
                self.missed.pop_front();
            }
            self.missed.push_back(missed);
        }
        (number.saturating_sub(before.number), ticks)
    }

    /// The first number from what is due on that is not here.
    pub(super) fn first_missing(&self) -> Option<FrameNumber> {
        let mut number = self.due?.number;
        while self.frames.contains_key(&number) {
            number = number.saturating_add(1);
        }
        Some(number)
    }
}
