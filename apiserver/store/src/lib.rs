//! Where the score is kept: revisioned bytes under keys, and the watch cache above them.
//!
//! Two layers, both without HTTP:
//!
//! * [`Store`] maps keys to bytes, compares and commits, and streams changes. [`MemoryStore`] is for
//!   tests, [`EmbeddedStore`] is one durable file, [`EtcdStore`] a cluster that several servers share.
//! * [`cache::Cache`] holds one resource (one key prefix) as decoded objects, ready to be listed and
//!   watched by many clients without asking the store.
//!
//! # Writing
//!
//! ```
//! # tokio_test();
//! # fn tokio_test() { tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use store::{Expect, MemoryStore, Store};
//!
//! let store = MemoryStore::new();
//! let key = "/registry/core/pods/default/web";
//! let first = store.commit(key, Expect::Absent, Some("{}".into())).await.unwrap();
//! let second = store.commit(key, Expect::At(first), Some("{ }".into())).await.unwrap();
//! assert!(second > first);
//! // A stale expectation is answered with what is there, so that the caller can try again at once.
//! let Err(store::Error::Conflict { current: Some(now), .. }) = store.commit(key, Expect::At(first), None).await
//! else { panic!("a stale commit must conflict") };
//! assert_eq!(now.revision, second);
//! # }) }
//! ```
//!
//! # Guarantees (each one is a law in `tests/promises/laws.rs`)
//!
//! * A commit that was answered is durable (embedded: after `fdatasync`) and visible to every later read.
//! * Revisions are global, strictly increasing, and never reused, also over restarts.
//! * Of concurrent commits with the same expectation one succeeds.
//! * A watch delivers every change after its start once, in order of revision, or says [`Error::Compacted`]
//!   or [`Error::Lagged`].

pub mod cache;
mod embedded;
pub mod encryption;
mod error;
mod etcd;
mod feed;
mod mapped;
mod memory;
mod state;
pub mod testing;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
pub use futures::future::BoxFuture;

pub use embedded::{EmbeddedStore, Options, Summary, backup, restore};
pub use error::{Error, Result};
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls, Expiry};
pub use mapped::{Mapped, Mapping};
pub use memory::MemoryStore;
pub use watch::{Position, WatchItem, WatchSender, WatchStream};

/// A point in the history of the whole store. The empty store is at 1; the first commit makes 2.
pub type Revision = u64;

/// What a commit requires of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key has no value.
    Absent,
    /// The key's value was written by this revision.
    At(Revision),
}

/// A value with its key and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `/registry/<group or "core">/<resource>/[<namespace>/]<name>`.
    pub key: Arc<str>,
    /// The stored bytes; objects are JSON text without `metadata.resourceVersion`.
    pub value: Bytes,
    /// The revision that wrote `value`.
    pub revision: Revision,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision that this change made.
    pub revision: Revision,
    /// The changed key.
    pub key: Arc<str>,
    /// The new value; `None` if the key was deleted.
    pub value: Option<Bytes>,
    /// What the key held before.
    pub previous: Option<Entry>,
}

/// Entries under a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision that the entries show.
    pub revision: Revision,
    /// Sorted by key.
    pub entries: Vec<Entry>,
}

/// Revisioned keys and values.
pub trait Store: Send + Sync + 'static {
    /// The value of `key` now, at least as new as every answered commit.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// All entries under `prefix`, now or as they were at a revision.
    ///
    /// # Errors
    /// [`Error::Compacted`] if that revision's state can no longer be told, [`Error::Future`] if it is not reached.
    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>>;

    /// Sets (`Some`) or deletes (`None`) the value of `key` if it is as expected, and returns the new revision.
    ///
    /// If the returned future is dropped the commit may or may not happen.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the current entry, if the expectation does not hold.
    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>>;

    /// Changes under `prefix` after (not at) `from`, in order.
    ///
    /// # Errors
    /// [`Error::Compacted`] if changes after `from` are no longer known, [`Error::Future`] if it is not reached.
    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>>;

    /// Waits until every commit that anybody was answered before this call has been handed to this store's watches,
    /// so that their [`Position`]s tell what there is to see. `None` if that is always so.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store cannot be asked.
    fn catch_up(&self) -> Option<BoxFuture<'_, Result<()>>> {
        None
    }

    /// Asks that watches of exactly `prefix` get a [`WatchItem::Progress`] soon, even if nothing changes.
    fn request_progress(&self, prefix: &str);

    /// Forgets history: reads and watches from before `before` are refused afterwards.
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>>;

    /// The newest revision.
    fn revision(&self) -> BoxFuture<'_, Result<Revision>>;
}
