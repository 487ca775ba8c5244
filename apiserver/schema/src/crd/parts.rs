//! What each part of a schema may say, whether the whole is structural or not.
//!
//! Source: `ValidateCustomResourceDefinitionOpenAPISchema` in upstream's
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go`.

use serde_json::{Value, json};

use super::costs::Costs;
use super::structure::is_set;
use super::{Object, rules};
use crate::cause::Cause;
use crate::cel::estimate::Cardinality;
use crate::compile::MAX_DEPTH;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Parts {
    causes: Vec<Cause>,
    pub(super) rules: Vec<Cause>,
    pub(super) costs: Costs,
}

/// What a part of a schema is inside of.
#[derive(Clone)]
pub(super) struct Around {
    pub(super) is_root: bool,
    /// Whether rules are compiled here.
    has_rules: bool,
    /// Why defaults may not be set here.
    no_defaults: Option<String>,
    in_metadata: bool,
    /// The list or map whose entries have no counterparts in another object.
    pub(super) uncorrelated: Option<String>,
    pub(super) occurs: Cardinality,
    depth: usize,
}

impl Around {
    /// Nothing is around the root.
    pub(super) fn root(has_rules: bool) -> Self {
        Self {
            is_root: true,
            has_rules,
            no_defaults: None,
            in_metadata: false,
            uncorrelated: None,
            occurs: Some(1),
            depth: 0,
        }
    }

    fn inner(&self) -> Self {
        Self { is_root: false, depth: self.depth + 1, ..self.clone() }
    }

    fn without_rules(&self) -> Self {
        Self { has_rules: false, ..self.inner() }
    }

    fn uncorrelated(mut self, path: &str) -> Self {
        self.uncorrelated.get_or_insert_with(|| path.to_owned());
        self
    }

    /// As many times as before for each of the most entries.
    fn times(mut self, most: Option<&Value>) -> Self {
        self.occurs = self.occurs.and_then(|occurs| Some(occurs.saturating_mul(most?.as_u64()?)));
        self
    }
}

impl Parts {
    /// All that is wrong, with what the rules cost together.
    pub(super) fn finish(self, path: &str) -> Vec<Cause> {
        let Self { mut causes, rules, costs } = self;
        causes.extend(rules);
        causes.extend(costs.finish(path));
        causes
    }

    fn forbidden(&mut self, field: String, detail: &str) {
        self.causes.push(Cause::forbidden(field, detail));
    }

    /// A type that a part must have because of what else it says.
    fn must_be(&mut self, map: &Object, path: &str, wanted: &str, because: &str) {
        let found = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let (field, detail) = (format!("{path}.type"), format!("must be {wanted} if {because}"));
        match found {
            "" => self.causes.push(Cause::required(field, &detail)),
            found if found == wanted => (),
            found => self.causes.push(Cause::invalid(field, &found.into(), &detail)),
        }
    }

    pub(super) fn walk(&mut self, schema: &Value, path: &str, around: &Around) {
        let Some(map) = schema.as_object() else { return };
        if around.depth > MAX_DEPTH {
            return self.forbidden(path.to_owned(), "is nested too deeply");
        }
        let before = self.causes.len();
        self.keys(map, path, around);
        self.children(map, path, around);
        self.kinds_of_maps(map, path);
        self.kinds_of_lists(map, path);
        let rules = map.get("x-kubernetes-validations").and_then(Value::as_array);
        let rules: &[Value] = rules.map(Vec::as_slice).unwrap_or_default();
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{index}]");
            rules::shape(rule, schema, &at, &mut self.causes);
        }
        if around.has_rules && !rules.is_empty() && self.causes.len() == before {
            self.compile(rules, schema, path, around);
        }
    }

    fn keys(&mut self, map: &Object, path: &str, around: &Around) {
        let r#type = map.get("type").and_then(Value::as_str).unwrap_or_default();
        if !r#type.is_empty() && !TYPES.contains(&r#type) {
            let field = format!("{path}.type");
            self.causes.push(Cause::not_supported(field, &r#type.into(), TYPES));
        }
        if r#type == "null" {
            let detail = "type cannot be set to null, use nullable as an alternative";
            self.forbidden(format!("{path}.type"), detail);
        }
        if let (Some(reason), Some(_)) =
            (&around.no_defaults, map.get("default").filter(|default| !default.is_null()))
        {
            self.forbidden(format!("{path}.default"), &format!("must not be set {reason}"));
        }
        let is_there = |key: &str| map.get(key).is_some_and(|value| !value.is_null());
        for (key, is_used) in [
            ("id", is_set(map.get("id"))),
            ("additionalItems", is_there("additionalItems")),
            ("patternProperties", is_set(map.get("patternProperties"))),
            ("definitions", is_set(map.get("definitions"))),
            ("dependencies", is_there("dependencies")),
            ("$ref", is_there("$ref")),
        ] {
            if is_used {
                self.forbidden(format!("{path}.{key}"), &format!("{key} is not supported"));
            }
        }
        if map.get("items").is_some_and(Value::is_array) {
            let detail = "items must be a schema object and not an array";
            self.forbidden(format!("{path}.items"), detail);
        }
        if around.in_metadata && is_set(map.get("x-kubernetes-embedded-resource")) {
            let field = format!("{path}.x-kubernetes-embedded-resource");
            self.forbidden(field, "must not be used inside of resource meta");
        }
        if is_set(map.get("uniqueItems")) {
            let detail =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbidden(format!("{path}.uniqueItems"), detail);
        }
        let values = map.get("additionalProperties");
        let is_closed = values.is_some_and(|v| v.is_object() || *v == Value::Bool(false));
        if is_closed && is_set(map.get("properties")) {
            let detail = "additionalProperties and properties are mutual exclusive";
            self.forbidden(format!("{path}.additionalProperties"), detail);
        }
        let preserves = "x-kubernetes-preserve-unknown-fields";
        if map.get(preserves) == Some(&Value::Bool(false)) {
            let field = format!("{path}.{preserves}");
            self.causes.push(Cause::invalid(field, &false.into(), "must be true or undefined"));
        }
    }

    fn children(&mut self, map: &Object, path: &str, around: &Around) {
        if let Some(values) = map.get("additionalProperties") {
            let mut inner = around.inner().times(map.get("maxProperties"));
            if around.in_metadata {
                let reason = "inside additionalProperties applying to object metadata";
                inner.no_defaults = Some(reason.to_owned());
            }
            self.walk(values, &format!("{path}.additionalProperties"), &inner);
        }
        let is_atomic = map.get("x-kubernetes-map-type").is_some_and(|of| of == "atomic");
        let is_object = around.is_root || is_set(map.get("x-kubernetes-embedded-resource"));
        for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            let mut inner = around.inner();
            if is_atomic {
                inner = inner.uncorrelated(path);
            }
            if is_object && matches!(&**name, "metadata" | "kind" | "apiVersion") {
                inner.in_metadata = true;
                if around.is_root {
                    inner.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            self.walk(schema, &format!("{path}.properties[{name}]"), &inner);
        }
        let logic = around.without_rules();
        for key in ["allOf", "anyOf", "oneOf"] {
            for (n, schema) in
                map.get(key).and_then(Value::as_array).into_iter().flatten().enumerate()
            {
                self.walk(schema, &format!("{path}.{key}[{n}]"), &logic);
            }
        }
        for key in ["definitions", "dependencies"] {
            for (name, schema) in map.get(key).and_then(Value::as_object).into_iter().flatten() {
                self.walk(schema, &format!("{path}.{key}[{name}]"), &logic);
            }
        }
        if let Some(schema) = map.get("not") {
            self.walk(schema, &format!("{path}.not"), &logic);
        }
        let mut inner = around.inner().times(map.get("maxItems"));
        if map.get("x-kubernetes-list-type").is_none_or(|list| list != "map") {
            inner = inner.uncorrelated(path);
        }
        match map.get("items") {
            Some(Value::Array(list)) => {
                for (n, schema) in list.iter().enumerate() {
                    self.walk(schema, &format!("{path}.items[{n}]"), &inner);
                }
            }
            Some(items) => self.walk(items, &format!("{path}.items"), &inner),
            None => (),
        }
    }

    fn kinds_of_maps(&mut self, map: &Object, path: &str) {
        let Some(given) = map.get("x-kubernetes-map-type").filter(|given| !given.is_null()) else {
            return;
        };
        self.must_be(map, path, "object", "x-kubernetes-map-type is specified");
        if !matches!(given.as_str(), Some("atomic" | "granular")) {
            let field = format!("{path}.x-kubernetes-map-type");
            self.causes.push(Cause::not_supported(field, given, ["atomic", "granular"]));
        }
    }

    fn kinds_of_lists(&mut self, map: &Object, path: &str) {
        let keys = map.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
        let given = map.get("x-kubernetes-list-type").and_then(Value::as_str);
        let items = map.get("items").filter(|items| items.is_object());
        let field = format!("{path}.x-kubernetes-list-type");
        if given.is_some() {
            self.must_be(map, path, "array", "x-kubernetes-list-type is specified");
        }
        if let (Some("set"), Some(items), true) =
            (given, items, map.get("type").is_some_and(|of| of == "array"))
        {
            self.set_items(items, path);
        }
        if let Some(other) = given.filter(|list| !matches!(*list, "atomic" | "set" | "map")) {
            let known = ["atomic", "set", "map"];
            self.causes.push(Cause::not_supported(field.clone(), &other.into(), known));
        }
        const WITH_KEYS: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        match given {
            _ if keys.is_empty() => (),
            None => self.causes.push(Cause::required(field, WITH_KEYS)),
            Some("map") => (),
            Some(other) => self.causes.push(Cause::invalid(field, &other.into(), WITH_KEYS)),
        }
        if given == Some("map") {
            self.list_keys(map, items, path, &keys);
        }
        if let (Some(list @ ("set" | "map")), Some(items)) = (given, items)
            && is_set(items.get("nullable"))
        {
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {list}");
            self.forbidden(format!("{path}.items.nullable"), &detail);
        }
    }

    /// Entries of a set are compared as a whole, so they must be owned so.
    fn set_items(&mut self, items: &Value, path: &str) {
        let list = &items["x-kubernetes-list-type"];
        let key = match items["type"].as_str() {
            Some("object") if items["x-kubernetes-map-type"] != "atomic" => "x-kubernetes-map-type",
            Some("array") if !list.is_null() && *list != "atomic" => "x-kubernetes-list-type",
            _ => return,
        };
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        self.causes.push(Cause::invalid(format!("{path}.items.{key}"), list, detail));
    }

    fn list_keys(&mut self, map: &Object, items: Option<&Value>, path: &str, keys: &[&str]) {
        let keys_path = format!("{path}.x-kubernetes-list-map-keys");
        if keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            self.causes.push(Cause::required(keys_path.clone(), detail));
        }
        let Some(items) = items else {
            if map.get("items").is_none_or(Value::is_null) {
                let detail = "must have a schema if x-kubernetes-list-type is map";
                self.causes.push(Cause::required(format!("{path}.items"), detail));
            } else {
                let detail = "must only have a single schema if x-kubernetes-list-type is map";
                self.causes.push(Cause::invalid(format!("{path}.items"), &map["items"], detail));
            }
            return;
        };
        let is_object = items["type"] == "object";
        if !is_object {
            let found = items["type"].as_str().unwrap_or_default();
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            self.causes.push(Cause::invalid(format!("{path}.items.type"), &found.into(), detail));
        }
        let required = items["required"].as_array();
        for (n, key) in keys.iter().enumerate() {
            let property = items["properties"].get(key);
            let field = format!("{path}.items.properties[{key}]");
            let is_nested = property.is_some_and(|property| {
                matches!(property["type"].as_str(), Some("object" | "array"))
            });
            if is_object && is_nested {
                let detail =
                    "must be a scalar type if parent array's x-kubernetes-list-type is map";
                // As upstream, the type of the entries is shown.
                self.causes.push(Cause::invalid(format!("{field}.type"), &items["type"], detail));
            }
            if is_object && property.is_none() {
                let detail = "entries must all be names of item properties";
                self.causes.push(Cause::invalid(keys_path.clone(), &json!(keys), detail));
            }
            if is_object && keys[..n].contains(key) {
                let detail = "must not contain duplicate entries";
                self.causes.push(Cause::invalid(keys_path.clone(), &json!(keys), detail));
            }
            let Some(property) = property else { continue };
            let is_required = required.is_some_and(|list| list.iter().any(|name| name == key));
            if property.get("default").is_none_or(Value::is_null) && !is_required {
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default \
                              or be a required property";
                self.causes.push(Cause::required(format!("{field}.default"), detail));
            }
            if is_set(property.get("nullable")) {
                let detail =
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.forbidden(format!("{field}.nullable"), detail);
            }
        }
    }
}
