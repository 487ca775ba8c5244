//! The functions that expressions may call, and what calls of them are and cost.
//!
//! Source: upstream's `apiserver/pkg/cel/library/cost.go`.

use super::super::eval::PER_CALL;
use super::super::types::Type;
use super::tenth;

/// Every function that expressions may call.
pub(super) const FUNCTIONS: &[&str] = &[
    "allowed",
    "all",
    "abs",
    "base64.decode",
    "base64.encode",
    "bool",
    "bytes",
    "charAt",
    "check",
    "cidr",
    "compareTo",
    "contains",
    "containsCIDR",
    "containsIP",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "error",
    "errored",
    "exists",
    "family",
    "fieldSelector",
    "find",
    "findAll",
    "first",
    "flatten",
    "format",
    "format.named",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getEscapedPath",
    "getFullYear",
    "getHost",
    "getHostname",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getPort",
    "getQuery",
    "getScheme",
    "getSeconds",
    "group",
    "hasValue",
    "indexOf",
    "int",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "join",
    "jsonpatch.escapeKey",
    "labelSelector",
    "last",
    "lastIndexOf",
    "lowerAscii",
    "major",
    "masked",
    "matches",
    "max",
    "min",
    "minor",
    "name",
    "namespace",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "optFlatMap",
    "optMap",
    "or",
    "orValue",
    "patch",
    "path",
    "prefixLength",
    "quantity",
    "range",
    "reason",
    "replace",
    "resource",
    "reverse",
    "semver",
    "serviceAccount",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "sign",
    "size",
    "slice",
    "sort",
    "sortBy",
    "split",
    "startsWith",
    "string",
    "sub",
    "subresource",
    "substring",
    "sum",
    "timestamp",
    "trim",
    "type",
    "uint",
    "unwrap",
    "unwrapOpt",
    "upperAscii",
    "url",
    "validate",
    "value",
    "add",
    "asInteger",
    "asApproximateFloat",
    "distinct",
    "isIPv4",
    "isIPv6",
    "isCIDRv4",
    "isCIDRv6",
    "@in",
];

/// A fifth of a size: the cost of looking at a text and making another.
fn fifth(size: u64) -> u64 {
    size.div_ceil(5)
}

/// The type and cost of a call, over the types of its receiver and arguments.
pub(super) fn result(function: &str, types: &[Type]) -> (Type, u64) {
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
            Type::List(item, n) => (*item, n),
            other => (other, 1),
        },
        "orValue" | "value" => match first() {
            Type::Optional(inner) => (*inner, 1),
            _ => (Type::Dyn, 1),
        },
        "hasValue" | "isURL" | "isIP" | "isCIDR" | "isQuantity" | "isSemver" | "isGreaterThan"
        | "isLessThan" | "containsIP" | "containsCIDR" | "allowed" | "errored" | "bool" => {
            (Type::Bool, tenth(size(0)).max(1))
        }
        "int" | "compareTo" | "getSeconds" | "getHours" | "getMinutes" => (Type::Int, 1),
        "uint" => (Type::Uint, 1),
        "double" => (Type::Double, 1),
        "string" => (Type::Text(size(0).max(32)), tenth(size(0)).max(1)),
        "duration" => (Type::Duration, 1),
        "timestamp" => (Type::Timestamp, 1),
        "check" => (Type::Dyn, 350_000.min(PER_CALL)),
        _ => (Type::Dyn, tenth(size(0)).max(1)),
    }
}
