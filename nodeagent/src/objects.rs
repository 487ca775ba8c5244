//! Config maps and secrets that pods refer to, each watched by itself: the node may read no others.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::WatchStreamExt;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Longest wait for the first answer of the API.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// What the API says about one object.
#[derive(Debug)]
pub enum Lookup<K> {
    /// No answer yet.
    Pending,
    /// There is none.
    Missing,
    /// There it is.
    Found(Arc<K>),
    /// The API would not say.
    Refused(String),
}

impl<K> Clone for Lookup<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Missing => Self::Missing,
            Self::Found(object) => Self::Found(object.clone()),
            Self::Refused(why) => Self::Refused(why.clone()),
        }
    }
}

/// One watched object. The watch ends with the last handle.
#[derive(Debug)]
pub struct Watched<K> {
    state: watch::Receiver<Lookup<K>>,
    task: tokio::task::AbortHandle,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Watched<K> {
    /// The object, or `None` if it does not exist.
    ///
    /// # Errors
    /// The API refuses, or has not answered in time.
    pub async fn get(&self) -> Result<Option<Arc<K>>, String> {
        let mut state = self.state.clone();
        let known = state.wait_for(|s| !matches!(s, Lookup::Pending));
        let known = tokio::time::timeout(FIRST_ANSWER, known).await;
        match known.ok().and_then(Result::ok).map(|state| state.clone()) {
            Some(Lookup::Found(object)) => Ok(Some(object)),
            Some(Lookup::Missing) => Ok(None),
            Some(Lookup::Refused(why)) => Err(why),
            Some(Lookup::Pending) | None => {
                Err("failed to sync cache: timed out waiting for the condition".to_owned())
            }
        }
    }
}

/// One user's view of a watched object: it knows which version the user has seen.
#[derive(Debug)]
pub struct Reader<K> {
    watched: Arc<Watched<K>>,
    state: watch::Receiver<Lookup<K>>,
}

impl<K> Reader<K> {
    /// Nothing is seen yet.
    pub fn new(watched: Arc<Watched<K>>) -> Self {
        let state = watched.state.clone();
        Self { watched, state }
    }

    /// The watched object; what it is now counts as seen.
    pub fn look(&mut self) -> Arc<Watched<K>> {
        self.state.mark_unchanged();
        self.watched.clone()
    }

    /// Answers when the object is no longer what was seen; never, if it cannot change any more.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + 'static
    where
        K: Send + Sync + 'static,
    {
        let mut state = self.state.clone();
        async move {
            // The first answer is no change: it is what the look waited for.
            let was_pending = matches!(*state.borrow(), Lookup::Pending);
            if was_pending && state.changed().await.is_ok() {
                state.mark_unchanged();
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

type Key = (String, String);

/// All watched objects of one type.
struct Cache<K> {
    client: Client,
    entries: Mutex<HashMap<Key, Weak<Watched<K>>>>,
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Send + Sync + 'static,
    K::DynamicType: Default,
{
    fn watch(&self, namespace: &str, name: &str) -> Arc<Watched<K>> {
        let mut entries = self.entries.lock();
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = entries.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let (sender, state) = watch::channel(Lookup::Pending);
        let task = tokio::spawn(follow(api, name.to_owned(), sender)).abort_handle();
        let watched = Arc::new(Watched { state, task });
        entries.insert(key, Arc::downgrade(&watched));
        watched
    }
}

async fn follow<K>(api: Api<K>, name: String, state: watch::Sender<Lookup<K>>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let stream = kube::runtime::watcher::watch_object(api, &name).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        let next = match item {
            Ok(Some(object)) => Lookup::Found(Arc::new(object)),
            Ok(None) => Lookup::Missing,
            // What was known stays known while the watch is mended.
            Err(_) if matches!(*state.borrow(), Lookup::Found(_)) => continue,
            Err(error) => {
                tracing::debug!(error = %error, name, "watch failed");
                Lookup::Refused(error.to_string())
            }
        };
        state.send_replace(next);
    }
}

/// Config maps and secrets, shared by all pods of the node.
#[derive(Clone)]
pub struct Objects {
    config_maps: Arc<Cache<ConfigMap>>,
    secrets: Arc<Cache<Secret>>,
}

impl Objects {
    /// Watches nothing yet.
    pub fn new(client: Client) -> Self {
        Self {
            config_maps: Arc::new(Cache { client: client.clone(), entries: Mutex::default() }),
            secrets: Arc::new(Cache { client, entries: Mutex::default() }),
        }
    }

    /// Watches a config map while the handle lives.
    pub fn config_map(&self, namespace: &str, name: &str) -> Arc<Watched<ConfigMap>> {
        self.config_maps.watch(namespace, name)
    }

    /// Watches a secret while the handle lives.
    pub fn secret(&self, namespace: &str, name: &str) -> Arc<Watched<Secret>> {
        self.secrets.watch(namespace, name)
    }
}
