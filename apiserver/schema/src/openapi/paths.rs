//! The paths of a document: enough for clients to find kinds, patch types and parameters.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Dialect, Resource};

/// A subresource, as discovery tells it.
#[derive(Clone, Copy, Debug)]
pub struct Subresource<'a> {
    /// Such as `status`.
    pub name: &'a str,
    /// Group, version and kind of what it takes and answers.
    pub gvk: (&'a str, &'a str, &'a str),
    /// The published definition of that kind.
    pub definition: Option<&'a str>,
    /// Verbs of discovery.
    pub verbs: &'a [&'a str],
}

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const BODIES: [&str; 2] = ["application/json", "application/yaml"];

/// What an operation is made of.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    gvk: Value,
    definition: Option<&'a str>,
}

/// Adds the paths of a resource and its subresources.
pub(super) fn add(
    paths: &mut BTreeMap<String, Value>,
    resource: &Resource<'_>,
    definition: &str,
    dialect: Dialect,
) {
    let base = match resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let plural = resource.plural;
    let within = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{within}/{plural}");
    let item = format!("{collection}/{{name}}");
    for verb in resource.verbs {
        let Some((method, action)) = operation(verb) else { continue };
        let on_item = !matches!(action, "list" | "post" | "deletecollection");
        let list = (action == "list").then(|| format!("{definition}List"));
        let made = Operation {
            method,
            action,
            gvk: resource.gvk(),
            definition: Some(list.as_deref().unwrap_or(definition)),
        };
        put(paths, if on_item { &item } else { &collection }, resource, &made, dialect);
        if action == "list" && resource.namespaced {
            put(paths, &format!("{base}/{plural}"), resource, &made, dialect);
        }
    }
    for sub in resource.subresources {
        let (group, version, kind) = sub.gvk;
        let gvk = json!({ "group": group, "version": version, "kind": kind });
        for verb in sub.verbs {
            let Some((method, action)) = operation(verb) else { continue };
            let definition = match sub.definition {
                None if kind == resource.kind => Some(definition),
                other => other,
            };
            let made = Operation { method, action, gvk: gvk.clone(), definition };
            put(paths, &format!("{item}/{}", sub.name), resource, &made, dialect);
        }
    }
}

/// HTTP method and action of a verb.
fn operation(verb: &str) -> Option<(&'static str, &'static str)> {
    Some(match verb {
        "get" => ("get", "get"),
        "list" => ("get", "list"),
        "create" => ("post", "post"),
        "update" => ("put", "put"),
        "patch" => ("patch", "patch"),
        "delete" => ("delete", "delete"),
        "deletecollection" => ("delete", "deletecollection"),
        _ => return None,
    })
}

fn put(
    paths: &mut BTreeMap<String, Value>,
    path: &str,
    resource: &Resource<'_>,
    operation: &Operation<'_>,
    dialect: Dialect,
) {
    let entry = paths
        .entry(path.to_owned())
        .or_insert_with(|| json!({ "parameters": path_parameters(path, dialect) }));
    let mut parameters: Vec<Value> = query(operation.action)
        .iter()
        .map(|(name, r#type)| parameter(name, r#type, "query", dialect))
        .collect();
    let schema = operation
        .definition
        .map(|name| json!({ "$ref": format!("{}{name}", dialect.prefix()) }))
        .unwrap_or_else(|| json!({ "type": "object" }));
    let mut out = Map::new();
    let tag = match resource.group {
        "" => format!("core_{}", resource.version),
        group => format!("{}_{}", group.split('.').next().unwrap_or(group), resource.version),
    };
    out.insert("tags".into(), json!([tag]));
    out.insert("operationId".into(), operation_id(path, operation).into());
    out.insert("x-kubernetes-action".into(), operation.action.into());
    out.insert("x-kubernetes-group-version-kind".into(), operation.gvk.clone());
    body(&mut out, &mut parameters, operation, &schema, dialect);
    if !parameters.is_empty() {
        out.insert("parameters".into(), parameters.into());
    }
    let answer = match dialect {
        Dialect::V2 => json!({ "description": "OK", "schema": schema }),
        Dialect::V3 => json!({ "description": "OK", "content": content(&BODIES, &schema) }),
    };
    out.insert("responses".into(), json!({ "200": answer }));
    entry[operation.method] = out.into();
}

fn body(
    out: &mut Map<String, Value>,
    parameters: &mut Vec<Value>,
    operation: &Operation<'_>,
    schema: &Value,
    dialect: Dialect,
) {
    let meta = |name: &str| {
        let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
        json!({ "$ref": format!("{}{name}", dialect.prefix()) })
    };
    let (schema, types) = match operation.action {
        "post" | "put" => (schema.clone(), &BODIES[..]),
        "patch" => (meta("Patch"), &PATCHES[..]),
        "delete" | "deletecollection" => (meta("DeleteOptions"), &BODIES[..]),
        _ => return,
    };
    match dialect {
        Dialect::V2 => {
            parameters.push(json!({ "name": "body", "in": "body", "schema": schema }));
            out.insert("consumes".into(), json!(types));
        }
        Dialect::V3 => {
            out.insert("requestBody".into(), json!({ "content": content(types, &schema) }));
        }
    }
}

fn content(types: &[&str], schema: &Value) -> Value {
    types
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "schema": schema })))
        .collect::<Map<_, _>>()
        .into()
}

/// Query parameters of an action.
fn query(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "post" | "put" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("propagationPolicy", "string"),
        ],
        "list" | "deletecollection" => &[
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        _ => &[],
    }
}

fn path_parameters(path: &str, dialect: Dialect) -> Vec<Value> {
    let mut parameters: Vec<Value> = ["namespace", "name"]
        .iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| {
            let mut parameter = parameter(name, "string", "path", dialect);
            parameter["required"] = true.into();
            parameter
        })
        .collect();
    parameters.push(parameter("pretty", "string", "query", dialect));
    parameters
}

fn parameter(name: &str, r#type: &str, place: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({ "name": name, "in": place, "type": r#type, "uniqueItems": true }),
        Dialect::V3 => json!({
            "name": name, "in": place, "schema": { "type": r#type, "uniqueItems": true }
        }),
    }
}

/// A name that no other operation has, made of the method and the path.
fn operation_id(path: &str, operation: &Operation<'_>) -> String {
    let mut id = operation.action.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let part = part.trim_matches(['{', '}']);
        for word in part.split(['.', '-']) {
            let mut letters = word.chars();
            id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            id.extend(letters);
        }
    }
    id
}
