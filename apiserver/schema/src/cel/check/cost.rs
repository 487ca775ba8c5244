//! What operators and functions cost at most, and how large what they make can become.
//!
//! Source: `functionCost` in `cel-go/checker/cost.go`, `cel-go/ext/{lists,sets}.go` and upstream's
//! `apiserver/pkg/cel/library/cost.go`. The numbers decide which definitions are taken.

use super::super::ast::{Binary, Expr};
use super::super::eval::PER_CALL;
use super::super::types::Type;
use super::{Checked, Value};

/// What a call costs beside its receiver and arguments, and the size of its result if that is known.
pub(super) struct Own {
    pub(super) cost: u64,
    pub(super) size: Option<u64>,
}

fn own(cost: u64) -> Own {
    Own { cost, size: None }
}

fn sized(cost: u64, size: u64) -> Own {
    Own { cost, size: Some(size) }
}

/// The cost of looking at a text.
fn look(size: u64) -> u64 {
    size.div_ceil(10)
}

/// The cost of looking at a text and making another.
fn make(size: u64) -> u64 {
    size.div_ceil(5)
}

/// The cost of matching a pattern, of which an expression takes four letters or so.
fn search(text: u64, pattern: u64) -> u64 {
    look(text.saturating_add(1)).saturating_mul(pattern.div_ceil(4))
}

fn has_text(of: &Type) -> bool {
    matches!(of, Type::Text(_) | Type::Bytes(_))
}

/// An operator.
pub(super) fn binary(operator: Binary, a: &Checked, b: &Checked) -> Own {
    let least = a.size.min(b.size);
    match operator {
        Binary::Equal | Binary::NotEqual => match (of_library(&a.of), of_library(&b.of)) {
            (Some(name), Some(other)) if name == other && operator == Binary::Equal => {
                own(compare(name, b.size))
            }
            _ => own(look(least)),
        },
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let may_be_text = |of: &Type| has_text(of) || matches!(of, Type::Dyn | Type::Free);
            let is_text = may_be_text(&a.of) && may_be_text(&b.of);
            own(if is_text { look(least) } else { 1 })
        }
        Binary::In if matches!(b.of, Type::Map(..)) => own(1),
        Binary::In => own(b.size),
        Binary::Add => {
            let both = a.size.saturating_add(b.size);
            match (&a.of, &b.of) {
                (Type::List(..), Type::List(..)) => sized(1, both),
                (a, b) if has_text(a) && has_text(b) => sized(look(both), both),
                (Type::Dyn, Type::Dyn) => sized(look(both).max(1), both),
                _ => own(1),
            }
        }
        Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Modulo => own(1),
    }
}

/// The name of a type of the libraries.
fn of_library(of: &Type) -> Option<&str> {
    let name = match of {
        Type::Known(known) => known.name,
        Type::Made(name) => name,
        _ => return None,
    };
    (name.starts_with("kubernetes.") || name.starts_with("net.")).then_some(name)
}

/// The cost of comparing values of one such type.
fn compare(name: &str, size: u64) -> u64 {
    match name {
        "kubernetes.URL" => look(size),
        "kubernetes.NamedFormat" => look(64),
        _ => 1,
    }
}

/// A call of a function; literals among the arguments bound what it makes.
pub(super) fn call(
    function: &str,
    target: Option<&Checked>,
    args: &[Checked],
    exprs: &[Expr],
) -> Own {
    let arg = |at: usize| args.get(at).map_or(0, |arg| arg.size);
    let number = |at: usize| Some(u64::try_from(exprs.get(at).and_then(literal)?).unwrap_or(0));
    let Some(target) = target else { return of_arguments(function, args, number(0)) };
    if let Type::List(item, _) = &target.of {
        return of_list(function, target, item, args, [number(0), number(1)]);
    }
    let size = target.size;
    match function {
        "check" => own(350_000.min(PER_CALL)),
        "startsWith" | "endsWith" => own(look(arg(0))),
        "contains" => own(look(size).saturating_mul(look(arg(0)))),
        "matches" => own(search(size, arg(0))),
        "find" | "findAll" => sized(search(size, arg(0)), size),
        "indexOf" | "lastIndexOf" | "format" => own(look(size)),
        "lowerAscii" | "upperAscii" | "trim" | "substring" => sized(look(size), size),
        "replace" => {
            let least = exprs.first().map_or(0, literal_length);
            sized(make(size), replaced(size, least, arg(1)))
        }
        "split" => {
            sized(make(size), exprs.get(1).and_then(literal).map_or(size, i64::cast_unsigned))
        }
        // Addresses have 4 to 16 bytes; a text is read first.
        "containsIP" => own(4 + text(args)),
        "containsCIDR" => own(4 + 2 + 1 + text(args)),
        // Each format is taken for an expression of this size.
        "validate" => own(look(arg(0)).saturating_mul(32)),
        "fieldSelector" | "labelSelector" => own(selector(arg(0))),
        _ => own(1),
    }
}

fn text(args: &[Checked]) -> u64 {
    args.first().filter(|arg| has_text(&arg.of)).map_or(0, |arg| look(arg.size))
}

/// Source: `selectorCostEstimate`.
fn selector(size: u64) -> u64 {
    /// Bytes of a requirement, and what one costs.
    const REQUIREMENT: (u64, u64) = (2, 50);
    let requirements = size.div_ceil(REQUIREMENT.0).saturating_mul(REQUIREMENT.1);
    10_u64.saturating_add(look(size)).saturating_add(requirements)
}

fn of_arguments(function: &str, args: &[Checked], number: Option<u64>) -> Own {
    let size = |at: usize| args.get(at).map_or(0, |arg: &Checked| arg.size);
    match function {
        "matches" => own(search(size(0), size(1))),
        "url" | "jsonpatch.escapeKey" => sized(look(size(0)), size(0)),
        "quantity" | "isQuantity" | "semver" | "isSemver" | "ip" | "isIP" | "cidr" | "isCIDR" => {
            own(look(size(0)))
        }
        "ip.isCanonical" => own(make(size(0))),
        "strings.quote" => sized(look(size(0)), size(0).saturating_mul(2).saturating_add(2)),
        "bytes" if matches!(args, [Checked { of: Type::Text(_), .. }]) => {
            sized(look(size(0)), size(0).saturating_mul(4))
        }
        "string" if matches!(args, [Checked { of: Type::Bytes(_), .. }]) => {
            sized(look(size(0)), size(0))
        }
        "dyn" => sized(1, size(0)),
        "lists.range" => list(number.unwrap_or(u64::MAX), 1),
        "sets.contains" | "sets.intersects" => {
            own(size(0).saturating_mul(size(1)).saturating_add(1))
        }
        "sets.equivalent" => {
            own(size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1))
        }
        _ => own(1),
    }
}

/// A list that is made by looking at so many entries so often.
fn list(size: u64, times: u64) -> Own {
    sized(size.saturating_mul(times).saturating_add(11), size)
}

fn of_list(
    function: &str,
    target: &Checked,
    item: &Type,
    args: &[Checked],
    numbers: [Option<u64>; 2],
) -> Own {
    let size = target.size;
    // Of what is in a list that was made upstream knows nothing here.
    let entry = match item {
        item if has_text(item) && !target.is_part => u64::MAX,
        item => item.most(),
    };
    match function {
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let each = if has_text(item) { look(entry).saturating_add(1) } else { 1 };
            own(size.saturating_mul(each))
        }
        "join" => {
            let separators = args.first().map_or(0, |arg| arg.size);
            let whole = size.saturating_mul(entry);
            let whole = whole.saturating_add(separators.saturating_mul(size.saturating_sub(1)));
            sized(look(whole), whole)
        }
        "slice" => {
            let (start, end) = (numbers[0].unwrap_or(0), numbers[1].unwrap_or(size));
            list(end.wrapping_sub(start), 1)
        }
        "reverse" => list(size, 1),
        "flatten" => {
            let depth = if args.is_empty() { 1 } else { numbers[0].unwrap_or(u64::MAX) };
            Own { size: Some(size), ..list(size, depth) }
        }
        "distinct" => list(size.saturating_mul(size), 2),
        "sort" => sort(size, item),
        _ => own(1),
    }
}

/// Sorting, by keys of a type; making the keys is not counted.
pub(super) fn sort(size: u64, key: &Type) -> Own {
    let pairs = size.saturating_mul(size);
    let looks = if has_text(key) { look(pairs) } else { 0 };
    sized(pairs.saturating_mul(2).saturating_add(looks).saturating_add(11), pairs)
}

/// The size of a text in which each piece is replaced that has at least so many letters.
fn replaced(size: u64, least: u64, with: u64) -> u64 {
    if least == 0 {
        return size.saturating_add(1).saturating_mul(with).saturating_add(size);
    }
    if with <= least { size } else { size.div_ceil(least).saturating_mul(with) }
}

fn literal_length(expr: &Expr) -> u64 {
    match expr {
        Expr::Literal(Value::String(text)) => text.chars().count() as u64,
        _ => 0,
    }
}

fn literal(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(Value::Int(number)) => Some(*number),
        _ => None,
    }
}
