//! Literals that a function would refuse.

use super::Checker;
use crate::cel::Value;
use crate::cel::ast::Expr;

impl<'a> Checker<'a, '_> {
    /// Literals that a function would refuse.
    pub(super) fn literals(&mut self, expr: &'a Expr) {
        if let Expr::Call { function, target, args } = expr {
            let text = |arg: Option<&'a Expr>| match arg {
                Some(part @ Expr::Literal(Value::String(text))) => Some((part, text)),
                _ => None,
            };
            let (argument, is_bad): (_, fn(&str) -> bool) = match &**function {
                "matches" => (text(args.last()), |text| crate::regexps::fault(text).is_some()),
                "duration" | "timestamp" => (text(args.first()), |_| false),
                _ => (None, |_| false),
            };
            if let Some((part, argument)) = argument
                && (is_bad(argument) || !crate::cel::converts(function, argument))
            {
                self.wrong(part, format!("invalid {function} argument"));
            }
            if let ("format", Some((_, template))) = (&**function, text(target.as_deref()))
                && let Some(fault) = clause(template)
            {
                self.wrong(expr, format!("could not parse formatting clause: {fault}"));
            }
        }
        expr.children(&mut |child| self.literals(child));
    }
}

/// What is wrong with the clauses of a format.
fn clause(template: &str) -> Option<String> {
    let mut rest = template;
    while let Some((_, clause)) = rest.split_once('%') {
        let precise = clause.strip_prefix('.').unwrap_or(clause);
        let verb = precise.trim_start_matches(|c: char| c.is_ascii_digit());
        let Some(letter) = verb.chars().next() else {
            return Some("unexpected end of string".to_owned());
        };
        if !"%sdfebxXo".contains(letter) {
            return Some(format!("unrecognized formatting clause \"{letter}\""));
        }
        rest = &verb[letter.len_utf8()..];
    }
    None
}
