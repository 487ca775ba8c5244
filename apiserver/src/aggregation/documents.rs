//! What a server behind this one says that it serves, in the forms of our own documents. Pure.

use serde_json::{Map, Value, json};

/// Documents of one group version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Served {
    /// `APIResourceList`, as it answers below `/apis/<group>/<version>`.
    pub(crate) list: Value,
    /// Hash of its OpenAPI v3 document; empty if it has none.
    pub(crate) openapi_hash: String,
    /// Its OpenAPI v2 document, if it has one.
    pub(crate) openapi: Option<Value>,
}

impl Served {
    /// The group version in the aggregated form; `is_current` says whether the server answers now.
    pub(crate) fn aggregated(&self, group: &str, version: &str, is_current: bool) -> Value {
        let entries = self.list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut resources: Vec<Value> = Vec::new();
        for entry in entries.iter().filter(|entry| !name(entry).contains('/')) {
            let mut resource = resource(entry, group, version);
            let prefix = format!("{}/", name(entry));
            let parts: Vec<Value> = entries
                .iter()
                .filter_map(|part| Some((name(part).strip_prefix(&prefix)?, part)))
                .map(|(name, part)| {
                    json!({
                        "subresource": name,
                        "responseKind": response_kind(part, group, version),
                        "verbs": part["verbs"],
                    })
                })
                .collect();
            if !parts.is_empty() {
                resource.insert("subresources".to_owned(), parts.into());
            }
            resources.push(resource.into());
        }
        let freshness = if is_current { "Current" } else { "Stale" };
        json!({ "version": version, "resources": resources, "freshness": freshness })
    }
}

fn name(entry: &Value) -> &str {
    entry["name"].as_str().unwrap_or_default()
}

fn resource(entry: &Value, group: &str, version: &str) -> Map<String, Value> {
    let mut out = Map::new();
    let namespaced = entry["namespaced"] == true;
    out.insert("resource".to_owned(), entry["name"].clone());
    out.insert("responseKind".to_owned(), response_kind(entry, group, version));
    out.insert("scope".to_owned(), if namespaced { "Namespaced" } else { "Cluster" }.into());
    out.insert("singularResource".to_owned(), entry["singularName"].clone());
    out.insert("verbs".to_owned(), entry["verbs"].clone());
    for key in ["shortNames", "categories"] {
        if entry[key].is_array() {
            out.insert(key.to_owned(), entry[key].clone());
        }
    }
    out
}

fn response_kind(entry: &Value, group: &str, version: &str) -> Value {
    let own = |key: &str, default: &str| {
        entry[key].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    json!({
        "group": own("group", group),
        "version": own("version", version),
        "kind": entry["kind"],
    })
}

/// Adds the paths and definitions of a server's OpenAPI v2 document to ours. What both define stays ours.
pub(crate) fn merge_openapi(own: &mut Value, group: &str, version: &str, theirs: &Value) {
    let prefix = format!("/apis/{group}/{version}/");
    let whole = format!("/apis/{group}/{version}");
    for (path, item) in theirs["paths"].as_object().into_iter().flatten() {
        if path.starts_with(&prefix) || *path == whole {
            own["paths"][path] = item.clone();
        }
    }
    for (name, definition) in theirs["definitions"].as_object().into_iter().flatten() {
        if own["definitions"].get(name).is_none() {
            own["definitions"][name] = definition.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_stand_below_their_resource() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
             "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder",
             "verbs": ["patch"]}]});
        let served = Served { list, openapi_hash: String::new(), openapi: None };
        let kind = json!({"group": "x.io", "version": "v1", "kind": "Flunder"});
        assert_eq!(
            served.aggregated("x.io", "v1", true),
            json!({"version": "v1", "freshness": "Current", "resources": [{
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced",
                "verbs": ["get"], "shortNames": ["fl"], "responseKind": kind,
                "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["patch"]}]}]})
        );
    }

    #[test]
    fn only_what_is_theirs_is_taken_over() {
        let mut own = json!({"paths": {}, "definitions": {"a": 1}});
        let theirs = json!({"paths": {"/apis/x.io/v1/f": 2, "/apis/apps/v1/deployments": 3},
            "definitions": {"a": 4, "b": 5}});
        merge_openapi(&mut own, "x.io", "v1", &theirs);
        let expected = json!({"paths": {"/apis/x.io/v1/f": 2}, "definitions": {"a": 1, "b": 5}});
        assert_eq!(own, expected);
    }
}
