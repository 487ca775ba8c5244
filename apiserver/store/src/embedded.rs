//! A durable store in one file, for one process.
//!
//! All values are in memory; the file is a log of commits, read once at the start. A commit is answered after
//! `fdatasync`; commits that wait while one is under way share the next, and where many commit at the same time it
//! waits up to half a millisecond for them. What was replaced is dropped by a [checkpoint](checkpoint), written beside
//! the log and renamed into place.

mod backup;
mod checkpoint;
mod files;
mod format;
mod writer;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::{
    BoxFuture, Entry, Error, Expect, Result, Revision, Snapshot, Store, WatchStream,
    feed::HistoryLimits, state::State,
};
pub use backup::{Summary, backup, restore};
use files::{Paths, io_error};
use writer::{Commit, Queue, Writer};

/// What an operator or a test may want otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of replaced records that are worth rewriting the file, if they are also more than half of it.
    pub garbage: u64,
    /// Most changes kept for watches and reads of the past.
    pub history_events: usize,
    /// Most bytes of replaced values kept for them.
    pub history_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        let history = HistoryLimits::default();
        Options { garbage: 64 << 20, history_events: history.events, history_bytes: history.bytes }
    }
}

/// A durable [`Store`] in a directory of its own.
///
/// Dropping it finishes the commits that wait, and unlocks the directory.
pub struct EmbeddedStore {
    state: Arc<RwLock<State>>,
    queue: Arc<Queue>,
    writer: Option<thread::JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, which is made if it does not exist. Blocks while it reads the file.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it, [`Error::Corrupt`] if acknowledged data is damaged (the file is
    /// left as it is), [`Error::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<EmbeddedStore> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let paths = Paths::new(dir);
        let lock = files::lock(&paths)?;
        let (file, contents) = files::open_data(&paths)?;
        let limits = HistoryLimits { events: options.history_events, bytes: options.history_bytes };
        let state = Arc::new(RwLock::new(State::new(contents.values, contents.revision, limits)));
        let queue = Arc::new(Queue::default());
        let writer = Writer {
            state: state.clone(),
            queue: queue.clone(),
            paths,
            file: Arc::new(file),
            salt: contents.salt,
            position: contents.end,
            live: contents.live,
            garbage: options.garbage,
            durable: Arc::new(AtomicU64::new(contents.end)),
            checkpoint: None,
            stopped: None,
            _lock: lock,
        };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(io_error("start the writer of", dir))?;
        Ok(EmbeddedStore { state, queue, writer: Some(writer) })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join(); // A panic there was reported by its thread.
        }
    }
}

impl Store for EmbeddedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        async move { Ok(self.state.read().get(key)) }.boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        async move { self.state.read().range(prefix, at) }.boxed()
    }

    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>> {
        let (reply, answer) = oneshot::channel();
        let queued = self.queue.push(Commit { key: key.into(), expect, value, reply });
        async move {
            queued.map_err(|_| Error::Closed)?;
            answer.await.map_err(|_| Error::Closed)?
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let stream = self.state.write().watch(prefix, from);
        async move { stream }.boxed()
    }

    fn request_progress(&self, prefix: &str) {
        self.state.read().request_progress(prefix);
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        async move { self.state.write().compact(before) }.boxed()
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        async move { Ok(self.state.read().revision()) }.boxed()
    }
}
