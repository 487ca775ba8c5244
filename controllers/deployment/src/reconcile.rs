//! Observe, apply, write the status: all the I/O.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kit::{
    CACHE_LAG, RESYNC, ReconcileError, Requeue,
    call::{is_namespace_ending, said},
    claim::{self, Claim},
    owner, patch, pods,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ParseExpressionError, Selector},
};
use serde_json::{Map, Value, json};
use tracing::info;

use crate::{
    Context, events,
    plan::{self, Action, Observed, Outcome, REVISION, Strategy, Update},
};

/// How often to look whether old pods are gone, if their ReplicaSet does not count ending ones.
const OLD_PODS: Duration = Duration::from_secs(1);

/// What can go wrong in a reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Validation lets no such Deployment through.
    #[error("{0} cannot be understood")]
    Field(&'static str),
    /// Validation lets no such Deployment through.
    #[error("spec.selector cannot be understood")]
    Selector(#[source] ParseExpressionError),
    /// The pods of old ReplicaSets could not be listed.
    #[error("failed to list the old pods")]
    ListPods {
        /// Why.
        source: Box<kube::Error>,
    },
    /// The Deployment could not be read before an adoption.
    #[error("failed to read the Deployment before adopting")]
    ReadSelf {
        /// Why.
        source: Box<kube::Error>,
    },
    /// A ReplicaSet could not be written.
    #[error("failed to {operation} ReplicaSet {name}")]
    ReplicaSet {
        /// `create`, `read`, `claim`, `update` or `delete`.
        operation: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The name of the new ReplicaSet belongs to another one; the next attempt takes another name.
    #[error("the name {0} is taken by another ReplicaSet")]
    Collision(String),
    /// The Deployment's revision could not be written.
    #[error("failed to write the revision")]
    Revision {
        /// Why.
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error("failed to write the status")]
    Status {
        /// Why.
        source: Box<kube::Error>,
    },
}

impl ReconcileError for Error {
    fn kind(&self) -> &'static str {
        match self {
            Self::Field(_) | Self::Selector(_) => "invalid",
            Self::ListPods { .. } => "list-pods",
            Self::ReadSelf { .. } => "read-self",
            Self::ReplicaSet { .. } => "replica-set",
            Self::Collision(_) => "collision",
            Self::Revision { .. } => "revision",
            Self::Status { .. } => "status",
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Field(_) | Self::Selector(_))
    }

    fn is_expected(&self) -> bool {
        matches!(self, Self::Collision(_)) || kit::call::was_outrun(self)
    }
}

/// Brings one Deployment a step nearer to what it asks for.
///
/// # Errors
/// See [`Error`]; the status is written even then.
pub async fn reconcile(deployment: Arc<Deployment>, ctx: Arc<Context>) -> Result<Requeue, Error> {
    let uid = deployment.uid().unwrap_or_default();
    if !ctx.writes.seen_by_cache(&uid) || !ctx.own_writes.seen_by_cache(&uid) {
        return Ok(Requeue::requeue(CACHE_LAG));
    }
    let observed = observe(deployment, uid, &ctx).await?;
    if observed.selector.selects_all() {
        ctx.recorder.publish(&*observed.deployment, events::selecting_all());
    }
    let mut outcome = Outcome::default();
    let mut written = None;
    let applied = apply(&ctx, &observed, plan::plan(&observed), &mut outcome, &mut written).await;
    if !matches!(applied, Err(Error::Collision(_))) {
        // A collision has written the status itself.
        write_status(&ctx, &observed, written.as_ref(), &plan::status(&observed, &outcome)).await?;
    }
    applied?;
    let waits_for_pods = observed.old_pods_remain.then_some(OLD_PODS);
    let again = plan::recheck_after(&observed).into_iter().chain(waits_for_pods).min();
    Ok(Requeue::requeue(again.unwrap_or(RESYNC)))
}

async fn observe(
    deployment: Arc<Deployment>,
    uid: String,
    ctx: &Context,
) -> Result<Observed, Error> {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let replicas = if wanted < 0 { return Err(Error::Field("spec.replicas")) } else { wanted };
    let namespace = deployment.namespace().unwrap_or_default();
    let mut replica_sets = ctx.replica_sets.controlled_by(&uid);
    let in_namespace = ctx.replica_sets.in_namespace(&namespace);
    replica_sets
        .extend(in_namespace.into_iter().filter(|rs| owner::controller_of(&rs.metadata).is_none()));
    let mut observed = Observed {
        uid,
        selector: plan::selector(&deployment).map_err(Error::Selector)?,
        replicas,
        strategy: plan::strategy(&deployment, replicas).map_err(Error::Field)?,
        deadline: plan::deadline(&deployment),
        history_limit: plan::history_limit(&deployment),
        replica_sets,
        old_pods_remain: false,
        now: ctx.clock.now(),
        deployment,
    };
    if observed.strategy == Strategy::Recreate {
        observed.old_pods_remain = old_pods_remain(ctx, &observed, &namespace).await?;
    }
    Ok(observed)
}

/// Whether pods of old ReplicaSets still run or end, ending ones included.
///
/// Pods are listed live, and only at the moment when the new ones could start: a watch of all pods
/// would cost more than these few lists.
async fn old_pods_remain(
    ctx: &Context,
    observed: &Observed,
    namespace: &str,
) -> Result<bool, Error> {
    let (new, old) = plan::new_and_old(observed);
    let size = |rs: &ReplicaSet| rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let starts = new.as_deref().is_none_or(|rs| size(rs) < observed.replicas);
    if old.is_empty() || !starts || old.iter().any(|rs| size(rs) > 0) {
        return Ok(false);
    }
    let remains = |rs: &Arc<ReplicaSet>| {
        let status = rs.status.as_ref();
        status.is_some_and(|status| {
            status.replicas > 0 || status.terminating_replicas.unwrap_or(0) > 0
        })
    };
    if old.iter().any(remains) {
        return Ok(true);
    }
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let own = ListParams::default().labels(&Selector::to_string(&observed.selector));
    let live =
        pods.list(&own).await.map_err(|source| Error::ListPods { source: Box::new(source) })?;
    let is_old = |pod: &Pod| {
        let uid = owner::controller_of(&pod.metadata).map(|owner| &owner.uid);
        old.iter().any(|rs| rs.metadata.uid.as_ref() == uid)
    };
    Ok(live.iter().any(|pod| is_old(pod) && !pods::is_terminal(pod)))
}

async fn apply(
    ctx: &Context,
    observed: &Observed,
    actions: Vec<Action>,
    outcome: &mut Outcome,
    written: &mut Option<Deployment>,
) -> Result<(), Error> {
    let namespace = observed.deployment.namespace().unwrap_or_default();
    let api: Api<ReplicaSet> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut may_adopt = None;
    for action in actions {
        match action {
            Action::Claim(what, rs) => {
                if what == Claim::Adopt && may_adopt.is_none() {
                    may_adopt = Some(is_still_there(ctx, observed).await?);
                }
                if what == Claim::Release || may_adopt == Some(true) {
                    take(ctx, observed, &api, &rs, what).await?;
                }
            }
            Action::Create(rs) => create(ctx, observed, &api, &rs, outcome).await?,
            Action::Update(change) => update(ctx, observed, &api, change).await?,
            Action::Delete(rs) => delete(ctx, observed, &api, &rs).await?,
            Action::SetRevision(revision) => {
                let deployment = set_revision(ctx, &observed.deployment, &revision).await?;
                ctx.own_writes.wrote(&observed.uid, &deployment);
                *written = Some(deployment);
            }
        }
    }
    Ok(())
}

async fn is_still_there(ctx: &Context, observed: &Observed) -> Result<bool, Error> {
    let deployment = &*observed.deployment;
    let live = claim::may_adopt(&deployments(ctx, deployment), deployment).await;
    live.map_err(|source| Error::ReadSelf { source: Box::new(source) })
}

async fn take(
    ctx: &Context,
    observed: &Observed,
    api: &Api<ReplicaSet>,
    rs: &ReplicaSet,
    what: Claim,
) -> Result<(), Error> {
    let written = claim::carry_out(api, &*observed.deployment, rs, what).await;
    if let Some(written) = written.map_err(|source| failed("claim", rs, source))? {
        ctx.writes.wrote(&observed.uid, &written);
    }
    Ok(())
}

async fn create(
    ctx: &Context,
    observed: &Observed,
    api: &Api<ReplicaSet>,
    rs: &ReplicaSet,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let name = rs.name_any();
    match api.create(&PostParams::default(), rs).await {
        Ok(created) => {
            ctx.writes.wrote(&observed.uid, &created);
            info!(replicaset = name, "ReplicaSet created");
            let size = created.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            tell_scaling(ctx, observed, &name, 0, size);
            outcome.created = Some(name);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let live = api.get(&name).await.map_err(|source| failed("read", rs, source))?;
            let template =
                |rs: &ReplicaSet| rs.spec.as_ref().and_then(|spec| spec.template.clone());
            let is_same = match (template(&live), template(rs)) {
                (Some(theirs), Some(ours)) => plan::is_same_template(&theirs, &ours),
                _ => false,
            };
            if is_same && owner::is_controlled_by(&live.metadata, &observed.uid) {
                ctx.writes.wrote(&observed.uid, &live); // Ours, and the cache will show it.
                return Ok(());
            }
            count_collision(ctx, observed).await?;
            Err(Error::Collision(name))
        }
        Err(source) if is_namespace_ending(&source) => Err(failed("create", rs, source)),
        Err(source) => {
            let message = format!("Failed to create new replica set \"{name}\": {}", said(&source));
            ctx.recorder.publish(&*observed.deployment, events::replica_set_create_error(&message));
            outcome.create_failed = Some(message);
            Err(failed("create", rs, source))
        }
    }
}

async fn count_collision(ctx: &Context, observed: &Observed) -> Result<(), Error> {
    let old = observed.deployment.status.clone().unwrap_or_default();
    let collision_count = Some(old.collision_count.unwrap_or(0) + 1);
    let status = DeploymentStatus { collision_count, ..old };
    write_status(ctx, observed, None, &status).await
}

async fn update(
    ctx: &Context,
    observed: &Observed,
    api: &Api<ReplicaSet>,
    change: Update,
) -> Result<(), Error> {
    let rs = &*change.replica_set;
    let mut spec = Map::new();
    spec.extend(change.replicas.map(|n| ("replicas".to_owned(), json!(n))));
    spec.extend(change.min_ready_seconds.map(|n| ("minReadySeconds".to_owned(), json!(n))));
    let mut patch = json!({ "metadata": {
        "uid": rs.metadata.uid,
        "resourceVersion": rs.metadata.resource_version,
        "annotations": change.annotations,
    }});
    if !spec.is_empty() {
        patch["spec"] = Value::Object(spec);
    }
    let written = api.patch(&rs.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    let written = written.map_err(|source| failed("update", rs, source))?;
    ctx.writes.wrote(&observed.uid, &written);
    if let Some(to) = change.replicas {
        let from = rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        info!(replicaset = rs.name_any(), from, to, "ReplicaSet scaled");
        tell_scaling(ctx, observed, &rs.name_any(), from, to);
    }
    Ok(())
}

fn tell_scaling(ctx: &Context, observed: &Observed, name: &str, from: i32, to: i32) {
    if let Some(event) = events::scaling_replica_set(name, from, to) {
        ctx.recorder.publish(&*observed.deployment, event);
    }
}

async fn delete(
    ctx: &Context,
    observed: &Observed,
    api: &Api<ReplicaSet>,
    rs: &ReplicaSet,
) -> Result<(), Error> {
    let meta = &rs.metadata;
    let unchanged =
        Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    match api.delete(&rs.name_any(), &DeleteParams::default().preconditions(unchanged)).await {
        Ok(_) => ctx.writes.deleted(&observed.uid, rs),
        Err(kube::Error::Api(status)) if status.is_not_found() => {} // Gone.
        Err(source) => return Err(failed("delete", rs, source)),
    }
    Ok(())
}

async fn set_revision(
    ctx: &Context,
    deployment: &Deployment,
    revision: &str,
) -> Result<Deployment, Error> {
    let patch = json!({ "metadata": {
        "resourceVersion": deployment.metadata.resource_version,
        "annotations": { REVISION: revision },
    }});
    let written = deployments(ctx, deployment)
        .patch(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await;
    written.map_err(|source| Error::Revision { source: Box::new(source) })
}

/// Writes the status, on top of what this round has written to the Deployment already.
async fn write_status(
    ctx: &Context,
    observed: &Observed,
    written: Option<&Deployment>,
    status: &DeploymentStatus,
) -> Result<(), Error> {
    let deployment = written.unwrap_or(&observed.deployment);
    let api = deployments(ctx, deployment);
    match patch::patch_status(&api, deployment, deployment.status.as_ref(), status).await {
        Ok(written) => {
            written.iter().for_each(|written| ctx.own_writes.wrote(&observed.uid, written));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()), // Gone meanwhile.
        Err(source) => Err(Error::Status { source: Box::new(source) }),
    }
}

fn deployments(ctx: &Context, deployment: &Deployment) -> Api<Deployment> {
    Api::namespaced(ctx.client.clone(), &deployment.namespace().unwrap_or_default())
}

fn failed(operation: &'static str, rs: &ReplicaSet, source: kube::Error) -> Error {
    Error::ReplicaSet { operation, name: rs.name_any(), source: Box::new(source) }
}
