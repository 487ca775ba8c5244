//! Follows the objects of a resource in a task, for those who decide by an index of their own.

use std::sync::Arc;

use serde_json::Value;
use store::Revision;
use store::cache::{Cache, CacheEvent, Interest, Kind, Subscription};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::registry::Storage;
use crate::status::ApiError;

/// Takes over the state of one object: namespace (empty if it has none), name, and the object; `None`
/// if it is gone.
pub(super) trait Set: Fn(&str, &str, Option<&Value>) + Send + Sync + 'static {}
impl<F: Fn(&str, &str, Option<&Value>) + Send + Sync + 'static> Set for F {}

/// Hands over all objects, then every change until `stop`; tells how far it is.
pub(super) async fn follow(
    storage: Arc<Storage>,
    stop: CancellationToken,
    set: impl Set,
) -> Result<watch::Receiver<Revision>, ApiError> {
    let cache = storage.cache().await?;
    let subscription = begin(cache, &set);
    let (sender, receiver) = watch::channel(cache.revision());
    let changes = changes(storage, subscription, sender, set);
    tokio::spawn(async move { stop.run_until_cancelled(changes).await });
    Ok(receiver)
}

fn begin(cache: &Cache, set: &impl Set) -> Subscription {
    let (list, subscription) = cache.list_and_subscribe(None, Interest::All);
    for object in list.iter() {
        hand(object.namespace(), object.name(), Some(&object.json()), set);
    }
    subscription
}

fn hand(namespace: Option<&str>, name: &str, json: Option<&[u8]>, set: &impl Set) {
    let object: Option<Value> = json.and_then(|json| serde_json::from_slice(json).ok());
    set(namespace.unwrap_or_default(), name, object.as_ref());
}

async fn changes(
    storage: Arc<Storage>,
    mut subscription: Subscription,
    seen: watch::Sender<Revision>,
    set: impl Set,
) {
    loop {
        while let Some(event) = subscription.recv().await {
            apply(&event, &set);
            seen.send_replace(event.revision);
        }
        // The end of a subscription is either the server's, or that of a follower who was too slow.
        let Ok(cache) = storage.cache().await else { return };
        if !subscription.was_slow() {
            return;
        }
        subscription = begin(cache, &set);
        seen.send_replace(cache.revision());
    }
}

fn apply(event: &CacheEvent, set: &impl Set) {
    let object = &event.object;
    let json = (event.kind != Kind::Deleted).then(|| object.json());
    hand(object.namespace(), object.name(), json.as_deref(), set);
}
