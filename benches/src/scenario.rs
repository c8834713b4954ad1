//! What is measured, at which size, and the files it is measured with.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// The smoke run of CI: small files, one pair, few seeds. It shows that the measurement works.
    Quick,
    /// The figures that count.
    Full,
}

impl Effort {
    /// Of a `--quick` flag.
    pub const fn of(quick: bool) -> Self {
        if quick { Self::Quick } else { Self::Full }
    }

    /// One of two figures.
    pub const fn pick<T: Copy>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// A folder that goes when this is dropped: in memory where there is room for `bytes`, so that the disk is
/// out of the picture, else where temporary files go.
///
/// # Errors
/// Where it cannot be made.
pub fn scratch(bytes: u64) -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map(|stat| stat.f_bavail * stat.f_frsize);
    let builder = {
        let mut builder = tempfile::Builder::new();
        builder.prefix("landline-bench-");
        builder
    };
    // Twice what is needed, and half of the machine's free memory stays free.
    let fits = room.is_ok_and(|room| room / 2 >= bytes)
        && free_memory_bytes().is_some_and(|free| free / 2 >= bytes);
    if fits {
        builder.tempdir_in(memory)
    } else {
        builder.tempdir()
    }
    .context("making a folder for the files to send")
}

fn free_memory_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// Writes a file of pseudo-random bytes, the same for the same `seed`; nothing can compress it.
///
/// # Errors
/// What the disk says.
pub fn write_noise(path: &Path, length: u64, seed: u64) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = seed | 1;
    let mut left = length;
    while left > 0 {
        // xorshift64*: quick, and random enough for content.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bytes = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        let some = usize::try_from(left).unwrap_or(8).min(8);
        out.write_all(&bytes[..some])?;
        left -= some as u64;
    }
    Ok(out.flush()?)
}

/// Makes a folder of `count` small files in sub-folders of 100, sizes from 0 to 8 KiB.
///
/// # Errors
/// What the disk says.
pub fn write_folder(path: &Path, count: u32) -> Result<()> {
    for index in 0..count {
        let folder = path.join(format!("part {:02}", index / 100));
        fs::create_dir_all(&folder)?;
        let length = u64::from(index) * 7_919 % 8_193;
        let file = folder.join(format!("file {index:04} ü.bin"));
        write_noise(&file, length, u64::from(index) + 1)?;
    }
    Ok(())
}

/// The digest of a file by the system's own `md5sum`, which shares no code with what is measured.
///
/// # Errors
/// Where it cannot be run or does not understand.
pub fn md5sum(path: &Path) -> Result<String> {
    let output = Command::new("md5sum")
        .arg("-b")
        .arg(path)
        .output()
        .context("starting md5sum")?;
    ensure!(
        output.status.success(),
        "md5sum fails for {}",
        path.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    // A backslash in front tells that the name is quoted.
    let digest = text
        .trim_start_matches('\\')
        .get(..32)
        .context("md5sum printed no digest")?;
    Ok(digest.to_owned())
}

/// Name below `root` and digest of every file, in order of name.
///
/// # Errors
/// As [`md5sum`], and what walking gives.
pub fn md5sums(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    // One process for all of them: a process each would take seconds.
    let script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r md5sum -b";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(root)
        .output()?;
    ensure!(
        output.status.success(),
        "md5sum fails in {}",
        root.display()
    );
    let text = String::from_utf8(output.stdout).context("names that are not UTF-8")?;
    text.lines()
        .map(|line| {
            let (digest, name) = line.split_once(" *").context("md5sum's output")?;
            Ok((PathBuf::from(name), digest.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_for_the_same_seed_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for (name, seed) in [("a", 1), ("b", 1), ("c", 3)] {
            write_noise(&path(name), 100_001, seed).expect("written");
        }
        assert_eq!(fs::metadata(path("a")).expect("there").len(), 100_001);
        let sum = |name: &str| md5sum(&path(name)).expect("hashed");
        assert_eq!(sum("a"), sum("b"));
        assert_ne!(sum("a"), sum("c"));
    }

    #[test]
    fn a_folder_has_its_files_and_digests() {
        let folder = tempfile::tempdir().expect("a folder");
        write_folder(folder.path(), 150).expect("written");
        let sums = md5sums(folder.path()).expect("hashed");
        assert_eq!(sums.len(), 150);
        // The first is empty, and everybody knows that digest.
        assert_eq!(sums[0].0, Path::new("./part 00/file 0000 ü.bin"));
        assert_eq!(sums[0].1, "d41d8cd98f00b204e9800998ecf8427e");
    }
}
