//! The rules of one part of a schema.

use std::sync::Arc;

use serde_json::{Value, json};

use super::parts::{Around, Parts};
use super::structure;
use crate::Schema;
use crate::cause::Cause;
use crate::cel::{self, estimate};
use crate::node::Node;
use crate::print::{self, Fields, Shown};

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What of a rule is wrong whatever its expressions say.
pub(super) fn shape(rule: &Value, schema: &Value, at: &str, causes: &mut Vec<Cause>) {
    let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
    let has_breaks = |text: &str| text.contains(['\n', '\r']);
    let mut invalid = |key: &str, detail: &str| {
        causes.push(Cause::invalid(format!("{at}.{key}"), &rule[key], detail));
    };
    let (source, message) = (text("rule").trim(), text("message").trim());
    const BLANK: &str = "must be non-empty if specified";
    const BREAKS: &str = "must not contain line breaks";
    let mut missing = Vec::new();
    if source.is_empty() {
        missing.push(("rule", "rule is not specified"));
    } else if !text("message").is_empty() && message.is_empty() {
        invalid("message", BLANK);
    } else if has_breaks(message) {
        invalid("message", BREAKS);
    } else if has_breaks(source) && message.is_empty() {
        missing.push(("message", "message must be specified if rule contains line breaks"));
    }
    let made = text("messageExpression");
    if !made.is_empty() && made.trim().is_empty() {
        missing.push(("messageExpression", "messageExpression must be non-empty if specified"));
    }
    let place = text("fieldPath");
    if !place.is_empty() {
        if place.trim().is_empty() {
            invalid("fieldPath", BLANK);
        }
        if has_breaks(place) {
            invalid("fieldPath", BREAKS);
        }
        if !structure::leads_somewhere(schema, place) {
            invalid("fieldPath", "must be a valid path");
        }
    }
    causes.extend(
        missing.into_iter().map(|(key, detail)| Cause::required(format!("{at}.{key}"), detail)),
    );
    let reason = &rule["reason"];
    if reason.as_str().is_some_and(|reason| !REASONS.contains(&reason)) {
        causes.push(Cause::not_supported(format!("{at}.reason"), reason, REASONS));
    }
}

impl Parts {
    /// Compiles the rules of a part that is right otherwise.
    pub(super) fn compile(&mut self, rules: &[Value], schema: &Value, path: &str, around: &Around) {
        let Some(node) = node_of(schema, around.is_root) else { return };
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{index}]");
            let source = rule["rule"].as_str().unwrap_or_default();
            let is_sound = self.expression(rule, "rule", &at, &node, around);
            let uses_old =
                is_sound && cel::compile(source).is_ok_and(|program| program.is_transition);
            let optional = &rule["optionalOldSelf"];
            if let (Some(within), true) = (&around.uncorrelated, uses_old) {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                );
                self.rules.push(Cause::invalid(format!("{at}.rule"), &source.into(), &detail));
            } else if !uses_old && !optional.is_null() {
                let detail = "may not be set if oldSelf is not used in rule";
                self.rules.push(Cause::invalid(format!("{at}.optionalOldSelf"), optional, detail));
            }
            if is_sound && structure::is_set(rule.get("messageExpression")) {
                self.expression(rule, "messageExpression", &at, &node, around);
            }
        }
    }

    /// Notes what an expression costs; whether it is one.
    fn expression(
        &mut self,
        rule: &Value,
        key: &str,
        at: &str,
        node: &Arc<Node>,
        around: &Around,
    ) -> bool {
        let source = rule[key].as_str().unwrap_or_default();
        let optional = rule["optionalOldSelf"] == true;
        // A message is made once.
        let (wanted, occurs) = match key {
            "rule" => ("bool", around.occurs),
            _ => ("string", Some(1)),
        };
        let field = format!("{at}.{key}");
        match estimate::rule(source, wanted, node, around.is_root, optional, occurs) {
            Ok(cost) => self.rules.extend(self.costs.note(field, cost)),
            Err(error) => {
                self.rules.push(Cause::invalid_as(
                    field,
                    &print::internal(RULE, rule),
                    &fault(key, &error),
                ));
                return false;
            }
        }
        true
    }
}

/// A rule as Go shows it.
const RULE: Fields = &[
    ("rule", Shown::Text),
    ("message", Shown::Text),
    ("messageExpression", Shown::Text),
    ("reason", Shown::Any),
    ("fieldPath", Shown::Text),
    ("optionalOldSelf", Shown::Any),
];

/// What is wrong with an expression, in upstream's words.
fn fault(key: &str, error: &str) -> String {
    match (key, error.starts_with("must evaluate")) {
        ("rule", true) => format!("cel expression {error}"),
        ("rule", false) => error.to_owned(),
        _ => format!("{key} {error}"),
    }
}

/// The compiled form of one part of a schema.
fn node_of(schema: &Value, is_root: bool) -> Option<Arc<Node>> {
    if is_root {
        return Some(Schema::from_crd(schema).ok()?.root);
    }
    let holder = json!({ "type": "object", "properties": { "value": schema } });
    Some(Schema::from_crd(&holder).ok()?.root.field("value")?.edge.node().shared())
}
