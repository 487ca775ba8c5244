//! OpenAPI documents of what is served: one a group version (v3), and one of everything (v2).
//!
//! `kubectl explain` finds its way from a path's GET to the kind and then to the schema; `kubectl
//! apply` looks for the parameter `fieldValidation` of a path's PATCH. Definitions of types that
//! Kubernetes knows come from the recorded facts, those of custom types from their own schema.

use std::collections::BTreeMap;

use schema::facts;
use serde_json::{Map, Value, json};

use crate::registry::{Group, Resource, SchemaSource, Subresource, Version};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const V3_PREFIX: &str = "#/components/schemas/";

/// The v3 document of one group version.
pub fn v3(group: &str, version: &Version) -> Value {
    let mut book = Book::default();
    for resource in &version.resources {
        book.add_resource(group, resource);
    }
    let mut schemas = Map::new();
    for (name, schema) in book.definitions {
        schemas.insert(name, as_v3(schema));
    }
    let mut paths = Map::new();
    for (path, item) in book.paths {
        paths.insert(path, as_v3(item));
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header",
                "description": "Bearer Token authentication",
            } },
        },
    })
}

/// The v2 document of everything.
pub fn v2(groups: &[Group]) -> Value {
    let mut book = Book::default();
    for group in groups {
        for resource in group.versions.iter().flat_map(|version| &version.resources) {
            book.add_resource(&group.name, resource);
        }
    }
    let paths: Map<String, Value> =
        book.paths.into_iter().map(|(path, item)| (path, as_v2(item))).collect();
    let definitions: Map<String, Value> =
        book.definitions.into_iter().map(|(name, schema)| (name, as_v2(schema))).collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": super::GIT_VERSION },
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header",
            "description": "Bearer Token authentication",
        } },
        "security": [{ "BearerToken": [] }],
    })
}

/// Paths and definitions while they are gathered; references are v2's.
#[derive(Default)]
struct Book {
    paths: BTreeMap<String, Value>,
    definitions: BTreeMap<String, Value>,
}

impl Book {
    fn add_resource(&mut self, group: &str, resource: &Resource) {
        let root = if group.is_empty() { "/api" } else { "/apis" };
        let base = format!("{root}/{}", resource.api_version());
        let collection = if resource.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", resource.name)
        } else {
            format!("{base}/{}", resource.name)
        };
        let object = format!("{collection}/{{name}}");
        let (one, list) = (self.kind_of(resource), self.list_of(resource));
        let kind = kind_marker(&resource.group, &resource.version, &resource.kind);
        let has = |verb: &str| resource.has_verb(verb);
        let mut many = Map::new();
        let add = |to: &mut Map<String, Value>,
                   served: bool,
                   method: &str,
                   action: &str,
                   body: &Reference| {
            if served {
                to.insert(method.to_owned(), operation(action, body, &kind));
            }
        };
        add(&mut many, has("list"), "get", "list", &list);
        add(&mut many, has("create"), "post", "post", &one);
        add(&mut many, has("deletecollection"), "delete", "deletecollection", &list);
        let mut single = Map::new();
        add(&mut single, has("get"), "get", "get", &one);
        add(&mut single, has("update"), "put", "put", &one);
        add(&mut single, has("patch"), "patch", "patch", &one);
        add(&mut single, has("delete"), "delete", "delete", &one);
        if resource.namespaced && has("list") {
            let mut everywhere = Map::new();
            add(&mut everywhere, true, "get", "list", &list);
            self.put(format!("{base}/{}", resource.name), everywhere);
        }
        self.put(collection, many);
        self.put(object.clone(), single);
        for (name, sub) in &resource.subresources {
            self.add_subresource(&format!("{object}/{name}"), resource, sub);
        }
        self.close();
    }

    fn put(&mut self, path: String, mut operations: Map<String, Value>) {
        if operations.is_empty() {
            return;
        }
        let parameters: Vec<Value> = ["name", "namespace"]
            .into_iter()
            .filter(|name| path.contains(&format!("{{{name}}}")))
            .map(|name| {
                json!({ "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true })
            })
            .collect();
        if !parameters.is_empty() {
            operations.insert("parameters".to_owned(), parameters.into());
        }
        self.paths.insert(path, operations.into());
    }

    fn add_subresource(&mut self, path: &str, resource: &Resource, sub: &Subresource) {
        let (group, version) = if sub.version.is_empty() {
            (&resource.group, &resource.version)
        } else {
            (&sub.group, &sub.version)
        };
        let body = match facts::definition_of(group, version, &sub.kind) {
            _ if sub.kind == resource.kind => self.kind_of(resource),
            Some(name) => self.known(name),
            None => Reference::Any,
        };
        let kind = kind_marker(group, version, &sub.kind);
        let mut operations = Map::new();
        for verb in &sub.verbs {
            let (method, action) = match verb.as_str() {
                "get" => ("get", "get"),
                "create" => ("post", "post"),
                "update" => ("put", "put"),
                "patch" => ("patch", "patch"),
                "delete" => ("delete", "delete"),
                _ => continue,
            };
            operations.insert(method.to_owned(), operation(action, &body, &kind));
        }
        self.put(path.to_owned(), operations);
    }

    /// The definition of a resource's kind.
    fn kind_of(&mut self, resource: &Resource) -> Reference {
        match facts::definition_of(&resource.group, &resource.version, &resource.kind) {
            Some(name) => self.known(name),
            None => self.custom(resource),
        }
    }

    fn list_of(&mut self, resource: &Resource) -> Reference {
        if let Some(name) =
            facts::definition_of(&resource.group, &resource.version, &resource.list_kind)
        {
            return self.known(name);
        }
        let Reference::To(item) = self.kind_of(resource) else { return Reference::Any };
        let name = format!("{}{}", item.trim_end_matches(&resource.kind), resource.list_kind);
        let schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string" },
                "kind": { "type": "string" },
                "metadata": { "$ref": reference(&format!("{META}.ListMeta")) },
                "items": { "type": "array", "items": { "$ref": reference(&item) } },
            },
            "x-kubernetes-group-version-kind":
                [kind_marker(&resource.group, &resource.version, &resource.list_kind)],
        });
        self.definitions.entry(name.clone()).or_insert(schema);
        Reference::To(name)
    }

    /// A definition of the facts, marked with its kinds.
    fn known(&mut self, name: &str) -> Reference {
        if !self.definitions.contains_key(name)
            && let Some(mut schema) = facts::openapi(name)
        {
            let kinds = facts::definition(name).map(|d| d.gvk).unwrap_or_default();
            let kinds: Vec<Value> = kinds.iter().map(|[g, v, k]| kind_marker(g, v, k)).collect();
            if let Value::Object(schema) = &mut schema {
                schema.remove("x-improv-definition");
                if !kinds.is_empty() {
                    schema.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
                }
            }
            self.definitions.insert(name.to_owned(), schema);
        }
        Reference::To(name.to_owned())
    }

    fn custom(&mut self, resource: &Resource) -> Reference {
        let reversed: Vec<&str> = resource.group.split('.').rev().collect();
        let name = format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind);
        let mut schema = match resource.schema.source() {
            SchemaSource::OpenApi(schema) => (**schema).clone(),
            SchemaSource::Definition(name) => return self.known(&name.clone()),
            SchemaSource::None => json!({ "type": "object" }),
        };
        let marker = kind_marker(&resource.group, &resource.version, &resource.kind);
        schema["x-kubernetes-group-version-kind"] = json!([marker]);
        schema["properties"]["apiVersion"] = json!({ "type": "string" });
        schema["properties"]["kind"] = json!({ "type": "string" });
        let metadata = reference(&format!("{META}.ObjectMeta"));
        schema["properties"]["metadata"] = json!({ "$ref": metadata });
        self.definitions.insert(name.clone(), schema);
        Reference::To(name)
    }

    /// Adds every definition that is referred to and not there yet.
    fn close(&mut self) {
        self.known(&format!("{META}.DeleteOptions"));
        self.known(&format!("{META}.Status"));
        self.known(&format!("{META}.Patch"));
        loop {
            let mut wanted = Vec::new();
            for schema in self.definitions.values() {
                references(schema, &mut |name| {
                    if !self.definitions.contains_key(name) {
                        wanted.push(name.to_owned());
                    }
                });
            }
            if wanted.is_empty() {
                return;
            }
            for name in wanted {
                self.known(&name);
                // What nobody knows is anything; a dangling reference would break clients.
                self.definitions.entry(name).or_insert_with(|| json!({ "type": "object" }));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Reference {
    To(String),
    Any,
}

fn reference(name: &str) -> String {
    format!("{}{name}", facts::REF_PREFIX)
}

fn references(schema: &Value, found: &mut impl FnMut(&str)) {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                match (key.as_str(), value.as_str()) {
                    ("$ref", Some(to)) => found(to.trim_start_matches(facts::REF_PREFIX)),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn kind_marker(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

/// One operation, in v2's form.
fn operation(action: &str, body: &Reference, kind: &Value) -> Value {
    let schema = match body {
        Reference::To(name) => json!({ "$ref": reference(name) }),
        Reference::Any => json!({ "type": "object" }),
    };
    let query = |name: &str, kind: &str| json!({ "name": name, "in": "query", "type": kind, "uniqueItems": true });
    let mut parameters = Vec::new();
    let write = matches!(action, "post" | "put" | "patch");
    if write {
        parameters
            .extend(["dryRun", "fieldManager", "fieldValidation"].map(|n| query(n, "string")));
        let sent = match action {
            "patch" => json!({ "$ref": reference(&format!("{META}.Patch")) }),
            _ => schema.clone(),
        };
        parameters.push(json!({ "name": "body", "in": "body", "required": true, "schema": sent }));
    }
    if action == "patch" {
        parameters.push(query("force", "boolean"));
    }
    if matches!(action, "list" | "deletecollection") {
        parameters.extend(
            ["continue", "fieldSelector", "labelSelector", "resourceVersion"]
                .map(|n| query(n, "string")),
        );
        parameters.extend([query("limit", "integer"), query("watch", "boolean")]);
    }
    if matches!(action, "delete" | "deletecollection") {
        let options = json!({ "$ref": reference(&format!("{META}.DeleteOptions")) });
        parameters.push(json!({ "name": "body", "in": "body", "schema": options }));
        parameters.extend(["dryRun", "propagationPolicy"].map(|n| query(n, "string")));
        parameters.push(query("gracePeriodSeconds", "integer"));
    }
    let answer = match action {
        "delete" | "deletecollection" => json!({ "$ref": reference(&format!("{META}.Status")) }),
        _ => schema,
    };
    let code = if action == "post" { "201" } else { "200" };
    let consumes: &[&str] = match action {
        "patch" => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        _ => &["application/json", "application/yaml"],
    };
    json!({
        "consumes": consumes,
        "produces": ["application/json", "application/yaml"],
        "parameters": parameters,
        "responses": { code: { "description": "OK", "schema": answer } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
    })
}

/// What v2 has no word for is left out.
fn as_v2(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let either = members.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
            let mut out = Map::new();
            for (key, value) in members {
                match key.as_str() {
                    "nullable" | "oneOf" | "anyOf" | "allOf" | "not" => {}
                    _ => _ = out.insert(key, as_v2(value)),
                }
            }
            if either {
                out.insert("type".to_owned(), "string".into());
                out.insert("format".to_owned(), "int-or-string".into());
            }
            out.into()
        }
        Value::Array(items) => items.into_iter().map(as_v2).collect(),
        other => other,
    }
}

/// Turns v2's form into v3's: references, parameters with a schema, bodies apart from parameters.
fn as_v3(value: Value) -> Value {
    match value {
        Value::Object(members) if members.contains_key("responses") => v3_operation(members),
        Value::Object(members) if is_parameter(&members) => v3_parameter(members),
        Value::Object(mut members) => {
            let to = members
                .get("$ref")
                .and_then(Value::as_str)
                .map(|to| to.replacen(facts::REF_PREFIX, V3_PREFIX, 1));
            if let Some(to) = to {
                members.remove("$ref");
                if members.is_empty() {
                    return json!({ "$ref": to });
                }
                members.insert("allOf".to_owned(), json!([{ "$ref": to }]));
                return members.into();
            }
            if members.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                members.insert(
                    "oneOf".to_owned(),
                    json!([{ "type": "integer" }, { "type": "string" }]),
                );
                members.insert("format".to_owned(), "int-or-string".into());
            }
            members
                .into_iter()
                .map(|(key, value)| (key, as_v3(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.into_iter().map(as_v3).collect(),
        other => other,
    }
}

fn is_parameter(members: &Map<String, Value>) -> bool {
    matches!(members.get("in").and_then(Value::as_str), Some("query" | "path"))
        && members.contains_key("name")
}

fn v3_parameter(mut members: Map<String, Value>) -> Value {
    let mut schema = Map::new();
    for key in ["type", "uniqueItems"] {
        if let Some(value) = members.remove(key) {
            schema.insert(key.to_owned(), value);
        }
    }
    members.insert("schema".to_owned(), schema.into());
    members.into()
}

fn v3_operation(mut members: Map<String, Value>) -> Value {
    let list = |value: Option<Value>| match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let content = |types: &[Value], schema: &Value| -> Value {
        let entry = |name: &Value| {
            let name = name.as_str().unwrap_or_default().to_owned();
            (name, json!({ "schema": as_v3(schema.clone()) }))
        };
        types.iter().map(entry).collect::<Map<_, _>>().into()
    };
    let (consumes, produces) = (list(members.remove("consumes")), list(members.remove("produces")));
    let (bodies, others): (Vec<Value>, Vec<Value>) =
        list(members.remove("parameters")).into_iter().partition(|p| p["in"] == "body");
    if let Some(body) = bodies.first() {
        members.insert(
            "requestBody".to_owned(),
            json!({ "content": content(&consumes, &body["schema"]) }),
        );
    }
    members.insert("parameters".to_owned(), others.into_iter().map(as_v3).collect());
    if let Some(Value::Object(responses)) = members.remove("responses") {
        let responses: Map<String, Value> = responses
            .into_iter()
            .map(|(code, response)| {
                let content = content(&produces, &response["schema"]);
                (code, json!({ "description": response["description"], "content": content }))
            })
            .collect();
        members.insert("responses".to_owned(), responses.into());
    }
    members.into()
}
