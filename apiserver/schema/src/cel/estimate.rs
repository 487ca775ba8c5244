//! Checks the rules of a schema: whether they compile against their part of it, and what they cost.
//!
//! Source: upstream's `apiextensions-apiserver/pkg/apis/apiextensions/validation/cel_validation.go`.

use std::sync::Arc;

use super::ast::Expr;
use super::check::{Names, Wrong, check};
use super::known;
use super::types::{self, Type};
use super::{Program, compile};
use crate::Schema;
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
    let mut names: Names = vec![("self".to_owned(), this), ("oldSelf".to_owned(), old)];
    let cost = cost_of(source, &program, &mut names, wanted)?;
    Ok(cost.saturating_mul(cardinality.unwrap_or_else(|| types::most(node))))
}

fn cost_of(
    source: &str,
    program: &Program,
    names: &mut Names,
    wanted: &str,
) -> Result<u64, String> {
    let found = check(&program.expression, names)
        .map_err(|wrong| format!("compilation failed: {}", located(source, &wrong)))?;
    match found.of {
        Type::Dyn => Ok(found.cost.0),
        of if of.to_string() == wanted => Ok(found.cost.0),
        _ => Err(format!("must evaluate to a {wanted}")),
    }
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

/// What an expression of a webhook or policy may name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// The type of `object` and `oldObject`; none if it is known only when the expression runs.
    pub object: Option<&'a Schema>,
    /// The policy's own variables that come before the expression: names and expressions. None where an expression
    /// cannot have any.
    pub variables: Option<&'a [(&'a str, &'a str)]>,
    /// Whether there is `params`.
    pub has_params: bool,
    /// Whether there is `authorizer`.
    pub has_authorizer: bool,
}

impl Scope<'_> {
    fn names(&self) -> Names {
        // Metadata is shown as a whole to policies.
        let object = self.object.map_or(Type::Dyn, |schema| Type::of(&schema.root, false));
        let mut known = vec![
            ("request", known::REQUEST),
            ("namespaceObject", known::NAMESPACE),
            ("object", object.clone()),
            ("oldObject", object),
        ];
        let mut add = |is_there: bool, name| known.extend(is_there.then_some((name, Type::Dyn)));
        add(self.has_params, "params");
        add(self.has_authorizer, "authorizer");
        add(self.has_authorizer, "authorizer.requestResource");
        add(self.variables.is_some(), "variables");
        let mut names: Names = known.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
        for (name, source) in self.variables.unwrap_or_default() {
            let found = compile(source).ok().and_then(|p| check(&p.expression, &mut names).ok());
            names.push((format!("variables.{name}"), found.map_or(Type::Dyn, |found| found.of)));
        }
        names
    }

    /// Checks an expression of this scope; `wanted` are the types that it may have, all if there are none.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub fn check(&self, source: &str, wanted: &[&str]) -> Result<(), String> {
        let program = compile(source)?;
        let found = check(&program.expression, &mut self.names())
            .map_err(|wrong| format!("compilation failed: {}", located(source, &wrong)))?;
        let of = found.of.to_string();
        // Of functions little is known, so what they make may be what is wanted.
        let is_literal = matches!(&program.expression, Expr::List(entries) if entries.is_empty());
        let is_known = is_literal || self.is_plain(&program.expression);
        let unknown = of.contains("dyn") && !is_known;
        match wanted {
            _ if unknown || wanted.contains(&&*of) => Ok(()),
            [] => Ok(()),
            [one] => Err(format!("must evaluate to {one} but got {of}")),
            many => Err(format!("must evaluate to one of [{}] but got {of}", many.join(" "))),
        }
    }

    /// Whether an expression only picks a part of a variable, so that its type is all that is known of it.
    fn is_plain(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Select { operand, optional: false, .. }
            | Expr::Index { operand, optional: false, .. } => self.is_plain(operand),
            Expr::Var(name) => match name.strip_prefix("variables.") {
                Some(own) => {
                    let mut known = self.variables.unwrap_or_default().iter();
                    let source = known.find(|(name, _)| *name == own).map(|(_, source)| *source);
                    source
                        .and_then(|source| compile(source).ok())
                        .is_some_and(|program| self.is_plain(&program.expression))
                }
                None => true,
            },
            _ => false,
        }
    }
}

/// Checks an expression that selects devices; answers what it costs at most.
///
/// # Errors
/// What is wrong with it, with its place.
pub fn device_selector(source: &str) -> Result<u64, String> {
    let program = compile(source)?;
    let mut names = vec![("device".to_owned(), known::DEVICE)];
    let found = check(&program.expression, &mut names)
        .map_err(|wrong| format!("compilation failed: {}", located(source, &wrong)))?;
    match found.of {
        Type::Dyn | Type::Bool => Ok(found.cost.0),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
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
