//! What a Deployment does with its ReplicaSets; no I/O.
//!
//! One round does one thing: claims, then either scaling or one step of the rollout. The numbers of
//! a round come from one snapshot, so the bounds of `maxSurge` and `maxUnavailable` hold.

mod revision;
mod rollout;
mod status;
mod template;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kit::claim::{Claim, Claimant};
use kube::{
    ResourceExt,
    core::{ParseExpressionError, Selector},
};

pub(crate) use revision::REVISION;
pub use status::{Outcome, recheck_after, status};
pub(crate) use template::is_same as is_same_template;

/// `spec.progressDeadlineSeconds` and `spec.revisionHistoryLimit` that mean "none".
const UNLIMITED: i32 = i32::MAX;

/// How pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// All old ones go before the first new one comes.
    Recreate,
    /// Bit by bit, within these bounds.
    RollingUpdate {
        /// Pods above the wanted number.
        max_surge: i32,
        /// Pods of the wanted number that may be missing.
        max_unavailable: i32,
    },
}

/// All that a decision depends on.
pub struct Observed {
    /// The Deployment itself.
    pub deployment: Arc<Deployment>,
    /// Its UID.
    pub uid: String,
    /// Which ReplicaSets are its own.
    pub selector: Selector,
    /// Wanted.
    pub replicas: i32,
    /// How pods are replaced, percentages resolved.
    pub strategy: Strategy,
    /// How long a rollout may stand still; `None`: for ever.
    pub deadline: Option<Duration>,
    /// Old ReplicaSets to keep; `None`: all.
    pub history_limit: Option<usize>,
    /// Every ReplicaSet that it controls, and every orphan in its namespace, matching or not.
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    /// For [`Strategy::Recreate`]: whether pods of old ReplicaSets still run or end.
    pub old_pods_remain: bool,
    /// The time.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Become the controller of an orphan that matches, or let go of a ReplicaSet that matches no longer.
    Claim(Claim, Arc<ReplicaSet>),
    /// Create the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Change a ReplicaSet.
    Update(Update),
    /// Delete an old ReplicaSet; by its UID.
    Delete(Arc<ReplicaSet>),
    /// Write the annotation that tells which revision the Deployment is at.
    SetRevision(String),
}

/// What changes in a ReplicaSet.
#[derive(Debug, Clone)]
pub struct Update {
    /// As it is.
    pub replica_set: Arc<ReplicaSet>,
    /// New `spec.replicas`.
    pub replicas: Option<i32>,
    /// New `spec.minReadySeconds`.
    pub min_ready_seconds: Option<i32>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
}

/// What must be done now.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Action> {
    if observed.deployment.metadata.deletion_timestamp.is_some() {
        return Vec::new(); // The garbage collector owns the rest.
    }
    let claims = claims(observed);
    if claims.is_empty() { rollout::steps(observed) } else { claims }
}

/// The ReplicaSet of the current template, and the others; oldest first.
pub(crate) fn new_and_old(observed: &Observed) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    let claimant = claimant(observed);
    let mut own: Vec<_> =
        observed.replica_sets.iter().filter(|rs| claimant.owns(&rs.metadata)).cloned().collect();
    own.sort_by_key(|rs| (created(rs), rs.name_any()));
    let Some(template) = observed.deployment.spec.as_ref().map(|spec| &spec.template) else {
        return (None, own);
    };
    let same = |rs: &Arc<ReplicaSet>| {
        let theirs = rs.spec.as_ref().and_then(|spec| spec.template.as_ref());
        theirs.is_some_and(|theirs| template::is_same(theirs, template))
    };
    // Of several (a user may make one by hand) the oldest is as good as any, and stays the same one.
    let new = own.iter().position(same).map(|index| own.remove(index));
    (new, own)
}

/// The selector of a Deployment.
///
/// # Errors
/// An expression that no selector can have, which validation refuses.
pub(crate) fn selector(deployment: &Deployment) -> Result<Selector, ParseExpressionError> {
    deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default().try_into()
}

/// The strategy of a Deployment with `replicas` wanted; `Err` names the field that cannot be read.
pub(crate) fn strategy(deployment: &Deployment, replicas: i32) -> Result<Strategy, &'static str> {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Ok(Strategy::Recreate);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable =
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let max_surge = resolve(surge, replicas, true).ok_or("spec.strategy.rollingUpdate.maxSurge")?;
    let mut max_unavailable = resolve(unavailable, replicas, false)
        .ok_or("spec.strategy.rollingUpdate.maxUnavailable")?;
    if max_surge == 0 && max_unavailable == 0 {
        max_unavailable = 1; // Rounding must not bring a rollout to a stand.
    }
    Ok(Strategy::RollingUpdate { max_surge, max_unavailable: max_unavailable.min(replicas) })
}

/// A number, or a percentage of `total`.
fn resolve(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    let IntOrString::String(text) = value else {
        let IntOrString::Int(number) = value else { return None };
        return Some((*number).max(0));
    };
    let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
    let hundredfold = percent.max(0).checked_mul(total.into())?;
    i32::try_from(if round_up { (hundredfold + 99) / 100 } else { hundredfold / 100 }).ok()
}

/// The deadline of a Deployment.
pub(crate) fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds =
        deployment.spec.as_ref()?.progress_deadline_seconds.filter(|s| *s != UNLIMITED)?;
    Some(Duration::from_secs(seconds.max(0).unsigned_abs().into()))
}

/// How many old ReplicaSets a Deployment keeps.
pub(crate) fn history_limit(deployment: &Deployment) -> Option<usize> {
    let limit =
        deployment.spec.as_ref()?.revision_history_limit.filter(|limit| *limit != UNLIMITED)?;
    usize::try_from(limit).ok()
}

fn max_surge(observed: &Observed) -> i32 {
    match observed.strategy {
        Strategy::RollingUpdate { max_surge, .. } => max_surge,
        Strategy::Recreate => 0,
    }
}

fn max_unavailable(observed: &Observed) -> i32 {
    match observed.strategy {
        Strategy::RollingUpdate { max_unavailable, .. } => max_unavailable,
        Strategy::Recreate => 0,
    }
}

fn is_paused(observed: &Observed) -> bool {
    observed.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

fn claimant(observed: &Observed) -> Claimant<'_> {
    Claimant { owner: &observed.deployment.metadata, selector: &observed.selector }
}

fn claims(observed: &Observed) -> Vec<Action> {
    let claimant = claimant(observed);
    let all = observed.replica_sets.iter();
    let claims =
        all.filter_map(|rs| Some(Action::Claim(claimant.claim(&rs.metadata)?, rs.clone())));
    claims.collect()
}

fn created(rs: &ReplicaSet) -> Option<Timestamp> {
    rs.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn replicas_of(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available_of(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}
