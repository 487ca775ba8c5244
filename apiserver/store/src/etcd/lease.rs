//! Entries that go by themselves: etcd deletes them when their lease ends.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cluster::{Cluster, Repeat};
use crate::Result;

/// Most entries of one lease; etcd deletes all of them in one revision.
///
/// Source: `defaultLeaseMaxObjectCount` in upstream `apiserver/pkg/storage/etcd3/lease_manager.go`.
const MOST_ENTRIES: usize = 1000;
/// Longest time during which new entries get the same lease. The first of them lives that much longer.
///
/// Source: `defaultLeaseReuseDurationSeconds`, as above.
const SHARED_AT_MOST: Duration = Duration::from_secs(60);

/// Says which entries go by themselves, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Keys that begin with this.
    pub prefix: String,
    /// Life of an entry after it was last written; it may last a twentieth longer, at most a minute. Whole seconds.
    pub ttl: Duration,
}

/// A lease of etcd that new entries still get.
struct Granted {
    id: i64,
    until: Instant,
    n_entries: usize,
}

/// The leases of one kind of entries.
pub(super) struct Leases {
    expiry: Expiry,
    current: Mutex<Option<Granted>>,
}

impl Leases {
    pub(super) fn new(expiry: Expiry) -> Self {
        Self { expiry, current: Mutex::new(None) }
    }

    /// Whether an entry under this key goes by itself.
    pub(super) fn cover(&self, key: &str) -> bool {
        key.starts_with(&self.expiry.prefix)
    }

    /// The lease for one more entry.
    ///
    /// # Errors
    /// etcd does not grant one.
    pub(super) async fn get(&self, cluster: &Cluster) -> Result<i64> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        if let Some(granted) = current.as_mut()
            && now < granted.until
            && granted.n_entries < MOST_ENTRIES
        {
            granted.n_entries += 1;
            return Ok(granted.id);
        }
        let Expiry { prefix, ttl } = &self.expiry;
        let shared = (*ttl / 20).min(SHARED_AT_MOST);
        let seconds = (*ttl + shared).as_secs_f64().ceil() as i64;
        let granted = cluster.call("lease", prefix, Repeat::Always, |endpoint| {
            let mut lease = endpoint.lease.clone();
            async move { lease.grant(seconds, None).await }
        });
        let id = granted.await?.id();
        *current = Some(Granted { id, until: now + shared, n_entries: 1 });
        Ok(id)
    }

    /// No further entry gets this lease: etcd does not know it.
    pub(super) async fn forget(&self, id: i64) {
        let mut current = self.current.lock().await;
        current.take_if(|granted| granted.id == id);
    }
}
