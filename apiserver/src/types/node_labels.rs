//! Labels of nodes that have other names now.
//!
//! Source: upstream's `pkg/api/node/util.go`.

use std::fmt::Arguments;

use serde_json::Value;

use super::check::{items, members, text};
use super::words;

const DEPRECATED: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What to say of a label that is deprecated.
pub(super) fn deprecated(key: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(label, _)| *label == key).map(|(_, message)| *message)
}

/// The label that took the place of a beta one.
pub(super) fn stable(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "kubernetes.io/arch",
        "beta.kubernetes.io/os" => "kubernetes.io/os",
        "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        _ => return None,
    })
}

/// Warnings of a node selector term at `at`.
pub(super) fn of_term(at: Arguments<'_>, term: &Value) -> Vec<String> {
    let expressions = items(&term["matchExpressions"]).iter().enumerate();
    let told = expressions.filter_map(|(n, expression)| {
        let key = text(expression, "key");
        let message = deprecated(key)?;
        Some(format!("{at}.matchExpressions[{n}].key: {key} is {message}"))
    });
    told.collect()
}

/// Warnings of values in a node selector term at `at` that no label can have.
pub(super) fn bad_values(at: Arguments<'_>, term: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (n, expression) in items(&term["matchExpressions"]).iter().enumerate() {
        for (m, value) in items(&expression["values"]).iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for fault in words::label_value(value) {
                let place = format!("{at}.matchExpressions[{n}].values[{m}]");
                warnings.push(format!("{place}: {value} is invalid, {fault}"));
            }
        }
    }
    warnings
}

/// Warnings of a label selector of nodes at `at`.
pub(super) fn of_selector(at: Arguments<'_>, selector: &Value) -> Vec<String> {
    let mut warnings = of_term(at, selector);
    for (key, _) in members(&selector["matchLabels"]) {
        if let Some(message) = deprecated(key) {
            warnings.push(format!("{at}.matchLabels.{key}: {message}"));
        }
    }
    warnings
}
