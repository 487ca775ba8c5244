//! The one watch of everything, which feeds the watches of this process.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{EventType, WatchOptions, WatchResponse};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    cluster::{self, Cluster, PATIENCE, Repeat},
    from_etcd,
    keys::Keys,
    to_etcd,
};
use crate::{
    Entry, Error, Event, Result, Revision,
    feed::{Feed, HistoryLimits},
};

/// Pause before a broken watch is opened again.
const REOPEN: Duration = Duration::from_millis(100);
/// How long a revision may stay away before it counts as somebody else's, under another prefix.
const FOREIGN: Duration = Duration::from_millis(100);
/// How long etcd may take to confirm a watch.
const CONFIRM: Duration = Duration::from_secs(4);

/// What follower, readers and writers share.
pub(super) struct Shared {
    pub(super) cluster: Cluster,
    pub(super) keys: Keys,
    pub(super) feed: Mutex<Feed>,
    /// The revision of `feed`, for those who wait.
    position: watch::Sender<Revision>,
    newest: mpsc::UnboundedSender<oneshot::Sender<Result<Revision>>>,
    last_barrier: Mutex<Option<Instant>>,
}

impl Shared {
    /// The state at the newest revision, and the task that answers for [`Shared::newest`].
    pub(super) async fn new(
        cluster: Cluster,
        keys: Keys,
    ) -> Result<(Arc<Shared>, impl Future<Output = ()> + Send + 'static)> {
        let revision = ask(&cluster, &keys).await?;
        let (newest, questions) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            cluster,
            keys,
            feed: Mutex::new(Feed::new(revision, HistoryLimits::default())),
            position: watch::Sender::new(revision),
            newest,
            last_barrier: Mutex::new(None),
        });
        let task = answer(shared.clone(), questions);
        Ok((shared, task))
    }

    /// The newest revision of the cluster, as a quorum knows it.
    pub(super) async fn newest(&self) -> Result<Revision> {
        let (reply, answer) = oneshot::channel();
        self.newest.send(reply).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Waits until the watches have been handed what is there now.
    pub(super) async fn catch_up(&self) -> Result<()> {
        self.reach(self.newest().await?).await
    }

    /// Waits until the watches have been handed everything up to `revision`, which exists.
    pub(super) async fn reach(&self, revision: Revision) -> Result<()> {
        let mut position = self.position.subscribe();
        let deadline = Instant::now() + PATIENCE;
        let mut patience = FOREIGN;
        loop {
            let reached = async { position.wait_for(|now| *now >= revision).await.map(|_| ()) };
            match timeout(patience, reached).await {
                Ok(reached) => return reached.map_err(|_| Error::Closed),
                Err(elapsed) if Instant::now() >= deadline => {
                    return Err(self.cluster.unavailable("follow", "/", Arc::new(elapsed)));
                }
                // Changes under other prefixes are not told to us; one of our own after them is.
                Err(_elapsed) => self.barrier().await?,
            }
            patience = (patience * 2).min(CONFIRM / 4);
        }
    }

    /// Writes a key whose change our watch will bring. (etcd can be asked for progress instead, but before 3.4.25
    /// and 3.5.8 its answer may overtake changes.)
    async fn barrier(&self) -> Result<()> {
        let now = Instant::now();
        {
            let mut last = self.last_barrier.lock();
            if last.is_some_and(|last| now - last < FOREIGN) {
                return Ok(());
            }
            *last = Some(now);
        }
        let key = self.keys.own("barrier");
        let put = self.cluster.call("write", "the barrier", Repeat::Always, |endpoint| {
            let (mut kv, key) = (endpoint.kv.clone(), key.clone());
            async move { kv.put(key, "", None).await }
        });
        put.await.map(|_| ())
    }

    /// Lets etcd forget what was before `before`.
    pub(super) async fn compact(&self, before: Revision) -> Result<()> {
        let compacted = self.cluster.call("compact", "/", Repeat::Always, |endpoint| {
            let mut kv = endpoint.kv.clone();
            async move { kv.compact(to_etcd(before), None).await }
        });
        compacted.await.map(|_| ())
    }

    fn publish(&self, revision: Revision, events: Vec<Arc<Event>>) {
        self.feed.lock().publish(revision, events);
        self.position.send_replace(revision);
    }

    /// Goes on from the newest revision; what was missed is for the watches' owners to list.
    async fn restart(&self) -> Result<()> {
        let revision = ask(&self.cluster, &self.keys).await?;
        self.feed.lock().restart(revision);
        self.position.send_replace(revision);
        Ok(())
    }
}

async fn ask(cluster: &Cluster, keys: &Keys) -> Result<Revision> {
    let key = keys.own("revision"); // Nothing is there: the answer's header is what we want.
    let answer = cluster.call("read", "the newest revision", Repeat::Always, |endpoint| {
        let (mut kv, key) = (endpoint.kv.clone(), key.clone());
        async move { kv.get(key, None).await }
    });
    Ok(cluster::revision(answer.await?.header()))
}

/// Answers all who wait with one question, asked after the last of them came.
async fn answer(
    shared: Arc<Shared>,
    mut questions: mpsc::UnboundedReceiver<oneshot::Sender<Result<Revision>>>,
) {
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, usize::MAX).await > 0 {
        let revision = ask(&shared.cluster, &shared.keys).await;
        for reply in waiting.drain(..) {
            let _ = reply.send(revision.clone()); // The caller may have gone.
        }
    }
}

/// Why a watch ended.
enum End {
    /// Connection, member or leader lost: goes on elsewhere.
    Broken(String),
    /// Changes are missing.
    Gap,
}

/// A watch that goes on where the feed is.
pub(super) async fn open(shared: &Shared) -> Result<etcd_client::WatchStream> {
    let from = shared.feed.lock().revision();
    let mut stream = start(shared, from + 1).await?;
    let first = timeout(CONFIRM, stream.message()).await;
    let failed = |source| Err(shared.cluster.unavailable("watch", "/", source));
    let created = match first {
        Ok(Ok(Some(created))) => created,
        Ok(Ok(None)) => return failed(Arc::new(std::io::Error::other("the watch ended at once"))),
        Ok(Err(error)) => return failed(Arc::new(error)),
        Err(elapsed) => return failed(Arc::new(elapsed)),
    };
    // A member that is behind says so by a lower revision, and catches up; a restored cluster does not.
    if cluster::revision(created.header()) < from && shared.newest().await? < from {
        warn!(revision = from, "etcd has gone back to an earlier revision, starting again");
        shared.restart().await?;
        return Box::pin(open(shared)).await;
    }
    Ok(stream)
}

async fn start(shared: &Shared, first: Revision) -> Result<etcd_client::WatchStream> {
    let (key, end) = shared.keys.all();
    let options = WatchOptions::new()
        .with_range(end)
        .with_start_revision(to_etcd(first))
        .with_prev_key()
        .with_progress_notify();
    let opened = shared.cluster.call("watch", "/", Repeat::Always, |endpoint| {
        let (mut watch, key, options) = (endpoint.watch.clone(), key.clone(), options.clone());
        async move { watch.watch(key, Some(options)).await }
    });
    opened.await
}

/// The oldest revision that etcd still knows.
pub(super) async fn compacted(shared: &Shared) -> Result<Revision> {
    let mut stream = start(shared, 1).await?;
    let deadline = Instant::now() + CONFIRM;
    loop {
        match tokio::time::timeout_at(deadline, stream.message()).await {
            Ok(Ok(Some(response))) if response.canceled() => {
                return Ok(from_etcd(response.compact_revision()));
            }
            Ok(Ok(Some(response))) if response.created() => (),
            _ => return Ok(1), // It knows everything.
        }
    }
}

/// Follows until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>, mut stream: etcd_client::WatchStream) {
    loop {
        let (_, turn) = shared.cluster.endpoint();
        match follow(&shared, &mut stream).await {
            End::Broken(cause) => {
                info!(cause, "the watch of etcd broke, opening it again");
                shared.cluster.next(turn);
            }
            End::Gap => {
                warn!("etcd compacted changes that were not seen, starting again");
                while let Err(error) = shared.restart().await {
                    warn!(error = &error as &dyn std::error::Error, "etcd cannot be read");
                }
            }
        }
        stream = loop {
            match open(&shared).await {
                Ok(stream) => break stream,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "etcd cannot be watched");
                }
            }
            shared.cluster.next(shared.cluster.endpoint().1);
            sleep(REOPEN).await;
        };
    }
}

async fn follow(shared: &Shared, stream: &mut etcd_client::WatchStream) -> End {
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return End::Broken("etcd ended it".into()),
            Err(error) => return End::Broken(error.to_string()),
        };
        if response.canceled() && response.compact_revision() > 0 {
            return End::Gap;
        }
        if response.canceled() {
            return End::Broken(response.cancel_reason().to_owned());
        }
        if !response.created() {
            take(shared, &response);
        }
    }
}

fn take(shared: &Shared, response: &WatchResponse) {
    let now = shared.feed.lock().revision();
    let Some(last) = response.events().last() else {
        // Progress: all changes up to here were sent.
        return shared.publish(now.max(cluster::revision(response.header())), Vec::new());
    };
    let last = last.kv().map_or(now, |kv| from_etcd(kv.mod_revision()));
    let events = response.events().iter().filter_map(|event| change(&shared.keys, event));
    let events = events.filter(|event| event.revision > now).map(Arc::new).collect();
    shared.publish(now.max(last), events);
}

fn change(keys: &Keys, event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let key = keys.inner(kv.key())?;
    let value = match event.event_type() {
        EventType::Put => Some(Bytes::copy_from_slice(kv.value())),
        EventType::Delete => None,
    };
    let previous = event.prev_kv().map(|previous| Entry {
        key: key.clone(),
        value: Bytes::copy_from_slice(previous.value()),
        revision: from_etcd(previous.mod_revision()),
    });
    Some(Event { revision: from_etcd(kv.mod_revision()), key, value, previous })
}
