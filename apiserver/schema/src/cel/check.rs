//! Finds out, before an expression runs, whether it can and what it would cost at most.
//!
//! Source: `cel-go/checker/{checker,cost}.go` and upstream's `apiserver/pkg/cel/library/cost.go`.

mod functions;

use std::collections::HashMap;
use std::num::Saturating;

use super::ast::{Binary, Expr, Loop, undeclared};
use super::eval::TYPES;
use super::types::Type;
use functions::{FUNCTIONS, result};

/// Costs stay at the top when they reach it: they only have to be too large then.
type Cost = Saturating<u64>;

const ONE: Cost = Saturating(1);

/// A type, and the most that finding the value costs.
pub(super) struct Checked {
    pub(super) of: Type,
    pub(super) cost: Cost,
}

/// What is wrong: the text, and the part of the source that it is about.
pub(super) struct Wrong {
    pub(super) text: String,
    pub(super) at: String,
}

type Result<T = Checked> = std::result::Result<T, Wrong>;

fn wrong<T>(text: String, at: impl Into<String>) -> Result<T> {
    Err(Wrong { text, at: at.into() })
}

/// The names that a whole expression sees, and their types.
pub(super) type Globals = HashMap<String, Type>;

/// What a part of an expression sees.
pub(super) struct Names<'a> {
    globals: &'a Globals,
    /// The variables of the loops around it; inner ones hide outer ones and globals.
    locals: Vec<(String, Type)>,
}

impl<'a> Names<'a> {
    /// What a whole expression sees.
    pub(super) fn new(globals: &'a Globals) -> Self {
        Self { globals, locals: Vec::new() }
    }

    fn find(&self, name: &str) -> Option<&Type> {
        let local = self.locals.iter().rev().find(|(known, _)| known == name);
        local.map(|(_, of)| of).or_else(|| self.globals.get(name))
    }
}

fn checked(of: Type, cost: Cost) -> Checked {
    Checked { of, cost }
}

/// A tenth of a size: the cost of looking at a text.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

/// Checks an expression.
pub(super) fn check(expr: &Expr, names: &mut Names<'_>) -> Result {
    match expr {
        Expr::Literal(value) => Ok(checked(literal(value), Saturating(0))),
        Expr::Var(name) => variable(name, names),
        Expr::Select { operand, field, test, optional } => {
            let inner = check(operand, names)?;
            let cost = inner.cost + Saturating(u64::from(!test));
            let found = select(inner.of, field)?;
            let found = if *optional { Type::Optional(found.into()) } else { found };
            Ok(checked(if *test { Type::Bool } else { found }, cost))
        }
        Expr::Index { operand, key, optional } => {
            let (operand, key) = (check(operand, names)?, check(key, names)?);
            let found = match operand.of {
                Type::List(item, _) | Type::Map(item, _) => *item,
                _ => Type::Dyn,
            };
            let found = if *optional { Type::Optional(found.into()) } else { found };
            Ok(checked(found, operand.cost + key.cost + ONE))
        }
        Expr::And(a, b) | Expr::Or(a, b) => {
            let (a, b) = (boolean(a, names, "_&&_")?, boolean(b, names, "_&&_")?);
            Ok(checked(Type::Bool, a + b))
        }
        Expr::Not(a) => Ok(checked(Type::Bool, boolean(a, names, "!_")? + ONE)),
        Expr::NotFalse(a) => Ok(checked(Type::Bool, check(a, names)?.cost)),
        Expr::If(parts) => {
            let test = boolean(&parts[0], names, "_?_:_")?;
            let (then, other) = (check(&parts[1], names)?, check(&parts[2], names)?);
            Ok(checked(wider(then.of, other.of), test + then.cost.max(other.cost)))
        }
        Expr::Negate(a) => {
            let inner = check(a, names)?;
            Ok(checked(inner.of, inner.cost + ONE))
        }
        Expr::Binary(operator, a, b) => {
            let (a, b) = (check(a, names)?, check(b, names)?);
            binary(*operator, a, b)
        }
        Expr::List(_) | Expr::Map(_) | Expr::Object(..) => aggregate(expr, names),
        Expr::Loop(inner) => repeat(inner, names),
        Expr::Call { function, target, args } => call(function, target.as_deref(), args, names),
    }
}

fn literal(value: &super::Value) -> Type {
    use super::Value;
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

fn variable(name: &str, names: &Names<'_>) -> Result {
    if let Some(of) = names.find(name) {
        return Ok(checked(of.clone(), ONE));
    }
    if let Some(own) = name.strip_prefix("variables.") {
        if names.find("variables").is_none() {
            return variable("variables", names);
        }
        return wrong(format!("undefined field '{own}'"), format!(".{own}"));
    }
    match TYPES.contains(&name) {
        true => Ok(checked(Type::Dyn, ONE)),
        false => wrong(undeclared(name), name),
    }
}

fn select(operand: Type, field: &str) -> Result<Type> {
    let undefined = || wrong(format!("undefined field '{field}'"), format!(".{field}"));
    match operand {
        Type::Dyn => Ok(Type::Dyn),
        Type::Map(value, _) => Ok(*value),
        Type::Optional(inner) => Ok(Type::Optional(select(*inner, field)?.into())),
        Type::Object(node, is_resource) => {
            if is_resource && field == "metadata" {
                return Ok(Type::Metadata);
            }
            let declared = node.fields.iter().find(|f| super::value::escape(&f.name) == field);
            match declared {
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
        Type::Made(_) => Ok(Type::Dyn),
        Type::Known(known) => {
            let declared = (known.fields)().into_iter().find(|(name, _)| *name == field);
            declared.map_or_else(undefined, |(_, of)| Ok(of))
        }
        other => {
            wrong(format!("type '{other}' does not support field selection"), format!(".{field}"))
        }
    }
}

fn boolean(expr: &Expr, names: &mut Names<'_>, operator: &str) -> Result<Cost> {
    let inner = check(expr, names)?;
    match inner.of {
        Type::Bool | Type::Dyn => Ok(inner.cost),
        other => {
            wrong(format!("found no matching overload for '{operator}' applied to '({other})'"), "")
        }
    }
}

/// What both of two values can be.
fn wider(a: Type, b: Type) -> Type {
    match (a, b) {
        (Type::Text(a), Type::Text(b)) => Type::Text(a.max(b)),
        (Type::List(a, n), Type::List(b, m)) => Type::List(wider(*a, *b).into(), n.max(m)),
        (Type::Map(a, n), Type::Map(b, m)) => Type::Map(wider(*a, *b).into(), n.max(m)),
        (a, b) if a.to_string() == b.to_string() => a,
        _ => Type::Dyn,
    }
}

/// Whether values of two types can be equal at all.
fn comparable(a: &Type, b: &Type) -> bool {
    let is_number = |of: &Type| matches!(of, Type::Int | Type::Uint | Type::Double);
    match (a, b) {
        (Type::Dyn | Type::Null, _) | (_, Type::Dyn | Type::Null) => true,
        (Type::List(a, _), Type::List(b, _)) | (Type::Map(a, _), Type::Map(b, _)) => {
            comparable(a, b)
        }
        (Type::Optional(a), Type::Optional(b)) => comparable(a, b),
        (Type::Object(..) | Type::Map(..), Type::Object(..) | Type::Map(..)) => true,
        (a, b) if is_number(a) && is_number(b) => true,
        (a, b) => a.to_string() == b.to_string(),
    }
}

fn binary(operator: Binary, a: Checked, b: Checked) -> Result {
    let cost = a.cost + b.cost;
    let no_overload = |name: &str| {
        let text =
            format!("found no matching overload for '{name}' applied to '({}, {})'", a.of, b.of);
        wrong(text, name.trim_matches('_').trim_start_matches('@').to_owned())
    };
    match operator {
        Binary::Equal | Binary::NotEqual => {
            let name = if operator == Binary::Equal { "_==_" } else { "_!=_" };
            if !comparable(&a.of, &b.of) {
                return no_overload(name);
            }
            let least = a.of.size().min(b.of.size());
            let texts = matches!(a.of, Type::Text(_) | Type::Bytes(_));
            Ok(checked(Type::Bool, cost + Saturating(if texts { tenth(least) } else { least })))
        }
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let ordered = !matches!(a.of, Type::List(..) | Type::Map(..) | Type::Object(..));
            if !ordered || !comparable(&a.of, &b.of) {
                let name = match operator {
                    Binary::Less => "_<_",
                    Binary::LessEqual => "_<=_",
                    Binary::Greater => "_>_",
                    _ => "_>=_",
                };
                return no_overload(name);
            }
            Ok(checked(Type::Bool, cost + Saturating(tenth(a.of.size().min(b.of.size())))))
        }
        Binary::In => match &b.of {
            Type::List(item, _) if !comparable(&a.of, item) => no_overload("@in"),
            Type::List(_, n) => Ok(checked(Type::Bool, cost + Saturating(*n))),
            Type::Map(..) | Type::Dyn => Ok(checked(Type::Bool, cost + ONE)),
            _ => no_overload("@in"),
        },
        Binary::Add => {
            let sum = match (&a.of, &b.of) {
                (Type::Text(n), Type::Text(m)) => {
                    return Ok(checked(
                        Type::Text(n.saturating_add(*m)),
                        cost + Saturating(tenth(n.saturating_add(*m))),
                    ));
                }
                (Type::List(x, n), Type::List(y, m)) => {
                    let item =
                        if *n == 0 { (**y).clone() } else { wider((**x).clone(), (**y).clone()) };
                    Type::List(item.into(), n.saturating_add(*m))
                }
                (Type::Timestamp, Type::Duration) | (Type::Duration, Type::Timestamp) => {
                    Type::Timestamp
                }
                (Type::Dyn, _) | (_, Type::Dyn) => Type::Dyn,
                (x, y) if x.to_string() == y.to_string() => x.clone(),
                _ => return no_overload("_+_"),
            };
            Ok(checked(sum, cost + ONE))
        }
        Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Modulo => {
            let same = a.of.to_string() == b.of.to_string();
            let known = same || matches!((&a.of, &b.of), (Type::Dyn, _) | (_, Type::Dyn));
            let times = matches!((&a.of, &b.of), (Type::Timestamp, Type::Duration));
            match known || times {
                true => Ok(checked(a.of, cost + ONE)),
                false => no_overload("_-_"),
            }
        }
    }
}

fn aggregate(expr: &Expr, names: &mut Names<'_>) -> Result {
    let (mut cost, mut item, mut n): (Cost, Option<Type>, u64) = (Saturating(0), None, 0);
    let mut add = |value: Checked| {
        cost += value.cost;
        n += 1;
        item = Some(match item.take() {
            Some(known) => wider(known, value.of),
            None => value.of,
        });
    };
    match expr {
        Expr::List(entries) => {
            for (value, is_optional) in entries {
                let value = check(value, names)?;
                add(if *is_optional { checked(Type::Dyn, value.cost) } else { value });
            }
            Ok(checked(Type::List(item.unwrap_or(Type::Dyn).into(), n), cost + Saturating(10)))
        }
        Expr::Map(entries) => {
            for (_, value, _) in entries {
                add(check(value, names)?);
            }
            Ok(checked(Type::Map(item.unwrap_or(Type::Dyn).into(), n), cost + Saturating(30)))
        }
        Expr::Object(name, fields) => {
            for (field, value, _) in fields {
                let value = check(value, names)?;
                if &**name == "JSONPatch" {
                    operand(field, &value.of)?;
                }
                add(value);
            }
            Ok(checked(Type::Made(name.clone()), cost + Saturating(40)))
        }
        _ => Ok(checked(Type::Dyn, Saturating(0))),
    }
}

/// A field of an operation of a JSON patch.
fn operand(field: &str, of: &Type) -> Result<()> {
    let expected = match field {
        "op" | "path" | "from" => Type::TEXT,
        "value" => return Ok(()),
        _ => {
            let text =
                format!("expected type of field '{field}' is '' but provided type is '{of}'");
            return wrong(text, format!("{field}:"));
        }
    };
    if comparable(&expected, of) {
        return Ok(());
    }
    let text =
        format!("expected type of field '{field}' is '{expected}' but provided type is '{of}'");
    wrong(text, format!("{field}:"))
}

fn repeat(inner: &Loop, names: &mut Names<'_>) -> Result {
    let range = check(&inner.range, names)?;
    let (item, n) = match &range.of {
        Type::List(item, n) => ((**item).clone(), *n),
        Type::Map(_, n) => (Type::TEXT, *n),
        Type::Dyn => (Type::Dyn, range.of.size()),
        Type::Object(node, _) => (Type::TEXT, node.fields.len() as u64),
        other => {
            let text = format!(
                "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
            );
            return wrong(text, "");
        }
    };
    let init = check(&inner.init, names)?;
    let is_list = matches!(init.of, Type::List(..));
    names.locals.push((inner.accumulator.to_string(), init.of.clone()));
    names.locals.push((inner.item.to_string(), item));
    let once = check(&inner.condition, names).and_then(|condition| {
        let step = check(&inner.step, names)?;
        Ok((step.of, condition.cost + step.cost + ONE))
    });
    names.locals.truncate(names.locals.len() - 2);
    let (step, once) = once?;
    let of = match (step, &inner.result) {
        (Type::List(item, _), _) if is_list => Type::List(item, n),
        (_, Expr::Var(_)) => init.of,
        // A loop that counts answers whether there was one.
        (_, result) => {
            names.locals.push((inner.accumulator.to_string(), init.of));
            let result = check(result, names);
            names.locals.pop();
            result?.of
        }
    };
    Ok(checked(of, Saturating(n) * once + range.cost + init.cost))
}

fn call(function: &str, target: Option<&Expr>, args: &[Expr], names: &mut Names<'_>) -> Result {
    let from_loop = matches!(target, Some(Expr::Loop(_)));
    let target = target.map(|target| check(target, names)).transpose()?;
    let mut cost = target.as_ref().map_or(Saturating(0), |target| target.cost);
    if let (Some(target), [Expr::Var(name), body], "optMap" | "optFlatMap") =
        (&target, args, function)
    {
        let inner = match &target.of {
            Type::Optional(inner) => (**inner).clone(),
            _ => Type::Dyn,
        };
        names.locals.push((name.to_string(), inner));
        let body = check(body, names);
        names.locals.pop();
        let body = body?;
        let of = if function == "optMap" { Type::Optional(body.of.into()) } else { body.of };
        return Ok(checked(of, cost + body.cost));
    }
    if function.starts_with("math.") {
        return wrong(undeclared("math"), "math");
    }
    if !FUNCTIONS.contains(&function) && !function.starts_with("format.") {
        // The place of a call is its bracket.
        return wrong(undeclared(function), format!("{function}("));
    }
    if let ("matches", [.., Expr::Literal(super::Value::String(pattern))]) = (function, args)
        && crate::regexps::fault(pattern).is_some()
    {
        return wrong("invalid matches argument".to_owned(), format!("\"{pattern}\""));
    }
    let mut types: Vec<Type> = target.into_iter().map(|target| target.of).collect();
    for arg in args {
        let arg = check(arg, names)?;
        cost += arg.cost;
        types.push(arg.of);
    }
    let (of, own) = match (function, from_loop) {
        // Of what a loop makes upstream does not know how large the entries are.
        ("join", true) => (Type::TEXT, u64::MAX),
        _ => result(function, &types),
    };
    Ok(checked(of, (cost + Saturating(own)).max(ONE)))
}
