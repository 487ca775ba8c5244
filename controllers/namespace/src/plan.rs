//! What a namespace that is being deleted still waits for.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";

/// First and longest pause before a namespace with content is looked at again; it doubles in between.
///
/// The end of a pod wakes the controller anyway.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A type of objects in namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Type {
    /// API group, empty for core.
    pub group: String,
    /// Plural name.
    pub plural: String,
}

impl Type {
    /// `plural.group`, as upstream's messages have it.
    fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// What was found of one type after its deletion was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The type.
    pub of: Type,
    /// Objects that are still there.
    pub n_objects: usize,
    /// How many of them have each finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

/// What one sweep through the namespace has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// What is left.
    pub found: Vec<Found>,
    /// What could not be discovered.
    pub discovery_failures: Vec<String>,
    /// What could not be deleted or listed.
    pub failures: Vec<String>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is none of our business, or not any more.
    Nothing,
    /// Take the finalizer away: it is empty.
    Finalize,
    /// Look again after this time.
    Wait(Duration),
}

/// Whether the namespace is to be emptied.
pub fn is_ours(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.into_iter().any(|f| f == FINALIZER)
}

/// Whether the types are swept before all the others: pods go first, so that policies, accounts
/// and secrets outlive what they apply to.
///
/// Source: KEP-5080, ordered namespace deletion.
pub fn goes_first(of: &Type) -> bool {
    of.group.is_empty() && of.plural == "pods"
}

/// What follows from a sweep; `n_sweeps` counts those before it.
pub fn next(sweep: &Sweep, n_sweeps: u32) -> Next {
    let is_empty = sweep.found.iter().all(|f| f.n_objects == 0);
    if is_empty && sweep.failures.is_empty() && sweep.discovery_failures.is_empty() {
        return Next::Finalize;
    }
    Next::Wait(PAUSE.0.saturating_mul(2_u32.saturating_pow(n_sweeps)).min(PAUSE.1))
}

/// The finalizers that stay.
pub fn other_finalizers(namespace: &Namespace) -> Vec<String> {
    let finalizers = namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten());
    finalizers.filter(|f| *f != FINALIZER).cloned().collect()
}

/// The conditions that tell users what the namespace waits for; those of other types stay.
pub fn conditions(
    old: &[NamespaceCondition],
    sweep: &Sweep,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let mut all = old.to_vec();
    for (type_, good, bad) in judged(sweep) {
        let (status, (reason, message)) = match bad {
            Some((reason, message)) => ("True", (reason, message)),
            None => ("False", (good.0, good.1.to_owned())),
        };
        let mut new = NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match all.iter_mut().find(|c| c.type_ == type_) {
            None => all.push(new),
            Some(old) => {
                if old.status == new.status {
                    new.last_transition_time = old.last_transition_time.clone();
                }
                *old = new;
            }
        }
    }
    all
}

type Judged = (&'static str, (&'static str, &'static str), Option<(&'static str, String)>);

/// Each condition with its good reason and message, and the bad ones if it is so.
fn judged(sweep: &Sweep) -> [Judged; 5] {
    let joined = |failures: &[String]| failures.join(", ");
    let discovery = (!sweep.discovery_failures.is_empty()).then(|| {
        let what = joined(&sweep.discovery_failures);
        ("DiscoveryFailed", format!("Discovery failed for some groups, {what}"))
    });
    let content = (!sweep.failures.is_empty()).then(|| {
        let what = joined(&sweep.failures);
        ("ContentDeletionFailed", format!("Failed to delete all resource types, {what}"))
    });
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            discovery,
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            content,
        ),
        (
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            remaining(sweep),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            finalizers(sweep),
        ),
    ]
}

fn remaining(sweep: &Sweep) -> Option<(&'static str, String)> {
    let parts = sweep.found.iter().filter(|f| f.n_objects > 0);
    let mut parts: Vec<_> =
        parts.map(|f| format!("{} has {} resource instances", f.of.name(), f.n_objects)).collect();
    parts.sort();
    let text = format!("Some resources are remaining: {}", parts.join(", "));
    (!parts.is_empty()).then_some(("SomeResourcesRemain", text))
}

fn finalizers(sweep: &Sweep) -> Option<(&'static str, String)> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for (finalizer, n) in sweep.found.iter().flat_map(|f| &f.finalizers) {
        *counts.entry(finalizer).or_default() += n;
    }
    let parts: Vec<_> =
        counts.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let text =
        format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "));
    (!parts.is_empty()).then_some(("SomeFinalizersRemain", text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(group: &str, plural: &str, n_objects: usize, finalizers: &[(&str, usize)]) -> Found {
        let of = Type { group: group.into(), plural: plural.into() };
        let finalizers = finalizers.iter().map(|(f, n)| ((*f).to_owned(), *n)).collect();
        Found { of, n_objects, finalizers }
    }

    #[track_caller]
    fn check(sweep: &Sweep, expected: &str) {
        let text: String = conditions(&[], sweep, Timestamp::UNIX_EPOCH)
            .iter()
            .filter(|c| c.status == "True")
            .map(|c| {
                format!(
                    "{} {}: {}\n",
                    c.type_,
                    c.reason.as_deref().unwrap(),
                    c.message.as_deref().unwrap()
                )
            })
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn only_terminating_namespaces_with_our_finalizer_are_ours() {
        for (spec, deleted, expected) in [
            (json!({"finalizers": ["kubernetes"]}), true, true),
            (json!({"finalizers": ["kubernetes"]}), false, false),
            (json!({"finalizers": ["example.com/other"]}), true, false),
            (json!({}), true, false),
        ] {
            let mut namespace: Namespace = serde_json::from_value(json!({"spec": spec})).unwrap();
            if deleted {
                namespace.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            }
            assert_eq!(is_ours(&namespace), expected, "{spec} {deleted}");
        }
    }

    #[test]
    fn an_empty_namespace_is_finalized_any_other_waits() {
        let mut sweep = Sweep::default();
        assert_eq!(next(&sweep, 0), Next::Finalize);
        sweep.found.push(found("", "pods", 0, &[]));
        assert_eq!(next(&sweep, 0), Next::Finalize);
        sweep.found.push(found("apps", "deployments", 1, &[]));
        assert_eq!(next(&sweep, 0), Next::Wait(Duration::from_millis(50)));
        assert_eq!(next(&sweep, 2), Next::Wait(Duration::from_millis(200)));
        assert_eq!(next(&sweep, 99), Next::Wait(Duration::from_secs(5)));
        let failed = Sweep { discovery_failures: vec!["no".into()], ..Sweep::default() };
        assert!(matches!(next(&failed, 0), Next::Wait(_)));
        let failed = Sweep { failures: vec!["no".into()], ..Sweep::default() };
        assert!(matches!(next(&failed, 0), Next::Wait(_)));
    }

    #[test]
    fn conditions_say_what_is_left() {
        check(&Sweep::default(), "");
        let sweep = Sweep {
            found: vec![
                found("", "pods", 2, &[("example.com/wait", 1)]),
                found(
                    "apps",
                    "deployments",
                    1,
                    &[("example.com/wait", 1), ("foregroundDeletion", 1)],
                ),
                found("", "secrets", 0, &[]),
            ],
            discovery_failures: vec!["metrics.k8s.io/v1: no answer".into()],
            failures: vec!["forbidden".into()],
        };
        check(
            &sweep,
            "NamespaceDeletionDiscoveryFailure DiscoveryFailed: Discovery failed for some groups, metrics.k8s.io/v1: no answer\n\
             NamespaceDeletionContentFailure ContentDeletionFailed: Failed to delete all resource types, forbidden\n\
             NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: \
             deployments.apps has 1 resource instances, pods. has 2 resource instances\n\
             NamespaceFinalizersRemaining SomeFinalizersRemain: Some content in the namespace has finalizers remaining: \
             example.com/wait in 2 resource instances, foregroundDeletion in 1 resource instances\n",
        );
    }

    #[test]
    fn conditions_move_their_time_only_with_their_status() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let times = |all: &[NamespaceCondition]| {
            all.iter()
                .map(|c| c.last_transition_time.as_ref().unwrap().0.as_second())
                .collect::<Vec<_>>()
        };
        let first = conditions(&[], &Sweep::default(), at(1));
        let full = Sweep { found: vec![found("", "pods", 1, &[])], ..Sweep::default() };
        let second = conditions(&first, &full, at(2));
        assert_eq!(times(&second), [1, 1, 1, 2, 1]);
        assert_eq!(conditions(&second, &full, at(3)), second);
    }
}
