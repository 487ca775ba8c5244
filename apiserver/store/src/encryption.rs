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

pub use config::{ConfigError, parse};

use crate::mapped::{Mapped, Mapping};
use crate::{Entry, Error, Event, Expect, Result, Store};
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

impl Mapping for ArcSwap<Rules> {
    fn entry(&self, entry: Entry) -> Result<Entry> {
        self.load().open_entry(entry)
    }

    fn event(&self, event: Arc<Event>) -> Result<Arc<Event>> {
        self.load().open_event(event)
    }

    fn stored(&self, key: &str, value: Bytes) -> Result<Bytes> {
        self.load().seal(key, value)
    }
}

/// A [`Store`] that seals what it hands to the one below.
pub type EncryptedStore = Mapped<ArcSwap<Rules>>;

impl EncryptedStore {
    /// Encrypts by these rules from now on. What is there stays as it is until [`EncryptedStore::renew`].
    pub fn new(below: Arc<dyn Store>, rules: Rules) -> EncryptedStore {
        Mapped::over(below, Arc::new(ArcSwap::from_pointee(rules)))
    }

    /// Other rules from now on.
    pub fn set_rules(&self, rules: Rules) {
        self.mapping.store(Arc::new(rules));
    }

    /// Writes what the rules' first providers did not write anew, so that older keys can be dropped afterwards;
    /// answers how many. What changes meanwhile is written by the new rules anyway.
    ///
    /// # Errors
    /// Those of the store, and [`Error::Unreadable`] for a value that no provider opens.
    pub async fn renew(&self, prefix: &str) -> Result<usize> {
        let rules = self.mapping.load_full();
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
