//! The webhooks and policies of a cluster, compiled, as the newest configuration objects have them.
//!
//! A request reads a list without a lock; where nothing is configured the list is empty and costs nothing.
//! An object is compiled when it changes, never for a request.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use store::Revision;
use store::cache::Snapshot;
use tokio::sync::watch;

use super::policy::{self, Binding, Policy};
use super::webhook::{self, Webhook};
use crate::registry::Storage;
use crate::server::Core;
use crate::status::ApiError;

const GROUP: &str = "admissionregistration.k8s.io";

/// The two phases, each with its webhooks and policies.
#[derive(Default)]
pub struct Hooks {
    pub(super) mutating: Lists,
    pub(super) validating: Lists,
    compiled: Mutex<Compiled>,
}

/// What one phase asks.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) webhooks: ArcSwap<Vec<Arc<Webhook>>>,
    pub(super) policies: ArcSwap<Vec<Arc<Policy>>>,
}

/// One phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Mutating,
    Validating,
}

/// Configuration objects, by plural name.
const RESOURCES: [(&str, Phase); 6] = [
    ("mutatingwebhookconfigurations", Phase::Mutating),
    ("mutatingadmissionpolicies", Phase::Mutating),
    ("mutatingadmissionpolicybindings", Phase::Mutating),
    ("validatingwebhookconfigurations", Phase::Validating),
    ("validatingadmissionpolicies", Phase::Validating),
    ("validatingadmissionpolicybindings", Phase::Validating),
];

/// What was made of each object's newest version.
#[derive(Default)]
struct Compiled {
    webhooks: Made<Vec<Arc<Webhook>>>,
    policies: Made<Arc<policy::Definition>>,
    bindings: Made<Arc<Binding>>,
}

/// Objects by plural name and own name.
type Made<T> = HashMap<(&'static str, String), (Revision, T)>;

impl Hooks {
    fn lists(&self, phase: Phase) -> &Lists {
        match phase {
            Phase::Mutating => &self.mutating,
            Phase::Validating => &self.validating,
        }
    }

    /// Takes over what the caches of a phase hold now.
    fn renew(&self, core: &Core, phase: Phase) {
        // Whoever holds the lock reads the caches: what is stored last is what is newest.
        let mut compiled = self.compiled.lock();
        let lists = self.lists(phase);
        let registry = core.registry();
        for (name, _) in RESOURCES.iter().filter(|(_, of)| *of == phase) {
            let cache = registry.find(GROUP, name).and_then(|resource| resource.cache());
            if let Some(cache) = cache {
                compiled.take(name, &cache.list(None), lists);
            }
        }
        lists.policies.store(Arc::new(compiled.joined(phase)));
    }
}

impl Compiled {
    fn take(&mut self, name: &'static str, snapshot: &Snapshot, lists: &Lists) {
        if name.ends_with("webhookconfigurations") {
            let list = renew(&mut self.webhooks, name, snapshot, webhook::compile);
            lists.webhooks.store(Arc::new(list.into_iter().flatten().collect()));
        } else if name.ends_with("bindings") {
            let compile = |object: &Value| Arc::new(Binding::compile(object));
            renew(&mut self.bindings, name, snapshot, compile);
        } else {
            let compile = |object: &Value| Arc::new(policy::Definition::compile(object));
            renew(&mut self.policies, name, snapshot, compile);
        }
    }

    /// The policies of a phase that have bindings, by name.
    fn joined(&self, phase: Phase) -> Vec<Arc<Policy>> {
        let of_phase = |resource: &str| RESOURCES.contains(&(resource, phase));
        let bindings = self.bindings.iter().filter(|((resource, _), _)| of_phase(resource));
        let bindings: Vec<&Arc<Binding>> = bindings.map(|(_, (_, binding))| binding).collect();
        let definitions = self.policies.iter().filter(|((resource, _), _)| of_phase(resource));
        let mut joined: Vec<Arc<Policy>> = definitions
            .map(|(_, (_, definition))| Arc::new(Policy::join(definition, &bindings)))
            .filter(|policy| !policy.bindings.is_empty())
            .collect();
        joined.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        joined
    }
}

/// Compiles what is new in a snapshot, forgets what is gone; answers all of it by name.
fn renew<T: Clone>(
    made: &mut Made<T>,
    resource: &'static str,
    snapshot: &Snapshot,
    compile: impl Fn(&Value) -> T,
) -> Vec<T> {
    let names: HashSet<&str> = snapshot.iter().map(|object| object.name()).collect();
    made.retain(|(of, name), _| *of != resource || names.contains(name.as_str()));
    let mut out = Vec::new();
    for object in snapshot.iter() {
        let key = (resource, object.name().to_owned());
        let known = made.get(&key).filter(|(revision, _)| *revision == object.revision());
        if known.is_none() {
            let Ok(json) = serde_json::from_slice(object.stored()) else { continue };
            made.insert(key.clone(), (object.revision(), compile(&json)));
        }
        out.extend(made.get(&key).map(|(_, compiled)| compiled.clone()));
    }
    out
}

/// Where the compiled lists are, by plural name.
pub(crate) struct Follower {
    seen: HashMap<&'static str, watch::Receiver<Revision>>,
}

impl Follower {
    /// Compiles everything, then follows in tasks.
    ///
    /// # Errors
    /// The configuration objects cannot be read.
    pub(crate) async fn start(core: &Arc<Core>) -> Result<Self, ApiError> {
        let mut seen = HashMap::new();
        for (name, phase) in RESOURCES {
            let registry = core.registry();
            let resource = registry.find(GROUP, name).ok_or(ApiError::NoResource)?;
            let storage = resource.storage()?.clone();
            let cache = storage.cache().await?;
            let (sender, receiver) = watch::channel(cache.revision());
            seen.insert(name, receiver);
            let stop = core.stop().clone();
            let follower = follow(Arc::downgrade(core), phase, storage, sender);
            tokio::spawn(async move { stop.run_until_cancelled(follower).await });
        }
        core.hooks.renew(core, Phase::Mutating);
        core.hooks.renew(core, Phase::Validating);
        Ok(Self { seen })
    }

    /// Waits until a change counts.
    pub(crate) async fn wait_for(&self, resource: &str, revision: Revision) {
        if let Some(seen) = self.seen.get(resource) {
            // An error means that the server is going.
            let _ = seen.clone().wait_for(|r| *r >= revision).await;
        }
    }
}

async fn follow(
    core: std::sync::Weak<Core>,
    phase: Phase,
    storage: Arc<Storage>,
    seen: watch::Sender<Revision>,
) {
    let Ok(cache) = storage.cache().await else { return };
    let mut passes = cache.passes();
    loop {
        let revision = passes.next().await;
        let Some(core) = core.upgrade() else { return };
        core.hooks.renew(&core, phase);
        seen.send_replace(revision);
    }
}
