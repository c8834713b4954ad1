//! The thread that records what comes in. A recording never holds up a call: what it cannot take is left out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::config::{Device, Event};
use super::shared::Events;
use crate::jitter::CompleteFrame;
use crate::packet::{AudioBody, Sound};
use crate::record::Recorder;
use crate::{EncodedPicture, EncodedSound, FrameNumber};

/// What waits to be written.
pub(super) const TAP_QUEUE: usize = 256;
/// Packets of sound that are held back, so that copies and resends find their place.
const HELD_SOUNDS: u64 = 16;

/// What is recorded.
#[derive(Debug)]
pub(super) enum Tapped {
    Picture(CompleteFrame),
    Sound(AudioBody, Instant),
}

/// A recording under way.
pub(super) struct Tap {
    pub(super) recorder: Recorder,
    pub(super) tapped: Receiver<Tapped>,
    pub(super) events: Events,
}

impl Tap {
    /// Runs until the pipeline lets go of the other end; then finishes the files.
    pub(super) fn run(mut self) {
        let mut sounds = BTreeMap::new();
        let mut written: Option<FrameNumber> = None;
        while let Ok(tapped) = self.tapped.recv() {
            let result = match tapped {
                Tapped::Picture(frame) => {
                    let at = frame.completed_at;
                    self.recorder.picture(&picture(frame), at)
                }
                Tapped::Sound(body, at) => {
                    keep(&mut sounds, &body, at, written);
                    self.write(&mut sounds, HELD_SOUNDS, &mut written)
                }
            };
            if let Err(error) = result {
                self.events.lost(Device::Recording, error);
                break;
            }
        }
        // What fails here fails again, and is told, when the files are finished.
        let _ = self.write(&mut sounds, 0, &mut written);
        match self.recorder.finish() {
            Ok(files) => self.events.tell(Event::Recorded(files)),
            Err(error) => self.events.lost(Device::Recording, error),
        }
    }

    fn write(
        &mut self,
        sounds: &mut BTreeMap<FrameNumber, (EncodedSound, Instant)>,
        hold: u64,
        written: &mut Option<FrameNumber>,
    ) -> Result<(), crate::record::RecordError> {
        let newest = sounds.last_key_value().map_or(0, |(number, _)| *number);
        while let Some(entry) = sounds.first_entry() {
            if entry.key() + hold > newest && hold > 0 {
                break;
            }
            let (number, (sound, at)) = entry.remove_entry();
            *written = Some(number);
            self.recorder.sound(&sound, at)?;
        }
        Ok(())
    }
}

fn keep(
    sounds: &mut BTreeMap<FrameNumber, (EncodedSound, Instant)>,
    body: &AudioBody,
    at: Instant,
    written: Option<FrameNumber>,
) {
    for sound in body.copies.iter().chain([&body.primary]) {
        if written.is_none_or(|written| sound.number > written) {
            sounds
                .entry(sound.number)
                .or_insert_with(|| (encoded(sound), at));
        }
    }
}

fn encoded(sound: &Sound) -> EncodedSound {
    EncodedSound {
        time: sound.time,
        data: sound.data.clone(),
        samples: sound.samples,
        voice: sound.voice,
        silence: sound.silence,
    }
}

fn picture(frame: CompleteFrame) -> EncodedPicture {
    EncodedPicture {
        time: frame.info.time,
        data: frame.data,
        key: frame.info.key,
        parameter_sets: frame.info.parameter_sets,
        layer: frame.info.layer,
        discardable: frame.info.discardable,
        long_term: frame.info.long_term,
        reference_distance: frame.info.reference_distance,
    }
}

/// Where a recording goes.
pub(super) fn begin(path: Option<PathBuf>) -> Result<Option<Recorder>, crate::record::RecordError> {
    path.map(|path| Recorder::create(&path, 1)).transpose()
}
