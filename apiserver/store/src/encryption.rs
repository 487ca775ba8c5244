//! Encryption at rest: a store above another one, which sees only sealed values of the resources that rules name.
//!
//! What is stored is what upstream's server stores: a prefix that names provider and key, then the sealed value, bound
//! to its key in the store where the provider can do that.
//!
//! Source: `EncryptionConfiguration`, kubernetes.io, "Encrypting Confidential Data at Rest".

mod config;
mod provider;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt;

pub use config::{ConfigError, parse};

use crate::{
    BoxFuture, Entry, Error, Event, Expect, Result, Revision, Snapshot, Store, WatchStream,
};
use provider::Provider;

/// What every sealed value begins with.
const SEALED: &[u8] = b"k8s:enc:";

/// Which resources one rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// `core` for the core group; `None` for all.
    group: Option<String>,
    /// `None` for all.
    resource: Option<String>,
}

impl Target {
    fn includes(&self, group: &str, resource: &str) -> bool {
        self.group.as_deref().is_none_or(|g| g == group)
            && self.resource.as_deref().is_none_or(|r| r == resource)
    }
}

#[derive(Debug)]
struct Rule {
    targets: Vec<Target>,
    /// The first one seals; all of them open.
    providers: Vec<Provider>,
}

/// What is encrypted, and how; see [`parse`].
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Providers for a key of the store; none if no rule names its resource.
    fn of(&self, key: &str) -> &[Provider] {
        let mut parts = key.split('/').skip(2);
        let (Some(group), Some(resource)) = (parts.next(), parts.next()) else { return &[] };
        let fits = |rule: &&Rule| rule.targets.iter().any(|t| t.includes(group, resource));
        self.0.iter().find(fits).map_or(&[], |rule| &rule.providers)
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes> {
        match self.of(key).first() {
            Some(first) => first
                .seal(&value, key.as_bytes())
                .ok_or_else(|| unreadable(key, format!("the provider {first} cannot encrypt it"))),
            None => Ok(value),
        }
    }

    fn open(&self, key: &str, value: &Bytes) -> Result<Bytes> {
        let providers = self.of(key);
        if let Some(fit) = providers.iter().find(|p| p.sealed(value)) {
            return fit.open(value, key.as_bytes()).ok_or_else(|| {
                unreadable(key, format!("the key of the provider {fit} does not fit, or the value was changed or moved"))
            });
        }
        if value.starts_with(SEALED) {
            let name = String::from_utf8_lossy(
                value
                    .split_inclusive(|b| *b == b':')
                    .take(5)
                    .collect::<Vec<_>>()
                    .concat()
                    .as_slice(),
            )
            .into_owned();
            return Err(unreadable(
                key,
                format!("it was encrypted by {name}, which the configuration does not have for it"),
            ));
        }
        if providers.is_empty() || providers.iter().any(Provider::is_identity) {
            return Ok(value.clone());
        }
        let why = "it is not encrypted, and the configuration has no identity provider for it";
        Err(unreadable(key, why.into()))
    }

    fn open_entry(&self, entry: Entry) -> Result<Entry> {
        let value = self.open(&entry.key, &entry.value)?;
        Ok(Entry { value, ..entry })
    }

    fn open_event(&self, event: Arc<Event>) -> Result<Arc<Event>> {
        let value = event.value.as_ref().map(|v| self.open(&event.key, v)).transpose()?;
        // What was there before may be older than the oldest key; nobody has to know it.
        let previous = event.previous.clone().and_then(|p| self.open_entry(p).ok());
        Ok(Arc::new(Event { value, previous, key: event.key.clone(), ..*event }))
    }

    /// Whether a stored value is not as it would be stored today.
    fn is_stale(&self, key: &str, value: &[u8]) -> bool {
        self.of(key).first().is_some_and(|first| !first.sealed(value))
    }
}

fn unreadable(key: &str, why: String) -> Error {
    Error::Unreadable { key: key.into(), why }
}

/// A [`Store`] that seals what it hands to the one below.
pub struct EncryptedStore {
    below: Arc<dyn Store>,
    rules: Arc<ArcSwap<Rules>>,
}

impl EncryptedStore {
    /// Encrypts by these rules from now on. What is there stays as it is until [`EncryptedStore::renew`].
    pub fn new(below: Arc<dyn Store>, rules: Rules) -> EncryptedStore {
        EncryptedStore { below, rules: Arc::new(ArcSwap::from_pointee(rules)) }
    }

    /// Other rules from now on.
    pub fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Writes what the rules' first providers did not write anew, so that older keys can be dropped afterwards;
    /// answers how many. What changes meanwhile is written by the new rules anyway.
    ///
    /// # Errors
    /// Those of the store, and [`Error::Unreadable`] for a value that no provider opens.
    pub async fn renew(&self, prefix: &str) -> Result<usize> {
        let rules = self.rules.load_full();
        let mut n_renewed = 0;
        for entry in self.below.range(prefix, None).await?.entries {
            if !rules.is_stale(&entry.key, &entry.value) {
                continue;
            }
            let (key, revision) = (entry.key.clone(), entry.revision);
            let sealed = rules.seal(&key, rules.open_entry(entry)?.value)?;
            match self.below.commit(&key, Expect::At(revision), Some(sealed)).await {
                Ok(_) => n_renewed += 1,
                Err(Error::Conflict { .. }) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(n_renewed)
    }
}

impl Store for EncryptedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        async move {
            let entry = self.below.get(key).await?;
            entry.map(|entry| self.rules.load().open_entry(entry)).transpose()
        }
        .boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        async move {
            let Snapshot { revision, entries } = self.below.range(prefix, at).await?;
            let rules = self.rules.load();
            let entries = entries.into_iter().map(|entry| rules.open_entry(entry));
            Ok(Snapshot { revision, entries: entries.collect::<Result<_>>()? })
        }
        .boxed()
    }

    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>> {
        async move {
            let sealed = value.map(|value| self.rules.load().seal(key, value)).transpose()?;
            match self.below.commit(key, expect, sealed).await {
                Err(Error::Conflict { key, current: Some(current) }) => {
                    let current = Some(self.rules.load().open_entry(current)?);
                    Err(Error::Conflict { key, current })
                }
                other => other,
            }
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let below = self.below.watch(prefix, from);
        let rules = self.rules.clone();
        async move { Ok(below.await?.map(move |event| rules.load().open_event(event))) }.boxed()
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
