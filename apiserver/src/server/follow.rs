//! Follows the objects of a resource in a task, for those who decide by an index of their own.

use std::collections::BTreeSet;
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
pub(super) trait Set: Fn(&str, &str, Option<&Value>) + Send + Sync {}
impl<F: Fn(&str, &str, Option<&Value>) + Send + Sync> Set for F {}

/// Hands over all objects, then every change until `stop`; tells how far it is.
pub(super) async fn follow(
    storage: Arc<Storage>,
    stop: CancellationToken,
    set: impl Set + 'static,
) -> Result<watch::Receiver<Revision>, ApiError> {
    let mut known = BTreeSet::new();
    let (revision, subscription) = begin(storage.cache().await?, &mut known, &set);
    let (sender, receiver) = watch::channel(revision);
    let changes = changes(storage, subscription, known, sender, set);
    tokio::spawn(async move { stop.run_until_cancelled(changes).await });
    Ok(receiver)
}

/// Hands over everything that is there, and that what was `known` and is no longer there is gone.
fn begin(
    cache: &Cache,
    known: &mut BTreeSet<Arc<str>>,
    set: &impl Set,
) -> (Revision, Subscription) {
    let (list, subscription) = cache.list_and_subscribe(None, Interest::All);
    let mut gone = std::mem::take(known);
    for object in list.iter() {
        hand(object.namespace(), object.name(), Some(&object.json()), set);
        gone.remove(object.key());
        known.insert(object.key_shared());
    }
    for key in gone {
        let path = key.strip_prefix(cache.prefix()).unwrap_or(&key);
        let (namespace, name) = path.split_once('/').unzip();
        hand(namespace, name.unwrap_or(path), None, set);
    }
    (list.revision(), subscription)
}

fn hand(namespace: Option<&str>, name: &str, json: Option<&[u8]>, set: &impl Set) {
    let object: Option<Value> = json.and_then(|json| serde_json::from_slice(json).ok());
    set(namespace.unwrap_or_default(), name, object.as_ref());
}

async fn changes(
    storage: Arc<Storage>,
    mut subscription: Subscription,
    mut known: BTreeSet<Arc<str>>,
    seen: watch::Sender<Revision>,
    set: impl Set,
) {
    let Ok(cache) = storage.cache().await else { return };
    loop {
        while let Some(event) = subscription.recv().await {
            apply(&event, &mut known, &set);
            seen.send_replace(event.revision);
        }
        let revision;
        (revision, subscription) = begin(cache, &mut known, &set);
        seen.send_replace(revision);
    }
}

fn apply(event: &CacheEvent, known: &mut BTreeSet<Arc<str>>, set: &impl Set) {
    let object = &event.object;
    let json = (event.kind != Kind::Deleted).then(|| object.json());
    match &json {
        Some(_) => known.insert(object.key_shared()),
        None => known.remove(object.key()),
    };
    hand(object.namespace(), object.name(), json.as_deref(), set);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use store::cache::{Decoder, Limits};
    use store::{Expect, MemoryStore, Store};

    use super::*;

    #[tokio::test]
    async fn what_went_while_nobody_looked_is_told_gone() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let prefix = "/registry/core/pods/";
        let decode = Decoder::new(Vec::new()).into();
        let cache = Cache::start(store.clone(), prefix, decode, Limits::default()).await.unwrap();
        let key = format!("{prefix}a/web");
        let text = r#"{"metadata":{"name":"web","namespace":"a"}}"#;
        let made = store.commit(&key, Expect::Absent, Some(text.into())).await.unwrap();
        cache.fresh().await.unwrap();
        let told = Mutex::new(Vec::new());
        let set = |namespace: &str, name: &str, object: Option<&Value>| {
            told.lock().unwrap().push(format!("{namespace}/{name} {}", object.is_some()));
        };
        let (known, n) =
            (&mut BTreeSet::new(), |told: &Mutex<Vec<String>>| told.lock().unwrap().len());
        begin(&cache, known, &set);
        assert_eq!((known.len(), n(&told)), (1, 1));
        store.commit(&key, Expect::At(made), None).await.unwrap();
        cache.fresh().await.unwrap();
        begin(&cache, known, &set);
        assert_eq!(*told.lock().unwrap(), ["a/web true", "a/web false"]);
        assert!(known.is_empty());
    }
}
