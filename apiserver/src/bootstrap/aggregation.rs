//! Keeps the rules of aggregated ClusterRoles up to date, so that `admin`, `edit` and `view` grow
//! with the roles that others bring, without any controller.

use std::sync::Arc;

use http::{Method, Request, header};
use kube::Client;
use serde_json::{Value, json};
use store::cache::Cache;

use crate::identity::aggregate::outdated;
use crate::registry::Storage;
use crate::server::Server;

/// Follows all ClusterRoles in a task.
pub(super) fn start(server: &Server, client: Client) {
    let registry = server.core().registry();
    let roles = registry.find("rbac.authorization.k8s.io", "clusterroles");
    match roles.and_then(|roles| roles.storage.clone()) {
        Some(storage) => server.spawn(follow(storage, client)),
        // The type is hosted, so this is a bug; the cluster works without it.
        None => tracing::error!("cluster roles are not served, none will be aggregated"),
    }
}

async fn follow(storage: Arc<Storage>, client: Client) {
    let Ok(cache) = storage.cache().await else { return };
    let mut passes = cache.passes();
    loop {
        passes.next().await;
        mend(cache, &client).await;
    }
}

async fn mend(cache: &Cache, client: &Client) {
    let roles: Vec<Value> = cache
        .list(None)
        .iter()
        .filter_map(|role| serde_json::from_slice(role.stored()).ok())
        .collect();
    for (name, rules) in outdated(&roles.iter().collect::<Vec<_>>()) {
        if let Err(error) = write(client, &name, &rules).await {
            // The next change of any role tries again.
            tracing::warn!(error = &*error, role = name, "aggregated role was not written");
        }
    }
}

async fn write(
    client: &Client,
    name: &str,
    rules: &[Value],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}");
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/merge-patch+json")
        .header(header::USER_AGENT, "clusterrole-aggregation-controller")
        .body(serde_json::to_vec(&json!({ "rules": rules }))?)?;
    client.request::<Value>(request).await?;
    Ok(())
}
