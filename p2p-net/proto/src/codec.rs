//! Frames on control streams, relay's and peers' alike (`wire.md` §3): u32 BE length of what follows
//! (at most 65,536), u16 BE kind, then the body: bincode `standard()` with a limit, nothing left over.
//!
//! Total on any input: a hostile length costs nothing, unknown kinds are the caller's to skip.

use serde::{Serialize, de::DeserializeOwned};

/// The largest value of the length field: kind and body together.
pub const MAX_FRAME_LEN: usize = 65_536;

/// A message that has a kind number of its own. Kinds are never reused and a body never changes under
/// its kind; what grows gets a new one.
pub trait Message: Serialize + DeserializeOwned {
    /// The number on the wire.
    const KIND: u16;
}

/// A frame whose body has not been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which message it holds.
    pub kind: u16,
    /// Its bincode body.
    pub body: bytes::Bytes,
}

/// Why bytes are not a frame or not the message that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The length field exceeds [`MAX_FRAME_LEN`], or is too small to hold a kind.
    #[error("a frame of {0} bytes is outside 2 to {MAX_FRAME_LEN}")]
    Length(usize),
    /// The body is not a value of its kind, or has bytes left over.
    #[error("the body of a message of kind {kind:#06x} is malformed")]
    Body {
        /// The kind whose body it claims to be.
        kind: u16,
    },
    /// A message that we were about to send is too large.
    #[error("a message of kind {kind:#06x} is larger than a frame may be")]
    TooLarge {
        /// Its kind.
        kind: u16,
    },
}

/// The bytes of one message, length and kind included.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let _ = message;
    todo!()
}

impl Frame {
    /// The message of kind `M` in this frame; the caller has compared `kind`.
    ///
    /// # Errors
    /// [`CodecError::Body`].
    pub fn decode<M: Message>(&self) -> Result<M, CodecError> {
        todo!()
    }
}

/// Bodies without frame, for what is sealed or stored: bincode `standard()`, limited, fully consumed.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn to_body<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let _ = value;
    todo!()
}

/// The reverse of [`to_body`].
///
/// # Errors
/// [`CodecError::Body`].
pub fn from_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let _ = body;
    todo!()
}

/// Cuts a byte stream into frames; holds at most one frame's bytes.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: bytes::BytesMut,
}

impl FrameDecoder {
    /// Appends what the stream delivered.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are there.
    ///
    /// # Errors
    /// [`CodecError::Length`]: the stream is unusable from here on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CodecError> {
        todo!()
    }
}
