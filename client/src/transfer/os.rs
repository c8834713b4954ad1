//! What the systems do differently: opening without surprises, reading and writing at a place, renaming
//! without replacing, free space, and making durable.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_std::fs::Dir;

/// Whether names that only Windows refuses must be changed.
pub(super) const WINDOWS: bool = cfg!(windows);

/// Room that a transfer leaves on the disk: 2 % of it, at most 256 MiB.
const MAX_MARGIN_BYTES: u64 = 256 << 20;

/// Opens a regular file for reading. Neither a link, nor a pipe that somebody put in its place and that
/// would block, nor a device.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    let file = {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        File::from(rustix::fs::open(path, flags, Mode::empty())?)
    };
    #[cfg(not(unix))]
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    Ok(file)
}

/// Tells the system that a file will be read from start to end.
pub(super) fn will_read_in_order(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Reads at a place until the buffer is full or the file ends; returns the bytes read.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        #[cfg(unix)]
        let read =
            std::os::unix::fs::FileExt::read_at(file, &mut buffer[done..], offset + done as u64);
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(
            file,
            &mut buffer[done..],
            offset + done as u64,
        );
        match read {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of it at a place.
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_write(
                file,
                &bytes[done..],
                offset + done as u64,
            )? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => done += written,
            }
        }
        Ok(())
    }
}

/// Whether an error means that the disk, or our share of it, is full.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Bytes that a transfer may use on the disk of `dir`, its margin taken off; `None` if it does not tell.
pub(super) fn usable_bytes(dir: &File) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::fstatvfs(dir).ok()?;
        // Some network file systems tell no size at all.
        if stat.f_blocks == 0 {
            return None;
        }
        let margin = (stat.f_blocks.saturating_mul(stat.f_frsize) / 50).min(MAX_MARGIN_BYTES);
        Some(
            stat.f_bavail
                .saturating_mul(stat.f_frsize)
                .saturating_sub(margin),
        )
    }
    #[cfg(not(unix))]
    {
        let _ = (dir, MAX_MARGIN_BYTES);
        None
    }
}

/// Makes all that was written below `dir` durable: one call a transfer where the system has one.
pub(super) fn sync_tree(dir: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::syncfs(dir)?);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        Ok(())
    }
}

/// Whether [`sync_tree`] does nothing, so that each file must be made durable by itself.
pub(super) const SYNC_EACH_FILE: bool = cfg!(not(target_os = "linux"));

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(dir: &File) -> io::Result<()> {
    #[cfg(unix)]
    return dir.sync_all();
    #[cfg(not(unix))]
    {
        let _ = dir;
        Ok(())
    }
}

/// Opens a folder that may be reached in any way: it is the user's choice.
pub(super) fn open_folder(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
    }
    #[cfg(not(unix))]
    Dir::open_ambient_dir(path, cap_std::ambient_authority()).map(Dir::into_std_file)
}

/// Makes a folder that only its owner may enter; fails if the name is taken.
pub(super) fn create_private_dir(parent: &Dir, name: &str) -> io::Result<()> {
    #[cfg(unix)]
    {
        use cap_std::fs::{DirBuilder, DirBuilderExt};
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        parent.create_dir_with(name, &builder)
    }
    #[cfg(not(unix))]
    parent.create_dir(name)
}

/// Moves a file or folder; fails with `AlreadyExists` rather than replace anything.
pub(super) fn rename_new(from: &Dir, name: &str, to: &Dir, new_name: &str) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::RenameFlags;
        use rustix::io::Errno;
        match rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            // This file system, or this kernel, has no such call.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rename_new_by_steps(from, name, to, new_name)
}

/// The same with older means: a second link for a file, an empty folder to rename over for a folder.
fn rename_new_by_steps(from: &Dir, name: &str, to: &Dir, new_name: &str) -> io::Result<()> {
    if from.symlink_metadata(name)?.is_dir() {
        to.create_dir(new_name)?;
        if cfg!(windows) {
            to.remove_dir(new_name)?;
        }
        return from.rename(name, to, new_name);
    }
    match from.hard_link(name, to, new_name) {
        Ok(()) => from.remove_file(name),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // No links here either (FAT): reserve the name, then rename over our own reservation.
        Err(_) => {
            let mut options = cap_std::fs::OpenOptions::new();
            to.open_with(new_name, options.write(true).create_new(true))?;
            from.rename(name, to, new_name)
        }
    }
}

/// Gives a folder its time; that it cannot have one is no failure.
pub(super) fn set_folder_time(root: &Dir, path: &Path, modified: SystemTime) {
    #[cfg(unix)]
    {
        use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT};
        let (tv_sec, tv_nsec) = since_1970(modified);
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec,
                tv_nsec: tv_nsec.into(),
            },
        };
        let _ = rustix::fs::utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
    #[cfg(not(unix))]
    let _ = (root, path, modified);
}

/// Lets those execute a file who may read it, as far as its source had it; nothing else of a mode is taken.
pub(super) fn make_executable(file: &File, executable: u16) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mut permissions = file.metadata()?.permissions();
        let mode = permissions.mode() & 0o777;
        let readers = (mode & 0o444) >> 2;
        permissions.set_mode(mode | (readers & u32::from(executable) & 0o111));
        file.set_permissions(permissions)
    }
    #[cfg(not(unix))]
    {
        let _ = (file, executable);
        Ok(())
    }
}

/// The execute bits of a file's mode.
pub(super) fn execute_bits(metadata: &std::fs::Metadata) -> u16 {
    #[cfg(unix)]
    {
        let bits = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111;
        u16::try_from(bits).unwrap_or(0)
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        0
    }
}

/// Bytes of a name as the system has it.
pub(super) fn name_bytes(name: &std::ffi::OsStr) -> Vec<u8> {
    #[cfg(unix)]
    return std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec();
    #[cfg(not(unix))]
    return name.to_string_lossy().into_owned().into_bytes();
}

/// A time as the wire has it: seconds since 1970, rounded down, and nanoseconds.
pub(super) fn since_1970(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            after.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (-secs, 0),
                nanos => (-secs - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

/// The reverse of [`since_1970`]; `None` for what no clock shows.
pub(super) fn from_1970(secs: i64, nanos: u32) -> Option<SystemTime> {
    if nanos >= 1_000_000_000 {
        return None;
    }
    let whole = Duration::from_secs(secs.unsigned_abs());
    let time = if secs < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    time?.checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dir(path: &Path) -> Dir {
        Dir::from_std_file(open_folder(path).expect("a folder"))
    }

    type Rename = fn(&Dir, &str, &Dir, &str) -> io::Result<()>;

    #[test]
    fn renaming_never_replaces() {
        for rename in [rename_new as Rename, rename_new_by_steps as Rename] {
            let temp = tempfile::tempdir().expect("a folder");
            let root = dir(temp.path());
            root.write("a", "new").expect("written");
            root.write("taken", "old").expect("written");
            root.create_dir_all("folder/inner").expect("made");
            root.create_dir("empty").expect("made");
            for (from, to) in [
                ("a", "taken"),
                ("a", "empty"),
                ("folder", "taken"),
                ("folder", "empty"),
            ] {
                let error = rename(&root, from, &root, to).expect_err("taken");
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{from} to {to}");
            }
            assert_eq!(root.read_to_string("taken").expect("there"), "old");
            rename(&root, "a", &root, "b").expect("free");
            rename(&root, "folder", &root, "moved").expect("free");
            assert_eq!(root.read_to_string("b").expect("there"), "new");
            assert!(root.is_dir("moved/inner") && !root.exists("a") && !root.exists("folder"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_place_of_a_file_does_not_block() {
        let temp = tempfile::tempdir().expect("a folder");
        let pipe = temp.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("made");
        assert!(open_regular(&pipe).is_err());
        std::os::unix::fs::symlink("/etc/passwd", temp.path().join("link")).expect("made");
        assert!(open_regular(&temp.path().join("link")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_execute_bits_are_taken() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("x");
        let file = File::create(&path).expect("made");
        file.set_permissions(std::fs::Permissions::from_mode(0o640))
            .expect("set");
        make_executable(&file, 0o7777).expect("set");
        assert_eq!(
            file.metadata().expect("there").permissions().mode() & 0o7777,
            0o750
        );
    }

    proptest! {
        #[test]
        fn times_survive(secs in -(1i64 << 40)..1 << 40, nanos in 0u32..1_000_000_000) {
            let time = from_1970(secs, nanos).expect("a time");
            prop_assert_eq!(since_1970(time), (secs, nanos));
        }

        #[test]
        fn no_time_panics(secs: i64, nanos: u32) {
            let _ = from_1970(secs, nanos);
        }
    }
}
