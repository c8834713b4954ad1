//! The messages on a transfer's control stream (frames of [`p2p_net_proto::codec`], kinds of their own),
//! with every bound that bincode cannot express checked on decoding. Transfers begin with `Offer`; all
//! that may come at any time, from either side, is `Cancel`.

use p2p_net_proto::codec::{self, CodecError, Frame, Message};
use serde::{Deserialize, Serialize};

use super::report::{Md5, TransferId};

/// Bytes of a reason or label on the wire at most.
pub const MAX_REASON_BYTES: usize = 1_024;
/// Things that an offer lists by name at most.
pub const MAX_OFFER_ITEMS: usize = 32;
/// Files, folders and skipped entries of one transfer at most.
pub const MAX_ENTRIES: u32 = 2_000_000;
/// Files that are announced and not yet settled at most: what both ends must remember.
pub(super) const MAX_UNSETTLED: usize = 65_536;
/// Lanes of one transfer at most.
pub(super) const MAX_LANES: usize = 16;

/// Entries of one manifest message, digests and results of one message at most.
pub(super) const MAX_BATCH: usize = 1_024;
/// Estimated bytes after which a batch is sent; leaves a frame room for one more entry of any size.
pub(super) const BATCH_BYTES: usize = 48 << 10;
/// Bytes of the reason of one file at most.
const MAX_FILE_REASON_BYTES: usize = 256;

/// Why a transfer was cancelled: codes of [`Cancel`].
pub(super) mod code {
    pub(in super::super) const BY_USER: u16 = 1;
    pub(in super::super) const DISK_FULL: u16 = 2;
    pub(in super::super) const MALFORMED: u16 = 3;
    pub(in super::super) const FAILED: u16 = 4;
}

macro_rules! control_messages {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub(super) struct $name { $($(#[$fdoc])* pub(super) $field: $type,)* }

            impl Message for $name {
                const KIND: u16 = $kind;
            }
        )*

        /// Any message on a control stream.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) enum Control {
            $($name($name),)*
        }

        impl Control {
            /// The message in a frame; `None` for a kind that this version does not know.
            pub(super) fn decode(frame: &Frame) -> Result<Option<Self>, CodecError> {
                let message = match frame.kind {
                    $($kind => Self::$name(frame.decode()?),)*
                    _ => return Ok(None),
                };
                if message.is_bounded() {
                    Ok(Some(message))
                } else {
                    Err(CodecError::Body { kind: frame.kind })
                }
            }
        }
    };
}

control_messages! {
    /// Sender, first: what there is.
    0x0201 Offer {
        transfer: TransferId,
        label: String,
        files: Option<u64>,
        total_bytes: Option<u64>,
        items: Vec<WireItem>,
        /// Bits of what the sender would like; none are defined yet.
        options: u32,
    }
    /// Receiver: send it. `have` will say what is here already; empty for now.
    0x0202 Accept {
        have: Vec<u8>,
    }
    /// Receiver: do not.
    0x0203 Reject {
        reason: String,
    }
    /// Sender: the next entries; the first has the number `first`, and none is left out.
    0x0204 Manifest {
        first: u32,
        entries: Vec<Entry>,
    }
    /// Sender: that were all entries.
    0x0205 ManifestEnd {
        entries: u32,
    }
    /// Sender: the MD5 of files that travel in chunks.
    0x0206 Digests {
        digests: Vec<(u32, Md5)>,
    }
    /// Sender: an announced file does not come, or what came of it is not whole.
    0x0207 Unsent {
        file: u32,
        /// Whether none of it was read.
        skipped: bool,
        reason: String,
    }
    /// Sender: so many frames are on the lanes, and only repairs will follow.
    0x0208 AllSent {
        frames: u64,
    }
    /// Receiver: what became of files.
    0x0209 Results {
        results: Vec<FileResult>,
    }
    /// Receiver: send this chunk, or the whole file with a new MD5, once more.
    0x020a Repair {
        file: u32,
        chunk: Option<u32>,
    }
    /// Receiver, last: all files are settled, and what is verified has its name.
    0x020b Finished {
        verified: u64,
    }
    /// Either side, at any time: it is over.
    0x020c Cancel {
        /// One of [`code`].
        code: u16,
        reason: String,
    }
}

/// One thing on the top level of an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireItem {
    pub(super) name: Vec<u8>,
    pub(super) folder: bool,
    pub(super) size: Option<u64>,
}

/// What an [`Entry`] is. Kinds that come later (links, say) have other numbers.
pub(super) mod kind {
    pub(in super::super) const FILE: u8 = 0;
    pub(in super::super) const FOLDER: u8 = 1;
    /// Something that is there but will not be sent; `note` says why.
    pub(in super::super) const SKIPPED: u8 = 2;
}

/// A file, a folder, or something skipped. It names its folder by number, so that a path cannot lead
/// anywhere; folders come before what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// One of [`kind`].
    pub(super) kind: u8,
    /// The number of its folder plus one; 0 for the top level.
    pub(super) parent: u32,
    /// As the sender's system has it: any bytes.
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    /// Last change, seconds since 1970.
    pub(super) modified_secs: i64,
    /// And nanoseconds.
    pub(super) modified_nanos: u32,
    /// Whether its owner, group and others may execute it: mode bits 0o111 and no other.
    pub(super) executable: u16,
    pub(super) note: String,
}

impl Entry {
    /// About how many bytes it takes in a message.
    pub(super) fn wire_bytes(&self) -> usize {
        48 + self.name.len() + self.note.len()
    }
}

/// What became of one file: one of [`outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileResult {
    pub(super) file: u32,
    pub(super) outcome: u8,
    /// The receiver's.
    pub(super) md5: Option<Md5>,
    pub(super) reason: String,
}

/// Outcomes of a [`FileResult`].
pub(super) mod outcome {
    pub(in super::super) const VERIFIED: u8 = 0;
    /// Its content was wrong, twice.
    pub(in super::super) const CORRUPT: u8 = 1;
}

impl Control {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Offer(offer) => {
                offer.label.len() <= MAX_REASON_BYTES
                    && offer.items.len() <= MAX_OFFER_ITEMS
                    && offer
                        .items
                        .iter()
                        .all(|item| item.name.len() <= MAX_REASON_BYTES)
            }
            Self::Reject(Reject { reason }) | Self::Cancel(Cancel { reason, .. }) => {
                reason.len() <= MAX_REASON_BYTES
            }
            Self::Manifest(manifest) => {
                manifest.entries.len() <= MAX_BATCH
                    && manifest
                        .entries
                        .iter()
                        .all(|entry| entry.note.len() <= MAX_FILE_REASON_BYTES)
            }
            Self::Digests(Digests { digests }) => digests.len() <= MAX_BATCH,
            Self::Unsent(unsent) => unsent.reason.len() <= MAX_FILE_REASON_BYTES,
            Self::Results(Results { results }) => {
                results.len() <= MAX_BATCH
                    && results
                        .iter()
                        .all(|result| result.reason.len() <= MAX_FILE_REASON_BYTES)
            }
            Self::Accept(Accept { have }) => have.is_empty(),
            Self::ManifestEnd(_) | Self::AllSent(_) | Self::Repair(_) | Self::Finished(_) => true,
        }
    }
}

/// The bytes of a message; what we build ourselves always fits a frame.
pub(super) fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    codec::encode(message)
}

/// At most [`MAX_REASON_BYTES`] of a reason.
pub(super) fn clip(reason: &str) -> String {
    reason[..reason.floor_char_boundary(MAX_REASON_BYTES)].to_owned()
}

/// At most as much of a file's reason as its messages may hold.
pub(super) fn clip_file_reason(reason: &str) -> String {
    reason[..reason.floor_char_boundary(MAX_FILE_REASON_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use p2p_net_proto::codec::FrameDecoder;
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<Control>, CodecError> {
        let mut decoder = FrameDecoder::default();
        decoder.push(bytes);
        let frame = decoder.next_frame()?.expect("a whole frame");
        Control::decode(&frame)
    }

    fn entry(name: Vec<u8>, note: String) -> Entry {
        Entry {
            kind: kind::FILE,
            parent: 7,
            name,
            size: u64::MAX,
            modified_secs: -5,
            modified_nanos: 999_999_999,
            executable: 0o111,
            note,
        }
    }

    #[test]
    fn too_much_of_anything_is_refused() {
        let long = "x".repeat(MAX_REASON_BYTES + 1);
        assert!(
            decode(
                &encode(&Reject {
                    reason: long.clone()
                })
                .expect("fits")
            )
            .is_err()
        );
        assert!(
            decode(
                &encode(&Cancel {
                    code: 1,
                    reason: long
                })
                .expect("fits")
            )
            .is_err()
        );
        let results = vec![
            FileResult {
                file: 0,
                outcome: 0,
                md5: None,
                reason: String::new()
            };
            MAX_BATCH + 1
        ];
        assert!(decode(&encode(&Results { results }).expect("fits")).is_err());
        let entries = vec![entry(vec![], "x".repeat(MAX_FILE_REASON_BYTES + 1))];
        assert!(decode(&encode(&Manifest { first: 0, entries }).expect("fits")).is_err());
    }

    #[test]
    fn a_count_that_is_not_there_is_refused() {
        let mut bytes = encode(&Digests {
            digests: Vec::new(),
        })
        .expect("fits");
        let last = bytes.len() - 1;
        bytes[last] = 0xfa;
        assert!(decode(&bytes).is_err());
    }

    #[test]
    fn messages_of_later_versions_are_skipped() {
        let mut bytes = encode(&ManifestEnd { entries: 3 }).expect("fits");
        bytes[4..6].copy_from_slice(&0x02ff_u16.to_be_bytes());
        assert_eq!(decode(&bytes), Ok(None));
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let clipped = clip(&"ü".repeat(MAX_REASON_BYTES));
        assert_eq!(clipped.len(), MAX_REASON_BYTES);
        assert!(clip_file_reason(&"€".repeat(400)).len() <= MAX_FILE_REASON_BYTES);
    }

    proptest! {
        #[test]
        fn manifests_survive_the_wire(
            first: u32,
            names in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            note in "\\PC{0,20}",
        ) {
            let entries = names.into_iter().map(|name| entry(name, note.clone())).collect();
            let manifest = Manifest { first, entries };
            let bytes = encode(&manifest).expect("fits");
            prop_assert_eq!(decode(&bytes), Ok(Some(Control::Manifest(manifest))));
        }

        #[test]
        fn results_survive_the_wire(file: u32, outcome: u8, md5: Option<[u8; 16]>, reason in "\\PC{0,60}") {
            let md5 = md5.map(Md5::from_bytes);
            let results = Results { results: vec![FileResult { file, outcome, md5, reason }] };
            let bytes = encode(&results).expect("fits");
            prop_assert_eq!(decode(&bytes), Ok(Some(Control::Results(results))));
        }

        #[test]
        fn no_body_panics(kind in 0x0200u16..0x0210, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let frame = Frame { kind, body: body.into() };
            let _ = Control::decode(&frame);
        }
    }
}
