//! The loop of a logger: read, format, write, rotate, and serve attach.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::Task;
use super::format::Lines;
use crate::sys;

/// Bytes read at once; the size of a pipe.
const CHUNK: usize = 64 << 10;

/// Unsent bytes after which a slow attach client is dropped: the container must never wait for it.
const MAX_PENDING: usize = 4 << 20;

/// How often a fifo logger looks whether its fifos are still wanted, in milliseconds.
const FIFO_CHECK_MILLIS: u16 = 10_000;

/// Kinds of frames on the attach socket: kind, length as 4 bytes big-endian, bytes.
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;

/// What a client sends who wants the beginnings of lines written, too: the process that wrote them has ended. The
/// connection is closed when that is done.
pub(crate) const FLUSH: u8 = 1;

/// Logs from the descriptors 3 (stdout) and 4 (stderr); the shim waits until 5 is closed.
pub(super) fn from_shim(task: Option<Task>) -> i32 {
    sys::close_from(6);
    let (stdout, stderr, ready) =
        (sys::claim_inherited(3), sys::claim_inherited(4), sys::claim_inherited(5));
    let Some(task) = task else { return 2 };
    let opened = sys::ignore(Signal::SIGTERM).and_then(|()| Logger::open(task));
    match opened {
        Ok(logger) => {
            drop(ready);
            exit_code(logger.run(vec![(STDOUT, stdout.into()), (STDERR, stderr.into())], None))
        }
        Err(error) => {
            eprintln!("cannot open the container log: {error}");
            1
        }
    }
}

/// Logs from two fifos. Started by the agent, for containers whose stdin is a fifo.
pub(super) fn from_fifos(
    task: Option<Task>,
    stdout: Option<PathBuf>,
    stderr: Option<PathBuf>,
) -> i32 {
    let (Some(task), Some(stdout), Some(stderr)) = (task, stdout, stderr) else { return 2 };
    let read =
        |path: &Path| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let work = || {
        sys::ignore(Signal::SIGTERM)?;
        let sources = vec![(STDOUT, read(&stdout)?), (STDERR, read(&stderr)?)];
        Logger::open(task)?.run(sources, Some(&stdout))
    };
    exit_code(work())
}

/// Holds a process namespace: reaps orphans, ends on SIGTERM.
pub(super) fn pause() -> i32 {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return 1;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => while reaped_one() {},
            Ok(_) => return 0,
            Err(_) => (),
        }
    }
}

fn reaped_one() -> bool {
    !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_))
}

fn exit_code(result: io::Result<()>) -> i32 {
    i32::from(result.is_err())
}

struct Logger {
    task: Task,
    file: File,
    size: u64,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    pending: Vec<u8>,
    wants_flush: bool,
}

/// What [`Logger::wait`] found.
#[derive(Default)]
struct Ready {
    /// Indices of the sources that have something.
    sources: Vec<usize>,
    /// Indices of the clients that said something, or have gone.
    clients: Vec<usize>,
    /// Whether a client knocks.
    knocks: bool,
}

struct Source {
    kind: u8,
    file: File,
    lines: Lines,
}

impl Logger {
    fn open(task: Task) -> io::Result<Self> {
        if let Some(folder) = task.log_path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = open_log(&task.log_path)?;
        let size = file.metadata()?.len();
        // Without the socket attach does not work, but the log does.
        let listener = listen(&task.socket).ok();
        Ok(Self { task, file, size, listener, clients: Vec::new() })
    }

    fn run(mut self, sources: Vec<(u8, File)>, wanted: Option<&Path>) -> io::Result<()> {
        let name = |kind| if kind == STDOUT { "stdout" } else { "stderr" };
        let tty = self.task.tty;
        let mut sources: Vec<Source> = sources
            .into_iter()
            .map(|(kind, file)| Source { kind, file, lines: Lines::new(name(kind), tty) })
            .collect();
        let mut buffer = vec![0; CHUNK];
        while !sources.is_empty() && wanted.is_none_or(Path::exists) {
            let ready = self.wait(&sources, wanted.is_some())?;
            // Standard output first: of what came at the same time, it is what people expect above.
            let mut ended = Vec::new();
            for &index in &ready.sources {
                if !self.copy(&mut sources[index], &mut buffer)? {
                    ended.push(index);
                }
            }
            for index in ended.into_iter().rev() {
                self.finish(&mut [sources.remove(index)])?;
            }
            for &index in ready.clients.iter().rev() {
                if !self.clients[index].listen() {
                    self.clients.remove(index);
                }
            }
            // All that was written before the wish is read by now.
            if ready.sources.is_empty() && self.clients.iter().any(|client| client.wants_flush) {
                self.finish(&mut sources)?;
                self.clients.retain(|client| !client.wants_flush);
            }
            if ready.knocks {
                self.accept();
            }
            self.clients.retain_mut(Client::send);
        }
        let _ = fs::remove_file(&self.task.socket);
        Ok(())
    }

    /// Waits until there is something to do.
    fn wait(&self, sources: &[Source], checks: bool) -> io::Result<Ready> {
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|source| PollFd::new(source.file.as_fd(), PollFlags::POLLIN))
            .collect();
        fds.extend(self.clients.iter().map(|client| {
            let sends =
                if client.pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            PollFd::new(client.stream.as_fd(), PollFlags::POLLIN | sends)
        }));
        fds.extend(
            self.listener.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = match checks {
            _ if self.clients.iter().any(|client| client.wants_flush) => PollTimeout::ZERO,
            true => PollTimeout::from(FIFO_CHECK_MILLIS),
            false => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => (),
            Err(errno) => return Err(errno.into()),
        }
        let (of_sources, rest) = fds.split_at(sources.len());
        let (of_clients, of_listener) = rest.split_at(self.clients.len());
        let has = |fd: &PollFd<'_>, wanted: PollFlags| {
            fd.revents().is_some_and(|events| events.intersects(wanted))
        };
        let said = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(Ready {
            sources: (0..sources.len())
                .filter(|n| has(&of_sources[*n], PollFlags::all()))
                .collect(),
            clients: (0..self.clients.len()).filter(|n| has(&of_clients[*n], said)).collect(),
            knocks: of_listener.iter().any(|fd| has(fd, PollFlags::all())),
        })
    }

    /// Writes the beginnings of lines.
    fn finish(&mut self, sources: &mut [Source]) -> io::Result<()> {
        let mut rest = Vec::new();
        for source in sources {
            source.lines.finish(Timestamp::now(), &mut rest);
        }
        self.write(&rest)
    }

    /// Takes what a source has; `false` at its end.
    fn copy(&mut self, source: &mut Source, buffer: &mut [u8]) -> io::Result<bool> {
        let n = match source.file.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(true);
            }
            Err(_) => return Ok(false), // EIO is how a terminal ends.
        };
        let mut records = Vec::with_capacity(n + n / 2);
        source.lines.push(Timestamp::now(), &buffer[..n], &mut records);
        self.write(&records)?;
        for client in &mut self.clients {
            client.queue(source.kind, &buffer[..n]);
        }
        Ok(true)
    }

    /// Writes whole records, into the next file where the current one is full. A full disk loses records; it does
    /// not stop the container.
    fn write(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let room = self.task.max_size.saturating_sub(self.size);
            let n = fitting(records, usize::try_from(room).unwrap_or(usize::MAX));
            if n == 0 && self.size > 0 {
                self.rotate()?;
                continue;
            }
            // A record that is larger than a file has a file of its own.
            let n = if n == 0 { first_record(records) } else { n };
            let (now, later) = records.split_at(n);
            if self.file.write_all(now).is_ok() {
                self.size += now.len() as u64;
            }
            records = later;
        }
        Ok(())
    }

    /// `0.log` becomes `0.log.1`, that `0.log.2`, and so on; the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u32| PathBuf::from(format!("{}.{n}", self.task.log_path.display()));
        for n in (1..self.task.max_files.saturating_sub(1)).rev() {
            let _ = fs::rename(numbered(n), numbered(n + 1));
        }
        match self.task.max_files {
            0 | 1 => fs::remove_file(&self.task.log_path)?,
            _ => fs::rename(&self.task.log_path, numbered(1))?,
        }
        self.file = open_log(&self.task.log_path)?;
        self.size = 0;
        Ok(())
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.clients.push(Client { stream, pending: Vec::new(), wants_flush: false });
        }
    }
}

impl Client {
    fn queue(&mut self, kind: u8, bytes: &[u8]) {
        self.pending.push(kind);
        self.pending
            .extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.pending.extend_from_slice(bytes);
    }

    /// Hears what the client says; `false` if it is gone.
    fn listen(&mut self) -> bool {
        let mut said = [0; 16];
        match self.stream.read(&mut said) {
            Ok(0) => false,
            Ok(n) => {
                self.wants_flush |= said[..n].contains(&FLUSH);
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }

    /// Sends what the client takes now; `false` if it is gone or too slow.
    fn send(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(0) => return false,
                Ok(n) => drop(self.pending.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.pending.len() < MAX_PENDING;
                }
                Err(_) => return false,
            }
        }
        true
    }
}

/// Length of as many whole records as fit into `room` bytes.
fn fitting(records: &[u8], room: usize) -> usize {
    if records.len() <= room {
        return records.len();
    }
    records[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

fn first_record(records: &[u8]) -> usize {
    records.iter().position(|byte| *byte == b'\n').map_or(records.len(), |at| at + 1)
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// Binds through the folder's descriptor, since a socket's path may have 107 characters only.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(folder)?;
    let _ = fs::remove_file(path);
    let handle = File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_filled_with_whole_records() {
        assert_eq!(fitting(b"a\nbb\nccc\n", 100), 9);
        assert_eq!(fitting(b"a\nbb\nccc\n", 8), 5);
        assert_eq!(fitting(b"a\nbb\nccc\n", 1), 0);
        assert_eq!(first_record(b"aaaa\nb\n"), 5);
    }
}
