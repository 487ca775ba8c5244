//! When to look at a cache again.

use super::{Cache, Interest, Subscription};
use crate::Revision;

/// For those who decide by all objects together: a pass at once, then one for any number of changes, and one
/// whenever changes may have been missed.
#[derive(Debug)]
pub struct Passes<'a> {
    cache: &'a Cache,
    changes: Option<Subscription>,
}

impl Cache {
    /// Passes over this cache, from now on.
    pub fn passes(&self) -> Passes<'_> {
        Passes { cache: self, changes: None }
    }
}

impl Passes<'_> {
    /// Waits until another pass is due; the cache then shows this revision or a later one.
    pub async fn next(&mut self) -> Revision {
        let Some(changes) = &mut self.changes else { return self.begin() };
        let Some(change) = changes.recv().await else { return self.begin() };
        let mut last = change.revision;
        while let Some(change) = changes.try_recv() {
            last = change.revision;
        }
        last
    }

    fn begin(&mut self) -> Revision {
        let (list, changes) = self.cache.list_and_subscribe(None, Interest::All);
        self.changes = Some(changes);
        list.revision()
    }
}
