//! From a proxied path to an address: which node, pod or endpoint is meant.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use super::super::options::Query;
use super::{Manner, Target, Tls, address};
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
    let manner = if info.subresource == "log" { Manner::Log } else { Manner::Stream };
    Ok(Some(Target { address, host, path, tls: Tls::Kubelet, manner }))
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
        causes.push(StatusCause::new("FieldValueForbidden", "[]", text));
    }
    // Choosing a stream is a feature that is off.
    if query.get("stream").is_some() {
        let text = "Forbidden: may not be specified".to_owned();
        causes.push(StatusCause::new("FieldValueForbidden", "stream", text));
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
    let Some(host) = preferred(&addresses, &core.config.proxy.preferred_address_types) else {
        let known: Vec<String> =
            addresses.iter().map(|a| format!("{{{} {}}}", a["type"], a["address"])).collect();
        return Err(ApiError::Unknown(format!(
            "no preferred addresses found; known addresses: [{}]",
            known.join(" ").replace('"', "")
        )));
    };
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(KUBELET_PORT);
    let address = address::of_node(host, port, &core.config.proxy).await?;
    Ok((address, host.to_owned()))
}

/// The address of the first of these types that there is.
fn preferred<'a>(addresses: &[&'a Value], types: &[String]) -> Option<&'a str> {
    types.iter().find_map(|kind| {
        let found = addresses.iter().find(|address| address["type"] == kind.as_str())?;
        found["address"].as_str()
    })
}

/// What is asked of a target of `…/proxy`.
struct Place {
    /// Path, without a leading slash if none was asked for, and query.
    path: String,
    manner: Manner,
}

impl Place {
    fn new(info: &RequestInfo, raw_query: Option<&str>) -> Self {
        let query = raw_query.map(|q| format!("?{q}")).unwrap_or_default();
        let is_root = info.rest.is_empty() && !info.path.ends_with('/');
        let path = if is_root { query } else { format!("/{}{query}", info.rest) };
        let prefix = info.path.strip_suffix(&info.rest).unwrap_or(&info.path);
        let prefix = prefix.trim_end_matches('/').to_owned();
        Self { path, manner: Manner::Content { prefix } }
    }
}

/// Targets of `…/proxy`: a node's agent, a pod's port, or an endpoint of a service.
async fn proxied(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    info: &RequestInfo,
    raw_query: Option<&str>,
) -> Result<Target, ApiError> {
    let place = Place::new(info, raw_query);
    let (scheme, name, port) = split_name(&info.name).ok_or_else(|| {
        let kind = resource.name.trim_end_matches('s');
        ApiError::BadRequest(format!("invalid {kind} request {:?}", info.name))
    })?;
    match resource.name.as_str() {
        "nodes" => node(core, (scheme, name, port), place).await,
        "pods" => {
            let pod = object(core, "pods", &info.namespace, name).await?;
            let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            let ip = ip.ok_or_else(|| ApiError::BadRequest("address not allowed".to_owned()))?;
            target(ip, pod_port(&pod, port), scheme, place)
        }
        _ => service(core, info, (scheme, name, port), place).await,
    }
}

/// A node's agent; or another port of the node, which is not shown who we are.
///
/// Source: `ResourceLocation` in upstream `pkg/registry/core/node/strategy.go`.
async fn node(
    core: &Arc<Core>,
    (scheme, name, port): (&str, &str, &str),
    Place { path, manner }: Place,
) -> Result<Target, ApiError> {
    let (agent, host) = kubelet(core, name).await?;
    if port.is_empty() || port == agent.port().to_string() {
        return Ok(Target { address: agent, host, path, tls: Tls::Kubelet, manner });
    }
    let number = port.parse().map_err(|_| {
        ApiError::Unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"
        ))
    })?;
    let tls = if scheme == "https" { Tls::Anonymous } else { Tls::None };
    Ok(Target { address: SocketAddr::new(agent.ip(), number), host, path, tls, manner })
}

/// `[scheme:]name[:port]`; `None` for anything else.
///
/// Source: `SplitSchemeNamePort` in upstream `apimachinery/pkg/util/net/port_split.go`.
fn split_name(text: &str) -> Option<(&str, &str, &str)> {
    let (scheme, name, port) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let is_known = matches!(scheme, "" | "http" | "https");
    (is_known && !name.is_empty()).then_some((scheme, name, port))
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

/// Pods and endpoints: told nothing about us, and anybody may answer.
fn target(ip: IpAddr, port: u16, scheme: &str, place: Place) -> Result<Target, ApiError> {
    let tls = if scheme == "https" { Tls::Anonymous } else { Tls::None };
    let address = SocketAddr::new(address::of_pod(ip)?, port);
    Ok(Target { address, host: address.to_string(), path: place.path, tls, manner: place.manner })
}

async fn service(
    core: &Arc<Core>,
    info: &RequestInfo,
    (scheme, name, port): (&str, &str, &str),
    place: Place,
) -> Result<Target, ApiError> {
    let none =
        || ApiError::Unavailable(format!("no endpoints available for service \"{}\"", info.name));
    let port_name = match port.parse::<u64>() {
        Err(_) => port.to_owned(),
        Ok(number) => port_of_service(core, info, name, number).await?,
    };
    let endpoints = object(core, "endpoints", &info.namespace, name).await.map_err(|_| {
        ApiError::NotFound { resource: GroupResource::new("", "services"), name: name.to_owned() }
    })?;
    let mut candidates = candidates(&endpoints, &port_name);
    // At random, until one is found to be a pod.
    while !candidates.is_empty() {
        let (endpoint, port) = candidates.swap_remove(rand::random_range(0..candidates.len()));
        if let Some(ip) = pod_at(core, &info.namespace, endpoint).await {
            return target(ip, port, scheme, place);
        }
    }
    Err(none())
}

async fn port_of_service(
    core: &Arc<Core>,
    info: &RequestInfo,
    name: &str,
    number: u64,
) -> Result<String, ApiError> {
    let service = object(core, "services", &info.namespace, name).await?;
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|p| p["port"] == number).ok_or_else(|| {
        ApiError::Unavailable(format!("no service port {number} found for service \"{name}\""))
    })?;
    Ok(found["name"].as_str().unwrap_or_default().to_owned())
}

/// Addresses of an Endpoints object that have a port of that name.
fn candidates<'a>(endpoints: &'a Value, port_name: &str) -> Vec<(&'a Value, u16)> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        for p in ports.filter(|p| p["name"].as_str().unwrap_or_default() == port_name) {
            let Some(port) = p["port"].as_u64().and_then(|p| u16::try_from(p).ok()) else {
                continue;
            };
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            found.extend(addresses.map(|address| (address, port)));
        }
    }
    found
}

/// The address of an endpoint, if a pod of the namespace has it: whoever may write Endpoints could else
/// send this server anywhere.
///
/// Source: `isValidAddress` in upstream `pkg/registry/core/service/storage/storage.go`.
async fn pod_at(core: &Arc<Core>, namespace: &str, endpoint: &Value) -> Option<IpAddr> {
    let of = &endpoint["targetRef"];
    if of["namespace"] != *namespace {
        return None;
    }
    let pod = object(core, "pods", namespace, of["name"].as_str()?).await.ok()?;
    let mut ips = pod["status"]["podIPs"].as_array()?.iter();
    ips.find(|ip| ip["ip"] == endpoint["ip"])?["ip"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn agents_are_at_the_preferred_address() {
        let addresses = [
            json!({"type": "Hostname", "address": "a"}),
            json!({"type": "InternalIP", "address": "10.0.0.1"}),
        ];
        let addresses: Vec<&Value> = addresses.iter().collect();
        let types = |types: &[&str]| types.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let check = |list: &[&str], expected| {
            assert_eq!(preferred(&addresses, &types(list)), expected);
        };
        check(&["InternalIP", "Hostname"], Some("10.0.0.1"));
        check(&["ExternalIP", "Hostname", "InternalIP"], Some("a"));
        check(&["ExternalDNS"], None);
    }

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
    fn names_of_proxied_objects() {
        let cases = [
            ("a", Some(("", "a", ""))),
            ("a:http", Some(("", "a", "http"))),
            ("https:a:443", Some(("https", "a", "443"))),
            ("https:a:", Some(("https", "a", ""))),
            ("ftp:a:1", None),
            (":80", None),
            ("a:b:c:d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(split_name(text), expected, "{text}");
        }
    }

    #[test]
    fn places_below_a_proxy() {
        let place = |path: &str, query| {
            let info = RequestInfo::parse(&http::Method::GET, path, query);
            let Place { path, manner } = Place::new(&info, query);
            let Manner::Content { prefix } = manner else { panic!("{manner:?}") };
            (path, prefix)
        };
        let of = "/api/v1/namespaces/x/pods/p/proxy";
        let cases = [
            ("", None, ""),
            ("", Some("a=b"), "?a=b"),
            ("/", None, "/"),
            ("/a%2Fb/", Some("c"), "/a%2Fb/?c"),
        ];
        for (rest, query, expected) in cases {
            let seen = place(&format!("{of}{rest}"), query);
            assert_eq!(seen, (expected.to_owned(), of.to_owned()), "{rest}");
        }
    }
}
