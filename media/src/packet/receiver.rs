//! Whole numbers and times for what came in: the part of the receiver that knows how far each stream is.

use std::time::Duration;

use super::clock::ClockUnwrapper;
use super::report::STEP_MICROS;
use super::{
    AudioBody, Body, CoveredFrame, Header, ParityBody, RawAudio, RawBody, RawParity, RawReport,
    RawVideo, Report, Sound, StreamReport, Unwrapper, VideoBody,
};
use crate::{AudioTime, Extender, MAX_STREAMS, StreamId};

/// An Opus packet that says "nothing new" is at most this long, bytes (RFC 6716 §3.2.1: one with a table of
/// contents and no frame data).
const SILENT_BYTES: usize = 2;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamFormat {
    /// Opus.
    Audio,
    /// H.264.
    Video,
}

/// Why a packet, though well formed, is of no use. It is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// No such stream is open (yet: the control stream may be slower).
    #[error("stream {} is not open", .0.0)]
    UnknownStream(StreamId),
    /// The stream carries something else.
    #[error("stream {} does not carry this", .0.0)]
    WrongFormat(StreamId),
}

/// A packet, whole again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The stream that its header names; without meaning for reports, probes and path marks.
    pub stream: StreamId,
    /// When it left, µs of the sender's clock, with an unknown origin.
    pub sent_micros: u64,
    /// From the capture of its content to its leaving; `None`: 255 ms or more.
    pub age: Option<Duration>,
    /// What is in it.
    pub body: Body,
}

/// Makes packets whole: each stream's numbers and times follow its newest.
#[derive(Debug, Default)]
pub struct Receiver {
    streams: Vec<Stream>,
    sent: ClockUnwrapper,
    reported: ClockUnwrapper,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    numbers: Unwrapper<16>,
    clock: StreamClock,
}

#[derive(Debug)]
enum StreamClock {
    Audio(Extender<48_000>),
    Video(Extender<90_000>),
}

impl Receiver {
    /// Opens a stream, afresh if it was open. False, with nothing done, when [`MAX_STREAMS`] others are.
    pub fn open(&mut self, id: StreamId, format: StreamFormat) -> bool {
        self.close(id);
        if self.streams.len() >= MAX_STREAMS {
            return false;
        }
        self.streams.push(Stream {
            id,
            numbers: Unwrapper::default(),
            clock: match format {
                StreamFormat::Audio => StreamClock::Audio(Extender::default()),
                StreamFormat::Video => StreamClock::Video(Extender::default()),
            },
        });
        true
    }

    /// Closes a stream: its packets are unknown from here on.
    pub fn close(&mut self, id: StreamId) {
        self.streams.retain(|stream| stream.id != id);
    }

    /// Makes a parsed packet whole. To be called once for each packet, in the order of arrival, after
    /// [`crate::history::ReceiveHistory::on_packet`] found it new.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn complete(&mut self, header: &Header, raw: RawBody) -> Result<Packet, ReceiveError> {
        let sent_micros = self.sent.micros(header.send_time);
        let id = header.stream;
        let body = match raw {
            RawBody::Audio(raw) => Body::Audio(self.stream(id)?.audio(raw)?),
            RawBody::Video(raw) => Body::Video(self.stream(id)?.video(raw)?),
            RawBody::Parity(raw) => Body::Parity(self.stream(id)?.parity(raw)?),
            RawBody::Report(raw) => Body::Report(self.report(raw)),
            RawBody::Probe { cluster, padding } => Body::Probe { cluster, padding },
            RawBody::PathMark { epoch, reason } => Body::PathMark { epoch, reason },
        };
        Ok(Packet {
            stream: id,
            sent_micros,
            age: (header.age_millis < u8::MAX)
                .then(|| Duration::from_millis(u64::from(header.age_millis))),
            body,
        })
    }

    fn stream(&mut self, id: StreamId) -> Result<&mut Stream, ReceiveError> {
        self.streams
            .iter_mut()
            .find(|stream| stream.id == id)
            .ok_or(ReceiveError::UnknownStream(id))
    }

    fn report(&mut self, raw: RawReport) -> Report {
        let time_micros = self.reported.micros(raw.time);
        let arrival =
            |steps: i32| time_micros.saturating_add_signed(i64::from(steps) * STEP_MICROS as i64);
        Report {
            base: u64::from(raw.base),
            time_micros,
            echoed_send_time: raw.echoed_send_time,
            hold_micros: u64::from(raw.hold) * STEP_MICROS,
            ce_marks: raw.ce_marks,
            arrivals: raw
                .arrivals
                .iter()
                .map(|steps| steps.map(arrival))
                .collect(),
            streams: raw
                .streams
                .iter()
                .map(|stream| StreamReport {
                    stream: stream.stream,
                    refresh_wanted: stream.refresh_wanted,
                    slow_down: stream.slow_down,
                    last_decoded: stream.last_decoded.map(u64::from),
                    first_missing: stream.first_missing.map(u64::from),
                    buffer_millis: stream.buffer_millis,
                })
                .collect(),
        }
    }
}

impl Stream {
    fn audio(&mut self, raw: RawAudio) -> Result<AudioBody, ReceiveError> {
        let StreamClock::Audio(clock) = &mut self.clock else {
            return Err(ReceiveError::WrongFormat(self.id));
        };
        let time = clock.extend(raw.time);
        let number = self.numbers.unwrap(u32::from(raw.number));
        let (samples, voice) = (raw.samples, raw.voice);
        let copies = raw.copies.into_iter().map(|copy| {
            let offset = u64::from(copy.offset);
            let ticks = time.ticks().saturating_sub(offset * u64::from(samples));
            Sound {
                number: number.saturating_sub(offset),
                time: AudioTime::from_ticks(ticks),
                samples,
                silence: copy.data.len() <= SILENT_BYTES,
                data: copy.data,
                voice,
            }
        });
        Ok(AudioBody {
            copies: copies.collect(),
            primary: Sound {
                number,
                time,
                samples,
                data: raw.primary,
                voice,
                silence: raw.silence,
            },
        })
    }

    fn video(&mut self, raw: RawVideo) -> Result<VideoBody, ReceiveError> {
        let StreamClock::Video(clock) = &mut self.clock else {
            return Err(ReceiveError::WrongFormat(self.id));
        };
        let number = self.numbers.unwrap(u32::from(raw.number));
        let time = clock.extend(raw.time);
        let (fragments, distance) = (raw.fragments, raw.reference_distance);
        Ok(VideoBody {
            frame: raw.flags.frame(self.id, number, time, fragments, distance),
            fragment: raw.fragment,
            attempt: raw.attempt,
            data: raw.data,
        })
    }

    fn parity(&mut self, raw: RawParity) -> Result<ParityBody, ReceiveError> {
        let StreamClock::Video(clock) = &mut self.clock else {
            return Err(ReceiveError::WrongFormat(self.id));
        };
        let mut number = self.numbers.unwrap(u32::from(raw.number));
        let mut frames = Vec::with_capacity(raw.frames.len());
        for (place, frame) in raw.frames.iter().enumerate() {
            if place > 0 {
                number = number.saturating_add(1 + u64::from(frame.gap));
            }
            let time = clock.extend(frame.time);
            let (fragments, distance) = (frame.fragments, frame.reference_distance);
            frames.push(CoveredFrame {
                info: frame
                    .flags
                    .frame(self.id, number, time, fragments, distance),
                length: frame.length,
            });
        }
        Ok(ParityBody {
            frames,
            first_fragment: raw.first_fragment,
            data_shards: raw.data_shards,
            parity_shards: raw.parity_shards,
            index: raw.index,
            shard: raw.shard,
        })
    }
}
