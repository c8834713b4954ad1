//! Who people mean: names that are unique, what PEER on the command line resolves to, and the safety
//! number by which two people make sure of each other. Pure: the store keeps what is decided here.

use std::fmt::Write;

use p2p_net::PeerId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512};
use unicode_normalization::UnicodeNormalization;

use crate::Problem;
use crate::settings::MAX_NAME_LEN;

/// The fewest characters of an id that stand for a contact.
pub const MIN_PREFIX_LEN: usize = 4;
/// Characters of an id that are shown where somebody must consent to a stranger.
pub const CONSENT_LEN: usize = 16;
/// Rounds of hashing behind a safety number: slows down the search for an id with a similar one.
const SAFETY_ROUNDS: u32 = 5_200;

/// What a peer is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Wrote to us, and we have not said yes.
    Stranger,
    /// We added it, dialled it, sent to it, or said yes: gets our addresses and a direct path.
    Accepted,
    /// Closed at once.
    Blocked,
}

/// Somebody in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Its key.
    #[serde(with = "peer_text")]
    pub id: PeerId,
    /// Our name for it, unique.
    pub name: Option<String>,
    /// The name that it claims: shown, never matched.
    pub claimed_name: Option<String>,
    /// What it is to us.
    pub standing: Standing,
    /// The two people compared the safety number.
    pub verified: bool,
    /// It never gets our addresses, though accepted: nothing but the relay.
    #[serde(default)]
    pub relay_only: bool,
    /// Since when we know it, milliseconds since 1970.
    pub added_at_millis: i64,
}

impl Contact {
    /// A peer of which nothing but the key is known.
    pub fn new(id: PeerId, standing: Standing, now_millis: i64) -> Self {
        Self {
            id,
            name: None,
            claimed_name: None,
            standing,
            verified: false,
            relay_only: false,
            added_at_millis: now_millis,
        }
    }

    /// How we call it: our name, or the short id. A claimed name never stands alone.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.short())
    }
}

/// Ids as text in JSON.
pub mod peer_text {
    use p2p_net::PeerId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the 52 characters.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(id: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    /// Reads them.
    ///
    /// # Errors
    /// The text is no id.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// The first characters of an id, as many as consent to a stranger needs.
pub fn consent_text(id: &PeerId) -> String {
    let mut text = id.to_string();
    text.truncate(CONSENT_LEN);
    text
}

/// What two names have in common when they are the same name to a reader: NFKC, lower case, single spaces.
pub fn name_key(name: &str) -> String {
    let folded: String = name.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A name as it is kept, or why it is none.
///
/// # Errors
/// Empty, too long, with characters that hide or reorder text, or in the form of an id.
pub fn check_name(name: &str) -> Result<String, Problem> {
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() || name.len() > MAX_NAME_LEN || name.chars().any(is_deceptive) {
        return Err(Problem::usage(format!(
            "{name:?} cannot be a name: 1 to {MAX_NAME_LEN} bytes, no control characters"
        )));
    }
    if name.parse::<PeerId>().is_ok() {
        return Err(Problem::usage("a name must not look like an id"));
    }
    Ok(name)
}

/// Text from elsewhere, fit for a terminal: nothing in it moves the cursor or reverses the reading order.
/// Line feeds become `break_with`.
pub fn printable(text: &str, break_with: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push_str(break_with),
            '\r' => {}
            '\t' => clean.push_str("    "),
            c if is_deceptive(c) => clean.push('\u{fffd}'),
            c => clean.push(c),
        }
    }
    clean
}

/// Controls, and the marks that hide text or change its direction (Unicode "bidi class" and zero width).
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{feff}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}')
}

/// Whom `text` means, among the contacts, or as a full id. Strangers are met by full id alone.
///
/// # Errors
/// Nobody, or several, who are then listed.
pub fn resolve(text: &str, contacts: &[Contact]) -> Result<PeerId, Problem> {
    let text = text.trim();
    let key = name_key(text);
    let known = || {
        contacts
            .iter()
            .filter(|contact| contact.standing != Standing::Stranger)
    };
    if let Some(contact) = known().find(|c| c.name.as_deref().is_some_and(|n| name_key(n) == key)) {
        return Ok(contact.id);
    }
    if let Ok(id) = text.parse::<PeerId>() {
        return Ok(id);
    }
    let prefix = text.to_ascii_lowercase();
    let matches: Vec<_> = if text.len() < MIN_PREFIX_LEN {
        Vec::new()
    } else {
        known()
            .filter(|contact| contact.id.to_string().starts_with(&prefix))
            .collect()
    };
    match matches.as_slice() {
        [contact] => Ok(contact.id),
        [] => Err(Problem::usage(format!("no contact is called {text:?}")).with_next(
            "`landline contacts` lists them; a peer that is none yet is named by its full id of 52 \
             characters",
        )),
        several => {
            let mut what = format!("{text:?} could be several contacts:");
            for contact in several {
                let _ = write!(what, "\n  {}  {}", contact.id, contact.label());
            }
            Err(Problem::usage(what).with_next("say a name, or more characters of the id"))
        }
    }
}

/// Whether `name` is free for the contact `id`.
///
/// # Errors
/// Another contact has it.
pub fn check_free(name: &str, id: &PeerId, contacts: &[Contact]) -> Result<(), Problem> {
    let key = name_key(name);
    let holder = contacts
        .iter()
        .find(|c| c.id != *id && c.name.as_deref().is_some_and(|n| name_key(n) == key));
    match holder {
        None => Ok(()),
        Some(contact) => Err(Problem::usage(format!(
            "the contact {} is already called {}",
            consent_text(&contact.id),
            contact.label()
        ))
        .with_next("choose another name, or rename that contact first")),
    }
}

/// The 60 digits that both people see alike, in 12 groups of 5, whoever computes them.
pub fn safety_number(one: &PeerId, other: &PeerId) -> String {
    let (low, high) = if one <= other {
        (one, other)
    } else {
        (other, one)
    };
    let mut groups = Vec::with_capacity(12);
    for id in [low, high] {
        let mut hash = Sha512::new()
            .chain_update(b"landline safety number 1")
            .chain_update(id.as_bytes())
            .finalize();
        for _ in 0..SAFETY_ROUNDS {
            hash = Sha512::new()
                .chain_update(hash)
                .chain_update(id.as_bytes())
                .finalize();
        }
        for five in hash.chunks_exact(5).take(6) {
            let number = five
                .iter()
                .fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            groups.push(format!("{:05}", number % 100_000));
        }
    }
    groups.join(" ")
}

/// A QR code as lines of text, or `None` for a text that is too long for one.
pub fn qr_text(content: &str) -> Option<String> {
    let code = qrcode::QrCode::new(content.as_bytes()).ok()?;
    // Light modules are drawn: most terminals are dark, and readers want dark on light.
    Some(
        code.render::<qrcode::render::unicode::Dense1x2>()
            .dark_color(qrcode::render::unicode::Dense1x2::Light)
            .light_color(qrcode::render::unicode::Dense1x2::Dark)
            .build(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(byte: u8, name: Option<&str>) -> Contact {
        let mut contact = Contact::new(PeerId::from_bytes([byte; 32]), Standing::Accepted, 0);
        contact.name = name.map(ToOwned::to_owned);
        contact
    }

    #[test]
    fn peers_resolve_as_the_wire_page_says() {
        let mut book = vec![
            contact(1, Some("Ann")),
            contact(2, Some("Bob Ross")),
            contact(3, None),
        ];
        book[2].claimed_name = Some("Carl".to_owned());
        let mut stranger = contact(4, None);
        stranger.standing = Standing::Stranger;
        let stranger_text = stranger.id.to_string();
        book.push(stranger);
        let id = |byte| PeerId::from_bytes([byte; 32]);
        let text = |byte| id(byte).to_string();

        assert_eq!(resolve("ann", &book), Ok(id(1)));
        assert_eq!(resolve(" BOB   ross", &book), Ok(id(2)));
        assert_eq!(resolve(&text(3)[..4], &book), Ok(id(3)));
        assert_eq!(
            resolve(&text(9), &book),
            Ok(id(9)),
            "a full id needs no contact"
        );
        assert_eq!(resolve(&text(9).to_ascii_uppercase(), &book), Ok(id(9)));
        assert!(
            resolve("Carl", &book).is_err(),
            "a claimed name never matches"
        );
        assert!(resolve(&text(1)[..3], &book).is_err(), "too short");
        assert!(
            resolve(&stranger_text[..10], &book).is_err(),
            "strangers only by full id"
        );
        assert_eq!(resolve(&stranger_text, &book), Ok(id(4)));
    }

    #[test]
    fn several_matches_are_listed_and_a_name_wins() {
        let mut one = [7u8; 32];
        let mut other = [7u8; 32];
        (one[31], other[31]) = (1, 2);
        let mut book = vec![contact(0, None), contact(0, None)];
        book[0].id = PeerId::from_bytes(one);
        book[1].id = PeerId::from_bytes(other);
        let prefix = book[0].id.to_string()[..8].to_owned();
        let problem = resolve(&prefix, &book).expect_err("ambiguous");
        assert!(problem.what.contains(&book[0].id.to_string()));
        assert!(problem.what.contains(&book[1].id.to_string()));
        assert_eq!(problem.exit, crate::Exit::Usage);
        book.push(contact(9, Some(&prefix)));
        assert_eq!(resolve(&prefix, &book), Ok(PeerId::from_bytes([9; 32])));
    }

    #[test]
    fn names_are_unique_whatever_their_case_and_form() {
        let book = [contact(1, Some("Ärger")), contact(2, Some("Bob"))];
        let new = PeerId::from_bytes([3; 32]);
        assert!(
            check_free("a\u{308}RGER", &new, &book).is_err(),
            "decomposed form"
        );
        assert!(
            check_free("Ｂｏｂ", &new, &book).is_err(),
            "full-width form"
        );
        assert!(
            check_free("Bob", &book[1].id, &book).is_ok(),
            "one's own name is free"
        );
        assert!(check_free("Bobby", &new, &book).is_ok());
    }

    #[test]
    fn deceptive_names_are_refused_and_texts_defused() {
        let id = PeerId::from_bytes([5; 32]).to_string();
        for bad in [
            "",
            "  ",
            "a\u{7}b",
            "a\u{202e}b",
            id.as_str(),
            "x".repeat(129).as_str(),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_name("  Ann   Lee ").as_deref(), Ok("Ann Lee"));
        assert_eq!(
            printable("a\u{1b}[2Jb\nc\td", " / "),
            "a\u{fffd}[2Jb / c    d"
        );
    }

    #[test]
    fn safety_numbers_are_symmetric_and_differ_between_pairs() {
        let ids = [1, 2, 3].map(|byte| PeerId::from_bytes([byte; 32]));
        let number = safety_number(&ids[0], &ids[1]);
        assert_eq!(number, safety_number(&ids[1], &ids[0]));
        assert_ne!(number, safety_number(&ids[0], &ids[2]));
        assert_eq!(number.chars().filter(char::is_ascii_digit).count(), 60);
        assert_eq!(number.split(' ').count(), 12);
    }

    #[test]
    fn qr_codes_are_drawn_or_refused() {
        let code = qr_text(&PeerId::from_bytes([1; 32]).to_string()).expect("fits");
        assert!(code.lines().count() > 10);
        assert!(qr_text(&"x".repeat(5_000)).is_none());
    }
}
