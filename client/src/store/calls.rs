//! Past calls, and which of those that came were missed and not yet looked at.

use p2p_net::PeerId;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::peer_of;
use crate::contacts::peer_text;

/// Calls of one stranger that are kept; further ones leave no trace.
pub const MAX_OF_STRANGER: u32 = 20;

/// How a call came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It rings, or runs.
    Running,
    /// The program died while it ran.
    Interrupted,
    /// Two people talked until one hung up.
    Answered,
    /// They talked until the line was lost, or something failed.
    Broken,
    /// It came, and nobody here took it.
    Missed,
    /// One side said no.
    Declined,
    /// One side was in another call.
    Busy,
    /// The caller gave up.
    Cancelled,
    /// Nobody answered.
    NoAnswer,
    /// The other side could not be reached, or takes no calls.
    Unreachable,
    /// It could not begin for another reason.
    Failed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Running, "running"),
        (Self::Interrupted, "interrupted"),
        (Self::Answered, "answered"),
        (Self::Broken, "broken"),
        (Self::Missed, "missed"),
        (Self::Declined, "declined"),
        (Self::Busy, "busy"),
        (Self::Cancelled, "cancelled"),
        (Self::NoAnswer, "no_answer"),
        (Self::Unreachable, "unreachable"),
        (Self::Failed, "failed"),
    ];

    /// In one word, as it is stored.
    pub fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(outcome, _)| *outcome == self);
        found.map_or("failed", |(_, word)| word)
    }

    fn of_word(word: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, known)| *known == word);
        found.map_or(Self::Failed, |(outcome, _)| *outcome)
    }
}

/// One call as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Its number in this store, 0 before it is stored.
    #[serde(default)]
    pub number: i64,
    /// With whom.
    #[serde(with = "peer_text")]
    pub peer: PeerId,
    /// We called.
    pub outgoing: bool,
    /// How it came out.
    pub outcome: Outcome,
    /// More about that, where there is more.
    pub detail: Option<String>,
    /// When it began to ring, milliseconds since 1970.
    pub started_at_millis: i64,
    /// For how long media ran, milliseconds.
    pub elapsed_millis: u64,
    /// It was missed, and our person has not looked yet.
    pub unseen: bool,
}

/// Notes a call that begins to ring, or that was refused; gives its number.
///
/// # Errors
/// Those of SQLite, here and below.
pub fn begin(db: &Connection, record: &CallRecord) -> Result<i64, rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO calls (peer, outgoing, outcome, detail, started_at_millis, elapsed_millis, unseen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        record.peer.as_bytes(),
        record.outgoing,
        record.outcome.word(),
        record.detail,
        record.started_at_millis,
        to_integer(record.elapsed_millis),
        record.unseen,
    ])?;
    Ok(db.last_insert_rowid())
}

/// Brings the record of a call (found by its number) up to date.
///
/// # Errors
/// As above.
pub fn update(db: &Connection, record: &CallRecord) -> Result<(), rusqlite::Error> {
    db.prepare_cached(
        "UPDATE calls SET outcome = ?2, detail = ?3, elapsed_millis = ?4, unseen = ?5 WHERE row = ?1",
    )?
    .execute(params![
        record.number,
        record.outcome.word(),
        record.detail,
        to_integer(record.elapsed_millis),
        record.unseen,
    ])?;
    Ok(())
}

/// How many calls of `peer` are stored that it made.
///
/// # Errors
/// As above.
pub fn count_incoming(db: &Connection, peer: &PeerId) -> Result<u32, rusqlite::Error> {
    db.prepare_cached("SELECT count(*) FROM calls WHERE peer = ?1 AND outgoing = 0")?
        .query_row([peer.as_bytes()], |row| row.get(0))
}

/// Calls that a program left running when it died are so no more; those that only rang were missed. Only
/// the engine may say so.
///
/// # Errors
/// As above.
pub fn interrupt_running(db: &Connection) -> Result<(), rusqlite::Error> {
    db.execute(
        "UPDATE calls SET outcome = ?2 WHERE outcome = ?1",
        [Outcome::Running.word(), Outcome::Interrupted.word()],
    )
    .map(drop)
}

/// The newest calls, newest first; only missed ones if `missed`.
///
/// # Errors
/// As above.
pub fn list(db: &Connection, missed: bool, limit: u32) -> Result<Vec<CallRecord>, rusqlite::Error> {
    db.prepare_cached(
        "SELECT row, peer, outgoing, outcome, detail, started_at_millis, elapsed_millis, unseen
         FROM calls WHERE (?1 = 0 OR outcome = 'missed') ORDER BY row DESC LIMIT ?2",
    )?
    .query_map(params![missed, limit], record)?
    .collect()
}

/// How many calls were missed and not yet looked at.
///
/// # Errors
/// As above.
pub fn count_unseen(db: &Connection) -> Result<u32, rusqlite::Error> {
    db.prepare_cached("SELECT count(*) FROM calls WHERE unseen = 1")?
        .query_row([], |row| row.get(0))
}

/// Our person has looked at the calls up to `number`.
///
/// # Errors
/// As above.
pub fn mark_seen(db: &Connection, number: i64) -> Result<(), rusqlite::Error> {
    db.execute(
        "UPDATE calls SET unseen = 0 WHERE unseen = 1 AND row <= ?1",
        [number],
    )
    .map(drop)
}

fn record(row: &Row<'_>) -> Result<CallRecord, rusqlite::Error> {
    let elapsed: i64 = row.get(6)?;
    Ok(CallRecord {
        number: row.get(0)?,
        peer: peer_of(row.get_ref(1)?.as_blob()?, 1)?,
        outgoing: row.get(2)?,
        outcome: Outcome::of_word(row.get_ref(3)?.as_str()?),
        detail: row.get(4)?,
        started_at_millis: row.get(5)?,
        elapsed_millis: u64::try_from(elapsed).unwrap_or(0),
        unseen: row.get(7)?,
    })
}

fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::in_memory;
    use super::*;

    fn call(peer: u8, outgoing: bool) -> CallRecord {
        CallRecord {
            number: 0,
            peer: PeerId::from_bytes([peer; 32]),
            outgoing,
            outcome: Outcome::Running,
            detail: None,
            started_at_millis: 5,
            elapsed_millis: 0,
            unseen: false,
        }
    }

    #[test]
    fn calls_are_kept_and_missed_ones_wait_to_be_seen() {
        let db = in_memory();
        let mut first = call(1, false);
        first.number = begin(&db, &first).expect("stored");
        first.outcome = Outcome::Missed;
        first.unseen = true;
        update(&db, &first).expect("stored");
        let mut second = call(2, true);
        second.number = begin(&db, &second).expect("stored");
        second.outcome = Outcome::Answered;
        second.detail = Some("hung up".to_owned());
        second.elapsed_millis = 61_000;
        update(&db, &second).expect("stored");
        assert_eq!(
            list(&db, false, 10).expect("read"),
            [second.clone(), first.clone()]
        );
        assert_eq!(list(&db, true, 10).expect("read"), [first.clone()]);
        assert_eq!(count_unseen(&db).expect("read"), 1);
        assert_eq!(count_incoming(&db, &first.peer).expect("read"), 1);
        assert_eq!(count_incoming(&db, &second.peer).expect("read"), 0);
        mark_seen(&db, first.number).expect("stored");
        assert_eq!(count_unseen(&db).expect("read"), 0);
    }

    #[test]
    fn every_outcome_survives_the_store_and_none_runs_after_a_crash() {
        let db = in_memory();
        for (outcome, word) in Outcome::ALL {
            let mut record = call(1, true);
            record.outcome = outcome;
            begin(&db, &record).expect("stored");
            assert_eq!(outcome.word(), word);
            assert_eq!(
                serde_json::to_value(outcome).expect("a word"),
                serde_json::json!(word)
            );
        }
        interrupt_running(&db).expect("stored");
        let outcomes: Vec<_> = list(&db, false, 20)
            .expect("read")
            .iter()
            .rev()
            .map(|record| record.outcome)
            .collect();
        assert_eq!(outcomes[0], Outcome::Interrupted);
        assert_eq!(outcomes[2..], Outcome::ALL.map(|(outcome, _)| outcome)[2..]);
    }
}
