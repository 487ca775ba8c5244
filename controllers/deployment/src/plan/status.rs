//! What a Deployment's status says, and when it says something else although nothing happens.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use super::{
    Observed, available_of, is_paused, max_unavailable, new_and_old, replicas_of, rollout,
};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_RS_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// What became of the actions, as far as the status tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the ReplicaSet that was created.
    pub created: Option<String>,
    /// Why the new ReplicaSet could not be created.
    pub create_failed: Option<String>,
}

/// The status as it should be.
#[must_use]
pub fn status(observed: &Observed, outcome: &Outcome) -> DeploymentStatus {
    let old = observed.deployment.status.clone().unwrap_or_default();
    let (new_rs, old_rs) = new_and_old(observed);
    let all: Vec<_> = old_rs.iter().chain(&new_rs).collect();
    let positive = |n: i32| Some(n).filter(|n| *n > 0);
    let available: i32 = all.iter().map(|rs| available_of(rs)).sum();
    let wanted: i32 = all.iter().map(|rs| replicas_of(rs)).sum();
    let sum = |of: fn(&ReplicaSet) -> i32| all.iter().map(|rs| of(rs)).sum::<i32>();
    let mut status = DeploymentStatus {
        observed_generation: observed.deployment.metadata.generation,
        replicas: positive(sum(actual)),
        updated_replicas: positive(new_rs.as_deref().map_or(0, actual)),
        ready_replicas: positive(sum(ready)),
        available_replicas: positive(available),
        unavailable_replicas: positive(wanted - available),
        terminating_replicas: Some(sum(terminating)),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let mut conditions = status.conditions.take().unwrap_or_default();
    set(&mut conditions, availability(observed, available));
    if observed.deadline.is_none() {
        conditions.retain(|condition| condition.type_ != PROGRESSING);
    } else if observed.deployment.metadata.deletion_timestamp.is_none() {
        hint(observed, &mut conditions, new_rs.as_deref(), outcome);
        // Following a change of `spec.replicas` says nothing about progress.
        let has_failed = outcome.create_failed.is_some();
        if !has_failed && !is_paused(observed) && !rollout::is_scaling(observed) {
            progress(observed, &mut conditions, new_rs.as_deref(), &old, &status);
        }
    }
    failures(&mut conditions, &new_rs, &old_rs);
    status.conditions = Some(conditions);
    status
}

/// Whether the rollout is done, by this status.
pub(super) fn is_complete(observed: &Observed, status: &DeploymentStatus) -> bool {
    let is_wanted = |n: Option<i32>| n.unwrap_or(0) == observed.replicas;
    is_wanted(status.updated_replicas)
        && is_wanted(status.replicas)
        && is_wanted(status.available_replicas)
        && status.observed_generation >= observed.deployment.metadata.generation
}

/// When the deadline will have passed, if a rollout is under way.
#[must_use]
pub fn recheck_after(observed: &Observed) -> Option<Duration> {
    let status = observed.deployment.status.as_ref()?;
    let progressing = find(status.conditions.as_deref()?, PROGRESSING)?;
    let over = matches!(progressing.reason.as_deref(), Some(TIMED_OUT | NEW_RS_AVAILABLE));
    if over || is_paused(observed) || is_complete(observed, status) {
        return None;
    }
    let since = observed.now.duration_since(progressing.last_update_time.as_ref()?.0);
    let left = SignedDuration::try_from(observed.deadline?).ok()?.checked_sub(since)?;
    // A second more: times in objects have no fractions.
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
}

fn availability(observed: &Observed, available: i32) -> DeploymentCondition {
    if available >= observed.replicas - max_unavailable(observed) {
        let message = "Deployment has minimum availability.".to_owned();
        condition(observed.now, AVAILABLE, "True", "MinimumReplicasAvailable", message)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        condition(observed.now, AVAILABLE, "False", "MinimumReplicasUnavailable", message)
    }
}

/// What is known before the numbers are looked at: paused, resumed, found, created, failed.
fn hint(
    observed: &Observed,
    conditions: &mut Vec<DeploymentCondition>,
    new: Option<&ReplicaSet>,
    outcome: &Outcome,
) {
    let now = observed.now;
    let reason = find(conditions, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if is_paused(observed) {
        if reason != Some(PAUSED) && reason != Some(TIMED_OUT) {
            let message = "Deployment is paused".to_owned();
            set(conditions, condition(now, PROGRESSING, "Unknown", PAUSED, message));
        }
    } else if let Some(message) = &outcome.create_failed {
        set(
            conditions,
            condition(now, PROGRESSING, "False", "ReplicaSetCreateError", message.clone()),
        );
    } else if let Some(name) = &outcome.created {
        let message = format!("Created new replica set \"{name}\"");
        set(conditions, condition(now, PROGRESSING, "True", "NewReplicaSetCreated", message));
    } else if reason == Some(PAUSED) {
        let message = "Deployment is resumed".to_owned();
        set(conditions, condition(now, PROGRESSING, "Unknown", RESUMED, message));
    } else if let (None, Some(new)) = (reason, new) {
        let message = format!("Found new replica set \"{}\"", new.name_any());
        set(conditions, condition(now, PROGRESSING, "True", "FoundNewReplicaSet", message));
    }
}

/// Complete, progressing or timed out.
///
/// Source: `syncRolloutStatus` in upstream `pkg/controller/deployment/progress.go`.
fn progress(
    observed: &Observed,
    conditions: &mut Vec<DeploymentCondition>,
    new: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
) {
    let current = find(conditions, PROGRESSING);
    let is_known_complete = status.replicas == status.updated_replicas
        && current.is_some_and(|current| current.reason.as_deref() == Some(NEW_RS_AVAILABLE));
    if is_known_complete {
        return;
    }
    let subject = new.map_or_else(
        || format!("Deployment \"{}\"", observed.deployment.name_any()),
        |rs| format!("ReplicaSet \"{}\"", rs.name_any()),
    );
    if is_complete(observed, status) {
        let message = format!("{subject} has successfully progressed.");
        set(conditions, condition(observed.now, PROGRESSING, "True", NEW_RS_AVAILABLE, message));
    } else if has_progressed(old, status) {
        let message = format!("{subject} is progressing.");
        let mut next = condition(observed.now, PROGRESSING, "True", "ReplicaSetUpdated", message);
        if let Some(current) = current.filter(|current| current.status == "True") {
            next.last_transition_time = current.last_transition_time.clone();
        }
        // Replaced even if it only repeats itself: its update time is when the deadline begins.
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        conditions.push(next);
    } else if has_timed_out(observed, current) {
        let message = format!("{subject} has timed out progressing.");
        set(conditions, condition(observed.now, PROGRESSING, "False", TIMED_OUT, message));
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |n: Option<i32>| n.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn has_timed_out(observed: &Observed, current: Option<&DeploymentCondition>) -> bool {
    let (Some(current), Some(deadline)) = (current, observed.deadline) else { return false };
    match current.reason.as_deref() {
        Some(NEW_RS_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let since =
                current.last_update_time.as_ref().map(|time| observed.now.duration_since(time.0));
            let deadline = SignedDuration::try_from(deadline).unwrap_or(SignedDuration::MAX);
            since.is_some_and(|since| since > deadline)
        }
    }
}

/// A ReplicaSet's failure to create pods is the Deployment's too; the new one's comes first.
fn failures(
    conditions: &mut Vec<DeploymentCondition>,
    new: &Option<Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
) {
    let failure = new.iter().chain(old).find_map(|rs| {
        let conditions = rs.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    });
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failure) => set(
            conditions,
            DeploymentCondition {
                type_: REPLICA_FAILURE.to_owned(),
                status: failure.status.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
                last_transition_time: failure.last_transition_time.clone(),
                last_update_time: failure.last_transition_time.clone(),
            },
        ),
    }
}

fn condition(
    now: Timestamp,
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Puts `next` into `conditions`, unless status and reason stay the same.
fn set(conditions: &mut Vec<DeploymentCondition>, mut next: DeploymentCondition) {
    if let Some(old) = find(conditions, &next.type_) {
        if old.status == next.status && old.reason == next.reason {
            return;
        }
        if old.status == next.status {
            next.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|condition| condition.type_ != next.type_);
    conditions.push(next);
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |status| status.replicas)
}

fn ready(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn terminating(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
}
