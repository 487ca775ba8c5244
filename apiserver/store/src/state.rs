//! The values of a store in this process, and the changes that led to them. No I/O.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use crate::{
    Entry, Error, Event, Expect, Result, Revision, Snapshot, WatchStream,
    feed::{Feed, HistoryLimits},
};

/// Most bytes of a key and its value. Above what an API server accepts as a body (3 MiB) with room for what it adds.
pub(crate) const MAX_ENTRY: usize = 16 << 20;

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

/// What every reader of a store in this process sees.
pub(crate) struct State {
    values: Values,
    feed: Feed,
}

impl State {
    /// A state without history.
    pub(crate) fn new(values: Values, revision: Revision, limits: HistoryLimits) -> Self {
        State { values, feed: Feed::new(revision, limits) }
    }

    /// An empty batch on top of what is visible.
    pub(crate) fn batch(&self) -> Batch {
        Batch { values: self.values.clone(), revision: self.revision(), events: Vec::new() }
    }

    /// Makes a batch visible to readers and watches.
    pub(crate) fn publish(&mut self, batch: Batch) {
        self.values = batch.values;
        self.feed.publish(batch.revision, batch.events);
    }

    pub(crate) fn revision(&self) -> Revision {
        self.feed.revision()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.values.get_key_value(key).map(|(k, v)| entry(k, v))
    }

    pub(crate) fn range(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot> {
        let revision = at.unwrap_or(self.revision());
        let mut values = self.values.clone();
        for event in self.feed.after(revision)?.rev().filter(|e| e.key.starts_with(prefix)) {
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
        self.feed.watch(prefix, from)
    }

    pub(crate) fn request_progress(&self, prefix: &str) {
        self.feed.tell_progress(prefix);
    }

    pub(crate) fn compact(&mut self, before: Revision) -> Result<()> {
        self.feed.compact(before)
    }

    /// Ends all watches.
    pub(crate) fn close(&mut self) {
        self.feed.close();
    }
}

fn entry(key: &Arc<str>, versioned: &Versioned) -> Entry {
    Entry { key: key.clone(), value: versioned.value.clone(), revision: versioned.revision }
}
