//! What pod plugins share: one way to visit every container, whatever list it is in.

use serde_json::Value;

use crate::types::check::{items, items_mut, text};

/// Lists of containers, with what messages call their members. A plugin that misses one of them can be walked around
/// (CVE-2023-2727, CVE-2023-2728, CVE-2024-3177).
pub(super) const LISTS: [(&str, &str); 3] = [
    ("initContainers", "init container"),
    ("containers", "container"),
    ("ephemeralContainers", "ephemeral container"),
];

/// Every container of a pod's spec, with the list that it is in.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    LISTS.iter().flat_map(move |(list, _)| items(&spec[*list]).iter().map(move |c| (*list, c)))
}

/// Does something to every container of a pod's spec.
pub(super) fn each_container(spec: &mut Value, mut change: impl FnMut(&mut Value)) {
    for (list, _) in LISTS {
        items_mut(spec, list).for_each(&mut change);
    }
}

/// Names of the Secrets that a container reads into its environment.
pub(super) fn secrets_of_environment(container: &Value) -> impl Iterator<Item = &str> {
    let single = items(&container["env"]).iter().map(|e| &e["valueFrom"]["secretKeyRef"]);
    let whole = items(&container["envFrom"]).iter().map(|e| &e["secretRef"]);
    single.chain(whole).filter(|source| !source.is_null()).map(|source| text(source, "name"))
}

/// Names of the Secrets that a pod refers to, wherever it does.
///
/// Source: `VisitPodSecretNames` in upstream `pkg/api/pod/util.go`.
pub(super) fn secrets(spec: &Value) -> impl Iterator<Item = &str> {
    const BY_REFERENCE: [&str; 6] = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi"];
    let pulls = items(&spec["imagePullSecrets"]).iter().map(|entry| text(entry, "name"));
    let environments = containers(spec).flat_map(|(_, c)| secrets_of_environment(c));
    let volumes = items(&spec["volumes"]).iter().flat_map(|volume| {
        let references = BY_REFERENCE.iter().map(|kind| text(&volume[*kind]["secretRef"], "name"));
        let projected = items(&volume["projected"]["sources"]).iter();
        references
            .chain([
                text(&volume["secret"], "secretName"),
                text(&volume["azureFile"], "secretName"),
                text(&volume["storageos"]["secretRef"], "name"),
                text(&volume["csi"]["nodePublishSecretRef"], "name"),
            ])
            .chain(projected.map(|source| text(&source["secret"], "name")))
    });
    pulls.chain(environments).chain(volumes).filter(|name| !name.is_empty())
}

/// Whether the kubelet, not the API, decides about this pod; its spec must stay as it is.
pub(super) fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_list_of_containers_is_missed() {
        let mut spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "b"}],
            "ephemeralContainers": [{"name": "c"}]});
        let mut names: Vec<&str> = containers(&spec).map(|(_, c)| text(c, "name")).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
        each_container(&mut spec, |container| container["image"] = "x".into());
        assert!(containers(&spec).all(|(_, c)| c["image"] == "x"));
    }

    #[test]
    fn secrets_are_found_wherever_they_are() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "all"}}]}],
            "volumes": [{"secret": {"secretName": "volume"}}, {"projected": {"sources": [{"secret": {"name": "projected"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "csi"}}}, {"emptyDir": {}}],
        });
        let found: Vec<&str> = secrets(&spec).collect();
        assert_eq!(found, ["pull", "all", "key", "volume", "projected", "csi"]);
    }
}
