//! What the checks share: who in a pod does something, and how that is said.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::admission::pods;
use crate::types::check::text;

/// Names of the containers that do something, in the order of the pod.
pub(super) fn containers(spec: &Value, does: impl Fn(&Value) -> bool) -> Vec<&str> {
    let found = pods::containers(spec).map(|(_, container)| container).filter(|c| does(c));
    found.map(|container| text(container, "name")).collect()
}

/// `"a", "b"`.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

/// One word for one thing, another for several.
pub(super) fn plural(one: &'static str, several: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { several }
}

/// `container "a"`, or `containers "a", "b"`.
pub(super) fn named(containers: &[&str]) -> String {
    let word = plural("container", "containers", containers.len());
    format!("{word} {}", quoted(containers.iter().copied()))
}

/// The pod itself and the containers that set something bad: `pod and container "a"`; empty if nobody does.
pub(super) fn setters(pod: bool, containers: &[&str]) -> Vec<String> {
    let pod = pod.then(|| "pod".to_owned());
    let containers = (!containers.is_empty()).then(|| named(containers));
    pod.into_iter().chain(containers).collect()
}

/// What of a security context counts.
pub(super) fn context(owner: &Value) -> &Value {
    &owner["securityContext"]
}

/// Who sets a text of the security context to something that is not allowed, and to what.
pub(super) struct Bad<'a> {
    /// Whether the pod's own context does.
    pub(super) pod: bool,
    /// Containers whose contexts do.
    pub(super) containers: Vec<&'a str>,
    /// The values, in order.
    pub(super) values: BTreeSet<&'a str>,
}

impl<'a> Bad<'a> {
    /// Looks at `securityContext.<profile>.type` wherever it can stand; without a profile nothing is set.
    pub(super) fn types(spec: &'a Value, profile: &str, allowed: &[&str]) -> Self {
        let bad = |owner: &'a Value| {
            let profile = &context(owner)[profile];
            let kind = text(profile, "type");
            (!profile.is_null() && !allowed.contains(&kind)).then_some(kind)
        };
        let of_pod = bad(spec);
        let of_containers =
            pods::containers(spec).filter_map(|(_, c)| Some((text(c, "name"), bad(c)?)));
        let (containers, values): (Vec<_>, Vec<_>) = of_containers.unzip();
        Self {
            pod: of_pod.is_some(),
            containers,
            values: values.into_iter().chain(of_pod).collect(),
        }
    }

    pub(super) fn setters(&self) -> Vec<String> {
        setters(self.pod, &self.containers)
    }
}

/// Whether root in the pod is nobody on the node.
pub(super) fn has_own_users(spec: &Value) -> bool {
    spec["hostUsers"] == false
}

/// Whether the pod runs on Windows, where these fields cannot be set.
pub(super) fn is_windows(spec: &Value) -> bool {
    spec["os"]["name"] == "windows"
}
