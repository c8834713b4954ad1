//! Keys of relays whose address names none: asked once, remembered, a changed one refused.

use p2p_net::Fingerprint;
use rusqlite::{Connection, OptionalExtension, params};

/// The key that the user confirmed for the relay at `host` and `port`.
///
/// # Errors
/// Those of SQLite.
pub fn fingerprint(
    db: &Connection,
    host: &str,
    port: u16,
) -> Result<Option<Fingerprint>, rusqlite::Error> {
    let text: Option<String> = db
        .prepare_cached("SELECT fingerprint FROM relays WHERE host = ?1 AND port = ?2")?
        .query_row(params![host, port], |row| row.get(0))
        .optional()?;
    // A damaged row counts as none: the user is asked again.
    Ok(text.and_then(|text| parse(&text)))
}

/// Remembers a key that the user confirmed.
///
/// # Errors
/// Those of SQLite.
pub fn confirm(
    db: &Connection,
    host: &str,
    port: u16,
    fingerprint: &Fingerprint,
    now_millis: i64,
) -> Result<(), rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO relays (host, port, fingerprint, confirmed_at_millis) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (host, port) DO UPDATE SET fingerprint = ?3, confirmed_at_millis = ?4",
    )?
    .execute(params![host, port, fingerprint.to_string(), now_millis])?;
    Ok(())
}

fn parse(text: &str) -> Option<Fingerprint> {
    let bytes = data_encoding::BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .ok()?;
    bytes.try_into().ok().map(Fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory;

    #[test]
    fn keys_are_remembered_per_host_and_port() {
        let db = in_memory();
        let key = Fingerprint([3; 32]);
        assert_eq!(fingerprint(&db, "relay", 443).expect("read"), None);
        confirm(&db, "relay", 443, &key, 1).expect("stored");
        assert_eq!(fingerprint(&db, "relay", 443).expect("read"), Some(key));
        assert_eq!(fingerprint(&db, "relay", 444).expect("read"), None);
        confirm(&db, "relay", 443, &Fingerprint([4; 32]), 2).expect("stored");
        assert_eq!(
            fingerprint(&db, "relay", 443).expect("read"),
            Some(Fingerprint([4; 32]))
        );
    }
}
