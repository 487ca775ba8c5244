//! What makes a schema structural: types, lists and maps, and what logic must not say.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Checker, Object, Place};
use crate::cause::Cause;
use crate::regexps;

/// Whether a branch of a schema is how int-or-string is written: `anyOf` of integer and string, in this order, perhaps
/// as the first part of `allOf`.
pub(super) fn is_int_or_string(map: &Object, key: &str, branch: &Value) -> bool {
    let both = json!([{ "type": "integer" }, { "type": "string" }]);
    map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
        && match key {
            "anyOf" => map.get("anyOf") == Some(&both),
            "allOf" => map["allOf"][0] == *branch && *branch == json!({ "anyOf": both }),
            _ => false,
        }
}

/// Whether a path such as `.a.b` or `['a']` leads to a part of the schema.
pub(super) fn leads_somewhere(schema: &Value, path: &str) -> bool {
    let Some(rest) = path.strip_prefix('.') else {
        let key = path.strip_prefix("['").and_then(|rest| rest.split_once("']"));
        return key.is_some_and(|(name, rest)| follow(schema, name, rest));
    };
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    follow(schema, &rest[..end], &rest[end..])
}

fn follow(schema: &Value, name: &str, rest: &str) -> bool {
    let values = schema.get("additionalProperties").filter(|values| values.is_object());
    let next = schema["properties"].get(name).or(values);
    !name.is_empty() && next.is_some_and(|next| rest.is_empty() || leads_somewhere(next, rest))
}

fn type_of(map: &Object) -> Value {
    map.get("type").cloned().unwrap_or_else(|| "".into())
}

impl Checker {
    pub(super) fn types(&mut self, map: &Object, path: &str, place: Place) {
        let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
        let r#type = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let free =
            flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
        match r#type {
            "" if free || place == Place::Root => (),
            "" if place == Place::Item => self
                .required(&format!("{path}.type"), "must not be empty for specified array items"),
            "" => self
                .required(&format!("{path}.type"), "must not be empty for specified object fields"),
            "object" | "array" | "string" | "integer" | "number" | "boolean" => (),
            other => {
                if other == "null" {
                    let detail = "type cannot be set to null, use nullable as an alternative";
                    self.forbidden(format!("{path}.type"), detail);
                }
                self.causes.push(Cause::not_supported(
                    format!("{path}.type"),
                    &other.into(),
                    ["array", "boolean", "integer", "number", "object", "string"],
                ));
            }
        }
        if r#type == "array" && !map.contains_key("items") {
            self.required(&format!("{path}.items"), "must be specified");
        }
        let has_properties =
            map.get("properties").and_then(Value::as_object).is_some_and(|p| !p.is_empty());
        let values = map.get("additionalProperties");
        if has_properties && values.is_some_and(|values| *values != Value::Bool(false)) {
            self.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        match values {
            Some(_) if place == Place::Root => {
                self.forbidden(
                    format!("{path}.additionalProperties"),
                    "must not be used at the root",
                );
            }
            _ => (),
        }
    }

    pub(super) fn extensions(&mut self, map: &Object, path: &str) {
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
        if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            self.causes.push(Cause::invalid(
                format!("{path}.x-kubernetes-preserve-unknown-fields"),
                &false.into(),
                "must be true or undefined",
            ));
        }
        if flag("x-kubernetes-embedded-resource") {
            if text("type") != Some("object") {
                let found = map.get("type").cloned().unwrap_or_else(|| "".into());
                self.causes.push(Cause::invalid(
                    format!("{path}.type"),
                    &found,
                    "must be object if x-kubernetes-embedded-resource is true",
                ));
            }
            let preserves = flag("x-kubernetes-preserve-unknown-fields");
            if !preserves && !map.contains_key("properties") {
                self.required(
                    &format!("{path}.properties"),
                    "must not be empty if x-kubernetes-embedded-resource is true without \
                     x-kubernetes-preserve-unknown-fields",
                );
            }
        }
        self.map_type(map, path);
        self.list_type(map, path);
    }

    fn map_type(&mut self, map: &Object, path: &str) {
        let Some(given) = map.get("x-kubernetes-map-type") else { return };
        if map.get("type").and_then(Value::as_str) != Some("object") {
            let detail = "must be object if x-kubernetes-map-type is specified";
            self.causes.push(Cause::invalid(format!("{path}.type"), &type_of(map), detail));
        }
        if !matches!(given.as_str(), Some("atomic" | "granular")) {
            self.causes.push(Cause::not_supported(
                format!("{path}.x-kubernetes-map-type"),
                given,
                ["atomic", "granular"],
            ));
        }
    }

    fn list_type(&mut self, map: &Object, path: &str) {
        let keys = map.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
        let given = map.get("x-kubernetes-list-type");
        let list = given.and_then(Value::as_str);
        if list.is_some() && map.get("type").and_then(Value::as_str) != Some("array") {
            let detail = "must be array if x-kubernetes-list-type is specified";
            self.causes.push(Cause::invalid(format!("{path}.type"), &type_of(map), detail));
        }
        let field = format!("{path}.x-kubernetes-list-type");
        if list != Some("map") && !keys.is_empty() {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            self.required(&field, detail);
        }
        let items = map.get("items").unwrap_or(&Value::Null);
        match list {
            None | Some("atomic") => (),
            Some("set") => self.set_items(items, path),
            Some("map") => self.list_keys(items, path, &keys),
            Some(_) => self.causes.push(Cause::not_supported(
                field,
                given.unwrap_or(&Value::Null),
                ["atomic", "set", "map"],
            )),
        }
        if items["nullable"] == true && matches!(list, Some("set" | "map")) {
            let list = list.unwrap_or_default();
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {list}");
            self.forbidden(format!("{path}.items.nullable"), &detail);
        }
    }

    /// Entries of a set are compared as a whole, so they must be owned so.
    fn set_items(&mut self, items: &Value, path: &str) {
        let key = match items["type"].as_str() {
            Some("object") => "x-kubernetes-map-type",
            Some("array") => "x-kubernetes-list-type",
            _ => return,
        };
        if items[key] != "atomic" {
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            self.causes.push(Cause::invalid(format!("{path}.items.{key}"), &items[key], detail));
        }
    }

    fn list_keys(&mut self, items: &Value, path: &str, keys: &[&str]) {
        let keys_path = format!("{path}.x-kubernetes-list-map-keys");
        if items.is_object() && items["type"] != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            self.causes.push(Cause::invalid(format!("{path}.items.type"), &items["type"], detail));
        }
        if keys.is_empty() {
            self.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
        }
        if keys.iter().collect::<HashSet<_>>().len() < keys.len() {
            let detail = "must not contain duplicate entries";
            self.causes.push(Cause::invalid(&*keys_path, &json!(keys), detail));
            return;
        }
        if keys.iter().any(|key| items["properties"].get(key).is_none()) {
            let detail = "entries must all be names of item properties";
            self.causes.push(Cause::invalid(keys_path, &json!(keys), detail));
        }
        let required = items["required"].as_array();
        for key in keys {
            let Some(property) = items["properties"].get(key) else { continue };
            let field = format!("{path}.items.properties[{key}]");
            if matches!(property["type"].as_str(), Some("object" | "array")) {
                let detail =
                    "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.causes.push(Cause::invalid(
                    format!("{field}.type"),
                    &property["type"],
                    detail,
                ));
            }
            let is_required = required.is_some_and(|list| list.iter().any(|name| name == key));
            if property.get("default").is_none() && !is_required {
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default \
                              or be a required property";
                self.required(&format!("{field}.default"), detail);
            }
        }
    }

    /// What the root says of what every object has.
    pub(super) fn root(&mut self, map: &Object, path: &str) {
        if map.get("nullable") == Some(&Value::Bool(true)) {
            self.forbidden(format!("{path}.nullable"), "nullable cannot be true at the root");
        }
        let part = |name: &str| map.get("properties").and_then(|properties| properties.get(name));
        for name in ["apiVersion", "kind", "metadata"] {
            let Some(schema) = part(name) else { continue };
            let field = format!("{path}.properties[{name}]");
            let wanted = if name == "metadata" { "object" } else { "string" };
            if schema["type"] != wanted {
                let detail = format!("must be {wanted}");
                self.causes.push(Cause::invalid(format!("{field}.type"), &schema["type"], &detail));
            }
            let properties = schema["properties"].as_object();
            let allowed = |name: &String| matches!(name.as_str(), "name" | "generateName");
            if properties.is_some_and(|properties| !properties.keys().all(allowed)) {
                let detail = "must not specify anything other than name and generateName, but metadata is \
                              implicitly specified";
                self.forbidden(field.clone(), detail);
            }
            self.no_defaults(schema, &field, name);
        }
    }

    /// What every object has gets no default.
    fn no_defaults(&mut self, schema: &Value, path: &str, name: &str) {
        if schema.get("default").is_some() {
            let detail = format!("must not be set in top-level {name}");
            self.forbidden(format!("{path}.default"), &detail);
        }
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            self.no_defaults(schema, &format!("{path}.properties[{field}]"), name);
        }
    }

    pub(super) fn patterns(&mut self, map: &Object, path: &str) {
        let Some(pattern) = map.get("pattern").and_then(Value::as_str) else { return };
        let Err(reason) = regexps::compile(pattern) else { return };
        let detail = format!(
            "must be a valid regular expression, but isn't: error parsing regexp: {reason}"
        );
        self.causes.push(Cause::invalid(format!("{path}.pattern"), &pattern.into(), &detail));
    }

    /// What a branch of logic may not have: it would decide the shape of values.
    pub(super) fn logic(&mut self, map: &Object, path: &str) {
        for (key, state) in [
            ("additionalProperties", "undefined"),
            ("default", "undefined"),
            ("nullable", "false"),
            ("title", "empty"),
            ("description", "empty"),
            ("type", "empty"),
        ] {
            if map.get(key).is_some_and(|value| *value != Value::Bool(false) && *value != "") {
                self.forbidden(
                    format!("{path}.{key}"),
                    &format!("must be {state} to be structural"),
                );
            }
        }
        for key in [
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ] {
            if map.get(key) == Some(&Value::Bool(true)) {
                self.forbidden(format!("{path}.{key}"), "must be false to be structural");
            }
        }
        for key in ["x-kubernetes-validations", "x-kubernetes-list-type"] {
            if map.contains_key(key) {
                self.forbidden(format!("{path}.{key}"), "must be empty to be structural");
            }
        }
    }
}
