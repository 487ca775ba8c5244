//! Each API server has a Lease and renews it; the `kubernetes` Service leads to those that do.
//!
//! Source: KEP-1965, "kube-apiserver identity". That the Lease says where its server is, is ours: upstream keeps that
//! in etcd beside the objects.

mod plan;

use std::net::SocketAddr;
use std::sync::LazyLock;

use http::Method;
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use uuid::Uuid;

use super::{StartError, path_of, present, refused, resource_of, send};
use crate::registry::Resource;
use crate::server::Server;
use crate::status::ApiError;

/// Tells this process from those before it on the same host.
static HOLDER: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());

/// Renews this server's Lease, removes those of servers that went long ago, and answers where all that are alive are
/// reached.
pub(super) async fn renew(
    server: &Server,
    client: &Client,
    address: SocketAddr,
) -> Result<Vec<SocketAddr>, StartError> {
    let now = Timestamp::now();
    let wanted = plan::lease(&host(), address, &HOLDER, now, None);
    let wrong = |error| refused(&wanted, error);
    let registry = server.core().registry();
    let Some(leases) = resource_of(&registry, &wanted) else { return Ok(vec![address]) };
    let path = path_of(leases, &wanted);
    match present(leases, &wanted).await.map_err(wrong)? {
        None => send(client, Method::POST, &path, Some(&wanted)).await.map_err(wrong)?,
        Some(old) => {
            let renewed = plan::lease(&host(), address, &HOLDER, now, Some(&old));
            let one = format!("{path}/{}", plan::identity(&host()));
            send(client, Method::PUT, &one, Some(&renewed)).await.map_err(wrong)?;
        }
    }
    let all = all(leases).await.map_err(wrong)?;
    for lease in all.iter().filter(|lease| plan::is_left_over(lease, now)) {
        let name = lease["metadata"]["name"].as_str().unwrap_or_default();
        send(client, Method::DELETE, &format!("{path}/{name}"), None).await.map_err(wrong)?;
    }
    Ok(plan::alive(&all, now))
}

/// Removes this server's Lease; answers where those are reached that stay.
pub(super) async fn withdraw(
    server: &Server,
    client: &Client,
    address: SocketAddr,
) -> Result<Vec<SocketAddr>, StartError> {
    let now = Timestamp::now();
    let own = plan::lease(&host(), address, &HOLDER, now, None);
    let wrong = |error| refused(&own, error);
    let registry = server.core().registry();
    let Some(leases) = resource_of(&registry, &own) else { return Ok(Vec::new()) };
    let one = format!("{}/{}", path_of(leases, &own), plan::identity(&host()));
    send(client, Method::DELETE, &one, None).await.map_err(wrong)?;
    Ok(plan::alive(&all(leases).await.map_err(wrong)?, now))
}

/// The Leases of API servers.
async fn all(leases: &Resource) -> Result<Vec<Value>, ApiError> {
    let cache = leases.storage()?.cache().await?;
    cache.fresh().await?;
    let mut all = Vec::new();
    for object in cache.list(Some("kube-system")).iter() {
        let lease: Value =
            serde_json::from_slice(&leases.view(object.json())).map_err(ApiError::internal)?;
        if lease["metadata"]["labels"][plan::IDENTITY] == "kube-apiserver" {
            all.push(lease);
        }
    }
    Ok(all)
}

fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
