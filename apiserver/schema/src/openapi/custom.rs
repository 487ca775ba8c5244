//! Schemas of custom types: those of their definitions, with what every object has.
//!
//! Source: upstream `apiextensions-apiserver/pkg/controller/openapi`.

use serde_json::{Map, Value, json};

use super::definitions::{Definitions, META};
use super::{Dialect, Resource};

const CONVENTIONS: &str =
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";

impl Definitions {
    /// Adds a custom kind and its list.
    pub(super) fn custom(&mut self, resource: &Resource<'_>, name: &str, schema: &Value) {
        self.upstream(&format!("{META}.ObjectMeta"));
        self.upstream(&format!("{META}.ListMeta"));
        let (kind, list_kind) = (resource.kind, format!("{}List", resource.kind));
        let mut object = self.object(schema);
        let items = format!("List of {}. More info: {CONVENTIONS}", resource.plural);
        let mut list = json!({
            "description": format!("{list_kind} is a list of {kind}"),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": self.type_meta("apiVersion"),
                "kind": self.type_meta("kind"),
                "metadata": self.metadata("ListMeta", "io.k8s.api.core.v1.PodList"),
                "items": { "description": items, "type": "array", "items": self.reference(name, None) },
            },
        });
        for (schema, kind) in [(&mut object, kind), (&mut list, &list_kind)] {
            let gvk = json!({ "group": resource.group, "version": resource.version, "kind": kind });
            schema["x-kubernetes-group-version-kind"] = json!([gvk]);
            if !resource.selectable.is_empty() {
                let fields = resource.selectable.iter().map(|path| json!({ "fieldPath": path }));
                schema["x-kubernetes-selectable-fields"] = fields.collect();
            }
        }
        self.known.insert(name.to_owned(), object);
        self.known.insert(format!("{name}List"), list);
    }

    fn object(&mut self, schema: &Value) -> Value {
        let mut schema = schema.clone();
        if self.dialect == Dialect::V2 {
            // Clients of v2 would take properties for all that there are.
            if is_set(&schema, "x-kubernetes-preserve-unknown-fields") {
                return json!({ "type": "object" });
            }
            simplify(&mut schema);
        } else {
            either(&mut schema);
        }
        self.embedded(&mut schema);
        schema["properties"]["apiVersion"] = self.type_meta("apiVersion");
        schema["properties"]["kind"] = self.type_meta("kind");
        schema["properties"]["metadata"] = self.metadata("ObjectMeta", "io.k8s.api.core.v1.Pod");
        schema
    }

    fn reference(&self, name: &str, about: Option<String>) -> Value {
        let reference = json!({ "$ref": format!("{}{name}", self.dialect.prefix()) });
        match (about, self.dialect) {
            (None, _) => reference,
            // Nothing may stand beside a reference in OpenAPI 3.0.
            (Some(about), Dialect::V3) => json!({ "description": about, "allOf": [reference] }),
            (Some(about), Dialect::V2) => {
                json!({ "description": about, "$ref": reference["$ref"] })
            }
        }
    }

    /// A field with the type's metadata; `like` has one that is described the same.
    fn metadata(&mut self, kind: &str, like: &str) -> Value {
        let about = self.descriptions.of_field(like, "metadata");
        self.reference(&format!("{META}.{kind}"), about)
    }

    /// Gives embedded objects the fields of every object.
    fn embedded(&mut self, schema: &mut Value) {
        inner(schema).into_iter().for_each(|schema| self.embedded(schema));
        let is_open = is_set(schema, "x-kubernetes-preserve-unknown-fields");
        if !is_set(schema, "x-kubernetes-embedded-resource")
            || is_open && self.dialect == Dialect::V2
        {
            return;
        }
        let about = |what: &str, chapter: &str| json!({ "type": "string", "description": format!("{what} More info: {CONVENTIONS}#{chapter}") });
        schema["properties"]["apiVersion"] = about(
            "apiVersion defines the versioned schema of this representation of an object.",
            "resources",
        );
        schema["properties"]["kind"] = about(
            "kind is a string value representing the type of this object. In CamelCase.",
            "types-kinds",
        );
        schema["properties"]["metadata"] = self.metadata("ObjectMeta", "io.k8s.api.core.v1.Pod");
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        for field in ["kind", "apiVersion"] {
            if !required.iter().any(|name| name == field) {
                required.push(field.into());
            }
        }
        schema["required"] = required.into();
    }
}

fn is_set(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

/// The schemas right below a schema that say what members and entries are.
fn inner(schema: &mut Value) -> Vec<&mut Value> {
    let mut inner = Vec::new();
    for (key, below) in schema.as_object_mut().into_iter().flatten() {
        match (key.as_str(), below) {
            ("properties", Value::Object(fields)) => inner.extend(fields.values_mut()),
            ("items" | "additionalProperties", below @ Value::Object(_)) => inner.push(below),
            _ => (),
        }
    }
    inner
}

/// Says of numbers or texts what they are.
fn either(schema: &mut Value) {
    inner(schema).into_iter().for_each(either);
    if is_set(schema, "x-kubernetes-int-or-string")
        && ["anyOf", "allOf"].iter().all(|key| schema[*key].is_null())
    {
        schema["anyOf"] = json!([{ "type": "integer" }, { "type": "string" }]);
    }
}

/// Takes out of a schema what OpenAPI v2 cannot say, and what clients of it misread.
///
/// Source: `ToStructuralOpenAPIV2` in upstream's `controller/openapi/v2/conversion.go`.
fn simplify(schema: &mut Value) {
    let is_nullable = is_set(schema, "nullable");
    let is_open = is_set(schema, "x-kubernetes-preserve-unknown-fields");
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["nullable", "anyOf", "oneOf", "allOf", "not"] {
        map.remove(key);
    }
    if is_nullable || is_open {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str);
    let misread = is_nullable
        || is_open && kind == Some("object")
        || kind == Some("array") && !map.contains_key("items");
    if misread {
        map.remove("type");
    }
    relax(map);
    inner(schema).into_iter().for_each(simplify);
}

/// What may be null may be absent: v2 has no null.
fn relax(map: &mut Map<String, Value>) {
    let may_be_null = |schema: Option<&Value>| schema.is_some_and(|s| is_set(s, "nullable"));
    let values_may = may_be_null(map.get("additionalProperties"));
    let properties = map.get("properties");
    let is_strict = |field: &Value| {
        let property = properties.and_then(|properties| properties.get(field.as_str()?));
        !values_may && !may_be_null(property)
    };
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    let required: Vec<Value> = required.filter(|field| is_strict(field)).cloned().collect();
    match required.is_empty() {
        true => _ = map.remove("required"),
        false => _ = map.insert("required".to_owned(), required.into()),
    }
}
