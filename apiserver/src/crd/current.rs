//! What is stored, as the definition wants it today.
//!
//! An object that was written before its definition changed is pruned and gets its defaults when it is read, by the
//! schema of the version that it was stored in. What was written since is stored that way, and is not looked at.
//!
//! Source: kubernetes.io, "Defaulting": defaults are applied when reading from etcd; upstream's
//! `apiextensions-apiserver/pkg/apiserver/customresource_handler.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::bytes::Bytes;
use serde_json::Value;
use store::{Entry, Event, Mapping, Result, Revision};

use crate::bytes;
use crate::registry::{LazySchema, SchemaSource};

/// The schemas of a definition's versions, and by them what is stored as they want it.
pub(crate) struct Schemas {
    by_version: BTreeMap<String, Arc<LazySchema>>,
    /// What was written later was written by these schemas.
    since: Revision,
}

impl Schemas {
    /// Those of a definition that was written by `revision`.
    pub(super) fn new(spec: &Value, revision: Revision) -> Self {
        let versions = spec["versions"].as_array().into_iter().flatten();
        let by_version = versions.map(|version| {
            let source = match &version["schema"]["openAPIV3Schema"] {
                Value::Null => SchemaSource::None,
                schema => SchemaSource::OpenApi(schema.to_string().into()),
            };
            (super::text(version, "name"), Arc::new(LazySchema::new(source)))
        });
        Self { by_version: by_version.collect(), since: revision }
    }

    /// The schema of a version.
    pub(super) fn get(&self, version: &str) -> Option<&Arc<LazySchema>> {
        self.by_version.get(version)
    }

    /// Whether objects look the same by both.
    pub(super) fn agree(&self, other: &Self) -> bool {
        fn texts(schemas: &Schemas) -> impl Iterator<Item = (&String, Option<&Arc<str>>)> {
            schemas.by_version.iter().map(|(name, schema)| match schema.source() {
                SchemaSource::OpenApi(text) => (name, Some(text)),
                _ => (name, None),
            })
        }
        texts(self).eq(texts(other))
    }

    /// A value that was written by a revision.
    fn value(&self, value: Bytes, written: Revision) -> Bytes {
        match written > self.since {
            true => value,
            false => self.bring_up(&value).unwrap_or(value),
        }
    }

    fn bring_up(&self, value: &Bytes) -> Option<Bytes> {
        let mut object: Value = serde_json::from_slice(value).ok()?;
        let (_, version) = object["apiVersion"].as_str()?.split_once('/')?;
        let schema = self.get(version)?.get()?;
        schema.prune(&mut object);
        schema.default(&mut object);
        Some(bytes::encode(&object))
    }
}

impl Mapping for Schemas {
    fn entry(&self, entry: Entry) -> Result<Entry> {
        Ok(Entry { value: self.value(entry.value, entry.revision), ..entry })
    }

    fn event(&self, event: Arc<Event>) -> Result<Arc<Event>> {
        let before = event.previous.as_ref().map_or(event.revision, |previous| previous.revision);
        if before > self.since {
            return Ok(event);
        }
        let mut event = Event::clone(&event);
        event.value = event.value.map(|value| self.value(value, event.revision));
        event.previous = event.previous.map(|previous| self.entry(previous)).transpose()?;
        Ok(Arc::new(event))
    }
}
