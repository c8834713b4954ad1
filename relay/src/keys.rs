//! The data folder (0700, files 0600): the relay's key and certificate, its admission token, the
//! key of its stateless resets, and the address to paste. What is missing is made.

use std::io;
use std::path::{Path, PathBuf};

use p2p_net_proto::{Fingerprint, Token, tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::StartError;

const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "certificate.pem";
const TOKEN_FILE: &str = "token";
const RESET_FILE: &str = "reset-key";
const ADDRESS_FILE: &str = "address";

/// What the relay keeps between its runs.
pub(crate) struct Keys {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) token: Token,
    /// Makes the tokens of stateless resets (RFC 9000 §10.3), so that after a restart old
    /// connections learn at once that they are dead.
    pub(crate) reset: [u8; 32],
}

impl Keys {
    /// Reads the folder, and makes it and what is missing in it.
    pub(crate) fn load(folder: &Path) -> Result<Self, StartError> {
        make_folder(folder)?;
        let key_pem = read_or_make(&folder.join(KEY_FILE), || {
            Ok(rcgen::KeyPair::generate()
                .map_err(io::Error::other)?
                .serialize_pem())
        })?;
        let certificate_path = folder.join(CERTIFICATE_FILE);
        let certificate_pem = read_or_make(&certificate_path, || {
            self_signed(&key_pem).map_err(io::Error::other)
        })?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| damaged(&folder.join(KEY_FILE), "not a private key in PEM"))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| damaged(&certificate_path, "not a certificate in PEM"))?;
        let fingerprint = tls::fingerprint_of_certificate(&certificate)
            .ok_or_else(|| damaged(&certificate_path, "not a usable certificate"))?;
        let token_path = folder.join(TOKEN_FILE);
        let token_text = read_or_make(&token_path, || {
            Ok(Token::from_random(random()?).reveal().to_owned() + "\n")
        })?;
        let token = token_text.trim().parse().map_err(|_| {
            damaged(
                &token_path,
                "not a token of 16 to 64 characters of a-z and 2-7",
            )
        })?;
        let reset_path = folder.join(RESET_FILE);
        let reset_text = read_or_make(&reset_path, || Ok(base32(&random::<32>()?) + "\n"))?;
        let reset = data_encoding::BASE32_NOPAD
            .decode(reset_text.trim().to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| damaged(&reset_path, "not 32 bytes in base32"))?;
        Ok(Self {
            certificate,
            key,
            fingerprint,
            token,
            reset,
        })
    }
}

/// Writes the address to paste into the folder.
pub(crate) fn write_address(folder: &Path, address: &str) -> Result<(), StartError> {
    let path = folder.join(ADDRESS_FILE);
    let fresh = folder.join(format!("{ADDRESS_FILE}.new"));
    let result = remove_if_there(&fresh)
        .and_then(|()| create_private(&fresh, &format!("{address}\n")))
        .and_then(|()| std::fs::rename(&fresh, &path));
    result.map_err(|source| StartError::DataDir { path, source })
}

/// The address to paste, token included, that the relay of this data folder printed last.
///
/// # Errors
/// [`StartError::DataDir`] where no relay has run with this folder, or it cannot be read.
pub fn stored_address(folder: &Path) -> Result<String, StartError> {
    let path = folder.join(ADDRESS_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(StartError::DataDir { path, source }),
    }
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn base32(bytes: &[u8]) -> String {
    data_encoding::BASE32_NOPAD
        .encode(bytes)
        .to_ascii_lowercase()
}

fn self_signed(key_pem: &str) -> Result<String, rcgen::Error> {
    let key = rcgen::KeyPair::from_pem(key_pem)?;
    let mut params = rcgen::CertificateParams::new(vec!["landline-relay".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "landline-relay");
    Ok(params.self_signed(&key)?.pem())
}

fn damaged(path: &Path, what: &'static str) -> StartError {
    let source = io::Error::new(io::ErrorKind::InvalidData, what);
    StartError::DataDir {
        path: path.to_owned(),
        source,
    }
}

fn make_folder(folder: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|source| StartError::DataDir {
            path: folder.to_owned(),
            source,
        })
}

fn read_or_make(
    path: &PathBuf,
    make: impl FnOnce() -> io::Result<String>,
) -> Result<String, StartError> {
    let made = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make().and_then(|text| create_private(path, &text).map(|()| text))
        }
        read => read,
    };
    made.map_err(|source| StartError::DataDir {
        path: path.clone(),
        source,
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Creates a file that only its owner can read; it must not be there yet.
fn create_private(path: &Path, text: &str) -> io::Result<()> {
    use io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_finds_what_the_first_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep").join("er");
        let first = Keys::load(&path).expect("made");
        let second = Keys::load(&path).expect("read");
        assert_eq!(first.fingerprint, second.fingerprint);
        assert_eq!(first.token, second.token);
        assert_eq!(first.reset, second.reset);
        assert_eq!(first.certificate, second.certificate);
        // A lost certificate is made again; the fingerprint is that of the key.
        std::fs::remove_file(path.join(CERTIFICATE_FILE)).expect("there");
        assert_eq!(
            Keys::load(&path).expect("made again").fingerprint,
            first.fingerprint
        );
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("relay");
        Keys::load(&path).expect("made");
        write_address(&path, "one").expect("written");
        write_address(&path, "two").expect("written again");
        assert_eq!(stored_address(&path).expect("there"), "two");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for entry in std::fs::read_dir(&path).expect("a folder") {
            assert_eq!(mode(&entry.expect("an entry").path()), 0o600);
        }
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        Keys::load(folder.path()).expect("made");
        for file in [KEY_FILE, CERTIFICATE_FILE, TOKEN_FILE, RESET_FILE] {
            let path = folder.path().join(file);
            let good = std::fs::read_to_string(&path).expect("there");
            std::fs::write(&path, "nonsense!").expect("writable");
            match Keys::load(folder.path()) {
                Err(StartError::DataDir { path: named, .. }) => assert_eq!(named, path),
                other => panic!("{file} was accepted: {:?}", other.err()),
            }
            std::fs::write(&path, good).expect("writable");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().join("folder");
        assert!(matches!(Keys::load(&path), Err(StartError::DataDir { .. })));
        assert!(matches!(
            stored_address(&path),
            Err(StartError::DataDir { .. })
        ));
    }
}
