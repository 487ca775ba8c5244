//! What a type does beyond its schema: small strategies, found by group and resource.
//!
//! A strategy also exists for well-known types that arrive as CustomResourceDefinitions.

mod addresses;
mod admission;
mod apiservices;
mod apps;
mod autoscaling;
mod batch;
mod catalog;
pub(crate) mod certificates;
pub(crate) mod check;
mod cluster;
pub(crate) mod conditions;
mod config;
mod events;
mod limits;
mod machinery;
mod network;
mod node_labels;
pub(crate) mod pod;
mod resource;
mod roles;
mod scheduling;
mod service;
mod sources;
mod storage;
mod tls_pair;
pub(crate) mod webhooks;
pub(crate) mod words;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::registry::Selectable;
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::{ApiError, Cause, GroupResource};

/// What a strategy may look at while it handles one write.
pub struct Ctx<'a> {
    /// The server: its configuration, store and registry (whose caches answer without waiting).
    pub core: &'a Arc<Core>,
    /// Who writes.
    pub user: &'a User,
    /// What is written.
    pub request: &'a RequestInfo,
    /// Nothing may be allocated or changed outside the object.
    pub dry_run: bool,
    /// The client gave the object no labels; those that it has are defaults.
    pub unlabelled: bool,
}

impl Ctx<'_> {
    /// Refuses an object of the type that is written.
    pub(crate) fn invalid(&self, obj: &Value, causes: Vec<Cause>) -> ApiError {
        let registry = self.core.registry();
        let (group, name) = (&self.request.group, &self.request.resource);
        let resource = registry.find(group, name);
        ApiError::Invalid {
            kind: resource
                .map_or_else(|| GroupResource::new(group, name), |resource| resource.group_kind()),
            name: check::text(&obj["metadata"], "name").to_owned(),
            causes: causes.into_iter().map(Into::into).collect(),
        }
    }
}

/// All of the metadata that an update of the status could change.
///
/// Source: `metav1.ResetObjectMetaForStatus`.
pub(crate) const METADATA: [&str; 5] =
    ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp"];

/// The rules of one type that no schema can say. Every method has a default that does nothing.
///
/// Order on the write road: decode, [`default`](Strategy::default) after the schema's defaults,
/// `prepare_create` or `prepare_update`, then `validate`.
pub trait Strategy: Send + Sync {
    /// Resets what clients may not set (status), and allocates. Runs again if the write is retried.
    ///
    /// # Errors
    /// The write is refused.
    fn prepare_create(&self, _ctx: &Ctx<'_>, _obj: &mut Value) -> Result<(), ApiError> {
        Ok(())
    }

    /// Carries over what this kind of update may not change. With a subresource, everything but its
    /// part was already taken from `old`, unless [`Strategy::merge_subresource`] says otherwise.
    ///
    /// # Errors
    /// The write is refused.
    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        _obj: &mut Value,
        _old: &Value,
        _subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Defaults that depend on other fields.
    fn default(&self, _obj: &mut Value) {}

    /// Defaults of what was left out, before those of the schema.
    fn default_absent(&self, _obj: &mut Value) {}

    /// What the metadata takes from the rest of the object: when it is sent, and once more, judged by nobody, when
    /// it is stored, since upstream does so with all that it reads.
    fn inherit(&self, _obj: &mut Value) {}

    /// Whether [`Strategy::validate`] alone judges a field, which the schema would otherwise call missing.
    fn judges(&self, _field: &str) -> bool {
        false
    }

    /// Every bad field; `old` is there on updates.
    fn validate(
        &self,
        _obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        Vec::new()
    }

    /// Every bad form of a name, in the words of upstream; the default is a DNS subdomain.
    fn validate_name(&self, name: &str) -> Vec<String> {
        crate::write::names::subdomain(name)
    }

    /// Texts for `Warning` headers; `old` is there on updates.
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// What `fieldSelector` takes beyond `metadata.name` and `metadata.namespace`.
    fn selectable(&self) -> Vec<Selectable> {
        Vec::new()
    }

    /// What is said of a field that `fieldSelector` does not take; `None` for the usual words.
    fn unselectable(&self, _field: &str) -> Option<String> {
        None
    }

    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    fn counts_generation(&self) -> bool {
        false
    }

    /// Whether a new object gets generation 1, even if changes are not counted.
    fn starts_generation(&self) -> bool {
        self.counts_generation()
    }

    /// Annotations that upstream has as fields, so that metadata which is shown alone lacks them.
    fn hidden(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether an update may leave out which version of the object it is made from.
    fn unconditional_updates(&self) -> bool {
        true
    }

    /// Fields beside the status that only the server writes, so that nobody owns them.
    fn unowned(&self) -> &'static [&'static str] {
        &[]
    }

    /// Members of the metadata that an update of the status alone leaves as they are.
    fn kept_by_status(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether PUT and apply may create.
    fn creates_on_update(&self) -> bool {
        false
    }

    /// Whether what the object owns survives its deletion, unless the client says otherwise.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Whether the garbage collector looks at objects of this type, so that a deletion can wait for it.
    fn is_collected(&self) -> bool {
        true
    }

    /// Seconds of grace that a deletion gets; `asked` is what the client wants. `None` for types
    /// that know no grace.
    fn grace_seconds(&self, _obj: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Core resources whose caches must show every answered write before `prepare_create` runs.
    fn reads(&self) -> &'static [&'static str] {
        &[]
    }

    /// Changes an object that is marked as deleted (a namespace's phase).
    ///
    /// # Errors
    /// The deletion is refused.
    fn prepare_delete(&self, _ctx: &Ctx<'_>, _obj: &mut Value) -> Result<(), ApiError> {
        Ok(())
    }

    /// JSON pointers of fields that upstream does not take any more, or not yet: they stay where they were.
    fn refused_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether a deletion sets its time alone, and neither grace nor generation.
    fn deletes_plainly(&self) -> bool {
        false
    }

    /// Whether a deleted object without finalizers must still stay (a namespace's own finalizers).
    fn holds(&self, _obj: &Value) -> bool {
        false
    }

    /// Whether objects of this type have something for themselves alone, which [`Strategy::claim`] takes.
    fn claims(&self) -> bool {
        false
    }

    /// Takes what the object has for itself alone (addresses) from the store, just before the object is stored.
    /// `false` if somebody else was faster: the object is to be prepared again.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn claim<'a>(
        &'a self,
        _ctx: &'a Ctx<'a>,
        _obj: &'a Value,
        _old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        async { Ok(true) }.boxed()
    }

    /// Frees what `gone` had and `kept` has not. `gone` is not stored (any more) when this runs; it must not fail.
    fn release<'a>(
        &'a self,
        _ctx: &'a Ctx<'a>,
        _gone: &'a Value,
        _kept: Option<&'a Value>,
    ) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }
}

/// A type without rules of its own.
pub struct Plain;

impl Strategy for Plain {}

/// The strategy of a resource.
pub fn strategy(group: &str, resource: &str) -> Arc<dyn Strategy> {
    catalog::strategy(group, resource)
}

/// Two forms of one stored type: events of two groups, autoscalers of two versions.
pub trait Conversion: Send + Sync {
    /// From what is stored to what this version shows; kind and apiVersion included.
    #[expect(clippy::wrong_self_convention, reason = "the conversion is a value: one of several")]
    fn from_stored(&self, obj: &mut Value);

    /// The way back.
    fn to_stored(&self, obj: &mut Value);

    /// The stored label of a field that `fieldSelector` takes in this version; `None` if it takes it in others alone.
    fn stored_field(&self, label: &str) -> Option<String> {
        Some(label.to_owned())
    }
}

/// How a version of a resource differs from what is stored; `None` if at most kind and version do.
pub fn conversion(group: &str, version: &str, resource: &str) -> Option<Arc<dyn Conversion>> {
    catalog::conversion(group, version, resource)
}
