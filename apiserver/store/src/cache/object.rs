//! One object of a cache: its JSON text, and the few parsed fields that lists need.

use std::{io::Write, sync::Arc};

use bytes::Bytes;

use crate::Revision;

/// An object as the cache holds it.
#[derive(Debug, Clone)]
pub struct Object {
    pub(super) key: Arc<str>,
    /// Where the resource's prefix ends in `key`.
    pub(super) prefix: u32,
    pub(super) revision: Revision,
    /// The store's text, without resourceVersion.
    pub(super) text: Bytes,
    /// Where resourceVersion goes in `text`: right after the opening brace of `metadata`.
    pub(super) splice: u32,
    /// Whether `metadata` has other members, so that a comma is needed.
    pub(super) comma: bool,
    pub(super) deleting: bool,
    pub(super) uid: Box<str>,
    pub(super) labels: Labels,
    pub(super) fields: Fields,
    pub(super) owners: Box<[Owner]>,
}

/// Labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(pub(super) Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
}

/// The fields that field selectors may name, beside `metadata.name` and `metadata.namespace`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub(super) Box<[(Arc<str>, Box<str>)]>);

impl Fields {
    /// The value of a selectable field; empty if the object lacks it, `None` if it is not selectable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| **n == *name).map(|(_, v)| &**v)
    }
}

/// An owner reference, as far as deletion needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The owner's uid.
    pub uid: Box<str>,
    /// Whether the owner manages the object.
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for the object.
    pub block_owner_deletion: bool,
}

impl Object {
    /// The store key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same, to keep.
    pub fn key_shared(&self) -> Arc<str> {
        self.key.clone()
    }

    /// The revision that wrote the object: its resourceVersion.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The namespace; `None` if the resource is cluster-scoped.
    pub fn namespace(&self) -> Option<&str> {
        self.path().split_once('/').map(|(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.path().rsplit_once('/').map_or(self.path(), |(_, name)| name)
    }

    /// The uid; empty if the object has none.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The selectable fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The owner references.
    pub fn owners(&self) -> &[Owner] {
        &self.owners
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn deleting(&self) -> bool {
        self.deleting
    }

    /// The text as the store has it, without resourceVersion.
    pub fn stored(&self) -> &Bytes {
        &self.text
    }

    /// The whole JSON text, with resourceVersion.
    pub fn json(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.json_len());
        self.write_json(&mut out);
        out.into()
    }

    /// Appends the whole JSON text, with resourceVersion.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        self.write_json_after(0, out);
    }

    /// Appends the JSON text, with resourceVersion, without its first `skip` bytes.
    ///
    /// For list items that leave out kind and version, which stand before `metadata`.
    pub fn write_json_after(&self, skip: usize, out: &mut Vec<u8>) {
        let (head, tail) = self.text.split_at(self.splice as usize);
        let head = head.get(skip..).unwrap_or_default();
        let comma = if self.comma { "," } else { "" };
        out.extend_from_slice(head);
        let written = write!(out, r#""resourceVersion":"{}"{comma}"#, self.revision);
        debug_assert!(written.is_ok(), "writing to a vector cannot fail");
        out.extend_from_slice(tail);
    }

    /// Bytes that [`Object::json`] will have, rounded up.
    pub fn json_len(&self) -> usize {
        self.text.len() + r#""resourceVersion":"18446744073709551615","#.len()
    }

    /// The same object with another revision.
    pub fn at(&self, revision: Revision) -> Object {
        Object { revision, ..self.clone() }
    }

    fn path(&self) -> &str {
        &self.key[self.prefix as usize..]
    }
}
