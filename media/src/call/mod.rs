//! A call's media as one pure value: what is encoded, captured, received and played goes in, datagrams and
//! orders come out. It composes fragments, repair, pacing and rate control (the sending half) with reports,
//! assembly, buffers and clocks (the receiving half); it has no thread, no clock and no socket.
//!
//! The three verbs: [`Call::handle_input`] with `now`, then [`Call::poll_output`] until it has nothing more,
//! then wait until [`Call::poll_timeout`] or the next input.

mod bursts;
mod receiver;
mod refresh;
mod sender;
mod stream;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::receiver::Receiver;
use self::sender::Sender;
use crate::jitter::CompleteFrame;
use crate::packet::{AudioBody, WireClock};
use crate::rate::SkipReason;
use crate::stats::Snapshot;
use crate::{
    AudioTime, Budget, EncodedPicture, EncodedSound, FrameNumber, OtherTraffic, PathState,
    PictureSize, Sequence, StreamId, VideoTime,
};

/// How a call begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Pictures with their repair take at most this, bits a second.
    pub video_cap_bits_per_sec: u64,
    /// Payload of sound, bits a second.
    pub audio_bits_per_sec: u64,
    /// What the path is taken to carry at first, bits a second.
    pub start_bits_per_sec: u64,
    /// Wait up to three frame intervals to show pictures evenly.
    pub smooth: bool,
    /// The machine has processor to spare: 1080p may be sent.
    pub spare_cores: bool,
    /// The path at the start.
    pub path: PathState,
    /// The number of our first packet; nothing depends on it but a test of wraps.
    pub first_sequence: Sequence,
    /// The number of the first frame of each stream, likewise.
    pub first_frame: FrameNumber,
    /// What our clock on the wire shows at the start, µs, likewise.
    pub clock_micros: u64,
}

impl Config {
    /// The usual call on this path.
    pub const fn new(path: PathState) -> Self {
        Self {
            video_cap_bits_per_sec: 2_500_000,
            audio_bits_per_sec: 48_000,
            start_bits_per_sec: 600_000,
            smooth: false,
            spare_cores: false,
            path,
            first_sequence: 0,
            first_frame: 0,
            clock_micros: 0,
        }
    }
}

/// What a stream of pictures shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A camera.
    Camera,
    /// A screen.
    Screen {
        /// It shows text, which gets the larger share.
        text: bool,
    },
}

/// What can happen to a call.
#[derive(Debug, Clone)]
pub enum Input {
    /// [`Call::poll_timeout`] is reached.
    Timeout,
    /// A datagram came.
    Datagram(Bytes),
    /// A stream of pictures begins, or its source has another size.
    StreamOn {
        /// Which.
        stream: StreamId,
        /// What it shows.
        subject: Subject,
        /// The size of the source.
        source: PictureSize,
    },
    /// A stream of pictures ends (camera off, hold).
    StreamOff(StreamId),
    /// An encoder made a picture. Each one takes the stream's next number ([`Call::next_frame`]), so none may
    /// be left out.
    Picture {
        /// Of which stream.
        stream: StreamId,
        /// The picture.
        picture: EncodedPicture,
        /// When it was captured.
        captured_at: Instant,
    },
    /// The source gave a picture that was not encoded.
    Skipped(StreamId),
    /// The sound encoder made a packet.
    Sound {
        /// The packet.
        sound: EncodedSound,
        /// When its first sample was captured.
        captured_at: Instant,
    },
    /// The microphone is there (or not).
    SoundOn(bool),
    /// What the layer below says of the path.
    Path(PathState),
    /// What passes beside our datagrams.
    Other(OtherTraffic),
    /// A transfer runs beside the call, or no more.
    Transfer(bool),
    /// The peer wants no more than this, bits a second; its advice can only lower.
    PeerCap(u64),
    /// The decoder is done with a frame.
    Decoded {
        /// Of which stream.
        stream: StreamId,
        /// Which.
        frame: FrameNumber,
        /// It made a picture.
        ok: bool,
        /// For so long it was in the decoder.
        took: Duration,
    },
    /// A picture was handed to the sink.
    Shown {
        /// Of which stream.
        stream: StreamId,
        /// When it was captured.
        time: VideoTime,
        /// When it was shown.
        at: Instant,
    },
    /// The other side sends no pictures of this stream on purpose (camera off, hold), or sends them again: what
    /// is missing meanwhile is no freeze.
    Paused(StreamId, bool),
    /// What the buffer of sound says, every 10 to 50 ms.
    Buffer(BufferState),
}

/// The buffer of sound, as its thread sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferState {
    /// What waits, ms.
    pub buffer_millis: u16,
    /// The last frame decoded and the first missing, if any was.
    pub progress: Option<(FrameNumber, FrameNumber)>,
    /// What leaves the loudspeaker, and when.
    pub playing: Option<(AudioTime, Instant)>,
}

/// What an encoder is to do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderOrder {
    /// Which stream.
    pub stream: StreamId,
    /// What to aim at, bits a second; 0: encode nothing.
    pub bits_per_sec: u64,
    /// The size of pictures.
    pub size: PictureSize,
    /// How many a second.
    pub frames_per_sec: u32,
    /// Every second frame is one that no other refers to.
    pub layered: bool,
}

/// What the sound encoder is to do from now on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoundOrder {
    /// What to aim at, bits a second of payload.
    pub bits_per_sec: u64,
    /// Length of a packet: 10, 20 or 40 ms.
    pub frame: Duration,
    /// Share of packets that is lost and that no copy brings back, 0 to 1: what in-band repair is for.
    pub expected_loss: f32,
}

/// What the buffer of sound is to do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferOrder {
    /// For [`crate::jitter::AudioBuffer::set_repair_delay`].
    pub repair_delay: Duration,
    /// For [`crate::jitter::AudioBuffer::set_repair_wait`].
    pub repair_wait: Duration,
    /// For [`crate::jitter::AudioBuffer::set_sync_delay`].
    pub sync_delay: Duration,
}

/// What a call wants done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send this.
    Datagram(Bytes),
    /// Tell an encoder.
    Encoder(EncoderOrder),
    /// The stream's next picture must be a key frame.
    KeyFrame(StreamId),
    /// The stream's next picture must be decodable for who has `last_good`.
    Recovery {
        /// Which stream.
        stream: StreamId,
        /// The last frame that the other side decoded.
        last_good: FrameNumber,
    },
    /// The other side decoded this frame (for long-term references).
    Reached {
        /// Which stream.
        stream: StreamId,
        /// The frame.
        frame: FrameNumber,
    },
    /// Whether pictures of the stream are to be encoded, and if not, why.
    Capture {
        /// Which stream.
        stream: StreamId,
        /// Why not; `None`: they are.
        skip: Option<SkipReason>,
    },
    /// Tell the sound encoder.
    SoundEncoder(SoundOrder),
    /// Decode this.
    Decode(CompleteFrame),
    /// Put this into the buffer of sound.
    Sound {
        /// The sound.
        body: AudioBody,
        /// When it came.
        arrival: Instant,
    },
    /// Tell the buffer of sound.
    Buffer(BufferOrder),
    /// Tell the buffer of sound that packets take another path.
    BufferPathSwitch,
    /// Tell the layer below.
    Budget(Budget),
    /// Tell who watches.
    Event(Event),
}

/// What a call tells those who watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing comes.
    Reconnecting,
    /// Something comes again, after this time.
    Back(Duration),
    /// Nothing has come for 30 s.
    Dead,
    /// Somebody speaks on the other side, or no longer.
    RemoteVoice(bool),
}

/// The orders that wait to be taken; drained after each input.
type Outputs = VecDeque<Output>;

/// A call.
#[derive(Debug)]
pub struct Call {
    started: Instant,
    /// Of the last input.
    now: Instant,
    sender: Sender,
    receiver: Receiver,
    outputs: Outputs,
}

impl Call {
    /// Begins at `now`; nothing is sent before there is something to send.
    pub fn new(now: Instant, config: Config) -> Self {
        let clock = WireClock::new(now, config.clock_micros);
        Self {
            started: now,
            now,
            sender: Sender::new(now, &config, clock),
            receiver: Receiver::new(now, &config, clock),
            outputs: Outputs::new(),
        }
    }

    /// Takes what happened; drain [`Call::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        let (sender, receiver, outputs) = (&mut self.sender, &mut self.receiver, &mut self.outputs);
        match input {
            Input::Timeout => {}
            Input::Datagram(datagram) => receiver.on_datagram(now, &datagram, outputs),
            Input::StreamOn {
                stream,
                subject,
                source,
            } => sender.stream_on(now, stream, subject, source),
            Input::StreamOff(stream) => sender.stream_off(now, stream),
            Input::Picture {
                stream,
                picture,
                captured_at,
            } => sender.on_picture(now, stream, &picture, captured_at),
            Input::Skipped(stream) => sender.on_skipped(stream),
            Input::Sound { sound, captured_at } => {
                sender.on_sound(now, sound, captured_at);
            }
            Input::SoundOn(on) => sender.set_sound(on),
            Input::Path(path) => sender.on_path(now, path),
            Input::Other(traffic) => sender.on_other(now, traffic),
            Input::Transfer(runs) => sender.set_transfer(runs),
            Input::PeerCap(cap) => sender.set_peer_cap(cap),
            Input::Decoded {
                stream,
                frame,
                ok,
                took,
            } => receiver.on_decoded(now, stream, frame, ok, took),
            Input::Shown { stream, time, at } => {
                receiver.on_shown(stream, time, at, sender.holds_audio());
            }
            Input::Paused(stream, paused) => receiver.set_paused(stream, paused),
            Input::Buffer(state) => receiver.on_buffer(state),
        }
        self.advance(now);
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.sender.poll_timeout(),
            self.receiver.poll_timeout(self.now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The number that the stream's next picture will have: the first of a new encoder.
    pub fn next_frame(&self, stream: StreamId) -> FrameNumber {
        self.sender.next_frame(stream)
    }

    /// Why a picture of the stream that is captured now should not be encoded.
    pub fn skips(&self, stream: StreamId) -> Option<SkipReason> {
        self.sender.skips(stream)
    }

    /// All that the call itself counts; what lies outside (codecs, devices) is left at zero.
    pub fn stats(&mut self, now: Instant) -> Snapshot {
        let mut snapshot = Snapshot {
            elapsed_millis: now.saturating_duration_since(self.started).as_millis() as u64,
            ..Snapshot::default()
        };
        self.sender.fill(now, &mut snapshot);
        self.receiver.fill(now, &mut snapshot);
        snapshot
    }

    /// Lets both halves do what is due; each may give the other something to do.
    fn advance(&mut self, now: Instant) {
        self.now = now;
        while let Some(report) = self.receiver.poll_report() {
            if let Some(feedback) = self.sender.on_report(now, &report, &mut self.outputs) {
                self.receiver.on_outcomes(&feedback.outcomes);
            }
        }
        self.receiver.set_path(now, &self.sender.view());
        self.receiver.advance(now, &mut self.outputs);
        self.sender
            .advance(now, &mut self.receiver, &mut self.outputs);
    }
}
