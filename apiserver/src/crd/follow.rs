//! Follows the definitions: sets their conditions, and swaps the registry when one changes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;
use store::cache::{Interest, Subscription};
use store::{Expect, Revision, Store};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{CLEANUP, Storages, names, resources};
use crate::bytes;
use crate::enablement::runtime::Disabled;
use crate::registry::{Registry, Resource, Storage};
use crate::server::Core;
use crate::types::conditions;
use crate::write::{delete_all, now};

/// How long the objects of one deleted definition are deleted before other definitions have their turn.
const CLEANUP_FOR: Duration = Duration::from_millis(200);

/// Pause before the objects of a deleted definition are looked for again.
const CLEANUP_AGAIN: Duration = Duration::from_millis(100);

/// Where the follower is.
pub struct Follower {
    seen: watch::Receiver<Revision>,
}

impl Follower {
    /// Builds the first registry, then follows in a task until the server goes.
    ///
    /// # Errors
    /// The definitions cannot be read.
    pub async fn start(
        core: &Arc<Core>,
        definitions: &Arc<Storage>,
    ) -> Result<Self, crate::ApiError> {
        let cache = definitions.cache().await?;
        cache.fresh().await?;
        let (list, subscription) = cache.list_and_subscribe(None, Interest::All);
        let mut state = State {
            core: Arc::downgrade(core),
            store: core.store().clone(),
            definitions: definitions.clone(),
            hosted: Registry::hosted_resources(core.registry().as_ref()),
            known: BTreeMap::new(),
            storages: Storages::new(),
            disabled: core.disabled.clone(),
        };
        for object in list.iter() {
            state.take(object.name(), Some(&object.json()), object.revision());
        }
        core.swap(state.registry());
        let (sender, seen) = watch::channel(list.revision());
        let (stop, core) = (core.stop().clone(), Arc::downgrade(core));
        tokio::spawn(async move {
            stop.run_until_cancelled(run(core, state, subscription, sender)).await
        });
        Ok(Self { seen })
    }

    /// Waits until a change of a definition has taken effect.
    pub async fn wait_for(&self, revision: Revision) {
        let mut seen = self.seen.clone();
        // An error means that the server is going; nothing will be served then.
        let _ = seen.wait_for(|r| *r >= revision).await;
    }
}

/// A definition and what is served of it.
struct Known {
    /// Without its schemas, which are most of it.
    definition: Value,
    /// Tells specifications apart.
    spec: u64,
    revision: Revision,
    served: Vec<Arc<Resource>>,
}

struct State {
    core: Weak<Core>,
    store: Arc<dyn Store>,
    definitions: Arc<Storage>,
    hosted: Vec<Arc<Resource>>,
    known: BTreeMap<String, Known>,
    storages: Storages,
    disabled: Disabled,
}

async fn run(
    core: Weak<Core>,
    mut state: State,
    mut subscription: Subscription,
    seen: watch::Sender<Revision>,
) {
    loop {
        state.reconcile_all(&core).await;
        let waiting = state.known.values().any(|k| is_dying(&k.definition));
        let event = tokio::select! {
            event = subscription.recv() => match event {
                Some(event) => event,
                None => match state.resubscribe().await {
                    Some((fresh, revision)) => {
                        subscription = fresh;
                        if let Some(core) = core.upgrade() {
                            core.swap(state.registry());
                        }
                        seen.send_replace(revision);
                        continue;
                    }
                    None => return,
                },
            },
            () = sleep(CLEANUP_AGAIN), if waiting => continue,
        };
        let Some(core) = core.upgrade() else { return };
        let mut event = Some(event);
        let mut last = 0;
        while let Some(change) = event {
            let gone = change.kind == store::cache::Kind::Deleted;
            let json = change.object.json();
            state.take(change.object.name(), (!gone).then_some(&json), change.revision);
            last = change.revision;
            event = subscription.try_recv();
        }
        core.swap(state.registry());
        state.reconcile(&core).await;
        seen.send_if_modified(|r| std::mem::replace(r, last) != last);
    }
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn is_dying(definition: &Value) -> bool {
    !definition["metadata"]["deletionTimestamp"].is_null()
}

impl State {
    /// Takes over a definition as it is now; `None` if it is gone.
    fn take(&mut self, name: &str, json: Option<&bytes::Bytes>, revision: Revision) {
        let Some(definition) = json.and_then(|j| serde_json::from_slice::<Value>(j).ok()) else {
            if let Some(gone) = self.known.remove(name) {
                let spec = &gone.definition["spec"];
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                self.storages.remove(&(text(&spec["group"]), text(&spec["names"]["plural"])));
            }
            return;
        };
        let established = conditions::is_true(&definition, "Established");
        let spec = hash(&definition["spec"]);
        let same = |k: &Known| k.spec == spec && !k.served.is_empty();
        let served = match self.known.get(name) {
            _ if !established => Vec::new(),
            Some(known) if same(known) => known.served.clone(),
            _ => resources(&self.core, &self.store, &mut self.storages, &definition, revision),
        };
        let mut definition = definition;
        for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
            version["schema"].take();
        }
        self.known.insert(name.to_owned(), Known { definition, spec, revision, served });
    }

    fn registry(&self) -> Registry {
        let custom = self.known.values().flat_map(|k| k.served.iter().cloned());
        let custom = custom.filter(|r| self.disabled.serves(&r.group, &r.version, &r.name));
        Registry::build(self.hosted.iter().cloned().chain(custom))
    }

    /// A definition as it is stored, schemas included; none if it is another one by now.
    fn whole(&self, name: &str, revision: Revision) -> Option<Value> {
        let object = self.definitions.started()?.get(None, name)?;
        (object.revision() == revision).then(|| serde_json::from_slice(object.stored()).ok())?
    }

    /// After a break: everything anew.
    async fn resubscribe(&mut self) -> Option<(Subscription, Revision)> {
        let definitions = self.definitions.clone();
        let cache = definitions.cache().await.ok()?;
        cache.fresh().await.ok()?;
        let (list, subscription) = cache.list_and_subscribe(None, Interest::All);
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names.iter().filter(|n| cache.get(None, n).is_none()) {
            self.take(name, None, list.revision());
        }
        for object in list.iter() {
            self.take(object.name(), Some(&object.json()), object.revision());
        }
        Some((subscription, list.revision()))
    }

    async fn reconcile_all(&mut self, core: &Weak<Core>) {
        if let Some(core) = core.upgrade() {
            self.reconcile(&core).await;
        }
    }

    /// Brings conditions up to date and removes what deleted definitions leave behind.
    async fn reconcile(&mut self, core: &Arc<Core>) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        let mut changed = false;
        for name in names {
            changed |= self.reconcile_one(core, &name).await;
        }
        if changed {
            core.swap(self.registry());
        }
    }

    async fn reconcile_one(&mut self, core: &Arc<Core>, name: &str) -> bool {
        let Some(known) = self.known.get(name) else { return false };
        if is_dying(&known.definition) {
            self.clean_up(core, name).await;
            return false;
        }
        let group = &known.definition["spec"]["group"];
        let others: Vec<&Value> = self
            .known
            .iter()
            .filter(|(n, k)| n.as_str() != name && k.definition["spec"]["group"] == *group)
            .map(|(_, k)| &k.definition)
            .collect();
        let status = names::wanted_status(&known.definition, &others, &now());
        if status == known.definition["status"] {
            return false;
        }
        let Some(mut definition) = self.whole(name, known.revision) else { return false };
        definition["status"] = status;
        match self.commit(name, known.revision, Some(&definition)).await {
            Some(revision) => {
                let json = bytes::with_version(&bytes::encode(&definition), revision);
                self.take(name, Some(&json), revision);
                info!(definition = name, "custom resource definition updated");
                true
            }
            None => false, // Somebody else changed it; their change is on its way to us.
        }
    }

    async fn commit(
        &self,
        name: &str,
        at: Revision,
        definition: Option<&Value>,
    ) -> Option<Revision> {
        let key = self.definitions.key("", name);
        match self.store.commit(&key, Expect::At(at), definition.map(bytes::encode)).await {
            Ok(revision) => Some(revision),
            Err(store::Error::Conflict { .. }) => None,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    definition = name,
                    "status not written"
                );
                None
            }
        }
    }

    /// Deletes the objects of a deleted definition; the definition goes when none is left.
    async fn clean_up(&mut self, core: &Arc<Core>, name: &str) {
        let Some(known) = self.known.get(name) else { return };
        let held = known.definition["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| f.iter().any(|x| x == CLEANUP));
        if !held {
            return;
        }
        if let Some(resource) = known.served.first() {
            match delete_all(core, resource, CLEANUP_FOR).await {
                Ok(0) => (),
                Ok(_) => return,
                Err(error) => {
                    warn!(%error, definition = name, "objects not deleted");
                    return;
                }
            }
        }
        let Some(mut definition) = self.whole(name, known.revision) else { return };
        if let Some(finalizers) = definition["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|f| f != CLEANUP);
        }
        let gone = definition["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let revision = known.revision;
        if self.commit(name, revision, (!gone).then_some(&definition)).await.is_some() && gone {
            self.take(name, None, revision);
            core.swap(self.registry());
            info!(definition = name, "custom resource definition removed");
        }
    }
}
