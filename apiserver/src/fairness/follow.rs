//! Follows FlowSchemas and PriorityLevelConfigurations, says on each schema whether its level exists, keeps the
//! recorded objects up to date, and adjusts the levels' seats.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::cache::{Cache, Interest, Subscription};

use super::{ADJUST_EVERY, config};
use crate::bootstrap;
use crate::server::{Core, Server};
use crate::status::ApiError;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// How often the recorded objects are looked at again.
///
/// Source: the worker's period in upstream's
/// `pkg/registry/flowcontrol/rest/storage_flowcontrol.go`.
const ENSURE_EVERY: Duration = Duration::from_secs(60);
/// How often seats of requests that never end are taken back.
const EVICT_EVERY: Duration = Duration::from_secs(1);
/// Pause after a status that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Reads the objects, then follows them in tasks of the server.
///
/// # Errors
/// The store cannot be read.
pub async fn start(server: &Server) -> Result<(), ApiError> {
    let sources = Sources::open(server.core()).await?;
    server.spawn(follow(server.clone(), sources));
    server.spawn(tend(server.clone()));
    server.spawn(ensure(server.clone()));
    Ok(())
}

/// Changes of both resources, from now on.
struct Sources {
    schemas: Subscription,
    levels: Subscription,
}

impl Sources {
    async fn open(core: &Arc<Core>) -> Result<Self, ApiError> {
        let schemas = subscribe(core, "flowschemas").await?;
        let levels = subscribe(core, "prioritylevelconfigurations").await?;
        digest(core).await?;
        Ok(Self { schemas, levels })
    }

    /// Waits for a change of either; false if a subscription has ended.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            event = self.schemas.recv() => event.is_some(),
            event = self.levels.recv() => event.is_some(),
        }
    }
}

async fn cache_of<'a>(
    registry: &'a crate::registry::Registry,
    resource: &str,
) -> Result<&'a Cache, ApiError> {
    registry.find(GROUP, resource).ok_or(ApiError::NoResource)?.storage()?.cache().await
}

async fn subscribe(core: &Arc<Core>, resource: &str) -> Result<Subscription, ApiError> {
    let registry = core.registry();
    let cache = cache_of(&registry, resource).await?;
    Ok(cache.list_and_subscribe(None, Interest::All).1)
}

async fn read<T: DeserializeOwned>(core: &Arc<Core>, resource: &str) -> Result<Vec<T>, ApiError> {
    let registry = core.registry();
    let list = cache_of(&registry, resource).await?.list(None);
    // Validation refuses what would not parse.
    Ok(list.iter().filter_map(|object| serde_json::from_slice(&object.json()).ok()).collect())
}

/// Makes the server follow what the caches show; answers the schemas.
async fn digest(core: &Arc<Core>) -> Result<Vec<FlowSchema>, ApiError> {
    let schemas: Vec<FlowSchema> = read(core, "flowschemas").await?;
    let levels: Vec<PriorityLevelConfiguration> = read(core, "prioritylevelconfigurations").await?;
    if schemas.is_empty() && levels.is_empty() {
        // Before the first start has made them, the recorded ones hold.
        return Ok(schemas);
    }
    let seats = core.fairness.options().seats();
    core.fairness.follow(config::digest(seats, schemas.clone(), levels));
    Ok(schemas)
}

async fn follow(server: Server, mut sources: Sources) {
    let core = server.core();
    let client = server.own_client();
    let api: Api<FlowSchema> = Api::all(client);
    loop {
        let again = match digest(core).await {
            Ok(schemas) => !write_conditions(core, &api, &schemas).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "flow schemas not read");
                true
            }
        };
        let open = if again {
            tokio::time::timeout(RETRY_AFTER, sources.changed()).await.unwrap_or(true)
        } else {
            sources.changed().await
        };
        if !open {
            match Sources::open(core).await {
                Ok(next) => sources = next,
                Err(_) => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
    }
}

/// Says on each schema whether its level exists; false if one could not be told.
async fn write_conditions(core: &Arc<Core>, api: &Api<FlowSchema>, schemas: &[FlowSchema]) -> bool {
    let levels = match read::<PriorityLevelConfiguration>(core, "prioritylevelconfigurations").await
    {
        Ok(levels) => levels,
        Err(_) => return false,
    };
    let mut told = true;
    for schema in schemas {
        let Some(name) = schema.metadata.name.as_deref() else { continue };
        let wanted = schema.spec.as_ref().map(|s| s.priority_level_configuration.name.as_str());
        let exists = levels.iter().any(|level| level.metadata.name.as_deref() == wanted);
        let Some(condition) = condition(schema, wanted.unwrap_or_default(), exists) else {
            continue;
        };
        let patch = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": { "name": name },
            "status": { "conditions": [condition] },
        });
        let params = PatchParams::apply(MANAGER).force();
        if let Err(error) = api.patch_status(name, &params, &Patch::Apply(&patch)).await {
            told = false;
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                name,
                "condition not written"
            );
        }
    }
    told
}

/// The condition that a schema should have, unless it has it.
fn condition(schema: &FlowSchema, level: &str, exists: bool) -> Option<Value> {
    let (status, reason, end) = if exists {
        ("False", "Found", "it exists")
    } else {
        ("True", "NotFound", "there is no such object")
    };
    let join = if exists { "and" } else { "but" };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {join} {end}"
    );
    let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_ref());
    let present = conditions.into_iter().flatten().find(|c| c.type_.as_deref() == Some("Dangling"));
    let same = present.is_some_and(|present| {
        present.status.as_deref() == Some(status)
            && present.reason.as_deref() == Some(reason)
            && present.message.as_deref() == Some(message.as_str())
    });
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    (!same).then(|| {
        json!({ "type": "Dangling", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now })
    })
}

/// Lends seats, and takes back those that nobody gives back.
async fn tend(server: Server) {
    let fairness = &server.core().fairness;
    let mut adjust = tokio::time::interval(ADJUST_EVERY);
    let mut evict = tokio::time::interval(EVICT_EVERY);
    loop {
        tokio::select! {
            _ = adjust.tick() => fairness.adjust(),
            _ = evict.tick() => fairness.evict(fairness.options().request_timeout),
        }
    }
}

/// Brings the recorded objects back into shape, as long as nobody has said that they are to be left alone.
async fn ensure(server: Server) {
    loop {
        tokio::time::sleep(ENSURE_EVERY).await;
        if let Err(error) = bootstrap::ensure_group(&server, GROUP).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "flow schemas not kept up to date"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_once() {
        let (schemas, _) = config::recorded();
        let mut schema = schemas[0].clone();
        let level = schema.spec.as_ref().unwrap().priority_level_configuration.name.clone();
        let wanted = condition(&schema, &level, true).unwrap();
        assert_eq!((&wanted["status"], &wanted["reason"]), (&json!("False"), &json!("Found")));
        schema.status = serde_json::from_value(json!({ "conditions": [wanted] })).unwrap();
        assert_eq!(condition(&schema, &level, true), None);
        let dangling = condition(&schema, &level, false).unwrap();
        assert_eq!(
            (&dangling["status"], &dangling["reason"]),
            (&json!("True"), &json!("NotFound"))
        );
    }
}
