//! The receiver's threads. One keeps the part folder from its making to its end; two check, write and
//! hand on what arrives; some compute MD5s in order beside them, and one has the disk keep up. They end when the transfer's future drops
//! its ends of the queues, and with the last of them the part folder goes, unless it was published.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use md5::Digest;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::chunk::{
    BLAKE3_BYTES, CHUNK_BYTES, FrameHeader, chunk_count, chunk_len, chunk_offset, next_packed,
};
use super::error::TransferError;
use super::ledger::{Claim, Ledger, Target};
use super::os;
use super::pool::Buffer;
use super::read::spawn;
use super::report::{Md5, TransferId};
use super::store::{PartFolder, Plan, write_failure};

/// Threads that check and write.
const WRITERS: usize = 2;
/// Frames that wait for one of them.
const WRITE_QUEUE: usize = 4;
/// Threads for MD5 at most: one file is one thread's, several files go side by side.
const MAX_HASHERS: usize = 4;
/// Chunks that wait for one of them.
const HASH_QUEUE: usize = 4;
/// Chunks that came too early and are kept for their turn; others are read back from the disk. Together
/// with [`MAX_LANES`](super::wire::MAX_LANES) they leave some of the receiver's buffers free, always.
const MAX_EARLY: usize = 6;

/// Bytes written after which the disk is asked to begin with them, so that it has little to do at the end.
const FLUSH_BYTES: u64 = 32 << 20;

/// A frame as it came off a lane.
pub(super) struct Arrived {
    pub(super) header: FrameHeader,
    pub(super) buffer: Buffer,
    pub(super) blake3: [u8; BLAKE3_BYTES],
}

/// The book, and a bell that rings when a thread has written in it.
pub(super) struct Book {
    ledger: Mutex<Ledger>,
    pub(super) changed: Notify,
}

impl Book {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: TransferError) {
        self.lock().fail(error);
        self.changed.notify_one();
    }
}

/// The transfer's ends of the queues.
pub(super) struct Writing {
    pub(super) book: Arc<Book>,
    pub(super) frames: mpsc::Sender<Arrived>,
    keeper: mpsc::Sender<Order>,
}

/// What the keeper does in the end.
enum Order {
    Publish {
        plan: Plan,
        done: oneshot::Sender<Result<Vec<PathBuf>, TransferError>>,
    },
    Remove {
        done: oneshot::Sender<()>,
    },
}

/// Makes the part folder and starts the threads.
pub(super) async fn start(into: PathBuf, id: TransferId) -> Result<Writing, TransferError> {
    let (ready, started) = oneshot::channel();
    let fail = |error| TransferError::io(&into, error);
    let path = into.clone();
    spawn("receive-keep".into(), move || keep(&path, id, ready)).map_err(fail)?;
    started
        .await
        .map_err(|_| fail(io::Error::other("the writing thread ended")))?
}

impl Writing {
    /// Waits for the threads, makes what is verified durable and gives it its names.
    pub(super) async fn publish(self, plan: Plan) -> Result<Vec<PathBuf>, TransferError> {
        let gone = || TransferError::internal("the writing thread ended");
        let Self { frames, keeper, .. } = self;
        drop(frames);
        let (done, published) = oneshot::channel();
        keeper
            .send(Order::Publish { plan, done })
            .await
            .map_err(|_| gone())?;
        published.await.map_err(|_| gone())?
    }

    /// Waits until the part folder is gone with all that is in it.
    pub(super) async fn remove(self) {
        let Self { frames, keeper, .. } = self;
        drop(frames);
        let (done, removed) = oneshot::channel();
        if keeper.send(Order::Remove { done }).await.is_ok() {
            let _ = removed.await;
        }
    }
}

/// The keeper's life.
fn keep(
    into: &std::path::Path,
    id: TransferId,
    ready: oneshot::Sender<Result<Writing, TransferError>>,
) {
    let folder = match PartFolder::create(into, id) {
        Ok(folder) => Arc::new(folder),
        Err(error) => return drop(ready.send(Err(error))),
    };
    let ledger = Ledger::new(folder.folds_case(), folder.usable_bytes());
    let book = Arc::new(Book {
        ledger: Mutex::new(ledger),
        changed: Notify::new(),
    });
    let (frames, arrived) = mpsc::channel(WRITE_QUEUE);
    let (keeper, mut orders) = mpsc::channel(1);
    let threads = match start_threads(&folder, &book, arrived) {
        Ok(threads) => threads,
        Err(error) => return drop(ready.send(Err(TransferError::io(into, error)))),
    };
    let writing = Writing {
        book: Arc::clone(&book),
        frames,
        keeper,
    };
    // Nobody there any more: the queues close with the value, and the threads end.
    drop(ready.send(Ok(writing)));
    let order = orders.blocking_recv();
    for thread in threads {
        // A panic in a writer is a bug; its transfer must not be published.
        if thread.join().is_err() {
            book.fail(TransferError::io(
                into,
                io::Error::other("a writing thread failed"),
            ));
        }
    }
    let failure = book.lock().take_failure();
    match (order, Arc::into_inner(folder)) {
        (Some(Order::Publish { plan, done }), Some(folder)) => {
            let result = match failure {
                None => folder.publish(&plan),
                Some(error) => Err(error),
            };
            let _ = done.send(result);
        }
        (Some(Order::Remove { done }), folder) => {
            drop(folder);
            let _ = done.send(());
        }
        (_, folder) => drop(folder),
    }
}

fn start_threads(
    folder: &Arc<PartFolder>,
    book: &Arc<Book>,
    arrived: mpsc::Receiver<Arrived>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut hashers = Vec::new();
    let early = Arc::new(Semaphore::new(MAX_EARLY));
    let count = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_HASHERS));
    for number in 0..count {
        let (chunks_in, chunks) = sync_channel(HASH_QUEUE);
        let hasher = Hasher {
            chunks,
            folder: Arc::clone(folder),
            book: Arc::clone(book),
            files: HashMap::new(),
            early: Arc::clone(&early),
            again: Vec::new(),
        };
        threads.push(spawn(format!("receive-md5-{number}"), move || {
            hasher.run()
        })?);
        hashers.push(chunks_in);
    }
    let (flusher, to_flush) = sync_channel(1);
    let flushing = (Arc::clone(folder), Arc::clone(book));
    threads.push(spawn("receive-flush".into(), move || {
        flush(&to_flush, &flushing.0, &flushing.1)
    })?);
    let unflushed_bytes = Arc::new(AtomicU64::new(0));
    let arrived = Arc::new(Mutex::new(arrived));
    for number in 0..WRITERS {
        let writer = Writer {
            arrived: Arc::clone(&arrived),
            folder: Arc::clone(folder),
            book: Arc::clone(book),
            hashers: hashers.clone(),
            flusher: flusher.clone(),
            unflushed_bytes: Arc::clone(&unflushed_bytes),
        };
        threads.push(spawn(format!("receive-write-{number}"), move || {
            writer.run()
        })?);
    }
    Ok(threads)
}

/// The flusher's life: makes durable what is written of large files while more of them comes.
fn flush(files: &Receiver<Unflushed>, folder: &PartFolder, book: &Book) {
    while let Ok(Unflushed { file, target }) = files.recv() {
        if let Err(error) = file.sync_data() {
            book.fail(write_failure(folder.full_path(&target.path), error));
        }
    }
}

/// A file that has enough in it to begin with.
struct Unflushed {
    file: Arc<File>,
    target: Arc<Target>,
}

struct Writer {
    arrived: Arc<Mutex<mpsc::Receiver<Arrived>>>,
    folder: Arc<PartFolder>,
    book: Arc<Book>,
    hashers: Vec<SyncSender<Written>>,
    flusher: SyncSender<Unflushed>,
    /// Bytes written by all writers since a file was last handed to the flusher.
    unflushed_bytes: Arc<AtomicU64>,
}

/// A chunk that is on the disk and in memory.
struct Written {
    target: Arc<Target>,
    chunk: u32,
    buffer: Buffer,
}

impl Writer {
    fn run(self) {
        loop {
            let arrived = self
                .arrived
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .blocking_recv();
            let Some(arrived) = arrived else { return };
            let result = match arrived.header {
                FrameHeader::Chunk { file, chunk, .. } => self.chunk(file, chunk, arrived),
                FrameHeader::Pack { files, .. } => self.pack(files, &arrived),
            };
            match result {
                Ok(()) => self.book.lock().frame_done(),
                // The transfer ends; what still comes is taken and dropped until it has.
                Err(error) => self.book.lock().fail(error),
            }
            self.book.changed.notify_one();
        }
    }

    /// Checks, writes, and passes on to the hasher of the file.
    fn chunk(&self, file: u32, chunk: u32, arrived: Arrived) -> Result<(), TransferError> {
        let Arrived { buffer, blake3, .. } = arrived;
        if blake3::hash(buffer.as_ref()) != blake3 {
            return self.book.lock().bad_chunk(file, chunk);
        }
        let claim = self.book.lock().claim_chunk(file, chunk, buffer.len())?;
        let Claim::Write(target) = claim else {
            return Ok(());
        };
        let write = || -> io::Result<Arc<File>> {
            let open = self.folder.large_file(file, &target.path, target.size)?;
            os::write_all_at(&open, buffer.as_ref(), chunk_offset(chunk))?;
            Ok(open)
        };
        let open = write().map_err(|error| self.failure(&target, error))?;
        self.have_flushed(open, &target, buffer.len() as u64);
        let hasher = &self.hashers[file as usize % self.hashers.len()];
        // Hashers outlive writers, unless they panicked; then the keeper sees it.
        let _ = hasher.send(Written {
            target,
            chunk,
            buffer,
        });
        Ok(())
    }

    /// Counts bytes written, and hands their file to the flusher when they are many and it is free.
    fn have_flushed(&self, file: Arc<File>, target: &Arc<Target>, bytes: u64) {
        let unflushed = self.unflushed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unflushed >= FLUSH_BYTES {
            let target = Arc::clone(target);
            if self.flusher.try_send(Unflushed { file, target }).is_ok() {
                self.unflushed_bytes.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Checks a pack, writes and hashes its files.
    fn pack(&self, files: u32, arrived: &Arrived) -> Result<(), TransferError> {
        if blake3::hash(arrived.buffer.as_ref()) != arrived.blake3 {
            // Which files were in it nobody knows; they are missed in the end, and asked for again.
            return Ok(());
        }
        let mut rest = arrived.buffer.as_ref();
        for _ in 0..files {
            let (packed, after) =
                next_packed(rest).ok_or_else(|| TransferError::malformed("a pack that is none"))?;
            rest = after;
            if packed.file > arrived.header.highest() {
                return Err(TransferError::malformed(
                    "a pack with a file that it does not announce",
                ));
            }
            let claim = self
                .book
                .lock()
                .claim_small(packed.file, packed.bytes.len())?;
            let Claim::Write(target) = claim else {
                continue;
            };
            self.folder
                .write_small(&target.path, packed.bytes)
                .and_then(|file| {
                    self.folder
                        .seal(&file, target.number, target.modified, target.executable)
                })
                .map_err(|error| self.failure(&target, error))?;
            let ours = Md5::from_bytes(md5::Md5::digest(packed.bytes).into());
            let mut ledger = self.book.lock();
            ledger.digest(packed.file, Md5::from_bytes(packed.md5));
            ledger.hashed(&target, ours);
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(TransferError::malformed("a pack with more in it"))
        }
    }

    fn failure(&self, target: &Target, error: io::Error) -> TransferError {
        write_failure(self.folder.full_path(&target.path), error)
    }
}

/// The digest of one file on its way.
struct InHand {
    target: Arc<Target>,
    digest: md5::Md5,
    next: u32,
    /// Chunks that came before their turn, in memory or (`None`) on the disk alone.
    early: BTreeMap<u32, Option<Early>>,
}

/// A chunk that came too early, and its place among the few that are kept.
struct Early {
    buffer: Buffer,
    _place: OwnedSemaphorePermit,
}

struct Hasher {
    chunks: Receiver<Written>,
    folder: Arc<PartFolder>,
    book: Arc<Book>,
    files: HashMap<u32, InHand>,
    early: Arc<Semaphore>,
    /// Where chunks are read back to.
    again: Vec<u8>,
}

impl Hasher {
    fn run(mut self) {
        while let Ok(written) = self.chunks.recv() {
            let (number, path) = (written.target.number, written.target.path.clone());
            if let Err(error) = self.take(written) {
                self.book
                    .fail(write_failure(self.folder.full_path(&path), error));
                self.files.remove(&number);
            }
        }
    }

    /// Hashes a chunk if it is its turn, and all that waited for it; or lets it wait.
    fn take(&mut self, written: Written) -> io::Result<()> {
        let Written {
            target,
            chunk,
            buffer,
        } = written;
        let number = target.number;
        if self
            .files
            .get(&number)
            .is_some_and(|file| !Arc::ptr_eq(&file.target, &target))
        {
            self.files.remove(&number);
        }
        if target.is_dropped() {
            self.files.remove(&number);
            return Ok(());
        }
        let file = self.files.entry(number).or_insert_with(|| InHand {
            target: Arc::clone(&target),
            digest: md5::Md5::new(),
            next: 0,
            early: BTreeMap::new(),
        });
        if chunk != file.next {
            let place = Arc::clone(&self.early).try_acquire_owned();
            file.early
                .insert(chunk, place.ok().map(|_place| Early { buffer, _place }));
            return Ok(());
        }
        file.digest.update(buffer.as_ref());
        drop(buffer);
        file.next += 1;
        while let Some(waiting) = file.early.remove(&file.next) {
            match waiting {
                Some(waiting) => file.digest.update(waiting.buffer.as_ref()),
                None => {
                    self.again.resize(CHUNK_BYTES, 0);
                    let length = chunk_len(target.size, file.next);
                    let open = self.folder.large_file(number, &target.path, target.size)?;
                    let room = &mut self.again[..length];
                    if os::read_at(&open, room, chunk_offset(file.next))? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    file.digest.update(room);
                }
            }
            file.next += 1;
        }
        if chunk_count(target.size) == Some(file.next) {
            return self.finish(&target);
        }
        Ok(())
    }

    fn finish(&mut self, target: &Target) -> io::Result<()> {
        let Some(file) = self.files.remove(&target.number) else {
            return Ok(());
        };
        let open = self
            .folder
            .large_file(target.number, &target.path, target.size)?;
        self.folder
            .seal(&open, target.number, target.modified, target.executable)?;
        let ours = Md5::from_bytes(file.digest.finalize().into());
        self.book.lock().hashed(target, ours);
        self.book.changed.notify_one();
        Ok(())
    }
}
