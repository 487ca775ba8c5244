//! Who controls an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, runtime::reflector::ObjectRef};

/// The reference whose `controller` is true; an object has at most one.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// Whether the owner with this `uid` controls the object.
#[must_use]
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The controller as something to reconcile, if it is a `K`.
#[must_use]
pub fn controller_ref<K>(meta: &ObjectMeta) -> Option<ObjectRef<K>>
where
    K: Resource<DynamicType = ()>,
{
    ObjectRef::from_owner_ref(meta.namespace.as_deref(), controller_of(meta)?, ())
}

/// The reference that makes `owner` the controller of another object and blocks its own
/// foreground deletion; `None` if `owner` has not been stored yet.
#[must_use]
pub fn controlled_by<K>(owner: &K) -> Option<OwnerReference>
where
    K: Resource<DynamicType = ()>,
{
    let mut reference = owner.controller_owner_ref(&())?;
    reference.block_owner_deletion = Some(true);
    Some(reference)
}
