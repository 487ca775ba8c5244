//! Follows the APIServices: keeps the map of servers, and asks each of them how it is.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Method, Request, header};
use kube::Client;
use serde_json::{Value, json};
use store::Revision;
use store::cache::Cache;
use tokio_util::sync::CancellationToken;

use super::probe::{self, Condition};
use super::{Backend, Backends};
use crate::registry::Storage;
use crate::server::{Core, Server};
use crate::status::ApiError;
use crate::write::now;

/// How soon a server that cannot be used is asked again.
const SOON: Duration = Duration::from_secs(1);
/// How often one that can be used is asked.
///
/// Source: the resync of upstream's availability controller.
const LATER: Duration = Duration::from_secs(30);

/// Begins to follow, in tasks that end with the server.
///
/// # Errors
/// The APIServices cannot be read.
pub(crate) async fn start(server: &Server) -> Result<(), ApiError> {
    let core = server.core();
    let registry = core.registry();
    let resource =
        registry.find("apiregistration.k8s.io", "apiservices").ok_or(ApiError::NoResource)?;
    let storage = resource.storage()?.clone();
    let client = server.client("system:kube-aggregator", &["system:masters"]);
    super::register::start(server, client.clone())?;
    let mut state = State { core: Arc::downgrade(core), client, known: HashMap::new() };
    state.renew(core, storage.cache().await?);
    server.spawn(follow(state, storage));
    Ok(())
}

struct State {
    core: Weak<Core>,
    client: Client,
    known: HashMap<String, Known>,
}

/// A server, as one version of its APIService describes it, with the task that asks it.
struct Known {
    spec: Value,
    backend: Arc<Backend>,
    stop: CancellationToken,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn follow(mut state: State, storage: Arc<Storage>) {
    let Ok(cache) = storage.cache().await else { return };
    let mut passes = cache.passes();
    loop {
        passes.next().await;
        let Some(core) = state.core.upgrade() else { return };
        state.renew(&core, cache);
    }
}

impl State {
    fn renew(&mut self, core: &Arc<Core>, cache: &Cache) {
        let mut seen: HashMap<String, (Value, Revision)> = HashMap::new();
        for object in cache.list(None).iter() {
            if let Ok(json) = serde_json::from_slice::<Value>(object.stored()) {
                seen.insert(object.name().to_owned(), (json, object.revision()));
            }
        }
        let before = self.known.len();
        self.known.retain(|name, known| {
            seen.get(name).is_some_and(|(object, _)| object["spec"] == known.spec)
        });
        let mut changed = self.known.len() != before;
        for (name, (object, _)) in &seen {
            if self.known.contains_key(name) {
                continue;
            }
            let Some(backend) = Backend::of(object) else { continue };
            let backend = Arc::new(backend);
            let stop = core.stop().child_token();
            let watching = watch(self.core.clone(), self.client.clone(), backend.clone());
            let token = stop.clone();
            tokio::spawn(async move { token.run_until_cancelled(watching).await });
            let known = Known { spec: object["spec"].clone(), backend, stop };
            self.known.insert(name.clone(), known);
            changed = true;
        }
        if changed {
            let backends = self.known.values().map(|known| {
                let backend = known.backend.clone();
                ((backend.group.clone(), backend.version.clone()), backend)
            });
            core.aggregator.backends.store(Arc::new(backends.collect()));
        }
    }
}

/// Asks one server again and again, and writes down what changes.
async fn watch(core: Weak<Core>, client: Client, backend: Arc<Backend>) {
    let mut written = None;
    loop {
        let Some(strong) = core.upgrade() else { return };
        let condition = match probe::probe(&strong, &backend).await {
            Ok(served) => {
                take_over(&strong, &backend, served);
                Condition {
                    is_available: true,
                    reason: "Passed",
                    message: "all checks passed".to_owned(),
                }
            }
            Err(condition) => condition,
        };
        drop(strong);
        if backend.available.swap(condition.is_available, Ordering::Relaxed)
            != condition.is_available
        {
            refresh(&core);
        }
        if written.as_ref() != Some(&condition) {
            match write(&client, &backend.name, &condition).await {
                Ok(()) => written = Some(condition.clone()),
                Err(error) => {
                    tracing::warn!(error = &*error, name = backend.name, "condition not written");
                }
            }
        }
        tokio::time::sleep(if condition.is_available { LATER } else { SOON }).await;
    }
}

fn take_over(core: &Arc<Core>, backend: &Backend, served: super::Served) {
    if backend.served().is_none_or(|known| *known != served) {
        backend.served.store(Some(Arc::new(served)));
        refresh(&Arc::downgrade(core));
    }
}

/// Another pointer to the same servers, so that documents are made anew.
fn refresh(core: &Weak<Core>) {
    if let Some(core) = core.upgrade() {
        core.aggregator.backends.rcu(|backends| Backends::clone(backends));
    }
}

async fn write(
    client: &Client,
    name: &str,
    condition: &Condition,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}");
    let current: Value = client.request(Request::get(&path).body(Vec::new())?).await?;
    let status = if condition.is_available { "True" } else { "False" };
    let known = current["status"]["conditions"].as_array().into_iter().flatten();
    let known = known.filter(|c| c["type"] == "Available" && c["status"] == status);
    let since = known.filter_map(|c| c["lastTransitionTime"].as_str()).next().map(str::to_owned);
    let patch = json!({"status": {"conditions": [{
        "type": "Available",
        "status": status,
        "lastTransitionTime": since.unwrap_or_else(now),
        "reason": condition.reason,
        "message": condition.message,
    }]}});
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{path}/status"))
        .header(header::CONTENT_TYPE, "application/strategic-merge-patch+json")
        .header(header::USER_AGENT, "kube-apiserver")
        .body(serde_json::to_vec(&patch)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}
