//! How many pods to create, which to delete, adopt and release, and what the status says; no I/O.

mod rank;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kit::{
    claim::{Claim, Claimant},
    owner, pods,
};
use kube::{
    ResourceExt,
    core::{ParseExpressionError, Selector},
};

/// Most pods that one reconcile creates or deletes.
///
/// Source: `BurstReplicas` in upstream `pkg/controller/replicaset/replica_set.go`.
const BURST_REPLICAS: usize = 500;

/// All that a decision depends on.
pub struct Observed {
    /// The ReplicaSet itself.
    pub replica_set: Arc<ReplicaSet>,
    /// Its UID.
    pub uid: String,
    /// Which pods are its own.
    pub selector: Selector,
    /// Wanted.
    pub replicas: usize,
    /// How long a pod must be ready to count as available.
    pub min_ready: Duration,
    /// Every pod that it controls, and every orphan in its namespace, matching or not.
    pub pods: Vec<Arc<Pod>>,
    /// Active pods of all ReplicaSets with the same controller, its own included.
    pub related: Vec<Arc<Pod>>,
    /// The time.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Become the controller of an orphan that matches, or let go of a pod that matches no longer.
    Claim(Claim, Arc<Pod>),
    /// Create equal pods.
    Create {
        /// How many.
        count: usize,
        /// The pod, with `generateName`.
        pod: Box<Pod>,
    },
    /// Delete a pod; by its UID, so that a later namesake is left alone.
    Delete(Arc<Pod>),
}

/// What must be done now; claims first, so that what follows counts the right pods.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Action> {
    if observed.replica_set.metadata.deletion_timestamp.is_some() {
        return Vec::new(); // The garbage collector owns the rest.
    }
    let mut actions = claims(observed);
    let active = active(observed);
    if active.len() < observed.replicas {
        let count = (observed.replicas - active.len()).min(BURST_REPLICAS);
        actions.push(Action::Create { count, pod: Box::new(new_pod(&observed.replica_set)) });
    } else if active.len() > observed.replicas {
        let surplus = (active.len() - observed.replicas).min(BURST_REPLICAS);
        let ranked = rank::for_deletion(active, &observed.related, observed.now);
        actions.extend(ranked.into_iter().take(surplus).map(Action::Delete));
    }
    actions
}

/// The status as it should be; `failure` is what [`plan`] asked for and could not be done.
#[must_use]
pub fn status(observed: &Observed, failure: Option<&Failure>) -> ReplicaSetStatus {
    let rs = &observed.replica_set;
    let active = active(observed);
    let template = rs
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let count = |keep: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| keep(pod)).count();
    let fully_labeled = |pod: &Pod| {
        template.is_none_or(|labels| {
            labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        })
    };
    let available = |pod: &Pod| {
        pods::available_in(pod, observed.min_ready, observed.now).is_some_and(|left| left.is_zero())
    };
    let own = claimant(observed);
    let terminating =
        observed.pods.iter().filter(|pod| own.owns(&pod.metadata) && pods::is_terminating(pod));
    let positive = |n: usize| Some(to_i32(n)).filter(|n| *n > 0);
    let old = rs.status.as_ref();
    ReplicaSetStatus {
        replicas: to_i32(active.len()),
        fully_labeled_replicas: positive(count(&fully_labeled)),
        ready_replicas: positive(count(&pods::is_ready)),
        available_replicas: positive(count(&available)),
        terminating_replicas: Some(to_i32(terminating.count())),
        observed_generation: rs.metadata.generation,
        conditions: conditions(
            old.and_then(|status| status.conditions.clone()).unwrap_or_default(),
            failure,
            observed.now,
        ),
    }
}

/// Why pods could not be created or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// What the server said.
    pub message: String,
}

/// When the status will change although nothing happens: a ready pod becomes available.
#[must_use]
pub fn recheck_after(observed: &Observed) -> Option<Duration> {
    let left = |pod: &Arc<Pod>| pods::available_in(pod, observed.min_ready, observed.now);
    active(observed).iter().filter_map(left).filter(|left| !left.is_zero()).min()
}

/// The selector of a ReplicaSet.
///
/// # Errors
/// An expression that no selector can have, which validation refuses.
pub(crate) fn selector(rs: &ReplicaSet) -> Result<Selector, ParseExpressionError> {
    rs.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default().try_into()
}

fn active(observed: &Observed) -> Vec<Arc<Pod>> {
    let own = claimant(observed);
    let own = observed.pods.iter().filter(|pod| pods::is_active(pod) && own.owns(&pod.metadata));
    own.cloned().collect()
}

fn claimant(observed: &Observed) -> Claimant<'_> {
    Claimant { owner: &observed.replica_set.metadata, selector: &observed.selector }
}

fn claims(observed: &Observed) -> Vec<Action> {
    let claimant = claimant(observed);
    let active = observed.pods.iter().filter(|pod| pods::is_active(pod));
    let claims =
        active.filter_map(|pod| Some(Action::Claim(claimant.claim(&pod.metadata)?, pod.clone())));
    claims.collect()
}

fn new_pod(rs: &ReplicaSet) -> Pod {
    let template = rs.spec.as_ref().and_then(|spec| spec.template.clone());
    let PodTemplateSpec { metadata, spec } = template.unwrap_or_default();
    let metadata = metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", rs.name_any())),
            namespace: rs.namespace(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: owner::controlled_by(rs).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// `ReplicaFailure` is there while pods cannot be created or deleted, and gone otherwise.
///
/// Source: `calculateStatus` in upstream `pkg/controller/replicaset/replica_set_utils.go`.
fn conditions(
    mut conditions: Vec<ReplicaSetCondition>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const REPLICA_FAILURE: &str = "ReplicaFailure";
    let has_failed = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        Some(failure) if !has_failed => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        Some(_) => {} // The first failure explains more than its repetitions.
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

fn to_i32(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
