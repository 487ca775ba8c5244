//! Follows the store: one task a cache.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tracing::{error, warn};

use super::{CacheEvent, Objects, Shared};
use crate::{Error, Event, Result, Revision, WatchItem, WatchStream};

/// Most changes taken together; a burst then costs readers one new snapshot.
const BATCH: usize = 256;

/// Pause before a failed list is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Lists the prefix into `shared` and opens the watch that continues the list.
pub(super) async fn list(shared: &Arc<Shared>) -> Result<WatchStream> {
    let snapshot = shared.store.range(&shared.prefix, None).await?;
    let stream = shared.store.watch(&shared.prefix, snapshot.revision).await?;
    let objects: Objects = snapshot
        .entries
        .iter()
        .filter_map(|entry| match (shared.decode)(entry) {
            Ok(object) => Some((entry.key.clone(), Arc::new(object))),
            Err(error) => {
                error!(key = %entry.key, revision = entry.revision, %error, "stored object left out of the cache");
                None
            }
        })
        .collect();
    *shared.position.write() = Some(stream.position());
    shared.reset(snapshot.revision, objects);
    Ok(stream)
}

/// Applies changes until the store is gone; lists again if the watch breaks.
pub(super) async fn run(shared: Arc<Shared>, mut stream: WatchStream) {
    loop {
        match follow(&shared, &mut stream).await {
            Error::Closed => break,
            cause => warn!(prefix = %shared.prefix, %cause, "watch ended, listing again"),
        }
        stream = loop {
            match list(&shared).await {
                Ok(stream) => break stream,
                Err(error) => warn!(prefix = %shared.prefix, %error, "list failed"),
            }
            tokio::time::sleep(RETRY).await;
        };
    }
    shared.subscribers.lock().clear();
    shared.n_subscribers.store(0, Ordering::Relaxed);
}

async fn follow(shared: &Shared, stream: &mut WatchStream) -> Error {
    let mut items = Vec::with_capacity(BATCH);
    loop {
        match stream.recv().await {
            Ok(item) => items.push(item),
            Err(end) => return end,
        }
        while items.len() < BATCH
            && let Ok(Some(item)) = stream.try_recv()
        {
            items.push(item);
        }
        apply(shared, items.drain(..));
    }
}

fn apply(shared: &Shared, items: impl Iterator<Item = WatchItem>) {
    let (mut revision, mut objects) = {
        let current = shared.current.read();
        (current.revision, current.objects.clone())
    };
    let mut events = Vec::new();
    for item in items {
        match item {
            WatchItem::Event(event) => {
                revision = revision.max(event.revision);
                events.extend(change(shared, &mut objects, &event).map(Arc::new));
            }
            WatchItem::Progress(reached) => revision = revision.max(reached),
        }
    }
    shared.publish(revision, objects, &events);
}

fn change(shared: &Shared, objects: &mut Objects, event: &Event) -> Option<CacheEvent> {
    let Some(value) = &event.value else {
        let previous = objects.remove(&*event.key)?;
        return Some(CacheEvent::deleted(previous, event.revision));
    };
    let entry =
        crate::Entry { key: event.key.clone(), value: value.clone(), revision: event.revision };
    match (shared.decode)(&entry) {
        Ok(object) => {
            let object = Arc::new(object);
            let previous = objects.insert(event.key.clone(), object.clone());
            Some(CacheEvent::set(object, previous))
        }
        Err(error) => {
            error!(key = %event.key, revision = event.revision, %error, "stored object left out of the cache");
            let revision: Revision = event.revision;
            objects.remove(&*event.key).map(|previous| CacheEvent::deleted(previous, revision))
        }
    }
}
