//! What users are told about their objects, in upstream's words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kit::Event;

/// An owner that can never be found, since references do not cross namespaces.
pub fn invalid_namespace(owner: &OwnerReference, namespace: Option<&str>) -> Event {
    let OwnerReference { api_version, kind, name, uid, .. } = owner;
    let namespace = namespace.unwrap_or_default();
    Event::warning(
        "OwnerRefInvalidNamespace",
        format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] \
             does not exist in namespace {namespace:?}"
        ),
    )
}
