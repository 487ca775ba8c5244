//! Calls of functions, and of macros that make no loop.

use std::num::Saturating;

use super::super::Value;
use super::super::ast::{Expr, undeclared};
use super::super::types::Type;
use super::formats::Format;
use super::{Checked, Checker, Cost, ONE, Wrong, cost, declared};

impl<'a> Checker<'a, '_> {
    pub(super) fn call(
        &mut self,
        function: &str,
        target: Option<&'a Expr>,
        exprs: &'a [Expr],
        part: &'a Expr,
    ) -> Checked {
        let template = target;
        let target = target.map(|target| self.check(target));
        if let (Some(target), [Expr::Var(name), body]) = (&target, exprs)
            && let Some(found) = self.body(function, target, name, body, part)
        {
            return found;
        }
        let args: Vec<Checked> = match (function, exprs) {
            ("format", [Expr::List(entries)]) => vec![self.formatted(template, entries, part)],
            _ => exprs.iter().map(|arg| self.check(arg)).collect(),
        };
        if declared::overloads(function).is_none() {
            self.no_function(function, part);
            return Checked::made(Type::Dyn, ONE);
        }
        let own = cost::call(function, target.as_ref(), &args, exprs);
        let is_method = target.is_some();
        let values = || target.iter().chain(&args);
        let cost = values().map(|value| value.cost).sum::<Cost>() + Saturating(own.cost);
        let types = values().map(|value| value.of.clone()).collect();
        let of = self.resolve(function, is_method, types, part);
        let made = Checked::made(of, cost);
        match own.size {
            Some(size) => made.sized(size),
            None => made,
        }
    }

    /// The values of a format, which may be of several types.
    fn formatted(
        &mut self,
        template: Option<&'a Expr>,
        entries: &'a [(Expr, bool)],
        part: &'a Expr,
    ) -> Checked {
        let outside = std::mem::replace(&mut self.mixed, true);
        let (list, entries) = self.list_of(entries);
        self.mixed = outside;
        if let Some(Expr::Literal(Value::String(template))) = template {
            self.formats.push(Format { template, entries, part });
        }
        list
    }

    /// Notes that there is no such function, nor what may look like its namespace.
    fn no_function(&mut self, function: &str, part: &'a Expr) {
        let (space, name) = function.split_once('.').unzip();
        if let Some(space) = space {
            self.wrong.push(Wrong { text: undeclared(space), part, field: Some(0) });
        }
        self.wrong(part, undeclared(name.unwrap_or(function)));
    }

    /// A macro with a body over one variable that is no loop.
    fn body(
        &mut self,
        function: &str,
        target: &Checked,
        name: &str,
        body: &'a Expr,
        part: &'a Expr,
    ) -> Option<Checked> {
        let (item, size) = match (function, &target.of) {
            ("optMap" | "optFlatMap", Type::Optional(inner)) => {
                (Checked::made((**inner).clone(), ONE), 1)
            }
            ("sortBy", Type::List(inner, _)) if target.is_part => {
                (Checked::part((**inner).clone(), ONE), target.size)
            }
            ("sortBy", Type::List(inner, _)) => {
                (Checked::made((**inner).clone(), ONE).sized(self.root()), target.size)
            }
            ("optMap" | "optFlatMap" | "sortBy", _) => (Checked::made(Type::Dyn, ONE), 1),
            _ => return None,
        };
        self.locals.push((name.to_owned(), item));
        let body = self.check(body);
        self.locals.pop();
        if function != "sortBy" {
            // The macro asks whether there is a value, and binds it.
            let cost = target.cost + target.cost + body.cost + Saturating(13);
            let of = if function == "optMap" { Type::Optional(body.of.into()) } else { body.of };
            return Some(Checked::made(of, cost));
        }
        // The macro binds the list, and makes a list of the keys.
        let keys = Saturating(size) * (body.cost + Saturating(12));
        let own = cost::sort(size, &body.of);
        let cost = target.cost + keys + Saturating(own.cost) + Saturating(23);
        self.resolve("sort", true, vec![Type::List(body.of.into(), size)], part);
        Some(Checked::known(target.of.clone(), cost, own.size.unwrap_or(size)))
    }
}
