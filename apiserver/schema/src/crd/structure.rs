//! What makes a schema structural: each part has one type that does not depend on logic, and logic speaks only of parts
//! that are there.
//!
//! Source: upstream's `apiextensions-apiserver/pkg/apiserver/schema/{structural,validation,complete}.go`.

use serde_json::{Value, json};

use super::{Object, Place};
use crate::cause::Cause;
use crate::compile::MAX_DEPTH;
use crate::regexps;

/// Keys under which a schema has others.
const LOGIC: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Whether a value is there and says something.
pub(super) fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Bool(true) | Value::Number(_)) => true,
    }
}

/// What keeps a schema from being judged as a structure, such as `$ref`; none if it can be.
pub(super) fn obstacle(schema: &Value, depth: usize) -> Option<&'static str> {
    let map = schema.as_object()?;
    if depth > MAX_DEPTH {
        return None;
    }
    let unsupported = [
        ("id", "OpenAPIV3Schema 'id' is not supported"),
        ("$schema", "OpenAPIV3Schema 'schema' is not supported"),
        ("$ref", "OpenAPIV3Schema '$ref' is not supported"),
        ("patternProperties", "OpenAPIV3Schema 'patternProperties' is not supported"),
        ("dependencies", "OpenAPIV3Schema 'dependencies' is not supported"),
        ("definitions", "OpenAPIV3Schema 'definitions' is not supported"),
    ];
    if let Some((_, text)) = unsupported.iter().find(|(key, _)| is_set(map.get(*key))) {
        return Some(text);
    }
    if map.get("additionalItems").is_some_and(|items| !items.is_null()) {
        return Some("OpenAPIV3Schema 'additionalItems' is not supported");
    }
    if map.get("items").is_some_and(Value::is_array) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array");
    }
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        return Some(
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined",
        );
    }
    let inner = |key: &str| map.get(key).into_iter();
    let lists = LOGIC.iter().flat_map(|key| map.get(*key).and_then(Value::as_array)).flatten();
    let properties = map.get("properties").and_then(Value::as_object).into_iter().flatten();
    ["items", "additionalProperties", "not"]
        .iter()
        .flat_map(|key| inner(key))
        .chain(lists)
        .chain(properties.map(|(_, schema)| schema))
        .find_map(|schema| obstacle(schema, depth + 1))
}

/// Everything that is not structural.
pub(super) fn faults(schema: &Value, path: &str) -> Vec<Cause> {
    let mut judge = Judge { causes: Vec::new() };
    if let Some(map) = schema.as_object() {
        judge.part(map, path, Place::Root, 0);
        judge.logic_is_complete(map, Some(schema), path, path, 0);
    }
    judge.causes.sort_by_cached_key(ToString::to_string);
    judge.causes
}

struct Judge {
    causes: Vec<Cause>,
}

fn list<'a>(map: &'a Object, key: &str) -> impl Iterator<Item = (usize, &'a Object)> {
    let list = map.get(key).and_then(Value::as_array).into_iter().flatten();
    list.enumerate().filter_map(|(n, value)| Some((n, value.as_object()?)))
}

fn properties(map: &Object) -> impl Iterator<Item = (&String, &Value)> {
    map.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// How int-or-string is written.
fn is_either(any_of: Option<&Value>) -> bool {
    any_of == Some(&json!([{ "type": "integer" }, { "type": "string" }]))
}

impl Judge {
    fn required(&mut self, field: String, detail: &str) {
        self.causes.push(Cause::required(field, detail));
    }

    fn forbidden(&mut self, field: String, detail: &str) {
        self.causes.push(Cause::forbidden(field, detail));
    }

    fn invalid(&mut self, field: String, value: &Value, detail: &str) {
        self.causes.push(Cause::invalid(field, value, detail));
    }

    fn part(&mut self, map: &Object, path: &str, place: Place, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
        let r#type = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let items = map.get("items").and_then(Value::as_object);
        match items {
            Some(items) => self.part(items, &format!("{path}.items"), Place::Item, depth + 1),
            None if r#type == "array" => {
                self.required(format!("{path}.items"), "must be specified")
            }
            None => (),
        }
        for (name, schema) in properties(map) {
            let path = format!("{path}.properties[{name}]");
            let schema = schema.as_object();
            schema.iter().for_each(|schema| self.part(schema, &path, Place::Field, depth + 1));
        }
        let values = map.get("additionalProperties").filter(|values| !values.is_null());
        if let Some(values) = values {
            let path = format!("{path}.additionalProperties");
            if place == Place::Root {
                self.forbidden(path.clone(), "must not be used at the root");
            }
            if flag("x-kubernetes-embedded-resource") {
                let detail = "must not be used if x-kubernetes-embedded-resource is set";
                self.forbidden(path.clone(), detail);
            }
            let values = values.as_object();
            values.iter().for_each(|values| self.part(values, &path, Place::Field, depth + 1));
        }
        for other in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if flag("x-kubernetes-int-or-string") && flag(other) {
                let detail = "must be false if x-kubernetes-int-or-string is true";
                self.invalid(format!("{path}.{other}"), &true.into(), detail);
            }
        }
        let first = list(map, "allOf").next().and_then(|(_, first)| first.get("anyOf"));
        self.values(map, path, is_either(map.get("anyOf")), is_either(first), depth);
        self.r#type(map, path, place);
        self.metadata(map, path, place);
    }

    fn r#type(&mut self, map: &Object, path: &str, place: Place) {
        let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
        let r#type = map.get("type").and_then(Value::as_str).unwrap_or_default();
        let is_embedded = flag("x-kubernetes-embedded-resource");
        let is_free =
            flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
        let field = format!("{path}.type");
        let embedded = "must be object if x-kubernetes-embedded-resource is true";
        match (r#type, place) {
            ("", _) if is_embedded => self.required(field, embedded),
            ("object", _) => (),
            (other, _) if is_embedded => self.invalid(field, &other.into(), embedded),
            ("", _) if is_free => (),
            ("", Place::Root) => self.required(field, "must not be empty at the root"),
            ("", Place::Item) => {
                self.required(field, "must not be empty for specified array items")
            }
            ("", Place::Field) => {
                self.required(field, "must not be empty for specified object fields");
            }
            (other, Place::Root) => {
                self.invalid(field, &other.into(), "must be object at the root")
            }
            _ => (),
        }
        let preserves = flag("x-kubernetes-preserve-unknown-fields");
        if is_embedded && !preserves && !is_set(map.get("properties")) {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                          x-kubernetes-preserve-unknown-fields";
            self.required(format!("{path}.properties"), detail);
        }
    }

    /// What a whole object says of what every object has.
    fn metadata(&mut self, map: &Object, path: &str, place: Place) {
        let is_embedded = map.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
        if place != Place::Root && !is_embedded {
            return;
        }
        for (name, wanted) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")]
        {
            let Some((_, schema)) = properties(map).find(|(known, _)| *known == name) else {
                continue;
            };
            let field = format!("{path}.properties[{name}]");
            let found = schema["type"].as_str().unwrap_or_default();
            if found != wanted {
                self.invalid(format!("{field}.type"), &found.into(), &format!("must be {wanted}"));
            }
            if name == "metadata" && place == Place::Root && !says_little(schema) {
                let detail = "must not specify anything other than name and generateName, but metadata is \
                              implicitly specified";
                self.forbidden(field, detail);
            }
        }
    }

    /// The checks of values, and the logic that combines them.
    fn values(&mut self, map: &Object, path: &str, either: bool, first: bool, depth: usize) {
        for key in LOGIC {
            for (n, schema) in list(map, key) {
                let is_first = key == "allOf" && n == 0 && first;
                if key == "anyOf" && either {
                    continue;
                }
                self.nested(schema, &format!("{path}.{key}[{n}]"), is_first, depth + 1);
            }
        }
        if let Some(schema) = map.get("not").and_then(Value::as_object) {
            self.nested(schema, &format!("{path}.not"), false, depth + 1);
        }
        let pattern = map.get("pattern").and_then(Value::as_str).unwrap_or_default();
        if let Err(reason) = regexps::compile(pattern) {
            let detail = format!(
                "must be a valid regular expression, but isn't: error parsing regexp: {reason}"
            );
            self.invalid(format!("{path}.pattern"), &pattern.into(), &detail);
        }
    }

    /// A branch of logic may not decide the shape of values.
    fn nested(&mut self, map: &Object, path: &str, either: bool, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        self.values(map, path, either, false, depth);
        if let Some(items) = map.get("items").and_then(Value::as_object) {
            self.nested(items, &format!("{path}.items"), false, depth + 1);
        }
        for (name, schema) in properties(map) {
            let field = format!("{path}.properties[{name}]");
            if let Some(schema) = schema.as_object() {
                self.nested(schema, &field, false, depth + 1);
            }
            if name == "metadata" {
                self.forbidden(field, "must not be specified in a nested context");
            }
        }
        for (key, state) in [
            ("type", "empty"),
            ("title", "empty"),
            ("description", "empty"),
            ("nullable", "false"),
            ("x-kubernetes-preserve-unknown-fields", "false"),
            ("x-kubernetes-embedded-resource", "false"),
            ("x-kubernetes-int-or-string", "false"),
            ("x-kubernetes-list-map-keys", "empty"),
            ("x-kubernetes-validations", "empty"),
        ] {
            if is_set(map.get(key)) {
                self.forbidden(
                    format!("{path}.{key}"),
                    &format!("must be {state} to be structural"),
                );
            }
        }
        for key in
            ["additionalProperties", "default", "x-kubernetes-list-type", "x-kubernetes-map-type"]
        {
            let is_none = |value: &Value| {
                value.is_null() || key == "additionalProperties" && *value == Value::Bool(false)
            };
            if map.get(key).is_some_and(|value| !is_none(value)) {
                self.forbidden(format!("{path}.{key}"), "must be undefined to be structural");
            }
        }
    }

    /// What logic speaks of must be there outside of it.
    fn logic_is_complete(
        &mut self,
        map: &Object,
        outside: Option<&Value>,
        at: &str,
        path: &str,
        depth: usize,
    ) {
        for key in LOGIC {
            for (n, schema) in list(map, key) {
                self.is_complete(schema, outside, at, &format!("{path}.{key}[{n}]"), depth + 1);
            }
        }
        if let Some(schema) = map.get("not").and_then(Value::as_object) {
            self.is_complete(schema, outside, at, &format!("{path}.not"), depth + 1);
        }
    }

    fn is_complete(
        &mut self,
        map: &Object,
        outside: Option<&Value>,
        at: &str,
        path: &str,
        depth: usize,
    ) {
        if depth > MAX_DEPTH {
            return;
        }
        let Some(outside) = outside else {
            return self.required(at.to_owned(), &format!("because it is defined in {path}"));
        };
        self.logic_is_complete(map, Some(outside), at, path, depth);
        if let Some(items) = map.get("items").and_then(Value::as_object) {
            let inner = outside.get("items");
            let (at, path) = (format!("{at}.items"), format!("{path}.items"));
            self.is_complete(items, inner, &at, &path, depth + 1);
        }
        for (name, schema) in properties(map) {
            let (Some(schema), inner) = (schema.as_object(), outside["properties"].get(name))
            else {
                continue;
            };
            let at = format!("{at}.properties[{name}]");
            self.is_complete(schema, inner, &at, &format!("{path}.properties[{name}]"), depth + 1);
        }
    }
}

/// Whether what a definition says of metadata is at most that it has names.
fn says_little(schema: &Value) -> bool {
    let Some(map) = schema.as_object() else { return true };
    map.iter().all(|(key, value)| match key.as_str() {
        "type" | "default" => true,
        "properties" => properties(map).all(|(name, _)| matches!(&**name, "name" | "generateName")),
        "x-kubernetes-map-type" | "x-kubernetes-list-type" => value.is_null(),
        _ => !is_set(Some(value)),
    })
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
