//! The newest changes of a store, handed to watches as they come: bounded history and fan-out. No I/O.

use std::{collections::VecDeque, sync::Arc};

use crate::{Error, Event, Result, Revision, WatchSender, WatchStream};

/// Changes that may wait for the reader of one watch. Readers are caches, which drain far faster than commits come;
/// one that is this late starts again from history.
const WATCH_CAPACITY: usize = 16 << 10;

/// How much history is kept for watches and reads of the past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryLimits {
    /// Most changes.
    pub(crate) events: usize,
    /// Most bytes of replaced values. New values are shared with the state.
    pub(crate) bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        HistoryLimits { events: 64 << 10, bytes: 16 << 20 }
    }
}

struct Watcher {
    prefix: Arc<str>,
    sender: WatchSender,
}

/// Every change after `compacted` up to `revision`, in order, and who wants the next ones.
pub(crate) struct Feed {
    revision: Revision,
    /// The oldest revision whose state is known: all changes after it are in `history`.
    compacted: Revision,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    limits: HistoryLimits,
    watchers: Vec<Watcher>,
}

impl Feed {
    /// A feed that knows nothing from before `revision`.
    pub(crate) fn new(revision: Revision, limits: HistoryLimits) -> Self {
        Feed {
            revision,
            compacted: revision,
            history: VecDeque::new(),
            history_bytes: 0,
            limits,
            watchers: Vec::new(),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Hands the changes up to `revision` to history and watches.
    pub(crate) fn publish(&mut self, revision: Revision, events: Vec<Arc<Event>>) {
        self.revision = revision;
        for event in events {
            self.watchers.retain(|w| !event.key.starts_with(&*w.prefix) || w.sender.send(&event));
            self.history_bytes += replaced(&event);
            self.history.push_back(event);
        }
        while self.history.len() > self.limits.events || self.history_bytes > self.limits.bytes {
            self.forget_oldest();
        }
    }

    /// The changes after `from`.
    pub(crate) fn after(
        &self,
        from: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<Event>>> {
        if from > self.revision {
            return Err(Error::Future { requested: from, current: self.revision });
        }
        if from < self.compacted {
            return Err(Error::Compacted { requested: from, compacted: self.compacted });
        }
        let later = self.history.partition_point(|e| e.revision <= from);
        Ok(self.history.range(later..))
    }

    pub(crate) fn watch(&mut self, prefix: &str, from: Revision) -> Result<WatchStream> {
        let backlog = self.after(from)?.filter(|e| e.key.starts_with(prefix)).cloned().collect();
        let prefix: Arc<str> = prefix.into();
        let (sender, stream) = WatchStream::channel(prefix.clone(), from, backlog, WATCH_CAPACITY);
        self.watchers.push(Watcher { prefix, sender });
        Ok(stream)
    }

    /// Tells the watches of exactly `prefix` that they have everything up to now.
    pub(crate) fn tell_progress(&self, prefix: &str) {
        for watcher in self.watchers.iter().filter(|w| &*w.prefix == prefix) {
            watcher.sender.progress(self.revision);
        }
    }

    pub(crate) fn compact(&mut self, before: Revision) -> Result<()> {
        if before > self.revision {
            return Err(Error::Future { requested: before, current: self.revision });
        }
        while self.history.front().is_some_and(|e| e.revision <= before) {
            self.forget_oldest();
        }
        self.compacted = self.compacted.max(before);
        Ok(())
    }

    /// Starts again at `revision`, after changes that nobody saw: the watches end and must start again too.
    pub(crate) fn restart(&mut self, revision: Revision) {
        self.watchers.iter().for_each(|w| w.sender.lag());
        *self = Feed::new(revision, self.limits);
    }

    /// Ends all watches.
    pub(crate) fn close(&mut self) {
        self.watchers.clear();
    }

    fn forget_oldest(&mut self) {
        if let Some(event) = self.history.pop_front() {
            self.history_bytes -= replaced(&event);
            self.compacted = event.revision;
        }
    }
}

fn replaced(event: &Event) -> usize {
    event.previous.as_ref().map_or(0, |p| p.value.len())
}
