//! Annotations: revisions, for `kubectl rollout history` and `undo`, and sizes, for scaling.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;

use super::{Observed, max_surge};

/// Which rollout the template belongs to, counted from 1.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";

/// Earlier revisions of the same template, comma-separated.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";

/// The same plus `maxSurge`.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that do not concern its ReplicaSets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Longest history in characters. Source: `maxRevHistoryLengthInChars` upstream.
const LONGEST_HISTORY: usize = 2000;

/// The revision of a ReplicaSet; 0 if it has none.
pub(super) fn of(rs: &ReplicaSet) -> i64 {
    number(rs.annotations(), REVISION).unwrap_or(0)
}

/// A number in an annotation.
pub(super) fn number(annotations: &BTreeMap<String, String>, name: &str) -> Option<i64> {
    annotations.get(name)?.parse().ok()
}

/// The annotations of the ReplicaSet of the current template, worked out from those it has.
pub(super) fn annotate_new(
    observed: &Observed,
    annotations: &mut BTreeMap<String, String>,
    revision: i64,
) {
    let copied = observed.deployment.annotations().iter();
    for (name, value) in copied.filter(|(name, _)| !NOT_COPIED.contains(&name.as_str())) {
        annotations.insert(name.clone(), value.clone());
    }
    let before = annotations.get(REVISION).cloned();
    if number(annotations, REVISION).unwrap_or(0) >= revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if let Some(before) = before {
        let history = annotations.entry(HISTORY.to_owned()).or_default();
        if !history.is_empty() {
            history.push(',');
        }
        history.push_str(&before);
        while history.len() > LONGEST_HISTORY {
            let first = history.find(',').map_or(history.len(), |comma| comma + 1);
            history.drain(..first);
        }
    }
}

/// Notes for which size of the Deployment a ReplicaSet was scaled.
pub(super) fn annotate_size(observed: &Observed, annotations: &mut BTreeMap<String, String>) {
    let max = observed.replicas.saturating_add(max_surge(observed));
    annotations.insert(DESIRED.to_owned(), observed.replicas.to_string());
    annotations.insert(MAX.to_owned(), max.to_string());
}
