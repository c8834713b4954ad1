//! Frames on control streams, relay's and peers' alike (`wire.md` §3): u32 BE length of what
//! follows (at most 65,536), u16 BE kind, then the body: bincode `standard()` with a limit, nothing
//! left over.
//!
//! Total on any input: a hostile length costs nothing, unknown kinds are the caller's to skip.

use serde::{Serialize, de::DeserializeOwned};

/// The largest value of the length field: kind and body together.
pub const MAX_FRAME_LEN: usize = 65_536;

/// A message that has a kind number of its own. Kinds are never reused and a body never changes
/// under its kind; what grows gets a new one.
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

/// The largest body: a frame without its kind.
const MAX_BODY_LEN: usize = MAX_FRAME_LEN - KIND_LEN;
/// Bytes of the length field.
const LENGTH_LEN: usize = 4;
/// Bytes of the kind field.
const KIND_LEN: usize = 2;

/// What decoding may claim. bincode counts the *decoded* width of an integer, up to 16 bytes for
/// one on the wire, so that a body of legal length claims at most 16 times that. It caps what a
/// hostile length can make it allocate, for a moment, to 1 MiB.
const DECODE_LIMIT: usize = 16 * MAX_FRAME_LEN;

/// One configuration for every body.
const fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

/// The bytes of one message, length and kind included.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let body = encode_body(message, M::KIND)?;
    let length = (KIND_LEN + body.len()) as u32;
    let mut frame = Vec::with_capacity(LENGTH_LEN + KIND_LEN + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&M::KIND.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

impl Frame {
    /// The message of kind `M` in this frame; the caller has compared `kind`.
    ///
    /// # Errors
    /// [`CodecError::Body`].
    pub fn decode<M: Message>(&self) -> Result<M, CodecError> {
        decode_body(&self.body, self.kind)
    }
}

/// Bodies without frame, for what is sealed or stored: bincode `standard()`, limited, fully
/// consumed.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn to_body<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_body(value, 0)
}

/// The reverse of [`to_body`].
///
/// `T` must hold no collection of zero-sized elements (`Vec<()>`, `Vec` of an empty struct): such
/// an element costs no input, so that a hostile count would be worked off however large it is, past
/// any limit.
///
/// # Errors
/// [`CodecError::Body`].
pub fn from_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    decode_body(body, 0)
}

fn encode_body<T: Serialize>(value: &T, kind: u16) -> Result<Vec<u8>, CodecError> {
    match bincode::serde::encode_to_vec(value, config()) {
        Ok(body) if body.len() <= MAX_BODY_LEN => Ok(body),
        Ok(_) | Err(_) => Err(CodecError::TooLarge { kind }),
    }
}

fn decode_body<T: DeserializeOwned>(body: &[u8], kind: u16) -> Result<T, CodecError> {
    if body.len() > MAX_BODY_LEN {
        return Err(CodecError::Body { kind });
    }
    match bincode::serde::decode_from_slice(body, config()) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok(_) | Err(_) => Err(CodecError::Body { kind }),
    }
}

/// Cuts a byte stream into frames.
///
/// Holds what was pushed and not yet taken: with [`FrameDecoder::next_frame`] called until it
/// returns `None` after each push, that is less than one frame ([`MAX_FRAME_LEN`] + 4 bytes) before
/// a push and that much plus the push after it. Push at most what one read delivers (64 KiB is
/// plenty).
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: bytes::BytesMut,
    broken: Option<usize>,
}

impl FrameDecoder {
    /// Appends what the stream delivered; after an error nothing is kept any more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole frame, or `None` until more bytes are there. A bad length is refused as soon
    /// as its four bytes are there.
    ///
    /// # Errors
    /// [`CodecError::Length`]: the stream is unusable from here on, and each further call says so
    /// again.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CodecError> {
        if let Some(length) = self.broken {
            return Err(CodecError::Length(length));
        }
        let Some(field) = self.buffer.first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*field) as usize;
        if !(KIND_LEN..=MAX_FRAME_LEN).contains(&length) {
            self.broken = Some(length);
            self.buffer = bytes::BytesMut::new();
            return Err(CodecError::Length(length));
        }
        if self.buffer.len() < LENGTH_LEN + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(LENGTH_LEN + length).freeze();
        let kind = u16::from_be_bytes([frame[LENGTH_LEN], frame[LENGTH_LEN + 1]]);
        Ok(Some(Frame {
            kind,
            body: frame.split_off(LENGTH_LEN + KIND_LEN),
        }))
    }

    /// Bytes held of a frame that is not whole yet: not zero at the end of a stream means that it
    /// was cut.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Text(String);
    impl Message for Text {
        const KIND: u16 = 0x1234;
    }

    #[test]
    fn a_frame_is_length_kind_and_body() {
        let bytes = encode(&Text("hi".into())).expect("small");
        assert_eq!(bytes, [0, 0, 0, 5, 0x12, 0x34, 2, b'h', b'i']);
    }

    #[test]
    fn the_largest_frame_passes_and_one_byte_more_does_not() {
        // A text of this length has a length field of 1 + 2 or 1 + 4 bytes in bincode's varint.
        let largest = Text("x".repeat(MAX_BODY_LEN - 3));
        let bytes = encode(&largest).expect("fits exactly");
        assert_eq!(bytes.len(), 4 + MAX_FRAME_LEN);
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        let frame = decoder.next_frame().expect("legal length").expect("whole");
        assert_eq!(frame.decode::<Text>(), Ok(largest));
        let larger = Text("x".repeat(MAX_BODY_LEN - 2));
        assert_eq!(encode(&larger), Err(CodecError::TooLarge { kind: 0x1234 }));
    }

    #[test]
    fn bad_lengths_are_refused_before_their_bodies() {
        for length in [0u32, 1, 65_537, u32::MAX] {
            let mut decoder = FrameDecoder::default();
            decoder.push(&length.to_be_bytes()[..3]);
            assert_eq!(decoder.next_frame(), Ok(None));
            decoder.push(&length.to_be_bytes()[3..]);
            assert_eq!(
                decoder.next_frame(),
                Err(CodecError::Length(length as usize))
            );
            decoder.push(&encode(&Text("later".into())).expect("small"));
            assert_eq!(decoder.pending(), 0, "nothing is kept after an error");
            assert_eq!(
                decoder.next_frame(),
                Err(CodecError::Length(length as usize))
            );
        }
    }

    #[test]
    fn hostile_counts_inside_a_body_cost_nothing() {
        // 0xfd announces eight bytes of length.
        let huge = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            from_body::<String>(&huge),
            Err(CodecError::Body { kind: 0 })
        );
        assert_eq!(
            from_body::<Vec<u8>>(&huge),
            Err(CodecError::Body { kind: 0 })
        );
        assert_eq!(
            from_body::<Vec<Vec<[u8; 32]>>>(&huge),
            Err(CodecError::Body { kind: 0 })
        );
        assert_eq!(
            from_body::<Vec<String>>(&huge),
            Err(CodecError::Body { kind: 0 })
        );
    }

    #[test]
    fn whatever_can_be_encoded_can_be_decoded() {
        // One byte a piece on the wire, sixteen in memory.
        let numbers = vec![1u128; MAX_BODY_LEN - 3];
        let body = to_body(&numbers).expect("fits exactly");
        assert_eq!(body.len(), MAX_BODY_LEN);
        assert_eq!(from_body::<Vec<u128>>(&body), Ok(numbers));
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut body = to_body(&7u64).expect("small");
        assert_eq!(from_body::<u64>(&body), Ok(7));
        body.push(0);
        assert_eq!(from_body::<u64>(&body), Err(CodecError::Body { kind: 0 }));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            texts in prop::collection::vec("[a-z]{0,300}", 0..12),
            cuts in prop::collection::vec(1usize..200, 1..64),
        ) {
            let mut stream = Vec::new();
            for text in &texts {
                stream.extend(encode(&Text(text.clone())).expect("small"));
            }
            let (mut decoder, mut got, mut rest) = (FrameDecoder::default(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.push(head);
                rest = tail;
                while let Some(frame) = decoder.next_frame().expect("well formed") {
                    got.push(frame.decode::<Text>().expect("well formed").0);
                }
                prop_assert!(decoder.pending() < MAX_FRAME_LEN + 4);
            }
            prop_assert_eq!(got, texts);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn arbitrary_streams_never_panic(chunks in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let mut decoder = FrameDecoder::default();
            for chunk in &chunks {
                decoder.push(chunk);
                while let Ok(Some(frame)) = decoder.next_frame() {
                    let _ = frame.decode::<Text>();
                }
            }
        }
    }
}
