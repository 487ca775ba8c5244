//! Scopes: which objects of a namespace a quota is about.

use serde_json::Value;

use crate::{items, text};

/// One condition of a quota's scope.
///
/// Source: `ScopedResourceSelectorRequirement` in `core/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Such as `PriorityClass`.
    pub scope: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For the first two.
    pub values: Vec<String>,
}

impl Selector {
    /// Reads one entry of `matchExpressions`.
    pub fn read(entry: &Value) -> Self {
        let values = items(&entry["values"]).iter().filter_map(Value::as_str);
        Self {
            scope: text(entry, "scopeName").to_owned(),
            operator: text(entry, "operator").to_owned(),
            values: values.map(str::to_owned).collect(),
        }
    }

    /// The conditions of a quota's spec, all of which must hold.
    pub fn of_quota(spec: &Value) -> Vec<Self> {
        let scopes = items(&spec["scopes"]).iter().filter_map(Value::as_str).map(|scope| Self {
            scope: scope.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        scopes
            .chain(items(&spec["scopeSelector"]["matchExpressions"]).iter().map(Self::read))
            .collect()
    }

    /// Whether one of the values that an object has for the scope fits; an object may have none.
    fn fits(&self, values: &[&str]) -> bool {
        let listed = |value: &&&str| self.values.iter().any(|v| v == *value);
        match self.operator.as_str() {
            "In" => values.iter().any(|value| listed(&value)),
            "NotIn" => values.is_empty() || values.iter().any(|value| !listed(&value)),
            "DoesNotExist" => values.is_empty(),
            _ => !values.is_empty(),
        }
    }

    /// Whether a pod fits.
    pub fn has_pod(&self, pod: &Value) -> bool {
        let spec = &pod["spec"];
        match self.scope.as_str() {
            "Terminating" => is_terminating(pod),
            "NotTerminating" => !is_terminating(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => {
                let class = Some(text(spec, "priorityClassName")).filter(|class| !class.is_empty());
                self.fits(class.as_slice())
            }
            "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
            _ => false,
        }
    }

    /// Whether a claim fits.
    pub fn has_claim(&self, claim: &Value) -> bool {
        let (spec, status) = (&claim["spec"], &claim["status"]);
        let names = [
            text(spec, "volumeAttributesClassName"),
            text(status, "currentVolumeAttributesClassName"),
            text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
        ];
        let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
        self.scope == "VolumeAttributesClass" && self.fits(&names)
    }
}

/// Whether the pod ends by itself at some time.
pub fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    match text(&pod["status"], "qosClass") {
        "" => crate::pod::is_best_effort(&pod["spec"]),
        class => class == "BestEffort",
    }
}

/// Whether the pod wants to be near, or far from, pods of other namespaces.
fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        !items(&term["namespaces"]).is_empty() || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let affinity = &affinity[kind];
        let required = items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let preferred = items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
        required.chain(preferred.map(|weighted| &weighted["podAffinityTerm"])).any(crosses)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn pod(scope: &str, pod: Value, fits: bool) {
        let spec = json!({"scopes": [scope]});
        let selectors = Selector::of_quota(&spec);
        assert_eq!(selectors.iter().all(|s| s.has_pod(&pod)), fits, "{scope} {pod}");
    }

    #[test]
    fn scopes_of_pods() {
        for (scope, other) in [("Terminating", "NotTerminating"), ("NotBestEffort", "BestEffort")] {
            let spec = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"resources": {"limits": {"cpu": 1}}}]}});
            pod(scope, spec.clone(), true);
            pod(other, spec, false);
            pod(scope, json!({"spec": {}}), false);
            pod(other, json!({"spec": {}}), true);
        }
        pod("BestEffort", json!({"spec": {}, "status": {"qosClass": "Burstable"}}), false);
        pod("PriorityClass", json!({"spec": {"priorityClassName": "high"}}), true);
        pod("PriorityClass", json!({"spec": {}}), false);
        let preferred = json!({"podAffinityTerm": {"namespaceSelector": {}}});
        let affinity = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}});
        pod("CrossNamespacePodAffinity", json!({"spec": {"affinity": affinity}}), true);
        let required = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]}});
        pod("CrossNamespacePodAffinity", json!({"spec": {"affinity": required}}), false);
    }

    #[test]
    fn operators() {
        let fits = |operator: &str, class: Option<&str>| {
            let expression =
                json!({"scopeName": "PriorityClass", "operator": operator, "values": ["high"]});
            let spec = json!({"scopeSelector": {"matchExpressions": [expression]}});
            Selector::of_quota(&spec)[0].has_pod(&json!({"spec": {"priorityClassName": class}}))
        };
        let table = [
            ("In", [true, false, false]),
            ("NotIn", [false, true, true]),
            ("Exists", [true, true, false]),
            ("DoesNotExist", [false, false, true]),
        ];
        for (operator, expected) in table {
            let found = [Some("high"), Some("low"), None].map(|class| fits(operator, class));
            assert_eq!(found, expected, "{operator}");
        }
    }

    #[test]
    fn claims_have_a_scope_of_their_own() {
        let selector = |scope: &str| Selector::of_quota(&json!({"scopes": [scope]})).remove(0);
        let claim = json!({"spec": {"volumeAttributesClassName": "gold"}});
        assert!(selector("VolumeAttributesClass").has_claim(&claim));
        assert!(!selector("VolumeAttributesClass").has_claim(&json!({})));
        assert!(!selector("Terminating").has_claim(&claim));
    }
}
