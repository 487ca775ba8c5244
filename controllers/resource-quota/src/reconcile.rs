//! Count, plan, write the status: all the I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kit::{ReconcileError, Requeue};
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use quota::{Amounts, Evaluator, Selector};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::debug;

use crate::plan::{self, IN_FLIGHT, Observed, Status};
use crate::{Context, Known};

/// Everything is counted anew after this time.
///
/// Source: upstream's `--resource-quota-sync-period`.
const RECOUNT: Duration = Duration::from_mins(5);

/// Most quotas remembered before those that were not counted for long are forgotten.
const KNOWN: usize = 4096;

/// What can go wrong in a reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Objects of a type could not be counted.
    #[error("failed to count {what} in {namespace}")]
    Count {
        /// Plural name and group.
        what: String,
        /// Where.
        namespace: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error("failed to write the status")]
    Status {
        /// Why.
        source: Box<kube::Error>,
    },
    /// An object has no JSON form.
    #[error("failed to read an object")]
    Read(#[from] serde_json::Error),
}

impl ReconcileError for Error {
    fn kind(&self) -> &'static str {
        match self {
            Self::Count { .. } => "count",
            Self::Status { .. } => "status",
            Self::Read(_) => "read",
        }
    }
}

/// Makes the status of one quota say what is used.
///
/// # Errors
/// [`Error`]; trying again may help.
pub async fn reconcile(quota: Arc<ResourceQuota>, context: Arc<Context>) -> Result<Requeue, Error> {
    let object = serde_json::to_value(&*quota)?;
    let wanted = Amounts::read(&object["spec"]["hard"]);
    let status = Status {
        hard: Amounts::read(&object["status"]["hard"]),
        used: Amounts::read(&object["status"]["used"]),
    };
    let (now, key) = (context.clock.now(), ObjectRef::from_obj(&*quota));
    let (in_flight, counted_at) = observe(&context, &quota, &status.used, now);
    let given_back = context.dirty.lock().remove(&key);
    let settled = counted_at.map(|then| now.duration_since(then)).filter(|age| *age < IN_FLIGHT);
    // Every creation changes the quota; that alone is no reason to count each time.
    if let Some(age) = settled.filter(|_| !given_back && status.hard.equals(&wanted)) {
        return Ok(Requeue::requeue(unsigned(IN_FLIGHT - age)));
    }
    let counted = count(&context, &quota, &object["spec"], &wanted, now).await?;
    let observed =
        Observed { wanted: &wanted, status: &status, counted: &counted, in_flight: &in_flight };
    if let Some(next) = plan::plan(&observed) {
        write(&context, &quota, &next).await?;
    }
    with_known(&context, &quota, |known| known.counted_at = Some(now));
    let soon = !in_flight.is_empty();
    Ok(Requeue::requeue(if soon { unsigned(IN_FLIGHT) } else { RECOUNT }))
}

/// Notes what was charged, and answers what of it may be in flight, and when the quota was last counted.
fn observe(
    context: &Context,
    quota: &ResourceQuota,
    used: &Amounts,
    now: Timestamp,
) -> (Amounts, Option<Timestamp>) {
    with_known(context, quota, |known| {
        known.charges.see(revision(quota), used, now);
        (known.charges.in_flight(now), known.counted_at)
    })
}

fn with_known<T>(
    context: &Context,
    quota: &ResourceQuota,
    change: impl FnOnce(&mut Known) -> T,
) -> T {
    let mut all = context.quotas.lock();
    if all.len() > KNOWN {
        let oldest = all.values().filter_map(|known| known.counted_at).min();
        all.retain(|_, known| known.counted_at > oldest);
    }
    change(all.entry(quota.uid().unwrap_or_default()).or_default())
}

fn revision(quota: &ResourceQuota) -> u64 {
    quota.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

fn unsigned(duration: jiff::SignedDuration) -> Duration {
    duration.try_into().unwrap_or_default()
}

async fn count(
    context: &Context,
    quota: &ResourceQuota,
    spec: &Value,
    wanted: &Amounts,
    now: Timestamp,
) -> Result<Amounts, Error> {
    let namespace = quota.namespace().unwrap_or_default();
    let selectors = Selector::of_quota(spec);
    let mut counted = Amounts::default();
    for (group, plural) in plan::types(wanted) {
        let evaluator = Evaluator::new(&group, &plural);
        let measured = match (&*group, &*plural) {
            ("", "pods") => Some(values(&context.pods.in_namespace(&namespace))?),
            ("", "services") => Some(values(&context.services.in_namespace(&namespace))?),
            ("", "persistentvolumeclaims") => {
                Some(values(&context.claims.in_namespace(&namespace))?)
            }
            _ => None,
        };
        if let Some(objects) = measured {
            let sum = plan::count(&evaluator, objects.iter(), wanted, &selectors, now);
            counted.add_all(&sum);
            continue;
        }
        let number = context.watches.count(&group, &plural, &namespace).await;
        let number = number.map_err(|source| Error::Count {
            what: format!("{plural}.{group}"),
            namespace: namespace.clone(),
            source: Box::new(source),
        })?;
        if let Some(number) = number {
            counted.add_all(&plan::count_all(&evaluator, number, wanted, &selectors));
        }
    }
    Ok(counted)
}

fn values<K: Serialize>(objects: &[Arc<K>]) -> Result<Vec<Value>, serde_json::Error> {
    objects.iter().map(|object| serde_json::to_value(&**object)).collect()
}

/// Writes the status over exactly the version that was read: a charge that came meanwhile is not undone.
async fn write(context: &Context, quota: &ResourceQuota, next: &Status) -> Result<(), Error> {
    let namespace = quota.namespace().unwrap_or_default();
    let api = Api::<ResourceQuota>::namespaced(context.client.clone(), &namespace);
    let mut status = json!({"hard": next.hard.to_value(), "used": next.used.to_value()});
    // A merge patch keeps what it does not name.
    let old = serde_json::to_value(&quota.status)?;
    for list in ["hard", "used"] {
        for (name, _) in old[list].as_object().into_iter().flatten() {
            if status[list][name].is_null() {
                status[list][name] = Value::Null;
            }
        }
    }
    let patch =
        json!({"metadata": {"resourceVersion": quota.resource_version()}, "status": status});
    let written = api
        .patch_status(&quota.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(|source| Error::Status { source: Box::new(source) })?;
    with_known(context, &written, |known| known.charges.wrote(revision(&written), &next.used));
    debug!(%namespace, quota = quota.name_any(), used = %next.used, "counted");
    Ok(())
}
