//! From a proxied path to an address: which node, pod or endpoint is meant.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use super::super::options::Query;
use super::{Target, Tls};
use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::server::Core;
use crate::status::{ApiError, GroupResource, StatusCause};

/// Port of the node agent where a node names none.
const KUBELET_PORT: u16 = 10250;

/// The target of a request; `None` if there is nothing to answer yet.
pub(super) async fn find(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    info: &RequestInfo,
    query: &Query,
    raw_query: Option<&str>,
) -> Result<Option<Target>, ApiError> {
    if info.subresource == "proxy" {
        return proxied(core, resource, info, raw_query).await.map(Some);
    }
    let pod = object(core, "pods", &info.namespace, &info.name).await?;
    if info.subresource == "log" {
        log_options(info, query)?;
    }
    let container = match info.subresource.as_str() {
        "portforward" => String::new(),
        _ => container(&pod, info, query)?,
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return match info.subresource.as_str() {
            "log" => Ok(None),
            _ => Err(ApiError::BadRequest(format!(
                "pod {} does not have a host assigned",
                info.name
            ))),
        };
    }
    let (address, host) = kubelet(core, node).await.map_err(|error| match error {
        // Upstream names the missing node as if it were the pod.
        ApiError::NotFound { name, .. } => {
            ApiError::NotFound { resource: GroupResource::new("", "pods"), name }
        }
        other => other,
    })?;
    let path = kubelet_path(info, &container, raw_query);
    Ok(Some(Target { address, host, path, tls: Tls::Kubelet }))
}

/// Path and query that the node agent understands.
fn kubelet_path(info: &RequestInfo, container: &str, raw_query: Option<&str>) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(raw_query.unwrap_or_default().as_bytes()) {
        let on = matches!(value.as_ref(), "true" | "1");
        match (info.subresource.as_str(), key.as_ref()) {
            (_, "container") => (),
            ("exec" | "attach", "stdin" | "stdout" | "stderr") => {
                let name = match key.as_ref() {
                    "stdin" => "input",
                    "stdout" => "output",
                    _ => "error",
                };
                if on {
                    out.append_pair(name, "1");
                }
            }
            ("exec" | "attach", "tty") => {
                if on {
                    out.append_pair("tty", "1");
                }
            }
            ("portforward", "ports") => {
                out.append_pair("port", &value);
            }
            _ => {
                out.append_pair(&key, &value);
            }
        }
    }
    let verb = match info.subresource.as_str() {
        "log" => "containerLogs",
        "portforward" => "portForward",
        other => other,
    };
    let query = out.finish();
    let query = if query.is_empty() { query } else { format!("?{query}") };
    let tail = if container.is_empty() { String::new() } else { format!("/{container}") };
    format!("/{verb}/{}/{}{tail}{query}", info.namespace, info.name)
}

fn log_options(info: &RequestInfo, query: &Query) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(n) = query.integer(name)?.filter(|n| *n < least) {
            let rule = if least == 0 { "greater than or equal to 0" } else { "greater than 0" };
            let text = format!("Invalid value: {n}: must be {rule}");
            causes.push(StatusCause::new("FieldValueInvalid", name, text));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let text =
            "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned();
        causes.push(StatusCause::new("FieldValueForbidden", "", text));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        kind: GroupResource::new("", "PodLogOptions"),
        name: info.name.clone(),
        causes,
    })
}

/// The container that is meant: the only one, the default one, or the one that was named.
fn container(pod: &Value, info: &RequestInfo, query: &Query) -> Result<String, ApiError> {
    let names = |key: &str| -> Vec<String> {
        let containers = pod["spec"][key].as_array().into_iter().flatten();
        containers.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init, extra) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match query.get("container") {
        Some(name) => {
            if [&main, &init, &extra].iter().any(|list| list.iter().any(|n| n == name)) {
                return Ok(name.to_owned());
            }
            Err(ApiError::BadRequest(format!(
                "container {name} is not valid for pod {}",
                info.name
            )))
        }
        None => match (main.as_slice(), init.is_empty(), extra.is_empty()) {
            ([one], true, true) => Ok(one.clone()),
            ([], ..) => Err(ApiError::BadRequest(format!(
                "a container name must be specified for pod {}",
                info.name
            ))),
            _ => {
                let default =
                    &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
                if let Some(name) = default.as_str().filter(|n| main.iter().any(|m| m == n)) {
                    return Ok(name.to_owned());
                }
                let mut text = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    info.name,
                    main.join(" ")
                );
                if !init.is_empty() {
                    text += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                if !extra.is_empty() {
                    text += &format!(" or one of the ephemeral containers: [{}]", extra.join(" "));
                }
                Err(ApiError::BadRequest(text))
            }
        },
    }
}

async fn object(
    core: &Arc<Core>,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let registry = core.registry();
    let resource = registry.find("", resource).ok_or(ApiError::NoResource)?;
    let storage = resource.storage()?;
    let entry = storage.store().get(&storage.key(namespace, name)).await?;
    let entry = entry.ok_or_else(|| resource.not_found(name))?;
    serde_json::from_slice(&entry.value).map_err(ApiError::internal)
}

/// Address of the agent of a node, and the host name to greet it with.
async fn kubelet(core: &Arc<Core>, node: &str) -> Result<(SocketAddr, String), ApiError> {
    let node = object(core, "nodes", "", node).await?;
    let addresses: Vec<&Value> =
        node["status"]["addresses"].as_array().into_iter().flatten().collect();
    // Source: `--kubelet-preferred-address-types`, with addresses that need no resolver first.
    let find = |kind: &str| {
        addresses.iter().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str())
    };
    let preferred = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"];
    let Some(host) = preferred.iter().find_map(|kind| find(kind)) else {
        let known: Vec<String> =
            addresses.iter().map(|a| format!("{{{} {}}}", a["type"], a["address"])).collect();
        return Err(ApiError::Unknown(format!(
            "no preferred addresses found; known addresses: [{}]",
            known.join(" ").replace('"', "")
        )));
    };
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(KUBELET_PORT);
    Ok((resolve(host, port).await?, host.to_owned()))
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr, ApiError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let unknown = || {
        ApiError::Unavailable(format!("error trying to reach service: lookup {host}: no such host"))
    };
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|_| unknown())?;
    found.next().ok_or_else(unknown)
}

/// Targets of `…/proxy`: a node's agent, a pod's port, or an endpoint of a service.
async fn proxied(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    info: &RequestInfo,
    raw_query: Option<&str>,
) -> Result<Target, ApiError> {
    let path = format!("/{}{}", info.rest, raw_query.map(|q| format!("?{q}")).unwrap_or_default());
    let (scheme, name, port) = split_name(&info.name);
    match resource.name.as_str() {
        "nodes" => {
            let (address, host) = kubelet(core, name).await?;
            let tls = if scheme == "http" { Tls::None } else { Tls::Kubelet };
            let port = port.parse().unwrap_or(address.port());
            Ok(Target { address: SocketAddr::new(address.ip(), port), host, path, tls })
        }
        "pods" => {
            let pod = object(core, "pods", &info.namespace, name).await?;
            let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            let ip = ip.ok_or_else(|| {
                ApiError::BadRequest(format!("address not allowed: pod {name} has no IP"))
            })?;
            let port = pod_port(&pod, port);
            guarded(ip, port, scheme, path)
        }
        _ => service(core, info, (scheme, name, port), path).await,
    }
}

/// `[scheme:]name[:port]`.
fn split_name(text: &str) -> (&str, &str, &str) {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", "", ""),
    }
}

fn pod_port(pod: &Value, port: &str) -> u16 {
    if let Ok(number) = port.parse() {
        return number;
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let found = if port.is_empty() { ports.next() } else { ports.find(|p| p["name"] == port) };
    found
        .and_then(|p| p["containerPort"].as_u64())
        .and_then(|p| u16::try_from(p).ok())
        .unwrap_or(80)
}

/// Refuses addresses of this machine and of the link, which no pod or endpoint has.
fn guarded(ip: IpAddr, port: u16, scheme: &str, path: String) -> Result<Target, ApiError> {
    let forbidden = match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
        }
    };
    if forbidden {
        return Err(ApiError::BadRequest("address not allowed".to_owned()));
    }
    let tls = if scheme == "https" { Tls::Anonymous } else { Tls::None };
    let address = SocketAddr::new(ip, port);
    Ok(Target { address, host: address.to_string(), path, tls })
}

async fn service(
    core: &Arc<Core>,
    info: &RequestInfo,
    (scheme, name, port): (&str, &str, &str),
    path: String,
) -> Result<Target, ApiError> {
    let none =
        || ApiError::Unavailable(format!("no endpoints available for service \"{}\"", info.name));
    let service;
    let port_name = match port.parse::<u64>() {
        Err(_) => port,
        Ok(number) => {
            service = object(core, "services", &info.namespace, name).await?;
            let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let found = ports.find(|p| p["port"] == number).ok_or_else(|| {
                ApiError::Unavailable(format!(
                    "no service port {number} found for service \"{name}\""
                ))
            })?;
            found["name"].as_str().unwrap_or_default()
        }
    };
    let endpoints = object(core, "endpoints", &info.namespace, name).await.map_err(|_| {
        ApiError::NotFound { resource: GroupResource::new("", "services"), name: name.to_owned() }
    })?;
    let mut candidates = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        for p in ports.filter(|p| p["name"].as_str().unwrap_or_default() == port_name) {
            for address in subset["addresses"].as_array().into_iter().flatten() {
                let ip = address["ip"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
                let port = p["port"].as_u64().and_then(|p| u16::try_from(p).ok());
                candidates.extend(ip.zip(port));
            }
        }
    }
    let at = if candidates.is_empty() {
        return Err(none());
    } else {
        rand::random_range(0..candidates.len())
    };
    let (ip, port) = candidates[at];
    guarded(ip, port, scheme, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_node_agent() {
        let info = |sub: &str| RequestInfo {
            namespace: "x".into(),
            name: "p".into(),
            subresource: sub.into(),
            ..RequestInfo::default()
        };
        let exec = kubelet_path(
            &info("exec"),
            "c",
            Some("container=c&stdin=true&stdout=true&tty=false&command=a&command=b"),
        );
        assert_eq!(exec, "/exec/x/p/c?input=1&output=1&command=a&command=b");
        assert_eq!(
            kubelet_path(&info("log"), "c", Some("follow=true")),
            "/containerLogs/x/p/c?follow=true"
        );
        assert_eq!(
            kubelet_path(&info("portforward"), "", Some("ports=80")),
            "/portForward/x/p?port=80"
        );
    }

    #[test]
    fn this_machine_is_no_backend() {
        assert!(guarded("127.0.0.1".parse().unwrap(), 80, "", String::new()).is_err());
        assert!(guarded("169.254.169.254".parse().unwrap(), 80, "", String::new()).is_err());
        assert!(guarded("10.0.0.1".parse().unwrap(), 80, "", String::new()).is_ok());
    }
}
