//! What a received name becomes on this disk. Pure: a name goes in, a name that cannot leave its folder
//! comes out, or a reason why there is none. The files themselves are opened relative to a directory
//! handle as well; this is the first of two walls.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use unicode_normalization::UnicodeNormalization;

/// Bytes of one part of a path at most, as most file systems have it.
pub(super) const MAX_COMPONENT_BYTES: usize = 255;
/// Bytes of one part of a path on the wire at most.
pub(super) const MAX_RAW_COMPONENT_BYTES: usize = 4_096;
/// Bytes of a whole path at most, as it was sent.
pub(super) const MAX_PATH_BYTES: usize = 4_096;
/// Folders within folders at most.
pub(super) const MAX_DEPTH: u16 = 128;
/// What our own part folders begin with (`wire.md` §9); no received name may.
pub(super) const PART_PREFIX: &str = ".landline-";

/// Longer endings are no endings but part of the name.
const MAX_EXTENSION_BYTES: usize = 16;
/// Names that are tried before a number that is surely free.
const MAX_TRIES: u64 = 50;

/// Why a name has no place here. An honest sender never sends such a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error("an empty name")]
    Empty,
    #[error("the name of a folder's self or parent")]
    Dots,
    #[error("a name with a path separator")]
    Separator,
    #[error("a name with a zero byte")]
    Nul,
    #[error("a name kept for unfinished transfers")]
    Reserved,
    #[error("a name that is too long")]
    TooLong,
}

/// The name that a received one gets here. Legal names of other systems are changed as little as need
/// be: separators, drive letters, control and direction-changing characters become `_`, device names of
/// Windows get a `_` in front, trailing dots and spaces become `_`, what is no UTF-8 becomes U+FFFD, and
/// what is longer than [`MAX_COMPONENT_BYTES`] is cut, keeping its ending, with a hash of the whole.
/// `windows` changes besides what only Windows cannot store.
///
/// # Errors
/// [`NameError`].
pub(super) fn local_name(raw: &[u8], windows: bool) -> Result<String, NameError> {
    match raw {
        [] => return Err(NameError::Empty),
        b"." | b".." => return Err(NameError::Dots),
        _ if raw.len() > MAX_RAW_COMPONENT_BYTES => return Err(NameError::TooLong),
        _ if raw.contains(&b'/') => return Err(NameError::Separator),
        _ if raw.contains(&0) => return Err(NameError::Nul),
        _ => {}
    }
    let text = String::from_utf8_lossy(raw);
    let drive = is_drive(&text);
    let mut name: String = text
        .char_indices()
        .map(|(at, c)| match c {
            '\\' => '_',
            ':' if windows || (drive && at == 1) => '_',
            '<' | '>' | '"' | '|' | '?' | '*' if windows => '_',
            c if is_unprintable(c) => '_',
            c => c,
        })
        .collect();
    let kept = name.trim_end_matches(['.', ' ']).len();
    let trailing = name[kept..].len();
    name.truncate(kept);
    name.extend(std::iter::repeat_n('_', trailing));
    if is_device(&name) {
        name.insert(0, '_');
    }
    if name
        .get(..PART_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PART_PREFIX))
    {
        return Err(NameError::Reserved);
    }
    if name.len() > MAX_COMPONENT_BYTES {
        name = shortened(&name, raw);
    }
    Ok(name)
}

/// Whether it begins like a drive of Windows.
fn is_drive(name: &str) -> bool {
    matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// Text of the other side made fit for one line of a screen: nothing that moves the cursor or turns the
/// direction of writing, and at most `max_chars` characters.
pub(super) fn printable(text: &str, max_chars: usize) -> String {
    text.chars()
        .take(max_chars)
        .map(|c| if is_unprintable(c) { ' ' } else { c })
        .collect()
}

/// Control characters, and those that turn the direction of writing, which make `exe.jpg` of `gpj.exe`.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether Windows takes the name for a device, whatever its ending.
fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end_matches(' ')
        .to_uppercase();
    if matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) {
        return true;
    }
    let number = stem
        .strip_prefix("COM")
        .or_else(|| stem.strip_prefix("LPT"));
    number.is_some_and(|number| {
        let mut chars = number.chars();
        matches!(
            (chars.next(), chars.next()),
            (Some('0'..='9' | '¹' | '²' | '³'), None)
        )
    })
}

/// Stem and ending, the dot with the ending: `archive` and `.tar.gz`.
fn split_extension(name: &str) -> (&str, &str) {
    let is_ending = |ending: &str| {
        (2..=MAX_EXTENSION_BYTES).contains(&ending.len()) && !ending.contains(char::is_whitespace)
    };
    let cut = |name: &str| match name.rfind('.') {
        Some(at) if at > 0 && is_ending(&name[at..]) => at,
        _ => name.len(),
    };
    let at = cut(name);
    let (stem, _) = name.split_at(at);
    let inner = cut(stem);
    if at < name.len() && stem[inner..].eq_ignore_ascii_case(".tar") {
        return name.split_at(inner);
    }
    name.split_at(at)
}

/// At most `bytes` of the text, cut between characters.
fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn shortened(name: &str, raw: &[u8]) -> String {
    let hash = blake3::hash(raw).to_hex();
    let (stem, ending) = split_extension(name);
    let ending = if ending.len() <= 2 * MAX_EXTENSION_BYTES {
        ending
    } else {
        ""
    };
    let room = MAX_COMPONENT_BYTES - 9 - ending.len();
    format!("{}~{}{ending}", head(stem, room), &hash[..8])
}

/// The name of the n-th thing that wants to be called `name`: `name (n).ext`, never longer than
/// [`MAX_COMPONENT_BYTES`]; the name itself for 1.
pub(super) fn numbered(name: &str, n: u64) -> String {
    if n <= 1 {
        return name.to_owned();
    }
    let (stem, ending) = split_extension(name);
    let number = format!(" ({n})");
    let room = MAX_COMPONENT_BYTES.saturating_sub(number.len() + ending.len());
    format!("{}{number}{ending}", head(stem, room))
}

/// The names taken so far in one transfer, by folder. Holds 8 bytes of hash a name, under a random key:
/// a chance hit costs a number behind the name and nothing else.
pub(super) struct Siblings {
    taken: HashSet<u64>,
    key: RandomState,
    folds: bool,
}

impl Siblings {
    /// `folds`: whether the target takes `A` and `a`, composed and decomposed letters, for the same.
    pub(super) fn new(folds: bool) -> Self {
        Self {
            taken: HashSet::new(),
            key: RandomState::new(),
            folds,
        }
    }

    /// A name like `name` that nothing else has in the folder of number `parent`.
    pub(super) fn unique(&mut self, parent: u32, name: String) -> String {
        if self.take(parent, &name) {
            return name;
        }
        // After some tries, numbers that no honest name bears: a flood of equal names stays cheap.
        let beyond = self.taken.len() as u64 + 1_000_000;
        for n in (2..MAX_TRIES).chain(beyond..) {
            let candidate = numbered(&name, n);
            if self.take(parent, &candidate) {
                return candidate;
            }
        }
        name
    }

    fn take(&mut self, parent: u32, name: &str) -> bool {
        let hash = if self.folds {
            self.key.hash_one((parent, folded(name)))
        } else {
            self.key.hash_one((parent, name))
        };
        self.taken.insert(hash)
    }
}

/// One form for all spellings that some file system takes for the same name.
fn folded(name: &str) -> String {
    let upper: String = name.nfc().flat_map(char::to_uppercase).collect();
    upper.chars().flat_map(char::to_lowercase).nfc().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn local(raw: &str) -> String {
        local_name(raw.as_bytes(), false).expect("a legal name")
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (raw, why) in [
            (&b""[..], NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"/", NameError::Separator),
            (b"/etc", NameError::Separator),
            (b"a/b", NameError::Separator),
            (b"../a", NameError::Separator),
            (b"a\0b", NameError::Nul),
            (b".landline-0011223344556677.part", NameError::Reserved),
            (b".LANDLINE-x", NameError::Reserved),
            (&[b'x'; MAX_RAW_COMPONENT_BYTES + 1], NameError::TooLong),
        ] {
            assert_eq!(local_name(raw, false), Err(why), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn names_of_other_systems_are_tamed() {
        for (raw, expected) in [
            ("a\\b", "a_b"),
            ("\\\\server\\share", "__server_share"),
            ("..\\..\\x", ".._.._x"),
            ("C:", "C_"),
            ("c:\\windows", "c__windows"),
            ("12:30", "12:30"),
            ("CON", "_CON"),
            ("con.txt", "_con.txt"),
            ("Nul .tar.gz", "_Nul .tar.gz"),
            ("COM1", "_COM1"),
            ("lpt9.x", "_lpt9.x"),
            ("COM¹", "_COM¹"),
            ("COM10", "COM10"),
            ("console", "console"),
            ("trailing.", "trailing_"),
            ("trailing . ", "trailing___"),
            ("...", "___"),
            (".. ", "___"),
            (" ", "_"),
            ("line\nbreak\u{7f}\u{9b}", "line_break__"),
            ("gpj.\u{202e}exe", "gpj._exe"),
            (".hidden", ".hidden"),
            ("grüße 👋.txt", "grüße 👋.txt"),
        ] {
            assert_eq!(local(raw), expected, "{raw:?}");
        }
        assert_eq!(
            local_name(b"a:b<c>|\"?*", true).as_deref(),
            Ok("a_b_c_____")
        );
        assert_eq!(
            local_name(b"bad \xff\xfe", false).as_deref(),
            Ok("bad \u{fffd}\u{fffd}")
        );
    }

    #[test]
    fn long_names_keep_their_ending() {
        let fits = format!("{}.jpeg", "x".repeat(250));
        assert_eq!(local(&fits), fits);
        let one = local(&format!("{}one.jpeg", "ü".repeat(300)));
        let two = local(&format!("{}two.jpeg", "ü".repeat(300)));
        assert!(
            one.len() <= MAX_COMPONENT_BYTES && one.ends_with(".jpeg"),
            "{one}"
        );
        assert_ne!(one, two);
    }

    #[test]
    fn numbers_go_before_the_ending() {
        for (name, expected) in [
            ("a.txt", "a (2).txt"),
            ("a", "a (2)"),
            (".hidden", ".hidden (2)"),
            ("archive.tar.gz", "archive (2).tar.gz"),
            (".tar.gz", ".tar (2).gz"),
            ("Mr. Smith writes", "Mr. Smith writes (2)"),
            ("v1.2 final", "v1.2 final (2)"),
        ] {
            assert_eq!(numbered(name, 2), expected);
        }
        assert_eq!(numbered("a.txt", 1), "a.txt");
        let long = numbered(&"ü".repeat(127), 12);
        assert!(
            long.len() <= MAX_COMPONENT_BYTES && long.ends_with(" (12)"),
            "{long}"
        );
    }

    #[test]
    fn spellings_that_a_disk_takes_for_one_are_told_apart() {
        let mut siblings = Siblings::new(true);
        assert_eq!(siblings.unique(0, "Ärger.txt".into()), "Ärger.txt");
        assert_eq!(siblings.unique(0, "ärger.txt".into()), "ärger (2).txt");
        assert_eq!(
            siblings.unique(0, "a\u{308}rger.TXT".into()),
            "a\u{308}rger (3).TXT"
        );
        assert_eq!(
            siblings.unique(1, "ärger.txt".into()),
            "ärger.txt",
            "another folder"
        );
        let mut exact = Siblings::new(false);
        assert_eq!(exact.unique(0, "A".into()), "A");
        assert_eq!(exact.unique(0, "a".into()), "a");
        assert_eq!(exact.unique(0, "a".into()), "a (2)");
    }

    #[test]
    fn a_flood_of_equal_names_stays_cheap_and_distinct() {
        let mut siblings = Siblings::new(true);
        let names: HashSet<String> = (0..5_000).map(|_| siblings.unique(0, "x".into())).collect();
        assert_eq!(names.len(), 5_000);
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}d", 100), "a [2Jb c d");
        assert_eq!(printable("abcdef", 3), "abc");
    }

    fn is_confined(name: &str) -> bool {
        !name.is_empty()
            && name != "."
            && name != ".."
            && !name.contains(['/', '\\', '\0'])
            && !name.chars().any(is_unprintable)
            && !name.ends_with(['.', ' '])
            && !is_device(name)
            && !is_drive(name)
            && name.len() <= MAX_COMPONENT_BYTES
            && std::path::Path::new(name).components().count() == 1
    }

    proptest! {
        #[test]
        fn whatever_comes_is_confined(raw in proptest::collection::vec(any::<u8>(), 0..600), windows: bool) {
            if let Ok(name) = local_name(&raw, windows) {
                prop_assert!(is_confined(&name), "{name:?}");
                prop_assert!(!name.to_lowercase().starts_with(PART_PREFIX));
            }
        }

        #[test]
        fn nasty_text_is_confined(raw in "(\\.|/|\\\\|:|C|CON|NUL|COM1| |\n|a|ü|\u{202e}|\\.landline-){0,12}") {
            if let Ok(name) = local_name(raw.as_bytes(), false) {
                prop_assert!(is_confined(&name), "{raw:?} -> {name:?}");
            }
        }

        #[test]
        fn taming_twice_changes_nothing_more(raw in "\\PC{1,80}") {
            if let Ok(once) = local_name(raw.as_bytes(), true) {
                prop_assert_eq!(local_name(once.as_bytes(), true), Ok(once.clone()));
            }
        }

        #[test]
        fn numbered_names_stay_confined(raw in "\\PC{1,300}", n in 2u64..u64::MAX) {
            if let Ok(name) = local_name(raw.as_bytes(), true) {
                let numbered = numbered(&name, n);
                prop_assert!(is_confined(&numbered), "{numbered:?}");
                prop_assert_ne!(numbered, name);
            }
        }

        #[test]
        fn siblings_never_share_a_name(names in proptest::collection::vec("[aAäÄ](\\.t)?", 1..40)) {
            let mut siblings = Siblings::new(true);
            let mut seen = HashSet::new();
            for name in names {
                let name = siblings.unique(3, name);
                prop_assert!(seen.insert(folded(&name)), "{name:?} twice");
            }
        }
    }
}
