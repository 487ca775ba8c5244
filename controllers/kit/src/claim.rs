//! Which objects are a controller's own: it adopts orphans that its selector takes, and releases what it takes no
//! longer.
//!
//! Source: upstream's `ControllerRefManager`, and kubernetes.io, "Garbage Collection", "Owner references".

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use kube::core::{Selector, SelectorExt as _};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::owner;

/// Who claims objects, and which.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'a> {
    /// Metadata of the owner.
    pub owner: &'a ObjectMeta,
    /// Labels of what it wants.
    pub selector: &'a Selector,
}

/// What changes in who controls an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The owner becomes its controller.
    Adopt,
    /// The owner lets go of it.
    Release,
}

/// Whether `selector` takes an object; one that says nothing takes none.
#[must_use]
pub fn takes(selector: &Selector, meta: &ObjectMeta) -> bool {
    let none = BTreeMap::new();
    !selector.selects_all() && selector.matches(meta.labels.as_ref().unwrap_or(&none))
}

/// Whether nobody controls an object that is there to stay.
#[must_use]
pub fn is_orphan(meta: &ObjectMeta) -> bool {
    owner::controller_of(meta).is_none() && meta.deletion_timestamp.is_none()
}

impl Claimant<'_> {
    /// What must change, if anything.
    #[must_use]
    pub fn claim(&self, meta: &ObjectMeta) -> Option<Claim> {
        if self.controls(meta) {
            return (!takes(self.selector, meta)).then_some(Claim::Release);
        }
        self.adopts(meta).then_some(Claim::Adopt)
    }

    /// Whether the object is the owner's once its claims are done.
    #[must_use]
    pub fn owns(&self, meta: &ObjectMeta) -> bool {
        self.controls(meta) && takes(self.selector, meta) || self.adopts(meta)
    }

    fn controls(&self, meta: &ObjectMeta) -> bool {
        self.owner.uid.as_deref().is_some_and(|uid| owner::is_controlled_by(meta, uid))
    }

    fn adopts(&self, meta: &ObjectMeta) -> bool {
        self.owner.deletion_timestamp.is_none() && is_orphan(meta) && takes(self.selector, meta)
    }
}

/// Asks the server itself whether `owner` is still there and stays: what is adopted by an owner that is being deleted
/// would die with it.
///
/// # Errors
/// The server's.
pub async fn may_adopt<O>(api: &Api<O>, owner: &O) -> kube::Result<bool>
where
    O: Resource + Clone + DeserializeOwned + Debug,
{
    let live = api.get_opt(&owner.name_any()).await?;
    Ok(live
        .is_some_and(|live| live.uid() == owner.uid() && live.meta().deletion_timestamp.is_none()))
}

/// Carries out a claim, on condition that the object has not changed since it was cached; `None` if it is gone.
///
/// # Errors
/// The server's, a conflict among them.
pub async fn carry_out<O, K>(
    api: &Api<K>,
    owner: &O,
    object: &K,
    claim: Claim,
) -> kube::Result<Option<K>>
where
    O: Resource<DynamicType = ()>,
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut owners: Vec<OwnerReference> = object.owner_references().to_vec();
    match claim {
        Claim::Adopt => owners.extend(owner::controlled_by(owner)),
        Claim::Release => owners.retain(|known| Some(&known.uid) != owner.meta().uid.as_ref()),
    }
    let meta = object.meta();
    let owners = Some(owners).filter(|owners| !owners.is_empty());
    let patch = json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
    }});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
