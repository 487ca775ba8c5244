//! Observe, apply, write the status: all the I/O.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kit::{
    CACHE_LAG, RESYNC, ReconcileError, Requeue,
    call::{is_gone, is_namespace_ending, only, said},
    claim::{self, Claim},
    owner, patch, pods, slow_start,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
    core::{ParseExpressionError, Selector},
};
use tracing::{debug, info};

use crate::{
    Context, events,
    plan::{self, Action, Failure, Observed},
};

/// Most ReplicaSets remembered as verified before those that are gone are forgotten.
const VERIFIED: usize = 4096;

/// What can go wrong in a reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Validation lets no such ReplicaSet through.
    #[error("spec.replicas must be greater than or equal to 0, got {0}")]
    Replicas(i32),
    /// Validation lets no such ReplicaSet through.
    #[error("spec.selector cannot be understood")]
    Selector(#[source] ParseExpressionError),
    /// The live list before the first creation failed.
    #[error("failed to list the pods of {namespace}")]
    ListPods {
        /// Where.
        namespace: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The ReplicaSet could not be read before an adoption.
    #[error("failed to read the ReplicaSet before adopting")]
    ReadSelf {
        /// Why.
        source: Box<kube::Error>,
    },
    /// The owner references of a pod could not be written.
    #[error("failed to adopt or release pod {pod}")]
    Claim {
        /// Its name.
        pod: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Some pods could not be created.
    #[error("failed to create a pod, {n_skipped} more were not tried")]
    CreatePod {
        /// Creations left out after the failure.
        n_skipped: usize,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A pod could not be deleted.
    #[error("failed to delete pod {pod}")]
    DeletePod {
        /// Its name.
        pod: String,
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

impl Error {
    /// What the status says about it.
    fn failure(&self) -> Option<Failure> {
        match self {
            Self::CreatePod { source, .. } => {
                Some(Failure { reason: "FailedCreate", message: said(source) })
            }
            Self::DeletePod { source, .. } => {
                Some(Failure { reason: "FailedDelete", message: said(source) })
            }
            Self::Replicas(_)
            | Self::Selector(_)
            | Self::ListPods { .. }
            | Self::ReadSelf { .. }
            | Self::Claim { .. }
            | Self::Status { .. } => None,
        }
    }
}

impl ReconcileError for Error {
    fn kind(&self) -> &'static str {
        match self {
            Self::Replicas(_) | Self::Selector(_) => "invalid",
            Self::ListPods { .. } => "list-pods",
            Self::ReadSelf { .. } => "read-self",
            Self::Claim { .. } => "claim",
            Self::CreatePod { .. } => "create-pod",
            Self::DeletePod { .. } => "delete-pod",
            Self::Status { .. } => "status",
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Replicas(_) | Self::Selector(_))
    }
}

/// Brings one ReplicaSet a step nearer to what it asks for.
///
/// # Errors
/// See [`Error`]; the status is written even then.
pub async fn reconcile(rs: Arc<ReplicaSet>, ctx: Arc<Context>) -> Result<Requeue, Error> {
    let uid = rs.uid().unwrap_or_default();
    if !ctx.writes.seen_by_cache(&uid) || !ctx.statuses.seen_by_cache(&uid) {
        return Ok(Requeue::requeue(CACHE_LAG));
    }
    let observed = observe(rs, uid, &ctx)?;
    let actions = plan::plan(&observed);
    if creates(&actions) && !is_verified(&observed, &ctx).await? {
        return Ok(Requeue::requeue(Duration::ZERO)); // Plan again, on what the cache shows by then.
    }
    let applied = apply(&ctx, &observed, actions).await;
    let failure = applied.as_ref().err().and_then(Error::failure);
    write_status(&ctx, &observed, failure.as_ref()).await?;
    applied?;
    Ok(Requeue::requeue(plan::recheck_after(&observed).unwrap_or(RESYNC)))
}

fn observe(rs: Arc<ReplicaSet>, uid: String, ctx: &Context) -> Result<Observed, Error> {
    let spec = rs.spec.clone().unwrap_or_default();
    let wanted = spec.replicas.unwrap_or(1);
    let replicas = usize::try_from(wanted).map_err(|_| Error::Replicas(wanted))?;
    let selector = plan::selector(&rs).map_err(Error::Selector)?;
    let mut pods = ctx.pods.controlled_by(&uid);
    let in_namespace = ctx.pods.in_namespace(&rs.namespace().unwrap_or_default());
    pods.extend(
        in_namespace.into_iter().filter(|pod| owner::controller_of(&pod.metadata).is_none()),
    );
    let related = if pods.len() > replicas { related(&rs, &uid, ctx) } else { Vec::new() };
    let min_ready =
        Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let now = ctx.clock.now();
    Ok(Observed { uid, selector, replicas, min_ready, pods, related, now, replica_set: rs })
}

/// Active pods of all ReplicaSets with the same controller.
fn related(rs: &ReplicaSet, uid: &str, ctx: &Context) -> Vec<Arc<Pod>> {
    let siblings = match owner::controller_of(&rs.metadata) {
        Some(owner) => {
            ctx.replica_sets.controlled_by(&owner.uid).iter().filter_map(|rs| rs.uid()).collect()
        }
        None => vec![uid.to_owned()],
    };
    let pods = siblings.iter().flat_map(|uid| ctx.pods.controlled_by(uid));
    pods.filter(|pod| pods::is_active(pod)).collect()
}

fn creates(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Create { .. }))
}

/// Whether the cache holds every pod that was created for this ReplicaSet, by whomever.
///
/// The first time in a term it may not: then the pods are listed live, and what the list contains
/// becomes a write that the cache must show before anything else happens.
async fn is_verified(observed: &Observed, ctx: &Context) -> Result<bool, Error> {
    let verified = || ctx.verified.lock().unwrap_or_else(PoisonError::into_inner);
    if verified().contains(&observed.uid) {
        return Ok(true);
    }
    let namespace = observed.replica_set.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let own = ListParams::default().labels(&Selector::to_string(&observed.selector));
    let failed =
        |source| Error::ListPods { namespace: namespace.clone(), source: Box::new(source) };
    let live = pods.list(&own).await.map_err(failed)?;
    for pod in &live {
        ctx.writes.wrote(&observed.uid, pod);
    }
    let mut verified = verified();
    if verified.len() >= VERIFIED {
        let living: HashSet<_> = ctx.replica_sets.all().iter().filter_map(|rs| rs.uid()).collect();
        verified.retain(|uid| living.contains(uid));
    }
    verified.insert(observed.uid.clone());
    Ok(false)
}

async fn apply(ctx: &Context, observed: &Observed, actions: Vec<Action>) -> Result<(), Error> {
    let rs = &observed.replica_set;
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &rs.namespace().unwrap_or_default());
    let mut may_adopt = None;
    let mut doomed = Vec::new();
    for action in actions {
        match action {
            Action::Claim(what, pod) => {
                if what == Claim::Adopt && may_adopt.is_none() {
                    may_adopt = Some(is_still_there(ctx, rs).await?);
                }
                if what == Claim::Release || may_adopt == Some(true) {
                    take(ctx, observed, &api, &pod, what).await?;
                }
            }
            Action::Create { count, pod } => create(ctx, observed, &api, count, &pod).await?,
            Action::Delete(pod) => doomed.push(pod),
        }
    }
    delete(ctx, observed, &api, doomed).await
}

async fn is_still_there(ctx: &Context, rs: &ReplicaSet) -> Result<bool, Error> {
    let namespace = rs.namespace().unwrap_or_default();
    let live = claim::may_adopt(&Api::namespaced(ctx.client.clone(), &namespace), rs).await;
    live.map_err(|source| Error::ReadSelf { source: Box::new(source) })
}

async fn take(
    ctx: &Context,
    observed: &Observed,
    api: &Api<Pod>,
    pod: &Pod,
    what: Claim,
) -> Result<(), Error> {
    let written = claim::carry_out(api, &*observed.replica_set, pod, what).await;
    let failed = |source| Error::Claim { pod: pod.name_any(), source: Box::new(source) };
    if let Some(written) = written.map_err(failed)? {
        ctx.writes.wrote(&observed.uid, &written);
        info!(pod = pod.name_any(), claim = ?what, "pod claimed");
    }
    Ok(())
}

async fn create(
    ctx: &Context,
    observed: &Observed,
    api: &Api<Pod>,
    count: usize,
    pod: &Pod,
) -> Result<(), Error> {
    let rs = &*observed.replica_set;
    let progress = slow_start(count, async |_| {
        let created = api.create(&PostParams::default(), pod).await?;
        ctx.writes.wrote(&observed.uid, &created);
        ctx.recorder.publish(rs, events::successful_create(&created.name_any()));
        Ok(())
    })
    .await;
    if progress.n_done > 0 {
        info!(replicaset = rs.name_any(), n_created = progress.n_done, "pods created");
    }
    let Some(error) = progress.error else { return Ok(()) };
    if !matches!(error, kube::Error::Api(_)) {
        // Whether the pod was created is unknown: list live before the next one.
        ctx.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(&observed.uid);
    }
    if is_namespace_ending(&error) {
        debug!("no pods are created in a namespace that ends");
        return Ok(());
    }
    ctx.recorder.publish(rs, events::failed_create(&said(&error)));
    Err(Error::CreatePod { n_skipped: progress.n_skipped, source: Box::new(error) })
}

async fn delete(
    ctx: &Context,
    observed: &Observed,
    api: &Api<Pod>,
    doomed: Vec<Arc<Pod>>,
) -> Result<(), Error> {
    let deletions =
        doomed.iter().map(async |pod| match api.delete(&pod.name_any(), &only(pod.uid())).await {
            Ok(_) => {
                ctx.writes.deleted(&observed.uid, pod);
                ctx.recorder
                    .publish(&*observed.replica_set, events::successful_delete(&pod.name_any()));
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(source) => {
                ctx.recorder.publish(&*observed.replica_set, events::failed_delete(&said(&source)));
                Err(Error::DeletePod { pod: pod.name_any(), source: Box::new(source) })
            }
        });
    let results = futures::future::join_all(deletions).await;
    if !doomed.is_empty() {
        let n_deleted = results.iter().filter(|result| result.is_ok()).count();
        info!(replicaset = observed.replica_set.name_any(), n_deleted, "pods deleted");
    }
    results.into_iter().collect()
}

async fn write_status(
    ctx: &Context,
    observed: &Observed,
    failure: Option<&Failure>,
) -> Result<(), Error> {
    let rs = &observed.replica_set;
    let status = plan::status(observed, failure);
    let api: Api<ReplicaSet> =
        Api::namespaced(ctx.client.clone(), &rs.namespace().unwrap_or_default());
    match patch::patch_status(&api, rs, rs.status.as_ref(), &status).await {
        Ok(written) => {
            written.iter().for_each(|rs| ctx.statuses.wrote(&observed.uid, rs));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()), // Gone meanwhile.
        Err(source) => Err(Error::Status { source: Box::new(source) }),
    }
}
