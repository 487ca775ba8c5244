//! Which types are the same, which fit where another is expected, and what a function makes of them.

use super::declared::Overload;
use crate::cel::types::Type;

/// Whether two types are the same, whatever their sizes.
pub(super) fn same(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Object(a, _), Type::Object(b, _)) => a.fields.len() == b.fields.len(),
        (a, b) => a.to_string() == b.to_string(),
    }
}

/// What both of two values can be.
pub(super) fn wider(a: Type, b: Type) -> Type {
    match (a, b) {
        (Type::Free, other) | (other, Type::Free) => other,
        (Type::Text(a), Type::Text(b)) => Type::Text(a.max(b)),
        (Type::List(a, n), Type::List(b, m)) => Type::List(wider(*a, *b).into(), n.max(m)),
        (Type::Map(a, n), Type::Map(b, m)) => {
            let ([a_key, a], [b_key, b]) = (*a, *b);
            Type::Map([wider(a_key, b_key), wider(a, b)].into(), n.max(m))
        }
        (a, b) if same(&a, &b) => a,
        (Type::Null, other) | (other, Type::Null) if is_nullable(&other) => other,
        _ => Type::Dyn,
    }
}

fn is_nullable(of: &Type) -> bool {
    matches!(
        of,
        Type::Null
            | Type::Duration
            | Type::Timestamp(_)
            | Type::Object(..)
            | Type::Metadata
            | Type::Known(_)
            | Type::Made(_)
            | Type::Optional(_)
    )
}

/// Whether a value of a type can stand where another is expected; what is open there is bound to it.
pub(super) fn fits(expected: &Type, found: &Type, bound: &mut Vec<Option<Type>>) -> bool {
    match (expected, found) {
        (Type::Open(n), _) => {
            bound.resize((*n + 1).max(bound.len()), None);
            let both = match bound[*n].clone() {
                None => found.clone(),
                Some(known) if !fits(&known, found, bound) => return false,
                // Of both no more is known than of the one of which less is known.
                Some(known) if holds_dyn(&known) => known,
                Some(_) if holds_dyn(found) => found.clone(),
                Some(known) => wider(known, found.clone()),
            };
            bound[*n] = Some(both);
            true
        }
        (Type::Dyn | Type::Free, _) | (_, Type::Dyn | Type::Free | Type::Open(_)) => true,
        (Type::Null, other) | (other, Type::Null) => is_nullable(other),
        (Type::List(a, _), Type::List(b, _)) | (Type::Optional(a), Type::Optional(b)) => {
            fits(a, b, bound)
        }
        (Type::Map(a, _), Type::Map(b, _)) => {
            fits(&a[0], &b[0], bound) && fits(&a[1], &b[1], bound)
        }
        (Type::Itself(_), Type::Itself(_)) => true,
        (a, b) => same(a, b),
    }
}

fn holds_dyn(of: &Type) -> bool {
    match of {
        Type::Dyn => true,
        Type::List(inner, _) | Type::Optional(inner) => holds_dyn(inner),
        Type::Map(entry, _) => entry.iter().any(holds_dyn),
        _ => false,
    }
}

/// What the overloads that fit answer; anything if they answer different types, none if none fits.
pub(super) fn answer(overloads: &[Overload], is_method: bool, types: &[Type]) -> Option<Type> {
    let mut found: Option<Type> = None;
    for overload in overloads.iter().filter(|o| o.is_method == is_method) {
        let mut bound = Vec::new();
        let is_fit = overload.takes.len() == types.len()
            && overload.takes.iter().zip(types).all(|(takes, of)| fits(takes, of, &mut bound));
        if is_fit {
            let of = substituted(&overload.answers, &bound);
            found = Some(match found {
                Some(known) if !same(&known, &of) => Type::Dyn,
                _ => of,
            });
        }
    }
    found
}

fn substituted(of: &Type, bound: &[Option<Type>]) -> Type {
    let inner = |of: &Type| substituted(of, bound);
    match of {
        Type::Open(n) => bound.get(*n).cloned().flatten().unwrap_or(Type::Dyn),
        Type::List(item, n) => Type::List(inner(item).into(), *n),
        Type::Map(entry, n) => Type::Map([inner(&entry[0]), inner(&entry[1])].into(), *n),
        Type::Optional(of) => Type::Optional(inner(of).into()),
        Type::Itself(of) => Type::Itself(inner(of).into()),
        other => other.clone(),
    }
}
