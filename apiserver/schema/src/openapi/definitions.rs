//! The schemas of a document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::paths::Operation;
use super::{Dialect, Resource, Source};
use crate::facts::{self, Field};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Definitions by name, each with what it refers to.
pub(super) struct Definitions {
    pub(super) dialect: Dialect,
    /// The group and version whose document this is; none if it is that of several.
    pub(super) version: Option<(String, String)>,
    pub(super) known: BTreeMap<String, Value>,
    pub(super) descriptions: Descriptions,
}

impl Definitions {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            version: None,
            known: BTreeMap::new(),
            descriptions: Descriptions::default(),
        }
    }

    /// Those of the document of one version, which does not say of `DeleteOptions` what they are in others.
    pub(super) fn of_version(self, group: &str, version: &str) -> Self {
        Self { version: Some((group.to_owned(), version.to_owned())), ..self }
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

    /// Adds what operations refer to.
    pub(super) fn of_operations(&mut self, operations: &[Operation]) {
        for name in operations.iter().flat_map(Operation::definitions) {
            self.upstream(name);
        }
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
        if let Some(text) = self.descriptions.of(name) {
            out.insert("description".into(), text.into());
        }
        let mut properties = Map::new();
        for (field, facts) in &facts.fields {
            if !is_own(field) {
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
        if let Some(unions) = &facts.unions {
            out.insert("x-kubernetes-unions".into(), unions.clone());
        }
        let is_here = |[group, version, _]: &&[String; 3]| {
            let Some((own_group, own_version)) = &self.version else { return true };
            facts.gvk.len() == 1 || group.is_empty() || (group, version) == (own_group, own_version)
        };
        let gvk: Vec<Value> = facts
            .gvk
            .iter()
            .filter(is_here)
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
        // Upstream's second version has no defaults.
        if let Some(default) = facts.default.as_ref().filter(|_| self.dialect == Dialect::V3) {
            out.insert("default".into(), default.clone());
        }
        out.into()
    }

    /// `apiVersion` and `kind`, of which the same is said everywhere.
    pub(super) fn type_meta(&mut self, field: &str) -> Value {
        let mut out = json!({ "type": "string" });
        if let Some(text) = self.descriptions.of_type_meta(field) {
            out["description"] = text.into();
        }
        out
    }
}

/// Whether a field is known here alone, and not published.
fn is_own(field: &str) -> bool {
    field.starts_with("x-improv-") || field.starts_with("x-kubernetes-patch-")
}

/// What a definition is apart from its fields.
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
        ("JSON", _) => json!({}),
        (name, _) if name.starts_with("JSONSchemaPropsOr") => json!({}),
        _ => json!({ "type": "object" }),
    };
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
