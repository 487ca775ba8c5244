//! From a Service to an address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::server::Core;

/// An address of a service's port, in upstream's words if there is none.
///
/// Ready endpoints are dialled directly, which needs no proxy on this machine (upstream's
/// `--enable-aggregator-routing`); a service whose endpoints nobody keeps is dialled at its own address.
///
/// # Errors
/// Why there is none.
///
/// Source: `ResolveEndpoint` and `ResolveCluster` in upstream `apiserver/pkg/util/proxy/proxy.go`.
pub(crate) async fn resolve(
    core: &Arc<Core>,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<SocketAddr, String> {
    if (namespace, name) == ("default", "kubernetes")
        && let Some(own) = core.address()
    {
        return Ok(own);
    }
    let absent = || format!("service \"{name}\" not found");
    let service = read(core, "", "services", namespace, name).await.ok_or_else(absent)?;
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        let host = spec["externalName"].as_str().unwrap_or_default();
        return lookup(host, port).await;
    }
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = ports.iter().find(|p| p["port"].as_u64() == Some(port.into()));
    let known =
        known.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = known["name"].as_str().unwrap_or_default();
    let (found, is_kept) = endpoints(core, namespace, name, port_name).await;
    let chosen = found.get(rand::random_range(0..found.len().max(1))).copied();
    let own = || spec["clusterIP"].as_str()?.parse::<IpAddr>().ok();
    match chosen.or_else(|| own().filter(|_| !is_kept).map(|ip| SocketAddr::new(ip, port))) {
        Some(address) => Ok(address),
        None => Err(format!("no endpoints available for service {name:?}")),
    }
}

/// The first address of a host name.
async fn lookup(host: &str, port: u16) -> Result<SocketAddr, String> {
    let unknown = || format!("dial tcp: lookup {host}: no such host");
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|_| unknown())?;
    found.next().ok_or_else(unknown)
}

/// Resolves the host of a URL.
///
/// # Errors
/// The name is unknown, in Go's words.
pub(super) async fn host(host: &str, port: u16) -> Result<SocketAddr, String> {
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) => lookup(host, port).await,
    }
}

/// Ready endpoints of a port, and whether anybody keeps endpoints of the service at all.
async fn endpoints(
    core: &Arc<Core>,
    namespace: &str,
    service: &str,
    port: &str,
) -> (Vec<SocketAddr>, bool) {
    let mut found = Vec::new();
    let mut is_kept = false;
    for slice in slices(core, namespace, service).await {
        is_kept = true;
        let list = slice["endpoints"].as_array().into_iter().flatten();
        for endpoint in list.filter(|e| e["conditions"]["ready"] != false) {
            let address = endpoint["addresses"][0].as_str();
            found.extend(ports(&slice, port).filter_map(|port| socket(address?, port)));
        }
    }
    if is_kept {
        return (found, true);
    }
    let Some(endpoints) = read(core, "", "endpoints", namespace, service).await else {
        return (found, false);
    };
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            let address = address["ip"].as_str();
            found.extend(ports(subset, port).filter_map(|port| socket(address?, port)));
        }
    }
    (found, true)
}

fn ports<'a>(holder: &'a Value, name: &'a str) -> impl Iterator<Item = u16> + 'a {
    let ports = holder["ports"].as_array().into_iter().flatten();
    let named = ports.filter(move |p| p["name"].as_str().unwrap_or_default() == name);
    named.filter_map(|p| u16::try_from(p["port"].as_u64()?).ok())
}

fn socket(address: &str, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.parse().ok()?, port))
}

async fn slices(core: &Arc<Core>, namespace: &str, service: &str) -> Vec<Value> {
    let registry = core.registry();
    let Some(resource) = registry.find("discovery.k8s.io", "endpointslices") else {
        return Vec::new();
    };
    let Ok(storage) = resource.storage() else { return Vec::new() };
    let Ok(cache) = storage.cache().await else { return Vec::new() };
    let list = cache.list(Some(namespace));
    let of_service = list.iter().filter(|slice| {
        slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service)
    });
    of_service.filter_map(|slice| serde_json::from_slice(slice.stored()).ok()).collect()
}

async fn read(
    core: &Arc<Core>,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Option<Value> {
    let registry = core.registry();
    let storage = registry.find(group, resource)?.storage.clone()?;
    let entry = storage.store().get(&storage.key(namespace, name)).await.ok()??;
    serde_json::from_slice(&entry.value).ok()
}
