//! The tables, and the steps from each older format to the newest. A step is never changed once released;
//! what comes later is a step of its own.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// One batch of SQL per format, oldest first; `user_version` counts those that were applied.
const STEPS: &[&str] = &["
    CREATE TABLE contacts (
        id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 32),
        name TEXT,
        name_key TEXT UNIQUE,
        claimed_name TEXT,
        -- 0 stranger, 1 accepted, 2 blocked
        standing INTEGER NOT NULL CHECK (standing BETWEEN 0 AND 2),
        verified INTEGER NOT NULL DEFAULT 0,
        added_at_millis INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE messages (
        row INTEGER PRIMARY KEY,
        peer BLOB NOT NULL CHECK (length(peer) = 32),
        outgoing INTEGER NOT NULL,
        id BLOB NOT NULL CHECK (length(id) = 16),
        text TEXT NOT NULL,
        sent_at_millis INTEGER NOT NULL,
        stored_at_millis INTEGER NOT NULL,
        reply_peer BLOB,
        reply_id BLOB,
        -- outgoing: 0 waits, 1 delivered, 2 read; incoming: 0 new, 1 read, 2 read and the sender knows
        state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),
        UNIQUE (peer, outgoing, id)
    ) STRICT;
    CREATE INDEX messages_waiting ON messages (peer, row) WHERE outgoing = 1 AND state = 0;
    CREATE INDEX messages_unread ON messages (peer, row) WHERE outgoing = 0 AND state < 2;

    CREATE VIRTUAL TABLE messages_text USING fts5 (
        text, content = 'messages', content_rowid = 'row', tokenize = 'unicode61 remove_diacritics 2'
    );
    CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
        INSERT INTO messages_text (rowid, text) VALUES (new.row, new.text);
    END;
    CREATE TRIGGER messages_removed AFTER DELETE ON messages BEGIN
        INSERT INTO messages_text (messages_text, rowid, text) VALUES ('delete', old.row, old.text);
    END;

    CREATE TABLE transfers (
        row INTEGER PRIMARY KEY,
        transfer TEXT NOT NULL,
        peer BLOB NOT NULL CHECK (length(peer) = 32),
        outgoing INTEGER NOT NULL,
        label TEXT NOT NULL,
        outcome TEXT NOT NULL,
        detail TEXT,
        bytes INTEGER NOT NULL,
        files INTEGER NOT NULL,
        skipped INTEGER NOT NULL,
        started_at_millis INTEGER NOT NULL,
        elapsed_millis INTEGER NOT NULL,
        folder TEXT
    ) STRICT;
    CREATE TABLE transfer_files (
        transfer_row INTEGER NOT NULL REFERENCES transfers (row) ON DELETE CASCADE,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        md5_local TEXT,
        md5_remote TEXT,
        outcome TEXT NOT NULL
    ) STRICT;
    CREATE INDEX transfer_files_of ON transfer_files (transfer_row);

    CREATE TABLE relays (
        host TEXT NOT NULL,
        port INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        confirmed_at_millis INTEGER NOT NULL,
        PRIMARY KEY (host, port)
    ) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE calls (
        row INTEGER PRIMARY KEY,
        peer BLOB NOT NULL CHECK (length(peer) = 32),
        outgoing INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        detail TEXT,
        started_at_millis INTEGER NOT NULL,
        elapsed_millis INTEGER NOT NULL,
        -- missed, and nobody has looked yet
        unseen INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX calls_unseen ON calls (row) WHERE unseen = 1;
", "
    ALTER TABLE contacts ADD COLUMN relay_only INTEGER NOT NULL DEFAULT 0;
    -- what the user has decided for all contacts, by name
    CREATE TABLE choices (
        name TEXT PRIMARY KEY NOT NULL,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// Brings a store to the newest format, each step in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    // The lock comes before the question: two programs may start at one moment.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_the_first_format_keeps_what_it_has_and_learns_calls() {
        let mut db = Connection::open_in_memory().expect("memory is there");
        db.execute_batch(STEPS[0]).expect("the first format");
        db.pragma_update(None, "user_version", 1).expect("set");
        db.execute(
            "INSERT INTO relays VALUES ('relay.example.org', 443, 'key', 5)",
            [],
        )
        .expect("stored");
        migrate(&mut db).expect("migrates");
        let count = |table: &str| -> i64 {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .expect("a table")
        };
        assert_eq!((count("relays"), count("calls")), (1, 0));
        assert_eq!(count("choices"), 0);
        db.execute(
            "INSERT INTO contacts (id, standing, added_at_millis) VALUES (zeroblob(32), 1, 0)",
            [],
        )
        .expect("stored");
        let relay_only: i64 = db
            .query_row("SELECT relay_only FROM contacts", [], |row| row.get(0))
            .expect("a column");
        assert_eq!(relay_only, 0, "as contacts were before");
    }
}
