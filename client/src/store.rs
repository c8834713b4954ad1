//! What must survive a restart: contacts, messages, transfers, calls, remembered relay keys. SQLite in WAL mode;
//! one thread owns the connection and takes one job after another from a bounded queue, so that writes
//! have an order and the async side never waits on a disk.
//!
//! Several processes may have it open (`history` while an engine runs); SQLite's locks sort that out.

pub mod calls;
pub mod contacts;
pub mod messages;
pub mod relays;
mod schema;
pub mod transfers;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::Problem;

/// The file in the data folder.
pub const FILE_NAME: &str = "landline.sqlite";
/// Jobs that wait for the thread; whoever comes then waits for a place.
const MAX_JOBS: usize = 64;
/// How long a write waits for another process.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Why the store did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite says no: a full disk, a damaged file, another process that does not let go.
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The store was made by a newer version of the program.
    #[error("the store has format {found}, this version knows formats up to {known}")]
    TooNew {
        /// The format in the file.
        found: i64,
        /// The newest that this version reads.
        known: i64,
    },
    /// The file cannot be made.
    #[error("the store failed: {0}")]
    Io(#[from] std::io::Error),
    /// The thread is gone; that is a bug.
    #[error("the store has stopped")]
    Stopped,
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let next = match &error {
            StoreError::TooNew { .. } => Some("use the newer version of landline"),
            StoreError::Sqlite(rusqlite::Error::SqliteFailure(code, _))
                if code.code == rusqlite::ErrorCode::DiskFull =>
            {
                Some("the disk is full: make room, then run the command again")
            }
            _ => None,
        };
        let problem = Self::failure(error.to_string());
        match next {
            Some(next) => problem.with_next(next),
            None => problem,
        }
    }
}

/// A handle on the store; clones share the thread, which ends with the last one.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the store in `data_dir`, makes it if it is missing, and brings it to the current format.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE_NAME);
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_JOBS);
        let (opened, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("landline-store".to_owned())
            .spawn(move || {
                let mut connection = match open_file(&path) {
                    Ok(connection) => connection,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let _ = opened.send(Ok(()));
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })?;
        result.await.map_err(|_| StoreError::Stopped)??;
        Ok(Self { jobs })
    }

    /// Runs `work` on the store's thread, after everything that was asked for before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = done.send(work(connection));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        Ok(result.await.map_err(|_| StoreError::Stopped)??)
    }
}

/// Milliseconds since 1970 by this machine's clock.
pub fn now_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn open_file(path: &Path) -> Result<Connection, StoreError> {
    // SQLite gives its other files (WAL, shared memory) the mode of this one.
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    drop(options.open(path)?);
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // An acknowledged message is on the disk, even if the power fails the next moment.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    schema::migrate(&mut connection)?;
    Ok(connection)
}

/// A peer id out of a column.
fn peer_of(bytes: &[u8], column: usize) -> Result<p2p_net::PeerId, rusqlite::Error> {
    <[u8; 32]>::try_from(bytes)
        .map(p2p_net::PeerId::from_bytes)
        .map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                column,
                rusqlite::types::Type::Blob,
                Box::new(error),
            )
        })
}

/// A message id out of a column.
fn uuid_of(bytes: &[u8], column: usize) -> Result<uuid::Uuid, rusqlite::Error> {
    uuid::Uuid::from_slice(bytes).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}

/// A store in memory for the tests of the submodules.
#[cfg(test)]
fn in_memory() -> Connection {
    let mut connection = Connection::open_in_memory().expect("memory is there");
    schema::migrate(&mut connection).expect("an empty store migrates");
    connection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_store_survives_a_restart_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let id = p2p_net::PeerId::from_bytes([1; 32]);
        {
            let store = Store::open(dir.path()).await.expect("made");
            store
                .run(move |db| contacts::accept(db, &id, 5))
                .await
                .expect("stored");
        }
        let store = Store::open(dir.path()).await.expect("opened");
        let all = store.run(|db| contacts::all(db)).await.expect("read");
        assert_eq!(
            all.iter().map(|contact| contact.id).collect::<Vec<_>>(),
            [id]
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            for entry in std::fs::read_dir(dir.path()).expect("readable") {
                let entry = entry.expect("readable");
                let mode = entry.metadata().expect("there").permissions().mode();
                assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
            }
        }
    }

    #[tokio::test]
    async fn a_store_of_the_future_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).await.expect("made");
        store
            .run(|db| db.pragma_update(None, "user_version", 999))
            .await
            .expect("set");
        let error = Store::open(dir.path()).await.expect_err("too new");
        assert!(
            matches!(error, StoreError::TooNew { found: 999, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn two_handles_on_one_file_see_each_other() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let one = Store::open(dir.path()).await.expect("made");
        let other = Store::open(dir.path()).await.expect("opened");
        let id = p2p_net::PeerId::from_bytes([2; 32]);
        one.run(move |db| contacts::accept(db, &id, 5))
            .await
            .expect("stored");
        assert_eq!(
            other.run(|db| contacts::all(db)).await.expect("read").len(),
            1
        );
    }
}
