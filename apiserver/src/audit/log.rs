//! The audit log: one line an event, in files that are exchanged when they are large and deleted when they are
//! old.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// Size of a file when none is named, in bytes: 100 MB, as upstream's writer has it.
const DEFAULT_SIZE: u64 = 100 << 20;
/// How the time of the exchange stands in a file's name.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// When files are exchanged and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Largest file in bytes; 0 is 100 MB.
    pub max_size: u64,
    /// Most old files that are kept; 0 keeps all.
    pub max_backups: usize,
    /// Longest that an old file is kept; `None` is for ever.
    pub max_age: Option<SignedDuration>,
    /// Whether old files are compressed.
    pub compress: bool,
}

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    output: Mutex<Output>,
}

#[derive(Debug)]
enum Output {
    Standard,
    File(Rotated),
}

#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
    /// Time in the name of the last old file.
    exchanged: Timestamp,
}

impl Log {
    /// Opens the log; `-` is standard output.
    ///
    /// # Errors
    /// The file cannot be opened for writing.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let output = if path == Path::new("-") {
            Output::Standard
        } else {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = open(path)?;
            let size = file.metadata()?.len();
            let path = path.to_owned();
            Output::File(Rotated { path, rotation, file, size, exchanged: Timestamp::UNIX_EPOCH })
        };
        Ok(Self { output: Mutex::new(output) })
    }

    /// Writes a line, which carries its own end. Lines never mix.
    ///
    /// # Errors
    /// It is not written, or not whole.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        match &mut *self.output.lock() {
            Output::Standard => io::stdout().lock().write_all(line),
            Output::File(file) => file.write(line),
        }
    }
}

/// What is logged is for its owner alone.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Rotated {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let limit = if self.rotation.max_size == 0 { DEFAULT_SIZE } else { self.rotation.max_size };
        let more = line.len() as u64;
        if self.size > 0 && self.size + more > limit {
            self.exchange(Timestamp::now())?;
        }
        self.file.write_all(line)?;
        self.size += more;
        Ok(())
    }

    fn exchange(&mut self, now: Timestamp) -> io::Result<()> {
        let (start, end) = self.affixes();
        // Names tell the order, also of files that were full within a millisecond.
        let next = self.exchanged + SignedDuration::from_millis(1);
        self.exchanged = now.max(next);
        let time = self.exchanged.strftime(TIME);
        let old = self.path.with_file_name(format!("{start}{time}{end}"));
        std::fs::rename(&self.path, &old)?;
        self.file = open(&self.path)?;
        self.size = 0;
        let (rotation, folder) = (self.rotation.clone(), self.path.clone());
        // Compressing takes a while, and the request that caused it is not to wait for it.
        let tidy = move || {
            if let Err(error) = tidy(&folder, &old, &rotation, now) {
                tracing::warn!(%error, path = %old.display(), "old audit log not tidied up");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(tidy)),
            Err(_) => tidy(),
        }
        Ok(())
    }

    fn affixes(&self) -> (String, String) {
        affixes(&self.path)
    }
}

/// What stands before and after the time in the names of old files: `audit-` and `.log`.
fn affixes(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let end = path.extension().map(|end| format!(".{}", end.to_string_lossy())).unwrap_or_default();
    (format!("{}-", text(path.file_stem())), end)
}

fn tidy(path: &Path, old: &Path, rotation: &Rotation, now: Timestamp) -> io::Result<()> {
    if rotation.compress {
        compress(old)?;
    }
    let mut files = backups(path)?;
    files.sort_unstable_by(|a, b| b.cmp(a)); // The newest first.
    let kept = if rotation.max_backups == 0 { files.len() } else { rotation.max_backups };
    for (n, file) in files.iter().enumerate() {
        let too_old = match (rotation.max_age, age(file, now)) {
            (Some(limit), Some(age)) => age > limit,
            _ => false,
        };
        if n >= kept || too_old {
            std::fs::remove_file(file)?;
        }
    }
    Ok(())
}

fn age(file: &Path, now: Timestamp) -> Option<SignedDuration> {
    let changed = std::fs::metadata(file).ok()?.modified().ok()?;
    Some(now.duration_since(Timestamp::try_from(changed).ok()?))
}

/// The old files beside a log.
fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (start, end) = affixes(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&end));
        if time.is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit())) {
            found.push(path.with_file_name(&name));
        }
    }
    Ok(found)
}

fn compress(old: &Path) -> io::Result<()> {
    let mut packed = old.as_os_str().to_owned();
    packed.push(".gz");
    let file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&packed)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut File::open(old)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn rotation(max_backups: usize, compress: bool) -> Rotation {
        Rotation { max_size: 10, max_backups, max_age: None, compress }
    }

    #[test]
    fn full_files_are_exchanged_and_the_oldest_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/audit.log");
        let log = Log::open(&path, rotation(2, false)).unwrap();
        for n in 0..5 {
            log.write(format!("line {n}\n").as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 4\n");
        let mut old = backups(&path).unwrap();
        old.sort();
        let texts: Vec<String> =
            old.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        assert_eq!(texts, ["line 2\n", "line 3\n"]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn old_files_are_compressed_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = Log::open(&path, rotation(0, true)).unwrap();
        log.write(b"first line\n").unwrap();
        log.write(b"second line\n").unwrap();
        let old = backups(&path).unwrap();
        let mut text = String::new();
        let file = File::open(&old[0]).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!((old.len(), text.as_str()), (1, "first line\n"));
    }

    #[test]
    fn an_existing_file_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::fs::write(&path, "old\n").unwrap();
        let log = Log::open(&path, rotation(0, false)).unwrap();
        log.write(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
    }
}
