//! Changes the limits of a pod and of its running containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::with_causes;
use crate::pods::context::Context;
use crate::pods::observed::Wanted;
use crate::pods::plan::{Bound, Change, Resize};
use crate::pods::spec::resources_label;
use crate::runtime::{ContainerId, Resources};

/// How far a resize has come.
#[derive(Debug, Default)]
pub(in crate::pods) struct Resized {
    /// The pod's limits, if they were changed.
    pub(in crate::pods) limits: Option<Resources>,
    /// Containers that have their new resources: name, id, resources.
    pub(in crate::pods) containers: Vec<(String, String, ResourceRequirements)>,
    /// Why the rest was not done.
    pub(in crate::pods) error: Option<String>,
}

/// Carries a resize out, as far as it goes.
pub(in crate::pods) async fn resize(ctx: &Context, wanted: &Wanted, order: Resize) -> Resized {
    let mut done = Resized::default();
    let error = try_resize(ctx, wanted, order, &mut done).await.err();
    Resized { error, ..done }
}

async fn try_resize(
    ctx: &Context,
    wanted: &Wanted,
    order: Resize,
    done: &mut Resized,
) -> Result<(), String> {
    limit_pod(ctx, wanted, order.raised, done).await?;
    check(ctx, wanted, &order.bounds).await?;
    for change in order.changes {
        apply(ctx, change, done).await?;
    }
    if order.settled != order.raised {
        limit_pod(ctx, wanted, order.settled, done).await?;
    }
    Ok(())
}

async fn limit_pod(
    ctx: &Context,
    wanted: &Wanted,
    limits: Resources,
    done: &mut Resized,
) -> Result<(), String> {
    let changed = ctx.runtime.update_sandbox(&wanted.uid, &limits).await;
    changed.map_err(|e| with_causes(&e))?;
    done.limits = Some(limits);
    Ok(())
}

/// Refuses limits below what is used: the kernel would kill for them, or refuse them in the middle of the change.
async fn check(ctx: &Context, wanted: &Wanted, bounds: &[Bound]) -> Result<(), String> {
    let mut complaints = Vec::new();
    for bound in bounds {
        let used = match &bound.container {
            Some((_, id)) => ctx.runtime.container_stats(&ContainerId(id.clone())).await,
            None => ctx.runtime.sandbox_stats(&wanted.uid).await,
        };
        match used {
            Ok(stats) => complaints.extend(bound.complaint(stats.memory_usage)),
            Err(error) if error.is_not_found() => (), // It has just ended, and uses nothing.
            Err(error) => complaints.push(format!("unable to read memory usage: {error}")),
        }
    }
    match &complaints[..] {
        [] => Ok(()),
        [one] => Err(format!("cannot decrease memory limits: {one}")),
        many => Err(format!("cannot decrease memory limits: [{}]", many.join(", "))),
    }
}

async fn apply(ctx: &Context, change: Change, done: &mut Resized) -> Result<(), String> {
    let labels = BTreeMap::from([resources_label(&change.resources)]);
    let id = ContainerId(change.id.clone());
    match ctx.runtime.update_container(&id, &change.limits, &labels).await {
        Ok(()) => done.containers.push((change.container, change.id, change.resources)),
        Err(error) if error.is_not_found() => (), // It has just ended; the next attempt has the new ones.
        Err(error) => return Err(with_causes(&error)),
    }
    Ok(())
}
