//! Labels of namespaces: they must make sense, and whoever tightens them is told which pods would not do.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::checks::{Pod, reasons, violations};
use super::config::Config;
use super::policy::{Level, Policy, Standard, of_object};
use crate::admission::Attributes;
use crate::status::ApiError;
use crate::types::check::{flag, items, text};

/// Most pods that are looked at for one change of labels.
///
/// Source: upstream `pod-security-admission/admission/admission.go`.
const MOST_PODS: usize = 3000;

/// Looks at the labels of a namespace.
///
/// # Errors
/// They make no sense, unless they did so before.
pub(super) async fn validate(
    config: &Config,
    attributes: &mut Attributes<'_>,
    namespace: &Value,
) -> Result<(), ApiError> {
    let name = text(&namespace["metadata"], "name");
    let labels = &namespace["metadata"]["labels"];
    let (policy, causes) = of_object(labels, &config.defaults);
    let old = attributes.old.map(|old| of_object(&old["metadata"]["labels"], &config.defaults));
    let known = old.as_ref().is_some_and(|(_, before)| *before == causes);
    if !causes.is_empty() && !known {
        return Err(ApiError::Invalid {
            kind: attributes.resource.group_kind(),
            name: name.to_owned(),
            causes: causes.into_iter().map(Into::into).collect(),
        });
    }
    let exempt = config.namespaces.contains(name);
    if old.as_ref().is_some_and(|(old, _)| !is_tightened(policy.enforce, old.enforce)) {
        return Ok(());
    }
    if exempt {
        attributes.warnings.extend(ignored(name, &policy, labels, &config.defaults));
    } else if old.is_some() {
        let mut pods = attributes.list("", "pods", Some(name)).await?;
        pods.retain(|pod| !config.runtime_classes.contains(text(&pod["spec"], "runtimeClassName")));
        attributes.warnings.extend(existing(name, policy.enforce, &pods));
    }
    Ok(())
}

fn is_tightened(new: Standard, old: Standard) -> bool {
    let relaxed = new.version == old.version && new.level <= old.level;
    new != old && new.level != Level::Privileged && !relaxed
}

/// The warning that labels of an exempt namespace have no effect.
fn ignored(name: &str, policy: &Policy, labels: &Value, defaults: &Policy) -> Option<String> {
    if policy.is_privileged() || policy.is_equivalent(defaults) {
        return None;
    }
    let set = |mode: &str| {
        let label = format!("{}{mode}", super::PREFIX);
        !labels[&label].is_null() || !labels[format!("{label}-version")].is_null()
    };
    let modes = policy.modes();
    let modes = modes.iter().filter(|(mode, s)| s.level != Level::Privileged && set(mode));
    let modes: Vec<String> = modes.map(|(mode, standard)| format!("{mode}={standard}")).collect();
    Some(format!(
        "namespace {name:?} is exempt from Pod Security, and the policy ({}) will be ignored",
        modes.join(", ")
    ))
}

/// Warnings about pods that are there already.
fn existing(namespace: &str, standard: Standard, pods: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    if pods.len() > MOST_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
            pods.len()
        ));
    }
    // Why, and which pods.
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in one_of_each(pods).into_iter().take(MOST_PODS) {
        let violations =
            violations(standard, Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
        if !violations.is_empty() {
            found.entry(reasons(&violations)).or_default().push(text(&pod["metadata"], "name"));
        }
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(why, pods)| {
            let first = pods.iter().min().copied().unwrap_or_default();
            match pods.len() {
                1 => format!("{first}: {why}"),
                2 => format!("{first} (and 1 other pod): {why}"),
                more => format!("{first} (and {} other pods): {why}", more - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

/// Pods in an order in which every controller's first comes before the others, which most likely are like it.
fn one_of_each(pods: &[Value]) -> Vec<&Value> {
    let mut seen = HashSet::new();
    let (first, others): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|pod| {
        let owners = items(&pod["metadata"]["ownerReferences"]).iter();
        let controller = owners.into_iter().find(|owner| flag(owner, "controller"));
        controller.is_none_or(|owner| seen.insert(text(owner, "uid").to_owned()))
    });
    first.into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::pod_security::policy::Version;

    const BASELINE: Standard = Standard { level: Level::Baseline, version: Version::Latest };

    #[test]
    fn pods_that_would_not_do_are_counted_by_reason() {
        let pod =
            |name: &str, field: &str| json!({"metadata": {"name": name}, "spec": {field: true}});
        let pods = [
            pod("c", "hostNetwork"),
            pod("b", "hostPID"),
            pod("a", "none"),
            json!({"metadata": {"name": "d"}, "spec": {"volumes": [{"name": "v", "hostPath": {}}]}}),
        ];
        assert_eq!(
            existing("n", BASELINE, &pods),
            [
                "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "b (and 1 other pod): host namespaces",
                "d: hostPath volumes",
            ]
        );
        assert!(existing("n", BASELINE, &pods[2..3]).is_empty());
    }

    #[test]
    fn relaxed_labels_are_not_checked() {
        let of = |level, version| Standard { level, version };
        assert!(is_tightened(BASELINE, Standard::PRIVILEGED));
        assert!(!is_tightened(BASELINE, of(Level::Restricted, Version::Latest)));
        assert!(is_tightened(BASELINE, of(Level::Restricted, Version::Minor(1))));
        assert!(!is_tightened(Standard::PRIVILEGED, BASELINE));
    }
}
