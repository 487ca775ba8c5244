//! What a new pod gets from other objects: its service account, priority class and runtime class.

use rand::Rng as _;
use serde_json::{Value, json};

use crate::status::{ApiError, GroupResource, StatusCause};
use crate::types::check::{
    self, default, flag, is_empty, items, items_mut, members, nano, push, text,
};
use crate::types::{Ctx, lookup};

/// Where containers find their token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Prefix of the injected volume's name.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Seconds after which the token must be renewed: an hour, and some for clocks that differ.
const TOKEN_SECONDS: i64 = 3607;
/// Letters of generated names.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Seconds for which a pod stays on a node that is gone, unless it says otherwise.
const TOLERATED_SECONDS: i64 = 300;
/// Taints of nodes that are gone.
const GONE: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// A refusal in admission's words.
pub(crate) fn forbidden(resource: &str, name: &str, why: &str) -> ApiError {
    ApiError::Forbidden {
        resource: Some(GroupResource::new("", resource)),
        name: name.to_owned(),
        message: format!("{resource} \"{name}\" is forbidden: {why}"),
        causes: Vec::new(),
    }
}

/// Everything, in the order of upstream's plugins.
pub(super) async fn admit(ctx: &Ctx<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if pod["spec"].is_null() {
        return Ok(()); // Validation refuses it.
    }
    crate::types::limits::pod(ctx, pod).await?;
    service_account(ctx, pod).await?;
    priority(ctx, pod).await?;
    tolerations(pod);
    runtime_class(ctx, pod).await
}

/// Tolerations of nodes that are gone, for a time.
pub(super) fn tolerations(pod: &mut Value) {
    let Some(spec) = check::part(pod, "spec") else { return };
    for taint in GONE {
        let tolerated = items(&spec["tolerations"]).iter().any(|t| {
            let key = text(t, "key");
            let fits = if key.is_empty() { text(t, "operator") == "Exists" } else { key == taint };
            fits && matches!(text(t, "effect"), "" | "NoExecute")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS});
        push(spec, "tolerations", toleration);
    }
}

async fn service_account(ctx: &Ctx<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = text(&pod["metadata"], "name").to_owned();
    if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return if is_empty(&pod["spec"]["serviceAccountName"]) {
            Ok(())
        } else {
            Err(forbidden("pods", &name, "a mirror pod may not reference service accounts"))
        };
    }
    let spec = &mut pod["spec"];
    if is_empty(&spec["serviceAccountName"]) {
        spec["serviceAccountName"] = "default".into();
    }
    let account = text(spec, "serviceAccountName").to_owned();
    spec["serviceAccount"] = account.clone().into();
    let namespace = &ctx.request.namespace;
    let object = lookup(ctx, "", "serviceaccounts", namespace, &account).await?.ok_or_else(|| {
        let why = format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
        forbidden("pods", &name, &why)
    })?;
    let wanted = spec["automountServiceAccountToken"].as_bool();
    if wanted.or(object["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(spec);
    }
    if items(&spec["imagePullSecrets"]).is_empty() && !is_empty(&object["imagePullSecrets"]) {
        spec["imagePullSecrets"] = object["imagePullSecrets"].clone();
    }
    Ok(())
}

/// Adds the volume with token, CA and namespace, and mounts it where nothing else is mounted.
fn mount_token(spec: &mut Value) {
    let existing = items(&spec["volumes"])
        .iter()
        .map(|v| text(v, "name"))
        .find(|n| n.starts_with(TOKEN_VOLUME));
    let volume = existing.map_or_else(volume_name, str::to_owned);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            if items(&container["volumeMounts"]).iter().any(|m| text(m, "mountPath") == TOKEN_PATH)
            {
                continue;
            }
            mounted = true;
            push(
                container,
                "volumeMounts",
                json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}),
            );
        }
    }
    let there = items(&spec["volumes"]).iter().any(|v| text(v, "name") == volume);
    if mounted && !there {
        push(spec, "volumes", token_volume(&volume));
    }
}

fn volume_name() -> String {
    let mut rng = rand::rng();
    let suffix: String =
        (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
    format!("{TOKEN_VOLUME}{suffix}")
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Priority and preemption policy of the pod's class, of the default class, or zero.
async fn priority(ctx: &Ctx<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = text(&pod["metadata"], "name").to_owned();
    let spec = &mut pod["spec"];
    let wanted = text(spec, "priorityClassName").to_owned();
    let class = if wanted.is_empty() {
        let class = default_class(ctx).await?;
        if let Some(class) = &class {
            spec["priorityClassName"] = class["metadata"]["name"].clone();
        }
        class.unwrap_or_else(|| json!({}))
    } else {
        match (lookup(ctx, "scheduling.k8s.io", "priorityclasses", "", &wanted).await?, &*wanted) {
            (Some(class), _) => class,
            (None, "system-cluster-critical") => json!({"value": 2_000_000_000}),
            (None, "system-node-critical") => json!({"value": 2_000_001_000}),
            (None, _) => {
                return Err(forbidden(
                    "pods",
                    &name,
                    &format!("no PriorityClass with name {wanted} was found"),
                ));
            }
        }
    };
    let value = class["value"].as_i64().unwrap_or_default();
    if let Some(given) = spec["priority"].as_i64().filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(forbidden("pods", &name, &why));
    }
    spec["priority"] = value.into();
    let policy = class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority").to_owned();
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(forbidden("pods", &name, &why));
    }
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

/// The class for pods without one: of several the least.
async fn default_class(ctx: &Ctx<'_>) -> Result<Option<Value>, ApiError> {
    let registry = ctx.core.registry();
    let Some(classes) = registry.find("scheduling.k8s.io", "priorityclasses") else {
        return Ok(None);
    };
    let cache = classes.storage()?.cache().await?;
    cache.fresh().await.map_err(ApiError::internal)?;
    let mut found: Option<Value> = None;
    for object in cache.list(None).iter() {
        let class: Value = serde_json::from_slice(object.stored()).map_err(ApiError::internal)?;
        let value = |c: &Value| c["value"].as_i64().unwrap_or_default();
        if flag(&class, "globalDefault") && found.as_ref().is_none_or(|f| value(&class) < value(f))
        {
            found = Some(class);
        }
    }
    Ok(found)
}

/// Overhead, node selector and tolerations of the pod's runtime class.
async fn runtime_class(ctx: &Ctx<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = text(&pod["metadata"], "name").to_owned();
    let spec = &mut pod["spec"];
    let wanted = text(spec, "runtimeClassName").to_owned();
    if wanted.is_empty() {
        return if members(&spec["overhead"]).next().is_some() {
            Err(forbidden(
                "pods",
                &name,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ))
        } else {
            Ok(())
        };
    }
    let class = lookup(ctx, "node.k8s.io", "runtimeclasses", "", &wanted).await?;
    let Some(class) = class else {
        return Err(forbidden(
            "pods",
            &name,
            &format!("pod rejected: RuntimeClass \"{wanted}\" not found"),
        ));
    };
    let overhead = &class["overhead"]["podFixed"];
    let same = |a: &Value, b: &Value| {
        members(a).count() == members(b).count()
            && members(a).all(|(k, v)| !b[k].is_null() && nano(v) == nano(&b[k]))
    };
    if members(&spec["overhead"]).next().is_some() && !same(&spec["overhead"], overhead) {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(forbidden("pods", &name, why));
    }
    if !is_empty(overhead) {
        spec["overhead"] = overhead.clone();
    }
    let scheduling = &class["scheduling"];
    for (key, value) in members(&scheduling["nodeSelector"]) {
        let given = &spec["nodeSelector"][key];
        if !given.is_null() && given != value {
            let plain = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                plain(value),
                plain(given)
            );
            return Err(forbidden("pods", &name, &why));
        }
        check::ensure(spec, "nodeSelector").insert(key.clone(), value.clone());
    }
    for toleration in items(&scheduling["tolerations"]) {
        if !items(&spec["tolerations"]).contains(toleration) {
            push(spec, "tolerations", toleration.clone());
        }
    }
    Ok(())
}

/// Refuses a pod that grows beyond all that its node has.
pub(super) fn fits_node(ctx: &Ctx<'_>, pod: &Value) -> Result<(), ApiError> {
    let spec = &pod["spec"];
    let registry = ctx.core.registry();
    let nodes = registry.find("", "nodes").and_then(|r| r.cache());
    let node = nodes.and_then(|cache| cache.get(None, text(spec, "nodeName")));
    let Some(node) = node else { return Ok(()) };
    let node: Value = serde_json::from_slice(node.stored()).map_err(ApiError::internal)?;
    // Upstream counts CPU in thousandths, memory in bytes.
    for (resource, unit) in [("cpu", 1_000_000), ("memory", 1_000_000_000)] {
        let requests =
            items(&spec["containers"]).iter().map(|c| nano(&c["resources"]["requests"][resource]));
        let (requested, has) =
            (requests.sum::<i128>() / unit, nano(&node["status"]["allocatable"][resource]) / unit);
        if requested > has {
            let why = format!(
                "node didn't have enough allocatable resources: {resource}, requested: {requested}, allocatable: {has}"
            );
            let mut refusal = forbidden("pods", text(&pod["metadata"], "name"), &why);
            if let ApiError::Forbidden { causes, .. } = &mut refusal {
                causes.push(StatusCause::new("NodeCapacity", "", String::new()));
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// The pod's first address is also the first of its list.
pub(super) fn same_addresses(status: &mut Value) {
    let first = text(status, "podIP").to_owned();
    let listed = items(&status["podIPs"]).first().map(|e| text(e, "ip").to_owned());
    match listed {
        Some(listed) if first.is_empty() => status["podIP"] = listed.into(),
        None if !first.is_empty() => default(status, "podIPs", json!([{"ip": first}])),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": TOKEN_PATH, "name": "own"}]}]});
        mount_token(&mut spec);
        let before = spec.clone();
        let name = text(&spec["volumes"][0], "name");
        assert!(name.starts_with(TOKEN_VOLUME) && name.len() == TOKEN_VOLUME.len() + 5);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(items(&spec["containers"][1]["volumeMounts"]).len(), 1);
        mount_token(&mut spec);
        assert_eq!(spec, before);
    }

    #[test]
    fn tolerations_are_added_where_none_fits() {
        let with = |tolerations: Value| {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            tolerations_of(&mut pod)
        };
        fn tolerations_of(pod: &mut Value) -> usize {
            super::tolerations(pod);
            items(&pod["spec"]["tolerations"]).len()
        }
        assert_eq!(with(json!(null)), 2);
        assert_eq!(with(json!([{"operator": "Exists"}])), 1);
        assert_eq!(with(json!([{"operator": "Exists", "effect": "NoSchedule"}])), 3);
        assert_eq!(with(json!([{"key": GONE[0], "operator": "Exists"}])), 2);
        assert_eq!(with(json!([{"key": "other", "operator": "Exists"}])), 3);
    }

    #[test]
    fn addresses_are_completed() {
        let mut status = json!({"podIP": "10.0.0.1"});
        same_addresses(&mut status);
        assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.1"}]));
        let mut status = json!({"podIPs": [{"ip": "10.0.0.1"}]});
        same_addresses(&mut status);
        assert_eq!(status["podIP"], "10.0.0.1");
    }
}
