//! What the receiver knows of each file: announced, partly here, verified or failed. Pure bookkeeping
//! behind one lock; it decides whether a frame may be written, and when a file and the whole transfer are
//! settled. Whatever the sender claims, what is remembered and what may be written stay bounded.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::chunk::{SMALL_BYTES, chunk_count, chunk_len};
use super::error::{Side, TransferError};
use super::names::{self, MAX_DEPTH, MAX_PATH_BYTES, Siblings, printable};
use super::os;
use super::report::{FileOutcome, FileReport, Md5};
use super::store::{Plan, Top};
use super::wire::{
    Entry, FileResult, MAX_ENTRIES, MAX_UNSETTLED, Repair, clip_file_reason, kind, outcome,
};

/// Bytes of memory for what must be kept to the end: folders, and files that must not be published.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// What one such thing costs besides its path.
const KEPT_OVERHEAD_BYTES: usize = 128;
/// Frames for files that failed meanwhile are dropped, up to this many bytes beyond those files' sizes.
const DROPPED_SLACK_BYTES: u64 = 64 << 20;
/// Chunks of one file that are asked for again at most.
const MAX_BAD_CHUNKS: usize = 64;

/// The room on a disk that does not tell; it bounds what claims of huge files can make us remember.
const UNKNOWN_DISK_BYTES: u64 = 1 << 44;

const CORRUPT: &str = "its content was wrong, twice";

/// Where the content of a file goes.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) number: u32,
    /// Relative to the part folder.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) modified: Option<SystemTime>,
    pub(super) executable: u16,
    /// Whether the whole file was asked for a second time, and this is where that goes.
    pub(super) again: bool,
    dropped: AtomicBool,
}

impl Target {
    /// Whether nobody wants it any more.
    pub(super) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What to do with content that has arrived.
#[derive(Debug)]
pub(super) enum Claim {
    /// Write it.
    Write(Arc<Target>),
    /// Its file is settled; drop it.
    Drop,
}

/// What happened since the last look.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) results: Vec<FileResult>,
    pub(super) repairs: Vec<Repair>,
    pub(super) reports: Vec<FileReport>,
    /// Path and size of large files of which the first chunk is here.
    pub(super) started: Vec<(String, u64)>,
    pub(super) folders: u64,
}

struct Folder {
    /// Its number in the manifest.
    number: u32,
    path: PathBuf,
    /// Bytes of its path as it was sent.
    path_bytes: usize,
    depth: u16,
    /// Which thing of the top level it is in.
    top: usize,
    modified: Option<SystemTime>,
}

/// A file that is not settled.
struct Open {
    target: Arc<Target>,
    top: usize,
    /// A bit for each chunk that has come.
    seen: Vec<u64>,
    /// Chunks that have not; 1 for an empty file.
    missing: u32,
    theirs: Option<Md5>,
    ours: Option<Md5>,
    got_bytes: u64,
    /// Chunks that were asked for again.
    bad_chunks: Vec<u32>,
}

impl Open {
    fn new(target: Target, top: usize) -> Self {
        Self {
            seen: Vec::new(),
            missing: chunk_count(target.size).unwrap_or(u32::MAX).max(1),
            target: Arc::new(target),
            top,
            got_bytes: 0,
            theirs: None,
            ours: None,
            bad_chunks: Vec::new(),
        }
    }

    /// Notes a chunk; false if it was here before.
    fn mark(&mut self, chunk: u32) -> bool {
        let (word, bit) = (chunk as usize / 64, 1u64 << (chunk % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let new = self.seen[word] & bit == 0;
        if new {
            self.seen[word] |= bit;
            self.missing -= 1;
        }
        new
    }
}

/// The book of one transfer.
pub(super) struct Ledger {
    entries: u32,
    ended: bool,
    siblings: Siblings,
    folders: Vec<Folder>,
    tops: Vec<Top>,
    open: HashMap<u32, Open>,
    unwanted: Vec<PathBuf>,
    kept_bytes: usize,
    /// Bytes that all files together may have.
    usable_bytes: u64,
    claimed_bytes: u64,
    files: u64,
    received_bytes: u64,
    droppable_bytes: u64,
    /// Frames that were dealt with, and how many the sender says there are.
    frames: u64,
    all_frames: Option<u64>,
    swept: bool,
    verified: u64,
    corrupt: bool,
    news: News,
    failure: Option<TransferError>,
}

impl Ledger {
    /// `folds`: see [`Siblings::new`]. `usable_bytes`: what the disk has room for.
    pub(super) fn new(folds: bool, usable_bytes: Option<u64>) -> Self {
        Self {
            entries: 0,
            ended: false,
            siblings: Siblings::new(folds),
            folders: Vec::new(),
            tops: Vec::new(),
            open: HashMap::new(),
            unwanted: Vec::new(),
            kept_bytes: 0,
            usable_bytes: usable_bytes.unwrap_or(UNKNOWN_DISK_BYTES),
            claimed_bytes: 0,
            files: 0,
            received_bytes: 0,
            droppable_bytes: DROPPED_SLACK_BYTES,
            frames: 0,
            all_frames: None,
            swept: false,
            verified: 0,
            corrupt: false,
            news: News::default(),
            failure: None,
        }
    }

    /// Entries so far: the number of the next.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Whether no more entries follow.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Files so far, and their bytes as claimed.
    pub(super) fn claimed(&self) -> (u64, u64) {
        (self.files, self.claimed_bytes)
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    pub(super) fn verified(&self) -> u64 {
        self.verified
    }

    /// Whether some file's content stayed wrong.
    pub(super) fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Notes that a thread cannot go on; the first reason stays.
    pub(super) fn fail(&mut self, error: TransferError) {
        self.failure.get_or_insert(error);
    }

    pub(super) fn take_failure(&mut self) -> Option<TransferError> {
        self.failure.take()
    }

    /// Whether all was announced and all that was announced is settled.
    pub(super) fn is_settled(&self) -> bool {
        self.ended && self.open.is_empty()
    }

    /// The next entries of the manifest.
    pub(super) fn add(&mut self, first: u32, entries: Vec<Entry>) -> Result<(), TransferError> {
        if first != self.entries || self.ended {
            return Err(TransferError::malformed("entries out of order"));
        }
        entries
            .into_iter()
            .try_for_each(|entry| self.add_one(entry))
    }

    fn add_one(&mut self, entry: Entry) -> Result<(), TransferError> {
        if self.entries >= MAX_ENTRIES {
            return Err(TransferError::malformed("too many entries"));
        }
        let number = self.entries;
        self.entries += 1;
        let (path, path_bytes, depth, top) = self.locate(&entry)?;
        let modified = os::from_1970(entry.modified_secs, entry.modified_nanos);
        let top = match top {
            Some(top) => top,
            None => self.add_top(&path, entry.kind)?,
        };
        match entry.kind {
            kind::FILE => self.add_file(number, path, &entry, modified, top),
            kind::FOLDER if depth > MAX_DEPTH => Err(TransferError::malformed("folders too deep")),
            kind::FOLDER => {
                self.keep(&path)?;
                self.news.folders += 1;
                self.folders.push(Folder {
                    number,
                    path,
                    path_bytes,
                    depth,
                    top,
                    modified,
                });
                Ok(())
            }
            kind::SKIPPED => {
                let outcome = FileOutcome::Skipped(printable(&entry.note, 300));
                self.report(&path, 0, None, None, outcome);
                Ok(())
            }
            // A kind of a later version: we cannot take it, and the sender can live with that.
            _ => {
                let outcome = FileOutcome::Skipped("this version cannot receive it".into());
                self.report(&path, 0, None, None, outcome);
                Ok(())
            }
        }
    }

    /// The path of an entry here, the bytes of its path over there, its depth, and the thing of the top
    /// level that it is in, if it is not one itself.
    fn locate(
        &mut self,
        entry: &Entry,
    ) -> Result<(PathBuf, usize, u16, Option<usize>), TransferError> {
        let name = names::local_name(&entry.name, os::WINDOWS)
            .map_err(|error| TransferError::malformed(error.to_string()))?;
        let parent = match entry.parent.checked_sub(1) {
            None => None,
            Some(number) => {
                let at = self
                    .folders
                    .binary_search_by_key(&number, |folder| folder.number);
                Some(at.map_err(|_| {
                    TransferError::malformed("an entry in a folder that there is not")
                })?)
            }
        };
        let name = self.siblings.unique(entry.parent, name);
        let inner = parent.map(|at| &self.folders[at]);
        let path_bytes = inner.map_or(0, |folder| folder.path_bytes) + entry.name.len() + 1;
        if path_bytes > MAX_PATH_BYTES {
            return Err(TransferError::malformed("a path that is too long"));
        }
        Ok(match inner {
            Some(folder) => (
                folder.path.join(name),
                path_bytes,
                folder.depth + 1,
                Some(folder.top),
            ),
            None => (PathBuf::from(name), path_bytes, 1, None),
        })
    }

    fn add_top(&mut self, path: &std::path::Path, entry_kind: u8) -> Result<usize, TransferError> {
        self.keep(path)?;
        let folder = entry_kind == kind::FOLDER;
        let name = path.to_string_lossy().into_owned();
        self.tops.push(Top {
            name,
            folder,
            good: folder,
        });
        Ok(self.tops.len() - 1)
    }

    fn add_file(
        &mut self,
        number: u32,
        path: PathBuf,
        entry: &Entry,
        modified: Option<SystemTime>,
        top: usize,
    ) -> Result<(), TransferError> {
        let claimed = self.claimed_bytes.checked_add(entry.size);
        self.claimed_bytes =
            claimed.ok_or_else(|| TransferError::malformed("sizes beyond measure"))?;
        self.files += 1;
        self.check_room(self.claimed_bytes)?;
        if chunk_count(entry.size).is_none() {
            return Err(TransferError::malformed("a file beyond measure"));
        }
        if self.open.len() >= MAX_UNSETTLED {
            return Err(TransferError::malformed("too many files at once"));
        }
        let (size, executable) = (entry.size, entry.executable);
        let dropped = AtomicBool::new(false);
        let target = Target {
            number,
            path,
            size,
            modified,
            executable,
            again: false,
            dropped,
        };
        let open = Open::new(target, top);
        self.open.insert(number, open);
        Ok(())
    }

    /// Whether the disk has room for so many bytes.
    pub(super) fn check_room(&self, needed: u64) -> Result<(), TransferError> {
        if needed <= self.usable_bytes {
            return Ok(());
        }
        Err(TransferError::DiskFull {
            side: Side::Ours,
            needed_bytes: Some(needed),
            free_bytes: Some(self.usable_bytes),
        })
    }

    /// Accounts for something that is remembered to the end.
    fn keep(&mut self, path: &std::path::Path) -> Result<(), TransferError> {
        self.kept_bytes += path.as_os_str().len() + KEPT_OVERHEAD_BYTES;
        if self.kept_bytes > MAX_KEPT_BYTES {
            return Err(TransferError::malformed("too many folders"));
        }
        Ok(())
    }

    /// That were all entries.
    pub(super) fn end(&mut self, entries: u32) -> Result<(), TransferError> {
        if entries != self.entries || self.ended {
            return Err(TransferError::malformed("a manifest that ends elsewhere"));
        }
        self.ended = true;
        Ok(())
    }

    /// Asks whether a chunk that has arrived whole may be written; from then on it counts as here.
    pub(super) fn claim_chunk(
        &mut self,
        file: u32,
        chunk: u32,
        length: usize,
    ) -> Result<Claim, TransferError> {
        let Some(open) = self.open.get_mut(&file) else {
            return self.drop_bytes(file, length as u64);
        };
        if length == 0 || chunk_len(open.target.size, chunk) != length {
            return Err(TransferError::malformed("a chunk that is not the file's"));
        }
        let first = open.seen.is_empty();
        if !open.mark(chunk) {
            return Err(TransferError::malformed("a chunk that is here already"));
        }
        if first && open.target.size > SMALL_BYTES && !open.target.again {
            self.news
                .started
                .push((shown(&open.target.path), open.target.size));
        }
        open.got_bytes += length as u64;
        self.received_bytes += length as u64;
        Ok(Claim::Write(Arc::clone(&open.target)))
    }

    /// The same for a small file of a pack.
    pub(super) fn claim_small(&mut self, file: u32, size: usize) -> Result<Claim, TransferError> {
        let Some(open) = self.open.get_mut(&file) else {
            return self.drop_bytes(file, size as u64);
        };
        if open.target.size != size as u64 || size as u64 > SMALL_BYTES {
            return Err(TransferError::malformed(
                "a small file that is not as announced",
            ));
        }
        if !open.mark(0) {
            return Err(TransferError::malformed("a file that is here already"));
        }
        open.got_bytes += size as u64;
        self.received_bytes += size as u64;
        Ok(Claim::Write(Arc::clone(&open.target)))
    }

    /// Content of a file that is settled. It may have been under way; but not without end.
    fn drop_bytes(&mut self, file: u32, bytes: u64) -> Result<Claim, TransferError> {
        if file >= self.entries {
            return Err(TransferError::malformed(
                "content of a file that there is not",
            ));
        }
        match self.droppable_bytes.checked_sub(bytes.max(1)) {
            Some(left) => self.droppable_bytes = left,
            None => return Err(TransferError::malformed("more content than was announced")),
        }
        Ok(Claim::Drop)
    }

    /// A frame has been dealt with, whatever became of it.
    pub(super) fn frame_done(&mut self) {
        self.frames += 1;
        self.sweep();
    }

    /// The sender has sent everything, in so many frames.
    pub(super) fn all_sent(&mut self, frames: u64) {
        self.all_frames = Some(frames);
        self.sweep();
    }

    /// Once all is sent and nothing is under way, asks again for what did not arrive whole.
    fn sweep(&mut self) {
        if self.swept || self.all_frames.is_none_or(|all| self.frames < all) {
            return;
        }
        self.swept = true;
        let lacking = |(&file, open): (&u32, &Open)| {
            (open.missing > 0 && open.bad_chunks.is_empty() && !open.target.again).then_some(file)
        };
        let lacking: Vec<u32> = self.open.iter().filter_map(lacking).collect();
        for file in lacking {
            self.ask_again(file);
        }
    }

    /// The bytes of a chunk did not match their BLAKE3. They are not written; the chunk is asked for again,
    /// once.
    pub(super) fn bad_chunk(&mut self, file: u32, chunk: u32) -> Result<(), TransferError> {
        let Some(open) = self.open.get_mut(&file) else {
            return Ok(());
        };
        if chunk_len(open.target.size, chunk) == 0 {
            return Err(TransferError::malformed("a chunk that is not the file's"));
        }
        if open.bad_chunks.contains(&chunk) || open.bad_chunks.len() >= MAX_BAD_CHUNKS {
            self.fail_file(file, outcome::CORRUPT, FileOutcome::Failed(CORRUPT.into()));
            return Ok(());
        }
        open.bad_chunks.push(chunk);
        self.news.repairs.push(Repair {
            file,
            chunk: Some(chunk),
        });
        Ok(())
    }

    /// All of a target has been written and hashed.
    pub(super) fn hashed(&mut self, target: &Target, ours: Md5) {
        if let Some(open) = self.open.get_mut(&target.number)
            && open.target.again == target.again
        {
            open.ours = Some(ours);
            self.compare(target.number);
        }
    }

    /// The sender's digest of a file.
    pub(super) fn digest(&mut self, file: u32, theirs: Md5) {
        if let Some(open) = self.open.get_mut(&file) {
            open.theirs = Some(theirs);
            self.compare(file);
        }
    }

    fn compare(&mut self, file: u32) {
        let Some(open) = self.open.get(&file) else {
            return;
        };
        let (Some(ours), Some(theirs)) = (open.ours, open.theirs) else {
            return;
        };
        if ours != theirs {
            self.ask_again(file);
            return;
        }
        let Some(open) = self.open.remove(&file) else {
            return;
        };
        self.verified += 1;
        if let Some(top) = self.tops.get_mut(open.top)
            && !top.folder
        {
            top.good = true;
        }
        let md5 = Some(ours);
        self.news.results.push(FileResult {
            file,
            outcome: outcome::VERIFIED,
            md5,
            reason: String::new(),
        });
        self.report(
            &open.target.path,
            open.target.size,
            md5,
            Some(theirs),
            FileOutcome::Verified,
        );
    }

    /// Asks for a whole file once more; the second time it has failed.
    fn ask_again(&mut self, file: u32) {
        let Some(old) = self.open.remove(&file) else {
            return;
        };
        if old.target.again {
            self.open.insert(file, old);
            self.fail_file(file, outcome::CORRUPT, FileOutcome::Failed(CORRUPT.into()));
            return;
        }
        old.target.dropped.store(true, Ordering::Relaxed);
        self.received_bytes -= old.got_bytes;
        let target = Target {
            number: file,
            path: old.target.path.clone(),
            size: old.target.size,
            modified: old.target.modified,
            executable: old.target.executable,
            again: true,
            dropped: AtomicBool::new(false),
        };
        self.open.insert(file, Open::new(target, old.top));
        self.news.repairs.push(Repair { file, chunk: None });
    }

    /// The sender gives a file up.
    pub(super) fn unsent(&mut self, file: u32, skipped: bool, reason: &str) {
        let reason = printable(reason, 300);
        let what = if skipped {
            FileOutcome::Skipped(reason)
        } else {
            FileOutcome::Failed(reason)
        };
        self.fail_file(file, u8::MAX, what);
    }

    /// Settles a file that will not be published. `code` is for the sender: [`outcome::CORRUPT`], or
    /// anything else for what it knows itself.
    fn fail_file(&mut self, file: u32, code: u8, what: FileOutcome) {
        let Some(open) = self.open.remove(&file) else {
            return;
        };
        open.target.dropped.store(true, Ordering::Relaxed);
        self.droppable_bytes = self.droppable_bytes.saturating_add(open.target.size);
        if let Err(error) = self.keep(&open.target.path) {
            self.fail(error);
        }
        self.unwanted.push(open.target.path.clone());
        if code == outcome::CORRUPT {
            self.corrupt = true;
            if let Some(top) = self.tops.get_mut(open.top) {
                top.good = false;
            }
            let reason = clip_file_reason(CORRUPT);
            self.news.results.push(FileResult {
                file,
                outcome: code,
                md5: open.ours,
                reason,
            });
        }
        self.report(
            &open.target.path,
            open.target.size,
            open.ours,
            open.theirs,
            what,
        );
    }

    fn report(
        &mut self,
        path: &std::path::Path,
        size: u64,
        md5_local: Option<Md5>,
        md5_remote: Option<Md5>,
        outcome: FileOutcome,
    ) {
        self.news.reports.push(FileReport {
            path: shown(path),
            size,
            md5_local,
            md5_remote,
            outcome,
        });
    }

    /// What is to be published and what not, once all is settled.
    pub(super) fn take_plan(&mut self, overwrite: bool) -> Plan {
        let folders = std::mem::take(&mut self.folders);
        Plan {
            tops: std::mem::take(&mut self.tops),
            folders: folders
                .into_iter()
                .map(|folder| (folder.path, folder.modified))
                .collect(),
            unwanted: std::mem::take(&mut self.unwanted),
            overwrite,
        }
    }
}

/// A path of ours for people: parts divided by `/` on all systems.
fn shown(path: &std::path::Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(kind: u8, parent: u32, name: &str, size: u64) -> Entry {
        Entry {
            kind,
            parent,
            name: name.into(),
            size,
            modified_secs: 0,
            modified_nanos: 0,
            executable: 0,
            note: String::new(),
        }
    }

    fn file(name: &str, size: u64) -> Entry {
        entry(kind::FILE, 0, name, size)
    }

    fn ledger(entries: Vec<Entry>) -> Ledger {
        let mut ledger = Ledger::new(false, Some(1 << 40));
        let count = u32::try_from(entries.len()).expect("few");
        ledger.add(0, entries).expect("added");
        ledger.end(count).expect("ended");
        ledger
    }

    fn md5(byte: u8) -> Md5 {
        Md5::from_bytes([byte; 16])
    }

    fn claim(ledger: &mut Ledger, file: u32, chunk: u32, length: usize) -> Arc<Target> {
        match ledger.claim_chunk(file, chunk, length) {
            Ok(Claim::Write(target)) => target,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_verified_when_both_digests_agree() {
        let mut ledger = ledger(vec![file("a", (1 << 20) + 1)]);
        claim(&mut ledger, 0, 1, 1);
        let target = claim(&mut ledger, 0, 0, 1 << 20);
        assert_eq!(
            ledger.take_news().started,
            [("a".to_owned(), (1 << 20) + 1)]
        );
        ledger.digest(0, md5(1));
        assert!(!ledger.is_settled());
        ledger.hashed(&target, md5(1));
        assert!(ledger.is_settled() && !ledger.is_corrupt());
        let news = ledger.take_news();
        assert_eq!(news.results[0].outcome, outcome::VERIFIED);
        assert_eq!(news.reports[0].outcome, FileOutcome::Verified);
        assert!(ledger.take_plan(false).tops[0].good);
    }

    #[test]
    fn a_digest_of_the_first_try_does_not_count_for_the_second() {
        let mut ledger = ledger(vec![file("a", 10)]);
        let first = claim(&mut ledger, 0, 0, 10);
        ledger.hashed(&first, md5(1));
        ledger.digest(0, md5(2));
        assert_eq!(
            ledger.take_news().repairs,
            [Repair {
                file: 0,
                chunk: None
            }]
        );
        assert!(first.is_dropped());
        assert_eq!(ledger.received_bytes(), 0);
        ledger.digest(0, md5(2));
        ledger.hashed(&first, md5(2));
        assert!(!ledger.is_settled(), "the second try has not come");
        let second = claim(&mut ledger, 0, 0, 10);
        ledger.hashed(&second, md5(3));
        assert!(ledger.is_settled() && ledger.is_corrupt());
        let plan = ledger.take_plan(false);
        assert!(!plan.tops[0].good);
        assert_eq!(plan.unwanted, [PathBuf::from("a")]);
    }

    #[test]
    fn what_the_sender_gives_up_leaves_its_folder_good() {
        let entries = vec![
            entry(kind::FOLDER, 0, "d", 0),
            entry(kind::FILE, 1, "x", 5),
            file("alone", 5),
        ];
        let mut ledger = ledger(entries);
        ledger.unsent(1, true, "gone");
        ledger.unsent(2, false, "changed");
        ledger.unsent(2, false, "changed");
        ledger.unsent(0, false, "no file");
        assert!(ledger.is_settled() && !ledger.is_corrupt());
        let news = ledger.take_news();
        assert!(news.results.is_empty(), "the sender knows");
        assert_eq!(news.reports.len(), 2);
        let plan = ledger.take_plan(false);
        assert_eq!(
            plan.tops.iter().map(|top| top.good).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn the_sweep_asks_only_for_what_is_missing() {
        let mut ledger = ledger(vec![
            file("here", 1),
            file("missing", 1),
            file("damaged", 1),
        ]);
        claim(&mut ledger, 0, 0, 1);
        ledger.bad_chunk(2, 0).expect("its own");
        assert_eq!(
            ledger.take_news().repairs,
            [Repair {
                file: 2,
                chunk: Some(0)
            }]
        );
        ledger.all_sent(2);
        ledger.frame_done();
        assert!(
            ledger.take_news().repairs.is_empty(),
            "one frame is under way"
        );
        ledger.frame_done();
        assert_eq!(
            ledger.take_news().repairs,
            [Repair {
                file: 1,
                chunk: None
            }]
        );
        ledger.frame_done();
        assert!(ledger.take_news().repairs.is_empty(), "once");
    }

    #[test]
    fn later_kinds_of_entries_are_skipped_with_a_word() {
        let mut ledger = ledger(vec![entry(77, 0, "link", 0)]);
        assert!(ledger.is_settled());
        assert!(matches!(
            ledger.take_news().reports[0].outcome,
            FileOutcome::Skipped(_)
        ));
        assert!(!ledger.take_plan(false).tops[0].good);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Chunk(u32, u32, usize),
        Small(u32, usize),
        Bad(u32, u32),
        Hashed(u32, u8),
        Digest(u32, u8),
        Unsent(u32),
        FrameDone,
        AllSent(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let number = || 0u32..5;
        let length = prop_oneof![Just(1usize), Just(10), Just(1 << 20), Just(70_000)];
        prop_oneof![
            (number(), 0u32..3, length.clone()).prop_map(|(f, c, l)| Op::Chunk(f, c, l)),
            (number(), length).prop_map(|(f, l)| Op::Small(f, l)),
            (number(), 0u32..3).prop_map(|(f, c)| Op::Bad(f, c)),
            (number(), 0u8..2).prop_map(|(f, m)| Op::Hashed(f, m)),
            (number(), 0u8..2).prop_map(|(f, m)| Op::Digest(f, m)),
            number().prop_map(Op::Unsent),
            Just(Op::FrameDone),
            (0u64..6).prop_map(Op::AllSent),
        ]
    }

    proptest! {
        /// Whatever a sender does in whatever order: no panic, each file settled at most once, never more
        /// content taken than announced but for one repair, and nothing good that was not verified.
        #[test]
        fn no_order_of_events_breaks_the_book(ops in proptest::collection::vec(op(), 0..80)) {
            let sizes = [10, 1 << 20, (1 << 20) + 70_000, 0];
            let entries = sizes.iter().enumerate().map(|(n, size)| file(&n.to_string(), *size)).collect();
            let mut ledger = ledger(entries);
            let mut targets: HashMap<u32, Arc<Target>> = HashMap::new();
            let mut reports = HashMap::new();
            let mut repairs = 0;
            for op in ops {
                let claimed = match op {
                    Op::Chunk(file, chunk, length) => Some((file, ledger.claim_chunk(file, chunk, length))),
                    Op::Small(file, size) => Some((file, ledger.claim_small(file, size))),
                    Op::Bad(file, chunk) => { let _ = ledger.bad_chunk(file, chunk); None }
                    Op::Hashed(file, byte) => {
                        if let Some(target) = targets.get(&file) {
                            ledger.hashed(target, md5(byte));
                        }
                        None
                    }
                    Op::Digest(file, byte) => { ledger.digest(file, md5(byte)); None }
                    Op::Unsent(file) => { ledger.unsent(file, false, "why"); None }
                    Op::FrameDone => { ledger.frame_done(); None }
                    Op::AllSent(frames) => { ledger.all_sent(frames); None }
                };
                if let Some((file, Ok(Claim::Write(target)))) = claimed {
                    prop_assert!(!target.is_dropped());
                    targets.insert(file, target);
                }
                let news = ledger.take_news();
                repairs += news.repairs.len();
                for report in news.reports {
                    prop_assert!(reports.insert(report.path.clone(), report).is_none(), "settled twice");
                }
                prop_assert!(ledger.received_bytes() <= sizes.iter().sum::<u64>());
            }
            prop_assert!(repairs <= 4 + 4 * MAX_BAD_CHUNKS);
            prop_assert_eq!(ledger.is_settled(), reports.len() == 4);
            for top in ledger.take_plan(false).tops {
                let verified = reports.get(&top.name).is_some_and(|r| r.outcome == FileOutcome::Verified);
                prop_assert_eq!(top.good, verified);
            }
        }
    }
}
