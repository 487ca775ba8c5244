//! Checks the rules of a schema: whether they compile against their part of it, and what they cost.
//!
//! Source: upstream's `apiextensions-apiserver/pkg/apis/apiextensions/validation/cel_validation.go`.

use std::sync::Arc;

use super::check::{Checked, Globals, Places, check};
use super::syntax::located;
use super::types::{self, Type};
use super::{Program, compile};
use crate::node::Node;

/// What one rule may cost, by its estimate.
pub(crate) const PER_RULE: u64 = 10_000_000;
/// What all rules of a definition may cost.
pub(crate) const PER_SCHEMA: u64 = 100_000_000;

/// How often a part of a schema can occur in one object; none if nothing bounds it.
pub(crate) type Cardinality = Option<u64>;

/// What a rule of one part of a schema costs at most.
///
/// # Errors
/// What is wrong with the rule, in upstream's words.
pub(crate) fn rule(
    source: &str,
    wanted: &str,
    node: &Arc<Node>,
    is_root: bool,
    has_optional_old: bool,
    cardinality: Cardinality,
) -> Result<u64, String> {
    let program = compile(source)?;
    let this = Type::of(node, is_root);
    let old = if has_optional_old { Type::Optional(this.clone().into()) } else { this.clone() };
    let names = Globals::from([("self".to_owned(), this), ("oldSelf".to_owned(), old)]);
    let cost = cost_of(source, &program, &names, wanted)?;
    Ok(cost.saturating_mul(cardinality.unwrap_or_else(|| types::most(node))))
}

fn cost_of(source: &str, program: &Program, names: &Globals, wanted: &str) -> Result<u64, String> {
    let found = checked(source, program, names)?;
    match found.of.to_string() == wanted {
        true => Ok(found.cost.0),
        false => Err(format!("must evaluate to a {wanted}")),
    }
}

/// The type and cost of an expression.
///
/// # Errors
/// What is wrong with it, each with its place.
pub(super) fn checked(source: &str, program: &Program, names: &Globals) -> Result<Checked, String> {
    let (found, wrong) = check(&program.expression, names);
    if wrong.is_empty() {
        return match super::refused(&program.expression) {
            Some(fault) => Err(format!("program instantiation failed: {fault}")),
            None => Ok(found),
        };
    }
    let places = Places::of(source, &program.expression);
    let place = |wrong: &super::check::Wrong<'_>| match wrong.field {
        Some(index) => places.field(wrong.part, index),
        None => places.part(wrong.part),
    };
    let mut faults: Vec<_> = wrong.iter().map(|wrong| (place(wrong), &*wrong.text)).collect();
    faults.sort_by_key(|(at, _)| *at);
    let faults: Vec<_> = faults.iter().map(|(at, text)| located(source, text, *at)).collect();
    Err(format!("compilation failed: {}", faults.join("\n")))
}

/// What the parser says, with its place if that is the type of an object.
pub(super) fn placed(source: &str, text: String) -> String {
    let name =
        text.strip_prefix("undeclared reference to '").and_then(|rest| rest.split_once('\''));
    let at = name.and_then(|(name, _)| Some(source.find(&format!("{name}{{"))? + name.len()));
    match at {
        Some(at) => located(source, &text, at),
        None => text,
    }
}

/// By how much a budget is exceeded, in upstream's words.
pub(crate) fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
