use serde_json::{Value as Json, json};

use crate::Schema;

fn widget() -> Schema {
    Schema::from_crd(&json!({"type": "object", "properties": {"spec": {
        "type": "object", "required": ["min", "max"],
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min over max",
             "reason": "FieldValueInvalid", "fieldPath": ".min"},
            {"rule": "!has(self.fixed) || !has(oldSelf.fixed) || self.fixed == oldSelf.fixed",
             "message": "fixed is immutable"}],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}, "fixed": {"type": "string"},
            "ratio": {"type": "number", "x-kubernetes-validations": [{"rule": "self <= 1.0"}]},
            "when": {"type": "string", "format": "date-time", "x-kubernetes-validations": [
                {"rule": "self >= timestamp('2020-01-01T00:00:00Z')"}]},
            "once": {"type": "string", "x-kubernetes-validations": [
                {"rule": "!oldSelf.hasValue() || oldSelf.value() == self",
                 "optionalOldSelf": true, "message": "set once"}]},
            "list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self.startsWith('x')", "messageExpression": "'got ' + self"}]}},
            "nested": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule":
                    "self.all(a, self.all(b, self.all(c, self.all(d, a == b || c == d))))"}]},
            "code": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self.matches('^[0-9]+$')", "reason": "FieldValueForbidden"}]}}}}}))
    .unwrap()
}

#[track_caller]
fn check(spec: Json, old: Option<Json>, expected: &[&str]) {
    let old = old.map(|spec| json!({ "spec": spec }));
    let causes = widget().validate_rules(&json!({ "spec": spec }), old.as_ref());
    let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
    assert_eq!(causes, expected);
}

#[test]
fn rules_answer_as_recorded() {
    check(json!({"min": 1, "max": 5}), None, &[]);
    check(json!({"min": 5, "max": 1}), None, &["spec.min: Invalid value: min over max"]);
    check(
        json!({"min": 1, "max": 2, "list": ["xa", "b"], "code": "12z"}),
        None,
        &[
            "spec.code: Forbidden: failed rule: self.matches('^[0-9]+$')",
            "spec.list[1]: Invalid value: \"b\": got b",
        ],
    );
    check(
        json!({"min": 1, "max": 2, "fixed": "g"}),
        Some(json!({"min": 1, "max": 2, "fixed": "f"})),
        &["spec: Invalid value: fixed is immutable"],
    );
}

#[test]
fn rules_wait_for_a_sound_structure() {
    let causes = widget().validate(&json!({"spec": {"min": 5}}), None);
    let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
    assert_eq!(causes[0], "spec.max: Required value");
    assert!(causes[1].starts_with("<nil>: Invalid value: null: some validation rules were not"));
    let causes = widget().validate(&json!({"spec": {"min": 5, "max": 1}}), None);
    assert_eq!(causes[0].to_string(), "spec.min: Invalid value: min over max");
}

#[test]
fn values_have_the_types_of_their_schema() {
    check(json!({"min": 1, "max": 2, "ratio": 1, "when": "2024-01-01T00:00:00Z"}), None, &[]);
    check(
        json!({"min": 1, "max": 2, "when": "2019-01-01T00:00:00Z"}),
        None,
        &["spec.when: Invalid value: \"2019-01-01T00:00:00Z\": \
           failed rule: self >= timestamp('2020-01-01T00:00:00Z')"],
    );
}

#[test]
fn a_null_is_no_field_but_an_entry() {
    for (rule, holds) in [
        ("has(self.e)", false),
        ("self.?e.hasValue()", false),
        ("has(self.m.k)", true),
        ("'k' in self.m", true),
    ] {
        let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": rule}], "properties": {
            "e": {"type": "integer", "nullable": true},
            "m": {"type": "object", "additionalProperties": {"type": "string", "nullable": true}}}});
        let causes = Schema::from_crd(&schema)
            .unwrap()
            .validate_rules(&json!({"e": null, "m": {"k": null}}), None);
        assert_eq!(causes.is_empty(), holds, "{rule}");
    }
}

#[test]
fn old_self_may_be_optional() {
    check(json!({"min": 1, "max": 2, "once": "a"}), None, &[]);
    let old = || Some(json!({"min": 1, "max": 2, "once": "a"}));
    check(json!({"min": 1, "max": 2, "once": "a"}), old(), &[]);
    check(
        json!({"min": 1, "max": 2, "once": "b"}),
        old(),
        &["spec.once: Invalid value: \"b\": set once"],
    );
}

#[test]
fn what_did_not_change_is_not_judged_again() {
    let bad = json!({"min": 5, "max": 1, "code": "x"});
    check(bad.clone(), Some(bad.clone()), &[]);
    let mut new = bad.clone();
    new["min"] = 6.into();
    check(new, Some(bad), &["spec.min: Invalid value: min over max"]);
}

#[test]
fn hostile_expressions_are_refused() {
    let deep = format!("{}1{} == 1", "(".repeat(5_000), ")".repeat(5_000));
    assert!(super::compile(&deep).is_err());
    let long = vec!["1"; 20_000].join("+");
    assert!(super::compile(&long).is_err());
    assert!(super::compile("1 +").is_err());
    // Four nested visits of thousands of entries end early.
    let list: Vec<Json> = (0..2_000).map(|n| json!([n])).collect();
    let causes =
        widget().validate_rules(&json!({"spec": {"min": 1, "max": 2, "nested": list}}), None);
    assert_eq!(
        causes[0].message,
        "Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further \
         validation rules will be run due to call cost exceeds limit for rule: \
         self.all(a, self.all(b, self.all(c, self.all(d, a == b || c == d))))"
    );
}

#[track_caller]
fn value(expression: &str) -> String {
    let variables = vec![
        ("object", super::from_json(&json!({"a": {"b": 1}, "l": [1, 2, 3], "s": "text"}))),
        ("nothing", super::Value::Null),
    ];
    let program = super::compile(expression).unwrap();
    match program.run(&variables, &mut super::Budget::new(10_000_000)) {
        Ok(value) => super::to_json(&value).unwrap().to_string(),
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn expressions_have_the_values_of_cel() {
    for (expression, expected) in [
        ("object.a.b == 1 && has(object.a.b) && !has(object.a.c)", "true"),
        ("object.a.c", "no such key: c"),
        ("object.a.c == 1 || true", "true"),
        ("object.a.c == 1 && false", "false"),
        ("object.l.map(x, x * 2)", "[2,4,6]"),
        ("object.l.filter(x, x > 1)", "[2,3]"),
        ("object.l.exists(x, x == 3) && object.l.all(x, x > 0)", "true"),
        ("object.l.exists_one(x, x > 2)", "true"),
        ("object.l[7]", "index out of bounds: 7"),
        ("object.?x.orValue('none')", "\"none\""),
        ("object.?a.?b.hasValue()", "true"),
        ("object.?a.b.optMap(n, n + 1).orValue(0)", "2"),
        ("int('x')", "type conversion error from 'string' to 'int'"),
        ("1 / 0", "division by zero"),
        ("'a' + object.s", "\"atext\""),
        ("'a' + 1", "no such overload"),
        ("object.l.sum() + size(object.s)", "10"),
        ("quantity('1Gi').isGreaterThan(quantity('1Mi'))", "true"),
        ("ip('10.0.0.1').family()", "4"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
        ("url('https://a.b:80/c').getHostname()", "\"a.b\""),
        ("semver('1.2.3').isLessThan(semver('2.0.0'))", "true"),
        ("sets.contains([1, 2], [1])", "true"),
        ("'a,b'.split(',')", "[\"a\",\"b\"]"),
        ("format.dns1123Label().validate('A').hasValue()", "true"),
        ("'abc'.matches('^a.c$') && 'abc'.find('b') == 'b'", "true"),
        ("nothing == null && type(nothing) == type(null)", "true"),
        (
            "Object{spec: Object.spec{replicas: 2, ?x: optional.none()}}",
            "{\"spec\":{\"replicas\":2}}",
        ),
        (
            "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: 1}]",
            "[{\"op\":\"add\",\"path\":\"/a/b~1c\",\"value\":1}]",
        ),
        ("{'a': 1}['b']", "no such key: b"),
        ("'a' in {'a': 1} && 2 in object.l", "true"),
        ("duration('1h') > duration('5m')", "true"),
        ("type(object.s) == string && type(1) == int", "true"),
        ("['a', 'b'].exists(ip, ip.startsWith('b'))", "true"),
        ("nowhere", "no such attribute(s): nowhere"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[track_caller]
fn refused(rule: &str, expected: &str) {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 10}, "n": {"type": "integer"},
        "list": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}}},
        "x-kubernetes-validations": [{"rule": rule}]});
    let causes = crate::crd::validate_schema(&schema, "s");
    let messages: Vec<&str> = causes.iter().map(|cause| cause.message.as_str()).collect();
    match expected {
        "" => assert!(messages.is_empty(), "{rule}: {messages:?}"),
        expected => assert!(messages.iter().any(|m| m.contains(expected)), "{rule}: {messages:?}"),
    }
}

#[test]
fn rules_are_checked_against_their_schema() {
    refused("self.n == 1 && self.list.all(x, x.startsWith(self.name)) && self.map['a'] > 0", "");
    refused("self.metadata.name.size() < 5 && has(self.n)", "");
    refused(
        "self.list.map(x, x.size()).sum() < 10 && self.list.filter(x, x != '') == self.list",
        "",
    );
    refused(
        "self.nope == 1",
        "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^",
    );
    refused("other.n == 1", "<input>:1:1: undeclared reference to 'other' (in container '')");
    refused("self.n.foo()", "undeclared reference to 'foo'");
    refused("self.n == 'x'", "found no matching overload for '_==_' applied to '(int, string)'");
    refused(
        "self.name + 1 == ''",
        "found no matching overload for '_+_' applied to '(string, int)'",
    );
    refused("self.n", "must evaluate to a bool");
    refused(
        "self.map.all(k, self.map.all(l, k != l))",
        "exceeds budget by factor of more than 100x",
    );
}
