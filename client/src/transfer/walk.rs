//! What there is to send: walks the given files and folders in order, a folder at a time, and yields each
//! thing once, folders before what is in them. Follows no links but those that were named by the user.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::chunk::chunk_count;
use super::error::TransferError;
use super::names::{self, MAX_DEPTH, MAX_PATH_BYTES, PART_PREFIX};
use super::os;
use super::wire::{Entry, clip_file_reason, kind};

/// One of the paths that are sent, and the name that it gets over there.
#[derive(Debug, Clone)]
pub(super) struct Root {
    path: PathBuf,
    pub(super) name: OsString,
    pub(super) folder: bool,
    pub(super) size: u64,
}

/// Looks at the paths that the user gave. Equal names get numbers: `name (2).ext`.
///
/// # Errors
/// [`TransferError::NothingToSend`] for no path, [`TransferError::Io`] for one that is not there or is
/// neither file nor folder.
pub(super) fn roots(paths: &[PathBuf]) -> Result<Vec<Root>, TransferError> {
    let mut siblings = names::Siblings::new(false);
    let mut roots = Vec::with_capacity(paths.len());
    for given in paths {
        let fail = |error| TransferError::io(given, error);
        // A link that the user names is meant; and `.` has a name only as a whole path.
        let path = fs::canonicalize(given).map_err(fail)?;
        let metadata = fs::metadata(&path).map_err(fail)?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(fail(io::Error::other("it is neither a file nor a folder")));
        }
        let named = given.file_name().or_else(|| path.file_name());
        let name = named.map_or_else(|| OsString::from("root"), ToOwned::to_owned);
        let unique = match name.to_str() {
            Some(text) => siblings.unique(0, text.to_owned()).into(),
            None => name,
        };
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        roots.push(Root {
            path,
            name: unique,
            folder: metadata.is_dir(),
            size,
        });
    }
    if roots.is_empty() {
        return Err(TransferError::NothingToSend);
    }
    Ok(roots)
}

/// A thing that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Its number in the manifest.
    pub(super) number: u32,
    /// As it is announced.
    pub(super) entry: Entry,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path within the transfer, for people.
    pub(super) shown: String,
}

/// The walk, an iterator of [`Found`].
pub(super) struct Walk {
    levels: Vec<Level>,
    next_number: u32,
}

/// A folder that is being walked.
struct Level {
    path: PathBuf,
    shown: String,
    /// Its number plus one; 0 for the top level.
    parent: u32,
    /// Bytes of its path as it is sent.
    path_bytes: usize,
    names: std::vec::IntoIter<Named>,
}

/// The name over there, and where the thing is if not under that name.
struct Named {
    name: OsString,
    root: Option<PathBuf>,
}

impl Walk {
    pub(super) fn new(roots: &[Root]) -> Self {
        let names: Vec<Named> = roots
            .iter()
            .map(|root| Named {
                name: root.name.clone(),
                root: Some(root.path.clone()),
            })
            .collect();
        let top = Level {
            path: PathBuf::new(),
            shown: String::new(),
            parent: 0,
            path_bytes: 0,
            names: names.into_iter(),
        };
        Self {
            levels: vec![top],
            next_number: 0,
        }
    }

    /// Describes one thing, and goes into it if it is a folder.
    fn visit(
        &mut self,
        parent: u32,
        path_bytes: usize,
        shown: String,
        path: PathBuf,
        name: &OsString,
    ) -> Found {
        let number = self.next_number;
        self.next_number += 1;
        let raw = os::name_bytes(name);
        let path_bytes = path_bytes + raw.len() + 1;
        let mut entry = Entry {
            kind: kind::SKIPPED,
            parent,
            name: raw,
            size: 0,
            modified_secs: 0,
            modified_nanos: 0,
            executable: 0,
            note: String::new(),
        };
        match look(&path, &entry.name, self.levels.len(), path_bytes) {
            Ok(Thing::File(metadata)) => {
                entry.kind = kind::FILE;
                entry.size = metadata.len();
                entry.executable = os::execute_bits(&metadata);
                set_time(&mut entry, &metadata);
            }
            Ok(Thing::Folder(metadata, names)) => {
                entry.kind = kind::FOLDER;
                set_time(&mut entry, &metadata);
                self.levels.push(Level {
                    path: path.clone(),
                    shown: shown.clone(),
                    parent: number + 1,
                    path_bytes,
                    names: names.into_iter(),
                });
            }
            Err(why) => entry.note = clip_file_reason(&why),
        }
        Found {
            number,
            entry,
            path,
            shown,
        }
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let level = self.levels.last_mut()?;
            let Some(named) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let path = named.root.unwrap_or_else(|| level.path.join(&named.name));
            let slash = if level.shown.is_empty() { "" } else { "/" };
            let shown = format!("{}{slash}{}", level.shown, named.name.to_string_lossy());
            let (parent, path_bytes) = (level.parent, level.path_bytes);
            return Some(self.visit(parent, path_bytes, shown, path, &named.name));
        }
    }
}

enum Thing {
    File(Metadata),
    Folder(Metadata, Vec<Named>),
}

/// What is at a path, or why it is not sent.
fn look(path: &Path, name: &[u8], depth: usize, path_bytes: usize) -> Result<Thing, String> {
    let starts_reserved = name
        .get(..PART_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PART_PREFIX.as_bytes()));
    if starts_reserved {
        return Err("it belongs to an unfinished transfer".into());
    }
    if path_bytes > MAX_PATH_BYTES {
        return Err("its path is too long".into());
    }
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let file_type = metadata.file_type();
    if file_type.is_symlink() {
        return Err("it is a symbolic link".into());
    }
    if file_type.is_file() {
        if chunk_count(metadata.len()).is_none() {
            return Err("it is too large".into());
        }
        return Ok(Thing::File(metadata));
    }
    if !file_type.is_dir() {
        return Err("it is neither a file nor a folder".into());
    }
    if depth > usize::from(MAX_DEPTH) {
        return Err("it lies too deep".into());
    }
    let names = sorted_names(path).map_err(|error| error.to_string())?;
    Ok(Thing::Folder(metadata, names))
}

fn sorted_names(path: &Path) -> io::Result<Vec<Named>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(Named {
            name: entry?.file_name(),
            root: None,
        });
    }
    names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(names)
}

fn set_time(entry: &mut Entry, metadata: &Metadata) {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    (entry.modified_secs, entry.modified_nanos) = os::since_1970(modified);
}

/// Files and their bytes, if they can be counted before `deadline`.
pub(super) fn count(roots: &[Root], deadline: Instant) -> Option<(u64, u64)> {
    let (mut files, mut bytes) = (0u64, 0u64);
    for (seen, found) in Walk::new(roots).enumerate() {
        if seen % 64 == 63 && Instant::now() >= deadline {
            return None;
        }
        if found.entry.kind == kind::FILE {
            files += 1;
            bytes = bytes.saturating_add(found.entry.size);
        }
    }
    Some((files, bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(root: &Path, path: &str, size: usize) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, vec![b'x'; size]).expect("written");
    }

    fn walk(paths: &[PathBuf]) -> Vec<(String, u8, u32)> {
        let roots = roots(paths).expect("something to send");
        Walk::new(&roots)
            .map(|found| (found.shown, found.entry.kind, found.entry.parent))
            .collect()
    }

    #[test]
    fn folders_come_before_their_content_in_order() {
        let temp = tempfile::tempdir().expect("a folder");
        write(temp.path(), "t/b/2", 1);
        write(temp.path(), "t/b/1", 1);
        write(temp.path(), "t/a", 1);
        fs::create_dir(temp.path().join("t/empty")).expect("made");
        let found = walk(&[temp.path().join("t")]);
        let expected = [
            ("t", kind::FOLDER, 0),
            ("t/a", kind::FILE, 1),
            ("t/b", kind::FOLDER, 1),
            ("t/b/1", kind::FILE, 3),
            ("t/b/2", kind::FILE, 3),
            ("t/empty", kind::FOLDER, 1),
        ];
        assert_eq!(
            found,
            expected.map(|(path, kind, parent)| (path.to_owned(), kind, parent))
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_and_special_files_are_skipped_with_a_reason() {
        let temp = tempfile::tempdir().expect("a folder");
        write(temp.path(), "t/file", 5);
        write(temp.path(), "t/.landline-00.part/x", 5);
        std::os::unix::fs::symlink("file", temp.path().join("t/link")).expect("made");
        std::os::unix::fs::symlink("/", temp.path().join("t/root")).expect("made");
        let _socket =
            std::os::unix::net::UnixListener::bind(temp.path().join("t/socket")).expect("made");
        let roots = roots(&[temp.path().join("t")]).expect("something to send");
        let skipped: Vec<(String, String)> = Walk::new(&roots)
            .filter(|found| found.entry.kind == kind::SKIPPED)
            .map(|found| (found.shown, found.entry.note))
            .collect();
        let names: Vec<&str> = skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["t/.landline-00.part", "t/link", "t/root", "t/socket"]
        );
        assert!(skipped.iter().all(|(_, why)| !why.is_empty()));
        assert_eq!(
            count(&roots, Instant::now() + Duration::from_secs(60)),
            Some((1, 5))
        );
    }

    #[test]
    fn equal_names_get_numbers() {
        let temp = tempfile::tempdir().expect("a folder");
        write(temp.path(), "one/a.txt", 1);
        write(temp.path(), "two/a.txt", 2);
        let paths = [
            temp.path().join("one/a.txt"),
            temp.path().join("two/a.txt"),
            temp.path().join("two/."),
        ];
        let names: Vec<String> = walk(&paths)
            .into_iter()
            .map(|(shown, _, _)| shown)
            .collect();
        assert_eq!(names, ["a.txt", "a (2).txt", "two", "two/a.txt"]);
    }

    #[test]
    fn what_is_not_there_is_said_before_anything_is_sent() {
        assert!(matches!(roots(&[]), Err(TransferError::NothingToSend)));
        let missing = tempfile::tempdir()
            .expect("a folder")
            .path()
            .join("missing");
        match roots(std::slice::from_ref(&missing)) {
            Err(TransferError::Io { path, .. }) => assert_eq!(path, missing),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn counting_gives_up_in_time() {
        let temp = tempfile::tempdir().expect("a folder");
        for number in 0..100 {
            write(temp.path(), &format!("t/{number}"), 1);
        }
        let roots = roots(&[temp.path().join("t")]).expect("something to send");
        assert_eq!(count(&roots, Instant::now()), None);
    }
}
