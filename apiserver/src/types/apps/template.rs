//! Selectors of workloads, and the pods that they make.

use serde_json::Value;

use crate::handlers::selector::Labels;
use crate::types::check::{At, Causes, is_empty};
use crate::types::pod;

/// What upstream says of one kind of workload, in words of its own.
pub(super) struct Words {
    /// The kind in what is said of a template.
    kind: &'static str,
    /// The kind in what is said of an empty selector.
    empty: &'static str,
    /// What is said of a selector that cannot select.
    pub(super) unfit: &'static str,
}

/// Deployments and replica sets.
pub(super) const REPLICAS: Words =
    Words { kind: "ReplicaSet", empty: "deployment", unfit: "invalid label selector" };
/// Replication controllers, whose selectors are plain labels.
pub(super) const CONTROLLERS: Words = Words { kind: "ReplicationController", ..REPLICAS };
/// Stateful sets.
pub(super) const STATEFUL_SETS: Words =
    Words { kind: "StatefulSet", empty: "statefulset", unfit: "" };
/// Daemon sets.
pub(super) const DAEMON_SETS: Words = Words { kind: "DaemonSet", empty: "daemonset", unfit: "" };

/// Selector and template, which must fit each other.
pub(super) fn all(causes: &mut Causes, spec: &Value, old: Option<&Value>, words: &Words) {
    let at = At::new("spec");
    let can_select = selector(causes, spec, words);
    if let Some(old) = old {
        let at = at.field("selector");
        causes.immutable(&at, &spec["selector"], &old["spec"]["selector"]);
    }
    if !can_select {
        return causes.invalid(&at.field("selector"), &spec["selector"], words.unfit);
    }
    let at = at.field("template");
    fits(causes, &at, spec);
    pod::template(causes, &at, &spec["template"]);
    restarted(causes, &at, &spec["template"], words);
}

/// The selector itself; whether it could select anything, if there were something.
pub(super) fn selector(causes: &mut Causes, spec: &Value, words: &Words) -> bool {
    let at = At::new("spec");
    let (at, selector) = (at.field("selector"), &spec["selector"]);
    if selector.is_null() {
        causes.required(&at, "");
        return true;
    }
    let n_before = causes.0.len();
    causes.selector(&at, selector);
    let can_select = causes.0.len() == n_before;
    if selects_all(selector) {
        let detail = format!("empty selector is invalid for {}", words.empty);
        causes.invalid(&at, selector, &detail);
    }
    can_select
}

/// Whether the labels of the template are selected.
pub(super) fn fits(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let labels = &spec["template"]["metadata"]["labels"];
    if !selects(&spec["selector"], labels) {
        let meta = at.field("metadata");
        let detail = "`selector` does not match template `labels`";
        causes.invalid(&meta.field("labels"), labels, detail);
    }
}

/// A template of pods that are always restarted.
pub(super) fn restarted(causes: &mut Causes, at: &At<'_>, template: &Value, words: &Words) {
    let at = at.field("spec");
    let policy = &template["spec"]["restartPolicy"];
    if policy.as_str().is_some_and(|p| p != "Always") {
        causes.not_supported(&at.field("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {} is not Supported", words.kind);
        causes.forbidden(&at.field("activeDeadlineSeconds"), &detail);
    }
}

/// Whether a label selector has no requirements.
fn selects_all(selector: &Value) -> bool {
    is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"])
}

/// Whether a label selector selects these labels; an absent one selects nothing.
fn selects(selector: &Value, labels: &Value) -> bool {
    !selector.is_null() && Labels::selects(selector, labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_select() {
        let labels = json!({"a": "1"});
        for (operator, values, expected) in [
            ("In", json!(["1"]), true),
            ("NotIn", json!(["1"]), false),
            ("Exists", json!([]), true),
            ("DoesNotExist", json!([]), false),
        ] {
            let selector =
                json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
            assert_eq!(selects(&selector, &labels), expected, "{operator}");
        }
    }
}
