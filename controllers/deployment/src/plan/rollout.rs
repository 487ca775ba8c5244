//! One step: scale, roll, or recreate.
//!
//! Source for the order of steps and their bounds: upstream `pkg/controller/deployment`
//! (`sync.go`, `rolling.go`, `recreate.go`) and kubernetes.io, "Deployments".

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kit::owner;
use kube::ResourceExt;

use super::{
    Action, Observed, Strategy, Update, available_of, created, is_paused, max_surge,
    max_unavailable, new_and_old, replicas_of,
    revision::{self, DESIRED, MAX, REVISION},
    status, template,
};

/// A ReplicaSet with the changes that this round makes to it.
struct Draft {
    rs: Arc<ReplicaSet>,
    replicas: i32,
    min_ready_seconds: i32,
    annotations: BTreeMap<String, String>,
}

/// The Deployment's ReplicaSets with the changes that this round makes.
struct Sets<'a> {
    observed: &'a Observed,
    new: Option<Draft>,
    /// Oldest first.
    old: Vec<Draft>,
}

/// The actions of one round, claims aside.
pub(super) fn steps(observed: &Observed) -> Vec<Action> {
    let (new, old) = new_and_old(observed);
    let drafts = |sets: Vec<Arc<ReplicaSet>>| sets.into_iter().map(Draft::of).collect();
    let mut sets = Sets { observed, new: new.map(Draft::of), old: drafts(old) };
    sets.annotate_new();
    let mut actions = Vec::new();
    if is_paused(observed) || sets.is_scaling() {
        sets.scale();
        if is_paused(observed) {
            actions.extend(sets.surplus_history());
        }
    } else {
        match observed.strategy {
            Strategy::RollingUpdate { .. } => sets.roll(&mut actions),
            Strategy::Recreate => sets.recreate(&mut actions),
        }
    }
    // The new one first: if it cannot be created, the old ones stay as they are.
    actions.extend(sets.updates());
    actions.extend(sets.set_revision(&actions));
    actions
}

/// Whether this round follows a change of `spec.replicas`.
pub(super) fn is_scaling(observed: &Observed) -> bool {
    let (new, old) = new_and_old(observed);
    Sets { observed, new: new.map(Draft::of), old: old.into_iter().map(Draft::of).collect() }
        .is_scaling()
}

impl Draft {
    fn of(rs: Arc<ReplicaSet>) -> Self {
        let min_ready_seconds =
            rs.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        Self {
            replicas: replicas_of(&rs),
            min_ready_seconds,
            annotations: rs.annotations().clone(),
            rs,
        }
    }

    fn available(&self) -> i32 {
        available_of(&self.rs)
    }

    fn scale(&mut self, observed: &Observed, replicas: i32) {
        self.replicas = replicas.max(0);
        revision::annotate_size(observed, &mut self.annotations);
    }

    fn update(&self) -> Option<Action> {
        let before = Self::of(Arc::clone(&self.rs));
        let changed =
            |(name, value): &(&String, &String)| before.annotations.get(*name) != Some(*value);
        let annotations: BTreeMap<_, _> = self
            .annotations
            .iter()
            .filter(changed)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let replicas = (self.replicas != before.replicas).then_some(self.replicas);
        let min_ready_seconds =
            (self.min_ready_seconds != before.min_ready_seconds).then_some(self.min_ready_seconds);
        let nothing = replicas.is_none() && min_ready_seconds.is_none() && annotations.is_empty();
        let replica_set = Arc::clone(&self.rs);
        (!nothing).then_some(Action::Update(Update {
            replica_set,
            replicas,
            min_ready_seconds,
            annotations,
        }))
    }
}

impl Sets<'_> {
    fn all(&self) -> impl Iterator<Item = &Draft> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(|draft| draft.replicas).sum()
    }

    fn updates(&self) -> Vec<Action> {
        self.all().filter_map(Draft::update).collect()
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|draft| revision::of(&draft.rs)).max().unwrap_or(0) + 1
    }

    fn annotate_new(&mut self) {
        let revision = self.next_revision();
        let Some(new) = &mut self.new else { return };
        revision::annotate_new(self.observed, &mut new.annotations, revision);
        let spec = self.observed.deployment.spec.as_ref();
        new.min_ready_seconds = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    }

    /// Tells the Deployment's own annotation what revision it is at, if it says something else.
    fn set_revision(&self, actions: &[Action]) -> Option<Action> {
        let created = actions.iter().find_map(|action| match action {
            Action::Create(rs) => Some(rs.annotations()),
            _ => None,
        });
        let annotations = self.new.as_ref().map(|new| &new.annotations).or(created)?;
        let revision = annotations.get(REVISION)?;
        let told = self.observed.deployment.annotations().get(REVISION) == Some(revision);
        (!told).then(|| Action::SetRevision(revision.clone()))
    }

    /// Whether a ReplicaSet was last scaled for another size of the Deployment.
    fn is_scaling(&self) -> bool {
        self.all().filter(|draft| draft.replicas > 0).any(|draft| {
            let desired = revision::number(&draft.annotations, DESIRED);
            desired.is_some_and(|desired| desired != i64::from(self.observed.replicas))
        })
    }

    /// Follows a change of `spec.replicas`, in proportion if a rollout is under way.
    fn scale(&mut self) {
        let observed = self.observed;
        if let Some(only) = self.active_or_latest() {
            only.scale(observed, observed.replicas);
            return;
        }
        if self.is_saturated() {
            self.old
                .iter_mut()
                .filter(|old| old.replicas > 0)
                .for_each(|old| old.scale(observed, 0));
            return;
        }
        if matches!(observed.strategy, Strategy::RollingUpdate { .. }) {
            self.scale_in_proportion();
        }
    }

    /// The only ReplicaSet with replicas; without any, the new one or else the youngest old one.
    fn active_or_latest(&mut self) -> Option<&mut Draft> {
        match self.all().filter(|draft| draft.replicas > 0).count() {
            0 => self.new.as_mut().or_else(|| self.old.last_mut()),
            1 => self.old.iter_mut().chain(&mut self.new).find(|draft| draft.replicas > 0),
            _ => None,
        }
    }

    /// Whether the new ReplicaSet already carries the Deployment alone.
    fn is_saturated(&self) -> bool {
        let wanted = self.observed.replicas;
        self.new.as_ref().is_some_and(|new| {
            revision::number(&new.annotations, DESIRED) == Some(wanted.into())
                && new.replicas == wanted
                && new.available() == wanted
        })
    }

    fn scale_in_proportion(&mut self) {
        let observed = self.observed;
        let allowed =
            if observed.replicas > 0 { observed.replicas + max_surge(observed) } else { 0 };
        let to_add = allowed - self.total();
        let mut active: Vec<_> =
            self.old.iter_mut().chain(&mut self.new).filter(|draft| draft.replicas > 0).collect();
        // The largest gets the rest; of equals the youngest grows and the oldest shrinks.
        active.sort_by_key(|draft| {
            let age = created(&draft.rs).map_or(0, Timestamp::as_nanosecond);
            (Reverse(draft.replicas), if to_add > 0 { -age } else { age })
        });
        let mut sizes: Vec<_> = active.iter().map(|draft| draft.replicas).collect();
        let mut added = 0;
        for (draft, size) in active.iter().zip(&mut sizes) {
            let left = to_add - added;
            let share = proportional_share(observed, draft);
            let share = if to_add > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
            *size += share;
            added += share;
        }
        if let Some(largest) = sizes.first_mut() {
            *largest += to_add - added;
        }
        for (draft, size) in active.into_iter().zip(sizes) {
            draft.scale(observed, size);
        }
    }

    fn roll(&mut self, actions: &mut Vec<Action>) {
        let observed = self.observed;
        let total = self.total();
        let Some(new) = &mut self.new else {
            let replicas = grown(observed, 0, total);
            actions.push(self.create_new(replicas));
            return self.shrink_old(replicas, 0);
        };
        let replicas = grown(observed, new.replicas, total).min(observed.replicas);
        if new.replicas != replicas {
            return new.scale(observed, replicas);
        }
        let (replicas, available) = (new.replicas, new.available());
        let before = self.total();
        self.shrink_old(replicas, available);
        if self.total() == before && is_stored_complete(&observed.deployment, observed) {
            actions.extend(self.surplus_history());
        }
    }

    /// Takes replicas from the old ones: first those that are not available, then as many as may go.
    fn shrink_old(&mut self, new_replicas: i32, new_available: i32) {
        let observed = self.observed;
        let min_available = observed.replicas - max_unavailable(observed);
        let total = self.old.iter().map(|old| old.replicas).sum::<i32>() + new_replicas;
        let mut may_go = total - min_available - (new_replicas - new_available);
        for old in &mut self.old {
            let unhealthy = (old.replicas - old.available()).clamp(0, may_go.max(0));
            if unhealthy > 0 {
                may_go -= unhealthy;
                old.scale(observed, old.replicas - unhealthy);
            }
        }
        let available = self.old.iter().map(Draft::available).sum::<i32>() + new_available;
        let mut spare = (available - min_available).min(may_go);
        for old in &mut self.old {
            let gone = old.replicas.min(spare).max(0);
            if gone > 0 {
                spare -= gone;
                old.scale(observed, old.replicas - gone);
            }
        }
    }

    fn recreate(&mut self, actions: &mut Vec<Action>) {
        let observed = self.observed;
        let mut running: Vec<_> = self.old.iter_mut().filter(|old| old.replicas > 0).collect();
        running.iter_mut().for_each(|old| old.scale(observed, 0));
        if !running.is_empty() || observed.old_pods_remain {
            return;
        }
        match &mut self.new {
            None => actions.push(self.create_new(observed.replicas)),
            Some(new) => {
                if new.replicas != observed.replicas {
                    new.scale(observed, observed.replicas);
                }
                if is_stored_complete(&observed.deployment, observed) {
                    actions.extend(self.surplus_history());
                }
            }
        }
    }

    fn create_new(&self, replicas: i32) -> Action {
        let deployment = &*self.observed.deployment;
        let spec = deployment.spec.clone().unwrap_or_default();
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template::hash(&spec.template, collisions);
        let mut pod_template = spec.template;
        let metadata = pod_template.metadata.get_or_insert_default();
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(template::HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        let match_labels = selector.match_labels.get_or_insert_default();
        match_labels.insert(template::HASH_LABEL.to_owned(), hash.clone());
        let mut annotations = BTreeMap::new();
        revision::annotate_new(self.observed, &mut annotations, self.next_revision());
        revision::annotate_size(self.observed, &mut annotations);
        Action::Create(Box::new(ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", deployment.name_any())),
                namespace: deployment.namespace(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: owner::controlled_by(deployment).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(pod_template),
            }),
            status: None,
        }))
    }

    /// Old ReplicaSets beyond the history limit, the lowest revisions first, if nothing runs in them.
    fn surplus_history(&self) -> Vec<Action> {
        let Some(limit) = self.observed.history_limit else { return Vec::new() };
        let living = self.old.iter().filter(|old| old.rs.metadata.deletion_timestamp.is_none());
        let mut living: Vec<_> = living.collect();
        let surplus = living.len().saturating_sub(limit);
        living.sort_by_key(|old| (revision::of(&old.rs), created(&old.rs)));
        let is_empty = |old: &&&Draft| {
            let status = old.rs.status.as_ref();
            let seen = status.and_then(|status| status.observed_generation).unwrap_or(0);
            old.replicas == 0
                && status.is_none_or(|status| status.replicas == 0)
                && old.rs.metadata.generation.unwrap_or(0) <= seen
        };
        let surplus = living.iter().take(surplus).filter(is_empty);
        surplus.map(|old| Action::Delete(Arc::clone(&old.rs))).collect()
    }
}

/// The size to which the new ReplicaSet, at `replicas`, may grow while all have `total`.
fn grown(observed: &Observed, replicas: i32, total: i32) -> i32 {
    match observed.strategy {
        Strategy::Recreate => observed.replicas,
        Strategy::RollingUpdate { max_surge, .. } => {
            let room = (observed.replicas + max_surge - total).max(0);
            replicas + room.min(observed.replicas - replicas).max(0)
        }
    }
}

/// What a ReplicaSet gains or loses so that its part of the whole stays the same.
fn proportional_share(observed: &Observed, draft: &Draft) -> i32 {
    if observed.replicas == 0 {
        return -draft.replicas;
    }
    let status = observed.deployment.status.as_ref();
    let before = revision::number(&draft.annotations, MAX)
        .filter(|max| *max > 0)
        .or_else(|| status.and_then(|status| status.replicas).map(i64::from).filter(|n| *n > 0));
    let Some(before) = before else { return 0 };
    let max = i64::from(observed.replicas + max_surge(observed));
    // Rounded to the nearest, halves up.
    let size = (i64::from(draft.replicas) * max * 2 + before) / (before * 2);
    i32::try_from(size).unwrap_or(i32::MAX) - draft.replicas
}

/// Whether the stored status says that the rollout is done.
fn is_stored_complete(deployment: &Deployment, observed: &Observed) -> bool {
    deployment.status.as_ref().is_some_and(|status| status::is_complete(observed, status))
}
