//! Who uses what, and which finalizers follow from that. No I/O.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Finalizer of claims.
pub const CLAIM: &str = "kubernetes.io/pvc-protection";
/// Finalizer of volumes.
pub const VOLUME: &str = "kubernetes.io/pv-protection";
/// Finalizer of attribute classes.
pub const CLASS: &str = "kubernetes.io/vac-protection";

/// Whether the object waits for nobody to use it.
#[must_use]
pub fn waits(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() && has(meta, finalizer)
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// The finalizers that an object should have; `None` if it has them. One that was made before there was protection
/// gets it.
#[must_use]
pub fn finalizers(meta: &ObjectMeta, finalizer: &str, in_use: bool) -> Option<Vec<String>> {
    let mut list = meta.finalizers.clone().unwrap_or_default();
    match (meta.deletion_timestamp.is_some(), has(meta, finalizer)) {
        (true, true) if !in_use => list.retain(|f| f != finalizer),
        (false, false) => list.push(finalizer.to_owned()),
        _ => return None,
    }
    Some(list)
}

/// Names of the claims that a pod mounts.
#[must_use]
pub fn claims_of_pod(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(pod, volume)).collect()
}

fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    // Source: KEP-1698, generic ephemeral volumes.
    Some(format!("{}-{}", pod.metadata.name.as_deref()?, volume.name))
}

/// Whether a pod keeps a claim. A node starts no pod with a claim that is being deleted, so that one without a node
/// does not; nor does one that only waits for its own end keep the claim that would go with it.
#[must_use]
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let assigned = spec.node_name.as_ref().is_some_and(|node| !node.is_empty());
    let (meta, name) = (&pod.metadata, claim.metadata.name.as_deref().unwrap_or_default());
    let over = meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds == Some(0);
    let owns = || {
        let mut owners = claim.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == meta.uid.as_ref())
    };
    assigned
        && spec.volumes.iter().flatten().any(|volume| {
            let mounts = claim_of(pod, volume).is_some_and(|claim| claim == name);
            mounts && (volume.persistent_volume_claim.is_some() || (!over && owns()))
        })
}

/// Whether a claim holds the volume.
#[must_use]
pub fn is_bound(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Bound")
}

/// Attribute classes that a claim has, gets, or wants.
#[must_use]
pub fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let next = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.clone());
    [wanted, has, next].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

/// The attribute class that a volume has.
#[must_use]
pub fn class_of_volume(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.volume_attributes_class_name.clone().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn typed<K: DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[track_caller]
    fn used(pod: Value, expected: bool) {
        let claim = json!({"metadata": {"name": "p-v", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}});
        assert_eq!(uses(&typed(pod), &typed(claim)), expected);
    }

    #[test]
    fn pods_keep_the_claims_that_they_mount() {
        let pod = |meta: Value, node: &str, volume: Value| {
            let mut metadata = json!({"name": "p", "uid": "u"});
            metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
            json!({"metadata": metadata, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}})
        };
        let claim = json!({"name": "a", "persistentVolumeClaim": {"claimName": "p-v"}});
        let own = json!({"name": "v", "ephemeral": {}});
        let over =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        used(pod(json!({}), "n", claim.clone()), true);
        used(pod(json!({}), "", claim.clone()), false);
        used(pod(over.clone(), "n", claim), true);
        used(pod(json!({}), "n", own.clone()), true);
        used(pod(json!({"uid": "namesake"}), "n", own.clone()), false);
        used(pod(over, "n", own), false);
        used(
            pod(
                json!({}),
                "n",
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "other"}}),
            ),
            false,
        );
    }

    #[test]
    fn finalizers_come_and_go() {
        let meta = |deleted: bool, list: &[&str]| -> ObjectMeta {
            typed(
                json!({"finalizers": list, "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z")}),
            )
        };
        assert_eq!(finalizers(&meta(false, &["a"]), CLAIM, false).unwrap(), ["a", CLAIM]);
        assert_eq!(finalizers(&meta(false, &[CLAIM]), CLAIM, false), None);
        assert_eq!(finalizers(&meta(true, &[CLAIM, "a"]), CLAIM, false).unwrap(), ["a"]);
        assert_eq!(finalizers(&meta(true, &[CLAIM]), CLAIM, true), None);
        assert_eq!(finalizers(&meta(true, &[]), CLAIM, false), None);
    }

    #[test]
    fn classes_are_kept_by_whoever_names_them() {
        let claim = json!({"spec": {"volumeAttributesClassName": "a"}, "status": {
            "currentVolumeAttributesClassName": "b", "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "c"}}});
        assert_eq!(classes_of_claim(&typed(claim)), ["a", "b", "c"]);
        assert_eq!(
            class_of_volume(&typed(json!({"spec": {"volumeAttributesClassName": ""}}))),
            None
        );
    }
}
