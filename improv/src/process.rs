//! The process that runs a cluster: found, kept alone, and put into the background.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::layout::Layout;

/// Last line that a starting cluster writes: it is ready, and says no more.
const READY: &str = "\u{4}";

/// Proof that no other process runs this cluster; held as long as the process lives, and by the kernel given up
/// when it dies, however it dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Makes this process the one that runs the cluster of `layout`.
    ///
    /// # Errors
    /// If another process runs it, or the file cannot be written.
    pub(crate) fn take(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.pid_file();
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = lock(file).map_err(|holder| {
            let holder = holder.map_or("unknown".to_owned(), |pid| pid.to_string());
            let data = layout.data.display();
            anyhow::anyhow!(
                "a cluster or node already runs from {data} (process {holder}); stop it with `improv down`, or choose \
                 another --data-dir"
            )
        })?;
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        file.sync_all()?;
        Ok(Self { _file: file })
    }
}

/// Locks `file`, or tells who holds it. A holder that was killed is waited for until the kernel has let go of it.
fn lock(mut file: File) -> Result<Flock<File>, Option<Pid>> {
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((file, _)) => file,
        };
        let holder = read_pid(&mut file);
        if !holder.is_some_and(is_ending) {
            return Err(holder);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Whether the process is a zombie, whose threads may still be on their way out.
///
/// Source: proc_pid_stat(5): the state follows the name, which stands in parentheses.
fn is_ending(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// The process that runs the cluster of `layout`, if one does.
#[must_use]
pub(crate) fn running(layout: &Layout) -> Option<Pid> {
    let mut file = OpenOptions::new().read(true).write(true).open(layout.pid_file()).ok()?;
    let pid = read_pid(&mut file);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_nobody_holds_it) => None,
        Err(_) => pid,
    }
}

fn read_pid(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

/// Ends the process that runs the cluster: politely, after `patience` with force.
pub(crate) async fn stop(layout: &Layout, patience: std::time::Duration) {
    let Some(pid) = running(layout) else { return };
    nix::sys::signal::kill(pid, Signal::SIGTERM).ok(); // It may have ended meanwhile.
    let deadline = tokio::time::Instant::now() + patience;
    while running(layout).is_some() {
        if tokio::time::Instant::now() > deadline {
            nix::sys::signal::kill(pid, Signal::SIGKILL).ok(); // As above.
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Starts this same command in the background, shows its progress, and returns once the cluster is ready.
///
/// # Errors
/// If it ends before; what it said last is in the log file, and shown.
pub(crate) fn detach(layout: &Layout) -> anyhow::Result<()> {
    std::fs::create_dir_all(&layout.data)?;
    let log: PathBuf = layout.log_file();
    let log_file = OpenOptions::new().create(true).append(true).open(&log);
    let log_file = log_file.with_context(|| format!("cannot write {}", log.display()))?;
    let start = log_file.metadata()?.len();
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
    command.process_group(0); // Ctrl-C in this terminal is not meant for the cluster.
    let mut child = command.spawn().context("cannot start the cluster's process")?;
    let stdout = child.stdout.take().context("no output from the cluster's process")?;
    for line in BufReader::new(stdout).lines() {
        match line?.as_str() {
            READY => return Ok(()),
            line => progress(line),
        }
    }
    let status = child.wait()?;
    let mut said = String::new();
    let mut log_file = File::open(&log)?;
    log_file.seek(io::SeekFrom::Start(start))?;
    log_file.read_to_string(&mut said)?;
    let last = said.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev();
    bail!("it did not start ({status}):\n{}", last.collect::<Vec<_>>().join("\n"))
}

/// Tells whoever waits for it that the cluster is ready.
pub(crate) fn announce_ready() {
    progress(READY);
}

/// A line for the person who started the cluster; nobody may be there any more, and that is fine.
pub(crate) fn progress(line: &str) {
    let mut stdout = io::stdout().lock();
    drop(writeln!(stdout, "{line}"));
    drop(stdout.flush());
}

/// Writes a file that only its owner may read, and gives it.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let told = || format!("cannot write {}", path.display());
    let open = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    let mut file = open.with_context(told)?;
    file.write_all(text.as_bytes()).with_context(told)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_a_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert_eq!(running(&layout), None);
        let lock = Lock::take(&layout).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(running(&layout), Some(Pid::from_raw(me)));
        let refusal = Lock::take(&layout).unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {me}")), "{refusal}");
        drop(lock);
        assert_eq!(running(&layout), None);
    }
}
