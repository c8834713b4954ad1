//! Files of a recording: their names, their fragments, and the corrections that the container's writer needs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use muxide::api::AudioCodec;
use muxide::fragmented::{FragmentAudioConfig, FragmentConfig, FragmentedMuxer};

use super::{ParameterSets, RecordError};
use crate::bitstream::{NalKind, to_length_prefixed};

/// Ticks of a fragment: what a crash may lose. Shorter ones cost 200 bytes each.
const FRAGMENT_SECONDS: u64 = 1;
/// Bytes that are held back at most, whatever the rate.
const MAX_HELD: usize = 8 << 20;
/// Files of one name at most.
const MAX_FILES: u32 = 9_999;

/// Which of a file's two tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Track {
    /// In ticks of 90 kHz.
    Pictures,
    /// In ticks of 48 kHz.
    Sound,
}

impl Track {
    const fn rate(self) -> u64 {
        match self {
            Self::Pictures => 90_000,
            Self::Sound => 48_000,
        }
    }
}

/// Writes files one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    channels: u8,
    /// Names that were tried.
    tried: u32,
    /// A file without content yet.
    empty: Option<(PathBuf, File)>,
    open: Option<Open>,
    /// Files with content.
    written: Vec<PathBuf>,
}

/// A file with a head.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    muxer: FragmentedMuxer,
    pictures: bool,
    /// Where the file begins on the time line, in nanoseconds: the first thing in it.
    origin: Option<u128>,
    /// Where each track of the fragment begins in the file, in its own ticks.
    begins: [Option<u64>; 2],
    held: usize,
}

impl Writer {
    /// Makes the first file.
    pub(super) fn create(path: &Path, channels: u8) -> Result<Self, RecordError> {
        let mut this = Self {
            path: path.to_owned(),
            channels,
            tried: 0,
            empty: None,
            open: None,
            written: Vec::new(),
        };
        this.empty = Some(this.next_file()?);
        Ok(this)
    }

    /// Whether there is a file to write to.
    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Closes the file that is open, and begins the next one, with pictures or without.
    pub(super) fn open(&mut self, pictures: Option<&ParameterSets>) -> Result<(), RecordError> {
        self.close()?;
        let (path, mut file) = match self.empty.take() {
            Some(empty) => empty,
            None => self.next_file()?,
        };
        let audio = FragmentAudioConfig {
            codec: AudioCodec::Opus,
            sample_rate: 48_000,
            channels: self.channels.into(),
        };
        let muxer = match pictures {
            Some(sets) => {
                let (width, height) = (sets.size.width(), sets.size.height());
                let config = FragmentConfig {
                    sps: sets.sps.clone(),
                    pps: sets.pps.clone(),
                    ..FragmentConfig::new(width, height, 90_000)
                };
                FragmentedMuxer::new_with_audio(config, audio)
            }
            None => FragmentedMuxer::new_audio_only(audio),
        };
        let mut muxer = muxer.map_err(|error| container(&path, error))?;
        let head = muxer.init_segment();
        file.write_all(&head).map_err(|error| io(&path, error))?;
        self.written.push(path.clone());
        self.open = Some(Open {
            path,
            file,
            muxer,
            pictures: pictures.is_some(),
            origin: None,
            begins: [None; 2],
            held: 0,
        });
        Ok(())
    }

    /// Adds a picture; `known` parameter sets are left out, as they stand in the file's head.
    pub(super) fn picture(
        &mut self,
        time: u64,
        data: &[u8],
        key: bool,
        known: bool,
    ) -> Result<(), RecordError> {
        let without: &[NalKind] = match known {
            true => &[NalKind::Sps, NalKind::Pps, NalKind::Delimiter],
            false => &[NalKind::Delimiter],
        };
        let data = to_length_prefixed(data, without);
        let Some(open) = self.open.as_mut().filter(|open| open.pictures) else {
            return Ok(());
        };
        let time = open.begin(Track::Pictures, time, data.len())?;
        let done = open.muxer.write_video(time, time, &data, key);
        done.map_err(|error| container(&open.path, error))
    }

    /// Adds a packet of sound.
    pub(super) fn sound(&mut self, time: u64, data: &[u8]) -> Result<(), RecordError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let time = open.begin(Track::Sound, time, data.len())?;
        let done = open.muxer.write_audio(time, time, data);
        done.map_err(|error| container(&open.path, error))
    }

    /// Writes the last fragment, and gives the files with content.
    pub(super) fn finish(&mut self) -> Result<Vec<PathBuf>, RecordError> {
        self.close()?;
        if let Some((path, file)) = self.empty.take() {
            drop(file);
            std::fs::remove_file(&path).map_err(|error| io(&path, error))?;
        }
        Ok(std::mem::take(&mut self.written))
    }

    fn close(&mut self) -> Result<(), RecordError> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.write_fragment()?;
        open.file.sync_all().map_err(|error| io(&open.path, error))
    }

    /// Makes the next file of the name that is not there yet.
    fn next_file(&mut self) -> Result<(PathBuf, File), RecordError> {
        loop {
            self.tried += 1;
            let path = numbered(&self.path, self.tried);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && self.tried < MAX_FILES => {}
                Err(error) => return Err(io(&path, error)),
            }
        }
    }
}

impl Drop for Writer {
    /// What was not finished is written as far as possible; nobody is there to be told.
    fn drop(&mut self) {
        drop(self.finish());
    }
}

impl Open {
    /// Makes room for the next sample of a track, at `time` of the time line; gives its time in the file.
    fn begin(&mut self, track: Track, time: u64, len: usize) -> Result<u64, RecordError> {
        let nanos = |ticks: u64| u128::from(ticks) * 1_000_000_000 / u128::from(track.rate());
        let origin = *self.origin.get_or_insert_with(|| nanos(time));
        let start = (origin * u128::from(track.rate())).div_ceil(1_000_000_000);
        // What was captured before the file's first sample begins with it.
        let time = time.saturating_sub(u64::try_from(start).unwrap_or(u64::MAX));
        let long = self.begins[track as usize]
            .is_some_and(|begin| time.saturating_sub(begin) >= FRAGMENT_SECONDS * track.rate());
        if long || self.held + len > MAX_HELD {
            self.write_fragment()?;
        }
        self.begins[track as usize].get_or_insert(time);
        self.held += len;
        Ok(time)
    }

    fn write_fragment(&mut self) -> Result<(), RecordError> {
        let Some(mut fragment) = self.muxer.flush_segment() else {
            return Ok(());
        };
        let [pictures, sound] = self.begins;
        let numbers = if self.pictures { [1, 2] } else { [0, 1] };
        for (number, begin) in numbers.into_iter().zip([pictures, sound]) {
            if let Some(begin) = begin {
                set_begin(&mut fragment, number, begin);
            }
        }
        self.begins = [None; 2];
        self.held = 0;
        let done = self.file.write_all(&fragment);
        done.map_err(|error| io(&self.path, error))
    }
}

/// States where track `number` begins in a fragment: the container's writer reckons it from the mean length of
/// the samples before, which is wrong behind each pause.
fn set_begin(fragment: &mut [u8], number: u32, begin: u64) {
    let Some(moof) = boxes(fragment, 0..fragment.len()).find(|found| found.kind == *b"moof") else {
        return;
    };
    let tracks: Vec<Found> = boxes(fragment, moof.content())
        .filter(|found| found.kind == *b"traf")
        .collect();
    for track in tracks {
        let find =
            |kind: &[u8; 4]| boxes(fragment, track.content()).find(|found| found.kind == *kind);
        let (Some(head), Some(time)) = (find(b"tfhd"), find(b"tfdt")) else {
            continue;
        };
        // Version and flags come first in both.
        let named = fragment.get(head.start + 12..head.start + 16);
        if named == Some(&number.to_be_bytes()[..])
            && let Some(place) = fragment.get_mut(time.start + 12..time.end)
            && place.len() == 8
        {
            place.copy_from_slice(&begin.to_be_bytes());
        }
    }
}

/// A box of the container (ISO 14496-12 §4.2).
#[derive(Debug, Clone, Copy)]
struct Found {
    kind: [u8; 4],
    start: usize,
    end: usize,
}

impl Found {
    fn content(self) -> std::ops::Range<usize> {
        self.start + 8..self.end
    }
}

fn boxes(data: &[u8], within: std::ops::Range<usize>) -> impl Iterator<Item = Found> {
    let mut at = within.start;
    std::iter::from_fn(move || {
        let (len, rest) = data.get(at..within.end)?.split_first_chunk()?;
        let kind = *rest.first_chunk()?;
        let end = at.checked_add(u32::from_be_bytes(*len) as usize)?;
        if end < at + 8 || end > within.end {
            return None;
        }
        let found = Found {
            kind,
            start: at,
            end,
        };
        at = end;
        Some(found)
    })
}

/// "name.mp4", "name (2).mp4", …
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number < 2 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(" ({number})"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn io(path: &Path, source: io::Error) -> RecordError {
    RecordError::Io {
        path: path.to_owned(),
        source,
    }
}

fn container(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> RecordError {
    RecordError::Container {
        path: path.to_owned(),
        source: Box::new(source),
    }
}
