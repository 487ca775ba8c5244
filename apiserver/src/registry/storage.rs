//! Where the objects of one resource are: a prefix of the store, and the watch cache above it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use store::cache::{Cache, Decode, Decoder, Field, Limits};
use store::{Expect, Revision, Store};
use tokio::sync::OnceCell;

use crate::status::ApiError;

/// A field that `fieldSelector` takes, beside `metadata.name` and `metadata.namespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selectable {
    /// Its label, such as `spec.nodeName`.
    pub name: String,
    /// The members that lead to it.
    pub path: Vec<String>,
    /// What an object without it counts as.
    pub absent: String,
    /// The label of the field that counts where this one is absent or empty.
    pub instead: Option<String>,
}

impl Selectable {
    /// A field whose label is its path; it counts as empty where it is absent.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: name.split('.').map(str::to_owned).collect(),
            absent: String::new(),
            instead: None,
        }
    }

    /// The same field, with a value for objects that lack it.
    pub fn or(self, absent: &str) -> Self {
        Self { absent: absent.to_owned(), ..self }
    }

    /// The same field, with another field's value for objects that lack it or have it empty.
    pub fn or_field(self, label: &str) -> Self {
        Self { instead: Some(label.to_owned()), ..self }
    }

    /// The same field under another label.
    pub fn labelled(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}

/// Reads objects that have these fields.
pub(crate) fn decoder(selectable: &[Selectable]) -> Decoder {
    let field = |selectable: &Selectable| {
        let path: Vec<&str> = selectable.path.iter().map(String::as_str).collect();
        let field = Field::new(&selectable.name, &path).or(&selectable.absent);
        match &selectable.instead {
            Some(other) => field.or_field(other),
            None => field,
        }
    };
    Decoder::new(selectable.iter().map(field).collect())
}

/// Store prefix and watch cache of one resource; all its versions share it.
pub struct Storage {
    store: Arc<dyn Store>,
    prefix: String,
    selectable: Vec<Selectable>,
    cache: OnceCell<Cache>,
    /// The newest commit that this server was answered.
    answered: AtomicU64,
}

impl Storage {
    /// Storage of `group` (empty for core) and plural name; nothing is read before the first use.
    pub fn new(
        store: Arc<dyn Store>,
        group: &str,
        resource: &str,
        selectable: Vec<Selectable>,
    ) -> Self {
        let group = if group.is_empty() { "core" } else { group };
        let prefix = format!("/registry/{group}/{resource}/");
        Self { store, prefix, selectable, cache: OnceCell::new(), answered: AtomicU64::new(0) }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if namespace.is_empty() {
            [&*self.prefix, name].concat()
        } else {
            [&*self.prefix, namespace, "/", name].concat()
        }
    }

    /// What the field selectors of all versions may name.
    pub fn selectable(&self) -> &[Selectable] {
        &self.selectable
    }

    /// The cache, started now if it was not.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn cache(&self) -> Result<&Cache, ApiError> {
        let start = || async {
            let decode: Decode = decoder(&self.selectable).into();
            Cache::start(self.store.clone(), &self.prefix, decode, Limits::default()).await
        };
        self.cache.get_or_try_init(start).await.map_err(ApiError::from)
    }

    /// Commits to the store, as [`Store::commit`] does, and keeps in mind what [`Storage::recent`] must show.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn commit(
        &self,
        key: &str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> Result<Revision, store::Error> {
        let revision = self.store.commit(key, expect, value).await?;
        self.answered.fetch_max(revision, Ordering::AcqRel);
        Ok(revision)
    }

    /// The cache, as soon as it shows every write that this server has answered.
    ///
    /// Other servers on the same etcd may have written more: it is as new as an informer of upstream's server, and
    /// does not cost a question to etcd, as [`Cache::fresh`] does.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn recent(&self) -> Result<&Cache, ApiError> {
        let cache = self.cache().await?;
        cache.wait_for(self.answered.load(Ordering::Acquire)).await?;
        Ok(cache)
    }

    /// The cache, if it was started; hosted types' caches are from the start on.
    pub fn started(&self) -> Option<&Cache> {
        self.cache.get()
    }
}
