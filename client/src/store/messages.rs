//! Messages: the outbox until they are acknowledged, the history for ever, and the search in it.

use p2p_net::PeerId;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{peer_of, uuid_of};
use crate::contacts::peer_text;
use crate::wire;

/// Messages that are kept of one stranger; more are not acknowledged before our person says yes.
pub const MAX_OF_STRANGER: u32 = 50;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// Ours: stored here, not yet there.
    Waiting,
    /// Ours: stored there.
    Delivered,
    /// Theirs: not yet seen by our person.
    New,
    /// Seen by its reader.
    Read,
}

/// One message as the history shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// With whom.
    #[serde(with = "peer_text")]
    pub peer: PeerId,
    /// Ours, not theirs.
    pub outgoing: bool,
    /// Its id, chosen by its sender.
    pub id: Uuid,
    /// Its text.
    pub text: String,
    /// By the sender's clock, milliseconds since 1970.
    pub sent_at_millis: i64,
    /// How far it has come.
    pub state: MessageState,
    /// The message that it answers.
    pub reply_to: Option<Uuid>,
}

const COLUMNS: &str = "peer, outgoing, id, text, sent_at_millis, state, reply_peer, reply_id, row";

/// Stores a message of ours in the outbox.
///
/// # Errors
/// Those of SQLite, here and below.
pub fn add_outgoing(
    db: &Connection,
    peer: &PeerId,
    message: &wire::Message,
    now_millis: i64,
) -> Result<(), rusqlite::Error> {
    add(db, peer, true, message, now_millis).map(drop)
}

/// Stores a message of theirs; gives whether it was new.
///
/// # Errors
/// As above.
pub fn add_incoming(
    db: &Connection,
    peer: &PeerId,
    message: &wire::Message,
    now_millis: i64,
) -> Result<bool, rusqlite::Error> {
    add(db, peer, false, message, now_millis)
}

/// How many messages of `peer` are stored.
///
/// # Errors
/// As above.
pub fn count_incoming(db: &Connection, peer: &PeerId) -> Result<u32, rusqlite::Error> {
    db.prepare_cached("SELECT count(*) FROM messages WHERE peer = ?1 AND outgoing = 0")?
        .query_row([peer.as_bytes()], |row| row.get(0))
}

/// The oldest messages of ours that `peer` has not acknowledged.
///
/// # Errors
/// As above.
pub fn waiting(
    db: &Connection,
    peer: &PeerId,
    limit: u32,
) -> Result<Vec<wire::Message>, rusqlite::Error> {
    db.prepare_cached(
        "SELECT id, text, sent_at_millis, reply_peer, reply_id FROM messages
         WHERE peer = ?1 AND outgoing = 1 AND state = 0 ORDER BY row LIMIT ?2",
    )?
    .query_map(params![peer.as_bytes(), limit], |row| {
        Ok(wire::Message {
            id: uuid_of(row.get_ref(0)?.as_blob()?, 0)?,
            text: row.get(1)?,
            sent_at_millis: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
            reply_to: reply_of(row, 3)?,
        })
    })?
    .collect()
}

/// Messages of theirs that our person has seen and whose sender does not know it yet.
///
/// # Errors
/// As above.
pub fn untold_reads(
    db: &Connection,
    peer: &PeerId,
    limit: u32,
) -> Result<Vec<Uuid>, rusqlite::Error> {
    db.prepare_cached(
        "SELECT id FROM messages WHERE peer = ?1 AND outgoing = 0 AND state = 1 ORDER BY row LIMIT ?2",
    )?
    .query_map(params![peer.as_bytes(), limit], |row| uuid_of(row.get_ref(0)?.as_blob()?, 0))?
    .collect()
}

/// Peers for whom something waits.
///
/// # Errors
/// As above.
pub fn peers_with_work(db: &Connection) -> Result<Vec<PeerId>, rusqlite::Error> {
    db.prepare_cached(
        "SELECT DISTINCT peer FROM messages WHERE outgoing = 1 AND state = 0
         UNION SELECT DISTINCT peer FROM messages WHERE outgoing = 0 AND state = 1",
    )?
    .query_map([], |row| peer_of(row.get_ref(0)?.as_blob()?, 0))?
    .collect()
}

/// Marks a message of ours delivered; gives whether that is news.
///
/// # Errors
/// As above.
pub fn set_delivered(db: &Connection, peer: &PeerId, id: Uuid) -> Result<bool, rusqlite::Error> {
    let changed = db
        .prepare_cached(
            "UPDATE messages SET state = 1 WHERE peer = ?1 AND outgoing = 1 AND id = ?2 AND state = 0",
        )?
        .execute(params![peer.as_bytes(), id.as_bytes()])?;
    Ok(changed > 0)
}

/// Marks messages of ours read by `peer`; gives those for which that is news.
///
/// # Errors
/// As above.
pub fn set_read_by_peer(
    db: &mut Connection,
    peer: &PeerId,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, rusqlite::Error> {
    set_states(db, peer, ids, true, 2)
}

/// The sender knows that we have read these.
///
/// # Errors
/// As above.
pub fn set_reads_told(
    db: &mut Connection,
    peer: &PeerId,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, rusqlite::Error> {
    set_states(db, peer, ids, false, 2)
}

/// Our person has seen everything that `peer` sent; gives the ids of what was new.
///
/// # Errors
/// As above.
pub fn mark_read(db: &Connection, peer: &PeerId) -> Result<Vec<Uuid>, rusqlite::Error> {
    db.prepare_cached(
        "UPDATE messages SET state = 1 WHERE peer = ?1 AND outgoing = 0 AND state = 0 RETURNING id",
    )?
    .query_map([peer.as_bytes()], |row| {
        uuid_of(row.get_ref(0)?.as_blob()?, 0)
    })?
    .collect()
}

/// The newest messages, oldest of them first: with `peer` or everybody, and with the words of `search`.
///
/// # Errors
/// As above.
pub fn history(
    db: &Connection,
    peer: Option<&PeerId>,
    search: Option<&str>,
    limit: u32,
) -> Result<Vec<StoredMessage>, rusqlite::Error> {
    let words = search.map(search_expression);
    if words.as_deref() == Some("") {
        return Ok(Vec::new());
    }
    let mut messages: Vec<StoredMessage> = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM messages
             WHERE (?1 IS NULL OR peer = ?1)
               AND (?2 IS NULL OR row IN
                    (SELECT rowid FROM messages_text WHERE messages_text MATCH ?2))
             ORDER BY row DESC LIMIT ?3"
        ))?
        .query_map(params![peer.map(PeerId::as_bytes), words, limit], from_row)?
        .collect::<Result<_, _>>()?;
    messages.reverse();
    Ok(messages)
}

/// One message of ours.
///
/// # Errors
/// As above.
pub fn find_outgoing(
    db: &Connection,
    peer: &PeerId,
    id: Uuid,
) -> Result<Option<StoredMessage>, rusqlite::Error> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM messages WHERE peer = ?1 AND outgoing = 1 AND id = ?2"
    ))?
    .query_row(params![peer.as_bytes(), id.as_bytes()], from_row)
    .optional()
}

fn add(
    db: &Connection,
    peer: &PeerId,
    outgoing: bool,
    message: &wire::Message,
    now_millis: i64,
) -> Result<bool, rusqlite::Error> {
    let (reply_peer, reply_id) = message.reply_to.unzip();
    let added = db
        .prepare_cached(
            "INSERT INTO messages (peer, outgoing, id, text, sent_at_millis, stored_at_millis,
                                   reply_peer, reply_id, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            peer.as_bytes(),
            outgoing,
            message.id.as_bytes(),
            message.text,
            i64::try_from(message.sent_at_millis).unwrap_or(i64::MAX),
            now_millis,
            reply_peer.as_ref().map(PeerId::as_bytes),
            reply_id.as_ref().map(Uuid::as_bytes),
        ])?;
    Ok(added > 0)
}

fn set_states(
    db: &mut Connection,
    peer: &PeerId,
    ids: &[Uuid],
    outgoing: bool,
    state: u8,
) -> Result<Vec<Uuid>, rusqlite::Error> {
    let transaction = db.transaction()?;
    let mut changed = Vec::new();
    for id in ids {
        let count = transaction
            .prepare_cached(
                "UPDATE messages SET state = ?4
                 WHERE peer = ?1 AND outgoing = ?2 AND id = ?3 AND state < ?4",
            )?
            .execute(params![peer.as_bytes(), outgoing, id.as_bytes(), state])?;
        if count > 0 {
            changed.push(*id);
        }
    }
    transaction.commit()?;
    Ok(changed)
}

/// Each word as a quoted prefix, so that nothing a person types is an operator of FTS5.
fn search_expression(text: &str) -> String {
    let words = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words
        .map(|word| format!("\"{word}\"*"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn reply_of(row: &Row<'_>, column: usize) -> Result<Option<(PeerId, Uuid)>, rusqlite::Error> {
    let peer = row.get_ref(column)?.as_blob_or_null()?;
    let id = row.get_ref(column + 1)?.as_blob_or_null()?;
    match (peer, id) {
        (Some(peer), Some(id)) => Ok(Some((peer_of(peer, column)?, uuid_of(id, column + 1)?))),
        _ => Ok(None),
    }
}

fn from_row(row: &Row<'_>) -> Result<StoredMessage, rusqlite::Error> {
    let outgoing: bool = row.get(1)?;
    Ok(StoredMessage {
        peer: peer_of(row.get_ref(0)?.as_blob()?, 0)?,
        outgoing,
        id: uuid_of(row.get_ref(2)?.as_blob()?, 2)?,
        text: row.get(3)?,
        sent_at_millis: row.get(4)?,
        state: match (outgoing, row.get::<_, u8>(5)?) {
            (true, 0) => MessageState::Waiting,
            (true, 1) => MessageState::Delivered,
            (false, 0) => MessageState::New,
            _ => MessageState::Read,
        },
        reply_to: reply_of(row, 6)?.map(|(_, id)| id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory;

    fn message(number: u128, text: &str) -> wire::Message {
        let (id, text) = (Uuid::from_u128(number), text.to_owned());
        wire::Message {
            id,
            text,
            sent_at_millis: 7,
            reply_to: None,
        }
    }

    fn peer(byte: u8) -> PeerId {
        PeerId::from_bytes([byte; 32])
    }

    #[test]
    fn the_outbox_keeps_its_order_until_acknowledged() {
        let mut db = in_memory();
        // The ids say nothing about the order.
        for number in [3, 1, 2] {
            add_outgoing(&db, &peer(1), &message(number, "x"), 9).expect("stored");
        }
        let ids = |db: &Connection| -> Vec<u128> {
            let waiting = waiting(db, &peer(1), 10).expect("read");
            waiting.iter().map(|message| message.id.as_u128()).collect()
        };
        assert_eq!(ids(&db), [3, 1, 2]);
        assert_eq!(peers_with_work(&db).expect("read"), [peer(1)]);
        assert!(set_delivered(&db, &peer(1), Uuid::from_u128(1)).expect("stored"));
        assert!(!set_delivered(&db, &peer(1), Uuid::from_u128(1)).expect("no news"));
        assert!(!set_delivered(&db, &peer(2), Uuid::from_u128(3)).expect("not its message"));
        assert_eq!(ids(&db), [3, 2]);
        let all = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(
            set_read_by_peer(&mut db, &peer(1), &all)
                .expect("stored")
                .len(),
            3
        );
        assert_eq!(ids(&db), [] as [u128; 0], "read implies delivered");
        assert!(peers_with_work(&db).expect("read").is_empty());
    }

    #[test]
    fn duplicates_are_stored_once_per_sender_and_id() {
        let db = in_memory();
        assert!(add_incoming(&db, &peer(1), &message(1, "one"), 9).expect("stored"));
        assert!(!add_incoming(&db, &peer(1), &message(1, "again"), 9).expect("known"));
        assert!(add_incoming(&db, &peer(2), &message(1, "other"), 9).expect("stored"));
        add_outgoing(&db, &peer(1), &message(1, "mine"), 9).expect("stored");
        assert_eq!(count_incoming(&db, &peer(1)).expect("read"), 1);
        let texts: Vec<_> = history(&db, None, None, 10)
            .expect("read")
            .into_iter()
            .map(|m| m.text)
            .collect();
        assert_eq!(texts, ["one", "other", "mine"]);
    }

    #[test]
    fn read_marks_are_told_once() {
        let mut db = in_memory();
        for number in [1, 2] {
            add_incoming(&db, &peer(1), &message(number, "x"), 9).expect("stored");
        }
        let mut ids = mark_read(&db, &peer(1)).expect("stored");
        ids.sort();
        assert_eq!(ids, [1, 2].map(Uuid::from_u128));
        assert!(mark_read(&db, &peer(1)).expect("no news").is_empty());
        assert_eq!(untold_reads(&db, &peer(1), 10).expect("read").len(), 2);
        set_reads_told(&mut db, &peer(1), &ids[..1]).expect("stored");
        assert_eq!(untold_reads(&db, &peer(1), 10).expect("read"), [ids[1]]);
    }

    #[test]
    fn history_is_limited_filtered_and_searched() {
        let db = in_memory();
        for (number, text) in [
            (1, "Grüße aus Köln"),
            (2, "see you"),
            (3, "kolnisch wasser"),
        ] {
            add_incoming(&db, &peer(1), &message(number, text), 9).expect("stored");
        }
        add_incoming(&db, &peer(2), &message(4, "koln, too"), 9).expect("stored");
        let find = |peer: Option<&PeerId>, search: Option<&str>, limit| -> Vec<u128> {
            let found = history(&db, peer, search, limit).expect("read");
            found.iter().map(|message| message.id.as_u128()).collect()
        };
        assert_eq!(find(None, None, 2), [3, 4], "the newest, oldest first");
        assert_eq!(
            find(Some(&peer(1)), Some("koln"), 10),
            [1, 3],
            "prefixes, accents folded"
        );
        assert_eq!(find(None, Some("köln"), 10), [1, 3, 4]);
        assert_eq!(find(None, Some("you see"), 10), [2], "all words, any order");
        for odd in ["\"", "NEAR(", "a AND", "*", "text:koln OR", "-"] {
            find(None, Some(odd), 10);
        }
        assert_eq!(find(None, Some(" ... "), 10), [] as [u128; 0]);
    }

    #[test]
    fn replies_name_sender_and_id() {
        let db = in_memory();
        let mut reply = message(2, "yes");
        reply.reply_to = Some((peer(1), Uuid::from_u128(1)));
        add_outgoing(&db, &peer(1), &reply, 9).expect("stored");
        assert_eq!(waiting(&db, &peer(1), 1).expect("read"), [reply]);
    }
}
