//! The receiver's folder while a transfer runs: `.landline-<16 hex>.part/` in the target folder, which
//! holds whatever is not verified yet, and the step that gives the verified its names. Everything is
//! opened relative to a handle of that folder, so that no name and no link leads out of it. All of it
//! blocks; it runs on the transfer's own threads.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use cap_std::fs::{Dir, OpenOptions};

use super::error::TransferError;
use super::names::{MAX_DEPTH, PART_PREFIX, numbered};
use super::os;
use super::report::TransferId;

/// Large files that are kept open at most; another one that is written to is opened again.
const MAX_OPEN_FILES: usize = 64;
/// Names `x (2)`, `x (3)` … that are tried at most.
const MAX_NUMBER: u64 = 10_000;

/// What the end of a transfer does with what has arrived.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What stands on the top level.
    pub(super) tops: Vec<Top>,
    /// All folders, outer ones first, with their times.
    pub(super) folders: Vec<(PathBuf, Option<SystemTime>)>,
    /// Files that began and must not be published.
    pub(super) unwanted: Vec<PathBuf>,
    /// Whether files are replaced and folders merged.
    pub(super) overwrite: bool,
}

/// One file or folder of the top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) name: String,
    pub(super) folder: bool,
    /// Whether it may have its name.
    pub(super) good: bool,
}

/// A part folder. Dropped, it is removed with all that is in it; if that fails, its name still marks it.
pub(super) struct PartFolder {
    into: PathBuf,
    /// The target folder, as a file for syncing and as the root of names.
    into_file: File,
    into_dir: Dir,
    name: String,
    dir: Dir,
    dir_file: File,
    open: Mutex<HashMap<u32, Arc<File>>>,
}

impl PartFolder {
    /// Makes the part folder, and the target folder if it is missing.
    pub(super) fn create(into: &Path, transfer: TransferId) -> Result<Self, TransferError> {
        let fail = |error| TransferError::io(into, error);
        std::fs::create_dir_all(into).map_err(fail)?;
        let into_file = os::open_folder(into).map_err(fail)?;
        let into_dir = Dir::from_std_file(into_file.try_clone().map_err(fail)?);
        let hex = transfer.to_string();
        let name = format!("{PART_PREFIX}{}.part", &hex[..16]);
        os::create_private_dir(&into_dir, &name)
            .map_err(|error| TransferError::io(into.join(&name), error))?;
        let path = into.join(&name);
        let opened = os::open_folder(&path).and_then(|file| Ok((file.try_clone()?, file)));
        let (dir_file, file) = opened.map_err(|error| TransferError::io(path, error))?;
        let dir = Dir::from_std_file(file);
        let open = Mutex::default();
        Ok(Self {
            into: into.to_owned(),
            into_file,
            into_dir,
            name,
            dir,
            dir_file,
            open,
        })
    }

    /// Bytes that may be used on this disk, if it tells.
    pub(super) fn usable_bytes(&self) -> Option<u64> {
        os::usable_bytes(&self.dir_file)
    }

    /// Whether this disk takes `A` and `a` for the same name.
    pub(super) fn folds_case(&self) -> bool {
        let made = self.dir.write(".Case", "").is_ok();
        let folds = made && self.dir.symlink_metadata(".cASE").is_ok();
        let _ = self.dir.remove_file(".Case");
        folds
    }

    /// The full path of something in the part folder, for messages.
    pub(super) fn full_path(&self, path: &Path) -> PathBuf {
        self.into.join(&self.name).join(path)
    }

    /// Opens or makes a file for writing at any place; its folders are made on the way.
    fn open_file(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        match self.dir.open_with(path, &options) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    self.dir.create_dir_all(parent)?;
                }
                self.dir.open_with(path, &options)
            }
            result => result,
        }
        .map(cap_std::fs::File::into_std)
    }

    /// The handle of a large file, which becomes `size` bytes long without using them yet.
    pub(super) fn large_file(&self, number: u32, path: &Path, size: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.open_files().get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.open_file(path)?);
        file.set_len(size)?;
        let mut open = self.open_files();
        if open.len() >= MAX_OPEN_FILES
            && let Some(&other) = open.keys().next()
        {
            open.remove(&other);
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// Writes a small file as a whole.
    pub(super) fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let file = self.open_file(path)?;
        os::write_all_at(&file, bytes, 0)?;
        // It may have been longer, if it is written for the second time.
        file.set_len(bytes.len() as u64)?;
        Ok(file)
    }

    /// Gives a file that is whole its time and its execute bits, as far as this disk has them.
    pub(super) fn seal(
        &self,
        file: &File,
        number: u32,
        modified: Option<SystemTime>,
        executable: u16,
    ) -> io::Result<()> {
        self.open_files().remove(&number);
        if executable != 0 {
            let _ = os::make_executable(file, executable);
        }
        if let Some(modified) = modified {
            let _ = file.set_modified(modified);
        }
        if os::SYNC_EACH_FILE {
            file.sync_all()
        } else {
            Ok(())
        }
    }

    fn open_files(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all of it durable and gives it its names; returns where it is. The part folder is gone then.
    pub(super) fn publish(self, plan: &Plan) -> Result<Vec<PathBuf>, TransferError> {
        self.open_files().clear();
        self.prepare(plan).map_err(|error| self.failure(error))?;
        let mut published = Vec::new();
        for top in plan.tops.iter().filter(|top| top.good) {
            let name = place(&self.dir, &top.name, &self.into_dir, plan.overwrite, 0)
                .map_err(|error| self.failure(error))?;
            published.push(self.into.join(name));
        }
        os::sync_folder(&self.into_file).map_err(|error| self.failure(error))?;
        Ok(published)
    }

    fn prepare(&self, plan: &Plan) -> io::Result<()> {
        for path in &plan.unwanted {
            match self.dir.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for (path, _) in &plan.folders {
            self.dir.create_dir_all(path)?;
        }
        // Inner folders first: making something in a folder changes its time.
        for (path, modified) in plan.folders.iter().rev() {
            if let Some(modified) = *modified {
                os::set_folder_time(&self.dir, path, modified);
            }
        }
        match plan.tops.as_slice() {
            [
                Top {
                    name,
                    folder: false,
                    good: true,
                },
            ] => self.dir.open(name)?.into_std().sync_all(),
            tops if tops.iter().any(|top| top.good) => os::sync_tree(&self.dir_file),
            _ => Ok(()),
        }
    }

    fn failure(&self, error: io::Error) -> TransferError {
        write_failure(self.into.clone(), error)
    }
}

/// An error of writing, told apart by whether the disk is full.
pub(super) fn write_failure(path: PathBuf, error: io::Error) -> TransferError {
    if os::is_disk_full(&error) {
        let side = super::error::Side::Ours;
        return TransferError::DiskFull {
            side,
            needed_bytes: None,
            free_bytes: None,
        };
    }
    TransferError::io(path, error)
}

impl Drop for PartFolder {
    fn drop(&mut self) {
        self.open_files().clear();
        if let Err(error) = self.into_dir.remove_dir_all(&self.name) {
            tracing::warn!(%error, name = %self.name, "a part folder was left behind");
        }
    }
}

/// Moves something to its final folder and returns the name that it got. Without `overwrite`, or where a
/// file meets a folder, what is there stays and the new one gets a number.
fn place(from: &Dir, name: &str, to: &Dir, overwrite: bool, depth: u16) -> io::Result<String> {
    if overwrite && depth <= MAX_DEPTH {
        let folder = from.symlink_metadata(name)?.is_dir();
        match to.symlink_metadata(name) {
            Ok(there) if there.is_dir() && folder => {
                merge(&from.open_dir(name)?, &to.open_dir(name)?, depth + 1)?;
                return Ok(name.to_owned());
            }
            // Renaming replaces a link itself, never what it points at.
            Ok(there) if !there.is_dir() && !folder => {
                from.rename(name, to, name)?;
                return Ok(name.to_owned());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for number in 1..MAX_NUMBER {
        let candidate = numbered(name, number);
        match os::rename_new(from, name, to, &candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("too many files are called {name}"),
    ))
}

fn merge(from: &Dir, to: &Dir, depth: u16) -> io::Result<()> {
    for entry in from.entries()? {
        let name = entry?.file_name();
        // All names in a part folder are ours, and ours are UTF-8.
        let name = name.to_str().ok_or(io::ErrorKind::InvalidData)?;
        place(from, name, to, true, depth)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(into: &Path) -> PartFolder {
        PartFolder::create(into, TransferId::from_bytes([0xab; 16])).expect("made")
    }

    fn top(name: &str, folder: bool, good: bool) -> Top {
        Top {
            name: name.into(),
            folder,
            good,
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_part_folder_is_exclusive_private_and_goes_away() {
        let temp = tempfile::tempdir().expect("a folder");
        let into = temp.path().join("not/there/yet");
        let folder = part(&into);
        assert_eq!(names(&into), [".landline-abababababababab.part"]);
        assert!(matches!(
            PartFolder::create(&into, TransferId::from_bytes([0xab; 16])),
            Err(TransferError::Io { .. })
        ));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.full_path(Path::new(""))).expect("there");
            assert_eq!(mode.permissions().mode() & 0o777, 0o700);
        }
        folder.write_small(Path::new("a/b"), b"x").expect("written");
        drop(folder);
        assert!(names(&into).is_empty());
    }

    #[test]
    fn only_the_good_is_published_and_clashes_keep_both() {
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::write(temp.path().join("a.txt"), "old").expect("written");
        std::fs::create_dir(temp.path().join("dir")).expect("made");
        let folder = part(temp.path());
        for path in ["a.txt", "bad.txt", "dir/x", "dir/unread", "spoiled/y"] {
            folder
                .write_small(Path::new(path), b"new")
                .expect("written");
        }
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let plan = Plan {
            tops: vec![
                top("a.txt", false, true),
                top("bad.txt", false, false),
                top("dir", true, true),
                top("spoiled", true, false),
            ],
            folders: vec![("dir".into(), Some(time)), ("dir/empty".into(), None)],
            unwanted: vec!["dir/unread".into(), "dir/never-made".into()],
            overwrite: false,
        };
        let published = folder.publish(&plan).expect("published");
        assert_eq!(
            published,
            [temp.path().join("a (2).txt"), temp.path().join("dir (2)")]
        );
        assert_eq!(names(temp.path()), ["a (2).txt", "a.txt", "dir", "dir (2)"]);
        assert_eq!(names(&published[1]), ["empty", "x"]);
        assert_eq!(
            std::fs::read(temp.path().join("a.txt")).expect("there"),
            b"old"
        );
        let modified = std::fs::metadata(&published[1]).and_then(|meta| meta.modified());
        assert_eq!(modified.expect("a time"), time);
    }

    #[cfg(unix)]
    #[test]
    fn overwriting_merges_folders_and_follows_no_link() {
        let temp = tempfile::tempdir().expect("a folder");
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("x"), "outside").expect("written");
        let root = temp.path();
        for (path, content) in [
            ("dir/x", "old"),
            ("dir/keep", "old"),
            ("dir/folder/z", "old"),
        ] {
            std::fs::create_dir_all(root.join(path).parent().expect("a parent")).expect("made");
            std::fs::write(root.join(path), content).expect("written");
        }
        std::os::unix::fs::symlink(outside.path(), root.join("linked")).expect("made");
        std::os::unix::fs::symlink(outside.path().join("x"), root.join("file")).expect("made");
        let folder = part(root);
        for path in ["dir/x", "dir/folder", "dir/new/y", "linked/x", "file"] {
            folder
                .write_small(Path::new(path), b"new")
                .expect("written");
        }
        let tops = vec![
            top("dir", true, true),
            top("linked", true, true),
            top("file", false, true),
        ];
        let plan = Plan {
            tops,
            overwrite: true,
            ..Plan::default()
        };
        let published = folder.publish(&plan).expect("published");
        assert_eq!(
            published,
            ["dir", "linked (2)", "file"].map(|name| root.join(name))
        );
        assert_eq!(
            std::fs::read(outside.path().join("x")).expect("there"),
            b"outside"
        );
        assert_eq!(
            names(&root.join("dir")),
            ["folder", "folder (2)", "keep", "new", "x"]
        );
        for (path, content) in [
            ("dir/x", "new"),
            ("dir/keep", "old"),
            ("file", "new"),
            ("linked (2)/x", "new"),
        ] {
            assert_eq!(
                std::fs::read_to_string(root.join(path)).expect("there"),
                content,
                "{path}"
            );
        }
        assert!(!root.join("file").is_symlink() && root.join("linked").is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_inside_the_part_folder_leads_nowhere() {
        let temp = tempfile::tempdir().expect("a folder");
        let outside = tempfile::tempdir().expect("a folder");
        let folder = part(temp.path());
        let link = folder.full_path(Path::new("way"));
        std::os::unix::fs::symlink(outside.path(), link).expect("made");
        assert!(folder.write_small(Path::new("way/x"), b"x").is_err());
        assert!(folder.large_file(1, Path::new("way/x"), 1 << 20).is_err());
        assert!(names(outside.path()).is_empty());
    }

    #[test]
    fn many_open_files_stay_bounded_and_usable() {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = part(temp.path());
        for round in 0..2u64 {
            for number in 0..200u32 {
                let path = format!("f{number}");
                let file = folder
                    .large_file(number, Path::new(&path), 16)
                    .expect("open");
                os::write_all_at(&file, &[7; 8], round * 8).expect("written");
            }
        }
        assert!(folder.open_files().len() <= MAX_OPEN_FILES);
        assert_eq!(folder.dir.read("f0").expect("there"), [7; 16]);
    }
}
