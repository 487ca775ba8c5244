//! Follows roles and bindings, so that the authorizer always knows the newest.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use store::Revision;
use store::cache::{Cache, CacheEvent, Interest, Kind as Change, Subscription};
use tokio::sync::watch;

use super::Core;
use crate::identity::Authorizer;
use crate::identity::rbac::Kind;
use crate::registry::Storage;
use crate::status::ApiError;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Where the authorizer's knowledge is, by plural name.
pub(super) struct Follower {
    seen: HashMap<&'static str, watch::Receiver<Revision>>,
}

impl Follower {
    /// Reads everything, then follows in tasks.
    pub(super) async fn start(core: &Arc<Core>) -> Result<Self, ApiError> {
        let mut seen = HashMap::new();
        let registry = core.registry();
        for kind in Kind::ALL {
            let resource = registry.find(GROUP, kind.resource()).ok_or(ApiError::NoResource)?;
            let storage = resource.storage()?.clone();
            let cache = storage.cache().await?;
            let subscription = begin(&core.authorizer, kind, cache);
            let (sender, receiver) = watch::channel(cache.revision());
            seen.insert(kind.resource(), receiver);
            let follower = follow(core.authorizer.clone(), kind, storage, subscription, sender);
            let stop = core.stop().clone();
            tokio::spawn(async move { stop.run_until_cancelled(follower).await });
        }
        Ok(Self { seen })
    }

    /// Waits until a change counts.
    pub(super) async fn wait_for(&self, resource: &str, revision: Revision) {
        if let Some(seen) = self.seen.get(resource) {
            // An error means that the server is going.
            let _ = seen.clone().wait_for(|r| *r >= revision).await;
        }
    }
}

fn begin(authorizer: &Authorizer, kind: Kind, cache: &Cache) -> Subscription {
    let (list, subscription) = cache.list_and_subscribe(None, Interest::All);
    for object in list.iter() {
        set(authorizer, kind, object.namespace(), object.name(), Some(&object.json()));
    }
    subscription
}

fn set(
    authorizer: &Authorizer,
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
    json: Option<&[u8]>,
) {
    let object: Option<Value> = json.and_then(|json| serde_json::from_slice(json).ok());
    authorizer.set(kind, namespace.unwrap_or_default(), name, object.as_ref());
}

async fn follow(
    authorizer: Arc<Authorizer>,
    kind: Kind,
    storage: Arc<Storage>,
    mut subscription: Subscription,
    seen: watch::Sender<Revision>,
) {
    loop {
        while let Some(event) = subscription.recv().await {
            apply(&authorizer, kind, &event);
            seen.send_replace(event.revision);
        }
        if seen.is_closed() {
            return;
        }
        let Ok(cache) = storage.cache().await else { return };
        subscription = begin(&authorizer, kind, cache);
        seen.send_replace(cache.revision());
    }
}

fn apply(authorizer: &Authorizer, kind: Kind, event: &CacheEvent) {
    let object = &event.object;
    let json = (event.kind != Change::Deleted).then(|| object.json());
    set(authorizer, kind, object.namespace(), object.name(), json.as_deref());
}
