//! The table of messages.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: &'static str,
    pub(super) fields: Vec<Field>,
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    /// Its name in JSON.
    pub(super) name: &'static str,
    pub(super) number: u32,
    /// Whether its fields stand in the parent in JSON.
    pub(super) inline: bool,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
}

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    Many,
    Map,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bytes,
    Int32,
    Int64,
    Bool,
    Double,
    Message(&'static str),
}

/// Prefixes of definition names, and what the table has instead.
const PREFIXES: [(&str, &str); 7] = [
    ("io.k8s.apimachinery.pkg.apis.meta.v1.", "meta."),
    ("io.k8s.apimachinery.pkg.api.resource.", "resource."),
    ("io.k8s.apimachinery.pkg.util.intstr.", ""),
    ("io.k8s.apimachinery.pkg.runtime.", ""),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.", "apiextensions."),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.", "apiregistration."),
    ("io.k8s.api.", ""),
];

/// A definition's name in the table.
pub(super) fn short(definition: &str) -> Cow<'_, str> {
    for (long, short) in PREFIXES {
        if let Some(rest) = definition.strip_prefix(long) {
            return if short.is_empty() { rest.into() } else { format!("{short}{rest}").into() };
        }
    }
    definition.into()
}

/// A message of the table.
pub(super) fn find(name: &str) -> Option<&'static Message> {
    TABLE.get(name)
}

static TABLE: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let lines = include_str!("../../data/protobuf.txt").lines();
    let read = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next()?;
        let fields =
            words.filter(|word| !word.is_empty()).map(field).collect::<Option<Vec<_>>>()?;
        Some((name, Message { name, fields }))
    };
    lines.filter(|line| !line.starts_with('#')).filter_map(read).collect()
});

/// `name=number:type`.
fn field(text: &'static str) -> Option<Field> {
    let (name, rest) = text.split_once('=')?;
    let (number, kind) = rest.split_once(':')?;
    let (shape, kind) = match kind.split_at(1) {
        ("*", kind) => (Shape::Many, kind),
        ("{", kind) => (Shape::Map, kind),
        _ => (Shape::One, kind),
    };
    let kind = match kind {
        "s" => Kind::Text,
        "b" => Kind::Bytes,
        "i" => Kind::Int32,
        "l" => Kind::Int64,
        "t" => Kind::Bool,
        "d" => Kind::Double,
        message => Kind::Message(message),
    };
    let inline = name.starts_with('~');
    Some(Field {
        name: name.trim_start_matches('~'),
        number: number.parse().ok()?,
        inline,
        shape,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let lines = include_str!("../../data/protobuf.txt").lines().filter(|l| !l.starts_with('#'));
        assert_eq!(TABLE.len(), lines.count());
        for message in TABLE.values() {
            for field in &message.fields {
                if let Kind::Message(name) = field.kind {
                    assert!(find(name).is_some(), "{name} of {}.{}", message.name, field.name);
                }
            }
        }
    }

    #[test]
    fn every_served_kind_with_fields_has_a_message() {
        let mut without: Vec<&str> = Vec::new();
        for name in schema::facts::names() {
            let definition = schema::facts::definition(name).unwrap_or_default();
            let served = !definition.gvk.is_empty() && !definition.not_served;
            if served && find(&short(name)).is_none() {
                without.push(name);
            }
        }
        assert!(without.is_empty(), "{without:?}");
    }
}
