//! APIServices for the group versions that custom types bring: they come and go with their definitions.
//!
//! Source: upstream `kube-aggregator/pkg/controllers/autoregister` and its `crdRegistrationController`.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Method, Request, header};
use kube::Client;
use serde_json::{Value, json};
use store::cache::Cache;

use super::GroupVersion;
use crate::registry::{Registry, Storage};
use crate::server::Server;
use crate::status::ApiError;

/// Tells APIServices that are kept by the server from those of others.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Begins to follow the definitions, in a task that ends with the server.
///
/// # Errors
/// The types are not served.
pub(super) fn start(server: &Server, client: Client) -> Result<(), ApiError> {
    let registry = server.core().registry();
    let storage = |group: &str, name: &str| {
        registry.find(group, name).and_then(|r| r.storage.clone()).ok_or(ApiError::NoResource)
    };
    let definitions = storage("apiextensions.k8s.io", "customresourcedefinitions")?;
    let services = storage("apiregistration.k8s.io", "apiservices")?;
    server.spawn(follow(server.clone(), definitions, services, client));
    Ok(())
}

async fn follow(server: Server, definitions: Arc<Storage>, services: Arc<Storage>, client: Client) {
    let (Ok(cache), Ok(services)) = (definitions.cache().await, services.cache().await) else {
        return;
    };
    let mut passes = cache.passes();
    loop {
        let revision = passes.next().await;
        server.core().settle_definitions(revision).await;
        mend(&server, services, &client).await;
    }
}

async fn mend(server: &Server, services: &Cache, client: &Client) {
    if services.fresh().await.is_err() {
        return;
    }
    let known: Vec<Value> = services
        .list(None)
        .iter()
        .filter_map(|service| serde_json::from_slice(service.stored()).ok())
        .collect();
    let (missing, stale) = plan(&custom(&server.core().registry()), &known);
    for version in missing {
        let sent = send(client, Method::POST, PATH, Some(&service(&version))).await;
        tell(sent, &version.1);
    }
    for name in stale {
        tell(send(client, Method::DELETE, &format!("{PATH}/{name}"), None).await, &name);
    }
}

/// Group versions that custom types bring.
fn custom(registry: &Registry) -> BTreeSet<GroupVersion> {
    let custom = registry.resources().filter(|resource| resource.custom.is_some());
    custom.map(|resource| (resource.group.clone(), resource.version.clone())).collect()
}

/// Group versions without an APIService, and names of APIServices of ours without a group version.
fn plan(served: &BTreeSet<GroupVersion>, known: &[Value]) -> (Vec<GroupVersion>, Vec<String>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version =
        |service: &Value| (text(&service["spec"]["group"]), text(&service["spec"]["version"]));
    let named: BTreeSet<GroupVersion> = known.iter().map(version).collect();
    let missing = served.difference(&named).cloned().collect();
    let ours = known.iter().filter(|service| service["metadata"]["labels"][LABEL] == "true");
    let stale = ours.filter(|service| !served.contains(&version(service)));
    (missing, stale.map(|service| text(&service["metadata"]["name"])).collect())
}

fn service((group, version): &GroupVersion) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {LABEL: "true"}},
        "spec": {"group": group, "version": version,
            "groupPriorityMinimum": 1000, "versionPriority": 100},
    })
}

fn tell(sent: Result<(), kube::Error>, what: &str) {
    match sent {
        Ok(()) => (),
        Err(kube::Error::Api(s)) if s.is_already_exists() || s.is_not_found() => (),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, what, "APIService not kept");
        }
    }
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(), kube::Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "kube-apiserver")
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_come_and_go_with_their_versions() {
        let version = |v: &str| ("x.io".to_owned(), v.to_owned());
        let served = [version("v1"), version("v2")].into();
        let mut foreign = service(&version("v4"));
        foreign["metadata"]["labels"] = json!({});
        let known = [service(&version("v2")), service(&version("v3")), foreign];
        assert_eq!(plan(&served, &known), (vec![version("v1")], vec!["v3.x.io".to_owned()]));
    }
}
