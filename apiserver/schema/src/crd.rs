//! Whether the schema of a CustomResourceDefinition may be served.
//!
//! Schemas must be *structural*: every part has one type that does not depend on logic, so
//! that values can be pruned, defaulted and merged. Defaults must be valid and rules must
//! compile.
//!
//! Source: kubernetes.io, "Specifying a structural schema".

mod costs;
mod structure;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::Schema;
use crate::cause::Cause;
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
    let mut checker = Checker { causes: Vec::new(), costs: Costs::default(), uncorrelated: None };
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
    let Checker { mut causes, costs, .. } = checker;
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
    /// The list whose entries have no counterparts in another object, while one is inside of it.
    uncorrelated: Option<String>,
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
        for key in ["patternProperties", "definitions", "dependencies", "additionalItems", "id"] {
            if map.contains_key(key) {
                self.forbidden(format!("{path}.{key}"), &format!("{key} is not supported"));
            }
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
            if place == Place::Root {
                self.root(map, path);
            }
            self.patterns(map, path);
            self.extensions(map, path);
            self.default(schema, path, place);
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
                let outside = self.uncorrelated.clone();
                if map.get("x-kubernetes-list-type").is_none_or(|list| list != "map") {
                    self.uncorrelated.get_or_insert_with(|| path.to_owned());
                }
                self.part(items, &format!("{path}.items"), place, depth + 1, each("maxItems"));
                self.uncorrelated = outside;
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
                if structure::is_int_or_string(map, key, schema) {
                    continue;
                }
                let path = format!("{path}.{key}[{index}]");
                self.part(schema, &path, Place::Logic, depth + 1, occurs);
            }
        }
        if let Some(schema) = map.get("not") {
            self.part(schema, &format!("{path}.not"), Place::Logic, depth + 1, occurs);
        }
    }

    /// A default must be pruned and valid itself.
    fn default(&mut self, schema: &Value, path: &str, place: Place) {
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
        if schema.get(crate::compile::DEFINITION).is_some() {
            compiled.default(&mut value); // Go makes the whole struct.
        }
        for cause in compiled.validate(&value, None) {
            // As recorded: the message speaks of an unnamed value.
            let below = cause.field.strip_prefix("value").unwrap_or_default();
            let (long, short) = (&cause.field, below.trim_start_matches('.'));
            let message =
                cause.message.replacen(&format!("{long} in body"), &format!("{short} in body"), 1);
            let dot = if short.is_empty() { "" } else { "." };
            self.causes.push(Cause { field: format!("{field}{dot}{short}"), message, ..cause });
        }
        if place == Place::Root {
            for key in ["apiVersion", "kind"] {
                if default.get(key).is_none() {
                    self.required(&format!("{field}.{key}"), "");
                }
            }
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
                let detail = "must be non-empty if specified";
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
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{index}]");
            let place = rule["fieldPath"].as_str().unwrap_or_default();
            if !place.is_empty() && !structure::leads_somewhere(schema, place) {
                let detail = "must be a valid path";
                self.causes.push(Cause::invalid(format!("{at}.fieldPath"), &place.into(), detail));
            }
            let source = rule["rule"].as_str().unwrap_or_default();
            if rule["optionalOldSelf"] == true && !source.contains("oldSelf") {
                let detail = "may not be set if oldSelf is not used in rule";
                let field = format!("{at}.optionalOldSelf");
                self.causes.push(Cause::invalid(field, &true.into(), detail));
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
                if let (Some(list), true) = (&self.uncorrelated, source.contains("oldSelf")) {
                    let detail = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                    );
                    self.causes.push(Cause::invalid(&*field, &source.into(), &detail));
                }
                let optional = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
                let is_root = place == Place::Root;
                let wanted = if key == "rule" { "bool" } else { "string" };
                match estimate::rule(source, wanted, &node, is_root, optional, occurs) {
                    Ok(cost) => self.causes.extend(self.costs.note(field, cost)),
                    Err(error) => {
                        self.causes.push(Cause::invalid(
                            field,
                            &go_rule(rule),
                            &fault(key, &error),
                        ));
                    }
                }
            }
        }
    }
}

/// A rule as Go prints it: the whole struct.
fn go_rule(rule: &Value) -> Value {
    let text = |key: &str| rule[key].as_str().unwrap_or_default();
    json!({
        "Rule": text("rule"),
        "Message": text("message"),
        "MessageExpression": text("messageExpression"),
        "Reason": rule["reason"],
        "FieldPath": text("fieldPath"),
        "OptionalOldSelf": rule["optionalOldSelf"],
    })
}

/// What is wrong with an expression, in upstream's words.
fn fault(key: &str, error: &str) -> String {
    match (key, error.starts_with("must evaluate")) {
        ("rule", true) => format!("cel expression {error}"),
        ("rule", false) => error.to_owned(),
        _ => format!("{key} {error}"),
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
                "[l].x-kubernetes-list-map-keys: Invalid value: [\"k\"]: entries must all be names of item properties",
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
        assert!(causes[0].message.contains("\"Rule\":\"1 +\""), "{}", causes[0].message);
        assert!(causes[0].message.contains("}: compilation failed"));
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
            &["[l].x-kubernetes-list-map-keys: Invalid value: [\"nope\"]: \
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
