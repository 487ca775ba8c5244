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
use futures::FutureExt as _;
use serde_json::Value;
use store::{
    BoxFuture, Entry, Error, Event, Expect, Result, Revision, Snapshot, Store, WatchStream,
};

use crate::bytes;
use crate::registry::{LazySchema, SchemaSource};

/// The schemas of a definition's versions.
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
        let texts = |schemas: &Self| -> Vec<(String, Option<Arc<str>>)> {
            let text = |schema: &LazySchema| match schema.source() {
                SchemaSource::OpenApi(text) => Some(text.clone()),
                _ => None,
            };
            schemas.by_version.iter().map(|(name, schema)| (name.clone(), text(schema))).collect()
        };
        texts(self) == texts(other)
    }

    fn bring_up(&self, value: &Bytes) -> Option<Bytes> {
        let mut object: Value = serde_json::from_slice(value).ok()?;
        let (_, version) = object["apiVersion"].as_str()?.split_once('/')?;
        let schema = self.get(version)?.get()?;
        schema.prune(&mut object);
        schema.default(&mut object);
        Some(bytes::encode(&object))
    }

    fn entry(&self, entry: Entry) -> Entry {
        if entry.revision > self.since {
            return entry;
        }
        let value = self.bring_up(&entry.value).unwrap_or(entry.value);
        Entry { value, ..entry }
    }

    fn event(&self, event: Arc<Event>) -> Arc<Event> {
        let is_old = |previous: &Entry| previous.revision <= self.since;
        if !event.previous.as_ref().is_some_and(is_old) && event.revision > self.since {
            return event;
        }
        let mut event = Event::clone(&event);
        event.previous = event.previous.map(|previous| self.entry(previous));
        if event.revision <= self.since {
            event.value = event.value.map(|value| self.bring_up(&value).unwrap_or(value));
        }
        Arc::new(event)
    }
}

/// The objects of one definition in a [`Store`], as its schemas want them.
pub(super) struct Current {
    pub(super) below: Arc<dyn Store>,
    pub(super) schemas: Arc<Schemas>,
}

impl Store for Current {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        let found = self.below.get(key);
        async move { Ok(found.await?.map(|entry| self.schemas.entry(entry))) }.boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        let found = self.below.range(prefix, at);
        async move {
            let Snapshot { revision, entries } = found.await?;
            let entries = entries.into_iter().map(|entry| self.schemas.entry(entry)).collect();
            Ok(Snapshot { revision, entries })
        }
        .boxed()
    }

    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>> {
        let committed = self.below.commit(key, expect, value);
        let conflict = |error| match error {
            Error::Conflict { key, current } => {
                let current = current.map(|entry| self.schemas.entry(entry));
                Error::Conflict { key, current }
            }
            other => other,
        };
        async move { committed.await.map_err(conflict) }.boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let (watch, schemas) = (self.below.watch(prefix, from), self.schemas.clone());
        async move { Ok(watch.await?.map(move |event| Ok(schemas.event(event)))) }.boxed()
    }

    fn catch_up(&self) -> Option<BoxFuture<'_, Result<()>>> {
        self.below.catch_up()
    }

    fn request_progress(&self, prefix: &str) {
        self.below.request_progress(prefix);
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.below.compact(before)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.below.revision()
    }
}
