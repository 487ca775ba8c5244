//! Whether the schema of a CustomResourceDefinition may be served.
//!
//! Schemas must be *structural*: every part has one type that does not depend on logic, so
//! that values can be pruned, defaulted and merged. Defaults must be valid and rules must
//! compile.
//!
//! Source: kubernetes.io, "Specifying a structural schema".

mod costs;
mod defaults;
mod parts;
mod rules;
mod structure;

use serde_json::{Map, Value};

use crate::cause::Cause;

type Object = Map<String, Value>;

/// What is wrong with an `openAPIV3Schema`; `path` is its place in the definition, such as
/// `spec.versions[0].schema.openAPIV3Schema`.
///
/// Rules are compiled only where the schema itself is right, and defaults are judged only if it is structural.
///
/// (Upstream says `spec.validation.openAPIV3Schema` if all versions have the same schema.)
#[must_use]
pub fn validate_schema(schema: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if schema.get("nullable") == Some(&Value::Bool(true)) {
        causes.push(Cause::forbidden(
            format!("{path}.nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let obstacle = structure::obstacle(schema, 0);
    if obstacle.is_none() {
        causes.extend(structure::faults(schema, path));
        if causes.is_empty() {
            causes = defaults::faults(schema, path);
        }
    }
    let mut parts = parts::Parts::default();
    let has_rules = obstacle.is_none() && causes.is_empty();
    parts.walk(schema, path, &parts::Around::root(has_rules));
    causes.extend(parts.finish(path));
    if let (Some(obstacle), true) = (obstacle, causes.is_empty()) {
        causes.push(Cause::invalid(path, &"".into(), obstacle));
    }
    causes
}

/// Where a part of a schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Field,
    Item,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
                "[l].items: Required value: must have a schema if x-kubernetes-list-type is map",
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
                         "additionalProperties": {"type": "string"}}}),
            &[
                "[a].type: Required value: must not be empty for specified object fields",
                "[b].items.type: Required value: must not be empty for specified array items",
                "[d].not.default: Forbidden: must be undefined to be structural",
                "[d].not.type: Forbidden: must be empty to be structural",
                "[e].additionalProperties: Forbidden: additionalProperties and properties are \
                 mutual exclusive",
            ],
        );
        // Then nothing else is known of the structure.
        check(
            json!({"a": {}, "f": {"$ref": "#/x", "type": "string"}}),
            &["[f].$ref: Forbidden: $ref is not supported"],
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
