//! What may only be used where a quota allows it.

use quota::Selector;
use serde_json::Value;

use crate::types::check::{items, text};

/// One entry of `limitedResources`.
#[derive(Debug, Clone)]
pub(super) struct Limited {
    pub(super) group: String,
    pub(super) resource: String,
    /// Parts of names of resources, such as `requests.storage`.
    pub(super) contains: Vec<String>,
    pub(super) scopes: Vec<Selector>,
}

impl Limited {
    pub(super) fn read(entry: &Value) -> Self {
        let contains = items(&entry["matchContains"]).iter().filter_map(Value::as_str);
        Self {
            group: text(entry, "apiGroup").to_owned(),
            resource: text(entry, "resource").to_owned(),
            contains: contains.map(str::to_owned).collect(),
            scopes: items(&entry["matchScopes"]).iter().map(Selector::read).collect(),
        }
    }
}

/// Reads a `ResourceQuotaConfiguration` of `apiserver.config.k8s.io/v1`, or an older `Configuration`.
///
/// # Errors
/// It is something else, or an entry names no resource.
pub(super) fn read(configuration: Option<&Value>) -> Result<Vec<Limited>, String> {
    let Some(configuration) = configuration else { return Ok(Vec::new()) };
    let known = match text(configuration, "kind") {
        "ResourceQuotaConfiguration" => {
            text(configuration, "apiVersion") == "apiserver.config.k8s.io/v1"
        }
        "Configuration" => {
            text(configuration, "apiVersion").starts_with("resourcequota.admission.k8s.io/")
        }
        _ => false,
    };
    if !known {
        return Err("expected ResourceQuotaConfiguration of apiserver.config.k8s.io/v1".to_owned());
    }
    let limited: Vec<Limited> =
        items(&configuration["limitedResources"]).iter().map(Limited::read).collect();
    match limited.iter().position(|limited| limited.resource.is_empty()) {
        Some(n) => Err(format!("limitedResources[{n}].resource: Required value")),
        None => Ok(limited),
    }
}
