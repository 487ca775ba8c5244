//! Follows roles and bindings, so that the authorizer always knows the newest.

use std::collections::HashMap;
use std::sync::Arc;

use store::Revision;
use tokio::sync::watch;

use super::{Core, follow};
use crate::identity::rbac::{GROUP, Kind};
use crate::status::ApiError;

/// Where the authorizer's knowledge is, by plural name.
pub(super) struct Follower {
    seen: HashMap<&'static str, watch::Receiver<Revision>>,
}

impl Follower {
    /// Reads everything, then follows in tasks.
    pub(super) async fn start(core: &Arc<Core>) -> Result<Self, ApiError> {
        let mut seen = HashMap::new();
        let registry = core.registry();
        for kind in Kind::ALL {
            let resource = registry.find(GROUP, kind.resource()).ok_or(ApiError::NoResource)?;
            let authorizer = core.authorizer.clone();
            let storage = resource.storage()?.clone();
            let followed = follow::follow(
                storage,
                core.stop().clone(),
                |_| true,
                move |namespace, name, object| {
                    authorizer.set(kind, namespace, name, object);
                },
            );
            seen.insert(kind.resource(), followed.await?);
        }
        Ok(Self { seen })
    }

    /// Waits until a change counts.
    pub(super) async fn wait_for(&self, resource: &str, revision: Revision) {
        if let Some(seen) = self.seen.get(resource) {
            // An error means that the server is going.
            let _ = seen.clone().wait_for(|r| *r >= revision).await;
        }
    }
}
