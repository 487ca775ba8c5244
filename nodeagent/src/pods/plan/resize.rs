//! How the resources that were allotted to a running pod get into its cgroups.
//!
//! The pod's group grows before its containers change, and shrinks after them, so that a container never has more than
//! its pod. Containers that shrink come first.
//!
//! Source: KEP-1287; upstream `doPodResizeAction` in `pkg/kubelet/kuberuntime/kuberuntime_manager.go`.

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

use super::is_due;
use crate::pods::allotment::{Allotment, pair};
use crate::pods::observed::{
    Attempt, AttemptState, Busy, Observed, Role, Sandbox, Seen, WantedContainer,
};
use crate::pods::quantity::{container_resources, pod_resources};
use crate::runtime::{Bytes, Resources};

/// Changes of limits, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// The pod's limits while its containers change: enough for before and after.
    pub raised: Resources,
    /// Memory limits that shrink; none may be below what is used.
    pub bounds: Vec<Bound>,
    /// Containers to change.
    pub changes: Vec<Change>,
    /// The pod's limits in the end.
    pub settled: Resources,
}

/// A smaller memory limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Name and id of a container; `None` is the pod.
    pub container: Option<(String, String)>,
    /// The new limit.
    pub limit: Bytes,
}

/// Other resources for a running container.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The container.
    pub container: String,
    /// Its id in the runtime.
    pub id: String,
    /// As the API has them.
    pub resources: ResourceRequirements,
    /// As the kernel has them.
    pub limits: Resources,
}

impl Bound {
    /// The complaint if the limit is not above `usage`.
    pub fn complaint(&self, usage: Bytes) -> Option<String> {
        let (limit, used) = (self.limit.0, usage.0);
        let whose = match &self.container {
            Some((name, _)) => format!("container \"{name}\""),
            None => "pod".to_owned(),
        };
        (used >= limit).then(|| {
            format!("attempting to set {whose} memory limit ({limit}) below current usage ({used})")
        })
    }
}

/// The changes to begin now, if there are any.
pub(super) fn resize(o: &Observed) -> Option<Resize> {
    let waits = o.resizing.failure.as_ref().is_some_and(|f| !is_due(o, f));
    if o.resizing.busy || waits || !matches!(o.sandbox, Sandbox::Ready { .. }) {
        return None;
    }
    let target = pod_resources(&o.wanted.pod);
    let before = o.limits.unwrap_or_else(|| pod_resources(&as_set(o).put_into(&o.wanted.pod)));
    let raised = before.at_least(target);
    let settled = if is_replacing(o) { raised } else { target };
    let pairs: Vec<_> = outdated(o).filter(|(c, a)| !is_leaving(o, c, a)).collect();
    if pairs.is_empty() && o.limits == Some(settled) {
        return None;
    }
    let mut bounds: Vec<_> = pairs.iter().filter_map(|(c, a)| bound(c, a)).collect();
    let pod = shrinks(before.memory_limit, settled.memory_limit);
    bounds.splice(0..0, pod.map(|limit| Bound { container: None, limit }));
    let mut changes: Vec<_> = pairs.into_iter().map(|(c, a)| (grows(c, a), change(c, a))).collect();
    changes.sort_by_key(|(grows, _)| *grows);
    let changes = changes.into_iter().map(|(_, change)| change).collect();
    Some(Resize { raised, bounds, changes, settled })
}

/// Whether running containers do not have what is allotted to them, or are replaced for that.
pub(super) fn is_unfinished(o: &Observed) -> bool {
    let replacing = || o.containers.values().any(|seen| seen.replaced);
    outdated(o).next().is_some() || (o.resizing.generation.is_some() && replacing())
}

/// Whether a container may start: the pod's group has room for it.
pub(super) fn has_room(o: &Observed) -> bool {
    o.limits.is_some_and(|limits| limits.covers(pod_resources(&o.wanted.pod)))
}

/// Whether the container asks to be started anew for what has changed.
pub(super) fn needs_restart(container: &WantedContainer, attempt: &Attempt) -> bool {
    let policies = container.spec.resize_policy.iter().flatten();
    container.role != Role::Ephemeral
        && policies
            .filter(|p| p.restart_policy == "RestartContainer")
            .any(|p| differs(container, attempt, &p.resource_name))
}

/// Running containers with other resources than their pod wants.
fn outdated(o: &Observed) -> impl Iterator<Item = (&WantedContainer, &Attempt)> {
    let running = o.wanted.containers.iter().filter(|c| c.role != Role::Ephemeral);
    running
        .filter_map(|c| Some((c, running_attempt(o.seen(&c.name))?)))
        .filter(|(c, a)| differs(c, a, "cpu") || differs(c, a, "memory"))
}

fn running_attempt(seen: &Seen) -> Option<&Attempt> {
    seen.current.as_ref().filter(|a| matches!(a.state, AttemptState::Running { .. }))
}

fn differs(container: &WantedContainer, attempt: &Attempt, name: &str) -> bool {
    let wanted = container.spec.resources.as_ref().map(|r| pair(r, name)).unwrap_or_default();
    wanted != pair(&attempt.resources, name)
}

/// Whether a container with old resources is on its way in or out: until then the pod keeps room for it.
fn is_replacing(o: &Observed) -> bool {
    outdated(o).any(|(c, a)| is_leaving(o, c, a))
        || o.containers.values().any(|seen| seen.busy == Some(Busy::Starting))
}

/// Whether an attempt is not worth a change any more.
fn is_leaving(o: &Observed, container: &WantedContainer, attempt: &Attempt) -> bool {
    needs_restart(container, attempt) || o.seen(&container.name).busy == Some(Busy::Killing)
}

/// What the running containers have, and what the others will start with.
fn as_set(o: &Observed) -> Allotment {
    let mut set = Allotment::of(&o.wanted.pod);
    for (name, own) in &mut set.containers {
        if let Some(attempt) = running_attempt(o.seen(name)) {
            own.clone_from(&attempt.resources);
        }
    }
    set
}

fn change(container: &WantedContainer, attempt: &Attempt) -> Change {
    Change {
        container: container.name.clone(),
        id: attempt.id.clone(),
        resources: container.spec.resources.clone().unwrap_or_default(),
        limits: container_resources(&container.spec),
    }
}

/// Whether any limit of the container becomes larger.
fn grows(container: &WantedContainer, attempt: &Attempt) -> bool {
    !limits_of(attempt).covers(container_resources(&container.spec))
}

fn bound(container: &WantedContainer, attempt: &Attempt) -> Option<Bound> {
    let wanted = container_resources(&container.spec).memory_limit;
    let limit = shrinks(limits_of(attempt).memory_limit, wanted)?;
    Some(Bound { container: Some((container.name.clone(), attempt.id.clone())), limit })
}

fn limits_of(attempt: &Attempt) -> Resources {
    let resources = Some(attempt.resources.clone());
    container_resources(&Container { resources, ..Container::default() })
}

/// The new limit if it is smaller than the old one; no limit is the largest.
fn shrinks(before: Option<Bytes>, after: Option<Bytes>) -> Option<Bytes> {
    after.filter(|after| before.is_none_or(|before| *after < before))
}
