//! Not acting on a cache that does not show our own last writes yet.
//!
//! Source: KEP-5647 (staleness of controllers) and KEP-5504 (comparable resourceVersions); upstream's
//! older answer to the same question are the "expectations" of `pkg/controller/controller_utils.go`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tracing::warn;

use crate::reflector::{Reflected, Reflector, revision_of};

/// After this a write counts as seen, so that a lost event cannot block an object for ever.
///
/// Source: `ExpectationsTimeout` in upstream `pkg/controller/controller_utils.go`.
const GIVE_UP_AFTER: Duration = Duration::from_mins(5);

/// Writes of objects of type `K` that its reflector may not show yet, by the UID of the object on
/// whose behalf they were done.
pub struct Writes<K: Reflected> {
    reflector: Reflector<K>,
    by_owner: Mutex<HashMap<String, Vec<Write>>>,
}

struct Write {
    at: Instant,
    what: What,
}

enum What {
    /// The object was created or updated, which gave it this resourceVersion.
    Revision(u64),
    /// The deletion of the object with this UID was asked for.
    Deleted { namespace: Option<String>, name: String, uid: String },
}

impl<K: Reflected> Writes<K> {
    /// Nothing was written yet; `reflector` is the cache to compare with.
    #[must_use]
    pub fn new(reflector: Reflector<K>) -> Self {
        Self { reflector, by_owner: Mutex::default() }
    }

    /// Notes that `written`, the server's answer to a create or update, was written for `owner`.
    pub fn wrote(&self, owner: &str, written: &K) {
        self.note(owner, What::Revision(revision_of(written)));
    }

    /// Notes that the deletion of `object` was asked for on behalf of `owner`.
    pub fn deleted(&self, owner: &str, object: &K) {
        let uid = object.meta().uid.clone().unwrap_or_default();
        self.note(
            owner,
            What::Deleted { namespace: object.namespace(), name: object.name_any(), uid },
        );
    }

    /// Whether the cache shows everything that was written for `owner`; if not, come back later
    /// (the missing event will wake the object, [`crate::CACHE_LAG`] is the safety net).
    #[must_use]
    pub fn seen_by_cache(&self, owner: &str) -> bool {
        let mut by_owner = self.by_owner.lock();
        let Some(writes) = by_owner.get_mut(owner) else { return true };
        writes.retain(|write| !self.is_seen(write));
        if !writes.is_empty() {
            return false;
        }
        by_owner.remove(owner);
        true
    }

    fn note(&self, owner: &str, what: What) {
        let write = Write { at: Instant::now(), what };
        self.by_owner.lock().entry(owner.to_owned()).or_default().push(write);
    }

    fn is_seen(&self, write: &Write) -> bool {
        let seen = match &write.what {
            What::Revision(revision) => self.reflector.revision() >= *revision,
            What::Deleted { namespace, name, uid } => {
                let cached = self.reflector.get(namespace.as_deref(), name);
                cached.is_none_or(|object| {
                    let meta = object.meta();
                    meta.uid.as_ref() != Some(uid) || meta.deletion_timestamp.is_some()
                })
            }
        };
        if !seen && write.at.elapsed() > GIVE_UP_AFTER {
            warn!(kind = %K::kind(&()), "cache never showed a write");
            return true;
        }
        seen || self.reflector.listed_since(write.at)
    }
}
