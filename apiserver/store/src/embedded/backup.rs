//! Backups: the whole state of one moment, in one file.
//!
//! A backup is read from the data file, not asked of the process that writes it: frames are only ever appended, and a
//! checkpoint replaces the file by a new one, so that whoever has opened the file reads a prefix of the history. What
//! is cut short at its end was not answered yet.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    checkpoint,
    files::{self, Paths, io_error},
    format,
};
use crate::{Error, Result, Revision};

/// How far the revision jumps at a restore: more than anybody can have seen since the backup was taken, so that all
/// watches from before are told to list again (410).
///
/// Source: etcd's advice for `--bump-revision`.
const BUMP: Revision = 1_000_000_000;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Its objects.
    pub entries: usize,
    /// The newest revision in it.
    pub revision: Revision,
    /// Length of the file that was written.
    pub bytes: u64,
}

/// Writes what the store in `dir` holds now to `file`, whether a process has it open or not.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged, [`Error::Io`]; `file` is left as it was then.
pub fn backup(dir: &Path, file: &Path) -> Result<Summary> {
    let paths = Paths::new(dir);
    let contents = read(&paths.data)?;
    let new = part_of(file);
    let salt = rand::random();
    let written = files::create(&new, salt)?;
    let write = || -> io::Result<u64> {
        let (values, revision) = (&contents.values, contents.revision);
        let bytes = checkpoint::write_all(&written, salt, values, revision, true)?;
        written.sync_all()?;
        Ok(bytes)
    };
    let result = write().map_err(io_error("write", &new)).and_then(|bytes| {
        fs::rename(&new, file).map_err(io_error("rename", &new))?;
        sync_parent(file)?;
        Ok(bytes)
    });
    match result {
        Ok(bytes) => {
            Ok(Summary { entries: contents.values.len(), revision: contents.revision, bytes })
        }
        Err(error) => {
            let _ = fs::remove_file(&new); // What failed is told.
            Err(error)
        }
    }
}

/// Makes a store in `dir` from a backup.
///
/// # Errors
/// [`Error::Corrupt`] if the backup is not whole, [`Error::NotEmpty`] if there is a store, [`Error::Locked`] if a
/// process has it open, [`Error::Io`]. Nothing is changed then.
pub fn restore(file: &Path, dir: &Path) -> Result<Summary> {
    let contents = read(file)?;
    if !contents.finished {
        let what = "the backup is cut short";
        return Err(damaged(file, format::Damage { offset: contents.end, what }));
    }
    fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    let paths = Paths::new(dir);
    let _lock = files::lock(&paths)?;
    if paths.data.try_exists().map_err(io_error("look for", &paths.data))? {
        return Err(Error::NotEmpty { path: paths.data });
    }
    let revision = contents.revision + BUMP;
    let salt = rand::random();
    let written = files::create(&paths.next, salt)?;
    let bytes = checkpoint::write_all(&written, salt, &contents.values, revision, false)
        .map_err(io_error("write", &paths.next))?;
    files::rename(&paths, &written)?;
    files::sync_dir(&paths).map_err(io_error("sync", &paths.dir))?;
    Ok(Summary { entries: contents.values.len(), revision, bytes })
}

fn read(path: &Path) -> Result<format::Contents> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    format::read(&bytes).map_err(|damage| damaged(path, damage))
}

fn damaged(path: &Path, format::Damage { offset, what }: format::Damage) -> Error {
    let remedy = "nothing was changed. Use another backup".to_owned();
    Error::Corrupt { path: path.into(), offset, what, remedy }
}

/// Where a file is written before it gets its name.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

fn sync_parent(file: &Path) -> Result<()> {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(io_error("sync", parent))
}
