//! The schemas of a document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::{Dialect, Resource, Source};
use crate::facts::{self, Field};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Definitions by name, each with what it refers to.
pub(super) struct Definitions {
    dialect: Dialect,
    known: BTreeMap<String, Value>,
    descriptions: Descriptions,
}

impl Definitions {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, known: BTreeMap::new(), descriptions: Descriptions::default() }
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.known.into_iter().collect()
    }

    /// Adds the kind and its list; returns the name of the kind.
    pub(super) fn resource(&mut self, resource: &Resource<'_>) -> String {
        let name = resource.definition_name();
        match resource.source {
            Source::Definition(definition) => {
                self.upstream(definition);
                self.upstream(&format!("{definition}List"));
            }
            Source::Custom(schema) => self.custom(resource, &name, schema),
            Source::None => self.custom(resource, &name, &json!({ "type": "object" })),
        }
        for sub in resource.subresources {
            sub.definition.into_iter().for_each(|name| self.upstream(name));
        }
        name
    }

    /// Adds an upstream definition and all that it refers to.
    pub(super) fn upstream(&mut self, name: &str) {
        if self.known.contains_key(name) {
            return;
        }
        let Some(facts) = facts::definition(name) else { return };
        // Before its fields: some definitions contain themselves.
        self.known.insert(name.to_owned(), Value::Null);
        let mut out = special(name, self.dialect);
        if out.is_empty() {
            out.insert("type".into(), "object".into());
        }
        if let Some(text) = self.descriptions.of(name) {
            out.insert("description".into(), text.into());
        }
        let mut properties = Map::new();
        for (field, facts) in &facts.fields {
            if !field.starts_with("x-improv-") {
                let about = self.descriptions.of_field(name, field);
                properties.insert(field.clone(), self.field(facts, about));
            }
        }
        if !properties.is_empty() {
            out.insert("properties".into(), properties.into());
        }
        if !facts.required.is_empty() {
            out.insert("required".into(), json!(facts.required));
        }
        if let Some(map) = facts.map() {
            out.insert("x-kubernetes-map-type".into(), map.into());
        }
        let gvk: Vec<Value> = facts
            .gvk
            .iter()
            .map(|[group, version, kind]| json!({ "group": group, "version": version, "kind": kind }))
            .collect();
        if !gvk.is_empty() {
            out.insert("x-kubernetes-group-version-kind".into(), gvk.into());
        }
        self.known.insert(name.to_owned(), out.into());
    }

    fn field(&mut self, facts: &Field, about: Option<String>) -> Value {
        let mut out = facts::field_openapi(facts);
        if let Some(about) = about {
            out.insert("description".into(), about.into());
        }
        if let Some(name) = &facts.r#ref {
            self.upstream(name);
            out.remove("$ref");
            let reference = format!("{}{name}", self.dialect.prefix());
            // Nothing may stand beside a reference in OpenAPI 3.0.
            let alone = out.is_empty() && facts.default.is_none();
            if alone || self.dialect == Dialect::V2 {
                out.insert("$ref".into(), reference.into());
            } else {
                out.insert("allOf".into(), json!([{ "$ref": reference }]));
            }
        }
        if let Some(items) = &facts.items {
            out.insert("items".into(), self.field(items, None));
        }
        if let Some(values) = &facts.values {
            out.insert("additionalProperties".into(), self.field(values, None));
        }
        if let Some(default) = &facts.default {
            out.insert("default".into(), default.clone());
        }
        out.into()
    }

    /// `apiVersion` and `kind`, of which the same is said everywhere.
    fn type_meta(&mut self, field: &str) -> Value {
        let mut out = json!({ "type": "string" });
        if let Some(text) = self.descriptions.of_type_meta(field) {
            out["description"] = text.into();
        }
        out
    }

    /// Adds a custom kind and its list.
    fn custom(&mut self, resource: &Resource<'_>, name: &str, schema: &Value) {
        self.upstream(&format!("{META}.ObjectMeta"));
        self.upstream(&format!("{META}.ListMeta"));
        let mut schema = schema.clone();
        if self.dialect == Dialect::V2 {
            simplify(&mut schema);
        }
        let prefix = self.dialect.prefix();
        let reference = |name: &str| json!({ "allOf": [{ "$ref": format!("{prefix}{name}") }] });
        if let Some(map) = schema.as_object_mut() {
            let properties = map.entry("properties").or_insert_with(|| json!({}));
            properties["apiVersion"] = self.type_meta("apiVersion");
            properties["kind"] = self.type_meta("kind");
            properties["metadata"] = reference(&format!("{META}.ObjectMeta"));
            map.insert("x-kubernetes-group-version-kind".into(), json!([resource.gvk()]));
        }
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": self.type_meta("apiVersion"),
                "kind": self.type_meta("kind"),
                "metadata": reference(&format!("{META}.ListMeta")),
                "items": { "type": "array", "items": reference(name) },
            },
            "x-kubernetes-group-version-kind": [{
                "group": resource.group,
                "version": resource.version,
                "kind": format!("{}List", resource.kind),
            }],
        });
        self.known.insert(name.to_owned(), schema);
        self.known.insert(format!("{name}List"), list);
    }
}

/// Schema of the definitions that are not plain objects; empty for those that are.
fn special(name: &str, dialect: Dialect) -> Map<String, Value> {
    let schema = match (facts::short_name(name), dialect) {
        ("Quantity", Dialect::V3) => {
            json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] })
        }
        ("Quantity", Dialect::V2) => json!({ "type": "string" }),
        ("IntOrString", Dialect::V3) => json!({
            "oneOf": [{ "type": "integer" }, { "type": "string" }], "format": "int-or-string"
        }),
        ("IntOrString", Dialect::V2) => json!({ "type": "string", "format": "int-or-string" }),
        ("Time" | "MicroTime", _) => json!({ "type": "string", "format": "date-time" }),
        _ => json!({}),
    };
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Takes out of a schema what OpenAPI v2 cannot say, and what clients of it misread.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["nullable", "anyOf", "oneOf", "allOf", "not", "default"] {
        map.remove(key);
    }
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.retain(|key, _| {
            key.starts_with("x-kubernetes-") || key == "description" || key == "type"
        });
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            simplify(inner);
        }
    }
}
