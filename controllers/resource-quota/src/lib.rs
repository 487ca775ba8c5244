//! Counts what each namespace uses of what its quotas are about.
//!
//! It owns the status of `v1` ResourceQuotas. The API server charges a quota before it stores an object; this player
//! takes over new limits, finds what was given back, and what was charged in vain. [`plan`](plan()) decides,
//! [`reconcile`] counts and writes.
//!
//! Pods, services and claims are measured, from caches; of other types only the number counts, which the server is
//! asked for. Their deletions are watched as long as a quota names them.

mod plan;
mod reconcile;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Change, Clock, Controller, Player, Reflected, Reflector, Stage, pods, rules};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

pub use plan::{Charges, IN_FLIGHT, Observed, Status, count, count_all, plan, types};
pub use reconcile::{Error, reconcile};
use watch::Watches;

/// The ResourceQuota player.
pub static PLAYER: Player =
    Player::new("resource-quota", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("resourcequota-controller")
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![
        // Any type can be counted.
        rules::rule("*", &["*"], &["list", "watch"]),
        rules::rule("", &["resourcequotas/status"], &["patch"]),
    ]
}

/// What outlives one reconcile; one a term of leading.
pub struct Context {
    /// Acts as the player.
    pub client: Client,
    /// All pods.
    pub pods: Reflector<Pod>,
    /// All services.
    pub services: Reflector<Service>,
    /// All claims.
    pub claims: Reflector<PersistentVolumeClaim>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is known of each quota, by uid.
    quotas: Mutex<HashMap<String, Known>>,
    /// Quotas in whose namespaces something was given back since they were counted.
    dirty: Dirty,
    watches: Watches,
}

/// What is known of a quota beyond what it says.
#[derive(Default)]
struct Known {
    charges: Charges,
    counted_at: Option<jiff::Timestamp>,
}

type Dirty = Arc<Mutex<HashSet<ObjectRef<ResourceQuota>>>>;

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let quotas = stage.reflectors.get::<ResourceQuota>();
    let (watches, deleted) = Watches::new(stage.client.clone());
    let dirty = Dirty::default();
    let context = Arc::new(Context {
        client: stage.client.clone(),
        pods: stage.reflectors.get(),
        services: stage.reflectors.get(),
        claims: stage.reflectors.get(),
        clock: Arc::clone(&stage.clock),
        quotas: Mutex::default(),
        dirty: Arc::clone(&dirty),
        watches,
    });
    let given_back = stream::select_all([
        namespaces(&context.pods, |new, old| {
            pods::is_terminal(new) != pods::is_terminal(old) || new.spec != old.spec
        })
        .boxed(),
        namespaces(&context.services, |new, old| new.spec != old.spec).boxed(),
        namespaces(&context.claims, |new, old| new.spec != old.spec || new.status != old.status)
            .boxed(),
        deleted.boxed(),
    ]);
    let woken = given_back.flat_map(move |namespace| {
        let concerned: Vec<_> = quotas
            .in_namespace(&namespace)
            .iter()
            .map(|quota| ObjectRef::from_obj(&**quota))
            .collect();
        dirty.lock().extend(concerned.iter().cloned());
        stream::iter(concerned)
    });
    Controller::<ResourceQuota>::new(&stage)
        .needs(&context.pods)
        .needs(&context.services)
        .needs(&context.claims)
        .wakes_on(woken)
        .run(context, reconcile)
        .await
}

/// Namespaces in which an object has gone, or has changed so that it may use less.
fn namespaces<K: Reflected>(
    reflector: &Reflector<K>,
    matters: impl Fn(&K, &K) -> bool + Send + 'static,
) -> impl Stream<Item = String> + Send + 'static {
    reflector.changes().filter_map(move |change| {
        let namespace = match &change {
            Change::Deleted(object) => object.namespace(),
            Change::Applied { object, previous: Some(previous) } if matters(object, previous) => {
                object.namespace()
            }
            Change::Applied { .. } => None,
        };
        std::future::ready(namespace)
    })
}
