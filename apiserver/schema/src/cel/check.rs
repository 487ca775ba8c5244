//! Finds out, before an expression runs, whether it can and what it would cost at most.
//!
//! Source: `cel-go/checker/{checker,cost}.go` and upstream's `apiserver/pkg/cel/library/cost.go`.

mod calls;
mod cost;
mod declared;
mod fit;
mod formats;
mod literals;
mod loops;
mod places;
mod sized;

use std::collections::HashMap;
use std::num::Saturating;

use super::Value;
use super::ast::{Binary, Expr, undeclared};
use super::eval::{DURATION, TIMESTAMP};
use super::types::Type;
use fit::{answer, fits, same, wider};
use formats::Format;
pub(super) use places::Places;
pub(super) use sized::Checked;

/// Costs stay at the top when they reach it: they only have to be too large then.
type Cost = Saturating<u64>;

const ONE: Cost = Saturating(1);

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
    let mut checker = Checker {
        globals,
        locals: Vec::new(),
        mixed: false,
        formats: Vec::new(),
        wrong: Vec::new(),
    };
    let checked = checker.check(expr);
    if checker.wrong.is_empty() {
        checker.literals(expr);
        checker.formats();
    }
    (checked, checker.wrong)
}

struct Checker<'a, 'g> {
    globals: &'g Globals,
    /// The variables of the loops around; inner ones hide outer ones and globals.
    locals: Vec<(String, Checked)>,
    /// Whether lists and maps may have entries of several types here.
    mixed: bool,
    formats: Vec<Format<'a>>,
    wrong: Vec<Wrong<'a>>,
}

impl<'a> Checker<'a, '_> {
    /// Notes what is wrong; of such a part nothing else is known.
    fn wrong(&mut self, part: &'a Expr, text: String) -> Type {
        self.wrong.push(Wrong { text, part, field: None });
        Type::Dyn
    }

    /// What upstream takes for the size of a part that it does not find: it looks no further than the whole.
    fn root(&self) -> u64 {
        self.globals.get("self").map_or(0, Type::most)
    }

    fn check(&mut self, expr: &'a Expr) -> Checked {
        match expr {
            Expr::Literal(value) => literal(value),
            Expr::Var(name) => self.variable(name, expr),
            Expr::Select { operand, field, test, optional } => {
                let inner = self.check(operand);
                self.select(inner, field, expr, *test, *optional)
            }
            Expr::Index { operand, key, optional } => {
                let (operand, key) = (self.check(operand), self.check(key));
                self.index(operand, key, expr, *optional)
            }
            Expr::And(a, b) | Expr::Or(a, b) => {
                let cost = self.boolean(a) + self.boolean(b);
                Checked::made(Type::Bool, cost)
            }
            Expr::Not(a) => {
                let inner = self.check(a);
                Checked::made(self.operator("!_", vec![inner.of], expr), inner.cost + ONE)
            }
            Expr::NotFalse(a) => Checked::made(Type::Bool, self.check(a).cost + ONE),
            Expr::If(parts) => {
                let [test, then, other] = [0, 1, 2].map(|n| self.check(&parts[n]));
                let cost = test.cost + then.cost.max(other.cost);
                let size = then.size.max(other.size);
                let both = wider(then.of.clone(), other.of.clone());
                let of = self.operator("_?_:_", vec![test.of, then.of, other.of], expr);
                Checked::known(if same(&of, &both) { both } else { of }, cost, size)
            }
            Expr::Negate(a) => {
                let inner = self.check(a);
                Checked::made(self.operator("-_", vec![inner.of], expr), inner.cost + ONE)
            }
            Expr::Binary(operator, a, b) => {
                let (a, b) = (self.check(a), self.check(b));
                let own = cost::binary(*operator, &a, &b);
                let cost = a.cost + b.cost + Saturating(own.cost);
                let of = self.operator(name(*operator), vec![a.of, b.of], expr);
                match own.size {
                    Some(size) => Checked::known(of, cost, size),
                    None => Checked::made(of, cost),
                }
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

    fn variable(&mut self, name: &str, part: &'a Expr) -> Checked {
        if let Some((_, local)) = self.locals.iter().rev().find(|(known, _)| known == name) {
            return Checked { cost: ONE, ..local.clone() };
        }
        if let Some(of) = self.globals.get(name) {
            return Checked::part(of.clone(), ONE);
        }
        let of = match named(name) {
            Some(of) => Type::Itself(of.into()),
            None => self.unknown(name, part),
        };
        Checked::made(of, ONE).sized(self.root())
    }

    /// Notes that there is no such variable.
    fn unknown(&mut self, name: &str, part: &'a Expr) -> Type {
        if super::is_reserved(name) {
            return self.wrong(part, format!("reserved identifier: {name}"));
        }
        match name.strip_prefix("variables.") {
            Some(own) if self.globals.contains_key("variables") => {
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

    fn select(
        &mut self,
        operand: Checked,
        field: &str,
        part: &'a Expr,
        is_test: bool,
        is_optional: bool,
    ) -> Checked {
        let is_object = !matches!(operand.of, Type::Dyn | Type::Optional(_));
        let cost = operand.cost + Saturating(u64::from(!is_test && (is_object || is_optional)));
        let (target, is_optional) = match operand.of {
            Type::Optional(inner) => (*inner, true),
            other => (other, is_optional),
        };
        let found = match field_of(&target, field) {
            Ok(found) => found,
            Err(text) => self.wrong(part, text),
        };
        match (is_test, is_optional) {
            (true, _) => Checked::made(Type::Bool, cost),
            (_, true) => Checked::made(Type::Optional(found.into()), cost),
            _ if operand.is_part => Checked::part(found, cost),
            _ => Checked::made(found, cost).sized(self.root()),
        }
    }

    fn index(
        &mut self,
        operand: Checked,
        key: Checked,
        part: &'a Expr,
        is_optional: bool,
    ) -> Checked {
        let cost = operand.cost + key.cost + ONE;
        let name = if is_optional { "_[?_]" } else { "_[_]" };
        let of = self.operator(name, vec![operand.of, key.of], part);
        if operand.is_part && !matches!(of, Type::Optional(_)) {
            return Checked::part(of, cost);
        }
        match of.most() {
            _ if matches!(of, Type::Optional(_)) => Checked::made(of, cost),
            u64::MAX => Checked::made(of, cost).sized(self.root()),
            size => Checked::known(of, cost, size),
        }
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
        let of = match (is_optional, inner.of.clone()) {
            (true, Type::Optional(of)) => *of,
            (true, of) => {
                self.expect(&Type::Optional(of.clone().into()), &of, part);
                of
            }
            (false, of) => of,
        };
        Checked { of, ..inner }
    }

    fn list(&mut self, entries: &'a [(Expr, bool)]) -> Checked {
        self.list_of(entries).0
    }

    /// A list, and the types of its entries.
    fn list_of(&mut self, entries: &'a [(Expr, bool)]) -> (Checked, Vec<(&'a Expr, Type)>) {
        let (mut cost, mut item) = (Saturating(10), None);
        let mut types = Vec::with_capacity(entries.len());
        for (value, is_optional) in entries {
            let entry = self.entry(value, *is_optional);
            cost += entry.cost;
            types.push((value, entry.of.clone()));
            item = Some(self.join(item, entry.of, value));
        }
        let n = entries.len() as u64;
        let of = Type::List(item.unwrap_or(Type::Free).into(), n);
        (Checked::known(of, cost, n), types)
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)]) -> Checked {
        let (mut cost, mut types) = (Saturating(30), None);
        for (key, value, is_optional) in entries {
            let of_key = self.check(key);
            let entry = self.entry(value, *is_optional);
            cost += of_key.cost + entry.cost;
            let (before_key, before): (Option<Type>, Option<Type>) = types.unzip();
            types =
                Some((self.join(before_key, of_key.of, key), self.join(before, entry.of, value)));
        }
        let (key, value) = types.unwrap_or((Type::Free, Type::Free));
        let n = entries.len() as u64;
        Checked::known(Type::Map([key, value].into(), n), cost, n)
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
        Checked::made(Type::Made(name.clone()), cost)
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
        TIMESTAMP => Type::TIME,
        DURATION => Type::Duration,
        "Object" | "JSONPatch" => Type::Made(name.into()),
        _ => return None,
    })
}

fn literal(value: &Value) -> Checked {
    let (of, size) = match value {
        Value::Null => (Type::Null, 1),
        Value::Bool(_) => (Type::Bool, 1),
        Value::Int(_) => (Type::Int, 1),
        Value::UInt(_) => (Type::Uint, 1),
        Value::Float(_) => (Type::Double, 1),
        Value::String(text) => (Type::TEXT, text.chars().count() as u64),
        Value::Bytes(bytes) => (Type::Bytes(0), bytes.len() as u64),
        _ => (Type::Dyn, u64::MAX),
    };
    Checked::known(of, Saturating(0), size)
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
