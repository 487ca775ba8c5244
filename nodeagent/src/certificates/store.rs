//! Where a certificate and its key are kept: one file, so that both change at once.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Pair;

/// What begins the second part of the file.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// A file that only its owner may read, with a certificate and its key in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store(PathBuf);

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {}", path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Store {
    /// The file of that name in a folder; nothing is touched yet.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self(folder.join(name))
    }

    /// The file at a path; nothing is touched yet.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the file holds; `None` if there is no file.
    ///
    /// # Errors
    /// It cannot be read, or holds no certificate with a key.
    pub fn read(&self) -> Result<Option<Pair>, FileError> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let Some(at) = text.find(KEY) else {
            let why = "it holds no private key; remove it and join again";
            return Err(self.failed("use", io::Error::other(why)));
        };
        let (certificate, key) = text.split_at(at);
        Ok(Some(Pair { certificate: certificate.to_owned(), key: key.to_owned() }))
    }

    /// Puts a pair in place at once, so that a kill at any instant leaves the old one or the new.
    ///
    /// # Errors
    /// The folder or file cannot be written.
    pub fn write(&self, pair: &Pair) -> Result<(), FileError> {
        write_private(&self.0, &[&pair.certificate, &pair.key])
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> FileError {
        FileError { operation, path: self.0.clone(), source }
    }
}

/// Puts a file in place at once that only its owner may read, and the folder if that is missing.
pub(super) fn write_private(path: &Path, texts: &[&str]) -> Result<(), FileError> {
    let draft = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        texts.iter().try_for_each(|text| file.write_all(text.as_bytes()))?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        fs::File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| FileError { operation: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn pair() -> Pair {
        let made = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).unwrap();
        Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    #[test]
    fn what_is_written_is_read_by_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("pki"), "c.pem");
        assert_eq!(store.read().unwrap(), None);
        let (first, second) = (pair(), pair());
        store.write(&first).unwrap();
        store.write(&second).unwrap();
        assert_eq!(store.read().unwrap(), Some(second));
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = fs::read_dir(store.path().parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1);
    }

    #[test]
    fn half_a_pair_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), "c.pem");
        fs::write(store.path(), pair().certificate).unwrap();
        let error = kit::chain(&store.read().unwrap_err());
        assert!(error.contains("c.pem") && error.contains("join again"), "{error}");
    }
}
