//! What two clients say to each other about a call, on the control stream. Everything that is lost with a
//! connection is said again on the next one: each frame carries the call's id, an invitation or an answer
//! may come twice, and [`CallState`] and [`CallPulse`] tell the whole of what they are about.

use p2p_net_proto::codec::{self, CodecError, Frame, Message as FrameMessage};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::check;

/// The capability in [`super::Hello`] of who understands these frames.
pub const CALLS: &str = "calls";
/// Versions of the media packets that this code speaks.
pub const MEDIA_VERSIONS: &[u8] = &[0];
/// Versions in one invitation at most.
const MAX_VERSIONS: usize = 16;
/// Streams in one table at most; `media` refuses more as well.
const MAX_STREAMS: usize = 8;
/// Bytes of a reason in words at most.
pub const MAX_REASON_LEN: usize = 256;

/// What a stream carries.
pub mod stream_use {
    /// The microphone.
    pub const AUDIO: u8 = 0;
    /// The camera.
    pub const CAMERA: u8 = 1;
    /// The screen.
    pub const SCREEN: u8 = 2;
}

/// How it is coded.
pub mod codec_id {
    /// Opus (RFC 6716).
    pub const OPUS: u8 = 1;
    /// H.264, constrained baseline, Annex B.
    pub const H264: u8 = 2;
}

/// Why a call ended or did not begin, as it crosses the wire; unknown ones count as [`end_code::HANGUP`].
pub mod end_code {
    /// Its person hung up.
    pub const HANGUP: u16 = 0;
    /// Its person said no.
    pub const DECLINED: u16 = 1;
    /// Another call runs there.
    pub const BUSY: u16 = 2;
    /// The caller gave up before an answer.
    pub const CANCELLED: u16 = 3;
    /// Nobody answered.
    pub const TIMEOUT: u16 = 4;
    /// Nothing there takes calls now.
    pub const UNAVAILABLE: u16 = 5;
    /// No version of the media packets that both speak.
    pub const UNSUPPORTED: u16 = 6;
    /// Its microphone, camera or encoder could not go on.
    pub const FAILED: u16 = 7;
    /// It heard nothing for too long.
    pub const LOST: u16 = 8;
    /// It knows of no such call (any more).
    pub const UNKNOWN: u16 = 9;
    /// Its program was ended.
    pub const SHUTDOWN: u16 = 10;
}

/// One line of the stream table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// Its id in media packets.
    pub id: u8,
    /// See [`stream_use`]; who does not know one ignores the stream.
    pub carries: u8,
    /// See [`codec_id`].
    pub codec: u8,
    /// Ticks of its timestamps a second.
    pub clock_rate: u32,
    /// Largest picture, pixels; 0 for sound.
    pub max_width: u16,
    /// See `max_width`.
    pub max_height: u16,
    /// Temporal layers; 1 is none.
    pub layers: u8,
    /// Long-term reference slots.
    pub references: u8,
}

/// What one side says of its own sources. The whole of it each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sources {
    /// It has a microphone, or another source of sound.
    pub audio: bool,
    /// Its sound is off.
    pub muted: bool,
    /// Its camera is on.
    pub camera: bool,
    /// Its screen, or a window of it, is shown.
    pub screen: bool,
    /// It put the call on hold: nothing is sent in either direction.
    pub held: bool,
    /// It wants no more than so much, 1,000 bits a second; 0: whatever the path carries.
    pub max_kilobits: u32,
}

/// Wants a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallInvite {
    /// Random; names the call for its whole life.
    pub call: Uuid,
    /// Versions of the media packets, in any order; both use the highest that both have.
    pub versions: Vec<u8>,
    /// What the caller may send.
    pub streams: Vec<StreamEntry>,
    /// What it will send at first.
    pub sources: Sources,
}

/// A person is being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRinging {
    /// Which.
    pub call: Uuid,
}

/// Takes an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallAccept {
    /// Which.
    pub call: Uuid,
    /// The version that both use.
    pub version: u8,
    /// What the callee may send.
    pub streams: Vec<StreamEntry>,
    /// What it sends at first.
    pub sources: Sources,
}

/// Ends a call, or its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEnd {
    /// Which.
    pub call: Uuid,
    /// See [`end_code`].
    pub code: u16,
    /// In words, for people; may be empty, at most [`MAX_REASON_LEN`] bytes.
    pub reason: String,
}

/// The sender's sources changed, or the connection is a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallState {
    /// Which.
    pub call: Uuid,
    /// Rises with each change; what comes with a smaller one is old.
    pub number: u32,
    /// What holds now.
    pub sources: Sources,
}

/// Says that the call lives on this side, and how the other side's media arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallPulse {
    /// Which.
    pub call: Uuid,
    /// Figures of the last seconds.
    pub quality: Quality,
}

/// How media arrive. All counters since the call began; they wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quality {
    /// Pictures shown.
    pub frames_shown: u32,
    /// Times that the picture stood still.
    pub freezes: u32,
    /// For how long in all, ms.
    pub frozen_millis: u32,
    /// Sound made up because nothing was there, ms.
    pub concealed_millis: u32,
    /// Packets missing in the last seconds, of 10,000.
    pub loss: u16,
}

/// A frame about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFrame {
    /// See [`CallInvite`].
    Invite(CallInvite),
    /// See [`CallRinging`].
    Ringing(CallRinging),
    /// See [`CallAccept`].
    Accept(CallAccept),
    /// See [`CallEnd`].
    End(CallEnd),
    /// See [`CallState`].
    State(CallState),
    /// See [`CallPulse`].
    Pulse(CallPulse),
}

impl FrameMessage for CallInvite {
    const KIND: u16 = 0x0300;
}
impl FrameMessage for CallRinging {
    const KIND: u16 = 0x0301;
}
impl FrameMessage for CallAccept {
    const KIND: u16 = 0x0302;
}
impl FrameMessage for CallEnd {
    const KIND: u16 = 0x0303;
}
impl FrameMessage for CallState {
    const KIND: u16 = 0x0304;
}
impl FrameMessage for CallPulse {
    const KIND: u16 = 0x0305;
}

impl CallFrame {
    /// Which call it is about.
    pub fn call(&self) -> Uuid {
        match self {
            Self::Invite(frame) => frame.call,
            Self::Ringing(frame) => frame.call,
            Self::Accept(frame) => frame.call,
            Self::End(frame) => frame.call,
            Self::State(frame) => frame.call,
            Self::Pulse(frame) => frame.call,
        }
    }

    /// The message in a frame; `None` for a kind that is not about calls.
    ///
    /// # Errors
    /// A malformed or over-long body.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, CodecError> {
        Ok(Some(match frame.kind {
            CallInvite::KIND => {
                let invite: CallInvite = frame.decode()?;
                let bounded = (1..=MAX_VERSIONS).contains(&invite.versions.len())
                    && invite.streams.len() <= MAX_STREAMS;
                check(frame, bounded)?;
                Self::Invite(invite)
            }
            CallRinging::KIND => Self::Ringing(frame.decode()?),
            CallAccept::KIND => {
                let accept: CallAccept = frame.decode()?;
                check(frame, accept.streams.len() <= MAX_STREAMS)?;
                Self::Accept(accept)
            }
            CallEnd::KIND => {
                let end: CallEnd = frame.decode()?;
                check(frame, end.reason.len() <= MAX_REASON_LEN)?;
                Self::End(end)
            }
            CallState::KIND => Self::State(frame.decode()?),
            CallPulse::KIND => Self::Pulse(frame.decode()?),
            _ => return Ok(None),
        }))
    }

    /// The bytes of the whole frame.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Invite(message) => codec::encode(message),
            Self::Ringing(message) => codec::encode(message),
            Self::Accept(message) => codec::encode(message),
            Self::End(message) => codec::encode(message),
            Self::State(message) => codec::encode(message),
            Self::Pulse(message) => codec::encode(message),
        }
    }
}

/// The highest version that both speak.
pub fn common_version(theirs: &[u8]) -> Option<u8> {
    MEDIA_VERSIONS
        .iter()
        .filter(|version| theirs.contains(version))
        .max()
        .copied()
}

#[cfg(test)]
mod tests {
    use p2p_net_proto::codec::FrameDecoder;

    use super::*;

    fn frame_of(bytes: &[u8]) -> Frame {
        let mut decoder = FrameDecoder::default();
        decoder.push(bytes);
        decoder.next_frame().expect("well formed").expect("whole")
    }

    fn entry(id: u8) -> StreamEntry {
        StreamEntry {
            id,
            carries: stream_use::CAMERA,
            codec: codec_id::H264,
            clock_rate: 90_000,
            max_width: 1_280,
            max_height: 720,
            layers: 1,
            references: 0,
        }
    }

    fn invite(versions: usize, streams: usize) -> CallFrame {
        CallFrame::Invite(CallInvite {
            call: Uuid::from_u128(7),
            versions: vec![0; versions],
            streams: (0..streams).map(|id| entry(id as u8)).collect(),
            sources: Sources::default(),
        })
    }

    fn end(len: usize) -> CallFrame {
        CallFrame::End(CallEnd {
            call: Uuid::from_u128(7),
            code: end_code::BUSY,
            reason: "x".repeat(len),
        })
    }

    #[test]
    fn call_frames_survive_the_wire() {
        let call = Uuid::from_u128(u128::MAX);
        let sources = Sources {
            audio: true,
            muted: true,
            camera: false,
            screen: true,
            held: true,
            max_kilobits: u32::MAX,
        };
        for frame in [
            invite(1, 0),
            invite(MAX_VERSIONS, MAX_STREAMS),
            CallFrame::Ringing(CallRinging { call }),
            CallFrame::Accept(CallAccept {
                call,
                version: 0,
                streams: vec![entry(1)],
                sources,
            }),
            end(0),
            end(MAX_REASON_LEN),
            CallFrame::State(CallState {
                call,
                number: 9,
                sources,
            }),
            CallFrame::Pulse(CallPulse {
                call,
                quality: Quality {
                    loss: 10_000,
                    ..Quality::default()
                },
            }),
        ] {
            let bytes = frame.encode().expect("fits");
            assert_eq!(CallFrame::decode(&frame_of(&bytes)), Ok(Some(frame)));
        }
    }

    #[test]
    fn bodies_beyond_their_bounds_are_refused() {
        for frame in [
            invite(0, 1),
            invite(MAX_VERSIONS + 1, 1),
            invite(1, MAX_STREAMS + 1),
            end(MAX_REASON_LEN + 1),
        ] {
            let bytes = frame.encode().expect("fits a frame");
            assert!(CallFrame::decode(&frame_of(&bytes)).is_err(), "{frame:?}");
        }
    }

    #[test]
    fn the_highest_common_version_is_used() {
        assert_eq!(common_version(&[7, 0, 3]), Some(0));
        assert_eq!(common_version(&[7, 3]), None);
        assert_eq!(common_version(&[]), None);
    }
}
