//! What can go wrong, in words that tell an operator what to do.

use std::{io, path::PathBuf, sync::Arc};

use crate::{Entry, Revision};

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a store operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The key is not as the commit expected.
    #[error("{key} is not as expected")]
    Conflict {
        /// The key of the commit.
        key: Arc<str>,
        /// What the key holds; `None` if nothing.
        current: Option<Entry>,
    },
    /// History from before this revision is gone.
    #[error("revision {requested} is too old, history starts at {compacted}")]
    Compacted {
        /// The revision that was asked for.
        requested: Revision,
        /// The oldest revision that can be asked for.
        compacted: Revision,
    },
    /// The store has not reached this revision.
    #[error("revision {requested} is not reached yet, the store is at {current}")]
    Future {
        /// The revision that was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The watcher took too long; it must start again from the last revision it saw.
    #[error("the watch of {prefix} fell behind")]
    Lagged {
        /// What was watched.
        prefix: Arc<str>,
    },
    /// A value above the limit.
    #[error("the value of {key} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The key of the commit.
        key: Arc<str>,
        /// Bytes of key and value.
        size: usize,
        /// Most bytes of key and value.
        limit: usize,
    },
    /// The data file is damaged where acknowledged writes are.
    #[error("{} is damaged at byte {offset} ({what}); {remedy}", path.display())]
    Corrupt {
        /// The data file.
        path: PathBuf,
        /// Where the first unreadable byte is.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// What the operator can do.
        remedy: String,
    },
    /// A backup is not restored over a store.
    #[error("{} exists; move it away, or restore into another directory", path.display())]
    NotEmpty {
        /// The data file that is there.
        path: PathBuf,
    },
    /// Another process has the data directory open.
    #[error("{} is in use{}; {remedy}", path.display(), holder.map(|p| format!(" by process {p}")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds the lock, if it wrote its number.
        holder: Option<u32>,
        /// What the operator can do.
        remedy: String,
    },
    /// The operating system refused.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause; shared, since one failed write answers many commits.
        source: Arc<io::Error>,
    },
    /// A write failed in a way that leaves the end of the file unknown; nothing more is accepted until it is reopened.
    #[error("the store stopped after a failed write to {}; restart to recover", path.display())]
    Stopped {
        /// The data file.
        path: PathBuf,
        /// The first failure.
        source: Arc<io::Error>,
    },
    /// A store elsewhere did not answer in time. A commit may have happened or not.
    #[error("failed to {operation} {key}: {store} does not answer; try again")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: Arc<str>,
        /// Who was asked.
        store: Arc<str>,
        /// The last cause.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A store elsewhere answered that it will not.
    #[error("failed to {operation} {key}: {store} refused; see its log")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: Arc<str>,
        /// Who was asked.
        store: Arc<str>,
        /// The answer.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A value cannot be decrypted.
    #[error("the value of {key} cannot be decrypted: {why}")]
    Unreadable {
        /// Its key.
        key: Arc<str>,
        /// Which provider is missing, or does not fit.
        why: String,
    },
    /// What a store is to be reached by makes no sense.
    #[error("{0}")]
    Options(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
