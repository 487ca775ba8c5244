//! The state that the stores in this process share: values, bounded history, watches. No I/O.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;

use crate::{Entry, Error, Event, Expect, Result, Revision, Snapshot, WatchSender, WatchStream};

/// Most bytes of a key and its value. Above what an API server accepts as a body (3 MiB) with room for what it adds.
pub(crate) const MAX_ENTRY: usize = 16 << 20;

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

/// A value and the revision that wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Versioned {
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
}

/// All values; a clone is cheap and stays as it was.
pub(crate) type Values = OrdMap<Arc<str>, Versioned>;

/// Changes that are decided but not yet visible.
pub(crate) struct Batch {
    pub(crate) values: Values,
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Arc<Event>>,
}

impl Batch {
    /// Decides one commit on top of the earlier ones of this batch.
    pub(crate) fn commit(
        &mut self,
        key: &str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> Result<Revision> {
        let size = key.len() + value.as_ref().map_or(0, Bytes::len);
        if size > MAX_ENTRY {
            return Err(Error::TooLarge { key: key.into(), size, limit: MAX_ENTRY });
        }
        let previous = self.values.get_key_value(key).map(|(k, v)| entry(k, v));
        let fits = match (expect, &previous) {
            (Expect::Absent, None) => value.is_some(),
            (Expect::At(revision), Some(now)) => now.revision == revision,
            _ => false,
        };
        if !fits {
            return Err(Error::Conflict { key: key.into(), current: previous });
        }
        self.revision += 1;
        let revision = self.revision;
        let key = previous.as_ref().map_or_else(|| Arc::from(key), |p| p.key.clone());
        match &value {
            Some(value) => {
                self.values.insert(key.clone(), Versioned { value: value.clone(), revision })
            }
            None => self.values.remove(&*key),
        };
        self.events.push(Arc::new(Event { revision, key, value, previous }));
        Ok(revision)
    }
}

struct Watcher {
    prefix: Arc<str>,
    sender: WatchSender,
}

/// What every reader of a store in this process sees.
pub(crate) struct State {
    values: Values,
    revision: Revision,
    /// The oldest revision whose state is known: all changes after it are in `history`.
    compacted: Revision,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    limits: HistoryLimits,
    watchers: Vec<Watcher>,
}

impl State {
    /// A state without history.
    pub(crate) fn new(values: Values, revision: Revision, limits: HistoryLimits) -> Self {
        State {
            values,
            revision,
            compacted: revision,
            history: VecDeque::new(),
            history_bytes: 0,
            limits,
            watchers: Vec::new(),
        }
    }

    /// An empty batch on top of what is visible.
    pub(crate) fn batch(&self) -> Batch {
        Batch { values: self.values.clone(), revision: self.revision, events: Vec::new() }
    }

    /// Makes a batch visible to readers and watches.
    pub(crate) fn publish(&mut self, batch: Batch) {
        self.values = batch.values;
        self.revision = batch.revision;
        for event in batch.events {
            self.watchers.retain(|w| !event.key.starts_with(&*w.prefix) || w.sender.send(&event));
            self.history_bytes += replaced(&event);
            self.history.push_back(event);
        }
        while self.history.len() > self.limits.events || self.history_bytes > self.limits.bytes {
            self.forget_oldest();
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.values.get_key_value(key).map(|(k, v)| entry(k, v))
    }

    pub(crate) fn range(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot> {
        let revision = at.unwrap_or(self.revision);
        self.check_known(revision)?;
        let mut values = self.values.clone();
        let later = self.history.iter().rev().take_while(|e| e.revision > revision);
        for event in later.filter(|e| e.key.starts_with(prefix)) {
            match &event.previous {
                Some(p) => {
                    values.insert(
                        p.key.clone(),
                        Versioned { value: p.value.clone(), revision: p.revision },
                    );
                }
                None => {
                    values.remove(&*event.key);
                }
            }
        }
        let entries = values
            .range::<_, str>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(|(k, _)| k.starts_with(prefix))
            .map(|(k, v)| entry(k, v))
            .collect();
        Ok(Snapshot { revision, entries })
    }

    pub(crate) fn watch(&mut self, prefix: &str, from: Revision) -> Result<WatchStream> {
        self.check_known(from)?;
        let later = self.history.partition_point(|e| e.revision <= from);
        let backlog =
            self.history.range(later..).filter(|e| e.key.starts_with(prefix)).cloned().collect();
        let prefix: Arc<str> = prefix.into();
        let (sender, stream) =
            WatchStream::channel(prefix.clone(), from, backlog, WATCH_CAPACITY, true);
        self.watchers.push(Watcher { prefix, sender });
        Ok(stream)
    }

    pub(crate) fn request_progress(&self, prefix: &str) {
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

    fn check_known(&self, revision: Revision) -> Result<()> {
        if revision > self.revision {
            return Err(Error::Future { requested: revision, current: self.revision });
        }
        if revision < self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: self.compacted });
        }
        Ok(())
    }
}

fn entry(key: &Arc<str>, versioned: &Versioned) -> Entry {
    Entry { key: key.clone(), value: versioned.value.clone(), revision: versioned.revision }
}

fn replaced(event: &Event) -> usize {
    event.previous.as_ref().map_or(0, |p| p.value.len())
}
