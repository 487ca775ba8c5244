//! `x-kubernetes-validations`: rules beside the parts of a schema.

use kube_cel::cel::Value;
use serde_json::Value as Json;

use super::eval::{Budget, Fault, Variables};
use super::value::{convert, optional};
use crate::cause::{Cause, Reason};
use crate::node::{Edge, Kind, ListType, Node};
use crate::path::Path;
use crate::validate::counterpart;

/// What all rules of one object may cost together.
///
/// Source: `RuntimeCELCostBudget` in upstream's `apiserver/pkg/apis/cel/config.go`.
const PER_OBJECT: u64 = 10_000_000;
/// Longest text that a `messageExpression` may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

/// Runs all rules of a schema.
///
/// Rules that speak of `oldSelf` run only where there is an old value; others do not judge
/// again what did not change (KEP-4008).
pub(crate) fn validate(node: &Node, value: &Json, old: Option<&Json>) -> Vec<Cause> {
    let mut judge = Judge { causes: Vec::new(), budget: Budget::new(PER_OBJECT), spent: false };
    judge.walk(node, value, old, &Path::ROOT);
    judge.causes
}

struct Judge {
    causes: Vec<Cause>,
    budget: Budget,
    /// A rule was too expensive: nothing further is judged.
    spent: bool,
}

/// A value that is judged, and all that its rules see.
struct Place<'a> {
    node: &'a Node,
    value: &'a Json,
    old: Option<&'a Json>,
    path: &'a Path<'a>,
    this: Value,
    before: Option<Value>,
}

impl Judge {
    fn walk(&mut self, node: &Node, value: &Json, old: Option<&Json>, path: &Path<'_>) {
        if self.spent || !node.has_cel || value.is_null() && node.nullable {
            return;
        }
        let rules = node.rules.as_deref().map(|rules| rules.cel.as_slice()).unwrap_or_default();
        if !rules.is_empty() && !value.is_null() {
            let this = convert(Some(node), value);
            let before = old.map(|old| convert(Some(node), old));
            let place = Place { node, value, old, path, this, before };
            self.check(&place, rules);
        }
        match value {
            Json::Object(map) => {
                for (name, value) in map {
                    let old = old.and_then(|old| old.get(name));
                    let child = match (node.field(name), &node.items) {
                        (Some(field), _) => field.edge.node(),
                        (None, Some(items)) => items.node(),
                        (None, None) => continue,
                    };
                    self.walk(&child, value, old, &path.field(name));
                }
            }
            Json::Array(list) => {
                let Some(items) = node.items.as_ref().map(Edge::node) else { return };
                let before = old.and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
                for (index, value) in list.iter().enumerate() {
                    // Entries of other lists have no counterpart: only equal ones are unchanged.
                    let old = match node.list {
                        ListType::Map => counterpart(node, value, index, before),
                        ListType::Atomic | ListType::Set => before.iter().find(|old| *old == value),
                    };
                    self.walk(&items, value, old, &path.index(index));
                }
            }
            _ => (),
        }
    }

    fn check(&mut self, place: &Place<'_>, rules: &[Json]) {
        for rule in rules {
            if self.spent {
                return;
            }
            if let Some(source) = rule.get("rule").and_then(Json::as_str) {
                self.judge(place, rule, source);
            }
        }
    }

    fn judge(&mut self, place: &Place<'_>, rule: &Json, source: &str) {
        let program = match super::compile(source) {
            Ok(program) => program,
            Err(error) => return self.fault(place, &format!("rule compile error: {error}")),
        };
        let is_optional = rule.get("optionalOldSelf") == Some(&Json::Bool(true));
        let skipped = match (program.is_transition, place.old) {
            (true, None) => !is_optional,
            (false, Some(old)) => old == place.value,
            _ => false,
        };
        if skipped {
            return;
        }
        let mut variables = vec![("self", place.this.clone())];
        if program.is_transition {
            let old = place.before.clone();
            let old = if is_optional { optional(old) } else { old.unwrap_or(Value::Null) };
            variables.push(("oldSelf", old));
        }
        match program.run(&variables, &mut self.budget) {
            Ok(Value::Bool(true)) => (),
            Ok(_) => {
                let message = match rule.get("messageExpression").and_then(Json::as_str) {
                    Some(source) => self.message(place, source, &variables),
                    None => None,
                };
                if !self.spent {
                    let message = message.unwrap_or_else(|| default_message(rule, source));
                    self.causes.push(cause(rule, place, &message));
                }
            }
            Err(fault) => self.failed(place, fault, rule, source),
        }
    }

    fn failed(&mut self, place: &Place<'_>, fault: Fault, rule: &Json, source: &str) {
        let about = rule.get("message").and_then(Json::as_str).filter(|m| !m.is_empty());
        let about = about.unwrap_or(source).trim();
        let text = match &fault {
            Fault::Cost if self.budget.is_spent() => {
                "validation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned()
            }
            Fault::Cost => format!(
                "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {about}"
            ),
            Fault::Failed(text) if text.starts_with("no such overload") => format!(
                "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {about}"
            ),
            Fault::Failed(text) => format!("{text} evaluating rule: {about}"),
        };
        self.spent |= fault == Fault::Cost;
        self.fault(place, &text);
    }

    /// A rule that gave no answer; upstream shows the type where the value would stand.
    fn fault(&mut self, place: &Place<'_>, text: &str) {
        let shown = type_name(place.node, place.value);
        self.causes.push(Cause::invalid(place.path.bracketed(), &shown.into(), text));
    }

    /// What `messageExpression` says; nothing if it fails, is empty or has line breaks.
    fn message(
        &mut self,
        place: &Place<'_>,
        source: &str,
        variables: &dyn Variables,
    ) -> Option<String> {
        match super::compile(source).ok()?.run(variables, &mut self.budget) {
            Ok(Value::String(text)) => {
                let text = text.trim();
                let fits =
                    !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
                fits.then(|| text.to_owned())
            }
            Err(Fault::Cost) => {
                let text = match self.budget.is_spent() {
                    true => "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned(),
                    false => format!("no further validation rules will be run due to call cost exceeds limit for messageExpression: {source:?}"),
                };
                self.spent = true;
                self.fault(place, &text);
                None
            }
            _ => None,
        }
    }
}

fn type_name(node: &Node, value: &Json) -> &'static str {
    match (node.kind, value) {
        (Kind::Integer, _) => "integer",
        (_, Json::Object(_)) => "object",
        (_, Json::Array(_)) => "array",
        (_, Json::String(_)) => "string",
        (_, Json::Bool(_)) => "boolean",
        (_, Json::Number(_)) => "number",
        (_, Json::Null) => "",
    }
}

fn default_message(rule: &Json, source: &str) -> String {
    match rule.get("message").and_then(Json::as_str).filter(|m| !m.is_empty()) {
        Some(message) => message.trim().to_owned(),
        None => format!("failed rule: {}", source.trim()),
    }
}

fn cause(rule: &Json, place: &Place<'_>, message: &str) -> Cause {
    let text = |key: &str| rule.get(key).and_then(Json::as_str);
    let mut field = place.path.bracketed();
    if let Some(below) = text("fieldPath") {
        let below = below.replace("['", "[").replace("']", "]");
        field = if field.is_empty() {
            below.trim_start_matches('.').to_owned()
        } else {
            field + &below
        };
    }
    let value = place.value;
    match text("reason") {
        Some("FieldValueForbidden") => Cause::forbidden(field, message),
        Some("FieldValueRequired") => Cause::required(field, message),
        // Recorded: objects and lists are not shown.
        Some("FieldValueDuplicate") if value.is_object() || value.is_array() => {
            Cause { reason: Reason::Duplicate, field, message: "Duplicate value".to_owned() }
        }
        Some("FieldValueDuplicate") => Cause::duplicate(field, value),
        _ if value.is_object() || value.is_array() => {
            Cause { reason: Reason::Invalid, field, message: format!("Invalid value: {message}") }
        }
        _ => Cause::invalid(field, value, message),
    }
}
