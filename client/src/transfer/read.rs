//! The sender's threads: one walks, one reads and cuts into frames, some compute MD5s beside it. Every
//! queue between them is bounded; they end when the transfer's future drops its ends of the queues.
//! Nothing waits for a digest but the digest itself: the first bytes leave as soon as they are read.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use md5::Digest;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::chunk::{
    CHUNK_BYTES, FrameHeader, MAX_PACK_FILES, MD5_BYTES, PACKED_HEADER_BYTES, SMALL_BYTES,
    chunk_count, chunk_len, chunk_offset, next_packed,
};
use super::os;
use super::pool::{Buffer, Pool};
use super::report::Md5;
use super::walk::{Found, Root, Walk};
use super::wire::{BATCH_BYTES, MAX_BATCH, MAX_ENTRIES, MAX_UNSETTLED, clip_file_reason, kind};

/// Buffers of 1 MiB that the sender uses at most: read, being hashed, sent or not yet acknowledged.
const BUFFERS: usize = 24;
/// Files that the walk is ahead of reading at most.
const JOBS: usize = 1_024;
/// Chunks and files that are read a second time at most, in one transfer: far more than accidents need.
pub(super) const MAX_REPAIRS: usize = 4_096;
/// Threads for MD5 at most: one file is one thread's, several files go side by side.
const MAX_HASHERS: usize = 4;
/// Buffers that wait for one of them.
const HASH_QUEUE: usize = 4;
/// A batch of entries that is not full leaves after this time.
const BATCH_AGE: Duration = Duration::from_millis(10);
/// How often a reader without work looks whether the transfer is over.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// A frame, ready for a lane.
pub(super) struct LaneFrame {
    /// Header, bytes and BLAKE3.
    pub(super) parts: [Bytes; 3],
    /// Bytes of file content in it.
    pub(super) content_bytes: u64,
}

/// What the threads tell the transfer besides frames.
pub(super) enum Note {
    /// The next entries of the manifest, in order.
    Found(Vec<Found>),
    /// That were all.
    WalkEnded,
    /// The walk found more than one transfer may hold.
    TooMany,
    /// A file of more than one pack begins.
    Started(u32),
    /// MD5s of files that travel in chunks, to be told to the receiver.
    Digest(u32, Md5),
    /// MD5s of files in a pack, which carries them itself.
    Packed(Vec<(u32, Md5)>),
    /// A file could not be read, or not as it was announced.
    Unsent {
        file: u32,
        skipped: bool,
        reason: String,
    },
    /// So many frames are under way, and that is all.
    AllSent { frames: u64 },
}

/// A file to be read.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) file: u32,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    /// One chunk alone; `None` for the whole file.
    pub(super) chunk: Option<u32>,
}

impl Job {
    /// The job of reading a whole file that was found.
    pub(super) fn whole(found: &Found) -> Self {
        let entry = &found.entry;
        let modified = os::from_1970(entry.modified_secs, entry.modified_nanos);
        Self {
            file: found.number,
            path: found.path.clone(),
            size: entry.size,
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
            chunk: None,
        }
    }
}

/// The transfer's ends of all queues. Dropped, the threads end.
pub(super) struct Reading {
    pub(super) notes: mpsc::Receiver<Note>,
    pub(super) frames: mpsc::Receiver<LaneFrame>,
    pub(super) repairs: SyncSender<Job>,
    /// A permit for each file that may be announced before earlier ones are settled.
    pub(super) unsettled: Arc<Semaphore>,
    pool: Arc<Pool>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.unsettled.close();
        self.pool.close();
    }
}

/// Starts the threads. Must be called within a tokio runtime.
pub(super) fn start(roots: Vec<Root>, lanes: usize) -> io::Result<Reading> {
    let runtime = Handle::current();
    let pool = Arc::new(Pool::new(BUFFERS));
    let unsettled = Arc::new(Semaphore::new(MAX_UNSETTLED));
    let (notes_in, notes) = mpsc::channel(64);
    let (frames_in, frames) = mpsc::channel(lanes);
    let (jobs_in, jobs) = sync_channel(JOBS);
    let (repairs, repair_jobs) = sync_channel(MAX_REPAIRS);

    let mut hashers = Vec::new();
    let count = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_HASHERS));
    for number in 0..count {
        let (hash_in, work) = sync_channel(HASH_QUEUE);
        let hasher = Hasher {
            work,
            notes: notes_in.clone(),
            frames: frames_in.clone(),
            current: None,
        };
        spawn(format!("send-md5-{number}"), move || hasher.run())?;
        hashers.push(hash_in);
    }
    let walker = Walker {
        runtime: runtime.clone(),
        unsettled: Arc::clone(&unsettled),
        notes: notes_in.clone(),
        jobs: jobs_in,
        batch: Vec::new(),
        batch_bytes: 0,
        flushed: Instant::now(),
    };
    spawn("send-walk".into(), move || walker.run(&roots))?;
    let reader = Reader {
        runtime,
        pool: Arc::clone(&pool),
        hashers,
        notes: notes_in,
        frames: frames_in,
        pack: None,
        sent: 0,
    };
    spawn("send-read".into(), move || reader.run(&jobs, &repair_jobs))?;
    Ok(Reading {
        notes,
        frames,
        repairs,
        unsettled,
        pool,
    })
}

/// A named thread. It is not joined: it ends with its queues.
pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run)
}

/// The other end of a queue is gone: the transfer is over.
struct Over;

struct Walker {
    runtime: Handle,
    unsettled: Arc<Semaphore>,
    notes: mpsc::Sender<Note>,
    jobs: SyncSender<Job>,
    batch: Vec<Found>,
    batch_bytes: usize,
    flushed: Instant,
}

impl Walker {
    fn run(mut self, roots: &[Root]) {
        // A transfer that is over needs no walk.
        let _ = self.walk(roots);
    }

    fn walk(&mut self, roots: &[Root]) -> Result<(), Over> {
        for found in Walk::new(roots) {
            if found.number >= MAX_ENTRIES {
                return self.notes.blocking_send(Note::TooMany).map_err(|_| Over);
            }
            if found.entry.kind == kind::FILE {
                self.take_permit()?;
            }
            self.batch_bytes += found.entry.wire_bytes();
            self.batch.push(found);
            let is_full = self.batch.len() >= MAX_BATCH || self.batch_bytes >= BATCH_BYTES;
            if is_full || self.flushed.elapsed() >= BATCH_AGE {
                self.flush()?;
            }
        }
        self.flush()?;
        self.notes.blocking_send(Note::WalkEnded).map_err(|_| Over)
    }

    /// Waits until there may be one more unsettled file. What is batched goes first: those must be settled.
    fn take_permit(&mut self) -> Result<(), Over> {
        if let Ok(permit) = self.unsettled.try_acquire() {
            permit.forget();
            return Ok(());
        }
        self.flush()?;
        self.runtime
            .block_on(self.unsettled.acquire())
            .map_err(|_| Over)?
            .forget();
        Ok(())
    }

    /// Announces the batch, then has its files read.
    fn flush(&mut self) -> Result<(), Over> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.flushed = Instant::now();
        let is_file = |found: &&Found| found.entry.kind == kind::FILE;
        let jobs: Vec<Job> = batch.iter().filter(is_file).map(Job::whole).collect();
        if !batch.is_empty() {
            self.notes
                .blocking_send(Note::Found(batch))
                .map_err(|_| Over)?;
        }
        for job in jobs {
            self.jobs.send(job).map_err(|_| Over)?;
        }
        Ok(())
    }
}

/// What a hasher works on.
enum HashWork {
    /// The next chunk of the file that this hasher has in hand, or the first of another one.
    Chunk {
        file: u32,
        first: bool,
        last: bool,
        bytes: Bytes,
    },
    /// Small files, whose places for MD5s are still empty.
    Pack {
        buffer: Buffer,
        highest: u32,
        files: u32,
    },
}

struct Reader {
    runtime: Handle,
    pool: Arc<Pool>,
    hashers: Vec<SyncSender<HashWork>>,
    notes: mpsc::Sender<Note>,
    frames: mpsc::Sender<LaneFrame>,
    pack: Option<OpenPack>,
    /// Frames that were passed on.
    sent: u64,
}

struct OpenPack {
    buffer: Buffer,
    highest: u32,
    files: u32,
}

/// Why a file, or the rest of it, is not sent; or that the whole transfer is over.
enum ReadFailure {
    /// It could not be opened.
    Unreadable(String),
    /// It was begun, and is not what was announced.
    Changed(String),
    Over,
}

impl From<Over> for ReadFailure {
    fn from(_: Over) -> Self {
        Self::Over
    }
}

impl Reader {
    fn run(mut self, jobs: &Receiver<Job>, repairs: &Receiver<Job>) {
        // A transfer that is over needs no reading.
        let _ = self.read_all(jobs, repairs);
    }

    fn read_all(&mut self, jobs: &Receiver<Job>, repairs: &Receiver<Job>) -> Result<(), Over> {
        loop {
            match jobs.try_recv() {
                Ok(job) => self.read(&job)?,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // What is packed should not wait for what has not been found yet.
                    self.finish_pack()?;
                    match jobs.recv_timeout(IDLE_LOOK) {
                        Ok(job) => self.read(&job)?,
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
            }
            while let Ok(repair) = repairs.try_recv() {
                self.read(&repair)?;
            }
        }
        self.finish_pack()?;
        self.note(Note::AllSent { frames: self.sent })?;
        loop {
            match repairs.recv_timeout(IDLE_LOOK) {
                Ok(repair) => {
                    self.read(&repair)?;
                    self.finish_pack()?;
                }
                Err(RecvTimeoutError::Timeout) if !self.notes.is_closed() => {}
                Err(_) => return Ok(()),
            }
        }
    }

    fn read(&mut self, job: &Job) -> Result<(), Over> {
        let result = match job.chunk {
            Some(chunk) => self.read_chunk_again(job, chunk),
            None if job.size <= SMALL_BYTES => self.read_small(job),
            None => self.read_large(job),
        };
        match result {
            Ok(()) => Ok(()),
            Err(ReadFailure::Over) => Err(Over),
            Err(ReadFailure::Unreadable(why)) => self.unsent(job.file, true, &why),
            Err(ReadFailure::Changed(why)) => self.unsent(job.file, false, &why),
        }
    }

    fn unsent(&mut self, file: u32, skipped: bool, why: &str) -> Result<(), Over> {
        self.note(Note::Unsent {
            file,
            skipped,
            reason: clip_file_reason(why),
        })
    }

    /// Adds a whole small file to the open pack.
    fn read_small(&mut self, job: &Job) -> Result<(), ReadFailure> {
        let file = open(job)?;
        // No more than `SMALL_BYTES`, so that it fits.
        let size = usize::try_from(job.size).unwrap_or(CHUNK_BYTES);
        let needed = PACKED_HEADER_BYTES + size + MD5_BYTES;
        let is_full = |pack: &OpenPack| {
            pack.buffer.len() + needed > CHUNK_BYTES || pack.files >= MAX_PACK_FILES
        };
        if self.pack.as_ref().is_some_and(is_full) {
            self.finish_pack()?;
        }
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => none.insert(OpenPack {
                buffer: take(&self.runtime, &self.pool)?,
                highest: 0,
                files: 0,
            }),
        };
        let start = pack.buffer.len();
        let room = pack.buffer.extend(needed);
        let (header, rest) = room.split_at_mut(PACKED_HEADER_BYTES);
        header[..4].copy_from_slice(&job.file.to_be_bytes());
        header[4..].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
        let whole = read_exactly(&file, &mut rest[..size], 0).and_then(|()| unchanged(&file, job));
        match whole {
            Ok(()) => {
                pack.files += 1;
                pack.highest = pack.highest.max(job.file);
            }
            Err(_) => pack.buffer.truncate(start),
        }
        whole
    }

    /// Has the open pack hashed and sent.
    fn finish_pack(&mut self) -> Result<(), Over> {
        let Some(OpenPack {
            buffer,
            highest,
            files,
        }) = self.pack.take()
        else {
            return Ok(());
        };
        if files == 0 {
            return Ok(());
        }
        let hasher = usize::try_from(self.sent).unwrap_or(0) % self.hashers.len();
        self.sent += 1;
        self.hashers[hasher]
            .send(HashWork::Pack {
                buffer,
                highest,
                files,
            })
            .map_err(|_| Over)
    }

    /// Sends a file chunk by chunk, each to a lane and to the file's hasher.
    fn read_large(&mut self, job: &Job) -> Result<(), ReadFailure> {
        self.finish_pack()?;
        let file = open(job)?;
        os::will_read_in_order(&file);
        self.note(Note::Started(job.file))?;
        let chunks = chunk_count(job.size).unwrap_or(0);
        let hasher = job.file as usize % self.hashers.len();
        for chunk in 0..chunks {
            let buffer = self.read_chunk(&file, job, chunk)?;
            let last = chunk + 1 == chunks;
            if last {
                unchanged(&file, job)?;
            }
            let bytes = Bytes::from_owner(buffer);
            let work = HashWork::Chunk {
                file: job.file,
                first: chunk == 0,
                last,
                bytes: bytes.clone(),
            };
            // The lane first: the digest has time.
            self.send_chunk(job, chunk, bytes)?;
            self.hashers[hasher].send(work).map_err(|_| Over)?;
        }
        Ok(())
    }

    fn read_chunk_again(&mut self, job: &Job, chunk: u32) -> Result<(), ReadFailure> {
        let file = open(job)?;
        let buffer = self.read_chunk(&file, job, chunk)?;
        unchanged(&file, job)?;
        Ok(self.send_chunk(job, chunk, Bytes::from_owner(buffer))?)
    }

    fn read_chunk(&self, file: &File, job: &Job, chunk: u32) -> Result<Buffer, ReadFailure> {
        let mut buffer = take(&self.runtime, &self.pool)?;
        let room = buffer.fill(chunk_len(job.size, chunk));
        read_exactly(file, room, chunk_offset(chunk))?;
        Ok(buffer)
    }

    fn send_chunk(&mut self, job: &Job, chunk: u32, bytes: Bytes) -> Result<(), Over> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let header = FrameHeader::Chunk {
            file: job.file,
            chunk,
            length,
        };
        let content_bytes = bytes.len() as u64;
        self.sent += 1;
        self.frames
            .blocking_send(frame(header, bytes, content_bytes))
            .map_err(|_| Over)
    }

    fn note(&self, note: Note) -> Result<(), Over> {
        self.notes.blocking_send(note).map_err(|_| Over)
    }
}

fn frame(header: FrameHeader, bytes: Bytes, content_bytes: u64) -> LaneFrame {
    let check = Bytes::copy_from_slice(blake3::hash(&bytes).as_bytes());
    LaneFrame {
        parts: [Bytes::copy_from_slice(&header.encode()), bytes, check],
        content_bytes,
    }
}

fn take(runtime: &Handle, pool: &Pool) -> Result<Buffer, Over> {
    runtime.block_on(pool.take()).ok_or(Over)
}

fn open(job: &Job) -> Result<File, ReadFailure> {
    let file =
        os::open_regular(&job.path).map_err(|error| ReadFailure::Unreadable(error.to_string()))?;
    unchanged(&file, job)?;
    Ok(file)
}

const CHANGED: &str = "it changed while it was being sent";

fn read_exactly(file: &File, room: &mut [u8], offset: u64) -> Result<(), ReadFailure> {
    match os::read_at(file, room, offset) {
        Ok(read) if read == room.len() => Ok(()),
        Ok(_) => Err(ReadFailure::Changed(CHANGED.into())),
        Err(error) => Err(ReadFailure::Changed(error.to_string())),
    }
}

/// Whether a file still has the size and time that it was announced with.
fn unchanged(file: &File, job: &Job) -> Result<(), ReadFailure> {
    let metadata = file
        .metadata()
        .map_err(|error| ReadFailure::Changed(error.to_string()))?;
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    if metadata.len() == job.size && modified == job.modified {
        Ok(())
    } else {
        Err(ReadFailure::Changed(CHANGED.into()))
    }
}

struct Hasher {
    work: Receiver<HashWork>,
    notes: mpsc::Sender<Note>,
    frames: mpsc::Sender<LaneFrame>,
    /// The digest of the file in hand.
    current: Option<md5::Md5>,
}

impl Hasher {
    fn run(mut self) {
        while let Ok(work) = self.work.recv() {
            let result = match work {
                HashWork::Chunk {
                    file,
                    first,
                    last,
                    bytes,
                } => self.chunk(file, first, last, &bytes),
                HashWork::Pack {
                    buffer,
                    highest,
                    files,
                } => self.pack(buffer, highest, files),
            };
            if result.is_err() {
                return;
            }
        }
    }

    fn chunk(&mut self, file: u32, first: bool, last: bool, bytes: &[u8]) -> Result<(), Over> {
        if first {
            self.current = Some(md5::Md5::new());
        }
        if let Some(digest) = &mut self.current {
            digest.update(bytes);
        }
        if last && let Some(digest) = self.current.take() {
            let md5 = Md5::from_bytes(digest.finalize().into());
            return self
                .notes
                .blocking_send(Note::Digest(file, md5))
                .map_err(|_| Over);
        }
        Ok(())
    }

    /// Computes the MD5 of each file of a pack, puts it behind the file's bytes, and sends the pack.
    fn pack(&mut self, mut buffer: Buffer, highest: u32, files: u32) -> Result<(), Over> {
        let mut digests = Vec::with_capacity(files as usize);
        let mut content_bytes = 0;
        let mut at = 0;
        while let Some((packed, _)) = next_packed(&buffer.as_ref()[at..]) {
            let md5: [u8; MD5_BYTES] = md5::Md5::digest(packed.bytes).into();
            digests.push((packed.file, Md5::from_bytes(md5)));
            content_bytes += packed.bytes.len() as u64;
            at += PACKED_HEADER_BYTES + packed.bytes.len();
            buffer.as_mut()[at..at + MD5_BYTES].copy_from_slice(&md5);
            at += MD5_BYTES;
        }
        self.notes
            .blocking_send(Note::Packed(digests))
            .map_err(|_| Over)?;
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let header = FrameHeader::Pack {
            highest,
            files,
            length,
        };
        let frame = frame(header, Bytes::from_owner(buffer), content_bytes);
        self.frames.blocking_send(frame).map_err(|_| Over)
    }
}

/// The walk and the count before it, for [`super::send`].
pub(super) fn look(paths: &[PathBuf], patience: Duration) -> Result<Looked, super::TransferError> {
    let deadline = Instant::now() + patience;
    let roots = super::walk::roots(paths)?;
    let counted = super::walk::count(&roots, deadline);
    Ok(Looked { roots, counted })
}

/// What a first look found.
pub(super) struct Looked {
    pub(super) roots: Vec<Root>,
    /// Files and bytes, if there was time.
    pub(super) counted: Option<(u64, u64)>,
}
