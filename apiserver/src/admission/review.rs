//! What a webhook or an expression is told of a request.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::attributes::{Attributes, Operation, Options};
use super::matching::kind_for;
use crate::handlers::options::FieldValidation;
use crate::registry::Resource;
use crate::request::User;
use crate::write::Propagation;

/// The `AdmissionRequest` of `admission.k8s.io/v1` without its uid and objects, with the request seen as one
/// for `resource`.
pub(super) fn request(
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    object: &Value,
) -> Map<String, Value> {
    let own = attributes.resource;
    let (kind, own_kind) = (kind_for(attributes, resource), attributes.kind);
    let kind_of =
        |k: super::Kind<'_>| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let resource_of =
        |r: &Resource| json!({"group": r.group, "version": r.version, "resource": r.name});
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| _ = out.insert(key.to_owned(), value);
    put("kind", kind_of(kind));
    put("resource", resource_of(resource));
    put("requestKind", kind_of(own_kind));
    put("requestResource", resource_of(own));
    if !attributes.subresource.is_empty() {
        put("subResource", attributes.subresource.into());
        put("requestSubResource", attributes.subresource.into());
    }
    let name = match &*attributes.name {
        "" => object["metadata"]["name"].as_str().unwrap_or_default(),
        name => name,
    };
    if !name.is_empty() {
        put("name", name.into());
    }
    let namespace = match own.group.is_empty() && own.name == "namespaces" {
        true => name,
        false => attributes.namespace,
    };
    if !namespace.is_empty() {
        put("namespace", namespace.into());
    }
    put("operation", attributes.operation.as_str().into());
    put("userInfo", user_info(attributes.user));
    put("dryRun", attributes.dry_run.into());
    put("options", options(attributes));
    out
}

fn user_info(user: &User) -> Value {
    let mut info = json!({ "username": user.name });
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = user.groups.clone().into();
    }
    for (key, values) in &user.extra {
        info["extra"][key] = values.clone().into();
    }
    info
}

/// The options object of the request, as the client would have written it.
fn options(attributes: &Attributes<'_>) -> Value {
    let of_kind = |kind: &str| json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    match attributes.options {
        Options::Write(options) => {
            let mut out = of_kind(match attributes.operation {
                Operation::Create => "CreateOptions",
                _ if options.is_patch => "PatchOptions",
                _ => "UpdateOptions",
            });
            if !options.field_manager.is_empty() {
                out["fieldManager"] = options.field_manager.clone().into();
            }
            if attributes.dry_run {
                out["dryRun"] = json!(["All"]);
            }
            if let Some(force) = options.force {
                out["force"] = force.into();
            }
            out["fieldValidation"] = match options.field_validation {
                FieldValidation::Ignore => "Ignore".into(),
                FieldValidation::Warn => "Warn".into(),
                FieldValidation::Strict => "Strict".into(),
            };
            out
        }
        Options::Delete(options) => {
            let mut out = of_kind("DeleteOptions");
            if let Some(seconds) = options.grace_seconds {
                out["gracePeriodSeconds"] = seconds.into();
            }
            if let Some(uid) = &options.uid {
                out["preconditions"]["uid"] = uid.clone().into();
            }
            if let Some(version) = &options.resource_version {
                out["preconditions"]["resourceVersion"] = version.clone().into();
            }
            if let Some(propagation) = options.propagation {
                out["propagationPolicy"] = match propagation {
                    Propagation::Orphan => "Orphan".into(),
                    Propagation::Background => "Background".into(),
                    Propagation::Foreground => "Foreground".into(),
                };
            }
            if attributes.dry_run {
                out["dryRun"] = json!(["All"]);
            }
            out
        }
        Options::None => Value::Null,
    }
}
