//! The loop: learn what changed, plan, act. All the I/O is here and in `monitor`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kit::{CallError, ReconcileError as _, Stage, chain, tasks};
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use serde_json::json;
use tracing::{debug, info, warn};

use crate::events;
use crate::graph::{Graph, Kind, Object, Uid};
use crate::monitor::{self, Monitors, News, Served};
use crate::plan::{self, Action, Propagation, Verified};
use crate::work::Work;

/// Requests under way at once. Source: `--concurrent-gc-syncs` upstream, which is 20.
const MAX_REQUESTS: usize = 20;

/// News in a row before something is done about them.
const BATCH: usize = 1000;

/// How often the server is asked what it serves, even if no definition of a custom type changed.
///
/// Source: upstream's resync period of the garbage collector.
const REDISCOVER: Duration = Duration::from_secs(30);

/// After a definition changed: time for the server to serve the type.
const SOON: Duration = Duration::from_millis(100);

/// Before an owner that exists, but was not seen yet, is thought of again.
const UNSEEN: Duration = Duration::from_secs(5);

type Kinds = Arc<HashMap<Kind, Served>>;

enum Outcome {
    /// The request was answered as wished, or what it was about is gone: an event will tell.
    Done,
    /// It was about an older version than the server's.
    Outdated,
    Verified(Verified),
    Failed(CallError),
}

/// Collects until the stage's shutdown.
///
/// # Errors
/// None: what fails is tried again.
pub async fn run(stage: Stage) -> Result<(), kit::Error> {
    let collector = Loop {
        kinds: Kinds::default(),
        graph: Graph::default(),
        monitors: Monitors::default(),
        listing: HashMap::new(),
        work: Work::default(),
        verified: HashMap::new(),
        requests: FuturesUnordered::new(),
        started: false,
        stage,
    };
    collector.run().await;
    Ok(())
}

/// What the server serves: now, then whenever it may have changed.
fn served(stage: &Stage) -> BoxStream<'static, HashMap<Kind, Served>> {
    let custom = stage.reflectors.get::<PartialObjectMeta<CustomResourceDefinition>>();
    let definitions = custom.changes().map(drop).boxed();
    let state = (stage.clone(), definitions, Duration::ZERO);
    let served = stream::unfold(state, async |(stage, mut definitions, wait)| {
        tokio::select! {
            () = stage.clock.sleep(wait) => (),
            Some(()) = definitions.next() => {
                stage.clock.sleep(SOON).await;
                while let Some(Some(())) = definitions.next().now_or_never() {}
            }
        }
        let kinds = monitor::discover(stage.client.clone()).await;
        let wait = if kinds.is_ok() { REDISCOVER } else { SOON };
        let kinds = kinds.inspect_err(|error| warn!(error = chain(error), "discovery failed"));
        Some((kinds.ok(), (stage, definitions, wait)))
    });
    served.filter_map(std::future::ready).boxed()
}

struct Loop {
    stage: Stage,
    graph: Graph,
    kinds: Kinds,
    monitors: Monitors,
    /// What the lists that are under way have shown.
    listing: HashMap<Kind, HashSet<Uid>>,
    work: Work,
    /// What the server said about owners, for the next look at each object.
    verified: HashMap<Uid, Verified>,
    requests: FuturesUnordered<BoxFuture<'static, (Uid, Duration, Outcome)>>,
    /// Everything was listed once: before that, owners are missing that are only not listed yet.
    started: bool,
}

impl Loop {
    async fn run(mut self) {
        let shutdown = self.stage.shutdown.clone();
        let mut served = served(&self.stage);
        while !shutdown.is_cancelled() {
            for _ in 0..BATCH {
                let Some(Some(news)) = self.monitors.news.next().now_or_never() else { break };
                self.learn(news);
            }
            let busy = self.act();
            if busy {
                tokio::task::yield_now().await;
            }
            let rest = self.rest();
            tokio::select! {
                Some(news) = self.monitors.news.next() => self.learn(news),
                Some((uid, took, outcome)) = self.requests.next() => self.conclude(&uid, took, outcome),
                Some(kinds) = served.next() => self.follow(kinds),
                () = rest, if !busy => (),
                () = std::future::ready(()), if busy => (),
                () = shutdown.cancelled() => (),
            }
        }
        tasks::let_finish(self.requests).await;
    }

    fn now(&self) -> Duration {
        self.stage.clock.elapsed()
    }

    /// Until the next object is to be looked at again.
    fn rest(&self) -> BoxFuture<'static, ()> {
        let left = self.work.next_due().map(|at| at.saturating_sub(self.now()));
        self.stage.clock.sleep(left.unwrap_or(REDISCOVER))
    }

    fn follow(&mut self, kinds: HashMap<Kind, Served>) {
        if *self.kinds != kinds {
            self.graph.set_kinds(kinds.iter().map(|(k, s)| (k.clone(), s.namespaced)).collect());
            self.monitors.follow(&self.stage.client, &kinds);
            info!(n_kinds = kinds.len(), "kinds discovered");
            self.kinds = Arc::new(kinds);
        }
    }

    fn learn(&mut self, news: News) {
        let look_at = match news {
            News::ListBegins(kind) => {
                self.listing.insert((*kind).clone(), HashSet::new());
                Vec::new()
            }
            News::Seen { object, listed } => {
                if listed && let Some(seen) = self.listing.get_mut(&*object.kind) {
                    seen.insert(Arc::clone(&object.uid));
                }
                self.graph.apply(object)
            }
            News::Gone(object) => self.graph.remove(&object.uid),
            News::ListEnds(kind) => {
                self.settle(&kind);
                let seen = self.listing.remove(&kind).unwrap_or_default();
                let known = self.graph.of_kind(&kind).map(|o| &o.uid);
                let gone: Vec<Uid> = known.filter(|uid| !seen.contains(*uid)).cloned().collect();
                gone.iter().flat_map(|uid| self.graph.remove(uid)).collect()
            }
            News::Failed(kind) => {
                self.settle(&kind);
                Vec::new()
            }
        };
        look_at.into_iter().for_each(|uid| self.work.add(uid));
    }

    fn settle(&mut self, kind: &Kind) {
        self.monitors.settle(kind);
        if !self.started && self.monitors.all_settled() {
            info!(n_objects = self.graph.len(), "everything is listed");
            self.started = true;
        }
    }

    /// Looks at some objects; says whether there are more to look at now.
    fn act(&mut self) -> bool {
        let waiting = i64::try_from(self.work.len()).unwrap_or(i64::MAX);
        self.stage.metrics.queue.set(waiting);
        if !self.started {
            return false;
        }
        for _ in 0..BATCH {
            if self.requests.len() >= MAX_REQUESTS {
                return false;
            }
            let Some(uid) = self.work.pop(self.now()) else { return false };
            self.look_at(uid);
        }
        true
    }

    fn look_at(&mut self, uid: Uid) {
        let verified = self.verified.remove(&uid).unwrap_or_default();
        let action = plan::plan(&self.graph, &uid, &verified);
        let Some(object) = self.graph.get(&uid).cloned() else {
            return self.work.done(&uid);
        };
        match action {
            Action::Keep => self.work.done(&uid),
            Action::LookAgain => self.work.retry(&uid, self.now(), UNSEEN),
            Action::UnknownKind(owner) => {
                debug!(
                    kind = object.kind.kind,
                    name = &*object.name,
                    owner = owner.kind,
                    "unknown kind of owner"
                );
                self.work.retry(&uid, self.now(), UNSEEN);
            }
            Action::Misplaced(owner) => {
                let event = events::invalid_namespace(&owner, object.namespace.as_deref());
                self.stage.recorder.publish_about(self.reference(&object), event);
                self.work.done(&uid);
            }
            Action::Await(dependents) => {
                dependents.into_iter().for_each(|uid| self.work.add(uid));
                self.work.done(&uid); // The end of each will be heard of.
            }
            Action::Release(dependents) => {
                let dependents =
                    dependents.iter().filter_map(|uid| self.graph.get(uid).cloned()).collect();
                self.request(
                    uid,
                    release(self.stage.client.clone(), Arc::clone(&self.kinds), object, dependents),
                );
            }
            Action::Verify(owners) => {
                let verify =
                    verify(self.stage.client.clone(), Arc::clone(&self.kinds), object, owners);
                self.request(uid, verify);
            }
            Action::Delete(how) => {
                self.request(
                    uid,
                    delete(self.stage.client.clone(), Arc::clone(&self.kinds), object, how),
                );
            }
            Action::SetOwners(owners) => {
                let kinds = Arc::clone(&self.kinds);
                self.request(uid, set_owners(self.stage.client.clone(), kinds, object, owners));
            }
            Action::RemoveFinalizer(finalizer) => {
                let kinds = Arc::clone(&self.kinds);
                self.request(
                    uid,
                    remove_finalizer(self.stage.client.clone(), kinds, object, finalizer),
                );
            }
        }
    }

    fn request(&mut self, uid: Uid, request: impl Future<Output = Outcome> + Send + 'static) {
        let (clock, began) = (Arc::clone(&self.stage.clock), self.now());
        let timed = async move {
            let outcome = request.await;
            (uid, clock.elapsed().saturating_sub(began), outcome)
        };
        self.requests.push(timed.boxed());
    }

    fn conclude(&mut self, uid: &Uid, took: Duration, outcome: Outcome) {
        let error = match &outcome {
            Outcome::Failed(error) => Some(error.kind()),
            Outcome::Done | Outcome::Outdated | Outcome::Verified(_) => None,
        };
        self.stage.metrics.reconciled(took, error);
        match outcome {
            Outcome::Done => self.work.done(uid),
            Outcome::Outdated => self.work.retry(uid, self.now(), Duration::ZERO),
            Outcome::Verified(verified) => {
                self.verified.insert(Arc::clone(uid), verified);
                self.work.done(uid);
                self.work.add(Arc::clone(uid));
            }
            Outcome::Failed(error) => {
                warn!(error = chain(&error), "to be tried again");
                self.work.retry(uid, self.now(), Duration::ZERO);
            }
        }
    }

    fn reference(&self, object: &Object) -> ObjectReference {
        let served = self.kinds.get(&*object.kind);
        ObjectReference {
            api_version: served.map(|s| s.resource.api_version.clone()),
            kind: Some(object.kind.kind.clone()),
            namespace: object.namespace.as_deref().map(str::to_owned),
            name: Some(object.name.to_string()),
            uid: Some(object.uid.to_string()),
            ..ObjectReference::default()
        }
    }
}

/// Asks whether owners exist, under the names that the object gives.
async fn verify(
    client: Client,
    kinds: Kinds,
    object: Object,
    owners: Vec<OwnerReference>,
) -> Outcome {
    let mut verified = Verified::new();
    for owner in owners {
        let kind = plan::kind_of(&owner);
        let Some(served) = kinds.get(&kind) else { return Outcome::Outdated };
        let api = served.api(&client, object.namespace.as_deref());
        match api.get_metadata_opt(&owner.name).await {
            Ok(found) => {
                let exists = found.is_some_and(|f| f.metadata.uid.as_deref() == Some(&owner.uid));
                verified.insert(owner.uid, exists);
            }
            Err(source) => return Outcome::Failed(error("get", &kind.kind, &object, source)),
        }
    }
    Outcome::Verified(verified)
}

async fn delete(client: Client, kinds: Kinds, object: Object, how: Propagation) -> Outcome {
    let Some(served) = kinds.get(&*object.kind) else { return Outcome::Outdated };
    let params = DeleteParams {
        propagation_policy: Some(match how {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        }),
        preconditions: Some(Preconditions {
            uid: Some(object.uid.to_string()),
            resource_version: Some(object.resource_version.to_string()),
        }),
        ..DeleteParams::default()
    };
    let api = served.api(&client, object.namespace.as_deref());
    let deleted = api.delete(&object.name, &params).await.map(drop);
    if deleted.is_ok() {
        info!(
            group = object.kind.group,
            kind = object.kind.kind,
            namespace = object.namespace.as_deref(),
            name = &*object.name,
            "deleted, its owners are gone"
        );
    }
    outcome("delete", &object, deleted)
}

async fn set_owners(
    client: Client,
    kinds: Kinds,
    object: Object,
    owners: Vec<OwnerReference>,
) -> Outcome {
    let patch = json!({"metadata": {
        "uid": object.uid, "resourceVersion": object.resource_version, "ownerReferences": owners}});
    patch_metadata(&client, &kinds, &object, &patch).await
}

/// Takes the owner out of its dependents' references; its finalizer goes once there are none.
async fn release(client: Client, kinds: Kinds, owner: Object, dependents: Vec<Object>) -> Outcome {
    let mut all = stream::iter(dependents)
        .map(|dependent| {
            let owners = plan::owners_without(&dependent, &owner.uid);
            set_owners(client.clone(), Arc::clone(&kinds), dependent, owners)
        })
        .buffer_unordered(MAX_REQUESTS);
    let mut result = Outcome::Done;
    while let Some(outcome) = all.next().await {
        if !matches!(outcome, Outcome::Done) {
            result = outcome;
        }
    }
    result
}

async fn remove_finalizer(
    client: Client,
    kinds: Kinds,
    object: Object,
    finalizer: &'static str,
) -> Outcome {
    let Some(served) = kinds.get(&*object.kind) else { return Outcome::Outdated };
    let api = served.api(&client, object.namespace.as_deref());
    let found = match api.get_metadata_opt(&object.name).await {
        Ok(Some(found)) if found.metadata.uid.as_deref() == Some(&object.uid) => found.metadata,
        Ok(_) => return Outcome::Done,
        Err(source) => return Outcome::Failed(error("get", &object.kind.kind, &object, source)),
    };
    let mut finalizers = found.finalizers.unwrap_or_default();
    finalizers.retain(|f| f != finalizer);
    let patch = json!({"metadata": {
        "uid": object.uid, "resourceVersion": found.resource_version, "finalizers": finalizers}});
    patch_metadata(&client, &kinds, &object, &patch).await
}

async fn patch_metadata(
    client: &Client,
    kinds: &Kinds,
    object: &Object,
    patch: &serde_json::Value,
) -> Outcome {
    let Some(served) = kinds.get(&*object.kind) else { return Outcome::Outdated };
    let api = served.api(client, object.namespace.as_deref());
    let params = PatchParams::default();
    let patched = api.patch_metadata(&object.name, &params, &Patch::Merge(patch)).await.map(drop);
    outcome("patch", object, patched)
}

fn outcome(operation: &'static str, object: &Object, result: Result<(), kube::Error>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(kube::Error::Api(status)) if status.is_not_found() => Outcome::Done,
        Err(kube::Error::Api(status)) if status.is_conflict() => Outcome::Outdated,
        Err(source) => Outcome::Failed(error(operation, &object.kind.kind, object, source)),
    }
}

fn error(operation: &'static str, kind: &str, object: &Object, source: kube::Error) -> CallError {
    let namespace = object.namespace.as_deref().unwrap_or_default();
    CallError::new(operation, format!("{kind} {namespace}/{}", object.name), source)
}
