//! The container logger: a subcommand that the containerd shim starts, one a container.
//!
//! It reads what the container writes and keeps it in the CRI log format, so that logs do not depend on the agent
//! or on containerd being alive. It serves the same bytes to `attach` on a unix socket.
//!
//! **Invariant:** no asynchronous runtime here, and nothing that spends memory: there is one process a container.

mod format;
pub(crate) mod run;

use std::path::PathBuf;

/// First argument of the subcommand; also the only key in the `binary://` URI, whose value becomes the second one.
/// One key only: the shim passes the pairs in random order.
pub(crate) const SUBCOMMAND: &str = "improv-container-logger";

/// The subcommand that logs from two fifos instead of the descriptors of the shim (containers with stdin and no tty).
pub(crate) const FIFO_SUBCOMMAND: &str = "improv-fifo-logger";

/// The subcommand that holds a shared process namespace.
pub(crate) const PAUSE_SUBCOMMAND: &str = "improv-pause";

/// Size at which a log file is rotated, in bytes.
///
/// Source: `containerLogMaxSize` of the KubeletConfiguration.
pub(crate) const MAX_SIZE: u64 = 10 << 20;

/// Log files that are kept, the current one included.
///
/// Source: `containerLogMaxFiles` of the KubeletConfiguration.
pub(crate) const MAX_FILES: u32 = 5;

/// What a logger is told. It travels as one argument, a field a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// Where to write.
    pub(crate) log_path: PathBuf,
    /// Where to listen for attach.
    pub(crate) socket: PathBuf,
    /// Whether the container has a terminal: then lines end in carriage returns, which are dropped.
    pub(crate) tty: bool,
    /// Rotate at this size in bytes.
    pub(crate) max_size: u64,
    /// Files kept.
    pub(crate) max_files: u32,
}

impl Task {
    pub(crate) fn encode(&self) -> String {
        let (log, socket) = (self.log_path.display(), self.socket.display());
        format!("{log}\n{socket}\n{}\n{}\n{}", u8::from(self.tty), self.max_size, self.max_files)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        Some(Self {
            log_path: lines.next()?.into(),
            socket: lines.next()?.into(),
            tty: lines.next()? == "1",
            max_size: lines.next()?.parse().ok()?,
            max_files: lines.next()?.parse().ok()?,
        })
    }
}

/// Runs the subcommand named by the arguments of this process, if it is one of the agent's helpers, and then exits.
/// Otherwise returns at once.
///
/// Every program that starts containers calls this first in `main`, before any runtime or thread exists: the shims
/// start that program's own executable as the logger of each container.
pub fn maybe_run() {
    let mut args = std::env::args().skip(1);
    let code = match args.next().as_deref() {
        Some(SUBCOMMAND) => run::from_shim(args.next().and_then(|text| Task::decode(&text))),
        Some(FIFO_SUBCOMMAND) => {
            let task = args.next().and_then(|text| Task::decode(&text));
            run::from_fifos(task, args.next().map(PathBuf::from), args.next().map(PathBuf::from))
        }
        Some(PAUSE_SUBCOMMAND) => run::pause(),
        _ => return,
    };
    std::process::exit(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_survive_the_command_line() {
        let task = Task {
            log_path: "/var/log/pods/a b/0.log".into(),
            socket: "/run/x.sock".into(),
            tty: true,
            max_size: MAX_SIZE,
            max_files: MAX_FILES,
        };
        assert_eq!(Task::decode(&task.encode()), Some(task));
        assert_eq!(Task::decode("/only/a/path"), None);
    }
}
