//! Finds out, before an expression runs, whether it can and what it would cost at most.
//!
//! Source: `cel-go/checker/{checker,cost}.go` and upstream's `apiserver/pkg/cel/library/cost.go`.

mod cost;
mod declared;
mod fit;
mod literals;
mod places;

use std::collections::HashMap;
use std::num::Saturating;

use super::Value;
use super::ast::{Binary, Expr, Loop, undeclared};
use super::types::Type;
use fit::{answer, fits, same, wider};
pub(super) use places::Places;

/// Costs stay at the top when they reach it: they only have to be too large then.
type Cost = Saturating<u64>;

const ONE: Cost = Saturating(1);

/// A type, and the most that finding the value costs.
pub(super) struct Checked {
    pub(super) of: Type,
    pub(super) cost: Cost,
}

/// What is wrong with a part of an expression.
pub(super) struct Wrong<'a> {
    pub(super) text: String,
    pub(super) part: &'a Expr,
    /// The field of an object that it is about.
    pub(super) field: Option<usize>,
}

/// The names that a whole expression sees, and their types.
pub(super) type Globals = HashMap<String, Type>;

/// Checks an expression; what is wrong is in no order.
pub(super) fn check<'a>(expr: &'a Expr, globals: &Globals) -> (Checked, Vec<Wrong<'a>>) {
    let mut checker = Checker { globals, locals: Vec::new(), mixed: false, wrong: Vec::new() };
    let checked = checker.check(expr);
    if checker.wrong.is_empty() {
        checker.literals(expr);
    }
    (checked, checker.wrong)
}

struct Checker<'a, 'g> {
    globals: &'g Globals,
    /// The variables of the loops around; inner ones hide outer ones and globals.
    locals: Vec<(String, Type)>,
    /// Whether lists and maps may have entries of several types here.
    mixed: bool,
    wrong: Vec<Wrong<'a>>,
}

fn checked(of: Type, cost: Cost) -> Checked {
    Checked { of, cost }
}

/// A tenth of a size: the cost of looking at a text.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

impl<'a> Checker<'a, '_> {
    /// Notes what is wrong; of such a part nothing else is known.
    fn wrong(&mut self, part: &'a Expr, text: String) -> Type {
        self.wrong.push(Wrong { text, part, field: None });
        Type::Dyn
    }

    fn find(&self, name: &str) -> Option<&Type> {
        let local = self.locals.iter().rev().find(|(known, _)| known == name);
        local.map(|(_, of)| of).or_else(|| self.globals.get(name))
    }

    fn check(&mut self, expr: &'a Expr) -> Checked {
        match expr {
            Expr::Literal(value) => checked(literal(value), Saturating(0)),
            Expr::Var(name) => checked(self.variable(name, expr), ONE),
            Expr::Select { operand, field, test, optional } => {
                let inner = self.check(operand);
                let cost = inner.cost + Saturating(u64::from(!test));
                let found = self.select(inner.of, field, expr, *optional);
                checked(if *test { Type::Bool } else { found }, cost)
            }
            Expr::Index { operand, key, optional } => {
                let name = if *optional { "_[?_]" } else { "_[_]" };
                let (operand, key) = (self.check(operand), self.check(key));
                let cost = operand.cost + key.cost + ONE;
                checked(self.operator(name, vec![operand.of, key.of], expr), cost)
            }
            Expr::And(a, b) | Expr::Or(a, b) => {
                let cost = self.boolean(a) + self.boolean(b);
                checked(Type::Bool, cost)
            }
            Expr::Not(a) => {
                let inner = self.check(a);
                checked(self.operator("!_", vec![inner.of], expr), inner.cost + ONE)
            }
            Expr::NotFalse(a) => checked(Type::Bool, self.check(a).cost),
            Expr::If(parts) => {
                let [test, then, other] = [0, 1, 2].map(|n| self.check(&parts[n]));
                let cost = test.cost + then.cost.max(other.cost);
                let both = wider(then.of.clone(), other.of.clone());
                let of = self.operator("_?_:_", vec![test.of, then.of, other.of], expr);
                checked(if same(&of, &both) { both } else { of }, cost)
            }
            Expr::Negate(a) => {
                let inner = self.check(a);
                checked(self.operator("-_", vec![inner.of], expr), inner.cost + ONE)
            }
            Expr::Binary(operator, a, b) => {
                let (a, b) = (self.check(a), self.check(b));
                let cost = a.cost + b.cost;
                let (made, own) = cost::binary(*operator, &a.of, &b.of);
                let of = self.operator(name(*operator), vec![a.of, b.of], expr);
                checked(made.filter(|made| same(made, &of)).unwrap_or(of), cost + Saturating(own))
            }
            Expr::List(entries) => self.list(entries),
            Expr::Map(entries) => self.map(entries),
            Expr::Object(name, fields) => self.object(name, fields, expr),
            Expr::Loop(inner) => self.repeat(inner),
            Expr::Call { function, target, args } => {
                self.call(function, target.as_deref(), args, expr)
            }
        }
    }

    fn variable(&mut self, name: &str, part: &'a Expr) -> Type {
        if let Some(of) = self.find(name) {
            return of.clone();
        }
        if let Some(of) = named(name) {
            return Type::Itself(of.into());
        }
        if super::is_reserved(name) {
            return self.wrong(part, format!("reserved identifier: {name}"));
        }
        match name.strip_prefix("variables.") {
            Some(own) if self.find("variables").is_some() => {
                self.wrong(part, format!("undefined field '{own}'"))
            }
            Some(_) => {
                // The name stands before the dot of its part.
                self.wrong.push(Wrong { text: undeclared("variables"), part, field: Some(0) });
                Type::Dyn
            }
            None => self.wrong(part, undeclared(name)),
        }
    }

    fn select(&mut self, operand: Type, field: &str, part: &'a Expr, optional: bool) -> Type {
        let (target, is_optional) = match operand {
            Type::Optional(inner) => (*inner, true),
            other => (other, optional),
        };
        let found = match field_of(&target, field) {
            Ok(found) => found,
            Err(text) => self.wrong(part, text),
        };
        if is_optional { Type::Optional(found.into()) } else { found }
    }

    fn boolean(&mut self, part: &'a Expr) -> Cost {
        let inner = self.check(part);
        self.expect(&Type::Bool, &inner.of, part);
        inner.cost
    }

    fn expect(&mut self, expected: &Type, found: &Type, part: &'a Expr) {
        if !fits(expected, found, &mut Vec::new()) {
            let (expected, found) = (expected.shown(), found.shown());
            self.wrong(part, format!("expected type '{expected}' but found '{found}'"));
        }
    }

    /// What a call answers by the declarations of the function.
    fn operator(&mut self, name: &str, types: Vec<Type>, part: &'a Expr) -> Type {
        self.resolve(name, false, types, part)
    }

    fn resolve(&mut self, name: &str, is_method: bool, types: Vec<Type>, part: &'a Expr) -> Type {
        let overloads = declared::overloads(name).unwrap_or_default();
        if let Some(of) = answer(overloads, is_method, &types) {
            return of;
        }
        let shown: Vec<String> = types.iter().map(Type::shown).collect();
        let applied = match (is_method, &shown[..]) {
            (true, [receiver, args @ ..]) => format!("{receiver}.({})", args.join(", ")),
            (_, args) => format!("({})", args.join(", ")),
        };
        self.wrong(part, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    /// The type of one more entry beside those before it.
    fn join(&mut self, known: Option<Type>, next: Type, part: &'a Expr) -> Type {
        match known {
            None => next,
            Some(known) if self.mixed || fits(&known, &next, &mut Vec::new()) => wider(known, next),
            Some(known) => {
                self.expect(&known, &next, part);
                known
            }
        }
    }

    /// An entry that is left out if it is an empty optional.
    fn entry(&mut self, part: &'a Expr, is_optional: bool) -> Checked {
        let inner = self.check(part);
        let of = match (is_optional, inner.of) {
            (true, Type::Optional(of)) => *of,
            (true, of) => {
                self.expect(&Type::Optional(of.clone().into()), &of, part);
                of
            }
            (false, of) => of,
        };
        checked(of, inner.cost)
    }

    fn list(&mut self, entries: &'a [(Expr, bool)]) -> Checked {
        let (mut cost, mut item) = (Saturating(10), None);
        for (value, is_optional) in entries {
            let entry = self.entry(value, *is_optional);
            cost += entry.cost;
            item = Some(self.join(item, entry.of, value));
        }
        let item = item.unwrap_or(Type::Free);
        checked(Type::List(item.into(), entries.len() as u64), cost)
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)]) -> Checked {
        let (mut cost, mut types) = (Saturating(30), None);
        for (key, value, is_optional) in entries {
            let of_key = self.check(key);
            let entry = self.entry(value, *is_optional);
            cost += entry.cost;
            let (before_key, before): (Option<Type>, Option<Type>) = types.unzip();
            types =
                Some((self.join(before_key, of_key.of, key), self.join(before, entry.of, value)));
        }
        let (key, value) = types.unwrap_or((Type::Free, Type::Free));
        checked(Type::Map([key, value].into(), entries.len() as u64), cost)
    }

    fn object(
        &mut self,
        name: &std::sync::Arc<str>,
        fields: &'a [(super::ast::Name, Expr, bool)],
        part: &'a Expr,
    ) -> Checked {
        let mut cost = Saturating(40);
        for (index, (field, value, is_optional)) in fields.iter().enumerate() {
            let found = self.entry(value, *is_optional);
            cost += found.cost;
            if **name == *"JSONPatch"
                && let Err(text) = operand(field, &found.of)
            {
                self.wrong.push(Wrong { text, part, field: Some(index) });
            }
        }
        checked(Type::Made(name.clone()), cost)
    }

    fn repeat(&mut self, inner: &'a Loop) -> Checked {
        let range = self.check(&inner.range);
        let (item, second, n) = match &range.of {
            Type::List(item, n) if inner.second.is_some() => (Type::Int, (**item).clone(), *n),
            Type::List(item, n) => ((**item).clone(), Type::Dyn, *n),
            Type::Map(entry, n) => (entry[0].clone(), entry[1].clone(), *n),
            Type::Dyn | Type::Free => (Type::Dyn, Type::Dyn, range.of.size()),
            other => {
                let text = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.shown()
                );
                self.wrong(&inner.range, text);
                (Type::Dyn, Type::Dyn, 1)
            }
        };
        let init = self.check(&inner.init);
        let before = self.locals.len();
        self.locals.push((inner.accumulator.to_string(), init.of.clone()));
        self.locals.push((inner.item.to_string(), item));
        if let Some(name) = &inner.second {
            self.locals.push((name.to_string(), second));
        }
        let condition = self.check(&inner.condition);
        let step = self.check(&inner.step);
        self.locals.truncate(before);
        let once = condition.cost + step.cost + ONE;
        // What is gathered has as many entries as there were turns at most.
        let gathered = match step.of {
            Type::List(item, _) => Type::List(item, n),
            Type::Map(entry, _) => Type::Map(entry, n),
            _ => init.of,
        };
        self.locals.push((inner.accumulator.to_string(), gathered));
        let of = self.check(&inner.result).of;
        self.locals.pop();
        checked(of, Saturating(n) * once + range.cost + init.cost)
    }

    fn call(
        &mut self,
        function: &str,
        target: Option<&'a Expr>,
        args: &'a [Expr],
        part: &'a Expr,
    ) -> Checked {
        let from_loop = matches!(target, Some(Expr::Loop(_)));
        let is_method = target.is_some();
        let target = target.map(|target| self.check(target));
        if let (Some(target), [Expr::Var(name), body]) = (&target, args)
            && let Some(found) = self.body(function, target, name, body, part)
        {
            return found;
        }
        if declared::overloads(function).is_none() {
            let (text, field) = match function.split_once('.') {
                Some((space, _)) => (undeclared(space), Some(0)),
                None => (undeclared(function), None),
            };
            self.wrong.push(Wrong { text, part, field });
            return checked(Type::Dyn, ONE);
        }
        let mut cost = target.as_ref().map_or(Saturating(0), |target| target.cost);
        let mut types: Vec<Type> = target.into_iter().map(|target| target.of).collect();
        let outside = self.mixed;
        self.mixed |= function == "format";
        for arg in args {
            let arg = self.check(arg);
            cost += arg.cost;
            types.push(arg.of);
        }
        self.mixed = outside;
        let (sized, own) = match (function, from_loop) {
            // Of what a loop makes upstream does not know how large the entries are.
            ("join", true) => (Type::TEXT, u64::MAX),
            _ => cost::call(function, &types),
        };
        let of = self.resolve(function, is_method, types, part);
        checked(if same(&sized, &of) { sized } else { of }, (cost + Saturating(own)).max(ONE))
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
        let inner = match (function, &target.of) {
            ("optMap" | "optFlatMap", Type::Optional(inner)) => {
                cost::unsized_text((**inner).clone())
            }
            ("sortBy", Type::List(inner, _)) => (**inner).clone(),
            ("optMap" | "optFlatMap" | "sortBy", _) => Type::Dyn,
            _ => return None,
        };
        self.locals.push((name.to_owned(), inner));
        let body = self.check(body);
        self.locals.pop();
        let cost = target.cost + body.cost;
        Some(match function {
            "optMap" => checked(Type::Optional(body.of.into()), cost),
            "optFlatMap" => checked(body.of, cost),
            _ => {
                let keys = Type::List(body.of.into(), target.of.size());
                self.resolve("sort", true, vec![keys], part);
                checked(target.of.clone(), Saturating(target.of.size()) * cost)
            }
        })
    }
}

/// The types that have a name.
fn named(name: &str) -> Option<Type> {
    Some(match name {
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "bool" => Type::Bool,
        "string" => Type::TEXT,
        "bytes" => Type::Bytes(0),
        "list" => Type::List(Type::Dyn.into(), 0),
        "map" => Type::Map([Type::Dyn, Type::Dyn].into(), 0),
        "null_type" => Type::Null,
        "type" => Type::Itself(Type::Dyn.into()),
        "Object" | "JSONPatch" => Type::Made(name.into()),
        _ => return None,
    })
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::UInt(_) => Type::Uint,
        Value::Float(_) => Type::Double,
        Value::String(text) => Type::Text(text.len() as u64),
        Value::Bytes(bytes) => Type::Bytes(bytes.len() as u64),
        _ => Type::Dyn,
    }
}

fn name(operator: Binary) -> &'static str {
    match operator {
        Binary::Equal => "_==_",
        Binary::NotEqual => "_!=_",
        Binary::Less => "_<_",
        Binary::LessEqual => "_<=_",
        Binary::Greater => "_>_",
        Binary::GreaterEqual => "_>=_",
        Binary::In => "@in",
        Binary::Add => "_+_",
        Binary::Subtract => "_-_",
        Binary::Multiply => "_*_",
        Binary::Divide => "_/_",
        Binary::Modulo => "_%_",
    }
}

/// The type of a field, or why there is none.
fn field_of(operand: &Type, field: &str) -> Result<Type, String> {
    let undefined = || Err(format!("undefined field '{field}'"));
    match operand {
        Type::Dyn | Type::Open(_) | Type::Free | Type::Made(_) => Ok(Type::Dyn),
        Type::Map(entry, _) => Ok(entry[1].clone()),
        Type::Object(node, is_resource) => {
            if *is_resource && field == "metadata" {
                return Ok(Type::Metadata);
            }
            // Words that CEL keeps for itself may be written as they are too.
            let is_it = |name: &str| name == field || super::value::escape(name) == field;
            let is_it = |name: &str| is_it(name) && super::value::can_be_written(name, field);
            match node.fields.iter().find(|declared| is_it(&declared.name)) {
                Some(declared) => {
                    let child = declared.edge.node();
                    Ok(Type::of(&child.shared(), child.embedded))
                }
                None => undefined(),
            }
        }
        // Of its metadata an expression sees this alone.
        Type::Metadata if matches!(field, "name" | "generateName") => Ok(Type::TEXT),
        Type::Metadata => undefined(),
        Type::Known(known) => {
            let declared = (known.fields)().into_iter().find(|(name, _)| *name == field);
            declared.map_or_else(undefined, |(_, of)| Ok(of))
        }
        other => Err(format!("type '{}' does not support field selection", other.shown())),
    }
}

/// Checks a field of an operation of a JSON patch.
fn operand(field: &str, of: &Type) -> Result<(), String> {
    let expected = match field {
        "op" | "path" | "from" => Type::TEXT.shown(),
        "value" => return Ok(()),
        _ => String::new(),
    };
    if !expected.is_empty() && fits(&Type::TEXT, of, &mut Vec::new()) {
        return Ok(());
    }
    let provided = of.shown();
    Err(format!(
        "expected type of field '{field}' is '{expected}' but provided type is '{provided}'"
    ))
}
