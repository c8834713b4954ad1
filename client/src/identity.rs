//! Our key pair on disk: one line of base32 in a file that only its owner can read, made at first run.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

use p2p_net::Identity;
use zeroize::Zeroizing;

use crate::Problem;

/// The file in the data folder.
pub const FILE_NAME: &str = "identity";
/// The most that is read of it, bytes: a key is 52 characters and a line feed.
const MAX_FILE_LEN: u64 = 256;

/// The identity kept in `data_dir`, made if there is none yet.
///
/// # Errors
/// The file cannot be read or written, is damaged, or others may read it.
pub fn load_or_create(data_dir: &Path) -> Result<Identity, Problem> {
    let path = data_dir.join(FILE_NAME);
    match load(&path) {
        Ok(identity) => return Ok(identity),
        Err(LoadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(explain(&path, &error)),
    }
    let mut secret = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *secret)
        .map_err(|error| Problem::failure(format!("the system gives no random bytes: {error}")))?;
    match create(data_dir, &path, &secret) {
        Ok(()) => Ok(Identity::from_secret(*secret)),
        // Another command made it at the same moment: theirs counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            load(&path).map_err(|error| explain(&path, &error))
        }
        Err(error) => Err(Problem::io(
            format!("cannot write {}", path.display()),
            &error,
        )),
    }
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("others on this machine may read it")]
    Readable,
}

fn explain(path: &Path, error: &LoadError) -> Problem {
    let problem = Problem::failure(format!(
        "cannot use the identity in {}: {error}",
        path.display()
    ));
    match error {
        LoadError::Readable => problem.with_next(format!("chmod 600 {}", path.display())),
        LoadError::Damaged => problem.with_next(
            "restore it from a backup; moving it away makes a new identity, which contacts must add anew",
        ),
        LoadError::Io(_) => problem,
    }
}

fn load(path: &Path) -> Result<Identity, LoadError> {
    let file = std::fs::File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if file.metadata()?.mode() & 0o077 != 0 {
            return Err(LoadError::Readable);
        }
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_LEN as usize));
    match file.take(MAX_FILE_LEN).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(LoadError::Damaged),
        Err(error) => return Err(error.into()),
    }
    let upper = Zeroizing::new(text.trim().to_ascii_uppercase());
    let bytes = data_encoding::BASE32_NOPAD
        .decode(upper.as_bytes())
        .map_err(|_| LoadError::Damaged)?;
    let bytes = Zeroizing::new(bytes);
    let mut secret = Zeroizing::new([0u8; 32]);
    if bytes.len() != secret.len() {
        return Err(LoadError::Damaged);
    }
    secret.copy_from_slice(&bytes);
    Ok(Identity::from_secret(*secret))
}

/// Writes beside the final name and links it there, so that no half key is ever seen.
fn create(data_dir: &Path, path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let mut name = [0u8; 8];
    getrandom::fill(&mut name).map_err(io::Error::other)?;
    let part = data_dir.join(format!(
        ".{FILE_NAME}-{}",
        data_encoding::HEXLOWER.encode(&name)
    ));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&part)?;
    let mut line = Zeroizing::new(
        data_encoding::BASE32_NOPAD
            .encode(secret)
            .to_ascii_lowercase(),
    );
    line.push('\n');
    let written = file
        .write_all(line.as_bytes())
        .and_then(|()| file.sync_all());
    // A hard link, unlike a rename, never replaces a key that is there.
    let published = written.and_then(|()| std::fs::hard_link(&part, path));
    std::fs::remove_file(&part)?;
    published
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = load_or_create(dir.path()).expect("made");
        let second = load_or_create(dir.path()).expect("read");
        assert_eq!(first.id(), second.id());
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("readable").count(),
            1,
            "no part is left"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.path().join(FILE_NAME);
            let mode = std::fs::metadata(&path)
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
            let Err(problem) = load_or_create(dir.path()) else {
                panic!("must be refused")
            };
            assert!(problem.to_string().contains("chmod 600"), "{problem}");
        }
    }

    #[test]
    fn a_damaged_identity_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        load_or_create(dir.path()).expect("made");
        let path = dir.path().join(FILE_NAME);
        for damaged in [
            "",
            "short\n",
            "!".repeat(52).as_str(),
            "a".repeat(500).as_str(),
        ] {
            std::fs::write(&path, damaged).expect("ours");
            let Err(problem) = load_or_create(dir.path()) else {
                panic!("must be refused")
            };
            assert!(problem.to_string().contains("damaged"), "{problem}");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), damaged);
        }
    }
}
