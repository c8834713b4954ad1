//! Past transfers, with the MD5 that both sides computed for each file.

use p2p_net::PeerId;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::peer_of;
use crate::contacts::peer_text;

/// One transfer as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// Its number in this store, 0 before it is stored.
    #[serde(default)]
    pub number: i64,
    /// Its id on the wire.
    pub transfer: String,
    /// With whom.
    #[serde(with = "peer_text")]
    pub peer: PeerId,
    /// We sent.
    pub outgoing: bool,
    /// What it is called.
    pub label: String,
    /// How it ended, in one word.
    pub outcome: String,
    /// More about that, where there is more.
    pub detail: Option<String>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files in it.
    pub files: u64,
    /// Source entries that could not be read.
    pub skipped: u64,
    /// When it began, milliseconds since 1970.
    pub started_at_millis: i64,
    /// How long it took, milliseconds.
    pub elapsed_millis: u64,
    /// Where the files are now, if we received.
    pub folder: Option<String>,
}

/// One file of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path within the transfer.
    pub path: String,
    /// Its size, bytes.
    pub size: u64,
    /// What we computed.
    pub md5_local: Option<String>,
    /// What the other side computed.
    pub md5_remote: Option<String>,
    /// How it ended, in one word.
    pub outcome: String,
}

/// The outcome of a transfer that runs, and of one whose program died while it ran.
pub const RUNNING: &str = "running";
/// See [`RUNNING`].
pub const INTERRUPTED: &str = "interrupted";

/// Notes a transfer that begins; gives its number.
///
/// # Errors
/// Those of SQLite, here and below.
pub fn begin(db: &Connection, record: &TransferRecord) -> Result<i64, rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO transfers (transfer, peer, outgoing, label, outcome, detail, bytes, files, skipped,
                                started_at_millis, elapsed_millis, folder)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        record.transfer,
        record.peer.as_bytes(),
        record.outgoing,
        record.label,
        record.outcome,
        record.detail,
        to_integer(record.bytes),
        to_integer(record.files),
        to_integer(record.skipped),
        record.started_at_millis,
        to_integer(record.elapsed_millis),
        record.folder,
    ])?;
    Ok(db.last_insert_rowid())
}

/// Adds files that are done, well or not.
///
/// # Errors
/// As above.
pub fn add_files(
    db: &mut Connection,
    number: i64,
    files: &[FileRecord],
) -> Result<(), rusqlite::Error> {
    let transaction = db.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO transfer_files (transfer_row, path, size, md5_local, md5_remote, outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for file in files {
            insert.execute(params![
                number,
                file.path,
                to_integer(file.size),
                file.md5_local,
                file.md5_remote,
                file.outcome
            ])?;
        }
    }
    transaction.commit()
}

/// Brings the record of a transfer (found by its number) up to date.
///
/// # Errors
/// As above.
pub fn update(db: &Connection, record: &TransferRecord) -> Result<(), rusqlite::Error> {
    db.prepare_cached(
        "UPDATE transfers SET transfer = ?2, label = ?3, outcome = ?4, detail = ?5, bytes = ?6,
                files = ?7, skipped = ?8, elapsed_millis = ?9, folder = ?10 WHERE row = ?1",
    )?
    .execute(params![
        record.number,
        record.transfer,
        record.label,
        record.outcome,
        record.detail,
        to_integer(record.bytes),
        to_integer(record.files),
        to_integer(record.skipped),
        to_integer(record.elapsed_millis),
        record.folder,
    ])?;
    Ok(())
}

/// Transfers that a program left running when it died are so no more. Only the engine may say so.
///
/// # Errors
/// As above.
pub fn interrupt_running(db: &Connection) -> Result<(), rusqlite::Error> {
    db.execute(
        "UPDATE transfers SET outcome = ?2 WHERE outcome = ?1",
        [RUNNING, INTERRUPTED],
    )?;
    Ok(())
}

/// The newest transfers, newest first.
///
/// # Errors
/// As above.
pub fn list(db: &Connection, limit: u32) -> Result<Vec<TransferRecord>, rusqlite::Error> {
    db.prepare_cached(
        "SELECT row, transfer, peer, outgoing, label, outcome, detail, bytes, files, skipped,
                started_at_millis, elapsed_millis, folder
         FROM transfers ORDER BY row DESC LIMIT ?1",
    )?
    .query_map([limit], record_of)?
    .collect()
}

/// Files of one transfer, in the order in which they were sent, from `offset` on.
///
/// # Errors
/// As above.
pub fn files(
    db: &Connection,
    number: i64,
    offset: u64,
    limit: u32,
) -> Result<Vec<FileRecord>, rusqlite::Error> {
    db.prepare_cached(
        "SELECT path, size, md5_local, md5_remote, outcome FROM transfer_files
         WHERE transfer_row = ?1 ORDER BY rowid LIMIT ?3 OFFSET ?2",
    )?
    .query_map(params![number, to_integer(offset), limit], |row| {
        Ok(FileRecord {
            path: row.get(0)?,
            size: unsigned(row, 1)?,
            md5_local: row.get(2)?,
            md5_remote: row.get(3)?,
            outcome: row.get(4)?,
        })
    })?
    .collect()
}

fn record_of(row: &Row<'_>) -> Result<TransferRecord, rusqlite::Error> {
    Ok(TransferRecord {
        number: row.get(0)?,
        transfer: row.get(1)?,
        peer: peer_of(row.get_ref(2)?.as_blob()?, 2)?,
        outgoing: row.get(3)?,
        label: row.get(4)?,
        outcome: row.get(5)?,
        detail: row.get(6)?,
        bytes: unsigned(row, 7)?,
        files: unsigned(row, 8)?,
        skipped: unsigned(row, 9)?,
        started_at_millis: row.get(10)?,
        elapsed_millis: unsigned(row, 11)?,
        folder: row.get(12)?,
    })
}

/// SQLite's integers are signed; what does not fit is no size of anything here.
fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory;

    #[test]
    fn transfers_are_listed_newest_first_with_their_files() {
        let mut db = in_memory();
        let mut record = TransferRecord {
            number: 0,
            transfer: "00ff".to_owned(),
            peer: PeerId::from_bytes([1; 32]),
            outgoing: true,
            label: "photos".to_owned(),
            outcome: "verified".to_owned(),
            detail: None,
            bytes: 5 << 30,
            files: 3,
            skipped: 1,
            started_at_millis: 10,
            elapsed_millis: 20,
            folder: Some("/x".to_owned()),
        };
        let files_in: Vec<_> = ["b", "a", "c"]
            .map(|path| FileRecord {
                path: path.to_owned(),
                size: 5 << 30,
                md5_local: Some("d41d8cd98f00b204e9800998ecf8427e".to_owned()),
                md5_remote: None,
                outcome: "verified".to_owned(),
            })
            .into();
        let first = begin(&db, &record).expect("stored");
        add_files(&mut db, first, &files_in[..1]).expect("stored");
        add_files(&mut db, first, &files_in[1..]).expect("stored");
        record.outgoing = false;
        record.outcome = RUNNING.to_owned();
        let second = begin(&db, &record).expect("stored");
        let listed = list(&db, 10).expect("read");
        assert_eq!(
            listed.iter().map(|r| r.number).collect::<Vec<_>>(),
            [second, first]
        );
        record.number = second;
        assert_eq!(listed[0], record);
        interrupt_running(&db).expect("stored");
        let outcomes = |db: &Connection| -> Vec<String> {
            list(db, 10)
                .expect("read")
                .into_iter()
                .map(|record| record.outcome)
                .collect()
        };
        assert_eq!(outcomes(&db), [INTERRUPTED, "verified"]);
        record.outcome = "failed".to_owned();
        update(&db, &record).expect("stored");
        assert_eq!(outcomes(&db), ["failed", "verified"]);
        assert_eq!(files(&db, first, 0, 10).expect("read"), files_in);
        assert_eq!(files(&db, first, 1, 1).expect("read"), files_in[1..2]);
        assert!(files(&db, second, 0, 10).expect("read").is_empty());
    }
}
