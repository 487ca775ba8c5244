//! Operators and functions. Those with Kubernetes' own types come from `kube-cel`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use kube_cel::KubeCelExt as _;
use kube_cel::cel::common::ast::{CallExpr, Expr as Parsed, IdedExpr};
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, ExecutionError, Value};
use regex::Regex;

use super::ast::Binary;
use super::edges;
use super::eval::{Budget, DURATION, Fault, TIMESTAMP, failed, map_key, optional, show_key};
use crate::regexps;

/// An object of the server's own that expressions can ask, such as `authorizer`.
pub trait Ask: std::fmt::Debug + Send + Sync {
    /// The name of its type, for messages.
    fn type_name(&self) -> &str;

    /// The answer to `object.function(args)`; none if it has no such function.
    fn call(&self, function: &str, args: &[Value]) -> Option<Result<Value, String>>;

    /// What calling a function costs.
    fn cost(&self, function: &str) -> u64;
}

/// A value that is an object of the server's own.
#[must_use]
pub fn object(object: Arc<dyn Ask>) -> Value {
    Value::Opaque(Arc::new(Asked(object)))
}

#[derive(Debug)]
struct Asked(Arc<dyn Ask>);

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Asked {}

impl Opaque for Asked {
    fn runtime_type_name(&self) -> &str {
        self.0.type_name()
    }
}

/// Cost of looking at a text: a tenth for each byte.
fn text_cost(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64 / 10 + 1,
        Value::Bytes(bytes) => bytes.len() as u64 / 10 + 1,
        _ => 1,
    }
}

/// Cost of comparing or searching: that of what is looked at.
fn size_cost(value: &Value) -> u64 {
    match value {
        Value::List(list) => list.len() as u64 + 1,
        Value::Map(map) => map.map.len() as u64 + 1,
        other => text_cost(other),
    }
}

fn number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::UInt(_) | Value::Float(_))
}

/// The value of `a operator b`.
pub(super) fn binary(
    operator: Binary,
    a: Value,
    b: Value,
    budget: &mut Budget,
) -> Result<Value, Fault> {
    use std::cmp::Ordering;
    let ordered = |test: fn(Ordering) -> bool| match a.partial_cmp(&b) {
        Some(order) => Ok(Value::Bool(test(order))),
        None if number(&a) && number(&b) => Ok(Value::Bool(false)),
        None => failed("no such overload"),
    };
    match operator {
        Binary::Equal | Binary::NotEqual => {
            budget.take(size_cost(&a).min(size_cost(&b)))?;
            Ok(Value::Bool((a == b) == (operator == Binary::Equal)))
        }
        Binary::Less => ordered(Ordering::is_lt),
        Binary::LessEqual => ordered(Ordering::is_le),
        Binary::Greater => ordered(Ordering::is_gt),
        Binary::GreaterEqual => ordered(Ordering::is_ge),
        Binary::In => {
            budget.take(size_cost(&b))?;
            match &b {
                Value::List(list) => Ok(Value::Bool(list.contains(&a))),
                Value::Map(map) => {
                    Ok(Value::Bool(map_key(&a).is_some_and(|key| map.map.contains_key(&key))))
                }
                _ => failed("no such overload"),
            }
        }
        Binary::Add => {
            let texts = matches!(a, Value::String(_) | Value::Bytes(_));
            budget.take(if texts { text_cost(&a) + text_cost(&b) } else { 1 })?;
            arithmetic(a + b)
        }
        Binary::Subtract => budget.take(1).and_then(|()| arithmetic(a - b)),
        Binary::Multiply => budget.take(1).and_then(|()| arithmetic(a * b)),
        Binary::Divide => budget.take(1).and_then(|()| arithmetic(a / b)),
        Binary::Modulo => budget.take(1).and_then(|()| arithmetic(a % b)),
    }
}

/// Values in the order of their keys.
pub(super) fn sorted(mut keyed: Vec<(Value, Value)>) -> Result<Value, Fault> {
    if keyed.windows(2).any(|pair| pair[0].0.partial_cmp(&pair[1].0).is_none()) {
        return failed("no such overload");
    }
    keyed.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    Ok(Value::List(Arc::new(keyed.into_iter().map(|(_, value)| value).collect())))
}

/// A map with more entries; no key may be there already.
fn insert(mut args: Vec<Value>) -> Result<Value, Fault> {
    let more = match (args.pop(), args.len()) {
        (Some(Value::Map(more)), 1) => {
            more.map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        }
        (Some(value), 2) => match args.pop().as_ref().and_then(map_key) {
            Some(key) => vec![(key, value)],
            None => return failed("unsupported key type"),
        },
        _ => return failed("no such overload"),
    };
    let Some(Value::Map(mut map)) = args.pop() else { return failed("no such overload") };
    let entries = Arc::make_mut(&mut map.map);
    for (key, value) in more {
        let shown = show_key(&key);
        if entries.insert(key, value).is_some() {
            return failed(format!("insert failed: key {shown} already exists"));
        }
    }
    Ok(Value::Map(map))
}

fn arithmetic(result: Result<Value, ExecutionError>) -> Result<Value, Fault> {
    result.or_else(|error| match error {
        ExecutionError::DivisionByZero(_) => failed("division by zero"),
        ExecutionError::RemainderByZero(_) => failed("modulus by zero"),
        ExecutionError::Overflow(..) => failed("integer overflow"),
        _ => failed("no such overload"),
    })
}

/// The value of `function(args)` or `target.function(args)`.
pub(super) fn call(
    function: &str,
    target: Option<Value>,
    args: Vec<Value>,
    budget: &mut Budget,
) -> Result<Value, Fault> {
    if let Some(Value::Opaque(opaque)) = &target
        && let Some(Asked(object)) = opaque.downcast_ref::<Asked>()
    {
        budget.take(object.cost(function))?;
        return match object.call(function, &args) {
            Some(answer) => answer.map_err(Fault::Failed),
            None => failed("no such overload"),
        };
    }
    if function == "cel.@mapInsert" {
        budget.take(1)?;
        return insert(args);
    }
    let values = || target.iter().chain(&args);
    budget.take(1 + values().map(text_cost).sum::<u64>())?;
    let known = match (target.as_ref(), args.as_slice()) {
        (None, [value]) => global(function, value),
        (Some(target), args) => method(function, target, args, budget),
        _ => None,
    };
    match known {
        Some(result) => result,
        None => {
            budget.take(values().map(size_cost).sum())?;
            of_library(function, target, args)
        }
    }
}

fn global(function: &str, value: &Value) -> Option<Result<Value, Fault>> {
    Some(match (function, value) {
        ("size", value) => size(value),
        ("dyn", value) => Ok(value.clone()),
        ("bool", Value::Bool(_)) => Ok(value.clone()),
        ("bool", Value::String(text)) => match text.as_str() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
            _ => conversion("string", "bool"),
        },
        ("int", Value::String(text)) => {
            text.parse().map(Value::Int).or_else(|_| conversion("string", "int"))
        }
        ("uint", Value::String(text)) => {
            text.parse().map(Value::UInt).or_else(|_| conversion("string", "uint"))
        }
        ("double", Value::String(text)) => {
            text.parse().map(Value::Float).or_else(|_| conversion("string", "double"))
        }
        ("string", Value::Bool(value)) => Ok(Value::String(Arc::new(value.to_string()))),
        ("type", value) => Ok(Value::String(Arc::new(type_name(value)))),
        _ => return None,
    })
}

fn conversion(from: &str, to: &str) -> Result<Value, Fault> {
    failed(format!("type conversion error from '{from}' to '{to}'"))
}

fn type_name(value: &Value) -> String {
    match value {
        Value::Float(_) => "double".to_owned(),
        Value::Null => "null_type".to_owned(),
        Value::Opaque(opaque) => opaque.runtime_type_name().to_owned(),
        Value::Timestamp(_) => TIMESTAMP.to_owned(),
        Value::Duration(_) => DURATION.to_owned(),
        other => other.type_of().to_string(),
    }
}

fn size(value: &Value) -> Result<Value, Fault> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.map.len(),
        _ => return failed("no such overload"),
    };
    i64::try_from(size).map(Value::Int).or_else(|_| failed("integer overflow"))
}

fn method(
    function: &str,
    target: &Value,
    args: &[Value],
    budget: &mut Budget,
) -> Option<Result<Value, Fault>> {
    if let Some(inner) = optional(target) {
        return optional_method(function, target, inner, args);
    }
    Some(match (function, target, args) {
        ("size", target, []) => size(target),
        ("startsWith", Value::String(text), [Value::String(start)]) => {
            Ok(Value::Bool(text.starts_with(start.as_str())))
        }
        ("endsWith", Value::String(text), [Value::String(end)]) => {
            Ok(Value::Bool(text.ends_with(end.as_str())))
        }
        ("contains", Value::String(text), [Value::String(part)]) => budget
            .take(text_cost(target).saturating_mul(text_cost(&args[0])))
            .map(|()| Value::Bool(text.contains(part.as_str()))),
        (
            "matches" | "find" | "findAll",
            Value::String(text),
            [Value::String(pattern), limit @ ..],
        ) => {
            let most = match limit {
                [] => -1,
                [Value::Int(most)] if function == "findAll" => *most,
                _ => return None,
            };
            let cost = text_cost(target).saturating_mul(pattern.len() as u64 / 4 + 1);
            budget.take(cost).and_then(|()| search(function, text, pattern, most))
        }
        _ => return None,
    })
}

fn optional_method(
    function: &str,
    target: &Value,
    inner: Option<&Value>,
    args: &[Value],
) -> Option<Result<Value, Fault>> {
    Some(match (function, args) {
        ("hasValue", []) => Ok(Value::Bool(inner.is_some())),
        ("value", []) => inner.cloned().map_or_else(|| failed("optional.none() dereference"), Ok),
        ("orValue", [other]) => Ok(inner.unwrap_or(other).clone()),
        ("or", [other]) => Ok(if inner.is_some() { target.clone() } else { other.clone() }),
        _ => return None,
    })
}

/// `matches`, `find` and `findAll` with a pattern.
fn search(function: &str, text: &str, pattern: &str, most: i64) -> Result<Value, Fault> {
    let regex = match regex(pattern) {
        Ok(regex) => regex,
        Err(fault) => return failed(format!("error parsing regexp: {fault}")),
    };
    let part = |part: regex::Match<'_>| Value::String(Arc::new(part.as_str().to_owned()));
    Ok(match function {
        "matches" => Value::Bool(regex.is_match(text)),
        "find" => regex.find(text).map_or_else(|| Value::String(Arc::default()), part),
        _ => {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            Value::List(Arc::new(regex.find_iter(text).take(most).map(part).collect()))
        }
    })
}

/// Patterns are compiled once: an expression is run again and again with the same.
fn regex(pattern: &str) -> Result<Regex, String> {
    /// Patterns kept compiled.
    const KEPT: usize = 256;
    /// Largest compiled pattern, in bytes.
    const LARGEST: usize = 1 << 20;
    type Known = HashMap<String, Result<Regex, String>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = known.get(pattern) {
        return regex.clone();
    }
    if known.len() >= KEPT {
        known.clear();
    }
    let regex = regexps::compile_within(pattern, LARGEST);
    known.insert(pattern.to_owned(), regex.clone());
    regex
}

/// A function of the crates', but for their edges.
fn of_library(function: &str, target: Option<Value>, args: Vec<Value>) -> Result<Value, Fault> {
    if let Some(answer) = edges::answer(function, target.as_ref(), &args) {
        return answer.map_err(|fault| said(function, fault, args.first()));
    }
    let first = args.first().cloned();
    library(function, target, args).map_err(|fault| said(function, fault, first.as_ref()))
}

/// A fault in upstream's words, which may quote the first argument.
fn said(function: &str, fault: Fault, first: Option<&Value>) -> Fault {
    match fault {
        Fault::Failed(text) => Fault::Failed(edges::fault(function, first).unwrap_or(text)),
        Fault::Cost => Fault::Cost,
    }
}

/// A function of the crates', called by an expression whose arguments are variables.
pub(super) fn library(
    function: &str,
    target: Option<Value>,
    args: Vec<Value>,
) -> Result<Value, Fault> {
    static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());
    let mut context = FUNCTIONS.new_inner_scope();
    let ident = |name: String| IdedExpr { id: 0, expr: Parsed::Ident(name) };
    let (space, name) = match function.split_once('.') {
        Some((space, name)) => (Some(space), name),
        None => (None, function),
    };
    let has_target = target.is_some();
    if let Some(target) = target {
        context.add_variable_from_value("@target", target);
    }
    let mut names = Vec::with_capacity(args.len());
    for (n, arg) in args.into_iter().enumerate() {
        let name = format!("@{n}");
        context.add_variable_from_value(name.clone(), arg);
        names.push(ident(name));
    }
    let receiver = space.map(str::to_owned).or(has_target.then(|| "@target".to_owned()));
    let call = IdedExpr {
        id: 0,
        expr: Parsed::Call(CallExpr {
            func_name: name.to_owned(),
            target: receiver.map(|name| Box::new(ident(name))),
            args: names,
        }),
    };
    context.resolve(&call).or_else(|error| match error {
        ExecutionError::FunctionError { message, .. } => failed(message),
        ExecutionError::UndeclaredReference(name) => failed(format!("no such overload: {name}")),
        other => failed(lower_first(&other.to_string())),
    })
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}
