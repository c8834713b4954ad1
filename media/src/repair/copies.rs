//! Copies of earlier sound inside later packets: how many, how far apart, and the memory of them.
//!
//! A copy is the exact earlier packet (RFC 2198's idea in a header of our own), so that what it repairs is
//! repaired bit by bit; in-band redundancy of the codec would leave an error in level.

use std::collections::VecDeque;
use std::time::Duration;

use crate::packet::{AudioBody, Sound};
use crate::{AudioTime, FrameNumber};

/// The farthest copy: more would be added to what the listener hears late.
const FARTHEST: Duration = Duration::from_millis(60);
/// How far the receiver stretches its buffer for a frame that comes late.
const STRETCH: Duration = Duration::from_millis(60);
/// What a resend needs beside the round trip.
const HANDLING: Duration = Duration::from_millis(10);
/// The shortest frame of sound, of which distances are multiples.
const TEN_MILLIS: Duration = Duration::from_millis(10);
/// Packets remembered: what a resend can still be for, 320 ms of the shortest.
const REMEMBERED: usize = 32;
/// How far a copy's time may be from where its distance puts it, ticks of 48 kHz: 2 ms, what the fit of a
/// microphone's clock corrects within a few packets, and less than any frame.
const SLACK_TICKS: u64 = 96;
/// The largest offset: it has 4 bits on the wire.
const LARGEST_OFFSET: u128 = 15;

/// Copies in each packet of sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    offsets: [u8; 3],
    count: u8,
    /// Lost packets of sound are sent again too, where that is in time: the receiver waits for them where two
    /// copies or more say that loss is heavy.
    pub resend: bool,
    /// By how much the receiver must wait longer for copies to help: the farthest copy.
    pub extra_delay: Duration,
}

impl Plan {
    /// How many frames back each copy lies, nearest first.
    pub fn offsets(&self) -> &[u8] {
        &self.offsets[..usize::from(self.count)]
    }

    /// The table: by loss (columns of the video's table: 0 below 0.5 %, 1 below 3 %, 2 below 7 %, 3 below
    /// 15 %, 4 above), by the length of bursts where there are such, and by the length of a frame.
    ///
    /// Over a long way (`late`) they are as near as they can be: there, each 10 ms more weigh on a conversation.
    pub(super) fn choose(
        loss_class: usize,
        burst: Option<Duration>,
        frame: Duration,
        late: bool,
    ) -> Self {
        let near = TEN_MILLIS * 2;
        let distances: &[Duration] = match (loss_class, burst) {
            (0, _) => &[],
            // The farthest lies beyond what is lost at once, and the other half way to it.
            (_, Some(span)) => {
                let last = (span.min(FARTHEST) * 3 / 2).clamp(near * 2, FARTHEST);
                &[last / 2, last]
            }
            (1 | 2, None) if late => &[TEN_MILLIS],
            (1 | 2, None) => &[near],
            // A third one between the others costs no time: at 20 % a fifth of the residual stays.
            (4.., None) if frame <= TEN_MILLIS => &[TEN_MILLIS, near, TEN_MILLIS * 3],
            _ => &[TEN_MILLIS, TEN_MILLIS * 3],
        };
        let mut plan = Self {
            resend: distances.len() > 1,
            ..Self::default()
        };
        for distance in distances {
            let frames = distance
                .as_micros()
                .div_ceil(frame.as_micros().max(1))
                .clamp(1, LARGEST_OFFSET) as u8;
            let after = plan.offsets().last().map_or(1, |last| last + 1);
            plan.offsets[usize::from(plan.count)] = frames.max(after);
            plan.count += 1;
        }
        plan.extra_delay = frame * u32::from(plan.offsets().last().copied().unwrap_or(0));
        plan
    }

    /// The plan with the nearest `copies` only, where there is no room for all of them: packets of sound that
    /// take more than their share make the queue that delays them. `frame` is the length of one.
    #[must_use]
    pub fn cut(mut self, copies: u8, frame: Duration) -> Self {
        self.count = self.count.min(copies);
        self.extra_delay = frame * u32::from(self.offsets().last().copied().unwrap_or(0));
        self
    }
}

/// The copy of `sound` for a packet `offset` frames later. On the wire a copy has no time of its own: it is told
/// by its distance, so that one of another length, or from before a jump in time, cannot be copied. A device
/// whose clock runs a little fast or slow is no jump: its packets follow each other with a sample more or less.
fn aligned(sound: &Sound, primary: &Sound, offset: u64) -> Option<Sound> {
    let distance = offset * u64::from(primary.samples);
    let ticks = primary.time.ticks().checked_sub(distance)?;
    let near = ticks.abs_diff(sound.time.ticks()) <= SLACK_TICKS;
    (near && sound.samples == primary.samples).then(|| Sound {
        time: AudioTime::from_ticks(ticks),
        ..sound.clone()
    })
}

/// The newest packets of sound, to copy from and to send again.
#[derive(Debug, Default)]
pub struct SoundStore {
    /// Newest last, with whether it was sent again already.
    kept: VecDeque<(Sound, bool)>,
}

impl SoundStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The packet for `primary` with the copies that `plan` wants; remembers it. Where speech begins, the
    /// packet before is copied whatever the plan: what is lost there is a whole syllable.
    pub fn pack(&mut self, primary: Sound, plan: &Plan) -> AudioBody {
        let begins = |kept: &(Sound, bool)| {
            let before = self.kept.iter().rev().nth(1);
            kept.0.voice && !kept.0.silence && before.is_some_and(|(sound, _)| sound.silence)
        };
        let onset = self.kept.back().is_some_and(begins) && !plan.offsets().contains(&1);
        let offsets = onset
            .then_some(1)
            .into_iter()
            .chain(plan.offsets().iter().copied());
        let copies = offsets
            .take(3)
            .filter_map(|offset| {
                let number = primary.number.checked_sub(u64::from(offset))?;
                let (sound, _) = self.find(number)?;
                aligned(sound, &primary, u64::from(offset))
            })
            .collect();
        if self.kept.len() == REMEMBERED {
            self.kept.pop_front();
        }
        self.kept.push_back((primary.clone(), false));
        AudioBody { primary, copies }
    }

    /// Sound that was lost: to be sent again at once, once, if it can be there in time; `buffer` is the level
    /// of the receiver's buffer.
    pub fn on_lost(
        &mut self,
        number: FrameNumber,
        round_trip: Duration,
        buffer: Duration,
    ) -> Option<AudioBody> {
        if round_trip + HANDLING >= buffer + STRETCH {
            return None;
        }
        let (sound, resent) = self
            .kept
            .iter_mut()
            .find(|(sound, _)| sound.number == number)?;
        if std::mem::replace(resent, true) {
            return None;
        }
        Some(AudioBody {
            primary: sound.clone(),
            copies: Vec::new(),
        })
    }

    fn find(&self, number: FrameNumber) -> Option<&(Sound, bool)> {
        self.kept.iter().find(|(sound, _)| sound.number == number)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const TEN: Duration = Duration::from_millis(10);

    fn sound(number: FrameNumber, voice: bool) -> Sound {
        Sound {
            number,
            time: AudioTime::from_ticks(number * 480),
            samples: 480,
            data: Bytes::from(number.to_be_bytes().to_vec()),
            voice,
            silence: !voice,
        }
    }

    #[test]
    fn the_table_is_the_table() {
        let millis = Duration::from_millis;
        type Row = (usize, Option<u64>, u64, &'static [u8], u64, bool);
        let rows: [Row; 14] = [
            (0, None, 10, &[], 0, false),
            (1, None, 10, &[2], 20, false),
            (2, None, 10, &[2], 20, false),
            (3, None, 10, &[1, 3], 30, true),
            (4, None, 10, &[1, 2, 3], 30, true),
            (2, Some(0), 10, &[2, 4], 40, true),
            (2, Some(13), 10, &[2, 4], 40, true),
            (2, Some(20), 10, &[2, 4], 40, true),
            (2, Some(30), 10, &[3, 5], 50, true),
            (2, Some(500), 10, &[3, 6], 60, true),
            (1, None, 20, &[1], 20, false),
            (3, None, 20, &[1, 2], 40, true),
            (4, None, 20, &[1, 2], 40, true),
            (2, Some(0), 40, &[1, 2], 80, true),
        ];
        for (class, burst, frame, offsets, extra, resend) in rows {
            let plan = Plan::choose(class, burst.map(millis), millis(frame), false);
            let case = format!("{class}, {burst:?}, {frame}");
            assert_eq!(plan.offsets(), offsets, "{case}");
            assert_eq!(plan.extra_delay, millis(extra), "{case}");
            assert_eq!(plan.resend, resend, "{case}");
        }
        let near = |late| Plan::choose(1, None, TEN, late).extra_delay;
        assert_eq!((near(false), near(true)), (2 * TEN, TEN));
        Plan::choose(4, Some(Duration::MAX / 4), Duration::ZERO, true);
    }

    #[test]
    fn a_drifting_microphone_has_copies_and_a_jump_in_time_has_none() {
        let mut store = SoundStore::new();
        let plan = Plan::choose(3, None, TEN, false);
        let at = |number: FrameNumber, ticks: u64| Sound {
            time: AudioTime::from_ticks(1_000 + ticks),
            ..sound(number, true)
        };
        // A sample more or less each packet, then 100 ms that were lost before the encoder, then longer frames.
        let times = [0, 481, 960, 1_441, 1_922, 7_202, 7_682, 8_163, 8_643];
        let mut copies = Vec::new();
        for (number, ticks) in (1..).zip(times) {
            let body = store.pack(at(number, ticks), &plan);
            for copy in &body.copies {
                let distance = (body.primary.number - copy.number) * 480;
                assert_eq!(
                    copy.time.checked_add_ticks(distance),
                    Some(body.primary.time)
                );
            }
            copies.push(
                body.copies
                    .iter()
                    .map(|copy| copy.number)
                    .collect::<Vec<_>>(),
            );
        }
        let none: [FrameNumber; 0] = [];
        assert_eq!(copies[3..5], [vec![3, 1], vec![4, 2]]);
        assert_eq!(copies[5], none);
        assert_eq!(copies[6..], [vec![6], vec![7], vec![8, 6]]);
        let longer = Sound {
            samples: 960,
            ..at(10, 9_123)
        };
        assert_eq!(store.pack(longer, &plan).copies, []);
    }

    #[test]
    fn what_has_no_room_is_cut_from_the_far_end() {
        let plan = Plan::choose(4, None, TEN, false);
        let cut = plan.cut(2, TEN);
        assert_eq!((cut.offsets(), cut.extra_delay), (&[1, 2][..], TEN * 2));
        assert!(cut.resend);
        assert_eq!(plan.cut(3, TEN), plan);
        let none = plan.cut(0, TEN);
        assert_eq!(
            (none.offsets(), none.extra_delay),
            (&[][..], Duration::ZERO)
        );
    }

    #[test]
    fn copies_are_exact_and_only_of_what_there_was() {
        let plan = Plan::choose(3, None, TEN, false);
        let mut store = SoundStore::new();
        assert!(store.pack(sound(0, true), &plan).copies.is_empty());
        assert_eq!(store.pack(sound(1, true), &plan).copies, [sound(0, true)]);
        store.pack(sound(2, true), &plan);
        let fourth = store.pack(sound(3, true), &plan);
        assert_eq!(fourth.primary, sound(3, true));
        assert_eq!(fourth.copies, [sound(2, true), sound(0, true)]);
        // After a gap of numbers the wrong packets are not taken for the right ones.
        assert!(store.pack(sound(90, true), &plan).copies.is_empty());
    }

    #[test]
    fn the_start_of_speech_is_copied_at_once() {
        let plan = Plan::default();
        let mut store = SoundStore::new();
        store.pack(sound(0, false), &plan);
        assert!(store.pack(sound(1, true), &plan).copies.is_empty());
        assert_eq!(store.pack(sound(2, true), &plan).copies, [sound(1, true)]);
        assert!(store.pack(sound(3, true), &plan).copies.is_empty());
    }

    #[test]
    fn sound_is_sent_again_once_and_in_time() {
        let mut store = SoundStore::new();
        for number in 0..40 {
            store.pack(sound(number, true), &Plan::default());
        }
        let (short, long) = (Duration::from_millis(50), Duration::from_millis(90));
        let level = Duration::from_millis(30);
        assert_eq!(store.on_lost(39, long, level), None);
        let again = store.on_lost(39, short, level).expect("in time");
        assert_eq!((again.primary, again.copies), (sound(39, true), vec![]));
        assert_eq!(store.on_lost(39, short, level), None);
        assert_eq!(store.on_lost(7, short, level), None);
    }
}
