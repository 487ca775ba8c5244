//! Follows the objects of a resource in a task, for those who decide by an index of their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use store::Revision;
use store::cache::{Cache, CacheEvent, Interest, Kind, Object, Subscription};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::registry::Storage;
use crate::status::ApiError;

/// Takes over the state of one object: namespace (empty if it has none), name, and the object; `None`
/// if it is gone.
pub(super) trait Set: Fn(&str, &str, Option<&Value>) + Send + Sync {}
impl<F: Fn(&str, &str, Option<&Value>) + Send + Sync> Set for F {}

/// Which objects are followed; the others are as good as gone, and nobody reads them.
pub(super) type Wanted = fn(&Object) -> bool;

/// Hands over all objects, then every change until `stop`; tells how far it is.
pub(super) async fn follow(
    storage: Arc<Storage>,
    stop: CancellationToken,
    wanted: Wanted,
    set: impl Set + 'static,
) -> Result<watch::Receiver<Revision>, ApiError> {
    let mut followed = Followed { known: BTreeSet::new(), wanted, set };
    let (revision, subscription) = followed.begin(storage.cache().await?);
    let (sender, receiver) = watch::channel(revision);
    let changes = changes(storage, subscription, followed, sender);
    tokio::spawn(async move { stop.run_until_cancelled(changes).await });
    Ok(receiver)
}

/// Who is told, and of what.
struct Followed<S> {
    /// Objects of which the last word was that they are there.
    known: BTreeSet<Arc<str>>,
    wanted: Wanted,
    set: S,
}

impl<S: Set> Followed<S> {
    /// Hands over everything that is there, and that what was known and is no longer there is gone.
    fn begin(&mut self, cache: &Cache) -> (Revision, Subscription) {
        let (list, subscription) = cache.list_and_subscribe(None, Interest::All);
        let mut gone = std::mem::take(&mut self.known);
        let wanted = self.wanted;
        for object in list.iter().filter(|object| wanted(object)) {
            gone.remove(object.key());
            self.there(object);
        }
        for key in gone {
            let path = key.strip_prefix(cache.prefix()).unwrap_or(&key);
            let (namespace, name) = path.split_once('/').unzip();
            (self.set)(namespace.unwrap_or_default(), name.unwrap_or(path), None);
        }
        (list.revision(), subscription)
    }

    fn apply(&mut self, event: &CacheEvent) {
        let object = &event.object;
        if event.kind != Kind::Deleted && (self.wanted)(object) {
            self.there(object);
        } else if self.known.remove(object.key()) {
            (self.set)(object.namespace().unwrap_or_default(), object.name(), None);
        }
    }

    fn there(&mut self, object: &Object) {
        self.known.insert(object.key_shared());
        let json: Option<Value> = serde_json::from_slice(&object.json()).ok();
        (self.set)(object.namespace().unwrap_or_default(), object.name(), json.as_ref());
    }
}

async fn changes(
    storage: Arc<Storage>,
    mut subscription: Subscription,
    mut followed: Followed<impl Set>,
    seen: watch::Sender<Revision>,
) {
    let Ok(cache) = storage.cache().await else { return };
    loop {
        while let Some(event) = subscription.recv().await {
            followed.apply(&event);
            seen.send_replace(event.revision);
        }
        let revision;
        (revision, subscription) = followed.begin(cache);
        seen.send_replace(revision);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use store::cache::{Decoder, Limits};
    use store::{Expect, MemoryStore, Store};

    use super::*;

    const POD: &str = "/registry/core/pods/a/web";

    /// A store with one pod, and its cache.
    async fn one_pod(text: &'static str) -> (Arc<dyn Store>, Cache, Revision) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let decode = Decoder::new(Vec::new()).into();
        let prefix = "/registry/core/pods/";
        let cache = Cache::start(store.clone(), prefix, decode, Limits::default()).await.unwrap();
        let made = store.commit(POD, Expect::Absent, Some(text.into())).await.unwrap();
        cache.fresh().await.unwrap();
        (store, cache, made)
    }

    fn note(told: &Mutex<Vec<String>>) -> impl Set {
        |namespace: &str, name: &str, object: Option<&Value>| {
            told.lock().unwrap().push(format!("{namespace}/{name} {}", object.is_some()));
        }
    }

    #[tokio::test]
    async fn what_went_while_nobody_looked_is_told_gone() {
        let (store, cache, made) = one_pod(r#"{"metadata":{"name":"web","namespace":"a"}}"#).await;
        let told = Mutex::default();
        let mut followed = Followed { known: BTreeSet::new(), wanted: |_| true, set: note(&told) };
        followed.begin(&cache);
        assert_eq!((followed.known.len(), told.lock().unwrap().len()), (1, 1));
        store.commit(POD, Expect::At(made), None).await.unwrap();
        cache.fresh().await.unwrap();
        followed.begin(&cache);
        assert_eq!(*told.lock().unwrap(), ["a/web true", "a/web false"]);
        assert!(followed.known.is_empty());
    }

    #[tokio::test]
    async fn what_is_wanted_no_more_is_told_gone() {
        let wanted = r#"{"metadata":{"name":"web","namespace":"a","labels":{"wanted":""}}}"#;
        let other = r#"{"metadata":{"name":"web","namespace":"a"}}"#;
        let (store, cache, mut at) = one_pod(wanted).await;
        let told = Mutex::default();
        let mut followed = Followed {
            known: BTreeSet::new(),
            wanted: |object| object.labels().get("wanted").is_some(),
            set: note(&told),
        };
        let (_, mut subscription) = followed.begin(&cache);
        for text in [other, other, wanted] {
            at = store.commit(POD, Expect::At(at), Some(text.into())).await.unwrap();
            followed.apply(&subscription.recv().await.unwrap());
        }
        assert_eq!(*told.lock().unwrap(), ["a/web true", "a/web false", "a/web true"]);
    }
}
