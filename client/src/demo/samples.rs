//! The files that the demo sends, made on the spot, and their digests as the disk has them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use md5::{Digest, Md5};

use crate::Problem;

/// One file: its path, its size in bytes, and whether it is text.
pub(super) struct Sample {
    path: &'static str,
    size: usize,
    text: bool,
}

const fn sample(path: &'static str, size: usize, text: bool) -> Sample {
    Sample { path, size, text }
}

/// What Alice sends.
pub(super) const ALICE: [Sample; 6] = [
    sample("read me.txt", 1_482, true),
    sample("summer/beach.raw", 6_291_456, false),
    sample("summer/mountains.raw", 2_500_001, false),
    sample("Grüße aus Zürich.txt", 311, true),
    sample("empty.txt", 0, true),
    sample("notes/2026/autumn.md", 40_000, true),
];

/// What Bob sends.
pub(super) const BOB: [Sample; 3] = [
    sample("minutes.txt", 9_120, true),
    sample("recording.raw", 8_388_608, false),
    sample("音楽/曲.raw", 65_537, false),
];

/// Makes `samples` in `folder`, with an empty folder among them.
pub(super) fn make(folder: &Path, samples: &[Sample]) -> Result<(), Problem> {
    write_all(folder, samples)
        .map_err(|error| Problem::io(format!("cannot write to {}", folder.display()), &error))
}

fn write_all(folder: &Path, samples: &[Sample]) -> io::Result<()> {
    fs::create_dir_all(folder.join("an empty folder"))?;
    for (at, sample) in samples.iter().enumerate() {
        let path = folder.join(sample.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let bytes = if sample.text {
            text(sample.size)
        } else {
            noise(sample.size, at as u64)
        };
        File::create(path)?.write_all(&bytes)?;
    }
    Ok(())
}

fn text(size: usize) -> Vec<u8> {
    let line = b"A direct line between two people, and nobody else on it.\n";
    line.iter().copied().cycle().take(size).collect()
}

/// Bytes that do not compress: xorshift64 (Marsaglia 2003), so that each run sends the same.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The MD5 of a file on disk, as `md5sum` prints it.
pub(super) fn md5_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Md5::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(HEXLOWER.encode(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_made_and_hashed_as_md5sum_would() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        make(folder.path(), &ALICE).expect("room for samples");
        let empty = md5_of(&folder.path().join("empty.txt")).expect("just made");
        assert_eq!(empty, "d41d8cd98f00b204e9800998ecf8427e");
        for sample in &ALICE {
            let length = fs::metadata(folder.path().join(sample.path))
                .expect("just made")
                .len();
            assert_eq!(length, sample.size as u64, "{}", sample.path);
        }
        assert_ne!(noise(64, 1), noise(64, 2));
    }
}
