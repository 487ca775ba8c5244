//! Defaults of pods and pod templates that depend on other fields.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::resources::may_be_overcommitted;
use crate::types::check::{self, default, flag, items, items_mut, members, text};

/// Lists of containers in a pod spec.
pub(crate) const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of the spec of a pod or of a template.
pub(crate) fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for list in CONTAINERS {
        for container in items_mut(spec, list) {
            default_pull_policy(container, "imagePullPolicy", "image");
            default(container, "resources", json!({}));
            stop_signal(container);
            for variable in items_mut(container, "env") {
                if let Some(from) = check::part(variable, "valueFrom") {
                    divisor(from);
                }
            }
        }
    }
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
    check::remove(spec, "schedulingGroup"); // A feature that is off.
    service_account(spec);
}

/// Defaults of a template's `spec`, if there is one.
pub(crate) fn template(template: &mut Value) {
    if let Some(part) = check::part(template, "spec") {
        spec(part);
    }
}

/// Defaults of pods only, not of templates.
pub(crate) fn pod(pod: &mut Value) {
    let Some(spec) = check::part(pod, "spec") else { return };
    default(spec, "enableServiceLinks", true);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    let on_host = flag(spec, "hostNetwork");
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            if let Some(resources) = check::part(container, "resources") {
                requests_from_limits(resources);
            }
            for port in items_mut(container, "ports").filter(|_| on_host) {
                if port["hostPort"].as_i64().unwrap_or_default() == 0 {
                    port["hostPort"] = port["containerPort"].clone();
                }
            }
        }
    }
    pod_level_requests(spec);
}

fn default_pull_policy(of: &mut Value, field: &str, image: &str) {
    if of[field].is_null() {
        let policy = pull_policy(text(of, image));
        default(of, field, policy);
    }
}

/// The pull policy of an image without one: `Always` if its tag is, or defaults to, `latest`.
fn pull_policy(image: &str) -> &'static str {
    // What names no image has no tag.
    if !is_reference(image) {
        return "IfNotPresent";
    }
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        _ if digest => "IfNotPresent",
        None | Some((_, "latest" | "")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// Whether the text can be the name of an image.
///
/// Source: the OCI distribution specification, "Pulling manifests", and the grammar of github.com/distribution/reference.
fn is_reference(image: &str) -> bool {
    const LONGEST: usize = 255;
    static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
        let host = format!(r"(?:{label}(?:\.{label})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/");
        let part = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
        let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
        let tag = r"\w[\w.-]{0,127}";
        let all = format!(r"^(?:{host})?({part}(?:/{part})*)(?::{tag})?(?:@{digest})?$");
        schema::regexps::compile(&all).ok() // Whose classes are of ASCII.
    });
    let Some(reference) = &*REFERENCE else { return false };
    // The length is that of the name, which only a long text has to be taken apart for.
    if image.len() <= LONGEST {
        return reference.is_match(image);
    }
    reference.captures(image).is_some_and(|found| found[1].len() <= LONGEST)
}

fn volume(volume: &mut Value) {
    let only_name =
        volume.as_object().is_some_and(|map| map.iter().all(|(k, v)| k == "name" || v.is_null()));
    if only_name {
        volume["emptyDir"] = json!({});
    }
    if let Some(downward) = check::part(volume, "downwardAPI") {
        items_mut(downward, "items").for_each(divisor);
    }
    if let Some(projected) = check::part(volume, "projected") {
        for source in items_mut(projected, "sources") {
            for off in ["clusterTrustBundle", "podCertificate"] {
                check::remove(source, off);
            }
            if let Some(downward) = check::part(source, "downwardAPI") {
                items_mut(downward, "items").for_each(divisor);
            }
        }
    }
    if let Some(image) = check::part(volume, "image") {
        default_pull_policy(image, "pullPolicy", "reference");
    }
}

/// Stop signals are behind a feature gate that is off by default: they are dropped.
fn stop_signal(container: &mut Value) {
    let Some(lifecycle) = check::part(container, "lifecycle") else { return };
    let dropped = check::remove(lifecycle, "stopSignal").is_some();
    let empty = lifecycle.as_object().is_some_and(Map::is_empty);
    if dropped && empty {
        check::remove(container, "lifecycle");
    }
}

/// A reference to a resource is divided by one, written as zero.
fn divisor(of: &mut Value) {
    if let Some(reference) = check::part(of, "resourceFieldRef") {
        default(reference, "divisor", "0");
    }
}

/// The two names of the service account are one field.
fn service_account(spec: &mut Value) {
    let name = text(spec, "serviceAccountName");
    let name = if name.is_empty() { text(spec, "serviceAccount") } else { name }.to_owned();
    if name.is_empty() {
        check::remove(spec, "serviceAccountName");
        check::remove(spec, "serviceAccount");
    } else {
        spec["serviceAccountName"] = name.clone().into();
        spec["serviceAccount"] = name.into();
    }
}

fn requests_from_limits(resources: &mut Value) {
    let limits: Vec<(String, Value)> =
        members(&resources["limits"]).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (name, limit) in limits {
        check::ensure(resources, "requests").entry(name).or_insert(limit);
    }
}

/// Requests of a whole pod that has limits: those of its containers, or else its own limits.
fn pod_level_requests(spec: &mut Value) {
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let limits = spec["resources"]["limits"].clone();
    if check::is_empty(&limits) {
        return;
    }
    let asked = quota::pod::total(spec, quota::pod::Side::Requests);
    let asked = asked.only(|name| supported(name) && may_be_overcommitted(name)).to_value();
    for (name, amount) in
        members(&asked).chain(members(&limits).filter(|(name, _)| supported(name)))
    {
        let requests = check::ensure(&mut spec["resources"], "requests");
        requests.entry(name.as_str()).or_insert_with(|| amount.clone());
    }
}

/// Merges `matchLabelKeys` of spread constraints and affinity terms into their selectors, with the pod's own labels.
pub(crate) fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let Some(spec) = check::part(pod, "spec") else { return };
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels);
    }
    let Some(affinity) = check::part(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = check::part(affinity, kind) else { continue };
        for term in items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_keys(term, &labels);
        }
        for term in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = check::part(term, "podAffinityTerm") {
                merge_keys(term, &labels);
            }
        }
    }
}

fn merge_keys(term: &mut Value, labels: &Map<String, Value>) {
    if !term["labelSelector"].is_object() {
        return;
    }
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys: Vec<String> =
            items(&term[list]).iter().filter_map(|k| k.as_str().map(str::to_owned)).collect();
        for key in keys {
            let Some(value) = labels.get(&key) else { continue };
            let expression = json!({"key": key, "operator": operator, "values": [value]});
            check::push(&mut term["labelSelector"], "matchExpressions", expression);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, policy) in [
            ("tool", "Always"),
            ("tool:latest", "Always"),
            ("tool:3.1", "IfNotPresent"),
            ("reg.example.com:5000/tool", "Always"),
            ("reg.example.com:5000/tool:1", "IfNotPresent"),
            ("tool@sha256:aa", "IfNotPresent"),
            ("Tool", "IfNotPresent"),
            ("a b", "IfNotPresent"),
            ("Reg/tool", "Always"),
            ("tool:latest@sha256:aa", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn limits_become_requests() {
        let mut pod = json!({"spec": {"hostNetwork": true, "containers": [
            {"resources": {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "500m"}}, "ports": [{"containerPort": 80}]}
        ]}});
        super::pod(&mut pod);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "500m", "memory": "2Gi"}));
        assert_eq!(container["ports"][0]["hostPort"], 80);
    }

    #[test]
    fn pod_level_requests_come_from_containers_then_limits() {
        let mut pod = json!({"spec": {"resources": {"limits": {"cpu": "2", "memory": "2Gi"}},
            "containers": [{"resources": {"requests": {"cpu": "300m"}}}, {"resources": {"requests": {"cpu": "200m"}}}]}});
        super::pod(&mut pod);
        assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "500m", "memory": "2Gi"}));
    }

    #[test]
    fn both_names_of_the_service_account_are_filled() {
        let mut one = json!({"serviceAccount": "x"});
        spec(&mut one);
        assert_eq!(one, json!({"serviceAccount": "x", "serviceAccountName": "x"}));
    }

    #[test]
    fn label_keys_join_the_selector() {
        let mut pod = json!({"metadata": {"labels": {"rev": "r7"}}, "spec": {"topologySpreadConstraints": [
            {"labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["rev", "absent"]}]}});
        merge_label_keys(&mut pod);
        let selector = &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"];
        assert_eq!(
            selector["matchExpressions"],
            json!([{"key": "rev", "operator": "In", "values": ["r7"]}])
        );
    }
}
