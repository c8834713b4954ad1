//! The parsers of this module, for the fuzz targets in `benches/fuzz`; nothing else uses it.

use p2p_net_proto::codec::Frame;

use super::chunk::{FrameHeader, HEADER_BYTES, SMALL_BYTES, next_packed};
use super::names::{Siblings, local_name, numbered, printable};
use super::wire::Control;

/// Whether a frame is a control message.
pub fn control(frame: &Frame) -> bool {
    matches!(Control::decode(frame), Ok(Some(_)))
}

/// The names under which things would be stored whose sender calls them `raw`, in one folder, on systems
/// like this one and like Windows: as first of that name, and as second.
pub fn names(raw: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    for windows in [false, true] {
        let Ok(name) = local_name(raw, windows) else {
            continue;
        };
        let mut siblings = Siblings::new(windows);
        all.extend(
            [name.clone(), name.clone(), numbered(&name, u64::MAX)]
                .map(|name| siblings.unique(7, name)),
        );
    }
    all
}

/// What a screen would show of a text.
pub fn shown(text: &str) -> String {
    printable(text, 80)
}

/// Reads the bytes of a lane: a header, and what follows as a pack of files.
///
/// # Panics
/// Where a header does not encode to what it was decoded from, or a packed file is larger than small.
pub fn lane(bytes: &[u8]) {
    if let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>()
        && let Ok(header) = FrameHeader::decode(head)
    {
        assert_eq!(&header.encode(), head, "another header");
        let _ = (header.length(), header.highest());
    }
    let mut pack = bytes.get(HEADER_BYTES..).unwrap_or_default();
    while let Some((file, rest)) = next_packed(pack) {
        assert!(
            file.bytes.len() as u64 <= SMALL_BYTES && rest.len() < pack.len(),
            "a packed file"
        );
        pack = rest;
    }
}
