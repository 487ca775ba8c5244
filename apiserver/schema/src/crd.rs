//! Whether the schema of a CustomResourceDefinition may be served.
//!
//! Schemas must be *structural*: every part has one type that does not depend on logic, so
//! that values can be pruned, defaulted and merged. Defaults must be valid and rules must
//! compile.
//!
//! Source: kubernetes.io, "Specifying a structural schema".

mod costs;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::Schema;
use crate::cause::{Cause, Reason};
use crate::cel::estimate::{self, Cardinality};
use crate::node::Node;

use costs::Costs;

type Object = Map<String, Value>;

/// What is wrong with an `openAPIV3Schema`; `path` is its place in the definition, such as
/// `spec.versions[0].schema.openAPIV3Schema`.
///
/// (Upstream says `spec.validation.openAPIV3Schema` if all versions have the same schema.)
#[must_use]
pub fn validate_schema(schema: &Value, path: &str) -> Vec<Cause> {
    let mut checker = Checker { causes: Vec::new(), costs: Costs::default() };
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        match schema.get("type").filter(|t| **t != "") {
            None => checker.required(&format!("{path}.type"), "must not be empty at the root"),
            Some(other) => {
                checker.causes.push(Cause::invalid(
                    format!("{path}.type"),
                    other,
                    "must be object at the root",
                ));
            }
        }
    }
    checker.part(schema, path, Place::Root, 0, Some(1));
    let Checker { mut causes, costs } = checker;
    causes.extend(costs.finish(path));
    causes
}

/// Where a part of a schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Field,
    Item,
    /// Inside of `allOf`, `anyOf`, `oneOf` or `not`: only value checks are allowed.
    Logic,
}

struct Checker {
    causes: Vec<Cause>,
    costs: Costs,
}

impl Checker {
    fn required(&mut self, field: &str, detail: &str) {
        self.causes.push(Cause::required(field, detail));
    }

    fn forbidden(&mut self, field: String, detail: &str) {
        self.causes.push(Cause::forbidden(field, detail));
    }

    fn part(
        &mut self,
        schema: &Value,
        path: &str,
        place: Place,
        depth: usize,
        occurs: Cardinality,
    ) {
        let Some(map) = schema.as_object() else { return };
        if depth > crate::compile::MAX_DEPTH {
            self.forbidden(path.to_owned(), "is nested too deeply");
            return;
        }
        if map.contains_key("$ref") {
            self.forbidden(format!("{path}.$ref"), "$ref is not supported");
        }
        if map.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.forbidden(
                format!("{path}.uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        if place == Place::Logic {
            self.logic(map, path);
        } else {
            self.types(map, path, place);
            self.extensions(map, path);
            self.default(schema, path);
            self.rules(schema, path, place, occurs);
        }
        self.children(map, path, place, depth, occurs);
    }

    fn children(
        &mut self,
        map: &Object,
        path: &str,
        place: Place,
        depth: usize,
        occurs: Cardinality,
    ) {
        let each = |most: &str| Some(occurs?.saturating_mul(map.get(most)?.as_u64()?));
        let inner = if place == Place::Logic { Place::Logic } else { Place::Field };
        for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            self.part(schema, &format!("{path}.properties[{name}]"), inner, depth + 1, occurs);
        }
        match map.get("items") {
            Some(Value::Array(_)) => self.forbidden(
                format!("{path}.items"),
                "items must be a schema object and not an array",
            ),
            Some(items) => {
                let place = if place == Place::Logic { Place::Logic } else { Place::Item };
                self.part(items, &format!("{path}.items"), place, depth + 1, each("maxItems"));
            }
            None => (),
        }
        match map.get("additionalProperties") {
            Some(Value::Bool(_)) | None => (),
            Some(values) => {
                let path = format!("{path}.additionalProperties");
                self.part(values, &path, inner, depth + 1, each("maxProperties"));
            }
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            let list = map.get(key).and_then(Value::as_array).into_iter().flatten();
            for (index, schema) in list.enumerate() {
                let path = format!("{path}.{key}[{index}]");
                self.part(schema, &path, Place::Logic, depth + 1, occurs);
            }
        }
        if let Some(schema) = map.get("not") {
            self.part(schema, &format!("{path}.not"), Place::Logic, depth + 1, occurs);
        }
    }

    fn types(&mut self, map: &Object, path: &str, place: Place) {
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
            other => self.causes.push(Cause::not_supported(
                format!("{path}.type"),
                &other.into(),
                ["array", "boolean", "integer", "number", "object", "string"],
            )),
        }
        if flag("x-kubernetes-int-or-string") && !r#type.is_empty() {
            self.causes.push(Cause::invalid(
                format!("{path}.type"),
                &r#type.into(),
                "must be empty if x-kubernetes-int-or-string is true",
            ));
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
        if values == Some(&Value::Bool(false)) {
            self.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties cannot be set to false",
            );
        }
    }

    fn extensions(&mut self, map: &Object, path: &str) {
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
        match text("x-kubernetes-map-type") {
            None | Some("atomic" | "granular") => (),
            Some(other) => self.causes.push(Cause::not_supported(
                format!("{path}.x-kubernetes-map-type"),
                &other.into(),
                ["atomic", "granular"],
            )),
        }
        self.list_type(map, path);
    }

    fn list_type(&mut self, map: &Object, path: &str) {
        let keys: Vec<&str> = map
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let keys_path = format!("{path}.x-kubernetes-list-map-keys");
        let list = map.get("x-kubernetes-list-type").and_then(Value::as_str);
        if list.is_some() && map.get("type").and_then(Value::as_str) != Some("array") {
            let found = map.get("type").cloned().unwrap_or_else(|| "".into());
            let detail = "must be array if x-kubernetes-list-type is specified";
            self.causes.push(Cause::invalid(format!("{path}.type"), &found, detail));
        }
        match list {
            None | Some("atomic" | "set") if !keys.is_empty() => self.causes.push(Cause::invalid(
                keys_path,
                &json!(keys),
                "must be empty if x-kubernetes-list-type is not map",
            )),
            None | Some("atomic" | "set") => (),
            Some("map") if keys.is_empty() => {
                self.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
            }
            Some("map") => self.list_keys(map, path, &keys),
            Some(other) => self.causes.push(Cause::not_supported(
                format!("{path}.x-kubernetes-list-type"),
                &other.into(),
                ["atomic", "map", "set"],
            )),
        }
    }

    fn list_keys(&mut self, map: &Object, path: &str, keys: &[&str]) {
        let items = map.get("items").unwrap_or(&Value::Null);
        let required = items["required"].as_array();
        for (index, key) in keys.iter().enumerate() {
            let Some(property) = items["properties"].get(key) else {
                self.causes.push(Cause::invalid(
                    format!("{path}.x-kubernetes-list-map-keys[{index}]"),
                    &(*key).into(),
                    "entries must all be names of item properties",
                ));
                continue;
            };
            let is_scalar = !matches!(property["type"].as_str(), Some("object" | "array"));
            if !is_scalar {
                self.causes.push(Cause::invalid(
                    format!("{path}.items.properties[{key}].type"),
                    &property["type"],
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                ));
            }
            let is_required = required.is_some_and(|list| list.iter().any(|name| name == key));
            if property.get("default").is_none() && !is_required {
                self.required(
                    &format!("{path}.items.properties[{key}].default"),
                    "this property is in x-kubernetes-list-map-keys, so it must have a default \
                     or be a required property",
                );
            }
        }
    }

    /// What a branch of logic may not have: it would decide the shape of values.
    fn logic(&mut self, map: &Object, path: &str) {
        let int_or_string =
            matches!(map.get("type").and_then(Value::as_str), Some("integer" | "string"))
                && path.contains(".anyOf[");
        for key in ["additionalProperties", "default", "nullable", "title", "description"] {
            if map.get(key).is_some_and(|value| *value != Value::Bool(false)) {
                self.forbidden(format!("{path}.{key}"), "must be undefined to be structural");
            }
        }
        // `anyOf: [{type: integer}, {type: string}]` is how int-or-string is written.
        let typed = map.get("type").is_some_and(|value| *value != "");
        if typed && !int_or_string {
            self.forbidden(format!("{path}.type"), "must be empty to be structural");
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

    /// A default must be pruned and valid itself.
    fn default(&mut self, schema: &Value, path: &str) {
        let Some(default) = schema.get("default") else { return };
        let field = format!("{path}.default");
        let holder = json!({ "type": "object", "properties": { "value": schema } });
        let Ok(compiled) = Schema::from_crd(&holder) else { return };
        let mut value = json!({ "value": default });
        if compiled.decode(&mut value).is_ok_and(|unknown| !unknown.is_empty()) {
            self.causes.push(Cause::invalid(&field, default, "must not have unknown fields"));
            return;
        }
        let mut value = json!({ "value": default });
        compiled.default(&mut value);
        for cause in compiled.validate(&value, None) {
            // As recorded: the message speaks of an unnamed value.
            let below = cause.field.strip_prefix("value").unwrap_or_default();
            let (long, short) = (&cause.field, below.trim_start_matches('.'));
            let message =
                cause.message.replacen(&format!("{long} in body"), &format!("{short} in body"), 1);
            self.causes.push(Cause { field: format!("{field}{below}"), message, ..cause });
        }
    }

    fn rules(&mut self, schema: &Value, path: &str, place: Place, occurs: Cardinality) {
        let Some(map) = schema.as_object() else { return };
        const REASONS: [&str; 4] = [
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        let rules = map.get("x-kubernetes-validations").and_then(Value::as_array);
        let rules: &[Value] = rules.map(Vec::as_slice).unwrap_or_default();
        let n_before = self.causes.len();
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{index}]");
            let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("rule").trim().is_empty() {
                self.required(&format!("{at}.rule"), "rule is not specified");
            }
            if rule.get("message").is_some_and(|m| m.as_str().is_some_and(|m| m.trim().is_empty()))
                && !text("message").is_empty()
            {
                let detail = "message must be non-empty if specified";
                self.causes.push(Cause::invalid(format!("{at}.message"), &rule["message"], detail));
            } else if text("message").contains('\n') {
                let detail = "must not contain line breaks";
                self.causes.push(Cause::invalid(format!("{at}.message"), &rule["message"], detail));
            } else if text("rule").contains('\n') && text("message").is_empty() {
                let detail = "message must be specified if rule contains line breaks";
                self.required(&format!("{at}.message"), detail);
            }
            if !text("reason").is_empty() && !REASONS.contains(&text("reason")) {
                let cause = Cause::not_supported(format!("{at}.reason"), &rule["reason"], REASONS);
                self.causes.push(cause);
            }
        }
        if self.causes.len() > n_before {
            return; // As recorded: expressions are compiled once the rest is right.
        }
        let Some(node) = (!rules.is_empty()).then(|| node_of(schema, place)).flatten() else {
            return;
        };
        for (index, rule) in rules.iter().enumerate() {
            for key in ["rule", "messageExpression"] {
                let Some(source) = rule.get(key).and_then(Value::as_str) else { continue };
                let field = format!("{path}.x-kubernetes-validations[{index}].{key}");
                let optional = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
                let is_root = place == Place::Root;
                let wanted = if key == "rule" { "bool" } else { "string" };
                match estimate::rule(source, wanted, &node, is_root, optional, occurs) {
                    Ok(cost) => self.causes.extend(self.costs.note(field, cost)),
                    Err(error) => self.causes.push(Cause {
                        reason: Reason::Invalid,
                        field,
                        message: format!("Invalid value: {source:?}: {error}"),
                    }),
                }
            }
        }
    }
}

/// The compiled form of one part of a schema.
fn node_of(schema: &Value, place: Place) -> Option<Arc<Node>> {
    if place == Place::Root {
        return Some(Schema::from_crd(schema).ok()?.root);
    }
    let holder = json!({ "type": "object", "properties": { "value": schema } });
    Some(Schema::from_crd(&holder).ok()?.root.field("value")?.edge.node().shared())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(properties: Value, expected: &[&str]) {
        let schema = json!({ "type": "object", "properties": properties });
        let causes = validate_schema(&schema, "spec.validation.openAPIV3Schema");
        let causes: Vec<String> = causes
            .iter()
            .map(|cause| {
                cause.to_string().replace("spec.validation.openAPIV3Schema.properties", "")
            })
            .collect();
        assert_eq!(causes, expected);
    }

    /// Found by the fuzz target `schema`.
    #[test]
    fn a_list_with_keys_but_without_items_is_refused() {
        let list = json!({
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        });
        check(
            json!({ "l": list }),
            &[
                "[l].items: Required value: must be specified",
                "[l].x-kubernetes-list-map-keys[0]: Invalid value: \"k\": entries must all be names of item properties",
            ],
        );
    }

    #[test]
    fn defaults_must_be_valid() {
        check(
            json!({"a": {"type": "integer", "default": "text"}}),
            &[
                "[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ],
        );
        check(
            json!({"b": {"type": "string", "enum": ["x"], "default": "y"}}),
            &["[b].default: Unsupported value: \"y\": supported values: \"x\""],
        );
        check(
            json!({"c": {"type": "object", "properties": {"d": {"type": "integer"}},
                   "default": {"d": 1, "e": 2}}}),
            &["[c].default: Invalid value: {\"d\":1,\"e\":2}: must not have unknown fields"],
        );
        check(json!({"d": {"type": "string", "default": "y"}}), &[]);
    }

    #[test]
    fn rules_must_be_whole() {
        check(
            json!({"a": {"type": "string", "x-kubernetes-validations": [
                {"rule": "1 +"}, {"rule": ""}, {"rule": "self == 'x'", "message": "two\nlines"},
                {"rule": "true", "reason": "Whatever"}]}}),
            &[
                "[a].x-kubernetes-validations[1].rule: Required value: rule is not specified",
                "[a].x-kubernetes-validations[2].message: Invalid value: \"two\\nlines\": \
                 must not contain line breaks",
                "[a].x-kubernetes-validations[3].reason: Unsupported value: \"Whatever\": \
                 supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \
                 \"FieldValueInvalid\", \"FieldValueRequired\"",
            ],
        );
        let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": "1 +"}]});
        let causes = validate_schema(&schema, "s");
        assert_eq!(causes[0].field, "s.x-kubernetes-validations[0].rule");
        assert!(causes[0].message.starts_with("Invalid value: \"1 +\": compilation failed"));
    }

    #[test]
    fn parts_must_be_structural() {
        check(
            json!({"a": {}, "b": {"type": "array", "items": {}},
                   "c": {"x-kubernetes-int-or-string": true, "anyOf": [
                       {"type": "integer"}, {"type": "string"}]},
                   "d": {"type": "string", "not": {"type": "object", "default": 1}},
                   "e": {"type": "object", "properties": {"x": {"type": "string"}},
                         "additionalProperties": {"type": "string"}},
                   "f": {"$ref": "#/x", "type": "string"}}),
            &[
                "[a].type: Required value: must not be empty for specified object fields",
                "[b].items.type: Required value: must not be empty for specified array items",
                "[d].not.default: Forbidden: must be undefined to be structural",
                "[d].not.type: Forbidden: must be empty to be structural",
                "[e].additionalProperties: Forbidden: additionalProperties and properties are \
                 mutual exclusive",
                "[f].$ref: Forbidden: $ref is not supported",
            ],
        );
    }

    #[test]
    fn keys_of_list_maps_must_be_there() {
        let list = |keys: Value, port: Value| {
            json!({"l": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": keys,
                "items": {"type": "object", "properties": {"port": port}}}})
        };
        check(
            list(json!(["port"]), json!({"type": "integer"})),
            &["[l].items.properties[port].default: Required value: this property is in \
               x-kubernetes-list-map-keys, so it must have a default or be a required property"],
        );
        check(list(json!(["port"]), json!({"type": "integer", "default": 1})), &[]);
        check(
            list(json!(["nope"]), json!({"type": "integer"})),
            &["[l].x-kubernetes-list-map-keys[0]: Invalid value: \"nope\": \
               entries must all be names of item properties"],
        );
        check(
            list(json!([]), json!({"type": "integer"})),
            &["[l].x-kubernetes-list-map-keys: Required value: must not be empty if \
               x-kubernetes-list-type is map"],
        );
    }

    #[test]
    fn our_own_crds_are_structural() {
        for crd in crate::crdgen::definitions() {
            for version in crd["spec"]["versions"].as_array().unwrap() {
                let schema = &version["schema"]["openAPIV3Schema"];
                let causes = validate_schema(schema, "");
                assert!(causes.is_empty(), "{}: {causes:?}", crd["metadata"]["name"]);
            }
        }
    }
}
