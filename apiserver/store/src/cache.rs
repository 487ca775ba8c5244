//! The watch cache of one resource: decoded objects, immutable snapshots, and a fan-out of changes.
//!
//! A cache follows one prefix of a [`Store`]. Readers never wait for writers: a [`Snapshot`] shares its
//! structure with the cache and stays as it was. The JSON text of an object is held once: the text in
//! the store is referenced, and `resourceVersion` is put in when the text is written out.
//!
//! ```
//! # tokio_test();
//! # fn tokio_test() { tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use store::{Expect, MemoryStore, Store, cache::{Cache, Decoder, Field, Interest, Limits}};
//!
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
//! let decoder = Decoder::new(vec![Field::new("status.phase", &["status", "phase"])]);
//! let pods = Cache::start(store.clone(), "/registry/core/pods/", decoder.into(), Limits::default()).await.unwrap();
//!
//! // Write, then read what was written.
//! let text = r#"{"metadata":{"name":"web","namespace":"default"},"status":{"phase":"Running"}}"#;
//! let revision = store.commit("/registry/core/pods/default/web", Expect::Absent, Some(text.into())).await.unwrap();
//! pods.wait_for(revision).await.unwrap();       // or: pods.fresh().await, to see every answered commit
//! let web = pods.get(Some("default"), "web").unwrap();
//! assert_eq!(web.fields().get("status.phase"), Some("Running"));
//! assert!(web.json().starts_with(br#"{"metadata":{"resourceVersion":"2","name":"web""#));
//!
//! // List, page exactly, watch from the list.
//! let list = pods.list(Some("default"));
//! let page = list.page(None, 500);              // then page(Some(last.key()), 500) …
//! pods.keep(&list);                             // a continue token will ask for this revision
//! let again = pods.snapshot_at(list.revision(), Some("default")).unwrap();
//! assert_eq!((page.len(), again.len()), (1, 1));
//! let mut changes = pods.subscribe(list.revision(), Interest::All).unwrap();
//! store.commit("/registry/core/pods/default/web", Expect::At(revision), None).await.unwrap();
//! let event = changes.recv().await.unwrap();
//! assert!(event.frame().starts_with(br#"{"type":"DELETED","object":{"metadata":{"resourceVersion":"3","#));
//! # }) }
//! ```

mod decode;
mod event;
mod follow;
mod object;
mod passes;
mod snapshot;
mod subscription;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::Instant};

pub use decode::{DecodeError, Decoder, Field};
pub use event::{CacheEvent, Kind};
pub use object::{Fields, Labels, Object, Owner};
pub use passes::Passes;
pub use snapshot::Snapshot;
pub use subscription::{Interest, Subscription};

use crate::{Entry, Error, Position, Result, Revision, Store};
use event::Ring;
use subscription::Slot;

/// Makes an [`Object`] of what the store holds.
pub type Decode = Arc<dyn Fn(&Entry) -> Result<Object, DecodeError> + Send + Sync>;

/// Objects by store key, which sorts as lists do.
pub(crate) type Objects = OrdMap<Arc<str>, Arc<Object>>;

/// First wait for a change before the store is asked how far it is; a change that is on its way is faster than that.
const ASK_AFTER: Duration = Duration::from_millis(2);

/// Longest pause between two such questions.
const ASK_AT_MOST_EVERY: Duration = Duration::from_millis(200);

/// Bounds of what one cache keeps beside its objects.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most recent changes kept for watches that resume.
    pub events: usize,
    /// Most bytes of JSON text that those changes hold.
    pub event_bytes: usize,
    /// Changes that may wait in the queue of one subscriber before it is closed.
    pub queue: usize,
    /// Snapshots kept for paging.
    pub snapshots: usize,
    /// How long a snapshot is kept after it was last asked for by a first page.
    pub snapshot_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            events: 10_000,
            event_bytes: 4 << 20,
            queue: 4096,
            snapshots: 32,
            // Upstream's etcd forgets what is older.
            snapshot_age: Duration::from_secs(300),
        }
    }
}

/// What readers see.
struct Current {
    revision: Revision,
    objects: Objects,
    ring: Ring,
}

struct Shared {
    prefix: Arc<str>,
    store: Arc<dyn Store>,
    decode: Decode,
    limits: Limits,
    current: RwLock<Current>,
    /// The revision of `current`, for those who wait.
    progress: watch::Sender<Revision>,
    /// The store's position in our watch.
    position: RwLock<Option<Position>>,
    subscribers: Mutex<Vec<Slot>>,
    /// Their number, for those who must not wait for a fan-out.
    n_subscribers: AtomicUsize,
    /// Everything up to here is in the queues of the subscribers.
    delivered: Arc<AtomicU64>,
    kept: Mutex<Kept>,
}

/// States that were shown, and may be asked for again.
#[derive(Default)]
struct Kept {
    states: VecDeque<State>,
    /// States up to this revision were kept for as long as they may be.
    forgotten: Revision,
}

struct State {
    revision: Revision,
    objects: Objects,
    since: Instant,
}

impl Kept {
    fn forget_old(&mut self, age: Duration) {
        while let Some(oldest) = self.states.pop_front_if(|state| state.since.elapsed() > age) {
            self.forgotten = self.forgotten.max(oldest.revision);
        }
    }

    fn find(&self, revision: Revision) -> Option<&Objects> {
        let state = self.states.iter().find(|state| state.revision == revision);
        state.map(|state| &state.objects)
    }

    fn push(&mut self, revision: Revision, objects: &Objects, most: usize) {
        self.states.retain(|state| state.revision != revision);
        if self.states.len() >= most {
            self.states.pop_front();
        }
        self.states.push_back(State { revision, objects: objects.clone(), since: Instant::now() });
    }
}

/// The watch cache of one prefix; stops following when dropped. Subscriptions end then, snapshots stay.
pub struct Cache {
    shared: Arc<Shared>,
    follower: tokio::task::AbortHandle,
}

impl Cache {
    /// Lists `prefix`, then follows it.
    ///
    /// # Errors
    /// Those of the first list and watch. Later failures are retried and logged.
    pub async fn start(
        store: Arc<dyn Store>,
        prefix: &str,
        decode: Decode,
        limits: Limits,
    ) -> Result<Cache> {
        let shared = Arc::new(Shared {
            prefix: prefix.into(),
            store,
            decode,
            limits,
            current: RwLock::new(Current {
                revision: 0,
                objects: Objects::new(),
                ring: Ring::new(0, limits.events, limits.event_bytes),
            }),
            progress: watch::Sender::new(0),
            position: RwLock::new(None),
            subscribers: Mutex::new(Vec::new()),
            n_subscribers: AtomicUsize::new(0),
            delivered: Arc::new(AtomicU64::new(0)),
            kept: Mutex::default(),
        });
        let stream = follow::list(&shared).await?;
        let follower = tokio::spawn(follow::run(shared.clone(), stream)).abort_handle();
        Ok(Cache { shared, follower })
    }

    /// The prefix that this cache follows.
    pub fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// The revision that reads show now.
    pub fn revision(&self) -> Revision {
        *self.shared.progress.borrow()
    }

    /// Waits until the cache shows `revision` or a later one; forever if the store never gets there.
    ///
    /// # Errors
    /// [`Error::Closed`] if the store is gone.
    pub async fn wait_for(&self, revision: Revision) -> Result<()> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut progress = self.shared.progress.subscribe();
        let mut patience = ASK_AFTER;
        loop {
            let reached = progress.wait_for(|now| *now >= revision);
            match tokio::time::timeout(patience, reached).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(Error::Closed),
                // Perhaps nothing changed under our prefix.
                Err(_elapsed) => self.shared.store.request_progress(&self.shared.prefix),
            }
            patience = (patience * 2).min(ASK_AT_MOST_EVERY);
        }
    }

    /// Waits until the cache shows every commit that was answered before this call.
    ///
    /// On a store in this process that is known without asking, and seldom takes any waiting. The cache's
    /// [`revision`](Cache::revision) may stay below the store's, if only other resources changed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn fresh(&self) -> Result<()> {
        if let Some(behind) = self.shared.store.catch_up() {
            behind.await?;
        }
        let position = self.shared.position.read().as_ref().and_then(Position::get);
        let revision = match position {
            Some(revision) => revision,
            None => self.shared.store.revision().await?,
        };
        self.wait_for(revision).await
    }

    /// Waits until the cache's revision has reached the store's, as bookmarks and list revisions may want.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn caught_up(&self) -> Result<()> {
        let revision = self.shared.store.revision().await?;
        self.wait_for(revision).await
    }

    /// An entry as the cache has it, if the store is further away than the cache; it may be behind.
    pub fn guess(&self, key: &str) -> Option<Entry> {
        // Only a store that others write to, too, has anything to catch up with.
        drop(self.shared.store.catch_up()?);
        let object = self.at(key)?;
        Some(Entry {
            key: object.key_shared(),
            value: object.stored().clone(),
            revision: object.revision(),
        })
    }

    /// One object; `namespace` is `None` for cluster-scoped resources.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<Object>> {
        self.at(&self.key(namespace, name))
    }

    /// The object under a store key.
    pub fn at(&self, key: &str) -> Option<Arc<Object>> {
        self.shared.current.read().objects.get(key).cloned()
    }

    /// The store key of an object of this resource.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        let prefix = &*self.shared.prefix;
        match namespace {
            Some(namespace) => [prefix, namespace, "/", name].concat(),
            None => [prefix, name].concat(),
        }
    }

    /// The objects of one namespace, or all, as they are now.
    pub fn list(&self, namespace: Option<&str>) -> Snapshot {
        let current = self.shared.current.read();
        Snapshot::new(current.revision, current.objects.clone(), &self.shared.prefix, namespace)
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.shared.current.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers a snapshot, so that [`Cache::snapshot_at`] its revision works for a while.
    pub fn keep(&self, snapshot: &Snapshot) {
        let Limits { snapshots, snapshot_age, .. } = self.shared.limits;
        let mut kept = self.shared.kept.lock();
        kept.forget_old(snapshot_age);
        kept.push(snapshot.revision(), snapshot.objects(), snapshots);
    }

    /// Whether the state at `revision` is one of those that were kept.
    pub fn keeps(&self, revision: Revision) -> bool {
        self.shared.kept.lock().find(revision).is_some()
    }

    /// The objects exactly as they were at `revision`; a state that was kept can be had for
    /// [`Limits::snapshot_age`].
    ///
    /// # Errors
    /// [`Error::Compacted`] if that can no longer be told, [`Error::Future`] if the cache is not there yet.
    pub fn snapshot_at(&self, revision: Revision, namespace: Option<&str>) -> Result<Snapshot> {
        let mut kept = self.shared.kept.lock();
        kept.forget_old(self.shared.limits.snapshot_age);
        let objects = match kept.find(revision) {
            Some(objects) => objects.clone(),
            None if revision <= kept.forgotten => {
                return Err(Error::Compacted { requested: revision, compacted: kept.forgotten });
            }
            None => self.past(revision)?,
        };
        Ok(Snapshot::new(revision, objects, &self.shared.prefix, namespace))
    }

    /// Changes after (not at) `from` that are of interest. With `from` ahead of the cache, changes up to it are left out.
    ///
    /// # Errors
    /// [`Error::Compacted`] if changes after `from` are forgotten (410 Gone).
    pub fn subscribe(&self, from: Revision, interest: Interest) -> Result<Subscription> {
        let mut subscribers = self.shared.subscribers.lock();
        let current = self.shared.current.read();
        let backlog = current.ring.after(from)?;
        let (slot, subscription) = subscription::pair(
            interest,
            backlog,
            from,
            self.shared.limits.queue,
            self.shared.delivered.clone(),
        );
        subscribers.push(slot);
        self.shared.n_subscribers.store(subscribers.len(), Ordering::Relaxed);
        Ok(subscription)
    }

    /// A list and the changes after it, with nothing lost between.
    pub fn list_and_subscribe(
        &self,
        namespace: Option<&str>,
        interest: Interest,
    ) -> (Snapshot, Subscription) {
        loop {
            let list = self.list(namespace);
            // Fails only if thousands of changes come between these two lines.
            if let Ok(subscription) = self.subscribe(list.revision(), interest.clone()) {
                return (list, subscription);
            }
        }
    }

    /// The number of subscriptions, as it was at the last change.
    pub fn subscribers(&self) -> usize {
        self.shared.n_subscribers.load(Ordering::Relaxed)
    }

    /// Undoes the changes after `revision`.
    fn past(&self, revision: Revision) -> Result<Objects> {
        let current = self.shared.current.read();
        if revision > current.revision {
            return Err(Error::Future { requested: revision, current: current.revision });
        }
        let later = current.ring.after(revision)?;
        let mut objects = current.objects.clone();
        for event in later.iter().rev() {
            match &event.previous {
                Some(previous) => objects.insert(previous.key_shared(), previous.clone()),
                None => objects.remove(event.object.key()),
            };
        }
        Ok(objects)
    }
}

impl Shared {
    /// Makes changes visible, wakes those who wait, then fills the subscribers' queues.
    fn publish(&self, revision: Revision, objects: Objects, events: &[Arc<CacheEvent>]) {
        {
            let mut current = self.current.write();
            current.revision = revision;
            current.objects = objects;
            for event in events {
                current.ring.push(event.clone());
            }
        }
        self.progress.send_replace(revision);
        let mut subscribers = self.subscribers.lock();
        subscribers.retain_mut(|slot| slot.is_open() && events.iter().all(|e| slot.offer(e)));
        self.n_subscribers.store(subscribers.len(), Ordering::Relaxed);
        self.delivered.store(revision, Ordering::Release);
    }

    /// Starts from a new list: what subscribers miss is unknown, so they are closed and list again.
    fn reset(&self, revision: Revision, objects: Objects) {
        let mut subscribers = self.subscribers.lock();
        {
            let mut current = self.current.write();
            current.revision = revision;
            current.objects = objects;
            current.ring = Ring::new(revision, self.limits.events, self.limits.event_bytes);
        }
        subscribers.clear();
        self.n_subscribers.store(0, Ordering::Relaxed);
        self.delivered.store(revision, Ordering::Release);
        drop(subscribers);
        self.progress.send_replace(revision);
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("prefix", &self.shared.prefix).finish_non_exhaustive()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.follower.abort();
        self.shared.subscribers.lock().clear();
    }
}
