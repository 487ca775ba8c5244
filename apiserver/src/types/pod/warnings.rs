//! What is allowed in a pod's spec and yet a bad idea.

mod paths;
mod ports;

use std::collections::HashSet;
use std::fmt::Arguments;

use serde_json::Value;

use super::container::visit;
use crate::types::check::{is_empty, items, members, nano, shown, text};
use crate::types::{addresses, node_labels, storage};

/// Volumes that only old versions know: the field, its name in messages, and why.
const GONE: [(&str, &str, &str); 9] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const NO_POD: &str = "a null labelSelector results in matching no pod";
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];

/// Texts for a pod or a template; `at` is what stands before `spec` and `metadata`.
pub(crate) fn all(at: &str, pod: &Value) -> Vec<String> {
    let (spec, annotations) = (&pod["spec"], &pod["metadata"]["annotations"]);
    let mut warnings = Vec::new();
    let base = at;
    let at = format_args!("{base}spec");
    placement(at, spec, &mut warnings);
    for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| !annotations[*key].is_null()) {
        warnings.push(format!("{base}metadata.annotations[{key}]: {why}"));
    }
    volumes(at, spec, &mut warnings);
    paths::overlapping(&spec["volumes"], &mut warnings);
    lists(at, spec, &mut warnings);
    for name in BYTES {
        fractional(format_args!("{at}.overhead"), name, &spec["overhead"], &mut warnings);
    }
    profiles(base, spec, annotations, &mut warnings);
    visit(spec, |list, n, container| {
        self::container(format_args!("{at}.{list}[{n}]"), container, &mut warnings);
    });
    ports::clashes(at, spec, &mut warnings);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        warnings.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    pod_affinity(at, spec, &mut warnings);
    for (n, server) in items(&spec["dnsConfig"]["nameservers"]).iter().enumerate() {
        let place = format_args!("{at}.dnsConfig.nameservers[{n}]");
        warnings.extend(addresses::ip_warning(place, server.as_str().unwrap_or_default()));
    }
    for (n, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let place = format_args!("{at}.hostAliases[{n}].ip");
        warnings.extend(addresses::ip_warning(place, text(alias, "ip")));
    }
    warnings
}

fn placement(at: Arguments<'_>, spec: &Value, warnings: &mut Vec<String>) {
    for (key, _) in members(&spec["nodeSelector"]) {
        if let Some(message) = node_labels::deprecated(key) {
            warnings.push(format!("{at}.nodeSelector[{key}]: {message}"));
        }
    }
    let nodes = &spec["affinity"]["nodeAffinity"];
    let at_nodes = format_args!("{at}.affinity.nodeAffinity");
    let required = &nodes["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    for (n, term) in items(required).iter().enumerate() {
        let at = format_args!(
            "{at_nodes}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{n}]"
        );
        warnings.extend(node_labels::of_term(at, term));
    }
    let preferred = &nodes["preferredDuringSchedulingIgnoredDuringExecution"];
    for (n, term) in items(preferred).iter().enumerate() {
        let at = format_args!(
            "{at_nodes}.preferredDuringSchedulingIgnoredDuringExecution[{n}].preference"
        );
        let term = &term["preference"];
        warnings.extend(node_labels::of_term(at, term));
        warnings.extend(node_labels::bad_values(at, term));
    }
    for (n, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let at = format_args!("{at}.topologySpreadConstraints[{n}]");
        let key = text(constraint, "topologyKey");
        if let Some(message) = node_labels::deprecated(key) {
            warnings.push(format!("{at}.topologyKey: {key} is {message}"));
        }
        if constraint["labelSelector"].is_null() {
            warnings.push(format!("{at}.labelSelector: {NO_POD}"));
        }
    }
}

fn pod_affinity(at: Arguments<'_>, spec: &Value, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, term) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", ".podAffinityTerm"),
        ] {
            for (n, entry) in items(&spec["affinity"][kind][list]).iter().enumerate() {
                let inner = if term.is_empty() { entry } else { &entry["podAffinityTerm"] };
                if inner["labelSelector"].is_null() {
                    warnings.push(format!(
                        "{at}.affinity.{kind}.{list}[{n}]{term}.labelSelector: {NO_POD}"
                    ));
                }
            }
        }
    }
}

fn volumes(at: Arguments<'_>, spec: &Value, warnings: &mut Vec<String>) {
    for (n, volume) in items(&spec["volumes"]).iter().enumerate() {
        let at = format_args!("{at}.volumes[{n}]");
        for (_, shown, why) in GONE.iter().filter(|(field, ..)| !volume[*field].is_null()) {
            warnings.push(format!("{at}.{shown}: {why}"));
        }
        let claim = &volume["ephemeral"]["volumeClaimTemplate"]["spec"];
        let claim_at = format_args!("{at}.ephemeral.volumeClaimTemplate.spec");
        warnings.extend(storage::claim_warnings(claim_at, claim));
    }
}

/// Entries that say what another one said.
fn lists(at: Arguments<'_>, spec: &Value, warnings: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = HashSet::new();
        for (n, entry) in items(&spec[list]).iter().enumerate() {
            let value = text(entry, field);
            if !seen.insert(value) {
                warnings.push(format!("{at}.{list}[{n}].{field}: duplicate {field} {value:?}"));
            }
        }
    }
    for (n, _) in items(&spec["imagePullSecrets"])
        .iter()
        .enumerate()
        .filter(|(_, secret)| is_empty(&secret["name"]))
    {
        warnings.push(format!("{at}.imagePullSecrets[{n}].name: invalid empty name \"\""));
    }
}

/// Annotations in the place of fields.
fn profiles(base: &str, spec: &Value, annotations: &Value, warnings: &mut Vec<String>) {
    const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
    const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    if is_empty(annotations) {
        return;
    }
    let mut tell = |key: &str, field: &Value, why: &str| {
        if !annotations[key].is_null() && field.is_null() {
            warnings.push(format!("{base}metadata.annotations[{key}]: {why}"));
        }
    };
    let old = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    tell(SECCOMP_POD, &spec["securityContext"]["seccompProfile"], old);
    visit(spec, |_, _, container| {
        let (name, context) = (text(container, "name"), &container["securityContext"]);
        tell(&format!("{SECCOMP}{name}"), &context["seccompProfile"], old);
        let own = &context["appArmorProfile"];
        let profile = if own.is_null() { &spec["securityContext"]["appArmorProfile"] } else { own };
        let old = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
        tell(&format!("{APP_ARMOR}{name}"), profile, old);
    });
}

fn fractional(at: Arguments<'_>, name: &str, amounts: &Value, warnings: &mut Vec<String>) {
    let amount = &amounts[name];
    if nano(amount) % 1_000_000_000 != 0 {
        warnings.push(format!(
            "{at}[{name}]: fractional byte value {} is invalid, must be an integer",
            shown(amount)
        ));
    }
}

fn container(at: Arguments<'_>, container: &Value, warnings: &mut Vec<String>) {
    for name in BYTES {
        for part in ["limits", "requests"] {
            let amounts = &container["resources"][part];
            fractional(format_args!("{at}.resources.{part}"), name, amounts, warnings);
        }
    }
    let mut seen = HashSet::new();
    for (n, variable) in items(&container["env"]).iter().enumerate() {
        let name = text(variable, "name");
        if !seen.insert(name) && !builds_on_itself(variable) {
            warnings.push(format!(
                "{at}.env[{n}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// Whether a variable's value quotes the definition before it.
fn builds_on_itself(variable: &Value) -> bool {
    let itself = format!("$({})", text(variable, "name"));
    let value = text(variable, "value");
    variable["valueFrom"].is_null() && value != itself && value.contains(&itself)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bad_ideas_are_told() {
        let pod = json!({"volumes": [{"name": "v", "rbd": {}}], "terminationGracePeriodSeconds": -1,
            "containers": [{"resources": {"limits": {"memory": "100m"}}, "env": [{"name": "A"}, {"name": "A"}]}]});
        let texts = all("", &json!({"spec": pod}));
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert!(all("", &json!({"spec": {"containers": [{}]}})).is_empty());
    }

    #[test]
    fn labels_that_have_other_names_are_told() {
        let pod = json!({"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}}});
        assert_eq!(
            all("spec.template.", &pod),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.template.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
            ]
        );
    }
}
