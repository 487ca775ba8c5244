//! Deletions of objects of which only the number counts, watched while a quota names their type.

use std::collections::HashMap;

use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use kit::chain;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::discovery::Discovery;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

type Meta = PartialObjectMeta<DynamicObject>;

/// The watches that run, by group and plural name.
pub(crate) struct Watches {
    client: Client,
    running: Mutex<HashMap<(String, String), Watch>>,
    deleted: mpsc::UnboundedSender<String>,
}

struct Watch {
    resource: ApiResource,
    _task: AbortOnDropHandle<()>,
}

impl Watches {
    /// No watch yet, and the namespaces in which something will be deleted.
    pub(crate) fn new(client: Client) -> (Self, impl Stream<Item = String> + Send + 'static) {
        let (deleted, namespaces) = mpsc::unbounded();
        (Self { client, running: Mutex::default(), deleted }, namespaces)
    }

    /// How many objects of a type a namespace has, which is watched from now on; `None` if there is no such type.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn count(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
    ) -> Result<Option<i64>, kube::Error> {
        let Some(resource) = self.follow(group, plural).await? else { return Ok(None) };
        let api: Api<Meta> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        // One object, and how many there are beside it.
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(list) => {
                let here = i64::try_from(list.items.len()).unwrap_or(i64::MAX);
                Ok(Some(here + list.metadata.remaining_item_count.unwrap_or(0)))
            }
            // The type has gone, and may come back as another.
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                self.running.lock().remove(&(group.to_owned(), plural.to_owned()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn follow(&self, group: &str, plural: &str) -> Result<Option<ApiResource>, kube::Error> {
        let key = (group.to_owned(), plural.to_owned());
        if let Some(watch) = self.running.lock().get(&key) {
            return Ok(Some(watch.resource.clone()));
        }
        let Some(resource) = find(self.client.clone(), group, plural).await? else {
            return Ok(None);
        };
        let api: Api<Meta> = Api::all_with(self.client.clone(), &resource);
        let task = tokio::spawn(tell(api, self.deleted.clone()));
        let watch = Watch { resource: resource.clone(), _task: AbortOnDropHandle::new(task) };
        self.running.lock().insert(key, watch);
        Ok(Some(resource))
    }
}

async fn find(
    client: Client,
    group: &str,
    plural: &str,
) -> Result<Option<ApiResource>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).filter(&[group]).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            debug!(error = chain(&error), "no aggregated discovery");
            Discovery::new(client).filter(&[group]).run().await?
        }
    };
    let resources = discovery.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability);
    Ok(resources.map(|(resource, _)| resource).find(|r| r.group == group && r.plural == plural))
}

async fn tell(api: Api<Meta>, deleted: mpsc::UnboundedSender<String>) {
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Delete(meta)) => {
                if let Some(namespace) = meta.namespace() {
                    let _ = deleted.unbounded_send(namespace); // Nobody listens: we are about to stop.
                }
            }
            Ok(_) => {}
            Err(error) => debug!(error = chain(&error), "watch failed"),
        }
    }
}
