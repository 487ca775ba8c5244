//! Follows what ties objects to nodes, so that the node authorizer need not search for it.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::follow::{self, Wanted};
use crate::identity::graph::TIES;
use crate::registry::Storage;
use crate::status::ApiError;

/// How often it is looked whether a type that a definition brings is served now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Follows the hosted types from now on, and those that definitions bring once they are there.
pub(super) async fn follow(core: &Arc<Core>) -> Result<(), ApiError> {
    for (group, resource) in TIES {
        match storage(core, group, resource) {
            Some(storage) => begin(core, storage, resource).await?,
            None => later(core, group, resource),
        }
    }
    Ok(())
}

fn storage(core: &Arc<Core>, group: &str, resource: &str) -> Option<Arc<Storage>> {
    core.registry().find(group, resource)?.storage.clone()
}

async fn begin(
    core: &Arc<Core>,
    storage: Arc<Storage>,
    resource: &'static str,
) -> Result<(), ApiError> {
    let authorizer = core.authorizer.clone();
    let stop = core.stop().clone();
    // A pod ties nothing before it has a node.
    let wanted: Wanted = match resource {
        "pods" => |pod| pod.fields().get("spec.nodeName").is_some_and(|node| !node.is_empty()),
        _ => |_| true,
    };
    follow::follow(storage, stop, wanted, move |namespace, name, object| {
        authorizer.set_tie(resource, namespace, name, object);
    })
    .await
    .map(drop)
}

fn later(core: &Arc<Core>, group: &'static str, resource: &'static str) {
    let (weak, stop) = (Arc::downgrade(core), core.stop().clone());
    let look = async move {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let Some(core) = weak.upgrade() else { return };
            let Some(storage) = storage(&core, group, resource) else { continue };
            match begin(&core, storage, resource).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, resource, "not followed yet"),
            }
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled(look).await });
}
