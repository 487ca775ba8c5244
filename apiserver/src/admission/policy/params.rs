//! The parameters of a binding.
//!
//! Source: `CollectParams` in upstream's `plugin/policy/generic/policy_dispatcher.go`.

use std::sync::Arc;

use serde_json::Value;

use super::{Binding, Definition};
use crate::admission::attributes::Attributes;
use crate::handlers::selector::Labels;
use crate::registry::Resource;

/// One entry for each use of the policy: `None` if it has no parameters, null if the binding gives none.
pub(super) async fn collect(
    attributes: &Attributes<'_>,
    definition: &Definition,
    binding: &Binding,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), reference) = (&definition.param_kind, &binding.param_ref) else {
        return Ok(vec![None]);
    };
    if !reference.is_object() {
        return Ok(vec![Some(Value::Null)]);
    }
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
    let registry = attributes.core.registry();
    let resource = registry.by_kind(group, version, &kind.kind).ok_or_else(|| {
        format!("paramKind kind `{}, Kind={}` not known", kind.api_version, kind.kind)
    })?;
    let namespace = namespace(attributes, resource, reference)?;
    let found = find(resource, namespace, reference).await?;
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()
        );
    }
    Ok(found.into_iter().map(Some).collect())
}

/// Refuses parameters of a kind that is not served.
pub(super) fn known(attributes: &Attributes<'_>, definition: &Definition) -> Result<(), String> {
    let Some(kind) = &definition.param_kind else { return Ok(()) };
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
    match attributes.core.registry().by_kind(group, version, &kind.kind) {
        Some(_) => Ok(()),
        None => Err(format!(
            "failed to find resource referenced by paramKind: '{}, Kind={}'",
            kind.api_version, kind.kind
        )),
    }
}

/// Where the parameters are: where the binding says, or where the request is.
fn namespace<'a>(
    attributes: &Attributes<'a>,
    resource: &Resource,
    reference: &'a Value,
) -> Result<&'a str, String> {
    let named = reference["namespace"].as_str().unwrap_or_default();
    match (resource.namespaced, named, attributes.namespace) {
        (false, "", _) => Ok(""),
        (false, ..) => Err(
            "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned(),
        ),
        (true, "", "") => Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .to_owned(),
        ),
        (true, "", own) => Ok(own),
        (true, named, _) => Ok(named),
    }
}

async fn find(
    resource: &Arc<Resource>,
    namespace: &str,
    reference: &Value,
) -> Result<Vec<Value>, String> {
    let storage = resource.storage().map_err(|error| error.to_string())?;
    let cache = storage.recent().await.map_err(|error| error.to_string())?;
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let parse = |object: &store::cache::Object| -> Result<Value, String> {
        serde_json::from_slice(&resource.view(object.json())).map_err(|error| error.to_string())
    };
    let name = reference["name"].as_str().unwrap_or_default();
    if !name.is_empty() {
        return cache.get(namespace, name).iter().map(|object| parse(object)).collect();
    }
    if reference["selector"].is_null() {
        return Err("one of name or selector must be provided".to_owned());
    }
    let selector = Labels::of_object(&reference["selector"])?;
    let list = cache.list(namespace);
    let chosen = list.iter().filter(|object| selector.matches(|key| object.labels().get(key)));
    chosen.map(|object| parse(object)).collect()
}
