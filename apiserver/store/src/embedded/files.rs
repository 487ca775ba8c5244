//! The files of a data directory: lock, creation, replacement.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::format;
use crate::{Error, Result};

/// The names in a data directory.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) dir: PathBuf,
    pub(super) data: PathBuf,
    /// A checkpoint that is not finished.
    pub(super) next: PathBuf,
    pub(super) lock: PathBuf,
}

impl Paths {
    pub(super) fn new(dir: &Path) -> Self {
        Paths {
            dir: dir.into(),
            data: dir.join("store.db"),
            next: dir.join("store.db.next"),
            lock: dir.join("store.lock"),
        }
    }
}

pub(super) fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { operation, path, source: Arc::new(source) }
}

/// A killed process holds its lock until the kernel has taken it apart: whoever starts right after it waits.
fn try_lock_patiently(file: &File) -> Result<(), TryLockError> {
    const PAUSE: Duration = Duration::from_millis(20);
    const ATTEMPTS: u32 = 50;
    for _ in 1..ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    file.try_lock()
}

/// Takes the directory for this process; the lock goes with the returned file, also by kill -9.
pub(super) fn lock(paths: &Paths) -> Result<File> {
    let path = &paths.lock;
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))?;
    match try_lock_patiently(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            let remedy = "stop that process, or use another data directory".into();
            return Err(Error::Locked { path: path.clone(), holder, remedy });
        }
        Err(TryLockError::Error(source)) => return Err(io_error("lock", path)(source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error("write", path))?;
    Ok(file)
}

/// Opens the data file, or makes an empty one.
pub(super) fn open_data(paths: &Paths) -> Result<(File, format::Contents)> {
    if let Err(source) = fs::remove_file(&paths.next)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(io_error("remove the unfinished checkpoint", &paths.next)(source));
    }
    let path = &paths.data;
    if !path.try_exists().map_err(io_error("look for", path))? {
        let file = create(&paths.next, rand::random())?;
        rename(paths, &file)?;
        sync_dir(paths).map_err(io_error("sync", &paths.dir))?;
    }
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let contents = format::read(&bytes).map_err(|damage| corrupt(paths, damage))?;
    let length = bytes.len() as u64;
    if contents.end < length {
        tracing::warn!(
            file = %path.display(),
            bytes = length - contents.end,
            offset = contents.end,
            "cut off a write that a crash left unfinished; nobody was told that it succeeded"
        );
        file.set_len(contents.end)
            .and_then(|()| file.sync_all())
            .map_err(io_error("truncate", path))?;
    }
    Ok((file, contents))
}

fn corrupt(paths: &Paths, damage: format::Damage) -> Error {
    let dir = paths.dir.display();
    Error::Corrupt {
        path: paths.data.clone(),
        offset: damage.offset,
        what: damage.what,
        remedy: format!(
            "nothing was changed. Restore the file from a backup, or move it out of {dir} to start with an empty cluster"
        ),
    }
}

/// A new file with a header.
pub(super) fn create(path: &Path, salt: u64) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("create", path))?;
    file.write_all_at(&format::header(salt), 0).map_err(io_error("write", path))?;
    Ok(file)
}

/// Makes `file`, written as `next`, the data file; durable after [`sync_dir`].
pub(super) fn rename(paths: &Paths, file: &File) -> Result<()> {
    file.sync_all().map_err(io_error("sync", &paths.next))?;
    fs::rename(&paths.next, &paths.data).map_err(io_error("rename", &paths.next))
}

/// Makes the names in the directory durable.
pub(super) fn sync_dir(paths: &Paths) -> io::Result<()> {
    File::open(&paths.dir)?.sync_all()
}
