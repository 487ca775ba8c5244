//! What a plugin knows of a request.

use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::mutation::Rounds;
use crate::handlers::options::WriteOptions;
use crate::registry::Resource;
use crate::request::User;
use crate::server::Core;
use crate::status::{ApiError, StatusCause};
use crate::write::DeleteOptions;

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a new subresource object such as a Binding or an Eviction.
    Create,
    /// PUT, every PATCH and apply on an existing object.
    Update,
    /// One object goes; a deleted collection is many of these.
    Delete,
    /// A stream is opened: exec, attach, portforward, proxy.
    Connect,
}

impl Operation {
    /// As `admissionregistration.k8s.io` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Group, version and kind of the object under admission, which a subresource may have of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// Such as `v1`.
    pub version: &'a str,
    /// Such as `Pod`, or `Eviction` for `pods/eviction`.
    pub kind: &'a str,
}

/// Parameters of the request.
#[derive(Debug, Clone, Copy)]
pub enum Options<'a> {
    /// Of CREATE, UPDATE and PATCH.
    Write(&'a WriteOptions),
    /// Of DELETE and DELETECOLLECTION.
    Delete(&'a DeleteOptions),
    /// CONNECT has none.
    None,
}

/// One request under admission. The object itself is passed beside it, since only the mutating phase may change it;
/// it is `null` on deletions.
///
/// Source: `Attributes` in upstream `apiserver/pkg/admission/interfaces.go`.
pub struct Attributes<'a> {
    /// The server, whose registry has every cache.
    pub core: &'a Arc<Core>,
    /// Who asks.
    pub user: &'a User,
    /// What the request does.
    pub operation: Operation,
    /// The resource in the path.
    pub resource: &'a Arc<Resource>,
    /// `status`, `scale`, `binding` …; empty for the object itself.
    pub subresource: &'a str,
    /// Kind of the object beside these attributes.
    pub kind: Kind<'a>,
    /// Empty for cluster-scoped objects, namespaces included.
    pub namespace: &'a str,
    /// Name in the path, or of the object; empty while a name is still to be generated.
    pub name: String,
    /// The stored object, on updates and deletions.
    pub old: Option<&'a Value>,
    /// Parameters of the request.
    pub options: Options<'a>,
    /// Nothing may be changed outside the object.
    pub dry_run: bool,
    /// When the request must be answered.
    pub deadline: Instant,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Set by a mutating webhook or policy that changed the object and wants the earlier plugins to look at it once
    /// more; the chain runs the mutating phase a second time then.
    pub reinvoke: bool,
    /// Whether this is that second time.
    pub reinvoked: bool,
    /// Which webhooks look again.
    pub webhook_rounds: Rounds,
    /// Which policies look again.
    pub policy_rounds: Rounds,
}

impl Attributes<'_> {
    /// Whether the request is about the object itself of this resource, not a subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_part_of(group, resource)
    }

    /// Whether the request is about this resource, or one of its subresources.
    pub fn is_part_of(&self, group: &str, resource: &str) -> bool {
        self.resource.name == resource && self.resource.group == group
    }

    /// A refusal in admission's words.
    pub fn forbidden(&self, object: &Value, why: impl std::fmt::Display) -> ApiError {
        self.forbidden_for(object, why, Vec::new())
    }

    /// A refusal that also names single causes.
    pub fn forbidden_for(
        &self,
        object: &Value,
        why: impl std::fmt::Display,
        causes: Vec<StatusCause>,
    ) -> ApiError {
        let resource = self.resource.group_resource();
        let name = self.shown_name(object);
        let message = format!("{resource} \"{name}\" is forbidden: {why}");
        ApiError::Forbidden { resource: Some(resource), name, message, causes }
    }

    /// The name in messages: that of the request, of the object, or what a name is generated from.
    pub fn shown_name(&self, object: &Value) -> String {
        let meta = &object["metadata"];
        let names = [Some(&*self.name), meta["name"].as_str(), meta["generateName"].as_str()];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        name.unwrap_or("Unknown").to_owned()
    }

    /// Another object, every write included that this server has answered; `None` if it or its type is absent from
    /// the store.
    ///
    /// # Errors
    /// The store fails.
    pub async fn lookup(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        self.lookup_as(group, resource, namespace, name).await
    }

    /// As [`Attributes::lookup`], of the object only the parts that `T` has.
    ///
    /// # Errors
    /// The store fails, or the object is no `T`.
    pub async fn lookup_as<T: DeserializeOwned>(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let registry = self.core.registry();
        let Some(resource) = registry.find(group, resource) else { return Ok(None) };
        let storage = resource.storage()?;
        let key = storage.key(namespace, name);
        let stored = match storage.recent().await?.at(&key) {
            Some(object) => Some(object.stored().clone()),
            None => storage.store().get(&key).await?.map(|entry| entry.value),
        };
        stored.map(|text| serde_json::from_slice(&text).map_err(ApiError::internal)).transpose()
    }

    /// Other objects of a resource, all of them or those of a namespace, every write included that this server has
    /// answered.
    ///
    /// # Errors
    /// The store fails, or an object in it is no JSON.
    pub async fn list(
        &self,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, ApiError> {
        self.list_as(group, resource, namespace).await
    }

    /// As [`Attributes::list`], of the objects only the parts that `T` has.
    ///
    /// # Errors
    /// The store fails, or an object is no `T`.
    pub async fn list_as<T: DeserializeOwned>(
        &self,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<T>, ApiError> {
        let registry = self.core.registry();
        let Some(resource) = registry.find(group, resource) else { return Ok(Vec::new()) };
        let objects = resource.storage()?.recent().await?.list(namespace);
        let parsed = objects.iter().map(|object| serde_json::from_slice(object.stored()));
        parsed.collect::<Result<_, _>>().map_err(ApiError::internal)
    }

    /// The namespace of the request, from the cache; `None` if it is not there yet, or none is meant.
    pub fn namespace_object(&self) -> Option<Arc<store::cache::Object>> {
        let registry = self.core.registry();
        registry.find("", "namespaces")?.cache()?.get(None, self.namespace)
    }
}
