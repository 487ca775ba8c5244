//! YAML with every pair of its maps, to tell keys that come twice.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A YAML value, of which only what has keys is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// Keys and values in their order.
    Map(Vec<(String, Spanned<Pairs>)>),
    /// The elements of a list.
    List(Vec<Pairs>),
    /// Anything else.
    Scalar,
}

impl Pairs {
    /// A complaint about each key that its map has already, with the line where its value begins.
    ///
    /// Source: `setMapIndex` of `go-yaml`, which decodes a value before it looks at its key.
    pub(super) fn twice(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        self.tell(&mut complaints);
        complaints
    }

    fn tell(&self, complaints: &mut Vec<String>) {
        match self {
            Pairs::Map(pairs) => {
                let mut seen = HashSet::new();
                for (key, value) in pairs {
                    value.value.tell(complaints);
                    if !seen.insert(key) {
                        let line = value.referenced.line();
                        complaints.push(format!("line {line}: key {key:?} already set in map"));
                    }
                }
            }
            Pairs::List(list) => list.iter().for_each(|value| value.tell(complaints)),
            Pairs::Scalar => (),
        }
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_none<E>(self) -> Result<Pairs, E> {
        Ok(Pairs::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pairs, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Pairs, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Pairs::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pairs, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Pairs::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs::Map(pairs))
    }
}
