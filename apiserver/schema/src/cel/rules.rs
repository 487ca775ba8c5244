//! `x-kubernetes-validations`: rules beside the parts of a schema.

use kube_cel::cel::Value;
use serde_json::Value as Json;

use super::value::convert;
use crate::cause::{Cause, Reason};
use crate::node::{Edge, ListType, Node};
use crate::path::Path;
use crate::validate::counterpart;

/// Runs all rules of a schema.
///
/// Rules that speak of `oldSelf` run only where there is an old value; others do not judge
/// again what did not change (KEP-4008).
pub(crate) fn validate(node: &Node, value: &Json, old: Option<&Json>) -> Vec<Cause> {
    let mut causes = Vec::new();
    walk(node, value, old, &Path::ROOT, &mut causes);
    causes
}

fn walk(node: &Node, value: &Json, old: Option<&Json>, path: &Path<'_>, causes: &mut Vec<Cause>) {
    if !node.has_cel || value.is_null() && node.nullable {
        return;
    }
    let rules = node.rules.as_deref().map(|rules| rules.cel.as_slice()).unwrap_or_default();
    if !rules.is_empty() {
        check(node, rules, value, old, path, causes);
    }
    let unordered = node.list != ListType::Map;
    match value {
        Json::Object(map) => {
            for (name, value) in map {
                let old = old.and_then(|old| old.get(name));
                match (node.field(name), &node.items) {
                    (Some(field), _) => {
                        walk(&field.edge.node(), value, old, &path.field(name), causes);
                    }
                    (None, Some(items)) => {
                        walk(&items.node(), value, old, &path.field(name), causes);
                    }
                    (None, None) => (),
                }
            }
        }
        Json::Array(list) => {
            let Some(items) = node.items.as_ref().map(Edge::node) else { return };
            let before = old.and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
            for (index, value) in list.iter().enumerate() {
                // Entries of other lists have no counterpart: only equal ones are unchanged.
                let old = match unordered {
                    true => before.iter().find(|old| *old == value),
                    false => counterpart(node, value, index, before),
                };
                walk(&items, value, old, &path.index(index), causes);
            }
        }
        _ => (),
    }
}

fn check(
    node: &Node,
    rules: &[Json],
    value: &Json,
    old: Option<&Json>,
    path: &Path<'_>,
    causes: &mut Vec<Cause>,
) {
    let mut size = 0;
    let this = convert(Some(node), value, &mut size);
    let before = old.map(|old| convert(Some(node), old, &mut size));
    for rule in rules {
        let text = |key: &str| rule.get(key).and_then(Json::as_str);
        let Some(source) = text("rule") else { continue };
        let program = match super::compile(source) {
            Ok(program) => program,
            Err(error) => {
                causes.push(Cause::invalid(path.bracketed(), &Json::Null, &error));
                continue;
            }
        };
        let optional = rule.get("optionalOldSelf") == Some(&Json::Bool(true));
        let skipped = match (program.is_transition, old) {
            (true, None) => !optional,
            (false, Some(old)) => old == value,
            _ => false,
        };
        if skipped {
            continue;
        }
        let mut variables = vec![("self", this.clone())];
        if program.is_transition {
            variables.push(("oldSelf", old_self(before.as_ref(), optional)));
        }
        let fallback = || match text("message") {
            Some(message) => message.trim().to_owned(),
            None => format!("failed rule: {}", source.trim()),
        };
        match program.run(&variables, size) {
            Ok(Value::Bool(true)) => (),
            Ok(_) => {
                let message = text("messageExpression")
                    .and_then(|source| message(source, &variables, size))
                    .unwrap_or_else(fallback);
                causes.push(cause(rule, value, path, &message));
            }
            Err(error) => {
                let detail = format!("{error} evaluating rule: {}", fallback());
                causes.push(cause(rule, value, path, &detail));
            }
        }
    }
}

/// `oldSelf`, wrapped where the rule also runs without one.
fn old_self(old: Option<&Value>, optional: bool) -> Value {
    if !optional {
        return old.cloned().unwrap_or(Value::Null);
    }
    let (source, variables) = match old {
        Some(old) => ("optional.of(x)", vec![("x", old.clone())]),
        None => ("optional.none()", Vec::new()),
    };
    super::compile(source).and_then(|program| program.run(&variables, 1)).unwrap_or(Value::Null)
}

/// What `messageExpression` says; nothing if it fails, is empty or has line breaks.
fn message(source: &str, variables: &[(&str, Value)], size: u64) -> Option<String> {
    match super::compile(source).ok()?.run(variables, size).ok()? {
        Value::String(text) if !text.trim().is_empty() && !text.contains('\n') => {
            Some(text.trim().to_owned())
        }
        _ => None,
    }
}

fn cause(rule: &Json, value: &Json, path: &Path<'_>, message: &str) -> Cause {
    let text = |key: &str| rule.get(key).and_then(Json::as_str);
    let mut field = path.bracketed();
    if let Some(below) = text("fieldPath") {
        let below = below.replace("['", "[").replace("']", "]");
        field = if field.is_empty() {
            below.trim_start_matches('.').to_owned()
        } else {
            field + &below
        };
    }
    match text("reason") {
        Some("FieldValueForbidden") => Cause::forbidden(field, message),
        Some("FieldValueRequired") => Cause::required(field, message),
        Some("FieldValueDuplicate") => Cause::duplicate(field, value),
        // Recorded: objects and lists are not shown.
        _ if value.is_object() || value.is_array() => {
            Cause { reason: Reason::Invalid, field, message: format!("Invalid value: {message}") }
        }
        _ => Cause::invalid(field, value, message),
    }
}
