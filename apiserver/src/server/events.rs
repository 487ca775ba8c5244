//! Events are news: they are deleted some time (`--event-ttl`) after they were last written.
//!
//! In etcd they have leases; here is what a store does instead that this server has for itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use store::Expect;
use tracing::{debug, warn};

use super::Core;
use crate::status::ApiError;

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(300);

/// Deletes old events until the server is gone.
pub(super) async fn expire(core: Weak<Core>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(core) = core.upgrade() else { return };
        let oldest = Timestamp::now().as_second() - core.config.storage.event_ttl.as_secs() as i64;
        match sweep(&core, oldest).await {
            Ok(0) => (),
            Ok(n_deleted) => debug!(n_deleted, "old events deleted"),
            Err(error) => warn!(%error, "old events not deleted"),
        }
    }
}

/// Deletes the events that were last written before a time, in seconds since 1970.
async fn sweep(core: &Arc<Core>, before: i64) -> Result<usize, ApiError> {
    let registry = core.registry();
    let events = registry.find("", "events").ok_or(ApiError::NoResource)?;
    let storage = events.storage()?;
    let mut n_deleted = 0;
    for object in storage.cache().await?.list(None).iter() {
        let event: Value = serde_json::from_slice(object.stored()).map_err(ApiError::internal)?;
        if last_written(&event).is_none_or(|time| time >= before) {
            continue;
        }
        match storage.commit(object.key(), Expect::At(object.revision()), None).await {
            Ok(_) => n_deleted += 1,
            Err(store::Error::Conflict { .. }) => (), // There was news just now.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(n_deleted)
}

/// When the server last wrote an event; what the event itself tells of times is its client's.
fn last_written(event: &Value) -> Option<i64> {
    let metadata = &event["metadata"];
    let writes = metadata["managedFields"].as_array().into_iter().flatten().map(|w| &w["time"]);
    let times = writes.chain([&metadata["creationTimestamp"]]);
    times.filter_map(|t| t.as_str()?.parse::<Timestamp>().ok()).map(|t| t.as_second()).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;
    use k8s_openapi::api::core::v1::Event;
    use kube::api::{Api, ListParams, PostParams};
    use serde_json::json;

    #[tokio::test]
    async fn news_goes_when_it_was_not_written_for_long() {
        let server = TestServer::start().await.unwrap();
        let events: Api<Event> = Api::namespaced(server.client(), "default");
        // What it tells of is long ago; that it was told is not.
        let event = json!({"metadata": {"name": "e"}, "lastTimestamp": "2020-01-01T00:00:00Z", "type": "Normal",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
        let event = serde_json::from_value(event).unwrap();
        events.create(&PostParams::default(), &event).await.unwrap();
        let (core, now) = (server.server().core(), Timestamp::now().as_second());
        assert_eq!(events.list(&ListParams::default()).await.unwrap().items.len(), 1);
        assert_eq!(sweep(core, now - 60).await.unwrap(), 0);
        assert_eq!(sweep(core, now + 60).await.unwrap(), 1);
        assert_eq!(events.list(&ListParams::default()).await.unwrap().items.len(), 0);
    }

    #[test]
    fn a_later_write_is_news() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"time": "2026-01-01T01:00:00Z"}, {"manager": "without time"}]}});
        assert_eq!(last_written(&event), Some(1_767_229_200));
    }
}
