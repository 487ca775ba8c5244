//! Reads the few fields that lists need, in one pass over the text, without building a tree of it.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Decode, Fields, Labels, Object, Owner};
use crate::Entry;

/// Why a stored value is not an object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or a field has the wrong type.
    #[error("not an object")]
    Json(#[from] serde_json::Error),
    /// There is no `metadata`.
    #[error("no metadata")]
    NoMetadata,
    /// The key has fewer parts than `/registry/<group>/<resource>/<name>`.
    #[error("not a key of an object")]
    Key,
}

/// A field that selectors may name.
#[derive(Debug, Clone)]
pub struct Field {
    name: Arc<str>,
    path: Vec<String>,
    absent: Box<str>,
    /// The field that counts where this one is absent or empty.
    instead: Option<Arc<str>>,
}

impl Field {
    /// A field and the path of members to it; it counts as empty where it is absent.
    pub fn new(name: &str, path: &[&str]) -> Field {
        Field {
            name: name.into(),
            path: path.iter().map(|&p| p.into()).collect(),
            absent: "".into(),
            instead: None,
        }
    }

    /// The same field, with a value for objects that lack it (as `spec.unschedulable`, `false`).
    pub fn or(self, absent: &str) -> Field {
        Field { absent: absent.into(), ..self }
    }

    /// The same field, with another field's value for objects that lack it or have it empty.
    pub fn or_field(self, name: &str) -> Field {
        Field { instead: Some(name.into()), ..self }
    }
}

/// Decodes the objects of a resource. [`Into<Decode>`] is what [`super::Cache::start`] takes.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    fields: Arc<[Field]>,
    tree: Arc<Node>,
}

/// Members of interest: leaves are indexes of fields.
#[derive(Debug, Default)]
struct Node {
    fields: Vec<usize>,
    members: BTreeMap<String, Node>,
}

impl Decoder {
    /// A decoder that also reads these selectable fields.
    pub fn new(fields: Vec<Field>) -> Decoder {
        let mut tree = Node::default();
        for (index, field) in fields.iter().enumerate() {
            let mut node = &mut tree;
            for member in &field.path {
                node = node.members.entry(member.clone()).or_default();
            }
            node.fields.push(index);
        }
        Decoder { fields: fields.into(), tree: Arc::new(tree) }
    }

    /// Decodes one entry, whose key is `/registry/<group>/<resource>/[<namespace>/]<name>`.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(&self, entry: &Entry) -> Result<Object, DecodeError> {
        let text = &entry.value;
        let mut found = Found { metadata: None, values: vec![None; self.fields.len()] };
        let mut input = serde_json::Deserializer::from_slice(text);
        Whole { tree: &self.tree, found: &mut found }.deserialize(&mut input)?;
        input.end()?;
        let raw = found.metadata.ok_or(DecodeError::NoMetadata)?.get();
        let meta: Meta<'_> = serde_json::from_str(raw)?;
        // `raw` is a slice of `text`; the brace is its first byte.
        let splice = raw.as_ptr() as usize - text.as_ptr() as usize + 1;
        let comma = !raw[1..].trim_start().starts_with('}');
        Ok(Object {
            prefix: prefix_len(&entry.key).ok_or(DecodeError::Key)?,
            key: entry.key.clone(),
            revision: entry.revision,
            text: text.clone(),
            splice: u32::try_from(splice).map_err(|_| DecodeError::NoMetadata)?,
            comma,
            deleting: meta.deletion_timestamp.is_some(),
            uid: meta.uid.unwrap_or_default().into(),
            labels: Labels(
                meta.labels
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(k, v)| (k.into(), v.into()))
                    .collect(),
            ),
            fields: Fields(self.values(&found.values)),
            owners: meta
                .owner_references
                .unwrap_or_default()
                .into_iter()
                .map(Owner::from)
                .collect(),
        })
    }
}

impl Decoder {
    /// The fields by name, from what was found of each.
    fn values<C: FromIterator<(Arc<str>, Box<str>)>>(&self, found: &[Option<Box<str>>]) -> C {
        let of = |name: &str| {
            let index = self.fields.iter().position(|field| &*field.name == name)?;
            found[index].as_ref()
        };
        let value = |(field, found): (&Field, &Option<Box<str>>)| {
            let other = field.instead.as_deref();
            let found = match other {
                Some(other) => found.as_ref().filter(|text| !text.is_empty()).or_else(|| of(other)),
                None => found.as_ref(),
            };
            (field.name.clone(), found.unwrap_or(&field.absent).clone())
        };
        self.fields.iter().zip(found).map(value).collect()
    }
}

impl From<Decoder> for Decode {
    fn from(decoder: Decoder) -> Decode {
        Arc::new(move |entry| decoder.decode(entry))
    }
}

/// Length of `/registry/<group>/<resource>/`.
fn prefix_len(key: &str) -> Option<u32> {
    let third = key.match_indices('/').nth(3)?.0;
    u32::try_from(third + 1).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(borrow)]
    owner_references: Option<Vec<RawOwner<'a>>>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOwner<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl From<RawOwner<'_>> for Owner {
    fn from(raw: RawOwner<'_>) -> Owner {
        Owner {
            uid: raw.uid.into(),
            controller: raw.controller.unwrap_or_default(),
            block_owner_deletion: raw.block_owner_deletion.unwrap_or_default(),
        }
    }
}

struct Found<'de> {
    metadata: Option<&'de RawValue>,
    values: Vec<Option<Box<str>>>,
}

/// Reads the top level: `metadata` as text, members of interest deeper.
struct Whole<'a, 'de> {
    tree: &'a Node,
    found: &'a mut Found<'de>,
}

impl<'de> DeserializeSeed<'de> for Whole<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "metadata" {
                let raw: &'de RawValue = map.next_value()?;
                if let Some(node) = self.tree.members.get("metadata") {
                    let mut inner = serde_json::Deserializer::from_str(raw.get());
                    let seed = Inside { node, values: &mut self.found.values };
                    seed.deserialize(&mut inner).map_err(serde::de::Error::custom)?;
                }
                self.found.metadata = Some(raw);
            } else if let Some(node) = self.tree.members.get(&*key) {
                map.next_value_seed(Inside { node, values: &mut self.found.values })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads members of interest below the top level; whatever has another shape than expected is left out.
struct Inside<'a> {
    node: &'a Node,
    values: &'a mut Vec<Option<Box<str>>>,
}

impl Inside<'_> {
    fn scalar(self, text: &str) {
        for &index in &self.node.fields {
            self.values[index] = Some(text.into());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inside<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.scalar(text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.node.members.get(&*key) {
                Some(node) => map.next_value_seed(Inside { node, values: &mut *self.values })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_field_stands_in_for_one_that_is_absent_or_empty() {
        let source = Field::new("source", &["source", "component"]).or("none");
        let fields = vec![source.or_field("reporter"), Field::new("reporter", &["reporter"])];
        let decoder = Decoder::new(fields);
        let source = |text: &str| {
            let entry = Entry {
                key: "/registry/core/events/a/b".into(),
                value: format!(r#"{{"metadata":{{}},{text}}}"#).into(),
                revision: 1,
            };
            decoder.decode(&entry).unwrap().fields.get("source").unwrap().to_owned()
        };
        assert_eq!(source(r#""reporter":"r","source":{"component":"s"}"#), "s");
        assert_eq!(source(r#""source":{"component":""},"reporter":"r""#), "r");
        assert_eq!(source(r#""reporter":"r""#), "r");
        assert_eq!(source(r#""source":{}"#), "none");
    }
}
