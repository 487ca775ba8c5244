//! The one thread that writes: it takes all commits that wait, writes them at once, and answers them after one sync.

use std::{
    fs::File,
    mem,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::oneshot;
use tracing::{debug, error, warn};

use super::{
    checkpoint::{self, Ready},
    files::{self, Paths, io_error},
    format,
};
use crate::{
    Error, Expect, Result, Revision,
    state::{Batch, State},
};

/// A write buffer larger than this is given back after use.
const KEEP_BUFFER: usize = 1 << 20;

/// A batch of this many bytes takes no more commits, so that a frame's length stays far below its limit.
const LARGE_BATCH: usize = 16 << 20;

/// Longest time that a commit waits for others to share its sync.
const GATHER: Duration = Duration::from_micros(500);

/// Fewer commits at the same time than these do not wait: they are steps of something that waits for each of them, as
/// the start of a pod is, rather than clients of which each has the next ready. PostgreSQL's commit_siblings is 5, too.
const SIBLINGS: usize = 5;

/// A sync of this many commits costs each of them so little that it is not worth waiting for more.
const ENOUGH: usize = 8;

/// A commit that waits.
pub(super) struct Commit {
    pub(super) key: Arc<str>,
    pub(super) expect: Expect,
    pub(super) value: Option<Bytes>,
    pub(super) reply: oneshot::Sender<Result<Revision>>,
}

/// What the writer is to do.
#[derive(Default)]
struct Work {
    commits: Vec<Commit>,
    checkpoint: Option<Result<Ready>>,
    closed: bool,
    /// The writer sleeps until there are more commits than these.
    few: usize,
}

impl Work {
    /// Whether the writer need not wait for more.
    fn suffices(&self) -> bool {
        self.commits.len() > self.few || self.checkpoint.is_some() || self.closed
    }
}

/// Hands work to the writer.
#[derive(Default)]
pub(super) struct Queue {
    work: Mutex<Work>,
    ready: Condvar,
}

impl Queue {
    /// Queues a commit; gives it back if the store is closed.
    pub(super) fn push(&self, commit: Commit) -> Result<(), Commit> {
        let mut work = self.work.lock();
        if work.closed {
            return Err(commit);
        }
        work.commits.push(commit);
        let suffices = work.suffices();
        drop(work);
        if suffices {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Lets the writer finish what is queued, then end.
    pub(super) fn close(&self) {
        self.work.lock().closed = true;
        self.ready.notify_one();
    }

    fn checkpoint_ready(&self, checkpoint: Result<Ready>) {
        self.work.lock().checkpoint = Some(checkpoint);
        self.ready.notify_one();
    }

    /// Waits for work, and where many commit at the same time a moment more, so that they share a sync.
    ///
    /// `answered` is how many shared the last one.
    fn take(&self, answered: usize) -> Work {
        let mut work = self.work.lock();
        let few = too_few(answered, work.commits.len());
        self.ready.wait_while(&mut work, |work| !work.suffices());
        work.few = few;
        self.ready.wait_while_for(&mut work, |work| !work.suffices(), GATHER);
        let closed = work.closed;
        mem::replace(&mut *work, Work { closed, ..Work::default() })
    }
}

/// How many commits should wait for more before they are synced.
///
/// Who was answered just now is likely to come again, so siblings are those that were `answered` after the last sync and
/// those who have come while it was under way. Where there are few of them nobody is kept waiting.
fn too_few(answered: usize, came: usize) -> usize {
    let siblings = answered + came;
    if siblings < SIBLINGS { 0 } else { siblings.min(ENOUGH) - 1 }
}

/// Takes the commits of the next frame.
fn batch_of(commits: &mut impl Iterator<Item = Commit>) -> Vec<Commit> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    for commit in commits {
        bytes += commit.key.len() + commit.value.as_ref().map_or(0, Bytes::len);
        batch.push(commit);
        if bytes >= LARGE_BATCH {
            break;
        }
    }
    batch
}

/// The writer's own state.
pub(super) struct Writer {
    pub(super) state: Arc<RwLock<State>>,
    pub(super) queue: Arc<Queue>,
    pub(super) paths: Paths,
    pub(super) file: Arc<File>,
    pub(super) salt: u64,
    /// Where the next frame goes.
    pub(super) position: u64,
    /// Bytes of the records that are not replaced.
    pub(super) live: u64,
    /// Replaced bytes that are worth a checkpoint.
    pub(super) garbage: u64,
    pub(super) durable: Arc<AtomicU64>,
    pub(super) checkpoint: Option<thread::JoinHandle<()>>,
    pub(super) stopped: Option<Error>,
    /// Lock of the data directory; held until the writer ends.
    pub(super) _lock: File,
}

impl Writer {
    /// Works until the queue is closed.
    pub(super) fn run(mut self) {
        let mut frame = format::Writer::new(self.salt);
        let mut answered = 0;
        loop {
            let work = self.queue.take(answered);
            answered = work.commits.len();
            if let Some(checkpoint) = work.checkpoint {
                self.finish_checkpoint(checkpoint);
            }
            if work.commits.is_empty() && work.closed {
                break;
            }
            let mut commits = work.commits.into_iter().peekable();
            while commits.peek().is_some() {
                self.commit(batch_of(&mut commits), &mut frame);
            }
            self.start_checkpoint();
        }
        self.state.write().close();
        if let Some(thread) = self.checkpoint.take() {
            let _ = thread.join(); // Its result stays in the queue, unused.
        }
    }

    fn commit(&mut self, commits: Vec<Commit>, frame: &mut format::Writer) {
        let mut batch = self.state.read().batch();
        let mut answers = Vec::with_capacity(commits.len());
        for Commit { key, expect, value, reply } in commits {
            let answer = match &self.stopped {
                Some(error) => Err(error.clone()),
                None => batch.commit(&key, expect, value),
            };
            answers.push((reply, answer));
        }
        let written = if batch.events.is_empty() { Ok(()) } else { self.write(&batch, frame) };
        match written {
            Ok(()) => self.state.write().publish(batch),
            Err(error) => {
                for (_, answer) in answers.iter_mut().filter(|(_, answer)| answer.is_ok()) {
                    *answer = Err(error.clone());
                }
            }
        }
        for (reply, answer) in answers {
            let _ = reply.send(answer); // The caller may have gone.
        }
    }

    fn write(&mut self, batch: &Batch, frame: &mut format::Writer) -> Result<()> {
        frame.begin();
        batch.events.iter().for_each(|event| frame.event(event));
        let bytes = frame.end();
        if let Err(source) = self.file.write_all_at(bytes, self.position) {
            let error = io_error("write", &self.paths.data)(source);
            // Nothing of it may stay: the next frame must follow the last good one.
            if let Err(source) = self.file.set_len(self.position) {
                self.stop(source);
            }
            return Err(error);
        }
        let length = bytes.len() as u64;
        // After a failed sync nobody knows what is on the disk; only a new start can tell.
        self.file.sync_data().map_err(|source| self.stop(source))?;
        self.position += length;
        self.durable.store(self.position, Ordering::Release);
        frame.shrink(KEEP_BUFFER);
        for event in &batch.events {
            self.live += event.value.as_ref().map_or(0, |v| format::record_len(&event.key, v));
            self.live -=
                event.previous.as_ref().map_or(0, |p| format::record_len(&p.key, &p.value));
        }
        Ok(())
    }

    fn stop(&mut self, source: std::io::Error) -> Error {
        error!(file = %self.paths.data.display(), error = %source, "the store stops");
        let error = Error::Stopped { path: self.paths.data.clone(), source: Arc::new(source) };
        self.stopped = Some(error.clone());
        error
    }

    fn start_checkpoint(&mut self) {
        let garbage = self.position.saturating_sub(self.live);
        if garbage < self.garbage.max(self.live)
            || self.checkpoint.is_some()
            || self.stopped.is_some()
        {
            return;
        }
        let batch = self.state.read().batch();
        let start = checkpoint::Start {
            paths: self.paths.clone(),
            salt: self.salt,
            values: batch.values,
            revision: batch.revision,
            old: self.file.clone(),
            position: self.position,
            durable: self.durable.clone(),
        };
        let queue = self.queue.clone();
        let thread = thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || queue.checkpoint_ready(checkpoint::write(&start)));
        match thread {
            Ok(thread) => self.checkpoint = Some(thread),
            Err(error) => warn!(%error, "no thread for a checkpoint"),
        }
    }

    fn finish_checkpoint(&mut self, checkpoint: Result<Ready>) {
        self.checkpoint = None;
        let before = self.position;
        let result = checkpoint.and_then(|mut ready| {
            let path = &self.paths.next;
            ready
                .copy(&self.file, self.position)
                .map_err(io_error("copy the newest writes to", path))?;
            files::rename(&self.paths, &ready.file)?;
            Ok(ready)
        });
        match result {
            Ok(ready) => {
                self.file = Arc::new(ready.file);
                self.position = ready.length;
                self.durable = Arc::new(AtomicU64::new(ready.length));
                // Without this a crash may bring back the old file, which lacks what comes next.
                if let Err(source) = files::sync_dir(&self.paths) {
                    self.stop(source);
                }
                debug!(before, after = self.position, "checkpoint written");
            }
            Err(error) => {
                warn!(%error, "checkpoint failed, the file keeps growing until one succeeds");
                // What was written of it may be the space that commits need.
                if let Err(error) = std::fs::remove_file(&self.paths.next) {
                    debug!(%error, "the unfinished checkpoint was not removed");
                }
                self.garbage *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Commit {
        let (reply, _) = oneshot::channel();
        Commit { key: "/a".into(), expect: Expect::Absent, value: None, reply }
    }

    #[test]
    fn where_few_commit_nobody_waits() {
        assert_eq!(too_few(0, 0), 0, "the first commit of all");
        assert_eq!(too_few(1, 0), 0, "the only one comes again");
        assert_eq!(too_few(3, 1), 0);
    }

    #[test]
    fn as_many_are_waited_for_as_commit_at_the_same_time() {
        assert_eq!(too_few(3, 2), 4);
        assert_eq!(too_few(30, 2), ENOUGH - 1);
    }

    #[test]
    fn commits_do_not_wait_for_long() {
        let queue = Queue::default();
        assert!(queue.push(commit()).is_ok());
        assert_eq!(queue.take(ENOUGH).commits.len(), 1, "the others stay away");
    }

    #[test]
    fn enough_commits_do_not_wait() {
        let queue = Queue::default();
        for _ in 0..ENOUGH {
            assert!(queue.push(commit()).is_ok());
        }
        assert_eq!(queue.take(ENOUGH).commits.len(), ENOUGH);
    }
}
