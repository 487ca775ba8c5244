//! A store in an etcd cluster, for several API servers.
//!
//! One watch follows everything under the prefix; the watches of this store are fed from it, so that a hundred caches
//! cost etcd one stream, and so that this process knows how far all of them are. Reads and commits go to etcd.
//!
//! No request waits longer than [`PATIENCE`](cluster::PATIENCE). What may be repeated is repeated on the other
//! endpoints; a commit that may have arrived is not, since it would conflict with itself.

mod cluster;
mod compact;
mod follow;
mod keys;
mod lease;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use futures::FutureExt;
use tokio::task::AbortHandle;

use crate::{
    BoxFuture, Entry, Error, Expect, Result, Revision, Snapshot, Store, WatchStream,
    state::MAX_ENTRY,
};
use cluster::{Cluster, Repeat};
use follow::Shared;
use keys::Keys;
pub use lease::Expiry;
use lease::Leases;

/// Entries that one answer of etcd may hold; longer ranges are read in pages at one revision.
const PAGE: i64 = 500;

/// How often a range that lasts longer than etcd keeps history is begun again.
const RANGE_ATTEMPTS: usize = 3;

/// Files for TLS, as PEM. Without any, and with an `http` endpoint, connections are plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Authorities that etcd's certificate must come from.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// How to reach etcd, and what to keep where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// URLs of the members, such as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// For `https` endpoints.
    pub tls: EtcdTls,
    /// What stands in etcd for the `/registry` of our keys, so that several clusters can share one etcd.
    pub prefix: String,
    /// How often history is compacted; what is older than this, and at most twice this, is kept. `None`: never.
    pub compaction_interval: Option<Duration>,
    /// What goes by itself.
    pub expiry: Option<Expiry>,
}

impl Default for EtcdOptions {
    /// No endpoint, `/registry`, five minutes, and all stays.
    ///
    /// Source: `DefaultCompactInterval` in upstream `apiserver/pkg/storage/storagebackend/config.go`.
    fn default() -> Self {
        EtcdOptions {
            endpoints: Vec::new(),
            tls: EtcdTls::default(),
            prefix: "/registry".into(),
            compaction_interval: Some(Duration::from_secs(300)),
            expiry: None,
        }
    }
}

/// A [`Store`] in etcd (3.4 or newer).
pub struct EtcdStore {
    shared: Arc<Shared>,
    leases: Option<Leases>,
    tasks: Vec<AbortHandle>,
}

impl EtcdStore {
    /// Connects, and begins to follow.
    ///
    /// # Errors
    /// [`Error::Options`] or [`Error::Io`] for options that cannot be used, [`Error::Unavailable`] if no endpoint
    /// answers in time.
    pub async fn connect(options: &EtcdOptions) -> Result<EtcdStore> {
        let keys = Keys::new(&options.prefix);
        let cluster = Cluster::new(options).await?;
        let (shared, newest) = Shared::new(cluster, keys).await?;
        let stream = follow::open(&shared).await?;
        let mut tasks = vec![
            tokio::spawn(follow::run(shared.clone(), stream)).abort_handle(),
            tokio::spawn(newest).abort_handle(),
        ];
        if let Some(interval) = options.compaction_interval {
            let task = compact::run(shared.clone(), interval);
            tasks.push(tokio::spawn(task).abort_handle());
        }
        let leases = options.expiry.clone().map(Leases::new);
        Ok(EtcdStore { shared, leases, tasks })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let outer = self.shared.keys.outer(key);
        let mut answer = self
            .shared
            .cluster
            .call("read", key, Repeat::Always, |endpoint| {
                let (mut kv, outer) = (endpoint.kv.clone(), outer.clone());
                async move { kv.get(outer, None).await }
            })
            .await?;
        Ok(answer.take_kvs().into_iter().next().map(|kv| entry(key.into(), kv)))
    }

    async fn range(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.pages(prefix, at).await {
                // Only pages after the first can be told so: the revision of the first was compacted meanwhile.
                Err(Error::Compacted { .. }) if at.is_none() && attempts < RANGE_ATTEMPTS => (),
                other => return other,
            }
        }
    }

    async fn pages(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot> {
        let Shared { cluster, keys, .. } = &*self.shared;
        let (mut from, end) = (keys.outer(prefix), keys.end(prefix));
        let (mut at, mut entries) = (at, Vec::new());
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let options = options.with_revision(at.map_or(0, to_etcd));
            let page = cluster.call("list", prefix, Repeat::Always, |endpoint| {
                let (mut kv, from, options) = (endpoint.kv.clone(), from.clone(), options.clone());
                async move { kv.get(from, Some(options)).await }
            });
            let mut page = match page.await {
                Ok(page) => page,
                Err(error) => return Err(self.past(error, at).await),
            };
            let revision = at.unwrap_or(cluster::revision(page.header()));
            at = Some(revision);
            let more = page.more();
            for kv in page.take_kvs() {
                if more {
                    from.clear();
                    from.extend_from_slice(kv.key());
                    from.push(0); // The least key after this one.
                }
                entries.extend(keys.inner(kv.key()).map(|key| entry(key, kv)));
            }
            if !more {
                return Ok(Snapshot { revision, entries });
            }
        }
    }

    /// Says of an error that is about a revision which one was asked for, and which ones could be.
    async fn past(&self, error: Error, at: Option<Revision>) -> Error {
        let requested = at.unwrap_or_default();
        let told = match error {
            Error::Compacted { .. } => follow::compacted(&self.shared)
                .await
                .map(|compacted| Error::Compacted { requested, compacted }),
            Error::Future { .. } => {
                self.shared.newest().await.map(|current| Error::Future { requested, current })
            }
            other => return other,
        };
        told.unwrap_or_else(|error| error)
    }

    async fn commit(&self, key: &str, expect: Expect, value: Option<Bytes>) -> Result<Revision> {
        let size = key.len() + value.as_ref().map_or(0, Bytes::len);
        if size > MAX_ENTRY {
            return Err(Error::TooLarge { key: key.into(), size, limit: MAX_ENTRY });
        }
        let revision = match expect {
            Expect::Absent if value.is_none() => {
                return Err(Error::Conflict { key: key.into(), current: self.get(key).await? });
            }
            Expect::Absent => 0, // What etcd says of a key that is not there.
            Expect::At(revision) => to_etcd(revision.max(1)),
        };
        let leases = self.leases.as_ref().filter(|leases| value.is_some() && leases.cover(key));
        let written = match leases {
            Some(leases) => self.write_leased(key, revision, value, leases).await,
            None => self.write(key, revision, value, 0).await,
        };
        let answer = written.map_err(|error| match error {
            Error::TooLarge { limit, .. } => Error::TooLarge { key: key.into(), size, limit },
            other => other,
        })?;
        if answer.succeeded() {
            return Ok(cluster::revision(answer.header()));
        }
        let current = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
            _ => None,
        });
        let key: Arc<str> = key.into();
        let current = current.map(|kv| entry(key.clone(), kv));
        Err(Error::Conflict { key, current })
    }

    /// Writes a value that goes by itself.
    async fn write_leased(
        &self,
        key: &str,
        revision: i64,
        value: Option<Bytes>,
        leases: &Leases,
    ) -> Result<TxnResponse> {
        let lease = leases.get(&self.shared.cluster).await?;
        match self.write(key, revision, value.clone(), lease).await {
            // It has ended, or its cluster was restored from a backup that is older.
            Err(Error::Refused { .. }) => {
                leases.forget(lease).await;
                let lease = leases.get(&self.shared.cluster).await?;
                self.write(key, revision, value, lease).await
            }
            other => other,
        }
    }

    /// Sets or deletes a value that was written by `revision`, or says what is there. 0 is no lease.
    async fn write(
        &self,
        key: &str,
        revision: i64,
        value: Option<Bytes>,
        lease: i64,
    ) -> Result<TxnResponse> {
        let outer = self.shared.keys.outer(key);
        let change = match value {
            Some(value) => {
                TxnOp::put(outer.clone(), value, Some(PutOptions::new().with_lease(lease)))
            }
            None => TxnOp::delete(outer.clone(), None),
        };
        let txn = Txn::new()
            .when([Compare::mod_revision(outer.clone(), CompareOp::Equal, revision)])
            .and_then([change])
            .or_else([TxnOp::get(outer, None)]);
        let call = self.shared.cluster.call("write", key, Repeat::IfNotSent, |endpoint| {
            let (mut kv, txn) = (endpoint.kv.clone(), txn.clone());
            async move { kv.txn(txn).await }
        });
        call.await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream> {
        loop {
            let opened = self.shared.feed.lock().watch(prefix, from);
            let Err(Error::Future { .. }) = opened else { return opened };
            // Perhaps it is only our own watch that has not got there.
            let current = self.shared.newest().await?;
            if from > current {
                return Err(Error::Future { requested: from, current });
            }
            self.shared.reach(from).await?;
        }
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        match self.shared.compact(before).await {
            Ok(()) | Err(Error::Compacted { .. }) => (),
            Err(error) => return Err(self.past(error, Some(before)).await),
        }
        self.shared.reach(before).await?;
        self.shared.feed.lock().compact(before)
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.feed.lock().close();
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.get(key).boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        self.range(prefix, at).boxed()
    }

    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>> {
        self.commit(key, expect, value).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let prefix = prefix.to_owned();
        async move { self.watch(&prefix, from).await }.boxed()
    }

    fn catch_up(&self) -> Option<BoxFuture<'_, Result<()>>> {
        Some(self.shared.catch_up().boxed())
    }

    fn request_progress(&self, prefix: &str) {
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        tokio::spawn(async move {
            // Who waits asks again.
            if shared.catch_up().await.is_ok() {
                shared.feed.lock().tell_progress(&prefix);
            }
        });
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.compact(before).boxed()
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.shared.newest().boxed()
    }
}

fn entry(key: Arc<str>, kv: KeyValue) -> Entry {
    let revision = from_etcd(kv.mod_revision());
    Entry { key, value: kv.into_key_value().1.into(), revision }
}

/// etcd counts with a sign; what it cannot count to is its future.
fn to_etcd(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn from_etcd(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or_default()
}
