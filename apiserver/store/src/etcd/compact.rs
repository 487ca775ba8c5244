//! Compaction on a timer, by one of all the servers that have one.
//!
//! A mark in etcd holds the revision to compact at next. After each interval every server tries to replace the mark
//! that it saw last by the revision of that moment; who succeeds compacts at the revision of the mark before. So what
//! is forgotten is always at least one interval old, however many servers there are and whenever they started.
//!
//! Source: the same promise as upstream's `apiserver/pkg/storage/etcd3/compact.go`.

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use tracing::{debug, warn};

use super::{
    cluster::{self, Repeat},
    follow::Shared,
};
use crate::{Error, Result, Revision};

/// What a server knows of the mark.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// How often it was written; 0 if it is not there.
    version: i64,
    /// The store's revision when this server saw it so.
    revision: Revision,
}

/// Compacts every `interval`, until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>, interval: Duration) {
    let mut mark = Mark::default();
    loop {
        tokio::time::sleep(interval).await;
        match step(&shared, mark).await {
            Ok(next) => mark = next,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "etcd not compacted, will try again"
                );
            }
        }
    }
}

async fn step(shared: &Shared, mark: Mark) -> Result<Mark> {
    let key = shared.keys.own("compaction");
    let txn = Txn::new()
        .when([Compare::version(key.clone(), CompareOp::Equal, mark.version)])
        .and_then([TxnOp::put(key.clone(), mark.revision.to_string(), None)])
        .or_else([TxnOp::get(key, None)]);
    // Repeated after it had its effect, it only finds the mark of its own: the next interval's business.
    let answer = shared.cluster.call("mark", "the compaction", Repeat::Always, |endpoint| {
        let (mut kv, txn) = (endpoint.kv.clone(), txn.clone());
        async move { kv.txn(txn).await }
    });
    let answer = answer.await?;
    let revision = cluster::revision(answer.header());
    if !answer.succeeded() {
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs().first().map(|kv| kv.version()),
            _ => None,
        });
        return Ok(Mark { version: found.unwrap_or_default(), revision });
    }
    if mark.revision > 0 {
        match shared.compact(mark.revision).await {
            Ok(()) => debug!(before = mark.revision, "etcd compacted"),
            Err(Error::Compacted { .. }) => (), // Somebody else did.
            Err(error) => return Err(error),
        }
    }
    Ok(Mark { version: mark.version + 1, revision })
}
