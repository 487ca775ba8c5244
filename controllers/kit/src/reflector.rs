//! Shared reflectors: one watch and one cache a type and process, whoever asks.
//!
//! kube-runtime's own shared streams do not tell about deletions, and a subscriber of theirs can
//! fall asleep when an object vanishes before it is read. So the fan-out is ours, and
//! `kube::runtime` keeps what it does well: list, watch, recover, and [`Store`].

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, channel::mpsc, stream};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{Error, error::chain, owner};

/// First and longest pause after a failed list or watch; short, since a player is blind meanwhile.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What a reflector can hold: any k8s-openapi or derived type, or `PartialObjectMeta` of one,
/// which caches and transfers only metadata.
pub trait Reflected:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Reflected for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// The reflectors of a process. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Reflectors {
    client: Client,
    running: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>,
}

impl Reflectors {
    /// No reflector runs yet; each will list and watch through `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, running: Arc::default() }
    }

    /// The reflector of all objects of type `K`, started if nobody uses it yet.
    ///
    /// It stops once the last handle is dropped, so that a player which does not lead costs no cache.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn get<K: Reflected>(&self) -> Reflector<K> {
        let mut running = self.running.lock();
        let weak =
            running.get(&TypeId::of::<K>()).and_then(|any| any.downcast_ref::<Weak<Task<K>>>());
        if let Some(task) = weak.and_then(Weak::upgrade) {
            return Reflector(task);
        }
        let reflector = Reflector::start(Api::all(self.client.clone()), watcher::Config::default());
        running.insert(TypeId::of::<K>(), Box::new(Arc::downgrade(&reflector.0)));
        reflector
    }
}

/// One change of an object.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// It was created or updated, or it was there when the subscription began.
    Applied {
        /// As it is now.
        object: Arc<K>,
        /// As it was before, if it was there.
        previous: Option<Arc<K>>,
    },
    /// It is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object's newest known state.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied { object, .. } | Self::Deleted(object) => object,
        }
    }
}

/// A read-only cache of all objects of one type, behind the server by some milliseconds.
pub struct Reflector<K: Reflected>(Arc<Task<K>>);

impl<K: Reflected> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Task<K: Reflected> {
    cache: Arc<Cache<K>>,
    /// Whether the first list is complete. The store knows too, but it wakes only the last of several tasks that
    /// wait for it (`DelayedInit` of kube-runtime 5.0).
    listed: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl<K: Reflected> Drop for Task<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Cache<K: Reflected> {
    store: Store<K>,
    indexed: RwLock<Indexed<K>>,
}

struct Indexed<K> {
    /// Namespace (empty: cluster scope), then name.
    by_name: HashMap<String, BTreeMap<String, Arc<K>>>,
    /// The controller's UID, then the object's.
    by_controller: HashMap<String, BTreeMap<String, Arc<K>>>,
    subscribers: Vec<mpsc::UnboundedSender<Change<K>>>,
    revision: u64,
    /// When the last complete list was begun.
    listed_from: Option<Instant>,
}

impl<K: Reflected> Reflector<K> {
    /// A reflector of its own, for a part of a type (a field selector, a namespace).
    /// Prefer [`Reflectors::get`]. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(api: Api<K>, config: watcher::Config) -> Self {
        let writer = Writer::new(());
        let cache =
            Arc::new(Cache { store: writer.as_reader(), indexed: RwLock::new(Indexed::default()) });
        let (first_list, listed) = watch::channel(false);
        let task = tokio::spawn(reflect(Arc::clone(&cache), writer, first_list, api, config));
        Self(Arc::new(Task { cache, listed, task }))
    }

    /// kube-runtime's view of the same cache.
    #[must_use]
    pub fn store(&self) -> Store<K> {
        self.0.cache.store.clone()
    }

    /// Waits for the first complete list.
    ///
    /// # Errors
    /// [`Error::ReflectorStopped`] if it never comes.
    pub async fn ready(&self) -> Result<(), Error> {
        let stopped = |_| Error::ReflectorStopped { kind: K::kind(&()).into_owned() };
        let mut listed = self.0.listed.clone();
        listed.wait_for(|listed| *listed).await.map(|_| ()).map_err(stopped)
    }

    /// The object of that name; `namespace` is `None` in cluster scope.
    #[must_use]
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let indexed = self.0.cache.indexed.read();
        indexed.by_name.get(namespace.unwrap_or_default())?.get(name).cloned()
    }

    /// The object that `reference` names.
    #[must_use]
    pub fn find(&self, reference: &ObjectRef<K>) -> Option<Arc<K>> {
        self.get(reference.namespace.as_deref(), &reference.name)
    }

    /// All objects of a namespace, by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let indexed = self.0.cache.indexed.read();
        indexed
            .by_name
            .get(namespace)
            .map_or_else(Vec::new, |objects| objects.values().cloned().collect())
    }

    /// All objects whose controller has this UID, by their own UID.
    #[must_use]
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let indexed = self.0.cache.indexed.read();
        indexed
            .by_controller
            .get(uid)
            .map_or_else(Vec::new, |objects| objects.values().cloned().collect())
    }

    /// All objects, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        let indexed = self.0.cache.indexed.read();
        indexed.by_name.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The highest resourceVersion of any object seen; 0 before the first.
    ///
    /// resourceVersions of one resource can be compared (KEP-5504).
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.cache.indexed.read().revision
    }

    /// Whether the cache was listed anew, completely, from some moment after `since`.
    #[must_use]
    pub fn listed_since(&self, since: Instant) -> bool {
        self.0.cache.indexed.read().listed_from.is_some_and(|from| from > since)
    }

    /// Every object, then every change, without gaps. Not bounded: a reader must keep up.
    pub fn changes(&self) -> impl Stream<Item = Change<K>> + Send + use<K> {
        let (sender, receiver) = mpsc::unbounded();
        let mut indexed = self.0.cache.indexed.write();
        for object in indexed.by_name.values().flat_map(BTreeMap::values) {
            let change = Change::Applied { object: Arc::clone(object), previous: None };
            sender.unbounded_send(change).ok(); // Cannot fail: the receiver is here.
        }
        indexed.subscribers.push(sender);
        drop(indexed);
        let keep_running = self.clone();
        receiver.inspect(move |_| {
            let _ = &keep_running;
        })
    }

    /// Every object, then each that is created or updated: what a controller of `K` is woken by.
    pub fn applied(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        self.changes().filter_map(async |change| match change {
            Change::Applied { object, .. } => Some(object),
            Change::Deleted(_) => None,
        })
    }

    /// Every object, then each state that a change concerns: what a controller of something else is
    /// woken by. Deleted objects are there in their last state, and if labels or owners changed, the
    /// state before comes first, so that who has just lost the object hears of it too.
    pub fn touched(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        self.changes().flat_map(|change| {
            stream::iter(match change {
                Change::Applied { object, previous: Some(previous) }
                    if previous.labels() != object.labels()
                        || previous.owner_references() != object.owner_references() =>
                {
                    vec![previous, object]
                }
                Change::Applied { object, .. } | Change::Deleted(object) => vec![object],
            })
        })
    }
}

impl<K> Default for Indexed<K> {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            by_controller: HashMap::new(),
            subscribers: Vec::new(),
            revision: 0,
            listed_from: None,
        }
    }
}

impl<K: Reflected> Indexed<K> {
    fn apply(&mut self, object: Arc<K>) {
        self.saw(&object);
        let (namespace, name) = key(&*object);
        let objects = self.by_name.entry(namespace).or_default();
        let previous = objects.insert(name, Arc::clone(&object));
        if let Some(previous) = &previous {
            self.unlink(previous);
        }
        if let (Some(owner), Some(uid)) = (owner::controller_of(object.meta()), &object.meta().uid)
        {
            let children = self.by_controller.entry(owner.uid.clone()).or_default();
            children.insert(uid.clone(), Arc::clone(&object));
        }
        self.tell(&Change::Applied { object, previous });
    }

    fn delete(&mut self, object: Arc<K>) {
        self.saw(&object);
        let (namespace, name) = key(&*object);
        if let Some(objects) = self.by_name.get_mut(&namespace) {
            let previous = objects.remove(&name);
            if objects.is_empty() {
                self.by_name.remove(&namespace);
            }
            if let Some(previous) = previous {
                self.unlink(&previous);
            }
        }
        self.tell(&Change::Deleted(object));
    }

    /// After a complete list: what it does not contain is gone.
    fn replace(&mut self, objects: Vec<Arc<K>>) {
        let listed: HashMap<_, _> =
            objects.into_iter().map(|object| (key(&*object), object)).collect();
        let known =
            self.by_name.iter().flat_map(|(ns, objects)| objects.iter().map(move |o| (ns, o)));
        let gone: Vec<_> = known
            .filter(|(ns, (name, _))| !listed.contains_key(&((*ns).clone(), (*name).clone())))
            .map(|(_, (_, object))| Arc::clone(object))
            .collect();
        gone.into_iter().for_each(|object| self.delete(object));
        listed.into_values().for_each(|object| self.apply(object));
    }

    fn unlink(&mut self, object: &K) {
        let Some(owner) = owner::controller_of(object.meta()) else { return };
        let Some(uid) = &object.meta().uid else { return };
        if let Some(children) = self.by_controller.get_mut(&owner.uid) {
            children.remove(uid);
            if children.is_empty() {
                self.by_controller.remove(&owner.uid);
            }
        }
    }

    fn saw(&mut self, object: &K) {
        self.revision = self.revision.max(revision_of(object));
    }

    fn tell(&mut self, change: &Change<K>) {
        self.subscribers.retain(|subscriber| subscriber.unbounded_send(change.clone()).is_ok());
    }
}

/// The resourceVersion as a number; 0 if it is none.
pub(crate) fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn key<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Lists and watches for ever.
async fn reflect<K: Reflected>(
    cache: Arc<Cache<K>>,
    mut writer: Writer<K>,
    first_list: watch::Sender<bool>,
    api: Api<K>,
    config: watcher::Config,
) {
    let mut events = std::pin::pin!(watcher(api, config));
    let mut list_began = None;
    let store = writer.as_reader();
    let mut pause = RETRY.0;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event.modify(|object| object.meta_mut().managed_fields = None),
            // After a restart of the server: list anew, at once.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => continue,
            Err(error) => {
                // An API that is not there yet is no news while everything starts.
                if pause > Duration::from_secs(1) {
                    warn!(kind = %K::kind(&()), error = chain(&error), "watch failed");
                } else {
                    debug!(kind = %K::kind(&()), error = chain(&error), "watch failed");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
                continue;
            }
        };
        // The store first: who hears of a change must find it there.
        writer.apply_watcher_event(&event);
        match event {
            watcher::Event::Init => list_began = Some(Instant::now()),
            watcher::Event::InitApply(_) => {}
            watcher::Event::InitDone => {
                pause = RETRY.0;
                let mut indexed = cache.indexed.write();
                indexed.replace(store.state());
                indexed.listed_from = list_began;
                drop(indexed);
                first_list.send_replace(true);
            }
            watcher::Event::Apply(object) => {
                pause = RETRY.0;
                let stored = store.get(&ObjectRef::from_obj(&object));
                cache.indexed.write().apply(stored.unwrap_or_else(|| Arc::new(object)));
            }
            watcher::Event::Delete(object) => {
                pause = RETRY.0;
                cache.indexed.write().delete(Arc::new(object));
            }
        }
    }
}
