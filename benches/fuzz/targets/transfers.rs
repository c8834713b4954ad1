//! What a sender of files says: control messages, the frames of its lanes, and names, none of which may
//! lead out of the folder that the receiver chose.
#![no_main]

use client::transfer::fuzzing;
use libfuzzer_sys::fuzz_target;
use p2p_net_proto::codec::Frame;

fuzz_target!(|input: (u16, &[u8])| {
    let (kind, bytes) = input;
    let _ = fuzzing::control(&Frame {
        kind,
        body: bytes::Bytes::copy_from_slice(bytes),
    });
    fuzzing::lane(bytes);

    let names = fuzzing::names(bytes);
    for (index, name) in names.iter().enumerate() {
        let mut parts = std::path::Path::new(name).components();
        let only = (parts.next(), parts.next());
        assert!(
            matches!(only, (Some(std::path::Component::Normal(part)), None) if part == name.as_str()),
            "{name:?} is not one plain component"
        );
        assert!(
            name.len() <= 255 && !name.contains(['/', '\\', '\0']),
            "{name:?}"
        );
        assert!(!name.to_lowercase().starts_with(".landline-"), "{name:?}");
        // The two systems have a folder each.
        let (mine, other) = (index / 3, |at: usize| at / 3);
        let twice = names
            .iter()
            .enumerate()
            .any(|(at, twin)| at != index && other(at) == mine && twin == name);
        assert!(!twice, "{name:?} is there twice");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let shown = fuzzing::shown(text);
        assert!(
            shown.chars().count() <= 80 && !shown.contains(char::is_control),
            "{shown:?}"
        );
    }
});
