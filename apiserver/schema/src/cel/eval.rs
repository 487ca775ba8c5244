//! Runs expressions, and counts what they cost.
//!
//! Costs are upstream's in kind: one for each step, more where a function looks at whole texts and lists.
//!
//! Source: `cel-go/interpreter/runtimecost.go` and upstream's `apiserver/pkg/cel/library/cost.go`.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map, OptionalValue};

use super::ast::{Binary, Expr, Loop, Name};
use super::functions;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It failed, in upstream's words.
    Failed(String),
    /// It would cost more than is allowed.
    Cost,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Failed(text) => f.write_str(text),
            Fault::Cost => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

pub(super) fn failed<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Failed(text.into()))
}

/// What the cost of one expression may be.
///
/// Source: `PerCallLimit` in upstream's `apiserver/pkg/apis/cel/config.go`.
pub const PER_CALL: u64 = 1_000_000;

/// What may still be spent on the expressions of one request.
#[derive(Debug)]
pub struct Budget {
    left: u64,
    call: u64,
}

impl Budget {
    /// A budget for several expressions.
    #[must_use]
    pub fn new(units: u64) -> Self {
        Self { left: units, call: PER_CALL }
    }

    /// Whether nothing is left for further expressions.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Allows an expression its full cost, whatever the one around it has spent.
    pub(super) fn call<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let around = std::mem::replace(&mut self.call, PER_CALL);
        let result = run(self);
        self.call = around;
        result
    }

    pub(super) fn take(&mut self, units: u64) -> Result<(), Fault> {
        self.left = self.left.saturating_sub(units);
        if units > self.call || self.left == 0 {
            self.call = 0;
            return Err(Fault::Cost);
        }
        self.call -= units;
        Ok(())
    }
}

/// Where an expression finds its variables.
pub trait Variables {
    /// The value of a variable, computed now if need be; none if it does not exist. Composed variables
    /// are asked for as `variables.name`.
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Result<Value, Fault>>;
}

impl Variables for Vec<(&str, Value)> {
    fn get(&self, name: &str, _: &mut Budget) -> Option<Result<Value, Fault>> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// Types by the names that expressions have for them.
pub(super) const TYPES: [&str; 12] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    TIMESTAMP,
    DURATION,
];
pub(super) const TIMESTAMP: &str = "google.protobuf.Timestamp";
pub(super) const DURATION: &str = "google.protobuf.Duration";

/// Variables of the expression, and those of the loops around.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    Root(&'a dyn Variables),
    Local { name: &'a Name, value: &'a Value, outer: &'a Scope<'a> },
}

impl Scope<'_> {
    fn get(&self, name: &str, budget: &mut Budget) -> Result<Value, Fault> {
        match self {
            Scope::Local { name: known, value, .. } if ***known == *name => Ok((*value).clone()),
            Scope::Local { outer, .. } => outer.get(name, budget),
            Scope::Root(variables) => match variables.get(name, budget) {
                Some(found) => found,
                // `type(x) == string`: types are their names.
                None if TYPES.contains(&name) => Ok(Value::String(Arc::new(name.to_owned()))),
                None => failed(format!("no such attribute(s): {name}")),
            },
        }
    }
}

type Evaluated = Result<Value, Fault>;

/// The value of an expression.
pub(super) fn eval(expr: &Expr, scope: &Scope<'_>, budget: &mut Budget) -> Evaluated {
    match expr {
        Expr::Literal(value) => Ok(value.clone()),
        Expr::Var(name) => {
            budget.take(1)?;
            scope.get(name, budget)
        }
        Expr::Select { operand, field, test, optional } => {
            let operand = eval(operand, scope, budget)?;
            select(operand, field, (*test, *optional), budget)
        }
        Expr::Index { operand, key, optional } => {
            let operand = eval(operand, scope, budget)?;
            let key = eval(key, scope, budget)?;
            budget.take(1)?;
            index(operand, &key, *optional)
        }
        Expr::And(a, b) => logic(a, b, false, scope, budget),
        Expr::Or(a, b) => logic(a, b, true, scope, budget),
        Expr::Not(a) => {
            budget.take(1)?;
            Ok(Value::Bool(!boolean(eval(a, scope, budget)?)?))
        }
        Expr::NotFalse(a) => match eval(a, scope, budget) {
            Ok(value) => Ok(Value::Bool(!matches!(value, Value::Bool(false)))),
            Err(Fault::Cost) => Err(Fault::Cost),
            Err(Fault::Failed(_)) => Ok(Value::Bool(true)),
        },
        Expr::If(parts) => {
            let [test, then, other] = &**parts;
            let chosen = if boolean(eval(test, scope, budget)?)? { then } else { other };
            eval(chosen, scope, budget)
        }
        Expr::Negate(a) => negate(&eval(a, scope, budget)?),
        Expr::Binary(operator, a, b) => {
            let (a, b) = (eval(a, scope, budget)?, eval(b, scope, budget)?);
            functions::binary(*operator, a, b, budget)
        }
        Expr::List(_) | Expr::Map(_) | Expr::Object(..) => literal(expr, scope, budget),
        Expr::Loop(inner) => repeat(inner, scope, budget),
        Expr::Call { function, target, args } => {
            call(function, target.as_deref(), args, scope, budget)
        }
    }
}

fn boolean(value: Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(value) => Ok(value),
        _ => failed("no such overload"),
    }
}

/// `&&` and `||`: the side that decides wins, even if the other one fails.
fn logic(a: &Expr, b: &Expr, decisive: bool, scope: &Scope<'_>, budget: &mut Budget) -> Evaluated {
    let left = eval(a, scope, budget).and_then(boolean);
    match left {
        Ok(value) if value == decisive => return Ok(Value::Bool(decisive)),
        Err(Fault::Cost) => return Err(Fault::Cost),
        _ => (),
    }
    match (left, eval(b, scope, budget).and_then(boolean)) {
        (_, Err(Fault::Cost)) => Err(Fault::Cost),
        (_, Ok(value)) if value == decisive => Ok(Value::Bool(decisive)),
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
        (Ok(_), Ok(_)) => Ok(Value::Bool(!decisive)),
    }
}

fn negate(value: &Value) -> Evaluated {
    match value {
        Value::Int(n) => {
            n.checked_neg().map(Value::Int).map_or_else(|| failed("integer overflow"), Ok)
        }
        Value::Float(n) => Ok(Value::Float(-n)),
        _ => failed("no such overload"),
    }
}

/// The inner value of an optional; the outer result is none for all other values.
pub(super) fn optional(value: &Value) -> Option<Option<&Value>> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>().map(OptionalValue::value),
        _ => None,
    }
}

pub(super) fn some(value: Option<Value>) -> Value {
    let value = value.map_or_else(OptionalValue::none, OptionalValue::of);
    Value::Opaque(Arc::new(value))
}

fn select(
    operand: Value,
    field: &Name,
    (test, wanted): (bool, bool),
    budget: &mut Budget,
) -> Evaluated {
    if !test {
        budget.take(1)?;
    }
    let (inner, chained) = match optional(&operand) {
        Some(None) => return Ok(if test { Value::Bool(false) } else { some(None) }),
        Some(Some(inner)) => (inner, true),
        None => (&operand, false),
    };
    let found = match inner {
        Value::Map(map) => map.get(&Key::String(Arc::new(field.to_string()))).cloned(),
        _ if test => return failed("no such overload"),
        _ => return failed(format!("no such key: {field}")),
    };
    match found {
        found if test => Ok(Value::Bool(found.is_some())),
        found if wanted || chained => Ok(some(found)),
        Some(found) => Ok(found),
        None => failed(format!("no such key: {field}")),
    }
}

fn index(operand: Value, key: &Value, wanted: bool) -> Evaluated {
    let (inner, chained) = match optional(&operand) {
        Some(None) => return Ok(some(None)),
        Some(Some(inner)) => (inner, true),
        None => (&operand, false),
    };
    let (found, fault) = match (inner, key) {
        (Value::List(list), Value::Int(_) | Value::UInt(_) | Value::Float(_)) => {
            let at = whole(key);
            let found = at.and_then(|at| usize::try_from(at).ok()).and_then(|at| list.get(at));
            (found.cloned(), format!("index out of bounds: {}", at.unwrap_or(-1)))
        }
        (Value::Map(map), key) => match map_key(key) {
            Some(at) => (map.get(&at).cloned(), format!("no such key: {}", show_key(&at))),
            None => return failed("unsupported key type"),
        },
        _ => return failed("no such overload"),
    };
    match found {
        found if wanted || chained => Ok(some(found)),
        Some(found) => Ok(found),
        None => failed(fault),
    }
}

pub(super) fn show_key(key: &Key) -> String {
    match key {
        Key::String(text) => text.to_string(),
        Key::Int(n) => n.to_string(),
        Key::Uint(n) => n.to_string(),
        Key::Bool(b) => b.to_string(),
    }
}

/// A number as an index; none if it has a fraction.
#[expect(clippy::cast_possible_truncation, reason = "only whole numbers are taken")]
fn whole(key: &Value) -> Option<i64> {
    match key {
        Value::Int(n) => Some(*n),
        Value::UInt(n) => i64::try_from(*n).ok(),
        Value::Float(n) if n.fract() == 0.0 => Some(*n as i64),
        _ => None,
    }
}

pub(super) fn map_key(value: &Value) -> Option<Key> {
    Some(match value {
        Value::String(text) => Key::String(text.clone()),
        Value::Int(n) => Key::Int(*n),
        Value::UInt(n) => i64::try_from(*n).map_or(Key::Uint(*n), Key::Int),
        Value::Bool(b) => Key::Bool(*b),
        Value::Float(_) => Key::Int(whole(value)?),
        _ => return None,
    })
}

/// An entry of a literal; none if it is optional and empty.
fn entry(value: Value, is_optional: bool) -> Result<Option<Value>, Fault> {
    match (is_optional, optional(&value)) {
        (false, _) => Ok(Some(value)),
        (true, Some(inner)) => Ok(inner.cloned()),
        (true, None) => {
            failed("cannot initialize optional entry from a value that is not optional")
        }
    }
}

fn literal(expr: &Expr, scope: &Scope<'_>, budget: &mut Budget) -> Evaluated {
    // Costs of making a list, a map and an object.
    const LIST: u64 = 10;
    const MAP: u64 = 30;
    const OBJECT: u64 = 40;
    match expr {
        Expr::List(entries) => {
            budget.take(LIST)?;
            let mut list = Vec::with_capacity(entries.len());
            for (value, is_optional) in entries {
                list.extend(entry(eval(value, scope, budget)?, *is_optional)?);
            }
            Ok(Value::List(Arc::new(list)))
        }
        Expr::Map(entries) => {
            budget.take(MAP)?;
            let mut map = HashMap::with_capacity(entries.len());
            for (key, value, is_optional) in entries {
                let Some(key) = map_key(&eval(key, scope, budget)?) else {
                    return failed("unsupported key type");
                };
                if let Some(value) = entry(eval(value, scope, budget)?, *is_optional)? {
                    map.insert(key, value);
                }
            }
            Ok(Value::Map(Map { map: Arc::new(map) }))
        }
        Expr::Object(_, fields) => {
            budget.take(OBJECT)?;
            let mut map = HashMap::with_capacity(fields.len());
            for (name, value, is_optional) in fields {
                if let Some(value) = entry(eval(value, scope, budget)?, *is_optional)? {
                    map.insert(Key::String(Arc::new(name.to_string())), value);
                }
            }
            Ok(Value::Map(Map { map: Arc::new(map) }))
        }
        _ => failed("no such overload"),
    }
}

fn repeat(inner: &Loop, scope: &Scope<'_>, budget: &mut Budget) -> Evaluated {
    let range = eval(&inner.range, scope, budget)?;
    let items: Vec<(Value, Option<Value>)> = match (&range, &inner.second) {
        (Value::List(list), None) => list.iter().map(|item| (item.clone(), None)).collect(),
        (Value::List(list), Some(_)) => {
            (0..).zip(list.iter()).map(|(n, item)| (Value::Int(n), Some(item.clone()))).collect()
        }
        (Value::Map(map), _) => {
            map.map.iter().map(|(key, value)| (Value::from(key), Some(value.clone()))).collect()
        }
        _ => return failed("no such overload"),
    };
    const NOTHING: Value = Value::Null;
    let mut accumulated = eval(&inner.init, scope, budget)?;
    for (item, second) in &items {
        budget.take(1)?;
        let local = Scope::Local { name: &inner.accumulator, value: &accumulated, outer: scope };
        if !boolean(eval(&inner.condition, &local, budget)?)? {
            break;
        }
        let outer = Scope::Local { name: &inner.item, value: item, outer: scope };
        let local = match &inner.second {
            Some(name) => {
                Scope::Local { name, value: second.as_ref().unwrap_or(&NOTHING), outer: &outer }
            }
            None => outer,
        };
        accumulated = step(&inner.step, &inner.accumulator, accumulated, &local, budget)?;
    }
    let local = Scope::Local { name: &inner.accumulator, value: &accumulated, outer: scope };
    eval(&inner.result, &local, budget)
}

/// The accumulator after one more item. `map` and `filter` append: copying their list each time would be
/// quadratic, so the accumulator is passed on by value. (Nobody can write its name in an expression.)
fn step(expr: &Expr, name: &Name, sum: Value, scope: &Scope<'_>, budget: &mut Budget) -> Evaluated {
    let is_sum = |expr: &Expr| matches!(expr, Expr::Var(known) if known == name);
    match expr {
        expr if is_sum(expr) => Ok(sum),
        Expr::If(parts) => {
            let chosen =
                if boolean(eval(&parts[0], scope, budget)?)? { &parts[1] } else { &parts[2] };
            step(chosen, name, sum, scope, budget)
        }
        Expr::Binary(Binary::Add, left, more) if is_sum(left) => {
            let more = eval(more, scope, budget)?;
            functions::binary(Binary::Add, sum, more, budget)
        }
        Expr::Call { function, args, .. } if args.first().is_some_and(is_sum) => {
            let more = args[1..].iter().map(|arg| eval(arg, scope, budget));
            let values = std::iter::once(Ok(sum)).chain(more).collect::<Result<_, _>>()?;
            functions::call(function, None, values, budget)
        }
        expr => eval(expr, &Scope::Local { name, value: &sum, outer: scope }, budget),
    }
}

fn call(
    function: &Name,
    target: Option<&Expr>,
    args: &[Expr],
    scope: &Scope<'_>,
    budget: &mut Budget,
) -> Evaluated {
    if let (Some(target), [Expr::Var(name), body]) = (target, args)
        && matches!(&**function, "optMap" | "optFlatMap")
    {
        let target = eval(target, scope, budget)?;
        return match optional(&target) {
            Some(None) => Ok(target),
            Some(Some(value)) => {
                let scope = Scope::Local { name, value, outer: scope };
                let mapped = eval(body, &scope, budget)?;
                Ok(if **function == *"optMap" { some(Some(mapped)) } else { mapped })
            }
            None => failed("no such overload"),
        };
    }
    if let (Some(target), [Expr::Var(name), body], "sortBy") = (target, args, &**function) {
        let Value::List(list) = eval(target, scope, budget)? else {
            return failed("no such overload");
        };
        let keyed = list.iter().map(|value| {
            let key = eval(body, &Scope::Local { name, value, outer: scope }, budget)?;
            Ok((key, value.clone()))
        });
        return functions::sorted(keyed.collect::<Result<_, _>>()?);
    }
    let target = target.map(|target| eval(target, scope, budget)).transpose()?;
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        values.push(eval(arg, scope, budget)?);
    }
    functions::call(function, target, values, budget)
}
