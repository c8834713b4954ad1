//! What two clients say to each other on their control and chat streams: frames of
//! [`p2p_net_proto::codec`], bounds checked here. A peer is a stranger until proven a friend: every body has a
//! limit, and unknown kinds are skipped so that versions can mix.

mod call;

use p2p_net::PeerId;
use p2p_net_proto::codec::{self, CodecError, Frame, Message as FrameMessage};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::settings::MAX_NAME_LEN;

pub use call::{
    CALLS, CallAccept, CallEnd, CallFrame, CallInvite, CallPulse, CallRinging, CallState,
    MAX_REASON_LEN, MEDIA_VERSIONS, Quality, Sources, StreamEntry, codec_id, common_version,
    end_code, stream_use,
};

/// The version that this code speaks.
pub const VERSION: u16 = 1;
/// Bytes of a message's text at most.
pub const MAX_TEXT_LEN: usize = 32 * 1024;
/// Ids in one [`Read`] at most.
pub const MAX_READ_IDS: usize = 256;
const MAX_CAPABILITIES: usize = 32;
const MAX_CAPABILITY_LEN: usize = 32;

/// The kind byte that every stream after the control stream begins with.
pub mod stream_kind {
    /// Chat frames, both ways.
    pub const CHAT: u8 = 1;
    /// One transfer's control.
    pub const TRANSFER: u8 = 2;
    /// A unidirectional lane of a transfer.
    pub const LANE: u8 = 3;
}

/// Application codes that connections and streams are closed with.
pub mod close_code {
    /// The program ends, or has no more use for the connection.
    pub const DONE: u32 = 0;
    /// The peer broke the rules of this page.
    pub const PROTOCOL: u32 = 0x10;
    /// The peer is not wanted here.
    pub const UNWANTED: u32 = 0x11;
    /// No answer although the network seemed alive; a new connection follows.
    pub const UNRESPONSIVE: u32 = 0x12;
    /// A stream of a kind that this version does not know, or one too many.
    pub const UNKNOWN_STREAM: u32 = 0x13;
}

/// First message on the control stream, from both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's version.
    pub version: u16,
    /// The name that the sender claims; may be empty.
    pub name: String,
    /// Optional features by name.
    pub capabilities: Vec<String>,
}

/// Wants a [`Pong`] with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Chosen by the sender.
    pub number: u64,
}

/// Answers a [`Ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The ping's.
    pub number: u64,
}

/// A message to a person. Sending it twice does no harm: (sender, id) names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// A UUIDv7.
    pub id: Uuid,
    /// UTF-8, up to [`MAX_TEXT_LEN`] bytes, not empty.
    pub text: String,
    /// By the sender's clock, milliseconds since 1970.
    pub sent_at_millis: u64,
    /// The message that this one answers: who sent that one, and its id.
    pub reply_to: Option<(PeerId, Uuid)>,
}

/// The receiver has stored a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Which.
    pub id: Uuid,
}

/// The receiver's person has seen messages. Repeated until [`ReadSeen`] came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Which; at most [`MAX_READ_IDS`].
    pub ids: Vec<Uuid>,
}

/// The sender has stored that its messages were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSeen {
    /// Which; at most [`MAX_READ_IDS`].
    pub ids: Vec<Uuid>,
}

/// A frame on a control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlFrame {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Ping`].
    Ping(Ping),
    /// See [`Pong`].
    Pong(Pong),
    /// See [`CallFrame`].
    Call(CallFrame),
}

/// A frame on a chat stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatFrame {
    /// See [`Message`].
    Message(Message),
    /// See [`Delivered`].
    Delivered(Delivered),
    /// See [`Read`].
    Read(Read),
    /// See [`ReadSeen`].
    ReadSeen(ReadSeen),
}

impl FrameMessage for Hello {
    const KIND: u16 = 0x0001;
}
impl FrameMessage for Ping {
    const KIND: u16 = 0x0002;
}
impl FrameMessage for Pong {
    const KIND: u16 = 0x0003;
}
impl FrameMessage for Message {
    const KIND: u16 = 0x0100;
}
impl FrameMessage for Delivered {
    const KIND: u16 = 0x0101;
}
impl FrameMessage for Read {
    const KIND: u16 = 0x0102;
}
impl FrameMessage for ReadSeen {
    const KIND: u16 = 0x0103;
}

impl ControlFrame {
    /// The message in a frame; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// A malformed or over-long body.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, CodecError> {
        Ok(Some(match frame.kind {
            Hello::KIND => {
                let hello: Hello = frame.decode()?;
                check(frame, hello.is_bounded())?;
                Self::Hello(hello)
            }
            Ping::KIND => Self::Ping(frame.decode()?),
            Pong::KIND => Self::Pong(frame.decode()?),
            _ => return Ok(CallFrame::decode(frame)?.map(Self::Call)),
        }))
    }

    /// The bytes of the whole frame.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Hello(message) => codec::encode(message),
            Self::Ping(message) => codec::encode(message),
            Self::Pong(message) => codec::encode(message),
            Self::Call(frame) => frame.encode(),
        }
    }
}

impl ChatFrame {
    /// The message in a frame; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// A malformed or over-long body.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, CodecError> {
        Ok(Some(match frame.kind {
            Message::KIND => {
                let message: Message = frame.decode()?;
                check(frame, message.is_bounded())?;
                Self::Message(message)
            }
            Delivered::KIND => Self::Delivered(frame.decode()?),
            Read::KIND => {
                let read: Read = frame.decode()?;
                check(
                    frame,
                    !read.ids.is_empty() && read.ids.len() <= MAX_READ_IDS,
                )?;
                Self::Read(read)
            }
            ReadSeen::KIND => {
                let seen: ReadSeen = frame.decode()?;
                check(
                    frame,
                    !seen.ids.is_empty() && seen.ids.len() <= MAX_READ_IDS,
                )?;
                Self::ReadSeen(seen)
            }
            _ => return Ok(None),
        }))
    }

    /// The bytes of the whole frame.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Message(message) => codec::encode(message),
            Self::Delivered(message) => codec::encode(message),
            Self::Read(message) => codec::encode(message),
            Self::ReadSeen(message) => codec::encode(message),
        }
    }
}

impl Hello {
    fn is_bounded(&self) -> bool {
        self.name.len() <= MAX_NAME_LEN
            && self.capabilities.len() <= MAX_CAPABILITIES
            && self
                .capabilities
                .iter()
                .all(|name| name.len() <= MAX_CAPABILITY_LEN)
    }
}

impl Message {
    fn is_bounded(&self) -> bool {
        !self.text.is_empty()
            && self.text.len() <= MAX_TEXT_LEN
            && i64::try_from(self.sent_at_millis).is_ok()
    }
}

fn check(frame: &Frame, good: bool) -> Result<(), CodecError> {
    if good {
        Ok(())
    } else {
        Err(CodecError::Body { kind: frame.kind })
    }
}

#[cfg(test)]
mod tests {
    use p2p_net_proto::codec::FrameDecoder;
    use proptest::prelude::*;

    use super::*;

    fn frame_of(bytes: &[u8]) -> Frame {
        let mut decoder = FrameDecoder::default();
        decoder.push(bytes);
        decoder.next_frame().expect("well formed").expect("whole")
    }

    fn message(text: &str) -> Message {
        let peer = PeerId::from_bytes([9; 32]);
        let reply_to = Some((peer, Uuid::from_u128(8)));
        Message {
            id: Uuid::from_u128(7),
            text: text.to_owned(),
            sent_at_millis: 123,
            reply_to,
        }
    }

    #[test]
    fn chat_frames_survive_the_wire() {
        let ids = vec![Uuid::from_u128(1), Uuid::from_u128(u128::MAX)];
        for frame in [
            ChatFrame::Message(message("grüße")),
            ChatFrame::Message(message(&"x".repeat(MAX_TEXT_LEN))),
            ChatFrame::Delivered(Delivered { id: ids[1] }),
            ChatFrame::Read(Read { ids: ids.clone() }),
            ChatFrame::ReadSeen(ReadSeen {
                ids: vec![ids[0]; MAX_READ_IDS],
            }),
        ] {
            let bytes = frame.encode().expect("fits");
            assert_eq!(ChatFrame::decode(&frame_of(&bytes)), Ok(Some(frame)));
        }
    }

    #[test]
    fn control_frames_survive_the_wire() {
        let hello = Hello {
            version: 1,
            name: "Ann".to_owned(),
            capabilities: vec!["chat".to_owned()],
        };
        for frame in [
            ControlFrame::Hello(hello),
            ControlFrame::Ping(Ping { number: u64::MAX }),
            ControlFrame::Pong(Pong { number: 0 }),
        ] {
            let bytes = frame.encode().expect("fits");
            assert_eq!(ControlFrame::decode(&frame_of(&bytes)), Ok(Some(frame)));
        }
    }

    #[test]
    fn bodies_beyond_their_bounds_are_refused() {
        let mut late = message("late");
        late.sent_at_millis = u64::MAX;
        for frame in [
            ChatFrame::Message(message("")),
            ChatFrame::Message(message(&"x".repeat(MAX_TEXT_LEN + 1))),
            ChatFrame::Message(late),
            ChatFrame::Read(Read { ids: vec![] }),
            ChatFrame::ReadSeen(ReadSeen {
                ids: vec![Uuid::nil(); MAX_READ_IDS + 1],
            }),
        ] {
            let bytes = frame.encode().expect("fits a frame");
            assert!(ChatFrame::decode(&frame_of(&bytes)).is_err(), "{frame:?}");
        }
        let long = Hello {
            version: 1,
            name: "x".repeat(129),
            capabilities: vec![],
        };
        let many = Hello {
            version: 1,
            name: String::new(),
            capabilities: vec![String::new(); 33],
        };
        for hello in [long, many] {
            let bytes = ControlFrame::Hello(hello).encode().expect("fits a frame");
            assert!(ControlFrame::decode(&frame_of(&bytes)).is_err());
        }
    }

    #[test]
    fn unknown_kinds_are_skipped() {
        let frame = Frame {
            kind: 0x7777,
            body: bytes::Bytes::from_static(b"whatever"),
        };
        assert_eq!(ChatFrame::decode(&frame), Ok(None));
        assert_eq!(ControlFrame::decode(&frame), Ok(None));
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(kind in prop_oneof![0u16..0x0110, 0x0300u16..0x0310], body: Vec<u8>) {
            let frame = Frame { kind, body: body.into() };
            let _ = ChatFrame::decode(&frame);
            let _ = ControlFrame::decode(&frame);
        }

        #[test]
        fn any_message_survives(id: u128, text in ".{1,200}", sent_at_millis in 0..=i64::MAX as u64) {
            let frame = ChatFrame::Message(Message {
                id: Uuid::from_u128(id), text, sent_at_millis, reply_to: None,
            });
            let bytes = frame.encode().expect("fits");
            prop_assert_eq!(ChatFrame::decode(&frame_of(&bytes)), Ok(Some(frame)));
        }
    }
}
