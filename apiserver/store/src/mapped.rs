//! A store above another one that has its values in another form.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use crate::{
    BoxFuture, Entry, Error, Event, Expect, Result, Revision, Snapshot, Store, WatchStream,
};

/// How values look from above, and from below.
pub trait Mapping: Send + Sync + 'static {
    /// An entry as readers see it.
    ///
    /// # Errors
    /// [`Error::Unreadable`], if it cannot be shown.
    fn entry(&self, entry: Entry) -> Result<Entry>;

    /// A change as readers see it.
    ///
    /// # Errors
    /// [`Error::Unreadable`], if it cannot be shown.
    fn event(&self, event: Arc<Event>) -> Result<Arc<Event>>;

    /// A value as it is stored below.
    ///
    /// # Errors
    /// [`Error::Unreadable`], if it has no such form.
    fn stored(&self, _key: &str, value: Bytes) -> Result<Bytes> {
        Ok(value)
    }
}

/// A [`Store`] whose values are those of the one below in another form.
pub struct Mapped<M> {
    pub(crate) below: Arc<dyn Store>,
    pub(crate) mapping: Arc<M>,
}

impl<M: Mapping> Mapped<M> {
    /// Shows what is `below` in the form of the mapping.
    pub fn over(below: Arc<dyn Store>, mapping: Arc<M>) -> Self {
        Self { below, mapping }
    }
}

impl<M: Mapping> Store for Mapped<M> {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        let found = self.below.get(key);
        async move { found.await?.map(|entry| self.mapping.entry(entry)).transpose() }.boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        let found = self.below.range(prefix, at);
        async move {
            let Snapshot { revision, entries } = found.await?;
            let entries = entries.into_iter().map(|entry| self.mapping.entry(entry));
            Ok(Snapshot { revision, entries: entries.collect::<Result<_>>()? })
        }
        .boxed()
    }

    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>> {
        async move {
            let value = value.map(|value| self.mapping.stored(key, value)).transpose()?;
            match self.below.commit(key, expect, value).await {
                Err(Error::Conflict { key, current: Some(current) }) => {
                    let current = Some(self.mapping.entry(current)?);
                    Err(Error::Conflict { key, current })
                }
                other => other,
            }
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let (watch, mapping) = (self.below.watch(prefix, from), self.mapping.clone());
        async move { Ok(watch.await?.map(move |event| mapping.event(event))) }.boxed()
    }

    fn catch_up(&self) -> Option<BoxFuture<'_, Result<()>>> {
        self.below.catch_up()
    }

    fn request_progress(&self, prefix: &str) {
        self.below.request_progress(prefix);
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.below.compact(before)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.below.revision()
    }
}
