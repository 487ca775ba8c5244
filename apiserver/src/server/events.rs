//! Events are news: they are deleted after an hour.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use store::Expect;
use tracing::{debug, warn};

use super::Core;
use crate::status::ApiError;

/// Life of an event.
///
/// Source: `--event-ttl` of upstream's server.
const LIFE: i64 = 3600;
/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(300);

/// Deletes old events until the server is gone.
pub(super) async fn expire(core: Weak<Core>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(core) = core.upgrade() else { return };
        match sweep(&core, Timestamp::now().as_second() - LIFE).await {
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
        if last_news(&event).is_none_or(|time| time >= before) {
            continue;
        }
        match storage.store().commit(object.key(), Expect::At(object.revision()), None).await {
            Ok(_) => n_deleted += 1,
            Err(store::Error::Conflict { .. }) => (), // There was news just now.
            Err(error) => return Err(ApiError::internal(error)),
        }
    }
    Ok(n_deleted)
}

/// When an event last had something to tell.
fn last_news(event: &Value) -> Option<i64> {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let seconds =
        times.iter().filter_map(|t| t.as_str()?.parse::<Timestamp>().ok()).map(|t| t.as_second());
    seconds.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;
    use k8s_openapi::api::core::v1::Event;
    use kube::api::{Api, ListParams, PostParams};
    use serde_json::json;

    #[tokio::test]
    async fn only_old_news_goes() {
        let server = TestServer::start().await.unwrap();
        let events: Api<Event> = Api::namespaced(server.client(), "default");
        for (name, last) in [("new", "2126-01-01T00:00:00Z"), ("old", "2020-01-01T00:00:00Z")] {
            let event = json!({"metadata": {"name": name}, "lastTimestamp": last, "type": "Normal",
                "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
            events
                .create(&PostParams::default(), &serde_json::from_value(event).unwrap())
                .await
                .unwrap();
        }
        let core = server.server().core();
        let soon = Timestamp::now().as_second() + 60;
        assert_eq!(events.list(&ListParams::default()).await.unwrap().items.len(), 2);
        assert_eq!(sweep(core, soon).await.unwrap(), 1);
        let left = events.list(&ListParams::default()).await.unwrap().items;
        assert_eq!(left[0].metadata.name.as_deref(), Some("new"));
    }
}
