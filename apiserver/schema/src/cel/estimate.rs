//! Checks the rules of a schema: whether they compile against their part of it, and what they cost.
//!
//! Source: upstream's `apiextensions-apiserver/pkg/apis/apiextensions/validation/cel_validation.go`.

use std::sync::Arc;

use super::check::{Checked, Globals, Names, Wrong, check};
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
    match found.of {
        Type::Dyn => Ok(found.cost.0),
        of if of.to_string() == wanted => Ok(found.cost.0),
        _ => Err(format!("must evaluate to a {wanted}")),
    }
}

/// The type and cost of an expression.
///
/// # Errors
/// What is wrong with it, with its place.
pub(super) fn checked(source: &str, program: &Program, names: &Globals) -> Result<Checked, String> {
    check(&program.expression, &mut Names::new(names))
        .map_err(|wrong| format!("compilation failed: {}", located(source, &wrong)))
}

/// What the parser says, with its place if that is the type of an object.
pub(super) fn placed(source: &str, text: String) -> String {
    let name =
        text.strip_prefix("undeclared reference to '").and_then(|rest| rest.split_once('\''));
    match name.map(|(name, _)| format!("{name}{{")) {
        Some(at) => located(source, &Wrong { text, at }),
        None => text,
    }
}

/// An error with the place that it is about.
fn located(source: &str, wrong: &Wrong) -> String {
    let at = place(source, &wrong.at);
    let line = source[..at].matches('\n').count();
    let start = source[..at].rfind('\n').map_or(0, |n| n + 1);
    let column = source[start..at].chars().count();
    let text = source.lines().nth(line).unwrap_or_default();
    format!(
        "ERROR: <input>:{}:{}: {}\n | {text}\n | {}^",
        line + 1,
        column + 1,
        wrong.text,
        ".".repeat(column)
    )
}

/// Where a word stands in the source, as a whole word; the start if it cannot be found.
fn place(source: &str, word: &str) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |at: usize| {
        let before = source[..at].chars().next_back().is_some_and(is_part);
        let after = source[at + word.len()..].chars().next().is_some_and(is_part);
        let starts = word.chars().next().is_some_and(is_part);
        let ends = word.chars().next_back().is_some_and(is_part);
        !(starts && before || ends && after)
    };
    let found = source.match_indices(word).map(|(at, _)| at);
    if word.is_empty() {
        return 0;
    }
    let Some(at) = found.into_iter().find(|at| whole(*at)) else {
        // The text may stand in the other quotes.
        let quoted = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
        return quoted.and_then(|text| source.find(&format!("'{text}'"))).unwrap_or(0);
    };
    // A call is placed at its bracket, a field that is set at its colon.
    let is_ended = word.len() > 1 && word.ends_with(['(', '{', ':']);
    if is_ended { at + word.len() - 1 } else { at }
}

/// By how much a budget is exceeded, in upstream's words.
pub(crate) fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}").trim_end_matches('0').to_owned() + "x"
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
