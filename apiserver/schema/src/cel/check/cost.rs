//! What operators and functions cost, and how large what they make can become.
//!
//! Source: upstream's `apiserver/pkg/cel/library/cost.go`.

use super::super::ast::Binary;
use super::super::eval::PER_CALL;
use super::super::types::Type;
use super::tenth;

/// A type whose texts can be of any size: upstream does not know how large what functions answer is.
pub(super) fn unsized_text(of: Type) -> Type {
    match of {
        Type::Text(_) => Type::Text(u64::MAX),
        other => other,
    }
}

/// The cost of an operator, and the type of what it makes if it is known by its size.
pub(super) fn binary(operator: Binary, a: &Type, b: &Type) -> (Option<Type>, u64) {
    match operator {
        Binary::Equal | Binary::NotEqual => {
            let least = a.size().min(b.size());
            let texts = matches!(a, Type::Text(_) | Type::Bytes(_));
            (None, if texts { tenth(least) } else { least })
        }
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            (None, tenth(a.size().min(b.size())))
        }
        Binary::In => match b {
            Type::List(_, n) => (None, *n),
            _ => (None, 1),
        },
        Binary::Add => match (a, b) {
            (Type::Text(n), Type::Text(m)) => {
                let both = n.saturating_add(*m);
                (Some(Type::Text(both)), tenth(both))
            }
            (Type::List(x, n), Type::List(y, m)) => {
                let item = if *n == 0 { y } else { x };
                (Some(Type::List(item.clone(), n.saturating_add(*m))), 1)
            }
            _ => (None, 1),
        },
        Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Modulo => (None, 1),
    }
}

/// A quarter of the longest expression that a format is.
const FORMAT: u64 = 32;

/// A fifth of a size: the cost of looking at a text and making another.
fn fifth(size: u64) -> u64 {
    size.div_ceil(5)
}

/// The type and cost of a call, over the types of its receiver and arguments.
pub(super) fn call(function: &str, types: &[Type]) -> (Type, u64) {
    let size = |at: usize| types.get(at).map_or(0, Type::size);
    let first = || types.first().cloned().unwrap_or(Type::Dyn);
    match function {
        "size" => (Type::Int, 1),
        "startsWith" | "endsWith" => (Type::Bool, tenth(size(1))),
        "contains" => (Type::Bool, tenth(size(0)).saturating_mul(tenth(size(1)))),
        "matches" => {
            let pattern = size(1).div_ceil(4).max(1);
            (Type::Bool, tenth(size(0).saturating_add(1)).saturating_mul(pattern))
        }
        "find" | "findAll" => {
            let cost = tenth(size(0)).saturating_mul(size(1).div_ceil(4).max(1));
            match function {
                "find" => (first(), cost),
                _ => (Type::List(first().into(), size(0)), cost),
            }
        }
        "lowerAscii" | "upperAscii" | "trim" | "substring" | "charAt" | "reverse" => {
            (first(), tenth(size(0)))
        }
        "sort" | "slice" | "distinct" => (first(), size(0)),
        "replace" => (Type::TEXT, fifth(size(0))),
        "split" => (Type::List(Type::Text(size(0)).into(), size(0)), fifth(size(0))),
        "join" => {
            let (items, n) = match types.first() {
                Some(Type::List(item, n)) => (n.saturating_mul(item.size()), *n),
                _ => (size(0), size(0)),
            };
            let whole = items.saturating_add(size(1).saturating_mul(n.saturating_sub(1)));
            (Type::Text(whole), tenth(whole))
        }
        "isSorted" | "indexOf" | "lastIndexOf" | "sets.contains" | "sets.intersects"
        | "sets.equivalent" => {
            let of = if function.ends_with("ndexOf") { Type::Int } else { Type::Bool };
            (of, size(0).saturating_mul(size(1).max(1)))
        }
        "sum" | "min" | "max" => match first() {
            Type::List(item, n) => (unsized_text(*item), n),
            other => (other, 1),
        },
        "orValue" | "value" => match first() {
            Type::Optional(inner) => (unsized_text(*inner), 1),
            _ => (Type::Dyn, 1),
        },
        "hasValue" => (Type::Bool, 1),
        "or" | "optional.of" | "optional.none" | "optional.ofNonZeroValue" => (Type::Dyn, 1),
        "isURL" | "isIP" | "isCIDR" | "isQuantity" | "isSemver" | "isGreaterThan"
        | "isLessThan" | "containsIP" | "containsCIDR" | "allowed" | "errored" | "bool" => {
            (Type::Bool, tenth(size(0)).max(1))
        }
        "int" | "compareTo" | "getSeconds" | "getHours" | "getMinutes" => (Type::Int, 1),
        "uint" => (Type::Uint, 1),
        "double" => (Type::Double, 1),
        "string" => (Type::Text(u64::MAX), tenth(size(0)).max(1)),
        // Upstream takes each format for an expression of this size.
        "validate" => (Type::Dyn, tenth(size(1)).saturating_mul(FORMAT)),
        "duration" => (Type::Duration, 1),
        "timestamp" => (Type::Timestamp, 1),
        "check" => (Type::Dyn, 350_000.min(PER_CALL)),
        _ => (Type::Dyn, tenth(size(0)).max(1)),
    }
}
