//! The types of expressions, with how large their values can become.
//!
//! Source: `SchemaDeclType` in upstream's `apiserver/pkg/cel/common/schemas.go`.

use std::fmt;
use std::sync::Arc;

use crate::node::{Kind, Node};

/// Largest request, in bytes: what bounds values without a bound of their own.
const REQUEST: u64 = 3 * 1024 * 1024;

/// What an expression can be. Sizes are of texts in bytes, of lists and maps in entries.
#[derive(Debug, Clone)]
pub(super) enum Type {
    /// Known only when it runs.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text(u64),
    Bytes(u64),
    Duration,
    /// With the bytes of its longest text.
    Timestamp(u64),
    List(Box<Type>, u64),
    /// Of keys to values.
    Map(Box<[Type; 2]>, u64),
    /// What a resource shows of its metadata.
    Metadata,
    /// An object with declared fields; a resource shows little of its metadata.
    Object(Arc<Node>, bool),
    Optional(Box<Type>),
    /// An object that an expression makes, of a type with this name.
    Made(Arc<str>),
    /// An object of a type that is no schema's, with its fields.
    Known(&'static Known),
    /// A type as a value.
    Itself(Box<Type>),
    /// What a declared function leaves open, by number.
    Open(usize),
    /// Of the entries of what has none: whatever fits.
    Free,
}

/// A type that expressions know by name.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    /// Names and types of its fields; none if it is not known which it has.
    pub(super) fields: fn() -> Vec<(&'static str, Type)>,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn | Type::Open(_) | Type::Free => f.write_str("dyn"),
            Type::Null => f.write_str("null_type"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::Text(_) => f.write_str("string"),
            Type::Bytes(_) => f.write_str("bytes"),
            Type::Duration => f.write_str("google.protobuf.Duration"),
            Type::Timestamp(_) => f.write_str("google.protobuf.Timestamp"),
            Type::List(item, _) => write!(f, "list({item})"),
            Type::Map(entry, _) => write!(f, "map({}, {})", entry[0], entry[1]),
            Type::Object(..) | Type::Metadata => f.write_str("object"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Made(name) => f.write_str(name),
            Type::Known(known) => f.write_str(known.name),
            Type::Itself(inner) => write!(f, "type({inner})"),
        }
    }
}

impl Type {
    /// A text without a bound.
    pub(super) const TEXT: Type = Type::Text(REQUEST - 2);

    /// A moment of a day.
    pub(super) const TIME: Type = Type::Timestamp(32);

    /// A map from texts; upstream does not count the sizes of keys.
    pub(super) fn map(value: Type, most: u64) -> Type {
        Type::Map([Type::Text(0), value].into(), most)
    }

    /// As messages of the checker have it.
    pub(super) fn shown(&self) -> String {
        match self {
            Type::Null => "null".to_owned(),
            Type::Duration => "duration".to_owned(),
            Type::Timestamp(_) => "timestamp".to_owned(),
            Type::List(item, _) => format!("list({})", item.shown()),
            Type::Map(entry, _) => format!("map({}, {})", entry[0].shown(), entry[1].shown()),
            Type::Optional(inner) => format!("optional_type({})", inner.shown()),
            Type::Itself(inner) => format!("type({})", inner.shown()),
            other => other.to_string(),
        }
    }

    /// The type of a part of a schema.
    pub(super) fn of(node: &Arc<Node>, is_resource: bool) -> Type {
        let rules = node.rules.as_deref();
        let bound = |most: Option<u64>, fallback: u64| most.unwrap_or(fallback);
        match node.kind {
            Kind::Any | Kind::IntOrString | Kind::Quantity => Type::Dyn,
            Kind::Boolean => Type::Bool,
            Kind::Integer => Type::Int,
            Kind::Number => Type::Double,
            Kind::Time | Kind::MicroTime => Type::TIME,
            Kind::String => text(node),
            Kind::Array => {
                let Some(items) = &node.items else { return Type::List(Type::Dyn.into(), REQUEST) };
                let items = items.node();
                let most = (REQUEST - 2) / (min_size(&items) + 1);
                let most = bound(rules.and_then(|rules| rules.max_items), most);
                Type::List(Type::of(&items.shared(), items.embedded).into(), most)
            }
            Kind::Object => match &node.items {
                Some(items) if node.fields.is_empty() => {
                    let items = items.node();
                    let most = (REQUEST - 2) / (min_size(&items) + 6);
                    let most = bound(rules.and_then(|rules| rules.max_properties), most);
                    Type::map(Type::of(&items.shared(), items.embedded), most)
                }
                _ => Type::Object(node.clone(), is_resource || node.embedded),
            },
        }
    }

    /// The type without what is nested deeper than people write, which can be anything: variables that hold each other
    /// nest without an end.
    pub(super) fn shallow(mut self) -> Type {
        const DEEPEST: usize = 32;
        let mut inner = &mut self;
        for _ in 0..DEEPEST {
            inner = match inner {
                Type::List(of, _) | Type::Optional(of) | Type::Itself(of) => of,
                Type::Map(entry, _) => &mut entry[1],
                _ => return self,
            };
        }
        *inner = Type::Dyn;
        self
    }

    /// Whether every value of it is of one size.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Duration => true,
            Type::Timestamp(_) => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// How much there is to look at in a part of an object, at most.
    pub(super) fn most(&self) -> u64 {
        match self {
            Type::Text(n) | Type::Bytes(n) | Type::List(_, n) | Type::Map(_, n) => *n,
            Type::Timestamp(n) => *n,
            Type::Dyn | Type::Free => REQUEST - 2,
            Type::Optional(_) => u64::MAX,
            Type::Duration => 32,
            _ => 0,
        }
    }

    /// The type with another size.
    pub(super) fn sized(self, size: u64) -> Type {
        match self {
            Type::Text(_) => Type::Text(size),
            Type::Bytes(_) => Type::Bytes(size),
            Type::List(item, _) => Type::List(item, size),
            Type::Map(entry, _) => Type::Map(entry, size),
            other => other,
        }
    }

    /// The type with no bound of its size, nor of what is in it.
    pub(super) fn unbound(self) -> Type {
        match self {
            Type::Text(_) => Type::Text(u64::MAX),
            Type::Bytes(_) => Type::Bytes(u64::MAX),
            Type::List(item, _) => Type::List(item.unbound().into(), u64::MAX),
            Type::Map(entry, _) => Type::Map(entry.map(Type::unbound).into(), u64::MAX),
            Type::Optional(inner) => Type::Optional(inner.unbound().into()),
            other => other,
        }
    }
}

fn text(node: &Node) -> Type {
    let rules = node.rules.as_deref();
    match rules.and_then(|rules| rules.format.as_deref()) {
        Some("duration") => return Type::Duration,
        Some("date") => return Type::Timestamp(12),
        Some("date-time" | "datetime") => return Type::TIME,
        Some("byte") => {
            return Type::Bytes(rules.and_then(|r| r.max_length).unwrap_or(REQUEST - 2));
        }
        _ => (),
    }
    let longest = |rules: &crate::node::Rules| {
        rules.allowed.iter().filter_map(|v| Some(v.as_str()?.len() as u64)).max()
    };
    // A character has up to four bytes.
    let most = rules.and_then(|rules| rules.max_length.map(|n| n * 4).or_else(|| longest(rules)));
    Type::Text(most.unwrap_or(REQUEST - 2))
}

/// Fewest bytes that a value has as JSON.
pub(super) fn min_size(node: &Node) -> u64 {
    match node.kind {
        Kind::Boolean => 4,
        Kind::Integer | Kind::Number | Kind::Any => 1,
        Kind::Object => {
            let required = node.fields.iter().filter(|f| f.required && f.edge.default.is_none());
            2 + required.map(|f| f.name.len() as u64 + min_size(&f.edge.node()) + 4).sum::<u64>()
        }
        Kind::Time | Kind::MicroTime => 22,
        Kind::Array | Kind::String | Kind::IntOrString | Kind::Quantity => 2,
    }
}

/// How many values of a type can be in one request.
pub(super) fn most(node: &Node) -> u64 {
    REQUEST / (min_size(node) + 1)
}
