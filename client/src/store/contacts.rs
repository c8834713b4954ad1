//! The address book, and strangers who wrote to us.

use p2p_net::PeerId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::peer_of;
use crate::contacts::{Contact, Standing, name_key};

/// Strangers that are remembered; the oldest of them gives way, with what it wrote.
pub const MAX_STRANGERS: u32 = 1_000;

const COLUMNS: &str = "id, name, claimed_name, standing, verified, relay_only, added_at_millis";

/// Everybody, named ones first.
///
/// # Errors
/// Those of SQLite, here and below.
pub fn all(db: &Connection) -> Result<Vec<Contact>, rusqlite::Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM contacts ORDER BY name IS NULL, name_key, added_at_millis");
    db.prepare_cached(&sql)?.query_map([], from_row)?.collect()
}

/// One of them.
///
/// # Errors
/// As above.
pub fn find(db: &Connection, id: &PeerId) -> Result<Option<Contact>, rusqlite::Error> {
    let sql = format!("SELECT {COLUMNS} FROM contacts WHERE id = ?1");
    db.prepare_cached(&sql)?
        .query_row([id.as_bytes()], from_row)
        .optional()
}

/// Makes `id` an accepted contact, whatever it was before except blocked, and gives what is stored then.
///
/// # Errors
/// As above.
pub fn accept(db: &Connection, id: &PeerId, now_millis: i64) -> Result<Contact, rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO contacts (id, standing, added_at_millis) VALUES (?1, 1, ?2)
         ON CONFLICT (id) DO UPDATE SET standing = max(standing, 1)",
    )?
    .execute(params![id.as_bytes(), now_millis])?;
    find(db, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Blocks or unblocks; somebody who is unblocked is a contact again.
///
/// # Errors
/// As above.
pub fn set_blocked(
    db: &Connection,
    id: &PeerId,
    blocked: bool,
    now_millis: i64,
) -> Result<Contact, rusqlite::Error> {
    let standing = if blocked { 2 } else { 1 };
    db.prepare_cached(
        "INSERT INTO contacts (id, standing, added_at_millis) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET standing = ?2",
    )?
    .execute(params![id.as_bytes(), standing, now_millis])?;
    find(db, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Gives a contact our name for it; the caller has checked that it is free.
///
/// # Errors
/// As above; also where another contact has the name.
pub fn rename(db: &Connection, id: &PeerId, name: &str) -> Result<(), rusqlite::Error> {
    db.prepare_cached("UPDATE contacts SET name = ?2, name_key = ?3 WHERE id = ?1")?
        .execute(params![id.as_bytes(), name, name_key(name)])?;
    Ok(())
}

/// The two people compared the safety number.
///
/// # Errors
/// As above.
pub fn set_verified(db: &Connection, id: &PeerId) -> Result<(), rusqlite::Error> {
    db.prepare_cached("UPDATE contacts SET verified = 1 WHERE id = ?1")?
        .execute([id.as_bytes()])?;
    Ok(())
}

/// Keeps our addresses from a contact, or no longer.
///
/// # Errors
/// As above.
pub fn set_relay_only(db: &Connection, id: &PeerId, only: bool) -> Result<(), rusqlite::Error> {
    db.prepare_cached("UPDATE contacts SET relay_only = ?2 WHERE id = ?1")?
        .execute(params![id.as_bytes(), only])?;
    Ok(())
}

/// The choice that keeps our addresses from everybody.
const ALL_RELAY_ONLY: &str = "all_relay_only";

/// Whether our addresses are kept from everybody.
///
/// # Errors
/// As above.
pub fn all_relay_only(db: &Connection) -> Result<bool, rusqlite::Error> {
    let chosen = db
        .prepare_cached("SELECT value FROM choices WHERE name = ?1")?
        .query_row([ALL_RELAY_ONLY], |row| row.get(0))
        .optional()?;
    Ok(chosen.unwrap_or(false))
}

/// Keeps them from everybody, or no longer.
///
/// # Errors
/// As above.
pub fn set_all_relay_only(db: &Connection, only: bool) -> Result<(), rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO choices (name, value) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = ?2",
    )?
    .execute(params![ALL_RELAY_ONLY, only])?;
    Ok(())
}

/// Remembers the name that a known peer claims.
///
/// # Errors
/// As above.
pub fn set_claimed_name(db: &Connection, id: &PeerId, name: &str) -> Result<(), rusqlite::Error> {
    db.prepare_cached("UPDATE contacts SET claimed_name = ?2 WHERE id = ?1")?
        .execute(params![id.as_bytes(), name])?;
    Ok(())
}

/// Notes somebody who wrote to us and is not known yet. Where there are too many, the oldest stranger is
/// forgotten together with its messages.
///
/// # Errors
/// As above.
pub fn note_stranger(
    db: &Connection,
    id: &PeerId,
    claimed_name: &str,
    now_millis: i64,
) -> Result<(), rusqlite::Error> {
    let added = db
        .prepare_cached(
            "INSERT INTO contacts (id, claimed_name, standing, added_at_millis)
             VALUES (?1, ?2, 0, ?3) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id.as_bytes(), claimed_name, now_millis])?;
    if added == 0 {
        return Ok(());
    }
    let surplus: Vec<Vec<u8>> = db
        .prepare_cached(
            "SELECT id FROM contacts WHERE standing = 0
             ORDER BY added_at_millis DESC, id LIMIT -1 OFFSET ?1",
        )?
        .query_map([MAX_STRANGERS], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in surplus {
        db.prepare_cached("DELETE FROM messages WHERE peer = ?1")?
            .execute([&id])?;
        db.prepare_cached("DELETE FROM contacts WHERE id = ?1")?
            .execute([&id])?;
    }
    Ok(())
}

/// Forgets a contact; gives whether there was one.
///
/// # Errors
/// As above.
pub fn remove(db: &Connection, id: &PeerId) -> Result<bool, rusqlite::Error> {
    Ok(db
        .prepare_cached("DELETE FROM contacts WHERE id = ?1")?
        .execute([id.as_bytes()])?
        > 0)
}

fn from_row(row: &Row<'_>) -> Result<Contact, rusqlite::Error> {
    Ok(Contact {
        id: peer_of(row.get_ref(0)?.as_blob()?, 0)?,
        name: row.get(1)?,
        claimed_name: row.get(2)?,
        standing: match row.get::<_, u8>(3)? {
            0 => Standing::Stranger,
            1 => Standing::Accepted,
            _ => Standing::Blocked,
        },
        verified: row.get(4)?,
        relay_only: row.get(5)?,
        added_at_millis: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory;

    fn id(number: u32) -> PeerId {
        let mut bytes = [0u8; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        PeerId::from_bytes(bytes)
    }

    #[test]
    fn accepting_keeps_what_is_known_and_never_unblocks() {
        let db = in_memory();
        note_stranger(&db, &id(1), "Eve", 1).expect("stored");
        assert_eq!(
            find(&db, &id(1)).expect("read").expect("there").standing,
            Standing::Stranger
        );
        let contact = accept(&db, &id(1), 2).expect("stored");
        assert_eq!(contact.claimed_name.as_deref(), Some("Eve"));
        assert_eq!(
            (contact.standing, contact.added_at_millis),
            (Standing::Accepted, 1)
        );
        set_blocked(&db, &id(1), true, 3).expect("stored");
        assert_eq!(
            accept(&db, &id(1), 4).expect("stored").standing,
            Standing::Blocked
        );
        note_stranger(&db, &id(1), "Mallory", 5).expect("stored");
        assert_eq!(
            find(&db, &id(1)).expect("read").expect("there").standing,
            Standing::Blocked
        );
        assert_eq!(
            set_blocked(&db, &id(1), false, 6).expect("stored").standing,
            Standing::Accepted
        );
    }

    #[test]
    fn addresses_are_kept_from_one_or_from_all() {
        let db = in_memory();
        accept(&db, &id(1), 0).expect("stored");
        set_relay_only(&db, &id(1), true).expect("stored");
        assert!(!all_relay_only(&db).expect("read"));
        assert!(find(&db, &id(1)).expect("read").expect("there").relay_only);
        accept(&db, &id(1), 1).expect("stored");
        assert!(find(&db, &id(1)).expect("read").expect("there").relay_only);
        for only in [true, true, false] {
            set_all_relay_only(&db, only).expect("stored");
            assert_eq!(all_relay_only(&db).expect("read"), only);
        }
    }

    #[test]
    fn names_are_unique_in_the_store_too() {
        let db = in_memory();
        for number in [1, 2] {
            accept(&db, &id(number), 0).expect("stored");
        }
        rename(&db, &id(1), "Ann").expect("free");
        assert!(rename(&db, &id(2), "ANN").is_err());
        rename(&db, &id(1), "Anna").expect("free");
        rename(&db, &id(2), "ANN").expect("free again");
        set_verified(&db, &id(2)).expect("stored");
        let all = all(&db).expect("read");
        assert_eq!(
            all.iter().map(|c| c.label()).collect::<Vec<_>>(),
            ["ANN", "Anna"]
        );
        assert_eq!(
            all.iter().map(|c| c.verified).collect::<Vec<_>>(),
            [true, false]
        );
        assert!(remove(&db, &id(1)).expect("removed"));
        assert!(!remove(&db, &id(1)).expect("nothing left"));
    }

    #[test]
    fn strangers_are_bounded_and_contacts_stay() {
        let db = in_memory();
        accept(&db, &id(0), 0).expect("stored");
        for number in 1..=MAX_STRANGERS + 3 {
            note_stranger(&db, &id(number), "", i64::from(number)).expect("stored");
        }
        let all = all(&db).expect("read");
        assert_eq!(all.len(), MAX_STRANGERS as usize + 1);
        assert!(find(&db, &id(0)).expect("read").is_some());
        assert!(
            find(&db, &id(3)).expect("read").is_none(),
            "the oldest went"
        );
        assert!(find(&db, &id(4)).expect("read").is_some());
    }
}
