//! What there is to watch, and the watches.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{AbortHandle, BoxStream, SelectAll};
use kit::chain;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use tracing::{debug, info, warn};

use crate::graph::{Kind, Object};

/// Any object, as far as its metadata go.
pub(crate) type Meta = PartialObjectMeta<DynamicObject>;

/// How objects of a kind are reached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    /// Whether the collector can watch and delete them.
    pub(crate) collectable: bool,
}

impl Served {
    /// Access to the objects of this kind, in a namespace if they are in namespaces.
    pub(crate) fn api(&self, client: &Client, namespace: Option<&str>) -> Api<Meta> {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// Every kind that the server serves, each in one version.
pub(crate) async fn discover(client: Client) -> Result<HashMap<Kind, Served>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            debug!(error = chain(&error), "no aggregated discovery");
            Discovery::new(client).run().await?
        }
    };
    let mut kinds = HashMap::new();
    for (resource, can) in
        discovery.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability)
    {
        let kind = Kind { group: resource.group.clone(), kind: resource.kind.clone() };
        let has_all =
            [verbs::LIST, verbs::WATCH, verbs::DELETE].iter().all(|v| can.supports_operation(v));
        // Events own nothing, nothing owns them, and there are many.
        let collectable = has_all && kind.kind != "Event";
        kinds.insert(
            kind,
            Served { resource, namespaced: can.scope == Scope::Namespaced, collectable },
        );
    }
    Ok(kinds)
}

/// What a watch tells.
pub(crate) enum News {
    /// A complete list begins.
    ListBegins(Arc<Kind>),
    /// An object is there; `listed` if as a part of a complete list.
    Seen { object: Object, listed: bool },
    /// The list is complete.
    ListEnds(Arc<Kind>),
    /// An object is gone.
    Gone(Object),
    /// The watch failed, and goes on after a while.
    Failed(Arc<Kind>),
}

/// The watches that run.
#[derive(Default)]
pub(crate) struct Monitors {
    running: HashMap<Kind, Monitor>,
    pub(crate) news: SelectAll<BoxStream<'static, News>>,
}

struct Monitor {
    served: Served,
    abort: AbortHandle,
    /// It has listed once, or failed to.
    settled: bool,
}

impl Monitors {
    /// Starts and stops watches, so that everything collectable is watched.
    pub(crate) fn follow(&mut self, client: &Client, kinds: &HashMap<Kind, Served>) {
        self.running.retain(|kind, monitor| {
            let stays = kinds.get(kind).is_some_and(|served| *served == monitor.served);
            if !stays {
                info!(group = kind.group, kind = kind.kind, "no longer watched");
                monitor.abort.abort();
            }
            stays
        });
        for (kind, served) in kinds.iter().filter(|(_, served)| served.collectable) {
            if self.running.contains_key(kind) {
                continue;
            }
            let stream = watch(client, Arc::new(kind.clone()), served);
            let (stream, abort) = futures::stream::abortable(stream);
            self.news.push(stream.boxed());
            let monitor = Monitor { served: served.clone(), abort, settled: false };
            self.running.insert(kind.clone(), monitor);
        }
    }

    /// Notes that a watch has listed, or failed to.
    pub(crate) fn settle(&mut self, kind: &Kind) {
        if let Some(monitor) = self.running.get_mut(kind) {
            monitor.settled = true;
        }
    }

    /// Whether every watch has listed, or failed to.
    pub(crate) fn all_settled(&self) -> bool {
        !self.running.is_empty() && self.running.values().all(|m| m.settled)
    }
}

fn watch(client: &Client, kind: Arc<Kind>, served: &Served) -> BoxStream<'static, News> {
    let api = served.api(client, None);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let news = events.filter_map(move |event| {
        let kind = Arc::clone(&kind);
        std::future::ready(match event {
            Ok(watcher::Event::Init) => Some(News::ListBegins(kind)),
            Ok(watcher::Event::InitApply(meta)) => {
                Object::new(kind, meta.metadata).map(|object| News::Seen { object, listed: true })
            }
            Ok(watcher::Event::InitDone) => Some(News::ListEnds(kind)),
            Ok(watcher::Event::Apply(meta)) => {
                Object::new(kind, meta.metadata).map(|object| News::Seen { object, listed: false })
            }
            Ok(watcher::Event::Delete(meta)) => Object::new(kind, meta.metadata).map(News::Gone),
            Err(error) => {
                warn!(group = kind.group, kind = kind.kind, error = chain(&error), "watch failed");
                Some(News::Failed(kind))
            }
        })
    });
    news.boxed()
}
