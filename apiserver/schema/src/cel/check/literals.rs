//! Literals that a function would refuse.

use super::Checker;
use crate::cel::Value;
use crate::cel::ast::Expr;

impl<'a> Checker<'a, '_> {
    /// Literals that a function would refuse.
    pub(super) fn literals(&mut self, expr: &'a Expr) {
        if let Expr::Call { function, args, .. } = expr {
            let refused = match (&**function, &args[..]) {
                ("matches", [.., part @ Expr::Literal(Value::String(pattern))]) => {
                    crate::regexps::fault(pattern).map(|_| part)
                }
                ("duration" | "timestamp", [part @ Expr::Literal(Value::String(_))]) => {
                    crate::cel::constant(expr).and_then(Result::err).map(|_| part)
                }
                _ => None,
            };
            if let Some(part) = refused {
                self.wrong(part, format!("invalid {function} argument"));
            }
        }
        expr.children(&mut |child| self.literals(child));
    }
}
