//! A store that is gone when it is dropped.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::RwLock;

use crate::{
    BoxFuture, Entry, Expect, Result, Revision, Snapshot, Store, WatchStream,
    feed::HistoryLimits,
    state::{State, Values},
};

/// A [`Store`] in memory only, for tests. A clone is the same store.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<RwLock<State>>,
}

impl MemoryStore {
    /// An empty store at revision 1.
    pub fn new() -> Self {
        MemoryStore {
            state: Arc::new(RwLock::new(State::new(Values::new(), 1, HistoryLimits::default()))),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl Store for MemoryStore {
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
        async move {
            let mut state = self.state.write();
            let mut batch = state.batch();
            let revision = batch.commit(key, expect, value)?;
            state.publish(batch);
            Ok(revision)
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
